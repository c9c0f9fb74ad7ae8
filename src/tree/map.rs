//! The mapping of a tree file, and the system calls that std lacks.
//!
//! Memory that another thread may look at is stored through atomics
//! alone: [`Map`] hands out values, never references to bytes. Each mapping has
//! one [`Owner`], the only thing that stores into it; it can move between
//! threads but not be shared, so its plain copies out of the mapping race with
//! no store. What no other thread may look at (the undo slot) it stores plainly too, and
//! [`Map`] refuses to load it. Other processes read the file. What lies where, and in which order it is stored, is left to the
//! modules above.
//!
//! All stores of a process that was killed are in the file: docs/FORMAT.md, 1.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use memmap2::Advice;
use memmap2::MmapOptions;
use memmap2::MmapRaw;

use crate::kernel;
use crate::layout::limits::PAGE_SIZE;
use crate::tree::cores::on_parts;
use crate::tree::mishap::Call;
use crate::tree::mishap::perform;
use crate::tree::mishap::perform_on;
use crate::tree::order::AtomicU32;
use crate::tree::order::AtomicU64;
#[cfg(all(loom, test))]
use crate::tree::order::Memory;
use crate::tree::order::Ordering;
use crate::tree::order::compiler_fence_before_save;
use crate::tree::sigbus::Watch;

/// Bytes of the words that are copied one by one.
pub(crate) const WORD: usize = size_of::<u64>();

/// A cache line of most processors.
const LINE: usize = 64;

/// Bytes that are brought in by one call. Each page costs the kernel some 0.4 us, so calls
/// weigh nothing and threads end together.
const PREFAULT_LEN: usize = 4 << 20;

/// How the pages of a mapping are brought in before they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefault {
    /// For a file that is about to be filled.
    Write,
    /// For a file that is about to be read through: clean pages stay clean.
    Read,
}

/// A shared mapping of a whole file, for any number of reading threads.
#[derive(Debug)]
pub(crate) struct Map {
    // Before the mapping, as fields are dropped in their order.
    watch: Watch,
    raw: MmapRaw,
    /// Bytes that no thread but the owner's looks at.
    private: Range<usize>,
    /// What models load from and store into in the place of the mapping.
    #[cfg(all(loom, test))]
    memory: Memory,
}

