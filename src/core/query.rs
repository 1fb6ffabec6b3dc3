//! The search for a window, without input or output: it says what it wants to read, is fed that, and says what it found.
//!
//! The start is the first one whose window has at most `allowance` tokens (the token limit less the initial token count); if
//! none fits, the last message. A window may begin with the history's first message, its last, and every one whose role lets
//! it: LlamaIndex's rule.
//!
//! ```text
//! loop {
//!     match query.next(&mut history) {                    // with the history's lock, if it has one
//!         Next::Read(range) => query.feed(&counter, read(range))?,        // without
//!         Next::Found(fit) => break,
//!         Next::Changing => ...                           // it changes all the while: ask a copy
//!     }
//! }
//! ```
//!
//! Counting begins with the newest message and goes back no further than a window of that allowance can reach.

use std::collections::VecDeque;
use std::ops::Range;

use super::count::Counter;
use super::history::History;
use super::joined::{self, Before, SLACK, Text};
use super::ledger::{Entry, Fit, Ledger};

/// Attempts before the query says that the history changes all the while. One that nobody else changes needs one.
const ATTEMPTS: usize = 10;

/// Messages read at first; every further read of a pass doubles it.
const FIRST_READ: u64 = 4;
/// Messages read at once at most, so that a pass over a long history holds few texts at a time.
const LARGEST_READ: u64 = 1024;

/// What a message's tokens are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accounting {
    /// Those of its text, joined with the others by one space: `measure="text"`.
    Joined,
    /// The same wherever it stands, and never negative.
    Additive,
}

/// What is fed of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Its text, to be joined.
    Joined(String),
    /// Its texts, each counted by itself, and tokens beside them.
    Item {
        /// What is counted.
        texts: Vec<String>,
        /// Tokens that do not come from a text.
        constant: i64,
    },
    /// Its tokens, measured elsewhere.
    Measured(i64),
}

/// What a query wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The messages at these positions.
    Read(Range<u64>),
    /// Nothing more. `None` for an empty history.
    Found(Option<Fit>),
    /// A history that others do not change all the while.
    Changing,
}

/// One search for a window of a history with policies `K`, beside whose counts `P` is kept.
#[derive(Debug)]
pub struct Query<K, P> {
    policy: K,
    accounting: Accounting,
    allowance: i64,
    /// The history's, when the work at hand began.
    generation: u64,
    attempts: usize,
    /// Position after the last message of the window.
    end: u64,
    work: Work<P>,
    /// For each message that was asked for last, whether a window may begin with it.
    may_start: Vec<bool>,
    /// Where the blank messages at the end begin, and what they add; known once everything newer was read.
    tail: Option<(u64, i64)>,
    /// The words of long runs in which no start fits.
    refused: Vec<u64>,
    /// What leaves the history's keeping; dropped with the query, when no lock is held.
    forgotten: Vec<P>,
    retired: Vec<(K, Ledger<P>)>,
}

/// What is being read, and for what.
#[derive(Debug)]
enum Work<P> {
    /// Nothing yet: look at the history.
    Plan,
    /// To count the messages that a window may reach.
    Count(Box<Pass<P>>),
    /// To find the first start that fits in a run of blank messages.
    Fit(Box<Reading<P>>, Goal),
}

/// What fits in a run of blank messages.
#[derive(Debug, Clone, Copy)]
struct Goal {
    /// Tokens that the run and its word may have.
    allowance: i64,
    /// Tokens of the window after them.
    after: i64,
    /// Position of the word; `None` at the end of a history, where there is none.
    word: Option<u64>,
    found: Option<Fit>,
}

impl<K: Clone + PartialEq, P> Query<K, P> {
    /// A query for the window of at most `allowance` tokens, at least 0, under `policy`, whose accounting is given.
    #[must_use]
    pub fn new(policy: K, accounting: Accounting, allowance: i64) -> Self {
        Self {
            policy,
            accounting,
            allowance,
            generation: 0,
            attempts: 0,
            end: 0,
            work: Work::Plan,
            may_start: Vec::new(),
            tail: None,
            refused: Vec::new(),
            forgotten: Vec::new(),
            retired: Vec::new(),
        }
    }

