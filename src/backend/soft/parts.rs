//! Cuts tiles of the input into parts, whose windows a band can hold.

use super::band;
use super::tiles::Tile;
use crate::geometry::{Axis, Geometry};
use std::ops::Range;

/// Activations of a band.
const BAND_CELLS: usize = 8 << 10;

/// Activations of a band at most, where one row of windows takes more than [`BAND_CELLS`].
const MOST_CELLS: usize = 32 << 10;

/// Whether bands serve these windows.
pub fn covers(geometry: &Geometry) -> bool {
    let [d, h, w] = geometry.axes;
    let width = match h.input {
        1 => BAND_CELLS,
        _ => w.input,
    };
    let [depths, rows] = [d, h].map(|axis| axis.kernel.min(axis.input));
    band::covers(geometry)
        && width.saturating_mul(2 * depths * rows) <= MOST_CELLS
        && w.stride <= band::LARGEST_STRIDE
}

/// How much of a tile its parts have at most.
pub struct Sizes {
    pub planes: usize,
    pub depths: usize,
    pub rows: usize,
    pub columns: usize,
}

/// The parts that a tile is filled in: several planes or depths only if all of their cells lie side by side.
pub fn sizes(geometry: &Geometry, tile: &Tile) -> Sizes {
    let [depth, height, width] = geometry.axes;
    let kernel = depth.kernel.min(depth.input);
    let of_plane = depth.input * height.input * tile.columns.len();
    let planes = match kernel == 1 && depth.input > 1 {
        true => 1,
        false => (BAND_CELLS / of_plane).max(1),
    };
    if height.input == 1 && depth.input == 1 {
        return Sizes {
            planes,
            depths: 1,
            rows: 1,
            columns: BAND_CELLS.max(2 * width.kernel),
        };
    }
    let rows = (BAND_CELLS / (kernel * width.input))
        .max(2 * height.kernel.min(height.input))
        .next_multiple_of(height.stride.min(height.input));
    let depths = match kernel {
        1 => 1,
        // Windows of few depths would be pooled for each of them again.
        _ if rows >= height.input => (2 * BAND_CELLS / (height.input * width.input)).max(1),
        _ => 1,
    };
    Sizes {
        planes,
        depths,
        rows,
        columns: width.input,
    }
}

/// A part of a tile.
pub struct Part {
    pub planes: Range<usize>,
    pub depths: Range<usize>,
    /// All, of several depths.
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Part {
    /// The same of other planes.
    pub fn of(&self, planes: Range<usize>) -> Self {
        Self {
            planes,
            depths: self.depths.clone(),
            rows: self.rows.clone(),
            columns: self.columns.clone(),
        }
    }

    /// A tile of its own.
    pub fn tile(&self, geometry: &Geometry) -> Tile {
        let start = self.depths.start * geometry.axes[1].input + self.rows.start;
        Tile {
            planes: self.planes.clone(),
            rows: start..start + self.depths.len() * self.rows.len(),
            columns: self.columns.clone(),
        }
    }

    /// Where its cells lie in those of the whole tile.
    pub fn place(&self, geometry: &Geometry, of: &Tile) -> Range<usize> {
        let part = self.tile(geometry);
        let plane = part.planes.start - of.planes.start;
        let row = plane * of.rows.len() + part.rows.start - of.rows.start;
        let start = row * of.columns.len() + part.columns.start - of.columns.start;
        start..start + part.cells()
    }

    /// The windows that reach into it: depths, rows and columns of them.
    pub fn windows(&self, geometry: &Geometry) -> Option<[Range<usize>; 3]> {
        let [depth, height, width] = &geometry.axes;
        let windows = [
            reach(depth, &self.depths),
            reach(height, &self.rows),
            reach(width, &self.columns),
        ];
        windows.iter().all(|of| !of.is_empty()).then_some(windows)
    }

    /// Its own cells and those of all these windows.
    pub fn cells(&self, geometry: &Geometry) -> Option<[Range<usize>; 3]> {
        let windows = self.windows(geometry)?;
        let own = [&self.depths, &self.rows, &self.columns];
        Some([0, 1, 2].map(|axis| {
            let (windows, own) = (&windows[axis], own[axis]);
            let axis = &geometry.axes[axis];
            let (first, last) = (axis.window(windows.start), axis.window(windows.end - 1));
            first.start.min(own.start)..last.end.max(own.end)
        }))
    }
}

/// The windows that reach into these cells.
fn reach(axis: &Axis, cells: &Range<usize>) -> Range<usize> {
    axis.windows_of(cells.start).start..axis.windows_of(cells.end - 1).end
}
