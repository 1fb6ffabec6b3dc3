//! The pins of a window: whether its messages still are what was counted.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::policy::{Pin, Policy};
use super::shared_history::RingHistory;
use super::turns::Turns;
use crate::core::query::Found;

/// What the messages of a window were counted as.
#[derive(Default)]
pub struct Pins {
    head: Vec<Pin>,
    question: Option<Pin>,
    messages: Vec<Pin>,
}

/// Which messages of a window are no longer what was counted.
pub enum Changed {
    /// Some of the head.
    Head,
    /// The question that it carries.
    Question,
    /// Some of the messages from the first position to the second.
    Messages(u64, u64),
}

impl Pins {
    pub fn of(py: Python<'_>, history: &RingHistory, policy: &Arc<Policy>, found: &Found) -> Self {
        let Some(ledger) = history.ledger(policy) else { return Self::default() };
        let head = ledger.head().get(found.head.clone()).unwrap_or_default();
        let is_counted = !ledger.is_empty() && ledger.first() <= found.start;
        Self {
            head: head.iter().map(|(_, pin)| pin.clone_ref(py)).collect(),
            question: found.question.and_then(|position| ledger.pin_of_question(position)).map(|pin| pin.clone_ref(py)),
            messages: if is_counted {
                ledger.pins_since(found.start).map(|pin| pin.clone_ref(py)).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// What has changed in the window `found`, whose messages are given.
    pub fn changed(
        &self,
        py: Python<'_>,
        policy: &Policy,
        found: &Found,
        messages: &[Py<PyAny>],
    ) -> PyResult<Option<Changed>> {
        let mut turns = Turns::new(py);
        let (head, behind) = messages.split_at(found.head.len().min(messages.len()));
        let still_has = |message: &Py<PyAny>, pin: &Pin| -> PyResult<bool> {
            let (message, pin) = (message.bind(py), pin.bind(py));
            Ok(policy.surely_has(message, pin.as_ptr() as usize)? || policy.still_has(message, pin)?)
        };
        for (message, pin) in head.iter().zip(&self.head) {
            if !still_has(message, pin)? {
                return Ok(Some(Changed::Head));
            }
        }
        let (question, behind) = behind.split_at(usize::from(found.question.is_some()).min(behind.len()));
        for (message, pin) in question.iter().zip(&self.question) {
            if !still_has(message, pin)? {
                return Ok(Some(Changed::Question));
            }
        }
        let mut changed: Option<(u64, u64)> = None;
        for ((position, message), pin) in (found.start..).zip(behind).zip(&self.messages) {
            if !still_has(message, pin)? {
                changed = Some((changed.map_or(position, |(first, _)| first), position));
            }
            turns.item_done();
        }
        Ok(changed.map(|(first, last)| Changed::Messages(first, last)))
    }
}

/// Whether two pins are of the same text: one object, or tuples of the same objects.
pub fn is_same(py: Python<'_>, one: &Pin, other: &Pin) -> bool {
    if one.is(other) {
        return true;
    }
    match (one.bind(py).cast_exact::<PyTuple>(), other.bind(py).cast_exact::<PyTuple>()) {
        (Ok(one), Ok(other)) if one.len() == other.len() => {
            one.iter_borrowed().zip(other.iter_borrowed()).all(|(one, other)| one.is(other))
        }
        _ => false,
    }
}
