//! A band of window rows whose activations share one shift, so that each is exponentiated once however many windows
//! hold it; the sums go down the columns first, then along the rows.
//!
//! The shift is the largest of a [`sample`] of the activations; where weights far above it overflow, or far below it
//! underflow, the largest of all. Windows far below that lose their weights, too: [`Band::sums_hold`] tells, and
//! [`super::block`] then takes each by its own largest activation.

use super::aligned::Aligned;
use super::along::{hold, SumRows};
use super::down::{clear, finite_or_zero, Exponentiate, Flat, WeighColumns, Windows, Work};
use super::element::Element;
use super::groups::{Group, SumGroups};
use super::lanes::Lanes;
use super::simd::{all_finite, Real};
use super::sums::{sum, GROUP};
use super::view::{Plane, View};
use super::weigh::{exponentiate, largest, sample, Ahead, Factor, Rows};
use crate::geometry::{Axis, Geometry};
use pulp::Simd;
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// The sums of a band's windows, and the space to make them in; reused from band to band.
#[derive(Default)]
pub struct Band<T: Element> {
    pub gathered: Vec<T>,
    pub widened: Vec<T::Compute>,
    /// Activations of several depths, where they cannot be read in place.
    pub stacked: Vec<T::Compute>,
    /// The same, not widened.
    pub bare: Vec<T>,
    /// `e = exp(β·(x − shift))` and `e` times [`Factor`] of the activations, plane after plane, row after row.
    pub cells: [Aligned<T::Compute>; 2],
    /// Their sums down the windows' columns.
    pub columns: [Aligned<T::Compute>; 2],
    /// The same, split into phases.
    pub phases: [Aligned<T::Compute>; 2],
    /// The ends of rows of activations, a vector each.
    pub tail: Aligned<T::Compute>,
    /// The same, not widened.
    pub bare_tail: Aligned<T>,
    /// The latter of rows' ends.
    pub rows: [Rows; 2],
    pub group: [Group; 2],
    /// `Σe` of each window.
    pub total: Aligned<T::Compute>,
    /// The mean of [`Factor`] in each window, weighted by `e`.
    pub output: Aligned<T::Compute>,
    /// Whether the sums of all windows hold.
    pub all_hold: bool,
    pub area: Area,
    /// Whether the shift of a plane is the largest of all its activations, not of a [`sample`].
    pub exact: Vec<bool>,
    /// Where the cells of a sum lie.
    pub taps: Vec<usize>,
    /// Lanes from a row to the next.
    pub pitch: usize,
    /// Rows of a plane, and from a row of windows to the next: the rows between hold no windows.
    height: usize,
    step: usize,
}

/// Where the activations of a band lie.
#[derive(Clone, Default)]
pub struct Area {
    pub depths: Range<usize>,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// Padded cells before a row of activations.
    pub left: usize,
    /// Cells of a row with its padding, whole strides.
    pub padded: usize,
}

/// The sizes of a band.
pub struct Shape {
    /// Activations: rows of a plane, and cells of a row.
    pub height: usize,
    pub width: usize,
    /// Rows of windows of a plane.
    pub rows: usize,
    /// Padded cells before a row of activations.
    pub left: usize,
    /// Cells of a row with its padding, whole strides.
    pub padded: usize,
}

/// Cells of a band, in activations: what stays in a core's nearest cache with its sums.
const BAND_CELLS: usize = 1 << 11;

/// Windows to a row of a band.
const BAND_COLUMNS: usize = 1024;

/// Where windows lie further apart, bands would weigh too many cells that are in none.
pub const LARGEST_STRIDE: usize = 64;

/// The bands that a tile is cut into: planes, rows of windows and columns of windows at a time.
pub fn sizes(geometry: &Geometry) -> [usize; 3] {
    let [depth, height, width] = geometry.axes;
    let columns = (4 * BAND_CELLS / width.stride.min(LARGEST_STRIDE))
        .min(BAND_COLUMNS)
        .min(width.output);
    let cells = (columns * width.stride + width.kernel).min(width.input);
    let in_rows = (BAND_CELLS / cells).max(1) / depth.kernel.min(depth.input);
    // Rows above and below that other bands exponentiate again must stay few.
    let rows = (in_rows.saturating_sub(height.kernel) / height.stride + 1)
        .max(height.kernel.min(height.input).div_ceil(height.stride) * 2)
        .min(height.output);
    let planes = (BAND_CELLS / (cells * height.input * depth.kernel.min(depth.input))).max(1);
    [planes, rows, columns]
}

