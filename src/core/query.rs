//! The search for a window, without input or output: it says what it wants to read, is fed that, and says what it found.
//!
//! The start is the first one whose window has at most as many tokens as the limits allow; `docs/design.md` has the rule.
//!
//! ```text
//! loop {
//!     match query.next(&mut history, same) {              // with the history's lock, if it has one
//!         Next::Read(wanted) => query.feed(&counter, read(wanted))?,      // without
//!         Next::Found(found) => break,
//!         Next::HeadTooLong(tokens) => ...                // the head alone does not fit
//!         Next::Changing => ...                           // it changes all the while: ask a copy
//!     }
//! }
//! ```
//!
//! Counting begins with the newest message and goes back no further than a window of that allowance can reach.

use std::collections::VecDeque;
use std::ops::Range;

use super::count::Counter;
use super::history::{History, Starting};
use super::joined::{self, Before, SLACK, Text};
use super::ledger::{Asks, Entry, Fit, Ledger};
use super::policy::{Accounting, Limits, Rule, StartOn};

/// Attempts before the query says that the history changes all the while. One that nobody else changes needs one.
const ATTEMPTS: usize = 10;

/// Messages read at first; every further read of a pass doubles it.
const FIRST_READ: u64 = 4;
/// Messages read at once at most, so that a pass over a long history holds few texts at a time.
const LARGEST_READ: u64 = 1024;

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

/// Messages that a query wants to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Those of the head with these indexes.
    Head(Range<usize>),
    /// Those at these positions.
    Messages(Range<u64>),
}

/// A window that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The messages of the head that are in it, by their indexes.
    pub head: Range<usize>,
    /// The position of the question in front of the other messages, if it carries one.
    pub question: Option<u64>,
    /// The position of the first of those.
    pub start: u64,
    /// Its tokens, without any initial count; `None` for a last message that does not fit and was not counted.
    pub tokens: Option<i64>,
}

/// What a query wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// These messages.
    Read(Wanted),
    /// Nothing more.
    Found(Found),
    /// Other limits: the head alone has so many tokens, which do not fit.
    HeadTooLong(i64),
    /// A history that others do not change all the while.
    Changing,
}

/// One search for a window of a history with policies `K`, beside whose counts `P` is kept.
#[derive(Debug)]
pub struct Query<K, P> {
    policy: K,
    rule: Rule,
    limits: Limits,
    /// The history's, when the work at hand began.
    generation: u64,
    attempts: usize,
    /// Position after the last message of the window.
    end: u64,
    work: Work<P>,
    /// How a window may begin with each of the messages that were asked for last, and what it is to questions.
    starting: Vec<(Starting, Asks)>,
    /// Where the blank messages at the end begin, and what they add; known once everything newer was read.
    tail: Option<(u64, i64)>,
    /// The words of long runs in which no start fits.
    refused: Vec<u64>,
    /// Whether the history's first segment was counted as such.
    is_opened: bool,
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
    /// To count messages of the head, from this index on.
    Head(usize, Vec<(i64, P)>),
    /// To count the question at this position, which stands before what is counted.
    Question(u64, Option<(i64, P)>),
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
    /// A query for the window of a history with this rule under `policy`. Limits other than a number of tokens are for rules
    /// under which tokens add up.
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

