//! The messages and ledgers of a ring behind one lock, and the way from a limit to a window.
//!
//! Two rules keep this free of deadlocks: no Python code runs while the lock is held, and no Python object is dropped or
//! container created then (either can run a finaliser or the collector, and those any code). So every step takes what it
//! needs under the lock, works without it, and comes back with the result; what was forgotten is dropped after unlocking.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::counter::{Counting, DETACH_BYTES, TokenCounter};
use super::message;
use crate::core::count::Counter;
use crate::core::joint::Text;
use crate::core::ledger::{Entry, Fit, Ledger};
use crate::core::ring::Ring;
use crate::core::window::{Need, Pass, SLACK, earliest_blank_fit, need};

/// Ledgers kept with a history, least recently used out: a fresh callable for every request must not leak.
const LEDGERS: usize = 4;

/// Steps towards a window before giving up on a history that changes all the while. One that rests needs at most five.
const STEPS: usize = 32;

/// A message in the ring.
pub struct Slot {
    message: Py<PyAny>,
    /// Whether a window may begin with it, by the role it had when it was put.
    may_start: bool,
}

/// What `get` found.
pub struct Window {
    /// The messages, oldest first.
    pub messages: Vec<Py<PyAny>>,
    /// Tokens of their texts joined by one space.
    pub tokens: i64,
}

/// A message's content as it was counted: see [`message`].
type Pin = Py<PyAny>;

/// The messages of one ring, and their ledgers.
pub struct History {
    // A Mutex rather than PyO3's borrow checking: two threads in one ring must both succeed, not one of them raise now
    // and then.
    state: Mutex<State>,
}

struct State {
    ring: Ring<Slot>,
    /// The most recently used last.
    ledgers: Vec<(Py<TokenCounter>, Ledger<Pin>)>,
    /// Grows when messages leave or change other than by eviction: what is being counted is void then.
    epoch: u64,
}

/// What was taken under the lock to work on without it.
enum Step {
    Empty,
    Count {
        need: Need,
        epoch: u64,
        history: Range<u64>,
        older: Vec<Pin>,
        newer: Vec<Pin>,
        budget: i64,
    },
    /// Nothing else fits: the blank messages at the end must be counted together. `None` may not start a window.
    BlankTail {
        epoch: u64,
        first: u64,
        tail: Vec<(Pin, bool)>,
    },
    Found {
        fit: Fit,
        epoch: u64,
        messages: Vec<Py<PyAny>>,
        pins: Vec<Pin>,
    },
}

/// What is asked of a history.
#[derive(Clone, Copy)]
pub struct Request<'a, 'py> {
    /// Counts the texts.
    pub counter: &'a Bound<'py, TokenCounter>,
    /// Tokens that the window may have.
    pub allowance: i64,
    /// Whether to check that the window's messages still have the texts that were counted.
    pub verify: bool,
}

impl Slot {
    /// A slot for `message`, of which it is known whether a window may begin with it.
    pub fn known(message: Bound<'_, PyAny>, may_start: bool) -> Self {
        Self { message: message.unbind(), may_start }
    }

    /// The message.
    pub fn into_message(self) -> Py<PyAny> {
        self.message
    }

    /// A slot for `message`, which is checked.
    pub fn new(message: Bound<'_, PyAny>) -> PyResult<Self> {
        let may_start = message::check(&message)?;
        Ok(Self { message: message.unbind(), may_start })
    }
}

