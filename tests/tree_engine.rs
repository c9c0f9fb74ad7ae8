//! Stories of a tree file: what it keeps, what it refuses, what survives.
#![cfg(feature = "tree")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::fs::OpenOptions as FileOptions;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use proptest::prelude::*;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Digest;
use mapleaf::layout::LeafHead;
use mapleaf::layout::Life;
use mapleaf::layout::ParentId;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::CreateError;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Damaged;
use mapleaf::tree::Ending;
use mapleaf::tree::GrowError;
use mapleaf::tree::Layout;
use mapleaf::tree::Mark;
use mapleaf::tree::OpenError;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::Recovery;
use mapleaf::tree::Tree;
use mapleaf::tree::leaf_checksum;

const NOW: u64 = Life::EPOCH_UNIX_S + 200_000_000;

fn options(role: TreeRole) -> CreateOptions {
    CreateOptions { role, tree_id: TreeId(0x1122_3344), life: Life(0), unix_s: NOW }
}

fn open_as(path: &Path, role: TreeRole, damaged: Damaged) -> Result<(Tree, Recovery), OpenError> {
    Tree::open(path, OpenOptions { role, damaged, unix_s: NOW })
}

fn open(path: &Path) -> Result<(Tree, Recovery), OpenError> {
    open_as(path, TreeRole::Server, Damaged::Refuse)
}

fn server(path: &Path, layout: Layout) -> Tree {
    let mut tree = Tree::create(path, layout, options(TreeRole::Server)).unwrap();
    tree.begin_life(NOW).unwrap();
    tree
}

fn leaf(tree: &Tree, id: u32) -> (LeafHead, Vec<u8>) {
    let mut data = vec![9; 3];
    let head = tree.read(DataLocId(id), &mut data).unwrap();
    assert_eq!(leaf_checksum(&head, &data), head.checksum.get());
    (head, data)
}

/// Everything that a tree keeps in memory, computed anew from its leaves.
fn check_columns(tree: &Tree) {
    let mut digest = Digest(0);
    let mut parts = vec![Digest(0); tree.layout().parent_count() as usize];
    for id in 0..tree.leaf_count() {
        let place = DataLocId(id);
        let (head, data) = leaf(tree, id);
        let revision = Revision(head.revision.get());
        assert_eq!(tree.checksums()[place.index()], head.checksum.get());
        assert_eq!(tree.revision(place), revision);
        assert_eq!(tree.data_size(place), data.len());
        let of_leaf = Digest::of_leaf(place, revision, head.checksum.get());
        digest = digest.plus(of_leaf);
        let parent = tree.layout().parent_of(place).unwrap().parent_id.get() as usize;
        parts[parent] = parts[parent].plus(of_leaf);
        let mut wire = vec![0xee; tree.wire_len(place)];
        assert_eq!(tree.copy_wire(place, &mut wire), Some(wire.len()));
        let (head_bytes, rest) = wire.split_at(24);
        assert_eq!(head_bytes, zerocopy::IntoBytes::as_bytes(&head));
        assert_eq!(&rest[..data.len()], data);
        assert!(rest[data.len()..].iter().all(|byte| *byte == 0));
        wire.pop();
        assert_eq!(tree.copy_wire(place, &mut wire), None, "too short a place");
    }
    assert_eq!(tree.digest(), digest);
    for (parent, part) in parts.iter().enumerate() {
        assert_eq!(tree.digest_of_parent(ParentId(parent as u32)), Some(*part));
    }
}

