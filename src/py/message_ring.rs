//! `MessageRing`: arguments in, [`SharedHistory`] called, lists out.

use std::num::NonZeroUsize;
use std::sync::Arc;

use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyList, PySlice, PyString, PyTuple, PyType};
use pyo3::{IntoPyObjectExt, intern};

use super::arguments::{self, boolean, integer, limit, out_of_range, position, ratio};
use super::counter::TokenCounter;
use super::format::Format;
use super::policy::{Measure, Policy};
use super::shared_history::{SharedHistory, Slot, Window};
use super::strings::type_name;
use super::turns::Turns;
use crate::core::error::Error;
use crate::core::history::{Bounds, Standing};
use crate::core::item::{Kind, Outline};
use crate::core::policy::{Limits, Rule, StartOn};

/// Tokens that a window may have if nobody says otherwise, as in LlamaIndex's `ChatMemoryBuffer`.
const DEFAULT_TOKEN_LIMIT: i64 = 3000;

/// A chat history, and the last messages of it that fit a token limit. See the stub for what Python sees.
#[pyclass(frozen, generic, subclass, weakref, module = "chatring._core")]
pub struct MessageRing {
    /// What windows may have if a call does not say otherwise.
    limits: Limits,
    policy: Arc<Policy>,
    history: SharedHistory,
}

/// What is pickled beside the arguments: [`STATE_VERSION`], the messages, a byte for the outline of each, where they stand,
/// and what a subclass added: the attributes of its dict, and those of its slots.
type State<'py> = (u32, Bound<'py, PyList>, Bound<'py, PyBytes>, Place, Option<Bound<'py, PyDict>>, Bound<'py, PyDict>);

/// The fields of a [`Standing`], in their order.
type Place = (usize, Option<u64>, u64, bool, Option<u64>, Option<u8>, Option<i64>);

/// What `__reduce__` returns: what makes the ring, from which arguments, and its state.
type Reduced<'py> = (Bound<'py, PyAny>, (Bound<'py, PyType>, Bound<'py, PyAny>, Bound<'py, PyAny>), Bound<'py, PyAny>);

/// Grows when [`State`] changes, so that a state of another release is refused in words.
const STATE_VERSION: u32 = 2;

/// What one call asks for, in place of what the ring has.
#[derive(Default)]
struct Asked<'a, 'py> {
    initial_token_count: Option<&'a Bound<'py, PyAny>>,
    token_limit: Option<&'a Bound<'py, PyAny>>,
    counter: Option<&'a Bound<'py, PyAny>>,
    include_system: Option<&'a Bound<'py, PyAny>>,
    retention_ratio: Option<&'a Bound<'py, PyAny>>,
}

