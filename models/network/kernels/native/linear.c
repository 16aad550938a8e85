/* Linear layers on processors with AMX, of bfloat16 or of 8 bits, with the activation and rounding in the same pass.
 *
 * The weights are packed once into tiles, in the order in which they are read. 32 tokens stay in the L1 cache while the
 * weights of 32 outputs at a time are read from the L2 cache; the sums stay in tiles until all inputs are added. While
 * the next 32 outputs are multiplied, the vector units finish these: bias, activation, rounding. Each output is summed
 * in one order, whatever the number of tokens and threads: an image gets the same bits alone and in company. How long
 * oneDNN takes, and what was tried, is in benchmarks/README.md.
 *
 * Shapes: T tokens of all images together, K inputs, F outputs; P = F / 32 panels, S = steps of 64 bytes of K.
 */

#include "tiles.h"
#include "torch.h"

#include <stddef.h>

#ifdef FOR_X86

enum { BLOCK = 2 * TILE };             /* tokens, and outputs, whose sums are in tiles at a time */
enum { PANEL_STEP = 2 * TILE * STEP }; /* bytes of the weights of 32 outputs in a step */
enum { GROUP_BYTES = 5 << 18 };        /* of weights that tokens are multiplied with in turn, to stay in the L2 cache */
enum { CHUNK = 8 };                    /* blocks of tokens in turn for a group of weights, at most */

enum { MOST_INPUTS = 65536 };          /* whose products of 8 bits have a sum below 2^31 */

typedef enum { NONE, GELU, GELU_TANH } Activation;

typedef struct {
  View x, out;                /* (T, K), (T, F) */
  const char *packed;         /* (P, S, 2, 16, 64 bytes) */
  const float *scales, *bias; /* (32 P,); scales for 8 bits only */
  int eight;                  /* whether inputs and weights are of 8 bits */
  int wide, narrow;           /* whether outputs are of float32, of bfloat16; otherwise of 8 bits */
  Activation activation;
  float factor, shift;                   /* of outputs of 8 bits */
  int64_t steps, panels, blocks, chunks; /* S, P, whole blocks of tokens, chunks of these */
  int64_t share;                         /* rows that are finished in a step */
} Linear;

/* Sums of a block, in float32 or int32: a tile each for the first and last 16 tokens and outputs. A load waits for an
 * earlier store whose address has the same last 12 bits. The tiles are 4 KiB apart, so that they have a quarter of
 * these addresses instead of all: 4% of the time. */
typedef float Tiles[2][2][1024];

typedef struct {
  Tiles *sums; /* whole */
  char *out;   /* where the first row of them goes */
  int64_t column, rows, done;
} Finishing;

/* ---- what follows the products ---- */

/* x (1 + erf(x / sqrt(2))) / 2, or with tanh in its place (Hendrycks & Gimpel 2016, arXiv 1606.08415). Both functions
 * are fitted as x P(x^2) up to |x| = 4.25: to 4e-5, and to 0.27 of the last place of bfloat16 where that is more. */
TILES INSIDE __m512 gelu(__m512 x, const float *p) {
  const __m512 most = _mm512_set1_ps(4.25f), least = _mm512_set1_ps(-4.25f);
  const __m512 above = _mm512_max_ps(least, x), y = _mm512_min_ps(most, above); /* what is not a number stays so */
  const __m512 square = _mm512_mul_ps(y, y);
  __m512 sum = _mm512_set1_ps(p[9]);
  _Pragma("GCC unroll 9") for (int i = 8; i >= 0; i--) sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(p[i]));
  const __m512 half = _mm512_mul_ps(above, _mm512_set1_ps(0.5f));
  const __m512 result = _mm512_fmadd_ps(half, _mm512_mul_ps(sum, y), half);
  enum { MINUS_INFINITY = 0x10 }; /* stays, so that an overflow is seen */
  return _mm512_mask_mov_ps(result, _mm512_fpclass_ps_mask(x, MINUS_INFINITY), x);
}

TILES INSIDE __m512 activated(__m512 x, Activation activation) {
  static const float ERF[] = {7.97828138e-01f, -1.32816389e-01f, 1.97801609e-02f, -2.28956901e-03f, 2.05387987e-04f,
                              -1.39935628e-05f, 6.93151037e-07f, -2.32687452e-08f, 4.68867778e-10f, -4.25178903e-12f};
  static const float TANH[] = {7.97817409e-01f, -1.33460134e-01f, 2.02447735e-02f, -2.42412626e-03f, 2.27008146e-04f,
                               -1.61399275e-05f, 8.28710711e-07f, -2.85925825e-08f, 5.87654259e-10f, -5.40344549e-12f};
  return activation == GELU ? gelu(x, ERF) : activation == GELU_TANH ? gelu(x, TANH) : x;
}

