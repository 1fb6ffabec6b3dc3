//! Searches in histories that are changed in any way, against literal rules.

use super::{Content, Found, Next, Query};
use crate::core::count::Counter;
use crate::core::history::{Bounds, History};
use crate::core::item::{Kind, Outline};
use crate::core::joined::tests::{Counting, Words};
use crate::core::policy::{Accounting, Limits, Rule, StartOn};
use std::num::NonZeroUsize;

type Texts = History<String, (), String>;

const ADDITIVE: Rule = Rule { accounting: Accounting::Additive, start_on: StartOn::Any };
const STEPS: Rule = Rule { accounting: Accounting::Additive, start_on: StartOn::User };

fn history(rule: Rule, bound: usize) -> Texts {
    History::new(Bounds { rule, max_messages: NonZeroUsize::new(bound), keep_head: true })
}

fn outline(kind: Kind, continues: bool) -> Outline {
    Outline { kind, continues, may_start: matches!(kind, Kind::User | Kind::System) }
}

fn put(history: &mut Texts, text: &str, kind: Kind) {
    history.push(std::iter::once((text.to_owned(), outline(kind, false))), &mut Vec::new());
}

fn put_text(history: &mut Texts, text: &str, may_start: bool) {
    put(history, text, if may_start { Kind::User } else { Kind::Assistant });
}

fn read(history: &Texts, query: &mut Query<(), String>, wanted: &super::Wanted, counter: &impl Counter) {
    let content = |text: String| match history.bounds().rule.accounting {
        Accounting::Joined => (Content::Joined(text.clone()), text),
        Accounting::Additive => (Content::Item { texts: vec![text.clone()], constant: 0 }, text),
    };
    let messages = history.wanted(wanted).into_iter().cloned().map(content).collect();
    assert!(query.feed(counter, messages).is_ok());
}

fn search(history: &mut Texts, limits: Limits, counter: &impl Counter) -> Result<Found, i64> {
    let mut query = Query::new((), history.bounds().rule, limits);
    for _ in 0..1_000 {
        match query.next(history, String::eq) {
            Next::Changing => unreachable!("nobody else changes it"),
            Next::HeadTooLong(tokens) => return Err(tokens),
            Next::Found(found) => return Ok(found),
            Next::Read(wanted) => read(history, &mut query, &wanted, counter),
        }
    }
    unreachable!("the search does not end: {:?} {limits:?}", history.messages())
}

fn window(history: &mut Texts, limits: Limits) -> Option<Vec<String>> {
    let found = search(history, limits, &Words).ok()?;
    Some(history.window(&found, history.messages().end()).cloned().collect())
}

fn start(history: &mut Texts, allowance: i64, counter: &impl Counter) -> Option<u64> {
    search(history, Limits::of(allowance), counter).ok().map(|found| found.start)
}

fn count(text: &str) -> i64 {
    Words.count(text).unwrap_or_default()
}

/// LlamaIndex's rule, word for word.
fn joined_reference(messages: &[(String, Outline)], first_may_start: bool, allowance: i64) -> Vec<String> {
    let texts: Vec<String> = messages.iter().map(|(text, _)| text.clone()).collect();
    let last = texts.len().saturating_sub(1);
    let legal = |at: &usize| messages[*at].1.may_start || (*at == 0 && first_may_start) || *at == last;
    let start = (0..texts.len()).filter(legal).find(|at| count(&texts[*at..].join(" ")) <= allowance);
    texts[start.unwrap_or(last)..].to_vec()
}

