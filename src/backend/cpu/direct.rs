//! SoftPool as its definition reads, a window at a time in f64: for windows that the vectorised kernels leave out.
//!
//! Those are windows with values that are not finite, and temperatures so small that differences overflow.

use super::element::Element;
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
struct Windows<'a, T> {
    plane: Plane<'a, T>,
    geometry: &'a Geometry,
    beta: f64,
}

impl<T: Element> Windows<'_, T> {
    fn cells(&self, o: [usize; 3]) -> impl Iterator<Item = ([usize; 3], f64)> + '_ {
        let [d, h, w] = [0, 1, 2].map(|a| self.geometry.axes[a].window(o[a]));
        d.flat_map(move |d| {
            let w = w.clone();
            h.clone()
                .flat_map(move |h| w.clone().map(move |w| [d, h, w]))
        })
        .map(|i| (i, self.plane.at(i).to_f64()))
    }

    fn softmax(&self, o: [usize; 3]) -> Softmax {
        // A negative β mirrors the activations, so that the lowest weighs most.
        let sign = if self.beta < 0.0 { -1.0 } else { 1.0 };
        let mut peak = f64::NEG_INFINITY;
        for (_, x) in self.cells(o) {
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
        let finite = || self.cells(o).map(|(_, x)| x).filter(|x| x.is_finite());
        let total: f64 = finite().map(|x| weight(x, peak, self.beta)).sum();
        // Shares of the weights rather than the weights: their sum cannot overflow.
        let below = |x| weight(x, peak, self.beta) / total * (x / 2.0 - peak / 2.0);
        let below: f64 = finite().map(below).sum();
        Softmax {
            peak,
            total,
            output: 2.0 * (peak / 2.0 + below),
        }
    }
}

/// The output of window `o`.
pub fn window<T: Element>(
    plane: Plane<'_, T>,
    geometry: &Geometry,
    weighting: Weighting,
    o: [usize; 3],
) -> T {
    let beta = weighting.beta;
    let windows = Windows {
        plane,
        geometry,
        beta,
    };
    finish(windows.softmax(o).output, weighting.nan_to_num)
}

fn finish<T: Element>(y: f64, nan_to_num: bool) -> T {
    match nan_to_num {
        true if y.is_nan() => T::default(),
        true => T::round(y.clamp(-T::MAX, T::MAX)),
        false => T::round(y),
    }
}

/// The gradient of the input cell `i`.
pub fn cell<T: Element>(
    plane: Plane<'_, T>,
    grad: Plane<'_, T>,
    geometry: &Geometry,
    weighting: Weighting,
    gradient: Gradient,
    i: [usize; 3],
) -> T {
    let beta = weighting.beta;
    let windows = Windows {
        plane,
        geometry,
        beta,
    };
    let x = plane.at(i).to_f64();
    let [d, h, w] = [0, 1, 2].map(|a| geometry.axes[a].windows_of(i[a]));
    let mut sum = 0.0;
    for o in d.flat_map(|d| {
        let w = w.clone();
        h.clone()
            .flat_map(move |h| w.clone().map(move |w| [d, h, w]))
    }) {
        let softmax = windows.softmax(o);
        if !softmax.output.is_finite() {
            // A window without a finite output has no derivative; with nan_to_num its output is a constant.
            sum += if weighting.nan_to_num { 0.0 } else { f64::NAN };
            continue;
        }
        let w = weight(x, softmax.peak, beta) / softmax.total;
        if w > 0.0 {
            sum += grad.at(o).to_f64() * w * slope(gradient, beta, x, softmax.output);
        }
    }
    T::round(sum)
}

/// How a weighted value moves with its activation, in units of its weight.
fn slope(gradient: Gradient, beta: f64, x: f64, y: f64) -> f64 {
    match gradient {
        Gradient::Paper => 1.0,
        Gradient::Exact => 1.0 + 2.0 * beta * (x / 2.0 - y / 2.0),
    }
}
