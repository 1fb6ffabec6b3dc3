//! Messages of all shapes: which one it is, who speaks, and which of its fields are sent.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};

use super::Reading;
use super::fields::{Field, Fields, as_str, fields_of, is_empty, is_list, is_mapping, message_fields};
use super::keys::{Role, Type};
use super::reader::{Reader, is_type, type_of, with_underscores};
use crate::core::item::{Kind, Outline, Provider};
use crate::py::message::type_name;

/// The fields of a message that this module looks at, found in one pass over a dict.
macro_rules! slots {
    ($($slot:ident $name:literal),* $(,)?) => {
        #[derive(Clone, Copy)]
        enum Slot { $($slot),* }

        const SLOTS: usize = [$($name),*].len();

        impl Slot {
            fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$slot),)* _ => None }
            }
        }
    };
}

slots! {
    // The fields that are sent. What stands before `Name` is a message's substance: it has at least one of these.
    Content "content", Contents "contents", Blocks "blocks", Parts "parts", Items "items",
    ToolCalls "tool_calls", InvalidToolCalls "invalid_tool_calls", FunctionCall "function_call",
    ReasoningContent "reasoning_content", Reasoning "reasoning", ReasoningDetails "reasoning_details",
    Refusal "refusal", Thinking "thinking", Thought "thought", ToolPlan "tool_plan", ToolName "tool_name",
    Audio "audio", Images "images", Tools "tools",
    Name "name", Role "role", Type "type", Kind "kind", AdditionalKwargs "additional_kwargs",
    Data "data", Kwargs "kwargs", Id "id", From "from", Value "value", Execution "execution",
}

const BODIES: [Slot; 5] = [Slot::Content, Slot::Contents, Slot::Blocks, Slot::Parts, Slot::Items];
const TEXTS: [Slot; 5] = [Slot::Refusal, Slot::Thinking, Slot::Thought, Slot::ToolPlan, Slot::ToolName];
const SUBSTANCE: u64 = (1 << Slot::Name as usize) - 1;
const ANY_BODY: u64 = (1 << (Slot::Items as usize + 1)) - 1;
/// A message without any of these has nothing but its name and its body.
const BESIDE_BODY: u64 = SUBSTANCE & !ANY_BODY | 1 << Slot::AdditionalKwargs as usize;

/// What is asked of an object by name if its own dict does not have it: a class with slots, properties or `__getattr__`.
const PROBED: [&str; 24] = [
    "role",
    "type",
    "kind",
    "name",
    "additional_kwargs",
    "content",
    "contents",
    "blocks",
    "parts",
    "items",
    "tool_calls",
    "invalid_tool_calls",
    "function_call",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "refusal",
    "thinking",
    "thought",
    "tool_plan",
    "tool_name",
    "audio",
    "images",
    "tools",
];

/// Those fields of a message, None included.
struct Slots<'py> {
    values: [Option<Bound<'py, PyAny>>; SLOTS],
    present: u64,
}

impl<'py> Slots<'py> {
    fn of(fields: &Fields<'py>) -> Self {
        let mut slots = Self { values: [const { None }; SLOTS], present: 0 };
        match fields {
            Fields::Dict(dict) => dict.iter().for_each(|(key, value)| slots.put(&key, value)),
            Fields::List(fields) => fields.iter().for_each(|(key, value)| slots.put(key, value.clone())),
        }
        slots
    }

    fn put(&mut self, key: &Bound<'py, PyAny>, value: Bound<'py, PyAny>) {
        if let Some(slot) = as_str(key).and_then(Slot::named) {
            self.set(slot, value);
        }
    }

    fn set(&mut self, slot: Slot, value: Bound<'py, PyAny>) {
        self.values[slot as usize] = Some(value);
        self.present |= 1 << slot as usize;
    }

    fn has(&self, slot: Slot) -> bool {
        self.present & 1 << slot as usize != 0
    }

    fn get(&self, slot: Slot) -> Option<&Bound<'py, PyAny>> {
        self.values[slot as usize].as_ref().filter(|value| !value.is_none())
    }

    fn text(&self, slot: Slot) -> Option<&Bound<'py, PyString>> {
        self.get(slot)?.cast().ok()
    }

    /// A field that is a list.
    fn list(&self, slot: Slot) -> PyResult<Option<&Bound<'py, PyAny>>> {
        match self.get(slot) {
            Some(value) if is_list(value)? => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    /// The fields of a field.
    fn fields(&self, slot: Slot) -> PyResult<Option<Fields<'py>>> {
        self.get(slot).map_or(Ok(None), fields_of)
    }
}

