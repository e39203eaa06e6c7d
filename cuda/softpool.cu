// SoftPool on NVIDIA GPUs: y = sum of softmax(beta x) x in every window, and its gradient.
//
// Plain C++ without shared memory, shuffles or atomics: every value has one thread that computes it, in a fixed
// order. src/backend/plan.rs says which kernels run, over how many threads.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>

#define DEVICE static __device__ __forceinline__

// Threads of a block, as in src/backend/plan.rs.
constexpr unsigned BLOCK = 256;

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

using f16 = __half;
using bf16 = __nv_bfloat16;
using f32 = float;
using f64 = double;
using u32 = uint32_t;
using u64 = uint64_t;

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

// 1 / b for b from 2^-56 to the number of cells, within a unit in the last place.
DEVICE float reciprocal(float b) {
#ifdef __CUDA_ARCH__
    float q;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(q) : "f"(b));
    return q;
#else
    return 1.0f / b;
#endif
}
DEVICE double reciprocal(double b) { return 1.0 / b; }

// ---- The mathematics ------------------------------------------------------------------------------------------

// Of the cells s = sign x of a window: the peak m, and with d = unit (s - m), the sums of the weights e = 2^(scale d)
// and of e d. Where the peak is not finite, the sums mean nothing.
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
struct Weighed {
    C d, e;
};

template <typename C>
DEVICE Weighed<C> weigh(C s, C peak, const Temperature<C>& t) {
    C d = distance(s, peak, t);
    return {d, power(t.scale * d)};
}

template <typename C>
DEVICE void add(Sums<C>& sums, const Weighed<C>& cell) {
    sums.total += cell.e;
    sums.below = fma(cell.e, cell.d, sums.below);
}

template <typename C>
DEVICE void weigh_in(Sums<C>& sums, C s, const Temperature<C>& t) {
    const Weighed<C> cell = weigh(s, sums.peak, t);
    if (cell.d != absent<C>()) add(sums, cell);
}

