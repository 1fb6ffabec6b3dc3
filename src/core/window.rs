//! The window rule: from a history, its ledger and a limit to the message that the window starts with.
//!
//! The start is the first legal start `i` whose window has at most `allowance` tokens (the token limit less the initial
//! token count); if none fits, the last message. Legal are the history's first message, its last, and every one whose role
//! lets a window begin with it. Indices only: this file never sees a message.
//!
//! A ledger answers for what it has counted. [`need`] tells what must be counted before it can answer, and a [`Pass`] counts
//! that: the newest message first, and no further than a window of that allowance can reach.

use std::ops::Range;

use super::count::Counter;
use super::joint::{Measure, Opening, Text, count_joined, is_after_closed, measure, opening_of_blank, step_of};
use super::ledger::{Fit, Ledger};

/// Tokens counted beyond the allowance before everything older is ruled out.
///
/// Putting a message in front of a window can make the total fall: a text alone may be more tokens than after a space.
/// Over 120,000 adversarial histories under `cl100k_base` and `o200k_base` it never fell by more than 1. For a Python
/// callable nothing is known; one whose counts fall by more when text is added may find its window too late.
pub const SLACK: i64 = 8;

/// Messages read at first; every further read of a pass doubles it.
const FIRST_READ: u64 = 16;
/// Messages read at once at most, so that a pass over a long history holds few texts at a time.
const LARGEST_READ: u64 = 1024;

/// What a ledger must count before it can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Messages of this range, from the end backwards, which come before those counted.
    Older(Range<u64>),
    /// Messages of this range, from the end backwards, which come after those counted.
    Newer(Range<u64>),
    /// The openings of the open starts in this range, whose last message is the first that is not blank.
    Openings(Range<u64>),
}

/// What `ledger` must count before it can answer for the messages of `history` under `allowance`; `None` if it can.
///
/// Forgets what can no longer be used, and hands back what was kept beside it.
pub fn need<P>(ledger: &mut Ledger<P>, history: Range<u64>, allowance: i64, forgotten: &mut Vec<P>) -> Option<Need> {
    if history.is_empty() {
        return None;
    }
    if ledger.first() == history.start && !ledger.is_empty() && !ledger.has_start_at(history.start) {
        // The history's first message is legal whatever its role. It was counted when another stood before it.
        ledger.forget_before(history.start + 1, forgotten);
    }
    if ledger.end() < history.end && ledger.first() > history.start && ledger.blank_tail() == ledger.first() {
        // What a message adds after blank ones depends on what stands before those, which is not counted.
        ledger.forget_from(ledger.first(), forgotten);
    }
    if ledger.is_empty() {
        return Some(Need::Older(history));
    }
    if ledger.end() < history.end {
        return Some(Need::Newer(ledger.end()..history.end));
    }
    let tail = ledger.blank_tail();
    if let Some(open) = ledger.open_starts().next().filter(|&open| open < tail) {
        let head = (open..tail).find(|&position| !ledger.is_blank(position))?;
        return Some(Need::Openings(open..head + 1));
    }
    let more_fit = ledger.tokens() <= allowance.saturating_add(SLACK);
    (ledger.first() > history.start && more_fit).then(|| Need::Older(history.start..ledger.first()))
}

/// The openings of the legal starts among `texts`, which are blank but for the last, and of which the first is at `first`.
///
/// # Errors
/// Those of the counter.
pub fn count_openings<C: Counter>(counter: &C, first: u64, texts: &[Text]) -> Result<Vec<(u64, Opening)>, C::Error> {
    let blank_starts = (first..).zip(texts).enumerate().filter(|(_, (_, text))| text.may_start && text.blank);
    blank_starts.map(|(index, (position, _))| Ok((position, opening_of_blank(counter, &texts[index..])?))).collect()
}

/// The start among the blank messages at a history's end, of which `texts` are all: the first legal one that fits.
/// What comes before them must be known not to.
///
/// A native encoding counts some of them only: windows cost more the earlier they begin, but for [`SLACK`] (2 over all runs
/// of whitespace that were tried). A callable is asked about each.
///
/// # Errors
/// Those of the counter.
pub fn earliest_blank_fit<C: Counter>(
    counter: &C,
    first: u64,
    texts: &[Text],
    allowance: i64,
) -> Result<Option<Fit>, C::Error> {
    let starts: Vec<usize> = (0..texts.len()).filter(|&index| texts[index].may_start).collect();
    let tokens_from = |start: usize| count_joined(counter, &texts[start..]);
    // Starts before this one cannot fit.
    let mut possible = 0;
    if counter.splits_at_spaces() {
        let mut end = starts.len();
        while possible < end {
            let middle = usize::midpoint(possible, end);
            if tokens_from(starts[middle])? > allowance.saturating_add(SLACK) {
                possible = middle + 1;
            } else {
                end = middle;
            }
        }
    }
    for &start in &starts[possible..] {
        let tokens = tokens_from(start)?;
        if tokens <= allowance {
            return Ok(Some(Fit { start: first + start as u64, tokens: Some(tokens) }));
        }
    }
    Ok(None)
}