/// The rule of the design, by looking at every start: the window, or `None` if the head is too long. `is_whole` if
/// no message has left to make room.
fn reference(messages: &[(String, Outline)], rule: StartOn, limits: Limits, is_whole: bool) -> Option<Vec<String>> {
    let leading = messages.iter().take_while(|(_, outline)| outline.kind == Kind::System).count();
    let head = if limits.include_system { leading } else { 0 };
    let tokens = |range: std::ops::Range<usize>| messages[range].iter().map(|(text, _)| count(text)).sum::<i64>();
    let allowance = limits.token_limit - limits.initial_token_count - tokens(0..head);
    if allowance < 0 {
        return None;
    }
    let end = messages.len();
    let kind = |at: usize| messages[at].1.kind;
    let question = |at: usize| (head..at).rev().find(|&before| kind(before) == Kind::User);
    let any_user = (head..end).any(|at| kind(at) == Kind::User);
    let carries = |at: usize| rule == StartOn::User && kind(at) == Kind::Assistant && any_user;
    let is_start = |at: usize| match rule {
        StartOn::Any => (at == head && is_whole) || at == end - 1 || messages[at].1.may_start,
        StartOn::User if kind(at) == Kind::User => true,
        StartOn::User if kind(at) != Kind::Assistant => false,
        StartOn::User => {
            let before = (at > head).then(|| messages[at - 1].1);
            let in_step = before.is_some_and(|before| before.kind == Kind::Assistant && before.continues);
            let after_question = before.is_some_and(|before| before.kind == Kind::User);
            !in_step && !after_question && (!any_user || question(at).is_some())
        }
    };
    let before = |at: usize| {
        let carried = question(at).filter(|_| carries(at)).map_or(0, |question| tokens(question..question + 1));
        tokens(head..at) - carried
    };
    let result = |from: usize, question: Option<usize>| {
        let texts = (0..head).chain(question).chain(from..end).map(|at| messages[at].0.clone());
        Some(texts.collect())
    };
    let excess = tokens(head..end) - allowance;
    if excess <= 0 {
        let may_lead = |at: &usize| match rule {
            StartOn::User => kind(*at) != Kind::Tool,
            StartOn::Any => is_start(*at),
        };
        return result((head..end).find(may_lead).unwrap_or(end), None);
    }
    let least = limits.left_out(excess, allowance);
    let starts: Vec<usize> = (head..end).filter(|&at| is_start(at)).collect();
    let found = starts.iter().copied().find(|&at| before(at) >= least);
    let found = found.or_else(|| match rule {
        StartOn::User => starts.last().copied(),
        StartOn::Any => starts.iter().copied().rev().find(|&at| before(at) >= excess).or(end.checked_sub(1)),
    });
    match found {
        Some(at) => result(at, question(at).filter(|_| carries(at))),
        None => result(end, None),
    }
}

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Pops, removes or adds some messages.
fn change(history: &mut Texts, random: &mut Random, fragments: &[&str]) {
    match random.below(8) {
        0 => drop(history.pop(&mut Vec::new())),
        1 if !history.is_empty() => {
            let Ok(place) = history.place(random.below(history.len()) as isize) else { return };
            history.remove(place, &mut Vec::new());
        }
        2 if random.below(3) == 0 => {
            let head = (0..random.below(3)).map(|_| ("s s".to_owned(), outline(Kind::System, false))).collect();
            if history.bounds().rule == STEPS {
                history.set_head(head, &mut Vec::new());
            }
        }
        3 if random.below(3) == 0 => {
            let before = all(history);
            let outlines = before.iter().map(|(_, outline)| *outline).collect();
            let left = history.set_outlines(outlines, &mut Vec::new());
            assert_eq!((left.len(), all(history)), (0, before));
        }
        _ => (0..=random.below(4)).for_each(|_| {
            let kinds = [Kind::User, Kind::Assistant, Kind::Assistant, Kind::Tool, Kind::Tool, Kind::System];
            let most = if random.below(4) == 0 { 6 } else { 5 };
            let kind = kinds[random.below(most)];
            let outline = outline(kind, kind == Kind::Assistant && random.below(2) == 0);
            let text = fragments[random.below(fragments.len())].to_owned();
            history.push(std::iter::once((text, outline)), &mut Vec::new());
        }),
    }
}

fn all(history: &Texts) -> Vec<(String, Outline)> {
    history.all().map(|(text, outline)| (text.clone(), outline)).collect()
}

