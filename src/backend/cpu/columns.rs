//! Down the columns: cells are lifted and summed over the depths and rows of their windows.
//!
//! Every [piece](super::pieces) of rows is summed once, into a line as long as a row of activations with its padding; the
//! sums of a row of windows are those of some pieces that follow each other.

use super::pieces::{OfWindow, Pieces};
use super::plan::ABREAST;
use super::rule::{Cell, Join, Rule};
use super::vector::{prefetch, InstructionSet, Kernel, Real, Vector, MOST_LANES};
use super::view::Patch;
use std::ops::Range;
use std::slice;

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
        assert!(pieces.height() <= height);
        let of_lines = windows.len().saturating_sub(1) * pitch;
        let of_last = (before + reach).max(pitch + V::LANES);
        assert!(of_lines + of_last <= to_a.len().min(to_b.len()));
        let none = R::Join::IDENTITY.map(C::from_f64).map(V::splat);
        let room = shared_a.len().min(shared_b.len());
        assert!(pieces.lines() * kept_pitch(width) <= room);
        let ring = Ring {
            first: Line::new([shared_a, shared_b]),
            turns: pieces.turns(),
            pitch: kept_pitch(width),
        };
        let lines = Line::new([to_a, to_b]);
        let (lanes, step) = match unit {
            1 => (1, V::LANES),
            _ => (unit, unit),
        };
        for first in (0..lanes).step_by(V::LANES) {
            let mut lifting: Lifting<'_, C, V, R> = Lifting {
                rule,
                x,
                z,
                shift: shifts.of(first),
                unit,
                columns: Strided { first, step, reach },
                ring,
                next_band: x.at(last.0, last.1) + reach,
                kept,
            };
            for (i, window) in pieces.windows[windows.clone()].iter().enumerate() {
                // SAFETY: as asserted above; what is written behind some columns, or a line, is written again later.
                unsafe {
                    let line = lines.from(i * pitch);
                    for padded in (0..before).step_by(V::LANES) {
                        line.store(padded, none);
                    }
                    lifting.window::<KEEP>(pieces, window, line.from(before));
                    for padded in (before + width..pitch).step_by(V::LANES) {
                        line.store(padded, none);
                    }
                }
            }
        }
    }
}

/// The first and the second sums of some columns. Pointers, since some lines of a slice are read while others of it are
/// written, and a loop has no registers to find out where they begin.
#[derive(Clone, Copy)]
struct Line<C>([*mut C; 2]);

impl<C: Real> Line<C> {
    fn new(sums: [&mut [C]; 2]) -> Self {
        Self(sums.map(<[C]>::as_mut_ptr))
    }

    /// # Safety
    ///
    /// There must be so many sums. As for all of these, what this was made of must still be there, and not be used.
    #[inline(always)]
    unsafe fn from(self, at: usize) -> Self {
        // SAFETY: the caller's.
        Self(self.0.map(|sums| unsafe { sums.add(at) }))
    }

    /// # Safety
    ///
    /// There must be a vector of them from there on.
    #[inline(always)]
    unsafe fn load<V: Vector<Real = C>>(self, at: usize) -> [V; 2] {
        let [a, b] = self.0;
        // SAFETY: the caller's.
        unsafe {
            [
                V::load(slice::from_raw_parts(a.add(at), V::LANES)),
                V::load(slice::from_raw_parts(b.add(at), V::LANES)),
            ]
        }
    }

    /// # Safety
    ///
    /// As for [`Line::load`].
    #[inline(always)]
    unsafe fn store<V: Vector<Real = C>>(self, at: usize, sums: [V; 2]) {
        let [a, b] = self.0;
        // SAFETY: the caller's.
        unsafe {
            sums[0].store(slice::from_raw_parts_mut(a.add(at), V::LANES));
            sums[1].store(slice::from_raw_parts_mut(b.add(at), V::LANES));
        }
    }
}

/// The lines of pieces, which take turns, and one for several of them joined.
#[derive(Clone, Copy)]
struct Ring<C> {
    first: Line<C>,
    turns: usize,
    pitch: usize,
}

impl<C: Real> Ring<C> {
    /// # Safety
    ///
    /// There must be one more line than turns.
    #[inline(always)]
    unsafe fn line(self, piece: usize) -> Line<C> {
        // SAFETY: the caller's.
        unsafe { self.first.from((piece & (self.turns - 1)) * self.pitch) }
    }

    /// # Safety
    ///
    /// As for [`Ring::line`].
    #[inline(always)]
    unsafe fn joined(self) -> Line<C> {
        // SAFETY: the caller's.
        unsafe { self.first.from(self.turns * self.pitch) }
    }
}

/// Where the vectors of a row begin: one after the other, or if planes lie abreast those of the same planes.
#[derive(Clone, Copy)]
struct Strided {
    first: usize,
    step: usize,
    reach: usize,
}

/// What a rule lifts.
struct Lifting<'a, C, V, R> {
    rule: R,
    x: Patch<'a, C>,
    z: Patch<'a, C>,
    shift: V,
    unit: usize,
    columns: Strided,
    ring: Ring<C>,
    /// From a cell to that of the next band, roughly.
    next_band: usize,
    kept: &'a mut [C],
}

