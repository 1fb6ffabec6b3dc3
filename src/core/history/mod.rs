//! The messages of one history, and their ledgers.
//!
//! Nothing here drops a message, a ledger or a pin, because that may run foreign code while a lock is held. What leaves
//! is handed back instead.

mod changes;
mod eviction;
mod ledgers;
mod standing;

use std::num::NonZeroUsize;
use std::ops::Range;

use super::deque::Deque;
use super::item::{Kind, Outline};
use super::ledger::Ledger;
use super::policy::{Accounting, Rule, StartOn, Starting, starting};
use super::query::{Found, Wanted};

pub use self::eviction::Left;
pub use self::standing::{Restored, Standing};

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
