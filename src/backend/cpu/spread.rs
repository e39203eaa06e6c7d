//! The way back: what windows give is summed for each cell, down the columns first, then along the rows.

use super::aligned::Aligned;
use super::columns::{weights_pitch, Shifts};
use super::plan::{is_ranged, Grouping, Span, Step, ABREAST, FEW_TERMS, SPLIT, SPREAD_SUMS};
use super::rows::first_abreast;
use super::rule::{Cell, Rule};
use super::vector::{InstructionSet, Kernel, Real, Vector, MOST_LANES};
use super::view::{Area, Patch};
use std::ops::Range;

/// The terms of a band's windows: see [`super::rule::Rule::terms`].
pub struct Spread<'a, C> {
    pub rows: &'a Span,
    pub across: &'a Span,
    /// Lines of terms, one a row of windows, zero where there is no window; [`MARGIN`] before the first. Of planes that are
    /// not the first these are the end of the plane before: what lies between lines, as many zeros as vectors reach back.
    pub terms: &'a [C],
}

/// Zeros before the first line of terms, which vectors reach back to where few windows have a cell.
pub const MARGIN: usize = (FEW_TERMS - 1) * ABREAST;

/// The sums of some rows of cells, and the space to make them in.
#[derive(Default)]
pub struct Spreading<C> {
    /// The sums of lines of terms, line after line, with zeros before them.
    line: Aligned<C>,
    /// The sums of cells, row after row, each from the first padded cell on.
    cells: Aligned<C>,
    /// Where those of each row begin: rows of the same windows have the same.
    rows: [usize; ROWS],
}

/// The most rows whose terms are spread at a time: a call is dear for one alone.
const ROWS: usize = 32;

/// The sums of the terms for each cell of some rows of the input, [`Spread::rows_at_once`] at most.
struct SpreadRows<'a, 'b, C> {
    work: &'a Spread<'b, C>,
    rows: Range<usize>,
    spreading: &'a mut Spreading<C>,
}

impl<C: Real> Kernel for SpreadRows<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        self.work.rows::<C::Vector<I>>(self.rows, self.spreading);
    }
}

/// The gradients of the cells of a plane, from the terms of their windows.
pub struct Gradients<'a, C> {
    pub spreads: [Spread<'a, C>; 2],
    pub spreading: &'a mut [Spreading<C>; 2],
    /// The cells that windows read, and some of them, which have gradients here.
    pub area: &'a Area,
    pub cells: &'a Area,
    pub x: Patch<'a, C>,
    pub z: Patch<'a, C>,
    pub shifts: &'a Shifts<C>,
    /// The weights of the cells of `area`, if they were kept: see [`Columns::weights`](super::columns::Columns::weights).
    pub weights: &'a [C],
    /// Gradients of depths before this one are added to what is there, those of others take its place.
    pub written: usize,
    /// From a depth of gradients to the next, and from a row.
    pub steps: [usize; 2],
    /// The gradients of `cells`, and of their logits if there are some: whole vectors in every row.
    pub to: [&'a mut [C]; 2],
}

/// [`Gradients`] by a rule.
pub struct GradientsBy<'a, C, R>(pub Gradients<'a, C>, pub R);

impl<C: Real, R: Rule> Kernel for GradientsBy<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(mut self) {
        for t in 0..R::TERMS {
            self.0.spreads[t].begin(&mut self.0.spreading[t]);
        }
        let all = self.0.cells.rows.clone();
        let at_once = self.0.spreads[0].rows_at_once();
        for first in all.clone().step_by(at_once) {
            let rows = first..all.end.min(first + at_once);
            for t in 0..R::TERMS {
                let kernel = SpreadRows {
                    work: &self.0.spreads[t],
                    rows: rows.clone(),
                    spreading: &mut self.0.spreading[t],
                };
                // SAFETY: this runs on a machine that has the set. A call, lest every rule compiles it again.
                unsafe { I::call(kernel) };
            }
            for row in rows {
                for depth in self.0.cells.depths.clone() {
                    self.row::<C::Vector<I>>(depth, row, row - first);
                }
            }
        }
    }
}

