//! Space that begins at a cache line, so that no vector in it lies across two.

use std::ops::{Deref, DerefMut};

/// Cells that grow as needed and keep their place in a cache line.
#[derive(Default)]
pub struct Aligned<C> {
    cells: Vec<C>,
    start: usize,
}

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

impl<C: Copy + Default> Aligned<C> {
    /// At least `len` cells; what was in them may be lost.
    #[inline(always)]
    pub fn grow(&mut self, len: usize) {
        if self.len() < len {
            self.cells.resize(len + LINE / size_of::<C>(), C::default());
            self.start = self.cells.as_ptr().align_offset(LINE);
        }
    }
}

impl<C> Deref for Aligned<C> {
    type Target = [C];

    #[inline(always)]
    fn deref(&self) -> &[C] {
        self.cells.get(self.start..).unwrap_or_default()
    }
}

impl<C> DerefMut for Aligned<C> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [C] {
        self.cells.get_mut(self.start..).unwrap_or_default()
    }
}
