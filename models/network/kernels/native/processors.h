/* Code that is compiled for each generation of x86 processors. */

#ifndef VITRINE_PROCESSORS_H
#define VITRINE_PROCESSORS_H

#if defined(__x86_64__) && defined(__GNUC__)
#define FOR_GENERATIONS

#if defined(__clang__)
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#else /* by itself GCC uses half of the vectors' width */
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,prefer-vector-width=512")))
#endif
#define AVX2 __attribute__((target("avx2,fma")))

#define HAS_AVX512                                                                                                \
  (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
#define HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))

/* Defines `name`, a loop that runs `name##_body` as it is compiled for this processor. */
#define FOR_EACH_PROCESSOR(name)                                                                           \
  AVX512 static void name##_avx512(int64_t begin, int64_t end, void *of) { name##_body(begin, end, of); } \
  AVX2 static void name##_avx2(int64_t begin, int64_t end, void *of) { name##_body(begin, end, of); }     \
  static void name##_any(int64_t begin, int64_t end, void *of) { name##_body(begin, end, of); }           \
  static void name(int64_t begin, int64_t end, void *of) {                                                \
    (HAS_AVX512 ? name##_avx512 : HAS_AVX2 ? name##_avx2 : name##_any)(begin, end, of);                   \
  }
#else
#define FOR_EACH_PROCESSOR(name) \
  static void name(int64_t begin, int64_t end, void *of) { name##_body(begin, end, of); }
#endif

#endif
