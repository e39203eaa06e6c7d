//! What PyTorch saves: checkpoints of many scripts, tensors of any layout, and files that are damaged or made to do harm.

use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::linear;
use candle_softpool::models::Weights;
use proptest::prelude::*;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;
use zip::ZipWriter;

const CPU: Device = Device::Cpu;

fn fixture(name: &str) -> PathBuf {
    Path::new("tests/fixtures/checkpoints").join(name)
}

/// What the layer of these weights makes of ones.
fn output(weights: &Weights) -> candle_core::Result<Vec<f32>> {
    let layer = weights.build(DType::F32, &CPU, |vb| linear(3, 2, vb.pp("fc")))?;
    let ones = Tensor::ones((1, 3), DType::F32, &CPU)?;
    layer.forward(&ones)?.flatten_all()?.to_vec1()
}

const EXPECTED: [f32; 2] = [3.5, 11.75];

fn error(bytes: &[u8]) -> String {
    match Weights::from_bytes(bytes) {
        Ok(_) => panic!("it was read"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn checkpoints_of_many_scripts() -> Result<()> {
    for name in [
        "imagenet.pth",
        "softpool.pth",
        "torchvision.pth",
        "timm.pth",
        "lightning.ckpt",
        "compiled.pth",
        "compiled_parallel.pth",
        "twice.pth",
        "module.pth",
        "checkpoint_module.pth",
        "protocol3.pth",
        "protocol4.pth",
        "protocol5.pth",
        "script.pt",
        "no_checksums.pth",
        "subclass.pth",
        "subclasses.pth",
        "adam.pth",
        "adam_first.pth",
        "surrogate.pth",
    ] {
        // From a file and from memory.
        let opened = Weights::open(fixture(name))?;
        assert_eq!(output(&opened)?, EXPECTED, "{name}");
        let read = Weights::from_bytes(fs::read(fixture(name))?)?;
        assert_eq!(output(&read)?, EXPECTED, "{name}");
    }
    Ok(())
}

/// A layer under two names counts twice; buffers that are not kept, and tensors that are no buffers, do not.
#[test]
fn modules_have_the_names_of_their_state_dict() -> Result<()> {
    for name in ["shared.pth", "shared_protocol4.pth"] {
        let weights = Weights::open(fixture(name))?;
        let names: Vec<_> = weights.tensors().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "again.bias",
                "again.weight",
                "first.bias",
                "first.weight",
                "kept"
            ]
        );
    }
    Ok(())
}

#[test]
fn tensors_of_other_kinds_are_named() {
    for (name, problem) in [
        (
            "sparse.pth",
            "sparse: save it dense, as to_dense() makes it",
        ),
        (
            "sparse_rows.pth",
            "sparse: save it dense, as to_dense() makes it",
        ),
        (
            "quantised.pth",
            "quantised: save it as dequantize() makes it",
        ),
        (
            "meta.pth",
            "of a kind that is not read: torch._utils._rebuild_meta_tensor_no_storage",
        ),
    ] {
        let error = Weights::open(fixture(name)).err().unwrap().to_string();
        let problem = format!("tensor \"fc.weight\" is {problem}");
        assert!(error.contains(&problem), "{error}");
    }
}

#[test]
fn tensors_of_any_layout_and_dtype() -> Result<()> {
    let weights = Weights::open(fixture("views.pth"))?;
    let numbers = Tensor::arange(0f32, 48., &CPU)?;
    let part = numbers.narrow(0, 5, 3)?;
    let steps = Tensor::arange_step(1f32, 48., 5., &CPU)?;
    for (name, expected) in [
        ("channels_last", numbers.reshape((2, 2, 3, 4))?),
        ("transposed", numbers.reshape((12, 4))?.t()?),
        ("narrowed", numbers.narrow(0, 10, 12)?.reshape((3, 4))?),
        ("columns", numbers.reshape((6, 8))?.narrow(1, 2, 3)?),
        ("steps", steps),
        (
            "expanded",
            numbers
                .narrow(0, 3, 3)?
                .reshape((3, 1))?
                .broadcast_as((3, 4))?,
        ),
        ("last", Tensor::new(47f32, &CPU)?),
        ("none", Tensor::zeros((0, 4), DType::F32, &CPU)?),
        ("double", part.clone()),
        ("half", part.clone()),
        ("bfloat16", part.clone()),
        ("long", part.clone()),
        ("byte", part.clone()),
        ("bool", Tensor::new(&[0f32, 1., 1.], &CPU)?),
        ("float8", part.clone()),
        ("parameter", part.clone()),
        ("buffer", part.clone()),
    ] {
        assert_eq!(weights.shape(name), Some(expected.shape()), "{name}");
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
            let found = weights
                .var_builder(dtype, &CPU)
                .get(expected.shape(), name)?
                .to_dtype(DType::F32)?;
            let [found, expected] =
                [found, expected.clone()].map(|xs| xs.flatten_all()?.to_vec1::<f32>());
            assert_eq!(found?, expected?, "{name} as {dtype:?}");
        }
    }
    let error = weights
        .var_builder(DType::F32, &CPU)
        .get(3, "complex")
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("\"complex\": of ComplexFloatStorage, which candle does not know"),
        "{error}"
    );
    Ok(())
}

