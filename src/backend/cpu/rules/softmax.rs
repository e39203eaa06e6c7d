//! Softmax-weighted sums: `w_i = exp(z_i) / Σ exp(z_j)`, `y = Σ w_i·x_i`.
//!
//! With `e = exp(z − shift)` and `A = g/Σe` of each window, the gradients of a cell are
//! `∂x = e·ΣA` with the weights taken as constants, and `∂z = e·(x·ΣA − ΣA·y)`.

use super::super::rule::{none_of_two, Add, Cell, Rule, Window};
use super::super::vector::{Real, Vector};
use std::f64::consts::{LN_2, LOG2_E};

/// The softmax of `β·x`, which is SoftPool, or with `LOGITS` of logits beside the activations (LIP).
#[derive(Clone, Copy, Debug)]
pub struct Softmax<const LOGITS: bool> {
    /// The inverse temperature; 1 for logits.
    pub beta: f64,
    /// Whether outputs that are not finite are replaced, as `torch.nan_to_num` does.
    pub nan_to_num: bool,
}

/// SoftPool with its derivative as the gradient, `∂x + β·∂z`: the backward pass alone.
///
/// The second sum is of exponents rather than activations: differences from their mean stay exact where all
/// activations are large.
#[derive(Clone, Copy, Debug)]
pub struct ExactSoftPool(pub Softmax<false>);

/// Exponents lose digits the further they lie from the shift: windows with a smaller total are too far. At 8 from it, which
/// this allows, the four roundings of their mean come to some 1.6e-6 of a gradient; at 11 they were seen to be more than
/// 2e-6 in one random pass of 850.
const LEAST_EXACT_TOTAL: f64 = 4e-3;

/// Zero where `by` is zero, whatever the product is.
#[inline(always)]
fn product_or_zero<V: Vector>(a: V, by: V) -> V {
    V::select(by.equal(V::zero()), V::zero(), a.mul(by))
}

impl<const LOGITS: bool> Softmax<LOGITS> {
    #[inline(always)]
    fn scale<V: Vector>(self) -> V {
        // Finite, since the largest logit has an exponent of 0 times it.
        let most = V::Real::MAX.to_f64();
        V::splat(V::Real::from_f64((self.beta * LOG2_E).clamp(-most, most)))
    }

    /// The logit, mirrored where β is negative, so that the highest weighs most.
    #[inline(always)]
    fn height<V: Vector>(self, z: V) -> V {
        if self.beta < 0.0 {
            V::zero().sub(z)
        } else {
            z
        }
    }

    /// The binary logarithm of the weight; at most 0. Differences first: the largest logit has exactly 0, however large it is.
    #[inline(always)]
    fn exponent<V: Vector>(self, cell: Cell<V>) -> V {
        let z = if LOGITS { cell.z } else { cell.x };
        z.sub(self.height(cell.shift)).mul(self.scale())
    }

    /// The total that a window must have to hold, if it is `least` for most β. By one so close to 0 that a difference of
    /// logits may count although it overflows, none holds.
    #[inline(always)]
    fn least_total<R: Real>(self, least: R) -> R {
        let largest_exponent = self.beta.abs() * R::MAX.to_f64();
        match self.beta != 0.0 && largest_exponent < 1e3 {
            true => R::MAX,
            false => least,
        }
    }

    /// Weights and output of a window as the definition reads.
    fn softmax(self, window: &Window) -> Softmaxed {
        let logits = if LOGITS { &window.z } else { &window.x };
        // A negative β mirrors the logits, so that the lowest weighs most.
        let sign = if self.beta < 0.0 { -1.0 } else { 1.0 };
        let mut peak = f64::NEG_INFINITY;
        for &z in logits {
            peak = if z.is_nan() { z } else { peak.max(sign * z) };
            if peak.is_nan() {
                break;
            }
        }
        peak *= sign;
        if !peak.is_finite() {
            let output = if LOGITS { f64::NAN } else { peak };
            return Softmaxed {
                shares: vec![],
                output,
            };
        }
        let mut shares: Vec<f64> = logits.iter().map(|&z| weight(z, peak, self.beta)).collect();
        let total: f64 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= total);
        let cells = || shares.iter().zip(&window.x).filter(|(w, _)| **w > 0.0);
        // Half differences from a cell that counts: no sum overflows, and equal cells give exactly their value.
        let first = logits.iter().position(|&z| z == peak).unwrap_or(0);
        let pivot = window.x[first] / 2.0;
        let output = match pivot.is_finite() {
            true => 2.0 * (pivot + cells().map(|(w, x)| w * (x / 2.0 - pivot)).sum::<f64>()),
            false => cells().map(|(w, x)| w * x).sum(),
        };
        Softmaxed { shares, output }
    }
}

struct Softmaxed {
    /// The weights of the cells; none where the largest logit is not finite.
    shares: Vec<f64>,
    output: f64,
}

/// `exp(β·(z − peak))`; the halves keep the difference from overflowing.
fn weight(z: f64, peak: f64, beta: f64) -> f64 {
    if z.is_infinite() && peak.is_finite() {
        return 0.0;
    }
    (beta * (z / 2.0 - peak / 2.0) * 2.0).exp()
}

impl<const LOGITS: bool> Rule for Softmax<LOGITS> {
    type Join = Add;
    const SHIFTED: bool = true;
    const LOGITS: bool = LOGITS;
    const TERMS: usize = if LOGITS { 2 } else { 1 };

