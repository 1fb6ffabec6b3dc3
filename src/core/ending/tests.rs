//! Appending in parts, cutting and flushing against the whole history.

use super::{Appended, Ending, Kept, Row, append, append_joined, append_to_queue, may_be_last};
use crate::core::flush::{Cut, Flush};
use crate::core::item::{Kind, Outline};
use crate::core::joined::tests::{Words, texts};
use crate::core::joined::{Text, opening};
use crate::core::policy::{Accounting, Rule, StartOn};
use crate::core::queue::Queue;

fn outline(kind: Kind, continues: bool) -> Outline {
    Outline { kind, continues, may_start: matches!(kind, Kind::User | Kind::System) }
}

const SYSTEM: Kind = Kind::System;
const USER: Kind = Kind::User;
const REPLY: Kind = Kind::Assistant;
const RESULT: Kind = Kind::Tool;

fn items(kinds: &[(Kind, bool, i64)]) -> Vec<(Outline, i64)> {
    kinds.iter().map(|&(kind, continues, tokens)| (outline(kind, continues), tokens)).collect()
}

#[test]
fn steps_carry_their_question_and_a_head_stands_apart() {
    let history = items(&[
        (SYSTEM, false, 100),
        (USER, false, 5),
        (REPLY, true, 7),
        (RESULT, false, 11),
        (REPLY, false, 13),
        (USER, false, 17),
    ]);
    let appended = append(StartOn::User, Ending::default(), &history);
    assert_eq!(appended.head, 1);
    let starts: Vec<_> = appended.rows.iter().map(|row| row.before.map(|before| (before, row.question))).collect();
    assert_eq!(starts, [Some((0, None)), None, None, Some((18, Some(1))), Some((36, None))]);
    let ending = &appended.ending;
    assert_eq!((ending.head_tokens, ending.total, ending.first, ending.end), (100, 53, 1, 6));
    assert_eq!(Ending::from_numbers(&ending.numbers()).as_ref(), Some(ending));
}

#[test]
fn the_first_question_ends_what_began_without_one() {
    let before = append(StartOn::User, Ending::default(), &items(&[(RESULT, false, 1), (REPLY, false, 2)]));
    assert_eq!((before.rows[1].before, before.ending.lead, before.ending.lead_total), (Some(1), 1, 1));
    let appended = append(StartOn::User, before.ending, &items(&[(USER, false, 3)]));
    assert!(appended.forgets);
    assert_eq!(appended.rows[0].before, Some(3));
}

/// The numbers do not depend on how a history is split into appends. The same holds when its end is cut and
/// appended again.
#[test]
fn parts_and_cuts_make_no_difference() {
    let kinds = [SYSTEM, USER, REPLY, RESULT];
    let mut random = random();
    for _ in 0..3_000 {
        let start_on = [StartOn::Any, StartOn::User][random(2)];
        let rule = Rule { accounting: Accounting::Additive, start_on };
        let history: Vec<_> =
            (0..random(12)).map(|_| (outline(kinds[random(4)], random(2) == 1), random(3) as i64)).collect();
        let whole = append(start_on, Ending::default(), &history);
        let (mut ending, mut rows, mut done) = (Ending::default(), Vec::new(), 0);
        while done < history.len() {
            let end = done + 1 + random(history.len() - done);
            let part = append(start_on, ending, &history[done..end]);
            if part.forgets {
                rows.iter_mut().for_each(|row: &mut Row| row.before = None);
            }
            rows.extend(part.rows);
            (ending, done) = (part.ending, end);
        }
        assert_eq!((&ending, &rows), (&whole.ending, &whole.rows), "{history:?}");
        let behind = whole.head;
        let cut = behind + random(history.len() - behind + 1);
        let is_kept =
            |index: &usize| may_be_last(rule, history[*index].0, rows[*index - behind].before.is_some(), false);
        let kept = (behind..cut).rev().find(is_kept);
        let from = kept.map_or(behind, |kept| kept + 1);
        let removed = rows[from - behind..].iter().map(|row| row.tokens).sum();
        let kept = kept.map(|kept| Kept {
            position: kept as i64,
            outline: history[kept].0,
            tokens: history[kept].1,
            before: rows[kept - behind].before,
            is_closed: false,
        });
        let again = append(start_on, whole.ending.cut(rule, kept, removed), &history[from..]);
        assert_eq!((&again.ending, &again.rows[..]), (&whole.ending, &rows[from - behind..]), "{history:?} {from}");
    }
}

