//! `trim_messages`: a ring for one call.

use pyo3::prelude::*;

use super::arguments;
use super::message_ring::MessageRing;
use crate::core::policy::StartOn;

/// The window of a list of messages. See the stub for what Python sees.
#[pyfunction]
#[pyo3(
    signature = (
        messages, token_limit, *, counter = None, measure = None, start_on = None, include_system = None,
        retention_ratio = None, initial_token_count = None, format = None
    ),
    text_signature = "(messages, token_limit, *, counter='o200k_base', measure='message', start_on='user', \
                      include_system=True, retention_ratio=1.0, initial_token_count=0, format=None)"
)]
#[expect(clippy::too_many_arguments, reason = "all but the first two by name")]
pub fn trim_messages<'py>(
    py: Python<'py>,
    messages: &Bound<'py, PyAny>,
    token_limit: &Bound<'py, PyAny>,
    counter: Option<&Bound<'py, PyAny>>,
    measure: Option<&Bound<'py, PyAny>>,
    #[pyo3(from_py_with = arguments::start_on)] start_on: Option<StartOn>,
    include_system: Option<&Bound<'py, PyAny>>,
    retention_ratio: Option<&Bound<'py, PyAny>>,
    initial_token_count: Option<&Bound<'py, PyAny>>,
    format: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let limit = Some(token_limit);
    let ring =
        MessageRing::py_new(py, limit, counter, measure, start_on, include_system, retention_ratio, None, format)?;
    ring.put_messages(messages)?;
    ring.window(py, initial_token_count, None, None, None, None, false)
}
