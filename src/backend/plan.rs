//! Which GPU kernels a pass runs, over how many blocks of threads: the same plan for CUDA, Metal and their emulation.

use super::params::{narrow, Divisor, Layouts, Params};
use super::{Gradient, Method};
use crate::geometry::{Axis, Geometry};
use candle_core::{bail, DType, Layout, Result};

/// Threads of a block.
pub const BLOCK: u32 = 256;
/// Threads that exchange numbers without a barrier.
const WARP: u32 = 32;
/// The most blocks of a launch; kernels loop over what is left.
const LARGEST_GRID: u64 = 1 << 22;
/// A team has a window of so many cells and more, each thread so many at least; more than a warp only where windows are
/// fewer than that.
const MEMBER_CELLS: usize = 48;
const FEW_WINDOWS: usize = 1 << 11;
/// Bytes of shared memory that a tile takes, of 32 KiB that every GPU has; those with f64 have 48.
const TILE_BYTES: usize = 30 << 10;
const LARGE_TILE_BYTES: usize = 46 << 10;
/// Rows that a tile has at least, where there are so many, and the most that these have together.
const LEAST_ROWS: usize = 8;
const LARGEST_STRIP: usize = 512;
/// What a tile has at least, and at most.
const LEAST_TILE: usize = 100;
const LARGEST_TILE: usize = 2048;
/// Windows of so many cells are pooled in tiles, if they have no more rows or columns than can be added up one after the
/// other.
const TILED_CELLS: usize = 9;
const SERIAL_TERMS: usize = 256;

/// A pooling method, as kernels are named after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// `Σ softmax(β·x)·x`.
    SoftPool,
    /// The same with logits of their own.
    Softmax,
    /// `Σx / n`.
    Average,
    /// `(Σ|x|^p / n)^(1/p)`.
    Power,
    /// `Σ w·x / Σ w` with the positive activations as weights.
    Weighted,
    /// The largest activation.
    Maximum,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 6] = [
        Rule::SoftPool,
        Rule::Softmax,
        Rule::Average,
        Rule::Power,
        Rule::Weighted,
        Rule::Maximum,
    ];

    fn of(method: Method) -> Self {
        match method {
            Method::SoftPool(_) => Rule::SoftPool,
            Method::Logits => Rule::Softmax,
            Method::Average { .. } => Rule::Average,
            Method::Power { .. } => Rule::Power,
            Method::Weighted => Rule::Weighted,
            Method::Maximum => Rule::Maximum,
        }
    }

    /// As in kernels' names.
    pub fn name(self) -> &'static str {
        match self {
            Rule::SoftPool => "softpool",
            Rule::Softmax => "softmax",
            Rule::Average => "average",
            Rule::Power => "power",
            Rule::Weighted => "weighted",
            Rule::Maximum => "maximum",
        }
    }
}

/// What the kernels of any rule do, by a thread or a team of threads a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The outputs.
    Forward,
    /// The same by teams.
    ForwardTeam,
    /// What each window passes on to its cells, into the scratch buffer.
    Statistics,
    /// The same by teams.
    StatisticsTeam,
    /// The gradient of windows that share no cell.
    Disjoint,
    /// The same by teams.
    DisjointTeam,
    /// The gradient of each input cell from the windows that hold it, by their statistics: a thread has four of a row, of f64
    /// two.
    Gather,
}

impl Step {
    /// All of them.
    pub const ALL: [Step; 7] = [
        Step::Forward,
        Step::ForwardTeam,
        Step::Statistics,
        Step::StatisticsTeam,
        Step::Disjoint,
        Step::DisjointTeam,
        Step::Gather,
    ];

    fn name(self) -> &'static str {
        match self {
            Step::Forward => "forward",
            Step::ForwardTeam => "forward_team",
            Step::Statistics => "statistics",
            Step::StatisticsTeam => "statistics_team",
            Step::Disjoint => "disjoint",
            Step::DisjointTeam => "disjoint_team",
            Step::Gather => "gather",
        }
    }

    fn by_teams(self) -> Self {
        match self {
            Step::Forward => Step::ForwardTeam,
            Step::Statistics => Step::StatisticsTeam,
            Step::Disjoint => Step::DisjointTeam,
            step => step,
        }
    }
}