fn fields_of_message<'py>(message: &Bound<'py, PyAny>) -> PyResult<Fields<'py>> {
    message_fields(message, &PROBED, says_enough)
}

/// The error of a message that has none of the known shapes.
fn unreadable(message: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let kind = if is_mapping(message)? { "keys" } else { "attributes" };
    let names: Vec<String> = fields_of_message(message)?
        .entries()
        .iter()
        .take(12)
        .map(|(key, _)| Ok(key.repr()?.to_string_lossy().into_owned()))
        .collect::<PyResult<_>>()?;
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Ok(PyTypeError::new_err(format!(
        "a message needs a role and a content (or tool_calls, blocks or parts), or the type of an item such as \
         function_call; this {} has the {kind} {names}",
        type_name(message)
    )))
}

/// Whether the attributes of an object say who speaks, and something.
fn says_enough(fields: &[Field<'_>]) -> bool {
    let mut present = 0u64;
    for slot in fields.iter().filter_map(|(key, _)| as_str(key).and_then(Slot::named)) {
        present |= 1 << slot as usize;
    }
    let says_who = present & (1 << Slot::Role as usize | 1 << Slot::Type as usize | 1 << Slot::Kind as usize);
    (says_who | present & 1 << Slot::Parts as usize) != 0 && present & SUBSTANCE != 0
}

/// Reads a message of any known shape.
pub fn read<'py>(message: &Bound<'py, PyAny>, wants_texts: bool) -> PyResult<Reading<'py>> {
    let py = message.py();
    let mut fields = fields_of_message(message)?;
    let mut slots = Slots::of(&fields);
    let kind_name = slots.text(Slot::Type).and_then(|name| name.to_str().ok());
    // LangChain's dumps: of `dumpd`, where the class's name stands last in the id, and of `messages_to_dict`.
    let inner = match kind_name {
        Some("constructor") => {
            slots.fields(Slot::Kwargs)?.map(|inner| Ok::<_, PyErr>((inner, last(slots.get(Slot::Id))?))).transpose()?
        }
        Some(name) if slots.has(Slot::Data) && Role::named(name).is_some() => {
            slots.fields(Slot::Data)?.map(|inner| (inner, slots.get(Slot::Type).cloned()))
        }
        _ => None,
    };
    if let Some((inner, class)) = inner {
        fields = inner;
        slots = Slots::of(&fields);
        if let Some(class) = class
            && !slots.has(Slot::Type)
        {
            slots.set(Slot::Type, class);
        }
    }

    if let Some(role) = slots.get(Slot::Role) {
        let value = if role.is_instance_of::<PyString>() { None } else { role.getattr_opt(intern!(py, "value"))? };
        let name = value.as_ref().unwrap_or(role).clone();
        let name = name
            .cast_into::<PyString>()
            .map_err(|_| PyTypeError::new_err(format!("a message's role must be a string, got {}", type_name(role))))?;
        return read_message(message, &slots, Some((&name, true)), wants_texts);
    }
    let is_pydantic_ai =
        slots.text(Slot::Kind).is_some_and(|kind| matches!(as_str(kind), Some("request" | "response")));
    if is_pydantic_ai && let Some(parts) = slots.list(Slot::Parts)? {
        return read_pydantic_ai(
            parts,
            slots.text(Slot::Kind).is_some_and(|kind| as_str(kind) == Some("response")),
            wants_texts,
        );
    }
    let class = match slots.text(Slot::Type) {
        Some(name) => Some(Type::named(&with_underscores(name))),
        None => type_of(&fields, py)?,
    };
    if let Some(class @ (Type::Call | Type::ImageGeneration | Type::Result | Type::Reasoning | Type::System)) = class {
        return read_item(py, fields, &slots, class, wants_texts);
    }
    if slots.present & ANY_BODY != 0
        && let Some(name) = slots.text(Slot::Type)
        && name.to_str().is_ok_and(|name| Role::named(name).is_some())
    {
        return read_message(message, &slots, Some((name, false)), wants_texts);
    }
    if slots.list(Slot::Parts)?.is_some() {
        return read_message(message, &slots, None, wants_texts);
    }
    // ShareGPT's
    if slots.has(Slot::Value)
        && let Some(from) = slots.text(Slot::From)
    {
        let mut renamed = Slots { values: [const { None }; SLOTS], present: 0 };
        if let Some(value) = &slots.values[Slot::Value as usize] {
            renamed.set(Slot::Content, value.clone());
        }
        return read_message(message, &renamed, Some((from, true)), wants_texts);
    }
    Err(unreadable(message)?)
}

