//! What cannot be done is said in one line: what was wanted, and what was found.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use mapleaf::wire::ByeReason;
use mapleaf::wire::Datagram;
use mapleaf::wire::DatagramType;
use mapleaf::wire::Header;
use mapleaf::wire::decode;
use mapleaf::wire::encode;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;

use crate::support::process::Program;
use crate::support::process::Serving;
use crate::support::process::mapleaf;
use crate::support::process::mirror;
use crate::support::process::run;
use crate::support::trees::Site;
use crate::support::trees::dump;
use crate::support::trees::stat;

/// Usage, or trouble.
const TROUBLE: i32 = 2;

/// The command ends with this status, and says one line with all of these texts.
#[track_caller]
fn refused(command: Command, texts: &[&str]) {
    let mut program = Program::start(command);
    program.close_stdin();
    assert_refused(program, texts);
}

#[track_caller]
fn assert_refused(program: Program, texts: &[&str]) {
    let ended = program.ended();
    assert_eq!(ended.code(), TROUBLE, "{ended}");
    assert_eq!(ended.stdout, Vec::<String>::new(), "{ended}");
    let [line] = ended.stderr.as_slice() else { panic!("wanted one line: {ended}") };
    assert!(line.starts_with("mapleaf: "), "{line}");
    for text in texts {
        assert!(line.contains(text), "wanted {text:?} in: {line}");
    }
}

fn on(args: &[&str], file: &Path, options: &[&str]) -> Command {
    let mut command = mapleaf(args.iter().copied());
    command.arg(file).args(options);
    command
}

const SCHEMA: &str = "\
[[parent]]\nname = \"rack\"\nleaves = 4\nleaf_name = \"port{n}\"\n\
[[parent.field]]\nname = \"temp\"\ntype = \"f32\"\n";

#[test]
fn reports_that_do_not_fit_the_tree_are_named() {
    let site = Site::new();
    let tree = site.create("tree", &site.write("schema.toml", SCHEMA));
    let server = Serving::server(&tree, &["--period", "10ms"]);
    let address = server.address.to_string();
    let report = |args: &[&str]| mapleaf([&["report", &address], args].concat());
    refused(report(&["--leaf", "4", "--data", "x"]), &["leaf 4", "the tree has 4"]);
    refused(report(&["--path", "/rack/port9", "--data", "x"]), &["/rack/port9"]);
    let large = ["--data", "12345"];
    refused(report(&[&["--leaf", "1"], &large[..]].concat()), &["leaf 1", "at most 4 bytes"]);
    refused(
        report(&[&["--path", "/rack/port1"], &large[..]].concat()),
        &["leaf 1", "at most 4 bytes", "found 5"],
    );
    refused(report(&["--leaf", "1", "--hex", "0x"]), &["--hex"]);
    // The lines that are understood go on.
    let mut lines = Program::start(report(&["--json-lines"]));
    lines.write_line("{\"leaf\":0,\"fields\":{\"temp\":1.5}}");
    lines.write_line("{\"leaf\":0,\"fields\":{\"heat\":1.5}}");
    lines.write_line("{\"leaf\":2,\"fields\":{\"temp\":2.5}}");
    lines.close_stdin();
    assert_refused(lines, &["line 2", "heat"]);
    server.program.terminate().well();
    let written: Vec<String> = dump(&tree).into_keys().collect();
    assert_eq!(written, ["/rack/port0", "/rack/port2"]);
}

#[test]
fn a_file_that_is_not_the_one_is_named() {
    let site = Site::new();
    let tree = site.create_plain("tree", [1, 4, 8]);
    let other = site.create_plain("other", [1, 4, 8]);
    let server = Serving::server(&tree, &[]);
    let address = server.address.to_string();
    refused(on(&["create"], &tree, &["--leaves", "1", "--capacity", "8"]), &["exists already"]);
    // The log of a server begins before it fails.
    let quiet = ["--log", "error", "--listen", "127.0.0.1:0"];
    refused(on(&["serve"], &tree, &quiet), &["tree: ", "open already"]);
    refused(on(&["serve"], &site.path("none"), &quiet), &["none: ", "No such file"]);
    let text = site.write("text", "no tree");
    refused(on(&["serve"], &text, &quiet), &["text: not a tree file"]);
    let mirror_to = |file: &Path| on(&["mirror", &address], file, &["--timeout", "60s"]);
    refused(mirror_to(&other), &["other: ", "of a server", "that of a replica"]);
    let second = Serving::server(&other, &[]);
    let copy = site.path("copy");
    let until = ["--until-synced", "--timeout", "100s"];
    mirror(second.address, &copy, &until).ended().well();
    let id = |tree: &Path| stat(tree)["tree_id"].as_str().unwrap().to_owned();
    let (found, wanted) = (id(&other), id(&tree));
    refused(mirror_to(&copy), &["copy: ", &address, &found, &wanted]);
    refused(on(&["serve"], &copy, &quiet), &["copy: ", "of a replica", "that of a server"]);
    let holder = mirror(second.address, &copy, &[]);
    holder.wait_stderr("in sync at");
    refused(mirror_to(&copy), &["copy: ", "open already"]);
    holder.terminate().well();
}

