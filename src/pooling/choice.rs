//! The choice among the pooling methods, by value or by name.

use super::average::AvgPool;
use super::lip::Lip;
use super::max::MaxPool;
use super::power::LpPool;
use super::s3::S3Pool;
use super::soft::SoftPool;
use super::stochastic::StochasticPool;
use crate::geometry::IntoSize;
use candle_core::{bail, Error, Module, ModuleT, Result, Tensor};
use candle_nn::VarBuilder;
use std::fmt;
use std::str::FromStr;

/// The name of a pooling method, as a command line takes it; [`Self::pooling`] makes the layer.
///
/// ```
/// use candle_softpool::PoolingMethod;
///
/// let method: PoolingMethod = "max".parse()?;
/// assert_eq!(method, PoolingMethod::Max);
/// assert_eq!(method.to_string(), "max");
/// assert!("maximum".parse::<PoolingMethod>().unwrap_err().to_string().contains("soft, max, avg"));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolingMethod {
    /// `soft`: [`SoftPool`].
    Soft,
    /// `max`: [`MaxPool`].
    Max,
    /// `avg`: [`AvgPool`].
    Avg,
    /// `lp`: [`LpPool`], with p = 2 unless set.
    Lp,
    /// `stochastic`: [`StochasticPool`].
    Stochastic,
    /// `s3`: [`S3Pool`].
    S3,
    /// `lip`: [`Lip`], which has variables.
    Lip,
}

impl PoolingMethod {
    /// All of them, in the order in which they are listed to users.
    pub const ALL: &'static [Self] = &[
        Self::Soft,
        Self::Max,
        Self::Avg,
        Self::Lp,
        Self::Stochastic,
        Self::S3,
        Self::Lip,
    ];

    /// The name that [`FromStr`] reads and [`fmt::Display`] writes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Max => "max",
            Self::Avg => "avg",
            Self::Lp => "lp",
            Self::Stochastic => "stochastic",
            Self::S3 => "s3",
            Self::Lip => "lip",
        }
    }

    /// The layer of this method with such windows, its other settings at their defaults: p = 2, a seed of its own.
    ///
    /// # Errors
    ///
    /// `lip`, which has variables: see [`Self::learned`]. Sizes are checked where the layer meets an input.
    pub fn pooling<const D: usize>(
        self,
        kernel: impl IntoSize<D>,
        stride: impl IntoSize<D>,
        padding: impl IntoSize<D>,
    ) -> Result<Pooling<D>> {
        macro_rules! windows {
            ($layer:expr) => {
                $layer.stride(stride).padding(padding).into()
            };
        }
        Ok(match self {
            Self::Soft => windows!(SoftPool::new(kernel)),
            Self::Max => windows!(MaxPool::new(kernel)),
            Self::Avg => windows!(AvgPool::new(kernel)),
            Self::Lp => windows!(LpPool::new(2.0, kernel)),
            Self::Stochastic => windows!(StochasticPool::new(kernel)),
            Self::S3 => windows!(S3Pool::new(kernel)),
            Self::Lip => bail!(
                "pooling method \"lip\" has variables: build it with `PoolingMethod::learned`"
            ),
        })
    }

    /// [`Self::pooling`] of inputs with so many channels; `lip` takes its variables from `vb`, the others leave it alone.
    ///
    /// # Errors
    ///
    /// Those of [`Lip::learned`], for `lip` alone.
    pub fn learned<const D: usize>(
        self,
        kernel: impl IntoSize<D>,
        stride: impl IntoSize<D>,
        padding: impl IntoSize<D>,
        channels: usize,
        vb: VarBuilder,
    ) -> Result<Pooling<D>> {
        match self {
            Self::Lip => {
                let windows = Lip::new(kernel).stride(stride).padding(padding);
                Ok(windows.learned(channels, vb)?.into())
            }
            other => other.pooling(kernel, stride, padding),
        }
    }
}

impl fmt::Display for PoolingMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PoolingMethod {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.iter().find(|method| method.name() == name) {
            Some(method) => Ok(*method),
            None => {
                let names: Vec<_> = Self::ALL.iter().map(|method| method.name()).collect();
                bail!(
                    "pooling method {name:?}: expected one of {}",
                    names.join(", ")
                )
            }
        }
    }
}

