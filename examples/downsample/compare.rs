//! A photograph, its pooled forms, and how near they are to it.

use crate::decode::decode;
use anyhow::{bail, Context, Result};
use candle_core::{DType, Device, ModuleT, Tensor};
use candle_softpool::{AvgPool2d, Lip2d, Pooling, PoolingMethod, S3Pool2d, StochasticPool2d};
use image::imageops::{self, FilterType};
use image::{DynamicImage, RgbImage};
use image_compare::{gray_similarity_structure, Algorithm};
use std::path::Path;

/// How near an image is to another.
pub struct Score {
    /// Structural similarity of the luma: 1 for equal images.
    pub ssim: f64,
    /// Peak signal-to-noise ratio in dB: infinite for equal images.
    pub psnr: f64,
}

pub struct Photo {
    pub image: RgbImage,
    /// `(1, 3, H, W)`, from 0 to 1.
    pixels: Tensor,
}

impl Photo {
    /// Turned as its EXIF data say if `orient`.
    pub fn open(file: &Path, orient: bool) -> Result<Self> {
        let image = decode(file, orient)?.into_rgb8();
        let (w, h) = (image.width() as usize, image.height() as usize);
        let pixels = Tensor::from_slice(image.as_raw(), (h, w, 3), &Device::Cpu)?;
        let pixels = (pixels
            .permute((2, 0, 1))?
            .unsqueeze(0)?
            .to_dtype(DType::F32)?
            / 255.0)?;
        Ok(Self { image, pixels })
    }

    /// Pooled with pixels from 0 to `scale`; with a seed the random methods draw, without they evaluate.
    pub fn pooled(
        &self,
        method: PoolingMethod,
        kernel: u32,
        scale: f64,
        seed: Option<u64>,
    ) -> Result<RgbImage> {
        let k = kernel as usize;
        if kernel > self.image.width() || kernel > self.image.height() {
            bail!(
                "kernel {kernel} is larger than the image, {}×{}",
                self.image.width(),
                self.image.height()
            );
        }
        let xs = (&self.pixels * scale)?;
        let layer: Pooling = match method {
            PoolingMethod::Lip => Lip2d::new(k).into(),
            PoolingMethod::Stochastic => StochasticPool2d::new(k).seed(seed.unwrap_or(0)).into(),
            PoolingMethod::S3 => S3Pool2d::new(k).seed(seed.unwrap_or(0)).into(),
            other => other.pooling(k, k, 0)?,
        };
        let ys = match layer {
            Pooling::Lip(layer) => layer.forward_with(&xs, &self.contrast()?)?,
            layer => layer.forward_t(&xs, seed.is_some())?,
        };
        let bytes = (ys * (255.0 / scale))?
            .clamp(0.0, 255.0)?
            .round()?
            .to_dtype(DType::U8)?;
        let (_, _, h, w) = bytes.dims4()?;
        let bytes = bytes
            .squeeze(0)?
            .permute((1, 2, 0))?
            .flatten_all()?
            .to_vec1()?;
        RgbImage::from_raw(w as u32, h as u32, bytes)
            .context("an image of another size than its pixels")
    }

    /// Logits for LIP: twelve times the distance from the mean of 3×3.
    fn contrast(&self) -> Result<Tensor> {
        let blur = AvgPool2d::new(3)
            .stride(1)
            .padding(1)
            .count_include_pad(false);
        Ok(((&self.pixels - self.pixels.apply(&blur)?)?.abs()? * 12.0)?)
    }

    /// Brings a pooled image back to size and compares; what no window covers is left out.
    pub fn compare(&self, small: &RgbImage, kernel: u32) -> Result<Score> {
        let (w, h) = (small.width() * kernel, small.height() * kernel);
        let large = imageops::resize(small, w, h, FilterType::Triangle);
        let original = imageops::crop_imm(&self.image, 0, 0, w, h).to_image();
        let squares = original.as_raw().iter().zip(large.as_raw());
        let squares: f64 = squares
            .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
            .sum();
        let luma = |image| DynamicImage::ImageRgb8(image).into_luma8();
        let count = original.as_raw().len() as f64;
        let ssim =
            gray_similarity_structure(&Algorithm::MSSIMSimple, &luma(original), &luma(large))?;
        Ok(Score {
            ssim: ssim.score,
            psnr: 10.0 * (255f64.powi(2) * count / squares).log10(),
        })
    }
}
