//! `examples/upscale` from the command line, with a small network: tiles, sizes, PSNR, and what it says when something is wrong.

#[path = "common/example.rs"]
mod example;

use candle_core::{Device, Tensor};
use example::{example, lines, manifest, text};
use image::{Rgb, RgbImage};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::{tempdir, TempDir};

/// A folder with weights that enlarge twice, of `fixtures/make_plain_usr.py`, and a photograph of an odd size.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempdir().expect("a folder"));
        let fixture = manifest("tests/fixtures/plain_usr.safetensors");
        let tensors = candle_core::safetensors::load(fixture, &Device::Cpu).expect("the fixture");
        let tensors: HashMap<String, Tensor> = tensors
            .into_iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("two.")?.to_string(), tensor)))
            .collect();
        candle_core::safetensors::save(&tensors, place.path("two.safetensors")).expect("saved");
        photograph(101, 87)
            .save(place.path("photo.png"))
            .expect("saved");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn image(&self, name: &str) -> RgbImage {
        image::open(self.path(name)).expect(name).into_rgb8()
    }

    /// Runs the example on these files, with results in this folder.
    fn run(&self, files: &[&str], more: &[&str]) -> Output {
        let mut command = example("upscale");
        command.args(["--weights", &self.text("two.safetensors"), "--output"]);
        command.arg(self.0.path()).args(more);
        command.args(files.iter().map(|file| self.path(file)));
        command.output().expect("the example runs")
    }

    #[track_caller]
    fn succeeds(&self, files: &[&str], more: &[&str]) -> Output {
        let output = self.run(files, more);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        output
    }
}

/// A part of a sample.
fn photograph(width: u32, height: u32) -> RgbImage {
    let file = manifest("examples/downsample/images/coffee.jpg");
    let image = image::open(file).expect("the sample").into_rgb8();
    image::imageops::crop_imm(&image, 100, 60, width, height).to_image()
}

fn apart(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    let pairs = a.as_raw().iter().zip(b.as_raw());
    pairs.map(|(a, b)| a.abs_diff(*b)).max().expect("pixels")
}

#[test]
fn a_photograph_becomes_as_many_times_larger_as_the_weights_do() {
    let place = Place::new();
    let output = place.succeeds(&["photo.png"], &["--json"]);
    let line = &lines(&output)[0];
    assert_eq!(line["file"], place.text("photo.png"));
    assert_eq!(line["output"], place.text("photo-x2.png"));
    assert_eq!(
        (&line["width"], &line["height"]),
        (&202.into(), &174.into())
    );
    assert_eq!(line["scale"], 2);
    assert!(line["psnr"].is_null() && line["seconds"].as_f64().is_some_and(|s| s > 0.0));
    assert_eq!(place.image("photo-x2.png").dimensions(), (202, 174));

    let output = place.succeeds(&["photo.png"], &["--overwrite"]);
    let line = text(&output.stdout);
    assert!(line.contains("photo-x2.png (202×174, "), "{line}");
}

/// The network's output for the whole photograph, to the nearest level.
#[test]
fn tiles_give_what_the_whole_image_gives() {
    let place = Place::new();
    place.succeeds(&["photo.png"], &["--tile", "4096"]);
    let whole = place.image("photo-x2.png");
    let network = candle_softpool::models::PlainUsr::load(
        place.path("two.safetensors"),
        candle_core::DType::F32,
        &Device::Cpu,
    );
    let photo = place.image("photo.png").into_raw();
    let expected = Tensor::from_vec(photo, (1, 87, 101, 3), &Device::Cpu)
        .and_then(|image| {
            image
                .permute((0, 3, 1, 2))?
                .to_dtype(candle_core::DType::F32)?
                / 255.0
        })
        .and_then(|image| image.apply(&network.expect("the network")))
        .and_then(|large| (large.clamp(0f32, 1f32)? * 255.0)?.permute((0, 2, 3, 1)))
        .and_then(|large| large.flatten_all()?.to_vec1::<f32>())
        .expect("an image");
    let levels = whole.as_raw().iter().map(|&level| f32::from(level));
    let rounding = levels.zip(&expected).map(|(a, b)| (a - b).abs());
    assert!(rounding.fold(0.0, f32::max) < 0.501);

    // The default overlap, and none at all; tiles of one pixel at the end of a row.
    for (tile, overlap, most) in [("20", "132", 1), ("25", "36", 1), ("50", "24", 2)] {
        let more = ["--tile", tile, "--overlap", overlap, "--overwrite"];
        place.succeeds(&["photo.png"], &more);
        let apart = apart(&place.image("photo-x2.png"), &whole);
        assert!(apart <= most, "{apart} levels with {more:?}");
    }
    place.succeeds(
        &["photo.png"],
        &["--tile", "20", "--overlap", "0", "--overwrite"],
    );
    assert!(apart(&place.image("photo-x2.png"), &whole) > 2);
}

