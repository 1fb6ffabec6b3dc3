//! A Python callable as a counter. Every value that it returns is checked.

use std::sync::OnceLock;

use pyo3::exceptions::{PyException, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyFrozenSet, PyInt, PyList, PyMapping, PySet, PyString, PyTuple, PyType,
};

use super::strings::{shown, type_name};
use crate::core::count::Counter;
use crate::core::count::encoding::Special;
use crate::core::count::growth::{Doubt, Growth};

/// Tokens that one text or message may have: far more than any has, and few enough to add up millions.
pub const MOST_TOKENS: i64 = 1 << 40;

/// A Python callable from a text to its tokens.
pub struct Callable {
    /// What the counter was made from: the callable itself, or a tiktoken encoding.
    pub source: Py<PyAny>,
    function: Py<PyAny>,
    /// For a tiktoken encoding: like `function`, but special tokens are text like any other. Other callables decide
    /// themselves.
    ordinary: Option<Py<PyAny>>,
    /// The tokens of the empty text, once they are known.
    empty: OnceLock<i64>,
    /// A class whose objects were found to have as many items as a text has tokens. Finding that out takes 3 us.
    class: OnceLock<Py<PyType>>,
    growth: Growth,
}

impl Callable {
    /// The counter that calls `function`, and `ordinary` for text without special tokens.
    pub fn new(source: &Bound<'_, PyAny>, function: Bound<'_, PyAny>, ordinary: Option<Bound<'_, PyAny>>) -> Self {
        Self {
            source: source.clone().unbind(),
            function: function.unbind(),
            ordinary: ordinary.map(Bound::unbind),
            empty: OnceLock::new(),
            class: OnceLock::new(),
            growth: Growth::default(),
        }
    }

    /// A copy that has learnt nothing yet.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        let ordinary = self.ordinary.as_ref().map(|function| function.bind(py).clone());
        Self::new(self.source.bind(py), self.function.bind(py).clone(), ordinary)
    }

    /// The callable as a counter of the core. What special tokens count as is up to most callables.
    pub fn bind<'py>(&self, py: Python<'py>, special: Special) -> BoundCallable<'_, 'py> {
        let function = match (special, &self.ordinary) {
            (Special::Text, Some(ordinary)) => ordinary,
            _ => &self.function,
        };
        BoundCallable { function: function.bind(py), callable: self }
    }

    /// For the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.source)?;
        visit.call(&self.function)?;
        visit.call(&self.ordinary)?;
        visit.call(self.class.get())
    }
}

/// A [`Callable`] that can be called.
pub struct BoundCallable<'a, 'py> {
    function: &'a Bound<'py, PyAny>,
    callable: &'a Callable,
}

impl BoundCallable<'_, '_> {
    fn call(&self, text: &str) -> PyResult<i64> {
        tokens_of(&self.function.call1((text,))?, &self.callable.class)
    }

