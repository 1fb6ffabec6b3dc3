//! Reading messages: what each is to the rules, and what counts of it. By its shape, without being told.
//!
//! - `shape` says which shape a message has. `speech` reads those that name who speaks, `item` those of Responses, which have a
//!   type instead, `langchain` and `pydantic_ai` what these have of their own. `python` is a format written in Python.
//! - `reader` reads what is inside, of all shapes alike: texts, blocks, calls, results and media.
//! - `keys` are the words that they have in common: what roles, types and keys mean. `fields` are keys of mappings and attributes
//!   of objects, alike; `slots` those of a message.
//!
//! `text` is for `measure="text"`, which knows a role and one text. `tests/reading.py` is the rest in Python, literally.

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

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple};

use self::keys::PROVIDERS;
use crate::core::item::{Extras, Kind, Outline, Provider};
use crate::core::measure::Constants;
use crate::py::strings::to_text;

/// What was read of a message.
pub struct Reading<'py> {
    pub outline: Outline,
    pub provider: Provider,
    pub extras: Extras,
    /// What is sent, each text by itself: strings, and structured values whose JSON is sent.
    pub texts: Vec<Bound<'py, PyAny>>,
}

impl<'py> Reading<'py> {
    /// The tokens that it costs beside its texts.
    #[must_use]
    pub fn overhead(&self) -> i64 {
        Constants::of(self.provider).overhead(&self.extras) as i64
    }

    /// Whether it has nothing but one text, as plain messages of OpenAI's chat do.
    fn is_plain(&self) -> bool {
        let plain = Constants::of(Provider::OpenAiChat).message as i64;
        self.texts.len() == 1 && self.extras == Extras::default() && self.overhead() == plain
    }

    /// What tells later whether the message still has what was counted: its one text, or a tuple of its overhead and all
    /// texts, each structured value with the JSON of it that was counted: `texts` has them all. As long as it is kept, no
    /// other object can have their addresses, so comparing identities is enough.
    ///
    /// # Errors
    /// Only where the interpreter itself fails, for lack of memory.
    pub fn pin(&self, py: Python<'py>, texts: &[String]) -> PyResult<Py<PyAny>> {
        if self.is_plain()
            && let Some(text) = self.texts.first().filter(|text| text.is_instance_of::<PyString>())
        {
            return Ok(text.clone().unbind());
        }
        let mut parts = vec![self.overhead().into_pyobject(py)?.into_any()];
        for (text, counted) in self.texts.iter().zip(texts) {
            let is_string = text.is_instance_of::<PyString>();
            parts.push(if is_string { text.clone() } else { (text, counted).into_pyobject(py)?.into_any() });
        }
        Ok(PyTuple::new(py, parts)?.into_any().unbind())
    }

    /// Whether it is what `pin` was made of.
    ///
    /// # Errors
    /// What comparing texts of a subclass raises.
    pub fn is_that_of(&self, pin: &Bound<'py, PyAny>) -> PyResult<bool> {
        let Ok(parts) = pin.cast::<PyTuple>() else {
            return Ok(self.is_plain() && is_still(&self.texts[0], pin)?);
        };
        if parts.len() != self.texts.len() + 1 || parts.get_item(0)?.extract::<i64>()? != self.overhead() {
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

/// Whether a text or structured value is the same object as the `part` of a pin, or, where it is made anew at each access,
/// says the same.
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

/// Whether `message` still is what `pin` was made of, as far as a look at a dict of two keys tells: the commonest message.
fn is_plain_and_unchanged(message: &Bound<'_, PyAny>, pin: &Bound<'_, PyAny>) -> PyResult<bool> {
    let Ok(dict) = message.cast_exact::<PyDict>() else { return Ok(false) };
    let content = intern!(message.py(), "content");
    Ok(dict.len() == 2 && pin.is_instance_of::<PyString>() && dict.get_item(content)?.is_some_and(|now| now.is(pin)))
}

/// What `message` is to the rules. Quicker than [`read`], and enough when it is put.
///
/// # Errors
/// A `TypeError` that names what is missing or wrong; whatever the message's own properties raise.
pub fn outline(message: &Bound<'_, PyAny>) -> PyResult<Outline> {
    Ok(shape::read(message, false)?.outline)
}

/// What `message` is to the rules, and what counts of it.
///
/// # Errors
/// As for [`outline`].
pub fn read<'py>(message: &Bound<'py, PyAny>) -> PyResult<Reading<'py>> {
    shape::read(message, true)
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

/// How the messages of one history are read.
pub enum Format {
    /// Each by its shape.
    Shape,
    /// By their shape; a plain role and content, which looks alike wherever it is sent, is this provider's.
    Provider(Provider),
    /// By an object in Python: see [`python`].
    Python(Py<PyAny>),
}

impl Format {
    /// What the argument `format` says: None, the name of a provider, or an object with a method `read`.
    ///
    /// # Errors
    /// A `ValueError` for a name that is not one of a provider, a `TypeError` for any other object.
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
        Err(PyValueError::new_err(format!("unknown format {}: choose one of {known}", name.repr()?)))
    }

    /// What it was made from.
    pub fn argument<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match self {
            Self::Shape => None,
            Self::Provider(provider) => Some(PyString::new(py, provider_name(*provider)).into_any()),
            Self::Python(format) => Some(format.bind(py).clone()),
        }
    }

    /// The same once more.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Shape => Self::Shape,
            Self::Provider(provider) => Self::Provider(*provider),
            Self::Python(format) => Self::Python(format.clone_ref(py)),
        }
    }

    /// Shows what it holds to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Self::Python(format) = self { visit.call(format) } else { Ok(()) }
    }

    /// As [`outline`].
    ///
    /// # Errors
    /// As for [`outline`]; whatever a format in Python raises.
    pub fn outline(&self, message: &Bound<'_, PyAny>) -> PyResult<Outline> {
        match self {
            Self::Shape | Self::Provider(_) => outline(message),
            Self::Python(format) => outline(&python::translate(format.bind(message.py()), message)?),
        }
    }

    /// Whether what counts of `message` is still what it was when `pin` was made.
    ///
    /// # Errors
    /// As for [`Format::outline`].
    pub fn still_has<'py>(&self, message: &Bound<'py, PyAny>, pin: &Bound<'py, PyAny>) -> PyResult<bool> {
        match self {
            // A format in Python may look at anything, and takes its time: only another message is known to be another.
            Self::Python(_) => Ok(message.is(pin)),
            _ => Ok(is_plain_and_unchanged(message, pin)? || self.read(message)?.is_that_of(pin)?),
        }
    }

    /// The pin of a `message` and what was read of it: see [`Reading::pin`].
    ///
    /// # Errors
    /// As for [`Reading::pin`].
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

    /// As [`read`].
    ///
    /// # Errors
    /// As for [`Format::outline`].
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
    let Reading { outline, provider, extras, texts } = Format::from_argument(format)?.read(message)?;
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

/// The outline of a message, for tests: kind, continues, may start.
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
