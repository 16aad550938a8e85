/* torch's stable C interface, as far as the operators here use it.
 *
 * The types are declared here, so that neither torch's headers nor Python's are needed to compile. operators.py gives
 * torch's functions to `vitrine_connect`, because nothing is linked with torch's libraries either.
 *
 * Source: https://docs.pytorch.org/docs/stable/notes/libtorch_stable_abi.html
 */

#ifndef VITRINE_TORCH_H
#define VITRINE_TORCH_H

#include <stdint.h>

#define INSIDE static inline __attribute__((always_inline))

/* Raise it with every change of what operators.py calls or passes; operators.py refuses a library with another number
 * than its own. */
enum { INTERFACE = 3 };

typedef void *Tensor;

typedef union { /* an argument or a result of an operator */
  uint64_t bits;
  Tensor tensor;
  double number;
} Value;

typedef void (*Loop)(int64_t begin, int64_t end, void *context);

typedef struct { /* in the order of FUNCTIONS in operators.py */
  int32_t (*get_data_ptr)(Tensor, void **);
  int32_t (*get_dim)(Tensor, int64_t *);
  int32_t (*get_size)(Tensor, int64_t, int64_t *);
  int32_t (*get_stride)(Tensor, int64_t, int64_t *);
  int32_t (*get_dtype)(Tensor, int32_t *);
  int32_t (*empty_strided)(int64_t, const int64_t *, const int64_t *, int32_t, int32_t, int32_t, Tensor *);
  int32_t (*delete_tensor)(Tensor);
  int32_t (*parallel_for)(int64_t, int64_t, int64_t, Loop, void *);
  void (*check)(uint8_t, const char *, const char *, uint32_t, const char *);
  int32_t (*dtype_float32)(void);
  int32_t (*dtype_bfloat16)(void);
  int32_t (*dtype_uint8)(void);
  int32_t (*dtype_int64)(void);
  int32_t (*device_type_cpu)(void);
} Torch;

extern Torch torch;

typedef struct { /* a tensor of up to three dimensions whose last one is contiguous */
  char *data;
  int64_t sizes[3], steps[3]; /* steps in bytes */
  int32_t dtype;
} View;

/* What is wrong with an operator's arguments is kept until the end, where `finish` frees its tensors and raises. So
 * nothing below raises, and each function does nothing where something is wrong already. */
typedef const char *Wrong;

#define NO_MEMORY "can't allocate memory" /* what app/inference/device/backend.py recognises in torch's message, too */

/* Notes the first message whose condition does not hold. */
void expect(int holds, const char *message, Wrong *wrong);

View view(Tensor tensor, int64_t dimensions, Wrong *wrong);

/* Returns a new matrix on the CPU. */
Tensor empty(int64_t rows, int64_t columns, int32_t dtype, Wrong *wrong);

/* Runs a loop on torch's threads; `grain` steps are worth a thread. */
void run_loop(int64_t steps, int64_t grain, Loop loop, void *context, Wrong *wrong);

/* Frees the operator's inputs and returns its output, or raises RuntimeError in Python. */
void finish(Value *values, int inputs, Tensor out, Wrong wrong);

#endif
