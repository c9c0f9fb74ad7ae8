//! Files that were cut, altered or forged.

use std::fs;
use std::fs::OpenOptions as FileOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use proptest::prelude::*;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeRole;
use mapleaf::tree::Damaged;
use mapleaf::tree::Ending;
use mapleaf::tree::Layout;
use mapleaf::tree::LeafDamage;
use mapleaf::tree::Mark;
use mapleaf::tree::OpenError;
use mapleaf::tree::RecordFault;
use mapleaf::tree::Tree;
use mapleaf::tree::TreeFile;

use super::check_columns;
use super::leaf;
use super::open;
use super::open_as;
use super::options;
use super::server;

/// A closed tree of a server, its bytes, and where its sections begin.
fn sample(folder: &Path) -> (PathBuf, Vec<u8>) {
    let path = folder.join("tree");
    let mut tree = server(&path, Layout::plain(2, 20, 40).unwrap());
    for id in 0..20 {
        tree.write(DataLocId(id), &vec![id as u8 + 1; 2 * id as usize]).unwrap();
    }
    tree.close().unwrap();
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

fn records_offset(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[88..96].try_into().unwrap()) as usize
}

#[test]
fn reserved_bytes_of_a_leaf_are_damage_to_its_owner_as_to_those_who_look() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut bytes) = sample(folder.path());
    // Leaf 0 has no Data: its head ends 32 bytes behind the record's begin.
    let at = records_offset(&bytes);
    bytes[at + 20] = 1;
    let checksum = mapleaf::kernel::crc32c(&bytes[at + 12..at + 32]);
    bytes[at + 8..at + 12].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let fault = RecordFault::Reserved { found: 1 };
    match open(&path) {
        Err(OpenError::Damaged { first, fault: found, count: 1, .. }) => {
            assert_eq!((first, found), (DataLocId(0), fault));
        }
        other => panic!("{other:?}"),
    }
    let file = TreeFile::open(&path).unwrap();
    let looked = file.read_leaf(DataLocId(0)).unwrap().unwrap();
    assert_eq!(looked, Err(LeafDamage::Record(fault)));
}

#[test]
fn a_file_of_any_other_length_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = sample(folder.path());
    let records = records_offset(&bytes);
    let mut lengths = vec![0, 1, 7, 8, 119, 120, 4095, 4096, 4097, 8191, 8192, 12_288];
    lengths.extend([records - 1, records, records + 1, bytes.len() - 4096, bytes.len() - 1]);
    for len in lengths {
        fs::write(&path, &bytes[..len]).unwrap();
        let error = open(&path).expect_err("cut").to_string();
        assert!(!error.contains('\n') && !error.is_empty());
    }
    fs::write(&path, [&bytes[..], &[0]].concat()).unwrap();
    assert!(matches!(open(&path), Err(OpenError::Length { .. })));
    fs::write(&path, &bytes).unwrap();
    open(&path).unwrap();
}

#[test]
fn a_flipped_byte_is_an_error_or_a_named_leaf_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = sample(folder.path());
    let records = records_offset(&bytes);
    let outcome = |place: usize, mask: u8| {
        let mut bad = bytes.clone();
        bad[place] ^= mask;
        fs::write(&path, &bad).unwrap();
        let result = open(&path);
        if result.is_err() {
            assert_eq!(fs::read(&path).unwrap(), bad, "refused and changed, {place}");
        }
        result.map(|(tree, _)| check_columns(&tree))
    };
    for place in (0..4096).filter(|place| *place < 128 || place % 97 == 0) {
        assert!(outcome(place, 0x40).is_err(), "header, byte {place}");
    }
    // State: the other slot counts; undo: armed with nothing in it.
    for place in (4096..4096 + 56).chain(6144..6144 + 56).chain(8192..8192 + 200) {
        assert!(outcome(place, 0x11).is_ok(), "state or undo, byte {place}");
    }
    let schema = 12_288..12_288 + 90;
    for place in schema.chain(records - 4096..records).filter(|place| bytes[*place] != 0) {
        let error = outcome(place, 0x08).expect_err("schema or parents");
        assert!(!matches!(error, OpenError::Damaged { .. }), "byte {place}: {error}");
    }
    for place in records..records + 20 * 128 {
        let (leaf, at) = ((place - records) / 128, (place - records) % 128);
        match outcome(place, 0x20) {
            // seq is free to have any even value.
            Ok(()) => assert!(at < 4, "leaf {leaf}, byte {at}"),
            Err(OpenError::Damaged { first, count, leaf_count, .. }) => {
                assert_eq!((first.0 as usize, count, leaf_count), (leaf, 1, 20));
            }
            Err(other) => panic!("leaf {leaf}, byte {at}: {other}"),
        }
    }
}

