//! Planes of one window each, which is global pooling of small maps, from the cells to the output and back.
//!
//! Planes are pooled a block at a time, of as many as a vector has lanes, and each has as many accumulators. Cell `i` goes
//! to accumulator `i` modulo that number, but for the last cells, too few for one each, which are left over. So the
//! accumulators of a block are a square of vectors: of planes whose cells lie side by side a vector for each plane, with its
//! accumulators as lanes; of planes abreast a vector for each accumulator, with the planes as lanes. Either way they are
//! joined two and two, halves first, and the cells left over come last: the sums have the same bits.
//!
//! Weights are those of a window's own largest logit, so that none is lost.

use super::direct::terms;
use super::plan::ABREAST;
use super::rows::Ending;
use super::rule::{Cell, Join, Rule};
use super::vector::{prefetch, InstructionSet, Kernel, Real, Vector, MOST_LANES};
use super::view::Planes;
use std::marker::PhantomData;

/// Some planes of one window each, [`ABREAST`] at most.
#[derive(Clone, Copy)]
pub struct Whole<'a, C> {
    pub x: Planes<'a, C>,
    pub z: Planes<'a, C>,
    pub planes: usize,
    /// Cells of a plane, no fewer than a vector has lanes.
    pub cells: usize,
    /// Whether all lie abreast, [`ABREAST`] of them.
    pub abreast: bool,
}

/// Gradients of the cells of [`Whole`] planes.
pub struct WholeGradients<'a, C> {
    pub of: Whole<'a, C>,
    /// The gradients of the outputs, one a plane, and a vector more.
    pub grads: &'a [C],
    /// Likewise the outputs, NaN for windows that do not hold.
    pub values: &'a mut [C],
    /// Gradients, and those of logits if there are some: as the planes lie.
    pub to: [&'a mut [C]; 2],
    /// As [`Planes::pitch`].
    pub pitch: usize,
    /// Space for the weights of a block: see [`Whole::weights`].
    pub weights: &'a mut [C],
}

impl<C> Whole<'_, C> {
    /// Room for the weights of a block.
    pub fn weights(&self) -> usize {
        MOST_LANES * self.cells
    }
}

/// [`Whole`] planes by a rule, to this ending.
pub struct WholeBy<'a, C, R, E>(pub Whole<'a, C>, pub R, pub E);

impl<C: Real, R: Rule, E: Ending<C>> Kernel for WholeBy<'_, C, R, E> {
    type Output = E;

    #[inline(always)]
    fn run<I: InstructionSet>(self) -> E {
        match self.0.abreast {
            true => self.blocks::<C::Vector<I>, true>(),
            false => self.blocks::<C::Vector<I>, false>(),
        }
    }
}

impl<C: Real, R: Rule, E: Ending<C>> WholeBy<'_, C, R, E> {
    #[inline(always)]
    fn blocks<V: Vector<Real = C>, const ACROSS: bool>(self) -> E {
        let Self(of, rule, mut ending) = self;
        for first in (0..of.planes).step_by(V::LANES) {
            let block: Block<'_, V, R, ACROSS> = Block::new(rule, of, first);
            let sums = block.sums::<false>(block.shifts(), &mut []);
            ending.take(first, sums, of.planes - first);
        }
        ending
    }
}

/// [`WholeGradients`] by a rule.
pub struct WholeGradientsBy<'a, C, R>(pub WholeGradients<'a, C>, pub R);

impl<C: Real, R: Rule> Kernel for WholeGradientsBy<'_, C, R> {
    type Output = bool;

    #[inline(always)]
    fn run<I: InstructionSet>(self) -> bool {
        match self.0.of.abreast {
            true => self.blocks::<C::Vector<I>, true>(),
            false => self.blocks::<C::Vector<I>, false>(),
        }
    }
}

