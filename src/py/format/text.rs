//! Messages under `measure="text"`, LlamaIndex's rule: a role and one text, whatever else they have.
//!
//! A message is an object with `role` and `content`, or a mapping with those keys. Its content is a string, None, or a
//! list of parts. Parts with a string `text` count, joined by newlines.
//!
//! What was counted is kept as a *pin*: the content's own string, None, or a tuple of the parts' strings. While the pin
//! is kept, no other string can have its address, so comparing identities shows whether anything changed.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyMapping, PyString, PyTuple, PyType};
use pyo3::{ffi, intern};

use crate::core::item::{Kind, Outline};
use crate::py::strings::{to_text, type_name};

/// What a message without a string counts as: `str(None)`, as in LlamaIndex.
const NO_CONTENT: &str = "None";

/// LlamaIndex's `ChatMessage` and `TextBlock`. Such a message computes its `content` from its `blocks` at each access.
/// Reading the blocks instead finds the same strings each time, at a quarter of the cost.
static BLOCKS: PyOnceLock<(Py<PyType>, Py<PyType>)> = PyOnceLock::new();

/// Registers LlamaIndex's classes. Messages of exactly the class `message` are then read by their `blocks`: the text of
/// each that is a `text_block`. Both classes are pydantic models with fields of these names.
#[pyfunction]
#[pyo3(signature = (message, text_block, /))]
pub fn _read_blocks(message: Bound<'_, PyType>, text_block: Bound<'_, PyType>) {
    let py = message.py();
    BLOCKS.get_or_init(py, || (message.unbind(), text_block.unbind()));
}

/// The outline of `message`. Checks that it has a content that can be counted.
///
/// # Errors
/// A `TypeError` that names what is missing or wrong, and whatever the message's own properties raise.
pub fn outline(message: &Bound<'_, PyAny>) -> PyResult<Outline> {
    let py = message.py();
    let role = role_of(message)?;
    if blocks(message)?.is_none() {
        pin_of(&field(message, intern!(py, "content"))?)?;
    }
    // A role that is not valid Unicode cannot be `assistant` or `tool`.
    Ok(role_name(role)?.to_str().map_or_else(|_| outline_of_role(""), outline_of_role))
}

/// The role of `message`; if it is an enumeration's, its value.
///
/// # Errors
/// A `TypeError` if the role is not a string, and whatever the message's own properties raise.
pub fn role<'py>(message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyString>> {
    role_name(role_of(message)?)
}

fn role_of<'py>(message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    field(message, intern!(message.py(), "role"))
}

fn role_name(role: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyString>> {
    let role = if role.is_instance_of::<PyString>() { role } else { role.getattr_opt("value")?.unwrap_or(role) };
    role.cast_into::<PyString>().map_err(|error| {
        PyTypeError::new_err(format!("a message's role must be a string, got {}", type_name(&error.into_inner())))
    })
}

/// The outline of a message with this role.
///
/// In LlamaIndex's `ChatMemoryBuffer` (`chat_memory_buffer.py`, 0.14.16 and newer) a window may begin with any role
/// except `assistant` and `tool`.
pub fn outline_of_role(role: &str) -> Outline {
    let kind = match role {
        "system" | "developer" => Kind::System,
        "assistant" => Kind::Assistant,
        "tool" => Kind::Tool,
        _ => Kind::User,
    };
    Outline { kind, continues: false, may_start: !matches!(role, "assistant" | "tool") }
}

/// The pin of `message`'s current content.
///
/// # Errors
/// A `TypeError` if the content cannot be counted, and whatever the message's own properties raise.
pub fn pin<'py>(message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match blocks(message)? {
        Some((blocks, text_block)) => pin_of_blocks(&blocks, text_block),
        None => pin_of(&field(message, intern!(message.py(), "content"))?),
    }
}

