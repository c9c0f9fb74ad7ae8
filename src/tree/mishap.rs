//! The calls that reserve space and write back, in one place so that tests and the
//! simulator let any of them fail, and the simulator sees what is on the medium when.

use std::io;
use std::ops::Range;

/// A call on whose success promises rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Space is reserved.
    Reserve,
    /// A file, or a part of one, is written back.
    WriteBack,
    /// A folder is written back.
    Folder,
    /// Bytes are written into a redo log.
    LogWrite,
    /// A redo log is written back.
    LogBack,
    /// A redo log is removed.
    LogRemove,
}

/// Makes a call. A test may have it fail instead.
#[inline]
pub(crate) fn perform(call: Call, make: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    perform_on(call, 0..u64::MAX, make)
}

/// Makes a call that concerns a part of its file.
#[inline]
pub(crate) fn perform_on(
    call: Call,
    part: Range<u64>,
    make: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    #[cfg(any(test, feature = "sim"))]
    injected::pass(call)?;
    #[cfg(feature = "sim")]
    watched::tell(call, &part, watched::Phase::Begin);
    let made = make();
    #[cfg(feature = "sim")]
    watched::tell(call, &part, watched::Phase::End);
    // Kind and part matter to those alone.
    let _ = (call, part);
    made
}

/// What the simulator is told: one look at a variable of the thread beside a call that
/// waits for a medium.
#[cfg(feature = "sim")]
pub(crate) mod watched {
    use std::cell::RefCell;
    use std::ops::Range;

    use super::Call;

    /// Before a call, or after it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Phase {
        Begin,
        End,
    }

    type Watcher = Box<dyn FnMut(Call, &Range<u64>, Phase)>;

    thread_local! {
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    /// Tells `watcher` of the calls that `run` makes in this thread.
    pub(crate) fn watch<T>(watcher: Watcher, run: impl FnOnce() -> T) -> T {
        let before = WATCHER.replace(Some(watcher));
        let result = run();
        WATCHER.set(before);
        result
    }

    pub(super) fn tell(call: Call, part: &Range<u64>, phase: Phase) {
        WATCHER.with_borrow_mut(|watcher| {
            if let Some(watcher) = watcher {
                watcher(call, part, phase);
            }
        });
    }
}

/// What tests and simulated worlds of this thread let fail.
#[cfg(any(test, feature = "sim"))]
pub(crate) mod injected {
    use std::cell::Cell;
    use std::io;

    use super::Call;

    thread_local! {
        static NEXT: Cell<Option<(Call, u32, i32)>> = const { Cell::new(None) };
        #[cfg(test)]
        static MADE: Cell<u32> = const { Cell::new(0) };
    }

    /// Lets the call of this kind fail that comes after `behind` others of it.
    pub(crate) fn fail(call: Call, behind: u32, errno: i32) {
        NEXT.set(Some((call, behind, errno)));
    }

    /// Whether what was to fail is still to come. It comes no more then.
    pub(crate) fn clear() -> bool {
        NEXT.take().is_some()
    }

    /// Calls of this thread, of any kind.
    #[cfg(test)]
    pub(crate) fn made() -> u32 {
        MADE.get()
    }

