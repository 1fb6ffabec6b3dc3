//! Counting many texts on all cores.

use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rayon_core::{ThreadPool, ThreadPoolBuilder};

/// Bytes of text that justify another thread: about 50 µs of counting.
const BYTES_A_THREAD: usize = 16 * 1024;

/// Texts that a thread takes at once. With short texts, threads would otherwise wait for each other at the shared
/// counter.
const TEXTS_AT_ONCE: usize = 16;

/// The threads, and the process that they are in. A forked child inherits the pool without its threads, and its first
/// batch would wait for ever. So it makes its own, and never touches the other.
static WORKERS: Mutex<Option<(u32, &'static ThreadPool)>> = Mutex::new(None);

/// Threads that count, beside the caller's own.
///
/// They are kept, because the tokenizer remembers in each thread how it counted the words it met. A new thread takes
/// nine times as long until it has met them.
#[derive(Clone, Copy)]
pub struct Workers(Option<&'static ThreadPool>);

impl Workers {
    /// The threads for texts of `bytes` in all. None if the caller's own thread does as well, or if no others can be
    /// started.
    ///
    /// The process must not be forked meanwhile. So the boundary calls this with the GIL held: Python does not fork
    /// without it.
    #[must_use]
    pub fn for_bytes(bytes: usize) -> Self {
        // The cores that this thread may use, which can be fewer than the machine has.
        let cores = if bytes < 2 * BYTES_A_THREAD { 1 } else { thread::available_parallelism().map_or(1, usize::from) };
        if cores < 2 {
            return Self(None);
        }
        let mut workers = WORKERS.lock().unwrap_or_else(PoisonError::into_inner);
        let process = process::id();
        if let Some((owner, pool)) = *workers
            && owner == process
        {
            return Self(Some(pool));
        }
        let pool = ThreadPoolBuilder::new().num_threads(cores - 1).build().ok().map(|pool| &*Box::leak(Box::new(pool)));
        *workers = pool.map(|pool| (process, pool));
        Self(pool)
    }

    /// The tokens of each text, counted by `tokens`. Every thread takes the next texts that no other has taken.
    #[must_use]
    pub fn count<T: AsRef<str> + Sync>(self, texts: &[T], tokens: impl Fn(&str) -> i64 + Sync) -> Vec<i64> {
        let tokens = |text: &T| tokens(text.as_ref());
        match self.0 {
            None => texts.iter().map(tokens).collect(),
            Some(pool) => {
                let next = AtomicUsize::new(0);
                let shares = Mutex::new(Vec::new());
                let work = || {
                    while let first = next.fetch_add(TEXTS_AT_ONCE, Ordering::Relaxed)
                        && first < texts.len()
                    {
                        let share = &texts[first..texts.len().min(first + TEXTS_AT_ONCE)];
                        let counted: Vec<i64> = share.iter().map(tokens).collect();
                        shares.lock().unwrap_or_else(PoisonError::into_inner).push((first, counted));
                    }
                };
                pool.in_place_scope(|scope| {
                    (0..pool.current_num_threads()).for_each(|_| scope.spawn(|_| work()));
                    work();
                });
                let mut shares = shares.into_inner().unwrap_or_else(PoisonError::into_inner);
                shares.sort_unstable_by_key(|(first, _)| *first);
                shares.into_iter().flat_map(|(_, counts)| counts).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_A_THREAD, Workers};
    use crate::core::count::encoding::Encoding;

    #[test]
    fn many_texts_are_counted_as_each_alone() -> Result<(), crate::core::error::Error> {
        let encoding = Encoding::named("cl100k_base")?;
        let texts: Vec<String> = (0..2_000).map(|index| format!("message {index} of {}", index % 7)).collect();
        let alone: Vec<i64> = texts.iter().map(|text| encoding.tokens(text)).collect();
        for bytes in [0, 2 * BYTES_A_THREAD, usize::MAX] {
            assert_eq!(Workers::for_bytes(bytes).count(&texts, |text| encoding.tokens(text)), alone);
        }
        Ok(())
    }
}
