//! The paper's cost table: time and peak memory of every pooling method, forward and forward with backward.
//!
//! `cargo bench --bench methods -- --svg docs/methods.svg`
mod chart;
#[path = "../common/mod.rs"]
mod common;

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use candle_softpool::{Implementation, Pooling, PoolingMethod, SoftPool2d};
use clap::Parser;
use comfy_table::{presets::ASCII_MARKDOWN, Table};
use common::{extra_memory, median, once, repeated};
use std::path::PathBuf;

/// Time and peak memory of every pooling method, in f32, on the CPU, or on CUDA where built with that feature.
///
/// Times are medians of rounds in which all methods take turns, each a call or, if that is short, the median of those that
/// 5 ms hold. Memory is the peak of host allocations during a pass on new threads beyond its input and its results (the
/// output; of the backward pass the input's gradient): scratch memory, which threads keep for their next call, counts.
#[derive(Parser)]
struct Args {
    /// Rounds that the medians are of
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Where the bar chart goes
    #[arg(long)]
    svg: Option<PathBuf>,
    /// One JSON object a line instead of the tables
    #[arg(long)]
    json: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

/// `(N, C, H, W)`, kernel, stride: the stem of a ResNet at batch 8, both ways, and FIELD's largest activation.
const SHAPES: [([usize; 4], usize, usize); 4] = [
    ([8, 64, 112, 112], 2, 2),
    ([8, 64, 112, 112], 3, 2),
    ([20, 32, 128, 128], 2, 2),
    ([8, 64, 28, 28], 2, 2),
];

type Pass<'a> = Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor> + Sync + 'a>;

/// What is measured of one method at one shape; `None` where it cannot run.
pub struct Cost {
    pub name: String,
    pub forward: Option<(f64, f64)>,
    pub backward: Option<(f64, f64)>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::cuda_if_available(0)?;
    let mut all = vec![];
    for (shape, kernel, stride) in SHAPES {
        let title = format!(
            "{}, kernel {kernel}, stride {stride}",
            shape.map(|n| n.to_string()).join("×")
        );
        let costs = measure(&args, &device, shape, kernel, stride)?;
        match args.json {
            true => costs.iter().for_each(|cost| print_json(&title, cost)),
            false => println!("\n{title}\n\n{}", table(&costs, device.is_cpu())),
        }
        all.push((title, costs));
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, chart::draw(&all))?;
    }
    Ok(())
}

/// Every method, and candle's own pooling beside them.
fn methods<'a>(
    kernel: usize,
    stride: usize,
    channels: usize,
    vb: VarBuilder,
) -> Result<Vec<(String, Pass<'a>)>> {
    let mut passes: Vec<(String, Pass)> = vec![("copy".into(), Box::new(|xs| xs.copy()))];
    for method in PoolingMethod::ALL {
        let layer: Pooling = method.learned(kernel, stride, 0, channels, vb.pp("lip"))?;
        // In training, where the random ones draw.
        passes.push((
            method.to_string(),
            Box::new(move |xs| xs.apply_t(&layer, true)),
        ));
    }
    let formula = SoftPool2d::new(kernel)
        .stride(stride)
        .implementation(Implementation::Composed);
    passes.push((
        "soft, composed".into(),
        Box::new(move |xs| xs.apply(&formula)),
    ));
    passes.push((
        "candle max_pool2d".into(),
        Box::new(move |xs| xs.max_pool2d_with_stride(kernel, stride)),
    ));
    passes.push((
        "candle avg_pool2d".into(),
        Box::new(move |xs| xs.avg_pool2d_with_stride(kernel, stride)),
    ));
    Ok(passes)
}

type Work<'a> = &'a (dyn Fn() -> candle_core::Result<Vec<Tensor>> + Sync);

/// Seconds that calls are repeated for if one is shorter: the first finds caches cold and threads asleep.
const LEAST_SECONDS: f64 = 5e-3;

fn timed(device: &Device, work: Work) -> candle_core::Result<f64> {
    let first = once(device, work)?;
    match first < LEAST_SECONDS {
        true => repeated(device, LEAST_SECONDS, work),
        false => Ok(first),
    }
}

fn measure(
    args: &Args,
    device: &Device,
    shape: [usize; 4],
    kernel: usize,
    stride: usize,
) -> Result<Vec<Cost>> {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, device);
    let passes = methods(kernel, stride, shape[1], vb)?;
    let xs = Var::randn(0f32, 1., &shape[..], device)?;
    let plain = xs.as_detached_tensor();
    let mut times = vec![(vec![], vec![]); passes.len()];
    let mut peaks = vec![(0, 0); passes.len()];
    for round in 0..=args.rounds {
        for (i, (_, pass)) in passes.iter().enumerate() {
            let forward = || Ok(vec![pass(&plain)?]);
            let backward = || {
                let grads = pass(&xs)?.sum_all()?.backward()?;
                let grad = grads.get(&xs).cloned();
                Ok(vec![grad.ok_or_else(|| {
                    candle_core::Error::Msg("no gradient".into())
                })?])
            };
            let (times, peaks) = (&mut times[i], &mut peaks[i]);
            let passes: [(Work, _, _); 2] = [
                (&forward, &mut times.0, &mut peaks.0),
                (&backward, &mut times.1, &mut peaks.1),
            ];
            for (work, times, peak) in passes {
                // The first round measures memory, and warms up. What cannot run has no times.
                if round == 0 {
                    if device.is_cpu() {
                        *peak = extra_memory(work).unwrap_or(0);
                    }
                    timed(device, work).ok();
                } else if let Ok(seconds) = timed(device, work) {
                    times.push(seconds);
                }
            }
        }
    }
    let cost = |times: Vec<f64>, peak: usize| Some((median(times)? * 1e3, peak as f64 / 1e6));
    let costs = passes
        .iter()
        .zip(times)
        .zip(peaks)
        .map(|(((name, _), times), peaks)| Cost {
            name: name.clone(),
            forward: cost(times.0, peaks.0),
            backward: cost(times.1, peaks.1),
        });
    Ok(costs.collect())
}

fn table(costs: &[Cost], memory: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([
        "method",
        "forward ms",
        "× soft",
        "extra MB",
        "+ backward ms",
        "× soft",
        "extra MB",
    ]);
    let soft = costs
        .iter()
        .find(|cost| cost.name == PoolingMethod::Soft.name());
    for cost in costs {
        let mut row = vec![cost.name.clone()];
        for (this, soft) in [
            (cost.forward, soft.and_then(|s| s.forward)),
            (cost.backward, soft.and_then(|s| s.backward)),
        ] {
            match (this, soft) {
                (Some((ms, mb)), Some((soft, _))) => {
                    let mb = if memory {
                        format!("{mb:.1}")
                    } else {
                        "–".into()
                    };
                    row.extend([format!("{ms:.2}"), format!("{:.2}", ms / soft), mb]);
                }
                _ => row.extend(["–".into(), "–".into(), "–".into()]),
            }
        }
        table.add_row(row);
    }
    table
}

fn print_json(title: &str, cost: &Cost) {
    let pass = |cost: Option<(f64, f64)>| {
        cost.map(|(ms, mb)| serde_json::json!({"ms": ms, "extra_mb": mb}))
    };
    println!(
        "{}",
        serde_json::json!({"shape": title, "method": cost.name, "forward": pass(cost.forward), "backward": pass(cost.backward)})
    );
}
