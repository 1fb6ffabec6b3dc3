//! A history behind its lock, and the driver of its queries.
//!
//! While the lock is held, no Python code runs, no Python object is dropped, and no object is made that the collector
//! tracks. Dropping or making one could run a finaliser or the collector, which could run any code, and that code could
//! ask for the lock. So what must be dropped is moved out first. What must be read or counted is cloned, and worked on
//! without the lock.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::{MutexExt, PyOnceLock};
use pyo3::types::{PyList, PyType};

use super::pins::{Changed, Pins, is_same};
use super::policy::{Pin, Policy};
use super::snapshot::{Snapshot, all_come_back, missing_before, place_of};
use super::turns::Turns;
use crate::core::history::{Bounds, History, Standing};
use crate::core::item::{Kind, Outline};
use crate::core::ledger::Ledger;
use crate::core::policy::{Accounting, Limits};
use crate::core::query::{Found, Next, Query};

/// The history of a ring: Python objects, under policies.
pub type RingHistory = History<Py<PyAny>, Arc<Policy>, Pin>;

/// A message and its outline when it was put.
pub type Outlined = (Py<PyAny>, Outline);

/// What was found.
pub struct Window {
    /// The messages, oldest first.
    pub messages: Vec<Py<PyAny>>,
    /// Their tokens; `None` if not even the last message fits, and its tokens are not known.
    pub tokens: Option<i64>,
    /// The position of the first message behind the head and a carried question.
    pub start: u64,
    /// The position of that question.
    pub question: Option<u64>,
    /// How many of them are the head.
    pub head: usize,
}

impl Window {
    /// With its tokens, which are not known of a last message that does not fit.
    pub fn counted(mut self, py: Python<'_>, policy: &Policy) -> PyResult<Self> {
        if self.tokens.is_none()
            && let [message] = self.messages.as_slice()
        {
            self.tokens = Some(policy.count(message.bind(py))?);
        }
        Ok(self)
    }

    /// As a `chatring.Window`.
    pub fn into_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let class = CLASS.import(py, "chatring.window", "Window")?;
        let window = class.call1((PyList::new(py, self.messages)?,))?;
        window.setattr(intern!(py, "tokens"), self.tokens.unwrap_or_default())?;
        window.setattr(intern!(py, "start"), self.start)?;
        window.setattr(intern!(py, "question"), self.question)?;
        window.setattr(intern!(py, "head"), self.head)?;
        Ok(window)
    }
}

/// The result of a search.
enum Answer {
    Window(Window),
    /// The history keeps changing.
    Changing,
    /// There is more to count than the caller allows.
    TooMuch,
}

/// The messages of one ring, and their ledgers.
pub struct SharedHistory {
    // A Mutex rather than PyO3's borrow checking: two threads in one ring must both succeed. Neither may raise now and
    // then.
    inner: Mutex<RingHistory>,
}

impl SharedHistory {
    /// An empty history.
    pub fn new(bounds: Bounds) -> Self {
        Self { inner: Mutex::new(History::new(bounds)) }
    }

