//! An allocator that keeps books for the threads that ask for it.
//!
//! A loop runs in the thread that called it, beside threads of the test that may
//! allocate as they like: so each thread has its own [`Ledger`], or none.
//!
//! `GlobalAlloc` is an unsafe trait: this is the one file of the tests with unsafe
//! code. Crates that count allocations do so for the whole process or around a
//! closure; neither can look into a loop that does not return.
#![allow(unsafe_code)]

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

#[global_allocator]
static ALLOCATOR: Bookkeeper = Bookkeeper;

thread_local! {
    static LEDGER: Cell<Option<&'static Ledger>> = const { Cell::new(None) };
    /// Whether this thread is asked for its name, or entered because of it.
    static IS_ASKED: Cell<bool> = const { Cell::new(false) };
}

/// What all threads allocate that a server sends with.
static SENDERS: OnceLock<&'static Ledger> = OnceLock::new();

/// How a server calls them.
const SENDERS_NAME: &str = "mapleaf-send-";

/// What a thread allocated.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Whether allocations are counted now.
    is_counting: AtomicBool,
    allocations: AtomicU64,
    /// Where the first counted one came from.
    first: Mutex<Option<String>>,
    /// Bytes that are held, and the most that were.
    live: AtomicI64,
    peak: AtomicI64,
}

impl Ledger {
    /// A ledger that is never freed: a thread may end whenever it likes.
    pub(crate) fn new() -> &'static Ledger {
        Box::leak(Box::default())
    }

    /// That of all threads of the process that servers send with.
    pub(crate) fn of_senders() -> &'static Ledger {
        SENDERS.get_or_init(Ledger::new)
    }

    /// Lets this thread be entered.
    pub(crate) fn open(&'static self) {
        LEDGER.set(Some(self));
    }

    /// Lets this thread be entered no more.
    pub(crate) fn close() {
        LEDGER.set(None);
    }

    /// Counts from now on.
    pub(crate) fn begin(&self) {
        self.allocations.store(0, Ordering::SeqCst);
        self.is_counting.store(true, Ordering::SeqCst);
    }

    /// Ends counting, and says how many allocations there were and where the first
    /// was made.
    pub(crate) fn end(&self) -> (u64, String) {
        self.is_counting.store(false, Ordering::SeqCst);
        let first = self.first.lock().unwrap().take();
        (self.allocations.load(Ordering::SeqCst), first.unwrap_or_default())
    }

    /// The most bytes that this thread held at a time while `work` ran, beyond those
    /// that it held before.
    pub(crate) fn peak_of<T>(&'static self, work: impl FnOnce() -> T) -> (T, u64) {
        self.live.store(0, Ordering::Relaxed);
        self.peak.store(0, Ordering::Relaxed);
        self.open();
        let outcome = work();
        Ledger::close();
        (outcome, u64::try_from(self.peak.load(Ordering::Relaxed)).unwrap_or(0))
    }

    fn took(&self, size: usize) {
        let size = size as i64;
        let live = self.live.fetch_add(size, Ordering::Relaxed) + size;
        self.peak.fetch_max(live, Ordering::Relaxed);
        if self.is_counting.load(Ordering::Relaxed)
            && self.allocations.fetch_add(1, Ordering::Relaxed) == 0
        {
            *self.first.lock().unwrap() = Some(place());
        }
    }

    fn gave(&self, size: usize) {
        self.live.fetch_sub(size as i64, Ordering::Relaxed);
    }
}

/// Where this thread is, in the sources of this package.
fn place() -> String {
    let trace = Backtrace::force_capture().to_string();
    let ours = trace.lines().filter(|line| line.contains("mapleaf::") || line.contains("only_a"));
    ours.collect::<Vec<_>>().join("\n")
}

/// Enters something in this thread's ledger. What the entry itself allocates is not
/// entered.
fn enter(entry: impl FnOnce(&Ledger)) {
    // A thread that ends has no ledger any more.
    match LEDGER.try_with(Cell::take) {
        Ok(Some(ledger)) => {
            entry(ledger);
            let _ = LEDGER.try_with(|open| open.set(Some(ledger)));
        }
        Ok(None) => enter_sender(entry),
        Err(_) => {}
    }
}

/// Enters something in the ledger of the senders, if it is counting and this thread is
/// one of them. They run in the server, so they cannot open a ledger themselves.
fn enter_sender(entry: impl FnOnce(&Ledger)) {
    let Some(ledger) = SENDERS.get() else { return };
    let is_counting = ledger.is_counting.load(Ordering::Relaxed);
    if !is_counting || !matches!(IS_ASKED.try_with(|asked| asked.replace(true)), Ok(false)) {
        return;
    }
    if thread::current().name().is_some_and(|name| name.starts_with(SENDERS_NAME)) {
        entry(ledger);
    }
    let _ = IS_ASKED.try_with(|asked| asked.set(false));
}

struct Bookkeeper;

// SAFETY: each call goes to the system's allocator as it came, and its answer back
// as it is; beside that only counters change.
unsafe impl GlobalAlloc for Bookkeeper {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        enter(|ledger| ledger.took(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        enter(|ledger| ledger.took(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        enter(|ledger| ledger.gave(layout.size()));
        // SAFETY: `place` came from the system's allocator with this layout, as every
        // block that this allocator gives.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        enter(|ledger| {
            ledger.gave(layout.size());
            ledger.took(size);
        });
        // SAFETY: `place` came from the system's allocator with this layout, and the
        // caller keeps the contract of `realloc`, which is the same.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[test]
fn only_a_thread_with_a_ledger_is_counted_and_only_when_asked() {
    let ledger = Ledger::new();
    drop(black_box(vec![1_u8; 100]));
    ledger.open();
    drop(black_box(vec![2_u8; 100]));
    ledger.begin();
    let mut grown = black_box(vec![3_u8; 100]);
    grown.reserve(1_000);
    black_box(&grown);
    std::thread::spawn(|| drop(black_box(vec![4_u8; 100]))).join().unwrap();
    let (allocations, first) = ledger.end();
    Ledger::close();
    // The thread's start allocates here as well, what it does does not.
    assert!((2..30).contains(&allocations), "{allocations}");
    assert!(first.contains("only_a_thread"), "{first}");
    let (_, peak) = ledger.peak_of(|| {
        // What nobody looks at an optimizer does not allocate.
        drop(black_box(vec![0_u8; 5_000]));
        drop(black_box(vec![0_u8; 7_000]));
        black_box(vec![0_u8; 1_000])
    });
    assert_eq!(peak, 7_000);
}
