/*
 * deploy_pairs.c - nd-bench-deploy: our deploy and a bare loop on the Docker socket, turn by turn.
 *
 *   nd-bench-deploy --api SOCKET --docker SOCKET --front PORT --bare-front PORT --ours FILE
 *                   --bare FILE --rules FILE --addresses A,B --app NAME --name PREFIX --pairs N
 *
 * One of ours: POST the body of FILE to /deploy. One of the bare loop: create, start, ask the
 * container until it is ready (the daemon's pace: at once, then after 20 ms, 30 ms, ...), one
 * iptables-restore that moves a service address. Nothing else: no journal, no worker, no database.
 * The time ends when the new version answers at the front door, the same kind of Caddy for both,
 * where a thread asks every 2 ms from the beginning. The old container goes outside of the time.
 * "@VERSION@" and "@ADDRESS@" in a file are filled in.
 *
 * Prints a line a pair, "ours bare" in milliseconds with three decimals; tests/bench/deploy reads
 * them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../load/client.h"

enum { TEXT_MOST = 256 * 1024, PATIENCE_MS = 30000 };

extern char **environ;

struct bench {
    const char *api, *docker;        /* paths of unix sockets */
    const char *ours, *bare, *rules; /* texts with @VERSION@ and so on */
    const char *addresses[2];        /* the bare loop's containers, in turn */
    int front, bare_front;           /* ports on 127.0.0.1 */
    int pairs;
    char app[128];    /* its name, of the body of `ours` */
    const char *name; /* the bare loop's containers are NAME-1, NAME-2, ... */
    int run;          /* makes versions unique */
    char last[160];   /* the bare loop's live container, "" at first */
};

static void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("nd-bench-deploy: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static double ms_since(uint64_t begun)
{
    return (double)(now_ns() - begun) / 1e6;
}

static void pause_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};

    nanosleep(&t, NULL);
}

static char *read_text(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = calloc(1, TEXT_MOST);

    if (file == NULL || text == NULL || fread(text, 1, TEXT_MOST - 1, file) == 0)
        die("can't read %s: %s", path, strerror(errno));
    fclose(file);
    return text;
}

/* Copies `text` with each "@NAME@" replaced; pairs of name and value follow, ended by NULL. */
static char *fill(const char *text, ...)
{
    char *out = malloc(2 * TEXT_MOST);
    size_t n = 0;

    while (*text != '\0') {
        const char *name, *value = NULL;
        va_list args;

        va_start(args, text);
        while (*text == '@' && (name = va_arg(args, const char *)) != NULL) {
            const char *with = va_arg(args, const char *);
            size_t length = strlen(name);

            if (strncmp(text + 1, name, length) == 0 && text[length + 1] == '@') {
                value = with;
                text += length + 2;
                break;
            }
        }
        va_end(args);
        if (value != NULL)
            n += (size_t)sprintf(out + n, "%s", value);
        else
            out[n++] = *text++;
    }
    out[n] = '\0';
    return out;
}

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("can't connect to %s: %s", path, strerror(errno));
    return fd;
}

static int connect_tcp(const char *host, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    inet_pton(AF_INET, host, &address.sin_addr);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* One request on `fd`; its status, or -1 when the connection ended. `answer` keeps the body. */
static int ask(int fd, const char *method, const char *path, const char *host, const char *body,
               struct answer *a, char *in)
{
    char head[2048];
    size_t length = 0;
    size_t size = body != NULL ? strlen(body) : 0;
    int n = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n",
                     method, path, host, size);

    if (send(fd, head, (size_t)n, MSG_NOSIGNAL) != n ||
        (size > 0 && send(fd, body, size, MSG_NOSIGNAL) != (ssize_t)size))
        return -1;
    for (;;) {
        ssize_t got = recv(fd, in + length, TEXT_MOST - 1 - length, 0);

        if (got <= 0)
            return -1;
        length += (size_t)got;
        in[length] = '\0';
        answer_read(in, length, a);
        if (a->malformed)
            die("%s %s: malformed answer", method, path);
        if (a->whole || a->status == 204 || a->status == 304)
            return a->status;
    }
}

