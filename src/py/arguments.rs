//! Arguments of Python calls: numbers, indexes, limits and lists of messages.

use pyo3::exceptions::{PyIndexError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};

use super::callable::as_integer;
use super::strings::{shown, type_name};
use crate::core::error::Error;
use crate::core::policy::{Accounting, Limits, StartOn};

/// A token limit.
pub fn limit(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    let limit = integer(value, "token_limit")?;
    if limit < 1 { Err(Error::TokenLimit { limit }.into()) } else { Ok(limit) }
}

/// An integer argument, also one of another library. In Python a bool is an integer, but here it is never meant as one.
pub fn integer(value: &Bound<'_, PyAny>, name: &str) -> PyResult<i64> {
    let number = match as_integer(value) {
        Err(error) if error.is_instance_of::<PyTypeError>(value.py()) => None, // an array, for example
        number => number?,
    };
    let Some(number) = number else {
        let (shown, class) = (shown(value), type_name(value));
        return Err(PyTypeError::new_err(format!("{name} must be an integer, got {shown} ({class})")));
    };
    number.extract().map_err(|_| {
        let shown = value.str().map_or_else(|_| "one of thousands of digits".to_owned(), |value| value.to_string());
        PyValueError::new_err(format!("{name} must be between -2**63 and 2**63 - 1, got {shown}"))
    })
}

/// An index, counted from the newest if negative; `None` if it is too large for any ring.
pub fn position(index: &Bound<'_, PyAny>) -> PyResult<Option<isize>> {
    let py = index.py();
    match index.extract() {
        Ok(index) => Ok(Some(index)),
        Err(error) if error.is_instance_of::<PyOverflowError>(py) => Ok(None),
        Err(error) if error.is_instance_of::<PyTypeError>(py) => {
            Err(PyTypeError::new_err(format!("an index must be an integer or a slice, got {}", type_name(index))))
        }
        Err(error) => Err(error),
    }
}

/// The error for an index into a ring of `length` messages.
pub fn out_of_range(index: &Bound<'_, PyAny>, length: usize) -> PyErr {
    let shown = index.str().map_or_else(|_| "of thousands of digits".to_owned(), |index| index.to_string());
    PyIndexError::new_err(format!("index {shown} is out of range for a ring of {length} messages"))
}

/// What a window may begin with.
pub fn start_on(value: &Bound<'_, PyAny>) -> PyResult<Option<StartOn>> {
    if value.is_none() {
        return Ok(Some(StartOn::Any));
    }
    let is_user = value.cast::<PyString>().is_ok_and(|name| name.to_str().is_ok_and(|name| name == "user"));
    if is_user { Ok(Some(StartOn::User)) } else { Err(Error::StartOn { given: shown(value) }.into()) }
}

/// A bool argument. Anything else is a mistake: `include_system="no"` would be true.
pub fn boolean(value: &Bound<'_, PyAny>, name: &str) -> PyResult<bool> {
    value.extract().map_err(|_| {
        PyTypeError::new_err(format!("{name} must be a bool, got {} ({})", shown(value), type_name(value)))
    })
}

/// Whether a window is checked.
pub fn verify(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    boolean(value, "verify")
}

/// A share from 0 to 1.
pub fn ratio(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let is_number =
        (value.is_instance_of::<PyFloat>() || value.is_instance_of::<PyInt>()) && !value.is_instance_of::<PyBool>();
    if !is_number {
        return Err(PyTypeError::new_err(format!(
            "retention_ratio must be a number between 0 and 1, got {} ({})",
            shown(value),
            type_name(value)
        )));
    }
    let ratio = value.extract().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| Error::RetentionRatio { ratio: shown(value) }.into())
}

/// The options of one call; they override the ring's.
#[derive(Default)]
pub struct Asked<'a, 'py> {
    pub initial_token_count: Option<&'a Bound<'py, PyAny>>,
    pub token_limit: Option<&'a Bound<'py, PyAny>>,
    pub counter: Option<&'a Bound<'py, PyAny>>,
    pub include_system: Option<&'a Bound<'py, PyAny>>,
    pub retention_ratio: Option<&'a Bound<'py, PyAny>>,
}

impl Asked<'_, '_> {
    /// The limits of the call. What is not asked for is as in `own`.
    pub fn limits(&self, own: &Limits, accounting: Accounting) -> PyResult<Limits> {
        let limits = Limits {
            token_limit: self.token_limit.map_or(Ok(own.token_limit), limit)?,
            initial_token_count: self
                .initial_token_count
                .map_or(Ok(0), |count| integer(count, "initial_token_count"))?,
            include_system: self
                .include_system
                .map_or(Ok(own.include_system), |value| boolean(value, "include_system"))?,
            retention_ratio: self.retention_ratio.map_or(Ok(own.retention_ratio), ratio)?,
            all: false,
        };
        Ok(limits.checked(accounting)?)
    }
}

/// One message is not a list of messages.
pub fn check_is_many(messages: &Bound<'_, PyAny>) -> PyResult<()> {
    if messages.is_instance_of::<PyDict>() || messages.is_instance_of::<PyString>() {
        let given = type_name(messages);
        return Err(PyTypeError::new_err(format!("messages must be an iterable of messages, got one {given}")));
    }
    Ok(())
}
