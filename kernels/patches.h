// SoftPool's windows side by side: 2 x 2 (and 2 x 2 x 2) ones, and 3 x 3 ones at steps of two. A thread has a few, and
// their cells in registers. Those of 3 x 3 overlap; they share a shift, so that each cell is exponentiated once. Those that
// do not hold, because they lie far below the shift, are pooled again about their own peaks; only where a value is not
// finite is it left to the functions for any window.

// The rows of a plane. What lies above or left of it wraps around, and lies beyond its end.
template <typename T, typename I>
struct Rows {
    GLOBAL const T* plane;
    I rows, columns, pitch, step;
    // Cells that can be read in one piece, from a multiple of them on.
    u32 vectors;
};

template <typename T, typename I>
DEVICE Rows<T, I> input_rows(GLOBAL const T* input, Position<I> at, CONSTANT Params& p) {
    const Position<I> plane = {at.plane, at.depth, 0, 0};
    const bool is = at.depth < I(p.axes[0].input);
    return {input + (is ? offset(p.input, plane, p) : I(0)), is ? I(p.axes[1].input) : I(0), I(p.axes[2].input),
            I(p.input[3]), I(p.input[4]), p.input_vectors};
}

template <typename T, typename I>
DEVICE Rows<T, I> grad_rows(GLOBAL const T* grad, Position<I> at, CONSTANT Params& p) {
    const Position<I> plane = {at.plane, at.depth, 0, 0};
    const bool is = at.depth < I(p.axes[0].output);
    return {grad + (is ? offset(p.grad, plane, p) : I(0)), is ? I(p.axes[1].output) : I(0), I(p.axes[2].output),
            I(p.grad[3]), I(p.grad[4]), p.grad_vectors};
}

// A row of N cells: V of them, behind the first L, in vectors of K, which are all in the plane; the others one by one.
template <int L, int V, int K, typename T, int N, typename I>
DEVICE void load_row(PRIVATE Compute<T> (&s)[N], GLOBAL const T* cells, I column, I columns, Compute<T> beyond) {
    // Without branches, so that everything is on its way before anything is used.
    Vector<T, K> vectors[V / K];
#pragma unroll
    for (int v = 0; v < V / K; v++) vectors[v] = *reinterpret_cast<GLOBAL const Vector<T, K>*>(cells + v * K);
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (i >= L && i < L + V) {
            s[i] = widen(vectors[(i - L) / K].cells[(i - L) % K]);
        } else {
            // Beside the plane, its first or last cell is read.
            GLOBAL const T* beside =
                i < L ? cells - least(column, I(L - i)) : cells + least(I(i - L), I(columns - 1 - column));
            const Compute<T> cell = widen(*beside);
            s[i] = column + I(i - L) < columns ? cell : beyond;
        }
    }
}

// R rows of N cells into those of `s` from `first` on: L cells before a column where vectors begin, vectors, and M behind
// them. Cells beyond the plane become `beyond`; whether there was none.
template <int L, int M, int R, typename T, int S, int N, typename I>
DEVICE bool load(PRIVATE Compute<T> (&s)[S][N], int first, Rows<T, I> of, I row, I column, Compute<T> beyond) {
    constexpr int V = N - L - M, MOST = 16 / sizeof(T), K = V < MOST ? V : MOST, HALF = K > 2 ? K / 2 : K;
    const bool within = row < of.rows && of.rows - row >= R;
    const bool across = column < of.columns && of.columns - column >= V;
    // For five rows of f64 there are not registers enough.
    if ((sizeof(T) < 8 || (V > 1 && R < 5)) && across && within && of.vectors >= K) {
        GLOBAL const T* cells = of.plane + (row * of.pitch + column);
#pragma unroll
        for (int r = 0; r < R; r++, cells += of.pitch) load_row<L, V, K>(s[first + r], cells, column, of.columns, beyond);
    } else if (HALF < K && across && of.vectors >= HALF) {
#pragma unroll
        for (int r = 0; r < R; r++) {
            if (row + r < of.rows) {
                GLOBAL const T* cells = of.plane + ((row + r) * of.pitch + column);
                load_row<L, V, HALF>(s[first + r], cells, column, of.columns, beyond);
            } else {
#pragma unroll
                for (int i = 0; i < N; i++) s[first + r][i] = beyond;
            }
        }
    } else {
#pragma unroll
        for (int r = 0; r < R; r++) {
            const I h = row + r;
#pragma unroll
            for (int i = 0; i < N; i++) s[first + r][i] = beyond;
            if (h >= of.rows) continue;
#pragma unroll
            for (int i = 0; i < N; i++) {
                const I w = column + I(i - L);
                if (w < of.columns) s[first + r][i] = widen(of.plane[h * of.pitch + w * of.step]);
            }
        }
    }
    return within && column - I(L) < of.columns && of.columns - (column - I(L)) >= N;
}

