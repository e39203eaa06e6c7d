//! Inception v3 (Szegedy et al., CVPR 2016, [arXiv 1512.00567](https://arxiv.org/abs/1512.00567)), as torchvision has it.

use super::layers::{check_input, global_average, linear, ConvNorm, Window};
use super::{Layer, Network, Place, Pooling};
use crate::{AvgPool2d, MaxPool2d};
use candle_core::{bail, ModuleT, Result, Tensor};
use candle_nn::{Dropout, Linear, VarBuilder};

/// What torchvision adds to a variance.
const EPS: f64 = 1e-3;
/// Below this height or width there is nothing left of an image at the end.
const SMALLEST: usize = 75;
/// Share of the features that training leaves out before the last layer.
const DROPOUT: f32 = 0.5;
/// Channels, height and width that the auxiliary head wants, what images of 299×299 give it.
const AUX_INPUT: (usize, usize) = (768, 17);

/// Inception v3. [`Network`] says what goes in and comes out; images are 299×299, and at least 75×75.
///
/// Its [`Place`]s: windows of 3, stride 2 in the stem and in the two reductions (maxima by itself); of 3, stride 1,
/// padding 1 in the branches of the other blocks (averages by itself); of 5, stride 3 in the auxiliary head (averages).
///
/// The auxiliary head serves training alone, and not every file of weights has it: [`Self::new`] builds it where `vb`
/// holds its variables, [`Self::with_aux`] always.
///
/// torchvision's `transform_input` is left to the preprocessing: `Model::mean` and `Model::std` are what the published
/// weights want.
///
/// ```
/// use candle_core::{DType, Device, ModuleT, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use candle_softpool::models::{inception::InceptionV3, Network, Pooling};
///
/// let variables = VarMap::new();
/// let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
/// let network = InceptionV3::new(10, &Pooling::Soft, vb)?;
/// let images = Tensor::zeros((1, 3, 75, 75), DType::F32, &Device::Cpu)?;
/// let features = network.features_t(&images, false)?;
/// assert_eq!(features.dims(), [1, 2048, 1, 1]);
/// assert_eq!(network.classify_t(&features, false)?.dims(), [1, 10]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub struct InceptionV3 {
    /// To where the auxiliary head joins, and from there.
    blocks: [Vec<Mixed>; 2],
    aux: Option<Aux>,
    dropout: Dropout,
    classifier: Linear,
}

impl InceptionV3 {
    /// The network, its variables, under torchvision's names, from `vb`; with an auxiliary head if they have one.
    pub fn new(classes: usize, pooling: &Pooling, vb: VarBuilder) -> Result<Self> {
        let aux = vb.contains_tensor("AuxLogits.fc.weight");
        Self::build(classes, pooling, aux, vb)
    }

    /// The network with its auxiliary head.
    pub fn with_aux(classes: usize, pooling: &Pooling, vb: VarBuilder) -> Result<Self> {
        Self::build(classes, pooling, true, vb)
    }

    fn build(classes: usize, pooling: &Pooling, aux: bool, vb: VarBuilder) -> Result<Self> {
        let mut channels = 3;
        let mut chain = |blocks: Vec<(&str, Block)>| {
            let mut mixed = vec![];
            for (name, block) in blocks {
                let vb = match name {
                    "" => vb.clone(),
                    name => vb.pp(name),
                };
                let block = Mixed::new(channels, block, pooling, vb)?;
                channels = block.outputs;
                mixed.push(block);
            }
            Ok::<_, candle_core::Error>(mixed)
        };
        let blocks = [
            chain(vec![
                ("", stem()),
                ("Mixed_5b", square(32)),
                ("Mixed_5c", square(64)),
                ("Mixed_5d", square(64)),
                ("Mixed_6a", first_reduction()),
                ("Mixed_6b", oblong(128)),
                ("Mixed_6c", oblong(160)),
                ("Mixed_6d", oblong(160)),
                ("Mixed_6e", oblong(192)),
            ])?,
            chain(vec![
                ("Mixed_7a", second_reduction()),
                ("Mixed_7b", wide()),
                ("Mixed_7c", wide()),
            ])?,
        ];
        let aux = match aux {
            false => None,
            true => Some(Aux::new(classes, pooling, vb.pp("AuxLogits"))?),
        };
        Ok(Self {
            blocks,
            aux,
            dropout: Dropout::new(DROPOUT),
            classifier: linear(channels, classes, vb.pp("fc"))?,
        })
    }

