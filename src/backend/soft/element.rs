//! The dtypes that can be pooled, and those that they are computed in.

use super::simd::Real;
use super::special;
use super::sums::GROUP;
use candle_core::WithDType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pulp::Simd;

/// Cells that are computed in `C`.
pub trait Load<C: Real>: Copy + Default {
    /// Whether a vector of cells is converted as it is read.
    fn loads<S: Simd>(simd: S) -> bool;

    /// The vector that begins at a cell.
    fn load<S: Simd>(simd: S, cells: &[Self], start: usize) -> C::V<S>;

    /// The same value.
    fn computed(self) -> C;
}

/// A floating-point dtype: f16, bf16, f32 or f64.
pub trait Element: WithDType + Default + Load<Self::Compute> {
    /// The dtype of the arithmetic.
    type Compute: Real;

    /// The largest finite value.
    const MAX: f64;

    /// One rounding to the dtype.
    fn round(v: f64) -> Self;

    /// Turns a square of sixteen rows, `from` cells apart, so that its columns become rows, `to` cells
    /// apart; `None` where there are no instructions for that.
    fn turn<S: Simd>(_simd: S, _from: (&[Self], usize), _to: (&mut [Self], usize)) -> Option<()> {
        None
    }

    /// The cells in the dtype of the arithmetic; `scratch` holds them where that is another.
    fn widen<'a, S: Simd>(
        simd: S,
        cells: &'a [Self],
        scratch: &'a mut Vec<Self::Compute>,
    ) -> &'a [Self::Compute];

    /// One rounding to the dtype, of slices of one length.
    fn narrow<S: Simd>(simd: S, values: &[Self::Compute], cells: &mut [Self]);
}

macro_rules! computed_in_itself {
    ($t:ty) => {
        impl Load<$t> for $t {
            #[inline(always)]
            fn loads<S: Simd>(_simd: S) -> bool {
                true
            }
            #[inline(always)]
            fn load<S: Simd>(_simd: S, cells: &[Self], start: usize) -> <$t as Real>::V<S> {
                <$t as Real>::vectors::<S>(&cells[start..start + <$t as Real>::lanes::<S>()])[0]
            }
            #[inline(always)]
            fn computed(self) -> $t {
                self
            }
        }

        impl Element for $t {
            type Compute = $t;
            const MAX: f64 = <$t>::MAX as f64;

            fn round(v: f64) -> Self {
                v as $t
            }
            #[inline(always)]
            fn turn<S: Simd>(
                simd: S,
                from: (&[Self], usize),
                to: (&mut [Self], usize),
            ) -> Option<()> {
                <$t as Real>::turn(simd, from, to)
            }
            #[inline(always)]
            fn widen<'a, S: Simd>(
                _simd: S,
                cells: &'a [Self],
                _scratch: &'a mut Vec<Self>,
            ) -> &'a [Self] {
                cells
            }
            #[inline(always)]
            fn narrow<S: Simd>(_simd: S, values: &[Self], cells: &mut [Self]) {
                cells.copy_from_slice(values);
            }
        }
    };
}

macro_rules! computed_in_f32 {
    ($t:ty, $widen:expr, $narrow:expr, $load:path) => {
        impl Load<f32> for $t {
            #[inline(always)]
            fn loads<S: Simd>(simd: S) -> bool {
                special::converts(simd)
            }
            #[inline(always)]
            fn load<S: Simd>(simd: S, cells: &[Self], start: usize) -> S::f32s {
                let cells = &cells[start..start + S::F32_LANES];
                match $load(simd, cells.reinterpret_cast()) {
                    Some(vector) => vector,
                    None => {
                        let mut values = [0.0; GROUP];
                        for (value, cell) in values.iter_mut().zip(cells) {
                            *value = cell.to_f32();
                        }
                        f32::vectors::<S>(&values)[0]
                    }
                }
            }
            #[inline(always)]
            fn computed(self) -> f32 {
                self.to_f32()
            }
        }

        impl Element for $t {
            type Compute = f32;
            const MAX: f64 = <$t>::MAX.to_f64_const();

            fn round(v: f64) -> Self {
                <$t>::from_f32(to_odd(v))
            }
            #[inline(always)]
            fn widen<'a, S: Simd>(
                simd: S,
                cells: &'a [Self],
                scratch: &'a mut Vec<f32>,
            ) -> &'a [f32] {
                if scratch.len() < cells.len() {
                    scratch.resize(cells.len(), 0.0);
                }
                let values = &mut scratch[..cells.len()];
                $widen(simd, cells, values);
                values
            }
            #[inline(always)]
            fn narrow<S: Simd>(simd: S, values: &[f32], cells: &mut [Self]) {
                $narrow(simd, values, cells);
            }
        }
    };
}

/// `v` rounded to the odd one of its two neighbours, if it is not one itself: rounding that to fewer places gives what
/// rounding `v` would (Boldo and Melquiond, 2008).
fn to_odd(v: f64) -> f32 {
    let nearest = v as f32;
    let (back, bits) = (f64::from(nearest), nearest.to_bits());
    if back == v || !nearest.is_finite() || bits & 1 == 1 {
        return nearest;
    }
    f32::from_bits(match back.abs() < v.abs() {
        true => bits + 1,
        false => bits - 1,
    })
}

