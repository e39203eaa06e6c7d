// What PTX's instructions do: the functions, then the one table that names them all.
#include <stdlib.h>

#include <algorithm>
#include <limits>
#include <sstream>

#include "machine.hpp"

namespace ptx {

namespace {

// ---- Arithmetic on two values ---------------------------------------------------------------------------------

// Integers are unsigned where their sign makes no difference.
struct Add {
    template <class T> static T of(T a, T b) { return T(a + b); }
};
struct Subtract {
    template <class T> static T of(T a, T b) { return T(a - b); }
};
struct Multiply {
    template <class T> static T of(T a, T b) {
        if constexpr (is_float<T>) return a * b;
        else return T(u64(a) * u64(b));
    }
};
struct MultiplyHigh {
    template <class T> static T of(T a, T b) {
        using Twice = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
        return T(Twice(a) * Twice(b) >> 8 * sizeof(T));
    }
};
struct Divide {
    template <class T> static T of(T a, T b) {
        if constexpr (is_float<T>) return a / b;
        else return b == 0 ? T(-1) : std::is_signed_v<T> && b == T(-1) ? T(-u64(a)) : T(a / b);
    }
};
struct Remainder {
    template <class T> static T of(T a, T b) { return b == 0 ? a : std::is_signed_v<T> && b == T(-1) ? T(0) : T(a % b); }
};
template <bool LESS, bool NANS>
struct Extreme {
    template <class T> static T of(T a, T b) {
        if constexpr (is_float<T>) {
            if (a != a || b != b) return NANS ? T(NAN) : a != a ? b : a;
            if (a == b) return bool(signbit(a)) == LESS ? a : b;
        }
        return (a < b) == LESS ? a : b;
    }
};
struct CopySign {  // the sign of a, the rest of b
    template <class T> static T of(T a, T b) { return T(copysign(b, a)); }
};
struct And {
    template <class T> static T of(T a, T b) { return a & b; }
};
struct Or {
    template <class T> static T of(T a, T b) { return a | b; }
};
struct Xor {
    template <class T> static T of(T a, T b) { return a ^ b; }
};

template <class T>
T saturated(T v) {
    return v > 0 ? v < 1 ? v : T(1) : T(0);
}

template <class T, class Op>
void binary(const Instruction& i, u64* r, Machine&) {
    const T a = get<T>(r[i.source[0]]), b = get<T>(r[i.source[1]]);
    if constexpr (is_float<T>) {
        using W = Wide<T>;
        W x = W(a), y = W(b);
        if (i.ftz) x = flush(x), y = flush(y);
        W z = i.rounding == Rounding::NEAREST ? Op::template of<W>(x, y) : rounded(i.rounding, [&] {
            volatile W p = x, q = y;
            return Op::template of<W>(p, q);
        });
        if (i.ftz) z = flush(z);
        if (i.saturate) z = saturated(z);
        r[i.destination[0]] = put(T(z));
    } else {
        r[i.destination[0]] = put(Op::template of<T>(a, b));
    }
}

// Sums and differences of 32 bits with a carry, in or out.
template <bool MINUS>
void with_carry(const Instruction& i, u64* r, Machine& m) {
    const u64 a = uint32_t(r[i.source[0]]), b = uint32_t(r[i.source[1]]), in = i.carry_in ? m.carry : 0;
    const u64 sum = MINUS ? a - b - in : a + b + in;
    if (i.carry_out) m.carry = sum >> 32 & 1;
    r[i.destination[0]] = uint32_t(sum);
}

// Shifts by the width of the type or more leave nothing but the sign.
template <class T, bool LEFT>
void shift(const Instruction& i, u64* r, Machine&) {
    const T a = get<T>(r[i.source[0]]);
    const uint32_t by = uint32_t(r[i.source[1]]), width = 8 * sizeof(T);
    const T rest = std::is_signed_v<T> && a < 0 ? T(-1) : T(0);
    r[i.destination[0]] = put(LEFT ? (by < width ? T(u64(a) << by) : T(0)) : (by < width ? T(a >> by) : rest));
}

// ---- Arithmetic on three values -------------------------------------------------------------------------------

template <class T>
void fused(const Instruction& i, u64* r, Machine&) {
    using W = Wide<T>;
    W a = W(get<T>(r[i.source[0]])), b = W(get<T>(r[i.source[1]])), c = W(get<T>(r[i.source[2]]));
    if (i.ftz) a = flush(a), b = flush(b), c = flush(c);
    const auto fma = [](W p, W q, W s) { return sizeof(W) == 4 ? W(__builtin_fmaf(p, q, s)) : W(__builtin_fma(p, q, s)); };
    W d = i.rounding == Rounding::NEAREST ? fma(a, b, c) : rounded(i.rounding, [&] {
        volatile W p = a, q = b, s = c;
        return fma(p, q, s);
    });
    if (i.ftz) d = flush(d);
    if (i.saturate) d = saturated(d);
    r[i.destination[0]] = put(T(d));
}

// Two values in a register.
template <class T>
void fused_pair(const Instruction& i, u64* r, Machine&) {
    u64 d = 0;
    for (int k = 0; k < 32; k += 16) {
        const double a = double(get<T>(r[i.source[0]] >> k)), b = double(get<T>(r[i.source[1]] >> k));
        d |= put(T(__builtin_fma(a, b, double(get<T>(r[i.source[2]] >> k))))) << k;
    }
    r[i.destination[0]] = d;
}

template <class T, bool HIGH>
void multiply_add(const Instruction& i, u64* r, Machine& m) {
    using Unsigned = std::make_unsigned_t<T>;
    const T a = get<T>(r[i.source[0]]), b = get<T>(r[i.source[1]]);
    const T product = HIGH ? MultiplyHigh::of(a, b) : T(u64(a) * u64(b));
    const unsigned __int128 sum = (unsigned __int128)Unsigned(product) + get<Unsigned>(r[i.source[2]]) + (i.carry_in ? m.carry : 0);
    if (i.carry_out) m.carry = uint32_t(sum >> 8 * sizeof(T)) & 1;
    r[i.destination[0]] = put(Unsigned(sum));
}

// The product has twice the width, as has what is added.
template <class T, bool ADDS>
void multiply_wide(const Instruction& i, u64* r, Machine&) {
    using Signed = std::conditional_t<std::is_signed_v<T>, int64_t, u64>;
    const u64 product = u64(Signed(get<T>(r[i.source[0]])) * Signed(get<T>(r[i.source[1]])));
    const u64 sum = product + (ADDS ? r[i.source[2]] : 0);
    r[i.destination[0]] = sizeof(T) == 2 ? uint32_t(sum) : sum;
}

// ---- Functions of one value -----------------------------------------------------------------------------------

// An approximation errs as much as the PTX manual allows, up or down by the bits of its argument, or as
// SOFTPOOL_CUDA_APPROXIMATE says: `up`, `down`, `exact` or, the default, `mixed`. Results that are floats, such as the
// reciprocals of powers of two, are those: the manual does not promise it, but GPUs have it so.
double approximated(const Instruction& i, double argument, double exact) {
    static const std::string way = getenv("SOFTPOOL_CUDA_APPROXIMATE") ? getenv("SOFTPOOL_CUDA_APPROXIMATE") : "mixed";
    static const bool mixed = way == "mixed";
    static const double sign = way == "up" ? 1 : way == "down" ? -1 : 0;
    // The result is rounded to f32 yet.
    const double error = i.error - 0x1p-24;
    if (error <= 0 || exact == double(float(exact))) return exact;
    const bool up = put(argument) * 0x9e3779b97f4a7c15 >> 63;
    return exact * (1 + error * (mixed ? (up ? 1 : -1) : sign));
}

struct Reciprocal {
    static double of(double x) { return 1 / x; }
};
struct Root {
    static double of(double x) { return sqrt(x); }
};
struct ReciprocalRoot {
    static double of(double x) { return 1 / sqrt(x); }
};
struct Exponential {
    static double of(double x) { return exp2(x); }
};
struct Logarithm {
    static double of(double x) { return log2(x); }
};
struct Sine {
    static double of(double x) { return sin(x); }
};
struct Cosine {
    static double of(double x) { return cos(x); }
};
struct Tangent {
    static double of(double x) { return tanh(x); }
};

template <class T, class F>
void function(const Instruction& i, u64* r, Machine&) {
    double x = double(get<T>(r[i.source[0]]));
    if (i.ftz && sizeof(T) == 4) x = flush(float(x));
    const double exact = rounded(i.rounding, [&] { volatile double v = x; return F::of(v); });
    volatile double y = approximated(i, x, exact);
    Wide<T> z = rounded(i.rounding, [&]() -> Wide<T> { return Wide<T>(y); });
    if (i.ftz) z = flush(z);
    r[i.destination[0]] = put(T(z));
}

template <class T>
void negate(const Instruction& i, u64* r, Machine&) {
    const T a = get<T>(r[i.source[0]]);
    constexpr u64 sign = u64(1) << (8 * sizeof(T) - 1);
    if constexpr (!is_float<T>) r[i.destination[0]] = put(T(-u64(a)));
    else if constexpr (sizeof(T) == 4) r[i.destination[0]] = put(i.ftz ? flush(-a) : -a);
    else r[i.destination[0]] = put(a) ^ sign;
}
template <class T>
void absolute(const Instruction& i, u64* r, Machine&) {
    const T a = get<T>(r[i.source[0]]);
    constexpr u64 sign = u64(1) << (8 * sizeof(T) - 1);
    if constexpr (!is_float<T>) r[i.destination[0]] = put(a < 0 ? T(-u64(a)) : a);
    else if constexpr (sizeof(T) == 4) r[i.destination[0]] = put(i.ftz ? flush(fabsf(a)) : fabsf(a));
    else r[i.destination[0]] = put(a) & ~sign;
}
template <class T>
void invert(const Instruction& i, u64* r, Machine&) {
    r[i.destination[0]] = put(T(~get<T>(r[i.source[0]])));
}
void invert_predicate(const Instruction& i, u64* r, Machine&) { r[i.destination[0]] = ~r[i.source[0]] & 1; }
template <class T>
void count_zeros(const Instruction& i, u64* r, Machine&) {
    const T a = get<T>(r[i.source[0]]);
    r[i.destination[0]] = a ? __builtin_clzll(a) - (64 - 8 * sizeof(T)) : 8 * sizeof(T);
}
template <class T>
void count_ones(const Instruction& i, u64* r, Machine&) {
    r[i.destination[0]] = __builtin_popcountll(get<T>(r[i.source[0]]));
}
template <class T>
void reverse_bits(const Instruction& i, u64* r, Machine&) {
    const T a = get<T>(r[i.source[0]]);
    T d = 0;
    for (unsigned k = 0; k < 8 * sizeof(T); k++) d = T(d << 1 | (a >> k & 1));
    r[i.destination[0]] = put(d);
}

// ---- Comparisons ----------------------------------------------------------------------------------------------

enum Comparison : uint8_t { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NAN_, COMPARISONS };
const char* const comparison_names[] = {"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
enum Combination : uint8_t { ALONE, AND, OR, XOR };

template <class T>
bool compare(uint8_t how, T a, T b) {
    const bool unordered = is_float<T> && (a != a || b != b);
    if (how == NUM) return !unordered;
    if (how == NAN_) return unordered;
    if (unordered) return how >= EQU;
    switch (how >= EQU ? how - EQU : how) {
        case EQ: return a == b;
        case NE: return a != b;
        case LT: return a < b;
        case LE: return a <= b;
        case GT: return a > b;
        default: return a >= b;
    }
}
template <class T>
bool compared(const Instruction& i, const u64* r) {
    Wide<T> a = Wide<T>(get<T>(r[i.source[0]])), b = Wide<T>(get<T>(r[i.source[1]]));
    if constexpr (is_float<T>)
        if (i.ftz) a = flush(a), b = flush(b);
    return compare(i.how, a, b);
}
bool combined(const Instruction& i, const u64* r, bool v) {
    const bool with = i.combine != ALONE && r[i.source[2]] & 1;
    return i.combine == AND ? v && with : i.combine == OR ? v || with : i.combine == XOR ? v != with : v;
}
template <class T>
void set_predicate(const Instruction& i, u64* r, Machine&) {
    const bool v = compared<T>(i, r), first = combined(i, r, v), second = combined(i, r, !v);
    if (i.destination[0] >= 0) r[i.destination[0]] = first;
    if (i.destination[1] >= 0) r[i.destination[1]] = second;
}
// One or all bits for true.
template <class T, class D>
void set_value(const Instruction& i, u64* r, Machine&) {
    const bool v = combined(i, r, compared<T>(i, r));
    if constexpr (is_float<D>) r[i.destination[0]] = put(D(v ? 1.0 : 0.0));
    else r[i.destination[0]] = v ? 0xffffffff : 0;
}
void select(const Instruction& i, u64* r, Machine&) { r[i.destination[0]] = r[i.source[r[i.source[2]] & 1 ? 0 : 1]]; }

// ---- Conversions ----------------------------------------------------------------------------------------------

double to_integral(Rounding mode, double v) {
    switch (mode) {
        case Rounding::ZERO: return trunc(v);
        case Rounding::DOWN: return floor(v);
        case Rounding::UP: return ceil(v);
        default: return nearbyint(v);
    }
}
// Values beyond the type's become its extremes, NaN zero, or for 64 bits the sign bit.
template <class D>
D to_integer(double v) {
    using Limits = std::numeric_limits<D>;
    if (v != v) return sizeof(D) == 8 ? D(u64(1) << 63) : D(0);
    return v <= double(Limits::min()) ? Limits::min() : v >= double(Limits::max()) ? Limits::max() : D(v);
}
// 16-bit floats in another rounding mode: the nearest, or its neighbour.
template <class D>
D narrowed(Rounding mode, double v) {
    D d = D(v);
    const double near = double(d);
    const bool up = near > v, down = near < v, beyond = fabs(near) > fabs(v);
    if ((mode == Rounding::ZERO && beyond) || (mode == Rounding::DOWN && up) || (mode == Rounding::UP && down)) {
        uint16_t bits = get<uint16_t>(put(d));
        bits += beyond ? -1 : 1;
        d = get<D>(bits);
    }
    return d;
}
template <class D, class S>
void convert(const Instruction& i, u64* r, Machine&) {
    const S a = get<S>(r[i.source[0]]);
    u64& d = r[i.destination[0]];
    if constexpr (is_float<D> && is_float<S>) {
        double x = double(a);
        if (i.ftz && sizeof(S) == 4) x = flush(float(x));
        if (i.to_integer) x = to_integral(i.rounding, x);
        if (i.saturate) x = saturated(x);
        const Rounding rounding = i.to_integer ? Rounding::NEAREST : i.rounding;
        if constexpr (is_half<D>) {
            d = put(narrowed<D>(rounding, x));
        } else {
            volatile double v = x;
            D y = rounded(rounding, [&] { return D(v); });
            if (i.ftz) y = flush(y);
            d = put(y);
        }
    } else if constexpr (is_float<D>) {
        volatile S v = a;
        d = put(D(rounded(i.rounding, [&]() -> Wide<D> { return Wide<D>(v); })));
    } else if constexpr (is_float<S>) {
        double x = double(a);
        if (i.ftz && sizeof(S) == 4) x = flush(float(x));
        const D v = to_integer<D>(to_integral(i.rounding, x));
        d = put(v);
        if (std::is_signed_v<D> && sizeof(D) < 4) d = uint32_t(int32_t(v));
    } else {
        using Limits = std::numeric_limits<D>;
        const __int128 x = a, least = Limits::min(), most = Limits::max();
        const D v = i.saturate ? D(std::clamp(x, least, most)) : D(a);
        d = put(v);
        // Narrower results fill their register.
        if (std::is_signed_v<D> && sizeof(D) < 4) d = uint32_t(int32_t(v));
    }
}

// ---- Bits -----------------------------------------------------------------------------------------------------

template <class T>
void insert_field(const Instruction& i, u64* r, Machine&) {
    const unsigned at = r[i.source[2]] & 255, length = r[i.source[3]] & 255;
    const u64 ones = length < 64 ? (u64(1) << length) - 1 : ~u64(0), mask = at < 8 * sizeof(T) ? ones << at : 0;
    const u64 a = get<T>(r[i.source[0]]), b = get<T>(r[i.source[1]]);
    r[i.destination[0]] = put(T((b & ~mask) | (mask ? a << at & mask : 0)));
}
template <class T>
void extract_field(const Instruction& i, u64* r, Machine&) {
    const unsigned at = r[i.source[1]] & 255, length = r[i.source[2]] & 255, width = 8 * sizeof(T);
    const u64 a = u64(std::make_unsigned_t<T>(get<T>(r[i.source[0]])));
    const bool sign = std::is_signed_v<T> && length && a >> std::min(at + length - 1, width - 1) & 1;
    u64 d = 0;
    for (unsigned k = 0; k < width; k++) d |= u64(k < length && at + k < width ? a >> (at + k) & 1 : sign) << k;
    r[i.destination[0]] = d;
}
void permute_bytes(const Instruction& i, u64* r, Machine&) {
    const u64 both = uint32_t(r[i.source[0]]) | r[i.source[1]] << 32;
    u64 d = 0;
    for (int k = 0; k < 4; k++) {
        const unsigned choice = r[i.source[2]] >> 4 * k & 15;
        const uint8_t byte = uint8_t(both >> 8 * (choice & 7));
        d |= u64(choice & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * k;
    }
    r[i.destination[0]] = d;
}
template <bool LEFT, bool WRAPS>
void funnel_shift(const Instruction& i, u64* r, Machine&) {
    const u64 both = uint32_t(r[i.source[0]]) | r[i.source[1]] << 32;
    const unsigned by = WRAPS ? r[i.source[2]] & 31 : std::min<u64>(uint32_t(r[i.source[2]]), 32);
    r[i.destination[0]] = LEFT ? uint32_t(both << by >> 32) : uint32_t(both >> by);
}
// Any of the 256 functions of three bits.
void logic_of_three(const Instruction& i, u64* r, Machine&) {
    const uint32_t a = uint32_t(r[i.source[0]]), b = uint32_t(r[i.source[1]]), c = uint32_t(r[i.source[2]]);
    uint32_t d = 0;
    for (int k = 0; k < 8; k++)
        if (r[i.source[3]] >> k & 1) d |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
    r[i.destination[0]] = d;
}

// ---- Moves and memory -----------------------------------------------------------------------------------------

void move(const Instruction& i, u64* r, Machine&) { r[i.destination[0]] = r[i.source[0]]; }
u64 low_bytes(unsigned bytes) { return bytes < 8 ? (u64(1) << 8 * bytes) - 1 : ~u64(0); }
void pack(const Instruction& i, u64* r, Machine&) {
    u64 d = 0;
    for (int k = 0; k < i.vector; k++) d |= (r[i.source[k]] & low_bytes(i.size)) << 8 * i.size * k;
    r[i.destination[0]] = d;
}
void unpack(const Instruction& i, u64* r, Machine&) {
    const u64 a = r[i.source[0]];
    for (int k = 0; k < i.vector; k++)
        if (i.destination[k] >= 0) r[i.destination[k]] = a >> 8 * i.size * k & low_bytes(i.size);
}

// Addresses of shared memory have 32 bits where the instruction names it.
u64 address(const Instruction& i, const u64* r) {
    const u64 a = r[i.source[0]] + i.offset;
    return i.shared ? address_in(SHARED, uint32_t(a)) : a;
}
template <class T>
void load(const Instruction& i, u64* r, Machine& m) {
    const char* const p = m.at(i, address(i, r), sizeof(T) * i.vector, i.read_only ? Access::READ_ONLY : Access::READ);
    for (int k = 0; k < i.vector; k++) {
        T v;
        memcpy(&v, p + k * sizeof v, sizeof v);
        // Narrow integers fill 32 bits, by their sign.
        if (i.destination[k] >= 0) r[i.destination[k]] = sizeof v < 4 ? put(int32_t(v)) : put(v);
    }
}
template <class T>
void store(const Instruction& i, u64* r, Machine& m) {
    char* const p = m.at(i, address(i, r), sizeof(T) * i.vector, Access::WRITE);
    for (int k = 0; k < i.vector; k++) memcpy(p + k * sizeof(T), &r[i.source[1 + k]], sizeof(T));
}

struct Exchange {
    template <class T> static T of(T, T b) { return b; }
};
template <class T, class Op>
void atomic(const Instruction& i, u64* r, Machine& m) {
    char* const p = m.at(i, address(i, r), sizeof(T), Access::ATOMIC);
    T old;
    memcpy(&old, p, sizeof old);
    const T now = T(Op::template of<Wide<T>>(Wide<T>(old), Wide<T>(get<T>(r[i.source[1]]))));
    memcpy(p, &now, sizeof now);
    if (i.destination[0] >= 0) r[i.destination[0]] = put(old);
}
template <class T>
void compare_and_swap(const Instruction& i, u64* r, Machine& m) {
    char* const p = m.at(i, address(i, r), sizeof(T), Access::ATOMIC);
    T old;
    memcpy(&old, p, sizeof old);
    if (old == get<T>(r[i.source[1]])) memcpy(p, &r[i.source[2]], sizeof old);
    if (i.destination[0] >= 0) r[i.destination[0]] = put(old);
}

void nothing(const Instruction&, u64*, Machine&) {}
void trap(const Instruction& i, u64*, Machine& m) { m.fault(i, LAUNCH_FAILED, "trap"); }

// ---- Which function, by type ----------------------------------------------------------------------------------

using Types = std::vector<std::string>;
template <class T>
struct Of {
    using Type = T;
};
#define TYPE(tag) typename decltype(tag)::Type

template <class F>
Action of_float(const std::string& t, F pick) {
    return t == "f32" ? pick(Of<float>()) : t == "f64" ? pick(Of<double>()) : t == "f16" ? pick(Of<f16>()) : t == "bf16" ? pick(Of<bf16>()) : nullptr;
}
template <class F>
Action of_unsigned(const std::string& t, F pick) {
    return t == "u16" || t == "b16" ? pick(Of<uint16_t>()) : t == "u32" || t == "b32" ? pick(Of<uint32_t>())
         : t == "u64" || t == "b64" ? pick(Of<uint64_t>()) : nullptr;
}
template <class F>
Action of_signed(const std::string& t, F pick) {
    return t == "s16" ? pick(Of<int16_t>()) : t == "s32" ? pick(Of<int32_t>()) : t == "s64" ? pick(Of<int64_t>()) : nullptr;
}
template <class F>
Action of_integer(const std::string& t, F pick) {
    const Action a = of_unsigned(t, pick);
    return a ? a : of_signed(t, pick);
}
// Where the sign of integers makes no difference.
template <class F>
Action of_bits(const std::string& t, F pick) {
    return of_unsigned(t[0] == 's' ? "u" + t.substr(1) : t, pick);
}
template <class F>
Action of_any(const std::string& t, F pick) {
    const Action a = of_float(t, pick);
    return a ? a : of_integer(t, pick);
}
template <class F>
Action of_stored(const std::string& t, F pick) {  // 8 bits too
    return t == "u8" || t == "b8" ? pick(Of<uint8_t>()) : t == "s8" ? pick(Of<int8_t>()) : of_any(t, pick);
}

// By the bytes in memory.
Action loads(const Types& t) {
    if (t[0] == "s8" || t[0] == "s16") return t[0] == "s8" ? load<int8_t> : load<int16_t>;
    const unsigned size = size_of(t[0]);
    return size == 1 ? load<uint8_t> : size == 2 ? load<uint16_t> : size == 4 ? load<uint32_t> : load<uint64_t>;
}
Action stores(const Types& t) {
    const unsigned size = size_of(t[0]);
    return size == 1 ? store<uint8_t> : size == 2 ? store<uint16_t> : size == 4 ? store<uint32_t> : store<uint64_t>;
}

template <class Op>
Action floats(const Types& t) {
    return of_float(t[0], [](auto tag) -> Action { return binary<TYPE(tag), Op>; });
}
template <class Op>
Action integers(const Types& t) {
    return of_integer(t[0], [](auto tag) -> Action { return binary<TYPE(tag), Op>; });
}
template <class Op>
Action bits(const Types& t) {
    if (t[0] == "pred") return binary<uint8_t, Op>;
    return of_bits(t[0], [](auto tag) -> Action { return binary<TYPE(tag), Op>; });
}
template <class Op>
Action floats_or_bits(const Types& t) {
    const Action a = floats<Op>(t);
    return a ? a : t[0] == "pred" ? nullptr : bits<Op>(t);
}
template <class Op>
Action floats_or_integers(const Types& t) {
    const Action a = floats<Op>(t);
    return a ? a : integers<Op>(t);
}
template <class F>
Action functions(const Types& t) {
    return of_float(t[0], [](auto tag) -> Action { return function<TYPE(tag), F>; });
}
template <bool LEFT>
Action shifts(const Types& t) {
    return of_integer(t[0], [](auto tag) -> Action { return shift<TYPE(tag), LEFT>; });
}
template <bool HIGH>
Action multiply_adds(const Types& t) {
    return of_integer(t[0], [](auto tag) -> Action { return multiply_add<TYPE(tag), HIGH>; });
}
template <bool ADDS>
Action multiplies_wide(const Types& t) {
    if (size_of(t[0]) > 4) return nullptr;
    return of_integer(t[0], [](auto tag) -> Action { return multiply_wide<TYPE(tag), ADDS>; });
}
template <class Op>
Action atomics(const Types& t) {
    return of_any(t[0], [](auto tag) -> Action { return atomic<TYPE(tag), Op>; });
}
Action conversions(const Types& t) {
    return of_stored(t[0], [&](auto to) -> Action {
        return of_stored(t[1], [](auto from) -> Action { return convert<TYPE(to), TYPE(from)>; });
    });
}
Action sets(const Types& t) {
    const auto from = [&](auto to) -> Action {
        return of_any(t[1], [](auto tag) -> Action { return set_value<TYPE(tag), TYPE(to)>; });
    };
    const Action a = of_float(t[0], from);
    return a ? a : of_bits(t[0], from);
}
// The same whatever the type.
template <Action ACTION>
Action always(const Types&) {
    return ACTION;
}
// One for 32 bits.
template <Action ACTION>
Action words(const Types& t) {
    return size_of(t[0]) == 4 ? ACTION : nullptr;
}
#define BY(of, function) [](const Types& t) -> Action { return of(t[0], [](auto tag) -> Action { return function<TYPE(tag)>; }); }

// ---- The table ------------------------------------------------------------------------------------------------

// How the operands are read.
enum class Form { USUAL, LOAD, STORE, ATOMIC, REDUCTION, MOVE, COMPARISON, BRANCH, CALL, SHUFFLE };

struct Row {
    const char* name;       // with the modifiers that make it what it is
    const char* modifiers;  // that it may have besides
    size_t types;           // that it ends in
    Action (*action)(const Types&);
    Form form = Form::USUAL;
    Control control = Control::NEXT;
    double error = 0;  // the largest relative one of an approximation, by the PTX manual
};

const char* const COMPARE = "eq ne lt le gt ge lo ls hi hs equ neu ltu leu gtu geu num nan and or xor ftz";
const char* const MEMORY = "global shared local param const volatile relaxed weak gpu cta sys v2 v4 nc";
const char* const ATOMICS = "global shared relaxed gpu cta sys noftz";

const Row TABLE[] = {
    // Arithmetic. Rows with more modifiers in their names come first.
    {"add.cc", "", 1, words<with_carry<false>>},
    {"addc", "cc", 1, words<with_carry<false>>},
    {"sub.cc", "", 1, words<with_carry<true>>},
    {"subc", "cc", 1, words<with_carry<true>>},
    {"add", "rn rz rm rp ftz sat", 1, floats_or_bits<Add>},
    {"sub", "rn rz rm rp ftz sat", 1, floats_or_bits<Subtract>},
    {"mul.wide", "", 1, multiplies_wide<false>},
    {"mul.hi", "", 1, integers<MultiplyHigh>},
    {"mul.lo", "", 1, bits<Multiply>},
    {"mul", "rn rz rm rp ftz sat", 1, floats<Multiply>},
    {"mad.wide", "", 1, multiplies_wide<true>},
    {"mad.lo", "cc", 1, multiply_adds<false>},
    {"mad.hi", "cc", 1, multiply_adds<true>},
    {"madc.lo", "cc", 1, multiply_adds<false>},
    {"madc.hi", "cc", 1, multiply_adds<true>},
    {"fma", "rn rz rm rp ftz sat", 1,
     [](const Types& t) -> Action {
         return t[0] == "f16x2" ? fused_pair<f16> : t[0] == "bf16x2" ? fused_pair<bf16>
              : of_float(t[0], [](auto tag) -> Action { return fused<TYPE(tag)>; });
     }},
    {"div", "rn rz rm rp ftz approx full", 1, floats_or_integers<Divide>},
    {"rem", "", 1, integers<Remainder>},
    {"min.NaN", "ftz", 1, floats<Extreme<true, true>>},
    {"max.NaN", "ftz", 1, floats<Extreme<false, true>>},
    {"min", "ftz", 1, floats_or_integers<Extreme<true, false>>},
    {"max", "ftz", 1, floats_or_integers<Extreme<false, false>>},
    {"copysign", "", 1, floats<CopySign>},
    {"neg", "ftz", 1, BY(of_any, negate)},
    {"abs", "ftz", 1, BY(of_any, absolute)},
    // Functions.
    {"rcp.approx", "ftz", 1, functions<Reciprocal>, Form::USUAL, Control::NEXT, 0x1p-23},
    {"rcp", "rn rz rm rp ftz", 1, functions<Reciprocal>},
    {"sqrt.approx", "ftz", 1, functions<Root>, Form::USUAL, Control::NEXT, 0x1p-23},
    {"sqrt", "rn rz rm rp ftz", 1, functions<Root>},
    {"rsqrt.approx", "ftz", 1, functions<ReciprocalRoot>, Form::USUAL, Control::NEXT, 0x1.1p-23},
    {"ex2.approx", "ftz", 1, functions<Exponential>, Form::USUAL, Control::NEXT, 0x1.6ap-23},
    {"lg2.approx", "ftz", 1, functions<Logarithm>, Form::USUAL, Control::NEXT, 0x1.6ap-23},
    {"sin.approx", "ftz", 1, functions<Sine>},
    {"cos.approx", "ftz", 1, functions<Cosine>},
    {"tanh.approx", "ftz", 1, functions<Tangent>, Form::USUAL, Control::NEXT, 0x1p-11},
    // Comparisons and conversions.
    {"setp", COMPARE, 1, BY(of_any, set_predicate), Form::COMPARISON},
    {"set", COMPARE, 2, sets, Form::COMPARISON},
    {"selp", "", 1, always<select>},
    {"cvt", "rn rz rm rp rni rzi rmi rpi ftz sat", 2, conversions},
    // Bits.
    {"and", "", 1, bits<And>},
    {"or", "", 1, bits<Or>},
    {"xor", "", 1, bits<Xor>},
    {"not", "", 1, [](const Types& t) -> Action {
         return t[0] == "pred" ? invert_predicate : of_bits(t[0], [](auto tag) -> Action { return invert<TYPE(tag)>; });
     }},
    {"shl", "", 1, shifts<true>},
    {"shr", "", 1, shifts<false>},
    {"shf.l.wrap", "", 1, words<funnel_shift<true, true>>},
    {"shf.l.clamp", "", 1, words<funnel_shift<true, false>>},
    {"shf.r.wrap", "", 1, words<funnel_shift<false, true>>},
    {"shf.r.clamp", "", 1, words<funnel_shift<false, false>>},
    {"clz", "", 1, BY(of_unsigned, count_zeros)},
    {"popc", "", 1, BY(of_unsigned, count_ones)},
    {"brev", "", 1, BY(of_unsigned, reverse_bits)},
    {"bfi", "", 1, BY(of_unsigned, insert_field)},
    {"bfe", "", 1, BY(of_integer, extract_field)},
    {"prmt", "", 1, words<permute_bytes>},
    {"lop3", "", 1, words<logic_of_three>},
    // Moves and memory.
    {"mov", "", 1, always<move>, Form::MOVE},
    {"cvta", "to global shared local const", 1, always<move>},
    {"ld", MEMORY, 1, loads, Form::LOAD},
    {"st", MEMORY, 1, stores, Form::STORE},
    {"atom.add", ATOMICS, 1, atomics<Add>, Form::ATOMIC},
    {"atom.min", ATOMICS, 1, atomics<Extreme<true, false>>, Form::ATOMIC},
    {"atom.max", ATOMICS, 1, atomics<Extreme<false, false>>, Form::ATOMIC},
    {"atom.exch", ATOMICS, 1, atomics<Exchange>, Form::ATOMIC},
    {"atom.cas", ATOMICS, 1, BY(of_unsigned, compare_and_swap), Form::ATOMIC},
    {"red.add", ATOMICS, 1, atomics<Add>, Form::REDUCTION},
    {"membar", "gl cta sys", 0, always<nothing>},
    {"fence", "acq_rel sc gpu cta sys", 0, always<nothing>},
    // Control.
    {"bra", "uni", 0, always<nothing>, Form::BRANCH, Control::BRANCH},
    {"call", "uni", 0, always<nothing>, Form::CALL, Control::CALL},
    {"ret", "uni", 0, always<nothing>, Form::USUAL, Control::RETURN},
    {"exit", "", 0, always<nothing>, Form::USUAL, Control::EXIT},
    {"trap", "", 0, always<trap>},
    {"bar.sync", "", 0, always<nothing>, Form::USUAL, Control::BARRIER},
    {"barrier.sync", "aligned", 0, always<nothing>, Form::USUAL, Control::BARRIER},
    {"bar.warp.sync", "", 0, always<nothing>, Form::SHUFFLE, Control::WARP_BARRIER},
    {"shfl.sync", "bfly down up idx", 1, always<nothing>, Form::SHUFFLE, Control::SHUFFLE},
};

bool has(const std::vector<std::string>& list, const std::string& word) { return std::find(list.begin(), list.end(), word) != list.end(); }

std::vector<std::string> parts_of(const char* text, char separator) {
    std::vector<std::string> parts;
    std::istringstream in(text);
    for (std::string part; std::getline(in, part, separator);) parts.push_back(part);
    return parts;
}

// A row, its words apart.
struct Entry {
    const Row& row;
    std::vector<std::string> needed, allowed;
};

// The rows of an opcode, in the table's order.
const std::vector<Entry>& entries_of(const std::string& opcode) {
    static const auto all = [] {
        std::map<std::string, std::vector<Entry>> entries;
        for (const Row& row : TABLE) {
            auto name = parts_of(row.name, '.');
            const std::string key = name[0];
            name.erase(name.begin());
            entries[key].push_back({row, name, parts_of(row.modifiers, ' ')});
        }
        return entries;
    }();
    static const std::vector<Entry> none;
    const auto it = all.find(opcode);
    return it == all.end() ? none : it->second;
}

bool matches(const Entry& entry, const std::vector<std::string>& modifiers) {
    if (modifiers.size() < entry.row.types) return false;
    const auto types = modifiers.end() - entry.row.types;
    const std::vector<std::string> others(modifiers.begin(), types);
    return std::all_of(types, modifiers.end(), size_of) &&
           std::all_of(entry.needed.begin(), entry.needed.end(), [&](auto& m) { return has(others, m); }) &&
           std::all_of(others.begin(), others.end(), [&](auto& m) { return has(entry.needed, m) || has(entry.allowed, m); });
}

void read_modifiers(const Statement& s, Instruction& i) {
    const auto& m = s.modifiers;
    i.ftz = has(m, "ftz");
    i.saturate = has(m, "sat");
    i.read_only = has(m, "nc");
    i.shared = has(m, "shared");
    i.carry_out = has(m, "cc");
    i.carry_in = s.opcode.back() == 'c' && (s.opcode == "addc" || s.opcode == "subc" || s.opcode == "madc");
    i.vector = has(m, "v4") ? 4 : has(m, "v2") ? 2 : 1;
    i.to_integer = has(m, "rni") || has(m, "rzi") || has(m, "rmi") || has(m, "rpi");
    if (has(m, "rz") || has(m, "rzi")) i.rounding = Rounding::ZERO;
    if (has(m, "rm") || has(m, "rmi")) i.rounding = Rounding::DOWN;
    if (has(m, "rp") || has(m, "rpi")) i.rounding = Rounding::UP;
    i.shuffle = has(m, "down") ? Shuffle::DOWN : has(m, "up") ? Shuffle::UP : has(m, "idx") ? Shuffle::INDEX : Shuffle::BUTTERFLY;
    if (!m.empty()) i.size = uint8_t(size_of(m.back()));
}

// [register + offset]
void read_address(const std::string& text, Instruction& i, Names& names) {
    const std::string inside = trim(contents(text));
    const size_t plus = inside.find('+');
    i.offset = plus == std::string::npos ? 0 : strtoll(inside.c_str() + plus + 1, nullptr, 0);
    i.source[0] = names.operand(trim(inside.substr(0, plus)));
}
// destination|second
void read_pair(const std::string& text, Instruction& i, Names& names) {
    const size_t bar = text.find('|');
    i.destination[0] = names.slot(trim(text.substr(0, bar)));
    if (bar != std::string::npos) i.destination[1] = names.slot(trim(text.substr(bar + 1)));
}
// From operand `from` on, into sources from `to` on; false where there are too many.
bool read_sources(const Statement& s, size_t from, int to, Instruction& i, Names& names) {
    for (size_t k = from; k < s.operands.size(); k++) {
        if (to >= 5) return false;
        i.source[to++] = names.operand(s.operands[k]);
    }
    return true;
}

bool read_operands(Form form, const Statement& s, Instruction& i, Function& f, Names& names) {
    const auto& o = s.operands;
    const auto needs = [&](size_t n) { return o.size() >= n; };
    switch (form) {
        case Form::USUAL:
            if (o.empty() || i.control != Control::NEXT) return true;
            i.destination[0] = names.slot(o[0]);
            return read_sources(s, 1, 0, i, names);
        case Form::LOAD: {
            if (!needs(2)) return false;
            const auto registers = split(contents(o[0]));
            if (registers.size() != i.vector) return false;
            for (size_t k = 0; k < registers.size(); k++) i.destination[k] = names.slot(registers[k]);
            read_address(o[1], i, names);
            return true;
        }
        case Form::STORE: {
            if (!needs(2)) return false;
            const auto registers = split(contents(o[1]));
            if (registers.size() != i.vector) return false;
            for (size_t k = 0; k < registers.size(); k++) i.source[1 + k] = names.operand(registers[k]);
            read_address(o[0], i, names);
            return true;
        }
        case Form::ATOMIC:
            if (!needs(3)) return false;
            i.destination[0] = names.slot(o[0]);
            read_address(o[1], i, names);
            return read_sources(s, 2, 1, i, names);
        case Form::REDUCTION:
            if (!needs(2)) return false;
            read_address(o[0], i, names);
            return read_sources(s, 1, 1, i, names);
        case Form::MOVE: {
            if (!needs(2)) return false;
            const bool unpacks = o[0][0] == '{', packs = o[1][0] == '{';
            const auto parts = split(contents(unpacks ? o[0] : o[1]));
            i.destination[0] = unpacks ? -1 : names.slot(o[0]);
            if (!packs) i.source[0] = names.operand(o[1]);
            if (!packs && !unpacks) return true;
            if (parts.size() > 4 || (packs && unpacks)) return false;
            i.vector = uint8_t(parts.size());
            i.size = uint8_t(i.size / parts.size());
            i.action = packs ? pack : unpack;
            for (size_t k = 0; k < parts.size(); k++) (packs ? i.source : i.destination)[k] = packs ? names.operand(parts[k]) : names.slot(parts[k]);
            return true;
        }
        case Form::COMPARISON: {
            if (!needs(3)) return false;
            std::string how = s.modifiers[0];
            // Unsigned integers' own names.
            if (how == "lo" || how == "ls") how = how == "lo" ? "lt" : "le";
            if (how == "hi" || how == "hs") how = how == "hi" ? "gt" : "ge";
            const auto it = std::find(comparison_names, comparison_names + COMPARISONS, how);
            if (it == comparison_names + COMPARISONS) return false;
            i.how = uint8_t(it - comparison_names);
            i.combine = has(s.modifiers, "and") ? AND : has(s.modifiers, "or") ? OR : has(s.modifiers, "xor") ? XOR : ALONE;
            read_pair(o[0], i, names);
            return read_sources(s, 1, 0, i, names);
        }
        case Form::BRANCH:
            if (!needs(1)) return false;
            names.branch(int(f.code.size()), o[0]);
            return true;
        case Form::CALL: {  // (results), name, (arguments)
            if (!needs(1)) return false;
            size_t k = 0;
            Call call;
            const auto variables = [&](const std::string& list) {
                std::vector<Variable> found;
                for (const auto& name : split(contents(list))) found.push_back(names.variable(name));
                return found;
            };
            if (o[k][0] == '(') call.results = variables(o[k++]);
            if (k == o.size()) return false;
            call.name = o[k++];
            if (k < o.size()) call.arguments = variables(o[k]);
            i.target = int(f.calls.size());
            f.calls.push_back(call);
            return true;
        }
        case Form::SHUFFLE:
            if (i.control == Control::WARP_BARRIER) return read_sources(s, 0, 0, i, names);
            if (!needs(5)) return false;
            read_pair(o[0], i, names);
            return read_sources(s, 1, 0, i, names);
    }
    return false;
}

}  // namespace

unsigned size_of(const std::string& type) {
    static const std::map<std::string, unsigned> sizes = {
        {"pred", 1}, {"b8", 1},  {"u8", 1},  {"s8", 1},  {"b16", 2}, {"u16", 2}, {"s16", 2}, {"f16", 2},   {"bf16", 2},
        {"b32", 4},  {"u32", 4}, {"s32", 4}, {"f32", 4}, {"b64", 8}, {"u64", 8}, {"s64", 8}, {"f64", 8}, {"f16x2", 4}, {"bf16x2", 4}};
    const auto it = sizes.find(type);
    return it == sizes.end() ? 0 : it->second;
}

bool assemble(const Statement& s, Instruction& i, Function& f, Names& names) {
    for (const Entry& entry : entries_of(s.opcode)) {
        if (!matches(entry, s.modifiers)) continue;
        const Row& row = entry.row;
        i.action = row.action(Types(s.modifiers.end() - row.types, s.modifiers.end()));
        if (!i.action) continue;
        i.control = row.control;
        i.error = row.error;
        // A kernel returns to nobody.
        if (i.control == Control::RETURN && f.entry) i.control = Control::EXIT;
        f.waits |= i.control == Control::BARRIER || i.control == Control::WARP_BARRIER || i.control == Control::SHUFFLE;
        read_modifiers(s, i);
        return read_operands(row.form, s, i, f, names);
    }
    return false;
}

}  // namespace ptx
