//! A history that is kept elsewhere, such as in a database: what appended messages add to it, and what is left when
//! some go.
//!
//! The keeper stores with each message its tokens, its `before` if a window may begin with it, and the position of the
//! question that such a window carries. With the history it stores an [`Ending`], which is all that it needs to append
//! more.
//!
//! `S(i)` is the sum of the tokens of the messages behind the head, up to the one at position `i`. A window that begins
//! with a start has `S(end) - before` tokens. So the start is the first one whose `before` is large enough: a search in
//! an index. `before` never falls from one start to the next. Where tokens add up, it cannot. Where texts are joined, a
//! start that does not exceed every earlier `before` is left out.

mod appended;

use super::flush::{Cut, Flush, Queued};
use super::item::{Kind, Outline};
use super::policy::{Accounting, Rule, StartOn};

pub use self::appended::{Appended, Row, append, append_joined, append_to_queue, blank_tail, head_starts};

/// The end of a history that is kept elsewhere, and what it begins with. Positions are counted from the first message
/// ever put. Positions behind the head stay the same when another head is set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ending {
    /// The number of leading system messages.
    pub head: i64,
    /// Their tokens, which no other sum includes.
    pub head_tokens: i64,
    /// The position at which the messages behind the head began.
    pub behind: i64,
    /// The position of the first of them that is still there.
    pub first: i64,
    /// `S(first)`.
    pub base: i64,
    /// Where the window that has everything begins: it leaves out leading results whose calls are gone. For a queue,
    /// its cut.
    pub lead: i64,
    /// `S(lead)`.
    pub lead_total: i64,
    /// The position after the last message.
    pub end: i64,
    /// `S(end)`. Where texts are joined, it does not include blank messages at the end yet.
    pub total: i64,
    /// What the last message behind the head is to the rules; `None` if there is none.
    pub last: Option<Outline>,
    /// The position of the last user message, where windows may carry it.
    pub question: Option<i64>,
    /// Its tokens; 0 if there is none.
    pub question_tokens: i64,
    /// Where texts are joined: the largest `before`.
    pub reach: Option<i64>,
    /// Where texts are joined: the position after the last message that is not blank.
    pub word: i64,
    /// Where texts are joined: whether that one ends in a character that is not whitespace.
    pub is_closed: bool,
    /// Where texts are joined: whether windows may begin among many blank messages, whose tokens are not known.
    pub has_runs: bool,
}

/// How many numbers an [`Ending`] is.
pub const NUMBERS: usize = 16;

impl Ending {
    /// As numbers, to be stored; `None` for what is not there.
    #[must_use]
    pub fn numbers(&self) -> [Option<i64>; NUMBERS] {
        [
            Some(self.head),
            Some(self.head_tokens),
            Some(self.behind),
            Some(self.first),
            Some(self.base),
            Some(self.lead),
            Some(self.lead_total),
            Some(self.end),
            Some(self.total),
            self.last.map(|outline| i64::from(outline.to_byte())),
            self.question,
            Some(self.question_tokens),
            self.reach,
            Some(self.word),
            Some(i64::from(self.is_closed)),
            Some(i64::from(self.has_runs)),
        ]
    }

    /// The inverse of [`numbers`](Self::numbers); `None` for numbers that it cannot have made.
    #[must_use]
    pub fn from_numbers(numbers: &[Option<i64>]) -> Option<Self> {
        let &[
            head,
            head_tokens,
            behind,
            first,
            base,
            lead,
            lead_total,
            end,
            total,
            last,
            question,
            tokens,
            reach,
            word,
            closed,
            runs,
        ] = numbers
        else {
            return None;
        };
        let last = match last {
            Some(byte) => Some(Outline::from_byte(u8::try_from(byte).ok()?)?),
            None => None,
        };
        let flag = |number: Option<i64>| number.filter(|number| (0..=1).contains(number)).map(|number| number == 1);
        let ending = Self {
            head: head?,
            head_tokens: head_tokens?,
            behind: behind?,
            first: first?,
            base: base?,
            lead: lead?,
            lead_total: lead_total?,
            end: end?,
            total: total?,
            last,
            question,
            question_tokens: tokens?,
            reach,
            word: word?,
            is_closed: flag(closed)?,
            has_runs: flag(runs)?,
        };
        let is_sound = ending.head >= 0
            && (0..=ending.first).contains(&ending.behind)
            && (ending.first..=ending.end).contains(&ending.lead)
            && (ending.first..=ending.end).contains(&ending.word);
        is_sound.then_some(ending)
    }

