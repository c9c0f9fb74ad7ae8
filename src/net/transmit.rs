//! How messages leave: what is done when some of them fail.
//!
//! The kernel is reached through two closures, so that every answer it can give
//! is tried in the tests.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "segments are Linux's alone"))]

use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket;

use crate::net::counters::Tally;
use crate::net::options::Support;
use crate::net::segments::Message;

/// Whether messages of several segments are sent, and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gso {
    support: Support,
    segments_max: usize,
    /// Refusals since a message of segments was last accepted.
    refusals: u32,
}

impl Gso {
    /// Refusals in a row after which a socket stops trying. A refusal may be
    /// about one destination (a path with a small MTU), so it takes many; one that
    /// is about the machine repeats with every message.
    const REFUSALS_MAX: u32 = 16;

    /// In use, with up to this many segments a message.
    pub(super) const fn available(segments_max: usize) -> Gso {
        Gso { support: Support::Available, segments_max, refusals: 0 }
    }

    /// Not in use, for this reason.
    pub(super) const fn unused(support: Support) -> Gso {
        Gso { support, segments_max: 1, refusals: 0 }
    }

    /// Whether it is in use.
    pub(super) const fn support(&self) -> Support {
        self.support
    }

    /// Most segments of the next message.
    pub(super) const fn segments_max(&self) -> usize {
        self.segments_max
    }

    fn is_unused(&self) -> bool {
        self.support != Support::Available
    }

    /// EIO says that the device cannot compute the checksums of segments, and no
    /// destination can be at fault.
    fn note_refusal(&mut self, error: &io::Error) {
        self.refusals += 1;
        if error.raw_os_error() == Some(libc::EIO) || self.refusals >= Self::REFUSALS_MAX {
            *self = Gso::unused(Support::GivenUp);
        }
    }
}

/// Whether an error may be about joined segments rather than the destination:
/// `udp_send_skb` says EIO where checksums cannot be offloaded, EINVAL for too many
/// segments or a socket without checksums, and EINVAL or (later) EMSGSIZE for a
/// segment longer than the path allows in one piece.
fn may_be_about_segments(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

/// Sends one datagram: to an address, or to the peer.
pub(super) trait SendOne: Fn(Option<SocketAddr>, &[u8]) -> io::Result<usize> {}
impl<F: Fn(Option<SocketAddr>, &[u8]) -> io::Result<usize>> SendOne for F {}

/// Sends `count` messages, which `messages` yields, by `send_many`: it sends from
/// the given position on and tells how many were accepted before one failed.
///
/// The call goes on behind a message that fails. A message of segments that may
/// have failed for being one is sent again datagram by datagram by `send_one`.
pub(super) fn send_filled<'m>(
    count: usize,
    mut messages: impl Iterator<Item = Message<'m>>,
    mut send_many: impl FnMut(usize) -> io::Result<usize>,
    send_one: &impl SendOne,
    gso: &mut Gso,
    tally: &mut Tally,
) {
    let mut next = 0;
    while next < count {
        // A kernel that accepts nothing and names no error would hold us forever.
        let outcome = send_many(next).and_then(|sent| match sent {
            0 => Err(io::ErrorKind::WriteZero.into()),
            sent => Ok(sent),
        });
        match outcome {
            Ok(sent) => {
                messages.by_ref().take(sent).for_each(|message| accepted(&message, gso, tally));
                next += sent;
            }
            Err(error) => {
                if let Some(message) = messages.next() {
                    refused(&message, &error, send_one, gso, tally);
                }
                next += 1;
            }
        }
    }
}

fn accepted(message: &Message<'_>, gso: &mut Gso, tally: &mut Tally) {
    let datagrams = message.datagrams();
    tally.sent(datagrams, message.len());
    if datagrams > 1 {
        gso.refusals = 0;
    }
}

fn refused(
    message: &Message<'_>,
    error: &io::Error,
    send_one: &impl SendOne,
    gso: &mut Gso,
    tally: &mut Tally,
) {
    let datagrams = message.datagrams();
    if datagrams == 1 || !may_be_about_segments(error) {
        tally.lost(datagrams, error);
        return;
    }
    let sent_before = tally.report.datagrams_sent;
    send_split(message, send_one, tally);
    // Only where single datagrams pass were the segments at fault.
    if tally.report.datagrams_sent > sent_before {
        tally.gso_fallbacks += 1;
        if !gso.is_unused() {
            gso.note_refusal(error);
        }
    }
}

/// Sends each datagram of the message on its own.
pub(super) fn send_split(message: &Message<'_>, send_one: &impl SendOne, tally: &mut Tally) {
    for datagram in message.split() {
        match send_one(message.destination, datagram) {
            Ok(_) => tally.sent(1, datagram.len()),
            Err(error) => tally.lost(1, &error),
        }
    }
}

