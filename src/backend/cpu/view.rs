//! A tensor's cells with their strides, seen as planes of depth, height and width.

use super::aligned::Aligned;
use super::element::{Element, Widen, WidenAbreast};
use super::plan::{ABREAST, REACH};
use super::turn::Turn;
use super::vector::{Arch, MOST_LANES};
use candle_core::Layout;
use std::ops::Range;

/// A strided tensor of shape `(N, C, spatial…)` or `(C, spatial…)`.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T> {
    data: &'a [T],
    channels: usize,
    batch: usize,
    /// Of batch, channel, depth, height and width, in elements.
    strides: [usize; 5],
}

/// The cells of a plane that a band reads: depths, rows and columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    pub depths: Range<usize>,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Area {
    /// What finds cells by their indices in the area.
    pub fn indexed(&self) -> Indexed {
        let (rows, columns) = (self.rows.len(), self.columns.len());
        Indexed {
            first: self.first(),
            rows,
            columns,
            rows_a_cell: 1.0 / columns as f64,
            depths_a_cell: 1.0 / (rows as f64 * columns as f64),
        }
    }

    /// Depth, row and column of its first cell.
    pub fn first(&self) -> [usize; 3] {
        [self.depths.start, self.rows.start, self.columns.start]
    }

    /// How many depths, rows and columns.
    pub fn sizes(&self) -> [usize; 3] {
        [self.depths.len(), self.rows.len(), self.columns.len()]
    }

    /// Depth, row and column of each, in row-major order.
    pub fn all(&self) -> impl Iterator<Item = [usize; 3]> {
        let (rows, columns) = (self.rows.clone(), self.columns.clone());
        self.depths.clone().flat_map(move |d| {
            let columns = columns.clone();
            rows.clone()
                .flat_map(move |h| columns.clone().map(move |w| [d, h, w]))
        })
    }

    /// The depths, rows and columns of an area around it that it has.
    pub fn within(&self, around: &Area) -> [Range<usize>; 3] {
        let first = around.first();
        let all = [&self.depths, &self.rows, &self.columns];
        [0, 1, 2].map(|a| all[a].start - first[a]..all[a].end - first[a])
    }

    /// How many cells.
    pub fn cells(&self) -> usize {
        self.sizes().iter().product()
    }
}

/// The cells of an [`Area`] by their indices, in row-major order.
///
/// It multiplies by inverses, since divisions would take most of the time of all who ask for places.
#[derive(Clone, Copy, Debug)]
pub struct Indexed {
    first: [usize; 3],
    rows: usize,
    columns: usize,
    rows_a_cell: f64,
    depths_a_cell: f64,
}

impl Indexed {
    /// The same cell's index in a plane of so many rows and columns.
    #[inline]
    pub fn in_plane(&self, index: f64, rows: usize, columns: usize) -> u32 {
        let [depth, row, column] = self.cell(index);
        ((depth * rows + row) * columns + column) as u32
    }

    /// Depth, row and column of the cell with this index, a whole number below 2^32.
    #[inline]
    pub fn cell(&self, index: f64) -> [usize; 3] {
        // The middle of a cell is half a cell from where a row begins, much farther than products are from quotients.
        let middle = index + 0.5;
        let row = (middle * self.rows_a_cell) as u32 as usize;
        let depth = (middle * self.depths_a_cell) as u32 as usize;
        let [first_depth, first_row, first_column] = self.first;
        [
            first_depth + depth,
            first_row + row - depth * self.rows,
            first_column + index as u32 as usize - row * self.columns,
        ]
    }
}

/// The cells of an [`Area`], those of a row side by side.
#[derive(Clone, Copy, Debug)]
pub struct Patch<'a, T> {
    /// From the first cell on to the end of its memory. What is gathered has whole vectors from the first of every row on, at
    /// least [`REACH`]; so has what is read in place, unless planes lie abreast there, or it is a cell alone.
    pub cells: &'a [T],
    /// From a depth to the next, and from a row.
    pub steps: [usize; 2],
    /// From a column to the next: more than one where planes lie abreast.
    pub across: usize,
    /// Depths, rows and columns; of planes abreast, the columns of all.
    pub sizes: [usize; 3],
}

/// The cells of planes, row after row without a gap: each plane's side by side, or those of planes abreast.
#[derive(Clone, Copy)]
pub struct Planes<'a, C> {
    pub cells: &'a [C],
    /// From a plane to the next; 1 where they lie abreast.
    pub pitch: usize,
}

