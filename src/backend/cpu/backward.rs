//! Gradients, band by band of the input: the windows of its cells are pooled again, and their terms spread.

use super::again::AgainGradients;
use super::aligned::Aligned;
use super::direct::DirectGradients;
use super::element::{Element, Narrow};
use super::forward::{numbers, Pooling, Sums, Windows};
use super::kernels::Terms;
use super::plan::{Span, Way, REACH};
use super::rule::Window;
use super::spread::{Gradients, Spread, Spreading, MARGIN};
use super::tiles::Band;
use super::turn::Turn;
use super::vector::{Real, MOST_LANES};
use super::view::{overlap, Area, Gathered, Patch, View};
use crate::geometry::Axis;
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
        scratch.sums.gathered.iter_mut().for_each(Gathered::forget);
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
                        unit: self.pooling.unit,
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
        let outputs = if self.pooling.traits.logits { 2 } else { 1 };
        for gradients in &mut scratch.gradients[..outputs] {
            gradients.grow(cells + REACH);
        }
        let depths = Span::touching(depth, &tile.area.depths);
        let rows = Span::touching(height, &tile.area.rows);
        let columns = Span::touching(width, &tile.area.columns);
        let none = depths.is_empty() || rows.is_empty() || columns.is_empty();
        let windows = |depth| Windows {
            planes: tile.planes.clone(),
            depth,
            rows: Span::new(height, rows.clone()),
            across: Span::new(width, columns.clone()).times(tile.unit),
        };
        // Gradients of cells that one row of windows at most has, in depth, are written once.
        let once = !none && depths.len() == 1 && self.covers(tile, &windows(depths.start));
        if !once {
            for gradients in &mut scratch.gradients[..outputs] {
                gradients[..cells].fill(T::Compute::default());
            }
        }
        if none {
            return;
        }
        for depth in depths {
            let windows = windows(depth);
            self.copy_grads(scratch, &windows);
            let all_hold;
            if self.is_direct(tile, &windows) {
                all_hold = self.find_directly(scratch, tile, &windows);
            } else {
                all_hold = self.find_terms(scratch, &windows);
                if self.pooling.traits.places {
                    self.scatter(scratch, tile, &windows);
                } else {
                    self.spread(scratch, tile, &windows, !once);
                }
                if !all_hold {
                    self.add_again(scratch, tile, &windows);
                }
            }
            if !all_hold {
                self.add_alone(scratch, tile, &windows);
            }
        }
    }

    /// Whether all cells of a tile lie between the first and the last of these windows, and are given gradients.
    fn covers(&self, tile: &Tile, windows: &Windows) -> bool {
        let [of_depth, height, width] = &self.pooling.geometry.axes;
        let Windows {
            depth,
            rows,
            across,
            ..
        } = windows;
        let covers = |axis: &Axis, windows: &Range<usize>, cells: &Range<usize>| {
            let (first, last) = (axis.window(windows.start), axis.window(windows.end - 1));
            first.start <= cells.start && last.end >= cells.end
        };
        // Windows in registers leave out the rows between them.
        let gaps = height.stride > height.kernel;
        let scattered = self.pooling.traits.places && !self.is_direct(tile, windows);
        !(scattered || gaps)
            && covers(of_depth, &(*depth..depth + 1), &tile.area.depths)
            && covers(height, &rows.windows, &tile.area.rows)
            && covers(width, &across.windows, &tile.area.columns)
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
            let planes = windows.group(i);
            let first = windows.start(planes.start, windows.rows.windows.start);
            let to = tile.slot(i * tile.unit, area.first()).unwrap_or_default();
            all_hold &= self.pooling.kernels.direct_gradients(DirectGradients {
                of: self.pooling.direct(windows, planes, &mut sums.gathered),
                grads: &terms[0][MARGIN + first..],
                values: &mut values[first..],
                steps: tile.steps(),
                to: [&mut of_x[to..], of_z.get_mut(to..).unwrap_or_default()],
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
        // What lies behind a group of planes is read, but not always written.
        let of_lines = windows.rows.windows.len() * windows.across.slots();
        for terms in [&mut *grads, second] {
            for group in terms[MARGIN..MARGIN + slots].chunks_exact_mut(windows.of_group()) {
                group[of_lines..].fill(T::Compute::default());
            }
        }
        let area = windows.outputs();
        let grads = &mut grads[MARGIN..MARGIN + slots];
        let pitch = windows.across.slots();
        let of_line = area.columns.len() * windows.across.unit;
        for group in 0..windows.groups() {
            let planes = windows.group(group);
            let start = windows.start(planes.start, area.rows.start);
            let patch = self.grads(planes, windows.across.unit, &area, of_grad);
            let lines = grads[start..start + of_lines].chunks_exact_mut(pitch);
            for (i, line) in lines.enumerate() {
                let (cells, between) = line.split_at_mut(of_line);
                cells.copy_from_slice(&patch.from(0, i, 0)[..of_line]);
                between.fill(T::Compute::default());
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
        let keep = self.pooling.traits.shifted;
        let mut all_hold = true;
        self.pooling.sum(windows, keep, sums, |slot, sums| {
            let to = Terms {
                values: &mut values[slot..],
                terms: [&mut first[MARGIN + slot..], &mut second[MARGIN + slot..]],
            };
            all_hold &= self.pooling.kernels.terms(sums, to);
        });
        if self.pooling.traits.places && !self.pooling.can_index(windows) {
            values[..windows.slots()].fill(T::Compute::NAN);
            for terms in [first, second] {
                terms[MARGIN..MARGIN + windows.slots()].fill(T::Compute::default());
            }
            return false;
        }
        all_hold
    }

    /// Gradients of cells that add up what their windows give: added to what is there, or in its place.
    fn spread(&self, scratch: &mut Scratch<T>, tile: &Tile, windows: &Windows, add: bool) {
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
            let [x, z] = pooling.patches(windows.group(i), tile.unit, &area, gathered);
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
                add,
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

    /// What windows that hold by their own largest logits alone give their cells.
    fn add_again(&self, scratch: &mut Scratch<T>, tile: &Tile, windows: &Windows) {
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
        });
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
        let Area {
            depths,
            rows,
            columns,
        } = &tile.area;
        let Scratch {
            gradients,
            plane_by_plane,
            ..
        } = scratch;
        let (count, pitch) = (depths.len() * rows.len(), tile.pitch() / tile.unit);
        // Whole planes follow each other, so that their rows are those of one.
        let (planes_at_once, depths_at_once) = match rows.len() == band.rows.len() {
            true => (tile.unit, depths.len()),
            false => (1, 1),
        };
        for (output, gradients) in output.iter_mut().zip(gradients) {
            if output.is_empty() {
                continue;
            }
            for plane in (0..tile.planes.len()).step_by(planes_at_once) {
                let of_band = plane + tile.planes.start - band.planes.start;
                let (group, lane) = (plane / tile.unit, plane % tile.unit);
                let mut lines = &gradients[tile.row(group * tile.unit, 0, 0)..];
                if tile.unit > 1 {
                    if lane == 0 {
                        // Planes abreast, one after the other.
                        plane_by_plane.grow(count * pitch * tile.unit);
                        self.pooling.arch.run(Turn {
                            cells: lines,
                            step: tile.unit,
                            rows: count * pitch,
                            columns: tile.unit,
                            to: plane_by_plane,
                            pitch: count * pitch,
                        });
                    }
                    lines = &plane_by_plane[lane * count * pitch..];
                }
                let planes = planes_at_once.min(tile.planes.len() - plane);
                for depth in (0..depths.len()).step_by(depths_at_once) {
                    let first = (of_band * depths.len() + depth) * band.rows.len();
                    let to = (first + rows.start - band.rows.start) * columns.len();
                    let cells = planes * depths_at_once * rows.len() * columns.len();
                    self.pooling.arch.run(Narrow {
                        values: &lines[depth * rows.len() * pitch..],
                        pitch,
                        columns: columns.len(),
                        cells: &mut output[to..to + cells],
                    });
                }
            }
        }
    }
}
