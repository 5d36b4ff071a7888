/*
 * embed.h - files that the build put into the binary.
 *
 * `nd_embed()` in CMakeLists.txt makes one table a program; a row is a path relative to the source
 * tree ("lua/nd/error.lua") and the file's bytes, followed by a NUL.
 */
#ifndef ND_BASE_EMBED_H
#define ND_BASE_EMBED_H

struct nd_embed {
    const char *path; /* relative to the source tree; NULL ends the table */
    const char *text; /* NUL-terminated */
    const char *end;  /* one past the last byte of the file */
};

extern const struct nd_embed nd_embedded_lua[]; /* defined once in each program by the build */

#endif
