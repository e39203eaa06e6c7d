//! Down the columns: cells are lifted and summed over the depths and rows of their windows.
//!
//! Rows are cut wherever a window begins or ends. Every such piece is summed once, into a line as long as a row of
//! activations with its padding; the sums of a row of windows are those of some pieces that follow each other.

use super::plan::{is_ranged, Span, ABREAST};
use super::rule::{Cell, Join, Rule};
use super::vector::{InstructionSet, Kernel, Real, Vector, MOST_LANES};
use super::view::Patch;
use crate::geometry::Axis;
use std::ops::Range;

/// Rows that the same windows have, one after the other.
#[derive(Default, Debug)]
pub struct Pieces {
    /// What they were cut for: bands of whole planes are all alike.
    of: Option<(Axis, Range<usize>)>,
    /// Rows of the patch.
    pub rows: Vec<Range<usize>>,
    /// The pieces of each window, and the most that one has.
    pub windows: Vec<Range<usize>>,
    most: usize,
}

impl Pieces {
    /// The pieces of these windows.
    pub fn cut(&mut self, span: &Span) {
        let of = Some((span.axis, span.windows.clone()));
        if of == self.of {
            return;
        }
        self.of = of;
        self.rows.clear();
        self.windows.clear();
        self.find(span);
        self.most = self.windows.iter().map(Range::len).max().unwrap_or(0);
    }

    fn find(&mut self, span: &Span) {
        let first = span.cells.start;
        if span.axis.disjoint() && !is_ranged(&span.axis) {
            for (i, o) in span.windows.clone().enumerate() {
                let window = span.axis.window(o);
                self.rows.push(window.start - first..window.end - first);
                self.windows.push(i..i + 1);
            }
            return;
        }
        // Both ends of windows go up with the rows; `open` is the first that has begun and not ended, `end` its end.
        let (mut next, mut open) = (span.windows.start, 0);
        let mut begin = span.axis.window(next);
        let (mut row, mut end) = (begin.start, begin.end);
        loop {
            while next < span.windows.end && begin.start <= row {
                self.windows.push(self.rows.len()..usize::MAX);
                next += 1;
                if next < span.windows.end {
                    begin = span.axis.window(next);
                }
            }
            if open == self.windows.len() {
                if next == span.windows.end {
                    return;
                }
                // No window has the rows between.
                row = begin.start;
                continue;
            }
            let stop = match next < span.windows.end {
                true => end.min(begin.start),
                false => end,
            };
            self.rows.push(row - first..stop - first);
            row = stop;
            while open < self.windows.len() && end == row {
                self.windows[open].end = self.rows.len();
                open += 1;
                if span.windows.start + open < span.windows.end {
                    end = span.axis.window(span.windows.start + open).end;
                }
            }
        }
    }

    /// Lines of pieces that one window shares with the next: a power of two, since pieces take turns.
    pub fn lines(&self) -> usize {
        self.most.next_power_of_two()
    }

    /// The first piece of window `w` that the one before it has not.
    fn first_new(&self, w: usize) -> usize {
        let before = w
            .checked_sub(1)
            .map_or(0, |before| self.windows[before].end);
        before.max(self.windows[w].start)
    }

    /// The first piece that the next window has as well.
    fn shared(&self, w: usize) -> usize {
        self.windows
            .get(w + 1)
            .map_or(usize::MAX, |next| next.start)
    }
}

/// The sums down the columns of windows: the cells of a plane in, a line for each row of windows out.
pub struct Columns<'a, C> {
    pub x: Patch<'a, C>,
    pub z: Patch<'a, C>,
    pub shifts: &'a Shifts<C>,
    pub pieces: &'a Pieces,
    /// The rows of windows that are summed; what those before share with them is in `shared`.
    pub windows: Range<usize>,
    /// Planes abreast.
    pub unit: usize,
    /// From a line to the next, and sums of no cells before the first column and behind the last.
    pub pitch: usize,
    pub before: usize,
    pub lines: [&'a mut [C]; 2],
    /// Room for [`Pieces::lines`], [`kept_pitch`] each.
    pub shared: [&'a mut [C]; 2],
    /// Where the first sums of cells are to be kept, row after row with [`kept_pitch`].
    pub kept: Option<&'a mut [C]>,
}

/// The largest logit of a plane, repeated, or those of planes abreast, twice.
#[derive(Clone, Copy)]
pub struct Shifts<C>(pub [C; 2 * ABREAST]);

impl<C: Real> Shifts<C> {
    /// Those of a vector of cells, the first of which is number `at` of its row.
    #[inline(always)]
    pub fn of<V: Vector<Real = C>>(&self, at: usize) -> V {
        V::load(&self.0[at % ABREAST..])
    }
}

/// Where a row of cells begins.
#[derive(Clone, Copy, Debug)]
struct Row {
    x: usize,
    z: usize,
    /// Cells before it in its patch, in row-major order.
    place: usize,
    kept: usize,
}

/// From a row of kept sums to the next: vectors may reach behind the last cell.
pub fn kept_pitch(columns: usize) -> usize {
    columns.next_multiple_of(MOST_LANES)
}

/// [`Columns`] by a rule.
pub struct Lift<'a, C, R>(pub Columns<'a, C>, pub R);

