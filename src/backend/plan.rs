//! Which GPU kernels a pass runs, over how many blocks of threads: the same plan for CUDA, Metal and their emulation.

use super::params::{narrow, Divisor, Params};
use super::{Gradient, Weighting};
use crate::geometry::{Axis, Geometry};
use candle_core::{bail, DType, Layout, Result};

/// Threads of a block.
const BLOCK: u32 = 256;
/// The most blocks of a launch; kernels loop over what is left.
const LARGEST_GRID: u64 = 1 << 22;
/// Threads share a window from so many cells on,
const PART: usize = 32;
/// where windows alone make fewer threads than this,
const FEW_THREADS: usize = 1 << 17;
/// and at most so many share one.
const MOST_PARTS: usize = 64;

/// From this β on, no window needs another kernel because of where the input ends.
const LEAST_BETA: f64 = 1e-2;

/// The kernels of `cuda/softpool.cu` and `metal/softpool.metal`, in their order there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// 2×2 windows side by side: a thread has 8 bytes of outputs.
    Forward2x2,
    /// 3×3 windows at steps of two: a thread has 8 bytes of outputs.
    Forward3x3,
    /// Any windows, a thread each.
    ForwardAny,
    /// The sums of a part of a window, into the scratch buffer.
    Partials,
    /// Outputs from [`Kernel::Partials`].
    ForwardParts,
    /// The gradient of 2×2 windows side by side: a thread has two rows of 16 bytes.
    Backward2x2,
    /// The gradient of 3×3 windows at steps of two: a thread has two rows of 16 bytes.
    Backward3x3,
    /// The gradient of windows that share no cell, a thread each.
    BackwardDisjoint,
    /// What each window passes on to its cells, into the scratch buffer.
    Statistics,
    /// The same from [`Kernel::Partials`].
    StatisticsParts,
    /// The gradient of each input cell from the windows that hold it, by their statistics.
    BackwardGather,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Kernel; 11] = [
        Kernel::Forward2x2,
        Kernel::Forward3x3,
        Kernel::ForwardAny,
        Kernel::Partials,
        Kernel::ForwardParts,
        Kernel::Backward2x2,
        Kernel::Backward3x3,
        Kernel::BackwardDisjoint,
        Kernel::Statistics,
        Kernel::StatisticsParts,
        Kernel::BackwardGather,
    ];

    fn name(self) -> &'static str {
        match self {
            Kernel::Forward2x2 => "forward_2x2",
            Kernel::Forward3x3 => "forward_3x3",
            Kernel::ForwardAny => "forward_any",
            Kernel::Partials => "partials",
            Kernel::ForwardParts => "forward_parts",
            Kernel::Backward2x2 => "backward_2x2",
            Kernel::Backward3x3 => "backward_3x3",
            Kernel::BackwardDisjoint => "backward_disjoint",
            Kernel::Statistics => "statistics",
            Kernel::StatisticsParts => "statistics_parts",
            Kernel::BackwardGather => "backward_gather",
        }
    }
}

/// One kernel launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Launch {
    /// Which algorithm.
    pub kernel: Kernel,
    /// Whether it computes indices in 64 bits.
    pub wide: bool,
    /// Blocks, in one dimension.
    pub grid: u32,
    /// Threads of a block, in one dimension.
    pub block: u32,
    /// Numbers that the threads of a block share, in the dtype of the arithmetic.
    pub shared: u32,
    /// The kernel's argument.
    pub params: Params,
}

impl Launch {
    /// The type of its kernel's indices.
    pub fn index(&self) -> &'static str {
        match self.wide {
            true => "u64",
            false => "u32",
        }
    }

    /// Bytes that the threads of a block share.
    pub fn shared_bytes(&self, dtype: DType) -> usize {
        let number = if dtype == DType::F64 { 8 } else { 4 };
        // Metal takes multiples of 16.
        (self.shared as usize * number).next_multiple_of(16)
    }

    /// The module that has its kernel, such as `f32_u32`.
    pub fn module(&self, dtype: DType) -> String {
        format!("{}_{}", dtype.as_str(), self.index())
    }

    /// The kernel's name in the compiled module, such as `forward_2x2_f32_u32`.
    pub fn function(&self, dtype: DType) -> String {
        format!("{}_{}", self.kernel.name(), self.module(dtype))
    }
}

