/* Attention in float32, on any processor.
 *
 * As in bfloat16, but keys and values are packed into panels of 32 columns, and the sums of some rows of a product and
 * of one or two vectors of a panel stay in registers. torch's fused attention takes 1.1 to 1.4 times as long for images
 * of up to some hundred tokens, with AVX-512 and with AVX2; for some thousand both multiply as fast as the processor
 * can (benchmarks/README.md). Without either, and compiled by clang 14 for AVX-512, it is slower than torch's.
 */

#include "attention.h"
#include "processors.h"

#include <math.h>
#include <string.h>

#if defined(__clang__) || __GNUC__ >= 9 /* older ones do not convert vectors */

enum { PANEL = 32 }; /* columns that lie together in memory */
enum { BLOCK = 24 }; /* queries at a time */

typedef struct { /* of one image and head; all memory is in one piece */
  float *keys;    /* (columns / PANEL, d, PANEL) */
  float *values;  /* (width / PANEL, N, PANEL) */
  float *queries; /* (BLOCK, d) */
  float *logits;  /* (BLOCK, columns), then the weights */
  float *outputs; /* (BLOCK, width) */
  int64_t tokens, columns; /* N, and N rounded up to whole panels */
  int64_t head, width;     /* d, and d rounded up to whole panels */
} Workspace;

/* Lays out the memory of one image and head, if it is not NULL; returns its size. */
static int64_t lay_out(Workspace *w, char *memory) {
  int64_t end = 0;
  w->columns = up(w->tokens, PANEL);
  w->width = up(w->head, PANEL);
  w->keys = take(memory, &end, w->columns * w->head * 4);
  w->values = take(memory, &end, w->width * w->tokens * 4);
  w->queries = take(memory, &end, BLOCK * w->head * 4);
  w->logits = take(memory, &end, BLOCK * w->columns * 4);
  w->outputs = take(memory, &end, BLOCK * w->width * 4);
  return end;
}

int attends_in_float32(void) { return 1; }

int64_t memory_in_float32(const Attention *a, int64_t tokens) {
  Workspace w = {.head = a->q.sizes[2], .tokens = tokens};
  return lay_out(&w, NULL);
}

typedef struct { /* (rows, depth) and panels of (depth, columns) -> (rows, columns) */
  const float *left, *panels;
  float *out;
  int64_t left_step, out_step; /* numbers */
  int64_t rows, depth, columns;
} Product;

/* Lets some rows of numbers come into the cache. A processor does not fetch rows this far apart ahead by itself. */
INSIDE void fetch(const float *rows, int64_t step, int64_t count, int64_t numbers) {
  for (int64_t row = 0; row < count; row++)
    for (int64_t i = 0; i < numbers; i += 16) __builtin_prefetch(rows + row * step + i);
}

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

/* Writes four rows as columns of a panel. */
INSIDE void transpose(const float *rows, int64_t step, float *panel, int64_t numbers) {
  int64_t i = 0;
#if defined(__clang__) || __GNUC__ >= 12 /* they have __builtin_shufflevector */
  for (; i + 4 <= numbers; i += 4) {
    const Four a = *(const Four *)(rows + i), b = *(const Four *)(rows + step + i);
    const Four c = *(const Four *)(rows + 2 * step + i), d = *(const Four *)(rows + 3 * step + i);
    const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Four AB = __builtin_shufflevector(a, b, 2, 6, 3, 7), CD = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(Four *)(panel + i * PANEL) = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    *(Four *)(panel + (i + 1) * PANEL) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    *(Four *)(panel + (i + 2) * PANEL) = __builtin_shufflevector(AB, CD, 0, 1, 4, 5);
    *(Four *)(panel + (i + 3) * PANEL) = __builtin_shufflevector(AB, CD, 2, 3, 6, 7);
  }
#endif
  for (; i < numbers; i++)
    for (int row = 0; row < 4; row++) panel[i * PANEL + row] = rows[row * step + i];
}

/* The functions of attention_float32.h for each generation of processors: LANES numbers in a vector, ROWS of a product
 * whose sums are in registers. */
#ifdef FOR_GENERATIONS
#define COMPILED AVX512
#define NAMED(name) name##_avx512
#define LANES 16
#define ROWS 12
#include "attention_float32.h"

#define COMPILED AVX2
#define NAMED(name) name##_avx2
#define LANES 8
#define ROWS 6
#include "attention_float32.h"
#endif

#define COMPILED
#define NAMED(name) name##_any
#define LANES 4
#define ROWS 6
#include "attention_float32.h"

void attend_in_float32(const Attention *a, const Part *part, char *memory) {
  Workspace w = {.head = a->q.sizes[2], .tokens = part->tokens};
  lay_out(&w, memory);
#ifdef FOR_GENERATIONS
  (HAS_AVX512 ? attend_avx512 : HAS_AVX2 ? attend_avx2 : attend_any)(a, &w, part);
#else
  attend_any(a, &w, part);
#endif
}

#else

int attends_in_float32(void) { return 0; }

int64_t memory_in_float32(const Attention *a, int64_t tokens) {
  (void)a, (void)tokens;
  return 0;
}

void attend_in_float32(const Attention *a, const Part *part, char *memory) { (void)a, (void)part, (void)memory; }

#endif
