//! What a GPU kernel is told, the same bytes for CUDA and Metal: see `Params` in `cuda/softpool.cu`.

use super::{Gradient, Weighting};
use crate::geometry::{Axis, Geometry};
use candle_core::{bail, Layout, Result};

/// Numbers up to here are computed in 32 bits; with room for sums of two.
const NARROW: u64 = 1 << 31;

/// A divisor with what turns a 32-bit division of a number below 2³¹ into a multiplication:
/// `n / value = (((n * multiplier) >> 32) + n) >> shift` (Granlund and Montgomery, PLDI 1994).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divisor {
    /// The divisor itself.
    pub value: u64,
    /// Meaningless where `value` is 2³¹ or more.
    pub multiplier: u32,
    /// Meaningless where `value` is 2³¹ or more.
    pub shift: u32,
}

impl Divisor {
    /// For a divisor of at least 1.
    pub fn new(value: u64) -> Self {
        let (mut multiplier, mut shift) = (0, 0);
        if value < NARROW {
            shift = value.next_power_of_two().trailing_zeros();
            multiplier = ((((1u64 << shift) - value) << 32) / value + 1) as u32;
        }
        Self {
            value,
            multiplier,
            shift,
        }
    }
}

/// The windows along one dimension.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AxisParams {
    /// Cells of the input.
    pub input: u64,
    /// Windows.
    pub output: u64,
    /// Window `o` ends before cell `o·stride + reach`.
    pub reach: u64,
    /// Window `o` starts at cell `o·stride − padding`.
    pub padding: u64,
    /// From a window's start to the next one's.
    pub stride: Divisor,
    /// 1 where windows run from `floor(o·input/output)` to `ceil((o + 1)·input/output)` instead.
    pub adaptive: u64,
}

impl AxisParams {
    fn new(axis: &Axis) -> Self {
        let (input, padding) = (axis.input as u64, axis.padding as u64);
        Self {
            input,
            output: axis.output as u64,
            // A reach past the input says no more than one to its end.
            reach: (axis.kernel - axis.padding).min(axis.input) as u64,
            padding,
            // Only that of a single window can be larger, where it says nothing, as where windows are adaptive.
            stride: Divisor::new((axis.stride as u64).clamp(1, input.saturating_add(padding))),
            adaptive: axis.adaptive as u64,
        }
    }

    /// The largest number that a kernel computes along this axis.
    fn largest(&self) -> Option<u64> {
        let sliding = (self.output - 1).checked_mul(self.stride.value);
        let sliding = sliding.and_then(|start| start.checked_add(self.reach));
        let padded = self.input.checked_add(self.padding);
        let adaptive = match self.adaptive {
            0 => Some(0),
            _ => (self.output + 1).checked_mul(self.input + 1),
        };
        Some(sliding?.max(padded?).max(adaptive?))
    }
}

/// β as the kernels use it, in the dtype of the arithmetic.
///
/// With `s = sign·x` and the window's peak `m = max s`, `d = s·unit − m·unit` cannot overflow, the weight is
/// `2^(scale·d)`, and the derivative's factor is `1 + rate·(d − mean d)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature<C> {
    /// −1 for a negative β, so that the largest `s` weighs most.
    pub sign: C,
    /// A power of two, small enough for sums of `d` over a window not to overflow.
    pub unit: C,
    /// `1/unit`
    pub inverse: C,
    /// `|β|·log₂e / unit`
    pub scale: C,
    /// `|β| / unit`
    pub rate: C,
}

/// `[sign, unit, 1/unit, scale, rate]`, none of them above `max`; below `tiny`, weights do not fade with distance.
fn temperature(beta: f64, tiny: f64, small_unit: f64, max: f64) -> [f64; 5] {
    // Unless β is tiny, cells so far from the peak that their sum could overflow weigh nothing.
    let unit = if beta.abs() < tiny { small_unit } else { 0.5 };
    let scale = (beta.abs() * std::f64::consts::LOG2_E / unit).min(max);
    let rate = (beta.abs() / unit).min(max);
    let sign = if beta < 0.0 { -1.0 } else { 1.0 };
    [sign, unit, 1.0 / unit, scale, rate]
}

