//! Runs single turns on request, so that contenders outside Rust can take theirs between.
//!
//! Requests, one a line: `cases` answers with all cases, `open DTYPE CASE` with the contenders' names, `turn INDEX`
//! with the cost of a turn, the first of which warms. Answers are JSON, one a line.

use crate::common::Sample;
use crate::contenders::{self, Contender};
use crate::{cases, Float, Turn};
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

fn answer(line: &str, open: &mut Vec<(Contender, Option<Sample>)>) -> Result<Value> {
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
            *open = contenders.into_iter().map(|c| (c, None)).collect();
            Ok(names)
        }
        ["turn", index] => {
            let (contender, warm) = open
                .get_mut(index.parse::<usize>()?)
                .context("no such contender")?;
            let turn = match *warm {
                None => contender.warm().map(|sample| {
                    *warm = Some(sample);
                    Turn {
                        first: sample,
                        repeated: sample,
                    }
                }),
                Some(warm) => contender.turn(warm),
            };
            Ok(match turn {
                Ok(Turn { first, repeated }) => json!({
                    "first": first.seconds, "seconds": repeated.seconds, "extra_bytes": repeated.extra,
                }),
                Err(error) => json!({"error": error.to_string().lines().next()}),
            })
        }
        _ => bail!("cannot read the request {line:?}"),
    }
}
