//! What a run is made of, drawn from its seed.

use core::fmt;
use core::time::Duration;

use crate::sim::random::Seeded;

/// The largest share of datagrams that is lost by chance (the promise is made up
/// to 30 %).
const LOSS_MAX: f64 = 0.3;

/// Mean seconds between two faults of a kind; 0 means never.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Share of datagrams that are lost.
    pub loss: f64,
    /// Share that comes twice.
    pub duplication: f64,
    /// Share that is overtaken by up to `late_ms`.
    pub reordering: f64,
    /// Most that one is late, in milliseconds.
    pub late_ms: u64,
    /// Share whose bits are flipped or whose end is cut.
    pub corruption: f64,
    /// Links cut in both directions.
    pub partitions: u64,
    /// Links cut in one direction.
    pub one_way: u64,
    /// Processes that stop and go on, as by SIGSTOP.
    pub stalls: u64,
    /// EVENTs and TICKs forged with numbers far ahead.
    pub jumps: u64,
    /// Restarts of the origin with the same file.
    pub server_restarts: u64,
    /// Restarts of the origin with an older copy of its file.
    pub older_files: u64,
    /// Restarts of relays.
    pub relay_restarts: u64,
    /// Restarts of replicas: with their file, an older copy of it, or without.
    pub client_restarts: u64,
    /// Restarts of devices.
    pub device_restarts: u64,
    /// Leaves of a copy that fall back to an older value behind the protocol's back.
    pub rot: u64,
    /// Datagrams of strangers.
    pub strangers: u64,
    /// Whether the network tells that nobody listens at an address.
    pub unreachable: bool,
    /// Datagrams of any time before that come again, to whoever they were for.
    pub replays: u64,
    /// EVENTs with a leaf that the origin never wrote, from a time to come.
    pub forged_leaves: u64,
    /// Growths of the origin's tree, by its schema.
    pub growths: u64,
    /// Calls that reserve space or write back, and fail: the process ends, or its
    /// tree stays as it is.
    pub io_errors: u64,
    /// Power losses of servers and copies, without what was not written back: pages
    /// and sectors of it.
    pub power_losses: u64,
    /// Share that a member does not get of what is sent to the group, where that is
    /// more than it loses otherwise. Members are not alike.
    pub group_loss: f64,
    /// Times in which nothing comes to a member by the group, and all else does.
    pub deaf: u64,
    /// Datagrams to the group that are not of its view, or not from its server.
    pub group_strangers: u64,
}

/// Everything about a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The number that all else follows from.
    pub seed: u64,
    /// Simulated time.
    pub time: Duration,
    /// Leaves of the tree.
    pub leaves: u32,
    /// Parents of the tree.
    pub parents: u32,
    /// Bytes of Data that a leaf holds.
    pub capacity: u32,
    /// Replicas.
    pub clients: u32,
    /// Replicas of one parent only, of those.
    pub filtered: u32,
    /// Relays between the origin and replicas.
    pub relays: u32,
    /// Devices.
    pub devices: u32,
    /// Share of replicas and relays that join the origin's multicast group; where it is
    /// 0 the origin has none. A relay serves no group.
    pub members: f64,
    /// The origin's tick, in milliseconds; 0 means that a period ends when what came is
    /// read.
    pub period_ms: u64,
    /// Longest silence of a view, in milliseconds.
    pub heartbeat_ms: u64,
    /// Lease, in milliseconds.
    pub lease_ms: u64,
    /// The period of a replica's REQUESTs: each leaf is compared once in it.
    pub request_period_ms: u64,
    /// Largest datagram in bytes.
    pub datagram_size: usize,
    /// Most RESPONSEs to a REQUEST.
    pub credit_max: u16,
    /// RESPONSEs a second to one client.
    pub request_rate: u32,
    /// What a stopped process's socket holds, in bytes as the kernel counts.
    pub receive_buffer: usize,
    /// Mean milliseconds between two rounds of writes.
    pub write_every_ms: u64,
    /// Most leaves written in one round.
    pub write_leaves: u32,
    /// Seconds of trouble before each quiet time.
    pub trouble_s: u64,
    /// What goes wrong.
    pub faults: Faults,
}

/// Options that are not left to the seed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fixed {
    /// See [`Faults::loss`].
    pub loss: Option<f64>,
    /// See [`Options::clients`].
    pub clients: Option<u32>,
    /// See [`Options::leaves`].
    pub leaves: Option<u32>,
    /// See [`Options::relays`].
    pub relays: Option<u32>,
    /// See [`Options::devices`].
    pub devices: Option<u32>,
    /// See [`Options::members`].
    pub members: Option<f64>,
}

impl Options {
    /// Draws the options of a seed; what is `fixed` takes the place of what was
    /// drawn and changes nothing else.
    pub fn draw(seed: u64, time: Duration, fixed: &Fixed) -> Options {
        let mut random = Seeded::new(seed).fork();
        let mut options = Options::drawn(seed, time, &mut random);
        options.faults = Faults::drawn(&mut random);
        options.draw_more(&mut random);
        options.draw_group(&mut random);
        options.fix(fixed);
        options
    }