impl MessageRing {
    fn find<'py>(&self, py: Python<'py>, asked: &Asked<'_, 'py>, verify: bool) -> PyResult<Window> {
        let limits = Limits {
            token_limit: asked.token_limit.map_or(Ok(self.limits.token_limit), limit)?,
            initial_token_count: asked
                .initial_token_count
                .map_or(Ok(0), |count| integer(count, "initial_token_count"))?,
            include_system: asked
                .include_system
                .map_or(Ok(self.limits.include_system), |value| boolean(value, "include_system"))?,
            retention_ratio: asked.retention_ratio.map_or(Ok(self.limits.retention_ratio), ratio)?,
            all: false,
        };
        if limits.initial_token_count > limits.token_limit {
            let (initial, limit) = (limits.initial_token_count, limits.token_limit);
            return Err(Error::InitialExceedsLimit { initial, limit }.into());
        }
        check_options(&self.policy.measure, None, &limits)?;
        let other = self.policy_of(asked.counter)?;
        self.history.window(py, other.as_ref().unwrap_or(&self.policy), limits, verify)
    }

    /// The policy of another counter; `None` for the ring's own.
    fn policy_of(&self, counter: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Arc<Policy>>> {
        let other = counter.map(TokenCounter::from_source).transpose()?;
        let other = other.filter(|other| !other.get().counts_like(self.policy.counter.get()));
        Ok(other.map(|counter| Arc::new(self.policy.with_counter(&counter))))
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

/// LlamaIndex's rule goes with nothing else.
pub fn check_options(measure: &Measure, start_on: Option<StartOn>, limits: &Limits) -> Result<(), Error> {
    let is_other = start_on == Some(StartOn::User) || limits.include_system || limits.retention_ratio < 1.0;
    if matches!(measure, Measure::Text) && is_other { Err(Error::OptionsOfText) } else { Ok(()) }
}

#[pymethods]
impl MessageRing {
    #[new]
    #[pyo3(
        signature = (
            token_limit = None, counter = None, *, measure = None, start_on = None, include_system = None,
            retention_ratio = None, max_messages = None, format = None
        ),
        text_signature = "(token_limit=3000, counter='o200k_base', *, measure='message', start_on='user', \
                          include_system=True, retention_ratio=1.0, max_messages=None, format=None)"
    )]
    #[expect(clippy::too_many_arguments, reason = "all but the first two by name")]
    pub fn py_new(
        py: Python<'_>,
        token_limit: Option<&Bound<'_, PyAny>>,
        counter: Option<&Bound<'_, PyAny>>,
        measure: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = arguments::start_on)] start_on: Option<StartOn>,
        include_system: Option<&Bound<'_, PyAny>>,
        retention_ratio: Option<&Bound<'_, PyAny>>,
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
        let is_text = matches!(measure, Measure::Text);
        let limits = Limits {
            token_limit,
            initial_token_count: 0,
            include_system: include_system.map_or(Ok(!is_text), |value| boolean(value, "include_system"))?,
            retention_ratio: retention_ratio.map_or(Ok(1.0), ratio)?,
            all: false,
        };
        check_options(&measure, start_on, &limits)?;
        let rule = Rule {
            accounting: measure.accounting(),
            start_on: start_on.unwrap_or(if is_text { StartOn::Any } else { StartOn::User }),
        };
        let bounds = Bounds { rule, max_messages: bound, keep_head: limits.include_system };
        let policy = Arc::new(Policy { counter: counter.unbind(), measure, format });
        Ok(Self { limits, policy, history: SharedHistory::new(bounds) })
    }

    #[getter]
    fn token_limit(&self) -> i64 {
        self.limits.token_limit
    }

    #[getter]
    fn start_on(&self) -> Option<&'static str> {
        match self.history.bounds().rule.start_on {
            StartOn::Any => None,
            StartOn::User => Some("user"),
        }
    }

    #[getter]
    fn include_system(&self) -> bool {
        self.limits.include_system
    }

    #[getter]
    fn retention_ratio(&self) -> f64 {
        self.limits.retention_ratio
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
        self.history.bounds().max_messages.map(NonZeroUsize::get)
    }

    #[pyo3(signature = (message, /))]
    fn put(&self, message: Bound<'_, PyAny>) -> PyResult<()> {
        drop(self.history.put(std::iter::once(self.slot(message)?)));
        Ok(())
    }

    #[pyo3(signature = (messages, /))]
    pub fn put_messages(&self, messages: &Bound<'_, PyAny>) -> PyResult<()> {
        drop(self.history.put(self.slots(messages)?.into_iter()));
        Ok(())
    }

    #[pyo3(signature = (messages, /))]
    fn _put_messages<'py>(&self, py: Python<'py>, messages: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.history.put(self.slots(messages)?.into_iter()))
    }

    #[pyo3(signature = (messages, /))]
    fn set(&self, messages: &Bound<'_, PyAny>) -> PyResult<()> {
        self.history.replace(messages.py(), self.slots(messages)?)
    }

    #[pyo3(signature = (
        *, initial_token_count = None, token_limit = None, counter = None, include_system = None,
        retention_ratio = None, verify = true
    ))]
    #[expect(clippy::too_many_arguments, reason = "all by name")]
    fn get<'py>(
        &self,
        py: Python<'py>,
        initial_token_count: Option<&Bound<'py, PyAny>>,
        token_limit: Option<&Bound<'py, PyAny>>,
        counter: Option<&Bound<'py, PyAny>>,
        include_system: Option<&Bound<'py, PyAny>>,
        retention_ratio: Option<&Bound<'py, PyAny>>,
        verify: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let asked = Asked { initial_token_count, token_limit, counter, include_system, retention_ratio };
        PyList::new(py, self.find(py, &asked, verify)?.messages)
    }

    #[pyo3(signature = (
        *, initial_token_count = None, token_limit = None, counter = None, include_system = None,
        retention_ratio = None, verify = true
    ))]
    #[expect(clippy::too_many_arguments, reason = "all by name")]
    pub fn window<'py>(
        &self,
        py: Python<'py>,
        initial_token_count: Option<&Bound<'py, PyAny>>,
        token_limit: Option<&Bound<'py, PyAny>>,
        counter: Option<&Bound<'py, PyAny>>,
        include_system: Option<&Bound<'py, PyAny>>,
        retention_ratio: Option<&Bound<'py, PyAny>>,
        verify: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let asked = Asked { initial_token_count, token_limit, counter, include_system, retention_ratio };
        let mut window = self.find(py, &asked, verify)?;
        if window.tokens.is_none()
            && let [message] = window.messages.as_slice()
        {
            // The last message does not fit, so it was not counted.
            let other = self.policy_of(counter)?;
            window.tokens = Some(other.as_ref().unwrap_or(&self.policy).count(message.bind(py))?);
        }
        window.into_python(py)
    }

    #[pyo3(signature = (start, stop, /))]
    fn slice<'py>(
        &self,
        py: Python<'py>,
        start: &Bound<'py, PyAny>,
        stop: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let [start, stop] = [(start, "start"), (stop, "stop")].map(|(value, name)| {
            let position = integer(value, name)?;
            u64::try_from(position).map_err(|_| PyErr::from(Error::Position { name, position }))
        });
        let messages = self.history.slice(py, start?..stop?);
        PyList::new(
            py,
            messages.map_err(|position| {
                PyIndexError::new_err(format!(
                    "the message at position {position} has left: max_messages has no room for it"
                ))
            })?,
        )
    }

    #[pyo3(signature = (messages, /))]
    fn set_head(&self, messages: &Bound<'_, PyAny>) -> PyResult<()> {
        if matches!(self.policy.measure, Measure::Text) {
            return Err(Error::OptionsOfText.into());
        }
        let head = self.slots(messages)?;
        if let Some(index) = head.iter().position(|(_, outline)| outline.kind != Kind::System) {
            return Err(PyValueError::new_err(format!(
                "the head has system and developer messages only; number {index} of those given is not one"
            )));
        }
        self.history.set_head(head);
        Ok(())
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
        let other = (!own).then(|| Arc::new(self.policy.with_counter(counter)));
        let policy = other.as_ref().unwrap_or(&self.policy);
        let window = match most {
            None => Some(self.history.window(py, policy, Limits::of(allowance), true)?),
            Some(most) => self.history.window_for(py, policy, Limits::of(allowance), most)?,
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

    fn reset(&self) {
        self.history.clear();
    }

    fn pop(&self) -> PyResult<Py<PyAny>> {
        self.history.pop().ok_or_else(|| PyIndexError::new_err("pop from an empty ring"))
    }

    #[pyo3(signature = (index, /))]
    fn delete(&self, index: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let removed = match position(index)? {
            Some(place) => self.history.remove(place),
            None => Err(self.history.len()),
        };
        removed.map_err(|length| out_of_range(index, length))
    }

    #[pyo3(signature = (*, counter = None))]
    fn token_count<'py>(&self, py: Python<'py>, counter: Option<&Bound<'py, PyAny>>) -> PyResult<i64> {
        let other = self.policy_of(counter)?;
        Ok(self
            .history
            .window(py, other.as_ref().unwrap_or(&self.policy), Limits::ALL, true)?
            .tokens
            .unwrap_or_default())
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
        let bound = self.max_messages().map_or(String::new(), |bound| format!(", max_messages={bound}"));
        format!(
            "MessageRing(token_limit={}, counter={name:?}, measure={measure}{bound}) of {} messages",
            self.limits.token_limit,
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
        keywords.set_item(intern!(py, "start_on"), self.start_on())?;
        keywords.set_item(intern!(py, "include_system"), self.include_system())?;
        keywords.set_item(intern!(py, "retention_ratio"), self.retention_ratio())?;
        keywords.set_item(intern!(py, "max_messages"), self.max_messages())?;
        keywords.set_item(intern!(py, "format"), self.format(py))?;
        Ok(((self.limits.token_limit, &self.policy.counter).into_bound_py_any(py)?, keywords))
    }

    fn __getstate__<'py>(slf: &Bound<'py, Self>) -> PyResult<State<'py>> {
        let (py, this) = (slf.py(), slf.get());
        let (slots, standing) = this.history.standing(py, &this.policy);
        let (messages, outlines): (Vec<_>, Vec<_>) =
            slots.into_iter().map(|(message, outline)| (message, outline.to_byte())).unzip();
        let outlines = PyBytes::new(py, &outlines);
        let Standing { head, question, first, is_whole, left_from, gone, evicted } = standing;
        let place = (head, question, first, is_whole, left_from, gone.map(Outline::to_byte), evicted);
        Ok((STATE_VERSION, PyList::new(py, messages)?, outlines, place, dict_of(slf)?, slots_of(slf)?))
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
        let (_, messages, outlines, place, attributes, in_slots): State<'_> = state.extract()?;
        let outlines: Option<Vec<Outline>> = outlines.as_bytes().iter().map(|&byte| Outline::from_byte(byte)).collect();
        let Some(outlines) = outlines.filter(|outlines| outlines.len() == messages.len()) else {
            return Err(PyValueError::new_err(format!(
                "the state of a ring must have a byte below 16 for each of its {} messages; this one is damaged",
                messages.len()
            )));
        };
        let slots = messages.iter().map(Bound::unbind).zip(outlines).collect();
        let (head, question, first, is_whole, left_from, gone, evicted) = place;
        let gone = gone.and_then(Outline::from_byte);
        let standing = Standing { head, question, first, is_whole, left_from, gone, evicted };
        let this = slf.get();
        if !this.history.restore(slots, standing, &this.policy) {
            return Err(PyValueError::new_err(format!(
                "the state of a ring says where its messages stand; {place:?} is damaged"
            )));
        }
        add_attributes(slf, attributes.as_ref(), &in_slots)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.history.traverse(&self.policy, &visit)
    }

    fn __clear__(&self) {
        self.history.clear();
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