    // Without the GIL another thread may have it: whoever waits for it detaches, or would hold up a collection.
    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, RingHistory> {
        // Nothing under the lock panics halfway through a change, so a poisoned lock guards a sound history.
        self.inner.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds messages. Hands back those that leave a bounded ring, oldest first.
    pub fn put(&self, py: Python<'_>, outlined: impl ExactSizeIterator<Item = Outlined>) -> Vec<Py<PyAny>> {
        let mut forgotten = Vec::new();
        let left = self.lock(py).push(outlined, &mut forgotten);
        Turns::new(py).drop_all(forgotten);
        left
    }

    /// Replaces all messages with `outlined`. Those that a bounded ring has no room for are dropped, the oldest first.
    ///
    /// Counts are kept for messages that stay where they are, or come back there with the same text. So a history that
    /// is read again from elsewhere for every window is counted once. The same holds if only the oldest messages are
    /// missing.
    ///
    /// Positions are kept if all messages stay or come back, but for the oldest. If not, the first of `outlined` gets
    /// the position behind the last message: no position is given to another message.
    pub fn replace(&self, py: Python<'_>, outlined: Vec<Outlined>) -> PyResult<()> {
        let (bounds, range, generation, snapshots) = {
            let history = self.lock(py);
            let snapshots = history.ledgers().iter().map(|(policy, ledger)| Snapshot::of(py, &history, policy, ledger));
            let snapshots: Vec<Snapshot> =
                if history.kept_question().is_some() { Vec::new() } else { snapshots.collect() };
            (history.bounds(), history.range(), history.generation(), snapshots)
        };
        let first = range.start;
        let is_joined = bounds.rule.accounting == Accounting::Joined;
        let in_head = outlined.iter().take_while(|(_, outline)| !is_joined && outline.kind == Kind::System).count();
        let behind = &outlined[in_head..];
        let has_room = bounds.max_messages.is_none_or(|most| outlined.len() <= most.get());
        let missing = missing_before(py, &snapshots, first, behind)?;
        let mut turns = Turns::new(py);
        let mut likenesses = Vec::with_capacity(snapshots.len());
        for snapshot in &snapshots {
            let start = snapshot.first.max(first + missing);
            let follows = is_joined || snapshot.follows_the_same(py, first, missing, behind)?;
            let new = behind.get((start - first - missing) as usize..).unwrap_or_default();
            likenesses.push(snapshot.likeness(py, start, new, follows, &mut turns)?);
        }
        let mut forgotten = Vec::new();
        let mut ledgers = Vec::new();
        let mut history = self.lock(py);
        let is_as_it_was = history.generation() == generation;
        let gone = if missing > 0 { missing } else { place_of(&history, behind.first()) };
        // A head that comes in front of nothing must not have the positions of what was there.
        let has_room_in_front = in_head <= history.head().len() || !range.is_empty() || range.end == 0;
        let stay = is_as_it_was
            && history.range() == range
            && has_room_in_front
            && all_come_back(&history, first + gone, behind, &likenesses);
        let place = if stay { first + gone } else { history.range().end + in_head as u64 };
        if is_as_it_was && has_room && likenesses.len() == history.ledgers().len() {
            for (ledger, likeness) in history.ledgers_to_change().zip(likenesses) {
                ledger.forget_from(likeness.counts_to, &mut forgotten);
                ledger.forget_before(first + missing, &mut forgotten);
                if missing > 0 && !is_joined && ledger.first() == first + missing {
                    // Whether a window may begin with it depended on the message before it.
                    ledger.forget_through(first + missing, &mut forgotten);
                }
                if place != first + missing {
                    ledger.await_question(&mut forgotten);
                    ledger.renumber((place - first - missing) as i64);
                }
            }
        } else {
            ledgers = history.take_ledgers();
        }
        let left = history.replace(outlined, place, &mut forgotten);
        drop(history);
        drop_left(&mut turns, left.0.into_iter().chain(left.1), forgotten, ledgers);
        turns.drop_all(snapshots.into_iter().flat_map(|snapshot| snapshot.messages));
        Ok(())
    }

    /// Replaces the head.
    pub fn set_head(&self, py: Python<'_>, head: Vec<Outlined>) {
        let mut forgotten = Vec::new();
        let left = self.lock(py).set_head(head, &mut forgotten);
        drop_left(&mut Turns::new(py), left, forgotten, Vec::new());
    }

    /// Removes the newest message.
    pub fn pop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let mut forgotten = Vec::new();
        let popped = self.lock(py).pop(&mut forgotten);
        Turns::new(py).drop_all(forgotten);
        popped
    }