    /// The policy that is asked under.
    #[must_use]
    pub fn policy(&self) -> &K {
        &self.policy
    }

    /// The generation of the history that the last answer is about.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Position after the last message of the window.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The number of texts held, with which those fed next may be joined.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.work {
            Work::Plan => 0,
            Work::Count(pass) => pass.reading.texts.len(),
            Work::Fit(reading, _) => reading.texts.len(),
        }
    }

    /// The number of messages that were counted and are not in the history's ledger yet.
    #[must_use]
    pub fn counted(&self) -> usize {
        if let Work::Count(pass) = &self.work { pass.entries.len() } else { 0 }
    }

    /// What has left the history's keeping, to be dropped without its lock: dropping the query does that too, at once.
    pub fn into_forgotten(self) -> (Vec<P>, Vec<(K, Ledger<P>)>) {
        (self.forgotten, self.retired)
    }

    /// The position of a message that is already counted and is read again, among those of the last read: what was counted
    /// after it, or will be, may depend on how it ends. Whoever keeps messages that others change must see that it is still
    /// what was counted, and have it forgotten if not: nobody sees later that others depend on what it is now.
    #[must_use]
    pub fn read_again(&self) -> Option<u64> {
        let Work::Count(pass) = &self.work else { return None };
        let Reading { range, .. } = &pass.reading;
        match (self.accounting, pass.place) {
            (Accounting::Joined, Place::AfterText) => Some(range.start),
            (Accounting::Joined, Place::Older) => Some(range.end - 1),
            _ => None,
        }
    }

    /// What the query wants next. Adds to the history's ledger what was counted, unless the history has changed since:
    /// then the search begins anew.
    pub fn next<M>(&mut self, history: &mut History<M, K, P>) -> Next {
        if self.generation != history.generation() {
            if self.attempts == ATTEMPTS {
                return Next::Changing;
            }
            self.attempts += 1;
            self.begin(history);
        }
        loop {
            let wanted = match &self.work {
                Work::Plan => None,
                Work::Count(pass) => pass.wants(),
                Work::Fit(reading, _) => reading.wants(),
            };
            if let Some(range) = wanted {
                self.may_start = range.clone().map(|position| history.may_start(position)).collect();
                return Next::Read(range);
            }
            match std::mem::replace(&mut self.work, Work::Plan) {
                Work::Plan => {
                    if let Some(found) = self.plan(history)
                        && !self.has_grown(history)
                    {
                        return Next::Found(found);
                    }
                }
                Work::Count(pass) => self.commit(history, *pass),
                Work::Fit(reading, goal) => {
                    self.forgotten.extend(reading.pins);
                    let found = match (goal.found, goal.word) {
                        (Some(fit), _) => fit,
                        (None, Some(word)) => {
                            self.refused.push(word);
                            continue;
                        }
                        (None, None) => self.last_message(),
                    };
                    if !self.has_grown(history) {
                        return Next::Found(Some(found));
                    }
                }
            }
        }
    }

    /// Takes the messages that were asked for, oldest first, and counts as many of them as are needed.
    ///
    /// # Errors
    /// Those of the counter. The query cannot go on then.
    pub fn feed<C: Counter>(&mut self, counter: &C, messages: Vec<(Content, P)>) -> Result<(), C::Error> {
        let may_start = std::mem::take(&mut self.may_start);
        match &mut self.work {
            Work::Plan => self.forgotten.extend(messages.into_iter().map(|(_, pin)| pin)),
            Work::Count(pass) if self.accounting == Accounting::Additive => {
                pass.add(counter, messages, &may_start)?;
            }
            Work::Count(pass) => {
                pass.reading.take(messages, &may_start);
                pass.measure(counter, &mut self.tail)?;
            }
            Work::Fit(reading, goal) => {
                reading.take(messages, &may_start);
                if reading.wants().is_none()
                    && let Some((index, tokens)) =
                        joined::first_fit(counter, reading.texts.make_contiguous(), goal.allowance)?
                {
                    let start = reading.range.start + index as u64;
                    goal.found = Some(Fit { start, tokens: Some(tokens.saturating_add(goal.after)) });
                }
            }
        }
        Ok(())
    }

    fn begin<M>(&mut self, history: &History<M, K, P>) {
        match std::mem::replace(&mut self.work, Work::Plan) {
            Work::Plan => {}
            Work::Count(pass) => {
                let entries = pass.entries.into_iter().map(|entry| entry.pin);
                self.forgotten.extend(entries.chain(pass.reading.pins).chain(pass.spare));
            }
            Work::Fit(reading, _) => self.forgotten.extend(reading.pins),
        }
        self.generation = history.generation();
        self.end = history.messages().end();
        self.tail = None;
        self.refused.clear();
    }

    /// Whether messages were added since the search began; then it goes on with them, unless that happens all the while.
    fn has_grown<M>(&mut self, history: &History<M, K, P>) -> bool {
        if self.end == history.messages().end() || self.attempts == ATTEMPTS {
            return false;
        }
        self.attempts += 1;
        self.begin(history);
        true
    }

    /// Sets the work to what must be read next, or tells what is found: `None` for an empty history.
    fn plan<M>(&mut self, history: &mut History<M, K, P>) -> Option<Option<Fit>> {
        let first = history.messages().first();
        if first == self.end {
            return Some(None);
        }
        let slack = if self.accounting == Accounting::Joined { SLACK } else { 0 };
        let retired = self.retired.len();
        let ledger = history.use_ledger(&self.policy, &mut self.retired);
        let is_counted = ledger.end() == self.end && !ledger.is_empty();
        if self.tail.is_none() && is_counted {
            self.tail = Some((self.end, 0));
        }
        let Some((tail, added)) = self.tail else {
            // Whatever came since the last query is counted first.
            let budget = self.allowance.saturating_add(slack);
            let pass = if ledger.is_empty() {
                Pass::new(Place::Whole, first..self.end, budget)
            } else {
                let open = self.accounting == Accounting::Joined && !ledger.is_closed();
                Pass::new(if open { Place::AfterText } else { Place::AfterWord }, ledger.end()..self.end, budget)
            };
            self.work = Work::Count(Box::new(pass));
            if self.retired.len() > retired {
                self.generation = history.generation();
            }
            return None;
        };
        let allowance = self.allowance.saturating_sub(added);
        if !ledger.is_empty() && ledger.tokens() <= allowance.saturating_add(slack) {
            // What a segment adds may depend on what stands before it, which nobody checks while it is in no window. So the
            // first one counted is counted once more with the older ones.
            let segment_from = |first: u64| match self.accounting {
                Accounting::Joined => ledger.word_after(first) + 1,
                Accounting::Additive => first,
            };
            if ledger.first() > first {
                let end = segment_from(ledger.first());
                let spent = ledger.tokens_from(end);
                let budget = allowance.saturating_add(slack).saturating_sub(spent);
                self.work = Work::Count(Box::new(Pass::new(Place::Older, first..end, budget)));
                return None;
            }
            if !ledger.begins_with_a_start() {
                // The history's first message may begin a window whatever its role. It was counted when others stood
                // before it.
                let end = segment_from(ledger.word_after(first) + 1).min(ledger.end());
                self.work = Work::Count(Box::new(Pass::new(Place::Older, first..end, i64::MAX)));
                return None;
            }
        }
        let fit = ledger.earliest_fit(allowance);
        let runs = ledger.runs_that_may_fit(fit.map_or(self.end, |fit| fit.start), allowance);
        if let Some(run) = runs.into_iter().find(|run| !self.refused.contains(&run.word)) {
            let after = ledger.tokens_from(run.word + 1).saturating_add(added);
            let allowance = self.allowance.saturating_sub(after);
            let goal = Goal { allowance, after, word: Some(run.word), found: None };
            self.work = Work::Fit(Box::new(Reading::new(run.first..run.word + 1)), goal);
            return None;
        }
        if fit.is_none() && tail < self.end {
            let goal = Goal { allowance: self.allowance, after: 0, word: None, found: None };
            self.work = Work::Fit(Box::new(Reading::new(tail..self.end)), goal);
            return None;
        }
        let with_tail = |fit: Fit| Fit { tokens: fit.tokens.map(|tokens| tokens.saturating_add(added)), ..fit };
        Some(Some(fit.map_or_else(|| self.last_message(), with_tail)))
    }

    fn last_message(&self) -> Fit {
        Fit { start: self.end - 1, tokens: None }
    }

    /// Adds what a pass has counted to the ledger.
    fn commit<M>(&mut self, history: &mut History<M, K, P>, pass: Pass<P>) {
        let Pass { place, reading, entries, spare, closed, .. } = pass;
        self.forgotten.extend(reading.pins.into_iter().chain(spare));
        let (tail, _) = *self.tail.get_or_insert((self.end, 0));
        let Some(ledger) = history.ledger_to_change(&self.policy) else { return };
        match place {
            Place::Older => {
                ledger.forget_before(reading.range.end, &mut self.forgotten);
                let is_all = ledger.is_empty();
                ledger.extend_older(reading.range.end, entries);
                if is_all {
                    ledger.set_closed(closed);
                }
            }
            _ if entries.is_empty() => {}
            Place::AfterText | Place::AfterWord if ledger.end() + entries.len() as u64 == tail => {
                ledger.extend_newer(entries);
                ledger.set_closed(closed);
            }
            _ => {
                // What was counted before is too far back for this allowance.
                ledger.forget_all(&mut self.forgotten);
                ledger.extend_older(tail, entries);
                ledger.set_closed(closed);
            }
        }
        self.generation = history.generation();
    }
}

