//! Stories of the `mapleaf` command, told with the real binary over loopback.
//!
//! Every wait has a watchdog, every process that is started is ended, and no port
//! or path is fixed.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::channel;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

/// Longest that anything here may take.
const WATCHDOG: Duration = Duration::from_secs(60);

const SCHEMA: &str = "\
[[parent]]\nname = \"site\"\n\
[[parent]]\nname = \"rack\"\nin = \"/site\"\nleaves = 40\nleaf_name = \"port{n}\"\ncapacity = 32\n\
[[parent.field]]\nname = \"up\"\ntype = \"bool\"\n\
[[parent.field]]\nname = \"temp\"\ntype = \"f32\"\nunit = \"C\"\n\
[[parent]]\nname = \"raw\"\nleaves = 4\ncapacity = 16\n";

/// What a command said and how it ended.
struct Ended {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Ended {
    #[track_caller]
    fn expect(self, status: i32) -> Ended {
        assert_eq!(self.status, status, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The one line that an error is.
    #[track_caller]
    fn error(&self) -> &str {
        let mut lines = self.stderr.lines().filter(|line| line.starts_with("mapleaf: "));
        let line = lines.next().unwrap_or_else(|| panic!("no error: {:?}", self.stderr));
        assert_eq!(lines.next(), None, "one line: {:?}", self.stderr);
        line
    }
}

/// A running command; ended when it is dropped.
struct Running {
    child: Child,
    lines: Receiver<String>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    fn start(program: &str, args: &[&str], vars: &[(&str, &str)]) -> Running {
        let mut child = Command::new(program)
            .args(args)
            .envs(vars.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let from = child.stdout.take().unwrap();
        let stdout = thread::spawn(move || {
            let mut whole = String::new();
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                whole.push_str(&line);
                whole.push('\n');
                let _ = sender.send(line);
            }
            whole
        });
        let mut from = child.stderr.take().unwrap();
        let stderr = thread::spawn(move || {
            let mut whole = Vec::new();
            from.read_to_end(&mut whole).unwrap();
            String::from_utf8_lossy(&whole).into_owned()
        });
        Running { child, lines, stdout: Some(stdout), stderr: Some(stderr) }
    }

    /// The next line of stdout.
    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(WATCHDOG).expect("a line before the watchdog")
    }

    /// The address that it says it listens on.
    #[track_caller]
    fn address(&self) -> String {
        let line = self.line();
        line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned()
    }

    /// Waits until it handles SIGINT: the kernel says so in the mask `SigCgt`.
    #[track_caller]
    fn wait_for_handlers(&self) {
        let begun = Instant::now();
        let status = format!("/proc/{}/status", self.child.id());
        let handles = || {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            // Bit 0 is signal 1; SIGINT is signal 2.
            mask.is_some_and(|mask| mask & 2 != 0)
        };
        while !handles() {
            assert!(begun.elapsed() < WATCHDOG, "it handles no signals");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[track_caller]
    fn wait(mut self) -> Ended {
        drop(self.child.stdin.take());
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < WATCHDOG, "it does not end");
            thread::sleep(Duration::from_millis(5));
        };
        Ended {
            status: status.code().expect("not ended by a signal"),
            stdout: self.stdout.take().unwrap().join().unwrap(),
            stderr: self.stderr.take().unwrap().join().unwrap(),
        }
    }

    /// Asks it to end, which it does well.
    #[track_caller]
    fn end(self) -> Ended {
        self.signal("TERM");
        self.wait().expect(0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(args: &[&str]) -> Running {
    Running::start(env!("CARGO_BIN_EXE_mapleaf"), args, &[])
}

#[track_caller]
fn mapleaf(args: &[&str]) -> Ended {
    start(args).wait()
}

#[track_caller]
fn diff(a: &Path, b: &Path) -> Ended {
    let args = ["diff", a.to_str().unwrap(), b.to_str().unwrap()];
    Running::start(env!("CARGO_BIN_EXE_mapleaf-tree"), &args, &[]).wait()
}

/// A folder with a schema and a tree.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        fs::write(place.path("fleet.toml"), SCHEMA).unwrap();
        mapleaf(&["create", &place.text("tree"), "--schema", &place.text("fleet.toml")]).expect(0);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A server of the tree.
    fn serve(&self) -> (Running, String) {
        let running =
            start(&["serve", &self.text("tree"), "--listen", "127.0.0.1:0", "--period", "20ms"]);
        let address = running.address();
        (running, address)
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let ended = mapleaf(&["--version"]).expect(0);
    assert_eq!(ended.stdout, format!("mapleaf {}\n", env!("CARGO_PKG_VERSION")));
    let commands =
        ["create", "serve", "report", "mirror", "watch", "agent", "demo", "completions", "man"];
    let help = mapleaf(&["--help"]).expect(0);
    for command in commands {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command} is not offered");
        let help = mapleaf(&[command, "--help"]).expect(0);
        assert!(help.stdout.contains("Example"), "{command}");
        assert_eq!(help.stderr, "");
    }
    assert!(!help.stdout.contains("\n  top "));
}

#[test]
fn usage_that_is_not_understood_is_one_line_and_ends_with_2() {
    for args in [
        &["sevre"][..],
        &["serve"],
        &["serve", "x", "--listen", "nowhere"],
        &["serve", "x", "--listen", "127.0.0.1:0", "--period", "soon"],
        &["serve", "x", "--listen", "127.0.0.1:0", "--datagram-size", "5"],
        &["serve", "x", "--listen", "127.0.0.1:0", "--allow", "10.0.0.0/99"],
        &["report", "127.0.0.1:1", "--leaf", "1"],
        &["report", "127.0.0.1:1", "--leaf", "1", "--path", "/a", "--data", "x"],
        &["report", "127.0.0.1:1", "--leaf", "1", "--hex", "0"],
        &["report", "127.0.0.1:1"],
        &["watch", "127.0.0.1:1", "--count", "0"],
        &["demo", "--loss", "1"],
        &["create", "x"],
        &["--log", "][", "man", "x"],
    ] {
        let ended = mapleaf(args).expect(2);
        assert_eq!(ended.stdout, "");
        assert_eq!(ended.stderr.lines().count(), 1, "{args:?}: {}", ended.stderr);
        ended.error();
    }
    let nothing = mapleaf(&[]).expect(2);
    assert!(nothing.stderr.contains("Usage: mapleaf") && nothing.stdout.is_empty());
}

#[test]
fn completions_and_man_pages_come_from_the_table_of_flags() {
    let place = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        assert!(mapleaf(&["completions", shell]).expect(0).stdout.contains("until-synced"));
    }
    let dir = place.path().join("man");
    mapleaf(&["man", dir.to_str().unwrap()]).expect(0);
    let page = fs::read_to_string(dir.join("mapleaf-mirror.1")).unwrap();
    assert!(page.contains("until\\-synced"));
    assert!(dir.join("mapleaf.1").exists());
}

#[test]
fn a_tree_is_created_once() {
    let place = Place::new();
    let before = fs::read(place.path("tree")).unwrap();
    let again = ["create", &place.text("tree"), "--leaves", "3", "--capacity", "8"];
    assert!(mapleaf(&again).expect(2).error().contains("exists already"));
    assert_eq!(fs::read(place.path("tree")).unwrap(), before);
    let plain = ["create", &place.text("plain"), "--parents", "3", "--leaves", "10", "--capacity"];
    mapleaf(&[&plain[..], &["1KiB"]].concat()).expect(0);
    let missing = ["create", &place.text("new"), "--schema", &place.text("nothing")];
    assert!(mapleaf(&missing).expect(2).error().contains("cannot read"));
    fs::write(place.path("bad.toml"), "[[parent]]\nname = \"a/b\"\n").unwrap();
    let bad = ["create", &place.text("new"), "--schema", &place.text("bad.toml")];
    assert!(mapleaf(&bad).expect(2).error().contains("bad.toml"));
    assert!(!place.path("new").exists(), "nothing is left behind");
}

#[test]
fn a_dump_comes_back_as_the_same_tree() {
    let place = Place::new();
    let (server, address) = place.serve();
    mapleaf(&["report", &address, "--path", "/raw/2", "--data", "kept"]).expect(0);
    server.end();
    let tool = env!("CARGO_BIN_EXE_mapleaf-tree");
    let dump =
        |name: &str| Running::start(tool, &["dump", &place.text(name)], &[]).wait().expect(0);
    let first = dump("tree").stdout;
    fs::write(place.path("dump"), &first).unwrap();
    let restore = ["create", &place.text("restored"), "--from-dump", &place.text("dump")];
    mapleaf(&restore).expect(0);
    assert_eq!(dump("restored").stdout, first);
    diff(&place.path("tree"), &place.path("restored")).expect(0);
    assert!(mapleaf(&restore).expect(2).error().contains("exists already"));
    let cut = first.len() - 8;
    fs::write(place.path("dump"), &first[..cut]).unwrap();
    let cut = ["create", &place.text("cut"), "--from-dump", &place.text("dump")];
    mapleaf(&cut).expect(2).error();
    let left: Vec<_> = fs::read_dir(place.0.path()).unwrap().flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().contains("cut")));
}

#[test]
fn fields_are_reported_by_their_names() {
    let place = Place::new();
    let (server, address) = place.serve();
    let on = |path: &str, rest: &[&str]| {
        mapleaf(&[&["report", &address, "--path", path][..], rest].concat())
    };
    on("/site/rack/port1", &["--field", "temp=-21.5", "--field", "up=true"]).expect(0);
    let wrong = on("/site/rack/port1", &["--field", "temp=warm"]).expect(2);
    assert!(wrong.error().contains("field temp: wanted f32"), "{}", wrong.stderr);
    // Text is written all the same, with a word about the fields.
    let text = on("/site/rack/port2", &["--data", "up"]).expect(0);
    assert!(text.error().contains("--field sets one of up, temp"), "{}", text.stderr);
    assert_eq!(on("/raw/0", &["--data", "up"]).expect(0).stderr, "");
    server.end();
    let args = ["dump", &place.text("tree"), "--json"];
    let dump = Running::start(env!("CARGO_BIN_EXE_mapleaf-tree"), &args, &[]).wait().expect(0);
    let fields = "\"fields\":{\"up\":true,\"temp\":-21.5}";
    assert!(dump.stdout.lines().next().unwrap().contains(fields), "{}", dump.stdout);
    assert!(dump.stdout.contains("\"data\":\"7570\""), "{}", dump.stdout);
}

#[test]
fn reports_reach_a_replica_through_a_relay() {
    let place = Place::new();
    let (server, address) = place.serve();
    mapleaf(&["report", &address, "--leaf", "1", "--hex", "01 0000ac41"]).expect(0);
    mapleaf(&["report", &address, "--path", "/raw/0", "--data", "text"]).expect(0);
    fs::write(place.path("data"), b"\x00\xff").unwrap();
    mapleaf(&["report", &address, "--path", "/raw/1", "--file", &place.text("data")]).expect(0);
    let once = ["mirror", &address, &place.text("once"), "--until-synced", "--timeout", "60s"];
    let ended = mapleaf(&once).expect(0);
    assert!(ended.stderr.contains("in sync at revision"), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
    diff(&place.path("tree"), &place.path("once")).expect(0);

    let relay = start(&["mirror", &address, &place.text("relay"), "--serve", "127.0.0.1:0"]);
    let relayed = relay.address();
    mapleaf(&["report", &address, "--path", "/site/rack/port39", "--hex", "01"]).expect(0);
    diff(&place.path("tree"), &place.path("once")).expect(1);
    // A copy from before is gone on from, behind another server of the same tree.
    let until_equal = || {
        let args = ["mirror", &relayed, &place.text("once"), "--until-synced", "--timeout", "60s"];
        mapleaf(&args).expect(0);
        diff(&place.path("tree"), &place.path("once")).status == 0
    };
    let begun = Instant::now();
    while !until_equal() {
        assert!(begun.elapsed() < WATCHDOG, "the relay never hands the change on");
    }
    let refused = mapleaf(&["report", &relayed, "--leaf", "1", "--data", "x"]).expect(2);
    refused.error();

    // A relay that has lost its server is not in sync, and neither is who follows
    // it, once the relay has closed a period.
    server.end();
    let late = ["mirror", &relayed, &place.text("late"), "--until-synced", "--for", "1s"];
    let begun = Instant::now();
    let ended = loop {
        let ended = mapleaf(&late);
        if ended.status != 0 {
            break ended.expect(1);
        }
        assert!(begun.elapsed() < WATCHDOG, "it is in sync with nobody");
    };
    assert!(ended.stderr.contains("not in sync in time"), "{}", ended.stderr);
    relay.end();
}

#[test]
fn a_server_has_its_tree_and_its_port_alone() {
    let place = Place::new();
    let (server, address) = place.serve();
    let second = mapleaf(&["serve", &place.text("tree"), "--listen", "127.0.0.1:0"]).expect(2);
    assert!(second.error().contains("open already"), "{}", second.stderr);
    mapleaf(&["create", &place.text("other"), "--leaves", "3", "--capacity", "8"]).expect(0);
    let taken = mapleaf(&["serve", &place.text("other"), "--listen", &address]).expect(2);
    assert!(taken.error().contains("the port is taken"), "{}", taken.stderr);
    assert_eq!(taken.stdout, "");
    server.end();
    let exposed = mapleaf(&["serve", &place.text("other"), "--listen", "0.0.0.0:0"]).expect(2);
    assert!(exposed.error().contains("--allow"), "{}", exposed.stderr);
}

#[test]
fn a_server_that_is_not_there_is_said_in_time() {
    let place = Place::new();
    // Bound and never read: nobody answers, and nobody else gets the port.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    for args in [
        &["report", &address, "--leaf", "1", "--data", "x"][..],
        &["mirror", &address, &place.text("copy"), "--until-synced"],
        &["watch", &address],
        &["agent", &address, "--parent", "raw"],
    ] {
        let ended = mapleaf(&[args, &["--timeout", "300ms"]].concat()).expect(2);
        assert!(ended.error().contains("no answer"), "{args:?}: {}", ended.stderr);
    }
    let unknown = mapleaf(&["report", "nohost.invalid:1", "--leaf", "1", "--data", "x"]).expect(2);
    assert!(unknown.error().contains("cannot resolve"), "{}", unknown.stderr);
}

#[test]
fn what_a_report_gets_wrong_is_said() {
    let place = Place::new();
    let (server, address) = place.serve();
    for (args, wanted) in [
        (["--leaf", "44", "--data", "x"], "leaf 44 was refused: no such leaf; the tree has 44"),
        (["--leaf", "43", "--data", "12345678901234567"], "at most 16 bytes"),
        (["--path", "/raw/9", "--data", "x"], "names no leaf"),
        (["--path", "/raw", "--data", "x"], "names a parent"),
        (["--leaf", "1", "--file", "/nonexistent"], "cannot read"),
    ] {
        let ended = mapleaf(&[&["report", &address][..], &args].concat()).expect(2);
        assert!(ended.error().contains(wanted), "{wanted}: {}", ended.stderr);
    }
    server.end();
}

#[test]
fn json_lines_go_on_behind_a_bad_one() {
    let place = Place::new();
    let (server, address) = place.serve();
    let watch = start(&["watch", &address, "--json", "--count", "2", "--path", "/site"]);
    let mut sender = start(&["report", &address, "--json-lines"]);
    let mut input = sender.child.stdin.take().unwrap();
    // The watcher sees what comes after it joined: say it until it is seen.
    let seen = loop {
        writeln!(input, r#"{{"path":"/site/rack/port3","fields":{{"temp":21.5}}}}"#).unwrap();
        if let Ok(line) = watch.lines.recv_timeout(Duration::from_millis(100)) {
            break line;
        }
    };
    assert!(seen.contains(r#""path":"/site/rack/port3""#), "{seen}");
    assert!(seen.contains(r#""temp":21.5"#) && seen.contains(r#""up":false"#), "{seen}");
    writeln!(input, "not json").unwrap();
    writeln!(input, r#"{{"leaf":44,"hex":"00"}}"#).unwrap();
    writeln!(input, r#"{{"path":"/raw/3","data":"last"}}"#).unwrap();
    drop(input);
    let ended = sender.wait().expect(2);
    let told: Vec<&str> = ended.stderr.lines().filter(|line| line.contains(": line ")).collect();
    assert_eq!(told.len(), 2, "{}", ended.stderr);
    assert!(told[0].contains("wanted a report as JSON") && told[1].contains("no such leaf"));
    assert_eq!(ended.stdout, "");
    let copy = ["mirror", &address, &place.text("copy"), "--until-synced", "--timeout", "60s"];
    mapleaf(&copy).expect(0);
    let get = ["get", &place.text("copy"), "--path", "/raw/3"];
    let got = Running::start(env!("CARGO_BIN_EXE_mapleaf-tree"), &get, &[]).wait().expect(0);
    assert!(got.stdout.contains("last") || got.stdout.contains("6c617374"), "{}", got.stdout);
    watch.end();
    server.end();
}

#[test]
fn a_watcher_whose_reader_goes_away_ends_well() {
    let place = Place::new();
    let (server, address) = place.serve();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mapleaf"))
        .args(["watch", &address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let begun = Instant::now();
    let status = loop {
        mapleaf(&["report", &address, "--leaf", "3", "--hex", "01"]).expect(0);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < WATCHDOG, "it does not end");
    };
    assert_eq!(status.code(), Some(0));
    server.end();
}

#[test]
fn signals_end_every_long_command_with_0() {
    let place = Place::new();
    let (server, address) = place.serve();
    let long = [
        start(&["mirror", &address, &place.text("copy")]),
        start(&["watch", &address]),
        start(&["agent", &address, "--parent", "raw"]),
        start(&["report", &address, "--json-lines"]),
    ];
    for running in long {
        running.wait_for_handlers();
        running.signal("INT");
        running.wait().expect(0);
    }
    server.signal("INT");
    server.wait().expect(0);
}

#[test]
fn settings_come_from_flags_then_variables_then_the_file() {
    let place = Place::new();
    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let file = place.text("mapleaf.toml");
    let set = |text: &str| fs::write(&file, text).unwrap();
    let program = env!("CARGO_BIN_EXE_mapleaf");
    let tree = place.text("tree");
    set(&format!("[serve]\nlisten = \"{taken}\"\nperiod = \"20ms\"\n"));
    let base = ["serve", &tree, "--config", &file];
    let from_file = mapleaf(&base).expect(2);
    assert!(from_file.error().contains("the port is taken"), "{}", from_file.stderr);
    let variable = Running::start(program, &base, &[("MAPLEAF_LISTEN", "127.0.0.1:0")]);
    variable.address();
    variable.end();
    let args = [&base[..], &["--listen", "127.0.0.1:0"]].concat();
    let flag = Running::start(program, &args, &[("MAPLEAF_LISTEN", &taken)]);
    flag.address();
    // A file that is wrong later on changes nothing.
    set("[serve]\nperiod = \"never\"\n");
    flag.signal("HUP");
    thread::sleep(Duration::from_millis(300));
    let ended = flag.end();
    assert!(ended.stderr.contains("stays as it is"), "{}", ended.stderr);
    set("[serve]\nlisten = \"127.0.0.1:0\"\nlissten = 1\n");
    assert!(mapleaf(&base).expect(2).error().contains("lissten: unknown key"));
}

#[test]
fn a_tree_grows_when_its_schema_does() {
    let place = Place::new();
    let schema = place.text("fleet.toml");
    let server =
        start(&["serve", &place.text("tree"), "--listen", "127.0.0.1:0", "--schema", &schema]);
    let address = server.address();
    let report = ["report", &address, "--path", "/more/0", "--data", "new"];
    mapleaf(&report).expect(2);
    fs::write(&schema, format!("{SCHEMA}[[parent]]\nname = \"more\"\nleaves = 2\ncapacity = 8\n"))
        .unwrap();
    server.signal("HUP");
    let begun = Instant::now();
    while mapleaf(&report).status != 0 {
        assert!(begun.elapsed() < WATCHDOG, "the tree does not grow");
    }
    server.end();
}

#[test]
fn an_agent_reports_the_interfaces_of_this_machine() {
    let place = Place::new();
    let schema = mapleaf(&["agent", "--print-schema"]).expect(0).stdout;
    fs::write(place.path("if.toml"), schema).unwrap();
    fs::remove_file(place.path("tree")).unwrap();
    mapleaf(&["create", &place.text("tree"), "--schema", &place.text("if.toml")]).expect(0);
    let (server, address) = place.serve();
    let args = ["agent", &address, "--parent", "interfaces", "--interval", "50ms", "--count", "2"];
    mapleaf(&args).expect(0);
    server.end();
    let args = ["dump", "--json", &place.text("tree")];
    let dump = Running::start(env!("CARGO_BIN_EXE_mapleaf-tree"), &args, &[]).wait().expect(0);
    if Path::new("/sys/class/net/lo").exists() {
        assert!(dump.stdout.contains(r#""name":"lo""#), "{}", dump.stdout);
    }
}

#[test]
fn a_signal_ends_a_demo_with_its_summary() {
    let demo = start(&["demo", "--devices", "10", "--for", "10m", "--json"]);
    demo.wait_for_handlers();
    demo.signal("INT");
    let ended = demo.wait().expect(0);
    if let Some(last) = ended.stdout.lines().last() {
        let last: serde_json::Value = serde_json::from_str(last).unwrap();
        assert_eq!(last["equal"], true);
    } else {
        // The signal came before everything had begun.
        assert!(!ended.stderr.contains("report no more"), "{}", ended.stderr);
    }
}

#[test]
fn a_demo_ends_with_every_replica_equal() {
    let args = ["demo", "--devices", "40", "--for", "1s", "--loss", "0.2", "--seed", "7", "--json"];
    let ended = mapleaf(&args).expect(0);
    let last: serde_json::Value = serde_json::from_str(ended.stdout.trim()).unwrap();
    assert_eq!(last["devices"], 40);
    assert_eq!(last["replicas"], 3);
    assert_eq!(last["equal"], true);
    assert!(last["lost"].as_u64().unwrap() > 0);
    for key in ["events", "repaired", "seconds"] {
        assert!(last[key].is_number(), "{key}");
    }
}
