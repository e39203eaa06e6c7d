//! `examples/classify` from the command line: answers on the samples, and what it says when something is wrong.

#[path = "common/example.rs"]
mod example;

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candle_softpool::models::{Model, Pooling};
use example::{example, jpeg, lines, manifest, text, unread};
use serde_json::Value;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn classify() -> Command {
    example("classify")
}

fn run(args: &[&str]) -> Output {
    classify().args(args).output().expect("the example runs")
}

fn sample(name: &str) -> String {
    manifest("examples/classify/samples")
        .join(name)
        .display()
        .to_string()
}

/// The files' names and right classes, from the plain file that continuous integration reads too.
fn expected() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(manifest("examples/classify/samples/expected.txt"));
    let text = text.expect("the expected answers");
    let pairs = text
        .lines()
        .map(|line| line.split_once(' ').expect("a name and a class"));
    pairs
        .map(|(name, class)| (name.to_string(), class.to_string()))
        .collect()
}

#[test]
fn without_arguments_it_classifies_the_samples() {
    for pool in ["soft", "max", "avg"] {
        let output = run(&["--json", "--pool", pool]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let found: Vec<_> = lines(&output)
            .iter()
            .map(|line| {
                let file = Path::new(line["file"].as_str().expect("a file"));
                let name = file
                    .file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned();
                (name, line["class"].as_str().expect("a class").to_string())
            })
            .collect();
        assert_eq!(found, expected(), "{pool}");
    }
}

#[test]
fn a_table_names_each_file_and_its_classes() {
    let output = run(&["--top-k", "2", &sample("digit-7.png")]);
    let table = text(&output.stdout);
    let rows: Vec<_> = table.lines().collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(
        rows[0].contains("file") && rows[0].contains("class"),
        "{table}"
    );
    let (class, next) = rows[2].rsplit_once('│').expect("columns");
    assert!(
        class.contains("digit-7.png │ 7 ") && class.contains(" ms"),
        "{table}"
    );
    assert_eq!(next.matches('%').count(), 1, "{table}");
}

#[test]
fn json_has_the_top_classes_and_their_probabilities() {
    let line = &lines(&run(&["--json", "--top-k", "10", &sample("digit-3.png")]))[0];
    let top = line["top"].as_array().expect("classes");
    let ps: Vec<f64> = top
        .iter()
        .map(|t| t["probability"].as_f64().expect("a number"))
        .collect();
    assert_eq!(ps.len(), 10);
    assert!(ps.is_sorted_by(|a, b| a >= b) && (ps.iter().sum::<f64>() - 1.0).abs() < 1e-5);
    assert_eq!(line["probability"], top[0]["probability"]);
    assert_eq!(line["class"], "3");
}

#[test]
fn dark_digits_on_light_ground_of_any_size_and_format_give_the_same_class() {
    let folder = tempfile::tempdir().expect("a folder");
    let digit = image::open(sample("digit-2.png"))
        .expect("the sample")
        .into_luma8();
    let mut dark = digit.clone();
    image::imageops::invert(&mut dark);
    let large = image::imageops::resize(&dark, 320, 320, image::imageops::FilterType::Triangle);
    let mut wide = image::GrayImage::from_pixel(500, 340, image::Luma([255]));
    image::imageops::replace(&mut wide, &large, 170, 10);
    dark.save(folder.path().join("dark.png")).expect("saved");
    image::DynamicImage::ImageLuma8(wide)
        .into_rgb8()
        .save(folder.path().join("wide.jpg"))
        .expect("saved");
    // Black ink on nothing.
    let clear = image::RgbaImage::from_fn(28, 28, |x, y| {
        image::Rgba([0, 0, 0, digit.get_pixel(x, y).0[0]])
    });
    clear.save(folder.path().join("clear.png")).expect("saved");

    let output = run(&["--json", &folder.path().display().to_string()]);
    let classes: Vec<_> = lines(&output)
        .iter()
        .map(|line| line["class"].clone())
        .collect();
    assert_eq!(classes, ["2", "2", "2"], "{}", text(&output.stderr));
}

#[test]
fn an_image_without_ink_is_no_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("white.png");
    image::GrayImage::from_pixel(1, 3, image::Luma([255]))
        .save(&file)
        .expect("saved");
    assert_eq!(run(&[&file.display().to_string()]).status.code(), Some(0));
}

