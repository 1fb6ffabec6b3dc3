//! The boundary to Python: classes, reading messages, locking, and errors.

#![expect(clippy::doc_markdown, reason = "the docstrings that Python sees are Python's")]

/// The docstring of a public class, method or function: the stub's, which `build.rs` has written to a file of its own.
macro_rules! stub {
    ($name:literal) => {
        include_str!(concat!(env!("OUT_DIR"), "/", $name))
    };
}

mod arguments;
mod attributes;
mod callable;
pub mod counter;
mod error;
pub mod format;
pub mod message_queue;
pub mod message_ring;
mod pins;
pub mod policy;
mod shared_history;
mod snapshot;
pub mod store_policy;
mod strings;
pub mod trim;
mod turns;
