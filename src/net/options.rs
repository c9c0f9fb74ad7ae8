//! What the caller asks of a socket, and what the kernel turned out to offer.

/// How a socket is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Bytes of receive buffer to ask for; 0 keeps the system's default. Linux
    /// books twice the number, because it charges its own overhead to the
    /// buffer, and caps it at `net.core.rmem_max` unless privileged.
    pub receive_buffer: usize,
    /// Bytes of send buffer to ask for; 0 keeps the system's default. Doubled
    /// and capped like the receive buffer, by `net.core.wmem_max`.
    pub send_buffer: usize,
    /// Whether other sockets may bind the same address.
    pub reuse_port: ReusePort,
    /// Whether equal datagrams leave as segments of one message (GSO).
    pub gso: Offload,
    /// Whether datagrams may arrive joined and be split here (GRO).
    pub gro: Offload,
    /// Whether [`crate::net::UdpSocket::lend_segments`] lends memory (`MSG_ZEROCOPY`).
    pub zerocopy: Offload,
}

impl Default for SocketOptions {
    fn default() -> SocketOptions {
        SocketOptions {
            receive_buffer: 0,
            send_buffer: 0,
            reuse_port: ReusePort::Exclusive,
            gso: Offload::Detect,
            gro: Offload::Detect,
            zerocopy: Offload::Off,
        }
    }
}

/// Whether several sockets may share one address, one a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReusePort {
    /// The address belongs to this socket alone.
    Exclusive,
    /// `SO_REUSEPORT`: the kernel spreads peers over the sockets bound to it.
    Shared,
}

/// Whether to use something that the kernel may or may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Use it where a probe finds it.
    Detect,
    /// Do without it.
    Off,
}

/// Whether something is in use on a socket, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// The kernel has it and the socket uses it.
    Available,
    /// The kernel does not have it.
    Missing,
    /// The options forbid it.
    Disabled,
    /// The kernel has it, but refused messages that went through without it.
    GivenUp,
}

/// What a socket found out about its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Segmentation offload: one message carries many datagrams out.
    pub gso: Support,
    /// Most segments of one message; 1 where `gso` is not available. Linux took
    /// 64 at first and takes 128 since 6.9.
    pub segments_max: usize,
    /// Joined receiving: one message carries many datagrams in.
    pub gro: Support,
    /// Sends from lent memory. Given up where the kernel copies all the same.
    pub zerocopy: Support,
    /// Whether the kernel reports what it dropped from a full receive queue.
    pub queue_drops: Support,
}
