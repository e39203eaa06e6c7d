// SoftPool on NVIDIA GPUs: y = sum of softmax(beta x) x in every window, and its gradient.
//
// Plain C++ without shared memory, shuffles or atomics: every value has one thread that computes it, in a fixed
// order. src/backend/plan.rs says which kernels run, over how many threads.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>

#define DEVICE static __device__ __forceinline__

// ---- What src/backend/params.rs declares ----------------------------------------------------------------------

struct Divisor {
    uint64_t value;
    uint32_t multiplier, shift;
};

struct Axis {
    uint64_t input, output, reach, padding;
    Divisor stride;
    uint64_t adaptive;
};

template <typename C>
struct Temperature {
    C sign, unit, inverse, scale, rate;
};

struct Params {
    Axis axes[3];
    uint64_t input[5], grad[5];
    Divisor channels;
    uint64_t items;
    Divisor columns, rows, depths, parts;
    uint64_t windows;
    uint32_t input_vectors, grad_vectors, output_vectors;
    uint32_t nan_to_num, exact;
    Temperature<float> in_single;
    Temperature<double> in_double;
};
static_assert(sizeof(Params) == 424, "the layout that params.rs has");

DEVICE uint32_t divide(uint32_t n, const Divisor& d) { return (__umulhi(n, d.multiplier) + n) >> d.shift; }
DEVICE uint64_t divide(uint64_t n, const Divisor& d) { return n / d.value; }

// ---- The dtypes -----------------------------------------------------------------------------------------------

DEVICE float widen(__half v) { return __half2float(v); }
DEVICE float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
DEVICE float widen(float v) { return v; }
DEVICE double widen(double v) { return v; }