/// The launches of a pass, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// None where the output is empty.
    pub launches: Vec<Launch>,
    /// Elements of the output.
    pub output: usize,
    /// Elements of the scratch buffer, in the dtype of the arithmetic: f64 for f64, else f32.
    pub scratch: usize,
}

/// The forward pass of an input with this layout.
pub fn forward(
    dtype: DType,
    input: &Layout,
    geometry: &Geometry,
    weighting: Weighting,
) -> Result<Plan> {
    let params = Params::new(geometry, weighting, Gradient::Paper, input, None)?;
    let mut pass = Pass::new(dtype, geometry, input, None, params)?;
    let group = 8 / pass.size;
    let [_, _, width] = geometry.axes;
    pass.params.output_vectors = width.output.is_multiple_of(group) as u32;
    match special(geometry, weighting) {
        Some(Special::TwoByTwo) => pass.launch(Kernel::Forward2x2, pass.outputs(group), 1),
        Some(Special::ThreeByThree) => pass.launch(Kernel::Forward3x3, pass.outputs(group), 1),
        None => match pass.parts() {
            1 => pass.launch(Kernel::ForwardAny, pass.outputs(1), 1),
            parts => {
                pass.launch(Kernel::Partials, pass.outputs(1), parts);
                pass.launch(Kernel::ForwardParts, pass.outputs(1), parts);
            }
        },
    }
    Ok(pass.plan(geometry.output_cells()))
}

/// The backward pass of an input and a gradient of its output with these layouts.
pub fn backward(
    dtype: DType,
    input: &Layout,
    grad: &Layout,
    geometry: &Geometry,
    weighting: Weighting,
    gradient: Gradient,
) -> Result<Plan> {
    let params = Params::new(geometry, weighting, gradient, input, Some(grad))?;
    let mut pass = Pass::new(dtype, geometry, input, Some(grad), params)?;
    let [depth, height, width] = geometry.axes;
    let group = 8 / pass.size;
    pass.params.output_vectors = width.input.is_multiple_of(2 * group) as u32;
    let columns = width.input.div_ceil(2 * group);
    match special(geometry, weighting) {
        Some(Special::TwoByTwo) => {
            let items = [depth.input, height.input.div_ceil(2), columns];
            pass.launch(Kernel::Backward2x2, items, 1);
        }
        Some(Special::ThreeByThree) => {
            let rows = (height.input + height.padding).div_ceil(2);
            pass.launch(Kernel::Backward3x3, [depth.input, rows, columns], 1);
        }
        None => pass.backward_any(),
    }
    Ok(pass.plan(geometry.input_cells()))
}

#[derive(Clone, Copy, PartialEq)]
enum Special {
    TwoByTwo,
    ThreeByThree,
}

/// The common windows that have kernels of their own; those count on cells beyond the input being weightless.
fn special(geometry: &Geometry, weighting: Weighting) -> Option<Special> {
    let [depth, height, width] = geometry.axes;
    let flat = depth.input == depth.output && depth.kernel == 1;
    let both = |test: fn(&Axis) -> bool| {
        !height.adaptive && !width.adaptive && test(&height) && test(&width)
    };
    if !flat || weighting.beta < LEAST_BETA {
        None
    } else if both(|a| a.kernel == 2 && a.stride == 2 && a.padding == 0) {
        Some(Special::TwoByTwo)
    } else if both(|a| a.kernel == 3 && a.stride == 2) {
        Some(Special::ThreeByThree)
    } else {
        None
    }
}

/// A plan in the making.
struct Pass<'a> {
    geometry: &'a Geometry,
    params: Params,
    planes: usize,
    /// Bytes of an element.
    size: usize,
    wide: bool,
    launches: Vec<Launch>,
    scratch: usize,
}

