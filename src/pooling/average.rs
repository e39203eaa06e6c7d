//! Average pooling, differentiable at every window.

use super::{compute_dtype, sliding_methods, Sliding};
use crate::backend::Method;
use crate::geometry::{Axis, Geometry, IntoSize};
use crate::op::Pool;
use crate::unfold::{select, unfold_axis};
use candle_core::{Module, Result, Tensor};

/// Average pooling over `D` dimensions, a candle [`Module`]: `y = Σ x / n` over each window's `n` cells.
///
/// - Input: `(N, C, spatial…)` or `(C, spatial…)` with `D` spatial dimensions, f16, bf16, f32 or f64, any strides.
/// - Output: the same with each spatial size `n` turned into `floor((n + 2·padding − kernel)/stride) + 1`.
///
/// Unlike candle's own `avg_pool2d` it pads, and has a gradient where windows overlap. f16 and bf16 are summed in f32.
///
/// ```
/// use candle_core::{Device, Module, Tensor};
/// use candle_softpool::AvgPool2d;
///
/// let pool = AvgPool2d::new(3).stride(2).padding(1);
/// let xs = Tensor::randn(0f32, 1., (8, 64, 112, 112), &Device::Cpu)?;
/// assert_eq!(xs.apply(&pool)?.dims(), [8, 64, 56, 56]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// `forward` gives an error that names the layer, the value and what is allowed for: a kernel, stride or spatial size
/// of 0, a kernel larger than the padded input, a padding of more than half the kernel, an input of another rank or dtype.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AvgPool<const D: usize> {
    windows: Sliding<D>,
    count_include_pad: bool,
}

/// [`AvgPool`] of `(N, C, L)`.
pub type AvgPool1d = AvgPool<1>;
/// [`AvgPool`] of `(N, C, H, W)`.
pub type AvgPool2d = AvgPool<2>;
/// [`AvgPool`] of `(N, C, D, H, W)`.
pub type AvgPool3d = AvgPool<3>;

impl<const D: usize> AvgPool<D> {
    const NAME: &'static str = ["AvgPool1d", "AvgPool2d", "AvgPool3d"][D - 1];

    /// Windows of this size, side by side: the stride is the kernel.
    pub fn new(kernel: impl IntoSize<D>) -> Self {
        Self {
            windows: Sliding::new(kernel),
            count_include_pad: true,
        }
    }

    /// Whether padded cells count in the divisor: by default they do, as in PyTorch.
    /// What a window of `ceil_mode` has beyond the padding never counts.
    pub fn count_include_pad(mut self, count_include_pad: bool) -> Self {
        self.count_include_pad = count_include_pad;
        self
    }

    sliding_methods!(
        "They are zeros, counted in the divisor or not: see [`Self::count_include_pad`]."
    );
}

impl<const D: usize> Module for AvgPool<D> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let geometry = self.windows.geometry(Self::NAME, xs)?;
        if xs.device().is_cpu() {
            let count_include_pad = self.count_include_pad;
            return Pool::new(geometry, Method::Average { count_include_pad }).apply(xs);
        }
        let dtype = compute_dtype(Self::NAME, xs)?;
        let ys = avg_pool(&geometry, &xs.to_dtype(dtype)?, self.count_include_pad)?;
        ys.to_dtype(xs.dtype())
    }
}

/// The average of every window, a dimension at a time.
pub(crate) fn avg_pool(
    geometry: &Geometry,
    xs: &Tensor,
    count_include_pad: bool,
) -> Result<Tensor> {
    if xs.elem_count() > 0 && candle_can(geometry, xs) {
        let [_, h, w] = &geometry.axes;
        let (height, width) = (h.input, w.input);
        let planes = xs.reshape((1, (), height, width))?;
        let ys = planes.avg_pool2d_with_stride((h.kernel, w.kernel), (h.stride, w.stride))?;
        return ys.reshape(geometry.output_shape(xs.shape()));
    }
    reduce(geometry, xs, |axis, o| divisor(axis, o, count_include_pad))
}

/// Whether candle's own `avg_pool2d` serves: no padding, and a gradient only where the windows tile the input.
fn candle_can(geometry: &Geometry, xs: &Tensor) -> bool {
    let inside = |axis: &Axis| {
        !axis.adaptive
            && axis.padding == 0
            && (axis.output - 1) * axis.stride + axis.kernel <= axis.input
    };
    let tiles = |axis: &Axis| axis.stride == axis.kernel && axis.output * axis.kernel == axis.input;
    let axes = &geometry.axes[1..];
    let reach = axes.iter().all(inside) && geometry.rank == 2;
    reach && (!xs.track_op() || axes.iter().all(tiles))
}

/// The sum of every window, a dimension at a time.
pub(crate) fn sum_pool(geometry: &Geometry, xs: &Tensor) -> Result<Tensor> {
    reduce(geometry, xs, |_, _| 1)
}

/// The cells that window `o` is averaged over along one dimension, as PyTorch counts them.
fn divisor(axis: &Axis, o: usize, count_include_pad: bool) -> usize {
    match count_include_pad {
        false => axis.window(o).len(),
        true => {
            let [n, k, s, p, o] =
                [axis.input, axis.kernel, axis.stride, axis.padding, o].map(|v| v as u128);
            k.min(n + 2 * p - o * s) as usize
        }
    }
}

/// Sums along each dimension, divided by a count per window.
fn reduce(
    geometry: &Geometry,
    xs: &Tensor,
    count: impl Fn(&Axis, usize) -> usize,
) -> Result<Tensor> {
    let output = geometry.output_shape(xs.shape());
    if output.elem_count() == 0 {
        return Tensor::zeros(output, xs.dtype(), xs.device());
    }
    let lead = xs.rank() - geometry.rank;
    let axes = &geometry.axes[3 - geometry.rank..];
    let mut ys = xs.clone();
    for (d, axis) in axes.iter().enumerate() {
        let dim = lead + d;
        let unfolded = unfold_axis(&ys, dim, axis)?;
        let cells = match &unfolded.present {
            None => unfolded.cells,
            Some(present) => select(present, &unfolded.cells, 0.0)?,
        };
        let counts: Vec<f64> = (0..axis.output).map(|o| count(axis, o) as f64).collect();
        ys = cells.sum(dim + 1)?;
        ys = if counts.iter().all(|c| *c == counts[0]) {
            if counts[0] == 1.0 {
                ys
            } else {
                (ys / counts[0])?
            }
        } else {
            let mut shape = vec![1; ys.rank() - dim];
            shape[0] = axis.output;
            let counts = Tensor::from_vec(counts, shape, ys.device())?.to_dtype(ys.dtype())?;
            ys.broadcast_div(&counts)?
        };
    }
    Ok(ys)
}
