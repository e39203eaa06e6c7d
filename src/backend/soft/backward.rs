//! The gradient of a tile of the input: every window that reaches into it adds its part, in a fixed order.

use super::block::{self, grow, Block, Temperature, Windows};
use super::element::Element;
use super::lanes::Lanes;
use super::parts::{self, Part, Sizes};
use super::passed::Passed;
use super::tiles::{depths, pieces, spans};
use super::view::{View, TOGETHER};
use super::{direct, simd, Job};
use crate::backend::Gradient;
use crate::geometry::Geometry;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// The work on one tile.
pub type Backward<'a, 'g, T> = Job<'a, T, Scratch<T>, Pass<'g, T>>;

/// What is passed back, and how.
#[derive(Clone, Copy)]
pub struct Pass<'a, T> {
    pub grad: View<'a, T>,
    pub gradient: Gradient,
}

/// What tiles need besides their output; reused from tile to tile.
#[derive(Default)]
pub struct Scratch<T: Element> {
    passed: Passed<T>,
    block: Block<T>,
    /// Cells of interleaved planes.
    of_group: Vec<T>,
    gathered: Vec<T>,
    widened: Vec<T::Compute>,
    /// The incoming gradient over the windows' totals.
    share: Vec<T::Compute>,
    /// The tile's gradient: phase after phase of row after row.
    sums: Vec<T::Compute>,
    /// A row of it.
    row: Vec<T::Compute>,
}

impl<T: Element> WithSimd for Backward<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match parts::covers(self.geometry) {
            true => self.bands(simd),
            false => Blocks(self).with_simd(simd),
        }
    }
}

/// A tile by its windows' blocks.
struct Blocks<'a, 'g, T: Element>(Backward<'a, 'g, T>);

impl<T: Element> WithSimd for Blocks<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if !self.0.vectorised(simd) {
            self.0.direct();
        }
    }
}

/// [`Passed::fill`], a function of its own, so that unoptimised builds need no large stack.
struct Fill<'a, 'b, T: Element> {
    passed: &'a mut Passed<T>,
    of: (View<'b, T>, View<'b, T>, &'b Geometry),
    how: (f64, Gradient),
    part: &'a Part,
    output: &'a mut [T],
}

impl<T: Element> WithSimd for Fill<'_, '_, T> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let passed = self.passed;
        passed.fill(simd, self.of, self.how, self.part, self.output)
    }
}

impl<T: Element> Backward<'_, '_, T> {
    /// The tile, part after part.
    #[inline(always)]
    fn bands<S: Simd>(&mut self, simd: S) {
        let Sizes {
            planes,
            depths: most,
            rows,
            columns,
        } = parts::sizes(self.geometry, self.tile);
        let (tile, cut) = (self.tile, self.cut);
        let height = self.geometry.axes[1].input;
        let whole = tile.rows.len() <= cut[0] && tile.columns.len() <= cut[1];
        let planes = if whole { planes } else { 1 };
        let interleaved = self.input.interleaved();
        let group = match interleaved {
            true => TOGETHER,
            false => planes,
        };
        for planes_of in spans(&tile.planes, group) {
            for [depths, rows] in
                spans(&tile.rows, cut[0]).flat_map(|part| depths(&part, height, [most, rows]))
            {
                for columns in spans(&tile.columns, cut[1]).flat_map(|part| spans(&part, columns)) {
                    let part = Part {
                        planes: planes_of.clone(),
                        depths: depths.clone(),
                        rows: rows.clone(),
                        columns,
                    };
                    match interleaved {
                        true => self.gathered(simd, planes, &part),
                        false => self.part(simd, self.input, &part),
                    }
                }
            }
        }
    }

    /// A part whose activations are brought together before, so many planes at a time.
    #[inline(always)]
    fn gathered<S: Simd>(&mut self, simd: S, planes: usize, part: &Part) {
        let mut of_group = std::mem::take(&mut self.scratch.of_group);
        let input = match part.cells(self.geometry) {
            Some([depths, rows, columns]) => {
                let cells = [&depths, &rows, &columns];
                self.input.gather(simd, &part.planes, cells, &mut of_group)
            }
            None => self.input,
        };
        for planes in spans(&part.planes, planes) {
            self.part(simd, input, &part.of(planes));
        }
        self.scratch.of_group = of_group;
    }

    /// A part, by its windows' blocks where bands' sums do not hold.
    #[inline(always)]
    fn part<S: Simd>(&mut self, simd: S, input: View<'_, T>, part: &Part) {
        if self.fill(simd, input, part) {
            return;
        }
        // Plane by plane, so that what a plane gives depends on itself alone.
        for plane in part.planes.clone() {
            let part = part.of(plane..plane + 1);
            if !self.fill(simd, input, &part) {
                self.blocks(simd, input, &part);
            }
        }
    }

    /// A part by bands; false if their sums do not hold.
    #[inline(never)]
    fn fill<S: Simd>(&mut self, simd: S, input: View<'_, T>, part: &Part) -> bool {
        simd.vectorize(Fill {
            passed: &mut self.scratch.passed,
            of: (input, self.pass.grad, self.geometry),
            how: (self.weighting.beta, self.pass.gradient),
            part,
            output: &mut self.output[part.place(self.geometry, self.tile)],
        })
    }

    /// A part by its windows' blocks.
    #[inline(never)]
    fn blocks<S: Simd>(&mut self, simd: S, input: View<'_, T>, part: &Part) {
        let cells = part.place(self.geometry, self.tile);
        simd.vectorize(Blocks(Job {
            input,
            scratch: &mut *self.scratch,
            tile: &part.tile(self.geometry),
            output: &mut self.output[cells],
            ..*self
        }));
    }

