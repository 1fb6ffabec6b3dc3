//! A history behind its lock, and the driver of its queries.
//!
//! While the lock is held no Python code runs, no Python object is dropped and none is made that the collector tracks:
//! either could run a finaliser or the collector, those any code, and that code could come back for the lock. So what must
//! be dropped is taken away, and what must be read or counted is cloned and worked on without the lock.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyTuple, PyType};

use super::policy::{Pin, Policy};
use super::turns::Turns;
use crate::core::error::Error;
use crate::core::history::{Bounds, History, Standing};
use crate::core::item::{Kind, Outline};
use crate::core::ledger::Ledger;
use crate::core::policy::{Accounting, Limits};
use crate::core::query::{Found, Next, Query};

type Inner = History<Py<PyAny>, Arc<Policy>, Pin>;

/// A message, and what the rules knew of it when it was put.
pub type Slot = (Py<PyAny>, Outline);

/// What was found.
pub struct Window {
    /// The messages, oldest first.
    pub messages: Vec<Py<PyAny>>,
    /// Their tokens; `None` if not even the last message fits, and it is not known by how much.
    pub tokens: Option<i64>,
    /// The position of the first one behind the head and a question that is carried.
    pub start: u64,
    /// The position of that question.
    pub question: Option<u64>,
    /// How many of them are the head.
    pub head: usize,
}