/// The last element of a list, if it is one.
fn last<'py>(list: Option<&Bound<'py, PyAny>>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some(list) = list else { return Ok(None) };
    if !is_list(list)? || list.len()? == 0 {
        return Ok(None);
    }
    list.get_item(-1).map(Some)
}

/// Reads a message that names who speaks, by its role or, without one, by the name of its class. Only Gemini's contents
/// may leave it out.
fn read_message<'py>(
    message: &Bound<'py, PyAny>,
    slots: &Slots<'py>,
    speaker: Option<(&Bound<'py, PyString>, bool)>,
    wants_texts: bool,
) -> PyResult<Reading<'py>> {
    if slots.present & ANY_BODY == 0 && !has_substance(slots)? {
        return Err(unreadable(message)?);
    }
    let mut reader = Reader::new(message.py(), wants_texts);
    if let Some(name) = slots.text(Slot::Name)
        && !name.is_empty()?
    {
        reader.extras.named = true;
        reader.text(name.as_any());
    }
    if slots.present & BESIDE_BODY != 0 {
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
    } else if slots
        .text(Slot::Type)
        .is_some_and(|name| matches!(as_str(name), Some("message" | "additional_tools" | "configuration_update")))
    {
        Provider::OpenAiResponses
    } else {
        Provider::OpenAiChat
    };
    Ok(Reading {
        outline: Outline { kind, continues, may_start },
        provider,
        extras: reader.extras,
        texts: reader.texts,
    })
}

fn has_substance(slots: &Slots<'_>) -> PyResult<bool> {
    for value in slots.values[..Slot::Name as usize].iter().flatten() {
        if !is_empty(value)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the fields of a message other than its name and its body.
fn read_beside_body<'py>(reader: &mut Reader<'py>, slots: &Slots<'py>) -> PyResult<()> {
    // LangChain's and LlamaIndex's: what their messages have no field for.
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

/// Reads a message's body: the first of the fields that may be it and are not empty.
fn read_body<'py>(reader: &mut Reader<'py>, slots: &Slots<'py>) -> PyResult<Option<Slot>> {
    for slot in BODIES {
        let Some(content) = slots.get(slot) else { continue };
        if is_empty(content)? {
            continue;
        }
        if !content.is_instance_of::<PyString>() && !is_list(content)? && fields_of(content)?.is_none() {
            let name = ["content", "contents", "blocks", "parts", "items"][slot as usize];
            return Err(PyTypeError::new_err(format!(
                "a message's {name} must be a string, None or a list of parts, got {}",
                type_name(content)
            )));
        }
        reader.content(content, false)?;
        return Ok(Some(slot));
    }
    Ok(None)
}

/// Reads an item that says by its type what it is, as OpenAI's Responses have them.
fn read_item<'py>(
    py: Python<'py>,
    fields: Fields<'py>,
    slots: &Slots<'py>,
    class: Type,
    wants_texts: bool,
) -> PyResult<Reading<'py>> {
    let mut reader = Reader::new(py, wants_texts);
    reader.block(fields)?;
    // What the provider's own tool found is a part of its reply.
    let by_server = slots.text(Slot::Execution).is_some_and(|by| as_str(by) == Some("server"));
    let kind = match class {
        Type::Result if !by_server => Kind::Tool,
        Type::System => Kind::System,
        _ => Kind::Assistant,
    };
    Ok(Reading {
        outline: Outline { kind, continues: kind == Kind::Assistant, may_start: kind == Kind::System },
        provider: reader.provider.unwrap_or(Provider::OpenAiResponses),
        extras: reader.extras,
        texts: reader.texts,
    })
}

/// Reads a request or a response of Pydantic AI, whose parts say who speaks.
fn read_pydantic_ai<'py>(parts: &Bound<'py, PyAny>, is_response: bool, wants_texts: bool) -> PyResult<Reading<'py>> {
    let py = parts.py();
    let mut reader = Reader::new(py, wants_texts);
    reader.content(parts, false)?;
    let (mut records, mut instructions) = (0, 0);
    for part in parts.try_iter()? {
        if let Some(fields) = fields_of(&part?)? {
            records += 1;
            instructions += u32::from(is_type(&fields, py, "system_prompt")?);
        }
    }
    let kind = if is_response {
        Kind::Assistant
    } else if reader.extras.results > 0 {
        Kind::Tool
    } else if records > 0 && instructions == records {
        Kind::System
    } else {
        Kind::User
    };
    let continues = kind == Kind::Assistant && reader.extras.calls > 0;
    let may_start = matches!(kind, Kind::System | Kind::User);
    Ok(Reading {
        outline: Outline { kind, continues, may_start },
        provider: Provider::OpenAiChat,
        extras: reader.extras,
        texts: reader.texts,
    })
}
