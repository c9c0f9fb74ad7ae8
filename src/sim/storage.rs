//! What storage does to the processes of a world: calls that fail, power that goes,
//! and, in this crate's own tests, deaths in the middle of a store.
//!
//! A process whose call failed ends as the product's loops do: with an error, no
//! goodbye and no clean close; it is started again later. After a power loss a file
//! has, page by page or sector by sector, what was written back last or what was
//! stored since.

use std::fs;
use std::path::PathBuf;

use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use crate::layout::STATE_SLOT_OFFSETS;
use crate::layout::StateSlot;
use crate::layout::limits::PAGE_SIZE;
use crate::sim::node::Doing;
use crate::sim::node::FileFate;
use crate::sim::node::Kind;
use crate::sim::world::World;
use crate::tree::GrowError;
use crate::tree::mishap::Call;
use crate::tree::mishap::injected;
use crate::tree::state_checksum;

/// What a medium writes whole.
const SECTOR: usize = 512;

/// The state lies in the page behind the header.
const STATE_PAGE: core::ops::Range<usize> = PAGE_SIZE..2 * PAGE_SIZE;

/// A call that will fail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failing {
    call: Call,
    behind: u32,
    errno: i32,
}

/// Whether the call failed that was to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Injected {
    Yes,
    No,
}

impl World {
    /// Draws what storage does now.
    pub(super) fn storage_trouble(&mut self) {
        let (io_errors, power_losses) =
            (self.options.faults.io_errors, self.options.faults.power_losses);
        if self.falls(io_errors) {
            self.let_a_call_fail();
        }
        if self.falls(power_losses)
            && let Some(index) = self.one_of(|kind| kind != Kind::Device)
        {
            self.lose_power(index);
        }
        #[cfg(test)]
        self.let_one_die_in_a_store();
    }

    /// The next call of its kind of some process will fail. Calls are made at starts,
    /// ends and growths, so most of the time it is restarted.
    fn let_a_call_fail(&mut self) {
        let Some(index) = self.one_of(|kind| kind != Kind::Device) else { return };
        let call =
            self.random.pick(&[Call::Reserve, Call::WriteBack, Call::WriteBack, Call::Folder]);
        let behind = self.random.between(0, 2) as u32;
        let errno = self.random.pick(&[libc::EIO, libc::ENOSPC]);
        self.nodes[index].failing = Some(Failing { call, behind, errno });
        if self.random.chance(0.7) {
            let is_origin = self.nodes[index].kind == Kind::Origin;
            let is_same = is_origin || self.random.chance(0.6);
            self.stop_for_good(index, if is_same { FileFate::Same } else { FileFate::Gone });
        }
    }

    /// Does what reserves space or writes back, and lets a call of it fail if one of
    /// this process is to.
    pub(super) fn suffer<T>(
        &mut self,
        index: usize,
        make: impl FnOnce(&mut World) -> T,
    ) -> (T, Injected) {
        let Some(failing) = self.nodes[index].failing.take() else {
            return (make(self), Injected::No);
        };
        injected::fail(failing.call, failing.behind, failing.errno);
        let made = make(self);
        if injected::clear() {
            self.nodes[index].failing = Some(failing);
            return (made, Injected::No);
        }
        self.checks.counted.io_errors += 1;
        self.trace.note(self.now, format!("{:?} failed: {}", failing.call, self.names[index]));
        (made, Injected::Yes)
    }

    /// A process ends with an error, which has to have a cause.
    pub(super) fn end_with_error(&mut self, index: usize, error: &str, injected: Injected) {
        if injected == Injected::No {
            let name = &self.names[index];
            self.checks.fail("an error has a cause", || format!("{name}: {error}"));
        }
        // Where the trees lie is another place in each run, and no part of it.
        let folder = self.folder.path().display().to_string();
        let error = error.replace(&folder, "");
        self.trace.note(self.now, format!("{} ends: {error}", self.names[index]));
        self.take_down(index, FileFate::Same);
    }

    // Power.

    fn durable_path(&self, index: usize) -> PathBuf {
        self.nodes[index].path.with_extension("durable")
    }