/// Messages being read, the newest first and in growing portions.
#[derive(Debug)]
struct Reading<P> {
    range: Range<u64>,
    /// Position of the oldest one read.
    from: u64,
    next_read: u64,
    /// What is held of them, oldest first, and what is to be kept beside each.
    texts: VecDeque<Text>,
    pins: VecDeque<P>,
}

impl<P> Reading<P> {
    fn new(range: Range<u64>) -> Self {
        Self { from: range.end, range, next_read: FIRST_READ, texts: VecDeque::new(), pins: VecDeque::new() }
    }

    /// The positions to be read next; `None` when all are read.
    fn wants(&self) -> Option<Range<u64>> {
        let from = self.range.start.max(self.from.saturating_sub(self.next_read));
        (from < self.from).then_some(from..self.from)
    }

    fn take(&mut self, messages: Vec<(Content, P)>, may_start: &[bool]) {
        self.advance(messages.len());
        for ((content, pin), may_start) in messages.into_iter().zip(may_start).rev() {
            let text = if let Content::Joined(text) = content { text } else { String::new() };
            self.texts.push_front(Text::new(text, *may_start));
            self.pins.push_front(pin);
        }
    }

    fn advance(&mut self, read: usize) {
        self.from -= read as u64;
        self.next_read = (self.next_read * 2).min(LARGEST_READ);
    }
}

