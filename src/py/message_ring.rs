//! `MessageRing`: arguments in, [`SharedHistory`] called, lists out.

use std::num::NonZeroUsize;
use std::sync::Arc;

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyList, PySlice, PyTuple, PyType};
use pyo3::{IntoPyObjectExt, intern};

use super::arguments::{self, Asked, check_is_many, integer, limit, out_of_range, position};
use super::attributes::{add_attributes, dict_of, slots_of, take_back_attributes};
use super::counter::TokenCounter;
use super::format::Format;
use super::policy::{Measure, Policy};
use super::shared_history::{Outlined, SharedHistory, Window};
use super::turns::Turns;
use crate::core::error::Error;
use crate::core::history::{Bounds, Left, Standing};
use crate::core::item::{Kind, Outline};
use crate::core::policy::{Accounting, Limits, Rule, StartOn};

/// The default token limit of a window, as in LlamaIndex's `ChatMemoryBuffer`.
const DEFAULT_TOKEN_LIMIT: i64 = 3000;

#[doc = stub!("MessageRing")]
#[pyclass(frozen, generic, subclass, weakref, module = "chatring")]
pub struct MessageRing {
    /// The limits of a window, unless a call overrides them.
    pub(super) limits: Limits,
    pub(super) policy: Arc<Policy>,
    pub(super) history: SharedHistory,
}

/// What is pickled beside the arguments: [`STATE_VERSION`], the messages, a byte for each outline, where the messages
/// are, and what a subclass added: the attributes in its dict and in its slots.
type State<'py> =
    (u32, Bound<'py, PyList>, Bound<'py, PyBytes>, StandingTuple, Option<Bound<'py, PyDict>>, Bound<'py, PyDict>);

/// The fields of a [`Standing`], in order.
type StandingTuple = (usize, Option<u64>, u64, bool, Option<u64>, Option<u8>, Option<i64>);

/// What `__reduce__` returns: the function that makes the ring, its arguments, and the state.
type Reduced<'py> = (Bound<'py, PyAny>, (Bound<'py, PyType>, Bound<'py, PyAny>, Bound<'py, PyAny>), Bound<'py, PyAny>);

/// Grows when [`State`] changes, so that a state of another release is refused with an explanation.
const STATE_VERSION: u32 = 2;

