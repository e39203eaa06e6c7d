//! Along the rows: the sums of columns are joined to those of windows.
//!
//! All lines of a band are taken as one: the windows between two lines are made as well, and nobody looks at them.

use super::aligned::Aligned;
use super::plan::{is_ranged, Span, Step};
use super::rule::Join;
use super::vector::{InstructionSet, Kernel, Real, Single, Vector, MOST_LANES};
use std::ops::Range;

/// Sums of groups of cells and of the first cells of groups: see [`Step::Groups`].
#[derive(Default)]
pub struct Groups<C> {
    whole: [Aligned<C>; 2],
    rest: [Aligned<C>; 2],
}

/// Cells behind the last line that vectors may reach.
pub fn slack(across: &Span) -> usize {
    let lanes = MOST_LANES;
    let axis = &across.axis;
    match is_ranged(axis) || axis.stride > 3 {
        true => lanes,
        false => 3 * (lanes + 1) * axis.stride + axis.kernel.min(2 * axis.input) + lanes,
    }
}

/// The lines of a band, and the sums of windows that come of them: as many vectors as it takes.
pub struct Rows<'a, C> {
    pub across: &'a Span,
    pub lines: usize,
    pub sums: [&'a [C]; 2],
    pub groups: &'a mut Groups<C>,
    pub to: [&'a mut [C]; 2],
}

/// [`Rows`] by a way to join.
pub struct RowsBy<'a, C, J>(pub Rows<'a, C>, pub J);

impl<C: Real, J: Join> Kernel for RowsBy<'_, C, J> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(mut self) {
        self.sum::<C::Vector<I>>();
    }
}

impl<C: Real, J: Join> RowsBy<'_, C, J> {
    #[inline(always)]
    fn sum<V: Vector<Real = C>>(&mut self) {
        let windows = self.0.lines * self.0.across.lanes();
        match Step::of(&self.0.across.axis) {
            Step::Groups {
                stride: 1, whole, ..
            } => {
                let sums = self.0.sums;
                for at in (0..windows).step_by(V::LANES) {
                    self.store(at, shifted::<V, J>(sums, at, whole));
                }
            }
            Step::Groups {
                stride: 2,
                whole: 0 | 1,
                rest,
            } => self.in_registers::<V, 2>(windows, rest),
            Step::Groups {
                stride: 3,
                whole: 0 | 1,
                rest,
            } => self.in_registers::<V, 3>(windows, rest),
            Step::Groups {
                stride,
                whole,
                rest,
            } => {
                self.group::<V>(windows, stride, rest);
                for at in (0..windows).step_by(V::LANES) {
                    let groups = &*self.0.groups;
                    let [of_groups, of_rests] =
                        [&groups.whole, &groups.rest].map(|g| [&g[0][..], &g[1][..]]);
                    let sums: [V; 2] = match (whole, rest) {
                        (0, _) => load(of_rests, at),
                        (_, 0) => shifted::<V, J>(of_groups, at, whole),
                        _ => J::join(
                            shifted::<V, J>(of_groups, at, whole),
                            load(of_rests, at + whole),
                        ),
                    };
                    self.store(at, sums);
                }
            }
            Step::Ranges => self.ranges::<V>(),
        }
    }

    #[inline(always)]
    fn store<V: Vector<Real = C>>(&mut self, at: usize, sums: [V; 2]) {
        sums[0].store(&mut self.0.to[0][at..]);
        sums[1].store(&mut self.0.to[1][at..]);
    }

    /// Windows of at most one group of `S` cells and some of the next.
    #[inline(always)]
    fn in_registers<V: Vector<Real = C>, const S: usize>(&mut self, windows: usize, rest: usize) {
        let whole = self.0.across.axis.kernel >= S;
        for at in (0..windows).step_by(V::LANES) {
            let phases = self.phases::<V, S>(at * S);
            let sums = match (whole, rest) {
                (true, 0) => first::<V, J, S>(phases, S),
                (true, _) => {
                    let next = self.phases::<V, S>((at + 1) * S);
                    J::join(first::<V, J, S>(phases, S), first::<V, J, S>(next, rest))
                }
                (false, _) => first::<V, J, S>(phases, rest),
            };
            self.store(at, sums);
        }
    }

    /// The first cells of a vector of groups, the second ones, and so on.
    #[inline(always)]
    fn phases<V: Vector<Real = C>, const S: usize>(&self, at: usize) -> [[V; S]; 2] {
        // Loops, since closures are not compiled for the instruction set.
        let mut phases = [[V::zero(); S]; 2];
        for (phases, sums) in phases.iter_mut().zip(self.0.sums) {
            let sums = &sums[at..at + S * V::LANES];
            for i in 0..S {
                phases[i] = V::load(&sums[i * V::LANES..]);
            }
            *phases = V::split(*phases);
        }
        phases
    }

    /// All groups and rests.
    #[inline(always)]
    fn group<V: Vector<Real = C>>(&mut self, windows: usize, stride: usize, rest: usize) {
        let axis = &self.0.across.axis;
        let count = windows + axis.kernel.min(2 * axis.input) / stride + 2 * V::LANES + 1;
        let available = self.0.sums[0].len() / stride;
        let groups = &mut *self.0.groups;
        for sums in groups.whole.iter_mut().chain(&mut groups.rest) {
            sums.grow(count + V::LANES);
        }
        let count = count.min(available);
        match stride {
            2 => self.group_in_registers::<V, 2>(count, rest),
            3 => self.group_in_registers::<V, 3>(count, rest),
            _ => {
                for j in 0..count {
                    let start = j * stride;
                    let part = self.fold::<V>(start..start + rest);
                    let all = match rest {
                        0 => self.fold::<V>(start..start + stride),
                        _ => join::<J, C>(part, self.fold::<V>(start + rest..start + stride)),
                    };
                    for i in 0..2 {
                        self.0.groups.rest[i][j] = part[i];
                        self.0.groups.whole[i][j] = all[i];
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn group_in_registers<V: Vector<Real = C>, const S: usize>(
        &mut self,
        count: usize,
        rest: usize,
    ) {
        for at in (0..count / V::LANES * V::LANES).step_by(V::LANES) {
            let phases = self.phases::<V, S>(at * S);
            let (all, part) = (first::<V, J, S>(phases, S), first::<V, J, S>(phases, rest));
            for i in 0..2 {
                all[i].store(&mut self.0.groups.whole[i][at..]);
                part[i].store(&mut self.0.groups.rest[i][at..]);
            }
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
        } = self.0.across;
        for line in 0..self.0.lines {
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

    /// The sums of cells side by side: of many by vectors first.
    #[inline(always)]
    fn fold<V: Vector<Real = C>>(&self, cells: Range<usize>) -> [C; 2] {
        let [a, b] = self.0.sums;
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

/// The sums of `count` vectors, each a cell further than the one before.
#[inline(always)]
fn shifted<V: Vector, J: Join>([a, b]: [&[V::Real]; 2], at: usize, count: usize) -> [V; 2] {
    let reach = at..at + count - 1 + V::LANES;
    let cells = a[reach.clone()]
        .windows(V::LANES)
        .zip(b[reach].windows(V::LANES));
    let mut sums = load([a, b], at);
    for (a, b) in cells.skip(1) {
        sums = J::join(sums, [V::load(a), V::load(b)]);
    }
    sums
}

#[inline(always)]
fn first<V: Vector, J: Join, const S: usize>(phases: [[V; S]; 2], count: usize) -> [V; 2] {
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