impl History {
    /// An empty history of at most `bound` messages, or any number.
    pub fn new(bound: Option<NonZeroUsize>) -> Self {
        Self { state: Mutex::new(State { ring: Ring::new(bound), ledgers: Vec::new(), epoch: 0 }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics halfway through a change, so a poisoned lock guards a sound state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds messages, and hands back those that leave a bounded ring, oldest first.
    #[must_use = "what leaves must be dropped without the lock"]
    pub fn put(&self, slots: impl ExactSizeIterator<Item = Slot>) -> Vec<Slot> {
        let mut forgotten = Vec::new();
        let mut state = self.lock();
        state.ring.reserve(slots.len());
        let evicted: Vec<Slot> = slots.filter_map(|slot| state.ring.push(slot)).collect();
        if !evicted.is_empty() {
            let first = state.ring.first();
            state.ledgers.iter_mut().for_each(|(_, ledger)| ledger.forget_before(first, &mut forgotten));
        }
        drop(state);
        evicted
    }

    /// Puts `slots` in the place of all messages; those that a bounded ring has no room for are dropped, the oldest first.
    ///
    /// Counts of messages that stay where they are, or come back there with the same text, are kept: a history read anew
    /// from elsewhere for every window is counted once.
    pub fn replace(&self, py: Python<'_>, mut slots: Vec<Slot>) -> PyResult<()> {
        let (first, epoch, known) = {
            let state = self.lock();
            let excess = state.ring.bound().map_or(0, |bound| slots.len().saturating_sub(bound.get()));
            let excess: Vec<Slot> = slots.drain(..excess).collect();
            let known: Vec<_> = state.ledgers.iter().map(|entry| state.counted(py, entry)).collect();
            let seen = (state.ring.first(), state.epoch, known);
            drop(state);
            drop(excess);
            seen
        };
        // For each ledger where it begins, and from where on the new messages are not those counted.
        let mut unlike = Vec::with_capacity(known.len());
        for (counter, start, counted) in &known {
            let mut same = 0;
            for (slot, (pin, may_start)) in slots.iter().skip((start - first) as usize).zip(counted) {
                if slot.may_start != *may_start || !message::still_has(slot.message.bind(py), pin.bind(py))? {
                    break;
                }
                same += 1;
            }
            unlike.push((counter.as_ptr(), *start, start + same));
        }
        let mut forgotten = Vec::new();
        let mut ledgers = Vec::new();
        let mut state = self.lock();
        let as_seen = unlike.iter().map(|(counter, start, _)| (*counter, *start));
        let is_now = state.ledgers.iter().map(|(counter, ledger)| (counter.as_ptr(), ledger.first().max(first)));
        if state.epoch == epoch && state.ring.first() == first && as_seen.eq(is_now) {
            state.epoch += 1;
            for ((_, ledger), (_, start, unlike)) in state.ledgers.iter_mut().zip(unlike) {
                ledger.forget_from(unlike, &mut forgotten);
                if start > first {
                    // What stands before the first counted message was not compared.
                    ledger.forget_through(start - 1, &mut forgotten);
                }
            }
        } else {
            ledgers = state.forget_all();
        }
        let replaced = state.ring.take();
        state.ring.reserve(slots.len());
        let evicted: Vec<Slot> = slots.into_iter().filter_map(|slot| state.ring.push(slot)).collect();
        drop(state);
        drop((replaced, evicted, ledgers, forgotten));
        Ok(())
    }

    /// Takes out the newest message.
    pub fn pop(&self) -> Option<Py<PyAny>> {
        let mut forgotten = Vec::new();
        let mut state = self.lock();
        let slot = state.ring.pop()?;
        let end = state.ring.end();
        state.epoch += 1;
        state.ledgers.iter_mut().for_each(|(_, ledger)| ledger.forget_from(end, &mut forgotten));
        drop(state);
        Some(slot.message)
    }

    /// Takes out the message at `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn remove(&self, index: isize) -> Result<Py<PyAny>, usize> {
        let mut forgotten = Vec::new();
        let mut state = self.lock();
        let position = state.position(index).ok_or(state.ring.len())?;
        let slot = state.ring.remove(position).ok_or(state.ring.len())?;
        state.epoch += 1;
        state.ledgers.iter_mut().for_each(|(_, ledger)| ledger.forget_removed(position, &mut forgotten));
        drop(state);
        Ok(slot.message)
    }

    /// The message at `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn message(&self, py: Python<'_>, index: isize) -> Result<Py<PyAny>, usize> {
        let state = self.lock();
        let slot = state.position(index).and_then(|position| state.ring.get(position));
        slot.map(|slot| slot.message.clone_ref(py)).ok_or(state.ring.len())
    }

    /// All messages, oldest first.
    pub fn messages(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        self.lock().ring.iter().map(|slot| slot.message.clone_ref(py)).collect()
    }

    /// Whether a window may begin with each message, by its role.
    pub fn may_start(&self) -> Vec<bool> {
        self.lock().ring.iter().map(|slot| slot.may_start).collect()
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.lock().ring.len()
    }

    /// The most messages that are kept, `None` for any number.
    pub fn bound(&self) -> Option<NonZeroUsize> {
        self.lock().ring.bound()
    }

    /// Forgets every count and reads every role again.
    pub fn recount(&self, py: Python<'_>) -> PyResult<()> {
        let slots = self.messages(py).into_iter().map(|message| Slot::new(message.into_bound(py)));
        let slots: Vec<Slot> = slots.collect::<PyResult<_>>()?;
        let mut state = self.lock();
        let ledgers = state.forget_all();
        // Messages that were put or left meanwhile are not among `slots`; the others keep their order.
        let mut read = slots.iter();
        for slot in state.ring.iter_mut() {
            if let Some(fresh) = read.by_ref().find(|fresh| fresh.message.is(&slot.message)) {
                slot.may_start = fresh.may_start;
            }
        }
        drop(state);
        drop(ledgers);
        Ok(())
    }

    /// The window of the window rule. For an empty history no message and 0 tokens.
    ///
    /// If other threads or the counter itself change the history all the while, the answer is the window of the history
    /// as it was at one moment of the call.
    pub fn window(&self, request: Request<'_, '_>) -> PyResult<Window> {
        for _ in 0..STEPS {
            if let Some(window) = self.step(request)? {
                return Ok(window);
            }
        }
        let moment = self.copy(request.counter.py());
        let request = Request { verify: false, ..request };
        loop {
            if let Some(window) = moment.step(request)? {
                return Ok(window);
            }
        }
    }

    /// One step towards the window: the window itself, or `None` when something was counted or has changed.
    fn step(&self, request: Request<'_, '_>) -> PyResult<Option<Window>> {
        let py = request.counter.py();
        let mut forgotten = Vec::new();
        let mut retired = None;
        let step = self.lock().next_step(request, &mut forgotten, &mut retired);
        drop((forgotten, retired));
        match step {
            Step::Empty => Ok(Some(Window { messages: Vec::new(), tokens: 0 })),
            Step::Count { need, epoch, history, older, newer, budget } => {
                let read = |pins: Vec<Pin>| pins.iter().map(|pin| read(pin.bind(py), false)).collect::<PyResult<_>>();
                let (Need::Older(range) | Need::Newer(range)) = need.clone() else { return Ok(None) };
                let pass = Pass::new(range, read(older)?, read(newer)?, budget);
                self.count(request, pass, &need, epoch, history)?;
                Ok(None)
            }
            Step::BlankTail { epoch, first, tail } => {
                let texts = tail.iter().map(|(pin, may_start)| read(pin.bind(py), *may_start));
                let texts: Vec<Text> = texts.collect::<PyResult<_>>()?;
                let last = first + texts.len() as u64 - 1;
                let fit = match request.counter.get().counting() {
                    Counting::Native(encoding) => {
                        let Ok(fit) = py.detach(|| earliest_blank_fit(*encoding, first, &texts, request.allowance));
                        fit
                    }
                    Counting::Callable(callable) => {
                        earliest_blank_fit(&callable.bind(py), first, &texts, request.allowance)?
                    }
                };
                let mut state = self.lock();
                if state.epoch != epoch || state.ring.end() != last + 1 || state.ring.first() > first {
                    return Ok(None);
                }
                let fit = fit.unwrap_or(Fit { start: last, tokens: 0 });
                let found = state.found(py, fit, request.verify.then_some(request.counter));
                drop(state);
                self.verified(request, found)
            }
            found @ Step::Found { .. } => self.verified(request, found),
        }
    }

    /// The window found, unless one of its messages has no longer the text that was counted: then what was counted of
    /// those is forgotten.
    fn verified(&self, request: Request<'_, '_>, found: Step) -> PyResult<Option<Window>> {
        let Step::Found { fit, epoch, messages, pins } = found else { return Ok(None) };
        let py = request.counter.py();
        let mut changed: Option<(u64, u64)> = None;
        for ((position, message), pin) in (fit.start..).zip(&messages).zip(&pins) {
            if !message::still_has(message.bind(py), pin.bind(py))? {
                changed = Some((changed.map_or(position, |(first, _)| first), position));
            }
        }
        let Some((first, last)) = changed else { return Ok(Some(Window { messages, tokens: fit.tokens })) };
        let mut forgotten = Vec::new();
        let mut state = self.lock();
        if state.epoch == epoch {
            state.epoch += 1;
            if let Some(ledger) = state.ledger_if_any(request.counter) {
                // Either side of a change can stay counted: the longer one.
                if last - ledger.first().min(last) < ledger.end().max(first) - first {
                    ledger.forget_through(last, &mut forgotten);
                } else {
                    ledger.forget_from(first, &mut forgotten);
                }
            }
        }
        drop(state);
        Ok(None)
    }

    /// Carries out `pass`, and adds what it measured to the ledger if that still wants it.
    fn count(
        &self,
        request: Request<'_, '_>,
        mut pass: Pass,
        need: &Need,
        epoch: u64,
        history: Range<u64>,
    ) -> PyResult<()> {
        let py = request.counter.py();
        let mut kept: Vec<(Pin, bool)> = Vec::new();
        while let Some(wanted) = pass.wants() {
            let Some(slots) = self.lock().slots(py, wanted.clone(), epoch) else { return Ok(()) };
            let mut texts = Vec::with_capacity(slots.len());
            let mut pins = Vec::with_capacity(slots.len());
            for (position, slot) in wanted.zip(slots) {
                let pin = message::pin(slot.message.bind(py))?;
                // The history's first message is a legal start whatever its role.
                texts.push(read(&pin, slot.may_start || position == history.start)?);
                pins.push((pin.unbind(), slot.may_start));
            }
            kept.extend(pins.into_iter().rev());
            match request.counter.get().counting() {
                Counting::Native(encoding) => feed_native(py, &mut pass, texts, *encoding),
                Counting::Callable(callable) => pass.feed(texts, &callable.bind(py))?,
            }
        }
        let (measures, complete) = pass.finish();
        let entries = measures.into_iter().zip(kept.drain(..));
        let entries: Vec<_> = entries.map(|(measure, (pin, may_start))| Entry { measure, may_start, pin }).collect();
        let mut forgotten = Vec::new();
        let mut state = self.lock();
        let unused = state.commit(request.counter, entries, need, complete, epoch, &mut forgotten);
        drop(state);
        drop((unused, forgotten));
        Ok(())
    }

    /// Takes over the messages and counts of `other` in the place of its own.
    pub fn become_copy_of(&self, other: &Self, py: Python<'_>) {
        let copy = other.copy(py).state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let replaced = {
            let mut state = self.lock();
            let epoch = state.epoch + 1;
            std::mem::replace(&mut *state, State { epoch, ..copy })
        };
        drop(replaced);
    }

    /// A history of the same messages, with the same counts.
    pub fn copy(&self, py: Python<'_>) -> Self {
        let state = self.lock();
        let mut ring = state.ring.empty_like();
        for slot in state.ring.iter() {
            ring.push(Slot { message: slot.message.clone_ref(py), may_start: slot.may_start });
        }
        let ledgers = state.ledgers.iter();
        let ledgers = ledgers
            .map(|(counter, ledger)| (counter.clone_ref(py), ledger.map_pins(|pin| pin.clone_ref(py))))
            .collect();
        Self { state: Mutex::new(State { ring, ledgers, epoch: 0 }) }
    }

    /// Shows every Python object held to the collector.
    pub fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Held by another thread: what is not shown is taken to be in use.
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        for slot in state.ring.iter() {
            visit.call(&slot.message)?;
        }
        for (counter, ledger) in &state.ledgers {
            visit.call(counter)?;
            for pin in ledger.pins_since(0) {
                visit.call(pin)?;
            }
        }
        Ok(())
    }

