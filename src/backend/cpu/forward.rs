//! Outputs, band by band: down the columns, along the rows, and those windows that do not hold again or one by one.

use super::again::Again;
use super::aligned::Aligned;
use super::columns::{room, weights_pitch, Columns, Shifts};
use super::direct::Direct;
use super::element::{Element, Narrow};
use super::kernels::{self, Finish, Kernels, Traits};
use super::pieces::Cuts;
use super::plan::{is_ranged, is_whole, lines, may_be_again, Plan, Span, Step, Way, ABREAST};
use super::rows::{slack, Apart, Groups, Rows};
use super::rule::Window;
use super::tiles::Band;
use super::turn::plane_after_plane;
use super::vector::{Arch, Real, MOST_LANES};
use super::view::{Area, Gathered, Patch, View};
use super::whole::Whole;
use super::window::Alone;
use crate::geometry::{Axis, Geometry};
use std::iter::StepBy;
use std::mem::MaybeUninit;
use std::ops::Range;

/// What is pooled, and how.
pub struct Pooling<'a, T: Element> {
    pub arch: Arch,
    pub kernels: Box<dyn Kernels<T::Compute>>,
    pub traits: Traits,
    pub x: View<'a, T>,
    /// Logits; `x` again for rules without.
    pub z: View<'a, T>,
    pub geometry: &'a Geometry,
    /// Bands: of the output forward, of the input backward.
    pub plan: Plan,
    /// Planes that are pooled abreast, or 1.
    pub unit: usize,
    /// Whether planes lie abreast and are pooled one by one.
    pub turned: bool,
}

/// The sums of a band's windows, and the space to make them in; reused from band to band.
#[derive(Default)]
pub struct Sums<T: Element> {
    /// The cells of a group of planes and their logits: see [`Sums::begin`].
    pub gathered: Vec<[Gathered<T>; 2]>,
    cuts: Cuts,
    /// Sums of columns: a line for each piece that windows share, and one for each of some rows of windows.
    shared: [Aligned<T::Compute>; 2],
    lines: [Aligned<T::Compute>; 2],
    /// The weights of cells, plane after plane: see [`Columns::weights`].
    pub weights: Aligned<T::Compute>,
    groups: Groups<T::Compute>,
    /// Sums of windows, line after line; whole vectors.
    windows: [Aligned<T::Compute>; 2],
    /// The largest logits, a group each.
    pub shifts: Vec<Shifts<T::Compute>>,
}

/// Windows that are pooled together: of one depth, in some rows and columns of some planes.
#[derive(Clone)]
pub struct Windows {
    pub planes: Range<usize>,
    pub depth: usize,
    pub rows: Span,
    pub across: Span,
}

impl Windows {
    /// Rows of windows of all planes; those of planes abreast are one.
    pub fn lines(&self) -> usize {
        self.groups() * self.rows.windows.len()
    }

    /// Planes, or groups of planes that lie abreast.
    pub fn groups(&self) -> usize {
        self.planes.len().div_ceil(self.across.unit)
    }

    /// The planes of a group.
    pub fn group(&self, group: usize) -> Range<usize> {
        let start = self.planes.start + group * self.across.unit;
        start..self.planes.end.min(start + self.across.unit)
    }

    /// Slots for what is known of windows, those between lines included; whole vectors.
    pub fn slots(&self) -> usize {
        self.groups() * self.of_group()
    }

    /// Those of a plane, or of planes abreast.
    pub fn of_group(&self) -> usize {
        (self.rows.windows.len() * self.across.slots).next_multiple_of(MOST_LANES)
    }

    /// The slot of the first window of a row.
    pub fn start(&self, plane: usize, row: usize) -> usize {
        let unit = self.across.unit;
        let plane = plane - self.planes.start;
        let line = row - self.rows.windows.start;
        plane / unit * self.of_group() + line * self.across.slots + plane % unit
    }