fn random() -> impl FnMut(usize) -> usize {
    let mut seed = 1_u64;
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    }
}

fn joined(ending: Ending, earlier: &[Text], texts: &[Text]) -> Appended {
    let texts = texts.iter().map(|text| (outline(USER, false), text.clone())).collect();
    let Ok(appended) = append_joined(&Words, ending, earlier.to_vec(), texts);
    appended
}

/// Every way to split a history into appends gives every window's tokens, except for starts that an older one
/// beats.
#[test]
fn appended_in_parts_gives_the_joined_counts() {
    let fragments = ["one", "", " ", "two three", "\n", "four\n", " five", "."];
    let mut random = random();
    for _ in 0..3_000 {
        let contents: Vec<&str> = (0..=random(7)).map(|_| fragments[random(fragments.len())]).collect();
        let history = texts(&contents);
        let (mut ending, mut done, mut before) = (Ending::default(), 0, vec![None; history.len()]);
        while done < history.len() {
            let end = done + 1 + random(history.len() - done);
            let from = ending.unread_from(Accounting::Joined) as usize;
            let part = joined(ending, &history[from..done], &history[done..end]);
            for (index, row) in part.rows.iter().enumerate() {
                before[done + index] = row.before;
            }
            for (position, settled) in part.settled {
                before[position as usize] = Some(settled);
            }
            (ending, done) = (part.ending, end);
        }
        let word = ending.word as usize;
        let mut least = i64::MAX;
        for index in 0..word {
            let Ok(tokens) = opening(&Words, &history[index..word]);
            let expected = (tokens < least).then_some(tokens);
            assert_eq!(before[index].map(|before| ending.total - before), expected, "{contents:?} from {index}");
            least = least.min(tokens);
        }
        assert!(before[word..].iter().all(Option::is_none));
    }
}

/// The cut after a flush of a queue that is kept elsewhere. It reads only as many rows as it needs.
fn flushed(ending: &Ending, rows: &[Row], flush: Flush) -> Ending {
    let mut known_to = ending.lead;
    loop {
        let users: Vec<Cut> = (ending.lead..known_to)
            .filter_map(|position| rows[position as usize].before.map(|before| Cut { position, before }))
            .collect();
        match ending.rounds(flush, &users, known_to) {
            Some(cuts) => return cuts.last().map_or_else(|| ending.clone(), |cut| ending.with_cut(*cut)),
            None => known_to += 1,
        }
    }
}

#[test]
fn a_queue_kept_elsewhere_has_the_cuts_of_one_in_memory() {
    let mut random = random();
    let mut moved = 0;
    for _ in 0..2_000 {
        let flush = Flush { high: random(30) as i64, size: [0, 1, 5, 20][random(4)] };
        let (mut queue, mut ending, mut rows) = (Queue::default(), Ending::default(), Vec::new());
        for _ in 0..=random(12) {
            let kinds = [USER, REPLY, RESULT, SYSTEM];
            let items: Vec<_> = (0..=random(3)).map(|_| (kinds[random(4)], false, random(9) as i64)).collect();
            for (kind, _, tokens) in &items {
                queue.push((), *tokens, *kind == USER);
            }
            let appended = append_to_queue(ending, &self::items(&items));
            rows.extend(appended.rows);
            ending = flushed(&appended.ending, &rows, flush);
            moved += queue.flush(flush).len();
            assert_eq!((ending.lead, ending.end), (queue.cut() as i64, queue.messages().len() as i64));
            assert_eq!(ending.total - ending.lead_total, queue.tokens());
            match random(20) {
                0 => {
                    queue.take_active();
                    rows.truncate(ending.lead as usize);
                    ending = ending.without_queue();
                }
                1 => {
                    queue.take_archived();
                    rows.drain(..ending.lead as usize);
                    let fresh = append_to_queue(Ending::default(), &[]).ending;
                    let total = ending.total - ending.lead_total;
                    let (lead, base) = (ending.lead, ending.lead_total);
                    rows.iter_mut().for_each(|row| row.before = row.before.map(|before| before - base));
                    ending = Ending {
                        end: ending.end - lead,
                        total,
                        word: ending.end - lead,
                        last: ending.last,
                        question: ending.question.filter(|user| *user >= lead).map(|user| user - lead),
                        ..fresh
                    };
                }
                _ => {}
            }
        }
    }
    assert!(moved > 3_000);
}