/// Where the messages of a pass stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// They are the history.
    Whole,
    /// At its beginning, up to those counted, or up to the end of the first counted segment.
    Older,
    /// At its end, after a text that is read with them, as what follows may depend on it.
    AfterText,
    /// At its end, after a text that ends in a character that is not whitespace.
    AfterWord,
}

/// One pass of counting, from the newest message backwards, until they have more tokens than `budget`.
#[derive(Debug)]
struct Pass<P> {
    place: Place,
    reading: Reading<P>,
    budget: i64,
    /// What was counted, the newest message first.
    entries: Vec<Entry<P>>,
    /// How many texts before the newest word held, or at the end, are known to be blank.
    searched: usize,
    /// What was kept beside the texts of the tail.
    spare: VecDeque<P>,
    /// Whether the newest word counted ends in a character that is not whitespace.
    closed: bool,
}

impl<P> Pass<P> {
    fn new(place: Place, range: Range<u64>, budget: i64) -> Self {
        let start = range.start - u64::from(place == Place::AfterText);
        let reading = Reading::new(start..range.end);
        Self { place, reading, budget, entries: Vec::new(), searched: 0, spare: VecDeque::new(), closed: false }
    }

    /// The positions to be read next; `None` when the pass is over.
    fn wants(&self) -> Option<Range<u64>> {
        self.reading.wants().filter(|_| self.budget >= 0)
    }