// What cells beyond a plane are read as: hardly ever of any weight, but finite. With the sign of the temperature.
template <typename T>
DEVICE Compute<T> beyond(CONSTANT Params& p) {
    return -Element<T>::largest() * temperature(p, Compute<T>()).sign;
}

// So that the highest weighs most.
template <typename C, int R, int N>
DEVICE void mirror(PRIVATE C (&s)[R][N], CONSTANT Params& p) {
    if (temperature(p, C()).sign > C(0)) return;
#pragma unroll
    for (int i = 0; i < R * N; i++) s[i / N][i % N] = -s[i / N][i % N];
}

// Without regard to NaN, which then shows in the sums.
template <typename C, int R, int N>
DEVICE C peak_of(PRIVATE const C (&s)[R][N]) {
    C peak = s[0][0];
#pragma unroll
    for (int i = 1; i < R * N; i++) peak = fmax(peak, s[i / N][i % N]);
    return peak;
}

// Whether cells beyond a plane have no weight about a shift.
template <typename T>
DEVICE bool clears(Compute<T> shift, CONSTANT Params& p) {
    return weigh(-Element<T>::largest(), shift, temperature(p, Compute<T>())).e == Compute<T>(0);
}

// Sums of weights below this lie too far from the shift: by 17 / beta, or by 3.5 / beta for exact gradients, whose terms
// then cancel. Errors stay below 2e-6 in f32.
template <typename C>
DEVICE C least_total(bool exact) {
    return exact ? C(0.03125) : C(5.9604644775390625e-8);
}

// Windows of a row that a thread has.
#define SIDE_BY_SIDE(T) (sizeof(T) < 8 ? 4 : 1)

// Of cells in a column, with weights about a shift that windows share: the sums of e and of e v.
template <typename C>
struct Column {
    C total, sum;
};

template <typename C>
DEVICE void add(PRIVATE Column<C>& column, C e, C v, bool first) {
    column.total = first ? e : column.total + e;
    column.sum = first ? e * v : fma(e, v, column.sum);
}

template <typename C>
DEVICE Column<C> sum_of_two(Column<C> a, Column<C> b) {
    return {a.total + b.total, a.sum + b.sum};
}

// Of the window of H rows from `row` on and W columns from `column` on, about its own peak; its cells in row-major order.
template <int H, int W, typename C, int R, int N>
DEVICE Sums<C> sums_of_window(PRIVATE Weighed<C> (&cells)[H * W], PRIVATE const C (&s)[R][N], int row, int column,
                              CONSTANT Temperature<C>& t) {
    Sums<C> sums = {s[row][column], C(0), C(0)};
#pragma unroll
    for (int i = 1; i < H * W; i++) sums.peak = fmax(sums.peak, s[row + i / W][column + i % W]);
#pragma unroll
    for (int i = 0; i < H * W; i++) {
        cells[i] = weigh(s[row + i / W][column + i % W], sums.peak, t);
        if (i == 0)
            sums.total = cells[i].e, sums.below = cells[i].e * cells[i].d;
        else
            add_weighed(sums, cells[i]);
    }
    return sums;
}

// What a window that holds passes on to a cell: e (level + slope d).
template <typename C>
struct Line {
    C level, slope;
};

template <typename C>
DEVICE Line<C> line_of(C total, C below, C grad, bool exact, CONSTANT Params& p) {
    const C inverse = reciprocal(total), share = grad * inverse;
    if (!exact) return {share, C(0)};
    const C slope = temperature(p, C()).rate * share;
    return {fma(-slope, below * inverse, share), slope};
}

template <typename C>
DEVICE C passed(Line<C> line, Weighed<C> cell) {
    return cell.e == C(0) ? C(0) : cell.e * fma(line.slope, cell.d, line.level);
}

template <typename C>
DEVICE Line<C> together(Line<C> a, Line<C> b) {
    return {a.level + b.level, a.slope + b.slope};
}

