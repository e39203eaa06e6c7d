//! What a pooling method is to the engine.
//!
//! A rule says what a cell adds to its window's two sums ([`Rule::lift`]), how sums become the output
//! ([`Rule::finish`]), what of a window the gradient of its cells needs ([`Rule::terms`]), and what a cell makes of those
//! of its windows ([`Rule::gradient`]). It knows no geometry: the engine lifts each cell, joins the sums down the columns
//! and along the rows, and on the way back adds up the terms the same two ways.
//!
//! A window *holds* if its sums gave its output as exactly as the dtype allows: nothing overflowed, no weight that
//! counts was rounded away, no value was infinite or NaN. Of the others, those whose exponentials vanished are pooled
//! [`again`](super::again), each by its own largest logit. The rest are few. They are pooled one by one by
//! [`Rule::define`], in f64, as the definition reads.

use super::vector::Vector;
use std::fmt::Debug;

/// What the engine knows of a cell, a lane each.
#[derive(Clone, Copy)]
pub struct Cell<V> {
    pub x: V,
    /// The logit; `x` again for rules without logits of their own.
    pub z: V,
    /// The largest logit of its window, or of its plane in the band: see [`Rule::logit`].
    pub shift: V,
    /// Its index in its patch, in row-major order.
    pub place: V,
}

/// The cells of one window, in f64.
#[derive(Default, Debug)]
pub struct Window {
    pub x: Vec<f64>,
    pub z: Vec<f64>,
    /// Padded cells beside them, of which there may be more than an integer holds.
    pub padded: f64,
}

/// The sums of two groups of cells, the first ones first.
pub trait Join: Copy + Default + Send + Sync + 'static {
    /// The sums of no cells.
    const IDENTITY: [f64; 2];

    fn join<V: Vector>(a: [V; 2], b: [V; 2]) -> [V; 2];
}

/// Both sums are added.
#[derive(Clone, Copy, Default)]
pub struct Add;

impl Join for Add {
    const IDENTITY: [f64; 2] = [0.0, 0.0];

    #[inline(always)]
    fn join<V: Vector>(a: [V; 2], b: [V; 2]) -> [V; 2] {
        [a[0].add(b[0]), a[1].add(b[1])]
    }
}

/// Whether no window gives its cells anything. One term alone may be zero where those of several windows cancel.
#[inline(always)]
pub fn none_of_two<V: Vector>(terms: [V; 2]) -> V::Mask {
    V::and(terms[0].equal(V::zero()), terms[1].equal(V::zero()))
}

/// A pooling method.
pub trait Rule: Copy + Send + Sync + Debug + 'static {
    /// Whether weights are exponentials, which need a shift.
    const SHIFTED: bool = false;
    /// Whether there are logits beside the activations, with a gradient of their own.
    const LOGITS: bool = false;
    /// Whether cells need to know their place.
    const PLACES: bool = false;
    /// How many of the two [`Rule::terms`] are not zero.
    const TERMS: usize = 1;
    /// How the sums of two groups of cells become those of both.
    type Join: Join;

    /// Whether padded cells are counted, as cells that add 1 to the first sum.
    fn counts_padding(self) -> bool {
        false
    }

    /// What a cell's weight grows with, if [`Rule::SHIFTED`]: exponentials are of its difference from the largest one.
    #[inline(always)]
    fn logit<V: Vector>(self, x: V, _z: V) -> V {
        x
    }

    /// What a cell adds to its window's sums.
    fn lift<V: Vector>(self, cell: Cell<V>) -> [V; 2];

    /// The output of a window, if it holds.
    fn finish<V: Vector>(self, sums: [V; 2]) -> V;

    /// Whether a window holds.
    fn holds<V: Vector>(self, sums: [V; 2], y: V) -> V::Mask;

    /// What the cells of a window need of it, `g` being the gradient of its output.
    fn terms<V: Vector>(self, sums: [V; 2], y: V, g: V) -> [V; 2];

    /// The gradients of a cell and of its logit, given the sums of its windows' terms, and if [`Rule::SHIFTED`] the first
    /// sum that it was lifted to, which then is its weight.
    /// Where all of those are zero the gradients are, whatever the cell is.
    fn gradient<V: Vector>(self, cell: Cell<V>, weight: V, terms: [V; 2]) -> [V; 2];

    /// The output of any window; for a rule with places the place of the cell chosen among those of the window.
    fn define(self, window: &Window) -> f64;

    /// Calls `add` with the gradients of each cell and its logit.
    fn define_gradient(self, window: &Window, g: f64, add: impl FnMut(usize, [f64; 2]));

    /// The output of a window that is not finite, or what stands for it.
    fn replace(self, y: f64, _most: f64) -> f64 {
        y
    }
}
