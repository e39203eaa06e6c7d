//! What PyTorch saves: a zip archive with a pickle, and a file for each block of numbers.

use super::pickle::{Id, Object, Pickle};
use candle_core::{bail, DType, Device, Error, Result, Shape, Tensor};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{Read, Seek};
use std::sync::{Arc, Mutex};
use zip::{CompressionMethod, ZipArchive};

/// Keys of tables in checkpoints, the more wanted first: as timm does, weights averaged over the training go before its last ones.
const KEYS: [&str; 12] = [
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "params_ema",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "params",
    "module",
];
/// Pickles that name tensors have a few hundred bytes for each.
const LONGEST: u64 = 32 << 20;
/// How deep modules lie in one another, at most.
const DEEPEST: usize = 100;
/// How deep wrappers of a tensor (a parameter, a subclass) lie in one another, at most.
const WRAPPERS: usize = 8;

pub(super) trait Source: Read + Seek + Send {}
impl<T: Read + Seek + Send> Source for T {}

/// An open archive.
pub(super) struct Archive {
    zip: Mutex<ZipArchive<Box<dyn Source>>>,
    /// What all its files' names begin with.
    folder: String,
    tensors: HashMap<String, Layout>,
    /// The last block that was read: tensors may share one.
    block: Mutex<Option<(String, Arc<Vec<u8>>)>>,
}

/// Where a tensor's numbers are.
struct Layout {
    block: String,
    dtype: std::result::Result<DType, String>,
    offset: usize,
    sizes: Vec<usize>,
    strides: Vec<usize>,
}

impl Archive {
    pub fn open(source: Box<dyn Source>) -> Result<Self> {
        let mut zip = ZipArchive::new(source).map_err(not_whole)?;
        let Some(name) = pickle_name(&zip) else {
            bail!("not a PyTorch file: a zip archive without a data.pkl");
        };
        let folder = name.trim_end_matches("data.pkl").to_string();
        if let Ok(order) = read(&mut zip, &format!("{folder}byteorder"), 16) {
            if order == b"big" {
                bail!("numbers in big-endian order: save them again on a little-endian machine");
            }
        }
        let pickle = Pickle::read(&read(&mut zip, &name, LONGEST)?)?;
        Ok(Self {
            zip: Mutex::new(zip),
            folder,
            tensors: tensors(&pickle)?,
            block: Mutex::default(),
        })
    }

    pub fn tensors(&self) -> Vec<(String, Shape)> {
        let shape = |layout: &Layout| Shape::from(layout.sizes.as_slice());
        let tensors = self.tensors.iter();
        tensors
            .map(|(n, layout)| (n.clone(), shape(layout)))
            .collect()
    }

    pub fn load(&self, name: &str, dtype: DType) -> Result<Tensor> {
        match self.tensors.get(name) {
            Some(layout) => layout.tensor(&self.block(&layout.block)?, dtype),
            None => bail!("it is gone"),
        }
    }

    /// The whole of a block, so that its checksum is compared.
    fn block(&self, name: &str) -> Result<Arc<Vec<u8>>> {
        let mut last = super::lock(&self.block);
        match &*last {
            Some((known, block)) if known == name => Ok(block.clone()),
            _ => {
                let path = format!("{}data/{name}", self.folder);
                let block = Arc::new(read(&mut super::lock(&self.zip), &path, u64::MAX)?);
                *last = Some((name.to_string(), block.clone()));
                Ok(block)
            }
        }
    }
}

fn not_whole(error: impl std::fmt::Display) -> Error {
    Error::Msg(format!("not a whole PyTorch file: {error}"))
}

/// The pickle of the archive, which lies in a folder of any name, or in none.
fn pickle_name(zip: &ZipArchive<Box<dyn Source>>) -> Option<String> {
    let names = zip
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()));
    let mut pickles: Vec<_> = names
        .filter(|name| name == "data.pkl" || name.ends_with("/data.pkl"))
        .collect();
    pickles.sort_by_key(|name| name.len());
    pickles.into_iter().next()
}

