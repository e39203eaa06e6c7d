//! S3 pooling.

use super::max::max_pool;
use super::random::Draws;
use super::{sliding_methods, Sliding};
use crate::backend::Method;
use crate::geometry::{Axis, IntoSize};
use crate::op::{gather, Pool};
use candle_core::{bail, ModuleT, Result, Tensor};
use rand_chacha::{rand_core::RngCore, ChaCha8Rng};

/// S3 pooling over `D` dimensions, a candle [`ModuleT`] (Zhai et al., "S3Pool: pooling with stochastic spatial
/// sampling", CVPR 2017, [arXiv 1611.05138](https://arxiv.org/abs/1611.05138)).
///
/// First max pooling with stride one. Then down-sampling by the stride `s`: training cuts each dimension into grids of
/// `g` cells ([`Self::grid`], a multiple of `s`, by default `s`) and draws `g/s` of each grid's rows (columns, …), in
/// order and without repetition, the same for all samples and channels of the batch; evaluation averages every `s` cells,
/// as the authors' code does. For `g = s` that is the expectation of training.
/// A last grid of `r < g` cells gives `ceil(r/s)` of them.
///
/// - Input: `(N, C, spatial…)` or `(C, spatial…)` with `D` spatial dimensions, f16, bf16, f32 or f64, any strides.
/// - Output: the same with each spatial size `n` turned into `floor((n + 2·padding − kernel)/stride) + 1`;
///   [`Self::ceil_mode`] rounds up.
///
/// Equal seeds give equal sequences of training passes; a clone goes on from where the original is. Without a seed every
/// layer draws for itself: the first that the program makes has the seed `u64::MAX`, the next one less, and so on.
/// Gradients, ties and NaN are those of [`MaxPool`](crate::MaxPool).
///
/// ```
/// use candle_core::{Device, ModuleT, Tensor};
/// use candle_softpool::S3Pool1d;
///
/// let xs = Tensor::new(&[[[1f32, 3., 2., 0., 5.]]], &Device::Cpu)?;
/// let pool = S3Pool1d::new(2).seed(7);
/// // Maxima with stride one are 3, 3, 2, 5.
/// assert_eq!(xs.apply_t(&pool, false)?.to_vec3::<f32>()?, [[[3.0, 3.5]]]);
/// let drawn = xs.apply_t(&pool, true)?.to_vec3::<f32>()?;
/// assert!(drawn[0][0][0] == 3.0 && [2.0, 5.0].contains(&drawn[0][0][1]));
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// `forward_t` gives an error that names the layer, the value and what is allowed for: a grid that is not a multiple of
/// the stride, a kernel, stride or spatial size of 0, a kernel larger than the padded input (in ceil mode, larger by a
/// stride or more), a padding of more than half the kernel, an input of another rank or dtype, a plane of 2^32 cells or
/// more.
#[derive(Clone, Debug)]
pub struct S3Pool<const D: usize> {
    windows: Sliding<D>,
    grid: Option<[usize; D]>,
    draws: Draws,
}

/// [`S3Pool`] of `(N, C, L)`.
pub type S3Pool1d = S3Pool<1>;
/// [`S3Pool`] of `(N, C, H, W)`.
pub type S3Pool2d = S3Pool<2>;
/// [`S3Pool`] of `(N, C, D, H, W)`.
pub type S3Pool3d = S3Pool<3>;

impl<const D: usize> S3Pool<D> {
    const NAME: &'static str = ["S3Pool1d", "S3Pool2d", "S3Pool3d"][D - 1];

    /// Windows of this size, the stride the kernel, the grid the stride, the seed one that no layer before had.
    pub fn new(kernel: impl IntoSize<D>) -> Self {
        Self {
            windows: Sliding::new(kernel),
            grid: None,
            draws: Draws::of_one_layer(),
        }
    }

    /// The cells that training draws from together, a multiple of the stride, which is the default.
    /// Larger grids distort more.
    pub fn grid(mut self, grid: impl IntoSize<D>) -> Self {
        self.grid = Some(grid.into_size());
        self
    }

