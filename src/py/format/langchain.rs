//! `LangChain`'s dumps: a message's fields in an envelope. The fields are read like those of any message.

use pyo3::prelude::*;

use super::fields::{Fields, as_str, is_list};
use super::keys::{Role, Type};
use super::slots::{Slot, Slots};

/// The fields inside, and the name of the class if the envelope gives it.
pub type Unwrapped<'py> = (Fields<'py>, Option<Bound<'py, PyAny>>);

/// Opens an envelope of `dumpd`, whose id ends with the name of the class, or of `messages_to_dict`.
pub fn unwrap<'py>(slots: &Slots<'py>) -> PyResult<Option<Unwrapped<'py>>> {
    match slots.text(Slot::Type).and_then(|name| name.to_str().ok()) {
        Some("constructor") => match slots.fields(Slot::Kwargs)? {
            Some(inner) => {
                Ok(Some((inner, last(slots.get(Slot::Id))?.filter(|name| as_str(name).is_some_and(is_class)))))
            }
            None => Ok(None),
        },
        Some(name) if slots.has(Slot::Data) && is_class(name) => {
            Ok(slots.fields(Slot::Data)?.map(|inner| (inner, slots.get(Slot::Type).cloned())))
        }
        _ => Ok(None),
    }
}

/// Whether `name` is a class of messages, not a type of items.
fn is_class(name: &str) -> bool {
    matches!(Role::named(name), Some(Role::System | Role::User | Role::Assistant | Role::Tool))
        && !matches!(Type::named(&name.replace('-', "_")), Type::Call | Type::ImageGeneration | Type::Result)
}

/// The last element of a list, if it is one.
fn last<'py>(list: Option<&Bound<'py, PyAny>>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some(list) = list else { return Ok(None) };
    if !is_list(list)? || list.len()? == 0 {
        return Ok(None);
    }
    list.get_item(-1).map(Some)
}
