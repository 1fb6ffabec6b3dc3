//! The messages of one history, and their ledgers.
//!
//! Nothing here drops a message, a ledger or what was kept beside a count, since that may run foreign code while a lock is
//! held: what leaves is handed back.

use std::num::NonZeroUsize;
use std::ops::Range;

use super::deque::{Deque, Renumbered};
use super::item::{Kind, Outline};
use super::ledger::Ledger;
use super::policy::{Accounting, Rule, StartOn, starting};
use super::query::{Found, Wanted};

/// Ledgers kept with a history, least recently used out: a fresh callable for every request must not leak.
const LEDGERS: usize = 4;

/// What is fixed with a history beside its policies.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// What its windows are.
    pub rule: Rule,
    /// The most messages that are kept beside the head and a question, `None` for any number.
    pub max_messages: Option<NonZeroUsize>,
    /// Whether the head never leaves for other messages.
    pub keep_head: bool,
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the head, at this index.
    Head(usize),
    /// It is the question of the oldest step, and what stood between has left.
    Question,
    /// At this position.
    At(u64),
}

/// Where the messages of a history stand, beside what they are: to be kept elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many of them are the head.
    pub head: usize,
    /// The position of the question behind it that was kept when it left its place.
    pub question: Option<u64>,
    /// The position of the next one.
    pub first: u64,
    /// Whether no message has left for others.
    pub is_whole: bool,
    /// The position of the first message behind the head that has.
    pub left_from: Option<u64>,
    /// The last one that has, if nothing but what belongs to its step has come since.
    pub gone: Option<Outline>,
    /// Tokens of what has left, as [`Ledger::evicted`].
    pub evicted: Option<i64>,
}

/// How a window may begin with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starting {
    /// It may not.
    No,
    /// With it.
    Alone,
    /// With it, and its question in front.
    Carrying,
}

/// What a restored history had before.
pub type Restored<M, K, P> = (Vec<M>, Vec<(K, Ledger<P>)>);

/// Messages `M` with what the rules know of them, and a ledger for each of the policies `K` that were used last. `P` is
/// what is kept beside each counted message.
///
/// Unless texts are joined, the leading system messages are the *head*, apart from the others.
#[derive(Debug)]
pub struct History<M, K, P> {
    bounds: Bounds,
    head: Vec<(M, Outline)>,
    /// The question of the oldest step, when that has left its place: with the position that it had.
    question: Option<(u64, M, Outline)>,
    messages: Deque<M>,
    outlines: Deque<Outline>,
    /// The position of the oldest user message there is, the question's included.
    first_user: Option<u64>,
    /// Whether no message has left for others: the first one is the history's.
    is_whole: bool,
    /// The position behind the head of the first message that has left for others.
    left_from: Option<u64>,
    /// The last one that has, if nothing but what belongs to its step has come since.
    gone: Option<Outline>,
    /// The most recently used last.
    ledgers: Vec<(K, Ledger<P>)>,
    /// Grows with every change of messages, outlines and ledgers but one: adding messages when none leaves. So whoever
    /// works without the lock knows afterwards whether the result is still one of this history.
    generation: u64,
}

