//! What a message is to the rules, whatever its format.

/// Who speaks, as far as the rules tell speakers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Instructions: the roles system and developer.
    System,
    /// A question: any role that is none of the others, without tool results.
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
    /// Whether LlamaIndex's rule lets a window begin with it, by its role alone: any role but `assistant` and `tool`.
    pub may_start: bool,
}

/// Whose shape a message has. It decides what the provider adds to the texts: see [`measure`](super::measure).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// OpenAI's chat completions and whatever looks like them: a plain role and content.
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

/// What a message has that is sent and is not a text. Each costs a constant: see [`measure`](super::measure).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extras {
    /// Whether a participant's name stands beside the role.
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
