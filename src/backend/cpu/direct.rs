//! Windows that lie side by side, pooled in registers: no line of sums is ever written.
//!
//! All cells of a vector of windows are there at once, so that weights are those of a window's own largest logit: no
//! window that is finite fails to hold, and no pass over the cells looks for a common one.

use super::plan::{ABREAST, COLUMNS, REACH};
use super::rows::Ending;
use super::rule::{Cell, Join, Rule};
use super::vector::{prefetch, InstructionSet, Kernel, Real, Vector};
use super::view::Patch;
use std::mem;

/// The cells of a plane, or of planes abreast, and its windows: none is padded or cut off.
#[derive(Clone, Copy)]
pub struct Direct<'a, C> {
    pub x: Patch<'a, C>,
    pub z: Patch<'a, C>,
    /// Rows and columns of windows.
    pub windows: [usize; 2],
    /// Rows of a window, and from a window to the next.
    pub kernel: usize,
    pub stride: usize,
    /// Planes abreast, or 1.
    pub unit: usize,
}

/// Gradients of the cells of [`Direct`] windows.
pub struct DirectGradients<'a, C> {
    pub of: Direct<'a, C>,
    /// The gradients of the outputs, and outputs: NaN for windows that do not hold. Line after line, and a vector more.
    pub grads: &'a [C],
    pub values: &'a mut [C],
    /// From a depth of gradients to the next, and from a row.
    pub steps: [usize; 2],
    /// Gradients, and those of logits if there are some; [`REACH`] from the first of every row.
    pub to: [&'a mut [C]; 2],
}

/// A line of windows: where their rows begin.
///
/// Made once for all its vectors, since finding these takes as long as pooling some of them.
struct Line<const ROWS: usize> {
    /// The index of the first window.
    first: usize,
    /// In the cells, and in the logits.
    x: [usize; ROWS],
    z: [usize; ROWS],
}

/// A vector of windows of a line: of windows side by side, or of one window in planes abreast.
#[derive(Clone, Copy)]
struct Block {
    /// The first window, and its plane.
    window: usize,
    lane: usize,
    /// How many windows are of the line.
    count: usize,
}

/// Bytes that the cache is to be ahead: rows two by two are no pattern that every processor foresees.
const AHEAD: usize = 4096;

/// The rows of one window after the other, its depths first; those of a vector of windows in two columns.
type Rows<V, const ROWS: usize> = [[V; COLUMNS]; ROWS];

impl<C: Real> Direct<'_, C> {
    /// Rows of a window in all its depths.
    fn rows(&self) -> usize {
        self.kernel * self.x.sizes[0]
    }

    /// Vectors of windows a line.
    fn vectors(&self, lanes: usize) -> usize {
        (self.windows[1] * self.unit).div_ceil(lanes)
    }

    #[inline(always)]
    fn line<const ROWS: usize>(&self, index: usize) -> Line<ROWS> {
        Line {
            first: index * self.windows[1] * self.unit,
            x: self.starts(index, self.x.steps),
            z: self.starts(index, self.z.steps),
        }
    }

    /// The index of the first window of a vector of a line.
    #[inline(always)]
    fn index<const ROWS: usize>(&self, line: &Line<ROWS>, block: Block) -> usize {
        line.first + block.window * self.unit + block.lane
    }

    /// Where the rows of a line of windows begin, in cells or in gradients: `steps` are from a depth to the next, and from a
    /// row.
    #[inline(always)]
    fn starts<const ROWS: usize>(&self, line: usize, steps: [usize; 2]) -> [usize; ROWS] {
        let depths = self.x.sizes[0];
        let mut starts = [0; ROWS];
        for (row, start) in starts.iter_mut().enumerate() {
            let (depth, row) = (row % depths, line * self.stride + row / depths);
            *start = depth * steps[0] + row * steps[1];
        }
        starts
    }

    #[inline(always)]
    fn block(&self, vector: usize, lanes: usize) -> Block {
        let at = vector * lanes;
        if self.unit > 1 {
            return Block {
                window: at / ABREAST,
                lane: at % ABREAST,
                count: lanes,
            };
        }
        let columns = self.windows[1];
        Block {
            // The last vector reaches back over windows of the one before, if there is one.
            window: at.min(columns.saturating_sub(lanes)),
            lane: 0,
            count: lanes.min(columns),
        }
    }

    fn assert_inside(&self) {
        let [depths, rows, columns] = self.x.sizes;
        let [lines, windows] = self.windows;
        assert!(depths > 0 && lines > 0 && self.kernel > 0 && windows > 0);
        assert!((lines - 1) * self.stride + self.kernel <= rows);
        assert!(windows * COLUMNS * self.unit <= columns);
        for patch in [&self.x, &self.z] {
            let reach = match self.unit {
                1 => columns.max(REACH),
                unit => {
                    assert!(unit == ABREAST && patch.across >= unit);
                    (windows * COLUMNS - 1) * patch.across + unit
                }
            };
            assert!(patch.at(depths - 1, rows - 1) + reach <= patch.cells.len());
        }
    }

    /// The cells of a vector of windows in the columns of a window, from where the rows of their line begin.
    ///
    /// # Safety
    ///
    /// [`Direct::assert_inside`], and the windows are there.
    #[inline(always)]
    unsafe fn load<V: Vector<Real = C>, const ROWS: usize>(
        &self,
        patch: &Patch<'_, C>,
        starts: &[usize; ROWS],
        block: Block,
    ) -> Rows<V, ROWS> {
        let mut cells = [[V::zero(); COLUMNS]; ROWS];
        let (mut across, mut skip) = (V::LANES, block.window * COLUMNS);
        if self.unit > 1 {
            across = patch.across;
            skip = skip * across + block.lane;
        }
        for (cells, start) in cells.iter_mut().zip(starts) {
            for (column, cells) in cells.iter_mut().enumerate() {
                let at = start + skip + column * across;
                prefetch(patch.cells, at + AHEAD / mem::size_of::<C>());
                // SAFETY: the caller's.
                *cells = V::load(unsafe { patch.cells.get_unchecked(at..at + V::LANES) });
            }
            if self.unit == 1 {
                *cells = V::split(*cells);
            }
        }
        cells
    }
}