impl Map {
    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.raw.len()
    }

    /// Offset of the page that was found lost first. What is read from there on is
    /// nobody's, and what is stored there is in no file.
    #[inline]
    pub(crate) fn lost(&self) -> Option<usize> {
        self.watch.lost()
    }

    /// The little-endian u32 at a multiple of 4, but not of what is private.
    #[inline]
    pub(crate) fn load_u32(&self, offset: usize, order: Ordering) -> u32 {
        self.check_shared(offset, size_of::<u32>());
        u32::from_le(self.word32(offset).load(order))
    }

    /// Copies whole words from a multiple of 8, each by a relaxed load: the words
    /// may be of different writes. A length that is no multiple of 8 is rounded
    /// up in the mapping and cut off in `to`. Nothing of what is private is copied.
    #[inline]
    pub(crate) fn load_bytes(&self, offset: usize, to: &mut [u8]) {
        self.check_shared(offset, to.len().next_multiple_of(WORD));
        self.copy_words(offset, to);
    }

    #[inline]
    fn copy_words(&self, offset: usize, to: &mut [u8]) {
        let words = self.words(offset, to.len().div_ceil(WORD));
        let (whole, rest) = to.as_chunks_mut::<WORD>();
        let behind = words.get(whole.len());
        for (piece, word) in whole.iter_mut().zip(words) {
            *piece = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        if let Some(word) = behind {
            let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            rest.copy_from_slice(&bytes[..rest.len()]);
        }
    }

    /// Asks for the cache lines from the begin of one on, which are used soon. Nothing is
    /// checked: what lies outside of the mapping is asked for in vain.
    #[inline(always)]
    pub(crate) fn prefetch(&self, offset: usize, len: usize) {
        let mut line = self.raw.as_ptr().wrapping_add(offset);
        let end = line.wrapping_add(len);
        while line < end {
            kernel::prefetch(line);
            line = line.wrapping_add(LINE);
        }
    }

    #[cfg(not(all(loom, test)))]
    #[inline]
    fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(size_of::<u32>()), "offset {offset} is not aligned");
        self.check(offset, size_of::<u32>());
        // SAFETY: `check` proved that 4 bytes from `offset` lie in the mapping, so
        // the sum stays within the one allocation that the mapping is.
        let word = unsafe { self.raw.as_mut_ptr().add(offset) }.cast::<u32>();
        // SAFETY: the mapping begins at a page and `offset` is a multiple of 4, so
        // `word` is aligned; it is readable and writable as long as `self` lives;
        // all accesses of this process are atomic, or plain ones of the one owner:
        // loads while it does not store (`Owner::copy_out`), and stores to where no
        // other thread looks (`Owner::save`).
        unsafe { AtomicU32::from_ptr(word) }
    }

    #[cfg(not(all(loom, test)))]
    #[inline]
    fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(WORD), "offset {offset} is not aligned");
        let bytes = count.checked_mul(WORD);
        self.check(offset, bytes.unwrap_or(usize::MAX));
        // SAFETY: `check` proved that `offset` lies in the mapping.
        let first = unsafe { self.raw.as_mut_ptr().add(offset) }.cast::<AtomicU64>();
        // SAFETY: `first` is aligned (page start + multiple of 8), `count` words
        // from it lie in the mapping by `check`, any bits are valid atomics, and the
        // slice borrows `self`; that others change the words is what atomics allow.
        unsafe { std::slice::from_raw_parts(first, count) }
    }

    #[cfg(all(loom, test))]
    fn word32(&self, offset: usize) -> &AtomicU32 {
        self.check(offset, size_of::<u32>());
        self.memory.word32(offset)
    }

    #[cfg(all(loom, test))]
    fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        self.check(offset, count * WORD);
        self.memory.words(offset, count)
    }

    #[inline(always)]
    fn check(&self, offset: usize, len: usize) {
        let len_of_all = self.len();
        // Without a sum, which might overflow.
        if len > len_of_all || offset > len_of_all - len {
            beyond(offset, len, len_of_all);
        }
    }

    /// Any thread may look at these bytes, which are in the mapping.
    #[inline]
    fn check_shared(&self, offset: usize, len: usize) {
        let private = &self.private;
        assert!(
            offset >= private.end || offset.saturating_add(len) <= private.start,
            "{len} bytes at {offset} are the owner's, {private:?}"
        );
    }

    /// Brings all pages in. An unreadable page is an error here, not a signal later.
    fn prefault(&self, prefault: Prefault) -> io::Result<()> {
        let advice = match prefault {
            Prefault::Write => Advice::PopulateWrite,
            Prefault::Read => Advice::PopulateRead,
        };
        on_parts(self.len(), PREFAULT_LEN, |offset, len| {
            match self.raw.advise_range(advice, offset, len) {
                // A kernel before 5.14 does not know the advice: the first touch of
                // each page does the same work.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
                other => other,
            }
        })
    }
}

/// Numbers and not references to them, so that a check leaves them in registers.
#[cold]
#[inline(never)]
fn beyond(offset: usize, len: usize, mapping: usize) -> ! {
    panic!("{len} bytes at {offset} exceed a mapping of {mapping}");
}

