//! Reading weights: one safetensors file, several shards, or what PyTorch saves; and saying what does not fit.

use candle_core::pickle::PthTensors;
use candle_core::safetensors::BufferedSafetensors;
use candle_core::{bail, DType, Device, Error, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Where training scripts put the network in a PyTorch checkpoint, tried in this order.
const NESTED: [&str; 4] = ["state_dict", "model_state_dict", "model", "net"];

/// Tensors by name, read when a network asks for them.
///
/// [`Self::open`] takes one safetensors file, an index of shards (`model.safetensors.index.json`), a PyTorch file
/// (`.pth`, `.pt`, `.bin`), or a folder with one of these. Names become torchvision's: the `module.` that PyTorch's
/// data parallelism puts before every name goes, as in the checkpoints of SoftPool's authors; the dense layers of old
/// DenseNet checkpoints (`norm.1`) get their present names (`norm1`); `num_batches_tracked`, which no layer uses, is
/// left out. A PyTorch file may hold the tensors under `state_dict`, `model_state_dict`, `model` or `net`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{linear, VarBuilder};
/// use candle_softpool::models::Weights;
/// use std::collections::HashMap;
///
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("model.safetensors");
/// let weight = Tensor::zeros((2, 3), DType::F16, &Device::Cpu)?;
/// candle_core::safetensors::save(&HashMap::from([("module.fc.weight", weight)]), &file)?;
///
/// let weights = Weights::open(&file)?;
/// assert_eq!(weights.shape("fc.weight").unwrap().dims(), [2, 3]);
///
/// let network = |vb: VarBuilder| linear(3, 2, vb.pp("fc"));
/// let error = weights.build(DType::F32, &Device::Cpu, network).unwrap_err();
/// assert!(error.to_string().contains("missing: fc.bias [2]"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Weights(Arc<Files>);

struct Files {
    /// As the user named it, for messages.
    path: PathBuf,
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Entry>,
}

enum File {
    Safetensors(BufferedSafetensors),
    PyTorch(PthTensors),
}

/// Where a tensor is, under which name there, and its shape.
struct Entry {
    file: usize,
    name: String,
    shape: Shape,
}

impl Weights {
    /// The tensors of a file, of an index of shards, or of a folder.
    ///
    /// Safetensors files are read whole, and stay in memory until the last clone and the `VarBuilder`s of it are gone.
    ///
    /// # Errors
    ///
    /// They name the file: one that is not there, is cut short, is of neither format, or a name that occurs twice.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut files = vec![];
        let mut tensors = BTreeMap::new();
        for path in shards(path)? {
            let file = File::open(&path).map_err(|e| failed(&path, &e))?;
            for (name, shape) in file.tensors() {
                let Some(known) = torchvision_name(&name) else {
                    continue;
                };
                let entry = Entry {
                    file: files.len(),
                    name,
                    shape,
                };
                if tensors.insert(known.clone(), entry).is_some() {
                    return Err(failed(&path, &format!("a second tensor {known:?}")));
                }
            }
            files.push((path, file));
        }
        if tensors.is_empty() {
            return Err(failed(path, &"no tensors in it"));
        }
        Ok(Self(Arc::new(Files {
            path: path.to_path_buf(),
            files,
            tensors,
        })))
    }

    /// Every tensor's name and shape, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.0.tensors.iter().map(|(n, e)| (n.as_str(), &e.shape))
    }

    /// The shape of the tensor of this name.
    pub fn shape(&self, name: &str) -> Option<&Shape> {
        self.0.tensors.get(name).map(|entry| &entry.shape)
    }

    /// For candle's layers: they get the tensors in this dtype on this device, whatever dtype the file has.
    ///
    /// A tensor that does not fit is an error when it is asked for; [`Self::build`] finds all of them.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone())
    }

    /// What `network` makes of the tensors, in this dtype on this device.
    ///
    /// `network` is called twice, the first time with zeros that take no memory, to learn what it asks for.
    ///
    /// # Errors
    ///
    /// One that lists every tensor that is missing, unexpected, or of another shape than the network's; and `network`'s.
    pub fn build<T>(
        &self,
        dtype: DType,
        device: &Device,
        network: impl Fn(VarBuilder) -> Result<T>,
    ) -> Result<T> {
        self.check(&network)?;
        network(self.var_builder(dtype, device))
    }

    /// The error of [`Self::build`], without reading any tensor.
    pub fn check<T>(&self, network: impl Fn(VarBuilder) -> Result<T>) -> Result<()> {
        let recorder = Recorder {
            weights: self.clone(),
            asked: Arc::default(),
        };
        let asked = recorder.asked.clone();
        network(VarBuilder::from_backend(
            Box::new(recorder),
            DType::F32,
            Device::Cpu,
        ))?;
        let asked = std::mem::take(&mut *lock(&asked));
        let mut misfits = String::new();
        let mut line = |text: String| {
            let _ = write!(misfits, "\n  {text}");
        };
        for (name, shape) in &asked {
            match self.shape(name) {
                None => line(format!("missing: {name} {:?}", shape.dims())),
                Some(found) if found != shape => line(format!(
                    "of another shape: {name} is {:?}, expected {:?}",
                    found.dims(),
                    shape.dims()
                )),
                Some(_) => {}
            }
        }
        for (name, shape) in self.tensors() {
            if !asked.contains_key(name) {
                line(format!("unexpected: {name} {:?}", shape.dims()));
            }
        }
        match misfits.is_empty() {
            true => Ok(()),
            false => Err(failed(
                &self.0.path,
                &format!("they do not fit the network{misfits}"),
            )),
        }
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(entry) = self.0.tensors.get(name) else {
            return Err(failed(&self.0.path, &format!("no tensor {name:?}")));
        };
        let (path, file) = &self.0.files[entry.file];
        // Converted on the CPU: not every device knows every dtype that a file may have.
        file.load(&entry.name)
            .and_then(|tensor| tensor.to_dtype(dtype)?.to_device(device))
            .map_err(|e| failed(path, &format!("tensor {name:?}: {e}")))
    }
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        match self.shape(name) {
            Some(found) if *found != shape => Err(failed(
                &self.0.path,
                &format!(
                    "tensor {name:?} has shape {:?}, expected {:?}",
                    found.dims(),
                    shape.dims()
                ),
            )),
            _ => self.load(name, dtype, device),
        }
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.load(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.tensors.contains_key(name)
    }
}