/// The cells of a vector of windows and what they add to its sums.
struct Pooled<V, const ROWS: usize> {
    depths: usize,
    x: Rows<V, ROWS>,
    z: Rows<V, ROWS>,
    /// The largest logits.
    shift: V,
    /// The first sums of the cells, which are their weights.
    weights: Rows<V, ROWS>,
    sums: [V; 2],
}

impl<V: Vector, const ROWS: usize> Pooled<V, ROWS> {
    /// # Safety
    ///
    /// As for [`Direct::load`].
    #[inline(always)]
    unsafe fn new<R: Rule>(
        rule: R,
        of: &Direct<'_, V::Real>,
        line: &Line<ROWS>,
        block: Block,
    ) -> Self {
        // SAFETY: the caller's.
        let x = unsafe { of.load::<V, ROWS>(&of.x, &line.x, block) };
        let z = match R::LOGITS {
            // SAFETY: the caller's.
            true => unsafe { of.load::<V, ROWS>(&of.z, &line.z, block) },
            false => x,
        };
        let mut shift = V::zero();
        if R::SHIFTED {
            shift = rule.logit(x[0][0], z[0][0]);
            for (x, z) in x.iter().zip(&z) {
                for (&x, &z) in x.iter().zip(z) {
                    shift = rule.logit(x, z).max(shift);
                }
            }
        }
        let mut pooled = Self {
            depths: of.x.sizes[0],
            x,
            z,
            shift,
            weights: x,
            sums: [V::zero(); 2],
        };
        for column in 0..COLUMNS {
            let mut of_column = pooled.lift(rule, 0, column);
            for row in 1..ROWS {
                of_column = R::Join::join(of_column, pooled.lift(rule, row, column));
            }
            pooled.sums = match column {
                0 => of_column,
                _ => R::Join::join(pooled.sums, of_column),
            };
        }
        pooled
    }

    #[inline(always)]
    fn cell<R: Rule>(&self, row: usize, column: usize) -> Cell<V> {
        Cell {
            x: self.x[row][column],
            z: self.z[row][column],
            shift: self.shift,
            place: match R::PLACES {
                true => V::splat(V::Real::from_f64(self.place(row, column) as f64)),
                false => V::zero(),
            },
        }
    }

    /// The index of a cell in its window, in row-major order.
    fn place(&self, row: usize, column: usize) -> usize {
        let (depth, row) = (row % self.depths, row / self.depths);
        (depth * (ROWS / self.depths) + row) * COLUMNS + column
    }

    #[inline(always)]
    fn lift<R: Rule>(&mut self, rule: R, row: usize, column: usize) -> [V; 2] {
        let lifted = rule.lift(self.cell::<R>(row, column));
        self.weights[row][column] = lifted[0];
        lifted
    }
}

/// [`Direct`] by a rule, to this ending.
pub struct DirectBy<'a, C, R, E>(pub Direct<'a, C>, pub R, pub E);

impl<C: Real, R: Rule, E: Ending<C>> Kernel for DirectBy<'_, C, R, E> {
    type Output = E;

    #[inline(always)]
    fn run<I: InstructionSet>(mut self) -> E {
        self.0.assert_inside();
        match self.0.rows() {
            1 => self.windows::<C::Vector<I>, 1>(),
            2 => self.windows::<C::Vector<I>, 2>(),
            4 => self.windows::<C::Vector<I>, 4>(),
            rows => unreachable!("no plan has windows of {rows} rows in registers"),
        }
        self.2
    }
}