    fn drawn(seed: u64, time: Duration, random: &mut Seeded) -> Options {
        let clients = random.between(1, 5) as u32;
        let heartbeat_ms = random.pick(&[100, 250, 500]);
        let mut options = Options {
            seed,
            time,
            leaves: random.pick(&[2, 12, 40, 150, 400, 900]),
            parents: random.between(1, 3) as u32,
            capacity: random.pick(&[16, 64, 200, 1_000]),
            clients,
            filtered: random.between(0, u64::from(clients / 2)) as u32,
            relays: random.between(0, 2) as u32,
            devices: random.between(0, 3) as u32,
            members: 0.0,
            period_ms: random.pick(&[20, 50, 100, 250]),
            heartbeat_ms,
            lease_ms: random.pick(&[2_000, 5_000, 10_000]),
            request_period_ms: random.pick(&[10_000, 20_000, 60_000]),
            datagram_size: random.pick(&[1_200, 1_200, 1_200, 8_000]),
            credit_max: random.pick(&[4, 32, 256]),
            request_rate: random.pick(&[2_000, 1_000_000]),
            receive_buffer: random.pick(&[32_768, 212_992, 425_984]),
            write_every_ms: random.pick(&[5, 20, 100, 1_000]),
            write_leaves: random.pick(&[1, 3, 20, 200]),
            trouble_s: random.between(20, 240),
            faults: Faults::default(),
        };
        // At most 1,000 writes a second in the mean: more bring no other order of
        // things, and time is better spent on other seeds.
        let busiest_ms = u64::from(options.write_leaves) / 2;
        options.write_every_ms = options.write_every_ms.max(busiest_ms);
        options
    }

    /// Draws what seeds did not draw at first: behind all else, so that the rest of
    /// an older seed stays what it was.
    fn draw_more(&mut self, random: &mut Seeded) {
        let mean_s = |random: &mut Seeded, low: u64, high: u64| {
            let drawn = random.between(low, high);
            if random.chance(0.3) { drawn } else { 0 }
        };
        if random.chance(0.15) {
            self.period_ms = 0;
        }
        self.faults.forged_leaves = mean_s(random, 20, 60);
        self.faults.growths = mean_s(random, 20, 120);
        self.faults.io_errors = mean_s(random, 5, 60);
        self.faults.power_losses = mean_s(random, 20, 120);
    }

    /// Draws whether there is a group, and what goes wrong with it: behind all else, too.
    fn draw_group(&mut self, random: &mut Seeded) {
        let is_there = random.chance(0.4);
        let members = random.pick(&[0.4, 0.7, 1.0]);
        self.members = if is_there { members } else { 0.0 };
        let mean_s = |random: &mut Seeded, low: u64, high: u64| {
            let drawn = random.between(low, high);
            if random.chance(0.6) { drawn } else { 0 }
        };
        let drawn = random.between(0, 1_000) as f64 / 1_000.0;
        self.faults.group_loss = if random.chance(0.6) { LOSS_MAX * drawn } else { 0.0 };
        self.faults.deaf = mean_s(random, 5, 60);
        self.faults.group_strangers = mean_s(random, 1, 20);
    }

    /// Whether the origin may have a multicast group.
    pub(super) fn has_group(&self) -> bool {
        self.members > 0.0
    }

    fn fix(&mut self, fixed: &Fixed) {
        self.faults.loss = fixed.loss.unwrap_or(self.faults.loss);
        self.clients = fixed.clients.unwrap_or(self.clients).min(CLIENTS_MAX);
        self.leaves = fixed.leaves.unwrap_or(self.leaves).max(2);
        self.relays = fixed.relays.unwrap_or(self.relays).min(RELAYS_MAX);
        self.devices = fixed.devices.unwrap_or(self.devices).min(DEVICES_MAX);
        self.members = fixed.members.unwrap_or(self.members).clamp(0.0, 1.0);
        if !self.has_group() {
            let Faults { group_loss, deaf, group_strangers, .. } = Faults::default();
            self.faults = Faults { group_loss, deaf, group_strangers, ..self.faults.clone() };
        }
        self.filtered = self.filtered.min(self.clients);
        self.parents = self.parents.min(self.leaves);
    }
}

/// Most replicas: with relays, devices and the origin they fit [`NODES_MAX`].
const CLIENTS_MAX: u32 = 100;
/// Most relays.
const RELAYS_MAX: u32 = 10;
/// Most devices.
const DEVICES_MAX: u32 = 10;
/// Most processes of a run: a port names one of them and which run it is in.
pub(super) const NODES_MAX: u16 = 128;

// The last number is left for strangers and the group.
const _: () = assert!(1 + CLIENTS_MAX + RELAYS_MAX + DEVICES_MAX < NODES_MAX as u32);

