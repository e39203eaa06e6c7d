// The pooling kernels on Apple GPUs: the dialect of kernels/, where the arithmetic is, in Metal 3.0's language.
//
// To be compiled without fast math: infinities and NaN mean something here. No atomics: every value has one thread that
// computes it, in a fixed order. src/backend/plan.rs says which kernels run, over how many threads;
// src/backend/metal_source.rs puts the headers in their places.
#include <metal_stdlib>
using namespace metal;

#define DEVICE static inline
#define RESTRICT
// Where what a pointer or a reference names lies.
#define GLOBAL device
#define CONSTANT constant
#define SHARED threadgroup
#define PRIVATE thread

// Threads of a SIMD group.
#define WARP 32

typedef uint u32;
typedef ulong u64;
// Metal has no such type: its bits.
typedef ulong DOUBLE;

DEVICE u32 high_product(u32 a, u32 b) { return mulhi(a, b); }

#include "../kernels/params.h"

// ---- The dtypes -----------------------------------------------------------------------------------------------

typedef half f16;
// Metal 3.0 has no bfloat: these are its bits, the upper half of a float's.
typedef ushort bf16;
typedef float f32;

DEVICE float widen(f16 v) { return float(v); }
DEVICE float widen(bf16 v) { return as_type<float>(uint(v) << 16); }
DEVICE float widen(float v) { return v; }

template <typename T>
struct Element;
template <>
struct Element<f16> {
    typedef float Compute;
    static float largest() { return 65504.0f; }
    static f16 narrow(float v) { return f16(v); }
};
template <>
struct Element<bf16> {
    typedef float Compute;
    static float largest() { return 3.38953139e38f; }
    // To nearest, ties to even; rounding could carry a NaN of the hardware's, such as 0x7fffffff, into another number.
    static bf16 narrow(float v) {
        uint bits = as_type<uint>(v);
        bits = v != v ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        return bf16(bits);
    }
};
template <>
struct Element<float> {
    typedef float Compute;
    static float largest() { return 3.40282347e38f; }
    static float narrow(float v) { return v; }
};

DEVICE constant Temperature<float>& temperature(constant Params& p, float) { return p.in_single; }

// ---- What instructions there are ------------------------------------------------------------------------------

// The larger; NaN where one is.
DEVICE float higher(float a, float b) { return a > b || a != a ? a : b; }

// 2^t, within four units in the last place; results below the normal numbers may be zero.
DEVICE float two_to(float t) { return precise::exp2(t); }

DEVICE float reciprocal(float b) { return 1.0f / b; }

DEVICE float root(float v) { return precise::sqrt(v); }
DEVICE float any_power(float v, float p) { return precise::pow(v, p); }

// What the thread of the SIMD group whose number differs in these bits has. Those that run exchange, all of a team among
// them.
DEVICE float exchanged(float v, u32 mask, u32) { return simd_shuffle_xor(v, ushort(mask)); }
DEVICE u32 exchanged(u32 v, u32 mask, u32) { return simd_shuffle_xor(v, ushort(mask)); }
DEVICE void wait_for_block() { threadgroup_barrier(mem_flags::mem_threadgroup); }

#include "../kernels/math.h"
#include "../kernels/index.h"
#include "../kernels/launch.h"
#include "../kernels/rules.h"
#include "../kernels/windows.h"
#include "../kernels/patches.h"
#include "../kernels/tiles.h"

// ---- The kernels by name --------------------------------------------------------------------------------------

#define KERNEL(NAME, T, I, ...)                                                                       \
    kernel void NAME##_##T##_##I(                                                                     \
        device const T* input [[buffer(0)]], device const T* logits [[buffer(1)]],                    \
        device const T* grad [[buffer(2)]], device T* output [[buffer(3)]],                           \
        device float* scratch [[buffer(4)]], constant Params& p [[buffer(5)]],                        \
        threadgroup float* shared [[threadgroup(0)]], uint block [[threadgroup_position_in_grid]],    \
        uint blocks [[threadgroups_per_grid]], uint index [[thread_position_in_threadgroup]],         \
        uint count [[threads_per_threadgroup]]) {                                                     \
        const Buffers<T> of = {input, logits, grad, output, scratch, shared};                         \
        const Turn turn = {block, blocks, index, count};                                              \
        __VA_ARGS__(of, p, turn);                                                                     \
    }

// Blocks of any may have fewer threads than the plan says.
#define TEAM_KERNEL KERNEL

#include "../kernels/list.h"

// src/backend/metal.rs has a module compiled at a time, and only when a program needs it.
KERNELS(MODULE_RULE, MODULE_DTYPE, MODULE_INDEX)
