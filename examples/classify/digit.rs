//! An image of a digit, as MNIST has them: light ink on black, centred in 28×28.

use candle_softpool::models::digits;
use image::imageops::{self, FilterType};
use image::{DynamicImage, GrayImage, Luma};

pub const SIZE: usize = digits::SIZE;
/// The longer side of the ink, in MNIST.
const INK: u32 = 20;
/// Larger images are first reduced to this, which smooths the grain of photographs.
const LARGEST: u32 = 160;
/// Contrast below the first part of the largest is paper, above the second ink.
const PAPER_TO_INK: [f32; 2] = [0.25, 0.75];

/// The ink of an image, 28×28 numbers from 0 to 1.
pub fn ink(image: &DynamicImage) -> Vec<f32> {
    let mut luma = on_white(image);
    if is_dark_on_light(&luma) {
        imageops::invert(&mut luma);
    }
    if luma.dimensions() != (SIZE as u32, SIZE as u32) {
        luma = centred(&without_paper(&luma));
    }
    luma.iter().map(|&byte| f32::from(byte) / 255.0).collect()
}

fn on_white(image: &DynamicImage) -> GrayImage {
    let pixels = image.to_luma_alpha8();
    GrayImage::from_fn(pixels.width(), pixels.height(), |x, y| {
        let [luma, alpha] = pixels.get_pixel(x, y).0.map(u32::from);
        Luma([((luma * alpha + 255 * (255 - alpha)) / 255) as u8])
    })
}

fn is_dark_on_light(image: &GrayImage) -> bool {
    let sum: u64 = image.iter().map(|&byte| u64::from(byte)).sum();
    u64::from(border(image)) * image.len() as u64 > sum
}

/// The median of the outermost pixels.
fn border(image: &GrayImage) -> u8 {
    let (right, bottom) = (image.width() - 1, image.height() - 1);
    let at_border = |x, y| x == 0 || y == 0 || x == right || y == bottom;
    let mut pixels: Vec<u8> = image
        .enumerate_pixels()
        .filter(|&(x, y, _)| at_border(x, y))
        .map(|(_, _, pixel)| pixel.0[0])
        .collect();
    pixels.sort_unstable();
    pixels[pixels.len() / 2]
}

/// Light ink on paper becomes light ink on black, at full contrast.
fn without_paper(image: &GrayImage) -> GrayImage {
    let mut image = image.clone();
    let largest = image.width().max(image.height());
    if largest > LARGEST {
        let side = |n: u32| (u64::from(n) * u64::from(LARGEST) / u64::from(largest)).max(1) as u32;
        let (width, height) = (side(image.width()), side(image.height()));
        image = imageops::resize(&image, width, height, FilterType::Triangle);
    }
    let paper = border(&image);
    let contrast = image
        .iter()
        .max()
        .map_or(0, |max| max.saturating_sub(paper));
    let [low, high] = PAPER_TO_INK.map(|part| part * f32::from(contrast.max(1)));
    for byte in image.iter_mut() {
        let above = f32::from(byte.saturating_sub(paper));
        *byte = (255.0 * ((above - low) / (high - low)).clamp(0.0, 1.0)).round() as u8;
    }
    image
}

/// The ink cut out, scaled and moved so that its centre of mass is the middle; black where there is none.
fn centred(image: &GrayImage) -> GrayImage {
    let mut canvas = GrayImage::new(SIZE as u32, SIZE as u32);
    let inked = || {
        image
            .enumerate_pixels()
            .filter(|(_, _, pixel)| pixel.0[0] > 127)
    };
    let range = |values: Vec<u32>| Some((*values.iter().min()?, *values.iter().max()?));
    let xs = range(inked().map(|(x, _, _)| x).collect());
    let ys = range(inked().map(|(_, y, _)| y).collect());
    let (Some((left, right)), Some((top, bottom))) = (xs, ys) else {
        return canvas;
    };
    let (width, height) = (right - left + 1, bottom - top + 1);
    let side = |n: u32| (n * INK).div_ceil(width.max(height));
    let cut = imageops::crop_imm(image, left, top, width, height).to_image();
    let ink = imageops::resize(&cut, side(width), side(height), FilterType::Triangle);
    let place = |mean: f32, side: u32| {
        let start = (SIZE as f32 / 2.0 - mean).round().max(0.0);
        i64::from((start as u32).min(SIZE as u32 - side))
    };
    let (x, y) = centre_of_mass(&ink);
    imageops::replace(
        &mut canvas,
        &ink,
        place(x, ink.width()),
        place(y, ink.height()),
    );
    canvas
}

fn centre_of_mass(image: &GrayImage) -> (f32, f32) {
    let (mut sum, mut sum_x, mut sum_y) = (0.0, 0.0, 0.0);
    for (x, y, pixel) in image.enumerate_pixels() {
        let mass = f32::from(pixel.0[0]);
        sum += mass;
        sum_x += mass * (x as f32 + 0.5);
        sum_y += mass * (y as f32 + 0.5);
    }
    (sum_x / sum, sum_y / sum)
}