impl Window {
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

/// What comes of a search.
enum Answer {
    Window(Window),
    /// The history changes all the while.
    Changing,
    /// There is more to count than was allowed.
    TooMuch,
}

/// The messages of one ring, and their ledgers.
pub struct SharedHistory {
    // A Mutex rather than PyO3's borrow checking: two threads in one ring must both succeed, not one of them raise now
    // and then.
    inner: Mutex<Inner>,
}

impl SharedHistory {
    /// An empty history.
    pub fn new(bounds: Bounds) -> Self {
        Self { inner: Mutex::new(History::new(bounds)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock panics halfway through a change, so a poisoned lock guards a sound history.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds messages, and hands back those that leave a bounded ring, oldest first.
    pub fn put(&self, slots: impl ExactSizeIterator<Item = Slot>) -> Vec<Py<PyAny>> {
        let mut forgotten = Vec::new();
        self.lock().push(slots, &mut forgotten)
    }

    /// Replaces all messages with `slots`; those that a bounded ring has no room for are dropped, the oldest first.
    ///
    /// Counts of messages that stay where they are, or come back there with the same text, are kept: a history read anew
    /// from elsewhere for every window is counted once. Likewise if only the oldest are missing.
    pub fn replace(&self, py: Python<'_>, slots: Vec<Slot>) -> PyResult<()> {
        let (bounds, first, generation, runs) = {
            let history = self.lock();
            let runs = history.ledgers().iter().map(|(policy, ledger)| Run::of(py, &history, policy, ledger));
            let runs: Vec<Run> = if history.kept_question().is_some() { Vec::new() } else { runs.collect() };
            (history.bounds(), history.messages().first(), history.generation(), runs)
        };
        let is_joined = bounds.rule.accounting == Accounting::Joined;
        let in_head = slots.iter().take_while(|(_, outline)| !is_joined && outline.kind == Kind::System).count();
        let (behind, has_room) = (&slots[in_head..], bounds.max_messages.is_none_or(|most| slots.len() <= most.get()));
        let missing = missing_before(py, &runs, first, behind)?;
        // For each ledger, from where on the new messages are not those counted.
        let mut turns = Turns::new(py);
        let mut unlike = Vec::with_capacity(runs.len());
        for run in &runs {
            let start = run.first.max(first + missing);
            let counted = run.messages.iter().skip((start - run.first) as usize);
            let mut same = 0;
            if !is_joined && !run.stands_behind(py, first, missing, behind)? {
                unlike.push(start);
                continue;
            }
            for ((message, outline), counted) in behind.iter().skip((start - first - missing) as usize).zip(counted) {
                if *outline != counted.outline || !run.has(message.bind(py), counted)? {
                    break;
                }
                same += 1;
                turns.item_done();
            }
            unlike.push(start + same);
        }
        let mut forgotten = Vec::new();
        let mut ledgers = Vec::new();
        let mut history = self.lock();
        if history.generation() == generation && has_room && unlike.len() == history.ledgers().len() {
            for (ledger, unlike) in history.ledgers_to_change().zip(unlike) {
                ledger.forget_from(unlike, &mut forgotten);
                ledger.forget_before(first + missing, &mut forgotten);
                if missing > 0 && !is_joined && ledger.first() == first + missing {
                    // Whether a window may begin with it depended on the one before.
                    ledger.forget_through(first + missing, &mut forgotten);
                }
            }
        } else {
            ledgers = history.take_ledgers();
        }
        let left = history.replace(slots, first + missing, &mut forgotten);
        drop(history);
        turns.drop_all(left.0.into_iter().chain(left.1));
        turns.drop_all(forgotten);
        drop_ledgers(ledgers, &mut turns);
        Ok(())
    }

    /// Replaces the head.
    pub fn set_head(&self, head: Vec<Slot>) {
        let mut forgotten = Vec::new();
        let left = self.lock().set_head(head, &mut forgotten);
        drop((left, forgotten));
    }

    /// Takes out the newest message.
    pub fn pop(&self) -> Option<Py<PyAny>> {
        let mut forgotten = Vec::new();
        self.lock().pop(&mut forgotten)
    }

    /// Takes out the message at `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn remove(&self, index: isize) -> Result<Py<PyAny>, usize> {
        let mut forgotten = Vec::new();
        let mut history = self.lock();
        let place = history.place(index)?;
        history.remove(place, &mut forgotten).ok_or(history.len())
    }

    /// Takes out all messages.
    pub fn clear(&self) {
        let mut forgotten = Vec::new();
        let mut history = self.lock();
        let first = history.messages().first();
        let taken = (history.take_ledgers(), history.take_messages(first, &mut forgotten));
        drop(history);
        drop((taken, forgotten));
    }

    /// The message at `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn message(&self, py: Python<'_>, index: isize) -> Result<Py<PyAny>, usize> {
        let history = self.lock();
        let message = history.get(history.place(index)?);
        message.map(|message| message.clone_ref(py)).ok_or(history.len())
    }

    /// All messages, oldest first.
    pub fn messages(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        let history = self.lock();
        history.list(0..history.len()).map(|message| message.clone_ref(py)).collect()
    }

    /// At most `count` messages from the one at `index` on, oldest first.
    pub fn messages_at(&self, py: Python<'_>, index: usize, count: usize) -> Vec<Py<PyAny>> {
        let history = self.lock();
        let end = index.saturating_add(count).min(history.len());
        history.list(index.min(end)..end).map(|message| message.clone_ref(py)).collect()
    }

    /// The messages at these positions, oldest first; `Err` has a position that a message has left for others.
    pub fn slice(&self, py: Python<'_>, range: Range<u64>) -> Result<Vec<Py<PyAny>>, u64> {
        let history = self.lock();
        let messages = history.slice(range)?;
        Ok(messages.into_iter().map(|message| message.clone_ref(py)).collect())
    }

    /// All messages, oldest first, and what the rules know of each; and where they stand under `policy`.
    pub fn standing(&self, py: Python<'_>, policy: &Arc<Policy>) -> (Vec<Slot>, Standing) {
        let history = self.lock();
        let slots = history.all().map(|(message, outline)| (message.clone_ref(py), outline)).collect();
        (slots, history.standing(policy))
    }

    /// Replaces all messages with those of a history that stood so; false if they cannot have stood so.
    pub fn restore(&self, slots: Vec<Slot>, standing: Standing, policy: &Arc<Policy>) -> bool {
        let replaced = self.lock().restore(slots, standing, policy);
        replaced.is_ok()
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// What is fixed with it.
    pub fn bounds(&self) -> Bounds {
        self.lock().bounds()
    }

    /// Forgets every count and reads every outline again.
    pub fn recount(&self, py: Python<'_>, policy: &Policy) -> PyResult<()> {
        let mut outlines = Vec::new();
        let mut turns = Turns::new(py);
        for message in self.messages(py) {
            let outline = policy.outline(message.bind(py))?;
            outlines.push((message, outline));
            turns.item_done();
        }
        let mut forgotten = Vec::new();
        let mut history = self.lock();
        let ledgers = history.take_ledgers();
        // Messages that were put or left meanwhile are not among those read; the others keep their order.
        let mut read = outlines.iter().peekable();
        let now = history.all().map(|(message, known)| {
            let is_same = |(other, _): &&Slot| message.is(other);
            let found = read.next_if(is_same).or_else(|| read.clone().find(is_same));
            found.map_or(known, |(_, outline)| *outline)
        });
        let now: Vec<Outline> = now.collect();
        let evicted = history.set_outlines(now, &mut forgotten);
        drop(history);
        turns.drop_all(outlines);
        turns.drop_all(evicted);
        turns.drop_all(forgotten);
        drop_ledgers(ledgers, &mut turns);
        Ok(())
    }

    /// The window of the window rule. For an empty history no message and 0 tokens.
    ///
    /// If other threads or the counter itself change the history all the while, the answer is the window of the history
    /// as it was at one moment of the call.
    pub fn window(&self, py: Python<'_>, policy: &Arc<Policy>, limits: Limits, verify: bool) -> PyResult<Window> {
        if let Answer::Window(window) = self.search(py, policy, limits, verify, None)? {
            return Ok(window);
        }
        // Counted anew: what was counted before may have changed too, and nobody checks it any more.
        let moment = Self { inner: Mutex::new(self.copied(py)) };
        let forgotten = moment.lock().forget_counts();
        drop(forgotten);
        match moment.search(py, policy, limits, false, None)? {
            Answer::Window(window) => Ok(window),
            _ => Err(PyRuntimeError::new_err("a history that nobody can reach changed during a search")),
        }
    }

    /// As [`window`](Self::window); `None` if more would have to be counted than `most` characters, if the history changes
    /// all the while, or if a callable would have to be called.
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
        let rule = self.lock().bounds().rule;
        let mut query = Query::new(Arc::clone(policy), rule, limits);
        let mut turns = Turns::new(py);
        loop {
            let mut history = self.lock();
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
                    let mut history = self.lock();
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
                }
                Next::HeadTooLong(head) => {
                    let (initial, limit) = (limits.initial_token_count, limits.token_limit);
                    return Err(Error::HeadExceedsLimit { head, initial, limit }.into());
                }
                Next::Changing => return Ok(Answer::Changing),
            }
        }
    }

