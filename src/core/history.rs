//! The messages of one history, and their ledgers.
//!
//! Nothing here drops a message, a ledger or a pin, because that may run foreign code while a lock is held. What leaves
//! is handed back instead.

use std::num::NonZeroUsize;
use std::ops::Range;

use super::deque::{Deque, Renumbered};
use super::item::{Kind, Outline};
use super::ledger::Ledger;
use super::policy::{Accounting, Rule, StartOn, Starting, starting};
use super::query::{Found, Wanted};

/// Ledgers kept with a history. The least recently used leaves, so that a fresh callable for every request does not
/// leak.
const LEDGERS: usize = 4;

/// What is fixed with a history, apart from its policies.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The rule of its windows.
    pub rule: Rule,
    /// The most messages that are kept, apart from the head and a question; `None` for no bound.
    pub max_messages: Option<NonZeroUsize>,
    /// Whether the head never leaves to make room for other messages.
    pub keep_head: bool,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the head, at this index.
    Head(usize),
    /// It is the question of the oldest step, and the messages between them have left.
    Question,
    /// At this position.
    At(u64),
}

/// Where the messages of a history are, to be stored beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many of them are in the head.
    pub head: usize,
    /// The position of the first message behind the head and a kept question.
    pub first: u64,
    /// What has left, and the position of a kept question.
    pub left: Left<u64>,
    /// Tokens of what has left; see [`Ledger::evicted`].
    pub evicted: Option<i64>,
}

/// What has left a history to make room, as far as other messages depend on it, and the question `Q` that was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left<Q> {
    /// The question of the oldest step, if its neighbours have left.
    pub question: Option<Q>,
    /// Whether any message has left. If not, the first message is the history's first.
    pub any: bool,
    /// The position of the first message behind the head that has left.
    pub from: Option<u64>,
    /// The last message that has left, if only what belongs to its step has come since.
    pub gone: Option<Outline>,
}

impl<Q> Default for Left<Q> {
    fn default() -> Self {
        Self { question: None, any: false, from: None, gone: None }
    }
}

impl<Q> Left<Q> {
    /// The same with another form of the question.
    #[must_use]
    pub fn with<R>(&self, question: Option<R>) -> Left<R> {
        Left { question, any: self.any, from: self.from, gone: self.gone }
    }
}

/// What a restored history contained before.
pub type Restored<M, K, P> = (Vec<M>, Vec<(K, Ledger<P>)>);

/// Messages `M` with their outlines, and a ledger for each of the policies `K` that were used last. `P` is the pin:
/// what is kept beside each counted message.
///
/// Unless texts are joined, the leading system messages are the *head*, kept apart from the others.
#[derive(Debug)]
pub struct History<M, K, P> {
    bounds: Bounds,
    head: Vec<(M, Outline)>,
    /// A kept question is out of sequence, and has the position that it had.
    left: Left<(u64, M, Outline)>,
    messages: Deque<M>,
    outlines: Deque<Outline>,
    /// The position of the oldest user message there is, a kept question included.
    first_user: Option<u64>,
    /// The most recently used is last.
    ledgers: Vec<(K, Ledger<P>)>,
    /// Grows with every change of messages, outlines and ledgers, except when messages are added and none leaves. Code
    /// that works without the lock can tell afterwards whether its result is still about this history.
    generation: u64,
}

