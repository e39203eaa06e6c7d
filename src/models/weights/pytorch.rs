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
/// What may be read to find the tensors, in entries of tables and bytes of names: a pickle may have the same ones in many places.
const MOST_READ: usize = 16 << 20;
/// Bytes of a name beside its letters.
const NAME: usize = 64;
/// How deep modules lie in one another, at most.
const DEEPEST: usize = 100;
/// How deep wrappers of a tensor (a parameter, a subclass) lie in one another, at most.
const WRAPPERS: usize = 8;
/// Dimensions of a tensor, and letters of its block's and its dtype's names, at most: many tensors may share long ones.
const LONGEST_PART: usize = 64;
/// Functions of `torch._utils` that rebuild tensors.
const DENSE: [&str; 3] = [
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
];
/// What the names of all those begin with that rebuild tensors, of whatever kind.
const REBUILD: &str = "_rebuild_";

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
    let mut tensors = HashMap::new();
    for (name, tensor) in largest(pickle)? {
        let Some(layout) = Layout::read(pickle, tensor) else {
            let function = rebuilt(pickle, tensor).map(|(function, _)| function);
            bail!("tensor {name:?} is {}", fault(function));
        };
        if tensors.insert(name.clone(), layout).is_some() {
            bail!("a second tensor {name:?}");
        }
    }
    Ok(tensors)
}

/// What is wrong with a tensor that cannot be read, by the function that rebuilds it.
fn fault(function: Option<&str>) -> String {
    let readable = |kind: &str| {
        ["tensor", "parameter", "from_type"]
            .iter()
            .any(|known| kind.starts_with(known))
    };
    match function.and_then(|name| name.strip_prefix(REBUILD)) {
        Some(kind) if kind.starts_with("sparse") => {
            "sparse: save it dense, as to_dense() makes it".into()
        }
        Some("qtensor") => "quantised: save it as dequantize() makes it".into(),
        Some(kind) if !readable(kind) => {
            format!("of a kind that is not read: torch._utils.{REBUILD}{kind}")
        }
        _ => "malformed".into(),
    }
}

/// Of every table and module that can be reached, the outer before the inner, the names and tensors of the one that has most.
fn largest(pickle: &Pickle) -> Result<Vec<(String, Id)>> {
    let (mut best, mut best_rank) = (vec![], KEYS.len());
    let mut walk = Walk::default();
    let mut seen = HashSet::from([pickle.root]);
    let mut queue = VecDeque::from([(None, pickle.root)]);
    while let Some((key, id)) = queue.pop_front() {
        if walk.modules.contains(&id) {
            continue;
        }
        let found = match Module::read(pickle, id, &mut walk)? {
            Some(_) => in_module(pickle, id, &mut walk)?,
            None => {
                let inner = inner(pickle, id).into_iter();
                queue.extend(inner.filter(|&(_, id)| seen.insert(id)));
                in_table(pickle, id, &mut walk)?
            }
        };
        let rank = KEYS.iter().position(|&known| key == Some(known));
        let rank = rank.unwrap_or(KEYS.len());
        if found.len() > best.len() || (found.len() == best.len() && rank < best_rank) {
            (best, best_rank) = (found, rank);
        }
    }
    Ok(best)
}

/// What lies in an object, with its key where it has one; nothing of an optimiser, whose tensors may outnumber the network's.
fn inner(pickle: &Pickle, id: Id) -> Vec<(Option<&str>, Id)> {
    let entries = pickle.table(id).unwrap_or_default();
    let has = |name| {
        entries
            .iter()
            .any(|&(key, _)| pickle.text(key) == Some(name))
    };
    if has("state") && has("param_groups") {
        return vec![];
    }
    let keyed = entries.iter();
    let mut inner: Vec<_> = keyed.map(|&(k, v)| (pickle.text(k), v)).collect();
    match pickle.object(id) {
        Object::Tuple(ids) | Object::List(ids) => inner.extend(ids.iter().map(|&id| (None, id))),
        Object::Call { state, .. } => inner.extend(state.map(|state| (None, state))),
        _ => {}
    }
    inner
}

/// What the search for tensors has seen.
#[derive(Default)]
struct Walk {
    modules: HashSet<Id>,
    /// As [`MOST_READ`] counts.
    read: usize,
}

impl Walk {
    fn read(&mut self, more: usize) -> Result<()> {
        self.read = self.read.saturating_add(more);
        if self.read > MOST_READ {
            bail!("more than {MOST_READ} entries, and bytes of names, to find its tensors");
        }
        Ok(())
    }
}

fn in_table(pickle: &Pickle, id: Id, walk: &mut Walk) -> Result<Vec<(String, Id)>> {
    let entries = pickle.table(id).unwrap_or_default();
    walk.read(entries.len())?;
    let mut named = vec![];
    for &(key, value) in entries {
        if let (Some(name), Some(_)) = (pickle.text(key), rebuilt(pickle, value)) {
            walk.read(name.len() + NAME)?;
            named.push((name.to_string(), value));
        }
    }
    Ok(named)
}

