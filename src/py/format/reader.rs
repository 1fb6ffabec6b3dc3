//! Reading the contents of a message: its texts, blocks, calls, results and media.

use std::borrow::Cow;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use super::fields::{Field, Fields, as_str, fields_of, is_list};
use super::keys::{Key, Type, describes_medium, is_bedrocks, provider_of_type};
use crate::core::item::{Extras, Provider};

/// No provider nests this deep. A value that contains itself does, and raises an error instead of overflowing the
/// stack.
const MAX_DEPTH: usize = 64;

/// For a value that contains itself more than once: it would take forever to get too deep.
const MAX_BLOCKS: usize = 100_000;

/// What has been found in a message.
pub struct Reader<'py> {
    /// Strings and structured values, in a fixed order. Empty if they are not wanted.
    pub texts: Vec<Bound<'py, PyAny>>,
    pub extras: Extras,
    /// Whose blocks these are: the first block that tells decides.
    pub provider: Option<Provider>,
    py: Python<'py>,
    wants_texts: bool,
    /// The ids of the message's own calls. Frameworks repeat them among the blocks.
    calls_read: Vec<Bound<'py, PyString>>,
    depth: usize,
    blocks: usize,
}

impl<'py> Reader<'py> {
    pub fn new(py: Python<'py>, wants_texts: bool) -> Self {
        Self {
            py,
            texts: Vec::new(),
            extras: Extras::default(),
            provider: None,
            wants_texts,
            calls_read: Vec::new(),
            depth: 0,
            blocks: 0,
        }
    }

    pub fn text(&mut self, text: &Bound<'py, PyAny>) {
        if self.wants_texts {
            self.texts.push(text.clone());
        }
    }

