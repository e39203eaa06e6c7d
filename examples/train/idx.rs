//! MNIST's files of images and labels (IDX), as they are or compressed by gzip.

use anyhow::{bail, ensure, Context, Result};
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Images of one size with their labels.
pub struct Digits {
    pub size: [usize; 2],
    /// Image after image, row after row.
    pub pixels: Vec<u8>,
    pub labels: Vec<u8>,
}

impl Digits {
    /// Reads `PREFIX-images-idx3-ubyte` and `PREFIX-labels-idx1-ubyte` of a folder, with or without `.gz`.
    pub fn read(folder: &Path, prefix: &str) -> Result<Self> {
        let (images, pixels) = read(&folder.join(format!("{prefix}-images-idx3-ubyte")), 3)?;
        let (counts, labels) = read(&folder.join(format!("{prefix}-labels-idx1-ubyte")), 1)?;
        ensure!(
            images[0] == counts[0],
            "{}: {} {prefix} images but {} labels",
            folder.display(),
            images[0],
            counts[0]
        );
        ensure!(
            images[0] > 0,
            "{}: no {prefix} images in it",
            folder.display()
        );
        let size = [images[1], images[2]];
        Ok(Self {
            size,
            pixels,
            labels,
        })
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn image(&self, i: usize) -> &[u8] {
        let cells = self.size[0] * self.size[1];
        &self.pixels[i * cells..][..cells]
    }
}

/// The sizes and the bytes of one file.
fn read(file: &Path, rank: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let (file, bytes) = open(file)?;
    parse(&bytes, rank).with_context(|| file.display().to_string())
}

fn open(file: &Path) -> Result<(PathBuf, Vec<u8>)> {
    let mut bytes = vec![];
    if let Ok(mut plain) = File::open(file) {
        plain
            .read_to_end(&mut bytes)
            .with_context(|| file.display().to_string())?;
        return Ok((file.to_owned(), bytes));
    }
    let gz = PathBuf::from(format!("{}.gz", file.display()));
    let Ok(packed) = File::open(&gz) else {
        bail!(
            "no file {} or {}; examples/train/digits.py makes digits",
            file.display(),
            gz.display()
        );
    };
    GzDecoder::new(packed)
        .read_to_end(&mut bytes)
        .with_context(|| gz.display().to_string())?;
    Ok((gz, bytes))
}

fn parse(bytes: &[u8], rank: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let header = 4 * (1 + rank);
    ensure!(
        bytes.starts_with(&[0, 0, 8, rank as u8]) && bytes.len() >= header,
        "not an IDX file of bytes with {rank} dimension(s)"
    );
    let sizes: Vec<_> = bytes[4..header]
        .chunks(4)
        .map(|size| u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize)
        .collect();
    let body = &bytes[header..];
    let expected = sizes
        .iter()
        .try_fold(1usize, |n, size| n.checked_mul(*size));
    ensure!(
        expected == Some(body.len()),
        "{} bytes after the header, expected {sizes:?}: truncated?",
        body.len()
    );
    Ok((sizes, body.to_vec()))
}