#[test]
fn both_states_lost_and_foreign_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mut bytes) = sample(folder.path());
    bytes[4096 + 16] ^= 1;
    bytes[6144 + 16] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(open(&path), Err(OpenError::State)));
    fs::write(&path, "no tree at all").unwrap();
    assert!(matches!(open(&path), Err(OpenError::NotATree)));
    bytes[8] = 2;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(open(&path), Err(OpenError::Version { found: 2, known: 1 })));
    assert!(matches!(open(folder.path()), Err(OpenError::Io { .. } | OpenError::NotAFile)));
    assert!(matches!(open(Path::new("/dev/null")), Err(OpenError::NotAFile)));
}

fn damage(path: &Path, bytes: &[u8], leaves: &[usize]) {
    let file = FileOptions::new().write(true).open(path).unwrap();
    for leaf in leaves {
        let at = records_offset(bytes) + leaf * 128 + 40;
        file.write_all_at(b"damage", at as u64).unwrap();
    }
}

#[test]
fn a_server_empties_damaged_leaves_as_changes_of_a_new_life() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = sample(folder.path());
    damage(&path, &bytes, &[5, 11]);
    let message = open(&path).unwrap_err().to_string();
    assert!(message.starts_with("2 of 20 leaves are damaged, first leaf 5: "), "{message}");
    let (tree, recovery) = open_as(&path, TreeRole::Server, Damaged::Reset).unwrap();
    assert_eq!(recovery.damaged, [DataLocId(5), DataLocId(11)]);
    assert_eq!(recovery.damaged_count, 2);
    let others = (0..20).filter(|id| ![5, 11].contains(id));
    let newest = others.map(|id| leaf(&tree, id).0.revision.get()).max().unwrap();
    for id in [5, 11] {
        let (head, data) = leaf(&tree, id);
        assert!(data.is_empty() && head.revision.get() > newest);
        assert!(Revision(head.revision.get()).life() > Revision(newest).life());
        assert!(tree.is_changed(DataLocId(id)));
    }
    check_columns(&tree);
    drop(tree);
    assert_eq!(open(&path).unwrap().1.damaged_count, 0);
}

#[test]
fn a_replica_empties_damaged_leaves_as_never_written_and_starts_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (server_path, bytes) = sample(folder.path());
    let (server, _) = open(&server_path).unwrap();
    let path = folder.path().join("replica");
    let mut replica =
        Tree::create(&path, server.layout().clone(), options(TreeRole::Replica)).unwrap();
    for id in 0..20 {
        let (head, data) = leaf(&server, id);
        replica.apply(&head, &data, Mark::Quiet).unwrap();
    }
    replica.save_progress(Life(9), Revision(1000));
    replica.close().unwrap();
    damage(&path, &bytes, &[19]);
    let (replica, recovery) = open_as(&path, TreeRole::Replica, Damaged::Reset).unwrap();
    assert_eq!((recovery.ending, recovery.damaged_count), (Ending::Clean, 1));
    assert_eq!(replica.revision(DataLocId(19)), Revision::ZERO);
    assert_eq!(replica.saved_progress(), (Life(9), Revision::ZERO));
    assert!(!replica.is_changed(DataLocId(19)));
    check_columns(&replica);
}

/// Leaves the state as a machine with another boot id would have.
fn reboot(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    for slot in [4096, 6144] {
        bytes[slot + 24] ^= 1;
        bytes[slot + 8..slot + 12].fill(0);
        let checksum = mapleaf::kernel::crc32c(&bytes[slot..slot + 56]);
        bytes[slot + 8..slot + 12].copy_from_slice(&checksum.to_le_bytes());
    }
    fs::write(path, &bytes).unwrap();
}

