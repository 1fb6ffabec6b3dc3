//! The boundary to Python: classes, reading messages, locking, and errors.

pub mod append;
mod arguments;
mod callable;
pub mod counter;
mod error;
pub mod format;
pub mod message_ring;
mod policy;
mod shared_history;
mod strings;
pub mod trim;
mod turns;
