/* Attention in bfloat16, on processors with AVX512-BF16 or AMX.
 *
 * Keys and values are packed once into the order that the instructions read. Then, for 32 queries at a time: their
 * products with all keys in float32, powers of 2 of these in bfloat16, and the product with the values. The matrices of
 * 32 queries stay in the L1 and L2 caches. torch's fused attention takes 1.3 to 3 times as long with AMX for images of
 * up to 1,025 tokens, and as long for some thousand (benchmarks/README.md): each of its steps is a call, and its online
 * softmax is made for long sequences.
 */

#include "attention.h"
#include "tiles.h"

#include <math.h>
#include <string.h>

#ifdef FOR_X86

enum { BLOCK = 32 }; /* queries at a time: keys and values are read from the L2 cache once for so many */

typedef struct { /* of one image and head; all memory is in one piece */
  uint32_t *keys;    /* (depth, columns): pairs of bfloat16; neighbours in memory are of neighbouring keys */
  uint32_t *values;  /* (columns / 2, width): the pair is of two tokens */
  uint16_t *queries; /* (BLOCK, 2 * depth) */
  uint16_t *weights; /* (BLOCK, columns) */
  float *logits;     /* (BLOCK, columns) */
  float *outputs;    /* (BLOCK, width) */
  int64_t tokens, columns; /* N, and N rounded up to a multiple of 32 */
  int64_t head, depth, width; /* d, d / 2 rounded up to a multiple of 16, d rounded up to a multiple of 16 */
} Workspace;

/* ---- products: (rows, 2 * depth) and packed (depth, columns) -> float32 (rows, columns) ---- */

typedef struct {
  const void *left;
  int64_t left_step; /* bytes */
  const uint32_t *right;
  int64_t right_columns; /* pairs in a row of `right` */
  float *out;
  int64_t out_columns;
  int64_t rows, depth, columns; /* rows and columns are multiples of TILE, and with tiles the depth is */
} Product;

/* The sums of all rows stay in registers, which needs loops without a counter. */
#define EACH_ROW _Pragma("GCC unroll 16") for (int row = 0; row < TILE; row++)

VECTORS static void multiply_vectors(const Product *p, int64_t first) {
  const char *left = (const char *)p->left + first * p->left_step;
  float *out = p->out + first * p->out_columns;
  for (int64_t column = 0; column < p->columns; column += TILE) {
    __m512 sums[TILE];
    EACH_ROW sums[row] = _mm512_setzero_ps();
    for (int64_t pair = 0; pair < p->depth; pair++) {
      const __m512bh right = (__m512bh)_mm512_loadu_si512(p->right + pair * p->right_columns + column);
      EACH_ROW {
        int32_t both;
        memcpy(&both, left + row * p->left_step + 4 * pair, sizeof both);
        sums[row] = _mm512_dpbf16_ps(sums[row], (__m512bh)_mm512_set1_epi32(both), right);
      }
    }
    EACH_ROW _mm512_storeu_ps(out + row * p->out_columns + column, sums[row]);
  }
}

/* Tiles 0 to 3 are sums, 4 and 5 are of `left`, 6 and 7 of `right`. The second row or column of tiles is left out where
 * there is only one. */
TILES static void multiply_tiles(const Product *p, int64_t first) {
  const int64_t right_step = 4 * p->right_columns, out_step = 4 * p->out_columns;
  const char *left = (const char *)p->left + first * p->left_step, *below = left + TILE * p->left_step;
  const int rows = first + TILE < p->rows;
  __asm__ volatile("" ::: "memory"); /* GCC does not know that loading a tile reads memory */
  for (int64_t column = 0; column < p->columns; column += 2 * TILE) {
    const int columns = column + TILE < p->columns;
    float *out = p->out + first * p->out_columns + column, *out_below = out + TILE * p->out_columns;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t pair = 0; pair < p->depth; pair += TILE) {
      const uint32_t *right = p->right + pair * p->right_columns + column;
      _tile_loadd(4, left + 4 * pair, p->left_step);
      _tile_loadd(6, right, right_step);
      _tile_dpbf16ps(0, 4, 6);
      if (columns) {
        _tile_loadd(7, right + TILE, right_step);
        _tile_dpbf16ps(1, 4, 7);
      }
      if (rows) {
        _tile_loadd(5, below + 4 * pair, p->left_step);
        _tile_dpbf16ps(2, 5, 6);
        if (columns) _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, out, out_step);
    if (columns) _tile_stored(1, out + TILE, out_step);
    if (rows) _tile_stored(2, out_below, out_step);
    if (rows && columns) _tile_stored(3, out_below + TILE, out_step);
  }
}

