//! The accounting rule of `measure="text"`: texts joined by one space, as LlamaIndex counts them, without joining a
//! window.
//!
//! A text is *blank* if it is empty or only whitespace. Blank texts join what follows them: a *segment* is any number
//! of blank texts and the text after them that is not blank, its *word*. The total is split into parts that can be
//! summed:
//!
//! - `step` of a segment: what a space and its texts add after the texts before it;
//! - `opening(i)`: the tokens from text `i` up to the word of its segment, joined;
//! - the *tail*: what the blank texts after the last word add;
//! - a window's total is the `opening` of its first text, every `step` of the segments after that one, and the tail.
//!
//! This is exact because the pre-tokenisers of the embedded encodings always begin a new piece at a space that follows
//! something else: no token crosses that border. A callable gets whole texts. Its windows are exact if its counts add
//! up at that border.

use super::count::Counter;

/// How far a total may fall when messages are put in front: a text alone may be more tokens than after a space.
///
/// Found: 1 over 120,000 adversarial histories under `cl100k_base` and `o200k_base`, 2 over 2.5 million pairs of
/// whitespace. A test of `encoding` holds all of them to half of this. Nothing is known about a Python callable: if its
/// counts fall by more when text is added, it may find its window too late.
pub const SLACK: i64 = 8;

/// Bytes of blank texts in a segment up to which the opening of each start among them is counted at once. In a longer
/// run that would take time quadratic in its length, so a query searches for the one that fits.
const SHORT_RUN: usize = 64;

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
}

/// What comes before a segment.
#[derive(Debug, Clone, Copy)]
pub enum Before<'a> {
    /// Nothing: it opens the history.
    Nothing,
    /// A text that ends in a character that is not whitespace. Which text makes no difference.
    Word,
    /// A text that ends in whitespace, which may share tokens with what follows.
    Whitespace(&'a str),
}

impl<'a> Before<'a> {
    /// What comes before a segment that follows the word `text`.
    #[must_use]
    pub fn after(text: &'a str) -> Self {
        if ends_in_word(text) { Self::Word } else { Self::Whitespace(text) }
    }
}

/// What the rule knows about one segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Tokens that it adds after what comes before it.
    pub step: i64,
    /// The opening of its word, if a window may begin there.
    pub opening: Option<i64>,
    /// The openings of blank texts with which a window may begin, by their index in the segment.
    pub blank_openings: Vec<(usize, i64)>,
    /// The index of the first such text, if there are too many of them to count each: see [`first_fit`].
    pub run: Option<usize>,
}

/// Whether `text` is only whitespace, as Unicode and the encodings' `\s` define it.
#[must_use]
pub fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// Whether `text` ends in a character that is not whitespace.
#[must_use]
pub fn ends_in_word(text: &str) -> bool {
    text.ends_with(|end: char| !end.is_whitespace())
}

/// Measures the segment `texts`: blank texts, and its word at the end.
///
/// # Errors
/// The counter's.
pub fn measure<C: Counter>(counter: &C, before: Before<'_>, texts: &[Text]) -> Result<Segment, C::Error> {
    let Some((word, blanks)) = texts.split_last() else { return Ok(Segment::default()) };
    // The rest of the word counts the same, with or without a space before the head.
    let (head, rest) = if counter.splits_at_spaces() { split_head(&word.text) } else { (word.text.as_str(), "") };
    let rest = if rest.is_empty() { 0 } else { counter.count(rest)? };
    let lead = if blanks.is_empty() { String::new() } else { join(blanks) + " " };
    let mut segment = Segment { step: added(counter, before, &lead, head)? + rest, ..Segment::default() };
    if word.may_start {
        segment.opening = Some(counter.count(head)? + rest);
    }
    let starts = || blanks.iter().enumerate().filter(|(_, text)| text.may_start).map(|(index, _)| index);
    if lead.len() <= SHORT_RUN {
        for index in starts() {
            let opening = counter.count(&format!("{} {head}", join(&blanks[index..])))? + rest;
            segment.blank_openings.push((index, opening));
        }
    } else {
        segment.run = starts().next();
    }
    Ok(segment)
}

