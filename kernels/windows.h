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

// The sums of a rule that is ONLINE, while its peak is sought.
template <typename R, typename C>
struct OnlineVisitor {
    Sums<C> sums;
    // Of the group that is visited.
    Sums<C> few;

    DEVICE void see(PRIVATE OnlineVisitor<R, C>& v, C x, C z, u32, CONSTANT Params& p) { R::add_finite(v.few, x, z, p); }
    DEVICE void rest(PRIVATE OnlineVisitor<R, C>& v) {
        v.sums.total += v.few.total;
        v.sums.below += v.few.below;
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

template <typename R, typename V, typename T, typename I>
DEVICE void see_cell(PRIVATE V& visitor, Buffers<T> of, Cells<I> cells, I d, I h, I w, CONSTANT Params& p) {
    const I x = cells.plane + within_plane(p.input, d, h, w, p);
    const I z = R::LOGITS ? cells.logits + within_plane(p.logits, d, h, w, p) : x;
    const u32 place = u32((d * I(p.axes[1].input) + h) * I(p.axes[2].input) + w);
    V::see(visitor, widen(of.input[x]), widen(R::LOGITS ? of.logits[z] : of.input[x]), place, p);
}

// How a member goes over the columns of its rows: one in `across`, from `first` on.
struct Stride {
    u32 first, across;
};

// This member's cells of a row, one by one.
template <typename R, typename V, typename T, typename I>
DEVICE void see_cells(PRIVATE V& visitor, Buffers<T> of, Cells<I> cells, I d, I h, Stride stride, CONSTANT Params& p) {
    for (I w = cells.columns.begin + stride.first; w < cells.columns.end;) {
        const I end = least(I(w + 16 * stride.across), cells.columns.end);
        for (; w < end; w += stride.across) see_cell<R>(visitor, of, cells, d, h, w, p);
        V::rest(visitor);
    }
}

// ---- Groups of cells ------------------------------------------------------------------------------------------

// Members of a team take 16 bytes of a row at a time. Which cells those are does not depend on how the tensor lies, and nor
// do the bits of the sums.

// A few cells in registers, and where the first of them is.
template <typename C, int N>
struct Group {
    C x[N], z[N];
    u32 place;
};

// N cells of a row, into those from `first` on, however they lie. Behind `count` of them the last of those is read again.
template <int N, typename T, int M, typename I>
DEVICE void load_cells(PRIVATE Compute<T> (&to)[M], int first, GLOBAL const T* plane, CONSTANT u64* strides, I d, I h, I w,
                       I count, CONSTANT Params& p) {
    if (p.folded_columns.value) {
        // Seldom, and long: not unrolled.
#pragma unroll 1
        for (int n = 0; n < N; n++) {
            const Compute<T> cell = widen(plane[within_plane(strides, d, h, I(w + least(I(n), I(count - 1))), p)]);
#pragma unroll
            for (int i = 0; i < N; i++)
                if (i == n) to[first + i] = cell;
        }
        return;
    }
    GLOBAL const T* cell = plane + within_plane(strides, d, h, w, p);
#pragma unroll
    for (int i = 0; i < N; i++) {
        to[first + i] = widen(*cell);
        if (I(i + 1) < count) cell += I(strides[4]);
    }
}

// A row of a plane.
template <typename T, typename I>
struct Row {
    I depth, row;
    // Its first cell, where groups can be read in one piece.
    GLOBAL const T* cells;
    bool vectors;
};

template <typename R, typename T, typename I>
DEVICE Row<T, I> row_of(Buffers<T> of, Cells<I> cells, I d, I h, CONSTANT Params& p) {
    const I first = cells.plane + d * I(p.input[2]) + h * I(p.input[3]);
    const I begin = first + cells.columns.begin + I(p.misaligned);
    return {d, h, of.input + first, !R::LOGITS && p.input_vectors && begin % (16 / sizeof(T)) == 0};
}

// Groups of N cells, `apart` from each other, from column w on; of the only one, the first `count`.
template <typename R, int N, typename T, int M, typename I>
DEVICE void load_groups(PRIVATE Group<Compute<T>, M>& group, Buffers<T> of, Cells<I> cells, Row<T, I> row, I w, I apart,
                        I count, CONSTANT Params& p) {
    if (row.vectors && count >= N) {
        // All are on their way before one is used.
        Vector<T, N> vectors[M / N];
#pragma unroll
        for (int g = 0; g < M / N; g++)
            vectors[g] = *reinterpret_cast<GLOBAL const Vector<T, N>*>(row.cells + (w + g * apart));
#pragma unroll
        for (int i = 0; i < M; i++) group.x[i] = widen(vectors[i / N].cells[i % N]);
    } else {
#pragma unroll
        for (int g = 0; g < M / N; g++)
            load_cells<N>(group.x, g * N, of.input + cells.plane, p.input, row.depth, row.row, I(w + g * apart), count, p);
    }
#pragma unroll
    for (int i = 0; i < M; i++) group.z[i] = group.x[i];
    if (R::LOGITS) {
#pragma unroll
        for (int g = 0; g < M / N; g++)
            load_cells<N>(group.z, g * N, of.logits + cells.logits, p.logits, row.depth, row.row, I(w + g * apart), count,
                          p);
    }
}

// Before the cells of a group are seen.
template <typename V, typename C, int M>
DEVICE void begin(PRIVATE V&, PRIVATE const Group<C, M>&, CONSTANT Params&) {}

template <typename R, typename C, int M>
DEVICE void begin(PRIVATE OnlineVisitor<R, C>& visitor, PRIVATE const Group<C, M>& group, CONSTANT Params& p) {
    const C peak = R::largest_key(group.x, group.z, p);
    if (!is_near(peak, visitor.sums.peak, temperature(p, C()))) visitor.sums = R::moved(visitor.sums, peak, p);
    visitor.few = {visitor.sums.peak, C(0), C(0)};
}

// Groups of N cells, `apart` from each other; of all, the first `count`.
template <int N, typename V, typename C, int M>
DEVICE void see_group(PRIVATE V& visitor, PRIVATE const Group<C, M>& group, u32 apart, u32 count, CONSTANT Params& p) {
    begin(visitor, group, p);
#pragma unroll
    for (int i = 0; i < M; i++)
        if (u32(i) < count) V::see(visitor, group.x[i], group.z[i], group.place + i / N * apart + i % N, p);
    V::rest(visitor);
}

// Groups that a thread has on their way at once.
#define AT_ONCE(T) (sizeof(T) < 4 ? 2 : 4)

// This member's groups of a row.
template <typename R, typename V, typename T, typename I>
DEVICE void see_groups(PRIVATE V& visitor, Buffers<T> of, Cells<I> cells, I d, I h, Stride stride, CONSTANT Params& p) {
    constexpr int N = 16 / sizeof(T), G = AT_ONCE(T);
    const Row<T, I> row = row_of<R>(of, cells, d, h, p);
    const u32 first = u32((d * I(p.axes[1].input) + h) * I(p.axes[2].input));
    const I end = cells.columns.end, apart = N * I(stride.across);
    I w = cells.columns.begin + N * I(stride.first);
#pragma unroll 1
    for (; w + (G - 1) * apart + N <= end; w += G * apart) {
        Group<Compute<T>, G * N> groups;
        groups.place = first + u32(w);
        load_groups<R, N>(groups, of, cells, row, w, apart, I(N), p);
        see_group<N>(visitor, groups, u32(apart), G * N, p);
    }
#pragma unroll 1
    for (; w < end; w += apart) {
        Group<Compute<T>, N> group;
        group.place = first + u32(w);
        load_groups<R, N>(group, of, cells, row, w, I(0), I(end - w), p);
        see_group<N>(visitor, group, 0, u32(least(I(end - w), I(N))), p);
    }
}

// How a team shares the rows of a window: those that short rows have no cells for take other rows.
struct Share {
    Stride stride;
    u32 first, down;
};

// N is 1 or WARP.
template <int N>
DEVICE Share share_of(Team team, CONSTANT Params& p) {
    if (N == 1) return {{0, 1}, 0, 1};
    const u32 across = u32(1) << p.across;
    return {{team.member & (across - 1), across}, team.member >> p.across, team.members >> p.across};
}

// A member's rows of a box, one after another.
template <typename I>
struct Walk {
    I depth, row;
};

template <typename I>
DEVICE bool is_in(PRIVATE Walk<I>& walk, Range<I> depths, Range<I> rows) {
    // One step may lead over several depths.
    for (; walk.row >= rows.end && walk.depth < depths.end; walk.depth++) walk.row -= rows.end - rows.begin;
    return walk.depth < depths.end;
}

// This member's cells of a window; in groups of them, or one by one. N is 1 or WARP.
template <typename R, int N, bool GROUPS, typename V, typename T, typename I>
DEVICE void see_all(PRIVATE V& visitor, Buffers<T> of, Cells<I> cells, Team team, CONSTANT Params& p) {
    const Share share = share_of<N>(team, p);
    Walk<I> at = {cells.depths.begin, cells.rows.begin + share.first};
#pragma unroll 1
    for (; is_in(at, cells.depths, cells.rows); at.row += share.down) {
        if (GROUPS)
            see_groups<R>(visitor, of, cells, at.depth, at.row, share.stride, p);
        else
            see_cells<R>(visitor, of, cells, at.depth, at.row, share.stride, p);
    }
}

// ---- What is known of a window --------------------------------------------------------------------------------

template <typename C>
struct Known {
    Sums<C> sums;
    C unit, count;
};

// Of rules that are ONLINE, which do not count cells: the sums of a window in one visit; whether they are any. Values that
// are not finite show in them.
template <typename R, int N, bool ONLINE>
struct OneVisit {
    template <typename T, typename I>
    DEVICE bool sums(PRIVATE Sums<Compute<T>>& all, Buffers<T> of, Cells<I> cells, Team team, CONSTANT Params& p) {
        using C = Compute<T>;
        OnlineVisitor<R, C> visitor = {{absent<C>(), C(0), C(0)}, {}};
        see_all<R, N, true>(visitor, of, cells, team, p);
        const C peak = all_of<Larger>(visitor.sums.peak, of.shared, team);
        all = all_of<Sum>(R::moved(visitor.sums, peak, p), of.shared, team);
        return is_finite(all.peak) && is_finite(all.total) && is_finite(all.below);
    }
};
template <typename R, int N>
struct OneVisit<R, N, false> {
    template <typename T, typename I>
    DEVICE bool sums(PRIVATE Sums<Compute<T>>&, Buffers<T>, Cells<I>, Team, CONSTANT Params&) {
        return false;
    }
};

template <typename R, int N, typename T, typename I>
DEVICE Known<Compute<T>> known_of(Buffers<T> of, Cells<I> cells, Position<I> at, Team team, CONSTANT Params& p) {
    using C = Compute<T>;
    Sums<C> online;
    if (OneVisit<R, N, R::ONLINE && N != 1>::sums(online, of, cells, team, p)) return {online, C(1), C(0)};
    // That of values that are not finite is seldom, and need not be fast.
    constexpr bool GROUPS = N > 1 && !R::ONLINE;
    PeakVisitor<R, C> peak = {absent<C>()};
    if (R::PEAKED) {
        see_all<R, N, GROUPS>(peak, of, cells, team, p);
        peak.peak = all_of<Larger>(peak.peak, of.shared, team);
    }
    SumVisitor<R, C> sums = {{peak.peak, C(0), C(0)}, C(0), C(0), C(1)};
    if (!R::PLACES) {
#pragma unroll 1
        for (;;) {
            see_all<R, N, GROUPS>(sums, of, cells, team, p);
            sums.few = all_of<Sum>(Sums<C>{peak.peak, sums.total, sums.below}, of.shared, team);
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
    see_all<Maximum, N, (N > 1)>(visitor, of, cells, team, p);
    return all_of<Smaller>(visitor.place, reinterpret_cast<SHARED u32*>(of.shared), team);
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

template <typename R, typename T, typename I>
DEVICE void store_gradients_of(Buffers<T> of, I cell, Gradients<Compute<T>> gradients, CONSTANT Params& p) {
    of.output[cell] = Element<T>::narrow(gradients.x);
    if (R::LOGITS) of.output[cell + I(p.cells)] = Element<T>::narrow(gradients.z);
}

template <typename I>
DEVICE u32 place_in_plane(Position<I> at, CONSTANT Params& p) {
    return u32((at.depth * I(p.axes[1].input) + at.row) * I(p.axes[2].input) + at.column);
}

// ---- Gradients of cells, from all windows that hold them ------------------------------------------------------

// Cells of a row that a thread has, as in src/backend/plan.rs.
#define NEIGHBOURS(T) (sizeof(T) < 8 ? 4 : 2)

// Cells of a row, from a multiple of N on, in one piece if so many may be read so. Behind `count` of them the last of those is
// read again.
template <typename T, int N, typename I>
DEVICE void load_neighbours(PRIVATE Compute<T> (&to)[N], GLOBAL const T* cells, CONSTANT u64* strides, u32 vectors,
                            Position<I> at, I count, CONSTANT Params& p) {
    const Position<I> start = {at.plane, 0, 0, 0};
    GLOBAL const T* plane = cells + offset(strides, start, p);
    if (vectors >= N && count >= N) {
        const Vector<T, N> vector =
            *reinterpret_cast<GLOBAL const Vector<T, N>*>(plane + within_plane(strides, at.depth, at.row, at.column, p));
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = widen(vector.cells[i]);
    } else {
        load_cells<N>(to, 0, plane, strides, at.depth, at.row, at.column, count, p);
    }
}

// The windows of any of so many cells of a row.
template <typename I>
DEVICE Range<I> windows_of_any(CONSTANT Axis& axis, I first, I count) {
    return {windows_of(axis, first).begin, windows_of(axis, I(first + count - 1)).end};
}

// What the windows of a column pass on to the cells of a group. All of them have the same of those.
template <typename R, typename T, int N, typename I>
DEVICE void add_column(PRIVATE Gradients<Compute<T>> (&all)[N], PRIVATE const Group<Compute<T>, N>& group, I first,
                       Buffers<T> of, Position<I> from, Range<I> depths, Range<I> rows, CONSTANT Params& p) {
    using C = Compute<T>;
    const Range<I> cells = window(p.axes[2], from.column);
    Gradients<C> column[N] = {};
    for (from.depth = depths.begin; from.depth < depths.end; from.depth++)
#pragma unroll 1
        for (from.row = rows.begin; from.row < rows.end; from.row++) {
            const Passing<C> passing = load_passing<R>(of, from, p);
#pragma unroll
            for (int i = 0; i < N; i++) {
                // Wraps around for a cell left of the window. A cell alone is in all of them.
                if (N > 1 && I(first + i - cells.begin) >= cells.end - cells.begin) continue;
                const Gradients<C> passed = R::passed(passing, group.x[i], group.z[i], group.place + i, p);
                column[i].x += passed.x;
                column[i].z += passed.z;
            }
        }
#pragma unroll
    for (int i = 0; i < N; i++) {
        all[i].x += column[i].x;
        all[i].z += column[i].z;
    }
}

// The gradients of cells of a row, of which there are `count`.
template <typename R, typename T, int N, typename I>
DEVICE void gradients_of(PRIVATE Gradients<Compute<T>> (&all)[N], Buffers<T> of, Position<I> at, I count,
                         CONSTANT Params& p) {
    using C = Compute<T>;
    Group<C, N> group;
    group.place = place_in_plane(at, p);
    load_neighbours(group.x, of.input, p.input, p.input_vectors, at, count, p);
#pragma unroll
    for (int i = 0; i < N; i++) group.z[i] = group.x[i];
    if (R::LOGITS) load_neighbours(group.z, of.logits, p.logits, p.logits_vectors, at, count, p);
    const Range<I> depths = windows_of(p.axes[0], at.depth), rows = windows_of(p.axes[1], at.row);
    const Range<I> columns = windows_of_any(p.axes[2], at.column, count);
#pragma unroll
    for (int i = 0; i < N; i++) all[i] = {C(0), C(0)};
#pragma unroll 1
    for (I w = columns.begin; w < columns.end; w++) {
        const Position<I> from = {at.plane, 0, 0, w};
        add_column<R>(all, group, at.column, of, from, depths, rows, p);
    }
}

template <typename R, typename T, typename I>
DEVICE Gradients<Compute<T>> gradients_of_one(Buffers<T> of, Position<I> at, CONSTANT Params& p) {
    Gradients<Compute<T>> one[1];
    gradients_of<R>(one, of, at, I(1), p);
    return one[0];
}

// A thread has cells side by side, which share most of their windows: it reads each of those once.
template <typename R, typename T, typename I>
DEVICE void gather(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    constexpr int N = NEIGHBOURS(T);
    FOR_ITEMS(item) {
        Position<I> at = position(item, p);
        at.column *= N;
        const I left = left_of(at.column, I(p.axes[2].input));
        Gradients<Compute<T>> all[N];
        gradients_of<R>(all, of, at, least(left, I(N)), p);
        T dx[N], dz[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            dx[i] = Element<T>::narrow(all[i].x);
            dz[i] = Element<T>::narrow(all[i].z);
        }
        GLOBAL T* cells = of.output + input_index(at, p);
        store(cells, dx, left, p.output_vectors);
        // Behind whole rows, which begin where vectors do.
        if (R::LOGITS) store(cells + I(p.cells), dz, left, p.output_vectors);
    }
}

// ---- Gradients of cells that have one window at most ----------------------------------------------------------

// The gradient of a cell of the only window that may have it.
template <typename R, typename T, typename I>
DEVICE void pass_to(Buffers<T> of, Cells<I> cells, Passing<Compute<T>> passing, Position<I> to, bool inside,
                    CONSTANT Params& p) {
    using C = Compute<T>;
    Gradients<C> gradients = {C(0), C(0)};
    if (inside) {
        const C x = widen(of.input[cells.plane + within_plane(p.input, to.depth, to.row, to.column, p)]);
        C z = x;
        if (R::LOGITS) z = widen(of.logits[cells.logits + within_plane(p.logits, to.depth, to.row, to.column, p)]);
        gradients = R::passed(passing, x, z, place_in_plane(to, p), p);
    }
    store_gradients_of<R>(of, input_index(to, p), gradients, p);
}

// The gradients of G groups of N cells of a row, `apart` from each other; of the only one, the first `count`, of which the
// window has the first `inside`.
template <typename R, int N, int G, typename T, typename I>
DEVICE void pass_to_groups(Buffers<T> of, Cells<I> cells, Passing<Compute<T>> passing, Row<T, I> row, I w, I apart, I to,
                           I inside, I count, CONSTANT Params& p) {
    using C = Compute<T>;
    Group<C, G * N> groups;
    if (inside > 0) load_groups<R, N>(groups, of, cells, row, w, apart, inside, p);
    const Position<I> first = {0, row.depth, row.row, w};
    groups.place = place_in_plane(first, p);
#pragma unroll
    for (int g = 0; g < G; g++) {
        T dx[N], dz[N];
#pragma unroll
        for (int i = 0; i < N; i++) {
            dx[i] = dz[i] = Element<T>::narrow(C(0));
            if (I(i) >= inside) continue;
            const Gradients<C> gradients =
                R::passed(passing, groups.x[g * N + i], groups.z[g * N + i], groups.place + u32(g * apart) + i, p);
            dx[i] = Element<T>::narrow(gradients.x);
            dz[i] = Element<T>::narrow(gradients.z);
        }
        GLOBAL T* cell = of.output + (to + g * apart);
        store(cell, dx, count, to % N == 0 ? N : 0);
        if (R::LOGITS) store(cell + I(p.cells), dz, count, (to + I(p.cells)) % N == 0 ? N : 0);
    }
}

// Those of this member's groups of a row.
template <typename R, typename T, typename I>
DEVICE void pass_to_row(Buffers<T> of, Cells<I> cells, Passing<Compute<T>> passing, Row<T, I> row, I to, bool inside,
                        Range<I> columns, Stride stride, CONSTANT Params& p) {
    constexpr int N = 16 / sizeof(T), G = AT_ONCE(T);
    const I end = inside ? cells.columns.end : columns.begin, apart = N * I(stride.across);
    I w = columns.begin + N * I(stride.first);
#pragma unroll 1
    for (; w + (G - 1) * apart + N <= end; w += G * apart)
        pass_to_groups<R, N, G>(of, cells, passing, row, w, apart, I(to + w), I(N), I(N), p);
#pragma unroll 1
    for (; w < columns.end; w += apart)
        pass_to_groups<R, N, 1>(of, cells, passing, row, w, I(0), I(to + w), left_of(w, end), left_of(w, columns.end), p);
}

// Each cell's gradient where windows share none: from its window, and nothing for those that no window has.
template <typename R, int N, typename T, typename I>
DEVICE void disjoint(Buffers<T> of, CONSTANT Params& p, Turn turn) {
    using C = Compute<T>;
    const Team team = team_of<N>(turn, p);
    FOR_TEAMS(item) {
        const Position<I> at = position(item, p);
        const Cells<I> cells = cells_of<R>(at, p);
        const Passing<C> passing = passing_of<R, N>(of, cells, at, team, p);
        const Range<I> depths = own(p.axes[0], at.depth), rows = own(p.axes[1], at.row);
        const Range<I> columns = own(p.axes[2], at.column);
        const Share share = share_of<N>(team, p);
        Walk<I> row = {depths.begin, rows.begin + share.first};
#pragma unroll 1
        for (; is_in(row, depths, rows); row.row += share.down) {
            const I d = row.depth, h = row.row;
            const bool inside = d < cells.depths.end && h < cells.rows.end;
            const Position<I> start = {at.plane, d, h, 0};
            if (N > 1) {
                const I to = input_index(start, p);
                pass_to_row<R>(of, cells, passing, row_of<R>(of, cells, d, h, p), to, inside, columns, share.stride, p);
            } else {
                for (I w = columns.begin; w < columns.end; w++) {
                    const Position<I> cell = {at.plane, d, h, w};
                    pass_to<R>(of, cells, passing, cell, inside && w < cells.columns.end, p);
                }
            }
        }
    }
}