#[test]
fn what_is_no_archive_of_today_is_named() -> Result<()> {
    let error = Weights::open(fixture("before_1.6.pth"))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("before 1.6"), "{error}");
    Ok(())
}

// Damage

/// Whatever bit of a file changes, it is refused or its tensors are what they were.
#[test]
fn no_flipped_bit_changes_a_weight() -> Result<()> {
    let whole = fs::read(fixture("protocol3.pth"))?;
    let mut refused = 0;
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        match Weights::from_bytes(bytes).and_then(|weights| output(&weights)) {
            Ok(found) => assert_eq!(found, EXPECTED, "byte {place}"),
            Err(_) => refused += 1,
        }
    }
    println!("{refused} of {} refused", whole.len());
    assert!(refused > 300);
    Ok(())
}

#[test]
fn a_damaged_block_is_named_with_its_tensor() -> Result<()> {
    let mut bytes = fs::read(fixture("protocol3.pth"))?;
    let number = 4f32.to_le_bytes();
    let place = bytes
        .windows(4)
        .position(|window| window == number)
        .unwrap();
    bytes[place] ^= 1;
    let error = output(&Weights::from_bytes(bytes)?)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("tensor \"fc.weight\"") && error.contains("is damaged"),
        "{error}"
    );
    Ok(())
}

// Pickles by hand

/// An archive as PyTorch makes it, of this pickle and block `0` of four numbers.
fn archive(pickle: &[u8]) -> Vec<u8> {
    archive_of(&[("x/data.pkl", pickle), ("x/data/0", &[0; 16])])
}

fn archive_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in files {
        zip.start_file(*name, stored).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// `{"x": ...}` in protocol 2.
fn table(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}X\x01\0\0\0x", value, b"s."].concat()
}

const REBUILD: &[u8] = b"ctorch._utils\n_rebuild_tensor_v2\n";
const BLOCK: &[u8] =
    b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";

/// A tensor with this offset, these sizes and strides in the block.
fn tensor(offset: i32, sizes: &[i32], strides: &[i32]) -> Vec<u8> {
    let int = |n: &i32| [b"J".as_slice(), &n.to_le_bytes()].concat();
    let tuple = |ns: &[i32]| {
        [
            b"(".to_vec(),
            ns.iter().flat_map(int).collect(),
            b"t".to_vec(),
        ]
        .concat()
    };
    let arguments = [BLOCK.to_vec(), int(&offset), tuple(sizes), tuple(strides)].concat();
    [REBUILD, b"(", &arguments, b"\x89}tR"].concat()
}

#[test]
fn a_pickle_by_hand_is_read() -> Result<()> {
    let weights = Weights::from_bytes(archive(&table(&tensor(0, &[2, 2], &[1, 2]))))?;
    assert_eq!(weights.shape("x").unwrap().dims(), [2, 2]);
    // Files in no folder, as some write them.
    let pickle = table(&tensor(0, &[4], &[1]));
    let bytes = archive_of(&[("data.pkl", &pickle), ("data/0", &[0; 16])]);
    Weights::from_bytes(bytes)?
        .var_builder(DType::F32, &CPU)
        .get(4, "x")?;
    Ok(())
}