    /// Takes out all messages.
    pub fn clear(&self) {
        let mut state = self.lock();
        let ledgers = state.forget_all();
        let messages = state.ring.take();
        drop(state);
        drop((messages, ledgers));
    }
}

impl State {
    /// What to do next for `request`.
    fn next_step(
        &mut self,
        request: Request<'_, '_>,
        forgotten: &mut Vec<Pin>,
        retired: &mut Option<(Py<TokenCounter>, Ledger<Pin>)>,
    ) -> Step {
        let py = request.counter.py();
        let history = self.ring.first()..self.ring.end();
        if history.is_empty() {
            return Step::Empty;
        }
        let epoch = self.epoch;
        let ledger = self.ledger(request.counter, retired);
        let need = need(ledger, history.clone(), request.allowance, forgotten);
        let (range, spent) = match &need {
            Need::Nothing => {
                let Some(fit) = ledger.earliest_fit(request.allowance) else {
                    return self.without_fit(request, history);
                };
                return self.found(py, fit, request.verify.then_some(request.counter));
            }
            Need::Older(range) => (range, ledger.tokens()),
            Need::Newer(range) => (range, 0),
        };
        let budget = request.allowance.saturating_add(SLACK).saturating_sub(spent);
        let texts_after = |start: u64| {
            let blanks = (start..ledger.end()).take_while(|&position| ledger.is_blank(position)).count();
            ledger.pins_since(start).take(blanks + 1).map(|pin| pin.clone_ref(py)).collect()
        };
        let (older, newer) = if matches!(need, Need::Newer(_)) {
            (texts_after(ledger.end() - 1), Vec::new())
        } else {
            (Vec::new(), texts_after(range.end))
        };
        Step::Count { need, epoch, history, older, newer, budget }
    }

