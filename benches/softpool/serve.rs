//! Runs single turns on request, so that contenders outside Rust can take theirs between.
//!
//! Requests, one a line: `cases` answers with all cases, `open DTYPE CASE` with the contenders' names, `turn INDEX`
//! with the cost of a turn, the first of which warms and measures memory instead. Answers are JSON, one a line.

use crate::contenders::{self, Contender};
use crate::{cases, Float, Turn, Warm};
use anyhow::{bail, Context, Result};
use clap::ValueEnum;
use serde_json::{json, Value};
use std::io::{stdin, BufRead};

pub fn serve() -> Result<()> {
    let mut open = vec![];
    for line in stdin().lock().lines() {
        println!("{}", answer(&line?, &mut open)?);
    }
    Ok(())
}

fn answer(line: &str, open: &mut Vec<(Contender, bool)>) -> Result<Value> {
    match line.splitn(3, ' ').collect::<Vec<_>>()[..] {
        ["cases"] => {
            let cases = cases::all();
            let cases = cases.iter().map(|case| {
                json!({
                    "name": case.name, "shape": case.shape, "kernel": case.kernel, "stride": case.stride,
                    "padding": case.padding, "views": case.views,
                })
            });
            Ok(cases.collect())
        }
        ["open", dtype, name] => {
            let dtype = Float::from_str(dtype, true).map_err(anyhow::Error::msg)?;
            let mut cases = cases::all().into_iter();
            let case = cases
                .find(|case| case.name == name)
                .context("no such case")?;
            let contenders = contenders::of(&case, dtype.into())?;
            let names = contenders.iter().map(|c| json!([c.who, c.pass.name()]));
            let names = names.collect();
            *open = contenders.into_iter().map(|c| (c, false)).collect();
            Ok(names)
        }
        ["turn", index] => {
            let (contender, warm) = open
                .get_mut(index.parse::<usize>()?)
                .context("no such contender")?;
            let cost = match std::mem::replace(warm, true) {
                false => contender.warm().map(|Warm { seconds, extra }| {
                    json!({"first": seconds, "seconds": seconds, "extra_bytes": extra})
                }),
                true => contender
                    .turn()
                    .map(|Turn { first, repeated }| json!({"first": first, "seconds": repeated})),
            };
            Ok(cost.unwrap_or_else(|e| json!({"error": e.to_string().lines().next()})))
        }
        _ => bail!("cannot read the request {line:?}"),
    }
}
