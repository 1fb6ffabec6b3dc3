//! The accounting rule: what a message adds to a window in which texts are joined by one space.
//!
//! The count of a window is that of its texts joined by one space, as LlamaIndex counts. This file splits that number into
//! parts that can be summed, without ever joining a window:
//!
//! - `step(j)`: what `" " + text(j)` adds after the texts before it;
//! - `opening(i)`: the tokens of the window's head, from its first message `i` to the first message `k` from there on that
//!   is not blank (nearly always `k = i`);
//! - a window's total is `opening(i)` plus every `step(j)` for `j > k`.
//!
//! A text is *blank* if it has no other character than whitespace (or none at all).

use super::count::Counter;

/// A message as the rule sees it.
#[derive(Debug, Clone)]
pub struct Text {
    /// What is counted.
    pub text: String,
    /// Whether a window may begin here.
    pub may_start: bool,
    /// Whether `text` is blank.
    pub blank: bool,
}

impl Text {
    /// A message that counts as `text`.
    #[must_use]
    pub fn new(text: String, may_start: bool) -> Self {
        let blank = is_blank(&text);
        Self { text, may_start, blank }
    }

    /// Whether the text ends in a character that is not whitespace. What a message adds after it is then the same
    /// whatever stands before that.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.text.ends_with(|end: char| !end.is_whitespace())
    }
}

/// What the rule says of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Tokens that the message adds after the one before it; 0 if there is none.
    pub step: i64,
    /// Tokens of the window's head if the window begins here.
    pub opening: Opening,
    /// Whether the message is blank.
    pub blank: bool,
    /// Whether the text before it [is closed](Text::is_closed): the step is the same after any such text.
    pub after_closed: bool,
}

/// What is known of a window's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// No window may begin here.
    NotAStart,
    /// It has so many tokens.
    Tokens(i64),
    /// This message is blank, and so are all that follow: it depends on what comes.
    Open,
}

/// Whether `text` has nothing but whitespace, as Unicode and the encodings' `\s` have it.
#[must_use]
pub fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// Measures `texts[index]`.
///
/// `texts` are successive messages, oldest first. Those before `index` must reach back to one that is not blank, or to the
/// history's first; those after it forward to one that is not blank, or to its last.
///
/// # Errors
/// Those of the counter.
pub fn measure<C: Counter>(counter: &C, texts: &[Text], index: usize) -> Result<Measure, C::Error> {
    let Text { text, may_start, blank } = &texts[index];
    let (head, rest) = if counter.splits_at_spaces() { split_head(text) } else { (text.as_str(), "") };
    let rest = count_unless_empty(counter, rest)?;
    let step = if index == 0 { 0 } else { step(counter, &texts[..index], head)? + rest };
    let opening = match (may_start, blank) {
        (false, _) => Opening::NotAStart,
        (true, false) => Opening::Tokens(counter.count(head)? + rest),
        (true, true) => opening_of_blank(counter, &texts[index..])?,
    };
    Ok(Measure { step, opening, blank: *blank, after_closed: is_after_closed(texts, index) })
}

/// What `texts[index]` adds after the texts before it, which must be as for [`measure`]: its step alone.
///
/// # Errors
/// Those of the counter.
pub fn step_of<C: Counter>(counter: &C, texts: &[Text], index: usize) -> Result<i64, C::Error> {
    let text = texts[index].text.as_str();
    let (head, rest) = if counter.splits_at_spaces() { split_head(text) } else { (text, "") };
    Ok(step(counter, &texts[..index], head)? + count_unless_empty(counter, rest)?)
}

/// Whether the text before `texts[index]` [is closed](Text::is_closed).
#[must_use]
pub fn is_after_closed(texts: &[Text], index: usize) -> bool {
    texts[..index].last().is_some_and(Text::is_closed)
}

/// The tokens of `texts` joined by one space.
///
/// # Errors
/// Those of the counter.
pub fn count_joined<C: Counter>(counter: &C, texts: &[Text]) -> Result<i64, C::Error> {
    counter.count(&join(texts))
}

fn join(texts: &[Text]) -> String {
    texts.iter().map(|text| text.text.as_str()).collect::<Vec<_>>().join(" ")
}

/// Tokens that `" " + text` adds after the texts `before` it.
fn step<C: Counter>(counter: &C, before: &[Text], text: &str) -> Result<i64, C::Error> {
    if before.last().is_some_and(Text::is_closed) {
        return Ok(counter.count(&format!(" {text}"))? - counter.count_empty()?);
    }
    let from = before.iter().rposition(|text| !text.blank).unwrap_or(0);
    let joined = join(&before[from..]);
    let context = if counter.splits_at_spaces() { split_tail(&joined) } else { &joined };
    Ok(counter.count(&format!("{context} {text}"))? - counter.count(context)?)
}

