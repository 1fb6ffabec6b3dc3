//! `TokenCounter`: text to number of tokens, natively or through a Python callable.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyList, PyString, PyType};
use pyo3::{PyTypeInfo, intern};

use super::callable::{BoundCallable, Callable};
use super::strings::{shown, to_cow, to_text, type_name};
use crate::core::count::Counter;
use crate::core::count::batch::Workers;
use crate::core::count::encoding::{Encoding, Native, Special};

/// Bytes of text from which counting releases the GIL. Counting takes about 7 ns a byte. Releasing the GIL and taking
/// it back takes about 60 ns when nobody wants it, and far more when somebody does.
pub const DETACH_BYTES: usize = 16 * 1024;

/// Does `work`, which counts with `encoding`, without the GIL.
///
/// The vocabulary is loaded first, with the GIL, because Python does not fork without it. A child forked while another
/// thread loads would inherit a half-loaded vocabulary, and would wait for ever for a thread that it does not have.
pub fn detach<T: Send>(py: Python<'_>, encoding: &Encoding, work: impl FnOnce() -> T + Send) -> T {
    encoding.load();
    py.detach(work)
}

/// Does `work`, which counts `bytes` of text with `encoding`: without the GIL if that is much.
pub fn detach_if_much<T: Send>(
    py: Python<'_>,
    encoding: &Encoding,
    bytes: usize,
    work: impl FnOnce() -> T + Send,
) -> T {
    if bytes < DETACH_BYTES { work() } else { detach(py, encoding, work) }
}

#[doc = stub!("TokenCounter")]
#[pyclass(frozen, module = "chatring", weakref)]
pub struct TokenCounter {
    counting: Counting,
    /// Tells counters apart without calling Python: see [`TokenCounter::counts_like`].
    key: (usize, usize),
    name: String,
}

