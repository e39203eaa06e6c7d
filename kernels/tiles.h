// SoftPool's windows that overlap, in tiles of a plane: a block has one, exponentiates each cell once about a shift that
// they share, and adds up along the rows and then down the columns, in its shared memory. Windows that do not hold are
// left to the functions for any window.

// The sums of N windows of `size` numbers, each `step` further on, that begin `stride` numbers from one another. Windows
// one number apart share the sum of what all of them have.
template <int N, typename C>
DEVICE void sum_windows(PRIVATE C (&sums)[N], SHARED const C* numbers, u32 step, u32 size, u32 stride) {
    if (stride == 1 && size >= N) {
        C core = C(0), left = C(0), right = C(0);
        for (u32 i = N - 1; i < size; i++) core += numbers[i * step];
        sums[N - 1] = core;
#pragma unroll
        for (int n = N - 2; n >= 0; n--) {
            left += numbers[n * step];
            sums[n] = core + left;
        }
#pragma unroll
        for (int n = 1; n < N; n++) {
            right += numbers[(size + n - 1) * step];
            sums[n] += right;
        }
    } else {
#pragma unroll
        for (int n = 0; n < N; n++) {
            sums[n] = C(0);
            for (u32 i = 0; i < size; i++) sums[n] += numbers[(n * stride + i) * step];
        }
    }
}

// A rectangle of numbers in shared memory.
template <typename C>
struct Grid {
    SHARED C* numbers;
    u32 rows, columns;
};

// Windows that a thread sums at once.
#define ABREAST 4

// The same, of which only the first `count` are wanted: those behind them lie beyond the numbers.
template <int N, typename C>
DEVICE void sum_some_windows(PRIVATE C (&sums)[N], SHARED const C* numbers, u32 step, u32 size, u32 stride, u32 count) {
    if (count >= N) {
        sum_windows(sums, numbers, step, size, stride);
        return;
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
        if (u32(n) >= count) continue;
        C one[1];
        sum_windows(one, numbers + n * stride * step, step, size, stride);
        sums[n] = one[0];
    }
}

// Sums of windows along the rows of `from`; then `to` has a column each.
template <typename C>
DEVICE void sum_along(Grid<C> to, Grid<C> from, u32 size, u32 stride, Turn turn) {
    const u32 groups = (to.columns + ABREAST - 1) / ABREAST;
    for (u32 i = turn.index; i < to.rows * groups; i += turn.count) {
        const u32 row = i / groups, first = (i - row * groups) * ABREAST;
        SHARED const C* numbers = from.numbers + row * from.columns + first * stride;
        C several[ABREAST];
        sum_some_windows(several, numbers, 1, size, stride, to.columns - first);
#pragma unroll
        for (int n = 0; n < ABREAST; n++)
            if (first + n < to.columns) to.numbers[row * to.columns + first + n] = several[n];
    }
}

// The windows of a tile, and the cells that they have, padded ones among them.
template <typename I>
struct Tile {
    // The first window.
    Position<I> at;
    // Windows.
    u32 rows, columns;
};

template <typename I>
DEVICE Tile<I> tile_of(I item, I rows, I columns, CONSTANT Params& p) {
    Position<I> at = position(item, p);
    at.row *= p.tile_rows;
    at.column *= p.tile_columns;
    return {at, u32(least(I(p.tile_rows), rows - at.row)), u32(least(I(p.tile_columns), columns - at.column))};
}