impl<'a, T> View<'a, T> {
    /// `rank` spatial dimensions of `data`, which the layout describes.
    pub fn new(data: &'a [T], layout: &Layout, rank: usize) -> Self {
        let (dims, steps) = (layout.dims(), layout.stride());
        let lead = dims.len() - rank;
        let mut strides = [0; 5];
        strides[5 - rank..].copy_from_slice(&steps[lead..]);
        strides[1] = steps[lead - 1];
        let mut batch = 1;
        if lead == 2 {
            (strides[0], batch) = (steps[0], dims[0]);
        }
        // The step of an axis of one cell leads nowhere.
        for (stride, &size) in strides[5 - rank..].iter_mut().zip(&dims[lead..]) {
            if size == 1 {
                *stride = 0;
            }
        }
        if dims[dims.len() - 1] == 1 {
            strides[4] = 1;
        }
        Self {
            data: &data[layout.start_offset().min(data.len())..],
            channels: dims[lead - 1],
            batch,
            strides,
        }
    }

    /// The same planes, each with all its cells in one row, if they are equally far apart.
    pub fn in_one_row(self, sizes: [usize; 3]) -> Option<Self> {
        let mut cells = 1;
        let mut step = None;
        for (size, stride) in sizes.into_iter().zip(&self.strides[2..]).rev() {
            if size > 1 {
                let step = *step.get_or_insert(*stride);
                if *stride != cells * step {
                    return None;
                }
                cells *= size;
            }
        }
        let [batch, channel, ..] = self.strides;
        Some(Self {
            strides: [batch, channel, 0, 0, step.unwrap_or(1)],
            ..self
        })
    }

    /// Batch times channels.
    pub fn planes(&self) -> usize {
        self.batch * self.channels
    }

    fn origin(&self, plane: usize) -> usize {
        plane / self.channels * self.strides[0] + plane % self.channels * self.strides[1]
    }

    /// Where the first cell of an area of a plane lies.
    fn first(&self, plane: usize, area: &Area) -> usize {
        self.origin(plane) + self.inside(area.first())
    }

    /// From the first cell of a plane to this one.
    fn inside(&self, at: [usize; 3]) -> usize {
        at.iter().zip(&self.strides[2..]).map(|(i, s)| i * s).sum()
    }

    /// The cells of a plane, by depth, row and column.
    pub fn cell(&self, plane: usize, at: [usize; 3]) -> &'a T {
        &self.data[self.origin(plane) + self.inside(at)]
    }

    /// The cells of an area of a plane, in row-major order.
    pub fn cells(&self, plane: usize, area: &Area) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let [_, _, of_depth, of_row, step] = self.strides;
        let cells = &self.data[self.origin(plane)..];
        area.all()
            .map(move |[d, h, w]| &cells[d * of_depth + h * of_row + w * step])
    }
}

/// Cells that vectors may read from the start of a row of so many.
fn reach(columns: usize) -> usize {
    columns.next_multiple_of(MOST_LANES).max(REACH)
}

/// Space for cells that are not where the kernels could read them.
#[derive(Default)]
pub struct Gathered<T: Element> {
    cells: Vec<T>,
    widened: Aligned<T::Compute>,
    /// The plane and the area whose cells those are, if they are to be used again.
    widened_of: Option<(usize, Area)>,
    /// Planes one after the other: those that are to lie abreast, or that have one row each.
    lines: Aligned<T::Compute>,
    /// An area of planes that lay abreast, plane after plane, and the first of them.
    turned: Aligned<T::Compute>,
    turned_of: Option<(usize, Area)>,
}

impl<T: Element> Gathered<T> {
    /// What an earlier call has left may be another tensor's.
    pub fn forget(&mut self) {
        self.widened_of = None;
        self.turned_of = None;
    }
}

