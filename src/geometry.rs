//! Kernel, stride, padding, ceil mode and adaptive sizes become output sizes and windows, here and nowhere else.
//!
//! All ranks share one form: a 1-D or 2-D window is a 3-D window of depth (and height) one.
//! Sizes are checked in wider integers, so that any `usize` in any field gives an answer or an error.

use candle_core::{bail, Result, Shape};
use std::ops::Range;

/// A size per dimension, written as an integer (the same in all), a tuple or an array: `2`, `(3, 2)`, `[3, 2]`.
///
/// ```
/// use candle_softpool::IntoSize;
/// assert_eq!(IntoSize::<3>::into_size(2), [2, 2, 2]);
/// assert_eq!((3, 2).into_size(), [3, 2]);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a size of {D} dimensions",
    note = "a size is a `usize` for all dimensions, or a tuple or array with a `usize` for each of the {D}"
)]
pub trait IntoSize<const D: usize> {
    /// The size of each dimension, outermost first.
    fn into_size(self) -> [usize; D];
}

impl<const D: usize> IntoSize<D> for usize {
    fn into_size(self) -> [usize; D] {
        [self; D]
    }
}

impl<const D: usize> IntoSize<D> for [usize; D] {
    fn into_size(self) -> [usize; D] {
        self
    }
}

impl IntoSize<1> for (usize,) {
    fn into_size(self) -> [usize; 1] {
        [self.0]
    }
}

impl IntoSize<2> for (usize, usize) {
    fn into_size(self) -> [usize; 2] {
        [self.0, self.1]
    }
}

impl IntoSize<3> for (usize, usize, usize) {
    fn into_size(self) -> [usize; 3] {
        [self.0, self.1, self.2]
    }
}

/// What a pooling layer is told of its windows, before it has seen an input.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows<const D: usize> {
    /// Windows of one size at regular steps.
    Sliding {
        /// Cells of a window.
        kernel: [usize; D],
        /// From a window's start to the next one's.
        stride: [usize; D],
        /// Cells added on both sides.
        padding: [usize; D],
        /// Whether a last window may reach beyond the padding.
        ceil_mode: bool,
    },
    /// PyTorch's adaptive windows: a fixed number of outputs, whatever the input's size.
    Adaptive {
        /// The number of windows.
        output: [usize; D],
    },
}

/// The windows along one dimension.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Cells of the input.
    pub input: usize,
    /// Windows, one an output cell.
    pub output: usize,
    /// Cells of a window, padding included; of the largest window where they vary.
    pub kernel: usize,
    /// Cells from a window's start to the next one's; meaningless where `adaptive`.
    pub stride: usize,
    /// Padded cells before the input; those after it are whatever the last window needs.
    pub padding: usize,
    /// Windows run from `floor(o·input/output)` to `ceil((o + 1)·input/output)`.
    pub adaptive: bool,
}

impl Axis {
    /// The dimension that a tensor of lower rank lacks: one cell, one window.
    pub const UNIT: Axis = Axis {
        input: 1,
        output: 1,
        kernel: 1,
        stride: 1,
        padding: 0,
        adaptive: false,
    };

    /// Output size as in PyTorch's `pooling_output_shape`.
    fn sliding(
        input: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        ceil_mode: bool,
    ) -> Option<Self> {
        let [n, k, s, p] = [input, kernel, stride, padding].map(|v| v as u128);
        let padded = n + 2 * p;
        // The only window may be larger, as long as a stride back it would not be: what hangs over is no part of it.
        let k = match ceil_mode && k < padded + s {
            true => k.min(padded),
            false => k,
        };
        let free = padded.checked_sub(k)?;
        let mut output = free / s + 1;
        // A last window that would start in the right padding holds no input cell that another has not.
        if ceil_mode && free % s != 0 && output * s < n + p {
            output += 1;
        }
        Some(Self {
            input,
            output: usize::try_from(output).ok()?,
            kernel: k as usize,
            stride,
            padding,
            adaptive: false,
        })
    }

    fn adaptive(input: usize, output: usize) -> Self {
        let divides = input.is_multiple_of(output);
        let mut axis = Self {
            input,
            output,
            kernel: input / output,
            stride: input / output,
            padding: 0,
            adaptive: !divides,
        };
        if !divides {
            axis.kernel = if output > input {
                2.min(input)
            } else {
                (input / output + 2).min(input)
            };
        }
        axis
    }

    /// The input cells of window `o`, padding left out; never empty.
    pub fn window(&self, o: usize) -> Range<usize> {
        if self.adaptive {
            let (n, out) = (self.input as u128, self.output as u128);
            let start = o as u128 * n / out;
            let end = ((o as u128 + 1) * n).div_ceil(out);
            return start as usize..end as usize;
        }
        let first = o * self.stride;
        let end = first.saturating_add(self.kernel - self.padding);
        first.saturating_sub(self.padding)..end.min(self.input)
    }