template <typename C, int N>
DEVICE Sums<C> sums_of(const C (&s)[N], const Temperature<C>& t) {
    Sums<C> sums = {s[0], C(0), C(0)};
#pragma unroll
    for (int i = 1; i < N; i++) sums.peak = higher(sums.peak, s[i]);
#pragma unroll
    for (int i = 0; i < N; i++) weigh_in(sums, s[i], t);
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

template <typename C>
DEVICE C mean_of(const Sums<C>& sums, const Temperature<C>& t) {
    return fma(sums.below * reciprocal(sums.total), t.inverse, sums.peak);
}

template <typename T>
DEVICE T output_of(const Sums<Compute<T>>& sums, const Params& p) {
    using C = Compute<T>;
    const Temperature<C>& t = temperature(p, C());
    C y = t.sign * (is_finite(sums.peak) ? mean_of(sums, t) : sums.peak);
    if (p.nan_to_num) {
        const C most = Element<T>::largest();
        y = y != y ? C(0) : y > most ? most : y < -most ? -most : y;
    }
    return Element<T>::narrow(y);
}

template <typename C>
DEVICE Passing<C> passing_of(const Sums<C>& sums, C grad, const Params& p) {
    const C inverse = reciprocal(sums.total);
    if (is_finite(sums.peak)) return {sums.peak, grad * inverse, sums.below * inverse};
    // A window without a finite output has no derivative; with nan_to_num its output is a constant.
    return {C(NAN), p.nan_to_num ? C(0) : C(NAN), C(0)};
}

template <typename C>
DEVICE C passed(const Passing<C>& window, C s, const Params& p) {
    const Temperature<C>& t = temperature(p, C());
    Weighed<C> cell = weigh(s, window.peak, t);
    if (window.share == C(0) || cell.d == absent<C>() || cell.e == C(0)) return C(0);
    if (p.exact) cell.e *= fma(t.rate, cell.d - window.mean, C(1));
    return window.share * cell.e;
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
                weigh_in(sums, cell(cells.plane, d, h, w, p), temperature(p, C()));
    return sums;
}

// ---- Windows side by side -------------------------------------------------------------------------------------

// 2 x 2 and 3 x 3 windows at steps of two: a thread has a few, and their cells in registers. Those of 3 x 3 overlap;
// they share a shift, so that each cell is exponentiated once. A window that does not hold, because it lies far
// below the shift or has cells that are not finite, is left to the functions above. Beta is positive here.

template <typename T, int N>
struct alignas(N * sizeof(T)) Vector {
    T cells[N];
};

// The rows of a plane. What lies above or left of it wraps around, and lies beyond its end.
template <typename T, typename I>
struct Rows {
    const T* plane;
    I rows, columns, pitch, step;
    bool vectors;
};

template <typename T, typename I>
DEVICE Rows<T, I> input_rows(const T* input, const Position<I>& at, const Params& p) {
    const Position<I> plane = {at.plane, at.depth, 0, 0};
    return {input + offset(p.input, plane, p), I(p.axes[1].input), I(p.axes[2].input), I(p.input[3]), I(p.input[4]),
            p.input_vectors != 0};
}

template <typename T, typename I>
DEVICE Rows<T, I> grad_rows(const T* grad, const Position<I>& at, const Params& p) {
    const Position<I> plane = {at.plane, at.depth, 0, 0};
    return {grad + offset(p.grad, plane, p), I(p.axes[1].output), I(p.axes[2].output), I(p.grad[3]), I(p.grad[4]),
            p.grad_vectors != 0};
}

// What cells beyond a plane are read as: of no weight, but finite.
template <typename T>
DEVICE Compute<T> lowest() {
    return -Element<T>::largest();
}

// R rows of N cells: L before a column where vectors begin, a vector, and M behind it.
template <int L, int M, typename T, int R, int N, typename I>
DEVICE void load(Compute<T> (&s)[R][N], const Rows<T, I>& of, I row, I column) {
    constexpr int V = N - L - M;
    // Everything is on its way before anything is used.
    if (of.vectors && row < of.rows && of.rows - row >= R && column < of.columns && of.columns - column >= V) {
#pragma unroll
        for (int r = 0; r < R; r++) {
            const T* cell = of.plane + (row + r) * of.pitch + column;
            const Vector<T, V> vector = *reinterpret_cast<const Vector<T, V>*>(cell);
#pragma unroll
            for (int i = 0; i < N; i++)
                if (i >= L && i < L + V)
                    s[r][i] = widen(vector.cells[i - L]);
                else
                    s[r][i] = column + I(i - L) < of.columns ? widen(cell[i - L]) : lowest<T>();
        }
    } else {
#pragma unroll
        for (int r = 0; r < R; r++) {
            const I h = row + r;
#pragma unroll
            for (int i = 0; i < N; i++) s[r][i] = lowest<T>();
            if (h >= of.rows) continue;
#pragma unroll
            for (int i = 0; i < N; i++) {
                const I w = column + I(i - L);
                if (w < of.columns) s[r][i] = widen(of.plane[h * of.pitch + w * of.step]);
            }
        }
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

template <typename C, int R, int N>
DEVICE C peak_of(const C (&s)[R][N]) {
    C peak = s[0][0];
#pragma unroll
    for (int i = 1; i < R * N; i++) peak = higher(peak, s[i / N][i % N]);
    return peak;
}

// Whether cells beyond a plane have no weight about a shift.
template <typename T>
DEVICE bool clears(Compute<T> shift, const Params& p) {
    using C = Compute<T>;
    return weigh(lowest<T>(), shift, temperature(p, C())).e == C(0);
}

// Sums of weights below this lie too far from the shift: by 39 / beta, or by 7 / beta for exact gradients, whose terms
// then cancel.
template <typename C>
DEVICE C least_total(bool exact) {
    return C(1) / C(uint64_t(1) << (exact ? 10 : 56));
}

// Of cells in a column, with weights about a shift that windows share: the sums of e and of e v.
template <typename C>
struct Column {
    C total, sum;
};

template <typename C>
DEVICE void add(Column<C>& column, C e, C v) {
    column.total += e;
    column.sum = fma(e, v, column.sum);
}

template <typename C, int N>
DEVICE Column<C> sum_of_three(const Column<C> (&columns)[N], int first) {
    const Column<C>&a = columns[first], &b = columns[first + 1], &c = columns[first + 2];
    return {a.total + b.total + c.total, a.sum + b.sum + c.sum};
}

// Of the 2 x 2 window in columns from `column` on.
template <typename C, int N>
DEVICE Sums<C> sums_of_square(Weighed<C> (&cells)[4], const C (&s)[2][N], int column, const Temperature<C>& t) {
    const C square[2][2] = {{s[0][column], s[0][column + 1]}, {s[1][column], s[1][column + 1]}};
    Sums<C> sums = {peak_of(square), C(0), C(0)};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        cells[i] = weigh(square[i / 2][i % 2], sums.peak, t);
        add(sums, cells[i]);
    }
    return sums;
}

// What a window that holds passes on to a cell: e (level + slope d).
template <typename C>
struct Line {
    C level, slope;
};

template <typename C>
DEVICE Line<C> line_of(C total, C below, C grad, const Params& p) {
    const C inverse = reciprocal(total), share = grad * inverse;
    const C slope = p.exact ? temperature(p, C()).rate * share : C(0);
    return {fma(-slope, below * inverse, share), slope};
}

template <typename C>
DEVICE C passed(const Line<C>& line, const Weighed<C>& cell) {
    return cell.e == C(0) ? C(0) : cell.e * fma(line.slope, cell.d, line.level);
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
// A thread takes an item, and then every one that is all threads further on.
#define FOR_ITEMS(item)                                                             \
    for (I item = I(blockIdx.x) * BLOCK + I(threadIdx.x); item < I(p.items);        \
         item += I(gridDim.x) * BLOCK)

// The outputs of windows in a row, from one on; where not all hold, they are computed anew.
template <typename T, int N, typename I>
DEVICE void store_outputs(const T* input, T* __restrict__ output, Position<I> at, const T (&ys)[N], bool all_hold,
                          const Params& p) {
    T* row = output + output_index(at, p);
    const I left = left_of(at.column, I(p.axes[2].output));
    if (all_hold) {
        store(row, ys, left, p.output_vectors);
    } else {
#pragma unroll 1
        for (I i = 0; i < least(I(N), left); i++, at.column++)
            row[i] = output_of<T>(sums_of(cells_of(input, at, p), p), p);
    }
}

template <typename T, typename I>
DEVICE void forward_2x2(ARGUMENTS) {
    using C = Compute<T>;
    constexpr int V = 8 / sizeof(T);
    const Temperature<C>& t = temperature(p, C());
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        at.column *= V;
        const I windows = left_of(at.column, I(p.axes[2].output));
        C s[2][2 * V];
        load<0, 0>(s, input_rows(input, at, p), 2 * at.row, 2 * at.column);
        bool all_hold = true;
        T ys[V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            Weighed<C> cells[4];
            const Sums<C> sums = sums_of_square(cells, s, 2 * j, t);
            const C y = mean_of(sums, t);
            ys[j] = Element<T>::narrow(y);
            all_hold = all_hold && (I(j) >= windows || (is_finite(y) && clears<T>(sums.peak, p)));
        }
        store_outputs(input, output, at, ys, all_hold, p);
    }
}

// P is the padding of the columns.
template <int P, typename T, typename I>
DEVICE void forward_3x3(ARGUMENTS, I item) {
    using C = Compute<T>;
    constexpr int V = 8 / sizeof(T), W = 2 * V + 1;
    const Temperature<C>& t = temperature(p, C());
    Position<I> at = position(item, p);
    at.column *= V;
    const I windows = left_of(at.column, I(p.axes[2].output));
    C s[3][W];
    load<P, 1 - P>(s, input_rows(input, at, p), 2 * at.row - I(p.axes[1].padding), 2 * at.column);
    const C shift = peak_of(s);
    Column<C> columns[W];
#pragma unroll
    for (int c = 0; c < W; c++) {
        columns[c] = {C(0), C(0)};
#pragma unroll
        for (int r = 0; r < 3; r++) add(columns[c], weigh(s[r][c], shift, t).e, s[r][c]);
    }
    bool all_hold = clears<T>(shift, p);
    T ys[V];
#pragma unroll
    for (int j = 0; j < V; j++) {
        // The mean of s, not of its distance to the shift, which may be much larger.
        const Column<C> all = sum_of_three(columns, 2 * j);
        const C y = all.sum * reciprocal(all.total);
        ys[j] = Element<T>::narrow(y);
        all_hold = all_hold && (I(j) >= windows || (all.total >= least_total<C>(false) && is_finite(y)));
    }
    store_outputs(input, output, at, ys, all_hold, p);
}

template <typename T, typename I>
DEVICE void forward_3x3(ARGUMENTS) {
    FOR_ITEMS(item) {
        if (p.axes[2].padding)
            forward_3x3<1>(input, grad, output, scratch, p, item);
        else
            forward_3x3<0>(input, grad, output, scratch, p, item);
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

template <typename I>
DEVICE bool is_window(const Position<I>& at, const Params& p) {
    return at.row < I(p.axes[1].output) && at.column < I(p.axes[2].output);
}

// The gradient of a cell from its windows, summed one at a time.
template <typename T, typename I>
DEVICE Compute<T> gathered(const T* input, const T* grad, const Position<I>& at, const Params& p) {
    using C = Compute<T>;
    const C s = temperature(p, C()).sign * widen(input[offset(p.input, at, p)]);
    const Range<I> rows = windows_of(p.axes[1], at.row), columns = windows_of(p.axes[2], at.column);
    C dx = C(0);
    for (I h = rows.begin; h < rows.end; h++)
        for (I w = columns.begin; w < columns.end; w++) {
            const Position<I> window = {at.plane, at.depth, h, w};
            const C g = widen(grad[offset(p.grad, window, p)]);
            dx += passed(passing_of(sums_of(cells_of(input, window, p), p), g, p), s, p);
        }
    return dx;
}

// Two rows of gradients, from a cell on; where not all windows hold or one is not finite, they are computed anew.
template <typename T, int N, typename I>
DEVICE void store_gradients(const T* input, const T* grad, T* __restrict__ output, Position<I> at,
                            const Compute<T> (&dx)[2][N], bool all_hold, const Params& p) {
    const I left = left_of(at.column, I(p.axes[2].input));
    Compute<T> all = 0;
#pragma unroll
    for (int i = 0; i < 2 * N; i++) all += dx[i / N][i % N];
    all_hold = all_hold && is_finite(all);
#pragma unroll
    for (int r = 0; r < 2; r++, at.row++) {
        if (at.row >= I(p.axes[1].input)) continue;
        T* row = output + input_index(at, p);
        if (all_hold) {
            T cells[N];
#pragma unroll
            for (int i = 0; i < N; i++) cells[i] = Element<T>::narrow(dx[r][i]);
            store(row, cells, left, p.output_vectors);
        } else {
            Position<I> cell = at;
#pragma unroll 1
            for (I i = 0; i < least(I(N), left); i++, cell.column++)
                row[i] = Element<T>::narrow(gathered(input, grad, cell, p));
        }
    }
}

template <typename T, typename I>
DEVICE void backward_2x2(ARGUMENTS) {
    using C = Compute<T>;
    constexpr int V = 8 / sizeof(T);
    const Temperature<C>& t = temperature(p, C());
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        at.column *= V;
        const Position<I> from = {at.plane, at.depth, 2 * at.row, 2 * at.column};
        C s[2][2 * V], g[1][V];
        load<0, 0>(s, input_rows(input, at, p), from.row, from.column);
        load<0, 0>(g, grad_rows(grad, at, p), at.row, at.column);
        bool all_hold = true;
        C dx[2][2 * V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            const Position<I> window = {at.plane, at.depth, at.row, at.column + j};
            Weighed<C> cells[4];
            const Sums<C> sums = sums_of_square(cells, s, 2 * j, t);
            const Line<C> line = line_of(sums.total, sums.below, g[0][j], p);
            const bool is = is_window(window, p);
            all_hold = all_hold && (!is || clears<T>(sums.peak, p));
#pragma unroll
            for (int i = 0; i < 4; i++) dx[i / 2][2 * j + i % 2] = is ? passed(line, cells[i]) : C(0);
        }
        store_gradients(input, grad, output, from, dx, all_hold, p);
    }
}

// P is the padding of the columns. The item is two rows of 2 V cells; two rows of V + 1 windows have them.
template <int P, typename T, typename I>
DEVICE void backward_3x3(ARGUMENTS, I item) {
    using C = Compute<T>;
    constexpr int V = 8 / sizeof(T), W = 2 * V + 3, L = 2 - P;
    const Temperature<C>& t = temperature(p, C());
    Position<I> at = position(item, p);
    at.column *= V;
    const Position<I> from = {at.plane, at.depth, 2 * at.row - I(p.axes[1].padding), 2 * at.column};
    C s[5][W], g[2][V + 1];
    load<L, 1 + P>(s, input_rows(input, at, p), from.row - 2, from.column);
    load<1 - P, P>(g, grad_rows(grad, at, p), at.row - 1, at.column);
    const C shift = peak_of(s);
    Column<C> columns[2][W];
    Weighed<C> cells[2][2 * V];
#pragma unroll
    for (int c = 0; c < W; c++) {
        columns[0][c] = columns[1][c] = {C(0), C(0)};
#pragma unroll
        for (int r = 0; r < 5; r++) {
            const Weighed<C> cell = weigh(s[r][c], shift, t);
            if (r <= 2) add(columns[0][c], cell.e, cell.d);
            if (r >= 2) add(columns[1][c], cell.e, cell.d);
            if ((r == 2 || r == 3) && c >= L && c < L + 2 * V) cells[r - 2][c - L] = cell;
        }
    }
    Line<C> lines[2][V + 1];
    const C least = least_total<C>(p.exact);
    bool all_hold = clears<T>(shift, p);
    C levels = C(0);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j <= V; j++) {
            const Position<I> window = {at.plane, at.depth, at.row - 1 + i, at.column + P - 1 + j};
            const Column<C> all = sum_of_three(columns[i], 2 * j);
            const bool is = is_window(window, p);
            lines[i][j] = {C(0), C(0)};
            if (is) lines[i][j] = line_of(all.total, all.sum, g[i][j], p);
            levels += lines[i][j].level;
            all_hold = all_hold && (!is || all.total >= least);
        }
    all_hold = all_hold && is_finite(levels);
    C dx[2][2 * V];
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int c = 0; c < 2 * V; c++) {
            // The windows that have the cell.
            Line<C> all = {C(0), C(0)};
#pragma unroll
            for (int i = r; i < 2; i++)
#pragma unroll
                for (int j = (L + c - 1) / 2; j <= (L + c) / 2; j++)
                    all = {all.level + lines[i][j].level, all.slope + lines[i][j].slope};
            dx[r][c] = passed(all, cells[r][c]);
        }
    store_gradients(input, grad, output, from, dx, all_hold, p);
}

template <typename T, typename I>
DEVICE void backward_3x3(ARGUMENTS) {
    FOR_ITEMS(item) {
        if (p.axes[2].padding)
            backward_3x3<1>(input, grad, output, scratch, p, item);
        else
            backward_3x3<0>(input, grad, output, scratch, p, item);
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

#define KERNEL(NAME, T, I)                                                                                    \
    extern "C" __global__ void __launch_bounds__(BLOCK, sizeof(I) + sizeof(T) <= 8 ? 2 : 1) NAME##_##T##_##I( \
        const T* __restrict__ input, const T* __restrict__ grad, T* __restrict__ output,                      \
        Compute<T>* __restrict__ scratch, const __grid_constant__ Params p) {                                 \
        NAME<T, I>(input, grad, output, scratch, p);                                                          \
    }
#define KERNELS(T, I)                  \
    KERNEL(forward_2x2, T, I)          \
    KERNEL(forward_3x3, T, I)          \
    KERNEL(forward_any, T, I)          \
    KERNEL(partials, T, I)             \
    KERNEL(forward_parts, T, I)        \
    KERNEL(backward_2x2, T, I)         \
    KERNEL(backward_3x3, T, I)         \
    KERNEL(backward_disjoint, T, I)    \
    KERNEL(statistics, T, I)           \
    KERNEL(statistics_parts, T, I)     \
    KERNEL(backward_gather, T, I)

// build.rs compiles a module at a time, so that the driver translates only the kernels that a program needs.
#ifdef MODULE_DTYPE
KERNELS(MODULE_DTYPE, MODULE_INDEX)
#else
#define DTYPE(T)    \
    KERNELS(T, u32) \
    KERNELS(T, u64)

DTYPE(f16)
DTYPE(bf16)
DTYPE(f32)
DTYPE(f64)
#endif
