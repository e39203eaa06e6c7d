//! The digit network, and what poolings make of the activations of its first layer.

use crate::digit;
use candle_core::{DType, Device, Module, ModuleT, Result, Tensor, Var};
use candle_nn::ops::softmax;
use candle_nn::{batch_norm, conv2d_no_bias, BatchNorm, Conv2d, Conv2dConfig, VarBuilder};
use candle_softpool::models::digits::Digits;
use candle_softpool::{AvgPool2d, Gradient, MaxPool2d, PoolingMethod, SoftPool2d};

const WEIGHTS: &[u8] = include_bytes!("../../classify/weights/digits-soft.safetensors");

/// Maps of the first layer.
pub const CHANNELS: usize = 8;

pub struct Reader {
    network: Digits,
    conv: Conv2d,
    norm: BatchNorm,
    /// The first layer's activations, (1, [`CHANNELS`], 28, 28).
    maps: Tensor,
}

pub struct Reading {
    pub probabilities: Vec<f32>,
    pub maps: Vec<f32>,
}

#[derive(Clone, Copy)]
pub enum Method {
    Soft,
    Max,
    Average,
}

/// Windows side by side.
#[derive(Clone, Copy)]
pub struct Windows {
    pub kernel: u32,
    /// Of SoftPool alone.
    pub beta: f64,
}

impl Windows {
    fn soft(self) -> SoftPool2d {
        SoftPool2d::new(self.kernel as usize).beta(self.beta)
    }
}

impl Reader {
    pub fn new() -> Result<Self> {
        let vb = VarBuilder::from_slice_safetensors(WEIGHTS, DType::F32, &Device::Cpu)?;
        let padded = Conv2dConfig {
            padding: 1,
            ..Default::default()
        };
        let first = vb.pp("stage1");
        let shape = (1, CHANNELS, digit::SIZE, digit::SIZE);
        Ok(Self {
            network: Digits::new(10, PoolingMethod::Soft, vb)?,
            conv: conv2d_no_bias(1, CHANNELS, 3, padded, first.pp("conv"))?,
            norm: batch_norm(CHANNELS, 1e-5, first.pp("norm"))?,
            maps: Tensor::zeros(shape, DType::F32, &Device::Cpu)?,
        })
    }

    /// A digit's 28×28 cells, from 0 to 1.
    pub fn read(&mut self, ink: &[f32]) -> Result<Reading> {
        let image = Tensor::from_slice(ink, (1, 1, digit::SIZE, digit::SIZE), &Device::Cpu)?;
        let logits = self.network.forward_t(&image, false)?;
        self.maps = image
            .apply(&self.conv)?
            .apply_t(&self.norm, false)?
            .relu()?;
        Ok(Reading {
            probabilities: cells(&softmax(&logits, 1)?)?,
            maps: cells(&self.maps)?,
        })
    }

    pub fn pool(&self, method: Method, windows: Windows) -> Result<Vec<f32>> {
        let kernel = windows.kernel as usize;
        cells(&match method {
            Method::Soft => windows.soft().forward(&self.maps)?,
            Method::Max => MaxPool2d::new(kernel).forward(&self.maps)?,
            Method::Average => AvgPool2d::new(kernel).forward(&self.maps)?,
        })
    }

    /// The weights are the paper's gradient of the sum of all outputs.
    pub fn weigh(&self, windows: Windows) -> Result<Vec<f32>> {
        let maps = Var::from_tensor(&self.maps)?;
        let pooled = maps.apply(&windows.soft().gradient(Gradient::Paper))?;
        let gradients = pooled.sum_all()?.backward()?;
        let weights = match gradients.get(&maps) {
            Some(weights) => weights.clone(),
            None => maps.zeros_like()?,
        };
        Ok([cells(&weights)?, cells(&pooled)?].concat())
    }
}

fn cells(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
