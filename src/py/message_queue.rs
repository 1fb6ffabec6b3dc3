//! `_MessageQueue`: a session of LlamaIndex's `Memory` in this process.
//!
//! While the lock is held, no Python code runs and no Python object is dropped; see
//! [`shared_history`](super::shared_history).

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyList;

use super::store_policy::{Batch, StorePolicy};
use super::turns::Turns;
use crate::core::flush::Flush;
use crate::core::item::Kind;
use crate::core::queue::Queue;

/// How often to count the messages for another policy while other threads keep replacing them.
const TRIES: usize = 100;

/// Messages whose oldest are flushed. See the stub for what Python sees.
#[pyclass(frozen, name = "_MessageQueue", module = "chatring._core")]
pub struct MessageQueue {
    // A Mutex rather than PyO3's borrow checking: two threads that put at once must both succeed.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    queue: Queue<Py<PyAny>>,
    /// The policy that counted the messages; `None` before the first put.
    policy: Option<Py<StorePolicy>>,
    /// Grows with every change except adding messages.
    generation: u64,
}

impl Inner {
    fn is_counted_by(&self, policy: &Bound<'_, StorePolicy>) -> bool {
        self.policy.as_ref().is_some_and(|own| own.is(policy) || own.get().counts_like(policy.get()))
    }
}

impl MessageQueue {
    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, Inner> {
        self.inner.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
    }

    fn list<'py>(
        &self,
        py: Python<'py>,
        range: impl FnOnce(&Queue<Py<PyAny>>) -> Range<usize>,
    ) -> PyResult<Bound<'py, PyList>> {
        let inner = self.lock(py);
        let messages = references(py, &inner.queue.messages()[range(&inner.queue)]);
        drop(inner);
        PyList::new(py, messages)
    }
}

/// Checks that a batch has these messages, and that `archived` of them can be archived.
fn check_lengths(messages: &Bound<'_, PyList>, batch: &Bound<'_, Batch>, archived: usize) -> PyResult<()> {
    let (length, counted) = (messages.len(), batch.get().items().count());
    if length == counted && archived <= length {
        return Ok(());
    }
    Err(PyValueError::new_err(format!("{counted} of {length} messages were counted, and {archived} are archived")))
}

fn references(py: Python<'_>, messages: &[Py<PyAny>]) -> Vec<Py<PyAny>> {
    messages.iter().map(|message| message.clone_ref(py)).collect()
}

#[pymethods]
impl MessageQueue {
    #[new]
    fn py_new() -> Self {
        Self { inner: Mutex::new(Inner::default()) }
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.lock(py).queue.messages().len()
    }

    #[getter]
    fn archived_count(&self, py: Python<'_>) -> usize {
        self.lock(py).queue.cut()
    }

    #[pyo3(signature = (policy, /))]
    fn is_counted_by(&self, policy: &Bound<'_, StorePolicy>) -> bool {
        self.lock(policy.py()).is_counted_by(policy)
    }

    #[pyo3(signature = (policy, /))]
    fn recount(&self, policy: &Bound<'_, StorePolicy>) -> PyResult<()> {
        let py = policy.py();
        let mut counted = Vec::new();
        let mut generation = None;
        for _ in 0..TRIES {
            let mut inner = self.lock(py);
            if inner.is_counted_by(policy) {
                return Ok(());
            }
            if generation != Some(inner.generation) {
                counted.clear();
            }
            if counted.len() == inner.queue.messages().len() {
                inner.queue.recount(counted.into_iter());
                let before = inner.policy.replace(policy.clone().unbind());
                drop(inner);
                drop(before);
                return Ok(());
            }
            generation = Some(inner.generation);
            let messages = references(py, &inner.queue.messages()[counted.len()..]);
            drop(inner);
            let batch = Bound::new(py, policy.get().read(&PyList::new(py, messages)?)?)?;
            policy.get().count(&batch)?;
            counted.extend(batch.get().items().map(|(_, tokens)| tokens));
        }
        Err(PyRuntimeError::new_err("other threads kept replacing the session's messages while they were counted"))
    }