#[test]
fn tensors_outside_their_block_are_refused() {
    for (offset, sizes, strides) in [
        (1, &[4][..], &[1][..]),
        (-1, &[4], &[1]),
        (0, &[5], &[1]),
        (0, &[-4], &[1]),
        (0, &[4], &[-1]),
        (0, &[4], &[2]),
        (0, &[2, 2], &[1]),
        (0, &[2], &[1, 1]),
        (4, &[], &[]),
        (i32::MAX, &[1], &[1]),
        // No larger than the block, but read over and over.
        (0, &[4, 4], &[0, 1][..]),
        (0, &[2, 2, 2, 2], &[1, 1, 0, 1]),
        (0, &[i32::MAX; 4], &[0; 4]),
        (
            0,
            &[i32::MAX, i32::MAX, i32::MAX, 4],
            &[i32::MAX, i32::MAX, i32::MAX, 1],
        ),
    ] {
        let bytes = archive(&table(&tensor(offset, sizes, strides)));
        // Repeating along a dimension of stride 0 is PyTorch's `expand`.
        if strides == [0, 1] {
            assert!(Weights::from_bytes(bytes).is_ok());
            continue;
        }
        let error = error(&bytes);
        assert!(
            error.contains("tensor \"x\" is malformed"),
            "{offset} {sizes:?} {strides:?}: {error}"
        );
    }
}

/// A few bytes may repeat more often than any memory holds.
#[test]
fn what_is_repeated_takes_no_memory() -> Result<()> {
    let sizes = [i32::MAX, i32::MAX, 2];
    let pickle = table(&tensor(0, &sizes, &[0, 0, 1]));
    let weights = Weights::from_bytes(archive(&pickle))?;
    for dtype in [DType::F32, DType::F64] {
        let repeated = weights.var_builder(dtype, &CPU).get_unchecked("x")?;
        assert_eq!(repeated.dims(), sizes.map(|n| n as usize));
        assert_eq!(repeated.dtype(), dtype);
    }
    Ok(())
}

#[test]
fn a_size_of_zero_hides_no_sizes_that_cannot_be_counted() {
    let sizes = [i32::MAX, i32::MAX, i32::MAX, 0];
    let error = error(&archive(&table(&tensor(0, &sizes, &[1; 4]))));
    assert!(error.contains("tensor \"x\" of shape"), "{error}");
    assert!(error.contains("too large"), "{error}");
}

