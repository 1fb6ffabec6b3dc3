//! What the lock of a ring guards, and what is done while it is held.
//!
//! No function here runs Python code, drops a Python object or makes one that the collector tracks: either could run a
//! finaliser or the collector, those any code, and that code could come back for the lock. So what must be dropped is handed
//! back, and what must be read or counted is cloned into a [`Step`] and taken away.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;

use pyo3::prelude::*;

use super::counter::TokenCounter;
use crate::core::ledger::{Entry, Fit, Ledger};
use crate::core::ring::Ring;
use crate::core::window::{Need, SLACK, need};

/// Ledgers kept with a history, least recently used out: a fresh callable for every request must not leak.
const LEDGERS: usize = 4;

/// A message's content as it was counted: see [`message`](super::message).
pub type Pin = Py<PyAny>;

/// A counter and what was counted with it.
pub type CountedLedger = (Py<TokenCounter>, Ledger<Pin>);

/// A message, and whether a window may begin with it by the role it had when it was put.
pub type Slot = (Py<PyAny>, bool);

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

/// What to do next for a [`Request`], with everything that it takes.
pub enum Step {
    /// Nothing: there is no message.
    Empty,
    /// Count messages.
    Count(Job),
    /// Count the openings of starts that were open; the last message is the first that is not blank.
    Settle(Run),
    /// Count the blank messages at the end together: a window may have to start among them.
    BlankTail(Run),
    /// Verify and return the window.
    Found(Candidate),
}

/// Messages to be counted: a [`Pass`](crate::core::window::Pass) in the making.
pub struct Job {
    /// Their positions.
    pub range: Range<u64>,
    /// Whether they come after those counted, not before.
    pub newer: bool,
    /// The positions of the whole history.
    pub history: Range<u64>,
    /// The generation of the ledger that this was taken from.
    pub generation: u64,
    /// Whether the step of the first message after `range` was measured after a text that is closed.
    pub after_closed: bool,
    /// What the messages before `range` were counted as, back to one that is not blank.
    pub before: Vec<Pin>,
    /// What the messages after `range` were counted as, up to one that is not blank.
    pub after: Vec<Pin>,
    /// Tokens that may be counted before nothing older can fit.
    pub budget: i64,
}

/// Successive messages as they were counted, and whether a window may begin with each.
pub struct Run {
    /// The generation of the ledger that this was taken from.
    pub generation: u64,
    /// Position of the first.
    pub first: u64,
    /// The messages.
    pub messages: Vec<(Pin, bool)>,
}

/// A window, to be verified.
pub struct Candidate {
    /// Its start and tokens.
    pub fit: Fit,
    /// The generation of the ledger that this was taken from.
    pub generation: u64,
    /// Its messages.
    pub messages: Vec<Py<PyAny>>,
    /// What they were counted as; empty if they need not be verified.
    pub pins: Vec<Pin>,
}

/// The messages of a ring, and their ledgers.
pub struct State {
    messages: Ring<Py<PyAny>>,
    /// The positions of the messages with which a window may begin, by their roles. Sorted.
    starts: VecDeque<u64>,
    /// The most recently used last. Whatever takes messages out or changes them, but for eviction, gives every ledger a new
    /// generation: what is being counted for it is void then.
    ledgers: Vec<CountedLedger>,
}

impl State {
    /// No messages, of which at most `bound` are kept, or any number.
    pub fn new(bound: Option<NonZeroUsize>) -> Self {
        Self { messages: Ring::new(bound), starts: VecDeque::new(), ledgers: Vec::new() }
    }

    /// The messages.
    pub fn messages(&self) -> &Ring<Py<PyAny>> {
        &self.messages
    }

    /// The ledgers, the most recently used last.
    pub fn ledgers(&self) -> &[CountedLedger] {
        &self.ledgers
    }

    /// Whether a window may begin with each message from `position` on, by their roles.
    pub fn may_start_since(&self, position: u64) -> impl Iterator<Item = bool> {
        let mut starts = self.starts.range(self.starts.partition_point(|&start| start < position)..).peekable();
        (position..self.messages.end()).map(move |at| starts.next_if(|&&start| start == at).is_some())
    }

