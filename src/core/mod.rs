//! The engine, free of Python: a ring of messages, prefix sums of their tokens, and the search for a window.

pub mod appended;
pub mod batch;
pub mod count;
pub mod encoding;
pub mod error;
pub mod item;
pub mod joint;
pub mod ledger;
pub mod measure;
pub mod ring;
pub mod role;
pub mod window;
