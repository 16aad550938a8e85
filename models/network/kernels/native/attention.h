/* Self-attention of one head of one image, in each dtype that there is an operator for. */

#ifndef VITRINE_ATTENTION_H
#define VITRINE_ATTENTION_H

#include "torch.h"

#include <stdatomic.h>
#include <stddef.h>

typedef struct {
  View q, k, v, out; /* (t, H, d), (T, H, d) twice, (t, H * d) */
  const int64_t *runs, *query_runs; /* (R, 3): first token, images, tokens of each */
  int64_t images, longest; /* of all runs */
  float scale;
  int tiles; /* whether to multiply with AMX */
  atomic_int failed; /* whether memory was missing */
} Attention;

typedef struct { /* a head of an image */
  const char *q, *k, *v; /* of its first query and token */
  char *out;
  int64_t tokens, queries;
} Part;

/* Return how many bytes of memory the head of an image of so many tokens takes. */
int64_t memory_in_bfloat16(const Attention *a, int64_t tokens);
int64_t memory_in_float32(const Attention *a, int64_t tokens);

int attends_in_float32(void); /* whether the compiler could compile it */
void attend_in_bfloat16(const Attention *a, const Part *part, char *memory); /* with `has_vectors` only */
void attend_in_float32(const Attention *a, const Part *part, char *memory);

INSIDE int64_t up(int64_t number, int64_t multiple) { return (number + multiple - 1) / multiple * multiple; }

/* Returns a place for so many bytes, and moves the end behind it. */
INSIDE void *take(char *memory, int64_t *end, int64_t bytes) {
  void *taken = memory ? memory + *end : NULL;
  *end += up(bytes, 64);
  return taken;
}

#endif
