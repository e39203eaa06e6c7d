//! SoftPool of a tile of the output: band after band of its windows, or row after row where a band does not serve.

use super::band::{self, Band, Cells};
use super::block::{self, Block, Temperature, Windows};
use super::direct;
use super::element::Element;
use super::simd::all_finite;
use super::sums::GROUP;
use super::tiles::{spans, Tile};
use super::view::{View, TOGETHER};
use super::weigh::Factor;
use crate::backend::Weighting;
use crate::geometry::Geometry;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// The work on one tile.
pub struct Forward<'a, T: Element> {
    pub input: View<'a, T>,
    pub geometry: &'a Geometry,
    pub weighting: Weighting,
    pub scratch: &'a mut Scratch<T>,
    pub tile: &'a Tile,
    pub output: &'a mut [T],
}

/// What tiles need besides their output; reused from tile to tile.
#[derive(Default)]
pub struct Scratch<T: Element> {
    band: Band<T>,
    block: Block<T>,
    /// Cells of interleaved planes.
    gathered: Vec<T>,
}

impl<T: Element> WithSimd for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match band::covers(self.geometry) {
            true => self.bands(simd),
            false => self.rows(simd),
        }
    }
}

impl<T: Element> Forward<'_, T> {
    /// The tile, band after band.
    #[inline(always)]
    fn bands<S: Simd>(&mut self, simd: S) {
        let [planes, rows, columns] = band::sizes(self.geometry);
        let tile = self.tile;
        let group = match self.input.interleaved() {
            true => TOGETHER,
            false => planes,
        };
        for group in spans(&tile.planes, group) {
            for (d, depth) in depths(&tile.rows, self.geometry.axes[1].output) {
                for rows in spans(&depth, rows) {
                    for columns in spans(&tile.columns, columns) {
                        self.bands_of(simd, &group, planes, (d, &rows, &columns));
                    }
                }
            }
        }
    }

    /// The bands of a group of planes, so many at a time.
    #[inline(always)]
    fn bands_of<S: Simd>(
        &mut self,
        simd: S,
        group: &Range<usize>,
        planes: usize,
        windows: (usize, &Range<usize>, &Range<usize>),
    ) {
        if self.input.interleaved() {
            let cells = Cells::of(self.geometry, Factor::Activation, windows);
            let cells = [&cells.depths, &cells.rows, &cells.columns];
            let mut gathered = std::mem::take(&mut self.scratch.gathered);
            let input = self.input.gather(simd, group, cells, &mut gathered);
            for planes in spans(group, planes.min(group.len())) {
                self.band(simd, (input, group.start), &planes, windows);
            }
            self.scratch.gathered = gathered;
        } else {
            self.band(simd, (self.input, 0), group, windows);
        }
    }

    /// A band of `input`, whose planes begin with the one at `first`.
    #[inline(always)]
    fn band<S: Simd>(
        &mut self,
        simd: S,
        (input, first): (View<'_, T>, usize),
        planes: &Range<usize>,
        windows: (usize, &Range<usize>, &Range<usize>),
    ) {
        let (d, rows, columns) = windows;
        let band = &mut self.scratch.band;
        let of = (input, self.geometry);
        let how = (self.weighting.beta, Factor::Activation);
        let in_input = planes.start - first..planes.end - first;
        band.pool(simd, of, how, &in_input, windows);
        let [depth, height, _] = self.geometry.axes.map(|axis| axis.output);
        let whole_rows = band.all_hold && *columns == self.tile.columns;
        if whole_rows && band.is_dense(rows.len(), columns.len()) {
            // The rows of a plane lie side by side in the tile as in the band.
            let cells = rows.len() * columns.len();
            for (means, plane) in band.output.chunks_exact(cells).zip(planes.clone()) {
                let at = start(self.tile, plane, d * height + rows.start, columns);
                T::narrow(simd, means, &mut self.output[at..at + cells]);
            }
            return;
        }
        // Deeper tiles' bands are not in the order of their cells.
        if whole_rows && columns.len() < GROUP && depth == 1 {
            for (p, plane) in planes.clone().enumerate() {
                let means = &band.output[band.lanes(p, 0, 0).start..];
                let at = start(self.tile, plane, rows.start, columns);
                let sizes = [rows.len(), columns.len(), band.lanes(0, 1, 0).start];
                short_rows(simd, means, &mut self.output[at..], sizes);
            }
            return;
        }
        for (p, plane) in planes.clone().enumerate() {
            for (r, h) in rows.clone().enumerate() {
                let band = &self.scratch.band;
                let lanes = band.lanes(p, r, columns.len());
                let at = start(self.tile, plane, d * height + h, columns);
                if band.sums_hold(lanes.clone()) {
                    T::narrow(
                        simd,
                        &band.output[lanes],
                        &mut self.output[at..at + columns.len()],
                    );
                } else {
                    self.row(simd, plane..plane + 1, [d, h], columns.clone());
                }
            }
        }
    }

    /// The tile, row after row.
    #[inline(always)]
    fn rows<S: Simd>(&mut self, simd: S) {
        let tile = self.tile;
        let width = block::width(self.geometry);
        let many = (width / tile.columns.len()).max(1);
        for (d, depth) in depths(&tile.rows, self.geometry.axes[1].output) {
            for h in depth {
                for planes in spans(&tile.planes, many) {
                    for columns in spans(&tile.columns, width) {
                        self.row(simd, planes.clone(), [d, h], columns);
                    }
                }
            }
        }
    }

    /// One row of windows, each shifted by its own largest activation.
    #[inline(never)]
    fn row<S: Simd>(
        &mut self,
        simd: S,
        planes: Range<usize>,
        row: [usize; 2],
        columns: Range<usize>,
    ) {
        simd.vectorize(Row {
            forward: self,
            windows: Windows {
                planes,
                row,
                columns,
            },
        });
    }

    /// The tile by the definition.
    pub fn direct(self) {
        let height = self.geometry.axes[1].output;
        let mut output = self.output.iter_mut();
        for plane in self.tile.planes.clone() {
            let input = self.input.plane(plane);
            for r in self.tile.rows.clone() {
                for w in self.tile.columns.clone() {
                    let at = [r / height, r % height, w];
                    if let Some(y) = output.next() {
                        *y = direct::window(input, self.geometry, self.weighting, at);
                    }
                }
            }
        }
    }
}

