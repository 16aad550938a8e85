/* What torch.h declares. */

#include "torch.h"

#include <stddef.h>

Torch torch;

int vitrine_interface(void) { return INTERFACE; }

void vitrine_connect(const Torch *functions) { torch = *functions; }

void require(int holds, const char *message) {
  if (!holds) torch.check(0, "vitrine", "native", 0, message);
}

static int64_t bytes(int32_t dtype) {
  if (dtype == torch.dtype_uint8()) return 1;
  if (dtype == torch.dtype_bfloat16()) return 2;
  return dtype == torch.dtype_int64() ? 8 : 4;
}

View view(Tensor tensor, int64_t dimensions) {
  View found = {.sizes = {1, 1, 1}};
  int64_t count;
  torch.get_dim(tensor, &count);
  require(count == dimensions && count <= 3, "a tensor has another number of dimensions");
  torch.get_data_ptr(tensor, (void **)&found.data);
  torch.get_dtype(tensor, &found.dtype);
  for (int64_t i = 0; i < count; i++) {
    torch.get_size(tensor, i, &found.sizes[i]);
    torch.get_stride(tensor, i, &found.steps[i]);
    require(i + 1 < count || found.steps[i] == 1 || found.sizes[i] == 1, "the last dimension is not contiguous");
    found.steps[i] *= bytes(found.dtype);
  }
  return found;
}

Tensor empty(int64_t rows, int64_t columns, int32_t dtype) {
  const int64_t sizes[] = {rows, columns}, steps[] = {columns, 1};
  Tensor tensor = NULL;
  require(!torch.empty_strided(2, sizes, steps, dtype, torch.device_type_cpu(), 0, &tensor), "out of memory");
  return tensor;
}
