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
    /// From a line of sums to the next.
    pub pitch: usize,
    /// Padded columns before the first: sums of no cells.
    pub before: usize,
    pub lines: [&'a mut [C]; 2],
    /// [`room`] for the lines of pieces.
    pub shared: [&'a mut [C]; 2],
    /// Where the first sums of cells, which are their weights, are to be kept: row after row with [`weights_pitch`].
    pub weights: Option<&'a mut [C]>,
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
    weights: usize,
}

impl Row {
    /// The row as far from this one as that one is from the first.
    #[inline(always)]
    fn further(self, by: Row) -> Self {
        Self {
            x: self.x + by.x,
            z: self.z + by.z,
            place: self.place + by.place,
            weights: self.weights + by.weights,
        }
    }
}

/// From a row of weights to the next: vectors may reach behind the last cell.
pub fn weights_pitch(columns: usize) -> usize {
    columns.next_multiple_of(MOST_LANES)
}

/// From the line of a piece to the next. Those that windows slide over are as long as those of windows, padding included,
/// so that many are added up as one.
fn pitch_of_pieces(pieces: &Pieces, width: usize, pitch: usize) -> usize {
    match pieces.slide {
        true => pitch,
        false => weights_pitch(width),
    }
}

/// Sums of the lines of pieces, for rows of so many sums of cells and lines of windows of so many.
pub fn room(pieces: &Pieces, width: usize, pitch: usize) -> usize {
    pieces.turns * pitch_of_pieces(pieces, width, pitch) + pitch + 2 * MOST_LANES
}

/// [`Columns`] by a rule.
pub struct Lift<'a, C, R>(pub Columns<'a, C>, pub R);

impl<C: Real, R: Rule> Kernel for Lift<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        match self.0.weights {
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
                weights,
            },
            rule,
        ) = self;
        let [depths, height, width] = x.sizes;
        // What follows is checked once for all that is done below without checks.
        // Cells: a row is read by whole vectors. The last may reach behind it, but never back: memory that two stores have
        // just written in part is slow to load.
        let reach = width.next_multiple_of(V::LANES);
        // The last row begins last.
        let last = (depths - 1, height - 1);
        assert!(x.at(last.0, last.1) + reach <= x.cells.len());
        assert!(z.at(last.0, last.1) + reach <= z.cells.len());
        // Weights: a row of them for every row of cells.
        let weights = weights.unwrap_or_default();
        assert!(!KEEP || depths * height * weights_pitch(width) <= weights.len());
        assert!(pieces.height() <= height);
        // Lines of windows: behind the last, what the vectors of a row or of padding reach.
        let of_lines = windows.len().saturating_sub(1) * pitch;
        let of_last = (before + reach).max(pitch + before + V::LANES);
        assert!(of_lines + of_last <= to_a.len().min(to_b.len()));
        assert!(before + width <= pitch);
        // Lines of pieces: as many as have one at a time.
        assert!(room(pieces, width, pitch) <= shared_a.len().min(shared_b.len()));
        let ring = Ring {
            first: Line::new([shared_a, shared_b]),
            mask: match pieces.slide {
                true => usize::MAX,
                false => pieces.turns - 1,
            },
            pitch: pitch_of_pieces(pieces, width, pitch),
        };
        let lines = Line::new([to_a, to_b]);
        let (lanes, step) = match unit {
            1 => (1, V::LANES),
            _ => (unit, unit),
        };
        let of_windows = &pieces.windows[windows];
        // Planes abreast are gone through a vector of them at a time. Each time touches only their own sums of every line, so
        // that those of windows before, which the next ones share, are still there.
        for first in (0..lanes).step_by(V::LANES) {
            let mut lifting: Lifting<'_, C, V, R> = Lifting {
                rule,
                x,
                z,
                shift: shifts.of(first),
                unit,
                columns: Strided { first, step, reach },
                padded: Padded {
                    before,
                    width,
                    pitch,
                },
                ring,
                next_band: x.at(last.0, last.1) + reach,
                weights,
            };
            // SAFETY: as asserted above; what is written behind some columns, or a line, is written again later.
            unsafe {
                match pieces.slide {
                    true => lifting.all::<KEEP>(pieces, of_windows),
                    false => lifting.windows::<KEEP>(pieces, of_windows, lines),
                }
            }
        }
        if pieces.slide {
            // SAFETY: as asserted above.
            unsafe { slide::<C, V, R>(ring, of_windows, lines) };
        }
    }
}

