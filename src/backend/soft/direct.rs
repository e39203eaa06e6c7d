//! SoftPool as its definition reads, a window at a time in f64: for windows that the vectorised kernels leave out.
//!
//! Those are windows with values that are not finite, and temperatures so small that differences overflow.

use super::element::Element;
use super::tiles::places;
use super::view::Plane;
use crate::backend::{Gradient, Weighting};
use crate::geometry::Geometry;

/// What the cells of a window share.
struct Softmax {
    /// The activation with the largest logit.
    peak: f64,
    /// `Σ exp(β·(x − peak))`.
    total: f64,
    output: f64,
}

/// `exp(β·(x − peak))`; the halves keep the difference from overflowing.
fn weight(x: f64, peak: f64, beta: f64) -> f64 {
    if x.is_infinite() && peak.is_finite() {
        return 0.0;
    }
    (2.0 * beta * (x / 2.0 - peak / 2.0)).exp()
}

/// The windows of a plane, one at a time.
pub struct Windows<'a, T> {
    plane: Plane<'a, T>,
    geometry: &'a Geometry,
    weighting: Weighting,
}

impl<'a, T: Element> Windows<'a, T> {
    pub fn new(plane: Plane<'a, T>, geometry: &'a Geometry, weighting: Weighting) -> Self {
        Self {
            plane,
            geometry,
            weighting,
        }
    }

    fn cells(&self, o: [usize; 3]) -> impl Iterator<Item = f64> + '_ {
        places([0, 1, 2].map(|a| self.geometry.axes[a].window(o[a])))
            .map(|i| self.plane.at(i).to_f64())
    }

    fn softmax(&self, o: [usize; 3]) -> Softmax {
        let beta = self.weighting.beta;
        // A negative β mirrors the activations, so that the lowest weighs most.
        let sign = if beta < 0.0 { -1.0 } else { 1.0 };
        let mut peak = f64::NEG_INFINITY;
        for x in self.cells(o) {
            if x.is_nan() {
                peak = x;
                break;
            }
            peak = peak.max(sign * x);
        }
        peak *= sign;
        if !peak.is_finite() {
            return Softmax {
                peak,
                total: 1.0,
                output: peak,
            };
        }
        let finite = || self.cells(o).filter(|x| x.is_finite());
        let total: f64 = finite().map(|x| weight(x, peak, beta)).sum();
        // Shares of the weights rather than the weights: their sum cannot overflow.
        let below = |x| weight(x, peak, beta) / total * (x / 2.0 - peak / 2.0);
        let below: f64 = finite().map(below).sum();
        Softmax {
            peak,
            total,
            output: 2.0 * (peak / 2.0 + below),
        }
    }

    /// The output of window `o`.
    pub fn output(&self, o: [usize; 3]) -> T {
        let y = self.softmax(o).output;
        match self.weighting.nan_to_num {
            true if y.is_nan() => T::default(),
            true => T::round(y.clamp(-T::MAX, T::MAX)),
            false => T::round(y),
        }
    }

    /// The gradient of the input cell `i`, from that of the output.
    pub fn gradient(&self, grad: Plane<'_, T>, gradient: Gradient, i: [usize; 3]) -> T {
        let beta = self.weighting.beta;
        let x = self.plane.at(i).to_f64();
        let mut sum = 0.0;
        for o in places([0, 1, 2].map(|a| self.geometry.axes[a].windows_of(i[a]))) {
            let softmax = self.softmax(o);
            if !softmax.output.is_finite() {
                // A window without a finite output has no derivative; with nan_to_num its output is a constant.
                sum += if self.weighting.nan_to_num {
                    0.0
                } else {
                    f64::NAN
                };
                continue;
            }
            let w = weight(x, softmax.peak, beta) / softmax.total;
            if w > 0.0 {
                sum += grad.at(o).to_f64() * w * slope(gradient, beta, x, softmax.output);
            }
        }
        T::round(sum)
    }
}

/// How a weighted value moves with its activation, in units of its weight.
fn slope(gradient: Gradient, beta: f64, x: f64, y: f64) -> f64 {
    match gradient {
        Gradient::Paper => 1.0,
        Gradient::Exact => 1.0 + 2.0 * beta * (x / 2.0 - y / 2.0),
    }
}