    /// Adds messages that count the same wherever they stand.
    fn add<C: Counter>(
        &mut self,
        counter: &C,
        messages: Vec<(Content, P)>,
        may_start: &[bool],
    ) -> Result<(), C::Error> {
        self.reading.advance(messages.len());
        for ((content, pin), may_start) in messages.into_iter().zip(may_start).rev() {
            if self.budget < 0 {
                self.reading.pins.push_front(pin);
                continue;
            }
            let step = content.tokens(counter)?;
            self.budget = self.budget.saturating_sub(step);
            self.entries.push(Entry { step, opening: may_start.then_some(step), blank: false, run: None, pin });
        }
        Ok(())
    }

    /// Measures the segments that are whole, the newest first; the other texts wait for older ones. At the history's end
    /// it notes the tail first.
    fn measure<C: Counter>(&mut self, counter: &C, tail: &mut Option<(u64, i64)>) -> Result<(), C::Error> {
        let is_complete = self.reading.wants().is_none();
        // With the last read comes the text that the pass stands after, which is not counted again.
        let oldest = usize::from(is_complete && self.place == Place::AfterText);
        let Reading { range, texts, pins, .. } = &mut self.reading;
        let all = &*texts.make_contiguous();
        let before_all = match self.place {
            Place::Whole | Place::Older => Before::Nothing,
            Place::AfterText => all.first().map_or(Before::Word, |text| Before::after(&text.text)),
            Place::AfterWord => Before::Word,
        };
        let word_before = |end: usize| all[..end].iter().rposition(|text| !text.blank);
        let mut kept = all.len();
        if tail.is_none() && self.place != Place::Older {
            let word = word_before(kept - self.searched);
            if word.is_none() && !is_complete {
                self.searched = kept;
                return Ok(());
            }
            kept = word.map_or(oldest, |word| word + 1);
            let before = word.map_or(before_all, |word| Before::after(&all[word].text));
            *tail = Some((range.end - (all.len() - kept) as u64, joined::tail(counter, before, &all[kept..])?));
            self.spare = pins.split_off(kept);
            self.searched = 0;
        }
        while self.budget >= 0 && kept > oldest {
            let last = kept - 1;
            let (from, before) = match word_before(last - self.searched) {
                Some(word) => (word + 1, Before::after(&all[word].text)),
                None if is_complete => (oldest, before_all),
                None => {
                    self.searched = last;
                    break;
                }
            };
            let segment = joined::measure(counter, before, &all[from..kept])?;
            if self.entries.is_empty() {
                self.closed = joined::ends_in_word(&all[last].text);
            }
            let mut openings = segment.blank_openings.iter().rev().peekable();
            let mut index = last - from;
            self.entries.extend(pins.drain(from..).rev().map(|pin| {
                let at = index;
                index = index.saturating_sub(1);
                if at == last - from {
                    let run = segment.run.map(|first| (at - first) as u64);
                    Entry { step: segment.step, opening: segment.opening, blank: false, run, pin }
                } else {
                    let opening = openings.next_if(|(start, _)| *start == at).map(|(_, opening)| *opening);
                    Entry { step: 0, opening, blank: true, run: None, pin }
                }
            }));
            self.budget = self.budget.saturating_sub(segment.step);
            (kept, self.searched) = (from, 0);
        }
        texts.truncate(kept);
        Ok(())
    }
}

