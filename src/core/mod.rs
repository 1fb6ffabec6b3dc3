//! The engine, free of Python: histories of messages, prefix sums of their tokens, and the search for a window.

pub mod count;
pub mod deque;
pub mod ending;
pub mod error;
pub mod flush;
pub mod history;
pub mod item;
pub mod joined;
pub mod ledger;
pub mod measure;
pub mod policy;
pub mod query;
pub mod queue;
