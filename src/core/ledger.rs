//! The prefix sums of one history under one policy.

use std::collections::VecDeque;

use super::deque::grow;
use super::joined::SLACK;

/// The prefix sums of a run of successive messages, and for each start among them the prefix sum *before* it: a window from
/// there on has as many tokens as the sum at its end exceeds it.
///
/// The run can be extended at both ends, which is how it is filled: from the newest message backwards, and later by the
/// messages that came after. Its origin floats: only differences of sums mean anything, so they may wrap. It ends with a
/// whole segment: see [`joined`](super::joined).
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
    /// The starts that can be an answer: `before` grows strictly. See [`Ledger::earliest_fit`].
    starts: VecDeque<Start>,
    /// The other starts: an older one has at least their `before`. Few, and close to the one that hides them.
    hidden: VecDeque<Start>,
    /// Positions of the counted messages that are blank. They add nothing: their segment's word adds what it adds.
    blanks: VecDeque<u64>,
    /// Long runs of blank messages among which windows may begin.
    runs: VecDeque<Run>,
    /// Whether the last counted text is known to end in a character that is not whitespace.
    closed: bool,
}

/// One counted message.
#[derive(Debug, Clone)]
struct Counted<P> {
    /// The prefix sum up to and with this message.
    sum: i64,
    pin: P,
}

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

/// A long run of blank messages: what windows cost that begin with one of them was not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Position of the first that may begin a window.
    pub first: u64,
    /// Position of the word after them.
    pub word: u64,
}

/// A measured message with what the ledger keeps beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<P> {
    /// Tokens that it adds to those before it.
    pub step: i64,
    /// If a window may begin with it: the tokens from it up to its segment's word.
    pub opening: Option<i64>,
    /// Whether it is blank.
    pub blank: bool,
    /// Of a word: how many messages before it its long run of blank starts begins.
    pub run: Option<u64>,
    /// What to keep.
    pub pin: P,
}