    /// The slots of the windows of a row, window by window.
    pub fn line(&self, plane: usize, row: usize) -> StepBy<Range<usize>> {
        let (start, unit) = (self.start(plane, row), self.across.unit);
        (start..start + self.across.windows.len() * unit).step_by(unit)
    }

    /// Room for the weights of the cells of a group.
    pub fn weights(&self, area: &Area) -> usize {
        let columns = area.columns.len() * self.across.unit;
        area.depths.len() * area.rows.len() * weights_pitch(columns)
    }

    /// How they are summed.
    pub fn way(&self, geometry: &Geometry) -> Way {
        Way::of(geometry, self.depth, &self.rows, &self.across)
    }

    /// Where their outputs are in a plane.
    pub fn outputs(&self) -> Area {
        Area {
            depths: self.depth..self.depth + 1,
            rows: self.rows.windows.clone(),
            columns: self.across.windows.clone(),
        }
    }

    /// The cells that they read.
    pub fn area(&self, geometry: &Geometry) -> Area {
        Area {
            depths: geometry.axes[0].window(self.depth),
            rows: self.rows.cells.clone(),
            columns: self.across.cells.clone(),
        }
    }
}

impl<T: Element> Sums<T> {
    /// Forgets other calls' cells, and makes room for those of so many groups: one forward, where all take turns, and on the
    /// way back, where cells are read twice, as many as a band has.
    pub fn begin(&mut self, groups: usize) {
        self.gathered
            .iter_mut()
            .flatten()
            .for_each(Gathered::forget);
        let groups = groups.max(self.gathered.len());
        self.gathered.resize_with(groups, Default::default);
    }

    /// Makes room for these windows, but for the sums of windows.
    fn grow(&mut self, windows: &Windows, geometry: &Geometry, keep: bool) {
        let Windows { rows, across, .. } = windows;
        let depths = geometry.axes[0].window(windows.depth).len();
        let pieces = self.cuts.of(depths, rows, across);
        let cells = rows.windows.len().min(lines(rows, across)) * across.pitch
            + slack(across)
            + across.before;
        let room = room(pieces, across.cells.len() * across.unit, across.pitch);
        for (lines, shared) in self.lines.iter_mut().zip(&mut self.shared) {
            lines.grow(cells);
            shared.grow(room);
        }
        if keep {
            let weights = windows.weights(&windows.area(geometry));
            self.weights.grow(windows.groups() * weights + MOST_LANES);
        }
    }
}

