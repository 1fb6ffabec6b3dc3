//! What was counted at one moment, and how far messages that replace it are the same.

use std::ops::Range;
use std::sync::Arc;

use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use super::policy::{Pin, Policy};
use super::shared_history::{Outlined, RingHistory};
use super::turns::Turns;
use crate::core::item::Outline;
use crate::core::ledger::Ledger;

/// The counted messages of a ledger at one moment.
pub struct Snapshot {
    policy: Arc<Policy>,
    pub first: u64,
    pub messages: Vec<Known>,
    /// The outlines of the messages before them.
    older: Vec<Outline>,
    /// The counted question before them.
    carried: Option<(u64, Known)>,
}

/// One of them, with its pin and its outline.
pub struct Known {
    message: Py<PyAny>,
    pin: Pin,
    outline: Outline,
}

impl Snapshot {
    pub fn of(py: Python<'_>, history: &RingHistory, policy: &Arc<Policy>, ledger: &Ledger<Pin>) -> Self {
        let first = ledger.first().max(history.messages().first());
        let pins = ledger.pins_since(first).map(|pin| pin.clone_ref(py));
        let messages = history.messages().since(first).zip(history.outlines().since(first));
        let messages = messages.zip(pins).map(|((message, outline), pin)| Known {
            message: message.clone_ref(py),
            pin,
            outline: *outline,
        });
        let older = history.outlines().iter().take((first - history.messages().first()) as usize).copied();
        let carried = ledger.carried().and_then(|(position, _)| {
            let (message, outline) = history.messages().get(position).zip(history.outlines().get(position))?;
            let pin = ledger.pin_of_question(position)?.clone_ref(py);
            Some((position, Known { message: message.clone_ref(py), pin, outline: *outline }))
        });
        Self { policy: Arc::clone(policy), first, messages: messages.collect(), older: older.collect(), carried }
    }

    /// Whether the messages before the counted ones, with `missing` of the oldest gone, give them the same starts in
    /// `outlined`.
    pub fn follows_the_same(&self, py: Python<'_>, first: u64, missing: u64, outlined: &[Outlined]) -> PyResult<bool> {
        let older = self.older.get(missing as usize..).unwrap_or_default();
        if outlined.len() < older.len() || older.iter().zip(outlined).any(|(known, (_, outline))| known != outline) {
            return Ok(false);
        }
        let Some((position, known)) = &self.carried else { return Ok(true) };
        match position.checked_sub(first + missing).and_then(|index| outlined.get(index as usize)) {
            Some((message, outline)) => Ok(*outline == known.outline && self.has(message.bind(py), known)?),
            None => Ok(true),
        }
    }

    /// How far the `new` messages, the first of which takes the position `start`, are like the counted ones. Unless what
    /// they follow is the same (`follows`), nothing counts the same.
    pub fn likeness(
        &self,
        py: Python<'_>,
        start: u64,
        new: &[Outlined],
        follows: bool,
        turns: &mut Turns<'_>,
    ) -> PyResult<Likeness> {
        let counted = self.messages.get((start - self.first) as usize..).unwrap_or_default();
        let mut same = 0;
        for ((message, outline), known) in new.iter().zip(counted).take_while(|_| follows) {
            if *outline != known.outline || !self.has(message.bind(py), known)? {
                break;
            }
            same += 1;
            turns.item_done();
        }
        let mut alike = same;
        if self.policy.is_read_by_python() {
            // What Python code reads of another object is never known to be the same, but the object may be equal.
            for ((message, outline), known) in new.iter().zip(counted).skip(same) {
                let is_alike = message.is(&known.message)
                    || *outline == known.outline && is_equal(message.bind(py), known.message.bind(py))?;
                if !is_alike {
                    break;
                }
                alike += 1;
                turns.item_done();
            }
        }
        let counted = self.first..self.first + self.messages.len() as u64;
        Ok(Likeness { counted, counts_to: start + same as u64, alike_to: start + alike as u64 })
    }

    /// Whether `message` counts the same as the `known` one.
    fn has(&self, message: &Bound<'_, PyAny>, known: &Known) -> PyResult<bool> {
        let py = message.py();
        if message.is(&known.message) || !self.policy.is_read_by_python() {
            return Ok(self.policy.still_has(message, known.pin.bind(py))?
                && (message.is(&known.message) || self.policy.has_shape_of(message, known.message.bind(py))));
        }
        Ok(false) // Python code may say anything about another object
    }
}

/// How many of the oldest messages are missing in `outlined`, if the first counted message is found there again.
pub fn missing_before(py: Python<'_>, snapshots: &[Snapshot], first: u64, outlined: &[Outlined]) -> PyResult<u64> {
    let Some(snapshot) = snapshots.last() else { return Ok(0) };
    let Some(known) = snapshot.messages.first() else { return Ok(0) };
    let place = (snapshot.first - first) as usize;
    for missing in 0..=place {
        if let Some((message, _)) = outlined.get(place - missing)
            && snapshot.has(message.bind(py), known)?
        {
            return Ok(missing as u64);
        }
    }
    Ok(0)
}

/// How far other messages are like the counted ones of a ledger: as positions.
pub struct Likeness {
    counted: Range<u64>,
    /// Up to here they count the same.
    pub counts_to: u64,
    /// Up to here they are the same messages.
    alike_to: u64,
}

/// The place of a message among those of a history; 0 if it is not one of them.
pub fn place_of(history: &RingHistory, message: Option<&Outlined>) -> u64 {
    let found = message.and_then(|(message, _)| history.messages().iter().position(|before| before.is(message)));
    found.unwrap_or(0) as u64
}

/// Whether the messages of a history from the position `first` on all come back in `behind`. One that was not counted is
/// known by its outline.
pub fn all_come_back(history: &RingHistory, first: u64, behind: &[Outlined], likenesses: &[Likeness]) -> bool {
    let is_alike = |position: u64| {
        let mut counted = likenesses.iter().filter(|likeness| likeness.counted.contains(&position)).peekable();
        counted.peek().is_none() || counted.any(|likeness| position < likeness.alike_to)
    };
    let old = history.messages().since(first).zip(history.outlines().since(first));
    history.kept_question().is_none()
        && behind.len() >= old.len()
        && (first..).zip(old.zip(behind)).all(|(position, ((before, known), (message, outline)))| {
            message.is(before) || outline == known && is_alike(position)
        })
}

/// Whether Python says that two messages are equal. An exception is not an answer.
fn is_equal(message: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
    match message.eq(other) {
        Err(error) if error.is_instance_of::<PyException>(message.py()) => Ok(false),
        answer => answer,
    }
}
