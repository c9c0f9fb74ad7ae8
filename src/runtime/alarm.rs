//! A timer of the kernel that wakes a poll to the microsecond.
//!
//! A poll sleeps whole milliseconds, rounded up. Periods and feeds that have less to
//! wait for set an alarm, whose descriptor becomes readable when it is due. Where the
//! system has no such descriptor, there is none, and a wait takes its millisecond.

use std::io;
use std::time::Duration;
use std::time::Instant;

/// From here on a millisecond too much is less than one in twenty, and no alarm is set.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// An alarm that is set for a moment this near serves as well: what loops count in is
/// the microsecond, and setting one is a system call.
const NEAR: Duration = Duration::from_micros(2);

/// A descriptor that becomes readable at a moment.
pub(super) struct Alarm {
    timer: Timer,
    /// The moment for which it is set, until it has passed.
    due: Option<Instant>,
}

impl Alarm {
    /// An alarm that is not set; nothing where the system has none.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(super) fn new() -> io::Result<Option<Alarm>> {
        Ok(Timer::new()?.map(|timer| Alarm { timer, due: None }))
    }

    /// Sees to it that a poll that begins now is woken after `wait`, if its own timeout
    /// would be too coarse. An alarm that was set before may still go off.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn set(&mut self, wait: Duration) -> io::Result<()> {
        // A poll that does not wait needs no waking, and one that waits long no alarm.
        if wait.is_zero() || wait >= WAIT_MAX {
            return Ok(());
        }
        let due = Instant::now() + wait;
        let is_near = |set: Instant| set.max(due) - set.min(due) <= NEAR;
        if !self.due.is_some_and(is_near) {
            self.timer.set(wait)?;
            self.due = Some(due);
        }
        Ok(())
    }

    /// Notes that it went off.
    pub(super) fn rang(&mut self) {
        self.due = None;
    }

    /// What a poll has to watch.
    pub(super) fn descriptor(&self) -> std::os::fd::RawFd {
        self.timer.descriptor()
    }
}

#[cfg(target_os = "linux")]
use self::timer_fd::Timer;

#[cfg(target_os = "linux")]
mod timer_fd {
    use std::io;
    use std::os::fd::AsRawFd;
    use std::os::fd::OwnedFd;
    use std::os::fd::RawFd;
    use std::time::Duration;

    use rustix::time::Itimerspec;
    use rustix::time::TimerfdClockId;
    use rustix::time::TimerfdFlags;
    use rustix::time::TimerfdTimerFlags;
    use rustix::time::Timespec;
    use rustix::time::timerfd_create;
    use rustix::time::timerfd_settime;

    /// A timerfd. Its count is never read: edges wake a poll without that.
    pub(super) struct Timer(OwnedFd);

    impl Timer {
        pub(super) fn new() -> io::Result<Option<Timer>> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            Ok(Some(Timer(timerfd_create(TimerfdClockId::Monotonic, flags)?)))
        }

        pub(super) fn set(&self, wait: Duration) -> io::Result<()> {
            let spec = Itimerspec {
                it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                it_value: Timespec {
                    tv_sec: wait.as_secs().cast_signed(),
                    tv_nsec: wait.subsec_nanos().into(),
                },
            };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &spec)?;
            Ok(())
        }

        pub(super) fn descriptor(&self) -> RawFd {
            self.0.as_raw_fd()
        }
    }
}

#[cfg(not(target_os = "linux"))]
enum Timer {}

#[cfg(not(target_os = "linux"))]
impl Timer {
    fn new() -> io::Result<Option<Timer>> {
        Ok(None)
    }

    fn set(&self, _: Duration) -> io::Result<()> {
        match *self {}
    }

    fn descriptor(&self) -> std::os::fd::RawFd {
        match *self {}
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use mio::Events;
    use mio::Interest;
    use mio::Poll;
    use mio::Token;
    use mio::unix::SourceFd;

    use super::*;

    #[test]
    fn it_wakes_a_poll_and_is_set_again() {
        let mut alarm = Alarm::new().unwrap().expect("Linux has them");
        let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(1));
        let mut source = SourceFd(&alarm.descriptor());
        poll.registry().register(&mut source, Token(0), Interest::READABLE).unwrap();
        for wait in [90, 1, 2_500, 19_999].map(Duration::from_micros) {
            let begun = Instant::now();
            alarm.set(wait).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
            assert_eq!(events.iter().count(), 1, "not by the poll's own timeout");
            assert!(begun.elapsed() >= wait);
            alarm.rang();
        }
    }

    #[test]
    fn it_is_set_once_for_a_moment_and_never_for_none() {
        let mut alarm = Alarm::new().unwrap().expect("Linux has them");
        alarm.set(Duration::ZERO).unwrap();
        alarm.set(WAIT_MAX).unwrap();
        assert_eq!(alarm.due, None, "a poll does that by itself");
        alarm.set(Duration::from_millis(15)).unwrap();
        let first = alarm.due;
        alarm.set(Duration::from_millis(1)).unwrap();
        assert!(alarm.due < first, "an earlier moment takes the place of a later one");
    }
}
