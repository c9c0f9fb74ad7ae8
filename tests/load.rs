//! `mapleaf-load` as a program: each measurement, tiny. Numbers are counted, not timed.

#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;

/// Runs one measurement of a small tree, and gives the lines of its JSON.
fn measure(folder: &Path, args: &[&str]) -> Vec<Value> {
    let small = ["--leaves", "500", "--size", "64", "--repetitions", "2", "--warm-up", "50ms"];
    let lines = lines(&run(folder, &[args, &small, &["--json"]].concat()));
    for line in &lines {
        assert_eq!(line["command"], args[0]);
        let settings = &line["settings"];
        assert_eq!(settings["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!((&settings["leaves"], &settings["size"]), (&500.into(), &64.into()));
        assert!(settings["machine"]["cores"].as_u64().unwrap() > 0);
        let kernel = settings["machine"]["kernel"].as_str();
        assert!(kernel.is_some_and(|kernel| !kernel.is_empty()));
    }
    let left: Vec<_> = fs::read_dir(folder).unwrap().collect();
    assert!(left.is_empty(), "{args:?} left {left:?}");
    lines
}

/// JSON Lines of a program that ended well: one a figure.
fn lines(output: &Output) -> Vec<Value> {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        let of = |name: &str| line[name].as_f64();
        assert!(of("min") <= of("median") && of("median") <= of("max"), "{line}");
        assert!(line["runs"].as_u64().is_some_and(|runs| runs > 0), "{line}");
        assert_eq!(line["runs"], line["values"].as_array().unwrap().len(), "{line}");
        assert!(line["settings"].is_object() && line["unit"].is_string(), "{line}");
        assert_eq!(line["limit"].is_null(), line["share"].is_null(), "{line}");
    }
    lines
}

fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mapleaf-load"));
    command.args(args).arg("--dir").arg(folder).stdin(Stdio::null());
    command.output().unwrap()
}

/// The line of a figure.
fn figure<'a>(lines: &'a [Value], name: &str) -> &'a Value {
    let found = lines.iter().find(|line| line["measure"] == name);
    found.unwrap_or_else(|| panic!("no figure {name}"))
}

/// The values of a figure, one a repetition, with its unit.
fn values(lines: &[Value], name: &str, unit: &str) -> Vec<f64> {
    let figure = figure(lines, name);
    assert_eq!(figure["unit"], unit, "{name}: {figure}");
    figure["values"].as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

/// The same, with at least one, and all above zero.
fn positive(lines: &[Value], name: &str, unit: &str) -> Vec<f64> {
    let values = values(lines, name, unit);
    assert!(!values.is_empty() && values.iter().all(|value| *value > 0.0), "{name}: {values:?}");
    values
}

/// A figure names the limit that was measured as often in the same run, and how near it is.
fn beside_its_limit(lines: &[Value], name: &str, limit: &str, unit: &str) {
    assert_eq!(positive(lines, limit, unit).len(), 2);
    let of = |figure: &Value, name: &str| figure[name].as_f64().unwrap();
    let (found, limit) = (figure(lines, name), figure(lines, limit));
    assert_eq!(of(found, "limit"), of(limit, "median"), "{found}");
    let times = positive(lines, &format!("{name}, in times the limit"), "x")[0];
    assert!((times - of(found, "median") / of(limit, "median")).abs() < 1e-9, "{times}: {found}");
}

#[test]
fn throughput_counts_what_is_applied_beside_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let lines = measure(folder.path(), &["throughput", "--seconds", "400ms", "--batch", "16"]);
    assert_eq!(positive(&lines, "applied at each", "values/s").len(), 2);
    assert_eq!(positive(&lines, "changes made", "changes/s").len(), 2);
    positive(&lines, "processor per million applied", "s");
    positive(&lines, "limit: bare datagrams at each", "datagrams/s");
    positive(&lines, "share of the limit", "%");
    let applied = figure(&lines, "applied at each");
    let of = |name: &str| applied[name].as_f64().unwrap();
    assert!((of("share") - of("median") / of("limit")).abs() < 1e-9, "{applied}");
    let share = values(&lines, "conflated share", "%")[0];
    assert!((0.0..=100.0).contains(&share), "{share}");
    assert_eq!(lines[0]["settings"]["source"], "feed");
}

#[test]
fn a_device_is_a_source_and_subscribers_are_many() {
    let folder = tempfile::tempdir().unwrap();
    let lines = measure(
        folder.path(),
        &["fan-out", "--subscribers", "3", "--source", "device", "--seconds", "300ms"],
    );
    assert_eq!(lines[0]["settings"]["source"], "device");
    let slowest = values(&lines, "applied, slowest subscriber", "values/s");
    let fastest = values(&lines, "applied, fastest subscriber", "values/s");
    let middle = positive(&lines, "applied at each", "values/s");
    assert!((0..2).all(|n| slowest[n] <= middle[n] && middle[n] <= fastest[n]), "{lines:?}");
}

