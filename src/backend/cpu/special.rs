//! What some instruction sets do faster than pulp's portable vectors say.

use pulp::Simd;

/// `2^(scale·x + offset)`, the exponent rounded once; 0 far below, infinite far above.
#[inline(always)]
pub fn exp2_at<S: Simd>(simd: S, x: S::f32s, scale: S::f32s, offset: S::f32s) -> Option<S::f32s> {
    #[cfg(target_arch = "x86_64")]
    {
        x86::exp2_at(simd, x, scale, offset)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (simd, x, scale, offset);
        None
    }
}

/// The even lanes of two f32 vectors that follow each other, and the odd ones.
#[inline(always)]
pub fn halves<S: Simd>(simd: S, ab: [S::f32s; 2]) -> Option<[S::f32s; 2]> {
    #[cfg(target_arch = "x86_64")]
    {
        x86::halves(simd, ab)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (simd, ab);
        None
    }
}

/// `a / b` to two units in the last place, for a `b` whose reciprocal is a normal number.
#[inline(always)]
pub fn ratio<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
    #[cfg(target_arch = "x86_64")]
    if let Some(ratio) = x86::ratio(simd, a, b) {
        return ratio;
    }
    simd.div_f32s(a, b)
}

/// Widens the bits of f16 cells, and says how many.
#[inline(always)]
pub fn widen_f16<S: Simd>(simd: S, cells: &[u16], values: &mut [f32]) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        x86::widen_f16(simd, cells, values).unwrap_or(0)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (simd, cells, values);
        0
    }
}