/// A file of the archive; its checksum is compared, but for the 0 that PyTorch writes where checksums were turned off.
fn read(zip: &mut ZipArchive<Box<dyn Source>>, name: &str, most: u64) -> Result<Vec<u8>> {
    let place = zip.index_for_name(name);
    let place = place.ok_or_else(|| not_whole(format!("it has no {name}")))?;
    let failed = |e: &dyn std::fmt::Display| not_whole(format!("{name} is damaged: {e}"));
    let unchecked = {
        let file = zip.by_index_raw(place).map_err(|e| failed(&e))?;
        if file.size() > most {
            bail!("{name} has {} bytes, expected at most {most}", file.size());
        }
        file.crc32() == 0 && file.compression() == CompressionMethod::Stored
    };
    let file = match unchecked {
        true => zip.by_index_raw(place),
        false => zip.by_index(place),
    };
    let mut bytes = vec![];
    let mut file = file.map_err(|e| failed(&e))?;
    file.read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    Ok(bytes)
}

/// The tensors of the table, or module saved as a whole, that has most.
fn tensors(pickle: &Pickle) -> Result<HashMap<String, Layout>> {
    let (mut best, mut best_rank) = (vec![], KEYS.len());
    let mut walked = HashSet::new();
    for (key, id) in nested(pickle) {
        let found = match pickle.object(id) {
            Object::Table(entries) => in_table(pickle, entries),
            _ => in_module(pickle, id, &mut walked)?,
        };
        let rank = KEYS.iter().position(|&known| key == Some(known));
        let rank = rank.unwrap_or(KEYS.len());
        if found.len() > best.len() || (found.len() == best.len() && rank < best_rank) {
            (best, best_rank) = (found, rank);
        }
    }
    let mut tensors = HashMap::new();
    for (name, tensor) in best {
        let Some(layout) = Layout::read(pickle, tensor) else {
            bail!("tensor {name:?} is malformed");
        };
        if tensors.insert(name.clone(), layout).is_some() {
            bail!("a second tensor {name:?}");
        }
    }
    Ok(tensors)
}

/// Every table and module that can be reached, with its key where it has one, the outer before the inner.
fn nested(pickle: &Pickle) -> Vec<(Option<&str>, Id)> {
    let mut found = vec![];
    let mut seen = HashSet::from([pickle.root]);
    let mut queue = VecDeque::from([(None, pickle.root)]);
    while let Some((key, id)) = queue.pop_front() {
        let inner: Vec<_> = match pickle.object(id) {
            Object::Table(entries) => {
                found.push((key, id));
                let entry = |&(key, value): &(Id, Id)| (pickle.text(key), value);
                entries.iter().map(entry).collect()
            }
            Object::Call { state, .. } => {
                found.push((key, id));
                state.iter().map(|&state| (None, state)).collect()
            }
            Object::Tuple(ids) | Object::List(ids) => ids.iter().map(|&id| (None, id)).collect(),
            _ => continue,
        };
        queue.extend(inner.into_iter().filter(|&(_, id)| seen.insert(id)));
    }
    found
}

fn in_table(pickle: &Pickle, entries: &[(Id, Id)]) -> Vec<(String, Id)> {
    let tensors = entries
        .iter()
        .filter(|&&(_, value)| rebuilt(pickle, value).is_some());
    let named = tensors.filter_map(|&(key, value)| Some((pickle.text(key)?.to_string(), value)));
    named.collect()
}

/// The tensors of a module and of those inside it, by the names of PyTorch's `state_dict`; none of a module that was `walked`.
fn in_module(pickle: &Pickle, id: Id, walked: &mut HashSet<Id>) -> Result<Vec<(String, Id)>> {
    let mut found = vec![];
    let mut left = vec![(String::new(), 0, id)];
    while let Some((prefix, depth, id)) = left.pop() {
        let Some(attributes) = attributes(pickle, id) else {
            continue;
        };
        if !walked.insert(id) {
            continue;
        }
        if depth > DEEPEST {
            bail!("modules more than {DEEPEST} deep in one another");
        }
        for (name, value) in parts(pickle, attributes) {
            let name = match prefix.is_empty() {
                true => name.to_string(),
                false => format!("{prefix}.{name}"),
            };
            match rebuilt(pickle, value) {
                Some(_) => found.push((name, value)),
                None => left.push((name, depth + 1, value)),
            }
        }
    }
    Ok(found)
}

