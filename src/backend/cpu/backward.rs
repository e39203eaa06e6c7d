//! Gradients, band by band of the input: the windows of its cells are pooled again, and their terms spread.

use super::again::AgainGradients;
use super::aligned::Aligned;
use super::direct::DirectGradients;
use super::element::{Element, Narrow};
use super::forward::{numbers, Pooling, Sums, Windows};
use super::kernels::Terms;
use super::plan::{Plan, Span, Way, REACH};
use super::rule::Window;
use super::spread::{Gradients, Spread, Spreading, MARGIN};
use super::tiles::Band;
use super::turn::plane_after_plane;
use super::vector::{Real, MOST_LANES};
use super::view::{overlap, Area, Gathered, Patch, View};
use super::whole::WholeGradients;
use std::mem::MaybeUninit;
use std::ops::Range;

/// What a thread needs besides the output; reused from band to band.
#[derive(Default)]
pub struct Scratch<T: Element> {
    sums: Sums<T>,
    of_grad: Gathered<T>,
    /// Outputs or places of windows, NaN for those that do not hold.
    values: Aligned<T::Compute>,
    terms: [Aligned<T::Compute>; 2],
    spreading: [Spreading<T::Compute>; 2],
    /// Gradients of the cells of an area, and of their logits.
    gradients: [Aligned<T::Compute>; 2],
    /// Those of planes abreast, plane after plane.
    plane_by_plane: Aligned<T::Compute>,
    window: Window,
    /// The gradients of its cells and of their logits.
    slopes: Vec<[f64; 2]>,
}

/// A backward pass.
pub struct Backward<'a, T: Element> {
    pub pooling: Pooling<'a, T>,
    pub grad: View<'a, T>,
}

/// Cells whose gradients are made together.
struct Tile {
    planes: Range<usize>,
    area: Area,
    /// Planes abreast.
    unit: usize,
}

impl Tile {
    /// From a row of gradients to the next: whole vectors, and what those of windows in registers reach.
    fn pitch(&self) -> usize {
        match self.unit {
            1 => self
                .area
                .columns
                .len()
                .next_multiple_of(MOST_LANES)
                .max(REACH),
            unit => (self.area.columns.len() * unit).next_multiple_of(MOST_LANES),
        }
    }

    /// Where a row of gradients begins, by position in the tile.
    fn row(&self, plane: usize, depth: usize, row: usize) -> usize {
        let (group, lane) = (plane / self.unit, plane % self.unit);
        lane + ((group * self.area.depths.len() + depth) * self.area.rows.len() + row)
            * self.pitch()
    }

    /// From a depth of gradients to the next, and from a row.
    fn steps(&self) -> [usize; 2] {
        [self.row(0, 1, 0), self.row(0, 0, 1)]
    }

    /// The cells of an area that the tile has.
    fn cells_of(&self, area: &Area) -> Area {
        Area {
            depths: overlap(&area.depths, &self.area.depths),
            rows: overlap(&area.rows, &self.area.rows),
            columns: overlap(&area.columns, &self.area.columns),
        }
    }

    /// Where the gradient of a cell is, if the tile has it.
    fn slot(&self, plane: usize, [d, h, w]: [usize; 3]) -> Option<usize> {
        let Area {
            depths,
            rows,
            columns,
        } = &self.area;
        let inside = depths.contains(&d) && rows.contains(&h) && columns.contains(&w);
        inside.then(|| {
            self.row(plane, d - depths.start, h - rows.start) + (w - columns.start) * self.unit
        })
    }
}