static void multiply(const Product *p, int tiles) {
  for (int64_t first = 0; first < p->rows; first += tiles ? 2 * TILE : TILE)
    tiles ? multiply_tiles(p, first) : multiply_vectors(p, first);
}

/* ---- packing ---- */

VECTORS static void pack_keys(const Workspace *w, const char *keys, int64_t step) {
  const __m512i rows = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                          _mm512_set1_epi32((int32_t)step));
  for (int64_t token = 0; token < w->columns; token += TILE) {
    const int64_t left = w->tokens - token;
    const __mmask16 there = left >= TILE ? 0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
    for (int64_t pair = 0; pair < w->depth; pair++) {
      const __mmask16 some = 2 * pair < w->head ? there : 0;
      const __m512i found =
          _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), some, rows, keys + token * step + 4 * pair, 1);
      _mm512_storeu_si512(w->keys + pair * w->columns + token, found);
    }
  }
}

VECTORS static void pack_values(const Workspace *w, const char *values, int64_t step) {
  for (int64_t token = 0; token < w->columns; token += 2) {
    uint32_t *out = w->values + token / 2 * w->width;
    for (int64_t i = 0; i < w->width; i += TILE) {
      const int64_t left = w->head - i;
      const __mmask16 some = left >= TILE ? 0xffff : (__mmask16)((1u << left) - 1);
      const char *at = values + token * step + 2 * i;
      const __mmask16 first = token < w->tokens ? some : 0, second = token + 1 < w->tokens ? some : 0;
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first, at));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second, at + step));
      _mm512_storeu_si512(out + i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

/* Copies queries, with zeros after the last one and after the last number of each. */
static void pack_queries(const Workspace *w, const char *queries, int64_t step, int64_t count) {
  memset(w->queries, 0, (size_t)(BLOCK * w->depth * 4));
  for (int64_t row = 0; row < count; row++)
    memcpy(w->queries + row * 2 * w->depth, queries + row * step, (size_t)w->head * 2);
}

/* ---- softmax ---- */

/* 2^x for x <= 0, to 3e-6 of it; below 2^-126 it stays there. What is not a number stays so. */
VECTORS INSIDE __m512 power_of_2(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-126), x);
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 power = _mm512_fmadd_ps(part, _mm512_set1_ps(0.00956051f), _mm512_set1_ps(0.05591705f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.24024981f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.69312197f));
  power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(0.99999919f));
  const __m512i exponent = _mm512_slli_epi32(_mm512_cvtps_epi32(whole), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(power), exponent));
}

/* Writes weights of `count` queries whose quotients with `sums` are the softmax of scale * logits. Those beyond the
 * tokens are 0. */
VECTORS static void exponentiate(const Workspace *w, float scale, int64_t count, float *sums) {
  const __m512 factor = _mm512_set1_ps(scale * 1.44269504f); /* log2(e): 2^(x log2(e)) = e^x */
  const int64_t whole = w->tokens / TILE * TILE;
  const __mmask16 rest = (__mmask16)((1u << (w->tokens - whole)) - 1);
  __m512 largest[BLOCK];
  for (int64_t row = 0; row < count; row++) {
    const float *logits = w->logits + row * w->columns;
    __m512 most = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), rest, logits + whole);
    for (int64_t i = 0; i < whole; i += TILE) most = _mm512_max_ps(most, _mm512_loadu_ps(logits + i));
    largest[row] = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  }
  for (int64_t row = 0; row < count; row++) {
    const float *logits = w->logits + row * w->columns;
    uint16_t *weights = w->weights + row * w->columns;
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < w->tokens; i += TILE) {
      const __m512 below = _mm512_sub_ps(_mm512_loadu_ps(logits + i), largest[row]); /* exact for the largest itself */
      __m512 power = power_of_2(_mm512_mul_ps(below, factor));
      if (i == whole) power = _mm512_maskz_mov_ps(rest, power);
      sum = _mm512_add_ps(sum, power);
      _mm256_storeu_si256((__m256i *)(weights + i), (__m256i)_mm512_cvtneps_pbh(power));
    }
    if (w->columns - w->tokens >= TILE) memset(weights + w->columns - TILE, 0, TILE * sizeof *weights);
    sums[row] = _mm512_reduce_add_ps(sum);
  }
}

