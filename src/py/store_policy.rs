//! The boundary of [`ending`](crate::core::ending): reading, measuring and appending for histories that stores keep.

use std::convert::Infallible;
use std::sync::OnceLock;

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use super::arguments::{self, Asked};
use super::counter::{BoundCounter, TokenCounter, detach, detach_if_much};
use super::format::Format;
use super::policy::{Measure, Policy};
use super::turns::Turns;
use crate::core::count::batch::Workers;
use crate::core::ending::{
    Appended, Ending, Kept, NUMBERS, Row, append, append_joined, append_to_queue, blank_tail, head_starts, may_be_last,
};
use crate::core::error::Error;
use crate::core::flush::{Cut, Flush};
use crate::core::item::Outline;
use crate::core::joined::{Text, ends_in_word, is_blank};
use crate::core::policy::{Accounting, Limits, Rule, StartOn};
use crate::core::query::Content;

/// An [`Ending`], as it is stored.
type Numbers = [Option<i64>; NUMBERS];

/// A [`Row`] with the byte of its message's outline: that, tokens, `before`, question.
type RowTuple = (u8, i64, Option<i64>, Option<i64>);

/// What [`StorePolicy::append`] returns. See the stub.
type AppendedTuple = (Numbers, usize, Vec<RowTuple>, Vec<(i64, i64)>, bool);

/// The limits of a call, as databases take them. See the stub.
type LimitsTuple = (i64, bool, Vec<i64>, Vec<i64>);

/// What is fixed with the histories of a store. See the stub for what Python sees.
#[pyclass(frozen, name = "_StorePolicy", module = "chatring._core")]
pub struct StorePolicy {
    policy: Policy,
    rule: Rule,
}

/// Messages that were read. Holds no Python objects.
#[pyclass(frozen, name = "_Batch", module = "chatring._core")]
pub struct Batch {
    outlines: Vec<Outline>,
    contents: Vec<Content>,
    /// The tokens of each message, where tokens add up.
    tokens: OnceLock<Vec<i64>>,
}

impl Batch {
    /// The outline and the tokens of each message.
    pub fn items(&self) -> impl Iterator<Item = (Outline, i64)> {
        let tokens = self.tokens.get().map(Vec::as_slice).unwrap_or_default();
        self.outlines.iter().copied().zip(tokens.iter().copied())
    }

    fn bytes(&self) -> usize {
        self.contents.iter().map(Content::bytes).sum()
    }

    fn texts(&self) -> impl Iterator<Item = (Outline, Text)> {
        self.outlines.iter().zip(&self.contents).map(|(outline, content)| {
            let text = if let Content::Joined(text) = content { text.clone() } else { String::new() };
            (*outline, Text::new(text, outline.may_start))
        })
    }
}

impl StorePolicy {
    /// Whether messages are counted alike.
    pub fn counts_like(&self, other: &Self) -> bool {
        self.policy == other.policy
    }

    fn is_queue(&self) -> bool {
        matches!(self.policy.measure, Measure::Blocks(_))
    }
}

#[pymethods]
impl Batch {
    fn __len__(&self) -> usize {
        self.outlines.len()
    }

    #[getter]
    fn bytes_to_count(&self) -> usize {
        if self.tokens.get().is_some() { 0 } else { self.bytes() }
    }

    #[getter]
    fn tokens(&self) -> Vec<i64> {
        self.tokens.get().cloned().unwrap_or_default()
    }

    #[getter]
    fn kinds(&self) -> Vec<u8> {
        // PyO3 makes bytes of it.
        self.outlines.iter().map(|outline| outline.to_byte()).collect()
    }
}

