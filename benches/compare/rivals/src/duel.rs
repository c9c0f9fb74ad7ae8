//! The processes of one measurement, until they are dropped.

use std::fs;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::bail;

use crate::Seat;
use crate::board::Board;
use crate::board::Sub;
use crate::board::Word;
use crate::link;

/// What takes longer will not happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A broker, a publisher and subscribers.
pub struct Duel {
    pub seat: Seat,
    pub board: Board,
    /// What stands between; the first keeps the state.
    brokers: Vec<Child>,
    publisher: Option<Child>,
    subscribers: Vec<Child>,
}

impl Duel {
    /// Starts all but subscribers.
    pub fn start(mut seat: Seat, within: &Path) -> anyhow::Result<Duel> {
        seat.dir = folder(within)?;
        seat.port = free_port()?;
        let board = Board::create(&seat.dir.join("board"))?;
        let (brokers, publisher, subscribers) = (Vec::new(), None, Vec::new());
        let mut duel = Duel { seat, board, brokers, publisher, subscribers };
        let seat = duel.seat.clone();
        if let Some(command) = seat.rival.broker(&seat)? {
            duel.brokers.push(spawn(command, &seat, Side::Near)?);
            duel.wait_for_broker()?;
        }
        if let Some(command) = seat.rival.far_broker(&seat)? {
            duel.brokers.push(spawn(command, &seat, Side::Far)?);
            duel.wait_for("the far driver", |duel| is_driven(&duel.seat.far_driver()))?;
        }
        duel.publisher = Some(spawn(itself("publisher", &seat)?, &seat, Side::Near)?);
        duel.wait_for("the publisher", |duel| duel.board.get(Word::PublisherReady) > 0)?;
        Ok(duel)
    }

    fn wait_for_broker(&mut self) -> anyhow::Result<()> {
        let (host, port) = (self.seat.near(), self.seat.port);
        let is_driver = self.seat.rival == crate::rival::Rival::Aeron;
        self.wait_for("the broker", |duel| match is_driver {
            true => is_driven(&duel.seat.driver()),
            false => TcpStream::connect((host, port)).is_ok(),
        })
    }

    /// One more subscriber; gives its number.
    pub fn subscribe(&mut self) -> anyhow::Result<usize> {
        let number = self.subscribers.len();
        let seat = Seat { number, ..self.seat.clone() };
        self.subscribers.push(spawn(itself("subscriber", &seat)?, &seat, Side::Far)?);
        Ok(number)
    }