template <typename T>
struct Element;
template <>
struct Element<__half> {
    using Compute = float;
    DEVICE float largest() { return 65504.0f; }
    DEVICE __half narrow(float v) { return __float2half_rn(v); }
};
template <>
struct Element<__nv_bfloat16> {
    using Compute = float;
    DEVICE float largest() { return 3.38953139e38f; }
    DEVICE __nv_bfloat16 narrow(float v) { return __float2bfloat16_rn(v); }
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
template <typename T>
using Compute = typename Element<T>::Compute;

DEVICE const Temperature<float>& temperature(const Params& p, float) { return p.in_single; }
DEVICE const Temperature<double>& temperature(const Params& p, double) { return p.in_double; }

template <typename C>
DEVICE bool is_finite(C v) {
    return v - v == C(0);
}

// The larger; NaN where one is.
template <typename C>
DEVICE C higher(C a, C b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (sizeof(C) == 4) {
        C m;
        asm("max.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(a), "f"(b));
        return m;
    }
#endif
    return a > b || a != a ? a : b;
}

// 2^t, with a relative error of at most 2^-22; results below the normal numbers may be zero.
DEVICE float power(float t) {
#ifdef __CUDA_ARCH__
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(t));
    return e;
#else
    return exp2f(t);
#endif
}
DEVICE double power(double t) { return exp2(t); }

// a / b for b from 1 to the number of cells, within two units in the last place.
DEVICE float quotient(float a, float b) { return __fdividef(a, b); }
DEVICE double quotient(double a, double b) { return a / b; }

// ---- The mathematics ------------------------------------------------------------------------------------------

// Of the cells s = sign x of a window: the peak m, and with d = unit (s - m), the sums of e = 2^(scale d) and e d.
// Where the peak is not finite, the sums mean nothing.
template <typename C>
struct Sums {
    C peak, total, below;
};

// What a window passes on to a cell is share * weight(cell) [* slope(cell)].
template <typename C>
struct Passing {
    C peak, share, mean;
};

// A cell that takes no part: it stands for padding, and -inf is one.
template <typename C>
DEVICE C absent() {
    return C(-INFINITY);
}

template <typename C>
DEVICE C distance(C s, C peak, const Temperature<C>& t) {
    return fma(s, t.unit, -(peak * t.unit));
}

template <typename C>
DEVICE void add(Sums<C>& sums, C s, const Temperature<C>& t) {
    C d = distance(s, sums.peak, t);
    C e = power(t.scale * d);
    if (d != absent<C>()) {
        sums.total += e;
        sums.below = fma(e, d, sums.below);
    }
}

template <typename C, int N>
DEVICE Sums<C> sums_of(const C (&s)[N], const Temperature<C>& t) {
    Sums<C> sums = {s[0], C(0), C(0)};
#pragma unroll
    for (int i = 1; i < N; i++) sums.peak = higher(sums.peak, s[i]);
#pragma unroll
    for (int i = 0; i < N; i++) add(sums, s[i], t);
    return sums;
}

// The sums of `part`, about the peak of `all`, are added to it.
template <typename C>
DEVICE void merge_about(Sums<C>& all, const Sums<C>& part, const Temperature<C>& t) {
    C d = distance(part.peak, all.peak, t);
    C e = power(t.scale * d);
    if (part.peak != absent<C>() && !(e == C(0))) {
        all.total = fma(e, part.total, all.total);
        all.below = fma(e, fma(part.total, d, part.below), all.below);
    }
}

template <typename C>
DEVICE Sums<C> merge(const Sums<C>& a, const Sums<C>& b, const Temperature<C>& t) {
    Sums<C> all = {higher(a.peak, b.peak), C(0), C(0)};
    merge_about(all, a, t);
    merge_about(all, b, t);
    return all;
}

template <typename T>
DEVICE T output_of(const Sums<Compute<T>>& sums, const Params& p) {
    using C = Compute<T>;
    const Temperature<C>& t = temperature(p, C());
    C y = sums.peak;
    if (is_finite(y)) y = fma(quotient(sums.below, sums.total), t.inverse, y);
    y *= t.sign;
    if (p.nan_to_num) {
        const C most = Element<T>::largest();
        y = y != y ? C(0) : y > most ? most : y < -most ? -most : y;
    }
    return Element<T>::narrow(y);
}

template <typename C>
DEVICE Passing<C> passing_of(const Sums<C>& sums, C grad, const Params& p) {
    if (is_finite(sums.peak)) return {sums.peak, quotient(grad, sums.total), quotient(sums.below, sums.total)};
    // A window without a finite output has no derivative; with nan_to_num its output is a constant.
    return {C(NAN), p.nan_to_num ? C(0) : C(NAN), C(0)};
}

template <typename C>
DEVICE C passed(const Passing<C>& window, C s, const Params& p) {
    const Temperature<C>& t = temperature(p, C());
    C d = distance(s, window.peak, t);
    C e = d == absent<C>() ? C(0) : power(t.scale * d);
    if (window.share == C(0) || e == C(0)) return C(0);
    if (p.exact) e *= fma(t.rate, d - window.mean, C(1));
    return window.share * e;
}

// ---- Where things are -----------------------------------------------------------------------------------------

template <typename I>
struct Position {
    I plane, depth, row, column;
};

template <typename I>
DEVICE Position<I> position(I item, const Params& p) {
    Position<I> at;
    I rest = divide(item, p.columns);
    at.column = item - rest * I(p.columns.value);
    I deeper = divide(rest, p.rows);
    at.row = rest - deeper * I(p.rows.value);
    at.plane = divide(deeper, p.depths);
    at.depth = deeper - at.plane * I(p.depths.value);
    return at;
}

template <typename I>
DEVICE I offset(const uint64_t (&strides)[5], const Position<I>& at, const Params& p) {
    I batch = divide(at.plane, p.channels);
    I channel = at.plane - batch * I(p.channels.value);
    return batch * I(strides[0]) + channel * I(strides[1]) + at.depth * I(strides[2]) + at.row * I(strides[3]) +
           at.column * I(strides[4]);
}

// The index of a window among those of all planes, which is that of its output.
template <typename I>
DEVICE I output_index(const Position<I>& at, const Params& p) {
    return ((at.plane * I(p.axes[0].output) + at.depth) * I(p.axes[1].output) + at.row) * I(p.axes[2].output) +
           at.column;
}

template <typename I>
DEVICE I input_index(const Position<I>& at, const Params& p) {
    return ((at.plane * I(p.axes[0].input) + at.depth) * I(p.axes[1].input) + at.row) * I(p.axes[2].input) +
           at.column;
}

template <typename I>
struct Range {
    I begin, end;
};

template <typename I>
DEVICE I least(I a, I b) {
    return a < b ? a : b;
}

// The cells of window o.
template <typename I>
DEVICE Range<I> window(const Axis& axis, I o) {
    I input = I(axis.input);
    if (axis.adaptive) {
        I output = I(axis.output);
        return {o * input / output, ((o + 1) * input + output - 1) / output};
    }
    I first = o * I(axis.stride.value), padding = I(axis.padding);
    return {first > padding ? first - padding : I(0), least(first + I(axis.reach), input)};
}

// The windows of cell i.
template <typename I>
DEVICE Range<I> windows_of(const Axis& axis, I i) {
    I output = I(axis.output), reach = I(axis.reach);
    if (axis.adaptive) {
        I input = I(axis.input);
        return {i * output / input, ((i + 1) * output + input - 1) / input};
    }
    I first = i < reach ? I(0) : divide(I(i - reach), axis.stride) + 1;
    return {first, least(divide(I(i + I(axis.padding)), axis.stride) + 1, output)};
}

// The cells of window o and those behind it that no window has, where windows share none.
template <typename I>
DEVICE Range<I> own(const Axis& axis, I o) {
    I stride = I(axis.stride.value), padding = I(axis.padding), input = I(axis.input);
    I begin = o == 0 ? I(0) : o * stride - padding;
    return {begin, o + 1 == I(axis.output) ? input : least((o + 1) * stride - padding, input)};
}

// ---- Rows -----------------------------------------------------------------------------------------------------

template <typename T, int N>
struct alignas(N * sizeof(T)) Vector {
    T cells[N];
};

// N cells from `row` on, as one vector; those from `left` on are absent, and where any is, or where rows are not
// made for vectors, one at a time.
template <typename T, int N, typename I>
DEVICE void load(Compute<T> (&s)[N], const T* __restrict__ row, I left, I step, bool vectors, Compute<T> sign) {
    if (vectors && left >= N) {
        Vector<T, N> vector = *reinterpret_cast<const Vector<T, N>*>(row);
#pragma unroll
        for (int i = 0; i < N; i++) s[i] = sign * widen(vector.cells[i]);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) s[i] = I(i) < left ? sign * widen(row[i * step]) : absent<Compute<T>>();
    }
}

