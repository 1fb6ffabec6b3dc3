//! The guard: counts the instructions of fixed work and compares them with stored counts.
//!
//! Times on shared machines vary by half, instruction counts by less than a hundredth. Each piece of work runs in a process
//! of its own under `valgrind --tool=callgrind`, once with and once without the part that is guarded; the difference counts.
//!
//! - `cargo bench --no-default-features --bench instructions` checks. Without valgrind it says so and passes, but fails if
//!   the environment has `CI=true`.
//! - the same with `-- --update` writes `benches/instructions.json` anew.
//!
//! Compilers differ too: after a change of the toolchain, look at the numbers and update them.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, ExitCode};

use chatring::core::count::encoding::Encoding;
use chatring::core::policy::Limits;
use support::history::{DEFAULT_RULE, History, Message};

#[path = "support/mod.rs"]
mod support;

const STORED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json");
const CONVERSATION: &str = include_str!("../examples/support-conversation.jsonl");

/// Percent that a count may differ from the stored one. Less is an improvement to be stored, more a regression.
const TOLERANCE: i64 = 3;

const MESSAGES: u32 = 100_000;
const SEARCHES: i64 = 1_000;
const LIMIT: i64 = 3_000;
const TURNS: usize = 100;
const TEXTLESS: u32 = 10_000;
/// A cut that stays counts every message.
const COUNTED: u32 = 10_000;
/// The default limits of a ring, but for the tokens.
const DEFAULT: Limits = Limits { include_system: true, ..Limits::of(LIMIT) };

type Counts = BTreeMap<String, i64>;

/// A piece of work: prepares, and then does what is guarded if `guarded` is set.
type Work = fn(guarded: bool) -> Result<i64, Box<dyn Error>>;

const WORK: [(&str, Work); 9] = [
    ("put 100,000 messages", put),
    ("get 1,000 steady windows", search),
    ("get a first window of 3,000 tokens", first),
    ("put and get 100 turns by the default rule", turns),
    ("put and get 100 steps that carry their question", steps),
    ("put and get 100 turns, retention ratio 0.7", cuts_that_stay),
    ("get a first window of 10,000 textless messages, and another", textless),
    ("get two windows of 10,000 textless messages that do not fit", too_many_textless),
    ("count the example conversation", count),
];

#[expect(clippy::unnecessary_wraps, reason = "the other pieces of work can fail")]
fn put(guarded: bool) -> Result<i64, Box<dyn Error>> {
    let mut history = History::default();
    put_into(&mut history, if guarded { MESSAGES } else { 0 });
    Ok(0)
}

fn search(guarded: bool) -> Result<i64, Box<dyn Error>> {
    let encoding = Encoding::named("cl100k_base")?;
    let mut history = History::default();
    put_into(&mut history, MESSAGES);
    let mut tokens = 0;
    // The first one counts. Then limits differ, as the search's way does.
    for each in 0..=(if guarded { SEARCHES } else { 0 }) {
        tokens += history.window(encoding, LIMIT - each)?.tokens.unwrap_or(0);
    }
    Ok(tokens)
}

fn first(guarded: bool) -> Result<i64, Box<dyn Error>> {
    let encoding = Encoding::named("cl100k_base")?;
    let mut history = History::default();
    put_into(&mut history, MESSAGES);
    let loaded = encoding.tokens("hello"); // The vocabulary is made at the first count.
    Ok(loaded + if guarded { history.window(encoding, LIMIT)?.tokens.unwrap_or(0) } else { 0 })
}

/// A message put, and a window got, over and over, after so many messages.
fn put_and_get(guarded: bool, roles: &[&str], messages: u32, limits: Limits) -> Result<i64, Box<dyn Error>> {
    let encoding = Encoding::named("cl100k_base")?;
    let mut history = History::new(DEFAULT_RULE);
    history.put(Message::new("system", "You are the support of a shop."));
    history.put(Message::new("user", "Where are my orders?"));
    put_as(&mut history, roles, messages);
    let mut tokens = history.limited_window(encoding, limits)?.tokens.unwrap_or(0);
    let turns = roles.iter().cycle().zip(CONVERSATION.lines().cycle());
    for (role, line) in turns.take(if guarded { TURNS } else { 0 }) {
        history.put(Message::new(role, line));
        tokens += history.limited_window(encoding, limits)?.tokens.unwrap_or(0);
    }
    Ok(tokens)
}

fn turns(guarded: bool) -> Result<i64, Box<dyn Error>> {
    put_and_get(guarded, &["user", "call", "tool", "assistant"], MESSAGES, DEFAULT)
}

/// One long loop of an agent: every window has the question in front of a step.
fn steps(guarded: bool) -> Result<i64, Box<dyn Error>> {
    put_and_get(guarded, &["call", "tool"], MESSAGES, DEFAULT)
}

