//! What a GPU kernel is told, the same bytes for CUDA and Metal: see `kernels/params.h`.

use super::{Gradient, Method, Weighting};
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
    /// By which nothing is divided.
    const NONE: Self = Self {
        value: 0,
        multiplier: 0,
        shift: 0,
    };

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
    /// Cells of a window, padded ones included.
    pub size: u64,
    /// Cells of the input with those of its padding, on both sides.
    pub padded: u64,
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
            size: axis.kernel as u64,
            padded: input.saturating_add(padding.saturating_mul(2)),
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
    /// The power of power averages.
    pub exponent: C,
}

impl<C> Temperature<C> {
    fn new([sign, unit, inverse, scale, rate, exponent]: [C; 6]) -> Self {
        Self {
            sign,
            unit,
            inverse,
            scale,
            rate,
            exponent,
        }
    }
}

/// What `method` needs of them: `[sign, unit, 1/unit, scale, rate, exponent]`, none above `max`, the least positive number
/// being `min`; below `tiny`, weights do not fade with distance.
fn temperature(method: Method, tiny: f64, small_unit: f64, min: f64, max: f64) -> [f64; 6] {
    let (beta, exponent) = match method {
        Method::SoftPool(Weighting { beta, .. }) => (beta, 1.0),
        Method::Power { p, .. } => (1.0, p),
        _ => (1.0, 1.0),
    };
    // Unless β is tiny, cells so far from the peak that their sum could overflow weigh nothing.
    let unit = if beta.abs() < tiny { small_unit } else { 0.5 };
    // Never 0, so that −∞ has no weight whatever β is; that of numbers is 1 then as well.
    let scale = (beta.abs() * std::f64::consts::LOG2_E / unit).clamp(min, max);
    let rate = (beta.abs() / unit).min(max);
    let sign = if beta < 0.0 { -1.0 } else { 1.0 };
    [sign, unit, 1.0 / unit, scale, rate, exponent]
}

/// What a window's sum is divided by, as the kernels name it: its cells, with padded ones or without, or nothing.
fn count(method: Method) -> u32 {
    match method {
        Method::Power { sum: true, .. } => 2,
        Method::Average {
            count_include_pad: true,
        }
        | Method::Power {
            count_include_pad: true,
            ..
        } => 1,
        _ => 0,
    }
}

/// The one argument of every kernel besides its five buffers: input, logits, gradient, output, scratch.
///
/// All buffers start at the first cell of their tensor. Strides are in elements.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Depth, height, width.
    pub axes: [AxisParams; 3],
    /// Strides of the input: batch, channel, depth, height, width.
    pub input: [u64; 5],
    /// The same of the logits; zeros where there are none.
    pub logits: [u64; 5],
    /// The same of the gradient; zeros in the forward pass.
    pub grad: [u64; 5],
    /// Channels, of a plane's index.
    pub channels: Divisor,
    /// Work items of this launch: `((plane·depths + depth)·rows + row)·columns + column`.
    pub items: u64,
    /// Columns of the items.
    pub columns: Divisor,
    /// Rows of the items.
    pub rows: Divisor,
    /// Depths of the items.
    pub depths: Divisor,
    /// Columns of the input where its rows are one long row for windows but not in memory; else its value is 0.
    pub folded_columns: Divisor,
    /// Rows of the input, likewise.
    pub folded_rows: Divisor,
    /// Windows of all planes: the length of each array in the scratch buffer.
    pub windows: u64,
    /// Cells of all planes of the input.
    pub cells: u64,
    /// Cells of a row of the input that can be read in one piece, up to 16 bytes, from a multiple of them on; 0 where there
    /// are steps between them.
    pub input_vectors: u32,
    /// The same of the gradient.
    pub grad_vectors: u32,
    /// The same of the output, to be written.
    pub output_vectors: u32,
    /// Elements from a multiple of 16 bytes to the input's first.
    pub misaligned: u32,
    /// 1 where NaN becomes 0 and infinities the largest finite values.
    pub nan_to_num: u32,
    /// 1 for [`Gradient::Exact`].
    pub exact: u32,
    /// What a window's sum is divided by: 0 its cells, 1 its cells and the padded ones, 2 nothing.
    pub count: u32,
    /// Threads that share a window, as the power of two.
    pub team: u32,
    /// Threads of a team that share a row, as the power of two; the others have other rows.
    pub across: u32,
    /// Rows of windows, or of cells, that a block has.
    pub tile_rows: u32,
    /// Columns of them.
    pub tile_columns: u32,
    /// As `input_vectors`, of the logits.
    pub logits_vectors: u32,
    /// For kernels that compute in f32.
    pub single: Temperature<f32>,
    /// For kernels that compute in f64; a language without it sees `ulong`.
    pub double: Temperature<f64>,
}

/// How the tensors of a pass lie in memory.
#[derive(Clone, Copy)]
pub struct Layouts<'a> {
    /// Of the activations.
    pub input: &'a Layout,
    /// Of their logits, if the method has some.
    pub logits: Option<&'a Layout>,
    /// Of the output's gradient, in a backward pass.
    pub grad: Option<&'a Layout>,
}