template <typename T, int N, typename I>
DEVICE void store(T* __restrict__ row, const T (&cells)[N], I left, bool vectors) {
    if (vectors && left >= N) {
        Vector<T, N> vector;
#pragma unroll
        for (int i = 0; i < N; i++) vector.cells[i] = cells[i];
        *reinterpret_cast<Vector<T, N>*>(row) = vector;
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (I(i) < left) row[i] = cells[i];
    }
}

// Cells from `at` to the end of a row of so many.
template <typename I>
DEVICE I left_of(I at, I cells) {
    return at < cells ? cells - at : I(0);
}

// ---- Windows one at a time ------------------------------------------------------------------------------------

// The cells of a window.
template <typename T, typename I>
struct Cells {
    const T* plane;
    Range<I> depths, rows, columns;
};

template <typename T, typename I>
DEVICE Cells<T, I> cells_of(const T* input, const Position<I>& at, const Params& p) {
    Position<I> plane = {at.plane, 0, 0, 0};
    return {input + offset(p.input, plane, p), window(p.axes[0], at.depth), window(p.axes[1], at.row),
            window(p.axes[2], at.column)};
}

template <typename T, typename I>
DEVICE Compute<T> cell(const T* plane, I d, I h, I w, const Params& p) {
    I offset = d * I(p.input[2]) + h * I(p.input[3]) + w * I(p.input[4]);
    return temperature(p, Compute<T>()).sign * widen(plane[offset]);
}

template <typename T, typename I>
DEVICE Sums<Compute<T>> sums_of(const Cells<T, I>& cells, const Params& p) {
    using C = Compute<T>;
    Sums<C> sums = {absent<C>(), C(0), C(0)};
    for (I d = cells.depths.begin; d < cells.depths.end; d++)
        for (I h = cells.rows.begin; h < cells.rows.end; h++)
            for (I w = cells.columns.begin; w < cells.columns.end; w++)
                sums.peak = higher(sums.peak, cell(cells.plane, d, h, w, p));
    for (I d = cells.depths.begin; d < cells.depths.end; d++)
        for (I h = cells.rows.begin; h < cells.rows.end; h++)
            for (I w = cells.columns.begin; w < cells.columns.end; w++)
                add(sums, cell(cells.plane, d, h, w, p), temperature(p, C()));
    return sums;
}

// ---- Scratch --------------------------------------------------------------------------------------------------

