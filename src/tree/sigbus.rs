//! What happens when a page of a mapped tree file is gone.
//!
//! Somebody who cuts a file that is mapped, or a medium that cannot give a page,
//! makes the next access to it a SIGBUS, and that ends a process without a word.
//! A handler for the mappings that are watched here puts zeros in the place of the
//! pages that are lost, notes that, and lets the access go on: whoever owns the
//! mapping looks at the note and ends in good order. Accesses anywhere else end as
//! they did before.
//!
//! The handler calls nothing but `mmap` and `sigaction`, and touches nothing but
//! atomics: the list of what is watched has no lock and never gives memory back.
//!
//! This file holds `unsafe` as `map` does, because handling a signal and replacing
//! pages are calls that the compiler cannot check.
#![allow(unsafe_code)]

use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// A place for one mapping. It is used again when that is gone; there are as many
/// as there were mappings at a time.
#[derive(Debug)]
struct Slot {
    taken: AtomicBool,
    /// First address, `usize::MAX` while nothing is watched.
    begin: AtomicUsize,
    /// First address behind.
    end: AtomicUsize,
    /// Offset of the page that was lost first, and one; 0 while none is.
    lost: AtomicUsize,
    next: OnceLock<Box<Slot>>,
}

static FIRST: Slot = Slot::new();

/// What SIGBUS did before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Bytes of a page of this machine; the power of two that any of them is in the end.
static PAGE: AtomicUsize = AtomicUsize::new(1);

impl Slot {
    const fn new() -> Slot {
        Slot {
            taken: AtomicBool::new(false),
            begin: AtomicUsize::new(usize::MAX),
            end: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            next: OnceLock::new(),
        }
    }

    /// A slot that nobody else has.
    fn claim() -> &'static Slot {
        let mut slot = &FIRST;
        while slot.taken.swap(true, Ordering::SeqCst) {
            slot = slot.next.get_or_init(|| Box::new(Slot::new()));
        }
        slot
    }

    /// The range that is watched. A slot that goes from one mapping to another
    /// meanwhile is none: the range would be made of two.
    fn range(&self) -> Option<(usize, usize)> {
        let begin = self.begin.load(Ordering::SeqCst);
        let end = self.end.load(Ordering::SeqCst);
        (self.begin.load(Ordering::SeqCst) == begin).then_some((begin, end))
    }
}

/// A mapping that is watched as long as this lives. It has to end before the
/// mapping does.
#[derive(Debug)]
pub(crate) struct Watch {
    slot: &'static Slot,
}

impl Watch {
    /// Watches the pages from `begin` on, `len` bytes.
    pub(crate) fn new(begin: *const u8, len: usize) -> Watch {
        install();
        let slot = Slot::claim();
        slot.lost.store(0, Ordering::SeqCst);
        // The end first: with the old one the range would be that of nobody.
        let begin = begin as usize;
        slot.end.store(begin.saturating_add(len), Ordering::SeqCst);
        slot.begin.store(begin, Ordering::SeqCst);
        Watch { slot }
    }

    /// Offset of the page that was lost first, if one was. Everything behind it
    /// reads as zeros, and what is stored there is in no file.
    #[inline]
    pub(crate) fn lost(&self) -> Option<usize> {
        self.slot.lost.load(Ordering::Relaxed).checked_sub(1)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.slot.begin.store(usize::MAX, Ordering::SeqCst);
        self.slot.end.store(0, Ordering::SeqCst);
        self.slot.taken.store(false, Ordering::SeqCst);
    }
}

/// Installs the handler, once in a process.
fn install() {
    PREVIOUS.get_or_init(|| {
        // SAFETY: the call takes a number and touches no memory of ours.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE.store(usize::try_from(page).unwrap_or(1).max(1), Ordering::SeqCst);
        let mut action = default_action();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
        action.sa_sigaction = handler as libc::sighandler_t;
        // On the other stack where a thread has one: what comes before may need it.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        let mut previous = default_action();
        // SAFETY: both point to actions that outlive the call, and the handler is one
        // for SA_SIGINFO that does only what may be done in a handler.
        let failed = unsafe { libc::sigaction(libc::SIGBUS, &action, &mut previous) };
        assert_eq!(failed, 0, "SIGBUS can be handled");
        previous
    });
}

fn default_action() -> libc::sigaction {
    // SAFETY: all of an action may be zero: SIG_DFL, no flags, an empty mask.
    unsafe { mem::zeroed() }
}

/// Handles SIGBUS.
extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a whole siginfo to a handler that asked for one.
    let info = unsafe { &*info };
    // SAFETY: a SIGBUS has an address; if somebody sent the signal the field holds
    // other bits, which are not used then.
    let address = unsafe { info.si_addr() } as usize;
    // A word that lies askew would lie askew in a page of zeros too.
    let of_a_page = info.si_code > 0 && info.si_code != libc::BUS_ADRALN;
    if !(of_a_page && replace(address)) {
        // The access is made again, and ends as it would have without us.
        restore();
    }
}

