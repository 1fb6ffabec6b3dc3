//! The prefix sums of one history under one counter.

use std::collections::VecDeque;

use super::joint::Measure;
use super::ring::grow;

/// The prefix sums of a run of successive messages, and for each legal start among them the prefix sum before it.
///
/// The run can be extended at both ends, which is how it is filled: from the newest message backwards, and later by the
/// messages that came after. Its origin floats: only differences of sums mean anything, so they may wrap.
///
/// `P` is what the owner keeps beside each message to tell later whether it is still what was counted. Methods that forget
/// messages hand it back, since dropping it may run foreign code.
#[derive(Debug, Clone)]
pub struct Ledger<P> {
    /// Position of the first counted message.
    first: u64,
    /// The prefix sum before it.
    base: i64,
    counted: VecDeque<Counted<P>>,
    /// The legal starts that can be an answer: `before` grows strictly. See [`Ledger::earliest_fit`].
    starts: VecDeque<Start>,
    /// The other legal starts: an older one has at least their `before`. Few, and close to the one that hides them.
    hidden: VecDeque<Start>,
    /// Positions of the counted messages that are blank.
    blanks: VecDeque<u64>,
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

/// A measured message with what the ledger keeps beside it.
#[derive(Debug)]
pub struct Entry<P> {
    /// What the accounting rule says of it.
    pub measure: Measure,
    /// Whether its role lets a window begin with it; if not, `measure.opening` is that of the history's first message.
    pub may_start: bool,
    /// What to keep.
    pub pin: P,
}

/// A window: where it starts and its tokens, without any initial count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Position of the first message.
    pub start: u64,
    /// Tokens of the window's texts joined by one space.
    pub tokens: i64,
}

impl<P> Default for Ledger<P> {
    fn default() -> Self {
        Self {
            first: 0,
            base: 0,
            counted: VecDeque::new(),
            starts: VecDeque::new(),
            hidden: VecDeque::new(),
            blanks: VecDeque::new(),
            front: None,
        }
    }
}

impl<P> Ledger<P> {
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

