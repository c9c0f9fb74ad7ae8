//! Tree files that were cut, altered or forged.

use std::fs;
use std::mem::offset_of;
use std::path::Path;
use std::sync::OnceLock;

use zerocopy::FromBytes;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Header;
use mapleaf::layout::LeafHead;
use mapleaf::layout::RecordHead;
use mapleaf::layout::STATE_SLOT_OFFSETS;
use mapleaf::layout::StateSlot;
use mapleaf::layout::TreeRole;
use mapleaf::layout::limits::PAGE_SIZE;
use mapleaf::tree::Damaged;
use mapleaf::tree::DumpReader;
use mapleaf::tree::Ending;
use mapleaf::tree::Layout;
use mapleaf::tree::LeafState;
use mapleaf::tree::OpenError;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::Origin;
use mapleaf::tree::STATE_OFFSET;
use mapleaf::tree::Scanned;
use mapleaf::tree::Tree;
use mapleaf::tree::TreeFile;
use mapleaf::tree::header_checksum;
use mapleaf::tree::leaf_checksum;
use mapleaf::tree::state_checksum;
use mapleaf::tree::write_dump;

use super::super::input::Input;
use super::NOW;
use super::folder;
use super::options;
use super::schema;
use super::scratch;

/// Leaves of the file that is altered.
const LEAVES: u32 = 6;
const CAPACITY: usize = 40;

/// Longest file that an input may ask for.
const FILE_LEN_MAX: usize = 256 << 10;

const SCHEMA: &str = "[[parent]]\nname='a'\nleaves=2\ncapacity=24\n[[parent.field]]\nname='x'\n\
     type='f32'\n[[parent]]\nname='b'\nin='/a'\nleaves=4\ncapacity=40\n";

/// A tree of a server as it was closed, and where its records begin.
fn sample() -> &'static (Vec<u8>, usize) {
    static SAMPLE: OnceLock<(Vec<u8>, usize)> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let folder = folder();
        let path = folder.path().join("sample");
        let layout = Layout::from_toml(SCHEMA).expect("a schema");
        let records = layout.records_offset() as usize;
        let mut tree = Tree::create(&path, layout, options(TreeRole::Server)).expect("room");
        tree.begin_life(NOW).expect("in memory");
        for leaf in 0..LEAVES - 1 {
            tree.write(DataLocId(leaf), &vec![leaf as u8 + 1; 4 * leaf as usize]).expect("room");
        }
        tree.close().expect("in memory");
        (fs::read(&path).expect("it was written"), records)
    })
}

/// The file that an input describes: its own bytes, or the sample altered.
fn file_of(input: &mut Input<'_>) -> Vec<u8> {
    let how = input.u8();
    let (sample, records) = sample();
    if how & 1 == 1 {
        return input.0[..input.0.len().min(FILE_LEN_MAX)].to_vec();
    }
    let mut file = sample.clone();
    while !input.is_empty() {
        alter(&mut file, *records, input);
    }
    if how & 2 == 0 {
        put_records_right(&mut file, *records);
    }
    if how & 4 == 0 {
        put_states_right(&mut file);
    }
    if how & 8 == 0 {
        put_header_right(&mut file);
    }
    if how & 0xf0 != 0xf0 {
        put_seqs_right(&mut file, *records);
    }
    file
}

/// The file of an input of `inspect`, for those who look at it in another way.
#[allow(dead_code)]
pub(crate) fn file_of_input(bytes: &[u8]) -> Vec<u8> {
    file_of(&mut Input(bytes))
}

fn alter(file: &mut Vec<u8>, records: usize, input: &mut Input<'_>) {
    // Where: most bytes of a file are zeros that mean nothing.
    let start = match input.u8() % 8 {
        0 => 0,
        1 => PAGE_SIZE,
        2 => PAGE_SIZE + STATE_SLOT_OFFSETS[1],
        3 => 2 * PAGE_SIZE,
        4 => 3 * PAGE_SIZE,
        5 => records - PAGE_SIZE,
        6 => records,
        _ => {
            let len = usize::from(input.u8()) << 10 | usize::from(input.u16());
            file.resize(len.min(FILE_LEN_MAX), 0);
            return;
        }
    };
    let at = start + usize::from(input.u16() % PAGE_SIZE as u16);
    let bytes = input.bytes();
    for (place, byte) in bytes.iter().enumerate() {
        if let Some(to) = file.get_mut(at + place) {
            *to = *byte;
        }
    }
}

