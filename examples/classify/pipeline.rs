//! Reading images while the network is at work on those before them.

use crate::classifier::Classifier;
use crate::images::Prepare;
use crate::sources::Files;
use anyhow::{bail, Result};
use candle_core::Tensor;
use rayon::prelude::*;
use std::path::PathBuf;
use std::sync::mpsc::{sync_channel, Receiver};
use std::time::{Duration, Instant};

/// Batches that wait for the network, at most.
const WAITING: usize = 2;

/// Input that brings no file for so long has paused: what has come is answered.
const PAUSE: Duration = Duration::from_millis(20);

/// What became of one file; where a folder or standard input failed, there is none.
pub struct Outcome {
    pub file: Option<PathBuf>,
    pub answer: Result<Answer>,
}

pub struct Answer {
    /// Of every class.
    pub probabilities: Vec<f32>,
    /// Decoding and preparing, and the share of the batch's pass through the network.
    pub milliseconds: f64,
}

/// Classifies every file and hands each outcome to `report`, in the files' order.
pub fn run(
    classifier: &Classifier,
    files: Files,
    batch_size: usize,
    mut report: impl FnMut(Outcome) -> Result<()>,
) -> Result<()> {
    let (sender, batches) = sync_channel(WAITING);
    let (named, names) = sync_channel(batch_size);
    // Not of the scope: it may wait for input when all else has ended.
    std::thread::spawn(move || {
        for file in files {
            if named.send(file).is_err() {
                return;
            }
        }
    });
    std::thread::scope(|scope| {
        // Owned here, so that the reader stops when this ends early.
        let batches = batches;
        scope.spawn(move || {
            while let Some(files) = batch(&names, batch_size) {
                if sender.send(read(&classifier.prepare, files)).is_err() {
                    return;
                }
            }
        });
        for batch in batches {
            for outcome in answer(classifier, batch)? {
                report(outcome)?;
            }
        }
        Ok(())
    })
}

/// The next files: a whole batch, or those that came before a pause; `None` at the end.
fn batch(names: &Receiver<Result<PathBuf>>, size: usize) -> Option<Vec<Result<PathBuf>>> {
    let mut batch = vec![names.recv().ok()?];
    while batch.len() < size {
        match names.recv_timeout(PAUSE) {
            Ok(file) => batch.push(file),
            Err(_) => break,
        }
    }
    Some(batch)
}

/// An image ready for the network, and how long that took in milliseconds.
type Ready = (Option<PathBuf>, Result<(Tensor, f64)>);

/// Reads the images of a batch in parallel.
fn read(prepare: &Prepare, batch: Vec<Result<PathBuf>>) -> Vec<Ready> {
    let read = |file: Result<PathBuf>| match file {
        Ok(file) => {
            let start = Instant::now();
            let image = prepare.read(&file);
            (Some(file), image.map(|image| (image, milliseconds(start))))
        }
        Err(error) => (None, Err(error)),
    };
    batch.into_par_iter().map(read).collect()
}

fn answer(classifier: &Classifier, batch: Vec<Ready>) -> Result<Vec<Outcome>> {
    let readable = batch.iter().filter_map(|(_, image)| image.as_ref().ok());
    let images: Vec<Tensor> = readable.map(|(image, _)| image.clone()).collect();
    let start = Instant::now();
    let mut answers = match images.is_empty() {
        true => vec![],
        false => classifier.classify(&images)?,
    }
    .into_iter();
    let share = milliseconds(start) / images.len().max(1) as f64;
    let mut outcome = |(file, image): Ready| {
        let answer = image.and_then(|(_, reading)| {
            let probabilities: Vec<f32> = answers.next().expect("an answer for every image");
            if probabilities.iter().any(|p| p.is_nan()) {
                bail!("the network's answer is not a number: look at the weights");
            }
            Ok(Answer {
                probabilities,
                milliseconds: reading + share,
            })
        });
        Outcome { file, answer }
    };
    Ok(batch.into_iter().map(&mut outcome).collect())
}

fn milliseconds(start: Instant) -> f64 {
    1000.0 * start.elapsed().as_secs_f64()
}