    /// Takes over the messages and counts of `other`.
    pub fn become_copy_of(&self, other: &Self, py: Python<'_>) {
        let copy = other.copied(py);
        let replaced = std::mem::replace(&mut *self.lock(), copy);
        drop(replaced);
    }

    fn copied(&self, py: Python<'_>) -> Inner {
        self.lock().copied(
            |message| message.clone_ref(py),
            |policy| Arc::new(policy.clone_ref(py)),
            |pin| pin.clone_ref(py),
        )
    }

    /// Shows every Python object held to the collector, and those of the ring's own `policy`.
    pub fn traverse(&self, own: &Arc<Policy>, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let history = match self.inner.try_lock() {
            Ok(history) => history,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Held by another thread: what is not shown is taken to be in use.
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
            // One that a search holds too is in use.
            if Arc::strong_count(policy) == holders {
                policy.traverse(visit)?;
            }
        }
        Ok(())
    }
}

/// Drops what was counted, and lets other threads run meanwhile.
fn drop_ledgers(ledgers: Vec<(Arc<Policy>, Ledger<Pin>)>, turns: &mut Turns<'_>) {
    for (_, mut ledger) in ledgers {
        let mut forgotten = Vec::new();
        ledger.forget_all(&mut forgotten);
        turns.drop_all(forgotten);
    }
}

/// Whether two pins are of one text: the same object, or tuples of the same ones.
fn is_same(py: Python<'_>, one: &Pin, other: &Pin) -> bool {
    if one.is(other) {
        return true;
    }
    match (one.bind(py).cast_exact::<PyTuple>(), other.bind(py).cast_exact::<PyTuple>()) {
        (Ok(one), Ok(other)) if one.len() == other.len() => {
            one.iter_borrowed().zip(other.iter_borrowed()).all(|(one, other)| one.is(other))
        }
        _ => false,
    }
}

/// What the messages of a window were counted as.
#[derive(Default)]
struct Pins {
    head: Vec<Pin>,
    question: Option<Pin>,
    messages: Vec<Pin>,
}

/// Which messages of a window are not what was counted.
enum Changed {
    /// Some of the head.
    Head,
    /// The question that it carries.
    Question,
    /// Some between these positions.
    Messages(u64, u64),
}

