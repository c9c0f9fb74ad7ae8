//! The devices of a demo: a few threads report for all of them.

use core::fmt::Write as _;
use core::ops::Range;
use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;

use mapleaf::layout::DataLocId;
use mapleaf::runtime::Counters;
use mapleaf::runtime::Reporter;
use mapleaf::runtime::ReporterOptions;
use mapleaf::tree::Field;
use mapleaf::tree::Layout;
use mapleaf::tree::Value;

use crate::cli::demo_parts::joined;
use crate::cli::proxy::Passed;
use crate::cli::proxy::Proxy;
use crate::cli::proxy::SplitMix;
use crate::cli::proxy::Weather;

/// Threads that report, each with a session of its own.
const THREADS_MAX: u32 = 4;

/// Parents that the devices are spread over.
const SITES_MAX: u32 = 8;

/// Changes a second of each device, and the bounds of all together: something is
/// to be seen with few devices, and two cores do not fall behind with many.
const RATE_OF_ONE: f64 = 2.0;
const RATE_RANGE: Range<f64> = 100.0..20_000.0;

/// Time between two bursts of reports.
const BURST: Duration = Duration::from_millis(10);

/// Longest wait for an acknowledgement: the paths lose on purpose.
const PATIENCE: Duration = Duration::from_secs(60);

/// Words that a device says of itself.
const STATES: [&str; 4] = ["ok", "busy", "warm", "failed"];

/// Typed fields of every site.
const FIELDS: &str = "\
[[parent.field]]\nname = \"up\"\ntype = \"bool\"\n\
[[parent.field]]\nname = \"temp\"\ntype = \"f32\"\nunit = \"C\"\n\
[[parent.field]]\nname = \"load\"\ntype = \"u8\"\nunit = \"%\"\n\
[[parent.field]]\nname = \"rx_bytes\"\ntype = \"u64\"\nunit = \"B\"\n\
[[parent.field]]\nname = \"changes\"\ntype = \"u32\"\n\
[[parent.field]]\nname = \"state\"\ntype = \"text\"\nsize = 8\n";

/// The schema of a tree for so many devices.
pub(crate) fn schema(devices: u32) -> String {
    let sites = devices.clamp(1, SITES_MAX);
    let mut text = "name = \"demo\"\n[[parent]]\nname = \"fleet\"\n".to_owned();
    for site in 0..sites {
        let leaves = devices / sites + u32::from(site < devices % sites);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "[[parent]]\nname = \"site{site}\"\nin = \"/fleet\"\nleaves = {leaves}\n\
             leaf_name = \"device{{n}}\"\n{FIELDS}"
        );
    }
    text
}

/// Threads that report, behind one proxy.
pub(crate) struct Devices {
    proxy: Proxy,
    end: Arc<AtomicBool>,
    reported: Arc<AtomicU64>,
    threads: Vec<JoinHandle<anyhow::Result<Counters>>>,
}