template <typename I>
DEVICE bool is_window(Position<I> at, CONSTANT Params& p) {
    return at.depth < I(p.axes[0].output) && at.row < I(p.axes[1].output) && at.column < I(p.axes[2].output);
}

// ---- Forward --------------------------------------------------------------------------------------------------

// The outputs of windows in a row, from one on; where one is not finite, all as any windows are.
template <typename T, int N, typename I>
DEVICE void store_outputs(Buffers<T> of, Position<I> at, PRIVATE const T (&ys)[N], bool all_hold, CONSTANT Params& p) {
    GLOBAL T* row = of.output + output_index(at, p);
    const I left = left_of(at.column, I(p.axes[2].output));
    if (all_hold) {
        store(row, ys, left, p.output_vectors);
    } else {
#pragma unroll 1
        for (I i = 0; i < least(I(N), left); i++, at.column++) {
            const Known<Compute<T>> known = known_of<SoftPool, 1>(of, cells_of<SoftPool>(at, p), at, alone(), p);
            row[i] = rounded<T>(SoftPool::output(known.sums, known.unit, known.count, p), p);
        }
    }
}

// The output of a window; whether it holds.
template <typename T>
DEVICE bool settle(PRIVATE T& y, Sums<Compute<T>> sums, bool whole, CONSTANT Params& p) {
    CONSTANT Temperature<Compute<T>>& t = temperature(p, Compute<T>());
    const Compute<T> mean = mean_of(sums, t);
    y = Element<T>::narrow(t.sign * mean);
    return is_finite(mean) && (whole || clears<T>(sums.peak, p));
}

// D is the depth of the windows.
template <int D, typename T, typename I>
DEVICE void forward_squares(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    using C = Compute<T>;
    constexpr int V = SIDE_BY_SIDE(T);
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        at.column *= V;
        const I windows = left_of(at.column, I(p.axes[2].output));
        C s[2 * D][2 * V];
        bool whole = true;
#pragma unroll
        for (int d = 0; d < D; d++) {
            const Position<I> plane = {at.plane, D * at.depth + d, 0, 0};
            const Rows<T, I> rows = input_rows(of.input, plane, p);
            whole = load<0, 0, 2>(s, 2 * d, rows, 2 * at.row, 2 * at.column, beyond<T>(p)) && whole;
        }
        mirror(s, p);
        bool all_hold = true;
        T ys[V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            Weighed<C> cells[4 * D];
            const Sums<C> sums = sums_of_window<2 * D, 2>(cells, s, 0, 2 * j, temperature(p, C()));
            all_hold = (settle(ys[j], sums, whole, p) || I(j) >= windows) && all_hold;
        }
        store_outputs(of, at, ys, all_hold, p);
    }
}

template <typename T, typename I>
DEVICE void forward_2x2(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    forward_squares<1, T, I>(of, p, turn);
}

template <typename T, typename I>
DEVICE void forward_2x2x2(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    forward_squares<2, T, I>(of, p, turn);
}

// A row of windows, each about its own peak: where not all hold about the shift that they share. Their cells are read again,
// which happens seldom: keeping them would take too many registers.
template <int P, typename T, typename I>
DEVICE void forward_anew(Buffers<T> of, Rows<T, I> rows, Position<I> at, CONSTANT Params& p) {
    using C = Compute<T>;
    constexpr int V = SIDE_BY_SIDE(T), W = 2 * V + 1;
    const I windows = left_of(at.column, I(p.axes[2].output)), row = 2 * at.row - I(p.axes[1].padding);
    C s[3][W];
    const bool whole = load<P, 1 - P, 3>(s, 0, rows, row, 2 * at.column, beyond<T>(p));
    mirror(s, p);
    bool all_hold = true;
    T ys[V];
#pragma unroll
    for (int j = 0; j < V; j++) {
        Weighed<C> cells[9];
        const Sums<C> sums = sums_of_window<3, 3>(cells, s, 0, 2 * j, temperature(p, C()));
        all_hold = (settle(ys[j], sums, whole, p) || I(j) >= windows) && all_hold;
    }
    store_outputs(of, at, ys, all_hold, p);
}

