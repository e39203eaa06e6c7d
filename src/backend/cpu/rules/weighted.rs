//! Means weighted by the positive activations themselves, the expectation of stochastic pooling:
//! `y = Σ w·x / Σ w` with `w = max(x, 0)`; in a window without a positive activation all cells weigh the same.

use super::super::rule::{none_of_two, Add, Cell, Rule, Window};
use super::super::vector::{Real, Vector};

#[derive(Clone, Copy, Debug)]
pub struct Weighted;

/// What every cell weighs besides: too little to count beside a positive activation, and equal shares without one.
const SHARE: f64 = 1e-30;
/// Totals from here down are of shares alone; those from here up to [`SOME`] are of both.
const NONE: f64 = 1e-25;
const SOME: f64 = 1e-15;

#[inline(always)]
fn weight<V: Vector>(x: V) -> V {
    x.max(V::zero()).add(V::splat(V::Real::from_f64(SHARE)))
}

impl Rule for Weighted {
    type Join = Add;
    const TERMS: usize = 2;

    #[inline(always)]
    fn lift<V: Vector>(self, cell: Cell<V>) -> [V; 2] {
        let w = weight(cell.x);
        [w, w.mul(cell.x)]
    }

    #[inline(always)]
    fn finish<V: Vector>(self, sums: [V; 2]) -> V {
        sums[1].quotient(sums[0])
    }

    #[inline(always)]
    fn holds<V: Vector>(self, sums: [V; 2], y: V) -> V::Mask {
        let [none, some] = [NONE, SOME].map(|v| V::splat(V::Real::from_f64(v)));
        V::and(
            V::or(none.greater(sums[0]), sums[0].greater(some)),
            y.finite(),
        )
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
