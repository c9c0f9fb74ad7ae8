//! Tree files as the commands see them: opened, named, gone through.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::thread;

use anyhow::Context;
use indicatif::ProgressBar;

use mapleaf::layout::DataLocId;
use mapleaf::tree::InspectError;
use mapleaf::tree::Scanned;
use mapleaf::tree::TreeFile;
use mapleaf::tree::printable;

/// Opens a tree file to read it.
///
/// # Errors
///
/// It is none, with its name.
pub(crate) fn open(path: &Path) -> anyhow::Result<TreeFile> {
    TreeFile::open(path).with_context(|| shown(path))
}

/// A file name as a terminal may see it.
pub(crate) fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

/// Path of a leaf as a terminal may see it.
pub(crate) fn shown_path(file: &TreeFile, leaf: DataLocId) -> String {
    printable(file.layout().path_of(leaf).unwrap_or_default().as_bytes())
}

/// Leaves between two moves of a progress bar.
const BAR_STEP: u32 = 1 << 16;

/// Hands every leaf to `take`, one after the other, with a progress bar on a terminal.
pub(crate) fn scan(
    file: &TreeFile,
    mut take: impl FnMut(Scanned<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let bar = ProgressBar::new(file.layout().leaf_count().into());
    let mut leaves = file.leaves();
    let mut count = 0_u32;
    while let Some(scanned) = leaves.next_leaf()? {
        take(scanned)?;
        count += 1;
        if count.is_multiple_of(BAR_STEP) {
            bar.set_position(count.into());
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Leaves of a piece: 2 MiB of leaves of 200 B, some hundred microseconds of work.
const PIECE: u32 = 1 << 13;

/// Bytes of records that a thread is worth: it takes some fifty microseconds to begin and end.
const THREAD_LEN: u64 = 2 << 20;

/// Threads at most: memory is saturated by fewer.
const THREADS_MAX: usize = 64;

/// What a piece came to, by its number.
type Outcome<P> = (u32, Result<P, InspectError>);

/// Hands every leaf to `look`, on as many threads as the tree is worth, and what each piece of
/// the tree came to `take`, in the order of the leaves: the outcome is that of one thread. With
/// a progress bar on a terminal.
pub(crate) fn scan_in_pieces<P: Default + Send>(
    file: &TreeFile,
    look: impl Fn(&mut P, Scanned<'_>) + Sync,
    take: impl FnMut(P) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let worth = usize::try_from(file.layout().records_len() / THREAD_LEN).unwrap_or(usize::MAX);
    let threads = match worth.min(THREADS_MAX) {
        0 | 1 => 1,
        worth => worth.min(thread::available_parallelism().map_or(1, NonZero::get)),
    };
    scan_in_pieces_on(threads, file, look, take)
}

fn scan_in_pieces_on<P: Default + Send>(
    threads: usize,
    file: &TreeFile,
    look: impl Fn(&mut P, Scanned<'_>) + Sync,
    mut take: impl FnMut(P) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let leaf_count = file.layout().leaf_count();
    let bar = ProgressBar::new(leaf_count.into());
    let pieces = Mutex::new(0..leaf_count.div_ceil(PIECE));
    let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = |number: u32| -> Outcome<P> {
        let first = number * PIECE;
        let outcome = look_at(file, first..first.saturating_add(PIECE), &look);
        if outcome.is_err() {
            // Pieces before this one are taken already.
            *pieces.lock().unwrap_or_else(PoisonError::into_inner) = 0..0;
        }
        (number, outcome)
    };
    let mut take = |(number, outcome): Outcome<P>| {
        take(outcome?)?;
        bar.set_position((u64::from(number) + 1) * u64::from(PIECE));
        Ok::<(), anyhow::Error>(())
    };
    thread::scope(|scope| {
        let (give, outcomes) = mpsc::sync_channel(threads);
        for _ in 1..threads {
            let (give, next, work) = (give.clone(), &next, &work);
            // Who listens no more has failed: there is nothing left to do then.
            let share =
                move || while next().is_some_and(|number| give.send(work(number)).is_ok()) {};
            // Where the system gives no thread, there is one less.
            let _ = thread::Builder::new().spawn_scoped(scope, share);
        }
        drop(give);
        in_order(&next, &work, &outcomes, &mut take)
    })?;
    bar.finish_and_clear();
    Ok(())
}

/// Does a share of the work as well, and takes the outcomes of all in their order.
fn in_order<P>(
    next: &impl Fn() -> Option<u32>,
    work: &impl Fn(u32) -> Outcome<P>,
    outcomes: &Receiver<Outcome<P>>,
    take: &mut impl FnMut(Outcome<P>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut waiting = BTreeMap::new();
    let mut due = 0;
    loop {
        match next() {
            Some(number) => waiting.extend([work(number)].into_iter().chain(outcomes.try_iter())),
            // Until the last thread has ended.
            None => match outcomes.recv() {
                Ok(outcome) => waiting.extend([outcome]),
                Err(_) => break,
            },
        }
        while let Some(outcome) = waiting.remove(&due) {
            take((due, outcome))?;
            due += 1;
        }
    }
    waiting.into_iter().try_for_each(take)
}

fn look_at<P: Default>(
    file: &TreeFile,
    leaves: Range<u32>,
    look: &impl Fn(&mut P, Scanned<'_>),
) -> Result<P, InspectError> {
    let mut piece = P::default();
    let mut leaves = file.leaves_in(leaves);
    while let Some(scanned) = leaves.next_leaf()? {
        look(&mut piece, scanned);
    }
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt;

    use mapleaf::layout::Life;
    use mapleaf::layout::RecordHead;
    use mapleaf::layout::TreeId;
    use mapleaf::layout::TreeRole;
    use mapleaf::tree::CreateOptions;
    use mapleaf::tree::Layout;
    use mapleaf::tree::LeafDamage;
    use mapleaf::tree::Tree;

    use super::*;

    const LEAVES: u32 = 5 * PIECE + 77;

    /// A tree of several pieces, some of whose leaves are damaged.
    fn damaged_tree(path: &Path) -> Layout {
        let layout = Layout::plain(3, LEAVES, 20).unwrap();
        let (role, tree_id) = (TreeRole::Server, TreeId(1));
        let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 1 };
        let mut tree = Tree::create(path, layout.clone(), options).unwrap();
        tree.begin_life(1).unwrap();
        for leaf in (0..LEAVES).map(DataLocId) {
            tree.write(leaf, &leaf.0.to_le_bytes()).unwrap();
        }
        tree.close().unwrap();
        let file = OpenOptions::new().write(true).open(path).unwrap();
        for leaf in (0..LEAVES).step_by(999).map(DataLocId) {
            let at = layout.record_offset(leaf).unwrap() + RecordHead::DATA_OFFSET as u64;
            file.write_all_at(&[0xff; 4], at).unwrap();
        }
        layout
    }

    type Seen = Vec<(DataLocId, Result<Vec<u8>, LeafDamage>)>;

    fn note(seen: &mut Seen, scanned: Scanned<'_>) {
        seen.push(match scanned {
            Scanned::Leaf(leaf) => (leaf.data_loc_id, Ok(leaf.data.to_vec())),
            Scanned::Damaged { leaf, damage } => (leaf, Err(damage)),
        });
    }

    #[test]
    fn any_number_of_threads_sees_what_one_pass_sees_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        damaged_tree(&path);
        let file = TreeFile::open(&path).unwrap();
        let mut expected = Seen::new();
        let mut leaves = file.leaves();
        while let Some(scanned) = leaves.next_leaf().unwrap() {
            note(&mut expected, scanned);
        }
        let damaged = expected.iter().filter(|(_, seen)| seen.is_err()).count();
        assert_eq!(damaged, LEAVES.div_ceil(999) as usize);
        for threads in [1, 2, 5] {
            let mut all = Seen::new();
            scan_in_pieces_on(threads, &file, note, |piece| {
                all.extend(piece);
                Ok(())
            })
            .unwrap();
            assert!(all == expected, "{threads} threads");
        }
    }

    #[test]
    fn the_first_error_ends_it_and_all_before_was_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        let layout = damaged_tree(&path);
        let file = TreeFile::open(&path).unwrap();
        let cut = OpenOptions::new().write(true).open(&path).unwrap();
        cut.set_len(layout.record_offset(DataLocId(3 * PIECE + 5)).unwrap()).unwrap();
        for threads in [1, 2, 5] {
            let mut taken = 0;
            let count = |piece: &mut u32, _: Scanned<'_>| *piece += 1;
            let outcome = scan_in_pieces_on(threads, &file, count, |piece| {
                taken += piece;
                Ok(())
            });
            assert!(outcome.unwrap_err().is::<InspectError>());
            assert_eq!(taken, 3 * PIECE, "{threads} threads");
            let refused = scan_in_pieces_on(threads, &file, count, |_| anyhow::bail!("no more"));
            assert_eq!(refused.unwrap_err().to_string(), "no more");
        }
    }
}
