//! Reading messages: what each is to the rules, and what counts of it. By its shape, without being told.
//!
//! - `keys` are the words that formats have in common: what roles, types and keys mean.
//! - `fields` are keys of mappings and attributes of objects, alike.
//! - `message` knows the shapes: messages with a role (OpenAI chat, Anthropic, Bedrock, `LlamaIndex`, ...), Gemini's contents,
//!   items of Responses, messages of `LangChain` and their dumps, of Pydantic AI and of `ShareGPT`.
//! - `reader` reads what is inside: texts, blocks, calls, results and media.
//! - `python` is a format written in Python.
//!
//! `tests/reading.py` is the same in Python, literally.

mod fields;
mod keys;
mod message;
pub mod python;
mod reader;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use self::keys::provider_name;
use crate::core::item::{Extras, Kind, Outline, Provider};
use crate::core::measure::Constants;
use crate::py::message::to_text;

/// What was read of a message.
pub struct Reading<'py> {
    pub outline: Outline,
    pub provider: Provider,
    pub extras: Extras,
    /// What is sent, each text by itself: strings, and structured values whose JSON is sent.
    pub texts: Vec<Bound<'py, PyAny>>,
}

/// What `message` is to the rules. Quicker than [`read`], and enough when it is put.
///
/// # Errors
/// A `TypeError` that names what is missing or wrong; whatever the message's own properties raise.
pub fn outline(message: &Bound<'_, PyAny>) -> PyResult<Outline> {
    Ok(message::read(message, false)?.outline)
}

/// What `message` is to the rules, and what counts of it.
///
/// # Errors
/// As for [`outline`].
pub fn read<'py>(message: &Bound<'py, PyAny>) -> PyResult<Reading<'py>> {
    message::read(message, true)
}

/// The characters that one of a [`Reading`]'s texts counts as: its own, or those of its JSON as providers' SDKs send it.
///
/// # Errors
/// What `json.dumps` raises for a value that JSON cannot say, such as one that contains itself.
pub fn text_of(text: &Bound<'_, PyAny>) -> PyResult<String> {
    static DUMPS: PyOnceLock<(Py<PyAny>, Py<PyDict>)> = PyOnceLock::new();
    if let Ok(text) = text.cast::<PyString>() {
        return to_text(text);
    }
    let py = text.py();
    let (dumps, options) = DUMPS.get_or_try_init(py, || -> PyResult<_> {
        let options = PyDict::new(py);
        options.set_item("separators", (",", ":"))?;
        options.set_item("ensure_ascii", false)?;
        options.set_item("default", py.get_type::<PyString>())?;
        Ok((py.import("json")?.getattr("dumps")?.unbind(), options.unbind()))
    })?;
    to_text(dumps.bind(py).call((text,), Some(options.bind(py)))?.cast()?)
}

/// Reads a message, for tests: kind, continues, may start, provider, extras, texts, and the tokens beside the texts.
#[pyfunction]
#[pyo3(signature = (message, /, format = None))]
pub fn _read<'py>(message: &Bound<'py, PyAny>, format: Option<&Bound<'py, PyAny>>) -> PyResult<ReadTuple> {
    let translated = format.map(|format| python::translate(format, message)).transpose()?;
    let Reading { outline, provider, extras, texts } = read(translated.as_ref().unwrap_or(message))?;
    let texts = texts.iter().map(text_of).collect::<PyResult<_>>()?;
    let overhead = Constants::of(provider).overhead(&extras);
    let Extras { named, calls, results, images, audio, files } = extras;
    let extras = (named, calls, results, images, audio, files);
    let (kind, continues, may_start) = outlined(outline);
    Ok((kind, continues, may_start, provider_name(provider), extras, texts, overhead))
}

type ReadTuple = (&'static str, bool, bool, &'static str, ExtrasTuple, Vec<String>, u64);
type ExtrasTuple = (bool, u32, u32, u32, u32, u32);

/// The outline of a message, for tests: kind, continues, may start.
#[pyfunction]
#[pyo3(signature = (message, /))]
pub fn _outline(message: &Bound<'_, PyAny>) -> PyResult<(&'static str, bool, bool)> {
    outline(message).map(outlined)
}

fn outlined(Outline { kind, continues, may_start }: Outline) -> (&'static str, bool, bool) {
    let kind = match kind {
        Kind::System => "system",
        Kind::User => "user",
        Kind::Assistant => "assistant",
        Kind::Tool => "tool",
    };
    (kind, continues, may_start)
}
