//! Where tokens add up: what must be read next, and what was found.

use std::ops::Range;

use super::pass::{Pass, Side};
use super::{Found, Next, Query, Work};
use crate::core::history::History;
use crate::core::ledger::Fit;
use crate::core::policy::{StartOn, Starting};

impl<K: Clone + PartialEq, P> Query<K, P> {
    /// Where tokens add up: sets the work to what must be read next, or returns what was found.
    pub(super) fn plan_additive<M>(&mut self, history: &mut History<M, K, P>) -> Option<Next> {
        let first = history.messages().first();
        let head = history.head().len();
        let counted = history.use_ledger(&self.policy, &mut self.retired).head().len();
        self.generation = history.generation(); // a ledger may have been retired
        if counted < head {
            self.work = Work::Head(counted, Vec::new());
            return None;
        }
        let ledger = history.ledger(&self.policy)?;
        let head_tokens: i64 = ledger.head().iter().map(|(tokens, _)| tokens).sum();
        let included = self.limits.include_system;
        // No window begins with a head if messages behind it have left.
        let may_begin = self.limits.all || (!included && !history.has_gap());
        let allowance = self.limits.allowance(if included { head_tokens } else { 0 });
        if allowance < 0 {
            return Some(Next::HeadTooLong(head_tokens));
        }
        let stays = self.limits.retention_ratio < 1.0;
        // Messages that leave a bounded history uncounted would be missing in the sums of a cut that stays.
        let is_asked_for = ledger.evicted().is_some();
        let counts_all = stays || (is_asked_for && history.bounds().max_messages.is_some());
        if self.count_newer(history, if counts_all { i64::MAX } else { allowance }) {
            return None;
        }
        let ledger = history.ledger(&self.policy)?;
        let counts_from = if ledger.is_empty() { self.end } else { ledger.first() };
        if counts_from > first && (counts_all || ledger.tokens() <= allowance) {
            let budget = if counts_all { i64::MAX } else { allowance - ledger.tokens() };
            return self.count_older(history, first..counts_from, budget);
        }
        if stays && ledger.evicted().is_none() {
            if let Some(ledger) = history.ledger_to_change(&self.policy) {
                ledger.set_origin(0);
            }
            self.generation = history.generation();
            return None;
        }
        let is_all = counts_from == first;
        if let Some(position) = self.unknown_question(history, is_all) {
            self.work = Work::Question(position, None);
            return None;
        }
        let kept = history.kept_question();
        let kept_tokens = kept.and(ledger.carried()).map_or(0, |(_, tokens)| tokens);
        let heads = if included { 0..head } else { 0..0 };
        let with_head = |tokens: i64| Some(tokens.saturating_add(if included { head_tokens } else { 0 }));
        // The tokens to leave out.
        let before = if may_begin || (stays && !included) { head_tokens } else { 0 };
        let tokens = if stays { ledger.tokens_since_origin() } else { ledger.tokens() };
        let total = before.saturating_add(kept_tokens).saturating_add(tokens);
        let excess = total.saturating_sub(allowance);
        if is_all && excess <= 0 {
            let start = self.first_of_all(history);
            let before = if may_begin { head_tokens } else { 0 };
            let tokens = kept_tokens.saturating_add(before).saturating_add(ledger.tokens_from(start));
            let head = if may_begin { 0..head } else { heads };
            return Some(Next::Found(Found { head, question: kept, start, tokens: with_head(tokens) }));
        }
        let fits = if stays { total - self.limits.left_out(excess, allowance) } else { allowance };
        let with_question = kept_tokens.saturating_add(ledger.tokens());
        if is_all && kept.is_some() && with_question <= fits {
            let tokens = with_head(with_question);
            return Some(Next::Found(Found { head: heads, question: kept, start: first, tokens }));
        }
        if is_all
            && may_begin
            && let Some((from, tokens)) = self.start_in_head(history, fits, first == self.end)
        {
            return Some(Next::Found(Found { head: from..head, question: None, start: first, tokens: Some(tokens) }));
        }
        let fit = match (ledger.earliest_fit(fits), self.rule.start_on) {
            (Some(fit), _) => Some(fit),
            (None, StartOn::Any) if first == self.end => None,
            // The last message may begin a window too, and is the newest one that may.
            (None, StartOn::Any) => Some(Fit { start: self.end - 1, tokens: Some(ledger.tokens_from(self.end - 1)) }),
            (None, StartOn::User) => match ledger.newest_start() {
                Some(fit) => Some(fit),
                // The start is before everything that was counted.
                None => match history.newest_start_before(counts_from) {
                    Some(start) => return self.count_older(history, start..counts_from, i64::MAX),
                    // A kept question without a start behind it is sent with all that is left.
                    None if history.kept_question().is_some() && !is_all => {
                        return self.count_older(history, first..counts_from, i64::MAX);
                    }
                    None => None,
                },
            },
        };
        let Some(fit) = fit else {
            // Nothing, or a question with nothing left behind it.
            let start = if kept.is_some() { first } else { self.end };
            let tokens = with_head(kept_tokens.saturating_add(ledger.tokens_from(start)));
            return Some(Next::Found(Found { head: heads, question: kept, start, tokens }));
        };
        let carries = history.starting(fit.start) == Starting::Carrying;
        let question = if carries { ledger.question_of(fit.start) } else { None };
        let tokens = fit.tokens.and_then(with_head);
        Some(Next::Found(Found { head: heads, question, start: fit.start, tokens }))
    }

