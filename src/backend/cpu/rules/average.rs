//! Averages: `y = Σx / n`.

use super::super::rule::{Add, Cell, Rule, Window};
use super::super::vector::Vector;

#[derive(Clone, Copy, Debug)]
pub struct Average {
    /// Whether padded cells are zeros that are counted.
    pub count_include_pad: bool,
}

impl Rule for Average {
    type Join = Add;

    fn counts_padding(self) -> bool {
        self.count_include_pad
    }

    #[inline(always)]
    fn lift<V: Vector>(self, cell: Cell<V>) -> [V; 2] {
        [V::one(), cell.x]
    }

    #[inline(always)]
    fn finish<V: Vector>(self, sums: [V; 2]) -> V {
        sums[1].quotient(sums[0])
    }

    #[inline(always)]
    fn holds<V: Vector>(self, _sums: [V; 2], y: V) -> V::Mask {
        y.finite()
    }

    #[inline(always)]
    fn terms<V: Vector>(self, sums: [V; 2], _y: V, g: V) -> [V; 2] {
        [g.quotient(sums[0]), V::zero()]
    }

    #[inline(always)]
    fn gradient<V: Vector>(self, _cell: Cell<V>, _weight: V, terms: [V; 2]) -> [V; 2] {
        [terms[0], V::zero()]
    }

    fn define(self, window: &Window) -> f64 {
        let count = count(window, self.count_include_pad);
        window.x.iter().map(|x| x / count).sum()
    }

    fn define_gradient(self, window: &Window, g: f64, mut add: impl FnMut(usize, [f64; 2])) {
        let count = count(window, self.count_include_pad);
        (0..window.x.len()).for_each(|i| add(i, [g / count, 0.0]));
    }
}

/// The divisor of an average.
pub fn count(window: &Window, include_pad: bool) -> f64 {
    window.x.len() as f64 + if include_pad { window.padded } else { 0.0 }
}
