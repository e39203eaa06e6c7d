// Windows one at a time, by any rule: a thread or a team has one.

// The cells of a window, and how they lie.
template <typename I>
struct Cells {
    // Of the plane's first cell from that of the buffers.
    I plane, logits;
    Range<I> depths, rows, columns;
};

template <typename R, typename I>
DEVICE Cells<I> cells_of(Position<I> at, CONSTANT Params& p) {
    const Position<I> plane = {at.plane, 0, 0, 0};
    return {offset(p.input, plane, p), R::LOGITS ? offset(p.logits, plane, p) : I(0), window(p.axes[0], at.depth),
            window(p.axes[1], at.row), window(p.axes[2], at.column)};
}

// ---- Visiting all cells of a window ---------------------------------------------------------------------------

// Visitors: `see` a cell, with its activation, logit and place in the plane; `rest` after some, before rounding errors grow.

// The largest key.
template <typename R, typename C>
struct PeakVisitor {
    C peak;

    DEVICE void see(PRIVATE PeakVisitor<R, C>& v, C x, C z, u32, CONSTANT Params& p) {
        v.peak = higher(v.peak, R::key(x, z, p));
    }
    DEVICE void rest(PRIVATE PeakVisitor<R, C>&) {}
};

// The sums, those of a few cells apart.
template <typename R, typename C>
struct SumVisitor {
    Sums<C> few;
    C total, below, unit;

    DEVICE void see(PRIVATE SumVisitor<R, C>& v, C x, C z, u32, CONSTANT Params& p) { R::add(v.few, x, z, v.unit, p); }
    DEVICE void rest(PRIVATE SumVisitor<R, C>& v) {
        v.total += v.few.total;
        v.below += v.few.below;
        v.few.total = v.few.below = C(0);
    }
};

// The first place of the peak.
template <typename C>
struct PlaceVisitor {
    C peak;
    u32 place;

    DEVICE void see(PRIVATE PlaceVisitor<C>& v, C x, C, u32 place, CONSTANT Params&) {
        if (x == v.peak || (x != x && v.peak != v.peak)) v.place = least(v.place, place);
    }
    DEVICE void rest(PRIVATE PlaceVisitor<C>&) {}
};

// How a member goes over the columns of its rows: one in `across`, from `first` on.
struct Stride {
    u32 first, across;
};

template <typename R, typename V, typename T, typename I>
DEVICE void see_cell(PRIVATE V& visitor, Buffers<T> of, Cells<I> cells, I d, I h, I w, CONSTANT Params& p) {
    const I x = cells.plane + within_plane(p.input, d, h, w, p);
    const I z = R::LOGITS ? cells.logits + within_plane(p.logits, d, h, w, p) : x;
    const u32 place = u32((d * I(p.axes[1].input) + h) * I(p.axes[2].input) + w);
    V::see(visitor, widen(of.input[x]), widen(R::LOGITS ? of.logits[z] : of.input[x]), place, p);
}

// Cells of a row from `begin` to `end`, one by one.
template <typename R, typename V, typename T, typename I>
DEVICE void see_row(PRIVATE V& visitor, Buffers<T> of, Cells<I> cells, I d, I h, CONSTANT Params& p) {
    for (I w = cells.columns.begin; w < cells.columns.end;) {
        const I end = least(I(w + 16), cells.columns.end);
        for (; w < end; w++) see_cell<R>(visitor, of, cells, d, h, w, p);
        V::rest(visitor);
    }
}

