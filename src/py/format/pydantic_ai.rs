//! Pydantic AI's requests and responses, whose parts say who speaks.

use pyo3::prelude::*;

use super::Reading;
use super::fields::fields_of;
use super::reader::{Reader, is_type};
use crate::core::item::{Kind, Outline, Provider};

/// Reads the parts of a request or a response.
pub fn read<'py>(parts: &Bound<'py, PyAny>, is_response: bool, wants_texts: bool) -> PyResult<Reading<'py>> {
    let py = parts.py();
    let mut reader = Reader::new(py, wants_texts);
    reader.content(parts, false)?;
    let kind = if is_response {
        Kind::Assistant
    } else if reader.extras.results > 0 {
        Kind::Tool
    } else if instructs(parts)? {
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
        is_plain: false,
    })
}

/// Whether all parts are system prompts.
fn instructs(parts: &Bound<'_, PyAny>) -> PyResult<bool> {
    let (mut records, mut instructions) = (0, 0);
    for part in parts.try_iter()? {
        if let Some(fields) = fields_of(&part?)? {
            records += 1;
            instructions += u32::from(is_type(&fields, parts.py(), "system_prompt")?);
        }
    }
    Ok(records > 0 && instructions == records)
}