#[cfg(test)]
thread_local! {
    /// Stores that still reach a mapping that is made: for code that makes its own.
    pub(crate) static BORN_WITH: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// The right to store into a mapping. There is one for each, and only the thread
/// that holds it can use it (it is not `Sync`, and every store takes `&mut`).
#[derive(Debug)]
pub(crate) struct Owner {
    map: Arc<Map>,
    not_sync: PhantomData<Cell<()>>,
    /// Stores that still reach the mapping: tests let a process "die" after any.
    #[cfg(test)]
    pub(crate) stores_left: Cell<u64>,
}

impl Owner {
    /// Maps `len` bytes of `file`, and gives the one owner of the mapping.
    ///
    /// `private` is what other threads never look at; it lies in front of all records.
    ///
    /// MADV_RANDOM comes before the first touch: with it a store to a clean page
    /// costs 3 us on ext4 and writes 4 KiB back, without it 30 to 90 us and 1 to
    /// 2 MiB, because reading ahead makes large folios.
    pub(crate) fn map_file(
        file: &File,
        len: usize,
        private: Range<usize>,
        prefault: Prefault,
    ) -> io::Result<Owner> {
        let raw = MmapOptions::new().len(len).map_raw(file)?;
        let map = Map {
            watch: Watch::new(raw.as_ptr(), raw.len()),
            raw,
            private,
            #[cfg(all(loom, test))]
            memory: Memory::default(),
        };
        map.raw.advise(Advice::Random)?;
        map.prefault(prefault)?;
        Ok(Owner::of(map))
    }

    /// The owner of a file of `len` bytes of which a model made those that it touches.
    #[cfg(all(loom, test))]
    pub(crate) fn of_model(len: usize, private: Range<usize>, memory: Memory) -> io::Result<Owner> {
        let raw = MmapRaw::from(MmapOptions::new().len(len).map_anon()?);
        let watch = Watch::new(raw.as_ptr(), raw.len());
        Ok(Owner::of(Map { watch, raw, private, memory }))
    }

    fn of(map: Map) -> Owner {
        Owner {
            map: Arc::new(map),
            not_sync: PhantomData,
            #[cfg(test)]
            stores_left: Cell::new(BORN_WITH.get()),
        }
    }

    /// A part of the mapping, to be stored into. Its bounds are checked here, once for all
    /// its stores.
    #[inline(always)]
    pub(crate) fn part(&mut self, offset: usize, len: usize) -> Part<'_> {
        self.part_of(offset, len)
    }

    /// Several parts at once, each by offset and length.
    #[inline(always)]
    pub(crate) fn parts<const N: usize>(&mut self, parts: [(usize, usize); N]) -> [Part<'_>; N] {
        // `array::map` is not always made part of its caller, and costs a call then.
        core::array::from_fn(|i| self.part_of(parts[i].0, parts[i].1))
    }

    #[inline(always)]
    fn part_of(&self, offset: usize, len: usize) -> Part<'_> {
        Part {
            owner: self,
            words: self.map.words(offset, len.div_ceil(WORD)),
            #[cfg(all(loom, test))]
            offset,
        }
    }

    /// Stores one little-endian u32.
    #[inline]
    pub(crate) fn store_u32(&mut self, offset: usize, value: u32, order: Ordering) {
        let word = self.map.word32(offset);
        if self.alive() {
            word.store(value.to_le(), order);
        }
    }

    /// Stores bytes from a multiple of 8 on, word by word, relaxed; the last word
    /// is filled with zeros.
    #[inline]
    pub(crate) fn store_bytes(&mut self, offset: usize, from: &[u8]) {
        self.part(offset, from.len()).store_bytes(0, from);
    }

    /// Stores zeros from `offset` up to `end`, both multiples of 8.
    #[inline]
    pub(crate) fn zero(&mut self, offset: usize, end: usize) {
        let len = end.saturating_sub(offset);
        self.part(offset, len).zero(0, len);
    }

    #[inline(always)]
    fn store(&self, word: &AtomicU64, value: u64) {
        if self.alive() {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Copies `len` bytes, a multiple of 8, from behind what is private to its begin, in
    /// one piece and in any order: behind all stores before, and what is to come behind it
    /// is a release.
    #[inline(always)]
    pub(crate) fn save(&mut self, from: usize, len: usize) {
        let private = self.map.private.clone();
        assert!(
            from >= private.end && len <= private.len(),
            "{len} bytes of {from} are saved in {private:?}"
        );
        self.map.check(from, len);
        self.map.check(private.start, len);
        compiler_fence_before_save();
        self.copy(from, private.start, len);
    }

    #[cfg(not(test))]
    #[inline(always)]
    fn copy(&self, from: usize, to: usize, len: usize) {
        self.copy_plainly(from, to, len);
    }

    /// Word by word where the process is to "die" among them, and in models, which know
    /// no other stores.
    #[cfg(test)]
    fn copy(&self, from: usize, to: usize, len: usize) {
        let (count, left) = (len / WORD, self.stores_left.get());
        if cfg!(loom) || left < count as u64 {
            let (from, to) = (self.map.words(from, count), self.map.words(to, count));
            from.iter().zip(to).for_each(|(from, to)| self.store(to, from.load(Ordering::Relaxed)));
        } else {
            self.stores_left.set(left - count as u64);
            self.copy_plainly(from, to, len);
        }
    }

    /// Copies what `save` has checked.
    #[inline(always)]
    fn copy_plainly(&self, from: usize, to: usize, len: usize) {
        let base = self.map.raw.as_mut_ptr();
        // SAFETY: `check` proved that `from` lies in the mapping.
        let source = unsafe { base.add(from) }.cast_const();
        // SAFETY: as above for `to`.
        let target = unsafe { base.add(to) };
        // SAFETY: both are good for `len` bytes by `check`, and apart, as `from` lies behind
        // all that is private and the copy ends in it. Nothing races with the loads, as for
        // `copy_out`. Nothing races with the stores: this is the one owner, `save` has it
        // exclusively, and `check_shared` keeps all other threads from what is private.
        unsafe { source.copy_to_nonoverlapping(target, len) };
    }

    /// Copies bytes out of the mapping in one piece.
    #[cfg(not(all(loom, test)))]
    #[inline]
    pub(crate) fn copy_out(&self, offset: usize, to: &mut [u8]) {
        self.map.check(offset, to.len());
        // SAFETY: `check` proved that `offset` lies in the mapping.
        let from = unsafe { self.map.raw.as_ptr().add(offset) };
        // SAFETY: `from` is readable for `to.len()` bytes by `check`, and `to` is
        // exclusive memory outside of the mapping. No store races with this load:
        // every store needs `&mut` of the one `Owner`, this holds `&` of it on the
        // only thread that has it, and other threads only load. Other processes
        // keep out by the lock on the file.
        unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
    }

    /// As above, word by word: a model knows no other loads.
    #[cfg(all(loom, test))]
    pub(crate) fn copy_out(&self, offset: usize, to: &mut [u8]) {
        self.map.copy_words(offset, to);
    }

    /// The little-endian u32 at a multiple of 4.
    #[inline]
    pub(crate) fn load_u32(&self, offset: usize) -> u32 {
        u32::from_le(self.map.word32(offset).load(Ordering::Relaxed))
    }

    /// The mapping, for readers.
    pub(crate) fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// Writes a part back, and waits. It begins at a page and ends anywhere.
    pub(crate) fn sync_range(&self, offset: usize, len: usize) -> io::Result<()> {
        debug_assert!(offset.is_multiple_of(PAGE_SIZE));
        let part = offset as u64..(offset + len) as u64;
        perform_on(Call::WriteBack, part, || self.map.raw.flush_range(offset, len))
    }

    #[cfg(test)]
    fn alive(&self) -> bool {
        let left = self.stores_left.get();
        self.stores_left.set(left.saturating_sub(1));
        left > 0
    }

    #[cfg(not(test))]
    #[inline(always)]
    fn alive(&self) -> bool {
        true
    }
}

/// A part of a mapping, to be stored into by its owner alone: offsets count from its begin.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    owner: &'a Owner,
    words: &'a [AtomicU64],
    #[cfg(all(loom, test))]
    offset: usize,
}

