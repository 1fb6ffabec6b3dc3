//! Messages that say who speaks: OpenAI chat, Anthropic, Bedrock, Gemini, `LangChain`, `LlamaIndex` and all of the same
//! shape.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};

use super::Reading;
use super::fields::{as_str, fields_of, is_empty, is_list};
use super::keys::Role;
use super::reader::Reader;
use super::shape::unreadable;
use super::slots::{BODIES, Slot, Slots};
use crate::core::item::{Extras, Kind, Outline, Provider};
use crate::py::strings::type_name;

/// The fields whose strings are sent as they are.
const TEXTS: [Slot; 5] = [Slot::Refusal, Slot::Thinking, Slot::Thought, Slot::ToolPlan, Slot::ToolName];

/// Reads a message that says who speaks: by its role, or by the name of its class if it has no role. Only Gemini's
/// contents may do without.
pub fn read<'py>(
    message: &Bound<'py, PyAny>,
    slots: &Slots<'py>,
    speaker: Option<(&Bound<'py, PyString>, bool)>,
    wants_texts: bool,
) -> PyResult<Reading<'py>> {
    if !slots.has_body() && !slots.has_substance()? {
        return Err(unreadable(message)?);
    }
    let mut reader = Reader::new(message.py(), wants_texts);
    if let Some(name) = slots.text(Slot::Name)
        && !name.is_empty()?
    {
        reader.extras.named = true;
        reader.text(name.as_any());
    }
    if slots.has_more() {
        read_beside_body(&mut reader, slots)?;
    }
    let body = read_body(&mut reader, slots)?;

    let name = speaker.map(|(name, _)| name.to_str().unwrap_or_default());
    let role = name.and_then(Role::named);
    let mut kind = role.map_or(Kind::User, Role::kind);
    let extras = &mut reader.extras;
    if name.is_none() && extras.calls > 0 {
        kind = Kind::Assistant;
    } else if kind == Kind::User && extras.results > 0 {
        kind = Kind::Tool;
    }
    if role == Some(Role::Call) {
        extras.calls = extras.calls.max(1);
    }
    if kind == Kind::Tool {
        extras.results = extras.results.max(1);
    }
    let continues = kind == Kind::Assistant && (extras.calls > 0 || role == Some(Role::Reasoning));
    let may_start = match speaker {
        Some((name, true)) => !matches!(name.to_str(), Ok("assistant" | "tool")),
        _ => matches!(kind, Kind::System | Kind::User),
    };
    let provider = if matches!(body, Some(Slot::Parts)) {
        Provider::Gemini
    } else if let Some(provider) = reader.provider {
        provider
    } else if is_of_responses(slots) {
        Provider::OpenAiResponses
    } else {
        Provider::OpenAiChat
    };
    let plain_extras = Extras { results: u32::from(kind == Kind::Tool), ..Extras::default() };
    let is_plain = provider == Provider::OpenAiChat
        && reader.extras == plain_extras
        && match reader.texts.as_slice() {
            [] => body.is_none(),
            [text] => {
                text.is_instance_of::<PyString>() && slots.get(Slot::Content).is_some_and(|content| content.is(text))
            }
            _ => false,
        };
    Ok(Reading {
        outline: Outline { kind, continues, may_start },
        provider,
        extras: reader.extras,
        texts: reader.texts,
        is_plain,
    })
}

/// Whether it is an item of Responses although it has a role.
fn is_of_responses(slots: &Slots<'_>) -> bool {
    match slots.text(Slot::Type).and_then(|name| as_str(name)) {
        Some("message") => slots.has(Slot::Content),
        Some("additional_tools" | "configuration_update") => true,
        _ => false,
    }
}

/// Reads the fields of a message, except its name and its body.
fn read_beside_body<'py>(reader: &mut Reader<'py>, slots: &Slots<'py>) -> PyResult<()> {
    // LangChain and LlamaIndex put here what their messages have no field for.
    let more = slots.fields(Slot::AdditionalKwargs)?.map(|more| Slots::of(&more));
    let given = |slot: Slot| -> PyResult<Option<&Bound<'py, PyAny>>> {
        match slots.get(slot) {
            Some(value) if !is_empty(value)? => Ok(Some(value)),
            _ => Ok(more.as_ref().and_then(|more| more.get(slot))),
        }
    };
    for slot in [Slot::ToolCalls, Slot::InvalidToolCalls] {
        if let Some(calls) = given(slot)? {
            if let Ok(calls) = calls.cast::<PyList>() {
                for call in calls {
                    reader.call(&call)?;
                }
            } else if is_list(calls)? {
                for call in calls.cast::<PyTuple>()? {
                    reader.call(&call)?;
                }
            }
        }
    }
    if reader.extras.calls == 0
        && let Some(call) = given(Slot::FunctionCall)?
        && fields_of(call)?.is_some()
    {
        reader.call(call)?;
    }
    reader.reasoning([given(Slot::ReasoningContent)?, given(Slot::Reasoning)?], given(Slot::ReasoningDetails)?)?;
    for slot in TEXTS {
        if let Some(text) = given(slot)?
            && text.is_instance_of::<PyString>()
        {
            reader.text(text);
        }
    }
    if let Some(audio) = given(Slot::Audio)?
        && fields_of(audio)?.is_some()
    {
        reader.extras.audio += 1;
    }
    if let Some(images) = given(Slot::Images)?
        && is_list(images)?
    {
        reader.extras.images += images.len()? as u32;
    }
    if let Some(tools) = given(Slot::Tools)?
        && is_list(tools)?
    {
        reader.text(tools);
    }
    Ok(())
}

/// Reads a message's body: the first of the fields that may be it and is not empty.
fn read_body<'py>(reader: &mut Reader<'py>, slots: &Slots<'py>) -> PyResult<Option<Slot>> {
    for slot in BODIES {
        let Some(content) = slots.get(slot) else { continue };
        if is_empty(content)? {
            continue;
        }
        if !content.is_instance_of::<PyString>() && !is_list(content)? && fields_of(content)?.is_none() {
            return Err(PyTypeError::new_err(format!(
                "a message's {} must be a string, None or a list of parts, got {}",
                slot.name(),
                type_name(content)
            )));
        }
        reader.content(content, false)?;
        return Ok(Some(slot));
    }
    Ok(None)
}
