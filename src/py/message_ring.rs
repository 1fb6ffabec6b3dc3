//! `MessageRing`: arguments in, [`SharedHistory`] called, lists out.

use std::num::NonZeroUsize;
use std::sync::Arc;

use pyo3::exceptions::{PyIndexError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyInt, PyIterator, PyList, PySlice, PyString, PyTuple, PyType};
use pyo3::{IntoPyObjectExt, intern};

use super::counter::TokenCounter;
use super::format::Format;
use super::strings::type_name;
use super::policy::{Measure, Policy};
use super::shared_history::{SharedHistory, Slot, Window};
use super::turns::Turns;
use crate::core::error::Error;
use crate::core::item::Outline;

/// Tokens that a window may have if nobody says otherwise, as in LlamaIndex's `ChatMemoryBuffer`.
const DEFAULT_TOKEN_LIMIT: i64 = 3000;

/// A chat history, and the last messages of it that fit a token limit. See the stub for what Python sees.
#[pyclass(frozen, generic, subclass, weakref, module = "chatring._core")]
pub struct MessageRing {
    #[pyo3(get)]
    token_limit: i64,
    policy: Arc<Policy>,
    history: SharedHistory,
}

/// What is pickled beside the arguments: [`STATE_VERSION`], the messages, a byte for the outline of each, and what a
/// subclass added: the attributes of its dict, and those of its slots.
type State<'py> = (u32, Bound<'py, PyList>, Bound<'py, PyBytes>, Option<Bound<'py, PyDict>>, Bound<'py, PyDict>);

/// What `__reduce__` returns: what makes the ring, from which arguments, and its state.
type Reduced<'py> = (Bound<'py, PyAny>, (Bound<'py, PyType>, Bound<'py, PyAny>, Bound<'py, PyAny>), Bound<'py, PyAny>);

/// Grows when [`State`] changes, so that a state of another release is refused in words.
const STATE_VERSION: u32 = 1;

impl MessageRing {
    fn window<'py>(
        &self,
        py: Python<'py>,
        token_limit: i64,
        initial_token_count: i64,
        counter: Option<&Bound<'py, PyAny>>,
        verify: bool,
    ) -> PyResult<Window> {
        if initial_token_count > token_limit {
            return Err(Error::InitialExceedsLimit { initial: initial_token_count, limit: token_limit }.into());
        }
        let other = counter.map(TokenCounter::from_source).transpose()?;
        let other = other.filter(|other| !other.get().counts_like(self.policy.counter.get()));
        let other = other.map(|counter| self.history.policy_with(&self.policy, &counter));
        let allowance = token_limit.saturating_sub(initial_token_count);
        self.history.window(py, other.as_ref().unwrap_or(&self.policy), allowance, verify)
    }

    fn slot(&self, message: Bound<'_, PyAny>) -> PyResult<Slot> {
        let outline = self.policy.outline(&message)?;
        Ok((message.unbind(), outline))
    }

    /// Checks every message before any is stored.
    fn slots(&self, messages: &Bound<'_, PyAny>) -> PyResult<Vec<Slot>> {
        if messages.is_instance_of::<PyDict>() || messages.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err(format!(
                "messages must be an iterable of messages, got one {}",
                type_name(messages)
            )));
        }
        let mut turns = Turns::new(messages.py());
        let mut slots = Vec::with_capacity(messages.len().unwrap_or_default().min(1 << 20));
        for message in messages.try_iter()? {
            slots.push(self.slot(message?)?);
            turns.item_done();
        }
        Ok(slots)
    }
}