/// One pass of counting, from the newest message that is not counted backwards.
#[derive(Debug)]
pub struct Pass {
    /// Positions that may be measured.
    range: Range<u64>,
    /// Tokens that the measured messages may have before the pass is over.
    budget: i64,
    /// The texts still needed, oldest first; the first is at `read_from`.
    texts: Vec<Text>,
    read_from: u64,
    /// The texts before `range`, from the nearest one on that is not blank.
    older: Vec<Text>,
    /// How many texts after `range` were given, until their steps are known.
    newer: usize,
    /// Whether the step of the first of them is known for every text before it that is closed.
    after_closed: bool,
    measures: Vec<Measure>,
    resteps: Vec<i64>,
    next_read: u64,
}

/// What a [`Pass`] found.
#[derive(Debug)]
pub struct Passed {
    /// What was measured, the newest message first.
    pub measures: Vec<Measure>,
    /// Whether the pass came to the beginning of its range.
    pub complete: bool,
    /// The steps of the texts after the range, oldest first; empty if they are what they were.
    pub resteps: Vec<i64>,
}

impl Pass {
    /// A pass over `range`.
    ///
    /// `older` and `newer` are the counted texts on either side, up to the nearest one that is not blank. The pass is over
    /// when the messages measured have more than `budget` tokens, or at the beginning of `range`.
    ///
    /// The steps of `newer` were measured after a text that may have changed since: nothing that is kept tells. They are
    /// measured again, unless they were `after_closed` and are now.
    #[must_use]
    pub fn new(range: Range<u64>, older: Vec<Text>, newer: Vec<Text>, after_closed: bool, budget: i64) -> Self {
        let (read_from, newer_texts) = (range.end, newer.len());
        Self {
            range,
            budget,
            texts: newer,
            read_from,
            older,
            newer: newer_texts,
            after_closed,
            measures: Vec::new(),
            resteps: Vec::new(),
            next_read: FIRST_READ,
        }
    }

    /// The positions whose texts the pass wants next, or `None` when it is over.
    #[must_use]
    pub fn wants(&self) -> Option<Range<u64>> {
        let over = self.budget < 0 || self.measured_from() == self.range.start;
        (!over).then(|| self.range.start.max(self.read_from.saturating_sub(self.next_read))..self.read_from)
    }

    /// Takes the texts that the pass wanted, oldest first, and measures as many messages as they allow.
    ///
    /// # Errors
    /// Those of the counter.
    pub fn feed<C: Counter>(&mut self, mut texts: Vec<Text>, counter: &C) -> Result<(), C::Error> {
        self.read_from -= texts.len() as u64;
        self.next_read = (self.next_read * 2).min(LARGEST_READ);
        texts.append(&mut self.texts);
        self.texts = texts;
        let complete = self.read_from == self.range.start;
        if complete {
            let older = std::mem::take(&mut self.older);
            self.read_from -= older.len() as u64;
            self.texts.splice(0..0, older);
        } else if self.texts.first().is_none_or(|oldest| oldest.blank) {
            return Ok(()); // What a message adds after blank ones depends on what stands before those.
        }
        self.measure_newer_again(counter)?;
        // The oldest text read is there only for the next one's step, unless nothing stands before it.
        let stop = if complete { self.range.start } else { self.read_from + 1 };
        while self.budget >= 0 && self.measured_from() > stop {
            let index = (self.measured_from() - 1 - self.read_from) as usize;
            let measure = measure(counter, &self.texts, index)?;
            self.budget = self.budget.saturating_sub(measure.step);
            self.measures.push(measure);
        }
        self.texts.truncate(1);
        Ok(())
    }

