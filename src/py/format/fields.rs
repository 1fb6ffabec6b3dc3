//! The fields of messages and blocks: keys of mappings, attributes of objects.

use super::keys::Key;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple, PyType};

/// Names and values.
pub enum Fields<'py> {
    Dict(Bound<'py, PyDict>),
    List(Vec<Field<'py>>),
}

pub type Field<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

impl<'py> Fields<'py> {
    /// The value of `name`, which may be None.
    pub fn get(&self, name: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self {
            Self::Dict(dict) => dict.get_item(name),
            Self::List(fields) => {
                let name = name.to_str()?;
                Ok(fields.iter().find(|(key, _)| as_str(key) == Some(name)).map(|(_, value)| value.clone()))
            }
        }
    }

    /// The value of `name` if it is a string.
    pub fn text(&self, name: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyString>>> {
        Ok(self.get(name)?.and_then(|value| value.cast_into().ok()))
    }

    /// All of them, copied: code of a value's class may change the dict while the value is read.
    pub fn entries(self) -> Vec<Field<'py>> {
        match self {
            Self::Dict(dict) => copied(&dict),
            Self::List(fields) => fields,
        }
    }

    /// Whether there is a name that `is_one` accepts.
    pub fn any(&self, is_one: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Dict(dict) => !all_entries(dict, |key, _| !key.is_some_and(&is_one)),
            Self::List(fields) => fields.iter().any(|(key, _)| as_str(key).is_some_and(&is_one)),
        }
    }

    fn set(&mut self, name: Bound<'py, PyAny>, value: Bound<'py, PyAny>) {
        if let Self::List(fields) = self {
            match fields.iter_mut().find(|(key, _)| as_str(key).is_some() && as_str(key) == as_str(&name)) {
                Some((_, old)) => *old = value,
                None => fields.push((name, value)),
            }
        }
    }
}

/// Whether `is_fine` accepts every entry of a dict: its key, if that is a string of valid Unicode, and its value.
///
/// Asking for the characters of a string that is not valid raises an exception. Making one may run the collector, and
/// with it any code, which may change the dict; an iterator of a dict that has changed panics. So such a dict is
/// copied, and its entries are visited again from the first.
pub fn all_entries<'py>(
    dict: &Bound<'py, PyDict>,
    mut is_fine: impl FnMut(Option<&str>, Bound<'py, PyAny>) -> bool,
) -> bool {
    for (key, value) in dict.iter() {
        let name = match key.cast::<PyString>() {
            Ok(name) => match name.to_str() {
                Ok(name) => Some(name),
                Err(_) => return copied(dict).into_iter().all(|(key, value)| is_fine(as_str(&key), value)),
            },
            Err(_) => None,
        };
        if !is_fine(name, value) {
            return false;
        }
    }
    true
}

fn copied<'py>(dict: &Bound<'py, PyDict>) -> Vec<Field<'py>> {
    dict.iter().collect()
}

/// A key as a string. A key that is not valid Unicode is not in any format. Not for keys of a dict that is being
/// iterated over: see [`all_entries`].
pub fn as_str<'a>(key: &'a Bound<'_, PyAny>) -> Option<&'a str> {
    key.cast::<PyString>().ok()?.to_str().ok()
}

/// A list or a tuple; a named tuple has fields.
pub fn is_list(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    if value.is_instance_of::<PyList>() {
        return Ok(true);
    }
    Ok(value.is_instance_of::<PyTuple>()
        && (value.is_exact_instance_of::<PyTuple>() || !value.hasattr(intern!(value.py(), "_fields"))?))
}

/// None, an empty string or an empty list.
pub fn is_empty(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    if value.is_none() {
        return Ok(true);
    }
    Ok((value.is_instance_of::<PyString>() || is_list(value)?) && value.len()? == 0)
}

