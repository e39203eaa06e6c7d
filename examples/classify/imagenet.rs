//! Photographs as ImageNet's networks take them, by torchvision's steps.

use anyhow::Result;
use candle_core::{Device, Tensor};
use candle_softpool::models::Model;
use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::imageops::crop_imm;
use image::{DynamicImage, RgbImage};

/// Sides more unlike than this are cut before they are resized, so that no shape takes much memory.
const LONGEST: u32 = 8;

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
    pub fn of(model: Model) -> Self {
        Self {
            resize: if model == Model::InceptionV3 {
                342
            } else {
                256
            },
            crop: model.input_size() as u32,
            mean: model.mean(),
            std: model.std(),
        }
    }

    /// `(3, crop, crop)`, normalised.
    pub fn tensor(&self, image: DynamicImage) -> Result<Tensor> {
        let image = resized(without_ends(image).into_rgb8(), self.resize)?;
        let [left, top] = [image.width(), image.height()].map(|side| middle(side, self.crop));
        let image = crop_imm(&image, left, top, self.crop, self.crop).to_image();
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
}

/// The middle of an image whose one side is many times the other; of its ends the network sees nothing.
fn without_ends(image: DynamicImage) -> DynamicImage {
    let (width, height) = (image.width(), image.height());
    let most = width.min(height).saturating_mul(LONGEST);
    if width.max(height) <= most {
        return image;
    }
    let (to_width, to_height) = (width.min(most), height.min(most));
    let (left, top) = ((width - to_width) / 2, (height - to_height) / 2);
    image.crop_imm(left, top, to_width, to_height)
}

/// The shorter side becomes `shorter`, the longer keeps its proportion, rounded down.
fn resized(image: RgbImage, shorter: u32) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    let side = |n: u32| {
        let long = u64::from(n) * u64::from(shorter) / u64::from(width.min(height));
        u32::try_from(long)
    };
    let (to_width, to_height) = (side(width)?, side(height)?);
    let from = Image::from_vec_u8(width, height, image.into_raw(), PixelType::U8x3)?;
    let mut to = Image::new(to_width, to_height, PixelType::U8x3);
    let bilinear = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize(&from, &mut to, &bilinear)?;
    Ok(RgbImage::from_raw(to_width, to_height, to.into_vec()).expect("as many bytes as pixels"))
}

/// Where the middle begins; a half goes to the even side, as Python rounds.
fn middle(side: u32, crop: u32) -> u32 {
    (f64::from(side - crop) / 2.0).round_ties_even() as u32
}