    /// The seed of the training passes; starts their sequence anew.
    pub fn seed(mut self, seed: u64) -> Self {
        self.draws = Draws::new(seed);
        self
    }

    sliding_methods!("They are `−inf`: never the maximum.");

    /// Evaluation: [`ModuleT::forward_t`] with `train` false.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward_t(xs, false)
    }
}

impl<const D: usize> ModuleT for S3Pool<D> {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let geometry = self.windows.geometry(Self::NAME, xs)?;
        let (stride, grid) = (
            self.windows.stride,
            self.grid.unwrap_or(self.windows.stride),
        );
        if (0..D).any(|d| grid[d] == 0 || grid[d] % stride[d] != 0) {
            bail!(
                "{}: grid {grid:?} is not a multiple of the stride {stride:?}",
                Self::NAME
            );
        }
        if let Some(ys) = Pool::of_nothing(geometry, xs) {
            return ys;
        }
        let first = 3 - D;
        let (mut dense, mut sparse) = (geometry, geometry);
        let counts = geometry.axes.each_ref().map(windows_of_stride_one);
        let windows = counts.iter().fold(1, |n: u128, &c| n.saturating_mul(c));
        // Their indices must fit in 32 bits.
        if windows >= 1 << 32 {
            bail!(
                "{}: {windows} windows of stride one, expected less than 2^32",
                Self::NAME
            );
        }
        for (d, &count) in counts.iter().enumerate().skip(first) {
            let (axis, output) = (geometry.axes[d], count as usize);
            dense.axes[d] = Axis {
                output,
                stride: 1,
                ..axis
            };
            sparse.axes[d] = side_by_side(output, &axis);
        }
        let peaks = max_pool(Self::NAME, &dense, xs)?;
        if !train {
            let count_include_pad = false;
            return Pool::new(sparse, Method::Average { count_include_pad }).apply(&peaks);
        }
        let mut rng = self.draws.next_pass();
        // The indices in their plane of the maxima that are kept: those of chosen depths, rows and columns.
        let mut kept = vec![0];
        for (axis, &grid) in sparse.axes[first..].iter().zip(&grid) {
            let rows = rows(&mut rng, axis, grid);
            let of_rows =
                |&index: &u32| rows.iter().map(move |row| index * axis.input as u32 + row);
            kept = kept.iter().flat_map(of_rows).collect();
        }
        let planes: usize = xs.dims()[..xs.rank() - D].iter().product();
        gather(&peaks.reshape((planes, dense.output_cells()))?, &kept)?
            .reshape(geometry.output_shape(xs.shape()))
    }
}

/// How many windows with stride one the last window of `axis` needs.
fn windows_of_stride_one(axis: &Axis) -> u128 {
    let [n, k, s, p] = [axis.input, axis.kernel, axis.stride, axis.padding].map(|v| v as u128);
    let whole = (n + 2 * p + 1).saturating_sub(k);
    whole.max((axis.output as u128 - 1) * s + 1)
}

/// The windows of `stride` cells that down-sample the `dense` ones to the outputs of `axis`.
fn side_by_side(dense: usize, axis: &Axis) -> Axis {
    Axis {
        input: dense,
        output: axis.output,
        kernel: axis.stride,
        stride: axis.stride,
        padding: 0,
        adaptive: false,
    }
}

/// For each grid some of its rows, drawn without repetition, in order: as many as it has strides, begun ones included.
fn rows(rng: &mut ChaCha8Rng, axis: &Axis, grid: usize) -> Vec<u32> {
    let mut rows = Vec::with_capacity(axis.output);
    let mut start = 0;
    while rows.len() < axis.output {
        let cells = grid.min(axis.input - start);
        let wanted = cells.div_ceil(axis.stride);
        // Selection sampling (Knuth, TAOCP 2, 3.4.2, algorithm S): each row with the odds of those still to come.
        let mut left = wanted;
        for cell in 0..cells {
            if below(rng, cells - cell) < left {
                rows.push((start + cell) as u32);
                left -= 1;
            }
        }
        start += cells;
    }
    rows
}

/// A uniform number below `n`, by multiplication: its bias is below `n/2^64`.
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}
