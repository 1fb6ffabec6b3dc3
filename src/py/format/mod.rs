//! Reading messages, whatever their format.

pub mod text;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
pub use text::{to_cow, to_text, type_name};

use crate::core::item::Outline;

/// Who reads messages.
pub enum Format {
    Plain,
}

pub struct Reading<'py> {
    pub texts: Vec<Bound<'py, PyAny>>,
}

impl<'py> Reading<'py> {
    pub fn constant(&self) -> i64 {
        4
    }
    pub fn pin(self, py: Python<'py>) -> PyResult<Py<PyAny>> {
        let _ = py;
        Ok(self.texts[0].clone().unbind())
    }
}

impl Format {
    pub fn from_source(source: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let _ = source;
        Ok(Self::Plain)
    }
    pub fn is_given(&self) -> bool {
        false
    }
    pub fn source<'py>(&self, _py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        None
    }
    pub fn clone_ref(&self, _py: Python<'_>) -> Self {
        Self::Plain
    }
    pub fn outline(&self, message: &Bound<'_, PyAny>) -> PyResult<Outline> {
        text::outline(message)
    }
    pub fn read<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Reading<'py>> {
        Ok(Reading { texts: vec![text::pin(message)?] })
    }
    pub fn still_has(&self, message: &Bound<'_, PyAny>, pin: &Bound<'_, PyAny>) -> PyResult<bool> {
        text::still_has(message, pin)
    }
    pub fn traverse(&self, _visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        Ok(())
    }
}

pub fn text_of(text: &Bound<'_, PyAny>) -> PyResult<String> {
    text::text(text)
}