// A window with these sums about a shift, or by itself where it does not hold.
template <bool STATISTICS, typename T, typename I>
DEVICE void finish_window(Buffers<T> of, Position<I> at, Compute<T> shift, Compute<T> total, Compute<T> sum,
                          CONSTANT Params& p) {
    using C = Compute<T>;
    const I window = output_index(at, p);
    const bool holds = total >= least_total<C>(STATISTICS && p.exact) && is_finite(sum);
    const C inverse = reciprocal(total);
    if (STATISTICS) {
        Passing<C> passing = {shift, C(0), sum * inverse, 0};
        if (holds) passing.share = widen(of.grad[offset(p.grad, at, p)]) * inverse;
        else passing = passing_of<SoftPool, 1>(of, cells_of<SoftPool>(at, p), at, alone(), p);
        store_passing<SoftPool>(of.scratch, window, passing, p);
    } else {
        C y = temperature(p, C()).sign * sum * inverse;
        if (!holds) {
            const Known<C> known = known_of<SoftPool, 1>(of, cells_of<SoftPool>(at, p), at, alone(), p);
            y = SoftPool::output(known.sums, known.unit, known.count, p);
        }
        of.output[window] = rounded<T>(y, p);
    }
}

template <bool STATISTICS, typename T, typename I>
DEVICE void sum_tile(Buffers<T> of, Tile<I> tile, CONSTANT Params& p, Turn turn) {
    using C = Compute<T>;
    CONSTANT Temperature<C>& t = temperature(p, C());
    const u32 stride_h = u32(p.axes[1].stride.value), stride_w = u32(p.axes[2].stride.value);
    const u32 size_h = u32(p.axes[1].size), size_w = u32(p.axes[2].size);
    const u32 down = (tile.rows - 1) * stride_h + size_h, across = (tile.columns - 1) * stride_w + size_w;
    const Grid<C> totals = {of.shared + WARPS, down, across}, sums = {totals.numbers + down * across, down, across};
    const Grid<C> row_totals = {sums.numbers + down * across, down, tile.columns};
    const Grid<C> row_sums = {row_totals.numbers + down * tile.columns, down, tile.columns};
    // Where the padding lies above or left of the plane, it wraps around, and lies beyond its end.
    const I first_row = tile.at.row * stride_h - I(p.axes[1].padding);
    const I first_column = tile.at.column * stride_w - I(p.axes[2].padding);
    const Position<I> plane = {tile.at.plane, tile.at.depth, 0, 0};
    const I base = offset(p.input, plane, p);
    C peak = absent<C>();
    for (u32 i = turn.index; i < down * across; i += turn.count) {
        const u32 row = i / across;
        const I h = first_row + row, w = first_column + (i - row * across);
        C s = absent<C>();
        if (h < I(p.axes[1].input) && w < I(p.axes[2].input))
            s = t.sign * widen(of.input[base + h * I(p.input[3]) + w * I(p.input[4])]);
        totals.numbers[i] = s;
        // What is not finite spoils its own windows alone.
        if (is_finite(s)) peak = fmax(peak, s);
    }
    peak = all_of<Larger>(peak, of.shared, whole_block(turn));
    for (u32 i = turn.index; i < down * across; i += turn.count) {
        const C s = totals.numbers[i];
        const Weighed<C> cell = weigh(s, peak, t);
        totals.numbers[i] = s == absent<C>() ? C(0) : cell.e;
        sums.numbers[i] = s == absent<C>() ? C(0) : cell.e * (STATISTICS ? cell.d : s);
    }
    wait_for_block();
    sum_along(row_totals, totals, size_w, stride_w, turn);
    sum_along(row_sums, sums, size_w, stride_w, turn);
    wait_for_block();
    const u32 groups = (tile.rows + ABREAST - 1) / ABREAST;
    for (u32 i = turn.index; i < groups * tile.columns; i += turn.count) {
        const u32 group = i / tile.columns, column = i - group * tile.columns, row = group * ABREAST;
        const u32 from = row * stride_h * tile.columns + column;
        C total[ABREAST], sum[ABREAST];
        sum_some_windows(total, row_totals.numbers + from, tile.columns, size_h, stride_h, tile.rows - row);
        sum_some_windows(sum, row_sums.numbers + from, tile.columns, size_h, stride_h, tile.rows - row);
#pragma unroll
        for (int n = 0; n < ABREAST; n++) {
            if (row + n >= tile.rows) continue;
            const Position<I> at = {tile.at.plane, tile.at.depth, tile.at.row + row + n, tile.at.column + column};
            finish_window<STATISTICS>(of, at, peak, total[n], sum[n], p);
        }
    }
    wait_for_block();
}