    pub(super) fn pass(call: Call) -> io::Result<()> {
        #[cfg(test)]
        MADE.set(MADE.get() + 1);
        match NEXT.get() {
            Some((kind, 0, errno)) if kind == call => {
                NEXT.set(None);
                Err(io::Error::from_raw_os_error(errno))
            }
            Some((kind, behind, errno)) if kind == call => {
                NEXT.set(Some((kind, behind - 1, errno)));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A death of the process in the middle of its stores.
#[cfg(test)]
impl crate::tree::mapped::Tree {
    /// Of the stores behind the next `stores` none reaches the file.
    pub(crate) fn die_after(&self, stores: u64) {
        self.owner.stores_left.set(stores);
    }

    /// Whether stores have been lost, or the next one will be.
    pub(crate) fn is_dead(&self) -> bool {
        self.owner.stores_left.get() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::layout::DataLocId;
    use crate::layout::Life;
    use crate::layout::Revision;
    use crate::layout::TreeId;
    use crate::layout::TreeRole;
    use crate::tree::create::CreateError;
    use crate::tree::create::CreateOptions;
    use crate::tree::grow::GrowError;
    use crate::tree::mapped::Tree;
    use crate::tree::open::OpenError;
    use crate::tree::open::OpenOptions;
    use crate::tree::plan::Layout;
    use crate::tree::recover::Damaged;
    use crate::tree::recover::Ending;
    use crate::tree::state::SyncError;

    const RUNS: u64 = 1_000;

    struct Draws(u64);

    impl Draws {
        /// A number below `end`, by SplitMix64.
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % end
        }

        fn errno(&mut self) -> i32 {
            [libc::EIO, libc::ENOSPC, libc::EDQUOT][self.below(3) as usize]
        }
    }

    fn layout(leaves: u32) -> Layout {
        Layout::plain(1, leaves, 100).unwrap()
    }

    fn create(path: &Path) -> Result<Tree, CreateError> {
        let (role, tree_id) = (TreeRole::Server, TreeId(3));
        Tree::create(path, layout(30), CreateOptions { role, tree_id, life: Life(0), unix_s: 0 })
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    /// Uses a tree until a write-back fails.
    fn use_until_failure(tree: &mut Tree, draws: &mut Draws) -> u64 {
        for n in 0.. {
            tree.write(DataLocId(draws.below(30) as u32), &[n as u8; 40]).unwrap();
            let failed = match draws.below(8) {
                0 => tree.begin_life(n).is_err(),
                1 | 2 => tree.sync().is_err(),
                3 => {
                    tree.save_progress(tree.life(), Revision(n));
                    false
                }
                _ => false,
            };
            if failed {
                return n;
            }
        }
        unreachable!("a write-back was to fail")
    }

    /// A folder in memory where there is one: thousands of real write-backs take long.
    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
    }

    #[test]
    fn a_write_back_that_failed_is_never_tried_again_and_the_tree_never_closed_well() {
        let folder = folder();
        let path = folder.path().join("tree");
        for seed in 0..RUNS {
            let mut draws = Draws(seed);
            let mut tree = create(&path).unwrap();
            tree.begin_life(1).unwrap();
            injected::fail(Call::WriteBack, draws.below(6) as u32, draws.errno());
            let n = use_until_failure(&mut tree, &mut draws);
            let made = injected::made();
            assert!(matches!(tree.sync(), Err(SyncError::FailedBefore)), "seed {seed}");
            assert!(matches!(tree.begin_life(n), Err(SyncError::FailedBefore)), "seed {seed}");
            assert!(matches!(tree.close(), Err(SyncError::FailedBefore)), "seed {seed}");
            assert_eq!(injected::made(), made, "seed {seed}: tried again");
            let (role, damaged) = (TreeRole::Server, Damaged::Refuse);
            let (_, recovery) =
                Tree::open(&path, OpenOptions { role, damaged, unix_s: 2 }).unwrap();
            assert_eq!(recovery.ending, Ending::ProcessDeath, "seed {seed}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn no_call_of_creation_fails_unheard_or_leaves_anything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        for errno in [libc::EIO, libc::ENOSPC] {
            injected::fail(Call::Reserve, 0, errno);
            assert!(matches!(create(&path), Err(CreateError::Space { .. })));
            injected::fail(Call::WriteBack, 0, errno);
            assert!(matches!(create(&path), Err(CreateError::Io { .. })));
            assert_eq!(names(folder.path()), 0);
        }
        // The name that might not outlive a power loss is taken back.
        injected::fail(Call::Folder, 0, libc::EIO);
        assert!(matches!(create(&path), Err(CreateError::Io { .. })));
        assert_eq!(names(folder.path()), 0);
    }

    #[test]
    fn no_call_of_growth_fails_unheard_or_costs_the_old_tree() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = create(&folder.path().join("tree")).unwrap();
        tree.begin_life(1).unwrap();
        tree.write(DataLocId(7), b"kept").unwrap();
        injected::fail(Call::Reserve, 0, libc::ENOSPC);
        assert!(matches!(tree.grow(layout(40)), Err(GrowError::Space { .. })));
        injected::fail(Call::WriteBack, 0, libc::EIO);
        assert!(matches!(tree.grow(layout(40)), Err(GrowError::Io { .. })));
        assert_eq!((tree.leaf_count(), names(folder.path())), (30, 1));
        tree.sync().unwrap();
        injected::fail(Call::Folder, 0, libc::EIO);
        assert!(matches!(tree.grow(layout(40)), Err(GrowError::Name(_))));
        assert!(matches!(tree.close(), Err(SyncError::FailedBefore)));
    }

    #[test]
    fn a_file_whose_holes_find_no_space_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        create(&path).unwrap().close().unwrap();
        injected::fail(Call::Reserve, 0, libc::ENOSPC);
        let (role, damaged) = (TreeRole::Server, Damaged::Refuse);
        let opened = Tree::open(&path, OpenOptions { role, damaged, unix_s: 2 });
        assert!(matches!(opened, Err(OpenError::Space { .. })));
        assert!(!injected::clear());
    }
}