    /// Measures the steps of the texts after the range again, at the first call, if they can be others than they were.
    fn measure_newer_again<C: Counter>(&mut self, counter: &C) -> Result<(), C::Error> {
        let newer = self.texts.len() - std::mem::take(&mut self.newer)..self.texts.len();
        let Some(first) = self.texts.get(newer.start) else { return Ok(()) };
        // Blank messages hand on what stands before them to the word after them, but for a counter that splits there.
        let hands_on = first.blank && !counter.splits_at_spaces();
        if self.after_closed && is_after_closed(&self.texts, newer.start) && !hands_on {
            return Ok(());
        }
        self.resteps = newer.map(|index| step_of(counter, &self.texts, index)).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// The texts held, each of which the next one measured may be joined with.
    pub fn held(&self) -> impl Iterator<Item = &Text> {
        self.texts.iter().chain(&self.older)
    }

    /// What was found.
    #[must_use]
    pub fn finish(self) -> Passed {
        let complete = self.measured_from() == self.range.start;
        Passed { measures: self.measures, complete, resteps: self.resteps }
    }

    fn measured_from(&self) -> u64 {
        self.range.end - self.measures.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::{Need, Pass, Passed, SLACK, count_openings, earliest_blank_fit, need};
    use crate::core::count::Counter;
    use crate::core::joint::tests::Words;
    use crate::core::joint::{Text, count_joined};
    use crate::core::ledger::{Entry, Ledger};
    use crate::core::ring::Ring;
    use std::cell::RefCell;
    use std::num::NonZeroUsize;

    /// A history of (text, may start a window) with one ledger that pins the texts it counted.
    struct History {
        ring: Ring<(RefCell<String>, bool)>,
        ledger: Ledger<String>,
        measured: usize,
    }

    impl History {
        fn new(bound: usize) -> Self {
            Self { ring: Ring::new(NonZeroUsize::new(bound)), ledger: Ledger::default(), measured: 0 }
        }

        fn texts(&self, range: std::ops::Range<u64>) -> Vec<Text> {
            let first = self.ring.first();
            range
                .clone()
                .filter_map(|at| self.ring.get(at))
                .zip(range.start..)
                .map(|((text, legal), at)| Text::new(text.borrow().clone(), *legal || at == first))
                .collect()
        }

        fn push(&mut self, text: &str, may_start: bool) {
            if self.ring.push((RefCell::new(text.to_owned()), may_start)).is_some() {
                self.ledger.evict_before(self.ring.first(), &mut Vec::new());
            }
        }

        fn start(&mut self, allowance: i64) -> Option<u64> {
            let history = self.ring.first()..self.ring.end();
            while let Some(need) = need(&mut self.ledger, history.clone(), allowance, &mut Vec::new()) {
                let (range, newer) = match need {
                    Need::Older(range) => (range, false),
                    Need::Newer(range) => (range, true),
                    Need::Openings(range) => {
                        let Ok(openings) = count_openings(&Words, range.start, &self.texts(range));
                        self.ledger.settle_open(openings);
                        continue;
                    }
                };
                let budget = allowance + SLACK - if newer { 0 } else { self.ledger.tokens() };
                let (mut left, mut right) = (range.start, range.end);
                if newer {
                    left = (self.ledger.blank_tail().max(history.start + 1)) - 1;
                }
                while right < history.end && self.ledger.is_blank(right) {
                    right += 1;
                }
                let right = (right + 1).min(history.end);
                let mut pass = Pass::new(
                    range.clone(),
                    self.texts(left..range.start),
                    self.texts(range.end..right),
                    self.ledger.is_after_closed(),
                    budget,
                );
                while let Some(wanted) = pass.wants() {
                    let texts = self.texts(wanted);
                    let Ok(()) = pass.feed(texts, &Words);
                }
                let Passed { measures, complete, resteps } = pass.finish();
                self.measured += measures.len();
                let entries = measures
                    .into_iter()
                    .zip((range.start..range.end).rev())
                    .map(|(measure, at)| {
                        let (pin, may_start) = self.ring.get(at).cloned().unwrap_or_default();
                        Entry { measure, may_start, pin: pin.into_inner() }
                    })
                    .collect();
                if newer && complete {
                    self.ledger.extend_newer(entries);
                } else {
                    if newer {
                        self.ledger = Ledger::default();
                    }
                    self.ledger.restep(&resteps);
                    self.ledger.extend_older(range.end, entries);
                }
            }
            let last = history.end.checked_sub(1).filter(|_| !history.is_empty())?;
            let tail = self.ledger.blank_tail();
            let Ok(blank) = earliest_blank_fit(&Words, tail, &self.texts(tail..history.end), allowance);
            Some(self.ledger.earliest_fit(allowance).or(blank).map_or(last, |fit| fit.start))
        }

        /// The window rule, word for word, over joined counts.
        fn reference(&self, allowance: i64) -> Option<u64> {
            let (first, end) = (self.ring.first(), self.ring.end());
            let legal = |at: &u64| *at == first || *at == end - 1 || self.ring.get(*at).is_some_and(|item| item.1);
            let fits = |at: &u64| {
                let Ok(tokens) = count_joined(&Words, &self.texts(*at..end));
                tokens <= allowance
            };
            (first..end).filter(legal).find(fits).or(end.checked_sub(1).filter(|_| end > first))
        }
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
        let fragments = ["", " ", "\n", "a", "b c", " d", "e ", "f\n", "  ", "word word word", "?!", "\n\n g", "h  i"];
        for seed in 1..400 {
            let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
            let bound = [0, 0, 1, 3, 9][random.below(5)];
            let mut history = History::new(bound);
            for _ in 0..120 {
                match random.below(11) {
                    0 => {
                        history.ring.pop();
                        history.ledger.forget_from(history.ring.end(), &mut Vec::new());
                    }
                    1 if !history.ring.is_empty() => {
                        let at = history.ring.first() + random.below(history.ring.len()) as u64;
                        history.ring.remove(at);
                        history.ledger.forget_removed(at, &mut Vec::new());
                    }
                    2 => {
                        // What is not counted may change without notice: no count may depend on it.
                        let counted = if history.ledger.is_empty() { u64::MAX } else { history.ledger.first() };
                        let uncounted = history.ring.end().min(counted).saturating_sub(history.ring.first());
                        if uncounted > 0 {
                            // Most of all the message before those counted.
                            let back = 1 + random.below(uncounted.min(2) as usize) as u64;
                            let at = history.ring.first() + uncounted - back;
                            if let Some((text, _)) = history.ring.get(at) {
                                text.replace(fragments[random.below(fragments.len())].to_owned());
                            }
                        }
                    }
                    3..6 => {
                        let allowance = random.below(40) as i64;
                        assert_eq!(
                            history.start(allowance),
                            history.reference(allowance),
                            "{seed}: {:?}",
                            history.ring
                        );
                    }
                    _ => (0..=random.below(4)).for_each(|_| {
                        history.push(fragments[random.below(fragments.len())], random.below(3) == 0);
                    }),
                }
            }
        }
    }

    #[test]
    fn counts_the_window_and_what_rules_out_the_rest() {
        let mut history = History::new(0);
        (0..100_000).for_each(|_| history.push("one two three four", true));
        assert_eq!(history.start(400), Some(99_900));
        assert_eq!(history.measured, 103);
        assert_eq!(history.start(400), Some(99_900));
        assert_eq!(history.measured, 103);
    }

    /// Counts as [`Words`], and how often.
    struct Counting(std::cell::Cell<usize>);

    impl Counter for Counting {
        type Error = std::convert::Infallible;

        fn count(&self, text: &str) -> Result<i64, Self::Error> {
            self.0.update(|counts| counts + 1);
            Words.count(text)
        }

        fn count_empty(&self) -> Result<i64, Self::Error> {
            Words.count_empty()
        }

        fn splits_at_spaces(&self) -> bool {
            Words.splits_at_spaces()
        }
    }

    #[test]
    fn a_long_blank_tail_is_counted_a_few_times() {
        let blanks = vec![Text::new("\n".to_owned(), true); 4_000];
        let counting = Counting(std::cell::Cell::default());
        // Each is two tokens more, itself and the space before it, and the first one less.
        for (allowance, length) in [(0, None), (1, Some(1)), (2, Some(1)), (301, Some(151)), (7_999, Some(4_000))] {
            let Ok(fit) = earliest_blank_fit(&counting, 7, &blanks, allowance);
            assert_eq!(fit.map(|fit| 4_007 - fit.start), length, "{allowance}");
        }
        assert!(counting.0.get() < 5 * 20, "{}", counting.0.get());
    }

    #[test]
    fn a_long_run_without_legal_starts_leaves_the_last_message() {
        let mut history = History::new(0);
        history.push("question", true);
        (0..100_000).for_each(|_| history.push("result", false));
        assert_eq!(history.start(50_000), Some(100_000));
        assert_eq!(history.start(100_001), Some(0));
        assert_eq!(history.measured, 100_001);
    }
}