    /// So many, which receive what is published.
    pub fn subscribe_all(&mut self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            self.subscribe()?;
        }
        self.wait_for("subscribers", |duel| duel.board.ready() >= count)?;
        // A rival that discovers its peers needs a moment, and says nothing when it has:
        // all leaves are told until each has something.
        let begun = Instant::now();
        while !(0..count).all(|number| self.board.sub(number, Sub::Told) > 0) {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "subscribers got nothing in a minute");
            self.board.raise(Word::Asked);
            pause(Duration::from_millis(300));
            self.check()?;
        }
        self.settle()
    }

    /// Waits until nothing comes any more.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let all = |duel: &Duel| (duel.applied(), duel.each(Sub::Told));
        let mut last = all(self);
        loop {
            pause(Duration::from_millis(200));
            self.check()?;
            let now = all(self);
            if now == last {
                return Ok(());
            }
            last = now;
        }
    }

    pub fn applied(&self) -> Vec<u64> {
        self.each(Sub::Applied)
    }

    /// A counter of each subscriber.
    pub fn each(&self, word: Sub) -> Vec<u64> {
        (0..self.subscribers.len()).map(|number| self.board.sub(number, word)).collect()
    }

    /// Processor seconds of all processes since they began, the broker's included.
    pub fn cpu(&self) -> f64 {
        let all = self.brokers.iter().chain(&self.publisher).chain(&self.subscribers);
        all.filter_map(|child| ticks(child.id())).map(|ticks| ticks as f64 / 100.0).sum()
    }

    /// Resident bytes of the one that keeps the state: the broker, or else the publisher.
    pub fn server_memory(&self) -> u64 {
        let server = self.brokers.first().or(self.publisher.as_ref());
        server.and_then(|child| resident(child.id())).unwrap_or(0)
    }

    pub fn signal(&self, number: usize, signal: i32) -> anyhow::Result<()> {
        let id = i32::try_from(self.subscribers[number].id())?;
        // SAFETY: kill touches no memory; the child has not been waited for, so its id is its own.
        let done = unsafe { libc::kill(id, signal) };
        anyhow::ensure!(done == 0, "cannot signal a subscriber");
        Ok(())
    }

    /// Fails if a process has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let dir = self.seat.dir.clone();
        let parts = self.brokers.iter_mut().chain(&mut self.publisher).chain(&mut self.subscribers);
        for child in parts {
            if let Some(status) = child.try_wait()? {
                let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(3).collect();
                bail!("a process ended early: {status}: {}", last.join(" | "));
            }
        }
        Ok(())
    }

    pub fn wait_for(&mut self, what: &str, done: impl Fn(&Duel) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !done(self) {
            self.check()?;
            anyhow::ensure!(begun.elapsed() < PATIENCE, "waited a minute for {what}");
            pause(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Duel {
    fn drop(&mut self) {
        let others = self.subscribers.iter_mut().chain(&mut self.publisher);
        let children = others.chain(&mut self.brokers);
        for child in children {
            // By its own id; one that has ended is only waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.seat.dir);
    }
}

pub fn pause(time: Duration) {
    thread::sleep(time);
}

/// A new folder.
fn folder(within: &Path) -> anyhow::Result<PathBuf> {
    let dir = within.join(format!("duel-{}-{}", std::process::id(), crate::board::now_ns()));
    fs::create_dir(&dir).with_context(|| format!("no folder in {}", within.display()))?;
    Ok(dir)
}

/// A port that nobody had a moment ago.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn itself(task: &str, seat: &Seat) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(task).args(seat.args());
    Ok(command)
}

/// Whether a media driver has made its folder.
fn is_driven(dir: &Path) -> bool {
    dir.join("cnc.dat").exists()
}

/// On which side of the link a process is, if there is one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Near,
    Far,
}

/// Starts a process that ends with this one; what it says goes to a file.
fn spawn(mut command: Command, seat: &Seat, side: Side) -> anyhow::Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(seat.dir.join("log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.env("CYCLONEDDS_URI", cyclone_settings(seat));
    let namespace = link::far_namespace().filter(|_| seat.lossy && side == Side::Far);
    // SAFETY: between fork and exec only setns and prctl are called, which is safe there.
    unsafe {
        command.pre_exec(move || {
            namespace.map_or(Ok(()), link::enter)?;
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let program = command.get_program().to_owned();
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// Unicast, the largest messages there are, buffers that hold a burst, and room for 66
/// participants on a machine. Over the lossy link, packets of a network.
fn cyclone_settings(seat: &Seat) -> String {
    let (interface, size, fragment) = match seat.lossy {
        true => (link::NAME, "1400B", "1300B"),
        false => ("lo", "65500B", "64000B"),
    };
    // One, where both sides are the same.
    let mut peers = vec![seat.near(), seat.far()];
    peers.dedup();
    let peers: String = peers.iter().map(|at| format!("<Peer Address=\"{at}\"/>")).collect();
    format!(
        "<CycloneDDS><Domain><General><Interfaces><NetworkInterface name=\"{interface}\"/>\
         </Interfaces><AllowMulticast>false</AllowMulticast>\
         <MaxMessageSize>{size}</MaxMessageSize><FragmentSize>{fragment}</FragmentSize></General>\
         <Discovery><ParticipantIndex>auto</ParticipantIndex>\
         <MaxAutoParticipantIndex>100</MaxAutoParticipantIndex>\
         <Peers>{peers}</Peers></Discovery><Internal>\
         <SocketReceiveBufferSize min=\"default\" max=\"4MB\"/></Internal></Domain></CycloneDDS>"
    )
}

/// User and system time in hundredths of a second.
fn ticks(id: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn resident(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