#[test]
fn psnr_is_of_the_luma_inside_a_border_and_beside_bicubic() {
    let place = Place::new();
    place.succeeds(&["photo.png"], &[]);
    // An original apart from the result by what the test draws, at the border by everything.
    let result = place.image("photo-x2.png");
    let (width, height) = result.dimensions();
    let inside = |x, y| x >= 2 && y >= 2 && x < width - 2 && y < height - 2;
    let original = RgbImage::from_fn(width, height, |x, y| match inside(x, y) {
        true => Rgb(result.get_pixel(x, y).0.map(|c| c ^ ((x + y) % 16) as u8)),
        false => Rgb(result.get_pixel(x, y).0.map(|c| !c)),
    });
    original.save(place.path("original.png")).expect("saved");
    let luma = |image: &RgbImage, x, y| {
        let [r, g, b] = image.get_pixel(x, y).0.map(f64::from);
        (65.481 * r + 128.553 * g + 24.966 * b) / 255.0
    };
    let (mut squares, mut pixels) = (0.0, 0.0);
    for (x, y, _) in result.enumerate_pixels().filter(|(x, y, _)| inside(*x, *y)) {
        squares += (luma(&result, x, y) - luma(&original, x, y)).powi(2);
        pixels += 1.0;
    }
    let expected = 10.0 * (255f64.powi(2) * pixels / squares).log10();

    // In tiles, whose rows are compared one after the other.
    let original = place.text("original.png");
    let more = ["--json", "--overwrite", "--tile", "30", "--overlap", "132"];
    let output = place.succeeds(
        &["photo.png"],
        &[&more[..], &["--original", &original]].concat(),
    );
    let line = &lines(&output)[0];
    let found = line["psnr"].as_f64().expect("a number");
    assert!((found - expected).abs() < 0.05, "{found} for {expected}");
    assert!(line["bicubic_psnr"].as_f64().is_some_and(f64::is_finite));
}

#[test]
fn reduced_photographs_are_compared_with_themselves() {
    let place = Place::new();
    // Of one colour, which bicubic interpolation keeps; an odd row and column are left out.
    RgbImage::from_pixel(61, 41, Rgb([90, 120, 30]))
        .save(place.path("plain.png"))
        .expect("saved");
    photograph(121, 80)
        .save(place.path("second.png"))
        .expect("saved");
    let output = place.succeeds(&["plain.png", "second.png"], &["--json", "--reduce"]);
    let found = lines(&output);
    assert_eq!(
        (&found[0]["width"], &found[0]["height"]),
        (&60.into(), &40.into())
    );
    // JSON has no infinity.
    assert!(found[0]["bicubic_psnr"].is_null());
    assert!(found[0]["psnr"].as_f64().is_some());
    let bicubic = found[1]["bicubic_psnr"].as_f64().expect("a number");
    assert!((20.0..50.0).contains(&bicubic), "{bicubic}");
}

/// The authors' weights, which are not of this package.
#[test]
fn published_weights_are_nearer_to_the_original_than_bicubic() {
    let Some(folder) = std::env::var_os("SOFTPOOL_PLAINUSR").map(PathBuf::from) else {
        eprintln!("skipped: SOFTPOOL_PLAINUSR names no folder with PlainUSR's weights");
        return;
    };
    let place = Place::new();
    photograph(240, 200)
        .save(place.path("large.png"))
        .expect("saved");
    let weights = folder.join("PlainUSRS_Rep_x4.pth").display().to_string();
    let output = example("upscale")
        .args(["--weights", &weights, "--json", "--reduce", "--output"])
        .args([place.0.path(), &place.path("large.png")])
        .output()
        .expect("the example runs");
    let line = &lines(&output)[0];
    let [ours, bicubic] = ["psnr", "bicubic_psnr"].map(|name| line[name].as_f64().expect(name));
    assert!(ours > bicubic + 0.5, "{ours} {bicubic}");
}

#[test]
fn a_detail_shows_bicubic_and_the_result_side_by_side() {
    let place = Place::new();
    place.succeeds(&["photo.png"], &["--detail", "100", "80", "40"]);
    let detail = place.image("photo-x2-detail.png");
    assert_eq!(detail.dimensions(), (40 + 4 + 40, 40));
    let result = place.image("photo-x2.png");
    let cut = |image: &RgbImage, x, y| image::imageops::crop_imm(image, x, y, 40, 40).to_image();
    assert!(apart(&cut(&detail, 44, 0), &cut(&result, 80, 60)) <= 1);

    place.succeeds(
        &["photo.png"],
        &["--reduce", "--overwrite", "--detail", "0", "0", "9999"],
    );
    let detail = place.image("photo-x2-detail.png");
    assert_eq!(detail.dimensions(), (3 * 86 + 8, 86));
    let original = image::imageops::crop_imm(&place.image("photo.png"), 0, 0, 86, 86).to_image();
    let last = image::imageops::crop_imm(&detail, 180, 0, 86, 86).to_image();
    assert_eq!(last, original);
}

#[test]
fn transparent_images_are_laid_on_white() {
    let place = Place::new();
    let clear = image::RgbaImage::from_pixel(20, 20, image::Rgba([0, 0, 0, 0]));
    clear.save(place.path("clear.png")).expect("saved");
    RgbImage::from_pixel(20, 20, Rgb([255; 3]))
        .save(place.path("white.png"))
        .expect("saved");
    place.succeeds(&["clear.png", "white.png"], &[]);
    assert_eq!(place.image("clear-x2.png"), place.image("white-x2.png"));
}

