#include "engine/memory.h"

#include <curl/curl.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <uv.h>

#include "base/mem.h"

static void *take(size_t size)
{
    return nd_realloc(NULL, size);
}

static void *take_zeroed(size_t count, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes))
        return NULL;
    return nd_alloc(bytes);
}

static void *crypto_take(size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return take(size);
}

static void *crypto_resize(void *p, size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return nd_realloc(p, size);
}

static void crypto_give(void *p, const char *file, int line)
{
    (void)file, (void)line;
    free(p);
}

static struct sqlite3_mem_methods usual;

static void *sqlite_take(int size)
{
    return nd_checked(usual.xMalloc(size));
}

static void *sqlite_resize(void *p, int size)
{
    return nd_checked(usual.xRealloc(p, size));
}

void nd_memory_firm(void)
{
    struct sqlite3_mem_methods firm;

    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &usual);
    firm = usual;
    firm.xMalloc = sqlite_take;
    firm.xRealloc = sqlite_resize;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &firm);
    json_set_alloc_funcs(take, free);
    uv_replace_allocator(take, nd_realloc, take_zeroed, free);
    CRYPTO_set_mem_functions(crypto_take, crypto_resize, crypto_give);
    curl_global_init_mem(CURL_GLOBAL_DEFAULT, take, free, nd_realloc, nd_strdup, take_zeroed);
}
