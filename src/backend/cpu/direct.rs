//! Windows that lie side by side, pooled in registers: no line of sums is ever written.
//!
//! The bits are those of [`columns`](super::columns) and [`rows`](super::rows): the same sums in the same order.

use super::plan::{COLUMNS, REACH};
use super::rows::{first, Ending};
use super::rule::{Cell, Join, Rule};
use super::vector::{InstructionSet, Kernel, Real, Vector};
use super::view::Patch;

/// The cells of a plane, and its windows: none is padded or cut off.
#[derive(Clone, Copy)]
pub struct Direct<'a, C> {
    pub x: Patch<'a, C>,
    pub z: Patch<'a, C>,
    /// The largest logit.
    pub shift: C,
    /// Rows and columns of windows.
    pub windows: [usize; 2],
    /// Rows of a window, and from a window to the next.
    pub kernel: usize,
    pub stride: usize,
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
    /// Room for the first sums of the cells of a vector of windows.
    pub kept: &'a mut Vec<C>,
}

impl<C: Real> Direct<'_, C> {
    /// The first window of a vector of a line, and how many windows of that line it has.
    #[inline(always)]
    fn vector_at(&self, index: usize, lanes: usize) -> (usize, usize) {
        let columns = self.windows[1];
        let at = index * lanes;
        // The last vector reaches back over windows of the one before, if there is one.
        let start = at.min(columns.saturating_sub(lanes));
        (start, lanes.min(columns))
    }

    fn assert_inside(&self) {
        let [depths, rows, columns] = self.x.sizes;
        let [lines, windows] = self.windows;
        assert!(depths > 0 && lines > 0 && self.kernel > 0 && windows > 0);
        assert!((lines - 1) * self.stride + self.kernel <= rows && windows * COLUMNS <= columns);
        let reach = columns.max(REACH);
        assert!(self.x.at(depths - 1, rows - 1) + reach <= self.x.cells.len());
        assert!(self.z.at(depths - 1, rows - 1) + reach <= self.z.cells.len());
    }

    /// Two vectors of cells, which begin here in the activations and in the logits.
    ///
    /// # Safety
    ///
    /// [`Direct::assert_inside`], and the cells are the first of a vector of windows.
    #[inline(always)]
    unsafe fn load<V: Vector<Real = C>, R: Rule>(
        &self,
        x: usize,
        z: usize,
        shift: V,
        place: usize,
    ) -> [Cell<V>; COLUMNS] {
        let zero = V::zero();
        let mut cells = [Cell {
            x: zero,
            z: zero,
            shift,
            place: zero,
        }; COLUMNS];
        for (i, cell) in cells.iter_mut().enumerate() {
            let skip = i * V::LANES;
            let (x, z) = (x + skip, z + skip);
            // SAFETY: the caller knows that there are so many.
            unsafe {
                cell.x = V::load(self.x.cells.get_unchecked(x..x + V::LANES));
                cell.z = cell.x;
                if R::LOGITS {
                    cell.z = V::load(self.z.cells.get_unchecked(z..z + V::LANES));
                }
            }
            if R::PLACES {
                cell.place = V::iota().add(V::splat(C::from_f64((place + skip) as f64)));
            }
        }
        cells
    }

    /// What the cells of a vector of windows add, from this depth, row and column on; the first sums are kept.
    ///
    /// # Safety
    ///
    /// As for [`Direct::load`].
    #[inline(always)]
    unsafe fn lift<V: Vector<Real = C>, R: Rule, const KEEP: bool>(
        &self,
        rule: R,
        [depth, row, column]: [usize; 3],
        shift: V,
        kept: &mut [C],
    ) -> [[V; COLUMNS]; 2] {
        let [_, height, width] = self.x.sizes;
        let (x, z) = (
            self.x.at(depth, row) + column,
            self.z.at(depth, row) + column,
        );
        let place = (depth * height + row) * width + column;
        // SAFETY: the caller's.
        let cells = unsafe { self.load::<V, R>(x, z, shift, place) };
        let mut lifted = [[V::zero(); COLUMNS]; 2];
        for i in 0..COLUMNS {
            let sums = rule.lift(cells[i]);
            if KEEP {
                sums[0].store(&mut kept[i * V::LANES..]);
            }
            [lifted[0][i], lifted[1][i]] = sums;
        }
        lifted
    }

    /// The sums of a vector of windows; the first sums of their cells are kept, vector by vector.
    ///
    /// # Safety
    ///
    /// [`Direct::assert_inside`], and these are windows of the line.
    #[inline(always)]
    unsafe fn sums<V: Vector<Real = C>, R: Rule, const KEEP: bool>(
        &self,
        rule: R,
        line: usize,
        start: usize,
        shift: V,
        kept: &mut [C],
    ) -> [V; 2] {
        let skip = start * COLUMNS;
        let (mut row, mut depth) = (line * self.stride, 0);
        let end = row + self.kernel;
        // SAFETY: the caller knows that the rows are inside.
        let mut phases = unsafe { self.lift::<V, R, KEEP>(rule, [depth, row, skip], shift, kept) };
        let mut next = COLUMNS * V::LANES;
        loop {
            depth += 1;
            if depth == self.x.sizes[0] {
                (row, depth) = (row + 1, 0);
                if row == end {
                    break;
                }
            }
            let kept = if KEEP { &mut kept[next..] } else { &mut *kept };
            // SAFETY: as above.
            let more = unsafe { self.lift::<V, R, KEEP>(rule, [depth, row, skip], shift, kept) };
            for i in 0..COLUMNS {
                let sums = [phases[0][i], phases[1][i]];
                [phases[0][i], phases[1][i]] = R::Join::join(sums, [more[0][i], more[1][i]]);
            }
            next += COLUMNS * V::LANES;
        }
        first::<V, R::Join, COLUMNS>([V::split(phases[0]), V::split(phases[1])], COLUMNS)
    }
}

