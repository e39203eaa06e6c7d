// The values of PTX's types, and how a register of 64 bits holds them.
#pragma once
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

namespace ptx {

using u64 = uint64_t;
using f16 = _Float16;

// The nearest float, or its neighbour with an odd last bit where the value lies between: rounding that to fewer bits
// rounds the value once.
inline float round_to_odd(double v) {
    float near = static_cast<float>(v);
    uint32_t bits;
    memcpy(&bits, &near, sizeof bits);
    if (double(near) == v || v != v || isinf(near) || bits & 1) return near;
    bits += fabs(double(near)) < fabs(v) ? 1 : -1;
    memcpy(&near, &bits, sizeof near);
    return near;
}

struct bf16 {
    uint16_t bits;
    bf16() = default;
    // To nearest, ties to even.
    explicit bf16(double v) {
        const float f = round_to_odd(v);
        uint32_t b;
        memcpy(&b, &f, sizeof b);
        bits = f != f ? 0x7fff : uint16_t((b + 0x7fff + (b >> 16 & 1)) >> 16);
    }
    operator double() const {
        const uint32_t b = uint32_t(bits) << 16;
        float f;
        memcpy(&f, &b, sizeof f);
        return f;
    }
};

template <class T>
constexpr bool is_half = std::is_same_v<T, f16> || std::is_same_v<T, bf16>;
template <class T>
constexpr bool is_float = std::is_same_v<T, float> || std::is_same_v<T, double> || is_half<T>;

// What arithmetic on T is computed in. Sums and products of the 16-bit types are exact in double.
template <class T>
using Wide = std::conditional_t<is_half<T>, double, T>;

// The low bits of a register.
template <class T>
inline T get(u64 bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
// A register with these low bits, zero above.
template <class T>
inline u64 put(T value) {
    u64 bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}

// .ftz: subnormal numbers are zero.
inline float flush(float v) { return fabsf(v) < 1.17549435e-38f ? copysignf(0.0f, v) : v; }
inline double flush(double v) { return v; }

enum class Rounding : uint8_t { NEAREST, ZERO, DOWN, UP };

// Computes with the processor in another rounding mode; what it computes with must be volatile.
template <class F>
inline auto rounded(Rounding mode, F compute) {
    constexpr int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
    if (mode == Rounding::NEAREST) return compute();
    fesetround(modes[int(mode)]);
    const auto result = compute();
    fesetround(FE_TONEAREST);
    return result;
}

}  // namespace ptx