/// What a module was given when it was read.
fn attributes(pickle: &Pickle, id: Id) -> Option<&[(Id, Id)]> {
    let Object::Call { state, .. } = pickle.object(id) else {
        return None;
    };
    match pickle.object((*state)?) {
        Object::Table(entries) => Some(entries),
        _ => None,
    }
}

/// Its parameters, buffers and modules, which TorchScript keeps side by side and PyTorch in three tables.
fn parts<'a>(pickle: &'a Pickle, attributes: &'a [(Id, Id)]) -> Vec<(&'a str, Id)> {
    let mut parts = vec![];
    for &(key, value) in attributes {
        match (pickle.text(key), pickle.object(value)) {
            (Some("_parameters" | "_buffers" | "_modules"), Object::Table(entries)) => {
                let entries = entries.iter();
                parts.extend(entries.filter_map(|&(k, v)| Some((pickle.text(k)?, v))));
            }
            (Some(key), _) => parts.push((key, value)),
            _ => {}
        }
    }
    parts
}

/// The arguments that a tensor was rebuilt from, through the parameters and subclasses around it; `None` for what is no tensor.
fn rebuilt(pickle: &Pickle, tensor: Id) -> Option<Id> {
    let Object::Call {
        callable,
        arguments,
        ..
    } = pickle.object(tensor)
    else {
        return None;
    };
    let (mut callable, mut arguments) = (*callable, *arguments);
    for _ in 0..WRAPPERS {
        let inside = |place: usize| pickle.tuple(arguments)?.get(place).copied();
        match pickle.global(callable)? {
            "torch._utils._rebuild_tensor"
            | "torch._utils._rebuild_tensor_v2"
            | "torch._utils._rebuild_tensor_v3" => return Some(arguments),
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                match inside(0).map(|id| pickle.object(id)) {
                    Some(Object::Call {
                        callable: c,
                        arguments: a,
                        ..
                    }) => (callable, arguments) = (*c, *a),
                    // Malformed, and to be reported as such.
                    _ => return Some(arguments),
                }
            }
            "torch._tensor._rebuild_from_type_v2" => match (inside(0), inside(2)) {
                (Some(c), Some(a)) => (callable, arguments) = (c, a),
                _ => return Some(arguments),
            },
            _ => return None,
        }
    }
    None
}

impl Layout {
    /// `None` for a tensor that is not as PyTorch writes it, or has numbers outside its block.
    fn read(pickle: &Pickle, tensor: Id) -> Option<Self> {
        let arguments = pickle.tuple(rebuilt(pickle, tensor)?)?;
        let [block, offset, sizes, strides, ..] = *arguments else {
            return None;
        };
        let Object::Persistent(block) = pickle.object(block) else {
            return None;
        };
        let [_, class, key, _, count, ..] = *pickle.tuple(*block)? else {
            return None;
        };
        let numbers = |id: Id| -> Option<Vec<usize>> {
            let ids = pickle.tuple(id)?.iter();
            ids.map(|&id| pickle.size(id)).collect()
        };
        // The third version of the function names the dtype last, and counts the block in bytes.
        let class = pickle.global(class)?;
        let untyped = class == "torch.storage.UntypedStorage";
        let dtype = match untyped {
            true => dtype(pickle.global(*arguments.get(6)?)?),
            false => dtype(class),
        };
        let size = match (untyped, &dtype) {
            (true, Ok(dtype)) => dtype.size_in_bytes(),
            _ => 1,
        };
        let layout = Self {
            block: pickle.text(key)?.to_string(),
            dtype,
            offset: pickle.size(offset)?,
            sizes: numbers(sizes)?,
            strides: numbers(strides)?,
        };
        layout.fits(pickle.size(count)? / size).then_some(layout)
    }

