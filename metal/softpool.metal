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

// Metal 3.0 has no bfloat: these are its bits, the upper half of a float's.
typedef ushort bf16;

inline float widen(half v) { return float(v); }
inline float widen(bf16 v) { return as_type<float>(uint(v) << 16); }
inline float widen(float v) { return v; }

template <typename T>
struct Element;
template <>
struct Element<half> {
    static float largest() { return 65504.0f; }
    static half narrow(float v) { return half(v); }
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

// ---- The mathematics ------------------------------------------------------------------------------------------

// Of the cells s = sign x of a window: the peak m, and with d = unit (s - m), the sums of e = 2^(scale d) and e d.
// Where the peak is not finite, the sums mean nothing.
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

inline void add(thread Sums& sums, float s, constant Temperature& t) {
    float d = distance(s, sums.peak, t);
    float e = power(t.scale * d);
    if (d != absent()) {
        sums.total += e;
        sums.below = fma(e, d, sums.below);
    }
}

template <int N>
inline Sums sums_of(thread const float* s, constant Temperature& t) {
    Sums sums = {s[0], 0.0f, 0.0f};
#pragma unroll
    for (int i = 1; i < N; i++) sums.peak = higher(sums.peak, s[i]);
#pragma unroll
    for (int i = 0; i < N; i++) add(sums, s[i], t);
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

template <typename T>
inline T output_of(Sums sums, constant Params& p) {
    float y = sums.peak;
    if (is_finite(y)) y = fma(sums.below / sums.total, p.in_single.inverse, y);
    y *= p.in_single.sign;
    if (p.nan_to_num) {
        const float most = Element<T>::largest();
        y = y != y ? 0.0f : y > most ? most : y < -most ? -most : y;
    }
    return Element<T>::narrow(y);
}

inline Passing passing_of(Sums sums, float grad, constant Params& p) {
    if (is_finite(sums.peak)) return {sums.peak, grad / sums.total, sums.below / sums.total};
    // A window without a finite output has no derivative; with nan_to_num its output is a constant.
    return {NAN, p.nan_to_num ? 0.0f : NAN, 0.0f};
}

inline float passed(Passing window, float s, constant Params& p) {
    constant Temperature& t = p.in_single;
    float d = distance(s, window.peak, t);
    float e = d == absent() ? 0.0f : power(t.scale * d);
    if (window.share == 0.0f || e == 0.0f) return 0.0f;
    if (p.exact) e *= fma(t.rate, d - window.mean, 1.0f);
    return window.share * e;
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

// ---- Rows -----------------------------------------------------------------------------------------------------

template <typename T, int N>
struct alignas(N * sizeof(T)) Vector {
    T cells[N];
};

// N cells from `row` on, as one vector; those from `left` on are absent, and where any is, or where rows are not
// made for vectors, one at a time.
template <typename T, int N, typename I>
inline void load(thread float* s, device const T* row, I left, I step, bool vectors, float sign) {
    if (vectors && left >= N) {
        Vector<T, N> vector = *reinterpret_cast<device const Vector<T, N>*>(row);
#pragma unroll
        for (int i = 0; i < N; i++) s[i] = sign * widen(vector.cells[i]);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) s[i] = I(i) < left ? sign * widen(row[i * step]) : absent();
    }
}

template <typename T, int N, typename I>
inline void store(device T* row, thread const T* cells, I left, bool vectors) {
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
                add(sums, cell(cells.plane, d, h, w, p), p.in_single);
    return sums;
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

template <typename T, typename I>
inline void forward_2x2(ARGUMENTS) {
    constexpr int V = 8 / sizeof(T);
    constant Temperature& t = p.in_single;
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        Position<I> from = {at.plane, at.depth, 2 * at.row, 2 * V * at.column};
        device const T* row = input + offset(p.input, from, p);
        const I step = I(p.input[4]), left = left_of(from.column, I(p.axes[2].input));
        float s[2][2 * V];
        load<T, 2 * V>(s[0], row, left, step, p.input_vectors, t.sign);
        load<T, 2 * V>(s[1], row + I(p.input[3]), from.row + 1 < I(p.axes[1].input) ? left : I(0), step,
                       p.input_vectors, t.sign);
        T ys[V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            float cells[4] = {s[0][2 * j], s[0][2 * j + 1], s[1][2 * j], s[1][2 * j + 1]};
            ys[j] = output_of<T>(sums_of<4>(cells, t), p);
        }
        at.column *= V;
        store<T, V>(output + output_index(at, p), ys, left_of(at.column, I(p.axes[2].output)), p.output_vectors);
    }
}

// P is the padding of the columns.
template <typename T, typename I, int P>
inline void forward_3x3_item(ARGUMENTS, I item) {
    constexpr int V = 8 / sizeof(T);
    constant Temperature& t = p.in_single;
    Position<I> at = position(item, p);
    Position<I> from = {at.plane, at.depth, 0, 2 * V * at.column};
    device const T* plane = input + offset(p.input, from, p);
    const I step = I(p.input[4]), height = I(p.axes[1].input), width = I(p.axes[2].input);
    float s[3][2 * V + 1];
#pragma unroll
    for (int r = 0; r < 3; r++) {
        // Above the input this wraps around, and lies below it.
        const I h = 2 * at.row + r - I(p.axes[1].padding);
        device const T* row = plane + h * I(p.input[3]);
        const I left = h < height ? left_of(from.column, width) : I(0);
        float pairs[2 * V];
        load<T, 2 * V>(pairs, row, left, step, p.input_vectors, t.sign);
#pragma unroll
        for (int i = 0; i < 2 * V; i++) s[r][P + i] = pairs[i];
        if (P == 0) s[r][2 * V] = left > 2 * V ? t.sign * widen(row[2 * V * step]) : absent();
        if (P == 1) s[r][0] = h < height && from.column > 0 ? t.sign * widen(*(row - step)) : absent();
    }
    T ys[V];
#pragma unroll
    for (int j = 0; j < V; j++) {
        float cells[9];
#pragma unroll
        for (int i = 0; i < 9; i++) cells[i] = s[i / 3][2 * j + i % 3];
        ys[j] = output_of<T>(sums_of<9>(cells, t), p);
    }
    at.column *= V;
    store<T, V>(output + output_index(at, p), ys, left_of(at.column, I(p.axes[2].output)), p.output_vectors);
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
            sums = merge(sums, sums_of<N>(s, p.in_single), p.in_single);
        }
        store_sums(scratch, index, part, sums, p);
    }
}

