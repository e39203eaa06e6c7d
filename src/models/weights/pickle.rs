//! Python's pickles of protocols 2 to 5, as far as PyTorch writes them, read without calling anything.
//!
//! Objects lie in one list and name one another by their place in it. So a table that is kept under two keys is one table, and
//! neither nesting nor sharing can cost more than the pickle's own length, whoever made it.

use candle_core::{bail, Result};
use std::collections::HashMap;

/// An object's place in the list of all.
pub(super) type Id = usize;

pub(super) enum Object {
    Int(i64),
    Text(String),
    /// A class or function: the texts of its module's name and its own.
    Global(Id, Id),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Table(Vec<(Id, Id)>),
    /// What a function or class would make of a tuple of arguments, and the attributes and entries that it is then given.
    Call {
        callable: Id,
        arguments: Id,
        state: Option<Id>,
        entries: Vec<(Id, Id)>,
    },
    /// What lies outside of the pickle, by a name of the writer's.
    Persistent(Id),
    /// What no tensor needs: numbers with a fraction, bytes, truth values, nothing.
    Other,
}

pub(super) struct Pickle {
    objects: Vec<Object>,
    pub root: Id,
}

impl Pickle {
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut machine = Machine {
            bytes,
            objects: vec![],
            stack: vec![],
            marks: vec![],
            memo: HashMap::new(),
        };
        loop {
            if let Some(root) = machine.step()? {
                let objects = machine.objects;
                return Ok(Self { objects, root });
            }
        }
    }

    pub fn object(&self, id: Id) -> &Object {
        &self.objects[id]
    }

    pub fn text(&self, id: Id) -> Option<&str> {
        match self.object(id) {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The module and the name of a class or function.
    pub fn global(&self, id: Id) -> Option<(&str, &str)> {
        match *self.object(id) {
            Object::Global(module, name) => Some((self.text(module)?, self.text(name)?)),
            _ => None,
        }
    }

    /// The entries of a table, which may be of any class.
    pub fn table(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.object(id) {
            Object::Table(entries) | Object::Call { entries, .. } => Some(entries),
            _ => None,
        }
    }

    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.object(id) {
            Object::Tuple(ids) => Some(ids),
            _ => None,
        }
    }

    /// A whole number of at least 0.
    pub fn size(&self, id: Id) -> Option<usize> {
        match self.object(id) {
            Object::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        }
    }
}