impl<'a, T: Element> Pooling<'a, T> {
    pub fn alone(&self) -> Alone<'a, T> {
        Alone {
            x: self.x,
            z: self.traits.logits.then_some(self.z),
            geometry: self.geometry,
        }
    }

    /// The cells of a group of planes that windows read, and their logits.
    pub fn patches<'b>(
        &self,
        windows: &Windows,
        group: usize,
        area: &Area,
        gathered: &'b mut [[Gathered<T>; 2]],
    ) -> [Patch<'b, T::Compute>; 2]
    where
        'a: 'b,
    {
        let (planes, unit) = (windows.group(group), windows.across.unit);
        // Planes that are turned together lie in one place.
        let place = if self.turned {
            0
        } else {
            group.min(gathered.len() - 1)
        };
        let patch = |view: &View<'a, T>, gathered: &'b mut Gathered<T>| match unit {
            1 if self.turned => view.patch_turned(self.arch, planes.start, area, gathered),
            1 => view.patch(self.arch, planes.start, area, gathered),
            _ => view.patch_abreast(self.arch, planes.clone(), area, gathered),
        };
        let [of_x, of_z] = &mut gathered[place];
        let x = patch(&self.x, of_x);
        match self.traits.logits {
            true => [x, patch(&self.z, of_z)],
            false => [x, x],
        }
    }

    /// The shifts of the planes of a patch.
    fn shifts(&self, patches: &[Patch<'_, T::Compute>; 2], unit: usize) -> Shifts<T::Compute> {
        if unit == 1 || !self.traits.shifted {
            return Shifts([self.shift(patches); 2 * ABREAST]);
        }
        let of = &patches[if self.traits.logits { 1 } else { 0 }];
        let mut largest = self.kernels.largest_logits(of);
        if !finite(&largest) {
            for (lane, shift) in largest.iter_mut().enumerate() {
                if !shift.to_f64().is_finite() {
                    *shift = self.largest_finite(of.all().skip(lane).step_by(ABREAST));
                }
            }
        }
        let mut twice = [T::Compute::default(); 2 * ABREAST];
        twice[..ABREAST].copy_from_slice(&largest);
        twice[ABREAST..].copy_from_slice(&largest);
        Shifts(twice)
    }

    /// The largest finite logit of a patch, or 0.
    fn shift(&self, [x, z]: &[Patch<'_, T::Compute>; 2]) -> T::Compute {
        if !self.traits.shifted {
            return T::Compute::default();
        }
        let of = if self.traits.logits { z } else { x };
        let shift = self.kernels.largest_logit(of);
        if shift.to_f64().is_finite() {
            return shift;
        }
        self.largest_finite(of.all())
    }

    /// The largest finite logit of some cells, or 0.
    fn largest_finite<'c>(&self, cells: impl Iterator<Item = &'c T::Compute>) -> T::Compute {
        let single = |cell| self.kernels.largest_logit(&Patch::single(cell));
        let finite = cells
            .map(single)
            .map(Real::to_f64)
            .filter(|z| z.is_finite());
        match finite.fold(f64::NEG_INFINITY, f64::max) {
            shift if shift.is_finite() => T::Compute::from_f64(shift),
            _ => T::Compute::default(),
        }
    }

    /// Sums these windows, and brings the sums of some lines at a time to their ending, with the first slot of theirs.
    /// The weights of their cells are kept if asked.
    pub fn sum(
        &self,
        windows: &Windows,
        keep: bool,
        sums: &mut Sums<T>,
        mut end: impl FnMut(usize, kernels::Sums<'_, T::Compute>),
    ) {
        let Windows { rows, across, .. } = windows;
        sums.grow(windows, self.geometry, keep);
        sums.shifts.clear();
        let area = windows.area(self.geometry);
        let Sums {
            gathered,
            cuts,
            shared: [shared_a, shared_b],
            lines: [a, b],
            weights,
            groups,
            windows: of_windows,
            shifts,
        } = sums;
        let pieces = cuts.of(area.depths.len(), rows, across);
        let lines = lines(rows, across);
        let mut some = windows.clone();
        for i in 0..windows.groups() {
            some.planes = windows.group(i);
            let patches = self.patches(windows, i, &area, gathered);
            let of_group = self.shifts(&patches, across.unit);
            shifts.push(of_group);
            let skip = i * windows.weights(&area);
            for start in rows.windows.clone().step_by(lines) {
                some.rows.windows = start..rows.windows.end.min(start + lines);
                let [x, z] = patches;
                let first = some.rows.windows.start - rows.windows.start;
                self.kernels.columns(Columns {
                    x,
                    z,
                    shifts: &of_group,
                    pieces,
                    windows: first..first + some.rows.windows.len(),
                    unit: across.unit,
                    pitch: across.pitch,
                    before: across.before,
                    lines: [a, b],
                    shared: [shared_a, shared_b],
                    weights: keep.then(|| &mut weights[skip..]),
                });
                if self.traits.counts_padding {
                    self.count_padding(&some, a);
                }
                let cells = some.lines() * across.pitch + slack(across);
                let rows = Rows {
                    across,
                    lines: some.lines(),
                    sums: [&a[..cells], &b[..cells]],
                    groups,
                };
                let first = windows.start(some.planes.start, start);
                end(first, self.along(&some, rows, of_windows));
            }
        }
    }

    /// The sums of the windows of some lines, or what they are made of.
    fn along<'b>(
        &self,
        windows: &Windows,
        rows: Rows<'b, T::Compute>,
        to: &'b mut [Aligned<T::Compute>; 2],
    ) -> kernels::Sums<'b, T::Compute> {
        let across = &windows.across;
        if Step::of(&across.axis).in_vectors() {
            return kernels::Sums::Rows(rows);
        }
        let (slots, seen) = (windows.slots(), rows.slots());
        let [a, b] = to;
        a.grow(slots);
        b.grow(slots);
        self.kernels.apart(Apart { rows, to: [a, b] });
        if self.traits.counts_padding && is_ranged(&across.axis) {
            self.count_ranged(windows, a);
        }
        kernels::Sums::Windows([&a[..slots], &b[..slots]], seen)
    }

    /// Counts the padded columns of windows whose padding is no part of a line.
    fn count_ranged(&self, windows: &Windows, counts: &mut [T::Compute]) {
        let Windows {
            rows,
            across,
            depth,
            ..
        } = windows;
        let of_depths = self.geometry.axes[0].padded_len(*depth) as f64;
        for plane in windows.planes.clone() {
            for row in rows.windows.clone() {
                let of_rows = rows.axis.padded_len(row) as f64 * of_depths;
                let line = windows.line(plane, row);
                for (slot, o) in line.zip(across.windows.clone()) {
                    let count = &mut counts[slot];
                    let missing = across.axis.padded_len(o) - across.axis.window(o).len();
                    *count = count.add(T::Compute::from_f64(missing as f64 * of_rows));
                }
            }
        }
    }

    /// Counts the padding of a plane's lines.
    fn count_padding(&self, windows: &Windows, counts: &mut [T::Compute]) {
        let Windows {
            rows,
            across,
            depth,
            ..
        } = windows;
        let right = across.before + across.cells.len() * across.unit;
        // What hangs over the padding is not counted.
        let axis = &across.axis;
        let padding = (axis.input + axis.padding - across.cells.end).saturating_mul(across.unit);
        let counted = right.saturating_add(padding).min(across.pitch);
        let padded_depths = self.geometry.axes[0].padded_len(*depth) as f64;
        let depths = self.geometry.axes[0].window(*depth).len();
        for (line, o) in rows.windows.clone().enumerate() {
            let start = line * across.pitch;
            let all = rows.axis.padded_len(o) as f64 * padded_depths;
            let missing = all - (rows.axis.window(o).len() * depths) as f64;
            let counts = &mut counts[start..start + counted];
            counts[..across.before].fill(T::Compute::from_f64(all));
            counts[right..].fill(T::Compute::from_f64(all));
            if missing > 0.0 {
                let missing = T::Compute::from_f64(missing);
                for count in &mut counts[across.before..right] {
                    *count = count.add(missing);
                }
            }
        }
    }
}

