// The pooling methods: what a cell adds to its window's sums, how the sums become the output, and what a window passes
// back to its cells. src/backend/cpu/rules has the same.
//
// A rule is asked first for the keys of the cells, whose largest is the window's peak, if it is PEAKED; then to add up the
// cells with that known. The sums of one that is ONLINE can be moved to another shift, so that one visit finds both, while
// all is finite. Where the sums overflow, they are taken once more of activations times a small unit.

// Sums of x over more than 2^24 cells of the largest kind do not overflow in this unit.
template <typename C>
DEVICE C small_unit() {
    return C(1) / C(u64(1) << 40);
}

struct SoftPool {
    enum { PEAKED = 1, ONLINE = 1, LOGITS = 0, PLACES = 0 };

    template <typename C>
    DEVICE C key(C x, C, CONSTANT Params& p) {
        return temperature(p, C()).sign * x;
    }
    template <typename C>
    DEVICE void add(PRIVATE Sums<C>& sums, C x, C, C, CONSTANT Params& p) {
        CONSTANT Temperature<C>& t = temperature(p, C());
        const Weighed<C> cell = weigh(t.sign * x, sums.peak, t);
        if (cell.e != C(0)) add_weighed(sums, cell);
    }
    template <typename C, int N>
    DEVICE C largest_key(PRIVATE const C (&x)[N], PRIVATE const C (&)[N], CONSTANT Params& p) {
        return temperature(p, C()).sign > C(0) ? largest_of(x) : -lowest_of(x);
    }
    template <typename C>
    DEVICE void add_finite(PRIVATE Sums<C>& sums, C x, C, CONSTANT Params& p) {
        add_weighed(sums, weigh_signed(x, sums.peak, temperature(p, C())));
    }
    template <typename C>
    DEVICE Sums<C> moved(Sums<C> sums, C shift, CONSTANT Params& p) {
        const Weighed<C> step = weigh(sums.peak, shift, temperature(p, C()));
        if (sums.total == C(0)) return {shift, C(0), C(0)};
        return {shift, sums.total * step.e, fma(sums.below, step.e, sums.total * (step.e * step.d))};
    }
    template <typename C>
    DEVICE bool overflows(Sums<C>) {
        return false;
    }
    template <typename C>
    DEVICE C output(Sums<C> sums, C, C, CONSTANT Params& p) {
        CONSTANT Temperature<C>& t = temperature(p, C());
        return t.sign * (is_finite(sums.peak) ? mean_of(sums, t) : sums.peak);
    }
    template <typename C>
    DEVICE Passing<C> passing(Sums<C> sums, C grad, C, C, CONSTANT Params& p) {
        const C inverse = reciprocal(sums.total);
        if (is_finite(sums.peak)) return {sums.peak, grad * inverse, sums.below * inverse, 0};
        // A window without a finite output has no derivative; with nan_to_num its output is a constant.
        return {C(NAN), p.nan_to_num ? C(0) : C(NAN), C(0), 0};
    }
    template <typename C>
    DEVICE Gradients<C> passed(Passing<C> window, C x, C, u32, CONSTANT Params& p) {
        CONSTANT Temperature<C>& t = temperature(p, C());
        const Weighed<C> cell = weigh_signed(x, window.peak, t);
        const C slope = p.exact ? t.rate : C(0), e = cell.e * fma(slope, cell.d - window.mean, C(1));
        return {window.share == C(0) || cell.e == C(0) ? C(0) : window.share * e, C(0)};
    }
};

// The softmax of logits of their own. One of -inf masks its cell, whatever the activation is.
struct Softmax {
    enum { PEAKED = 1, ONLINE = 1, LOGITS = 1, PLACES = 0 };

