//! A ring's messages behind its lock, and the way from a limit to a window.
//!
//! Every step takes what it needs under the lock ([`State`]), works without it, and comes back with the result.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::counter::{Counting, DETACH_BYTES, TokenCounter, detach};
use super::message;
use super::state::{Candidate, Job, Pin, Request, Run, Slot, State, Step};
use crate::core::encoding::Encoding;
use crate::core::joint::Text;
use crate::core::ledger::{Entry, Fit};
use crate::core::window::{Pass, Passed, count_openings, earliest_blank_fit};

/// Steps towards a window before giving up on a history that changes all the while. One that rests needs at most six.
const STEPS: usize = 10;

/// Texts joined with the one being counted from which on the GIL is released.
const LONG_RUN: usize = 64;

/// What `get` found.
pub struct Window {
    /// The messages, oldest first.
    pub messages: Vec<Py<PyAny>>,
    /// Tokens of their texts joined by one space; `None` if not even the last message fits.
    pub tokens: Option<i64>,
}

/// The messages of one ring, and their ledgers.
pub struct History {
    // A Mutex rather than PyO3's borrow checking: two threads in one ring must both succeed, not one of them raise now
    // and then.
    state: Mutex<State>,
}

impl History {
    /// An empty history of at most `bound` messages, or any number.
    pub fn new(bound: Option<NonZeroUsize>) -> Self {
        Self { state: Mutex::new(State::new(bound)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock is meant to panic: what is found without it is checked by its generation. So a poisoned
        // lock guards a sound state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds messages, and hands back those that leave a bounded ring, oldest first.
    pub fn put(&self, slots: impl ExactSizeIterator<Item = Slot>) -> Vec<Py<PyAny>> {
        let mut forgotten = Vec::new();
        self.lock().push(slots, &mut forgotten)
    }

    /// Puts `slots` in the place of all messages; those that a bounded ring has no room for are dropped, the oldest first.
    ///
    /// Counts of messages that stay where they are, or come back there with the same text, are kept: a history read anew
    /// from elsewhere for every window is counted once. Likewise if only the oldest are missing.
    pub fn replace(&self, py: Python<'_>, mut slots: Vec<Slot>) -> PyResult<()> {
        let excess = self.bound().map_or(0, |bound| slots.len().saturating_sub(bound.get()));
        slots.drain(..excess);
        let seen = {
            let state = self.lock();
            let shown =
                |(counter, ledger): &(Py<TokenCounter>, _)| (counter.clone_ref(py), copy_run(py, &state, ledger));
            (state.messages().first(), state.ledgers().iter().map(shown).collect::<Vec<_>>())
        };
        let (first, runs) = seen;
        let missing = missing_before(py, &runs, first, &slots)?;
        // For each ledger where it begins, and from where on the new messages are not those counted.
        let mut unlike = Vec::with_capacity(runs.len());
        for (_, run) in &runs {
            let start = run.first.max(first + missing);
            let counted = run.messages.iter().skip((start - run.first) as usize);
            let mut same = 0;
            for ((message, may_start), (pin, counted_may_start)) in
                slots.iter().skip((start - first - missing) as usize).zip(counted)
            {
                if may_start != counted_may_start || !message::still_has(message.bind(py), pin.bind(py))? {
                    break;
                }
                same += 1;
            }
            unlike.push((run.generation, run.first, start + same));
        }
        let mut forgotten = Vec::new();
        let mut ledgers = Vec::new();
        let mut state = self.lock();
        let as_seen = unlike.iter().map(|(generation, start, _)| (*generation, *start));
        let is_now = state.ledgers().iter().map(|(_, ledger)| (ledger.generation(), ledger.first().max(first)));
        if state.messages().first() == first && as_seen.eq(is_now) {
            for (ledger, (_, start, unlike)) in state.ledgers_to_change().zip(unlike) {
                ledger.forget_from(unlike, &mut forgotten);
                ledger.forget_before(first + missing, &mut forgotten);
                if start > first + missing {
                    // What stands before the first counted message was not compared.
                    ledger.forget_through(start - 1, &mut forgotten);
                }
            }
        } else {
            ledgers = state.take_ledgers();
        }
        let replaced = state.take_messages(first + missing);
        let evicted = state.push(slots.into_iter(), &mut forgotten);
        drop(state);
        drop((replaced, evicted, ledgers, forgotten));
        Ok(())
    }

    /// Takes out the newest message.
    pub fn pop(&self) -> Option<Py<PyAny>> {
        let mut forgotten = Vec::new();
        self.lock().pop(&mut forgotten)
    }

    /// Takes out the message at `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn remove(&self, index: isize) -> Result<Py<PyAny>, usize> {
        let mut forgotten = Vec::new();
        self.lock().remove(index, &mut forgotten)
    }

    /// Takes out all messages.
    pub fn clear(&self) {
        let mut state = self.lock();
        let first = state.messages().first();
        let taken = (state.take_ledgers(), state.take_messages(first));
        drop(state);
        drop(taken);
    }

    /// The message at `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn message(&self, py: Python<'_>, index: isize) -> Result<Py<PyAny>, usize> {
        let state = self.lock();
        let message = state.messages().get(state.position(index)?);
        message.map(|message| message.clone_ref(py)).ok_or(state.messages().len())
    }

    /// All messages, oldest first.
    pub fn messages(&self, py: Python<'_>) -> Vec<Py<PyAny>> {
        self.lock().messages().iter().map(|message| message.clone_ref(py)).collect()
    }

    /// At most `count` messages from the one at `index` on, oldest first.
    pub fn messages_at(&self, py: Python<'_>, index: usize, count: usize) -> Vec<Py<PyAny>> {
        let state = self.lock();
        let messages = state.messages().since(state.messages().first() + index as u64);
        messages.take(count).map(|message| message.clone_ref(py)).collect()
    }

    /// All messages, oldest first, and whether a window may begin with each, by its role.
    pub fn slots(&self, py: Python<'_>) -> Vec<Slot> {
        let state = self.lock();
        let messages = state.messages().iter().map(|message| message.clone_ref(py));
        messages.zip(state.may_start_since(state.messages().first())).collect()
    }

    /// The number of messages.
    pub fn len(&self) -> usize {
        self.lock().messages().len()
    }

    /// The most messages that are kept, `None` for any number.
    pub fn bound(&self) -> Option<NonZeroUsize> {
        self.lock().messages().bound()
    }

    /// Forgets every count and reads every role again.
    pub fn recount(&self, py: Python<'_>) -> PyResult<()> {
        let mut roles = Vec::new();
        for message in self.messages(py) {
            let may_start = message::check(message.bind(py))?;
            roles.push((message, may_start));
        }
        // Messages that were put or left meanwhile are not among those read; the others keep their order.
        let mut read = roles.iter();
        let read_role = |now: &Py<PyAny>| read.find(|(message, _)| now.is(message)).map(|(_, may_start)| *may_start);
        let ledgers = self.lock().read_again(read_role);
        drop((ledgers, roles));
        Ok(())
    }

    /// The window of the window rule. For an empty history no message and 0 tokens.
    ///
    /// If other threads or the counter itself change the history all the while, the answer is the window of the history
    /// as it was at one moment of the call. If its messages' texts are others at each access, it is that of the texts that
    /// were read last.
    pub fn window(&self, request: Request<'_, '_>) -> PyResult<Window> {
        for _ in 0..STEPS {
            if let Some(window) = self.step(request)? {
                return Ok(window);
            }
        }
        let moment = self.copy(request.counter.py());
        for _ in 0..STEPS {
            if let Some(window) = moment.step(request)? {
                return Ok(window);
            }
        }
        // Nobody else has the copy, so what changed are texts: they are all read once more, and that is what counts.
        let void = moment.lock().take_ledgers();
        drop(void);
        let request = Request { verify: false, ..request };
        for _ in 0..STEPS {
            if let Some(window) = moment.step(request)? {
                return Ok(window);
            }
        }
        Err(PyRuntimeError::new_err(format!(
            "no window of at most {} tokens was found in {} attempts; please report this as a bug of chatring",
            request.allowance,
            3 * STEPS
        )))
    }

    /// One step towards the window: the window itself, or `None` when something was counted or has changed.
    fn step(&self, request: Request<'_, '_>) -> PyResult<Option<Window>> {
        let mut forgotten = Vec::new();
        let mut retired = None;
        let step = self.lock().next_step(request, &mut forgotten, &mut retired);
        drop((forgotten, retired));
        match step {
            Step::Empty => Ok(Some(Window { messages: Vec::new(), tokens: Some(0) })),
            Step::Count(job) => self.count(request, &job).map(|()| None),
            Step::Settle(run) => self.settle(request, &run).map(|()| None),
            Step::BlankTail(run) => self.window_in_blank_tail(request, &run),
            Step::Found(candidate) => self.verified(request, candidate),
        }
    }

    /// Counts what `job` says, and adds it to the ledger if that still wants it.
    fn count(&self, request: Request<'_, '_>, job: &Job) -> PyResult<()> {
        let py = request.counter.py();
        let read_pins = |pins: &[Pin]| pins.iter().map(|pin| read(pin.bind(py), false)).collect::<PyResult<_>>();
        let (before, after) = (read_pins(&job.before)?, read_pins(&job.after)?);
        let mut pass = Pass::new(job.range.clone(), before, after, job.after_closed, job.budget);
        let mut with_gil = 0;
        let mut kept: Vec<(Pin, bool)> = Vec::new();
        while let Some(wanted) = pass.wants() {
            let Some(slots) = self.lock().slots(request.counter, &wanted, job) else { return Ok(()) };
            let mut texts = Vec::with_capacity(slots.len());
            let mut pins = Vec::with_capacity(slots.len());
            for (position, (message, may_start)) in wanted.zip(slots) {
                let pin = message::pin(message.bind(py))?;
                // The history's first message is a legal start whatever its role.
                texts.push(read(&pin, may_start || position == job.history.start)?);
                pins.push((pin.unbind(), may_start));
            }
            kept.extend(pins.into_iter().rev());
            match request.counter.get().counting() {
                Counting::Native(encoding) => feed_native(py, &mut pass, texts, encoding, &mut with_gil),
                Counting::Callable(callable) => pass.feed(texts, &callable.bind(py))?,
            }
        }
        let Passed { measures, complete, resteps } = pass.finish();
        let entries = measures.into_iter().zip(kept);
        let entries = entries.map(|(measure, (pin, may_start))| Entry { measure, may_start, pin }).collect();
        let mut forgotten = Vec::new();
        let unused = self.lock().commit(request.counter, job, entries, complete, &resteps, &mut forgotten);
        drop((unused, forgotten));
        Ok(())
    }

    /// Counts the openings of the legal starts in `run`, which is blank but for its last message.
    fn settle(&self, request: Request<'_, '_>, run: &Run) -> PyResult<()> {
        let py = request.counter.py();
        let texts = read_run(py, run)?;
        let openings = match request.counter.get().counting() {
            Counting::Native(encoding) => {
                let Ok(openings) = detach(py, encoding, || count_openings(*encoding, run.first, &texts));
                openings
            }
            Counting::Callable(callable) => count_openings(&callable.bind(py), run.first, &texts)?,
        };
        if let Some(ledger) = self.lock().ledger_of(request.counter, run.generation) {
            ledger.settle_open(openings);
        }
        Ok(())
    }

    /// The window that starts among the blank messages of `run`, with which the history ends; its last message if none fits.
    fn window_in_blank_tail(&self, request: Request<'_, '_>, run: &Run) -> PyResult<Option<Window>> {
        let py = request.counter.py();
        let texts = read_run(py, run)?;
        let fit = match request.counter.get().counting() {
            Counting::Native(encoding) => {
                let count = || earliest_blank_fit(*encoding, run.first, &texts, request.allowance);
                let Ok(fit) = detach(py, encoding, count);
                fit
            }
            Counting::Callable(callable) => {
                earliest_blank_fit(&callable.bind(py), run.first, &texts, request.allowance)?
            }
        };
        let end = run.first + texts.len() as u64;
        let candidate = {
            let mut state = self.lock();
            let ledger = state.ledger_of(request.counter, run.generation);
            let still_counted = ledger.is_some_and(|ledger| ledger.first() <= run.first);
            (still_counted && state.messages().end() == end)
                .then(|| state.candidate(fit.unwrap_or(Fit { start: end - 1, tokens: None }), request))
        };
        candidate.map_or(Ok(None), |candidate| self.verified(request, candidate))
    }

    /// The window found, unless one of its messages has no longer the text that was counted: then what was counted of
    /// those is forgotten.
    fn verified(&self, request: Request<'_, '_>, candidate: Candidate) -> PyResult<Option<Window>> {
        let py = request.counter.py();
        let Candidate { fit, generation, messages, pins } = candidate;
        let mut changed: Option<(u64, u64)> = None;
        for ((position, message), pin) in (fit.start..).zip(&messages).zip(&pins) {
            if !message::still_has(message.bind(py), pin.bind(py))? {
                changed = Some((changed.map_or(position, |(first, _)| first), position));
            }
        }
        let Some((first, last)) = changed else { return Ok(Some(Window { messages, tokens: fit.tokens })) };
        let mut forgotten = Vec::new();
        let mut state = self.lock();
        if let Some(ledger) = state.ledger_of(request.counter, generation) {
            // Either side of a change can stay counted: the longer one.
            if last.saturating_sub(ledger.first()) < ledger.end().saturating_sub(first) {
                ledger.forget_through(last, &mut forgotten);
            } else {
                ledger.forget_from(first, &mut forgotten);
            }
        }
        drop(state);
        Ok(None)
    }

    /// Takes over the messages and counts of `other` in the place of its own.
    pub fn become_copy_of(&self, other: &Self, py: Python<'_>) {
        let copy = other.lock().copy(py);
        let replaced = std::mem::replace(&mut *self.lock(), copy);
        drop(replaced);
    }

    fn copy(&self, py: Python<'_>) -> Self {
        Self { state: Mutex::new(self.lock().copy(py)) }
    }

    /// Shows every Python object held to the collector.
    pub fn traverse(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Held by another thread: what is not shown is taken to be in use.
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        for message in state.messages().iter() {
            visit.call(message)?;
        }
        for (counter, ledger) in state.ledgers() {
            visit.call(counter)?;
            for pin in ledger.pins_since(0) {
                visit.call(pin)?;
            }
        }
        Ok(())
    }
}

/// What the messages of `ledger` were counted as.
fn copy_run(py: Python<'_>, state: &State, ledger: &crate::core::ledger::Ledger<Pin>) -> Run {
    let first = ledger.first().max(state.messages().first());
    let messages = ledger.pins_since(first).map(|pin| pin.clone_ref(py)).zip(state.may_start_since(first)).collect();
    Run { generation: ledger.generation(), first, messages }
}

/// How many of the oldest messages are missing in `slots`, if what follows the counted messages' first one looks the same.
fn missing_before(py: Python<'_>, runs: &[(Py<TokenCounter>, Run)], first: u64, slots: &[Slot]) -> PyResult<u64> {
    let Some((_, run)) = runs.last() else { return Ok(0) };
    let Some((pin, _)) = run.messages.first() else { return Ok(0) };
    let place = (run.first - first) as usize;
    for missing in 0..=place {
        if let Some((message, _)) = slots.get(place - missing)
            && message::still_has(message.bind(py), pin.bind(py))?
        {
            return Ok(missing as u64);
        }
    }
    Ok(0)
}

fn read_run(py: Python<'_>, run: &Run) -> PyResult<Vec<Text>> {
    run.messages.iter().map(|(pin, may_start)| read(pin.bind(py), *may_start)).collect()
}

fn read(pin: &Bound<'_, PyAny>, may_start: bool) -> PyResult<Text> {
    Ok(Text::new(message::text(pin)?, may_start))
}

/// Counts without the GIL if there is enough to count: much text, or a long run of blank messages to join again and again.
/// `with_gil` are the bytes counted with it since it was last given up.
fn feed_native(py: Python<'_>, pass: &mut Pass, texts: Vec<Text>, encoding: &Encoding, with_gil: &mut usize) {
    *with_gil += texts.iter().chain(pass.held()).map(|text| text.text.len()).sum::<usize>();
    let Ok(()) = if *with_gil < DETACH_BYTES && pass.held().count() < LONG_RUN {
        pass.feed(texts, encoding)
    } else {
        *with_gil = 0;
        detach(py, encoding, || pass.feed(texts, encoding))
    };
}