#[test]
fn any_mix_of_changes_gives_the_window_of_the_joined_rule() {
    let long = "\n".repeat(40);
    let fragments =
        ["", " ", "\n", "a", "b c", " d", "e ", "f\n", "  ", "word word word", "?!", "\n\n g", "h  i", "", &long];
    for seed in 1..250 {
        let mut random = Random::new(seed);
        let bound = [0, 0, 1, 3, 9, 30][random.below(6)];
        let mut history = history(Rule::LLAMA_INDEX, bound);
        for _ in 0..100 {
            change(&mut history, &mut random, &fragments);
            let most = [40, 200][random.below(2)];
            let limits = Limits::of(random.below(most) as i64);
            let found = search(&mut history, limits, &Words);
            let texts: Option<Vec<String>> =
                found.as_ref().ok().map(|found| history.window(found, u64::MAX).cloned().collect());
            let expected = joined_reference(&all(&history), history.is_whole(), limits.token_limit);
            assert_eq!(texts.as_ref(), Some(&expected), "{seed}, {limits:?}: {:?}", all(&history));
            if let Ok(Found { tokens: Some(tokens), .. }) = found {
                assert_eq!(count(&expected.join(" ")), tokens, "{seed}: {expected:?}");
            }
            let texts: Vec<String> = all(&history).into_iter().map(|(text, _)| text).collect();
            let everything = search(&mut history, Limits::ALL, &Words).map(|found| found.tokens);
            assert_eq!(everything, Ok(Some(count(&texts.join(" ")))), "{seed}: {texts:?}");
        }
    }
}

#[test]
fn any_mix_of_changes_gives_the_window_of_the_additive_rules() {
    let fragments = ["", "a", "b c", "d e f", "word word word word word word word", "a b c d"];
    for seed in 1..300 {
        let mut random = Random::new(seed);
        let rule = [ADDITIVE, STEPS, STEPS][random.below(3)];
        let bound = [0, 0, 1, 2, 3, 9][random.below(6)];
        let mut history = history(rule, bound);
        for _ in 0..100 {
            change(&mut history, &mut random, &fragments);
            let most = [10, 40, 100][random.below(3)];
            let limits = Limits {
                token_limit: random.below(most) as i64,
                initial_token_count: random.below(2) as i64,
                include_system: random.below(3) > 0,
                all: false,
                // A cut that stays depends on what was evicted.
                retention_ratio: if bound == 0 { [1.0, 0.7, 0.3, 0.0][random.below(4)] } else { 1.0 },
            };
            if random.below(2) == 0 {
                let everything = search(&mut history, Limits::ALL, &Words);
                let total = all(&history).iter().map(|(text, _)| count(text)).sum();
                assert_eq!(everything.map(|found| found.tokens), Ok(Some(total)), "{seed}: {:?}", all(&history));
            }
            let messages = all(&history);
            // A window that began with a head whose following messages have left would have a gap.
            let lost = if history.has_gap() && !limits.include_system { history.head().len() } else { 0 };
            let expected = reference(&messages[lost..], rule.start_on, limits, history.is_whole());
            let found = search(&mut history, limits, &Words).ok();
            let texts = found.as_ref().map(|found| history.window(found, u64::MAX).cloned().collect());
            assert_eq!(texts, expected, "{seed}, {rule:?}, {limits:?}: {:?}", all(&history));
            let tokens = texts.map(|texts: Vec<String>| texts.iter().map(|text| count(text)).sum());
            assert_eq!(found.and_then(|found| found.tokens), tokens, "{seed}, {rule:?}, {limits:?}");
        }
    }
}

/// Messages are indices into texts that others edit in place.
type Edited = History<usize, (), String>;

/// Asks for all messages as their keeper does: their tokens.
fn ask_and_verify(history: &mut Edited, all: &[String], limits: Limits) -> Option<i64> {
    let mut query = Query::new((), Rule::LLAMA_INDEX, limits);
    loop {
        match query.next(history, String::eq) {
            Next::Changing => query = Query::new((), Rule::LLAMA_INDEX, limits),
            Next::HeadTooLong(_) => unreachable!("texts have no head"),
            Next::Read(wanted) => {
                let texts = history.wanted(&wanted).into_iter().map(|&message| all[message].clone());
                let messages = texts.map(|text| (Content::Joined(text.clone()), text)).collect();
                assert!(query.feed(&Words, messages).is_ok());
            }
            Next::Found(found) => {
                let ledger = history.ledger(&()).filter(|ledger| ledger.first() <= found.start);
                let pins = ledger.into_iter().flat_map(|ledger| ledger.pins_since(found.start));
                let messages = history.messages().since(found.start).map(|&message| &all[message]);
                let pairs = (found.start..).zip(messages.zip(pins)).filter(|(_, (now, pin))| now != pin);
                let changed: Vec<u64> = pairs.map(|(position, _)| position).collect();
                let (Some(&first), Some(&last)) = (changed.first(), changed.last()) else { return found.tokens };
                history.forget_changed(&(), first, last, &mut Vec::new());
            }
        }
    }
}

