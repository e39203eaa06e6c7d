//! Means weighted by the positive activations themselves, the expectation of stochastic pooling:
//! `y = Σ w·x / Σ w` with `w = max(x, 0)`; in a window without a positive activation all cells weigh the same.

use super::super::rule::{none_of_two, Add, Cell, Rule, Window};
use super::super::vector::{Real, Vector};

#[derive(Clone, Copy, Debug)]
pub struct Weighted;

/// How two sums tell both kinds of windows: what is not positive weighs too little to count beside what is, and equally
/// without it.
struct Limits {
    /// What every cell weighs that is not positive.
    share: f64,
    /// What one weighs at least that is positive: more than all shares, however many.
    least: f64,
    /// A total of positive cells that shares do not count beside. Totals below are so few that they are left to the
    /// definition, but for those of shares alone.
    enough: f64,
    /// Negative cells are taken to be no closer to 0, lest their product with a share vanishes.
    near: f64,
}

/// Negative cells are taken to be no lower. A window without a positive one whose sum may have any that is does not hold.
const LOWEST: f64 = -1e3;
/// Averages that are not 0 but closer to it are not exact, since cells may be [`Limits::near`] it.
const FLAT: f64 = -1e-8;

impl Limits {
    #[inline(always)]
    fn of<R: Real>() -> Self {
        let in_f32 = Self {
            share: 1e-28,
            least: 1e-18,
            enough: 1e-5,
            near: 1e-15,
        };
        let in_f64 = Self {
            share: 1e-200,
            least: 1e-100,
            enough: 1e-80,
            near: 1e-30,
        };
        R::either(in_f32, in_f64)
    }
}

#[inline(always)]
fn splat<V: Vector>(v: f64) -> V {
    V::splat(V::Real::from_f64(v))
}

#[inline(always)]
fn weight<V: Vector>(x: V) -> V {
    let limits = Limits::of::<V::Real>();
    let weight = x.max(splat(limits.least));
    V::select(x.greater(V::zero()), weight, splat(limits.share))
}

impl Rule for Weighted {
    type Join = Add;
    const TERMS: usize = 2;

    #[inline(always)]
    fn lift<V: Vector>(self, cell: Cell<V>) -> [V; 2] {
        let (x, w) = (cell.x, weight(cell.x));
        let near: V = splat(-Limits::of::<V::Real>().near);
        let low = V::select(near.greater(x), x, near).max(splat(LOWEST));
        [w, w.mul(V::select(V::zero().greater(x), low, x))]
    }

    #[inline(always)]
    fn finish<V: Vector>(self, sums: [V; 2]) -> V {
        sums[1].quotient(sums[0])
    }

    #[inline(always)]
    fn holds<V: Vector>(self, sums: [V; 2], y: V) -> V::Mask {
        let limits = Limits::of::<V::Real>();
        let [total, sum] = sums;
        let positive = V::and(total.greater(splat(limits.enough)), y.finite());
        let alike = V::and(
            splat::<V>(limits.least).greater(total),
            sum.greater(splat(0.99 * LOWEST * limits.share)),
        );
        let exact = V::or(sum.equal(V::zero()), splat::<V>(FLAT).greater(y));
        V::or(positive, V::and(alike, exact))
    }

    #[inline(always)]
    fn terms<V: Vector>(self, sums: [V; 2], y: V, g: V) -> [V; 2] {
        let share = g.quotient(sums[0]);
        [share, share.mul(y)]
    }

    #[inline(always)]
    fn gradient<V: Vector>(self, cell: Cell<V>, _weight: V, terms: [V; 2]) -> [V; 2] {
        let x = cell.x;
        let slope = x.mul(terms[0]).sub(terms[1]);
        let slope = V::select(x.greater(V::zero()), slope, V::zero());
        let dx = weight(x).mul_add(terms[0], slope);
        [V::select(none_of_two(terms), V::zero(), dx), V::zero()]
    }

    fn define(self, window: &Window) -> f64 {
        let shares = Shares::of(window);
        let parts = window.x.iter().map(|&x| match shares.of_cell(x) {
            0.0 => 0.0,
            share => share * x,
        });
        parts.sum()
    }

    fn define_gradient(self, window: &Window, g: f64, mut add: impl FnMut(usize, [f64; 2])) {
        let (shares, y) = (Shares::of(window), self.define(window));
        for (i, &x) in window.x.iter().enumerate() {
            let slope = match shares {
                Shares::Alike(count) => 1.0 / count,
                _ if y.is_finite() && x <= 0.0 => 0.0,
                Shares::Positive { most, total } => (x / most + (x / most - y / most)) / total,
            };
            add(i, [g * slope, 0.0]);
        }
    }
}

/// What the cells of a window count.
#[derive(Clone, Copy)]
enum Shares {
    /// None of so many is positive.
    Alike(f64),
    /// By their activations in units of the largest, lest their total overflows.
    Positive { most: f64, total: f64 },
}

impl Shares {
    fn of(window: &Window) -> Self {
        let positive = || window.x.iter().map(|&x| positive(x));
        let most = positive().fold(
            0.0,
            |most: f64, x| if x > most || x.is_nan() { x } else { most },
        );
        match most == 0.0 {
            true => Self::Alike(window.x.len() as f64),
            false => Self::Positive {
                most,
                total: positive().map(|x| x / most).sum(),
            },
        }
    }

    fn of_cell(self, x: f64) -> f64 {
        match self {
            Self::Alike(count) => 1.0 / count,
            Self::Positive { most, total } => positive(x) / most / total,
        }
    }
}

/// Not `max`, which would hide a NaN.
fn positive(x: f64) -> f64 {
    if x <= 0.0 {
        0.0
    } else {
        x
    }
}
