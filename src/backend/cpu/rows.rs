//! Along the rows: the sums of columns are joined to those of windows.
//!
//! All lines of a band are taken as one: the windows between two lines are made as well, and nobody looks at them.

use super::aligned::Aligned;
use super::plan::{is_ranged, serial_terms, Grouping, Span, Step, ABREAST, SPLIT};
use super::rule::Join;
use super::vector::{InstructionSet, Kernel, Real, Single, Vector, MOST_LANES};
use std::marker::PhantomData;
use std::ops::Range;

/// Sums of groups of cells and of the first cells of groups: see [`Step::Groups`].
#[derive(Default)]
pub struct Groups<C> {
    whole: [Aligned<C>; 2],
    rest: [Aligned<C>; 2],
}

/// Cells behind the last line that vectors may reach: those of the last vector's windows, and of one more vector of groups.
pub fn slack(across: &Span) -> usize {
    let lanes = MOST_LANES;
    let axis = &across.axis;
    if across.unit > 1 {
        // A vector is of one cell of each plane. Twice: what groups are summed for beyond the last window is less than a window.
        return (axis.stride.min(axis.input) + axis.kernel.min(2 * axis.input)) * across.unit * 2;
    }
    match is_ranged(axis) || axis.stride > SPLIT {
        true => lanes,
        // Groups are summed for two vectors and one more than there are windows, by whole vectors: see `by_groups`.
        false => 3 * (lanes + 1) * axis.stride + axis.kernel.min(2 * axis.input) + lanes,
    }
}

/// The lines of a band.
pub struct Rows<'a, C> {
    pub across: &'a Span,
    pub lines: usize,
    pub sums: [&'a [C]; 2],
    pub groups: &'a mut Groups<C>,
}

impl<C> Rows<'_, C> {
    /// Slots from the first window to the last, with those between lines.
    pub fn slots(&self) -> usize {
        let across = self.across;
        (self.lines - 1) * across.slots + across.windows.len() * across.unit
    }

    /// The slots whose windows are made: those of all lines as one run or, where far more lie between lines than in them, a
    /// run for each line.
    #[inline(always)]
    fn runs(&self) -> Runs {
        let pitch = self.across.slots;
        let of_line = self.across.windows.len() * self.across.unit;
        // What a vector makes behind the end of its line must not be of the next one.
        match pitch >= 2 * of_line + MOST_LANES {
            true => Runs {
                count: self.lines,
                pitch,
                slots: of_line,
            },
            false => Runs {
                count: 1,
                pitch,
                slots: self.slots(),
            },
        }
    }
}

/// Runs of slots, equally far apart and equally long.
#[derive(Clone, Copy)]
struct Runs {
    count: usize,
    pitch: usize,
    slots: usize,
}

impl Runs {
    #[inline(always)]
    fn run(self, i: usize) -> Range<usize> {
        let start = i * self.pitch;
        start..start + self.slots
    }
}

/// What becomes of the sums of windows.
pub trait Ending<C> {
    /// Takes the sums of a vector of windows, of which the first has slot `at`. No more than `count` of them are windows
    /// or lie between lines; what the others are made of is unknown.
    fn take<V: Vector<Real = C>>(&mut self, at: usize, sums: [V; 2], count: usize);
}

/// [`Rows`] by a way to join, vector by vector from registers to their ending.
pub struct Along<'a, C, J, E> {
    pub rows: Rows<'a, C>,
    pub join: PhantomData<J>,
    pub ending: E,
}