impl<'a, T: Element> View<'a, T> {
    /// An area of a plane in the dtype of the arithmetic: in place if it can be read there, else in `gathered`.
    pub fn patch<'b>(
        &self,
        arch: Arch,
        plane: usize,
        area: &Area,
        gathered: &'b mut Gathered<T>,
    ) -> Patch<'b, T::Compute>
    where
        'a: 'b,
    {
        let [_, _, depth, row, column] = self.strides;
        let cells = &self.data[self.first(plane, area)..];
        let sizes = area.sizes();
        let [depths, rows, columns] = sizes;
        let last = (depths - 1) * depth + (rows - 1) * row;
        if column == 1 && last + reach(columns) <= cells.len() {
            if let Some(cells) = T::computed(cells) {
                return Patch {
                    cells,
                    steps: [depth, row],
                    across: 1,
                    sizes,
                };
            }
        }
        let Gathered {
            cells: strided,
            widened,
            widened_of,
            ..
        } = gathered;
        if !is_of(widened_of, plane, area) {
            widened.grow(area.cells() + REACH);
            self.widen(arch, plane, area, strided, &mut widened[..area.cells()]);
            *widened_of = Some((plane, area.clone()));
        }
        let of_depth = rows * columns;
        Patch {
            cells: widened,
            steps: [of_depth, columns],
            across: 1,
            sizes,
        }
    }
}

impl<'a, T: Element> View<'a, T> {
    /// The cells of an area of a plane, row after row.
    fn widen(
        &self,
        arch: Arch,
        plane: usize,
        area: &Area,
        strided: &mut Vec<T>,
        to: &mut [T::Compute],
    ) {
        let [_, _, depth, row, column] = self.strides;
        let [_, rows, columns] = area.sizes();
        let first = self.origin(plane) + area.rows.start * row + area.columns.start * column;
        let of_depth = rows * columns;
        for (d, to) in area.depths.clone().zip(to.chunks_exact_mut(of_depth)) {
            let cells = &self.data[first + d * depth..];
            match T::computed(cells) {
                // Columns lie side by side in place of rows.
                Some(cells) if row == 1 && column != 1 => arch.run(Turn {
                    cells,
                    step: column,
                    rows: columns,
                    columns: rows,
                    to,
                    pitch: columns,
                }),
                _ if column != 1 => {
                    strided.resize(of_depth, T::default());
                    gather(cells, [row, column], [rows, columns], strided);
                    arch.run(Widen { cells: strided, to });
                }
                _ if row == columns || rows == 1 => {
                    let cells = &cells[..to.len()];
                    arch.run(Widen { cells, to });
                }
                _ => {
                    for (h, to) in to.chunks_exact_mut(columns).enumerate() {
                        let cells = &cells[h * row..h * row + columns];
                        arch.run(Widen { cells, to });
                    }
                }
            }
        }
    }

