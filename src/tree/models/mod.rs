//! Models of what threads of a tree do to each other, run through every interleaving
//! and every value that an ordering lets a load see.
//!
//! The functions under test are the product's: `store_record`, `put_back` and the
//! bodies of `Owner` write, `TreeReader::read` reads, a `Swap` takes readers to a
//! grown tree. Only the memory is loom's (`order`). docs/RELIABILITY.md, promise 12,
//! says how the models are run; each has a mutant that it must find, so that a model
//! that sees nothing does not pass.

mod growth;
mod record;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::Mutex;

use crate::layout::DataLocId;
use crate::layout::LeafHead;
use crate::layout::Revision;
use crate::tree::create::Filled;
use crate::tree::extent::Extents;
use crate::tree::extent::Record;
use crate::tree::map::Owner;
use crate::tree::map::WORD;
use crate::tree::mapped::Generation;
use crate::tree::mapped::map_len;
use crate::tree::order::Memory;
use crate::tree::order::Mutant;
use crate::tree::order::Swap;
use crate::tree::order::leave_out;
use crate::tree::plan::Layout;
use crate::tree::read::TreeReader;
use crate::tree::record::leaf_checksum;
use crate::tree::record::leaf_head;
use crate::tree::write::Mark;
use crate::tree::write::SAVED_AT;
use crate::tree::write::UNDO_AT;
use crate::tree::write::saved_range;
use crate::tree::write::store_record;
use crate::tree::write::used_len;

const LEAF: DataLocId = DataLocId(0);

/// Bytes of Data: a word, which with the three of the head makes four that can be
/// torn apart.
const CAPACITY: u32 = 8;

static LAYOUT: LazyLock<Arc<Layout>> =
    LazyLock::new(|| Arc::new(Layout::plain(1, 1, CAPACITY).expect("a right layout")));

/// A tree of one leaf, as much of it as reading and writing touches.
struct Leaf {
    owner: Owner,
    record: Record,
    /// Bytes of Data that the leaf holds.
    data_size: usize,
}

impl Leaf {
    fn new() -> Leaf {
        let record = Extents::new(&LAYOUT).record(LEAF).expect("a leaf of the layout");
        let whole = used_len(CAPACITY as usize);
        // Of the undo header the fields that are stored; they come first.
        let memory =
            Memory::new(&[(UNDO_AT, WORD), (SAVED_AT, whole), (record.offset, record.stride)]);
        let len = map_len(&LAYOUT).expect("a small file");
        let owner = Owner::of_model(len, saved_range(&LAYOUT), memory);
        let owner = owner.expect("some addresses");
        Leaf { owner, record, data_size: 0 }
    }

    /// A leaf as a growth puts it into its new file, not yet seen by anybody.
    fn grown(revision: u64) -> Leaf {
        let Leaf { owner, record, .. } = Leaf::new();
        let mut filled = Filled::of_model(owner, Arc::clone(&LAYOUT));
        let data = data_of(revision);
        filled.put(&record, &leaf_head(LEAF, Revision(revision), &data), &data);
        Leaf { owner: filled.owner, record, data_size: data.len() }
    }

    /// A leaf that was written once.
    fn written(revision: u64) -> Leaf {
        let mut leaf = Leaf::new();
        leaf.write(revision);
        leaf
    }

    /// Writes what this revision says, by the product's own order of stores.
    fn write(&mut self, revision: u64) {
        let data = data_of(revision);
        let head = leaf_head(LEAF, Revision(revision), &data);
        let used = used_len(self.data_size);
        store_record(&mut self.owner, &self.record, used, &head, &data, Mark::Changed);
        self.data_size = data.len();
    }

    fn generation(&self) -> Arc<Generation> {
        let map = Arc::clone(self.owner.map());
        Arc::new(Generation { map, extents: Extents::new(&LAYOUT), layout: Arc::clone(&LAYOUT) })
    }

    fn reader(&self) -> TreeReader {
        TreeReader::new(Arc::new(Swap::new(self.generation())))
    }
}

/// Data of a revision: odd ones fill the leaf, even ones leave it empty, so that
/// bytes and lengths of both kinds of write could be mixed up.
fn data_of(revision: u64) -> Vec<u8> {
    if revision.is_multiple_of(2) { Vec::new() } else { vec![revision as u8; CAPACITY as usize] }
}

/// The revision that a reader finds, if it finds the leaf at rest. What it finds is
/// one write's, or this panics.
fn read(reader: &TreeReader) -> Option<u64> {
    let mut data = Vec::new();
    let head = reader.read(LEAF, &mut data)?;
    Some(whole(&head, &data))
}

fn whole(head: &LeafHead, data: &[u8]) -> u64 {
    let revision = head.revision.get();
    let as_written = data == data_of(revision) && leaf_checksum(head, data) == head.checksum.get();
    assert!(as_written, "torn: revision {revision} with {data:?}");
    revision
}

/// What was found in one run or another: a model that never sees a case shows nothing
/// about it.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Option<u64>>>>);

impl Seen {
    fn note(&self, found: Option<u64>) {
        let mut all = self.0.lock().expect("no test panics here");
        if !all.contains(&found) {
            all.push(found);
        }
    }

    fn sorted(&self) -> Vec<Option<u64>> {
        let mut all = self.0.lock().expect("no test panics here").clone();
        all.sort();
        all
    }
}

/// Runs every run of a model, and says how many there were.
pub(crate) fn every_run(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let runs = Arc::new(Mutex::new(0u64));
    let count = Arc::clone(&runs);
    let mut builder = loom::model::Builder::new();
    // Two or three threads, no bound on their interleaving.
    builder.max_branches = 10_000;
    builder.check(move || {
        *count.lock().expect("no model panics here") += 1;
        model();
    });
    println!("model: {name}: {} runs", runs.lock().expect("no model panics here"));
}

/// Whether a model finds out that an ordering is missing, by the panic of a check
/// that says so.
fn finds(mutant: Mutant, model: impl FnOnce(), expected: &str) {
    leave_out(Some(mutant));
    let outcome = catch_unwind(AssertUnwindSafe(model));
    leave_out(None);
    let panic = outcome.expect_err("the model passes without the ordering");
    let text = panic.downcast_ref::<String>().map_or("another kind of panic", String::as_str);
    assert!(text.contains(expected), "expected {expected:?}, found {text:?}");
}
