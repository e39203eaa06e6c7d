//! Medians as a table or as JSON.

use crate::common::{median, Sample};
use crate::contenders::{Contender, Pass};
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
    extra: usize,
}

/// A row a contender; the first contender is the copy.
pub fn rows(contenders: &[Contender], samples: &[Vec<Sample>]) -> Vec<Row> {
    let ratio = |i: usize, j: usize| {
        let rounds = samples[i].iter().zip(&samples[j]).skip(1);
        median(rounds.map(|(a, b)| a.seconds / b.seconds)).unwrap_or(f64::NAN)
    };
    let row = |(i, contender): (usize, &Contender)| {
        let bases = contenders
            .iter()
            .enumerate()
            .filter(|(j, base)| {
                *j != i && base.who == "softpool" && like(contender.pass, base.pass)
            })
            .map(|(j, base)| (base.pass.name(), ratio(i, j)));
        let seconds = samples[i].iter().skip(1).map(|sample| sample.seconds);
        Row {
            name: contender.name(),
            ms: median(seconds).unwrap_or(f64::NAN) * 1e3,
            copies: ratio(i, 0),
            softpools: bases.collect(),
            extra: samples[i][0].extra,
        }
    };
    contenders.iter().enumerate().map(row).collect()
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
