// SoftPool on Apple GPUs: y = sum of softmax(beta x) x in every window, and its gradient.
//
// The twin of cuda/softpool.cu, in Metal 3.0's language, to be compiled without fast math: infinities and NaN mean
// something here. No threadgroup memory, shuffles or atomics: every value has one thread that computes it, in a fixed
// order. src/backend/plan.rs says which kernels run, over how many threads.
#include <metal_stdlib>
using namespace metal;

// ---- What src/backend/params.rs declares ----------------------------------------------------------------------

struct Divisor {
    ulong value;
    uint multiplier, shift;
};

struct Axis {
    ulong input, output, reach, padding;
    Divisor stride;
    ulong adaptive;
};

struct Temperature {
    float sign, unit, inverse, scale, rate;
};

struct Params {
    Axis axes[3];
    ulong input[5], grad[5];
    Divisor channels;
    ulong items;
    Divisor columns, rows, depths, parts;
    ulong windows;
    uint input_vectors, grad_vectors, output_vectors;
    uint nan_to_num, exact;
    Temperature in_single;
    // In f64, which Metal lacks.
    ulong in_double[5];
};
static_assert(sizeof(Params) == 424, "the layout that params.rs has");

inline uint divide(uint n, constant Divisor& d) { return (mulhi(n, d.multiplier) + n) >> d.shift; }
inline ulong divide(ulong n, constant Divisor& d) { return n / d.value; }

// ---- The dtypes -----------------------------------------------------------------------------------------------

typedef half f16;
// Metal 3.0 has no bfloat: these are its bits, the upper half of a float's.
typedef ushort bf16;
typedef float f32;
typedef uint u32;
typedef ulong u64;

inline float widen(f16 v) { return float(v); }
inline float widen(bf16 v) { return as_type<float>(uint(v) << 16); }
inline float widen(float v) { return v; }

template <typename T>
struct Element;
template <>
struct Element<f16> {
    static float largest() { return 65504.0f; }
    static f16 narrow(float v) { return f16(v); }
};
template <>
struct Element<bf16> {
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
    static float largest() { return 3.40282347e38f; }
    static float narrow(float v) { return v; }
};

inline bool is_finite(float v) { return v - v == 0.0f; }

// The larger; NaN where one is.
inline float higher(float a, float b) { return a > b || a != a ? a : b; }

// 2^t, within four units in the last place; results below the normal numbers may be zero.
inline float power(float t) { return precise::exp2(t); }

inline float reciprocal(float b) { return 1.0f / b; }

// ---- The mathematics ------------------------------------------------------------------------------------------

// Of the cells s = sign x of a window: the peak m, and with d = unit (s - m), the sums of the weights e = 2^(scale d)
// and of e d. Where the peak is not finite, the sums mean nothing.
struct Sums {
    float peak, total, below;
};

// What a window passes on to a cell is share * weight(cell) [* slope(cell)].
struct Passing {
    float peak, share, mean;
};

// A cell that takes no part: it stands for padding, and -inf is one.
inline float absent() { return -INFINITY; }

inline float distance(float s, float peak, constant Temperature& t) { return fma(s, t.unit, -(peak * t.unit)); }

struct Weighed {
    float d, e;
};

inline Weighed weigh(float s, float peak, constant Temperature& t) {
    float d = distance(s, peak, t);
    return {d, power(t.scale * d)};
}

inline void add(thread Sums& sums, Weighed cell) {
    sums.total += cell.e;
    sums.below = fma(cell.e, cell.d, sums.below);
}

inline void weigh_in(thread Sums& sums, float s, constant Temperature& t) {
    const Weighed cell = weigh(s, sums.peak, t);
    if (cell.d != absent()) add(sums, cell);
}

template <int N>
inline Sums sums_of(thread const float (&s)[N], constant Temperature& t) {
    Sums sums = {s[0], 0.0f, 0.0f};
#pragma unroll
    for (int i = 1; i < N; i++) sums.peak = higher(sums.peak, s[i]);
#pragma unroll
    for (int i = 0; i < N; i++) weigh_in(sums, s[i], t);
    return sums;
}

