//! The way back: what windows give is summed for each cell, down the columns first, then along the rows.

use super::aligned::Aligned;
use super::columns::{kept_pitch, Shifts};
use super::plan::{Span, Step};
use super::rule::{Cell, Rule};
use super::vector::{InstructionSet, Kernel, Real, Vector, MOST_LANES};
use super::view::{Area, Patch};
use std::ops::Range;

/// The terms of a band's windows: see [`super::rule::Rule::terms`].
pub struct Spread<'a, C> {
    pub rows: &'a Span,
    pub across: &'a Span,
    /// Lines of terms, one a row of windows, zero where there is no window.
    pub terms: &'a [C],
}

/// The sums of a row of cells, and the space to make them in.
#[derive(Default)]
pub struct Spreading<C> {
    /// Rows of windows whose terms are in `line`.
    of: Range<usize>,
    /// Their sums, with zeros around them.
    line: Aligned<C>,
    /// The sums of cells, from the first padded one on.
    pub cells: Aligned<C>,
}

/// The sums of the terms for each cell of a row of the input, in `spreading.cells`.
struct SpreadRow<'a, 'b, C> {
    work: &'a Spread<'b, C>,
    row: usize,
    spreading: &'a mut Spreading<C>,
}

impl<C: Real> Kernel for SpreadRow<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        self.work.row::<C::Vector<I>>(self.row, self.spreading);
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
    /// The first sums of the cells of `area`, if they were kept: see [`Columns::kept`](super::columns::Columns::kept).
    pub kept: &'a [C],
    /// Whether gradients are added to what is there, or take its place.
    pub add: bool,
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
        for row in self.0.cells.rows.clone() {
            for t in 0..R::TERMS {
                let (work, spreading) = (&self.0.spreads[t], &mut self.0.spreading[t]);
                let kernel = SpreadRow {
                    work,
                    row,
                    spreading,
                };
                // SAFETY: this runs on a machine that has the set. A call, lest every rule compiles it again.
                unsafe { I::call(kernel) };
            }
            for depth in self.0.cells.depths.clone() {
                self.row::<C::Vector<I>>(depth, row);
            }
        }
    }
}

impl<C: Real, R: Rule> GradientsBy<'_, C, R> {
    #[inline(always)]
    fn row<V: Vector<Real = C>>(&mut self, depth: usize, row: usize) {
        let Self(
            Gradients {
                spreads,
                spreading,
                area,
                cells,
                x,
                z,
                shifts,
                kept,
                add,
                steps,
                to: [of_x, of_z],
            },
            rule,
        ) = self;
        let (d, h) = (depth - area.depths.start, row - area.rows.start);
        let unit = spreads[0].across.unit;
        let w = (cells.columns.start - area.columns.start) * unit;
        let first = spreads[0].across.before + w;
        let (x, z) = (x.from(d, h, w), z.from(d, h, w));
        let index = d * area.rows.len() + h;
        let kept = match R::SHIFTED {
            true => &kept[index * kept_pitch(area.columns.len() * unit) + w..],
            false => &[],
        };
        let a = &spreading[0].cells[first..];
        let b = match R::TERMS {
            2 => &spreading[1].cells[first..],
            _ => a,
        };
        let to = (depth - cells.depths.start) * steps[0] + (row - cells.rows.start) * steps[1];
        let zero = V::zero();
        let of_x = &mut of_x[to..];
        for at in (0..cells.columns.len() * unit).step_by(V::LANES) {
            let shift = shifts.of(at);
            let x = V::load_part(&x[at..]);
            let z = if R::LOGITS { V::load_part(&z[at..]) } else { x };
            let cell = Cell {
                x,
                z,
                shift,
                place: zero,
            };
            let second = if R::TERMS == 2 {
                V::load(&b[at..])
            } else {
                zero
            };
            let weight = if R::SHIFTED {
                V::load(&kept[at..])
            } else {
                zero
            };
            let [mut dx, mut dz] = rule.gradient(cell, weight, [V::load(&a[at..]), second]);
            if *add {
                dx = V::load(&of_x[at..]).add(dx);
            }
            dx.store(&mut of_x[at..]);
            if R::LOGITS {
                let of_z = &mut of_z[to + at..];
                if *add {
                    dz = V::load(of_z).add(dz);
                }
                dz.store(of_z);
            }
        }
    }
}

