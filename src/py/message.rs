//! Reading messages: their role, their content, and whether the content is still what was counted.
//!
//! A message is an object with `role` and `content`, or a mapping with those keys. Its content is a string, None, or a list
//! of parts of which those with a string `text` count, joined by newlines.
//!
//! What was counted is kept as a *pin*: the content's own string, None, or a tuple of the parts' strings. As long as it is
//! kept, no other string can have its address, so comparing identities is enough to see that nothing changed.

use std::borrow::Cow;

use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyMapping, PyString, PyTuple, PyType};
use pyo3::{PyTypeInfo, ffi, intern};

use super::counter::DETACH_BYTES;
use crate::core::role::may_start_window;

/// What a message without a string counts as: `str(None)`, as in LlamaIndex.
const NO_CONTENT: &str = "None";

/// What a message costs to count beside its characters, as a number of characters: empty ones take 2 to 6 us each.
const MESSAGE_COST: i64 = 64;

/// LlamaIndex's `ChatMessage` and `TextBlock`. Such a message computes its `content` at each access from its `blocks`;
/// reading those instead finds the same strings each time, at a quarter of the cost.
static BLOCKS: PyOnceLock<(Py<PyType>, Py<PyType>)> = PyOnceLock::new();

/// Has messages of exactly the class `message` read by their `blocks`: the text of those that are a `text_block`. Both
/// classes are pydantic models with fields of these names.
#[pyfunction]
#[pyo3(signature = (message, text_block, /))]
pub fn _read_blocks(message: Bound<'_, PyType>, text_block: Bound<'_, PyType>) {
    let py = message.py();
    BLOCKS.get_or_init(py, || (message.unbind(), text_block.unbind()));
}

/// Whether a window may begin with `message`, by its role. Checks also that it has a content that can be counted.
///
/// # Errors
/// A `TypeError` that names what is missing or wrong; whatever the message's own properties raise.
pub fn check(message: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = message.py();
    let role = field(message, intern!(py, "role"))?;
    if blocks(message)?.is_none() {
        pin_of(&field(message, intern!(py, "content"))?)?;
    }
    let role = if role.is_instance_of::<PyString>() { role } else { role.getattr_opt("value")?.unwrap_or(role) };
    let role = role
        .cast::<PyString>()
        .map_err(|_| PyTypeError::new_err(format!("a message's role must be a string, got {}", type_name(&role))))?;
    // A role that is no Unicode is none that may not start a window.
    Ok(role.to_str().map_or(true, may_start_window))
}

/// The pin of `message`'s content as it is now.
///
/// # Errors
/// A `TypeError` if the content cannot be counted; whatever the message's own properties raise.
pub fn pin<'py>(message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match blocks(message)? {
        Some((blocks, text_block)) => pin_of_blocks(&blocks, text_block),
        None => pin_of(&field(message, intern!(message.py(), "content"))?),
    }
}

/// Whether `message` still has the content of `pin`.
///
/// # Errors
/// As for [`pin`].
pub fn still_has(message: &Bound<'_, PyAny>, pin: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = message.py();
    if let Some((blocks, text_block)) = blocks(message)? {
        match blocks.len() {
            0 => return Ok(pin.is_none()),
            1 if let block = blocks.get_item(0)?
                && is_exactly(&block, text_block)
                && instance_field(&block, intern!(py, "text"))?.is_some_and(|text| text.is(pin)) =>
            {
                return Ok(true);
            }
            _ => {}
        }
        return same_text(&pin_of_blocks(&blocks, text_block)?, pin);
    }
    let content = field(message, intern!(py, "content"))?;
    // Identity settles nearly every case. A content that is computed afresh at each access is compared by value.
    if content.is(pin) { Ok(true) } else { same_text(&pin_of(&content)?, pin) }
}

/// What `pin` counts as. Surrogates without a partner become U+FFFD, and pairs one character, as in tiktoken.
///
/// # Errors
/// Only where the interpreter itself fails, for lack of memory.
pub fn text(pin: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(text) = pin.cast::<PyString>() {
        to_text(text)
    } else if let Ok(parts) = pin.cast::<PyTuple>() {
        let parts: Vec<String> = parts.iter().map(|part| to_text(part.cast()?)).collect::<PyResult<_>>()?;
        Ok(parts.join("\n"))
    } else {
        Ok(NO_CONTENT.to_owned())
    }
}

/// What it costs to count `pin`, in characters. A string of a subclass may say any length: it costs more than can be paid.
pub fn cost(pin: &Bound<'_, PyAny>) -> i64 {
    let length = |text: &Bound<'_, PyAny>| {
        text.cast_exact::<PyString>().ok().and_then(|text| text.len().ok()).map_or(i64::MAX, |length| length as i64)
    };
    let characters = if let Ok(parts) = pin.cast::<PyTuple>() {
        parts.iter().fold(0_i64, |sum, part| sum.saturating_add(length(&part)))
    } else if pin.is_none() {
        NO_CONTENT.len() as i64
    } else {
        length(pin)
    };
    characters.saturating_add(MESSAGE_COST)
}

/// The characters of a Python string.
///
/// Encoded anew each time: the interpreter would keep the UTF-8 form of a string beside it for as long as the string lives.
///
/// # Errors
/// Only where the interpreter itself fails, for lack of memory.
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