impl<C: Real, R: Rule, E: Ending<C>> DirectBy<'_, C, R, E> {
    #[inline(always)]
    fn windows<V: Vector<Real = C>, const ROWS: usize>(&mut self) {
        let Self(direct, rule, ending) = self;
        for index in 0..direct.windows[0] {
            let line = direct.line::<ROWS>(index);
            for vector in 0..direct.vectors(V::LANES) {
                let block = direct.block(vector, V::LANES);
                // SAFETY: asserted in `run`.
                let pooled = unsafe { Pooled::<V, ROWS>::new(*rule, direct, &line, block) };
                ending.take(direct.index(&line, block), pooled.sums, block.count);
            }
        }
    }
}

/// [`DirectGradients`] by a rule.
pub struct DirectGradientsBy<'a, C, R>(pub DirectGradients<'a, C>, pub R);

impl<C: Real, R: Rule> Kernel for DirectGradientsBy<'_, C, R> {
    type Output = bool;

    #[inline(always)]
    fn run<I: InstructionSet>(mut self) -> bool {
        self.0.of.assert_inside();
        match self.0.of.rows() {
            1 => self.windows::<C::Vector<I>, 1>(),
            2 => self.windows::<C::Vector<I>, 2>(),
            4 => self.windows::<C::Vector<I>, 4>(),
            rows => unreachable!("no plan has windows of {rows} rows in registers"),
        }
    }
}

impl<C: Real, R: Rule> DirectGradientsBy<'_, C, R> {
    #[inline(always)]
    fn windows<V: Vector<Real = C>, const ROWS: usize>(&mut self) -> bool {
        let Self(
            DirectGradients {
                of: direct,
                grads,
                values,
                steps,
                to: [of_x, of_z],
            },
            rule,
        ) = self;
        let (zero, nan) = (V::zero(), V::splat(C::NAN));
        let mut all = true;
        for index in 0..direct.windows[0] {
            let starts: [usize; ROWS] = direct.starts(index, *steps);
            let line = direct.line::<ROWS>(index);
            for vector in 0..direct.vectors(V::LANES) {
                let block = direct.block(vector, V::LANES);
                // SAFETY: asserted in `run`.
                let pooled = unsafe { Pooled::<V, ROWS>::new(*rule, direct, &line, block) };
                let at = direct.index(&line, block);
                let (y, holds, mut terms) = terms(*rule, pooled.sums, V::load(&grads[at..]));
                all &= V::all_below(holds, block.count);
                V::select(holds, y, nan).store(&mut values[at..]);
                // What is no window's gets no gradient.
                let given = V::and(holds, V::below(block.count));
                for term in terms.iter_mut().take(R::TERMS) {
                    *term = V::select(given, *term, zero);
                }
                let skip = block.window * COLUMNS * direct.unit + block.lane;
                for (row, start) in starts.iter().enumerate() {
                    let (mut dx, mut dz) = ([zero; COLUMNS], [zero; COLUMNS]);
                    for column in 0..COLUMNS {
                        let weight = pooled.weights[row][column];
                        let of_cell = rule.gradient(pooled.cell::<R>(row, column), weight, terms);
                        [dx[column], dz[column]] = of_cell;
                    }
                    store(direct.unit, dx, &mut of_x[start + skip..]);
                    if R::LOGITS {
                        store(direct.unit, dz, &mut of_z[start + skip..]);
                    }
                }
            }
        }
        all
    }
}

/// The inverse of [`Direct::load`], of a row.
#[inline(always)]
fn store<V: Vector>(unit: usize, mut columns: [V; COLUMNS], to: &mut [V::Real]) {
    let mut across = unit;
    if unit == 1 {
        columns = V::interleave(columns);
        across = V::LANES;
    }
    for (column, cells) in columns.into_iter().enumerate() {
        cells.store(&mut to[column * across..]);
    }
}

/// The outputs of windows, which of them hold, and their terms.
#[inline(always)]
pub fn terms<V: Vector, R: Rule>(rule: R, sums: [V; 2], g: V) -> (V, V::Mask, [V; 2]) {
    let most = V::splat(V::Real::MOST_TERM);
    let y = rule.finish(sums);
    let [a, b] = rule.terms(sums, y, g);
    let mut holds = V::and(rule.holds(sums, y), most.greater(a.abs()));
    if R::TERMS == 2 {
        holds = V::and(holds, most.greater(b.abs()));
    }
    (y, holds, [a, b])
}