/// The one argument of every kernel besides its four buffers (input, gradient, output, scratch).
///
/// All buffers start at the first cell of their tensor. Strides are in elements.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Depth, height, width.
    pub axes: [AxisParams; 3],
    /// Strides of the input: batch, channel, depth, height, width.
    pub input: [u64; 5],
    /// The same of the gradient; zeros in the forward pass.
    pub grad: [u64; 5],
    /// Channels, of a plane's index.
    pub channels: Divisor,
    /// Work items of this launch: `((plane·depths + depth)·rows + row)·columns + column`, then times `parts` plus part.
    pub items: u64,
    /// Columns of the items.
    pub columns: Divisor,
    /// Rows of the items.
    pub rows: Divisor,
    /// Depths of the items.
    pub depths: Divisor,
    /// Threads that share a window.
    pub parts: Divisor,
    /// Windows of all planes: the length of each array in the scratch buffer.
    pub windows: u64,
    /// 1 where rows of the input can be read 16 bytes at a time.
    pub input_vectors: u32,
    /// 1 where rows of the gradient can be read 8 bytes at a time.
    pub grad_vectors: u32,
    /// 1 where rows of the output can be written 8 bytes (forward) or 16 bytes (backward) at a time.
    pub output_vectors: u32,
    /// 1 where NaN becomes 0 and infinities the largest finite values.
    pub nan_to_num: u32,
    /// 1 for [`Gradient::Exact`].
    pub exact: u32,
    /// For kernels that compute in f32.
    pub single: Temperature<f32>,
    /// For kernels that compute in f64; a language without it sees `ulong`.
    pub double: Temperature<f64>,
}

impl Params {
    /// What all launches of a pass have in common: no items yet.
    pub(super) fn new(
        geometry: &Geometry,
        weighting: Weighting,
        gradient: Gradient,
        input: &Layout,
        grad: Option<&Layout>,
    ) -> Result<Self> {
        let axes = geometry.axes.each_ref().map(AxisParams::new);
        if axes.iter().any(|axis| axis.largest().is_none()) {
            bail!(
                "SoftPool: windows of {:?} are too large to address",
                geometry.axes
            );
        }
        let single = temperature(weighting.beta, 1e-30, (-40f64).exp2(), f32::MAX as f64);
        let [sign, unit, inverse, scale, rate] = single.map(|v| v as f32);
        let double = temperature(weighting.beta, 1e-290, (-64f64).exp2(), f64::MAX);
        let lead = input.dims().len() - geometry.rank;
        let planes = input.dims()[..lead].iter().product::<usize>();
        Ok(Self {
            axes,
            input: strides(input, geometry.rank),
            grad: grad.map_or([0; 5], |grad| strides(grad, geometry.rank)),
            channels: Divisor::new(input.dims()[lead - 1].max(1) as u64),
            items: 0,
            columns: Divisor::new(1),
            rows: Divisor::new(1),
            depths: Divisor::new(1),
            parts: Divisor::new(1),
            windows: (planes * geometry.output_cells()) as u64,
            input_vectors: 0,
            grad_vectors: 0,
            output_vectors: 0,
            nan_to_num: weighting.nan_to_num as u32,
            exact: (gradient == Gradient::Exact) as u32,
            single: Temperature {
                sign,
                unit,
                inverse,
                scale,
                rate,
            },
            double: Temperature {
                sign: double[0],
                unit: double[1],
                inverse: double[2],
                scale: double[3],
                rate: double[4],
            },
        })
    }

    /// Whether 32 bits hold every number that a kernel computes along the axes.
    pub(super) fn narrow(&self) -> bool {
        self.axes
            .iter()
            .all(|axis| axis.largest().is_some_and(|largest| largest < NARROW))
    }
}

/// Whether 32 bits hold this number of elements or items.
pub(super) fn narrow(n: usize) -> bool {
    (n as u64) < NARROW
}

/// Strides of batch, channel, depth, height and width.
fn strides(layout: &Layout, rank: usize) -> [u64; 5] {
    let steps = layout.stride();
    let lead = steps.len() - rank;
    let mut strides = [0; 5];
    for (stride, &step) in strides[5 - rank..].iter_mut().zip(&steps[lead..]) {
        *stride = step as u64;
    }
    strides[1] = steps[lead - 1] as u64;
    if lead == 2 {
        strides[0] = steps[0] as u64;
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_divisor_divides(n in 0u32..1 << 31, value in 1u32..1 << 31, small in 1u32..300) {
            for value in [value, small, (1 << 31) - 1] {
                for n in [n, 0, value - 1, value, (1 << 31) - 1] {
                    let d = Divisor::new(value as u64);
                    let high = ((n as u64 * d.multiplier as u64) >> 32) as u32;
                    prop_assert_eq!((high + n) >> d.shift, n / value);
                }
            }
        }
    }

    /// The kernels' own declarations hold the same numbers.
    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<AxisParams>(), 56);
        assert_eq!(
            size_of::<Params>(),
            168 + 40 + 40 + 16 + 8 + 4 * 16 + 8 + 5 * 4 + 20 + 40
        );
        assert_eq!(std::mem::offset_of!(Params, double) % 8, 0);
    }
}
