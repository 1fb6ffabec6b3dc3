//! What turns a text into a number of tokens.

pub mod batch;
pub mod encoding;
pub mod growth;

/// A counter: the number of tokens of a text.
pub trait Counter {
    /// Why a count fails.
    type Error;

    /// The number of tokens of `text` on its own.
    ///
    /// # Errors
    /// Whatever the counter itself raises; a native encoding never fails.
    fn count(&self, text: &str) -> Result<i64, Self::Error>;

    /// The same as [`count`](Self::count), for a text that begins with `indent` spaces. A counter may know what these
    /// add.
    ///
    /// # Errors
    /// The same as [`count`](Self::count).
    fn count_indented(&self, text: &str, indent: usize) -> Result<i64, Self::Error> {
        debug_assert!(text.bytes().take(indent).all(|byte| byte == b' '));
        self.count(text)
    }

    /// The number of tokens of the empty text: what the counter adds to every text, such as a token for its beginning.
    /// 0 for a native encoding. A joint must not count it again.
    ///
    /// # Errors
    /// The same as [`count`](Self::count).
    fn count_empty(&self) -> Result<i64, Self::Error>;

    /// Whether `count(a + b) == count(a) + count(b)` wherever `a` ends in a non-whitespace character and `b` begins
    /// with a space. This holds for the native encodings, whose pre-tokenisers always begin a new piece there. A joint
    /// is then counted by the words beside it instead of by two whole texts.
    fn splits_at_spaces(&self) -> bool;
}
