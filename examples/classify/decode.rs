//! From a file to pixels.

use anyhow::{bail, ensure, Context, Result};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use std::io::Cursor;
use std::path::Path;

/// The image of a file, turned as its EXIF data say if `orient`; one that is not whole is an error.
pub fn decode(file: &Path, orient: bool) -> Result<DynamicImage> {
    let bytes = std::fs::read(file).context("cannot read it")?;
    let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format()?;
    let Some(format) = reader.format() else {
        bail!("not an image: its first bytes are those of no known format");
    };
    // The decoder fills what is missing of a JPEG with grey.
    if format == ImageFormat::Jpeg && !jpeg_ends(&bytes) {
        bail!("not a readable image: this JPEG has no end, it is truncated");
    }
    let unreadable = "not a readable image";
    let mut decoder = reader.into_decoder().context(unreadable)?;
    let orientation = decoder.orientation().context(unreadable)?;
    let mut image = DynamicImage::from_decoder(decoder).context(unreadable)?;
    let (width, height) = (image.width(), image.height());
    ensure!(
        width > 0 && height > 0,
        "an image of {width}×{height} pixels"
    );
    if orient {
        image.apply_orientation(orientation);
    }
    Ok(image)
}

/// Whether the image itself comes to its end marker; a thumbnail inside a segment has one of its own.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut place = 2;
    loop {
        // Between segments, and in the scans, which are no segments: to the next marker.
        let marker = bytes.get(place..).unwrap_or_default().windows(2);
        let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd8 | 0xff);
        let Some(next) = marker.map(is_marker).position(|found| found) else {
            return false;
        };
        place += next + 2;
        if bytes[place - 1] == 0xd9 {
            return true;
        }
        let Some(&[high, low]) = bytes.get(place..place + 2) else {
            return false;
        };
        place += usize::from(u16::from_be_bytes([high, low]));
    }
}