    /// Sets the work to counting messages before the counted ones, where tokens add up.
    fn count_older<M>(&mut self, history: &mut History<M, K, P>, range: Range<u64>, budget: i64) -> Option<Next> {
        if let Some(ledger) = history.ledger_to_change(&self.policy) {
            ledger.await_question(&mut self.forgotten);
        }
        self.generation = history.generation();
        self.work = Work::Count(Box::new(Pass::new(Side::Older, range, budget)));
        None
    }

    /// A question that must be counted before the starts that carry it are known.
    fn unknown_question<M>(&self, history: &History<M, K, P>, is_all: bool) -> Option<u64> {
        let ledger = history.ledger(&self.policy)?;
        let waiting = ledger.first_waiting().and_then(|start| history.question_of(start));
        waiting.or_else(|| {
            // A kept question is in the window that has everything.
            let kept = history.kept_question().filter(|_| is_all)?;
            ledger.carried().is_none_or(|(position, _)| position != kept).then_some(kept)
        })
    }

    /// The first message of the window that has everything. It is not a result whose call has gone. Under
    /// [`StartOn::Any`] it is the history's first message, or one that may begin any window.
    fn first_of_all<M>(&self, history: &History<M, K, P>) -> u64 {
        let first = history.messages().first();
        if self.limits.all {
            return first;
        }
        let head_leads = !self.limits.include_system && !history.has_gap() && !history.head().is_empty();
        let others_lead = history.kept_question().is_some() || head_leads;
        let is_first = |position| match self.rule.start_on {
            StartOn::Any => history.is_whole() || history.starting(position) != Starting::No,
            StartOn::User => !history.is_result(position),
        };
        if others_lead {
            return first;
        }
        let last = if self.rule.start_on == StartOn::Any { self.end.saturating_sub(1).max(first) } else { self.end };
        (first..last).find(|&position| is_first(position)).unwrap_or(last)
    }

    /// Where in the head a window of at most `allowance` tokens begins under [`StartOn::Any`], and its tokens. All
    /// messages are counted. If the head `is_all` there is, its last message may exceed the allowance.
    fn start_in_head<M>(&self, history: &History<M, K, P>, allowance: i64, is_all: bool) -> Option<(usize, i64)> {
        let ledger = history.ledger(&self.policy).filter(|_| self.rule.start_on == StartOn::Any)?;
        let mut tokens = ledger.tokens() + ledger.head().iter().map(|(tokens, _)| tokens).sum::<i64>();
        for (index, ((counted, _), (_, outline))) in ledger.head().iter().zip(history.head()).enumerate() {
            let is_last = is_all && index + 1 == ledger.head().len();
            if is_last || (tokens <= allowance && (outline.may_start || index == 0)) {
                return Some((index, tokens));
            }
            tokens -= counted;
        }
        None
    }
}