mod model {
    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u32, Vec<u8>),
        Take,
        Reopen,
        Close,
        BeginLife,
        Grow(u32, u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let data = prop::collection::vec(any::<u8>(), 0..60);
        let step = prop_oneof![
            20 => (0u32..40, data).prop_map(|(leaf, data)| Step::Write(leaf, data)),
            3 => Just(Step::Take),
            2 => Just(Step::Reopen),
            1 => Just(Step::Close),
            1 => Just(Step::BeginLife),
            1 => (0u32..3, 0u32..2).prop_map(|(leaves, capacity)| Step::Grow(leaves, capacity)),
        ];
        prop::collection::vec(step, 1..60)
    }

    /// Sizes of a layout with two parents, so that growth moves the second one's
    /// leaves.
    #[derive(Clone, Copy)]
    struct Shape {
        leaves: u32,
        capacity: u32,
    }

    impl Shape {
        fn layout(self) -> Layout {
            let Shape { leaves, capacity } = self;
            let parent = |name: &str, capacity: u32| {
                format!("[[parent]]\nname=\"{name}\"\nleaves={leaves}\ncapacity={capacity}\n")
            };
            Layout::from_toml(&(parent("a", capacity) + &parent("b", capacity + 17))).unwrap()
        }
    }

    #[derive(Default)]
    struct Model {
        leaves: Vec<(Vec<u8>, Revision)>,
        changed: BTreeSet<u32>,
        newest: Revision,
    }

    impl Model {
        fn check(&self, tree: &Tree) {
            check_columns(tree);
            for (id, (data, revision)) in self.leaves.iter().enumerate() {
                let (head, found) = leaf(tree, id as u32);
                assert_eq!((&found, head.revision.get()), (data, revision.0), "leaf {id}");
                assert_eq!(
                    tree.is_changed(DataLocId(id as u32)),
                    self.changed.contains(&(id as u32))
                );
            }
            assert_eq!(tree.change_count() as usize, self.changed.len());
            assert!(tree.newest_revision() >= self.newest);
        }

        fn grow(&mut self, old: Shape, new: Shape) {
            let moved = |id: u32| if id < old.leaves { id } else { id + new.leaves - old.leaves };
            let mut leaves = vec![(Vec::new(), Revision::ZERO); new.leaves as usize * 2];
            for (id, leaf) in self.leaves.drain(..).enumerate() {
                leaves[moved(id as u32) as usize] = leaf;
            }
            self.leaves = leaves;
            self.changed = self.changed.iter().copied().map(moved).collect();
        }
    }

    fn run(steps: Vec<Step>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let mut shape = Shape { leaves: 5, capacity: 33 };
        let mut tree = server(&path, shape.layout());
        let leaves = vec![(Vec::new(), Revision::ZERO); 10];
        let mut model = Model { leaves, ..Model::default() };
        let mut clock = NOW;
        for step in steps {
            match step {
                Step::Write(id, data) => write(&mut tree, &mut model, shape, id, data),
                Step::Take => {
                    let mut taken = vec![DataLocId(99)];
                    tree.take_changes(&mut taken);
                    assert!(taken[1..].iter().map(|leaf| leaf.0).eq(model.changed.iter().copied()));
                    model.changed.clear();
                }
                Step::Reopen | Step::Close => {
                    let ending = match step {
                        Step::Close => tree.close().map(|()| Ending::Clean).unwrap(),
                        _ => {
                            drop(tree);
                            Ending::ProcessDeath
                        }
                    };
                    let (again, recovery) = open(&path).unwrap();
                    assert_eq!((recovery.ending, recovery.undone), (ending, None));
                    tree = again;
                    clock += 1;
                    tree.begin_life(clock).unwrap();
                }
                Step::BeginLife => {
                    let before = tree.life();
                    let life = tree.begin_life(clock).unwrap();
                    assert!(life > before && tree.life_start() >= model.newest);
                    assert!(life > model.newest.life());
                }
                Step::Grow(leaves, capacity) => {
                    let new = Shape {
                        leaves: shape.leaves + leaves,
                        capacity: shape.capacity + capacity * 40,
                    };
                    tree.grow(new.layout()).unwrap();
                    model.grow(shape, new);
                    shape = new;
                }
            }
            model.check(&tree);
        }
    }

    fn write(tree: &mut Tree, model: &mut Model, shape: Shape, id: u32, data: Vec<u8>) {
        let capacity = if id < shape.leaves { shape.capacity } else { shape.capacity + 17 };
        let result = tree.write(DataLocId(id), &data);
        if id >= shape.leaves * 2 || data.len() > capacity as usize {
            assert!(result.is_err());
            return;
        }
        let revision = result.unwrap();
        assert!(revision > model.newest, "revisions rise");
        assert_eq!(tree.next_changed_since(0, u32::MAX, model.newest), Some(DataLocId(id)));
        assert_eq!(tree.next_changed_since(0, u32::MAX, revision), None);
        model.newest = revision;
        model.leaves[id as usize] = (data, revision);
        model.changed.insert(id);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
        #[test]
        fn a_tree_is_what_was_written_through_reopening_and_growth(steps in steps()) {
            run(steps);
        }
    }
}