/// Sends one datagram to an address, or to the peer that `socket` is connected to.
pub(super) fn send_one(
    socket: &UdpSocket,
    to: Option<SocketAddr>,
    datagram: &[u8],
) -> io::Result<usize> {
    loop {
        let outcome = match to {
            Some(to) => socket.send_to(datagram, to),
            None => socket.send(datagram),
        };
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use super::*;
    use crate::net::SendReport;
    use crate::net::segments::Destinations;
    use crate::net::segments::Segments;

    const PERIOD: [u8; 35] = [9; 35];

    /// A kernel that gives the answers it was told to, to messages in their order.
    struct Script {
        answers: VecDeque<Result<usize, i32>>,
        asked_from: Vec<usize>,
    }

    fn run(
        destinations: usize,
        answers: &[Result<usize, i32>],
        single: impl Fn(usize) -> Result<(), i32>,
        gso: &mut Gso,
    ) -> (Tally, Vec<usize>) {
        let to = vec![SocketAddr::from(([127, 0, 0, 1], 9)); destinations];
        let messages = Segments::new(&PERIOD, 10).messages(Destinations::Each(&to), 64);
        let mut script = Script { answers: answers.to_vec().into(), asked_from: Vec::new() };
        let singles = RefCell::new(0);
        let send_many = |from| {
            script.asked_from.push(from);
            let answer = script.answers.pop_front().expect("an answer for each call");
            answer.map_err(io::Error::from_raw_os_error)
        };
        let send_one = |_: Option<SocketAddr>, datagram: &[u8]| {
            let index = singles.replace_with(|count| *count + 1);
            single(index).map(|()| datagram.len()).map_err(io::Error::from_raw_os_error)
        };
        let mut tally = Tally::default();
        send_filled(destinations, messages, send_many, &send_one, gso, &mut tally);
        (tally, script.asked_from)
    }

    fn report(datagrams_sent: u64, bytes_sent: u64, would_block: u64, failed: u64) -> SendReport {
        SendReport { datagrams_sent, bytes_sent, would_block, failed }
    }

    fn nothing_single(_: usize) -> Result<(), i32> {
        panic!("no datagram should be sent alone")
    }

    #[test]
    fn errors_and_full_buffers_cost_their_own_message_alone() {
        let mut gso = Gso::available(64);
        let answers = [Ok(2), Err(libc::EAGAIN), Ok(1), Err(libc::EHOSTUNREACH), Ok(1)];
        let (tally, asked_from) = run(6, &answers, nothing_single, &mut gso);
        assert_eq!(tally.report, report(4 * 4, 4 * 35, 4, 4));
        assert_eq!(tally.errors.unreachable, 4);
        assert_eq!(asked_from, [0, 2, 3, 4, 5], "each message is offered until it is decided");
    }

    #[test]
    fn a_buffer_that_stays_full_ends_the_call() {
        let mut gso = Gso::available(64);
        let (tally, _) = run(3, &[Err(libc::EAGAIN); 3], nothing_single, &mut gso);
        assert_eq!(tally.report, report(0, 0, 12, 0));
    }

    #[test]
    fn a_kernel_that_accepts_nothing_does_not_hold_the_caller() {
        let mut gso = Gso::available(64);
        let (tally, _) = run(2, &[Ok(0), Ok(1)], nothing_single, &mut gso);
        assert_eq!(tally.report, report(4, 35, 0, 4));
    }

    #[test]
    fn segments_are_given_up_at_once_on_eio_and_the_datagrams_go_out() {
        let mut gso = Gso::available(64);
        let answers = [Err(libc::EIO), Err(libc::EIO)];
        let single = |index| if index == 2 { Err(libc::EAGAIN) } else { Ok(()) };
        let (tally, _) = run(2, &answers, single, &mut gso);
        assert_eq!(tally.report, report(7, 60, 1, 0));
        assert_eq!((gso.support(), gso.segments_max()), (Support::GivenUp, 1));
        assert_eq!(tally.gso_fallbacks, 2);
    }

    #[test]
    fn a_destination_that_takes_no_datagram_does_not_cost_the_others_their_segments() {
        let mut gso = Gso::available(64);
        let answers = [Err(libc::EINVAL); 40];
        let (tally, _) = run(40, &answers, |_| Err(libc::EINVAL), &mut gso);
        assert_eq!(tally.report, report(0, 0, 0, 160));
        assert_eq!((gso.support(), tally.gso_fallbacks), (Support::Available, 0));
    }

    #[test]
    fn refusals_in_a_row_give_segments_up_and_an_accepted_message_starts_anew() {
        let mut gso = Gso::available(64);
        let mut answers = vec![Err(libc::EMSGSIZE); 15];
        answers.push(Ok(1));
        answers.extend([Err(libc::EINVAL); 15]);
        let (tally, _) = run(31, &answers, |_| Ok(()), &mut gso);
        assert_eq!(tally.report, report(31 * 4, 31 * 35, 0, 0));
        assert_eq!(gso.support(), Support::Available);
        run(1, &[Err(libc::EINVAL)], |_| Ok(()), &mut gso);
        assert_eq!(gso.support(), Support::GivenUp);
    }
}
