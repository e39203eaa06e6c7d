//! Networks with a choice of pooling.

pub mod digits;