// P is the padding of the columns. The item is two rows of V windows.
template <int P, typename T, typename I>
DEVICE void forward_3x3_padded(Buffers<T> of, CONSTANT Params& p, I item) {
    using C = Compute<T>;
    constexpr int V = SIDE_BY_SIDE(T), W = 2 * V + 1;
    CONSTANT Temperature<C>& t = temperature(p, C());
    Position<I> at = position(item, p);
    at.row *= 2;
    at.column *= V;
    const I windows = left_of(at.column, I(p.axes[2].output)), lines = left_of(at.row, I(p.axes[1].output));
    const Rows<T, I> rows = input_rows(of.input, at, p);
    C s[5][W];
    const bool whole = load<P, 1 - P, 5>(s, 0, rows, 2 * at.row - I(p.axes[1].padding), 2 * at.column, beyond<T>(p));
    mirror(s, p);
    const C shift = peak_of(s), enough = least_total<C>(false);
    C ys[2][V], all = C(0), lowest = enough;
    Column<C> open[2];
#pragma unroll
    for (int c = 0; c < W; c++) {
        Column<C> columns[2];
#pragma unroll
        for (int r = 0; r < 5; r++) {
            const C e = weigh(s[r][c], shift, t).e;
            if (r <= 2) add(columns[0], e, s[r][c], r == 0);
            if (r >= 2) add(columns[1], e, s[r][c], r == 2);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (c > 0) open[i] = sum_of_two(open[i], columns[i]);
            if (c > 0 && c % 2 == 0) {
                const int j = c / 2 - 1;
                // The mean of s, not of its distance to the shift, which may be much larger.
                ys[i][j] = open[i].sum * reciprocal(fmax(open[i].total, enough));
                // Windows beyond the others may have no cell.
                lowest = fmin(lowest, I(j) < windows && I(i) < lines ? open[i].total : enough);
                all += ys[i][j];
            }
            if (c % 2 == 0) open[i] = columns[i];
        }
    }
    mirror(ys, p);
    const bool all_hold = lowest >= enough && is_finite(all) && (whole || clears<T>(shift, p));
    if (all_hold) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (I(i) >= lines) continue;
            T cells[V];
#pragma unroll
            for (int j = 0; j < V; j++) cells[j] = Element<T>::narrow(ys[i][j]);
            store(of.output + output_index(at, p) + I(i) * I(p.axes[2].output), cells, windows, p.output_vectors);
        }
    } else {
#pragma unroll 1
        for (I i = 0; i < least(I(2), lines); i++, at.row++) forward_anew<P>(of, rows, at, p);
    }
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

// ---- Backward -------------------------------------------------------------------------------------------------

// The gradient of a cell from its windows, each pooled anew.
template <typename T, typename I>
DEVICE Compute<T> gathered(Buffers<T> of, Position<I> at, CONSTANT Params& p) {
    using C = Compute<T>;
    const C x = widen(of.input[offset(p.input, at, p)]);
    const Range<I> depths = windows_of(p.axes[0], at.depth), rows = windows_of(p.axes[1], at.row);
    const Range<I> columns = windows_of(p.axes[2], at.column);
    C dx = C(0);
    for (I d = depths.begin; d < depths.end; d++)
        for (I h = rows.begin; h < rows.end; h++)
            for (I w = columns.begin; w < columns.end; w++) {
                const Position<I> window = {at.plane, d, h, w};
                const Cells<I> cells = cells_of<SoftPool>(window, p);
                dx += SoftPool::passed(passing_of<SoftPool, 1>(of, cells, window, alone(), p), x, x, 0, p).x;
            }
    return dx;
}

// Rows of gradients, from a cell on.
template <typename T, int R, int N, typename I>
DEVICE void store_rows(Buffers<T> of, Position<I> at, PRIVATE const Compute<T> (&dx)[R][N], CONSTANT Params& p) {
    const I left = left_of(at.column, I(p.axes[2].input));
#pragma unroll
    for (int r = 0; r < R; r++, at.row++) {
        if (at.row >= I(p.axes[1].input)) continue;
        T cells[N];
#pragma unroll
        for (int i = 0; i < N; i++) cells[i] = Element<T>::narrow(dx[r][i]);
        store(of.output + input_index(at, p), cells, left, p.output_vectors);
    }
}

