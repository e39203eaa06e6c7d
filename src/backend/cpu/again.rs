//! Windows that do not hold by the shift of their band, pooled again: each by its own largest logit.
//!
//! Such windows lie far below others of their band: quiet parts of a loud signal, dark ones of a photograph. Vectors
//! have a window in each lane. Its cells are gathered, lifted, and on the way back given their gradients one after the
//! other: each window weighs all its cells anew, whichever it shares with others, but is as exact as any other then.

use super::direct::terms;
use super::plan::{SERIAL_TERMS, SPLIT};
use super::rule::{Cell, Join, Rule};
use super::vector::{InstructionSet, Kernel, Real, Vector, MOST_LANES};
use super::view::{overlap, Patch};
use std::ops::Range;

/// Windows of a plane, or of planes abreast, some of which do not hold.
pub struct Again<'a, C> {
    pub x: Patch<'a, C>,
    pub z: Patch<'a, C>,
    /// The rows of each line of windows, in the patch.
    pub rows: &'a [Range<usize>],
    /// The columns of each window of a line, likewise.
    pub columns: &'a [Range<usize>],
    /// Planes abreast, or 1.
    pub unit: usize,
    /// Outputs, NaN for windows that do not hold: line after line, and a vector more.
    pub values: &'a mut [C],
    /// From a line of outputs to the next.
    pub pitch: usize,
}

/// The same, for the gradients of their cells.
pub struct AgainGradients<'a, C> {
    pub of: Again<'a, C>,
    /// The gradients of the outputs.
    pub grads: Patch<'a, C>,
    /// The cells of the patch that have gradients: depths, rows and columns.
    pub cells: [Range<usize>; 3],
    /// From a depth of gradients to the next, and from a row.
    pub steps: [usize; 2],
    /// Gradients that are added to, and those of logits if there are some.
    pub to: [&'a mut [C]; 2],
}

/// The columns of a vector of windows: of windows side by side, or of one in planes abreast.
struct Block {
    /// Where in a row each window begins, in cells of all planes, and how many columns it has.
    starts: [usize; MOST_LANES],
    lens: [usize; MOST_LANES],
    longest: usize,
    /// Whether some have less.
    ragged: bool,
    /// From a window to the next, where none has less and all are as far apart.
    step: Option<usize>,
    /// From a column to the next.
    unit: usize,
}

impl Block {
    /// Those of the windows from `first` on, of which `count` are of the line: lanes beyond repeat the last.
    fn new(columns: &[Range<usize>], unit: usize, first: usize, count: usize) -> Self {
        let (mut starts, mut lens) = ([0; MOST_LANES], [0; MOST_LANES]);
        for (lane, (start, len)) in starts.iter_mut().zip(&mut lens).enumerate() {
            let at = first + lane.min(count - 1);
            let window = &columns[at / unit];
            (*start, *len) = (window.start * unit + at % unit, window.len());
        }
        let longest = lens.iter().copied().max().unwrap_or_default();
        let ragged = lens.iter().any(|&len| len < longest);
        let step = starts[1].saturating_sub(starts[0]);
        let even = starts[..count].windows(2).all(|w| w[1] == w[0] + step);
        Self {
            longest,
            ragged,
            step: (even && !ragged).then_some(step),
            starts,
            lens,
            unit,
        }
    }

    /// The cells of every column of a row, a window in each lane; the last again for windows that have less.
    #[inline(always)]
    fn read<V: Vector>(&self, row: &[V::Real], to: &mut [V::Real]) {
        match self.step {
            Some(1) if self.reaches(1, V::LANES) <= row.len() => self.read_by::<V, 1>(row, to),
            Some(2) if self.reaches(2, V::LANES) <= row.len() => self.read_by::<V, 2>(row, to),
            Some(SPLIT) if self.reaches(SPLIT, V::LANES) <= row.len() => {
                self.read_by::<V, SPLIT>(row, to);
            }
            _ => {
                for (column, to) in to.chunks_exact_mut(V::LANES).enumerate() {
                    for (lane, to) in to.iter_mut().enumerate() {
                        let column = column.min(self.lens[lane] - 1);
                        *to = row[self.starts[lane] + column * self.unit];
                    }
                }
            }
        }
    }

    /// The end of the cells that vectors read of a row.
    fn reaches(&self, step: usize, lanes: usize) -> usize {
        self.starts[0] + (self.longest - 1) * self.unit + step * lanes
    }