    /// What to do when no start that is counted fits.
    fn without_fit(&mut self, request: Request<'_, '_>, history: Range<u64>) -> Step {
        let py = request.counter.py();
        let ledger = self.ledger(request.counter, &mut None);
        let tail = ledger.blank_tail();
        if tail == history.end {
            let fit = Fit { start: history.end - 1, tokens: 0 };
            return self.found(py, fit, request.verify.then_some(request.counter));
        }
        let pins: Vec<Pin> = ledger.pins_since(tail).map(|pin| pin.clone_ref(py)).collect();
        let may_start = self.ring.since(tail).map(|slot| slot.may_start);
        let may_start = (tail..).zip(may_start).map(|(position, legal)| legal || position == history.start);
        Step::BlankTail { epoch: self.epoch, first: tail, tail: pins.into_iter().zip(may_start).collect() }
    }
    /// The window from `fit` on, to be verified against what `counter` counted, if any.
    fn found(&mut self, py: Python<'_>, fit: Fit, counter: Option<&Bound<'_, TokenCounter>>) -> Step {
        let messages = self.ring.since(fit.start).map(|slot| slot.message.clone_ref(py)).collect();
        let ledger = counter.and_then(|counter| self.ledger_if_any(counter));
        let pins =
            ledger.map_or(Vec::new(), |ledger| ledger.pins_since(fit.start).map(|pin| pin.clone_ref(py)).collect());
        Step::Found { fit, epoch: self.epoch, messages, pins }
    }