static int call(const char *socket_path, const char *method, const char *path, const char *body,
                char *in)
{
    struct answer a;
    int fd = connect_unix(socket_path);
    int status = ask(fd, method, path, "localhost", body, &a, in);

    close(fd);
    return status;
}

/* Who asks at a front door until a version answers, beside whatever deploys it. */
struct watch {
    pthread_t thread;
    int port;
    const char *version;
    uint64_t begun; /* ns, monotonic */
    double took;    /* ms */
};

static void *watch_run(void *arg)
{
    struct watch *w = arg;
    char *in = malloc(TEXT_MOST);
    int fd = -1;

    for (;;) {
        struct answer a;

        if (fd < 0)
            fd = connect_tcp("127.0.0.1", w->port);
        if (fd >= 0 && ask(fd, "GET", "/", "bench.test", NULL, &a, in) < 0) {
            close(fd);
            fd = -1;
        } else if (fd >= 0 && strcmp(a.version, w->version) == 0) {
            break;
        }
        if (ms_since(w->begun) > PATIENCE_MS)
            die("version %s never answered on port %d", w->version, w->port);
        pause_ms(2);
    }
    w->took = ms_since(w->begun);
    close(fd);
    free(in);
    return NULL;
}

static void watch_start(struct watch *w, int port, const char *version)
{
    w->port = port;
    w->version = version;
    w->begun = now_ns();
    if (pthread_create(&w->thread, NULL, watch_run, w) != 0)
        die("can't start a thread");
}

static double watch_end(struct watch *w)
{
    pthread_join(w->thread, NULL);
    return w->took;
}

/* The recipe has ended and the old release is gone, so that the next turn has the host to itself.
 */
static void await_idle(struct bench *b, char *in)
{
    char path[256];
    uint64_t begun = now_ns();

    snprintf(path, sizeof path, "/apps/%s", b->app);
    for (;;) {
        struct answer a;
        int fd = connect_unix(b->api);
        int status = ask(fd, "GET", path, "localhost", NULL, &a, in);
        const char *body = status == 200 ? a.body : "";

        close(fd);
        if (strstr(body, "\"status\":\"running\"") != NULL &&
            strstr(body, "\"state\":\"draining\"") == NULL)
            return;
        if (ms_since(begun) > PATIENCE_MS)
            die("the app never came to rest: %.600s", in);
        pause_ms(5);
    }
}

static double deploy_ours(struct bench *b, int turn, char *in)
{
    struct watch watch;
    char version[32];
    char *body;
    double took;
    int status;

    snprintf(version, sizeof version, "o%d.%d", b->run, turn);
    body = fill(b->ours, "VERSION", version, NULL);
    watch_start(&watch, b->front, version);
    status = call(b->api, "POST", "/deploy", body, in);
    if (status / 100 != 2)
        die("POST /deploy: %d %.600s", status, in);
    took = watch_end(&watch);
    free(body);
    await_idle(b, in);
    return took;
}

static void await_ready(const char *address, char *in)
{
    long wait = 20;

    for (int i = 0; i < 40; i++) {
        struct answer a;
        int fd = connect_tcp(address, 8080);
        int status = fd >= 0 ? ask(fd, "GET", "/", address, NULL, &a, in) : -1;

        if (fd >= 0)
            close(fd);
        if (status == 200)
            return;
        pause_ms(wait);
        wait = wait * 3 / 2 < 1000 ? wait * 3 / 2 : 1000;
    }
    die("%s never became ready", address);
}

static void restore(const char *rules)
{
    char *argv[] = {"iptables-restore", "--noflush", "--wait", NULL};
    posix_spawn_file_actions_t actions;
    int ends[2];
    pid_t pid;
    int status;

    if (pipe(ends) < 0)
        die("pipe: %s", strerror(errno));
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[0], 0);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    if (posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ) != 0)
        die("can't run iptables-restore");
    posix_spawn_file_actions_destroy(&actions);
    close(ends[0]);
    if (write(ends[1], rules, strlen(rules)) < 0)
        die("iptables-restore: %s", strerror(errno));
    close(ends[1]);
    if (waitpid(pid, &status, 0) != pid || status != 0)
        die("iptables-restore failed with status %d", status);
}

