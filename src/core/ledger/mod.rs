//! The prefix sums of one history under one policy.

mod starts;

use std::collections::VecDeque;

use self::starts::{Start, Starts};
use super::deque::{drop_while, grow};
use super::joined::SLACK;

/// The prefix sums of a run of successive messages, and for each start among them the prefix sum *before* it. A window
/// has as many tokens as the sum at its end exceeds `before` of its start.
///
/// The run can be extended at both ends. It is filled from the newest message backwards, and later by newer messages.
/// Its origin is arbitrary: only differences of sums matter, so sums may wrap. It ends with a whole segment: see
/// [`joined`](super::joined).
///
/// `P` is a message's pin: what the owner keeps beside it to tell later whether it is still what was counted. Methods
/// that forget messages hand their pins back, since dropping a pin may run foreign code.
#[derive(Debug, Clone)]
pub struct Ledger<P> {
    /// Position of the first counted message.
    first: u64,
    /// The prefix sum before it.
    base: i64,
    counted: VecDeque<Summed<P>>,
    starts: Starts,
    /// Positions of the counted messages that are blank. They add nothing: their segment's word includes what they add.
    blanks: VecDeque<u64>,
    /// Long runs of blank messages among which windows may begin.
    runs: VecDeque<BlankRun>,
    /// Whether the last counted text is known to end in a character that is not whitespace.
    closed: bool,
    /// Positions of the counted questions: the user messages, where windows may carry them.
    questions: VecDeque<u64>,
    /// The question before the counted messages, if it was counted for steps that carry it.
    carried: Option<Carried<P>>,
    /// Positions of the starts before the first counted question. The question that they carry is not counted yet.
    waiting: VecDeque<u64>,
    /// The tokens and the pin of each message of the head, which is not among the counted messages.
    head: Vec<(i64, P)>,
    /// Tokens that were evicted since everything was counted for a cut that stays, without those of a question that is
    /// kept. `None` if nobody has asked for such a cut.
    evicted: Option<i64>,
}

/// One counted message.
#[derive(Debug, Clone)]
struct Summed<P> {
    /// The prefix sum up to and with this message.
    sum: i64,
    pin: P,
}

/// A question that is not among the counted messages.
#[derive(Debug, Clone)]
struct Carried<P> {
    position: u64,
    tokens: i64,
    pin: P,
}

/// A long run of blank messages. The windows that begin with them were not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlankRun {
    /// Position of the first that may begin a window.
    pub first: u64,
    /// Position of the word after them.
    pub word: u64,
}

/// A measured message and its pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<P> {
    /// Tokens that it adds to those before it.
    pub step: i64,
    /// If a window may begin with it: the tokens from it up to its segment's word, without the question that it
    /// carries.
    pub opening: Option<i64>,
    /// How it relates to questions.
    pub asks: Asks,
    /// Whether it is blank.
    pub blank: bool,
    /// For a word behind a long run of blank starts: how many messages before the word the run begins.
    pub run: Option<u64>,
    /// Its pin.
    pub pin: P,
}

/// How a message relates to the question of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asks {
    /// Not at all.
    #[default]
    Nothing,
    /// It is a question.
    Question,
    /// A window that begins with it carries the question before it.
    Carries,
}

/// A window: where it starts and its tokens, without any initial count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// Position of the first message.
    pub start: u64,
    /// Its tokens; `None` for a last message that exceeds the allowance and was not counted.
    pub tokens: Option<i64>,
}

