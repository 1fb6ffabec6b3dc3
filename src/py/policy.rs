//! What is fixed with a history: what counts its texts, what a message counts as, and how messages are read.

use std::convert::Infallible;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::callable::{MOST_TOKENS, as_integer};
use super::counter::{Counting, DETACH_BYTES, TokenCounter, detach};
use super::format::{self, Format, Reading};
use super::strings::type_name;
use crate::core::count::encoding::Ordinary;
use crate::core::item::Outline;
use crate::core::policy::Accounting;
use crate::core::query::{Content, Query};
use std::sync::Arc;

/// What is kept beside a counted message: what was counted of it, by identity.
pub type Pin = Py<PyAny>;

/// Texts joined with the one being counted from which on the GIL is released.
const LONG_RUN: usize = 64;

/// What a message counts as.
pub enum Measure {
    /// LlamaIndex's rule: its text, joined with the others by one space.
    Text,
    /// All that is sent of it.
    Message,
    /// What a callable says.
    Callable(Py<PyAny>),
}

/// A counter, a measure and a format.
pub struct Policy {
    pub counter: Py<TokenCounter>,
    pub measure: Measure,
    pub format: Format,
}

/// What counts of one message.
pub enum Counted<'py> {
    /// The text that is joined, as its pin.
    Text(Bound<'py, PyAny>),
    /// All that is sent.
    Message(Reading<'py>),
    /// What a callable said.
    Tokens(i64),
}

/// What a message costs to count beside its characters, as a number of characters: empty ones take 2 to 6 us each.
const MESSAGE_COST: i64 = 64;

impl Counted<'_> {
    /// What it costs to count it, in characters. A string of a subclass may say any length: it costs more than can be paid.
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
            Self::Tokens(_) => 0,
        };
        characters.saturating_add(MESSAGE_COST)
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        self.is_with_counter(other, other.counter.get())
    }
}

impl Policy {
    /// Whether this is what `other` is with this counter.
    pub fn is_with_counter(&self, other: &Self, counter: &TokenCounter) -> bool {
        let same_measure = match (&self.measure, &other.measure) {
            (Measure::Text, Measure::Text) | (Measure::Message, Measure::Message) => true,
            (Measure::Callable(one), Measure::Callable(other)) => one.is(other),
            _ => false,
        };
        same_measure && self.counter.get().counts_like(counter)
    }
}

impl Measure {
    /// What tokens of messages add up to.
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
                    name.repr()?
                ))),
            };
        }
        if source.is_callable() {
            return Ok(Self::Callable(source.clone().unbind()));
        }
        Err(PyTypeError::new_err(format!(
            "measure must be \"message\", \"text\" or a callable from a message to its tokens; got {}",
            type_name(source)
        )))
    }

    /// What it was made from.
    pub fn source<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self {
            Self::Text => PyString::intern(py, "text").into_any(),
            Self::Message => PyString::intern(py, "message").into_any(),
            Self::Callable(callable) => callable.bind(py).clone(),
        }
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Text => Self::Text,
            Self::Message => Self::Message,
            Self::Callable(callable) => Self::Callable(callable.clone_ref(py)),
        }
    }
}

