//! NEON, which every 64-bit Arm machine has.

use super::{interleave_in_memory, split_in_memory, InstructionSet, Kernel, Vector, MOST_LANES};
use half::{bf16, f16};
use std::arch::aarch64::*;

pub struct Neon;

impl InstructionSet for Neon {
    type F32 = F32x4;
    type F64 = F64x2;

    #[inline(never)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        kernel.run::<Self>()
    }
}

// SAFETY, of every block in this file: every machine of the target has NEON; memory is read and written through slices
// whose length is checked first.

// NEON's product is added to its first operand, and its own maximum is NaN whichever of the two is.

#[inline(always)]
fn mul_add_f32(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    unsafe { vfmaq_f32(c, a, b) }
}

#[inline(always)]
fn mul_add_f64(a: float64x2_t, b: float64x2_t, c: float64x2_t) -> float64x2_t {
    unsafe { vfmaq_f64(c, a, b) }
}

#[inline(always)]
fn max_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

#[inline(always)]
fn max_f64(a: float64x2_t, b: float64x2_t) -> float64x2_t {
    unsafe { vbslq_f64(vcgtq_f64(a, b), a, b) }
}

/// Three vectors whose bytes are at these places of three vectors that follow each other.
#[inline(always)]
fn pick(vectors: [float32x4_t; 3], bytes: &[[u8; 16]; 3]) -> [F32x4; 3] {
    unsafe {
        let [a, b, c] = vectors.map(|v| vreinterpretq_u8_f32(v));
        let table = uint8x16x3_t(a, b, c);
        bytes.map(|bytes| {
            let lanes = vqtbl3q_u8(table, vld1q_u8(bytes.as_ptr()));
            F32x4(vreinterpretq_f32_u8(lanes))
        })
    }
}

/// The places of the bytes of lanes, of four bytes each.
const fn bytes(lanes: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut i = 0;
    while i < 16 {
        bytes[i] = 4 * lanes[i / 4] + (i % 4) as u8;
        i += 1;
    }
    bytes
}

/// Every third lane.
const THIRDS: [[u8; 16]; 3] = [
    bytes([0, 3, 6, 9]),
    bytes([1, 4, 7, 10]),
    bytes([2, 5, 8, 11]),
];
/// A lane of each vector in turn.
const INTERLEAVED: [[u8; 16]; 3] = [
    bytes([0, 4, 8, 1]),
    bytes([5, 9, 2, 6]),
    bytes([10, 3, 7, 11]),
];