#[test]
fn edits_anywhere_are_in_the_counts_once_a_window_has_them() {
    let long = "\n".repeat(70);
    let fragments =
        ["", "", " ", "a", "b ", " c", &long, "word word ", " \n", "one two three four five six seven ", "  e"];
    for seed in 1..1_000 {
        let mut random = Random::new(seed);
        let bounds = history(Rule::LLAMA_INDEX, [0, 0, 3, 6][random.below(4)]).bounds();
        let mut history = Edited::new(bounds);
        let (mut all, mut before) = (Vec::new(), String::new());
        for _ in 0..40 {
            match random.below(8) {
                0..3 => {
                    let message = (all.len(), outline([Kind::User, Kind::Assistant][random.below(2)], false));
                    all.push(fragments[random.below(fragments.len())].to_owned());
                    history.push(std::iter::once(message), &mut Vec::new());
                }
                3..6 if !all.is_empty() => {
                    let edited = all.len() - 1 - random.below(all.len().min(6));
                    // Now and then an edit is undone.
                    let text = fragments[random.below(fragments.len())];
                    let text = if random.below(3) == 0 { before } else { text.to_owned() };
                    before = std::mem::replace(&mut all[edited], text);
                }
                _ => {
                    let allowance = [0, 2, 9, 30][random.below(4)];
                    ask_and_verify(&mut history, &all, Limits::of(allowance));
                }
            }
        }
        let now: Vec<&str> = history.messages().iter().map(|&message| all[message].as_str()).collect();
        let tokens = ask_and_verify(&mut history, &all, Limits::ALL);
        assert_eq!(tokens, Some(count(&now.join(" "))), "{seed}: {now:?}");
    }
}

#[test]
fn counts_the_window_and_what_rules_out_the_rest() {
    let mut history = history(Rule::LLAMA_INDEX, 0);
    (0..100_000).for_each(|_| put_text(&mut history, "one two three four", true));
    let counting = Counting::default();
    assert_eq!(start(&mut history, 400, &counting), Some(99_900));
    let bytes = counting.0.get();
    assert!(bytes < 110 * 3 * "one two three four ".len(), "{bytes}");
    assert_eq!(start(&mut history, 400, &counting), Some(99_900));
    assert_eq!(counting.0.get(), bytes);
}

#[test]
fn a_long_run_without_starts_leaves_the_last_message() {
    let mut history = history(Rule::LLAMA_INDEX, 0);
    put_text(&mut history, "question", true);
    (0..100_000).for_each(|_| put_text(&mut history, "result", false));
    assert_eq!(start(&mut history, 50_000, &Words), Some(100_000));
    assert_eq!(start(&mut history, 100_001, &Words), Some(0));
}

#[test]
fn a_long_loop_carries_its_question_and_counts_no_more_than_it_must() {
    let mut history = history(STEPS, 0);
    put(&mut history, "be kind", Kind::System);
    put(&mut history, "do it", Kind::User);
    for _ in 0..50_000 {
        let call = ("call it".to_owned(), outline(Kind::Assistant, true));
        history.push(std::iter::once(call), &mut Vec::new());
        put(&mut history, "the result", Kind::Tool);
    }
    let counting = Counting::default();
    let limits = Limits { include_system: true, ..Limits::of(4_004) };
    let found = search(&mut history, limits, &counting);
    let expected = Found { head: 0..1, question: Some(1), start: 98_002, tokens: Some(4_004) };
    assert_eq!(found, Ok(expected));
    assert!(counting.0.get() < 2_100 * "the result".len(), "{}", counting.0.get());
}