/// A window: where it starts and its tokens, without any initial count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Position of the first message.
    pub start: u64,
    /// Its tokens; `None` for a last message that exceeds the allowance and whose tokens are not known.
    pub tokens: Option<i64>,
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
            runs: VecDeque::new(),
            closed: false,
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

    /// Whether the last counted text is known to end in a character that is not whitespace.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Position of the word that ends the segment of the message at `position`, which is counted.
    #[must_use]
    pub fn word_after(&self, position: u64) -> u64 {
        let mut word = position;
        while self.blanks.binary_search(&word).is_ok() {
            word += 1;
        }
        word
    }

    /// What was kept beside the message at `position`, if it is counted.
    #[must_use]
    pub fn pin(&self, position: u64) -> Option<&P> {
        let index = usize::try_from(position.checked_sub(self.first)?).ok()?;
        self.counted.get(index).map(|counted| &counted.pin)
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
            runs: self.runs.clone(),
            closed: self.closed,
        }
    }

    /// Tokens of all that is counted, less those of a first segment of which messages were forgotten. No window that begins
    /// before it is smaller, but for [`SLACK`].
    #[must_use]
    pub fn tokens(&self) -> i64 {
        self.last_sum().wrapping_sub(self.base)
    }

    /// Tokens of the counted messages from `position` on.
    #[must_use]
    pub fn tokens_from(&self, position: u64) -> i64 {
        self.last_sum().wrapping_sub(self.sum_before(position))
    }

    /// Whether a window may begin with the first counted message, as far as the ledger knows.
    #[must_use]
    pub fn begins_with_a_start(&self) -> bool {
        self.starts.front().is_some_and(|start| start.position == self.first)
            || self.runs.front().is_some_and(|run| run.first == self.first)
    }

    /// The earliest start whose window, up to the last counted message, has at most `allowance` tokens; starts in long runs
    /// are left out.
    ///
    /// A window can cost less than one that begins later (a text alone may be more tokens than after a space). So `starts`
    /// keeps only those whose `before` exceeds that of every older one: no other can be the earliest, for any allowance,
    /// and among these the search is binary. Logarithmic in the number of starts.
    #[must_use]
    pub fn earliest_fit(&self, allowance: i64) -> Option<Fit> {
        let sum = self.last_sum();
        let tokens = |start: &Start| sum.wrapping_sub(start.before);
        let start = self.starts.get(self.starts.partition_point(|start| tokens(start) > allowance))?;
        Some(Fit { start: start.position, tokens: Some(tokens(start)) })
    }

    /// The long runs before `position` with a start that may fit `allowance` as in [`earliest_fit`](Self::earliest_fit),
    /// oldest first.
    #[must_use]
    pub fn runs_that_may_fit(&self, position: u64, allowance: i64) -> Vec<Run> {
        let older = self.runs.partition_point(|run| run.first < position);
        let runs = self.runs.range(..older).rev().copied();
        let mut runs: Vec<Run> = runs.take_while(|run| self.tokens_from(run.word + 1) <= allowance + SLACK).collect();
        runs.reverse();
        runs
    }

    /// Adds messages before the counted ones, the newest of them first. Those of an empty ledger end before `end`.
    pub fn extend_older(&mut self, end: u64, entries: Vec<Entry<P>>) {
        if self.counted.is_empty() {
            self.first = end;
        }
        grow(&mut self.counted, entries.len());
        let mut word_sum = self.base;
        for Entry { step, opening, blank, run, pin } in entries {
            self.counted.push_front(Counted { sum: self.base, pin });
            self.first -= 1;
            if blank {
                self.blanks.push_front(self.first);
            } else {
                word_sum = self.base;
            }
            self.base = self.base.wrapping_sub(step);
            if let Some(opening) = opening {
                self.insert_start(Start { position: self.first, before: word_sum.wrapping_sub(opening) });
            }
            if let Some(length) = run {
                self.runs.push_front(Run { first: self.first - length, word: self.first });
            }
        }
    }

    /// Adds messages after the counted ones, the newest of them first.
    pub fn extend_newer(&mut self, entries: Vec<Entry<P>>) {
        grow(&mut self.counted, entries.len());
        // The starts of a segment are known with its word.
        let mut blank_starts = Vec::new();
        for Entry { step, opening, blank, run, pin } in entries.into_iter().rev() {
            let position = self.end();
            let sum = self.last_sum().wrapping_add(step);
            self.counted.push_back(Counted { sum, pin });
            if let Some(length) = run {
                self.runs.push_back(Run { first: position - length, word: position });
            }
            if blank {
                self.blanks.push_back(position);
                blank_starts.extend(opening.map(|opening| (position, opening)));
            } else {
                for (position, opening) in blank_starts.drain(..).chain(opening.map(|opening| (position, opening))) {
                    self.insert_start(Start { position, before: sum.wrapping_sub(opening) });
                }
            }
        }
    }

    /// Notes whether the last counted text ends in a character that is not whitespace.
    pub fn set_closed(&mut self, closed: bool) {
        self.closed = closed;
    }

    /// Forgets everything, and hands back what was kept.
    pub fn forget_all(&mut self, forgotten: &mut Vec<P>) {
        let all = std::mem::take(self);
        forgotten.extend(all.counted.into_iter().map(|counted| counted.pin));
    }

    /// Forgets the messages before `position`, and hands back what was kept beside them.
    pub fn forget_before(&mut self, position: u64, forgotten: &mut Vec<P>) {
        if position <= self.first {
            return;
        }
        while self.first < position
            && let Some(counted) = self.counted.pop_front()
        {
            self.first += 1;
            self.base = counted.sum;
            forgotten.push(counted.pin);
        }
        let last_forgotten_is_blank = self.blanks.iter().take_while(|&&blank| blank < position).last() == Some(&(position - 1));
        drop_while(&mut self.blanks, |&blank| blank < position);
        if last_forgotten_is_blank && !self.counted.is_empty() {
            // What is left of that segment adds less than its step says; how much is not known.
            self.base = self.sum_before(self.word_after(self.first) + 1);
        }
        drop_while(&mut self.hidden, |start| start.position < position);
        drop_while(&mut self.runs, |run| run.word <= position);
        if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(position);
        }
        if drop_while(&mut self.starts, |start| start.position < position) {
            // What only those had hidden can be an answer again.
            let next = self.starts.front().map_or(u64::MAX, |start| start.position);
            let shown = self.hidden.partition_point(|start| start.position < next);
            for start in self.hidden.drain(..shown).rev().collect::<Vec<_>>() {
                self.insert_start(start);
            }
        }
    }

    /// Forgets the messages up to and with the segment of the one at `position`, and hands back what was kept beside them.
    pub fn forget_through(&mut self, position: u64, forgotten: &mut Vec<P>) {
        if position >= self.first {
            self.forget_before(self.word_after(position) + 1, forgotten);
        }
    }

    /// Forgets the segment of the message at `position` and all after it, and hands back what was kept beside them.
    pub fn forget_from(&mut self, position: u64, forgotten: &mut Vec<P>) {
        if position >= self.end() {
            return;
        }
        let mut keep = position.max(self.first);
        while keep > self.first && self.blanks.binary_search(&(keep - 1)).is_ok() {
            keep -= 1;
        }
        forgotten.extend(self.counted.drain((keep - self.first) as usize..).map(|counted| counted.pin));
        self.blanks.truncate(self.blanks.partition_point(|&blank| blank < keep));
        self.starts.truncate(self.starts.partition_point(|start| start.position < keep));
        self.hidden.truncate(self.hidden.partition_point(|start| start.position < keep));
        self.runs.truncate(self.runs.partition_point(|run| run.word < keep));
        self.closed = false;
    }

    /// Notes that every counted message has another position: `by` more.
    pub fn renumber(&mut self, by: i64) {
        self.first = self.first.wrapping_add_signed(by);
        let starts = self.starts.iter_mut().chain(&mut self.hidden).map(|start| &mut start.position);
        let runs = self.runs.iter_mut().flat_map(|run| [&mut run.first, &mut run.word]);
        starts.chain(&mut self.blanks).chain(runs).for_each(|position| *position = position.wrapping_add_signed(by));
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

    fn last_sum(&self) -> i64 {
        self.counted.back().map_or(self.base, |counted| counted.sum)
    }

    /// The prefix sum before the message at `position`; where nothing is counted, the nearest sum there is.
    fn sum_before(&self, position: u64) -> i64 {
        match position.saturating_sub(self.first).checked_sub(1) {
            None => self.base,
            Some(index) => self.counted.get(index as usize).map_or(self.last_sum(), |counted| counted.sum),
        }
    }
}