impl<C: Real, R: Rule> Kernel for Lift<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        match self.0.kept {
            Some(_) if R::SHIFTED => self.sum::<C::Vector<I>, true>(),
            _ => self.sum::<C::Vector<I>, false>(),
        }
    }
}

/// Vectors that are summed at a time, since one alone waits for its own results.
const TOGETHER: usize = 2;

impl<C: Real, R: Rule> Lift<'_, C, R> {
    #[inline(always)]
    fn sum<V: Vector<Real = C>, const KEEP: bool>(self) {
        let Self(
            Columns {
                x,
                z,
                shifts,
                pieces,
                windows,
                unit,
                pitch,
                before,
                lines: [to_a, to_b],
                shared: [shared_a, shared_b],
                kept,
            },
            rule,
        ) = self;
        let [depths, height, width] = x.sizes;
        // Checked once for all: a row is read by whole vectors. The last may reach behind it, but never back: memory that
        // two stores have just written in part is slow to load.
        let reach = width.next_multiple_of(V::LANES);
        // The last row begins last.
        let last = (depths - 1, height - 1);
        assert!(x.at(last.0, last.1) + reach <= x.cells.len());
        assert!(z.at(last.0, last.1) + reach <= z.cells.len());
        let kept = kept.unwrap_or_default();
        assert!(!KEEP || depths * height * kept_pitch(width) <= kept.len());
        for window in &pieces.windows[windows.clone()] {
            assert!(window.start < window.end);
            for piece in &pieces.rows[window.clone()] {
                assert!(piece.start < piece.end && piece.end <= height);
            }
        }
        let of_lines = windows.len().saturating_sub(1) * pitch;
        let of_last = (before + reach).max(pitch + V::LANES);
        assert!(of_lines + of_last <= to_a.len().min(to_b.len()));
        let none = R::Join::IDENTITY.map(C::from_f64).map(V::splat);
        let room = shared_a.len().min(shared_b.len());
        assert!(pieces.lines() * kept_pitch(width) <= room);
        // One vector after the other, or if planes lie abreast those of the same planes.
        let (lanes, step) = match unit {
            1 => (1, V::LANES),
            _ => (unit, unit),
        };
        for lane in (0..lanes).step_by(V::LANES) {
            let mut lifting: Lifting<'_, C, V, R> = Lifting {
                rule,
                x,
                z,
                shift: shifts.of(lane),
                unit,
                step,
                pieces: &pieces.rows,
                shared: [shared_a, shared_b],
                pitch: kept_pitch(width),
                turns: pieces.lines() - 1,
                kept,
            };
            for w in windows.clone() {
                let window = Stretch {
                    old: pieces.windows[w].start..pieces.first_new(w),
                    new: pieces.first_new(w)..pieces.windows[w].end,
                    shared: pieces.shared(w),
                };
                let line = (w - windows.start) * pitch;
                let to = line + before;
                let mut at = lane;
                // SAFETY: as asserted above; what is written behind some columns, or a line, is written again later.
                unsafe {
                    for padded in (0..before).step_by(V::LANES) {
                        store(none, [to_a, to_b], line + padded);
                    }
                    while at + step < reach {
                        let sums = lifting.window::<TOGETHER, KEEP>(&window, at);
                        for (i, sums) in sums.into_iter().enumerate() {
                            store(sums, [to_a, to_b], to + at + i * step);
                        }
                        at += TOGETHER * step;
                    }
                    if at < reach {
                        let [sums] = lifting.window::<1, KEEP>(&window, at);
                        store(sums, [to_a, to_b], to + at);
                    }
                    for padded in (before + width..pitch).step_by(V::LANES) {
                        store(none, [to_a, to_b], line + padded);
                    }
                }
            }
        }
    }
}

/// The pieces of a window: those that the window before it has as well, the others, and from which on the next has them.
struct Stretch {
    old: Range<usize>,
    new: Range<usize>,
    shared: usize,
}

/// What a rule lifts, and where its sums go.
struct Lifting<'a, C, V, R> {
    rule: R,
    x: Patch<'a, C>,
    z: Patch<'a, C>,
    shift: V,
    unit: usize,
    /// From a vector to the next.
    step: usize,
    pieces: &'a [Range<usize>],
    shared: [&'a mut [C]; 2],
    /// From a line of `shared` to the next, and the bits of a piece's number that say which is its.
    pitch: usize,
    turns: usize,
    kept: &'a mut [C],
}

