//! AVX2 with FMA and F16C, and AVX-512.

use super::{interleave_in_memory, split_in_memory, InstructionSet, Kernel, Vector, MOST_LANES};
use half::{bf16, f16};
use std::arch::x86_64::*;

pub fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

pub fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

pub struct Avx2;

impl InstructionSet for Avx2 {
    type F32 = F32x8;
    type F64 = F64x4;

    #[inline(never)]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Self>()
    }
}

/// These lanes of three vectors: of the second where its bit is set, of the third where that one's is, else of the first.
///
/// # Safety
///
/// The machine must have AVX2.
#[inline(always)]
unsafe fn pick<const SECOND: i32, const THIRD: i32>(of: [__m256; 3], lanes: [i32; 8]) -> __m256 {
    // SAFETY: the caller's.
    unsafe {
        let lanes = _mm256_loadu_si256(lanes.as_ptr().cast());
        let [a, b, c] = [
            _mm256_permutevar8x32_ps(of[0], lanes),
            _mm256_permutevar8x32_ps(of[1], lanes),
            _mm256_permutevar8x32_ps(of[2], lanes),
        ];
        _mm256_blend_ps::<THIRD>(_mm256_blend_ps::<SECOND>(a, b), c)
    }
}

pub struct Avx512;

impl InstructionSet for Avx512 {
    type F32 = F32x16;
    /// No rule is compiled for this set in f64.
    type F64 = F64x4;

    #[inline(never)]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512dq,avx512bw,avx512vl")]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Self>()
    }
}

vector! {
    F32x8: __m256, 8 of f32, mask __m256;
    splat _mm256_set1_ps, load _mm256_loadu_ps, store _mm256_storeu_ps,
    add _mm256_add_ps, sub _mm256_sub_ps, mul _mm256_mul_ps, div _mm256_div_ps, mul_add _mm256_fmadd_ps,
    max _mm256_max_ps, sqrt _mm256_sqrt_ps;
    power_of_two |v| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(v)));
    greater |a, b| _mm256_cmp_ps::<_CMP_GT_OQ>(a, b);
    equal |a, b| _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b);
    and |a, b| _mm256_and_ps(a, b);
    or |a, b| _mm256_or_ps(a, b);
    select |mask, yes, no| _mm256_blendv_ps(no.0, yes.0, mask);
    all |mask| _mm256_movemask_ps(mask) == 0xff;

    #[inline(always)]
    fn split<const N: usize>(vectors: [Self; N]) -> [Self; N] {
        let mut all = vectors;
        if N == 1 {
            return all;
        }
        if N == 3 {
            let of = [vectors[0].0, vectors[1].0, vectors[2].0];
            // SAFETY: as above.
            unsafe {
                all[0] = Self(pick::<0b0011_1000, 0b1100_0000>(of, [0, 3, 6, 1, 4, 7, 2, 5]));
                all[1] = Self(pick::<0b0001_1000, 0b1110_0000>(of, [1, 4, 7, 2, 5, 0, 3, 6]));
                all[2] = Self(pick::<0b0001_1100, 0b1110_0000>(of, [2, 5, 0, 3, 6, 1, 4, 7]));
            }
            return all;
        }
        if N != 2 {
            return split_in_memory(vectors);
        }
        let (a, b) = (vectors[0].0, vectors[1].0);
        // SAFETY: as above.
        let halves = unsafe {
            let even = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
            [
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(even)),
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(odd)),
            ]
        };
        (all[0], all[1]) = (Self(halves[0]), Self(halves[1]));
        all
    }

    #[inline(always)]
    fn interleave<const N: usize>(phases: [Self; N]) -> [Self; N] {
        let mut all = phases;
        if N == 1 {
            return all;
        }
        if N == 3 {
            let of = [phases[0].0, phases[1].0, phases[2].0];
            // SAFETY: as above.
            unsafe {
                all[0] = Self(pick::<0b1001_0010, 0b0010_0100>(of, [0, 0, 0, 1, 1, 1, 2, 2]));
                all[1] = Self(pick::<0b0010_0100, 0b0100_1001>(of, [2, 3, 3, 3, 4, 4, 4, 5]));
                all[2] = Self(pick::<0b0100_1001, 0b1001_0010>(of, [5, 5, 6, 6, 6, 7, 7, 7]));
            }
            return all;
        }
        if N != 2 {
            return interleave_in_memory(phases);
        }
        let (even, odd) = (phases[0].0, phases[1].0);
        // SAFETY: as above.
        let halves = unsafe {
            let low = _mm256_unpacklo_ps(even, odd);
            let high = _mm256_unpackhi_ps(even, odd);
            [
                _mm256_permute2f128_ps::<0x20>(low, high),
                _mm256_permute2f128_ps::<0x31>(low, high),
            ]
        };
        (all[0], all[1]) = (Self(halves[0]), Self(halves[1]));
        all
    }

    #[inline(always)]
    fn load_f16(cells: &[f16]) -> Self {
        let cells = &cells[..8];
        // SAFETY: as above.
        unsafe { Self(_mm256_cvtph_ps(_mm_loadu_si128(cells.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_bf16(cells: &[bf16]) -> Self {
        let cells = &cells[..8];
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(cells.as_ptr().cast()));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)))
        }
    }

    #[inline(always)]
    fn to_f16(self) -> [f16; MOST_LANES] {
        let mut cells = [f16::ZERO; MOST_LANES];
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
            _mm_storeu_si128(cells.as_mut_ptr().cast(), bits);
        }
        cells
    }

    #[inline(always)]
    fn to_bf16(self) -> [bf16; MOST_LANES] {
        let mut cells = [bf16::ZERO; MOST_LANES];
        // SAFETY: as above.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd));
            // Rounding could carry a NaN's payload into another number.
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
            let bits = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            let pairs = _mm256_packus_epi32(bits, bits);
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
            _mm_storeu_si128(cells.as_mut_ptr().cast(), _mm256_castsi256_si128(packed));
        }
        cells
    }
}

