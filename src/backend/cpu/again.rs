//! Windows that do not hold by the shift of their band, pooled again: each by its own largest logit.
//!
//! Such windows lie far below others of their band: quiet parts of a loud signal, dark ones of a photograph. Vectors
//! have a window in each lane. Its cells are gathered, lifted, and on the way back given their gradients one after the
//! other, so that a window costs what its kernel has cells; but what is finite holds then.

use super::direct::terms;
use super::plan::{serial_terms, SPLIT};
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

/// A vector of windows of any line: side by side, or one in planes abreast.
struct Block {
    /// The first of the line, and how many lanes are of it.
    first: usize,
    count: usize,
    /// Where in a row each window begins, in cells of all planes, and how many columns it has.
    starts: [usize; MOST_LANES],
    lens: [usize; MOST_LANES],
    longest: usize,
    /// From a window to the next, where all are as long and as far apart.
    step: Option<usize>,
    /// From a column to the next.
    unit: usize,
}

impl Block {
    /// The `index`th of those that a line is cut into. The last reaches back, if there is one before.
    fn new(columns: &[Range<usize>], unit: usize, index: usize, lanes: usize) -> Self {
        let all = columns.len() * unit;
        let first = (index * lanes).min(all.saturating_sub(lanes));
        let (mut starts, mut lens) = ([0; MOST_LANES], [0; MOST_LANES]);
        for (lane, (start, len)) in starts.iter_mut().zip(&mut lens).enumerate() {
            // Lanes beyond the line repeat its last window.
            let at = (first + lane).min(all - 1);
            let window = &columns[at / unit];
            (*start, *len) = (window.start * unit + at % unit, window.len());
        }
        let (starts_of, lens_of) = (&starts[..lanes], &lens[..lanes]);
        let step = starts[1].saturating_sub(starts[0]);
        let even = starts_of.windows(2).all(|w| w[1] == w[0] + step)
            && lens_of.iter().all(|&len| len == lens[0]);
        Self {
            first,
            count: lanes.min(all),
            longest: lens_of.iter().copied().max().unwrap_or_default(),
            step: even.then_some(step),
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
    fn own<V: Vector>(&self, column: usize, lifted: [V; 2], none: [V; 2]) -> [V; 2] {
        if self.step.is_some() {
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
struct Line<'a> {
    index: usize,
    block: &'a Block,
    /// Where their outputs are.
    at: usize,
}

impl<C: Real> Again<'_, C> {
    /// The vectors that every line is cut into.
    fn blocks(&self, lanes: usize) -> Vec<Block> {
        let count = (self.columns.len() * self.unit).div_ceil(lanes);
        (0..count)
            .map(|index| Block::new(self.columns, self.unit, index, lanes))
            .collect()
    }

    /// Those of all lines, one line after the other.
    fn lines<'b>(&self, blocks: &'b [Block]) -> impl Iterator<Item = Line<'b>> + use<'b, C> {
        let pitch = self.pitch;
        (0..self.rows.len()).flat_map(move |index| {
            blocks.iter().map(move |block| Line {
                index,
                block,
                at: index * pitch + block.first,
            })
        })
    }

    /// The outputs that there are, and which of them nothing is to change.
    #[inline(always)]
    fn done<V: Vector<Real = C>>(&self, line: &Line<'_>) -> (V, V::Mask) {
        let values = V::load(&self.values[line.at..]);
        let hold = values.equal(values);
        match line.block.count < V::LANES {
            true => (values, V::or(hold, V::from(line.block.count))),
            false => (values, hold),
        }
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

impl<C: Real> Cells<C> {
    #[inline(always)]
    fn read<V: Vector<Real = C>, R: Rule>(&mut self, of: &Again<'_, C>, line: &Line<'_>) {
        let rows = of.rows[line.index].clone();
        let len = line.block.longest * V::LANES;
        let count = of.x.sizes[0] * rows.len() * len;
        for (cells, patch) in [(&mut self.x, &of.x), (&mut self.z, &of.z)] {
            cells.resize(count, C::default());
            let mut to = cells.chunks_exact_mut(len);
            for depth in 0..patch.sizes[0] {
                for (row, to) in rows.clone().zip(&mut to) {
                    line.block.read::<V>(patch.from(depth, row, 0), to);
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
        let mut sums = none;
        let most = serial_terms(block.longest);
        for row in (0..self.x.len()).step_by(block.longest * V::LANES) {
            for start in (0..block.longest).step_by(most) {
                let mut of_part = none;
                for column in start..block.longest.min(start + most) {
                    let at = row + column * V::LANES;
                    let lifted = rule.lift(self.cell::<V, R>(at, shift));
                    lifted[0].store(&mut self.weights[at..]);
                    of_part = R::Join::join(of_part, block.own(column, lifted, none));
                }
                sums = R::Join::join(sums, of_part);
            }
        }
        Pooled { shift, sums }
    }
}

/// [`Again`] by a rule.
pub struct AgainBy<'a, C, R>(pub Again<'a, C>, pub R);

impl<C: Real, R: Rule> Kernel for AgainBy<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(mut self) {
        let (mut cells, blocks) = (Cells::default(), self.0.blocks(C::Vector::<I>::LANES));
        for line in self.0.lines(&blocks) {
            self.line::<C::Vector<I>>(line, &mut cells);
        }
    }
}

impl<C: Real, R: Rule> AgainBy<'_, C, R> {
    #[inline(always)]
    fn line<V: Vector<Real = C>>(&mut self, line: Line<'_>, cells: &mut Cells<C>) {
        let Self(again, rule) = self;
        let (values, done) = again.done::<V>(&line);
        if V::all(done) {
            return;
        }
        cells.read::<V, R>(again, &line);
        let sums = cells.pool::<V, R>(*rule, line.block).sums;
        let y = rule.finish(sums);
        let y = V::select(rule.holds(sums, y), y, V::splat(C::NAN));
        V::select(done, values, y).store(&mut again.values[line.at..]);
    }
}

/// [`AgainGradients`] by a rule.
pub struct AgainGradientsBy<'a, C, R>(pub AgainGradients<'a, C>, pub R);

impl<C: Real, R: Rule> Kernel for AgainGradientsBy<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(mut self) {
        let (mut cells, blocks) = (Cells::default(), self.0.of.blocks(C::Vector::<I>::LANES));
        for line in self.0.of.lines(&blocks) {
            self.line::<C::Vector<I>>(line, &mut cells);
        }
    }
}

impl<C: Real, R: Rule> AgainGradientsBy<'_, C, R> {
    #[inline(always)]
    fn line<V: Vector<Real = C>>(&mut self, line: Line<'_>, cells: &mut Cells<C>) {
        let Self(AgainGradients { of, grads, .. }, rule) = self;
        let (values, done) = of.done::<V>(&line);
        if V::all(done) {
            return;
        }
        cells.read::<V, R>(of, &line);
        let Pooled { shift, sums } = cells.pool::<V, R>(*rule, line.block);
        let g = V::load_part(grads.from(0, line.index, line.block.first));
        let (y, holds, [a, b]) = terms(*rule, sums, g);
        let y = V::select(holds, y, V::splat(C::NAN));
        V::select(done, values, y).store(&mut of.values[line.at..]);
        let zero = V::zero();
        let given = [V::select(holds, a, zero), V::select(holds, b, zero)];
        let terms = [
            V::select(done, zero, given[0]),
            V::select(done, zero, given[1]),
        ];
        self.give(line, cells, shift, terms);
    }

    /// Gives the cells of some windows their gradients.
    #[inline(always)]
    fn give<V: Vector<Real = C>>(
        &mut self,
        line: Line<'_>,
        cells: &Cells<C>,
        shift: V,
        terms: [V; 2],
    ) {
        let AgainGradients {
            of,
            cells: [depths, rows, columns],
            steps,
            to: [of_x, of_z],
            ..
        } = &mut self.0;
        let (rule, block, rows_of) = (self.1, line.block, &of.rows[line.index]);
        for depth in depths.clone() {
            for row in overlap(rows, rows_of) {
                let first = (depth * rows_of.len() + row - rows_of.start) * block.longest;
                let to = (depth - depths.start) * steps[0] + (row - rows.start) * steps[1];
                // Backwards, a cell is given to by its windows one after the other, as it is where planes lie abreast.
                for column in (0..block.longest).rev() {
                    let at = (first + column) * V::LANES;
                    let weight = V::load(&cells.weights[at..]);
                    let cell = cells.cell::<V, R>(at, shift);
                    let [dx, dz] = rule.gradient(cell, weight, terms);
                    block.add(dx, &mut of_x[to..], column, columns);
                    if R::LOGITS {
                        block.add(dz, &mut of_z[to..], column, columns);
                    }
                }
            }
        }
    }
}