impl Params {
    /// What all launches of a pass have in common: no items yet.
    pub(super) fn new(
        geometry: &Geometry,
        method: Method,
        gradient: Gradient,
        layouts: Layouts,
    ) -> Result<Self> {
        let axes = geometry.axes.each_ref().map(AxisParams::new);
        if axes.iter().any(|axis| axis.largest().is_none()) {
            bail!(
                "pooling: windows of {:?} are too large to address",
                geometry.axes
            );
        }
        let [least, most] = [f32::MIN_POSITIVE, f32::MAX].map(f64::from);
        let single = temperature(method, 1e-30, (-40f64).exp2(), least, most);
        let [least, most] = [f64::MIN_POSITIVE, f64::MAX];
        let double = temperature(method, 1e-290, (-64f64).exp2(), least, most);
        let input = layouts.input;
        let lead = input.dims().len() - geometry.rank;
        let planes = input.dims()[..lead].iter().product::<usize>();
        let strides =
            |layout: Option<&Layout>| layout.map_or([0; 5], |l| strides(l, geometry.rank));
        let nan_to_num = match method {
            Method::SoftPool(weighting) => weighting.nan_to_num,
            _ => false,
        };
        Ok(Self {
            axes,
            input: strides(Some(input)),
            logits: strides(layouts.logits),
            grad: strides(layouts.grad),
            channels: Divisor::new(input.dims()[lead - 1].max(1) as u64),
            items: 0,
            columns: Divisor::new(1),
            rows: Divisor::new(1),
            depths: Divisor::new(1),
            folded_columns: Divisor::NONE,
            folded_rows: Divisor::NONE,
            windows: (planes * geometry.output_cells()) as u64,
            cells: (planes * geometry.input_cells()) as u64,
            input_vectors: 0,
            grad_vectors: 0,
            output_vectors: 0,
            misaligned: 0,
            nan_to_num: nan_to_num as u32,
            exact: (gradient == Gradient::Exact) as u32,
            count: count(method),
            team: 0,
            across: 0,
            tile_rows: 1,
            tile_columns: 1,
            logits_vectors: 0,
            single: Temperature::new(single.map(|v| v as f32)),
            double: Temperature::new(double),
        })
    }

    /// Makes a long row of rows that every window has whole, and likewise of depths: the axes of these windows then.
    /// Whatever way tensors lie, so that the order of a sum, and its bits, do not depend on that.
    pub(super) fn flatten(&mut self, axes: &[Axis; 3]) -> [Axis; 3] {
        let mut flat = *axes;
        let mut follow = true;
        for outer in [1, 0] {
            let Some(flatter) = flattened(&flat, outer) else {
                break;
            };
            // Where rows lie one behind another in memory, the long row is one there too.
            let columns = flat[2].input as u64;
            let row =
                |strides: [u64; 5]| Some(strides[2 + outer]) == strides[4].checked_mul(columns);
            follow &= row(self.input) && row(self.logits);
            self.grad[4] = self.grad[2 + outer];
            flat = flatter;
        }
        if !follow {
            self.folded_columns = Divisor::new(axes[2].input as u64);
            self.folded_rows = Divisor::new(axes[1].input as u64);
            self.input_vectors = 0;
        }
        self.axes = flat.each_ref().map(AxisParams::new);
        flat
    }

    /// Whether 32 bits hold every number that a kernel computes along the axes.
    pub(super) fn narrow(&self) -> bool {
        self.axes
            .iter()
            .all(|axis| axis.largest().is_some_and(|largest| largest < NARROW))
    }
}

/// The axes with `outer` and the columns in one, if every window has whole rows.
fn flattened(axes: &[Axis; 3], outer: usize) -> Option<[Axis; 3]> {
    let [rows, columns] = [axes[outer], axes[2]];
    let whole =
        columns.output == 1 && columns.padding == 0 && columns.window(0) == (0..columns.input);
    if !whole || rows.adaptive || rows.input == 1 {
        return None;
    }
    let times = |n: usize| n.checked_mul(columns.input);
    // That of a single window leads nowhere.
    let stride = if rows.output == 1 {
        rows.kernel
    } else {
        rows.stride
    };
    let row = Axis {
        input: times(rows.input)?,
        kernel: times(rows.kernel)?,
        stride: times(stride)?,
        padding: times(rows.padding)?,
        ..rows
    };
    AxisParams::new(&row).largest()?;
    let mut flat = *axes;
    (flat[outer], flat[2]) = (Axis::UNIT, row);
    Some(flat)
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
        assert_eq!(size_of::<AxisParams>(), 72);
        assert_eq!(
            size_of::<Params>(),
            3 * 72 + 3 * 40 + 16 + 8 + 5 * 16 + 2 * 8 + 12 * 4 + 24 + 48
        );
        assert_eq!(std::mem::offset_of!(Params, double) % 8, 0);
    }
}