#[pymethods]
impl StorePolicy {
    #[new]
    #[pyo3(signature = (counter, measure, start_on, format, /))]
    fn py_new(
        counter: &Bound<'_, PyAny>,
        measure: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::start_on)] start_on: Option<StartOn>,
        format: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let counter = TokenCounter::from_source(counter)?;
        let policy = Policy::new(counter, Measure::from_source(measure)?, Format::from_argument(format)?)?;
        let rule = Rule::new(policy.measure.accounting(), start_on)?;
        Ok(Self { policy, rule })
    }

    #[getter]
    fn is_joined(&self) -> bool {
        self.rule.accounting == Accounting::Joined
    }

    #[getter]
    fn calls_python(&self) -> bool {
        // A queue's measure calls Python only for unusual messages, whose tokens LlamaIndex estimates in a few
        // microseconds.
        self.policy.calls_python() || (self.policy.is_read_by_python() && !self.is_queue())
    }

    #[pyo3(signature = (messages, /))]
    pub fn read(&self, messages: &Bound<'_, PyList>) -> PyResult<Batch> {
        let mut turns = Turns::new(messages.py());
        let (mut outlines, mut contents) = (Vec::with_capacity(messages.len()), Vec::with_capacity(messages.len()));
        for message in messages {
            outlines.push(self.policy.outline(&message)?);
            contents.push(self.policy.read(&message)?.content()?);
            turns.item_done();
        }
        Ok(Batch { outlines, contents, tokens: OnceLock::new() })
    }

    #[staticmethod]
    #[pyo3(signature = (rows, /))]
    fn known(rows: &Bound<'_, PyList>) -> PyResult<Batch> {
        let (outlines, tokens): (Vec<_>, Vec<i64>) = items_of(rows)?.into_iter().unzip();
        Ok(Batch { outlines, contents: Vec::new(), tokens: OnceLock::from(tokens) })
    }

    #[pyo3(signature = (batch, /))]
    pub fn count(&self, batch: &Bound<'_, Batch>) -> PyResult<()> {
        let py = batch.py();
        let batch = batch.get();
        if self.is_joined() || batch.tokens.get().is_some() {
            return Ok(());
        }
        let tokens = match self.policy.bound_counter(py) {
            BoundCounter::Native(native) => {
                let bytes = batch.bytes();
                let workers = Workers::for_bytes(bytes);
                let count = || count_all(workers, &batch.contents, |text| native.tokens(text));
                detach_if_much(py, native.encoding, bytes, count)
            }
            BoundCounter::Callable(callable) => {
                batch.contents.iter().map(|content| content.tokens(&callable)).collect::<PyResult<_>>()?
            }
        };
        // Another thread may have counted the same messages meanwhile.
        let _ = batch.tokens.set(tokens);
        Ok(())
    }

    #[pyo3(signature = (ending, earlier, batch, /))]
    fn append(
        &self,
        ending: &Bound<'_, PyAny>,
        earlier: Option<&Bound<'_, Batch>>,
        batch: &Bound<'_, Batch>,
    ) -> PyResult<AppendedTuple> {
        let py = batch.py();
        let ending = ending_of(ending)?;
        let kinds = batch.get().kinds();
        let unread = (ending.end - ending.unread_from(self.rule.accounting)) as usize;
        if earlier.map_or(0, |earlier| earlier.get().outlines.len()) != unread {
            return Err(PyValueError::new_err(format!("the last {unread} messages of the session must be given")));
        }
        let appended = if self.is_joined() {
            let earlier: Vec<Text> =
                earlier.map(|earlier| earlier.get().texts().map(|(_, text)| text).collect()).unwrap_or_default();
            let texts = batch.get().texts().collect::<Vec<_>>();
            let bytes: usize =
                earlier.iter().chain(texts.iter().map(|(_, text)| text)).map(|text| text.text.len()).sum();
            match self.policy.bound_counter(py) {
                BoundCounter::Native(native) => {
                    let work = || never_fails(append_joined(&native, ending, earlier, texts));
                    detach_if_much(py, native.encoding, bytes, work)
                }
                BoundCounter::Callable(callable) => append_joined(&callable, ending, earlier, texts)?,
            }
        } else {
            self.count(batch)?;
            let items: Vec<_> = batch.get().items().collect();
            if self.is_queue() { append_to_queue(ending, &items) } else { append(self.rule.start_on, ending, &items) }
        };
        let Appended { ending, head, rows, settled, forgets } = appended;
        let rows = rows
            .iter()
            .zip(&kinds[head..])
            .map(|(Row { tokens, before, question }, kind)| (*kind, *tokens, *before, *question));
        Ok((ending.numbers(), head, rows.collect(), settled, forgets))
    }

    #[pyo3(signature = (ending, earlier, /))]
    fn tail(&self, ending: &Bound<'_, PyAny>, earlier: &Bound<'_, Batch>) -> PyResult<i64> {
        let py = earlier.py();
        let ending = ending_of(ending)?;
        let texts: Vec<Text> = earlier.get().texts().map(|(_, text)| text).collect();
        match self.policy.bound_counter(py) {
            BoundCounter::Native(native) => {
                Ok(detach(py, native.encoding, || never_fails(blank_tail(&native, &ending, &texts))))
            }
            BoundCounter::Callable(callable) => blank_tail(&callable, &ending, &texts),
        }
    }

    #[pyo3(signature = (rows, /))]
    fn head_starts(&self, rows: &Bound<'_, PyList>) -> PyResult<Vec<Option<i64>>> {
        Ok(head_starts(self.rule.start_on, &items_of(rows)?))
    }

    #[staticmethod]
    fn empty() -> Numbers {
        Ending::default().numbers()
    }

    #[pyo3(signature = (ending, /))]
    fn unread_from(&self, ending: &Bound<'_, PyAny>) -> PyResult<i64> {
        Ok(ending_of(ending)?.unread_from(self.rule.accounting))
    }

    #[pyo3(signature = (kind, before, text, /))]
    fn may_be_last(&self, kind: u8, before: Option<i64>, text: Option<&Bound<'_, Batch>>) -> PyResult<bool> {
        let is_blank = joined_text(text).is_some_and(is_blank);
        Ok(may_be_last(self.rule, outline_of(kind)?, before.is_some(), is_blank))
    }

    #[pyo3(signature = (ending, kept, removed, /))]
    fn cut(
        &self,
        ending: &Bound<'_, PyAny>,
        kept: Option<(i64, RowTuple, Option<Bound<'_, Batch>>)>,
        removed: i64,
    ) -> PyResult<Numbers> {
        let kept = match kept {
            None => None,
            Some((position, (kind, tokens, before, _), text)) => Some(Kept {
                position,
                outline: outline_of(kind)?,
                tokens,
                before,
                is_closed: joined_text(text.as_ref()).is_some_and(ends_in_word),
            }),
        };
        Ok(ending_of(ending)?.cut(self.rule, kept, removed).numbers())
    }

    #[staticmethod]
    #[pyo3(signature = (ending, position, before, /))]
    fn trimmed(ending: &Bound<'_, PyAny>, position: i64, before: i64) -> PyResult<Numbers> {
        Ok(ending_of(ending)?.trimmed(position, before).numbers())
    }

    /// For a queue: position and `before` of its cut after each round of a flush.
    #[staticmethod]
    #[pyo3(signature = (ending, users, known_to, high, size, /))]
    fn rounds(
        ending: &Bound<'_, PyAny>,
        users: Vec<(i64, i64)>,
        known_to: i64,
        high: i64,
        size: i64,
    ) -> PyResult<Option<Vec<(i64, i64)>>> {
        let users: Vec<Cut> = users.into_iter().map(|(position, before)| Cut { position, before }).collect();
        let cuts = ending_of(ending)?.rounds(Flush { high, size }, &users, known_to);
        Ok(cuts.map(|cuts| cuts.into_iter().map(|cut| (cut.position, cut.before)).collect()))
    }

    #[staticmethod]
    #[pyo3(signature = (ending, position, before, /))]
    fn with_cut(ending: &Bound<'_, PyAny>, position: i64, before: i64) -> PyResult<Numbers> {
        Ok(ending_of(ending)?.with_cut(Cut { position, before }).numbers())
    }

    #[staticmethod]
    #[pyo3(signature = (ending, /))]
    fn without_queue(ending: &Bound<'_, PyAny>) -> PyResult<Numbers> {
        Ok(ending_of(ending)?.without_queue().numbers())
    }

    #[pyo3(signature = (token_limit, initial_token_count, include_system, retention_ratio, /))]
    fn limits(
        &self,
        token_limit: &Bound<'_, PyAny>,
        initial_token_count: &Bound<'_, PyAny>,
        include_system: Option<&Bound<'_, PyAny>>,
        retention_ratio: &Bound<'_, PyAny>,
    ) -> PyResult<LimitsTuple> {
        let asked = Asked {
            initial_token_count: Some(initial_token_count),
            token_limit: Some(token_limit),
            counter: None,
            include_system,
            retention_ratio: Some(retention_ratio),
        };
        let own = Limits { include_system: !self.is_joined(), ..Limits::ALL };
        let limits = asked.limits(&own, self.rule.accounting)?;
        let (least, blocks) = limits.blocks().unzip();
        Ok((limits.allowance(0), limits.include_system, least, blocks))
    }

    /// The error of a head that does not fit.
    #[staticmethod]
    #[pyo3(signature = (head, initial, limit, /))]
    fn head_too_long(head: i64, initial: i64, limit: i64) -> PyErr {
        Error::HeadExceedsLimit { head, initial, limit }.into()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.policy.traverse(&visit)
    }
}