/* Returns 16 outputs of a token. */
TILES INSIDE __m512 finished(const Linear *l, const float *sums, int64_t column, Activation activation) {
  __m512 x = _mm512_load_ps(sums);
  const __m512 bias = _mm512_loadu_ps(l->bias + column);
  if (l->eight) {
    x = _mm512_cvtepi32_ps(_mm512_castps_si512(x));
    x = _mm512_fmadd_ps(x, _mm512_loadu_ps(l->scales + column), bias);
  } else {
    x = _mm512_add_ps(x, bias);
  }
  return activated(x, activation);
}

TILES INSIDE void write_outputs(const Linear *l, char *out, int64_t column, __m512 x) {
  const int64_t left = l->out.sizes[1] - column;
  const __mmask16 some = left >= TILE ? 0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
  if (l->narrow) {
    _mm256_mask_storeu_epi16(out + 2 * column, some, (__m256i)_mm512_cvtneps_pbh(x));
  } else if (l->wide) {
    _mm512_mask_storeu_ps(out + 4 * column, some, x);
  } else {
    x = _mm512_fmadd_ps(x, _mm512_set1_ps(l->factor), _mm512_set1_ps(l->shift));
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_setzero_ps()), _mm512_set1_ps(255)); /* what is not a number becomes 0 */
    _mm512_mask_cvtusepi32_storeu_epi8(out + column, some, _mm512_cvtps_epi32(x));
  }
}

TILES INSIDE void finish_rows_of(const Linear *l, Finishing *f, int64_t end, Activation activation) {
  const int whole = l->narrow && f->column + BLOCK <= l->out.sizes[1];
  for (; f->done < end; f->done++) {
    float(*sums)[1024] = (*f->sums)[f->done / TILE];
    const int64_t place = f->done % TILE * TILE;
    char *out = f->out + f->done * l->out.steps[0];
    const __m512 x = finished(l, sums[0] + place, f->column, activation);
    const __m512 y = finished(l, sums[1] + place, f->column + TILE, activation);
    if (whole) {
      _mm512_storeu_si512(out + 2 * f->column, (__m512i)_mm512_cvtne2ps_pbh(y, x));
    } else {
      write_outputs(l, out, f->column, x);
      write_outputs(l, out, f->column + TILE, y);
    }
  }
}

/* Adds the bias to some more rows, activates, rounds and writes them. */
TILES static void finish_rows(const Linear *l, Finishing *f, int64_t count) {
  const int64_t end = f->done + count < f->rows ? f->done + count : f->rows;
  if (l->activation == GELU)
    finish_rows_of(l, f, end, GELU);
  else if (l->activation == GELU_TANH)
    finish_rows_of(l, f, end, GELU_TANH);
  else
    finish_rows_of(l, f, end, NONE);
}

/* ---- products ---- */

#define MULTIPLY(eight, sums, left, right) \
  if (eight)                               \
    _tile_dpbusd(sums, left, right);       \
  else                                     \
    _tile_dpbf16ps(sums, left, right)

typedef struct {
  const char *x, *weights; /* the first of its tokens, and of its panel */
  const char *out;         /* where its first outputs go */
  Tiles *sums;
} Block;

/* Tiles 0 to 3 are sums, 4 and 5 are of tokens, 6 and 7 of weights. Without `below` there are 16 tokens at the most.
 * Meanwhile the block before is finished, and the memory that this one writes comes into the cache: writing would wait
 * for it, half of the time. */
TILES INSIDE void multiply_block(const Linear *l, const Block *b, Finishing *before, int eight, int below) {
  const int64_t step = l->x.steps[0];
  const char *x = b->x, *weights = b->weights, *out = b->out;
  Tiles *sums = b->sums;
  __asm__ volatile("" ::: "memory"); /* GCC does not know that loading a tile reads memory */
  _tile_zero(0);
  _tile_zero(1);
  if (below) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t i = 0; i < l->steps; i++, x += STEP, weights += PANEL_STEP) {
    _tile_loadd(4, x, step);
    _tile_loadd(6, weights, STEP);
    MULTIPLY(eight, 0, 4, 6);
    _tile_loadd(7, weights + PANEL_STEP / 2, STEP);
    MULTIPLY(eight, 1, 4, 7);
    if (below) {
      _tile_loadd(5, x + TILE * step, step);
      MULTIPLY(eight, 2, 5, 6);
      MULTIPLY(eight, 3, 5, 7);
    }
    finish_rows(l, before, l->share);
    for (int64_t row = 0; row < l->share; row++, out += l->out.steps[0]) __builtin_prefetch(out, 1, 2);
  }
  _tile_stored(0, (*sums)[0][0], STEP);
  _tile_stored(1, (*sums)[0][1], STEP);
  if (below) {
    _tile_stored(2, (*sums)[1][0], STEP);
    _tile_stored(3, (*sums)[1][1], STEP);
  }
}