    /// An area of a plane out of [`ABREAST`] that lie abreast: all are turned at once and kept for the next call, since
    /// one by one each would read the same lines of the cache.
    pub fn patch_turned<'b>(
        &self,
        arch: Arch,
        plane: usize,
        area: &Area,
        gathered: &'b mut Gathered<T>,
    ) -> Patch<'b, T::Compute> {
        let count = area.cells();
        let Gathered {
            widened,
            widened_of,
            turned,
            turned_of,
            ..
        } = gathered;
        let first = plane / ABREAST * ABREAST;
        if !is_of(turned_of, first, area) {
            *widened_of = None;
            turned.grow(count * ABREAST + REACH);
            widened.grow(count * ABREAST);
            self.widen_abreast(arch, first, area, widened);
            arch.run(Turn {
                cells: widened,
                step: ABREAST,
                rows: count,
                columns: ABREAST,
                to: turned,
                pitch: count,
            });
            *turned_of = Some((first, area.clone()));
        }
        Patch {
            cells: &turned[(plane - first) * count..],
            steps: [area.rows.len() * area.columns.len(), area.columns.len()],
            across: 1,
            sizes: area.sizes(),
        }
    }

    /// Whether a cell of each of [`ABREAST`] planes lie side by side, from the first plane on and every so many.
    pub fn is_abreast(&self) -> bool {
        self.strides[1] == 1 && self.channels.is_multiple_of(ABREAST)
    }

    /// An area of at most [`ABREAST`] planes, a cell of each side by side; zeros where there are fewer.
    pub fn patch_abreast<'b>(
        &self,
        arch: Arch,
        planes: Range<usize>,
        area: &Area,
        gathered: &'b mut Gathered<T>,
    ) -> Patch<'b, T::Compute> {
        let [depths, rows, columns] = area.sizes();
        let Gathered {
            cells,
            widened,
            widened_of,
            lines,
            ..
        } = gathered;
        let stretch = self.stretch(area);
        let (count, [of_depth, of_row]) = match stretch {
            Some(stretch) => (stretch, [self.strides[2], self.strides[3]]),
            None => (area.cells(), [rows * columns, columns]),
        };
        if !is_of(widened_of, planes.start, area) {
            *widened_of = Some((planes.start, area.clone()));
            widened.grow(count * ABREAST + REACH);
            match (self.is_abreast(), stretch) {
                (true, _) => self.widen_abreast(arch, planes.start, area, widened),
                (_, Some(stretch)) if self.turn(arch, planes.clone(), area, stretch, widened) => {}
                _ => {
                    // Plane after plane, and then turned.
                    lines.grow(count * ABREAST);
                    lines[planes.len() * count..ABREAST * count].fill(T::Compute::default());
                    for (plane, to) in planes.zip(lines.chunks_exact_mut(count)) {
                        match stretch {
                            Some(stretch) => {
                                let cells = &self.data[self.first(plane, area)..][..stretch];
                                arch.run(Widen { cells, to });
                            }
                            None => self.widen(arch, plane, area, cells, to),
                        }
                    }
                    arch.run(Turn {
                        cells: lines,
                        step: count,
                        rows: ABREAST,
                        columns: count,
                        to: widened,
                        pitch: ABREAST,
                    });
                }
            }
        }
        Patch {
            cells: widened,
            steps: [of_depth * ABREAST, of_row * ABREAST],
            across: ABREAST,
            sizes: [depths, rows, columns * ABREAST],
        }
    }

    /// The same planes, without a gap between rows.
    pub fn planes_abreast<'b>(
        &self,
        arch: Arch,
        planes: Range<usize>,
        area: &Area,
        gathered: &'b mut Gathered<T>,
    ) -> Planes<'b, T::Compute> {
        let Patch { steps, sizes, .. } = self.patch_abreast(arch, planes, area, gathered);
        let [depths, rows, columns] = sizes;
        for (depth, row) in (0..depths).flat_map(|d| (0..rows).map(move |row| (d, row))) {
            let from = depth * steps[0] + row * steps[1];
            let to = (depth * rows + row) * columns;
            if from != to {
                gathered.widened.copy_within(from..from + columns, to);
            }
        }
        gathered.widened_of = None;
        Planes {
            cells: &gathered.widened,
            pitch: 1,
        }
    }

    /// How many cells lie from the first of an area to the last, those between its rows included, if columns lie side by
    /// side and half of these cells or more are the area's: then the others are sooner turned with them than left out.
    fn stretch(&self, area: &Area) -> Option<usize> {
        let [_, _, depth, row, column] = self.strides;
        let [depths, rows, columns] = area.sizes();
        let of_depth = (rows - 1) * row + columns;
        // Each row lies behind those before it, which broadcast and permuted ones do not.
        let in_order = (rows == 1 || row >= columns) && (depths == 1 || depth >= of_depth);
        let stretch = (depths - 1) * depth + of_depth;
        let side_by_side = column == 1 && !self.is_abreast();
        (side_by_side && in_order && stretch <= 2 * area.cells()).then_some(stretch)
    }

    /// Turns a stretch of [`ABREAST`] planes from where it lies; returns whether it did, for which the planes must be so
    /// many, equally far apart, and of the dtype of the arithmetic.
    fn turn(
        &self,
        arch: Arch,
        planes: Range<usize>,
        area: &Area,
        stretch: usize,
        to: &mut [T::Compute],
    ) -> bool {
        let cells = T::computed(&self.data[self.first(planes.start, area)..]);
        let (Some(cells), Some(step), ABREAST) = (cells, self.pitch(), planes.len()) else {
            return false;
        };
        arch.run(Turn {
            cells,
            step,
            rows: ABREAST,
            columns: stretch,
            to,
            pitch: ABREAST,
        });
        true
    }

    /// From each plane to the next, if it is as far from all.
    fn pitch(&self) -> Option<usize> {
        let [batch, channel, ..] = self.strides;
        match (self.batch, self.channels) {
            (_, 1) => Some(batch),
            (1, _) => Some(channel),
            (_, channels) => (batch == channels * channel).then_some(channel),
        }
    }

    /// Some planes of one row each, its cells side by side: in place if they can be read there, else in `gathered`.
    pub fn planes_of_one_row<'b>(
        &self,
        arch: Arch,
        planes: Range<usize>,
        area: &Area,
        gathered: &'b mut Gathered<T>,
    ) -> Planes<'b, T::Compute>
    where
        'a: 'b,
    {
        let cells = &self.data[self.first(planes.start, area)..];
        let pitch = self.pitch().filter(|_| self.strides[4] == 1);
        if let (Some(cells), Some(pitch)) = (T::computed(cells), pitch) {
            return Planes { cells, pitch };
        }
        let Gathered {
            cells: strided,
            lines,
            ..
        } = gathered;
        let count = area.cells();
        lines.grow(planes.len() * count);
        if pitch == Some(count) {
            let to = &mut lines[..planes.len() * count];
            let cells = &cells[..to.len()];
            arch.run(Widen { cells, to });
        } else {
            for (plane, to) in planes.zip(lines.chunks_exact_mut(count)) {
                self.widen(arch, plane, area, strided, to);
            }
        }
        Planes {
            cells: lines,
            pitch: count,
        }
    }

    /// An area of [`ABREAST`] planes where it lies, if it can be read there.
    pub fn patch_abreast_in_place(
        &self,
        plane: usize,
        area: &Area,
    ) -> Option<Patch<'a, T::Compute>> {
        let [_, _, depth, row, column] = self.strides;
        let cells = T::computed(&self.data[self.first(plane, area)..])?;
        // Not where columns share their places, as those of a repeated value do.
        let apart = column >= ABREAST;
        (self.is_abreast() && apart).then_some(Patch {
            cells,
            steps: [depth, row],
            across: column,
            sizes: [
                area.depths.len(),
                area.rows.len(),
                area.columns.len() * ABREAST,
            ],
        })
    }

    /// The cells of an area of planes that lie abreast.
    fn widen_abreast(&self, arch: Arch, plane: usize, area: &Area, to: &mut [T::Compute]) {
        let [_, _, depth, row, column] = self.strides;
        let first = self.origin(plane) + area.columns.start * column;
        let rows = area
            .depths
            .clone()
            .flat_map(|d| area.rows.clone().map(move |h| (d, h)));
        for ((d, h), to) in rows.zip(to.chunks_exact_mut(area.columns.len() * ABREAST)) {
            let cells = &self.data[first + d * depth + h * row..];
            let step = column;
            arch.run(WidenAbreast { cells, step, to });
        }
    }
}

