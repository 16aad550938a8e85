/* Steps between the matrix products, each in one pass over memory.
 *
 * torch computes a sum, a LayerNorm and the rounding to 8 bits in five passes, each of which reads and writes all
 * tokens. Here a row stays in the L1 cache until its last step. Infinity and what is not a number are kept in float32
 * and bfloat16; in 8 bits what is not a number becomes 0, as from torch.
 *
 * Shapes: T tokens of all images together, D embedding dimension.
 */

#include "processors.h"
#include "torch.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* Each step of a loop reads and writes its own numbers, also where an output takes the place of an input. */
#if defined(__clang__)
#define EACH_BY_ITSELF _Pragma("clang loop vectorize(assume_safety)")
#else
#define EACH_BY_ITSELF _Pragma("GCC ivdep")
#endif

#define NUMBERS_AT_ONCE 32768 /* that are worth a thread of their own, as in torch's own loops */

/* ---- numbers ---- */

INSIDE float widened(uint16_t x) { /* bfloat16: the upper half of a float32 */
  uint32_t bits = (uint32_t)x << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}

INSIDE uint16_t narrowed(float x) { /* to the nearest, and to the even one of two, as torch does */
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : nearest); /* not a number stays so */
}

INSIDE uint8_t cut_off(float x) { /* without its fraction, between 0 and 255 */
  x = x > 0 ? x : 0;
  x = x < 255 ? x : 255;
  return (uint8_t)(int32_t)x;
}

/* ---- LayerNorm, of a sum or of one operand ---- */

#define WIDEST 8192 /* columns; a row of float32 then takes 32 KiB of the stack */

typedef struct {
  View x, branch, total, out;
  int adds; /* whether `branch` is added to `x`, into `total` */
  const float *weight, *bias;
  float epsilon;
} Norm;

/* Return the row x, or write x + branch to `total`, rounded to its dtype, and return that, in float32. */
INSIDE const float *summed(const Norm *n, int64_t row, float *scratch, int narrow, int branch, int narrow_branch) {
  const int64_t columns = n->x.sizes[1];
  const char *x = n->x.data + row * n->x.steps[0];
  if (!branch && !narrow) return (const float *)x;
  if (!branch) {
    const uint16_t *a = (const uint16_t *)x;
    for (int64_t i = 0; i < columns; i++) scratch[i] = widened(a[i]);
    return scratch;
  }
  const char *added = n->branch.data + row * n->branch.steps[0];
  char *total = n->total.data + row * n->total.steps[0];
  if (!narrow) {
    const float *a = (const float *)x;
    float *sum = (float *)total;
    if (narrow_branch) {
      const uint16_t *b = (const uint16_t *)added;
      EACH_BY_ITSELF for (int64_t i = 0; i < columns; i++) sum[i] = a[i] + widened(b[i]);
    } else {
      const float *b = (const float *)added;
      EACH_BY_ITSELF for (int64_t i = 0; i < columns; i++) sum[i] = a[i] + b[i];
    }
    return sum;
  }
  const uint16_t *a = (const uint16_t *)x, *b = (const uint16_t *)added;
  uint16_t *sum = (uint16_t *)total;
  EACH_BY_ITSELF for (int64_t i = 0; i < columns; i++) {
    sum[i] = narrowed(widened(a[i]) + widened(b[i]));
    scratch[i] = widened(sum[i]);
  }
  return scratch;
}

INSIDE void norm_rows(int64_t begin, int64_t end, const Norm *n, int narrow, int branch, int narrow_branch) {
  const int64_t columns = n->x.sizes[1];
  const float *weight = n->weight, *bias = n->bias;
  float scratch[WIDEST];
  for (int64_t row = begin; row < end; row++) {
    const float *x = summed(n, row, scratch, narrow, branch, narrow_branch);
    float sum = 0, squares = 0;
    for (int64_t i = 0; i < columns; i++) sum += x[i];
    const float mean = sum / (float)columns;
    for (int64_t i = 0; i < columns; i++) squares += (x[i] - mean) * (x[i] - mean);
    const float scale = 1 / sqrtf(squares / (float)columns + n->epsilon);
    char *out = n->out.data + row * n->out.steps[0];
    if (narrow) {
      uint16_t *y = (uint16_t *)out;
      EACH_BY_ITSELF for (int64_t i = 0; i < columns; i++) y[i] = narrowed((x[i] - mean) * scale * weight[i] + bias[i]);
    } else {
      uint8_t *y = (uint8_t *)out;
      EACH_BY_ITSELF for (int64_t i = 0; i < columns; i++) y[i] = cut_off((x[i] - mean) * scale * weight[i] + bias[i]);
    }
  }
}

INSIDE void norm_loop_body(int64_t begin, int64_t end, void *context) {
  const Norm *n = context;
  const int narrow = n->x.dtype == torch.dtype_bfloat16();
  if (narrow && n->adds)
    norm_rows(begin, end, n, 1, 1, 1);
  else if (narrow)
    norm_rows(begin, end, n, 1, 0, 0);
  else if (!n->adds)
    norm_rows(begin, end, n, 0, 0, 0);
  else if (n->branch.dtype == torch.dtype_bfloat16())
    norm_rows(begin, end, n, 0, 1, 1);
  else
    norm_rows(begin, end, n, 0, 1, 0);
}

