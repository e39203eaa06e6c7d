//! `examples/train` from the command line, on a handful of images.

#[path = "common/example.rs"]
mod example;

use candle_core::{Device, Tensor};
use example::{example, text};
use flate2::{write::GzEncoder, Compression};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::Output;

fn train(data: &Path, args: &[&str]) -> Output {
    let mut command = example("train");
    command.arg("--data").arg(data).args(args);
    command.output().expect("the example runs")
}

fn idx(sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, sizes.len() as u8];
    file.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    file.extend(bytes);
    file
}

/// Bars for class 0, discs for class 1; the labels of those for training compressed.
fn data(folder: &Path) {
    let pixel = |i: u32, x: u32, y: u32| match i % 2 {
        0 => x.abs_diff(14) < 3 && y.abs_diff(14) < 9,
        _ => x.abs_diff(14).pow(2) + y.abs_diff(14).pow(2) < 50,
    };
    for (prefix, count) in [("train", 40), ("t10k", 10)] {
        let cells = (0..count).flat_map(|i| (0..28 * 28).map(move |c| (i, c % 28, c / 28)));
        let pixels: Vec<u8> = cells
            .map(|(i, x, y)| 255 * u8::from(pixel(i, x, y)))
            .collect();
        let labels: Vec<u8> = (0..count).map(|i| (i % 2) as u8).collect();
        let images = folder.join(format!("{prefix}-images-idx3-ubyte"));
        std::fs::write(images, idx(&[count, 28, 28], &pixels)).expect("written");
        let labels_file = folder.join(format!("{prefix}-labels-idx1-ubyte"));
        std::fs::write(labels_file, idx(&[count], &labels)).expect("written");
    }
    let plain = folder.join("train-labels-idx1-ubyte");
    let mut gz = GzEncoder::new(vec![], Compression::fast());
    gz.write_all(&std::fs::read(&plain).expect("read"))
        .expect("compressed");
    let gz = gz.finish().expect("compressed");
    std::fs::write(folder.join("train-labels-idx1-ubyte.gz"), gz).expect("written");
    std::fs::remove_file(plain).expect("removed");
}

fn tensors(file: &Path) -> HashMap<String, Vec<f32>> {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).expect("whole weights");
    let values = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1()).expect("numbers");
    tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), values(tensor)))
        .collect()
}

#[test]
fn a_seed_gives_the_same_weights_and_they_tell_what_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    data(folder.path());
    let fit = |name: &str, seed: &str| {
        let out = folder.path().join(name);
        let file = out.display().to_string();
        let args = [
            "--epochs",
            "6",
            "--batch-size",
            "8",
            "--seed",
            seed,
            "--classes",
            "bar,disc",
            "--out",
            &file,
        ];
        let output = train(folder.path(), &args);
        let log = text(&output.stdout);
        assert!(output.status.success(), "{log}{}", text(&output.stderr));
        assert!(log.contains("40 images, 10 held out"), "{log}");
        out
    };
    let first = fit("first.safetensors", "1");
    let again = fit("again.safetensors", "1");
    let other = fit("other.safetensors", "2");
    assert_eq!(tensors(&first), tensors(&again));
    assert_ne!(tensors(&first), tensors(&other));

    let bytes = std::fs::read(&first).expect("the weights");
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
    let metadata = header.metadata().clone().expect("metadata");
    assert_eq!(metadata["model"], "digits");
    assert_eq!(metadata["classes"], "bar,disc");
    assert_eq!(metadata["pooling"], "soft");
    assert_eq!(metadata["seed"], "1");
    assert_eq!(metadata["accuracy"], "1.0000 on 10 held-out images");
    // Nothing is left of the file that was written first.
    let names = std::fs::read_dir(folder.path()).expect("the folder");
    let parts = names.filter(|e| {
        e.as_ref()
            .is_ok_and(|e| e.path().extension() == Some("part".as_ref()))
    });
    assert_eq!(parts.count(), 0);
}

#[test]
fn files_that_are_missing_or_cut_short_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let fails = |parts: &[&str]| {
        let output = train(folder.path(), &["--epochs", "1"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    fails(&["train-images-idx3-ubyte", "digits.py"]);
    data(folder.path());
    let images = folder.path().join("t10k-images-idx3-ubyte");
    let whole = std::fs::read(&images).expect("the images");
    std::fs::write(&images, &whole[..1000]).expect("written");
    fails(&["t10k-images-idx3-ubyte", "truncated"]);
    std::fs::write(&images, "plain text").expect("written");
    fails(&["t10k-images-idx3-ubyte", "not an IDX file"]);
    let (sizes, pixels) = ([10, 27, 28], vec![0; 10 * 27 * 28]);
    std::fs::write(&images, idx(&sizes, &pixels)).expect("written");
    fails(&["27×28", "28×28"]);
}

/// Hours of training are not to end without a file.
#[test]
fn a_file_that_cannot_be_written_is_named_before_training() {
    let folder = tempfile::tempdir().expect("a folder");
    data(folder.path());
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").expect("written");
    for out in [file.join("digits.safetensors"), folder.path().to_path_buf()] {
        let out = out.display().to_string();
        let output = train(folder.path(), &["--epochs", "1", "--out", &out]);
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.contains(&format!("cannot write {out}")), "{error}");
        assert!(!text(&output.stdout).contains("epoch"));
    }
}
