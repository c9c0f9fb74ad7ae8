//! One `mio` poll over a control's pipe and a loop's sockets.
//!
//! The kernel tells of readiness once, so a socket stays ready here until a receive
//! has found it empty.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::Events;
use mio::Interest;
use mio::Poll;
use mio::Token;
use mio::unix::SourceFd;

use crate::net::UdpSocket;
use crate::runtime::alarm::Alarm;
use crate::runtime::control::Control;
use crate::runtime::options::Waiting;

/// A socket of a loop: its place in the order of registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source(usize);

/// Token of the control's pipe, behind those of the sockets.
const PIPE: Token = Token(usize::MAX);

/// Token of the alarm.
const ALARM: Token = Token(usize::MAX - 1);

/// Waits for datagrams, moments and the control.
pub(super) struct Poller {
    poll: Poll,
    events: Events,
    ready: Vec<bool>,
    alarm: Option<Alarm>,
    waiting: Waiting,
}

impl Poller {
    /// # Errors
    /// The process has no descriptors left.
    pub(super) fn new(waiting: Waiting, control: &Control) -> io::Result<Poller> {
        let poll = Poll::new()?;
        let watch =
            |fd, token| poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
        watch(control.pipe().as_raw_fd(), PIPE)?;
        let alarm = Alarm::new()?;
        alarm.iter().try_for_each(|alarm| watch(alarm.descriptor(), ALARM))?;
        let events = Events::with_capacity(8);
        Ok(Poller { poll, events, ready: Vec::new(), alarm, waiting })
    }

    /// Adds a socket. What came before is found as well.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn add(&mut self, socket: &UdpSocket) -> io::Result<Source> {
        let source = Source(self.ready.len());
        let fd = socket.as_raw_fd();
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&fd), Token(source.0), Interest::READABLE)?;
        self.ready.push(true);
        Ok(source)
    }

    /// Whether a receive may find something.
    pub(super) fn is_ready(&self, source: Source) -> bool {
        self.waiting == Waiting::Spin || self.ready.get(source.0).copied().unwrap_or(false)
    }

    /// Notes that a receive found the socket empty.
    pub(super) fn drained(&mut self, source: Source) {
        if let Some(ready) = self.ready.get_mut(source.0) {
            *ready = false;
        }
    }

    /// Waits until something may be read or `timeout` has passed; not at all while a
    /// socket is ready. A loop that spins does not ask the kernel: it receives. It may
    /// return early.
    ///
    /// # Errors
    /// What the system says. A signal is no error.
    pub(super) fn wait(&mut self, timeout: Duration, control: &Control) -> io::Result<()> {
        if self.waiting == Waiting::Spin {
            std::hint::spin_loop();
            return Ok(());
        }
        let busy = self.ready.contains(&true);
        let timeout = if busy { Duration::ZERO } else { timeout };
        self.alarm.iter_mut().try_for_each(|alarm| alarm.set(timeout))?;
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome?,
        }
        for event in &self.events {
            match event.token() {
                PIPE => control.drain(),
                ALARM => self.alarm.iter_mut().for_each(Alarm::rang),
                Token(index) => {
                    if let Some(ready) = self.ready.get_mut(index) {
                        *ready = true;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::net::RecvBatch;
    use crate::net::SocketOptions;

    fn socket() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap()
    }

    #[test]
    fn a_stop_ends_a_long_wait() {
        let control = Control::new().unwrap();
        let mut poller = Poller::new(Waiting::Sleep, &control).unwrap();
        let stop = control.stop_handle();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| stop.stop());
            poller.wait(Duration::from_secs(60), &control).unwrap();
        });
        assert!(control.is_stopped() && begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_wait_ends_not_long_before_its_time() {
        let control = Control::new().unwrap();
        let mut poller = Poller::new(Waiting::Sleep, &control).unwrap();
        for micros in [1, 90, 90, 700, 2_300, 90] {
            let (begun, wait) = (Instant::now(), Duration::from_micros(micros));
            // What an alarm of before leaves ends at most one wait early.
            while begun.elapsed() < wait {
                poller.wait(wait - begun.elapsed().min(wait), &control).unwrap();
            }
        }
    }

    #[test]
    fn a_socket_is_ready_until_it_was_found_empty() {
        let control = Control::new().unwrap();
        let mut poller = Poller::new(Waiting::Sleep, &control).unwrap();
        let (mut receiver, mut sender) = (socket(), socket());
        let source = poller.add(&receiver).unwrap();
        let mut batch = RecvBatch::new(1, 2_000);
        assert!(poller.is_ready(source));
        poller.drained(source);
        sender.send_to(b"one", receiver.local_addr().unwrap()).unwrap();
        sender.send_to(b"two", receiver.local_addr().unwrap()).unwrap();
        poller.wait(Duration::from_secs(60), &control).unwrap();
        assert!(poller.is_ready(source));
        assert_eq!(receiver.receive(&mut batch).unwrap(), 1);
        poller.wait(Duration::from_secs(60), &control).unwrap();
        assert!(poller.is_ready(source), "one datagram is left, of which the kernel does not tell");
        assert_eq!(receiver.receive(&mut batch).unwrap(), 1);
        assert_eq!(receiver.receive(&mut batch).unwrap(), 0);
        poller.drained(source);
        poller.wait(Duration::from_millis(1), &control).unwrap();
        assert!(!poller.is_ready(source));
    }
}