impl<P> Default for Ledger<P> {
    fn default() -> Self {
        Self {
            first: 0,
            base: 0,
            counted: VecDeque::new(),
            starts: Starts::default(),
            blanks: VecDeque::new(),
            runs: VecDeque::new(),
            closed: false,
            questions: VecDeque::new(),
            carried: None,
            waiting: VecDeque::new(),
            head: Vec::new(),
            evicted: None,
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
        while self.is_blank(word) {
            word += 1;
        }
        word
    }

    fn is_blank(&self, position: u64) -> bool {
        self.blanks.binary_search(&position).is_ok()
    }

    /// The pins of the counted messages from `start` on, oldest first.
    #[must_use]
    pub fn pins_since(&self, start: u64) -> impl DoubleEndedIterator<Item = &P> + ExactSizeIterator {
        let skipped = (start.saturating_sub(self.first) as usize).min(self.counted.len());
        self.counted.range(skipped..).map(|counted| &counted.pin)
    }

    /// All pins.
    pub fn pins(&self) -> impl Iterator<Item = &P> {
        let head = self.head.iter().map(|(_, pin)| pin);
        head.chain(self.carried.iter().map(|carried| &carried.pin)).chain(self.pins_since(0))
    }

    /// The same ledger with other pins.
    pub fn map_pins<Q>(&self, mut other: impl FnMut(&P) -> Q) -> Ledger<Q> {
        let counted = self.counted.iter().map(|counted| Summed { sum: counted.sum, pin: other(&counted.pin) });
        Ledger {
            first: self.first,
            base: self.base,
            counted: counted.collect(),
            starts: self.starts.clone(),
            blanks: self.blanks.clone(),
            runs: self.runs.clone(),
            closed: self.closed,
            questions: self.questions.clone(),
            carried: self.carried.as_ref().map(|carried| Carried {
                position: carried.position,
                tokens: carried.tokens,
                pin: other(&carried.pin),
            }),
            waiting: self.waiting.clone(),
            head: self.head.iter().map(|(tokens, pin)| (*tokens, other(pin))).collect(),
            evicted: self.evicted,
        }
    }

    /// Tokens of everything counted. If messages of a first segment were forgotten, that segment is left out. No window
    /// that begins earlier is smaller, except for [`SLACK`].
    #[must_use]
    pub fn tokens(&self) -> i64 {
        self.last_sum().wrapping_sub(self.base)
    }

    /// Tokens of the counted messages from `position` on.
    #[must_use]
    pub fn tokens_from(&self, position: u64) -> i64 {
        self.last_sum().wrapping_sub(self.sum_before(position))
    }

    /// Whether a window may begin with the first counted message, and its tokens are known.
    #[must_use]
    pub fn knows_first(&self) -> bool {
        self.starts.first() == Some(self.first)
    }

    /// Whether a window may begin with the first counted message, as far as the ledger knows.
    #[must_use]
    pub fn begins_with_a_start(&self) -> bool {
        self.knows_first() || self.runs.front().is_some_and(|run| run.first == self.first)
    }

    /// The earliest start whose window, up to the last counted message, has at most `allowance` tokens. Starts in long
    /// runs are left out.
    #[must_use]
    pub fn earliest_fit(&self, allowance: i64) -> Option<Fit> {
        self.starts.earliest_fit(self.last_sum(), allowance).map(|start| self.fit(start))
    }

    /// The long runs before `position`, oldest first, that have a start that may fit `allowance`. See
    /// [`earliest_fit`](Self::earliest_fit).
    #[must_use]
    pub fn runs_that_may_fit(&self, position: u64, allowance: i64) -> Vec<BlankRun> {
        let older = self.runs.partition_point(|run| run.first < position);
        let runs = self.runs.range(..older).rev().copied();
        let mut runs: Vec<BlankRun> =
            runs.take_while(|run| self.tokens_from(run.word + 1) <= allowance.saturating_add(SLACK)).collect();
        runs.reverse();
        runs
    }

    /// The newest start and its window's tokens.
    #[must_use]
    pub fn newest_start(&self) -> Option<Fit> {
        self.starts.newest().map(|start| self.fit(start))
    }

    fn fit(&self, start: Start) -> Fit {
        Fit { start: start.position, tokens: Some(self.last_sum().wrapping_sub(start.before)) }
    }

    /// The position of the question that a window carries if it begins with the counted `start`.
    #[must_use]
    pub fn question_of(&self, start: u64) -> Option<u64> {
        let older = self.questions.partition_point(|&question| question < start);
        let counted = older.checked_sub(1).map(|index| self.questions[index]);
        counted.or_else(|| self.carried.as_ref().map(|carried| carried.position))
    }

    /// The position and tokens of the question before the counted messages, if it was counted.
    #[must_use]
    pub fn carried(&self) -> Option<(u64, i64)> {
        self.carried.as_ref().map(|carried| (carried.position, carried.tokens))
    }

    /// The first start whose question is not counted yet.
    #[must_use]
    pub fn first_waiting(&self) -> Option<u64> {
        self.waiting.front().copied()
    }

    /// The pin of the question at `position`.
    #[must_use]
    pub fn pin_of_question(&self, position: u64) -> Option<&P> {
        match &self.carried {
            Some(carried) if carried.position == position => Some(&carried.pin),
            _ => self.counted.get(position.checked_sub(self.first)? as usize).map(|counted| &counted.pin),
        }
    }

    /// The tokens and the pin of each counted message of the head.
    #[must_use]
    pub fn head(&self) -> &[(i64, P)] {
        &self.head
    }

    /// Adds counted messages to the head.
    pub fn extend_head(&mut self, counted: impl IntoIterator<Item = (i64, P)>) {
        self.head.extend(counted);
    }

    /// Forgets what was counted of the head.
    pub fn forget_head(&mut self, forgotten: &mut Vec<P>) {
        forgotten.extend(self.head.drain(..).map(|(_, pin)| pin));
    }

    /// Forgets the oldest message of the head, which has left the history to make room.
    pub fn evict_head(&mut self, forgotten: &mut Vec<P>) {
        if !self.head.is_empty() {
            let (tokens, pin) = self.head.remove(0);
            self.evicted = self.evicted.map(|evicted| evicted.saturating_add(tokens));
            forgotten.push(pin);
        }
    }

    /// Tokens of everything that was ever counted for a cut that stays, evicted messages included.
    #[must_use]
    pub fn tokens_since_origin(&self) -> i64 {
        self.tokens().saturating_add(self.evicted.unwrap_or(0))
    }

    /// Tokens that were evicted since everything was counted for a cut that stays; `None` if nobody has asked for one.
    #[must_use]
    pub fn evicted(&self) -> Option<i64> {
        self.evicted
    }

    /// Makes the first counted message the origin of cuts that stay. `evicted` is the number of tokens that have left
    /// before it.
    pub fn set_origin(&mut self, evicted: i64) {
        self.evicted = Some(evicted);
    }

    /// Makes the next cut that stays begin the sums anew.
    pub fn forget_origin(&mut self) {
        self.evicted = None;
    }

    /// Sets the question before the counted messages, for the starts that wait for it.
    pub fn set_carried(&mut self, position: u64, tokens: i64, pin: P, forgotten: &mut Vec<P>) {
        self.forget_carried(forgotten);
        for start in std::mem::take(&mut self.waiting) {
            self.starts.insert(Start { position: start, before: self.sum_before(start).wrapping_sub(tokens) });
        }
        self.carried = Some(Carried { position, tokens, pin });
    }

    fn forget_carried(&mut self, forgotten: &mut Vec<P>) {
        forgotten.extend(self.carried.take().map(|carried| carried.pin));
    }

    /// Adds messages before the counted ones, the newest of them first. If nothing is counted, they end before `end`.
    pub fn extend_older(&mut self, end: u64, entries: Vec<Entry<P>>) {
        if self.counted.is_empty() {
            self.first = end;
        }
        grow(&mut self.counted, entries.len());
        let mut word_sum = self.base;
        for Entry { step, opening, asks, blank, run, pin } in entries {
            self.counted.push_front(Summed { sum: self.base, pin });
            self.first -= 1;
            if blank {
                self.blanks.push_front(self.first);
            } else {
                word_sum = self.base;
            }
            self.base = self.base.wrapping_sub(step);
            match (asks, opening) {
                (Asks::Carries, Some(_)) => self.waiting.push_front(self.first),
                (_, Some(opening)) => {
                    self.starts.insert(Start { position: self.first, before: word_sum.wrapping_sub(opening) });
                }
                (_, None) => {}
            }
            if asks == Asks::Question {
                self.questions.push_front(self.first);
                for start in std::mem::take(&mut self.waiting) {
                    self.starts.insert(Start { position: start, before: self.sum_before(start).wrapping_sub(step) });
                }
            }
            if let Some(length) = run {
                self.runs.push_front(BlankRun { first: self.first - length, word: self.first });
            }
        }
    }

    /// Forgets the question before the counted messages, because the messages before them are about to be counted. The
    /// starts that carry it wait for it again.
    pub fn await_question(&mut self, forgotten: &mut Vec<P>) {
        if self.carried.is_some() {
            let end = self.questions.front().copied().unwrap_or(u64::MAX);
            self.waiting.extend(self.starts.take_before(end));
            self.waiting.make_contiguous().sort_unstable();
            self.forget_carried(forgotten);
        }
    }

    /// Adds messages after the counted ones, the newest of them first.
    pub fn extend_newer(&mut self, entries: Vec<Entry<P>>) {
        grow(&mut self.counted, entries.len());
        // The starts of a segment are known once its word is.
        let mut blank_starts = Vec::new();
        for Entry { step, opening, asks, blank, run, pin } in entries.into_iter().rev() {
            let position = self.end();
            let sum = self.last_sum().wrapping_add(step);
            self.counted.push_back(Summed { sum, pin });
            if let Some(length) = run {
                self.runs.push_back(BlankRun { first: position - length, word: position });
            }
            if blank {
                self.blanks.push_back(position);
                blank_starts.extend(opening.map(|opening| (position, opening)));
            } else if asks == Asks::Carries && opening.is_some() {
                match self.question_tokens() {
                    Some(tokens) => self.starts.insert(Start { position, before: sum.wrapping_sub(step + tokens) }),
                    None => self.waiting.push_back(position),
                }
            } else {
                if asks == Asks::Question {
                    self.questions.push_back(position);
                }
                for (position, opening) in blank_starts.drain(..).chain(opening.map(|opening| (position, opening))) {
                    self.starts.insert(Start { position, before: sum.wrapping_sub(opening) });
                }
            }
        }
    }

    /// Tokens of the last question, if it is counted.
    fn question_tokens(&self) -> Option<i64> {
        match self.questions.back() {
            Some(&question) => Some(self.tokens_at(question)),
            None => self.carried.as_ref().map(|carried| carried.tokens),
        }
    }

    /// Notes a start at `position` in the long run before `word`, and the tokens from it up to that word.
    pub fn add_start(&mut self, position: u64, word: u64, opening: i64) {
        if !self.starts.has(position) {
            self.starts.insert(Start { position, before: self.sum_before(word + 1).wrapping_sub(opening) });
        }
    }

    /// Notes whether the last counted text ends in a character that is not whitespace.
    pub fn set_closed(&mut self, closed: bool) {
        self.closed = closed;
    }

    /// Forgets everything, and hands back the pins.
    pub fn forget_all(&mut self, forgotten: &mut Vec<P>) {
        let all = std::mem::take(self);
        (self.head, self.evicted) = (all.head, all.evicted);
        forgotten.extend(all.counted.into_iter().map(|counted| counted.pin));
        forgotten.extend(all.carried.map(|carried| carried.pin));
    }

    /// Like [`forget_before`](Self::forget_before), for messages that have left the history to make room. The question
    /// at `kept` replaces the one at `question`.
    pub fn evict_before(&mut self, position: u64, question: Option<u64>, kept: Option<u64>, forgotten: &mut Vec<P>) {
        let [left, stays] = [question, kept].map(|question| question.map_or(0, |question| self.tokens_at(question)));
        let tokens = self.tokens();
        self.forget_older(position, kept, forgotten);
        let gone = (tokens - self.tokens()).saturating_add(left - stays);
        self.evicted = self.evicted.map(|evicted| evicted.saturating_add(gone));
    }

    /// Tokens of the question at `position`; 0 if it is not counted.
    fn tokens_at(&self, position: u64) -> i64 {
        if (self.first..self.end()).contains(&position) {
            return self.sum_before(position + 1).wrapping_sub(self.sum_before(position));
        }
        self.carried().filter(|(carried, _)| *carried == position).map_or(0, |(_, tokens)| tokens)
    }

    /// Forgets the starts before `position`, where the history's first question is.
    pub fn forget_starts_before(&mut self, position: u64, forgotten: &mut Vec<P>) {
        drop_while(&mut self.waiting, |&start| start < position);
        self.starts.drop_before(position);
        if self.carried().is_some_and(|(carried, _)| carried < position) {
            self.forget_carried(forgotten);
        }
    }

    /// Forgets the messages before `position`, and hands back their pins.
    pub fn forget_before(&mut self, position: u64, forgotten: &mut Vec<P>) {
        self.forget_older(position, None, forgotten);
    }

    fn forget_older(&mut self, position: u64, kept: Option<u64>, forgotten: &mut Vec<P>) {
        if position <= self.first {
            return;
        }
        while self.first < position
            && let Some(counted) = self.counted.pop_front()
        {
            if self.questions.front() == Some(&self.first) {
                // The steps behind it may still carry it.
                self.questions.pop_front();
                self.forget_carried(forgotten);
                let tokens = counted.sum.wrapping_sub(self.base);
                self.carried = Some(Carried { position: self.first, tokens, pin: counted.pin });
            } else {
                forgotten.push(counted.pin);
            }
            self.first += 1;
            self.base = counted.sum;
        }
        drop_while(&mut self.waiting, |&start| start < position);
        let is_kept = kept.is_some() && self.carried().map(|(position, _)| position) == kept;
        if !is_kept && (self.counted.is_empty() || self.questions.front() == Some(&self.first)) {
            self.forget_carried(forgotten);
        }
        let last_forgotten_is_blank = self.is_blank(position - 1);
        drop_while(&mut self.blanks, |&blank| blank < position);
        if last_forgotten_is_blank && !self.counted.is_empty() {
            // What is left of that segment adds less than its step says. How much is not known.
            self.base = self.sum_before(self.word_after(self.first) + 1);
        }
        drop_while(&mut self.runs, |run| run.word <= position);
        if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(position);
        }
        self.starts.drop_before(position);
    }