/// The sums of the columns of windows that slide down the rows: neighbours of as many pieces are added up as one.
///
/// # Safety
///
/// What [`Lift`] asserts.
#[inline(always)]
unsafe fn slide<C: Real, V: Vector<Real = C>, R: Rule>(
    ring: Ring<C>,
    mut windows: &[OfWindow],
    mut to: Line<C>,
) {
    while let [first, following @ ..] = windows {
        let Range { start, end } = first.pieces;
        let mut count = 1;
        for (i, window) in following.iter().enumerate() {
            if window.pieces != (start + i + 1..end + i + 1) {
                break;
            }
            count += 1;
        }
        // SAFETY: the caller's.
        unsafe {
            let sliding = Sliding {
                first: ring.line(start),
                pieces: end - start,
                pitch: ring.pitch,
                to,
            };
            let reach = count * ring.pitch;
            let mut at = 0;
            while at + 2 * V::LANES <= reach {
                sliding.add::<V, R, 2>(at);
                at += 2 * V::LANES;
            }
            while at < reach {
                sliding.add::<V, R, 1>(at);
                at += V::LANES;
            }
            to = to.from(count * ring.pitch);
        }
        windows = &windows[count..];
    }
}

/// Lines of pieces that are added up as one with those that follow them.
#[derive(Clone, Copy)]
struct Sliding<C> {
    first: Line<C>,
    /// Pieces of a window.
    pieces: usize,
    pitch: usize,
    to: Line<C>,
}

