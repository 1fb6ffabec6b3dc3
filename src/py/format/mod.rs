//! Reading messages: what each is to the rules, and what counts. The shape of a message tells; nobody needs to.
//!
//! - `shape` finds the shape of a message. `speech` reads messages that name who speaks, and `item` those of Responses,
//!   which have a type instead. `langchain` and `pydantic_ai` read what only these have. `python` is a format written
//!   in Python.
//! - `reader` reads the contents of all shapes: texts, blocks, calls, results and media.
//! - `keys` are the words that the shapes share: what roles, types and keys mean. `fields` treats keys of mappings and
//!   attributes of objects alike; `slots` are the fields of a message.
//!
//! `unchanged` sees that the commonest messages are still what was counted, without reading them again.
//!
//! `blocks` is for LlamaIndex's `Memory`, and `copies` makes its copies of messages.
//!
//! `text` is for `measure="text"`, which knows only a role and one text. `tests/reading.py` implements the rest
//! literally in Python.

pub mod blocks;
pub mod copies;
mod fields;
mod item;
mod keys;
mod langchain;
mod pydantic_ai;
pub mod python;
mod reader;
mod shape;
mod slots;
mod speech;
pub mod text;
mod unchanged;

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple};

use self::keys::PROVIDERS;
use crate::core::item::{Extras, Kind, Outline, Provider};
use crate::core::measure::Constants;
use crate::py::strings::{shown, to_text};

/// What was read from a message.
pub struct Reading<'py> {
    pub outline: Outline,
    pub provider: Provider,
    pub extras: Extras,
    /// What is sent, each text by itself: strings, and structured values that are sent as JSON.
    pub texts: Vec<Bound<'py, PyAny>>,
    /// Whether it is only a role and a content, which is a string or None, and nothing else is sent.
    pub is_plain: bool,
}

impl<'py> Reading<'py> {
    /// The tokens that it costs in addition to its texts.
    #[must_use]
    pub fn overhead(&self) -> i64 {
        Constants::of(self.provider).overhead(&self.extras) as i64
    }

    /// What tells later whether the message is still what was counted. For a plain message, its content. Otherwise a
    /// tuple of its overhead and all texts, where each structured value is followed by its JSON as counted; `texts` has
    /// the characters of all. While the pin is kept, no other object can have the addresses of its parts, so comparing
    /// identities is enough.
    ///
    /// # Errors
    /// Only if the interpreter runs out of memory.
    pub fn pin(&self, py: Python<'py>, texts: &[String]) -> PyResult<Py<PyAny>> {
        if self.is_plain {
            return Ok(self.texts.first().map_or_else(|| py.None(), |text| text.clone().unbind()));
        }
        let mut parts = vec![self.overhead().into_pyobject(py)?.into_any()];
        for (text, counted) in self.texts.iter().zip(texts) {
            let is_string = text.is_instance_of::<PyString>();
            parts.push(if is_string { text.clone() } else { (text, counted).into_pyobject(py)?.into_any() });
        }
        Ok(PyTuple::new(py, parts)?.into_any().unbind())
    }

