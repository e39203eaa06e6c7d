//! The choice among the pooling methods, by value or by name.

use super::average::AvgPool;
use super::max::MaxPool;
use super::soft::SoftPool;
use crate::geometry::IntoSize;
use candle_core::{bail, Error, Module, ModuleT, Result, Tensor};
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
pub enum PoolingMethod {
    /// `soft`: [`SoftPool`].
    Soft,
    /// `max`: [`MaxPool`].
    Max,
    /// `avg`: [`AvgPool`].
    Avg,
}

impl PoolingMethod {
    /// All of them, in the order in which they are listed to users.
    pub const ALL: &'static [Self] = &[Self::Soft, Self::Max, Self::Avg];

    /// The name that [`FromStr`] reads and [`fmt::Display`] writes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Max => "max",
            Self::Avg => "avg",
        }
    }

    /// The layer of this method with such windows, its other settings at their defaults.
    pub fn pooling<const D: usize>(
        self,
        kernel: impl IntoSize<D>,
        stride: impl IntoSize<D>,
        padding: impl IntoSize<D>,
    ) -> Result<Pooling<D>> {
        Ok(match self {
            Self::Soft => SoftPool::new(kernel).stride(stride).padding(padding).into(),
            Self::Max => MaxPool::new(kernel).stride(stride).padding(padding).into(),
            Self::Avg => AvgPool::new(kernel).stride(stride).padding(padding).into(),
        })
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
        }
    }
}

impl<const D: usize> From<SoftPool<D>> for Pooling<D> {
    fn from(layer: SoftPool<D>) -> Self {
        Self::Soft(layer)
    }
}

impl<const D: usize> From<MaxPool<D>> for Pooling<D> {
    fn from(layer: MaxPool<D>) -> Self {
        Self::Max(layer)
    }
}

impl<const D: usize> From<AvgPool<D>> for Pooling<D> {
    fn from(layer: AvgPool<D>) -> Self {
        Self::Avg(layer)
    }
}

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
        }
    }
}
