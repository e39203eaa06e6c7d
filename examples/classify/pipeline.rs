//! Reading images while the network is at work on those before them.

use crate::classifier::Classifier;
use crate::images::Prepare;
use crate::sources::Files;
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::time::Instant;

/// Batches that wait for the network, at most.
const WAITING: usize = 2;

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
    std::thread::scope(|scope| {
        // Owned here, so that the reader stops when this ends early.
        let batches = batches;
        scope.spawn(move || {
            read(&classifier.prepare, files, batch_size, |batch| {
                sender.send(batch).is_ok()
            })
        });
        for batch in batches {
            for outcome in answer(classifier, batch)? {
                report(outcome)?;
            }
        }
        Ok(())
    })
}

/// An image ready for the network, and how long that took in milliseconds.
type Ready = (Option<PathBuf>, Result<(Tensor, f64)>);

/// Reads the images of a batch in parallel, batch after batch, until `send` is false.
fn read(prepare: &Prepare, mut files: Files, batch_size: usize, send: impl Fn(Vec<Ready>) -> bool) {
    loop {
        let batch: Vec<_> = files.by_ref().take(batch_size).collect();
        if batch.is_empty() {
            return;
        }
        let batch = batch.into_par_iter().map(|file| match file {
            Ok(file) => {
                let start = Instant::now();
                let image = prepare
                    .read(&file)
                    .map(|image| (image, milliseconds(start)));
                (Some(file), image)
            }
            Err(error) => (None, Err(error)),
        });
        if !send(batch.collect()) {
            return;
        }
    }
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
    let outcome = |(file, image): Ready| Outcome {
        file,
        answer: image.map(|(_, reading)| Answer {
            probabilities: answers.next().expect("an answer for every image"),
            milliseconds: reading + share,
        }),
    };
    Ok(batch.into_iter().map(outcome).collect())
}

fn milliseconds(start: Instant) -> f64 {
    1000.0 * start.elapsed().as_secs_f64()
}
