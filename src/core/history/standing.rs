//! The state of a history, as it is pickled.

use super::{History, Left};
use crate::core::item::{Kind, Outline};
use crate::core::ledger::Ledger;
use crate::core::policy::Accounting;

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

/// What a restored history contained before.
pub type Restored<M, K, P> = (Vec<M>, Vec<(K, Ledger<P>)>);

impl<M, K: PartialEq, P> History<M, K, P> {
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
}
