//! One job for as many threads as the machine has cores for and the job is worth.
//!
//! Threads live as long as the call. What they share, and how work is divided among
//! them, is left to the job.

use std::io;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;

/// Bytes of a file that a thread is worth: to read and verify them takes some hundred
/// microseconds, and a thread some fifty to begin and end.
const THREAD_LEN: u64 = 2 << 20;

/// Threads at most: memory is saturated by fewer, and their buffers are 16 MiB then.
const THREADS_MAX: usize = 64;

/// Stack of a thread, which calls nothing deep.
const STACK_LEN: usize = 256 << 10;

/// Number of threads, this one included, that `len` bytes of a file are worth.
pub(super) fn threads_for(len: u64) -> usize {
    let worth = usize::try_from(len / THREAD_LEN).unwrap_or(usize::MAX).clamp(1, THREADS_MAX);
    // Asking the system reads files: not for small trees.
    match worth {
        1 => 1,
        _ => worth.min(thread::available_parallelism().map_or(1, NonZero::get)),
    }
}

/// Does `work` in this thread and at the same time in as many others as make `threads`, or
/// in fewer where the system gives no more. Each is to take its share of what is left.
pub(super) fn on_threads<T: Send>(threads: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    let helper = || thread::Builder::new().name("mapleaf-open".into()).stack_size(STACK_LEN);
    thread::scope(|scope| {
        let helpers: Vec<_> =
            (1..threads).map_while(|_| helper().spawn_scoped(scope, &work).ok()).collect();
        let mut outcomes = vec![work()];
        let joined = helpers.into_iter().map(|helper| helper.join());
        outcomes.extend(joined.map(|outcome| outcome.unwrap_or_else(|panic| resume_unwind(panic))));
        outcomes
    })
}

/// Calls `work` with the offset and the length of each part of `len` bytes, `step` bytes each
/// but for the last, on as many threads as they are worth. An error ends the thread that it
/// comes to.
pub(super) fn on_parts(
    len: usize,
    step: usize,
    work: impl Fn(usize, usize) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let offsets = Mutex::new((0..len).step_by(step));
    let next = || offsets.lock().unwrap_or_else(PoisonError::into_inner).next();
    let share = || {
        while let Some(offset) = next() {
            work(offset, step.min(len - offset))?;
        }
        Ok(())
    };
    on_threads(threads_for(len as u64), share).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn small_files_stay_on_one_thread_and_none_takes_too_many() {
        assert_eq!((threads_for(0), threads_for(2 * THREAD_LEN - 1)), (1, 1));
        let cores = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
        assert_eq!(threads_for(u64::MAX), cores);
    }

    #[test]
    fn every_share_is_taken_once() {
        for threads in [1, 2, 5] {
            let next = AtomicU32::new(0);
            let share = || {
                let take = || next.fetch_add(1, Ordering::Relaxed);
                std::iter::repeat_with(take).take_while(|taken| *taken < 1_000).collect::<Vec<_>>()
            };
            let shares = on_threads(threads, share);
            assert!((1..=threads).contains(&shares.len()));
            let mut all = shares.concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..1_000));
        }
    }

    #[test]
    fn parts_cover_all_bytes_once_and_an_error_is_told() {
        for len in [0, 1, 999, 1_000, 1_001, 7 << 20] {
            let parts = Mutex::new(Vec::new());
            let note = |offset, len| {
                parts.lock().unwrap().push(offset..offset + len);
                Ok(())
            };
            on_parts(len, 1_000, note).unwrap();
            let mut parts = parts.into_inner().unwrap();
            parts.sort_unstable_by_key(|part| part.start);
            let end = parts.iter().fold(0, |end, part| {
                assert!(part.start == end && part.len() <= 1_000 && !part.is_empty());
                part.end
            });
            assert_eq!(end, len);
        }
        let fail =
            |offset, _| if offset == 8_000 { Err(io::ErrorKind::Other.into()) } else { Ok(()) };
        assert!(on_parts(8_001, 1_000, fail).is_err());
        on_parts(8_000, 1_000, fail).unwrap();
    }

    #[test]
    #[should_panic(expected = "a broken invariant")]
    fn a_panic_of_any_thread_goes_on_in_this_one() {
        let main = thread::current().id();
        on_threads(2, || assert!(thread::current().id() == main, "a broken invariant"));
    }
}
