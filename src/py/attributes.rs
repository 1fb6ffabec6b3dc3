//! The attributes that a subclass adds to a ring, to be pickled and copied with it.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::message_ring::MessageRing;

/// The attributes that a subclass keeps in its dict, if it has one.
pub fn dict_of<'py>(ring: &Bound<'py, MessageRing>) -> PyResult<Option<Bound<'py, PyDict>>> {
    Ok(ring.getattr_opt(intern!(ring.py(), "__dict__"))?.map(Bound::cast_into).transpose()?)
}

/// The attributes that a subclass keeps in its `__slots__`, found as the interpreter's own `object.__reduce_ex__` finds
/// them.
pub fn slots_of<'py>(ring: &Bound<'py, MessageRing>) -> PyResult<Bound<'py, PyDict>> {
    let py = ring.py();
    let attributes = PyDict::new(py);
    for name in py.import("copyreg")?.call_method1("_slotnames", (ring.get_type(),))?.try_iter()? {
        let name = name?.cast_into::<PyString>()?;
        if let Some(value) = ring.getattr_opt(&name)? {
            attributes.set_item(name, value)?;
        }
    }
    Ok(attributes)
}

/// Sets attributes: those of the dict, and those `in_slots`.
pub fn add_attributes(
    ring: &Bound<'_, MessageRing>,
    attributes: Option<&Bound<'_, PyDict>>,
    in_slots: &Bound<'_, PyDict>,
) -> PyResult<()> {
    if let Some(attributes) = attributes {
        ring.getattr(intern!(ring.py(), "__dict__"))?.cast::<PyDict>()?.update(attributes.as_mapping())?;
    }
    // Copied: setting one may run any code.
    in_slots
        .iter()
        .collect::<Vec<_>>()
        .into_iter()
        .try_for_each(|(name, value)| ring.setattr(name.cast::<PyString>()?, value))
}

/// Undoes [`add_attributes`] of those `in_slots`, some of which the class may have refused.
pub fn take_back_attributes(
    ring: &Bound<'_, MessageRing>,
    attributes: Option<Bound<'_, PyDict>>,
    before: &Bound<'_, PyDict>,
    in_slots: &Bound<'_, PyDict>,
) -> PyResult<()> {
    if let (Some(own), Some(before)) = (dict_of(ring)?, attributes) {
        own.clear();
        own.update(before.as_mapping())?;
    }
    for (name, _) in in_slots.iter().collect::<Vec<_>>() {
        let name = name.cast_into::<PyString>()?;
        match before.get_item(&name)? {
            Some(value) => ring.setattr(name, value)?,
            None if ring.getattr_opt(&name)?.is_some() => ring.delattr(name)?,
            None => {}
        }
    }
    Ok(())
}
