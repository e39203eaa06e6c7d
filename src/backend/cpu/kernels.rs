//! A rule compiled for an instruction set, behind one face: the engine's steps do not multiply by rules and sets.

use super::columns::{Columns, Gather, GatherBy, Lift};
use super::rows::{Rows, RowsBy};
use super::rule::{Cell, Join, Rule, Window};
use super::spread::{Spread, SpreadBy, Spreading};
#[cfg(target_arch = "x86_64")]
use super::vector::x86;
use super::vector::{Arch, InstructionSet, Kernel, Portable, Real, Vector};
use std::marker::PhantomData;

/// The steps of a rule, each compiled for an instruction set.
pub trait Kernels<C>: Send + Sync {
    fn traits(&self) -> Traits;
    /// The larger of this and the largest logit of some cells, NaN left out.
    fn largest_logit(&self, cells: &[C], largest: C) -> C;
    fn columns(&self, work: Columns<'_, C>);
    fn gather(&self, work: Gather<'_, C>);
    fn rows(&self, work: Rows<'_, C>);
    /// Whether all hold, those between lines included.
    fn finish(&self, work: Finish<'_, C>) -> bool;
    fn terms(&self, work: Terms<'_, C>);
    fn spread(&self, work: &Spread<'_, C>, row: usize, spreading: &mut Spreading<C>);
    fn gradient(&self, work: Gradients<'_, C>);
    /// [`Rule::define`]
    fn define(&self, window: &Window) -> f64;
    /// [`Rule::define_gradient`]
    fn define_gradient(&self, window: &Window, g: f64, add: &mut dyn FnMut(usize, [f64; 2]));
    /// [`Rule::replace`]
    fn replace(&self, y: f64, most: f64) -> f64;
}

/// What the engine must know of a [`Rule`].
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    pub shifted: bool,
    pub logits: bool,
    pub places: bool,
    pub terms: usize,
    pub counts_padding: bool,
    /// The sums of no cells.
    pub identity: [f64; 2],
}

/// Outputs from the sums of windows, NaN for those that do not hold; whole vectors.
pub struct Finish<'a, C> {
    pub sums: [&'a [C]; 2],
    pub values: &'a mut [C],
}

/// Terms from the sums of windows, zero for those that do not hold; whole vectors.
pub struct Terms<'a, C> {
    pub sums: [&'a [C]; 2],
    /// As [`Finish::values`].
    pub values: &'a mut [C],
    /// The gradients of the outputs, in the first.
    pub terms: [&'a mut [C]; 2],
}

/// The gradients of a row of cells, added to what is there; vectors may reach behind the last of them.
pub struct Gradients<'a, C> {
    pub count: usize,
    /// From the first of the cells on.
    pub x: &'a [C],
    pub z: &'a [C],
    pub shift: C,
    /// The sums of their windows' terms.
    pub terms: [&'a [C]; 2],
    pub to: [&'a mut [C]; 2],
}

/// `R` for `I`.
pub struct Compiled<R, I> {
    rule: R,
    set: PhantomData<fn(I)>,
}

impl<R, I> Compiled<R, I> {
    /// # Safety
    ///
    /// The machine must have the instruction set.
    pub unsafe fn new(rule: R) -> Self {
        Self {
            rule,
            set: PhantomData,
        }
    }

    fn call<K: Kernel>(&self, kernel: K) -> K::Output
    where
        I: InstructionSet,
    {
        // SAFETY: whoever made `self` knew that the machine has the set.
        unsafe { I::call(kernel) }
    }
}

impl<C: Real, R: Rule, I: InstructionSet> Kernels<C> for Compiled<R, I> {
    fn traits(&self) -> Traits {
        Traits {
            shifted: R::SHIFTED,
            logits: R::LOGITS,
            places: R::PLACES,
            terms: R::TERMS,
            counts_padding: self.rule.counts_padding(),
            identity: R::Join::IDENTITY,
        }
    }

    fn largest_logit(&self, cells: &[C], largest: C) -> C {
        self.call(Largest {
            rule: self.rule,
            cells,
            largest,
        })
    }

    fn columns(&self, work: Columns<'_, C>) {
        self.call(Lift(work, self.rule));
    }

    fn gather(&self, work: Gather<'_, C>) {
        self.call(GatherBy(work, R::Join::default()));
    }

    fn rows(&self, work: Rows<'_, C>) {
        self.call(RowsBy(work, R::Join::default()));
    }

    fn finish(&self, work: Finish<'_, C>) -> bool {
        self.call(FinishBy(work, self.rule))
    }

    fn terms(&self, work: Terms<'_, C>) {
        self.call(TermsBy(work, self.rule));
    }

    fn spread(&self, work: &Spread<'_, C>, row: usize, spreading: &mut Spreading<C>) {
        self.call(SpreadBy {
            work,
            row,
            spreading,
        });
    }

    fn gradient(&self, work: Gradients<'_, C>) {
        self.call(GradientsBy(work, self.rule));
    }

    fn define(&self, window: &Window) -> f64 {
        self.rule.define(window)
    }

    fn define_gradient(&self, window: &Window, g: f64, add: &mut dyn FnMut(usize, [f64; 2])) {
        self.rule.define_gradient(window, g, add);
    }

    fn replace(&self, y: f64, most: f64) -> f64 {
        self.rule.replace(y, most)
    }
}

/// A rule compiled for this set.
pub fn compile<C: Real, R: Rule>(arch: Arch, rule: R) -> Box<dyn Kernels<C>> {
    // SAFETY: a machine has the instruction sets that it has values of.
    unsafe {
        match arch {
            Arch::Portable => Box::new(Compiled::<R, Portable>::new(rule)),
            #[cfg(target_arch = "x86_64")]
            Arch::Avx2 => Box::new(Compiled::<R, x86::Avx2>::new(rule)),
            #[cfg(target_arch = "x86_64")]
            Arch::Avx512 => Box::new(Compiled::<R, x86::Avx512>::new(rule)),
        }
    }
}

/// [`Kernels::largest_logit`]
struct Largest<'a, C, R> {
    rule: R,
    cells: &'a [C],
    largest: C,
}

impl<C: Real, R: Rule> Kernel for Largest<'_, C, R> {
    type Output = C;

    #[inline(always)]
    fn run<I: InstructionSet>(self) -> C {
        let lanes = C::Vector::<I>::LANES;
        let mut all = [C::Vector::<I>::splat(self.largest); 4];
        let fours = self.cells.chunks_exact(4 * lanes);
        let rest = fours.remainder();
        for cells in fours {
            for (i, largest) in all.iter_mut().enumerate() {
                let z = C::Vector::<I>::load(&cells[i * lanes..]);
                *largest = self.rule.logit(z, z).max(*largest);
            }
        }
        for cells in rest.chunks(lanes) {
            let z = C::Vector::<I>::load_part(cells);
            all[0] = self.rule.logit(z, z).max(all[0]);
        }
        let [a, b, c, d] = all;
        a.max(b)
            .max(c.max(d))
            .reduce(|a, b| if a > b { a } else { b })
    }
}

struct FinishBy<'a, C, R>(Finish<'a, C>, R);

impl<C: Real, R: Rule> Kernel for FinishBy<'_, C, R> {
    type Output = bool;

    #[inline(always)]
    fn run<I: InstructionSet>(self) -> bool {
        type V<C, I> = <C as Real>::Vector<I>;
        let Self(
            Finish {
                sums: [a, b],
                values,
            },
            rule,
        ) = self;
        let lanes = V::<C, I>::LANES;
        let nan = V::<C, I>::splat(C::NAN);
        let mut all = V::<C, I>::zero();
        let sums = a.chunks_exact(lanes).zip(b.chunks_exact(lanes));
        for (values, (a, b)) in values.chunks_exact_mut(lanes).zip(sums) {
            let sums = [V::<C, I>::load(a), V::<C, I>::load(b)];
            let y = rule.finish(sums);
            let y = V::<C, I>::select(rule.holds(sums, y), y, nan);
            all = y.mul_add(V::<C, I>::zero(), all);
            y.store(values);
        }
        V::<C, I>::all(all.equal(all))
    }
}

struct TermsBy<'a, C, R>(Terms<'a, C>, R);

impl<C: Real, R: Rule> Kernel for TermsBy<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        type V<C, I> = <C as Real>::Vector<I>;
        let Self(
            Terms {
                sums: [a, b],
                values,
                terms: [first, second],
            },
            rule,
        ) = self;
        let lanes = V::<C, I>::LANES;
        let (zero, nan) = (V::<C, I>::zero(), V::<C, I>::splat(C::NAN));
        let most = V::<C, I>::splat(C::MOST_TERM);
        let sums = a.chunks_exact(lanes).zip(b.chunks_exact(lanes));
        let terms = first
            .chunks_exact_mut(lanes)
            .zip(second.chunks_exact_mut(lanes));
        for ((values, (first, second)), (a, b)) in
            values.chunks_exact_mut(lanes).zip(terms).zip(sums)
        {
            let sums = [V::<C, I>::load(a), V::<C, I>::load(b)];
            let y = rule.finish(sums);
            let [a, b] = rule.terms(sums, y, V::<C, I>::load(first));
            let mut holds = V::<C, I>::and(rule.holds(sums, y), most.greater(a.abs()));
            if R::TERMS == 2 {
                holds = V::<C, I>::and(holds, most.greater(b.abs()));
                V::<C, I>::select(holds, b, zero).store(second);
            }
            V::<C, I>::select(holds, a, zero).store(first);
            V::<C, I>::select(holds, y, nan).store(values);
        }
    }
}

struct GradientsBy<'a, C, R>(Gradients<'a, C>, R);

impl<C: Real, R: Rule> Kernel for GradientsBy<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        type V<C, I> = <C as Real>::Vector<I>;
        let Self(
            Gradients {
                count,
                x,
                z,
                shift,
                terms: [a, b],
                to: [of_x, of_z],
            },
            rule,
        ) = self;
        let shift = V::<C, I>::splat(shift);
        let zero = V::<C, I>::zero();
        for at in (0..count).step_by(V::<C, I>::LANES) {
            let x = V::<C, I>::load_part(&x[at..]);
            let cell = Cell {
                x,
                z: if R::LOGITS {
                    V::<C, I>::load_part(&z[at..])
                } else {
                    x
                },
                shift,
                place: zero,
            };
            let second = if R::TERMS == 2 {
                V::<C, I>::load(&b[at..])
            } else {
                zero
            };
            let [dx, dz] = rule.gradient(cell, [V::<C, I>::load(&a[at..]), second]);
            V::<C, I>::load(&of_x[at..]).add(dx).store(&mut of_x[at..]);
            if R::LOGITS {
                V::<C, I>::load(&of_z[at..]).add(dz).store(&mut of_z[at..]);
            }
        }
    }
}
