//! Enlarges photographs with PlainUSR, super-resolution with SoftPool inside, tile by tile.
mod args;
mod bicubic;
#[path = "../classify/decode.rs"]
mod decode;
#[path = "../classify/device.rs"]
mod device;
mod enlarge;
#[path = "../classify/json.rs"]
mod json;
mod kept;
mod network;
mod png_file;
mod psnr;
#[path = "../classify/say.rs"]
mod say;
#[path = "../classify/sources.rs"]
mod sources;
mod tiles;

use anyhow::{ensure, Result};
use args::Args;
use clap::Parser;
use enlarge::{enlarge, Enlarged};
use indicatif::{ProgressBar, ProgressStyle};
use json::add_path;
use kept::Kept;
use network::Network;
use say::say;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // candle's errors carry a backtrace where RUST_BACKTRACE is set: the message is for users.
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        std::env::set_var("RUST_LIB_BACKTRACE", "0");
    }
    match upscale(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How many images failed.
fn upscale(args: &Args) -> Result<usize> {
    let network = Network::load(args)?;
    let (files, known) = sources::files(&args.paths, false);
    ensure!(
        args.original.is_none() || known.as_ref().is_some_and(|files| files.len() == 1),
        "--original is of one image; take --reduce for several"
    );
    let bar = ProgressBar::no_length().with_style(ProgressStyle::with_template(
        "{msg} {bar:30} {pos}/{len} tiles, {eta} left",
    )?);
    let mut kept = Kept::default();
    known.iter().flatten().for_each(|file| kept.keep(file));
    args.original.iter().for_each(|file| kept.keep(file));
    let mut failed = 0;
    for file in files {
        let (file, enlarged) = match file {
            Ok(file) => {
                bar.set_message(file.display().to_string());
                kept.keep(&file);
                let enlarged = enlarge(&file, args, &network, &mut kept, &bar);
                (Some(file), enlarged)
            }
            Err(error) => (None, Err(error)),
        };
        failed += usize::from(enlarged.is_err());
        bar.suspend(|| report(file.as_deref(), &enlarged, args.json))?;
    }
    bar.finish_and_clear();
    Ok(failed)
}

/// A line on standard output for every image, and one on standard error for each that failed.
fn report(file: Option<&Path>, enlarged: &Result<Enlarged>, json: bool) -> Result<()> {
    let name = || file.map(|file| file.display().to_string());
    if let Err(error) = enlarged {
        let name = name().map(|name| format!("{name}: "));
        say!("{}{error:#}", name.unwrap_or_default());
    }
    let line = match (enlarged, json) {
        (Ok(enlarged), false) => enlarged.line(&name().unwrap_or_default()),
        (Err(_), false) => return Ok(()),
        (enlarged, true) => {
            let mut line = match enlarged {
                Ok(enlarged) => enlarged.json(),
                Err(error) => serde_json::json!({"error": format!("{error:#}")}),
            };
            add_path(&mut line, "file", file);
            line.to_string()
        }
    };
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
