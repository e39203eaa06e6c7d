//! The choice of an instruction set, at run time.

#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{InstructionSet, Kernel, Portable};

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Arch {
    /// The best that every machine of the target has.
    #[cfg(not(target_arch = "aarch64"))]
    const EVERYWHERE: Self = Self::Portable;
    #[cfg(target_arch = "aarch64")]
    const EVERYWHERE: Self = Self::Neon;

    /// Those that this machine has, the best last.
    pub fn available() -> Vec<Self> {
        let all = [
            Some(Self::Portable),
            #[cfg(target_arch = "x86_64")]
            x86::has_avx2().then_some(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            x86::has_avx512().then_some(Self::Avx512),
            #[cfg(target_arch = "aarch64")]
            Some(Self::Neon),
        ];
        all.into_iter().flatten().collect()
    }

    /// The best that this machine has.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if x86::has_avx512() {
            return Self::Avx512;
        } else if x86::has_avx2() {
            return Self::Avx2;
        }
        Self::EVERYWHERE
    }

    /// Runs a kernel compiled for this set, which the machine must have.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `available` and `best` give sets that the machine has, and nothing else makes a value.
        unsafe {
            match self {
                Self::Portable => Portable::call(kernel),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => x86::Avx2::call(kernel),
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => x86::Avx512::call(kernel),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => Neon::call(kernel),
            }
        }
    }
}
