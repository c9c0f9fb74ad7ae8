//! A tree in plain memory, as `sync` sees it, and what its driver brings.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use mapleaf::kernel::crc32c;
use mapleaf::layout::DataLocId;
use mapleaf::layout::Digest;
use mapleaf::layout::LayoutHash;
use mapleaf::layout::LeafHead;
use mapleaf::layout::Life;
use mapleaf::layout::Parent;
use mapleaf::layout::ParentId;
use mapleaf::layout::ParentName;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeId;
use mapleaf::layout::leaf_wire_len;
use mapleaf::sync::Leaves;
use mapleaf::sync::RandomSource;
use mapleaf::sync::ReplicaLeaves;
use mapleaf::sync::ServedLeaves;
use mapleaf::sync::WriteRefusal;
use mapleaf::wire::Leaf;
use mapleaf::wire::LeafSource;
use mapleaf::wire::leaf_checksum;

/// Leaves of the tree: half of them under `/a`, half under `/b`.
pub(super) const LEAVES: u32 = 24;

/// Most Data of a leaf: three of them fill a datagram.
pub(super) const CAPACITY: usize = 300;

/// Its id.
pub(super) const TREE_ID: TreeId = TreeId(0x7ee);

/// What LAYOUT datagrams bring of it: more than one of them takes.
pub(super) fn layout_blob() -> Vec<u8> {
    [&[0; 8][..], &[7; 2_000]].concat()
}

/// The hash of that.
pub(super) fn layout_hash() -> LayoutHash {
    static HASH: OnceLock<u32> = OnceLock::new();
    LayoutHash(*HASH.get_or_init(|| crc32c(&layout_blob()[8..])))
}

/// Numbers that anybody could guess: nothing here is secret.
#[derive(Debug)]
pub(super) struct Counting(pub(super) u64);

