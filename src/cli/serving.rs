//! What a server and a relay are told alike.

use core::time::Duration;

use clap::Args;

use mapleaf::runtime::ReloadableConfig;
use mapleaf::runtime::Transport;
use mapleaf::sync::Prefix;

use crate::cli::parse;

/// Options of those who serve.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServingArgs {
    /// Time between two EVENTs of changed leaves; 0: as soon as the input is drained
    #[arg(long, env = "MAPLEAF_PERIOD", value_name = "TIME", default_value = "100ms",
        value_parser = parse::duration)]
    period: Duration,
    /// Payload of a datagram in bytes, at most 65507; a leaf has to fit into one
    #[arg(long, env = "MAPLEAF_DATAGRAM_SIZE", value_name = "SIZE", default_value = "1200",
        value_parser = parse::datagram_size)]
    pub(crate) datagram_size: usize,
    /// What sends: the UDP socket, or a raw one (needs CAP_NET_RAW)
    #[arg(long, env = "MAPLEAF_TRANSPORT", value_name = "udp|raw", default_value = "udp",
        value_parser = parse::transport)]
    pub(crate) transport: Transport,
    /// Most bytes of a period that leave at once to each client, 64KiB at least; the rest
    /// leaves in slices within half of the period, for receivers whose buffers are small.
    /// 0: all at once. Not with --period 0
    #[arg(long, env = "MAPLEAF_BURST", value_name = "SIZE", default_value = "0",
        value_parser = parse::size_u32)]
    pub(crate) burst: u32,
    /// Addresses that are let in, such as 10.0.0.0/8 or fd00::/8; may be repeated
    /// [default: loopback]
    #[arg(long, env = "MAPLEAF_ALLOW", value_name = "PREFIX", value_delimiter = ',')]
    allow: Vec<Prefix>,
    /// A client that is silent for so long is dropped
    #[arg(long, env = "MAPLEAF_LEASE", value_name = "TIME", default_value = "10s",
        value_parser = parse::positive_duration)]
    lease: Duration,
    /// Longest silence towards clients when nothing changes
    #[arg(long, env = "MAPLEAF_HEARTBEAT", value_name = "TIME", default_value = "250ms",
        value_parser = parse::positive_duration)]
    heartbeat: Duration,
    /// Most clients and devices at a time
    #[arg(long, env = "MAPLEAF_SESSIONS_MAX", value_name = "N", default_value = "4096",
        value_parser = clap::value_parser!(u32).range(1..))]
    sessions_max: u32,
}

impl ServingArgs {
    /// What may change while it runs.
    pub(crate) fn config(&self) -> ReloadableConfig {
        ReloadableConfig {
            period: self.period,
            heartbeat: self.heartbeat,
            lease: self.lease,
            sessions_max: self.sessions_max as usize,
            allowed: self.allow.clone(),
            ..ReloadableConfig::default()
        }
    }
}
