//! The prefix sums of one history under one counter.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use super::joint::{Measure, Opening};
use super::ring::grow;

/// The generation that no ledger has had yet.
static NEXT_GENERATION: AtomicU64 = AtomicU64::new(0);

fn new_generation() -> u64 {
    NEXT_GENERATION.fetch_add(1, Ordering::Relaxed)
}

/// The prefix sums of a run of successive messages, and for each legal start among them the prefix sum before it.
///
/// The run can be extended at both ends, which is how it is filled: from the newest message backwards, and later by the
/// messages that came after. Its origin floats: only differences of sums mean anything, so they may wrap.
///
/// `P` is what the owner keeps beside each message to tell later whether it is still what was counted. Methods that forget
/// messages hand it back, since dropping it may run foreign code.
#[derive(Debug, Clone)]
pub struct Ledger<P> {
    /// See [`Ledger::generation`].
    generation: u64,
    /// Position of the first counted message.
    first: u64,
    /// The prefix sum before it.
    base: i64,
    counted: VecDeque<Counted<P>>,
    /// The legal starts that can be an answer: `before` grows strictly. See [`Ledger::earliest_fit`].
    starts: VecDeque<Start>,
    /// The other legal starts: an older one has at least their `before`. Few, and close to the one that hides them.
    hidden: VecDeque<Start>,
    /// The legal starts whose opening is not known: blank messages that had nothing but blank ones after them.
    open: VecDeque<OpenStart>,
    /// Positions of the counted messages that are blank.
    blanks: VecDeque<u64>,
    /// Positions of the counted messages whose steps were measured after a text that is not closed, or after none.
    after_open: VecDeque<u64>,
    /// The first counted message as a start, if it opens the history without being a legal start by its role.
    front: Option<Start>,
}

/// One counted message.
#[derive(Debug, Clone)]
struct Counted<P> {
    /// The prefix sum up to and with this message.
    sum: i64,
    pin: P,
}

/// A legal start: a window from `position` on has as many tokens as the sum at its end exceeds `before`.
#[derive(Debug, Clone, Copy)]
struct Start {
    position: u64,
    before: i64,
}

impl Start {
    /// Whether this start fits some allowance for which the `older` one does not.
    fn beats(&self, older: &Start) -> bool {
        self.before.wrapping_sub(older.before) > 0
    }
}

/// A legal start of which it is not known yet what its window costs.
#[derive(Debug, Clone, Copy)]
struct OpenStart {
    position: u64,
    /// Whether its role lets a window begin with it; if not, it is the history's first message.
    may_start: bool,
}

/// A measured message with what the ledger keeps beside it.
#[derive(Debug)]
pub struct Entry<P> {
    /// What the accounting rule says of it.
    pub measure: Measure,
    /// Whether its role lets a window begin with it; if not, only `measure.opening` of the history's first message counts.
    pub may_start: bool,
    /// What to keep.
    pub pin: P,
}

/// A window: where it starts and its tokens, without any initial count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Position of the first message.
    pub start: u64,
    /// Tokens of the window's texts joined by one space; `None` for a last message that exceeds the allowance.
    pub tokens: Option<i64>,
}

impl<P> Default for Ledger<P> {
    fn default() -> Self {
        Self {
            generation: new_generation(),
            first: 0,
            base: 0,
            counted: VecDeque::new(),
            starts: VecDeque::new(),
            hidden: VecDeque::new(),
            open: VecDeque::new(),
            blanks: VecDeque::new(),
            after_open: VecDeque::new(),
            front: None,
        }
    }
}

impl<P> Ledger<P> {
    /// Tells this ledger from every other one and, of this one, from what it was before counts were forgotten or moved.
    ///
    /// Whoever counts for a ledger outside its lock compares it before the result is added: under the same generation, what
    /// is still counted is what was counted then. Two changes need no new generation. Counts that are added show in
    /// [`first`](Self::first) and [`end`](Self::end). Messages that leave the history at its beginning take their counts
    /// with them, and their positions never come back.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the step of the first counted message was measured after a text that is closed.
    #[must_use]
    pub fn is_after_closed(&self) -> bool {
        self.after_open.front() != Some(&self.first)
    }

