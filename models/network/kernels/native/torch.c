/* What torch.h declares. */

#include "torch.h"

#include "tiles.h"

#include <stddef.h>

Torch torch;

int vitrine_interface(void) { return INTERFACE; }

/* Which instructions there are for products: 0 none, 1 AVX512-BF16, 2 AMX, too. */
int vitrine_level(void) { return has_tiles() ? 2 : has_vectors(); }

void vitrine_connect(const Torch *functions) { torch = *functions; }

void expect(int holds, const char *message, Wrong *wrong) {
  if (!holds && !*wrong) *wrong = message;
}

static int64_t bytes(int32_t dtype) {
  if (dtype == torch.dtype_uint8()) return 1;
  if (dtype == torch.dtype_bfloat16()) return 2;
  return dtype == torch.dtype_int64() ? 8 : 4;
}

View view(Tensor tensor, int64_t dimensions, Wrong *wrong) {
  View found = {.sizes = {1, 1, 1}};
  int64_t count;
  torch.get_dim(tensor, &count);
  expect(count == dimensions, "a tensor has another number of dimensions", wrong);
  if (*wrong) return found;
  torch.get_data_ptr(tensor, (void **)&found.data);
  torch.get_dtype(tensor, &found.dtype);
  for (int64_t i = 0; i < count; i++) {
    torch.get_size(tensor, i, &found.sizes[i]);
    torch.get_stride(tensor, i, &found.steps[i]);
    const int contiguous = found.steps[i] == 1 || found.sizes[i] == 1;
    expect(i + 1 < count || contiguous, "the last dimension is not contiguous", wrong);
    found.steps[i] *= bytes(found.dtype);
  }
  return found;
}

Tensor empty(int64_t rows, int64_t columns, int32_t dtype, Wrong *wrong) {
  const int64_t sizes[] = {rows, columns}, steps[] = {columns, 1};
  Tensor tensor = NULL;
  if (*wrong) return NULL;
  const int failed = torch.empty_strided(2, sizes, steps, dtype, torch.device_type_cpu(), 0, &tensor);
  expect(!failed, NO_MEMORY, wrong);
  return tensor;
}

void run_loop(int64_t steps, int64_t grain, Loop loop, void *context, Wrong *wrong) {
  if (!*wrong) expect(!torch.parallel_for(0, steps, grain, loop, context), "a loop failed", wrong);
}

void finish(Value *values, int inputs, Tensor out, Wrong wrong) {
  for (int i = 0; i < inputs; i++) torch.delete_tensor(values[i].tensor);
  if (wrong && out) torch.delete_tensor(out);
  if (wrong) torch.check(0, "vitrine", "native", 0, wrong);
  values[0].tensor = out;
}
