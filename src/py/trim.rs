//! `trim_messages`: a ring for one call.

use std::sync::Arc;

use pyo3::prelude::*;

use super::arguments::{self, Asked, check_is_many};
use super::message_ring::MessageRing;
use super::shared_history::{Outlined, SharedHistory};
use super::turns::Turns;
use crate::core::item::Kind;
use crate::core::policy::{Accounting, StartOn};

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
    if is_found_among_newest(py, &ring) {
        return among_newest(&ring, messages, initial_token_count);
    }
    ring.put_messages(messages)?;
    ring.window(py, initial_token_count, None, None, None, None, false)
}

/// Whether the newest messages may be enough to find the window. A ratio below 1 is about the sum of all messages.
fn is_found_among_newest(py: Python<'_>, ring: &MessageRing) -> bool {
    let rule = ring.history.bounds(py).rule;
    rule.accounting == Accounting::Additive && rule.start_on == StartOn::User && ring.limits.retention_ratio >= 1.0
}

/// The window, found without reading older messages than it must.
///
/// It is that of the head and the messages from some user's message on, if it leaves out any of these: then it leaves out
/// all in front of that message too. No start in front of it can be meant, as what is before a start never falls; and none
/// behind it depends on what is in front of it.
fn among_newest<'py>(
    ring: &MessageRing,
    messages: &Bound<'py, PyAny>,
    initial_token_count: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    check_is_many(messages)?;
    let py = messages.py();
    let messages = messages.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    let mut turns = Turns::new(py);
    let mut read = |message: &Bound<'py, PyAny>| {
        turns.item_done();
        ring.outlined(message.clone())
    };
    let mut head: Vec<Outlined> = Vec::new();
    for message in messages.iter().take_while(|_| ring.limits.include_system) {
        let message = read(message)?;
        if message.1.kind != Kind::System {
            break;
        }
        head.push(message);
    }
    let mut older = messages[head.len()..].iter().rev();
    let mut newest: Vec<Outlined> = Vec::new();
    let mut enough = usize::try_from(ring.limits.token_limit / TOKENS_OF_A_MESSAGE).unwrap_or(usize::MAX).max(LEAST);
    loop {
        while newest.len() < enough || newest.last().is_some_and(|(_, outline)| outline.kind != Kind::User) {
            let Some(message) = older.next() else { break };
            newest.push(read(message)?);
        }
        let outlined =
            head.iter().chain(newest.iter().rev()).map(|(message, outline)| (message.clone_ref(py), *outline));
        let history = SharedHistory::new(ring.history.bounds(py));
        drop(history.put(py, outlined.collect::<Vec<_>>().into_iter()));
        let part = MessageRing { limits: ring.limits, policy: Arc::clone(&ring.policy), history };
        let mut window = part.find_counted(py, &Asked { initial_token_count, ..Asked::default() }, false)?;
        let unread = older.len();
        if unread == 0 || window.start > head.len() as u64 {
            window.start += unread as u64;
            window.question = window.question.map(|question| question + unread as u64);
            return window.into_python(py);
        }
        enough = newest.len().saturating_mul(4);
    }
}
