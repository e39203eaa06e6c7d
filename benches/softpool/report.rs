//! Medians as a table or as JSON.

use crate::common::median;
use crate::contenders::Pass;
use crate::Measured;
use candle_core::DType;
use candle_softpool::Gradient;
use comfy_table::{presets::ASCII_MARKDOWN, Table};

pub struct Row {
    name: String,
    ms: f64,
    /// Times as long as the copy.
    copies: f64,
    /// Times as long as softpool's passes of the same kind.
    softpools: Vec<(&'static str, f64)>,
    /// Bytes beyond inputs and results, scratch memory of all threads included.
    extra: usize,
}

/// A row a contender; the first contender is the copy.
pub fn rows(all: &[Measured]) -> Vec<Row> {
    let ratio = |i: usize, j: usize| {
        let rounds = all[i].rounds.iter().zip(&all[j].rounds);
        median(rounds.map(|(a, b)| a / b)).unwrap_or(f64::NAN)
    };
    let row = |(i, this): (usize, &Measured)| {
        let bases = all
            .iter()
            .map(|base| &base.contender)
            .enumerate()
            .filter(|(j, base)| {
                *j != i && base.who == "softpool" && like(this.contender.pass, base.pass)
            })
            .map(|(j, base)| (base.pass.name(), ratio(i, j)));
        let seconds = this.rounds.iter().copied();
        Row {
            name: this.contender.name(),
            ms: median(seconds).unwrap_or(f64::NAN) * 1e3,
            copies: ratio(i, 0),
            softpools: bases.collect(),
            extra: this.warm.extra,
        }
    };
    all.iter().enumerate().map(row).collect()
}

/// Whether a pass is compared with softpool's: the derivative of the operations with both gradients.
fn like(pass: Pass, base: Pass) -> bool {
    match pass {
        Pass::Backward(Gradient::Exact) => matches!(base, Pass::Backward(_)),
        pass => pass == base,
    }
}

pub fn print_table(case: &str, dtype: DType, rows: &[Row]) {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(["", "ms", "× copy", "× softpool", "extra MB"]);
    for row in rows {
        let softpools = row.softpools.iter();
        let softpools = softpools.map(|(pass, ratio)| format!("{ratio:.2} {pass}"));
        table.add_row([
            row.name.clone(),
            format!("{:.3}", row.ms),
            format!("{:.2}", row.copies),
            softpools.collect::<Vec<_>>().join(", "),
            format!("{:.2}", row.extra as f64 / 1e6),
        ]);
    }
    let threads = rayon::current_num_threads();
    println!(
        "\n{case}, {}, threads: {threads}\n\n{table}",
        dtype.as_str()
    );
}

pub fn print_json(case: &str, dtype: DType, rows: &[Row]) {
    for row in rows {
        let softpools: serde_json::Map<_, _> = row
            .softpools
            .iter()
            .map(|&(pass, ratio)| (pass.to_string(), ratio.into()))
            .collect();
        let line = serde_json::json!({
            "case": case, "dtype": dtype.as_str(), "threads": rayon::current_num_threads(),
            "contender": row.name, "ms": row.ms, "copies": row.copies, "softpools": softpools,
            "extra_bytes": row.extra,
        });
        println!("{line}");
    }
}