    template <typename C>
    DEVICE C key(C, C z, CONSTANT Params&) {
        return z;
    }
    template <typename C>
    DEVICE void add(PRIVATE Sums<C>& sums, C x, C z, C unit, CONSTANT Params& p) {
        const C e = weigh(z, sums.peak, temperature(p, C())).e;
        if (e == C(0)) return;
        sums.total += e;
        sums.below = fma(e, x * unit, sums.below);
    }
    template <typename C, int N>
    DEVICE C largest_key(PRIVATE const C (&)[N], PRIVATE const C (&z)[N], CONSTANT Params&) {
        return largest_of(z);
    }
    template <typename C>
    DEVICE void add_finite(PRIVATE Sums<C>& sums, C x, C z, CONSTANT Params& p) {
        const C e = weigh(z, sums.peak, temperature(p, C())).e;
        sums.total += e;
        sums.below = fma(e, x, sums.below);
    }
    template <typename C>
    DEVICE Sums<C> moved(Sums<C> sums, C shift, CONSTANT Params& p) {
        const C e = weigh(sums.peak, shift, temperature(p, C())).e;
        if (sums.total == C(0)) return {shift, C(0), C(0)};
        return {shift, sums.total * e, sums.below * e};
    }
    template <typename C>
    DEVICE bool overflows(Sums<C> sums) {
        return is_finite(sums.peak) && !is_finite(sums.below);
    }
    template <typename C>
    DEVICE C output(Sums<C> sums, C unit, C, CONSTANT Params&) {
        return is_finite(sums.peak) ? sums.below / sums.total / unit : C(NAN);
    }
    template <typename C>
    DEVICE Passing<C> passing(Sums<C> sums, C grad, C unit, C count, CONSTANT Params& p) {
        const C y = output(sums, unit, count, p);
        if (is_finite(y)) return {sums.peak, grad / sums.total, y, 0};
        return {C(NAN), C(NAN), C(NAN), 0};
    }
    template <typename C>
    DEVICE Gradients<C> passed(Passing<C> window, C x, C z, u32, CONSTANT Params& p) {
        const C e = weigh(z, window.peak, temperature(p, C())).e;
        if (window.share == C(0) || e == C(0)) return {C(0), C(0)};
        const C share = window.share * e;
        // Halves, whose difference does not overflow.
        return {share, share == C(0) ? C(0) : C(2) * share * fma(x, C(0.5), C(-0.5) * window.mean)};
    }
};

struct Average {
    enum { PEAKED = 0, ONLINE = 0, LOGITS = 0, PLACES = 0 };

    template <typename C>
    DEVICE C key(C x, C, CONSTANT Params&) {
        return x;
    }
    template <typename C>
    DEVICE void add(PRIVATE Sums<C>& sums, C x, C, C unit, CONSTANT Params&) {
        sums.below = fma(x, unit, sums.below);
    }
    template <typename C>
    DEVICE bool overflows(Sums<C> sums) {
        return !is_finite(sums.below);
    }
    template <typename C>
    DEVICE C output(Sums<C> sums, C unit, C count, CONSTANT Params&) {
        return sums.below / count / unit;
    }
    template <typename C>
    DEVICE Passing<C> passing(Sums<C>, C grad, C, C count, CONSTANT Params&) {
        return {C(0), grad / count, C(0), 0};
    }
    template <typename C>
    DEVICE Gradients<C> passed(Passing<C> window, C, C, u32, CONSTANT Params&) {
        return {window.share, C(0)};
    }
};

// Powers are of magnitudes relative to the largest one, so that none overflows or vanishes.
struct Power {
    enum { PEAKED = 1, ONLINE = 0, LOGITS = 0, PLACES = 0 };