/// What a thread needs besides the output; reused from band to band.
#[derive(Default)]
pub struct Scratch<T: Element> {
    sums: Sums<T>,
    /// The outputs of a band's windows, NaN for those that do not hold.
    values: Aligned<T::Compute>,
    /// Those of planes abreast, plane after plane.
    plane_by_plane: Aligned<T::Compute>,
    window: Window,
}

impl<'a, T: Element> Pooling<'a, T> {
    /// The outputs of some bands.
    pub fn forward(
        &self,
        scratch: &mut Scratch<T>,
        bands: &[Band],
        mut output: &mut [MaybeUninit<T>],
    ) {
        let [_, height, width] = &self.geometry.axes;
        scratch.sums.begin(1);
        for band in bands {
            let (mine, rest) = output.split_at_mut(band.cells());
            output = rest;
            for depth in band.depths.clone() {
                for start in band.rows.clone().step_by(self.plan.rows) {
                    let rows = start..band.rows.end.min(start + self.plan.rows);
                    let windows = Windows {
                        planes: band.planes.clone(),
                        depth,
                        rows: Span::new(height, rows),
                        across: Span::new(width, band.columns.clone()).times(self.unit),
                    };
                    self.pool(&windows, scratch, band, mine);
                }
            }
        }
    }

    /// The outputs of these windows, where they are among those of the band.
    fn pool(
        &self,
        windows: &Windows,
        scratch: &mut Scratch<T>,
        band: &Band,
        output: &mut [MaybeUninit<T>],
    ) {
        let all_hold = self.find_values(windows, scratch);
        let Scratch {
            values,
            plane_by_plane,
            window,
            ..
        } = scratch;
        let (rows, columns) = (windows.rows.windows.clone(), windows.across.windows.len());
        let unit = windows.across.unit;
        let pitch = windows.across.slots / unit;
        // Whole planes follow each other, so that their rows are those of one.
        let whole = band.depths.len() == 1 && rows.len() == band.rows.len();
        for group in 0..windows.groups() {
            let planes = windows.group(group);
            let values = &values[windows.start(planes.start, rows.start)..];
            let of_plane = rows.len() * pitch;
            let values = plane_after_plane(self.arch, values, unit, of_plane, plane_by_plane);
            let at_once = if whole { planes.len() } else { 1 };
            for plane in planes.clone().step_by(at_once) {
                let values = &values[(plane - planes.start) * of_plane..];
                let depths = (plane - windows.planes.start) * band.depths.len();
                let depth = depths + windows.depth - band.depths.start;
                let first = depth * band.rows.len() + rows.start - band.rows.start;
                let count = at_once * rows.len();
                let cells = &mut output[first * columns..][..count * columns];
                self.arch.run(Narrow {
                    values,
                    pitch,
                    columns,
                    cells,
                });
                if !all_hold {
                    self.pool_alone(windows, plane, values, window, cells);
                }
            }
        }
    }