    #[inline(always)]
    fn logit<V: Vector>(self, x: V, z: V) -> V {
        self.height(if LOGITS { z } else { x })
    }

    #[inline(always)]
    fn lift<V: Vector>(self, cell: Cell<V>) -> [V; 2] {
        let e = self.exponent(cell).exp2();
        [e, e.mul(cell.x)]
    }

    #[inline(always)]
    fn finish<V: Vector>(self, sums: [V; 2]) -> V {
        sums[1].quotient(sums[0])
    }

    #[inline(always)]
    fn holds<V: Vector>(self, sums: [V; 2], y: V) -> V::Mask {
        let least = self.least_total(V::Real::LEAST_TOTAL);
        V::and(sums[0].greater(V::splat(least)), y.finite())
    }

    #[inline(always)]
    fn terms<V: Vector>(self, sums: [V; 2], y: V, g: V) -> [V; 2] {
        let share = g.quotient(sums[0]);
        [share, share.mul(y)]
    }

    #[inline(always)]
    fn gradient<V: Vector>(self, cell: Cell<V>, e: V, terms: [V; 2]) -> [V; 2] {
        if !LOGITS {
            return [product_or_zero(e, terms[0]), V::zero()];
        }
        let zero = none_of_two(terms);
        let dx = e.mul(terms[0]);
        let slope = cell.x.mul(terms[0]).sub(terms[1]);
        // Of an activation so large that its product overflows, the weight comes first.
        let by_weight = dx.mul(cell.x).sub(e.mul(terms[1]));
        let dz = V::select(slope.finite(), e.mul(slope), by_weight);
        [
            V::select(zero, V::zero(), dx),
            // A masked cell has no weight, whatever its activation.
            V::select(V::or(zero, e.equal(V::zero())), V::zero(), dz),
        ]
    }

    fn define(self, window: &Window) -> f64 {
        self.softmax(window).output
    }

    fn define_gradient(self, window: &Window, g: f64, add: impl FnMut(usize, [f64; 2])) {
        let gradients = |w: f64, x: f64, y: f64| [g * w, g * w * 2.0 * (x / 2.0 - y / 2.0)];
        self.define_gradients(window, gradients, add);
    }

    fn replace(self, y: f64, most: f64) -> f64 {
        match self.nan_to_num {
            true if y.is_nan() => 0.0,
            true => y.clamp(-most, most),
            false => y,
        }
    }
}

impl<const LOGITS: bool> Softmax<LOGITS> {
    /// The gradients of the cells, from their weight, activation and output.
    fn define_gradients(
        self,
        window: &Window,
        gradients: impl Fn(f64, f64, f64) -> [f64; 2],
        mut add: impl FnMut(usize, [f64; 2]),
    ) {
        let Softmaxed { shares, output } = self.softmax(window);
        if output.is_finite() {
            let cells = shares.into_iter().zip(&window.x).enumerate();
            for (i, (w, &x)) in cells.filter(|(_, (w, _))| *w > 0.0) {
                add(i, gradients(w, x, output));
            }
        } else if !self.nan_to_num {
            // No derivative; with nan_to_num the output is a constant.
            (0..window.x.len()).for_each(|i| add(i, [f64::NAN; 2]));
        }
    }
}

impl Rule for ExactSoftPool {
    type Join = Add;
    const SHIFTED: bool = true;
    const TERMS: usize = 2;

    #[inline(always)]
    fn logit<V: Vector>(self, x: V, z: V) -> V {
        self.0.logit(x, z)
    }

    #[inline(always)]
    fn lift<V: Vector>(self, cell: Cell<V>) -> [V; 2] {
        let t = self.0.exponent(cell);
        let e = t.exp2();
        [e, e.mul(t)]
    }

    #[inline(always)]
    fn finish<V: Vector>(self, sums: [V; 2]) -> V {
        self.0.finish(sums)
    }

    #[inline(always)]
    fn holds<V: Vector>(self, sums: [V; 2], y: V) -> V::Mask {
        let least = self.0.least_total(V::Real::from_f64(LEAST_EXACT_TOTAL));
        V::and(sums[0].greater(V::splat(least)), y.finite())
    }

    #[inline(always)]
    fn terms<V: Vector>(self, sums: [V; 2], y: V, g: V) -> [V; 2] {
        self.0.terms(sums, y, g)
    }

    #[inline(always)]
    fn gradient<V: Vector>(self, cell: Cell<V>, e: V, terms: [V; 2]) -> [V; 2] {
        let t = self.0.exponent(cell);
        let slope = t.mul_add(terms[0], V::zero().sub(terms[1]));
        let both = slope.mul_add(V::splat(V::Real::from_f64(LN_2)), terms[0]);
        let none = V::or(none_of_two(terms), e.equal(V::zero()));
        [V::select(none, V::zero(), e.mul(both)), V::zero()]
    }

    fn define(self, window: &Window) -> f64 {
        self.0.define(window)
    }

    fn define_gradient(self, window: &Window, g: f64, add: impl FnMut(usize, [f64; 2])) {
        let beta = self.0.beta;
        let gradients =
            |w: f64, x: f64, y: f64| [g * w * (1.0 + beta * (x / 2.0 - y / 2.0) * 2.0), 0.0];
        self.0.define_gradients(window, gradients, add);
    }
}
