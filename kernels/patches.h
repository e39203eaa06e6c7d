// Windows side by side.
//
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
    GLOBAL const T* plane;
    I rows, columns, pitch, step;
    bool vectors;
};

template <typename T, typename I>
DEVICE Rows<T, I> input_rows(GLOBAL const T* input, Position<I> at, CONSTANT Params& p) {
    const Position<I> plane = {at.plane, at.depth, 0, 0};
    return {input + offset(p.input, plane, p), I(p.axes[1].input), I(p.axes[2].input), I(p.input[3]), I(p.input[4]),
            p.input_vectors != 0};
}

template <typename T, typename I>
DEVICE Rows<T, I> grad_rows(GLOBAL const T* grad, Position<I> at, CONSTANT Params& p) {
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
DEVICE void load(PRIVATE Compute<T> (&s)[R][N], Rows<T, I> of, I row, I column) {
    constexpr int V = N - L - M;
    // Everything is on its way before anything is used.
    if (of.vectors && row < of.rows && of.rows - row >= R && column < of.columns && of.columns - column >= V) {
#pragma unroll
        for (int r = 0; r < R; r++) {
            GLOBAL const T* cell = of.plane + (row + r) * of.pitch + column;
            const Vector<T, V> vector = *reinterpret_cast<GLOBAL const Vector<T, V>*>(cell);
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
DEVICE void store(GLOBAL T* row, PRIVATE const T (&cells)[N], I left, bool vectors) {
    if (vectors && left >= N) {
        Vector<T, N> vector;
#pragma unroll
        for (int i = 0; i < N; i++) vector.cells[i] = cells[i];
        *reinterpret_cast<GLOBAL Vector<T, N>*>(row) = vector;
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
DEVICE C peak_of(PRIVATE const C (&s)[R][N]) {
    C peak = s[0][0];
#pragma unroll
    for (int i = 1; i < R * N; i++) peak = higher(peak, s[i / N][i % N]);
    return peak;
}

// Whether cells beyond a plane have no weight about a shift.
template <typename T>
DEVICE bool clears(Compute<T> shift, CONSTANT Params& p) {
    using C = Compute<T>;
    return weigh(lowest<T>(), shift, temperature(p, C())).e == C(0);
}

// Sums of weights below this lie too far from the shift: by 39 / beta, or by 7 / beta for exact gradients, whose terms
// then cancel.
template <typename C>
DEVICE C least_total(bool exact) {
    return C(1) / C(u64(1) << (exact ? 10 : 56));
}

// Of cells in a column, with weights about a shift that windows share: the sums of e and of e v.
template <typename C>
struct Column {
    C total, sum;
};

template <typename C>
DEVICE void add(PRIVATE Column<C>& column, C e, C v) {
    column.total += e;
    column.sum = fma(e, v, column.sum);
}

template <typename C, int N>
DEVICE Column<C> sum_of_three(PRIVATE const Column<C> (&columns)[N], int first) {
    const Column<C> a = columns[first], b = columns[first + 1], c = columns[first + 2];
    return {a.total + b.total + c.total, a.sum + b.sum + c.sum};
}

// Of the 2 x 2 window in columns from `column` on.
template <typename C, int N>
DEVICE Sums<C> sums_of_square(PRIVATE Weighed<C> (&cells)[4], PRIVATE const C (&s)[2][N], int column, CONSTANT Temperature<C>& t) {
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
DEVICE Line<C> line_of(C total, C below, C grad, CONSTANT Params& p) {
    const C inverse = reciprocal(total), share = grad * inverse;
    const C slope = p.exact ? temperature(p, C()).rate * share : C(0);
    return {fma(-slope, below * inverse, share), slope};
}

template <typename C>
DEVICE C passed(Line<C> line, Weighed<C> cell) {
    return cell.e == C(0) ? C(0) : cell.e * fma(line.slope, cell.d, line.level);
}

// ---- Kernels -------------------------------------------------------------------------------------------------------

// The outputs of windows in a row, from one on; where not all hold, they are computed anew.
template <typename T, int N, typename I>
DEVICE void store_outputs(GLOBAL const T* input, GLOBAL T* output, Position<I> at, PRIVATE const T (&ys)[N], bool all_hold,
                          CONSTANT Params& p) {
    GLOBAL T* row = output + output_index(at, p);
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
DEVICE void forward_2x2(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    using C = Compute<T>;
    constexpr int V = 8 / sizeof(T);
    CONSTANT Temperature<C>& t = temperature(p, C());
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        at.column *= V;
        const I windows = left_of(at.column, I(p.axes[2].output));
        C s[2][2 * V];
        load<0, 0>(s, input_rows(of.input, at, p), 2 * at.row, 2 * at.column);
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
        store_outputs(of.input, of.output, at, ys, all_hold, p);
    }
}

// P is the padding of the columns.
template <int P, typename T, typename I>
DEVICE void forward_3x3_padded(Buffers<T> of, CONSTANT Params& p, I item) {
    using C = Compute<T>;
    constexpr int V = 8 / sizeof(T), W = 2 * V + 1;
    CONSTANT Temperature<C>& t = temperature(p, C());
    Position<I> at = position(item, p);
    at.column *= V;
    const I windows = left_of(at.column, I(p.axes[2].output));
    C s[3][W];
    load<P, 1 - P>(s, input_rows(of.input, at, p), 2 * at.row - I(p.axes[1].padding), 2 * at.column);
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
    store_outputs(of.input, of.output, at, ys, all_hold, p);
}

template <typename T, typename I>
DEVICE void forward_3x3(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    FOR_ITEMS(item) {
        if (p.axes[2].padding)
            forward_3x3_padded<1>(of, p, item);
        else
            forward_3x3_padded<0>(of, p, item);
    }
}

template <typename I>
DEVICE bool is_window(Position<I> at, CONSTANT Params& p) {
    return at.row < I(p.axes[1].output) && at.column < I(p.axes[2].output);
}

// The gradient of a cell from its windows, summed one at a time.
template <typename T, typename I>
DEVICE Compute<T> gathered(GLOBAL const T* input, GLOBAL const T* grad, Position<I> at, CONSTANT Params& p) {
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
DEVICE void store_gradients(GLOBAL const T* input, GLOBAL const T* grad, GLOBAL T* output, Position<I> at,
                            PRIVATE const Compute<T> (&dx)[2][N], bool all_hold, CONSTANT Params& p) {
    const I left = left_of(at.column, I(p.axes[2].input));
    Compute<T> all = 0;
#pragma unroll
    for (int i = 0; i < 2 * N; i++) all += dx[i / N][i % N];
    all_hold = all_hold && is_finite(all);
#pragma unroll
    for (int r = 0; r < 2; r++, at.row++) {
        if (at.row >= I(p.axes[1].input)) continue;
        GLOBAL T* row = output + input_index(at, p);
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
DEVICE void backward_2x2(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    using C = Compute<T>;
    constexpr int V = 8 / sizeof(T);
    CONSTANT Temperature<C>& t = temperature(p, C());
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        at.column *= V;
        const Position<I> from = {at.plane, at.depth, 2 * at.row, 2 * at.column};
        C s[2][2 * V], g[1][V];
        load<0, 0>(s, input_rows(of.input, at, p), from.row, from.column);
        load<0, 0>(g, grad_rows(of.grad, at, p), at.row, at.column);
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
        store_gradients(of.input, of.grad, of.output, from, dx, all_hold, p);
    }
}

// P is the padding of the columns. The item is two rows of 2 V cells; two rows of V + 1 windows have them.
template <int P, typename T, typename I>
DEVICE void backward_3x3_padded(Buffers<T> of, CONSTANT Params& p, I item) {
    using C = Compute<T>;
    constexpr int V = 8 / sizeof(T), W = 2 * V + 3, L = 2 - P;
    CONSTANT Temperature<C>& t = temperature(p, C());
    Position<I> at = position(item, p);
    at.column *= V;
    const Position<I> from = {at.plane, at.depth, 2 * at.row - I(p.axes[1].padding), 2 * at.column};
    C s[5][W], g[2][V + 1];
    load<L, 1 + P>(s, input_rows(of.input, at, p), from.row - 2, from.column);
    load<1 - P, P>(g, grad_rows(of.grad, at, p), at.row - 1, at.column);
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
    store_gradients(of.input, of.grad, of.output, from, dx, all_hold, p);
}

template <typename T, typename I>
DEVICE void backward_3x3(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    FOR_ITEMS(item) {
        if (p.axes[2].padding)
            backward_3x3_padded<1>(of, p, item);
        else
            backward_3x3_padded<0>(of, p, item);
    }
}
