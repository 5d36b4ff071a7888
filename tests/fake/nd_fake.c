/*
 * nd_fake.c - an HTTP server on a unix socket that misbehaves as told.
 *
 * `nd-fake SOCKET SCRIPT` prints "ready" and serves until its stdin ends. SCRIPT is read anew for
 * each request, so that a test rewrites it between two calls. It has blocks, each of a line `on
 * METHOD PATH` (`on * *` matches all; the first block that matches is used; a leading /v1.41 of the
 * request's path is ignored, PATH is a prefix) and its steps, one a line:
 *
 *   send TEXT               as it is, with \r \n \0 \\ \xHH
 *   reply STATUS TYPE TEXT  a whole good answer; the connection is kept
 *   json STATUS TEXT        the same, of type application/json
 *   drip MS TEXT            a byte each MS
 *   flood N TEXT            N times
 *   wait MS
 *   hang                    until the peer leaves
 *   keep                    stay connected after the block, whose end closes otherwise
 *   close
 *
 * A script whose first line is `unread` closes with each request unread, which resets.
 *
 * Each request's head goes to SCRIPT.log, for tests that look at what was asked.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 65536, SCRIPT_MAX = 1 << 20 };

static const char *script_path;

struct text {
    char *data; /* owned */
    size_t length;
};

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static bool send_all(int fd, const char *data, size_t length)
{
    while (length) {
        ssize_t n = send(fd, data, length, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        data += n;
        length -= (size_t)n;
    }
    return true;
}

static struct text unescape(const char *from)
{
    struct text out = {malloc(strlen(from) + 1), 0};

    while (*from) {
        char c = *from++;

        if (c == '\\' && *from) {
            c = *from++;
            if (c == 'x') {
                char hex[3] = {from[0], from[0] ? from[1] : '\0', '\0'};

                from += strlen(hex);
                c = (char)strtol(hex, NULL, 16);
            } else {
                c = c == 'r' ? '\r' : c == 'n' ? '\n' : c == '0' ? '\0' : c;
            }
        }
        out.data[out.length++] = c;
    }
    return out;
}

static void hang(int fd)
{
    char waste[4096];

    while (recv(fd, waste, sizeof waste, 0) > 0)
        ;
}

static bool reply(int fd, const char *arg, bool json)
{
    int status = 200, used = 0;
    char type[64] = "application/json";
    char head[256];
    struct text body;
    bool ok;

    if (json)
        sscanf(arg, "%d%n", &status, &used);
    else
        sscanf(arg, "%d %63s%n", &status, type, &used);
    body = unescape(arg[used] ? arg + used + 1 : "");
    snprintf(
        head, sizeof head,
        "HTTP/1.1 %d X\r\nApi-Version: 1.41\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
        status, type, body.length);
    ok = send_all(fd, head, strlen(head)) && send_all(fd, body.data, body.length);
    free(body.data);
    return ok;
}

static bool drip(int fd, const char *arg)
{
    int ms = 0, used = 0;
    struct text text;
    bool ok = true;

    sscanf(arg, "%d %n", &ms, &used);
    text = unescape(arg + used);
    for (size_t i = 0; ok && i < text.length; i++) {
        ok = send_all(fd, text.data + i, 1);
        pause_ms(ms);
    }
    free(text.data);
    return ok;
}

static bool flood(int fd, const char *arg)
{
    long count = 0;
    int used = 0;
    struct text text;
    bool ok = true;

    sscanf(arg, "%ld %n", &count, &used);
    text = unescape(arg + used);
    while (ok && count-- > 0)
        ok = send_all(fd, text.data, text.length);
    free(text.data);
    return ok;
}

/* Does one step; false: the connection is to be closed. */
static bool step(int fd, const char *line, bool *keep)
{
    char verb[16] = "";
    int used = 0;
    bool ok = true;

    sscanf(line, "%15s %n", verb, &used);
    line += used;
    if (!strcmp(verb, "send")) {
        struct text text = unescape(line);

        ok = send_all(fd, text.data, text.length);
        free(text.data);
    } else if (!strcmp(verb, "reply") || !strcmp(verb, "json")) {
        ok = *keep = reply(fd, line, *verb == 'j');
    } else if (!strcmp(verb, "wait")) {
        pause_ms(atol(line));
    } else if (!strcmp(verb, "drip")) {
        ok = drip(fd, line);
    } else if (!strcmp(verb, "flood")) {
        ok = flood(fd, line);
    } else if (!strcmp(verb, "hang")) {
        hang(fd);
        ok = false;
    } else if (!strcmp(verb, "keep")) {
        *keep = true;
    } else {
        ok = false;
    }
    return ok;
}

static bool matches(const char *block, const char *method, const char *path)
{
    char want_method[16] = "", want_path[512] = "";

    sscanf(block, "on %15s %511s", want_method, want_path);
    return (!strcmp(want_method, "*") || !strcmp(want_method, method)) &&
           (!strcmp(want_path, "*") || !strncmp(want_path, path, strlen(want_path)));
}

static char *read_script(void)
{
    char *script = calloc(1, SCRIPT_MAX);
    FILE *file = fopen(script_path, "r");

    if (file) {
        if (fread(script, 1, SCRIPT_MAX - 1, file) == 0)
            script[0] = '\0';
        fclose(file);
    }
    return script;
}

/* Waits for a request and tells whether it is to be left unread. */
static bool leave_unread(int fd)
{
    char byte;
    char *script;
    bool leave;

    if (recv(fd, &byte, 1, MSG_PEEK) <= 0)
        return true;
    script = read_script();
    leave = !strncmp(script, "unread", 6);
    free(script);
    return leave;
}

/* Finds the block for a request and does its steps; false: close. */
static bool perform(int fd, const char *method, const char *path)
{
    char *script = read_script();
    bool in_block = false, keep = false, ok = true;
    char *line, *rest = script;

    while (ok && (line = strsep(&rest, "\n"))) {
        if (!strncmp(line, "on ", 3)) {
            if (in_block)
                break;
            in_block = matches(line, method, path);
        } else if (in_block && *line) {
            ok = step(fd, line, &keep);
        }
    }
    free(script);
    return ok && keep;
}

static void log_head(const char *head, size_t length)
{
    char path[512];
    FILE *file;

    snprintf(path, sizeof path, "%s.log", script_path);
    file = fopen(path, "a");
    if (!file)
        return;
    fwrite(head, 1, length, file);
    fclose(file);
}

/* Reads a head and, by its Content-Length, the body behind it. */
static bool read_request(int fd, char *head)
{
    size_t have = 0;
    char *end = NULL;
    const char *field;
    size_t need;

    while (!end && have < HEAD_MAX) {
        ssize_t n = recv(fd, head + have, HEAD_MAX - have, 0);

        if (n <= 0)
            return false;
        have += (size_t)n;
        head[have] = '\0';
        end = strstr(head, "\r\n\r\n");
    }
    if (!end)
        return false;
    log_head(head, (size_t)(end + 4 - head));
    field = strcasestr(head, "\r\nContent-Length:");
    need = field && field < end ? strtoul(field + 17, NULL, 10) : 0;
    for (have -= (size_t)(end + 4 - head); have < need;) {
        char waste[16384];
        ssize_t n = recv(fd, waste, need - have < sizeof waste ? need - have : sizeof waste, 0);

        if (n <= 0)
            return false;
        have += (size_t)n;
    }
    return true;
}

static void *serve(void *arg)
{
    int fd = (int)(long)arg;
    char *head = malloc(HEAD_MAX + 1);
    char method[16], path[1024];

    while (!leave_unread(fd) && read_request(fd, head) &&
           sscanf(head, "%15s %1023s", method, path) == 2) {
        const char *p = path;

        if (!strncmp(p, "/v1.", 4))
            p = strchr(p + 4, '/') ? strchr(p + 4, '/') : p;
        if (!perform(fd, method, p))
            break;
    }
    free(head);
    close(fd);
    return NULL;
}

static void *accept_all(void *arg)
{
    int listener = (int)(long)arg;

    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t thread;

        if (fd < 0)
            return NULL;
        if (pthread_create(&thread, NULL, serve, (void *)(long)fd) == 0)
            pthread_detach(thread);
        else
            close(fd);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pthread_t thread;
    char waste[256];

    if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path) {
        fputs("usage: nd-fake SOCKET SCRIPT\n", stderr);
        return 2;
    }
    script_path = argv[2];
    strcpy(address.sun_path, argv[1]);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 128) < 0 ||
        pthread_create(&thread, NULL, accept_all, (void *)(long)listener)) {
        perror("nd-fake");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    while (read(STDIN_FILENO, waste, sizeof waste) > 0)
        ;
    unlink(argv[1]);
    return 0;
}