    /// The outputs of these windows, in `scratch.values`: NaN for those that do not hold. Returns whether all held at once,
    /// without being pooled again.
    fn find_values(&self, windows: &Windows, scratch: &mut Scratch<T>) -> bool {
        let Scratch { sums, values, .. } = scratch;
        // Vectors may begin at the last window.
        values.grow(windows.slots() + MOST_LANES);
        let way = windows.way(self.geometry);
        if matches!(way, Way::Direct | Way::Whole) {
            return self.pool_at_once(way, windows, &mut sums.gathered, values);
        }
        let mut all_hold = true;
        self.sum(windows, false, sums, |slot, sums| {
            let values = &mut values[slot..];
            all_hold &= self.kernels.finish(sums, Finish { values });
        });
        all_hold || {
            let pool = |_, of: Again<'_, _>| self.kernels.again(of);
            self.pool_again(windows, &mut sums.gathered, values, pool)
        }
    }

    /// The outputs of those windows of some planes whose values are NaN, by their definition.
    #[cold]
    fn pool_alone(
        &self,
        windows: &Windows,
        plane: usize,
        values: &[T::Compute],
        window: &mut Window,
        cells: &mut [MaybeUninit<T>],
    ) {
        let (rows, columns) = (&windows.rows.windows, &windows.across.windows);
        let pitch = windows.across.slots / windows.across.unit;
        let lines = values.chunks(pitch);
        for (i, (values, cells)) in lines.zip(cells.chunks_exact_mut(columns.len())).enumerate() {
            if numbers(&values[..columns.len()]) {
                continue;
            }
            let (plane, row) = (plane + i / rows.len(), rows.start + i % rows.len());
            for ((value, o), cell) in values.iter().zip(columns.clone()).zip(cells) {
                if value.to_f64().is_nan() {
                    let at = [windows.depth, row, o];
                    self.alone().read(plane, at, window);
                    let y = self.kernels.replace(self.kernels.define(window), T::MAX);
                    cell.write(T::round(y));
                }
            }
        }
    }