/// Tokens that the blank `texts` add after what comes `before` them.
///
/// # Errors
/// The counter's.
pub fn tail<C: Counter>(counter: &C, before: Before<'_>, texts: &[Text]) -> Result<i64, C::Error> {
    if texts.is_empty() { Ok(0) } else { added(counter, before, "", &join(texts)) }
}

/// The tokens of `texts` joined by one space. All are blank, except perhaps the last.
///
/// # Errors
/// The counter's.
pub fn opening<C: Counter>(counter: &C, texts: &[Text]) -> Result<i64, C::Error> {
    counter.count(&join(texts))
}

/// The first of the blank `texts` with which a window may begin and from which all of them have at most `allowance`
/// tokens: its index, and those tokens. The last text may be their word, which is not a candidate.
///
/// Totals grow towards earlier texts, within [`SLACK`], so starts far from the first that fits are not counted. Those
/// close to it all are: a thousand, where a token is 128 spaces.
///
/// # Errors
/// The counter's.
pub fn first_fit<C: Counter>(counter: &C, texts: &[Text], allowance: i64) -> Result<Option<(usize, i64)>, C::Error> {
    let starts: Vec<usize> = (0..texts.len()).filter(|&index| texts[index].may_start && texts[index].blank).collect();
    let openings = Openings::of(counter, texts)?;
    // Starts before `possible` cannot fit. Nearly always all fit, so the first is tried first.
    let (mut possible, mut end, mut asked) = (0, starts.len(), 0);
    while possible < end {
        if openings.from(counter, starts[asked])? > allowance.saturating_add(SLACK) {
            possible = asked + 1;
        } else {
            end = asked;
        }
        asked = usize::midpoint(possible, end);
    }
    for &start in &starts[possible..] {
        let tokens = openings.from(counter, start)?;
        if tokens <= allowance {
            return Ok(Some((start, tokens)));
        }
    }
    Ok(None)
}

/// A run of blank texts and perhaps their word, joined once for the openings of all of them.
struct Openings {
    joined: String,
    /// For each text where it begins, and where the spaces end that follow.
    texts: Vec<(usize, usize)>,
    /// Tokens of the rest of the word, which is not in `joined`.
    rest: i64,
}

impl Openings {
    fn of<C: Counter>(counter: &C, texts: &[Text]) -> Result<Self, C::Error> {
        let mut openings = Self { joined: join(texts), texts: Vec::with_capacity(texts.len()), rest: 0 };
        if let Some(word) = texts.last().filter(|last| !last.blank && counter.splits_at_spaces()) {
            let (_, rest) = split_head(&word.text);
            openings.rest = if rest.is_empty() { 0 } else { counter.count(rest)? };
            openings.joined.truncate(openings.joined.len() - rest.len());
        }
        let mut begin = 0;
        for text in texts {
            let spaces = text.text.bytes().take_while(|&byte| byte == b' ').count();
            openings.texts.push((begin, begin + spaces));
            begin += text.text.len() + 1;
        }
        // The spaces of a text that has nothing else go on in the next one.
        for index in (1..texts.len()).rev() {
            let (next, behind) = openings.texts[index];
            let (_, end) = &mut openings.texts[index - 1];
            if *end + 1 == next {
                *end = behind;
            }
        }
        Ok(openings)
    }

    /// The tokens from the text with this index on.
    fn from<C: Counter>(&self, counter: &C, index: usize) -> Result<i64, C::Error> {
        let (begin, end) = self.texts[index];
        Ok(counter.count_indented(&self.joined[begin..], end - begin)?.saturating_add(self.rest))
    }
}

fn join(texts: &[Text]) -> String {
    let mut joined = String::with_capacity(texts.iter().map(|text| text.text.len() + 1).sum());
    for (index, text) in texts.iter().enumerate() {
        joined.push_str(if index == 0 { "" } else { " " });
        joined.push_str(&text.text);
    }
    joined
}

/// Tokens that a space, `lead` and `text` add after what comes `before`.
fn added<C: Counter>(counter: &C, before: Before<'_>, lead: &str, text: &str) -> Result<i64, C::Error> {
    match before {
        Before::Nothing => counter.count(&format!("{lead}{text}")),
        Before::Word => Ok(counter.count(&format!(" {lead}{text}"))? - counter.count_empty()?),
        Before::Whitespace(before) => {
            let before = if counter.splits_at_spaces() { split_tail(before) } else { before };
            Ok(counter.count(&format!("{before} {lead}{text}"))? - counter.count(before)?)
        }
    }
}

