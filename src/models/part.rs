//! Parts of an image that is too large for one pass.

use candle_core::{bail, Result};

/// Where a part of an image lies in the whole, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Height and width of the whole image.
    pub whole: [usize; 2],
    /// The part's first row and column, multiples of [`Part::STEP`].
    pub start: [usize; 2],
}

impl Part {
    /// What parts begin at multiples of: the windows of the attention, which the whole image's must be too, lie so far apart.
    pub const STEP: usize = 6;

    /// All of an image of this height and width.
    pub fn whole(whole: [usize; 2]) -> Self {
        Self {
            whole,
            start: [0; 2],
        }
    }

    /// Refuses a part of this height and width that does not lie in the whole, or begins elsewhere than it may.
    pub(super) fn check(&self, size: [usize; 2]) -> Result<()> {
        for (d, size) in size.into_iter().enumerate() {
            let (start, whole) = (self.start[d], self.whole[d]);
            if start % Self::STEP != 0 || start.checked_add(size).is_none_or(|end| end > whole) {
                bail!(
                    "Part: {size} pixels from {start} on of {whole}, expected a start that {} divides and an end in the whole",
                    Self::STEP
                );
            }
        }
        Ok(())
    }
}