impl Part<'_> {
    /// The little-endian u32 at a multiple of 4.
    #[inline(always)]
    pub(crate) fn load_u32(&self, at: usize) -> u32 {
        u32::from_le(self.word32(at).load(Ordering::Relaxed))
    }

    /// Stores one little-endian u32 at a multiple of 4.
    #[inline(always)]
    pub(crate) fn store_u32(&self, at: usize, value: u32, order: Ordering) {
        let word = self.word32(at);
        if self.owner.alive() {
            word.store(value.to_le(), order);
        }
    }

    /// Stores bytes from a multiple of 8 on, word by word, relaxed; the last word is
    /// filled with zeros.
    #[inline(always)]
    pub(crate) fn store_bytes(&self, at: usize, from: &[u8]) {
        let words = &self.words[at / WORD..][..from.len().div_ceil(WORD)];
        let (whole, rest) = from.as_chunks::<WORD>();
        for (word, bytes) in words.iter().zip(whole) {
            self.owner.store(word, u64::from_ne_bytes(*bytes));
        }
        if let Some(last) = words.get(whole.len()) {
            let mut bytes = [0; WORD];
            bytes[..rest.len()].copy_from_slice(rest);
            self.owner.store(last, u64::from_ne_bytes(bytes));
        }
    }

    /// Stores zeros from `at` up to `end`, both multiples of 8.
    #[inline(always)]
    pub(crate) fn zero(&self, at: usize, end: usize) {
        if at < end {
            self.words[at / WORD..end / WORD].iter().for_each(|word| self.owner.store(word, 0));
        }
    }

    #[cfg(not(all(loom, test)))]
    #[inline(always)]
    fn word32(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(size_of::<u32>()), "offset {at} is not aligned");
        let word = self.words[at / WORD].as_ptr().cast::<u32>();
        // SAFETY: `at` is a multiple of 4, so this is one of the two halves of the word.
        let half = unsafe { word.add(at % WORD / size_of::<u32>()) };
        // SAFETY: as in `Map::word32`.
        unsafe { AtomicU32::from_ptr(half) }
    }

    #[cfg(all(loom, test))]
    fn word32(&self, at: usize) -> &AtomicU32 {
        self.owner.map.word32(self.offset + at)
    }
}

