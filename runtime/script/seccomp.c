#include "script/seccomp.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
enum { ND_ARCH = AUDIT_ARCH_X86_64 };
#elif defined(__aarch64__)
#define ND_ARCH AUDIT_ARCH_AARCH64
#else
#error "name this processor's AUDIT_ARCH"
#endif

enum { MOST = 64, AROUND = 16 };

/* The low half of an argument, on little-endian machines as both of ours are. */
#define ARGUMENT(n) (uint32_t)(offsetof(struct seccomp_data, args) + (n) * sizeof(uint64_t))

struct program {
    struct sock_filter code[MOST * 2 + AROUND];
    unsigned short length;
};

static void add(struct program *p, uint16_t code, uint32_t value, uint8_t jt, uint8_t jf)
{
    p->code[p->length++] = (struct sock_filter)BPF_JUMP(code, value, jt, jf);
}

static void load(struct program *p, uint32_t offset)
{
    add(p, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
}

static void answer(struct program *p, uint32_t action)
{
    add(p, BPF_RET | BPF_K, action, 0, 0);
}

/* mmap and mprotect have what the memory is for as their third argument: refused where all bits of
 * `refused` are in it. */
static void add_memory_call(struct program *p, int call, uint32_t refused)
{
    add(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 5);
    load(p, ARGUMENT(2));
    add(p, BPF_ALU | BPF_AND | BPF_K, refused, 0, 0);
    add(p, BPF_JMP | BPF_JEQ | BPF_K, refused, 1, 0);
    answer(p, SECCOMP_RET_ALLOW);
    answer(p, SECCOMP_RET_KILL_PROCESS);
}

static void add_call(struct program *p, int call, bool compiles)
{
    if (call == SYS_mmap || call == SYS_mprotect) {
        bool either = compiles && call == SYS_mprotect;

        add_memory_call(p, call, either ? PROT_EXEC | PROT_WRITE : PROT_EXEC);
        return;
    }
    add(p, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 1);
    answer(p, SECCOMP_RET_ALLOW);
}

int nd_seccomp_allow(const int *allowed, size_t count, bool compiles)
{
    struct program p = {.length = 0};
    struct sock_fprog filter = {.filter = p.code};

    if (count > MOST) {
        errno = E2BIG;
        return -1;
    }
    load(&p, (uint32_t)offsetof(struct seccomp_data, arch));
    add(&p, BPF_JMP | BPF_JEQ | BPF_K, ND_ARCH, 1, 0);
    answer(&p, SECCOMP_RET_KILL_PROCESS);
    load(&p, (uint32_t)offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < count; i++)
        add_call(&p, allowed[i], compiles);
    answer(&p, SECCOMP_RET_KILL_PROCESS);
    filter.len = p.length;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}