    /// Removes the message at `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn remove(&self, py: Python<'_>, index: isize) -> Result<Py<PyAny>, usize> {
        let mut forgotten = Vec::new();
        let mut history = self.lock(py);
        let place = history.place(index)?;
        let removed = history.remove(place, &mut forgotten).ok_or(history.len());
        drop(history);
        Turns::new(py).drop_all(forgotten);
        removed
    }

    /// Removes all messages. Their positions are not given to others.
    pub fn clear(&self, py: Python<'_>) {
        let mut forgotten = Vec::new();
        let mut history = self.lock(py);
        let ledgers = history.take_ledgers();
        let end = history.range().end;
        let left = history.take_messages(end, &mut forgotten);
        drop(history);
        drop_left(&mut Turns::new(py), left, forgotten, ledgers);
    }

    /// The message at `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn message(&self, py: Python<'_>, index: isize) -> Result<Py<PyAny>, usize> {
        let history = self.lock(py);
        let message = history.get(history.place(index)?);
        message.map(|message| message.clone_ref(py)).ok_or(history.len())
    }

    /// All messages, oldest first.
    pub fn messages(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        let history = self.lock(py);
        history.list(0..history.len()).map(|message| message.clone_ref(py)).collect()
    }

    /// At most `count` messages from the one at `index` on, oldest first.
    pub fn messages_at(&self, py: Python<'_>, index: usize, count: usize) -> Vec<Py<PyAny>> {
        let history = self.lock(py);
        let end = index.saturating_add(count).min(history.len());
        history.list(index.min(end)..end).map(|message| message.clone_ref(py)).collect()
    }

    /// The messages at these positions, oldest first; `Err` has a position whose message has left to make room.
    pub fn slice(&self, py: Python<'_>, range: Range<u64>) -> Result<Vec<Py<PyAny>>, u64> {
        let history = self.lock(py);
        let messages = history.slice(range)?;
        Ok(messages.into_iter().map(|message| message.clone_ref(py)).collect())
    }

    /// All messages with their outlines, oldest first, and where they are under `policy`.
    pub fn standing(&self, py: Python<'_>, policy: &Arc<Policy>) -> (Vec<Outlined>, Standing) {
        let history = self.lock(py);
        let outlined = history.all().map(|(message, outline)| (message.clone_ref(py), outline)).collect();
        (outlined, history.standing(policy))
    }

    /// Replaces all messages with those of a history in that state; false if that state is not possible for them.
    pub fn restore(&self, py: Python<'_>, outlined: Vec<Outlined>, standing: Standing, policy: &Arc<Policy>) -> bool {
        let replaced = self.lock(py).restore(outlined, standing, policy);
        let is_possible = replaced.is_ok();
        let mut turns = Turns::new(py);
        match replaced {
            Ok((left, ledgers)) => drop_left(&mut turns, left, Vec::new(), ledgers),
            Err(refused) => turns.drop_all(refused),
        }
        is_possible
    }

    /// The number of messages.
    pub fn len(&self, py: Python<'_>) -> usize {
        self.lock(py).len()
    }

    /// What is fixed with the history.
    pub fn bounds(&self, py: Python<'_>) -> Bounds {
        self.lock(py).bounds()
    }

    /// Forgets every count and reads every outline again.
    pub fn recount(&self, py: Python<'_>, policy: &Policy) -> PyResult<()> {
        let messages = self.messages(py);
        let mut turns = Turns::new(py);
        // By address: while the list has the messages, no other object can have theirs.
        let mut read = Vec::with_capacity(messages.len());
        for message in &messages {
            read.push((message.as_ptr() as usize, policy.outline(message.bind(py))?));
            turns.item_done();
        }
        let mut in_order = read.clone().into_iter().peekable();
        read.sort_unstable_by_key(|(address, _)| *address);
        let mut forgotten = Vec::new();
        let mut history = self.lock(py);
        let ledgers = history.take_ledgers();
        // Messages that were put meanwhile are not among those read.
        let now = history.all().map(|(message, known)| {
            let address = message.as_ptr() as usize;
            let next = in_order.next_if(|(other, _)| *other == address);
            let found = || read.binary_search_by_key(&address, |(other, _)| *other).ok().map(|index| read[index]);
            next.or_else(found).map_or(known, |(_, outline)| outline)
        });
        let now: Vec<Outline> = now.collect();
        let evicted = history.set_outlines(now, &mut forgotten);
        drop(history);
        turns.drop_all(messages);
        drop_left(&mut turns, evicted, forgotten, ledgers);
        Ok(())
    }

    /// The window. An empty history has no messages and 0 tokens.
    ///
    /// If other threads or the counter itself keep changing the history, the answer is the window of the history at one
    /// moment of the call.
    pub fn window(&self, py: Python<'_>, policy: &Arc<Policy>, limits: Limits, verify: bool) -> PyResult<Window> {
        if let Answer::Window(window) = self.search(py, policy, limits, verify, None)? {
            return Ok(window);
        }
        // Counted from nothing: earlier counts may be outdated too, and nobody checks them any more.
        let moment = Self { inner: Mutex::new(self.copied(py)) };
        let forgotten = moment.lock(py).forget_counts();
        Turns::new(py).drop_all(forgotten);
        match moment.search(py, policy, limits, false, None)? {
            Answer::Window(window) => Ok(window),
            _ => Err(changing()),
        }
    }

    /// Like [`window`](Self::window). `None` if more than `most` characters would have to be counted, if the history
    /// keeps changing, or if a callable would have to be called.
    pub fn window_for(
        &self,
        py: Python<'_>,
        policy: &Arc<Policy>,
        limits: Limits,
        most: i64,
    ) -> PyResult<Option<Window>> {
        match self.search(py, policy, limits, true, Some(most))? {
            Answer::Window(window) => Ok(Some(window)),
            Answer::Changing | Answer::TooMuch => Ok(None),
        }
    }

    /// Drives a query.
    fn search(
        &self,
        py: Python<'_>,
        policy: &Arc<Policy>,
        limits: Limits,
        verify: bool,
        mut most: Option<i64>,
    ) -> PyResult<Answer> {
        let rule = self.lock(py).bounds().rule;
        let mut query = Query::new(Arc::clone(policy), rule, limits);
        let mut turns = Turns::new(py);
        loop {
            let mut history = self.lock(py);
            match query.next(&mut history, |one, other| is_same(py, one, other)) {
                Next::Read(wanted) => {
                    let messages: Vec<Py<PyAny>> =
                        history.wanted(&wanted).into_iter().map(|message| message.clone_ref(py)).collect();
                    drop(history);
                    if most.is_some() && policy.calls_python() {
                        return Ok(Answer::TooMuch);
                    }
                    let mut contents = Vec::with_capacity(messages.len());
                    for message in &messages {
                        let counted = policy.read(message.bind(py))?;
                        if let Some(most) = &mut most {
                            *most = most.saturating_sub(counted.cost());
                            if *most < 0 {
                                return Ok(Answer::TooMuch);
                            }
                        }
                        contents.push(policy.content(counted, message.bind(py))?);
                    }
                    policy.feed(py, &mut query, contents)?;
                    turns.offer();
                }
                Next::Found(found) => {
                    let messages = history.window(&found, query.end()).map(|message| message.clone_ref(py));
                    let messages: Vec<Py<PyAny>> = messages.collect();
                    let pins = if verify { Pins::of(py, &history, policy, &found) } else { Pins::default() };
                    drop(history);
                    let Some(changed) = pins.changed(py, policy, &found, &messages)? else {
                        let Found { head, question, start, tokens } = found;
                        return Ok(Answer::Window(Window { messages, tokens, start, question, head: head.len() }));
                    };
                    let mut forgotten = Vec::new();
                    let mut history = self.lock(py);
                    if history.generation() == query.generation() {
                        match changed {
                            Changed::Head => history.forget_head(policy, &mut forgotten),
                            Changed::Question => history.forget_ledger(policy, &mut forgotten),
                            Changed::Messages(first, last) => {
                                history.forget_changed(policy, first, last, &mut forgotten);
                            }
                        }
                    }
                    drop(history);
                    turns.drop_all(forgotten);
                }
                Next::HeadTooLong(head) => {
                    return Err(limits.head_too_long(head).into());
                }
                Next::Changing => return Ok(Answer::Changing),
            }
        }
    }

    /// Takes over the messages and counts of `other`.
    pub fn become_copy_of(&self, other: &Self, py: Python<'_>) {
        let copy = other.copied(py);
        let replaced = std::mem::replace(&mut *self.lock(py), copy);
        drop(replaced);
    }

    fn copied(&self, py: Python<'_>) -> RingHistory {
        self.lock(py).copied(
            |message| message.clone_ref(py),
            |policy| Arc::new(policy.clone_ref(py)),
            |pin| pin.clone_ref(py),
        )
    }

    /// Shows every Python object of the ring to the collector, with those of its own `policy`.
    pub fn traverse(&self, own: &Arc<Policy>, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let history = match self.inner.try_lock() {
            Ok(history) => history,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread holds the lock. What is not shown counts as in use.
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        for (message, _) in history.all() {
            visit.call(message)?;
        }
        let mut policies = vec![(own, 1)];
        for (policy, ledger) in history.ledgers() {
            for pin in ledger.pins() {
                visit.call(pin)?;
            }
            match policies.iter_mut().find(|(known, _)| Arc::ptr_eq(known, policy)) {
                Some((_, holders)) => *holders += 1,
                None => policies.push((policy, 1)),
            }
        }
        for (policy, holders) in policies {
            // A policy that a search or another ring also holds is in use.
            if Arc::strong_count(policy) == holders {
                policy.traverse(visit)?;
            }
        }
        Ok(())
    }
}

/// The error of a search that cannot end like this.
pub fn changing() -> PyErr {
    PyRuntimeError::new_err("a history that nobody can reach changed during a search")
}

/// Drops what has left a history, and lets other threads run meanwhile. No lock may be held.
fn drop_left(
    turns: &mut Turns<'_>,
    messages: impl IntoIterator<Item = impl Sized>,
    mut forgotten: Vec<Pin>,
    ledgers: Vec<(Arc<Policy>, Ledger<Pin>)>,
) {
    turns.drop_all(messages);
    for (_, mut ledger) in ledgers {
        ledger.forget_head(&mut forgotten);
        ledger.forget_all(&mut forgotten);
        turns.drop_all(forgotten.drain(..));
    }
    turns.drop_all(forgotten);
}
