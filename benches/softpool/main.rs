//! SoftPool beside candle's pooling, the formula in candle operations and a copy of the input, on the CPU.
//!
//! `cargo bench --bench softpool -- --help`
mod cases;
#[path = "../common/mod.rs"]
mod common;
mod contenders;
mod report;
mod serve;

use anyhow::Result;
use candle_core::{DType, Device};
use clap::{Parser, ValueEnum};
use common::{extra_memory, once, repeated, wake};
use contenders::Contender;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// Times SoftPool beside its peers on the CPU, all in one run.
///
/// In every round all contenders take one turn each, in another order every round. A turn wakes all threads, makes a
/// first call, and then as many as 20 ms hold, of which the median counts; results are freed outside the time of a call.
/// Contenders that need over half a second take part in three rounds only. A ratio is the median of the rounds' ratios. On Linux, freed memory stays with the
/// process, for all alike. `copy` copies the input's bytes into a buffer that was written before, in pieces of
/// 256 KiB on all threads; every other contender allocates its results, as a call by a user does. A backward pass goes
/// through candle's autograd, forward included, with ones as the output's gradient; `alone` is the backward kernel
/// without autograd. Extra memory is the peak of host allocations of one call beyond inputs and results, on new threads:
/// scratch memory, which threads keep for their next call, counts.
#[derive(Parser)]
struct Args {
    /// Only the shapes whose name contains this, such as 112 or 3/2
    #[arg(long, default_value = "")]
    shape: String,
    /// Only the contenders whose name contains one of these; the copy and softpool always run
    #[arg(long, value_delimiter = ',')]
    filter: Vec<String>,
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Float,
    /// All processors' by default
    #[arg(long)]
    threads: Option<usize>,
    /// Rounds that the medians are of, after the calls that warm up
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Time the first call of a turn, which finds in the caches what the one before left, not those that follow
    #[arg(long)]
    first: bool,
    /// One JSON object a line instead of the tables
    #[arg(long)]
    json: bool,
    /// Run what standard input asks for; see bench/run.py
    #[arg(long, hide = true)]
    serve: bool,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Float {
    F16,
    Bf16,
    F32,
    F64,
}

impl From<Float> for DType {
    fn from(float: Float) -> Self {
        match float {
            Float::F16 => Self::F16,
            Float::Bf16 => Self::BF16,
            Float::F32 => Self::F32,
            Float::F64 => Self::F64,
        }
    }
}

/// What has glibc keep freed memory: fresh pages cost a contender more than its pooling, if the last one's were returned.
#[cfg(target_os = "linux")]
const KEEP_MEMORY: [(&str, &str); 2] = [
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "100000000000"),
];

/// Starts over with [`KEEP_MEMORY`], which is read once, at the start.
#[cfg(target_os = "linux")]
fn keep_memory() -> Result<()> {
    use std::os::unix::process::CommandExt;
    if KEEP_MEMORY
        .iter()
        .all(|(name, _)| std::env::var_os(name).is_some())
    {
        return Ok(());
    }
    let mut again = std::process::Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).envs(KEEP_MEMORY);
    Err(again.exec().into())
}

fn main() -> Result<()> {
    let args = Args::parse();
    #[cfg(target_os = "linux")]
    keep_memory()?;
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()?;
    }
    if args.serve {
        return serve::serve();
    }
    let cases = cases::all()
        .into_iter()
        .filter(|case| case.name.contains(&args.shape));
    for case in cases {
        let mut contenders = contenders::of(&case, args.dtype.into())?;
        contenders.retain(|c| wanted(&args.filter, c));
        let rows = report::rows(&run(contenders, &args)?);
        match args.json {
            true => report::print_json(&case.name, args.dtype.into(), &rows),
            false => report::print_table(&case.name, args.dtype.into(), &rows),
        }
    }
    Ok(())
}

fn wanted(filter: &[String], contender: &Contender) -> bool {
    filter.is_empty()
        || ["copy", "softpool"].contains(&contender.who.as_str())
        || filter.iter().any(|part| contender.name().contains(part))
}

/// Contenders whose turn takes longer take part in the first rounds only.
const SLOW: f64 = 0.5;
const SLOW_ROUNDS: usize = 3;

/// Seconds that calls are repeated for.
const TURN: f64 = 20e-3;

/// What a turn took, in seconds.
struct Turn {
    first: f64,
    repeated: f64,
}

/// What was measured before the turns.
#[derive(Clone, Copy)]
struct Warm {
    seconds: f64,
    extra: usize,
}

/// A contender that can run, and the seconds of its rounds.
struct Measured {
    contender: Contender,
    warm: Warm,
    rounds: Vec<f64>,
}

fn run(contenders: Vec<Contender>, args: &Args) -> Result<Vec<Measured>> {
    let mut able = vec![];
    for contender in contenders {
        match contender.warm() {
            Ok(warm) => able.push(Measured {
                contender,
                warm,
                rounds: vec![],
            }),
            Err(error) => {
                let line = error.to_string();
                let line = line.lines().next().unwrap_or_default();
                eprintln!("{} cannot run: {line}", contender.name());
            }
        }
    }
    for round in 0..args.rounds {
        let mut turns: Vec<usize> = (0..able.len()).collect();
        // Each in another place, so that none always finds its input in the caches.
        turns.sort_by_key(|turn| {
            BuildHasherDefault::<DefaultHasher>::default().hash_one((round, turn))
        });
        for i in turns {
            let this = &mut able[i];
            if this.warm.seconds < SLOW || round < SLOW_ROUNDS {
                let Turn { first, repeated } = this.contender.turn()?;
                this.rounds.push(if args.first { first } else { repeated });
            }
        }
    }
    Ok(able)
}

impl Contender {
    fn once(&self) -> candle_core::Result<f64> {
        once(&Device::Cpu, &self.work)
    }

    /// Measures memory, then starts threads and touches memory.
    fn warm(&self) -> candle_core::Result<Warm> {
        let extra = extra_memory(&self.work)?;
        let mut seconds = self.once()?;
        if seconds < SLOW {
            seconds = self.once()?;
        }
        Ok(Warm { seconds, extra })
    }

    /// One call as soon as all threads are awake, and the median of those that a [`TURN`] holds.
    fn turn(&self) -> candle_core::Result<Turn> {
        wake();
        Ok(Turn {
            first: self.once()?,
            repeated: repeated(&Device::Cpu, TURN, &self.work)?,
        })
    }
}