#[test]
fn a_rate_without_conflation_is_searched() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["throughput", "--seconds", "200ms", "--no-conflation"];
    let lines = measure(folder.path(), &args);
    positive(&lines, "rate without conflation", "changes/s");
}

#[test]
fn every_change_at_a_low_rate_is_timed() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["latency", "--rate", "500", "--period", "0", "--seconds", "400ms"];
    let lines = measure(folder.path(), &args);
    let timed = positive(&lines, "changes timed", "changes");
    let rates = positive(&lines, "changes made", "changes/s");
    // A round takes 400 ms or more. Changes of one turn may be of one leaf.
    for (timed, rate) in timed.iter().zip(&rates) {
        assert!(*timed >= rate * 0.4 * 0.5, "{timed} of {rate}/s");
    }
    for n in 0..2 {
        let of = |share: &str| positive(&lines, &format!("latency {share}"), "us")[n];
        let shares = ["p50", "p90", "p99", "p99.9", "max"].map(of);
        assert!(shares.is_sorted(), "{shares:?}");
    }
    assert_eq!(values(&lines, "EVENTs lost", "datagrams"), [0.0]);
    beside_its_limit(&lines, "latency p50", "limit: a bare datagram p50", "us");
    beside_its_limit(&lines, "latency p99", "limit: a bare datagram p99", "us");
}

#[test]
fn loss_is_made_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let args =
        ["latency", "--rate", "2000", "--period", "0", "--seconds", "500ms", "--loss", "0.1"];
    let lines = measure(folder.path(), &args);
    positive(&lines, "datagrams dropped on purpose", "datagrams");
    positive(&lines, "EVENTs lost", "datagrams");
    positive(&lines, "latency p99", "us");
}

#[test]
fn throughput_with_loss_stands_beside_that_without() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["fan-out", "--replicas", "2", "--seconds", "300ms", "--loss", "0.05"];
    let lines = measure(folder.path(), &args);
    assert_eq!(lines[0]["settings"]["loss"], 0.05);
    let calm = positive(&lines, "applied at each", "values/s");
    let lossy = positive(&lines, "applied at each, with loss", "values/s");
    let kept = positive(&lines, "share kept with loss", "%");
    for (n, kept) in kept.iter().enumerate() {
        assert!((kept - 100.0 * lossy[n] / calm[n]).abs() < 0.01, "{kept}: {lossy:?} of {calm:?}");
    }
    assert_eq!([calm.len(), lossy.len(), kept.len()], [2; 3]);
    positive(&lines, "datagrams dropped on purpose", "datagrams");
    positive(&lines, "EVENTs lost", "datagrams");
    positive(&lines, "REQUESTs", "datagrams");
}

#[test]
fn a_burst_that_is_larger_than_the_receive_buffer_is_seen_to_be() {
    let folder = tempfile::tempdir().unwrap();
    // Some 3 MB every 100 ms, for a buffer that takes one message of segments.
    let args = "throughput --leaves 10000 --rate 100000 --period 100ms --seconds 400ms \
        --repetitions 1 --warm-up 100ms --receive-buffer 4KiB --json";
    let lines = lines(&run(folder.path(), &args.split_whitespace().collect::<Vec<_>>()));
    assert_eq!(lines[0]["settings"]["receive_buffer"], 4_096);
    assert_eq!(lines[0]["settings"]["rate"], 100_000);
    let made = |name, unit| values(&lines, name, unit)[0];
    assert!(made("changes made", "changes/s") < 200_000.0, "{lines:?}");
    assert!(made("EVENTs received", "datagrams") > 0.0, "{lines:?}");
    assert!(made("EVENTs lost", "datagrams") > 0.0, "{lines:?}");
    assert!(made("messages that found a full queue", "messages") > 0.0, "{lines:?}");
}

#[test]
fn a_late_joiner_gets_every_leaf() {
    let folder = tempfile::tempdir().unwrap();
    let lines = measure(folder.path(), &["late-join"]);
    assert_eq!(positive(&lines, "until equal", "ms").len(), 2);
    let bytes = positive(&lines, "bytes received", "B");
    assert!(bytes.iter().all(|bytes| *bytes > 500.0 * 64.0), "{bytes:?}");
    assert_eq!(values(&lines, "leaves verified", "leaves"), [500.0]);
    beside_its_limit(&lines, "until equal", "limit: as many bytes in bare datagrams", "ms");
}

#[test]
fn a_subscriber_that_was_stopped_is_equal_again() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["repair", "--rate", "1000", "--pause", "200ms"];
    let lines = measure(folder.path(), &args);
    assert_eq!(positive(&lines, "until equal again", "ms").len(), 2);
    assert_eq!(values(&lines, "RESPONSE bytes", "B").len(), 2);
    beside_its_limit(&lines, "until equal again", "limit: as many bytes in bare datagrams", "ms");
    positive(&lines, "latency p50", "us");
}

