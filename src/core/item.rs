//! What a message is to the rules, whatever its format.

/// Who speaks, as far as the rules tell speakers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Instructions: the roles system and developer.
    System,
    /// A question: any role that is not one of the others, without tool results.
    User,
    /// A reply, a call or reasoning: assistant, model, ai, chatbot, and items that are calls or reasoning.
    Assistant,
    /// A result: tool, function, observation and the like, and user messages that carry tool results.
    Tool,
}

/// What the rules know of a message without counting it. Read once, when the message is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    /// Who speaks.
    pub kind: Kind,
    /// Whether what follows belongs to the same step: the message carries calls, or is reasoning.
    pub continues: bool,
    /// Whether LlamaIndex's rule lets a window begin with it, by its role alone: any role except `assistant` and
    /// `tool`.
    pub may_start: bool,
}

impl Outline {
    /// As a number below 16, to be stored.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        self.kind as u8 | u8::from(self.continues) << 2 | u8::from(self.may_start) << 3
    }

    /// The inverse of [`to_byte`](Self::to_byte); `None` for any number that it does not make.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        let kind = [Kind::System, Kind::User, Kind::Assistant, Kind::Tool][usize::from(byte & 3)];
        (byte < 16).then_some(Self { kind, continues: byte & 4 != 0, may_start: byte & 8 != 0 })
    }
}

/// Whose shape a message has. It decides what the provider adds to the texts: see [`measure`](super::measure).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// OpenAI's chat completions and whatever has their shape: a plain role and content.
    OpenAiChat,
    /// Items of OpenAI's Responses.
    OpenAiResponses,
    /// Anthropic's messages, whose content is a list of blocks with `tool_use`, `tool_result`, `thinking` and the like.
    Anthropic,
    /// Gemini's contents, with `parts`.
    Gemini,
    /// Bedrock's Converse, whose blocks have no `type` but a key that says what they are.
    Bedrock,
}

/// What a message contains that is sent but is not a text. Each has a constant cost: see [`measure`](super::measure).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extras {
    /// Whether a participant's name is beside the role.
    pub named: bool,
    /// Tool calls.
    pub calls: u32,
    /// Tool results.
    pub results: u32,
    /// Images.
    pub images: u32,
    /// Pieces of audio, and videos.
    pub audio: u32,
    /// Documents and other files whose text is not in the message.
    pub files: u32,
}