    /// Forgets the messages up to the end of the segment of the one at `position`, and hands back their pins.
    pub fn forget_through(&mut self, position: u64, forgotten: &mut Vec<P>) {
        if position >= self.first {
            self.forget_before(self.word_after(position) + 1, forgotten);
        }
    }

    /// Like [`forget_through`](Self::forget_through), with all steps that may carry the message at `position`.
    pub fn forget_through_turn(&mut self, position: u64, forgotten: &mut Vec<P>) {
        let older = self.questions.partition_point(|&question| question <= position);
        let last = match self.questions.get(older) {
            Some(next) => next - 1,
            None if self.asks_questions() => self.end().max(1) - 1,
            None => position,
        };
        self.forget_through(last.max(position), forgotten);
    }

    fn asks_questions(&self) -> bool {
        !self.questions.is_empty() || !self.waiting.is_empty() || self.carried.is_some()
    }

    /// Forgets the segment of the message at `position` and everything after it, and hands back the pins.
    pub fn forget_from(&mut self, position: u64, forgotten: &mut Vec<P>) {
        if position >= self.end() {
            return;
        }
        let mut keep = position.max(self.first);
        while keep > self.first && self.is_blank(keep - 1) {
            keep -= 1;
        }
        forgotten.extend(self.counted.drain((keep - self.first) as usize..).map(|counted| counted.pin));
        self.blanks.truncate(self.blanks.partition_point(|&blank| blank < keep));
        self.starts.drop_from(keep);
        self.runs.truncate(self.runs.partition_point(|run| run.word < keep));
        self.questions.truncate(self.questions.partition_point(|&question| question < keep));
        self.waiting.truncate(self.waiting.partition_point(|&start| start < keep));
        self.closed = false;
        if self.counted.is_empty() {
            self.forget_carried(forgotten);
        }
    }

