//! What can be wrong with a request.

use thiserror::Error;

/// A request that cannot be answered. The boundary maps every one to a `ValueError`.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// No embedded encoding has this name.
    #[error("unknown encoding {name:?}; known: {known}")]
    UnknownEncoding {
        /// What was asked for.
        name: String,
        /// The names there are, separated by commas.
        known: String,
    },
    /// No embedded encoding has this name, but a model has it.
    #[error("unknown encoding {name:?}; known: {known}; for a model use TokenCounter.for_model({name:?})")]
    ModelForEncoding {
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
    /// A window cannot have fewer than 0 tokens.
    #[error("the allowance of a window must be at least 0 tokens, got {allowance}")]
    Allowance {
        /// What was given.
        allowance: i64,
    },
    /// The system messages of every window leave no room.
    #[error(
        "the {head} tokens of the system messages and the initial token count of {initial} exceed token_limit {limit}; raise it, shorten them or pass include_system=False"
    )]
    HeadExceedsLimit {
        /// Tokens of the head.
        head: i64,
        /// Tokens of what is sent beside the window.
        initial: i64,
        /// The tokens that all of it must fit into.
        limit: i64,
    },
    /// Texts that are joined have no counts of their own.
    #[error(
        "measure=\"text\" is LlamaIndex's rule: it goes with start_on=None, include_system=False and retention_ratio=1.0; use measure=\"message\""
    )]
    OptionsOfText,
    /// Where texts are joined, no message is a head.
    #[error("measure=\"text\" is LlamaIndex's rule, which has no head; use measure=\"message\"")]
    HeadOfText,
    /// There are two rules for starts.
    #[error("start_on must be \"user\" or None, got {given}")]
    StartOn {
        /// What was given.
        given: String,
    },
    /// Positions are counted from the first message ever put.
    #[error("{name} must be a position, at least 0, got {position}")]
    Position {
        /// The argument's name.
        name: &'static str,
        /// What was given.
        position: i64,
    },
    /// A share is between nothing and all.
    #[error("retention_ratio must be between 0 and 1, got {ratio}")]
    RetentionRatio {
        /// What was given.
        ratio: String,
    },
    /// LlamaIndex's rule reads a message in one way only.
    #[error("measure=\"text\" reads a message's role and content and takes no format; use measure=\"message\"")]
    FormatOfText,
    /// A bounded ring must hold one message.
    #[error("max_messages must be at least 1, got {bound}")]
    MaxMessages {
        /// What was given.
        bound: i64,
    },
    /// More tokens are spent than the limit has.
    #[error(
        "initial token count exceeds token limit: {initial} > {limit}; raise token_limit or shorten what comes before the history"
    )]
    InitialExceedsLimit {
        /// Tokens spent before the window.
        initial: i64,
        /// Tokens that the window and what comes before it must fit into.
        limit: i64,
    },
}