#[test]
fn pickles_made_to_do_harm_are_refused() {
    let call = |arguments: &[u8]| table(&[REBUILD, arguments, b"R"].concat());
    let parameter = b"ctorch._utils\n_rebuild_parameter\n";
    let subclass = b"ctorch._tensor\n_rebuild_from_type_v2\n";
    // A text of 100,000 letters, kept as number 0.
    let long = [&b"X\xa0\x86\x01\0"[..], &b"a".repeat(100_000), b"q\0"].concat();
    // Modules of such a class, so many of them, which share a table of as many of such entries; nothing in them is a tensor.
    let shared = |class: &[u8], entry: &[u8], count: usize| {
        [
            &b"}q\x01("[..],
            &entry.repeat(count),
            b"u0c",
            class,
            b"q\x020](",
            &b"h\x02)Rh\x01b".repeat(count),
            b"e",
        ]
        .concat()
    };
    let (named, numbered) = (b"X\x01\0\0\0aN", b"K\x01N");
    // A module with 5,000 times the same table of 5,000 parameters, none of which is a tensor.
    let repeated = [
        &b"}q\x01("[..],
        &b"h\0N".repeat(5000),
        b"u0c__main__\nM\n)R}(X\x0b\0\0\0_parametersq\x02h\x01",
        &b"h\x02h\x01".repeat(5000),
        b"X\x08\0\0\0_modules}ub",
    ]
    .concat();
    let repeated = [&b"X\x01\0\0\0aq\x000"[..], &repeated].concat();
    // A module that is 60 times twice in the one around it.
    let doubled = [
        &b"X\x08\0\0\0_modulesq\x010c__main__\nM\nq\x020Nq\x03"[..],
        &b"0h\x02)R}h\x01}(X\x01\0\0\0ah\x03X\x01\0\0\0bh\x03usbq\x03".repeat(60),
    ]
    .concat();
    // The same tensor under 1,000 names, so that what it says of itself counts as often.
    let tensor_of = |block: &[u8], sizes: &[u8]| {
        let tensor = [
            REBUILD,
            b"((X\x07\0\0\0storagectorch\nFloatStorage\n",
            block,
            b"X\x03\0\0\0cpuK\x04tQK\0",
            sizes,
            sizes,
            b"\x89}tR",
        ];
        let names =
            (0..1000).map(|i| [b"X\x03\0\0\0", format!("{i:03}").as_bytes(), b"h\x01"].concat());
        let names: Vec<_> = names.collect();
        [
            b"\x80\x02",
            &long[..],
            b"0",
            &tensor.concat(),
            b"q\x010}(",
            &names.concat(),
            b"u.",
        ]
        .concat()
    };
    let many_sizes = [&b"("[..], &b"K\x01".repeat(10_000), b"t"].concat();
    for (pickle, problem) in [
        // Long names again and again.
        (
            table(&[&long[..], &b"h\0h\0\x930".repeat(1000)].concat()),
            "no tensors",
        ),
        (tensor_of(b"h\0", b"K\x01\x85"), "malformed"),
        (tensor_of(b"X\x01\0\0\x000", &many_sizes), "malformed"),
        (
            [
                &b"\x80\x02"[..],
                &long,
                b"0",
                &tensor(0, &[4], &[1]),
                b"q\x010}(",
                &b"h\0h\x01".repeat(1000),
                b"u.",
            ]
            .concat(),
            "more than",
        ),
        (table(&shared(b"__main__\nM\n", named, 5000)), "more than"),
        (
            table(&shared(b"__main__\nM\n", numbered, 5000)),
            "more than",
        ),
        (
            table(&shared(b"__torch__\nM\n", numbered, 5000)),
            "more than",
        ),
        (table(&repeated), "more than"),
        (table(&doubled), "more than"),
        // Without arguments, or with others.
        (call(b")"), "malformed"),
        (call(b"N"), "malformed"),
        (call(b"(K\x01K\x02K\x03K\x04K\x05t"), "malformed"),
        (call(b"(NNNNt"), "malformed"),
        (call(b"(NQNNNt"), "malformed"),
        (table(&[&parameter[..], b")R"].concat()), "malformed"),
        (
            table(&[&parameter[..], b"K\x01\x85R"].concat()),
            "malformed",
        ),
        (table(&[&subclass[..], b")R"].concat()), "malformed"),
        // Nested ever deeper.
        (
            table(&[b")".to_vec(), b"\x85".repeat(200_000)].concat()),
            "no tensors",
        ),
        (
            table(&[b"]".repeat(200_000), b"a".repeat(199_999)].concat()),
            "no tensors",
        ),
        (
            table(&[b"(".repeat(200_000), b"t".repeat(200_000)].concat()),
            "no tensors",
        ),
        (
            table(
                &[
                    parameter.repeat(200_000),
                    b")".to_vec(),
                    b"R\x85".repeat(199_999),
                    b"R".to_vec(),
                ]
                .concat(),
            ),
            "no tensors",
        ),
        // In itself.
        (table(b"]q\0h\0a"), "no tensors"),
        (table(b"}q\0K\x01h\0s"), "no tensors"),
        // Twice the one before, 60 times.
        (
            table(&[b")q\0".to_vec(), b"h\0h\0\x86q\0".repeat(60)].concat()),
            "no tensors",
        ),
        // An end, a group, a memory, or a text that is not there.
        (b"".to_vec(), "cut short"),
        (b"\x80\x02".to_vec(), "cut short"),
        (b"\x80\x02.".to_vec(), "has put none"),
        (b"\x80\x02(.".to_vec(), "has put none"),
        (b"\x80\x02t.".to_vec(), "has not begun"),
        (b"\x80\x02K\x01K\x01(0s.".to_vec(), "has put none"),
        (b"\x80\x02}(K\x01u.".to_vec(), "no value"),
        (b"\x80\x02h\x07.".to_vec(), "has not kept"),
        (b"\x80\x02X\xff\xff\xff\xffx.".to_vec(), "cut short"),
        (
            b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.".to_vec(),
            "cut short",
        ),
        (b"\x80\x02\x8b\xff\xff\xff\xffx.".to_vec(), "cut short"),
        (b"\x80\x02cno end".to_vec(), "cut short"),
        (b"\x80\x02U\x01\xff.".to_vec(), "no tensors"),
        (b"\x80\x04NN\x93.".to_vec(), "no name"),
        (b"\x80\x00I1\n.".to_vec(), "0x49"),
    ] {
        let error = error(&archive(&pickle));
        let start = &pickle[..pickle.len().min(60)];
        assert!(error.contains(problem), "{}: {error}", start.escape_ascii());
    }
}