impl<C: Real, R: Rule> GradientsBy<'_, C, R> {
    #[inline(always)]
    fn row<V: Vector<Real = C>>(&mut self, depth: usize, row: usize, spread: usize) {
        let Self(
            Gradients {
                spreads,
                spreading,
                area,
                cells,
                x,
                z,
                shifts,
                weights,
                written,
                steps,
                to: [of_x, of_z],
            },
            rule,
        ) = self;
        let add = depth < *written;
        let (d, h) = (depth - area.depths.start, row - area.rows.start);
        let unit = spreads[0].across.unit;
        let w = (cells.columns.start - area.columns.start) * unit;
        let first = spreads[0].across.before + w;
        let (x, z) = (x.from(d, h, w), z.from(d, h, w));
        let index = d * area.rows.len() + h;
        // Whole vectors, so that none is checked by itself. What a rule does not need is `a` again.
        let lanes = V::LANES;
        let columns = cells.columns.len() * unit;
        let count = columns.next_multiple_of(lanes);
        let a = &spreading[0].row(spread)[first..][..count];
        let b = match R::TERMS {
            2 => &spreading[1].row(spread)[first..][..count],
            _ => a,
        };
        let weights = match R::SHIFTED {
            true => &weights[index * weights_pitch(area.columns.len() * unit) + w..][..count],
            false => a,
        };
        let to = (depth - cells.depths.start) * steps[0] + (row - cells.rows.start) * steps[1];
        let of_x = of_x[to..][..count].chunks_exact_mut(lanes);
        let terms = a.chunks_exact(lanes).zip(b.chunks_exact(lanes));
        let sums = terms.zip(weights.chunks_exact(lanes));
        for ((i, of_x), ((a, b), weight)) in of_x.enumerate().zip(sums) {
            let at = i * lanes;
            let x_at = V::load_part(&x[at..]);
            let cell = Cell {
                x: x_at,
                z: if R::LOGITS {
                    V::load_part(&z[at..])
                } else {
                    x_at
                },
                shift: shifts.of(at),
                place: V::zero(),
            };
            let terms = [V::load(a), V::load(b)];
            let [mut dx, mut dz] = rule.gradient(cell, V::load(weight), terms);
            if add {
                // What a vector makes behind the last cell is added to no other.
                let inside = V::below(columns - at);
                dx = V::load(of_x).add(V::select(inside, dx, V::zero()));
                dz = V::select(inside, dz, V::zero());
            }
            dx.store(of_x);
            if R::LOGITS {
                let of_z = &mut of_z[to + at..];
                if add {
                    dz = V::load(of_z).add(dz);
                }
                dz.store(of_z);
            }
        }
    }
}

impl<C> Spreading<C> {
    fn row(&self, row: usize) -> &[C] {
        &self.cells[self.rows[row]..]
    }
}