/// Rounds to the bits of f16 cells, and says how many.
#[inline(always)]
pub fn narrow_f16<S: Simd>(simd: S, values: &[f32], cells: &mut [u16]) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        x86::narrow_f16(simd, values, cells).unwrap_or(0)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (simd, values, cells);
        0
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use pulp::bytemuck::cast;
    use pulp::x86::{V3, V4};
    use pulp::Simd;
    use std::any::Any;

    /// `simd` as this very instruction set; the compiler knows which it is.
    #[inline(always)]
    fn exactly<S: Simd, I: Simd>(simd: S) -> Option<I> {
        (&simd as &dyn Any).downcast_ref().copied()
    }

    #[inline(always)]
    pub fn exp2_at<S: Simd>(
        simd: S,
        x: S::f32s,
        scale: S::f32s,
        offset: S::f32s,
    ) -> Option<S::f32s> {
        const DOWN: i32 = 0b1001;
        let v4 = exactly::<_, V4>(simd)?;
        let t = v4
            .avx512f
            ._mm512_fmadd_ps(cast(x), cast(scale), cast(offset));
        let f = v4.avx512dq._mm512_reduce_ps::<DOWN>(t);
        // Remez for 2^f from 0 to 1, relative error 7.5e-8.
        let mut p = v4.avx512f._mm512_set1_ps(0.001_877_576_7);
        for c in [
            0.008_989_34,
            0.055_826_318,
            0.240_153_61,
            0.693_153_1,
            0.999_999_94,
        ] {
            p = v4
                .avx512f
                ._mm512_fmadd_ps(p, f, v4.avx512f._mm512_set1_ps(c));
        }
        Some(cast(v4.avx512f._mm512_scalef_ps(p, t)))
    }

    #[inline(always)]
    pub fn halves<S: Simd>(simd: S, [a, b]: [S::f32s; 2]) -> Option<[S::f32s; 2]> {
        if let Some(v4) = exactly::<_, V4>(simd) {
            let even: [i32; 16] = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];
            let odd: [i32; 16] = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31];
            let (a, b) = (cast(a), cast(b));
            let even = v4.avx512f._mm512_permutex2var_ps(a, cast(even), b);
            let odd = v4.avx512f._mm512_permutex2var_ps(a, cast(odd), b);
            return Some([cast(even), cast(odd)]);
        }
        if let Some(v3) = exactly::<_, V3>(simd) {
            let (a, b) = (cast(a), cast(b));
            let even = v3.avx._mm256_shuffle_ps::<0b10_00_10_00>(a, b);
            let odd = v3.avx._mm256_shuffle_ps::<0b11_01_11_01>(a, b);
            let even = v3.avx2._mm256_permute4x64_pd::<0b11_01_10_00>(cast(even));
            let odd = v3.avx2._mm256_permute4x64_pd::<0b11_01_10_00>(cast(odd));
            return Some([cast(even), cast(odd)]);
        }
        None
    }

    #[inline(always)]
    pub fn widen_f16<S: Simd>(simd: S, cells: &[u16], values: &mut [f32]) -> Option<usize> {
        let f = exactly::<_, V4>(simd)?.avx512f;
        let cells = cells.as_chunks::<16>().0;
        let values = values.as_chunks_mut::<16>().0;
        for (value, cell) in values.iter_mut().zip(cells) {
            *value = cast(f._mm512_cvtph_ps(cast(*cell)));
        }
        Some(cells.len() * 16)
    }

    #[inline(always)]
    pub fn narrow_f16<S: Simd>(simd: S, values: &[f32], cells: &mut [u16]) -> Option<usize> {
        const TO_NEAREST: i32 = 0b1000;
        let f = exactly::<_, V4>(simd)?.avx512f;
        let values = values.as_chunks::<16>().0;
        let cells = cells.as_chunks_mut::<16>().0;
        for (cell, value) in cells.iter_mut().zip(values) {
            *cell = cast(f._mm512_cvtps_ph::<TO_NEAREST>(cast(*value)));
        }
        Some(values.len() * 16)
    }

    /// By Newton's method: AVX-512's division takes as long as sixteen other operations.
    #[inline(always)]
    pub fn ratio<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> Option<S::f32s> {
        let f = exactly::<_, V4>(simd)?.avx512f;
        let (a, b) = (cast(a), cast(b));
        let r = f._mm512_rcp14_ps(b);
        let r = f._mm512_fmadd_ps(f._mm512_fnmadd_ps(b, r, cast([1f32; 16])), r, r);
        let q = f._mm512_mul_ps(a, r);
        Some(cast(f._mm512_fmadd_ps(f._mm512_fnmadd_ps(b, q, a), r, q)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Real;
    use pulp::{Arch, Simd, WithSimd};

    /// The lanes that `f` makes of vectors of `cells`; `None` where the instruction set has nothing special.
    struct Lanes<'a, F>(&'a [[f32; 3]], F);

    trait Special {
        fn of<S: Simd>(&self, simd: S, cells: [S::f32s; 3]) -> Option<S::f32s>;
    }

    impl<F: Special> WithSimd for Lanes<'_, F> {
        type Output = Option<Vec<f32>>;

        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let mut all = vec![];
            for cells in self.0.chunks(S::F32_LANES) {
                let mut lanes = [[0.0; 16]; 3];
                for (i, cells) in cells.iter().enumerate() {
                    (lanes[0][i], lanes[1][i], lanes[2][i]) = (cells[0], cells[1], cells[2]);
                }
                let vectors = [0, 1, 2].map(|i| f32::vectors::<S>(&lanes[i])[0]);
                let mut out = [0.0; 16];
                f32::vectors_mut::<S>(&mut out)[0] = self.1.of(simd, vectors)?;
                all.extend_from_slice(&out[..cells.len()]);
            }
            Some(all)
        }
    }

    struct Exponential;
    impl Special for Exponential {
        fn of<S: Simd>(&self, simd: S, [x, scale, offset]: [S::f32s; 3]) -> Option<S::f32s> {
            f32::exp2_at(simd, x, scale, offset)
        }
    }

    struct Ratio;
    impl Special for Ratio {
        fn of<S: Simd>(&self, simd: S, [a, b, _]: [S::f32s; 3]) -> Option<S::f32s> {
            Some(f32::ratio(simd, a, b))
        }
    }

    #[test]
    fn exponentials_are_accurate_and_end_in_zero_and_infinity() {
        let cells: Vec<_> = (-120_000..120_000)
            .map(|i| [i as f32 / 1000.0, 1.0, 0.0])
            .collect();
        let Some(powers) = Arch::new().dispatch(Lanes(&cells, Exponential)) else {
            return;
        };
        for ([x, ..], e) in cells.iter().zip(powers) {
            let error = f64::from(e) / f64::from(*x).exp2() - 1.0;
            assert!(error.abs() < 2.4e-7, "2^{x}: {e}");
        }
        let far = [200.0, 1e9, 1e30, f32::MAX, f32::INFINITY];
        let cells = far.map(|x| [x, 1.0, 0.0]);
        assert_eq!(
            Arch::new().dispatch(Lanes(&cells, Exponential)),
            Some(vec![f32::INFINITY; 5])
        );
        let cells = far.map(|x| [x, -1.0, 0.0]);
        assert_eq!(
            Arch::new().dispatch(Lanes(&cells, Exponential)),
            Some(vec![0.0; 5])
        );
        let cells = [
            [f32::NAN, 1.0, 0.0],
            [f32::INFINITY, 1.0, f32::NEG_INFINITY],
        ];
        let powers = Arch::new().dispatch(Lanes(&cells, Exponential));
        assert!(powers.is_some_and(|e| e.iter().all(|e| e.is_nan())));
    }

    #[test]
    fn ratios_are_accurate_and_pass_on_what_is_not_finite() {
        let cells: Vec<_> = (1..100_000)
            .map(|i| {
                let b = (i as f32 * 0.37).sin().abs().max(1e-3) * 10f32.powi(i % 48 - 18);
                [(i as f32).cos() * b, b, 0.0]
            })
            .collect();
        let ratios = Arch::new().dispatch(Lanes(&cells, Ratio)).unwrap();
        for ([a, b, _], ratio) in cells.iter().zip(ratios) {
            let exact = f64::from(*a) / f64::from(*b);
            assert!(
                (f64::from(ratio) / exact - 1.0).abs() < 1.2e-7,
                "{a} / {b}: {ratio}"
            );
        }
        let cells = [
            [f32::NAN, 1.0, 0.0],
            [f32::INFINITY, 1.0, 0.0],
            [1.0, f32::NAN, 0.0],
        ];
        let ratios = Arch::new().dispatch(Lanes(&cells, Ratio)).unwrap();
        assert!(ratios.iter().all(|ratio| !ratio.is_finite()), "{ratios:?}");
    }

    struct Halves;
    impl WithSimd for Halves {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let lanes = S::F32_LANES;
            let mut cells: [f32; 32] = std::array::from_fn(|i| i as f32);
            let [a, b] = [0, 1].map(|i| f32::vectors::<S>(&cells)[i]);
            if let Some([even, odd]) = f32::halves(simd, [a, b]) {
                f32::vectors_mut::<S>(&mut cells)[..2].copy_from_slice(&[even, odd]);
                let expected = |i: usize| (i % lanes * 2 + i / lanes) as f32;
                assert!((0..2 * lanes).all(|i| cells[i] == expected(i)), "{cells:?}");
            }
        }
    }

    #[test]
    fn halves_are_the_even_and_the_odd_lanes() {
        Arch::new().dispatch(Halves);
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = pulp::x86::V3::try_new() {
            Simd::vectorize(v3, Halves);
        }
    }
}
