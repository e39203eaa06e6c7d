//! The labelled montage: a row a kernel, a column a method.

use embedded_graphics::mono_font::{ascii::FONT_7X13_BOLD, MonoTextStyle};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::prelude::{DrawTarget, OriginDimensions, Pixel, Point, Size};
use embedded_graphics::text::{Alignment, Text};
use embedded_graphics::Drawable;
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use std::convert::Infallible;

const GAP: u32 = 4;
const LABEL: u32 = 18;
/// What the shown square measures in the original unless told.
const DETAIL: u32 = 180;

/// One row: a kernel, and every method's name and image.
type Row = (u32, Vec<(String, RgbImage)>);

/// The square of `detail` (centre and size) of the original and of every pooled image, enlarged without smoothing.
pub fn draw(original: &RgbImage, rows: &[Row], detail: Option<&[u32]>) -> RgbImage {
    let middle = [original.width() / 2, original.height() / 2, DETAIL];
    let [x, y, size] = detail.and_then(|d| d.try_into().ok()).unwrap_or(middle);
    let size = size.clamp(1, original.width().min(original.height()));
    let left = x.saturating_sub(size / 2).min(original.width() - size);
    let top = y.saturating_sub(size / 2).min(original.height() - size);

    let columns = 1 + rows
        .iter()
        .map(|(_, images)| images.len())
        .max()
        .unwrap_or(0) as u32;
    let (step_x, step_y) = (DETAIL + GAP, DETAIL + LABEL + GAP);
    let size_of = |count: u32, step: u32| count * step + GAP;
    let mut canvas = RgbImage::from_pixel(
        size_of(columns, step_x),
        size_of(rows.len() as u32, step_y),
        Rgb([255; 3]),
    );
    for (r, (kernel, images)) in rows.iter().enumerate() {
        let whole = [(format!("original (k = {kernel})"), original)];
        let pooled = images.iter().map(|(name, image)| (name.clone(), image));
        for (c, (label, image)) in whole.into_iter().chain(pooled).enumerate() {
            let k = if c == 0 { 1 } else { *kernel };
            let [left, top, size] = [left / k, top / k, (size / k).max(1)];
            let part = imageops::crop_imm(image, left, top, size, size).to_image();
            let tile = imageops::resize(&part, DETAIL, DETAIL, FilterType::Nearest);
            let (x, y) = (GAP + c as u32 * step_x, GAP + r as u32 * step_y);
            imageops::replace(&mut canvas, &tile, x.into(), (y + LABEL).into());
            write(&mut canvas, &label, x + DETAIL / 2, y + LABEL - 5);
        }
    }
    canvas
}

fn write(canvas: &mut RgbImage, text: &str, x: u32, y: u32) {
    let style = MonoTextStyle::new(&FONT_7X13_BOLD, Rgb888::BLACK);
    let text = Text::with_alignment(
        text,
        Point::new(x as i32, y as i32),
        style,
        Alignment::Center,
    );
    let Ok(_) = text.draw(&mut Canvas(canvas));
}

/// An image that text is drawn on.
struct Canvas<'a>(&'a mut RgbImage);

impl OriginDimensions for Canvas<'_> {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Canvas<'_> {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Infallible> {
        for Pixel(point, color) in pixels {
            if let (Ok(x), Ok(y)) = (u32::try_from(point.x), u32::try_from(point.y)) {
                if let Some(pixel) = self.0.get_pixel_mut_checked(x, y) {
                    *pixel = Rgb([color.r(), color.g(), color.b()]);
                }
            }
        }
        Ok(())
    }
}
