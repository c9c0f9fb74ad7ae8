//! Who they are, what they are started with, and why that is their best.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context as _;

use crate::Seat;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// Ourselves, where we are measured by the same counters.
    Mapleaf,
    Bare,
    Bare60k,
    Redis,
    Nats,
    Jetstream,
    Zenoh,
    Mosquitto,
    Cyclone,
    Aeron,
}

impl Rival {
    pub const ALL: [Rival; 10] = [
        Rival::Mapleaf,
        Rival::Bare,
        Rival::Bare60k,
        Rival::Redis,
        Rival::Nats,
        Rival::Jetstream,
        Rival::Zenoh,
        Rival::Mosquitto,
        Rival::Cyclone,
        Rival::Aeron,
    ];

    pub fn named(name: &str) -> Option<Rival> {
        Rival::ALL.into_iter().find(|rival| rival.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Rival::Mapleaf => "mapleaf",
            Rival::Bare => "bare",
            Rival::Bare60k => "bare60k",
            Rival::Redis => "redis",
            Rival::Nats => "nats",
            Rival::Jetstream => "jetstream",
            Rival::Zenoh => "zenoh",
            Rival::Mosquitto => "mosquitto",
            Rival::Cyclone => "cyclone",
            Rival::Aeron => "aeron",
        }
    }

    /// Values of one message where the rows do not say how many: what fits a datagram.
    pub fn records(self, asked: u32) -> u32 {
        match self {
            Rival::Bare => 7,
            Rival::Bare60k => 300,
            _ => asked,
        }
    }

    /// Whether it can do a row of so many records a publish at all.
    pub fn takes_batches(self) -> bool {
        // One key is one message.
        self != Rival::Jetstream
    }

    /// Whether the rival itself keeps the last value of each leaf for those who come late.
    pub fn keeps_state(self) -> bool {
        matches!(self, Rival::Redis | Rival::Jetstream | Rival::Mosquitto | Rival::Cyclone)
    }

    /// Whether leaves are keys in every row: for JetStream's buckets there is no other way.
    pub fn always_keyed(self) -> bool {
        self == Rival::Jetstream
    }

    /// Values that the slowest subscriber may be behind, for those that do not hold a
    /// publisher that is too fast; 0 for those that do. Some MB are queued in the broker
    /// then, so that no side waits for another; the bare harness has a socket's buffer.
    pub fn window(self, records: u32) -> u64 {
        match self {
            Rival::Bare => 7 * 600,
            Rival::Bare60k => 300 * 20,
            Rival::Redis | Rival::Nats | Rival::Jetstream | Rival::Mosquitto => {
                8_192.max(u64::from(records) * 256)
            }
            // It never waits: what it cannot send yet is conflated.
            Rival::Mapleaf => 0,
            Rival::Zenoh | Rival::Cyclone | Rival::Aeron => 0,
        }
    }

    /// Whether a receiver that spins is one of its modes.
    pub fn spins(self) -> bool {
        !matches!(self, Rival::Zenoh | Rival::Cyclone)
    }

