/* The functions that attention_float32.c compiles once for each generation of processors. It defines COMPILED, NAMED,
 * LANES and ROWS before each time.
 *
 * The vectors are an extension of GCC's that clang has, too, so that this is compiled for any processor.
 */

typedef float NAMED(Floats) __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t NAMED(Ints) __attribute__((vector_size(4 * LANES), may_alias));
#define Floats NAMED(Floats)
#define Ints NAMED(Ints)

#define EACH_ROW _Pragma("GCC unroll 12") for (int row = 0; row < ROWS; row++)
#define EACH_VECTOR _Pragma("GCC unroll 2") for (int i = 0; i < vectors; i++)

/* Multiplies ROWS rows with one or two vectors of columns. */
COMPILED INSIDE void NAMED(multiply_some)(const Product *p, int64_t first, int64_t column, int vectors) {
  const float *left = p->left + first * p->left_step;
  const float *right = p->panels + column / PANEL * PANEL * p->depth + column % PANEL;
  float *out = p->out + first * p->out_step + column;
  Floats sums[ROWS][2];
  EACH_ROW EACH_VECTOR sums[row][i] = (Floats){0};
  for (int64_t number = 0; number < p->depth; number++, right += PANEL)
    EACH_ROW EACH_VECTOR
      sums[row][i] += left[row * p->left_step + number] * *(const Floats *)(right + i * LANES);
  EACH_ROW EACH_VECTOR *(Floats *)(out + row * p->out_step + i * LANES) = sums[row][i];
}

/* `rows` may be fewer than whole groups of ROWS; there is memory for these. */
COMPILED static void NAMED(multiply)(const Product *p) {
  for (int64_t column = 0; column < p->columns; column += 2 * LANES)
    for (int64_t first = 0; first < p->rows; first += ROWS)
      if (column + LANES < p->columns)
        NAMED(multiply_some)(p, first, column, 2);
      else
        NAMED(multiply_some)(p, first, column, 1);
}

COMPILED INSIDE Floats NAMED(choose)(Ints mask, Floats yes, Floats no) {
  return (Floats)(((Ints)yes & mask) | ((Ints)no & ~mask));
}

/* 2^x for x <= 0; below 2^-126 it stays there. What is not a number stays so. The polynomial is fitted to 2e-9. */
COMPILED INSIDE Floats NAMED(power_of_2)(Floats x) {
  x = NAMED(choose)(x < -126, (Floats){0} - 126, x);
  const Ints whole = __builtin_convertvector(x - 0.5f, Ints); /* to the nearest */
  const Floats part = x - __builtin_convertvector(whole, Floats);
  Floats power = part * 1.5345811e-4f + 1.3399931e-3f;
  power = power * part + 9.6184891e-3f;
  power = power * part + 5.5503286e-2f;
  power = power * part + 0.24022646f;
  power = power * part + 0.69314718f;
  power = power * part + 1;
  return (Floats)((Ints)power + (whole << 23));
}

/* Replaces the logits of a query by weights whose quotients with their sum, which is returned, are the softmax of
 * scale * logits. */
COMPILED INSIDE float NAMED(exponentiate)(float *logits, int64_t tokens, float scale) {
  const float factor = scale * 1.44269504f; /* log2(e): 2^(x log2(e)) = e^x */
  const int64_t end = up(tokens, LANES);
  for (int64_t i = tokens; i < end; i++) logits[i] = -INFINITY;
  Floats most = *(Floats *)logits, sums = {0};
  for (int64_t i = LANES; i < end; i += LANES) {
    const Floats x = *(Floats *)(logits + i);
    most = NAMED(choose)(x > most, x, most);
  }
  float largest = most[0], sum = 0;
  for (int i = 1; i < LANES; i++) largest = most[i] > largest ? most[i] : largest;
  for (int64_t i = 0; i < end; i += LANES) {
    const Floats power = NAMED(power_of_2)((*(Floats *)(logits + i) - largest) * factor);
    *(Floats *)(logits + i) = power;
    sums += power;
  }
  for (int i = 0; i < LANES; i++) sum += sums[i];
  return sum;
}

