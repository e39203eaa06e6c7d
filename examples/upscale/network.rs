//! PlainUSR on a rectangle of an image.

use crate::args::Args;
use crate::tiles::Rect;
use anyhow::{bail, ensure, Result};
use candle_core::{DType, Device, Tensor};
use candle_softpool::models::plain_usr::Part;
use candle_softpool::models::PlainUsr;
use image::{imageops::crop_imm, RgbImage};
use std::ops::Range;

/// The least height and width that the network takes.
const SMALLEST: u32 = 7;

pub struct Network {
    network: PlainUsr,
    device: Device,
    overlap: u32,
}

impl Network {
    pub fn load(args: &Args) -> Result<Self> {
        let Some(weights) = &args.weights else {
            bail!(
                "upscale needs --weights: PlainUSR's, which anyone may use (MIT). Download one of \
                 https://github.com/icandle/PlainUSR/tree/main/2024_PlainUSR_ACCV/pretrained_model, for example \
                 PlainUSRS_Rep_x4.pth (0.3 MB; PlainUSRM, PlainUSR and PlainUSRL are larger, slower and better; _x2 enlarges twice)"
            );
        };
        let device = args.device.device()?;
        Ok(Self {
            network: PlainUsr::load(weights, DType::F32, &device)?,
            device,
            overlap: args.overlap,
        })
    }

    pub fn scale(&self) -> u32 {
        self.network.scale() as u32
    }

    /// What the rectangle becomes in the whole image.
    pub fn enlarge(&self, image: &RgbImage, rect: Rect) -> Result<RgbImage> {
        let (width, height) = image.dimensions();
        let columns = self.around(rect.x, rect.width, width);
        let rows = self.around(rect.y, rect.height, height);
        let seen = crop_imm(
            image,
            columns.start,
            rows.start,
            columns.end - columns.start,
            rows.end - rows.start,
        )
        .to_image();
        let part = Part {
            whole: [height as usize, width as usize],
            start: [rows.start as usize, columns.start as usize],
        };
        let large = self.network.forward_part(&self.tensor(&seen)?, part)?;
        let scale = self.network.scale();
        let side = |from: u32, size: u32| (scale * from as usize, scale * size as usize);
        let (top, height) = side(rect.y - rows.start, rect.height);
        let (left, width) = side(rect.x - columns.start, rect.width);
        self::image(&large.narrow(2, top, height)?.narrow(3, left, width)?)
    }

    /// The pixels that a pass sees, of those of one axis: the rectangle's and the overlap, from where a part may begin.
    fn around(&self, start: u32, size: u32, whole: u32) -> Range<u32> {
        let end = (start + size + self.overlap).max(start + SMALLEST);
        let start = start
            .saturating_sub(self.overlap)
            .min(whole.saturating_sub(SMALLEST));
        let step = Part::STEP as u32;
        start / step * step..end.min(whole)
    }

    /// `(1, 3, H, W)`, from 0 to 1.
    fn tensor(&self, image: &RgbImage) -> Result<Tensor> {
        let shape = (1, image.height() as usize, image.width() as usize, 3);
        let bytes = Tensor::from_slice(image.as_raw(), shape, &Device::Cpu)?;
        let planes = bytes.permute((0, 3, 1, 2))?.contiguous()?;
        let planes = planes.to_device(&self.device)?.to_dtype(DType::F32)?;
        Ok((planes / 255.0)?)
    }
}

pub fn check_size(image: &RgbImage) -> Result<()> {
    let (width, height) = image.dimensions();
    ensure!(
        width.min(height) >= SMALLEST,
        "{width}×{height} pixels, expected at least {SMALLEST} on either side"
    );
    Ok(())
}

/// The nearest image of bytes.
fn image(pixels: &Tensor) -> Result<RgbImage> {
    let (_, _, height, width) = pixels.dims4()?;
    let bytes = (pixels.clamp(0f32, 1f32)? * 255.0)?
        .round()?
        .to_dtype(DType::U8)?
        .to_device(&Device::Cpu)?
        .permute((0, 2, 3, 1))?
        .flatten_all()?
        .to_vec1()?;
    Ok(RgbImage::from_raw(width as u32, height as u32, bytes).expect("as many bytes as pixels"))
}