    /// What it was set to, for the reader of the table.
    pub fn settings(self) -> &'static str {
        match self {
            Rival::Mapleaf => {
                "UDP, datagrams of 1,200 B, period 1 ms (0 over the lossy link), replicas in files"
            }
            Rival::Bare => {
                "UDP, 1,400 B, one send a subscriber, 4 MiB buffers; held to 4,200 values ahead of the slowest subscriber"
            }
            Rival::Bare60k => {
                "UDP, 60,000 B, one send a subscriber, 4 MiB buffers; held to 6,000 values ahead of the slowest subscriber"
            }
            Rival::Redis => {
                "pub/sub, raw RESP, pipelined, CLIENT REPLY OFF, no persistence, no output limit; held to 8,192 values (256 messages) ahead; late join: keys by MGET"
            }
            Rival::Nats => {
                "core, raw protocol, pipelined, verbose off; held to 8,192 values (256 messages) ahead; late join: leaves told by the publisher"
            }
            Rival::Jetstream => {
                "KV bucket in memory, history 1, puts without acknowledgement, push consumer without acknowledgement; held to 8,192 values ahead"
            }
            Rival::Zenoh => {
                "peer to peer, TCP, reliable, CongestionControl::Block (its own flow control), express only in latency rows; late join: leaves told by the publisher"
            }
            Rival::Mosquitto => {
                "MQTT 3.1.1, quality 0, no persistence, unlimited queues, TCP_NODELAY; held to 8,192 values (256 messages) ahead; late join: retained topics"
            }
            Rival::Cyclone => {
                "reliable, KEEP_ALL (its own flow control), 65,500 B messages, write batching in throughput rows, listener on the receiving thread; late join: keyed, transient-local, KEEP_LAST 1"
            }
            Rival::Aeron => {
                "UDP, dynamic multi-destination-cast, min flow control (its own), one driver for all in SHARED mode (over the lossy link one each side, MTU 1,408), MTU 16,352, 4 MiB terms; late join: leaves told by the publisher"
            }
        }
    }

    /// Its version, or why it is not to be had.
    pub fn version(self) -> anyhow::Result<String> {
        match self {
            Rival::Mapleaf => Ok("of this repository".to_owned()),
            Rival::Bare | Rival::Bare60k => Ok(fs::read_to_string("/proc/sys/kernel/osrelease")?),
            Rival::Redis => told("redis-server", "--version"),
            Rival::Nats | Rival::Jetstream => told(&nats(), "--version"),
            Rival::Mosquitto => told("mosquitto", "-h"),
            Rival::Zenoh if cfg!(feature = "zenoh") => Ok("crate zenoh 1.10.2".to_owned()),
            Rival::Aeron if cfg!(feature = "aeron") => {
                Ok("1.54.0 in C, by crates rusteron-client and rusteron-media-driver 0.2.16"
                    .to_owned())
            }
            Rival::Cyclone if cfg!(feature = "cyclone") => {
                Ok(option_env!("CYCLONE_VERSION").unwrap_or("of the system").to_owned())
            }
            _ => anyhow::bail!("this program was built without it"),
        }
        .map(|version| version.trim().to_owned())
    }

    /// The server that stands between, if there is one.
    pub fn broker(self, seat: &Seat) -> anyhow::Result<Option<Command>> {
        let (dir, host, port) = (&seat.dir, seat.near(), seat.port.to_string());
        let mut command;
        match self {
            Rival::Redis => {
                command = Command::new("redis-server");
                command.args(["--port", &port, "--bind", host, "--save", "", "--appendonly", "no"]);
                if seat.lossy {
                    // Nobody else is in this network namespace.
                    command.args(["--protected-mode", "no"]);
                }
                command.args(["--client-output-buffer-limit", "pubsub 0 0 0", "--daemonize", "no"]);
                command.arg("--dir").arg(dir);
            }
            Rival::Nats | Rival::Jetstream => {
                let file = dir.join("nats.conf");
                let store = dir.join("jetstream");
                let jetstream = match self {
                    Rival::Jetstream => format!(
                        "jetstream {{ store_dir: \"{}\", max_mem: 8GB }}\n",
                        store.display()
                    ),
                    _ => String::new(),
                };
                // A slow subscriber is kept, and nobody is asked whether it is alive.
                let text = "max_pending: 4GB\nwrite_deadline: \"60s\"\nping_interval: \"10m\"\n";
                fs::write(&file, format!("listen: {host}:{port}\n{text}{jetstream}"))?;
                command = Command::new(nats());
                command.arg("-c").arg(file);
            }
            Rival::Mosquitto => {
                let file = dir.join("mosquitto.conf");
                let text = format!(
                    "listener {port} {host}\nallow_anonymous true\npersistence false\n\
                     max_queued_messages 0\nmax_queued_bytes 0\nset_tcp_nodelay true\nlog_type none\nuser root\n"
                );
                fs::write(&file, text)?;
                command = Command::new("mosquitto");
                command.arg("-c").arg(file);
            }
            Rival::Aeron => command = aeron_driver(&seat.driver(), seat.lossy)?,
            _ => return Ok(None),
        }
        Ok(Some(command))
    }

    /// What stands on the machine of subscribers, where that is another one.
    pub fn far_broker(self, seat: &Seat) -> anyhow::Result<Option<Command>> {
        let is_needed = self == Rival::Aeron && seat.lossy;
        is_needed.then(|| aeron_driver(&seat.far_driver(), seat.lossy)).transpose()
    }
}

fn aeron_driver(dir: &Path, lossy: bool) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("aeron-driver").arg(dir);
    // Two cores: one thread that yields serves better than three that spin.
    command.envs([
        ("AERON_THREADING_MODE", "SHARED"),
        ("AERON_SHARED_IDLE_STRATEGY", "aeron_idle_strategy_backoff"),
        // Larger than a packet of a network is only for the machine's own.
        ("AERON_MTU_LENGTH", if lossy { "1408" } else { "16352" }),
        ("AERON_SOCKET_SO_RCVBUF", "4m"),
        ("AERON_SOCKET_SO_SNDBUF", "4m"),
        ("AERON_RCV_INITIAL_WINDOW_LENGTH", "2m"),
        ("AERON_TERM_BUFFER_LENGTH", "4m"),
        ("AERON_TERM_BUFFER_SPARSE_FILE", "1"),
    ]);
    Ok(command)
}

/// `NATS_SERVER` names another one than the system's.
fn nats() -> String {
    std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned())
}

/// The first line that a program says of itself.
fn told(program: &str, flag: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(flag).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{program} is not installed"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or("unknown").to_owned())
}
