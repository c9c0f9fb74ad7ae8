//! Options that every measurement has.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use serde_json::json;

use mapleaf::runtime::Transport;
use mapleaf::runtime::Waiting;

use crate::parse;

/// What is measured, and how often.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// Leaves of the tree
    #[arg(long, default_value_t = 10_000, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=16_000_000))]
    pub(crate) leaves: u32,
    /// Bytes of Data of each leaf
    #[arg(long, default_value = "200", value_name = "SIZE", value_parser = data_size)]
    pub(crate) size: u32,
    /// The server's tick; 0 sends as soon as the input is drained
    #[arg(long, default_value = "1ms", value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) period: Duration,
    /// Largest datagram payload
    #[arg(long, default_value = "1200", value_name = "SIZE", value_parser = parse::datagram_size)]
    pub(crate) datagram_size: usize,
    /// Threads of the server that send beside its loop
    #[arg(long, default_value_t = 0, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(0..=64))]
    pub(crate) senders: u32,
    /// Most bytes of a period that the server sends at once to each subscriber; 0: all
    #[arg(long, default_value = "0", value_name = "SIZE", value_parser = parse::size_u32)]
    pub(crate) burst: u32,
    /// What the server's datagrams leave by; raw needs CAP_NET_RAW
    #[arg(long, default_value = "udp", value_name = "udp|raw", value_parser = parse::transport)]
    pub(crate) transport: Transport,
    /// Bytes that each subscriber's socket asks for to receive into
    #[arg(long, default_value = "4MiB", value_name = "SIZE", value_parser = parse::size_u32)]
    pub(crate) receive_buffer: u32,
    /// Server and subscribers spin instead of sleeping
    #[arg(long)]
    pub(crate) busy_poll: bool,
    /// Folder for the trees; a folder in it is made and removed [default: /dev/shm if
    /// there is one]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
    /// How often it is measured
    #[arg(long, default_value_t = 3, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) repetitions: u32,
    /// Time that is run but not measured, first
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) warm_up: Duration,
    /// Print JSON, a line for each figure, instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Data holds a moment and a round.
const SIZE_MIN: u32 = 16;

/// Bytes of Data of a leaf.
pub(crate) fn data_size(text: &str) -> Result<u32, String> {
    match parse::size_u32(text)? {
        size if size >= SIZE_MIN => Ok(size),
        size => Err(format!("wanted {SIZE_MIN} bytes or more, found {size}")),
    }
}

/// A folder that lies in memory, if there is one.
pub(crate) fn in_memory() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

impl Common {
    pub(crate) fn waiting(&self) -> Waiting {
        if self.busy_poll { Waiting::Spin } else { Waiting::Sleep }
    }

    /// Where the trees lie: in memory, unless the disk is asked for.
    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(in_memory)
    }

    /// What was asked for, with the options of one command beside.
    pub(crate) fn told(&self, mut others: Value) -> Value {
        let common = json!({
            "leaves": self.leaves,
            "size": self.size,
            "period_s": self.period.as_secs_f64(),
            "datagram_size": self.datagram_size,
            "senders": self.senders,
            "burst": self.burst,
            "receive_buffer": self.receive_buffer,
            "busy_poll": self.busy_poll,
            "transport": format!("{:?}", self.transport).to_lowercase(),
            "folder": self.folder(),
            "repetitions": self.repetitions,
            "warm_up_s": self.warm_up.as_secs_f64(),
        });
        if let (Value::Object(others), Value::Object(common)) = (&mut others, common) {
            others.extend(common);
        }
        others
    }
}
