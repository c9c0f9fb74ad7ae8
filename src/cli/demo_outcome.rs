//! What came of a demo, and how it is told.

use serde::Serialize;

use mapleaf::runtime::Counters;

use crate::cli::demo_world::Plan;
use crate::cli::exit::Exit;
use crate::cli::output::Output;
use crate::cli::output::Paint;
use crate::cli::output::colour;
use crate::cli::output::word;
use crate::cli::proxy::Passed;

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Lines for people.
    Text(Paint),
    /// One line of JSON.
    Json,
}

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) seconds: f64,
    pub(crate) different: Vec<String>,
    pub(crate) server: ServerTotals,
    pub(crate) devices: DeviceTotals,
    pub(crate) replicas: ReplicaTotals,
    pub(crate) passed: Passed,
}

/// What the server counted.
pub(crate) struct ServerTotals {
    pub(crate) events: u64,
    pub(crate) conflated: u64,
}

/// What the devices counted.
pub(crate) struct DeviceTotals {
    pub(crate) reported: u64,
    pub(crate) acknowledged: u64,
    pub(crate) repeated: u64,
}

/// What the replicas counted together.
#[derive(Default)]
pub(crate) struct ReplicaTotals {
    pub(crate) gaps: u64,
    pub(crate) missed: u64,
    pub(crate) requests: u64,
    pub(crate) repaired: u64,
    pub(crate) applied: u64,
}

/// What came of it as a line of JSON.
#[derive(Serialize)]
struct OutcomeLine {
    devices: u32,
    replicas: usize,
    events: u64,
    lost: u64,
    repaired: u64,
    equal: bool,
    seconds: f64,
}

impl Outcome {
    /// Says it, and what the exit status is.
    pub(crate) fn tell(&self, plan: &Plan, style: Style) -> anyhow::Result<Exit> {
        let mut output = Output::stdout();
        match style {
            Style::Json => output.line(serde_json::to_string(&self.json(plan))?)?,
            Style::Text(paint) => {
                self.text(plan, paint).iter().try_for_each(|line| output.line(line))?;
            }
        }
        output.flush()?;
        for difference in &self.different {
            word(format_args!("mapleaf: {difference}"));
        }
        Ok(if self.different.is_empty() { Exit::Done } else { Exit::No })
    }

    fn json(&self, plan: &Plan) -> OutcomeLine {
        OutcomeLine {
            devices: plan.devices,
            replicas: plan.replicas,
            events: self.server.events,
            lost: self.passed.dropped,
            repaired: self.replicas.repaired,
            equal: self.different.is_empty(),
            seconds: (self.seconds * 1_000.0).round() / 1_000.0,
        }
    }

    fn text(&self, plan: &Plan, paint: Paint) -> [String; 7] {
        let Outcome { server, devices, replicas, passed, .. } = self;
        let verdict = match self.different.len() {
            0 => paint.with(colour::GREEN, "equal byte for byte"),
            count => paint.with(colour::RED, &format!("NOT EQUAL: {count}")),
        };
        [
            format!(
                "reported   {} changes by {} devices, {} acknowledged, {} datagrams sent again",
                devices.reported, plan.devices, devices.acknowledged, devices.repeated
            ),
            format!(
                "conflated  {} changes: a newer one of the same device came in their period",
                server.conflated
            ),
            format!(
                "lost       {} of {} datagrams; {} doubled, {} reordered",
                passed.dropped,
                passed.dropped + passed.forwarded,
                passed.doubled,
                passed.reordered
            ),
            format!(
                "found      {} gaps in the EventNums, {} of the EVENTs behind them missing",
                replicas.gaps, replicas.missed
            ),
            format!("repaired   {} leaves by {} REQUESTs", replicas.repaired, replicas.requests),
            format!(
                "applied    {} leaves by EVENTs; the server made {} EVENTs",
                replicas.applied, server.events
            ),
            format!(
                "replicas   {} of {}: {verdict}, {:.1} s",
                plan.replicas.saturating_sub(self.different.len()),
                plan.replicas,
                self.seconds
            ),
        ]
    }
}

impl ServerTotals {
    /// From what is published.
    pub(crate) fn of(counters: &Counters) -> ServerTotals {
        let value = |name| counters.value("server", name).unwrap_or(0);
        ServerTotals { events: value("events"), conflated: value("conflated") }
    }
}

impl DeviceTotals {
    /// From what is published.
    pub(crate) fn of(counters: &[Counters]) -> DeviceTotals {
        let sum = |name| counters.iter().filter_map(|one| one.value("device", name)).sum();
        DeviceTotals {
            reported: sum("leaves_reported"),
            acknowledged: sum("leaves_acknowledged"),
            repeated: sum("reports_repeated"),
        }
    }
}

impl ReplicaTotals {
    /// Adds what one replica published.
    pub(crate) fn add(&mut self, counters: &Counters) {
        let value = |name| counters.value("client", name).unwrap_or(0);
        self.gaps += value("gaps");
        self.missed += value("events_lost");
        self.requests += value("requests");
        self.repaired += value("leaves_repaired");
        self.applied += value("leaves_changed");
    }
}