/// The opening of a window that begins with blank `texts`: they are joined with the first one that is not blank.
///
/// # Errors
/// Those of the counter.
pub fn opening_of_blank<C: Counter>(counter: &C, texts: &[Text]) -> Result<Opening, C::Error> {
    let Some(last) = texts.iter().position(|text| !text.blank) else { return Ok(Opening::Open) };
    let blanks = join(&texts[..last]);
    let (head, rest) =
        if counter.splits_at_spaces() { split_head(&texts[last].text) } else { (texts[last].text.as_str(), "") };
    Ok(Opening::Tokens(counter.count(&format!("{blanks} {head}"))? + count_unless_empty(counter, rest)?))
}

fn count_unless_empty<C: Counter>(counter: &C, text: &str) -> Result<i64, C::Error> {
    if text.is_empty() { Ok(0) } else { counter.count(text) }
}

/// Splits before the first space that follows a non-whitespace character.
fn split_head(text: &str) -> (&str, &str) {
    let cut = spaces_after_words(text).next().unwrap_or(text.len());
    text.split_at(cut)
}

/// What stands from the last space on that follows a non-whitespace character.
fn split_tail(text: &str) -> &str {
    let cut = spaces_after_words(text).next_back().unwrap_or(0);
    &text[cut..]
}

fn spaces_after_words(text: &str) -> impl DoubleEndedIterator<Item = usize> {
    text.match_indices(' ')
        .map(|(index, _)| index)
        .filter(|&index| text[..index].ends_with(|end: char| !end.is_whitespace()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Measure, Opening, Text, is_blank, measure, split_head, split_tail, step_of};
    use crate::core::count::Counter;
    use std::convert::Infallible;

    /// Counts runs of letters, each with the space before it, and every other character alone: a pre-tokeniser in small.
    pub(crate) struct Words;

    impl Counter for Words {
        type Error = Infallible;

        fn count(&self, text: &str) -> Result<i64, Infallible> {
            let mut previous = None;
            let mut tokens = 0;
            for current in text.chars() {
                let joins = match previous {
                    Some(' ') => current.is_alphanumeric() || current == ' ',
                    Some(before) => char::is_alphanumeric(before) && current.is_alphanumeric(),
                    None => false,
                };
                tokens += i64::from(!joins);
                previous = Some(current);
            }
            Ok(tokens)
        }

        fn count_empty(&self) -> Result<i64, Infallible> {
            Ok(0)
        }

        fn splits_at_spaces(&self) -> bool {
            true
        }
    }

    pub(crate) fn texts(contents: &[&str]) -> Vec<Text> {
        contents.iter().map(|text| Text::new((*text).to_owned(), true)).collect()
    }

    fn measured(contents: &[&str], index: usize) -> Measure {
        let Ok(measure) = measure(&Words, &texts(contents), index);
        measure
    }

    #[test]
    fn blank_is_whitespace_as_unicode_has_it() {
        assert!(is_blank("") && is_blank(" \n\t\u{a0}\u{2028}\u{3000}\u{85}"));
        // The separators 0x1c to 0x1f are spaces for Python's str.isspace, not for Unicode; U+200B and U+180E are for neither.
        assert!(!is_blank("\u{1c}") && !is_blank("\u{200b}") && !is_blank("\u{180e}"));
    }

    #[test]
    fn texts_split_only_at_a_space_after_a_word() {
        assert_eq!(split_head("ab  cd e"), ("ab", "  cd e"));
        assert_eq!(split_head("  ab\n cd"), ("  ab\n cd", ""));
        assert_eq!(split_tail("ab cd  \n "), "  \n ");
        assert_eq!(split_tail("ab\n "), "ab\n ");
    }

    #[test]
    fn a_step_depends_on_what_stands_before() {
        assert_eq!(measured(&["one", "two"], 1).step, 1);
        // After a newline the space is a token of its own only until the word takes it.
        assert_eq!(measured(&["one\n", "two"], 1).step, 1);
        // The blank message's space was a token of its own; now the word takes both.
        let opening = Opening::Tokens(1);
        let blank = Measure { step: 1, opening, blank: true, after_closed: true };
        assert_eq!(measured(&["one", "", "two"], 1), blank);
        let word = Measure { step: 0, opening, blank: false, after_closed: false };
        assert_eq!(measured(&["one", "", "two"], 2), word);
        assert_eq!(measured(&["one"], 0), word);
    }

    #[test]
    fn a_step_alone_is_the_measured_one() {
        for contents in [["one", "two"], ["one\n", "two three"], ["one ", ""], ["", " two"]] {
            let Ok(step) = step_of(&Words, &texts(&contents), 1);
            assert_eq!(step, measured(&contents, 1).step, "{contents:?}");
        }
    }

    #[test]
    fn a_blank_message_opens_with_the_first_word_after_it() {
        assert_eq!(measured(&["", "\n", "two three"], 0).opening, Opening::Tokens(4));
        assert_eq!(measured(&["one", "", " "], 1).opening, Opening::Open);
    }
}
