//! Full disks: a small file system of our own, in a namespace of our own.
//!
//! Where that is not permitted these tests say so and do nothing.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::support::load::Stream;
use crate::support::load::leaf_line;
use crate::support::process::Ended;
use crate::support::process::Serving;
use crate::support::process::Signal;
use crate::support::process::mapleaf;
use crate::support::process::mapleaf_tree;
use crate::support::process::mirror;
use crate::support::process::run;
use crate::support::trees::Site;
use crate::support::trees::assert_whole;
use crate::support::trees::dump;
use crate::support::trees::stat_number;
use crate::support::trees::wait_equal;

/// Folder for the file system, in the process that has the namespace.
const INSIDE: &str = "MAPLEAF_TEST_DISK";

const DISK_LEN: u64 = 2 << 20;

const PAGE: u64 = 4_096;

/// Runs a test of this file where a disk of [`DISK_LEN`] bytes is mounted.
fn on_a_small_disk(test: &str) {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size={DISK_LEN} none \"${INSIDE}\" || exit 99; exec \"$0\" \"$@\""
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "/bin/sh", "-c", &script])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &format!("full::{test}"), "--nocapture", "--test-threads=1"])
        .env(INSIDE, folder.path())
        .output();
    let Ok(output) = output else { return println!("skipped: there is no unshare") };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    if matches!(output.status.code(), Some(1 | 99)) && !text.contains("running 1 test") {
        return println!("skipped: mounting is not permitted: {text}");
    }
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let figures = text.lines().filter_map(|line| line.find("figure: ").map(|at| &line[at..]));
    figures.for_each(|figure| println!("{figure}"));
}

/// The disk, in the process that has it.
fn disk() -> Option<Disk> {
    env::var_os(INSIDE).map(|folder| Disk(folder.into()))
}

struct Disk(PathBuf);

impl Disk {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Leaves so many bytes free.
    fn leave(&self, free: u64) {
        // Gone first: a file system that is full takes no file that is longer.
        let _ = fs::remove_file(self.path("ballast"));
        let ballast = File::create(self.path("ballast")).unwrap();
        let piece = vec![1; PAGE as usize];
        let used = self.used();
        for page in 0..(DISK_LEN - used - free) / PAGE {
            ballast.write_all_at(&piece, page * PAGE).unwrap();
        }
    }

    /// Bytes of what is there, but for the ballast.
    fn used(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let names = self.names();
        let blocks = names.iter().map(|name| self.path(name).metadata().unwrap().blocks());
        blocks.sum::<u64>() * 512
    }

    /// What is there, but for the ballast.
    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "ballast").collect()
    }

    #[track_caller]
    fn assert_holds(&self, names: &[&str]) {
        assert_eq!(self.names(), names.iter().map(|name| (*name).to_owned()).collect());
    }
}

/// It ended with 2 and one line that holds these words.
#[track_caller]
fn told(ended: &Ended, words: &[&str]) {
    assert_eq!(ended.code(), 2, "{ended}");
    let lines: Vec<_> = ended.stderr.iter().filter(|line| line.starts_with("mapleaf: ")).collect();
    assert_eq!(lines.len(), 1, "{ended}");
    words.iter().for_each(|word| assert!(lines[0].contains(word), "{word:?}: {ended}"));
}

/// What a full disk says, with the bytes that were wanted.
fn no_space(file: &Path, needed: u64) -> [String; 3] {
    let wanted = format!("cannot reserve {needed} bytes");
    [file.display().to_string(), wanted, "No space left".to_owned()]
}

fn told_no_space(ended: &Ended, file: &Path, needed: u64) {
    let words = no_space(file, needed);
    told(ended, &[&words[0], &words[1], &words[2]]);
}

fn create(file: &Path, leaves: u32) -> Ended {
    let mut command = mapleaf(["create"]);
    command.arg(file).args(["--leaves", &leaves.to_string(), "--capacity", "200"]);
    run(command)
}

/// Leaves of the trees that are made, some 260 KiB.
const LEAVES: u32 = 1_000;

