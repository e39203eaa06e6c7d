//! A rule compiled for an instruction set, behind one face: the engine's steps do not multiply by rules and sets.

use super::again::{Again, AgainBy, AgainGradients, AgainGradientsBy};
use super::columns::{Columns, Lift};
use super::direct::{terms, Direct, DirectBy, DirectGradients, DirectGradientsBy};
use super::element::Element;
use super::plan::ABREAST;
use super::rows::{Along, Apart, ApartBy, Ending, Rows};
use super::rule::{Rule, Window};
use super::spread::{Gradients, GradientsBy};
#[cfg(target_arch = "aarch64")]
use super::vector::neon::Neon;
#[cfg(target_arch = "x86_64")]
use super::vector::x86;
use super::vector::{Arch, InstructionSet, Kernel, Portable, Real, Vector};
use super::view::Patch;
use super::whole::{Whole, WholeBy, WholeGradients, WholeGradientsBy};
use std::marker::PhantomData;

/// The steps of a rule, each compiled for an instruction set.
pub trait Kernels<C>: Send + Sync {
    fn traits(&self) -> Traits;
    /// The largest logit of a patch, NaN left out.
    fn largest_logit(&self, patch: &Patch<'_, C>) -> C;
    /// Those of planes abreast, NaN left out.
    fn largest_logits(&self, patch: &Patch<'_, C>) -> [C; ABREAST];
    fn columns(&self, work: Columns<'_, C>);
    fn apart(&self, work: Apart<'_, C>);
    /// Windows in registers, to their ending: as [`Kernels::finish`].
    fn direct(&self, work: Direct<'_, C>, to: Finish<'_, C>) -> bool;
    /// Whether all hold.
    fn direct_gradients(&self, work: DirectGradients<'_, C>) -> bool;
    /// Planes that are a window each, to their ending: as [`Kernels::finish`].
    fn whole(&self, work: Whole<'_, C>, to: Finish<'_, C>) -> bool;
    /// Whether all hold.
    fn whole_gradients(&self, work: WholeGradients<'_, C>) -> bool;
    /// Whether all hold, those between lines included.
    fn finish(&self, sums: Sums<'_, C>, to: Finish<'_, C>) -> bool;
    /// As [`Kernels::finish`].
    fn terms(&self, sums: Sums<'_, C>, to: Terms<'_, C>) -> bool;
    fn gradients(&self, work: Gradients<'_, C>);
    /// The outputs of windows that do not hold, if they hold by their own largest logits.
    fn again(&self, work: Again<'_, C>);
    /// The same, and the gradients of their cells.
    fn again_gradients(&self, work: AgainGradients<'_, C>);
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
    pub counts_padding: bool,
}

/// The sums of windows, or what they are made of; whole vectors.
pub enum Sums<'a, C> {
    /// The sums, and how many of them are windows or lie between lines.
    Windows([&'a [C]; 2], usize),
    /// For [`Way::Rows`](super::plan::Way::Rows).
    Rows(Rows<'a, C>),
}

/// Room for outputs, NaN for those that do not hold; whole vectors.
pub struct Finish<'a, C> {
    pub values: &'a mut [C],
}

/// Room for outputs and terms, the latter zero for those that do not hold; whole vectors.
pub struct Terms<'a, C> {
    /// As [`Finish::values`].
    pub values: &'a mut [C],
    /// The first comes in with the gradients of the outputs, and goes out with the first terms.
    pub terms: [&'a mut [C]; 2],
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

    fn finishing<'a, C>(&self, to: Finish<'a, C>) -> Finishing<'a, C, R>
    where
        R: Copy,
    {
        Finishing {
            rule: self.rule,
            to,
            all_hold: true,
        }
    }
}

impl<C: Real, R: Rule, I: InstructionSet> Kernels<C> for Compiled<R, I> {
    fn traits(&self) -> Traits {
        Traits {
            shifted: R::SHIFTED,
            logits: R::LOGITS,
            places: R::PLACES,
            counts_padding: self.rule.counts_padding(),
        }
    }

    fn largest_logit(&self, patch: &Patch<'_, C>) -> C {
        let rule = self.rule;
        self.call(LargestLogit { rule, patch })
    }

    fn largest_logits(&self, patch: &Patch<'_, C>) -> [C; ABREAST] {
        let rule = self.rule;
        self.call(LargestLogits { rule, patch })
    }

    fn columns(&self, work: Columns<'_, C>) {
        self.call(Lift(work, self.rule));
    }

    fn apart(&self, work: Apart<'_, C>) {
        self.call(ApartBy(work, R::Join::default()));
    }

    fn direct(&self, work: Direct<'_, C>, to: Finish<'_, C>) -> bool {
        let end = self.finishing(to);
        self.call(DirectBy(work, self.rule, end)).all_hold
    }

    fn direct_gradients(&self, work: DirectGradients<'_, C>) -> bool {
        self.call(DirectGradientsBy(work, self.rule))
    }

    fn whole(&self, work: Whole<'_, C>, to: Finish<'_, C>) -> bool {
        let end = self.finishing(to);
        self.call(WholeBy(work, self.rule, end)).all_hold
    }

    fn whole_gradients(&self, work: WholeGradients<'_, C>) -> bool {
        self.call(WholeGradientsBy(work, self.rule))
    }

    fn finish(&self, sums: Sums<'_, C>, to: Finish<'_, C>) -> bool {
        let end = self.finishing(to);
        self.call(End::<C, R, _>(sums, end, PhantomData)).all_hold
    }

    fn terms(&self, sums: Sums<'_, C>, to: Terms<'_, C>) -> bool {
        let rule = self.rule;
        let end = Terming {
            rule,
            to,
            all_hold: true,
        };
        self.call(End::<C, R, _>(sums, end, PhantomData)).all_hold
    }

    fn gradients(&self, work: Gradients<'_, C>) {
        self.call(GradientsBy(work, self.rule));
    }

    fn again(&self, work: Again<'_, C>) {
        if R::SHIFTED {
            self.call(AgainBy(work, self.rule));
        }
    }

    fn again_gradients(&self, work: AgainGradients<'_, C>) {
        if R::SHIFTED {
            self.call(AgainGradientsBy(work, self.rule));
        }
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

/// A dtype that rules are compiled for.
pub trait Poolable: Element<Compute: Compile> {}

impl<T: Element<Compute: Compile>> Poolable for T {}

/// A dtype of the arithmetic, with the instruction sets that rules are compiled for in it.
pub trait Compile: Real {
    /// A rule compiled for this set, or for the best below it.
    fn compile<R: Rule>(arch: Arch, rule: R) -> Box<dyn Kernels<Self>>;
}

impl Compile for f32 {
    fn compile<R: Rule>(arch: Arch, rule: R) -> Box<dyn Kernels<Self>> {
        // SAFETY: a machine has the instruction sets that it has values of.
        unsafe {
            match arch {
                Arch::Portable => Box::new(Compiled::<R, Portable>::new(rule)),
                #[cfg(target_arch = "x86_64")]
                Arch::Avx2 => Box::new(Compiled::<R, x86::Avx2>::new(rule)),
                #[cfg(target_arch = "x86_64")]
                Arch::Avx512 => Box::new(Compiled::<R, x86::Avx512>::new(rule)),
                #[cfg(target_arch = "aarch64")]
                Arch::Neon => Box::new(Compiled::<R, Neon>::new(rule)),
            }
        }
    }
}

/// Without AVX-512, which would take more time to compile than it saves anyone.
impl Compile for f64 {
    fn compile<R: Rule>(arch: Arch, rule: R) -> Box<dyn Kernels<Self>> {
        // SAFETY: as above, and AVX-512 comes with AVX2.
        unsafe {
            match arch {
                Arch::Portable => Box::new(Compiled::<R, Portable>::new(rule)),
                #[cfg(target_arch = "x86_64")]
                Arch::Avx2 | Arch::Avx512 => Box::new(Compiled::<R, x86::Avx2>::new(rule)),
                #[cfg(target_arch = "aarch64")]
                Arch::Neon => Box::new(Compiled::<R, Neon>::new(rule)),
            }
        }
    }
}

/// [`Kernels::largest_logit`]
struct LargestLogit<'a, C, R> {
    rule: R,
    patch: &'a Patch<'a, C>,
}

impl<C: Real, R: Rule> Kernel for LargestLogit<'_, C, R> {
    type Output = C;

    #[inline(always)]
    fn run<I: InstructionSet>(self) -> C {
        let lanes = C::Vector::<I>::LANES;
        let mut largest: Maxima<C::Vector<I>, R> = Maxima::of_none(self.rule);
        let [depths, ..] = self.patch.sizes;
        let (pieces, len) = self.patch.runs();
        for depth in 0..depths {
            for row in 0..pieces {
                let run = &self.patch.from(depth, row, 0)[..len];
                largest.take_run(run, 0, lanes);
                if !len.is_multiple_of(lanes) {
                    // The last vector reaches back, if there is one before.
                    let last = &run[len.saturating_sub(lanes)..];
                    largest.take(1, C::Vector::<I>::load_part(last));
                }
            }
        }
        largest.all().reduce(|a, b| if a > b { a } else { b })
    }
}

/// [`Kernels::largest_logits`]
struct LargestLogits<'a, C, R> {
    rule: R,
    patch: &'a Patch<'a, C>,
}

impl<C: Real, R: Rule> Kernel for LargestLogits<'_, C, R> {
    type Output = [C; ABREAST];

    #[inline(always)]
    fn run<I: InstructionSet>(self) -> [C; ABREAST] {
        let mut of_planes = [C::NEG_INFINITY; ABREAST];
        debug_assert_eq!(self.patch.across, ABREAST);
        let [depths, ..] = self.patch.sizes;
        let (pieces, len) = self.patch.runs();
        for at in (0..ABREAST).step_by(C::Vector::<I>::LANES) {
            let mut largest: Maxima<C::Vector<I>, R> = Maxima::of_none(self.rule);
            for depth in 0..depths {
                for row in 0..pieces {
                    let run = &self.patch.from(depth, row, 0)[..len];
                    largest.take_run(run, at, ABREAST);
                }
            }
            largest.all().store(&mut of_planes[at..]);
        }
        of_planes
    }
}

/// The largest logits in each lane, NaN left out: of every fourth vector, since each has to wait for the one before it.
struct Maxima<V, R> {
    rule: R,
    of_fourths: [V; 4],
}

impl<V: Vector, R: Rule> Maxima<V, R> {
    #[inline(always)]
    fn of_none(rule: R) -> Self {
        Self {
            rule,
            of_fourths: [V::splat(V::Real::NEG_INFINITY); 4],
        }
    }

    /// Takes a vector of cells.
    #[inline(always)]
    fn take(&mut self, fourth: usize, z: V) {
        self.of_fourths[fourth] = self.rule.logit(z, z).max(self.of_fourths[fourth]);
    }

    /// Takes the vectors of a run, from this cell on and every so many; not what is left of it.
    #[inline(always)]
    fn take_run(&mut self, run: &[V::Real], first: usize, step: usize) {
        let fours = run.chunks_exact(4 * step);
        let rest = fours.remainder();
        for cells in fours {
            for (fourth, cells) in cells.chunks_exact(step).enumerate() {
                self.take(fourth, V::load(&cells[first..]));
            }
        }
        for cells in rest.chunks_exact(step) {
            self.take(0, V::load(&cells[first..]));
        }
    }

    #[inline(always)]
    fn all(self) -> V {
        let [a, b, c, d] = self.of_fourths;
        a.max(b).max(c.max(d))
    }
}

/// Brings sums to their ending.
struct End<'a, C, R, E>(Sums<'a, C>, E, PhantomData<R>);

impl<C: Real, R: Rule, E: Ending<C>> Kernel for End<'_, C, R, E> {
    type Output = E;

    #[inline(always)]
    fn run<I: InstructionSet>(self) -> E {
        let Self(sums, mut ending, _) = self;
        match sums {
            Sums::Rows(rows) => {
                let join = PhantomData::<R::Join>;
                Along { rows, join, ending }.run::<C::Vector<I>>()
            }
            Sums::Windows([a, b], slots) => {
                let lanes = C::Vector::<I>::LANES;
                let vectors = a.chunks_exact(lanes).zip(b.chunks_exact(lanes));
                for (at, (a, b)) in (0..slots).step_by(lanes).zip(vectors) {
                    let sums = [C::Vector::<I>::load(a), C::Vector::<I>::load(b)];
                    ending.take(at, sums, slots - at);
                }
                ending
            }
        }
    }
}

/// The ending of a forward pass.
struct Finishing<'a, C, R> {
    rule: R,
    to: Finish<'a, C>,
    all_hold: bool,
}

impl<C: Real, R: Rule> Ending<C> for Finishing<'_, C, R> {
    #[inline(always)]
    fn take<V: Vector<Real = C>>(&mut self, at: usize, sums: [V; 2], count: usize) {
        let y = self.rule.finish(sums);
        let holds = self.rule.holds(sums, y);
        self.all_hold &= V::all_below(holds, count);
        V::select(holds, y, V::splat(C::NAN)).store(&mut self.to.values[at..]);
    }
}

/// The first ending of a backward pass.
struct Terming<'a, C, R> {
    rule: R,
    to: Terms<'a, C>,
    all_hold: bool,
}

impl<C: Real, R: Rule> Ending<C> for Terming<'_, C, R> {
    #[inline(always)]
    fn take<V: Vector<Real = C>>(&mut self, at: usize, sums: [V; 2], count: usize) {
        let Terms {
            values,
            terms: [first, second],
        } = &mut self.to;
        let (y, holds, [a, b]) = terms(self.rule, sums, V::load(&first[at..]));
        self.all_hold &= V::all_below(holds, count);
        if R::TERMS == 2 {
            V::select(holds, b, V::zero()).store(&mut second[at..]);
        }
        V::select(holds, a, V::zero()).store(&mut first[at..]);
        V::select(holds, y, V::splat(C::NAN)).store(&mut values[at..]);
    }
}
