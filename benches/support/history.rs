//! A history of the core, for benchmarks: no Python around it.

use std::fmt::Debug;
use std::sync::Arc;

use chatring::core::count::Counter;
use chatring::core::history::Bounds;
use chatring::core::item::{Kind, Outline};
use chatring::core::policy::{Accounting, Limits, Rule, StartOn};
use chatring::core::query::{Content, Found, Next, Query};

/// The rule of rings, stores and functions unless their caller says otherwise.
pub const DEFAULT_RULE: Rule = Rule { accounting: Accounting::Additive, start_on: StartOn::User };

/// A message: its text, and what the rules know of it.
#[derive(Clone)]
pub struct Message {
    text: Arc<str>,
    outline: Outline,
}

impl Message {
    /// A message of this role and text. A call is an assistant's message that results follow.
    pub fn new(role: &str, text: &str) -> Self {
        let kind = match role {
            "system" => Kind::System,
            "assistant" | "call" => Kind::Assistant,
            "tool" => Kind::Tool,
            _ => Kind::User,
        };
        let may_start = matches!(kind, Kind::User | Kind::System);
        Self { text: text.into(), outline: Outline { kind, continues: role == "call", may_start } }
    }
}

/// Messages with their prefix sums.
pub struct History {
    messages: chatring::core::history::History<Arc<str>, (), Arc<str>>,
    rule: Rule,
}

impl Default for History {
    fn default() -> Self {
        Self::new(Rule::LLAMA_INDEX)
    }
}

impl History {
    /// No messages yet, and the rule of their windows.
    pub fn new(rule: Rule) -> Self {
        let bounds = Bounds { rule, max_messages: None, keep_head: true };
        Self { messages: chatring::core::history::History::new(bounds), rule }
    }

    /// Adds the newest message.
    pub fn put(&mut self, message: Message) {
        let evicted = self.messages.push(std::iter::once((message.text, message.outline)), &mut Vec::new());
        debug_assert!(evicted.is_empty());
    }

    /// The window of at most so many tokens, without a head; counts what is not counted yet.
    pub fn window<C: Counter<Error: Debug>>(
        &mut self,
        counter: &C,
        allowance: i64,
    ) -> Result<Found, NoWindow<C::Error>> {
        self.limited_window(counter, Limits::of(allowance))
    }

    /// The window under all limits; counts what is not counted yet.
    pub fn limited_window<C: Counter<Error: Debug>>(
        &mut self,
        counter: &C,
        limits: Limits,
    ) -> Result<Found, NoWindow<C::Error>> {
        let mut query = Query::new((), self.rule, limits);
        loop {
            match query.next(&mut self.messages, Arc::ptr_eq) {
                Next::Found(found) => return Ok(found),
                Next::Changing => unreachable!("nobody else has it"),
                Next::HeadTooLong(tokens) => return Err(NoWindow::HeadTooLong(tokens)),
                Next::Read(wanted) => {
                    let texts = self.messages.wanted(&wanted).into_iter();
                    let contents = texts.map(|text| (self.content(text), text.clone())).collect();
                    query.feed(counter, contents).map_err(NoWindow::NotCounted)?;
                }
            }
        }
    }

    fn content(&self, text: &str) -> Content {
        match self.rule.accounting {
            Accounting::Joined => Content::Joined(text.to_owned()),
            Accounting::Additive => Content::Item { texts: vec![text.to_owned()], constant: 4 },
        }
    }
}

/// Why there is no window.
#[derive(Debug, thiserror::Error)]
pub enum NoWindow<E: Debug> {
    /// The head does not fit.
    #[error("the head alone has {0} tokens")]
    HeadTooLong(i64),
    /// The counter failed.
    #[error("not counted: {0:?}")]
    NotCounted(E),
}
