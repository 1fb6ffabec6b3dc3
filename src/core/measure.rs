//! What a message costs in addition to its texts.
//!
//! Additive: a message costs the same in every place. Its texts are counted one by one. Providers add tokens for the
//! message itself, for calls and results, and for media. The numbers are the providers' where they document them. The
//! others are fitted to what they billed for recorded messages; `docs/counting.md` has the fit and the errors that
//! remain.

use super::item::{Extras, Provider};

/// What one provider adds to a message's texts, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Constants {
    /// A message or item: its role and the markers around it.
    pub message: u64,
    /// A participant's name beside the role, in addition to the name's own tokens.
    pub name: u64,
    /// A tool call. Bills show calls together with their results; each gets half of the cost.
    pub call: u64,
    /// Added once to a message with several calls.
    pub parallel: u64,
    /// A tool result.
    pub result: u64,
    /// Each result of a message but the first, where the provider is sent each in a message of its own.
    pub further_result: u64,
    /// An image of a usual size: a million pixels.
    pub image: u64,
    /// A piece of audio or a video: one minute of speech.
    pub audio: u64,
    /// A file whose text is not in the message: one page.
    pub file: u64,
}

/// Message and name are exact: `num_tokens_from_messages` in OpenAI's cookbook takes 3 tokens, the role, and 1 more for
/// a name. Calls and results are fitted to 17 bills of OpenAI's own models. An image: 85, and 170 for each of four
/// tiles of 512 pixels, from OpenAI's guide to vision. Audio: 10 tokens a second. A page is sent as its text and an
/// image of it.
const OPENAI_CHAT: Constants = Constants {
    message: 4,
    name: 1,
    call: 4,
    parallel: 19,
    result: 4,
    further_result: 4,
    image: 765,
    audio: 600,
    file: 1_500,
};

/// Fitted to 7 bills. Most are of newer models than those of [`OPENAI_CHAT`], and their calls take more tokens. An item
/// that is a call or a result costs as much as a message, and this in addition.
const OPENAI_RESPONSES: Constants = Constants { call: 7, parallel: 0, result: 6, ..OPENAI_CHAT };

/// Fitted to 26 bills. Claude's calls and results are long: 46 tokens without arguments, about 15 more for each
/// argument. An image: the most that Anthropic's guide to vision gives for standard resolution. A page: 1,500 to 3,000
/// tokens, from its guide to PDF files. Claude takes no audio.
const ANTHROPIC: Constants = Constants {
    message: 4,
    name: 0,
    call: 26,
    parallel: 32,
    result: 26,
    further_result: 0,
    image: 1_568,
    audio: 0,
    file: 3_000,
};

/// Seven of the 9 bills are Claude's and agree with Anthropic's. Audio: ten seconds of video, from Amazon's guide to
/// Nova.
const BEDROCK: Constants = Constants { audio: 2_880, ..ANTHROPIC };

/// Fitted to 12 bills. Arguments and results are not sent as JSON, so they cost less than their JSON counts, and calls
/// and results add nothing. Gemini 3's guide to media resolution has 1,120 tokens for an image and 560 for a page; its
/// guide to tokens has 32 for a second of audio.
const GEMINI: Constants = Constants {
    message: 1,
    name: 0,
    call: 0,
    parallel: 0,
    result: 0,
    further_result: 0,
    image: 1_120,
    audio: 1_920,
    file: 560,
};

impl Constants {
    /// The constants of messages in the shape of this provider's.
    #[must_use]
    pub const fn of(provider: Provider) -> Self {
        match provider {
            Provider::OpenAiChat => OPENAI_CHAT,
            Provider::OpenAiResponses => OPENAI_RESPONSES,
            Provider::Anthropic => ANTHROPIC,
            Provider::Gemini => GEMINI,
            Provider::Bedrock => BEDROCK,
        }
    }

    /// The tokens that a message with these `extras` costs in addition to its texts.
    #[must_use]
    pub fn overhead(&self, extras: &Extras) -> u64 {
        self.message
            + self.name * u64::from(extras.named)
            + self.call * u64::from(extras.calls)
            + self.parallel * u64::from(extras.calls > 1)
            + self.result * u64::from(extras.results)
            + self.further_result * u64::from(extras.results).saturating_sub(1)
            + self.image * u64::from(extras.images)
            + self.audio * u64::from(extras.audio)
            + self.file * u64::from(extras.files)
    }
}

#[cfg(test)]
mod tests {
    use super::{Constants, Extras, Provider};

    #[test]
    fn each_extra_costs_its_constant() {
        let chat = Constants::of(Provider::OpenAiChat);
        assert_eq!(chat.overhead(&Extras::default()), 4);
        assert_eq!(chat.overhead(&Extras { named: true, ..Extras::default() }), 5);
        assert_eq!(chat.overhead(&Extras { calls: 1, ..Extras::default() }), 8);
        assert_eq!(chat.overhead(&Extras { calls: 3, ..Extras::default() }), 35);
        assert_eq!(chat.overhead(&Extras { results: 3, ..Extras::default() }), 3 * 8);
        let claude = Constants::of(Provider::Anthropic);
        assert_eq!(claude.overhead(&Extras { results: 3, ..Extras::default() }), 4 + 3 * 26);
        let all = Extras { named: false, calls: 0, results: 1, images: 1, audio: 1, files: 1 };
        assert_eq!(Constants::of(Provider::Gemini).overhead(&all), 1 + 1_120 + 1_920 + 560);
    }
}