#[pymethods]
impl MessageRing {
    #[new]
    #[pyo3(
        signature = (token_limit = None, counter = None, *, measure = None, max_messages = None, format = None),
        text_signature = "(token_limit=3000, counter='o200k_base', *, measure='message', max_messages=None, format=None)"
    )]
    fn py_new(
        py: Python<'_>,
        token_limit: Option<&Bound<'_, PyAny>>,
        counter: Option<&Bound<'_, PyAny>>,
        measure: Option<&Bound<'_, PyAny>>,
        max_messages: Option<&Bound<'_, PyAny>>,
        format: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let token_limit = token_limit.map_or(Ok(DEFAULT_TOKEN_LIMIT), limit)?;
        let bound = max_messages.map(|bound| integer(bound, "max_messages")).transpose()?;
        let bound = bound
            .map(|bound| {
                let size = usize::try_from(bound).ok().and_then(NonZeroUsize::new);
                size.ok_or(Error::MaxMessages { bound })
            })
            .transpose()?;
        let counter = match counter {
            Some(counter) => TokenCounter::from_source(counter)?,
            None => TokenCounter::from_source(intern!(py, "o200k_base").as_any())?,
        };
        let measure = measure.map_or(Ok(Measure::Message), Measure::from_source)?;
        let format = Format::from_argument(format)?;
        if matches!((&measure, &format), (Measure::Text, Format::Provider(_) | Format::Python(_))) {
            return Err(Error::FormatOfText.into());
        }
        let policy = Arc::new(Policy { counter: counter.unbind(), measure, format });
        Ok(Self { token_limit, policy, history: SharedHistory::new(bound) })
    }

    #[getter]
    fn counter<'py>(&self, py: Python<'py>) -> Bound<'py, TokenCounter> {
        self.policy.counter.bind(py).clone()
    }

    #[getter]
    fn measure<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.policy.measure.source(py)
    }

    #[getter]
    fn format<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.policy.format.argument(py)
    }

    #[getter]
    fn max_messages(&self) -> Option<usize> {
        self.history.bound().map(NonZeroUsize::get)
    }

    #[pyo3(signature = (message, /))]
    fn put(&self, message: Bound<'_, PyAny>) -> PyResult<()> {
        let mut turns = Turns::new(message.py());
        drop(self.history.put(&mut turns, std::iter::once(self.slot(message)?)));
        Ok(())
    }

    #[pyo3(signature = (messages, /))]
    fn put_messages(&self, messages: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut turns = Turns::new(messages.py());
        let evicted = self.history.put(&mut turns, self.slots(messages)?.into_iter());
        turns.drop_all(evicted);
        Ok(())
    }

    #[pyo3(signature = (messages, /))]
    fn _put_messages<'py>(&self, py: Python<'py>, messages: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.history.put(&mut Turns::new(py), self.slots(messages)?.into_iter()))
    }

    #[pyo3(signature = (messages, /))]
    fn set(&self, messages: &Bound<'_, PyAny>) -> PyResult<()> {
        self.history.replace(messages.py(), self.slots(messages)?)
    }

    #[pyo3(signature = (*, initial_token_count = None, token_limit = None, counter = None, verify = true))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        initial_token_count: Option<&Bound<'py, PyAny>>,
        token_limit: Option<&Bound<'py, PyAny>>,
        counter: Option<&Bound<'py, PyAny>>,
        verify: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let limit = token_limit.map_or(Ok(self.token_limit), limit)?;
        let initial = initial_token_count.map_or(Ok(0), |count| integer(count, "initial_token_count"))?;
        PyList::new(py, self.window(py, limit, initial, counter, verify)?.messages)
    }

    /// For the adapter of LlamaIndex: by position, which takes half the time of names, and with an allowance that may be 0.
    /// `None` if more would have to be counted than `most` characters, or anything at all by a callable.
    #[pyo3(signature = (allowance, counter, most = None, /))]
    fn _window<'py>(
        &self,
        py: Python<'py>,
        allowance: i64,
        counter: &Bound<'py, TokenCounter>,
        most: Option<i64>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        if allowance < 0 {
            return Err(Error::Allowance { allowance }.into());
        }
        let own = counter.get().counts_like(self.policy.counter.get());
        let other = (!own).then(|| self.history.policy_with(&self.policy, counter));
        let policy = other.as_ref().unwrap_or(&self.policy);
        let window = match most {
            None => Some(self.history.window(py, policy, allowance, true)?),
            Some(most) => self.history.window_for(py, policy, allowance, most)?,
        };
        window.map(|window| PyList::new(py, window.messages)).transpose()
    }

    #[pyo3(signature = (message, /))]
    fn count(&self, message: &Bound<'_, PyAny>) -> PyResult<i64> {
        self.policy.outline(message)?;
        self.policy.count(message)
    }

    fn get_all<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.history.messages(py))
    }

    fn reset(&self, py: Python<'_>) {
        self.history.clear(Some(&mut Turns::new(py)));
    }

    fn pop(&self) -> PyResult<Py<PyAny>> {
        self.history.pop().ok_or_else(|| PyIndexError::new_err("pop from an empty ring"))
    }

    #[pyo3(signature = (index, /))]
    fn delete(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let removed = match position(index)? {
            Some(place) => self.history.remove(py, place),
            None => Err(self.history.len()),
        };
        removed.map_err(|length| out_of_range(index, length))
    }

    #[pyo3(signature = (*, counter = None))]
    fn token_count<'py>(&self, py: Python<'py>, counter: Option<&Bound<'py, PyAny>>) -> PyResult<i64> {
        let window = self.window(py, i64::MAX, 0, counter, true)?;
        Turns::new(py).drop_all(window.messages);
        Ok(window.tokens.unwrap_or_default())
    }

    fn recount(&self, py: Python<'_>) -> PyResult<()> {
        self.history.recount(py, &self.policy)
    }

    fn __len__(&self) -> usize {
        self.history.len()
    }

    /// An empty ring is a ring: `ring or MessageRing()` must keep it.
    #[expect(clippy::unused_self, reason = "a method of Python's protocol")]
    fn __bool__(&self) -> bool {
        true
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if let Ok(slice) = index.cast::<PySlice>() {
            let places = slice.indices(self.history.len() as isize)?;
            if places.step != 1 {
                return self.get_all(py)?.as_any().get_item(index);
            }
            // Not by way of a list of all messages: that of a long history takes milliseconds.
            let messages = self.history.messages_at(py, places.start as usize, places.slicelength);
            return Ok(PyList::new(py, messages)?.into_any());
        }
        let message = match position(index)? {
            Some(place) => self.history.message(py, place),
            None => Err(self.history.len()),
        };
        Ok(message.map_err(|length| out_of_range(index, length))?.into_bound(py))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.get_all(py)?.try_iter()
    }

    fn __repr__(&self) -> String {
        let name = self.policy.counter.get().name();
        let measure = match &self.policy.measure {
            Measure::Text => "\"text\"",
            Measure::Message => "\"message\"",
            Measure::Callable(_) => "a callable",
        };
        let bound = self.history.bound().map_or(String::new(), |bound| format!(", max_messages={bound}"));
        format!(
            "MessageRing(token_limit={}, counter={name:?}, measure={measure}{bound}) of {} messages",
            self.token_limit,
            self.history.len()
        )
    }

    /// A ring of the same messages that starts with the same counts.
    fn __copy__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let (make, arguments) = making(slf)?;
        let copy = make.call1(arguments)?.cast_into::<Self>()?;
        copy.get().history.become_copy_of(&slf.get().history, py);
        add_attributes(&copy, dict_of(slf)?.as_ref(), &slots_of(slf)?)?;
        Ok(copy)
    }

    /// Pickled and deep-copied as its arguments, its messages and what a subclass added; counts are made anew.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let (make, arguments) = making(slf)?;
        Ok((make, arguments, slf.call_method0(intern!(slf.py(), "__getstate__"))?))
    }

    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyDict>)> {
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "measure"), self.measure(py))?;
        keywords.set_item(intern!(py, "max_messages"), self.max_messages())?;
        keywords.set_item(intern!(py, "format"), self.format(py))?;
        Ok(((self.token_limit, &self.policy.counter).into_bound_py_any(py)?, keywords))
    }

    fn __getstate__<'py>(slf: &Bound<'py, Self>) -> PyResult<State<'py>> {
        let (py, this) = (slf.py(), slf.get());
        let (messages, outlines): (Vec<_>, Vec<_>) =
            this.history.slots(py).into_iter().map(|(message, outline)| (message, outline.to_byte())).unzip();
        let outlines = PyBytes::new(py, &outlines);
        Ok((STATE_VERSION, PyList::new(py, messages)?, outlines, dict_of(slf)?, slots_of(slf)?))
    }

    // Does not look into the messages: in a cycle they may not have got their own state yet.
    #[pyo3(signature = (state, /))]
    fn __setstate__(slf: &Bound<'_, Self>, state: &Bound<'_, PyAny>) -> PyResult<()> {
        let version = state.cast::<PyTuple>().ok().and_then(|state| state.get_item(0).ok());
        if !version.is_some_and(|version| version.extract().is_ok_and(|version: u32| version == STATE_VERSION)) {
            return Err(PyValueError::new_err(format!(
                "the state of a ring begins with its version, {STATE_VERSION}; this one was made by another release of chatring"
            )));
        }
        let (_, messages, outlines, attributes, in_slots): State<'_> = state.extract()?;
        let outlines: Option<Vec<Outline>> = outlines.as_bytes().iter().map(|&byte| Outline::from_byte(byte)).collect();
        let Some(outlines) = outlines.filter(|outlines| outlines.len() == messages.len()) else {
            return Err(PyValueError::new_err(format!(
                "the state of a ring must have a byte below 16 for each of its {} messages; this one is damaged",
                messages.len()
            )));
        };
        add_attributes(slf, attributes.as_ref(), &in_slots)?;
        let slots = messages.iter().map(Bound::unbind).zip(outlines);
        slf.get().history.replace(slf.py(), slots.collect())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.history.traverse(&self.policy, &visit)
    }

    fn __clear__(&self) {
        self.history.clear(None);
    }
}

