//! kill -9 of servers and mirrors: in mid-write, in mid-copy, while the tree grows.
//!
//! A world is a server that a mirror follows and devices report to. After each kill
//! the file is whole, the lock is free at once, and every acknowledged report is there;
//! at the end the replica is equal.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Layout;
use mapleaf::tree::Tree;

use crate::count;
use crate::figure;
use crate::pause;
use crate::seed;
use crate::support::oracle::Devices;
use crate::support::process::Program;
use crate::support::process::Serving;
use crate::support::process::Signal;
use crate::support::process::mapleaf;
use crate::support::process::mapleaf_tree;
use crate::support::process::mirror;
use crate::support::process::run;
use crate::support::proxy::SplitMix;
use crate::support::trees::Site;
use crate::support::trees::equal;
use crate::support::trees::wait_equal;

/// Kills in one world: a tree that grew by a few dozen leaves, and a log of reports
/// that is still short.
const KILLS_A_WORLD: u32 = 25;

/// Worlds at a time, unless more are asked for: a kill is mostly waiting for programs to begin.
const WORLDS_AT_ONCE: u32 = 2;

/// Leaves that nobody reports: they make a copy, and growth, take a while.
const STILL: u32 = 2_000;

/// Leaves that are reported, and how many have a device of their own.
const REPORTED: Range<u32> = STILL..STILL + 24;
const SINGLES: u32 = 4;

/// What is going on when the kill comes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The server writes what devices report.
    Write,
    /// The server's tree grows, and reports go on.
    Growth,
    /// The mirror follows.
    Follow,
    /// The mirror makes its copy.
    Copy,
    /// The mirror's copy grows.
    CopyGrowth,
}

const MOMENTS: [Moment; 6] = [
    Moment::Write,
    Moment::Write,
    Moment::Growth,
    Moment::Follow,
    Moment::Copy,
    Moment::CopyGrowth,
];

fn schema(reported: u32) -> String {
    let parent = |name: &str, leaves| {
        format!("[[parent]]\nname = \"{name}\"\nleaves = {leaves}\ncapacity = 200\n")
    };
    parent("still", STILL) + &parent("reported", reported)
}

fn create(path: &Path, schema: &Path) {
    let layout = Layout::from_toml(&std::fs::read_to_string(schema).unwrap()).unwrap();
    let (role, tree_id) = (TreeRole::Server, TreeId(0x6b69_6c6c));
    let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
    let mut tree = Tree::create(path, layout, options).unwrap();
    tree.begin_life(1).unwrap();
    for leaf in 0..STILL {
        tree.write(DataLocId(leaf), &[leaf as u8; 180]).unwrap();
    }
    tree.close().unwrap();
}

/// What the kills of a world, or of all of them, came to.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    kills: u32,
    of_servers: u32,
    /// Kills that left a record half written.
    torn: u32,
    acknowledged: usize,
    refused: u32,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.kills += other.kills;
        self.of_servers += other.of_servers;
        self.torn += other.torn;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
    }
}

struct World {
    site: Site,
    random: SplitMix,
    address: SocketAddr,
    /// Nothing only for the moment of a kill.
    server: Option<Program>,
    mirror: Option<Program>,
    devices: Devices,
    reported: u32,
    sums: Sums,
}

impl World {
    fn new(seed: u64) -> World {
        let site = Site::new();
        let reported = REPORTED.end - REPORTED.start;
        create(&site.path("tree"), &site.write("schema.toml", &schema(reported)));
        let mut random = SplitMix(!seed);
        let server = serve("127.0.0.1:0".parse().unwrap(), &site, &mut random);
        let address = server.address;
        World {
            mirror: Some(mirror(address, &site.path("copy"), &[])),
            devices: Devices::connect(address, REPORTED, SINGLES, seed),
            random,
            server: Some(server.program),
            address,
            site,
            reported,
            sums: Sums::default(),
        }
    }

    fn tree(&self) -> PathBuf {
        self.site.path("tree")
    }

    fn copy(&self) -> PathBuf {
        self.site.path("copy")
    }

    fn pause(&mut self, most_ms: u64) -> Duration {
        pause(&mut self.random, Duration::from_millis(most_ms))
    }

    fn kill_once(&mut self) {
        let moment = MOMENTS[self.random.below(MOMENTS.len() as u32) as usize];
        match moment {
            Moment::Write => {
                let time = self.pause(30);
                self.devices.report_for(time);
                self.kill_server();
            }
            Moment::Growth => {
                self.grow();
                let time = self.pause(40);
                self.devices.report_for(time);
                self.kill_server();
            }
            Moment::Follow => {
                let time = self.pause(30);
                self.devices.report_for(time);
                self.kill_mirror();
            }
            Moment::Copy => {
                killed(self.mirror.take().unwrap());
                // It may have been killed before it made one.
                let _ = std::fs::remove_file(self.copy());
                self.mirror = Some(mirror(self.address, &self.copy(), &[]));
                let time = self.pause(60);
                thread::sleep(time);
                self.kill_mirror();
            }
            Moment::CopyGrowth => {
                self.grow();
                let time = self.pause(60);
                thread::sleep(time);
                self.kill_mirror();
            }
        }
        self.sums.kills += 1;
    }

    /// Tells the server that its tree has one leaf more.
    fn grow(&mut self) {
        self.reported += 1;
        self.site.write("schema.toml", &schema(self.reported));
        self.server.as_ref().unwrap().signal(Signal::Hup);
    }