    template <typename C>
    DEVICE C key(C x, C, CONSTANT Params&) {
        return fabs(x);
    }
    template <typename C>
    DEVICE void add(PRIVATE Sums<C>& sums, C x, C, C, CONSTANT Params& p) {
        sums.below += raised(fabs(x) / sums.peak, temperature(p, C()).exponent);
    }
    template <typename C>
    DEVICE bool overflows(Sums<C>) {
        return false;
    }
    // The output in units of the peak.
    template <typename C>
    DEVICE C relative(Sums<C> sums, C count, CONSTANT Params& p) {
        if (sums.peak == C(0) || !is_finite(sums.peak)) return C(1);
        return raised(sums.below / count, C(1) / temperature(p, C()).exponent);
    }
    template <typename C>
    DEVICE C output(Sums<C> sums, C, C count, CONSTANT Params& p) {
        return sums.peak * relative(sums, count, p);
    }
    template <typename C>
    DEVICE Passing<C> passing(Sums<C> sums, C grad, C, C count, CONSTANT Params& p) {
        return {sums.peak, grad / count, relative(sums, count, p), 0};
    }
    template <typename C>
    DEVICE Gradients<C> passed(Passing<C> window, C x, C, u32, CONSTANT Params& p) {
        if (window.peak == C(0) || x == C(0)) return {C(0), C(0)};
        const C share = fabs(x) / window.peak / window.mean;
        const C slope = window.share * raised(share, temperature(p, C()).exponent - C(1));
        return {x < C(0) ? -slope : slope, C(0)};
    }
};

// Means weighted by the positive activations, relative to the largest one; of all cells alike where none is positive.
struct Weighted {
    enum { PEAKED = 1, ONLINE = 0, LOGITS = 0, PLACES = 0 };

    template <typename C>
    DEVICE C key(C x, C, CONSTANT Params&) {
        return x;
    }
    template <typename C>
    DEVICE void add(PRIVATE Sums<C>& sums, C x, C, C unit, CONSTANT Params&) {
        if (!(sums.peak > C(0))) {
            sums.below = fma(x, unit, sums.below);
            return;
        }
        const C relative = x / sums.peak;
        // A cell without a share gives nothing, were it infinite.
        if (relative <= C(0)) return;
        sums.total += relative;
        sums.below = fma(relative, relative, sums.below);
    }
    template <typename C>
    DEVICE bool overflows(Sums<C> sums) {
        return !(sums.peak > C(0)) && !is_finite(sums.below);
    }
    template <typename C>
    DEVICE C output(Sums<C> sums, C unit, C count, CONSTANT Params&) {
        return sums.peak > C(0) ? sums.peak * (sums.below / sums.total) : sums.below / count / unit;
    }
    template <typename C>
    DEVICE Passing<C> passing(Sums<C> sums, C grad, C, C count, CONSTANT Params&) {
        if (sums.peak <= C(0)) return {sums.peak, grad / count, C(0), 0};
        return {sums.peak, C(2) * grad / sums.total, sums.below / sums.total, 0};
    }
    // With the mean relative to the peak.
    template <typename C>
    DEVICE Gradients<C> passed(Passing<C> window, C x, C, u32, CONSTANT Params&) {
        if (window.peak <= C(0)) return {window.share, C(0)};
        if (x <= C(0) && is_finite(window.mean)) return {C(0), C(0)};
        return {window.share * fma(C(-0.5), window.mean, x / window.peak), C(0)};
    }
};

// The largest activation, and of several the first in row-major order; NaN before any number.
struct Maximum {
    enum { PEAKED = 1, ONLINE = 0, LOGITS = 0, PLACES = 1 };

    template <typename C>
    DEVICE C key(C x, C, CONSTANT Params&) {
        return x;
    }
    template <typename C>
    DEVICE void add(PRIVATE Sums<C>&, C, C, C, CONSTANT Params&) {}
    template <typename C>
    DEVICE bool overflows(Sums<C>) {
        return false;
    }
    template <typename C>
    DEVICE C output(Sums<C> sums, C, C, CONSTANT Params&) {
        return sums.peak;
    }
    template <typename C>
    DEVICE Passing<C> passing(Sums<C> sums, C grad, C, C, CONSTANT Params&) {
        return {sums.peak, grad, C(0), 0};
    }
    template <typename C>
    DEVICE Gradients<C> passed(Passing<C> window, C, C, u32 place, CONSTANT Params&) {
        return {window.place == place ? window.share : C(0), C(0)};
    }
};
