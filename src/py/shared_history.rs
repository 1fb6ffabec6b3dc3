//! A history behind its lock, and the driver of its queries.
//!
//! While the lock is held no Python code runs, no Python object is dropped and none is made that the collector tracks:
//! either could run a finaliser or the collector, those any code, and that code could come back for the lock. So what must
//! be dropped is taken away, and what must be read or counted is cloned and worked on without the lock.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::counter::TokenCounter;
use super::policy::{Pin, Policy};
use super::turns::Turns;
use crate::core::history::History;
use crate::core::item::Outline;
use crate::core::ledger::Ledger;
use crate::core::query::{Next, Query};

/// Messages that are cloned or looked at before others get a turn.
const PORTION: usize = 1024;
/// Messages whose moving is worth giving up the GIL. The lock is taken and given back without it then: whoever waits for the
/// lock with the GIL does not keep it from its owner.
const LARGE: usize = 4096;

type Inner = History<Py<PyAny>, Arc<Policy>, Pin>;

/// A message, and what the rules knew of it when it was put.
pub type Slot = (Py<PyAny>, Outline);

/// What was found.
pub struct Window {
    /// The messages, oldest first.
    pub messages: Vec<Py<PyAny>>,
    /// Their tokens; `None` if not even the last message fits, and it is not known by how much.
    pub tokens: Option<i64>,
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
    /// An empty history of at most `bound` messages, or any number.
    pub fn new(bound: Option<NonZeroUsize>) -> Self {
        Self { inner: Mutex::new(History::new(bound)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock panics halfway through a change, so a poisoned lock guards a sound history.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds messages, and hands back those that leave a bounded ring, oldest first.
    pub fn put(&self, turns: &mut Turns<'_>, slots: impl ExactSizeIterator<Item = Slot>) -> Vec<Py<PyAny>> {
        let mut forgotten = Vec::new();
        let evicted = self.lock().push(slots, &mut forgotten);
        turns.drop_all(forgotten);
        evicted
    }

    /// Replaces all messages with `slots`; those that a bounded ring has no room for are dropped, the oldest first.
    ///
    /// Counts of messages that stay where they are, or come back there with the same text, are kept: a history read anew
    /// from elsewhere for every window is counted once. Likewise if only the oldest are missing.
    pub fn replace(&self, py: Python<'_>, mut slots: Vec<Slot>) -> PyResult<()> {
        let mut turns = Turns::new(py);
        let excess = self.bound().map_or(0, |bound| slots.len().saturating_sub(bound.get()));
        let left_out: Vec<Slot> = slots.drain(..excess).collect();
        let (first, generation, counted) = {
            let history = self.lock();
            let first = history.messages().first();
            let counted = history.ledgers().iter().map(|(policy, ledger)| {
                let from = ledger.first().max(first);
                (Arc::clone(policy), from, ledger.pins_since(from).next().map(|pin| pin.clone_ref(py)))
            });
            (first, history.generation(), counted.collect::<Vec<_>>())
        };
        let missing = match counted.last() {
            Some((policy, from, Some(pin))) => {
                missing_before(py, &slots, (*from - first) as usize, policy, pin, &mut turns)?
            }
            _ => 0,
        };
        // For each ledger, from where on the new messages are not those counted.
        let mut unlike = Vec::with_capacity(counted.len());
        for (policy, from, _) in &counted {
            let from = (*from).max(first + missing);
            let new = slots.get((from - first - missing) as usize..).unwrap_or_default();
            unlike.push(from + self.count_alike(py, policy, generation, from, new, &mut turns)?);
        }
        let length = slots.len();
        let change = move || {
            let (mut forgotten, mut ledgers) = (Vec::new(), Vec::new());
            let mut history = self.lock();
            if history.generation() == generation && history.messages().first() == first {
                for (ledger, unlike) in history.ledgers_to_change().zip(unlike) {
                    ledger.forget_from(unlike, &mut forgotten);
                    ledger.forget_before(first + missing, &mut forgotten);
                }
            } else {
                ledgers = history.take_ledgers();
            }
            let replaced = history.take_messages(first + missing);
            let evicted = history.push(slots.into_iter(), &mut forgotten);
            (replaced, evicted, ledgers, forgotten)
        };
        let (replaced, evicted, ledgers, forgotten) = if length < LARGE { change() } else { py.detach(change) };
        turns.drop_all(left_out);
        turns.drop_all(replaced.into_iter().chain(evicted).chain(forgotten));
        drop_ledgers(ledgers, &mut turns);
        Ok(())
    }

    /// How many of `messages` are those that are counted from `from` on.
    fn count_alike(
        &self,
        py: Python<'_>,
        policy: &Arc<Policy>,
        generation: u64,
        from: u64,
        messages: &[Slot],
        turns: &mut Turns<'_>,
    ) -> PyResult<u64> {
        let mut alike = 0;
        for portion in messages.chunks(PORTION) {
            let counted: Vec<(usize, Outline)> = {
                let history = self.lock();
                // If it has changed, nobody asks for the number.
                let ledger = history.ledger(policy).filter(|_| history.generation() == generation);
                let marks = ledger.into_iter().flat_map(|ledger| ledger.pins_since(from + alike));
                let marks = marks.map(|pin| pin.as_ptr() as usize);
                marks.zip(history.outlines().since(from + alike).copied()).take(portion.len()).collect()
            };
            for ((message, outline), (mark, outlined)) in portion.iter().zip(&counted) {
                let is_alike = outline == outlined
                    && (policy.surely_has(message.bind(py), *mark)?
                        || self.still_has(py, policy, generation, from + alike, message)?);
                if !is_alike {
                    return Ok(alike);
                }
                alike += 1;
                turns.item_done();
            }
            if counted.len() < portion.len() {
                break;
            }
        }
        Ok(alike)
    }

    /// Whether `message` still is what was counted at `position`, by a look at its pin. `false` if the history has changed
    /// meanwhile.
    fn still_has(
        &self,
        py: Python<'_>,
        policy: &Arc<Policy>,
        generation: u64,
        position: u64,
        message: &Py<PyAny>,
    ) -> PyResult<bool> {
        let pin = {
            let history = self.lock();
            let ledger = history.ledger(policy).filter(|_| history.generation() == generation);
            ledger.and_then(|ledger| ledger.pin(position)).map(|pin| pin.clone_ref(py))
        };
        pin.map_or(Ok(false), |pin| policy.still_has(message.bind(py), pin.bind(py)))
    }

    /// Takes out the newest message.
    pub fn pop(&self) -> Option<Py<PyAny>> {
        let mut forgotten = Vec::new();
        self.lock().pop(&mut forgotten)
    }

    /// Takes out the message at `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn remove(&self, py: Python<'_>, index: isize) -> Result<Py<PyAny>, usize> {
        let mut forgotten = Vec::new();
        let mut history = self.lock();
        let position = history.position(index)?;
        let removed = history.remove(position, &mut forgotten).ok_or(history.messages().len());
        drop(history);
        Turns::new(py).drop_all(forgotten);
        removed
    }

    /// Takes out all messages.
    pub fn clear(&self, turns: Option<&mut Turns<'_>>) {
        let mut history = self.lock();
        let first = history.messages().first();
        let (ledgers, messages) = (history.take_ledgers(), history.take_messages(first));
        drop(history);
        if let Some(turns) = turns {
            drop_ledgers(ledgers, turns);
            turns.drop_all(messages);
        }
    }

    /// The message at `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn message(&self, py: Python<'_>, index: isize) -> Result<Py<PyAny>, usize> {
        let history = self.lock();
        let message = history.messages().get(history.position(index)?);
        message.map(|message| message.clone_ref(py)).ok_or(history.messages().len())
    }

    /// All messages, oldest first.
    pub fn messages(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        self.snapshot(py, History::range, |history, range| clones(py, history, range))
    }

    /// At most `count` messages from the one at `index` on, oldest first.
    pub fn messages_at(&self, py: Python<'_>, index: usize, count: usize) -> Vec<Py<PyAny>> {
        let range = |history: &Inner| {
            let all = history.range();
            let start = (all.start + index as u64).min(all.end);
            start..(start + count as u64).min(all.end)
        };
        self.snapshot(py, range, |history, range| clones(py, history, range))
    }

    /// All messages, oldest first, and what the rules know of each.
    pub fn slots(&self, py: Python<'_>) -> Vec<Slot> {
        self.snapshot(py, History::range, |history, range| {
            let outlines = history.outlines().since(range.start).copied();
            clones(py, history, range).into_iter().zip(outlines).collect()
        })
    }

    /// What `read` finds in a range of positions, as it is at one moment: a portion at a time, and all at once if the history
    /// changes meanwhile.
    fn snapshot<T>(
        &self,
        py: Python<'_>,
        range: impl Fn(&Inner) -> Range<u64>,
        read: impl Fn(&Inner, Range<u64>) -> Vec<T>,
    ) -> Vec<T> {
        let mut turns = Turns::new(py);
        let mut history = self.lock();
        let (generation, wanted) = (history.generation(), range(&history));
        let mut found = Vec::with_capacity((wanted.end - wanted.start) as usize);
        let mut from = wanted.start;
        while history.generation() == generation {
            let end = wanted.end.min(from + PORTION as u64);
            found.extend(read(&history, from..end));
            if end == wanted.end {
                return found;
            }
            from = end;
            drop(history);
            turns.offer();
            history = self.lock();
        }
        let range = range(&history);
        let all = read(&history, range);
        drop(history);
        turns.drop_all(found);
        all
    }

    /// The policy `own` with another counter: the one that a ledger has, or a new one.
    pub fn policy_with(&self, own: &Policy, counter: &Bound<'_, TokenCounter>) -> Arc<Policy> {
        let known = {
            let history = self.lock();
            let mut policies = history.ledgers().iter().map(|(policy, _)| policy);
            policies.find(|policy| policy.is_with_counter(own, counter.get())).map(Arc::clone)
        };
        known.unwrap_or_else(|| Arc::new(own.with_counter(counter)))
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.lock().messages().len()
    }

    /// The most messages that are kept, `None` for any number.
    pub fn bound(&self) -> Option<NonZeroUsize> {
        self.lock().messages().bound()
    }

    /// Forgets every count and reads every outline again.
    pub fn recount(&self, py: Python<'_>, policy: &Policy) -> PyResult<()> {
        let mut turns = Turns::new(py);
        let messages = self.messages(py);
        let mut slots: Vec<Slot> = Vec::with_capacity(messages.len());
        for message in messages {
            let outline = policy.outline(message.bind(py))?;
            slots.push((message, outline));
            turns.item_done();
        }
        let change = || {
            let mut history = self.lock();
            let ledgers = history.take_ledgers();
            // Messages that were put or left meanwhile are not among those read; the others keep their order.
            let mut read = slots.iter().peekable();
            for position in history.range() {
                let is_same =
                    |(message, _): &&Slot| history.messages().get(position).is_some_and(|now| now.is(message));
                if let Some((_, outline)) = read.next_if(is_same).or_else(|| read.clone().find(is_same)) {
                    let outline = *outline;
                    history.set_outline(position, outline);
                }
            }
            ledgers
        };
        let ledgers = if slots.len() < LARGE { change() } else { py.detach(change) };
        drop_ledgers(ledgers, &mut turns);
        turns.drop_all(slots);
        Ok(())
    }

    /// The window of the window rule. For an empty history no message and 0 tokens.
    ///
    /// If other threads or the counter itself change the history all the while, the answer is the window of the history
    /// as it was at one moment of the call.
    pub fn window(&self, py: Python<'_>, policy: &Arc<Policy>, allowance: i64, verify: bool) -> PyResult<Window> {
        if let Answer::Window(window) = self.search(py, policy, allowance, verify, true, None)? {
            return Ok(window);
        }
        // Counted anew: what was counted before may have changed too, and nobody checks it any more.
        let moment = Self { inner: Mutex::new(self.copied(py)) };
        drop(moment.lock().take_ledgers());
        match moment.search(py, policy, allowance, false, false, None)? {
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
        allowance: i64,
        most: i64,
    ) -> PyResult<Option<Window>> {
        match self.search(py, policy, allowance, true, true, Some(most))? {
            Answer::Window(window) => Ok(Some(window)),
            Answer::Changing | Answer::TooMuch => Ok(None),
        }
    }

    /// Asks a query. `verify` looks at the messages of the window it finds, `is_kept` at those that counts to be kept depend
    /// on.
    fn search(
        &self,
        py: Python<'_>,
        policy: &Arc<Policy>,
        allowance: i64,
        verify: bool,
        is_kept: bool,
        most: Option<i64>,
    ) -> PyResult<Answer> {
        let mut query = Query::new(Arc::clone(policy), policy.accounting(), allowance);
        let mut turns = Turns::new(py);
        let answer = self.drive(py, policy, &mut query, verify, is_kept, most, &mut turns);
        let (forgotten, retired) = query.into_forgotten();
        turns.drop_all(forgotten);
        drop_ledgers(retired, &mut turns);
        answer
    }

    /// Does what a query wants.
    #[expect(clippy::too_many_arguments, reason = "what a search is made of")]
    fn drive(
        &self,
        py: Python<'_>,
        policy: &Arc<Policy>,
        query: &mut Query<Arc<Policy>, Pin>,
        verify: bool,
        is_kept: bool,
        mut most: Option<i64>,
        turns: &mut Turns<'_>,
    ) -> PyResult<Answer> {
        loop {
            if query.counted() >= LARGE {
                // Adding them to the ledger takes long. What it says then it says again.
                py.detach(|| _ = query.next(&mut self.lock()));
            }
            let mut history = self.lock();
            match query.next(&mut history) {
                Next::Read(range) => {
                    let messages = history.messages().since(range.start);
                    let messages = messages.take((range.end - range.start) as usize);
                    let messages: Vec<Py<PyAny>> = messages.map(|message| message.clone_ref(py)).collect();
                    let again = query.read_again().filter(|again| is_kept && range.contains(again));
                    let again =
                        again.and_then(|again| Some((again, history.ledger(policy)?.pin(again)?.clone_ref(py))));
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
                    if let Some((position, pin)) = again {
                        let (_, now) = &contents[(position - range.start) as usize];
                        if !policy.same_pin(now.bind(py), pin.bind(py))? {
                            self.forget_changed(query, position, position, turns);
                            continue;
                        }
                    }
                    policy.feed(py, query, contents)?;
                    turns.offer();
                }
                Next::Found(None) => return Ok(Answer::Window(Window { messages: Vec::new(), tokens: Some(0) })),
                Next::Found(Some(fit)) => {
                    if let Some(messages) = self.verified(py, query, fit.start, history, verify, turns)? {
                        return Ok(Answer::Window(Window { messages, tokens: fit.tokens }));
                    }
                }
                Next::Changing => return Ok(Answer::Changing),
            }
        }
    }

    /// The messages of the window that begins at `start`. `None` if the history or one of them has changed since they were
    /// counted: then the query has to go on.
    fn verified<'a>(
        &'a self,
        py: Python<'_>,
        query: &Query<Arc<Policy>, Pin>,
        start: u64,
        mut history: MutexGuard<'a, Inner>,
        verify: bool,
        turns: &mut Turns<'_>,
    ) -> PyResult<Option<Vec<Py<PyAny>>>> {
        let (policy, end) = (query.policy(), query.end());
        let mut messages = Vec::with_capacity((end - start) as usize);
        // What was counted goes by its address, which nothing else can have while the ledger keeps it. Taking a reference
        // would take as long as the rest of the look at a message.
        let mut marks = Vec::with_capacity(if verify { messages.capacity().min(PORTION) } else { 0 });
        let mut changed: Option<(u64, u64)> = None;
        let mut from = start;
        while from < end {
            if history.generation() != query.generation() {
                drop(history);
                return Ok(None);
            }
            let portion = PORTION.min((end - from) as usize);
            messages.extend(history.messages().since(from).take(portion).map(|message| message.clone_ref(py)));
            marks.clear();
            if verify && let Some(ledger) = history.ledger(policy).filter(|ledger| ledger.first() <= start) {
                marks.extend(ledger.pins_since(from).take(portion).map(|pin| pin.as_ptr() as usize));
            }
            drop(history);
            for ((position, message), mark) in (from..).zip(&messages[(from - start) as usize..]).zip(&marks) {
                if !policy.surely_has(message.bind(py), *mark)? {
                    if !self.still_has(py, policy, query.generation(), position, message)? {
                        changed = Some((changed.map_or(position, |(first, _)| first), position));
                    }
                    turns.item_done();
                }
            }
            from += portion as u64;
            if from < end {
                turns.offer();
            }
            history = self.lock();
        }
        let is_same = !verify || history.generation() == query.generation();
        drop(history);
        if let Some((first, last)) = changed {
            self.forget_changed(query, first, last, turns);
        }
        Ok((is_same && changed.is_none()).then_some(messages))
    }

    /// Forgets what was counted of the messages from `first` to `last`, unless more has changed since the query's answer.
    fn forget_changed(&self, query: &Query<Arc<Policy>, Pin>, first: u64, last: u64, turns: &mut Turns<'_>) {
        let mut forgotten = Vec::new();
        let mut history = self.lock();
        if history.generation() == query.generation() {
            history.forget_changed(query.policy(), first, last, &mut forgotten);
        }
        drop(history);
        turns.drop_all(forgotten);
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
        for message in history.messages().iter() {
            visit.call(message)?;
        }
        let mut policies = vec![(own, 1)];
        for (policy, ledger) in history.ledgers() {
            for pin in ledger.pins_since(0) {
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

/// References to the messages at these positions.
fn clones(py: Python<'_>, history: &Inner, range: Range<u64>) -> Vec<Py<PyAny>> {
    let messages = history.messages().since(range.start).take((range.end - range.start) as usize);
    messages.map(|message| message.clone_ref(py)).collect()
}

fn drop_ledgers(ledgers: Vec<(Arc<Policy>, Ledger<Pin>)>, turns: &mut Turns<'_>) {
    let mut pins = Vec::new();
    for (_, mut ledger) in ledgers {
        ledger.forget_all(&mut pins);
    }
    turns.drop_all(pins);
}

/// How many of the oldest messages are missing in `slots`, if what follows the counted messages' first one, which was at
/// `place`, looks the same.
fn missing_before(
    py: Python<'_>,
    slots: &[Slot],
    place: usize,
    policy: &Policy,
    pin: &Pin,
    turns: &mut Turns<'_>,
) -> PyResult<u64> {
    for missing in 0..=place {
        if let Some((message, _)) = slots.get(place - missing)
            && policy.still_has(message.bind(py), pin.bind(py))?
        {
            return Ok(missing as u64);
        }
        turns.item_done();
    }
    Ok(0)
}