    /// Logits, and the auxiliary head's where there is one; both `(N, classes)`. torchvision weighs its loss by 0.4.
    ///
    /// # Errors
    ///
    /// An image other than `(N, 3, H, W)`, or too small: the auxiliary head wants 299×299.
    pub fn forward_with_aux(&self, xs: &Tensor, train: bool) -> Result<(Tensor, Option<Tensor>)> {
        let middle = self.middle(xs, train)?;
        let aux = match &self.aux {
            None => None,
            Some(aux) => Some(aux.forward_t(&middle, train)?),
        };
        let features = run(&self.blocks[1], middle, train)?;
        Ok((self.classify_t(&features, train)?, aux))
    }

    fn middle(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        check_input("InceptionV3", xs, SMALLEST)?;
        run(&self.blocks[0], xs.clone(), train)
    }
}

impl Network for InceptionV3 {
    fn features_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        run(&self.blocks[1], self.middle(xs, train)?, train)
    }

    fn classify_t(&self, features: &Tensor, train: bool) -> Result<Tensor> {
        global_average(features)?
            .apply_t(&self.dropout, train)?
            .apply(&self.classifier)
    }
}

fn run(blocks: &[Mixed], mut xs: Tensor, train: bool) -> Result<Tensor> {
    for block in blocks {
        xs = xs.apply_t(block, train)?;
    }
    Ok(xs)
}

/// The branches of a block, side by side.
type Block = Vec<Vec<Step>>;

