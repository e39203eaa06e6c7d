//! Trains the digit network of `candle_softpool::models::digits` on MNIST, Fashion-MNIST or any IDX files like theirs.
mod augment;
mod idx;
mod weights;

use anyhow::{bail, ensure, Result};
use candle_core::{DType, Device, ModuleT, Tensor, D};
use candle_nn::{loss, AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use candle_softpool::models::digits;
use candle_softpool::PoolingMethod;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

/// Trains a small convolutional network on handwritten digits and writes its weights as safetensors.
///
/// Reads the four files of MNIST (IDX: train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k-… for those held out), with
/// or without .gz, from the folder of --data. `python3 examples/train/digits.py` makes them from 10,000 real digits;
/// the full MNIST and Fashion-MNIST have the same form. The same seed gives the same weights.
#[derive(Parser)]
struct Args {
    /// Folder of the IDX files
    #[arg(long, default_value = "data/digits")]
    data: PathBuf,
    /// Pooling of the network: soft, max, avg, lp, stochastic, s3, lip
    #[arg(long, default_value_t = PoolingMethod::Soft)]
    pool: PoolingMethod,
    /// Seed of the first weights, the order of the images and their augmentation
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Times that every image is seen
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// Images a step
    #[arg(long, default_value_t = 50)]
    batch_size: usize,
    /// Largest learning rate; it rises for the first tenth of the steps and falls along a cosine
    #[arg(long, default_value_t = 4e-3)]
    lr: f64,
    /// Images as they are, without small random shifts and turns
    #[arg(long)]
    no_augment: bool,
    /// Names of the classes, in the order of the labels, separated by commas [default: 0,1,2,…]
    #[arg(long, value_delimiter = ',')]
    classes: Vec<String>,
    /// What the images are, for the file's metadata [default: the folder's name]
    #[arg(long)]
    about: Option<String>,
    /// The file to write
    #[arg(long, default_value = "digits.safetensors")]
    out: PathBuf,
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    ensure!(
        args.epochs > 0 && args.batch_size > 0 && args.lr.is_finite() && args.lr > 0.0,
        "--epochs, --batch-size and --lr must be above 0"
    );
    let train = idx::Digits::read(&args.data, "train")?;
    let held_out = idx::Digits::read(&args.data, "t10k")?;
    for digits in [&train, &held_out] {
        let [height, width] = digits.size;
        if digits.size != [digits::SIZE; 2] {
            bail!(
                "{}: images of {height}×{width}, expected 28×28",
                args.data.display()
            );
        }
    }
    name_classes(&mut args.classes, &[&train.labels, &held_out.labels])?;
    weights::check_writable(&args.out)?;

    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let network = digits::Digits::new(args.classes.len(), args.pool, vb)?;
    weights::initialise(&variables, &mut rng)?;
    println!(
        "{} pooling, seed {}: {} images, {} held out",
        args.pool,
        args.seed,
        train.len(),
        held_out.len()
    );
    let accuracy = fit(&network, &variables, &train, &held_out, &args, &mut rng)?;
    weights::save(
        &variables,
        metadata(&args, &train, &held_out, accuracy),
        &args.out,
    )?;
    println!("wrote {}", args.out.display());
    Ok(())
}

/// Numbers for names unless named; every label must have one.
fn name_classes(names: &mut Vec<String>, labels: &[&[u8]]) -> Result<()> {
    let largest = labels.concat().into_iter().max().unwrap_or(0);
    if names.is_empty() {
        *names = (0..=largest).map(|label| label.to_string()).collect();
    }
    ensure!(
        names.len() > usize::from(largest),
        "--classes has {} names, but there is a label {largest}",
        names.len()
    );
    Ok(())
}

/// Trains, and gives the accuracy on the held-out images after the last epoch.
fn fit(
    network: &digits::Digits,
    variables: &VarMap,
    train: &idx::Digits,
    held_out: &idx::Digits,
    args: &Args,
    rng: &mut ChaCha8Rng,
) -> Result<f64> {
    let steps_per_epoch = train.len().div_ceil(args.batch_size);
    let steps = args.epochs * steps_per_epoch;
    let params = ParamsAdamW {
        lr: args.lr,
        ..Default::default()
    };
    let mut optimizer = AdamW::new(variables.all_vars(), params)?;
    let mut order: Vec<usize> = (0..train.len()).collect();
    let (mut step, mut right) = (0, 0.0);
    println!("epoch     loss  held-out accuracy  seconds");
    for epoch in 1..=args.epochs {
        let start = Instant::now();
        let bar = ProgressBar::new(steps_per_epoch as u64);
        bar.set_style(ProgressStyle::with_template(
            "epoch {msg} {bar:30} {pos}/{len}, {eta} left",
        )?);
        bar.set_message(format!("{epoch}/{}", args.epochs));
        order.shuffle(rng);
        let mut sum = 0.0;
        for indices in order.chunks(args.batch_size) {
            optimizer.set_learning_rate(args.lr * schedule(step as f64 / steps as f64));
            let (images, labels) = batch(train, indices, (!args.no_augment).then_some(&mut *rng))?;
            let loss = loss::cross_entropy(&network.forward_t(&images, true)?, &labels)?;
            optimizer.backward_step(&loss)?;
            let loss = loss.to_scalar::<f32>()?;
            ensure!(
                loss.is_finite(),
                "the loss is {loss} in epoch {epoch}: take a smaller --lr than {}",
                args.lr
            );
            sum += f64::from(loss);
            step += 1;
            bar.inc(1);
        }
        bar.finish_and_clear();
        right = accuracy(network, held_out)?;
        println!(
            "{epoch:5}  {:7.4}  {:16.2}%  {:7.1}",
            sum / steps_per_epoch as f64,
            100.0 * right,
            start.elapsed().as_secs_f64()
        );
    }
    Ok(right)
}

/// The part of the largest learning rate at this part of the training.
fn schedule(done: f64) -> f64 {
    const RISE: f64 = 0.1;
    match done < RISE {
        true => 0.1 + 0.9 * done / RISE,
        false => 0.5 + 0.5 * (std::f64::consts::PI * (done - RISE) / (1.0 - RISE)).cos(),
    }
}

/// Images `(N, 1, 28, 28)` from 0 to 1, augmented where there is a generator, and labels `(N)`.
fn batch(
    digits: &idx::Digits,
    indices: &[usize],
    mut augment: Option<&mut impl Rng>,
) -> Result<(Tensor, Tensor)> {
    let [height, width] = digits.size;
    let mut pixels = Vec::with_capacity(indices.len() * height * width);
    for &i in indices {
        match &mut augment {
            Some(rng) => augment::moved(digits.image(i), digits.size, rng, &mut pixels),
            None => pixels.extend(digits.image(i).iter().map(|&byte| f32::from(byte) / 255.0)),
        }
    }
    let labels: Vec<u32> = indices.iter().map(|&i| digits.labels[i].into()).collect();
    Ok((
        Tensor::from_vec(pixels, (indices.len(), 1, height, width), &Device::Cpu)?,
        Tensor::from_vec(labels, indices.len(), &Device::Cpu)?,
    ))
}

fn accuracy(network: &digits::Digits, digits: &idx::Digits) -> Result<f64> {
    let mut right = 0.0;
    let indices: Vec<_> = (0..digits.len()).collect();
    for indices in indices.chunks(250) {
        let (images, labels) = batch(digits, indices, None::<&mut ChaCha8Rng>)?;
        let answers = network.forward_t(&images, false)?.argmax(D::Minus1)?;
        let equal = answers.eq(&labels)?.to_dtype(DType::F32)?;
        right += f64::from(equal.sum_all()?.to_scalar::<f32>()?);
    }
    Ok(right / digits.len() as f64)
}

/// What a reader of the weights needs to know, in the file itself.
fn metadata(
    args: &Args,
    train: &idx::Digits,
    held_out: &idx::Digits,
    accuracy: f64,
) -> HashMap<String, String> {
    let folder = args.data.file_name().unwrap_or_default();
    let about = args
        .about
        .clone()
        .unwrap_or_else(|| folder.display().to_string());
    HashMap::from(
        [
            ("model", "digits".to_string()),
            ("classes", args.classes.join(",")),
            ("pooling", args.pool.to_string()),
            (
                "accuracy",
                format!("{accuracy:.4} on {} held-out images", held_out.len()),
            ),
            ("trained_on", format!("{about}, {} images", train.len())),
            ("seed", args.seed.to_string()),
            ("epochs", args.epochs.to_string()),
            ("batch_size", args.batch_size.to_string()),
            ("learning_rate", args.lr.to_string()),
        ]
        .map(|(key, value)| (key.to_string(), value)),
    )
}
