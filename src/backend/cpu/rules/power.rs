//! Power averages: `y = (Σ|x|^p / n)^(1/p)`, or without the `n`.
//!
//! The gradient of a cell is `sign(x)·|x|^(p−1)·Σ g·y^(1−p)/n`, and 0 where `y` or `x` is 0.

use super::super::rule::{Add, Cell, Rule, Window};
use super::super::vector::{Real, Vector, MOST_LANES};
use super::average::count;

#[derive(Clone, Copy, Debug)]
pub struct Power {
    pub p: f64,
    /// Whether the sum of the powers is taken, not their average.
    pub sum: bool,
    pub count_include_pad: bool,
}

/// What is too small to be exact.
struct Least {
    /// A sum of powers below this may have lost some.
    sum: f64,
    /// What a cell that is not zero has besides its power: nothing beside a sum of powers that holds, however many.
    power: f64,
    /// Smaller numbers have fewer digits.
    normal: f64,
}

impl Least {
    #[inline(always)]
    fn of<R: Real>() -> Self {
        let in_f32 = Self {
            sum: 1e-30,
            power: 1e-43,
            normal: f32::MIN_POSITIVE.into(),
        };
        let in_f64 = Self {
            sum: 1e-270,
            power: 1e-300,
            normal: f64::MIN_POSITIVE,
        };
        R::either(in_f32, in_f64)
    }
}

/// The largest whole power that is found by products: their rounding adds up.
const MOST_PRODUCTS: f64 = 8.0;

/// `v^p` for `v` from 0 on.
#[inline(always)]
fn power<V: Vector>(v: V, p: f64) -> V {
    // Those of p = 2, and of its root and gradient.
    if p == 2.0 {
        return v.mul(v);
    } else if p == 0.5 {
        return v.sqrt();
    } else if p == -1.0 {
        return V::one().div(v);
    }
    let whole = p.abs().min(MOST_PRODUCTS) as u32;
    if f64::from(whole) == p {
        return products(v, whole);
    } else if f64::from(whole) == -p {
        return V::one().div(products(v, whole));
    }
    let mut lanes = [V::Real::default(); MOST_LANES];
    v.store(&mut lanes);
    for lane in &mut lanes[..V::LANES] {
        *lane = V::Real::from_f64(lane.to_f64().powf(p));
    }
    V::load(&lanes)
}

/// `v^count`, a square after the other.
#[inline(always)]
fn products<V: Vector>(v: V, count: u32) -> V {
    let (mut of_all, mut square, mut left) = (V::one(), v, count);
    while left > 0 {
        if left % 2 == 1 {
            of_all = of_all.mul(square);
        }
        square = square.mul(square);
        left /= 2;
    }
    of_all
}

impl Power {
    #[inline(always)]
    fn divisor<V: Vector>(self, sums: [V; 2]) -> V {
        if self.sum {
            V::one()
        } else {
            sums[0]
        }
    }
}

impl Rule for Power {
    type Join = Add;

    fn counts_padding(self) -> bool {
        self.count_include_pad
    }

    #[inline(always)]
    fn lift<V: Vector>(self, cell: Cell<V>) -> [V; 2] {
        // Powers of cells that are not zero are not, so that windows whose powers vanish are seen not to hold.
        let some = V::splat(V::Real::from_f64(Least::of::<V::Real>().power));
        let some = V::select(cell.x.equal(V::zero()), V::zero(), some);
        [V::one(), power(cell.x.abs(), self.p).add(some)]
    }

    #[inline(always)]
    fn finish<V: Vector>(self, sums: [V; 2]) -> V {
        power(sums[1].quotient(self.divisor(sums)), 1.0 / self.p)
    }

    #[inline(always)]
    fn holds<V: Vector>(self, sums: [V; 2], y: V) -> V::Mask {
        let least = V::splat(V::Real::from_f64(Least::of::<V::Real>().sum));
        let kept = V::or(sums[1].greater(least), sums[1].equal(V::zero()));
        V::and(kept, y.finite())
    }

    #[inline(always)]
    fn terms<V: Vector>(self, sums: [V; 2], y: V, g: V) -> [V; 2] {
        let rate = power(y, 1.0 - self.p);
        let share = g.mul(rate).quotient(self.divisor(sums));
        // NaN where digits are lost, so that the window is seen not to hold.
        let least = V::splat(V::Real::from_f64(Least::of::<V::Real>().normal));
        let lost = V::or(least.greater(rate), least.greater(share.abs()));
        let share = V::select(lost, V::splat(V::Real::NAN), share);
        let none = V::or(g.equal(V::zero()), y.equal(V::zero()));
        [V::select(none, V::zero(), share), V::zero()]
    }

    #[inline(always)]
    fn gradient<V: Vector>(self, cell: Cell<V>, _weight: V, terms: [V; 2]) -> [V; 2] {
        let (x, share) = (cell.x, terms[0]);
        let zero = V::or(share.equal(V::zero()), x.equal(V::zero()));
        if self.p == 2.0 {
            return [V::select(zero, V::zero(), x.mul(share)), V::zero()];
        }
        let slope = share.mul(power(x.abs(), self.p - 1.0));
        let signed = V::select(x.greater(V::zero()), slope, V::zero().sub(slope));
        [V::select(zero, V::zero(), signed), V::zero()]
    }

    fn define(self, window: &Window) -> f64 {
        // Relative to the largest, so that no power overflows or vanishes.
        let most = window.x.iter().fold(0.0, |most: f64, x| match x.abs() {
            x if x > most || x.is_nan() => x,
            _ => most,
        });
        if most == 0.0 || !most.is_finite() {
            return most;
        }
        let sum: f64 = window.x.iter().map(|x| (x.abs() / most).powf(self.p)).sum();
        most * (sum / self.count(window)).powf(1.0 / self.p)
    }

    fn define_gradient(self, window: &Window, g: f64, mut add: impl FnMut(usize, [f64; 2])) {
        let y = self.define(window);
        for (i, &x) in window.x.iter().enumerate() {
            if y != 0.0 && x != 0.0 {
                let slope = (x.abs() / y).powf(self.p - 1.0) / self.count(window);
                add(i, [g * slope.copysign(x), 0.0]);
            }
        }
    }
}

impl Power {
    fn count(self, window: &Window) -> f64 {
        if self.sum {
            1.0
        } else {
            count(window, self.count_include_pad)
        }
    }
}