// Three arrays of what windows pass on, then three of partial sums: those of part 0 of all windows, of part 1, ...
template <typename C, typename I>
DEVICE void store_passing(C* scratch, I window, const Passing<C>& passing, const Params& p) {
    scratch[window] = passing.peak;
    scratch[window + I(p.windows)] = passing.share;
    scratch[window + 2 * I(p.windows)] = passing.mean;
}

template <typename C, typename I>
DEVICE Passing<C> load_passing(const C* scratch, I window, const Params& p) {
    Passing<C> passing = {scratch[window], scratch[window + I(p.windows)], C(0)};
    if (p.exact) passing.mean = scratch[window + 2 * I(p.windows)];
    return passing;
}

template <typename C, typename I>
DEVICE void store_sums(C* scratch, I window, I part, const Sums<C>& sums, const Params& p) {
    I all = I(p.windows) * I(p.parts.value), at = 3 * I(p.windows) + part * I(p.windows) + window;
    scratch[at] = sums.peak;
    scratch[at + all] = sums.total;
    scratch[at + 2 * all] = sums.below;
}

template <typename C, typename I>
DEVICE Sums<C> merged_sums(const C* scratch, I window, const Params& p) {
    I all = I(p.windows) * I(p.parts.value), at = 3 * I(p.windows) + window;
    Sums<C> sums = {absent<C>(), C(0), C(0)};
    for (I part = 0; part < I(p.parts.value); part++, at += I(p.windows))
        sums = merge(sums, {scratch[at], scratch[at + all], scratch[at + 2 * all]}, temperature(p, C()));
    return sums;
}

// ---- Forward kernels ------------------------------------------------------------------------------------------

#define ARGUMENTS                                                                                                     \
    const T *__restrict__ input, const T *__restrict__ grad, T *__restrict__ output, Compute<T> *__restrict__ scratch, \
        const Params &p
#define FOR_ITEMS(item)                                                                              \
    for (I item = I(blockIdx.x) * I(blockDim.x) + I(threadIdx.x); item < I(p.items);                 \
         item += I(gridDim.x) * I(blockDim.x))

template <typename T, typename I>
DEVICE void forward_2x2(ARGUMENTS) {
    using C = Compute<T>;
    constexpr int V = 8 / sizeof(T);
    const Temperature<C>& t = temperature(p, C());
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        Position<I> from = {at.plane, at.depth, 2 * at.row, 2 * V * at.column};
        const T* row = input + offset(p.input, from, p);
        const I step = I(p.input[4]), left = left_of(from.column, I(p.axes[2].input));
        C s[2][2 * V];
        load<T>(s[0], row, left, step, p.input_vectors, t.sign);
        load<T>(s[1], row + I(p.input[3]), from.row + 1 < I(p.axes[1].input) ? left : I(0), step, p.input_vectors,
                t.sign);
        T ys[V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            C cells[4] = {s[0][2 * j], s[0][2 * j + 1], s[1][2 * j], s[1][2 * j + 1]};
            ys[j] = output_of<T>(sums_of(cells, t), p);
        }
        at.column *= V;
        store(output + output_index(at, p), ys, left_of(at.column, I(p.axes[2].output)), p.output_vectors);
    }
}

// P is the padding of the columns.
template <typename T, typename I, int P>
DEVICE void forward_3x3(ARGUMENTS, I item) {
    using C = Compute<T>;
    constexpr int V = 8 / sizeof(T);
    const Temperature<C>& t = temperature(p, C());
    Position<I> at = position(item, p);
    Position<I> from = {at.plane, at.depth, 0, 2 * V * at.column};
    const T* plane = input + offset(p.input, from, p);
    const I step = I(p.input[4]), height = I(p.axes[1].input), width = I(p.axes[2].input);
    C s[3][2 * V + 1];
#pragma unroll
    for (int r = 0; r < 3; r++) {
        // Above the input this wraps around, and lies below it.
        const I h = 2 * at.row + r - I(p.axes[1].padding);
        const T* row = plane + h * I(p.input[3]);
        const I left = h < height ? left_of(from.column, width) : I(0);
        C pairs[2 * V];
        load<T>(pairs, row, left, step, p.input_vectors, t.sign);
#pragma unroll
        for (int i = 0; i < 2 * V; i++) s[r][P + i] = pairs[i];
        if (P == 0) s[r][2 * V] = left > 2 * V ? t.sign * widen(row[2 * V * step]) : absent<C>();
        if (P == 1) s[r][0] = h < height && from.column > 0 ? t.sign * widen(*(row - step)) : absent<C>();
    }
    T ys[V];
#pragma unroll
    for (int j = 0; j < V; j++) {
        C cells[9];
#pragma unroll
        for (int i = 0; i < 9; i++) cells[i] = s[i / 3][2 * j + i % 3];
        ys[j] = output_of<T>(sums_of(cells, t), p);
    }
    at.column *= V;
    store(output + output_index(at, p), ys, left_of(at.column, I(p.axes[2].output)), p.output_vectors);
}

