//! The network's variables: their first values and their file.

use anyhow::{Context, Result};
use candle_core::Tensor;
use candle_nn::VarMap;
use rand::Rng;
use rand_distr::{Distribution, Normal};
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

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

/// Writes a safetensors file beside `file` and renames it, so that no reader finds half a file.
pub fn save(variables: &VarMap, metadata: HashMap<String, String>, file: &Path) -> Result<()> {
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".part");
    let temporary = Path::new(&temporary);
    let written = || -> Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let data = variables.data().lock().expect("no thread panicked");
        let tensors = data.iter().map(|(name, var)| (name, var.as_tensor()));
        safetensors::serialize_to_file(tensors, Some(metadata), temporary)?;
        File::open(temporary)?.sync_all()?;
        std::fs::rename(temporary, file)?;
        Ok(())
    };
    written().with_context(|| format!("cannot write {}", file.display()))
}
