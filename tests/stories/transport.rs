//! Datagrams that leave by a raw socket: the trees are as equal, and who may not have
//! one is told.

use std::io;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::support::load::Stream;
use crate::support::load::leaf_line;
use crate::support::process::Program;
use crate::support::process::Serving;
use crate::support::process::mapleaf;
use crate::support::process::mirror;
use crate::support::proxy::Proxy;
use crate::support::proxy::Weather;
use crate::support::trees::Site;
use crate::support::trees::assert_whole;
use crate::support::trees::equal;
use crate::support::trees::wait_equal;

const RAW: [&str; 4] = ["--period", "10ms", "--transport", "raw"];

/// Whether this process may have raw sockets; said aloud if not.
fn may_send_raw() -> bool {
    use socket2::Domain;
    use socket2::Protocol;
    use socket2::Socket;
    use socket2::Type;
    match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) {
        Ok(_) => true,
        Err(error) => {
            skipped(&error.to_string());
            false
        }
    }
}

/// Past the capture of the test runner: who reads the output is to see it.
fn skipped(why: &str) {
    let _ = writeln!(io::stderr(), "skipped, raw sockets are NOT tested: {why}");
}

/// A server and a relay send raw, one mirror asks raw, and every path is bad.
fn stay_equal_through_loss(listen: &str) {
    if !may_send_raw() {
        return;
    }
    let site = Site::new();
    let tree = site.create_plain("tree", [3, 600, 100]);
    let server = Serving::server_at(listen.parse().unwrap(), &tree, &RAW);
    let paths: Vec<Proxy> = (1..=3)
        .map(|seed| Weather { loss: 0.1, duplicate: 0.1, reorder: 0.1, seed })
        .map(|weather| Proxy::start(server.address, weather).unwrap())
        .collect();
    let relay = Serving::relay(paths[0].address(), &site.path("relay"), &RAW);
    let near = mirror(paths[1].address(), &site.path("near"), &RAW[2..]);
    let far = mirror(relay.address, &site.path("far"), &[]);
    let line = |number: u64| leaf_line(number * 7 % 600, &format!("line {number}"));
    let reports = Stream::start(paths[2].address(), 2, line);
    reports.pass(400);
    reports.end();
    for name in ["relay", "near", "far"] {
        wait_equal(&tree, &site.path(name));
    }
    for mirror in [near, far] {
        mirror.terminate().well();
    }
    let relay = relay.program.terminate().well();
    assert!(relay.counter("client.events_lost") > 0, "{relay}");
    let server = server.program.terminate().well();
    // One datagram a message, and none failed.
    assert!(server.counter("socket.datagrams_sent") > 0, "{server}");
    assert_eq!(server.counter("socket.gso_fallbacks"), 0);
    for name in ["relay", "near", "far"] {
        assert!(equal(&tree, &site.path(name)));
        assert_whole(&site.path(name));
    }
}

#[test]
fn trees_stay_equal_through_loss_by_raw_sockets_of_ipv4() {
    stay_equal_through_loss("127.0.0.1:0");
}

#[test]
fn trees_stay_equal_through_loss_by_raw_sockets_of_ipv6() {
    stay_equal_through_loss("[::1]:0");
}

/// The command by a process that may not have raw sockets.
fn without_capability(args: &[&str], file: &Path) -> Option<Program> {
    let own = mapleaf(args.iter().copied());
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]);
    command.arg(own.get_program()).args(own.get_args()).arg(file);
    match Program::try_start(command) {
        Ok(program) => Some(program),
        Err(error) => {
            skipped(&format!("setpriv: {error}"));
            None
        }
    }
}

#[test]
fn without_the_capability_a_server_says_what_to_do_and_leaves_the_tree_alone() {
    let site = Site::new();
    let tree = site.create_plain("tree", [1, 4, 40]);
    let before = std::fs::read(&tree).unwrap();
    let args = ["serve", "--listen", "127.0.0.1:0", "--transport", "raw"];
    let Some(server) = without_capability(&args, &tree) else { return };
    let ended = server.ended();
    assert_eq!(ended.code(), 2, "{ended}");
    assert_eq!(ended.stdout, Vec::<String>::new(), "{ended}");
    let [line] = ended.stderr.as_slice() else { panic!("wanted one line: {ended}") };
    for text in ["mapleaf: ", "raw socket", "CAP_NET_RAW", "setcap", "--transport udp"] {
        assert!(line.contains(text), "wanted {text:?} in: {line}");
    }
    assert_eq!(std::fs::read(&tree).unwrap(), before, "no life was begun");
}

#[test]
fn without_the_capability_a_mirror_is_refused_before_it_makes_a_file() {
    let site = Site::new();
    let args = ["mirror", "127.0.0.1:9", "--transport", "raw"];
    let Some(mirror) = without_capability(&args, &site.path("copy")) else { return };
    let ended = mirror.ended();
    assert_eq!(ended.code(), 2, "{ended}");
    assert!(ended.stderr.iter().any(|line| line.contains("CAP_NET_RAW")), "{ended}");
    assert!(!site.path("copy").exists());
}

#[test]
fn another_word_is_no_transport() {
    let site = Site::new();
    let tree = site.create_plain("tree", [1, 4, 40]);
    let mut command = mapleaf(["serve"]);
    command.arg(&tree).args(["--listen", "127.0.0.1:0", "--transport", "tcp"]);
    let ended = Program::start(command).ended();
    assert_eq!(ended.code(), 2, "{ended}");
    let told = ended.stderr.join("\n");
    assert!(told.contains("--transport") && told.contains("udp or raw"), "{told}");
}

#[test]
fn a_settings_file_names_the_transport() {
    if !may_send_raw() {
        return;
    }
    let site = Site::new();
    let tree = site.create_plain("tree", [1, 4, 40]);
    let settings = site.path("settings.toml");
    std::fs::write(&settings, "[serve]\ntransport = \"raw\"\n").unwrap();
    let server = Serving::server(&tree, &["--config", settings.to_str().unwrap()]);
    // A raw socket of UDP's number is open while it serves.
    let sockets = std::fs::read_dir(format!("/proc/{}/fd", server.program.id())).unwrap();
    let links = sockets.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let links: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let raw = std::fs::read_to_string("/proc/net/raw").unwrap();
    let inode =
        |line: &str| line.split_whitespace().nth(9).map(|inode| format!("socket:[{inode}]"));
    assert!(raw.lines().filter_map(inode).any(|socket| links.contains(&socket)), "{raw}{links:?}");
    server.program.terminate().well();
}