impl MessageRing {
    fn find<'py>(&self, py: Python<'py>, asked: &Asked<'_, 'py>, verify: bool) -> PyResult<Window> {
        let limits = self.limits_of(asked)?;
        let other = self.policy_of(asked.counter)?;
        self.history.window(py, other.as_ref().unwrap_or(&self.policy), limits, verify)
    }

    /// The same, with its tokens.
    fn find_counted<'py>(&self, py: Python<'py>, asked: &Asked<'_, 'py>, verify: bool) -> PyResult<Window> {
        let window = self.find(py, asked, verify)?;
        window.counted(py, self.policy_of(asked.counter)?.as_ref().unwrap_or(&self.policy))
    }

    /// The window, verified; `None` if more than `most` would have to be counted.
    fn find_for<'py>(
        &self,
        py: Python<'py>,
        limits: Limits,
        counter: &Bound<'py, TokenCounter>,
        most: Option<i64>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let own = counter.get().counts_like(self.policy.counter.get());
        let other = (!own).then(|| Arc::new(self.policy.with_counter(counter)));
        let policy = other.as_ref().unwrap_or(&self.policy);
        let window = match most {
            None => Some(self.history.window(py, policy, limits, true)?),
            Some(most) => self.history.window_for(py, policy, limits, most)?,
        };
        window.map(|window| PyList::new(py, window.messages)).transpose()
    }

    pub(super) fn limits_of(&self, asked: &Asked<'_, '_>) -> PyResult<Limits> {
        asked.limits(&self.limits, self.policy.measure.accounting())
    }

    /// The ring's policy with another counter; `None` for the ring's own.
    fn policy_of(&self, counter: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Arc<Policy>>> {
        let other = counter.map(TokenCounter::from_source).transpose()?;
        let other = other.filter(|other| !other.get().counts_like(self.policy.counter.get()));
        Ok(other.map(|counter| Arc::new(self.policy.with_counter(&counter))))
    }

    fn outlined(&self, message: Bound<'_, PyAny>) -> PyResult<Outlined> {
        let outline = self.policy.outline(&message)?;
        Ok((message.unbind(), outline))
    }

    /// Checks every message before any is stored.
    fn all_outlined(&self, messages: &Bound<'_, PyAny>) -> PyResult<Vec<Outlined>> {
        check_is_many(messages)?;
        let mut turns = Turns::new(messages.py());
        let mut all = Vec::with_capacity(messages.len().unwrap_or_default().min(1 << 20));
        for message in messages.try_iter()? {
            all.push(self.outlined(message?)?);
            turns.item_done();
        }
        Ok(all)
    }
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
        let policy = Policy::new(counter, measure, Format::from_argument(format)?)?;
        let accounting = policy.measure.accounting();
        let asked = Asked { include_system, retention_ratio, ..Asked::default() };
        let include_system = accounting == Accounting::Additive;
        let limits = asked.limits(&Limits { include_system, ..Limits::of(token_limit) }, accounting)?;
        let rule = Rule::new(accounting, start_on)?;
        let bounds = Bounds { rule, max_messages: bound, keep_head: limits.include_system };
        let policy = Arc::new(policy);
        Ok(Self { limits, policy, history: SharedHistory::new(bounds) })
    }

    #[doc = stub!("MessageRing.token_limit")]
    #[getter]
    fn token_limit(&self) -> i64 {
        self.limits.token_limit
    }

    #[doc = stub!("MessageRing.start_on")]
    #[getter]
    fn start_on(&self, py: Python<'_>) -> Option<&'static str> {
        match self.history.bounds(py).rule.start_on {
            StartOn::Any => None,
            StartOn::User => Some("user"),
        }
    }

    #[doc = stub!("MessageRing.include_system")]
    #[getter]
    fn include_system(&self) -> bool {
        self.limits.include_system
    }

    #[doc = stub!("MessageRing.retention_ratio")]
    #[getter]
    fn retention_ratio(&self) -> f64 {
        self.limits.retention_ratio
    }

    #[doc = stub!("MessageRing.counter")]
    #[getter]
    fn counter<'py>(&self, py: Python<'py>) -> Bound<'py, TokenCounter> {
        self.policy.counter.bind(py).clone()
    }

    #[doc = stub!("MessageRing.measure")]
    #[getter]
    fn measure<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.policy.measure.source(py)
    }

    #[doc = stub!("MessageRing.format")]
    #[getter]
    fn format<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.policy.format.argument(py)
    }

    #[doc = stub!("MessageRing.max_messages")]
    #[getter]
    fn max_messages(&self, py: Python<'_>) -> Option<usize> {
        self.history.bounds(py).max_messages.map(NonZeroUsize::get)
    }

    // The policy is shared, so a ring takes 64 bytes less. That matters where there are many.
    fn _new_like(&self, py: Python<'_>) -> Self {
        let history = SharedHistory::new(self.history.bounds(py));
        Self { limits: self.limits, policy: Arc::clone(&self.policy), history }
    }

    #[doc = stub!("MessageRing.put")]
    #[pyo3(signature = (message, /))]
    fn put(&self, py: Python<'_>, message: Bound<'_, PyAny>) -> PyResult<()> {
        drop(self.history.put(py, std::iter::once(self.outlined(message)?)));
        Ok(())
    }

    #[doc = stub!("MessageRing.put_messages")]
    #[pyo3(signature = (messages, /))]
    pub fn put_messages(&self, messages: &Bound<'_, PyAny>) -> PyResult<()> {
        let left = self.history.put(messages.py(), self.all_outlined(messages)?.into_iter());
        Turns::new(messages.py()).drop_all(left);
        Ok(())
    }

    #[pyo3(signature = (messages, /))]
    fn _put_messages<'py>(&self, py: Python<'py>, messages: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.history.put(py, self.all_outlined(messages)?.into_iter()))
    }

    #[doc = stub!("MessageRing.set")]
    #[pyo3(signature = (messages, /))]
    fn set(&self, messages: &Bound<'_, PyAny>) -> PyResult<()> {
        self.history.replace(messages.py(), self.all_outlined(messages)?)
    }

    #[doc = stub!("MessageRing.get")]
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
        #[pyo3(from_py_with = arguments::verify)] verify: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let asked = Asked { initial_token_count, token_limit, counter, include_system, retention_ratio };
        PyList::new(py, self.find(py, &asked, verify)?.messages)
    }

    #[doc = stub!("MessageRing.window")]
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
        #[pyo3(from_py_with = arguments::verify)] verify: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let asked = Asked { initial_token_count, token_limit, counter, include_system, retention_ratio };
        self.find_counted(py, &asked, verify)?.into_python(py)
    }

    #[doc = stub!("MessageRing.slice")]
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

    #[doc = stub!("MessageRing.set_head")]
    #[pyo3(signature = (messages, /))]
    fn set_head(&self, messages: &Bound<'_, PyAny>) -> PyResult<()> {
        if matches!(self.policy.measure, Measure::Text) {
            return Err(Error::HeadOfText.into());
        }
        let head = self.all_outlined(messages)?;
        if let Some(index) = head.iter().position(|(_, outline)| outline.kind != Kind::System) {
            return Err(PyValueError::new_err(format!(
                "the head has system and developer messages only; number {index} of those given is not one"
            )));
        }
        self.history.set_head(messages.py(), head);
        Ok(())
    }

    // For the adapter of LlamaIndex. Arguments by position take half the time, and the allowance may be 0. `None` if
    // more than `most` characters would have to be counted, or anything at all by a callable.
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
        self.find_for(py, Limits::of(allowance), counter, most)
    }

    // The same with all limits. It is another method because arguments take time.
    #[pyo3(signature = (token_limit, initial_token_count, include_system, retention_ratio, counter, most = None, /))]
    #[expect(clippy::too_many_arguments, reason = "all of them are limits")]
    fn _limited_window<'py>(
        &self,
        py: Python<'py>,
        token_limit: &Bound<'py, PyAny>,
        initial_token_count: &Bound<'py, PyAny>,
        include_system: &Bound<'py, PyAny>,
        retention_ratio: &Bound<'py, PyAny>,
        counter: &Bound<'py, TokenCounter>,
        most: Option<i64>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let asked = Asked {
            initial_token_count: Some(initial_token_count),
            token_limit: Some(token_limit),
            counter: None,
            include_system: Some(include_system),
            retention_ratio: Some(retention_ratio),
        };
        self.find_for(py, self.limits_of(&asked)?, counter, most)
    }

    #[doc = stub!("MessageRing.count")]
    #[pyo3(signature = (message, /))]
    fn count(&self, message: &Bound<'_, PyAny>) -> PyResult<i64> {
        self.policy.outline(message)?;
        self.policy.count(message)
    }

    #[doc = stub!("MessageRing.get_all")]
    fn get_all<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.history.messages(py))
    }

    #[doc = stub!("MessageRing.reset")]
    fn reset(&self, py: Python<'_>) {
        self.history.clear(py);
    }

    #[doc = stub!("MessageRing.pop")]
    fn pop(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.history.pop(py).ok_or_else(|| PyIndexError::new_err("pop from an empty ring"))
    }

    #[doc = stub!("MessageRing.delete")]
    #[pyo3(signature = (index, /))]
    fn delete(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let removed = match position(index)? {
            Some(place) => self.history.remove(py, place),
            None => Err(self.history.len(py)),
        };
        removed.map_err(|length| out_of_range(index, length))
    }

    #[doc = stub!("MessageRing.token_count")]
    #[pyo3(signature = (*, counter = None))]
    fn token_count<'py>(&self, py: Python<'py>, counter: Option<&Bound<'py, PyAny>>) -> PyResult<i64> {
        let other = self.policy_of(counter)?;
        Ok(self
            .history
            .window(py, other.as_ref().unwrap_or(&self.policy), Limits::ALL, true)?
            .tokens
            .unwrap_or_default())
    }

    #[doc = stub!("MessageRing.recount")]
    fn recount(&self, py: Python<'_>) -> PyResult<()> {
        self.history.recount(py, &self.policy)
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.history.len(py)
    }

    // An empty ring is a ring: `ring or MessageRing()` must keep it.
    #[expect(clippy::unused_self, reason = "a method of Python's protocol")]
    fn __bool__(&self) -> bool {
        true
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if let Ok(slice) = index.cast::<PySlice>() {
            let places = slice.indices(self.history.len(py) as isize)?;
            if places.step != 1 {
                return self.get_all(py)?.as_any().get_item(index);
            }
            // Not from a list of all messages: that takes milliseconds in a long history.
            let messages = self.history.messages_at(py, places.start as usize, places.slicelength);
            return Ok(PyList::new(py, messages)?.into_any());
        }
        let message = match position(index)? {
            Some(place) => self.history.message(py, place),
            None => Err(self.history.len(py)),
        };
        Ok(message.map_err(|length| out_of_range(index, length))?.into_bound(py))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.get_all(py)?.try_iter()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let name = self.policy.counter.get().name();
        let measure = match &self.policy.measure {
            Measure::Text => "\"text\"",
            Measure::Message => "\"message\"",
            Measure::Blocks(_) | Measure::Callable(_) => "a callable",
        };
        let bound = self.max_messages(py).map_or(String::new(), |bound| format!(", max_messages={bound}"));
        format!(
            "MessageRing(token_limit={}, counter={name:?}, measure={measure}{bound}) of {} messages",
            self.limits.token_limit,
            self.history.len(py)
        )
    }

    #[doc = stub!("MessageRing.__copy__")]
    fn __copy__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let (make, arguments) = making(slf)?;
        let copy = make.call1(arguments)?.cast_into::<Self>()?;
        copy.get().history.become_copy_of(&slf.get().history, py);
        add_attributes(&copy, dict_of(slf)?.as_ref(), &slots_of(slf)?)?;
        Ok(copy)
    }

    // Pickled and deep-copied as its arguments, its messages and what a subclass added. Counts are not kept.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let (make, arguments) = making(slf)?;
        Ok((make, arguments, slf.call_method0(intern!(slf.py(), "__getstate__"))?))
    }

    #[doc = stub!("MessageRing.__getnewargs_ex__")]
    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyDict>)> {
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "measure"), self.measure(py))?;
        keywords.set_item(intern!(py, "start_on"), self.start_on(py))?;
        keywords.set_item(intern!(py, "include_system"), self.include_system())?;
        keywords.set_item(intern!(py, "retention_ratio"), self.retention_ratio())?;
        keywords.set_item(intern!(py, "max_messages"), self.max_messages(py))?;
        keywords.set_item(intern!(py, "format"), self.format(py))?;
        Ok(((self.limits.token_limit, &self.policy.counter).into_bound_py_any(py)?, keywords))
    }

    #[doc = stub!("MessageRing.__getstate__")]
    fn __getstate__<'py>(slf: &Bound<'py, Self>) -> PyResult<State<'py>> {
        let (py, this) = (slf.py(), slf.get());
        let (outlined, standing) = this.history.standing(py, &this.policy);
        let (messages, outlines): (Vec<_>, Vec<_>) =
            outlined.into_iter().map(|(message, outline)| (message, outline.to_byte())).unzip();
        let outlines = PyBytes::new(py, &outlines);
        let Standing { head, first, left: Left { question, any, from, gone }, evicted } = standing;
        let place = (head, question, first, !any, from, gone.map(Outline::to_byte), evicted);
        Ok((STATE_VERSION, PyList::new(py, messages)?, outlines, place, dict_of(slf)?, slots_of(slf)?))
    }

    #[doc = stub!("MessageRing.__setstate__")]
    // Does not look into the messages: in a cycle they may not have their own state yet.
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
        let outlined = messages.iter().map(Bound::unbind).zip(outlines).collect();
        let (head, question, first, is_whole, from, gone, evicted) = place;
        let left = Left { question, any: !is_whole, from, gone: gone.and_then(Outline::from_byte) };
        let standing = Standing { head, first, left, evicted };
        let this = slf.get();
        // First what a class may refuse.
        let before = (dict_of(slf)?.map(|own| own.copy()).transpose()?, slots_of(slf)?);
        let mut done = add_attributes(slf, attributes.as_ref(), &in_slots);
        if done.is_ok() && !this.history.restore(slf.py(), outlined, standing, &this.policy) {
            done = Err(PyValueError::new_err(format!(
                "the state of a ring says where its messages are; {place:?} is damaged"
            )));
        }
        if done.is_err() {
            take_back_attributes(slf, before.0, &before.1, &in_slots)?;
        }
        done
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.history.traverse(&self.policy, &visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        self.history.clear(py);
    }
}

/// What calls a class's `__new__`: the class, its arguments by position and those by name.
type Making<'py> = (Bound<'py, PyAny>, (Bound<'py, PyType>, Bound<'py, PyAny>, Bound<'py, PyAny>));

/// What makes an empty ring like this one; a subclass may take other arguments. `object` cannot do this under the
/// pickle protocols 0 and 1.
fn making<'py>(ring: &Bound<'py, MessageRing>) -> PyResult<Making<'py>> {
    let py = ring.py();
    let (arguments, keywords) = ring.call_method0(intern!(py, "__getnewargs_ex__"))?.extract()?;
    let make = py.import("copyreg")?.getattr("__newobj_ex__")?;
    Ok((make, (ring.get_type(), arguments, keywords)))
}
