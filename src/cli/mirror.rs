//! `mapleaf mirror`: keeps a file a replica, and may serve it on.

use core::time::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use anyhow::bail;
use arc_swap::ArcSwap;
use clap::Args;
use clap::builder::BoolishValueParser;

use mapleaf::net::Interface;
use mapleaf::runtime;
use mapleaf::runtime::Control;
use mapleaf::runtime::GroupState;
use mapleaf::runtime::GroupWish;
use mapleaf::runtime::MirrorEnd;
use mapleaf::runtime::MirrorObserver;
use mapleaf::runtime::MirrorOptions;
use mapleaf::runtime::MirrorReport;
use mapleaf::runtime::MirrorStatus;
use mapleaf::runtime::MirrorUntil;
use mapleaf::runtime::RelayOptions;
use mapleaf::runtime::Waiting;
use mapleaf::sync::Joined;
use mapleaf::tree::Tree;

use crate::cli::exit::Exit;
use crate::cli::output::say;
use crate::cli::output::word;
use crate::cli::parse;
use crate::cli::parse::Address;
use crate::cli::progress::Progress;
use crate::cli::serving::ServingArgs;
use crate::cli::words::leaves;

/// Options of `mapleaf mirror`.
#[derive(Debug, Args)]
#[command(after_help = "FILE is made if it is missing and gone on from if it is there. With \
    --until-synced\nthe exit status is 1 when it is not in sync in time, and 2 when no server \
    answered in\n--timeout. --period, --datagram-size, --allow, --lease, --heartbeat and \
    --sessions-max are\nthose of --serve.\n\n\
    Example:\n  mapleaf mirror 127.0.0.1:4720 copy.mapleaf --until-synced --timeout 30s")]
pub(crate) struct MirrorArgs {
    /// Address of the server or relay
    addr: Address,
    /// File of the replica
    file: PathBuf,
    /// End as soon as the replica equals the server's tree
    #[arg(long, env = "MAPLEAF_UNTIL_SYNCED", value_parser = BoolishValueParser::new())]
    until_synced: bool,
    /// End after so long [default: never]
    #[arg(long = "for", env = "MAPLEAF_FOR", value_name = "TIME",
        value_parser = parse::positive_duration)]
    run_for: Option<Duration>,
    /// Time to be let in, and to be in sync with --until-synced [default: for ever]
    #[arg(long, env = "MAPLEAF_TIMEOUT", value_name = "TIME",
        value_parser = parse::positive_duration)]
    timeout: Option<Duration>,
    /// Only the leaves below this parent, such as /site/rack1 [default: all]
    #[arg(long, env = "MAPLEAF_PATH", value_name = "PARENT")]
    path: Option<String>,
    /// Take EVENTs by the server's multicast group, if it has one and it is heard
    #[arg(long, env = "MAPLEAF_JOIN_MULTICAST", value_parser = BoolishValueParser::new())]
    join_multicast: bool,
    /// Interface to join the group on [default: that towards the server]
    #[arg(long, env = "MAPLEAF_MULTICAST_INTERFACE", value_name = "NAME",
        value_parser = parse::interface)]
    multicast_interface: Option<Interface>,
    /// Serve the replica to others at this address
    #[arg(long, env = "MAPLEAF_SERVE", value_name = "ADDR")]
    serve: Option<Address>,
    #[command(flatten)]
    serving: ServingArgs,
    /// Poll without sleeping: lowest latency, one core busy
    #[arg(long, env = "MAPLEAF_BUSY_POLL", value_parser = BoolishValueParser::new())]
    busy_poll: bool,
}

