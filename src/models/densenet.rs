//! DenseNet (Huang, Liu, van der Maaten, Weinberger, CVPR 2017, [arXiv 1608.06993](https://arxiv.org/abs/1608.06993)),
//! as torchvision has it.

use super::layers::{check_input, conv2d, global_average, linear, ConvNorm, Window};
use super::{Layer, Network, Place, Pooling};
use crate::{AvgPool2d, MaxPool2d};
use candle_core::{Module, ModuleT, Result, Tensor};
use candle_nn::{batch_norm, BatchNorm, Conv2d, Conv2dConfig, Linear, VarBuilder};

/// What torchvision adds to a variance.
const EPS: f64 = 1e-5;
/// Channels of a layer's 1×1 convolution, in growth rates.
const NARROW: usize = 4;

/// What tells the variants apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Layers of each dense block.
    pub depths: [usize; 4],
    /// Channels after the stem.
    pub stem: usize,
    /// Channels that each layer adds.
    pub growth: usize,
}

impl Config {
    const fn new(depths: [usize; 4], stem: usize, growth: usize) -> Self {
        Self {
            depths,
            stem,
            growth,
        }
    }

    /// DenseNet-121.
    pub const DENSENET121: Self = Self::new([6, 12, 24, 16], 64, 32);
    /// DenseNet-161.
    pub const DENSENET161: Self = Self::new([6, 12, 36, 24], 96, 48);
    /// DenseNet-169.
    pub const DENSENET169: Self = Self::new([6, 12, 32, 32], 64, 32);
    /// DenseNet-201.
    pub const DENSENET201: Self = Self::new([6, 12, 48, 32], 64, 32);
}

/// A densely connected network. [`Network`] says what goes in and comes out.
///
/// Its one [`Place`] is the stem's: windows of 3, stride 2, padding 1 as torchvision has them, of 2 and stride 2 for
/// SoftPool. Both halve the size. The averages between the blocks stay, as in the SoftPool authors' networks.
///
/// ```
/// use candle_core::{DType, Device, ModuleT, Tensor};
/// use candle_nn::VarBuilder;
/// use candle_softpool::models::{densenet::{Config, DenseNet}, Network, Pooling};
///
/// let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
/// let config = Config { depths: [1, 1, 1, 1], ..Config::DENSENET121 };
/// let network = DenseNet::new(&config, 10, &Pooling::Soft, vb)?;
/// let images = Tensor::zeros((1, 3, 64, 64), DType::F32, &Device::Cpu)?;
/// assert_eq!(network.features_t(&images, false)?.dims(), [1, 64, 2, 2]);
/// assert_eq!(network.forward_t(&images, false)?.dims(), [1, 10]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub struct DenseNet {
    stem: ConvNorm,
    pool: Layer,
    blocks: Vec<Vec<DenseLayer>>,
    /// Between the blocks.
    transitions: Vec<NormConv>,
    norm: BatchNorm,
    classifier: Linear,
}

impl DenseNet {
    /// The network of this configuration; its variables, under torchvision's names, come from `vb`.
    pub fn new(config: &Config, classes: usize, pooling: &Pooling, vb: VarBuilder) -> Result<Self> {
        let root = vb;
        let vb = root.pp("features");
        let (channels, window) = ((3, config.stem), Window::same(7, 2));
        let stem = ConvNorm::new(channels, window, 1, EPS, vb.pp("conv0"), vb.pp("norm0"))?;
        let place = Place {
            kernel: 2,
            stride: 2,
            padding: 0,
            channels: config.stem,
            vb: vb.pp("pool0"),
        };
        let pool = pooling.layer(MaxPool2d::new(3).stride(2).padding(1), place)?;

        let (mut blocks, mut transitions) = (vec![], vec![]);
        let mut channels = config.stem;
        for (i, &depth) in config.depths.iter().enumerate() {
            if i > 0 {
                let vb = vb.pp(format!("transition{i}"));
                let halved = (channels, channels / 2);
                let (norm, conv) = (vb.pp("norm"), vb.pp("conv"));
                transitions.push(NormConv::new(halved, 1, norm, conv)?);
                channels /= 2;
            }
            let mut block = vec![];
            for j in 0..depth {
                let vb = vb.pp(format!("denseblock{}.denselayer{}", i + 1, j + 1));
                block.push(DenseLayer::new(channels, config.growth, vb)?);
                channels += config.growth;
            }
            blocks.push(block);
        }
        Ok(Self {
            stem,
            pool,
            blocks,
            transitions,
            norm: batch_norm(channels, EPS, vb.pp("norm5"))?,
            classifier: linear(channels, classes, root.pp("classifier"))?,
        })
    }
}

impl Network for DenseNet {
    fn features_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        check_input("DenseNet", xs, 1)?;
        let xs = xs.apply_t(&self.stem, train)?.relu()?;
        let mut xs = self.pool.forward_t(&xs, train)?;
        for (i, block) in self.blocks.iter().enumerate() {
            if i > 0 {
                xs = xs.apply_t(&self.transitions[i - 1], train)?;
                xs = AvgPool2d::new(2).forward(&xs)?;
            }
            for layer in block {
                xs = xs.apply_t(layer, train)?;
            }
        }
        xs.apply_t(&self.norm, train)?.relu()
    }

    fn classify_t(&self, features: &Tensor, _train: bool) -> Result<Tensor> {
        global_average(features)?.apply(&self.classifier)
    }
}

/// The input, and what two convolutions make of it, as further channels.
struct DenseLayer {
    narrow: NormConv,
    grow: NormConv,
}

impl DenseLayer {
    fn new(inputs: usize, growth: usize, vb: VarBuilder) -> Result<Self> {
        let narrow = NARROW * growth;
        Ok(Self {
            narrow: NormConv::new((inputs, narrow), 1, vb.pp("norm1"), vb.pp("conv1"))?,
            grow: NormConv::new((narrow, growth), 3, vb.pp("norm2"), vb.pp("conv2"))?,
        })
    }
}

impl ModuleT for DenseLayer {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let grown = xs
            .apply_t(&self.narrow, train)?
            .apply_t(&self.grow, train)?;
        Tensor::cat(&[xs, &grown], 1)
    }
}

/// Batch norm, ReLU, and a convolution without bias that keeps the size.
struct NormConv {
    norm: BatchNorm,
    conv: Conv2d,
}

impl NormConv {
    fn new(
        channels: (usize, usize),
        kernel: usize,
        norm: VarBuilder,
        conv: VarBuilder,
    ) -> Result<Self> {
        let config = Conv2dConfig {
            padding: kernel / 2,
            ..Default::default()
        };
        Ok(Self {
            norm: batch_norm(channels.0, EPS, norm)?,
            conv: conv2d(channels, (kernel, kernel), config, conv)?,
        })
    }
}

impl ModuleT for NormConv {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        xs.apply_t(&self.norm, train)?.relu()?.apply(&self.conv)
    }
}

super::logits_of_features!(DenseNet);
