//! One `mio` poll over a control's pipe and a loop's sockets.
//!
//! The kernel tells of readiness once, so a socket stays ready here until a receive
//! has found it empty, or has seen the end of its queue behind what it brought.

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

    /// Notes that a receive has seen the end of the socket's queue.
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
    use std::net::UdpSocket as StdSocket;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;
    use std::thread;
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
        thread::scope(|scope| {
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

    /// Datagrams and errors of the socket come at any moment of a receive that takes the
    /// end of a queue for its last word. The sender waits for the receiver where it is a
    /// little ahead, so one datagram of which nothing tells stops both.
    #[test]
    #[cfg(target_os = "linux")]
    fn nothing_that_comes_beside_the_end_of_a_queue_is_left_there() {
        const DATAGRAMS: usize = 20_000;
        const AHEAD: usize = 12;
        // Connected to somebody else: it may send, and what is sent to it is refused.
        let peer = StdSocket::bind("127.0.0.1:0").unwrap();
        peer.connect("127.0.0.1:1").unwrap();
        let mut receiver = socket();
        let to = receiver.local_addr().unwrap();
        receiver.connect(peer.local_addr().unwrap()).unwrap();
        let mut asking = receiver.try_clone().unwrap();
        let control = Control::new().unwrap();
        let mut poller = Poller::new(Waiting::Sleep, &control).unwrap();
        let source = poller.add(&receiver).unwrap();
        let mut batch = RecvBatch::new(4, 2_000);
        let came = AtomicUsize::new(0);
        let (mut refused, mut ends, mut told) = (0, 0, true);
        thread::scope(|scope| {
            scope.spawn(|| {
                for sent in 0..DATAGRAMS {
                    while sent >= came.load(Ordering::Relaxed) + AHEAD {
                        thread::yield_now();
                    }
                    // An error that waits may be told to whoever sends, too.
                    let _ = asking.send(b"anybody?");
                    peer.send_to(&[7; 100], to).unwrap();
                }
            });
            while came.load(Ordering::Relaxed) < DATAGRAMS {
                let begun = Instant::now();
                poller.wait(Duration::from_secs(20), &control).unwrap();
                if begun.elapsed() >= Duration::from_secs(20) {
                    told = false;
                    // The sender goes on to its end.
                    came.store(DATAGRAMS, Ordering::Relaxed);
                }
                while poller.is_ready(source) {
                    match receiver.receive(&mut batch) {
                        Err(_) => refused += 1,
                        Ok(count) => {
                            came.fetch_add(count, Ordering::Relaxed);
                            if batch.emptied_queue() {
                                ends += usize::from(count > 0);
                                poller.drained(source);
                            }
                        }
                    }
                }
            }
        });
        println!("{refused} errors, {ends} ends seen behind datagrams");
        assert!(told, "nothing told of a datagram that waits");
        assert!(ends > 0);
    }
}