    /// Whether `pin` was made from this.
    ///
    /// # Errors
    /// Whatever comparing texts of a subclass raises.
    pub fn is_that_of(&self, pin: &Bound<'py, PyAny>) -> PyResult<bool> {
        let Ok(parts) = pin.cast::<PyTuple>() else {
            return Ok(self.is_plain
                && match self.texts.first() {
                    Some(text) => !pin.is_none() && is_still(text, pin)?,
                    None => pin.is_none(),
                });
        };
        if self.is_plain
            || parts.len() != self.texts.len() + 1
            || parts.get_item(0)?.extract::<i64>()? != self.overhead()
        {
            return Ok(false);
        }
        for (text, part) in self.texts.iter().zip(parts.iter().skip(1)) {
            if !is_still(text, &part)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a text or structured value is the same object as the `part` of a pin, or equal to it where each access makes
/// a new object.
fn is_still(text: &Bound<'_, PyAny>, part: &Bound<'_, PyAny>) -> PyResult<bool> {
    let (value, counted) = match part.cast::<PyTuple>() {
        Ok(pair) => (pair.get_item(0)?, pair.get_item(1)?),
        Err(_) => (part.clone(), part.clone()),
    };
    if text.is(&value) {
        return Ok(true);
    }
    if text.is_exact_instance_of::<PyString>() && counted.is_exact_instance_of::<PyString>() {
        return text.eq(counted);
    }
    Ok(text_of(text)? == text_of(&counted)?)
}

/// What `message` is to the rules. Quicker than [`read`], and enough when the message is put.
///
/// # Errors
/// A `TypeError` that names what is missing or wrong, and whatever the message's own properties raise.
pub fn outline(message: &Bound<'_, PyAny>) -> PyResult<Outline> {
    Ok(shape::read(message, false)?.outline)
}

/// What `message` is to the rules, and what counts.
///
/// # Errors
/// The same as [`outline`].
pub fn read<'py>(message: &Bound<'py, PyAny>) -> PyResult<Reading<'py>> {
    shape::read(message, true)
}

/// The text that one of a [`Reading`]'s texts counts as: itself, or its JSON as providers' SDKs send it.
///
/// # Errors
/// Whatever JSON's encoder raises for a value that has no JSON, such as one that contains itself.
pub fn text_of(text: &Bound<'_, PyAny>) -> PyResult<String> {
    static ENCODE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if let Ok(text) = text.cast::<PyString>() {
        return to_text(text);
    }
    let py = text.py();
    // `json.dumps` makes an encoder for each value.
    let encode = ENCODE.get_or_try_init(py, || -> PyResult<_> {
        let options = PyDict::new(py);
        options.set_item("separators", (",", ":"))?;
        options.set_item("ensure_ascii", false)?;
        options.set_item("default", py.get_type::<PyString>())?;
        let encoder = py.import("json")?.getattr("JSONEncoder")?.call((), Some(&options))?;
        Ok(encoder.getattr("encode")?.unbind())
    })?;
    to_text(encode.bind(py).call1((text,))?.cast()?)
}

/// How the messages of one history are read.
pub enum Format {
    /// Each by its shape.
    Shape,
    /// By its shape, where a plain role and content is this provider's. Such a message looks the same for all
    /// providers.
    Provider(Provider),
    /// By an object written in Python: see [`python`].
    Python(Py<PyAny>),
}

impl Format {
    /// The format for the argument `format`: None, the name of a provider, or an object with a method `read`.
    ///
    /// # Errors
    /// A `ValueError` for a name that is not a provider's, a `TypeError` for any other object.
    pub fn from_argument(format: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let Some(format) = format.filter(|format| !format.is_none()) else { return Ok(Self::Shape) };
        let Ok(name) = format.cast::<PyString>() else {
            return python::check(format).map(|()| Self::Python(format.clone().unbind()));
        };
        if let Ok(name) = name.to_str()
            && let Some((_, provider)) = PROVIDERS.iter().find(|(known, _)| *known == name)
        {
            return Ok(Self::Provider(*provider));
        }
        let known = PROVIDERS.map(|(name, _)| name).join(", ");
        Err(PyValueError::new_err(format!("unknown format {}: choose one of {known}", shown(name))))
    }

    /// What it was made from.
    pub fn argument<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match self {
            Self::Shape => None,
            Self::Provider(provider) => Some(PyString::new(py, provider_name(*provider)).into_any()),
            Self::Python(format) => Some(format.bind(py).clone()),
        }
    }

