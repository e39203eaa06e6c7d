//! Networks with a choice of pooling, and reading their weights.
//!
//! [`Model`] names the networks of the paper, [`Pooling`] what pools in them, [`Weights`] reads what is published.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{VarBuilder, VarMap};
//! use candle_softpool::models::{Model, Pooling};
//!
//! let model: Model = "resnet18".parse()?;
//! let variables = VarMap::new();
//! let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
//! let network = model.build(10, &Pooling::Soft, vb)?;
//! let images = Tensor::zeros((1, 3, 64, 64), DType::F32, &Device::Cpu)?;
//! assert_eq!(network.forward_t(&images, false)?.dims(), [1, 10]);
//! # Ok::<(), candle_core::Error>(())
//! ```

pub mod densenet;
pub mod digits;
pub mod inception;
mod interpolate;
mod layers;
mod local_attention;
mod part;
pub mod plain_usr;
mod pooling;
pub mod resnet;
pub mod weights;

pub use local_attention::LocalAttention;
pub use plain_usr::PlainUsr;
pub use pooling::{Layer, Place, Pooling};
pub use weights::Weights;

use candle_core::{bail, DType, Device, Error, ModuleT, Result, Tensor};
use candle_nn::VarBuilder;
use densenet::{Config as D, DenseNet};
use inception::InceptionV3;
use resnet::{Config as R, ResNet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A network for images: a candle [`ModuleT`] whose output is the logits, and its two halves.
///
/// - Input: `(N, 3, H, W)`, normalised as the weights want it, in the variables' dtype.
/// - Logits: `(N, classes)`.
/// - `train` true: batch norm by the batch's own statistics, and dropout where the network has it.
///
/// An input of another shape is an error that names the network; one that is too small, of the layer that it is too small for.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::VarBuilder;
/// use candle_softpool::models::{Model, Pooling};
///
/// let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
/// let network = Model::ResNet18.build(10, &Pooling::Soft, vb)?;
/// let images = Tensor::zeros((2, 3, 64, 64), DType::F32, &Device::Cpu)?;
/// let features = network.features_t(&images, false)?;
/// let embeddings = features.mean((2, 3))?;
/// assert_eq!(embeddings.dims(), [2, 512]);
/// assert_eq!(network.classify_t(&features, false)?.dims(), [2, 10]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub trait Network: ModuleT + fmt::Debug + Send + Sync {
    /// The last feature map `(N, C, h, w)`; its mean over h and w is an image's embedding.
    fn features_t(&self, xs: &Tensor, train: bool) -> Result<Tensor>;

    /// Logits from that map.
    fn classify_t(&self, features: &Tensor, train: bool) -> Result<Tensor>;
}

/// Any network by reference: what `apply_t` takes, which wants a sized type.
impl ModuleT for Box<dyn Network> {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        self.as_ref().forward_t(xs, train)
    }
}

/// A network's logits are its classification of its features; of its many layers, some the user's, [`fmt::Debug`] says nothing.
macro_rules! logits_of_features {
    ($network:ty) => {
        impl std::fmt::Debug for $network {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let name = stringify!($network);
                f.debug_struct(name).finish_non_exhaustive()
            }
        }

        impl candle_core::ModuleT for $network {
            fn forward_t(
                &self,
                xs: &candle_core::Tensor,
                train: bool,
            ) -> candle_core::Result<candle_core::Tensor> {
                use $crate::models::Network;
                self.classify_t(&self.features_t(xs, train)?, train)
            }
        }
    };
}
use logits_of_features;