/// Whether `message` still has the content of the pin at the address `mark`, as far as a quick look at dicts and
/// LlamaIndex's messages tells. If `false`, ask [`still_has`].
///
/// # Errors
/// The same as [`pin`].
#[inline]
pub fn surely_has(message: &Bound<'_, PyAny>, mark: usize) -> PyResult<bool> {
    let py = message.py();
    if let Ok(dict) = message.cast_exact::<PyDict>() {
        let content = dict.get_item(intern!(py, "content"))?;
        return Ok(content.is_some_and(|content| content.as_ptr() as usize == mark));
    }
    if let Some((blocks, text_block)) = blocks(message)? {
        return match blocks.len() {
            0 => Ok(mark == py.None().as_ptr() as usize),
            1 => {
                let block = blocks.get_item(0)?;
                Ok(is_exactly(&block, text_block)
                    && instance_field(&block, intern!(py, "text"))?.is_some_and(|text| text.as_ptr() as usize == mark))
            }
            _ => Ok(false),
        };
    }
    // A property is read only once.
    Ok(false)
}

/// Whether `message` still has the content of `pin`.
///
/// # Errors
/// The same as [`pin`].
pub fn still_has(message: &Bound<'_, PyAny>, pin: &Bound<'_, PyAny>) -> PyResult<bool> {
    if let Some((blocks, text_block)) = blocks(message)? {
        return same_text(&pin_of_blocks(&blocks, text_block)?, pin);
    }
    let content = field(message, intern!(message.py(), "content"))?;
    // Identity decides nearly every case. A content that is computed at each access is compared by value.
    if content.is(pin) { Ok(true) } else { same_text(&pin_of(&content)?, pin) }
}

/// The text that `pin` counts as. As in tiktoken, a lone surrogate becomes U+FFFD, and a pair becomes one character.
///
/// # Errors
/// Only if the interpreter runs out of memory.
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

/// LlamaIndex's classes of messages and of text blocks, if they are registered.
pub fn classes(py: Python<'_>) -> Option<(&Bound<'_, PyType>, &Bound<'_, PyType>)> {
    BLOCKS.get(py).map(|(message, text_block)| (message.bind(py), text_block.bind(py)))
}

/// The blocks of a LlamaIndex message, and its class of text blocks; `None` for any other message.
#[inline]
pub fn blocks<'py>(message: &Bound<'py, PyAny>) -> PyResult<Option<(Bound<'py, PyList>, &'py Bound<'py, PyType>)>> {
    let py = message.py();
    let Some((class, text_block)) = classes(py) else { return Ok(None) };
    if !is_exactly(message, class) {
        return Ok(None);
    }
    let blocks = instance_field(message, intern!(py, "blocks"))?;
    Ok(blocks.and_then(|blocks| blocks.cast_into_exact::<PyList>().ok()).map(|blocks| (blocks, text_block)))
}

pub fn is_exactly(object: &Bound<'_, PyAny>, class: &Bound<'_, PyType>) -> bool {
    object.get_type_ptr() == class.as_type_ptr()
}

/// The field `name` of a pydantic model; `None` if it is not there.
#[inline]
pub fn instance_field<'py>(
    model: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    instance_dict(model)?.get_item(name)
}

/// The dict of an instance, where pydantic keeps a model's fields.
///
/// For a class without a descriptor of that name, this finds the same field as `getattr`, in 10 ns instead of 25: a
/// model's class has a `__getattr__`, which makes the interpreter look up methods of the class at each access.
#[inline]
#[expect(unsafe_code, reason = "PyO3 has no safe call for it, and every message of every window is read so")]
pub fn instance_dict<'py>(model: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let py = model.py();
    // SAFETY: the argument is a live object and the interpreter is attached. The result is a new reference, or null
    // with an exception set: https://docs.python.org/3/c-api/object.html#c.PyObject_GenericGetDict
    let dict = unsafe {
        let dict = ffi::PyObject_GenericGetDict(model.as_ptr(), std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, dict)?
    };
    Ok(dict.cast_into::<PyDict>()?)
}

/// The same text as `ChatMessage.content`, as the strings that it joins.
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
        // A subclass may define equality differently.
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