    #[pyo3(signature = (policy, messages, batch, flush = None, /))]
    fn put<'py>(
        &self,
        policy: &Bound<'py, StorePolicy>,
        messages: &Bound<'py, PyList>,
        batch: &Bound<'py, Batch>,
        flush: Option<(i64, i64)>,
    ) -> PyResult<Option<Vec<Bound<'py, PyList>>>> {
        let py = policy.py();
        check_lengths(messages, batch, 0)?;
        let messages: Vec<Py<PyAny>> = messages.iter().map(Bound::unbind).collect();
        let mut inner = self.lock(py);
        if !inner.is_counted_by(policy) {
            drop(inner);
            return Ok(None);
        }
        for (message, (outline, tokens)) in messages.into_iter().zip(batch.get().items()) {
            inner.queue.push(message, tokens, outline.kind == Kind::User);
        }
        let mut start = inner.queue.cut();
        let ends = flush.map(|(high, size)| inner.queue.flush(Flush { high, size })).unwrap_or_default();
        let flushed = ends.into_iter().map(|end| {
            let flushed = references(py, &inner.queue.messages()[start..end]);
            start = end;
            flushed
        });
        let flushed: Vec<_> = flushed.collect();
        drop(inner);
        flushed.into_iter().map(|messages| PyList::new(py, messages)).collect::<PyResult<_>>().map(Some)
    }

    #[pyo3(signature = (policy, messages, batch, archived = 0, /))]
    fn set(
        &self,
        policy: &Bound<'_, StorePolicy>,
        messages: &Bound<'_, PyList>,
        batch: &Bound<'_, Batch>,
        archived: usize,
    ) -> PyResult<()> {
        check_lengths(messages, batch, archived)?;
        let mut queue = Queue::default();
        for (message, (outline, tokens)) in messages.iter().zip(batch.get().items()) {
            queue.push(message.unbind(), tokens, outline.kind == Kind::User);
        }
        queue.archive(archived);
        let mut inner = self.lock(messages.py());
        inner.generation += 1;
        let before = (std::mem::replace(&mut inner.queue, queue), inner.policy.replace(policy.clone().unbind()));
        drop(inner);
        Turns::new(messages.py()).drop_all(before.0.into_messages());
        Ok(())
    }

    fn get_all<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, |queue| 0..queue.messages().len())
    }

    fn active<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, |queue| queue.cut()..queue.messages().len())
    }

    fn archived<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.list(py, |queue| 0..queue.cut())
    }

    #[pyo3(signature = (count, /))]
    fn archive<'py>(&self, py: Python<'py>, count: usize) -> PyResult<Bound<'py, PyList>> {
        let mut inner = self.lock(py);
        let start = inner.queue.cut();
        inner.queue.archive(count);
        let messages = references(py, &inner.queue.messages()[start..inner.queue.cut()]);
        drop(inner);
        PyList::new(py, messages)
    }

    #[pyo3(signature = (count, /))]
    fn remove_oldest<'py>(&self, py: Python<'py>, count: usize) -> PyResult<Bound<'py, PyList>> {
        let mut inner = self.lock(py);
        inner.generation += 1;
        let taken = inner.queue.take_oldest(count);
        drop(inner);
        PyList::new(py, taken)
    }

    fn clear_active(&self, py: Python<'_>) {
        let mut inner = self.lock(py);
        inner.generation += 1;
        let left = inner.queue.take_active();
        drop(inner);
        Turns::new(py).drop_all(left);
    }

    fn clear_archived(&self, py: Python<'_>) {
        let mut inner = self.lock(py);
        inner.generation += 1;
        let left = inner.queue.take_archived();
        drop(inner);
        Turns::new(py).drop_all(left);
    }

    fn __copy__(&self, py: Python<'_>) -> Self {
        let inner = self.lock(py);
        let copy = Inner {
            queue: inner.queue.map(|message| message.clone_ref(py)),
            policy: inner.policy.as_ref().map(|policy| policy.clone_ref(py)),
            generation: 0,
        };
        drop(inner);
        Self { inner: Mutex::new(copy) }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()), // in use, so not garbage
        };
        inner.queue.messages().iter().try_for_each(|message| visit.call(message))?;
        inner.policy.iter().try_for_each(|policy| visit.call(policy))
    }

    fn __clear__(&self, py: Python<'_>) {
        let left = std::mem::take(&mut *self.lock(py));
        drop(left);
    }
}