/// Offset and stride of the sample's records.
fn places(records: usize) -> impl Iterator<Item = usize> {
    const STRIDE: [usize; 2] = [64, 128];
    (0..LEAVES as usize).map(move |leaf| {
        if leaf < 2 { records + leaf * STRIDE[0] } else { records + 128 + (leaf - 2) * STRIDE[1] }
    })
}

fn put_records_right(file: &mut [u8], records: usize) {
    for at in places(records) {
        let Some(bytes) = file.get(at + RecordHead::WIRE_OFFSET..) else { return };
        let Ok((head, data)) = LeafHead::read_from_prefix(bytes) else { return };
        let size = head.data_size.get() as usize;
        let Some(data) = data.get(..size).filter(|_| size <= CAPACITY) else { continue };
        let checksum = leaf_checksum(&head, data);
        let at = at + RecordHead::WIRE_OFFSET;
        file[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Torn records are waited for: an input has one of them at most, unless it asks.
fn put_seqs_right(file: &mut [u8], records: usize) {
    let odd: Vec<usize> =
        places(records).filter(|at| file.get(*at).is_some_and(|seq| seq & 1 == 1)).collect();
    odd.into_iter().skip(1).for_each(|at| file[at] &= 0xfe);
}

fn put_states_right(file: &mut [u8]) {
    for offset in STATE_SLOT_OFFSETS.map(|offset| STATE_OFFSET as usize + offset) {
        let Some(Ok((slot, _))) = file.get(offset..).map(StateSlot::read_from_prefix) else {
            return;
        };
        let at = offset + offset_of!(StateSlot, state_checksum);
        file[at..at + 4].copy_from_slice(&state_checksum(&slot).to_le_bytes());
    }
}

fn put_header_right(file: &mut [u8]) {
    let Some(page) = file.first_chunk::<PAGE_SIZE>() else { return };
    let checksum = header_checksum(page);
    let at = offset_of!(Header, header_checksum);
    file[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Reads a file without owning it: an error, or every leaf is whole or named.
pub(in super::super) fn inspect(bytes: &[u8]) {
    let path = scratch();
    fs::write(&path, file_of(&mut Input(bytes))).expect("room");
    look(&path);
}

/// The leaves of a file, those that are whole; nothing if it is no tree.
fn look(path: &Path) -> Option<Vec<Option<LeafState>>> {
    let file = match TreeFile::open(path) {
        Ok(file) => file,
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "one line: {error}");
            return None;
        }
    };
    schema::check(file.layout(), file.layout().schema_text());
    for fault in file.faults().expect("it can be read") {
        assert!(!fault.to_string().contains('\n'), "one line: {fault}");
    }
    let leaves = scanned(&file);
    assert_eq!(leaves.len(), file.layout().leaf_count() as usize);
    for leaf in leaves.iter().flatten().take(LEAVES as usize) {
        let alone = file.read_leaf(leaf.data_loc_id).expect("it can be read");
        assert_eq!(alone.expect("it is there").as_ref(), Ok(leaf));
    }
    assert!(file.read_leaf(DataLocId(leaves.len() as u32)).expect("it can be read").is_none());
    dump(&file, &leaves);
    Some(leaves)
}

fn scanned(file: &TreeFile) -> Vec<Option<LeafState>> {
    let mut found = Vec::new();
    let mut leaves = file.leaves();
    while let Some(leaf) = leaves.next_leaf().expect("it can be read") {
        found.push(match leaf {
            Scanned::Leaf(view) => {
                let state = LeafState::from(view);
                assert_eq!(leaf_checksum(&state.head(), &state.data), state.checksum);
                Some(state)
            }
            Scanned::Damaged { damage, .. } => {
                assert!(!damage.to_string().is_empty());
                None
            }
        });
    }
    found
}

fn dump(file: &TreeFile, leaves: &[Option<LeafState>]) {
    let mut text = Vec::new();
    let Ok(summary) = write_dump(file, &mut text) else { return };
    assert_eq!(summary.damaged, leaves.iter().filter(|leaf| leaf.is_none()).count() as u64);
    let mut reader = match DumpReader::new(text.as_slice()) {
        Ok(reader) => reader,
        Err(error) => panic!("our own dump: {error}"),
    };
    let whole = leaves.iter().flatten().filter(|leaf| !leaf.view().is_empty());
    for leaf in whole {
        let read = reader.next_leaf().expect("our own dump").expect("each whole leaf");
        let same = LeafState { origin: Origin::Record, ..leaf.clone() };
        assert_eq!(LeafState { origin: Origin::Record, ..read }, same);
    }
    assert!(reader.next_leaf().expect("our own dump").is_none());
}

/// Opens a file as its owner: an error that changes nothing, or a tree that holds
/// what was there, and is whole when it is closed.
pub(in super::super) fn open(bytes: &[u8]) {
    let mut input = Input(bytes);
    let how = input.u8();
    let options = OpenOptions {
        role: if how & 1 == 0 { TreeRole::Server } else { TreeRole::Replica },
        damaged: if how & 2 == 0 { Damaged::Refuse } else { Damaged::Reset },
        unix_s: NOW,
    };
    let file = file_of(&mut input);
    let path = scratch();
    fs::write(&path, &file).expect("room");
    // An inspector's view costs pauses where records are torn.
    let seen = if how & 4 == 0 { look(&path) } else { None };
    let (mut tree, recovery) = match Tree::open(&path, options) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "one line: {error}");
            let same = fs::read(&path).expect("it is there") == file;
            assert!(same || matches!(error, OpenError::Sync(_)), "refused and changed: {error}");
            return;
        }
    };
    assert!(options.damaged == Damaged::Reset || recovery.damaged_count == 0);
    if let Some(seen) = seen {
        // A server that may have lost changes writes leaf 0 again, as it is.
        let is_marked = recovery.ending == Ending::PowerLoss && recovery.damaged_count == 0;
        let is_marked = is_marked && options.role == TreeRole::Server;
        let marked = is_marked.then_some(DataLocId(0));
        compare(&tree, &seen, recovery.undone, marked);
    }
    if options.role == TreeRole::Server && tree.begin_life(NOW).is_ok() {
        let newest = tree.newest_revision();
        let written = tree.write(DataLocId(0), b"goes on");
        assert!(written.is_ok_and(|revision| revision > newest) || newest.0 == u64::MAX);
    }
    let digest = tree.digest();
    tree.close().expect("in memory");
    let again = look(&path).expect("a tree that was closed is one");
    assert!(again.iter().all(Option::is_some), "a closed tree has whole leaves");
    let (tree, recovery) = Tree::open(&path, options).expect("it was closed");
    assert_eq!((tree.digest(), recovery.damaged_count), (digest, 0));
}

/// What an inspector calls whole is what the owner holds, unless a write was
/// taken back that had ended but for its last store.
fn compare(
    tree: &Tree,
    seen: &[Option<LeafState>],
    undone: Option<DataLocId>,
    marked: Option<DataLocId>,
) {
    for leaf in seen.iter().flatten().filter(|leaf| Some(leaf.data_loc_id) != undone) {
        let mut data = Vec::new();
        let head = tree.read(leaf.data_loc_id, &mut data).expect("it is there");
        // A forged revision may leave none for it.
        if Some(leaf.data_loc_id) == marked && leaf.head() != head {
            assert!(leaf.data == data && leaf.revision.0 < head.revision.get());
            assert!(tree.is_changed(leaf.data_loc_id));
            continue;
        }
        assert_eq!((leaf.head(), &leaf.data), (head, &data));
        assert_eq!(tree.is_changed(leaf.data_loc_id), leaf.change_flag == 1);
    }
}
