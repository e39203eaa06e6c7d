//! Cuts planes into tiles, the pieces that threads work on: where planes are cut depends on sizes alone, so that the same
//! bits come out whatever the number of threads.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Whole planes; or rows of one plane; or columns of one row: cells side by side in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    pub planes: Range<usize>,
    /// Rows of all depths, counted through.
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Tile {
    pub fn cells(&self) -> usize {
        self.planes.len() * self.rows.len() * self.columns.len()
    }

    /// Plane, and depth, row and column of its cells in turn, where a depth has so many rows.
    pub fn places(&self, height: usize) -> impl Iterator<Item = (usize, [usize; 3])> {
        let ranges = [&self.planes, &self.rows, &self.columns].map(Range::clone);
        places(ranges).map(move |[plane, row, w]| (plane, [row / height, row % height, w]))
    }
}

/// The sizes of tensors and tiles, in cells.
#[derive(Clone, Copy)]
pub struct Tiling {
    pub planes: usize,
    pub rows: usize,
    pub columns: usize,
    /// The most cells of a tile, unless a row's least is more.
    pub most: usize,
    /// The least rows of a tile, for tiles that repeat work at their edges.
    pub least_rows: usize,
    /// Planes that are best read together.
    pub together: usize,
    /// Activations that are read.
    pub work: usize,
}

impl Tiling {
    /// Planes, rows and columns of a tile; those of a plane's rows one after the other, where a tile is whole planes.
    fn sizes(&self, together: usize) -> [usize; 3] {
        let plane = self.rows * self.columns;
        let cells = self.most.min(self.planes * plane / LEAST_TILES).max(1024);
        let planes = (cells / plane).max(1).next_multiple_of(together);
        if planes > 1 || plane <= cells {
            return [planes, self.rows, plane];
        }
        let rows = (cells / self.columns).clamp(self.least_rows, self.rows.max(self.least_rows));
        match self.rows {
            1 => [1, 1, cells],
            _ => [1, rows, self.columns],
        }
    }

    /// The rows and columns that tiles would have if no planes were read together.
    pub fn alone(&self) -> [usize; 2] {
        let [_, rows, columns] = self.sizes(1);
        [rows, columns]
    }

    /// Tiles in the order of their cells.
    fn tiles(self) -> Vec<Tile> {
        let [planes, rows, columns] = self.sizes(self.together);
        let mut tiles = Vec::new();
        for planes in pieces(self.planes, planes) {
            for rows in pieces(self.rows, rows) {
                for columns in pieces(self.columns, columns) {
                    tiles.push(Tile {
                        planes: planes.clone(),
                        rows: rows.clone(),
                        columns,
                    });
                }
            }
        }
        tiles
    }

    /// The cells that `work` fills, tile by tile, on all threads if there is enough to do; `None` without memory.
    pub fn run<T: Copy + Default + Send, S: Default>(
        self,
        work: impl Fn(&mut S, &Tile, &mut [T]) + Send + Sync,
    ) -> Option<Vec<T>> {
        let cells = self
            .planes
            .checked_mul(self.rows)?
            .checked_mul(self.columns)?;
        let mut output = Vec::new();
        output.try_reserve_exact(cells).ok()?;
        let mut rest = &mut output.spare_capacity_mut()[..cells];
        let mut parts = Vec::new();
        for tile in self.tiles() {
            let (cells, after) = rest.split_at_mut(tile.cells());
            parts.push((tile, cells));
            rest = after;
        }
        let threads = match self.work {
            0..SERIAL_WORK => 1,
            _ => rayon::current_num_threads().min(parts.len()),
        };
        let parts = Mutex::new(parts.into_iter());
        share(threads, || {
            let mut scratch = S::default();
            let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
            while let Some((tile, cells)) = next() {
                cells.fill(MaybeUninit::new(T::default()));
                // SAFETY: all cells were written in the line above.
                work(&mut scratch, &tile, unsafe {
                    &mut *(cells as *mut [MaybeUninit<T>] as *mut [T])
                });
            }
        });
        // SAFETY: the tiles are all of these cells, and each was filled.
        unsafe { output.set_len(cells) };
        Some(output)
    }
}

/// Activations that one thread is done with sooner than another has woken up.
const SERIAL_WORK: usize = 32 << 10;

/// Runs `work` on so many threads, the calling one among them, so that it need not wait for another to begin.
fn share(threads: usize, work: impl Fn() + Sync) {
    if threads <= 1 {
        return work();
    }
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| work());
        }
        work();
    });
}

/// Where there is enough to do, at least so many tiles, for threads to share them evenly.
const LEAST_TILES: usize = 16;

/// `0..len` in pieces of this size, the last one smaller.
pub fn pieces(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len)
        .step_by(size)
        .map(move |start| start..len.min(start.saturating_add(size)))
}

/// A range in pieces of this size, the last one smaller.
pub fn spans(range: &Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let first = range.start;
    pieces(range.len(), size).map(move |piece| first + piece.start..first + piece.end)
}

/// All places in these ranges, the last one's side by side.
pub fn places([d, h, w]: [Range<usize>; 3]) -> impl Iterator<Item = [usize; 3]> {
    d.flat_map(move |d| {
        let w = w.clone();
        h.clone()
            .flat_map(move |h| w.clone().map(move |w| [d, h, w]))
    })
}

/// Rows of all depths of so many, counted through, in pieces: so many whole depths, or where there are fewer, so many rows
/// of one depth.
pub fn depths(
    rows: &Range<usize>,
    height: usize,
    [depths, of_depth]: [usize; 2],
) -> impl Iterator<Item = [Range<usize>; 2]> {
    let Range { mut start, end } = *rows;
    std::iter::from_fn(move || {
        let (depth, row) = (start / height, start % height);
        let whole = (end - start) / height;
        let pieces = match (row, whole.min(depths)) {
            _ if start == end => return None,
            (0, count @ 2..) => [depth..depth + count, 0..height],
            _ => [
                depth..depth + 1,
                row..height
                    .min(row.saturating_add(of_depth))
                    .min(row + end - start),
            ],
        };
        start += pieces[0].len() * pieces[1].len();
        Some(pieces)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tiles_are_the_cells_in_order(
            planes in 1usize..20, rows in 1usize..200, columns in 1usize..3000, least_rows in 1usize..9,
            together in 1usize..20,
        ) {
            let tiling = Tiling { planes, rows, columns, most: 4096, least_rows, together, work: 0 };
            let mut next = 0;
            for tile in tiling.tiles() {
                prop_assert!(tile.planes.len() == 1 || tile.rows == (0..rows));
                prop_assert!(tile.rows.len() == 1 || tile.columns == (0..columns));
                let first = (tile.planes.start * rows + tile.rows.start) * columns + tile.columns.start;
                prop_assert_eq!(first, next);
                next += tile.cells();
            }
            prop_assert_eq!(next, planes * rows * columns);
        }

        #[test]
        fn depths_are_the_rows_in_order(
            start in 0usize..50, len in 0usize..50, height in 1usize..9, most in 1usize..4, of_depth in 1usize..12,
        ) {
            let mut next = start;
            for [depths, rows] in depths(&(start..start + len), height, [most, of_depth]) {
                prop_assert_eq!(depths.start * height + rows.start, next);
                prop_assert!(depths.len() <= most && rows.end <= height && !rows.is_empty());
                let most = if depths.len() > 1 { height } else { of_depth };
                prop_assert!(rows.len() <= most);
                next += depths.len() * rows.len();
            }
            prop_assert_eq!(next, start + len);
        }
    }
}
