//! The dtypes that can be pooled, and those that they are computed in.

use super::plan::ABREAST;
use super::vector::{InstructionSet, Kernel, Real, Vector, MOST_LANES};
use candle_core::WithDType;
use half::{bf16, f16};
use std::mem::MaybeUninit;

/// A floating-point dtype: f16, bf16, f32 or f64.
pub trait Element: WithDType + Default {
    /// The dtype of the arithmetic.
    type Compute: Real;

    /// The largest finite value.
    const MAX: f64;

    /// The same value.
    fn widen(self) -> Self::Compute;

    /// The cells as they are, if that is their dtype.
    fn computed(cells: &[Self]) -> Option<&[Self::Compute]>;

    /// One rounding to the dtype.
    fn round(v: f64) -> Self;

    /// The first cells, as many as a vector has lanes.
    fn load<V: Vector<Real = Self::Compute>>(cells: &[Self]) -> V;

    /// One rounding to the dtype, of slices of one length.
    fn narrow<V: Vector<Real = Self::Compute>>(
        values: &[Self::Compute],
        cells: &mut [MaybeUninit<Self>],
    );
}

macro_rules! computed_in_itself {
    ($t:ty) => {
        impl Element for $t {
            type Compute = $t;
            const MAX: f64 = <$t>::MAX as f64;

            #[inline(always)]
            fn widen(self) -> $t {
                self
            }
            fn computed(cells: &[Self]) -> Option<&[$t]> {
                Some(cells)
            }
            fn round(v: f64) -> Self {
                v as $t
            }
            #[inline(always)]
            fn load<V: Vector<Real = $t>>(cells: &[Self]) -> V {
                V::load(cells)
            }
            #[inline(always)]
            fn narrow<V: Vector<Real = $t>>(values: &[$t], cells: &mut [MaybeUninit<Self>]) {
                cells.write_copy_of_slice(values);
            }
        }
    };
}

macro_rules! computed_in_f32 {
    ($t:ty, $load:ident, $narrow:ident) => {
        impl Element for $t {
            type Compute = f32;
            const MAX: f64 = <$t>::MAX.to_f64_const();

            #[inline(always)]
            fn widen(self) -> f32 {
                self.to_f32()
            }
            fn computed(_cells: &[Self]) -> Option<&[f32]> {
                None
            }
            fn round(v: f64) -> Self {
                <$t>::from_f32(to_odd(v))
            }
            #[inline(always)]
            fn load<V: Vector<Real = f32>>(cells: &[Self]) -> V {
                V::$load(cells)
            }
            #[inline(always)]
            fn narrow<V: Vector<Real = f32>>(values: &[f32], cells: &mut [MaybeUninit<Self>]) {
                let whole = values.len() / V::LANES * V::LANES;
                for at in (0..whole).step_by(V::LANES) {
                    let rounded = V::load(&values[at..]).$narrow();
                    cells[at..at + V::LANES].write_copy_of_slice(&rounded[..V::LANES]);
                }
                if whole < values.len() {
                    let mut lanes = [0.0; MOST_LANES];
                    lanes[..values.len() - whole].copy_from_slice(&values[whole..]);
                    let rounded = V::load(&lanes).$narrow();
                    cells[whole..].write_copy_of_slice(&rounded[..values.len() - whole]);
                }
            }
        }
    };
}

computed_in_itself!(f32);
computed_in_itself!(f64);
computed_in_f32!(f16, load_f16, to_f16);
computed_in_f32!(bf16, load_bf16, to_bf16);

/// `v` rounded to the odd one of its two neighbours, if it is not one itself: rounding that to fewer places gives what
/// rounding `v` would (Boldo and Melquiond, 2008).
fn to_odd(v: f64) -> f32 {
    let nearest = v as f32;
    let (back, bits) = (f64::from(nearest), nearest.to_bits());
    if back == v || !nearest.is_finite() || bits & 1 == 1 {
        return nearest;
    }
    f32::from_bits(if back.abs() < v.abs() {
        bits + 1
    } else {
        bits - 1
    })
}

/// Cells in the dtype of the arithmetic; slices of one length.
pub struct Widen<'a, T: Element> {
    pub cells: &'a [T],
    pub to: &'a mut [T::Compute],
}

impl<T: Element> Kernel for Widen<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        type V<T, I> = <<T as Element>::Compute as Real>::Vector<I>;
        let whole = self.to.len() / V::<T, I>::LANES * V::<T, I>::LANES;
        for at in (0..whole).step_by(V::<T, I>::LANES) {
            T::load::<V<T, I>>(&self.cells[at..]).store(&mut self.to[at..]);
        }
        for (to, cell) in self.to[whole..].iter_mut().zip(&self.cells[whole..]) {
            *to = cell.widen();
        }
    }
}

/// Values rounded once, row by row.
pub struct Narrow<'a, T: Element> {
    pub values: &'a [T::Compute],
    /// From a row of values to the next; at least `columns`.
    pub pitch: usize,
    pub columns: usize,
    /// Rows without a gap between them.
    pub cells: &'a mut [MaybeUninit<T>],
}

impl<T: Element> Kernel for Narrow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        type V<T, I> = <<T as Element>::Compute as Real>::Vector<I>;
        if self.pitch == self.columns {
            return T::narrow::<V<T, I>>(&self.values[..self.cells.len()], self.cells);
        }
        // By whole vectors while there are cells behind a row, which are those of rows to come: most rows are so short
        // that a call would take longer than they do.
        let lanes = V::<T, I>::LANES;
        let reach = self.columns.next_multiple_of(lanes);
        for row in 0..self.cells.len() / self.columns {
            let cells = &mut self.cells[row * self.columns..];
            let values = &self.values[row * self.pitch..];
            if reach > cells.len().min(values.len()) {
                T::narrow::<V<T, I>>(&values[..self.columns], &mut cells[..self.columns]);
                continue;
            }
            let of_cells = cells[..reach].chunks_exact_mut(lanes);
            for (cells, values) in of_cells.zip(values[..reach].chunks_exact(lanes)) {
                T::narrow::<V<T, I>>(values, cells);
            }
        }
    }
}

/// [`ABREAST`] cells at every step, widened side by side.
pub struct WidenAbreast<'a, T: Element> {
    pub cells: &'a [T],
    pub step: usize,
    pub to: &'a mut [T::Compute],
}

impl<T: Element> Kernel for WidenAbreast<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: InstructionSet>(self) {
        type V<T, I> = <<T as Element>::Compute as Real>::Vector<I>;
        for (i, to) in self.to.chunks_exact_mut(ABREAST).enumerate() {
            let cells = &self.cells[i * self.step..i * self.step + ABREAST];
            for at in (0..ABREAST).step_by(V::<T, I>::LANES) {
                T::load::<V<T, I>>(&cells[at..]).store(&mut to[at..]);
            }
        }
    }
}
