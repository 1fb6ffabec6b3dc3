//! What is fixed with a history: the counter, the measure, and how messages are read.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::callable::{MOST_TOKENS, as_integer};
use super::counter::{BoundCounter, DETACH_BYTES, TokenCounter, detach, detach_if_much};
use super::format::{self, Format, Reading};
use super::strings::{shown, to_text, type_name};
use crate::core::count::encoding::Special;
use crate::core::error::Error;
use crate::core::item::Outline;
use crate::core::policy::Accounting;
use crate::core::query::{Content, Query};

/// What is kept beside a counted message, by identity, to tell later whether it has changed.
pub type Pin = Py<PyAny>;

/// Texts joined with the one being counted, from which counting releases the GIL.
const LONG_RUN: usize = 64;

/// What a message counts as.
pub enum Measure {
    /// LlamaIndex's rule: its text, joined to the others by one space.
    Text,
    /// Everything that is sent.
    Message,
    /// The texts of LlamaIndex's messages, each by itself: see [`format::blocks`].
    Blocks(Py<BlockMeasure>),
    /// What a callable returns.
    Callable(Py<PyAny>),
}

/// The estimate of LlamaIndex's `Memory`. See the stub for what Python sees.
#[pyclass(frozen, name = "_BlockMeasure", module = "chatring._core")]
pub struct BlockMeasure {
    /// Identifies the measure.
    name: String,
    /// Measures messages that are more than texts.
    others: Py<PyAny>,
}

#[pymethods]
impl BlockMeasure {
    #[new]
    #[pyo3(signature = (name, others, /))]
    fn py_new(name: String, others: Bound<'_, PyAny>) -> Self {
        Self { name, others: others.unbind() }
    }

    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.others)
    }
}

/// A counter, a measure and a format.
pub struct Policy {
    pub counter: Py<TokenCounter>,
    pub measure: Measure,
    pub format: Format,
}

/// What one message counts as.
pub enum Countable<'py> {
    /// The text that is joined, as its pin.
    Text(Bound<'py, PyAny>),
    /// Everything that is sent.
    Message(Reading<'py>),
    /// Texts, each by itself.
    Texts(Vec<Bound<'py, PyString>>),
    /// What a callable returned.
    Tokens(i64),
}

/// What counting a message costs in addition to its characters, in characters: empty messages take 2 to 6 us each.
const MESSAGE_COST: i64 = 64;

impl Countable<'_> {
    /// What counting it costs, in characters. A subclass of str may claim any length, so it costs more than anyone
    /// allows.
    pub fn cost(&self) -> i64 {
        let length = |text: &Bound<'_, PyAny>| {
            text.cast_exact::<PyString>().ok().and_then(|text| text.len().ok()).map_or(i64::MAX, |length| length as i64)
        };
        let characters = match self {
            Self::Text(pin) => match pin.cast::<PyTuple>() {
                Ok(parts) => parts.iter().fold(0_i64, |sum, part| sum.saturating_add(length(&part))),
                Err(_) if pin.is_none() => 0,
                Err(_) => length(pin),
            },
            Self::Message(reading) => reading.texts.iter().fold(0_i64, |sum, text| sum.saturating_add(length(text))),
            Self::Texts(texts) => texts.iter().fold(0_i64, |sum, text| sum.saturating_add(length(text))),
            Self::Tokens(_) => 0,
        };
        characters.saturating_add(MESSAGE_COST)
    }

    /// What the core counts.
    pub fn content(&self) -> PyResult<Content> {
        Ok(match self {
            Self::Text(pin) => Content::Joined(format::text::text(pin)?),
            Self::Message(reading) => {
                let texts = reading.texts.iter().map(format::text_of).collect::<PyResult<_>>()?;
                Content::Item { texts, constant: reading.overhead() }
            }
            Self::Texts(texts) => {
                Content::Item { texts: texts.iter().map(to_text).collect::<PyResult<_>>()?, constant: 0 }
            }
            Self::Tokens(tokens) => Content::Measured(*tokens),
        })
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.is_with_counter(other, other.counter.get())
    }
}

impl Policy {
    /// Whether this is `other` with this counter.
    pub fn is_with_counter(&self, other: &Self, counter: &TokenCounter) -> bool {
        let same_measure = match (&self.measure, &other.measure) {
            (Measure::Text, Measure::Text) | (Measure::Message, Measure::Message) => true,
            (Measure::Blocks(one), Measure::Blocks(other)) => one.get().name == other.get().name,
            (Measure::Callable(one), Measure::Callable(other)) => one.is(other),
            _ => false,
        };
        same_measure && self.counter.get().counts_like(counter)
    }
}