// Rows of gradients, from a cell on, two of a plane; where one is not finite, all as any windows' are.
template <int D, typename T, int N, typename I>
DEVICE void store_gradients(Buffers<T> of, Position<I> at, PRIVATE const Compute<T> (&dx)[2 * D][N], bool all_hold,
                            CONSTANT Params& p) {
    const I left = left_of(at.column, I(p.axes[2].input));
    Compute<T> all = 0;
#pragma unroll
    for (int i = 0; i < 2 * D * N; i++) all += dx[i / N][i % N];
    all_hold = all_hold && is_finite(all);
#pragma unroll
    for (int r = 0; r < 2 * D; r++) {
        Position<I> cell = {at.plane, at.depth + r / 2, at.row + r % 2, at.column};
        if (cell.depth >= I(p.axes[0].input) || cell.row >= I(p.axes[1].input)) continue;
        GLOBAL T* row = of.output + input_index(cell, p);
        if (all_hold) {
            T cells[N];
#pragma unroll
            for (int i = 0; i < N; i++) cells[i] = Element<T>::narrow(dx[r][i]);
            store(row, cells, left, p.output_vectors);
        } else {
#pragma unroll 1
            for (I i = 0; i < least(I(N), left); i++, cell.column++)
                row[i] = Element<T>::narrow(gathered(of, cell, p));
        }
    }
}

template <int D, typename T, typename I>
DEVICE void backward_squares(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    using C = Compute<T>;
    constexpr int V = SIDE_BY_SIDE(T);
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        at.column *= V;
        const Position<I> from = {at.plane, D * at.depth, 2 * at.row, 2 * at.column};
        C s[2 * D][2 * V], g[1][V];
        bool whole = true;
#pragma unroll
        for (int d = 0; d < D; d++) {
            const Position<I> plane = {at.plane, from.depth + d, 0, 0};
            const Rows<T, I> rows = input_rows(of.input, plane, p);
            whole = load<0, 0, 2>(s, 2 * d, rows, from.row, from.column, beyond<T>(p)) && whole;
        }
        mirror(s, p);
        load<0, 0, 1>(g, 0, grad_rows(of.grad, at, p), at.row, at.column, C(0));
        bool all_hold = true;
        C dx[2 * D][2 * V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            Weighed<C> cells[4 * D];
            const Sums<C> sums = sums_of_window<2 * D, 2>(cells, s, 0, 2 * j, temperature(p, C()));
            const Line<C> line = line_of(sums.total, sums.below, g[0][j], p.exact, p);
            // Where there is no window, g is 0.
            all_hold = all_hold && (whole || g[0][j] == C(0) || clears<T>(sums.peak, p));
#pragma unroll
            for (int i = 0; i < 4 * D; i++) dx[i / 2][2 * j + i % 2] = passed(line, cells[i]);
        }
        store_gradients<D>(of, from, dx, all_hold, p);
    }
}

template <typename T, typename I>
DEVICE void backward_2x2(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    backward_squares<1, T, I>(of, p, turn);
}

template <typename T, typename I>
DEVICE void backward_2x2x2(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    backward_squares<2, T, I>(of, p, turn);
}

// Gradients of two rows of cells, of windows each about its own peak, as above.
template <int L, int P, typename T, int N, typename I>
DEVICE bool pass_anew(PRIVATE Compute<T> (&dx)[2][N], Buffers<T> of, Rows<T, I> rows, Position<I> from, Position<I> at,
                      CONSTANT Params& p) {
    using C = Compute<T>;
    bool all_hold = true;
#pragma unroll
    for (int i = 0; i < 2 * N; i++) dx[i / N][i % N] = C(0);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j <= N / 2; j++) {
            const Position<I> window = {at.plane, at.depth, at.row - 1 + i, at.column + P - 1 + j};
            if (!is_window(window, p)) continue;
            C s[3][3];
            const I row = from.row - 2 + 2 * i, column = from.column - L + 2 * j;
            bool whole = true;
#pragma unroll
            for (int k = 0; k < 9; k++) {
                const I h = row + k / 3, w = column + k % 3;
                const bool is = h < rows.rows && w < rows.columns;
                s[k / 3][k % 3] = is ? widen(rows.plane[h * rows.pitch + w * rows.step]) : beyond<T>(p);
                whole = whole && is;
            }
            mirror(s, p);
            Weighed<C> cells[9];
            const Sums<C> sums = sums_of_window<3, 3>(cells, s, 0, 0, temperature(p, C()));
            const Line<C> line = line_of(sums.total, sums.below, widen(of.grad[offset(p.grad, window, p)]), p.exact, p);
            // What is not finite may show in cells of other threads alone.
            all_hold = all_hold && is_finite(line.level) && (whole || clears<T>(sums.peak, p));
#pragma unroll
            for (int k = 0; k < 9; k++) {
                const int r = 2 * i + k / 3 - 2, c = 2 * j + k % 3 - L;
                if (r >= 0 && r < 2 && c >= 0 && c < N) dx[r][c] += passed(line, cells[k]);
            }
        }
    return all_hold;
}