    fn kill_server(&mut self) {
        killed(self.server.take().unwrap());
        // Acknowledgements that left before the end count as well.
        self.devices.poll(Duration::from_millis(1));
        self.examine(&self.tree());
        self.devices.assert_kept(&self.tree());
        let server = serve(self.address, &self.site, &mut self.random);
        assert_eq!(server.address, self.address);
        self.server = Some(server.program);
        self.devices.assert_kept(&self.tree());
        self.sums.of_servers += 1;
        if self.random.below(4) == 0 {
            self.devices.flush();
            self.devices.assert_kept(&self.tree());
        }
        self.refuse_second();
    }

    fn kill_mirror(&mut self) {
        killed(self.mirror.take().unwrap());
        if self.copy().exists() {
            self.examine(&self.copy());
        }
        self.mirror = Some(mirror(self.address, &self.copy(), &[]));
    }

    /// The file is whole.
    fn examine(&mut self, file: &Path) {
        let verified = run(mapleaf_tree([Path::new("verify"), file]));
        assert_eq!(verified.code(), 0, "{}\n{verified}", verified.stdout.join("\n"));
        let torn = verified.stderr.iter().any(|line| line.contains("half written"));
        self.sums.torn += u32::from(torn);
    }

    /// A second server of the same tree is refused at once.
    fn refuse_second(&mut self) {
        refuse_second(&self.tree());
        self.sums.refused += 1;
    }

    fn end(mut self) -> Sums {
        self.devices.flush();
        let (tree, copy) = (self.tree(), self.copy());
        let mirror = self.mirror.take().unwrap();
        // The copy may be equal before the mirror has begun: it would not know yet
        // what to do with a signal.
        mirror.wait_stderr("joined, life");
        wait_equal(&tree, &copy);
        mirror.terminate().well();
        self.server.take().unwrap().terminate().well();
        self.devices.assert_kept(&tree);
        for file in [&tree, &copy] {
            self.examine(file);
        }
        assert!(equal(&tree, &copy));
        self.sums.acknowledged = self.devices.acknowledged();
        self.sums
    }
}

/// The server of a site's tree: no lock keeps it out. Now it acknowledges what is in
/// the tree, now what is on the medium, whatever the one before did.
fn serve(address: SocketAddr, site: &Site, random: &mut SplitMix) -> Serving {
    let (tree, schema) = (site.path("tree"), site.path("schema.toml"));
    let options = ["--period", "5ms", "--lease", "400ms", "--schema", schema.to_str().unwrap()];
    let survives = ["process", "power"][random.below(2) as usize];
    Serving::server_at(address, &tree, &[&options[..], &["--durability", survives]].concat())
}

/// Kills a program that had not ended by itself: no lock had kept it out.
fn killed(program: Program) {
    let ended = program.kill();
    assert_eq!(ended.status.code(), None, "{ended}");
}

fn refuse_second(tree: &Path) {
    let mut command = mapleaf(["serve"]);
    command.arg(tree).args(["--listen", "127.0.0.1:0", "--log", "warn"]);
    let ended = run(command);
    assert_eq!(ended.code(), 2, "{ended}");
    assert!(ended.stderr.join("\n").contains("open already"), "{ended}");
}

/// Does what its share of the kills is, every so many worlds one.
fn worlds(seed: u64, first: u32, at_once: u32, kills: u32) -> Sums {
    let mut sums = Sums::default();
    let starts = (first..).step_by(at_once as usize);
    for number in starts.take_while(|number| number * KILLS_A_WORLD < kills) {
        let own = seed.wrapping_add(u64::from(number) << 32);
        let mut world = World::new(own);
        let left = kills - number * KILLS_A_WORLD;
        (0..left.min(KILLS_A_WORLD)).for_each(|_| world.kill_once());
        sums.add(world.end());
    }
    sums
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let (kills, seed) = (count("MAPLEAF_KILLS", 50), seed());
    let at_once = count("MAPLEAF_WORLDS", WORLDS_AT_ONCE);
    let mut sums = Sums::default();
    thread::scope(|scope| {
        let shares =
            (0..at_once).map(|first| scope.spawn(move || worlds(seed, first, at_once, kills)));
        let shares: Vec<_> = shares.collect();
        shares.into_iter().for_each(|share| sums.add(share.join().unwrap()));
    });
    assert_eq!(sums.kills, kills);
    let Sums { of_servers, torn, acknowledged, refused, .. } = sums;
    figure(
        "kills",
        seed,
        format_args!(
            "{kills} kills ({of_servers} of servers), {torn} in the middle of a record, \
             0 leaves torn, 0 of {acknowledged} acknowledged reports lost, \
             {refused} of {refused} second servers refused"
        ),
    );
}

#[test]
fn a_second_server_is_refused() {
    let (attempts, seed) = (count("MAPLEAF_SECONDS", 200), seed());
    let site = Site::new();
    let tree = site.create_plain("tree", [1, 20, 60]);
    let mut server = Serving::server(&tree, &[]);
    for attempt in 1..=attempts {
        refuse_second(&tree);
        // Now and then the lock is to be had: by kill -9, and at once.
        if attempt % 20 == 0 {
            server.program.kill();
            server = Serving::server(&tree, &[]);
        }
    }
    server.program.terminate().well();
    figure("seconds", seed, format_args!("{attempts} of {attempts} second servers refused"));
}