/// As [`to_text`], but without a copy of an ASCII string, whose own bytes are UTF-8.
///
/// # Errors
/// Only where the interpreter itself fails, for lack of memory.
pub fn to_cow<'a>(text: &'a Bound<'_, PyString>) -> PyResult<Cow<'a, str>> {
    // A subclass may have an idea of its own of what is ASCII.
    let is_ascii =
        text.is_exact_instance_of::<PyString>() && text.call_method0(intern!(text.py(), "isascii"))?.is_truthy()?;
    if is_ascii { text.to_str().map(Cow::Borrowed) } else { to_text(text).map(Cow::Owned) }
}

fn field<'py>(message: &Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    let found = if let Ok(dict) = message.cast::<PyDict>() {
        dict.get_item(name)?
    } else if let Some(value) = message.getattr_opt(name)? {
        Some(value)
    } else if let Ok(mapping) = message.cast::<PyMapping>() {
        mapping.contains(name)?.then(|| mapping.get_item(name)).transpose()?
    } else if message.get_type().hasattr(name)? {
        return message.getattr(name); // a property that raises AttributeError: the error is its own
    } else {
        None
    };
    found.ok_or_else(|| {
        PyTypeError::new_err(format!(
            "a message needs a role and a content, as attributes or keys; this {} has no {name}",
            type_name(message)
        ))
    })
}

fn pin_of<'py>(content: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = content.py();
    if content.is_instance_of::<PyString>() || content.is_none() {
        return Ok(content.clone());
    }
    if !(content.is_instance_of::<PyList>() || content.is_instance_of::<PyTuple>()) {
        return Err(PyTypeError::new_err(format!(
            "a message's content must be a string, None or a list of parts, got {}",
            type_name(content)
        )));
    }
    let mut texts = Vec::new();
    for part in content.try_iter()? {
        let part = part?;
        let text = if part.is_instance_of::<PyString>() {
            Some(part)
        } else if let Ok(dict) = part.cast::<PyDict>() {
            dict.get_item(intern!(py, "text"))?
        } else {
            part.getattr_opt(intern!(py, "text"))?
        };
        texts.extend(text.filter(pyo3::types::PyAnyMethods::is_instance_of::<PyString>));
    }
    Ok(PyTuple::new(py, texts)?.into_any())
}

/// The blocks of a LlamaIndex message, and its class of text blocks; `None` for any other message.
fn blocks<'py>(message: &Bound<'py, PyAny>) -> PyResult<Option<(Bound<'py, PyList>, &'py Bound<'py, PyType>)>> {
    let py = message.py();
    let Some((class, text_block)) = BLOCKS.get(py) else { return Ok(None) };
    if !is_exactly(message, class.bind(py)) {
        return Ok(None);
    }
    let blocks = instance_field(message, intern!(py, "blocks"))?;
    Ok(blocks.and_then(|blocks| blocks.cast_into_exact::<PyList>().ok()).map(|blocks| (blocks, text_block.bind(py))))
}

fn is_exactly(object: &Bound<'_, PyAny>, class: &Bound<'_, PyType>) -> bool {
    object.get_type_ptr() == class.as_type_ptr()
}

/// The field `name` of a pydantic model, read from the instance's dict, where pydantic keeps it; `None` if it is not there.
///
/// The same as `getattr`, for classes without a descriptor of that name, but at 10 ns and not 25: a model's class has a
/// `__getattr__`, for whose sake the interpreter looks up methods of the class at each access.
#[expect(unsafe_code, reason = "PyO3 has no safe call for it, and every message of every window is read so")]
fn instance_field<'py>(model: &Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = model.py();
    // SAFETY: the argument is a live object and the interpreter is attached. What comes back is a new reference, or null
    // with an exception set: https://docs.python.org/3/c-api/object.html#c.PyObject_GenericGetDict
    let dict = unsafe {
        let dict = ffi::PyObject_GenericGetDict(model.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, dict)?
    };
    dict.cast::<PyDict>()?.get_item(name)
}

/// The same as `ChatMessage.content`, but as the strings it joins.
fn pin_of_blocks<'py>(blocks: &Bound<'py, PyList>, text_block: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    let py = blocks.py();
    let mut texts = Vec::with_capacity(1);
    for block in blocks {
        if block.is_instance(text_block)? {
            texts.push(block.getattr(intern!(py, "text"))?.cast_into::<PyString>()?);
        }
    }
    match texts.len() {
        0 => Ok(py.None().into_bound(py)),
        1 => Ok(texts.remove(0).into_any()),
        _ => Ok(PyTuple::new(py, texts)?.into_any()),
    }
}

fn same_text(left: &Bound<'_, PyAny>, right: &Bound<'_, PyAny>) -> PyResult<bool> {
    if left.is(right) {
        return Ok(true);
    }
    if left.is_exact_instance_of::<PyString>() && right.is_exact_instance_of::<PyString>() {
        return left.eq(right);
    }
    if let (Ok(left), Ok(right)) = (left.cast::<PyString>(), right.cast::<PyString>()) {
        // A subclass may have an idea of its own of what is equal.
        return Ok(to_text(left)? == to_text(right)?);
    }
    if let (Ok(left), Ok(right)) = (left.cast::<PyTuple>(), right.cast::<PyTuple>()) {
        if left.len() != right.len() {
            return Ok(false);
        }
        for (left, right) in left.iter().zip(right.iter()) {
            if !same_text(&left, &right)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    Ok(false)
}

/// The name of an object's class, for messages.
pub fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string())
}
