//! A tensor's cells with their strides, seen as planes of depth, height and width.

use super::element::Element;
use super::special::SIDE;
use candle_core::Layout;
use pulp::Simd;
use std::ops::Range;

/// A strided tensor of shape `(N, C, spatial…)` or `(C, spatial…)`.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    data: &'a [T],
    channels: usize,
    batch: usize,
    /// Of batch, channel, depth, height and width, in elements.
    strides: [usize; 5],
    /// Elements that a plane has before those of `data`.
    origin: usize,
    /// The index of the first plane.
    first: usize,
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
        Self {
            data: &data[layout.start_offset().min(data.len())..],
            channels: dims[lead - 1],
            batch,
            strides,
            origin: 0,
            first: 0,
        }
    }

    /// Whether the same cells of several planes lie side by side, as with channels last.
    pub fn interleaved(&self) -> bool {
        self.strides[1] == 1 && self.strides[4] > 1 && self.channels > 1
    }

    /// So many planes, this one among the first of them, whose cells lie side by side; there may be too few channels.
    pub fn abreast(&self, plane: usize, count: usize) -> Option<Range<usize>> {
        let channel = plane % self.channels;
        let before = channel - channel.min(self.channels.checked_sub(count)?);
        self.interleaved()
            .then(|| plane - before..plane - before + count)
    }

    /// Channels, if their cells lie side by side.
    pub fn channels_abreast(&self) -> Option<usize> {
        self.interleaved().then_some(self.channels)
    }

    /// Batch times channels.
    pub fn planes(&self) -> usize {
        self.batch * self.channels
    }

    /// The plane at this index of batch and channels.
    pub fn plane(&self, index: usize) -> Plane<'a, T> {
        let index = index - self.first;
        let offset =
            index / self.channels * self.strides[0] + index % self.channels * self.strides[1];
        Plane {
            data: &self.data[offset..],
            strides: [self.strides[2], self.strides[3], self.strides[4]],
            origin: self.origin,
        }
    }
}

/// As many planes of an [interleaved](View::interleaved) view as a cache line has cells of.
pub const TOGETHER: usize = 16;

impl<'a, T: Element> View<'a, T> {
    /// These cells of [`TOGETHER`] planes at most, plane after plane in `cells`, seen where they were.
    #[inline(always)]
    pub fn gather<'b, S: Simd>(
        &self,
        simd: S,
        planes: &Range<usize>,
        [depths, rows, columns]: [&Range<usize>; 3],
        cells: &'b mut Vec<T>,
    ) -> View<'b, T> {
        let [_, _, depth, row, column] = self.strides;
        let strides = [rows.len() * columns.len(), columns.len(), 1];
        let of_plane = depths.len() * strides[0];
        if cells.len() < planes.len() * of_plane {
            cells.resize(planes.len() * of_plane, T::default());
        }
        let mut sources = [&self.data[..0]; TOGETHER];
        for (source, plane) in sources.iter_mut().zip(planes.clone()) {
            *source = self.plane(plane).data;
        }
        let sources = &sources[..planes.len()];
        let first = sources[0].as_ptr();
        let side_by_side = (0..)
            .zip(sources)
            .all(|(p, s)| s.as_ptr() == first.wrapping_add(p));
        for (d, depth) in depths.clone().map(|d| d * depth).enumerate() {
            for (h, row) in rows.clone().map(|h| h * row).enumerate() {
                let to = d * strides[0] + h * strides[1];
                if side_by_side {
                    let cells = (&mut cells[to..], of_plane);
                    let source = &sources[0][depth + row + columns.start * column..];
                    if turn(
                        simd,
                        (source, column),
                        [sources.len(), columns.len()],
                        cells,
                    )
                    .is_some()
                    {
                        continue;
                    }
                }
                // A few cache lines at a time, so that they stay for all planes.
                for first in (0..columns.len()).step_by(TOGETHER) {
                    let count = TOGETHER.min(columns.len() - first);
                    let from = depth + row + (columns.start + first) * column;
                    for (p, source) in sources.iter().enumerate() {
                        let to = p * of_plane + to + first;
                        take(&source[from..], column, &mut cells[to..to + count]);
                    }
                }
            }
        }
        View {
            data: cells,
            channels: planes.len(),
            batch: 1,
            strides: [0, of_plane, strides[0], strides[1], 1],
            origin: depths.start * strides[0] + rows.start * strides[1] + columns.start,
            first: planes.start,
        }
    }
}