// This member's cells of a row: 16 bytes of them at a time, in one piece where they lie so. Which they are does not depend
// on how the tensor lies, and nor do the bits of the sums.
template <typename R, typename V, typename T, typename I>
DEVICE void see_groups(PRIVATE V& visitor, Buffers<T> of, Cells<I> cells, I d, I h, Stride stride, CONSTANT Params& p) {
    constexpr int N = 16 / sizeof(T);
    const bool in_vectors = !R::LOGITS && p.input_vectors;
    const I row = cells.plane + within_plane(p.input, d, h, I(0), p);
    const u32 first = u32((d * I(p.axes[1].input) + h) * I(p.axes[2].input));
    for (I w = cells.columns.begin + N * I(stride.first); w < cells.columns.end; w += N * I(stride.across)) {
        if (in_vectors && cells.columns.end - w >= N && (row + w + I(p.misaligned)) % N == 0) {
            const Vector<T, N> vector = *reinterpret_cast<GLOBAL const Vector<T, N>*>(of.input + row + w);
#pragma unroll
            for (int i = 0; i < N; i++) {
                const Compute<T> x = widen(vector.cells[i]);
                V::see(visitor, x, x, first + u32(w) + i, p);
            }
        } else {
            const I end = cells.columns.end - w < N ? cells.columns.end : w + N;
#pragma unroll 1
            for (I c = w; c < end; c++) see_cell<R>(visitor, of, cells, d, h, c, p);
        }
        V::rest(visitor);
    }
}

// How a team shares the rows of a window: those that short rows have no cells for take other rows.
template <typename T, typename I>
struct Share {
    Stride stride;
    u32 first, down;
};

template <typename T, typename I>
DEVICE Share<T, I> share_of(I width, Team team) {
    const I groups = (width + 16 / sizeof(T) - 1) / (16 / sizeof(T));
    u32 across = team.members;
    while (across % 2 == 0 && I(across) / 2 >= groups) across /= 2;
    const Stride stride = {team.member % across, across};
    return {stride, team.member / across, team.members / across};
}

template <typename R, int N, typename V, typename T, typename I>
DEVICE void see_all(PRIVATE V& visitor, Buffers<T> of, Cells<I> cells, Team team, CONSTANT Params& p) {
    if (N == 1) {
        for (I d = cells.depths.begin; d < cells.depths.end; d++)
            for (I h = cells.rows.begin; h < cells.rows.end; h++) see_row<R>(visitor, of, cells, d, h, p);
        return;
    }
    const I height = cells.rows.end - cells.rows.begin, depth = cells.depths.end - cells.depths.begin;
    const Share<T, I> share = share_of<T>(cells.columns.end - cells.columns.begin, team);
    for (I row = share.first; row < depth * height; row += share.down) {
        const I d = row / height, h = row - d * height;
        see_groups<R>(visitor, of, cells, cells.depths.begin + d, cells.rows.begin + h, share.stride, p);
    }
}

// ---- What is known of a window --------------------------------------------------------------------------------

template <typename C>
struct Known {
    Sums<C> sums;
    C unit, count;
};

template <typename R, int N, typename T, typename I>
DEVICE Known<Compute<T>> known_of(Buffers<T> of, Cells<I> cells, Position<I> at, Team team, CONSTANT Params& p) {
    using C = Compute<T>;
    PeakVisitor<R, C> peak = {absent<C>()};
    if (R::PEAKED) {
        see_all<R, N>(peak, of, cells, team, p);
        peak.peak = all_of<N, Larger>(peak.peak, of.shared, team);
    }
    SumVisitor<R, C> sums = {{peak.peak, C(0), C(0)}, C(0), C(0), C(1)};
    if (!R::PLACES) {
#pragma unroll 1
        for (;;) {
            see_all<R, N>(sums, of, cells, team, p);
            sums.few.total = all_of<N, Sum>(sums.total, of.shared, team);
            sums.few.below = all_of<N, Sum>(sums.below, of.shared, team);
            if (!R::overflows(sums.few) || sums.unit != C(1)) break;
            sums.few.total = sums.few.below = sums.total = sums.below = C(0);
            sums.unit = small_unit<C>();
        }
    }
    return {sums.few, sums.unit, count_of<C>(at, p)};
}

template <int N, typename T, typename I>
DEVICE u32 place_of(Buffers<T> of, Cells<I> cells, Compute<T> peak, Team team, CONSTANT Params& p) {
    PlaceVisitor<Compute<T>> visitor = {peak, ~u32(0)};
    see_all<Maximum, N>(visitor, of, cells, team, p);
    return smallest_of<N>(visitor.place, of.shared, team);
}

