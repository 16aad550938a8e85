/* What tiles.h declares. */

#define _GNU_SOURCE /* for `syscall` */

#include "tiles.h"

#ifdef FOR_X86
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

int has_vectors(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
}

static int may_use_tiles(void) {
  enum { REQUEST = 0x1023, TILES_OF_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
  uint32_t a, b, c, d = 0;
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
  const uint32_t needed = 1u << 22 | 1u << 24 | 1u << 25; /* AMX-BF16, AMX-TILE, AMX-INT8 */
  return has_vectors() && (d & needed) == needed && syscall(SYS_arch_prctl, REQUEST, TILES_OF_DATA) == 0;
}

int has_tiles(void) {
  static atomic_int has = -1;
  if (has < 0) has = may_use_tiles();
  return has;
}

TILES void configure_tiles(int64_t rows) {
  struct {
    uint8_t palette, start, unused[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } all = {.palette = 1};
  for (int tile = 0; tile < 8; tile++) all.bytes[tile] = STEP, all.rows[tile] = TILE;
  all.rows[0] = all.rows[1] = all.rows[4] = (uint8_t)(rows < TILE ? rows : TILE);
  all.rows[2] = all.rows[3] = all.rows[5] = (uint8_t)(rows > TILE ? rows - TILE : TILE);
  __asm__ volatile("" ::"m"(all)); /* GCC does not know that the instruction reads all of it */
  _tile_loadconfig(&all);
}

TILES void release_tiles(void) { _tile_release(); }

#else

int has_vectors(void) { return 0; }

int has_tiles(void) { return 0; }

#endif
