//! What this machine is, what time it is, and what processes have used of it.

use std::fs;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use rustix::time::ClockId;
use rustix::time::clock_gettime;
use serde_json::Value;
use serde_json::json;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;

/// Linux counts processor time of a process in hundredths of a second for `stat`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Nanoseconds of the monotonic clock, which all processes of a machine share.
pub(crate) fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Processor model, cores and kernel.
pub(crate) fn describe() -> Value {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    json!({
        "cpu": model.unwrap_or("unknown"),
        "cores": thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average": load_average(),
    })
}

/// Processes that wanted a processor in the last minute, on average.
pub(crate) fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// What the sources were built from: as the builder said it in `MAPLEAF_COMMIT`, or what
/// is checked out where they were, if that is still there.
pub(crate) fn commit() -> Option<String> {
    if let Some(commit) = option_env!("MAPLEAF_COMMIT") {
        return Some(commit.to_owned());
    }
    let mut git = Command::new("git");
    git.args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=12"]);
    let told = git.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let told = told.status.success().then(|| String::from_utf8(told.stdout).ok())??;
    Some(told.trim().to_owned())
}

/// Processor seconds that this process and others have used since they began.
pub(crate) fn cpu_seconds(others: impl IntoIterator<Item = u32>) -> f64 {
    let all = others.into_iter().chain([std::process::id()]);
    all.filter_map(|id| ticks_of(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?))
        .map(|ticks| ticks as f64 / TICKS_PER_SECOND)
        .sum()
}

/// User and system time in a line of `/proc/ID/stat`: the 14th and 15th field, counted
/// behind the name, which may hold anything.
fn ticks_of(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Processor seconds of the thread of this process that has this name.
pub(crate) fn thread_seconds(name: &str) -> anyhow::Result<f64> {
    for task in fs::read_dir("/proc/self/task").context("cannot read /proc")? {
        let task = task?.path();
        let is_it = fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
        if is_it {
            // The first number is the time on a processor, in nanoseconds.
            let told = fs::read_to_string(task.join("schedstat"));
            let told = told.context("the kernel keeps no schedstat of threads")?;
            let ns = told.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
            return Ok(ns.context("schedstat without a number")? as f64 / 1e9);
        }
    }
    bail!("no thread is called {name}")
}

/// Bytes of pages of files that this process made dirty: what it caused to be written.
/// Memory has no such count.
pub(crate) fn written_by_this_process() -> Option<u64> {
    let io = fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.parse().ok()
}

/// Bytes of memory of this process that are resident.
pub(crate) fn resident() -> anyhow::Result<u64> {
    status("VmRSS:")
}

/// The same, without what is mapped from files.
pub(crate) fn private_memory() -> anyhow::Result<u64> {
    status("RssAnon:")
}

/// Bytes that a line of this process's status tells.
fn status(name: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("no {name} in /proc/self/status"))? * 1024)
}

fn interrupted() -> &'static Arc<AtomicBool> {
    static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    INTERRUPTED.get_or_init(|| {
        let flag = Arc::default();
        for signal in [SIGINT, SIGTERM] {
            // Without handlers a signal ends the program at once: folders stay.
            let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
        }
        flag
    })
}

/// Ends with an error when somebody wants this program to end, so that everything that
/// it has started is ended too.
pub(crate) fn go_on() -> anyhow::Result<()> {
    if interrupted().load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits so long.
pub(crate) fn rest(time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    loop {
        go_on()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// Waits until `done`, and gives up when something that takes a moment takes `limit`.
pub(crate) fn wait_for(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !done()? {
        go_on()?;
        if begun.elapsed() > limit {
            bail!("waited {} s, and {what} did not happen", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_behind_a_name_that_may_hold_anything() {
        let stat = "7 (a) b 1 2) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!(ticks_of(stat), Some(300));
        assert_eq!(ticks_of("7 (a) S 1"), None);
    }

    #[test]
    fn a_thread_is_found_by_its_name() {
        let work = || {
            let before = thread_seconds("works").unwrap();
            while thread_seconds("works").unwrap() <= before {}
        };
        thread::Builder::new().name("works".to_owned()).spawn(work).unwrap().join().unwrap();
        assert!(thread_seconds("rests").is_err());
    }

    #[test]
    fn work_costs_time_and_memory() {
        let before = cpu_seconds([]);
        let end = Instant::now() + Duration::from_millis(60);
        while Instant::now() < end || cpu_seconds([]) <= before {}
        assert!(resident().unwrap() > 100_000);
        assert!((10_000..resident().unwrap()).contains(&private_memory().unwrap()));
        assert!(now_ns() > 0 && now_ns() <= now_ns());
    }
}