    /// Position of the first counted message.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Position after the last counted message.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.counted.len() as u64
    }

    /// Whether nothing is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty()
    }

    /// Whether the message at `position` is counted and blank.
    #[must_use]
    pub fn is_blank(&self, position: u64) -> bool {
        self.blanks.binary_search(&position).is_ok()
    }

    /// Where the blank messages at the end of what is counted begin.
    #[must_use]
    pub fn blank_tail(&self) -> u64 {
        let mut tail = self.end();
        while tail > self.first && self.is_blank(tail - 1) {
            tail -= 1;
        }
        tail
    }

    /// What was kept beside the counted messages from `start` on, oldest first.
    #[must_use]
    pub fn pins_since(&self, start: u64) -> impl DoubleEndedIterator<Item = &P> + ExactSizeIterator {
        let skipped = (start.saturating_sub(self.first) as usize).min(self.counted.len());
        self.counted.range(skipped..).map(|counted| &counted.pin)
    }

    /// The same ledger with other things kept beside the messages.
    pub fn map_pins<Q>(&self, mut other: impl FnMut(&P) -> Q) -> Ledger<Q> {
        let counted = self.counted.iter().map(|counted| Counted { sum: counted.sum, pin: other(&counted.pin) });
        Ledger {
            generation: new_generation(),
            first: self.first,
            base: self.base,
            counted: counted.collect(),
            starts: self.starts.clone(),
            hidden: self.hidden.clone(),
            open: self.open.clone(),
            blanks: self.blanks.clone(),
            after_open: self.after_open.clone(),
            front: self.front,
        }
    }

    /// Tokens of all steps counted. No window that begins before the counted messages is smaller, but for
    /// [`window::SLACK`](super::window::SLACK).
    #[must_use]
    pub fn tokens(&self) -> i64 {
        self.last_sum().wrapping_sub(self.base)
    }

    /// Whether the history's `first` message was counted as a legal start.
    #[must_use]
    pub fn has_start_at(&self, first: u64) -> bool {
        let known = self.front.iter().chain(self.starts.front()).any(|start| start.position == first);
        known || self.open.front().is_some_and(|open| open.position == first)
    }

    /// The legal starts of which it is not known what their windows cost, oldest first.
    pub fn open_starts(&self) -> impl Iterator<Item = u64> {
        self.open.iter().map(|open| open.position)
    }

    /// The earliest legal start whose window, up to the last counted message, has at most `allowance` tokens.
    ///
    /// A window can cost less than one that begins later (a text alone may be more tokens than after a space). So `starts`
    /// keeps only those whose `before` exceeds that of every older one: no other can be the earliest, for any allowance,
    /// and among these the search is binary. Logarithmic in the number of legal starts.
    #[must_use]
    pub fn earliest_fit(&self, allowance: i64) -> Option<Fit> {
        let sum = self.last_sum();
        let tokens = |start: &Start| sum.wrapping_sub(start.before);
        let front = self.front.as_ref().filter(|front| tokens(front) <= allowance);
        let first_fit = || self.starts.get(self.starts.partition_point(|start| tokens(start) > allowance));
        let start = front.or_else(first_fit)?;
        Some(Fit { start: start.position, tokens: Some(tokens(start)) })
    }

    /// Adds messages before the counted ones, the newest of them first. Those of an empty ledger end before `end`.
    pub fn extend_older(&mut self, end: u64, entries: Vec<Entry<P>>) {
        if self.counted.is_empty() {
            self.first = end;
        }
        grow(&mut self.counted, entries.len());
        let openings = openings(self.first.saturating_sub(entries.len() as u64), entries.iter().rev());
        for Entry { measure, pin, .. } in entries {
            self.counted.push_front(Counted { sum: self.base, pin });
            self.base = self.base.wrapping_sub(measure.step);
            self.first -= 1;
            if measure.blank {
                self.blanks.push_front(self.first);
            }
            if !measure.after_closed {
                self.after_open.push_front(self.first);
            }
        }
        for (start, opening) in openings.into_iter().rev() {
            self.settle(start, opening);
        }
    }

    /// Notes anew the `steps` of the first counted messages, oldest first, up to one that is not blank: they depend on the
    /// text before, which is not kept and may have changed since. No window that begins with a counted message does.
    pub fn restep(&mut self, steps: &[i64]) {
        let count = steps.len().min(self.counted.len());
        let Some(last) = count.checked_sub(1).and_then(|index| self.counted.get(index)) else { return };
        let mut sum = last.sum;
        for (counted, step) in self.counted.range_mut(..count).zip(steps).rev() {
            counted.sum = sum;
            sum = sum.wrapping_sub(*step);
        }
        self.base = sum;
        // The text that it was measured after this time may be open.
        if self.is_after_closed() {
            self.after_open.push_front(self.first);
        }
    }

    /// Adds messages after the counted ones, the newest of them first.
    pub fn extend_newer(&mut self, entries: Vec<Entry<P>>) {
        grow(&mut self.counted, entries.len());
        let openings = openings(self.end(), entries.iter().rev());
        for Entry { measure, pin, .. } in entries.into_iter().rev() {
            if measure.blank {
                self.blanks.push_back(self.end());
            }
            if !measure.after_closed {
                self.after_open.push_back(self.end());
            }
            let sum = self.last_sum().wrapping_add(measure.step);
            self.counted.push_back(Counted { sum, pin });
        }
        for (start, opening) in openings {
            self.settle(start, opening);
        }
    }

    /// Notes the openings of legal starts that were open, of which each has a position.
    pub fn settle_open(&mut self, openings: Vec<(u64, Opening)>) {
        for (position, opening) in openings {
            if let Some(index) = self.open.iter().position(|open| open.position == position)
                && let Some(open) = self.open.remove(index)
            {
                self.settle(open, opening);
            }
        }
    }

    /// Forgets the messages before `position`, and hands back what was kept beside them.
    pub fn forget_before(&mut self, position: u64, forgotten: &mut Vec<P>) {
        self.generation = new_generation();
        self.evict_before(position, forgotten);
    }

    /// As [`forget_before`](Self::forget_before), for messages that have left the history: those positions never come back.
    pub fn evict_before(&mut self, position: u64, forgotten: &mut Vec<P>) {
        while self.first < position
            && let Some(counted) = self.counted.pop_front()
        {
            self.first += 1;
            self.base = counted.sum;
            self.front = None;
            forgotten.push(counted.pin);
        }
        drop_while(&mut self.blanks, |&blank| blank < position);
        drop_while(&mut self.after_open, |&after| after < position);
        drop_while(&mut self.open, |open| open.position < position);
        drop_while(&mut self.hidden, |start| start.position < position);
        if drop_while(&mut self.starts, |start| start.position < position) {
            // What only those had hidden can be an answer again.
            let next = self.starts.front().map_or(u64::MAX, |start| start.position);
            let shown = self.hidden.partition_point(|start| start.position < next);
            for start in self.hidden.drain(..shown).rev().collect::<Vec<_>>() {
                self.insert_start(start);
            }
        }
    }

    /// Forgets the messages up to `position` and those whose steps were counted after it, since that message changed or
    /// left; hands back what was kept beside them.
    pub fn forget_through(&mut self, position: u64, forgotten: &mut Vec<P>) {
        // Only the next message's step depends on this one, but a blank message hands that on to the one after it.
        let mut next = (position + 1).max(self.first);
        while self.is_blank(next) {
            next += 1;
        }
        self.forget_before(next + 1, forgotten);
    }

    /// Forgets the messages from `position` on, and hands back what was kept beside them.
    pub fn forget_from(&mut self, position: u64, forgotten: &mut Vec<P>) {
        self.generation = new_generation();
        let keep = position.clamp(self.first, self.end());
        forgotten.extend(self.counted.drain((keep - self.first) as usize..).map(|counted| counted.pin));
        self.blanks.truncate(self.blanks.partition_point(|&blank| blank < keep));
        self.after_open.truncate(self.after_open.partition_point(|&after| after < keep));
        // What windows cost that begin with the blank messages now last depends again on what follows.
        let tail = self.blank_tail();
        let tail_of = |starts: &VecDeque<Start>| starts.partition_point(|start| start.position < tail);
        let by_role = self.starts.split_off(tail_of(&self.starts));
        let hidden = self.hidden.split_off(tail_of(&self.hidden));
        let front = self.front.take_if(|start| start.position >= tail);
        let reopened =
            by_role.into_iter().chain(hidden).map(|start| (start, true)).chain(front.map(|start| (start, false)));
        self.open.extend(reopened.map(|(Start { position, .. }, may_start)| OpenStart { position, may_start }));
        self.open.make_contiguous().sort_unstable_by_key(|open| open.position);
        self.open.truncate(self.open.partition_point(|open| open.position < keep));
    }

    /// Notes what is known of a legal start.
    fn settle(&mut self, start: OpenStart, opening: Opening) {
        match opening {
            Opening::NotAStart => {}
            Opening::Open => {
                let index = self.open.partition_point(|open| open.position < start.position);
                self.open.insert(index, start);
            }
            Opening::Tokens(tokens) => {
                let mut head = start.position;
                while self.is_blank(head) {
                    head += 1;
                }
                // Only if a caller names a message that is not counted: then nothing can be known of its window.
                let Some(sum) = self.sum_through(head) else { return };
                let before = sum.wrapping_sub(tokens);
                let known = Start { position: start.position, before };
                if start.may_start {
                    self.insert_start(known);
                } else {
                    self.front = Some(known);
                }
            }
        }
    }

    /// Adds a start to those that can be an answer, or to the hidden ones, and hides those that it makes impossible.
    fn insert_start(&mut self, start: Start) {
        let index = self.starts.partition_point(|other| other.position < start.position);
        if index > 0 && !start.beats(&self.starts[index - 1]) {
            return self.hide(start);
        }
        while let Some(&newer) = self.starts.get(index).filter(|newer| !newer.beats(&start)) {
            self.starts.remove(index);
            self.hide(newer);
        }
        self.starts.insert(index, start);
    }

    fn hide(&mut self, start: Start) {
        let index = self.hidden.partition_point(|hidden| hidden.position < start.position);
        self.hidden.insert(index, start);
    }

    /// Forgets what depends on the message at `position`, which left the history: those before it moved up by one position.
    /// Keeps the longer side. Hands back what was kept beside the others.
    pub fn forget_removed(&mut self, position: u64, forgotten: &mut Vec<P>) {
        let older = position.saturating_sub(self.first);
        let newer = self.end().saturating_sub(position);
        if older < newer {
            self.forget_through(position, forgotten);
            return;
        }
        self.forget_from(position, forgotten);
        self.first += 1;
        let starts = self.starts.iter_mut().chain(&mut self.hidden).chain(&mut self.front);
        starts.for_each(|start| start.position += 1);
        self.open.iter_mut().for_each(|open| open.position += 1);
        self.blanks.iter_mut().chain(&mut self.after_open).for_each(|at| *at += 1);
    }

    /// The prefix sum up to and with the message at `position`, if it is counted.
    fn sum_through(&self, position: u64) -> Option<i64> {
        let index = usize::try_from(position.checked_sub(self.first)?).ok()?;
        self.counted.get(index).map(|counted| counted.sum)
    }

    /// The prefix sum up to and with the last counted message.
    fn last_sum(&self) -> i64 {
        self.counted.back().map_or(self.base, |counted| counted.sum)
    }
}

/// The openings of `entries`, oldest first, which stand at `first` and after it.
fn openings<'a, P: 'a>(first: u64, entries: impl Iterator<Item = &'a Entry<P>>) -> Vec<(OpenStart, Opening)> {
    (first..)
        .zip(entries)
        .filter(|(_, entry)| entry.measure.opening != Opening::NotAStart)
        .map(|(position, entry)| (OpenStart { position, may_start: entry.may_start }, entry.measure.opening))
        .collect()
}

/// Drops items from the front while `condition` holds; tells whether there was one.
fn drop_while<T>(items: &mut VecDeque<T>, condition: impl Fn(&T) -> bool) -> bool {
    let kept = items.len();
    while items.front().is_some_and(&condition) {
        items.pop_front();
    }
    items.len() < kept
}
