//! The ledgers of a history, one for each of the policies that were used last.

use super::History;
use crate::core::ledger::Ledger;

/// leak.
const LEDGERS: usize = 4;

impl<M, K: PartialEq, P> History<M, K, P> {
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

    /// The ledgers, to forget what a change of messages makes invalid.
    pub fn ledgers_to_change(&mut self) -> impl Iterator<Item = &mut Ledger<P>> {
        self.generation += 1;
        self.ledgers.iter_mut().map(|(_, ledger)| ledger)
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

    /// Removes all ledgers.
    pub fn take_ledgers(&mut self) -> Vec<(K, Ledger<P>)> {
        self.generation += 1;
        std::mem::take(&mut self.ledgers)
    }

    /// Forgets every count, but not what has left.
    pub fn forget_counts(&mut self) -> Vec<P> {
        let mut forgotten = Vec::new();
        self.ledgers_to_change().for_each(|ledger| ledger.forget_head(&mut forgotten));
        self.forget_all(&mut forgotten);
        forgotten
    }

    pub(super) fn forget_all(&mut self, forgotten: &mut Vec<P>) {
        self.ledgers_to_change().for_each(|ledger| ledger.forget_all(forgotten));
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
}
