//! Sequences of operations against a model of plain values.

use std::collections::BTreeSet;

use proptest::prelude::*;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Revision;
use mapleaf::tree::Ending;
use mapleaf::tree::Layout;
use mapleaf::tree::Tree;

use super::NOW;
use super::check_columns;
use super::leaf;
use super::open;
use super::server;

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
            assert_eq!(tree.is_changed(DataLocId(id as u32)), self.changed.contains(&(id as u32)));
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