    /// Whether all numbers lie in a block of so many, and none is read twice but by dimensions of stride 0.
    fn fits(&self, count: usize) -> bool {
        let last = |offset: usize, (&size, &stride): (&usize, &usize)| {
            stride
                .checked_mul(size.checked_sub(1)?)?
                .checked_add(offset)
        };
        if self.sizes.len() != self.strides.len() {
            return false;
        }
        if self.sizes.contains(&0) {
            return true;
        }
        let mut dims = self.sizes.iter().zip(&self.strides);
        let last = dims.try_fold(self.offset, last);
        last.is_some_and(|last| last < count)
            && product(self.sizes.iter().copied()).is_some()
            && product(self.own().map(|(size, _)| size)).is_some_and(|own| own <= count)
    }

    /// Sizes and strides with the repeated dimensions as ones of size 1.
    fn own(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let dims = self.sizes.iter().zip(&self.strides);
        dims.map(|(&size, &stride)| if stride == 0 { (1, 0) } else { (size, stride) })
    }

    /// Its numbers as `wanted`.
    fn tensor(&self, block: &[u8], wanted: DType) -> Result<Tensor> {
        let dtype = match &self.dtype {
            Ok(dtype) => *dtype,
            Err(name) => bail!("of {name}, which candle does not know"),
        };
        let bytes = dtype.size_in_bytes();
        if self.sizes.contains(&0) {
            return Tensor::zeros(self.sizes.as_slice(), wanted, &Device::Cpu);
        }
        if !self.fits(block.len() / bytes) {
            bail!(
                "of shape {:?} in a block of {} bytes",
                self.sizes,
                block.len()
            );
        }
        let dims: Vec<_> = self.own().collect();
        let shape: Vec<_> = dims.iter().map(|(size, _)| *size).collect();
        let gathered;
        let contiguous = Shape::from(shape.as_slice()).is_contiguous(&self.own_strides());
        let numbers = match contiguous {
            true => {
                let count: usize = shape.iter().product();
                &block[self.offset * bytes..][..count * bytes]
            }
            false => {
                gathered = gather(block, bytes, self.offset, &dims);
                &gathered
            }
        };
        // Repeated last: that takes no memory, however often.
        let numbers = Tensor::from_raw_buffer(numbers, dtype, &shape, &Device::Cpu)?;
        super::converted(numbers, wanted)?.broadcast_as(self.sizes.as_slice())
    }

    fn own_strides(&self) -> Vec<usize> {
        self.own().map(|(_, stride)| stride).collect()
    }
}

/// `None` where it is larger than a `usize`.
fn product(mut sizes: impl Iterator<Item = usize>) -> Option<usize> {
    sizes.try_fold(1, usize::checked_mul)
}

/// The numbers of so many bytes in the order of the dimensions, the last running fastest.
fn gather(block: &[u8], bytes: usize, offset: usize, dims: &[(usize, usize)]) -> Vec<u8> {
    let Some((&(size, stride), outer)) = dims.split_last() else {
        return block[offset * bytes..][..bytes].to_vec();
    };
    let mut starts = vec![offset];
    for &(size, stride) in outer {
        let steps = |start: usize| (0..size).map(move |i| start + i * stride);
        starts = starts.into_iter().flat_map(steps).collect();
    }
    let mut numbers = Vec::with_capacity(starts.len() * size * bytes);
    for start in starts {
        for i in 0..size {
            numbers.extend_from_slice(&block[(start + i * stride) * bytes..][..bytes]);
        }
    }
    numbers
}

/// The dtype by PyTorch's name of it or of its storage; else that name.
fn dtype(name: &str) -> std::result::Result<DType, String> {
    let name = name.trim_start_matches("torch.");
    Ok(match name {
        "DoubleStorage" | "float64" => DType::F64,
        "FloatStorage" | "float32" => DType::F32,
        "HalfStorage" | "float16" => DType::F16,
        "BFloat16Storage" | "bfloat16" => DType::BF16,
        "float8_e4m3fn" => DType::F8E4M3,
        "LongStorage" | "int64" => DType::I64,
        "IntStorage" | "int32" => DType::I32,
        "ShortStorage" | "int16" => DType::I16,
        "uint32" => DType::U32,
        "ByteStorage" | "uint8" | "BoolStorage" | "bool" => DType::U8,
        _ => return Err(name.to_string()),
    })
}