#[test]
fn files_that_fail_are_named_and_the_others_classified() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("text.png"), "no image").expect("written");
    for (name, short) in [("digit-1.png", "short.png"), ("paper.jpg", "short.jpg")] {
        let whole = std::fs::read(sample(name)).expect("the sample");
        std::fs::write(path(short), &whole[..whole.len() / 2]).expect("written");
    }
    std::fs::create_dir(path("empty")).expect("created");
    let faults = [
        ("missing.png", "cannot read it"),
        ("text.png", "not a"),
        ("short.png", "not a readable image"),
        ("short.jpg", "not a readable image"),
        ("empty", "no images in this folder"),
    ];
    let mut args = vec!["--json".to_string()];
    args.extend(faults.iter().map(|(name, _)| path(name)));
    args.push(sample("digit-4.png"));
    let output = classify().args(&args).output().expect("the example runs");

    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    for (name, fault) in faults {
        let line = errors.lines().find(|line| line.contains(&path(name)));
        assert!(
            line.is_some_and(|line| line.contains(fault)),
            "{name}: {errors}"
        );
    }
    let lines = lines(&output);
    assert_eq!(lines.len(), 6);
    assert!(lines[..5].iter().all(|line| line["error"].is_string()));
    assert_eq!(lines[5]["class"], "4");
}

/// A GIF whose screen has these sides, with one frame of a pixel.
fn gif(width: u8, height: u8) -> Vec<u8> {
    let screen = [width, 0, height, 0, 0x80, 0, 0];
    let palette = [0, 0, 0, 255, 255, 255];
    let frame = [0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0, 0x3b];
    [b"GIF89a", &screen[..], &palette, &frame].concat()
}

