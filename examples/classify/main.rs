//! Classifies images: handwritten digits out of the box, ImageNet's classes with pretrained weights.
mod args;
mod classifier;
mod decode;
mod device;
mod digit;
mod imagenet;
mod images;
mod json;
mod pipeline;
mod report;
mod say;
mod sources;
mod weights;

use anyhow::Result;
use args::Args;
use clap::Parser;
use classifier::Classifier;
use report::Report;
use say::say;
use std::io;
use std::process::ExitCode;

/// The exit status of a run that could not begin or did not come to its end: some images have no result.
const CUT_SHORT: u8 = 3;

fn main() -> ExitCode {
    // candle's errors carry a backtrace where RUST_BACKTRACE is set: the message is for users.
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        std::env::set_var("RUST_LIB_BACKTRACE", "0");
    }
    let args = Args::parse();
    if let Some(threads) = args.threads {
        // Before any thread starts: rayon and candle read these at their first use.
        std::env::set_var("RAYON_NUM_THREADS", threads.to_string());
        std::env::set_var("CANDLE_NUM_THREADS", threads.to_string());
    }
    match classify(&args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            // Whoever reads the results has had enough, or knows better what became of it.
            if !is_broken_pipe(&error) {
                say!("{error:#}");
            }
            ExitCode::from(CUT_SHORT)
        }
    }
}

/// How many images failed.
fn classify(args: &Args) -> Result<usize> {
    let classifier = Classifier::load(args)?;
    let (files, known) = sources::files(&args.paths, args.null);
    let mut report = Report::new(&classifier.labels, args.top_k, args.json, known.as_deref())?;
    pipeline::run(&classifier, files, args.batch_size, |outcome| {
        report.outcome(outcome)
    })?;
    report.finish(&classifier.about);
    Ok(report.failed)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