impl<C: Real, J: Join, E: Ending<C>> Along<'_, C, J, E> {
    /// As many whole vectors as it takes.
    #[inline(always)]
    pub fn run<V: Vector<Real = C>>(self) -> E {
        match self.rows.across.unit {
            1 => self.run_of::<V, 1>(),
            _ => self.run_of::<V, ABREAST>(),
        }
    }

    /// That of `UNIT` planes abreast: it is known, since a loop must not ask.
    #[inline(always)]
    fn run_of<V: Vector<Real = C>, const UNIT: usize>(mut self) -> E {
        let Step::Groups(of) = Step::of(&self.rows.across.axis) else {
            return self.ending;
        };
        let runs = self.rows.runs();
        for i in 0..runs.count {
            let run = runs.run(i);
            match (of.stride, of.whole) {
                (1, _) => self.shifted::<V, UNIT>(run, of.whole),
                (2, 0 | 1) => self.in_registers::<V, 2, UNIT>(run, of),
                (3, 0 | 1) => self.in_registers::<V, 3, UNIT>(run, of),
                (2, _) => self.by_groups::<V, 2, UNIT>(run, of),
                (3, _) => self.by_groups::<V, 3, UNIT>(run, of),
                _ => {}
            }
        }
        self.ending
    }

    /// Windows of so many cells side by side, with stride one.
    #[inline(always)]
    fn shifted<V: Vector<Real = C>, const UNIT: usize>(&mut self, run: Range<usize>, count: usize) {
        let Range { start: mut at, end } = run;
        while at + 2 * V::LANES <= end {
            self.take_shifted::<V, UNIT, 2>(at, end, count);
            at += 2 * V::LANES;
        }
        while at < end {
            self.take_shifted::<V, UNIT, 1>(at, end, count);
            at += V::LANES;
        }
    }

    /// So many vectors of them.
    #[inline(always)]
    fn take_shifted<V: Vector<Real = C>, const UNIT: usize, const N: usize>(
        &mut self,
        at: usize,
        end: usize,
        count: usize,
    ) {
        let sums = shifted::<V, J, UNIT, N>(self.rows.sums, at, count);
        for (i, sums) in sums.into_iter().enumerate() {
            let at = at + i * V::LANES;
            self.ending.take(at, sums, end - at);
        }
    }

    /// Windows of at most one group of `S` cells and some of the next.
    #[inline(always)]
    fn in_registers<V: Vector<Real = C>, const S: usize, const UNIT: usize>(
        &mut self,
        run: Range<usize>,
        of: Grouping,
    ) {
        let end = run.end;
        for at in run.step_by(V::LANES) {
            let these = phases::<V, S, UNIT>(self.rows.sums, at);
            let sums = match (of.whole, of.rest) {
                (0, rest) => first::<V, J, S>(these, rest),
                (_, 0) => first::<V, J, S>(these, S),
                (_, rest) => {
                    let next = phases::<V, S, UNIT>(self.rows.sums, at + UNIT);
                    J::join(first::<V, J, S>(these, S), first::<V, J, S>(next, rest))
                }
            };
            self.ending.take(at, sums, end - at);
        }
    }

    /// Windows of several groups, each of which is summed once.
    #[inline(always)]
    fn by_groups<V: Vector<Real = C>, const S: usize, const UNIT: usize>(
        &mut self,
        run: Range<usize>,
        of: Grouping,
    ) {
        let Rows {
            across,
            sums,
            groups,
            ..
        } = &mut self.rows;
        let axis = &across.axis;
        let of_window = axis.kernel.min(2 * axis.input) / S + 1;
        // Those of the last vector's windows: whole vectors, for which `slack` makes room.
        let end = run.end + of_window * UNIT + V::LANES;
        groups.grow(end + 2 * V::LANES);
        for at in (run.start..end).step_by(V::LANES) {
            let these = phases::<V, S, UNIT>(*sums, at);
            let (all, part) = (first::<V, J, S>(these, S), first::<V, J, S>(these, of.rest));
            for i in 0..2 {
                all[i].store(&mut groups.whole[i][at..]);
                part[i].store(&mut groups.rest[i][at..]);
            }
        }
        let end = run.end;
        for at in run.step_by(V::LANES) {
            let sums = self.rows.groups.windows::<V, J, UNIT>(at, of);
            self.ending.take(at, sums, end - at);
        }
    }
}

/// Where the first of `S` cells is for a sum of theirs, if planes lie abreast.
#[inline(always)]
pub fn first_abreast<const S: usize>(at: usize) -> usize {
    at / ABREAST * ABREAST * S + at % ABREAST
}

/// The first cells of a vector of groups, the second ones, and so on. Where planes lie abreast, so do their groups.
#[inline(always)]
fn phases<V: Vector, const S: usize, const UNIT: usize>(
    sums: [&[V::Real]; 2],
    at: usize,
) -> [[V; S]; 2] {
    let (first, step) = match UNIT {
        1 => (at * S, V::LANES),
        _ => (first_abreast::<S>(at), UNIT),
    };
    // Loops, since closures are not compiled for the instruction set.
    let mut phases = [[V::zero(); S]; 2];
    for (phases, sums) in phases.iter_mut().zip(sums) {
        let sums = &sums[first..first + (S - 1) * step + V::LANES];
        for i in 0..S {
            phases[i] = V::load(&sums[i * step..]);
        }
        if UNIT == 1 {
            *phases = V::split(*phases);
        }
    }
    phases
}

impl<C: Real> Groups<C> {
    fn grow(&mut self, count: usize) {
        for sums in self.whole.iter_mut().chain(&mut self.rest) {
            sums.grow(count);
        }
    }

    /// The sums of a vector of windows, from those of their groups.
    #[inline(always)]
    fn windows<V: Vector<Real = C>, J: Join, const UNIT: usize>(
        &self,
        at: usize,
        of: Grouping,
    ) -> [V; 2] {
        let of_groups = [&self.whole[0][..], &self.whole[1][..]];
        let of_rests = [&self.rest[0][..], &self.rest[1][..]];
        let whole = of.whole;
        match (whole, of.rest) {
            (0, _) => load(of_rests, at),
            (_, 0) => shifted::<V, J, UNIT, 1>(of_groups, at, whole)[0],
            _ => J::join(
                shifted::<V, J, UNIT, 1>(of_groups, at, whole)[0],
                load(of_rests, at + whole * UNIT),
            ),
        }
    }
}

