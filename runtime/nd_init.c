/*
 * nd_init.c - the first program of an app's container: secrets into the environment, then execve.
 *
 *   nd-init run -- ENTRYPOINT ARG...   what the daemon sets as a container's entrypoint
 *   nd-init exec -- COMMAND ARG...     the same environment for probes and `ndctl exec`
 *   nd-init version
 *
 * The daemon mounts a tmpfs directory read-only at /run/secrets. Its file .nextdeploy is the
 * manifest: the line "nextdeploy 1", then a line "NAME env|file|both" for each secret, whose value
 * is the file NAME beside it. `env` and `both` become environment variables; for `file` it is only
 * proved that the file can be read.
 *
 * Fail closed: without the whole manifest and every value nothing is started (exit 78). A program
 * that can't be executed ends with 127 (no such program) or 126 (it is there and can't run), and a
 * message that says which of the many reasons behind ENOENT and EACCES it was. The search follows
 * the container's PATH as execvp does; files without "#!" are reported, not fed to a shell.
 *
 * Static, without allocation and without anything to override; it runs in images that hold nothing
 * else, as any user, with a read-only root and no capabilities, and is gone once execve succeeds.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef ND_VERSION
#define ND_VERSION "unknown"
#endif

#define SECRETS "/run/secrets"
#define MANIFEST SECRETS "/.nextdeploy"

enum {
    EXIT_CANNOT_RUN = 126,
    EXIT_NOT_FOUND = 127,
    EXIT_CONFIG = 78,    /* EX_CONFIG of sysexits.h */
    NAME_SIZE = 256,     /* bytes of a secret's name, the NUL included */
    SECRETS_MOST = 1024, /* lines in a manifest */
    MANIFEST_SIZE = 512 * 1024,
    STRING_SIZE = 32 * 4096,      /* MAX_ARG_STRLEN of the kernel: "NAME=value" and its NUL */
    ARENA_SIZE = 6 * 1024 * 1024, /* the kernel takes at most 6 MiB of strings (3/4 of 8 MiB) */
    ENV_MOST = 8192
};

extern char **environ;

/* In .bss: pages that are never touched cost nothing. */
static char manifest[MANIFEST_SIZE + 1];
static char arena[ARENA_SIZE]; /* "NAME=value" strings, one after another */
static size_t arena_used;      /* bytes */
static char *environment[ENV_MOST + SECRETS_MOST + 1];
static size_t environment_count;

#define SAY(...) dprintf(STDERR_FILENO, "nd-init: " __VA_ARGS__)

/* Overwrites every secret byte we hold; the barrier keeps the compiler from leaving it out. */
static void forget(void)
{
    memset(arena, 0, arena_used);
    __asm__ __volatile__("" : : "r"(arena) : "memory");
    arena_used = 0;
}

static int fail_closed(void)
{
    forget();
    SAY("nothing was started: an app never runs without its secrets\n");
    return EXIT_CONFIG;
}

static bool name_valid(const char *name)
{
    if (name[0] == '\0' || strlen(name) >= NAME_SIZE)
        return false;
    for (const char *p = name; *p != '\0'; p++) {
        bool letter = (*p >= 'A' && *p <= 'Z') || (*p >= 'a' && *p <= 'z') || *p == '_';

        if (!letter && !(p > name && *p >= '0' && *p <= '9'))
            return false;
    }
    return true;
}

/* Reads the whole of `path`, at most `size` bytes; the number read, or -1 with errno (EFBIG when
 * there is more). */
static ssize_t read_file(const char *path, char *out, size_t size)
{
    size_t length = 0;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && !S_ISREG(st.st_mode)) {
        close(fd);
        errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
        return -1;
    }
    for (;;) {
        char more;
        ssize_t n = length < size ? read(fd, out + length, size - length) : read(fd, &more, 1);

        if (n < 0 && errno == EINTR)
            continue;
        if (n > 0 && length == size) {
            n = -1;
            errno = EFBIG;
        }
        if (n <= 0) {
            int number = errno;

            close(fd);
            errno = number;
            return n < 0 ? -1 : (ssize_t)length;
        }
        length += (size_t)n;
    }
}

static void environment_set(char *pair)
{
    size_t name = (size_t)(strchr(pair, '=') - pair) + 1;

    for (size_t i = 0; i < environment_count; i++) {
        if (strncmp(environment[i], pair, name) == 0) {
            environment[i] = pair;
            return;
        }
    }
    environment[environment_count++] = pair;
}

