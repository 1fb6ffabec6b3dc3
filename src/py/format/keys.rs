//! The words of all formats: what roles, types and keys mean.

use crate::core::item::{Kind, Provider};

/// What a role means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
    /// A call as a message of its own: an assistant's.
    Call,
    /// Reasoning as a message of its own: an assistant's.
    Reasoning,
    Tool,
}

impl Role {
    /// The role of this name, or of the message class of this name: `user`, `TOOL_RESPONSE`, `MessageRole.USER`,
    /// `AIMessageChunk`. `None` if no framework uses it.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "user" => return Some(Self::User),
            "assistant" => return Some(Self::Assistant),
            "tool" => return Some(Self::Tool),
            "system" => return Some(Self::System),
            _ => {}
        }
        // Longer than any of the names below, with every suffix that is cut off.
        let mut letters = [0; 48];
        let mut len = 0;
        let name = name.rsplit_once('.').map_or(name, |(_, last)| last);
        for byte in name.bytes().filter(u8::is_ascii_alphanumeric) {
            *letters.get_mut(len)? = byte.to_ascii_lowercase();
            len += 1;
        }
        let name = std::str::from_utf8(&letters[..len]).ok()?;
        let name = name.strip_suffix("chunk").unwrap_or(name);
        Some(match name.strip_suffix("message").unwrap_or(name) {
            "system" | "developer" | "systemprompt" => Self::System,
            "user" | "human" => Self::User,
            "assistant" | "model" | "ai" | "bot" | "chatbot" | "gpt" | "chatgpt" | "agent" | "llm" => Self::Assistant,
            "toolcall" | "toolcalls" | "tooluse" | "functioncall" | "functioncalls" => Self::Call,
            "reasoning" | "thinking" | "thought" => Self::Reasoning,
            "tool"
            | "tools"
            | "function"
            | "observation"
            | "ipython"
            | "functionexecutionresult"
            | "codeexecutionresult"
            | "toolresponse"
            | "toolresponses"
            | "toolresult"
            | "toolresults"
            | "tooloutput"
            | "tooloutputs"
            | "toolreturn"
            | "functionresponse"
            | "functionresult"
            | "functionoutput"
            | "functionreturn"
            | "functioncalloutput"
            | "functioncallresult"
            | "toolcallresult"
            | "toolcalloutput"
            | "toolcallresponse" => Self::Tool,
            _ => return None,
        })
    }

    pub fn kind(self) -> Kind {
        match self {
            Self::System => Kind::System,
            Self::User => Kind::User,
            Self::Assistant | Self::Call | Self::Reasoning => Kind::Assistant,
            Self::Tool => Kind::Tool,
        }
    }
}

/// What the type of a block or item means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Text,
    Image,
    /// Audio or video.
    Audio,
    /// A file, or a medium whose MIME type says what it is.
    File,
    Call,
    /// A call whose result is a picture that it made.
    ImageGeneration,
    Result,
    /// An item that belongs to the reply after it, and is not a call.
    Reasoning,
    /// An item that instructs.
    System,
    Other,
}

impl Type {
    /// The type of this name, with `_` for `-`.
    pub fn named(name: &str) -> Self {
        match name {
            "text" | "input_text" | "output_text" | "summary_text" | "reasoning_text" => Self::Text,
            "image" | "image_url" | "input_image" | "output_image" | "image_file" | "computer_screenshot" => {
                Self::Image
            }
            "audio" | "input_audio" | "audio_url" | "video" | "input_video" | "video_url" => Self::Audio,
            "file" | "input_file" | "file_url" | "document" | "document_url" | "container_upload" | "hosted_file"
            | "media" | "data" | "uri" | "binary" => Self::File,
            "image_generation_call" => Self::ImageGeneration,
            "reasoning" | "compaction" | "compaction_summary" | "compaction_trigger" | "item_reference" => {
                Self::Reasoning
            }
            "additional_tools" | "configuration_update" => Self::System,
            _ if CALL_ENDS.iter().any(|end| name.ends_with(end)) => Self::Call,
            _ if RESULT_ENDS.iter().any(|end| name.ends_with(end)) => Self::Result,
            _ => Self::Other,
        }
    }
}

const CALL_ENDS: [&str; 7] =
    ["tool_use", "program", "_call", "tool_calls", "_call_chunk", "approval_request", "list_tools"];

const RESULT_ENDS: [&str; 11] = [
    "tool_result",
    "call_output",
    "call_result",
    "function_result",
    "tool_return",
    "tool_response",
    "function_response",
    "search_output",
    "program_output",
    "approval_response",
    "retry_prompt",
];

/// The provider whose blocks have this `type`, if it is only one.
pub fn provider_of_type(name: &str) -> Option<Provider> {
    match name {
        "input_text" | "output_text" | "input_image" | "input_file" | "summary_text" | "reasoning_text" => {
            Some(Provider::OpenAiResponses)
        }
        "tool_use" | "thinking" | "redacted_thinking" | "server_tool_use" | "mcp_tool_use" | "mcp_tool_listing"
        | "search_result" | "document" | "container_upload" | "tool_addition" | "tool_removal" => {
            Some(Provider::Anthropic)
        }
        _ => name.ends_with("tool_result").then_some(Provider::Anthropic),
    }
}

