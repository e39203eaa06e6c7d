//! PlainUSR (Wang, Cong, Zhao, Sun, ACCV 2024, [arXiv 2409.13435](https://arxiv.org/abs/2409.13435)): super-resolution with
//! SoftPool inside, and weights that anyone can download.

use super::layers::check_input;
use super::local_attention::{LocalAttention, REACH, WINDOW};
use super::Weights;
use candle_core::{bail, DType, Device, Module, Result, Tensor};
use candle_nn::ops::pixel_shuffle;
use candle_nn::{conv2d, Conv2d, Conv2dConfig, VarBuilder};
use std::path::Path;

pub use super::part::Part;

/// Red, green and blue.
const COLOURS: usize = 3;
/// Channels that a file may give, well above the authors' 80: files may repeat their numbers, and work grows with the square.
const MOST_CHANNELS: usize = 512;
/// What a negative activation is multiplied by.
const LEAK: f64 = 0.05;
/// Each block's name, and the part of [`Config::channels`] that it has.
const BLOCKS: [(&str, usize); 5] = [
    ("block1", 0),
    ("block2", 1),
    ("blockm", 2),
    ("block3", 1),
    ("block4", 0),
];

/// What tells the variants apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Channels of the outer, the inner and the middle block.
    pub channels: [usize; 3],
    /// Channels inside the attention.
    pub attention: usize,
    /// 3×3 convolutions of a block.
    pub convolutions: usize,
    /// How many times larger the output's height and width are.
    pub scale: usize,
}

impl Config {
    const fn new(channels: [usize; 3], attention: usize, convolutions: usize) -> Self {
        Self {
            channels,
            attention,
            convolutions,
            scale: 4,
        }
    }

    /// PlainUSR-S, four times larger.
    pub const S: Self = Self::new([32, 16, 8], 4, 2);
    /// PlainUSR-M, four times larger.
    pub const M: Self = Self::new([48, 32, 16], 8, 2);
    /// PlainUSR, four times larger.
    pub const BASE: Self = Self::new([64, 48, 32], 16, 2);
    /// PlainUSR-L, four times larger.
    pub const L: Self = Self::new([80, 64, 48], 16, 3);

    /// The variant that these weights are of; where one does not tell, [`Self::BASE`] does.
    ///
    /// # Errors
    ///
    /// One that names a convolution of more than 512 channels, and the last one if it does not give three colours of a square.
    pub fn of(weights: &Weights) -> Result<Self> {
        let outputs = |name: &str| {
            let shape = weights.shape(name);
            match shape.and_then(|shape| shape.dims().first()) {
                Some(&channels) if channels > MOST_CHANNELS => {
                    bail!("PlainUsr: {name} gives {channels} channels, expected at most {MOST_CHANNELS}")
                }
                channels => Ok(channels.copied()),
            }
        };
        let mut config = Self::BASE;
        // The inner blocks come in pairs: the check finds one that differs.
        for (block, part) in BLOCKS.into_iter().take(3) {
            if let Some(channels) = outputs(&format!("{block}.body.0.weight"))? {
                config.channels[part] = channels;
            }
        }
        config.convolutions = match outputs("block1.body.4.weight")? {
            Some(_) => Self::L.convolutions,
            None => Self::BASE.convolutions,
        };
        let attention = 2 * config.convolutions - 1;
        if let Some(channels) = outputs(&format!("block1.body.{attention}.body.0.weight"))? {
            config.attention = channels;
        }
        if let Some(channels) = outputs("tail.0.weight")? {
            config.scale = scale_of(channels)?;
        }
        Ok(config)
    }
}

fn scale_of(channels: usize) -> Result<usize> {
    let scale = (channels / COLOURS).isqrt();
    match scale > 0 && COLOURS * scale * scale == channels {
        true => Ok(scale),
        false => bail!("PlainUsr: tail.0.weight gives {channels} channels, expected 3·scale²"),
    }
}

/// PlainUSR, a candle [`Module`] that makes images larger.
///
/// - Input: `(N, 3, H, W)` in 0 to 1, H and W at least 7, in the variables' dtype.
/// - Output: `(N, 3, scale·H, scale·W)`; it may lie a little below 0 or above 1.
///
/// ```no_run
/// use candle_core::{DType, Device, Module, Tensor};
/// use candle_softpool::models::PlainUsr;
///
/// let network = PlainUsr::load("PlainUSR_Rep_x4.pth", DType::F32, &Device::Cpu)?;
/// let images = Tensor::zeros((1, 3, 120, 160), DType::F32, &Device::Cpu)?;
/// let large = network.forward(&images)?.clamp(0., 1.)?;
/// assert_eq!(large.dims(), [1, 3, 480, 640]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PlainUsr {
    head: Conv2d,
    blocks: Vec<Block>,
    tail: Conv2d,
    config: Config,
}

