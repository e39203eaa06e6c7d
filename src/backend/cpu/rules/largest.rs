//! The largest activation of a window: the first in row-major order where several are the largest, and NaN before any.

use super::super::rule::{Cell, Join, Rule, Window};
use super::super::vector::Vector;

/// Its value.
#[derive(Clone, Copy, Debug)]
pub struct Maximum;

/// Its place.
#[derive(Clone, Copy, Debug)]
pub struct Largest;

/// The larger of first sums; second sums are added.
#[derive(Clone, Copy, Default)]
pub struct Larger;

impl Join for Larger {
    const IDENTITY: [f64; 2] = [f64::NEG_INFINITY, 0.0];

    #[inline(always)]
    fn join<V: Vector>(a: [V; 2], b: [V; 2]) -> [V; 2] {
        [a[0].max(b[0]), a[1].add(b[1])]
    }
}

/// The larger of first sums, and the second sum beside it; of equals the one whose second sum is smaller.
#[derive(Clone, Copy, Default)]
pub struct First;

impl Join for First {
    const IDENTITY: [f64; 2] = [f64::NEG_INFINITY, 0.0];

    #[inline(always)]
    fn join<V: Vector>(a: [V; 2], b: [V; 2]) -> [V; 2] {
        let tie = V::and(b[0].equal(a[0]), a[1].greater(b[1]));
        let later = V::or(b[0].greater(a[0]), tie);
        // A NaN stays: no comparison with it is true.
        let number = b[0].equal(b[0]);
        let key = V::select(number, V::select(later, b[0], a[0]), b[0]);
        [key, V::select(later, b[1], a[1])]
    }
}

impl Rule for Maximum {
    type Join = Larger;

    /// The second sum turns into NaN with the first activation that is not finite, since maxima may lose a NaN.
    #[inline(always)]
    fn lift<V: Vector>(self, cell: Cell<V>) -> [V; 2] {
        [cell.x, cell.x.mul(V::zero())]
    }

    #[inline(always)]
    fn finish<V: Vector>(self, sums: [V; 2]) -> V {
        sums[0]
    }

    #[inline(always)]
    fn holds<V: Vector>(self, sums: [V; 2], _y: V) -> V::Mask {
        sums[1].equal(V::zero())
    }

    #[inline(always)]
    fn terms<V: Vector>(self, _sums: [V; 2], _y: V, g: V) -> [V; 2] {
        [g, V::zero()]
    }

    #[inline(always)]
    fn gradient<V: Vector>(self, _cell: Cell<V>, _weight: V, _terms: [V; 2]) -> [V; 2] {
        [V::zero(); 2]
    }

    fn define(self, window: &Window) -> f64 {
        window.x[first(window)]
    }

    fn define_gradient(self, window: &Window, g: f64, add: impl FnMut(usize, [f64; 2])) {
        Largest.define_gradient(window, g, add);
    }
}

impl Rule for Largest {
    type Join = First;
    const PLACES: bool = true;
    const TERMS: usize = 2;

    #[inline(always)]
    fn lift<V: Vector>(self, cell: Cell<V>) -> [V; 2] {
        [cell.x, cell.place]
    }

    #[inline(always)]
    fn finish<V: Vector>(self, sums: [V; 2]) -> V {
        sums[1]
    }

    #[inline(always)]
    fn holds<V: Vector>(self, sums: [V; 2], _y: V) -> V::Mask {
        sums[0].finite()
    }

    #[inline(always)]
    fn terms<V: Vector>(self, _sums: [V; 2], place: V, g: V) -> [V; 2] {
        [g, place]
    }

    /// Of a cell of one window alone: where there are more, their gradients are scattered.
    #[inline(always)]
    fn gradient<V: Vector>(self, cell: Cell<V>, _weight: V, terms: [V; 2]) -> [V; 2] {
        let [g, place] = terms;
        let chosen = cell.place.equal(place);
        [V::select(chosen, g, V::zero()), V::zero()]
    }

    fn define(self, window: &Window) -> f64 {
        first(window) as f64
    }

    fn define_gradient(self, window: &Window, g: f64, mut add: impl FnMut(usize, [f64; 2])) {
        add(first(window), [g, 0.0]);
    }
}

/// The first of the largest cells; the first NaN, if there is one.
fn first(window: &Window) -> usize {
    let mut best = 0;
    for (i, &x) in window.x.iter().enumerate() {
        if window.x[best].is_nan() {
            break;
        }
        if x > window.x[best] || x.is_nan() {
            best = i;
        }
    }
    best
}