static void say_unreadable(const char *name, int number)
{
    if (number == ENOENT)
        SAY("the secret %s is named in " MANIFEST ", but its value " SECRETS "/%s is missing\n"
            "nd-init: remedy: `ndctl restart APP` puts the secrets back (after a reboot start apps "
            "so, never by `docker start`)\n",
            name, name);
    else if (number == EACCES || number == EPERM)
        SAY("can't read the secret %s (" SECRETS "/%s) as uid %d gid %d: %s\n"
            "nd-init: remedy: the image's USER must be able to read it: deploy again, so that the "
            "file gets the right owner\n",
            name, name, (int)geteuid(), (int)getegid(), strerror(number));
    else
        SAY("can't read the secret %s (" SECRETS "/%s): %s\n"
            "nd-init: remedy: `ndctl restart APP` writes the secrets again\n",
            name, name, strerror(number));
}

/* Puts "NAME=value" into the environment; false after saying why not. */
static bool secret_to_env(const char *name)
{
    char path[sizeof SECRETS + 1 + NAME_SIZE];
    char *pair = arena + arena_used;
    size_t prefix = strlen(name) + 1;
    size_t room = sizeof arena - arena_used;
    ssize_t length;

    if (room < STRING_SIZE) {
        SAY("the secrets that go into the environment are more than %d MiB together, the most the "
            "kernel passes to a program\n"
            "nd-init: remedy: deliver large ones as files (`--secret NAME:file`)\n",
            ARENA_SIZE / 1024 / 1024);
        return false;
    }
    snprintf(path, sizeof path, SECRETS "/%s", name);
    memcpy(pair, name, prefix - 1);
    pair[prefix - 1] = '=';
    length = read_file(path, pair + prefix, STRING_SIZE - prefix - 1);
    arena_used += prefix + (length > 0 ? (size_t)length : STRING_SIZE - prefix - 1) + 1;
    if (length < 0 && errno == EFBIG) {
        SAY("the secret %s is longer than %zu bytes, the most the kernel takes in one environment "
            "variable\n"
            "nd-init: remedy: deliver it as a file (`--secret NAME:file`); the app then "
            "reads " SECRETS "/%s\n",
            name, (size_t)STRING_SIZE - prefix - 1, name);
        return false;
    }
    if (length < 0) {
        say_unreadable(name, errno);
        return false;
    }
    if (memchr(pair + prefix, '\0', (size_t)length) != NULL) {
        SAY("the secret %s contains a zero byte, which no environment variable can hold\n"
            "nd-init: remedy: deliver it as a file (`--secret NAME:file`); the app then "
            "reads " SECRETS "/%s\n",
            name, name);
        return false;
    }
    pair[prefix + (size_t)length] = '\0';
    environment_set(pair);
    return true;
}

static bool secret_as_file(const char *name)
{
    char path[sizeof SECRETS + 1 + NAME_SIZE];
    int fd;

    snprintf(path, sizeof path, SECRETS "/%s", name);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        say_unreadable(name, errno);
        return false;
    }
    close(fd);
    return true;
}

/* One line "NAME env|file|both" (its newline already cut off). */
static bool apply_line(char *line, int number)
{
    char *how = strchr(line, ' ');

    if (how != NULL)
        *how++ = '\0';
    if (how == NULL || !name_valid(line)) {
        SAY(MANIFEST ", line %d: expected a secret's NAME and env, file or both\n"
                     "nd-init: remedy: `ndctl restart APP` writes it again\n",
            number);
        return false;
    }
    if (strcmp(how, "file") == 0)
        return secret_as_file(line);
    if (strcmp(how, "env") == 0)
        return secret_to_env(line);
    if (strcmp(how, "both") == 0)
        return secret_as_file(line) && secret_to_env(line);
    SAY(MANIFEST ", line %d: the secret %s is to be delivered as neither env, file nor both\n"
                 "nd-init: remedy: is this nd-init older than the daemon? Deploy the app again\n",
        number, line);
    return false;
}

static bool apply_manifest(void)
{
    ssize_t length = read_file(MANIFEST, manifest, MANIFEST_SIZE);
    char *line = manifest;
    int number = 1;

    if (length < 0 && errno == ENOENT) {
        SAY("there is no manifest of secrets, " MANIFEST "\n"
            "nd-init: remedy: start the app with `ndctl restart APP`, which puts its secrets in "
            "place; "
            "after a reboot `docker start` alone can't\n");
        return false;
    }
    if (length < 0) {
        SAY("can't read " MANIFEST " as uid %d gid %d: %s\n"
            "nd-init: remedy: `ndctl restart APP` writes it again\n",
            (int)geteuid(), (int)getegid(), strerror(errno));
        return false;
    }
    manifest[length] = '\0';
    if (strncmp(manifest, "nextdeploy 1\n", 13) != 0 || strlen(manifest) != (size_t)length ||
        manifest[length - 1] != '\n') {
        SAY(MANIFEST
            " is not a whole manifest of version 1 (first line \"nextdeploy 1\", every line "
            "ended)\nnd-init: remedy: `ndctl restart APP` writes it again\n");
        return false;
    }
    for (line += 13; *line != '\0'; number++) {
        char *end = strchr(line, '\n');

        *end = '\0';
        if (number > SECRETS_MOST) {
            SAY(MANIFEST " names more than %d secrets\n", SECRETS_MOST);
            return false;
        }
        if (!apply_line(line, number + 1))
            return false;
        line = end + 1;
    }
    return true;
}