/// Whether bands serve these windows.
pub fn covers(geometry: &Geometry) -> bool {
    let [d, h, w] = geometry.axes;
    let width = w.input.min(2 * BAND_COLUMNS);
    let groups = || (h.kernel - 1) / h.stride;
    ![d, h, w].iter().any(|axis| axis.adaptive)
        && w.kernel <= BAND_COLUMNS
        && (w.stride <= LARGEST_STRIDE || w.output == 1)
        && d.kernel.min(d.input) * h.kernel.min(h.input) * width <= 1 << 16
        && groups().saturating_mul(width) <= 1 << 16
}

impl<T: Element> Band<T> {
    /// The sums and outputs of the windows in `planes`, at depth `d`, in `rows` and `columns`; false if an activation
    /// is not finite, but for [`Factor::Activation`], whose sums tell.
    #[inline(always)]
    pub fn pool<S: Simd>(
        &mut self,
        simd: S,
        (input, geometry): (View<'_, T>, &Geometry),
        (beta, factor): (f64, Factor),
        planes: &Range<usize>,
        (d, rows, columns): (usize, &Range<usize>, &Range<usize>),
    ) -> bool {
        let [_, height, width] = &geometry.axes;
        let lanes = Lanes::new(*width);
        let cells = Cells::of(geometry, factor, (d, rows, columns));
        // Sets with shorter vectors have too few of them: sums would go to memory and back.
        let vector = T::Compute::lanes::<S>() * size_of::<T::Compute>();
        let way = match cells.way {
            Way::Grouped if vector < 64 => Way::Kept,
            way => way,
        };
        let first = columns.start * width.stride;
        let left = width.padding.saturating_sub(first);
        let needed = (columns.len() - 1) * width.stride + width.kernel;
        let shape = Shape {
            height: cells.rows.len(),
            width: cells.columns.len(),
            rows: match way {
                Way::Flat => cells.rows.len(),
                _ => rows.len(),
            },
            left,
            padded: (left + cells.columns.len())
                .max(needed)
                .next_multiple_of(width.stride),
        };
        self.pitch = shape.padded / width.stride;
        self.height = shape.rows;
        self.step = match way {
            Way::Flat => height.stride,
            _ => 1,
        };
        self.area = Area {
            depths: cells.depths.clone(),
            rows: cells.rows.clone(),
            columns: cells.columns.clone(),
            left,
            padded: shape.padded,
        };
        let slack = (GROUP + lanes.extra) * width.stride.max(2);
        let padded = planes.len() * shape.rows * shape.padded;
        for sums in &mut self.columns {
            sums.grow(padded + slack);
        }
        let of_plane = cells.depths.len() * shape.height * shape.width;
        let kept = match way {
            Way::Direct => shape.width,
            Way::Flat => planes.len() * of_plane + height.kernel * shape.width,
            Way::Grouped => height.kernel / height.stride * (shape.width + GROUP),
            Way::Kept => planes.len() * of_plane,
        };
        for sums in &mut self.cells {
            sums.grow(kept + slack);
        }
        self.exact.clear();
        self.exact
            .resize(planes.len(), factor != Factor::Activation);
        for first in [true, false] {
            if first && factor != Factor::Activation {
                continue;
            }
            let mut finite = true;
            if way == Way::Flat {
                simd.vectorize(Flat {
                    band: &mut *self,
                    input,
                    planes: planes.clone(),
                    cells: &cells,
                    height,
                    beta,
                    first,
                });
            }
            for (position, plane) in planes.clone().enumerate() {
                let plane = input.plane(plane);
                let few = first || !self.exact[position];
                let windows = Windows {
                    shape: &shape,
                    cells: &cells,
                    height: *height,
                    rows,
                    position,
                };
                let work = Work {
                    band: &mut *self,
                    plane,
                    windows,
                    beta,
                    few,
                };
                match way {
                    Way::Flat => break,
                    Way::Direct => simd.vectorize(WeighColumns { work }),
                    Way::Grouped => simd.vectorize(SumGroups { work }),
                    Way::Kept => {
                        let start = position * of_plane;
                        let how = (beta, factor, few);
                        finite &= match factor {
                            Factor::Activation => simd.vectorize(Exponentiate {
                                band: &mut *self,
                                plane,
                                cells: &cells,
                                how: (beta, few),
                                start,
                            }),
                            _ => self.exponentiate(simd, plane, &cells, how, start),
                        };
                        self.sum_columns(simd, windows, factor);
                    }
                }
            }
            if !finite {
                continue;
            }
            // Functions of their own, so that unoptimised builds need no large stack.
            simd.vectorize(SumRows {
                band: self,
                lanes: &lanes,
                factor,
                windows: padded / width.stride,
                used: [planes.len(), rows.len(), columns.len()],
            });
            if self.all_hold || !first {
                return true;
            }
            self.doubt(rows.len(), columns.len());
        }
        false
    }

    /// Has the largest activation of all sought for planes whose windows do not hold; for no others, so that what a
    /// plane gives depends on itself alone.
    #[cold]
    fn doubt(&mut self, rows: usize, columns: usize) {
        for plane in 0..self.exact.len() {
            self.exact[plane] = !(0..rows)
                .map(|row| self.lanes(plane, row, columns))
                .all(|lanes| hold(&self.total[lanes.clone()], &self.output[lanes]));
        }
    }

    /// Those of a row of windows, by its plane in the band.
    #[inline(always)]
    pub fn lanes(&self, plane: usize, row: usize, columns: usize) -> Range<usize> {
        let start = (plane * self.height + row * self.step) * self.pitch;
        start..start + columns
    }

    /// Whether the windows of so many rows and columns lie side by side, plane after plane.
    #[inline(always)]
    pub fn is_dense(&self, rows: usize, columns: usize) -> bool {
        (self.height, self.pitch) == (rows, columns)
    }

    /// Fills `cells` from `start` on, shifted by the largest activation, of a [`sample`] if a `few` will do; false if a
    /// cell is not finite, but for [`Factor::Activation`], whose sums tell.
    #[inline(always)]
    pub fn exponentiate<S: Simd>(
        &mut self,
        simd: S,
        plane: Plane<'_, T>,
        cells: &Cells,
        (beta, factor, few): (f64, Factor, bool),
        start: usize,
    ) -> bool {
        let (rows, columns) = (&cells.rows, &cells.columns);
        let of_depth = rows.len() * columns.len();
        let sign = T::Compute::from_f64(1f64.copysign(beta));
        let scale = T::Compute::from_f64(beta * LOG2_E);
        let [es, exs] = &mut self.cells;
        let middle = cells.depths.start + cells.depths.len() / 2;
        let depths = match few {
            true => middle..middle + 1,
            false => cells.depths.clone(),
        };
        let mut shift = T::Compute::NEG_INFINITY;
        for d in depths {
            let cells_of_depth = plane.block(simd, d, rows, columns, &mut self.gathered);
            let x = T::widen(simd, cells_of_depth, &mut self.widened);
            let largest = largest::<S, _, _>(simd, sample(x, few), sign);
            if largest > shift {
                shift = largest;
            }
            if cells.depths.len() == 1 && all_finite(&[shift]) {
                return exponentiate(
                    simd,
                    (x, Ahead::of(cells_of_depth)),
                    (shift * sign, scale, factor),
                    &mut es[start..],
                    &mut exs[start..],
                );
            }
        }
        if !all_finite(&[shift]) && factor != Factor::Activation {
            return false;
        }
        let shift = finite_or_zero(shift) * sign;
        let mut finite = true;
        for (position, d) in cells.depths.clone().enumerate() {
            let cells_of_depth = plane.block(simd, d, rows, columns, &mut self.gathered);
            let x = T::widen(simd, cells_of_depth, &mut self.widened);
            let start = start + position * of_depth;
            finite &= exponentiate(
                simd,
                (x, Ahead::of(cells_of_depth)),
                (shift, scale, factor),
                &mut es[start..],
                &mut exs[start..],
            );
        }
        finite
    }

    /// Sums down the columns of the windows of a plane, the row's padding around them.
    #[inline(always)]
    fn sum_columns<S: Simd>(&mut self, simd: S, windows: Windows<'_>, factor: Factor) {
        let (shape, cells) = (windows.shape, windows.cells);
        let w = shape.width;
        let of_depth = shape.height * w;
        let depths = cells.depths.len();
        let whole = w.next_multiple_of(T::Compute::lanes::<S>());
        for o in windows.rows.clone() {
            let window = windows.height.window(o);
            let taps = window.start - cells.rows.start..window.end - cells.rows.start;
            self.taps.clear();
            let first = windows.position * depths;
            for d in first..first + depths {
                let row = |tap| d * of_depth + tap * w;
                self.taps.extend(taps.clone().map(row));
            }
            let out = windows.start(o);
            for (sums, cells) in self.columns[..factor.sums()].iter_mut().zip(&self.cells) {
                clear(&mut sums[out..out + shape.left]);
                let sums = &mut sums[out + shape.left..];
                sum::<S, _>(simd, cells, &self.taps, &mut sums[..whole]);
                clear(&mut sums[w..shape.padded - shape.left]);
            }
        }
    }

    /// Whether the windows whose lanes these are kept all weights that count, and are finite.
    #[inline(always)]
    pub fn sums_hold(&self, lanes: Range<usize>) -> bool {
        self.all_hold || hold(&self.total[lanes.clone()], &self.output[lanes])
    }
}

/// The activations of a band.
pub struct Cells {
    pub depths: Range<usize>,
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    pub way: Way,
}

/// How the columns of windows are summed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By [`WeighColumns`].
    Direct,
    /// By [`Flat`].
    Flat,
    /// By [`SumGroups`] where there are vectors enough, else as [`Way::Kept`].
    Grouped,
    /// From weights that are kept.
    Kept,
}