    /// Has windows pooled again where some do not hold: calls `pool` with the planes of each group of such. Returns whether
    /// there was none: only what lies between lines did not hold.
    pub fn pool_again(
        &self,
        windows: &Windows,
        gathered: &mut [[Gathered<T>; 2]],
        values: &mut [T::Compute],
        mut pool: impl FnMut(Range<usize>, Again<'_, T::Compute>),
    ) -> bool {
        let Windows { rows, across, .. } = windows;
        let count = across.windows.len() * across.unit;
        let all_hold = |group: usize, values: &[T::Compute]| {
            let values = &values[windows.start(windows.group(group).start, rows.windows.start)..];
            let mut lines = values.chunks(across.slots).take(rows.windows.len());
            lines.all(|line| numbers(&line[..count]))
        };
        let Some(first) = (0..windows.groups()).find(|&group| !all_hold(group, values)) else {
            return true;
        };
        if !self.traits.shifted {
            return false;
        }
        let area = windows.area(self.geometry);
        let cells = |span: &Span, first: usize| -> Vec<_> {
            let of_window = |o| span.axis.window(o).start - first..span.axis.window(o).end - first;
            span.windows.clone().map(of_window).collect()
        };
        let rows_of = cells(rows, area.rows.start);
        let columns = cells(across, area.columns.start);
        let most = |cells: &[Range<usize>]| cells.iter().map(Range::len).max().unwrap_or_default();
        if !may_be_again(area.depths.len() * most(&rows_of) * most(&columns)) {
            return false;
        }
        for group in first..windows.groups() {
            if all_hold(group, values) {
                continue;
            }
            let planes = windows.group(group);
            let values = &mut values[windows.start(planes.start, rows.windows.start)..];
            let [x, z] = self.patches(windows, group, &area, gathered);
            let again = Again {
                x,
                z,
                rows: &rows_of,
                columns: &columns,
                unit: across.unit,
                values,
                pitch: across.slots,
            };
            pool(planes, again);
        }
        false
    }

    /// The outputs of windows that are pooled from their cells at once, NaN for those that do not hold; returns whether all do.
    fn pool_at_once(
        &self,
        way: Way,
        windows: &Windows,
        gathered: &mut [[Gathered<T>; 2]],
        values: &mut [T::Compute],
    ) -> bool {
        let mut all_hold = true;
        for i in 0..windows.groups() {
            let planes = windows.group(i);
            let values = &mut values[windows.start(planes.start, windows.rows.windows.start)..];
            let to = Finish { values };
            all_hold &= match way {
                Way::Whole => self.kernels.whole(self.whole(windows, i, gathered), to),
                _ => self.kernels.direct(self.direct(windows, i, gathered), to),
            };
        }
        all_hold
    }

    /// The planes of a group, of one window each.
    pub fn whole<'b>(
        &self,
        windows: &Windows,
        group: usize,
        gathered: &'b mut [[Gathered<T>; 2]],
    ) -> Whole<'b, T::Compute>
    where
        'a: 'b,
    {
        let (planes, area) = (windows.group(group), windows.area(self.geometry));
        let abreast = !self.is_in_rows();
        let of = |view: &View<'a, T>, gathered: &'b mut Gathered<T>| match abreast {
            true => view.planes_abreast(self.arch, planes.clone(), &area, gathered),
            false => view.planes_of_one_row(self.arch, planes.clone(), &area, gathered),
        };
        let [of_x, of_z] = &mut gathered[0];
        let x = of(&self.x, of_x);
        Whole {
            x,
            z: if self.traits.logits {
                of(&self.z, of_z)
            } else {
                x
            },
            planes: planes.len(),
            cells: area.cells(),
            abreast,
        }
    }

    /// Whether cells of [`ABREAST`] planes lie side by side.
    pub fn are_abreast(&self) -> bool {
        self.x.is_abreast() && self.z.is_abreast()
    }

    /// Whether planes of one window each are pooled from their rows, the only one that each has: others lie abreast, or are
    /// turned.
    pub fn is_in_rows(&self) -> bool {
        let [depth, height, _] = &self.geometry.axes;
        is_whole(self.geometry) && (depth.input, height.input) == (1, 1) && !self.are_abreast()
    }

