//! The pooling layers, a file each.

pub mod soft;
