//! Reading weights: one safetensors file, several shards, or what PyTorch saves; and saying what does not fit.

mod files;
mod names;
mod pickle;
mod pytorch;

use candle_core::safetensors::BufferedSafetensors;
use candle_core::{bail, DType, Device, Error, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use pytorch::{Archive, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Tensors by name, read when a network asks for them.
///
/// [`Self::open`] takes one safetensors file, an index of shards (`model.safetensors.index.json`), a PyTorch file
/// (`.pth`, `.pt`, `.bin`), or a folder with one of these; [`Self::from_bytes`] one file's content.
///
/// Names become torchvision's: the `module.` and `_orig_mod.` that PyTorch's data parallelism and compiler put before every name
/// go, as in the checkpoints of SoftPool's authors; the dense layers of old DenseNet checkpoints (`norm.1`) get their present
/// names (`norm1`); `num_batches_tracked` and `n_averaged`, which no layer uses, are left out. Where most names begin with
/// `model.`, `backbone.`, `module.`, `network.` or `net.`, a network may leave that out when it asks.
///
/// In a PyTorch file the network may be a table of tensors at any level, or a module that was saved as a whole, whose names are
/// those of its `state_dict`: the one with most tensors counts, and of equals the one whose key says that it is averaged
/// (`state_dict_ema`, `model_ema`), as in timm. What an optimiser keeps does not count. Sparse and quantised tensors, and
/// others without numbers of their own, are an error. Nothing in such a file is executed. Its checksums are compared.
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
    /// What a network may leave out of most names.
    prefix: String,
}

enum File {
    Safetensors(BufferedSafetensors),
    PyTorch(Archive),
}

/// Where a tensor is, under which name there, and its shape.
struct Entry {
    file: usize,
    name: String,
    shape: Shape,
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weights")
            .field("path", &self.0.path)
            .field("tensors", &self.0.tensors.len())
            .finish_non_exhaustive()
    }
}

