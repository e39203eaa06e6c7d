//! From a file to the tensor that a network takes.

use crate::digit;
use crate::imagenet::ImageNet;
use anyhow::{bail, Context, Result};
use candle_core::{Device, Tensor};
use image::{DynamicImage, ImageFormat, ImageReader};
use std::io::Cursor;
use std::path::Path;

/// How a network wants its images.
pub enum Prepare {
    Digit,
    ImageNet(ImageNet),
}

impl Prepare {
    /// The image of a file, `(C, H, W)` in f32 on the CPU.
    pub fn read(&self, file: &Path) -> Result<Tensor> {
        let image = decode(file)?;
        match self {
            Self::Digit => {
                let ink = digit::ink(&image);
                Ok(Tensor::from_vec(
                    ink,
                    (1, digit::SIZE, digit::SIZE),
                    &Device::Cpu,
                )?)
            }
            Self::ImageNet(imagenet) => imagenet.tensor(image),
        }
    }
}

fn decode(file: &Path) -> Result<DynamicImage> {
    let bytes = std::fs::read(file).context("cannot read it")?;
    let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format()?;
    let Some(format) = reader.format() else {
        bail!("not an image: its first bytes are those of no known format");
    };
    let image = reader.decode().context("not a readable image")?;
    // The decoder fills what is missing of a JPEG with grey.
    if format == ImageFormat::Jpeg && !bytes.windows(2).any(|pair| pair == [0xff, 0xd9]) {
        bail!("not a readable image: this JPEG has no end, it is truncated");
    }
    Ok(image)
}
