//! Core errors as Python exceptions.

use pyo3::PyErr;
use pyo3::exceptions::PyValueError;

use crate::core::error::Error;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        PyValueError::new_err(error.to_string())
    }
}