    /// All of a file was written back.
    pub(super) fn note_durable(&mut self, index: usize) {
        if self.options.faults.power_losses > 0 && self.nodes[index].path.exists() {
            fs::copy(&self.nodes[index].path, self.durable_path(index)).expect("a copy of a file");
        }
    }

    /// The state page of a file was written back.
    pub(super) fn note_durable_state(&mut self, index: usize) {
        let path = self.durable_path(index);
        if self.options.faults.power_losses == 0 || !path.exists() {
            return;
        }
        let now = fs::read(&self.nodes[index].path).expect("a tree file");
        let mut durable = fs::read(&path).expect("a copy of a file");
        if now.len() == durable.len() {
            durable[STATE_PAGE].copy_from_slice(&now[STATE_PAGE]);
            fs::write(path, durable).expect("a copy of a file");
        }
    }

    /// The machine of a process goes down with what was not written back.
    fn lose_power(&mut self, index: usize) {
        if !self.nodes[index].runs() || self.nodes[index].leaves.is_none() {
            return;
        }
        let durable = self.durable_path(index);
        let Ok(before) = fs::read(&durable) else { return };
        let now = fs::read(&self.nodes[index].path).expect("a tree file");
        self.trace.note(self.now, format!("power loss of {}", self.names[index]));
        self.checks.counted.power_losses += 1;
        self.take_down(index, FileFate::Same);
        let image = self.image_of(&before, now);
        fs::write(&self.nodes[index].path, &image).expect("an image of a file");
        fs::write(durable, image).expect("an image of a file");
        self.nodes[index].following.kept = None;
        if index == 0 {
            self.has_lost_power = true;
            self.nodes[0].doing = Doing::Down {
                until: self.now.after(self.random.millis(2_200, 6_000)),
                file: FileFate::Same,
            };
            self.nodes[0].plan();
            // What the server lost it cannot tell from what it never had.
            self.excuse(0);
        }
    }

    /// Pages and sectors of what was durable and of what was stored since.
    fn image_of(&mut self, before: &[u8], mut now: Vec<u8>) -> Vec<u8> {
        if before.len() == now.len() {
            for (new, old) in now.chunks_mut(PAGE_SIZE).zip(before.chunks(PAGE_SIZE)) {
                match self.random.index(5) {
                    0 | 1 => {}
                    2 | 3 => new.copy_from_slice(old),
                    _ => self.tear(new, old),
                }
            }
        }
        set_boot_id(&mut now[STATE_PAGE]);
        now
    }

    fn tear(&mut self, new: &mut [u8], old: &[u8]) {
        for (new, old) in new.chunks_mut(SECTOR).zip(old.chunks(SECTOR)) {
            if self.random.chance(0.5) {
                new.copy_from_slice(old);
            }
        }
    }
}

/// Whether a tree lies in another file now, all of which was written back: if the name was
/// not, the file is there all the same.
pub(super) fn has_another_file<T>(grown: &Result<T, GrowError>) -> bool {
    matches!(grown, Ok(_) | Err(GrowError::Name(_)))
}

/// The state as another boot of the machine left it.
fn set_boot_id(page: &mut [u8]) {
    for offset in STATE_SLOT_OFFSETS {
        let slot = StateSlot::mut_from_prefix(&mut page[offset..]);
        let (slot, _) = slot.expect("a page holds its slots");
        let mut zeroed = *slot;
        zeroed.state_checksum = U32::ZERO;
        if slot.state_checksum.get() != state_checksum(&zeroed)
            || slot.as_bytes().iter().all(|byte| *byte == 0)
        {
            continue;
        }
        slot.boot_id[0] ^= 0xff;
        zeroed.boot_id = slot.boot_id;
        slot.state_checksum = U32::new(state_checksum(&zeroed));
    }
}