/* The interpreter that the kernel would look for: of a script or of a dynamic ELF program. */
static bool interpreter_of(const char *head, size_t length, int fd, char *out, size_t size)
{
    const Elf64_Ehdr *elf = (const void *)head;

    if (length > 2 && head[0] == '#' && head[1] == '!') {
        const char *p = head + 2;
        size_t n = 0;

        while (p < head + length && (*p == ' ' || *p == '\t'))
            p++;
        while (p + n < head + length && strchr(" \t\r\n", p[n]) == NULL && n + 1 < size)
            n++;
        memcpy(out, p, n);
        out[n] = '\0';
        return n > 0;
    }
    if (length < sizeof *elf || memcmp(head, ELFMAG, SELFMAG) != 0 ||
        elf->e_ident[EI_CLASS] != ELFCLASS64)
        return false;
    for (int i = 0; i < elf->e_phnum && i < 64; i++) {
        Elf64_Phdr ph;
        off_t at = (off_t)(elf->e_phoff + (size_t)i * sizeof ph);

        if (pread(fd, &ph, sizeof ph, at) != (ssize_t)sizeof ph)
            return false;
        if (ph.p_type == PT_INTERP && ph.p_filesz > 0 && ph.p_filesz <= size) {
            if (pread(fd, out, ph.p_filesz, (off_t)ph.p_offset) != (ssize_t)ph.p_filesz)
                return false;
            out[ph.p_filesz - 1] = '\0';
            return true;
        }
    }
    return false;
}

static const char *machine_name(unsigned machine)
{
    switch (machine) {
    case EM_X86_64:
        return "x86_64";
    case EM_386:
        return "i386";
    case EM_AARCH64:
        return "arm64";
    case EM_ARM:
        return "arm";
    case EM_RISCV:
        return "riscv";
    case EM_PPC64:
        return "ppc64";
    case EM_S390:
        return "s390x";
    default:
        return "another machine";
    }
}

#if defined(__x86_64__)
enum { OUR_MACHINE = EM_X86_64 };
#elif defined(__aarch64__)
enum { OUR_MACHINE = EM_AARCH64 };
#elif defined(__riscv)
enum { OUR_MACHINE = EM_RISCV };
#else
enum { OUR_MACHINE = EM_NONE };
#endif

/* Says why the kernel took the file for no program (ENOEXEC). */
static void say_format(const char *path, const char *head, size_t length)
{
    const Elf64_Ehdr *elf = (const void *)head; /* e_machine lies at the same place in 32 bits */

    if (length >= sizeof(Elf32_Ehdr) && memcmp(head, ELFMAG, SELFMAG) == 0 &&
        elf->e_machine != OUR_MACHINE)
        SAY("can't run %s: it was built for %s, this host is %s\n"
            "nd-init: remedy: build the image for this platform (`docker build --platform`)\n",
            path, machine_name(elf->e_machine), machine_name(OUR_MACHINE));
    else if (length == 0)
        SAY("can't run %s: it is an empty file\n", path);
    else
        SAY("can't run %s: it is neither a program nor a script that begins with \"#!\"\n"
            "nd-init: remedy: name an interpreter in its first line, such as \"#!/bin/sh\"\n",
            path);
}

