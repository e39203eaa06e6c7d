//! `examples/downsample` from the command line: scores, the montage, and what it says when something is wrong.

#[path = "common/example.rs"]
mod example;

use example::{example, lines, manifest, text, unread};
use image::{DynamicImage, Rgb, RgbImage};
use std::path::Path;
use std::process::Output;
use tempfile::tempdir;

/// Runs the example on a folder's files, with the montage beside them.
fn downsample(folder: &Path, files: &[&str], more: &[&str]) -> Output {
    let mut command = example("downsample");
    command.args(["--json", "--kernels", "2", "--methods", "soft,avg"]);
    command.arg("--output").arg(folder.join("montage.png"));
    command.args(more);
    command.args(files.iter().map(|file| folder.join(file)));
    command.output().expect("the example runs")
}

fn photograph() -> RgbImage {
    RgbImage::from_fn(60, 40, |x, y| {
        Rgb([x * 4, y * 6, x * y % 256].map(|c| c as u8))
    })
}

#[test]
fn each_method_is_scored_and_the_montage_drawn() {
    let folder = tempdir().expect("a folder");
    photograph()
        .save(folder.path().join("photo.png"))
        .expect("saved");
    let output = downsample(folder.path(), &["photo.png"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let lines = lines(&output);
    let methods: Vec<_> = lines.iter().map(|line| &line["method"]).collect();
    assert_eq!(methods, ["soft", "avg"]);
    assert!(lines.iter().all(|line| line["ssim"].is_f64()));
    assert!(image::open(folder.path().join("montage.png")).is_ok());
}

#[test]
fn what_cannot_be_read_is_named_and_the_others_scored() {
    let folder = tempdir().expect("a folder");
    let whole = std::fs::read(manifest("examples/downsample/images/coffee.jpg"));
    let whole = whole.expect("the sample");
    let short = &whole[..whole.len() / 2];
    std::fs::write(folder.path().join("short.jpg"), short).expect("written");
    std::fs::create_dir(folder.path().join("empty")).expect("created");
    photograph()
        .save(folder.path().join("photo.png"))
        .expect("saved");
    let files = ["missing.png", "short.jpg", "empty", "photo.png"];
    let output = downsample(folder.path(), &files, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for (name, fault) in [
        ("missing.png", "cannot read it"),
        ("short.jpg", "truncated"),
        ("empty", "no images"),
    ] {
        let named = |line: &str| line.contains(name) && line.contains(fault);
        assert!(said.lines().any(named), "{name}: {said}");
    }
    let names = lines(&output);
    let photo = folder.path().join("photo.png").display().to_string();
    assert!(names.len() == 2 && names.iter().all(|line| line["file"] == photo));
}

#[test]
fn photographs_are_turned_as_their_exif_data_say_unless_told() {
    let folder = tempdir().expect("a folder");
    let stored = DynamicImage::ImageRgb8(photograph());
    for (name, orientation) in [("turned.jpg", 6), ("stored.jpg", 1)] {
        let file = folder.path().join(name);
        std::fs::write(file, example::jpeg(&stored, orientation)).expect("written");
    }
    let montage = |file: &str, more: &[&str]| {
        let output = downsample(folder.path(), &[file], more);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        image::open(folder.path().join("montage.png")).expect("the montage")
    };
    let stored = montage("stored.jpg", &[]);
    assert_ne!(montage("turned.jpg", &[]), stored);
    assert_eq!(montage("turned.jpg", &["--no-orient"]), stored);
}

#[test]
fn a_photograph_is_not_replaced_by_the_montage() {
    let folder = tempdir().expect("a folder");
    let file = folder.path().join("montage.png");
    photograph().save(&file).expect("saved");
    let output = downsample(folder.path(), &["montage.png"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("montage.png is read or was written in this run"),
        "{said}"
    );
    assert_eq!(image::open(file).expect("there").into_rgb8(), photograph());
}

#[test]
fn results_that_nobody_reads_are_an_error_of_a_line() {
    let folder = tempdir().expect("a folder");
    for json in [&["--json"][..], &[]] {
        let mut command = example("downsample");
        command
            .args(["--kernels", "5", "--methods", "avg"])
            .args(json)
            .arg("--output")
            .arg(folder.path().join("montage.png"));
        let output = unread(&mut command);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stderr).lines().count(), 1);
    }
}