/// Columns of cells that lie side by side, `step` cells apart, as rows, `pitch` cells apart, square by square; `None`
/// where there are fewer cells than a square has, or no instructions for it.
#[inline(always)]
fn turn<S: Simd, T: Element>(
    simd: S,
    (cells, step): (&[T], usize),
    [rows, columns]: [usize; 2],
    (turned, pitch): (&mut [T], usize),
) -> Option<()> {
    let last = [rows.checked_sub(SIDE)?, columns.checked_sub(SIDE)?];
    for row in (0..rows).step_by(SIDE).map(|row| row.min(last[0])) {
        for column in (0..columns).step_by(SIDE).map(|column| column.min(last[1])) {
            let from = (&cells[column * step + row..], step);
            T::turn(simd, from, (&mut turned[row * pitch + column..], pitch))?;
        }
    }
    Some(())
}

/// Every `step`th cell.
#[inline(always)]
fn take<T: Copy>(cells: &[T], step: usize, taken: &mut [T]) {
    let cells = &cells[..(taken.len() - 1) * step + 1];
    for (i, taken) in taken.iter_mut().enumerate() {
        *taken = cells[i * step];
    }
}

/// One plane of a [`View`].
#[derive(Clone, Copy)]
pub struct Plane<'a, T> {
    data: &'a [T],
    /// Of depth, height and width, in elements.
    strides: [usize; 3],
    /// Elements before those of `data`.
    origin: usize,
}

impl<'a, T: Element> Plane<'a, T> {
    /// Where the cell at a depth, row and column lies.
    #[inline(always)]
    fn place(&self, [d, h, w]: [usize; 3]) -> usize {
        d * self.strides[0] + h * self.strides[1] + w * self.strides[2] - self.origin
    }

    /// The cell at a depth, row and column.
    pub fn at(&self, at: [usize; 3]) -> T {
        self.data[self.place(at)]
    }

    /// The cells of a row in these columns; `gathered` holds them where they do not lie side by side.
    #[inline(always)]
    pub fn cells<'b>(
        &self,
        d: usize,
        h: usize,
        columns: &Range<usize>,
        gathered: &'b mut Vec<T>,
    ) -> &'b [T]
    where
        'a: 'b,
    {
        let start = self.place([d, h, columns.start]);
        match self.strides[2] {
            1 => &self.data[start..start + columns.len()],
            0 => {
                gathered.clear();
                gathered.resize(columns.len(), self.data[start]);
                gathered
            }
            stride => {
                gathered.clear();
                let cells = self.data[start..].iter().step_by(stride);
                gathered.extend(cells.take(columns.len()));
                gathered
            }
        }
    }

    /// The cells from the first of these to the last, whatever lies between, with the steps from a depth to the next and
    /// from a row; `None` where the cells of a row do not lie side by side.
    #[inline(always)]
    pub fn span(
        &self,
        depths: &Range<usize>,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> Option<(&'a [T], [usize; 2])> {
        let [depth, row, column] = self.strides;
        let first = self.place([depths.start, rows.start, columns.start]);
        let last = self.place([depths.end - 1, rows.end - 1, columns.end - 1]);
        (column == 1).then(|| (&self.data[first..=last], [depth, row]))
    }

    /// The cells from the first of these to the last and `abreast` more behind it, whatever lies between, with the steps
    /// from a row to the next and from a column.
    #[inline(always)]
    pub fn lattice(
        &self,
        d: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        abreast: usize,
    ) -> (&'a [T], [usize; 2]) {
        let [_, row, column] = self.strides;
        let first = self.place([d, rows.start, columns.start]);
        let last = self.place([d, rows.end - 1, columns.end - 1]);
        (&self.data[first..last + abreast], [row, column])
    }

    /// The cells of these rows and columns, row after row; `gathered` holds them where they do not lie side by side.
    #[inline(always)]
    pub fn block<'b, S: Simd>(
        &self,
        simd: S,
        d: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        gathered: &'b mut Vec<T>,
    ) -> &'b [T]
    where
        'a: 'b,
    {
        let [_, row, column] = self.strides;
        let (height, width) = (rows.len(), columns.len());
        let start = self.place([d, rows.start, columns.start]);
        let side_by_side = |stride, cells, of_cell| cells == 1 || stride == of_cell;
        if side_by_side(column, width, 1) && side_by_side(row, height, width) {
            return &self.data[start..start + height * width];
        }
        if row == 1 && column > 1 {
            if gathered.len() < height * width {
                gathered.resize(height * width, T::default());
            }
            let from = (&self.data[start..], column);
            if turn(simd, from, [height, width], (gathered, width)).is_some() {
                return &gathered[..height * width];
            }
        }
        gathered.clear();
        for h in 0..height {
            let cells = &self.data[start + h * row..];
            match column {
                0 => gathered.resize(gathered.len() + width, cells[0]),
                1 => gathered.extend_from_slice(&cells[..width]),
                _ => {
                    gathered.resize((h + 1) * width, T::default());
                    take(cells, column, &mut gathered[h * width..]);
                }
            }
        }
        gathered
    }
}
