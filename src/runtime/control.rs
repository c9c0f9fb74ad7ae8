//! How a loop is ended, told to reload its configuration, and looked at from outside.
//!
//! A [`Control`] goes into a loop; a [`Stop`] stays with whoever wants to end it,
//! in another thread or a signal handler. Both ends share a pipe that the loop
//! polls beside its sockets, so that a sleeping loop wakes at once. Signals are
//! the program's choice: a loop in a thread installs none.

use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use signal_hook::SigId;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::flag;
use signal_hook::low_level;

use crate::runtime::metrics::Board;
use crate::runtime::options::ReloadableConfig;

/// What a pipe and its flags share between threads and signal handlers.
#[derive(Debug)]
struct Shared {
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    /// Whether a feed is to be called.
    woken: AtomicBool,
    waker: UnixStream,
}

impl Shared {
    fn wake(&self) {
        // A full pipe has bytes enough to wake the loop.
        let _ = (&self.waker).write(&[1]);
    }
}

/// Ends a loop from another thread. Clones end the same loop.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Shared>);

impl Stop {
    /// Asks the loop to end in good order: BYE to its peers, state saved, tree closed.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Release);
        self.0.wake();
    }

    /// Asks the loop to reload its configuration, as SIGHUP does.
    pub fn reload(&self) {
        self.0.reload.store(true, Ordering::Release);
        self.0.wake();
    }

    /// Lets a sleeping loop have a look around.
    pub(super) fn wake(&self) {
        self.0.wake();
    }

    /// Whether the loop was asked to end.
    pub fn is_stopped(&self) -> bool {
        self.0.stop.load(Ordering::Acquire)
    }
}

/// Lets a server's loop call its [`Feed`](crate::runtime::Feed), from any thread. Clones
/// wake the same loop.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// Asks for one call of the feed that begins after this. The loop wakes if it
    /// sleeps. Wakes that come before the call are one.
    pub fn wake(&self) {
        if !self.0.woken.swap(true, Ordering::AcqRel) {
            self.0.wake();
        }
    }
}

/// Where a loop gets its configuration again when it is asked to reload.
pub trait Reload: Send {
    /// Reads the configuration anew.
    ///
    /// # Errors
    /// One line that says what is wrong. It is logged, and the loop goes on with
    /// what it had.
    fn reload(&mut self) -> Result<ReloadableConfig, String>;
}

impl<F> Reload for F
where
    F: FnMut() -> Result<ReloadableConfig, String> + Send,
{
    fn reload(&mut self) -> Result<ReloadableConfig, String> {
        self()
    }
}

/// The loop's end of a [`Stop`], with what else reaches into it from outside.
pub struct Control {
    shared: Arc<Shared>,
    pipe: UnixStream,
    signals: Option<Signals>,
    reload: Option<Box<dyn Reload>>,
    board: Arc<Board>,
}

impl Control {
    /// A control without signals and without a way to reload.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn new() -> io::Result<Control> {
        let (pipe, waker) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let shared = Shared {
            stop: Arc::default(),
            reload: Arc::default(),
            woken: AtomicBool::default(),
            waker,
        };
        Ok(Control {
            shared: Arc::new(shared),
            pipe,
            signals: None,
            reload: None,
            board: Arc::default(),
        })
    }

    /// Lets SIGINT and SIGTERM end the loop and SIGHUP reload its configuration,
    /// as long as this control lives. A second SIGINT or SIGTERM kills.
    ///
    /// # Errors
    /// The handlers could not be installed.
    pub fn with_signals(mut self) -> io::Result<Control> {
        self.signals = Some(Signals::install(&self.shared)?);
        Ok(self)
    }

    /// Sets where the configuration comes from when it is reloaded.
    #[must_use]
    pub fn on_reload(mut self, reload: impl Reload + 'static) -> Control {
        self.reload = Some(Box::new(reload));
        self
    }

    /// A handle that ends the loop.
    pub fn stop_handle(&self) -> Stop {
        Stop(Arc::clone(&self.shared))
    }

    /// A handle that lets the loop call its feed.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.shared))
    }

    /// Where the loop publishes its counters.
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// Whether the feed was to be called since the last time this was asked.
    pub(super) fn take_woken(&self) -> bool {
        // Read first: a loop that spins asks each time, and an exchange is dear.
        let woken = &self.shared.woken;
        woken.load(Ordering::Acquire) && woken.swap(false, Ordering::AcqRel)
    }

    /// The new configuration, if one was asked for since the last call.
    pub(super) fn take_reload(&mut self) -> Option<Result<ReloadableConfig, String>> {
        let asked = self.shared.reload.swap(false, Ordering::AcqRel);
        let reload = self.reload.as_mut().filter(|_| asked)?;
        Some(reload.reload())
    }

    /// What the loop polls.
    pub(super) fn pipe(&self) -> &UnixStream {
        &self.pipe
    }

    /// Empties the pipe. The flags say what was asked.
    pub(super) fn drain(&self) {
        let mut bytes = [0; 64];
        while matches!((&self.pipe).read(&mut bytes), Ok(count) if count > 0) {}
    }
}

