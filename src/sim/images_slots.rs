//! A model that is known to be wrong: two slots a leaf, written in turns, with no log.
//! The same disk and the same question show that it is, and that the rule mends it.

use zerocopy::FromBytes;
use zerocopy::IntoBytes;

use crate::layout::DataLocId;
use crate::layout::LeafHead;
use crate::layout::Revision;
use crate::sim::images_disk::Disk;
use crate::sim::images_disk::Mood;
use crate::sim::images_disk::SECTOR;
use crate::sim::images_disk::Time;
use crate::sim::images_history::Fault;
use crate::sim::random::Seeded;
use crate::tree::leaf_checksum;
use crate::tree::leaf_head;

const LEAVES: usize = 3;
/// Two sectors a slot, so that a slot can be torn.
const SLOT: usize = 2 * SECTOR;
const DATA: usize = SLOT - size_of::<LeafHead>();

/// Which slot of a leaf a change goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turns {
    /// The one that was not written last.
    Strict,
    /// The one that was not durable at the last write-back.
    #[cfg(test)]
    Sparing,
}

/// A history of slots.
pub(super) struct Slots {
    disk: Disk,
    /// When which revision of a leaf was on the medium for certain.
    acknowledged: Vec<(Time, [u64; LEAVES])>,
    end: Time,
}

impl Slots {
    pub(super) fn run(seed: u64, turns: Turns) -> Slots {
        let mut random = Seeded::new(seed);
        let mut bytes = vec![0; LEAVES * 2 * SLOT];
        let mut slots = Slots { disk: Disk::new(bytes.clone()), acknowledged: Vec::new(), end: 0 };
        let (mut newest, mut durable, mut held) = ([1; LEAVES], [1; LEAVES], [0; LEAVES]);
        for revision in 1..60 {
            slots.end += 1;
            let now = slots.end;
            if random.chance(0.25) {
                slots.disk.synced(now - 1, now, &(0..u64::MAX));
                durable = newest;
                slots.acknowledged.push((now, held));
                continue;
            }
            let leaf = random.index(LEAVES);
            let slot = 1 - if turns == Turns::Strict { newest[leaf] } else { durable[leaf] };
            let place = &mut bytes[(2 * leaf + slot) * SLOT..][..SLOT];
            let data = [revision as u8; DATA];
            let head = leaf_head(DataLocId(leaf as u32), Revision(revision), &data);
            let (of_head, of_data) = place.split_at_mut(size_of::<LeafHead>());
            of_head.copy_from_slice(head.as_bytes());
            of_data.copy_from_slice(&data);
            (newest[leaf], held[leaf]) = (slot, revision);
            slots.disk.look(now, &bytes);
        }
        slots
    }

    /// Draws a crash, and looks for what was acknowledged.
    pub(super) fn crash(&self, random: &mut Seeded) -> Result<(), Fault> {
        let crash = random.between(0, u64::from(self.end)) as Time;
        let mut image = Vec::new();
        self.disk.draw(crash, Mood::draw(random), random, &mut image);
        let past = self.acknowledged.iter().rev().find(|(time, _)| *time <= crash);
        let least = past.map_or([0; LEAVES], |(_, least)| *least);
        for (leaf, least) in least.into_iter().enumerate() {
            let slots = image[2 * leaf * SLOT..][..2 * SLOT].chunks_exact(SLOT);
            let found = slots.filter_map(whole).max().unwrap_or(0);
            if found < least {
                return Err(format!("leaf {leaf}: revision {found} after {least}").into());
            }
        }
        Ok(())
    }
}

/// Revision of a slot that is whole.
fn whole(slot: &[u8]) -> Option<u64> {
    let (head, data) = LeafHead::read_from_prefix(slot).ok()?;
    (leaf_checksum(&head, data) == head.checksum.get()).then(|| head.revision.get())
}
