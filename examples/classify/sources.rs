//! Which files to read.

use anyhow::{anyhow, Context, Result};
use std::io::BufRead;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Files, or why there are none where the user named some; one by one, since standard input may not end soon.
pub type Files = Box<dyn Iterator<Item = Result<PathBuf>> + Send>;

/// The files that paths stand for, and how many where that is known beforehand.
pub fn files(paths: &[PathBuf], null: bool) -> (Files, Option<Vec<PathBuf>>) {
    if paths.iter().any(|path| path == Path::new("-")) {
        let paths = paths.to_vec();
        let files = paths.into_iter().flat_map(move |path| -> Files {
            match path == Path::new("-") {
                true => Box::new(standard_input(null)),
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

/// The files of the paths there: one a line, or each before a NUL byte.
fn standard_input(null: bool) -> impl Iterator<Item = Result<PathBuf>> {
    let end = if null { 0 } else { b'\n' };
    let entries = std::io::BufReader::new(std::io::stdin()).split(end);
    entries.flat_map(move |entry| match entry {
        Ok(mut entry) => {
            if !null && entry.ends_with(b"\r") {
                entry.pop();
            }
            match entry.is_empty() {
                true => vec![],
                false => expand(&path(entry)),
            }
        }
        Err(error) => vec![Err(error).context("standard input")],
    })
}

/// A path is any bytes there.
#[cfg(unix)]
fn path(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(not(unix))]
fn path(bytes: Vec<u8>) -> PathBuf {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// The file itself, or of a folder and of those in it the files, by name, that are named as images that can be read.
fn expand(path: &Path) -> Vec<Result<PathBuf>> {
    if !path.is_dir() {
        return vec![Ok(path.to_path_buf())];
    }
    let mut found = vec![];
    for entry in WalkDir::new(path).follow_links(true).sort_by_file_name() {
        match entry {
            Ok(entry) => {
                let format = image::ImageFormat::from_path(entry.path());
                let readable = format.is_ok_and(|format| format.reading_enabled());
                if readable && !entry.file_type().is_dir() {
                    found.push(Ok(entry.into_path()));
                }
            }
            // Its message names the path: a folder that cannot be read, a link to nothing or to a folder around it.
            Err(error) => found.push(Err(error.into())),
        }
    }
    if found.is_empty() {
        found.push(Err(anyhow!("{}: no images in this folder", path.display())));
    }
    found
}
