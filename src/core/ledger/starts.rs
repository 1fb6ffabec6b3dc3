//! The starts of a ledger: where windows may begin, and the search among them.

use std::collections::VecDeque;

use crate::core::deque::drop_while;

/// A message that a window may begin with, and the prefix sum before that window.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    pub position: u64,
    pub before: i64,
}

impl Start {
    /// Whether this start fits into some allowance that the `older` one does not fit into.
    fn beats(&self, older: &Start) -> bool {
        self.before.wrapping_sub(older.before) > 0
    }
}

/// The starts, oldest first.
///
/// A window can cost less than one that begins later: a text alone may be more tokens than after a space. So only starts
/// whose `before` exceeds every older one are searched. No other start can be the earliest, for any allowance.
#[derive(Debug, Clone, Default)]
pub struct Starts {
    /// Those that can be an answer: `before` grows strictly.
    shown: VecDeque<Start>,
    /// The others: for each, an older one has at least its `before`. They are few, and close to the one that hides them.
    hidden: VecDeque<Start>,
}

impl Starts {
    /// The position of the first start that can be an answer.
    pub fn first(&self) -> Option<u64> {
        self.shown.front().map(|start| start.position)
    }

    /// The newest of all.
    pub fn newest(&self) -> Option<Start> {
        [self.shown.back(), self.hidden.back()].into_iter().flatten().max_by_key(|start| start.position).copied()
    }

    /// Whether there is a start at `position`.
    pub fn has(&self, position: u64) -> bool {
        [&self.shown, &self.hidden]
            .into_iter()
            .any(|starts| starts.binary_search_by_key(&position, |start| start.position).is_ok())
    }

    /// The earliest start whose window up to the prefix sum `sum` has at most `allowance` tokens. A binary search.
    pub fn earliest_fit(&self, sum: i64, allowance: i64) -> Option<Start> {
        let first = self.shown.partition_point(|start| sum.wrapping_sub(start.before) > allowance);
        self.shown.get(first).copied()
    }

    /// Adds a start, either to those that can be an answer or to the hidden ones, and hides those that it rules out.
    pub fn insert(&mut self, start: Start) {
        let index = self.shown.partition_point(|other| other.position < start.position);
        if index > 0 && !start.beats(&self.shown[index - 1]) {
            return self.hide(start);
        }
        while let Some(&newer) = self.shown.get(index).filter(|newer| !newer.beats(&start)) {
            self.shown.remove(index);
            self.hide(newer);
        }
        self.shown.insert(index, start);
    }

    fn hide(&mut self, start: Start) {
        let index = self.hidden.partition_point(|hidden| hidden.position < start.position);
        self.hidden.insert(index, start);
    }

    /// Drops the starts before `position`.
    pub fn drop_before(&mut self, position: u64) {
        drop_while(&mut self.hidden, |start| start.position < position);
        if drop_while(&mut self.shown, |start| start.position < position) {
            // Starts that only these had hidden can be an answer again.
            let next = self.first().unwrap_or(u64::MAX);
            let shown = self.hidden.partition_point(|start| start.position < next);
            for start in self.hidden.drain(..shown).rev().collect::<Vec<_>>() {
                self.insert(start);
            }
        }
    }

    /// Drops the starts from `position` on.
    pub fn drop_from(&mut self, position: u64) {
        for starts in [&mut self.shown, &mut self.hidden] {
            starts.truncate(starts.partition_point(|start| start.position < position));
        }
    }

    /// Takes the starts before `position` out. Returns their positions, in no order.
    pub fn take_before(&mut self, position: u64) -> impl Iterator<Item = u64> {
        let taken = |starts: &mut VecDeque<Start>| {
            let newer = starts.split_off(starts.partition_point(|start| start.position < position));
            std::mem::replace(starts, newer)
        };
        taken(&mut self.shown).into_iter().chain(taken(&mut self.hidden)).map(|start| start.position)
    }

    /// The positions of all, to be changed by the same number.
    pub fn positions(&mut self) -> impl Iterator<Item = &mut u64> {
        self.shown.iter_mut().chain(&mut self.hidden).map(|start| &mut start.position)
    }
}
