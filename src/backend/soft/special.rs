//! What some instruction sets do faster, in f32, than pulp's portable vectors say; `None` from all others.

#[cfg(not(target_arch = "x86_64"))]
pub use none::*;
#[cfg(target_arch = "x86_64")]
pub use x86::*;

/// Rows and columns of the square that [`turn`] turns.
pub const SIDE: usize = 16;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::SIDE;
    use pulp::bytemuck::cast;
    use pulp::x86::{V3, V4};
    use pulp::Simd;
    use std::any::Any;

    /// `simd` as this very instruction set; the compiler knows which it is.
    #[inline(always)]
    fn exactly<S: Simd, I: Simd>(simd: S) -> Option<I> {
        (&simd as &dyn Any).downcast_ref().copied()
    }

    /// `2^(scale·x + offset)`, the exponent rounded once; 0 far below, infinite far above.
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

    /// The even lanes of two vectors that follow each other, and the odd ones.
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

    /// Of three vectors that follow each other, every third lane, from the first three on.
    #[inline(always)]
    pub fn thirds<S: Simd>(simd: S, [a, b, c]: [S::f32s; 3]) -> Option<[S::f32s; 3]> {
        const FIRST: [i32; 16] = [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0];
        const SECOND: [i32; 16] = [1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 0, 0, 0, 0, 0];
        const THIRD: [i32; 16] = [2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0, 0, 0, 0, 0, 0];
        const FIRST_LAST: [i32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29];
        const SECOND_LAST: [i32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 18, 21, 24, 27, 30];
        const THIRD_LAST: [i32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 19, 22, 25, 28, 31];
        let f = exactly::<_, V4>(simd)?.avx512f;
        let (a, b, c) = (cast(a), cast(b), cast(c));
        let first = f._mm512_permutex2var_ps(a, cast(FIRST), b);
        let second = f._mm512_permutex2var_ps(a, cast(SECOND), b);
        let third = f._mm512_permutex2var_ps(a, cast(THIRD), b);
        Some([
            cast(f._mm512_permutex2var_ps(first, cast(FIRST_LAST), c)),
            cast(f._mm512_permutex2var_ps(second, cast(SECOND_LAST), c)),
            cast(f._mm512_permutex2var_ps(third, cast(THIRD_LAST), c)),
        ])
    }

    /// Turns a square of [`SIDE`] rows, `from` cells apart, so that its columns become rows, `to` cells apart.
    #[inline(always)]
    pub fn turn<S: Simd>(
        simd: S,
        (cells, from): (&[f32], usize),
        (turned, to): (&mut [f32], usize),
    ) -> Option<()> {
        let f = exactly::<_, V4>(simd)?.avx512f;
        // Two cells of two rows side by side, then of four, of eight and of all.
        let mut rows = [f._mm512_setzero_ps(); SIDE];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = cast(*cells[i * from..].first_chunk::<SIDE>()?);
        }
        let mut pairs = rows;
        for i in (0..SIDE).step_by(2) {
            pairs[i] = f._mm512_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = f._mm512_unpackhi_ps(rows[i], rows[i + 1]);
        }
        let mut fours = pairs;
        for i in (0..SIDE).step_by(4) {
            for k in 0..2 {
                let (a, b) = (cast(pairs[i + k]), cast(pairs[i + k + 2]));
                fours[i + 2 * k] = cast(f._mm512_unpacklo_pd(a, b));
                fours[i + 2 * k + 1] = cast(f._mm512_unpackhi_pd(a, b));
            }
        }
        let mut eights = fours;
        for i in (0..SIDE).step_by(8) {
            for k in 0..4 {
                let (a, b) = (fours[i + k], fours[i + k + 4]);
                eights[i + k] = f._mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
                eights[i + k + 4] = f._mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
            }
        }
        for k in 0..SIDE / 2 {
            let (a, b) = (eights[k], eights[k + 8]);
            let (even, odd) = (
                f._mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
                f._mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
            );
            *turned[k * to..].first_chunk_mut::<SIDE>()? = cast(even);
            *turned[(k + 8) * to..].first_chunk_mut::<SIDE>()? = cast(odd);
        }
        Some(())
    }

    /// What turns sixteen numbers at a time into others, and says how many it turned.
    macro_rules! by_sixteens {
        ($(#[$doc:meta])* $name:ident: $from:ty => $to:ty, |$f:ident, $sixteen:ident| $turned:expr) => {
            $(#[$doc])*
            #[inline(always)]
            pub fn $name<S: Simd>(simd: S, from: &[$from], to: &mut [$to]) -> Option<usize> {
                let $f = exactly::<_, V4>(simd)?.avx512f;
                let from = from.as_chunks::<16>().0;
                for (to, from) in to.as_chunks_mut::<16>().0.iter_mut().zip(from) {
                    let $sixteen = *from;
                    *to = cast($turned);
                }
                Some(from.len() * 16)
            }
        };
    }

    /// Whether there are [`load_f16`] and [`load_bf16`].
    #[inline(always)]
    pub fn converts<S: Simd>(simd: S) -> bool {
        exactly::<_, V4>(simd).is_some()
    }

    /// The values of sixteen f16 cells' bits.
    #[inline(always)]
    pub fn load_f16<S: Simd>(simd: S, cells: &[u16]) -> Option<S::f32s> {
        let f = exactly::<_, V4>(simd)?.avx512f;
        Some(cast(f._mm512_cvtph_ps(cast(*cells.first_chunk::<16>()?))))
    }

    /// The values of sixteen bf16 cells' bits.
    #[inline(always)]
    pub fn load_bf16<S: Simd>(simd: S, cells: &[u16]) -> Option<S::f32s> {
        let f = exactly::<_, V4>(simd)?.avx512f;
        let bits = f._mm512_cvtepu16_epi32(cast(*cells.first_chunk::<16>()?));
        Some(cast(f._mm512_slli_epi32::<16>(bits)))
    }

    by_sixteens! {
        /// Widens the bits of f16 cells.
        widen_f16: u16 => f32, |f, cells| f._mm512_cvtph_ps(cast(cells))
    }

    by_sixteens! {
        /// Rounds to the bits of f16 cells, to nearest, ties to even.
        narrow_f16: f32 => u16, |f, values| f._mm512_cvtps_ph::<0b1000>(cast(values))
    }

    by_sixteens! {
        /// Widens the bits of bf16 cells.
        widen_bf16: u16 => f32, |f, cells| {
            f._mm512_slli_epi32::<16>(f._mm512_cvtepu16_epi32(cast(cells)))
        }
    }

    by_sixteens! {
        /// Rounds to the bits of bf16 cells, to nearest, ties to even.
        narrow_bf16: f32 => u16, |f, values| {
            let bits = cast(values);
            let odd = f._mm512_and_si512(f._mm512_srli_epi32::<16>(bits), f._mm512_set1_epi32(1));
            let half = f._mm512_add_epi32(f._mm512_set1_epi32(0x7fff), odd);
            // Rounding could carry a NaN's payload into another number.
            let quiet = f._mm512_or_si512(bits, f._mm512_set1_epi32(0x40_0000));
            let nan = f._mm512_cmpunord_ps_mask(cast(bits), cast(bits));
            let bits = f._mm512_mask_blend_epi32(nan, f._mm512_add_epi32(bits, half), quiet);
            f._mm512_cvtepi32_epi16(f._mm512_srli_epi32::<16>(bits))
        }
    }

    /// `a / b` to two units in the last place, for a `b` whose reciprocal is a normal number; by Newton's method, since
    /// AVX-512's division takes as long as sixteen other operations.
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

#[cfg(not(target_arch = "x86_64"))]
mod none {
    use pulp::Simd;

    pub fn exp2_at<S: Simd, V>(_simd: S, _x: V, _scale: V, _offset: V) -> Option<V> {
        None
    }
    pub fn ratio<S: Simd, V>(_simd: S, _a: V, _b: V) -> Option<V> {
        None
    }
    pub fn halves<S: Simd, V>(_simd: S, _ab: [V; 2]) -> Option<[V; 2]> {
        None
    }
    pub fn thirds<S: Simd, V>(_simd: S, _abc: [V; 3]) -> Option<[V; 3]> {
        None
    }
    pub fn turn<S: Simd>(
        _simd: S,
        _cells: (&[f32], usize),
        _turned: (&mut [f32], usize),
    ) -> Option<()> {
        None
    }
    pub fn converts<S: Simd>(_simd: S) -> bool {
        false
    }
    pub fn load_f16<S: Simd>(_simd: S, _cells: &[u16]) -> Option<S::f32s> {
        None
    }
    pub fn load_bf16<S: Simd>(_simd: S, _cells: &[u16]) -> Option<S::f32s> {
        None
    }
    pub fn widen_f16<S: Simd>(_simd: S, _cells: &[u16], _values: &mut [f32]) -> Option<usize> {
        None
    }
    pub fn narrow_f16<S: Simd>(_simd: S, _values: &[f32], _cells: &mut [u16]) -> Option<usize> {
        None
    }
    pub fn widen_bf16<S: Simd>(_simd: S, _cells: &[u16], _values: &mut [f32]) -> Option<usize> {
        None
    }
    pub fn narrow_bf16<S: Simd>(_simd: S, _values: &[f32], _cells: &mut [u16]) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::Real;
    use super::{turn, SIDE};
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

    struct Apart;
    impl WithSimd for Apart {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let cells: [f32; 48] = std::array::from_fn(|i| i as f32);
            let vectors = f32::vectors::<S>(&cells);
            if let Some(halves) = f32::halves(simd, [vectors[0], vectors[1]]) {
                assert_apart::<S, 2>(halves);
            }
            if let Some(thirds) = f32::thirds(simd, [vectors[0], vectors[1], vectors[2]]) {
                assert_apart::<S, 3>(thirds);
            }
        }
    }

    /// Every `N`th of the numbers from 0 on.
    fn assert_apart<S: Simd, const N: usize>(vectors: [S::f32s; N]) {
        for (first, vector) in vectors.into_iter().enumerate() {
            let mut lanes = [0.0; 16];
            f32::vectors_mut::<S>(&mut lanes)[0] = vector;
            let lanes = lanes.iter().take(S::F32_LANES).enumerate();
            for (i, lane) in lanes {
                assert_eq!(*lane, (first + i * N) as f32);
            }
        }
    }

    #[test]
    fn lanes_are_told_apart() {
        Arch::new().dispatch(Apart);
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = pulp::x86::V3::try_new() {
            Simd::vectorize(v3, Apart);
        }
    }

    struct Turn;
    impl WithSimd for Turn {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let (from, to) = (19, 17);
            let cells: Vec<f32> = (0..SIDE * from).map(|i| i as f32).collect();
            let mut turned = vec![-1.0; SIDE * to];
            if turn(simd, (&cells, from), (&mut turned, to)).is_none() {
                return;
            }
            for (row, turned) in turned.chunks(to).enumerate() {
                for column in 0..SIDE {
                    assert_eq!(turned[column], cells[column * from + row]);
                }
                assert_eq!(turned[SIDE..], [-1.0]);
            }
        }
    }

    #[test]
    fn columns_become_rows() {
        Arch::new().dispatch(Turn);
    }
}