    /// Where the blank messages at the end of what is counted begin. A window that starts there has no head yet.
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
            first: self.first,
            base: self.base,
            counted: counted.collect(),
            starts: self.starts.clone(),
            hidden: self.hidden.clone(),
            blanks: self.blanks.clone(),
            front: self.front,
        }
    }

    /// Tokens of all steps counted. No window that begins before the counted messages is smaller, but for
    /// [`window::SLACK`](super::window::SLACK).
    #[must_use]
    pub fn tokens(&self) -> i64 {
        self.sum_before(self.end()).wrapping_sub(self.base)
    }

    /// Whether it is known what a window from the history's `first` message on costs.
    #[must_use]
    pub fn knows_start_at(&self, first: u64) -> bool {
        self.start_at(first).is_some()
    }

    /// The earliest legal start whose window, up to the last counted message, has at most `allowance` tokens.
    ///
    /// A window can cost less than one that begins later (a text alone may be more tokens than after a space). So `starts`
    /// keeps only those whose `before` exceeds that of every older one: no other can be the earliest, for any allowance,
    /// and among these the search is binary. Logarithmic in the number of legal starts.
    #[must_use]
    pub fn earliest_fit(&self, allowance: i64) -> Option<Fit> {
        let sum = self.sum_before(self.end());
        let fit = |start: &Start| Fit { start: start.position, tokens: sum.wrapping_sub(start.before) };
        if let Some(front) = self.front.as_ref().map(fit).filter(|front| front.tokens <= allowance) {
            return Some(front);
        }
        let index = self.starts.partition_point(|start| fit(start).tokens > allowance);
        self.starts.get(index).map(fit)
    }

    /// Adds messages before the counted ones, the newest of them first. Those of an empty ledger end before `end`.
    pub fn extend_older(&mut self, end: u64, entries: Vec<Entry<P>>) {
        if self.counted.is_empty() {
            self.first = end;
        }
        grow(&mut self.counted, entries.len());
        let openings = openings(self.first - entries.len() as u64, entries.iter().rev());
        for Entry { measure, pin, .. } in entries {
            self.counted.push_front(Counted { sum: self.base, pin });
            self.base = self.base.wrapping_sub(measure.step);
            self.first -= 1;
            if measure.blank {
                self.blanks.push_front(self.first);
            }
        }
        for opening in openings.into_iter().rev() {
            let start = self.resolve(opening.position, opening.tokens);
            if opening.may_start {
                self.push_oldest_start(start);
            } else {
                self.front = Some(start);
            }
        }
    }

    /// Adds messages after the counted ones, the newest of them first. The last counted message must not be blank.
    pub fn extend_newer(&mut self, entries: Vec<Entry<P>>) {
        grow(&mut self.counted, entries.len());
        let openings = openings(self.end(), entries.iter().rev());
        for Entry { measure, pin, .. } in entries.into_iter().rev() {
            if measure.blank {
                self.blanks.push_back(self.end());
            }
            let sum = self.sum_before(self.end()).wrapping_add(measure.step);
            self.counted.push_back(Counted { sum, pin });
        }
        for opening in openings {
            self.push_newest_start(self.resolve(opening.position, opening.tokens));
        }
    }

    /// Forgets the messages before `position`, and hands back what was kept beside them.
    pub fn forget_before(&mut self, position: u64, forgotten: &mut Vec<P>) {
        while self.first < position
            && let Some(counted) = self.counted.pop_front()
        {
            self.first += 1;
            self.base = counted.sum;
            self.front = None;
            forgotten.push(counted.pin);
        }
        drop_while(&mut self.blanks, |&blank| blank < position);
        drop_while(&mut self.hidden, |start| start.position < position);
        if drop_while(&mut self.starts, |start| start.position < position) {
            // What only those had hidden can be an answer again.
            let next = self.starts.front().map_or(u64::MAX, |start| start.position);
            let shown = self.hidden.partition_point(|start| start.position < next);
            for start in self.hidden.drain(..shown).rev().collect::<Vec<_>>() {
                self.push_oldest_start(start);
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

    /// Forgets the messages from `position` on, and hands back what was kept beside them. Blank messages before it go too:
    /// what their windows cost depends on what follows.
    pub fn forget_from(&mut self, position: u64, forgotten: &mut Vec<P>) {
        let mut keep = position.clamp(self.first, self.end());
        while keep > self.first && self.is_blank(keep - 1) {
            keep -= 1;
        }
        forgotten.extend(self.counted.drain((keep - self.first) as usize..).map(|counted| counted.pin));
        self.starts.truncate(self.starts.partition_point(|start| start.position < keep));
        self.hidden.truncate(self.hidden.partition_point(|start| start.position < keep));
        self.blanks.truncate(self.blanks.partition_point(|&blank| blank < keep));
        if self.counted.is_empty() {
            self.front = None;
        }
    }

    fn push_oldest_start(&mut self, start: Start) {
        while let Some(&newer) = self.starts.front().filter(|newer| !newer.beats(&start)) {
            self.starts.pop_front();
            self.hide(newer);
        }
        self.starts.push_front(start);
    }

    fn push_newest_start(&mut self, start: Start) {
        if self.starts.back().is_none_or(|older| start.beats(older)) {
            self.starts.push_back(start);
        } else {
            self.hide(start);
        }
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
        self.blanks.iter_mut().for_each(|blank| *blank += 1);
    }

    /// The start of a window at `position` whose head, up to the first message that is not blank, has `tokens`.
    fn resolve(&self, position: u64, tokens: i64) -> Start {
        let mut head = position;
        while self.is_blank(head) {
            head += 1;
        }
        Start { position, before: self.sum_before(head + 1).wrapping_sub(tokens) }
    }

    fn start_at(&self, first: u64) -> Option<&Start> {
        self.front.as_ref().or(self.starts.front()).filter(|start| start.position == first)
    }

    /// The prefix sum of the messages before `position`.
    fn sum_before(&self, position: u64) -> i64 {
        match (position - self.first).checked_sub(1) {
            None => self.base,
            Some(index) => self.counted[index as usize].sum,
        }
    }
}

struct Opening {
    position: u64,
    tokens: i64,
    may_start: bool,
}

/// The openings of `entries`, oldest first, which stand at `first` and after it.
fn openings<'a, P: 'a>(first: u64, entries: impl Iterator<Item = &'a Entry<P>>) -> Vec<Opening> {
    (first..)
        .zip(entries)
        .filter_map(|(position, entry)| {
            let tokens = entry.measure.opening?;
            Some(Opening { position, tokens, may_start: entry.may_start })
        })
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
