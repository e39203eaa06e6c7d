//! ResNet (He, Zhang, Ren, Sun, CVPR 2016, [arXiv 1512.03385](https://arxiv.org/abs/1512.03385)), ResNeXt (Xie et al.,
//! CVPR 2017, [arXiv 1611.05431](https://arxiv.org/abs/1611.05431)) and wide ResNet (Zagoruyko, Komodakis, BMVC 2016,
//! [arXiv 1605.07146](https://arxiv.org/abs/1605.07146)), as torchvision has them.

use super::layers::{check_input, global_average, linear, ConvNorm, Window};
use super::{Layer, Network, Place, Pooling};
use crate::MaxPool2d;
use candle_core::{bail, ModuleT, Result, Tensor};
use candle_nn::{Linear, VarBuilder};

/// Channels after the stem, and of the first stage's blocks.
const STEM: usize = 64;
/// What torchvision adds to a variance.
const EPS: f64 = 1e-5;

/// What tells the variants apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Blocks of each stage.
    pub depths: [usize; 4],
    /// Whether a block is 1×1, 3×3, 1×1 with four times the channels at its end, or else 3×3, 3×3.
    pub bottleneck: bool,
    /// Groups of the 3×3 convolutions of bottlenecks; basic blocks have one.
    pub groups: usize,
    /// Channels of a group in the first stage; 64 in basic blocks.
    pub width: usize,
}

impl Config {
    const fn basic(depths: [usize; 4]) -> Self {
        Self {
            depths,
            bottleneck: false,
            groups: 1,
            width: STEM,
        }
    }

    const fn bottleneck(depths: [usize; 4], groups: usize, width: usize) -> Self {
        Self {
            depths,
            bottleneck: true,
            groups,
            width,
        }
    }

    /// ResNet-18.
    pub const RESNET18: Self = Self::basic([2, 2, 2, 2]);
    /// ResNet-34.
    pub const RESNET34: Self = Self::basic([3, 4, 6, 3]);
    /// ResNet-50.
    pub const RESNET50: Self = Self::bottleneck([3, 4, 6, 3], 1, STEM);
    /// ResNet-101.
    pub const RESNET101: Self = Self::bottleneck([3, 4, 23, 3], 1, STEM);
    /// ResNet-152.
    pub const RESNET152: Self = Self::bottleneck([3, 8, 36, 3], 1, STEM);
    /// ResNet-200, which torchvision lacks.
    pub const RESNET200: Self = Self::bottleneck([3, 24, 36, 3], 1, STEM);
    /// ResNeXt-50, 32 groups of 4.
    pub const RESNEXT50_32X4D: Self = Self::bottleneck([3, 4, 6, 3], 32, 4);
    /// ResNeXt-101, 32 groups of 4, which torchvision lacks.
    pub const RESNEXT101_32X4D: Self = Self::bottleneck([3, 4, 23, 3], 32, 4);
    /// ResNeXt-101, 32 groups of 8.
    pub const RESNEXT101_32X8D: Self = Self::bottleneck([3, 4, 23, 3], 32, 8);
    /// ResNeXt-101, 64 groups of 4.
    pub const RESNEXT101_64X4D: Self = Self::bottleneck([3, 4, 23, 3], 64, 4);
    /// ResNet-50, its 3×3 convolutions twice as wide.
    pub const WIDE_RESNET50_2: Self = Self::bottleneck([3, 4, 6, 3], 1, 2 * STEM);
    /// ResNet-101, its 3×3 convolutions twice as wide.
    pub const WIDE_RESNET101_2: Self = Self::bottleneck([3, 4, 23, 3], 1, 2 * STEM);
}

/// A residual network. [`Network`] says what goes in and comes out.
///
/// Its one [`Place`] is the stem's: windows of 3, stride 2, padding 1 as torchvision has them, of 2 and stride 2 for
/// SoftPool. Both halve the size.
///
/// ```
/// use candle_core::{DType, Device, ModuleT, Tensor};
/// use candle_nn::VarBuilder;
/// use candle_softpool::models::{resnet::{Config, ResNet}, Network, Pooling};
///
/// let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
/// let config = Config { depths: [1, 1, 1, 1], ..Config::RESNET18 };
/// let network = ResNet::new(&config, 10, &Pooling::Soft, vb)?;
/// let images = Tensor::zeros((1, 3, 64, 64), DType::F32, &Device::Cpu)?;
/// assert_eq!(network.features_t(&images, false)?.dims(), [1, 512, 2, 2]);
/// assert_eq!(network.forward_t(&images, false)?.dims(), [1, 10]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub struct ResNet {
    stem: ConvNorm,
    pool: Layer,
    blocks: Vec<Block>,
    classifier: Linear,
}

