//! The embedded encodings: exact token counts without files, network or Python.
//!
//! The vocabularies and the byte-pair merging come from the `tiktoken` crate; `docs/tokenizers.md` has the measurements
//! behind that choice. Special tokens are found here: the crate's own search is slower, and its `o200k_harmony` lacks
//! one.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use super::Counter;
use crate::core::error::Error;

/// An encoding: a vocabulary, and the special tokens that count as one token each, wherever they are in a text.
#[derive(Debug)]
pub struct Encoding {
    name: &'static str,
    /// The crate's name of the vocabulary.
    vocabulary: &'static str,
    special: &'static [&'static str],
    /// The numbers `n` for which `<|reserved_n|>` is a special token too.
    reserved: Range<u32>,
    /// Tokens of each number of spaces; 0 if not counted yet.
    // Not behind a lock: a fork would copy one that is held.
    spaces: [AtomicU16; FEW_SPACES],
}

/// Spaces up to which each number of them is counted. Beyond that, [`PERIOD`] more always add the same.
const FEW_SPACES: usize = 2 * PERIOD;

/// The most spaces that are one token of any vocabulary.
const PERIOD: usize = 128;

const fn encoding(
    name: &'static str,
    vocabulary: &'static str,
    special: &'static [&'static str],
    reserved: Range<u32>,
) -> Encoding {
    Encoding { name, vocabulary, special, reserved, spaces: [const { AtomicU16::new(0) }; FEW_SPACES] }
}

const CL100K: &[&str] = &["<|endofprompt|>", "<|endoftext|>", "<|fim_middle|>", "<|fim_prefix|>", "<|fim_suffix|>"];
const O200K: &[&str] = &["<|endofprompt|>", "<|endoftext|>"];
const HARMONY: &[&str] = &[
    "<|call|>",
    "<|channel|>",
    "<|constrain|>",
    "<|end|>",
    "<|endofprompt|>",
    "<|endoftext|>",
    "<|message|>",
    "<|reserved_200000|>",
    "<|reserved_200001|>",
    "<|reserved_200004|>",
    "<|reserved_200009|>",
    "<|reserved_200010|>",
    "<|reserved_200011|>",
    "<|return|>",
    "<|start|>",
    "<|startoftext|>",
];
const P50K_EDIT: &[&str] = &["<|endoftext|>", "<|fim_middle|>", "<|fim_prefix|>", "<|fim_suffix|>"];
const END: &[&str] = &["<|endoftext|>"];

/// The special tokens of OpenAI's encodings are those of tiktoken's `tiktoken_ext/openai_public.py`. Those of `qwen2`
/// and `mistral_v3` do not count: their tokenizers only recognise them in a text when told to, and then they do not all
/// agree.
static ENCODINGS: [Encoding; 9] = [
    encoding("cl100k_base", "cl100k_base", CL100K, 0..0),
    encoding("o200k_base", "o200k_base", O200K, 0..0),
    // The ranks and the pattern are those of o200k_base, so memory needs no second table.
    encoding("o200k_harmony", "o200k_base", HARMONY, 200_013..201_088),
    encoding("p50k_base", "p50k_base", END, 0..0),
    encoding("p50k_edit", "p50k_base", P50K_EDIT, 0..0),
    encoding("r50k_base", "r50k_base", END, 0..0),
    encoding("gpt2", "r50k_base", END, 0..0),
    encoding("qwen2", "qwen2", &[], 0..0),
    encoding("mistral_v3", "mistral_v3", &[], 0..0),
];

/// Models of other vendors that are known to use one of [`ENCODINGS`], by the beginning of their names.
const OTHER_MODELS: &[(&str, &str)] = &[
    ("qwen2", "qwen2"),
    ("qwen-2", "qwen2"),
    ("mistral-nemo", "mistral_v3"),
    ("open-mistral-nemo", "mistral_v3"),
    ("ministral", "mistral_v3"),
    ("pixtral", "mistral_v3"),
];

/// The length of the longest special token in bytes, rounded up.
const LONGEST_SPECIAL: usize = 32;

