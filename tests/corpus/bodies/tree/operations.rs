//! Sequences of operations on a tree against a model of plain values.

use std::collections::BTreeSet;

use zerocopy::little_endian::U32;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Digest;
use mapleaf::layout::LeafHead;
use mapleaf::layout::Life;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeRole;
use mapleaf::tree::Damaged;
use mapleaf::tree::Ending;
use mapleaf::tree::Layout;
use mapleaf::tree::Mark;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::Tree;
use mapleaf::tree::leaf_head;

use super::super::input::Input;
use super::NOW;
use super::fresh;
use super::options;
use super::scratch;

/// More operations than these bring nothing new.
const STEPS_MAX: usize = 60;

/// Sizes of a layout with two parents: growth moves the second one's leaves.
#[derive(Clone, Copy)]
struct Shape {
    leaves: u32,
    capacity: usize,
}

impl Shape {
    fn layout(self) -> Layout {
        let Shape { leaves, capacity } = self;
        let parent = |name: &str, capacity: usize| {
            format!("[[parent]]\nname='{name}'\nleaves={leaves}\ncapacity={capacity}\n")
        };
        Layout::from_toml(&(parent("a", capacity) + &parent("b", capacity + 17))).expect("a schema")
    }

    fn capacity_of(self, leaf: u32) -> Option<usize> {
        match leaf {
            leaf if leaf < self.leaves => Some(self.capacity),
            leaf if leaf < 2 * self.leaves => Some(self.capacity + 17),
            _ => None,
        }
    }
}

struct World {
    role: TreeRole,
    shape: Shape,
    tree: Tree,
    clock: u64,
    has_life: bool,
    /// Data, revision and ChangeFlag of each leaf.
    leaves: Vec<(Vec<u8>, Revision)>,
    changed: BTreeSet<u32>,
    /// What the replica wrote down last.
    progress: (Life, Revision),
}

pub(in super::super) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let role = if input.flag() { TreeRole::Replica } else { TreeRole::Server };
    let shape = Shape { leaves: 3, capacity: 33 };
    let tree = Tree::create(&fresh(), shape.layout(), options(role)).expect("room");
    let mut world = World {
        role,
        shape,
        tree,
        clock: NOW,
        has_life: false,
        leaves: vec![(Vec::new(), Revision::ZERO); 6],
        changed: BTreeSet::new(),
        progress: (Life(0), Revision::ZERO),
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        world = world.step(&mut input);
        world.check();
    }
}

impl World {
    fn step(mut self, input: &mut Input<'_>) -> World {
        match input.u8() & 15 {
            0 => self.take(),
            1 => return self.reopened(input),
            2 => self.begin_life(),
            3 => self.grow(input),
            4 => self.restore(input),
            5 => self.save(input),
            6 | 7 => self.apply(input),
            _ => self.write(input),
        }
        self
    }

    fn newest(&self) -> Revision {
        self.leaves.iter().map(|(_, revision)| *revision).max().unwrap_or_default()
    }

    fn put(&mut self, leaf: u32, data: &[u8], revision: Revision, mark: Mark) {
        self.leaves[leaf as usize] = (data.to_vec(), revision);
        if mark == Mark::Changed {
            self.changed.insert(leaf);
        }
    }

    fn fits(&self, leaf: u32, data: &[u8]) -> bool {
        self.shape.capacity_of(leaf).is_some_and(|capacity| data.len() <= capacity)
    }

    fn write(&mut self, input: &mut Input<'_>) {
        let leaf = u32::from(input.u8()) % (2 * self.shape.leaves + 1);
        let data = input.bytes();
        let before = self.tree.newest_revision();
        let written = self.tree.write(DataLocId(leaf), data);
        let may = self.role == TreeRole::Server && self.has_life && self.fits(leaf, data);
        match written {
            Ok(revision) => {
                assert!(may && revision > before.max(self.newest()), "revisions rise");
                assert_eq!(
                    self.tree.next_changed_since(0, u32::MAX, before),
                    Some(DataLocId(leaf))
                );
                self.put(leaf, data, revision, Mark::Changed);
            }
            Err(error) => assert!(!may || before.0 == u64::MAX, "{error}"),
        }
    }

    fn apply(&mut self, input: &mut Input<'_>) {
        let leaf = u32::from(input.u8()) % (2 * self.shape.leaves + 1);
        let mark = if input.flag() { Mark::Changed } else { Mark::Quiet };
        let revision = Revision(input.near(self.newest().0));
        let lies = input.u8() == 0xff;
        let data = input.bytes();
        let right = leaf_head(DataLocId(leaf), revision, data);
        let head = LeafHead { data_size: U32::new(data.len() as u32 + u32::from(lies)), ..right };
        let applied = self.tree.apply(&head, data, mark);
        let may = self.role == TreeRole::Replica && self.fits(leaf, data) && !lies;
        assert_eq!(applied.is_ok(), may, "{applied:?}");
        if may {
            self.put(leaf, data, revision, mark);
        }
    }

