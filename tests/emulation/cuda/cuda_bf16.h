// What cuda/softpool.cu uses of CUDA's header of this name.
#pragma once
#include <stdint.h>
#include <string.h>
struct __nv_bfloat16 {
    uint16_t bits;
};
static inline float __bfloat162float(__nv_bfloat16 v) {
    const uint32_t bits = uint32_t(v.bits) << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline __nv_bfloat16 __float2bfloat16_rn(float v) {
    if (v != v) return {0x7fff};
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
