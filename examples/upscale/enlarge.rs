//! One photograph, from file to file.

use crate::args::Args;
use crate::bicubic;
use crate::decode::decode;
use crate::json::add_path;
use crate::kept::Kept;
use crate::network::{self, Network};
use crate::png_file::{self, PngFile};
use crate::psnr::Psnr;
use crate::tiles::{self, Rect};
use anyhow::{ensure, Context, Result};
use image::imageops::{crop_imm, replace};
use image::{DynamicImage, Rgb, RgbImage};
use indicatif::ProgressBar;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Between the pictures of a detail.
const GAP: u32 = 4;

/// What became of a photograph.
pub struct Enlarged {
    output: PathBuf,
    width: u32,
    height: u32,
    scale: u32,
    seconds: f64,
    /// The network's and bicubic's, where there is an original.
    psnr: Option<[Option<f64>; 2]>,
}

pub fn enlarge(
    file: &Path,
    args: &Args,
    network: &Network,
    kept: &mut Kept,
    bar: &ProgressBar,
) -> Result<Enlarged> {
    let start = Instant::now();
    let scale = network.scale();
    let mut image = read(file, args)?;
    let mut original = None;
    if args.reduce {
        let large = std::mem::take(&mut image);
        image = bicubic::reduce(&large, scale)?;
        let (width, height) = (image.width() * scale, image.height() * scale);
        original = Some(crop_imm(&large, 0, 0, width, height).to_image());
    } else if let Some(file) = &args.original {
        original = Some(read(file, args).with_context(|| format!("original {}", file.display()))?);
    }
    network::check_size(&image)?;
    let large_side = |side: u32| side.checked_mul(scale).context("too large an image");
    let (width, height) = (large_side(image.width())?, large_side(image.height())?);
    if let Some((w, h)) = original.as_ref().map(RgbImage::dimensions) {
        ensure!(
            (w, h) == (width, height),
            "the original has {w}×{h} pixels, expected {width}×{height}"
        );
    }

    if let Some(detail) = &args.detail {
        let picture = draw(network, &image, original.as_ref(), detail)?;
        let path = png_file::path(&args.output, file, scale, "-detail");
        kept.check(&path)?;
        kept.keep(&save(&picture, path, args.overwrite)?);
    }
    let path = png_file::path(&args.output, file, scale, "");
    kept.check(&path)?;
    let mut output = PngFile::create(path, width, height, args.overwrite)?;
    let mut scores = original
        .as_ref()
        .map(|original| [(); 2].map(|()| Psnr::new(original, scale)));
    let rows: Vec<_> = tiles::rows(image.width(), image.height(), args.tile).collect();
    bar.reset();
    bar.set_length(rows.iter().map(|row| row.len() as u64).sum());
    for row in rows {
        let band = Rect {
            x: 0,
            width: image.width(),
            ..row[0]
        };
        let mut large = RgbImage::new(width, band.height * scale);
        for tile in row {
            let tile_large = network.enlarge(&image, tile)?;
            replace(&mut large, &tile_large, (tile.x * scale).into(), 0);
            bar.inc(1);
        }
        if let Some([ours, theirs]) = &mut scores {
            let top = band.y * scale;
            ours.add(&large, top);
            theirs.add(&bicubic::enlarge(&image, band, scale)?, top);
        }
        output.add(&large)?;
    }
    let output = output.finish()?;
    kept.keep(&output);
    Ok(Enlarged {
        output,
        width,
        height,
        scale,
        seconds: start.elapsed().as_secs_f64(),
        psnr: scores.map(|scores| scores.map(|score| score.decibels())),
    })
}

/// The image of a file on white, which shows where it is transparent.
fn read(file: &Path, args: &Args) -> Result<RgbImage> {
    let image = decode(file, !args.no_orient)?;
    if !image.color().has_alpha() {
        return Ok(image.into_rgb8());
    }
    let image = DynamicImage::into_rgba8(image);
    Ok(RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, alpha] = image.get_pixel(x, y).0.map(u32::from);
        Rgb([r, g, b].map(|c| ((c * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    }))
}

/// A square of the result side by side: bicubic, the network's, the original if there is one.
fn draw(
    network: &Network,
    image: &RgbImage,
    original: Option<&RgbImage>,
    detail: &[u32],
) -> Result<RgbImage> {
    let scale = network.scale();
    let size = (detail[2] / scale).clamp(1, image.width().min(image.height()));
    let first =
        |centre: u32, whole: u32| (centre / scale).saturating_sub(size / 2).min(whole - size);
    let rect = Rect {
        x: first(detail[0], image.width()),
        y: first(detail[1], image.height()),
        width: size,
        height: size,
    };
    let side = size * scale;
    let mut parts = vec![
        bicubic::enlarge(image, rect, scale)?,
        network.enlarge(image, rect)?,
    ];
    parts.extend(
        original.map(|original| {
            crop_imm(original, rect.x * scale, rect.y * scale, side, side).to_image()
        }),
    );
    let width = parts.len() as u32 * (side + GAP) - GAP;
    let mut picture = RgbImage::from_pixel(width, side, Rgb([255; 3]));
    for (part, x) in parts.iter().zip((0..).step_by((side + GAP) as usize)) {
        replace(&mut picture, part, x, 0);
    }
    Ok(picture)
}

fn save(image: &RgbImage, path: PathBuf, overwrite: bool) -> Result<PathBuf> {
    let mut file = PngFile::create(path, image.width(), image.height(), overwrite)?;
    file.add(image)?;
    file.finish()
}

impl Enlarged {
    /// For people.
    pub fn line(&self, file: &str) -> String {
        let psnr = match self.psnr {
            Some([Some(ours), Some(bicubic)]) => {
                format!("; PSNR {ours:.2} dB, bicubic {bicubic:.2} dB")
            }
            _ => String::new(),
        };
        format!(
            "{file} → {} ({}×{}, {:.1} s{psnr})",
            self.output.display(),
            self.width,
            self.height,
            self.seconds
        )
    }

    /// For programs, but for the photograph's path.
    pub fn json(&self) -> serde_json::Value {
        let [ours, bicubic] = self.psnr.unwrap_or_default();
        let mut line = serde_json::json!({
            "width": self.width, "height": self.height, "scale": self.scale, "psnr": ours, "bicubic_psnr": bicubic,
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
        });
        add_path(&mut line, "output", Some(&self.output));
        line
    }
}