impl Encoding {
    /// The encoding called `name`.
    ///
    /// # Errors
    /// [`Error::UnknownEncoding`] or, for a model's name, [`Error::ModelForEncoding`], which list the encodings there are.
    pub fn named(name: &str) -> Result<&'static Self, Error> {
        let found = ENCODINGS.iter().find(|encoding| encoding.name == name);
        found.ok_or_else(|| {
            let (is_model, name, known) = (Self::of_model(name).is_some(), name.to_owned(), Self::names().join(", "));
            if is_model { Error::ModelForEncoding { name, known } } else { Error::UnknownEncoding { name, known } }
        })
    }

    /// The encoding of `model`, such as `gpt-4o`.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], which lists the encodings there are.
    pub fn for_model(model: &str) -> Result<&'static Self, Error> {
        let unknown = || Error::UnknownModel { model: model.to_owned(), known: Self::names().join(", ") };
        Self::named(Self::of_model(model).ok_or_else(unknown)?)
    }

    /// The name of the encoding of `model`.
    fn of_model(model: &str) -> Option<&'static str> {
        let other = OTHER_MODELS.iter().find(|(prefix, _)| model.starts_with(prefix)).map(|(_, name)| *name);
        let openai = || {
            let name = tiktoken::model_to_encoding(model)?;
            // The crate also guesses for other vendors' models, some of which have another tokenizer.
            let known = ENCODINGS.iter().find(|encoding| encoding.name == name)?;
            (!matches!(known.name, "qwen2" | "mistral_v3")).then_some(name)
        };
        other.or_else(openai)
    }

    /// The names of all encodings.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        ENCODINGS.iter().map(|encoding| encoding.name).collect()
    }

    /// The encoding's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Loads the vocabulary, as the first count would: 60 to 120 ms.
    pub fn load(&self) {
        self.vocabulary();
    }

    fn vocabulary(&self) -> &'static tiktoken::CoreBpe {
        let Some(vocabulary) = tiktoken::get_encoding(self.vocabulary) else {
            unreachable!("{} is a vocabulary of this build", self.vocabulary)
        };
        vocabulary
    }

    /// Tokens of `text`, where special tokens are text like any other. Equal to tiktoken's
    /// `len(encode_ordinary(text))`.
    #[must_use]
    pub fn ordinary_tokens(&self, text: &str) -> i64 {
        self.vocabulary().count(text) as i64
    }

    /// Tokens of `text`, where a special token counts as one. Equal to tiktoken's `len(encode(text,
    /// allowed_special="all"))`.
    #[must_use]
    pub fn tokens(&self, text: &str) -> i64 {
        let vocabulary = self.vocabulary();
        let (mut tokens, mut counted, mut searched) = (0, 0, 0);
        while let Some(found) = text[searched..].find("<|") {
            let open = searched + found;
            if let Some(length) = self.special_at(&text.as_bytes()[open..]) {
                tokens += vocabulary.count(&text[counted..open]) + 1;
                counted = open + length;
                searched = counted;
            } else {
                searched = open + 1;
            }
        }
        (tokens + vocabulary.count(&text[counted..])) as i64
    }

    /// Tokens of so many spaces.
    ///
    /// Merging makes the longest tokens of a run from its beginning on, so what is left over at its end is the same for
    /// every number of them. The test of this function counts runs of up to 20 periods.
    fn spaces(&self, spaces: usize) -> i64 {
        let Some(more) = spaces.checked_sub(FEW_SPACES) else { return self.few_spaces(spaces) };
        let last = FEW_SPACES - PERIOD + more % PERIOD;
        let periods = ((spaces - last) / PERIOD) as i64;
        self.few_spaces(last) + periods * (self.few_spaces(FEW_SPACES - 1) - self.few_spaces(FEW_SPACES - 1 - PERIOD))
    }

    fn few_spaces(&self, spaces: usize) -> i64 {
        let known = self.spaces[spaces].load(Relaxed);
        if known > 0 {
            return known.into();
        }
        let tokens = self.ordinary_tokens(&" ".repeat(spaces));
        self.spaces[spaces].store(tokens as u16, Relaxed);
        tokens
    }

    /// Tokens by `count` of a `text` that begins with `indent` spaces. The last of them belongs to a word that follows,
    /// but not to a special token, which ends the text before it.
    fn indented(&self, text: &str, indent: usize, special: Special, count: impl Fn(&str) -> i64) -> i64 {
        let behind = &text[indent..];
        match behind.chars().next() {
            None => self.spaces(indent),
            Some(next) if next.is_whitespace() || indent < 2 => count(text),
            Some('<') if special == Special::Token && self.special_at(behind.as_bytes()).is_some() => {
                self.spaces(indent) + count(behind)
            }
            Some(_) => self.spaces(indent - 1) + count(&text[indent - 1..]),
        }
    }

    /// Length in bytes of the special token at the beginning of `bytes`.
    fn special_at(&self, bytes: &[u8]) -> Option<usize> {
        let window = &bytes[..bytes.len().min(LONGEST_SPECIAL)];
        let length = window.windows(2).skip(2).position(|pair| pair == b"|>")? + 4;
        let token = std::str::from_utf8(&window[..length]).ok()?;
        let is_reserved = || {
            let digits = token.strip_prefix("<|reserved_")?.strip_suffix("|>")?;
            let plain = digits.len() == 6 && digits.bytes().all(|digit| digit.is_ascii_digit());
            Some(plain && self.reserved.contains(&digits.parse().ok()?))
        };
        (self.special.contains(&token) || is_reserved() == Some(true)).then_some(length)
    }
}

