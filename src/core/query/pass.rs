//! One pass of reading and counting, from the newest message backwards.

use std::collections::VecDeque;
use std::ops::Range;

use super::content::Content;
use crate::core::count::Counter;
use crate::core::joined::{self, Before, Text};
use crate::core::ledger::{Asks, Entry};
use crate::core::policy::Starting;

/// Messages read at first; every further read of a pass doubles it.
const FIRST_READ: u64 = 4;
/// Messages read at once at most, so that a pass over a long history holds few texts at a time.
const LARGEST_READ: u64 = 1024;

/// Messages being read, the newest first and in growing portions.
#[derive(Debug)]
pub(super) struct Portions<P> {
    pub(super) range: Range<u64>,
    /// Position of the oldest one read.
    pub(super) from: u64,
    pub(super) next_read: u64,
    /// The texts held of them, oldest first, and the pin for each.
    pub(super) texts: VecDeque<Text>,
    pub(super) pins: VecDeque<P>,
}

impl<P> Portions<P> {
    pub(super) fn new(range: Range<u64>) -> Self {
        Self { from: range.end, range, next_read: FIRST_READ, texts: VecDeque::new(), pins: VecDeque::new() }
    }

    /// The positions to be read next; `None` when all are read.
    pub(super) fn wants(&self) -> Option<Range<u64>> {
        let from = self.range.start.max(self.from.saturating_sub(self.next_read));
        (from < self.from).then_some(from..self.from)
    }

    pub(super) fn take(&mut self, messages: Vec<(Content, P)>, starting: &[(Starting, Asks)]) {
        self.advance(messages.len());
        for ((content, pin), (starting, _)) in messages.into_iter().zip(starting).rev() {
            let text = if let Content::Joined(text) = content { text } else { String::new() };
            self.texts.push_front(Text::new(text, *starting != Starting::No));
            self.pins.push_front(pin);
        }
    }

    pub(super) fn advance(&mut self, read: usize) {
        self.from -= read as u64;
        self.next_read = (self.next_read * 2).min(LARGEST_READ);
    }
}

/// Where in the history the messages of a pass are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// They are all of it.
    All,
    /// At its beginning: up to the counted ones, or to the end of the first counted segment.
    Older,
    /// At its end, after a text that is read with them, because what follows may depend on it.
    AfterText,
    /// At its end, after a text that ends in a character that is not whitespace.
    AfterWord,
}

/// One pass of counting, from the newest message backwards, until the messages exceed `budget` tokens.
#[derive(Debug)]
pub(super) struct Pass<P> {
    pub(super) side: Side,
    pub(super) portions: Portions<P>,
    pub(super) budget: i64,
    /// What was counted, the newest message first.
    pub(super) entries: Vec<Entry<P>>,
    /// How many of the texts before the newest word held, or at the end, are known to be blank.
    pub(super) searched: usize,
    /// The pins of the texts of the tail.
    pub(super) spare: VecDeque<P>,
    /// Whether the newest word counted ends in a character that is not whitespace.
    pub(super) closed: bool,
}

impl<P> Pass<P> {
    pub(super) fn new(side: Side, range: Range<u64>, budget: i64) -> Self {
        let start = range.start - u64::from(side == Side::AfterText);
        let portions = Portions::new(start..range.end);
        Self { side, portions, budget, entries: Vec::new(), searched: 0, spare: VecDeque::new(), closed: false }
    }

    /// The positions to be read next; `None` when the pass is over.
    pub(super) fn wants(&self) -> Option<Range<u64>> {
        self.portions.wants().filter(|_| self.budget >= 0)
    }

    /// Adds messages that count the same in every place.
    pub(super) fn add<C: Counter>(
        &mut self,
        counter: &C,
        messages: Vec<(Content, P)>,
        starting: &[(Starting, Asks)],
    ) -> Result<(), C::Error> {
        self.portions.advance(messages.len());
        for ((content, pin), (starting, asks)) in messages.into_iter().zip(starting).rev() {
            if self.budget < 0 {
                self.portions.pins.push_front(pin);
                continue;
            }
            let step = content.tokens(counter)?;
            self.budget = self.budget.saturating_sub(step);
            let opening = (*starting != Starting::No).then_some(step);
            self.entries.push(Entry { step, opening, asks: *asks, blank: false, run: None, pin });
        }
        Ok(())
    }

    /// Measures the complete segments, the newest first. The other texts wait for older ones. At the history's end it
    /// first notes the tail.
    pub(super) fn measure<C: Counter>(&mut self, counter: &C, tail: &mut Option<(u64, i64)>) -> Result<(), C::Error> {
        let is_complete = self.portions.wants().is_none();
        // The last read includes the text that the pass comes after, which is not counted again.
        let oldest = usize::from(is_complete && self.side == Side::AfterText);
        let Portions { range, texts, pins, .. } = &mut self.portions;
        let all = &*texts.make_contiguous();
        let before_all = match self.side {
            Side::All | Side::Older => Before::Nothing,
            Side::AfterText => all.first().map_or(Before::Word, |text| Before::after(&text.text)),
            Side::AfterWord => Before::Word,
        };
        let word_before = |end: usize| all[..end].iter().rposition(|text| !text.blank);
        let mut kept = all.len();
        if tail.is_none() && self.side != Side::Older {
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
                    let (step, opening) = (segment.step, segment.opening);
                    Entry { step, opening, asks: Asks::Nothing, blank: false, run, pin }
                } else {
                    let opening = openings.next_if(|(start, _)| *start == at).map(|(_, opening)| *opening);
                    Entry { step: 0, opening, asks: Asks::Nothing, blank: true, run: None, pin }
                }
            }));
            self.budget = self.budget.saturating_sub(segment.step);
            (kept, self.searched) = (from, 0);
        }
        texts.truncate(kept);
        Ok(())
    }
}
