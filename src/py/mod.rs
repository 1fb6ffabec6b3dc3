//! The boundary to Python: one file per class, and what they share. Arguments in, core called, errors out.

pub mod counter;
mod error;
pub mod format;
mod history;
pub mod message;
pub mod record;
pub mod ring;
mod state;