/// Splits before the first space that follows a non-whitespace character.
fn split_head(text: &str) -> (&str, &str) {
    let cut = spaces_after_words(text).next().unwrap_or(text.len());
    text.split_at(cut)
}

/// The rest of `text` from the last space that follows a non-whitespace character.
fn split_tail(text: &str) -> &str {
    let cut = spaces_after_words(text).next_back().unwrap_or(0);
    &text[cut..]
}

fn spaces_after_words(text: &str) -> impl DoubleEndedIterator<Item = usize> {
    text.match_indices(' ').map(|(index, _)| index).filter(|&index| ends_in_word(&text[..index]))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Before, Segment, Text, first_fit, is_blank, measure, opening, split_head, split_tail, tail};
    use crate::core::count::Counter;
    use std::cell::Cell;
    use std::convert::Infallible;

    /// Counts runs of letters, each with the space before it, and every other character alone: a miniature
    /// pre-tokeniser.
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

    fn measured(before: Before<'_>, contents: &[&str]) -> Segment {
        let Ok(segment) = measure(&Words, before, &texts(contents));
        segment
    }

    #[test]
    fn blank_is_whitespace_as_unicode_has_it() {
        assert!(is_blank("") && is_blank(" \n\t\u{a0}\u{2028}\u{3000}\u{85}"));
        // The separators 0x1c to 0x1f are whitespace for Python's str.isspace but not for Unicode; U+200B and U+180E
        // are for neither.
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
        assert_eq!(measured(Before::after("one"), &["two"]).step, 1);
        // After a newline the space is a token of its own, unless a word takes it.
        assert_eq!(measured(Before::after("one\n"), &["two"]).step, 1);
        assert_eq!(measured(Before::Nothing, &["two"]).step, 1);
        // Of two spaces, the word takes one.
        let segment = measured(Before::Word, &["", "two"]);
        assert_eq!(segment, Segment { step: 1, opening: Some(1), blank_openings: vec![(0, 1)], run: None });
    }

    #[test]
    fn a_blank_text_opens_with_the_word_after_it() {
        assert_eq!(measured(Before::Word, &["", "\n", "two three"]).blank_openings, [(0, 4), (1, 3)]);
        let Ok(added) = tail(&Words, Before::Word, &texts(&["", "\n"]));
        assert_eq!(added, 2);
    }

    #[test]
    fn a_long_run_is_left_to_the_query() {
        let blanks = ["\n"; 100];
        let segment = measured(Before::Word, &[blanks.as_slice(), &["two"]].concat());
        assert_eq!((segment.run, segment.opening, segment.blank_openings.len()), (Some(0), Some(1), 0));
    }

    /// Counts like [`Words`], and adds up the bytes it is given.
    #[derive(Default)]
    pub(crate) struct Counting(pub(crate) Cell<usize>);

    impl Counter for Counting {
        type Error = Infallible;

        fn count(&self, text: &str) -> Result<i64, Infallible> {
            self.0.update(|bytes| bytes + text.len());
            Words.count(text)
        }

        fn count_empty(&self) -> Result<i64, Infallible> {
            Words.count_empty()
        }

        fn splits_at_spaces(&self) -> bool {
            Words.splits_at_spaces()
        }
    }

    #[test]
    fn a_fit_in_a_long_run_is_found_by_counting_a_few_starts() {
        let blanks = vec![Text::new("\n".to_owned(), true); 4_000];
        let counting = Counting(Cell::default());
        // Each adds two tokens, itself and the space before it; the first adds one.
        for (allowance, length) in [(0, None), (1, Some(1)), (2, Some(1)), (301, Some(151)), (7_999, Some(4_000))] {
            let Ok(fit) = first_fit(&counting, &blanks, allowance);
            assert_eq!(fit.map(|(start, _)| 4_000 - start), length, "{allowance}");
        }
        assert!(counting.0.get() < 5 * 20 * 8_000, "{}", counting.0.get());
    }

    /// Knows that a token is up to 128 spaces, and adds up the bytes of all else that it is given.
    struct Indenting(Cell<usize>);

    impl Counter for Indenting {
        type Error = Infallible;

        fn count(&self, text: &str) -> Result<i64, Infallible> {
            self.0.update(|bytes| bytes + text.len());
            Ok(text.len().div_ceil(128) as i64)
        }

        fn count_indented(&self, text: &str, indent: usize) -> Result<i64, Infallible> {
            Ok(indent.div_ceil(128) as i64 + self.count(&text[indent..])?)
        }

        fn count_empty(&self) -> Result<i64, Infallible> {
            Ok(0)
        }

        fn splits_at_spaces(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_fit_in_a_long_run_of_spaces_counts_none_of_them() {
        let mut texts = vec![Text::new(String::new(), true); 30_000];
        texts.push(Text::new("done  with it".to_owned(), true));
        let counter = Indenting(Cell::default());
        let Ok(fit) = first_fit(&counter, &texts, 101);
        assert_eq!(fit, Some((30_000 - 99 * 128, 101)));
        assert!(counter.0.get() < 10_000, "{}", counter.0.get());
    }

    /// The first of the blank texts that may start and fits, by counting each.
    pub(crate) fn assert_first_fit_is_literal(counter: &impl Counter<Error = Infallible>, texts: &[Text]) {
        let tokens = |start: usize| {
            let Ok(tokens) = opening(counter, &texts[start..]);
            tokens
        };
        let starts = || (0..texts.len()).filter(|&start| texts[start].may_start && texts[start].blank);
        let totals: Vec<(usize, i64)> = starts().map(|start| (start, tokens(start))).collect();
        let most = totals.first().map_or(0, |(_, tokens)| *tokens);
        for allowance in (-1..=most + 1).filter(|tokens| *tokens < 12 || tokens % 29 == 0 || *tokens > most - 12) {
            let expected = totals.iter().find(|(_, tokens)| *tokens <= allowance).copied();
            let Ok(found) = first_fit(counter, texts, allowance);
            assert_eq!(found, expected, "{allowance} of {most}, {} texts: {:?}", texts.len(), texts.last());
        }
    }

    #[test]
    fn a_fit_is_the_first_start_that_fits() {
        let words = ["", "two three", ".", "\u{3000}x", "  y z", "\n", "  "];
        for (index, word) in words.iter().enumerate() {
            for blanks in [0, 1, 2, 70, 300] {
                let mut texts = texts(&[[["", "  ", "\n", "\t "][index % 4]].repeat(blanks), vec![*word]].concat());
                texts.iter_mut().skip(3).step_by(4).for_each(|text| text.may_start = false);
                texts.iter_mut().skip(5).step_by(7).filter(|text| text.blank).for_each(|text| text.text.clear());
                assert_first_fit_is_literal(&Words, &texts);
            }
        }
    }

    pub(crate) fn assert_sums_are_joined_counts(counter: &impl Counter<Error = Infallible>, texts: &[Text]) {
        let (mut before, mut from, mut total) = (Before::Nothing, 0, 0);
        for (end, text) in texts.iter().enumerate().filter(|(_, text)| !text.blank) {
            let Ok(segment) = measure(counter, before, &texts[from..=end]);
            for (index, tokens) in segment.blank_openings {
                assert_eq!(Ok(tokens), opening(counter, &texts[from + index..=end]), "{texts:?}");
            }
            total += segment.step;
            (before, from) = (Before::after(&text.text), end + 1);
        }
        let Ok(added) = tail(counter, before, &texts[from..]);
        assert_eq!(Ok(total + added), opening(counter, texts), "{texts:?}");
    }

    #[test]
    fn sums_of_parts_are_joined_counts() {
        let fragments = ["one", "", " ", "two three", "\n", "four\n", " five", ".", "  \n six"];
        let mut seed = 1_u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for _ in 0..3_000 {
            let contents: Vec<&str> = (0..=next(7)).map(|_| fragments[next(fragments.len())]).collect();
            assert_sums_are_joined_counts(&Words, &texts(&contents));
        }
    }
}
