//! Copies of LlamaIndex's messages, so that nobody can change what is stored. They take a fraction of pydantic's time.
//!
//! A message is *plain* if it consists of texts and tool calls, and a JSON round trip does not change it. Its copy
//! equals what LlamaIndex makes of its JSON. So does a message that is made here from parsed JSON.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PySet, PyString, PyType};
use pyo3::{ffi, intern};

use super::text::{blocks, classes, instance_dict, is_exactly};
use crate::py::turns::Turns;

/// Messages copied before the collector may run again.
const AT_ONCE: usize = 1_000;

/// The deepest nesting of values that is copied here.
const DEEPEST: usize = 64;

/// What all copies share.
struct Shared {
    /// LlamaIndex's class of roles.
    role: Py<PyType>,
    /// Its class of tool calls.
    tool_call: Py<PyType>,
    /// The names of the fields of a message, a text, a tool call. Pydantic keeps with each model the set of fields that
    /// were set. Here all copies share one, because they have all fields and none can be added. A set for each copy
    /// would be half the garbage collector's work.
    message_fields: Py<PySet>,
    text_fields: Py<PySet>,
    tool_call_fields: Py<PySet>,
    /// Roles by their values.
    roles: Py<PyDict>,
    /// Whether an instance of these classes is only its fields: no private attributes, and no hook that runs on a new
    /// one. If a release of LlamaIndex changes that, pydantic makes all copies.
    is_simple: bool,
}

impl Shared {
    fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static SHARED: PyOnceLock<Shared> = PyOnceLock::new();
        SHARED.get_or_try_init(py, || {
            let llms = py.import("llama_index.core.base.llms.types")?;
            let class =
                |name: &str| -> PyResult<Py<PyType>> { Ok(llms.getattr(name)?.cast_into::<PyType>()?.unbind()) };
            let set = |names: &[&str]| -> PyResult<Py<PySet>> { Ok(PySet::new(py, names)?.unbind()) };
            let mut is_simple = true;
            for name in ["ChatMessage", "TextBlock", "ToolCallBlock"] {
                let class = llms.getattr(name)?;
                is_simple &= class.getattr("__private_attributes__")?.len()? == 0
                    && class.getattr("__pydantic_post_init__")?.is_none();
            }
            Ok(Self {
                is_simple,
                roles: llms.getattr("MessageRole")?.getattr("_value2member_map_")?.cast_into::<PyDict>()?.unbind(),
                role: class("MessageRole")?,
                tool_call: class("ToolCallBlock")?,
                message_fields: set(&["role", "additional_kwargs", "blocks"])?,
                text_fields: set(&["block_type", "text"])?,
                tool_call_fields: set(&["block_type", "tool_call_id", "tool_name", "tool_kwargs"])?,
            })
        })
    }
}

/// Copies messages: plain ones here, the others by calling `other`. A copy shares no field with its message that can be
/// changed. All its fields are set, as they are after parsing JSON.
#[pyfunction]
#[pyo3(signature = (messages, other, /))]
pub fn _copied<'py>(messages: &Bound<'py, PyList>, other: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    let py = messages.py();
    let mut turns = Turns::new(py);
    let mut copies = Vec::with_capacity(messages.len());
    if classes(py).is_some() {
        Shared::get(py)?; // this imports, so it must not run with the collector paused
    }
    for at in (0..messages.len()).step_by(AT_ONCE) {
        let mut paused = Some(PausedCollector::new(py));
        for message in messages.get_slice(at, at + AT_ONCE) {
            if let Some(copy) = copied(&message)? {
                copies.push(copy);
            } else {
                drop(paused.take());
                copies.push(other.call1((message,))?);
                paused = Some(PausedCollector::new(py));
            }
        }
        drop(paused);
        turns.offer();
    }
    PyList::new(py, copies)
}

/// Makes messages from parsed JSON, which is consumed; `None` for a message that is not plain.
#[pyfunction]
#[pyo3(signature = (values, /))]
pub fn _made<'py>(values: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyList>> {
    let py = values.py();
    let mut turns = Turns::new(py);
    let mut messages = Vec::with_capacity(values.len());
    if classes(py).is_some() {
        Shared::get(py)?;
    }
    for at in (0..values.len()).step_by(AT_ONCE) {
        let paused = PausedCollector::new(py);
        for value in values.get_slice(at, at + AT_ONCE) {
            messages.push(made(&value)?);
        }
        drop(paused);
        turns.offer();
    }
    PyList::new(py, messages)
}

/// Whether a message is plain.
#[pyfunction]
#[pyo3(signature = (message, /))]
pub fn _is_plain(message: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = message.py();
    if classes(py).is_some() {
        Shared::get(py)?;
    }
    let _paused = PausedCollector::new(py);
    Ok(copied(message)?.is_some())
}