impl ResNet {
    /// The network of this configuration; its variables, under torchvision's names, come from `vb`.
    ///
    /// # Errors
    ///
    /// One for basic blocks of other groups or widths than torchvision's, and `vb`'s.
    pub fn new(config: &Config, classes: usize, pooling: &Pooling, vb: VarBuilder) -> Result<Self> {
        if !config.bottleneck && (config.groups, config.width) != (1, STEM) {
            bail!("ResNet: {config:?} of basic blocks, expected one group of {STEM} channels");
        }
        let stem = Window::same(7, 2);
        let stem = ConvNorm::new((3, STEM), stem, 1, EPS, vb.pp("conv1"), vb.pp("bn1"))?;
        let place = Place {
            kernel: 2,
            stride: 2,
            padding: 0,
            channels: STEM,
            vb: vb.pp("maxpool"),
        };
        let pool = pooling.layer(MaxPool2d::new(3).stride(2).padding(1), place)?;

        let mut blocks = vec![];
        let mut inputs = STEM;
        for (stage, &depth) in config.depths.iter().enumerate() {
            let vb = vb.pp(format!("layer{}", stage + 1));
            for i in 0..depth {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let block = Block::new(config, inputs, stage, stride, vb.pp(i))?;
                inputs = block.outputs;
                blocks.push(block);
            }
        }
        Ok(Self {
            stem,
            pool,
            blocks,
            classifier: linear(inputs, classes, vb.pp("fc"))?,
        })
    }
}

impl Network for ResNet {
    fn features_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        check_input("ResNet", xs, 1)?;
        let xs = xs.apply_t(&self.stem, train)?.relu()?;
        let mut xs = self.pool.forward_t(&xs, train)?;
        for block in &self.blocks {
            xs = xs.apply_t(block, train)?;
        }
        Ok(xs)
    }

    fn classify_t(&self, features: &Tensor, _train: bool) -> Result<Tensor> {
        global_average(features)?.apply(&self.classifier)
    }
}

/// Convolutions, and the input added to what they give.
struct Block {
    convs: Vec<ConvNorm>,
    /// Brings the input to the output's shape where they differ.
    shortcut: Option<ConvNorm>,
    outputs: usize,
}

impl Block {
    fn new(
        config: &Config,
        inputs: usize,
        stage: usize,
        stride: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let width = config.groups * (config.width << stage);
        // Channels, window and groups of each convolution.
        let (outputs, convs) = match config.bottleneck {
            true => {
                let outputs = 4 * (STEM << stage);
                let convs = vec![
                    ((inputs, width), Window::same(1, 1), 1),
                    ((width, width), Window::same(3, stride), config.groups),
                    ((width, outputs), Window::same(1, 1), 1),
                ];
                (outputs, convs)
            }
            false => {
                let convs = vec![
                    ((inputs, width), Window::same(3, stride), 1),
                    ((width, width), Window::same(3, 1), 1),
                ];
                (width, convs)
            }
        };
        let convs = convs.into_iter().enumerate().map(|(i, conv)| {
            let (channels, window, groups) = conv;
            let (conv, norm) = (format!("conv{}", i + 1), format!("bn{}", i + 1));
            ConvNorm::new(channels, window, groups, EPS, vb.pp(conv), vb.pp(norm))
        });
        let convs = convs.collect::<Result<_>>()?;
        let shortcut = match stride > 1 || inputs != outputs {
            false => None,
            true => {
                let window = Window::same(1, stride);
                let vb = vb.pp("downsample");
                let channels = (inputs, outputs);
                Some(ConvNorm::new(channels, window, 1, EPS, vb.pp(0), vb.pp(1))?)
            }
        };
        Ok(Self {
            convs,
            shortcut,
            outputs,
        })
    }
}

impl ModuleT for Block {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let mut ys = xs.clone();
        for (i, conv) in self.convs.iter().enumerate() {
            if i > 0 {
                ys = ys.relu()?;
            }
            ys = ys.apply_t(conv, train)?;
        }
        let xs = match &self.shortcut {
            None => xs.clone(),
            Some(shortcut) => xs.apply_t(shortcut, train)?,
        };
        (ys + xs)?.relu()
    }
}

super::logits_of_features!(ResNet);