VECTORS static void write_outputs(const Workspace *w, const float *sums, char *out, int64_t step, int64_t count) {
  for (int64_t row = 0; row < count; row++) {
    const __m512 factor = _mm512_set1_ps(1 / sums[row]);
    for (int64_t i = 0; i < w->width; i += TILE) {
      const int64_t left = w->head - i;
      const __mmask16 some = left >= TILE ? 0xffff : (__mmask16)((1u << left) - 1);
      const __m512 divided = _mm512_mul_ps(_mm512_loadu_ps(w->outputs + row * w->width + i), factor);
      _mm256_mask_storeu_epi16(out + row * step + 2 * i, some, (__m256i)_mm512_cvtneps_pbh(divided));
    }
  }
}

/* ---- attention ---- */

/* Lays out the memory of one image and head, if it is not NULL; returns its size. */
static int64_t lay_out(Workspace *w, char *memory) {
  int64_t end = 0;
  w->columns = up(w->tokens, 32);
  w->depth = up(up(w->head, 2) / 2, TILE);
  w->width = up(w->head, TILE);
  w->keys = take(memory, &end, w->depth * w->columns * 4);
  w->values = take(memory, &end, w->columns / 2 * w->width * 4);
  w->queries = take(memory, &end, BLOCK * w->depth * 4);
  w->weights = take(memory, &end, BLOCK * w->columns * 2);
  w->logits = take(memory, &end, BLOCK * w->columns * 4);
  w->outputs = take(memory, &end, BLOCK * w->width * 4);
  return end;
}

static void attend_block(const Attention *a, const Workspace *w, const char *queries, char *out, int64_t count) {
  float sums[BLOCK];
  const int64_t rows = up(count, TILE);
  const char *left = queries;
  int64_t step = a->q.steps[0];
  if (count < rows || w->head < 2 * w->depth) {
    pack_queries(w, queries, step, count);
    left = (const char *)w->queries, step = 4 * w->depth;
  }
  const Product logits = {left, step, w->keys, w->columns, w->logits, w->columns,
                          rows, w->depth, up(w->tokens, TILE)};
  multiply(&logits, a->tiles);
  exponentiate(w, a->scale, count, sums);
  const int64_t pairs = a->tiles ? w->columns / 2 : up(w->tokens, 2) / 2; /* tiles read 16 pairs at a time */
  const Product outputs = {w->weights, 2 * w->columns, w->values, w->width, w->outputs, w->width,
                           rows, pairs, w->width};
  multiply(&outputs, a->tiles);
  write_outputs(w, sums, out, a->out.steps[0], count);
}

int64_t memory_in_bfloat16(const Attention *a, int64_t tokens) {
  Workspace w = {.head = a->q.sizes[2], .tokens = tokens};
  return lay_out(&w, NULL);
}

void attend_in_bfloat16(const Attention *a, const Part *part, char *memory) {
  Workspace w = {.head = a->q.sizes[2], .tokens = part->tokens};
  lay_out(&w, memory);
  if (a->tiles) configure_tiles(2 * TILE);
  pack_keys(&w, part->k, a->k.steps[0]);
  pack_values(&w, part->v, a->v.steps[0]);
  for (int64_t done = 0; done < part->queries; done += BLOCK) {
    const int64_t count = part->queries - done < BLOCK ? part->queries - done : BLOCK;
    attend_block(a, &w, part->q + done * a->q.steps[0], part->out + done * a->out.steps[0], count);
  }
  if (a->tiles) release_tiles();
}

#else

int64_t memory_in_bfloat16(const Attention *a, int64_t tokens) {
  (void)a, (void)tokens;
  return 0;
}

void attend_in_bfloat16(const Attention *a, const Part *part, char *memory) { (void)a, (void)part, (void)memory; }

#endif