// The sums of `part`, about the peak of `all`, are added to it.
inline void merge_about(thread Sums& all, Sums part, constant Temperature& t) {
    float d = distance(part.peak, all.peak, t);
    float e = power(t.scale * d);
    if (part.peak != absent() && !(e == 0.0f)) {
        all.total = fma(e, part.total, all.total);
        all.below = fma(e, fma(part.total, d, part.below), all.below);
    }
}

inline Sums merge(Sums a, Sums b, constant Temperature& t) {
    Sums all = {higher(a.peak, b.peak), 0.0f, 0.0f};
    merge_about(all, a, t);
    merge_about(all, b, t);
    return all;
}

inline float mean_of(Sums sums, constant Temperature& t) {
    return fma(sums.below * reciprocal(sums.total), t.inverse, sums.peak);
}

template <typename T>
inline T output_of(Sums sums, constant Params& p) {
    constant Temperature& t = p.in_single;
    float y = t.sign * (is_finite(sums.peak) ? mean_of(sums, t) : sums.peak);
    if (p.nan_to_num) {
        const float most = Element<T>::largest();
        y = y != y ? 0.0f : y > most ? most : y < -most ? -most : y;
    }
    return Element<T>::narrow(y);
}

inline Passing passing_of(Sums sums, float grad, constant Params& p) {
    const float inverse = reciprocal(sums.total);
    if (is_finite(sums.peak)) return {sums.peak, grad * inverse, sums.below * inverse};
    // A window without a finite output has no derivative; with nan_to_num its output is a constant.
    return {NAN, p.nan_to_num ? 0.0f : NAN, 0.0f};
}

inline float passed(Passing window, float s, constant Params& p) {
    constant Temperature& t = p.in_single;
    Weighed cell = weigh(s, window.peak, t);
    if (window.share == 0.0f || cell.d == absent() || cell.e == 0.0f) return 0.0f;
    if (p.exact) cell.e *= fma(t.rate, cell.d - window.mean, 1.0f);
    return window.share * cell.e;
}

// ---- Where things are -----------------------------------------------------------------------------------------

template <typename I>
struct Position {
    I plane, depth, row, column;
};