// What is wrong

#[test]
fn without_weights_it_says_where_to_get_them() {
    let output = example("upscale")
        .arg("photo.jpg")
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("--weights") && said.contains("https://github.com/icandle/PlainUSR"),
        "{said}"
    );
}

#[test]
fn files_that_fail_are_named_and_the_others_enlarged() {
    let place = Place::new();
    std::fs::write(place.path("text.png"), "no image").expect("written");
    RgbImage::new(6, 40)
        .save(place.path("thin.png"))
        .expect("saved");
    let output = place.run(
        &["missing.png", "text.png", "thin.png", "photo.png"],
        &["--json"],
    );
    assert_eq!(output.status.code(), Some(1));
    let found = lines(&output);
    let said = text(&output.stderr);
    for (line, (file, fault)) in found.iter().zip([
        ("missing.png", "cannot read it"),
        ("text.png", "not an image"),
        ("thin.png", "6×40 pixels, expected at least 7"),
    ]) {
        assert_eq!(line["file"], place.text(file));
        assert!(
            line["error"]
                .as_str()
                .is_some_and(|error| error.contains(fault)),
            "{line}"
        );
        assert!(
            said.lines().any(|l| l.contains(file) && l.contains(fault)),
            "{said}"
        );
    }
    assert_eq!(found[3]["output"], place.text("photo-x2.png"));
    assert!(!place.path("thin-x2.png").exists());
    assert_eq!(unfinished(place.0.path()), 0);
}

/// A detail is drawn first, which needs as many pixels as the network.
#[test]
fn images_of_which_reducing_leaves_nothing_are_named_and_the_others_enlarged() {
    let place = Place::new();
    RgbImage::new(1, 100)
        .save(place.path("line.png"))
        .expect("saved");
    let more = ["--json", "--reduce", "--detail", "1", "1", "10"];
    let output = place.run(&["line.png", "photo.png"], &more);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let found = lines(&output);
    let error = found[0]["error"].as_str().expect("an error");
    assert!(
        error.contains("0×50 pixels, expected at least 7"),
        "{error}"
    );
    assert_eq!(found[1]["output"], place.text("photo-x2.png"));
}

fn unfinished(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("the folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .filter(|name| name.to_string_lossy().ends_with(".part"))
        .count()
}

#[test]
fn results_that_are_there_are_kept_unless_told() {
    let place = Place::new();
    std::fs::write(place.path("photo-x2.png"), "precious").expect("written");
    let output = place.run(&["photo.png"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--overwrite"));
    assert_eq!(
        std::fs::read(place.path("photo-x2.png")).expect("there"),
        b"precious"
    );
}

#[test]
fn what_is_to_be_read_or_was_just_written_is_kept_though_told_to_overwrite() {
    let place = Place::new();
    photograph(202, 174)
        .save(place.path("photo-x2.png"))
        .expect("saved");
    let before = place.image("photo-x2.png");
    let output = place.run(&["photo.png", "photo-x2.png"], &["--overwrite"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("photo-x2.png is read or was written in this run"),
        "{said}"
    );
    assert_eq!(place.image("photo-x2.png"), before);
    assert!(place.path("photo-x2-x2.png").exists());
    let original = place.text("photo-x2.png");
    let output = place.run(&["photo.png"], &["--overwrite", "--original", &original]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(place.image("photo-x2.png"), before);

    // Two photographs of one name.
    std::fs::create_dir(place.path("other")).expect("created");
    photograph(40, 30)
        .save(place.path("other/photo.png"))
        .expect("saved");
    std::fs::remove_file(place.path("photo-x2.png")).expect("removed");
    let output = place.run(&["photo.png", "other/photo.png"], &["--overwrite"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("photo-x2.png is read or was written in this run"),
        "{said}"
    );
    assert_eq!(place.image("photo-x2.png").dimensions(), (202, 174));
}

#[test]
fn what_cannot_be_done_is_explained() {
    let place = Place::new();
    let fails = |files: &[&str], more: &[&str], problem: &str| {
        let output = place.run(files, more);
        assert_eq!(output.status.code(), Some(1), "{more:?}");
        let said = text(&output.stderr);
        assert!(said.contains(problem), "{more:?}: {said}");
    };
    let photo = place.text("photo.png");
    fails(
        &["photo.png"],
        &["--original", &photo],
        "the original has 101×87 pixels, expected 202×174",
    );
    fails(
        &["photo.png"],
        &["--original", "none.png"],
        "original none.png: cannot read it",
    );
    fails(
        &["photo.png", "photo.png"],
        &["--original", &photo],
        "--original is of one image",
    );
    fails(
        &["photo.png"],
        &["--output", "no/such/folder", "--overwrite"],
        "cannot write no/such/folder",
    );
    let shipped = manifest("examples/classify/weights/digits-soft.safetensors")
        .display()
        .to_string();
    fails(
        &["photo.png"],
        &["--weights", &shipped],
        "missing: head.weight",
    );
}