#[test]
fn an_image_without_pixels_is_an_error_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("0x0.gif"), gif(0, 0)).expect("written");
    std::fs::write(path("0x5.gif"), gif(0, 5)).expect("written");
    std::fs::copy(sample("digit-4.png"), path("4.png")).expect("copied");
    let output = run(&["--json", &folder.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let lines = lines(&output);
    for (line, size) in lines.iter().zip(["0×0", "0×5"]) {
        let error = line["error"].as_str().expect("an error");
        assert!(error.contains(size), "{error}");
    }
    assert_eq!(lines[2]["class"], "4");
}

#[test]
fn paths_come_from_standard_input_and_results_in_their_order() {
    let names: Vec<_> = (0..10)
        .rev()
        .map(|digit| sample(&format!("digit-{digit}.png")))
        .collect();
    let mut child = classify()
        .args(["--json", "--batch-size", "3", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example runs");
    let mut input = child.stdin.take().expect("a pipe");
    input
        .write_all(names.join("\n").as_bytes())
        .expect("written");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let files: Vec<_> = lines(&output)
        .iter()
        .map(|line| line["file"].as_str().expect("a file").to_string())
        .collect();
    assert_eq!(files, names);
}

/// What is said about weights that `change` made of those that ship.
fn complaint(change: impl Fn(Vec<u8>, &mut HashMap<String, Tensor>) -> Option<Vec<u8>>) -> String {
    let shipped = manifest("examples/classify/weights/digits-soft.safetensors");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("changed.safetensors");
    let bytes = std::fs::read(&shipped).expect("the weights");
    let mut tensors = candle_core::safetensors::load(&shipped, &Device::Cpu).expect("the weights");
    match change(bytes, &mut tensors) {
        Some(bytes) => std::fs::write(&file, bytes).expect("written"),
        None => candle_core::safetensors::save(&tensors, &file).expect("saved"),
    }
    let file = file.display().to_string();
    let output = run(&["--weights", &file]);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
    let error = text(&output.stderr);
    assert!(error.contains(&file), "{error}");
    error
}

/// Random weights for ten classes.
fn resnet18(folder: &Path) -> String {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let network = Model::ResNet18.build(10, &Pooling::Original, vb);
    network.expect("a network");
    let file = folder.join("resnet18.safetensors");
    variables.save(&file).expect("saved");
    file.display().to_string()
}

/// Published weights need the network's own pooling, and fit with any other without an error.
#[test]
fn imagenet_networks_keep_their_own_pooling_unless_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = resnet18(folder.path());
    for (pool, name) in [(&[][..], "original"), (&["--pool", "soft"], "soft")] {
        let image = sample("paper.jpg");
        let args = ["--model", "resnet18", "--weights", &file, "--json", &image];
        let output = run(&[&args, pool].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let about = format!("resnet18, {name} pooling");
        let said = text(&output.stderr);
        assert!(said.contains(&about), "{said}");
    }
}

/// Some published weights want another size than the network's first.
#[test]
fn the_shorter_side_becomes_what_the_weights_want() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = resnet18(folder.path());
    let image = sample("paper.jpg");
    let with = |more: &[&str]| {
        let args = ["--model", "resnet18", "--weights", &file, "--json", &image];
        run(&[&args, more].concat())
    };
    let top = |more: &[&str]| lines(&with(more))[0]["top"].clone();
    assert_eq!(top(&["--resize", "256"]), top(&[]));
    assert_ne!(top(&["--resize", "232"]), top(&[]));
    let small = with(&["--resize", "223"]);
    assert_eq!(small.status.code(), Some(3));
    let said = text(&small.stderr);
    assert!(said.contains("--resize 223: expected 224"), "{said}");
}

#[test]
fn weights_that_do_not_fit_are_named_with_every_fault() {
    let error = complaint(|_, tensors| {
        tensors.remove("stage1.conv.weight");
        let wrong = Tensor::zeros(3, DType::F32, &Device::Cpu).expect("a tensor");
        tensors.insert("stage2.norm.bias".to_string(), wrong);
        None
    });
    assert!(
        error.contains("missing: stage1.conv.weight [8, 1, 3, 3]"),
        "{error}"
    );
    assert!(
        error.contains("stage2.norm.bias is [3], expected [24]"),
        "{error}"
    );
}

#[test]
fn weights_cut_short_or_of_another_format_are_named() {
    let error = complaint(|bytes, _| Some(bytes[..bytes.len() / 2].to_vec()));
    assert!(error.contains("not a whole safetensors"), "{error}");
    let error = complaint(|_, _| Some(b"plain text".to_vec()));
    assert!(error.contains("not a whole safetensors"), "{error}");
    let error = complaint(|_, _| Some(vec![]));
    assert!(error.contains("not a whole safetensors"), "{error}");
}

#[test]
fn what_cannot_be_had_is_explained() {
    let fails = |args: &[&str], parts: &[&str]| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}");
        let error = text(&output.stderr);
        assert!(
            parts.iter().all(|part| error.contains(part)),
            "{args:?}: {error}"
        );
    };
    fails(
        &["--pool", "lp"],
        &["lp pooling", "--example train", "--weights"],
    );
    fails(
        &["--model", "resnet50"],
        &["resnet50 needs --weights", "hub:timm/resnet50.tv_in1k"],
    );
    // torchvision publishes none for it.
    let output = run(&["--model", "resnet200"]);
    let said = text(&output.stderr);
    assert!(
        said.contains("resnet200 needs --weights") && !said.contains("hub:timm"),
        "{said}"
    );
    fails(
        &["--device", "cpu", "--dtype", "bf16"],
        &["--dtype bf16", "f32 or f16"],
    );
    fails(&["--weights", "no/such/file"], &["no/such/file"]);
    fails(&["--weights", "hub:nobody"], &["hub:OWNER/NAME"]);
    let labels = sample("expected.txt");
    fails(
        &["--labels", &labels],
        &[&labels, "11 names for the 10 classes"],
    );
}