/// What a special token counts as when it is typed in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// One token.
    Token,
    /// Text like any other, as providers make of what users type.
    Text,
}

/// An encoding that counts special tokens in one of two ways.
#[derive(Debug, Clone, Copy)]
pub struct Native {
    /// The encoding.
    pub encoding: &'static Encoding,
    /// What special tokens count as.
    pub special: Special,
}

impl Native {
    /// Tokens of `text`.
    #[must_use]
    pub fn tokens(&self, text: &str) -> i64 {
        match self.special {
            Special::Token => self.encoding.tokens(text),
            Special::Text => self.encoding.ordinary_tokens(text),
        }
    }
}

impl Counter for Native {
    type Error = Infallible;

    fn count(&self, text: &str) -> Result<i64, Infallible> {
        Ok(self.tokens(text))
    }

    fn count_indented(&self, text: &str, indent: usize) -> Result<i64, Infallible> {
        Ok(self.encoding.indented(text, indent, self.special, |text| self.tokens(text)))
    }

    fn count_empty(&self) -> Result<i64, Infallible> {
        Ok(0)
    }

    fn splits_at_spaces(&self) -> bool {
        true
    }
}

impl Counter for Encoding {
    type Error = Infallible;

    fn count(&self, text: &str) -> Result<i64, Infallible> {
        Ok(self.tokens(text))
    }

    fn count_indented(&self, text: &str, indent: usize) -> Result<i64, Infallible> {
        Ok(self.indented(text, indent, Special::Token, |text| self.tokens(text)))
    }

    fn count_empty(&self) -> Result<i64, Infallible> {
        Ok(0)
    }

