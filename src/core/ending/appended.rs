//! What appended messages add to a history that is kept elsewhere.

use super::Ending;
use crate::core::count::Counter;
use crate::core::item::{Kind, Outline};
use crate::core::joined::{Before, Text, ends_in_word, measure, tail};
use crate::core::policy::{Accounting, StartOn, Starting, starting};

/// What is stored with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    /// What it adds to `S`.
    pub tokens: i64,
    /// If a window may begin with it: `S(end)` less the tokens of that window.
    pub before: Option<i64>,
    /// The position of the question that such a window carries.
    pub question: Option<i64>,
}

/// What messages add to the history they are appended to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Appended {
    /// Where the history ends now.
    pub ending: Ending,
    /// How many of the messages join the head.
    pub head: usize,
    /// The others, oldest first.
    pub rows: Vec<Row>,
    /// Older messages that may now begin a window: their positions, and `before`.
    pub settled: Vec<(i64, i64)>,
    /// Whether older messages can no longer begin a window, because the first question has come.
    pub forgets: bool,
}

/// What the messages `items` add to a history, where tokens add up. Each comes with its tokens.
#[must_use]
pub fn append(start_on: StartOn, ending: Ending, items: &[(Outline, i64)]) -> Appended {
    let old_end = ending.end;
    let mut appended = Appended { ending, rows: Vec::with_capacity(items.len()), ..Appended::default() };
    for &(outline, tokens) in items {
        let ending = &mut appended.ending;
        // Behind trimmed messages, a system message is part of a turn.
        if outline.kind == Kind::System && ending.first == ending.end && ending.behind == ending.first {
            ending.behind += 1;
            for position in [&mut ending.first, &mut ending.lead, &mut ending.end, &mut ending.word] {
                *position += 1;
            }
            (ending.head, ending.head_tokens) = (ending.head + 1, ending.head_tokens.saturating_add(tokens));
            appended.head += 1;
            continue;
        }
        let asks = start_on == StartOn::User && outline.kind == Kind::User;
        if asks && ending.question.is_none() {
            appended.rows.iter_mut().for_each(|row| row.before = None);
            appended.forgets = ending.first < old_end;
        }
        let start = match starting(start_on, outline, || ending.last, ending.question.is_some()) {
            Starting::No => Row::default(),
            Starting::Alone => Row { before: Some(ending.total), ..Row::default() },
            Starting::Carrying => {
                Row { before: Some(ending.total - ending.question_tokens), question: ending.question, ..Row::default() }
            }
        };
        appended.rows.push(Row { tokens, ..start });
        if asks {
            (ending.question, ending.question_tokens) = (Some(ending.end), tokens);
        }
        ending.total = ending.total.saturating_add(tokens);
        if start_on == StartOn::User && outline.kind == Kind::Tool && ending.lead == ending.end {
            (ending.lead, ending.lead_total) = (ending.lead + 1, ending.total);
        }
        ending.last = Some(outline);
        ending.end += 1;
        ending.word = ending.end;
    }
    appended
}

/// What the messages `items` add to a queue; each comes with its tokens. See [`flush`](crate::core::flush). Such a session
/// has no head, and its window begins at the cut: `lead`.
#[must_use]
pub fn append_to_queue(mut ending: Ending, items: &[(Outline, i64)]) -> Appended {
    let mut rows = Vec::with_capacity(items.len());
    for &(outline, tokens) in items {
        let is_user = outline.kind == Kind::User;
        rows.push(Row { tokens, before: is_user.then_some(ending.total), question: None });
        if is_user {
            (ending.question, ending.question_tokens) = (Some(ending.end), tokens);
        }
        ending.total = ending.total.saturating_add(tokens);
        ending.last = Some(outline);
        ending.end += 1;
        ending.word = ending.end;
    }
    Appended { ending, rows, ..Appended::default() }
}

/// `before` of the head's messages, for windows that are asked for without a head. Here `S` is counted backwards from
/// 0.
#[must_use]
pub fn head_starts(start_on: StartOn, head: &[(Outline, i64)]) -> Vec<Option<i64>> {
    let mut sum = 0;
    let mut starts: Vec<_> = head
        .iter()
        .rev()
        .map(|(outline, tokens)| {
            sum -= tokens;
            (start_on == StartOn::Any && outline.may_start).then_some(sum)
        })
        .collect();
    starts.reverse();
    starts
}

/// What `texts`, each with its outline, add to a history whose texts are joined. `earlier` are the texts from
/// [`unread_from`](Ending::unread_from) on.
///
/// # Errors
/// The counter's.
pub fn append_joined<C: Counter>(
    counter: &C,
    ending: Ending,
    earlier: Vec<Text>,
    texts: Vec<(Outline, Text)>,
) -> Result<Appended, C::Error> {
    let from = ending.unread_from(Accounting::Joined);
    let old_end = ending.end;
    let last = texts.last().map(|(outline, _)| *outline);
    let mut all = earlier;
    let appended_from = all.len();
    all.extend(texts.into_iter().map(|(_, text)| text));
    if ending.word == ending.first
        && let Some(first) = all.first_mut()
    {
        first.may_start = true; // the first message that is left may, whatever its role
    }
    let mut appended =
        Appended { ending, rows: vec![Row::default(); all.len() - appended_from], ..Appended::default() };
    let (mut segment, mut before) = context(&appended.ending, &all);
    let ending = &mut appended.ending;
    for index in appended_from..all.len() {
        if all[index].blank {
            continue;
        }
        let measured = measure(counter, before, &all[segment..=index])?;
        ending.total += measured.step;
        ending.has_runs |= measured.run.is_some();
        let position = from + index as i64;
        appended.rows[index - appended_from].tokens = measured.step;
        let blank = measured.blank_openings.iter().map(|&(start, tokens)| (from + (segment + start) as i64, tokens));
        for (start, tokens) in blank.chain(measured.opening.map(|tokens| (position, tokens))) {
            let start_before = ending.total - tokens;
            if ending.reach.is_some_and(|reach| start_before <= reach) {
                continue; // an older start has no more tokens, and fits whenever this one does
            }
            ending.reach = Some(start_before);
            match usize::try_from(start - old_end) {
                Ok(row) => appended.rows[row].before = Some(start_before),
                Err(_) => appended.settled.push((start, start_before)),
            }
        }
        (ending.word, ending.is_closed) = (position + 1, ends_in_word(&all[index].text));
        (segment, before) = (index + 1, Before::after(&all[index].text));
    }
    ending.end += appended.rows.len() as i64;
    ending.last = last.or(ending.last);
    Ok(appended)
}

/// Tokens of the blank messages at the end, which no sum includes. `earlier` are the texts from
/// [`unread_from`](Ending::unread_from) on.
///
/// # Errors
/// The counter's.
pub fn blank_tail<C: Counter>(counter: &C, ending: &Ending, earlier: &[Text]) -> Result<i64, C::Error> {
    let (segment, before) = context(ending, earlier);
    tail(counter, before, &earlier[segment..])
}

/// Where the blank messages begin among the texts from [`unread_from`](Ending::unread_from) on, and what comes before
/// them.
fn context<'a>(ending: &Ending, texts: &'a [Text]) -> (usize, Before<'a>) {
    match texts.first() {
        Some(word) if ending.unread_from(Accounting::Joined) < ending.word => (1, Before::after(&word.text)),
        _ if ending.word == ending.first => (0, Before::Nothing),
        _ => (0, Before::Word),
    }
}
