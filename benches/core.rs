//! The core without Python: the search, putting, and counting. `cargo bench --no-default-features --bench core`.

#![allow(missing_docs, reason = "criterion's macro makes a public function without any")]

use std::convert::Infallible;
use std::hint::black_box;

use chatring::core::count::Counter;
use chatring::core::count::encoding::Encoding;
use chatring::core::policy::{Limits, Rule};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::history::{DEFAULT_RULE, History, Message};

#[path = "support/mod.rs"]
mod support;

const CONVERSATION: &str = include_str!("../examples/support-conversation.jsonl");

/// Counts a byte as a token: what is not the counting is left.
struct Bytes;

impl Counter for Bytes {
    type Error = Infallible;

    fn count(&self, text: &str) -> Result<i64, Infallible> {
        Ok(text.len() as i64)
    }

    fn count_empty(&self) -> Result<i64, Infallible> {
        Ok(0)
    }

    fn splits_at_spaces(&self) -> bool {
        false
    }
}

/// A history of so many messages of ten tokens, one in four the user's.
fn history(messages: u32) -> History {
    history_of(Rule::LLAMA_INDEX, &["user", "assistant", "assistant", "assistant"], messages)
}

/// A history of so many messages of ten tokens in these roles, over and over.
fn history_of(rule: Rule, roles: &[&str], messages: u32) -> History {
    let made: Vec<Message> = roles.iter().map(|role| Message::new(role, "it is this")).collect();
    let mut history = History::new(rule);
    made.iter().cycle().take(messages as usize).for_each(|message| history.put(message.clone()));
    history
}

/// A steady search over a history of which everything is counted.
fn search(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("search");
    for messages in [1_000, 10_000, 100_000, 1_000_000, 10_000_000] {
        let mut history = history(messages);
        let everything = history.window(&Bytes, i64::MAX / 2);
        assert!(everything.is_ok_and(|found| found.start == 0));
        group.bench_function(BenchmarkId::from_parameter(messages), |bencher| {
            bencher.iter(|| history.window(&Bytes, black_box(3_000)));
        });
    }
    group.finish();
}

/// The same by the default rule, with a head. In turns, in one long loop whose windows carry its question, and in turns with
/// cuts that stay.
fn search_by_default(criterion: &mut Criterion) {
    let limits = Limits { include_system: true, ..Limits::of(3_000) };
    let stays = Limits { retention_ratio: 0.7, ..limits };
    let turn = ["user", "call", "tool", "assistant"].as_slice();
    for (name, roles, limits) in [("turns", turn, limits), ("steps", &turn[1..3], limits), ("retention", turn, stays)] {
        let mut group = criterion.benchmark_group(format!("search by default, {name}"));
        for messages in [1_000, 100_000] {
            let mut history = history_of(DEFAULT_RULE, &["system", "user"], 2);
            let made: Vec<Message> = roles.iter().map(|role| Message::new(role, "it is this")).collect();
            made.iter().cycle().take(messages).for_each(|message| history.put(message.clone()));
            let found = history.limited_window(&Bytes, limits);
            assert!(found.is_ok_and(|found| found.head.len() == 1 && found.question.is_some() == (name == "steps")));
            group.bench_function(BenchmarkId::from_parameter(messages), |bencher| {
                bencher.iter(|| history.limited_window(&Bytes, black_box(limits)));
            });
        }
        group.finish();
    }
}

/// Putting messages, per message.
fn put(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("put");
    for messages in [1_000, 100_000] {
        group.throughput(Throughput::Elements(messages.into()));
        group.bench_function(BenchmarkId::from_parameter(messages), |bencher| {
            bencher.iter_batched(|| (), |()| history(messages), BatchSize::LargeInput);
        });
    }
    group.finish();
}

/// Counting the lines of the example conversation, in bytes a second, and one message of average length.
fn count(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("count");
    for name in ["cl100k_base", "o200k_base"] {
        let Ok(encoding) = Encoding::named(name) else { continue };
        group.throughput(Throughput::Bytes(CONVERSATION.len() as u64));
        group.bench_function(BenchmarkId::new("conversation", name), |bencher| {
            bencher.iter(|| CONVERSATION.lines().map(|line| encoding.tokens(black_box(line))).sum::<i64>());
        });
        let average = CONVERSATION.len() / CONVERSATION.lines().count();
        let Some(line) = CONVERSATION.lines().min_by_key(|line| line.len().abs_diff(average)) else { continue };
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function(BenchmarkId::new("message", name), |bencher| {
            bencher.iter(|| encoding.tokens(black_box(line)));
        });
    }
    group.finish();
}

criterion_group!(benches, search, search_by_default, put, count);
criterion_main!(benches);