    fn restore(&mut self, input: &mut Input<'_>) {
        let leaf = u32::from(input.u8()) % (2 * self.shape.leaves + 1);
        let mark = if input.flag() { Mark::Changed } else { Mark::Quiet };
        let revision = Revision(input.near(self.newest().0));
        let data = input.bytes();
        let restored = self.tree.restore(DataLocId(leaf), revision, data, mark);
        let may = !self.has_life && self.fits(leaf, data);
        assert_eq!(restored.is_ok(), may, "{restored:?}");
        if may {
            self.put(leaf, data, revision, mark);
        }
    }

    fn take(&mut self) {
        let mut taken = vec![DataLocId(99)];
        self.tree.take_changes(&mut taken);
        assert!(taken[1..].iter().map(|leaf| leaf.0).eq(self.changed.iter().copied()));
        self.changed.clear();
    }

    fn begin_life(&mut self) {
        if self.role == TreeRole::Replica {
            return;
        }
        let before = self.tree.life();
        let life = self.tree.begin_life(self.clock).expect("in memory");
        let used_up = before.0 == u32::MAX || self.newest().life().0 == u32::MAX;
        assert!(used_up || life > before && life > self.newest().life());
        assert!(self.tree.life_start() >= self.newest());
        self.has_life = true;
    }

    fn save(&mut self, input: &mut Input<'_>) {
        if self.role == TreeRole::Server {
            self.tree.sync().expect("in memory");
            return;
        }
        self.progress = (Life(u32::from(input.u8())), Revision(input.u64()));
        self.tree.save_progress(self.progress.0, self.progress.1);
        assert_eq!(self.tree.saved_progress(), self.progress);
    }

    fn grow(&mut self, input: &mut Input<'_>) {
        let by = input.u8();
        let old = self.shape;
        let new = Shape {
            leaves: (old.leaves + u32::from(by & 3)).min(20),
            capacity: (old.capacity + usize::from(by >> 2 & 1) * 40).min(400),
        };
        self.tree.grow(new.layout()).expect("room");
        let moved = |id: u32| if id < old.leaves { id } else { id + new.leaves - old.leaves };
        let mut leaves = vec![(Vec::new(), Revision::ZERO); 2 * new.leaves as usize];
        for (id, leaf) in std::mem::take(&mut self.leaves).into_iter().enumerate() {
            leaves[moved(id as u32) as usize] = leaf;
        }
        self.leaves = leaves;
        self.changed = self.changed.iter().copied().map(moved).collect();
        self.shape = new;
    }

    /// Ends in good order or as by death, and opens the file again.
    fn reopened(self, input: &mut Input<'_>) -> World {
        let ending = if input.flag() {
            self.tree.close().expect("in memory");
            Ending::Clean
        } else {
            drop(self.tree);
            Ending::ProcessDeath
        };
        let options = OpenOptions { role: self.role, damaged: Damaged::Refuse, unix_s: self.clock };
        let (tree, recovery) = Tree::open(&scratch(), options).expect("our own file");
        assert_eq!((recovery.ending, recovery.undone), (ending, None));
        if self.role == TreeRole::Replica {
            assert_eq!(tree.saved_progress(), self.progress);
        }
        World { tree, clock: self.clock + 1, has_life: false, ..self }
    }

    /// The tree is the model, and its columns are those of its leaves.
    fn check(&self) {
        let tree = &self.tree;
        assert_eq!(tree.leaf_count() as usize, self.leaves.len());
        assert_eq!(tree.change_count() as usize, self.changed.len());
        let mut digest = Digest(0);
        let mut found = Vec::new();
        for (place, (data, revision)) in self.leaves.iter().enumerate() {
            let leaf = DataLocId(place as u32);
            let head = tree.read(leaf, &mut found).expect("it is there");
            assert_eq!((&found, head.revision.get()), (data, revision.0), "leaf {leaf}");
            assert_eq!(head, leaf_head(leaf, *revision, data));
            assert_eq!(tree.checksums()[place], head.checksum.get());
            assert_eq!(tree.revision(leaf), *revision);
            assert_eq!(tree.data_size(leaf), data.len());
            assert_eq!(tree.is_changed(leaf), self.changed.contains(&leaf.0));
            digest = digest.plus(Digest::of_leaf(leaf, *revision, head.checksum.get()));
        }
        assert_eq!(tree.digest(), digest);
        assert!(tree.newest_revision() >= self.newest());
    }
}
