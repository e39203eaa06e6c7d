//! SoftPool of a tile of the output: band after band of its windows, or row after row where a band does not serve.

use super::abreast::{self, Abreast};
use super::band::{self, Band, Cells};
use super::block::{self, Block, Temperature, Windows};
use super::direct;
use super::element::Element;
use super::simd::{all_finite, Real};
use super::sums::GROUP;
use super::tiles::{depths, spans, Tile};
use super::view::{View, TOGETHER};
use super::weigh::Factor;
use super::Job;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// The work on one tile.
pub type Forward<'a, T> = Job<'a, T, Scratch<T>>;

/// What tiles need besides their output; reused from tile to tile.
#[derive(Default)]
pub struct Scratch<T: Element> {
    band: Band<T>,
    abreast: Abreast<T>,
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
        let (tile, cut) = (self.tile, self.cut);
        let height = self.geometry.axes[1].output;
        let interleaved = self.input.interleaved();
        let group = match interleaved {
            true => tile.planes.len(),
            false => planes,
        };
        for group in spans(&tile.planes, group) {
            for [depth, rows] in
                spans(&tile.rows, cut[0]).flat_map(|part| depths(&part, height, [1, rows]))
            {
                for columns in spans(&tile.columns, cut[1]).flat_map(|part| spans(&part, columns)) {
                    let windows = (depth.start, &rows, &columns);
                    match interleaved {
                        true => self.interleaved(simd, planes, windows),
                        false => self.band(simd, self.input, &group, windows),
                    }
                }
            }
        }
    }

    /// Windows of all planes of the tile, which come in bands of so many.
    #[inline(always)]
    fn interleaved<S: Simd>(
        &mut self,
        simd: S,
        planes: usize,
        windows: (usize, &Range<usize>, &Range<usize>),
    ) {
        let cells = Cells::of(self.geometry, Factor::Activation, windows);
        let Range { mut start, end } = self.tile.planes;
        while start < end {
            start = match self.abreast(simd, start, &cells, windows) {
                Some(next) => next,
                None => {
                    let group = start..end.min(start + TOGETHER);
                    self.gathered(simd, &group, planes, (&cells, windows));
                    group.end
                }
            };
        }
    }

    /// A band of planes side by side, of which this is the first; says which is the next.
    #[inline(always)]
    fn abreast<S: Simd>(
        &mut self,
        simd: S,
        first: usize,
        cells: &Cells,
        windows: (usize, &Range<usize>, &Range<usize>),
    ) -> Option<usize> {
        let (d, rows, columns) = windows;
        let lanes = T::Compute::lanes::<S>();
        let planes = self.input.abreast(first, lanes)?;
        if !abreast::serves::<S, T>(cells) {
            return None;
        }
        let held = simd.vectorize(abreast::Pool {
            abreast: &mut self.scratch.abreast,
            input: self.input,
            geometry: self.geometry,
            beta: self.weighting.beta,
            planes: planes.clone(),
            cells,
            windows: [rows, columns],
        });
        let height = self.geometry.axes[1].output;
        // Rows of a plane lie side by side in the tile as in the band, if they are whole.
        let row = match *columns == self.tile.columns {
            true => rows.len() * columns.len(),
            false => columns.len(),
        };
        let wanted = first..planes.end.min(self.tile.planes.end);
        for plane in wanted.clone() {
            let lane = plane - planes.start;
            if held >> lane & 1 == 0 {
                self.gathered(simd, &(plane..plane + 1), 1, (cells, windows));
                continue;
            }
            let cells = rows.len() * columns.len();
            let outputs = &self.scratch.abreast.outputs[lane * cells..][..cells];
            for (r, outputs) in outputs.chunks_exact(row).enumerate() {
                let at = start(self.tile, plane, d * height + rows.start + r, columns);
                T::narrow(simd, outputs, &mut self.output[at..at + row]);
            }
        }
        Some(wanted.end)
    }

    /// Bands of so many planes of a group, whose cells are brought together before.
    #[inline(always)]
    fn gathered<S: Simd>(
        &mut self,
        simd: S,
        group: &Range<usize>,
        planes: usize,
        (cells, windows): (&Cells, (usize, &Range<usize>, &Range<usize>)),
    ) {
        let cells = [&cells.depths, &cells.rows, &cells.columns];
        let mut gathered = std::mem::take(&mut self.scratch.gathered);
        let input = self.input.gather(simd, group, cells, &mut gathered);
        for planes in spans(group, planes.min(group.len())) {
            self.band(simd, input, &planes, windows);
        }
        self.scratch.gathered = gathered;
    }

    /// A band of `input`.
    #[inline(always)]
    fn band<S: Simd>(
        &mut self,
        simd: S,
        input: View<'_, T>,
        planes: &Range<usize>,
        windows: (usize, &Range<usize>, &Range<usize>),
    ) {
        let (d, rows, columns) = windows;
        let band = &mut self.scratch.band;
        let of = (input, self.geometry);
        let how = (self.weighting.beta, Factor::Activation);
        band.pool(simd, of, how, planes, windows);
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
        for [depth, rows] in depths(&tile.rows, self.geometry.axes[1].output, [1, usize::MAX]) {
            let d = depth.start;
            for h in rows {
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
        for ((plane, at), y) in self.tile.places(height).zip(self.output) {
            let plane = self.input.plane(plane);
            *y = direct::Windows::new(plane, self.geometry, self.weighting).output(at);
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
            ..
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
                    let windows = direct::Windows::new(input.plane(plane), geometry, *weighting);
                    exceptions(windows, (at, y), out);
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

/// Windows with values that are not finite, by the definition; `at` is the first window of the row's outputs `y`.
#[cold]
fn exceptions<T: Element>(
    windows: direct::Windows<'_, T>,
    ([d, h, w], y): ([usize; 3], &[T::Compute]),
    out: &mut [T],
) {
    for (i, (y, out)) in y.iter().zip(out).enumerate() {
        if !all_finite(&[*y]) {
            *out = windows.output([d, h, w + i]);
        }
    }
}
