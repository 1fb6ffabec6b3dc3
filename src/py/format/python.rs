//! A format written in Python: an object whose `read(message)` returns the message in one of the known shapes.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;

use crate::py::strings::type_name;

/// Checks that `format` is a format.
///
/// # Errors
/// A `TypeError` if it has no method `read`.
pub fn check(format: &Bound<'_, PyAny>) -> PyResult<()> {
    let read = format.getattr_opt(intern!(format.py(), "read"))?;
    if read.is_some_and(|read| read.is_callable()) {
        return Ok(());
    }
    Err(PyTypeError::new_err(format!(
        "a format must be the name of a provider, or have a method read(message) that returns a message with a role and \
         a content; got {}",
        type_name(format)
    )))
}

/// What `format.read(message)` returns: a message that [`read`](super::read) knows, such as a dict of OpenAI's chat. It
/// is read and thrown away; the history keeps `message` itself.
///
/// # Errors
/// Whatever the method raises, and a `TypeError` if it returns None.
pub fn translate<'py>(format: &Bound<'py, PyAny>, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let read = format.call_method1(intern!(format.py(), "read"), (message,))?;
    if read.is_none() {
        return Err(PyTypeError::new_err(format!(
            "a format's read(message) must return a message with a role and a content; {}'s returned None",
            type_name(format)
        )));
    }
    Ok(read)
}