impl Faults {
    /// Each kind is there or not: faults hide one another, and some bugs need the
    /// others off.
    fn drawn(random: &mut Seeded) -> Faults {
        let share = |random: &mut Seeded, most: f64| {
            let drawn = random.between(0, 1_000) as f64 / 1_000.0;
            if random.chance(0.6) { most * drawn * drawn } else { 0.0 }
        };
        let mean_s = |random: &mut Seeded, low: u64, high: u64| {
            let drawn = random.between(low, high);
            if random.chance(0.5) { drawn } else { 0 }
        };
        Faults {
            loss: share(random, LOSS_MAX),
            duplication: share(random, 0.2),
            reordering: share(random, 0.3),
            late_ms: random.pick(&[2, 20, 300, 1_500]),
            corruption: share(random, 0.05),
            partitions: mean_s(random, 5, 60),
            one_way: mean_s(random, 5, 60),
            stalls: mean_s(random, 5, 60),
            jumps: mean_s(random, 2, 30),
            server_restarts: mean_s(random, 10, 90),
            older_files: mean_s(random, 20, 120),
            relay_restarts: mean_s(random, 10, 60),
            client_restarts: mean_s(random, 5, 60),
            device_restarts: mean_s(random, 10, 60),
            rot: mean_s(random, 5, 60),
            strangers: mean_s(random, 1, 10),
            unreachable: random.chance(0.5),
            replays: mean_s(random, 1, 20),
            ..Faults::default()
        }
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.entries().into_iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{name}={value}")?;
        }
        Ok(())
    }
}

macro_rules! entries {
    ($of:expr, $($field:ident),*) => { [$((stringify!($field), $of.$field.to_string()),)*] };
}

impl Options {
    /// Name and value of each.
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![("seed", self.seed.to_string())];
        all.extend(entries!(
            self,
            leaves,
            parents,
            capacity,
            clients,
            filtered,
            relays,
            devices,
            members,
            period_ms,
            heartbeat_ms,
            lease_ms,
            request_period_ms,
            datagram_size,
            credit_max,
            request_rate,
            receive_buffer,
            write_every_ms,
            write_leaves,
            trouble_s
        ));
        all.extend(entries!(
            self.faults,
            loss,
            duplication,
            reordering,
            late_ms,
            corruption,
            partitions,
            one_way,
            stalls,
            jumps,
            server_restarts,
            older_files,
            relay_restarts,
            client_restarts,
            device_restarts,
            rot,
            strangers,
            unreachable,
            replays,
            forged_leaves,
            growths,
            io_errors,
            power_losses,
            group_loss,
            deaf,
            group_strangers
        ));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_and_what_is_fixed_changes_nothing_else() {
        let time = Duration::from_secs(1);
        let drawn = Options::draw(7, time, &Fixed::default());
        assert_eq!(drawn, Options::draw(7, time, &Fixed::default()));
        assert_ne!(drawn.to_string(), Options::draw(8, time, &Fixed::default()).to_string());
        let fixed = Fixed { loss: Some(0.25), ..Fixed::default() };
        let mut other = Options::draw(7, time, &fixed);
        assert_eq!(other.faults.loss, 0.25);
        other.faults.loss = drawn.faults.loss;
        assert_eq!(other, drawn);
    }

    #[test]
    fn some_runs_have_a_group_and_its_faults_and_the_others_have_neither() {
        let drawn = |seed| Options::draw(seed, Duration::ZERO, &Fixed::default());
        let (with, without): (Vec<_>, Vec<_>) = (0..200).map(drawn).partition(Options::has_group);
        assert!((50..110).contains(&with.len()), "{} of 200", with.len());
        let is_quiet = |faults: &Faults| {
            faults.group_loss == 0.0 && faults.deaf == 0 && faults.group_strangers == 0
        };
        assert!(without.iter().all(|options| is_quiet(&options.faults)));
        assert!(with.iter().any(|options| !is_quiet(&options.faults)));
        // A group takes nothing from what else a seed draws.
        let fixed = Fixed { members: Some(0.0), ..Fixed::default() };
        let mut bare = Options::draw(with[0].seed, Duration::ZERO, &fixed);
        bare.members = with[0].members;
        let Faults { group_loss, deaf, group_strangers, .. } = with[0].faults;
        bare.faults = Faults { group_loss, deaf, group_strangers, ..bare.faults };
        assert_eq!(bare, with[0]);
    }

    #[test]
    fn every_fault_is_off_in_some_runs_and_on_in_others() {
        let fixed = Fixed { members: Some(1.0), ..Fixed::default() };
        let all: Vec<Faults> =
            (0..200).map(|seed| Options::draw(seed, Duration::ZERO, &fixed).faults).collect();
        let kinds: [fn(&Faults) -> bool; 8] = [
            |faults| faults.loss > 0.0,
            |faults| faults.corruption > 0.0,
            |faults| faults.partitions > 0,
            |faults| faults.older_files > 0,
            |faults| faults.stalls > 0,
            |faults| faults.unreachable,
            |faults| faults.group_loss > 0.0,
            |faults| faults.deaf > 0,
        ];
        for (index, kind) in kinds.into_iter().enumerate() {
            let on = all.iter().filter(|faults| kind(faults)).count();
            assert!((50..170).contains(&on), "fault {index} is on in {on} of 200 runs");
        }
    }
}