/* Packs up to PANEL keys as columns, with zeros behind the last one. */
COMPILED INSIDE void NAMED(pack_keys)(const Workspace *w, const float *keys, int64_t step, int64_t token) {
  const int64_t left = w->tokens - token, count = left < PANEL ? left : PANEL;
  const float *from = keys + token * step;
  float *to = w->keys + token * w->head;
  fetch(from + PANEL * step, step, left - PANEL < PANEL ? left - PANEL : PANEL, w->head);
  if (count < PANEL) memset(to, 0, (size_t)(PANEL * w->head * 4));
  int64_t done = 0;
  for (; done + 4 <= count; done += 4) transpose(from + done * step, step, to + done, w->head);
  for (; done < count; done++)
    for (int64_t i = 0; i < w->head; i++) to[i * PANEL + done] = from[done * step + i];
}

/* Packs values as rows, with zeros behind the last number of each. */
COMPILED INSIDE void NAMED(pack_values)(const Workspace *w, const float *values, int64_t step, int64_t column) {
  const int64_t left = w->head - column, count = left < PANEL ? left : PANEL;
  float *to = w->values + column * w->tokens;
  for (int64_t token = 0; token < w->tokens; token++, to += PANEL) {
    const float *from = values + token * step + column;
    if (count == PANEL)
      for (int64_t i = 0; i < PANEL; i++) to[i] = from[i];
    else
      for (int64_t i = 0; i < PANEL; i++) to[i] = i < count ? from[i] : 0;
  }
}

/* Computes the attention of some queries. */
COMPILED INSIDE void NAMED(attend_block)(const Attention *a, const Workspace *w, const char *q, char *out,
                                         int64_t count) {
  const Product logits = {w->queries, w->keys, w->logits, w->head, w->columns, count, w->head, up(w->tokens, LANES)};
  const Product outputs = {w->logits, w->values, w->outputs, w->columns, w->width, count, w->tokens,
                           up(w->head, LANES)};
  float sums[BLOCK];
  for (int64_t row = 0; row < count; row++)
    memcpy(w->queries + row * w->head, q + row * a->q.steps[0], (size_t)w->head * 4);
  for (int64_t row = count; row < up(count, ROWS); row++) /* what lies there may be denormal, and slow */
    memset(w->queries + row * w->head, 0, (size_t)w->head * 4);
  NAMED(multiply)(&logits);
  for (int64_t row = 0; row < count; row++)
    sums[row] = NAMED(exponentiate)(w->logits + row * w->columns, w->tokens, a->scale);
  NAMED(multiply)(&outputs);
  for (int64_t row = 0; row < count; row++) {
    float *output = (float *)(out + row * a->out.steps[0]);
    for (int64_t i = 0; i < w->head; i++) output[i] = w->outputs[row * w->width + i] / sums[row];
  }
}

COMPILED static void NAMED(attend)(const Attention *a, const Workspace *w, const Part *part) {
  const int64_t query_step = a->q.steps[0], key_step = a->k.steps[0] / 4, value_step = a->v.steps[0] / 4;
  for (int64_t token = 0; token < w->tokens; token += PANEL)
    NAMED(pack_keys)(w, (const float *)part->k, key_step, token);
  for (int64_t column = 0; column < w->width; column += PANEL)
    NAMED(pack_values)(w, (const float *)part->v, value_step, column);
  for (int64_t done = 0; done < part->queries; done += BLOCK) {
    const int64_t left = part->queries - done, count = left < BLOCK ? left : BLOCK;
    const char *q = part->q + done * query_step;
    fetch((const float *)(q + BLOCK * query_step), query_step / 4, left - BLOCK < BLOCK ? left - BLOCK : BLOCK, w->head);
    NAMED(attend_block)(a, w, q, part->out + done * a->out.steps[0], count);
  }
}

#undef COMPILED
#undef NAMED
#undef LANES
#undef ROWS
#undef Floats
#undef Ints
#undef EACH_ROW
#undef EACH_VECTOR
