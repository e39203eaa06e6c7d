//! Rows cut into pieces, wherever a window begins or ends: windows that overlap share the sums of some.

use super::plan::{serial_terms, slide, Span};
use crate::geometry::Axis;
use std::ops::Range;

/// The last few ways in which rows were cut: the bands of a plane come again in the next.
#[derive(Default)]
pub struct Cuts {
    kept: Vec<Pieces>,
    /// The oldest.
    next: usize,
}

/// Bands of a plane that are remembered.
const KEPT_CUTS: usize = 8;

impl Cuts {
    /// The pieces of these windows, of so many depths.
    pub fn of(&mut self, depths: usize, rows: &Span, across: &Span) -> &Pieces {
        let of = Cut {
            depths,
            axis: rows.axis,
            windows: rows.windows.clone(),
            slide: slide(rows, across),
        };
        let is_same = |kept: &Pieces| kept.of == of;
        if let Some(i) = self.kept.iter().position(is_same) {
            return &self.kept[i];
        }
        let pieces = Pieces::cut(rows, of);
        if self.kept.len() < KEPT_CUTS {
            self.kept.push(pieces);
            return &self.kept[self.kept.len() - 1];
        }
        let oldest = self.next;
        self.next = (oldest + 1) % KEPT_CUTS;
        self.kept[oldest] = pieces;
        &self.kept[oldest]
    }
}

/// What rows are cut for.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    depths: usize,
    axis: Axis,
    windows: Range<usize>,
    /// See [`Pieces::slide`].
    slide: bool,
}

/// The rows of a band, cut wherever a window begins or ends.
///
/// With a kernel of 3 and a stride of 2 they are 0 1 | 2 | 3 | 4 | …: the first window has pieces 0 and 1, the second one 1, 2
/// and 3, of which 2 is its first `new` one. Pieces 1 and 3 are summed to lines of their own, since the next window has them
/// too.
#[derive(Debug)]
pub struct Pieces {
    of: Cut,
    /// From top to bottom.
    pub all: Vec<Piece>,
    pub windows: Vec<OfWindow>,
    /// Pieces that have a line at a time: a power of two, since they take turns, or all of them.
    pub turns: usize,
    /// Whether windows slide down the rows: most have a piece that the one before has not, and no longer its first.
    pub slide: bool,
}

/// Rows that the same windows have, one after the other.
#[derive(Debug)]
pub struct Piece {
    /// Rows of the patch.
    pub rows: Range<usize>,
    /// Whether its sums must be stored: a later piece of the same window, or a later window, still needs them.
    pub has_line: bool,
}

/// The pieces of a window.
#[derive(Debug)]
pub struct OfWindow {
    pub pieces: Range<usize>,
    /// The first that the window before has not.
    pub new: usize,
}

impl Pieces {
    fn cut(span: &Span, of: Cut) -> Self {
        let (depths, slide) = (of.depths, of.slide);
        let mut pieces = Self {
            of,
            all: vec![],
            windows: vec![],
            turns: 1,
            slide,
        };
        let most = serial_terms(span.cells.len() * depths) / depths;
        pieces.find(span, most.max(1));
        pieces.share();
        pieces
    }

    /// Cuts the rows, so that no piece has more than so many.
    fn find(&mut self, span: &Span, most: usize) {
        let first = span.cells.start;
        // Both ends of windows go up with the rows; `open` is the first that has begun and not ended, `end` its end.
        let (mut next, mut open) = (span.windows.start, 0);
        let mut begin = span.axis.window(next);
        let (mut row, mut end) = (begin.start, begin.end);
        loop {
            while next < span.windows.end && begin.start <= row {
                let new = self.all.len();
                self.windows.push(OfWindow {
                    pieces: new..usize::MAX,
                    new,
                });
                next += 1;
                if next < span.windows.end {
                    begin = span.axis.window(next);
                }
            }
            if open == self.windows.len() {
                if next == span.windows.end {
                    return;
                }
                // No window has the rows between.
                row = begin.start;
                continue;
            }
            let stop = match next < span.windows.end {
                true => end.min(begin.start),
                false => end,
            };
            let stop = stop.min(row + most);
            self.all.push(Piece {
                rows: row - first..stop - first,
                has_line: false,
            });
            row = stop;
            while open < self.windows.len() && end == row {
                self.windows[open].pieces.end = self.all.len();
                open += 1;
                if span.windows.start + open < span.windows.end {
                    end = span.axis.window(span.windows.start + open).end;
                }
            }
        }
    }

    /// Finds out what windows share.
    fn share(&mut self) {
        let (mut end, mut most) = (0, 1);
        for w in 0..self.windows.len() {
            let next = self.windows.get(w + 1).map(|next| next.pieces.start);
            let OfWindow { pieces, new } = &mut self.windows[w];
            *new = end.max(pieces.start);
            end = pieces.end;
            most = most.max(pieces.len());
            let shared = next.unwrap_or(usize::MAX);
            for piece in *new..end {
                self.all[piece].has_line = self.slide || piece + 1 < end || piece >= shared;
            }
        }
        self.turns = match self.slide {
            true => self.all.len(),
            false => most.next_power_of_two(),
        };
    }

    /// Rows of the patch.
    pub fn height(&self) -> usize {
        self.all.last().map_or(0, |piece| piece.rows.end)
    }
}