    /// The whole tile, unless it meets values that are not finite; then false.
    #[inline(always)]
    fn vectorised<S: Simd>(&mut self, simd: S) -> bool {
        let [depths, heights, columns] = self.windows();
        let (geometry, tile) = (self.geometry, self.tile);
        let lanes = Lanes::new(geometry.axes[2]);
        let temperature = Temperature::new(self.weighting.beta);
        let width = block::width(geometry);
        let many = (width / columns.len().max(1)).max(1);
        let segment = columns.len() + lanes.extra;
        for group in pieces(tile.planes.len(), many) {
            let planes = group.start + tile.planes.start..group.end + tile.planes.start;
            // One vector more: the last one of a block may reach beyond its lanes.
            let pitch =
                group.len() * segment + lanes.extra + <T::Compute as simd::Real>::lanes::<S>();
            let cells = tile.rows.len() * lanes.phases * pitch;
            self.scratch.sums.clear();
            grow(&mut self.scratch.sums, cells);
            for d in depths.clone() {
                for h in heights.clone() {
                    for piece in pieces(columns.len(), width) {
                        let windows = Windows {
                            planes: planes.clone(),
                            row: [d, h],
                            columns: piece.start + columns.start..piece.end + columns.start,
                        };
                        if !self.block(simd, temperature, &windows, (pitch, piece.start)) {
                            return false;
                        }
                    }
                }
            }
            self.store(simd, &lanes, &group, (pitch, segment), columns.start);
        }
        true
    }

    /// The windows that reach into the tile.
    fn windows(&self) -> [Range<usize>; 3] {
        let [depth, height, width] = &self.geometry.axes;
        let rows = &self.tile.rows;
        let (first, last) = (rows.start, rows.end - 1);
        let depths = first / height.input..last / height.input + 1;
        let heights = match depths.len() {
            1 => first % height.input..last % height.input + 1,
            _ => 0..height.input,
        };
        [
            (depth, depths),
            (height, heights),
            (width, self.tile.columns.clone()),
        ]
        .map(|(axis, cells)| axis.windows_of(cells.start).start..axis.windows_of(cells.end - 1).end)
    }

    /// Adds what a block of windows passes on; false if something is not finite.
    #[inline(always)]
    fn block<S: Simd>(
        &mut self,
        simd: S,
        temperature: Temperature<T::Compute>,
        windows: &Windows,
        (pitch, offset): (usize, usize),
    ) -> bool {
        let Scratch {
            block,
            gathered,
            widened,
            share,
            sums,
            ..
        } = &mut *self.scratch;
        let lanes = Lanes::new(self.geometry.axes[2]);
        block.load(simd, self.input, self.geometry, windows, temperature.sign);
        block.sum(simd, temperature);
        grow(share, block.lanes);
        share[..block.lanes].fill(Default::default());
        for (position, plane) in windows.planes.clone().enumerate() {
            let [d, h] = windows.row;
            let grad = self.pass.grad.plane(plane);
            let grad = T::widen(simd, grad.cells(d, h, &windows.columns, gathered), widened);
            let start = position * block.segment;
            let of_plane = start..start + grad.len();
            let totals = &block.total[of_plane.clone()];
            let shares = &mut share[of_plane.clone()];
            for ((share, grad), total) in shares.iter_mut().zip(grad).zip(totals) {
                *share = *grad / *total;
            }
            if !simd::all_finite(&block.mean[of_plane.clone()])
                || !simd::all_finite(&block.peak[of_plane])
                || !simd::all_finite(shares)
            {
                return false;
            }
        }
        let taps = self.geometry.axes[2].kernel;
        for (row, &[d, h]) in block.rows.iter().enumerate() {
            let at = d * self.geometry.axes[1].input + h;
            if !self.tile.rows.contains(&at) {
                continue;
            }
            for k in 0..taps {
                let (phase, shift) = lanes.tap(k);
                let start =
                    ((at - self.tile.rows.start) * lanes.phases + phase) * pitch + shift + offset;
                let sums = &mut sums[start..start + block.lanes];
                let how = (temperature, self.pass.gradient);
                block.spread(simd, how, share, row * taps + k, sums);
            }
        }
        true
    }

    /// Brings the phases together, with one rounding.
    #[inline(always)]
    fn store<S: Simd>(
        &mut self,
        simd: S,
        lanes: &Lanes,
        group: &Range<usize>,
        (pitch, segment): (usize, usize),
        window: usize,
    ) {
        let tile = self.tile;
        let width = tile.columns.len();
        let Scratch { sums, row, .. } = &mut *self.scratch;
        grow(row, width);
        for (position, plane) in group.clone().enumerate() {
            for r in 0..tile.rows.len() {
                row[..width].fill(Default::default());
                for phase in 0..lanes.phases {
                    let start = (r * lanes.phases + phase) * pitch + position * segment;
                    let sums = &sums[start..start + segment];
                    let row = (&mut row[..width], &tile.columns);
                    lanes.merge(sums, (window, phase), row);
                }
                let start = (plane * tile.rows.len() + r) * width;
                T::narrow(simd, &row[..width], &mut self.output[start..start + width]);
            }
        }
    }

    /// The tile by the definition.
    #[cold]
    pub fn direct(self) {
        let height = self.geometry.axes[1].input;
        for ((plane, at), dx) in self.tile.places(height).zip(self.output) {
            let (input, grad) = (self.input.plane(plane), self.pass.grad.plane(plane));
            let windows = direct::Windows::new(input, self.geometry, self.weighting);
            *dx = windows.gradient(grad, self.pass.gradient, at);
        }
    }
}
