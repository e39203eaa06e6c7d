//! Results to standard output, errors and progress to standard error.

use crate::json::add_path;
use crate::pipeline::{Answer, Outcome};
use crate::say::say;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Fewer images are done before a bar would be read.
const MANY: usize = 20;
/// Columns of a file's name, at most.
const FILE: usize = 44;
/// Columns of a class's name, at most.
const LABEL: usize = 24;

pub struct Report<'a> {
    labels: &'a [String],
    top_k: usize,
    json: bool,
    /// Columns of the file's and the class's name.
    columns: [usize; 2],
    total: Option<usize>,
    bar: ProgressBar,
    start: Instant,
    last_line: Instant,
    pub done: usize,
    pub failed: usize,
}

impl<'a> Report<'a> {
    pub fn new(
        labels: &'a [String],
        top_k: usize,
        json: bool,
        files: Option<&[PathBuf]>,
    ) -> Result<Self> {
        let widest = |names: &mut dyn Iterator<Item = usize>, most| {
            names.max().unwrap_or(most).clamp(5, most)
        };
        let columns = [
            widest(
                &mut files.iter().flat_map(|f| f.iter()).map(|f| width(&name(f))),
                FILE,
            ),
            widest(&mut labels.iter().map(|label| width(label)), LABEL),
        ];
        let total = files.map(<[_]>::len);
        let bar = match total {
            Some(total) if total < MANY => ProgressBar::hidden(),
            Some(total) => ProgressBar::new(total as u64).with_style(ProgressStyle::with_template(
                "{bar:30} {pos}/{len}, {per_sec}, {eta} left",
            )?),
            None => ProgressBar::no_length().with_style(ProgressStyle::with_template(
                "{spinner} {pos} images, {per_sec}",
            )?),
        };
        let now = Instant::now();
        Ok(Self {
            labels,
            top_k,
            json,
            columns,
            total,
            bar,
            start: now,
            last_line: now,
            done: 0,
            failed: 0,
        })
    }

    pub fn outcome(&mut self, outcome: Outcome) -> Result<()> {
        let file = outcome.file.as_deref();
        match &outcome.answer {
            Ok(answer) => {
                let line = match self.json {
                    true => self.json_line(file, answer),
                    false => self.row(file, answer),
                };
                self.print(&line)?;
            }
            Err(error) => {
                self.failed += 1;
                let message = match file {
                    Some(file) => format!("{}: {error:#}", file.display()),
                    None => format!("{error:#}"),
                };
                self.bar.suspend(|| say!("{message}"));
                if self.json {
                    let mut line = serde_json::json!({"error": format!("{error:#}")});
                    add_path(&mut line, "file", file);
                    self.print(&line.to_string())?;
                }
            }
        }
        self.done += 1;
        self.progress();
        Ok(())
    }

    /// The last line: how many images, and how fast.
    pub fn finish(&self, about: &str) {
        self.bar.finish_and_clear();
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        let seconds = self.start.elapsed().as_secs_f64();
        let speed = (self.done - self.failed) as f64 / seconds;
        let images = if self.done == 1 { "image" } else { "images" };
        say!(
            "{} {images}{failed}, {seconds:.2} s, {speed:.1} images/s ({about})",
            self.done
        );
    }

    fn progress(&mut self) {
        self.bar.inc(1);
        if !io::stderr().is_terminal() && self.last_line.elapsed() >= Duration::from_secs(1) {
            self.last_line = Instant::now();
            let of = self
                .total
                .map(|total| format!(" of {total}"))
                .unwrap_or_default();
            let speed = self.done as f64 / self.start.elapsed().as_secs_f64();
            say!("{}{of} images, {speed:.1} images/s", self.done);
        }
    }

    fn print(&self, line: &str) -> Result<()> {
        self.bar.suspend(|| {
            let mut out = io::stdout().lock();
            writeln!(out, "{line}")?;
            out.flush()
        })?;
        Ok(())
    }

    /// The most probable classes, the first first.
    fn top(&self, answer: &Answer) -> Vec<(usize, f32)> {
        let mut classes: Vec<_> = answer.probabilities.iter().copied().enumerate().collect();
        classes.sort_by(|a, b| b.1.total_cmp(&a.1));
        classes.truncate(self.top_k);
        classes
    }

    fn json_line(&self, file: Option<&Path>, answer: &Answer) -> String {
        let top: Vec<_> = self
            .top(answer)
            .into_iter()
            .map(|(class, p)| serde_json::json!({"index": class, "class": self.labels[class], "probability": p}))
            .collect();
        let mut line = serde_json::json!({
            "class": top[0]["class"], "probability": top[0]["probability"], "top": top,
            "milliseconds": (answer.milliseconds * 1000.0).round() / 1000.0,
        });
        add_path(&mut line, "file", file);
        line.to_string()
    }

    /// A line of the table, and its head before the first.
    fn row(&self, file: Option<&Path>, answer: &Answer) -> String {
        let [file_width, label_width] = self.columns;
        let top = self.top(answer);
        let (class, p) = top[0];
        let others: Vec<_> = top[1..]
            .iter()
            .map(|&(class, p)| format!("{} {:.2} %", self.labels[class], 100.0 * p))
            .collect();
        let row = format!(
            " {} │ {} {:6.2} % {:10} │ {:8.2} ms │ {}",
            column(&file.map(name).unwrap_or_default(), file_width),
            column(&self.labels[class], label_width),
            100.0 * p,
            "█".repeat((10.0 * p).round() as usize),
            answer.milliseconds,
            others.join(", ")
        );
        if self.done > self.failed {
            return row;
        }
        let (file, class) = (
            column("file", file_width),
            column("class", label_width + 20),
        );
        let rule = |columns: usize| "─".repeat(columns + 2);
        let rules = [file_width, label_width + 20, 11, 24].map(rule).join("┼");
        format!(" {file} │ {class} │        time │ next\n{rules}\n{row}")
    }
}

/// A sample by its name alone, any other file as the user named it.
fn name(file: &Path) -> String {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR"));
    file.strip_prefix(samples)
        .unwrap_or(file)
        .display()
        .to_string()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Padded to the column, or the end of what is too long for it.
fn column(text: &str, columns: usize) -> String {
    match width(text) > columns {
        false => format!("{text:columns$}"),
        true => {
            let end: Vec<char> = text.chars().skip(width(text) + 1 - columns).collect();
            format!("…{}", end.into_iter().collect::<String>())
        }
    }
}
