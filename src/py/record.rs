//! Counting for the stores: records that are kept elsewhere, as tuples that begin with a role and a text.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};

use super::counter::{Counting, DETACH_BYTES, TokenCounter};
use super::message::to_text;
use crate::core::appended::{Appended, append};
use crate::core::joint::{Text, is_blank};
use crate::core::role::may_start_window;
use crate::core::window::earliest_blank_fit;

/// See the stub for what Python sees: the sums, the starts, the length of the blank tail, and whether the end is closed.
type Measured = (Vec<i64>, Vec<(i64, i64)>, usize, bool);

/// Measures `records`, which are appended to a history that ends with the records `earlier`.
#[pyfunction]
#[pyo3(signature = (counter, earlier, records, from_first, /))]
pub fn _measure_appended(
    counter: &Bound<'_, TokenCounter>,
    earlier: &Bound<'_, PyList>,
    records: &Bound<'_, PyList>,
    from_first: bool,
) -> PyResult<Measured> {
    let py = counter.py();
    let (mut earlier, mut texts) = (read(earlier)?, read(records)?);
    if from_first && let Some(first) = earlier.first_mut().or(texts.first_mut()) {
        first.may_start = true;
    }
    let Appended { sums, starts, blank_tail, closed } = match counter.get().counting() {
        Counting::Native(encoding) => {
            // Among blank texts, each is counted with all that follow.
            let bytes = texts.iter().map(|text| text.text.len() + 1).sum::<usize>();
            let little = earlier.is_empty() && bytes * texts.len() < DETACH_BYTES;
            let work = || append(*encoding, earlier, texts);
            let Ok(appended) = if little { work() } else { py.detach(work) };
            appended
        }
        Counting::Callable(callable) => append(&callable.bind(py), earlier, texts)?,
    };
    Ok((sums, starts, blank_tail, closed))
}

/// The index of the record that a window starts with, among blank `records` with which a history ends.
#[pyfunction]
#[pyo3(signature = (counter, records, from_first, allowance, /))]
pub fn _start_among_blank(
    counter: &Bound<'_, TokenCounter>,
    records: &Bound<'_, PyList>,
    from_first: bool,
    allowance: i64,
) -> PyResult<u64> {
    let py = counter.py();
    let mut texts = read(records)?;
    if from_first && let Some(first) = texts.first_mut() {
        first.may_start = true;
    }
    let last = texts.len().saturating_sub(1) as u64;
    let fit = match counter.get().counting() {
        Counting::Native(encoding) => {
            let Ok(fit) = py.detach(|| earliest_blank_fit(*encoding, 0, &texts, allowance));
            fit
        }
        Counting::Callable(callable) => earliest_blank_fit(&callable.bind(py), 0, &texts, allowance)?,
    };
    Ok(fit.map_or(last, |fit| fit.start))
}

/// Whether `text` has nothing but whitespace, as the accounting rule has it.
#[pyfunction]
#[pyo3(signature = (text, /))]
pub fn _is_blank(text: &Bound<'_, PyString>) -> PyResult<bool> {
    Ok(is_blank(&to_text(text)?))
}

fn read(records: &Bound<'_, PyList>) -> PyResult<Vec<Text>> {
    let read_one = |record: Bound<'_, PyAny>| {
        let record = record.cast_into::<PyTuple>()?;
        let (role, text) = (record.get_item(0)?, record.get_item(1)?);
        Ok(Text::new(to_text(text.cast()?)?, may_start_window(&to_text(role.cast()?)?)))
    };
    records.iter().map(read_one).collect()
}