vector! {
    F64x4: __m256d, 4 of f64, mask __m256d;
    splat _mm256_set1_pd, load _mm256_loadu_pd, store _mm256_storeu_pd,
    add _mm256_add_pd, sub _mm256_sub_pd, mul _mm256_mul_pd, div _mm256_div_pd, mul_add _mm256_fmadd_pd,
    max _mm256_max_pd, sqrt _mm256_sqrt_pd;
    power_of_two |v| _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_castpd_si256(v)));
    greater |a, b| _mm256_cmp_pd::<_CMP_GT_OQ>(a, b);
    equal |a, b| _mm256_cmp_pd::<_CMP_EQ_OQ>(a, b);
    and |a, b| _mm256_and_pd(a, b);
    or |a, b| _mm256_or_pd(a, b);
    select |mask, yes, no| _mm256_blendv_pd(no.0, yes.0, mask);
    all |mask| _mm256_movemask_pd(mask) == 0xf;
}

vector! {
    F32x16: __m512, 16 of f32, mask __mmask16;
    splat _mm512_set1_ps, load _mm512_loadu_ps, store _mm512_storeu_ps,
    add _mm512_add_ps, sub _mm512_sub_ps, mul _mm512_mul_ps, div _mm512_div_ps, mul_add _mm512_fmadd_ps,
    max _mm512_max_ps, sqrt _mm512_sqrt_ps;
    power_of_two |v| _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(v)));
    greater |a, b| _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b);
    equal |a, b| _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
    and |a, b| a & b;
    or |a, b| a | b;
    select |mask, yes, no| _mm512_mask_blend_ps(mask, no.0, yes.0);
    all |mask| mask == 0xffff;

    /// By `vreduceps` and `vscalefps`, which need no clamp: nine operations.
    #[inline(always)]
    fn exp2(self) -> Self {
        const DOWN: i32 = 0b1001;
        // Remez for 2^f from 0 to 1, relative error 7.5e-8.
        const COEFFICIENTS: [f32; 6] =
            [0.001_877_576_7, 0.008_989_34, 0.055_826_318, 0.240_153_61, 0.693_153_1, 0.999_999_94];
        // SAFETY: as above.
        unsafe {
            let f = _mm512_reduce_ps::<DOWN>(self.0);
            let mut p = _mm512_set1_ps(COEFFICIENTS[0]);
            for c in &COEFFICIENTS[1..] {
                p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(*c));
            }
            Self(_mm512_scalef_ps(p, self.0))
        }
    }

    /// By Newton's method, since a division takes as long as sixteen other operations.
    #[inline(always)]
    fn quotient(self, b: Self) -> Self {
        let (a, b) = (self.0, b.0);
        // SAFETY: as above.
        unsafe {
            let r = _mm512_rcp14_ps(b);
            let r = _mm512_fmadd_ps(_mm512_fnmadd_ps(b, r, _mm512_set1_ps(1.0)), r, r);
            let q = _mm512_mul_ps(a, r);
            Self(_mm512_fmadd_ps(_mm512_fnmadd_ps(b, q, a), r, q))
        }
    }

    #[inline(always)]
    fn split<const N: usize>(vectors: [Self; N]) -> [Self; N] {
        const EVEN: [i32; 16] = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];
        const ODD: [i32; 16] = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31];
        // Of thirds first those of two vectors, then those of the last one.
        const THIRDS: [[i32; 16]; 3] = [
            [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0],
            [1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 0, 0, 0, 0, 0],
            [2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0, 0, 0, 0, 0, 0],
        ];
        const LAST_THIRDS: [[i32; 16]; 3] = [
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29],
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 18, 21, 24, 27, 30],
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 19, 22, 25, 28, 31],
        ];
        let mut all = vectors;
        for i in 0..N {
            // SAFETY: as above.
            unsafe {
                all[i] = match N {
                    2 => {
                        let lanes = if i == 0 { &EVEN } else { &ODD };
                        let lanes = _mm512_loadu_si512(lanes.as_ptr().cast());
                        Self(_mm512_permutex2var_ps(vectors[0].0, lanes, vectors[1].0))
                    }
                    3 => {
                        let lanes = _mm512_loadu_si512(THIRDS[i].as_ptr().cast());
                        let two = _mm512_permutex2var_ps(vectors[0].0, lanes, vectors[1].0);
                        let lanes = _mm512_loadu_si512(LAST_THIRDS[i].as_ptr().cast());
                        Self(_mm512_permutex2var_ps(two, lanes, vectors[2].0))
                    }
                    1 => vectors[i],
                    _ => return split_in_memory(vectors),
                };
            }
        }
        all
    }

    #[inline(always)]
    fn interleave<const N: usize>(phases: [Self; N]) -> [Self; N] {
        const HALVES: [[i32; 16]; 2] = [
            [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23],
            [8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31],
        ];
        // Of three phases first the lanes of two, then those of the last one in between.
        const TWO: [[i32; 16]; 3] = [
            [0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5],
            [21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26],
            [0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0],
        ];
        const LAST: [[i32; 16]; 3] = [
            [0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15],
            [0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15],
            [26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31],
        ];
        let mut all = phases;
        for i in 0..N {
            // SAFETY: as above.
            unsafe {
                all[i] = match N {
                    2 => {
                        let lanes = _mm512_loadu_si512(HALVES[i].as_ptr().cast());
                        Self(_mm512_permutex2var_ps(phases[0].0, lanes, phases[1].0))
                    }
                    3 => {
                        let lanes = _mm512_loadu_si512(TWO[i].as_ptr().cast());
                        let two = _mm512_permutex2var_ps(phases[0].0, lanes, phases[1].0);
                        let lanes = _mm512_loadu_si512(LAST[i].as_ptr().cast());
                        Self(_mm512_permutex2var_ps(two, lanes, phases[2].0))
                    }
                    1 => phases[i],
                    _ => return interleave_in_memory(phases),
                };
            }
        }
        all
    }

    #[inline(always)]
    fn load_f16(cells: &[f16]) -> Self {
        let cells = &cells[..16];
        // SAFETY: as above.
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(cells.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_bf16(cells: &[bf16]) -> Self {
        let cells = &cells[..16];
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(cells.as_ptr().cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)))
        }
    }

    #[inline(always)]
    fn to_f16(self) -> [f16; MOST_LANES] {
        let mut cells = [f16::ZERO; MOST_LANES];
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
            _mm256_storeu_si256(cells.as_mut_ptr().cast(), bits);
        }
        cells
    }

    #[inline(always)]
    fn to_bf16(self) -> [bf16; MOST_LANES] {
        let mut cells = [bf16::ZERO; MOST_LANES];
        // SAFETY: as above.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd));
            // Rounding could carry a NaN's payload into another number.
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let nan = _mm512_cmpunord_ps_mask(self.0, self.0);
            let bits = _mm512_mask_blend_epi32(nan, rounded, quiet);
            let packed = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(bits));
            _mm256_storeu_si256(cells.as_mut_ptr().cast(), packed);
        }
        cells
    }
}