impl Devices {
    /// Starts reporting for every leaf of the layout.
    ///
    /// # Errors
    ///
    /// What the system says about sockets and threads.
    pub(crate) fn start(
        layout: Layout,
        server: SocketAddr,
        weather: Weather,
        seed: u64,
    ) -> anyhow::Result<Devices> {
        let proxy = Proxy::start(server, weather).context("cannot start a proxy")?;
        let server = proxy.address();
        let mut started =
            Devices { proxy, end: Arc::default(), reported: Arc::default(), threads: Vec::new() };
        let layout = Arc::new(layout);
        let count = layout.leaf_count().clamp(1, THREADS_MAX);
        for index in 0..count {
            let group = started.group(&layout, index, count, seed);
            let thread = thread::Builder::new()
                .name("devices".to_owned())
                .spawn(move || group.run(server))
                .context("cannot start a thread")?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    /// One of `count` groups.
    fn group(&self, layout: &Arc<Layout>, index: u32, count: u32, seed: u64) -> Group {
        let devices = layout.leaf_count();
        // Below the number of devices, so it is a u32.
        let begin = |index| (u64::from(devices) * u64::from(index) / u64::from(count)) as u32;
        let leaves = begin(index)..begin(index + 1);
        let rate = (f64::from(devices) * RATE_OF_ONE).clamp(RATE_RANGE.start, RATE_RANGE.end);
        Group {
            held: vec![Vec::new(); leaves.len()],
            leaves,
            layout: Arc::clone(layout),
            // Away from the streams of the proxies.
            random: SplitMix(!seed.wrapping_add(u64::from(index))),
            rate: rate / f64::from(count),
            end: Arc::clone(&self.end),
            reported: Arc::clone(&self.reported),
        }
    }

    /// Asks them to report what is left, and to end.
    pub(crate) fn end(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    /// What went wrong, if a thread ended early.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let early = |thread: &mut JoinHandle<_>| thread.is_finished();
        match self.threads.extract_if(.., early).next() {
            None => Ok(()),
            Some(thread) => joined(thread)?.and_then(|_| bail!("ended early")).context("devices"),
        }
    }

    /// Whether every thread came to an end.
    pub(crate) fn are_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Changes reported so far.
    pub(crate) fn reported(&self) -> u64 {
        self.reported.load(Ordering::Relaxed)
    }

    /// What their proxy did.
    pub(crate) fn passed(&self) -> Passed {
        self.proxy.passed()
    }

    /// Waits for the threads and gives what each counted.
    pub(crate) fn join(&mut self) -> anyhow::Result<Vec<Counters>> {
        self.threads.drain(..).map(|thread| joined(thread)?.context("devices")).collect()
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.end();
    }
}

/// The devices that one thread reports for.
struct Group {
    leaves: Range<u32>,
    layout: Arc<Layout>,
    held: Vec<Vec<u8>>,
    random: SplitMix,
    rate: f64,
    end: Arc<AtomicBool>,
    reported: Arc<AtomicU64>,
}

impl Group {
    fn run(mut self, server: SocketAddr) -> anyhow::Result<Counters> {
        let mut options = ReporterOptions::new(server);
        options.connect_timeout = PATIENCE;
        options.report_timeout = PATIENCE;
        let mut reporter = Reporter::connect(options)?;
        let mut last = Instant::now();
        let mut due = 0.0;
        while !self.end.load(Ordering::Relaxed) {
            let now = Instant::now();
            due += self.rate * now.duration_since(last).as_secs_f64();
            // What a slow path made wait is not made up for: devices report what
            // is so now.
            due = due.min(self.rate);
            last = now;
            while due >= 1.0 && !self.end.load(Ordering::Relaxed) {
                due -= 1.0;
                self.change(&mut reporter)?;
            }
            wait(&mut reporter, BURST)?;
        }
        reporter.flush(PATIENCE).with_context(|| reporter.counters().to_string())?;
        Ok(reporter.close())
    }

    /// One device changes a little.
    fn change(&mut self, reporter: &mut Reporter) -> anyhow::Result<()> {
        let index = self.random.below(self.leaves.len() as u32);
        let leaf = DataLocId(self.leaves.start + index);
        let Some(held) = self.held.get_mut(index as usize) else { return Ok(()) };
        for field in self.layout.fields_of(leaf) {
            if let Some(value) = next_value(field, held, &mut self.random) {
                field.encode(&value, held)?;
            }
        }
        reporter.report(leaf, held)?;
        self.reported.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Keeps the session for so long, whatever comes meanwhile.
fn wait(reporter: &mut Reporter, time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    {
        reporter.poll(left)?;
    }
    Ok(())
}

/// What a field holds after the next change; nothing if it stays.
fn next_value(field: &Field, held: &[u8], random: &mut SplitMix) -> Option<Value> {
    let number = |held: &[u8]| match field.decode(held) {
        Some(Value::Unsigned(value)) => value,
        _ => 0,
    };
    match field.name.as_str() {
        "changes" => Some(Value::Unsigned(number(held).wrapping_add(1) & u64::from(u32::MAX))),
        "rx_bytes" => {
            Some(Value::Unsigned(number(held).wrapping_add(u64::from(random.below(1 << 20)))))
        }
        "temp" => Some(Value::Float(f64::from(random.below(600)) / 10.0)),
        "load" => Some(Value::Unsigned(u64::from(random.below(101)))),
        "up" => Some(Value::Bool(random.below(100) > 0)),
        "state" if random.below(4) == 0 => {
            let state = STATES.get(random.below(STATES.len() as u32) as usize)?;
            Some(Value::Text((*state).to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_a_leaf_with_fields() {
        for devices in [1, 7, 8, 1000, 50_001] {
            let layout = Layout::from_toml(&schema(devices)).unwrap();
            assert_eq!(layout.leaf_count(), devices);
            assert_eq!(layout.fields_of(DataLocId(devices - 1)).len(), 6);
        }
    }

    #[test]
    fn a_change_changes_the_data() {
        let layout = Layout::from_toml(&schema(1)).unwrap();
        let mut random = SplitMix(1);
        let mut held = Vec::new();
        for round in 1..4_u64 {
            let before = held.clone();
            for field in layout.fields_of(DataLocId(0)) {
                if let Some(value) = next_value(field, &held, &mut random) {
                    field.encode(&value, &mut held).unwrap();
                }
            }
            assert_ne!(held, before);
            let changes = layout.fields_of(DataLocId(0)).iter().find(|one| one.name == "changes");
            assert_eq!(changes.unwrap().decode(&held), Some(Value::Unsigned(round)));
        }
    }
}