/// A row of windows by its block.
struct Row<'f, 'a, T: Element> {
    forward: &'f mut Forward<'a, T>,
    windows: Windows,
}

impl<T: Element> WithSimd for Row<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Forward {
            input,
            geometry,
            weighting,
            scratch: Scratch { block, .. },
            tile,
            output,
        } = self.forward;
        let windows = self.windows;
        let [d, h] = windows.row;
        let temperature = Temperature::new(weighting.beta);
        let width = block::width(geometry);
        for columns in spans(&windows.columns, width) {
            let windows = Windows {
                columns: columns.clone(),
                ..windows.clone()
            };
            block.load(simd, *input, geometry, &windows, temperature.sign);
            block.sum(simd, temperature);
            block.outputs(simd, temperature);
            for (segment, plane) in windows.planes.clone().enumerate() {
                let at = start(tile, plane, d * geometry.axes[1].output + h, &columns);
                let y = &block.mean[segment * block.segment..][..columns.len()];
                let out = &mut output[at..at + columns.len()];
                T::narrow(simd, y, out);
                if !all_finite(y) {
                    let at = [d, h, columns.start];
                    exceptions(input.plane(plane), geometry, *weighting, (at, y), out);
                }
            }
        }
    }
}

/// Rows of means, shorter than a [`GROUP`] and so many lanes apart, each written as a whole group: what is too much is
/// written over by the next row.
#[inline(always)]
fn short_rows<S: Simd, T: Element>(
    simd: S,
    means: &[T::Compute],
    output: &mut [T],
    [rows, columns, pitch]: [usize; 3],
) {
    let fit = |len: usize, pitch: usize| (len + pitch).saturating_sub(GROUP) / pitch;
    let whole = rows
        .min(fit(means.len(), pitch))
        .min(fit(output.len(), columns));
    for row in 0..whole {
        let cells = &mut output[row * columns..][..GROUP];
        T::narrow(simd, &means[row * pitch..][..GROUP], cells);
    }
    for row in whole..rows {
        let cells = &mut output[row * columns..][..columns];
        T::narrow(simd, &means[row * pitch..][..columns], cells);
    }
}

/// Where a row's columns begin in the tile's output.
fn start(tile: &Tile, plane: usize, row: usize, columns: &Range<usize>) -> usize {
    let plane = plane - tile.planes.start;
    (plane * tile.rows.len() + row - tile.rows.start) * tile.columns.len() + columns.start
        - tile.columns.start
}

/// The depths that rows of all depths, counted through, belong to, and the rows of each.
fn depths(rows: &Range<usize>, height: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let rows = rows.clone();
    (rows.start / height..(rows.end - 1) / height + 1).map(move |d| {
        let first = d * height;
        (
            d,
            rows.start.max(first) - first..rows.end.min(first + height) - first,
        )
    })
}

/// Windows with values that are not finite, by the definition; `at` is the first window of the row's outputs `y`.
#[cold]
fn exceptions<T: Element>(
    plane: super::view::Plane<'_, T>,
    geometry: &Geometry,
    weighting: Weighting,
    ([d, h, w], y): ([usize; 3], &[T::Compute]),
    out: &mut [T],
) {
    for (i, (y, out)) in y.iter().zip(out).enumerate() {
        if !all_finite(&[*y]) {
            *out = direct::window(plane, geometry, weighting, [d, h, w + i]);
        }
    }
}