computed_in_itself!(f32);
computed_in_itself!(f64);
computed_in_f32!(f16, widen_f16, narrow_f16, special::load_f16);
computed_in_f32!(bf16, widen_bf16, narrow_bf16, special::load_bf16);

#[inline(always)]
fn widen_f16<S: Simd>(simd: S, cells: &[f16], values: &mut [f32]) {
    let done = special::widen_f16(simd, cells.reinterpret_cast(), values).unwrap_or(0);
    cells[done..].convert_to_f32_slice(&mut values[done..]);
}

#[inline(always)]
fn narrow_f16<S: Simd>(simd: S, values: &[f32], cells: &mut [f16]) {
    let done = special::narrow_f16(simd, values, cells.reinterpret_cast_mut()).unwrap_or(0);
    cells[done..].convert_from_f32_slice(&values[done..]);
}

#[inline(always)]
fn widen_bf16<S: Simd>(simd: S, cells: &[bf16], values: &mut [f32]) {
    let done = special::widen_bf16(simd, cells.reinterpret_cast(), values).unwrap_or(0);
    for (value, cell) in values[done..].iter_mut().zip(&cells[done..]) {
        *value = f32::from_bits(u32::from(cell.to_bits()) << 16);
    }
}

/// Rounds to nearest, ties to even; written without branches, so that it is vectorised.
#[inline(always)]
fn narrow_bf16<S: Simd>(simd: S, values: &[f32], cells: &mut [bf16]) {
    let done = special::narrow_bf16(simd, values, cells.reinterpret_cast_mut()).unwrap_or(0);
    for (cell, value) in cells[done..].iter_mut().zip(&values[done..]) {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // Rounding could carry a NaN's payload into another number.
        let quiet = bits >> 16 | 0x40;
        let nan = bits & 0x7fff_ffff > 0x7f80_0000;
        *cell = bf16::from_bits(if nan { quiet } else { rounded } as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::{Arch, WithSimd};

    /// Just above the middle of two neighbours, by less than f32 can tell.
    #[test]
    fn values_are_rounded_once() {
        fn check<T: Element>(step: f64) {
            for sign in [1.0, -1.0] {
                let middle = 1.0 + step / 2.0;
                let round = |v: f64| sign * T::round(sign * v).to_f64();
                assert_eq!(round(middle - 1e-15), 1.0);
                assert_eq!(round(middle), 1.0);
                assert_eq!(round(middle + 1e-15), 1.0 + step);
            }
        }
        check::<f16>(f16::EPSILON.to_f64());
        check::<bf16>(bf16::EPSILON.to_f64());
        let tiny = f16::from_bits(1).to_f64();
        assert_eq!(f16::round(tiny / 2.0 * (1.0 + 1e-15)).to_f64(), tiny);
        assert_eq!(f16::round(tiny / 2.0).to_f64(), 0.0);
        let tie = 65_520.0;
        assert_eq!(f16::round(tie - 1e-9), f16::MAX);
        assert_eq!(f16::round(tie), f16::INFINITY);
        assert_eq!(bf16::round(f64::MIN), bf16::NEG_INFINITY);
        assert!(f16::round(f64::NAN).is_nan());
    }

    struct Narrow<'a>(&'a [f32]);

    impl WithSimd for Narrow<'_> {
        type Output = Vec<bf16>;

        fn with_simd<S: Simd>(self, simd: S) -> Vec<bf16> {
            let mut cells = vec![bf16::ZERO; self.0.len()];
            narrow_bf16(simd, self.0, &mut cells);
            cells
        }
    }

    #[test]
    fn bf16_rounds_as_half_does() {
        let lows = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        let values: Vec<f32> = (0..=u32::from(u16::MAX))
            .flat_map(|high| lows.map(|low| f32::from_bits(high << 16 | low)))
            .collect();
        let portable = Narrow(&values).with_simd(pulp::Scalar::new());
        for cells in [portable, Arch::new().dispatch(Narrow(&values))] {
            for (cell, value) in cells.iter().zip(&values) {
                let expected = bf16::from_f32(*value);
                assert!(*cell == expected || cell.is_nan() && expected.is_nan());
            }
        }
    }

    struct Widen<'a>(&'a [bf16]);

    impl WithSimd for Widen<'_> {
        type Output = Vec<f32>;

        fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
            let mut values = vec![];
            bf16::widen(simd, self.0, &mut values);
            values
        }
    }

    #[test]
    fn bf16_widens_as_half_does() {
        let cells: Vec<bf16> = (0..u16::MAX).map(bf16::from_bits).collect();
        for values in [
            Widen(&cells).with_simd(pulp::Scalar::new()),
            Arch::new().dispatch(Widen(&cells)),
        ] {
            for (cell, value) in cells.iter().zip(&values) {
                assert!(cell.to_f32() == *value || cell.is_nan() && value.is_nan());
            }
        }
    }
}