    /// Reads texts and blocks. Calls inside a call are part of it.
    pub fn content(&mut self, content: &Bound<'py, PyAny>, in_call: bool) -> PyResult<()> {
        if content.is_instance_of::<PyString>() {
            self.text(content);
            return Ok(());
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(PyValueError::new_err(format!("a message is nested more than {MAX_DEPTH} levels deep")));
        }
        if is_list(content)? {
            if let Ok(list) = content.cast::<PyList>() {
                for part in list {
                    self.part(&part, in_call)?;
                }
            } else if let Ok(tuple) = content.cast::<PyTuple>() {
                for part in tuple {
                    self.part(&part, in_call)?;
                }
            }
        } else if let Some(fields) = fields_of(content)? {
            let typed = Typed::of(&fields, self.py)?;
            let is_block = typed.is_some()
                || !content.is_instance_of::<PyDict>()
                || fields.any(|key| Key::named(key) != Key::Unknown);
            if is_block {
                self.typed_block(fields, typed, in_call)?;
            } else {
                self.text(content); // data: numbers count too
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn part(&mut self, part: &Bound<'py, PyAny>, in_call: bool) -> PyResult<()> {
        let is_number =
            !part.is_instance_of::<PyString>() && (part.is_instance_of::<PyInt>() || part.is_instance_of::<PyFloat>());
        if is_number {
            self.text(part);
            Ok(())
        } else {
            self.content(part, in_call)
        }
    }

    /// Reads one block or item.
    pub fn block(&mut self, fields: Fields<'py>) -> PyResult<()> {
        let typed = Typed::of(&fields, self.py)?;
        self.typed_block(fields, typed, false)
    }

    fn typed_block(&mut self, fields: Fields<'py>, typed: Option<Typed>, in_call: bool) -> PyResult<()> {
        self.blocks += 1;
        if self.blocks > MAX_BLOCKS {
            return Err(PyValueError::new_err(format!("a message has more than {MAX_BLOCKS} blocks")));
        }
        if self.provider.is_none() {
            self.provider = match &typed {
                Some(typed) => typed.provider,
                // Blocks of frameworks look like this too, but are objects.
                None => (matches!(fields, Fields::Dict(_)) && fields.any(is_bedrocks)).then_some(Provider::Bedrock),
            };
        }
        match typed.map(|typed| typed.class) {
            None => {
                let names_call = fields.any(|key| matches!(key, "name" | "tool_name"))
                    && fields.any(|key| matches!(key, "arguments" | "args"));
                if names_call { self.call_block(fields, Type::Call, in_call) } else { self.walk(fields, in_call) }
            }
            Some(Type::Text) => {
                for (key, value) in fields.entries() {
                    if !value.is_none() && matches!(as_str(&key), Some("text" | "content")) {
                        self.content(&value, in_call)?;
                    }
                }
                Ok(())
            }
            Some(Type::Image) => self.medium(Medium::Image, fields),
            Some(Type::Audio) => self.medium(Medium::Audio, fields),
            Some(Type::File) => self.medium(Medium::File, fields),
            Some(class @ (Type::Call | Type::ImageGeneration)) => self.call_block(fields, class, in_call),
            Some(Type::Result) => {
                self.extras.results += 1;
                // Agent Framework's, which repeats the result as items.
                let has_result = fields.get(intern!(self.py, "result"))?.is_some_and(|result| !result.is_none());
                let mut fields = fields.entries();
                fields.retain(|(key, _)| !has_result || as_str(key) != Some("items"));
                self.walk_entries(fields, in_call)
            }
            Some(_) => self.walk(fields, in_call),
        }
    }

    fn call_block(&mut self, fields: Fields<'py>, class: Type, in_call: bool) -> PyResult<()> {
        let fields = fields.entries();
        if !in_call {
            for id in ids(&fields) {
                for read in &self.calls_read {
                    if read.as_any().eq(id)? {
                        return Ok(());
                    }
                }
            }
            self.extras.calls += 1;
        }
        if class != Type::ImageGeneration {
            return self.walk_entries(fields, true);
        }
        self.extras.images += 1;
        let without_picture = fields.into_iter().filter(|(key, _)| as_str(key) != Some("result")).collect();
        self.walk_entries(without_picture, true)
    }

    /// Reads one of a message's own calls.
    pub fn call(&mut self, call: &Bound<'py, PyAny>) -> PyResult<()> {
        self.extras.calls += 1;
        let Some(fields) = fields_of(call)? else { return Ok(()) };
        let fields = fields.entries();
        self.calls_read.extend(ids(&fields).cloned());
        self.walk_entries(fields, true)
    }

    fn walk(&mut self, fields: Fields<'py>, in_call: bool) -> PyResult<()> {
        self.walk_entries(fields.entries(), in_call)
    }

    fn walk_entries(&mut self, fields: Vec<Field<'py>>, in_call: bool) -> PyResult<()> {
        for (key, value) in fields {
            if value.is_none() {
                continue;
            }
            match as_str(&key).map_or(Key::Unknown, Key::named) {
                Key::Skipped => {}
                Key::Value => self.text(&value),
                Key::Call if let Some(fields) = fields_of(&value)? => self.call_block(fields, Type::Call, in_call)?,
                Key::Result if let Some(fields) = fields_of(&value)? => {
                    self.extras.results += 1;
                    self.walk(fields, in_call)?;
                }
                Key::Image if let Some(fields) = medium_fields(&value)? => self.medium(Medium::Image, fields)?,
                Key::Audio if let Some(fields) = medium_fields(&value)? => self.medium(Medium::Audio, fields)?,
                Key::Mime if let Some(fields) = medium_fields(&value)? => self.medium(Medium::File, fields)?,
                Key::File if let Some(fields) = fields_of(&value)? => self.medium(Medium::File, fields)?,
                _ => self.content(&value, in_call)?,
            }
        }
        Ok(())
    }

    /// Counts a medium once; a document whose text is in the message counts as that text.
    fn medium(&mut self, medium: Medium, fields: Fields<'py>) -> PyResult<()> {
        if medium != Medium::File || !self.document(&fields)? {
            self.count(if medium == Medium::File { Medium::of_mime(&fields, self.py)? } else { medium });
        }
        for (key, value) in fields.entries() {
            let Some(key) = as_str(&key) else { continue };
            if describes_medium(key) && value.is_instance_of::<PyString>() {
                self.text(&value);
            } else if Key::named(key) == Key::File
                && let Some(inner) = fields_of(&value)?
            {
                for (key, value) in inner.entries() {
                    if as_str(&key).is_some_and(describes_medium) && value.is_instance_of::<PyString>() {
                        self.text(&value);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the text of a document, if it is in the message.
    fn document(&mut self, fields: &Fields<'py>) -> PyResult<bool> {
        let py = self.py;
        let inner = |name: &Bound<'py, PyString>| -> PyResult<Option<Fields<'py>>> {
            fields.get(name)?.map_or(Ok(None), |value| fields_of(&value))
        };
        if let Some(source) = inner(intern!(py, "source"))? {
            if let Some(text) = source.text(intern!(py, "text"))? {
                self.text(text.as_any());
                return Ok(true);
            }
            if source.text(intern!(py, "type"))?.is_some_and(|kind| as_str(&kind) == Some("text"))
                && let Some(text) = source.text(intern!(py, "data"))?
            {
                self.text(text.as_any());
                return Ok(true);
            }
            if let Some(content) = source.get(intern!(py, "content"))?.filter(|content| !content.is_none()) {
                self.content(&content, false)?;
                return Ok(true);
            }
        }
        // Cohere's
        if let Some(document) = inner(intern!(py, "document"))?
            && let Some(data) = document.get(intern!(py, "data"))?
            && data.is_instance_of::<PyDict>()
        {
            self.text(&data);
            return Ok(true);
        }
        Ok(false)
    }

    fn count(&mut self, medium: Medium) {
        match medium {
            Medium::Image => self.extras.images += 1,
            Medium::Audio => self.extras.audio += 1,
            Medium::File => self.extras.files += 1,
        }
    }

    /// Reads reasoning. Compatible providers have different names for it; the same text under several names is sent
    /// once.
    pub fn reasoning(
        &mut self,
        texts: [Option<&Bound<'py, PyAny>>; 2],
        details: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let mut read: Vec<&Bound<'py, PyAny>> = Vec::new();
        for text in texts.into_iter().flatten() {
            if text.is_instance_of::<PyString>() && !contains(&read, text)? {
                read.push(text);
                self.text(text);
            }
        }
        if let Some(details) = details
            && is_list(details)?
        {
            let before = self.texts.len();
            self.content(details, false)?;
            let texts = &self.texts[before..];
            if !texts.is_empty() && !read.is_empty() && texts.iter().all(PyAnyMethods::is_instance_of::<PyString>) {
                let joined = PyString::new(self.py, "").call_method1("join", (PyList::new(self.py, texts)?,))?;
                if contains(&read, &joined)? {
                    self.texts.truncate(before);
                }
            }
        }
        Ok(())
    }
}

/// The type of a block, and whose it is if only one provider has such blocks.
struct Typed {
    class: Type,
    provider: Option<Provider>,
}

impl Typed {
    fn of<'py>(fields: &Fields<'py>, py: Python<'py>) -> PyResult<Option<Self>> {
        let Some((name, is_type)) = type_name(fields, py)? else { return Ok(None) };
        let name = with_underscores(&name);
        let provider = match &*name {
            _ if !is_type => None,
            "image" => fields.any(|key| key == "source").then_some(Provider::Anthropic),
            name => provider_of_type(name),
        };
        Ok(Some(Self { class: Type::named(&name), provider }))
    }
}

/// The type that a message, item or block gives itself, under its framework's key.
pub fn type_of<'py>(fields: &Fields<'py>, py: Python<'py>) -> PyResult<Option<Type>> {
    Ok(type_name(fields, py)?.map(|(name, _)| Type::named(&with_underscores(&name))))
}

/// Whether a block gives itself this type.
pub fn is_type<'py>(fields: &Fields<'py>, py: Python<'py>, name: &str) -> PyResult<bool> {
    Ok(type_name(fields, py)?.is_some_and(|(found, _)| with_underscores(&found) == name))
}

/// The name of the type, and whether it is under the key `type`.
fn type_name<'py>(fields: &Fields<'py>, py: Python<'py>) -> PyResult<Option<(Bound<'py, PyString>, bool)>> {
    if let Some(name) = fields.text(intern!(py, "type"))? {
        return Ok(Some((name, true)));
    }
    for key in [intern!(py, "block_type"), intern!(py, "part_kind"), intern!(py, "content_type"), intern!(py, "kind")] {
        if let Some(name) = fields.text(key)? {
            return Ok(Some((name, false)));
        }
    }
    Ok(None)
}

/// A type's name as the tables write it. A name that is not valid Unicode is not in them.
pub fn with_underscores<'a>(name: &'a Bound<'_, PyString>) -> Cow<'a, str> {
    match name.to_str() {
        Ok(name) if name.contains('-') => name.replace('-', "_").into(),
        Ok(name) => name.into(),
        Err(_) => "".into(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    Image,
    Audio,
    File,
}

impl Medium {
    fn of_mime<'py>(fields: &Fields<'py>, py: Python<'py>) -> PyResult<Self> {
        for key in
            [intern!(py, "mimeType"), intern!(py, "mime_type"), intern!(py, "media_type"), intern!(py, "mediaType")]
        {
            if let Some(mime) = fields.text(key)? {
                let mime = as_str(&mime).unwrap_or_default();
                return Ok(if mime.starts_with("image/") {
                    Self::Image
                } else if mime.starts_with("audio/") || mime.starts_with("video/") {
                    Self::Audio
                } else {
                    Self::File
                });
            }
        }
        Ok(Self::File)
    }
}

/// The ids of a call that are strings.
fn ids<'a, 'py>(fields: &'a [Field<'py>]) -> impl Iterator<Item = &'a Bound<'py, PyString>> {
    fields
        .iter()
        .filter(|(key, _)| matches!(as_str(key), Some("id" | "call_id" | "tool_call_id" | "toolUseId")))
        .filter_map(|(_, value)| value.cast().ok())
}

/// The fields of a medium. A medium that is a string has none: it is the data, or their location.
fn medium_fields<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Fields<'py>>> {
    if value.is_instance_of::<PyString>() { Ok(Some(Fields::List(Vec::new()))) } else { fields_of(value) }
}

fn contains(texts: &[&Bound<'_, PyAny>], text: &Bound<'_, PyAny>) -> PyResult<bool> {
    for other in texts {
        if other.eq(text)? {
            return Ok(true);
        }
    }
    Ok(false)
}
