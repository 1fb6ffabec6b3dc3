//! A history that is kept elsewhere, such as in a database: what appended messages add to it, and what is left when
//! some go.
//!
//! The keeper stores with each message its tokens, its `before` if a window may begin with it, and the position of the
//! question that such a window carries. With the history it stores an [`Ending`], which is all that it needs to append
//! more.
//!
//! `S(i)` is the sum of the tokens of the messages behind the head, up to the one at position `i`. A window that begins
//! with a start has `S(end) - before` tokens. So the start is the first one whose `before` is large enough: a search in
//! an index. `before` never falls from one start to the next. Where tokens add up, it cannot. Where texts are joined, a
//! start that does not exceed every earlier `before` is left out.

use super::count::Counter;
use super::flush::{Cut, Flush, Queued};
use super::item::{Kind, Outline};
use super::joined::{Before, Text, ends_in_word, measure, tail};
use super::policy::{Accounting, Rule, StartOn, Starting, starting};

/// The end of a history that is kept elsewhere, and what it begins with. Positions are counted from the first message
/// ever put. Positions behind the head stay the same when another head is set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ending {
    /// The number of leading system messages.
    pub head: i64,
    /// Their tokens, which no other sum includes.
    pub head_tokens: i64,
    /// The position at which the messages behind the head began.
    pub behind: i64,
    /// The position of the first of them that is still there.
    pub first: i64,
    /// `S(first)`.
    pub base: i64,
    /// Where the window that has everything begins: it leaves out leading results whose calls are gone. For a queue,
    /// its cut.
    pub lead: i64,
    /// `S(lead)`.
    pub lead_total: i64,
    /// The position after the last message.
    pub end: i64,
    /// `S(end)`. Where texts are joined, it does not include blank messages at the end yet.
    pub total: i64,
    /// What the last message behind the head is to the rules; `None` if there is none.
    pub last: Option<Outline>,
    /// The position of the last user message, where windows may carry it.
    pub question: Option<i64>,
    /// Its tokens; 0 if there is none.
    pub question_tokens: i64,
    /// Where texts are joined: the largest `before`.
    pub reach: Option<i64>,
    /// Where texts are joined: the position after the last message that is not blank.
    pub word: i64,
    /// Where texts are joined: whether that one ends in a character that is not whitespace.
    pub is_closed: bool,
    /// Where texts are joined: whether windows may begin among many blank messages, whose tokens are not known.
    pub has_runs: bool,
}

/// How many numbers an [`Ending`] is.
pub const NUMBERS: usize = 16;

impl Ending {
    /// As numbers, to be stored; `None` for what is not there.
    #[must_use]
    pub fn numbers(&self) -> [Option<i64>; NUMBERS] {
        [
            Some(self.head),
            Some(self.head_tokens),
            Some(self.behind),
            Some(self.first),
            Some(self.base),
            Some(self.lead),
            Some(self.lead_total),
            Some(self.end),
            Some(self.total),
            self.last.map(|outline| i64::from(outline.to_byte())),
            self.question,
            Some(self.question_tokens),
            self.reach,
            Some(self.word),
            Some(i64::from(self.is_closed)),
            Some(i64::from(self.has_runs)),
        ]
    }

    /// The inverse of [`numbers`](Self::numbers); `None` for numbers that it cannot have made.
    #[must_use]
    pub fn from_numbers(numbers: &[Option<i64>]) -> Option<Self> {
        let &[
            head,
            head_tokens,
            behind,
            first,
            base,
            lead,
            lead_total,
            end,
            total,
            last,
            question,
            tokens,
            reach,
            word,
            closed,
            runs,
        ] = numbers
        else {
            return None;
        };
        let last = match last {
            Some(byte) => Some(Outline::from_byte(u8::try_from(byte).ok()?)?),
            None => None,
        };
        let flag = |number: Option<i64>| number.filter(|number| (0..=1).contains(number)).map(|number| number == 1);
        let ending = Self {
            head: head?,
            head_tokens: head_tokens?,
            behind: behind?,
            first: first?,
            base: base?,
            lead: lead?,
            lead_total: lead_total?,
            end: end?,
            total: total?,
            last,
            question,
            question_tokens: tokens?,
            reach,
            word: word?,
            is_closed: flag(closed)?,
            has_runs: flag(runs)?,
        };
        let is_sound = ending.head >= 0
            && (0..=ending.first).contains(&ending.behind)
            && (ending.first..=ending.end).contains(&ending.lead)
            && (ending.first..=ending.end).contains(&ending.word);
        is_sound.then_some(ending)
    }

