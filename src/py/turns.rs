//! Lets other threads run during long work that needs the GIL.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// How long work goes on before other threads get a turn: twice `CPython`'s switch interval. So long a thread waits before
/// it asks for the GIL, and only then does releasing the GIL wait for it. If the GIL is released at the same interval, the
/// thread is woken just before it asks, finds the GIL taken again, and waits anew: for all of 180 ms in one measurement.
const TURN: Duration = Duration::from_millis(10);
/// Items of work between two looks at the clock.
const ITEMS: usize = 256;

/// Releases the GIL for a moment every few milliseconds. The interpreter does this only for Python code.
pub struct Turns<'py> {
    py: Python<'py>,
    /// When the turn began. Unknown before the first look at the clock, which takes longer than a short window.
    since: Option<Instant>,
    items: usize,
}

impl<'py> Turns<'py> {
    /// Begins work.
    pub fn new(py: Python<'py>) -> Self {
        Self { py, since: None, items: 0 }
    }

    /// Call this after each item of work. No lock may be held.
    pub fn item_done(&mut self) {
        self.items += 1;
        if self.items >= ITEMS {
            self.items = 0;
            self.offer();
        }
    }

    /// Call this after some work. No lock may be held.
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
