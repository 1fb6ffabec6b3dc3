//! What a query is fed of a message.

use crate::core::count::Counter;

/// What a query is fed of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Its text, to be joined.
    Joined(String),
    /// Its texts, each counted by itself, and more tokens.
    Item {
        /// What is counted.
        texts: Vec<String>,
        /// Tokens that do not come from a text.
        constant: i64,
    },
    /// Its tokens, measured elsewhere.
    Measured(i64),
}

impl Content {
    /// Bytes of the texts to be counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Joined(text) => text.len(),
            Self::Item { texts, .. } => texts.iter().map(String::len).sum(),
            Self::Measured(_) => 0,
        }
    }

    /// Its tokens on its own.
    ///
    /// # Errors
    /// The counter's.
    pub fn tokens<C: Counter>(&self, counter: &C) -> Result<i64, C::Error> {
        match self {
            Self::Joined(text) => counter.count(text),
            Self::Measured(tokens) => Ok(*tokens),
            Self::Item { texts, constant } => {
                texts.iter().try_fold(*constant, |sum, text| Ok(counter.count(text)?.saturating_add(sum)))
            }
        }
    }
}