impl<C: Real> Spread<'_, C> {
    /// Sums that are left from another band are forgotten.
    pub fn begin(&self, spreading: &mut Spreading<C>) {
        spreading.of = 0..0;
        let line = 2 * self.margin() + self.across.lanes() + MOST_LANES;
        spreading.line.grow(line);
        spreading.line[..line].fill(C::default());
        spreading.cells.grow(self.across.pitch + 4 * MOST_LANES);
    }

    /// Zeros before and after a line.
    fn margin(&self) -> usize {
        let reach = match Step::of(&self.across.axis) {
            Step::Ranges => 0,
            Step::Groups { whole, .. } => whole.min(self.across.lanes() + 1),
        };
        ((reach + 1) * self.across.unit).next_multiple_of(MOST_LANES)
    }

    #[inline(always)]
    fn row<V: Vector<Real = C>>(&self, row: usize, spreading: &mut Spreading<C>) {
        let windows = self.rows.axis.windows_of(row);
        let (first, last) = (self.rows.windows.start, self.rows.windows.end);
        let windows = windows.start.max(first)..windows.end.min(last);
        if windows == spreading.of {
            return;
        }
        spreading.of = windows.clone();
        self.down::<V>(
            windows.start - first..windows.end.max(windows.start) - first,
            spreading,
        );
        match Step::of(&self.across.axis) {
            step if self.across.unit > 1 => self.along_abreast::<V>(step, spreading),
            Step::Groups {
                stride: 1,
                whole,
                rest,
            } => self.along::<V, 1>(whole, rest, spreading),
            Step::Groups {
                stride: 2,
                whole,
                rest,
            } => self.along::<V, 2>(whole, rest, spreading),
            Step::Groups {
                stride: 3,
                whole,
                rest,
            } => self.along::<V, 3>(whole, rest, spreading),
            Step::Groups {
                stride,
                whole,
                rest,
            } => {
                self.along_any([stride, whole, rest], spreading);
            }
            Step::Ranges => self.along_ranges(spreading),
        }
    }

    /// The sums of lines.
    #[inline(always)]
    fn down<V: Vector<Real = C>>(&self, lines: Range<usize>, spreading: &mut Spreading<C>) {
        let lanes = self.across.lanes();
        let to = &mut spreading.line[self.margin()..];
        for at in (0..lanes).step_by(V::LANES) {
            let mut sum = V::zero();
            for line in lines.clone() {
                sum = sum.add(V::load(&self.terms[line * lanes + at..]));
            }
            // What lies behind a line is the next one's.
            match lanes - at < V::LANES {
                true => {
                    let mut last = [C::default(); MOST_LANES];
                    sum.store(&mut last);
                    to[at..lanes].copy_from_slice(&last[..lanes - at]);
                }
                false => sum.store(&mut to[at..]),
            }
        }
    }

    /// The sums of the windows of a vector of groups of cells: of those with the cells from `rest` on, and of those with
    /// the cells before.
    #[inline(always)]
    fn windows<V: Vector<Real = C>>(&self, line: &[C], at: usize, whole: usize) -> [V; 2] {
        let mut sum = V::zero();
        for back in 0..whole {
            sum = sum.add(V::load(&line[at - back..]));
        }
        [sum, sum.add(V::load(&line[at - whole..]))]
    }

    #[inline(always)]
    fn along<V: Vector<Real = C>, const S: usize>(
        &self,
        whole: usize,
        rest: usize,
        spreading: &mut Spreading<C>,
    ) {
        let (margin, groups) = (self.margin(), self.across.lanes());
        // No group has more windows than there are.
        let (whole, rest) = if whole > groups {
            (groups, 0)
        } else {
            (whole, rest)
        };
        for at in (0..groups).step_by(V::LANES) {
            let [of_all, of_first] = self.windows::<V>(&spreading.line, margin + at, whole);
            let mut phases = [of_all; S];
            for (t, phase) in phases.iter_mut().enumerate() {
                if t < rest {
                    *phase = of_first;
                }
            }
            let cells = V::interleave(phases);
            for (i, cells) in cells.iter().enumerate() {
                cells.store(&mut spreading.cells[at * S + i * V::LANES..]);
            }
        }
    }

    /// Cells of planes abreast: one after the other.
    #[inline(always)]
    fn along_abreast<V: Vector<Real = C>>(&self, step: Step, spreading: &mut Spreading<C>) {
        let Span {
            unit,
            axis,
            windows,
            ..
        } = self.across;
        let line = &spreading.line[self.margin()..];
        for lane in (0..*unit).step_by(V::LANES) {
            match step {
                Step::Groups {
                    stride,
                    whole,
                    rest,
                } => {
                    let groups = self.across.lanes() / unit;
                    let (whole, rest) = if whole > groups {
                        (groups, 0)
                    } else {
                        (whole, rest)
                    };
                    for group in 0..groups {
                        let mut at = self.margin() + group * unit + lane;
                        let mut of_all = V::zero();
                        for _ in 0..whole {
                            of_all = of_all.add(V::load(&spreading.line[at..]));
                            at -= unit;
                        }
                        let of_first = of_all.add(V::load(&spreading.line[at..]));
                        for t in 0..stride {
                            let sum = if t < rest { of_first } else { of_all };
                            let to = (group * stride + t) * unit + lane;
                            sum.store(&mut spreading.cells[to..]);
                        }
                    }
                }
                Step::Ranges => {
                    for (i, cell) in self.across.cells.clone().enumerate() {
                        let of = axis.windows_of(cell);
                        let mut sum = V::zero();
                        for o in of.start.max(windows.start)..of.end.min(windows.end) {
                            sum = sum.add(V::load(&line[(o - windows.start) * unit + lane..]));
                        }
                        sum.store(&mut spreading.cells[i * unit + lane..]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn along_any(&self, [stride, whole, rest]: [usize; 3], spreading: &mut Spreading<C>) {
        let (margin, groups) = (self.margin(), self.across.lanes());
        let (whole, rest) = if whole > groups {
            (groups, 0)
        } else {
            (whole, rest)
        };
        let line = &spreading.line;
        for group in 0..groups {
            let at = margin + group;
            let of_all = (0..whole).fold(C::default(), |sum, back| sum.add(line[at - back]));
            let cells = &mut spreading.cells[group * stride..(group + 1) * stride];
            cells[..rest].fill(of_all.add(line[at - whole]));
            cells[rest..].fill(of_all);
        }
    }

    #[inline(always)]
    fn along_ranges(&self, spreading: &mut Spreading<C>) {
        let Span {
            axis,
            windows,
            cells,
            ..
        } = self.across;
        let line = &spreading.line[self.margin()..];
        for (i, cell) in cells.clone().enumerate() {
            let of = axis.windows_of(cell);
            let of = of.start.max(windows.start)..of.end.min(windows.end);
            let sum = of.fold(C::default(), |sum, o| sum.add(line[o - windows.start]));
            spreading.cells[i] = sum;
        }
    }
}