/// Drops items from the front while `condition` holds; tells whether there was one.
fn drop_while<T>(items: &mut VecDeque<T>, condition: impl Fn(&T) -> bool) -> bool {
    let kept = items.len();
    while items.front().is_some_and(&condition) {
        items.pop_front();
    }
    items.len() < kept
}

#[cfg(test)]
mod tests {
    use super::{Entry, Ledger, Run};

    /// A message that is a start of its own: (tokens after what stands before, tokens alone).
    fn start(step: i64, opening: i64) -> Entry<i64> {
        Entry { step, opening: Some(opening), blank: false, run: None, pin: step }
    }

    /// A message with which no window begins.
    fn reply(step: i64) -> Entry<i64> {
        Entry { step, opening: None, blank: false, run: None, pin: step }
    }

    fn blank(opening: Option<i64>) -> Entry<i64> {
        Entry { step: 0, opening, blank: true, run: None, pin: 0 }
    }

    fn filled(end: u64, oldest_first: Vec<Entry<i64>>) -> Ledger<i64> {
        let mut ledger = Ledger::default();
        ledger.extend_older(end, oldest_first.into_iter().rev().collect());
        ledger
    }

    /// The start of the window for every allowance from 0 on.
    fn fits(ledger: &Ledger<i64>, most: i64) -> Vec<Option<u64>> {
        (0..=most).map(|allowance| ledger.earliest_fit(allowance).map(|fit| fit.start)).collect()
    }

