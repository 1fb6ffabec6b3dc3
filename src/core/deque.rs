//! A ring buffer with positions that outlive eviction.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

/// Which items have other positions after one between them was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renumbered {
    /// Those before it: each is one more.
    Older,
    /// Those after it: each is one less.
    Newer,
}

/// A queue of items, each at a position: a sequence number that grows by one with every push and never shifts when the
/// oldest items leave. Growing by default; with a `bound`, a push into a full one hands back the oldest item.
#[derive(Debug, Clone)]
pub struct Deque<T> {
    items: VecDeque<T>,
    first: u64,
    bound: Option<NonZeroUsize>,
}

impl<T> Deque<T> {
    /// An empty deque that holds at most `bound` items, or any number.
    #[must_use]
    pub fn new(bound: Option<NonZeroUsize>) -> Self {
        Self { items: VecDeque::new(), first: 0, bound }
    }

    /// An empty deque like this one: as large, and its first item gets the position of this one's oldest.
    #[must_use]
    pub fn empty_like<U>(&self) -> Deque<U> {
        Deque { items: VecDeque::with_capacity(self.items.len()), first: self.first, bound: self.bound }
    }

    /// The position of the oldest item; equal to [`end`](Self::end) when there is none.
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

    /// Whether there is no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The most items that this holds, `None` for any number.
    #[must_use]
    pub fn bound(&self) -> Option<NonZeroUsize> {
        self.bound
    }

    /// The item at `position`, or `None` if it was evicted or is not there yet.
    #[must_use]
    pub fn get(&self, position: u64) -> Option<&T> {
        self.items.get(usize::try_from(position.checked_sub(self.first)?).ok()?)
    }

    /// The item at `position`, to be changed.
    pub fn get_mut(&mut self, position: u64) -> Option<&mut T> {
        self.items.get_mut(usize::try_from(position.checked_sub(self.first)?).ok()?)
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

    /// Adds the newest item; hands back the oldest one if the ring was full.
    pub fn push(&mut self, item: T) -> Option<T> {
        let evicted = match self.bound {
            Some(bound) if self.items.len() >= bound.get() => {
                self.first += 1;
                self.items.pop_front()
            }
            _ => None,
        };
        if self.items.len() == self.items.capacity() {
            grow(&mut self.items, 1);
        }
        self.items.push_back(item);
        evicted
    }

    /// Makes room for `more` items, as far as the bound allows.
    pub fn reserve(&mut self, more: usize) {
        let room = self.bound.map_or(more, |bound| more.min(bound.get().saturating_sub(self.items.len())));
        grow(&mut self.items, room);
    }

    /// Takes out the newest item.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop_back()
    }

    /// Takes out the item at `position`, and tells on which side of it the other items got new positions: the shorter one.
    pub fn remove(&mut self, position: u64) -> Option<(T, Renumbered)> {
        let index = usize::try_from(position.checked_sub(self.first)?).ok()?;
        let side = if 2 * index < self.items.len() { Renumbered::Older } else { Renumbered::Newer };
        let removed = self.items.remove(index)?;
        self.first += u64::from(side == Renumbered::Older);
        Some((removed, side))
    }

    /// Takes out everything. The next item gets the position `first`.
    pub fn take(&mut self, first: u64) -> VecDeque<T> {
        self.first = first;
        std::mem::take(&mut self.items)
    }
}

/// Makes room for `more` items, a quarter at a time: doubling would let a long history hold twice the memory it needs.
pub(crate) fn grow<T>(items: &mut VecDeque<T>, more: usize) {
    let free = items.capacity() - items.len();
    if free < more {
        items.reserve_exact(more.max(items.len() / 4).max(4));
    }
}

#[cfg(test)]
mod tests {
    use super::{Deque, Renumbered};
    use std::num::NonZeroUsize;

    fn contents(ring: &Deque<u32>) -> Vec<u32> {
        ring.iter().copied().collect()
    }

    #[test]
    fn a_growing_ring_keeps_everything() {
        let mut ring = Deque::new(None);
        assert!((0..1000).all(|item| ring.push(item).is_none()));
        assert_eq!((ring.first(), ring.end(), ring.len()), (0, 1000, 1000));
        assert_eq!(ring.since(997).copied().collect::<Vec<_>>(), [997, 998, 999]);
    }

    #[test]
    fn a_bounded_ring_hands_back_the_oldest_and_keeps_positions() {
        let mut ring = Deque::new(NonZeroUsize::new(3));
        let evicted: Vec<_> = (0..5).map(|item| ring.push(item)).collect();
        assert_eq!(evicted, [None, None, None, Some(0), Some(1)]);
        assert_eq!((ring.first(), ring.end()), (2, 5));
        assert_eq!((ring.get(1), ring.get(2), ring.get(4), ring.get(5)), (None, Some(&2), Some(&4), None));
        assert_eq!(ring.since(0).copied().collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(ring.since(9).len(), 0);
    }

    #[test]
    fn removal_renumbers_the_shorter_side() {
        let mut ring = Deque::new(None);
        assert!((0..5).all(|item| ring.push(item).is_none()));
        assert_eq!(ring.remove(1), Some((1, Renumbered::Older)));
        assert_eq!((ring.first(), ring.end()), (1, 5));
        assert_eq!((ring.get(1), ring.get(2), ring.get(4)), (Some(&0), Some(&2), Some(&4)));
        assert_eq!(ring.remove(4), Some((4, Renumbered::Newer)));
        assert_eq!((ring.first(), ring.end()), (1, 4));
        assert_eq!((ring.remove(0), ring.remove(4)), (None, None));
        assert_eq!(contents(&ring), [0, 2, 3]);
    }

    #[test]
    fn positions_begin_anew_after_everything_was_taken() {
        let mut ring = Deque::new(NonZeroUsize::new(3));
        assert_eq!((0..5).filter_map(|item| ring.push(item)).count(), 2);
        assert_eq!(ring.take(2).len(), 3);
        assert_eq!((ring.first(), ring.end()), (2, 2));
        ring.push(7);
        assert_eq!(ring.get(2), Some(&7));
        assert_eq!(ring.pop(), Some(7));
        assert!(ring.is_empty());
    }
}
