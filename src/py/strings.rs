//! Python's strings as Rust's.

use std::borrow::Cow;

use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use pyo3::{PyTypeInfo, intern};

use super::counter::DETACH_BYTES;

/// The characters of a Python string.
///
/// Encoded each time: the interpreter would keep the UTF-8 form of a string for as long as the string lives.
///
/// # Errors
/// Only if the interpreter runs out of memory.
pub fn to_text(text: &Bound<'_, PyString>) -> PyResult<String> {
    let py = text.py();
    match text.encode_utf8() {
        Ok(bytes) => {
            let bytes = bytes.as_bytes();
            let copy = || String::from_utf8(bytes.to_vec());
            Ok(if bytes.len() < DETACH_BYTES { copy() } else { py.detach(copy) }?)
        }
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(py) => {
            let encode = PyString::type_object(py).getattr(intern!(py, "encode"))?;
            let encoded = encode.call1((text, "utf-16-le", "surrogatepass"))?;
            let (pairs, _) = encoded.cast::<PyBytes>()?.as_bytes().as_chunks::<2>();
            let units = pairs.iter().map(|pair| u16::from_le_bytes(*pair));
            Ok(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
        }
        Err(error) => Err(error),
    }
}

/// Like [`to_text`], but without copying an ASCII string, whose own bytes are UTF-8.
///
/// # Errors
/// Only if the interpreter runs out of memory.
pub fn to_cow<'a>(text: &'a Bound<'_, PyString>) -> PyResult<Cow<'a, str>> {
    // A subclass may redefine what is ASCII.
    let is_ascii =
        text.is_exact_instance_of::<PyString>() && text.call_method0(intern!(text.py(), "isascii"))?.is_truthy()?;
    if is_ascii { text.to_str().map(Cow::Borrowed) } else { to_text(text).map(Cow::Owned) }
}

/// What an object says of itself, for messages. A number of thousands of digits says nothing, and a class's own code may
/// raise.
pub fn shown(object: &Bound<'_, PyAny>) -> String {
    object.repr().map_or_else(|_| "one that cannot be shown".to_owned(), |shown| shown.to_string())
}

/// The name of an object's class, for messages.
pub fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string())
}
