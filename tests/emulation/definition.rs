//! Every method as its formula reads, in f64, and what errors are measured by.

use crate::case::Case;
use crate::common;
use candle_core::{DType, Result, Tensor};
use candle_softpool::backend::{Method, Weighting};
use candle_softpool::geometry::Axis;
use proptest::test_runner::TestCaseError;

/// What the formula gives for every output and cell.
pub struct Definition {
    output: Cells,
    gradient: Cells,
    /// Of the logits, if the method has some.
    logits: Cells,
    /// Where the largest cell of each window is.
    places: Vec<usize>,
}

/// Wanted values, and the size that their errors are measured by.
struct Cells {
    wanted: Vec<f64>,
    scale: Vec<f64>,
    /// Whether a NaN came with a weight that the dtype of the arithmetic may take for zero.
    vague: Vec<bool>,
}

impl Cells {
    fn new(count: usize) -> Self {
        Self {
            wanted: vec![0.0; count],
            scale: vec![0.0; count],
            vague: vec![false; count],
        }
    }

    /// Adds what a window with the gradient `g` passes to a cell.
    fn pass(&mut self, i: usize, g: f64, slope: f64, size: f64, faint: f64) {
        self.wanted[i] += if slope == 0.0 { 0.0 } else { g * slope };
        self.scale[i] += if g.is_nan() || size.is_nan() {
            0.0
        } else {
            (g * size).abs()
        };
        self.vague[i] |= g.is_nan() && slope.abs() < faint;
    }
}

/// A window: its cells, their logits, and how many cells it has with padded ones.
struct Window {
    x: Vec<f64>,
    z: Vec<f64>,
    padded: f64,
}

/// An output, how it moves with each cell and logit, and the sizes that those slopes come from.
struct Defined {
    y: f64,
    dx: Vec<f64>,
    dz: Vec<f64>,
    size: f64,
    logit_size: f64,
}

impl Definition {
    pub fn new(case: &Case, xs: &Tensor, logits: &Tensor, grad: &Tensor) -> Result<Self> {
        let (x, z, g) = (
            common::values(xs)?,
            common::values(logits)?,
            common::values(grad)?,
        );
        let faint = faint(case.dtype);
        let axes = case.geometry.axes;
        let mut all = Self {
            output: Cells::new(g.len()),
            gradient: Cells::new(x.len()),
            logits: Cells::new(x.len()),
            places: vec![0; g.len()],
        };
        for (index, &g) in g.iter().enumerate() {
            let (plane, window) = (
                index / case.geometry.output_cells(),
                index % case.geometry.output_cells(),
            );
            let at = case.geometry.output_at(window);
            let [d, h, w] = [0, 1, 2].map(|axis| axes[axis].window(at[axis]));
            let first = plane * case.geometry.input_cells();
            let mut cells = vec![];
            for (d, h) in d.flat_map(|d| h.clone().map(move |h| (d, h))) {
                let row = first + (d * axes[1].input + h) * axes[2].input;
                cells.extend(w.clone().map(|w| row + w));
            }
            let padded = (0..3).map(|axis| padded(&axes[axis], at[axis])).product();
            let window = Window {
                x: cells.iter().map(|&i| x[i]).collect(),
                z: cells.iter().map(|&i| z[i]).collect(),
                padded,
            };
            let defined = define(case, &window);
            let finite = window.x.iter().filter(|x| x.is_finite());
            all.output.wanted[index] = defined.y;
            let largest_cell = finite.fold(0.0, |a: f64, x| x.abs().max(a));
            // A power sum may be larger than any cell.
            all.output.scale[index] = match defined.y.is_finite() {
                true => largest_cell.max(defined.y.abs()),
                false => largest_cell,
            };
            all.places[index] = cells[largest(&window.x)] - first;
            for (k, &i) in cells.iter().enumerate() {
                all.gradient.pass(i, g, defined.dx[k], defined.size, faint);
                if case.method == Method::Logits {
                    all.logits
                        .pass(i, g, defined.dz[k], defined.logit_size, faint);
                }
            }
        }
        Ok(all)
    }

