//! The local attention of PlainUSR, also the block of the YOLO variants that copied it.

use super::interpolate::{bilinear2d, Axis};
use super::part::Part;
use crate::{Gradient, SoftPool2d};
use candle_core::{bail, Module, Result, Tensor};
use candle_nn::ops::sigmoid;
use candle_nn::{conv2d, Conv2d, Conv2dConfig, VarBuilder};

/// Height and width of the windows whose importance is sampled, and the least that an input must have.
pub(super) const WINDOW: usize = 7;
/// Steps of the windows, and of the convolution after them.
const STEPS: [usize; 2] = [3, 2];
const _: () = assert!(STEPS[0] * STEPS[1] == Part::STEP);
/// No output depends on an input farther away: on the last pixel of the last window of a cell beside those that it lies between.
pub(super) const REACH: usize = 23;

/// Local attention (Wang et al., ACCV 2024, [arXiv 2409.13435](https://arxiv.org/abs/2409.13435)): `x · importance · gate`.
///
/// The importance of each place and channel is a small map, grown bilinearly to the input's size: 1×1 convolution to a few
/// channels, SoftPool with windows of 7 at steps of 3, 3×3 convolutions, the first at steps of 2, sigmoid. The gate is the sigmoid of the input's
/// first channel.
///
/// - Input: `(N, C, H, W)`, H and W at least 7, in the variables' dtype.
/// - Output: the same shape.
/// - Gradient: the derivative, SoftPool's included ([`Gradient::Exact`]).
///
/// ```
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use candle_softpool::models::LocalAttention;
///
/// let variables = VarMap::new();
/// let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
/// let attention = LocalAttention::new(32, 16, vb)?;
/// let xs = Tensor::randn(0f32, 1., (1, 32, 20, 31), &Device::Cpu)?;
/// assert_eq!(attention.forward(&xs)?.dims(), [1, 32, 20, 31]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LocalAttention {
    squeeze: Conv2d,
    pool: SoftPool2d,
    shrink: Conv2d,
    expand: Conv2d,
    channels: usize,
}

impl LocalAttention {
    /// For so many channels, with `sampled` channels inside; the authors' names, `body.0`, `body.2` and `body.3`, come from `vb`.
    pub fn new(channels: usize, sampled: usize, vb: VarBuilder) -> Result<Self> {
        let vb = vb.pp("body");
        let same = Conv2dConfig {
            padding: 1,
            ..Default::default()
        };
        let halving = Conv2dConfig {
            stride: STEPS[1],
            ..same
        };
        Ok(Self {
            squeeze: conv2d(channels, sampled, 1, Default::default(), vb.pp(0))?,
            // The authors' formula by autograd.
            pool: SoftPool2d::new(WINDOW)
                .stride(STEPS[0])
                .gradient(Gradient::Exact),
            shrink: conv2d(sampled, sampled, 3, halving, vb.pp(2))?,
            expand: conv2d(sampled, channels, 3, same, vb.pp(3))?,
            channels,
        })
    }
}

impl LocalAttention {
    /// What a part of an input gives in the whole, [`REACH`] off the edges where it was cut.
    pub(super) fn forward_part(&self, xs: &Tensor, part: &Part) -> Result<Tensor> {
        let size = match *xs.dims() {
            [_, c, h, w] if c == self.channels && h.min(w) >= WINDOW => [h, w],
            _ => bail!(
                "LocalAttention: input of shape {:?}, expected (N, {}, H, W) with H and W at least {WINDOW}",
                xs.dims(),
                self.channels
            ),
        };
        let importance = xs
            .apply(&self.squeeze)?
            .apply(&self.pool)?
            .apply(&self.shrink)?
            .apply(&self.expand)?;
        let axes = [0, 1].map(|d| axis(part, d, size[d]));
        let importance = bilinear2d(&sigmoid(&importance)?, &axes)?;
        let gate = sigmoid(&xs.narrow(1, 0, 1)?)?;
        (xs * importance)?.broadcast_mul(&gate)
    }
}

impl Module for LocalAttention {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let whole = match *xs.dims() {
            [.., h, w] => [h, w],
            _ => [0; 2],
        };
        self.forward_part(xs, &Part::whole(whole))
    }
}

/// How the map of importance grows along dimension `d` of a part of this size.
fn axis(part: &Part, d: usize, size: usize) -> Axis {
    let (whole, start) = (part.whole[d], part.start[d]);
    Axis {
        cells: (whole - WINDOW) / Part::STEP + 1,
        pixels: whole,
        first: start / Part::STEP,
        wanted: start..start + size,
    }
}
