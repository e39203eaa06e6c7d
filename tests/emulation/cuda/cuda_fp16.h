// What cuda/softpool.cu uses of CUDA's header of this name.
#pragma once
struct __half {
    _Float16 value;
};
static inline float __half2float(__half v) { return v.value; }
static inline __half __float2half_rn(float v) { return {static_cast<_Float16>(v)}; }