/// Stops the garbage collector until this is dropped. No Python code may run meanwhile.
///
/// A dict is iterated over while its values are copied, which only Python code could disturb.
///
/// No copy is garbage, but a collection runs every few hundred objects, sometimes over all of them. 5,000 copies take 3
/// ms without the collector, 5 ms with it, and 100 ms when it visits everything that LlamaIndex has loaded.
struct PausedCollector<'py> {
    _py: Python<'py>,
    was_on: bool,
}

impl<'py> PausedCollector<'py> {
    #[expect(unsafe_code, reason = "PyO3 has no safe call for it")]
    fn new(py: Python<'py>) -> Self {
        // SAFETY: the interpreter is attached.
        Self { _py: py, was_on: unsafe { ffi::PyGC_Disable() } != 0 }
    }
}

impl Drop for PausedCollector<'_> {
    #[expect(unsafe_code, reason = "PyO3 has no safe call for it")]
    fn drop(&mut self) {
        if self.was_on {
            // SAFETY: the interpreter is attached.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}

/// The message with these values, if it is plain.
fn made<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = value.py();
    let Some((message_class, text_class)) = classes(py) else { return Ok(None) };
    let shared = Shared::get(py)?;
    if !shared.is_simple {
        return Ok(None);
    }
    let Ok(fields) = value.cast_exact::<PyDict>() else { return Ok(None) };
    let (role, kwargs, blocks) = (
        fields.get_item(intern!(py, "role"))?,
        fields.get_item(intern!(py, "additional_kwargs"))?,
        fields.get_item(intern!(py, "blocks"))?,
    );
    let (Some(role), Some(kwargs), Some(blocks), 3) = (role, kwargs, blocks, fields.len()) else { return Ok(None) };
    let (Ok(kwargs), Ok(blocks)) = (kwargs.cast_exact::<PyDict>(), blocks.cast_exact::<PyList>()) else {
        return Ok(None);
    };
    if !role.is_exact_instance_of::<PyString>() || kwargs.contains(intern!(py, "images"))? {
        return Ok(None);
    }
    let Some(role) = shared.roles.bind(py).get_item(role)? else { return Ok(None) };
    let mut models = Vec::with_capacity(1);
    for block in blocks {
        let Ok(block) = block.cast_into_exact::<PyDict>() else { return Ok(None) };
        models.push(if is_text(&block)? {
            model(text_class, block, &shared.text_fields)?
        } else if is_tool_call(&block)? {
            model(shared.tool_call.bind(py), block, &shared.tool_call_fields)?
        } else {
            return Ok(None);
        });
    }
    fields.set_item(intern!(py, "role"), role)?;
    fields.set_item(intern!(py, "blocks"), PyList::new(py, models)?)?;
    model(message_class, fields.clone(), &shared.message_fields).map(Some)
}

/// A copy of a plain message; `None` for any other. Pydantic does not check assigned values, so they are checked here.
fn copied<'py>(message: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = message.py();
    let Some((blocks, text_block)) = blocks(message)? else { return Ok(None) };
    let shared = Shared::get(py)?;
    if !shared.is_simple {
        return Ok(None);
    }
    let fields = instance_dict(message)?;
    let (role, kwargs) = (fields.get_item(intern!(py, "role"))?, fields.get_item(intern!(py, "additional_kwargs"))?);
    let (Some(role), Some(kwargs), 3) = (role, kwargs, fields.len()) else { return Ok(None) };
    if !is_exactly(&role, shared.role.bind(py)) {
        return Ok(None);
    }
    let Some(kwargs) = copied_dict(&kwargs, DEEPEST)? else { return Ok(None) };
    if kwargs.contains(intern!(py, "images"))? {
        return Ok(None); // LlamaIndex makes blocks of these
    }
    let mut copies = Vec::with_capacity(1);
    for block in blocks {
        let copy = if is_exactly(&block, text_block) {
            copied_text(&block, shared)?
        } else if is_exactly(&block, shared.tool_call.bind(py)) {
            copied_tool_call(&block, shared)?
        } else {
            None
        };
        let Some(copy) = copy else { return Ok(None) };
        copies.push(copy);
    }
    let fields = fields.copy()?;
    fields.set_item(intern!(py, "additional_kwargs"), kwargs)?;
    fields.set_item(intern!(py, "blocks"), PyList::new(py, copies)?)?;
    model(&message.get_type(), fields, &shared.message_fields).map(Some)
}

fn copied_text<'py>(block: &Bound<'py, PyAny>, shared: &Shared) -> PyResult<Option<Bound<'py, PyAny>>> {
    let fields = instance_dict(block)?;
    if !is_text(&fields)? {
        return Ok(None);
    }
    model(&block.get_type(), fields.copy()?, &shared.text_fields).map(Some)
}

