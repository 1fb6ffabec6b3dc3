//! A session of LlamaIndex's `Memory` in this process: the archived messages, the queue behind them, and prefix sums.

use super::flush::{Cut, Flush, Queued};

/// Messages `M`, each with its tokens. Those before the cut are archived; the others are the queue.
#[derive(Debug)]
pub struct Queue<M> {
    messages: Vec<M>,
    /// The tokens before each message; at the end, those of all messages.
    sums: Vec<i64>,
    /// The user messages, as indexes into all messages.
    users: Vec<usize>,
    /// The index of the first message of the queue.
    cut: usize,
}

impl<M> Default for Queue<M> {
    fn default() -> Self {
        Self { messages: Vec::new(), sums: vec![0], users: Vec::new(), cut: 0 }
    }
}

impl<M> Queue<M> {
    /// All messages, the archived ones first.
    #[must_use]
    pub fn messages(&self) -> &[M] {
        &self.messages
    }

    /// Removes and returns all messages.
    #[must_use]
    pub fn into_messages(self) -> Vec<M> {
        self.messages
    }

    /// The same queue with what `other` makes of each message.
    #[must_use]
    pub fn map(&self, other: impl FnMut(&M) -> M) -> Self {
        Self {
            messages: self.messages.iter().map(other).collect(),
            sums: self.sums.clone(),
            users: self.users.clone(),
            cut: self.cut,
        }
    }

    /// The number of messages that are archived.
    #[must_use]
    pub fn cut(&self) -> usize {
        self.cut
    }

    /// The tokens of the queue.
    #[must_use]
    pub fn tokens(&self) -> i64 {
        self.total() - self.sums[self.cut]
    }

    fn total(&self) -> i64 {
        self.sums[self.messages.len()]
    }

    /// Adds a message at the end.
    pub fn push(&mut self, message: M, tokens: i64, is_user: bool) {
        if is_user {
            self.users.push(self.messages.len());
        }
        self.sums.push(self.total().saturating_add(tokens));
        self.messages.push(message);
    }

    /// Moves the cut by all rounds that are due. Returns the end of each round, the oldest first.
    pub fn flush(&mut self, flush: Flush) -> Vec<usize> {
        let Self { sums, users, cut, .. } = self;
        let at = |number: usize| Cut { position: number as i64, before: sums[number] };
        let queued = Queued {
            start: at(*cut),
            end: at(self.messages.len()),
            newest_user: users.last().map(|number| *number as i64),
        };
        let lookup = |from: Cut| {
            let first = users.partition_point(|&user| (user as i64) < from.position || sums[user] < from.before);
            Some(users.get(first).map(|user| at(*user)))
        };
        let cuts = flush.rounds(queued, lookup).unwrap_or_default();
        let ends: Vec<usize> = cuts.iter().map(|cut| cut.position as usize).collect();
        *cut = ends.last().copied().unwrap_or(*cut);
        ends
    }

    /// Archives `count` of the oldest messages of the queue, or all of it.
    pub fn archive(&mut self, count: usize) {
        self.cut = self.cut.saturating_add(count).min(self.messages.len());
    }

    /// Removes `count` of the oldest messages of the queue, or all of it.
    pub fn take_oldest(&mut self, count: usize) -> Vec<M> {
        let stop = self.cut.saturating_add(count).min(self.messages.len());
        let taken = self.messages.drain(self.cut..stop).collect();
        let gone = self.sums[stop] - self.sums[self.cut];
        self.sums.drain(self.cut..stop);
        self.sums[self.cut..].iter_mut().for_each(|sum| *sum -= gone);
        self.users.retain(|user| !(self.cut..stop).contains(user));
        self.users.iter_mut().filter(|user| **user >= stop).for_each(|user| *user -= stop - self.cut);
        taken
    }

    /// Removes the queue's messages.
    pub fn take_active(&mut self) -> Vec<M> {
        self.sums.truncate(self.cut + 1);
        self.users.truncate(self.users.partition_point(|user| *user < self.cut));
        self.messages.split_off(self.cut)
    }

    /// Removes the archived messages.
    pub fn take_archived(&mut self) -> Vec<M> {
        let cut = std::mem::take(&mut self.cut);
        let active = self.messages.split_off(cut);
        let before = self.sums[cut];
        self.sums = self.sums[cut..].iter().map(|sum| sum - before).collect();
        self.users = self.users.iter().filter(|user| **user >= cut).map(|user| user - cut).collect();
        std::mem::replace(&mut self.messages, active)
    }

    /// Replaces the tokens of all messages; `tokens` has one for each.
    pub fn recount(&mut self, tokens: impl Iterator<Item = i64>) {
        let mut total = 0_i64;
        let sums = tokens.map(|tokens| {
            total = total.saturating_add(tokens);
            total
        });
        self.sums = std::iter::once(0).chain(sums).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use crate::core::flush::Flush;

    fn queue(messages: &[(i64, bool)]) -> Queue<usize> {
        let mut queue = Queue::default();
        for (number, (tokens, is_user)) in messages.iter().enumerate() {
            queue.push(number, *tokens, *is_user);
        }
        queue
    }

    #[test]
    fn a_flush_moves_the_cut_to_user_messages() {
        let mut queue = queue(&[(5, true), (5, false), (5, true), (5, false), (5, true), (5, false)]);
        assert_eq!(queue.flush(Flush { high: 14, size: 6 }), [2, 4]);
        assert_eq!((queue.cut(), queue.tokens()), (4, 10));
        assert_eq!(queue.flush(Flush { high: 0, size: 6 }), [0; 0]);
    }

    #[test]
    fn halves_are_taken_out_with_their_sums() {
        let mut queue = queue(&[(1, true), (2, false), (3, true), (4, false)]);
        queue.archive(2);
        assert_eq!(queue.take_archived(), [0, 1]);
        assert_eq!((queue.messages(), queue.tokens(), queue.cut()), (&[2, 3][..], 7, 0));
        assert_eq!(queue.flush(Flush { high: 0, size: 1 }), [0; 0]); // a turn alone stays
        queue.recount([10, 20].into_iter());
        assert_eq!(queue.tokens(), 30);
        assert_eq!((queue.take_oldest(0), queue.tokens()), (vec![], 30));
        queue.archive(1);
        queue.push(4, 5, true);
        assert_eq!((queue.take_oldest(1), queue.tokens(), queue.messages()), (vec![3], 5, &[2, 4][..]));
        assert_eq!((queue.take_oldest(7), queue.tokens(), queue.cut()), (vec![4], 0, 1));
        queue.push(3, 20, false);
        assert_eq!(queue.take_active(), [3]);
        assert_eq!((queue.messages(), queue.tokens(), queue.cut()), (&[2][..], 0, 1));
        queue.push(9, 8, false);
        assert_eq!((queue.tokens(), queue.flush(Flush { high: 7, size: 1 })), (8, vec![])); // one message stays
    }
}