    /// The position of `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn position(&self, index: isize) -> Result<u64, usize> {
        let length = self.messages.len();
        let index = if index < 0 { length.checked_add_signed(index) } else { Some(index as usize) };
        index.filter(|&index| index < length).map(|index| self.messages.first() + index as u64).ok_or(length)
    }

    /// Adds messages, and hands back those that leave a bounded ring, oldest first.
    pub fn push(&mut self, slots: impl ExactSizeIterator<Item = Slot>, forgotten: &mut Vec<Pin>) -> Vec<Py<PyAny>> {
        self.messages.reserve(slots.len());
        let mut evicted = Vec::new();
        for (message, may_start) in slots {
            if may_start {
                self.starts.push_back(self.messages.end());
            }
            evicted.extend(self.messages.push(message));
            // At once, or the starts of a batch of millions would be held, for ten messages that stay.
            let first = self.messages.first();
            self.starts.pop_front_if(|start| *start < first);
        }
        if !evicted.is_empty() {
            let first = self.messages.first();
            self.ledgers.iter_mut().for_each(|(_, ledger)| ledger.evict_before(first, forgotten));
        }
        evicted
    }

    /// Takes out the newest message.
    pub fn pop(&mut self, forgotten: &mut Vec<Pin>) -> Option<Py<PyAny>> {
        let message = self.messages.pop()?;
        let end = self.messages.end();
        self.starts.pop_back_if(|start| *start == end);
        self.ledgers.iter_mut().for_each(|(_, ledger)| ledger.forget_from(end, forgotten));
        Some(message)
    }

    /// Takes out the message at `index`, counted from the newest if negative; `Err` has the number of messages.
    pub fn remove(&mut self, index: isize, forgotten: &mut Vec<Pin>) -> Result<Py<PyAny>, usize> {
        let position = self.position(index)?;
        let message = self.messages.remove(position).ok_or(self.messages.len())?;
        let older = self.starts.partition_point(|&start| start < position);
        if self.starts.get(older) == Some(&position) {
            self.starts.remove(older);
        }
        self.starts.range_mut(..older).for_each(|start| *start += 1);
        self.ledgers.iter_mut().for_each(|(_, ledger)| ledger.forget_removed(position, forgotten));
        Ok(message)
    }

    /// Takes out all messages; the next one gets the position `first`. What the ledgers have counted of them must have been
    /// forgotten.
    pub fn take_messages(&mut self, first: u64) -> VecDeque<Py<PyAny>> {
        self.starts = VecDeque::new();
        self.messages.take(first)
    }

    /// Takes out all ledgers.
    pub fn take_ledgers(&mut self) -> Vec<CountedLedger> {
        std::mem::take(&mut self.ledgers)
    }

    /// The ledgers, to forget what changes that are no eviction, pop or removal make void.
    pub fn ledgers_to_change(&mut self) -> impl Iterator<Item = &mut Ledger<Pin>> {
        self.ledgers.iter_mut().map(|(_, ledger)| ledger)
    }

    /// Takes out all ledgers, and notes anew whether a window may begin with each message; `None` leaves that as it was.
    pub fn read_again(&mut self, mut may_start: impl FnMut(&Py<PyAny>) -> Option<bool>) -> Vec<CountedLedger> {
        let known = self.messages.iter().zip(self.may_start_since(self.messages.first()));
        let starts = (self.messages.first()..)
            .zip(known)
            .filter(|(_, (message, known))| may_start(message).unwrap_or(*known))
            .map(|(position, _)| position);
        self.starts = starts.collect();
        self.take_ledgers()
    }

    /// The same messages and counts, and nothing shared.
    pub fn copy(&self, py: Python<'_>) -> Self {
        let mut messages = self.messages.empty_like();
        for message in self.messages.iter() {
            messages.push(message.clone_ref(py));
        }
        let copy =
            |(counter, ledger): &CountedLedger| (counter.clone_ref(py), ledger.map_pins(|pin| pin.clone_ref(py)));
        Self { messages, starts: self.starts.clone(), ledgers: self.ledgers.iter().map(copy).collect() }
    }

    /// What to do next for `request`. A ledger that must make room for another is `retired`.
    pub fn next_step(
        &mut self,
        request: Request<'_, '_>,
        forgotten: &mut Vec<Pin>,
        retired: &mut Option<CountedLedger>,
    ) -> Step {
        let py = request.counter.py();
        let history = self.messages.first()..self.messages.end();
        if history.is_empty() {
            return Step::Empty;
        }
        let ledger = self.ledger_or_new(request.counter, retired);
        let Some(need) = need(ledger, history.clone(), request.allowance, forgotten) else {
            let tail = ledger.blank_tail();
            return match ledger.earliest_fit(request.allowance) {
                Some(fit) => Step::Found(self.candidate(fit, request)),
                None if tail < history.end => Step::BlankTail(self.run(tail..history.end, request)),
                None => Step::Found(self.candidate(Fit { start: history.end - 1, tokens: None }, request)),
            };
        };
        let (generation, after_closed) = (ledger.generation(), ledger.is_after_closed());
        let pins = |range: Range<u64>| {
            let pins = ledger.pins_since(range.start).take(range.end.saturating_sub(range.start) as usize);
            pins.map(|pin| pin.clone_ref(py)).collect()
        };
        let budget = request.allowance.saturating_add(SLACK);
        Step::Count(match need {
            Need::Openings(range) => return Step::Settle(self.run(range, request)),
            Need::Older(range) => {
                let word = (range.end..ledger.end()).find(|&position| !ledger.is_blank(position));
                let after = pins(range.end..word.map_or(ledger.end(), |word| word + 1));
                let budget = budget.saturating_sub(ledger.tokens());
                Job { range, newer: false, history, generation, after_closed, before: Vec::new(), after, budget }
            }
            Need::Newer(range) => {
                let word = ledger.blank_tail().saturating_sub(1).max(ledger.first());
                let before = pins(word..range.start);
                Job { range, newer: true, history, generation, after_closed, before, after: Vec::new(), budget }
            }
        })
    }

    /// The window from `fit` on.
    pub fn candidate(&self, fit: Fit, request: Request<'_, '_>) -> Candidate {
        let py = request.counter.py();
        let messages = self.messages.since(fit.start).map(|message| message.clone_ref(py)).collect();
        let ledger = self.ledger(request.counter);
        let generation = ledger.map_or(u64::MAX, Ledger::generation);
        let pins = ledger.filter(|_| request.verify).into_iter().flat_map(|ledger| ledger.pins_since(fit.start));
        Candidate { fit, generation, messages, pins: pins.map(|pin| pin.clone_ref(py)).collect() }
    }

    /// The messages of `range`, which are counted.
    fn run(&self, range: Range<u64>, request: Request<'_, '_>) -> Run {
        let py = request.counter.py();
        let history_start = self.messages.first();
        let ledger = self.ledger(request.counter);
        let generation = ledger.map_or(u64::MAX, Ledger::generation);
        let pins = ledger.into_iter().flat_map(|ledger| ledger.pins_since(range.start));
        let may_start = range.clone().zip(self.may_start_since(range.start));
        let may_start = may_start.map(|(position, by_role)| by_role || position == history_start);
        let messages = pins.map(|pin| pin.clone_ref(py)).zip(may_start).collect();
        Run { generation, first: range.start, messages }
    }

    /// The messages of `range`, to be counted for `job`; `None` if that is void, or some have left.
    pub fn slots(&mut self, counter: &Bound<'_, TokenCounter>, range: &Range<u64>, job: &Job) -> Option<Vec<Slot>> {
        let py = counter.py();
        self.ledger_of(counter, job.generation)?;
        if self.messages.first() > range.start {
            return None;
        }
        let messages = self.messages.since(range.start).map(|message| message.clone_ref(py));
        Some(messages.zip(self.may_start_since(range.start)).take((range.end - range.start) as usize).collect())
    }

    /// Adds the measured `entries`, the newest first, to the ledger of `counter`, if the job still begins where that ends.
    /// What must be dropped comes back.
    pub fn commit(
        &mut self,
        counter: &Bound<'_, TokenCounter>,
        job: &Job,
        entries: Vec<Entry<Pin>>,
        complete: bool,
        resteps: &[i64],
        forgotten: &mut Vec<Pin>,
    ) -> Option<Vec<Entry<Pin>>> {
        let first = self.messages.first();
        let Some(ledger) = self.ledger_of(counter, job.generation) else { return Some(entries) };
        let fits = if job.newer {
            ledger.end() == job.range.start
        } else if job.after.is_empty() {
            ledger.is_empty()
        } else {
            !ledger.is_empty() && ledger.first() == job.range.end
        };
        if !fits {
            return Some(entries);
        }
        if job.newer && complete {
            ledger.extend_newer(entries);
        } else {
            if job.newer {
                // What was counted before is too far back for this limit.
                ledger.forget_from(ledger.first(), forgotten);
            }
            ledger.restep(resteps);
            ledger.extend_older(job.range.end, entries);
        }
        // Messages that left meanwhile were measured all the same.
        ledger.evict_before(first, forgotten);
        None
    }

    /// The ledger of `counter`, if there is one.
    pub fn ledger(&self, counter: &Bound<'_, TokenCounter>) -> Option<&Ledger<Pin>> {
        let mut ledgers = self.ledgers.iter().rev();
        ledgers.find(|(known, _)| known.get().counts_like(counter.get())).map(|(_, ledger)| ledger)
    }

    /// The ledger of `counter`, to be changed by what was found under its `generation`; `None` if that is void.
    pub fn ledger_of(&mut self, counter: &Bound<'_, TokenCounter>, generation: u64) -> Option<&mut Ledger<Pin>> {
        let mut ledgers = self.ledgers.iter_mut().rev();
        let (_, ledger) = ledgers.find(|(known, _)| known.get().counts_like(counter.get()))?;
        (ledger.generation() == generation).then_some(ledger)
    }

    /// The ledger of `counter`, which is now the most recently used.
    fn ledger_or_new(
        &mut self,
        counter: &Bound<'_, TokenCounter>,
        retired: &mut Option<CountedLedger>,
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
}