/// Puts zeros in the place of the page with this address, and of all behind it, if
/// they are watched. Says whether it did.
///
/// All behind it, because a file is cut at its end; page by page a large tree would
/// take more areas of memory than a process may have. What was stored in a page that
/// is replaced is in the file.
fn replace(address: usize) -> bool {
    let mut next = Some(&FIRST);
    while let Some(slot) = next {
        if let Some((begin, end)) = slot.range()
            && (begin..end).contains(&address)
        {
            return zeros_from(address, slot, begin, end);
        }
        next = slot.next.get().map(|slot| &**slot);
    }
    false
}

fn zeros_from(address: usize, slot: &Slot, begin: usize, end: usize) -> bool {
    let page = address & !(PAGE.load(Ordering::SeqCst).wrapping_sub(1));
    // Told before it can be seen. Only the first counts.
    let offset = page.wrapping_sub(begin).wrapping_add(1);
    let _ = slot.lost.compare_exchange(0, offset, Ordering::SeqCst, Ordering::SeqCst);
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: the range lies in a mapping that is watched, so nothing else lies there:
    // `Watch` ends before its mapping, and the access that brought us here holds both.
    // What reads it does so through atomics, or copies, for which any bits will do.
    let mapped = unsafe {
        libc::mmap(
            ptr::with_exposed_provenance_mut(page),
            end.wrapping_sub(page),
            protection,
            flags | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

fn restore() {
    let default = default_action();
    let previous = PREVIOUS.get().unwrap_or(&default);
    // SAFETY: `previous` is an action that was in force, or the default; it outlives
    // the call, and the place for the old one may be left out.
    let _ = unsafe { libc::sigaction(libc::SIGBUS, previous, ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::sync::Barrier;
    use std::thread;

    use memmap2::MmapOptions;

    use super::*;
    use crate::tree::map::Owner;
    use crate::tree::map::Prefault;
    use crate::tree::map::memory_file;
    use crate::tree::map::reserve;

    const LEN: usize = 64 << 10;

    fn owner() -> (Owner, std::fs::File) {
        let file = memory_file().unwrap();
        reserve(&file, LEN as u64).unwrap();
        (Owner::map_file(&file, LEN, 0..0, Prefault::Write).unwrap(), file)
    }

    #[test]
    fn what_lies_behind_a_cut_reads_as_zeros_and_takes_stores() {
        let (mut owner, file) = owner();
        owner.store_bytes(0, &[7; LEN]);
        assert_eq!(owner.map().lost(), None);
        file.set_len(8192).unwrap();
        assert_eq!(owner.map().lost(), None, "nobody looked");
        let mut bytes = [1; 64];
        owner.copy_out(40_000, &mut bytes);
        assert_eq!(bytes, [0; 64]);
        assert_eq!(owner.map().lost(), Some(36_864));
        owner.store_bytes(8192, &[9; 64]);
        owner.store_bytes(60_000, &[9; 64]);
        owner.copy_out(0, &mut bytes);
        assert_eq!(bytes, [7; 64], "what was not cut is there");
        assert_eq!(owner.map().lost(), Some(36_864), "the first page counts");
        assert_eq!(file.metadata().unwrap().len(), 8192, "nothing went to the file");
    }

    #[test]
    fn a_mapping_whose_neighbours_are_lost_is_not() {
        let (one, other) = (owner(), owner());
        one.1.set_len(0).unwrap();
        let threads = 4;
        let barrier = Barrier::new(threads);
        thread::scope(|scope| {
            for thread in 0..threads {
                let (map, barrier) = (one.0.map(), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let mut bytes = [1; 8];
                    (0..LEN / 4096).for_each(|page| {
                        map.load_bytes((page * 7 + thread) % 16 * 4096, &mut bytes);
                    });
                    assert_eq!(bytes, [0; 8]);
                });
            }
        });
        assert!(one.0.map().lost().is_some());
        assert_eq!(other.0.map().lost(), None);
    }

    #[test]
    fn a_place_is_used_again_and_forgets() {
        for _ in 0..1_000 {
            let (owner, file) = owner();
            assert_eq!(owner.map().lost(), None);
            file.set_len(0).unwrap();
            owner.load_u32(0);
            assert_eq!(owner.map().lost(), Some(0));
        }
        let mut count = 1;
        let mut next = FIRST.next.get();
        while let Some(slot) = next {
            (count, next) = (count + 1, slot.next.get());
        }
        // Those of tests that run at the same time included.
        assert!(count < 1_000, "{count} places");
    }

    const CHILD: &str = "MAPLEAF_TEST_SIGBUS";

    /// Run by the test below in a process of its own; alone it does nothing.
    #[test]
    fn foreign_access() {
        if env::var_os(CHILD).is_none() {
            return;
        }
        let (_owner, file) = owner();
        let foreign = MmapOptions::new().len(LEN).map_raw(&file).unwrap();
        file.set_len(0).unwrap();
        // SAFETY: the pointer is that of a mapping that lives. It is to fail.
        let value = unsafe { foreign.as_ptr().read_volatile() };
        println!("read {value}");
    }

    #[test]
    fn a_mapping_of_others_ends_the_process_as_before() {
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", "tree::sigbus::tests::foreign_access", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{text}");
    }
}
