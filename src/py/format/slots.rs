//! The fields of a message that have a meaning, found in one pass over a dict.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::fields::{Field, Fields, all_entries, as_str, fields_of, is_empty, is_list, message_fields};

/// Names each field, and gives it a number.
macro_rules! slots {
    ($($slot:ident $name:literal),* $(,)?) => {
        #[derive(Clone, Copy)]
        pub enum Slot { $($slot),* }

        const NAMES: &[&str] = &[$($name),*];

        impl Slot {
            pub fn name(self) -> &'static str {
                NAMES[self as usize]
            }

            pub fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$slot),)* _ => None }
            }
        }
    };
}

slots! {
    // The fields that are sent. Those before `Name` are a message's substance: it has at least one of them.
    Content "content", Contents "contents", Blocks "blocks", Parts "parts", Items "items",
    ToolCalls "tool_calls", InvalidToolCalls "invalid_tool_calls", FunctionCall "function_call",
    ReasoningContent "reasoning_content", Reasoning "reasoning", ReasoningDetails "reasoning_details",
    Refusal "refusal", Thinking "thinking", Thought "thought", ToolPlan "tool_plan", ToolName "tool_name",
    Audio "audio", Images "images", Tools "tools",
    Name "name", Role "role", Type "type", Kind "kind", AdditionalKwargs "additional_kwargs",
    Data "data", Kwargs "kwargs", Id "id", From "from", Value "value", Execution "execution",
}

/// The fields that may be a message's body. The first that is not empty is the body.
pub const BODIES: [Slot; 5] = [Slot::Content, Slot::Contents, Slot::Blocks, Slot::Parts, Slot::Items];

const ANY_BODY: u64 = (1 << (Slot::Items as usize + 1)) - 1;
const SUBSTANCE: u64 = (1 << Slot::Name as usize) - 1;
/// A message without any of these has only its name and its body.
const BESIDE_BODY: u64 = SUBSTANCE & !ANY_BODY | 1 << Slot::AdditionalKwargs as usize;
const SAYS_WHO: u64 =
    1 << Slot::Role as usize | 1 << Slot::Type as usize | 1 << Slot::Kind as usize | 1 << Slot::Parts as usize;

/// These fields of a message; values may be None.
pub struct Slots<'py> {
    values: [Option<Bound<'py, PyAny>>; NAMES.len()],
    present: u64,
}

impl<'py> Slots<'py> {
    pub fn empty() -> Self {
        Self { values: [const { None }; NAMES.len()], present: 0 }
    }

    pub fn of(fields: &Fields<'py>) -> Self {
        let mut slots = Self::empty();
        match fields {
            Fields::Dict(dict) => {
                all_entries(dict, |key, value| {
                    slots.put(key, value);
                    true
                });
            }
            Fields::List(fields) => fields.iter().for_each(|(key, value)| slots.put(as_str(key), value.clone())),
        }
        slots
    }

    fn put(&mut self, key: Option<&str>, value: Bound<'py, PyAny>) {
        if let Some(slot) = key.and_then(Slot::named) {
            self.set(slot, value);
        }
    }

    pub fn set(&mut self, slot: Slot, value: Bound<'py, PyAny>) {
        self.values[slot as usize] = Some(value);
        self.present |= 1 << slot as usize;
    }

    pub fn has(&self, slot: Slot) -> bool {
        self.present & 1 << slot as usize != 0
    }

    /// The value of a field that is there, even if it is None.
    pub fn present(&self, slot: Slot) -> Option<&Bound<'py, PyAny>> {
        self.values[slot as usize].as_ref()
    }

    /// The value of a field that is not None.
    pub fn get(&self, slot: Slot) -> Option<&Bound<'py, PyAny>> {
        self.values[slot as usize].as_ref().filter(|value| !value.is_none())
    }

    pub fn text(&self, slot: Slot) -> Option<&Bound<'py, PyString>> {
        self.get(slot)?.cast().ok()
    }

    /// A field that is a list.
    pub fn list(&self, slot: Slot) -> PyResult<Option<&Bound<'py, PyAny>>> {
        match self.get(slot) {
            Some(value) if is_list(value)? => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    /// The fields of a field.
    pub fn fields(&self, slot: Slot) -> PyResult<Option<Fields<'py>>> {
        self.get(slot).map_or(Ok(None), fields_of)
    }

    /// Whether it has a body, even an empty one.
    pub fn has_body(&self) -> bool {
        self.present & ANY_BODY != 0
    }

    /// Whether it has anything else that is sent, apart from a name.
    pub fn has_more(&self) -> bool {
        self.present & BESIDE_BODY != 0
    }

    /// Whether it has anything that is sent and is not empty.
    pub fn has_substance(&self) -> PyResult<bool> {
        for value in self.values[..Slot::Name as usize].iter().flatten() {
            if !is_empty(value)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The fields of a message. Some objects' own dicts do not say who speaks and what: classes with slots, properties or
/// `__getattr__`. They are asked for the fields by name.
pub fn fields_of_message<'py>(message: &Bound<'py, PyAny>) -> PyResult<Fields<'py>> {
    message_fields(message, &NAMES[..=Slot::AdditionalKwargs as usize], says_enough)
}

fn says_enough(fields: &[Field<'_>]) -> bool {
    let present = fields
        .iter()
        .filter_map(|(key, _)| as_str(key).and_then(Slot::named))
        .fold(0, |present, slot| present | 1 << slot as usize);
    present & SAYS_WHO != 0 && present & SUBSTANCE != 0
}