TILES static void multiply(const Linear *l, const Block *b, Finishing *before, int below) {
  if (l->eight && below)
    multiply_block(l, b, before, 1, 1);
  else if (l->eight)
    multiply_block(l, b, before, 1, 0);
  else if (below)
    multiply_block(l, b, before, 0, 1);
  else
    multiply_block(l, b, before, 0, 0);
}

typedef struct { /* of a thread */
  Tiles sums[2];
  Finishing finishing; /* the last block */
  int next;            /* where the sums of the next one go */
} Workspace;

/* Multiplies a block of tokens with a panel, and finishes the block before it. */
static void next_block(const Linear *l, Workspace *w, int64_t token, int64_t panel, int64_t rows) {
  const int64_t bytes = l->narrow ? 2 : l->wide ? 4 : 1;
  char *out = l->out.data + token * l->out.steps[0];
  const Block block = {l->x.data + token * l->x.steps[0], l->packed + panel * l->steps * PANEL_STEP,
                       out + panel * BLOCK * bytes, &w->sums[w->next]};
  multiply(l, &block, &w->finishing, rows > TILE);
  finish_rows(l, &w->finishing, BLOCK);
  w->finishing = (Finishing){block.sums, out, panel * BLOCK, rows, 0};
  w->next = !w->next;
}

/* Computes some panels of the blocks of a chunk, in groups that stay in the L2 cache. */
static void compute_chunk(const Linear *l, Workspace *w, int64_t chunk, int64_t begin, int64_t end) {
  const int64_t first = chunk * l->blocks / l->chunks, last = (chunk + 1) * l->blocks / l->chunks;
  const int64_t groups = ((end - begin) * l->steps * PANEL_STEP + GROUP_BYTES - 1) / GROUP_BYTES;
  for (int64_t group = 0; group < groups; group++) {
    const int64_t from = begin + group * (end - begin) / groups, to = begin + (group + 1) * (end - begin) / groups;
    for (int64_t block = first; block < last; block++)
      for (int64_t panel = from; panel < to; panel++) next_block(l, w, block * BLOCK, panel, BLOCK);
  }
}

/* Computes some of the pairs of a chunk of tokens and a panel. Panels change fastest. */
static void compute_some(int64_t begin, int64_t end, void *context) {
  const Linear *l = context;
  const int64_t tokens = l->x.sizes[0], rest = tokens % BLOCK, panels = l->panels;
  Workspace w __attribute__((aligned(64)));
  w.finishing = (Finishing){0}, w.next = 0;
  if (l->blocks) configure_tiles(BLOCK);
  for (int64_t task = begin, next; l->blocks && task < end; task = next) {
    const int64_t chunk = task / panels;
    next = (chunk + 1) * panels < end ? (chunk + 1) * panels : end;
    compute_chunk(l, &w, chunk, task - chunk * panels, next - chunk * panels);
  }
  if (rest) configure_tiles(rest);
  const int64_t of_last = (l->chunks - 1) * panels; /* the last chunk has the rest of the tokens */
  for (int64_t task = begin > of_last ? begin : of_last; rest && task < end; task++)
    next_block(l, &w, tokens - rest, task - of_last, rest);
  finish_rows(l, &w.finishing, BLOCK);
  release_tiles();
}

/* Returns the layer's outputs, (T, F), after `read_weights`. */
static Tensor computed(Linear *l, int64_t outputs, int32_t dtype, Wrong *wrong) {
  const int64_t tokens = l->x.sizes[0], inputs = l->x.sizes[1] * (l->eight ? 1 : 2);
  l->blocks = tokens / BLOCK;
  l->chunks = l->blocks ? (l->blocks + CHUNK - 1) / CHUNK : 1;
  l->narrow = dtype == torch.dtype_bfloat16(), l->wide = dtype == torch.dtype_float32();
  expect(has_tiles(), "this processor has no AMX", wrong);
  expect(inputs % STEP == 0 && inputs > 0 && tokens > 0, "expected rows of whole tiles", wrong);
  expect(l->x.sizes[1] <= MOST_INPUTS, "the rows are too long", wrong);
  expect(l->activation <= GELU_TANH, "there is no such activation", wrong);
  if (!*wrong) l->share = (BLOCK + l->steps - 1) / l->steps;
  Tensor out = empty(tokens, outputs, dtype, wrong);
  if (out) l->out = view(out, 2, wrong);
  run_loop(l->chunks * l->panels, 1, compute_some, l, wrong);
  return out;
}

