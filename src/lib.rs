//! Chat histories for LLM agents, and the last messages that fit a token limit.
//!
//! - [`core`] is the engine, free of Python: histories of messages, prefix sums of their tokens, and the search for a
//!   window.
//! - `py` is the boundary: the classes that Python sees, reading messages, locking, and errors. It needs the feature
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
    use pyo3::prelude::*;

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// A function has the name of the module that it is made for; this one is public elsewhere, like the classes.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.getattr("trim_messages")?.setattr("__module__", "chatring")
    }

    #[pymodule_export]
    use crate::py::counter::TokenCounter;
    #[pymodule_export]
    use crate::py::format::copies::{_copied, _is_plain, _made};
    #[pymodule_export]
    use crate::py::format::text::_read_blocks;
    #[pymodule_export]
    use crate::py::format::{_outline, _read};
    #[pymodule_export]
    use crate::py::message_queue::MessageQueue;
    #[pymodule_export]
    use crate::py::message_ring::MessageRing;
    #[pymodule_export]
    use crate::py::policy::BlockMeasure;
    #[pymodule_export]
    use crate::py::store_policy::{Batch, StorePolicy};
    #[pymodule_export]
    use crate::py::trim::trim_messages;
}