/// The fields of a block, or `None` if it has no fields that can be read.
pub fn fields_of<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Fields<'py>>> {
    if let Ok(dict) = value.cast::<PyDict>() {
        return Ok(Some(Fields::Dict(dict.clone())));
    }
    if value.is_none()
        || value.is_instance_of::<PyString>()
        || value.is_instance_of::<PyBytes>()
        || value.is_instance_of::<PyByteArray>()
        || value.is_instance_of::<PyInt>()
        || value.is_instance_of::<PyFloat>()
        || value.is_instance_of::<PyType>()
        || is_list(value)?
        || is_enum(value)?
    {
        return Ok(None);
    }
    let fields = attributes(value)?;
    // Telling whether an object is a mapping takes long. An object with a block's fields need not be asked.
    let is_block = |key: &str| !matches!(Key::named(key), Key::Skipped | Key::Unknown);
    if !fields.iter().any(|(key, _)| as_str(key).is_some_and(is_block))
        && let Some(fields) = mapping(value)?
    {
        return Ok(Some(fields));
    }
    if !fields.is_empty() {
        return Ok(Some(Fields::List(fields)));
    }
    let mut fields = Vec::new();
    for name in [
        intern!(value.py(), "type"),
        intern!(value.py(), "text"),
        intern!(value.py(), "content"),
        intern!(value.py(), "thinking"),
        intern!(value.py(), "name"),
        intern!(value.py(), "input"),
        intern!(value.py(), "arguments"),
        intern!(value.py(), "args"),
        intern!(value.py(), "function"),
        intern!(value.py(), "function_call"),
        intern!(value.py(), "function_response"),
        intern!(value.py(), "inline_data"),
        intern!(value.py(), "file_data"),
    ] {
        if let Some(found) = value.getattr_opt(name)?.filter(|found| !found.is_none()) {
            fields.push((name.clone().into_any(), found));
        }
    }
    // If an object has an attribute of any name, its attributes mean nothing.
    let says_something = fields.iter().any(|(_, found)| {
        found.is_instance_of::<PyString>() || found.is_instance_of::<PyList>() || found.is_instance_of::<PyDict>()
    });
    Ok(says_something.then_some(Fields::List(fields)))
}

/// The fields of a message. Those in `probed` are asked for by name if the object's own dict does not say enough.
pub fn message_fields<'py>(
    message: &Bound<'py, PyAny>,
    probed: &[&'static str],
    says_enough: impl Fn(&[Field<'py>]) -> bool,
) -> PyResult<Fields<'py>> {
    if let Ok(dict) = message.cast::<PyDict>() {
        return Ok(Fields::Dict(dict.clone()));
    }
    let py = message.py();
    let fields = attributes(message)?;
    if says_enough(&fields) {
        return Ok(Fields::List(fields));
    }
    if let Some(fields) = mapping(message)? {
        return Ok(fields);
    }
    if let Some(own) = own_dict(message)?
        && let Some(role) = own.get_item(intern!(py, "_role"))?
        && let Some(content) = own.get_item(intern!(py, "_content"))?
    {
        // Haystack's.
        let mut fields = vec![(intern!(py, "role").clone().into_any(), role)];
        fields.push((intern!(py, "content").clone().into_any(), content));
        if let Some(name) = own.get_item(intern!(py, "_name"))? {
            fields.push((intern!(py, "name").clone().into_any(), name));
        }
        return Ok(Fields::List(fields));
    }
    let mut fields = Fields::List(fields);
    for name in probed {
        let name = PyString::intern(py, name);
        if fields.get(&name)?.is_none()
            && let Some(found) = message.getattr_opt(&name)?
        {
            fields.set(name.into_any(), found);
        }
    }
    Ok(fields)
}

/// The items of a mapping other than a dict, or of a row of a database, such as `sqlite3.Row`.
fn mapping<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Fields<'py>>> {
    if !is_mapping(value)? {
        return Ok(None);
    }
    let mut fields = Vec::new();
    for key in value.call_method0(intern!(value.py(), "keys"))?.try_iter()? {
        let key = key?;
        let item = value.get_item(&key)?;
        fields.push((key, item));
    }
    Ok(Some(Fields::List(fields)))
}

pub fn is_mapping(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = value.py();
    let class = value.get_type();
    // Most objects have no keys. That is quicker to see than whether they are registered as mappings.
    if class.hasattr(intern!(py, "keys"))? && class.hasattr(intern!(py, "__getitem__"))? {
        return Ok(true);
    }
    Ok(value.cast::<PyMapping>().is_ok())
}

/// The public attributes in an object's own dict, and a pydantic model's extra fields.
fn attributes<'py>(value: &Bound<'py, PyAny>) -> PyResult<Vec<Field<'py>>> {
    let mut fields = own_dict(value)?.map_or_else(Vec::new, |own| copied(&own));
    fields.retain(|(key, _)| key.is_instance_of::<PyString>() && as_str(key).is_none_or(|key| !key.starts_with('_')));
    if let Some(extra) = value.getattr_opt(intern!(value.py(), "__pydantic_extra__"))?
        && let Ok(extra) = extra.cast::<PyDict>()
    {
        let mut all = Fields::List(fields);
        for (key, item) in copied(extra) {
            all.set(key, item);
        }
        fields = all.entries();
    }
    Ok(fields)
}

fn own_dict<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyDict>>> {
    Ok(value.getattr_opt(intern!(value.py(), "__dict__"))?.and_then(|own| own.cast_into().ok()))
}

fn is_enum(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    static ENUM: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    value.is_instance(ENUM.import(value.py(), "enum", "Enum")?)
}