/// How a counter counts.
enum Counting {
    /// With an embedded encoding, in Rust.
    Native(&'static Encoding),
    /// By calling Python.
    Callable(Callable),
}

/// A counter of the core.
pub enum BoundCounter<'a, 'py> {
    Native(Native),
    Callable(BoundCallable<'a, 'py>),
}

impl TokenCounter {
    /// The counter for `source`: a counter itself, an encoding's name, a tiktoken encoding or a callable.
    pub fn from_source<'py>(source: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        match source.cast::<Self>() {
            Ok(counter) => Ok(counter.clone()),
            Err(_) => Bound::new(source.py(), Self::py_new(source)?),
        }
    }

    /// Its name: the encoding's or the callable's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it counts without calling Python.
    pub fn is_native(&self) -> bool {
        matches!(self.counting, Counting::Native(_))
    }

    /// As a counter of the core.
    pub fn bind<'py>(&self, py: Python<'py>, special: Special) -> BoundCounter<'_, 'py> {
        match &self.counting {
            Counting::Native(encoding) => BoundCounter::Native(Native { encoding, special }),
            Counting::Callable(callable) => BoundCounter::Callable(callable.bind(py, special)),
        }
    }

    /// Whether both count the same way: the same encoding, the same callable, or the same method of the same object.
    pub fn counts_like(&self, other: &Self) -> bool {
        self.key == other.key
    }

    fn native(encoding: &'static Encoding) -> Self {
        let key = (std::ptr::from_ref(encoding) as usize, 0);
        Self { counting: Counting::Native(encoding), key, name: encoding.name().to_owned() }
    }

    fn callable(callable: &Bound<'_, PyAny>) -> PyResult<Self> {
        refuse_fixed_lengths(callable)?;
        let name = match callable.getattr_opt(intern!(callable.py(), "__qualname__"))? {
            Some(name) if name.is_instance_of::<PyString>() => to_text(name.cast()?)?,
            _ => type_name(callable),
        };
        let counting = Counting::Callable(Callable::new(callable, callable.clone(), None));
        Ok(Self { counting, key: identity(callable)?, name })
    }

    /// The counter of a tiktoken encoding. It is native if tiktoken registers this encoding under an embedded one's
    /// name.
    fn tiktoken(encoding: &Bound<'_, PyAny>, name: String) -> PyResult<Self> {
        if let Ok(native) = Encoding::named(&name)
            && is_registered(encoding, &name)?
        {
            return Ok(Self::native(native));
        }
        let ordinary = encoding.getattr("encode_ordinary")?;
        let callable = Callable::new(encoding, encode_with_special_tokens(encoding)?, Some(ordinary));
        let counting = Counting::Callable(callable);
        Ok(Self { counting, key: (encoding.as_ptr() as usize, 0), name })
    }

    fn count_one(&self, text: &Bound<'_, PyString>, special: Special) -> PyResult<i64> {
        let py = text.py();
        let text = to_text(text)?;
        match self.bind(py, special) {
            BoundCounter::Callable(callable) => callable.count(&text),
            BoundCounter::Native(native) => {
                Ok(detach_if_much(py, native.encoding, text.len(), || native.tokens(&text)))
            }
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Special {
    type Error = PyErr;

    fn extract(special: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let name = special.cast::<PyString>().ok();
        match name.as_ref().and_then(|name| name.to_str().ok()) {
            Some("token") => Ok(Self::Token),
            Some("text") => Ok(Self::Text),
            _ => Err(PyValueError::new_err(format!("special must be \"token\" or \"text\", got {}", shown(&special)))),
        }
    }
}

#[pymethods]
impl TokenCounter {
    #[new]
    #[pyo3(signature = (source, /))]
    fn py_new(source: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(counter) = source.cast::<Self>() {
            let counter = counter.get();
            let counting = match &counter.counting {
                Counting::Native(encoding) => Counting::Native(encoding),
                Counting::Callable(callable) => Counting::Callable(callable.clone_ref(source.py())),
            };
            return Ok(Self { counting, key: counter.key, name: counter.name.clone() });
        }
        if let Ok(name) = source.cast::<PyString>() {
            return Ok(Self::native(Encoding::named(&to_text(name)?)?));
        }
        if let Some(name) = tiktoken_name(source)? {
            return Self::tiktoken(source, name);
        }
        if source.is_callable() {
            return Self::callable(source);
        }
        Err(PyTypeError::new_err(format!(
            "a counter is an encoding's name, a tiktoken encoding or a callable from str to its tokens or their number; got {}{}",
            type_name(source),
            // For example a Tokenizer of Hugging Face.
            if !source.is_instance_of::<PyString>() && source.hasattr("encode")? { ": give its `encode`" } else { "" }
        )))
    }

    #[doc = stub!("TokenCounter.for_model")]
    #[staticmethod]
    #[pyo3(signature = (model, /))]
    fn for_model(model: &Bound<'_, PyString>) -> PyResult<Self> {
        Ok(Self::native(Encoding::for_model(&to_text(model)?)?))
    }

    #[doc = stub!("TokenCounter.encodings")]
    #[staticmethod]
    fn encodings() -> Vec<&'static str> {
        Encoding::names()
    }

    #[doc = stub!("TokenCounter.name")]
    #[getter(name)]
    fn py_name(&self) -> &str {
        &self.name
    }

    #[doc = stub!("TokenCounter.is_native")]
    #[getter(is_native)]
    fn py_is_native(&self) -> bool {
        self.is_native()
    }

    #[doc = stub!("TokenCounter.count")]
    #[pyo3(signature = (text, /, *, special = Special::Token), text_signature = "($self, text, /, *, special='token')")]
    fn count(&self, text: &Bound<'_, PyString>, special: Special) -> PyResult<i64> {
        self.count_one(text, special)
    }

    #[doc = stub!("TokenCounter.count_batch")]
    #[pyo3(signature = (texts, /, *, special = Special::Token), text_signature = "($self, texts, /, *, special='token')")]
    fn count_batch<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        special: Special,
    ) -> PyResult<Bound<'py, PyList>> {
        if texts.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("texts must be an iterable of texts, got one str; count it with `count`"));
        }
        let texts: Vec<Bound<'py, PyString>> =
            texts.try_iter()?.map(|text| Ok(text?.cast_into::<PyString>()?)).collect::<PyResult<_>>()?;
        let counts: Vec<i64> = match self.bind(py, special) {
            BoundCounter::Callable(callable) => {
                texts.iter().map(|text| callable.count(&to_text(text)?)).collect::<PyResult<_>>()?
            }
            BoundCounter::Native(native) => {
                // This needs the GIL, so it does little: copying every text would take a tenth of one core's time.
                let texts: Vec<_> = texts.iter().map(to_cow).collect::<PyResult<_>>()?;
                let workers = Workers::for_bytes(texts.iter().map(|text| text.len()).sum());
                detach(py, native.encoding, || workers.count(&texts, |text| native.tokens(text)))
            }
        };
        PyList::new(py, counts)
    }

    fn __repr__(&self) -> String {
        format!("TokenCounter({:?})", self.name)
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| self.counts_like(other.get()))
    }

    fn __hash__(&self) -> isize {
        (self.key.0 ^ self.key.1) as isize
    }

    // Pickled as what it was made from: an encoding by its name, a callable by itself.
    fn __reduce__<'py>(&self, py: Python<'py>) -> (Bound<'py, PyType>, (Bound<'py, PyAny>,)) {
        let source = match &self.counting {
            Counting::Native(encoding) => PyString::new(py, encoding.name()).into_any(),
            Counting::Callable(callable) => callable.source.bind(py).clone(),
        };
        (Self::type_object(py), (source,))
    }

    // Immutable, so it is its own copy. A tokenizer is never copied.
    fn __copy__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (_memo, /))]
    fn __deepcopy__<'py>(slf: Bound<'py, Self>, _memo: &Bound<'py, PyAny>) -> Bound<'py, Self> {
        slf
    }

    // No __clear__: the reference never changes, so every cycle through it contains another object that can be cleared.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.counting {
            Counting::Native(_) => Ok(()),
            Counting::Callable(callable) => callable.traverse(&visit),
        }
    }
}

