//! `examples/classify` prepares photographs as torchvision does, and knows ImageNet's classes.

#[path = "../examples/classify/imagenet.rs"]
mod imagenet;

use candle_softpool::models::Model;
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
    let model = Model::ResNet18;
    let tensor = imagenet::ImageNet::of(model).tensor(DynamicImage::ImageRgb8(image));
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
            let value = plane[y as usize + 80][x as usize + 80] * model.std()[c] + model.mean()[c];
            largest = largest.max((value * 255.0 - f32::from(pixel.0[c])).abs());
        }
    }
    println!("largest difference: {largest} of 255");
    assert!(largest < 1.01, "{largest}");
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
    let imagenet = imagenet::ImageNet::of(Model::ResNet18);
    for (width, height) in [(100_000, 1), (1, 100_000), (9, 1), (2000, 8)] {
        let image = DynamicImage::ImageRgb8(RgbImage::new(width, height));
        let tensor = imagenet.tensor(image).expect("a tensor");
        assert_eq!(tensor.dims(), [3, 224, 224]);
    }
}
