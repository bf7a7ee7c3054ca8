// Kernels for CPUs, called by XLA: products of a few rows by weights that are read once, attention
// of a few queries over keys and values that are read once.
//
// Each instruction set has its own copy of kernels.inc; the processor's best is chosen at the first
// call. Work runs on XLA's own threads.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Floats2 = ffi::Buffer<ffi::F32, 2>;
using Floats5 = ffi::Buffer<ffi::F32, 5>;
using Ints2 = ffi::Buffer<ffi::S32, 2>;

namespace {

enum Bf16 : uint16_t {};

inline float widened(Bf16 x) {
  const uint32_t bits = uint32_t{x} << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T>
const T* data(ffi::AnyBuffer buffer) {
  return static_cast<const T*>(buffer.untyped_data());
}

// Runs `work(i)` for each i below `count`, on this thread and the pool's. A thread that comes late
// finds nothing left and touches nothing but `next`, so nobody waits for it.
template <typename Work>
void in_parallel(ffi::ThreadPool& pool, long count, const Work& work) {
  struct Progress {
    std::atomic<long> next{0}, done{0};
  };
  const auto progress = std::make_shared<Progress>();
  auto run = [progress, count, &work] {
    for (long i; (i = progress->next.fetch_add(1)) < count;) {
      work(i);
      progress->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (long i = std::min<long>(pool.num_threads(), count); i > 1; i--)
    pool.Schedule(decltype(run)(run));
  run();
  while (progress->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
}

namespace plain {
#define LANES 4
#define BF16_PAIRS 0
#include "kernels.inc"
}  // namespace plain

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define LANES 8
#define BF16_PAIRS 0
#include "kernels.inc"
}  // namespace avx2
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
namespace avx512 {
#define LANES 16
#define BF16_PAIRS 0
#include "kernels.inc"
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16")
namespace avx512_bf16 {
#define LANES 16
#define BF16_PAIRS 1
#include "kernels.inc"
}  // namespace avx512_bf16
#pragma GCC pop_options

#endif

// `what` of the processor's best instruction set, unless it was chosen when this was compiled.
#if !defined(BEST) && defined(__x86_64__)
#define BEST(what)                                                                  \
  (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&      \
           __builtin_cpu_supports("avx512vl")                                       \
       ? __builtin_cpu_supports("avx512bf16") ? avx512_bf16::what : avx512::what    \
   : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2::what   \
                                                                     : plain::what)
#elif !defined(BEST)
#define BEST(what) plain::what
#endif

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(antipode_attention, BEST(any_attention),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats5>()
                                  .Arg<Ints2>()
                                  .Arg<Ints2>()
                                  .Arg<Ints2>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<Floats2>()
                                  .Ret<Floats5>()
                                  .Attr<float>("softcap"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(antipode_product, BEST(any_product),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<Floats2>()
                                  .Attr<bool>("is_transposed"));
