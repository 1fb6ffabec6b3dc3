//! Chat histories for LLM agents, and the last messages of them that fit a token limit.
//!
//! - [`core`] is the engine, free of Python: histories of messages, prefix sums of their tokens, and the search for a window.
//! - `py` is the boundary: the classes that Python sees, reading messages, locking, and errors. Only with the feature
//!   `python`.
//!
//! `docs/design.md` has the rules and the picture.

pub mod core;
#[cfg(feature = "python")]
mod py;

/// The extension module. Its stub, `_core.pyi`, documents what Python sees.
// Sound without the GIL by design (frozen classes, one lock each), but not tested on such a build, so not claimed.
#[cfg(feature = "python")]
#[pyo3::pymodule(gil_used = true)]
mod _core {
    #[pymodule_export]
    use crate::py::append::{Batch, StorePolicy};
    #[pymodule_export]
    use crate::py::counter::TokenCounter;
    #[pymodule_export]
    use crate::py::format::text::_read_blocks;
    #[pymodule_export]
    use crate::py::format::{_outline, _read};
    #[pymodule_export]
    use crate::py::message_ring::MessageRing;
    #[pymodule_export]
    use crate::py::trim::trim_messages;
}