/// A pooling layer of any method, a candle [`ModuleT`] (some draw at random in training); [`Self::eval`] is a [`Module`].
/// (The choice of what pools in a whole network is [`crate::models::Pooling`].)
///
/// [`PoolingMethod::pooling`] makes one by name, `From` wraps a layer with settings of its own, and [`FromStr`] gives
/// the method of that name with windows of 2, side by side.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_softpool::{Pooling, PoolingMethod, SoftPool2d};
///
/// let xs = Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let pool: Pooling = "max".parse::<PoolingMethod>()?.pooling(3, 2, 1)?;
/// assert_eq!(xs.apply_t(&pool, true)?.dims(), [1, 3, 4, 4]);
///
/// let pool = Pooling::from(SoftPool2d::new(2).beta(2.0));
/// assert_eq!(pool.to_string(), "soft");
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Pooling<const D: usize = 2> {
    /// Softmax-weighted sum.
    Soft(SoftPool<D>),
    /// Maximum.
    Max(MaxPool<D>),
    /// Average.
    Avg(AvgPool<D>),
    /// Power average.
    Lp(LpPool<D>),
    /// A cell drawn by its activation.
    Stochastic(StochasticPool<D>),
    /// Maxima of stride one, drawn from a grid.
    S3(S3Pool<D>),
    /// Sum weighted by learned logits.
    Lip(Lip<D>),
}

/// [`Pooling`] of `(N, C, L)`.
pub type Pooling1d = Pooling<1>;
/// [`Pooling`] of `(N, C, H, W)`.
pub type Pooling2d = Pooling<2>;
/// [`Pooling`] of `(N, C, D, H, W)`.
pub type Pooling3d = Pooling<3>;

impl<const D: usize> Pooling<D> {
    /// Which method it is.
    pub fn method(&self) -> PoolingMethod {
        match self {
            Self::Soft(_) => PoolingMethod::Soft,
            Self::Max(_) => PoolingMethod::Max,
            Self::Avg(_) => PoolingMethod::Avg,
            Self::Lp(_) => PoolingMethod::Lp,
            Self::Stochastic(_) => PoolingMethod::Stochastic,
            Self::S3(_) => PoolingMethod::S3,
            Self::Lip(_) => PoolingMethod::Lip,
        }
    }
}

macro_rules! from_layers {
    ($($variant:ident($layer:ident)),+) => {$(
        impl<const D: usize> From<$layer<D>> for Pooling<D> {
            fn from(layer: $layer<D>) -> Self {
                Self::$variant(layer)
            }
        }
    )+};
}
from_layers!(
    Soft(SoftPool),
    Max(MaxPool),
    Avg(AvgPool),
    Lp(LpPool),
    Stochastic(StochasticPool),
    S3(S3Pool),
    Lip(Lip)
);

impl<const D: usize> fmt::Display for Pooling<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.method().fmt(f)
    }
}

impl<const D: usize> FromStr for Pooling<D> {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        PoolingMethod::from_str(name)?.pooling(2, 2, 0)
    }
}

impl<const D: usize> Pooling<D> {
    /// Pooling in evaluation: [`ModuleT::forward_t`] with `train` false.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward_t(xs, false)
    }

    /// The layer in evaluation as a candle [`Module`], for what takes no [`ModuleT`].
    pub fn eval(&self) -> impl Module + '_ {
        Eval(self)
    }
}

struct Eval<'a, const D: usize>(&'a Pooling<D>);

impl<const D: usize> Module for Eval<'_, D> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.0.forward(xs)
    }
}

// A `Module` would get candle's `ModuleT`, which cannot tell training from evaluation.
impl<const D: usize> ModuleT for Pooling<D> {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        match self {
            Self::Soft(layer) => layer.forward_t(xs, train),
            Self::Max(layer) => layer.forward_t(xs, train),
            Self::Avg(layer) => layer.forward_t(xs, train),
            Self::Lp(layer) => layer.forward_t(xs, train),
            Self::Stochastic(layer) => layer.forward_t(xs, train),
            Self::S3(layer) => layer.forward_t(xs, train),
            Self::Lip(layer) => layer.forward_t(xs, train),
        }
    }
}