/// The tensors of a module and of those inside it, by the names of PyTorch's `state_dict`; a module may be there under several.
fn in_module(pickle: &Pickle, id: Id, walk: &mut Walk) -> Result<Vec<(String, Id)>> {
    let mut found = vec![];
    let mut left = vec![(String::new(), 0, id)];
    while let Some((prefix, depth, id)) = left.pop() {
        let Some(module) = Module::read(pickle, id, walk)? else {
            continue;
        };
        walk.modules.insert(id);
        if depth > DEEPEST {
            bail!("modules more than {DEEPEST} deep in one another");
        }
        for table in module.tables {
            walk.read(table.len())?;
            for &(key, value) in table {
                let Object::Call { .. } = pickle.object(value) else {
                    continue;
                };
                let name = pickle
                    .text(key)
                    .filter(|name| !module.hidden.contains(name));
                let Some(name) = name else {
                    continue;
                };
                walk.read(prefix.len() + name.len() + NAME)?;
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
    }
    Ok(found)
}

/// What a module saved as a whole has of tensors and modules.
struct Module<'a> {
    /// TorchScript keeps them side by side, PyTorch in three tables beside other attributes, which `state_dict` leaves out.
    tables: Vec<&'a [(Id, Id)]>,
    /// Names of buffers that `state_dict` leaves out.
    hidden: HashSet<&'a str>,
}

impl<'a> Module<'a> {
    /// `None` for what is no module.
    fn read(pickle: &'a Pickle, id: Id, walk: &mut Walk) -> Result<Option<Self>> {
        let Object::Call {
            callable,
            state: Some(state),
            ..
        } = *pickle.object(id)
        else {
            return Ok(None);
        };
        let attributes = pickle.table(state).unwrap_or_default();
        let (class, _) = pickle.global(callable).unwrap_or_default();
        if class.split('.').next() == Some("__torch__") {
            let (tables, hidden) = (vec![attributes], HashSet::new());
            return Ok(Some(Self { tables, hidden }));
        }
        walk.read(attributes.len())?;
        let (mut tables, mut hidden) = (vec![], HashSet::new());
        let mut is_module = false;
        for &(key, value) in attributes {
            match pickle.text(key) {
                Some(name @ ("_parameters" | "_buffers" | "_modules")) => {
                    is_module |= name == "_modules";
                    tables.extend(pickle.table(value));
                }
                Some("_non_persistent_buffers_set") => {
                    let names = set(pickle, value);
                    walk.read(names.len())?;
                    hidden.extend(names.iter().filter_map(|&name| pickle.text(name)));
                }
                _ => {}
            }
        }
        Ok(is_module.then_some(Self { tables, hidden }))
    }
}

/// What is in a set, which old protocols make of a list.
fn set(pickle: &Pickle, id: Id) -> &[Id] {
    let list = match pickle.object(id) {
        Object::Call { arguments, .. } => {
            let arguments = pickle.tuple(*arguments).unwrap_or_default();
            arguments.first().map(|&list| pickle.object(list))
        }
        object => Some(object),
    };
    match list {
        Some(Object::List(items)) => items,
        _ => &[],
    }
}

/// The function, of `torch._utils`, and the arguments that a tensor was rebuilt from, through the parameters and subclasses around
/// it; `None` for what is no tensor.
fn rebuilt(pickle: &Pickle, tensor: Id) -> Option<(&str, Id)> {
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
        let (module, function) = pickle.global(callable)?;
        // Also of a wrapper with nothing inside: it is malformed, and to be reported as such.
        let found = Some((function, arguments));
        match (module, function) {
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                match inside(0).map(|id| pickle.object(id)) {
                    Some(Object::Call {
                        callable: c,
                        arguments: a,
                        ..
                    }) => (callable, arguments) = (*c, *a),
                    _ => return found,
                }
            }
            ("torch._tensor", "_rebuild_from_type_v2") => match (inside(0), inside(2)) {
                (Some(c), Some(a)) => (callable, arguments) = (c, a),
                _ => return found,
            },
            ("torch._utils", _) if function.starts_with(REBUILD) => return found,
            _ => return None,
        }
    }
    None
}

impl Layout {
    /// `None` for a tensor that is not as PyTorch writes it, or has numbers outside its block.
    fn read(pickle: &Pickle, tensor: Id) -> Option<Self> {
        let (function, arguments) = rebuilt(pickle, tensor)?;
        let arguments = pickle
            .tuple(arguments)
            .filter(|_| DENSE.contains(&function))?;
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
            let ids = pickle.tuple(id)?;
            let few = (ids.len() <= LONGEST_PART).then_some(ids)?;
            few.iter().map(|&id| pickle.size(id)).collect()
        };
        // The third version of the function names the dtype last, and counts the block in bytes.
        let (_, class) = pickle.global(class)?;
        let untyped = class == "UntypedStorage";
        let name = match untyped {
            true => pickle.global(*arguments.get(6)?)?.1,
            false => class,
        };
        let block = pickle.text(key)?;
        if name.len().max(block.len()) > LONGEST_PART {
            return None;
        }
        let dtype = dtype(name);
        let size = match (untyped, &dtype) {
            (true, Ok(dtype)) => dtype.size_in_bytes(),
            _ => 1,
        };
        let layout = Self {
            block: block.to_string(),
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