template <typename T, typename I>
DEVICE void forward_3x3(ARGUMENTS) {
    FOR_ITEMS(item) {
        if (p.axes[2].padding)
            forward_3x3<T, I, 1>(input, grad, output, scratch, p, item);
        else
            forward_3x3<T, I, 0>(input, grad, output, scratch, p, item);
    }
}

template <typename T, typename I>
DEVICE void forward_any(ARGUMENTS) {
    FOR_ITEMS(item) { output[item] = output_of<T>(sums_of(cells_of(input, position(item, p), p), p), p); }
}

template <typename T, typename I>
DEVICE void partials(ARGUMENTS) {
    using C = Compute<T>;
    constexpr int N = 4;
    const I parts = I(p.parts.value);
    FOR_ITEMS(item) {
        const I index = divide(item, p.parts), part = item - index * parts;
        const Cells<T, I> cells = cells_of(input, position(index, p), p);
        const I width = cells.columns.end - cells.columns.begin, height = cells.rows.end - cells.rows.begin;
        const I depth = cells.depths.end - cells.depths.begin;
        // From one cell of the part to its next: so many columns, rows and depths, with carries.
        const I step_w = parts % width, step_h = parts / width % height, step_d = parts / width / height;
        I w = part % width, h = part / width % height, d = part / width / height;
        Sums<C> sums = {absent<C>(), C(0), C(0)};
        while (d < depth) {
            C s[N];
#pragma unroll
            for (int i = 0; i < N; i++) {
                s[i] = absent<C>();
                if (d < depth)
                    s[i] = cell(cells.plane, cells.depths.begin + d, cells.rows.begin + h, cells.columns.begin + w, p);
                w += step_w;
                h += step_h;
                d += step_d;
                if (w >= width) w -= width, h++;
                if (h >= height) h -= height, d++;
            }
            sums = merge(sums, sums_of(s, temperature(p, C())), temperature(p, C()));
        }
        store_sums(scratch, index, part, sums, p);
    }
}

template <typename T, typename I>
DEVICE void forward_parts(ARGUMENTS) {
    FOR_ITEMS(item) { output[item] = output_of<T>(merged_sums(scratch, item, p), p); }
}

// ---- Backward kernels -----------------------------------------------------------------------------------------

template <typename T, typename I>
DEVICE void backward_2x2(ARGUMENTS) {
    using C = Compute<T>;
    constexpr int V = 8 / sizeof(T);
    const Temperature<C>& t = temperature(p, C());
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        Position<I> from = {at.plane, at.depth, 2 * at.row, 2 * V * at.column};
        const bool second = from.row + 1 < I(p.axes[1].input);
        const T* row = input + offset(p.input, from, p);
        const I step = I(p.input[4]), left = left_of(from.column, I(p.axes[2].input));
        C s[2][2 * V];
        load<T>(s[0], row, left, step, p.input_vectors, t.sign);
        load<T>(s[1], row + I(p.input[3]), second ? left : I(0), step, p.input_vectors, t.sign);
        at.column *= V;
        const I windows = at.row < I(p.axes[1].output) ? left_of(at.column, I(p.axes[2].output)) : I(0);
        C g[V];
        load<T>(g, grad + offset(p.grad, at, p), windows, I(p.grad[4]), p.grad_vectors, C(1));
        T dx[2][2 * V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            C cells[4] = {s[0][2 * j], s[0][2 * j + 1], s[1][2 * j], s[1][2 * j + 1]};
            Passing<C> passing = passing_of(sums_of(cells, t), g[j], p);
            if (I(j) >= windows) passing.share = C(0);
#pragma unroll
            for (int i = 0; i < 4; i++)
                dx[i / 2][2 * j + i % 2] = Element<T>::narrow(passed(passing, cells[i], p));
        }
        const I to = input_index(from, p);
        store(output + to, dx[0], left, p.output_vectors);
        if (second) store(output + to + I(p.axes[2].input), dx[1], left, p.output_vectors);
    }
}