impl File {
    fn open(path: &Path) -> Result<Self> {
        use std::io::Read;
        let mut start = vec![];
        std::fs::File::open(path)?.take(4).read_to_end(&mut start)?;
        if start.starts_with(b"PK") {
            return Self::pytorch(path);
        }
        if start.starts_with(b"\x80\x02") {
            bail!("PyTorch's format from before 1.6: read and save it again with a newer PyTorch");
        }
        match BufferedSafetensors::new(std::fs::read(path)?) {
            Ok(tensors) => Ok(Self::Safetensors(tensors)),
            Err(e) => bail!("not a whole safetensors or PyTorch file: {e}"),
        }
    }

    fn pytorch(path: &Path) -> Result<Self> {
        for key in std::iter::once(None).chain(NESTED.map(Some)) {
            match PthTensors::new(path, key) {
                Ok(tensors) if !tensors.tensor_infos().is_empty() => {
                    return Ok(Self::PyTorch(tensors))
                }
                Err(e) if key.is_none() => bail!("not a whole PyTorch file: {e}"),
                _ => {}
            }
        }
        bail!("no tensors in it, at the top or under one of {NESTED:?}")
    }

    fn tensors(&self) -> Vec<(String, Shape)> {
        match self {
            Self::Safetensors(file) => file
                .tensors()
                .into_iter()
                .map(|(name, view)| (name, Shape::from(view.shape())))
                .collect(),
            Self::PyTorch(file) => file
                .tensor_infos()
                .iter()
                .map(|(name, info)| (name.clone(), info.layout.shape().clone()))
                .collect(),
        }
    }

    fn load(&self, name: &str) -> Result<Tensor> {
        match self {
            Self::Safetensors(file) => file.load(name, &Device::Cpu),
            Self::PyTorch(file) => file.get(name)?.ok_or_else(|| Error::msg("it is gone")),
        }
    }
}

/// An error that names the file.
fn failed(path: &Path, problem: &dyn Display) -> Error {
    Error::msg(format!("weights {}: {problem}", path.display()))
}

/// The files that a path stands for.
fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_dir() {
        return in_folder(path);
    }
    match path.extension().is_some_and(|e| e == "json") {
        true => in_index(path).map_err(|e| failed(path, &e)),
        false => Ok(vec![path.to_path_buf()]),
    }
}

/// What a folder holds: an index of shards, else its safetensors files, else its one PyTorch file.
fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| failed(folder, &e))?;
    let mut paths = vec![];
    for entry in entries {
        paths.push(entry.map_err(|e| failed(folder, &e))?.path());
    }
    paths.sort();
    let ending = |endings: &[&str]| -> Vec<PathBuf> {
        let has = |path: &&PathBuf| {
            let name = path.to_string_lossy();
            endings.iter().any(|ending| name.ends_with(ending))
        };
        paths.iter().filter(has).cloned().collect()
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

/// What torchvision calls this tensor today; `None` for a counter that no layer uses.
fn torchvision_name(name: &str) -> Option<String> {
    let name = name.strip_prefix("module.").unwrap_or(name);
    let parts: Vec<&str> = name.split('.').collect();
    if parts.last() == Some(&"num_batches_tracked") {
        return None;
    }
    let mut known = String::new();
    for (i, part) in parts.iter().enumerate() {
        let old_dense_layer = i >= 2
            && parts[i - 2].starts_with("denselayer")
            && ["norm", "conv"].contains(&parts[i - 1])
            && ["1", "2"].contains(part);
        if i > 0 && !old_dense_layer {
            known.push('.');
        }
        known.push_str(part);
    }
    Some(known)
}

/// Gives zeros and keeps what was asked for.
struct Recorder {
    weights: Weights,
    asked: Arc<Mutex<BTreeMap<String, Shape>>>,
}

impl SimpleBackend for Recorder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        lock(&self.asked).insert(name.to_string(), shape.clone());
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        match self.weights.shape(name) {
            Some(shape) => self.get(shape.clone(), name, Init::Const(0.0), dtype, device),
            None => bail!("no tensor {name:?}"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights.contains_tensor(name)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