    #[inline(always)]
    fn read_by<V: Vector, const N: usize>(&self, row: &[V::Real], to: &mut [V::Real]) {
        for (column, to) in to.chunks_exact_mut(V::LANES).enumerate() {
            split::<V, N>(&row[self.starts[0] + column * self.unit..])[0].store(to);
        }
    }

    /// What windows add to their sums in this column: `none` for those that do not have it.
    #[inline(always)]
    fn added<V: Vector>(&self, column: usize, lifted: [V; 2], none: [V; 2]) -> [V; 2] {
        if !self.ragged {
            return lifted;
        }
        let mut has = [V::Real::default(); MOST_LANES];
        for (has, &len) in has.iter_mut().zip(&self.lens) {
            *has = V::Real::from_f64(if column < len { 1.0 } else { 0.0 });
        }
        let has = V::load(&has).greater(V::zero());
        let [a, b] = lifted;
        [V::select(has, a, none[0]), V::select(has, b, none[1])]
    }

    /// Adds to the gradients of a column's cells, of which `row` has those of the columns `cells`.
    #[inline(always)]
    fn add<V: Vector>(&self, v: V, row: &mut [V::Real], column: usize, cells: &Range<usize>) {
        let inside = cells.start * self.unit..cells.end * self.unit;
        let first = self.starts[0] + column * self.unit;
        let len = self.step.unwrap_or_default() * V::LANES;
        let all = first >= inside.start && first + len <= inside.end;
        match self.step {
            Some(1) if all => add_by::<V, 1>(v, &mut row[first - inside.start..]),
            Some(2) if all => add_by::<V, 2>(v, &mut row[first - inside.start..]),
            Some(SPLIT) if all => add_by::<V, SPLIT>(v, &mut row[first - inside.start..]),
            _ => {
                let mut lanes = [V::Real::default(); MOST_LANES];
                v.store(&mut lanes);
                for (lane, v) in lanes[..V::LANES].iter().enumerate() {
                    let at = self.starts[lane] + column * self.unit;
                    if column < self.lens[lane] && inside.contains(&at) {
                        let to = &mut row[at - inside.start];
                        *to = to.add(*v);
                    }
                }
            }
        }
    }
}

/// `N` vectors of cells, split.
#[inline(always)]
fn split<V: Vector, const N: usize>(cells: &[V::Real]) -> [V; N] {
    let mut vectors = [V::zero(); N];
    for (i, vector) in vectors.iter_mut().enumerate() {
        *vector = V::load(&cells[i * V::LANES..]);
    }
    V::split(vectors)
}

/// Adds to every `N`th cell.
#[inline(always)]
fn add_by<V: Vector, const N: usize>(v: V, cells: &mut [V::Real]) {
    let mut phases = split::<V, N>(cells);
    phases[0] = phases[0].add(v);
    for (i, vector) in V::interleave(phases).into_iter().enumerate() {
        vector.store(&mut cells[i * V::LANES..]);
    }
}

/// A vector of windows of a line.
#[derive(Clone, Copy)]
struct At {
    line: usize,
    /// The first, and how many lanes are of the line.
    first: usize,
    count: usize,
}

/// Those of a vector's windows that do not hold.
struct Missing<V: Vector> {
    at: At,
    /// All outputs of the vector, and which of them are not to change.
    values: V,
    done: V::Mask,
}

impl<C: Real> Again<'_, C> {
    /// Vectors of windows a line.
    fn vectors(&self, lanes: usize) -> usize {
        (self.columns.len() * self.unit).div_ceil(lanes)
    }

    fn slot(&self, at: At) -> usize {
        at.line * self.pitch + at.first
    }

    /// Those of a vector of a line; none if all hold. The last vector reaches back, if there is one before.
    #[inline(always)]
    fn missing<V: Vector<Real = C>>(&self, line: usize, vector: usize) -> Option<Missing<V>> {
        let all = self.columns.len() * self.unit;
        let at = At {
            line,
            first: (vector * V::LANES).min(all.saturating_sub(V::LANES)),
            count: V::LANES.min(all),
        };
        let values = V::load(&self.values[self.slot(at)..]);
        let mut done = values.equal(values);
        if at.count < V::LANES {
            done = V::or(done, V::from(at.count));
        }
        let missing = Missing { at, values, done };
        (!V::all(done)).then_some(missing)
    }

    /// The columns of a vector of windows, which are those of every line: made where they are first asked for.
    fn block<'b>(&self, blocks: &'b mut Vec<Option<Block>>, vector: usize, at: At) -> &'b Block {
        if blocks.len() <= vector {
            blocks.resize_with(vector + 1, || None);
        }
        let new = || Block::new(self.columns, self.unit, at.first, at.count);
        blocks[vector].get_or_insert_with(new)
    }

    /// The outputs of those windows that hold now.
    #[inline(always)]
    fn write<V: Vector<Real = C>>(&mut self, missing: &Missing<V>, y: V, holds: V::Mask) {
        let y = V::select(holds, y, V::splat(C::NAN));
        let slot = self.slot(missing.at);
        V::select(missing.done, missing.values, y).store(&mut self.values[slot..]);
    }
}

