//! How a geometry is pooled: every choice of a method and every size of the engine, in one place.
//!
//! Nothing here depends on threads, layouts or values, so that neither do the bits that come out.

use super::vector::MOST_LANES;
use crate::geometry::{Axis, Geometry};
use std::fmt;
use std::ops::Range;

/// Cells of a band of activations: what stays in a core's nearest cache with its sums.
const BAND_CELLS: usize = 1 << 13;

/// Sums of columns that are made before they are summed along the rows: with planes abreast a band has many more.
const LINE_SUMS: usize = BAND_CELLS;

/// The same where windows slide down the rows, which takes a line for every row of cells as well.
const SLIDING_SUMS: usize = LINE_SUMS / 4;

/// Sums of a line so short that a row costs more than its vectors do.
const SHORT_LINE: usize = SLIDING_SUMS / 4;

/// Sums of cells that are made on the way back before they become gradients.
pub const SPREAD_SUMS: usize = BAND_CELLS / 4;

/// Terms of a cell that are added up without a line of sums of theirs.
pub const FEW_TERMS: usize = 6;

/// Columns of activations of a band, unless one window has more; more of them are cut.
const BAND_COLUMNS: usize = 1 << 14;

/// Cells of a row of windows that is not cut on the way back, however many columns it has, and how many of these windows a
/// cell must have down its column for that. A row of cells pools its windows again, all cells of theirs: the square of that
/// number. Of fewer this is quicker than whole rows, which do not stay in a core's nearest cache.
const SHARED_CELLS: usize = 1 << 20;
const MANY_WINDOWS: usize = 4;

/// Cells that a thread takes at a time, about.
pub const TASK_CELLS: usize = 1 << 14;

/// Cells that one thread is done with sooner than another has woken up.
pub const SERIAL_CELLS: usize = 1 << 15;

/// Cells of planes whose scratch memory threads keep from call to call: more would be much to hold on to.
pub const KEPT_CELLS: usize = 1 << 15;

/// Terms that are added up one after the other; of more, the sums of so many are added up. All in one sum would lose
/// digits: terms that are equal, such as the weights of ReLU's zeros, are all rounded the same way.
/// A row of more depths than this is an exception.
pub const SERIAL_TERMS: usize = 64;

/// How many of so many terms are added up one after the other: about as many as there are such sums, if that is more.
#[inline(always)]
pub fn serial_terms(count: usize) -> usize {
    match count <= SERIAL_TERMS * SERIAL_TERMS {
        true => SERIAL_TERMS,
        false => count.isqrt(),
    }
}

/// Whether windows of so many cells may be pooled [`again`](super::again): those of a vector of larger ones would take
/// much memory, and the sums of their parts be too many to add up one after the other.
pub fn may_be_again(cells: usize) -> bool {
    cells <= SERIAL_TERMS * SERIAL_TERMS
}

/// Cells whose keys in a race of stochastic pooling are held at once: they stay in a core's cache.
pub const RACE_CELLS: usize = 1 << 16;

/// Planes whose cells lie side by side where they are pooled abreast.
pub const ABREAST: usize = MOST_LANES;

/// Columns of windows that are pooled in registers: vectors are split by so many.
pub const COLUMNS: usize = 2;

/// Cells from the start of a row that their vectors may reach.
pub const REACH: usize = COLUMNS * MOST_LANES;

/// Cells of a plane so small that its rows would not fill a vector.
const SMALL_PLANE: usize = 256;
const SMALL_ROW: usize = 16;

/// Whether planes of this geometry are pooled abreast, each in its lane of a vector.
pub fn is_small(geometry: &Geometry) -> bool {
    geometry.input_cells() <= SMALL_PLANE && geometry.axes[2].input <= SMALL_ROW
}

/// Whether every plane is one window with all of its cells and nothing else: enough of them for a vector, and so few that
/// their sums need no others in between. Two lanes, of f64 alone, have twice [`SERIAL_TERMS`] each at most.
pub fn is_whole(geometry: &Geometry) -> bool {
    let all = |axis: &Axis| {
        axis.output == 1 && axis.window(0) == (0..axis.input) && axis.padded_len(0) == axis.input
    };
    (MOST_LANES..=SMALL_PLANE).contains(&geometry.input_cells()) && geometry.axes.iter().all(all)
}