#[test]
fn a_server_that_may_have_lost_changes_says_so_by_a_life_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let layout = Layout::plain(1, 4, 64).unwrap();
    let mut server = Tree::create(&path, layout, options(TreeRole::Server)).unwrap();
    let before = server.begin_life(1_700_000_000).unwrap();
    server.write(DataLocId(0), b"kept").unwrap();
    let newest = server.write(DataLocId(3), b"newest").unwrap();
    drop(server);
    // The process died: nothing is lost, and copies go on from what they hold.
    let (mut server, recovery) = open_as(&path, TreeRole::Server, Damaged::Refuse).unwrap();
    assert_eq!(recovery.ending, Ending::ProcessDeath);
    let after = server.begin_life(1_700_000_000).unwrap();
    assert_eq!((server.life_start(), newest.life()), (newest, before));
    drop(server);
    reboot(&path);
    let (mut server, recovery) = open_as(&path, TreeRole::Server, Damaged::Refuse).unwrap();
    assert_eq!(recovery.ending, Ending::PowerLoss);
    assert_eq!(leaf(&server, 0).1, b"kept");
    assert!(server.is_changed(DataLocId(0)) && server.revision(DataLocId(3)) == newest);
    let last = server.begin_life(1_700_000_000).unwrap();
    let marked = server.life_start().life();
    assert!(after < marked && marked < last, "{after} {marked} {last}");
    drop(server);
    let (mut server, _) = open_as(&path, TreeRole::Server, Damaged::Refuse).unwrap();
    server.begin_life(1_700_000_000).unwrap();
    assert_eq!(server.life_start().life(), marked, "nor is it forgotten in later lives");
    check_columns(&server);
}

#[test]
fn another_boot_id_means_power_loss() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let mut replica =
        Tree::create(&path, Layout::plain(1, 4, 64).unwrap(), options(TreeRole::Replica)).unwrap();
    replica.save_progress(Life(9), Revision(1000));
    drop(replica);
    reboot(&path);
    let (replica, recovery) = open_as(&path, TreeRole::Replica, Damaged::Refuse).unwrap();
    assert_eq!(recovery.ending, Ending::PowerLoss);
    assert_eq!(replica.saved_progress(), (Life(9), Revision::ZERO));
}

/// Values of all leaves.
fn values(tree: &Tree) -> Vec<Vec<u8>> {
    (0..tree.leaf_count()).map(|id| leaf(tree, id).1).collect()
}

/// A file as power loss may leave it: of each sector the bytes that were written
/// back at one time or at another.
fn crash_image(before: &[u8], after: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut image = Vec::new();
    for (old, new) in before.chunks(512).zip(after.chunks(512)) {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        image.extend_from_slice(if state >> 63 == 0 { old } else { new });
    }
    image
}

#[test]
fn a_crash_image_gives_whole_leaves_of_either_time_or_damage_that_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let mut tree = server(&path, Layout::plain(1, 8, 2000).unwrap());
    let fill = |tree: &mut Tree, shift: u8| {
        for id in 0..8 {
            let len = usize::from(id + shift) * 701 % 2000;
            tree.write(DataLocId(id.into()), &vec![id * 16 + shift; len]).unwrap();
        }
    };
    fill(&mut tree, 1);
    let (old, before) = (values(&tree), fs::read(&path).unwrap());
    fill(&mut tree, 2);
    let (new, mut after) = (values(&tree), fs::read(&path).unwrap());
    drop(tree);
    // As in the middle of the last write, that of leaf 7: its former record is saved.
    after[8192..8196].copy_from_slice(&8u32.to_le_bytes());
    let (mut damaged, mut undone) = (0, 0);
    for seed in 0..400 {
        fs::write(&path, crash_image(&before, &after, seed)).unwrap();
        let (tree, recovery) = open_as(&path, TreeRole::Server, Damaged::Reset).unwrap();
        for (id, value) in values(&tree).into_iter().enumerate() {
            let lost = recovery.damaged.contains(&DataLocId(id as u32));
            let whole = value == old[id] || value == new[id];
            assert!(if lost { value.is_empty() } else { whole }, "seed {seed}, leaf {id}");
        }
        damaged += recovery.damaged_count;
        undone += u32::from(recovery.undone == Some(DataLocId(7)));
        check_columns(&tree);
    }
    assert!(damaged > 100 && undone > 10, "{damaged} damaged, {undone} put back");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_bytes_behind_a_right_header_neither_panic_nor_hide(
        noise in prop::collection::vec((4096usize..20_000, any::<u8>()), 1..60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut bytes) = sample(folder.path());
        for (place, value) in noise {
            let last = bytes.len() - 1;
            bytes[place.min(last)] = value;
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok((tree, _)) = open_as(&path, TreeRole::Server, Damaged::Reset) {
            check_columns(&tree);
            drop(tree);
            prop_assert_eq!(open(&path).unwrap().1.damaged_count, 0);
        }
    }
}