impl RandomSource for Counting {
    fn next_u64(&mut self) -> u64 {
        self.0 += 1;
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Tells messages apart, and no input finds two with the same one.
pub(super) fn mac(key: [u64; 2], message: &[u8]) -> [u64; 2] {
    let sum = u64::from(crc32c(message));
    [key[0] ^ sum.wrapping_mul(0x0100_0000_01b3), key[1].wrapping_add(sum)]
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    head: LeafHead,
    data: Vec<u8>,
}

/// The tree.
#[derive(Clone, Debug)]
pub(super) struct MemTree {
    pub(super) life: Life,
    life_start: Revision,
    newest: Revision,
    parents: Vec<Parent>,
    leaves: Vec<Held>,
    checksums: Vec<u32>,
    changed: BTreeSet<u32>,
    blob: Vec<u8>,
    /// What was noted last.
    pub(super) noted: (Life, Revision),
}

/// The head of a leaf, its checksum computed.
pub(super) fn head(leaf: u32, revision: u64, data: &[u8]) -> LeafHead {
    let mut head = LeafHead {
        checksum: U32::ZERO,
        data_size: U32::new(data.len() as u32),
        data_loc_id: U32::new(leaf),
        reserved: U32::ZERO,
        revision: U64::new(revision),
    };
    head.checksum = U32::new(leaf_checksum(&head, data));
    head
}

fn parent(id: u32, name: &str, first: u32, last: u32) -> Parent {
    Parent {
        parent_id: U32::new(id),
        enclosing_parent_id: U32::new(ParentId::NONE.0),
        first_leaf_loc_id: U32::new(first),
        last_leaf_loc_id: U32::new(last),
        capacity: U32::new(CAPACITY as u32),
        stride: U32::new(384),
        first_record_offset: U64::new(4096),
        name: ParentName::new(name).expect("a name").bytes(),
    }
}

impl MemTree {
    pub(super) fn new() -> MemTree {
        let empty = |leaf| Held { head: head(leaf, 0, &[]), data: Vec::new() };
        let leaves: Vec<Held> = (0..LEAVES).map(empty).collect();
        MemTree {
            life: Life(1),
            life_start: Revision::ZERO,
            newest: Revision::ZERO,
            parents: vec![
                parent(0, "a", 0, LEAVES / 2 - 1),
                parent(1, "b", LEAVES / 2, LEAVES - 1),
            ],
            checksums: leaves.iter().map(|leaf| leaf.head.checksum.get()).collect(),
            leaves,
            changed: BTreeSet::new(),
            blob: layout_blob(),
            noted: (Life(0), Revision::ZERO),
        }
    }

    pub(super) fn begin_life(&mut self, life: Life) {
        self.life_start = self.newest;
        self.life = life;
        self.newest = self.newest.max(life.base());
    }

    pub(super) fn revisions(&self) -> Vec<Revision> {
        self.leaves.iter().map(|leaf| Revision(leaf.head.revision.get())).collect()
    }

    fn store(&mut self, head: LeafHead, data: &[u8]) {
        let place = DataLocId(head.data_loc_id.get());
        self.newest = self.newest.max(Revision(head.revision.get()));
        self.checksums[place.index()] = head.checksum.get();
        self.leaves[place.index()] = Held { head, data: data.to_vec() };
    }
}

impl Leaves for MemTree {
    fn tree_id(&self) -> TreeId {
        TREE_ID
    }

    fn life(&self) -> Life {
        self.life
    }

    fn layout_hash(&self) -> LayoutHash {
        layout_hash()
    }

    fn leaf_count(&self) -> u32 {
        LEAVES
    }

    fn parents(&self) -> &[Parent] {
        &self.parents
    }

    fn parent_at(&self, path: &str) -> Option<ParentId> {
        let name = path.strip_prefix('/')?;
        let index = self.parents.iter().position(|parent| parent.name() == Some(name))?;
        Some(ParentId(index as u32))
    }

    fn checksums(&self) -> &[u32] {
        &self.checksums
    }

    fn revision(&self, leaf: DataLocId) -> Revision {
        let held = self.leaves.get(leaf.index());
        held.map_or(Revision::ZERO, |held| Revision(held.head.revision.get()))
    }

    fn next_changed_since(&self, from: u32, end: u32, since: Revision) -> Option<DataLocId> {
        (from..end.min(LEAVES)).map(DataLocId).find(|leaf| self.revision(*leaf) > since)
    }

    fn newest_revision(&self) -> Revision {
        self.revisions().into_iter().max().unwrap_or_default()
    }

    fn digest(&self) -> Digest {
        self.digest_of_parent(ParentId(0)).plus(self.digest_of_parent(ParentId(1)))
    }

    fn digest_of_parent(&self, parent: ParentId) -> Digest {
        self.parents[parent.index()].leaves().map(DataLocId).fold(Digest(0), |sum, leaf| {
            let checksum = self.checksums[leaf.index()];
            sum.plus(Digest::of_leaf(leaf, self.revision(leaf), checksum))
        })
    }
}

impl ServedLeaves for MemTree {
    fn life_start(&self) -> Revision {
        self.life_start
    }

    fn wire_len(&self, leaf: DataLocId) -> usize {
        leaf_wire_len(self.leaves[leaf.index()].data.len())
    }

    fn is_changed(&self, leaf: DataLocId) -> bool {
        self.changed.contains(&leaf.0)
    }

    fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    fn take_changes(&mut self, into: &mut Vec<DataLocId>) {
        into.extend(std::mem::take(&mut self.changed).into_iter().map(DataLocId));
    }

    fn write(&mut self, leaf: DataLocId, data: &[u8]) -> Result<Revision, WriteRefusal> {
        self.check_write(leaf, data.len())?;
        let revision = self.newest.next();
        self.store(head(leaf.0, revision.0, data), data);
        self.changed.insert(leaf.0);
        Ok(revision)
    }

    fn check_write(&self, leaf: DataLocId, data_size: usize) -> Result<(), WriteRefusal> {
        if leaf.0 >= LEAVES {
            return Err(WriteRefusal::UnknownLeaf { leaf_count: LEAVES });
        }
        if data_size > CAPACITY {
            return Err(WriteRefusal::TooLarge { capacity: CAPACITY as u32 });
        }
        Ok(())
    }

    fn layout_blob(&self) -> &[u8] {
        &self.blob
    }
}

impl ReplicaLeaves for MemTree {
    fn apply(&mut self, leaf: &Leaf<'_>) -> bool {
        if leaf.data_loc_id().0 >= LEAVES || leaf.data.len() > CAPACITY {
            return false;
        }
        self.store(*leaf.head, leaf.data);
        true
    }

    fn follow(&mut self, life: Life, watermark: Revision) {
        self.life = life;
        self.noted = (life, watermark);
    }
}

impl LeafSource for MemTree {
    fn copy_wire(&self, leaf: DataLocId, to: &mut [u8]) -> Option<usize> {
        let held = self.leaves.get(leaf.index())?;
        let to = to.get_mut(..leaf_wire_len(held.data.len()))?;
        to.fill(0);
        let (head, data) = to.split_at_mut(size_of::<LeafHead>());
        head.copy_from_slice(held.head.as_bytes());
        data[..held.data.len()].copy_from_slice(&held.data);
        Some(size_of::<LeafHead>() + data.len())
    }
}
