//! How near an image comes to its original.

use image::{Rgb, RgbImage};

/// The mean square of the differences in luma, of rows of an image as they come.
pub struct Psnr<'a> {
    original: &'a RgbImage,
    /// Pixels left out at each side.
    border: u32,
    squares: f64,
    pixels: u64,
}

impl<'a> Psnr<'a> {
    pub fn new(original: &'a RgbImage, border: u32) -> Self {
        Self {
            original,
            border,
            squares: 0.0,
            pixels: 0,
        }
    }

    /// Compares rows of which the first is the original's row `top`.
    pub fn add(&mut self, rows: &RgbImage, top: u32) {
        let inside = |at: u32, size: u32| at >= self.border && at + self.border < size;
        let (width, height) = self.original.dimensions();
        for (x, y, pixel) in rows.enumerate_pixels() {
            let y = top + y;
            if inside(x, width) && inside(y, height) {
                let apart = luma(pixel) - luma(self.original.get_pixel(x, y));
                self.squares += apart * apart;
                self.pixels += 1;
            }
        }
    }

    /// In decibels; infinite for equal images, none for those without an inside.
    pub fn decibels(&self) -> Option<f64> {
        let mean = self.squares / self.pixels as f64;
        (self.pixels > 0).then(|| 10.0 * (255f64.powi(2) / mean).log10())
    }
}

/// From 16 to 235.
fn luma(&Rgb([r, g, b]): &Rgb<u8>) -> f64 {
    16.0 + (65.481 * f64::from(r) + 128.553 * f64::from(g) + 24.966 * f64::from(b)) / 255.0
}
