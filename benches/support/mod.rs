//! What the benchmarks share.

pub mod history;