/// Modules in one another, `count` deep, the innermost with a tensor.
fn modules(count: usize) -> Vec<u8> {
    let open = b"c__torch__\nM\n)R}X\x01\0\0\0m";
    let tensor = tensor(0, &[4], &[1]);
    [
        b"\x80\x02".to_vec(),
        open.repeat(count),
        tensor,
        b"sb".repeat(count),
        b".".to_vec(),
    ]
    .concat()
}

#[test]
fn modules_may_be_deep_but_not_without_end() -> Result<()> {
    let weights = Weights::from_bytes(archive(&modules(50)))?;
    let names: Vec<_> = weights.tensors().map(|(name, _)| name).collect();
    assert_eq!(names, [vec!["m"; 50].join(".")]);
    let error = error(&archive(&modules(100_000)));
    assert!(error.contains("modules more than 100 deep"), "{error}");
    Ok(())
}

#[test]
fn archives_that_lack_a_part_are_refused() -> Result<()> {
    let pickle = table(&tensor(0, &[4], &[1]));
    let problem = error(&archive_of(&[("x/other", b"")]));
    assert!(problem.contains("without a data.pkl"), "{problem}");
    let problem = error(&archive_of(&[
        ("x/data.pkl", &pickle),
        ("x/byteorder", b"big"),
    ]));
    assert!(problem.contains("big-endian"), "{problem}");
    // A block that is not there, or shorter than the pickle says.
    for blocks in [&[][..], &[("x/data/0", &[0u8; 12][..])][..]] {
        let files = [&[("x/data.pkl", &pickle[..])][..], blocks].concat();
        let weights = Weights::from_bytes(archive_of(&files))?;
        let error = weights
            .var_builder(DType::F32, &CPU)
            .get(4, "x")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("tensor \"x\"") && error.contains("in memory"),
            "{error}"
        );
    }
    Ok(())
}

/// Bytes that are mostly instructions.
fn instructions() -> impl Strategy<Value = Vec<u8>> {
    let known = b".(012NGKMJXUTBC)t]lae}dsucRbQqrhj\x80\x81\x85\x86\x87\x88\x8a\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95";
    let one = prop_oneof![
        8 => prop::sample::select(known.to_vec()).prop_map(|byte| vec![byte]),
        1 => any::<u8>().prop_map(|byte| vec![byte]),
        1 => Just(REBUILD.to_vec()),
        1 => Just(BLOCK.to_vec()),
        1 => Just(tensor(0, &[4], &[1])),
        1 => Just(b"X\x01\0\0\0x".to_vec()),
    ];
    prop::collection::vec(one, 0..60).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn no_pickle_panics(pickle in instructions()) {
        if let Ok(weights) = Weights::from_bytes(archive(&table(&pickle))) {
            let vb = weights.var_builder(DType::F32, &CPU);
            for (name, shape) in weights.tensors() {
                let _ = vb.get(shape.clone(), name);
            }
        }
    }
}