impl Policy {
    /// The same, and not shared.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        self.with_counter(self.counter.bind(py))
    }

    /// The same with another counter.
    pub fn with_counter(&self, counter: &Bound<'_, TokenCounter>) -> Self {
        let py = counter.py();
        Self {
            counter: counter.clone().unbind(),
            measure: self.measure.clone_ref(py),
            format: self.format.clone_ref(py),
        }
    }

    /// What the rules know of `message`; checks that it can be read.
    pub fn outline(&self, message: &Bound<'_, PyAny>) -> PyResult<Outline> {
        match self.measure {
            Measure::Text => format::text::outline(message),
            _ => self.format.outline(message),
        }
    }

    /// What counts of `message` as it is now.
    pub fn read<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Counted<'py>> {
        match &self.measure {
            Measure::Text => format::text::pin(message).map(Counted::Text),
            Measure::Message => self.format.read(message).map(Counted::Message),
            Measure::Callable(callable) => measured(callable.bind(message.py()), message).map(Counted::Tokens),
        }
    }

    /// What was read of `message` for the core, and the pin: what tells later whether the message is still what was counted.
    /// Where a callable or a format in Python looks at it, that is the message itself.
    pub fn content<'py>(&self, counted: Counted<'py>, message: &Bound<'py, PyAny>) -> PyResult<(Content, Pin)> {
        match counted {
            Counted::Text(pin) => Ok((Content::Joined(format::text::text(&pin)?), pin.unbind())),
            Counted::Message(reading) => {
                let texts = reading.texts.iter().map(format::text_of).collect::<PyResult<Vec<_>>>()?;
                let pin = self.format.pin(&reading, &texts, message)?;
                Ok((Content::Item { texts, constant: reading.overhead() }, pin))
            }
            Counted::Tokens(tokens) => Ok((Content::Measured(tokens), message.clone().unbind())),
        }
    }

    /// What counts of `message` as it is now, for the core, without anything to tell later whether that has changed.
    pub fn content_alone(&self, message: &Bound<'_, PyAny>) -> PyResult<Content> {
        match self.read(message)? {
            Counted::Text(pin) => Ok(Content::Joined(format::text::text(&pin)?)),
            Counted::Message(reading) => {
                let texts = reading.texts.iter().map(format::text_of).collect::<PyResult<Vec<_>>>()?;
                Ok(Content::Item { texts, constant: reading.overhead() })
            }
            Counted::Tokens(tokens) => Ok(Content::Measured(tokens)),
        }
    }

    /// Whether counting is Python's, which may take any time.
    pub fn calls_python(&self) -> bool {
        matches!(self.measure, Measure::Callable(_)) || matches!(self.counter.get().counting(), Counting::Callable(_))
    }

    /// Whether what counts of `message` is still what it was when the pin at the address `mark` was made, as far as that
    /// address tells. `false` asks for [`still_has`](Self::still_has).
    #[inline]
    pub fn surely_has(&self, message: &Bound<'_, PyAny>, mark: usize) -> PyResult<bool> {
        match self.measure {
            Measure::Text => format::text::surely_has(message, mark),
            Measure::Message => self.format.surely_has(message, mark),
            Measure::Callable(_) => Ok(message.as_ptr() as usize == mark),
        }
    }

    /// Whether what counts of `message` is still what it was when `pin` was made.
    pub fn still_has(&self, message: &Bound<'_, PyAny>, pin: &Bound<'_, PyAny>) -> PyResult<bool> {
        match self.measure {
            Measure::Text => format::text::still_has(message, pin),
            Measure::Message => self.format.still_has(message, pin),
            // A callable may look at anything, so only another message is known to be another.
            Measure::Callable(_) => Ok(message.is(pin)),
        }
    }

    /// Whether a measure or format in Python reads messages. It may look at anything.
    pub fn is_read_by_python(&self) -> bool {
        matches!(self.measure, Measure::Callable(_)) || matches!(self.format, Format::Python(_))
    }

    /// Whether two messages with the same texts cost the same beside them: a pin does not always tell whose shape it was.
    pub fn has_shape_of(&self, message: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>) -> bool {
        let overhead = |message: &Bound<'_, PyAny>| match self.measure {
            Measure::Message => self.format.read(message).ok().map(|reading| reading.overhead()),
            _ => Some(0),
        };
        overhead(message).is_some_and(|tokens| Some(tokens) == overhead(other))
    }

    /// Counts what a query has asked for; without the GIL if it is much.
    pub fn feed(
        &self,
        py: Python<'_>,
        query: &mut Query<Arc<Self>, Pin>,
        messages: Vec<(Content, Pin)>,
    ) -> PyResult<()> {
        match self.counter.get().counting() {
            Counting::Native(encoding) => {
                let encoding = *encoding;
                let bytes: usize = messages.iter().map(|(content, _)| content.bytes()).sum();
                let is_little = bytes < DETACH_BYTES && query.held() < LONG_RUN;
                let feed = |query: &mut Query<_, _>| match self.measure {
                    Measure::Text => query.feed(encoding, messages),
                    _ => query.feed(&Ordinary(encoding), messages),
                };
                let Ok(()): Result<(), Infallible> =
                    if is_little { feed(query) } else { detach(py, encoding, || feed(query)) };
                Ok(())
            }
            Counting::Callable(callable) => match self.measure {
                Measure::Text => query.feed(&callable.bind(py), messages),
                _ => query.feed(&callable.bind_ordinary(py), messages),
            },
        }
    }

    /// Tokens of one message alone.
    pub fn count(&self, message: &Bound<'_, PyAny>) -> PyResult<i64> {
        let py = message.py();
        let (content, _pin) = self.content(self.read(message)?, message)?;
        match (self.counter.get().counting(), &self.measure) {
            (Counting::Native(encoding), measure) => {
                let encoding = *encoding;
                let tokens = || match measure {
                    Measure::Text => content.tokens(encoding),
                    _ => content.tokens(&Ordinary(encoding)),
                };
                let Ok(tokens) = if content.bytes() < DETACH_BYTES { tokens() } else { detach(py, encoding, tokens) };
                Ok(tokens)
            }
            (Counting::Callable(callable), Measure::Text) => content.tokens(&callable.bind(py)),
            (Counting::Callable(callable), _) => content.tokens(&callable.bind_ordinary(py)),
        }
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.counter)?;
        if let Measure::Callable(callable) = &self.measure {
            visit.call(callable)?;
        }
        self.format.traverse(visit)
    }
}

/// What a callable says that `message` counts as.
fn measured(callable: &Bound<'_, PyAny>, message: &Bound<'_, PyAny>) -> PyResult<i64> {
    let tokens = callable.call1((message,))?;
    // A number of thousands of digits has no repr.
    let shown = || tokens.repr().map_or_else(|_| "one that cannot be shown".to_owned(), |repr| repr.to_string());
    let count = as_integer(&tokens)?;
    let Some(count) = count else {
        return Err(PyTypeError::new_err(format!(
            "a measure must return a message's tokens as an integer, got {} ({})",
            shown(),
            type_name(&tokens)
        )));
    };
    match count.extract::<i64>() {
        Ok(count @ 0..=MOST_TOKENS) => Ok(count),
        Err(error) if !error.is_instance_of::<PyOverflowError>(tokens.py()) => Err(error),
        _ => Err(PyValueError::new_err(format!(
            "a measure must return between 0 and 2**40 tokens for a message, got {}",
            shown()
        ))),
    }
}
