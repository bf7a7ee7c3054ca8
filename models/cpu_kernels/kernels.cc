// Kernels for CPUs, called by XLA: products of a few rows by weights that are read once, attention
// of a few queries over keys and values that are read once.
//
// Each instruction set has its own copy of the .inc files; the processor's best is chosen at the first
// call. Work runs on XLA's own threads.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Floats5 = ffi::Buffer<ffi::F32, 5>;

namespace {

enum Bf16 : uint16_t {};

inline float widened(float x) { return x; }
inline float widened(Bf16 x) {
  const uint32_t bits = uint32_t{x} << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
// To the nearest, ties to even. Inputs that are bfloat16 already stay as they are.
inline uint16_t rounded(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (x != x) return bits >> 16 | 0x40;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

template <typename W>
using Multiply = void (*)(const void* x, long words, long rows, const W* w, long inputs,
                          long outputs, long first, long last, float* y);

// The products of one instruction set.
template <typename W>
struct Products {
  int inputs_per_word;
  void (*pack_floats)(const float* x, long rows, long inputs, long words, void* to);
  void (*pack_halves)(const Bf16* x, long rows, long inputs, long words, void* to);
  Multiply<W> by_columns, by_rows;
};

// The queries of one row and KV head, and the context that they see. All arrays are of this head.
struct Queries {
  const float* q;                // [positions, group, head_dim], scaled
  const int32_t *first, *last;   // [positions]: what each sees of its row, both included
  const int32_t* blocks;         // the row's block table
  const float* sinks;            // [group], or null
  float* out;                    // as q
  long positions, group, head_dim, block_size;
  long block_stride;             // from a block to the next one, in elements of the pool
  float softcap;                 // 0 for none
};

namespace plain {
#define LANES 4
#define BF16_PAIRS 0
#include "vectors.inc"
#include "products.inc"
#include "attention.inc"
#undef LANES
#undef BF16_PAIRS
}  // namespace plain

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define LANES 8
#define BF16_PAIRS 0
#include "vectors.inc"
#include "products.inc"
#include "attention.inc"
#undef LANES
#undef BF16_PAIRS
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
namespace avx512 {
#define LANES 16
#define BF16_PAIRS 0
#include "vectors.inc"
#include "products.inc"
#include "attention.inc"
#undef LANES
#undef BF16_PAIRS
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")
namespace avx512_bf16 {
#define LANES 16
#define BF16_PAIRS 1
#include "vectors.inc"
#include "products.inc"
#include "attention.inc"
#undef LANES
#undef BF16_PAIRS
}  // namespace avx512_bf16
#pragma GCC pop_options
#endif

// What `choose` makes of the best instruction set of this processor.
#if defined(__x86_64__)
#define BEST(what)                                                                              \
  (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&                  \
           __builtin_cpu_supports("avx512vl")                                                   \
       ? __builtin_cpu_supports("avx512bf16") ? avx512_bf16::what : avx512::what                \
   : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2::what               \
                                                                     : plain::what)
#else
#define BEST(what) plain::what
#endif

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
  for (long i = std::min<long>(pool.num_threads(), count); i > 1; i--) pool.Schedule(decltype(run)(run));
  run();
  while (progress->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
}

// The bytes of weights that a thread takes at a time, and the floats of sums that stay near it.
constexpr long kPartBytes = 128 << 10, kPartSums = 8 << 10;

template <typename W>
ffi::Error product(ffi::ThreadPool& pool, ffi::AnyBuffer x, const W* w, long outputs,
                   bool is_transposed, float* y) {
  const Products<W>& kernels = BEST(products<W>);
  const long rows = x.dimensions()[0], inputs = x.dimensions()[1];
  const long used = (inputs + kernels.inputs_per_word - 1) / kernels.inputs_per_word;
  const long words = (used + 15) / 16 * 16;
  std::vector<uint32_t> packed(rows * words);
  if (x.element_type() == ffi::BF16) {
    kernels.pack_halves(static_cast<const Bf16*>(x.untyped_data()), rows, inputs, words, packed.data());
  } else {
    kernels.pack_floats(static_cast<const float*>(x.untyped_data()), rows, inputs, words, packed.data());
  }
  long part = kPartBytes / sizeof(W) / inputs;
  if (!is_transposed) part = std::min(part, kPartSums / rows);
  part = std::max<long>(part / 32 * 32, 32);
  in_parallel(pool, (outputs + part - 1) / part, [&](long i) {
    const auto multiply = is_transposed ? kernels.by_rows : kernels.by_columns;
    multiply(packed.data(), words, rows, w, inputs, outputs, i * part,
             std::min(outputs, (i + 1) * part), y);
  });
  return ffi::Error::Success();
}

ffi::Error any_product(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer w,
                       ffi::ResultBufferR2<ffi::F32> y, bool is_transposed) {
  const long outputs = y->dimensions()[1];
  const auto run = [&](auto type) {
    return product(pool, x, static_cast<const decltype(type)*>(w.untyped_data()), outputs,
                   is_transposed, y->typed_data());
  };
  switch (w.element_type()) {
    case ffi::BF16: return run(Bf16{});
    case ffi::F32: return run(float{});
    case ffi::S8: return run(int8_t{});
    default: return ffi::Error::InvalidArgument("weights must be bfloat16, float32 or int8");
  }
}

template <typename T>
ffi::Error attention(ffi::ThreadPool& pool, const Queries& all, const T* k, const T* v, long rows,
                     long heads, long table_size) {
  const auto attend = BEST(attend<T>);
  in_parallel(pool, rows * heads, [&](long i) {
    const long row = i / heads, head = i % heads;
    Queries own = all;
    const long size = all.positions * all.group * all.head_dim;
    own.q += i * size, own.out += i * size;
    own.first += row * all.positions, own.last += row * all.positions;
    own.blocks += row * table_size;
    if (own.sinks) own.sinks += head * all.group;
    const long from = head * all.block_size * all.head_dim;
    attend(own, k + from, v + from);
  });
  return ffi::Error::Success();
}

ffi::Error any_attention(ffi::ThreadPool pool, Floats5 q_NKQGH,
                         ffi::BufferR2<ffi::S32> first_NQ, ffi::BufferR2<ffi::S32> last_NQ,
                         ffi::BufferR2<ffi::S32> table_NB, ffi::AnyBuffer k_BKPH,
                         ffi::AnyBuffer v_BKPH, ffi::BufferR2<ffi::F32> sinks_KG,
                         ffi::Result<Floats5> out_NKQGH, float softcap) {
  const auto q = q_NKQGH.dimensions();
  const long heads = q[1], block_size = k_BKPH.dimensions()[2];
  const Queries all = {q_NKQGH.typed_data(),
                       first_NQ.typed_data(),
                       last_NQ.typed_data(),
                       table_NB.typed_data(),
                       sinks_KG.element_count() ? sinks_KG.typed_data() : nullptr,
                       out_NKQGH->typed_data(),
                       q[2],
                       q[3],
                       q[4],
                       block_size,
                       heads * block_size * q[4],
                       softcap};
  const auto run = [&](auto type) {
    using T = decltype(type);
    return attention(pool, all, static_cast<const T*>(k_BKPH.untyped_data()),
                     static_cast<const T*>(v_BKPH.untyped_data()), q[0], heads,
                     table_NB.dimensions()[1]);
  };
  switch (k_BKPH.element_type()) {
    case ffi::BF16: return run(Bf16{});
    case ffi::F32: return run(float{});
    default: return ffi::Error::InvalidArgument("keys and values must be bfloat16 or float32");
  }
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(antipode_attention, any_attention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats5>()
                                  .Arg<ffi::BufferR2<ffi::S32>>()
                                  .Arg<ffi::BufferR2<ffi::S32>>()
                                  .Arg<ffi::BufferR2<ffi::S32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::BufferR2<ffi::F32>>()
                                  .Ret<Floats5>()
                                  .Attr<float>("softcap"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(antipode_product, any_product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::BufferR2<ffi::F32>>()
                                  .Attr<bool>("is_transposed"));
