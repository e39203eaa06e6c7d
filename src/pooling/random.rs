//! Random numbers for the layers that draw in training: the same seed gives the same sequence of passes.

use rand_chacha::{rand_core::SeedableRng, ChaCha8Rng};
use std::sync::atomic::{AtomicU64, Ordering};

/// A seed and how many training passes have drawn from it.
#[derive(Debug)]
pub(crate) struct Draws {
    seed: u64,
    passes: AtomicU64,
}

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            passes: AtomicU64::new(0),
        }
    }

    /// Draws that no other layer has: of the largest seed, the next layer of the one below. People give small ones.
    pub fn of_one_layer() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(u64::MAX);
        Self::new(NEXT.fetch_sub(1, Ordering::Relaxed))
    }

    /// The generator of the next pass: every pass has a stream of its own.
    pub fn next_pass(&self) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.passes.fetch_add(1, Ordering::Relaxed));
        rng
    }
}

impl Clone for Draws {
    /// A copy that goes on from the same pass.
    fn clone(&self) -> Self {
        Self {
            seed: self.seed,
            passes: AtomicU64::new(self.passes.load(Ordering::Relaxed)),
        }
    }
}
