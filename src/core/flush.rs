//! Which messages leave the queue of LlamaIndex's `Memory`, and when.
//!
//! A session's queue is its newest messages, from a *cut* that stays where it is; the older ones are archived. When a
//! put leaves more than `high` tokens in the queue, the oldest messages are flushed in rounds. Each round flushes at
//! least `size` tokens, so that what is left begins with a user message. `Memory._manage_queue` (llama-index-core
//! 0.14.16 and newer) does this in loops over the whole queue; the tests contain these loops literally. Here a round is
//! two lookups among the user messages:
//!
//! - The cut moves to the first user message, at the cut or behind it, before which at least `size` tokens leave.
//! - If there is none, it moves to the newest user message. If the queue has no user message, everything leaves.
//! - A round that would not move the cut ends the flush. So does one that leaves at most `high` tokens or one message.

/// When messages are flushed, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flush {
    /// The most tokens that a queue may have.
    pub high: i64,
    /// The fewest tokens that a round flushes.
    pub size: i64,
}

/// A position, and the tokens of all messages before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cut {
    /// The position.
    pub position: i64,
    /// The tokens before it.
    pub before: i64,
}

/// The messages from a cut on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queued {
    /// Where they begin.
    pub start: Cut,
    /// Where they end.
    pub end: Cut,
    /// The position of the newest user message, even if it was archived.
    pub newest_user: Option<i64>,
}

/// Finds the first user message at or behind a position that has at least the cut's tokens before it.
///
/// `None` if that is not known yet; `Some(None)` if there is none.
pub trait Lookup: FnMut(Cut) -> Option<Option<Cut>> {}

impl<F: FnMut(Cut) -> Option<Option<Cut>>> Lookup for F {}

impl Flush {
    /// The cut after each round, the first round first. `None` if `lookup` does not know something it needs.
    #[must_use]
    pub fn rounds(self, queue: Queued, mut lookup: impl Lookup) -> Option<Vec<Cut>> {
        let Queued { mut start, end, newest_user } = queue;
        let mut cuts = Vec::new();
        while end.position - start.position > 1 && end.before.saturating_sub(start.before) > self.high {
            let cut = match newest_user.filter(|user| *user >= start.position) {
                None => end,
                Some(user) if user == start.position => break,
                Some(user) => {
                    let enough = start.before.saturating_add(self.size.max(0));
                    match lookup(Cut { before: enough, ..start })? {
                        Some(cut) => cut,
                        None => lookup(Cut { position: user, before: i64::MIN })??,
                    }
                }
            };
            if cut.position == start.position {
                break;
            }
            cuts.push(cut);
            start = cut;
        }
        Some(cuts)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cut, Flush, Queued};

    /// A message: its tokens, and whether it is a user's.
    type Message = (i64, bool);

    /// The rule of `Memory._manage_queue`: how many messages leave in each round.
    fn literal(flush: Flush, mut queue: &[Message]) -> Vec<usize> {
        let mut rounds = Vec::new();
        while queue.len() > 1 && queue.iter().map(|(tokens, _)| tokens).sum::<i64>() > flush.high {
            let last = queue.len() - 1;
            let (mut leave, mut spent) = (0, 0);
            while spent < flush.size && leave < last {
                spent += queue[leave].0;
                leave += 1;
            }
            while leave < last && !queue[leave].1 {
                leave += 1;
            }
            if leave == last && !queue[last].1 && leave > 0 {
                leave = queue.iter().rposition(|(_, is_user)| *is_user).unwrap_or(queue.len());
            }
            if leave == 0 {
                break;
            }
            rounds.push(leave);
            queue = &queue[leave..];
        }
        rounds
    }

    fn sums(queue: &[Message]) -> Vec<i64> {
        let sum = |total: &mut i64, (tokens, _): &Message| {
            *total += tokens;
            Some(*total)
        };
        std::iter::once(0).chain(queue.iter().scan(0, sum)).collect()
    }

    fn rounds(flush: Flush, queue: &[Message], known: usize) -> Option<Vec<usize>> {
        let sums = sums(queue);
        let cut = |at: usize| Cut { position: at as i64, before: sums[at] };
        let newest_user = queue.iter().rposition(|(_, is_user)| *is_user).map(|at| at as i64);
        let queued = Queued { start: cut(0), end: cut(queue.len()), newest_user };
        let lookup = |from: Cut| {
            let found = (0..known.min(queue.len()))
                .find(|&at| at as i64 >= from.position && queue[at].1 && sums[at] >= from.before);
            if found.is_none() && known < queue.len() { None } else { Some(found.map(cut)) }
        };
        let cuts = flush.rounds(queued, lookup)?;
        let starts = std::iter::once(0).chain(cuts.iter().map(|cut| cut.position as usize));
        Some(starts.zip(&cuts).map(|(start, cut)| cut.position as usize - start).collect())
    }

    fn random(state: &mut u64, below: u64) -> i64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state % below) as i64
    }

    #[test]
    fn two_lookups_a_round_are_the_loops() {
        let mut state = 0x9E37_79B9_7F4A_7C15;
        let mut several = 0;
        for _ in 0..50_000 {
            let most = [1, 3, 20][random(&mut state, 3) as usize];
            let users = [1, 2, 6][random(&mut state, 3) as usize];
            let queue: Vec<Message> = (0..random(&mut state, 14))
                .map(|_| (random(&mut state, most), random(&mut state, users) == 0 && random(&mut state, 9) > 0))
                .collect();
            let size = [0, 1, 2, 5, 30, 3_000, -1][random(&mut state, 7) as usize];
            let flush = Flush { high: random(&mut state, 40) - 2, size };
            let expected = literal(flush, &queue);
            several += usize::from(expected.len() > 1);
            assert_eq!(rounds(flush, &queue, usize::MAX).as_ref(), Some(&expected), "{flush:?} {queue:?}");
            // With less knowledge, it asks for more or is right.
            let known = random(&mut state, 14) as usize;
            let with_less = rounds(flush, &queue, known);
            assert!(with_less.is_none_or(|found| found == expected), "{flush:?} {queue:?} {known}");
        }
        assert!(several > 1_000);
    }

    #[test]
    fn a_queue_within_its_tokens_needs_no_lookup() {
        let queue = Queued { start: Cut::default(), end: Cut { position: 9, before: 40 }, newest_user: Some(8) };
        assert_eq!(Flush { high: 40, size: 1 }.rounds(queue, |_| None), Some(vec![]));
        assert_eq!(Flush { high: 39, size: 1 }.rounds(queue, |_| None), None);
    }
}