/// Where the sums of a piece go.
#[derive(Clone, Copy)]
struct Sums<C> {
    /// The line of the piece, if it has one.
    piece: Option<Line<C>>,
    /// The line of the window whose last piece it is.
    window: Option<Line<C>>,
}

impl<C: Real, V: Vector<Real = C>, R: Rule> Lifting<'_, C, V, R> {
    /// The sums of a window's columns, to this line: those of its pieces, joined in their order.
    ///
    /// # Safety
    ///
    /// What [`Lift`] asserts.
    #[inline(always)]
    unsafe fn window<const KEEP: bool>(&mut self, pieces: &Pieces, window: &OfWindow, to: Line<C>) {
        let Range { start, end } = window.pieces;
        let ring = self.ring;
        // SAFETY: the caller's.
        unsafe {
            for (i, piece) in (window.new..end).zip(&pieces.all[window.new..end]) {
                let is_last = i + 1 == end;
                let sums = Sums {
                    piece: piece.has_line.then_some(ring.line(i)),
                    window: is_last.then_some(to),
                };
                let rows = &piece.rows;
                match i - start {
                    1 if is_last => self.lift::<KEEP, 1>(rows, [ring.line(start)], sums),
                    2 if is_last => {
                        let before = [ring.line(start), ring.line(start + 1)];
                        self.lift::<KEEP, 2>(rows, before, sums);
                    }
                    3.. if is_last => {
                        self.join(start..i);
                        self.lift::<KEEP, 1>(rows, [ring.joined()], sums);
                    }
                    _ => self.lift::<KEEP, 0>(rows, [], sums),
                }
            }
            if window.new == end {
                self.join(start..end);
                self.add([ring.joined()], to);
            }
        }
    }

    /// Joins the lines of some pieces.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::window`].
    #[inline(always)]
    unsafe fn join(&mut self, pieces: Range<usize>) {
        let ring = self.ring;
        // SAFETY: the caller's.
        unsafe {
            let (mut piece, joined) = (pieces.start + 1, ring.joined());
            self.add([ring.line(pieces.start)], joined);
            while piece + 1 < pieces.end {
                self.add([joined, ring.line(piece), ring.line(piece + 1)], joined);
                piece += 2;
            }
            if piece < pieces.end {
                self.add([joined, ring.line(piece)], joined);
            }
        }
    }

    /// Joins some lines to another.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::window`].
    #[inline(always)]
    unsafe fn add<const N: usize>(&self, lines: [Line<C>; N], to: Line<C>) {
        let Strided { first, step, reach } = self.columns;
        let mut at = first;
        while at < reach {
            // SAFETY: the caller's.
            unsafe { to.store::<V>(at, joined::<C, V, R, N>(lines, at)) };
            at += step;
        }
    }

    /// The sums of the columns of a piece, for its window joined with those of the pieces `before`.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::window`].
    #[inline(always)]
    unsafe fn lift<const KEEP: bool, const N: usize>(
        &mut self,
        rows: &Range<usize>,
        before: [Line<C>; N],
        to: Sums<C>,
    ) {
        let row = self.find(rows.start, 0);
        let single = self.x.sizes[0] == 1 && rows.len() == 1;
        let Strided { first, step, reach } = self.columns;
        let mut at = first;
        while at < reach {
            // SAFETY: the caller's.
            unsafe {
                let mut sums = self.row::<KEEP>(row, at);
                if !single {
                    sums = self.more::<KEEP>(sums, rows, at);
                }
                if let Some(line) = to.piece {
                    line.store(at, sums);
                }
                if let Some(line) = to.window {
                    if N > 0 {
                        sums = R::Join::join(joined::<C, V, R, N>(before, at), sums);
                    }
                    line.store(at, sums);
                }
            }
            at += step;
        }
    }

    /// These sums with those of all rows and depths but the first.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::window`].
    #[inline(always)]
    unsafe fn more<const KEEP: bool>(
        &mut self,
        mut sums: [V; 2],
        rows: &Range<usize>,
        at: usize,
    ) -> [V; 2] {
        let (mut row, mut depth) = (rows.start, 0);
        loop {
            depth += 1;
            if depth == self.x.sizes[0] {
                (row, depth) = (row + 1, 0);
                if row == rows.end {
                    return sums;
                }
            }
            let next = self.find(row, depth);
            // SAFETY: the caller's.
            let lifted = unsafe { self.row::<KEEP>(next, at) };
            sums = R::Join::join(sums, lifted);
        }
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
            prefetch(self.x.cells, of_x + self.next_band);
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

/// The sums of some lines from this column on, joined.
///
/// # Safety
///
/// As for [`Lifting::window`].
#[inline(always)]
unsafe fn joined<C: Real, V: Vector<Real = C>, R: Rule, const N: usize>(
    lines: [Line<C>; N],
    at: usize,
) -> [V; 2] {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = lines[0].load(at);
        for line in &lines[1..] {
            sums = R::Join::join(sums, line.load(at));
        }
        sums
    }
}
