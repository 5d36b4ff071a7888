#include "base/rest.h"

#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* A mapping of a file that may be let go of: nobody can have written to it, and nobody has (what
 * the linker has relocated is `Anonymous`). */
struct mapping {
    uintptr_t from, to;
    bool of_file;
};

/* Takes the first line of a mapping: "from-to r-xp offset device inode path"; false for others. */
static bool read_mapping(const char *line, struct mapping *out)
{
    char rights[5], path[2] = "";
    struct mapping m;

    if (sscanf(line, "%lx-%lx %4s %*s %*s %*s %1s", &m.from, &m.to, rights, path) < 3)
        return false;
    m.of_file = path[0] == '/' && rights[0] == 'r' && rights[1] == '-' && rights[3] == 'p';
    *out = m;
    return true;
}

void nd_rest(void)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    struct mapping m = {0};
    char line[512];

    malloc_trim(0);
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        if (read_mapping(line, &m) || !m.of_file)
            continue;
        if (strncmp(line, "Anonymous:", 10) == 0 && strstr(line, " 0 kB"))
            madvise((void *)m.from, m.to - m.from, MADV_DONTNEED);
    }
    fclose(file);
}