impl<'a> Pass<'a> {
    fn new(
        dtype: DType,
        geometry: &'a Geometry,
        input: &Layout,
        grad: Option<&Layout>,
        mut params: Params,
    ) -> Result<Self> {
        let size = match dtype {
            DType::F16 | DType::BF16 | DType::F32 | DType::F64 => dtype.size_in_bytes(),
            _ => bail!("SoftPool: dtype {dtype:?}, expected one of f16, bf16, f32, f64"),
        };
        let lead = input.dims().len() - geometry.rank;
        let planes = input.dims()[..lead].iter().product::<usize>();
        params.input_vectors = vectors(input, 16 / size) as u32;
        params.grad_vectors = grad.is_some_and(|grad| vectors(grad, 8 / size)) as u32;
        let cells = planes.checked_mul(geometry.input_cells().max(geometry.output_cells()));
        let elements = cells.and_then(|n| n.checked_mul(MOST_PARTS));
        if elements.is_none_or(|n| n > isize::MAX as usize / 8) {
            bail!(
                "SoftPool: {planes} planes of {:?} are too large to address",
                geometry.axes
            );
        }
        let spans = [Some(input), grad]
            .into_iter()
            .flatten()
            .all(|layout| narrow(span(layout)));
        let wide = !(params.narrow() && spans && cells.is_some_and(narrow));
        Ok(Self {
            geometry,
            params,
            planes,
            size,
            wide,
            launches: Vec::new(),
            scratch: 0,
        })
    }

    /// Items for each window, or for `group` windows of a row.
    fn outputs(&self, group: usize) -> [usize; 3] {
        let [depth, height, width] = self.geometry.axes.map(|axis| axis.output);
        [depth, height, width.div_ceil(group)]
    }

    /// How many threads share a window: more than one where windows are large and few.
    fn parts(&self) -> usize {
        let cells = self
            .geometry
            .axes
            .iter()
            .map(|a| a.kernel.min(a.input))
            .product::<usize>();
        let windows = self.planes * self.geometry.output_cells();
        if cells < 2 * PART || windows == 0 || windows >= FEW_THREADS {
            return 1;
        }
        (FEW_THREADS / windows)
            .min(cells / PART)
            .clamp(1, MOST_PARTS)
    }

    /// The gradient of any windows.
    fn backward_any(&mut self) {
        let parts = self.parts();
        if self.geometry.disjoint() && parts == 1 {
            self.launch(Kernel::BackwardDisjoint, self.outputs(1), 1);
            return;
        }
        if parts == 1 {
            self.launch(Kernel::Statistics, self.outputs(1), 1);
        } else {
            self.launch(Kernel::Partials, self.outputs(1), parts);
            self.launch(Kernel::StatisticsParts, self.outputs(1), parts);
        }
        let cells = self.geometry.axes.map(|axis| axis.input);
        self.launch(Kernel::BackwardGather, cells, 1);
    }

    fn launch(&mut self, kernel: Kernel, [depths, rows, columns]: [usize; 3], parts: usize) {
        let windows = self.params.windows as usize;
        let mut items = self.planes * depths * rows * columns;
        match kernel {
            Kernel::Partials => {
                items *= parts;
                self.scratch = self.scratch.max(3 * windows * (parts + 1));
            }
            Kernel::Statistics => self.scratch = self.scratch.max(3 * windows),
            _ => (),
        }
        let wide = self.wide || !narrow(items) || !narrow(self.scratch);
        let params = Params {
            items: items as u64,
            columns: Divisor::new(columns as u64),
            rows: Divisor::new(rows as u64),
            depths: Divisor::new(depths as u64),
            parts: Divisor::new(parts as u64),
            ..self.params
        };
        let grid = (items as u64).div_ceil(BLOCK as u64).min(LARGEST_GRID) as u32;
        self.launches.push(Launch {
            kernel,
            wide,
            grid,
            block: BLOCK,
            shared: 0,
            params,
        });
    }

    fn plan(mut self, cells: usize) -> Plan {
        if self.planes == 0 {
            self.launches.clear();
        }
        Plan {
            launches: self.launches,
            output: self.planes * cells,
            scratch: self.scratch,
        }
    }
}

/// Whether `cells` neighbours in a row, from a multiple of `cells` on, can be read as one aligned vector.
fn vectors(layout: &Layout, cells: usize) -> bool {
    let (column, others) = match layout.stride().split_last() {
        Some((column, others)) => (*column, others),
        None => return false,
    };
    column == 1
        && layout.start_offset().is_multiple_of(cells)
        && others.iter().all(|stride| stride.is_multiple_of(cells))
}