/* Notes weights and numbers of each output, padded to whole panels, and how many panels and steps there are. */
static void read_weights(Linear *l, View packed, View scales, View bias, int64_t outputs, Wrong *wrong) {
  l->panels = (outputs + BLOCK - 1) / BLOCK, l->steps = l->x.sizes[1] * (l->eight ? 1 : 2) / STEP;
  const int32_t weights = l->eight ? torch.dtype_uint8() : torch.dtype_bfloat16();
  expect(packed.dtype == weights, "expected packed weights", wrong);
  const int64_t row = packed.sizes[1] * (l->eight ? 1 : 2);
  expect(packed.sizes[0] == l->panels && row == l->steps * PANEL_STEP, "shapes differ", wrong);
  expect(packed.steps[0] == row, "the weights are not contiguous", wrong);
  expect(scales.sizes[0] == l->panels * BLOCK && bias.sizes[0] == l->panels * BLOCK, "shapes differ", wrong);
  const int32_t dtype = torch.dtype_float32();
  expect(scales.dtype == dtype && bias.dtype == dtype, "expected scales and biases of float32", wrong);
  l->packed = packed.data, l->scales = (const float *)scales.data, l->bias = (const float *)bias.data;
}

/* linear(Tensor x, Tensor packed, Tensor bias, int outputs, int activation) -> Tensor
 *
 * The activation of x W^T + b in bfloat16: (T, K) -> (T, F).
 */
void vitrine_linear(Value *values, uint64_t inputs, uint64_t outputs) {
  (void)inputs, (void)outputs;
  Wrong wrong = NULL;
  Linear l = {.x = view(values[0].tensor, 2, &wrong), .activation = (Activation)values[4].bits};
  expect(l.x.dtype == torch.dtype_bfloat16(), "expected bfloat16", &wrong);
  const View bias = view(values[2].tensor, 1, &wrong);
  read_weights(&l, view(values[1].tensor, 2, &wrong), bias, bias, (int64_t)values[3].bits, &wrong);
  Tensor out = computed(&l, (int64_t)values[3].bits, torch.dtype_bfloat16(), &wrong);
  finish(values, 3, out, wrong);
}

/* linear8(Tensor x, Tensor packed, Tensor scales, Tensor bias, int outputs, int activation, int bits, float factor,
 *         float shift) -> Tensor
 *
 * The activation of scales * (x W^T) + b, for x of uint8 and weights of int8: (T, K) -> (T, F). In 32 or 16 `bits`, as
 * it is; in 8, rounded to the nearest of factor * it + shift.
 */
void vitrine_linear8(Value *values, uint64_t inputs, uint64_t outputs) {
  (void)inputs, (void)outputs;
  Wrong wrong = NULL;
  Linear l = {.x = view(values[0].tensor, 2, &wrong), .activation = (Activation)values[5].bits, .eight = 1};
  l.factor = (float)values[7].number, l.shift = (float)values[8].number;
  expect(l.x.dtype == torch.dtype_uint8(), "expected uint8", &wrong);
  const View scales = view(values[2].tensor, 1, &wrong), bias = view(values[3].tensor, 1, &wrong);
  read_weights(&l, view(values[1].tensor, 2, &wrong), scales, bias, (int64_t)values[4].bits, &wrong);
  const int64_t bits = (int64_t)values[6].bits;
  expect(bits == 8 || bits == 16 || bits == 32, "expected 8, 16 or 32 bits", &wrong);
  const int32_t dtype = bits == 32   ? torch.dtype_float32()
                        : bits == 16 ? torch.dtype_bfloat16()
                                     : torch.dtype_uint8();
  Tensor out = computed(&l, (int64_t)values[4].bits, dtype, &wrong);
  finish(values, 4, out, wrong);
}

#else

void vitrine_linear(Value *values, uint64_t inputs, uint64_t outputs) {
  (void)inputs, (void)outputs;
  finish(values, 3, NULL, "compiled for another processor");
}

void vitrine_linear8(Value *values, uint64_t inputs, uint64_t outputs) {
  (void)inputs, (void)outputs;
  finish(values, 4, NULL, "compiled for another processor");
}

#endif
