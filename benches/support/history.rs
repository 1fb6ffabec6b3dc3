//! A history of the core, for benchmarks: no Python around it.

use std::sync::Arc;

use chatring::core::count::Counter;
use chatring::core::history::Bounds;
use chatring::core::item::{Kind, Outline};
use chatring::core::policy::{Accounting, Limits, Rule};
use chatring::core::query::{Content, Found, Next, Query};

/// A message: its text, and what the rules know of it.
#[derive(Clone)]
pub struct Message {
    text: Arc<str>,
    outline: Outline,
}

impl Message {
    /// A message of this role and text.
    pub fn new(role: &str, text: &str) -> Self {
        let kind = match role {
            "assistant" => Kind::Assistant,
            "tool" => Kind::Tool,
            _ => Kind::User,
        };
        let may_start = kind == Kind::User;
        Self { text: text.into(), outline: Outline { kind, continues: false, may_start } }
    }
}

/// Messages with their prefix sums.
pub struct History {
    messages: chatring::core::history::History<Arc<str>, (), Arc<str>>,
    rule: Rule,
}

impl Default for History {
    fn default() -> Self {
        Self::new(Accounting::Joined)
    }
}

impl History {
    /// No messages yet, and how their tokens are to be added up.
    pub fn new(accounting: Accounting) -> Self {
        let rule = Rule { accounting, ..Rule::LLAMA_INDEX };
        let bounds = Bounds { rule, max_messages: None, keep_head: false };
        Self { messages: chatring::core::history::History::new(bounds), rule }
    }

    /// Adds the newest message.
    pub fn put(&mut self, message: Message) {
        let evicted = self.messages.push(std::iter::once((message.text, message.outline)), &mut Vec::new());
        debug_assert!(evicted.is_empty());
    }

    /// Where the window of `allowance` starts, and its tokens; counts what is not counted yet.
    pub fn window<C: Counter>(&mut self, counter: &C, allowance: i64) -> Result<Found, C::Error> {
        let mut query = Query::new((), self.rule, Limits::of(allowance));
        loop {
            match query.next(&mut self.messages, Arc::ptr_eq) {
                Next::Found(found) => return Ok(found),
                Next::Changing | Next::HeadTooLong(_) => unreachable!("nobody else has it, and it has no head"),
                Next::Read(wanted) => {
                    let texts = self.messages.wanted(&wanted).into_iter();
                    let contents = texts.map(|text| (self.content(text), text.clone())).collect();
                    query.feed(counter, contents)?;
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