template <typename R, int N, typename T, typename I>
DEVICE Passing<Compute<T>> passing_of(Buffers<T> of, Cells<I> cells, Position<I> at, Team team, CONSTANT Params& p) {
    using C = Compute<T>;
    const Known<C> known = known_of<R, N>(of, cells, at, team, p);
    const C g = widen(of.grad[offset(p.grad, at, p)]);
    Passing<C> passing = R::passing(known.sums, g, known.unit, known.count, p);
    if (R::PLACES) passing.place = place_of<N>(of, cells, passing.peak, team, p);
    return passing;
}

// ---- Scratch --------------------------------------------------------------------------------------------------

// Three arrays of what windows pass on, or the places of the largest cells.
template <typename R, typename C, typename I>
DEVICE void store_passing(GLOBAL C* scratch, I window, Passing<C> passing, CONSTANT Params& p) {
    if (R::PLACES) {
        reinterpret_cast<GLOBAL u32*>(scratch)[window] = passing.place;
        return;
    }
    scratch[window] = passing.peak;
    scratch[window + I(p.windows)] = passing.share;
    scratch[window + 2 * I(p.windows)] = passing.mean;
}

template <typename R, typename T, typename I>
DEVICE Passing<Compute<T>> load_passing(Buffers<T> of, Position<I> at, CONSTANT Params& p) {
    using C = Compute<T>;
    const I window = output_index(at, p);
    if (R::PLACES) {
        const u32 place = reinterpret_cast<GLOBAL const u32*>(of.scratch)[window];
        return {C(0), widen(of.grad[offset(p.grad, at, p)]), C(0), place};
    }
    GLOBAL const C* scratch = of.scratch + window;
    return {scratch[0], scratch[I(p.windows)], scratch[2 * I(p.windows)], 0};
}

// ---- Kernels --------------------------------------------------------------------------------------------------

template <typename R, int N, typename T, typename I>
DEVICE void forward(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    const Team team = team_of<N>(turn, p);
    FOR_TEAMS(item) {
        const Position<I> at = position(item, p);
        const Known<Compute<T>> known = known_of<R, N>(of, cells_of<R>(at, p), at, team, p);
        const Compute<T> y = R::output(known.sums, known.unit, known.count, p);
        if (team.member == 0) of.output[item] = rounded<T>(y, p);
    }
}

// What each window passes on, into the scratch buffer.
template <typename R, int N, typename T, typename I>
DEVICE void statistics(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    const Team team = team_of<N>(turn, p);
    FOR_TEAMS(item) {
        const Position<I> at = position(item, p);
        const Passing<Compute<T>> passing = passing_of<R, N>(of, cells_of<R>(at, p), at, team, p);
        if (team.member == 0) store_passing<R>(of.scratch, item, passing, p);
    }
}

// The gradients of a cell and of its logit.
template <typename R, typename T, typename I>
DEVICE void store_gradient(Buffers<T> of, I cell, Compute<T> dx, Compute<T> dz, CONSTANT Params& p) {
    of.output[cell] = Element<T>::narrow(dx);
    if (R::LOGITS) of.output[cell + I(p.cells)] = Element<T>::narrow(dz);
}

template <typename R, typename T, typename I>
DEVICE Compute<T> logit_of(Buffers<T> of, Position<I> at, CONSTANT Params& p) {
    return R::LOGITS ? widen(of.logits[cell_offset(p.logits, at, p)]) : Compute<T>(0);
}

template <typename I>
DEVICE u32 place_in_plane(Position<I> at, CONSTANT Params& p) {
    return u32((at.depth * I(p.axes[1].input) + at.row) * I(p.axes[2].input) + at.column);
}

template <typename C>
struct Gradients {
    C x, z;
};

// Of a cell, from the windows that hold it.
template <typename R, typename T, typename I>
DEVICE Gradients<Compute<T>> gradients_of(Buffers<T> of, Position<I> at, CONSTANT Params& p) {
    using C = Compute<T>;
    const C x = widen(of.input[cell_offset(p.input, at, p)]), z = logit_of<R>(of, at, p);
    const u32 place = place_in_plane(at, p);
    const Range<I> depths = windows_of(p.axes[0], at.depth), rows = windows_of(p.axes[1], at.row);
    const Range<I> columns = windows_of(p.axes[2], at.column);
    Gradients<C> all = {C(0), C(0)};
    for (I d = depths.begin; d < depths.end; d++)
        for (I h = rows.begin; h < rows.end; h++) {
            Gradients<C> row = {C(0), C(0)};
            for (I w = columns.begin; w < columns.end; w++) {
                const Position<I> from = {at.plane, d, h, w};
                const Passing<C> window = load_passing<R>(of, from, p);
                row.x += R::passed(window, x, z, place, p);
                if (R::LOGITS) row.z += R::passed_to_logit(window, x, z, p);
            }
            all.x += row.x;
            all.z += row.z;
        }
    return all;
}