impl Weights {
    /// The tensors of a file, of an index of shards, or of a folder.
    ///
    /// In a folder, a file of a usual name (`model.safetensors`, `pytorch_model.bin`, or its index) counts alone, and a file in another
    /// dtype beside the same one (`a.fp16.safetensors` beside `a.safetensors`) does not count.
    /// Safetensors files are read whole, and stay in memory until the last clone and the `VarBuilder`s of it are gone.
    ///
    /// # Errors
    ///
    /// They name the file: one that is not there, is cut short, is of neither format, or a name that occurs twice.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut files = vec![];
        for path in files::shards(path)? {
            let file = File::open(&path).map_err(|e| failed(&path, &e))?;
            files.push((path, file));
        }
        Self::of(path, files)
    }

    /// The tensors of a safetensors or PyTorch file's content.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use candle_softpool::models::{digits::Digits, Weights};
    /// use candle_softpool::PoolingMethod;
    ///
    /// # const BYTES: &[u8] = include_bytes!("../../examples/classify/weights/digits-soft.safetensors");
    /// # const _: &str = r#"
    /// const BYTES: &[u8] = include_bytes!("digits-soft.safetensors");
    /// # "#;
    /// let weights = Weights::from_bytes(BYTES)?;
    /// let network = weights.build(DType::F32, &Device::Cpu, |vb| Digits::new(10, PoolingMethod::Soft, vb))?;
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Self::open`].
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let path = Path::new("in memory");
        let file = File::read(Cursor::new(bytes.into())).map_err(|e| failed(path, &e))?;
        Self::of(path, vec![(path.to_path_buf(), file)])
    }

    fn of(path: &Path, files: Vec<(PathBuf, File)>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (i, (path, file)) in files.iter().enumerate() {
            for (name, shape) in file.tensors() {
                let Some(known) = names::torchvision(&name) else {
                    continue;
                };
                if !countable(&shape) {
                    let problem =
                        format!("tensor {name:?} of shape {:?} is too large", shape.dims());
                    return Err(failed(path, &problem));
                }
                let entry = Entry {
                    file: i,
                    name,
                    shape,
                };
                if tensors.insert(known.clone(), entry).is_some() {
                    return Err(failed(path, &format!("a second tensor {known:?}")));
                }
            }
        }
        if tensors.is_empty() {
            return Err(failed(path, &"no tensors in it"));
        }
        let prefix = names::holders(tensors.keys());
        Ok(Self(Arc::new(Files {
            path: path.to_path_buf(),
            files,
            tensors,
            prefix,
        })))
    }

    /// Every tensor's name and shape, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.0.tensors.iter().map(|(n, e)| (n.as_str(), &e.shape))
    }

    /// The shape of the tensor of this name.
    pub fn shape(&self, name: &str) -> Option<&Shape> {
        self.find(name).map(|(_, entry)| &entry.shape)
    }

    /// The tensor of this name, or of it behind what a network may leave out.
    fn find(&self, name: &str) -> Option<(&str, &Entry)> {
        let exact = self.0.tensors.get_key_value(name);
        let held = || {
            let name = format!("{}{name}", self.0.prefix);
            self.0.tensors.get_key_value(&name)
        };
        let (name, entry) = exact.or_else(held)?;
        Some((name, entry))
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
        let found: BTreeSet<_> = asked
            .keys()
            .filter_map(|name| self.find(name))
            .map(|(n, _)| n)
            .collect();
        for (name, shape) in self.tensors() {
            if !found.contains(name) {
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
        let Some((_, entry)) = self.find(name) else {
            return Err(failed(&self.0.path, &format!("no tensor {name:?}")));
        };
        let (path, file) = &self.0.files[entry.file];
        // Converted on the CPU: not every device knows every dtype that a file may have.
        file.load(&entry.name, dtype)
            .and_then(|tensor| tensor.to_device(device))
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
        self.find(name).is_some()
    }
}

impl File {
    fn open(path: &Path) -> Result<Self> {
        Self::read(std::fs::File::open(path)?)
    }

    fn read(mut source: impl Source + 'static) -> Result<Self> {
        let mut bytes = vec![];
        source.by_ref().take(9).read_to_end(&mut bytes)?;
        source.rewind()?;
        match bytes[..] {
            // The length of a safetensors file's header, which may be any number, and the header.
            [.., b'{'] if bytes.len() == 9 => {}
            [b'P', b'K', ..] => return Ok(Self::PyTorch(Archive::open(Box::new(source))?)),
            [0x80, 2..=5, 0x8a | 0x95, _, ..] => {
                bail!(
                    "PyTorch's format from before 1.6: read and save it again with a newer PyTorch"
                )
            }
            _ => {}
        }
        bytes.clear();
        source.read_to_end(&mut bytes)?;
        match BufferedSafetensors::new(bytes) {
            Ok(tensors) => Ok(Self::Safetensors(tensors)),
            Err(e) => bail!("not a whole safetensors or PyTorch file: {e}"),
        }
    }

    fn tensors(&self) -> Vec<(String, Shape)> {
        match self {
            Self::Safetensors(file) => file
                .tensors()
                .into_iter()
                .map(|(name, view)| (name, Shape::from(view.shape())))
                .collect(),
            Self::PyTorch(file) => file.tensors(),
        }
    }

    fn load(&self, name: &str, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Safetensors(file) => converted(file.load(name, &Device::Cpu)?, dtype),
            Self::PyTorch(file) => file.load(name, dtype),
        }
    }
}

/// The tensor in this dtype, by f32 where it is of 8-bit floats: candle 0.11 never returns from their way to f64.
fn converted(tensor: Tensor, dtype: DType) -> Result<Tensor> {
    match tensor.dtype() {
        DType::F8E4M3 if dtype != DType::F8E4M3 => tensor.to_dtype(DType::F32)?.to_dtype(dtype),
        _ => tensor.to_dtype(dtype),
    }
}

/// Whether the cells, and the strides of its dimensions, can be counted; a size of 0 hides neither.
fn countable(shape: &Shape) -> bool {
    let mut sizes = shape.dims().iter().filter(|&&size| size > 0);
    sizes
        .try_fold(1usize, |cells, &size| cells.checked_mul(size))
        .is_some()
}

/// An error that names the file; a list of tensors wants no backtrace behind it.
fn failed(path: &Path, problem: &dyn Display) -> Error {
    Error::Msg(format!("weights {}: {problem}", path.display()))
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
