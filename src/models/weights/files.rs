//! Which files a path stands for.

use super::failed;
use candle_core::{bail, Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Names by which hubs and training scripts keep a network beside other files, in this order.
const NAMED: [&str; 4] = [
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
];

/// What hubs put into the name of a file in another dtype.
const DTYPES: [&str; 11] = [
    "fp8", "fp16", "fp32", "fp64", "bf16", "f16", "f32", "f64", "float16", "bfloat16", "float32",
];

/// The files of a path: itself, the shards of an index, or what a folder holds.
pub(super) fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_dir() {
        return in_folder(path);
    }
    match path.extension().is_some_and(|e| e == "json") {
        true => in_index(path).map_err(|e| failed(path, &e)),
        false => Ok(vec![path.to_path_buf()]),
    }
}

/// A file of a usual name, else an index of shards, else the safetensors files, else the one PyTorch file.
fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let named = NAMED.iter().map(|name| folder.join(name));
    // Shards may lie beside a whole file, and then say the same.
    if let Some(named) = named.into_iter().find(|path| path.is_file()) {
        return shards(&named);
    }
    let entries = std::fs::read_dir(folder).map_err(|e| failed(folder, &e))?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(|e| failed(folder, &e))?.file_name();
        names.extend(
            name.into_string()
                .ok()
                .filter(|name| !name.starts_with('.')),
        );
    }
    let ending = |endings: &[&str]| -> Vec<PathBuf> {
        let has = |name: &&String| endings.iter().any(|ending| name.ends_with(ending));
        let plain = |name: &&String| !is_variant(name, &names);
        let found = names.iter().filter(has).filter(plain);
        found.map(|name| folder.join(name)).collect()
    };
    if let [index] = ending(&[".safetensors.index.json", ".bin.index.json"]).as_slice() {
        return shards(index);
    }
    let safetensors = ending(&[".safetensors"]);
    if !safetensors.is_empty() {
        return Ok(safetensors);
    }
    match ending(&[".pth", ".pt", ".bin"]) {
        one if one.len() == 1 => Ok(one),
        none_or_many => Err(failed(
            folder,
            &format!(
                "a folder with no safetensors file and {} PyTorch files, expected one",
                none_or_many.len()
            ),
        )),
    }
}

/// Whether a file is another of the folder's in another dtype: `a.fp16.safetensors` beside `a.safetensors`.
fn is_variant(name: &str, names: &BTreeSet<String>) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    let without = |i: usize| {
        let (before, after) = (&parts[..i], &parts[i + 1..]);
        [before, after].concat().join(".")
    };
    (1..parts.len()).any(|i| DTYPES.contains(&parts[i]) && names.contains(&without(i)))
}

/// The shards that an index names, beside it.
fn in_index(index: &Path) -> Result<Vec<PathBuf>> {
    let index_of: serde_json::Value =
        serde_json::from_slice(&std::fs::read(index)?).map_err(Error::wrap)?;
    let Some(map) = index_of["weight_map"].as_object() else {
        bail!("an index of shards has a \"weight_map\"");
    };
    let mut names = BTreeSet::new();
    for name in map.values() {
        match name.as_str() {
            Some(name) if Path::new(name).file_name() == Some(name.as_ref()) => names.insert(name),
            _ => bail!("{name} is not the name of a file beside the index"),
        };
    }
    Ok(names.into_iter().map(|n| index.with_file_name(n)).collect())
}