impl<C: Real, R: Rule> WholeGradientsBy<'_, C, R> {
    #[inline(always)]
    fn blocks<V: Vector<Real = C>, const ACROSS: bool>(self) -> bool {
        let Self(mut work, rule) = self;
        let (zero, nan) = (V::zero(), V::splat(C::NAN));
        let mut all = true;
        for first in (0..work.of.planes).step_by(V::LANES) {
            let block: Block<'_, V, R, ACROSS> = Block::new(rule, work.of, first);
            let shifts = block.shifts();
            let sums = block.sums::<true>(shifts, work.weights);
            let (y, holds, [a, b]) = terms(rule, sums, V::load(&work.grads[first..]));
            all &= V::all_below(holds, work.of.planes - first);
            V::select(holds, y, nan).store(&mut work.values[first..]);
            let terms = [V::select(holds, a, zero), V::select(holds, b, zero)];
            block.give(shifts, terms, &mut work);
        }
        all
    }
}

/// Planes as many as a vector has lanes, or what is left of them; abreast if `ACROSS`.
///
/// Their shifts, sums and terms are vectors with a lane for each plane.
#[derive(Clone, Copy)]
struct Block<'a, V: Vector, R, const ACROSS: bool> {
    rule: R,
    of: Whole<'a, V::Real>,
    /// The first plane.
    first: usize,
    /// How many there are.
    planes: usize,
    /// Cells of a plane that are dealt out: the others are left over.
    dealt: usize,
    lanes: PhantomData<V>,
}

impl<'a, V: Vector, R: Rule, const ACROSS: bool> Block<'a, V, R, ACROSS> {
    #[inline(always)]
    fn new(rule: R, of: Whole<'a, V::Real>, first: usize) -> Self {
        assert!(V::LANES <= of.cells);
        let block = Self {
            rule,
            of,
            first,
            planes: V::LANES.min(of.planes - first),
            dealt: of.cells / V::LANES * V::LANES,
            lanes: PhantomData,
        };
        // Checked once for all vectors.
        assert!(block.end(of.x.pitch) <= of.x.cells.len());
        assert!(block.end(of.z.pitch) <= of.z.cells.len());
        block
    }

    /// Behind the last cell of the last plane.
    #[inline(always)]
    fn end(&self, pitch: usize) -> usize {
        match ACROSS {
            true => (self.of.cells - 1) * ABREAST + self.first + V::LANES,
            false => (self.first + self.planes - 1) * pitch + self.of.cells,
        }
    }

    /// Vectors of the square that take cells: not those of planes that are not there.
    #[inline(always)]
    fn vectors(&self) -> usize {
        match ACROSS {
            true => V::LANES,
            false => self.planes,
        }
    }

    /// Where the cells are that a vector takes, when so many have been dealt out before.
    #[inline(always)]
    fn index(&self, pitch: usize, vector: usize, before: usize) -> usize {
        match ACROSS {
            true => (before + vector) * ABREAST + self.first,
            false => (self.first + vector) * pitch + before,
        }
    }

    /// What each plane has one of, in the lanes of a vector.
    #[inline(always)]
    fn for_vector(&self, of_planes: &[V::Real; MOST_LANES], vector: usize) -> V {
        match ACROSS {
            true => V::load(of_planes),
            false => V::splat(of_planes[vector]),
        }
    }

    /// The cells that a vector takes.
    ///
    /// # Safety
    ///
    /// The planes must be the block's, the vector one of those that take cells, and there must be a vector of cells from
    /// there on; abreast, that cell.
    #[inline(always)]
    unsafe fn load(&self, planes: &Planes<'_, V::Real>, vector: usize, before: usize) -> V {
        let at = self.index(planes.pitch, vector, before);
        // SAFETY: they lie before the end, which was asserted to be inside.
        V::load(unsafe { planes.cells.get_unchecked(at..at + V::LANES) })
    }

    /// # Safety
    ///
    /// As for [`Block::load`].
    #[inline(always)]
    unsafe fn cell(&self, shift: V, vector: usize, before: usize) -> Cell<V> {
        // SAFETY: the caller's.
        let x = unsafe { self.load(&self.of.x, vector, before) };
        Cell {
            x,
            z: match R::LOGITS {
                // SAFETY: the caller's.
                true => unsafe { self.load(&self.of.z, vector, before) },
                false => x,
            },
            shift,
            place: match (R::PLACES, ACROSS) {
                (false, _) => V::zero(),
                (_, true) => V::splat(V::Real::from_f64((before + vector) as f64)),
                (_, false) => V::iota().add(V::splat(V::Real::from_f64(before as f64))),
            },
        }
    }

