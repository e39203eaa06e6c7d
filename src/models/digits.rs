//! A small convolutional network for handwritten digits: images of 28×28 pixels, as MNIST's.

use crate::{Pooling, PoolingMethod};
use candle_core::{Module, ModuleT, Result, Tensor};
use candle_nn::{batch_norm, conv2d_no_bias, linear, BatchNorm, Conv2d, Conv2dConfig};
use candle_nn::{Linear, VarBuilder};

/// Height and width of the images.
pub const SIZE: usize = 28;

/// Output channels of the convolution, kernel and stride of the pooling; 28 cells a side become 14, 7 and 3.
const STAGES: [(usize, usize, usize); 3] = [(8, 2, 2), (24, 2, 2), (48, 3, 2)];
/// Height and width after the last pooling.
const LAST: usize = 3;

/// Three times convolution 3×3, batch norm, ReLU and pooling; then one linear layer. A candle [`ModuleT`].
///
/// - Input: `(N, 1, 28, 28)`, ink from 0 (none) to 1, in the dtype of the variables.
/// - Output: logits `(N, classes)`.
/// - Variables, 17 thousand numbers: `stage1` to `stage3`, each `conv` and `norm` (and `pool` where the method has
///   variables), and `classifier`.
///
/// ```
/// use candle_core::{DType, Device, ModuleT, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use candle_softpool::{models::digits::Digits, PoolingMethod};
///
/// let variables = VarMap::new();
/// let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
/// let network = Digits::new(10, PoolingMethod::Soft, vb)?;
/// let images = Tensor::zeros((4, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// assert_eq!(network.forward_t(&images, false)?.dims(), [4, 10]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
///
/// `new`: a variable that `vb` lacks or holds in another shape. `forward_t`: an input of another shape.
#[derive(Clone, Debug)]
pub struct Digits {
    stages: Vec<Stage>,
    classifier: Linear,
}

impl Digits {
    /// The network with so many classes and this pooling in every stage; its variables come from `vb`.
    pub fn new(classes: usize, pooling: PoolingMethod, vb: VarBuilder) -> Result<Self> {
        let mut inputs = 1;
        let mut stages = vec![];
        for (i, (outputs, kernel, stride)) in STAGES.into_iter().enumerate() {
            let vb = vb.pp(format!("stage{}", i + 1));
            let padded = Conv2dConfig {
                padding: 1,
                ..Default::default()
            };
            stages.push(Stage {
                conv: conv2d_no_bias(inputs, outputs, 3, padded, vb.pp("conv"))?,
                norm: batch_norm(outputs, 1e-5, vb.pp("norm"))?,
                pool: pooling.learned(kernel, stride, 0, outputs, vb.pp("pool"))?,
            });
            inputs = outputs;
        }
        let classifier = linear(inputs * LAST * LAST, classes, vb.pp("classifier"))?;
        Ok(Self { stages, classifier })
    }
}

impl ModuleT for Digits {
    fn forward_t(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        if !matches!(images.dims(), [_, 1, SIZE, SIZE]) {
            candle_core::bail!(
                "Digits: input of shape {:?}, expected (N, 1, {SIZE}, {SIZE})",
                images.dims()
            )
        }
        let mut xs = images.clone();
        for stage in &self.stages {
            xs = stage.forward_t(&xs, train)?;
        }
        self.classifier.forward(&xs.flatten_from(1)?)
    }
}

#[derive(Clone, Debug)]
struct Stage {
    conv: Conv2d,
    norm: BatchNorm,
    pool: Pooling,
}

impl ModuleT for Stage {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let xs = xs.apply(&self.conv)?.apply_t(&self.norm, train)?.relu()?;
        xs.apply_t(&self.pool, train)
    }
}