impl PlainUsr {
    /// The network of this configuration; its variables, under the authors' names, come from `vb`.
    ///
    /// # Errors
    ///
    /// One for sizes of 0, for inner blocks with more channels than the outer ones, and `vb`'s.
    pub fn new(config: &Config, vb: VarBuilder) -> Result<Self> {
        let [outer, ..] = config.channels;
        let fit = |&channels: &usize| 0 < channels && channels <= outer;
        if !config.channels.iter().all(fit) || config.convolutions == 0 || config.scale == 0 {
            bail!("PlainUsr: {config:?}, expected sizes above 0 and no block wider than the first");
        }
        // Sizes without end fit no tensor.
        let widest = outer.saturating_add(COLOURS);
        let outputs = COLOURS.saturating_mul(config.scale.saturating_mul(config.scale));
        let blocks = BLOCKS.map(|(name, part)| Block::new(config, part, vb.pp(name)));
        Ok(Self {
            head: conv3x3(COLOURS, widest, vb.pp("head"))?,
            blocks: blocks.into_iter().collect::<Result<_>>()?,
            tail: conv3x3(widest, outputs, vb.pp("tail").pp(0))?,
            config: *config,
        })
    }

    /// The network with the authors' weights, in this dtype on this device: any of S, M, PlainUSR and L, ×2 and ×4.
    ///
    /// # Errors
    ///
    /// Those of [`Weights::open`], and one that lists every tensor that does not fit.
    pub fn load(path: impl AsRef<Path>, dtype: DType, device: &Device) -> Result<Self> {
        let weights = Weights::open(path)?;
        let config = Config::of(&weights)?;
        weights.build(dtype, device, |vb| Self::new(&config, vb))
    }

    /// What tells this network from its variants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many times larger the output's height and width are.
    pub fn scale(&self) -> usize {
        self.config.scale
    }

    /// No output pixel depends on an input pixel farther from its own place.
    pub fn reach(&self) -> usize {
        // Of head and tail, then of each block.
        2 + self.blocks.len() * (self.config.convolutions + REACH)
    }

    /// What a part of an image becomes in the whole: so large images go through the network piece by piece.
    ///
    /// Where the part was cut out, its output is the whole image's from [`Self::reach`] input pixels off the edge on,
    /// but for rounding, and close to it much sooner.
    ///
    /// ```no_run
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_softpool::models::{plain_usr::Part, PlainUsr};
    /// # let network = PlainUsr::load("PlainUSR_Rep_x4.pth", DType::F32, &Device::Cpu)?;
    /// let image = Tensor::zeros((1, 3, 3000, 4000), DType::F32, &Device::Cpu)?;
    /// let part = Part { whole: [3000, 4000], start: [600, 1200] };
    /// let large = network.forward_part(&image.narrow(2, 600, 300)?.narrow(3, 1200, 300)?, part)?;
    /// assert_eq!(large.dims(), [1, 3, 1200, 1200]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// One for an image that is no input of this network, or no part of that whole.
    pub fn forward_part(&self, xs: &Tensor, part: Part) -> Result<Tensor> {
        check_input("PlainUsr", xs, WINDOW)?;
        part.check([xs.dim(2)?, xs.dim(3)?])?;
        let mut xs = xs.apply(&self.head)?;
        for block in &self.blocks {
            xs = block.forward_part(&xs, &part)?;
        }
        pixel_shuffle(&xs.apply(&self.tail)?, self.config.scale)
    }
}

impl Module for PlainUsr {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        check_input("PlainUsr", xs, WINDOW)?;
        self.forward_part(xs, Part::whole([xs.dim(2)?, xs.dim(3)?]))
    }
}

/// Convolutions and attention on the first channels; the others pass.
#[derive(Clone, Debug)]
struct Block {
    convolutions: Vec<Conv2d>,
    attention: LocalAttention,
    channels: usize,
}

impl Block {
    fn new(config: &Config, part: usize, vb: VarBuilder) -> Result<Self> {
        let vb = vb.pp("body");
        let channels = config.channels[part];
        // Each activation takes a number too.
        let convolutions =
            (0..config.convolutions).map(|i| conv3x3(channels, channels, vb.pp(2 * i)));
        let attention = vb.pp(2 * config.convolutions - 1);
        Ok(Self {
            convolutions: convolutions.collect::<Result<_>>()?,
            attention: LocalAttention::new(channels, config.attention, attention)?,
            channels,
        })
    }

    fn forward_part(&self, xs: &Tensor, part: &Part) -> Result<Tensor> {
        let passed = xs.dim(1)? - self.channels;
        let mut ys = xs.narrow(1, 0, self.channels)?;
        for (i, convolution) in self.convolutions.iter().enumerate() {
            if i > 0 {
                ys = ys.maximum(&(&ys * LEAK)?)?;
            }
            ys = ys.apply(convolution)?;
        }
        let ys = self.attention.forward_part(&ys, part)?;
        Tensor::cat(&[ys, xs.narrow(1, self.channels, passed)?], 1)
    }
}

fn conv3x3(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<Conv2d> {
    let same = Conv2dConfig {
        padding: 1,
        ..Default::default()
    };
    conv2d(inputs, outputs, 3, same, vb)
}
