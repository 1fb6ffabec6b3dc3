//! Letting other threads run during long work that needs the GIL.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// How long work goes on before others get a turn: `CPython`'s own switch interval.
const TURN: Duration = Duration::from_millis(5);
/// Items of work between two looks at the clock.
const ITEMS: usize = 256;

/// Gives up the GIL for a moment every few milliseconds, which the interpreter does for Python code only.
pub struct Turns<'py> {
    py: Python<'py>,
    /// When the turn began. Not known before the first look at the clock, which takes longer than a short window.
    since: Option<Instant>,
    items: usize,
}

impl<'py> Turns<'py> {
    /// Work begins.
    pub fn new(py: Python<'py>) -> Self {
        Self { py, since: None, items: 0 }
    }

    /// An item of work is done. No lock may be held.
    pub fn item_done(&mut self) {
        self.items += 1;
        if self.items >= ITEMS {
            self.items = 0;
            self.offer();
        }
    }

    /// Some work is done. No lock may be held.
    pub fn offer(&mut self) {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= TURN {
            self.py.detach(|| ());
            self.since = Some(Instant::now());
        }
    }

    /// Drops what may be many objects. No lock may be held.
    pub fn drop_all<T>(&mut self, items: impl IntoIterator<Item = T>) {
        for item in items {
            drop(item);
            self.item_done();
        }
    }
}