/// The cells of a vector of windows in row-major order, a window in each lane.
#[derive(Default)]
struct Cells<C> {
    x: Vec<C>,
    /// Empty for rules without logits.
    z: Vec<C>,
    /// The first sums of the cells, which are their weights.
    weights: Vec<C>,
}

/// A vector of windows by their own largest logits.
struct Pooled<V> {
    shift: V,
    sums: [V; 2],
}

/// Sums of terms of which no more than [`SERIAL_TERMS`] are added up one after the other.
struct Parts<V> {
    /// Those of all parts but the last.
    before: [V; 2],
    part: [V; 2],
    /// Terms that the last part may still have.
    left: usize,
    /// Those of no terms.
    none: [V; 2],
}

impl<V: Vector> Parts<V> {
    #[inline(always)]
    fn new(none: [V; 2]) -> Self {
        Self {
            before: none,
            part: none,
            left: SERIAL_TERMS,
            none,
        }
    }

    #[inline(always)]
    fn add<J: Join>(&mut self, term: [V; 2]) {
        self.part = J::join(self.part, term);
        self.left -= 1;
        if self.left == 0 {
            (self.before, self.part) = (J::join(self.before, self.part), self.none);
            self.left = SERIAL_TERMS;
        }
    }

    #[inline(always)]
    fn all<J: Join>(self) -> [V; 2] {
        J::join(self.before, self.part)
    }
}

impl<C: Real> Cells<C> {
    /// Those of windows in a line's rows.
    #[inline(always)]
    fn read<V: Vector<Real = C>, R: Rule>(
        &mut self,
        of: &Again<'_, C>,
        line: usize,
        block: &Block,
    ) {
        let rows = of.rows[line].clone();
        let len = block.longest * V::LANES;
        let count = of.x.sizes[0] * rows.len() * len;
        for (cells, patch) in [(&mut self.x, &of.x), (&mut self.z, &of.z)] {
            cells.resize(count, C::default());
            let mut to = cells.chunks_exact_mut(len);
            for depth in 0..patch.sizes[0] {
                for (row, to) in rows.clone().zip(&mut to) {
                    block.read::<V>(patch.from(depth, row, 0), to);
                }
            }
            if !R::LOGITS {
                break;
            }
        }
        self.weights.resize(count, C::default());
    }

    #[inline(always)]
    fn cell<V: Vector<Real = C>, R: Rule>(&self, at: usize, shift: V) -> Cell<V> {
        let x = V::load(&self.x[at..]);
        Cell {
            x,
            z: match R::LOGITS {
                true => V::load(&self.z[at..]),
                false => x,
            },
            shift,
            place: V::zero(),
        }
    }

    #[inline(always)]
    fn pool<V: Vector<Real = C>, R: Rule>(&mut self, rule: R, block: &Block) -> Pooled<V> {
        let mut shift = V::splat(C::NEG_INFINITY);
        let logits = if R::LOGITS { &self.z } else { &self.x };
        for cells in logits.chunks_exact(V::LANES) {
            let z = V::load(cells);
            shift = rule.logit(z, z).max(shift);
        }
        let [a, b] = R::Join::IDENTITY;
        let none = [V::splat(C::from_f64(a)), V::splat(C::from_f64(b))];
        // By columns and rows of the window, whose sums then do not depend on longer ones beside it.
        let mut sums = Parts::new(none);
        for row in (0..self.x.len()).step_by(block.longest * V::LANES) {
            let mut of_row = Parts::new(none);
            for column in 0..block.longest {
                let at = row + column * V::LANES;
                let lifted = rule.lift(self.cell::<V, R>(at, shift));
                lifted[0].store(&mut self.weights[at..]);
                of_row.add::<R::Join>(block.added(column, lifted, none));
            }
            sums.add::<R::Join>(of_row.all::<R::Join>());
        }
        let sums = sums.all::<R::Join>();
        Pooled { shift, sums }
    }
}