    /// The counter of a ledger, where the messages counted in it begin, and what they were counted as.
    fn counted(
        &self,
        py: Python<'_>,
        (counter, ledger): &(Py<TokenCounter>, Ledger<Pin>),
    ) -> (Py<TokenCounter>, u64, Vec<(Pin, bool)>) {
        let messages = ledger.pins_since(ledger.first()).zip(self.ring.since(ledger.first()));
        let messages = messages.map(|(pin, slot)| (pin.clone_ref(py), slot.may_start)).collect();
        (counter.clone_ref(py), ledger.first().max(self.ring.first()), messages)
    }

    /// The slots of `range`; `None` if some have left since the state of `epoch` was seen.
    fn slots(&self, py: Python<'_>, range: Range<u64>, epoch: u64) -> Option<Vec<Slot>> {
        if self.epoch != epoch || self.ring.first() > range.start {
            return None;
        }
        let slots = self.ring.since(range.start).take((range.end - range.start) as usize);
        Some(slots.map(|slot| Slot { message: slot.message.clone_ref(py), may_start: slot.may_start }).collect())
    }

    /// Adds the measured `entries`, the newest first, to the ledger of `counter`, unless it has changed since the state of
    /// `epoch` was seen. What must be dropped comes back.
    fn commit(
        &mut self,
        counter: &Bound<'_, TokenCounter>,
        entries: Vec<Entry<Pin>>,
        need: &Need,
        complete: bool,
        epoch: u64,
        forgotten: &mut Vec<Pin>,
    ) -> Option<Vec<Entry<Pin>>> {
        let first = self.ring.first();
        if self.epoch != epoch {
            return Some(entries);
        }
        let Some(ledger) = self.ledger_if_any(counter) else { return Some(entries) };
        match need {
            Need::Newer(range) if complete && ledger.end() == range.start && !ledger.is_empty() => {
                ledger.extend_newer(entries);
            }
            // What was counted is too far back for this limit.
            Need::Newer(range) if !complete => {
                ledger.forget_from(ledger.first(), forgotten);
                ledger.extend_older(range.end, entries);
            }
            Need::Older(range) if ledger.is_empty() || ledger.first() == range.end => {
                ledger.extend_older(range.end, entries);
            }
            _ => return Some(entries),
        }
        ledger.forget_before(first, forgotten);
        None
    }

