//! Whether the counts of a counter grow with its texts.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// A text of at most this many tokens never looks padded: with a short word, a template or two markers add up to no
/// more.
const FEW_TOKENS: i64 = 4;

/// A text looks truncated if it has more bytes than this for each of its tokens, and more than [`SHORT_TEXT`]. English
/// has 4 to 5.
const BYTES_A_TOKEN: i64 = 6;

/// Bytes of a text that may really be a token or two: a long word, or a line of spaces.
const SHORT_TEXT: i64 = 32;

/// What is known about somebody else's counter: the range in which its counts were seen to grow.
///
/// A tokenizer that pads never counts less than a fixed length, and one that truncates never more. Windows would be
/// wrong without any error. So a count that looks odd for its text is compared with the count of a longer text. Other
/// counts cost two comparisons and no call: a counter may be slow, or record what it is asked.
#[derive(Debug)]
pub struct Growth {
    /// The lowest count seen to grow: nothing is padded to more than this.
    from: AtomicI64,
    /// The highest count that another one has grown to: nothing is cut to less than this.
    to: AtomicI64,
}

impl Default for Growth {
    fn default() -> Self {
        Self { from: AtomicI64::new(i64::MAX), to: AtomicI64::new(i64::MIN) }
    }
}

/// What may explain an odd count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// Many tokens for the text.
    Padded,
    /// Few tokens for the text.
    Truncated,
}

impl Doubt {
    /// A text that has more tokens than `text` under any counter, unless the doubt is right.
    #[must_use]
    pub fn longer(self, text: &str) -> String {
        match self {
            // Only one word more: a longer text might not fit into the padding.
            Self::Padded => format!("{text}\nword"),
            // Twice as long, for a counter that estimates by the number of characters.
            Self::Truncated => format!("{text}\nword\n{text}"),
        }
    }
}

impl Growth {
    /// Why `tokens` is odd for a text of `bytes` bytes, unless such counts are known to grow.
    #[must_use]
    pub fn doubt(&self, bytes: usize, tokens: i64) -> Option<Doubt> {
        let bytes = bytes as i64;
        if tokens > FEW_TOKENS && tokens > bytes / 2 && tokens < self.from.load(Relaxed) {
            Some(Doubt::Padded)
        } else if bytes - SHORT_TEXT > tokens.saturating_mul(BYTES_A_TOKEN) && tokens >= self.to.load(Relaxed) {
            Some(Doubt::Truncated)
        } else {
            None
        }
    }

    /// Notes that a text of `tokens` tokens counts as `longer` when more text is added.
    pub fn learn(&self, tokens: i64, longer: i64) {
        self.from.fetch_min(tokens, Relaxed);
        self.to.fetch_max(longer, Relaxed);
    }

    /// Notes that nothing more can be learnt.
    pub fn give_up(&self) {
        self.learn(i64::MIN, i64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::{Doubt, Growth};

    /// Counts `text` as the boundary does: the doubt that remains, and the number of calls.
    fn look(growth: &Growth, text: &str, count: impl Fn(&str) -> i64) -> (Option<Doubt>, usize) {
        let tokens = count(text);
        let Some(doubt) = growth.doubt(text.len(), tokens) else { return (None, 1) };
        let longer = count(&doubt.longer(text));
        if longer <= tokens {
            return (Some(doubt), 2);
        }
        growth.learn(tokens, longer);
        (None, 2)
    }

    fn words(text: &str) -> i64 {
        text.split_whitespace().count() as i64
    }

    #[test]
    fn padding_and_truncation_are_found() {
        for length in [8, 16, 64, 512, 100_000] {
            let pad = |text: &str| words(text).max(length);
            let cut = |text: &str| words(text).min(length);
            for text in ["", "ok", "I see", "one two three"] {
                assert_eq!(look(&Growth::default(), text, pad), (Some(Doubt::Padded), 2), "{length} {text}");
            }
            let long = "some words ".repeat(length as usize);
            assert_eq!(look(&Growth::default(), &long, cut), (Some(Doubt::Truncated), 2), "{length}");
        }
        assert_eq!(
            look(&Growth::default(), "one two three four five six seven eight", |_| 1).0,
            Some(Doubt::Truncated)
        );
    }

    #[test]
    fn a_length_is_found_after_other_counts_were_odd_too() {
        let growth = Growth::default();
        let cut = |text: &str| words(text).min(4_000);
        // Spaces, then words as long as a line: both are counted correctly.
        assert_eq!(look(&growth, &" ".repeat(80), cut), (None, 2));
        assert_eq!(look(&growth, &"x".repeat(1_000), cut), (None, 2));
        assert_eq!(look(&growth, &"word ".repeat(10_000), cut), (Some(Doubt::Truncated), 2));
    }

    #[test]
    fn plausible_counts_cost_no_call_and_odd_ones_few() {
        let growth = Growth::default();
        for text in ["", " ", "ok", "one two three four", "a longer sentence has a few more words in it"] {
            assert_eq!(look(&growth, text, words), (None, 1), "{text}");
            assert_eq!(look(&growth, text, |text| words(text) + 2), (None, 1), "{text}");
        }
        // Counts of characters, and coarser and coarser estimates.
        for characters in [1, 2, 4, 10, 20] {
            let growth = Growth::default();
            let estimate = |text: &str| text.len() as i64 / characters;
            let calls = (1..2_000).map(|length| look(&growth, &"x".repeat(length), estimate));
            let (refused, calls): (Vec<_>, Vec<_>) = calls.unzip();
            assert!(refused.iter().all(Option::is_none), "{characters}");
            assert!(calls.iter().sum::<usize>() < 2_000 + 20, "{characters}");
        }
    }

    #[test]
    fn a_counter_that_fails_on_other_texts_is_not_asked_again() {
        let growth = Growth::default();
        assert_eq!(growth.doubt(2, 512), Some(Doubt::Padded));
        growth.give_up();
        assert_eq!((growth.doubt(2, 512), growth.doubt(5_000, 1), growth.doubt(5_000, i64::MAX)), (None, None, None));
    }
}
