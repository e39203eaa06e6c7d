//! Files that no result may replace.

use anyhow::{ensure, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Those that are read in a run, and the results written in it so far.
#[derive(Default)]
pub struct Kept(HashSet<PathBuf>);

impl Kept {
    /// A file that is not there needs no protection.
    pub fn keep(&mut self, file: &Path) {
        self.0.extend(file.canonicalize());
    }

    /// An error if a result there would replace one of them.
    pub fn check(&self, file: &Path) -> Result<()> {
        let kept = file.canonicalize().is_ok_and(|file| self.0.contains(&file));
        ensure!(
            !kept,
            "{} is read or was written in this run: --output names another place",
            file.display()
        );
        Ok(())
    }
}