/// The sums of windows that are further apart than vectors can be split, or of various sizes: see [`Way::Apart`](super::plan::Way::Apart).
pub struct Apart<'a, C> {
    pub rows: Rows<'a, C>,
    /// Line after line.
    pub to: [&'a mut [C]; 2],
}

/// [`Apart`] by a way to join.
pub struct ApartBy<'a, C, J>(pub Apart<'a, C>, pub J);

impl<C: Real, J: Join> Kernel for ApartBy<'_, C, J> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(mut self) {
        match Step::of(&self.0.rows.across.axis) {
            step if self.0.rows.across.unit > 1 => self.abreast::<C::Vector<I>>(step),
            Step::Groups(of) => self.groups::<C::Vector<I>>(of),
            Step::Ranges => self.ranges::<C::Vector<I>>(),
        }
    }
}

impl<C: Real, J: Join> ApartBy<'_, C, J> {
    /// Windows of planes abreast: one after the other.
    #[inline(always)]
    fn abreast<V: Vector<Real = C>>(&mut self, step: Step) {
        let Rows {
            across,
            lines,
            sums,
            ..
        } = self.0.rows;
        let Span { unit, .. } = *across;
        let windows = across.slots / unit;
        for at in (0..unit).step_by(V::LANES) {
            for line in 0..lines {
                for i in 0..windows {
                    let from = line * across.pitch + at;
                    let cells = |cells: Range<usize>| Abreast {
                        sums,
                        from,
                        unit,
                        cells,
                    };
                    let sums: [V; 2] = match step {
                        Step::Groups(Grouping {
                            stride,
                            whole,
                            rest,
                        }) => {
                            let start = i * stride;
                            let first = if whole == 0 { rest } else { stride };
                            let mut all = cells(start..start + first).join::<V, J>();
                            for group in 1..whole {
                                let start = start + group * stride;
                                let more = cells(start..start + stride).join::<V, J>();
                                all = J::join(all, more);
                            }
                            if whole > 0 && rest > 0 {
                                let start = start + whole * stride;
                                let more = cells(start..start + rest).join::<V, J>();
                                all = J::join(all, more);
                            }
                            all
                        }
                        Step::Ranges => {
                            let Range { start, end } = across.axis.window(across.windows.start + i);
                            let first = across.cells.start;
                            cells(start - first..end - first).join::<V, J>()
                        }
                    };
                    let to = (line * windows + i) * unit + at;
                    sums[0].store(&mut self.0.to[0][to..]);
                    sums[1].store(&mut self.0.to[1][to..]);
                }
            }
        }
    }

    #[inline(always)]
    fn groups<V: Vector<Real = C>>(&mut self, of: Grouping) {
        let Grouping { stride, rest, .. } = of;
        let Rows {
            across,
            lines,
            sums,
            ..
        } = self.0.rows;
        let windows = lines * across.slots;
        let axis = &across.axis;
        let count = windows + axis.kernel.min(2 * axis.input) / stride + 2 * V::LANES + 1;
        self.0.rows.groups.grow(count + V::LANES);
        for j in 0..count.min(sums[0].len() / stride) {
            let start = j * stride;
            let part = self.fold::<V>(start..start + rest);
            let all = match rest {
                0 => self.fold::<V>(start..start + stride),
                _ => join::<J, C>(part, self.fold::<V>(start + rest..start + stride)),
            };
            let groups = &mut *self.0.rows.groups;
            for i in 0..2 {
                groups.rest[i][j] = part[i];
                groups.whole[i][j] = all[i];
            }
        }
        for at in (0..windows).step_by(V::LANES) {
            let sums: [V; 2] = self.0.rows.groups.windows::<V, J, 1>(at, of);
            sums[0].store(&mut self.0.to[0][at..]);
            sums[1].store(&mut self.0.to[1][at..]);
        }
    }

    /// Windows of various sizes.
    #[inline(always)]
    fn ranges<V: Vector<Real = C>>(&mut self) {
        let Span {
            axis,
            windows,
            cells,
            pitch,
            ..
        } = self.0.rows.across;
        for line in 0..self.0.rows.lines {
            for (i, o) in windows.clone().enumerate() {
                let window = axis.window(o);
                let start = line * pitch + window.start - cells.start;
                let sums = self.fold::<V>(start..start + window.len());
                for (to, sum) in self.0.to.iter_mut().zip(sums) {
                    to[line * windows.len() + i] = sum;
                }
            }
        }
    }

    /// The sums of cells side by side.
    #[inline(always)]
    fn fold<V: Vector<Real = C>>(&self, cells: Range<usize>) -> [C; 2] {
        let serial = serial_terms(cells.len() / V::LANES) * V::LANES;
        let mut sums = self.fold_some::<V>(cells.start..cells.end.min(cells.start + serial));
        for start in (cells.start..cells.end).step_by(serial).skip(1) {
            let more = self.fold_some::<V>(start..cells.end.min(start + serial));
            sums = join::<J, C>(sums, more);
        }
        sums
    }

    /// The sums of cells side by side: of many by vectors first.
    #[inline(always)]
    fn fold_some<V: Vector<Real = C>>(&self, cells: Range<usize>) -> [C; 2] {
        let [a, b] = self.0.rows.sums;
        let mut sums = J::IDENTITY.map(C::from_f64);
        let Range { mut start, end } = cells;
        if end - start >= 2 * V::LANES {
            let mut vectors = load::<V>([a, b], start);
            start += V::LANES;
            while start + V::LANES <= end {
                vectors = J::join(vectors, load::<V>([a, b], start));
                start += V::LANES;
            }
            sums = lanes::<V, J>(vectors);
        } else if start < end {
            sums = [a[start], b[start]];
            start += 1;
        }
        for i in start..end {
            sums = join::<J, C>(sums, [a[i], b[i]]);
        }
        sums
    }
}

