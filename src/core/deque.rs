//! A ring buffer with positions that outlive eviction.

use std::collections::VecDeque;

/// Which items get other positions after one between them is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renumbered {
    /// Those before it: each position is one more.
    Older,
    /// Those after it: each position is one less.
    Newer,
}

/// A queue of items. Each is at a position, a number that grows by one with every push and does not shift when the
/// oldest items leave.
#[derive(Debug, Clone)]
pub struct Deque<T> {
    items: VecDeque<T>,
    first: u64,
}

impl<T> Default for Deque<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), first: 0 }
    }
}

impl<T> Deque<T> {
    /// An empty deque with the same capacity, whose first item gets the position of this one's oldest.
    #[must_use]
    pub fn empty_like<U>(&self) -> Deque<U> {
        Deque { items: VecDeque::with_capacity(self.items.len()), first: self.first }
    }

    /// The position of the oldest item; [`end`](Self::end) if there is none.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The position that the next pushed item gets.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    /// The number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The item at `position`, or `None` if it was evicted or is not there yet.
    #[must_use]
    pub fn get(&self, position: u64) -> Option<&T> {
        self.items.get(usize::try_from(position.checked_sub(self.first)?).ok()?)
    }

    /// The items from `start` to the newest, oldest first. Positions before the oldest are skipped.
    #[must_use]
    pub fn since(&self, start: u64) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        let skipped = (start.saturating_sub(self.first) as usize).min(self.items.len());
        self.items.range(skipped..)
    }

    /// All items, oldest first.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.items.iter()
    }

    /// All items, oldest first, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut()
    }

    /// Adds an item before the oldest. If that one's position is 0, all others get one more.
    pub fn push_front(&mut self, item: T) {
        grow(&mut self.items, 1);
        self.items.push_front(item);
        self.first = self.first.saturating_sub(1);
    }

    /// Adds the newest item.
    pub fn push(&mut self, item: T) {
        if self.items.len() == self.items.capacity() {
            grow(&mut self.items, 1);
        }
        self.items.push_back(item);
    }

    /// Makes room for `more` items.
    pub fn reserve(&mut self, more: usize) {
        grow(&mut self.items, more);
    }

    /// Removes the oldest item.
    pub fn pop_front(&mut self) -> Option<T> {
        let oldest = self.items.pop_front()?;
        self.first += 1;
        Some(oldest)
    }

    /// Removes the newest item.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop_back()
    }

    /// Removes the item at `position`. Tells on which side of it the other items got new positions: the shorter one.
    pub fn remove(&mut self, position: u64) -> Option<(T, Renumbered)> {
        let index = usize::try_from(position.checked_sub(self.first)?).ok()?;
        let side = if 2 * index < self.items.len() { Renumbered::Older } else { Renumbered::Newer };
        let removed = self.items.remove(index)?;
        self.first += u64::from(side == Renumbered::Older);
        Some((removed, side))
    }

    /// Removes everything. The next item gets the position `first`.
    pub fn take(&mut self, first: u64) -> VecDeque<T> {
        self.first = first;
        std::mem::take(&mut self.items)
    }
}

/// Makes room for `more` items, a quarter at a time: doubling would let a long history take twice the memory it needs.
pub(crate) fn grow<T>(items: &mut VecDeque<T>, more: usize) {
    let free = items.capacity() - items.len();
    if free < more {
        items.reserve_exact(more.max(items.len() / 4).max(4));
    }
}

/// Drops items from the front while `condition` holds. Returns whether it dropped any.
pub fn drop_while<T>(items: &mut VecDeque<T>, condition: impl Fn(&T) -> bool) -> bool {
    let kept = items.len();
    while items.front().is_some_and(&condition) {
        items.pop_front();
    }
    items.len() < kept
}

#[cfg(test)]
mod tests {
    use super::{Deque, Renumbered};

    fn filled(items: u32) -> Deque<u32> {
        let mut deque = Deque::default();
        (0..items).for_each(|item| deque.push(item));
        deque
    }

    fn contents(deque: &Deque<u32>) -> Vec<u32> {
        deque.iter().copied().collect()
    }

    #[test]
    fn positions_survive_those_that_leave() {
        let mut deque = filled(5);
        assert_eq!((deque.pop_front(), deque.pop_front()), (Some(0), Some(1)));
        assert_eq!((deque.first(), deque.end(), deque.len()), (2, 5, 3));
        assert_eq!((deque.get(1), deque.get(2), deque.get(4), deque.get(5)), (None, Some(&2), Some(&4), None));
        assert_eq!(deque.since(0).copied().collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(deque.since(9).len(), 0);
    }

    #[test]
    fn removal_renumbers_the_shorter_side() {
        let mut deque = filled(5);
        assert_eq!(deque.remove(1), Some((1, Renumbered::Older)));
        assert_eq!((deque.first(), deque.end()), (1, 5));
        assert_eq!((deque.get(1), deque.get(2), deque.get(4)), (Some(&0), Some(&2), Some(&4)));
        assert_eq!(deque.remove(4), Some((4, Renumbered::Newer)));
        assert_eq!((deque.first(), deque.end()), (1, 4));
        assert_eq!((deque.remove(0), deque.remove(4)), (None, None));
        assert_eq!(contents(&deque), [0, 2, 3]);
    }

    #[test]
    fn what_is_put_in_front_has_the_position_before_the_oldest() {
        let mut deque = filled(2);
        assert_eq!(deque.pop_front(), Some(0));
        deque.push_front(8);
        assert_eq!((deque.first(), deque.get(0), deque.get(1)), (0, Some(&8), Some(&1)));
        deque.push_front(9);
        assert_eq!((deque.first(), deque.end(), contents(&deque)), (0, 3, vec![9, 8, 1]));
        deque.iter_mut().for_each(|item| *item += 1);
        assert_eq!(contents(&deque), [10, 9, 2]);
    }

    #[test]
    fn positions_begin_where_they_are_told_after_everything_was_taken() {
        let mut deque = filled(5);
        assert_eq!(deque.take(2).len(), 5);
        assert_eq!((deque.first(), deque.end()), (2, 2));
        deque.push(7);
        assert_eq!(deque.get(2), Some(&7));
        assert_eq!(deque.pop(), Some(7));
        assert!(deque.is_empty() && deque.pop_front().is_none());
    }
}
