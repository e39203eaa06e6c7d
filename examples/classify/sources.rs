//! Which files to classify.

use anyhow::{Context, Result};
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// Files, or why there are none where the user named some; one by one, since standard input may not end soon.
pub type Files = Box<dyn Iterator<Item = Result<PathBuf>> + Send>;

/// The files that paths stand for, and how many where that is known beforehand.
pub fn files(paths: &[PathBuf]) -> (Files, Option<Vec<PathBuf>>) {
    let samples = [Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/classify/samples")];
    let paths = if paths.is_empty() { &samples } else { paths };
    if paths.iter().any(|path| path == Path::new("-")) {
        let paths = paths.to_vec();
        let files = paths.into_iter().flat_map(|path| -> Files {
            match path == Path::new("-") {
                true => Box::new(standard_input()),
                false => Box::new(expand(&path).into_iter()),
            }
        });
        return (Box::new(files), None);
    }
    let files: Vec<_> = paths.iter().flat_map(|path| expand(path)).collect();
    let known = files.iter().filter_map(|f| f.as_ref().ok().cloned());
    let known = known.collect();
    (Box::new(files.into_iter()), Some(known))
}

/// One path a line.
fn standard_input() -> impl Iterator<Item = Result<PathBuf>> {
    let lines = std::io::BufReader::new(std::io::stdin()).split(b'\n');
    lines.filter_map(|line| {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error).context("standard input")),
        };
        let text = String::from_utf8_lossy(&line);
        let path = text.trim_end_matches('\r');
        (!path.is_empty()).then(|| Ok(path.into()))
    })
}

/// The file itself, or the images of a folder by name.
fn expand(path: &Path) -> Vec<Result<PathBuf>> {
    if !path.is_dir() {
        return vec![Ok(path.to_path_buf())];
    }
    match images(path) {
        Ok(images) if images.is_empty() => {
            vec![Err(anyhow::anyhow!(
                "{}: no images in this folder",
                path.display()
            ))]
        }
        Ok(images) => images.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error).with_context(|| path.display().to_string())],
    }
}

fn images(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut images = vec![];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if image::ImageFormat::from_path(&path).is_ok() && path.is_file() {
            images.push(path);
        }
    }
    images.sort();
    Ok(images)
}