template <typename T, typename I>
DEVICE void forward_tile(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    for (I item = turn.block; item < I(p.items); item += turn.blocks)
        sum_tile<false>(of, tile_of(item, I(p.axes[1].output), I(p.axes[2].output), p), p, turn);
}

template <typename T, typename I>
DEVICE void statistics_tile(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    for (I item = turn.block; item < I(p.items); item += turn.blocks)
        sum_tile<true>(of, tile_of(item, I(p.axes[1].output), I(p.axes[2].output), p), p, turn);
}

// The same backwards: what a tile's cells get of their windows, once those lie about one shift.

// The windows of a tile's cells along an axis, of which the first may not exist, and whether those of cells in a row begin
// one after another.
template <typename I>
struct Spread {
    I first;
    u32 count;
    bool every;
};

template <typename I>
DEVICE Spread<I> spread_of(CONSTANT Axis& axis, I cell, u32 cells) {
    const u32 size = u32(axis.size);
    if (axis.stride.value == 1) return {cell + I(axis.padding) - (size - 1), cells + size - 1, true};
    const Range<I> first = windows_of(axis, cell), last = windows_of(axis, I(cell + cells - 1));
    const I begin = least(first.begin, last.end);
    return {begin, u32(last.end - begin), false};
}

// The sums of the numbers, `step` apart, of the windows that cells have from one on; of those cells, the first `count`.
template <int N, typename C, typename I>
DEVICE void sum_of_cells(PRIVATE C (&sums)[N], SHARED const C* numbers, u32 step, Spread<I> spread, u32 offset, I cell,
                         u32 count, CONSTANT Axis& axis) {
    if (spread.every) {
        sum_some_windows(sums, numbers + offset * step, step, u32(axis.size), 1, count);
        return;
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
        sums[n] = C(0);
        if (u32(n) >= count) continue;
        const Range<I> windows = windows_of(axis, I(cell + offset + n));
        for (I w = windows.begin; w < windows.end; w++) sums[n] += numbers[u32(w - spread.first) * step];
    }
}

// Of each row of windows, the sums that the cells of a row get.
template <typename C, typename I>
DEVICE void spread_along(Grid<C> to, Grid<C> from, Spread<I> spread, I cell, CONSTANT Axis& axis, Turn turn) {
    const u32 groups = (to.columns + ABREAST - 1) / ABREAST;
    for (u32 i = turn.index; i < to.rows * groups; i += turn.count) {
        const u32 row = i / groups, first = (i - row * groups) * ABREAST;
        C several[ABREAST];
        sum_of_cells(several, from.numbers + row * from.columns, 1, spread, first, cell, to.columns - first, axis);
#pragma unroll
        for (int n = 0; n < ABREAST; n++)
            if (first + n < to.columns) to.numbers[row * to.columns + first + n] = several[n];
    }
}

// What a window gives about the shift of its tile: level + slope d.
template <typename T, typename I>
DEVICE Line<Compute<T>> lifted(Buffers<T> of, Position<I> at, Compute<T> shift, CONSTANT Params& p) {
    using C = Compute<T>;
    CONSTANT Temperature<C>& t = temperature(p, C());
    Line<C> line = {C(0), C(0)};
    if (!is_window(at, p)) return line;
    const Passing<C> window = load_passing<SoftPool>(of, at, p);
    if (window.share == C(0)) return line;
    const Weighed<C> lift = weigh(shift, window.peak, t);
    line.level = window.share * lift.e;
    if (p.exact) {
        line.slope = t.rate * line.level;
        line.level = fma(line.slope, lift.d - window.mean, line.level);
    }
    return line;
}