/// Cells of a line of planes abreast.
struct Abreast<'a, C> {
    sums: [&'a [C]; 2],
    from: usize,
    unit: usize,
    cells: Range<usize>,
}

impl<C: Real> Abreast<'_, C> {
    #[inline(always)]
    fn join<V: Vector<Real = C>, J: Join>(self) -> [V; 2] {
        let Self {
            sums,
            from,
            unit,
            cells,
        } = self;
        let mut all = load(sums, from + cells.start * unit);
        for cell in cells.start + 1..cells.end {
            all = J::join(all, load(sums, from + cell * unit));
        }
        all
    }
}

/// The sums of `count` cells side by side, from each of `N` vectors of cells on.
#[inline(always)]
fn shifted<V: Vector, J: Join, const UNIT: usize, const N: usize>(
    [a, b]: [&[V::Real]; 2],
    at: usize,
    count: usize,
) -> [[V; 2]; N] {
    let last = (count - 1) * UNIT;
    let reach = at..at + last + N * V::LANES;
    let (a, b) = (&a[reach.clone()], &b[reach]);
    let mut all = [[V::zero(); 2]; N];
    for (i, sums) in all.iter_mut().enumerate() {
        *sums = load([a, b], i * V::LANES);
    }
    for cell in 1..count {
        let first = cell * UNIT;
        for (i, sums) in all.iter_mut().enumerate() {
            let cells = first + i * V::LANES..first + (i + 1) * V::LANES;
            // SAFETY: the last of them are the last of these.
            let next = unsafe { [a.get_unchecked(cells.clone()), b.get_unchecked(cells)] };
            *sums = J::join(*sums, load(next, 0));
        }
    }
    all
}

/// The sums of the first cells of each group.
#[inline(always)]
pub fn first<V: Vector, J: Join, const S: usize>(phases: [[V; S]; 2], count: usize) -> [V; 2] {
    let [of_first, of_second] = phases;
    let mut sums = [of_first[0], of_second[0]];
    for (i, (a, b)) in of_first.into_iter().zip(of_second).enumerate() {
        if i > 0 && i < count {
            sums = J::join(sums, [a, b]);
        }
    }
    sums
}

/// The lanes of two vectors, joined two and two, halves first.
#[inline(always)]
fn lanes<V: Vector, J: Join>(vectors: [V; 2]) -> [V::Real; 2] {
    let mut lanes = [[V::Real::default(); MOST_LANES]; 2];
    vectors[0].store(&mut lanes[0]);
    vectors[1].store(&mut lanes[1]);
    let mut half = V::LANES / 2;
    while half > 0 {
        for i in 0..half {
            let [a, b] = [i, i + half].map(|i| [lanes[0][i], lanes[1][i]]);
            [lanes[0][i], lanes[1][i]] = join::<J, V::Real>(a, b);
        }
        half /= 2;
    }
    [lanes[0][0], lanes[1][0]]
}

/// [`Join::join`] of single sums.
#[inline(always)]
fn join<J: Join, C: Real>(a: [C; 2], b: [C; 2]) -> [C; 2] {
    let [a, b] = [a, b].map(|sums| sums.map(Single::splat));
    J::join(a, b).map(Single::lane)
}

#[inline(always)]
fn load<V: Vector>([a, b]: [&[V::Real]; 2], at: usize) -> [V; 2] {
    [V::load(&a[at..]), V::load(&b[at..])]
}
