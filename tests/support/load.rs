//! Reports that go on until they are asked to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use super::process::Program;
use super::process::mapleaf;
use super::wait_until;

/// Pause between two bursts of lines.
const PAUSE: Duration = Duration::from_millis(10);

/// Starts `mapleaf report --json-lines`, patient enough for outages.
pub(crate) fn report_lines(server: SocketAddr) -> Program {
    Program::start(mapleaf(["report", &server.to_string(), "--json-lines", "--timeout", "100s"]))
}

/// A stream of reports through one `mapleaf report --json-lines`.
pub(crate) struct Stream {
    end: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<Program>,
}

impl Stream {
    /// Begins with line 0 and writes `burst` lines every [`PAUSE`].
    pub(crate) fn start(
        server: SocketAddr,
        burst: u64,
        line: impl Fn(u64) -> String + Send + 'static,
    ) -> Stream {
        let (end, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut program = report_lines(server);
        let (until, count) = (Arc::clone(&end), Arc::clone(&written));
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                for _ in 0..burst {
                    program.write_line(line(count.fetch_add(1, Ordering::Relaxed)));
                }
                thread::sleep(PAUSE);
            }
            program
        });
        Stream { end, written, thread }
    }

    /// Waits until so many lines more are written.
    pub(crate) fn pass(&self, lines: u64) {
        let from = self.written.load(Ordering::Relaxed);
        wait_until("reports pass", || {
            assert!(!self.thread.is_finished(), "the reports stopped");
            self.written.load(Ordering::Relaxed) >= from + lines
        });
    }

    /// Ends the stream; every report is acknowledged then.
    pub(crate) fn end(self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        let mut program = self.thread.join().unwrap();
        program.close_stdin();
        program.ended().well();
        self.written.load(Ordering::Relaxed)
    }
}

/// Resident numbers of a line: leaf and text.
pub(crate) fn leaf_line(leaf: u64, data: &str) -> String {
    format!("{{\"leaf\":{leaf},\"data\":\"{data}\"}}")
}