impl<C: Real> Sliding<C> {
    /// The sums of `N` vectors.
    ///
    /// # Safety
    ///
    /// What [`Lift`] asserts.
    #[inline(always)]
    unsafe fn add<V: Vector<Real = C>, R: Rule, const N: usize>(self, at: usize) {
        let mut sums = [[V::zero(); 2]; N];
        // SAFETY: the caller's.
        unsafe {
            let mut line = self.first.from(at);
            for (i, sums) in sums.iter_mut().enumerate() {
                *sums = line.load(i * V::LANES);
            }
            for _ in 1..self.pieces {
                line = line.from(self.pitch);
                for (i, sums) in sums.iter_mut().enumerate() {
                    *sums = R::Join::join(*sums, line.load(i * V::LANES));
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                self.to.store(at + i * V::LANES, sums);
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

/// The lines of pieces, which take turns.
#[derive(Clone, Copy)]
struct Ring<C> {
    first: Line<C>,
    /// The bits of a piece's number that are that of its line.
    mask: usize,
    pitch: usize,
}

impl<C: Real> Ring<C> {
    /// # Safety
    ///
    /// There must be as many lines as the mask has numbers, or as there are pieces.
    #[inline(always)]
    unsafe fn line(self, piece: usize) -> Line<C> {
        // SAFETY: the caller's.
        unsafe { self.first.from((piece & self.mask) * self.pitch) }
    }
}

/// Where the vectors of a row begin: one after the other, or if planes lie abreast those of the same planes.
#[derive(Clone, Copy)]
struct Strided {
    first: usize,
    step: usize,
    reach: usize,
}

/// Where the cells of a row lie in its line.
#[derive(Clone, Copy)]
struct Padded {
    before: usize,
    width: usize,
    pitch: usize,
}

impl Padded {
    /// From behind the last cell to the first of the next line.
    fn between(self) -> Range<usize> {
        self.before + self.width..self.pitch + self.before
    }
}

/// What a rule lifts.
struct Lifting<'a, C, V, R> {
    rule: R,
    x: Patch<'a, C>,
    z: Patch<'a, C>,
    shift: V,
    unit: usize,
    columns: Strided,
    padded: Padded,
    ring: Ring<C>,
    /// From a cell to that of the next band, roughly.
    next_band: usize,
    weights: &'a mut [C],
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
    /// The sums of the columns of these windows, to a line each.
    ///
    /// # Safety
    ///
    /// What [`Lift`] asserts.
    #[inline(always)]
    unsafe fn windows<const KEEP: bool>(
        &mut self,
        pieces: &Pieces,
        windows: &[OfWindow],
        lines: Line<C>,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let mut line = lines;
            self.pad(line, 0..self.padded.before);
            for window in windows {
                self.window::<KEEP>(pieces, window, line.from(self.padded.before));
                self.pad(line, self.padded.between());
                line = line.from(self.padded.pitch);
            }
        }
    }

    /// The sums of the columns of the pieces of these windows that those before have not, each to its line.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::windows`].
    #[inline(always)]
    unsafe fn all<const KEEP: bool>(&mut self, pieces: &Pieces, windows: &[OfWindow]) {
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
            return;
        };
        // SAFETY: the caller's.
        unsafe {
            let mut line = self.ring.line(first.new);
            self.pad(line, 0..self.padded.before);
            for piece in &pieces.all[first.new..last.pieces.end] {
                let to = Sums {
                    piece: Some(line.from(self.padded.before)),
                    window: None,
                };
                self.lift::<KEEP, 0>(&piece.rows, [], to);
                self.pad(line, self.padded.between());
                line = line.from(self.padded.pitch);
            }
        }
    }

    /// Sums of no cells in a line, over what vectors of cells have left there.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::windows`].
    #[inline(always)]
    unsafe fn pad(&self, line: Line<C>, padded: Range<usize>) {
        let none = R::Join::IDENTITY.map(C::from_f64).map(V::splat);
        for at in padded.step_by(V::LANES) {
            // SAFETY: the caller's.
            unsafe { line.store(at, none) };
        }
    }

    /// The sums of a window's columns, to this line: those of its pieces, joined in their order.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::windows`].
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
                        self.join(start..i, to);
                        self.lift::<KEEP, 1>(rows, [to], sums);
                    }
                    _ => self.lift::<KEEP, 0>(rows, [], sums),
                }
            }
            if window.new == end {
                self.join(start..end, to);
            }
        }
    }

    /// Joins the lines of some pieces.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::windows`].
    #[inline(always)]
    unsafe fn join(&mut self, pieces: Range<usize>, to: Line<C>) {
        let ring = self.ring;
        let first = pieces.start;
        let mut piece = pieces.end.min(first + 3);
        // SAFETY: the caller's.
        unsafe {
            match piece - first {
                1 => self.add([ring.line(first)], to),
                2 => self.add([ring.line(first), ring.line(first + 1)], to),
                _ => {
                    let lines = [ring.line(first), ring.line(first + 1), ring.line(first + 2)];
                    self.add(lines, to);
                }
            }
            while piece + 1 < pieces.end {
                self.add([to, ring.line(piece), ring.line(piece + 1)], to);
                piece += 2;
            }
            if piece < pieces.end {
                self.add([to, ring.line(piece)], to);
            }
        }
    }

    /// Joins some lines to another.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::windows`].
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
    /// As for [`Lifting::windows`].
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
    /// As for [`Lifting::windows`].
    #[inline(always)]
    unsafe fn more<const KEEP: bool>(
        &mut self,
        mut sums: [V; 2],
        rows: &Range<usize>,
        at: usize,
    ) -> [V; 2] {
        // The row of the first depth, which those of the others follow.
        let (deeper, below) = (self.find(0, 1), self.find(1, 0));
        let mut first = self.find(rows.start, 0);
        let (mut row, mut depth, mut next) = (rows.start, 0, first);
        loop {
            depth += 1;
            next = next.further(deeper);
            if depth == self.x.sizes[0] {
                row += 1;
                if row == rows.end {
                    return sums;
                }
                first = first.further(below);
                (depth, next) = (0, first);
            }
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
            weights: index * weights_pitch(width),
        }
    }

    /// What a vector of cells of a row adds, from this column on.
    ///
    /// # Safety
    ///
    /// As for [`Lifting::windows`].
    #[inline(always)]
    unsafe fn row<const KEEP: bool>(&mut self, row: Row, start: usize) -> [V; 2] {
        let (of_x, of_z, weights) = (row.x + start, row.z + start, row.weights + start);
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
                lifted[0].store(self.weights.get_unchecked_mut(weights..weights + V::LANES));
            }
            lifted
        }
    }
}

/// The sums of some lines from this column on, joined.
///
/// # Safety
///
/// As for [`Lifting::windows`].
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
