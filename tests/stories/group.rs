//! Mirrors that hear a server's multicast group: each period leaves once, what is lost
//! is repaired, and where nothing comes the mirror goes on without.
//!
//! IPv4 uses loopback. Loopback carries no multicast of IPv6 on Linux, so those stories
//! run in a network of their own with a pair of virtual interfaces; where that cannot be
//! had they say so on stderr and end.

use std::env;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::process::Command;

use crate::support::load::Stream;
use crate::support::load::leaf_line;
use crate::support::process::Ended;
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

const MIRRORS: [&str; 3] = ["mirror-1", "mirror-2", "mirror-3"];

/// Set in a story that was started again in a network of its own.
const INSIDE: &str = "MAPLEAF_TEST_INSIDE";

/// A group that no other test process uses; `story` tells stories of one process apart.
fn group_v4(story: u8) -> SocketAddr {
    let [.., a, b] = std::process::id().to_be_bytes();
    SocketAddr::from(([239, 192 + story, a, b], 4_721))
}

fn skipped(why: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "skipped, multicast of IPv6 is NOT tested: {why}");
}

/// Runs a story again in a network with interfaces that carry IPv6 multicast.
fn in_a_network_of_its_own(story: &str) {
    let script = "ip link set lo up && ip link add mc0 type veth peer name mc1 && \
                  ip link set mc0 up && ip link set mc1 up && \
                  ip -6 addr add fd00::1/64 dev mc0 nodad && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-n", "sh", "-c", script, "sh"]).arg(env::current_exe().unwrap());
    command.args([story, "--exact", "--nocapture"]).env(INSIDE, "1");
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return skipped(format_args!("unshare: {error}")),
    };
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into());
    let [stdout, stderr]: [String; 2] = told;
    if !stdout.contains("running 1 test") {
        return skipped(stderr);
    }
    assert!(output.status.success(), "{stdout}{stderr}");
}

/// Datagrams that a server sent for its views: all but answers to single clients.
fn sent_for_views(server: &Ended) -> u64 {
    let single = ["cookies", "sessions_opened", "layouts", "responses", "acks"];
    let single: u64 = single.iter().map(|name| server.counter(&format!("server.{name}"))).sum();
    server.counter("socket.datagrams_sent").saturating_sub(single)
}

fn stay_equal_in_a_group(listen: &str, group: SocketAddr, serve: &[&str], join: &[&str]) {
    let site = Site::new();
    let tree = site.create_plain("tree", [3, 600, 100]);
    let group = group.to_string();
    let options = [&["--period", "10ms", "--multicast", &group], serve].concat();
    let server = Serving::server_at(listen.parse().unwrap(), &tree, &options);
    let join = [&["--join-multicast"], join].concat();
    let mirrors = MIRRORS.map(|name| mirror(server.address, &site.path(name), &join));
    mirrors.iter().for_each(|mirror| mirror.wait_stderr("hears the multicast group"));
    let line = |number: u64| leaf_line(number * 7 % 600, &format!("line {number}"));
    let reports = Stream::start(server.address, 2, line);
    reports.pass(800);
    reports.end();
    MIRRORS.iter().for_each(|name| wait_equal(&tree, &site.path(name)));
    for mirror in mirrors {
        let ended = mirror.terminate().well();
        assert!(ended.counter("client.group_datagrams") > 0, "{ended}");
        assert_eq!(ended.counter("client.rejoins"), 0, "{ended}");
    }
    let server = server.program.terminate().well();
    assert_eq!(server.counter("server.group_joined"), 3, "{server}");
    // Once for all three, but for the moments before they heard the group: one by one it
    // would be three times as many.
    let planned = server.counter("server.events") + server.counter("server.ticks");
    let sent = sent_for_views(&server);
    assert!(planned > 50, "{planned} planned");
    assert!(sent < 2 * planned, "{sent} sent of {planned} planned: {server}");
    for name in MIRRORS {
        assert!(equal(&tree, &site.path(name)));
        assert_whole(&site.path(name));
    }
}

#[test]
fn three_mirrors_in_a_group_of_ipv4_get_each_period_once() {
    stay_equal_in_a_group("127.0.0.1:0", group_v4(1), &[], &[]);
}

#[test]
fn a_server_with_threads_that_send_sends_each_period_once_to_a_group() {
    if env::var_os(INSIDE).is_none() {
        stay_equal_in_a_group("127.0.0.1:0", group_v4(5), &["--senders", "2"], &[]);
        return in_a_network_of_its_own(
            "group::a_server_with_threads_that_send_sends_each_period_once_to_a_group",
        );
    }
    let serve = ["--senders", "2", "--multicast-interface", "mc0", "--allow", "fd00::/8"];
    let group = "[ff15::4722]:4722".parse().unwrap();
    stay_equal_in_a_group("[fd00::1]:0", group, &serve, &["--multicast-interface", "mc0"]);
}

