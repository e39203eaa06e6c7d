//! A PNG file that is written as its rows come.

use anyhow::{ensure, Context, Result};
use image::RgbImage;
use png::{BitDepth, ColorType, Encoder, StreamWriter};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// It bears its name only when it is whole.
pub struct PngFile {
    writer: StreamWriter<'static, File>,
    unfinished: Unfinished,
    path: PathBuf,
}

/// What is removed if nothing comes of it.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl PngFile {
    pub fn create(path: PathBuf, width: u32, height: u32, overwrite: bool) -> Result<Self> {
        let name = path.display();
        ensure!(
            overwrite || !path.exists(),
            "{name} is there already; --overwrite replaces it"
        );
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(".part");
        let unfinished = PathBuf::from(unfinished);
        let cannot = || format!("cannot write {name}");
        let file = File::create(&unfinished).with_context(cannot)?;
        let unfinished = Unfinished(unfinished);
        let mut encoder = Encoder::new(file, width, height);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        let writer = encoder.write_header().with_context(cannot)?;
        Ok(Self {
            writer: writer.into_stream_writer().with_context(cannot)?,
            unfinished,
            path,
        })
    }

    pub fn add(&mut self, rows: &RgbImage) -> Result<()> {
        self.writer
            .write_all(rows.as_raw())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// The file's path.
    pub fn finish(self) -> Result<PathBuf> {
        let Self {
            writer,
            unfinished,
            path,
        } = self;
        let cannot = || format!("cannot write {}", path.display());
        writer.finish().with_context(cannot)?;
        std::fs::rename(&unfinished.0, &path).with_context(cannot)?;
        Ok(path)
    }
}

/// `photo.jpg` to `photo-x4.png` in the folder; `more` follows the scale.
pub fn path(folder: &Path, file: &Path, scale: u32, more: &str) -> PathBuf {
    let mut name = file.file_stem().unwrap_or_default().to_os_string();
    name.push(format!("-x{scale}{more}.png"));
    folder.join(name)
}