template <typename R, typename T, typename I>
DEVICE void gather(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    FOR_ITEMS(item) {
        const Gradients<Compute<T>> all = gradients_of<R>(of, position(item, p), p);
        store_gradient<R>(of, item, all.x, all.z, p);
    }
}

// The gradient of a cell of the only window that may have it.
template <typename R, typename T, typename I>
DEVICE void pass_to(Buffers<T> of, Cells<I> cells, Passing<Compute<T>> passing, Position<I> to, bool inside,
                    CONSTANT Params& p) {
    using C = Compute<T>;
    C dx = C(0), dz = C(0);
    if (inside) {
        const C x = widen(of.input[cells.plane + within_plane(p.input, to.depth, to.row, to.column, p)]);
        C z = x;
        if (R::LOGITS) z = widen(of.logits[cells.logits + within_plane(p.logits, to.depth, to.row, to.column, p)]);
        dx = R::passed(passing, x, z, place_in_plane(to, p), p);
        if (R::LOGITS) dz = R::passed_to_logit(passing, x, z, p);
    }
    store_gradient<R>(of, input_index(to, p), dx, dz, p);
}

// Each cell's gradient where windows share none: from its window, and nothing for those that no window has.
template <typename R, int N, typename T, typename I>
DEVICE void disjoint(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    using C = Compute<T>;
    constexpr int V = 16 / sizeof(T);
    const Team team = team_of<N>(turn, p);
    FOR_TEAMS(item) {
        const Position<I> at = position(item, p);
        const Cells<I> cells = cells_of<R>(at, p);
        const Passing<C> passing = passing_of<R, N>(of, cells, at, team, p);
        const Range<I> depths = own(p.axes[0], at.depth), rows = own(p.axes[1], at.row);
        const Range<I> columns = own(p.axes[2], at.column);
        const Share<T, I> share = share_of<T>(columns.end - columns.begin, team);
        const I height = rows.end - rows.begin, all_rows = (depths.end - depths.begin) * height;
        for (I row = share.first; row < all_rows; row += share.down) {
            const I deeper = row / height, d = depths.begin + deeper, h = rows.begin + (row - deeper * height);
            const bool inside = d < cells.depths.end && h < cells.rows.end;
            const I from = cells.plane + within_plane(p.input, d, h, I(0), p);
            const Position<I> start = {at.plane, d, h, 0};
            const I to = input_index(start, p);
            for (I w = columns.begin + V * I(share.stride.first); w < columns.end; w += V * I(share.stride.across)) {
                const bool whole = N > 1 && !R::LOGITS && p.input_vectors && inside && w < cells.columns.end &&
                                   cells.columns.end - w >= V;
                if (whole && (from + w + I(p.misaligned)) % V == 0 && (to + w) % V == 0) {
                    const Vector<T, V> x = *reinterpret_cast<GLOBAL const Vector<T, V>*>(of.input + from + w);
                    Vector<T, V> dx;
#pragma unroll
                    for (int i = 0; i < V; i++) {
                        const C value = widen(x.cells[i]);
                        const Position<I> cell = {at.plane, d, h, w + i};
                        dx.cells[i] = Element<T>::narrow(R::passed(passing, value, value, place_in_plane(cell, p), p));
                    }
                    *reinterpret_cast<GLOBAL Vector<T, V>*>(of.output + to + w) = dx;
                } else {
                    const I end = columns.end - w < V ? columns.end : w + V;
#pragma unroll 1
                    for (I c = w; c < end; c++) {
                        const Position<I> cell = {at.plane, d, h, c};
                        pass_to<R>(of, cells, passing, cell, inside && c < cells.columns.end, p);
                    }
                }
            }
        }
    }
}