/// Names each network, as a command line takes it, and builds it.
macro_rules! models {
    ($($(#[$doc:meta])+ $model:ident $name:literal $build:expr,)+) => {
        /// A network by name, torchvision's and timm's; [`Self::build`] makes it, [`Self::load`] with weights of a file.
        ///
        /// ```
        /// use candle_softpool::models::Model;
        ///
        /// let model: Model = "resnet50".parse()?;
        /// assert_eq!(model, Model::ResNet50);
        /// assert_eq!((model.name(), model.input_size()), ("resnet50", 224));
        /// assert!("resnet".parse::<Model>().unwrap_err().to_string().contains("resnet18, resnet34"));
        /// # Ok::<(), candle_core::Error>(())
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Model {
            $($(#[$doc])+ $model,)+
        }

        impl Model {
            /// All of them, in the order in which they are listed to users.
            pub const ALL: &'static [Self] = &[$(Self::$model),+];

            /// The name that [`FromStr`] reads and [`fmt::Display`] writes.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$model => $name,)+
                }
            }

            /// The network with so many classes, its variables from `vb`, under torchvision's names.
            ///
            /// # Errors
            ///
            /// `vb`'s: a tensor that it lacks or holds in another shape.
            pub fn build(self, classes: usize, pooling: &Pooling, vb: VarBuilder) -> Result<Box<dyn Network>> {
                match self {
                    $(Self::$model => $build(classes, pooling, vb),)+
                }
            }
        }
    };
}

models! {
    /// ResNet-18.
    ResNet18 "resnet18" resnet(&R::RESNET18),
    /// ResNet-34.
    ResNet34 "resnet34" resnet(&R::RESNET34),
    /// ResNet-50.
    ResNet50 "resnet50" resnet(&R::RESNET50),
    /// ResNet-101.
    ResNet101 "resnet101" resnet(&R::RESNET101),
    /// ResNet-152.
    ResNet152 "resnet152" resnet(&R::RESNET152),
    /// ResNet-200.
    ResNet200 "resnet200" resnet(&R::RESNET200),
    /// ResNeXt-50, 32 groups of 4.
    ResNeXt50_32x4d "resnext50_32x4d" resnet(&R::RESNEXT50_32X4D),
    /// ResNeXt-101, 32 groups of 4.
    ResNeXt101_32x4d "resnext101_32x4d" resnet(&R::RESNEXT101_32X4D),
    /// ResNeXt-101, 32 groups of 8.
    ResNeXt101_32x8d "resnext101_32x8d" resnet(&R::RESNEXT101_32X8D),
    /// ResNeXt-101, 64 groups of 4.
    ResNeXt101_64x4d "resnext101_64x4d" resnet(&R::RESNEXT101_64X4D),
    /// Wide ResNet-50.
    WideResNet50_2 "wide_resnet50_2" resnet(&R::WIDE_RESNET50_2),
    /// Wide ResNet-101.
    WideResNet101_2 "wide_resnet101_2" resnet(&R::WIDE_RESNET101_2),
    /// DenseNet-121.
    DenseNet121 "densenet121" densenet(&D::DENSENET121),
    /// DenseNet-161.
    DenseNet161 "densenet161" densenet(&D::DENSENET161),
    /// DenseNet-169.
    DenseNet169 "densenet169" densenet(&D::DENSENET169),
    /// DenseNet-201.
    DenseNet201 "densenet201" densenet(&D::DENSENET201),
    /// Inception v3.
    InceptionV3 "inception_v3" inception,
}

fn resnet(
    config: &R,
) -> impl Fn(usize, &Pooling, VarBuilder) -> Result<Box<dyn Network>> + use<'_> {
    move |classes, pooling, vb| Ok(Box::new(ResNet::new(config, classes, pooling, vb)?))
}

fn densenet(
    config: &D,
) -> impl Fn(usize, &Pooling, VarBuilder) -> Result<Box<dyn Network>> + use<'_> {
    move |classes, pooling, vb| Ok(Box::new(DenseNet::new(config, classes, pooling, vb)?))
}

fn inception(classes: usize, pooling: &Pooling, vb: VarBuilder) -> Result<Box<dyn Network>> {
    Ok(Box::new(InceptionV3::new(classes, pooling, vb)?))
}

impl Model {
    /// Height and width of the images that torchvision evaluates the published weights on.
    pub const fn input_size(self) -> usize {
        match self {
            Self::InceptionV3 => 299,
            _ => 224,
        }
    }

    /// Means that are subtracted from red, green and blue in 0 to 1: ImageNet's, or for Inception v3 one half.
    ///
    /// ```
    /// use candle_softpool::models::Model;
    ///
    /// assert_eq!(Model::ResNet18.mean(), [0.485, 0.456, 0.406]);
    /// assert_eq!(Model::ResNet18.std(), [0.229, 0.224, 0.225]);
    /// assert_eq!((Model::InceptionV3.mean(), Model::InceptionV3.std()), ([0.5; 3], [0.5; 3]));
    /// ```
    pub const fn mean(self) -> [f32; 3] {
        match self {
            Self::InceptionV3 => [0.5; 3],
            _ => [0.485, 0.456, 0.406],
        }
    }

    /// What the difference to [`Self::mean`] is divided by.
    pub const fn std(self) -> [f32; 3] {
        match self {
            Self::InceptionV3 => [0.5; 3],
            _ => [0.229, 0.224, 0.225],
        }
    }

    /// The name of the weight `(classes, channels)` of the last layer, whose shape tells a file's number of classes.
    pub const fn classifier(self) -> &'static str {
        match self {
            Self::DenseNet121 | Self::DenseNet161 | Self::DenseNet169 | Self::DenseNet201 => {
                "classifier.weight"
            }
            _ => "fc.weight",
        }
    }

    /// The network with the weights of a file or folder that [`Weights::open`] reads, in this dtype on this device.
    ///
    /// ```no_run
    /// use candle_core::{DType, Device};
    /// use candle_softpool::models::{Model, Pooling};
    ///
    /// let model = Model::ResNet50;
    /// let network = model.load("resnet50.safetensors", 1000, &Pooling::Original, DType::F32, &Device::Cpu)?;
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// On the CPU candle 0.11 multiplies f16, f32 and f64 matrices: weights in bf16 load there as one of these.
    ///
    /// # Errors
    ///
    /// Those of [`Weights::open`], and one that lists every tensor that does not fit: see [`Weights::build`].
    pub fn load(
        self,
        path: impl AsRef<Path>,
        classes: usize,
        pooling: &Pooling,
        dtype: DType,
        device: &Device,
    ) -> Result<Box<dyn Network>> {
        Weights::open(path)?.build(dtype, device, |vb| self.build(classes, pooling, vb))
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Model {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.iter().find(|model| model.name() == name) {
            Some(model) => Ok(*model),
            None => {
                let names: Vec<_> = Self::ALL.iter().map(|model| model.name()).collect();
                bail!("model {name:?}: expected one of {}", names.join(", "))
            }
        }
    }
}
