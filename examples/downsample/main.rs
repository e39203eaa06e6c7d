//! Down-samples photographs with every pooling method: a labelled montage, and how near each stays to the original.
mod compare;
#[path = "../classify/decode.rs"]
mod decode;
#[path = "../classify/json.rs"]
mod json;
#[path = "../upscale/kept.rs"]
mod kept;
mod montage;
#[path = "../classify/say.rs"]
mod say;
#[path = "../classify/sources.rs"]
mod sources;

use anyhow::{bail, Context, Result};
use candle_softpool::PoolingMethod;
use clap::Parser;
use comfy_table::{presets::UTF8_FULL_CONDENSED, Table};
use compare::{Photo, Score};
use indicatif::{ProgressBar, ProgressStyle};
use json::add_path;
use kept::Kept;
use say::say;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Down-samples photographs with every pooling method and compares the results with the originals.
///
/// One image gives a montage and a table; several, or a folder, give the mean of each method besides.
/// An image (PNG, JPEG, WebP, GIF, BMP, TIFF) that cannot be read is reported, and the exit status is 1.
///
/// Pixels are numbers from 0 to SCALE. SoftPool weighs them by exp(x), so the scale is its temperature: at 1 it stays
/// near the average, at 255 it is nearly the maximum. The other methods but LIP do not depend on it.
/// Stochastic and S3 pooling draw at random as in training; --evaluate takes their deterministic form instead.
/// LIP has no trained logits for photographs: importance is the local contrast, z = 12·|x − mean of 3×3|, with x from 0 to 1.
/// Power averages have p = 2. To be compared, the down-sampled image is rounded to 8 bits and brought back to the
/// original's size by bilinear interpolation; SSIM is of the luma (windows of 8×8), PSNR of all channels, in dB.
#[derive(Parser)]
struct Args {
    /// Images, folders of images, or - for paths on standard input [default: the four sample photographs]
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/downsample/images"), hide_default_value = true)]
    paths: Vec<PathBuf>,
    /// Kernels, the strides equal to them
    #[arg(long, value_delimiter = ',', default_value = "2,3,5")]
    kernels: Vec<u32>,
    /// Methods: soft, max, avg, lp, stochastic, s3, lip
    #[arg(long, value_delimiter = ',', default_values_t = PoolingMethod::ALL)]
    methods: Vec<PoolingMethod>,
    /// The value of a white pixel
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Seed of stochastic and S3 pooling
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The form of stochastic and S3 pooling that networks evaluate with
    #[arg(long)]
    evaluate: bool,
    /// Where the montage of the first image goes
    #[arg(long, default_value = "downsample.png")]
    output: PathBuf,
    /// The square that the montage shows: centre and size, in pixels; by default the middle, 180 pixels
    #[arg(long, value_names = ["X", "Y", "SIZE"], num_args = 3)]
    detail: Option<Vec<u32>>,
    /// Leave images as they are stored, whatever orientation their EXIF data give
    #[arg(long)]
    no_orient: bool,
    /// One JSON object a line instead of the table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match downsample(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How many images failed.
fn downsample(args: &Args) -> Result<usize> {
    if args.kernels.contains(&0) || !(args.scale.is_finite() && args.scale > 0.0) {
        bail!("kernels and --scale must be above 0");
    }
    let (files, known) = sources::files(&args.paths, false);
    let mut kept = Kept::default();
    known.iter().flatten().for_each(|file| kept.keep(file));
    let bar = match known {
        Some(files) => ProgressBar::new((files.len() * args.kernels.len()) as u64),
        None => ProgressBar::no_length(),
    };
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?);

    let mut failed = 0;
    let mut scores: Vec<Vec<Vec<Score>>> = vec![];
    for file in files {
        let scored = file.and_then(|file| {
            if scores.is_empty() {
                kept.keep(&file);
                kept.check(&args.output)?;
            }
            bar.set_message(file.display().to_string());
            let scored = pool(&file, args, scores.is_empty(), &bar);
            Ok((scored.with_context(|| file.display().to_string())?, file))
        });
        match scored {
            Ok((of_file, file)) => {
                if args.json {
                    bar.suspend(|| print_json(&file, args, &of_file))?;
                }
                scores.push(of_file);
            }
            Err(error) => {
                failed += 1;
                bar.suspend(|| say!("{error:#}"));
            }
        }
    }
    bar.finish_and_clear();
    if !scores.is_empty() && !args.json {
        let (table, count, montage) = (table(args, &scores), scores.len(), args.output.display());
        let about = format!("Means of {count} image(s). The montage of the first: {montage}");
        writeln!(std::io::stdout(), "{table}\n{about}")?;
    }
    Ok(failed)
}

/// The scores of one image, by kernel and method; `draw` writes its montage.
fn pool(file: &Path, args: &Args, draw: bool, bar: &ProgressBar) -> Result<Vec<Vec<Score>>> {
    let photo = Photo::open(file, !args.no_orient)?;
    let mut scores = vec![];
    let mut rows = vec![];
    for &kernel in &args.kernels {
        let mut row = vec![];
        let mut images = vec![];
        for &method in &args.methods {
            let small = photo.pooled(
                method,
                kernel,
                args.scale,
                (!args.evaluate).then_some(args.seed),
            )?;
            row.push(photo.compare(&small, kernel)?);
            images.push((method.to_string(), small));
        }
        bar.inc(1);
        scores.push(row);
        rows.push((kernel, images));
    }
    if draw {
        let image = montage::draw(&photo.image, &rows, args.detail.as_deref());
        image
            .save(&args.output)
            .with_context(|| format!("cannot write {}", args.output.display()))?;
    }
    Ok(scores)
}

fn table(args: &Args, scores: &[Vec<Vec<Score>>]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    let heads = args
        .kernels
        .iter()
        .flat_map(|k| [format!("SSIM k={k}"), format!("PSNR k={k}")]);
    table.set_header(std::iter::once("method".to_string()).chain(heads));
    for (m, method) in args.methods.iter().enumerate() {
        let mut row = vec![method.to_string()];
        for k in 0..args.kernels.len() {
            let mean = |f: fn(&Score) -> f64| {
                scores.iter().map(|s| f(&s[k][m])).sum::<f64>() / scores.len() as f64
            };
            row.extend([
                format!("{:.3}", mean(|s| s.ssim)),
                format!("{:.2}", mean(|s| s.psnr)),
            ]);
        }
        table.add_row(row);
    }
    table
}

fn print_json(file: &Path, args: &Args, scores: &[Vec<Score>]) -> Result<()> {
    for (kernel, row) in args.kernels.iter().zip(scores) {
        for (method, score) in args.methods.iter().zip(row) {
            let psnr = score.psnr.is_finite().then_some(score.psnr);
            let mut line = serde_json::json!({
                "kernel": kernel, "method": method.name(), "ssim": score.ssim, "psnr": psnr,
            });
            add_path(&mut line, "file", Some(file));
            writeln!(std::io::stdout(), "{line}")?;
        }
    }
    Ok(())
}
