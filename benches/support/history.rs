//! A history of the core, for benchmarks: what `src/py/history.rs` does around it, without Python.

use std::sync::Arc;

use chatring::core::count::Counter;
use chatring::core::joint::Text;
use chatring::core::ledger::{Entry, Fit, Ledger};
use chatring::core::ring::Ring;
use chatring::core::role::may_start_window;
use chatring::core::window::{Need, Pass, Passed, SLACK, need};

/// A message: its text, and whether a window may begin with it.
#[derive(Clone)]
pub struct Message {
    text: Arc<str>,
    may_start: bool,
}

impl Message {
    /// A message of this role and text.
    pub fn new(role: &str, text: &str) -> Self {
        Self { text: text.into(), may_start: may_start_window(role) }
    }
}

/// Messages with their prefix sums. No text may be blank, which keeps this short.
#[derive(Default)]
pub struct History {
    ring: Option<Ring<Message>>,
    ledger: Ledger<Arc<str>>,
}

impl History {
    /// Adds the newest message.
    pub fn put(&mut self, message: Message) {
        let evicted = self.ring.get_or_insert_with(|| Ring::new(None)).push(message);
        debug_assert!(evicted.is_none());
    }

    /// Where the window of `allowance` starts, and its tokens; counts what is not counted yet.
    pub fn window<C: Counter>(&mut self, counter: &C, allowance: i64) -> Result<Option<Fit>, C::Error> {
        let Some(ring) = &self.ring else { return Ok(None) };
        let history = ring.first()..ring.end();
        loop {
            let (range, newer) = match need(&mut self.ledger, history.clone(), allowance, &mut Vec::new()) {
                None => return Ok(self.ledger.earliest_fit(allowance)),
                Some(Need::Older(range)) => (range, false),
                Some(Need::Newer(range)) => (range, true),
                Some(Need::Openings(_)) => unreachable!("no text is blank"),
            };
            let spent = if newer { 0 } else { self.ledger.tokens() };
            let (before, after) = if newer {
                (texts(ring, range.start - 1..range.start), Vec::new())
            } else {
                (Vec::new(), texts(ring, range.end..history.end.min(range.end + 1)))
            };
            let after_closed = self.ledger.is_after_closed();
            let mut pass = Pass::new(range.clone(), before, after, after_closed, allowance + SLACK - spent);
            while let Some(wanted) = pass.wants() {
                pass.feed(texts(ring, wanted), counter)?;
            }
            let Passed { measures, complete, resteps } = pass.finish();
            let messages = ring.since(range.start).take((range.end - range.start) as usize).rev();
            let entries = measures.into_iter().zip(messages);
            let entries = entries.map(|(measure, message)| Entry {
                measure,
                may_start: message.may_start,
                pin: message.text.clone(),
            });
            let entries = entries.collect();
            if newer && complete {
                self.ledger.extend_newer(entries);
            } else {
                if newer {
                    self.ledger = Ledger::default();
                }
                self.ledger.restep(&resteps);
                self.ledger.extend_older(range.end, entries);
            }
        }
    }
}

fn texts(ring: &Ring<Message>, range: std::ops::Range<u64>) -> Vec<Text> {
    let messages = ring.since(range.start).take((range.end - range.start) as usize);
    let texts = (range.start..).zip(messages);
    texts.map(|(at, message)| Text::new(message.text.to_string(), message.may_start || at == ring.first())).collect()
}
