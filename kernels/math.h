// Sums of a window's cells and what they give: the mathematics, without a word on where things are.

// What a dtype is to the kernels: of its arithmetic, its largest value and one rounding to it. The dialect has the rest.
template <typename T>
struct Element;

template <typename T>
using Compute = typename Element<T>::Compute;

template <typename C>
DEVICE bool is_finite(C v) {
    return fabs(v) < C(INFINITY);
}

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
DEVICE C distance(C s, C peak, CONSTANT Temperature<C>& t) {
    return fma(s, t.unit, -(peak * t.unit));
}

template <typename C>
struct Weighed {
    C d, e;
};

template <typename C>
DEVICE Weighed<C> weigh(C s, C peak, CONSTANT Temperature<C>& t) {
    C d = distance(s, peak, t);
    return {d, power(t.scale * d)};
}

template <typename C>
DEVICE void add(PRIVATE Sums<C>& sums, Weighed<C> cell) {
    sums.total += cell.e;
    sums.below = fma(cell.e, cell.d, sums.below);
}

template <typename C>
DEVICE void weigh_in(PRIVATE Sums<C>& sums, C s, CONSTANT Temperature<C>& t) {
    const Weighed<C> cell = weigh(s, sums.peak, t);
    if (cell.d != absent<C>()) add(sums, cell);
}

template <typename C, int N>
DEVICE Sums<C> sums_of(PRIVATE const C (&s)[N], CONSTANT Temperature<C>& t) {
    Sums<C> sums = {s[0], C(0), C(0)};
#pragma unroll
    for (int i = 1; i < N; i++) sums.peak = higher(sums.peak, s[i]);
#pragma unroll
    for (int i = 0; i < N; i++) weigh_in(sums, s[i], t);
    return sums;
}

// The sums of `part`, about the peak of `all`, are added to it.
template <typename C>
DEVICE void merge_about(PRIVATE Sums<C>& all, Sums<C> part, CONSTANT Temperature<C>& t) {
    C d = distance(part.peak, all.peak, t);
    C e = power(t.scale * d);
    if (part.peak != absent<C>() && !(e == C(0))) {
        all.total = fma(e, part.total, all.total);
        all.below = fma(e, fma(part.total, d, part.below), all.below);
    }
}

template <typename C>
DEVICE Sums<C> merge(Sums<C> a, Sums<C> b, CONSTANT Temperature<C>& t) {
    Sums<C> all = {higher(a.peak, b.peak), C(0), C(0)};
    merge_about(all, a, t);
    merge_about(all, b, t);
    return all;
}

template <typename C>
DEVICE C mean_of(Sums<C> sums, CONSTANT Temperature<C>& t) {
    return fma(sums.below * reciprocal(sums.total), t.inverse, sums.peak);
}

template <typename T>
DEVICE T output_of(Sums<Compute<T>> sums, CONSTANT Params& p) {
    using C = Compute<T>;
    CONSTANT Temperature<C>& t = temperature(p, C());
    C y = t.sign * (is_finite(sums.peak) ? mean_of(sums, t) : sums.peak);
    if (p.nan_to_num) {
        const C most = Element<T>::largest();
        y = y != y ? C(0) : y > most ? most : y < -most ? -most : y;
    }
    return Element<T>::narrow(y);
}

template <typename C>
DEVICE Passing<C> passing_of(Sums<C> sums, C grad, CONSTANT Params& p) {
    const C inverse = reciprocal(sums.total);
    if (is_finite(sums.peak)) return {sums.peak, grad * inverse, sums.below * inverse};
    // A window without a finite output has no derivative; with nan_to_num its output is a constant.
    return {C(NAN), p.nan_to_num ? C(0) : C(NAN), C(0)};
}

template <typename C>
DEVICE C passed(Passing<C> window, C s, CONSTANT Params& p) {
    CONSTANT Temperature<C>& t = temperature(p, C());
    Weighed<C> cell = weigh(s, window.peak, t);
    if (window.share == C(0) || cell.d == absent<C>() || cell.e == C(0)) return C(0);
    if (p.exact) cell.e *= fma(t.rate, cell.d - window.mean, C(1));
    return window.share * cell.e;
}