template <typename I>
inline Position<I> position(I item, constant Params& p) {
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
inline I offset(constant ulong* strides, Position<I> at, constant Params& p) {
    I batch = divide(at.plane, p.channels);
    I channel = at.plane - batch * I(p.channels.value);
    return batch * I(strides[0]) + channel * I(strides[1]) + at.depth * I(strides[2]) + at.row * I(strides[3]) +
           at.column * I(strides[4]);
}

// The index of a window among those of all planes, which is that of its output.
template <typename I>
inline I output_index(Position<I> at, constant Params& p) {
    return ((at.plane * I(p.axes[0].output) + at.depth) * I(p.axes[1].output) + at.row) * I(p.axes[2].output) +
           at.column;
}

template <typename I>
inline I input_index(Position<I> at, constant Params& p) {
    return ((at.plane * I(p.axes[0].input) + at.depth) * I(p.axes[1].input) + at.row) * I(p.axes[2].input) +
           at.column;
}

template <typename I>
struct Range {
    I begin, end;
};

template <typename I>
inline I least(I a, I b) {
    return a < b ? a : b;
}

// The cells of window o.
template <typename I>
inline Range<I> window(constant Axis& axis, I o) {
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
inline Range<I> windows_of(constant Axis& axis, I i) {
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
inline Range<I> own(constant Axis& axis, I o) {
    I stride = I(axis.stride.value), padding = I(axis.padding), input = I(axis.input);
    I begin = o == 0 ? I(0) : o * stride - padding;
    return {begin, o + 1 == I(axis.output) ? input : least((o + 1) * stride - padding, input)};
}

// ---- Windows one at a time ------------------------------------------------------------------------------------

// The cells of a window.
template <typename T, typename I>
struct Cells {
    device const T* plane;
    Range<I> depths, rows, columns;
};

template <typename T, typename I>
inline Cells<T, I> cells_of(device const T* input, Position<I> at, constant Params& p) {
    Position<I> plane = {at.plane, 0, 0, 0};
    return {input + offset(p.input, plane, p), window(p.axes[0], at.depth), window(p.axes[1], at.row),
            window(p.axes[2], at.column)};
}

template <typename T, typename I>
inline float cell(device const T* plane, I d, I h, I w, constant Params& p) {
    I offset = d * I(p.input[2]) + h * I(p.input[3]) + w * I(p.input[4]);
    return p.in_single.sign * widen(plane[offset]);
}

template <typename T, typename I>
inline Sums sums_of(Cells<T, I> cells, constant Params& p) {
    Sums sums = {absent(), 0.0f, 0.0f};
    for (I d = cells.depths.begin; d < cells.depths.end; d++)
        for (I h = cells.rows.begin; h < cells.rows.end; h++)
            for (I w = cells.columns.begin; w < cells.columns.end; w++)
                sums.peak = higher(sums.peak, cell(cells.plane, d, h, w, p));
    for (I d = cells.depths.begin; d < cells.depths.end; d++)
        for (I h = cells.rows.begin; h < cells.rows.end; h++)
            for (I w = cells.columns.begin; w < cells.columns.end; w++)
                weigh_in(sums, cell(cells.plane, d, h, w, p), p.in_single);
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
    device const T* plane;
    I rows, columns, pitch, step;
    bool vectors;
};

template <typename T, typename I>
inline Rows<T, I> input_rows(device const T* input, Position<I> at, constant Params& p) {
    const Position<I> plane = {at.plane, at.depth, 0, 0};
    return {input + offset(p.input, plane, p), I(p.axes[1].input), I(p.axes[2].input), I(p.input[3]), I(p.input[4]),
            p.input_vectors != 0};
}

template <typename T, typename I>
inline Rows<T, I> grad_rows(device const T* grad, Position<I> at, constant Params& p) {
    const Position<I> plane = {at.plane, at.depth, 0, 0};
    return {grad + offset(p.grad, plane, p), I(p.axes[1].output), I(p.axes[2].output), I(p.grad[3]), I(p.grad[4]),
            p.grad_vectors != 0};
}

// What cells beyond a plane are read as: of no weight, but finite.
template <typename T>
inline float lowest() {
    return -Element<T>::largest();
}

// R rows of N cells: L before a column where vectors begin, a vector, and M behind it.
template <int L, int M, typename T, int R, int N, typename I>
inline void load(thread float (&s)[R][N], Rows<T, I> of, I row, I column) {
    constexpr int V = N - L - M;
    // Everything is on its way before anything is used.
    if (of.vectors && row < of.rows && of.rows - row >= R && column < of.columns && of.columns - column >= V) {
#pragma unroll
        for (int r = 0; r < R; r++) {
            device const T* cell = of.plane + (row + r) * of.pitch + column;
            const Vector<T, V> vector = *reinterpret_cast<device const Vector<T, V>*>(cell);
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
inline void store(device T* row, thread const T (&cells)[N], I left, bool vectors) {
    if (vectors && left >= N) {
        Vector<T, N> vector;
#pragma unroll
        for (int i = 0; i < N; i++) vector.cells[i] = cells[i];
        *reinterpret_cast<device Vector<T, N>*>(row) = vector;
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (I(i) < left) row[i] = cells[i];
    }
}

// Cells from `at` to the end of a row of so many.
template <typename I>
inline I left_of(I at, I cells) {
    return at < cells ? cells - at : I(0);
}

template <int R, int N>
inline float peak_of(thread const float (&s)[R][N]) {
    float peak = s[0][0];
#pragma unroll
    for (int i = 1; i < R * N; i++) peak = higher(peak, s[i / N][i % N]);
    return peak;
}

// Whether cells beyond a plane have no weight about a shift.
template <typename T>
inline bool clears(float shift, constant Params& p) {
    return weigh(lowest<T>(), shift, p.in_single).e == 0.0f;
}

// Sums of weights below this lie too far from the shift: by 39 / beta, or by 7 / beta for exact gradients, whose terms
// then cancel.
inline float least_total(bool exact) { return 1.0f / float(1ul << (exact ? 10 : 56)); }

// Of cells in a column, with weights about a shift that windows share: the sums of e and of e v.
struct Column {
    float total, sum;
};

inline void add(thread Column& column, float e, float v) {
    column.total += e;
    column.sum = fma(e, v, column.sum);
}

template <int N>
inline Column sum_of_three(thread const Column (&columns)[N], int first) {
    const Column a = columns[first], b = columns[first + 1], c = columns[first + 2];
    return {a.total + b.total + c.total, a.sum + b.sum + c.sum};
}

// Of the 2 x 2 window in columns from `column` on.
template <int N>
inline Sums sums_of_square(thread Weighed (&cells)[4], thread const float (&s)[2][N], int column,
                           constant Temperature& t) {
    const float square[2][2] = {{s[0][column], s[0][column + 1]}, {s[1][column], s[1][column + 1]}};
    Sums sums = {peak_of(square), 0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        cells[i] = weigh(square[i / 2][i % 2], sums.peak, t);
        add(sums, cells[i]);
    }
    return sums;
}

// What a window that holds passes on to a cell: e (level + slope d).
struct Line {
    float level, slope;
};

inline Line line_of(float total, float below, float grad, constant Params& p) {
    const float inverse = reciprocal(total), share = grad * inverse;
    const float slope = p.exact ? p.in_single.rate * share : 0.0f;
    return {fma(-slope, below * inverse, share), slope};
}

inline float passed(Line line, Weighed cell) {
    return cell.e == 0.0f ? 0.0f : cell.e * fma(line.slope, cell.d, line.level);
}

// ---- Scratch --------------------------------------------------------------------------------------------------

// Three arrays of what windows pass on, then three of partial sums: those of part 0 of all windows, of part 1, ...
template <typename I>
inline void store_passing(device float* scratch, I window, Passing passing, constant Params& p) {
    scratch[window] = passing.peak;
    scratch[window + I(p.windows)] = passing.share;
    scratch[window + 2 * I(p.windows)] = passing.mean;
}

template <typename I>
inline Passing load_passing(device const float* scratch, I window, constant Params& p) {
    Passing passing = {scratch[window], scratch[window + I(p.windows)], 0.0f};
    if (p.exact) passing.mean = scratch[window + 2 * I(p.windows)];
    return passing;
}

template <typename I>
inline void store_sums(device float* scratch, I window, I part, Sums sums, constant Params& p) {
    I all = I(p.windows) * I(p.parts.value), at = 3 * I(p.windows) + part * I(p.windows) + window;
    scratch[at] = sums.peak;
    scratch[at + all] = sums.total;
    scratch[at + 2 * all] = sums.below;
}

template <typename I>
inline Sums merged_sums(device const float* scratch, I window, constant Params& p) {
    I all = I(p.windows) * I(p.parts.value), at = 3 * I(p.windows) + window;
    Sums sums = {absent(), 0.0f, 0.0f};
    for (I part = 0; part < I(p.parts.value); part++, at += I(p.windows))
        sums = merge(sums, {scratch[at], scratch[at + all], scratch[at + 2 * all]}, p.in_single);
    return sums;
}

// ---- Forward kernels ------------------------------------------------------------------------------------------

// A thread takes item `first`, and then every one that is `threads` further on.
#define ARGUMENTS                                                                                                \
    device const T* input, device const T* grad, device T* output, device float* scratch, constant Params& p,    \
        uint first, uint threads
#define FOR_ITEMS(item) for (I item = I(first); item < I(p.items); item += I(threads))

// The outputs of windows in a row, from one on; where not all hold, they are computed anew.
template <typename T, int N, typename I>
inline void store_outputs(device const T* input, device T* output, Position<I> at, thread const T (&ys)[N],
                          bool all_hold, constant Params& p) {
    device T* row = output + output_index(at, p);
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
inline void forward_2x2(ARGUMENTS) {
    constexpr int V = 8 / sizeof(T);
    constant Temperature& t = p.in_single;
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        at.column *= V;
        const I windows = left_of(at.column, I(p.axes[2].output));
        float s[2][2 * V];
        load<0, 0>(s, input_rows(input, at, p), 2 * at.row, 2 * at.column);
        bool all_hold = true;
        T ys[V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            Weighed cells[4];
            const Sums sums = sums_of_square(cells, s, 2 * j, t);
            const float y = mean_of(sums, t);
            ys[j] = Element<T>::narrow(y);
            all_hold = all_hold && (I(j) >= windows || (is_finite(y) && clears<T>(sums.peak, p)));
        }
        store_outputs(input, output, at, ys, all_hold, p);
    }
}

// P is the padding of the columns.
template <typename T, typename I, int P>
inline void forward_3x3_item(ARGUMENTS, I item) {
    constexpr int V = 8 / sizeof(T), W = 2 * V + 1;
    constant Temperature& t = p.in_single;
    Position<I> at = position(item, p);
    at.column *= V;
    const I windows = left_of(at.column, I(p.axes[2].output));
    float s[3][W];
    load<P, 1 - P>(s, input_rows(input, at, p), 2 * at.row - I(p.axes[1].padding), 2 * at.column);
    const float shift = peak_of(s);
    Column columns[W];
#pragma unroll
    for (int c = 0; c < W; c++) {
        columns[c] = {0.0f, 0.0f};
#pragma unroll
        for (int r = 0; r < 3; r++) add(columns[c], weigh(s[r][c], shift, t).e, s[r][c]);
    }
    bool all_hold = clears<T>(shift, p);
    T ys[V];
#pragma unroll
    for (int j = 0; j < V; j++) {
        // The mean of s, not of its distance to the shift, which may be much larger.
        const Column all = sum_of_three(columns, 2 * j);
        const float y = all.sum * reciprocal(all.total);
        ys[j] = Element<T>::narrow(y);
        all_hold = all_hold && (I(j) >= windows || (all.total >= least_total(false) && is_finite(y)));
    }
    store_outputs(input, output, at, ys, all_hold, p);
}

template <typename T, typename I>
inline void forward_3x3(ARGUMENTS) {
    FOR_ITEMS(item) {
        if (p.axes[2].padding)
            forward_3x3_item<T, I, 1>(input, grad, output, scratch, p, first, threads, item);
        else
            forward_3x3_item<T, I, 0>(input, grad, output, scratch, p, first, threads, item);
    }
}

template <typename T, typename I>
inline void forward_any(ARGUMENTS) {
    FOR_ITEMS(item) { output[item] = output_of<T>(sums_of(cells_of(input, position(item, p), p), p), p); }
}

template <typename T, typename I>
inline void partials(ARGUMENTS) {
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
        Sums sums = {absent(), 0.0f, 0.0f};
        while (d < depth) {
            float s[N];
#pragma unroll
            for (int i = 0; i < N; i++) {
                s[i] = absent();
                if (d < depth)
                    s[i] = cell(cells.plane, cells.depths.begin + d, cells.rows.begin + h, cells.columns.begin + w, p);
                w += step_w;
                h += step_h;
                d += step_d;
                if (w >= width) w -= width, h++;
                if (h >= height) h -= height, d++;
            }
            sums = merge(sums, sums_of(s, p.in_single), p.in_single);
        }
        store_sums(scratch, index, part, sums, p);
    }
}

template <typename T, typename I>
inline void forward_parts(ARGUMENTS) {
    FOR_ITEMS(item) { output[item] = output_of<T>(merged_sums(scratch, item, p), p); }
}

// ---- Backward kernels -----------------------------------------------------------------------------------------

template <typename I>
inline bool is_window(Position<I> at, constant Params& p) {
    return at.row < I(p.axes[1].output) && at.column < I(p.axes[2].output);
}

// The gradient of a cell from its windows, summed one at a time.
template <typename T, typename I>
inline float gathered(device const T* input, device const T* grad, Position<I> at, constant Params& p) {
    const float s = p.in_single.sign * widen(input[offset(p.input, at, p)]);
    const Range<I> rows = windows_of(p.axes[1], at.row), columns = windows_of(p.axes[2], at.column);
    float dx = 0.0f;
    for (I h = rows.begin; h < rows.end; h++)
        for (I w = columns.begin; w < columns.end; w++) {
            const Position<I> window = {at.plane, at.depth, h, w};
            const float g = widen(grad[offset(p.grad, window, p)]);
            dx += passed(passing_of(sums_of(cells_of(input, window, p), p), g, p), s, p);
        }
    return dx;
}

// Two rows of gradients, from a cell on; where not all windows hold or one is not finite, they are computed anew.
template <typename T, int N, typename I>
inline void store_gradients(device const T* input, device const T* grad, device T* output, Position<I> at,
                            thread const float (&dx)[2][N], bool all_hold, constant Params& p) {
    const I left = left_of(at.column, I(p.axes[2].input));
    float all = 0.0f;
#pragma unroll
    for (int i = 0; i < 2 * N; i++) all += dx[i / N][i % N];
    all_hold = all_hold && is_finite(all);
#pragma unroll
    for (int r = 0; r < 2; r++, at.row++) {
        if (at.row >= I(p.axes[1].input)) continue;
        device T* row = output + input_index(at, p);
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
inline void backward_2x2(ARGUMENTS) {
    constexpr int V = 8 / sizeof(T);
    constant Temperature& t = p.in_single;
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        at.column *= V;
        const Position<I> from = {at.plane, at.depth, 2 * at.row, 2 * at.column};
        float s[2][2 * V], g[1][V];
        load<0, 0>(s, input_rows(input, at, p), from.row, from.column);
        load<0, 0>(g, grad_rows(grad, at, p), at.row, at.column);
        bool all_hold = true;
        float dx[2][2 * V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            const Position<I> window = {at.plane, at.depth, at.row, at.column + j};
            Weighed cells[4];
            const Sums sums = sums_of_square(cells, s, 2 * j, t);
            const Line line = line_of(sums.total, sums.below, g[0][j], p);
            const bool is = is_window(window, p);
            all_hold = all_hold && (!is || clears<T>(sums.peak, p));
#pragma unroll
            for (int i = 0; i < 4; i++) dx[i / 2][2 * j + i % 2] = is ? passed(line, cells[i]) : 0.0f;
        }
        store_gradients(input, grad, output, from, dx, all_hold, p);
    }
}

// P is the padding of the columns. The item is two rows of 2 V cells; two rows of V + 1 windows have them.
template <typename T, typename I, int P>
inline void backward_3x3_item(ARGUMENTS, I item) {
    constexpr int V = 8 / sizeof(T), W = 2 * V + 3, L = 2 - P;
    constant Temperature& t = p.in_single;
    Position<I> at = position(item, p);
    at.column *= V;
    const Position<I> from = {at.plane, at.depth, 2 * at.row - I(p.axes[1].padding), 2 * at.column};
    float s[5][W], g[2][V + 1];
    load<L, 1 + P>(s, input_rows(input, at, p), from.row - 2, from.column);
    load<1 - P, P>(g, grad_rows(grad, at, p), at.row - 1, at.column);
    const float shift = peak_of(s);
    Column columns[2][W];
    Weighed cells[2][2 * V];
#pragma unroll
    for (int c = 0; c < W; c++) {
        columns[0][c] = columns[1][c] = {0.0f, 0.0f};
#pragma unroll
        for (int r = 0; r < 5; r++) {
            const Weighed cell = weigh(s[r][c], shift, t);
            if (r <= 2) add(columns[0][c], cell.e, cell.d);
            if (r >= 2) add(columns[1][c], cell.e, cell.d);
            if ((r == 2 || r == 3) && c >= L && c < L + 2 * V) cells[r - 2][c - L] = cell;
        }
    }
    Line lines[2][V + 1];
    const float least = least_total(p.exact);
    bool all_hold = clears<T>(shift, p);
    float levels = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j <= V; j++) {
            const Position<I> window = {at.plane, at.depth, at.row - 1 + i, at.column + P - 1 + j};
            const Column all = sum_of_three(columns[i], 2 * j);
            const bool is = is_window(window, p);
            lines[i][j] = {0.0f, 0.0f};
            if (is) lines[i][j] = line_of(all.total, all.sum, g[i][j], p);
            levels += lines[i][j].level;
            all_hold = all_hold && (!is || all.total >= least);
        }
    all_hold = all_hold && is_finite(levels);
    float dx[2][2 * V];
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int c = 0; c < 2 * V; c++) {
            // The windows that have the cell.
            Line all = {0.0f, 0.0f};
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
inline void backward_3x3(ARGUMENTS) {
    FOR_ITEMS(item) {
        if (p.axes[2].padding)
            backward_3x3_item<T, I, 1>(input, grad, output, scratch, p, first, threads, item);
        else
            backward_3x3_item<T, I, 0>(input, grad, output, scratch, p, first, threads, item);
    }
}

template <typename T, typename I>
inline void backward_disjoint(ARGUMENTS) {
    FOR_ITEMS(item) {
        const Position<I> at = position(item, p);
        const Cells<T, I> cells = cells_of(input, at, p);
        const float g = widen(grad[offset(p.grad, at, p)]);
        const Passing passing = passing_of(sums_of(cells, p), g, p);
        const Range<I> depths = own(p.axes[0], at.depth), rows = own(p.axes[1], at.row);
        const Range<I> columns = own(p.axes[2], at.column);
        for (I d = depths.begin; d < depths.end; d++)
            for (I h = rows.begin; h < rows.end; h++)
                for (I w = columns.begin; w < columns.end; w++) {
                    float dx = 0.0f;
                    if (d < cells.depths.end && h < cells.rows.end && w < cells.columns.end)
                        dx = passed(passing, cell(cells.plane, d, h, w, p), p);
                    const Position<I> to = {at.plane, d, h, w};
                    output[input_index(to, p)] = Element<T>::narrow(dx);
                }
    }
}

template <typename T, typename I>
inline void statistics(ARGUMENTS) {
    FOR_ITEMS(item) {
        const Position<I> at = position(item, p);
        const float g = widen(grad[offset(p.grad, at, p)]);
        store_passing(scratch, item, passing_of(sums_of(cells_of(input, at, p), p), g, p), p);
    }
}

template <typename T, typename I>
inline void statistics_parts(ARGUMENTS) {
    FOR_ITEMS(item) {
        const float g = widen(grad[offset(p.grad, position(item, p), p)]);
        store_passing(scratch, item, passing_of(merged_sums(scratch, item, p), g, p), p);
    }
}

template <typename T, typename I>
inline void backward_gather(ARGUMENTS) {
    FOR_ITEMS(item) {
        const Position<I> at = position(item, p);
        const float s = p.in_single.sign * widen(input[offset(p.input, at, p)]);
        const Range<I> depths = windows_of(p.axes[0], at.depth), rows = windows_of(p.axes[1], at.row);
        const Range<I> columns = windows_of(p.axes[2], at.column);
        float dx = 0.0f;
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

#define KERNEL(NAME, T, I)                                                                        \
    kernel void NAME##_##T##_##I(                                                                 \
        device const T* input [[buffer(0)]], device const T* grad [[buffer(1)]],                  \
        device T* output [[buffer(2)]], device float* scratch [[buffer(3)]],                      \
        constant Params& p [[buffer(4)]], uint first [[thread_position_in_grid]],                 \
        uint threads [[threads_per_grid]]) {                                                      \
        NAME<T, I>(input, grad, output, scratch, p, first, threads);                              \
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

// src/backend/metal.rs has a module compiled at a time, and only when a program needs it.
#ifdef MODULE_DTYPE
KERNELS(MODULE_DTYPE, MODULE_INDEX)
#else
#define DTYPE(T)    \
    KERNELS(T, u32) \
    KERNELS(T, u64)

DTYPE(f16)
DTYPE(bf16)
DTYPE(f32)
#endif
