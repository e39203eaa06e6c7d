//! The pooling methods, a rule each.

mod average;
mod largest;
mod power;
mod softmax;
mod weighted;

pub use average::Average;
pub use largest::{Largest, Maximum};
pub use power::Power;
pub use softmax::{ExactSoftPool, Softmax};
pub use weighted::Weighted;