#[test]
fn an_address_that_does_not_do_is_named() {
    let site = Site::new();
    let tree = site.create_plain("tree", [1, 4, 8]);
    let other = site.create_plain("other", [1, 4, 8]);
    let server = Serving::server(&tree, &[]);
    let address = server.address.to_string();
    let listen = |address| ["--log", "error", "--listen", address];
    refused(on(&["serve"], &other, &listen(&address)), &[&address, "the port is taken"]);
    refused(on(&["serve"], &other, &listen("0.0.0.0:0")), &["0.0.0.0:0", "--allow"]);
    refused(on(&["serve"], &other, &listen("nonsense")), &["nonsense"]);
    let place = ["--path", "/nowhere", "--timeout", "60s"];
    let copy = site.path("copy");
    refused(on(&["mirror", &address], &copy, &place), &[&address, "no such parent"]);
    assert!(!copy.exists());
    // Somebody is there, and says nothing.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = silent.local_addr().unwrap().to_string();
    let soon = ["--timeout", "300ms"];
    let told = [nobody.as_str(), "no answer from"];
    refused(on(&["mirror", &nobody], &copy, &soon), &told);
    refused(on(&["mirror", &nobody], &copy, &["--until-synced", "--timeout", "300ms"]), &told);
    refused(
        mapleaf(["report", &nobody, "--leaf", "0", "--data", "x"].into_iter().chain(soon)),
        &told,
    );
    refused(mapleaf(["watch", &nobody].into_iter().chain(soon)), &told);
    refused(mapleaf(["agent", &nobody, "--parent", "p"].into_iter().chain(soon)), &told);
    // Nobody is there at all.
    drop(silent);
    refused(on(&["mirror", &nobody], &copy, &soon), &told);
    assert!(!copy.exists());
}

/// A server of another time: to every HELLO it says which version it speaks.
fn answer_version(socket: &UdpSocket, version: u8, end: &AtomicBool) {
    let mut buffer = [0; 2_048];
    while !end.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        let Ok((hello, Datagram::Hello)) = decode(&buffer[..len]) else { continue };
        let bye = Header {
            datagram_type: DatagramType::Bye.code(),
            version: hello.version,
            channel: hello.channel,
            flags: U16::new(ByeReason::Version.code()),
            detail: U32::new(version.into()),
            ..Header::default()
        };
        let mut answer = Vec::new();
        encode(&mut answer, &bye, &(), &[], 0);
        socket.send_to(&answer, from).unwrap();
    }
}

#[test]
fn a_server_of_another_protocol_version_is_named() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let end = AtomicBool::new(false);
    let site = Site::new();
    let (copy, told) = (site.path("copy"), [address.as_str(), "version", "speaks 1", "server 9"]);
    thread::scope(|scope| {
        scope.spawn(|| answer_version(&socket, 9, &end));
        let refusals = std::panic::catch_unwind(|| {
            refused(on(&["mirror", &address], &copy, &[]), &told);
            refused(mapleaf(["report", &address, "--leaf", "0", "--data", "x"]), &told);
            refused(mapleaf(["watch", &address]), &told);
        });
        // The server ends as well if the test fails.
        end.store(true, Ordering::Relaxed);
        refusals.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(!copy.exists());
}

/// Runs `mapleaf` where `$1` is a file system of one MiB.
fn on_small_disk(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("unshare");
    let mount = "mount -t tmpfs -o size=1m mapleaf-test \"$1\" || exit 77";
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg(format!("{mount}\n{script}"));
    command.arg(env!("CARGO_BIN_EXE_mapleaf")).arg(folder);
    command
}

/// Whether mount namespaces are to be had here.
fn has_small_disks(folder: &Path) -> bool {
    let ended = Program::try_start(on_small_disk(folder, "exit 0")).map(Program::ended);
    ended.is_ok_and(|ended| ended.status.success())
}

#[test]
fn a_full_disk_is_named() {
    let site = Site::new();
    let small = site.path("small");
    std::fs::create_dir(&small).unwrap();
    if !has_small_disks(&small) {
        println!("skipped: no mount namespace for a small file system");
        return;
    }
    let create = "\"$0\" create \"$1/tree\" --leaves 10000 --capacity 200; status=$?\n\
                  test -z \"$(ls -A \"$1\")\" || echo left behind; exit $status";
    refused(on_small_disk(&small, create), &["small/tree: ", "cannot reserve", "No space left"]);
    // A replica is made when the layout has come.
    let tree = site.create_plain("tree", [1, 10_000, 200]);
    let server = Serving::server(&tree, &[]);
    let copy = format!("\"$0\" mirror {} \"$1/copy\" --timeout 60s", server.address);
    let ended = run(on_small_disk(&small, &copy));
    assert_eq!(ended.code(), TROUBLE, "{ended}");
    let last = ended.stderr.last().unwrap();
    assert!(last.starts_with("mapleaf: ") && last.contains("No space left"), "{ended}");
    server.program.terminate().well();
}

#[test]
fn a_limit_of_file_size_is_named() {
    let site = Site::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 64; exec \"$0\" create \"$1\" --leaves 10000 --capacity 200"]);
    command.arg(env!("CARGO_BIN_EXE_mapleaf")).arg(site.path("tree"));
    refused(command, &["tree: ", "cannot reserve", "File too large"]);
    assert!(!site.path("tree").exists());
}
