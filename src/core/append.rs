//! A ledger kept elsewhere, such as in a database: what appending messages adds to it.
//!
//! The sums are those of the accounting rule in [`joined`](super::joined), up to and with each message: `S(j)`. A window
//! that begins with message `i` has `S(last) - before(i)` tokens. Whoever keeps the ledger stores `S` of the last message,
//! and `before` of every legal start. A window's start is then the first one with a `before` of at least `S(last)` less the
//! allowance, which is an index search once starts are left out that do not exceed every `before` in front of them.

use super::count::Counter;
use super::joined::{Before, Text, ends_in_word, measure, opening, tail};

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
    let appended = earlier.len();
    let mut all = earlier;
    all.extend(texts);
    // Where nothing is shown, or the history's first texts are, a word may be thought of: it is in no window, so that what
    // it is makes no difference.
    let mut before = Before::Word;
    let (mut segment, mut sum) = (0, 0);
    let mut sums = Vec::with_capacity(all.len());
    let mut starts = Vec::new();
    for (index, text) in all.iter().enumerate() {
        if text.blank {
            sums.push(sum + tail(counter, before, &all[segment..=index])?);
            continue;
        }
        let measured = measure(counter, before, &all[segment..=index])?;
        sum += measured.step;
        sums.push(sum);
        let known = measured.blank_openings.iter().map(|&(start, tokens)| (segment + start, tokens));
        let mut known: Vec<(usize, i64)> = known.chain(measured.opening.map(|tokens| (index, tokens))).collect();
        if let Some(first) = measured.run {
            for start in (segment + first..index).filter(|&start| all[start].may_start) {
                known.push((start, opening(counter, &all[start..=index])?));
            }
            known.sort_unstable();
        }
        // A start is settled by its segment's word; those of segments that were there before are known.
        if index >= appended {
            starts.extend(known.into_iter().map(|(start, tokens)| (start as i64 - appended as i64, sum - tokens)));
        }
        (segment, before) = (index + 1, Before::after(&text.text));
    }
    let origin = appended.checked_sub(1).map_or(0, |last| sums[last]);
    let blank_tail = all.iter().rev().take_while(|text| text.blank).count();
    let closed = all.last().is_none_or(|last| ends_in_word(&last.text));
    for (_, before) in &mut starts {
        *before -= origin;
    }
    let sums = sums.split_off(appended).into_iter().map(|sum| sum - origin).collect();
    Ok(Appended { sums, starts, blank_tail, closed })
}

#[cfg(test)]
mod tests {
    use super::{Appended, append};
    use crate::core::joined::tests::{Words, texts};
    use crate::core::joined::{Text, opening};

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
                let Ok(tokens) = opening(&Words, &history[index..]);
                let open = history[index..].iter().all(|text| text.blank);
                assert_eq!(before.map(|before| total - before), (!open).then_some(tokens), "{contents:?} from {index}");
            }
            assert_eq!(tail, history.iter().rev().take_while(|text| text.blank).count());
        }
    }
}
