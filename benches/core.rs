//! The core without Python: the search, putting, and counting. `cargo bench --no-default-features --bench core`.

#![allow(missing_docs, reason = "criterion's macro makes a public function without any")]

use std::convert::Infallible;
use std::hint::black_box;

use chatring::core::count::Counter;
use chatring::core::count::encoding::Encoding;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::history::{History, Message};

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
    let (question, answer) = (Message::new("user", "what is it"), Message::new("assistant", "it is this"));
    let mut history = History::default();
    (0..messages).for_each(|at| history.put(if at % 4 == 0 { question.clone() } else { answer.clone() }));
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

criterion_group!(benches, search, put, count);
criterion_main!(benches);
