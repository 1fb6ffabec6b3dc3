//! Which shape a message has.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::fields::{Field, as_str, is_mapping};
use super::keys::{Role, Type};
use super::reader::{type_of, with_underscores};
use super::slots::{Slot, Slots, fields_of_message};
use super::{Reading, item, langchain, pydantic_ai, speech};
use crate::py::strings::{shown, type_name};

/// Reads a message of any known shape.
pub fn read<'py>(message: &Bound<'py, PyAny>, wants_texts: bool) -> PyResult<Reading<'py>> {
    let py = message.py();
    let mut fields = fields_of_message(message)?;
    let mut slots = Slots::of(&fields);
    if let Some((inner, class)) = langchain::unwrap(&slots)? {
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
        return speech::read(message, &slots, Some((&name, true)), wants_texts);
    }
    if let Some(kind @ ("request" | "response")) = slots.text(Slot::Kind).and_then(|kind| as_str(kind))
        && let Some(parts) = slots.list(Slot::Parts)?
    {
        return pydantic_ai::read(parts, kind == "response", wants_texts);
    }
    let class = match slots.text(Slot::Type) {
        Some(name) => Some(Type::named(&with_underscores(name))),
        None => type_of(&fields, py)?,
    };
    if let Some(class @ (Type::Call | Type::ImageGeneration | Type::Result | Type::Reasoning | Type::System)) = class {
        return item::read(py, fields, &slots, class, wants_texts);
    }
    if slots.has_body()
        && let Some(name) = slots.text(Slot::Type)
        && name.to_str().is_ok_and(|name| Role::named(name).is_some())
    {
        return speech::read(message, &slots, Some((name, false)), wants_texts);
    }
    if slots.list(Slot::Parts)?.is_some() {
        return speech::read(message, &slots, None, wants_texts);
    }
    // ShareGPT's
    if slots.has(Slot::Value)
        && let Some(from) = slots.text(Slot::From)
    {
        let mut renamed = Slots::empty();
        if let Some(value) = slots.present(Slot::Value) {
            renamed.set(Slot::Content, value.clone());
        }
        return speech::read(message, &renamed, Some((from, true)), wants_texts);
    }
    Err(unreadable(message)?)
}

/// The error of a message that has none of the known shapes.
pub fn unreadable(message: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let kind = if is_mapping(message)? { "keys" } else { "attributes" };
    let name = |(key, value): &Field<'_>| format!("{}{}", shown(key), if value.is_none() { " (None)" } else { "" });
    let names: Vec<String> = fields_of_message(message)?.entries().iter().take(12).map(name).collect();
    let class = type_name(message);
    let has = match (names.is_empty(), kind) {
        (false, _) => format!("this {class} has the {kind} {}", names.join(", ")),
        (true, "keys") => format!("this {class} has no keys"),
        (true, _) => format!("got {class}"),
    };
    Ok(PyTypeError::new_err(format!(
        "a message needs a role and a content (or tool_calls, blocks or parts), or the type of an item such as \
         function_call; {has}"
    )))
}