/// [`Again`] by a rule.
pub struct AgainBy<'a, C, R>(pub Again<'a, C>, pub R);

impl<C: Real, R: Rule> Kernel for AgainBy<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        self.windows::<C::Vector<I>>();
    }
}

impl<C: Real, R: Rule> AgainBy<'_, C, R> {
    #[inline(always)]
    fn windows<V: Vector<Real = C>>(self) {
        let Self(mut again, rule) = self;
        let (mut cells, mut blocks) = (Cells::default(), Vec::new());
        for line in 0..again.rows.len() {
            for vector in 0..again.vectors(V::LANES) {
                let Some(missing) = again.missing::<V>(line, vector) else {
                    continue;
                };
                let block = again.block(&mut blocks, vector, missing.at);
                cells.read::<V, R>(&again, line, block);
                let sums = cells.pool::<V, R>(rule, block).sums;
                let y = rule.finish(sums);
                again.write(&missing, y, rule.holds(sums, y));
            }
        }
    }
}

/// [`AgainGradients`] by a rule.
pub struct AgainGradientsBy<'a, C, R>(pub AgainGradients<'a, C>, pub R);

impl<C: Real, R: Rule> Kernel for AgainGradientsBy<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        self.windows::<C::Vector<I>>();
    }
}

/// What the cells of a vector of windows need for their gradients.
struct Given<'a, V: Vector> {
    cells: &'a Cells<V::Real>,
    shift: V,
    terms: [V; 2],
    /// Windows that give nothing.
    none: V::Mask,
}

impl<C: Real, R: Rule> AgainGradientsBy<'_, C, R> {
    #[inline(always)]
    fn windows<V: Vector<Real = C>>(mut self) {
        let (mut cells, mut blocks, rule) = (Cells::default(), Vec::new(), self.1);
        for line in 0..self.0.of.rows.len() {
            for vector in 0..self.0.of.vectors(V::LANES) {
                let AgainGradients { of, grads, .. } = &mut self.0;
                let Some(missing) = of.missing::<V>(line, vector) else {
                    continue;
                };
                let block = of.block(&mut blocks, vector, missing.at);
                cells.read::<V, R>(of, line, block);
                let Pooled { shift, sums } = cells.pool::<V, R>(rule, block);
                let g = V::load_part(grads.from(0, line, missing.at.first));
                let (y, holds, [a, b]) = terms(rule, sums, g);
                of.write(&missing, y, holds);
                let zero = V::zero();
                let given = Given {
                    cells: &cells,
                    shift,
                    terms: [V::select(holds, a, zero), V::select(holds, b, zero)],
                    none: missing.done,
                };
                self.give(line, block, &given);
            }
        }
    }

    /// Gives the cells of some windows their gradients.
    #[inline(always)]
    fn give<V: Vector<Real = C>>(&mut self, line: usize, block: &Block, given: &Given<'_, V>) {
        let AgainGradients {
            of,
            cells: [depths, rows, columns],
            steps,
            to: [of_x, of_z],
            ..
        } = &mut self.0;
        let (rule, rows_of) = (self.1, &of.rows[line]);
        // Not 0, which would change the sign of a gradient of -0.
        let nothing = V::splat(C::from_f64(-0.0));
        for depth in depths.clone() {
            for row in overlap(rows, rows_of) {
                let first = (depth * rows_of.len() + row - rows_of.start) * block.longest;
                let to = (depth - depths.start) * steps[0] + (row - rows.start) * steps[1];
                // From the last column, so that a cell adds up its windows in their order, as it does where planes lie
                // abreast: its bits are the same then.
                for column in (0..block.longest).rev() {
                    let at = (first + column) * V::LANES;
                    let weight = V::load(&given.cells.weights[at..]);
                    let cell = given.cells.cell::<V, R>(at, given.shift);
                    let [dx, dz] = rule.gradient(cell, weight, given.terms);
                    let dx = V::select(given.none, nothing, dx);
                    block.add(dx, &mut of_x[to..], column, columns);
                    if R::LOGITS {
                        let dz = V::select(given.none, nothing, dz);
                        block.add(dz, &mut of_z[to..], column, columns);
                    }
                }
            }
        }
    }
}