/// Python's stack machine.
struct Machine<'a> {
    /// What is left.
    bytes: &'a [u8],
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// Where in the stack the open groups begin.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// Carries out one instruction; the last one gives the pickle's object.
    fn step(&mut self) -> Result<Option<Id>> {
        match self.number(1)? as u8 {
            b'.' => return Ok(Some(self.pop()?)),
            // Which protocol, and how long its frames are, makes no difference.
            0x80 => self.skip(1)?,
            0x95 => self.skip(8)?,

            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.group()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }

            b'N' | 0x88 | 0x89 => self.push(Object::Other),
            b'G' => self.skipped(8)?,
            b'K' => self.integer(1)?,
            b'M' => self.integer(2)?,
            b'J' => {
                let n = self.number(4)? as u32 as i32;
                self.push(Object::Int(n.into()));
            }
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            0x8c | b'U' => self.text(1)?,
            b'X' | b'T' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => self.data(1)?,
            b'B' => self.data(4)?,
            0x8e | 0x96 => self.data(8)?,

            b')' => self.push(Object::Tuple(vec![])),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let group = self.group()?;
                self.push(Object::Tuple(group));
            }
            // A set is as good as a list here.
            b']' | 0x8f => self.push(Object::List(vec![])),
            b'l' | 0x91 => {
                let group = self.group()?;
                self.push(Object::List(group));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let group = self.group()?;
                self.extend(group)?;
            }
            b'}' => self.push(Object::Table(vec![])),
            b'd' => {
                let group = self.group()?;
                self.push(Object::Table(vec![]));
                self.insert(group)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(vec![key, value])?;
            }
            b'u' => {
                let group = self.group()?;
                self.insert(group)?;
            }

            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Object::Global(module, name));
            }
            0x93 => self.stack_global()?,
            b'R' | 0x81 => self.call()?,
            0x92 => {
                // Named arguments.
                self.pop()?;
                self.call()?;
            }
            b'b' => self.build()?,
            b'Q' => {
                let name = self.pop()?;
                self.push(Object::Persistent(name));
            }

            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            0x94 => {
                let (next, top) = (self.memo.len() as u64, self.top()?);
                self.memo.insert(next, top);
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            code => {
                bail!("a pickle with the instruction {code:#04x}, which PyTorch does not write")
            }
        }
        Ok(None)
    }

    fn push(&mut self, object: Object) {
        let id = self.add(object);
        self.stack.push(id);
    }

    fn add(&mut self, object: Object) -> Id {
        self.objects.push(object);
        self.objects.len() - 1
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(&id)
                if self
                    .marks
                    .last()
                    .is_none_or(|&mark| mark < self.stack.len()) =>
            {
                Ok(id)
            }
            _ => bail!("a pickle that takes an object where it has put none"),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The objects since the last mark, which goes.
    fn group(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => bail!("a pickle that ends a group which it has not begun"),
        }
    }

    fn bytes(&mut self, count: u64) -> Result<&'a [u8]> {
        let whole = usize::try_from(count).ok();
        match whole.and_then(|count| self.bytes.split_at_checked(count)) {
            Some((taken, left)) => {
                self.bytes = left;
                Ok(taken)
            }
            None => bail!("a pickle that is cut short"),
        }
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        self.bytes(count).map(drop)
    }

    fn skipped(&mut self, count: u64) -> Result<()> {
        self.skip(count)?;
        self.push(Object::Other);
        Ok(())
    }

    /// A number of so many bytes, at most 8, the least first.
    fn number(&mut self, count: u64) -> Result<u64> {
        let bytes = self.bytes(count)?.iter().rev();
        Ok(bytes.fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    fn integer(&mut self, count: u64) -> Result<()> {
        let n = self.number(count)?;
        self.push(Object::Int(n as i64));
        Ok(())
    }

    /// A number of any length, in two's complement; one that no size can have is left aside.
    fn long(&mut self, length: u64) -> Result<()> {
        let count = self.number(length)?;
        let bytes = self.bytes(count)?;
        let negative = bytes.last().is_some_and(|byte| byte >> 7 == 1);
        let mut whole = [if negative { 0xff } else { 0 }; 8];
        self.push(match bytes.len() {
            n @ 0..=8 => {
                whole[..n].copy_from_slice(bytes);
                Object::Int(i64::from_le_bytes(whole))
            }
            _ => Object::Other,
        });
        Ok(())
    }

    fn text(&mut self, length: u64) -> Result<()> {
        let count = self.number(length)?;
        let text = text(self.bytes(count)?);
        self.push(text);
        Ok(())
    }

    fn data(&mut self, length: u64) -> Result<()> {
        let count = self.number(length)?;
        self.skipped(count)
    }

    fn line(&mut self) -> Result<Id> {
        let end = self.bytes.iter().position(|&byte| byte == b'\n');
        let line = self.bytes(end.map_or(u64::MAX, |end| end as u64))?;
        self.skip(1)?;
        Ok(self.add(text(line)))
    }

    fn tuple(&mut self, count: usize) -> Result<()> {
        let mut ids = vec![];
        for _ in 0..count {
            ids.push(self.pop()?);
        }
        ids.reverse();
        self.push(Object::Tuple(ids));
        Ok(())
    }

    /// Adds to the list on the stack; what else can be added to holds no tensors.
    fn extend(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        if let Object::List(list) = &mut self.objects[top] {
            list.extend(items);
        }
        Ok(())
    }

    /// Adds keys and values to the table on the stack.
    fn insert(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        if let Object::Table(table) | Object::Call { entries: table, .. } = &mut self.objects[top] {
            let (pairs, rest) = items.as_chunks::<2>();
            if !rest.is_empty() {
                bail!("a pickle with a key that has no value");
            }
            table.extend(pairs.iter().map(|&[key, value]| (key, value)));
        }
        Ok(())
    }

    fn stack_global(&mut self) -> Result<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (&self.objects[module], &self.objects[name]) {
            (Object::Text(_), Object::Text(_)) => {
                self.push(Object::Global(module, name));
                Ok(())
            }
            _ => bail!("a pickle with a class that has no name"),
        }
    }

    fn call(&mut self) -> Result<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        self.push(Object::Call {
            callable,
            arguments,
            state: None,
            entries: vec![],
        });
        Ok(())
    }

    fn build(&mut self) -> Result<()> {
        let attributes = self.pop()?;
        let top = self.top()?;
        if let Object::Call { state, .. } = &mut self.objects[top] {
            *state = Some(attributes);
        }
        Ok(())
    }

    fn remember(&mut self, length: u64) -> Result<()> {
        let (place, top) = (self.number(length)?, self.top()?);
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, length: u64) -> Result<()> {
        let place = self.number(length)?;
        match self.memo.get(&place) {
            Some(&id) => self.stack.push(id),
            None => bail!("a pickle that recalls what it has not kept"),
        }
        Ok(())
    }
}

/// Python's texts may have lone surrogates, which are no UTF-8: U+FFFD takes their place.
fn text(bytes: &[u8]) -> Object {
    Object::Text(String::from_utf8_lossy(bytes).into_owned())
}
