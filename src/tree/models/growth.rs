//! The swap of generations: a reader goes over to the grown tree, or finishes in the
//! old one. The order of `Tree::grow` and `adopt`: the new file is filled, then
//! swapped in, and from then on the new one is written.

use loom::thread;

use super::*;

/// A tree of one leaf and what its readers share.
struct Growing {
    leaf: Leaf,
    shared: Arc<Swap<Generation>>,
}

impl Growing {
    fn new() -> Growing {
        let leaf = Leaf::written(1);
        let shared = Arc::new(Swap::new(leaf.generation()));
        Growing { leaf, shared }
    }

    /// Growth with revision `revision`, which is the newest one.
    fn grow(&mut self, revision: u64) {
        let grown = Leaf::grown(revision);
        self.shared.store(grown.generation());
        self.leaf = grown;
    }
}

/// A read beside a growth and a write in the grown tree.
fn a_read_beside_growth(seen: &Seen) {
    let mut tree = Growing::new();
    let reader = TreeReader::new(Arc::clone(&tree.shared));
    let beside = thread::spawn(move || read(&reader));
    tree.grow(1);
    tree.leaf.write(2);
    seen.note(beside.join().expect("a whole leaf"));
    assert_eq!(read(&TreeReader::new(tree.shared)), Some(2));
}

#[test]
fn a_read_beside_growth_is_of_the_old_tree_or_of_the_new_one() {
    let seen = Seen::default();
    let model = seen.clone();
    every_run("a read beside a growth and a write", move || a_read_beside_growth(&model));
    assert_eq!(seen.sorted(), [None, Some(1), Some(2)]);
}

/// The grown tree holds the newer leaf, so that going back to the old one shows.
#[test]
fn a_reader_that_saw_the_grown_tree_never_goes_back_to_the_old_one() {
    let seen = Seen::default();
    let model = seen.clone();
    every_run("two reads beside a growth", move || {
        let mut tree = Growing::new();
        let reader = TreeReader::new(Arc::clone(&tree.shared));
        let beside = thread::spawn(move || [read(&reader), read(&reader)]);
        tree.grow(2);
        let found = beside.join().expect("whole leaves");
        assert!(found[0] <= found[1], "went back: {found:?}");
        found.iter().for_each(|one| model.note(*one));
    });
    assert_eq!(seen.sorted(), [Some(1), Some(2)]);
}

#[test]
fn a_reader_finishes_in_the_generation_that_it_began_in() {
    every_run("a read in the old generation", || {
        let mut tree = Growing::new();
        let old = tree.leaf.reader();
        let beside = thread::spawn(move || read(&old));
        tree.grow(1);
        tree.leaf.write(3);
        assert_eq!(beside.join().expect("a whole leaf"), Some(1));
    });
}

#[test]
fn the_release_of_the_swap_is_needed() {
    let model = || every_run("a mutant", || a_read_beside_growth(&Seen::default()));
    // loom's words for memory that is used before it is known to be there.
    finds(Mutant::ReleaseSwap, model, "Causality violation");
}
