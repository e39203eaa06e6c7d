//! The network's variables: their first values and their file.

use anyhow::{ensure, Context, Result};
use candle_core::Tensor;
use candle_nn::VarMap;
use rand::Rng;
use rand_distr::{Distribution, Normal};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Draws anew what candle drew at random, which takes no seed on the CPU: He's normal distribution.
pub fn initialise(variables: &VarMap, rng: &mut impl Rng) -> Result<()> {
    let data = variables.data().lock().expect("no thread panicked");
    let mut named: Vec<_> = data.iter().collect();
    named.sort_by_key(|(name, _)| *name);
    for (_, variable) in named {
        let values = variable.flatten_all()?.to_vec1::<f32>()?;
        if values.iter().all(|value| *value == values[0]) {
            continue; // a constant by design
        }
        let fan_in: usize = variable.dims().iter().skip(1).product();
        let normal = Normal::new(0.0, (2.0 / fan_in as f32).sqrt())?;
        let values: Vec<f32> = normal.sample_iter(&mut *rng).take(values.len()).collect();
        variable.set(&Tensor::from_vec(
            values,
            variable.dims(),
            variable.device(),
        )?)?;
    }
    Ok(())
}

/// An error where [`save`] would have one, and no file, so that no training is lost to a wrong path.
pub fn check_writable(file: &Path) -> Result<()> {
    let temporary = temporary(file);
    let written = || -> Result<()> {
        ensure!(!file.is_dir(), "it is a folder");
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        File::create(&temporary)?;
        Ok(std::fs::remove_file(&temporary)?)
    };
    written().with_context(|| cannot_write(file))
}

/// Writes a safetensors file beside `file` and renames it, so that no reader finds half a file.
pub fn save(variables: &VarMap, metadata: HashMap<String, String>, file: &Path) -> Result<()> {
    let temporary = temporary(file);
    let written = || -> Result<()> {
        let data = variables.data().lock().expect("no thread panicked");
        let tensors = data.iter().map(|(name, var)| (name, var.as_tensor()));
        safetensors::serialize_to_file(tensors, Some(metadata), &temporary)?;
        File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, file)?;
        Ok(())
    };
    written().with_context(|| cannot_write(file))
}

fn temporary(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn cannot_write(file: &Path) -> String {
    format!("cannot write {}", file.display())
}
