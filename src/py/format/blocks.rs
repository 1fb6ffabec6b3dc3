//! LlamaIndex's messages as its `Memory` counts them: each text block by itself, and nothing for the message.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::text::{blocks, instance_field, is_exactly, role};
use crate::core::item::{Kind, Outline};

/// What `message` is to a queue: a user message, which a queue may begin with, or another one.
///
/// # Errors
/// A `TypeError` if it has no role, and whatever its own properties raise.
pub fn outline(message: &Bound<'_, PyAny>) -> PyResult<Outline> {
    let kind = match role(message)?.to_str() {
        Ok("user") => Kind::User,
        Ok("system" | "developer") => Kind::System,
        Ok("tool" | "function") => Kind::Tool,
        _ => Kind::Assistant,
    };
    Ok(Outline { kind, continues: false, may_start: kind == Kind::User })
}

/// The texts of `message`, if it is exactly of LlamaIndex's class and contains nothing else that could count: only text
/// blocks, and no `additional_kwargs`.
///
/// # Errors
/// Only if the interpreter runs out of memory.
pub fn texts<'py>(message: &Bound<'py, PyAny>) -> PyResult<Option<Vec<Bound<'py, PyString>>>> {
    let py = message.py();
    let Some((blocks, text_block)) = blocks(message)? else { return Ok(None) };
    let kwargs = instance_field(message, intern!(py, "additional_kwargs"))?;
    if !kwargs.is_some_and(|kwargs| kwargs.cast_exact::<PyDict>().is_ok_and(PyDictMethods::is_empty)) {
        return Ok(None);
    }
    let mut texts = Vec::with_capacity(blocks.len());
    for block in blocks {
        if !is_exactly(&block, text_block) {
            return Ok(None);
        }
        let text = instance_field(&block, intern!(py, "text"))?;
        let Some(text) = text.and_then(|text| text.cast_into_exact::<PyString>().ok()) else { return Ok(None) };
        texts.push(text);
    }
    Ok(Some(texts))
}