/// Gives `file` its length, with space for every byte of it.
///
/// Never a sparse file: storing into a hole of a full disk is a SIGBUS.
pub(crate) fn reserve(file: &File, len: u64) -> io::Result<()> {
    allocate(file, len, 0)
}

/// Gives a file that has its length space for every byte of it. One that was cut
/// stays short, so that it is seen.
pub(crate) fn fill_holes(file: &File, len: u64) -> io::Result<()> {
    allocate(file, len, libc::FALLOC_FL_KEEP_SIZE)
}

fn allocate(file: &File, len: u64, mode: libc::c_int) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
    perform(Call::Reserve, || {
        loop {
            // SAFETY: the descriptor is open as long as `file` is borrowed; the call
            // takes no pointers.
            let failed = unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, len) } != 0;
            let error = io::Error::last_os_error();
            match failed {
                false => return Ok(()),
                true if error.kind() == io::ErrorKind::Interrupted => {}
                true => return Err(error),
            }
        }
    })
}

/// Bytes that the kernel is asked for at once. It cuts a larger request down to
/// its window of reading ahead, without a word.
const WILL_NEED_LEN: usize = 2 << 20;

/// Brings a file into the page cache, by large requests and into small folios.
///
/// Of 244 MiB of a cold ext4 file here, one mapped page after the other took 168 s
/// and this takes 0.2 s. Plain reading is as fast, but reads ahead into large
/// folios: 500 stores then wrote 85 MiB and more back, and after this 2 MiB.
pub(crate) fn bring_in(file: &File, len: usize) {
    advise_on(file, 0, 0, libc::POSIX_FADV_RANDOM);
    let _ = on_parts(len, WILL_NEED_LEN, |offset, len| {
        advise_on(file, offset, len, libc::POSIX_FADV_WILLNEED);
        Ok(())
    });
}

/// Advice is free to be ignored: a failure is no error.
fn advise_on(file: &File, offset: usize, len: usize, advice: libc::c_int) {
    // Offsets and lengths of a file that is to be mapped are positive as signed
    // numbers too.
    let (offset, len) = (offset as libc::off_t, len as libc::off_t);
    // SAFETY: the descriptor is open as long as `file` is borrowed; the call
    // takes no pointers.
    let _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, len, advice) };
}

