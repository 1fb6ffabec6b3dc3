//! Which messages a window may begin with.

/// Whether a window may begin with a message of this `role`: any role but `assistant` and `tool`.
///
/// A reply without its question, or a tool's result without its call, is rejected by model providers. The rule is the one
/// of LlamaIndex's `ChatMemoryBuffer` (`chat_memory_buffer.py`, 0.14.16 and newer). The first message of a history and the
/// last one may start a window whatever their role; [`window`](super::window) adds those two.
#[must_use]
pub fn may_start_window(role: &str) -> bool {
    !matches!(role, "assistant" | "tool")
}

#[cfg(test)]
mod tests {
    use super::may_start_window;

    #[test]
    fn only_replies_and_tool_results_may_not_start() {
        for role in ["system", "developer", "user", "function", "chatbot", "model", "", "Assistant"] {
            assert!(may_start_window(role), "{role}");
        }
        assert!(!may_start_window("assistant"));
        assert!(!may_start_window("tool"));
    }
}
