//! Sees that a dict is still what was counted, without reading it again: the plain messages of all chats, and OpenAI's
//! with names and calls. If a message has anything else, the answer is `false`, and it is read.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use super::fields::{all_entries, as_str};
use super::keys::Role;
use super::slots::Slot;
use crate::core::item::{Extras, Kind, Provider};
use crate::core::measure::Constants;

/// Whether `message` is plain and its content is still the object at the address `mark`, which was counted and is kept.
///
/// # Errors
/// Only if the interpreter runs out of memory.
#[inline]
pub fn by_content(message: &Bound<'_, PyAny>, mark: usize) -> PyResult<bool> {
    let Ok(dict) = message.cast_exact::<PyDict>() else { return Ok(false) };
    let py = message.py();
    if dict.get_item(intern!(py, "content"))?.is_none_or(|content| content.as_ptr() as usize != mark) {
        return Ok(false);
    }
    match dict.len() {
        2 => Ok(true),
        3 if dict.contains(intern!(py, "tool_call_id"))? => Ok(true),
        _ => Ok(says_nothing_but(dict, |slot| matches!(slot, Slot::Role | Slot::Content))),
    }
}

/// Whether `message` still has the parts of `pin`: a message's overhead and its texts.
///
/// # Errors
/// Only if the interpreter runs out of memory.
pub fn by_parts<'py>(message: &Bound<'py, PyAny>, pin: &Bound<'py, PyAny>, plain: Provider) -> PyResult<bool> {
    let py = message.py();
    let (Ok(dict), Ok(parts)) = (message.cast_exact::<PyDict>(), pin.cast_exact::<PyTuple>()) else {
        return Ok(false);
    };
    let Some(role) = dict.get_item(intern!(py, "role"))? else { return Ok(false) };
    let kind = match as_str(&role).and_then(Role::named) {
        Some(role @ (Role::System | Role::User | Role::Assistant | Role::Tool)) => role.kind(),
        _ => return Ok(false),
    };
    let mut parts = Parts { parts, next: 1 };
    let mut extras = Extras { results: u32::from(kind == Kind::Tool), ..Extras::default() };
    let mut known = 1;
    if let Some(name) = dict.get_item(intern!(py, "name"))? {
        known += 1;
        if !name.is_none() {
            extras.named = true;
            if !is_text(&name)? || !parts.next_is(&name) {
                return Ok(false);
            }
        }
    }
    if let Some(calls) = dict.get_item(intern!(py, "tool_calls"))? {
        known += 1;
        if !calls.is_none() && !calls_are_next(&calls, &mut parts, &mut extras)? {
            return Ok(false);
        }
    }
    if let Some(content) = dict.get_item(intern!(py, "content"))? {
        known += 1;
        if let Ok(blocks) = content.cast_exact::<PyList>() {
            for block in blocks {
                if !text_is_next(&block, &mut parts)? {
                    return Ok(false);
                }
            }
        } else if !(content.is_none() || is_text(&content)? && parts.next_is(&content)) {
            return Ok(false);
        }
    }
    let says_no_more = dict.len() == known
        || dict.len() == known + 1 && dict.contains(intern!(py, "tool_call_id"))?
        || says_nothing_but(dict, |slot| matches!(slot, Slot::Role | Slot::Name | Slot::ToolCalls | Slot::Content));
    Ok(says_no_more && parts.is_all_of(Constants::of(plain).overhead(&extras)))
}

/// The parts of a pin that are not found yet.
struct Parts<'a, 'py> {
    parts: &'a Bound<'py, PyTuple>,
    next: usize,
}

impl<'py> Parts<'_, 'py> {
    /// Whether the next part is this string or value. A value's part is followed by its JSON.
    fn next_is(&mut self, text: &Bound<'py, PyAny>) -> bool {
        let is_it = self.parts.get_borrowed_item(self.next).is_ok_and(|part| {
            let pair = part.cast_exact::<PyTuple>();
            part.is(text) || pair.is_ok_and(|pair| pair.get_borrowed_item(0).is_ok_and(|value| value.is(text)))
        });
        self.next += 1;
        is_it
    }

    /// Whether all parts are found, and the first one is this overhead.
    fn is_all_of(&self, overhead: u64) -> bool {
        self.next == self.parts.len()
            && self
                .parts
                .get_borrowed_item(0)
                .is_ok_and(|counted| counted.extract::<u64>().is_ok_and(|it| it == overhead))
    }
}

/// Whether the next parts are those of these calls.
fn calls_are_next<'py>(calls: &Bound<'py, PyAny>, parts: &mut Parts<'_, 'py>, extras: &mut Extras) -> PyResult<bool> {
    let Ok(calls) = calls.cast_exact::<PyList>() else { return Ok(false) };
    for call in calls {
        extras.calls += 1;
        if !call_is_next(&call, parts)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the next parts are those of a call: `{"id", "type", "function": {"name", "arguments"}}`.
fn call_is_next<'py>(call: &Bound<'py, PyAny>, parts: &mut Parts<'_, 'py>) -> PyResult<bool> {
    let py = call.py();
    let Ok(call) = call.cast_exact::<PyDict>() else { return Ok(false) };
    let Some(function) = call.get_item(intern!(py, "function"))? else { return Ok(false) };
    let Ok(function) = function.cast_into_exact::<PyDict>() else { return Ok(false) };
    let mut known = 1;
    for skipped in [intern!(py, "id"), intern!(py, "type"), intern!(py, "index")] {
        known += usize::from(call.contains(skipped)?);
    }
    if call.len() != known || function.len() != 2 {
        return Ok(false);
    }
    let (Some(name), Some(arguments)) =
        (function.get_item(intern!(py, "name"))?, function.get_item(intern!(py, "arguments"))?)
    else {
        return Ok(false);
    };
    Ok(name.is_exact_instance_of::<PyString>()
        && !arguments.is_none()
        && parts.next_is(&name)
        && parts.next_is(&arguments))
}

/// Whether the next part is the text of this block: `{"type": "text", "text"}`.
fn text_is_next<'py>(block: &Bound<'py, PyAny>, parts: &mut Parts<'_, 'py>) -> PyResult<bool> {
    let py = block.py();
    let Ok(block) = block.cast_exact::<PyDict>() else { return Ok(false) };
    let (Some(class), Some(text)) = (block.get_item(intern!(py, "type"))?, block.get_item(intern!(py, "text"))?) else {
        return Ok(false);
    };
    Ok(block.len() == 2
        && as_str(&class) == Some("text")
        && text.is_exact_instance_of::<PyString>()
        && parts.next_is(&text))
}

fn is_text(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(value.is_exact_instance_of::<PyString>() && !value.is_empty()?)
}

/// Whether everything in `dict`, except these fields, is None or is not sent.
fn says_nothing_but(dict: &Bound<'_, PyDict>, is_known: impl Fn(Slot) -> bool) -> bool {
    all_entries(dict, |key, value| value.is_none() || key.and_then(Slot::named).is_none_or(&is_known))
}