impl Measure {
    /// How the tokens of messages add up.
    pub fn accounting(&self) -> Accounting {
        if matches!(self, Self::Text) { Accounting::Joined } else { Accounting::Additive }
    }

    /// The measure of this name, or a callable.
    pub fn from_source(source: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(name) = source.cast::<PyString>() {
            return match name.to_str() {
                Ok("text") => Ok(Self::Text),
                Ok("message") => Ok(Self::Message),
                _ => Err(PyValueError::new_err(format!(
                    "measure must be \"message\", \"text\" or a callable from a message to its tokens; got {}",
                    shown(name)
                ))),
            };
        }
        if let Ok(blocks) = source.cast::<BlockMeasure>() {
            return Ok(Self::Blocks(blocks.clone().unbind()));
        }
        if source.is_callable() {
            return Ok(Self::Callable(source.clone().unbind()));
        }
        Err(PyTypeError::new_err(format!(
            "measure must be \"message\", \"text\" or a callable from a message to its tokens; got {}",
            type_name(source)
        )))
    }

    /// What the measure was made from.
    pub fn source<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self {
            Self::Text => intern!(py, "text").clone().into_any(),
            Self::Message => intern!(py, "message").clone().into_any(),
            Self::Blocks(blocks) => blocks.bind(py).clone().into_any(),
            Self::Callable(callable) => callable.bind(py).clone(),
        }
    }

    /// What a special token counts as when it is typed in a text.
    fn special(&self) -> Special {
        match self {
            Self::Text | Self::Blocks(_) => Special::Token,
            Self::Message | Self::Callable(_) => Special::Text,
        }
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Text => Self::Text,
            Self::Message => Self::Message,
            Self::Blocks(blocks) => Self::Blocks(blocks.clone_ref(py)),
            Self::Callable(callable) => Self::Callable(callable.clone_ref(py)),
        }
    }
}

impl Policy {
    /// Everything that a policy is.
    ///
    /// # Errors
    /// For `measure="text"` with a format.
    pub fn new(counter: Bound<'_, TokenCounter>, measure: Measure, format: Format) -> Result<Self, Error> {
        match (&measure, &format) {
            (Measure::Text, Format::Provider(_) | Format::Python(_)) => Err(Error::FormatOfText),
            _ => Ok(Self { counter: counter.unbind(), measure, format }),
        }
    }

