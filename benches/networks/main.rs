//! How much of a network's forward pass is pooling: SoftPool, the network's own, and candle's.
//!
//! `cargo bench --bench networks`
use anyhow::Result;
use candle_core::{DType, Device, Module, ModuleT, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candle_softpool::models::{Model, Network, Pooling};
use candle_softpool::{Implementation, SoftPool2d};
use clap::Parser;
use comfy_table::{presets::ASCII_MARKDOWN, Table};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time of a network's forward pass in f32 on the CPU, and of the pooling in it, each with the other poolings in turn.
///
/// Times are medians of the rounds. The share is that of the pooling in the pass that it was timed in.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = Model::ResNet18)]
    model: Model,
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// Rounds that the medians are of
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// One JSON object a line instead of the table
    #[arg(long)]
    json: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

/// A network whose pooling layers add up the time that they take.
struct Contender {
    name: &'static str,
    network: Box<dyn Network>,
    nanoseconds: Arc<AtomicU64>,
    /// Of each round: the pass, and its pooling.
    times: Vec<(Duration, Duration)>,
}

type Pool = fn(usize, usize, usize, &Tensor) -> candle_core::Result<Tensor>;

/// The poolings by kernel, stride and padding, all in SoftPool's windows.
const POOLS: [(&str, Pool); 3] = [
    ("soft", |k, s, p, xs| {
        SoftPool2d::new(k).stride(s).padding(p).forward(xs)
    }),
    ("soft, composed", |k, s, p, xs| {
        let pool = SoftPool2d::new(k).stride(s).padding(p);
        pool.implementation(Implementation::Composed).forward(xs)
    }),
    ("candle max_pool2d", |k, s, p, xs| {
        // After ReLU zeros are as good as −inf.
        xs.pad_with_zeros(2, p, p)?
            .pad_with_zeros(3, p, p)?
            .max_pool2d_with_stride(k, s)
    }),
];

struct Timed {
    pool: Pool,
    windows: [usize; 3],
    nanoseconds: Arc<AtomicU64>,
}

impl Module for Timed {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        let start = Instant::now();
        let [kernel, stride, padding] = self.windows;
        let ys = (self.pool)(kernel, stride, padding, xs)?;
        self.nanoseconds
            .fetch_add(start.elapsed().as_nanos() as u64, Relaxed);
        Ok(ys)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut contenders = contenders(&args)?;
    let size = args.model.input_size();
    let images = Tensor::randn(0f32, 1., (args.batch_size, 3, size, size), &Device::Cpu)?;
    // The first round warms up.
    for round in 0..=args.rounds {
        for contender in &mut contenders {
            let time = contender.run(&images)?;
            if round > 0 {
                contender.times.push(time);
            }
        }
    }
    match args.json {
        true => contenders.iter().for_each(|c| c.print_json(&args)),
        false => println!("{}", table(&contenders)),
    }
    Ok(())
}

fn contenders(args: &Args) -> Result<Vec<Contender>> {
    let vb = random_weights(args.model)?;
    let mut contenders = vec![];
    for (name, pool) in POOLS {
        contenders.push(Contender::new(args.model, name, pool, vb.clone())?);
    }
    let network = args.model.build(1000, &Pooling::Original, vb)?;
    contenders.push(Contender {
        name: "original (its pooling not timed)",
        network,
        nanoseconds: Arc::default(),
        times: vec![],
    });
    Ok(contenders)
}

/// Tensors that no gradient is wanted of, as weights that are read.
fn random_weights(model: Model) -> Result<VarBuilder<'static>> {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    model.build(1000, &Pooling::Soft, vb)?;
    let tensors = variables.data().lock().expect("no other thread").clone();
    let tensors = tensors
        .into_iter()
        .map(|(n, v)| (n, v.as_detached_tensor()));
    Ok(VarBuilder::from_tensors(
        tensors.collect(),
        DType::F32,
        &Device::Cpu,
    ))
}

impl Contender {
    fn new(model: Model, name: &'static str, pool: Pool, vb: VarBuilder) -> Result<Self> {
        let nanoseconds = Arc::new(AtomicU64::new(0));
        let sum = nanoseconds.clone();
        let pooling = Pooling::custom(move |place| {
            Ok(Timed {
                pool,
                windows: [place.kernel, place.stride, place.padding],
                nanoseconds: sum.clone(),
            })
        });
        Ok(Self {
            name,
            network: model.build(1000, &pooling, vb)?,
            nanoseconds,
            times: vec![],
        })
    }

    fn run(&self, images: &Tensor) -> Result<(Duration, Duration)> {
        self.nanoseconds.store(0, Relaxed);
        let start = Instant::now();
        black_box(self.network.forward_t(images, false)?);
        let pass = start.elapsed();
        Ok((pass, Duration::from_nanos(self.nanoseconds.load(Relaxed))))
    }

    /// Medians of the pass and of its pooling in milliseconds, and of the pooling's share.
    fn medians(&self) -> [f64; 3] {
        let median = |of: fn(&(Duration, Duration)) -> f64| {
            let mut values: Vec<f64> = self.times.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        [
            median(|(pass, _)| pass.as_secs_f64() * 1e3),
            median(|(_, pooling)| pooling.as_secs_f64() * 1e3),
            median(|(pass, pooling)| pooling.as_secs_f64() / pass.as_secs_f64()),
        ]
    }

    fn print_json(&self, args: &Args) {
        let [forward, pooling, share] = self.medians();
        let row = serde_json::json!({
            "model": args.model.name(), "batch_size": args.batch_size, "pooling": self.name,
            "forward_ms": forward, "pooling_ms": pooling, "share": share,
        });
        println!("{row}");
    }
}

fn table(contenders: &[Contender]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(["pooling", "forward ms", "of it pooling ms", "share"]);
    for contender in contenders {
        let [forward, pooling, share] = contender.medians();
        let mut row = vec![contender.name.to_string(), format!("{forward:.1}")];
        row.extend(match pooling > 0.0 {
            true => [format!("{pooling:.2}"), format!("{:.2} %", share * 100.0)],
            false => ["–".into(), "–".into()],
        });
        table.add_row(row);
    }
    table
}