    /// A cell of each plane that is left over.
    #[inline(always)]
    fn load_left(&self, planes: &Planes<'_, V::Real>, cell: usize) -> V {
        if ACROSS {
            return V::load(&planes.cells[self.index(planes.pitch, 0, cell)..]);
        }
        let mut lanes = [V::Real::default(); MOST_LANES];
        for (i, lane) in lanes.iter_mut().enumerate().take(self.planes) {
            // SAFETY: before the end, as above.
            *lane = unsafe {
                *planes
                    .cells
                    .get_unchecked(self.index(planes.pitch, i, cell))
            };
        }
        V::load(&lanes)
    }

    #[inline(always)]
    fn cell_left(&self, shift: V, cell: usize) -> Cell<V> {
        let x = self.load_left(&self.of.x, cell);
        Cell {
            x,
            z: match R::LOGITS {
                true => self.load_left(&self.of.z, cell),
                false => x,
            },
            shift,
            place: V::splat(V::Real::from_f64(cell as f64)),
        }
    }

    /// The largest logits, NaN left out.
    #[inline(always)]
    fn shifts(&self) -> V {
        if !R::SHIFTED {
            return V::zero();
        }
        let mut square = [[V::splat(V::Real::NEG_INFINITY)]; MOST_LANES];
        for (vector, [largest]) in square.iter_mut().enumerate().take(self.vectors()) {
            for before in (0..self.dealt).step_by(V::LANES) {
                // SAFETY: one of these vectors, and of the cells dealt out.
                let Cell { x, z, .. } = unsafe { self.cell(V::zero(), vector, before) };
                *largest = self.rule.logit(x, z).max(*largest);
            }
            if !ACROSS && self.dealt < self.of.cells {
                // SAFETY: the last cells of a plane, those left over and some that have been looked at.
                let Cell { x, z, .. } =
                    unsafe { self.cell(V::zero(), vector, self.of.cells - V::LANES) };
                *largest = self.rule.logit(x, z).max(*largest);
            }
        }
        let [mut largest] = joined::<V, Highest, 1, ACROSS>(square);
        if ACROSS {
            for cell in self.dealt..self.of.cells {
                let Cell { x, z, .. } = self.cell_left(V::zero(), cell);
                largest = self.rule.logit(x, z).max(largest);
            }
        }
        largest
    }

    /// The sums. The weights of cells are kept if asked.
    #[inline(always)]
    fn sums<const KEEP: bool>(&self, shifts: V, weights: &mut [V::Real]) -> [V; 2] {
        let mut of_planes = [V::Real::default(); MOST_LANES];
        shifts.store(&mut of_planes);
        let mut square = [[V::zero(); 2]; MOST_LANES];
        for (vector, sums) in square.iter_mut().enumerate().take(self.vectors()) {
            let shift = self.for_vector(&of_planes, vector);
            for before in (0..self.dealt).step_by(V::LANES) {
                self.fetch_next(vector, before);
                // SAFETY: as above.
                let lifted = self.rule.lift(unsafe { self.cell(shift, vector, before) });
                self.keep::<KEEP>(lifted[0], weights, vector * self.dealt + before);
                *sums = match before {
                    0 => lifted,
                    _ => R::Join::join(*sums, lifted),
                };
            }
        }
        let mut sums = joined::<V, R::Join, 2, ACROSS>(square);
        for cell in self.dealt..self.of.cells {
            let lifted = self.rule.lift(self.cell_left(shifts, cell));
            self.keep::<KEEP>(lifted[0], weights, cell * V::LANES);
            sums = R::Join::join(sums, lifted);
        }
        sums
    }

    /// Has the cache fetch the cells of the next block's planes, which lie behind these unless they are gathered.
    #[inline(always)]
    fn fetch_next(&self, vector: usize, before: usize) {
        for Planes { cells, pitch } in [self.of.x, self.of.z]
            .into_iter()
            .take(1 + usize::from(R::LOGITS))
        {
            if !ACROSS {
                prefetch(cells, self.index(pitch, V::LANES + vector, before));
            }
        }
    }