    /// A copy that shares nothing.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        self.with_counter(self.counter.bind(py))
    }

    /// A copy with another counter.
    pub fn with_counter(&self, counter: &Bound<'_, TokenCounter>) -> Self {
        let py = counter.py();
        Self {
            counter: counter.clone().unbind(),
            measure: self.measure.clone_ref(py),
            format: self.format.clone_ref(py),
        }
    }

    /// The outline of `message`. Checks that it can be read.
    pub fn outline(&self, message: &Bound<'_, PyAny>) -> PyResult<Outline> {
        match self.measure {
            Measure::Text => format::text::outline(message),
            Measure::Blocks(_) => format::blocks::outline(message),
            _ => self.format.outline(message),
        }
    }

    /// The outline of `message`, and what counts of it, if reading the one reads the other. If not, only the outline is
    /// read: a callable measure is not called.
    pub fn outline_and_countable<'py>(
        &self,
        message: &Bound<'py, PyAny>,
    ) -> PyResult<(Outline, Option<Countable<'py>>)> {
        if !matches!(self.measure, Measure::Message) {
            return Ok((self.outline(message)?, None));
        }
        let reading = self.format.read(message)?;
        Ok((reading.outline, Some(Countable::Message(reading))))
    }

    /// What counts of `message` now.
    pub fn read<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Countable<'py>> {
        match &self.measure {
            Measure::Text => format::text::pin(message).map(Countable::Text),
            Measure::Message => self.format.read(message).map(Countable::Message),
            Measure::Blocks(blocks) => match format::blocks::texts(message)? {
                Some(texts) => Ok(Countable::Texts(texts)),
                None => measured(blocks.get().others.bind(message.py()), message).map(Countable::Tokens),
            },
            Measure::Callable(callable) => measured(callable.bind(message.py()), message).map(Countable::Tokens),
        }
    }

    /// For the core: the content that was read, and the pin, which tells later whether the message is still what was
    /// counted. If a callable or a format in Python looks at the message, the pin is the message itself.
    pub fn content<'py>(&self, counted: Countable<'py>, message: &Bound<'py, PyAny>) -> PyResult<(Content, Pin)> {
        let content = counted.content()?;
        let pin = match (counted, &content) {
            (Countable::Text(pin), _) => pin.unbind(),
            (Countable::Message(reading), Content::Item { texts, .. }) => self.format.pin(&reading, texts, message)?,
            _ => message.clone().unbind(),
        };
        Ok((content, pin))
    }

    /// Whether counting calls Python, which may take any time.
    pub fn calls_python(&self) -> bool {
        matches!(self.measure, Measure::Callable(_)) || !self.counter.get().is_native()
    }

    /// What counts the texts of messages.
    pub fn bound_counter<'py>(&self, py: Python<'py>) -> BoundCounter<'_, 'py> {
        self.counter.get().bind(py, self.measure.special())
    }

    /// Whether what counts of `message` is still what it was when the pin at the address `mark` was made, as far as
    /// that address tells. If `false`, ask [`still_has`](Self::still_has).
    #[inline]
    pub fn surely_has(&self, message: &Bound<'_, PyAny>, mark: usize) -> PyResult<bool> {
        match self.measure {
            Measure::Text => format::text::surely_has(message, mark),
            Measure::Message => self.format.surely_has(message, mark),
            Measure::Blocks(_) | Measure::Callable(_) => Ok(message.as_ptr() as usize == mark),
        }
    }

    /// Whether what counts of `message` is still what it was when `pin` was made.
    pub fn still_has(&self, message: &Bound<'_, PyAny>, pin: &Bound<'_, PyAny>) -> PyResult<bool> {
        match self.measure {
            Measure::Text => format::text::still_has(message, pin),
            Measure::Message => self.format.still_has(message, pin),
            // A callable may look at anything. Only a different object is known to be another message.
            Measure::Blocks(_) | Measure::Callable(_) => Ok(message.is(pin)),
        }
    }

    /// Whether a measure or format in Python reads messages. It may look at anything.
    pub fn is_read_by_python(&self) -> bool {
        matches!(self.measure, Measure::Blocks(_) | Measure::Callable(_)) || matches!(self.format, Format::Python(_))
    }

    /// Whether two messages with the same texts have the same overhead. A pin does not always tell whose shape it was.
    pub fn has_shape_of(&self, message: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>) -> bool {
        let overhead = |message: &Bound<'_, PyAny>| match self.measure {
            Measure::Message => self.format.read(message).ok().map(|reading| reading.overhead()),
            _ => Some(0),
        };
        overhead(message).is_some_and(|tokens| Some(tokens) == overhead(other))
    }

    /// Counts what a query has asked for, without the GIL if that is much.
    pub fn feed<K: Clone + PartialEq + Send, P: Send>(
        &self,
        py: Python<'_>,
        query: &mut Query<K, P>,
        messages: Vec<(Content, P)>,
    ) -> PyResult<()> {
        match self.bound_counter(py) {
            BoundCounter::Native(native) => {
                let bytes: usize = messages.iter().map(|(content, _)| content.bytes()).sum();
                let is_little = bytes < DETACH_BYTES && query.held() < LONG_RUN;
                let feed = |query: &mut Query<_, _>| query.feed(&native, messages);
                let Ok(()) = if is_little { feed(query) } else { detach(py, native.encoding, || feed(query)) };
                Ok(())
            }
            BoundCounter::Callable(callable) => query.feed(&callable, messages),
        }
    }

    /// Tokens of one message alone.
    pub fn count(&self, message: &Bound<'_, PyAny>) -> PyResult<i64> {
        let py = message.py();
        let content = self.read(message)?.content()?;
        match self.bound_counter(py) {
            BoundCounter::Native(native) => {
                let Ok(tokens) = detach_if_much(py, native.encoding, content.bytes(), || content.tokens(&native));
                Ok(tokens)
            }
            BoundCounter::Callable(callable) => content.tokens(&callable),
        }
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.counter)?;
        match &self.measure {
            Measure::Blocks(blocks) => visit.call(blocks)?,
            Measure::Callable(callable) => visit.call(callable)?,
            Measure::Text | Measure::Message => {}
        }
        self.format.traverse(visit)
    }
}

/// What a callable returns as the tokens of `message`.
fn measured(callable: &Bound<'_, PyAny>, message: &Bound<'_, PyAny>) -> PyResult<i64> {
    let tokens = callable.call1((message,))?;
    let Some(count) = as_integer(&tokens)? else {
        return Err(PyTypeError::new_err(format!(
            "a measure must return a message's tokens as an integer, got {} ({})",
            shown(&tokens),
            type_name(&tokens)
        )));
    };
    match count.extract::<i64>() {
        Ok(count @ 0..=MOST_TOKENS) => Ok(count),
        Err(error) if !error.is_instance_of::<PyOverflowError>(tokens.py()) => Err(error),
        _ => Err(PyValueError::new_err(format!(
            "a measure must return between 0 and 2**40 tokens for a message, got {}",
            shown(&tokens)
        ))),
    }
}
