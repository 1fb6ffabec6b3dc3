//! `trim_messages`: a search for one call.

use pyo3::prelude::*;

use super::arguments::{self, Asked, check_is_many};
use super::message_ring::MessageRing;
use super::policy::{Countable, Policy};
use super::shared_history::{Window, changing};
use super::turns::Turns;
use crate::core::history::{Bounds, History};
use crate::core::item::{Kind, Outline};
use crate::core::policy::{Accounting, Limits, Rule, StartOn};
use crate::core::query::{Content, Found, Next, Query};

/// With so many tokens to a message, the messages that are read at first are as many as the limit has room for. Few have
/// less, so one search is mostly enough.
const TOKENS_OF_A_MESSAGE: i64 = 20;
/// Messages that are read at first, at least.
const LEAST: usize = 8;

#[doc = stub!("trim_messages")]
#[pyfunction]
#[pyo3(
    signature = (
        messages, token_limit, *, counter = None, measure = None, start_on = None, include_system = None,
        retention_ratio = None, initial_token_count = None, format = None
    ),
    text_signature = "(messages, token_limit, *, counter='o200k_base', measure='message', start_on='user', \
                      include_system=True, retention_ratio=1.0, initial_token_count=0, format=None)"
)]
#[expect(clippy::too_many_arguments, reason = "all but the first two by name")]
pub fn trim_messages<'py>(
    py: Python<'py>,
    messages: &Bound<'py, PyAny>,
    token_limit: &Bound<'py, PyAny>,
    counter: Option<&Bound<'py, PyAny>>,
    measure: Option<&Bound<'py, PyAny>>,
    #[pyo3(from_py_with = arguments::start_on)] start_on: Option<StartOn>,
    include_system: Option<&Bound<'py, PyAny>>,
    retention_ratio: Option<&Bound<'py, PyAny>>,
    initial_token_count: Option<&Bound<'py, PyAny>>,
    format: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let limit = Some(token_limit);
    let ring =
        MessageRing::py_new(py, limit, counter, measure, start_on, include_system, retention_ratio, None, format)?;
    check_is_many(messages)?;
    let messages = messages.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    let limits = ring.limits_of(&Asked { initial_token_count, ..Asked::default() })?;
    let mut trim = Trim { py, policy: &ring.policy, bounds: ring.history.bounds(py), limits, read: Vec::new() };
    let window = trim.window(&messages);
    Turns::new(py).drop_all(trim.read);
    window?.counted(py, &ring.policy)?.into_python(py)
}

/// One call. What a message is to the rules and what counts of it are read together.
struct Trim<'a, 'py> {
    py: Python<'py>,
    policy: &'a Policy,
    bounds: Bounds,
    limits: Limits,
    /// The messages read so far: those of the head, and the others from the newest back.
    read: Vec<Read<'a, 'py>>,
}

/// A message that was read.
struct Read<'a, 'py> {
    message: &'a Bound<'py, PyAny>,
    outline: Outline,
    /// What counts of it, until it is counted.
    countable: Option<Countable<'py>>,
}

impl<'a, 'py> Trim<'a, 'py> {
    /// The window, found without reading older messages than it must.
    ///
    /// It is that of the head and the messages from some user's message on, if it leaves out any of these: then it leaves
    /// out all in front of that message too. No start in front of it can be meant, as what is before a start never falls;
    /// and none behind it depends on what is in front of it.
    fn window(&mut self, messages: &'a [Bound<'py, PyAny>]) -> PyResult<Window> {
        let mut turns = Turns::new(self.py);
        let mut enough = self.enough();
        let mut head = 0;
        while enough < messages.len() && self.limits.include_system && head < messages.len() {
            let message = self.read(&messages[head])?;
            if message.outline.kind != Kind::System {
                break;
            }
            self.read.push(message);
            head += 1;
        }
        let mut older = messages[head..].iter().rev();
        loop {
            let is_cut = |read: &[Read<'_, '_>]| read.last().is_none_or(|newest| newest.outline.kind == Kind::User);
            while self.read.len() - head < enough || !is_cut(&self.read[head..]) {
                let Some(message) = older.next() else { break };
                let message = self.read(message)?;
                self.read.push(message);
                turns.item_done();
            }
            let mut window = self.search(head, &mut turns)?;
            let unread = older.len();
            if unread == 0 || window.start > head as u64 {
                window.start += unread as u64;
                window.question = window.question.map(|question| question + unread as u64);
                return Ok(window);
            }
            enough = (self.read.len() - head).saturating_mul(4);
        }
    }

    /// How many of the newest messages may be enough to find the window. A ratio below 1 is about the sum of all.
    fn enough(&self) -> usize {
        let Rule { accounting, start_on } = self.bounds.rule;
        if accounting == Accounting::Additive && start_on == StartOn::User && self.limits.retention_ratio >= 1.0 {
            usize::try_from(self.limits.token_limit / TOKENS_OF_A_MESSAGE).unwrap_or(usize::MAX).max(LEAST)
        } else {
            usize::MAX
        }
    }

    fn read(&self, message: &'a Bound<'py, PyAny>) -> PyResult<Read<'a, 'py>> {
        let (outline, countable) = self.policy.outline_and_countable(message)?;
        Ok(Read { message, outline, countable })
    }

    /// The window of what was read, whose first `head` messages are the head.
    fn search(&mut self, head: usize, turns: &mut Turns<'py>) -> PyResult<Window> {
        let numbers: Vec<usize> = (0..head).chain((head..self.read.len()).rev()).collect();
        let mut history: History<usize, (), ()> = History::new(self.bounds);
        history.push(numbers.into_iter().map(|number| (number, self.read[number].outline)), &mut Vec::new());
        let mut query = Query::new((), self.bounds.rule, self.limits);
        loop {
            match query.next(&mut history, |(), ()| true) {
                Next::Read(wanted) => {
                    let wanted: Vec<usize> = history.wanted(&wanted).into_iter().copied().collect();
                    let contents = wanted.into_iter().map(|number| Ok((self.content(number)?, ())));
                    let contents = contents.collect::<PyResult<Vec<_>>>()?;
                    self.policy.feed(self.py, &mut query, contents)?;
                    turns.offer();
                }
                Next::Found(found) => {
                    let messages = history.window(&found, query.end());
                    let messages = messages.map(|&number| self.read[number].message.clone().unbind()).collect();
                    let Found { head, question, start, tokens } = found;
                    return Ok(Window { messages, tokens, start, question, head: head.len() });
                }
                Next::HeadTooLong(head) => return Err(self.limits.head_too_long(head).into()),
                Next::Changing => return Err(changing()),
            }
        }
    }

    fn content(&mut self, number: usize) -> PyResult<Content> {
        let Read { message, countable, .. } = &mut self.read[number];
        // Asked for again after a search among too few messages, or where texts are joined.
        countable.take().map_or_else(|| self.policy.read(message), Ok)?.content()
    }
}