#[test]
fn create_inside() {
    let Some(disk) = disk() else { return };
    let (site, tree) = (Site::new(), disk.path("tree"));
    let other = site.create_plain("other", [1, LEAVES, 200]);
    let len = other.metadata().unwrap().len();
    let text = site.path("dump");
    let dumped = run(mapleaf_tree([Path::new("dump"), &other])).well();
    fs::write(&text, dumped.stdout.join("\n") + "\n").unwrap();
    let (mut made, mut refused) = (0, 0);
    // Every page that may be the one that is missing, and some to spare.
    for free in (0..len + 4 * PAGE).step_by(PAGE as usize) {
        disk.leave(free);
        let created = create(&tree, LEAVES);
        if created.status.success() {
            assert!(free >= len, "{free} of {len} bytes: {created}");
            assert_whole(&tree);
            fs::remove_file(&tree).unwrap();
            made += 1;
        } else {
            told_no_space(&created, &tree, len);
            refused += 1;
        }
        disk.assert_holds(&[]);
    }
    assert!(made > 0 && refused >= len / PAGE - 1, "{made} made, {refused} refused");
    disk.leave(len / 2);
    let mut restore = mapleaf(["create"]);
    restore.arg(&tree).arg("--from-dump").arg(&text);
    told(&run(restore), &["cannot reserve", "No space left"]);
    disk.assert_holds(&[]);
    println!("figure: full disk, create: {refused} of {refused} told, nothing left behind");
}

#[test]
fn mirror_inside() {
    let Some(disk) = disk() else { return };
    let site = Site::new();
    let tree = site.create_plain("tree", [1, LEAVES, 200]);
    let len = tree.metadata().unwrap().len();
    let server = Serving::server(&tree, &[]);
    let copy = disk.path("copy");
    let mut refused = 0;
    for free in (0..len).step_by(4 * PAGE as usize) {
        disk.leave(free);
        told_no_space(&mirror(server.address, &copy, &["--timeout", "60s"]).ended(), &copy, len);
        disk.assert_holds(&[]);
        refused += 1;
    }
    disk.leave(len + PAGE);
    let synced = mirror(server.address, &copy, &["--until-synced", "--timeout", "60s"]);
    synced.ended().well();
    wait_equal(&tree, &copy);
    server.program.terminate().well();
    println!("figure: full disk, first copy: {refused} of {refused} told, nothing left behind");
}

fn schema(leaves: u32) -> String {
    format!("[[parent]]\nname = \"hall\"\nleaves = {leaves}\ncapacity = 200\n")
}

/// A server whose tree is to grow: it has no room, says so, and serves on.
#[test]
fn growth_inside() {
    let Some(disk) = disk() else { return };
    let site = Site::new();
    let text = site.write("schema", &schema(LEAVES));
    let made = site.create("tree", &text);
    let tree = disk.path("tree");
    fs::copy(&made, &tree).unwrap();
    site.write("schema", &schema(2 * LEAVES));
    let larger = site.create("larger", &text).metadata().unwrap().len();
    site.write("schema", &schema(LEAVES));
    let options = ["--schema", text.to_str().unwrap(), "--period", "5ms"];
    let server = Serving::server(&tree, &options);
    let (mut refused, mut lines) = (0, 0);
    for free in (0..larger).step_by(8 * PAGE as usize) {
        disk.leave(free);
        let stream = Stream::start(server.address, 10, |n| leaf_line(n % 50, "aa"));
        site.write("schema", &schema(2 * LEAVES + refused));
        server.program.signal(Signal::Hup);
        stream.pass(20);
        lines = lines.max(stream.end());
        disk.assert_holds(&["tree"]);
        refused += 1;
    }
    server.program.wait_stderr(&format!("growth: cannot reserve {larger} bytes: No space left"));
    let ended = server.program.terminate().well();
    let warned =
        ended.stderr.iter().filter(|line| line.contains("the tree stays as it is")).count();
    assert!(warned > 0 && warned <= refused as usize, "{ended}");
    assert_eq!(stat_number(&tree, "leaves"), u64::from(LEAVES));
    assert_whole(&tree);
    // The lines of the longest stream went to as many leaves, fifty at the most.
    assert_eq!(dump(&tree).len() as u64, lines.min(50));
    // Room: the next start grows it.
    disk.leave(DISK_LEN - disk.used());
    Serving::server(&tree, &options).program.terminate().well();
    assert!(stat_number(&tree, "leaves") >= u64::from(2 * LEAVES));
    println!("figure: full disk, growth: {refused} of {refused} refused, the old tree served on");
}

