// Windows one at a time: those that no kernel of their own serves.

// The cells of a window.
template <typename T, typename I>
struct Cells {
    GLOBAL const T* plane;
    Range<I> depths, rows, columns;
};

template <typename T, typename I>
DEVICE Cells<T, I> cells_of(GLOBAL const T* input, Position<I> at, CONSTANT Params& p) {
    Position<I> plane = {at.plane, 0, 0, 0};
    return {input + offset(p.input, plane, p), window(p.axes[0], at.depth), window(p.axes[1], at.row),
            window(p.axes[2], at.column)};
}

template <typename T, typename I>
DEVICE Compute<T> cell(GLOBAL const T* plane, I d, I h, I w, CONSTANT Params& p) {
    I offset = d * I(p.input[2]) + h * I(p.input[3]) + w * I(p.input[4]);
    return temperature(p, Compute<T>()).sign * widen(plane[offset]);
}

template <typename T, typename I>
DEVICE Sums<Compute<T>> sums_of(Cells<T, I> cells, CONSTANT Params& p) {
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

// ---- Scratch -------------------------------------------------------------------------------------------------------

// Three arrays of what windows pass on, then three of partial sums: those of part 0 of all windows, of part 1, ...
template <typename C, typename I>
DEVICE void store_passing(GLOBAL C* scratch, I window, Passing<C> passing, CONSTANT Params& p) {
    scratch[window] = passing.peak;
    scratch[window + I(p.windows)] = passing.share;
    scratch[window + 2 * I(p.windows)] = passing.mean;
}

template <typename C, typename I>
DEVICE Passing<C> load_passing(GLOBAL const C* scratch, I window, CONSTANT Params& p) {
    Passing<C> passing = {scratch[window], scratch[window + I(p.windows)], C(0)};
    if (p.exact) passing.mean = scratch[window + 2 * I(p.windows)];
    return passing;
}

template <typename C, typename I>
DEVICE void store_sums(GLOBAL C* scratch, I window, I part, Sums<C> sums, CONSTANT Params& p) {
    I all = I(p.windows) * I(p.parts.value), at = 3 * I(p.windows) + part * I(p.windows) + window;
    scratch[at] = sums.peak;
    scratch[at + all] = sums.total;
    scratch[at + 2 * all] = sums.below;
}

template <typename C, typename I>
DEVICE Sums<C> merged_sums(GLOBAL const C* scratch, I window, CONSTANT Params& p) {
    I all = I(p.windows) * I(p.parts.value), at = 3 * I(p.windows) + window;
    Sums<C> sums = {absent<C>(), C(0), C(0)};
    for (I part = 0; part < I(p.parts.value); part++, at += I(p.windows))
        sums = merge(sums, {scratch[at], scratch[at + all], scratch[at + 2 * all]}, temperature(p, C()));
    return sums;
}

// ---- Kernels -------------------------------------------------------------------------------------------------------

template <typename T, typename I>
DEVICE void forward_any(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    FOR_ITEMS(item) { of.output[item] = output_of<T>(sums_of(cells_of(of.input, position(item, p), p), p), p); }
}

template <typename T, typename I>
DEVICE void partials(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    using C = Compute<T>;
    constexpr int N = 4;
    const I parts = I(p.parts.value);
    FOR_ITEMS(item) {
        const I index = divide(item, p.parts), part = item - index * parts;
        const Cells<T, I> cells = cells_of(of.input, position(index, p), p);
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
        store_sums(of.scratch, index, part, sums, p);
    }
}

template <typename T, typename I>
DEVICE void forward_parts(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    FOR_ITEMS(item) { of.output[item] = output_of<T>(merged_sums(of.scratch, item, p), p); }
}

template <typename T, typename I>
DEVICE void backward_disjoint(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    using C = Compute<T>;
    FOR_ITEMS(item) {
        const Position<I> at = position(item, p);
        const Cells<T, I> cells = cells_of(of.input, at, p);
        const C g = widen(of.grad[offset(p.grad, at, p)]);
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
                    of.output[input_index(to, p)] = Element<T>::narrow(dx);
                }
    }
}

template <typename T, typename I>
DEVICE void statistics(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    FOR_ITEMS(item) {
        const Position<I> at = position(item, p);
        const Compute<T> g = widen(of.grad[offset(p.grad, at, p)]);
        store_passing(of.scratch, item, passing_of(sums_of(cells_of(of.input, at, p), p), g, p), p);
    }
}

template <typename T, typename I>
DEVICE void statistics_parts(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    FOR_ITEMS(item) {
        const Compute<T> g = widen(of.grad[offset(p.grad, position(item, p), p)]);
        store_passing(of.scratch, item, passing_of(merged_sums(of.scratch, item, p), g, p), p);
    }
}

template <typename T, typename I>
DEVICE void backward_gather(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    using C = Compute<T>;
    FOR_ITEMS(item) {
        const Position<I> at = position(item, p);
        const C s = temperature(p, C()).sign * widen(of.input[offset(p.input, at, p)]);
        const Range<I> depths = windows_of(p.axes[0], at.depth), rows = windows_of(p.axes[1], at.row);
        const Range<I> columns = windows_of(p.axes[2], at.column);
        C dx = C(0);
        for (I d = depths.begin; d < depths.end; d++)
            for (I h = rows.begin; h < rows.end; h++)
                for (I w = columns.begin; w < columns.end; w++) {
                    const Position<I> from = {at.plane, d, h, w};
                    dx += passed(load_passing(of.scratch, output_index(from, p), p), s, p);
                }
        of.output[item] = Element<T>::narrow(dx);
    }
}
