//! How long a subscriber that begins with nothing takes until it is equal.

use clap::Args;
use serde_json::json;

use crate::figures::Report;
use crate::limit;
use crate::machine::rest;
use crate::options::Common;
use crate::world::Serving;
use crate::world::Subscriber;
use crate::world::World;

#[derive(Clone, Debug, Args)]
pub(crate) struct JoinArgs {
    #[command(flatten)]
    pub(crate) common: Common,
}

pub(crate) fn run(args: &JoinArgs) -> anyhow::Result<Report> {
    let common = &args.common;
    let mut report = Report::new("late-join", common.told(json!({})));
    let mut world = World::start(common, Serving::default())?;
    let mut kept = Vec::new();
    // The first finds cold files and sockets, and is not counted.
    for number in 0..=common.repetitions {
        let name = format!("replica-{number}");
        let mut one = world.subscribe(&name, world.address, &["--until-synced"])?;
        let said = one.wait()?;
        if number == 0 {
            rest(common.warm_up)?;
            continue;
        }
        report.add("until equal", "ms", said.until_equal_ms()?);
        let received = said.counter("socket.bytes_received") as f64;
        report.add("bytes received", "B", received);
        report.add("bytes sent", "B", said.counter("socket.bytes_sent") as f64);
        report.add("REQUESTs", "datagrams", said.counter("client.requests") as f64);
        report.add("datagrams received", "datagrams", {
            said.counter("socket.datagrams_received") as f64
        });
        kept = vec![one];
    }
    world.end()?;
    // Memory for one replica at a time: the last is looked at once more.
    world.verify(kept.iter().map(Subscriber::file))?;
    report.add("leaves verified", "leaves", f64::from(common.leaves));
    let bytes = report.median("bytes received").unwrap_or(0.0);
    limit::add_way(common, "until equal", bytes, &mut report)?;
    report.note("every checksum is verified when its leaf is applied, and the digest of all at the end; the last file was opened and verified once more");
    Ok(report)
}