fn copied_tool_call<'py>(block: &Bound<'py, PyAny>, shared: &Shared) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = block.py();
    let fields = instance_dict(block)?;
    let arguments = fields.get_item(intern!(py, "tool_kwargs"))?;
    let (Some(arguments), true) = (arguments, is_tool_call(&fields)?) else { return Ok(None) };
    let copy = fields.copy()?;
    if !arguments.is_exact_instance_of::<PyString>() {
        let Some(arguments) = copied_dict(&arguments, DEEPEST)? else { return Ok(None) };
        copy.set_item(intern!(py, "tool_kwargs"), arguments)?;
    }
    model(&block.get_type(), copy, &shared.tool_call_fields).map(Some)
}

/// Whether these are the fields of a text block.
fn is_text(fields: &Bound<'_, PyDict>) -> PyResult<bool> {
    let py = fields.py();
    Ok(fields.len() == 2
        && has_text(fields, intern!(py, "block_type"), Some("text"))?
        && has_text(fields, intern!(py, "text"), None)?)
}

/// Whether these are the fields of a tool call.
fn is_tool_call(fields: &Bound<'_, PyDict>) -> PyResult<bool> {
    let py = fields.py();
    let id = fields.get_item(intern!(py, "tool_call_id"))?;
    let arguments = fields.get_item(intern!(py, "tool_kwargs"))?;
    Ok(fields.len() == 4
        && id.is_some_and(|id| id.is_none() || id.is_exact_instance_of::<PyString>())
        && arguments
            .is_some_and(|value| value.is_exact_instance_of::<PyString>() || value.is_exact_instance_of::<PyDict>())
        && has_text(fields, intern!(py, "block_type"), Some("tool_call"))?
        && has_text(fields, intern!(py, "tool_name"), None)?)
}

/// Whether a field is a string, or exactly `text` if that is given.
fn has_text(fields: &Bound<'_, PyDict>, name: &Bound<'_, PyString>, text: Option<&str>) -> PyResult<bool> {
    let Some(value) = fields.get_item(name)? else { return Ok(false) };
    Ok(value.cast_exact::<PyString>().is_ok_and(|value| text.is_none_or(|text| value == text)))
}

/// A copy of a dict of JSON; `None` for anything else.
fn copied_dict<'py>(value: &Bound<'py, PyAny>, deepest: usize) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Ok(dict) = value.cast_exact::<PyDict>() else { return Ok(None) };
    let copy = PyDict::new(value.py());
    for (key, value) in dict {
        // Pydantic takes no key that is not valid Unicode.
        let is_key = key.cast_exact::<PyString>().is_ok_and(|key| key.to_str().is_ok());
        let (true, Some(value)) = (is_key, copied_value(&value, deepest)?) else {
            return Ok(None);
        };
        copy.set_item(key, value)?;
    }
    Ok(Some(copy))
}

/// A copy of a value that JSON gives back unchanged; `None` for anything else.
fn copied_value<'py>(value: &Bound<'py, PyAny>, deepest: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
    let is_same = value.is_none()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyBool>()
        || (value.is_exact_instance_of::<PyInt>() && value.extract::<i64>().is_ok())
        || value.cast_exact::<PyFloat>().is_ok_and(|float| float.value().is_finite());
    if is_same {
        return Ok(Some(value.clone()));
    }
    let Some(deepest) = deepest.checked_sub(1) else { return Ok(None) };
    if let Ok(list) = value.cast_exact::<PyList>() {
        let copies: Option<Vec<_>> =
            list.iter().map(|value| copied_value(&value, deepest)).collect::<PyResult<Option<Vec<_>>>>()?;
        return copies.map(|copies| Ok(PyList::new(value.py(), copies)?.into_any())).transpose();
    }
    Ok(copied_dict(value, deepest)?.map(Bound::into_any))
}

/// A pydantic model with these fields, as `model_construct` makes one.
#[expect(unsafe_code, reason = "PyO3 has no safe calls for it, and a model's own `__setattr__` takes a microsecond")]
fn model<'py>(
    class: &Bound<'py, PyType>,
    fields: Bound<'py, PyDict>,
    names: &Py<PySet>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = class.py();
    // SAFETY: the class is a live heap type without an allocator of its own, and the interpreter is attached. The
    // result is a new reference, or null with an exception set:
    // https://docs.python.org/3/c-api/type.html#c.PyType_GenericAlloc
    let model = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(class.as_type_ptr(), 0))? };
    let none = py.None().into_bound(py);
    let attributes = [
        (intern!(py, "__dict__"), fields.into_any()),
        (intern!(py, "__pydantic_fields_set__"), names.bind(py).clone().into_any()),
        (intern!(py, "__pydantic_extra__"), none.clone()),
        (intern!(py, "__pydantic_private__"), none),
    ];
    for (name, value) in attributes {
        // SAFETY: all three are live objects. 0 is success, -1 means that an exception is set.
        let result = unsafe { ffi::PyObject_GenericSetAttr(model.as_ptr(), name.as_ptr(), value.as_ptr()) };
        if result != 0 {
            return Err(PyErr::fetch(py));
        }
    }
    Ok(model)
}