    /// Adds `by` to the position of every counted message.
    pub fn renumber(&mut self, by: i64) {
        self.first = self.first.wrapping_add_signed(by);
        let runs = self.runs.iter_mut().flat_map(|run| [&mut run.first, &mut run.word]);
        let questions = self.questions.iter_mut().chain(&mut self.waiting);
        self.starts
            .positions()
            .chain(&mut self.blanks)
            .chain(questions)
            .chain(runs)
            .for_each(|position| *position = position.wrapping_add_signed(by));
    }

    fn last_sum(&self) -> i64 {
        self.counted.back().map_or(self.base, |counted| counted.sum)
    }

    /// The prefix sum before the message at `position`. If that is not counted, the nearest sum.
    fn sum_before(&self, position: u64) -> i64 {
        match position.saturating_sub(self.first).checked_sub(1) {
            None => self.base,
            Some(index) => self.counted.get(index as usize).map_or(self.last_sum(), |counted| counted.sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Asks, BlankRun, Entry, Ledger};

    /// A message that is a start: (tokens after what comes before it, tokens alone).
    fn start(step: i64, opening: i64) -> Entry<i64> {
        Entry { step, opening: Some(opening), asks: Asks::Nothing, blank: false, run: None, pin: step }
    }

    /// A message with which no window begins.
    fn reply(step: i64) -> Entry<i64> {
        Entry { step, opening: None, asks: Asks::Nothing, blank: false, run: None, pin: step }
    }

    fn blank(opening: Option<i64>) -> Entry<i64> {
        Entry { step: 0, opening, asks: Asks::Nothing, blank: true, run: None, pin: 0 }
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
        // The blank start costs 10, the one after it 9, the first one 14.
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
        assert_eq!(ledger.runs_that_may_fit(5, 9), [BlankRun { first: 0, word: 2 }]);
        assert_eq!(ledger.runs_that_may_fit(5, 0), []);
        assert_eq!(ledger.runs_that_may_fit(0, 9), []);
        ledger.forget_before(1, &mut Vec::new());
        assert_eq!(ledger.runs_that_may_fit(5, 9), [BlankRun { first: 1, word: 2 }]);
        assert!(ledger.begins_with_a_start());
        ledger.forget_before(2, &mut Vec::new());
        assert_eq!(ledger.runs_that_may_fit(5, 9), []);
    }
}