FOR_EACH_PROCESSOR(norm_loop)

/* Returns the norm of n->x, or of its sum with n->branch: uint8 of float32, bfloat16 of bfloat16. */
static Tensor normed(Norm *n, Tensor weight, Tensor bias, double epsilon, Wrong *wrong) {
  const int narrow = n->x.dtype == torch.dtype_bfloat16();
  const int64_t *sizes = n->x.sizes, *others[] = {n->branch.sizes, n->total.sizes};
  const View weights = view(weight, 1, wrong), biases = view(bias, 1, wrong);
  expect(narrow || n->x.dtype == torch.dtype_float32(), "expected float32 or bfloat16", wrong);
  expect(sizes[1] <= WIDEST, "the rows are too long", wrong);
  for (int i = 0; n->adds && i < 2; i++)
    expect(others[i][0] == sizes[0] && others[i][1] == sizes[1], "shapes differ", wrong);
  expect(weights.sizes[0] == sizes[1] && biases.sizes[0] == sizes[1], "shapes differ", wrong);
  expect(weights.dtype == torch.dtype_float32() && biases.dtype == weights.dtype, "expected weights of float32", wrong);
  n->weight = (const float *)weights.data, n->bias = (const float *)biases.data;
  n->epsilon = (float)epsilon;
  Tensor out = empty(sizes[0], sizes[1], narrow ? torch.dtype_bfloat16() : torch.dtype_uint8(), wrong);
  if (out) n->out = view(out, 2, wrong);
  run_loop(sizes[0], 1 + NUMBERS_AT_ONCE / (sizes[1] + 1), norm_loop, n, wrong);
  return out;
}

/* norm(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor */
void vitrine_norm(Value *values, uint64_t inputs, uint64_t outputs) {
  (void)inputs, (void)outputs;
  Wrong wrong = NULL;
  Norm n = {.x = view(values[0].tensor, 2, &wrong)};
  Tensor out = normed(&n, values[1].tensor, values[2].tensor, values[3].number, &wrong);
  finish(values, 3, out, wrong);
}

/* sum_norm(Tensor x, Tensor branch, Tensor(a!) total, Tensor weight, Tensor bias, float eps) -> Tensor */
void vitrine_sum_norm(Value *values, uint64_t inputs, uint64_t outputs) {
  (void)inputs, (void)outputs;
  Wrong wrong = NULL;
  Norm n = {.x = view(values[0].tensor, 2, &wrong), .branch = view(values[1].tensor, 2, &wrong), .adds = 1};
  n.total = view(values[2].tensor, 2, &wrong);
  const int fits = n.branch.dtype == n.x.dtype || n.branch.dtype == torch.dtype_bfloat16();
  expect(n.total.dtype == n.x.dtype && fits, "the dtypes do not fit", &wrong);
  Tensor out = normed(&n, values[3].tensor, values[4].tensor, values[5].number, &wrong);
  finish(values, 5, out, wrong);
}

/* ---- rounding to 8 bits ---- */

typedef struct {
  View x, out;
  float factor, shift;
} Rounding;

INSIDE void round_loop_body(int64_t begin, int64_t end, void *context) {
  const Rounding *r = context;
  const int narrow = r->x.dtype == torch.dtype_bfloat16();
  const float factor = r->factor, shift = r->shift;
  const int64_t columns = r->x.sizes[1];
  for (int64_t row = begin; row < end; row++) {
    const char *x = r->x.data + row * r->x.steps[0];
    uint8_t *y = (uint8_t *)(r->out.data + row * r->out.steps[0]);
    if (narrow) {
      const uint16_t *a = (const uint16_t *)x;
      EACH_BY_ITSELF for (int64_t i = 0; i < columns; i++) y[i] = cut_off(widened(a[i]) * factor + shift);
    } else {
      const float *a = (const float *)x;
      EACH_BY_ITSELF for (int64_t i = 0; i < columns; i++) y[i] = cut_off(a[i] * factor + shift);
    }
  }
}

FOR_EACH_PROCESSOR(round_loop)

/* round8(Tensor x, float factor, float shift) -> Tensor: x * factor + shift without its fraction */
void vitrine_round8(Value *values, uint64_t inputs, uint64_t outputs) {
  (void)inputs, (void)outputs;
  Wrong wrong = NULL;
  Rounding r = {view(values[0].tensor, 2, &wrong), .factor = (float)values[1].number, .shift = (float)values[2].number};
  const int fits = r.x.dtype == torch.dtype_bfloat16() || r.x.dtype == torch.dtype_float32();
  expect(fits, "expected float32 or bfloat16", &wrong);
  Tensor out = empty(r.x.sizes[0], r.x.sizes[1], torch.dtype_uint8(), &wrong);
  if (out) r.out = view(out, 2, &wrong);
  run_loop(r.x.sizes[0], 1 + NUMBERS_AT_ONCE / (r.x.sizes[1] + 1), round_loop, &r, &wrong);
  finish(values, 1, out, wrong);
}