/// A file without a name that lives in memory.
pub(crate) fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a string with a zero at its end that lives for ever.
    let fd = unsafe { libc::memfd_create(c"mapleaf".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was opened just now, and nothing else knows it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Gives a file that was opened with O_TMPFILE a name that must not exist yet.
pub(crate) fn link_unnamed(file: &File, name: &Path) -> io::Result<()> {
    // proc(5): the link in /proc is followed to the open file itself. The other
    // way, AT_EMPTY_PATH, needs a capability.
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = CString::new(name.as_os_str().as_bytes())?;
    // SAFETY: both strings end with a zero and outlive the call.
    let result = unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;
    use std::panic::catch_unwind;

    use super::*;

    /// As an undo slot lies: in front of what is saved there.
    const PRIVATE: Range<usize> = 64..128;

    fn owner(len: usize) -> Owner {
        let file = memory_file().unwrap();
        reserve(&file, len as u64).unwrap();
        Owner::map_file(&file, len, PRIVATE, Prefault::Write).unwrap()
    }

    #[test]
    fn words_and_bytes_come_back_from_any_view() {
        let mut owner = owner(8192);
        owner.store_bytes(4096, b"twelve bytes");
        let mut plain = [0xff; 16];
        owner.copy_out(4096, &mut plain);
        assert_eq!(&plain, b"twelve bytes\0\0\0\0");
        let mut words = [0xff; 11];
        owner.map().load_bytes(4096, &mut words);
        assert_eq!(&words, b"twelve byte");
        owner.save(4096, 16);
        owner.zero(64, 72);
        owner.copy_out(64, &mut plain);
        assert_eq!(&plain, b"\0\0\0\0\0\0\0\0ytes\0\0\0\0");
    }

    #[test]
    fn a_u32_is_little_endian_in_the_file() {
        let mut owner = owner(4096);
        owner.store_u32(4, 0x0102_0304, Ordering::Relaxed);
        let mut bytes = [0; 4];
        owner.copy_out(4, &mut bytes);
        assert_eq!(bytes, [4, 3, 2, 1]);
        assert_eq!(owner.load_u32(4), 0x0102_0304);
    }

    #[test]
    #[should_panic(expected = "exceed a mapping of 4096")]
    fn nothing_beyond_the_mapping_is_read() {
        owner(4096).copy_out(4090, &mut [0; 7]);
    }

    #[test]
    #[should_panic(expected = "exceed a mapping of 4096")]
    fn an_offset_that_overflows_is_refused() {
        owner(4096).map().load_bytes(usize::MAX - 7, &mut [0; 16]);
    }

    #[test]
    fn no_other_thread_looks_at_what_is_private() {
        let owner = owner(4096);
        let map = owner.map();
        for (offset, len) in [(0, 64), (128, 8), (56, 8), (128, 0)] {
            map.load_bytes(offset, &mut vec![0; len]);
        }
        for (offset, len) in [(64, 8), (0, 65), (56, 16), (120, 8), (64, 64), (8, 4000)] {
            let load = || map.load_bytes(offset, &mut vec![0; len]);
            let found = catch_unwind(AssertUnwindSafe(load));
            assert!(found.is_err(), "{len} bytes at {offset}");
        }
        let half = AssertUnwindSafe(|| map.load_u32(124, Ordering::Relaxed));
        assert!(catch_unwind(half).is_err());
    }

    #[test]
    fn saved_is_what_lies_behind_and_fits() {
        let mut owner = owner(4096);
        for (from, len) in [(128, 72), (120, 8), (0, 8), (64, 8), (4080, 24), (usize::MAX, 8)] {
            let save = AssertUnwindSafe(|| owner.save(from, len));
            assert!(catch_unwind(save).is_err(), "{len} bytes of {from}");
        }
        owner.store_bytes(4032, &[7; 64]);
        owner.save(4032, 64);
        let mut saved = [0; 80];
        owner.copy_out(56, &mut saved);
        assert_eq!((saved[..8].iter().sum::<u8>(), &saved[8..72]), (0, &[7; 64][..]));
        assert_eq!(saved[72..], [0; 8]);
        // The process dies after three of eight words.
        owner.store_bytes(4032, &[9; 64]);
        owner.stores_left.set(3);
        owner.save(4032, 64);
        owner.copy_out(64, &mut saved[..64]);
        assert_eq!((&saved[..24], &saved[24..64]), (&[9; 24][..], &[7; 40][..]));
    }

    #[test]
    fn a_dead_owner_stores_nothing() {
        let mut owner = owner(4096);
        owner.stores_left.set(1);
        owner.store_bytes(0, &[1, 0, 0, 0, 0, 0, 0, 0, 2]);
        owner.store_u32(16, 3, Ordering::Relaxed);
        let mut bytes = [0; 24];
        owner.copy_out(0, &mut bytes);
        assert_eq!(bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 1);
    }

    #[test]
    fn space_is_reserved_for_every_byte() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::tempfile().unwrap();
        reserve(&file, 1 << 20).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), 1 << 20);
        assert!(meta.blocks() * 512 >= 1 << 20, "{} blocks", meta.blocks());
    }
}
