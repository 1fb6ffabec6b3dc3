//! The search for a window, without input or output: a query says what it wants to read, is fed that, and says what it
//! found.
//!
//! The start is the first one whose window has no more tokens than the limits allow; `docs/design.md` has the rule.
//!
//! ```text
//! loop {
//!     match query.next(&mut history, same) {              // with the history's lock, if it has one
//!         Next::Read(wanted) => query.feed(&counter, read(wanted))?,      // without
//!         Next::Found(found) => break,
//!         Next::HeadTooLong(tokens) => ...                // the head alone does not fit
//!         Next::Changing => ...                           // it keeps changing: ask a copy
//!     }
//! }
//! ```
//!
//! Counting begins with the newest message, and goes back no further than a window of that allowance can reach.

mod additive;
mod content;
mod joined;
mod pass;

use std::ops::Range;

use self::joined::{Goal, changed_context, changed_run, without_head};
use self::pass::{Pass, Portions, Side};
use super::count::Counter;
use super::history::History;
use super::joined::first_fit;
use super::ledger::{Asks, Fit, Ledger};
use super::policy::{Accounting, Limits, Rule, StartOn, Starting};

pub use self::content::Content;

/// Attempts before the query says that the history keeps changing. A history that nobody else changes needs one.
const ATTEMPTS: usize = 10;

/// Messages that a query wants to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Messages of the head, by index.
    Head(Range<usize>),
    /// Messages by position.
    Messages(Range<u64>),
}

/// A window that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The messages of the head that are in it, by index.
    pub head: Range<usize>,
    /// The position of the question in front of the other messages, if it carries one.
    pub question: Option<u64>,
    /// The position of the first message behind head and question.
    pub start: u64,
    /// Its tokens, without any initial count; `None` for a last message that does not fit and was not counted.
    pub tokens: Option<i64>,
}

/// What a query says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It wants these messages.
    Read(Wanted),
    /// It has found the window.
    Found(Found),
    /// The head alone has this many tokens, which do not fit.
    HeadTooLong(i64),
    /// Others keep changing the history.
    Changing,
}

/// One search for a window, in a history with policies `K` and pins `P` beside its counts.
#[derive(Debug)]
pub struct Query<K, P> {
    policy: K,
    rule: Rule,
    limits: Limits,
    /// The history's generation when the current work began.
    generation: u64,
    attempts: usize,
    /// Position after the last message of the window.
    end: u64,
    work: Work<P>,
    /// How a window may begin with each of the messages asked for last, and how each relates to questions.
    starting: Vec<(Starting, Asks)>,
    /// Where the blank messages at the end begin, and what they add; known once everything newer was read.
    tail: Option<(u64, i64)>,
    /// The words of long runs in which no start fits.
    refused: Vec<u64>,
    /// Whether the history's first segment was counted as the first.
    is_opened: bool,
    /// Pins that leave the history; dropped with the query, when no lock is held.
    forgotten: Vec<P>,
    retired: Vec<(K, Ledger<P>)>,
}

/// What is being read, and why.
#[derive(Debug)]
enum Work<P> {
    /// Nothing yet: look at the history.
    Plan,
    /// To count the messages that a window may reach.
    Count(Box<Pass<P>>),
    /// To count messages of the head, from this index on.
    Head(usize, Vec<(i64, P)>),
    /// To count the question at this position, which comes before what is counted.
    Question(u64, Option<(i64, P)>),
    /// To find the first start that fits in a run of blank messages.
    Fit(Box<Portions<P>>, Goal),
}

