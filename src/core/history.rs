//! The messages of one history, and their ledgers.
//!
//! Nothing here drops a message, a ledger or what was kept beside a count, since that may run foreign code while a lock is
//! held: what leaves is handed back.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;

use super::deque::{Deque, Renumbered};
use super::item::Outline;
use super::ledger::Ledger;

/// Ledgers kept with a history, least recently used out: a fresh callable for every request must not leak.
const LEDGERS: usize = 4;

/// Messages `M` with what the rules know of them, and a ledger for each of the policies `K` that were used last. `P` is
/// what is kept beside each counted message.
#[derive(Debug)]
pub struct History<M, K, P> {
    messages: Deque<M>,
    outlines: Deque<Outline>,
    /// The most recently used last.
    ledgers: Vec<(K, Ledger<P>)>,
    /// Grows with every change of messages, outlines and ledgers but one: adding messages when none leaves. So whoever
    /// works without the lock knows afterwards whether the result is still one of this history.
    generation: u64,
}

impl<M, K: PartialEq, P> History<M, K, P> {
    /// No messages, and room for at most `bound` of them, or any number.
    #[must_use]
    pub fn new(bound: Option<NonZeroUsize>) -> Self {
        Self { messages: Deque::new(bound), outlines: Deque::new(bound), ledgers: Vec::new(), generation: 1 }
    }

    /// The messages.
    #[must_use]
    pub fn messages(&self) -> &Deque<M> {
        &self.messages
    }

    /// What the rules know of the messages.
    #[must_use]
    pub fn outlines(&self) -> &Deque<Outline> {
        &self.outlines
    }

    /// The positions of all messages.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.messages.first()..self.messages.end()
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

    /// Whether a window may begin with the message at `position` by LlamaIndex's rule, the last message aside.
    #[must_use]
    pub fn may_start(&self, position: u64) -> bool {
        position == self.messages.first() || self.outlines.get(position).is_some_and(|outline| outline.may_start)
    }

    /// The position of `index`, counted from the newest if negative; `Err` has the number of messages.
    ///
    /// # Errors
    /// If there is no such message.
    pub fn position(&self, index: isize) -> Result<u64, usize> {
        let length = self.messages.len();
        let index = if index < 0 { length.checked_add_signed(index) } else { Some(index as usize) };
        index.filter(|&index| index < length).map(|index| self.messages.first() + index as u64).ok_or(length)
    }

    /// Adds messages, and hands back those that leave a bounded history, oldest first.
    pub fn push(
        &mut self,
        messages: impl ExactSizeIterator<Item = (M, Outline)>,
        forgotten: &mut Vec<P>,
    ) -> Vec<M> {
        if messages.len() > 1 {
            self.messages.reserve(messages.len());
            self.outlines.reserve(messages.len());
        }
        let mut evicted = Vec::new();
        for (message, outline) in messages {
            self.outlines.push(outline);
            evicted.extend(self.messages.push(message));
        }
        if !evicted.is_empty() {
            self.generation += 1;
            let first = self.messages.first();
            self.ledgers.iter_mut().for_each(|(_, ledger)| ledger.forget_before(first, forgotten));
        }
        evicted
    }

    /// Takes out the newest message.
    pub fn pop(&mut self, forgotten: &mut Vec<P>) -> Option<M> {
        let message = self.messages.pop()?;
        self.outlines.pop();
        self.generation += 1;
        let end = self.messages.end();
        self.ledgers.iter_mut().for_each(|(_, ledger)| ledger.forget_from(end, forgotten));
        Some(message)
    }

    /// Takes out the message at `position`. The messages on the shorter side of it get other positions.
    pub fn remove(&mut self, position: u64, forgotten: &mut Vec<P>) -> Option<M> {
        let (message, renumbered) = self.messages.remove(position)?;
        self.outlines.remove(position);
        self.generation += 1;
        for (_, ledger) in &mut self.ledgers {
            match renumbered {
                Renumbered::Older if ledger.end() <= position => ledger.renumber(1),
                Renumbered::Older => ledger.forget_through(position, forgotten),
                Renumbered::Newer if position < ledger.first() => ledger.renumber(-1),
                Renumbered::Newer => ledger.forget_from(position, forgotten),
            }
        }
        Some(message)
    }

    /// Takes out all messages; the next one gets the position `first`. Ledgers stay.
    pub fn take_messages(&mut self, first: u64) -> VecDeque<M> {
        self.generation += 1;
        self.outlines.take(first);
        self.messages.take(first)
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

    /// Notes what the rules know of the message at `position` now.
    pub fn set_outline(&mut self, position: u64, outline: Outline) {
        self.generation += 1;
        if let Some(known) = self.outlines.get_mut(position) {
            *known = outline;
        }
    }

    /// Forgets what was counted of the messages from `first` to `last`, since they have changed: the shorter side of the
    /// ledger.
    pub fn forget_changed(&mut self, policy: &K, first: u64, last: u64, forgotten: &mut Vec<P>) {
        if let Some(ledger) = self.ledger_to_change(policy) {
            if last.saturating_sub(ledger.first()) < ledger.end().saturating_sub(first) {
                ledger.forget_through(last, forgotten);
            } else {
                ledger.forget_from(first, forgotten);
            }
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
    pub fn use_ledger(&mut self, policy: &K, retired: &mut Vec<(K, Ledger<P>)>) -> &mut Ledger<P>
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
        &mut self.ledgers[last].1
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
        self.messages.iter().for_each(|each| drop(messages.push(message(each))));
        let ledgers = self.ledgers.iter().map(|(known, ledger)| (policy(known), ledger.map_pins(&mut pin)));
        Self {
            messages,
            outlines: self.outlines.clone(),
            ledgers: ledgers.collect(),
            generation: self.generation,
        }
    }
}