impl Pins {
    fn of(py: Python<'_>, history: &Inner, policy: &Arc<Policy>, found: &Found) -> Self {
        let Some(ledger) = history.ledger(policy) else { return Self::default() };
        let head = ledger.head().get(found.head.clone()).unwrap_or_default();
        let is_counted = !ledger.is_empty() && ledger.first() <= found.start;
        Self {
            head: head.iter().map(|(_, pin)| pin.clone_ref(py)).collect(),
            question: found.question.and_then(|position| ledger.pin_of_question(position)).map(|pin| pin.clone_ref(py)),
            messages: if is_counted {
                ledger.pins_since(found.start).map(|pin| pin.clone_ref(py)).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// What has changed of the window `found`, whose messages are given.
    fn changed(
        &self,
        py: Python<'_>,
        policy: &Policy,
        found: &Found,
        messages: &[Py<PyAny>],
    ) -> PyResult<Option<Changed>> {
        let mut turns = Turns::new(py);
        let (head, behind) = messages.split_at(found.head.len().min(messages.len()));
        let still_has = |message: &Py<PyAny>, pin: &Pin| -> PyResult<bool> {
            let (message, pin) = (message.bind(py), pin.bind(py));
            Ok(policy.surely_has(message, pin.as_ptr() as usize)? || policy.still_has(message, pin)?)
        };
        for (message, pin) in head.iter().zip(&self.head) {
            if !still_has(message, pin)? {
                return Ok(Some(Changed::Head));
            }
        }
        let (question, behind) = behind.split_at(usize::from(found.question.is_some()).min(behind.len()));
        for (message, pin) in question.iter().zip(&self.question) {
            if !still_has(message, pin)? {
                return Ok(Some(Changed::Question));
            }
        }
        let mut changed: Option<(u64, u64)> = None;
        for ((position, message), pin) in (found.start..).zip(behind).zip(&self.messages) {
            if !still_has(message, pin)? {
                changed = Some((changed.map_or(position, |(first, _)| first), position));
            }
            turns.item_done();
        }
        Ok(changed.map(|(first, last)| Changed::Messages(first, last)))
    }
}

/// The counted messages of a ledger.
struct Run {
    policy: Arc<Policy>,
    first: u64,
    messages: Vec<Known>,
    /// What the rules know of the messages before them.
    older: Vec<Outline>,
    /// The question before them that was counted.
    carried: Option<(u64, Known)>,
}

/// One of them: what it was counted as, and what the rules knew of it.
struct Known {
    message: Py<PyAny>,
    pin: Pin,
    outline: Outline,
}

impl Run {
    fn of(py: Python<'_>, history: &Inner, policy: &Arc<Policy>, ledger: &Ledger<Pin>) -> Self {
        let first = ledger.first().max(history.messages().first());
        let pins = ledger.pins_since(first).map(|pin| pin.clone_ref(py));
        let messages = history.messages().since(first).zip(history.outlines().since(first));
        let messages = messages.zip(pins).map(|((message, outline), pin)| Known {
            message: message.clone_ref(py),
            pin,
            outline: *outline,
        });
        let older = history.outlines().iter().take((first - history.messages().first()) as usize).copied();
        let carried = ledger.carried().and_then(|(position, _)| {
            let (message, outline) = history.messages().get(position).zip(history.outlines().get(position))?;
            let pin = ledger.pin_of_question(position)?.clone_ref(py);
            Some((position, Known { message: message.clone_ref(py), pin, outline: *outline }))
        });
        Self { policy: Arc::clone(policy), first, messages: messages.collect(), older: older.collect(), carried }
    }

    /// Whether what stands before the counted messages makes the same starts of them in `slots`, where so many of the oldest
    /// are `missing`.
    fn stands_behind(&self, py: Python<'_>, first: u64, missing: u64, slots: &[Slot]) -> PyResult<bool> {
        let older = self.older.get(missing as usize..).unwrap_or_default();
        if slots.len() < older.len() || older.iter().zip(slots).any(|(known, (_, outline))| known != outline) {
            return Ok(false);
        }
        let Some((position, known)) = &self.carried else { return Ok(true) };
        match position.checked_sub(first + missing).and_then(|index| slots.get(index as usize)) {
            Some((message, outline)) => Ok(*outline == known.outline && self.has(message.bind(py), known)?),
            None => Ok(true),
        }
    }

    /// Whether `message` counts as the one that is `known`.
    fn has(&self, message: &Bound<'_, PyAny>, known: &Known) -> PyResult<bool> {
        let py = message.py();
        if message.is(&known.message) || !self.policy.is_read_by_python() {
            return Ok(self.policy.still_has(message, known.pin.bind(py))?
                && (message.is(&known.message) || self.policy.has_shape_of(message, known.message.bind(py))));
        }
        Ok(false) // what Python code says of another one is not known
    }
}

/// How many of the oldest messages are missing in `slots`, if what follows the counted messages' first one looks the same.
fn missing_before(py: Python<'_>, runs: &[Run], first: u64, slots: &[Slot]) -> PyResult<u64> {
    let Some(run) = runs.last() else { return Ok(0) };
    let Some(known) = run.messages.first() else { return Ok(0) };
    let place = (run.first - first) as usize;
    for missing in 0..=place {
        if let Some((message, _)) = slots.get(place - missing)
            && run.has(message.bind(py), known)?
        {
            return Ok(missing as u64);
        }
    }
    Ok(0)
}