fn never_fails<T>(result: Result<T, Infallible>) -> T {
    let Ok(value) = result;
    value
}

fn joined_text<'a>(batch: Option<&'a Bound<'_, Batch>>) -> Option<&'a str> {
    match batch?.get().contents.first()? {
        Content::Joined(text) => Some(text),
        _ => None,
    }
}

fn texts_of(content: &Content) -> &[String] {
    if let Content::Item { texts, .. } = content { texts } else { &[] }
}

/// The tokens of each of `contents`. Their texts are counted on all cores.
fn count_all(workers: Workers, contents: &[Content], tokens: impl Fn(&str) -> i64 + Sync) -> Vec<i64> {
    let texts: Vec<&str> = contents.iter().flat_map(texts_of).map(String::as_str).collect();
    let mut counted = workers.count(&texts, tokens).into_iter();
    let sum = |content: &Content| match content {
        Content::Item { texts, constant } => counted.by_ref().take(texts.len()).fold(*constant, i64::saturating_add),
        Content::Measured(tokens) => *tokens,
        Content::Joined(_) => 0,
    };
    contents.iter().map(sum).collect()
}

/// Reads tuples that begin with the byte of an outline and tokens.
fn items_of(rows: &Bound<'_, PyList>) -> PyResult<Vec<(Outline, i64)>> {
    let item = |row: Bound<'_, PyAny>| {
        let row = row.cast_into::<PyTuple>()?;
        Ok((outline_of(row.get_item(0)?.extract()?)?, row.get_item(1)?.extract()?))
    };
    rows.iter().map(item).collect()
}

fn outline_of(kind: u8) -> PyResult<Outline> {
    Outline::from_byte(kind).ok_or_else(|| PyValueError::new_err(format!("{kind} is not an outline of a message")))
}

fn ending_of(numbers: &Bound<'_, PyAny>) -> PyResult<Ending> {
    let numbers: Vec<Option<i64>> = match numbers.cast::<PyTuple>() {
        Ok(tuple) => tuple.get_slice(0, NUMBERS).extract()?,
        Err(_) => numbers.extract()?,
    };
    Ending::from_numbers(&numbers).ok_or_else(|| PyValueError::new_err("these are not the numbers of a session"))
}
