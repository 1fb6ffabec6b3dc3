//! The embedded encodings: exact token counts without files, network or Python.
//!
//! The vocabularies and the byte-pair merging are the `tiktoken` crate's; `docs/tokenizers.md` has the measurements behind
//! that choice. Special tokens are found here: the crate's own handling is slower, and its `o200k_harmony` lacks one.

use std::convert::Infallible;
use std::ops::Range;

use super::Counter;
use crate::core::error::Error;

/// An encoding: a vocabulary, and the special tokens that count as one token each wherever they stand in a text.
#[derive(Debug)]
pub struct Encoding {
    name: &'static str,
    /// The crate's name of the vocabulary.
    vocabulary: &'static str,
    special: &'static [&'static str],
    /// The numbers `n` for which `<|reserved_n|>` is a special token too.
    reserved: Range<u32>,
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

/// The special tokens of OpenAI's encodings are those of tiktoken's `tiktoken_ext/openai_public.py`. Those of `qwen2` and
/// `mistral_v3` do not count: their tokenizers take them from a text only when told to, and then not all agree.
static ENCODINGS: &[Encoding] = &[
    Encoding { name: "cl100k_base", vocabulary: "cl100k_base", special: CL100K, reserved: 0..0 },
    Encoding { name: "o200k_base", vocabulary: "o200k_base", special: O200K, reserved: 0..0 },
    Encoding {
        name: "o200k_harmony",
        // The ranks and the pattern are those of o200k_base: no second table in memory.
        vocabulary: "o200k_base",
        special: HARMONY,
        reserved: 200_013..201_088,
    },
    Encoding { name: "p50k_base", vocabulary: "p50k_base", special: END, reserved: 0..0 },
    Encoding { name: "p50k_edit", vocabulary: "p50k_base", special: P50K_EDIT, reserved: 0..0 },
    Encoding { name: "r50k_base", vocabulary: "r50k_base", special: END, reserved: 0..0 },
    Encoding { name: "gpt2", vocabulary: "r50k_base", special: END, reserved: 0..0 },
    Encoding { name: "qwen2", vocabulary: "qwen2", special: &[], reserved: 0..0 },
    Encoding { name: "mistral_v3", vocabulary: "mistral_v3", special: &[], reserved: 0..0 },
];

/// The models of other vendors that are known to use one of [`ENCODINGS`], by the beginning of their names.
const OTHER_MODELS: &[(&str, &str)] = &[
    ("qwen2", "qwen2"),
    ("qwen-2", "qwen2"),
    ("mistral-nemo", "mistral_v3"),
    ("open-mistral-nemo", "mistral_v3"),
    ("ministral", "mistral_v3"),
    ("pixtral", "mistral_v3"),
];

/// Longest special token, in bytes, rounded up.
const LONGEST_SPECIAL: usize = 32;

impl Encoding {
    /// The encoding called `name`.
    ///
    /// # Errors
    /// [`Error::UnknownEncoding`], which lists those there are.
    pub fn named(name: &str) -> Result<&'static Self, Error> {
        let found = ENCODINGS.iter().find(|encoding| encoding.name == name);
        found.ok_or_else(|| Error::UnknownEncoding { name: name.to_owned(), known: Self::names().join(", ") })
    }

    /// The encoding of `model`, such as `gpt-4o`.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], which lists the encodings there are.
    pub fn for_model(model: &str) -> Result<&'static Self, Error> {
        let unknown = || Error::UnknownModel { model: model.to_owned(), known: Self::names().join(", ") };
        let other = OTHER_MODELS.iter().find(|(prefix, _)| model.starts_with(prefix)).map(|(_, name)| *name);
        let openai = || {
            let name = tiktoken::model_to_encoding(model)?;
            // The crate also guesses for other vendors' models, among them some that have another tokenizer.
            let known = ENCODINGS.iter().find(|encoding| encoding.name == name)?;
            (!matches!(known.name, "qwen2" | "mistral_v3")).then_some(name)
        };
        Self::named(other.or_else(openai).ok_or_else(unknown)?)
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

    /// Loads the vocabulary, which the first count would do: 60 to 120 ms.
    pub fn load(&self) {
        self.vocabulary();
    }

    fn vocabulary(&self) -> &'static tiktoken::CoreBpe {
        let Some(vocabulary) = tiktoken::get_encoding(self.vocabulary) else {
            unreachable!("{} is a vocabulary of this build", self.vocabulary)
        };
        vocabulary
    }

    /// Tokens of `text`, in which special tokens are text like any other. Equal to tiktoken's `len(encode_ordinary(text))`.
    #[must_use]
    pub fn ordinary_tokens(&self, text: &str) -> i64 {
        self.vocabulary().count(text) as i64
    }

    /// Tokens of `text`; a special token counts as one. Equal to tiktoken's `len(encode(text, allowed_special="all"))`.
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

    /// Length in bytes of the special token that `bytes` begin with.
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

/// An encoding to which special tokens are text like any other, as providers take what users type.
#[derive(Debug, Clone, Copy)]
pub struct Ordinary(pub &'static Encoding);

impl Counter for Ordinary {
    type Error = Infallible;

    fn count(&self, text: &str) -> Result<i64, Infallible> {
        Ok(self.0.ordinary_tokens(text))
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

    fn count_empty(&self) -> Result<i64, Infallible> {
        Ok(0)
    }

    fn splits_at_spaces(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{ENCODINGS, Encoding, Error, LONGEST_SPECIAL};
    use crate::core::joined::tests::assert_sums_are_joined_counts;
    use crate::core::joined::{SLACK, Text, opening};

    fn tokens(name: &str, text: &str) -> i64 {
        Encoding::named(name).map_or(-1, |encoding| encoding.tokens(text))
    }

    #[test]
    fn counts_known_texts() {
        // Counts of tiktoken 0.14.0.
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
        for encoding in ENCODINGS {
            assert!(encoding.tokens("hello") > 0, "{}", encoding.name);
            let reserved = encoding.reserved.clone().map(|number| format!("<|reserved_{number}|>"));
            let special: Vec<_> = encoding.special.iter().map(|token| (*token).to_owned()).chain(reserved).collect();
            assert!(special.iter().all(|token| token.len() <= LONGEST_SPECIAL && encoding.tokens(token) == 1));
        }
    }

    /// Whitespace of every kind, and what it may share tokens with.
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
        for encoding in ENCODINGS {
            let mut seed = 0x2545_f491_4f6c_dd1d_u64;
            for _ in 0..500 {
                assert_sums_are_joined_counts(encoding, &random_texts(&mut seed));
            }
        }
    }

    #[test]
    fn totals_fall_by_far_less_than_the_margin_under_every_encoding() {
        for encoding in ENCODINGS {
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
