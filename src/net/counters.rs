//! What a socket counts, and what one call reports.
//!
//! All counts are u64: at 10 GB/s the bytes last 58 years, the rest longer.

use std::io;
use std::io::ErrorKind;
use std::ops::AddAssign;

/// Totals of a socket since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Datagrams that the kernel accepted.
    pub datagrams_sent: u64,
    /// Payload bytes of those datagrams.
    pub bytes_sent: u64,
    /// Datagrams received whole.
    pub datagrams_received: u64,
    /// Payload bytes of those datagrams.
    pub bytes_received: u64,
    /// Datagrams lost because the send buffer was full.
    pub would_block: u64,
    /// Datagrams lost to other errors, by kind.
    pub send_errors: SendErrors,
    /// Datagrams received and dropped: longer than the buffer, or the kernel's
    /// note about them did not fit or named no address.
    pub truncated: u64,
    /// Messages that were refused as segments and accepted one by one.
    pub gso_fallbacks: u64,
    /// Messages sent from lent memory that are over.
    pub lent: u64,
    /// Those of them that the kernel copied all the same.
    pub lent_copied: u64,
    /// Messages that the kernel dropped because the receive queue was full. Linux
    /// tells with the next message that is not dropped; elsewhere this stays 0.
    pub queue_drops: u64,
}

impl Counters {
    pub(super) fn note_sends(&mut self, tally: &Tally) {
        self.datagrams_sent += tally.report.datagrams_sent;
        self.bytes_sent += tally.report.bytes_sent;
        self.would_block += tally.report.would_block;
        self.send_errors += tally.errors;
        self.gso_fallbacks += tally.gso_fallbacks;
        self.lent += tally.lent;
        self.lent_copied += tally.lent_copied;
    }
}

/// Sums of what several handles of one socket counted.
impl AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.datagrams_sent += other.datagrams_sent;
        self.bytes_sent += other.bytes_sent;
        self.datagrams_received += other.datagrams_received;
        self.bytes_received += other.bytes_received;
        self.would_block += other.would_block;
        self.send_errors += other.send_errors;
        self.truncated += other.truncated;
        self.gso_fallbacks += other.gso_fallbacks;
        self.lent += other.lent;
        self.lent_copied += other.lent_copied;
        self.queue_drops += other.queue_drops;
    }
}

/// Datagrams that an error kept from leaving, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendErrors {
    /// Nobody listens there (an ICMP answer to an earlier datagram).
    pub refused: u64,
    /// No route to the host or network, or the interface is down.
    pub unreachable: u64,
    /// A firewall or a missing privilege forbids it.
    pub not_permitted: u64,
    /// Longer than the path or UDP allows.
    pub too_long: u64,
    /// The kernel had no memory or no room in a device's queue.
    pub no_memory: u64,
    /// Anything else, for instance an address of the other family.
    pub other: u64,
}

impl SendErrors {
    /// Sum over all kinds.
    pub fn total(&self) -> u64 {
        let paths = self.refused + self.unreachable + self.not_permitted;
        paths + self.too_long + self.no_memory + self.other
    }

    fn of(&mut self, error: &io::Error) -> &mut u64 {
        match error.kind() {
            ErrorKind::ConnectionRefused => &mut self.refused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
                &mut self.unreachable
            }
            ErrorKind::PermissionDenied => &mut self.not_permitted,
            _ => match error.raw_os_error() {
                Some(libc::EMSGSIZE) => &mut self.too_long,
                Some(libc::ENOBUFS | libc::ENOMEM) => &mut self.no_memory,
                _ => &mut self.other,
            },
        }
    }
}

impl AddAssign for SendErrors {
    fn add_assign(&mut self, other: SendErrors) {
        self.refused += other.refused;
        self.unreachable += other.unreachable;
        self.not_permitted += other.not_permitted;
        self.too_long += other.too_long;
        self.no_memory += other.no_memory;
        self.other += other.other;
    }
}

/// What became of the datagrams of one call: each is counted as sent, as
/// `would_block` or as failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SendReport {
    /// Datagrams that the kernel accepted.
    pub datagrams_sent: u64,
    /// Payload bytes of those datagrams.
    pub bytes_sent: u64,
    /// Datagrams lost because the send buffer was full.
    pub would_block: u64,
    /// Datagrams lost to any other error; [`Counters::send_errors`] has the kinds.
    pub failed: u64,
}

impl AddAssign for SendReport {
    fn add_assign(&mut self, other: SendReport) {
        self.datagrams_sent += other.datagrams_sent;
        self.bytes_sent += other.bytes_sent;
        self.would_block += other.would_block;
        self.failed += other.failed;
    }
}

/// The report of one call while it is made, with what only the totals show.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) report: SendReport,
    pub(super) errors: SendErrors,
    pub(super) gso_fallbacks: u64,
    pub(super) lent: u64,
    pub(super) lent_copied: u64,
}

impl Tally {
    pub(super) fn sent(&mut self, datagrams: usize, bytes: usize) {
        self.report.datagrams_sent += datagrams as u64;
        self.report.bytes_sent += bytes as u64;
    }

    pub(super) fn lost(&mut self, datagrams: usize, error: &io::Error) {
        if error.kind() == ErrorKind::WouldBlock {
            self.report.would_block += datagrams as u64;
        } else {
            self.report.failed += datagrams as u64;
            *self.errors.of(error) += datagrams as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lost_datagram_is_counted_once_under_its_kind() {
        let mut tally = Tally::default();
        tally.sent(3, 900);
        let codes = [
            libc::EAGAIN,
            libc::ECONNREFUSED,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::EPERM,
            libc::EMSGSIZE,
            libc::ENOBUFS,
            libc::EAFNOSUPPORT,
        ];
        for code in codes {
            tally.lost(2, &io::Error::from_raw_os_error(code));
        }
        let mut counters = Counters::default();
        counters.note_sends(&tally);
        assert_eq!((counters.datagrams_sent, counters.bytes_sent), (3, 900));
        assert_eq!(counters.would_block, 2);
        let expected = SendErrors {
            refused: 2,
            unreachable: 4,
            not_permitted: 2,
            too_long: 2,
            no_memory: 2,
            other: 2,
        };
        assert_eq!(counters.send_errors, expected);
        assert_eq!(counters.send_errors.total(), tally.report.failed);
    }
}