/// Whether this key says what a block of Bedrock is; such blocks have no type.
pub fn is_bedrocks(key: &str) -> bool {
    matches!(
        key,
        "text"
            | "toolUse"
            | "toolResult"
            | "reasoningContent"
            | "image"
            | "document"
            | "video"
            | "audio"
            | "guardContent"
            | "cachePoint"
            | "citationsContent"
            | "searchResult"
    )
}

/// How to read the value of a key in a block or item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Not sent, opaque, or not billed: ids, types and marks, and also citations, which Anthropic does not bill.
    Skipped,
    /// Sent as JSON unless it is a string.
    Value,
    /// Texts, or more blocks.
    Text,
    Call,
    Result,
    Image,
    Audio,
    File,
    /// A medium whose MIME type says what it is.
    Mime,
    /// Read like [`Key::Text`], but a dict without a type and without other keys is data.
    Unknown,
}

impl Key {
    #[expect(clippy::too_many_lines, reason = "a table")]
    pub fn named(key: &str) -> Self {
        match key {
            "id"
            | "call_id"
            | "tool_call_id"
            | "tool_use_id"
            | "toolUseId"
            | "toolCallId"
            | "tool_id"
            | "item_id"
            | "file_id"
            | "container_id"
            | "approval_request_id"
            | "type"
            | "block_type"
            | "part_kind"
            | "content_type"
            | "kind"
            | "role"
            | "tool_type"
            | "tool_kind"
            | "index"
            | "status"
            | "outcome"
            | "phase"
            | "execution"
            | "is_error"
            | "isError"
            | "ttl"
            | "signature"
            | "thoughtSignature"
            | "thought_signature"
            | "thinking_signature"
            | "fingerprint"
            | "redactedContent"
            | "redacted_content"
            | "protected_data"
            | "data"
            | "bytes"
            | "base64"
            | "blob"
            | "encrypted_content"
            | "encrypted_index"
            | "encrypted_stdout"
            | "encryptedContent"
            | "cache_control"
            | "cachePoint"
            | "cache_point"
            | "prompt_cache_breakpoint"
            | "caller"
            | "created_by"
            | "annotations"
            | "citations"
            | "logprobs"
            | "qualifiers"
            | "detail"
            | "format"
            | "mime_type"
            | "mimeType"
            | "media_type"
            | "mediaType"
            | "videoMetadata"
            | "video_metadata"
            | "timestamp"
            | "metadata"
            | "extras"
            | "usage"
            | "num_tokens"
            | "dynamic_ref"
            | "additional_information"
            | "origin"
            | "meta"
            | "extra"
            | "provider_name"
            | "provider_details"
            | "provider_url"
            | "providerOptions"
            | "providerMetadata"
            | "additional_properties"
            | "additional_kwargs"
            | "raw_representation"
            | "inner_content"
            | "ai_model_id"
            | "function_name"
            | "plugin_name"
            | "part_metadata"
            | "media_resolution"
            | "additional_location_info"
            | "scope"
            | "context_id"
            | "base_hash"
            | "on_change"
            | "vendor_metadata" => Self::Skipped,
            "arguments" | "args" | "input" | "tool_kwargs" | "response" | "json" | "action" | "actions"
            | "operation" | "tools" | "parameters" | "partial_json" => Self::Value,
            "text" | "content" | "contents" | "parts" | "output" | "outputs" | "result" | "results" | "summary"
            | "thinking" | "reasoning" | "refusal" | "value" | "name" | "title" | "source" | "stdout" | "stderr"
            | "code" | "function" | "custom" | "reasoningContent" | "reasoningText" | "guardContent"
            | "citationsContent" | "searchResult" | "tool_name" => Self::Text,
            "toolUse" | "functionCall" | "function_call" | "toolCall" | "tool_call" | "executableCode"
            | "executable_code" => Self::Call,
            "toolResult"
            | "functionResponse"
            | "function_response"
            | "toolResponse"
            | "tool_response"
            | "codeExecutionResult"
            | "code_execution_result"
            | "tool_call_result" => Self::Result,
            "image" | "image_url" | "base64_image" => Self::Image,
            "audio" | "audio_url" | "input_audio" | "video" | "video_url" => Self::Audio,
            "document" | "file" => Self::File,
            "inlineData" | "inline_data" | "fileData" | "file_data" | "base64_data" => Self::Mime,
            _ => Self::Unknown,
        }
    }
}

/// Whether the text under this key describes a medium in words.
pub fn describes_medium(key: &str) -> bool {
    matches!(key, "text" | "title" | "context" | "name" | "filename" | "caption" | "displayName" | "display_name")
}

/// The providers, by their names in the argument `format`.
pub const PROVIDERS: [(&str, Provider); 5] = [
    ("openai-chat", Provider::OpenAiChat),
    ("openai-responses", Provider::OpenAiResponses),
    ("anthropic", Provider::Anthropic),
    ("gemini", Provider::Gemini),
    ("bedrock", Provider::Bedrock),
];