impl<C: Real> Spread<'_, C> {
    /// Makes room, and zeros of what no row writes.
    fn begin(&self, spreading: &mut Spreading<C>) {
        let lines = self.rows_at_once() * self.across.slots;
        spreading.line.grow(self.margin() + lines + MOST_LANES);
        spreading.line[..self.margin()].fill(C::default());
        // Vectors of groups reach behind the last.
        let cells = self.rows_at_once() * self.across.pitch;
        spreading.cells.grow(cells + (SPLIT + 1) * MOST_LANES);
    }

    /// Rows of cells whose sums stay in a core's nearest cache until they become gradients.
    fn rows_at_once(&self) -> usize {
        (SPREAD_SUMS / self.across.pitch).clamp(1, ROWS)
    }

    /// Zeros before a line.
    fn margin(&self) -> usize {
        let reach = match Step::of(&self.across.axis) {
            Step::Ranges => 0,
            Step::Groups(of) => of.whole,
        };
        ((reach + 1) * self.across.unit).next_multiple_of(MOST_LANES)
    }

    /// Rows are spread as one if they have the same lines, or each those of the one before, one further down.
    #[inline(always)]
    fn rows<V: Vector<Real = C>>(&self, rows: Range<usize>, spreading: &mut Spreading<C>) {
        let across = self.across;
        let mut lines = self.lines(rows.start);
        let mut run = Run {
            lines: lines.clone(),
            rows: 1,
            start: 0,
        };
        spreading.rows[0] = 0;
        for (i, row) in rows.enumerate().skip(1) {
            if self.advance(&mut lines, row) {
                let next = run.lines.start + run.rows..run.lines.end + run.rows;
                if lines == next && !is_ranged(&across.axis) {
                    run.rows += 1;
                } else {
                    self.run::<V>(&run, spreading);
                    run = Run {
                        lines: lines.clone(),
                        rows: 1,
                        start: run.start + run.rows * across.pitch,
                    };
                }
            }
            spreading.rows[i] = run.start + (run.rows - 1) * across.pitch;
        }
        self.run::<V>(&run, spreading);
    }

    /// The lines of the windows that have a row.
    fn lines(&self, row: usize) -> Range<usize> {
        let windows = self.rows.axis.windows_of(row);
        let Range { start: first, end } = self.rows.windows;
        let (start, end) = (windows.start.max(first), windows.end.min(end));
        start - first..end.max(start) - first
    }

    /// Makes of the lines of a row those of this one further down, without a division; returns whether they differ.
    #[inline(always)]
    fn advance(&self, lines: &mut Range<usize>, row: usize) -> bool {
        let Span { axis, windows, .. } = self.rows;
        let (first, count) = (windows.start, windows.len());
        let before = lines.clone();
        while lines.start < count && axis.window(first + lines.start).end <= row {
            lines.start += 1;
        }
        lines.end = lines.end.max(lines.start);
        while lines.end < count && axis.window(first + lines.end).start <= row {
            lines.end += 1;
        }
        *lines != before
    }

    /// The sums of the cells of a run.
    #[inline(always)]
    fn run<V: Vector<Real = C>>(&self, run: &Run, spreading: &mut Spreading<C>) {
        let step = Step::of(&self.across.axis);
        let slots = self.across.slots;
        let lines = Lines {
            terms: &self.terms[run.lines.start * slots..],
            margin: MARGIN,
            step: slots,
            unit: self.across.unit,
            count: run.lines.len(),
            sums: run.rows * slots,
        };
        // Where few windows have a cell, adding them up anew is quicker than reading back a line just written.
        if let Step::Groups(of) = step {
            // A row between windows has no line, but vectors would still reach back.
            let few = lines.count.max(1).saturating_mul(of.whole + 1) <= FEW_TERMS;
            if few && of.stride <= SPLIT {
                return lines.along::<V>(of, &mut spreading.cells[run.start..]);
            }
        }
        self.down::<V>(lines, &mut spreading.line[self.margin()..]);
        let Spreading { line, cells, .. } = spreading;
        let cells = &mut cells[run.start..];
        let line = Lines {
            terms: line,
            margin: self.margin(),
            count: 1,
            ..lines
        };
        match step {
            step if self.across.unit > 1 && !step.in_vectors() => {
                self.along_abreast::<V>(step, line, cells);
            }
            Step::Groups(of) => line.along::<V>(of, cells),
            Step::Ranges => self.along_ranges(line.terms, cells),
        }
    }

    /// The sums of lines.
    #[inline(always)]
    fn down<V: Vector<Real = C>>(&self, lines: Lines<'_, C>, to: &mut [C]) {
        lines.assert_inside::<UNKNOWN>(0, V::LANES);
        for at in (0..lines.sums).step_by(V::LANES) {
            // SAFETY: asserted above.
            let sum: V = unsafe { lines.sum::<V, UNKNOWN>(lines.margin + at) };
            sum.store(&mut to[at..]);
        }
    }

    /// Cells of planes abreast: one after the other.
    #[inline(always)]
    fn along_abreast<V: Vector<Real = C>>(&self, step: Step, line: Lines<'_, C>, cells: &mut [C]) {
        let Span {
            unit,
            axis,
            windows,
            ..
        } = self.across;
        let first = line.margin;
        let (groups, line) = (line.sums / unit, line.terms);
        for lane in (0..*unit).step_by(V::LANES) {
            match step {
                Step::Groups(Grouping {
                    stride,
                    whole,
                    rest,
                }) => {
                    for group in 0..groups {
                        let mut at = first + group * unit + lane;
                        let mut of_all = V::zero();
                        for _ in 0..whole {
                            of_all = of_all.add(V::load(&line[at..]));
                            at -= unit;
                        }
                        let of_first = of_all.add(V::load(&line[at..]));
                        for t in 0..stride {
                            let sum = if t < rest { of_first } else { of_all };
                            let to = (group * stride + t) * unit + lane;
                            sum.store(&mut cells[to..]);
                        }
                    }
                }
                Step::Ranges => {
                    for (i, cell) in self.across.cells.clone().enumerate() {
                        let of = axis.windows_of(cell);
                        let mut sum = V::zero();
                        for o in of.start.max(windows.start)..of.end.min(windows.end) {
                            sum = sum
                                .add(V::load(&line[first + (o - windows.start) * unit + lane..]));
                        }
                        sum.store(&mut cells[i * unit + lane..]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn along_ranges(&self, line: &[C], to: &mut [C]) {
        let Span {
            axis,
            windows,
            cells,
            ..
        } = self.across;
        let line = &line[self.margin()..];
        for (cell, to) in cells.clone().zip(to) {
            let of = axis.windows_of(cell);
            let of = of.start.max(windows.start)..of.end.min(windows.end);
            let sum = of.fold(C::default(), |sum, o| sum.add(line[o - windows.start]));
            *to = sum;
        }
    }
}

/// A number that is not known when the kernel is compiled.
const UNKNOWN: usize = usize::MAX;

/// `N`, or the number given.
#[inline(always)]
fn known<const N: usize>(number: usize) -> usize {
    match N {
        UNKNOWN => number,
        _ => N,
    }
}

/// Rows that are spread as one.
struct Run {
    /// The lines of the first row; each other has those a line further down.
    lines: Range<usize>,
    rows: usize,
    /// Where the sums of its cells begin.
    start: usize,
}

/// Some lines of terms, to be added up as one with those that follow them.
#[derive(Clone, Copy)]
struct Lines<'a, C> {
    terms: &'a [C],
    /// Zeros before the first.
    margin: usize,
    /// From a line to the next.
    step: usize,
    /// Planes abreast.
    unit: usize,
    count: usize,
    /// Sums that are made of them.
    sums: usize,
}

impl<C: Real> Lines<'_, C> {
    /// That vectors which begin at a sum, or so many before it, are inside all of `LINES` lines.
    #[inline(always)]
    fn assert_inside<const LINES: usize>(self, before: usize, lanes: usize) {
        assert!(before <= self.margin);
        let last = self.margin + known::<LINES>(self.count).saturating_sub(1) * self.step;
        assert!(last + self.sums + lanes <= self.terms.len());
    }

    /// The sums of a vector of terms.
    ///
    /// # Safety
    ///
    /// [`Lines::assert_inside`] of as many lines.
    #[inline(always)]
    unsafe fn sum<V: Vector<Real = C>, const LINES: usize>(self, mut at: usize) -> V {
        let mut sum = V::zero();
        for _ in 0..known::<LINES>(self.count) {
            // SAFETY: the caller's.
            let terms = unsafe { self.terms.get_unchecked(at..at + V::LANES) };
            sum = sum.add(V::load(terms));
            at += self.step;
        }
        sum
    }

    /// The sums of the windows of each cell, a group of cells after the other.
    /// The cells from `rest` on have `whole` windows, those before one more.
    #[inline(always)]
    fn along<V: Vector<Real = C>>(self, of: Grouping, cells: &mut [C]) {
        match (of.stride, self.unit) {
            (1, 1) => self.in_vectors::<V, 1, 1>(of, cells),
            (2, 1) => self.in_vectors::<V, 2, 1>(of, cells),
            (3, 1) => self.in_vectors::<V, 3, 1>(of, cells),
            (1, _) => self.in_vectors::<V, 1, ABREAST>(of, cells),
            (2, _) => self.in_vectors::<V, 2, ABREAST>(of, cells),
            (3, _) => self.in_vectors::<V, 3, ABREAST>(of, cells),
            _ => self.one_by_one(of, cells),
        }
    }

    /// Most rows have few windows, and loops of one or two turns cost more than they do.
    #[inline(always)]
    fn in_vectors<V: Vector<Real = C>, const S: usize, const UNIT: usize>(
        self,
        of: Grouping,
        cells: &mut [C],
    ) {
        match (self.count, of.whole) {
            (1, 1) => self.groups::<V, S, UNIT, 1, 1>(of, cells),
            (2, 1) => self.groups::<V, S, UNIT, 2, 1>(of, cells),
            (1, 2) => self.groups::<V, S, UNIT, 1, 2>(of, cells),
            (2, 2) => self.groups::<V, S, UNIT, 2, 2>(of, cells),
            (1, 3) => self.groups::<V, S, UNIT, 1, 3>(of, cells),
            _ => self.groups::<V, S, UNIT, UNKNOWN, UNKNOWN>(of, cells),
        }
    }

    /// A vector of groups of `S` cells at a time.
    #[inline(always)]
    fn groups<
        V: Vector<Real = C>,
        const S: usize,
        const UNIT: usize,
        const LINES: usize,
        const WHOLE: usize,
    >(
        self,
        of: Grouping,
        cells: &mut [C],
    ) {
        let (whole, rest) = (known::<WHOLE>(of.whole), of.rest);
        self.assert_inside::<LINES>(whole * UNIT, V::LANES);
        for group in (0..self.sums).step_by(V::LANES) {
            let at = self.margin + group;
            let mut of_all = V::zero();
            for back in 0..whole {
                // SAFETY: asserted above.
                of_all = of_all.add(unsafe { self.sum::<V, LINES>(at - back * UNIT) });
            }
            let mut of_first = of_all;
            if rest > 0 {
                // SAFETY: asserted above.
                of_first = of_all.add(unsafe { self.sum::<V, LINES>(at - whole * UNIT) });
            }
            let mut phases = [of_all; S];
            for phase in phases.iter_mut().take(rest) {
                *phase = of_first;
            }
            if UNIT > 1 {
                let first = first_abreast::<S>(group);
                for (i, phase) in phases.into_iter().enumerate() {
                    phase.store(&mut cells[first + i * UNIT..]);
                }
                continue;
            }
            let cells = &mut cells[group * S..(group + V::LANES) * S];
            for (i, interleaved) in V::interleave(phases).into_iter().enumerate() {
                interleaved.store(&mut cells[i * V::LANES..]);
            }
        }
    }

    #[inline(always)]
    fn one_by_one(self, of: Grouping, cells: &mut [C]) {
        let Grouping {
            stride,
            whole,
            rest,
        } = of;
        for group in 0..self.sums {
            let at = self.margin + group;
            let mut of_all = C::default();
            for back in 0..whole {
                of_all = of_all.add(self.terms[at - back]);
            }
            let cells = &mut cells[group * stride..(group + 1) * stride];
            cells[..rest].fill(of_all.add(self.terms[at - whole]));
            cells[rest..].fill(of_all);
        }
    }
}