template <typename T, typename I>
DEVICE void backward_disjoint(ARGUMENTS) {
    using C = Compute<T>;
    FOR_ITEMS(item) {
        const Position<I> at = position(item, p);
        const Cells<T, I> cells = cells_of(input, at, p);
        const C g = widen(grad[offset(p.grad, at, p)]);
        const Passing<C> passing = passing_of(sums_of(cells, p), g, p);
        const Range<I> depths = own(p.axes[0], at.depth), rows = own(p.axes[1], at.row);
        const Range<I> columns = own(p.axes[2], at.column);
        for (I d = depths.begin; d < depths.end; d++)
            for (I h = rows.begin; h < rows.end; h++)
                for (I w = columns.begin; w < columns.end; w++) {
                    C dx = C(0);
                    if (d < cells.depths.end && h < cells.rows.end && w < cells.columns.end)
                        dx = passed(passing, cell(cells.plane, d, h, w, p), p);
                    const Position<I> to = {at.plane, d, h, w};
                    output[input_index(to, p)] = Element<T>::narrow(dx);
                }
    }
}

template <typename T, typename I>
DEVICE void statistics(ARGUMENTS) {
    FOR_ITEMS(item) {
        const Position<I> at = position(item, p);
        const Compute<T> g = widen(grad[offset(p.grad, at, p)]);
        store_passing(scratch, item, passing_of(sums_of(cells_of(input, at, p), p), g, p), p);
    }
}

template <typename T, typename I>
DEVICE void statistics_parts(ARGUMENTS) {
    FOR_ITEMS(item) {
        const Compute<T> g = widen(grad[offset(p.grad, position(item, p), p)]);
        store_passing(scratch, item, passing_of(merged_sums(scratch, item, p), g, p), p);
    }
}

template <typename T, typename I>
DEVICE void backward_gather(ARGUMENTS) {
    using C = Compute<T>;
    FOR_ITEMS(item) {
        const Position<I> at = position(item, p);
        const C s = temperature(p, C()).sign * widen(input[offset(p.input, at, p)]);
        const Range<I> depths = windows_of(p.axes[0], at.depth), rows = windows_of(p.axes[1], at.row);
        const Range<I> columns = windows_of(p.axes[2], at.column);
        C dx = C(0);
        for (I d = depths.begin; d < depths.end; d++)
            for (I h = rows.begin; h < rows.end; h++)
                for (I w = columns.begin; w < columns.end; w++) {
                    const Position<I> from = {at.plane, d, h, w};
                    dx += passed(load_passing(scratch, output_index(from, p), p), s, p);
                }
        output[item] = Element<T>::narrow(dx);
    }
}

// ---- The kernels by name --------------------------------------------------------------------------------------

#define KERNEL(NAME, T, DTYPE, I, INDEX)                                                                       \
    extern "C" __global__ void __launch_bounds__(256, 1) NAME##_##DTYPE##_##INDEX(                                \
        const T* __restrict__ input, const T* __restrict__ grad, T* __restrict__ output,                       \
        Compute<T>* __restrict__ scratch, const __grid_constant__ Params p) {                                  \
        NAME<T, I>(input, grad, output, scratch, p);                                                           \
    }
#define KERNELS(T, DTYPE, I, INDEX)                   \
    KERNEL(forward_2x2, T, DTYPE, I, INDEX)           \
    KERNEL(forward_3x3, T, DTYPE, I, INDEX)           \
    KERNEL(forward_any, T, DTYPE, I, INDEX)           \
    KERNEL(partials, T, DTYPE, I, INDEX)              \
    KERNEL(forward_parts, T, DTYPE, I, INDEX)         \
    KERNEL(backward_2x2, T, DTYPE, I, INDEX)          \
    KERNEL(backward_disjoint, T, DTYPE, I, INDEX)     \
    KERNEL(statistics, T, DTYPE, I, INDEX)            \
    KERNEL(statistics_parts, T, DTYPE, I, INDEX)      \
    KERNEL(backward_gather, T, DTYPE, I, INDEX)
#define DTYPE(T, NAME)                \
    KERNELS(T, NAME, uint32_t, u32)   \
    KERNELS(T, NAME, uint64_t, u64)

DTYPE(__half, f16)
DTYPE(__nv_bfloat16, bf16)
DTYPE(float, f32)
DTYPE(double, f64)