    /// The number of texts held, with which those fed next may be joined.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.work {
            Work::Plan | Work::Head(..) | Work::Question(..) => 0,
            Work::Count(pass) => pass.reading.texts.len(),
            Work::Fit(reading, _) => reading.texts.len(),
        }
    }

    /// What the query wants next. Adds to the history's ledger what was counted, unless the history has changed since:
    /// then the search begins anew. `same` tells whether two of what is kept beside counts are of one text.
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
                Work::Fit(reading, goal) => {
                    if let (Some(_), Some(changed)) =
                        (goal.word, changed_run(history.ledger(&self.policy), &reading, &same))
                        && self.attempts < ATTEMPTS
                    {
                        self.attempts += 1;
                        self.forgotten.extend(reading.pins);
                        history.forget_changed(&self.policy, changed, changed, &mut self.forgotten);
                        self.begin(history);
                        continue;
                    }
                    self.forgotten.extend(reading.pins);
                    if let (Some(Fit { start, tokens: Some(tokens) }), Some(word)) = (goal.found, goal.word)
                        && let Some(ledger) = history.ledger_to_change(&self.policy)
                    {
                        // So that the next query need not count the run.
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

    /// What must be read for the work at hand.
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
            Work::Fit(reading, _) => reading.wants(),
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

    /// Takes the messages that were asked for, oldest first, and counts as many of them as are needed.
    ///
    /// # Errors
    /// Those of the counter. The query cannot go on then.
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
                pass.reading.take(messages, &starting);
                pass.measure(counter, &mut self.tail)?;
            }
            Work::Fit(reading, goal) => {
                reading.take(messages, &starting);
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
            Work::Head(_, counted) => self.forgotten.extend(counted.into_iter().map(|(_, pin)| pin)),
            Work::Question(_, counted) => self.forgotten.extend(counted.map(|(_, pin)| pin)),
            Work::Count(pass) => {
                let entries = pass.entries.into_iter().map(|entry| entry.pin);
                self.forgotten.extend(entries.chain(pass.reading.pins).chain(pass.spare));
            }
            Work::Fit(reading, _) => self.forgotten.extend(reading.pins),
        }
        self.generation = history.generation();
        self.end = history.messages().end();
        self.tail = None;
        self.is_opened = false;
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

    /// Sets the work to what must be read next, or tells what is found, where texts are joined.
    fn plan_joined<M>(&mut self, history: &mut History<M, K, P>) -> Option<Next> {
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
            // What a segment adds may depend on what stands before it, which nobody checks while it is in no window. So the
            // first one counted is counted once more with the older ones.
            if ledger.first() > first {
                let end = ledger.word_after(ledger.first()) + 1;
                let budget = allowance.saturating_add(SLACK).saturating_sub(ledger.tokens_from(end));
                self.work = Work::Count(Box::new(Pass::new(Side::Older, first..end, budget)));
                return None;
            }
            let may_start = self.limits.all || history.starting(first) != Starting::No;
            let is_known = if self.limits.all { ledger.knows_first() } else { ledger.begins_with_a_start() };
            if may_start && !is_known && !self.is_opened {
                // The history's first message may begin a window whatever its role. It was counted when others stood
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
            self.work = Work::Fit(Box::new(Reading::new(run.first..run.word + 1)), goal);
            return None;
        }
        if fit.is_none() && tail < self.end {
            let goal = Goal { allowance: all, after: 0, word: None, found: None };
            self.work = Work::Fit(Box::new(Reading::new(tail..self.end)), goal);
            return None;
        }
        let with_tail = |fit: Fit| Fit { tokens: fit.tokens.map(|tokens| tokens.saturating_add(added)), ..fit };
        Some(Next::Found(without_head(fit.map_or_else(|| self.last_message(), with_tail))))
    }

    /// Sets the work to what must be read next, or tells what is found, where tokens add up.
    fn plan_additive<M>(&mut self, history: &mut History<M, K, P>) -> Option<Next> {
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
        // No window begins with a head from behind which messages have left.
        let may_begin = self.limits.all || (!included && !history.has_gap());
        let allowance = self.limits.allowance(if included { head_tokens } else { 0 });
        if allowance < 0 {
            return Some(Next::HeadTooLong(head_tokens));
        }
        let stays = self.limits.retention_ratio < 1.0;
        // What leaves a bounded history uncounted would be missing in the sums of a cut that stays.
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
        // What must be left out.
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
            // The last message may begin a window too, and is the newest that does.
            (None, StartOn::Any) => Some(Fit { start: self.end - 1, tokens: Some(ledger.tokens_from(self.end - 1)) }),
            (None, StartOn::User) => match ledger.newest_start() {
                Some(fit) => Some(fit),
                // It stands before all that was counted.
                None => match history.newest_start_before(counts_from) {
                    Some(start) => return self.count_older(history, start..counts_from, i64::MAX),
                    None => None,
                },
            },
        };
        let Some(fit) = fit else {
            // Nothing, or a question of which nothing else is left.
            let start = if kept.is_some() { first } else { self.end };
            let tokens = with_head(kept_tokens.saturating_add(ledger.tokens_from(start)));
            return Some(Next::Found(Found { head: heads, question: kept, start, tokens }));
        };
        let carries = history.starting(fit.start) == Starting::Carrying;
        let question = if carries { ledger.question_of(fit.start) } else { None };
        let tokens = fit.tokens.and_then(with_head);
        Some(Next::Found(Found { head: heads, question, start: fit.start, tokens }))
    }

    /// Sets the work to counting what came since the last query, if there is anything. Otherwise the tail is known.
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

    /// Sets the work to counting messages before those counted, where tokens add up.
    fn count_older<M>(&mut self, history: &mut History<M, K, P>, range: Range<u64>, budget: i64) -> Option<Next> {
        if let Some(ledger) = history.ledger_to_change(&self.policy) {
            ledger.await_question(&mut self.forgotten);
        }
        self.generation = history.generation();
        self.work = Work::Count(Box::new(Pass::new(Side::Older, range, budget)));
        None
    }

    /// A question that must be counted before starts that carry it are known.
    fn unknown_question<M>(&self, history: &History<M, K, P>, is_all: bool) -> Option<u64> {
        let ledger = history.ledger(&self.policy)?;
        let waiting = ledger.first_waiting().and_then(|start| history.question_of(start));
        waiting.or_else(|| {
            // One that was kept is in the window that has everything.
            let kept = history.kept_question().filter(|_| is_all)?;
            ledger.carried().is_none_or(|(position, _)| position != kept).then_some(kept)
        })
    }

    /// The first message of the window that has everything: no result of a call that has gone, and under
    /// [`StartOn::Any`] the history's first message or one that may begin any window.
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

    /// Where in the head a window of at most `allowance` tokens begins under [`StartOn::Any`], and its tokens. All messages
    /// are counted. If the head `is_all` there is, the last message of it may exceed the allowance.
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

    fn last_message(&self) -> Fit {
        Fit { start: self.end - 1, tokens: None }
    }

    /// Adds what a pass has counted to the ledger.
    fn commit<M>(&mut self, history: &mut History<M, K, P>, pass: Pass<P>, same: &impl Fn(&P, &P) -> bool) {
        let Pass { side, reading, entries, spare, closed, .. } = pass;
        let (tail, _) = *self.tail.get_or_insert((self.end, 0));
        let Some(ledger) = history.ledger_to_change(&self.policy) else { return };
        if self.rule.accounting == Accounting::Joined
            && let Some(changed) = changed_context(ledger, side, &reading, &entries, same)
        {
            // What follows a text that is another by now was counted after the one it was.
            if side == Side::Older {
                let next = ledger.word_after(changed) + 1;
                ledger.forget_before(ledger.word_after(next) + 1, &mut self.forgotten);
            } else {
                ledger.forget_from(changed, &mut self.forgotten);
            }
            self.forgotten.extend(entries.into_iter().map(|entry| entry.pin).chain(reading.pins).chain(spare));
            self.tail = None;
            self.generation = history.generation();
            return;
        }
        self.forgotten.extend(reading.pins.into_iter().chain(spare));
        match side {
            Side::Older => {
                ledger.forget_before(reading.range.end, &mut self.forgotten);
                let is_all = ledger.is_empty();
                ledger.extend_older(reading.range.end, entries);
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

/// Where a counted message has another text than when it was counted, if a pass has read it: one after which it counted, or
/// one that it counted again.
fn changed_context<P>(
    ledger: &Ledger<P>,
    side: Side,
    reading: &Reading<P>,
    entries: &[Entry<P>],
    same: &impl Fn(&P, &P) -> bool,
) -> Option<u64> {
    match side {
        Side::All | Side::AfterWord => None,
        Side::AfterText => {
            let last = ledger.end().checked_sub(1)?;
            let read = reading.pins.front().filter(|_| reading.wants().is_none())?;
            ledger.pins_since(last).next().filter(|counted| !same(counted, read)).map(|_| last)
        }
        Side::Older => {
            let again = reading.range.end.saturating_sub(ledger.first()) as usize;
            let counted = ledger.pins_since(ledger.first()).take(again).rev();
            let mut both = (0..reading.range.end).rev().zip(entries.iter().zip(counted));
            both.find(|(_, (entry, counted))| !same(&entry.pin, counted)).map(|(position, _)| position)
        }
    }
}

/// Where a message of a run has another text than when it was counted.
fn changed_run<P>(ledger: Option<&Ledger<P>>, run: &Reading<P>, same: &impl Fn(&P, &P) -> bool) -> Option<u64> {
    let counted = ledger?.pins_since(run.range.start);
    let mut both = run.range.clone().zip(run.pins.iter().zip(counted));
    both.find(|(_, (read, counted))| !same(read, counted)).map(|(position, _)| position)
}

fn without_head(fit: Fit) -> Found {
    Found { head: 0..0, question: None, start: fit.start, tokens: fit.tokens }
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

    fn take(&mut self, messages: Vec<(Content, P)>, starting: &[(Starting, Asks)]) {
        self.advance(messages.len());
        for ((content, pin), (starting, _)) in messages.into_iter().zip(starting).rev() {
            let text = if let Content::Joined(text) = content { text } else { String::new() };
            self.texts.push_front(Text::new(text, *starting != Starting::No));
            self.pins.push_front(pin);
        }
    }

    fn advance(&mut self, read: usize) {
        self.from -= read as u64;
        self.next_read = (self.next_read * 2).min(LARGEST_READ);
    }
}

/// Where the messages of a pass are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// They are the history.
    All,
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
    side: Side,
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
    fn new(side: Side, range: Range<u64>, budget: i64) -> Self {
        let start = range.start - u64::from(side == Side::AfterText);
        let reading = Reading::new(start..range.end);
        Self { side, reading, budget, entries: Vec::new(), searched: 0, spare: VecDeque::new(), closed: false }
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
        starting: &[(Starting, Asks)],
    ) -> Result<(), C::Error> {
        self.reading.advance(messages.len());
        for ((content, pin), (starting, asks)) in messages.into_iter().zip(starting).rev() {
            if self.budget < 0 {
                self.reading.pins.push_front(pin);
                continue;
            }
            let step = content.tokens(counter)?;
            self.budget = self.budget.saturating_sub(step);
            let opening = (*starting != Starting::No).then_some(step);
            self.entries.push(Entry { step, opening, asks: *asks, blank: false, run: None, pin });
        }
        Ok(())
    }

    /// Measures the segments that are whole, the newest first; the other texts wait for older ones. At the history's end
    /// it notes the tail first.
    fn measure<C: Counter>(&mut self, counter: &C, tail: &mut Option<(u64, i64)>) -> Result<(), C::Error> {
        let is_complete = self.reading.wants().is_none();
        // With the last read comes the text that the pass stands after, which is not counted again.
        let oldest = usize::from(is_complete && self.side == Side::AfterText);
        let Reading { range, texts, pins, .. } = &mut self.reading;
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
    use super::{Content, Found, Next, Query};
    use crate::core::count::Counter;
    use crate::core::history::{Bounds, History};
    use crate::core::item::{Kind, Outline};
    use crate::core::joined::tests::{Counting, Words};
    use crate::core::policy::{Accounting, Limits, Rule, StartOn};
    use std::num::NonZeroUsize;

    type Texts = History<String, (), String>;

    const ADDITIVE: Rule = Rule { accounting: Accounting::Additive, start_on: StartOn::Any };
    const STEPS: Rule = Rule { accounting: Accounting::Additive, start_on: StartOn::User };

    fn history(rule: Rule, bound: usize) -> Texts {
        History::new(Bounds { rule, max_messages: NonZeroUsize::new(bound), keep_head: true })
    }

    fn outline(kind: Kind, continues: bool) -> Outline {
        Outline { kind, continues, may_start: matches!(kind, Kind::User | Kind::System) }
    }

    fn put(history: &mut Texts, text: &str, kind: Kind) {
        history.push(std::iter::once((text.to_owned(), outline(kind, false))), &mut Vec::new());
    }

    fn put_text(history: &mut Texts, text: &str, may_start: bool) {
        put(history, text, if may_start { Kind::User } else { Kind::Assistant });
    }

    fn read(history: &Texts, query: &mut Query<(), String>, wanted: &super::Wanted, counter: &impl Counter) {
        let content = |text: String| match history.bounds().rule.accounting {
            Accounting::Joined => (Content::Joined(text.clone()), text),
            Accounting::Additive => (Content::Item { texts: vec![text.clone()], constant: 0 }, text),
        };
        let messages = history.wanted(wanted).into_iter().cloned().map(content).collect();
        assert!(query.feed(counter, messages).is_ok());
    }

    fn search(history: &mut Texts, limits: Limits, counter: &impl Counter) -> Result<Found, i64> {
        let mut query = Query::new((), history.bounds().rule, limits);
        for _ in 0..1_000 {
            match query.next(history, String::eq) {
                Next::Changing => unreachable!("nobody else changes it"),
                Next::HeadTooLong(tokens) => return Err(tokens),
                Next::Found(found) => return Ok(found),
                Next::Read(wanted) => read(history, &mut query, &wanted, counter),
            }
        }
        unreachable!("the search does not end: {:?} {limits:?}", history.messages())
    }

    fn window(history: &mut Texts, limits: Limits) -> Option<Vec<String>> {
        let found = search(history, limits, &Words).ok()?;
        Some(history.window(&found, history.messages().end()).cloned().collect())
    }

    fn start(history: &mut Texts, allowance: i64, counter: &impl Counter) -> Option<u64> {
        search(history, Limits::of(allowance), counter).ok().map(|found| found.start)
    }

    fn count(text: &str) -> i64 {
        Words.count(text).unwrap_or_default()
    }

    /// LlamaIndex's rule, word for word.
    fn joined_reference(messages: &[(String, Outline)], first_may_start: bool, allowance: i64) -> Vec<String> {
        let texts: Vec<String> = messages.iter().map(|(text, _)| text.clone()).collect();
        let last = texts.len().saturating_sub(1);
        let legal = |at: &usize| messages[*at].1.may_start || (*at == 0 && first_may_start) || *at == last;
        let start = (0..texts.len()).filter(legal).find(|at| count(&texts[*at..].join(" ")) <= allowance);
        texts[start.unwrap_or(last)..].to_vec()
    }

    /// The rule of the design, by looking at every start: the window, or `None` if the head is too long. `is_whole` if no
    /// message has left for others.
    fn reference(messages: &[(String, Outline)], rule: StartOn, limits: Limits, is_whole: bool) -> Option<Vec<String>> {
        let leading = messages.iter().take_while(|(_, outline)| outline.kind == Kind::System).count();
        let head = if limits.include_system { leading } else { 0 };
        let tokens = |range: std::ops::Range<usize>| messages[range].iter().map(|(text, _)| count(text)).sum::<i64>();
        let allowance = limits.token_limit - limits.initial_token_count - tokens(0..head);
        if allowance < 0 {
            return None;
        }
        let end = messages.len();
        let kind = |at: usize| messages[at].1.kind;
        let question = |at: usize| (head..at).rev().find(|&before| kind(before) == Kind::User);
        let any_user = (head..end).any(|at| kind(at) == Kind::User);
        let carries = |at: usize| rule == StartOn::User && kind(at) == Kind::Assistant && any_user;
        let is_start = |at: usize| match rule {
            StartOn::Any => (at == head && is_whole) || at == end - 1 || messages[at].1.may_start,
            StartOn::User if kind(at) == Kind::User => true,
            StartOn::User if kind(at) != Kind::Assistant => false,
            StartOn::User => {
                let before = (at > head).then(|| messages[at - 1].1);
                let in_step = before.is_some_and(|before| before.kind == Kind::Assistant && before.continues);
                let after_question = before.is_some_and(|before| before.kind == Kind::User);
                !in_step && !after_question && (!any_user || question(at).is_some())
            }
        };
        let before = |at: usize| {
            let carried = question(at).filter(|_| carries(at)).map_or(0, |question| tokens(question..question + 1));
            tokens(head..at) - carried
        };
        let result = |from: usize, question: Option<usize>| {
            let texts = (0..head).chain(question).chain(from..end).map(|at| messages[at].0.clone());
            Some(texts.collect())
        };
        let excess = tokens(head..end) - allowance;
        if excess <= 0 {
            let may_lead = |at: &usize| match rule {
                StartOn::User => kind(*at) != Kind::Tool,
                StartOn::Any => is_start(*at),
            };
            return result((head..end).find(may_lead).unwrap_or(end), None);
        }
        let least = limits.left_out(excess, allowance);
        let starts: Vec<usize> = (head..end).filter(|&at| is_start(at)).collect();
        let found = starts.iter().copied().find(|&at| before(at) >= least);
        let found = found.or_else(|| match rule {
            StartOn::User => starts.last().copied(),
            StartOn::Any => starts.iter().copied().rev().find(|&at| before(at) >= excess).or(end.checked_sub(1)),
        });
        match found {
            Some(at) => result(at, question(at).filter(|_| carries(at))),
            None => result(end, None),
        }
    }

    struct Random(u64);

    impl Random {
        fn new(seed: u64) -> Self {
            Self(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed))
        }

        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }
    }

    /// Pops, removes or adds some messages.
    fn change(history: &mut Texts, random: &mut Random, fragments: &[&str]) {
        match random.below(8) {
            0 => drop(history.pop(&mut Vec::new())),
            1 if !history.is_empty() => {
                let Ok(place) = history.place(random.below(history.len()) as isize) else { return };
                history.remove(place, &mut Vec::new());
            }
            2 if random.below(3) == 0 => {
                let head = (0..random.below(3)).map(|_| ("s s".to_owned(), outline(Kind::System, false))).collect();
                if history.bounds().rule == STEPS {
                    history.set_head(head, &mut Vec::new());
                }
            }
            _ => (0..=random.below(4)).for_each(|_| {
                let kinds = [Kind::User, Kind::Assistant, Kind::Assistant, Kind::Tool, Kind::Tool, Kind::System];
                let most = if random.below(4) == 0 { 6 } else { 5 };
                let kind = kinds[random.below(most)];
                let outline = outline(kind, kind == Kind::Assistant && random.below(2) == 0);
                let text = fragments[random.below(fragments.len())].to_owned();
                history.push(std::iter::once((text, outline)), &mut Vec::new());
            }),
        }
    }

    fn all(history: &Texts) -> Vec<(String, Outline)> {
        history.all().map(|(text, outline)| (text.clone(), outline)).collect()
    }

    #[test]
    fn any_mix_of_changes_gives_the_window_of_the_joined_rule() {
        let long = "\n".repeat(40);
        let fragments =
            ["", " ", "\n", "a", "b c", " d", "e ", "f\n", "  ", "word word word", "?!", "\n\n g", "h  i", "", &long];
        for seed in 1..250 {
            let mut random = Random::new(seed);
            let bound = [0, 0, 1, 3, 9, 30][random.below(6)];
            let mut history = history(Rule::LLAMA_INDEX, bound);
            for _ in 0..100 {
                change(&mut history, &mut random, &fragments);
                let most = [40, 200][random.below(2)];
                let limits = Limits::of(random.below(most) as i64);
                let found = search(&mut history, limits, &Words);
                let texts: Option<Vec<String>> =
                    found.as_ref().ok().map(|found| history.window(found, u64::MAX).cloned().collect());
                let expected = joined_reference(&all(&history), history.is_whole(), limits.token_limit);
                assert_eq!(texts.as_ref(), Some(&expected), "{seed}, {limits:?}: {:?}", all(&history));
                if let Ok(Found { tokens: Some(tokens), .. }) = found {
                    assert_eq!(count(&expected.join(" ")), tokens, "{seed}: {expected:?}");
                }
                let texts: Vec<String> = all(&history).into_iter().map(|(text, _)| text).collect();
                let everything = search(&mut history, Limits::ALL, &Words).map(|found| found.tokens);
                assert_eq!(everything, Ok(Some(count(&texts.join(" ")))), "{seed}: {texts:?}");
            }
        }
    }

    #[test]
    fn any_mix_of_changes_gives_the_window_of_the_additive_rules() {
        let fragments = ["", "a", "b c", "d e f", "word word word word word word word", "a b c d"];
        for seed in 1..300 {
            let mut random = Random::new(seed);
            let rule = [ADDITIVE, STEPS, STEPS][random.below(3)];
            let bound = [0, 0, 1, 2, 3, 9][random.below(6)];
            let mut history = history(rule, bound);
            for _ in 0..100 {
                change(&mut history, &mut random, &fragments);
                let most = [10, 40, 100][random.below(3)];
                let limits = Limits {
                    token_limit: random.below(most) as i64,
                    initial_token_count: random.below(2) as i64,
                    include_system: random.below(3) > 0,
                    all: false,
                    // A cut that stays depends on what was evicted.
                    retention_ratio: if bound == 0 { [1.0, 0.7, 0.3, 0.0][random.below(4)] } else { 1.0 },
                };
                let everything = search(&mut history, Limits::ALL, &Words);
                let total = all(&history).iter().map(|(text, _)| count(text)).sum();
                assert_eq!(everything.map(|found| found.tokens), Ok(Some(total)), "{seed}: {:?}", all(&history));
                let messages = all(&history);
                // A window that began with a head from behind which messages have left would have a gap.
                let lost = if history.has_gap() && !limits.include_system { history.head().len() } else { 0 };
                let expected = reference(&messages[lost..], rule.start_on, limits, history.is_whole());
                let found = window(&mut history, limits);
                assert_eq!(found, expected, "{seed}, {rule:?}, {limits:?}: {:?}", all(&history));
            }
        }
    }

    /// Messages are indices into texts that others edit in place.
    type Edited = History<usize, (), String>;

    /// As whoever keeps such messages asks for all of them: their tokens.
    fn ask_and_verify(history: &mut Edited, all: &[String], limits: Limits) -> Option<i64> {
        let mut query = Query::new((), Rule::LLAMA_INDEX, limits);
        loop {
            match query.next(history, String::eq) {
                Next::Changing => query = Query::new((), Rule::LLAMA_INDEX, limits),
                Next::HeadTooLong(_) => unreachable!("texts have no head"),
                Next::Read(wanted) => {
                    let texts = history.wanted(&wanted).into_iter().map(|&message| all[message].clone());
                    let messages = texts.map(|text| (Content::Joined(text.clone()), text)).collect();
                    assert!(query.feed(&Words, messages).is_ok());
                }
                Next::Found(found) => {
                    let ledger = history.ledger(&()).filter(|ledger| ledger.first() <= found.start);
                    let pins = ledger.into_iter().flat_map(|ledger| ledger.pins_since(found.start));
                    let messages = history.messages().since(found.start).map(|&message| &all[message]);
                    let pairs = (found.start..).zip(messages.zip(pins)).filter(|(_, (now, pin))| now != pin);
                    let changed: Vec<u64> = pairs.map(|(position, _)| position).collect();
                    let (Some(&first), Some(&last)) = (changed.first(), changed.last()) else { return found.tokens };
                    history.forget_changed(&(), first, last, &mut Vec::new());
                }
            }
        }
    }

    #[test]
    fn edits_anywhere_are_in_the_counts_once_a_window_has_them() {
        let long = "\n".repeat(70);
        let fragments =
            ["", "", " ", "a", "b ", " c", &long, "word word ", " \n", "one two three four five six seven ", "  e"];
        for seed in 1..1_000 {
            let mut random = Random::new(seed);
            let bounds = history(Rule::LLAMA_INDEX, [0, 0, 3, 6][random.below(4)]).bounds();
            let mut history = Edited::new(bounds);
            let (mut all, mut before) = (Vec::new(), String::new());
            for _ in 0..40 {
                match random.below(8) {
                    0..3 => {
                        let message = (all.len(), outline([Kind::User, Kind::Assistant][random.below(2)], false));
                        all.push(fragments[random.below(fragments.len())].to_owned());
                        history.push(std::iter::once(message), &mut Vec::new());
                    }
                    3..6 if !all.is_empty() => {
                        let edited = all.len() - 1 - random.below(all.len().min(6));
                        // Now and then an edit is taken back.
                        let text = fragments[random.below(fragments.len())];
                        let text = if random.below(3) == 0 { before } else { text.to_owned() };
                        before = std::mem::replace(&mut all[edited], text);
                    }
                    _ => {
                        let allowance = [0, 2, 9, 30][random.below(4)];
                        ask_and_verify(&mut history, &all, Limits::of(allowance));
                    }
                }
            }
            let now: Vec<&str> = history.messages().iter().map(|&message| all[message].as_str()).collect();
            let tokens = ask_and_verify(&mut history, &all, Limits::ALL);
            assert_eq!(tokens, Some(count(&now.join(" "))), "{seed}: {now:?}");
        }
    }

    #[test]
    fn counts_the_window_and_what_rules_out_the_rest() {
        let mut history = history(Rule::LLAMA_INDEX, 0);
        (0..100_000).for_each(|_| put_text(&mut history, "one two three four", true));
        let counting = Counting::default();
        assert_eq!(start(&mut history, 400, &counting), Some(99_900));
        let bytes = counting.0.get();
        assert!(bytes < 110 * 3 * "one two three four ".len(), "{bytes}");
        assert_eq!(start(&mut history, 400, &counting), Some(99_900));
        assert_eq!(counting.0.get(), bytes);
    }

    #[test]
    fn a_long_run_without_starts_leaves_the_last_message() {
        let mut history = history(Rule::LLAMA_INDEX, 0);
        put_text(&mut history, "question", true);
        (0..100_000).for_each(|_| put_text(&mut history, "result", false));
        assert_eq!(start(&mut history, 50_000, &Words), Some(100_000));
        assert_eq!(start(&mut history, 100_001, &Words), Some(0));
    }

    #[test]
    fn a_long_loop_carries_its_question_and_counts_no_more_than_it_must() {
        let mut history = history(STEPS, 0);
        put(&mut history, "be kind", Kind::System);
        put(&mut history, "do it", Kind::User);
        for _ in 0..50_000 {
            let call = ("call it".to_owned(), outline(Kind::Assistant, true));
            history.push(std::iter::once(call), &mut Vec::new());
            put(&mut history, "the result", Kind::Tool);
        }
        let counting = Counting::default();
        let limits = Limits { include_system: true, ..Limits::of(4_004) };
        let found = search(&mut history, limits, &counting);
        let expected = Found { head: 0..1, question: Some(1), start: 98_002, tokens: Some(4_004) };
        assert_eq!(found, Ok(expected));
        assert!(counting.0.get() < 2_100 * "the result".len(), "{}", counting.0.get());
    }

    #[test]
    fn a_head_that_does_not_fit_is_told() {
        let mut history = history(STEPS, 0);
        put(&mut history, "a b c", Kind::System);
        let limits = Limits { include_system: true, initial_token_count: 1, ..Limits::of(3) };
        assert_eq!(search(&mut history, limits, &Words), Err(3));
    }

    #[test]
    fn starts_never_move_back_while_a_history_grows() {
        for (seed, ratio) in (1..200).zip([1.0, 0.7, 0.5, 0.2].into_iter().cycle()) {
            let mut random = Random::new(seed);
            let mut history = history(STEPS, [0, 6][random.below(2)]);
            let limits = Limits { include_system: true, retention_ratio: ratio, ..Limits::of(20) };
            let mut last = 0;
            put(&mut history, "ask", Kind::User);
            for _ in 0..100 {
                let kind = [Kind::User, Kind::Assistant, Kind::Tool][random.below(3)];
                put(&mut history, ["a", "b c", "d e f g"][random.below(3)], kind);
                let Ok(found) = search(&mut history, limits, &Words) else { continue };
                assert!(found.start >= last, "{seed}: from {last} to {}", found.start);
                last = found.start;
            }
        }
    }

    /// Bytes counted for a first window of so many blank messages, and for one with a word more.
    fn bytes_for_blanks(messages: usize) -> usize {
        let mut history = history(Rule::LLAMA_INDEX, 0);
        put_text(&mut history, "go", true);
        (0..messages).for_each(|_| put_text(&mut history, "", true));
        let counting = Counting::default();
        start(&mut history, 3_000, &counting);
        put_text(&mut history, "done", true);
        start(&mut history, 3_000, &counting);
        counting.0.get()
    }

    #[test]
    fn blank_messages_cost_time_in_proportion() {
        let (few, many) = (bytes_for_blanks(1_000), bytes_for_blanks(10_000));
        assert!(many < 12 * few, "{many} for ten times the messages that take {few}");
    }

    #[test]
    fn a_result_of_a_history_that_has_changed_is_not_kept() {
        let mut history = history(Rule::LLAMA_INDEX, 3);
        ["", "", "a b", "c"].iter().for_each(|text| put_text(&mut history, text, true));
        let mut query = Query::new((), Rule::LLAMA_INDEX, Limits::of(100));
        while let Next::Read(wanted) = query.next(&mut history, String::eq) {
            read(&history, &mut query, &wanted, &Words);
            if query.generation() < 4 {
                put_text(&mut history, "d e f", true); // and what was read may have left
            }
        }
        assert_eq!(query.generation(), history.generation());
        let expected = joined_reference(&all(&history), history.is_whole(), 100);
        assert_eq!(window(&mut history, Limits::of(100)), Some(expected));
    }

    #[test]
    fn a_history_that_always_changes_is_given_up() {
        let mut history = history(Rule::LLAMA_INDEX, 2);
        put_text(&mut history, "a", true);
        put_text(&mut history, "b", true);
        let mut query = Query::new((), Rule::LLAMA_INDEX, Limits::of(100));
        let mut asked = 0;
        while let Next::Read(wanted) = query.next(&mut history, String::eq) {
            read(&history, &mut query, &wanted, &Words);
            put_text(&mut history, "c", true);
            asked += 1;
            assert!(asked < 100);
        }
        assert_eq!(query.next(&mut history, String::eq), Next::Changing);
    }
}
