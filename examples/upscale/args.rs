//! The command line.

use crate::device::DeviceName;
use clap::Parser;
use std::path::PathBuf;

/// Enlarges photographs two or four times, as the weights do, with PlainUSR.
///
/// A path is an image (PNG, JPEG, WebP, GIF, BMP, TIFF) or a folder of them; `-` reads paths from standard input. photo.jpg
/// becomes photo-x4.png. An image that cannot be read is reported, the others are enlarged, and the exit status is 1.
///
/// An image passes through the network in tiles, and is written while they are computed: beside the image that is read,
/// memory grows with its width only. The tiles overlap, and the network is told where each lies in the image, so that no
/// seams appear: with the default overlap fewer than one of 10,000 values differ from what the whole image would give,
/// by one of 255 levels; with --overlap 0 some would by more than 100.
///
/// PSNR is as papers on super-resolution have it: of the luma (BT.601, 16 to 235), without a border of as many pixels as
/// the scale. Bicubic is that with a = −0.5, antialiased where it reduces.
#[derive(Parser)]
#[command(args_override_self = true)]
pub struct Args {
    /// Images, folders of images, or - for paths on standard input
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// PlainUSR's weights: any of S, M, PlainUSR and L, ×2 and ×4, in PyTorch's format or safetensors
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// The folder for the results
    #[arg(long, default_value = ".")]
    pub output: PathBuf,
    /// Replace results that are there, but no image that the command names, and no result of the same run
    #[arg(long)]
    pub overwrite: bool,
    /// What the one image was made smaller from: prints PSNR, the network's and bicubic's
    #[arg(long, conflicts_with = "reduce")]
    pub original: Option<PathBuf>,
    /// Take the images for originals: reduce them first, and print PSNR
    #[arg(long)]
    pub reduce: bool,
    /// Also write a square of the result, photo-x4-detail.png: bicubic, the network, the original if there is one; its
    /// centre and size, in pixels of the result
    #[arg(long, value_names = ["X", "Y", "SIZE"], num_args = 3)]
    pub detail: Option<Vec<u32>>,
    /// Height and width of a tile, in pixels of the image
    #[arg(long, default_value_t = 384, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub tile: u32,
    /// Pixels around a tile that its pass through the network sees
    #[arg(long, default_value_t = 36, value_parser = clap::value_parser!(u32).range(0..=4096))]
    pub overlap: u32,
    /// Leave images as they are stored, whatever orientation their EXIF data give
    #[arg(long)]
    pub no_orient: bool,
    /// Where the network runs: auto takes a GPU if there is one
    #[arg(long, default_value = "auto")]
    pub device: DeviceName,
    /// One JSON object a line for every image
    #[arg(long)]
    pub json: bool,
}
