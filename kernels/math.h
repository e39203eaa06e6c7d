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

// Of a window: the peak of its keys, and two sums, as its rule has them. SoftPool's are, of cells s = sign x with the
// peak m and d = unit (s - m), those of the weights e = 2^(scale d) and of e d; where the peak is not finite, they mean
// nothing.
template <typename C>
struct Sums {
    C peak, total, below;
};

// What a window passes back to its cells, as its rule says: `place` is of its largest cell in the plane.
template <typename C>
struct Passing {
    C peak, share, mean;
    u32 place;
};

// Of a cell and of its logit, if the rule has some.
template <typename C>
struct Gradients {
    C x, z;
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
    return {d, two_to(t.scale * d)};
}

// Of x, whose sign is still that of the activation.
template <typename C>
DEVICE Weighed<C> weigh_signed(C x, C peak, CONSTANT Temperature<C>& t) {
    const C d = fma(x, t.sign * t.unit, -(peak * t.unit));
    return {d, two_to(t.scale * d)};
}

// Without regard to NaN, which then shows in the sums.
template <typename C, int N>
DEVICE C largest_of(PRIVATE const C (&values)[N]) {
    C largest = values[0];
#pragma unroll
    for (int i = 1; i < N; i++) largest = fmax(largest, values[i]);
    return largest;
}
template <typename C, int N>
DEVICE C lowest_of(PRIVATE const C (&values)[N]) {
    C smallest = values[0];
#pragma unroll
    for (int i = 1; i < N; i++) smallest = fmin(smallest, values[i]);
    return smallest;
}

// Whether keys up to this one have weights about a shift that stay small. Sums are moved to another shift only where they
// do not, since each move rounds all of them alike.
template <typename C>
DEVICE bool is_near(C peak, C shift, CONSTANT Temperature<C>& t) {
    return t.scale * distance(peak, shift, t) <= C(4);
}

template <typename C>
DEVICE void add_weighed(PRIVATE Sums<C>& sums, Weighed<C> cell) {
    sums.total += cell.e;
    sums.below = fma(cell.e, cell.d, sums.below);
}

template <typename C>
DEVICE C mean_of(Sums<C> sums, CONSTANT Temperature<C>& t) {
    return fma(sums.below * reciprocal(sums.total), t.inverse, sums.peak);
}

// A cell of the output.
template <typename T>
DEVICE T rounded(Compute<T> y, CONSTANT Params& p) {
    using C = Compute<T>;
    if (p.nan_to_num) {
        const C most = Element<T>::largest();
        y = y != y ? C(0) : y > most ? most : y < -most ? -most : y;
    }
    return Element<T>::narrow(y);
}

// v^p for v from 0 on.
template <typename C>
DEVICE C raised(C v, C p) {
    if (p == C(2)) return v * v;
    if (p == C(1)) return v;
    if (p == C(0.5)) return root(v);
    if (p == C(0)) return C(1);
    return any_power(v, p);
}
