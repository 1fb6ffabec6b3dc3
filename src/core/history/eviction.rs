//! What leaves a bounded history: the oldest message, and what cannot be without it.

use super::History;
use crate::core::item::{Kind, Outline};
use crate::core::policy::Accounting;

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

impl<M, K: PartialEq, P> History<M, K, P> {
    /// Removes the oldest messages until no more are left than the bound allows.
    pub(super) fn make_room(&mut self, evicted: &mut Vec<M>, forgotten: &mut Vec<P>) {
        while self.bounds.max_messages.is_some_and(|most| self.bounded_len() > most.get()) {
            self.evict(evicted, forgotten);
        }
    }

    /// The number of messages that the bound counts.
    fn bounded_len(&self) -> usize {
        self.messages.len() + if self.bounds.keep_head { 0 } else { self.head.len() }
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
    pub(super) fn evict_behind(&mut self, evicted: &mut Vec<M>, forgotten: &mut Vec<P>) {
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
}

/// Whether the `next` message cannot be without the one before it, which has `left`.
pub(super) fn is_left_over(left: Outline, next: Outline) -> bool {
    next.kind == Kind::Tool || (next.kind == Kind::Assistant && left.kind == Kind::Assistant && left.continues)
}