    /// Another reference to the same format.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Shape => Self::Shape,
            Self::Provider(provider) => Self::Provider(*provider),
            Self::Python(format) => Self::Python(format.clone_ref(py)),
        }
    }

    /// Shows its Python object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Self::Python(format) = self { visit.call(format) } else { Ok(()) }
    }

    /// See [`outline`].
    ///
    /// # Errors
    /// The same as [`outline`], and whatever a format in Python raises.
    pub fn outline(&self, message: &Bound<'_, PyAny>) -> PyResult<Outline> {
        match self {
            Self::Shape | Self::Provider(_) => outline(message),
            Self::Python(format) => outline(&python::translate(format.bind(message.py()), message)?),
        }
    }

    /// The provider that a plain role and content belongs to.
    fn plain_provider(&self) -> Provider {
        if let Self::Provider(provider) = self { *provider } else { Provider::OpenAiChat }
    }

    /// Whether what counts of `message` is still what it was when the pin at the address `mark` was made, as far as
    /// that address tells. If `false`, ask [`still_has`](Self::still_has).
    ///
    /// # Errors
    /// Only if the interpreter runs out of memory.
    #[inline]
    pub fn surely_has(&self, message: &Bound<'_, PyAny>, mark: usize) -> PyResult<bool> {
        match self {
            Self::Python(_) => Ok(message.as_ptr() as usize == mark),
            _ => unchanged::by_content(message, mark),
        }
    }

    /// Whether what counts of `message` is still what it was when `pin` was made.
    ///
    /// # Errors
    /// The same as [`Format::outline`].
    pub fn still_has<'py>(&self, message: &Bound<'py, PyAny>, pin: &Bound<'py, PyAny>) -> PyResult<bool> {
        match self {
            // A format in Python may look at anything, and takes its time. Only a different object is known to be
            // another message.
            Self::Python(_) => Ok(message.is(pin)),
            _ => Ok(unchanged::by_parts(message, pin, self.plain_provider())? || self.read(message)?.is_that_of(pin)?),
        }
    }

    /// The pin of a `message` that was read: see [`Reading::pin`].
    ///
    /// # Errors
    /// The same as [`Reading::pin`].
    pub fn pin<'py>(
        &self,
        reading: &Reading<'py>,
        texts: &[String],
        message: &Bound<'py, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        match self {
            Self::Python(_) => Ok(message.clone().unbind()),
            _ => reading.pin(message.py(), texts),
        }
    }

    /// See [`read`].
    ///
    /// # Errors
    /// The same as [`Format::outline`].
    pub fn read<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Reading<'py>> {
        match self {
            Self::Shape => read(message),
            Self::Provider(provider) => {
                let mut reading = read(message)?;
                if reading.provider == Provider::OpenAiChat {
                    reading.provider = *provider;
                }
                Ok(reading)
            }
            Self::Python(format) => read(&python::translate(format.bind(message.py()), message)?),
        }
    }
}

/// Reads a message, for tests: kind, continues, may start, provider, extras, texts, and the tokens beside the texts.
#[pyfunction]
#[pyo3(signature = (message, /, format = None))]
pub fn _read<'py>(message: &Bound<'py, PyAny>, format: Option<&Bound<'py, PyAny>>) -> PyResult<ReadTuple> {
    let Reading { outline, provider, extras, texts, .. } = Format::from_argument(format)?.read(message)?;
    let texts = texts.iter().map(text_of).collect::<PyResult<_>>()?;
    let overhead = Constants::of(provider).overhead(&extras);
    let Extras { named, calls, results, images, audio, files } = extras;
    let extras = (named, calls, results, images, audio, files);
    let (kind, continues, may_start) = outlined(outline);
    Ok((kind, continues, may_start, provider_name(provider), extras, texts, overhead))
}

fn provider_name(provider: Provider) -> &'static str {
    PROVIDERS.iter().find(|(_, known)| *known == provider).map_or("", |(name, _)| name)
}

type ReadTuple = (&'static str, bool, bool, &'static str, ExtrasTuple, Vec<String>, u64);
type ExtrasTuple = (bool, u32, u32, u32, u32, u32);

/// The outline of a message: kind, continues, may start.
#[pyfunction]
#[pyo3(signature = (message, /, format = None))]
pub fn _outline(message: &Bound<'_, PyAny>, format: Option<&Bound<'_, PyAny>>) -> PyResult<(&'static str, bool, bool)> {
    Format::from_argument(format)?.outline(message).map(outlined)
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
