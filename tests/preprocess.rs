//! `examples/classify` prepares photographs as torchvision does, and knows ImageNet's classes.

#[path = "../examples/classify/imagenet.rs"]
mod imagenet;

use candle_softpool::models::Model;
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, Rgb, RgbImage};

#[test]
fn resizing_cropping_and_normalising_are_torchvisions() {
    // The image and the cut of `tests/fixtures/make_preprocess.py`.
    let image = RgbImage::from_fn(603, 401, |x, y| {
        Rgb([0, 1, 2].map(|c| ((x * x / 7 + y * (3 + c) + x * y / 11) % 256) as u8))
    });
    let expected = image::open("tests/fixtures/preprocess.png")
        .expect("the fixture")
        .into_rgb8();
    let largest = apart(image, &expected, 80);
    println!("largest difference: {largest} of 255");
    assert!(largest < 1.01, "{largest}");
}

/// The most that the prepared image differs by from `expected`, which lies so many pixels from its left and its top.
fn apart(image: RgbImage, expected: &RgbImage, start: usize) -> f32 {
    let model = Model::ResNet18;
    let tensor = imagenet::ImageNet::of(model, None)
        .and_then(|imagenet| imagenet.tensor(DynamicImage::ImageRgb8(image)));
    let found = tensor
        .and_then(|t| Ok(t.to_vec3::<f32>()?))
        .expect("a tensor");
    assert_eq!(
        [found.len(), found[0].len(), found[0][0].len()],
        [3, 224, 224]
    );
    let mut largest = 0f32;
    for (x, y, pixel) in expected.enumerate_pixels() {
        for (c, plane) in found.iter().enumerate() {
            let value = plane[y as usize + start][x as usize + start];
            let level = 255.0 * (value * model.std()[c] + model.mean()[c]);
            largest = largest.max((level - f32::from(pixel.0[c])).abs());
        }
    }
    largest
}

/// The cut is of the whole image resized, though no more is resized than the network sees.
#[test]
fn long_images_are_cut_where_the_whole_would_be() {
    for (width, height) in [(805, 100), (100, 805), (1000, 61), (450, 399), (40, 2001)] {
        let image = RgbImage::from_fn(width, height, |x, y| {
            Rgb([0, 1, 2].map(|c| ((x * (90 + c) + y * 57) % 256) as u8))
        });
        let side = |n: u32| n * 256 / width.min(height);
        let whole = resized(&image, side(width), side(height));
        let middle = |n: u32| (f64::from(n - 224) / 2.0).round_ties_even() as u32;
        let (left, top) = (middle(whole.width()), middle(whole.height()));
        let expected = image::imageops::crop_imm(&whole, left, top, 224, 224).to_image();
        let largest = apart(image, &expected, 0);
        assert!(largest < 1.01, "{width}×{height}: {largest}");
    }
}

fn resized(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let bytes = image.as_raw();
    let from = ImageRef::new(image.width(), image.height(), bytes, PixelType::U8x3);
    let mut to = Image::new(width, height, PixelType::U8x3);
    let bilinear = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    let done = Resizer::new().resize(&from.expect("an image"), &mut to, &bilinear);
    done.expect("resized");
    RgbImage::from_raw(width, height, to.into_vec()).expect("an image")
}

#[test]
fn there_are_a_thousand_classes() {
    let labels: Vec<_> = imagenet::LABELS.lines().collect();
    assert_eq!(labels.len(), 1000);
    assert_eq!(
        [labels[0], labels[285], labels[999]],
        ["tench", "Egyptian cat", "toilet tissue"]
    );
}

/// Resized as a whole, the first would take 20 GB.
#[test]
fn images_of_any_shape_are_prepared_in_little_memory() {
    let imagenet = imagenet::ImageNet::of(Model::ResNet18, None).expect("sizes that fit");
    for (width, height) in [(100_000, 1), (1, 100_000), (9, 1), (2000, 8)] {
        let image = DynamicImage::ImageRgb8(RgbImage::new(width, height));
        let tensor = imagenet.tensor(image).expect("a tensor");
        assert_eq!(tensor.dims(), [3, 224, 224]);
    }
}
