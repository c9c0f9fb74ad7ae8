//! What is done with one input of the fuzzer, a function for each target.
//!
//! These bodies are run by fuzz/ with inputs that libFuzzer makes up, and by
//! `cargo test` with those that are kept. Each takes any bytes and panics only if
//! mapleaf breaks a promise. They read the bytes by [`Input`], which never
//! changes, so that a kept input means the same for ever.

#[cfg(feature = "cli")]
mod cli;
mod client;
pub(crate) mod datagram;
mod device;
mod input;
mod mem_tree;
mod peer;
mod server;
#[cfg(feature = "tree")]
pub(crate) mod tree;

use mapleaf::wire::DatagramType;

/// One target.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Name of the target, of its folder of inputs and of its file in fuzz/.
    pub(crate) name: &'static str,
    /// What is done with an input.
    pub(crate) run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident => $run:expr,)*) => {
        &[$(Target { name: stringify!($name), run: $run },)*]
    };
}

/// Those that need the library's core alone: a datagram of each type as it is
/// decoded, and each end of the protocol against a peer that lies.
const OF_THE_CORE: &[Target] = targets! {
    hello => |bytes| datagram::run(DatagramType::Hello, bytes),
    cookie => |bytes| datagram::run(DatagramType::Cookie, bytes),
    init => |bytes| datagram::run(DatagramType::Init, bytes),
    welcome => |bytes| datagram::run(DatagramType::Welcome, bytes),
    ready => |bytes| datagram::run(DatagramType::Ready, bytes),
    layout_request => |bytes| datagram::run(DatagramType::LayoutRequest, bytes),
    layout => |bytes| datagram::run(DatagramType::Layout, bytes),
    event => |bytes| datagram::run(DatagramType::Event, bytes),
    tick => |bytes| datagram::run(DatagramType::Tick, bytes),
    request => |bytes| datagram::run(DatagramType::Request, bytes),
    response => |bytes| datagram::run(DatagramType::Response, bytes),
    report => |bytes| datagram::run(DatagramType::Report, bytes),
    ack => |bytes| datagram::run(DatagramType::Ack, bytes),
    bye => |bytes| datagram::run(DatagramType::Bye, bytes),
    server => server::run,
    client => client::run,
    device => device::run,
};

/// Those that need tree files.
#[cfg(feature = "tree")]
const OF_THE_TREE: &[Target] = targets! {
    inspect => tree::file::inspect,
    open => tree::file::open,
    schema => tree::schema::run,
    blob => tree::schema::run_blob,
    dump => tree::dump::run,
    operations => tree::operations::run,
};

#[cfg(not(feature = "tree"))]
const OF_THE_TREE: &[Target] = &[];

/// Those that read what people write for the commands.
#[cfg(feature = "cli")]
const OF_THE_COMMANDS: &[Target] = targets! {
    config => cli::config,
    lines => cli::lines,
};

#[cfg(not(feature = "cli"))]
const OF_THE_COMMANDS: &[Target] = &[];

/// Every target.
pub(crate) fn all() -> impl Iterator<Item = &'static Target> {
    OF_THE_CORE.iter().chain(OF_THE_TREE).chain(OF_THE_COMMANDS)
}

/// The target with this name.
pub(crate) fn named(name: &str) -> Option<&'static Target> {
    all().find(|target| target.name == name)
}