impl Content {
    /// Bytes of the texts to be counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Joined(text) => text.len(),
            Self::Item { texts, .. } => texts.iter().map(String::len).sum(),
            Self::Measured(_) => 0,
        }
    }

    /// Its tokens, on its own.
    ///
    /// # Errors
    /// Those of the counter.
    pub fn tokens<C: Counter>(&self, counter: &C) -> Result<i64, C::Error> {
        match self {
            Self::Joined(text) => counter.count(text),
            Self::Measured(tokens) => Ok(*tokens),
            Self::Item { texts, constant } => {
                texts.iter().try_fold(*constant, |sum, text| Ok(counter.count(text)?.saturating_add(sum)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Accounting, Content, Next, Query};
    use crate::core::count::Counter;
    use crate::core::history::History;
    use crate::core::item::{Kind, Outline};
    use crate::core::joined::tests::Words;
    use crate::core::ledger::Fit;
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::num::NonZeroUsize;
    use std::ops::Range;

    type Texts = History<String, (), String>;

    /// Counts as [`Words`], and how many bytes.
    #[derive(Default)]
    struct Counting(Cell<usize>);

    impl Counter for Counting {
        type Error = Infallible;

        fn count(&self, text: &str) -> Result<i64, Infallible> {
            self.0.update(|bytes| bytes + text.len());
            Words.count(text)
        }

        fn count_empty(&self) -> Result<i64, Infallible> {
            Ok(0)
        }

        fn splits_at_spaces(&self) -> bool {
            true
        }
    }

    fn outline(may_start: bool) -> Outline {
        Outline { kind: if may_start { Kind::User } else { Kind::Assistant }, continues: false, may_start }
    }

    fn put(history: &mut Texts, text: &str, may_start: bool) {
        history.push(std::iter::once((text.to_owned(), outline(may_start))), &mut Vec::new());
    }

    fn texts(history: &Texts, range: Range<u64>) -> Vec<String> {
        range.filter_map(|position| history.messages().get(position).cloned()).collect()
    }

    fn ask(history: &mut Texts, accounting: Accounting, allowance: i64, counter: &impl Counter) -> Option<Fit> {
        let mut query = Query::new((), accounting, allowance);
        loop {
            match query.next(history) {
                Next::Changing => unreachable!("nobody else changes it"),
                Next::Found(fit) => return fit,
                Next::Read(range) => {
                    let content = |text: String| match accounting {
                        Accounting::Joined => (Content::Joined(text.clone()), text),
                        Accounting::Additive => {
                            (Content::Item { texts: vec![text.clone()], constant: 3 }, text)
                        }
                    };
                    let messages = texts(history, range).into_iter().map(content).collect();
                    assert!(query.feed(counter, messages).is_ok());
                }
            }
        }
    }

    /// LlamaIndex's rule, word for word.
    fn reference(history: &Texts, accounting: Accounting, allowance: i64) -> Option<u64> {
        let Range { start: first, end } = history.range();
        let tokens = |at: u64| match accounting {
            Accounting::Joined => Words.count(&texts(history, at..end).join(" ")).unwrap_or_default(),
            Accounting::Additive => {
                texts(history, at..end).iter().map(|text| 3 + Words.count(text).unwrap_or_default()).sum()
            }
        };
        let legal = |at: &u64| *at == end - 1 || history.may_start(*at);
        (first..end).filter(legal).find(|at| tokens(*at) <= allowance).or(end.checked_sub(1).filter(|_| end > first))
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }
    }

    #[test]
    fn any_mix_of_changes_gives_the_window_of_the_rule() {
        let long = "\n".repeat(40);
        let fragments =
            ["", " ", "\n", "a", "b c", " d", "e ", "f\n", "  ", "word word word", "?!", "\n\n g", "h  i", "", &long];
        for seed in 1..600 {
            let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
            let accounting = [Accounting::Joined, Accounting::Joined, Accounting::Additive][random.below(3)];
            let mut history = Texts::new(NonZeroUsize::new([0, 0, 1, 3, 9, 30][random.below(6)]));
            for _ in 0..150 {
                match random.below(10) {
                    0 => drop(history.pop(&mut Vec::new())),
                    1 if !history.messages().is_empty() => {
                        let at = history.messages().first() + random.below(history.messages().len()) as u64;
                        history.remove(at, &mut Vec::new());
                    }
                    2..5 => {
                        let most = [40, 200][random.below(2)];
                        let allowance = random.below(most) as i64;
                        let fit = ask(&mut history, accounting, allowance, &Words);
                        let expected = reference(&history, accounting, allowance);
                        assert_eq!(fit.map(|fit| fit.start), expected, "{seed}, {allowance}: {:?}", history.messages());
                        if let Some(Fit { start, tokens: Some(tokens) }) = fit
                            && accounting == Accounting::Joined
                        {
                            let joined = texts(&history, start..history.messages().end()).join(" ");
                            assert_eq!(Words.count(&joined), Ok(tokens), "{seed}: {joined:?}");
                        }
                    }
                    _ => (0..=random.below(4)).for_each(|_| {
                        put(&mut history, fragments[random.below(fragments.len())], random.below(3) == 0);
                    }),
                }
            }
        }
    }

    #[test]
    fn counts_the_window_and_what_rules_out_the_rest() {
        let mut history = Texts::new(None);
        (0..100_000).for_each(|_| put(&mut history, "one two three four", true));
        let counting = Counting::default();
        assert_eq!(ask(&mut history, Accounting::Joined, 400, &counting).map(|fit| fit.start), Some(99_900));
        let bytes = counting.0.get();
        assert!(bytes < 110 * 3 * "one two three four ".len(), "{bytes}");
        assert_eq!(ask(&mut history, Accounting::Joined, 400, &counting).map(|fit| fit.start), Some(99_900));
        assert_eq!(counting.0.get(), bytes);
    }

    #[test]
    fn a_long_run_without_starts_leaves_the_last_message() {
        let mut history = Texts::new(None);
        put(&mut history, "question", true);
        (0..100_000).for_each(|_| put(&mut history, "result", false));
        let mut start = |allowance| ask(&mut history, Accounting::Joined, allowance, &Words).map(|fit| fit.start);
        assert_eq!(start(50_000), Some(100_000));
        assert_eq!(start(100_001), Some(0));
    }

    /// Bytes counted for a first window of so many blank messages, and for one with a word more.
    fn bytes_for_blanks(messages: usize) -> usize {
        let mut history = Texts::new(None);
        put(&mut history, "go", true);
        (0..messages).for_each(|_| put(&mut history, "", true));
        let counting = Counting::default();
        ask(&mut history, Accounting::Joined, 3_000, &counting);
        put(&mut history, "done", true);
        ask(&mut history, Accounting::Joined, 3_000, &counting);
        counting.0.get()
    }

    #[test]
    fn blank_messages_cost_time_in_proportion() {
        let (few, many) = (bytes_for_blanks(1_000), bytes_for_blanks(10_000));
        assert!(many < 12 * few, "{many} for ten times the messages that take {few}");
    }

    #[test]
    fn a_result_of_a_history_that_has_changed_is_not_kept() {
        let mut history = Texts::new(NonZeroUsize::new(3));
        ["", "", "a b", "c"].iter().for_each(|text| put(&mut history, text, true));
        let mut query = Query::new((), Accounting::Joined, 100);
        while let Next::Read(range) = query.next(&mut history) {
            let read = texts(&history, range).into_iter().map(|text| (Content::Joined(text.clone()), text)).collect();
            assert!(query.feed(&Words, read).is_ok());
            if query.generation() < 4 {
                put(&mut history, "d e f", true); // and what was read may have left
            }
        }
        assert_eq!(query.generation(), history.generation());
        assert_eq!(ask(&mut history, Accounting::Joined, 100, &Words).map(|fit| fit.start), reference(&history, Accounting::Joined, 100));
    }

    #[test]
    fn a_history_that_always_changes_is_given_up() {
        let mut history = Texts::new(NonZeroUsize::new(2));
        put(&mut history, "a", true);
        put(&mut history, "b", true);
        let mut query = Query::new((), Accounting::Joined, 100);
        let mut asked = 0;
        while let Next::Read(range) = query.next(&mut history) {
            let read = texts(&history, range).into_iter().map(|text| (Content::Joined(text.clone()), text)).collect();
            assert!(query.feed(&Words, read).is_ok());
            put(&mut history, "c", true);
            asked += 1;
            assert!(asked < 100);
        }
        assert_eq!(query.next(&mut history), Next::Changing);
    }
}
