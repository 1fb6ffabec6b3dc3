//! A ledger kept elsewhere, such as in a database: what appending messages adds to it.
//!
//! The sums are those of [`Ledger`](super::ledger::Ledger): `S(j)` is the sum of all steps up to message `j`, and a window
//! that begins with message `i` has `S(last) - before(i)` tokens. Whoever keeps the ledger stores `S` of the last message, and
//! `before` of every legal start. A window's start is then the first one whose `before` is at least `S(last)` less the
//! allowance, which is an index search once starts are left out that do not exceed every `before` in front of them.

use super::count::Counter;
use super::joint::{Opening, Text, measure, opening_of_blank};

/// What messages add to the ledger they are appended to.
#[derive(Debug, PartialEq, Eq)]
pub struct Appended {
    /// `S` of each message, less `S` of the last message before them.
    pub sums: Vec<i64>,
    /// The legal starts whose `before` is now known, oldest first: the index from the first message appended on (negative
    /// for an earlier one), and `before`, less `S` of the last message before those appended.
    pub starts: Vec<(i64, i64)>,
    /// With how many blank messages the history now ends. The openings of legal starts among them are not known yet.
    pub blank_tail: usize,
    /// Whether the last text ends in a character that is not whitespace. What comes next then adds the same whatever stands
    /// before it.
    pub closed: bool,
}

/// Measures `texts`, which are appended to a history that ends with the texts `earlier`.
///
/// `earlier` reaches back to the nearest text that is not blank, or to the history's first. It may be empty if the history
/// is, or if its last text ends in a character that is not whitespace.
///
/// # Errors
/// Those of the counter.
pub fn append<C: Counter>(counter: &C, earlier: Vec<Text>, texts: Vec<Text>) -> Result<Appended, C::Error> {
    // A word in the place of what is not shown. It is in no window, so that what it is makes no difference; nor does the
    // step of a history's first message, from which all sums are counted.
    let mut all = if earlier.is_empty() { vec![Text::new(".".to_owned(), false)] } else { earlier };
    let first = all.len();
    all.extend(texts);
    let mut sums = Vec::with_capacity(all.len() - first);
    let mut sum = 0;
    let mut openings = Vec::new();
    for index in 0..all.len() {
        if index >= first {
            let measure = measure(counter, &all, index)?;
            sum += measure.step;
            sums.push(sum);
            openings.push((index, measure.opening));
        } else if all[index].may_start && all[index].blank {
            openings.push((index, opening_of_blank(counter, &all[index..])?));
        }
    }
    let mut starts = Vec::new();
    for (index, opening) in openings {
        if let Opening::Tokens(tokens) = opening
            && let Some(head) = (index.max(first)..all.len()).find(|&at| !all[at].blank)
        {
            starts.push((index as i64 - first as i64, sums[head - first] - tokens));
        }
    }
    let blank_tail = all.iter().rev().take_while(|text| text.blank).count();
    let closed = all.last().is_none_or(Text::is_closed);
    Ok(Appended { sums, starts, blank_tail, closed })
}

#[cfg(test)]
mod tests {
    use super::{Appended, append};
    use crate::core::joint::tests::{Words, texts};
    use crate::core::joint::{Text, count_joined};

    fn appended(earlier: &[Text], texts: &[Text]) -> Appended {
        let Ok(appended) = append(&Words, earlier.to_vec(), texts.to_vec());
        appended
    }

    #[test]
    fn a_word_after_a_word_needs_nothing_of_what_stands_before() {
        let expected = Appended { sums: vec![1, 3], starts: vec![(0, 0), (1, 1)], blank_tail: 0, closed: true };
        assert_eq!(appended(&[], &texts(&["one", "two three"])), expected);
        assert_eq!(appended(&texts(&["zero"]), &texts(&["one", "two three"])), expected);
    }

    #[test]
    fn an_earlier_blank_start_is_settled_by_the_first_word() {
        let blank = appended(&[], &texts(&["one", "\n"]));
        assert_eq!((blank.blank_tail, blank.closed, blank.starts.len()), (1, false, 1));
        let settled = appended(&texts(&["one", "\n"]), &texts(&["two"]));
        assert_eq!(settled.starts.first().map(|(index, _)| *index), Some(-1));
    }

    /// Every way to cut a history into two or three appends gives every window's tokens.
    #[test]
    fn appended_in_parts_gives_the_joined_counts() {
        let fragments = ["one", "", " ", "two three", "\n", "four\n", " five", "."];
        let mut seed = 1_u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for _ in 0..2_000 {
            let contents: Vec<&str> = (0..=next(7)).map(|_| fragments[next(fragments.len())]).collect();
            let history = texts(&contents);
            let (mut total, mut done, mut tail, mut closed) = (0, 0, 0, true);
            let mut before = vec![None; history.len()];
            while done < history.len() {
                let end = done + 1 + next(history.len() - done);
                let from = if closed || done == 0 { done } else { done.saturating_sub(tail + 1) };
                let part = appended(&history[from..done], &history[done..end]);
                for (index, relative) in part.starts {
                    before[(done as i64 + index) as usize] = Some(total + relative);
                }
                total += part.sums.last().copied().unwrap_or_default();
                (done, tail, closed) = (end, part.blank_tail, part.closed);
            }
            for (index, before) in before.iter().enumerate() {
                let Ok(tokens) = count_joined(&Words, &history[index..]);
                let open = history[index..].iter().all(|text| text.blank);
                assert_eq!(before.map(|before| total - before), (!open).then_some(tokens), "{contents:?} from {index}");
            }
            assert_eq!(tail, history.iter().rev().take_while(|text| text.blank).count());
        }
    }
}