    pub fn assert_output(
        &self,
        case: &Case,
        found: &[f64],
    ) -> std::result::Result<(), TestCaseError> {
        let replaces = matches!(
            case.method,
            Method::SoftPool(Weighting {
                nan_to_num: true,
                ..
            })
        );
        let largest = common::largest(case.dtype);
        for (i, &found) in found.iter().enumerate() {
            let wanted = match self.output.wanted[i] {
                y if !replaces => y,
                y if y.is_nan() => 0.0,
                y => y.clamp(-largest, largest),
            };
            near("output", i, case, found, wanted, self.output.scale[i])?;
        }
        Ok(())
    }

    /// The gradients of the activations, and behind them those of the logits.
    pub fn assert_gradients(
        &self,
        case: &Case,
        found: &[f64],
    ) -> std::result::Result<(), TestCaseError> {
        let cells = self.gradient.wanted.len();
        let parts = if case.method == Method::Logits { 2 } else { 1 };
        assert_eq!(found.len(), parts * cells);
        for (i, &found) in found.iter().enumerate() {
            let (what, of) = match i / cells {
                0 => ("gradient", &self.gradient),
                _ => ("gradient of the logit", &self.logits),
            };
            let i = i % cells;
            if !of.vague[i] {
                near(what, i, case, found, of.wanted[i], of.scale[i])?;
            }
        }
        Ok(())
    }

    pub fn assert_places(&self, found: &[f64]) -> std::result::Result<(), TestCaseError> {
        for (i, (&found, &wanted)) in found.iter().zip(&self.places).enumerate() {
            if found != wanted as f64 {
                return Err(TestCaseError::fail(format!(
                    "place {i} is {found}, not {wanted}"
                )));
            }
        }
        Ok(())
    }
}

/// A weight that the arithmetic may take for zero: GPUs' exponentials flush numbers below the normal ones, f32's are from
/// 1.2e-38 on, and the rounded exponent moves that limit a little. Next to finite cells such a weight changes no digit; next
/// to an infinite cell or gradient it decides between all and nothing, where neither is wrong.
fn faint(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-300,
        _ => 1e-37,
    }
}

/// The wanted value, but for an error of the arithmetic by a cell's scale, rounded to the dtype once.
fn near(
    what: &str,
    i: usize,
    case: &Case,
    found: f64,
    wanted: f64,
    scale: f64,
) -> std::result::Result<(), TestCaseError> {
    let most = match case.dtype {
        DType::F64 => f64::MAX,
        _ => f32::MAX.into(),
    };
    if scale > most && !found.is_finite() {
        // A part of it overflowed, perhaps beside another with the other sign. A finite value has to be right.
        return Ok(());
    }
    let error = common::tolerance(case.dtype) * scale;
    let [low, high] = [wanted - error, wanted + error].map(|v| common::round(v, case.dtype));
    let right = match wanted.is_nan() {
        true => found.is_nan(),
        // Infinite ones are equal or wrong: no interval around them holds a number.
        false => found == wanted || low <= found && found <= high,
    };
    match right {
        true => Ok(()),
        false => Err(TestCaseError::fail(format!(
            "{what} {i} is {found:e}, not {wanted:e} ± {error:e}"
        ))),
    }
}

/// Cells of a window along an axis, padded ones included; what hangs over the padding is none.
fn padded(axis: &Axis, o: usize) -> f64 {
    match axis.adaptive {
        true => axis.window(o).len() as f64,
        false => axis
            .kernel
            .min(axis.input + 2 * axis.padding - o * axis.stride) as f64,
    }
}

/// The first of the largest cells, and a NaN before any.
fn largest(x: &[f64]) -> usize {
    let better = |a: f64, b: f64| !b.is_nan() && (a.is_nan() || a > b);
    (0..x.len()).fold(0, |best, i| if better(x[i], x[best]) { i } else { best })
}

fn define(case: &Case, window: &Window) -> Defined {
    match case.method {
        Method::SoftPool(Weighting { beta, nan_to_num }) => {
            let pool = common::Pool::sliding(2, 1, 1, 0)
                .beta(beta)
                .gradient(case.gradient)
                .nan_to_num(nan_to_num);
            let (y, dx) = pool.window(&window.x);
            plain(y, dx)
        }
        // What weighs next to nothing weighs nothing, were it infinite.
        Method::Logits => softmax(window, faint(case.dtype)),
        Method::Average { count_include_pad } => {
            let n = count(window, count_include_pad);
            let y = window.x.iter().map(|x| x / n).sum();
            plain(y, vec![1.0 / n; window.x.len()])
        }
        Method::Power {
            p,
            sum,
            count_include_pad,
        } => {
            let n = if sum {
                1.0
            } else {
                count(window, count_include_pad)
            };
            power(window, p, n)
        }
        Method::Weighted => weighted(window),
        Method::Maximum => {
            let place = largest(&window.x);
            let dx = (0..window.x.len()).map(|i| f64::from(i == place)).collect();
            plain(window.x[place], dx)
        }
    }
}