    /// The first message at the end whose text must be read before others can be joined to it: the blank ones, and the
    /// word before them if it ends in whitespace. `end` if there are none.
    #[must_use]
    pub fn unread_from(&self, accounting: Accounting) -> i64 {
        match accounting {
            Accounting::Additive => self.end,
            Accounting::Joined if self.is_closed || self.word == self.first => self.word,
            Accounting::Joined => self.word - 1,
        }
    }

    /// This without the messages before `position`. A window may begin there and carries no question; its `before` is
    /// given. Sums go on.
    #[must_use]
    pub fn trimmed(&self, position: i64, before: i64) -> Self {
        Self {
            first: position,
            base: before,
            lead: position,
            lead_total: before,
            word: self.word.max(position),
            ..self.clone()
        }
    }

    /// For a queue: the cut after each round of a flush, the first round first. `users` are the user messages before
    /// `known_to`, from the queue's beginning on, with the tokens before each. `None` if more of them must be known.
    #[must_use]
    pub fn rounds(&self, flush: Flush, users: &[Cut], known_to: i64) -> Option<Vec<Cut>> {
        let queued = Queued {
            start: Cut { position: self.lead, before: self.lead_total },
            end: Cut { position: self.end, before: self.total },
            newest_user: self.question,
        };
        flush.rounds(queued, |from| {
            let first = users.partition_point(|user| user.position < from.position || user.before < from.before);
            let found = users.get(first).copied();
            if found.is_none() && known_to < self.end { None } else { Some(found) }
        })
    }

    /// For a queue: this with another cut. The messages before it are archived.
    #[must_use]
    pub fn with_cut(&self, cut: Cut) -> Self {
        Self { lead: cut.position, lead_total: cut.before, ..self.clone() }
    }

    /// For a queue: this without its messages. Archived messages stay.
    #[must_use]
    pub fn without_queue(&self) -> Self {
        Self {
            end: self.lead,
            total: self.lead_total,
            word: self.lead,
            last: None,
            question: None,
            question_tokens: 0,
            ..self.clone()
        }
    }

    /// This without the messages behind the one that is `kept`, or behind the head if there is none. The one kept must
    /// be one that [`may_be_last`]. `removed` is the sum of the tokens of those that go.
    #[must_use]
    pub fn cut(&self, rule: Rule, kept: Option<Kept>, removed: i64) -> Self {
        let total = self.total - removed;
        match kept {
            None => Self {
                base: total,
                lead: self.first,
                lead_total: total,
                end: self.first,
                total,
                last: None,
                question: None,
                question_tokens: 0,
                reach: None,
                word: self.first,
                is_closed: false,
                ..self.clone()
            },
            Some(Kept { position, outline, tokens, before, is_closed }) => {
                let is_question = rule.start_on == StartOn::User && outline.kind == Kind::User;
                Self {
                    end: position + 1,
                    total,
                    last: Some(outline),
                    question: is_question.then_some(position),
                    question_tokens: if is_question { tokens } else { 0 },
                    reach: before.filter(|_| rule.accounting == Accounting::Joined),
                    word: position + 1,
                    is_closed,
                    // Leading results may have been all there was.
                    lead: self.lead.min(position + 1),
                    ..self.clone()
                }
            }
        }
    }
}

/// The message after which a history is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its position.
    pub position: i64,
    /// What it is to the rules.
    pub outline: Outline,
    /// Its tokens.
    pub tokens: i64,
    /// Its `before`, if a window may begin with it.
    pub before: Option<i64>,
    /// Whether its text ends in a character that is not whitespace.
    pub is_closed: bool,
}

/// Whether a message alone tells enough to append to a history that ends with it.
#[must_use]
pub fn may_be_last(rule: Rule, outline: Outline, is_start: bool, is_blank: bool) -> bool {
    match (rule.accounting, rule.start_on) {
        (Accounting::Joined, _) => is_start && !is_blank,
        (Accounting::Additive, StartOn::Any) => true,
        (Accounting::Additive, StartOn::User) => outline.kind == Kind::User,
    }
}

#[cfg(test)]
mod tests;