/// The kernels, as `kernels/list.h` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Of any windows.
    Any(Rule, Step),
    /// SoftPool's 2×2 windows side by side: a thread has four of a row, of f64 one.
    Forward2x2,
    /// SoftPool's 2×2×2 windows side by side, likewise.
    Forward2x2x2,
    /// SoftPool's 3×3 windows at steps of two: a thread has two such rows.
    Forward3x3,
    /// The gradient of SoftPool's 2×2 windows side by side: a thread has two rows of eight cells, of f64 two.
    Backward2x2,
    /// The gradient of SoftPool's 2×2×2 windows side by side: four such rows.
    Backward2x2x2,
    /// The gradient of SoftPool's 3×3 windows at steps of two: four such rows, of f64 two.
    Backward3x3,
    /// SoftPool's windows that overlap: a block has a tile of them.
    ForwardTile,
    /// What those windows pass on.
    StatisticsTile,
    /// The gradient of the cells of a tile.
    GatherTile,
}

impl Kernel {
    /// Those of some windows only.
    const SPECIAL: [Kernel; 9] = [
        Kernel::Forward2x2,
        Kernel::Forward2x2x2,
        Kernel::Forward3x3,
        Kernel::Backward2x2,
        Kernel::Backward2x2x2,
        Kernel::Backward3x3,
        Kernel::ForwardTile,
        Kernel::StatisticsTile,
        Kernel::GatherTile,
    ];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Kernel> {
        let any = Rule::ALL.into_iter();
        let any = any.flat_map(|rule| Step::ALL.map(|step| Kernel::Any(rule, step)));
        any.chain(Kernel::SPECIAL)
    }

    /// Whose module has it.
    pub fn rule(self) -> Rule {
        match self {
            Kernel::Any(rule, _) => rule,
            _ => Rule::SoftPool,
        }
    }

    /// Its name, without dtype and index.
    pub fn name(self) -> String {
        match self {
            Kernel::Any(rule, step) => format!("{}_{}", rule.name(), step.name()),
            Kernel::Forward2x2 => "forward_2x2".into(),
            Kernel::Forward2x2x2 => "forward_2x2x2".into(),
            Kernel::Forward3x3 => "forward_3x3".into(),
            Kernel::Backward2x2 => "backward_2x2".into(),
            Kernel::Backward2x2x2 => "backward_2x2x2".into(),
            Kernel::Backward3x3 => "backward_3x3".into(),
            Kernel::ForwardTile => "forward_tile".into(),
            Kernel::StatisticsTile => "statistics_tile".into(),
            Kernel::GatherTile => "gather_tile".into(),
        }
    }

    /// Whether its threads work in teams.
    fn teams(self) -> bool {
        matches!(
            self,
            Kernel::Any(
                _,
                Step::ForwardTeam | Step::StatisticsTeam | Step::DisjointTeam
            )
        )
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
    /// Numbers that they share, of 8 bytes for f64, else of 4.
    pub shared: u32,
    /// The kernel's argument.
    pub params: Params,
}

impl Launch {
    /// Bytes that the threads of a block share.
    pub fn shared_bytes(&self, dtype: DType) -> usize {
        let number = if dtype == DType::F64 { 8 } else { 4 };
        // Metal takes multiples of 16.
        (self.shared as usize * number).next_multiple_of(16)
    }

    /// The kernel's name in the compiled module, such as `forward_2x2_f32_u32`.
    pub fn function(&self, dtype: DType) -> String {
        function(self.kernel, self.wide, dtype)
    }
}

/// The type of indices.
pub fn index(wide: bool) -> &'static str {
    match wide {
        true => "u64",
        false => "u32",
    }
}

/// A kernel's name, such as `forward_2x2_f32_u32`.
pub fn function(kernel: Kernel, wide: bool, dtype: DType) -> String {
    format!("{}_{}_{}", kernel.name(), dtype.as_str(), index(wide))
}