vector! {
    F32x4: float32x4_t, 4 of f32, mask uint32x4_t;
    splat vdupq_n_f32, load vld1q_f32, store vst1q_f32,
    add vaddq_f32, sub vsubq_f32, mul vmulq_f32, div vdivq_f32, mul_add mul_add_f32,
    max max_f32, sqrt vsqrtq_f32;
    power_of_two |v| vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(v)));
    greater |a, b| vcgtq_f32(a, b);
    equal |a, b| vceqq_f32(a, b);
    and |a, b| vandq_u32(a, b);
    or |a, b| vorrq_u32(a, b);
    select |mask, yes, no| vbslq_f32(mask, yes.0, no.0);
    all |mask| vminvq_u32(mask) != 0;

    #[inline(always)]
    fn abs(self) -> Self {
        unsafe { Self(vabsq_f32(self.0)) }
    }

    #[inline(always)]
    fn split<const N: usize>(vectors: [Self; N]) -> [Self; N] {
        let mut all = vectors;
        match vectors[..] {
            [Self(a), Self(b)] => unsafe {
                all.copy_from_slice(&[Self(vuzp1q_f32(a, b)), Self(vuzp2q_f32(a, b))]);
            },
            [Self(a), Self(b), Self(c)] => all.copy_from_slice(&pick([a, b, c], &THIRDS)),
            _ => return split_in_memory(vectors),
        }
        all
    }

    #[inline(always)]
    fn interleave<const N: usize>(phases: [Self; N]) -> [Self; N] {
        let mut all = phases;
        match phases[..] {
            [Self(a), Self(b)] => unsafe {
                all.copy_from_slice(&[Self(vzip1q_f32(a, b)), Self(vzip2q_f32(a, b))]);
            },
            [Self(a), Self(b), Self(c)] => all.copy_from_slice(&pick([a, b, c], &INTERLEAVED)),
            _ => return interleave_in_memory(phases),
        }
        all
    }

    #[inline(always)]
    fn load_f16(cells: &[f16]) -> Self {
        let cells = &cells[..4];
        unsafe {
            let bits = vld1_u16(cells.as_ptr().cast());
            Self(vcvt_f32_f16(vreinterpret_f16_u16(bits)))
        }
    }

    #[inline(always)]
    fn load_bf16(cells: &[bf16]) -> Self {
        let cells = &cells[..4];
        unsafe {
            let bits = vmovl_u16(vld1_u16(cells.as_ptr().cast()));
            Self(vreinterpretq_f32_u32(vshlq_n_u32::<16>(bits)))
        }
    }

    #[inline(always)]
    fn to_f16(self) -> [f16; MOST_LANES] {
        let mut cells = [f16::ZERO; MOST_LANES];
        unsafe {
            let bits = vreinterpret_u16_f16(vcvt_f16_f32(self.0));
            vst1_u16(cells.as_mut_ptr().cast(), bits);
        }
        cells
    }

    #[inline(always)]
    fn to_bf16(self) -> [bf16; MOST_LANES] {
        let mut cells = [bf16::ZERO; MOST_LANES];
        unsafe {
            let bits = vreinterpretq_u32_f32(self.0);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(bits, vaddq_u32(vdupq_n_u32(0x7fff), odd));
            // Rounding could carry a NaN's payload into another number.
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
            let number = vceqq_f32(self.0, self.0);
            let bits = vshrn_n_u32::<16>(vbslq_u32(number, rounded, quiet));
            vst1_u16(cells.as_mut_ptr().cast(), bits);
        }
        cells
    }
}

vector! {
    F64x2: float64x2_t, 2 of f64, mask uint64x2_t;
    splat vdupq_n_f64, load vld1q_f64, store vst1q_f64,
    add vaddq_f64, sub vsubq_f64, mul vmulq_f64, div vdivq_f64, mul_add mul_add_f64,
    max max_f64, sqrt vsqrtq_f64;
    power_of_two |v| vreinterpretq_f64_u64(vshlq_n_u64::<52>(vreinterpretq_u64_f64(v)));
    greater |a, b| vcgtq_f64(a, b);
    equal |a, b| vceqq_f64(a, b);
    and |a, b| vandq_u64(a, b);
    or |a, b| vorrq_u64(a, b);
    select |mask, yes, no| vbslq_f64(mask, yes.0, no.0);
    all |mask| vminvq_u32(vreinterpretq_u32_u64(mask)) != 0;

    #[inline(always)]
    fn abs(self) -> Self {
        unsafe { Self(vabsq_f64(self.0)) }
    }

    #[inline(always)]
    fn split<const N: usize>(vectors: [Self; N]) -> [Self; N] {
        let mut all = vectors;
        match vectors[..] {
            [Self(a), Self(b)] => unsafe {
                all.copy_from_slice(&[Self(vuzp1q_f64(a, b)), Self(vuzp2q_f64(a, b))]);
            },
            [Self(a), Self(b), Self(c)] => unsafe {
                all.copy_from_slice(&[
                    Self(vcopyq_laneq_f64::<1, 1>(a, b)),
                    Self(vextq_f64::<1>(a, c)),
                    Self(vcopyq_laneq_f64::<1, 1>(b, c)),
                ]);
            },
            _ => return split_in_memory(vectors),
        }
        all
    }

    #[inline(always)]
    fn interleave<const N: usize>(phases: [Self; N]) -> [Self; N] {
        let mut all = phases;
        match phases[..] {
            [Self(a), Self(b)] => unsafe {
                all.copy_from_slice(&[Self(vzip1q_f64(a, b)), Self(vzip2q_f64(a, b))]);
            },
            [Self(a), Self(b), Self(c)] => unsafe {
                all.copy_from_slice(&[
                    Self(vzip1q_f64(a, b)),
                    Self(vcopyq_laneq_f64::<1, 1>(c, a)),
                    Self(vzip2q_f64(b, c)),
                ]);
            },
            _ => return interleave_in_memory(phases),
        }
        all
    }
}