/// [`Direct`] by a rule, to this ending.
pub struct DirectBy<'a, C, R, E>(pub Direct<'a, C>, pub R, pub E);

impl<C: Real, R: Rule, E: Ending<C>> Kernel for DirectBy<'_, C, R, E> {
    type Output = E;

    #[inline(always)]
    fn run<I: InstructionSet>(self) -> E {
        let Self(direct, rule, mut ending) = self;
        let lanes = C::Vector::<I>::LANES;
        direct.assert_inside();
        let [lines, columns] = direct.windows;
        let shift = C::Vector::<I>::splat(direct.shift);
        for line in 0..lines {
            for index in 0..columns.div_ceil(lanes) {
                let (start, count) = direct.vector_at(index, lanes);
                // SAFETY: as asserted above.
                let sums: [C::Vector<I>; 2] =
                    unsafe { direct.sums::<_, R, false>(rule, line, start, shift, &mut []) };
                ending.take(line * columns + start, sums, count);
            }
        }
        ending
    }
}

/// [`DirectGradients`] by a rule.
pub struct DirectGradientsBy<'a, C, R>(pub DirectGradients<'a, C>, pub R);

impl<C: Real, R: Rule> Kernel for DirectGradientsBy<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        type V<C, I> = <C as Real>::Vector<I>;
        let Self(work, rule) = self;
        let DirectGradients {
            of: direct,
            grads,
            values,
            steps,
            to: [of_x, of_z],
            kept,
        } = work;
        let lanes = V::<C, I>::LANES;
        direct.assert_inside();
        let [lines, columns] = direct.windows;
        let depths = direct.x.sizes[0];
        kept.resize(depths * direct.kernel * COLUMNS * lanes, C::default());
        let (zero, nan) = (V::<C, I>::zero(), V::<C, I>::splat(C::NAN));
        let shift = V::<C, I>::splat(direct.shift);
        for line in 0..lines {
            for index in 0..columns.div_ceil(lanes) {
                let (start, count) = direct.vector_at(index, lanes);
                // SAFETY: as asserted above.
                let sums: [V<C, I>; 2] =
                    unsafe { direct.sums::<_, R, true>(rule, line, start, shift, kept) };
                let at = line * columns + start;
                let (y, holds, mut terms) = terms(rule, sums, V::<C, I>::load(&grads[at..]));
                V::<C, I>::select(holds, y, nan).store(&mut values[at..]);
                // What is no window's gets no gradient.
                let given = V::<C, I>::and(holds, V::<C, I>::below(count));
                let mut spread = [[zero; COLUMNS]; 2];
                for (terms, spread) in terms.iter_mut().zip(&mut spread).take(R::TERMS) {
                    *terms = V::<C, I>::select(given, *terms, zero);
                    *spread = V::<C, I>::interleave([*terms; COLUMNS]);
                }
                let mut next = 0;
                for i in 0..direct.kernel {
                    let row = line * direct.stride + i;
                    for depth in 0..depths {
                        let skip = start * COLUMNS;
                        let (x, z) = (
                            direct.x.at(depth, row) + skip,
                            direct.z.at(depth, row) + skip,
                        );
                        // SAFETY: as asserted above.
                        let cells = unsafe { direct.load::<V<C, I>, R>(x, z, shift, 0) };
                        let to = depth * steps[0] + row * steps[1] + skip;
                        for i in 0..COLUMNS {
                            let lifted = V::<C, I>::load(&kept[next..]);
                            let [dx, dz] =
                                rule.gradient(cells[i], lifted, [spread[0][i], spread[1][i]]);
                            dx.store(&mut of_x[to + i * lanes..]);
                            if R::LOGITS {
                                dz.store(&mut of_z[to + i * lanes..]);
                            }
                            next += lanes;
                        }
                    }
                }
            }
        }
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