/// What calls a class's `__new__`, and its arguments: the class, those by position and those by name.
type Making<'py> = (Bound<'py, PyAny>, (Bound<'py, PyType>, Bound<'py, PyAny>, Bound<'py, PyAny>));

/// What makes an empty ring like this one; a subclass may have other arguments. Not left to `object`, which knows no way
/// under the pickle protocols 0 and 1.
fn making<'py>(ring: &Bound<'py, MessageRing>) -> PyResult<Making<'py>> {
    let py = ring.py();
    let (arguments, keywords) = ring.call_method0(intern!(py, "__getnewargs_ex__"))?.extract()?;
    let make = py.import("copyreg")?.getattr("__newobj_ex__")?;
    Ok((make, (ring.get_type(), arguments, keywords)))
}

/// The attributes that a subclass keeps in its dict, if it has one.
fn dict_of<'py>(ring: &Bound<'py, MessageRing>) -> PyResult<Option<Bound<'py, PyDict>>> {
    Ok(ring.getattr_opt(intern!(ring.py(), "__dict__"))?.map(Bound::cast_into).transpose()?)
}

/// The attributes that a subclass keeps in its `__slots__`, found as the interpreter's own `object.__reduce_ex__` does.
fn slots_of<'py>(ring: &Bound<'py, MessageRing>) -> PyResult<Bound<'py, PyDict>> {
    let py = ring.py();
    let attributes = PyDict::new(py);
    for name in py.import("copyreg")?.call_method1("_slotnames", (ring.get_type(),))?.try_iter()? {
        let name = name?.cast_into::<PyString>()?;
        if let Some(value) = ring.getattr_opt(&name)? {
            attributes.set_item(name, value)?;
        }
    }
    Ok(attributes)
}