impl<K: Clone + PartialEq, P> Query<K, P> {
    /// A query under `policy` for the window of a history with this rule. Limits other than a number of tokens need a
    /// rule where tokens add up.
    #[must_use]
    pub fn new(policy: K, rule: Rule, limits: Limits) -> Self {
        Self {
            policy,
            rule,
            limits,
            generation: 0,
            attempts: 0,
            end: 0,
            work: Work::Plan,
            starting: Vec::new(),
            tail: None,
            refused: Vec::new(),
            is_opened: false,
            forgotten: Vec::new(),
            retired: Vec::new(),
        }
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

    /// The number of texts held for joining with those fed next.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.work {
            Work::Plan | Work::Head(..) | Work::Question(..) => 0,
            Work::Count(pass) => pass.portions.texts.len(),
            Work::Fit(portions, _) => portions.texts.len(),
        }
    }

    /// What the query says next. Adds to the history's ledger what was counted. If the history has changed since, the
    /// search begins anew. `same` tells whether two pins are of the same text.
    pub fn next<M>(&mut self, history: &mut History<M, K, P>, same: impl Fn(&P, &P) -> bool) -> Next {
        if self.generation != history.generation() {
            if self.attempts == ATTEMPTS {
                return Next::Changing;
            }
            self.attempts += 1;
            self.begin(history);
        }
        loop {
            if let Some(wanted) = self.wanted(history) {
                return Next::Read(wanted);
            }
            match std::mem::replace(&mut self.work, Work::Plan) {
                Work::Plan => {
                    let planned = match self.rule.accounting {
                        Accounting::Joined => self.plan_joined(history),
                        Accounting::Additive => self.plan_additive(history),
                    };
                    if let Some(next) = planned
                        && !self.has_grown(history)
                    {
                        return next;
                    }
                }
                Work::Count(pass) => self.commit(history, *pass, &same),
                Work::Head(_, counted) => {
                    if let Some(ledger) = history.ledger_to_change(&self.policy) {
                        ledger.extend_head(counted);
                    }
                    self.generation = history.generation();
                }
                Work::Question(position, counted) => {
                    if let Some((tokens, pin)) = counted
                        && let Some(ledger) = history.ledger_to_change(&self.policy)
                    {
                        ledger.set_carried(position, tokens, pin, &mut self.forgotten);
                    }
                    self.generation = history.generation();
                }
                Work::Fit(portions, goal) => {
                    if let (Some(_), Some(changed)) =
                        (goal.word, changed_run(history.ledger(&self.policy), &portions, &same))
                        && self.attempts < ATTEMPTS
                    {
                        self.attempts += 1;
                        self.forgotten.extend(portions.pins);
                        history.forget_changed(&self.policy, changed, changed, &mut self.forgotten);
                        self.begin(history);
                        continue;
                    }
                    self.forgotten.extend(portions.pins);
                    if let (Some(Fit { start, tokens: Some(tokens) }), Some(word)) = (goal.found, goal.word)
                        && let Some(ledger) = history.ledger_to_change(&self.policy)
                    {
                        // If it is the run's first, the next query need not read the run.
                        ledger.add_start(start, word, tokens.saturating_sub(goal.after));
                        self.generation = history.generation();
                    }
                    let found = match (goal.found, goal.word) {
                        (Some(fit), _) => fit,
                        (None, Some(word)) => {
                            self.refused.push(word);
                            continue;
                        }
                        (None, None) => self.last_message(),
                    };
                    if !self.has_grown(history) {
                        return Next::Found(without_head(found));
                    }
                }
            }
        }
    }

    /// What must be read for the current work.
    fn wanted<M>(&mut self, history: &History<M, K, P>) -> Option<Wanted> {
        let range = match &self.work {
            Work::Plan => None,
            Work::Head(from, counted) => {
                return counted.is_empty().then_some(Wanted::Head(*from..history.head().len()));
            }
            Work::Question(position, counted) => {
                return counted.is_none().then_some(Wanted::Messages(*position..*position + 1));
            }
            Work::Count(pass) => pass.wants(),
            Work::Fit(portions, _) => portions.wants(),
        }?;
        let asks_for_users = self.rule.start_on == StartOn::User;
        self.starting.clear();
        self.starting.extend(range.clone().map(|position| {
            let starting = history.starting(position);
            let asks = match starting {
                Starting::Carrying => Asks::Carries,
                _ if asks_for_users && history.is_question(position) => Asks::Question,
                _ => Asks::Nothing,
            };
            (starting, asks)
        }));
        Some(Wanted::Messages(range))
    }

    /// Takes the messages that were asked for, oldest first, and counts as many of them as it needs.
    ///
    /// # Errors
    /// The counter's. The query cannot go on after one.
    pub fn feed<C: Counter>(&mut self, counter: &C, messages: Vec<(Content, P)>) -> Result<(), C::Error> {
        let starting = std::mem::take(&mut self.starting);
        match &mut self.work {
            Work::Plan => self.forgotten.extend(messages.into_iter().map(|(_, pin)| pin)),
            Work::Head(_, counted) => {
                for (content, pin) in messages {
                    counted.push((content.tokens(counter)?, pin));
                }
            }
            Work::Question(_, counted) => {
                if let Some((content, pin)) = messages.into_iter().next() {
                    *counted = Some((content.tokens(counter)?, pin));
                }
            }
            Work::Count(pass) if self.rule.accounting == Accounting::Additive => {
                pass.add(counter, messages, &starting)?;
            }
            Work::Count(pass) => {
                pass.portions.take(messages, &starting);
                pass.measure(counter, &mut self.tail)?;
            }
            Work::Fit(portions, goal) => {
                portions.take(messages, &starting);
                if portions.wants().is_none()
                    && let Some((index, tokens)) = first_fit(counter, portions.texts.make_contiguous(), goal.allowance)?
                {
                    let start = portions.range.start + index as u64;
                    goal.found = Some(Fit { start, tokens: Some(tokens.saturating_add(goal.after)) });
                }
            }
        }
        Ok(())
    }

    fn begin<M>(&mut self, history: &History<M, K, P>) {
        match std::mem::replace(&mut self.work, Work::Plan) {
            Work::Plan => {}
            Work::Head(_, counted) => self.forgotten.extend(counted.into_iter().map(|(_, pin)| pin)),
            Work::Question(_, counted) => self.forgotten.extend(counted.map(|(_, pin)| pin)),
            Work::Count(pass) => {
                let entries = pass.entries.into_iter().map(|entry| entry.pin);
                self.forgotten.extend(entries.chain(pass.portions.pins).chain(pass.spare));
            }
            Work::Fit(portions, _) => self.forgotten.extend(portions.pins),
        }
        self.generation = history.generation();
        self.end = history.messages().end();
        self.tail = None;
        self.is_opened = false;
        self.refused.clear();
    }

    /// Whether messages were added since the search began. Then it goes on with them, unless that keeps happening.
    fn has_grown<M>(&mut self, history: &History<M, K, P>) -> bool {
        if self.end == history.messages().end() || self.attempts == ATTEMPTS {
            return false;
        }
        self.attempts += 1;
        self.begin(history);
        true
    }

    /// Sets the work to counting what came since the last query. If nothing came, the tail is known.
    fn count_newer<M>(&mut self, history: &mut History<M, K, P>, budget: i64) -> bool {
        if self.tail.is_some() {
            return false;
        }
        let first = history.messages().first();
        let ledger = history.use_ledger(&self.policy, &mut self.retired);
        let (is_empty, end, is_closed) = (ledger.is_empty(), ledger.end(), ledger.is_closed());
        self.generation = history.generation(); // a ledger may have been retired
        if first == self.end || (end == self.end && !is_empty) {
            self.tail = Some((self.end, 0));
            return false;
        }
        let pass = if is_empty {
            Pass::new(Side::All, first..self.end, budget)
        } else {
            let open = self.rule.accounting == Accounting::Joined && !is_closed;
            Pass::new(if open { Side::AfterText } else { Side::AfterWord }, end..self.end, budget)
        };
        self.work = Work::Count(Box::new(pass));
        true
    }

    /// Adds what a pass has counted to the ledger.
    fn commit<M>(&mut self, history: &mut History<M, K, P>, pass: Pass<P>, same: &impl Fn(&P, &P) -> bool) {
        let Pass { side, portions, entries, spare, closed, .. } = pass;
        let (tail, _) = *self.tail.get_or_insert((self.end, 0));
        let Some(ledger) = history.ledger_to_change(&self.policy) else { return };
        if self.rule.accounting == Accounting::Joined
            && let Some(changed) = changed_context(ledger, side, &portions, &entries, same)
        {
            // If a text has changed, what follows it was counted after the old text.
            if side == Side::Older {
                let next = ledger.word_after(changed) + 1;
                ledger.forget_before(ledger.word_after(next) + 1, &mut self.forgotten);
            } else {
                ledger.forget_from(changed, &mut self.forgotten);
            }
            self.forgotten.extend(entries.into_iter().map(|entry| entry.pin).chain(portions.pins).chain(spare));
            self.tail = None;
            self.generation = history.generation();
            return;
        }
        self.forgotten.extend(portions.pins.into_iter().chain(spare));
        match side {
            Side::Older => {
                ledger.forget_before(portions.range.end, &mut self.forgotten);
                let is_all = ledger.is_empty();
                ledger.extend_older(portions.range.end, entries);
                if is_all {
                    ledger.set_closed(closed);
                }
            }
            _ if entries.is_empty() => {}
            Side::AfterText | Side::AfterWord if ledger.end() + entries.len() as u64 == tail => {
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

#[cfg(test)]
mod tests;