    /// The first message at the end whose text must be read before others can be joined to it: the blank ones, and the
    /// word before them if it ends in whitespace. `end` if there are none.
    #[must_use]
    pub fn unread_from(&self, accounting: Accounting) -> i64 {
        match accounting {
            Accounting::Additive => self.end,
            Accounting::Joined if self.is_closed || self.word == self.first => self.word,
            Accounting::Joined => self.word - 1,
        }
    }

    /// This without the messages before `position`. A window may begin there and carries no question; its `before` is
    /// given. Sums go on.
    #[must_use]
    pub fn trimmed(&self, position: i64, before: i64) -> Self {
        Self {
            first: position,
            base: before,
            lead: position,
            lead_total: before,
            word: self.word.max(position),
            ..self.clone()
        }
    }

    /// For a queue: the cut after each round of a flush, the first round first. `users` are the user messages before
    /// `known_to`, from the queue's beginning on, with the tokens before each. `None` if more of them must be known.
    #[must_use]
    pub fn rounds(&self, flush: Flush, users: &[Cut], known_to: i64) -> Option<Vec<Cut>> {
        let queued = Queued {
            start: Cut { position: self.lead, before: self.lead_total },
            end: Cut { position: self.end, before: self.total },
            newest_user: self.question,
        };
        flush.rounds(queued, |from| {
            let first = users.partition_point(|user| user.position < from.position || user.before < from.before);
            let found = users.get(first).copied();
            if found.is_none() && known_to < self.end { None } else { Some(found) }
        })
    }

    /// For a queue: this with another cut. The messages before it are archived.
    #[must_use]
    pub fn with_cut(&self, cut: Cut) -> Self {
        Self { lead: cut.position, lead_total: cut.before, ..self.clone() }
    }

    /// For a queue: this without its messages. Archived messages stay.
    #[must_use]
    pub fn without_queue(&self) -> Self {
        Self {
            end: self.lead,
            total: self.lead_total,
            word: self.lead,
            last: None,
            question: None,
            question_tokens: 0,
            ..self.clone()
        }
    }

    /// This without the messages behind the one that is `kept`, or behind the head if there is none. The one kept must
    /// be one that [`may_be_last`]. `removed` is the sum of the tokens of those that go.
    #[must_use]
    pub fn cut(&self, rule: Rule, kept: Option<Kept>, removed: i64) -> Self {
        let total = self.total - removed;
        match kept {
            None => Self {
                base: total,
                lead: self.first,
                lead_total: total,
                end: self.first,
                total,
                last: None,
                question: None,
                question_tokens: 0,
                reach: None,
                word: self.first,
                is_closed: false,
                ..self.clone()
            },
            Some(Kept { position, outline, tokens, before, is_closed }) => {
                let is_question = rule.start_on == StartOn::User && outline.kind == Kind::User;
                Self {
                    end: position + 1,
                    total,
                    last: Some(outline),
                    question: is_question.then_some(position),
                    question_tokens: if is_question { tokens } else { 0 },
                    reach: before.filter(|_| rule.accounting == Accounting::Joined),
                    word: position + 1,
                    is_closed,
                    // Leading results may have been all there was.
                    lead: self.lead.min(position + 1),
                    ..self.clone()
                }
            }
        }
    }
}

/// The message after which a history is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its position.
    pub position: i64,
    /// What it is to the rules.
    pub outline: Outline,
    /// Its tokens.
    pub tokens: i64,
    /// Its `before`, if a window may begin with it.
    pub before: Option<i64>,
    /// Whether its text ends in a character that is not whitespace.
    pub is_closed: bool,
}

/// Whether a message alone tells enough to append to a history that ends with it.
#[must_use]
pub fn may_be_last(rule: Rule, outline: Outline, is_start: bool, is_blank: bool) -> bool {
    match (rule.accounting, rule.start_on) {
        (Accounting::Joined, _) => is_start && !is_blank,
        (Accounting::Additive, StartOn::Any) => true,
        (Accounting::Additive, StartOn::User) => outline.kind == Kind::User,
    }
}

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

/// What the messages `items` add to a queue; each comes with its tokens. See [`flush`](super::flush). Such a session
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

#[cfg(test)]
mod tests {
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
                    rows.iter_mut().for_each(|row: &mut super::Row| row.before = None);
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
}