#[test]
fn a_kept_question_without_a_start_behind_it_is_counted_with_all_that_is_left() {
    let mut history = history(STEPS, 2);
    put(&mut history, "what is it", Kind::User);
    history.push(std::iter::once(("call it".to_owned(), outline(Kind::Assistant, true))), &mut Vec::new());
    ["a b", "c d e"].iter().for_each(|text| put(&mut history, text, Kind::Tool));
    ["n o t e", "and another"].iter().for_each(|text| put(&mut history, text, Kind::System));
    let expected = Found { head: 0..0, question: Some(0), start: 4, tokens: Some(9) };
    assert_eq!(search(&mut history, Limits::of(1), &Words), Ok(expected.clone()));
    assert!(search(&mut history, Limits::ALL, &Words).is_ok());
    assert_eq!(search(&mut history, Limits::of(1), &Words), Ok(expected));
}

#[test]
fn a_head_that_does_not_fit_is_told() {
    let mut history = history(STEPS, 0);
    put(&mut history, "a b c", Kind::System);
    let limits = Limits { include_system: true, initial_token_count: 1, ..Limits::of(3) };
    assert_eq!(search(&mut history, limits, &Words), Err(3));
}

#[test]
fn starts_never_move_back_while_a_history_grows() {
    for (seed, ratio) in (1..200).zip([1.0, 0.7, 0.5, 0.2].into_iter().cycle()) {
        let mut random = Random::new(seed);
        let mut history = history(STEPS, [0, 6][random.below(2)]);
        let limits = Limits { include_system: true, retention_ratio: ratio, ..Limits::of(20) };
        let mut last = 0;
        put(&mut history, "ask", Kind::User);
        for _ in 0..100 {
            let kind = [Kind::User, Kind::Assistant, Kind::Tool][random.below(3)];
            put(&mut history, ["a", "b c", "d e f g"][random.below(3)], kind);
            let Ok(found) = search(&mut history, limits, &Words) else { continue };
            assert!(found.start >= last, "{seed}: from {last} to {}", found.start);
            last = found.start;
        }
    }
}

/// Bytes counted for a first window of this many blank messages, and for one more word.
fn bytes_for_blanks(messages: usize) -> usize {
    let mut history = history(Rule::LLAMA_INDEX, 0);
    put_text(&mut history, "go", true);
    (0..messages).for_each(|_| put_text(&mut history, "", true));
    let counting = Counting::default();
    start(&mut history, 3_000, &counting);
    put_text(&mut history, "done", true);
    start(&mut history, 3_000, &counting);
    counting.0.get()
}

#[test]
fn blank_messages_cost_time_in_proportion() {
    let (few, many) = (bytes_for_blanks(1_000), bytes_for_blanks(10_000));
    assert!(many < 12 * few, "{many} for ten times the messages that take {few}");
}

#[test]
fn a_result_of_a_history_that_has_changed_is_not_kept() {
    let mut history = history(Rule::LLAMA_INDEX, 3);
    ["", "", "a b", "c"].iter().for_each(|text| put_text(&mut history, text, true));
    let mut query = Query::new((), Rule::LLAMA_INDEX, Limits::of(100));
    while let Next::Read(wanted) = query.next(&mut history, String::eq) {
        read(&history, &mut query, &wanted, &Words);
        if query.generation() < 4 {
            put_text(&mut history, "d e f", true); // and what was read may have left
        }
    }
    assert_eq!(query.generation(), history.generation());
    let expected = joined_reference(&all(&history), history.is_whole(), 100);
    assert_eq!(window(&mut history, Limits::of(100)), Some(expected));
}

#[test]
fn a_history_that_always_changes_is_given_up() {
    let mut history = history(Rule::LLAMA_INDEX, 2);
    put_text(&mut history, "a", true);
    put_text(&mut history, "b", true);
    let mut query = Query::new((), Rule::LLAMA_INDEX, Limits::of(100));
    let mut asked = 0;
    while let Next::Read(wanted) = query.next(&mut history, String::eq) {
        read(&history, &mut query, &wanted, &Words);
        put_text(&mut history, "c", true);
        asked += 1;
        assert!(asked < 100);
    }
    assert_eq!(query.next(&mut history, String::eq), Next::Changing);
}