    /// Cells of window `o`, padded ones included; what hangs over the padding is none.
    pub fn padded_len(&self, o: usize) -> usize {
        match self.adaptive {
            true => self.window(o).len(),
            false => {
                let padded = self.input.saturating_add(2 * self.padding);
                self.kernel.min(padded - o * self.stride)
            }
        }
    }

    /// The windows that input cell `i` belongs to; empty where strides leave it out.
    pub fn windows_of(&self, i: usize) -> Range<usize> {
        if self.adaptive {
            let (n, out) = (self.input as u128, self.output as u128);
            let first = i as u128 * out / n;
            let end = ((i as u128 + 1) * out).div_ceil(n);
            return first as usize..end as usize;
        }
        // Padding is at most half a kernel, and no tensor has 2^62 cells: sums fit.
        let [i, k, s, p] = [i, self.kernel, self.stride, self.padding].map(|v| v as u64);
        let first = (i + p + 1).saturating_sub(k).div_ceil(s) as usize;
        let end = ((i + p) / s + 1).min(self.output as u64) as usize;
        first.min(end)..end
    }

    /// Whether no input cell belongs to two windows.
    pub fn disjoint(&self) -> bool {
        self.output == 1 || (!self.adaptive && self.stride >= self.kernel)
    }
}

/// The windows of a whole plane (depth, height, width): what backends are handed.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Depth, height, width; those that the rank lacks are [`Axis::UNIT`].
    pub axes: [Axis; 3],
    /// Spatial dimensions of the tensors, 1 to 3.
    pub rank: usize,
}

impl Geometry {
    /// The windows of an input of shape `(N, C, spatial…)` or `(C, spatial…)`; `layer` names the caller in errors.
    pub fn new<const D: usize>(layer: &str, windows: &Windows<D>, dims: &[usize]) -> Result<Self> {
        check(layer, windows)?;
        if dims.len() != D + 1 && dims.len() != D + 2 {
            bail!(
                "{layer}: input of shape {dims:?} has {} dimensions, expected {} or {}: {}",
                dims.len(),
                D + 1,
                D + 2,
                [
                    "(C, L) or (N, C, L)",
                    "(C, H, W) or (N, C, H, W)",
                    "(C, D, H, W) or (N, C, D, H, W)"
                ][D - 1],
            );
        }
        let spatial = &dims[dims.len() - D..];
        if spatial.contains(&0) {
            bail!("{layer}: input of shape {dims:?} has a spatial size of 0, expected at least 1");
        }
        let mut axes = [Axis::UNIT; 3];
        for (d, &input) in spatial.iter().enumerate() {
            axes[3 - D + d] = match windows {
                Windows::Adaptive { output } => Axis::adaptive(input, output[d]),
                Windows::Sliding {
                    kernel,
                    stride,
                    padding,
                    ceil_mode,
                } => {
                    let axis = Axis::sliding(input, kernel[d], stride[d], padding[d], *ceil_mode);
                    let Some(axis) = axis else {
                        let allowed = if *ceil_mode {
                            format!(
                                "; ceil mode takes what is less than a stride larger: {stride:?}"
                            )
                        } else {
                            String::new()
                        };
                        bail!(
                            "{layer}: kernel {kernel:?} is larger than the padded input: \
                             spatial size {spatial:?} with padding {padding:?} on both sides{allowed}"
                        )
                    };
                    axis
                }
            };
        }
        let geometry = Self { axes, rank: D };
        let output = geometry.output_dims(dims);
        for (what, dims) in [("input", dims), ("output", &output)] {
            if !can_be_addressed(dims) {
                bail!("{layer}: an {what} of shape {dims:?} is too large to address");
            }
        }
        Ok(geometry)
    }

    fn output_dims(&self, input_dims: &[usize]) -> Vec<usize> {
        let lead = input_dims.len() - self.rank;
        let pooled = self.axes[3 - self.rank..].iter().map(|axis| axis.output);
        input_dims[..lead].iter().copied().chain(pooled).collect()
    }

    /// The output's shape for an input of this shape.
    pub fn output_shape(&self, input: &Shape) -> Shape {
        Shape::from(self.output_dims(input.dims()))
    }

    /// The same for planes that have all cells in one row, each of them one window.
    pub fn in_one_row(self) -> Self {
        let cells = self.input_cells();
        let row = Axis {
            input: cells,
            kernel: cells,
            stride: cells,
            ..Axis::UNIT
        };
        Self {
            axes: [Axis::UNIT, Axis::UNIT, row],
            ..self
        }
    }

    /// Cells of an input plane.
    pub fn input_cells(&self) -> usize {
        self.axes.iter().map(|axis| axis.input).product()
    }

    /// Cells of an output plane.
    pub fn output_cells(&self) -> usize {
        self.axes.iter().map(|axis| axis.output).product()
    }

