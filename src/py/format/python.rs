//! A format written in Python: an object whose `read(message)` says the same in one of the known shapes.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;

use crate::py::message::type_name;

/// What `format.read(message)` gives: a message that [`read`](super::read) knows, such as a dict of OpenAI's chat. It is read
/// and thrown away; the history keeps `message` itself.
///
/// # Errors
/// A `TypeError` if `format` has no method `read`; whatever that raises.
pub fn translate<'py>(format: &Bound<'py, PyAny>, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let Some(read) = format.getattr_opt(intern!(format.py(), "read"))? else {
        return Err(PyTypeError::new_err(format!(
            "a format must have a method read(message) that returns a message with a role and a content, got {}",
            type_name(format)
        )));
    };
    read.call1((message,))
}
