//! The dtypes that can be pooled.

use candle_core::WithDType;
use half::{bf16, f16};

/// A floating-point dtype: f16, bf16, f32 or f64.
pub trait Element: WithDType + Default {
    /// The largest finite value.
    const MAX: f64;

    /// One rounding to the dtype.
    fn round(v: f64) -> Self;
}

macro_rules! element {
    ($t:ty, $round:expr) => {
        impl Element for $t {
            const MAX: f64 = <$t>::MAX as f64;

            fn round(v: f64) -> Self {
                $round(v)
            }
        }
    };
}

element!(f32, |v| v as f32);
element!(f64, |v| v);

impl Element for f16 {
    const MAX: f64 = f16::MAX.to_f64_const();

    fn round(v: f64) -> Self {
        f16::from_f64(v)
    }
}

impl Element for bf16 {
    const MAX: f64 = bf16::MAX.to_f64_const();

    fn round(v: f64) -> Self {
        bf16::from_f64(v)
    }
}