// Rows of cells that a thread has; for more of f64 there are not registers enough.
#define ROWS(T) (sizeof(T) < 8 ? 4 : 2)

// Their gradients about one shift, and whether all windows hold about it. P is the padding of the columns. Two rows of cells
// have one row of windows more, and 2 V cells of a row V + 1 windows.
template <int P, bool EXACT, typename T, int R, int N, typename I>
DEVICE bool pass_together(PRIVATE Compute<T> (&dx)[R][N], Buffers<T> of, Rows<T, I> rows, Position<I> from,
                          Position<I> at, CONSTANT Params& p) {
    using C = Compute<T>;
    constexpr int V = N / 2, W = N + 3, L = 2 - P, H = R / 2 + 1;
    CONSTANT Temperature<C>& t = temperature(p, C());
    C s[R + 3][W], g[H][V + 1];
    const bool whole = load<L, 1 + P, R + 3>(s, 0, rows, from.row - 2, from.column, beyond<T>(p));
    mirror(s, p);
    load<1 - P, P, H>(g, 0, grad_rows(of.grad, at, p), at.row - 1, at.column, C(0));
    const C shift = peak_of(s), enough = least_total<C>(EXACT);
    // Window by window, so that few sums need registers at once.
    Weighed<C> cells[R + 3][W];
    Column<C> open[H];
    Line<C> lines[H][V + 1];
    C totals = C(0), levels = C(0), lowest = enough;
#pragma unroll
    for (int c = 0; c < W; c++) {
#pragma unroll
        for (int r = 0; r < R + 3; r++) cells[r][c] = weigh(s[r][c], shift, t);
#pragma unroll
        for (int i = 0; i < H; i++) {
            Column<C> column, all;
#pragma unroll
            for (int r = 0; r < 3; r++) add(column, cells[2 * i + r][c].e, cells[2 * i + r][c].d, r == 0);
            all = c > 0 ? sum_of_two(open[i], column) : column;
            open[i] = c % 2 == 0 ? column : all;
            if (c == 0 || c % 2 == 1) continue;
            const int j = c / 2 - 1;
            // Where there is no window, g is 0, and its cells may be none.
            lines[i][j] = line_of(fmax(all.total, enough), all.sum, g[i][j], EXACT, p);
            totals += all.total;
            levels += lines[i][j].level;
            lowest = fmin(lowest, g[i][j] == C(0) ? enough : all.total);
        }
        if (c == 0 || c % 2 == 1) continue;
        // The two columns whose last window this was.
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int k = c - 2; k < c; k++) {
                if (k < L || k >= L + N) continue;
                const int above = (r + 1) / 2, below = r / 2 + 1, left = (k - 1) / 2, right = k / 2;
                Line<C> all = lines[above][right];
                if (above < below) all = together(all, lines[below][right]);
                if (left < right) all = together(all, lines[above][left]);
                if (left < right && above < below) all = together(all, lines[below][left]);
                dx[r][k - L] = EXACT ? passed(all, cells[r + 2][k]) : cells[r + 2][k].e * all.level;
            }
    }
    return lowest >= enough && is_finite(totals) && is_finite(levels) && (whole || clears<T>(shift, p));
}

// P is the padding of the columns. The item is some rows of 2 V cells.
template <int P, typename T, typename I>
DEVICE void backward_3x3_padded(Buffers<T> of, CONSTANT Params& p, I item) {
    using C = Compute<T>;
    constexpr int V = SIDE_BY_SIDE(T), L = 2 - P, R = ROWS(T);
    Position<I> at = position(item, p);
    at.row *= R / 2;
    at.column *= V;
    Position<I> from = {at.plane, at.depth, 2 * at.row - I(p.axes[1].padding), 2 * at.column};
    const Rows<T, I> rows = input_rows(of.input, at, p);
    C dx[R][2 * V];
    const bool all_hold = p.exact ? pass_together<P, true>(dx, of, rows, from, at, p)
                                  : pass_together<P, false>(dx, of, rows, from, at, p);
    if (all_hold) {
        store_rows(of, from, dx, p);
        return;
    }
#pragma unroll 1
    for (int i = 0; i < R / 2; i++, at.row++, from.row += 2) {
        C two[2][2 * V];
        const bool hold = pass_anew<L, P>(two, of, rows, from, at, p);
        store_gradients<1>(of, from, two, hold, p);
    }
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