/// The module that has a kernel, such as `softpool_f32_u32`.
pub fn module(kernel: Kernel, wide: bool, dtype: DType) -> String {
    let rule = kernel.rule().name();
    format!("{rule}_{}_{}", dtype.as_str(), index(wide))
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

/// The forward pass of tensors with these layouts.
pub fn forward(
    dtype: DType,
    layouts: Layouts,
    geometry: &Geometry,
    method: Method,
) -> Result<Plan> {
    let mut pass = Pass::new(dtype, geometry, layouts, method, Gradient::Paper)?;
    let group = pass.abreast();
    let [_, _, width] = geometry.axes;
    pass.params.output_vectors = common(width.output, 16 / pass.size);
    let kernel = match special(geometry, method) {
        Some(Special::TwoByTwo) => Kernel::Forward2x2,
        Some(Special::TwoByTwoByTwo) => Kernel::Forward2x2x2,
        Some(Special::ThreeByThree) => Kernel::Forward3x3,
        None => {
            pass.any_windows(layouts);
            if !pass.windows_in_tiles(Kernel::ForwardTile) {
                pass.each_window(Step::Forward);
            }
            return Ok(pass.plan(geometry.output_cells()));
        }
    };
    let [depths, rows, columns] = pass.outputs(group);
    let rows = match kernel {
        Kernel::Forward3x3 => rows.div_ceil(2),
        _ => rows,
    };
    pass.launch(kernel, [depths, rows, columns]);
    Ok(pass.plan(geometry.output_cells()))
}

/// The backward pass of tensors with these layouts, the output's gradient among them.
pub fn backward(
    dtype: DType,
    layouts: Layouts,
    geometry: &Geometry,
    method: Method,
    gradient: Gradient,
) -> Result<Plan> {
    let mut pass = Pass::new(dtype, geometry, layouts, method, gradient)?;
    let [depth, height, width] = geometry.axes;
    let group = pass.abreast();
    pass.params.output_vectors = common(width.input, 16 / pass.size);
    let columns = width.input.div_ceil(2 * group);
    let pairs = |axis: Axis| (axis.input + axis.padding).div_ceil(2);
    match special(geometry, method) {
        Some(Special::TwoByTwo) => {
            let items = [depth.input, pairs(height), columns];
            pass.launch(Kernel::Backward2x2, items);
        }
        Some(Special::TwoByTwoByTwo) => {
            let items = [pairs(depth), pairs(height), columns];
            pass.launch(Kernel::Backward2x2x2, items);
        }
        Some(Special::ThreeByThree) => {
            let pairs = pairs(height).div_ceil(pass.pairs_abreast());
            pass.launch(Kernel::Backward3x3, [depth.input, pairs, columns]);
        }
        None => {
            pass.any_windows(layouts);
            if pass.disjoint() {
                pass.each_window(Step::Disjoint);
            } else {
                let tiled = pass.windows_in_tiles(Kernel::StatisticsTile);
                if !tiled {
                    pass.each_window(Step::Statistics);
                }
                if !tiled || !pass.cells_in_tiles() {
                    pass.neighbouring_cells(layouts);
                }
            }
        }
    }
    let gradients = if method == Method::Logits { 2 } else { 1 };
    Ok(pass.plan(gradients * geometry.input_cells()))
}

/// The place of each window's largest cell in its plane, in u32, in the place of a scratch buffer.
pub fn places(dtype: DType, layouts: Layouts, geometry: &Geometry) -> Result<Plan> {
    let mut pass = Pass::new(dtype, geometry, layouts, Method::Maximum, Gradient::Exact)?;
    pass.any_windows(layouts);
    pass.each_window(Step::Statistics);
    Ok(pass.plan(geometry.output_cells()))
}

#[derive(Clone, Copy, PartialEq)]
enum Special {
    TwoByTwo,
    TwoByTwoByTwo,
    ThreeByThree,
}

/// The common windows that have kernels of their own.
fn special(geometry: &Geometry, method: Method) -> Option<Special> {
    let [depth, height, width] = geometry.axes;
    let side_by_side =
        |axis: Axis| !axis.adaptive && axis.kernel == 2 && axis.stride == 2 && axis.padding == 0;
    let every_other = |axis: Axis| !axis.adaptive && axis.kernel == 3 && axis.stride == 2;
    let flat = depth.input == depth.output && depth.kernel == 1;
    let squares = side_by_side(height) && side_by_side(width);
    match method {
        Method::SoftPool(_) if squares && flat => Some(Special::TwoByTwo),
        Method::SoftPool(_) if squares && side_by_side(depth) => Some(Special::TwoByTwoByTwo),
        Method::SoftPool(_) if every_other(height) && every_other(width) && flat => {
            Some(Special::ThreeByThree)
        }
        _ => None,
    }
}

/// Rows and columns of windows that a block has, or of cells.
#[derive(Clone, Copy, PartialEq)]
struct Tile {
    rows: usize,
    columns: usize,
    /// Numbers of shared memory.
    shared: usize,
}

impl Tile {
    /// As many of `rows` and `columns` as fit in so many numbers of shared memory, where so many of an axis have to do with
    /// `span` of the others: cells with windows, or windows with cells. All tiles are of about one size.
    fn new(
        numbers: usize,
        [rows, columns]: [usize; 2],
        span: impl Fn(usize, usize) -> Option<usize>,
    ) -> Option<Self> {
        let even = |n: usize, most: usize| n.div_ceil(n.div_ceil(most));
        // Two sums of each of the others, and two of each row of them for each column.
        let shared = |rows: usize, columns: usize| {
            let (down, across) = (span(rows, 0)?, span(columns, 1)?);
            down.checked_mul(across.checked_add(columns)?)?
                .checked_mul(2)
        };
        let fits = |rows, columns| shared(rows, columns).is_some_and(|n| n <= numbers);
        let least = LEAST_ROWS.min(rows);
        let widest = (1..=columns.min(LARGEST_STRIP / least))
            .rev()
            .find(|&n| fits(least, n))?;
        let columns = even(columns, widest);
        let highest = (1..=rows)
            .take_while(|&n| fits(n, columns) && n * columns <= LARGEST_TILE)
            .last()?;
        let rows = even(rows, highest);
        Some(Self {
            rows,
            columns,
            shared: shared(rows, columns)?,
        })
    }
}

/// A plan in the making.
struct Pass {
    axes: [Axis; 3],
    rule: Rule,
    params: Params,
    planes: usize,
    /// Bytes of an element.
    size: usize,
    wide: bool,
    launches: Vec<Launch>,
    scratch: usize,
}

impl Pass {
    fn new(
        dtype: DType,
        geometry: &Geometry,
        layouts: Layouts,
        method: Method,
        gradient: Gradient,
    ) -> Result<Self> {
        let size = match dtype {
            DType::F16 | DType::BF16 | DType::F32 | DType::F64 => dtype.size_in_bytes(),
            _ => bail!("pooling: dtype {dtype:?}, expected one of f16, bf16, f32, f64"),
        };
        let input = layouts.input;
        let mut params = Params::new(geometry, method, gradient, layouts)?;
        let lead = input.dims().len() - geometry.rank;
        let planes = input.dims()[..lead].iter().product::<usize>();
        params.input_vectors = vectors(input, 16 / size);
        params.misaligned = (input.start_offset() % (16 / size)) as u32;
        params.grad_vectors = layouts.grad.map_or(0, |grad| vectors(grad, 16 / size));
        let cells = planes.checked_mul(geometry.input_cells().max(geometry.output_cells()));
        // Three numbers of each window, or two gradients of each cell.
        let elements = cells.and_then(|n| n.checked_mul(3));
        if elements.is_none_or(|n| n > isize::MAX as usize / 8) {
            bail!(
                "pooling: {planes} planes of {:?} are too large to address",
                geometry.axes
            );
        }
        let spans = [Some(input), layouts.logits, layouts.grad]
            .into_iter()
            .flatten()
            .all(|layout| narrow(span(layout)));
        // The gradients of logits lie behind those of the activations.
        let gradients = if method == Method::Logits { 2 } else { 1 };
        let output = cells.and_then(|n| n.checked_mul(gradients));
        let wide = !(params.narrow() && spans && output.is_some_and(narrow));
        Ok(Self {
            axes: geometry.axes,
            rule: Rule::of(method),
            params,
            planes,
            size,
            wide,
            launches: Vec::new(),
            scratch: 0,
        })
    }

    /// Prepares for the kernels of any windows.
    fn any_windows(&mut self, layouts: Layouts) {
        // They look at each row by itself.
        self.params.input_vectors = (layouts.input.stride().last() == Some(&1)) as u32;
        self.axes = self.params.flatten(&self.axes);
        self.wide |= !self.params.narrow();
    }

    /// Windows of a row that a thread of the special kernels has.
    fn abreast(&self) -> usize {
        match self.size {
            8 => 1,
            _ => 4,
        }
    }

    /// Cells of a row whose gradients a thread gathers.
    fn neighbours(&self) -> usize {
        match self.size {
            8 => 2,
            _ => 4,
        }
    }

    /// Pairs of rows that a thread of those for the gradients of 3×3 windows has.
    fn pairs_abreast(&self) -> usize {
        match self.size {
            8 => 1,
            _ => 2,
        }
    }

    /// Items for each window, or for `group` windows of a row.
    fn outputs(&self, group: usize) -> [usize; 3] {
        let [depth, height, width] = self.axes.map(|axis| axis.output);
        [depth, height, width.div_ceil(group)]
    }

    fn disjoint(&self) -> bool {
        self.axes.iter().all(Axis::disjoint)
    }

    fn windows(&self) -> usize {
        self.params.windows as usize
    }

    fn few_windows(&self) -> bool {
        self.windows() < FEW_WINDOWS
    }

    /// Threads of a team that has a window, a power of two; none where a thread pools it by itself.
    fn team(&self) -> Option<u32> {
        let cells = self.axes.iter().map(|a| a.kernel.min(a.input));
        let shares = cells.product::<usize>() / MEMBER_CELLS;
        if shares == 0 || !self.disjoint() && self.windows() >= 2 * FEW_WINDOWS {
            return None;
        }
        let most = if self.few_windows() { BLOCK } else { WARP };
        Some(1 << shares.ilog2().min(most.ilog2()))
    }

    /// Threads of a team for a row of a window: as many as have 16 bytes each, to a power of two.
    fn across(&self, team: u32) -> usize {
        let [_, _, width] = &self.axes;
        let groups = width.kernel.min(width.input).div_ceil(16 / self.size);
        groups.next_power_of_two().min(team as usize)
    }

    /// Numbers of the arithmetic that a tile has room for.
    fn tile_numbers(&self) -> usize {
        let numbers = match self.size {
            8 => LARGE_TILE_BYTES / 8,
            _ => TILE_BYTES / 4,
        };
        numbers - (BLOCK / WARP) as usize
    }

    /// Where SoftPool's windows overlap and lie flat: a launch with an item for each tile of them.
    fn windows_in_tiles(&mut self, kernel: Kernel) -> bool {
        let [depth, height, width] = self.axes;
        let flat = depth.input == depth.output && depth.kernel == 1;
        let folded = self.params.folded_columns.value > 0;
        let regular = !height.adaptive && !width.adaptive && flat && !folded && !self.disjoint();
        let sizes = [height.kernel, width.kernel];
        let many = sizes[0].saturating_mul(sizes[1]) >= TILED_CELLS;
        let few = sizes[0].max(sizes[1]) <= SERIAL_TERMS;
        if self.rule != Rule::SoftPool || !regular || !many || !few {
            return false;
        }
        // The step of a single window leads nowhere.
        let steps = [height, width].map(|axis| if axis.output == 1 { 1 } else { axis.stride });
        let windows = [height.output, width.output];
        let cells =
            |n: usize, axis: usize| (n - 1).checked_mul(steps[axis])?.checked_add(sizes[axis]);
        let tile = Tile::new(self.tile_numbers(), windows, cells);
        if kernel == Kernel::StatisticsTile && tile.is_some() {
            self.scratch = 3 * self.windows();
        }
        self.each_tile(kernel, tile, windows)
    }

    /// A launch with an item for each tile of cells, which windows in tiles have.
    fn cells_in_tiles(&mut self) -> bool {
        let [_, height, width] = self.axes;
        let axes = [height, width];
        let windows = |n: usize, axis: usize| {
            let Axis { kernel, stride, .. } = axes[axis];
            Some((n - 1).checked_add(kernel - 1)? / stride + 1)
        };
        let cells = axes.map(|axis| axis.input);
        let tile = Tile::new(self.tile_numbers(), cells, windows);
        self.each_tile(Kernel::GatherTile, tile, cells)
    }

    fn each_tile(
        &mut self,
        kernel: Kernel,
        tile: Option<Tile>,
        [rows, columns]: [usize; 2],
    ) -> bool {
        // A block has many threads.
        let Some(tile) = tile.filter(|tile| tile.rows * tile.columns >= LEAST_TILE) else {
            return false;
        };
        (self.params.tile_rows, self.params.tile_columns) = (tile.rows as u32, tile.columns as u32);
        let tiles = [
            self.axes[0].output,
            rows.div_ceil(tile.rows),
            columns.div_ceil(tile.columns),
        ];
        self.launch_sharing(kernel, tiles, (BLOCK / WARP) as usize + tile.shared);
        true
    }

    /// A launch with an item for some neighbouring cells of a row.
    fn neighbouring_cells(&mut self, layouts: Layouts) {
        // A row that is one for windows but not in memory cannot be read in pieces.
        let most = match self.params.folded_columns.value {
            0 => 16 / self.size,
            _ => 1,
        };
        let logits = layouts.logits.map(|logits| vectors(logits, most));
        self.params.input_vectors = vectors(layouts.input, most);
        self.params.logits_vectors = logits.unwrap_or_default();
        let [depth, height, width] = self.axes.map(|axis| axis.input);
        let items = [depth, height, width.div_ceil(self.neighbours())];
        self.launch(Kernel::Any(self.rule, Step::Gather), items);
    }

    /// A launch with an item for each window.
    fn each_window(&mut self, step: Step) {
        let team = self.team();
        let step = match team {
            Some(_) => step.by_teams(),
            None => step,
        };
        if matches!(step, Step::Statistics | Step::StatisticsTeam) {
            self.scratch = match self.rule {
                Rule::Maximum => self.windows(),
                _ => 3 * self.windows(),
            };
        }
        if let Some(members) = team {
            self.params.team = members.ilog2();
            self.params.across = self.across(members).ilog2();
        }
        self.launch(Kernel::Any(self.rule, step), self.outputs(1));
    }

    fn launch(&mut self, kernel: Kernel, items: [usize; 3]) {
        let warps = if kernel.teams() { 2 * BLOCK / WARP } else { 0 };
        self.launch_sharing(kernel, items, warps as usize);
    }

    fn launch_sharing(
        &mut self,
        kernel: Kernel,
        [depths, rows, columns]: [usize; 3],
        shared: usize,
    ) {
        let items = self.planes * depths * rows * columns;
        let wide = self.wide || !narrow(items) || !narrow(self.scratch);
        let params = Params {
            items: items as u64,
            columns: Divisor::new(columns as u64),
            rows: Divisor::new(rows as u64),
            depths: Divisor::new(depths as u64),
            ..self.params
        };
        // Threads that have an item.
        let team = match kernel {
            Kernel::ForwardTile | Kernel::StatisticsTile | Kernel::GatherTile => BLOCK,
            _ if kernel.teams() => 1 << params.team,
            _ => 1,
        };
        let block = match kernel.teams() {
            true if team > WARP => team,
            // Few threads are spread over more multiprocessors.
            true if self.few_windows() => 2 * WARP,
            _ => BLOCK,
        };
        let per_block = block / team;
        let grid = (items as u64).div_ceil(per_block.into()).min(LARGEST_GRID) as u32;
        self.launches.push(Launch {
            kernel,
            wide,
            grid,
            block,
            shared: shared as u32,
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

/// How many neighbours in a row, up to `most`, can be read as one aligned vector, from a multiple of them on; none where
/// there are steps between them.
fn vectors(layout: &Layout, most: usize) -> u32 {
    let Some((1, others)) = layout.stride().split_last() else {
        return 0;
    };
    let start = layout.start_offset();
    others.iter().fold(common(start, most), |vectors, &stride| {
        common(stride, vectors as usize)
    })
}

/// The largest power of two in both numbers, the latter of which is one.
fn common(n: usize, most: usize) -> u32 {
    1 << (n | most).trailing_zeros()
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
    use crate::backend::Weighting;
    use crate::geometry::Windows;
    use candle_core::Shape;

    const SOFT_POOL: Method = Method::SoftPool(Weighting {
        beta: 1.0,
        nan_to_num: false,
    });

    fn plans(dims: &[usize], kernel: usize, stride: usize) -> [Plan; 2] {
        plans_of(DType::F16, dims, kernel, stride)
    }

    fn plans_of(dtype: DType, dims: &[usize], kernel: usize, stride: usize) -> [Plan; 2] {
        let windows = Windows::Sliding {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [0; 2],
            ceil_mode: false,
        };
        let geometry = Geometry::new("SoftPool2d", &windows, dims).unwrap();
        let input = Layout::contiguous(Shape::from(dims));
        let grad = Layout::contiguous(geometry.output_shape(input.shape()));
        let layouts = Layouts {
            input: &input,
            logits: None,
            grad: Some(&grad),
        };
        [
            forward(dtype, layouts, &geometry, SOFT_POOL).unwrap(),
            backward(dtype, layouts, &geometry, SOFT_POOL, Gradient::Exact).unwrap(),
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
        assert_eq!(kernels(&forward), [Kernel::ForwardTile]);
        let tiles = [Kernel::StatisticsTile, Kernel::GatherTile];
        assert_eq!(kernels(&backward), tiles);
        let [_, backward] = plans(&[1, 64, 56, 56], 13, 1);
        assert_eq!(kernels(&backward), tiles);
    }

    #[test]
    fn windows_of_7x7_are_pooled_in_tiles_in_every_dtype() {
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            let [forward, backward] = plans_of(dtype, &[1, 8, 56, 56], 7, 3);
            assert_eq!(kernels(&forward), [Kernel::ForwardTile]);
            let tiles = [Kernel::StatisticsTile, Kernel::GatherTile];
            assert_eq!(kernels(&backward), tiles);
            for launch in forward.launches.iter().chain(&backward.launches) {
                let most = if dtype == DType::F64 {
                    48 << 10
                } else {
                    32 << 10
                };
                assert!(launch.shared_bytes(dtype) <= most);
            }
        }
    }

    /// Of one row as of many: gradients there would otherwise take a visit to each window of each cell.
    #[test]
    fn windows_of_a_long_row_are_pooled_in_tiles() {
        let windows = Windows::Sliding {
            kernel: [31],
            stride: [1],
            padding: [15],
            ceil_mode: false,
        };
        let dims = [4, 64, 16_000];
        let geometry = Geometry::new("SoftPool1d", &windows, &dims).unwrap();
        let layout = Layout::contiguous(Shape::from(&dims));
        let layouts = Layouts {
            input: &layout,
            logits: None,
            grad: Some(&layout),
        };
        let dtype = DType::F32;
        let plan = forward(dtype, layouts, &geometry, SOFT_POOL).unwrap();
        assert_eq!(kernels(&plan), [Kernel::ForwardTile]);
        let plan = backward(dtype, layouts, &geometry, SOFT_POOL, Gradient::Paper).unwrap();
        let tiles = [Kernel::StatisticsTile, Kernel::GatherTile];
        assert_eq!(kernels(&plan), tiles);
    }

    #[test]
    fn rows_are_read_in_pieces_that_all_of_them_allow() {
        for (width, input, output) in [(112, 8, 8), (56, 8, 4), (28, 4, 2), (14, 2, 1), (7, 1, 1)] {
            let [forward, backward] = plans(&[1, 8, width, width], 2, 2);
            let [forward, backward] = [forward, backward].map(|plan| plan.launches[0].params);
            assert_eq!(forward.input_vectors, input);
            assert_eq!(forward.output_vectors, output);
            assert_eq!(
                [backward.grad_vectors, backward.output_vectors],
                [output, input]
            );
        }
    }

    #[test]
    fn threads_share_windows_that_are_large() {
        let any = |step| Kernel::Any(Rule::SoftPool, step);
        // Of few windows and of many: threads of a team and of a block.
        for (edge, [few, many]) in [
            (7, [(1, 64), (1, 256)]),
            (14, [(4, 64), (4, 256)]),
            (28, [(16, 64), (16, 256)]),
            (56, [(64, 64), (32, 256)]),
            (200, [(256, 256), (32, 256)]),
        ] {
            for (batch, (team, block)) in [(8, few), (32, many)] {
                let [forward, backward] = plans(&[batch, 64, edge, edge], edge, edge);
                assert_eq!(kernels(&forward), [any(Step::ForwardTeam)]);
                assert_eq!(kernels(&backward), [any(Step::DisjointTeam)]);
                let [launch] = forward.launches[..] else {
                    panic!("{:?}", forward.launches)
                };
                assert_eq!((1 << launch.params.team, launch.block), (team, block));
                assert!(launch.grid * block / team >= batch as u32 * 64);
            }
        }
        let [forward, _] = plans(&[8, 64, 6, 6], 6, 6);
        assert_eq!(kernels(&forward), [any(Step::Forward)]);
        let [forward, backward] = plans(&[1, 8, 112, 112], 90, 5);
        assert_eq!(kernels(&forward), [any(Step::ForwardTeam)]);
        let both = [any(Step::StatisticsTeam), any(Step::Gather)];
        assert_eq!(kernels(&backward), both);
    }

    #[test]
    fn a_thread_gathers_the_gradients_of_neighbouring_cells() {
        let windows = Windows::Sliding {
            kernel: [3; 3],
            stride: [2; 3],
            padding: [1; 3],
            ceil_mode: false,
        };
        let dims = [1, 8, 6, 30, 30];
        let geometry = Geometry::new("Lip3d", &windows, &dims).unwrap();
        let input = Layout::contiguous(Shape::from(&dims));
        let logits = input.transpose(3, 4).unwrap();
        let grad = Layout::contiguous(geometry.output_shape(input.shape()));
        let layouts = Layouts {
            input: &input,
            logits: Some(&logits),
            grad: Some(&grad),
        };
        for (dtype, neighbours) in [(DType::F16, 4), (DType::F32, 4), (DType::F64, 2)] {
            let plan =
                backward(dtype, layouts, &geometry, Method::Logits, Gradient::Exact).unwrap();
            let any = |step| Kernel::Any(Rule::Softmax, step);
            assert_eq!(kernels(&plan), [any(Step::Statistics), any(Step::Gather)]);
            let params = plan.launches[1].params;
            assert_eq!(params.items, 8 * 6 * 30 * 30u64.div_ceil(neighbours));
            // Of rows of 30 pairs are aligned.
            assert_eq!([params.input_vectors, params.output_vectors], [2, 2]);
            assert_eq!(params.logits_vectors, 0);
        }
    }

    #[test]
    fn a_window_of_whole_rows_is_one_long_row() {
        let [forward, _] = plans(&[8, 64, 56, 56], 56, 56);
        let axes = forward.launches[0].params.axes;
        assert_eq!(axes.map(|axis| axis.input), [1, 1, 56 * 56]);
        assert_eq!(axes[2].size, 56 * 56);
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
            // A block has a tile at a time, or each of its threads a cell.
            assert!(launch.params.items > LARGEST_GRID);
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