// A cell's gradient of the sum of those.
template <typename T, typename I>
DEVICE Compute<T> settled(Buffers<T> of, Position<I> at, Compute<T> shift, Line<Compute<T>> line, CONSTANT Params& p) {
    using C = Compute<T>;
    CONSTANT Temperature<C>& t = temperature(p, C());
    const Weighed<C> cell = weigh(t.sign * widen(of.input[offset(p.input, at, p)]), shift, t);
    // A cell that is no part of a finite window may weigh more than any number.
    const bool nothing = line.level == C(0) && line.slope == C(0);
    const bool weightless = cell.e == C(0) || cell.d == absent<C>();
    // Times nothing, NaN stays NaN.
    return nothing || weightless ? C(0) * line.level : cell.e * fma(line.slope, cell.d, line.level);
}

template <typename T, typename I>
DEVICE void gather_tile(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    using C = Compute<T>;
    CONSTANT Temperature<C>& t = temperature(p, C());
    for (I item = turn.block; item < I(p.items); item += turn.blocks) {
        const Tile<I> tile = tile_of(item, I(p.axes[1].input), I(p.axes[2].input), p);
        const Spread<I> rows = spread_of(p.axes[1], tile.at.row, tile.rows);
        const Spread<I> columns = spread_of(p.axes[2], tile.at.column, tile.columns);
        const u32 down = rows.count, across = columns.count;
        const Grid<C> levels = {of.shared + WARPS, down, across}, slopes = {levels.numbers + down * across, down, across};
        const Grid<C> row_levels = {slopes.numbers + down * across, down, tile.columns};
        const Grid<C> row_slopes = {row_levels.numbers + down * tile.columns, down, tile.columns};
        C shift = absent<C>(), lowest = -absent<C>();
        for (u32 i = turn.index; i < down * across; i += turn.count) {
            const u32 row = i / across;
            const Position<I> at = {tile.at.plane, tile.at.depth, rows.first + row, columns.first + (i - row * across)};
            if (!is_window(at, p)) continue;
            const C peak = of.scratch[output_index(at, p)];
            // Of a window that is not finite the peak is NaN.
            shift = fmax(shift, peak);
            lowest = fmin(lowest, peak);
        }
        shift = all_of<Larger>(shift, of.shared, whole_block(turn));
        lowest = -all_of<Larger>(-lowest, of.shared, whole_block(turn));
        const C apart = t.scale * distance(shift, lowest, t);
        // Exponents lose digits the further apart the shifts lie.
        const bool holds = is_finite(shift) && apart <= (p.exact ? C(4) : C(24));
        for (u32 i = turn.index; i < down * across; i += turn.count) {
            const u32 row = i / across;
            const Position<I> at = {tile.at.plane, tile.at.depth, rows.first + row, columns.first + (i - row * across)};
            const Line<C> line = lifted(of, at, shift, p);
            levels.numbers[i] = line.level;
            slopes.numbers[i] = line.slope;
        }
        wait_for_block();
        spread_along(row_levels, levels, columns, tile.at.column, p.axes[2], turn);
        if (p.exact) spread_along(row_slopes, slopes, columns, tile.at.column, p.axes[2], turn);
        wait_for_block();
        const u32 groups = (tile.rows + ABREAST - 1) / ABREAST;
        for (u32 i = turn.index; i < groups * tile.columns; i += turn.count) {
            const u32 group = i / tile.columns, column = i - group * tile.columns, row = group * ABREAST;
            C level[ABREAST], slope[ABREAST] = {};
            sum_of_cells(level, row_levels.numbers + column, tile.columns, rows, row, tile.at.row, tile.rows - row,
                         p.axes[1]);
            if (p.exact)
                sum_of_cells(slope, row_slopes.numbers + column, tile.columns, rows, row, tile.at.row, tile.rows - row,
                             p.axes[1]);
#pragma unroll
            for (int n = 0; n < ABREAST; n++) {
                if (row + n >= tile.rows) continue;
                const Position<I> at = {tile.at.plane, tile.at.depth, tile.at.row + row + n, tile.at.column + column};
                const Line<C> line = {level[n], slope[n]};
                const C dx = holds ? settled(of, at, shift, line, p) : gradients_of_one<SoftPool>(of, at, p).x;
                of.output[input_index(at, p)] = Element<T>::narrow(dx);
            }
        }
        wait_for_block();
    }
}
