// The pooling kernels on NVIDIA GPUs: CUDA's dialect of kernels/, where the arithmetic is.
//
// No atomics: every value has one thread that computes it, in a fixed order. src/backend/plan.rs says which kernels
// run, over how many threads.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>

#define DEVICE static __device__ __forceinline__
#define RESTRICT __restrict__
// Where what a pointer or a reference names lies, which only Metal tells apart.
#define GLOBAL
#define CONSTANT const
#define SHARED
#define PRIVATE

// Threads of a block at most, as in src/backend/plan.rs.
#define BLOCK 256
#define WARP 32

using u32 = uint32_t;
using u64 = uint64_t;
using DOUBLE = double;

DEVICE u32 high_product(u32 a, u32 b) { return __umulhi(a, b); }

#include "../kernels/params.h"

// ---- The dtypes -----------------------------------------------------------------------------------------------

using f16 = __half;
using bf16 = __nv_bfloat16;
using f32 = float;
using f64 = double;

DEVICE float widen(f16 v) { return __half2float(v); }
DEVICE float widen(bf16 v) { return __bfloat162float(v); }
DEVICE float widen(float v) { return v; }
DEVICE double widen(double v) { return v; }

template <typename T>
struct Element;
template <>
struct Element<f16> {
    using Compute = float;
    DEVICE float largest() { return 65504.0f; }
    DEVICE f16 narrow(float v) { return __float2half_rn(v); }
};
template <>
struct Element<bf16> {
    using Compute = float;
    DEVICE float largest() { return 3.38953139e38f; }
    DEVICE bf16 narrow(float v) { return __float2bfloat16_rn(v); }
};
template <>
struct Element<float> {
    using Compute = float;
    DEVICE float largest() { return 3.40282347e38f; }
    DEVICE float narrow(float v) { return v; }
};
template <>
struct Element<double> {
    using Compute = double;
    DEVICE double largest() { return 1.7976931348623157e308; }
    DEVICE double narrow(double v) { return v; }
};

DEVICE const Temperature<float>& temperature(const Params& p, float) { return p.in_single; }
DEVICE const Temperature<double>& temperature(const Params& p, double) { return p.in_double; }

// ---- What instructions there are -------------------------------------------------------------------------------

// The larger; NaN where one is.
DEVICE float higher(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    float m;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(a), "f"(b));
    return m;
#else
    return a > b || a != a ? a : b;
#endif
}
DEVICE double higher(double a, double b) { return a > b || a != a ? a : b; }

// 2^t, with a relative error of at most 2^-22; results below the normal numbers may be zero.
DEVICE float two_to(float t) {
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(t));
    return e;
}
DEVICE double two_to(double t) { return exp2(t); }

// 1 / b for b from 2^-56 to the number of cells, within a unit in the last place.
DEVICE float reciprocal(float b) {
    float q;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(q) : "f"(b));
    return q;
}
DEVICE double reciprocal(double b) { return 1.0 / b; }

DEVICE float root(float v) { return sqrtf(v); }
DEVICE double root(double v) { return sqrt(v); }
DEVICE float any_power(float v, float p) { return powf(v, p); }
DEVICE double any_power(double v, double p) { return pow(v, p); }

// What the thread of the warp whose number differs in these bits has; all of these lanes exchange.
DEVICE float exchanged(float v, u32 mask, u32 lanes) { return __shfl_xor_sync(lanes, v, mask); }
DEVICE double exchanged(double v, u32 mask, u32 lanes) { return __shfl_xor_sync(lanes, v, mask); }
DEVICE u32 exchanged(u32 v, u32 mask, u32 lanes) { return __shfl_xor_sync(lanes, v, mask); }
DEVICE void wait_for_block() { __syncthreads(); }

#include "../kernels/math.h"
#include "../kernels/index.h"
#include "../kernels/launch.h"
#include "../kernels/rules.h"
#include "../kernels/windows.h"
#include "../kernels/patches.h"
#include "../kernels/tiles.h"

// ---- The kernels by name --------------------------------------------------------------------------------------

#define KERNEL_OF(THREADS, NAME, T, I, ...)                                                                   \
    extern "C" __global__ void __launch_bounds__(BLOCK, sizeof(I) + sizeof(T) <= 8 ? 2 : 1) NAME##_##T##_##I( \
        const T* __restrict__ input, const T* __restrict__ logits, const T* __restrict__ grad,                \
        T* __restrict__ output, Compute<T>* __restrict__ scratch, const __grid_constant__ Params p) {         \
        extern __shared__ double shared[];                                                                    \
        const Buffers<T> of = {input, logits, grad, output, scratch, reinterpret_cast<Compute<T>*>(shared)};  \
        __VA_ARGS__(of, p, Turn{blockIdx.x, gridDim.x, threadIdx.x, THREADS});                                \
    }

// Only blocks of teams may have fewer threads.
#define KERNEL(...) KERNEL_OF(BLOCK, __VA_ARGS__)
#define TEAM_KERNEL(...) KERNEL_OF(blockDim.x, __VA_ARGS__)

#include "../kernels/list.h"

// build.rs compiles a module at a time, so that the driver translates only the kernels that a program needs.
#ifdef MODULE_RULE
KERNELS(MODULE_RULE, MODULE_DTYPE, MODULE_INDEX)
#else
#define RULE(R)             \
    KERNELS(R, f16, u32)    \
    KERNELS(R, f16, u64)    \
    KERNELS(R, bf16, u32)   \
    KERNELS(R, bf16, u64)   \
    KERNELS(R, f32, u32)    \
    KERNELS(R, f32, u64)    \
    KERNELS(R, f64, u32)    \
    KERNELS(R, f64, u64)

RULE(softpool)
RULE(softmax)
RULE(average)
RULE(power)
RULE(weighted)
RULE(maximum)
#endif