/// Whoever reads them may have wanted no more, but a script must not take them for all.
#[test]
fn results_that_nobody_reads_are_not_whole() {
    let output = unread(&mut classify());
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_wrong_command_has_status_2_and_says_what_is_allowed() {
    for (args, allowed) in [
        (["--model", "resnet"], "resnet50"),
        (["--pool", "softest"], "original, soft, max"),
        (["--top-k", "0"], "above 0"),
        (["--dtype", "f99"], "bf16"),
    ] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            text(&output.stderr).contains(allowed),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn a_driver_that_waits_for_each_answer_gets_it() {
    use std::io::{BufRead, BufReader};
    let mut child = classify()
        .args(["--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example runs");
    let mut input = child.stdin.take().expect("a pipe");
    let mut answers = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    for digit in ["3", "1", "4"] {
        writeln!(input, "{}", sample(&format!("digit-{digit}.png"))).expect("written");
        let answer: Value =
            serde_json::from_str(&answers.next().expect("a line").expect("text")).expect("JSON");
        assert_eq!(answer["class"], digit);
    }
    drop(input);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn weights_that_are_not_numbers_are_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("nan.safetensors");
    let shipped = manifest("examples/classify/weights/digits-soft.safetensors");
    let mut tensors = candle_core::safetensors::load(shipped, &Device::Cpu).expect("the weights");
    let bias = Tensor::full(f32::NAN, 10, &Device::Cpu).expect("a tensor");
    tensors.insert("classifier.bias".to_string(), bias);
    candle_core::safetensors::save(&tensors, &file).expect("saved");
    let output = run(&[
        "--json",
        "--weights",
        &file.display().to_string(),
        &sample("digit-1.png"),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("not a number"));
    assert!(lines(&output)[0]["error"].is_string());
}

/// A thumbnail in the EXIF data has an end marker of its own.
#[test]
fn a_truncated_photograph_with_a_thumbnail_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("short.jpg");
    let whole = std::fs::read(sample("paper.jpg")).expect("the sample");
    let thumbnail = [&[0xff, 0xe1, 0, 8][..], &[0xff, 0xd8, 0xff, 0xd9, 0, 0]].concat();
    let short = [&whole[..2], &thumbnail, &whole[2..whole.len() / 2]].concat();
    std::fs::write(&file, short).expect("written");
    let output = run(&[&file.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("truncated"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn folders_within_folders_and_paths_before_nul_bytes_from_standard_input() {
    let folder = tempfile::tempdir().expect("a folder");
    let inner = folder.path().join("a/b");
    std::fs::create_dir_all(&inner).expect("created");
    let digit = image::open(sample("digit-5.png")).expect("the sample");
    for name in ["5.bmp", "5.gif", "5.tiff", "5.webp"] {
        digit.to_rgb8().save(inner.join(name)).expect("saved");
    }
    // Images of a format that cannot be read here are no part of a folder.
    for name in ["5.avif", "5.ico", "5.ppm"] {
        std::fs::write(inner.join(name), "an image").expect("written");
    }
    let mut child = classify()
        .args(["--json", "--null", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example runs");
    let mut input = child.stdin.take().expect("a pipe");
    let list = format!("{}\0{}\0", folder.path().display(), sample("digit-6.png"));
    input.write_all(list.as_bytes()).expect("written");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let classes: Vec<_> = lines(&output)
        .iter()
        .map(|line| line["class"].clone())
        .collect();
    assert_eq!(classes, ["5", "5", "5", "5", "6"]);
}

/// Other systems' file systems refuse such a name.
#[cfg(target_os = "linux")]
#[test]
fn a_path_that_is_no_text_and_a_folder_in_itself() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().expect("a folder");
    let name = std::ffi::OsStr::from_bytes(b"7\xff.png");
    std::fs::copy(sample("digit-7.png"), folder.path().join(name)).expect("copied");
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).expect("linked");
    let mut child = classify()
        .args(["--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example runs");
    let mut input = child.stdin.take().expect("a pipe");
    let path = folder.path().join(name);
    let list = [
        path.as_os_str().as_bytes(),
        b"\n",
        folder.path().as_os_str().as_bytes(),
    ]
    .concat();
    input.write_all(&list).expect("written");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("loop"),
        "{}",
        text(&output.stderr)
    );
    let classes: Vec<_> = lines(&output)
        .iter()
        .map(|line| line["class"].clone())
        .collect();
    assert_eq!(classes.iter().filter(|class| **class == "7").count(), 2);
    assert_eq!(classes.len(), 3);
    // Its bytes, whole.
    let hex = path.as_os_str().as_bytes().iter();
    let hex: String = hex.map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(lines(&output)[0]["file_hex"], hex);
    let named = lines(&run(&["--json", &sample("digit-7.png")]));
    assert!(named[0].get("file_hex").is_none());
}

#[test]
fn a_labels_file_may_begin_with_a_byte_order_mark() {
    let folder = tempfile::tempdir().expect("a folder");
    let labels = folder.path().join("labels.txt");
    let names: Vec<_> = (0..10).map(|digit| format!("d{digit}")).collect();
    std::fs::write(&labels, format!("\u{feff}{}", names.join("\n"))).expect("written");
    let output = run(&[
        "--json",
        "--labels",
        &labels.display().to_string(),
        &sample("digit-0.png"),
    ]);
    assert_eq!(lines(&output)[0]["class"], "d0");
}

/// The eight orientations of EXIF; torchvision knows none of them.
#[test]
fn photographs_are_turned_as_their_exif_data_say_unless_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let upright = image::open(sample("digit-2.png")).expect("the sample");
    let upright = upright.resize(280, 280, image::imageops::FilterType::Triangle);
    let stored = [
        upright.clone(),
        upright.fliph(),
        upright.rotate180(),
        upright.flipv(),
        upright.rotate90().fliph(),
        upright.rotate270(),
        upright.rotate90().flipv(),
        upright.rotate90(),
    ];
    for name in ["turned", "as_stored"] {
        std::fs::create_dir(folder.path().join(name)).expect("created");
    }
    for (orientation, stored) in (1u8..).zip(&stored) {
        for (name, tag) in [("turned", orientation), ("as_stored", 1)] {
            let file = folder.path().join(format!("{name}/{orientation}.jpg"));
            std::fs::write(file, jpeg(stored, tag)).expect("written");
        }
    }
    let answers = |name: &str, more: &[&str]| {
        let path = folder.path().join(name).display().to_string();
        let output = run(&[&["--json", &path][..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let answers = lines(&output).into_iter().map(|line| line["top"].clone());
        answers.collect::<Vec<_>>()
    };
    let turned = answers("turned", &[]);
    assert_eq!(turned.len(), 8);
    for answer in turned {
        assert_eq!(answer[0]["class"], "2");
        assert!(answer[0]["probability"].as_f64().is_some_and(|p| p > 0.9));
    }
    let left = answers("turned", &["--no-orient"]);
    assert_eq!(left, answers("as_stored", &[]));
    assert!(left.iter().any(|answer| answer[0]["class"] != "2"));
}

/// The results matter more than what is said about them.
#[cfg(target_os = "linux")]
#[test]
fn standard_error_may_be_closed_or_full() {
    let program = classify().get_program().to_owned();
    let under = |redirection: &str| {
        let script = format!("exec \"$0\" --json no-such.png \"$1\" {redirection}");
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &script]).arg(&program);
        shell.arg(sample("digit-6.png")).output().expect("sh runs")
    };
    for redirection in ["2>&-", "2>/dev/full"] {
        let output = under(redirection);
        assert_eq!(output.status.code(), Some(1), "{redirection}");
        let found = lines(&output);
        assert!(found[0]["error"].is_string(), "{redirection}");
        assert_eq!(found[1]["class"], "6", "{redirection}");
    }
    // A run without results is not one in which an image failed.
    let output = under(">/dev/full");
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.contains("No space left"), "{said}");
}

/// Everything at once: each fault has its line, and every other image its answer.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_under_fault_loses_nothing() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    for (digit, name) in [(1, "a.png"), (2, "c.png"), (4, "g.png")] {
        std::fs::copy(sample(&format!("digit-{digit}.png")), path(name)).expect("copied");
    }
    // Reading it waits until the test writes there.
    let made = Command::new("mkfifo").arg(path("b.png")).status();
    assert!(made.expect("mkfifo runs").success());
    // Reading its beginning is an error, to the superuser too.
    symlink("/proc/self/mem", path("d.png")).expect("linked");
    symlink("nothing", path("e.png")).expect("linked");
    std::fs::create_dir(path("f")).expect("created");
    symlink(folder.path(), path("f/loop")).expect("linked");

    let child = classify()
        .args(["--json", "--batch-size", "1"])
        .arg(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example runs");
    // Opens when the program does, which has listed the folder then, and has not come to the next file.
    let mut waiting = std::fs::File::options()
        .write(true)
        .open(path("b.png"))
        .expect("opened");
    std::fs::remove_file(path("c.png")).expect("removed");
    let content = std::fs::read(sample("digit-3.png")).expect("the sample");
    waiting.write_all(&content).expect("written");
    drop(waiting);
    let output = child.wait_with_output().expect("it ends");

    assert_eq!(output.status.code(), Some(1));
    let found = lines(&output);
    let classes: Vec<_> = found.iter().map(|line| line["class"].as_str()).collect();
    let (one, three, four) = (Some("1"), Some("3"), Some("4"));
    assert_eq!(classes, [one, three, None, None, None, None, four]);
    let said = text(&output.stderr);
    for (line, name) in found[2..6].iter().zip(["c.png", "d.png", "e.png", "loop"]) {
        assert!(line["error"].is_string(), "{line}");
        assert!(
            said.lines().any(|said| said.contains(name)),
            "{name}: {said}"
        );
    }
    assert!(said.contains("7 images, 4 failed"), "{said}");
}