impl<T: Element> Backward<'_, T> {
    /// The gradients of some bands, of activations and of logits if there are some.
    pub fn run(
        &self,
        scratch: &mut Scratch<T>,
        bands: &[Band],
        [mut of_x, mut of_z]: [&mut [MaybeUninit<T>]; 2],
    ) {
        let Plan { planes, .. } = self.pooling.plan;
        scratch.sums.begin(planes.div_ceil(self.pooling.unit));
        scratch.of_grad.forget();
        for band in bands {
            let (x, rest) = of_x.split_at_mut(band.cells());
            let (z, rest_of_z) = of_z.split_at_mut(band.cells().min(of_z.len()));
            (of_x, of_z) = (rest, rest_of_z);
            let mut output = [x, z];
            let plan = self.pooling.plan;
            for start in band.rows.clone().step_by(plan.rows) {
                for plane in band.planes.clone().step_by(plan.planes) {
                    let tile = Tile {
                        planes: plane..band.planes.end.min(plane + plan.planes),
                        unit: self.unit_of_gradients(),
                        area: Area {
                            depths: band.depths.clone(),
                            rows: start..band.rows.end.min(start + plan.rows),
                            columns: band.columns.clone(),
                        },
                    };
                    self.tile(scratch, &tile);
                    self.narrow(scratch, &tile, band, &mut output);
                }
            }
        }
    }

    /// The gradients of a tile, in `scratch.gradients`.
    fn tile(&self, scratch: &mut Scratch<T>, tile: &Tile) {
        let [depth, height, width] = &self.pooling.geometry.axes;
        let cells = tile.row(tile.planes.len().next_multiple_of(tile.unit), 0, 0);
        for gradients in &mut scratch.gradients[..self.outputs()] {
            gradients.grow(cells + REACH);
        }
        let depths = Span::touching(depth, &tile.area.depths);
        let rows = Span::touching(height, &tile.area.rows);
        let columns = Span::touching(width, &tile.area.columns);
        // Depths before this one have gradients, to which those of further windows are added.
        let mut written = tile.area.depths.start;
        if !rows.is_empty() && !columns.is_empty() {
            for depth in depths {
                let windows = Windows {
                    planes: tile.planes.clone(),
                    depth,
                    rows: Span::new(height, rows.clone()),
                    across: Span::new(width, columns.clone()).times(self.pooling.unit),
                };
                written = self.add_windows(scratch, tile, &windows, written);
            }
        }
        self.zero_around(scratch, tile, written..tile.area.depths.end, None);
    }

    /// The gradients of some windows, added to those of depths before `written` and put in the place of others;
    /// returns the depth before which all cells have gradients now.
    fn add_windows(
        &self,
        scratch: &mut Scratch<T>,
        tile: &Tile,
        windows: &Windows,
        written: usize,
    ) -> usize {
        let cells = tile.cells_of(&windows.area(self.pooling.geometry));
        let end = cells.depths.end.max(written);
        self.copy_grads(scratch, windows);
        let mut all_hold;
        if windows.way(self.pooling.geometry) == Way::Whole {
            all_hold = self.find_whole(scratch, tile, windows);
        } else if self.is_direct(tile, windows) {
            // Rows between windows are left out.
            let height = &self.pooling.geometry.axes[1];
            let gaps = height.stride > height.kernel;
            if gaps {
                self.zero_around(scratch, tile, written..end, None);
            }
            all_hold = self.find_directly(scratch, tile, windows);
            if !gaps {
                self.zero_around(scratch, tile, written..end, Some(&cells));
            }
        } else {
            all_hold = self.find_terms(scratch, windows);
            if self.pooling.traits.places {
                self.zero_around(scratch, tile, written..end, None);
                self.scatter(scratch, tile, windows);
            } else {
                self.spread(scratch, tile, windows, written);
                self.zero_around(scratch, tile, written..end, Some(&cells));
            }
            all_hold = all_hold || self.add_again(scratch, tile, windows);
        }
        if !all_hold {
            self.add_alone(scratch, tile, windows);
        }
        end
    }

    /// Planes whose gradients lie abreast, or 1.
    fn unit_of_gradients(&self) -> usize {
        // Those of planes of one window lie as their cells do.
        match self.pooling.is_in_rows() {
            true => 1,
            false => self.pooling.unit,
        }
    }

    /// Gradients of activations, and of logits if there are some.
    fn outputs(&self) -> usize {
        1 + usize::from(self.pooling.traits.logits)
    }

    /// Zeros for the cells of some depths of a tile, except for those that have gradients.
    fn zero_around(
        &self,
        scratch: &mut Scratch<T>,
        tile: &Tile,
        depths: Range<usize>,
        except: Option<&Area>,
    ) {
        let Area { rows, columns, .. } = &tile.area;
        let groups = (0..tile.planes.len()).step_by(tile.unit);
        for (group, depth) in groups.flat_map(|group| depths.clone().map(move |d| (group, d))) {
            let except = except.filter(|area| area.depths.contains(&depth));
            if except.is_some_and(|area| area.rows == *rows && area.columns == *columns) {
                continue;
            }
            let none = rows.end..rows.end;
            let (inside, [left, right]) = match except {
                Some(area) => (
                    &area.rows,
                    [area.columns.start, area.columns.end].map(|w| (w - columns.start) * tile.unit),
                ),
                None => (&none, [0; 2]),
            };
            let row = |row| tile.row(group, depth - tile.area.depths.start, row - rows.start);
            let end = columns.len() * tile.unit;
            for gradients in &mut scratch.gradients[..self.outputs()] {
                gradients[row(rows.start)..row(inside.start)].fill(T::Compute::default());
                for line in inside.clone().map(row) {
                    gradients[line..line + left].fill(T::Compute::default());
                    gradients[line + right..line + end].fill(T::Compute::default());
                }
                gradients[row(inside.end)..row(rows.end)].fill(T::Compute::default());
            }
        }
    }

    /// Whether the gradients of all cells of these windows, and of no others, are made in registers.
    fn is_direct(&self, tile: &Tile, windows: &Windows) -> bool {
        let area = windows.area(self.pooling.geometry);
        let inside = |a: &Range<usize>, b: &Range<usize>| a.start >= b.start && a.end <= b.end;
        windows.way(self.pooling.geometry) == Way::Direct
            && self.pooling.geometry.axes[0].disjoint()
            && inside(&area.depths, &tile.area.depths)
            && inside(&area.rows, &tile.area.rows)
            && inside(&area.columns, &tile.area.columns)
    }

    /// Windows in registers, from sums to the gradients of their cells; returns whether all hold.
    fn find_directly(&self, scratch: &mut Scratch<T>, tile: &Tile, windows: &Windows) -> bool {
        let Scratch {
            sums,
            values,
            terms,
            gradients: [of_x, of_z],
            ..
        } = scratch;
        let area = windows.area(self.pooling.geometry);
        let mut all_hold = true;
        for i in 0..windows.groups() {
            let first = windows.start(windows.group(i).start, windows.rows.windows.start);
            let to = tile.slot(i * tile.unit, area.first()).unwrap_or_default();
            all_hold &= self.pooling.kernels.direct_gradients(DirectGradients {
                of: self.pooling.direct(windows, i, &mut sums.gathered),
                grads: &terms[0][MARGIN + first..],
                values: &mut values[first..],
                steps: tile.steps(),
                to: [&mut of_x[to..], of_z.get_mut(to..).unwrap_or_default()],
            });
        }
        all_hold
    }

    /// Planes of one window each, from sums to the gradients of their cells; returns whether all hold.
    fn find_whole(&self, scratch: &mut Scratch<T>, tile: &Tile, windows: &Windows) -> bool {
        let Scratch {
            sums: Sums {
                gathered, weights, ..
            },
            values,
            terms,
            gradients: [of_x, of_z],
            ..
        } = scratch;
        let mut all_hold = true;
        for i in 0..windows.groups() {
            let of = self.pooling.whole(windows, i, gathered);
            let first = windows.start(windows.group(i).start, 0);
            let to = tile.row(i * windows.across.unit, 0, 0);
            weights.grow(of.weights());
            all_hold &= self.pooling.kernels.whole_gradients(WholeGradients {
                of,
                grads: &terms[0][MARGIN + first..],
                values: &mut values[first..],
                to: [&mut of_x[to..], of_z.get_mut(to..).unwrap_or_default()],
                pitch: tile.row(1, 0, 0),
                weights,
            });
        }
        all_hold
    }

    /// The gradients of outputs, in `scratch.terms[0]` from [`MARGIN`] on: zero between lines.
    fn copy_grads(&self, scratch: &mut Scratch<T>, windows: &Windows) {
        let Scratch {
            of_grad,
            values,
            terms,
            ..
        } = scratch;
        let slots = windows.slots();
        // Vectors may begin at the last window.
        values.grow(slots + MOST_LANES);
        for terms in terms.iter_mut() {
            terms.grow(MARGIN + slots + MOST_LANES);
            terms[..MARGIN].fill(T::Compute::default());
        }
        let [grads, second] = terms;
        // What lies behind a line, and behind a group of planes, is read, but not always written.
        let area = windows.outputs();
        let pitch = windows.across.slots;
        let of_line = area.columns.len() * windows.across.unit;
        let of_lines = windows.rows.windows.len() * pitch;
        for terms in [&mut *grads, second] {
            for group in terms[MARGIN..MARGIN + slots].chunks_exact_mut(windows.of_group()) {
                let (lines, rest) = group.split_at_mut(of_lines);
                rest.fill(T::Compute::default());
                if pitch > of_line {
                    for line in lines.chunks_exact_mut(pitch) {
                        line[of_line..].fill(T::Compute::default());
                    }
                }
            }
        }
        let grads = &mut grads[MARGIN..MARGIN + slots];
        for group in 0..windows.groups() {
            let planes = windows.group(group);
            let start = windows.start(planes.start, area.rows.start);
            let patch = self.grads(planes, windows.across.unit, &area, of_grad);
            let lines = grads[start..start + of_lines].chunks_exact_mut(pitch);
            for (i, line) in lines.enumerate() {
                line[..of_line].copy_from_slice(&patch.from(0, i, 0)[..of_line]);
            }
        }
    }

    /// The gradients of the outputs of a plane, or of planes abreast.
    fn grads<'b>(
        &'b self,
        planes: Range<usize>,
        unit: usize,
        area: &Area,
        gathered: &'b mut Gathered<T>,
    ) -> Patch<'b, T::Compute> {
        let arch = self.pooling.arch;
        match unit {
            1 if self.pooling.turned && self.grad.is_abreast() => {
                self.grad.patch_turned(arch, planes.start, area, gathered)
            }
            1 => self.grad.patch(arch, planes.start, area, gathered),
            _ => self.grad.patch_abreast(arch, planes, area, gathered),
        }
    }

    /// Pools windows again for their terms, which are zero for those that do not hold; returns whether all do, those
    /// between lines included.
    fn find_terms(&self, scratch: &mut Scratch<T>, windows: &Windows) -> bool {
        let Scratch {
            sums,
            values,
            terms,
            ..
        } = scratch;
        let [first, second] = terms;
        if self.pooling.traits.places && !self.pooling.can_index(windows) {
            values[..windows.slots()].fill(T::Compute::NAN);
            for terms in [first, second] {
                terms[MARGIN..MARGIN + windows.slots()].fill(T::Compute::default());
            }
            return false;
        }
        let keep = self.pooling.traits.shifted;
        let mut all_hold = true;
        self.pooling.sum(windows, keep, sums, |slot, sums| {
            let to = Terms {
                values: &mut values[slot..],
                terms: [&mut first[MARGIN + slot..], &mut second[MARGIN + slot..]],
            };
            all_hold &= self.pooling.kernels.terms(sums, to);
        });
        all_hold
    }

    /// Gradients of cells that add up what their windows give: added to what depths before `written` have.
    fn spread(&self, scratch: &mut Scratch<T>, tile: &Tile, windows: &Windows, written: usize) {
        let Scratch {
            sums:
                Sums {
                    gathered,
                    weights: all_weights,
                    shifts,
                    ..
                },
            terms,
            spreading,
            gradients: [of_x, of_z],
            ..
        } = scratch;
        let Windows { rows, across, .. } = windows;
        let pooling = &self.pooling;
        let area = windows.area(pooling.geometry);
        let cells = tile.cells_of(&area);
        let of_group = windows.of_group();
        let weights = windows.weights(&area);
        for i in 0..windows.groups() {
            let [x, z] = pooling.patches(windows, i, &area, gathered);
            let to = tile.slot(i * tile.unit, cells.first()).unwrap_or_default();
            pooling.kernels.gradients(Gradients {
                spreads: [0, 1].map(|t| Spread {
                    rows,
                    across,
                    terms: &terms[t][i * of_group..],
                }),
                spreading,
                area: &area,
                cells: &cells,
                x,
                z,
                shifts: &shifts[i],
                weights: all_weights.get(i * weights..).unwrap_or_default(),
                written,
                steps: tile.steps(),
                to: [&mut of_x[to..], of_z.get_mut(to..).unwrap_or_default()],
            });
        }
    }

    /// Gradients of the cells that windows have chosen.
    fn scatter(&self, scratch: &mut Scratch<T>, tile: &Tile, windows: &Windows) {
        let Scratch {
            values,
            terms,
            gradients,
            ..
        } = scratch;
        let chosen = windows.area(self.pooling.geometry).indexed();
        for (i, plane) in windows.planes.clone().enumerate() {
            for row in windows.rows.windows.clone() {
                let line = windows.line(plane, row);
                for at in line {
                    let place = values[at].to_f64();
                    if place.is_nan() {
                        continue;
                    }
                    if let Some(to) = tile.slot(i, chosen.cell(place)) {
                        gradients[0][to] = gradients[0][to].add(terms[0][MARGIN + at]);
                    }
                }
            }
        }
    }

    /// What windows that hold by their own largest logits alone give their cells; returns as [`Pooling::pool_again`].
    fn add_again(&self, scratch: &mut Scratch<T>, tile: &Tile, windows: &Windows) -> bool {
        let Scratch {
            sums,
            of_grad,
            values,
            gradients: [of_x, of_z],
            ..
        } = scratch;
        let (pooling, unit) = (&self.pooling, tile.unit);
        let area = windows.area(pooling.geometry);
        let cells = tile.cells_of(&area);
        let outputs = windows.outputs();
        let gathered = &mut sums.gathered;
        pooling.pool_again(windows, gathered, values, |planes, of| {
            let to = tile.slot(planes.start - tile.planes.start, cells.first());
            let to = to.unwrap_or_default();
            pooling.kernels.again_gradients(AgainGradients {
                of,
                grads: self.grads(planes, unit, &outputs, of_grad),
                cells: cells.within(&area),
                steps: tile.steps(),
                to: [&mut of_x[to..], of_z.get_mut(to..).unwrap_or_default()],
            });
        })
    }

    /// What windows that do not hold give their cells.
    fn add_alone(&self, scratch: &mut Scratch<T>, tile: &Tile, windows: &Windows) {
        let columns = windows.across.windows.clone();
        let lines = (0..windows.groups()).flat_map(|group| {
            let planes = windows.group(group);
            windows
                .rows
                .windows
                .clone()
                .map(move |row| (planes.clone(), row))
        });
        for (planes, row) in lines {
            let first = windows.start(planes.start, row);
            let line = &scratch.values[first..][..columns.len() * windows.across.unit];
            if numbers(line) {
                continue;
            }
            for plane in planes {
                for (slot, o) in windows.line(plane, row).zip(columns.clone()) {
                    if scratch.values[slot].to_f64().is_nan() {
                        self.add_window(scratch, tile, plane, [windows.depth, row, o]);
                    }
                }
            }
        }
    }

    #[cold]
    fn add_window(&self, scratch: &mut Scratch<T>, tile: &Tile, plane: usize, o: [usize; 3]) {
        let Scratch {
            window,
            slopes,
            gradients,
            ..
        } = scratch;
        let alone = self.pooling.alone();
        alone.read(plane, o, window);
        let g = self.grad.cell(plane, o).widen().to_f64();
        slopes.clear();
        slopes.resize(window.x.len(), [0.0; 2]);
        let kernels = &self.pooling.kernels;
        kernels.define_gradient(window, g, &mut |i, by| slopes[i] = by);
        for (at, by) in alone.area(o).all().zip(slopes) {
            let Some(at) = tile.slot(plane - tile.planes.start, at) else {
                continue;
            };
            for (gradients, by) in gradients.iter_mut().zip(*by) {
                if let Some(gradient) = gradients.get_mut(at) {
                    *gradient = T::Compute::from_f64(gradient.to_f64() + by);
                }
            }
        }
    }

    /// Rounds the gradients of a tile to their place in the output of its band.
    fn narrow(
        &self,
        scratch: &mut Scratch<T>,
        tile: &Tile,
        band: &Band,
        output: &mut [&mut [MaybeUninit<T>]; 2],
    ) {
        let Scratch {
            gradients,
            plane_by_plane,
            ..
        } = scratch;
        let [depths, rows, columns] = tile.area.sizes();
        let pitch = tile.pitch() / tile.unit;
        for (output, gradients) in output.iter_mut().zip(gradients) {
            if output.is_empty() {
                continue;
            }
            // Planes alone follow each other, those abreast when they have been turned.
            let together = if tile.unit == 1 {
                tile.planes.len()
            } else {
                tile.unit
            };
            for plane in (0..tile.planes.len()).step_by(together) {
                let lines = &gradients[tile.row(plane, 0, 0)..];
                let of_plane = depths * rows * pitch;
                let arch = self.pooling.arch;
                let lines = plane_after_plane(arch, lines, tile.unit, of_plane, plane_by_plane);
                let all = together.min(tile.planes.len() - plane) * depths;
                // Depths of planes follow each other, and rows too if they are whole.
                let at_once = if rows == band.rows.len() { all } else { 1 };
                let first_depth = (tile.planes.start + plane - band.planes.start) * depths;
                for depth in (0..all).step_by(at_once) {
                    let row = tile.area.rows.start - band.rows.start;
                    let first = (first_depth + depth) * band.rows.len() + row;
                    arch.run(Narrow {
                        values: &lines[depth * rows * pitch..],
                        pitch,
                        columns,
                        cells: &mut output[first * columns..][..at_once * rows * columns],
                    });
                }
            }
        }
    }
}