    /// The windows of a group of planes, in registers.
    pub fn direct<'b>(
        &self,
        windows: &Windows,
        group: usize,
        gathered: &'b mut [[Gathered<T>; 2]],
    ) -> Direct<'b, T::Compute>
    where
        'a: 'b,
    {
        let area = windows.area(self.geometry);
        let unit = windows.across.unit;
        let in_place = |view: &View<'a, T>| match unit {
            1 => None,
            _ => view.patch_abreast_in_place(windows.group(group).start, &area),
        };
        let [x, z] = match (in_place(&self.x), in_place(&self.z)) {
            (Some(x), Some(z)) => [x, z],
            _ => self.patches(windows, group, &area, gathered),
        };
        let Axis { kernel, stride, .. } = windows.rows.axis;
        Direct {
            x,
            z,
            windows: [windows.rows.windows.len(), windows.across.windows.len()],
            kernel,
            stride,
            unit,
        }
    }

    /// The index in its plane of the cell that each window of some bands has chosen.
    pub fn places(
        &self,
        scratch: &mut Scratch<T>,
        bands: &[Band],
        mut output: &mut [MaybeUninit<u32>],
    ) {
        let [_, height, width] = self.geometry.axes;
        scratch.sums.begin(1);
        for band in bands {
            for (plane, depth) in band
                .planes
                .clone()
                .flat_map(|p| band.depths.clone().map(move |d| (p, d)))
            {
                let windows = Windows {
                    planes: plane..plane + 1,
                    depth,
                    rows: Span::new(&height, band.rows.clone()),
                    across: Span::new(&width, band.columns.clone()),
                };
                let Scratch {
                    sums,
                    values,
                    window,
                    ..
                } = &mut *scratch;
                let slots = windows.slots();
                values.grow(slots);
                match self.can_index(&windows) {
                    true => self.sum(&windows, false, sums, |slot, sums| {
                        let values = &mut values[slot..];
                        self.kernels.finish(sums, Finish { values });
                    }),
                    false => values[..slots].fill(T::Compute::NAN),
                }
                let chosen = windows.area(self.geometry).indexed();
                let in_plane =
                    |value: T::Compute| chosen.in_plane(value.to_f64(), height.input, width.input);
                for row in band.rows.clone() {
                    let (line, rest) = output.split_at_mut(band.columns.len());
                    output = rest;
                    let values = &values[windows.start(plane, row)..][..line.len()];
                    if numbers(values) {
                        for (to, &value) in line.iter_mut().zip(values) {
                            to.write(in_plane(value));
                        }
                        continue;
                    }
                    for ((to, &value), o) in line.iter_mut().zip(values).zip(band.columns.clone()) {
                        let value = match value.to_f64().is_nan() {
                            true => self.choose(plane, [depth, row, o], window),
                            false => in_plane(value),
                        };
                        to.write(value);
                    }
                }
            }
        }
    }

    /// Whether the places of cells are numbers that the arithmetic has.
    pub fn can_index(&self, windows: &Windows) -> bool {
        let most = 2.0 / T::Compute::EPSILON.to_f64();
        windows.area(self.geometry).cells() as f64 <= most
    }

    /// The index in its plane of the cell that the window at `o` chooses by its definition.
    #[cold]
    fn choose(&self, plane: usize, o: [usize; 3], window: &mut Window) -> u32 {
        self.alone().read(plane, o, window);
        let chosen = self.kernels.define(window) as usize;
        let [_, height, width] = self.geometry.axes;
        let cell = self.alone().area(o).all().nth(chosen);
        let [depth, row, column] = cell.unwrap_or_default();
        ((depth * height.input + row) * width.input + column) as u32
    }
}

/// Whether all are finite, for which their differences from themselves are 0; without a branch a value as well.
fn finite<C: Real>(values: &[C]) -> bool {
    let zero = C::default();
    values.iter().fold(true, |all, v| all & (v.sub(*v) == zero))
}

/// Whether none of them is NaN; without a branch a value, so that it is vectorised.
pub fn numbers<C: Real>(values: &[C]) -> bool {
    values
        .iter()
        .fold(true, |all, v| all & v.partial_cmp(v).is_some())
}