/// Elements from the first to behind the last.
fn span(layout: &Layout) -> usize {
    let steps = layout.dims().iter().zip(layout.stride());
    steps.fold(1, |span: usize, (&dim, &stride)| {
        span.saturating_add(dim.saturating_sub(1).saturating_mul(stride))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Windows;
    use candle_core::Shape;

    const WEIGHTING: Weighting = Weighting {
        beta: 1.0,
        nan_to_num: false,
    };

    fn plans(dims: &[usize], kernel: usize, stride: usize) -> [Plan; 2] {
        let windows = Windows::Sliding {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [0; 2],
            ceil_mode: false,
        };
        let geometry = Geometry::new("SoftPool2d", &windows, dims).unwrap();
        let input = Layout::contiguous(Shape::from(dims));
        let grad = Layout::contiguous(geometry.output_shape(input.shape()));
        let gradient = Gradient::Exact;
        [
            forward(DType::F16, &input, &geometry, WEIGHTING).unwrap(),
            backward(DType::F16, &input, &grad, &geometry, WEIGHTING, gradient).unwrap(),
        ]
    }

    fn kernels(plan: &Plan) -> Vec<Kernel> {
        plan.launches.iter().map(|launch| launch.kernel).collect()
    }

    #[test]
    fn common_windows_have_kernels_of_their_own() {
        let [forward, backward] = plans(&[1, 64, 112, 112], 2, 2);
        assert_eq!(kernels(&forward), [Kernel::Forward2x2]);
        assert_eq!(kernels(&backward), [Kernel::Backward2x2]);
        let [forward, backward] = plans(&[1, 64, 112, 112], 3, 2);
        assert_eq!(kernels(&forward), [Kernel::Forward3x3]);
        assert_eq!(kernels(&backward), [Kernel::Backward3x3]);
        let [forward, backward] = plans(&[1, 64, 112, 112], 5, 2);
        assert_eq!(kernels(&forward), [Kernel::ForwardAny]);
        let any = [Kernel::Statistics, Kernel::BackwardGather];
        assert_eq!(kernels(&backward), any);
    }

    #[test]
    fn threads_share_the_windows_that_are_large_and_few() {
        let [forward, backward] = plans(&[8, 64, 56, 56], 56, 56);
        assert_eq!(kernels(&forward), [Kernel::Partials, Kernel::ForwardParts]);
        let shared = [
            Kernel::Partials,
            Kernel::StatisticsParts,
            Kernel::BackwardGather,
        ];
        assert_eq!(kernels(&backward), shared);
    }

    #[cfg(target_pointer_width = "64")] // 32 bits do not address inputs that large.
    #[test]
    fn indices_are_wide_only_where_the_sizes_are() {
        for (batch, wide) in [(1 << 11, false), (1 << 12, true)] {
            for (kernel, stride) in [(2, 2), (3, 2), (5, 3), (500, 1)] {
                let plans = plans(&[batch, 1, 1024, 1023], kernel, stride);
                let launches = plans.iter().flat_map(|plan| &plan.launches);
                assert!(launches.clone().count() > 1);
                for launch in launches {
                    assert_eq!(launch.wide, wide, "{launch:?}");
                }
            }
        }
    }

    #[cfg(target_pointer_width = "64")] // 32 bits do not address inputs that large.
    #[test]
    fn grids_stay_within_the_limit() {
        for launch in plans(&[1 << 16, 64, 64, 64], 5, 1)
            .iter()
            .flat_map(|plan| &plan.launches)
        {
            assert_eq!(u64::from(launch.grid), LARGEST_GRID);
            assert!(launch.params.items > LARGEST_GRID * u64::from(BLOCK));
        }
    }

    #[test]
    fn grids_cover_every_item() {
        for launch in plans(&[1, 1, 30, 30], 5, 1)
            .iter()
            .flat_map(|plan| &plan.launches)
        {
            assert!(launch.params.items <= u64::from(launch.grid) * u64::from(launch.block));
        }
    }

    #[test]
    fn an_empty_tensor_launches_nothing() {
        for plan in plans(&[0, 3, 8, 8], 2, 2) {
            assert_eq!((plan.output, plan.launches.len()), (0, 0));
        }
    }
}
