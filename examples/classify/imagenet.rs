//! Photographs as ImageNet's networks take them, by torchvision's steps.

use anyhow::{ensure, Result};
use candle_core::{Device, Tensor};
use candle_softpool::models::Model;
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, RgbImage};

/// The classes' names, one a line.
pub const LABELS: &str = include_str!("imagenet.txt");

pub struct ImageNet {
    /// What the shorter side becomes.
    resize: u32,
    /// The square in the middle that the network sees.
    crop: u32,
    mean: [f32; 3],
    std: [f32; 3],
}

impl ImageNet {
    /// With what torchvision gives the first weights of a network, unless the shorter side is to become another.
    pub fn of(model: Model, resize: Option<u32>) -> Result<Self> {
        let resize = resize.unwrap_or(match model {
            Model::InceptionV3 => 342,
            Model::ResNeXt101_64x4d => 232,
            _ => 256,
        });
        let crop = model.input_size() as u32;
        ensure!(
            resize >= crop,
            "--resize {resize}: expected {crop} or more, of which {model} takes the middle"
        );
        Ok(Self {
            resize,
            crop,
            mean: model.mean(),
            std: model.std(),
        })
    }

    /// `(3, crop, crop)`, normalised.
    pub fn tensor(&self, image: DynamicImage) -> Result<Tensor> {
        let image = self.middle(&image.into_rgb8())?;
        let side = self.crop as usize;
        let mut planes = Vec::with_capacity(3 * side * side);
        for channel in 0..3 {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            let pixels = image
                .pixels()
                .map(|pixel| f32::from(pixel.0[channel]) / 255.0);
            planes.extend(pixels.map(|value| (value - mean) / std));
        }
        Ok(Tensor::from_vec(planes, (3, side, side), &Device::Cpu)?)
    }

    /// The middle of the resized image, of which no more is computed: whatever the shape, it takes little memory.
    fn middle(&self, image: &RgbImage) -> Result<RgbImage> {
        let (width, height) = image.dimensions();
        let shorter = width.min(height);
        let [(left, columns), (top, rows)] = [width, height].map(|side| self.seen(side, shorter));
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .crop(left, top, columns, rows);
        let from = ImageRef::new(width, height, image.as_raw(), PixelType::U8x3)?;
        let mut to = Image::new(self.crop, self.crop, PixelType::U8x3);
        Resizer::new().resize(&from, &mut to, &options)?;
        let image = RgbImage::from_raw(self.crop, self.crop, to.into_vec());
        Ok(image.expect("as many bytes as pixels"))
    }

    /// Where the middle begins on a side of the image, and how long it is there, in the image's own pixels.
    fn seen(&self, side: u32, shorter: u32) -> (f64, f64) {
        // The shorter side becomes `resize`, the longer keeps its proportion, rounded down.
        let resized = u64::from(side) * u64::from(self.resize) / u64::from(shorter);
        // A half goes to the even side, as Python rounds.
        let start = ((resized - u64::from(self.crop)) as f64 / 2.0).round_ties_even();
        let scale = f64::from(side) / resized as f64;
        (start * scale, f64::from(self.crop) * scale)
    }
}