#[test]
fn a_raw_socket_sends_to_a_group_as_well() {
    if env::var_os(INSIDE).is_none() {
        // A network of one's own comes with the right to raw sockets.
        return in_a_network_of_its_own("group::a_raw_socket_sends_to_a_group_as_well");
    }
    let raw = ["--transport", "raw"];
    stay_equal_in_a_group("127.0.0.1:0", group_v4(2), &raw, &[]);
    let serve = ["--transport", "raw", "--multicast-interface", "mc0", "--allow", "fd00::/8"];
    let group = "[ff15::4721]:4721".parse().unwrap();
    stay_equal_in_a_group("[fd00::1]:0", group, &serve, &["--multicast-interface", "mc0"]);
}

#[test]
fn three_mirrors_in_a_group_of_ipv6_get_each_period_once() {
    if env::var_os(INSIDE).is_none() {
        let story = "group::three_mirrors_in_a_group_of_ipv6_get_each_period_once";
        return in_a_network_of_its_own(story);
    }
    let serve = ["--multicast-interface", "mc0", "--allow", "fd00::/8"];
    let group = "[ff15::4720]:4720".parse().unwrap();
    stay_equal_in_a_group("[fd00::1]:0", group, &serve, &["--multicast-interface", "mc0"]);
    // By IPv4, with the interface named.
    let serve = ["--multicast-interface", "lo", "--multicast-ttl", "0"];
    stay_equal_in_a_group("127.0.0.1:0", group_v4(3), &serve, &["--multicast-interface", "lo"]);
}

#[test]
fn what_comes_from_another_address_is_not_believed_and_the_mirror_goes_on_without() {
    members_and_others(4, &[]);
}

/// Clients of both kinds, and some that change: what goes to their own addresses goes by
/// threads, what goes to the group by the loop.
#[test]
fn with_threads_that_send_members_and_others_are_equal() {
    members_and_others(6, &["--senders", "2"]);
}

fn members_and_others(story: u8, serve: &[&str]) {
    let site = Site::new();
    let tree = site.create_plain("tree", [2, 100, 100]);
    let group = group_v4(story).to_string();
    let options = [&["--period", "10ms", "--multicast", &group], serve].concat();
    let server = Serving::server(&tree, &options);
    // The session is with the proxy, the group's datagrams are the server's.
    let calm = Weather { loss: 0.0, duplicate: 0.0, reorder: 0.0, seed: 1 };
    let proxy = Proxy::start(server.address, calm).unwrap();
    let behind = mirror(proxy.address(), &site.path("behind"), &["--join-multicast"]);
    let member = mirror(server.address, &site.path("member"), &["--join-multicast"]);
    let plain = mirror(server.address, &site.path("plain"), &[]);
    member.wait_stderr("hears the multicast group");
    behind.wait_stderr("nothing comes by the multicast group");
    // A stranger speaks in the group, too.
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&stranger).set_multicast_if_v4(&[127, 0, 0, 1].into()).unwrap();
    let line = |number: u64| leaf_line(number % 100, &format!("line {number}"));
    let reports = Stream::start(server.address, 2, line);
    for _ in 0..50 {
        stranger.send_to(&[7; 200], group.as_str()).unwrap();
    }
    reports.pass(300);
    reports.end();
    for name in ["behind", "member", "plain"] {
        wait_equal(&tree, &site.path(name));
    }
    let behind = behind.terminate().well();
    assert_eq!(behind.counter("client.group_datagrams"), 0, "{behind}");
    assert!(behind.counter("client.group_foreign") > 50, "{behind}");
    assert!(behind.counter("client.events") > 0, "{behind}");
    let member = member.terminate().well();
    assert!(member.counter("client.group_foreign") > 0, "{member}");
    assert!(member.counter("client.group_datagrams") > 0, "{member}");
    assert_eq!(member.counter("client.dropped_malformed"), 0, "{member}");
    let plain = plain.terminate().well();
    assert_eq!(plain.counter("client.group_datagrams"), 0, "{plain}");
    server.program.terminate().well();
}

#[test]
fn a_group_that_is_none_is_refused() {
    let site = Site::new();
    let tree = site.create_plain("tree", [1, 4, 40]);
    let cases = [
        (["127.0.0.1:0", "127.0.0.1:5"], "multicast group such as"),
        (["127.0.0.1:0", "239.1.2.3:0"], "multicast group such as"),
        (["127.0.0.1:0", "[ff15::1]:5"], "of the family of the server's"),
    ];
    for ([listen, group], text) in cases {
        let mut command = mapleaf(["serve", "--listen", listen, "--multicast", group]);
        command.arg(&tree);
        let ended = Program::start(command).ended();
        assert_eq!(ended.code(), 2, "{ended}");
        assert!(ended.stderr.join("\n").contains(text), "wanted {text:?} in: {ended}");
    }
    let mut command = mapleaf(["serve", "--listen", "127.0.0.1:0"]);
    command.arg(&tree).args(["--multicast", "239.1.2.3:5", "--multicast-interface", "nosuch0"]);
    let ended = Program::start(command).ended();
    assert_eq!(ended.code(), 2, "{ended}");
    assert!(ended.stderr.join("\n").contains("no such interface"), "{ended}");
}