template <typename T, typename I>
inline void forward_parts(ARGUMENTS) {
    FOR_ITEMS(item) { output[item] = output_of<T>(merged_sums(scratch, item, p), p); }
}

// ---- Backward kernels -----------------------------------------------------------------------------------------

template <typename T, typename I>
inline void backward_2x2(ARGUMENTS) {
    constexpr int V = 8 / sizeof(T);
    constant Temperature& t = p.in_single;
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        Position<I> from = {at.plane, at.depth, 2 * at.row, 2 * V * at.column};
        const bool second = from.row + 1 < I(p.axes[1].input);
        device const T* row = input + offset(p.input, from, p);
        const I step = I(p.input[4]), left = left_of(from.column, I(p.axes[2].input));
        float s[2][2 * V];
        load<T, 2 * V>(s[0], row, left, step, p.input_vectors, t.sign);
        load<T, 2 * V>(s[1], row + I(p.input[3]), second ? left : I(0), step, p.input_vectors, t.sign);
        at.column *= V;
        const I windows = at.row < I(p.axes[1].output) ? left_of(at.column, I(p.axes[2].output)) : I(0);
        float g[V];
        load<T, V>(g, grad + offset(p.grad, at, p), windows, I(p.grad[4]), p.grad_vectors, 1.0f);
        T dx[2][2 * V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            float cells[4] = {s[0][2 * j], s[0][2 * j + 1], s[1][2 * j], s[1][2 * j + 1]};
            Passing passing = passing_of(sums_of<4>(cells, t), g[j], p);
            if (I(j) >= windows) passing.share = 0.0f;
#pragma unroll
            for (int i = 0; i < 4; i++)
                dx[i / 2][2 * j + i % 2] = Element<T>::narrow(passed(passing, cells[i], p));
        }
        const I to = input_index(from, p);
        store<T, 2 * V>(output + to, dx[0], left, p.output_vectors);
        if (second) store<T, 2 * V>(output + to + I(p.axes[2].input), dx[1], left, p.output_vectors);
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

#define KERNEL(NAME, T, DTYPE, I, INDEX)                                                          \
    kernel void NAME##_##DTYPE##_##INDEX(                                                         \
        device const T* input [[buffer(0)]], device const T* grad [[buffer(1)]],                  \
        device T* output [[buffer(2)]], device float* scratch [[buffer(3)]],                      \
        constant Params& p [[buffer(4)]], uint first [[thread_position_in_grid]],                 \
        uint threads [[threads_per_grid]]) {                                                      \
        NAME<T, I>(input, grad, output, scratch, p, first, threads);                              \
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
#define DTYPE(T, NAME)            \
    KERNELS(T, NAME, uint, u32)   \
    KERNELS(T, NAME, ulong, u64)

DTYPE(half, f16)
DTYPE(bf16, bf16)
DTYPE(float, f32)
