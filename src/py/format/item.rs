//! Items of OpenAI's Responses, which have a type instead of a role.

use pyo3::prelude::*;

use super::Reading;
use super::fields::{Fields, as_str};
use super::keys::Type;
use super::reader::Reader;
use super::slots::{Slot, Slots};
use crate::core::item::{Kind, Outline, Provider};

/// Reads an item whose type says what it is.
pub fn read<'py>(
    py: Python<'py>,
    fields: Fields<'py>,
    slots: &Slots<'py>,
    class: Type,
    wants_texts: bool,
) -> PyResult<Reading<'py>> {
    let mut reader = Reader::new(py, wants_texts);
    reader.block(fields)?;
    // What the provider's own tool found is part of its reply.
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
        is_plain: false,
    })
}