/// Whether cells are those of this area of a plane.
fn is_of(of: &Option<(usize, Area)>, plane: usize, area: &Area) -> bool {
    matches!(of, Some((its_plane, its_area)) if *its_plane == plane && its_area == area)
}

/// What both have.
pub fn overlap(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// Cells of a square that is gathered at a time, so that its cache lines stay.
const SQUARE: usize = 16;

/// Rows and columns of cells with these steps, one after the other.
fn gather<T: Copy>(cells: &[T], steps: [usize; 2], sizes: [usize; 2], gathered: &mut [T]) {
    let [rows, columns] = sizes;
    for top in (0..rows).step_by(SQUARE) {
        for left in (0..columns).step_by(SQUARE) {
            let end = columns.min(left + SQUARE);
            for row in top..rows.min(top + SQUARE) {
                let cells = &cells[row * steps[0] + left * steps[1]..];
                let to = &mut gathered[row * columns + left..row * columns + end];
                for (i, to) in to.iter_mut().enumerate() {
                    *to = cells[i * steps[1]];
                }
            }
        }
    }
}

impl<'a, T> Patch<'a, T> {
    /// One cell, to be read alone.
    pub fn single(cell: &'a T) -> Self {
        Self {
            cells: std::slice::from_ref(cell),
            steps: [1, 1],
            across: 1,
            sizes: [1, 1, 1],
        }
    }

    /// Where a row begins.
    pub fn at(&self, depth: usize, row: usize) -> usize {
        depth * self.steps[0] + row * self.steps[1]
    }

    /// The cells from this one to the end of the tensor.
    pub fn from(&self, depth: usize, row: usize, column: usize) -> &'a [T] {
        &self.cells[self.at(depth, row) + column..]
    }

    /// The runs of a depth without a gap between cells: how many, and how long.
    pub fn runs(&self) -> (usize, usize) {
        let [_, rows, columns] = self.sizes;
        match self.steps[1] == columns || rows == 1 {
            true => (1, rows * columns),
            false => (rows, columns),
        }
    }

    /// The cells, in row-major order.
    pub fn all(&self) -> impl Iterator<Item = &'a T> + '_ {
        let [depths, rows, columns] = self.sizes;
        (0..depths)
            .flat_map(move |d| (0..rows).flat_map(move |row| &self.from(d, row, 0)[..columns]))
    }
}
