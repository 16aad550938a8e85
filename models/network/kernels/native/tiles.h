/* The instructions of x86 processors for products of 8 and 16 bits, and AMX's tiles. */

#ifndef VITRINE_TILES_H
#define VITRINE_TILES_H

#include <stdint.h>

/* Whether the processor has what VECTORS and TILES below name, and Linux lets this process use it. */
int has_vectors(void);
int has_tiles(void);

#if defined(__x86_64__) && defined(__linux__) && (__GNUC__ >= 11 || __clang_major__ >= 14)
#define FOR_X86

#include <immintrin.h>

#define VECTORS __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define TILES __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16,amx-int8")))

enum { TILE = 16 }; /* rows of a tile; numbers of 32 bits, or pairs of bfloat16, in one of them and in a vector */
enum { STEP = 64 }; /* bytes in a row of a tile */

/* Makes tiles for this thread: 0, 1 and 4 have the first 16 of so many rows, 2, 3 and 5 the rest, 6 and 7 all. Where
 * there is no rest, they have 16. */
void configure_tiles(int64_t rows);

void release_tiles(void);

#endif

#endif