    /// Depth, row and column of the output cell at this index of a plane.
    pub fn output_at(&self, index: usize) -> [usize; 3] {
        position(index, self.axes[1].output, self.axes[2].output)
    }

    /// Depth, row and column of the input cell at this index of a plane.
    pub fn input_at(&self, index: usize) -> [usize; 3] {
        position(index, self.axes[1].input, self.axes[2].input)
    }

    /// Whether no input cell belongs to two windows.
    pub fn disjoint(&self) -> bool {
        self.axes.iter().all(Axis::disjoint)
    }
}

/// Whether all bytes of a tensor of this shape, and of its planes, have an address, whatever its dtype.
fn can_be_addressed(dims: &[usize]) -> bool {
    let elements = dims
        .iter()
        .try_fold(1, |n: usize, &d| n.checked_mul(d.max(1)));
    elements.is_some_and(|n| n <= isize::MAX as usize / 8)
}

fn position(index: usize, height: usize, width: usize) -> [usize; 3] {
    [
        index / width / height,
        index / width % height,
        index % width,
    ]
}

/// What can be said of the windows before an input is seen.
fn check<const D: usize>(layer: &str, windows: &Windows<D>) -> Result<()> {
    match windows {
        Windows::Sliding {
            kernel,
            stride,
            padding,
            ..
        } => {
            at_least_one(layer, "kernel", kernel)?;
            at_least_one(layer, "stride", stride)?;
            let most = kernel.map(|size| size / 2);
            if (0..D).any(|d| padding[d] > most[d]) {
                bail!("{layer}: padding {padding:?} for kernel {kernel:?}, expected at most half of it: {most:?}");
            }
            Ok(())
        }
        Windows::Adaptive { output } => at_least_one(layer, "output size", output),
    }
}

fn at_least_one(layer: &str, name: &str, sizes: &[usize]) -> Result<()> {
    if sizes.contains(&0) {
        bail!("{layer}: {name} {sizes:?}, expected at least 1 in every dimension");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXTREMES: [usize; 9] = [
        0,
        1,
        2,
        3,
        7,
        usize::MAX / 2,
        usize::MAX / 2 + 1,
        usize::MAX - 1,
        usize::MAX,
    ];

    fn sliding(kernel: usize, stride: usize, padding: usize, ceil_mode: bool) -> Windows<1> {
        Windows::Sliding {
            kernel: [kernel],
            stride: [stride],
            padding: [padding],
            ceil_mode,
        }
    }

    #[test]
    fn any_size_gives_an_answer_or_an_error() {
        for (k, s, p) in EXTREMES.iter().flat_map(|&k| {
            EXTREMES
                .iter()
                .flat_map(move |&s| EXTREMES.map(|p| (k, s, p)))
        }) {
            for ceil_mode in [false, true] {
                for n in [0, 1, 5, isize::MAX as usize / 16] {
                    if let Ok(g) =
                        Geometry::new("SoftPool1d", &sliding(k, s, p, ceil_mode), &[1, n])
                    {
                        let axis = g.axes[2];
                        for o in [0, axis.output - 1] {
                            let window = axis.window(o);
                            assert!(window.start < window.end && window.end <= n);
                            assert!(axis.windows_of(window.start).contains(&o));
                        }
                    }
                }
            }
        }
        for output in EXTREMES {
            let windows = Windows::Adaptive { output: [output] };
            if let Ok(g) = Geometry::new("AdaptiveSoftPool1d", &windows, &[1, 5]) {
                assert!(!g.axes[2].window(output - 1).is_empty());
            }
        }
    }

    proptest! {
        #[test]
        fn windows_of_is_the_inverse_of_window(
            n in 1usize..40, k in 1usize..9, s in 1usize..6, p in 0usize..5, ceil_mode: bool,
        ) {
            prop_assume!(p <= k / 2 && k < n + 2 * p + if ceil_mode { s } else { 1 });
            let axis = Axis::sliding(n, k, s, p, ceil_mode).unwrap();
            check_inverse(&axis);
        }

        #[test]
        fn adaptive_windows_cover_the_input(n in 1usize..40, output in 1usize..60) {
            let axis = Axis::adaptive(n, output);
            check_inverse(&axis);
            prop_assert_eq!(axis.window(0).start, 0);
            prop_assert_eq!(axis.window(output - 1).end, n);
            prop_assert!((0..output).all(|o| axis.window(o).len() <= axis.kernel));
        }
    }

    fn check_inverse(axis: &Axis) {
        for i in 0..axis.input {
            let found: Vec<_> = axis.windows_of(i).collect();
            let wanted: Vec<_> = (0..axis.output)
                .filter(|&o| axis.window(o).contains(&i))
                .collect();
            assert_eq!(found, wanted, "cell {i} of {axis:?}");
        }
    }
}
