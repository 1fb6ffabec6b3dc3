//! Letting other threads run during long work that needs the GIL.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// How long work goes on before others get a turn: CPython's own switch interval.
const TURN: Duration = Duration::from_millis(5);
/// Items of work between two looks at the clock.
const ITEMS: u32 = 256;

/// Gives up the GIL for a moment every few milliseconds, which the interpreter does for Python code only.
pub struct Turns<'py> {
    py: Python<'py>,
    since: Instant,
    items: u32,
}

impl<'py> Turns<'py> {
    /// Work begins.
    pub fn new(py: Python<'py>) -> Self {
        Self { py, since: Instant::now(), items: 0 }
    }

    /// An item of work is done. No lock may be held.
    pub fn item_done(&mut self) {
        self.items += 1;
        if self.items.is_multiple_of(ITEMS) {
            self.offer();
        }
    }

    /// Some work is done. No lock may be held.
    pub fn offer(&mut self) {
        if self.since.elapsed() >= TURN {
            self.py.detach(|| ());
            self.since = Instant::now();
        }
    }
}