static double deploy_bare(struct bench *b, int turn, char *in)
{
    const char *address = b->addresses[turn % 2];
    char version[32], name[160], path[256];
    struct watch watch;
    char *body, *rules;
    double took;
    int status;

    snprintf(version, sizeof version, "b%d.%d", b->run, turn);
    snprintf(name, sizeof name, "%s-%d", b->name, turn);
    body = fill(b->bare, "VERSION", version, "ADDRESS", address, NULL);
    rules = fill(b->rules, "ADDRESS", address, NULL);
    watch_start(&watch, b->bare_front, version);
    snprintf(path, sizeof path, "/containers/create?name=%s", name);
    status = call(b->docker, "POST", path, body, in);
    if (status != 201)
        die("create: %d %.600s", status, in);
    snprintf(path, sizeof path, "/containers/%s/start", name);
    status = call(b->docker, "POST", path, NULL, in);
    if (status != 204)
        die("start: %d %.600s", status, in);
    await_ready(address, in);
    restore(rules);
    took = watch_end(&watch);
    if (b->last[0] != '\0') {
        snprintf(path, sizeof path, "/containers/%s/stop?t=5", b->last);
        call(b->docker, "POST", path, NULL, in);
        snprintf(path, sizeof path, "/containers/%s?force=1", b->last);
        call(b->docker, "DELETE", path, NULL, in);
    }
    snprintf(b->last, sizeof b->last, "%s", name);
    free(body);
    free(rules);
    return took;
}

static void configure(struct bench *b, int argc, char **argv)
{
    static const struct option options[] = {
        {"api", 1, NULL, 'a'},   {"docker", 1, NULL, 'd'}, {"front", 1, NULL, 'f'},
        {"ours", 1, NULL, 'o'},  {"bare", 1, NULL, 'b'},   {"bare-front", 1, NULL, 'g'},
        {"rules", 1, NULL, 'r'}, {"pairs", 1, NULL, 'p'},  {"addresses", 1, NULL, 'i'},
        {"app", 1, NULL, 'n'},   {"name", 1, NULL, 'c'},   {0}};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'a':
            b->api = optarg;
            break;
        case 'd':
            b->docker = optarg;
            break;
        case 'f':
            b->front = atoi(optarg);
            break;
        case 'g':
            b->bare_front = atoi(optarg);
            break;
        case 'o':
            b->ours = read_text(optarg);
            break;
        case 'b':
            b->bare = read_text(optarg);
            break;
        case 'r':
            b->rules = read_text(optarg);
            break;
        case 'p':
            b->pairs = atoi(optarg);
            break;
        case 'n':
            snprintf(b->app, sizeof b->app, "%s", optarg);
            break;
        case 'c':
            b->name = optarg;
            break;
        case 'i':
            b->addresses[0] = strtok(optarg, ",");
            b->addresses[1] = strtok(NULL, ",");
            break;
        default:
            exit(2);
        }
    }
    if (b->api == NULL || b->docker == NULL || b->ours == NULL || b->bare == NULL ||
        b->rules == NULL || b->addresses[1] == NULL || b->pairs < 1 || b->name == NULL ||
        b->app[0] == '\0')
        die("every option is needed; tests/bench/deploy gives them");
}

int main(int argc, char **argv)
{
    static char in[TEXT_MOST];
    struct bench b = {.run = (int)getpid()};

    configure(&b, argc, argv);
    deploy_ours(&b, 0, in); /* the first of each warms up */
    deploy_bare(&b, 0, in);
    for (int i = 1; i <= b.pairs; i++) {
        double ours, bare;

        /* In turn who goes first. */
        if (i % 2 == 0) {
            ours = deploy_ours(&b, i, in);
            bare = deploy_bare(&b, i, in);
        } else {
            bare = deploy_bare(&b, i, in);
            ours = deploy_ours(&b, i, in);
        }
        printf("%.3f %.3f\n", ours, bare);
        fflush(stdout);
    }
    return 0;
}