    fn splits_at_spaces(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{ENCODINGS, Encoding, Error, FEW_SPACES, LONGEST_SPECIAL, Native, PERIOD, Special};
    use crate::core::count::Counter;
    use crate::core::joined::tests::{assert_first_fit_is_literal, assert_sums_are_joined_counts};
    use crate::core::joined::{SLACK, Text, opening};

    fn tokens(name: &str, text: &str) -> i64 {
        Encoding::named(name).map_or(-1, |encoding| encoding.tokens(text))
    }

    #[test]
    fn counts_known_texts() {
        // Counts by tiktoken 0.14.0.
        assert_eq!(tokens("cl100k_base", "tiktoken is great!"), 6);
        assert_eq!(tokens("cl100k_base", "Oklahoma"), 3);
        assert_eq!(tokens("cl100k_base", " Oklahoma"), 1);
        assert_eq!(tokens("o200k_base", ""), 0);
    }

    #[test]
    fn special_tokens_count_as_one_and_pieces_of_them_as_text() {
        assert_eq!(tokens("cl100k_base", "<|endoftext|>"), 1);
        assert_eq!(tokens("cl100k_base", "a<|endoftext|><|fim_prefix|> b"), 4);
        assert!(tokens("cl100k_base", "<|endoftext|") > 1);
        assert_eq!(tokens("cl100k_base", "<|<|endoftext|>|>"), 5);
        assert!(tokens("o200k_base", "<|fim_prefix|>") > 1);
        assert!(Encoding::named("o200k_base").is_ok_and(|encoding| encoding.ordinary_tokens("<|endoftext|>") > 1));
        assert_eq!(tokens("o200k_harmony", "<|reserved_201087|><|endofprompt|>"), 2);
        assert!(tokens("o200k_harmony", "<|reserved_201088|>") > 1);
    }

    #[test]
    fn every_vocabulary_is_embedded_and_every_special_token_short_enough() {
        for encoding in &ENCODINGS {
            assert!(encoding.tokens("hello") > 0, "{}", encoding.name);
            let reserved = encoding.reserved.clone().map(|number| format!("<|reserved_{number}|>"));
            let special: Vec<_> = encoding.special.iter().map(|token| (*token).to_owned()).chain(reserved).collect();
            assert!(special.iter().all(|token| token.len() <= LONGEST_SPECIAL && encoding.tokens(token) == 1));
        }
    }

    /// Whitespace of every kind, and text that it may share tokens with.
    const FRAGMENTS: [&str; 24] = [
        "",
        " ",
        "\n",
        "ab",
        "don't ",
        " x\n\n",
        "\u{a0}",
        "世界",
        "12345",
        "<|endoftext|>",
        "\t?!\n",
        "é\u{301}",
        "    ",
        "\t",
        " \n",
        "\r\n",
        "\u{3000}",
        "\u{2028}\n",
        "Oklahoma",
        "}\n",
        "=====",
        "👍🏽",
        "\n\n\n        ",
        "a b\n ",
    ];

    fn random_texts(seed: &mut u64) -> Vec<Text> {
        let mut next = |below: usize| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*seed >> 33) as usize % below
        };
        let text = |fragments: Vec<&str>| Text::new(fragments.concat(), true);
        (0..6).map(|_| text((0..=next(2)).map(|_| FRAGMENTS[next(FRAGMENTS.len())]).collect())).collect()
    }

    #[test]
    fn sums_are_joined_counts_under_every_encoding() {
        for encoding in &ENCODINGS {
            let mut seed = 0x2545_f491_4f6c_dd1d_u64;
            for _ in 0..500 {
                assert_sums_are_joined_counts(encoding, &random_texts(&mut seed));
            }
        }
    }

    #[test]
    fn spaces_are_counted_by_their_number() {
        let many = " ".repeat(20 * PERIOD);
        for encoding in &ENCODINGS {
            for spaces in (0..FEW_SPACES + PERIOD).chain((FEW_SPACES..=many.len()).step_by(67)) {
                assert_eq!(encoding.spaces(spaces), encoding.tokens(&many[..spaces]), "{}, {spaces}", encoding.name);
            }
        }
    }

    #[test]
    fn an_indented_text_counts_the_same_under_every_encoding() {
        for encoding in &ENCODINGS {
            let special = encoding.special.iter().take(1).copied();
            for text in FRAGMENTS.into_iter().chain(["<|", "?!", "x", "\u{200b}", "7", "'s"]).chain(special) {
                let text = text.trim_start_matches(' ');
                for indent in (0..4).chain([127, 128, 129, 256, 300]) {
                    let indented = " ".repeat(indent) + text;
                    let case = (encoding.name, &indented);
                    assert_eq!(encoding.count_indented(&indented, indent), encoding.count(&indented), "{case:?}");
                    let ordinary = Native { encoding, special: Special::Text };
                    assert_eq!(ordinary.count_indented(&indented, indent), ordinary.count(&indented), "{case:?}");
                }
            }
        }
    }

    #[test]
    fn a_fit_in_a_run_is_the_first_start_that_fits() {
        for encoding in
            ENCODINGS.iter().filter(|encoding| ["o200k_base", "p50k_base", "mistral_v3"].contains(&encoding.name))
        {
            for (blank, word) in [("", ""), ("", "Oklahoma is  OK"), ("   ", "<|endoftext|>"), ("\n", "12")] {
                let mut texts = vec![Text::new(blank.to_owned(), true); 200];
                texts.push(Text::new(word.to_owned(), true));
                assert_first_fit_is_literal(encoding, &texts);
                texts.iter_mut().skip(20).step_by(130).for_each(|text| text.text.push('\t'));
                texts.iter_mut().step_by(3).for_each(|text| text.may_start = false);
                assert_first_fit_is_literal(&Native { encoding, special: Special::Text }, &texts);
            }
        }
    }

    #[test]
    fn totals_fall_by_far_less_than_the_margin_under_every_encoding() {
        for encoding in &ENCODINGS {
            let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
            for _ in 0..1_000 {
                let texts = random_texts(&mut seed);
                let mut most = 0;
                for start in (0..texts.len()).rev() {
                    let Ok(total) = opening(encoding, &texts[start..]);
                    assert!(total + SLACK / 2 >= most, "{}: {:?} falls to {total}", encoding.name, &texts[start..]);
                    most = most.max(total);
                }
            }
        }
    }

    #[test]
    fn models_map_to_encodings() {
        let name = |model| Encoding::for_model(model).map(Encoding::name);
        assert_eq!(name("gpt-4o"), Ok("o200k_base"));
        assert_eq!(name("gpt-4"), Ok("cl100k_base"));
        assert_eq!(name("gpt-oss-120b"), Ok("o200k_harmony"));
        assert_eq!(name("qwen2.5-72b-instruct"), Ok("qwen2"));
        assert!(matches!(name("mixtral-8x7b"), Err(Error::UnknownModel { .. })));
        assert!(matches!(name("claude-5"), Err(Error::UnknownModel { .. })));
    }
}
