//! Bicubic interpolation, of which the network should be better.

use crate::tiles::Rect;
use anyhow::Result;
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

/// What the rectangle becomes in the whole image, `scale` times larger.
pub fn enlarge(image: &RgbImage, rect: Rect, scale: u32) -> Result<RgbImage> {
    resize(image, rect, rect.width * scale, rect.height * scale)
}

/// The image, `scale` times smaller; what is left over at the right and below is not there.
pub fn reduce(image: &RgbImage, scale: u32) -> Result<RgbImage> {
    let (width, height) = (image.width() / scale, image.height() / scale);
    let rect = Rect {
        x: 0,
        y: 0,
        width: width * scale,
        height: height * scale,
    };
    resize(image, rect, width, height)
}

fn resize(image: &RgbImage, rect: Rect, width: u32, height: u32) -> Result<RgbImage> {
    let from = ImageRef::new(
        image.width(),
        image.height(),
        image.as_raw(),
        PixelType::U8x3,
    )?;
    let mut to = Image::new(width, height, PixelType::U8x3);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom))
        .crop(
            rect.x.into(),
            rect.y.into(),
            rect.width.into(),
            rect.height.into(),
        );
    Resizer::new().resize(&from, &mut to, &options)?;
    Ok(RgbImage::from_raw(width, height, to.into_vec()).expect("as many bytes as pixels"))
}