/// Handlers that are removed again when this is dropped.
#[derive(Debug)]
struct Signals(Vec<SigId>);

impl Signals {
    fn install(shared: &Shared) -> io::Result<Signals> {
        let mut signals = Signals(Vec::new());
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag set and kills.
            let stop = Arc::clone(&shared.stop);
            signals.0.push(flag::register_conditional_default(signal, stop)?);
            signals.add(signal, &shared.stop, &shared.waker)?;
        }
        signals.add(SIGHUP, &shared.reload, &shared.waker)?;
        Ok(signals)
    }

    /// The flag is set before the pipe wakes the loop: handlers run in order.
    fn add(&mut self, signal: i32, flag: &Arc<AtomicBool>, waker: &UnixStream) -> io::Result<()> {
        self.0.push(flag::register(signal, Arc::clone(flag))?);
        self.0.push(low_level::pipe::register(signal, waker.try_clone()?)?);
        Ok(())
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.0.drain(..) {
            low_level::unregister(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_seen_and_wakes_the_pipe() {
        let control = Control::new().unwrap();
        let stop = control.stop_handle();
        assert!(!control.is_stopped());
        stop.clone().stop();
        assert!(control.is_stopped() && stop.is_stopped());
        let mut byte = [0];
        assert_eq!((&control.pipe).read(&mut byte).unwrap(), 1);
    }

    #[test]
    fn a_reload_is_asked_for_once() {
        let mut control =
            Control::new().unwrap().on_reload(|| Err::<ReloadableConfig, _>("no".to_owned()));
        assert!(control.take_reload().is_none());
        control.stop_handle().reload();
        assert_eq!(control.take_reload().map(|result| result.err()), Some(Some("no".to_owned())));
        assert!(control.take_reload().is_none());
        assert!(!control.is_stopped());
    }

    #[test]
    fn wakes_before_a_call_are_one() {
        let control = Control::new().unwrap();
        let waker = control.waker();
        assert!(!control.take_woken());
        waker.wake();
        waker.clone().wake();
        let mut bytes = [0; 8];
        assert_eq!((&control.pipe).read(&mut bytes).unwrap(), 1);
        assert!(control.take_woken() && !control.take_woken() && !control.is_stopped());
        waker.wake();
        assert_eq!((&control.pipe).read(&mut bytes).unwrap(), 1, "the next wakes again");
    }

    #[test]
    fn a_thousand_wakes_fill_no_pipe_for_ever() {
        let control = Control::new().unwrap();
        let stop = control.stop_handle();
        (0..100_000).for_each(|_| stop.reload());
        control.drain();
        let error = (&control.pipe).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn sighup_reloads_while_the_control_lives() {
        let mut control = Control::new()
            .unwrap()
            .with_signals()
            .unwrap()
            .on_reload(|| Ok(ReloadableConfig::default()));
        low_level::raise(SIGHUP).unwrap();
        assert!(control.take_reload().is_some());
        assert!(!control.is_stopped());
    }
}