#[test]
fn a_replica_that_applies_what_a_server_holds_has_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::plain(3, 50, 100).unwrap();
    let mut server = server(&folder.path().join("server"), layout.clone());
    let path = folder.path().join("replica");
    let mut replica = Tree::create(&path, layout, options(TreeRole::Replica)).unwrap();
    assert_eq!(replica.digest(), server.digest(), "both are empty");
    for id in 0..50 {
        server.write(DataLocId(id * 7 % 50), &vec![id as u8; id as usize]).unwrap();
    }
    assert_ne!(replica.digest(), server.digest());
    let mut changed = Vec::new();
    server.take_changes(&mut changed);
    for id in &changed {
        let (head, data) = leaf(&server, id.0);
        replica.apply(&head, &data, Mark::Quiet).unwrap();
    }
    assert_eq!((replica.digest(), replica.change_count()), (server.digest(), 0));
    assert_eq!(replica.checksums(), server.checksums());
    let (life, watermark) = (server.life(), server.newest_revision());
    replica.save_progress(life, watermark);
    check_columns(&replica);
    drop(replica);
    let (replica, recovery) = open_as(&path, TreeRole::Replica, Damaged::Refuse).unwrap();
    assert_eq!(recovery.ending, Ending::ProcessDeath);
    assert_eq!(replica.saved_progress(), (life, watermark));
    assert_eq!(replica.digest(), server.digest());
}

#[test]
fn a_tree_without_a_name_does_the_same() {
    let layout = Layout::plain(1, 10, 64).unwrap();
    let mut tree = Tree::create_unnamed(layout, options(TreeRole::Server)).unwrap();
    tree.begin_life(NOW).unwrap();
    tree.write(DataLocId(9), b"nine").unwrap();
    tree.grow(Layout::plain(1, 12, 80).unwrap()).unwrap();
    assert_eq!(leaf(&tree, 9).1, b"nine");
    assert_eq!((tree.path(), tree.leaf_count()), (None, 12));
    check_columns(&tree);
    tree.close().unwrap();
}

#[test]
fn there_is_one_owner_and_creating_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    let layout = Layout::plain(1, 4, 64).unwrap();
    let mut tree = server(&path, layout.clone());
    tree.write(DataLocId(1), b"kept").unwrap();
    assert!(matches!(open(&path), Err(OpenError::Locked)));
    let again = Tree::create(&path, layout.clone(), options(TreeRole::Server));
    assert!(matches!(again, Err(CreateError::Exists { .. })), "{again:?}");
    tree.grow(Layout::plain(1, 5, 64).unwrap()).unwrap();
    assert!(matches!(open(&path), Err(OpenError::Locked)), "the lock is on the grown file");
    let mode = fs::metadata(&path).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(tree);
    assert!(matches!(
        open_as(&path, TreeRole::Replica, Damaged::Refuse),
        Err(OpenError::Role { found: TreeRole::Server, .. })
    ));
    assert_eq!(leaf(&open(&path).unwrap().0, 1).1, b"kept");
    let nowhere = Tree::create(&folder.path().join("no/tree"), layout, options(TreeRole::Server));
    assert!(matches!(nowhere, Err(CreateError::Io { .. })));
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["tree"], "nothing is left behind");
}

#[test]
fn other_threads_see_whole_leaves_while_the_owner_writes_and_grows() {
    let layout = |leaves| Layout::plain(1, leaves, 900).unwrap();
    let mut tree = Tree::create_unnamed(layout(4), options(TreeRole::Server)).unwrap();
    tree.begin_life(NOW).unwrap();
    let reader = tree.reader();
    let stop = AtomicBool::new(false);
    let reads = thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (reader, stop) = (reader.clone(), &stop);
                scope.spawn(move || read_until(&reader, stop))
            })
            .collect();
        let end = Instant::now() + Duration::from_millis(700);
        let mut count = 0u32;
        while Instant::now() < end {
            let len = (count * 37 % 900) as usize;
            tree.write(DataLocId(count % 4), &vec![count as u8; len]).unwrap();
            count += 1;
            if count % 5000 == 0 && count < 50_000 {
                tree.grow(layout(4 + count / 5000)).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u64>()
    });
    assert!(reads > 1000, "{reads} reads");
    assert_eq!(reader.layout().leaf_count(), tree.leaf_count());
    assert_eq!(reader.read(DataLocId(tree.leaf_count()), &mut Vec::new()), None);
}

fn read_until(reader: &mapleaf::tree::TreeReader, stop: &AtomicBool) -> u64 {
    let (mut reads, mut data) = (0, Vec::new());
    let mut newest = [0; 4];
    while !stop.load(Ordering::Relaxed) {
        let id = (reads % 4) as u32;
        let head = reader.read(DataLocId(id), &mut data).expect("the writer never rests that long");
        assert_eq!(leaf_checksum(&head, &data), head.checksum.get(), "torn");
        assert!(data.windows(2).all(|pair| pair[0] == pair[1]), "torn");
        let seen = &mut newest[id as usize];
        assert!(head.revision.get() >= *seen, "went backwards");
        *seen = head.revision.get();
        reads += 1;
    }
    reads
}