impl<C: Real, V: Vector<Real = C>, R: Rule> Lifting<'_, C, V, R> {
    /// The sums of a window's columns, `N` vectors of them from this one on, a step apart.
    ///
    /// # Safety
    ///
    /// What [`Lift`] asserts, and there must be so many columns or less than a vector of them.
    #[inline(always)]
    unsafe fn window<const N: usize, const KEEP: bool>(
        &mut self,
        window: &Stretch,
        start: usize,
    ) -> [[V; 2]; N] {
        let mut sums = [[V::zero(); 2]; N];
        let mut begun = false;
        for piece in window.old.clone() {
            let at = (piece & self.turns) * self.pitch + start;
            for (i, sums) in sums.iter_mut().enumerate() {
                let [a, b] = &self.shared;
                // SAFETY: the caller's.
                let more = unsafe { load([a, b], at + i * self.step) };
                *sums = if begun {
                    R::Join::join(*sums, more)
                } else {
                    more
                };
            }
            begun = true;
        }
        for piece in window.new.clone() {
            // SAFETY: the caller's.
            let of_piece: [[V; 2]; N] = unsafe { self.piece::<N, KEEP>(piece, start) };
            if piece >= window.shared {
                let at = (piece & self.turns) * self.pitch + start;
                for (i, &sums) in of_piece.iter().enumerate() {
                    let [a, b] = &mut self.shared;
                    // SAFETY: the caller's.
                    unsafe { store(sums, [a, b], at + i * self.step) };
                }
            }
            for (sums, more) in sums.iter_mut().zip(of_piece) {
                *sums = if begun {
                    R::Join::join(*sums, more)
                } else {
                    more
                };
            }
            begun = true;
        }
        sums
    }

    /// The sums of a piece's columns, likewise.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::window`].
    #[inline(always)]
    unsafe fn piece<const N: usize, const KEEP: bool>(
        &mut self,
        piece: usize,
        start: usize,
    ) -> [[V; 2]; N] {
        let mut sums = [[V::zero(); 2]; N];
        // SAFETY: the caller's.
        unsafe {
            let Range {
                start: mut row,
                end,
            } = self.pieces.get_unchecked(piece).clone();
            let first = self.find(row, 0);
            for (i, sums) in sums.iter_mut().enumerate() {
                *sums = self.row::<KEEP>(first, start + i * self.step);
            }
            let mut depth = 0;
            loop {
                depth += 1;
                if depth == self.x.sizes[0] {
                    (row, depth) = (row + 1, 0);
                    if row == end {
                        break;
                    }
                }
                let next = self.find(row, depth);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let lifted = self.row::<KEEP>(next, start + i * self.step);
                    *sums = R::Join::join(*sums, lifted);
                }
            }
        }
        sums
    }

    /// Where a row begins.
    #[inline(always)]
    fn find(&self, row: usize, depth: usize) -> Row {
        let [_, height, width] = self.x.sizes;
        let index = depth * height + row;
        Row {
            x: self.x.at(depth, row),
            z: self.z.at(depth, row),
            place: index * width,
            kept: index * kept_pitch(width),
        }
    }

    /// What a vector of cells of a row adds, from this column on.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::window`].
    #[inline(always)]
    unsafe fn row<const KEEP: bool>(&mut self, row: Row, start: usize) -> [V; 2] {
        let (of_x, of_z, kept) = (row.x + start, row.z + start, row.kept + start);
        // SAFETY: the caller's.
        unsafe {
            let x = V::load(self.x.cells.get_unchecked(of_x..of_x + V::LANES));
            let z = match R::LOGITS {
                true => V::load(self.z.cells.get_unchecked(of_z..of_z + V::LANES)),
                false => x,
            };
            let place = match R::PLACES {
                true if self.unit > 1 => {
                    V::splat(C::from_f64(((row.place + start) / self.unit) as f64))
                }
                true => V::iota().add(V::splat(C::from_f64((row.place + start) as f64))),
                false => V::zero(),
            };
            let shift = self.shift;
            let lifted = self.rule.lift(Cell { x, z, shift, place });
            if KEEP {
                lifted[0].store(self.kept.get_unchecked_mut(kept..kept + V::LANES));
            }
            lifted
        }
    }
}

/// # Safety
///
/// There must be as many cells as lanes from there on.
#[inline(always)]
unsafe fn load<V: Vector>([a, b]: [&[V::Real]; 2], at: usize) -> [V; 2] {
    // SAFETY: the caller knows that there are so many.
    unsafe {
        [
            V::load(a.get_unchecked(at..at + V::LANES)),
            V::load(b.get_unchecked(at..at + V::LANES)),
        ]
    }
}

/// # Safety
///
/// As for [`load`].
#[inline(always)]
unsafe fn store<V: Vector>(sums: [V; 2], [a, b]: [&mut [V::Real]; 2], at: usize) {
    // SAFETY: the caller knows that there are so many.
    unsafe {
        sums[0].store(a.get_unchecked_mut(at..at + V::LANES));
        sums[1].store(b.get_unchecked_mut(at..at + V::LANES));
    }
}
