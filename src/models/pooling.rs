//! The choice of pooling in a network.

use crate::{Pooling as PoolingLayer, PoolingMethod};
use candle_core::{Error, ModuleT, Result};
use candle_nn::VarBuilder;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A pooling layer as a network holds it: any [`ModuleT`], and so any candle `Module`.
pub type Layer = Arc<dyn ModuleT + Send + Sync>;

/// Makes the layer of a [`Place`].
type Make = dyn Fn(Place) -> Result<Layer> + Send + Sync;

/// What pools in a network, in the places where SoftPool's authors put SoftPool (but for the padding of Inception's branches:
/// docs/networks.md); the other pooling stays what it is.
/// (One layer that pools by any method is [`crate::Pooling`].)
///
/// Pooling has no tensors, save `lip`'s, so weights fit whatever the choice: published ones want [`Self::Original`],
/// [`Self::Soft`] wants weights that were trained with it.
///
/// From a name: `original`, or that of a [`PoolingMethod`].
///
/// ```
/// use candle_softpool::{models::Pooling, PoolingMethod};
///
/// let pooling: Pooling = "soft".parse()?;
/// assert_eq!(pooling.to_string(), "soft");
/// assert_eq!(Pooling::Method(PoolingMethod::Avg).to_string(), "avg");
/// assert!("softest".parse::<Pooling>().unwrap_err().to_string().contains("original, soft, max"));
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Pooling {
    /// `original`: the network's own maxima and averages, padding included.
    Original,
    /// `soft`: SoftPool.
    Soft,
    /// Any pooling method by name, with SoftPool's windows; `lip` takes its variables from the network's.
    Method(PoolingMethod),
    /// Layers of the user's: see [`Self::custom`].
    Custom(Arc<Make>),
}

/// Where a network pools: the windows that SoftPool has there, and what a layer with variables needs.
/// [`Pooling::custom`] hands it to the user, as the example there shows.
#[non_exhaustive]
pub struct Place<'a> {
    /// Height and width of a window.
    pub kernel: usize,
    /// Cells from a window's start to the next one's.
    pub stride: usize,
    /// Cells beyond each border that windows reach.
    pub padding: usize,
    /// Channels of the input.
    pub channels: usize,
    /// For variables of the layer.
    pub vb: VarBuilder<'a>,
}

impl Pooling {
    /// Layers of the user's, one for each [`Place`]; they must keep to its windows.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::VarBuilder;
    /// use candle_softpool::models::{Model, Pooling};
    /// use candle_softpool::{Gradient, SoftPool2d};
    ///
    /// let pooling = Pooling::custom(|place| {
    ///     let pool = SoftPool2d::new(place.kernel).stride(place.stride).padding(place.padding);
    ///     Ok(pool.gradient(Gradient::Exact))
    /// });
    /// let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
    /// let network = Model::ResNet18.build(10, &pooling, vb)?;
    /// let images = Tensor::zeros((1, 3, 32, 32), DType::F32, &Device::Cpu)?;
    /// assert_eq!(network.forward_t(&images, false)?.dims(), [1, 10]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn custom<L: ModuleT + Send + Sync + 'static>(
        layer: impl Fn(Place) -> Result<L> + Send + Sync + 'static,
    ) -> Self {
        Self::Custom(Arc::new(move |place| Ok(Arc::new(layer(place)?))))
    }

    /// The layer of a place, where the network by itself has `original`.
    pub(super) fn layer(&self, original: impl Into<PoolingLayer>, place: Place) -> Result<Layer> {
        let method = match self {
            Self::Original => return Ok(Arc::new(original.into())),
            Self::Custom(make) => return make(place),
            Self::Soft => PoolingMethod::Soft,
            Self::Method(method) => *method,
        };
        let Place {
            kernel,
            stride,
            padding,
            channels,
            vb,
        } = place;
        let layer: PoolingLayer = method.learned(kernel, stride, padding, channels, vb)?;
        Ok(Arc::new(layer))
    }
}

impl From<PoolingMethod> for Pooling {
    fn from(method: PoolingMethod) -> Self {
        match method {
            PoolingMethod::Soft => Self::Soft,
            other => Self::Method(other),
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Original => f.pad("original"),
            Self::Soft => f.pad("soft"),
            Self::Method(method) => method.fmt(f),
            Self::Custom(_) => f.pad("custom"),
        }
    }
}

impl fmt::Debug for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pooling({self})")
    }
}

impl FromStr for Pooling {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if name == "original" {
            return Ok(Self::Original);
        }
        match name.parse::<PoolingMethod>() {
            Ok(method) => Ok(method.into()),
            Err(_) => {
                let methods = PoolingMethod::ALL.iter().map(|method| method.name());
                let names: Vec<_> = std::iter::once("original").chain(methods).collect();
                candle_core::bail!("pooling {name:?}: expected one of {}", names.join(", "))
            }
        }
    }
}
