//! Where texts are joined: what must be read next, and what was found.

use super::pass::{Pass, Portions, Side};
use super::{Found, Next, Query, Work};
use crate::core::history::History;
use crate::core::joined::SLACK;
use crate::core::ledger::{Entry, Fit, Ledger};
use crate::core::policy::Starting;

/// A search in a run of blank messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal {
    /// Tokens that the run and its word may have.
    pub(super) allowance: i64,
    /// Tokens of the window after them.
    pub(super) after: i64,
    /// Position of the word; `None` at the end of a history, where there is no word.
    pub(super) word: Option<u64>,
    pub(super) found: Option<Fit>,
}

impl<K: Clone + PartialEq, P> Query<K, P> {
    /// Where texts are joined: sets the work to what must be read next, or returns what was found.
    pub(super) fn plan_joined<M>(&mut self, history: &mut History<M, K, P>) -> Option<Next> {
        let first = history.messages().first();
        if first == self.end {
            return Some(Next::Found(Found { head: 0..0, question: None, start: self.end, tokens: Some(0) }));
        }
        let all = self.limits.allowance(0);
        if self.count_newer(history, all.saturating_add(SLACK)) {
            return None;
        }
        let ledger = history.ledger(&self.policy)?;
        let (tail, added) = self.tail.unwrap_or((self.end, 0));
        let allowance = all.saturating_sub(added);
        if !ledger.is_empty() && ledger.tokens() <= allowance.saturating_add(SLACK) {
            // What a segment adds may depend on what comes before it. Nobody checks that text while it is in no window,
            // so the first segment counted is counted again with the older ones.
            if ledger.first() > first {
                let end = ledger.word_after(ledger.first()) + 1;
                let budget = allowance.saturating_add(SLACK).saturating_sub(ledger.tokens_from(end));
                self.work = Work::Count(Box::new(Pass::new(Side::Older, first..end, budget)));
                return None;
            }
            let may_start = self.limits.all || history.starting(first) != Starting::No;
            let is_known = if self.limits.all { ledger.knows_first() } else { ledger.begins_with_a_start() };
            if may_start && !is_known && !self.is_opened {
                // The history's first message may begin a window whatever its role. It was counted when others came
                // before it.
                let end = ledger.word_after(ledger.word_after(first) + 1) + 1;
                self.work = Work::Count(Box::new(Pass::new(Side::Older, first..end.min(ledger.end()), i64::MAX)));
                self.is_opened = true;
                return None;
            }
        }
        if self.limits.all && (self.is_opened || ledger.is_empty()) {
            let tokens = ledger.tokens().saturating_add(added);
            return Some(Next::Found(without_head(Fit { start: first, tokens: Some(tokens) })));
        }
        let fit = ledger.earliest_fit(allowance);
        let runs = ledger.runs_that_may_fit(fit.map_or(self.end, |fit| fit.start), allowance);
        if let Some(run) = runs.into_iter().find(|run| !self.refused.contains(&run.word)) {
            let after = ledger.tokens_from(run.word + 1).saturating_add(added);
            let goal = Goal { allowance: all.saturating_sub(after), after, word: Some(run.word), found: None };
            self.work = Work::Fit(Box::new(Portions::new(run.first..run.word + 1)), goal);
            return None;
        }
        if fit.is_none() && tail < self.end {
            let goal = Goal { allowance: all, after: 0, word: None, found: None };
            self.work = Work::Fit(Box::new(Portions::new(tail..self.end)), goal);
            return None;
        }
        let with_tail = |fit: Fit| Fit { tokens: fit.tokens.map(|tokens| tokens.saturating_add(added)), ..fit };
        Some(Next::Found(without_head(fit.map_or_else(|| self.last_message(), with_tail))))
    }

    pub(super) fn last_message(&self) -> Fit {
        Fit { start: self.end - 1, tokens: None }
    }
}

/// The position of a counted message whose text has changed, if a pass has read it: a text that it counted after, or
/// one that it counted again.
pub(super) fn changed_context<P>(
    ledger: &Ledger<P>,
    side: Side,
    portions: &Portions<P>,
    entries: &[Entry<P>],
    same: &impl Fn(&P, &P) -> bool,
) -> Option<u64> {
    match side {
        Side::All | Side::AfterWord => None,
        Side::AfterText => {
            let last = ledger.end().checked_sub(1)?;
            let read = portions.pins.front().filter(|_| portions.wants().is_none())?;
            ledger.pins_since(last).next().filter(|counted| !same(counted, read)).map(|_| last)
        }
        Side::Older => {
            let again = portions.range.end.saturating_sub(ledger.first()) as usize;
            let counted = ledger.pins_since(ledger.first()).take(again).rev();
            let mut both = (0..portions.range.end).rev().zip(entries.iter().zip(counted));
            both.find(|(_, (entry, counted))| !same(&entry.pin, counted)).map(|(position, _)| position)
        }
    }
}

/// The position of a message of a run whose text has changed since it was counted.
pub(super) fn changed_run<P>(
    ledger: Option<&Ledger<P>>,
    run: &Portions<P>,
    same: &impl Fn(&P, &P) -> bool,
) -> Option<u64> {
    let counted = ledger?.pins_since(run.range.start);
    let mut both = run.range.clone().zip(run.pins.iter().zip(counted));
    both.find(|(_, (read, counted))| !same(read, counted)).map(|(position, _)| position)
}

pub(super) fn without_head(fit: Fit) -> Found {
    Found { head: 0..0, question: None, start: fit.start, tokens: fit.tokens }
}
