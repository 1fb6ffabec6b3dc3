//! What can be wrong with a request.

use thiserror::Error;

/// A request that cannot be answered. The boundary maps every one to a `ValueError`.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// There is no embedded encoding of this name.
    #[error("unknown encoding {name:?}; known: {known}")]
    UnknownEncoding {
        /// What was asked for.
        name: String,
        /// The names there are, separated by commas.
        known: String,
    },
    /// No embedded encoding is known to be this model's.
    #[error(
        "no encoding known for model {model:?}; give TokenCounter the model's own tokenizer, a callable from str to its tokens, \
         or an encoding that comes close, one of: {known}"
    )]
    UnknownModel {
        /// What was asked for.
        model: String,
        /// The names of the encodings there are, separated by commas.
        known: String,
    },
    /// A token limit must leave room for one token.
    #[error("token_limit must be at least 1, got {limit}")]
    TokenLimit {
        /// What was given.
        limit: i64,
    },
    /// A window cannot have less than no tokens.
    #[error("the allowance of a window must be at least 0 tokens, got {allowance}")]
    Allowance {
        /// What was given.
        allowance: i64,
    },
    /// LlamaIndex's rule knows one way to read a message.
    #[error("measure=\"text\" reads a message's role and content and takes no format; use measure=\"message\"")]
    FormatOfText,
    /// A bounded ring must hold one message.
    #[error("max_messages must be at least 1, got {bound}")]
    MaxMessages {
        /// What was given.
        bound: i64,
    },
    /// More is spent than there is to spend.
    #[error(
        "initial token count exceeds token limit: {initial} > {limit}; raise token_limit or shorten what comes before the history"
    )]
    InitialExceedsLimit {
        /// Tokens spent before the window.
        initial: i64,
        /// Tokens that the window and what comes before it must fit.
        limit: i64,
    },
}
