//! The command line.

use crate::device::DeviceName;
use candle_core::{bail, DType, Error, Result};
use candle_softpool::models::{Model, Pooling};
use clap::{Parser, ValueEnum};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Classifies images: by default handwritten digits, with weights that ship; with --model as ImageNet's 1,000 classes.
///
/// Without a path it classifies the sample images that ship. A path is an image (PNG, JPEG, WebP, GIF, BMP, TIFF) or a folder
/// of them, with the folders in it; `-` reads paths from standard input, one a line, and answers as soon as the input pauses.
/// Results go to standard output as they are found, in the order of the input; what went wrong goes to standard error,
/// and the exit status is 1 if any image failed, 2 for a wrong command, 3 if some images have no result: the run could not
/// begin, the network failed, or the results could not be written, or were not read to their end.
///
/// JSON lines name the image as `file`. A path that is no UTF-8 is given there with marks in place of what is no text, and
/// its bytes as `file_hex`, in hexadecimal. What concerns no one image, such as a broken link in a folder, has null there.
///
/// Images are turned as their EXIF data say; torchvision does not do this, and neither does --no-orient.
///
/// Digits: an image becomes luma on white; it counts as dark on light where its border is brighter than its mean, and
/// is then inverted. An image of 28×28 is taken as it is; any other is cut to its ink, scaled to 20 pixels and centred
/// by its mass in 28×28, as MNIST was made.
///
/// ImageNet: the shorter side becomes 256 pixels (342 for Inception v3, 232 for resnext101_64x4d) by antialiased bilinear
/// interpolation, the centre of 224 (299) is cut out and normalised, as torchvision does for its first weights of each
/// network; its second (IMAGENET1K_V2) want --resize 232.
///
/// ImageNet's networks take the pooling that they are published with; --pool soft is for weights trained with SoftPool, whose
/// tensors have the same names and shapes.
///
/// The time of an image is its decoding and preparing, and its share of its batch's pass through the network.
#[derive(Parser)]
pub struct Args {
    /// Images, folders of images, or - for paths on standard input
    #[arg(default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/classify/samples"), hide_default_value = true)]
    pub paths: Vec<PathBuf>,
    /// digits, or a network for ImageNet: resnet18, resnet50, densenet121, inception_v3, …
    #[arg(long, default_value_t = Network::Digits)]
    pub model: Network,
    /// Weights: a safetensors or PyTorch file, a folder, or hub:OWNER/NAME[/FILE] [default: those that ship, for digits]
    #[arg(long)]
    pub weights: Option<String>,
    /// Pooling: soft, max, avg, …; for ImageNet also original, the network's own, which published weights need [default:
    /// original for ImageNet; for digits what the weights name, else soft]
    #[arg(long)]
    pub pool: Option<Pooling>,
    /// Names of the classes, one a line [default: what the weights name; ImageNet's]
    #[arg(long)]
    pub labels: Option<PathBuf>,
    /// How many classes to print for an image
    #[arg(long, default_value_t = 3, value_parser = positive)]
    pub top_k: usize,
    /// One JSON object a line for every image, in place of the table
    #[arg(long)]
    pub json: bool,
    /// Paths on standard input end with a NUL byte, as `find -print0` writes them
    #[arg(long)]
    pub null: bool,
    /// What the shorter side becomes for ImageNet's networks [default: what torchvision's first weights of the network want]
    #[arg(long)]
    pub resize: Option<u32>,
    /// Leave images as they are stored, whatever orientation their EXIF data give
    #[arg(long)]
    pub no_orient: bool,
    /// Where the network runs: auto takes a GPU if there is one
    #[arg(long, default_value = "auto")]
    pub device: DeviceName,
    /// What the network computes in
    #[arg(long, default_value = "f32")]
    pub dtype: DTypeName,
    /// Images that go through the network together
    #[arg(long, default_value_t = 8, value_parser = positive)]
    pub batch_size: usize,
    /// Threads of the CPU [default: all]
    #[arg(long, value_parser = positive)]
    pub threads: Option<usize>,
}

fn positive(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("expected a whole number above 0".to_string()),
    }
}

/// The digit network, or one for ImageNet.
#[derive(Clone, Copy, PartialEq)]
pub enum Network {
    Digits,
    ImageNet(Model),
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match (name, name.parse()) {
            ("digits", _) => Ok(Self::Digits),
            (_, Ok(model)) => Ok(Self::ImageNet(model)),
            _ => {
                let names: Vec<_> = Model::ALL.iter().map(|model| model.name()).collect();
                bail!("expected one of digits, {}", names.join(", "))
            }
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digits => f.pad("digits"),
            Self::ImageNet(model) => model.fmt(f),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum DTypeName {
    F32,
    F16,
    Bf16,
}

impl From<DTypeName> for DType {
    fn from(name: DTypeName) -> Self {
        match name {
            DTypeName::F32 => Self::F32,
            DTypeName::F16 => Self::F16,
            DTypeName::Bf16 => Self::BF16,
        }
    }
}