/// Cells of a plane whose rows are so short that they cost more than their vectors do, though they fill some.
const SHORT_PLANE: usize = 1 << 10;
const SHORT_ROW: usize = 32;

/// The way to the outputs, or back to the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// How many planes of this geometry are pooled abreast, or 1, if there are so many.
pub fn unit(geometry: &Geometry, planes: usize, direction: Direction) -> usize {
    // Of 16 lanes no more than one in four idle.
    let enough = 4 * planes >= 3 * planes.next_multiple_of(ABREAST);
    match is_whole(geometry) || is_small(geometry) || enough && is_short(geometry, direction) {
        true => ABREAST,
        false => 1,
    }
}

/// Whether planes of this geometry are sooner pooled abreast than one by one.
fn is_short(geometry: &Geometry, direction: Direction) -> bool {
    let [_, height, width] = &geometry.axes;
    let short = geometry.input_cells() <= SHORT_PLANE && width.input <= SHORT_ROW;
    // Forward, windows that slide down the rows are as quick one by one.
    let slides = height.stride == 1 && direction == Direction::Forward;
    short && width.kernel > width.stride && !slides && may_be_abreast(geometry)
}

/// Whether planes of this geometry may be pooled abreast with the bits that they have one by one.
pub fn may_be_abreast(geometry: &Geometry) -> bool {
    geometry.axes[0].input == 1 && Step::of(&geometry.axes[2]).in_vectors()
}

/// How the windows of a row are made of its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Groups(Grouping),
    /// Windows of various sizes: see [`is_ranged`].
    Ranges,
}

/// A window is `whole` groups of `stride` cells, one after the other, and the first `rest` cells of the next group.
/// Neighbours share all but one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    pub stride: usize,
    pub whole: usize,
    pub rest: usize,
}

/// Whether windows have no step, or are so much larger than the input that their padding is no part of a line, or so far
/// apart that what lies between them is none.
pub fn is_ranged(axis: &Axis) -> bool {
    axis.adaptive || axis.kernel.max(axis.padding) / 2 > axis.input || axis.stride > BAND_COLUMNS
}

impl Step {
    pub fn of(axis: &Axis) -> Self {
        if is_ranged(axis) {
            return Self::Ranges;
        }
        Self::Groups(Grouping {
            stride: axis.stride,
            whole: axis.kernel / axis.stride,
            rest: axis.kernel % axis.stride,
        })
    }
}

/// The largest stride by which vectors are split.
pub const SPLIT: usize = 3;

impl Step {
    /// Whether windows are summed along the rows in registers, a vector of them at a time.
    pub fn in_vectors(self) -> bool {
        matches!(self, Self::Groups(of) if of.stride <= SPLIT)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ranges => write!(f, "ranges"),
            Self::Groups(Grouping {
                stride,
                whole,
                rest,
            }) => write!(f, "{whole}×{stride}+{rest}"),
        }
    }
}

/// How many planes, depths, rows and columns are worked on together: of the output forward, of the input backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub planes: usize,
    pub depths: usize,
    pub rows: usize,
    pub columns: usize,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            planes,
            depths,
            rows,
            columns,
        } = self;
        write!(
            f,
            "bands of {planes} planes, {depths} depths, {rows} rows, {columns} columns"
        )
    }
}

/// The cells of a plane, or its outputs, if they are more, as adaptive ones may be.
pub fn cells(geometry: &Geometry) -> usize {
    geometry.input_cells().max(geometry.output_cells())
}

/// Whole planes that make a band.
fn planes_of_band(geometry: &Geometry) -> usize {
    let planes = (BAND_CELLS / cells(geometry)).max(1);
    match is_small(geometry) {
        true => planes.next_multiple_of(ABREAST),
        false => planes,
    }
}

/// Cells that so many windows of an axis read.
fn read(axis: &Axis, windows: usize) -> usize {
    let cells = match is_ranged(axis) {
        true => (windows.saturating_mul(axis.input) / axis.output).saturating_add(2),
        false => (windows - 1)
            .saturating_mul(axis.stride)
            .saturating_add(axis.kernel),
    };
    cells.min(axis.input)
}