#[cfg(test)]
impl World {
    /// Some process dies after a store that is drawn: of those that follow none
    /// reaches its file.
    fn let_one_die_in_a_store(&mut self) {
        use crate::sim::planted::Planted;
        if self.planted != Planted::DiesInAStore || !self.falls(2) {
            return;
        }
        let Some(index) = self.one_of(|kind| kind != Kind::Device) else { return };
        let stores = self.random.between(0, 300);
        if let Some(leaves) = &self.nodes[index].leaves {
            leaves.tree().die_after(stores);
        }
    }

    /// Ends a process that died in a store, before anything that it would do next.
    pub(super) fn bury(&mut self, index: usize) -> bool {
        let is_dead =
            self.nodes[index].leaves.as_ref().is_some_and(|leaves| leaves.tree().is_dead());
        if is_dead {
            self.checks.counted.deaths += 1;
            self.trace.note(self.now, format!("{} died in a store", self.names[index]));
            self.take_down(index, FileFate::Same);
        }
        is_dead
    }
}

#[cfg(not(test))]
impl World {
    /// Only this crate's own tests let a process die in a store.
    pub(super) fn bury(&mut self, _: usize) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::sim::options::Faults;
    use crate::sim::options::Fixed;
    use crate::sim::options::Options;
    use crate::sim::planted::Planted;

    /// The origin and a copy of it, some seconds on. Nothing is written, and the medium is
    /// kept account of.
    fn world() -> World {
        let (one, none) = (Some(1), Some(0));
        let (leaves, members) = (Some(12), Some(0.0));
        let fixed =
            Fixed { clients: one, relays: none, devices: none, leaves, members, loss: None };
        let mut options = Options::draw(1, Duration::from_secs(60), &fixed);
        (options.filtered, options.period_ms, options.heartbeat_ms) = (0, 100, 250);
        options.faults = Faults { power_losses: u64::MAX, ..Faults::default() };
        let mut world = World::new(options, Planted::Nothing).unwrap();
        run(&mut world, 5_000);
        assert!(world.is_even(1), "the copy follows");
        world
    }

    fn run(world: &mut World, ms: u64) {
        let end = world.now.after(Duration::from_millis(ms));
        world.run_until(end, Duration::from_millis(1), |world| world.checks.counted.io_errors > 0);
        assert_eq!(world.checks.broken, None);
    }

    /// The next write-back of a folder fails: what was renamed may have its old name.
    fn let_the_name_fail(world: &mut World, index: usize) {
        let failing = Failing { call: Call::Folder, behind: 0, errno: libc::EIO };
        world.nodes[index].failing = Some(failing);
    }

    /// A process ended because its tree grew and its name was not written back: the file
    /// that is there now is the one on the medium.
    fn ended_with_the_grown_file_on_the_medium(world: &World, index: usize, before: &[u8]) {
        assert_eq!((world.checks.counted.io_errors, world.nodes[index].runs()), (1, false));
        let now = fs::read(&world.nodes[index].path).unwrap();
        assert!(now[..PAGE_SIZE] != before[..PAGE_SIZE], "it has grown");
        let durable = fs::read(world.durable_path(index)).unwrap();
        assert_eq!(durable.len(), now.len());
        assert!(durable[..PAGE_SIZE] == now[..PAGE_SIZE], "two files would be mixed");
    }

    #[test]
    fn a_grown_file_whose_name_was_not_written_back_is_on_the_medium() {
        // While it is served, at its opening, and at a copy.
        let mut world = self::world();
        let before = fs::read(&world.nodes[0].path).unwrap();
        let_the_name_fail(&mut world, 0);
        world.extend_schema();
        ended_with_the_grown_file_on_the_medium(&world, 0, &before);

        let mut world = self::world();
        world.take_down(0, FileFate::Same);
        let options = world.options.clone();
        assert!(world.layouts.extend(&options, 3));
        let_the_name_fail(&mut world, 0);
        run(&mut world, 10_000);
        ended_with_the_grown_file_on_the_medium(&world, 0, &before);

        let mut world = self::world();
        let before = fs::read(&world.nodes[1].path).unwrap();
        let_the_name_fail(&mut world, 1);
        world.extend_schema();
        run(&mut world, 10_000);
        ended_with_the_grown_file_on_the_medium(&world, 1, &before);
    }
}
