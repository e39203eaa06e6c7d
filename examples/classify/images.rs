//! From a file to the tensor that a network takes.

use crate::decode::decode;
use crate::digit;
use crate::imagenet::ImageNet;
use anyhow::Result;
use candle_core::{Device, Tensor};
use std::path::Path;

/// How a network wants its images.
pub struct Prepare {
    pub kind: Kind,
    /// Whether to turn them as their EXIF data say.
    pub orient: bool,
}

pub enum Kind {
    Digit,
    ImageNet(ImageNet),
}

impl Prepare {
    /// The image of a file, `(C, H, W)` in f32 on the CPU.
    pub fn read(&self, file: &Path) -> Result<Tensor> {
        let image = decode(file, self.orient)?;
        match &self.kind {
            Kind::Digit => {
                let ink = digit::ink(&image);
                let shape = (1, digit::SIZE, digit::SIZE);
                Ok(Tensor::from_vec(ink, shape, &Device::Cpu)?)
            }
            Kind::ImageNet(imagenet) => imagenet.tensor(image),
        }
    }
}