#[test]
fn bare_sessions_are_open_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["clients", "--sessions", "20", "--seconds", "200ms"];
    let lines = measure(folder.path(), &args);
    assert_eq!(values(&lines, "sessions open", "sessions"), [20.0]);
    assert!(positive(&lines, "datagrams sent", "datagrams").iter().all(|sent| *sent >= 20.0));
    positive(&lines, "processor a datagram", "us");
}

/// A figure at each point of a series, as (where, median).
fn points(lines: &[Value], series: &str, name: &str) -> Vec<(u64, f64)> {
    let of = |line: &&Value| line["settings"]["grows"] == series && line["measure"] == name;
    let told = |line: &Value| {
        let at = line["settings"][series].as_u64().unwrap();
        (at, line["median"].as_f64().unwrap())
    };
    lines.iter().filter(of).map(told).collect()
}

#[test]
fn growth_has_a_point_for_each_quantity() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["growth", "--quick", "--leaves-max", "2000", "--sessions-max", "10", "--json"];
    let output = run(folder.path(), &args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("mapleaf-load growth: leaves 2000"), "{errors}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let lines = lines(&output);
    let settings = &lines[0]["settings"];
    assert_eq!((&lines[0]["command"], &settings["quick"]), (&"growth".into(), &true.into()));
    assert!(settings["machine"]["load_average"].is_number());
    assert!(settings["load_average_at_end"].is_number());
    let period = "processor, a period with changes";
    for (series, at) in [
        ("leaves", &[1_000, 2_000][..]),
        ("changed", &[1, 10, 100, 1_000]),
        ("sessions", &[1, 10]),
        ("size", &[16, 200]),
    ] {
        let (found, costs): (Vec<_>, Vec<_>) = points(&lines, series, period).into_iter().unzip();
        assert_eq!(found, at, "{series}");
        assert!(costs.iter().all(|cost| *cost > 0.0), "{series}: {costs:?}");
    }
    // Every leaf comes with its Data, and more of them need more memory.
    for (name, of_each) in [("late join, received", 200), ("server memory beside its file", 8)] {
        let points = points(&lines, "leaves", name);
        assert!(points.len() == 2, "{name}: {points:?}");
        let enough = |(leaves, bytes): &(u64, f64)| *bytes > (leaves * of_each) as f64;
        assert!(points.iter().all(enough), "{name}: {points:?}");
    }
    let idle = points(&lines, "sessions", "processor, a period without changes");
    assert!(idle.len() == 2 && idle.iter().all(|(_, cost)| *cost > 0.0), "{idle:?}");
    let received = points(&lines, "size", "late join, received");
    assert!(received[0].1 > 10_000.0 * 16.0 && received[1].1 > 10_000.0 * 200.0, "{received:?}");
    let opened = points(&lines, "leaves", "opening and verifying");
    assert!(opened.len() == 2 && opened.iter().all(|(_, ms)| *ms > 0.0), "{opened:?}");
    assert!(points(&lines, "changed", "late join").is_empty());
}

#[test]
fn a_disk_stands_beside_memory() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, other] = folders.each_ref().map(|folder| folder.path().to_str().unwrap());
    let args = ["disk", "--json", "--pages", "64", "--seconds", "300ms", "--rate", "2000"];
    let output = run(Path::new(one), &[&args[..], &["--dir", other]].concat());
    let lines = lines(&output);
    assert_eq!(lines[0]["settings"]["folders"].as_array().unwrap().len(), 2);
    // Leaves of 256 bytes with their heads: 16 a page.
    assert_eq!(lines[0]["settings"]["leaves"], 64 * 16);
    for folder in [one, other] {
        let figure = |name: &str, unit| positive(&lines, &format!("{folder}: {name}"), unit);
        figure("updates, made", "updates/s");
        // 2,000 a second for 300 ms or more, counted until it was paused.
        assert!(figure("server, changes made", "changes/s")[0] < 4_000.0);
        for (what, unit) in [
            ("updates, one", "us"),
            ("server, a turn", "ms"),
            ("server, a turn that has a processor", "ms"),
        ] {
            let of = |name: &str| figure(&format!("{what}, {name}"), unit)[0];
            let times = ["p50", "p99", "p99.9", "longest"].map(of);
            assert!(times.is_sorted(), "{what}: {times:?}");
        }
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    }
}

#[test]
fn a_table_is_for_people_and_errors_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["late-join", "--leaves", "10", "--repetitions", "1"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && table.contains("until equal"), "{table}");
    assert!(table.lines().any(|line| line.starts_with("figure")), "{table}");
    for (args, told) in [
        (&["late-join", "--size", "8"][..], "wanted 16 bytes or more"),
        (&["latency", "--loss", "2"], "wanted a share from 0 to 0.5"),
        (&["late-join", "--size", "2000", "--leaves", "3"], "2000"),
    ] {
        let output = run(folder.path(), args);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains(told), "{args:?}: {errors}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
