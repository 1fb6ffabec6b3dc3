//! What changes of its messages make of a history and its ledgers.

use super::eviction::is_left_over;
use super::{History, Place};
use crate::core::deque::Renumbered;
use crate::core::item::{Kind, Outline};
use crate::core::ledger::Ledger;
use crate::core::policy::{Accounting, StartOn};

impl<M, K: PartialEq, P> History<M, K, P> {
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

    fn belongs_to_head(&self, outline: Outline) -> bool {
        self.bounds.rule.accounting == Accounting::Additive
            && outline.kind == Kind::System
            && self.messages.is_empty()
            && self.left.question.is_none()
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

    pub(super) fn asks_for_users(&self) -> bool {
        self.bounds.rule.start_on == StartOn::User
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

    /// Looks for the first user message again. If there is none, other messages may begin windows.
    pub(super) fn find_first_user(&mut self, forgotten: &mut Vec<P>) {
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
}

#[cfg(test)]
mod tests {
    use crate::core::history::{Bounds, History};
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