/// Of slopes whose size is that of the steepest.
fn plain(y: f64, dx: Vec<f64>) -> Defined {
    let size = dx.iter().fold(0.0, |a: f64, s| s.abs().max(a));
    Defined {
        y,
        dz: vec![0.0; dx.len()],
        dx,
        size,
        logit_size: 0.0,
    }
}

fn count(window: &Window, with_padding: bool) -> f64 {
    match with_padding {
        true => window.padded,
        false => window.x.len() as f64,
    }
}

fn softmax(Window { x, z, .. }: &Window, faint: f64) -> Defined {
    let none = |y: f64| Defined {
        dz: vec![f64::NAN; x.len()],
        ..plain(y, vec![f64::NAN; x.len()])
    };
    let peak = z[largest(z)];
    if !peak.is_finite() {
        return none(f64::NAN);
    }
    let weight = |z: f64| match (z / 2.0 - peak / 2.0).exp().powi(2) {
        w if w < faint => 0.0,
        w => w,
    };
    let weights: Vec<f64> = z.iter().map(|&z| weight(z)).collect();
    let total: f64 = weights.iter().sum();
    let shares: Vec<f64> = weights.iter().map(|w| w / total).collect();
    let heavy = |(w, x): (&f64, &f64)| if *w > 0.0 { w * (x / 4.0) } else { 0.0 };
    let y = 4.0 * shares.iter().zip(x).map(heavy).sum::<f64>();
    if !y.is_finite() {
        return none(y);
    }
    let slope = |(w, x): (&f64, &f64)| {
        if *w > 0.0 {
            4.0 * w * (x / 4.0 - y / 4.0)
        } else {
            0.0
        }
    };
    let dz: Vec<f64> = shares.iter().zip(x).map(slope).collect();
    let farthest = |(w, x): (&f64, &f64)| {
        if *w > 0.0 {
            w * (x.abs() + y.abs())
        } else {
            0.0
        }
    };
    let logit_size = shares.iter().zip(x).map(farthest).fold(0.0, f64::max);
    Defined {
        dz,
        logit_size,
        ..plain(y, shares)
    }
}

fn power(Window { x, .. }: &Window, p: f64, n: f64) -> Defined {
    let sizes: Vec<f64> = x.iter().map(|x| x.abs()).collect();
    let most = sizes[largest(&sizes)];
    // The output in units of the largest: it may overflow where its slopes do not.
    let relative = match most == 0.0 || !most.is_finite() {
        true => 1.0,
        false => {
            let sum: f64 = sizes.iter().map(|x| (x / most).powf(p)).sum();
            (sum / n).powf(1.0 / p)
        }
    };
    let slope = |&x: &f64| match most == 0.0 || x == 0.0 {
        true => 0.0,
        false => ((x.abs() / most / relative).powf(p - 1.0) / n).copysign(x),
    };
    plain(most * relative, x.iter().map(slope).collect())
}

fn weighted(Window { x, .. }: &Window) -> Defined {
    let positive = |x: f64| if x <= 0.0 { 0.0 } else { x };
    let n = x.len() as f64;
    let total: f64 = x.iter().map(|&x| positive(x)).sum();
    if total == 0.0 {
        let y = x.iter().map(|x| x / n).sum();
        return plain(y, vec![1.0 / n; x.len()]);
    }
    // A cell without a share gives nothing, were it infinite.
    let given = |&x: &f64| if x <= 0.0 { 0.0 } else { x / total * x };
    let y: f64 = x.iter().map(given).sum();
    let slope = |&x: &f64| match y.is_finite() && x <= 0.0 {
        true => 0.0,
        false => (2.0 * x - y) / total,
    };
    let dx: Vec<f64> = x.iter().map(slope).collect();
    let size = x
        .iter()
        .map(|x| (2.0 * positive(*x) + y) / total)
        .fold(0.0, f64::max);
    Defined {
        size,
        ..plain(y, dx)
    }
}