/// A step of a branch: the name under which its variables are, and for a convolution its channels.
enum Step {
    Conv(&'static str, usize, Window),
    /// Two convolutions of the same, named `…a` and `…b`, of 1×3 and of 3×1.
    Split(&'static str, usize),
    /// Pooling that keeps the size, an average by itself.
    Keep(&'static str),
    /// Pooling that halves the size, a maximum by itself.
    Halve(&'static str),
}
use Step::{Conv, Halve, Keep, Split};

const ONE: Window = Window::same(1, 1);
const THREE: Window = Window::same(3, 1);
const ROW: Window = Window::oblong(1, 7);
const COLUMN: Window = Window::oblong(7, 1);

fn stem() -> Block {
    vec![vec![
        Conv("Conv2d_1a_3x3", 32, Window::valid(3, 2)),
        Conv("Conv2d_2a_3x3", 32, Window::valid(3, 1)),
        Conv("Conv2d_2b_3x3", 64, THREE),
        Halve("maxpool1"),
        Conv("Conv2d_3b_1x1", 80, ONE),
        Conv("Conv2d_4a_3x3", 192, Window::valid(3, 1)),
        Halve("maxpool2"),
    ]]
}

fn square(pooled: usize) -> Block {
    vec![
        vec![Conv("branch1x1", 64, ONE)],
        vec![
            Conv("branch5x5_1", 48, ONE),
            Conv("branch5x5_2", 64, Window::same(5, 1)),
        ],
        vec![
            Conv("branch3x3dbl_1", 64, ONE),
            Conv("branch3x3dbl_2", 96, THREE),
            Conv("branch3x3dbl_3", 96, THREE),
        ],
        vec![Keep("pool"), Conv("branch_pool", pooled, ONE)],
    ]
}

fn first_reduction() -> Block {
    vec![
        vec![Conv("branch3x3", 384, Window::valid(3, 2))],
        vec![
            Conv("branch3x3dbl_1", 64, ONE),
            Conv("branch3x3dbl_2", 96, THREE),
            Conv("branch3x3dbl_3", 96, Window::valid(3, 2)),
        ],
        vec![Halve("pool")],
    ]
}

fn oblong(narrow: usize) -> Block {
    vec![
        vec![Conv("branch1x1", 192, ONE)],
        vec![
            Conv("branch7x7_1", narrow, ONE),
            Conv("branch7x7_2", narrow, ROW),
            Conv("branch7x7_3", 192, COLUMN),
        ],
        vec![
            Conv("branch7x7dbl_1", narrow, ONE),
            Conv("branch7x7dbl_2", narrow, COLUMN),
            Conv("branch7x7dbl_3", narrow, ROW),
            Conv("branch7x7dbl_4", narrow, COLUMN),
            Conv("branch7x7dbl_5", 192, ROW),
        ],
        vec![Keep("pool"), Conv("branch_pool", 192, ONE)],
    ]
}

fn second_reduction() -> Block {
    vec![
        vec![
            Conv("branch3x3_1", 192, ONE),
            Conv("branch3x3_2", 320, Window::valid(3, 2)),
        ],
        vec![
            Conv("branch7x7x3_1", 192, ONE),
            Conv("branch7x7x3_2", 192, ROW),
            Conv("branch7x7x3_3", 192, COLUMN),
            Conv("branch7x7x3_4", 192, Window::valid(3, 2)),
        ],
        vec![Halve("pool")],
    ]
}

fn wide() -> Block {
    vec![
        vec![Conv("branch1x1", 320, ONE)],
        vec![Conv("branch3x3_1", 384, ONE), Split("branch3x3_2", 384)],
        vec![
            Conv("branch3x3dbl_1", 448, ONE),
            Conv("branch3x3dbl_2", 384, THREE),
            Split("branch3x3dbl_3", 384),
        ],
        vec![Keep("pool"), Conv("branch_pool", 192, ONE)],
    ]
}

/// Branches over the same input, their outputs stacked as channels.
struct Mixed {
    branches: Vec<Vec<Unit>>,
    outputs: usize,
}

/// What a [`Step`] becomes.
enum Unit {
    Convs(Vec<ConvNorm>),
    Pool(Layer),
}

impl Mixed {
    fn new(inputs: usize, block: Block, pooling: &Pooling, vb: VarBuilder) -> Result<Self> {
        let mut branches = vec![];
        let mut outputs = 0;
        for steps in block {
            let mut channels = inputs;
            let mut units = vec![];
            for step in steps {
                let (unit, next) = Unit::new(channels, step, pooling, &vb)?;
                units.push(unit);
                channels = next;
            }
            branches.push(units);
            outputs += channels;
        }
        Ok(Self { branches, outputs })
    }
}

impl ModuleT for Mixed {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let mut branches = vec![];
        for units in &self.branches {
            let mut ys = xs.clone();
            for unit in units {
                ys = ys.apply_t(unit, train)?;
            }
            branches.push(ys);
        }
        Tensor::cat(&branches, 1)
    }
}

impl Unit {
    /// The unit and its output's channels.
    fn new(inputs: usize, step: Step, pooling: &Pooling, vb: &VarBuilder) -> Result<(Self, usize)> {
        let place = |stride, padding, name| Place {
            kernel: 3,
            stride,
            padding,
            channels: inputs,
            vb: vb.pp(name),
        };
        Ok(match step {
            Conv(name, outputs, window) => {
                let conv = basic(inputs, outputs, window, vb.pp(name))?;
                (Self::Convs(vec![conv]), outputs)
            }
            Split(name, outputs) => {
                let part = |suffix: &str, window| {
                    basic(inputs, outputs, window, vb.pp(format!("{name}{suffix}")))
                };
                let parts = vec![
                    part("a", Window::oblong(1, 3))?,
                    part("b", Window::oblong(3, 1))?,
                ];
                (Self::Convs(parts), 2 * outputs)
            }
            Keep(name) => {
                let average = AvgPool2d::new(3).stride(1).padding(1);
                (
                    Self::Pool(pooling.layer(average, place(1, 1, name))?),
                    inputs,
                )
            }
            Halve(name) => {
                let maximum = MaxPool2d::new(3).stride(2);
                (
                    Self::Pool(pooling.layer(maximum, place(2, 0, name))?),
                    inputs,
                )
            }
        })
    }
}

impl ModuleT for Unit {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Self::Pool(pool) => pool.forward_t(xs, train),
            Self::Convs(convs) => {
                let ys = convs.iter().map(|conv| xs.apply_t(conv, train)?.relu());
                Tensor::cat(&ys.collect::<Result<Vec<_>>>()?, 1)
            }
        }
    }
}

/// The convolution and batch norm that all of the network consists of.
fn basic(inputs: usize, outputs: usize, window: Window, vb: VarBuilder) -> Result<ConvNorm> {
    let channels = (inputs, outputs);
    ConvNorm::new(channels, window, 1, EPS, vb.pp("conv"), vb.pp("bn"))
}

/// The classifier that joins in the middle of the network, for its gradients.
struct Aux {
    pool: Layer,
    convs: [ConvNorm; 2],
    classifier: Linear,
}

impl Aux {
    fn new(classes: usize, pooling: &Pooling, vb: VarBuilder) -> Result<Self> {
        let place = Place {
            kernel: 5,
            stride: 3,
            padding: 0,
            channels: AUX_INPUT.0,
            vb: vb.pp("pool"),
        };
        Ok(Self {
            pool: pooling.layer(AvgPool2d::new(5).stride(3), place)?,
            convs: [
                basic(AUX_INPUT.0, 128, ONE, vb.pp("conv0"))?,
                basic(128, 768, Window::valid(5, 1), vb.pp("conv1"))?,
            ],
            classifier: linear(768, classes, vb.pp("fc"))?,
        })
    }
}

impl ModuleT for Aux {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let (_, _, height, width) = xs.dims4()?;
        if height.min(width) < AUX_INPUT.1 {
            bail!("InceptionV3: the auxiliary head wants images of at least 299×299 pixels");
        }
        let mut xs = self.pool.forward_t(xs, train)?;
        for conv in &self.convs {
            xs = xs.apply_t(conv, train)?.relu()?;
        }
        global_average(&xs)?.apply(&self.classifier)
    }
}

super::logits_of_features!(InceptionV3);
