//! What turns a text into a number of tokens.

pub mod batch;
pub mod encoding;
pub mod growth;

/// A counter: the number of tokens of a text.
pub trait Counter {
    /// What stops a count.
    type Error;

    /// The number of tokens of `text`, on its own.
    ///
    /// # Errors
    /// Whatever the counter itself meets; a native encoding never fails.
    fn count(&self, text: &str) -> Result<i64, Self::Error>;

    /// The number of tokens of the empty text: what the counter puts around every text, such as a token for its beginning.
    /// 0 for a native encoding. A joint must not count it again.
    ///
    /// # Errors
    /// As for [`count`](Self::count).
    fn count_empty(&self) -> Result<i64, Self::Error>;

    /// Whether `count(a + b) == count(a) + count(b)` wherever `a` ends in a non-whitespace character and `b` begins with
    /// a space. So it is for the native encodings, whose pre-tokenisers always begin a new piece there; it lets a joint
    /// be counted by the words beside it instead of by two whole texts.
    fn splits_at_spaces(&self) -> bool;
}