    /// The ledger of `counter`, made if there is none. One too many is `retired`.
    fn ledger(
        &mut self,
        counter: &Bound<'_, TokenCounter>,
        retired: &mut Option<(Py<TokenCounter>, Ledger<Pin>)>,
    ) -> &mut Ledger<Pin> {
        let mut known = self.ledgers.iter();
        if let Some(index) = known.position(|(known, _)| known.get().counts_like(counter.get())) {
            self.ledgers[index..].rotate_left(1);
        } else {
            if self.ledgers.len() == LEDGERS {
                *retired = Some(self.ledgers.remove(0));
            }
            self.ledgers.push((counter.clone().unbind(), Ledger::default()));
        }
        let last = self.ledgers.len() - 1;
        &mut self.ledgers[last].1
    }

    fn ledger_if_any(&mut self, counter: &Bound<'_, TokenCounter>) -> Option<&mut Ledger<Pin>> {
        let mut ledgers = self.ledgers.iter_mut();
        ledgers.find(|(known, _)| known.get().counts_like(counter.get())).map(|(_, ledger)| ledger)
    }

    fn forget_all(&mut self) -> Vec<(Py<TokenCounter>, Ledger<Pin>)> {
        self.epoch += 1;
        std::mem::take(&mut self.ledgers)
    }

    /// The position of `index`, counted from the newest if negative.
    fn position(&self, index: isize) -> Option<u64> {
        let length = self.ring.len();
        let index = if index < 0 { length.checked_add_signed(index)? } else { index as usize };
        (index < length).then(|| self.ring.first() + index as u64)
    }
}

fn read(pin: &Bound<'_, PyAny>, may_start: bool) -> PyResult<Text> {
    Ok(Text::new(message::text(pin)?, may_start))
}

/// Counts without the GIL if there is enough to count.
fn feed_native<C: Counter<Error = Infallible> + Sync>(py: Python<'_>, pass: &mut Pass, texts: Vec<Text>, counter: &C) {
    let bytes: usize = texts.iter().map(|text| text.text.len()).sum();
    let Ok(()) = if bytes < DETACH_BYTES { pass.feed(texts, counter) } else { py.detach(|| pass.feed(texts, counter)) };
}