/// Whether every window has all of its cells.
fn only_whole(axis: &Axis) -> bool {
    let room = axis.input.checked_sub(axis.kernel);
    axis.padding == 0 && room.is_some_and(|room| (axis.output - 1) * axis.stride <= room)
}

/// Rows up to this many cells are not worth a vector of their own.
const SHORT: usize = 8;

impl Cells {
    /// Those of the windows at depth `d`, in `rows` and `columns`.
    #[inline(always)]
    pub fn of(
        geometry: &Geometry,
        factor: Factor,
        (d, rows, columns): (usize, &Range<usize>, &Range<usize>),
    ) -> Self {
        let [depth, height, width] = &geometry.axes;
        let mut cells = Self {
            depths: depth.window(d),
            rows: height.window(rows.start).start..height.window(rows.end - 1).end,
            columns: Lanes::new(*width).columns(columns),
            way: Way::Kept,
        };
        if factor != Factor::Activation {
            return cells;
        }
        let single = cells.depths.len() == 1;
        let flat = single
            && width.input <= SHORT
            && width.input.is_multiple_of(width.stride)
            && [height, width].iter().all(|axis| only_whole(axis))
            && (rows.len(), columns.len()) == (height.output, width.output);
        if flat {
            cells.rows = 0..height.input;
            cells.columns = 0..width.input;
            cells.way = Way::Flat;
        } else if single && (Rows::cover(height) || rows.len() == 1) {
            cells.way = Way::Direct;
            if cells.columns.start == 0 && width.input - cells.columns.end < width.stride {
                // Whole rows lie side by side, so that nothing is gathered.
                cells.columns.end = width.input;
            }
        } else if !single || height.stride > 1 {
            // Groups of one row save nothing.
            cells.way = Way::Grouped;
        }
        cells
    }
}
