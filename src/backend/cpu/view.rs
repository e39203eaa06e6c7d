//! A tensor's cells with their strides, seen as planes of depth, height and width.

use candle_core::Layout;
use std::ops::Range;

/// A strided tensor of shape `(N, C, spatial…)` or `(C, spatial…)`.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    data: &'a [T],
    channels: usize,
    batch: usize,
    /// Of batch, channel, depth, height and width, in elements.
    strides: [usize; 5],
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
        }
    }

    /// Batch times channels.
    pub fn planes(&self) -> usize {
        self.batch * self.channels
    }

    /// The plane at this index of batch and channels.
    pub fn plane(&self, index: usize) -> Plane<'a, T> {
        let offset =
            index / self.channels * self.strides[0] + index % self.channels * self.strides[1];
        Plane {
            data: &self.data[offset..],
            strides: [self.strides[2], self.strides[3], self.strides[4]],
        }
    }
}

/// One plane of a [`View`].
#[derive(Clone, Copy)]
pub struct Plane<'a, T> {
    data: &'a [T],
    /// Of depth, height and width, in elements.
    strides: [usize; 3],
}

impl<'a, T: Copy> Plane<'a, T> {
    /// The cell at a depth, row and column.
    pub fn at(&self, [d, h, w]: [usize; 3]) -> T {
        self.data[d * self.strides[0] + h * self.strides[1] + w * self.strides[2]]
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
        let start = d * self.strides[0] + h * self.strides[1] + columns.start * self.strides[2];
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

    /// The cells of these rows and columns, row after row; `gathered` holds them where they do not lie side by side.
    #[inline(always)]
    pub fn block<'b>(
        &self,
        d: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        gathered: &'b mut Vec<T>,
    ) -> &'b [T]
    where
        'a: 'b,
    {
        let [depth, row, column] = self.strides;
        let (height, width) = (rows.len(), columns.len());
        let start = d * depth + rows.start * row + columns.start * column;
        let side_by_side = |stride, cells, of_cell| cells == 1 || stride == of_cell;
        if side_by_side(column, width, 1) && side_by_side(row, height, width) {
            return &self.data[start..start + height * width];
        }
        gathered.clear();
        for h in 0..height {
            let cells = &self.data[start + h * row..];
            match column {
                0 => gathered.resize(gathered.len() + width, cells[0]),
                1 => gathered.extend_from_slice(&cells[..width]),
                _ => gathered.extend(cells.iter().step_by(column).take(width)),
            }
        }
        gathered
    }
}