/// The most windows of an axis, at least one, that read no more than so many cells.
fn windows_within(axis: &Axis, cells: usize) -> usize {
    let windows = match is_ranged(axis) {
        true => (cells as u128 * axis.output as u128 / axis.input as u128) as usize,
        false => cells.saturating_sub(axis.kernel) / axis.stride + 1,
    };
    windows.clamp(1, axis.output)
}

/// Whether rows are cut.
fn is_cut(geometry: &Geometry, direction: Direction) -> bool {
    let [depth, height, width] = &geometry.axes;
    let columns = width.input.max(width.output);
    let rows = read(height, 1);
    let shared = (read(depth, 1) * rows).saturating_mul(columns);
    let many = !height.disjoint() && rows / height.stride.max(1) >= MANY_WINDOWS;
    let whole = direction == Direction::Backward && many && shared <= SHARED_CELLS;
    columns > BAND_COLUMNS && !whole
}

impl Plan {
    /// Bands of the output.
    pub fn forward(geometry: &Geometry) -> Self {
        let [depth, height, width] = &geometry.axes;
        let columns = match is_cut(geometry, Direction::Forward) {
            false => width.output,
            // Cells to the left and right that other bands lift again must stay few.
            true => windows_within(width, BAND_COLUMNS)
                .min(BAND_COLUMNS)
                .max(match width.disjoint() || is_ranged(width) {
                    true => 1,
                    false => 2 * width.kernel.min(width.input).div_ceil(width.stride),
                })
                .min(width.output),
        };
        let row = read(width, columns).max(columns) * read(depth, 1);
        let rows = match columns == width.output {
            // Rows above and below that other bands lift again must stay few.
            true => windows_within(height, BAND_CELLS / row)
                .max(
                    2 * height
                        .kernel
                        .min(height.input)
                        .div_ceil(height.stride.max(1)),
                )
                .min(height.output),
            false => 1,
        };
        let whole = rows == height.output && depth.output == 1 && columns == width.output;
        let planes = if whole { planes_of_band(geometry) } else { 1 };
        Self {
            planes,
            depths: 1,
            rows,
            columns,
        }
    }

    /// Bands of the input, whose windows are pooled again.
    pub fn backward(geometry: &Geometry) -> Self {
        let [depth, height, width] = &geometry.axes;
        let columns = match is_cut(geometry, Direction::Backward) {
            false => width.input,
            true => BAND_COLUMNS
                .max(2 * width.kernel.min(width.input))
                .min(width.input),
        };
        let depths = match depth.disjoint() && !is_ranged(depth) {
            true => depth.stride,
            false => 2 * depth.kernel.min(depth.input),
        };
        // Parts of rows of several depths would not lie side by side.
        let depths = match columns == width.input {
            true => depths.min(depth.input),
            false => 1,
        };
        let rows = match columns == width.input {
            true => {
                let least = match height.disjoint() && !is_ranged(height) {
                    true => height.stride,
                    false => 4 * height.kernel.min(height.input),
                };
                let rows = (BAND_CELLS / 2 / (columns * depths))
                    .max(least)
                    .min(height.input);
                // Whole strides, lest windows at the seams are pooled twice.
                rows.next_multiple_of(height.stride.clamp(1, rows))
            }
            false => 1,
        };
        let whole = rows >= height.input && depths == depth.input && columns == width.input;
        let planes = if whole { planes_of_band(geometry) } else { 1 };
        Self {
            planes,
            depths,
            rows: rows.min(height.input),
            columns,
        }
    }
}

impl Plan {
    /// What a thread takes at a time: whole planes of so many depths, rows and columns, as many as are pooled abreast.
    pub fn of_whole_planes(self, [depths, rows, columns]: [usize; 3]) -> Self {
        Self {
            planes: self.planes.next_multiple_of(ABREAST),
            depths,
            rows,
            columns,
        }
    }

    /// What a thread takes at a time: all rows of several depths, which lie apart.
    pub fn of_whole_depths(self, [_, rows, _]: [usize; 3]) -> Self {
        match self.depths > 1 {
            true => Self { rows, ..self },
            false => self,
        }
    }
}

