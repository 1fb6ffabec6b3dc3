//! What is fixed with a history, what a window may begin with, and the limits of one search.

use super::error::Error;
use super::item::{Kind, Outline};

/// How the tokens of messages add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accounting {
    /// A message counts by its text, joined to the others by one space: `measure="text"`.
    Joined,
    /// A message counts the same in every place, and never less than 0.
    Additive,
}

/// What a window may begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartOn {
    /// LlamaIndex's rule: the first message, the last, and every message whose role is not assistant or tool.
    Any,
    /// A user message, or a step that carries its question: what every provider accepts.
    User,
}

/// The rule of a history's windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// How tokens add up.
    pub accounting: Accounting,
    /// What a window may begin with.
    pub start_on: StartOn,
}

impl Rule {
    /// The rule of LlamaIndex's `ChatMemoryBuffer`.
    pub const LLAMA_INDEX: Self = Self { accounting: Accounting::Joined, start_on: StartOn::Any };

    /// The rule with this accounting. If nothing else is asked for, it is LlamaIndex's where texts are joined, and
    /// windows begin with users elsewhere.
    ///
    /// # Errors
    /// [`Error::OptionsOfText`] for joined texts and [`StartOn::User`].
    pub fn new(accounting: Accounting, start_on: Option<StartOn>) -> Result<Self, Error> {
        match (accounting, start_on) {
            (Accounting::Joined, Some(StartOn::User)) => Err(Error::OptionsOfText),
            (Accounting::Joined, _) => Ok(Self::LLAMA_INDEX),
            (Accounting::Additive, start_on) => Ok(Self { accounting, start_on: start_on.unwrap_or(StartOn::User) }),
        }
    }
}

/// How a window may begin with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starting {
    /// It may not.
    No,
    /// With this message.
    Alone,
    /// With this message, and its question in front.
    Carrying,
}

/// How a window may begin with a message behind the head that follows the message `before`. `is_asked` tells whether
/// there is a user message earlier. Not for messages that may always begin a window: under [`StartOn::Any`] the last
/// one, and the history's first where texts are joined.
#[must_use]
#[inline]
pub fn starting(
    start_on: StartOn,
    outline: Outline,
    before: impl FnOnce() -> Option<Outline>,
    is_asked: bool,
) -> Starting {
    match (start_on, outline.kind) {
        (StartOn::Any, _) if outline.may_start => Starting::Alone,
        (StartOn::User, Kind::User) => Starting::Alone,
        (StartOn::User, Kind::Assistant) => match before() {
            // The message is within a step, or its question is just before it: then the window begins with the
            // question.
            Some(Outline { kind: Kind::Assistant, continues: true, .. } | Outline { kind: Kind::User, .. }) => {
                Starting::No
            }
            _ if is_asked => Starting::Carrying,
            _ => Starting::Alone,
        },
        _ => Starting::No,
    }
}

/// The limits of one window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Tokens that the window may have together with what is sent beside it.
    pub token_limit: i64,
    /// Tokens of what is sent beside it.
    pub initial_token_count: i64,
    /// Whether the leading system messages are in every window.
    pub include_system: bool,
    /// From 0 to 1: when something must be left out, the share of the limit that is kept.
    pub retention_ratio: f64,
    /// Whether the window has all messages, whatever it may begin with.
    pub all: bool,
}

impl Limits {
    /// All messages.
    pub const ALL: Self = Self { all: true, ..Self::of(i64::MAX) };

    /// A window of at most `allowance` tokens, with nothing beside it.
    #[must_use]
    pub const fn of(allowance: i64) -> Self {
        Self { token_limit: allowance, initial_token_count: 0, include_system: false, retention_ratio: 1.0, all: false }
    }

    /// Checks limits that may be anything by themselves.
    ///
    /// # Errors
    /// [`Error::InitialExceedsLimit`], and [`Error::OptionsOfText`] where texts are joined.
    pub fn checked(self, accounting: Accounting) -> Result<Self, Error> {
        let (initial, limit) = (self.initial_token_count, self.token_limit);
        if initial > limit {
            return Err(Error::InitialExceedsLimit { initial, limit });
        }
        let has_options = self.include_system || self.retention_ratio < 1.0;
        if accounting == Accounting::Joined && has_options { Err(Error::OptionsOfText) } else { Ok(self) }
    }

    /// Tokens that the window may have behind a head of `head` tokens; negative if the head is too long.
    #[must_use]
    pub fn allowance(&self, head: i64) -> i64 {
        self.token_limit.saturating_sub(self.initial_token_count).saturating_sub(head)
    }

    /// The error of a head of `head` tokens, which is too long.
    #[must_use]
    pub fn head_too_long(&self, head: i64) -> Error {
        Error::HeadExceedsLimit { head, initial: self.initial_token_count, limit: self.token_limit }
    }

    /// Tokens to leave out when `excess` tokens, at least 1, do not fit `allowance`. If the ratio is below 1, this is
    /// rounded up to whole blocks, so that the window's beginning does not move while a block fills.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2**53")]
    pub fn left_out(&self, excess: i64, allowance: i64) -> i64 {
        let block = self.blocks().find(|(least, _)| *least <= allowance).map_or(1, |(_, block)| block);
        ((excess as f64 / block as f64).ceil() as i64).saturating_mul(block)
    }

    /// The blocks that tokens are left out in, the largest first, each with the smallest allowance that it is for. They
    /// are halved in whole steps, so that a few more tokens beside the window do not move the cut.
    #[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2**53")]
    pub fn blocks(&self) -> impl Iterator<Item = (i64, i64)> {
        let ratio = self.retention_ratio;
        let share = 1.0 - ratio / 2.0;
        let largest = ((1.0 - ratio) * self.token_limit as f64).floor() as i64;
        let halved = std::iter::successors(Some(largest), |block| Some(block / 2)).take_while(|block| *block > 1);
        let least = move |block: i64| {
            let about = (block as f64 / share).floor() as i64;
            (about.saturating_sub(1)..=about.saturating_add(2))
                .find(|&allowance| block as f64 <= share * allowance as f64)
                .unwrap_or(i64::MAX)
        };
        halved.map(move |block| (least(block), block)).chain(std::iter::once((i64::MIN, 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::Limits;

    #[test]
    fn what_is_left_out_grows_in_blocks() {
        let limits = Limits { token_limit: 1_000, retention_ratio: 0.7, ..Limits::of(0) };
        assert_eq!(
            (limits.left_out(1, 1_000), limits.left_out(300, 1_000), limits.left_out(301, 1_000)),
            (300, 300, 600)
        );
        // A small allowance takes smaller blocks: 300, halved.
        assert_eq!((limits.left_out(1, 300), limits.left_out(1, 100)), (150, 37));
        assert_eq!(limits.left_out(5, 0), 5);
        assert_eq!(Limits::of(1_000).left_out(17, 1_000), 17);
        assert_eq!(Limits { retention_ratio: 0.0, ..limits }.left_out(1, 1_000), 1_000);
    }
}