#[test]
fn a_reader_outlives_its_tree() {
    let layout = Layout::plain(1, 4, 64).unwrap();
    let mut tree = Tree::create_unnamed(layout, options(TreeRole::Server)).unwrap();
    tree.begin_life(NOW).unwrap();
    tree.write(DataLocId(2), b"last words").unwrap();
    let reader = tree.reader();
    drop(tree);
    let mut data = Vec::new();
    reader.read(DataLocId(2), &mut data).unwrap();
    assert_eq!(data, b"last words");
}

mod death {
    use super::*;

    const CHILD: &str = "MAPLEAF_TEST_WRITER";
    const GROWING_CHILD: &str = "MAPLEAF_TEST_GROWER";
    const LEAVES: u64 = 50;
    const KILLS: u64 = 40;
    /// Writes between two acknowledgements: few, so that most time is spent writing.
    const BATCH: u64 = 16;

    /// Write number `n` of a run: which leaf, and what.
    fn nth(n: u64) -> (DataLocId, Vec<u8>) {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let len = 8 + (mixed / LEAVES) as usize % 4000;
        let mut data = vec![n as u8; len];
        data[..8].copy_from_slice(&n.to_le_bytes());
        (DataLocId((mixed % LEAVES) as u32), data)
    }

    /// Run by the test below in a process of its own; alone it does nothing.
    #[test]
    fn writer() {
        let Some(path) = env::var_os(CHILD) else { return };
        let (mut tree, _) = open(Path::new(&path)).unwrap();
        tree.begin_life(NOW).unwrap();
        let mut out = std::io::stderr();
        for n in 1.. {
            let (leaf, data) = nth(n);
            tree.write(leaf, &data).unwrap();
            if n % BATCH == 0 && out.write_all(&n.to_le_bytes()).is_err() {
                return;
            }
        }
    }

    /// As above; its tree grows by a leaf with every write to the last one.
    #[test]
    fn grower() {
        let Some(path) = env::var_os(GROWING_CHILD) else { return };
        let (mut tree, _) = open(Path::new(&path)).unwrap();
        tree.begin_life(NOW).unwrap();
        let mut out = std::io::stderr();
        for n in u64::from(tree.leaf_count()).. {
            tree.write(DataLocId(n as u32 - 1), &n.to_le_bytes()).unwrap();
            tree.grow(grown(n + 1)).unwrap();
            if out.write_all(&n.to_le_bytes()).is_err() {
                return;
            }
        }
    }

    fn grown(leaves: u64) -> Layout {
        Layout::plain(1, leaves as u32, 200).unwrap()
    }

