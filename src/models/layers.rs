//! What the families have in common.

use candle_core::{bail, DType, ModuleT, Result, Tensor};
use candle_nn::{batch_norm, BatchNorm, Conv2d, Conv2dConfig, Init, VarBuilder};

/// Convolution without bias, then batch norm.
pub(super) struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
    /// Zeros above and below, left and right; the convolution's own padding is the same on all sides.
    pad: Option<(usize, usize)>,
}

/// Kernel, stride and padding of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub kernel: (usize, usize),
    pub stride: usize,
    pub padding: (usize, usize),
}

impl Window {
    /// A square one that keeps the size, but for the stride.
    pub const fn same(kernel: usize, stride: usize) -> Self {
        Self {
            kernel: (kernel, kernel),
            stride,
            padding: (kernel / 2, kernel / 2),
        }
    }

    /// A square one without padding.
    pub const fn valid(kernel: usize, stride: usize) -> Self {
        Self {
            kernel: (kernel, kernel),
            stride,
            padding: (0, 0),
        }
    }

    /// One of any height and width that keeps the size.
    pub const fn oblong(height: usize, width: usize) -> Self {
        Self {
            kernel: (height, width),
            stride: 1,
            padding: (height / 2, width / 2),
        }
    }
}

impl ConvNorm {
    /// The variables are those of a convolution at `conv` and of a batch norm at `norm`.
    pub fn new(
        channels: (usize, usize),
        window: Window,
        groups: usize,
        eps: f64,
        conv: VarBuilder,
        norm: VarBuilder,
    ) -> Result<Self> {
        let (pad_h, pad_w) = window.padding;
        let (padding, pad) = match pad_h == pad_w {
            true => (pad_h, None),
            false => (0, Some(window.padding)),
        };
        let config = Conv2dConfig {
            padding,
            stride: window.stride,
            groups,
            ..Default::default()
        };
        Ok(Self {
            conv: conv2d(channels, window.kernel, config, conv)?,
            norm: batch_norm(channels.1, eps, norm)?,
            pad,
        })
    }
}

impl ModuleT for ConvNorm {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let ys = match self.pad {
            None => xs.apply(&self.conv)?,
            Some((h, w)) => xs
                .pad_with_zeros(2, h, h)?
                .pad_with_zeros(3, w, w)?
                .apply(&self.conv)?,
        };
        ys.apply_t(&self.norm, train)
    }
}

/// A convolution without bias whose kernel need not be square, as candle-nn's must.
pub(super) fn conv2d(
    (inputs, outputs): (usize, usize),
    (height, width): (usize, usize),
    config: Conv2dConfig,
    vb: VarBuilder,
) -> Result<Conv2d> {
    if config.groups == 0 {
        bail!("convolution in 0 groups, expected at least 1");
    }
    let shape = (outputs, inputs / config.groups, height, width);
    let weight = vb.get_with_hints(shape, "weight", candle_nn::init::DEFAULT_KAIMING_NORMAL)?;
    Ok(Conv2d::new(weight, None, config))
}

/// A linear layer, its first values scaled as PyTorch does: wide networks start with logits near zero.
pub(super) fn linear(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<candle_nn::Linear> {
    let bound = 1.0 / (inputs as f64).sqrt();
    let init = Init::Uniform {
        lo: -bound,
        up: bound,
    };
    let weight = vb.get_with_hints((outputs, inputs), "weight", init)?;
    let bias = vb.get_with_hints(outputs, "bias", init)?;
    Ok(candle_nn::Linear::new(weight, Some(bias)))
}

/// The average of every channel, `(N, C, H, W)` to `(N, C)`; half precision is summed in f32.
pub(super) fn global_average(xs: &Tensor) -> Result<Tensor> {
    let dtype = xs.dtype();
    let sums_in = match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    xs.to_dtype(sums_in)?
        .flatten_from(2)?
        .mean(2)?
        .to_dtype(dtype)
}

/// Images a network can take: `(N, 3, H, W)`, of at least this height and width.
pub(super) fn check_input(network: &str, xs: &Tensor, smallest: usize) -> Result<()> {
    match xs.dims() {
        [_, 3, height, width] if *height.min(width) >= smallest => Ok(()),
        dims => bail!(
            "{network}: input of shape {dims:?}, expected (N, 3, H, W) with H and W at least {smallest}"
        ),
    }
}