    #[test]
    fn both_ways_to_extend_give_the_same() {
        let entries = vec![start(3, 2), reply(4), blank(Some(7)), blank(None), start(5, 6), reply(1), start(2, 2)];
        let older = filled(17, entries.clone());
        let mut newer = filled(12, entries[..2].to_vec());
        newer.extend_newer(entries[2..].iter().rev().cloned().collect());
        assert_eq!((older.first(), older.end(), older.tokens()), (10, 17, 15));
        assert_eq!((newer.first(), newer.end(), newer.tokens()), (10, 17, 15));
        assert_eq!(fits(&older, 20), fits(&newer, 20));
        // The blank start costs 10, the one after it 9; the first one 14.
        assert_eq!(older.earliest_fit(14).map(|fit| fit.start), Some(10));
        assert_eq!(older.earliest_fit(13).map(|fit| fit.start), Some(12));
        assert_eq!(older.earliest_fit(9).map(|fit| fit.start), Some(14));
        assert_eq!(older.earliest_fit(1), None);
    }

    #[test]
    fn a_start_that_an_older_one_beats_comes_back_when_that_leaves() {
        // The second costs 5, the first 4: a text alone may be more tokens than after a space.
        let mut ledger = filled(2, vec![start(3, 1), start(3, 5)]);
        assert_eq!(fits(&ledger, 5), [None, None, None, None, Some(0), Some(0)]);
        ledger.forget_before(1, &mut Vec::new());
        assert_eq!(fits(&ledger, 5), [None, None, None, None, None, Some(1)]);
    }

    #[test]
    fn forgetting_hands_back_the_pins_and_keeps_whole_segments() {
        let entries = vec![start(1, 1), start(2, 2), blank(Some(3)), start(3, 3), start(4, 4)];
        let mut forgotten = Vec::new();
        let mut ledger = filled(5, entries.clone());
        ledger.forget_from(3, &mut forgotten);
        assert_eq!((forgotten.as_slice(), ledger.end(), ledger.tokens()), ([0, 3, 4].as_slice(), 2, 3));
        forgotten.clear();
        let mut ledger = filled(5, entries);
        ledger.forget_through(2, &mut forgotten);
        assert_eq!((forgotten.as_slice(), ledger.first(), ledger.tokens()), ([1, 2, 0, 3].as_slice(), 4, 4));
        ledger.forget_all(&mut forgotten);
        assert!(ledger.is_empty() && ledger.earliest_fit(i64::MAX).is_none());
        assert_eq!(forgotten.len(), 5);
    }

    #[test]
    fn positions_move_together() {
        let mut ledger = filled(5, vec![start(1, 1), blank(Some(5)), start(2, 2), start(3, 9), reply(4)]);
        ledger.renumber(5);
        assert_eq!((ledger.first(), ledger.end(), ledger.word_after(6)), (5, 10, 7));
        ledger.renumber(-5);
        assert_eq!((ledger.first(), ledger.end(), ledger.word_after(1)), (0, 5, 2));
        assert_eq!(ledger.earliest_fit(10).map(|fit| fit.start), Some(0));
        ledger.renumber(10);
        assert_eq!((ledger.first(), ledger.word_after(11)), (10, 12));
    }

    #[test]
    fn long_runs_are_offered_where_they_may_fit() {
        let word = Entry { run: Some(2), ..start(3, 3) };
        let mut ledger = filled(5, vec![blank(None), blank(None), word, reply(4), start(5, 5)]);
        assert_eq!(ledger.runs_that_may_fit(5, 9), [Run { first: 0, word: 2 }]);
        assert_eq!(ledger.runs_that_may_fit(5, 0), []);
        assert_eq!(ledger.runs_that_may_fit(0, 9), []);
        ledger.forget_before(1, &mut Vec::new());
        assert_eq!(ledger.runs_that_may_fit(5, 9), [Run { first: 1, word: 2 }]);
        assert!(ledger.begins_with_a_start());
        ledger.forget_before(2, &mut Vec::new());
        assert_eq!(ledger.runs_that_may_fit(5, 9), []);
    }
}