impl<M, K: PartialEq, P> History<M, K, P> {
    /// No messages.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            head: Vec::new(),
            left: Left::default(),
            messages: Deque::default(),
            outlines: Deque::default(),
            first_user: None,
            ledgers: Vec::new(),
            generation: 1,
        }
    }

    /// What is fixed with this history.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The leading system messages.
    #[must_use]
    pub fn head(&self) -> &[(M, Outline)] {
        &self.head
    }

    /// The position of a question that was kept when its neighbours left.
    #[must_use]
    pub fn kept_question(&self) -> Option<u64> {
        self.left.question.as_ref().map(|(position, ..)| *position)
    }

    /// The messages behind the head and a kept question.
    #[must_use]
    pub fn messages(&self) -> &Deque<M> {
        &self.messages
    }

    /// The outlines of these messages.
    #[must_use]
    pub fn outlines(&self) -> &Deque<Outline> {
        &self.outlines
    }

    /// Whether messages between the head and the others have left.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        self.left.from.is_some()
    }

    /// Whether no message has left to make room.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.left.any
    }

    /// The number of all messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + usize::from(self.left.question.is_some()) + self.messages.len()
    }

    /// Whether there is no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All messages with their outlines, oldest first.
    pub fn all(&self) -> impl Iterator<Item = (&M, Outline)> {
        let head = self.head.iter().map(|(message, outline)| (message, *outline));
        let question = self.left.question.iter().map(|(_, message, outline)| (message, *outline));
        head.chain(question).chain(self.messages.iter().zip(self.outlines.iter().copied()))
    }

    /// The messages with these numbers, counted from the oldest.
    pub fn list(&self, range: Range<usize>) -> impl Iterator<Item = &M> {
        let (head, kept) = (self.head.len(), usize::from(self.left.question.is_some()));
        let messages = range.start.saturating_sub(head + kept)..range.end.saturating_sub(head + kept);
        let in_head = self.head[range.start.min(head)..range.end.min(head)].iter().map(|(message, _)| message);
        let question = self.left.question.iter().filter(move |_| range.contains(&head)).map(|(_, message, _)| message);
        let from = self.messages.since(self.messages.first() + messages.start as u64);
        in_head.chain(question).chain(from.take(messages.len()))
    }

    /// The messages at the positions of `range`, as far as they exist. The head's positions end where the messages
    /// behind it began.
    ///
    /// # Errors
    /// The first position whose message has left to make room.
    pub fn slice(&self, range: Range<u64>) -> Result<Vec<&M>, u64> {
        let mut found = Vec::new();
        let behind = self.left.from.unwrap_or(self.messages.first());
        let head = behind.saturating_sub(self.head.len() as u64);
        let unseen = self.head.len() as u64 - (behind - head); // of a head that was made longer than its positions
        for position in range.start..range.end.min(self.messages.first()) {
            if (head..behind).contains(&position) {
                found.extend(self.head.get((position - head + unseen) as usize).map(|(message, _)| message));
            } else if let Some(message) = self.at(position) {
                found.push(message);
            } else if position >= behind || !(self.is_whole() || self.bounds.keep_head) {
                return Err(position);
            }
        }
        let messages = range.start.max(self.messages.first())..range.end.min(self.messages.end());
        found.extend(self.messages.since(messages.start).take(messages.end.saturating_sub(messages.start) as usize));
        Ok(found)
    }

    /// Where message number `index` is, counted from the newest if negative.
    ///
    /// # Errors
    /// The number of messages, if there is no such message.
    pub fn place(&self, index: isize) -> Result<Place, usize> {
        let length = self.len();
        let index = if index < 0 { length.checked_add_signed(index) } else { Some(index as usize) };
        let index = index.filter(|&index| index < length).ok_or(length)?;
        let kept = usize::from(self.left.question.is_some());
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
            Place::Question => self.left.question.as_ref().map(|(_, message, _)| message),
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

    /// The message at `position`. It may be a kept question.
    #[must_use]
    pub fn at(&self, position: u64) -> Option<&M> {
        match &self.left.question {
            Some((kept, message, _)) if *kept == position => Some(message),
            _ => self.messages.get(position),
        }
    }

    /// The ledgers; the most recently used is last.
    #[must_use]
    pub fn ledgers(&self) -> &[(K, Ledger<P>)] {
        &self.ledgers
    }

    /// Identifies this history and later ones in which only messages were added at the end.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How a window may begin with the message at `position`. Not for the last message: under [`StartOn::Any`] a window
    /// may always begin with it.
    #[must_use]
    pub fn starting(&self, position: u64) -> Starting {
        let Some(outline) = self.outlines.get(position) else { return Starting::No };
        let Rule { accounting, start_on } = self.bounds.rule;
        // Where tokens add up, the first message begins the window that has everything, whatever its role.
        if start_on == StartOn::Any
            && accounting == Accounting::Joined
            && self.is_whole()
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

    /// The position of the newest user message before `position`.
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

    /// Adds messages. Hands back those that leave a bounded history, oldest first.
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
                    // Messages before the first question can no longer begin a window.
                    let user = self.messages.end();
                    self.ledgers_to_change().for_each(|ledger| ledger.forget_starts_before(user, forgotten));
                }
                self.outlines.push(outline);
                self.messages.push(message);
                if self.messages.len() == 1 {
                    // Results may come after their call has left.
                    match self.left.gone {
                        Some(gone) if is_left_over(gone, outline) => self.evict_behind(&mut evicted, forgotten),
                        _ => self.left.gone = None,
                    }
                }
            }
            self.make_room(&mut evicted, forgotten);
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
            && self.left.question.is_none()
    }

    /// Moves system messages to the head if they are now the first messages.
    fn find_head(&mut self, forgotten: &mut Vec<P>) {
        if self.bounds.rule.accounting == Accounting::Joined || self.left.question.is_some() {
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

    /// The number of messages that the bound counts.
    fn kept(&self) -> usize {
        self.messages.len() + if self.bounds.keep_head { 0 } else { self.head.len() }
    }

    /// Removes the oldest messages until no more are left than the bound allows.
    fn make_room(&mut self, evicted: &mut Vec<M>, forgotten: &mut Vec<P>) {
        while self.bounds.max_messages.is_some_and(|most| self.kept() > most.get()) {
            self.evict(evicted, forgotten);
        }
    }

    /// Removes the oldest message that may leave, and what cannot be without it.
    fn evict(&mut self, evicted: &mut Vec<M>, forgotten: &mut Vec<P>) {
        if !self.bounds.keep_head && !self.head.is_empty() {
            self.left.any = true;
            evicted.push(self.head.remove(0).0);
            self.ledgers_to_change().for_each(|ledger| ledger.evict_head(forgotten));
            return;
        }
        self.evict_behind(evicted, forgotten);
    }

    /// Like [`evict`](Self::evict), for the messages behind the head.
    fn evict_behind(&mut self, evicted: &mut Vec<M>, forgotten: &mut Vec<P>) {
        self.left.any = true;
        self.left.from.get_or_insert(self.messages.first());
        let question = self.kept_question();
        let mut gone = self.evict_oldest(evicted);
        // The rest of a step goes with its call: its results, and whatever else is left. So does a system message
        // behind others: it is part of their turn, and no window begins with it.
        let takes_system = self.bounds.rule.accounting == Accounting::Additive;
        while let (Some(left), Some(next)) = (gone, self.outlines.get(self.outlines.first()))
            && (is_left_over(left, *next) || (takes_system && next.kind == Kind::System))
        {
            gone = self.evict_oldest(evicted);
        }
        self.left.gone = gone.filter(|_| self.messages.is_empty());
        let next = self.outlines.iter().find(|outline| matches!(outline.kind, Kind::User | Kind::Assistant));
        if next.is_some_and(|next| next.kind == Kind::User) {
            evicted.extend(self.left.question.take().map(|(_, message, _)| message));
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
            let before = self.left.question.replace((position, message, outline));
            evicted.extend(before.map(|(_, message, _)| message));
        } else {
            evicted.push(message);
        }
        Some(outline)
    }

    /// Looks for the first user message again. If there is none, other messages may begin windows.
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

    /// Removes the newest message.
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

    /// Removes the message at `place`. The messages on its shorter side get other positions.
    pub fn remove(&mut self, place: Place, forgotten: &mut Vec<P>) -> Option<M> {
        let position = match place {
            Place::Head(index) => {
                self.ledgers_to_change().for_each(|ledger| ledger.forget_head(forgotten));
                return (index < self.head.len()).then(|| self.head.remove(index).0);
            }
            Place::Question => {
                let (_, message, _) = self.left.question.take()?;
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
                // Whether the next message may begin a window depends on this one. If this is a question, so do all
                // that follow it.
                Renumbered::Older if was_question => ledger.forget_through_turn(position, forgotten),
                Renumbered::Older => ledger.forget_through(position + 1, forgotten),
                Renumbered::Newer if position < ledger.first() => ledger.forget_all(forgotten),
                Renumbered::Newer => ledger.forget_from(position, forgotten),
            }
            if renumbered == Renumbered::Older {
                ledger.await_question(forgotten); // it may have another position now
            }
        }
        self.find_head(forgotten);
        if let Some(user) = &mut self.first_user {
            match renumbered {
                Renumbered::Older
                    if *user < position && self.left.question.as_ref().is_none_or(|(kept, ..)| kept != user) =>
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

    /// Replaces the head. Hands back what leaves: the old one, and messages that a bounded history has no room for.
    pub fn set_head(&mut self, head: Vec<(M, Outline)>, forgotten: &mut Vec<P>) -> Vec<M> {
        self.ledgers_to_change().for_each(|ledger| ledger.forget_head(forgotten));
        let before = std::mem::replace(&mut self.head, head);
        let mut left = before.into_iter().map(|(message, _)| message).collect();
        self.make_room(&mut left, forgotten);
        left
    }

    /// Removes all messages; the next one gets the position `first`. Ledgers stay, without their heads.
    pub fn take_messages(&mut self, first: u64, forgotten: &mut Vec<P>) -> Vec<M> {
        self.first_user = None;
        let left = std::mem::take(&mut self.left);
        self.ledgers_to_change().for_each(|ledger| ledger.forget_head(forgotten));
        self.outlines.take(first);
        let head = std::mem::take(&mut self.head).into_iter().map(|(message, _)| message);
        let question = left.question.map(|(_, message, _)| message);
        head.chain(question).chain(self.messages.take(first)).collect()
    }

    /// Replaces all messages. The first one behind the head gets the position `first`, unless the head is longer than
    /// that. Ledgers stay, so counts of other messages must have been forgotten before. The sums of cuts that stay
    /// begin anew. Hands back what leaves: the old messages, and those that a bounded history has no room for.
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
            // Known beforehand, so that starts counted behind it stay.
            let user = messages.iter().position(|(_, outline)| outline.kind == Kind::User);
            self.first_user = user.map(|index| self.messages.end() + index as u64);
        }
        let evicted = self.push(messages.into_iter(), forgotten);
        if had_users != self.first_user.is_some() {
            self.forget_all(forgotten);
        } else if let Some(user) = self.first_user {
            // Steps before it may have carried a question that is gone.
            self.ledgers_to_change().for_each(|ledger| ledger.forget_starts_before(user, forgotten));
        }
        (before, evicted)
    }

    /// Where the messages are, and what has left under `policy`.
    #[must_use]
    pub fn standing(&self, policy: &K) -> Standing {
        Standing {
            head: self.head.len(),
            first: self.messages.first(),
            left: self.left.with(self.kept_question()),
            evicted: self.ledger(policy).and_then(Ledger::evicted),
        }
    }

    /// Replaces all messages with those of a history in that state, and sets the tokens of what has left there. Hands
    /// back the old messages and ledgers.
    ///
    /// # Errors
    /// The messages, if that state is not possible for them.
    pub fn restore(
        &mut self,
        mut messages: Vec<(M, Outline)>,
        standing: Standing,
        policy: &K,
    ) -> Result<Restored<M, K, P>, Vec<(M, Outline)>>
    where
        K: Clone,
    {
        let Standing { head, first, left, evicted } = standing;
        let kept = usize::from(left.question.is_some());
        let is_known = |place: Option<u64>| place.is_none_or(|place| place < first);
        let is_sound = head.checked_add(kept).is_some_and(|front| front <= messages.len())
            && (self.bounds.rule.accounting == Accounting::Additive || head + kept == 0)
            && first < u64::MAX / 2
            && is_known(left.question)
            && left.from.is_none_or(|from| left.any && from <= first)
            && messages[..head].iter().all(|(_, outline)| outline.kind == Kind::System)
            && evicted.is_none_or(|evicted| evicted >= 0);
        if !is_sound {
            return Err(messages);
        }
        let mut forgotten = Vec::new();
        let ledgers = self.take_ledgers();
        let before = self.take_messages(first, &mut forgotten);
        let others = messages.split_off(head + kept);
        let question = left.question.zip(if kept == 1 { messages.pop() } else { None });
        self.left = left.with(question.map(|(position, (message, outline))| (position, message, outline)));
        self.head = messages;
        for (message, outline) in others {
            self.outlines.push(outline);
            self.messages.push(message);
        }
        self.find_first_user(&mut forgotten);
        if let Some(evicted) = evicted {
            let mut ledger = Ledger::default();
            ledger.set_origin(evicted);
            self.ledgers.push((policy.clone(), ledger));
        }
        Ok((before, ledgers))
    }

    /// Removes all ledgers.
    pub fn take_ledgers(&mut self) -> Vec<(K, Ledger<P>)> {
        self.generation += 1;
        std::mem::take(&mut self.ledgers)
    }

    /// The ledgers, to forget what a change of messages makes invalid.
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

    /// Sets the outline of each message, oldest first; there are as many outlines as messages. Messages whose place was
    /// for another kind of message get another one. Hands back those that a bounded history then has no room for.
    pub fn set_outlines(&mut self, outlines: Vec<Outline>, forgotten: &mut Vec<P>) -> Vec<M> {
        let head = self.head.iter_mut().map(|(_, known)| known);
        let question = self.left.question.iter_mut().map(|(.., known)| known);
        for (known, outline) in head.chain(question).chain(self.outlines.iter_mut()).zip(outlines) {
            *known = outline;
        }
        self.forget_all(forgotten);
        let leading = self.head.iter().take_while(|(_, outline)| outline.kind == Kind::System).count();
        let is_out_of_place =
            |(.., outline): &mut (u64, M, Outline)| outline.kind != Kind::User || leading < self.head.len();
        if let Some((_, message, outline)) = self.left.question.take_if(is_out_of_place) {
            self.messages.push_front(message);
            self.outlines.push_front(outline);
            self.left.gone = None;
        }
        let others = self.head.split_off(leading);
        self.left.from = self.left.from.map(|from| from.saturating_sub(others.len() as u64));
        for (message, outline) in others.into_iter().rev() {
            self.messages.push_front(message);
            self.outlines.push_front(outline);
        }
        self.find_head(forgotten);
        self.find_first_user(forgotten);
        let mut evicted = Vec::new();
        self.make_room(&mut evicted, forgotten);
        evicted
    }

    /// Forgets what was counted under `policy` of the messages from `first` to `last`, since they have changed, and
    /// what depends on it. The shorter side of the ledger goes.
    pub fn forget_changed(&mut self, policy: &K, first: u64, last: u64, forgotten: &mut Vec<P>) {
        if let Some(ledger) = self.ledger_to_change(policy) {
            if last.saturating_sub(ledger.first()) < ledger.end().saturating_sub(first) {
                ledger.forget_through_turn(last, forgotten);
            } else {
                ledger.forget_from(first, forgotten);
            }
        }
    }

    /// Forgets what was counted of the head under `policy`.
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

    /// Makes the ledger of `policy` the most recently used one, and creates it if there is none. A ledger that must
    /// make room for it is `retired`.
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

    /// A copy of the messages and counts that shares nothing.
    #[must_use]
    pub fn copied(
        &self,
        mut message: impl FnMut(&M) -> M,
        mut policy: impl FnMut(&K) -> K,
        mut pin: impl FnMut(&P) -> P,
    ) -> Self {
        let mut messages = self.messages.empty_like();
        self.messages.iter().for_each(|each| messages.push(message(each)));
        let question = self.left.question.as_ref();
        let question = question.map(|(position, each, outline)| (*position, message(each), *outline));
        let ledgers = self.ledgers.iter().map(|(known, ledger)| (policy(known), ledger.map_pins(&mut pin)));
        Self {
            bounds: self.bounds,
            head: self.head.iter().map(|(each, outline)| (message(each), *outline)).collect(),
            left: self.left.with(question),
            messages,
            outlines: self.outlines.clone(),
            first_user: self.first_user,
            ledgers: ledgers.collect(),
            generation: self.generation,
        }
    }

    /// The positions of all messages behind the head and a kept question.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.messages.first()..self.messages.end()
    }
}

/// Whether the `next` message cannot be without the one before it, which has `left`.
fn is_left_over(left: Outline, next: Outline) -> bool {
    next.kind == Kind::Tool || (next.kind == Kind::Assistant && left.kind == Kind::Assistant && left.continues)
}

#[cfg(test)]
mod tests {
    use super::{Bounds, History};
    use crate::core::item::{Kind, Outline};
    use crate::core::policy::{Accounting, Rule, StartOn};
    use std::num::NonZeroUsize;

    const SYSTEM: Outline = Outline { kind: Kind::System, continues: false, may_start: true };
    const USER: Outline = Outline { kind: Kind::User, ..SYSTEM };
    const CALL: Outline = Outline { kind: Kind::Assistant, continues: true, may_start: false };
    const RESULT: Outline = Outline { kind: Kind::Tool, continues: false, may_start: false };

    type Names = History<char, (), ()>;

    fn bounded(most: usize, keep_head: bool, messages: &[(char, Outline)]) -> Names {
        let rule = Rule { accounting: Accounting::Additive, start_on: StartOn::User };
        let mut history = Names::new(Bounds { rule, max_messages: NonZeroUsize::new(most), keep_head });
        history.push(messages.iter().copied(), &mut Vec::new());
        history
    }

    fn names(history: &Names) -> String {
        history.all().map(|(name, _)| *name).collect()
    }

    fn set_again(history: &mut Names, change: impl Fn(char, Outline) -> Outline) -> Vec<char> {
        let outlines = history.all().map(|(name, outline)| change(*name, outline)).collect();
        history.set_outlines(outlines, &mut Vec::new())
    }

    #[test]
    fn outlines_that_stay_the_same_change_nothing() {
        let turn = [('u', USER), ('c', CALL), ('1', RESULT), ('2', RESULT)];
        let mut history = bounded(2, true, &[&[('s', SYSTEM)], turn.as_slice()].concat());
        assert_eq!((names(&history).as_str(), history.kept_question()), ("su", Some(1)));
        let before = history.standing(&());
        assert!(set_again(&mut history, |_, outline| outline).is_empty());
        assert_eq!((names(&history).as_str(), history.standing(&())), ("su", before));
        // A result that comes now still belongs to a call that has left.
        history.push([('3', RESULT)].into_iter(), &mut Vec::new());
        assert_eq!(names(&history), "su");
        history.push([('n', SYSTEM), ('4', RESULT)].into_iter(), &mut Vec::new());
        assert!(set_again(&mut history, |_, outline| outline).is_empty());
        assert_eq!((names(&history).as_str(), history.kept_question()), ("sun4", Some(1)));
    }

    #[test]
    fn a_head_that_counts_leaves_room_for_no_more_than_the_bound() {
        let mut history = bounded(3, false, &[('u', USER), ('v', USER)]);
        let head = ['a', 'b', 'c'].map(|name| (name, SYSTEM)).to_vec();
        assert_eq!(history.set_head(head.clone(), &mut Vec::new()), ['a', 'b']);
        assert_eq!(names(&history), "cuv");
        assert_eq!(history.set_head(Vec::new(), &mut Vec::new()), ['c']);
        // One that stays in any case does not count.
        let mut history = bounded(2, true, &[('u', USER), ('v', USER)]);
        assert!(history.set_head(head, &mut Vec::new()).is_empty());
        assert_eq!(names(&history), "abcuv");
    }

    #[test]
    fn another_kind_of_message_gets_another_place() {
        let messages = [('s', SYSTEM), ('t', SYSTEM), ('u', USER), ('c', CALL), ('r', RESULT), ('d', CALL)];
        let mut history = bounded(3, true, &messages);
        assert_eq!((names(&history).as_str(), history.kept_question()), ("stucrd", Some(2)));
        // The question is not one any more, and one message too many.
        let left =
            set_again(&mut bounded(3, true, &messages), |name, outline| if name == 'u' { RESULT } else { outline });
        assert_eq!(left, ['u']);
        let left = set_again(&mut history, |name, outline| if name == 't' { USER } else { outline });
        assert_eq!((left.as_slice(), names(&history).as_str()), (['t'].as_slice(), "sucrd"));
        assert_eq!((history.head().len(), history.kept_question()), (1, Some(2)));
    }
}
