//! Writes each docstring of the stub to a file of its own. What Python sees takes its docstring from there: see `stub` in
//! `src/py/mod.rs`.

use std::path::Path;
use std::{env, fs, io};

const STUB: &str = "python/chatring/_core.pyi";
const QUOTES: &str = "\"\"\"";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={STUB}");
    let out = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    for (name, docstring) in docstrings(&fs::read_to_string(STUB)?) {
        fs::write(Path::new(&out).join(name), docstring)?;
    }
    Ok(())
}

/// The docstrings of classes, `Class.method` and functions.
fn docstrings(stub: &str) -> Vec<(String, String)> {
    let (mut class, mut name, mut found) = (String::new(), String::new(), Vec::new());
    let mut lines = stub.lines();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        let indent = &line[..line.len() - text.len()];
        if let Some(defined) = identifier(text, "class ") {
            name.clone_from(&defined);
            class = defined;
        } else if let Some(defined) = identifier(text, "def ") {
            name = if indent.is_empty() { defined } else { format!("{class}.{defined}") };
        } else if let Some(first) = text.strip_prefix(QUOTES).filter(|_| !name.is_empty()) {
            let mut docstring = String::from(first);
            while !docstring.ends_with(QUOTES) {
                let Some(line) = lines.next() else { break };
                docstring.push('\n');
                docstring.push_str(line.strip_prefix(indent).unwrap_or(line));
            }
            let docstring = docstring.trim_end_matches(QUOTES).trim_end();
            found.push((std::mem::take(&mut name), docstring.to_owned()));
        }
    }
    found
}

/// The name that `line` defines with this `keyword`.
fn identifier(line: &str, keyword: &str) -> Option<String> {
    let rest = line.strip_prefix(keyword)?;
    Some(rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect())
}