/// How the windows of a band are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// In registers, from the cells to the output: [`direct`](super::direct).
    Direct,
    /// Planes of one window each, from the cells to the output: [`whole`](super::whole).
    Whole,
    /// Down the columns into lines, then along the rows a vector of windows at a time: [`rows::Along`](super::rows::Along).
    Rows,
    /// The same with the windows of a row one by one: [`rows::Apart`](super::rows::Apart).
    Apart,
    /// The same with a plane in each lane.
    Abreast,
}

impl Way {
    /// That of windows of this depth, in these rows and columns.
    pub fn of(geometry: &Geometry, depth: usize, rows: &Span, across: &Span) -> Self {
        // None is padded or cut off.
        let uncut = |span: &Span| {
            let axis = &span.axis;
            let last = axis.window(span.windows.end - 1);
            !is_ranged(axis) && axis.disjoint() && axis.padding == 0 && last.len() == axis.kernel
        };
        let depths = geometry.axes[0].window(depth).len();
        let padded = geometry.axes[0].padded_len(depth) > depths;
        let two_wide = (across.axis.kernel, across.axis.stride) == (COLUMNS, COLUMNS);
        let few = matches!(depths.saturating_mul(rows.axis.kernel), 1 | 2 | 4);
        match Step::of(&across.axis) {
            _ if two_wide && few && uncut(across) && uncut(rows) && !padded => Self::Direct,
            _ if is_whole(geometry) => Self::Whole,
            _ if across.unit > 1 => Self::Abreast,
            step if step.in_vectors() => Self::Rows,
            _ => Self::Apart,
        }
    }
}

/// Whether windows slide down the rows of short lines: each has the rows of the one above it but the first, and one more.
/// All rows are lifted then before any are added up, many lines as one.
pub fn slide(rows: &Span, across: &Span) -> bool {
    let axis = &rows.axis;
    let further = !is_ranged(axis) && axis.stride == 1 && axis.kernel > 1;
    further && across.pitch / across.unit <= SHORT_LINE
}

/// How many lines of windows are summed together: whole vectors of windows, and few enough that their sums of columns stay
/// in a core's nearest cache until they are summed along the rows.
pub fn lines(rows: &Span, across: &Span) -> usize {
    let mut whole = 1;
    while !(whole * across.slots).is_multiple_of(MOST_LANES) {
        whole *= 2;
    }
    let sums = match slide(rows, across) {
        true => SLIDING_SUMS,
        false => LINE_SUMS,
    };
    whole * (sums / (whole * across.pitch)).max(1)
}

/// Windows along one axis that are pooled together, and where their cells lie.
#[derive(Clone, Debug)]
pub struct Span {
    pub axis: Axis,
    pub windows: Range<usize>,
    /// The cells of all of them.
    pub cells: Range<usize>,
    /// Sums of a cell: one, or one of each plane if they lie abreast.
    pub unit: usize,
    /// Sums of padded cells before those.
    pub before: usize,
    /// Sums of padded cells and these, whole strides: from a line of sums to the next.
    pub pitch: usize,
    /// Slots of a line of the windows that it was made of, those between the lines included.
    pub slots: usize,
}

impl Span {
    pub fn new(axis: &Axis, windows: Range<usize>) -> Self {
        let cells = axis.window(windows.start).start..axis.window(windows.end - 1).end;
        if is_ranged(axis) {
            let (pitch, slots) = (cells.len(), windows.len());
            return Self {
                axis: *axis,
                windows,
                cells,
                unit: 1,
                before: 0,
                pitch,
                slots,
            };
        }
        let before = axis.padding.saturating_sub(windows.start * axis.stride);
        let needed = (windows.len() - 1) * axis.stride + axis.kernel;
        let pitch = needed
            .max(before + cells.len())
            .next_multiple_of(axis.stride);
        Self {
            axis: *axis,
            windows,
            cells,
            unit: 1,
            before,
            pitch,
            slots: pitch / axis.stride,
        }
    }

    /// The same for so many planes abreast.
    pub fn times(self, unit: usize) -> Self {
        Self {
            unit,
            before: self.before * unit,
            pitch: self.pitch * unit,
            slots: self.slots * unit,
            ..self
        }
    }

    /// The windows that have one of these cells.
    pub fn touching(axis: &Axis, cells: &Range<usize>) -> Range<usize> {
        axis.windows_of(cells.start).start..axis.windows_of(cells.end - 1).end
    }
}