    #[test]
    fn kill_9_in_growth_leaves_the_old_tree_or_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        drop(server(&path, grown(1)));
        for kill in 0..KILLS / 2 {
            let pause = Duration::from_micros(kill * 997 % 20_000);
            let acknowledged = kill_after(start("death::grower", GROWING_CHILD, &path), pause);
            let (tree, recovery) = open(&path).unwrap();
            assert_eq!((recovery.ending, recovery.damaged_count), (Ending::ProcessDeath, 0));
            let leaves = u64::from(tree.leaf_count());
            assert!((acknowledged + 1..=acknowledged + 2).contains(&leaves), "{leaves} leaves");
            (1..leaves).for_each(|n| assert_eq!(leaf(&tree, n as u32 - 1).1, n.to_le_bytes()));
            check_columns(&tree);
        }
        let names = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name());
        for name in names {
            assert!(["tree", ".tree.next"].iter().any(|known| name == *known), "{name:?}");
        }
    }

    fn start(test: &str, variable: &str, path: &Path) -> Child {
        Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(variable, path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Kills the child after some time, and gives the last acknowledged write.
    fn kill_after(mut child: Child, pause: Duration) -> u64 {
        let mut stream = child.stderr.take().unwrap();
        let mut first = [0; 8];
        let begun = stream.read_exact(&mut first);
        let reader = thread::spawn(move || {
            let mut acknowledged = first.to_vec();
            stream.read_to_end(&mut acknowledged).unwrap();
            acknowledged
        });
        thread::sleep(pause);
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = reader.join().unwrap();
        begun.expect("the child writes");
        let (numbers, _) = acknowledged.as_chunks::<8>();
        u64::from_le_bytes(*numbers.last().unwrap())
    }

    #[test]
    fn kill_9_tears_no_leaf_and_loses_no_acknowledged_write() {
        let folder = tempfile::tempdir().unwrap();
        let mut undone = 0;
        for kill in 0..KILLS {
            let path = folder.path().join(format!("tree{kill}"));
            drop(server(&path, Layout::plain(3, LEAVES as u32, 4096).unwrap()));
            let pause = Duration::from_micros(kill * 997 % 20_000);
            let acknowledged = kill_after(start("death::writer", CHILD, &path), pause);
            let (tree, recovery) = open(&path).unwrap();
            assert_eq!((recovery.ending, recovery.damaged_count), (Ending::ProcessDeath, 0));
            undone += u32::from(recovery.undone.is_some());
            let last = check_writes(&tree, acknowledged);
            assert!(
                last <= acknowledged + BATCH,
                "{last} was written, {acknowledged} acknowledged"
            );
            fs::remove_file(&path).unwrap();
        }
        println!("{undone} of {KILLS} kills hit a write");
    }

    fn check_writes(tree: &Tree, acknowledged: u64) -> u64 {
        let mut least = vec![0; LEAVES as usize];
        (1..=acknowledged).for_each(|n| least[nth(n).0.index()] = n);
        let mut last = 0;
        for (id, least) in least.into_iter().enumerate() {
            let (_, data) = leaf(tree, id as u32);
            let n = data.first_chunk().map_or(0, |n| u64::from_le_bytes(*n));
            assert!(n >= least, "leaf {id} holds write {n}, write {least} was acknowledged");
            assert!(n == 0 || nth(n) == (DataLocId(id as u32), data), "leaf {id} is torn");
            last = last.max(n);
        }
        last
    }
}

mod hostile {
    use super::*;

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

    #[test]
    fn another_boot_id_means_power_loss() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let mut replica =
            Tree::create(&path, Layout::plain(1, 4, 64).unwrap(), options(TreeRole::Replica))
                .unwrap();
        replica.save_progress(Life(9), Revision(1000));
        drop(replica);
        // The state as a machine with another boot id would have left it.
        let mut bytes = fs::read(&path).unwrap();
        for slot in [4096, 6144] {
            bytes[slot + 24] ^= 1;
            bytes[slot + 8..slot + 12].fill(0);
            let checksum = mapleaf::kernel::crc32c(&bytes[slot..slot + 56]);
            bytes[slot + 8..slot + 12].copy_from_slice(&checksum.to_le_bytes());
        }
        fs::write(&path, &bytes).unwrap();
        let (replica, recovery) = open_as(&path, TreeRole::Replica, Damaged::Refuse).unwrap();
        assert_eq!(recovery.ending, Ending::PowerLoss);
        assert_eq!(replica.saved_progress(), (Life(9), Revision::ZERO));
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
}

mod full {
    use super::*;

    const CHILD: &str = "MAPLEAF_TEST_FULL";

    /// Run by the test below under a limit on the length of files.
    #[test]
    fn under_a_limit() {
        let Some(folder) = env::var_os(CHILD).map(PathBuf::from) else { return };
        let big = Layout::plain(1, 100_000, 64).unwrap();
        let error = Tree::create(&folder.join("big"), big.clone(), options(TreeRole::Server));
        let message = error.expect_err("no space").to_string();
        assert!(message.contains("cannot reserve"), "{message}");
        assert!(fs::read_dir(&folder).unwrap().next().is_none(), "nothing is left behind");
        let path = folder.join("tree");
        let mut tree = server(&path, Layout::plain(1, 100, 64).unwrap());
        tree.write(DataLocId(3), b"before").unwrap();
        assert!(matches!(tree.grow(big), Err(GrowError::Space { .. })));
        tree.write(DataLocId(4), b"after").unwrap();
        assert_eq!(tree.leaf_count(), 100);
        check_columns(&tree);
        tree.close().unwrap();
        let (tree, recovery) = open(&path).unwrap();
        assert_eq!(recovery.ending, Ending::Clean);
        assert_eq!((leaf(&tree, 3).1, leaf(&tree, 4).1), (b"before".to_vec(), b"after".to_vec()));
        let names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["tree"]);
    }

    #[test]
    fn no_space_is_an_error_and_the_old_tree_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        // 512-byte blocks; the signal of the limit is ignored, so that the call fails.
        let script = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\"";
        let output = Command::new("/bin/sh")
            .args(["-c", script])
            .arg(env::current_exe().unwrap())
            .args(["--exact", "full::under_a_limit", "--test-threads=1"])
            .env(CHILD, folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
        assert!(folder.path().join("tree").exists());
    }
}