fn add_attributes(
    ring: &Bound<'_, MessageRing>,
    attributes: Option<&Bound<'_, PyDict>>,
    in_slots: &Bound<'_, PyDict>,
) -> PyResult<()> {
    if let Some(attributes) = attributes {
        ring.getattr(intern!(ring.py(), "__dict__"))?.cast::<PyDict>()?.update(attributes.as_mapping())?;
    }
    in_slots.iter().try_for_each(|(name, value)| ring.setattr(name.cast::<PyString>()?, value))
}

fn limit(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    let limit = integer(value, "token_limit")?;
    if limit < 1 { Err(Error::TokenLimit { limit }.into()) } else { Ok(limit) }
}

/// An integer argument. A bool is one in Python, but never meant as one here.
fn integer(value: &Bound<'_, PyAny>, name: &str) -> PyResult<i64> {
    if !value.is_instance_of::<PyInt>() || value.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(format!(
            "{name} must be an integer, got {} ({})",
            value.repr()?,
            type_name(value)
        )));
    }
    value.extract().map_err(|_| {
        let shown = value.str().map_or_else(|_| "one of thousands of digits".to_owned(), |value| value.to_string());
        PyValueError::new_err(format!("{name} must be between -2**63 and 2**63 - 1, got {shown}"))
    })
}

/// An index, counted from the newest if negative; `None` if it is too large for any ring.
fn position(index: &Bound<'_, PyAny>) -> PyResult<Option<isize>> {
    let py = index.py();
    match index.extract() {
        Ok(index) => Ok(Some(index)),
        Err(error) if error.is_instance_of::<PyOverflowError>(py) => Ok(None),
        Err(error) if error.is_instance_of::<PyTypeError>(py) => {
            Err(PyTypeError::new_err(format!("an index must be an integer or a slice, got {}", type_name(index))))
        }
        Err(error) => Err(error),
    }
}

fn out_of_range(index: &Bound<'_, PyAny>, length: usize) -> PyErr {
    let shown = index.str().map_or_else(|_| "of thousands of digits".to_owned(), |index| index.to_string());
    PyIndexError::new_err(format!("index {shown} is out of range for a ring of {length} messages"))
}