fn cuts_that_stay(guarded: bool) -> Result<i64, Box<dyn Error>> {
    let limits = Limits { retention_ratio: 0.7, ..DEFAULT };
    put_and_get(guarded, &["user", "call", "tool", "assistant"], COUNTED, limits)
}

/// Pictures, calls and placeholders: each of many messages counts with the next text, and all of them at most a few times.
fn textless(guarded: bool) -> Result<i64, Box<dyn Error>> {
    textless_within(guarded, LIMIT)
}

/// The same where a window begins among them. They are 79 tokens.
fn too_many_textless(guarded: bool) -> Result<i64, Box<dyn Error>> {
    textless_within(guarded, 50)
}

fn textless_within(guarded: bool, limit: i64) -> Result<i64, Box<dyn Error>> {
    let encoding = Encoding::named("cl100k_base")?;
    let mut history = History::default();
    (0..TEXTLESS).for_each(|_| history.put(Message::new("user", "")));
    let mut tokens = encoding.tokens("hello");
    if guarded {
        tokens += history.window(encoding, limit)?.tokens.unwrap_or(0);
        history.put(Message::new("user", "hello"));
        tokens += history.window(encoding, limit)?.tokens.unwrap_or(0);
    }
    Ok(tokens)
}

fn count(guarded: bool) -> Result<i64, Box<dyn Error>> {
    let encoding = Encoding::named("cl100k_base")?;
    let loaded = encoding.tokens("hello");
    Ok(loaded + if guarded { CONVERSATION.lines().map(|line| encoding.tokens(line)).sum() } else { 0 })
}

/// Puts lines of the conversation over and over, one in four of them as the user's.
fn put_into(history: &mut History, messages: u32) {
    put_as(history, &["user", "assistant", "tool", "assistant"], messages);
}

/// Puts lines of the conversation over and over, in these roles.
fn put_as(history: &mut History, roles: &[&str], messages: u32) {
    let made: Vec<Message> =
        roles.iter().cycle().zip(CONVERSATION.lines()).map(|(role, line)| Message::new(role, line)).collect();
    made.iter().cycle().take(messages as usize).for_each(|message| history.put(message.clone()));
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    if let [_, flag, name, guarded] = arguments.as_slice()
        && flag == "--work"
    {
        let work = WORK.iter().find(|(known, _)| known == name).ok_or("no such work")?;
        println!("{}", work.1(guarded == "true")?);
        return Ok(ExitCode::SUCCESS);
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        let must = env::var("CI").is_ok_and(|ci| ci == "true");
        eprintln!("instruction counts not checked: valgrind is not installed (on Debian: apt-get install valgrind)");
        return Ok(if must { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    let mut counts = Counts::new();
    for (name, _) in WORK {
        counts.insert(name.to_owned(), instructions(name, true)? - instructions(name, false)?);
    }
    if arguments.iter().any(|argument| argument == "--update") {
        fs::write(STORED, to_json(&counts))?;
    }
    let stored = from_json(&fs::read_to_string(STORED).unwrap_or_default());
    let mut differ = false;
    for (name, count) in &counts {
        let before = stored.get(name).copied().unwrap_or(0);
        let within = (count - before).abs() * 100 <= TOLERANCE * before;
        differ |= !within;
        let hundredths = i32::try_from((count - before) * 10_000 / before.max(1)).unwrap_or(i32::MAX);
        let (percent, verdict) = (f64::from(hundredths) / 100.0, if within { "ok" } else { "DIFFERS" });
        println!("{name:60} {count:>12} instructions, stored {before:>12}: {percent:+.2} % {verdict}");
    }
    if differ {
        eprintln!(
            "instruction counts differ by more than {TOLERANCE} %. If that is meant, store the new ones: make instructions-update"
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Instructions that one process takes for a piece of work.
fn instructions(name: &str, guarded: bool) -> Result<i64, Box<dyn Error>> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(env::current_exe()?);
    let done = valgrind.args(["--work", name, if guarded { "true" } else { "false" }]).output()?;
    let told = String::from_utf8_lossy(&done.stderr);
    if !done.status.success() {
        return Err(format!("{name}: {told}").into());
    }
    let collected = told.lines().find_map(|line| line.split_once("Collected : ")).ok_or("valgrind told no count")?;
    Ok(collected.1.trim().parse()?)
}

fn to_json(counts: &Counts) -> String {
    let mut json = String::new();
    for (name, count) in counts {
        let _ = write!(json, "{}\n  \"{name}\": {count}", if json.is_empty() { "{" } else { "," });
    }
    json + "\n}\n"
}

fn from_json(json: &str) -> Counts {
    let entries = json.lines().filter_map(|line| line.trim().trim_end_matches(',').rsplit_once(": "));
    entries.filter_map(|(name, count)| Some((name.trim_matches('"').to_owned(), count.parse().ok()?))).collect()
}