/// The name of a `tiktoken.Encoding`; `None` for any other object. Imports nothing.
fn tiktoken_name(source: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let py = source.py();
    let Some(module) =
        py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?.cast::<PyDict>()?.get_item("tiktoken")?
    else {
        return Ok(None);
    };
    match module.getattr_opt(intern!(py, "Encoding"))? {
        Some(class) if source.is_instance(&class)? => source.getattr(intern!(py, "name"))?.extract().map(Some),
        _ => Ok(None),
    }
}

/// Whether tiktoken's registry has this encoding under `name`. Another encoding of that name may have any vocabulary.
fn is_registered(encoding: &Bound<'_, PyAny>, name: &str) -> PyResult<bool> {
    let py = encoding.py();
    let registry = py.import("tiktoken.registry").and_then(|registry| registry.getattr("ENCODINGS"));
    // If a later tiktoken keeps them elsewhere, its own encode counts.
    let Ok(Ok(registry)) = registry.map(Bound::cast_into::<PyDict>) else { return Ok(false) };
    let registered = registry.get_item(name)?;
    // A copy of an encoding, such as an unpickled one, shares the object that encodes.
    let core = intern!(py, "_core_bpe");
    Ok(registered.is_some_and(|registered| {
        matches!((registered.getattr_opt(core), encoding.getattr_opt(core)), (Ok(Some(ours)), Ok(Some(theirs))) if ours.is(&theirs))
    }))
}

/// `functools.partial(encoding.encode, allowed_special="all")`, like LlamaIndex's default tokenizer.
fn encode_with_special_tokens<'py>(tiktoken: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = tiktoken.py();
    let arguments = PyDict::new(py);
    arguments.set_item("allowed_special", "all")?;
    py.import("functools")?.getattr("partial")?.call((tiktoken.getattr("encode")?,), Some(&arguments))
}

/// Refuses a method of Hugging Face's tokenizers that is set to pad or truncate, as in the files of embedding models.
/// For other tokenizers only their counts can tell: see [`Growth`](crate::core::count::growth::Growth).
fn refuse_fixed_lengths(callable: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = callable.py();
    let Some(tokenizer) = callable.getattr_opt(intern!(py, "__self__"))? else { return Ok(()) };
    if !tokenizer.get_type().module()?.to_string().starts_with("tokenizers") {
        return Ok(());
    }
    for (setting, length, advice) in
        [("padding", "length", "no_padding"), ("truncation", "max_length", "no_truncation")]
    {
        if let Some(Ok(settings)) = tokenizer.getattr_opt(setting)?.map(Bound::cast_into::<PyDict>)
            && let Some(length) = settings.get_item(length)?
            && !length.is_none()
        {
            return Err(PyValueError::new_err(format!(
                "this tokenizer's {setting} is set to {length} tokens, whatever the text has; call its {advice}() first"
            )));
        }
    }
    Ok(())
}

/// Tells callables apart. `object.method` is a new object at each access, so a bound method is identified by its object
/// and its function. The counter keeps the callable, so no address is reused.
fn identity(callable: &Bound<'_, PyAny>) -> PyResult<(usize, usize)> {
    let py = callable.py();
    let method_type = py.import("types")?.getattr("MethodType")?;
    if callable.get_type().is(&method_type) {
        let function = callable.getattr(intern!(py, "__func__"))?;
        return Ok((callable.getattr(intern!(py, "__self__"))?.as_ptr() as usize, function.as_ptr() as usize));
    }
    if callable.is_exact_instance_of::<PyCFunction>() {
        let owner = callable.getattr(intern!(py, "__self__"))?;
        // Compared as CPython does: by object and C function. The name does not identify a function that belongs to no
        // object.
        return Ok((owner.as_ptr() as usize, callable.hash()? as usize));
    }
    Ok((callable.as_ptr() as usize, 0))
}