impl MirrorArgs {
    fn options(&self) -> anyhow::Result<MirrorOptions> {
        let mut options = MirrorOptions::new(self.addr.resolve()?);
        options.file = Some(self.file.clone());
        options.filter = self.path.clone().unwrap_or_default();
        options.connect_timeout = self.timeout;
        options.run_for = self.run_for;
        options.waiting = if self.busy_poll { Waiting::Spin } else { Waiting::Sleep };
        options.transport = self.serving.transport;
        if self.join_multicast {
            options.group = GroupWish::Join(self.multicast_interface.unwrap_or_default());
        }
        options.serve = self.relay()?;
        if self.until_synced {
            options.until = MirrorUntil::InSync;
            options.run_for = self.run_for.into_iter().chain(self.timeout).min();
        }
        Ok(options)
    }

    fn relay(&self) -> anyhow::Result<Option<RelayOptions>> {
        let Some(address) = &self.serve else { return Ok(None) };
        Ok(Some(RelayOptions {
            listen: address.resolve().context("--serve")?,
            datagram_size: self.serving.datagram_size,
            transport: self.serving.transport,
            burst: self.serving.burst as usize,
            live: Arc::new(ArcSwap::from_pointee(self.serving.config())),
            on_ready: Some(Box::new(|address| {
                // Whoever started it may have closed its end: it serves all the same.
                let _ = say(format_args!("listening on {address}"));
            })),
            ..RelayOptions::default()
        }))
    }
}

/// Mirrors until what was asked for is there, or a signal comes.
pub(crate) fn mirror(args: &MirrorArgs) -> anyhow::Result<Exit> {
    let control =
        Control::new().and_then(Control::with_signals).context("cannot prepare for signals")?;
    let options = args.options()?;
    let server = options.server;
    let mut words = Words::new(server);
    let report = runtime::mirror(options, control, &mut words)?;
    words.progress.clear();
    end(args, server, &words, &report)
}

fn end(
    args: &MirrorArgs,
    server: SocketAddr,
    words: &Words,
    report: &MirrorReport,
) -> anyhow::Result<Exit> {
    if report.end != MirrorEnd::TimeUp || !args.until_synced {
        return Ok(Exit::Done);
    }
    if words.joins == 0 {
        bail!("no answer from {server} in time: is a server running there?");
    }
    let MirrorStatus { held_leaves, wanted_leaves, .. } = report.status;
    word(format_args!("not in sync in time: {held_leaves} of {} held", leaves(wanted_leaves)));
    Ok(Exit::No)
}

/// Tells people how it goes.
struct Words {
    server: SocketAddr,
    progress: Progress,
    joins: u32,
    synced: Synced,
}

/// What was last said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Synced {
    Never,
    Yes,
    NotAnyMore,
}

impl Words {
    fn new(server: SocketAddr) -> Words {
        Words {
            server,
            progress: Progress::new("copying", "leaves"),
            joins: 0,
            synced: Synced::Never,
        }
    }
}

impl MirrorObserver for Words {
    fn joined(&mut self, joined: &Joined) {
        self.joins += 1;
        let again = if self.joins > 1 { " again" } else { "" };
        word(format_args!("joined {}{again}: {}", self.server, leaves(joined.leaf_count)));
    }

    fn progress(&mut self, status: &MirrorStatus, _tree: Option<&Tree>) {
        if !status.in_sync && self.synced == Synced::Never && status.wanted_leaves > 0 {
            self.progress.at(u64::from(status.held_leaves), u64::from(status.wanted_leaves));
        }
    }

    fn in_sync(&mut self, tree: &Tree) {
        self.progress.clear();
        // A lost datagram now and then is no news: the first time is, and the
        // end of an outage.
        if self.synced != Synced::Yes {
            self.synced = Synced::Yes;
            word(format_args!("in sync at revision {}", tree.newest_revision()));
        }
    }

    fn group(&mut self, state: GroupState) {
        match state {
            GroupState::Heard => word("hears the multicast group"),
            _ => word("nothing comes by the multicast group: going on without it"),
        }
    }

    fn rejoining(&mut self) {
        if self.synced == Synced::Yes {
            self.synced = Synced::NotAnyMore;
        }
        word(format_args!("{} fell silent or ended the session: joining again", self.server));
    }
}