/* Explains why executing `path` failed with `number`; the exit status for it. */
static int explain(const char *path, int number)
{
    _Alignas(Elf64_Ehdr) char head[4096] = "";
    char interpreter[PATH_MAX] = "";
    struct stat st;
    ssize_t length = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd >= 0)
        length = pread(fd, head, sizeof head - 1, 0);
    if (number == ENOENT && fd >= 0 &&
        interpreter_of(head, length > 0 ? (size_t)length : 0, fd, interpreter, sizeof interpreter))
        SAY("can't run %s: its interpreter %s is missing in the image\n"
            "nd-init: remedy: %s\n",
            path, interpreter,
            head[0] == '#'
                ? "install it, or mend the script's first line (a carriage return at its "
                  "end also does this)"
                : "the program was linked for another C library: build it in the image's "
                  "own base, or statically");
    else if (number == ENOENT || number == ENOTDIR)
        SAY("can't run %s: there is no such file in the image\n"
            "nd-init: remedy: check the image's ENTRYPOINT and CMD (`docker inspect IMAGE`)\n",
            path);
    else if (number == EACCES && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        SAY("can't run %s: it is a directory\n", path);
    else if (number == EACCES && stat(path, &st) == 0 && (st.st_mode & 0111) == 0)
        SAY("can't run %s: it isn't executable (mode %03o)\n"
            "nd-init: remedy: `chmod +x` it in the image\n",
            path, (unsigned)st.st_mode & 0777);
    else if (number == EACCES)
        SAY("can't run %s as uid %d gid %d: permission denied\n"
            "nd-init: remedy: the image's USER needs execute permission on the file, its "
            "interpreter "
            "and every directory above, on a mount without noexec\n",
            path, (int)geteuid(), (int)getegid());
    else if (number == ENOEXEC)
        say_format(path, head, length > 0 ? (size_t)length : 0);
    else if (number == E2BIG)
        SAY("can't run %s: its arguments and environment, secrets included, are larger together "
            "than the kernel takes\n"
            "nd-init: remedy: deliver large secrets as files (`--secret NAME:file`)\n",
            path);
    else
        SAY("can't run %s: %s\n", path, strerror(number));
    if (fd >= 0)
        close(fd);
    return (number == ENOENT && interpreter[0] == '\0') || number == ENOTDIR ? EXIT_NOT_FOUND
                                                                             : EXIT_CANNOT_RUN;
}

/* Tries each directory of `path` as execvp does; returns only if none of them had it. */
static int execute_by_path(const char *path, char **argv)
{
    char candidate[PATH_MAX];
    char failed[PATH_MAX] = "";
    int failure = ENOENT;
    int number;
    size_t name = strlen(argv[0]);

    for (const char *p = path;; p++) {
        size_t length = strcspn(p, ":");

        if (length + 1 + name < sizeof candidate) {
            memcpy(candidate, p, length);
            candidate[length] = '/';
            memcpy(candidate + length + (length > 0), argv[0], name + 1);
            execve(candidate, argv, environment);
            number = errno;
            if (number != ENOENT && number != ENOTDIR && number != EACCES)
                return explain(candidate, number);
            /* The first candidate that exists is what the user meant. */
            if (failed[0] == '\0' && access(candidate, F_OK) == 0) {
                failure = number;
                strcpy(failed, candidate);
            }
        }
        p += length;
        if (*p == '\0')
            break;
    }
    if (failed[0] != '\0')
        return explain(failed, failure);
    SAY("can't run %s: no such program in PATH (%s)\n"
        "nd-init: remedy: check the image's ENTRYPOINT and CMD (`docker inspect IMAGE`)\n",
        argv[0], path);
    return EXIT_NOT_FOUND;
}

static int execute(char **argv)
{
    const char *path = getenv("PATH"); /* the container's own, not what a secret may say */
    int status;

    if (argv[0][0] == '\0') {
        SAY("can't run an empty command name\n");
        status = EXIT_NOT_FOUND;
    } else if (strchr(argv[0], '/') != NULL) {
        execve(argv[0], argv, environment);
        status = explain(argv[0], errno);
    } else {
        status = execute_by_path(path != NULL ? path : "/usr/local/bin:/bin:/usr/bin", argv);
    }
    forget();
    return status;
}

static int usage(void)
{
    SAY("usage: nd-init run|exec -- PROGRAM [ARG...]\n"
        "               nd-init version\n");
    return 2;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "version") == 0) {
        dprintf(STDOUT_FILENO, "nd-init %s\n", ND_VERSION);
        return 0;
    }
    if (argc < 3 || strcmp(argv[2], "--") != 0 ||
        (strcmp(argv[1], "run") != 0 && strcmp(argv[1], "exec") != 0))
        return usage();
    if (argc == 3) {
        SAY("the image has neither ENTRYPOINT nor CMD, and no command was given\n"
            "nd-init: remedy: set one in the image or in the app's configuration\n");
        return EXIT_NOT_FOUND;
    }
    for (char **e = environ; *e != NULL; e++) {
        if (environment_count == ENV_MOST) {
            SAY("more than %d environment variables\n", ENV_MOST);
            return fail_closed();
        }
        environment[environment_count++] = *e;
    }
    if (!apply_manifest())
        return fail_closed();
    return execute(argv + 3);
}