impl<M, K: PartialEq, P> History<M, K, P> {
    /// No messages.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            head: Vec::new(),
            question: None,
            messages: Deque::default(),
            outlines: Deque::default(),
            first_user: None,
            is_whole: true,
            left_from: None,
            gone: None,
            ledgers: Vec::new(),
            generation: 1,
        }
    }

    /// What is fixed with it.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The leading system messages.
    #[must_use]
    pub fn head(&self) -> &[(M, Outline)] {
        &self.head
    }

    /// The position of the question that was kept when it left its place.
    #[must_use]
    pub fn kept_question(&self) -> Option<u64> {
        self.question.as_ref().map(|(position, ..)| *position)
    }

    /// The messages behind the head and a question that was kept.
    #[must_use]
    pub fn messages(&self) -> &Deque<M> {
        &self.messages
    }

    /// What the rules know of these.
    #[must_use]
    pub fn outlines(&self) -> &Deque<Outline> {
        &self.outlines
    }

    /// Whether messages have left from between the head and the others.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        self.left_from.is_some()
    }

    /// Whether no message has left for others.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The number of all messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + usize::from(self.question.is_some()) + self.messages.len()
    }

    /// Whether there is no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All messages with what the rules know of each, oldest first.
    pub fn all(&self) -> impl Iterator<Item = (&M, Outline)> {
        let head = self.head.iter().map(|(message, outline)| (message, *outline));
        let question = self.question.iter().map(|(_, message, outline)| (message, *outline));
        head.chain(question).chain(self.messages.iter().zip(self.outlines.iter().copied()))
    }

    /// The messages with these numbers, counted from the oldest.
    pub fn list(&self, range: Range<usize>) -> impl Iterator<Item = &M> {
        let (head, kept) = (self.head.len(), usize::from(self.question.is_some()));
        let messages = range.start.saturating_sub(head + kept)..range.end.saturating_sub(head + kept);
        let in_head = self.head[range.start.min(head)..range.end.min(head)].iter().map(|(message, _)| message);
        let question = self.question.iter().filter(move |_| range.contains(&head)).map(|(_, message, _)| message);
        let from = self.messages.since(self.messages.first() + messages.start as u64);
        in_head.chain(question).chain(from.take(messages.len()))
    }

    /// The messages at the positions of `range` that there are. The head ends where the messages behind it began.
    ///
    /// # Errors
    /// The first position of a message that has left for others.
    pub fn slice(&self, range: Range<u64>) -> Result<Vec<&M>, u64> {
        let mut found = Vec::new();
        let behind = self.left_from.unwrap_or(self.messages.first());
        let head = behind.saturating_sub(self.head.len() as u64);
        let unseen = self.head.len() as u64 - (behind - head); // a head that was made longer than its place
        for position in range.start..range.end.min(self.messages.first()) {
            if (head..behind).contains(&position) {
                found.extend(self.head.get((position - head + unseen) as usize).map(|(message, _)| message));
            } else if let Some(message) = self.at(position) {
                found.push(message);
            } else if position >= behind || !(self.is_whole || self.bounds.keep_head) {
                return Err(position);
            }
        }
        let messages = range.start.max(self.messages.first())..range.end.min(self.messages.end());
        found.extend(self.messages.since(messages.start).take(messages.end.saturating_sub(messages.start) as usize));
        Ok(found)
    }

    /// Where message number `index` stands, counted from the newest if negative.
    ///
    /// # Errors
    /// The number of messages, if there is no such one.
    pub fn place(&self, index: isize) -> Result<Place, usize> {
        let length = self.len();
        let index = if index < 0 { length.checked_add_signed(index) } else { Some(index as usize) };
        let index = index.filter(|&index| index < length).ok_or(length)?;
        let kept = usize::from(self.question.is_some());
        Ok(match index.checked_sub(self.head.len()) {
            None => Place::Head(index),
            Some(0) if kept == 1 => Place::Question,
            Some(index) => Place::At(self.messages.first() + (index - kept) as u64),
        })
    }

    /// The message at `place`.
    #[must_use]
    pub fn get(&self, place: Place) -> Option<&M> {
        match place {
            Place::Head(index) => self.head.get(index).map(|(message, _)| message),
            Place::Question => self.question.as_ref().map(|(_, message, _)| message),
            Place::At(position) => self.messages.get(position),
        }
    }

    /// The messages that a query wants to read.
    pub fn wanted(&self, wanted: &Wanted) -> Vec<&M> {
        match wanted {
            Wanted::Head(range) => self.head[range.clone()].iter().map(|(message, _)| message).collect(),
            Wanted::Messages(range) => range.clone().filter_map(|position| self.at(position)).collect(),
        }
    }

    /// The messages of the window `found`, oldest first, up to the one before `end`.
    pub fn window(&self, found: &Found, end: u64) -> impl Iterator<Item = &M> {
        let head = self.head[found.head.clone()].iter().map(|(message, _)| message);
        let question = found.question.and_then(|position| self.at(position));
        let messages = self.messages.since(found.start).take(end.saturating_sub(found.start) as usize);
        head.chain(question).chain(messages)
    }

    /// The message at `position`, one that was kept when it left its place included.
    #[must_use]
    pub fn at(&self, position: u64) -> Option<&M> {
        match &self.question {
            Some((kept, message, _)) if *kept == position => Some(message),
            _ => self.messages.get(position),
        }
    }

    /// The ledgers, the most recently used last.
    #[must_use]
    pub fn ledgers(&self) -> &[(K, Ledger<P>)] {
        &self.ledgers
    }

    /// What tells this history from later ones in which more has changed than messages added at the end.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How a window may begin with the message at `position`. The last message aside, with which one may under
    /// [`StartOn::Any`].
    #[must_use]
    pub fn starting(&self, position: u64) -> Starting {
        let Some(outline) = self.outlines.get(position) else { return Starting::No };
        let Rule { accounting, start_on } = self.bounds.rule;
        // Where tokens add up, the first message begins the window that has everything, whatever its role.
        if start_on == StartOn::Any
            && accounting == Accounting::Joined
            && self.is_whole
            && position == self.messages.first()
        {
            return Starting::Alone;
        }
        let before = || position.checked_sub(1).and_then(|before| self.outlines.get(before)).copied();
        let is_asked = self.first_user.is_some_and(|user| user < position);
        match starting(start_on, *outline, before, is_asked) {
            // Once there is a question, nothing before it begins a window.
            Starting::Alone if self.first_user.is_some_and(|user| position < user) => Starting::No,
            starting => starting,
        }
    }

    /// Whether the message at `position` is a user's.
    #[must_use]
    pub fn is_question(&self, position: u64) -> bool {
        self.outlines.get(position).is_some_and(|outline| outline.kind == Kind::User)
    }

    /// Whether the message at `position` is the result of a call.
    #[must_use]
    pub fn is_result(&self, position: u64) -> bool {
        self.outlines.get(position).is_some_and(|outline| outline.kind == Kind::Tool)
    }

    /// The position of the last user message before `position`.
    #[must_use]
    pub fn question_of(&self, position: u64) -> Option<u64> {
        let mut candidates = (self.messages.first()..position.min(self.messages.end())).rev();
        let found = candidates.find(|&at| self.is_question(at));
        found.or_else(|| self.kept_question().filter(|&kept| kept < position))
    }

    /// The newest start before `position`.
    #[must_use]
    pub fn newest_start_before(&self, position: u64) -> Option<u64> {
        (self.messages.first()..position).rev().find(|&at| self.starting(at) != Starting::No)
    }

    /// Adds messages, and hands back those that leave a bounded history, oldest first.
    pub fn push(&mut self, messages: impl ExactSizeIterator<Item = (M, Outline)>, forgotten: &mut Vec<P>) -> Vec<M> {
        if messages.len() > 1 {
            self.messages.reserve(messages.len());
            self.outlines.reserve(messages.len());
        }
        let mut evicted = Vec::new();
        for (message, outline) in messages {
            if self.belongs_to_head(outline) {
                self.head.push((message, outline));
                let first = self.messages.first() + 1;
                self.messages.take(first);
                self.outlines.take(first);
                self.generation += 1;
            } else {
                if outline.kind == Kind::User && self.first_user.is_none() && self.asks_for_users() {
                    self.first_user = Some(self.messages.end());
                    // What stands before the first question may begin no window any more.
                    let user = self.messages.end();
                    self.ledgers_to_change().for_each(|ledger| ledger.forget_starts_before(user, forgotten));
                }
                self.outlines.push(outline);
                self.messages.push(message);
                if self.messages.len() == 1 {
                    // Results may come after their call has left.
                    match self.gone {
                        Some(gone) if is_left_over(gone, outline) => self.evict_behind(&mut evicted, forgotten),
                        _ => self.gone = None,
                    }
                }
            }
            while self.bounds.max_messages.is_some_and(|most| self.kept() > most.get()) {
                self.evict(&mut evicted, forgotten);
            }
        }
        evicted
    }

    fn asks_for_users(&self) -> bool {
        self.bounds.rule.start_on == StartOn::User
    }

    fn belongs_to_head(&self, outline: Outline) -> bool {
        self.bounds.rule.accounting == Accounting::Additive
            && outline.kind == Kind::System
            && self.messages.is_empty()
            && self.question.is_none()
    }

    /// Moves system messages to the head that have become the first ones.
    fn find_head(&mut self, forgotten: &mut Vec<P>) {
        if self.bounds.rule.accounting == Accounting::Joined || self.question.is_some() {
            return;
        }
        let first = self.messages.first();
        while self.outlines.get(self.outlines.first()).is_some_and(|outline| outline.kind == Kind::System)
            && let Some(leading) = self.messages.pop_front().zip(self.outlines.pop_front())
        {
            self.head.push(leading);
        }
        if self.messages.first() > first {
            let first = self.messages.first();
            self.ledgers_to_change().for_each(|ledger| ledger.forget_before(first, forgotten));
        }
    }

    /// The number of messages that the bound is about.
    fn kept(&self) -> usize {
        self.messages.len() + if self.bounds.keep_head { 0 } else { self.head.len() }
    }

    /// Takes out the oldest message that may leave, and what is nothing without it.
    fn evict(&mut self, evicted: &mut Vec<M>, forgotten: &mut Vec<P>) {
        if !self.bounds.keep_head && !self.head.is_empty() {
            self.is_whole = false;
            evicted.push(self.head.remove(0).0);
            self.ledgers_to_change().for_each(|ledger| ledger.evict_head(forgotten));
            return;
        }
        self.evict_behind(evicted, forgotten);
    }

    /// As [`evict`](Self::evict), of the messages behind the head.
    fn evict_behind(&mut self, evicted: &mut Vec<M>, forgotten: &mut Vec<P>) {
        self.is_whole = false;
        self.left_from.get_or_insert(self.messages.first());
        let question = self.kept_question();
        let mut gone = self.evict_oldest(evicted);
        // Results whose calls have gone, and what else is left of a step, go with it. So does a system message behind
        // others: it is part of their turn, and no window begins with it.
        let takes_system = self.bounds.rule.accounting == Accounting::Additive;
        while let (Some(left), Some(next)) = (gone, self.outlines.get(self.outlines.first()))
            && (is_left_over(left, *next) || (takes_system && next.kind == Kind::System))
        {
            gone = self.evict_oldest(evicted);
        }
        self.gone = gone.filter(|_| self.messages.is_empty());
        let next = self.outlines.iter().find(|outline| matches!(outline.kind, Kind::User | Kind::Assistant));
        if next.is_some_and(|next| next.kind == Kind::User) {
            evicted.extend(self.question.take().map(|(_, message, _)| message));
        }
        let (first, kept) = (self.messages.first(), self.kept_question());
        self.ledgers_to_change().for_each(|ledger| ledger.evict_before(first, question, kept, forgotten));
        if self.first_user.is_some_and(|user| user < first) {
            self.find_first_user(forgotten);
        }
    }

    fn evict_oldest(&mut self, evicted: &mut Vec<M>) -> Option<Outline> {
        let position = self.messages.first();
        let (message, outline) = self.messages.pop_front().zip(self.outlines.pop_front())?;
        if self.asks_for_users() && outline.kind == Kind::User {
            let before = self.question.replace((position, message, outline));
            evicted.extend(before.map(|(_, message, _)| message));
        } else {
            evicted.push(message);
        }
        Some(outline)
    }

    /// Looks for the first user message again. Without any, other messages may begin windows.
    fn find_first_user(&mut self, forgotten: &mut Vec<P>) {
        if !self.asks_for_users() {
            return;
        }
        let found = self.kept_question().or_else(|| self.range().find(|&position| self.is_question(position)));
        let other_starts = found.is_none() != self.first_user.is_none();
        self.first_user = found;
        if other_starts {
            self.forget_all(forgotten);
        }
    }

    /// Takes out the newest message.
    pub fn pop(&mut self, forgotten: &mut Vec<P>) -> Option<M> {
        let Some(message) = self.messages.pop() else {
            let place = self.place(-1).ok()?;
            return self.remove(place, forgotten);
        };
        let outline = self.outlines.pop();
        let end = self.messages.end();
        self.ledgers_to_change().for_each(|ledger| ledger.forget_from(end, forgotten));
        if outline.is_some_and(|outline| outline.kind == Kind::User) {
            self.find_first_user(forgotten);
        }
        Some(message)
    }

    /// Takes out the message at `place`. The messages on the shorter side of a position get other ones.
    pub fn remove(&mut self, place: Place, forgotten: &mut Vec<P>) -> Option<M> {
        let position = match place {
            Place::Head(index) => {
                self.ledgers_to_change().for_each(|ledger| ledger.forget_head(forgotten));
                return (index < self.head.len()).then(|| self.head.remove(index).0);
            }
            Place::Question => {
                let (_, message, _) = self.question.take()?;
                self.forget_all(forgotten);
                self.find_head(forgotten);
                self.find_first_user(forgotten);
                return Some(message);
            }
            Place::At(position) => position,
        };
        let (message, renumbered) = self.messages.remove(position)?;
        let was_question = self.outlines.remove(position).is_some_and(|(outline, _)| outline.kind == Kind::User);
        for ledger in self.ledgers_to_change() {
            match renumbered {
                Renumbered::Older if ledger.end() <= position => ledger.renumber(1),
                // Whether the next message may begin a window depends on this one, and on a question all that follow it.
                Renumbered::Older if was_question => ledger.forget_through_turn(position, forgotten),
                Renumbered::Older => ledger.forget_through(position + 1, forgotten),
                Renumbered::Newer if position < ledger.first() => ledger.forget_all(forgotten),
                Renumbered::Newer => ledger.forget_from(position, forgotten),
            }
            if renumbered == Renumbered::Older {
                ledger.await_question(forgotten); // which may have another position now
            }
        }
        self.find_head(forgotten);
        if let Some(user) = &mut self.first_user {
            match renumbered {
                Renumbered::Older
                    if *user < position && self.question.as_ref().is_none_or(|(kept, ..)| kept != user) =>
                {
                    *user += 1;
                }
                Renumbered::Newer if *user > position => *user -= 1,
                _ => {}
            }
        }
        if was_question {
            self.find_first_user(forgotten);
        }
        Some(message)
    }

    /// Replaces the head, and hands back the one there was.
    pub fn set_head(&mut self, head: Vec<(M, Outline)>, forgotten: &mut Vec<P>) -> Vec<(M, Outline)> {
        self.ledgers_to_change().for_each(|ledger| ledger.forget_head(forgotten));
        std::mem::replace(&mut self.head, head)
    }

    /// Takes out all messages; the next one gets the position `first`. Ledgers stay, but for the head.
    pub fn take_messages(&mut self, first: u64, forgotten: &mut Vec<P>) -> Vec<M> {
        (self.first_user, self.is_whole, self.left_from, self.gone) = (None, true, None, None);
        self.ledgers_to_change().for_each(|ledger| ledger.forget_head(forgotten));
        self.outlines.take(first);
        let head = std::mem::take(&mut self.head).into_iter().map(|(message, _)| message);
        let question = self.question.take().map(|(_, message, _)| message);
        head.chain(question).chain(self.messages.take(first)).collect()
    }

    /// Replaces all messages. The first one behind the head gets the position `first`, unless the head is longer than that.
    /// Ledgers stay: what was counted of other messages must have been forgotten. Sums of cuts that stay begin anew. Hands
    /// back what leaves: the messages that there were, and those that a bounded history has no room for.
    pub fn replace(&mut self, messages: Vec<(M, Outline)>, first: u64, forgotten: &mut Vec<P>) -> (Vec<M>, Vec<M>) {
        let had_users = self.first_user.is_some();
        let head = messages.iter().take_while(|(_, outline)| outline.kind == Kind::System).count() as u64;
        let head = if self.bounds.rule.accounting == Accounting::Joined { 0 } else { head };
        let before = self.take_messages(first.saturating_sub(head), forgotten);
        self.ledgers_to_change().for_each(Ledger::forget_origin);
        if first < head {
            self.forget_all(forgotten);
        }
        if self.asks_for_users() {
            // Known beforehand: starts that are counted behind it stay.
            let user = messages.iter().position(|(_, outline)| outline.kind == Kind::User);
            self.first_user = user.map(|index| self.messages.end() + index as u64);
        }
        let evicted = self.push(messages.into_iter(), forgotten);
        if had_users != self.first_user.is_some() {
            self.forget_all(forgotten);
        } else if let Some(user) = self.first_user {
            // Steps before it may have carried one that is gone.
            self.ledgers_to_change().for_each(|ledger| ledger.forget_starts_before(user, forgotten));
        }
        (before, evicted)
    }

    /// Where the messages stand; with what has left under `policy`.
    #[must_use]
    pub fn standing(&self, policy: &K) -> Standing {
        Standing {
            head: self.head.len(),
            question: self.kept_question(),
            first: self.messages.first(),
            is_whole: self.is_whole,
            left_from: self.left_from,
            gone: self.gone,
            evicted: self.ledger(policy).and_then(Ledger::evicted),
        }
    }

    /// Replaces all messages with those of a history that stood so, and what was counted with what has left there.
    /// Hands back what was there.
    ///
    /// # Errors
    /// The messages, if they cannot have stood so.
    pub fn restore(
        &mut self,
        mut messages: Vec<(M, Outline)>,
        standing: Standing,
        policy: &K,
    ) -> Result<Restored<M, K, P>, Vec<(M, Outline)>>
    where
        K: Clone,
    {
        let Standing { head, question, first, is_whole, left_from, gone, evicted } = standing;
        let kept = usize::from(question.is_some());
        let is_known = |place: Option<u64>| place.is_none_or(|place| place < first);
        let is_sound = messages.len() >= head + kept
            && (self.bounds.rule.accounting == Accounting::Additive || head + kept == 0)
            && first < u64::MAX / 2
            && is_known(question)
            && left_from.is_none_or(|left| left <= first)
            && left_from.is_none_or(|_| !is_whole)
            && messages[..head].iter().all(|(_, outline)| outline.kind == Kind::System)
            && evicted.is_none_or(|evicted| evicted >= 0);
        if !is_sound {
            return Err(messages);
        }
        let mut forgotten = Vec::new();
        let ledgers = self.take_ledgers();
        let before = self.take_messages(first, &mut forgotten);
        let others = messages.split_off(head + kept);
        if let Some(position) = question {
            self.question = messages.pop().map(|(message, outline)| (position, message, outline));
        }
        self.head = messages;
        for (message, outline) in others {
            self.outlines.push(outline);
            self.messages.push(message);
        }
        (self.is_whole, self.left_from, self.gone) = (is_whole, left_from, gone);
        self.find_first_user(&mut forgotten);
        if let Some(evicted) = evicted {
            let mut ledger = Ledger::default();
            ledger.set_origin(evicted);
            self.ledgers.push((policy.clone(), ledger));
        }
        Ok((before, ledgers))
    }

    /// Takes out all ledgers.
    pub fn take_ledgers(&mut self) -> Vec<(K, Ledger<P>)> {
        self.generation += 1;
        std::mem::take(&mut self.ledgers)
    }

    /// The ledgers, to forget what a change of messages makes void.
    pub fn ledgers_to_change(&mut self) -> impl Iterator<Item = &mut Ledger<P>> {
        self.generation += 1;
        self.ledgers.iter_mut().map(|(_, ledger)| ledger)
    }

    /// Forgets every count, but not what has left.
    pub fn forget_counts(&mut self) -> Vec<P> {
        let mut forgotten = Vec::new();
        self.ledgers_to_change().for_each(|ledger| ledger.forget_head(&mut forgotten));
        self.forget_all(&mut forgotten);
        forgotten
    }

    fn forget_all(&mut self, forgotten: &mut Vec<P>) {
        self.ledgers_to_change().for_each(|ledger| ledger.forget_all(forgotten));
    }

    /// Notes what the rules know of each message now, of which there are as many as messages, oldest first. Hands back what
    /// leaves a bounded history for that.
    pub fn set_outlines(&mut self, outlines: Vec<Outline>, forgotten: &mut Vec<P>) -> Vec<M> {
        let first = self.messages.first().saturating_sub((self.len() - self.messages.len()) as u64);
        let left = (self.is_whole, self.left_from, self.gone);
        let messages = self.take_messages(first, forgotten);
        self.forget_all(forgotten);
        (self.is_whole, self.left_from, self.gone) = left;
        let messages: Vec<_> = messages.into_iter().zip(outlines).collect();
        self.push(messages.into_iter(), forgotten)
    }

    /// Forgets what was counted under `policy` of the messages from `first` to `last`, since they have changed, and what
    /// depends on it: the shorter side of the ledger.
    pub fn forget_changed(&mut self, policy: &K, first: u64, last: u64, forgotten: &mut Vec<P>) {
        if let Some(ledger) = self.ledger_to_change(policy) {
            if last.saturating_sub(ledger.first()) < ledger.end().saturating_sub(first) {
                ledger.forget_through_turn(last, forgotten);
            } else {
                ledger.forget_from(first, forgotten);
            }
        }
    }

    /// Forgets what was counted under `policy` of the head.
    pub fn forget_head(&mut self, policy: &K, forgotten: &mut Vec<P>) {
        if let Some(ledger) = self.ledger_to_change(policy) {
            ledger.forget_head(forgotten);
        }
    }

    /// Forgets all that was counted under `policy`.
    pub fn forget_ledger(&mut self, policy: &K, forgotten: &mut Vec<P>) {
        if let Some(ledger) = self.ledger_to_change(policy) {
            ledger.forget_all(forgotten);
        }
    }

    /// The ledger of `policy`, if there is one.
    #[must_use]
    pub fn ledger(&self, policy: &K) -> Option<&Ledger<P>> {
        self.ledgers.iter().rev().find(|(known, _)| known == policy).map(|(_, ledger)| ledger)
    }

    /// The ledger of `policy`, if there is one, to be changed.
    pub fn ledger_to_change(&mut self, policy: &K) -> Option<&mut Ledger<P>> {
        self.generation += 1;
        self.ledgers.iter_mut().rev().find(|(known, _)| known == policy).map(|(_, ledger)| ledger)
    }

    /// Makes the ledger of `policy` the most recently used, and begins it if there is none. One that must make room for it
    /// is `retired`.
    pub fn use_ledger(&mut self, policy: &K, retired: &mut Vec<(K, Ledger<P>)>) -> &Ledger<P>
    where
        K: Clone,
    {
        if let Some(index) = self.ledgers.iter().position(|(known, _)| known == policy) {
            self.ledgers[index..].rotate_left(1);
        } else {
            if self.ledgers.len() == LEDGERS {
                self.generation += 1;
                retired.push(self.ledgers.remove(0));
            }
            self.ledgers.push((policy.clone(), Ledger::default()));
        }
        let last = self.ledgers.len() - 1;
        &self.ledgers[last].1
    }

    /// The same messages and counts, and nothing shared.
    #[must_use]
    pub fn copied(
        &self,
        mut message: impl FnMut(&M) -> M,
        mut policy: impl FnMut(&K) -> K,
        mut pin: impl FnMut(&P) -> P,
    ) -> Self {
        let mut messages = self.messages.empty_like();
        self.messages.iter().for_each(|each| messages.push(message(each)));
        let ledgers = self.ledgers.iter().map(|(known, ledger)| (policy(known), ledger.map_pins(&mut pin)));
        Self {
            bounds: self.bounds,
            head: self.head.iter().map(|(each, outline)| (message(each), *outline)).collect(),
            question: self.question.as_ref().map(|(position, each, outline)| (*position, message(each), *outline)),
            messages,
            outlines: self.outlines.clone(),
            first_user: self.first_user,
            is_whole: self.is_whole,
            left_from: self.left_from,
            gone: self.gone,
            ledgers: ledgers.collect(),
            generation: self.generation,
        }
    }

    /// The positions of all messages behind the head and a question that was kept.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.messages.first()..self.messages.end()
    }
}

/// Whether the message behind one that has `left` is nothing without it.
fn is_left_over(left: Outline, next: Outline) -> bool {
    next.kind == Kind::Tool || (next.kind == Kind::Assistant && left.kind == Kind::Assistant && left.continues)
}
