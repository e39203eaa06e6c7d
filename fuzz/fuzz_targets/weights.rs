//! Whatever a file of weights holds, reading it gives tensors or an error: nothing panics, hangs or takes all memory.
#![no_main]

use candle_core::{DType, Device};
use candle_softpool::models::Weights;
use libfuzzer_sys::fuzz_target;
use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Reads every tensor, in its own dtype's place a wider one too.
fn read(weights: candle_core::Result<Weights>) {
    let Ok(weights) = weights else { return };
    for dtype in [DType::F32, DType::F64] {
        let vb = weights.var_builder(dtype, &Device::Cpu);
        for (name, shape) in weights.tensors() {
            if let Ok(tensor) = vb.get_unchecked(name) {
                assert_eq!(tensor.shape(), shape, "{name}");
                assert_eq!(tensor.dtype(), dtype, "{name}");
            }
        }
    }
}

/// A PyTorch file around this pickle, with two blocks of numbers.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let files = [
        ("a/data.pkl", pickle),
        ("a/data/0", &[1; 64]),
        ("a/data/1", &[2; 9]),
    ];
    for (name, content) in files {
        zip.start_file(name, stored).expect("memory to write to");
        zip.write_all(content).expect("memory to write to");
    }
    zip.finish().expect("memory to write to").into_inner()
}

/// A safetensors file of this header, over 64 bytes of numbers.
fn with_header(json: &[u8]) -> Vec<u8> {
    let length = (json.len() as u64).to_le_bytes();
    [&length[..], json, &[1; 64]].concat()
}

/// A folder with an index of shards, of which one is there.
fn index(json: &[u8]) -> std::io::Result<candle_core::Result<Weights>> {
    let folder = tempfile::tempdir()?;
    let header = br#"{"a":{"dtype":"F32","shape":[2,8],"data_offsets":[0,64]}}"#;
    std::fs::write(folder.path().join("a.safetensors"), with_header(header))?;
    std::fs::write(folder.path().join("model.safetensors.index.json"), json)?;
    Ok(Weights::open(folder.path()))
}

fuzz_target!(|bytes: &[u8]| match bytes {
    [b'p', pickle @ ..] => read(Weights::from_bytes(archive(pickle))),
    [b's', header @ ..] => read(Weights::from_bytes(with_header(header))),
    [b'i', json @ ..] => read(index(json).expect("a temporary folder")),
    file => read(Weights::from_bytes(file)),
});