    /// Compares an odd count with the count of a longer text, which must be more.
    fn check(&self, doubt: Doubt, text: &str, tokens: i64) -> PyResult<()> {
        let py = self.function.py();
        // By chance, one longer text may have as many tokens, or fewer. Two will not.
        let longer_text = doubt.longer(text);
        let longer = match self.call(&longer_text) {
            Ok(longer) if longer == tokens => self.call(&doubt.longer(&longer_text)),
            other => other,
        };
        match longer {
            Ok(longer) if longer == tokens => Err(PyValueError::new_err(format!(
                "a counter returned {tokens} tokens for a text of {} characters, and {longer} for a longer one: it {}, or has \
                 one answer for all; {}",
                text.chars().count(),
                match doubt {
                    Doubt::Padded => "pads to a fixed length",
                    Doubt::Truncated => "truncates at a fixed length",
                },
                match doubt {
                    Doubt::Padded => "turn padding off (padding=False, or a tokenizer's no_padding())",
                    Doubt::Truncated => "turn truncation off (truncation=False, or a tokenizer's no_truncation())",
                }
            ))),
            Ok(longer) => {
                self.callable.growth.learn(tokens, longer.max(tokens));
                Ok(())
            }
            // It may accept certain texts only. It has counted those that it was given.
            Err(error) if error.is_instance_of::<PyException>(py) => {
                self.callable.growth.give_up();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

impl Counter for BoundCallable<'_, '_> {
    type Error = PyErr;

    fn count(&self, text: &str) -> PyResult<i64> {
        let tokens = self.call(text)?;
        if let Some(doubt) = self.callable.growth.doubt(text.len(), tokens) {
            self.check(doubt, text, tokens)?;
        }
        Ok(tokens)
    }

    fn count_empty(&self) -> PyResult<i64> {
        match self.callable.empty.get() {
            Some(tokens) => Ok(*tokens),
            // Not get_or_init: the callable may come back here, from this thread or another.
            None => self.count("").map(|tokens| *self.callable.empty.get_or_init(|| tokens)),
        }
    }

    fn splits_at_spaces(&self) -> bool {
        false
    }
}

/// The number of tokens that a callable has returned: a number, or the length of the text's tokens.
fn tokens_of(tokens: &Bound<'_, PyAny>, class: &OnceLock<Py<PyType>>) -> PyResult<i64> {
    if let Ok(list) = tokens.cast_exact::<PyList>() {
        return match list.get_item(0) {
            Ok(first) => one_text(tokens, &first, list.len()),
            Err(_) => Ok(0),
        };
    }
    if let Ok(tuple) = tokens.cast_exact::<PyTuple>() {
        return match tuple.get_item(0) {
            Ok(first) => one_text(tokens, &first, tuple.len()),
            Err(_) => Ok(0),
        };
    }
    if !tokens.is_exact_instance_of::<PyInt>() {
        if class.get().is_some_and(|class| tokens.get_type().is(class)) {
            return length_of(tokens);
        }
        if let Some(shape) = shape_of(tokens)? {
            match shape.len() {
                0 => {}
                1 => return length_of(tokens),
                _ => {
                    let advice = "return one dimension, such as the first row of a batch of one";
                    return Err(wrong(&format!("{} of shape {}", type_name(tokens), shown(&shape)), advice));
                }
            }
        } else if tokens.hasattr(intern!(tokens.py(), "__len__"))? {
            check_kind(tokens)?;
            class.get_or_init(|| tokens.get_type().unbind());
            return length_of(tokens);
        }
    }
    number(tokens)
}

/// The length of a list or tuple. Its first item tells whether it holds the tokens of one text or of several.
fn one_text(tokens: &Bound<'_, PyAny>, first: &Bound<'_, PyAny>, length: usize) -> PyResult<i64> {
    if !first.is_exact_instance_of::<PyInt>() && !first.is_exact_instance_of::<PyString>() {
        // Tuples may be tokens: a pattern with groups finds tuples, and tokens may come with their offsets.
        let is_nested = first.is_instance_of::<PyList>()
            || is_mapping_or_set(first)?
            || shape_of(first)?.is_some_and(|shape| !shape.is_empty());
        if is_nested {
            let what = format!("{} whose first item is a {}", type_name(tokens), type_name(first));
            return Err(wrong(&what, "return the tokens of one text, such as the first item of a batch of one"));
        }
    }
    in_range(length as i64)
}

/// Refuses what has a length that is not the number of a text's tokens.
fn check_kind(tokens: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = tokens.py();
    let name = || type_name(tokens);
    if is_set(tokens)? {
        Err(wrong(&name(), "a set has each token once; return a list"))
    } else if tokens.cast::<PyMapping>().is_ok() || tokens.hasattr(intern!(py, "keys"))? {
        let advice = "a mapping's length is the number of its keys; give the tokenizer's `encode`, or return its [\"input_ids\"]";
        Err(wrong(&name(), advice))
    } else if tokens.is_instance_of::<PyString>() {
        Err(wrong(&name(), "its length is the number of its characters; return a list of tokens"))
    } else if tokens.is_instance_of::<PyBytes>() || tokens.is_instance_of::<PyByteArray>() {
        Err(wrong(&name(), "its length is the number of its bytes; if that is what you count, return it as an integer"))
    } else {
        Ok(())
    }
}

fn is_mapping_or_set(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(object.cast::<PyMapping>().is_ok() || is_set(object)?)
}

fn is_set(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    if object.is_instance_of::<PySet>() || object.is_instance_of::<PyFrozenSet>() {
        return Ok(true);
    }
    let py = object.py();
    object.is_instance(&py.import(intern!(py, "collections.abc"))?.getattr(intern!(py, "Set"))?)
}

/// The shape of an array; None for anything else.
fn shape_of<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let shape = object.getattr_opt(intern!(object.py(), "shape"))?;
    // A torch.Size is a tuple.
    Ok(shape.and_then(|shape| shape.cast_into::<PyTuple>().ok()))
}

fn length_of(tokens: &Bound<'_, PyAny>) -> PyResult<i64> {
    in_range(i64::try_from(tokens.len()?).unwrap_or(i64::MAX))
}

fn in_range(length: i64) -> PyResult<i64> {
    if length <= MOST_TOKENS {
        return Ok(length);
    }
    Err(PyValueError::new_err(format!(
        "a counter returned {length} tokens for one text; more than 2**40 cannot be added up"
    )))
}

/// The number of tokens, if a number was returned.
fn number(tokens: &Bound<'_, PyAny>) -> PyResult<i64> {
    let Some(count) = as_integer(tokens)? else {
        let is_number = !tokens.is_instance_of::<PyBool>() && tokens.hasattr(intern!(tokens.py(), "__float__"))?;
        let what = if is_number { format!("{} ({})", shown(tokens), type_name(tokens)) } else { type_name(tokens) };
        let advice = if is_number { "round it up to an integer" } else { "return a list of tokens, or an integer" };
        return Err(wrong(&what, advice));
    };
    match count.extract::<i64>() {
        Ok(count @ 0..=MOST_TOKENS) => Ok(count),
        _ => Err(PyValueError::new_err(format!(
            "a counter must return between 0 and 2**40 tokens for a text, got {}",
            shown(tokens)
        ))),
    }
}

/// `tokens` as a Python int. Integers of other libraries have an `__index__`. So does a bool, but it is never meant.
pub fn as_integer<'py>(tokens: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    if tokens.is_instance_of::<PyBool>() {
        return Ok(None);
    }
    if tokens.is_exact_instance_of::<PyInt>() {
        return Ok(Some(tokens.clone()));
    }
    if !tokens.get_type().hasattr(intern!(tokens.py(), "__index__"))? {
        return Ok(None);
    }
    tokens
        .py()
        .import(intern!(tokens.py(), "operator"))?
        .getattr(intern!(tokens.py(), "index"))?
        .call1((tokens,))
        .map(Some)
}

fn wrong(what: &str, advice: &str) -> PyErr {
    PyTypeError::new_err(format!("a counter must return the tokens of a text, or their number; got {what}: {advice}"))
}
