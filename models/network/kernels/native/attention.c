/* Self-attention inside each image of a pack, one head at a time, so that every image is computed as if alone.
 *
 * Source: Vaswani et al. 2017 (arXiv 1706.03762); subtracting the largest logit and dividing the output in the place of
 * the weights as in FlashAttention (Dao et al. 2022, arXiv 2205.14135).
 *
 * Shapes: t queries, T tokens of all images together, N tokens of one image, H heads, d numbers of a head.
 */

#include "attention.h"
#include "tiles.h"

#include <math.h>
#include <stdlib.h>

/* Returns a head of an image: the first of its queries and of its tokens are these rows. */
static Part part_of(const Attention *a, int64_t head, int64_t query, int64_t token) {
  const int64_t bytes = a->q.dtype == torch.dtype_bfloat16() ? 2 : 4;
  return (Part){
      .q = a->q.data + query * a->q.steps[0] + head * a->q.steps[1],
      .k = a->k.data + token * a->k.steps[0] + head * a->k.steps[1],
      .v = a->v.data + token * a->v.steps[0] + head * a->v.steps[1],
      .out = a->out.data + query * a->out.steps[0] + head * a->q.sizes[2] * bytes,
  };
}

/* Computes some of the pairs of a head and an image. Images change fastest: the threads then get some heads of all. */
static void attend_some(int64_t begin, int64_t end, void *context) {
  Attention *a = context;
  const int narrow = a->q.dtype == torch.dtype_bfloat16();
  const int64_t bytes = (narrow ? memory_in_bfloat16 : memory_in_float32)(a, a->longest);
  char *memory = aligned_alloc(64, (size_t)bytes);
  if (!memory) {
    a->failed = 1;
    return;
  }
  for (int64_t task = begin; task < end; task++) {
    int64_t image = task % a->images;
    const int64_t *keys = a->runs, *queries = a->query_runs;
    for (; image >= keys[1]; keys += 3, queries += 3) image -= keys[1];
    Part part = part_of(a, task / a->images, queries[0] + image * queries[2], keys[0] + image * keys[2]);
    part.tokens = keys[2], part.queries = queries[2];
    (narrow ? attend_in_bfloat16 : attend_in_float32)(a, &part, memory);
  }
  free(memory);
}

static int lies_within(const int64_t *run, int64_t tokens) {
  return run[0] >= 0 && run[1] >= 0 && run[2] > 0 && run[0] + run[1] * run[2] <= tokens;
}

/* Notes the runs, (R, 3) each, and counts their images. */
static void read_runs(Attention *a, View runs, View query_runs, Wrong *wrong) {
  const int32_t dtype = torch.dtype_int64();
  expect(runs.dtype == dtype && query_runs.dtype == dtype, "expected runs of int64", wrong);
  expect(runs.sizes[0] == query_runs.sizes[0] && runs.sizes[1] == 3 && query_runs.sizes[1] == 3, "runs differ", wrong);
  const int64_t row = 3 * sizeof(int64_t);
  const int contiguous = runs.sizes[0] < 2 || (runs.steps[0] == row && query_runs.steps[0] == row);
  expect(contiguous, "the runs are not contiguous: their dimensions", wrong);
  a->runs = (const int64_t *)runs.data, a->query_runs = (const int64_t *)query_runs.data;
  for (int64_t run = 0; !*wrong && run < runs.sizes[0]; run++) {
    const int64_t *keys = a->runs + 3 * run, *queries = a->query_runs + 3 * run;
    const int inside = lies_within(keys, a->k.sizes[0]) && lies_within(queries, a->q.sizes[0]);
    expect(inside && keys[1] == queries[1], "runs differ", wrong);
    a->images += keys[1];
    if (a->longest < keys[2]) a->longest = keys[2];
  }
}

/* Notes what is wrong with the dtype, or with what attention in bfloat16 reads in pairs and by 32-bit offsets. */
static void check_dtype(const Attention *a, Wrong *wrong) {
  const int32_t dtype = a->q.dtype;
  const int narrow = dtype == torch.dtype_bfloat16();
  expect(narrow || dtype == torch.dtype_float32(), "expected bfloat16 or float32", wrong);
  expect(a->k.dtype == dtype && a->v.dtype == dtype, "the dtypes differ", wrong);
  if (!narrow) expect(attends_in_float32(), "the compiler was too old for float32", wrong);
  if (!narrow) return;
  expect(has_vectors(), "this processor has no AVX512-BF16", wrong);
  expect(a->q.sizes[2] % 2 == 0, "expected heads of an even number of channels", wrong);
  expect(a->k.steps[0] <= INT32_MAX / 16, "expected tokens that are nearer in memory", wrong);
}

/* attention(Tensor q, Tensor k, Tensor v, Tensor runs, Tensor query_runs, bool tiles) -> Tensor
 *
 * softmax(q k^T / sqrt(d)) v inside each image: (t, H, d), (T, H, d) x 2, (R, 3) x 2 -> (t, H * d).
 */
void vitrine_attention(Value *values, uint64_t inputs, uint64_t outputs) {
  (void)inputs, (void)outputs;
  Wrong wrong = NULL;
  Attention a = {.q = view(values[0].tensor, 3, &wrong)};
  a.k = view(values[1].tensor, 3, &wrong), a.v = view(values[2].tensor, 3, &wrong);
  a.tiles = (values[5].bits & 0xff) && has_tiles();
  check_dtype(&a, &wrong);
  for (int i = 1; i < 3; i++)
    expect(a.k.sizes[i] == a.q.sizes[i] && a.v.sizes[i] == a.q.sizes[i], "shapes differ", &wrong);
  expect(a.k.sizes[0] == a.v.sizes[0], "shapes differ", &wrong);
  read_runs(&a, view(values[3].tensor, 2, &wrong), view(values[4].tensor, 2, &wrong), &wrong);
  a.scale = 1 / sqrtf((float)a.q.sizes[2]);
  Tensor out = empty(a.q.sizes[0], a.q.sizes[1] * a.q.sizes[2], a.q.dtype, &wrong);
  if (out) a.out = view(out, 2, &wrong);
  run_loop(a.images * a.q.sizes[1], 1, attend_some, &a, &wrong);
  expect(!a.failed, NO_MEMORY, &wrong);
  finish(values, 5, out, wrong);
}
