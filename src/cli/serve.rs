//! `mapleaf serve`: serves a tree until a signal comes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use clap::Args;
use clap::ValueEnum;
use clap::builder::BoolishValueParser;

use mapleaf::net::Interface;
use mapleaf::net::Offload;
use mapleaf::runtime;
use mapleaf::runtime::Control;
use mapleaf::runtime::Durability;
use mapleaf::runtime::Multicast;
use mapleaf::runtime::ReloadableConfig;
use mapleaf::runtime::SENDERS_MAX;
use mapleaf::runtime::ServeOptions;
use mapleaf::runtime::Waiting;
use mapleaf::tree::Damaged;

use crate::cli::exit::Exit;
use crate::cli::output::say;
use crate::cli::parse;
use crate::cli::parse::Address;
use crate::cli::serving::ServingArgs;

/// Options of `mapleaf serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Prints `listening on ADDR` when it is ready. SIGHUP reads --config and \
    --schema again:\nwhat --period, --heartbeat, --lease, --sessions-max and --allow say may \
    change.\nSIGTERM ends it.\n\n\
    Example:\n  mapleaf serve fleet.mapleaf --listen 127.0.0.1:4720 --period 20ms")]
pub(crate) struct ServeArgs {
    /// The tree file
    file: PathBuf,
    /// Address to listen on; port 0 picks one
    #[arg(long, env = "MAPLEAF_LISTEN", value_name = "ADDR")]
    listen: Address,
    #[command(flatten)]
    serving: ServingArgs,
    /// Poll without sleeping: lowest latency, one core busy
    #[arg(long, env = "MAPLEAF_BUSY_POLL", value_parser = BoolishValueParser::new())]
    busy_poll: bool,
    /// Multicast group: EVENTs of the whole tree leave once for all mirrors that hear it,
    /// such as 239.1.2.3:4721 or [ff15::1]:4721
    #[arg(long, env = "MAPLEAF_MULTICAST", value_name = "GROUP", value_parser = parse::group)]
    multicast: Option<SocketAddr>,
    /// Interface that datagrams to the group leave by [default: that of --listen]
    #[arg(long, env = "MAPLEAF_MULTICAST_INTERFACE", value_name = "NAME",
        value_parser = parse::interface)]
    multicast_interface: Option<Interface>,
    /// Networks that they pass: 1 is the server's own
    #[arg(long, env = "MAPLEAF_MULTICAST_TTL", value_name = "N", default_value_t = 1)]
    multicast_ttl: u8,
    /// Threads that send beside the loop, for many clients and spare cores; to a multicast
    /// group the loop sends
    #[arg(long, env = "MAPLEAF_SENDERS", value_name = "N", default_value = "0",
        value_parser = clap::value_parser!(u32).range(0..=SENDERS_MAX as i64))]
    senders: u32,
    /// Let the kernel send long periods from where they lie (MSG_ZEROCOPY), until it
    /// copies all the same. Not with --senders or --transport raw
    #[arg(long, env = "MAPLEAF_ZEROCOPY", value_name = "auto|off", default_value = "auto",
        value_parser = parse::offload)]
    zerocopy: Offload,
    /// What an acknowledged report survives: the death of the process, or power loss as
    /// well (a redo log beside the tree; reports wait for the disk)
    #[arg(long, env = "MAPLEAF_DURABILITY", value_enum, default_value_t = Survives::Process,
        value_name = "process|power", hide_possible_values = true)]
    durability: Survives,
    /// Schema that the tree is to follow: it grows by the parents and leaves that are new
    #[arg(long, env = "MAPLEAF_SCHEMA", value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Empty damaged leaves instead of refusing the tree; replicas follow
    #[arg(long, env = "MAPLEAF_RESET_DAMAGED", value_parser = BoolishValueParser::new())]
    reset_damaged: bool,
}

/// What an acknowledged report survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Survives {
    Process,
    Power,
}

impl ServeArgs {
    fn config(&self) -> ReloadableConfig {
        ReloadableConfig { schema: self.schema.clone(), ..self.serving.config() }
    }

    fn options(&self) -> anyhow::Result<ServeOptions> {
        let mut options = ServeOptions::new(&self.file);
        options.listen = self.listen.resolve().context("--listen")?;
        options.datagram_size = self.serving.datagram_size;
        options.transport = self.serving.transport;
        options.burst = self.serving.burst as usize;
        options.waiting = if self.busy_poll { Waiting::Spin } else { Waiting::Sleep };
        options.senders = self.senders as usize;
        options.zerocopy = self.zerocopy;
        options.durability = match self.durability {
            Survives::Process => Durability::Process,
            Survives::Power => Durability::Power,
        };
        options.damaged = if self.reset_damaged { Damaged::Reset } else { Damaged::Refuse };
        options.multicast = self.multicast.map(|group| Multicast {
            group,
            interface: self.multicast_interface.unwrap_or_default(),
            hops: self.multicast_ttl,
        });
        options.live = Arc::new(ArcSwap::from_pointee(self.config()));
        options.on_ready = Some(Box::new(|address| {
            // Whoever started it may have closed its end: it serves all the same.
            let _ = say(format_args!("listening on {address}"));
        }));
        Ok(options)
    }
}

/// Serves until a signal comes. `again` reads the arguments and the settings file
/// anew.
pub(crate) fn serve<F>(args: &ServeArgs, again: F) -> anyhow::Result<Exit>
where
    F: Fn() -> anyhow::Result<ServeArgs> + Send + 'static,
{
    let control = Control::new()
        .and_then(Control::with_signals)
        .context("cannot prepare for signals")?
        .on_reload(move || again().map(|args| args.config()).map_err(|error| format!("{error:#}")));
    runtime::serve(args.options()?, control)?;
    Ok(Exit::Done)
}