    #[inline(always)]
    fn keep<const KEEP: bool>(&self, weight: V, weights: &mut [V::Real], at: usize) {
        if KEEP && R::SHIFTED {
            weight.store(&mut weights[at..]);
        }
    }

    #[inline(always)]
    fn kept(&self, weights: &[V::Real], at: usize) -> V {
        match R::SHIFTED {
            true => V::load(&weights[at..]),
            false => V::zero(),
        }
    }

    /// The gradients of cells, from the terms of their planes.
    #[inline(always)]
    fn give(&self, shifts: V, terms: [V; 2], work: &mut WholeGradients<'_, V::Real>) {
        let mut of_planes = [[V::Real::default(); MOST_LANES]; 3];
        for (of_planes, values) in of_planes.iter_mut().zip([shifts, terms[0], terms[1]]) {
            values.store(of_planes);
        }
        let [of_shifts, a, b] = &of_planes;
        assert!(self.end(work.pitch) <= work.to[0].len());
        assert!(!R::LOGITS || self.end(work.pitch) <= work.to[1].len());
        for vector in 0..self.vectors() {
            let shift = self.for_vector(of_shifts, vector);
            let terms = [self.for_vector(a, vector), self.for_vector(b, vector)];
            for before in (0..self.dealt).step_by(V::LANES) {
                let weight = self.kept(work.weights, vector * self.dealt + before);
                // SAFETY: as above.
                let cell = unsafe { self.cell(shift, vector, before) };
                let [dx, dz] = self.rule.gradient(cell, weight, terms);
                let to = self.index(work.pitch, vector, before);
                let to = to..to + V::LANES;
                // SAFETY: before the end, as asserted above.
                unsafe {
                    dx.store(work.to[0].get_unchecked_mut(to.clone()));
                    if R::LOGITS {
                        dz.store(work.to[1].get_unchecked_mut(to));
                    }
                }
            }
        }
        for cell in self.dealt..self.of.cells {
            let weight = self.kept(work.weights, cell * V::LANES);
            let [dx, dz] = self
                .rule
                .gradient(self.cell_left(shifts, cell), weight, terms);
            self.store_left(dx, cell, work.pitch, work.to[0]);
            if R::LOGITS {
                self.store_left(dz, cell, work.pitch, work.to[1]);
            }
        }
    }

    /// The inverse of [`Block::load_left`].
    #[inline(always)]
    fn store_left(&self, values: V, cell: usize, pitch: usize, to: &mut [V::Real]) {
        if ACROSS {
            return values.store(&mut to[self.index(pitch, 0, cell)..]);
        }
        let mut lanes = [V::Real::default(); MOST_LANES];
        values.store(&mut lanes);
        for (i, lane) in lanes.into_iter().enumerate().take(self.planes) {
            to[self.index(pitch, i, cell)] = lane;
        }
    }
}

/// What two accumulators become.
trait Meet<const N: usize> {
    fn meet<V: Vector>(a: [V; N], b: [V; N]) -> [V; N];
}

impl<J: Join> Meet<2> for J {
    #[inline(always)]
    fn meet<V: Vector>(a: [V; 2], b: [V; 2]) -> [V; 2] {
        J::join(a, b)
    }
}

/// The larger of both.
struct Highest;

impl Meet<1> for Highest {
    #[inline(always)]
    fn meet<V: Vector>([a]: [V; 1], [b]: [V; 1]) -> [V; 1] {
        [a.max(b)]
    }
}

/// What all accumulators become, a lane for each plane.
#[inline(always)]
fn joined<V: Vector, M: Meet<N>, const N: usize, const ACROSS: bool>(
    mut square: [[V; N]; MOST_LANES],
) -> [V; N] {
    let mut half = V::LANES / 2;
    while half > 0 {
        for i in 0..half {
            let (mut a, mut b) = (square[i], square[i + half]);
            if !ACROSS {
                // These are two planes, with accumulators as lanes: the lower halves of both, and the upper ones. By the end each
                // plane has come to the lane of its number.
                for (a, b) in a.iter_mut().zip(&mut b) {
                    [*a, *b] = V::interleave([*a, *b]);
                }
            }
            square[i] = M::meet(a, b);
        }
        half /= 2;
    }
    square[0]
}