/// A mirror whose copy is to grow has no room: it ends, and the old copy is whole.
#[test]
fn copy_growth_inside() {
    let Some(disk) = disk() else { return };
    let site = Site::new();
    let text = site.write("schema", &schema(LEAVES));
    let tree = site.create("tree", &text);
    let server = Serving::server(&tree, &["--schema", text.to_str().unwrap(), "--period", "5ms"]);
    let copy = disk.path("copy");
    let follower = mirror(server.address, &copy, &[]);
    wait_equal(&tree, &copy);
    disk.leave(2 * PAGE);
    site.write("schema", &schema(2 * LEAVES));
    server.program.signal(Signal::Hup);
    let ended = follower.ended();
    told_no_space(&ended, &copy, tree.metadata().unwrap().len());
    disk.assert_holds(&["copy"]);
    assert_whole(&copy);
    assert_eq!(stat_number(&copy, "leaves"), u64::from(LEAVES));
    server.program.terminate().well();
}

/// A file that was copied with holes finds no room for them when it is opened.
#[test]
fn holes_inside() {
    let Some(disk) = disk() else { return };
    let (site, tree) = (Site::new(), disk.path("tree"));
    let whole = site.create_plain("whole", [1, LEAVES, 4_000]);
    let bytes = fs::read(&whole).unwrap();
    let len = bytes.len() as u64;
    let sparse = OpenOptions::new().write(true).create_new(true).open(&tree).unwrap();
    sparse.set_len(len).unwrap();
    for (page, bytes) in bytes.chunks(PAGE as usize).enumerate() {
        if bytes.iter().any(|byte| *byte != 0) && page < 8 {
            sparse.write_all_at(bytes, page as u64 * PAGE).unwrap();
        }
    }
    let mut command = mapleaf(["serve"]);
    command.arg(&tree).args(["--listen", "127.0.0.1:0", "--reset-damaged", "--log", "warn"]);
    told_no_space(&run(command), &tree, len);
    assert_eq!(tree.metadata().unwrap().len(), len);
    disk.assert_holds(&["tree"]);
}

#[test]
fn a_tree_that_does_not_fit_is_not_created() {
    on_a_small_disk("create_inside");
}

#[test]
fn a_first_copy_that_does_not_fit_is_told() {
    on_a_small_disk("mirror_inside");
}

#[test]
fn a_server_serves_on_when_its_tree_finds_no_room_to_grow() {
    on_a_small_disk("growth_inside");
}

#[test]
fn a_mirror_whose_copy_finds_no_room_to_grow_ends_with_a_word() {
    on_a_small_disk("copy_growth_inside");
}

#[test]
fn holes_that_find_no_room_are_told() {
    on_a_small_disk("holes_inside");
}

/// A tree in memory has no disk; the limit of file sizes bounds it.
#[test]
fn a_watcher_without_memory_says_so() {
    let site = Site::new();
    let tree = site.create_plain("tree", [1, LEAVES, 200]);
    let len = tree.metadata().unwrap().len();
    let server = Serving::server(&tree, &[]);
    let mut command = Command::new("/bin/sh");
    let script = "ulimit -f 64; exec \"$0\" watch \"$1\" --timeout 60s";
    command.args(["-c", script, env!("CARGO_BIN_EXE_mapleaf"), &server.address.to_string()]);
    let wanted = format!("cannot reserve {len} bytes");
    told(&run(command), &["mapleaf: in memory: ", &wanted, "File too large"]);
    server.program.terminate().well();
}
