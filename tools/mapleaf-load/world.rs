//! A server in this process and subscribers in theirs, until they are dropped.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use serde_json::Value;
use tempfile::TempDir;

use mapleaf::layout::Life;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::runtime::Board;
use mapleaf::runtime::Control;
use mapleaf::runtime::Counters;
use mapleaf::runtime::ReloadableConfig;
use mapleaf::runtime::ServeError;
use mapleaf::runtime::ServeOptions;
use mapleaf::runtime::ServeReport;
use mapleaf::runtime::Stop;
use mapleaf::runtime::Waker;
use mapleaf::runtime::serve;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Damaged;
use mapleaf::tree::Layout;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::Tree;

use crate::feed::Load;
use crate::feed::Mode;
use crate::feed::Orders;
use crate::machine;
use crate::machine::wait_for;
use crate::options::Common;

/// What takes longer than this will not happen.
const PATIENCE: Duration = Duration::from_secs(120);

/// After this what a loop counts is published: it does so every second.
pub(crate) const PUBLISHED: Duration = Duration::from_millis(1_100);

/// Name of the thread in which the server runs.
pub(crate) const SERVER_THREAD: &str = "server";

/// What of the server is not its tree's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Serving {
    /// Changes between two looks at the socket.
    pub(crate) batch: u32,
    pub(crate) sessions_max: usize,
    pub(crate) lease: Duration,
}

impl Default for Serving {
    fn default() -> Serving {
        let ReloadableConfig { sessions_max, lease, .. } = ReloadableConfig::default();
        Serving { batch: 1, sessions_max, lease }
    }
}

/// A server with its tree and its feed.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    orders: Arc<Orders>,
    waker: Waker,
    board: Arc<Board>,
    stop: Stop,
    server: Option<JoinHandle<Result<ServeReport, ServeError>>>,
    folder: TempDir,
    busy_poll: bool,
    receive_buffer: u32,
}

impl World {
    /// A server of a tree whose leaves have all been written once.
    pub(crate) fn start(common: &Common, serving: Serving) -> anyhow::Result<World> {
        // Signals are noted before there is something to leave behind.
        machine::go_on()?;
        let within = common.folder();
        let folder = tempfile::Builder::new().prefix("mapleaf-load-").tempdir_in(&within);
        let folder = folder.with_context(|| format!("no folder in {}", within.display()))?;
        let tree = folder.path().join("server");
        create(common, &tree)?.close()?;
        let orders = Arc::<Orders>::default();
        let load = Load::new(Arc::clone(&orders), serving.batch, common.size);
        let mut options = ServeOptions::new(&tree);
        let (tell, told) = mpsc::channel();
        options.datagram_size = common.datagram_size;
        options.waiting = common.waiting();
        options.senders = common.senders as usize;
        options.burst = common.burst as usize;
        options.transport = common.transport;
        options.feed = Some(Box::new(load));
        options.on_ready = Some(Box::new(move |address| {
            let _ = tell.send(address);
        }));
        let (period, lease, sessions_max) = (common.period, serving.lease, serving.sessions_max);
        let config = ReloadableConfig { period, lease, sessions_max, ..Default::default() };
        options.live.store(Arc::new(config));
        let control = Control::new()?;
        let (waker, board, stop) = (control.waker(), control.board(), control.stop_handle());
        let server = thread::Builder::new().name(SERVER_THREAD.to_owned());
        let server = server.spawn(move || serve(options, control))?;
        let Ok(address) = told.recv() else {
            let ended = server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?;
            bail!("the server did not start: {:?}", ended.err());
        };
        let Common { busy_poll, receive_buffer, .. } = *common;
        let server = Some(server);
        let world = World {
            address,
            orders,
            waker,
            board,
            stop,
            server,
            folder,
            busy_poll,
            receive_buffer,
        };
        world.order(Mode::Filling);
        wait_for("every leaf was written", PATIENCE, || Ok(world.orders.mode() == Mode::Paused))?;
        Ok(world)
    }

    /// Lets the feed write.
    pub(crate) fn order(&self, mode: Mode) {
        self.orders.set(mode);
        self.waker.wake();
    }

    pub(crate) fn orders(&self) -> &Arc<Orders> {
        &self.orders
    }

    /// The server's counters, as of some second ago.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        self.board.counters()
    }

    /// Starts a subscriber of the server, or of what stands before it.
    pub(crate) fn subscribe(
        &self,
        name: &str,
        server: SocketAddr,
        flags: &[&str],
    ) -> anyhow::Result<Subscriber> {
        let file = self.folder.path().join(name);
        let mut command = itself("subscriber", server)?;
        command.arg("--file").arg(&file).args(flags);
        command.arg("--receive-buffer").arg(self.receive_buffer.to_string());
        if self.busy_poll {
            command.arg("--busy-poll");
        }
        Subscriber::start(command, file)
    }

    /// Starts another process that is a client of the server.
    pub(crate) fn spawn(&self, task: &str, flags: &[&str]) -> anyhow::Result<Subscriber> {
        let mut command = itself(task, self.address)?;
        command.args(flags);
        Subscriber::start(command, self.folder.path().join(task))
    }

    /// Several, all equal to the server.
    pub(crate) fn subscribe_all(
        &self,
        count: u32,
        flags: &[&str],
    ) -> anyhow::Result<Vec<Subscriber>> {
        let start = |number: u32| {
            // Each loses datagrams of its own, when it does.
            let seed = (u64::from(number) + 1).to_string();
            let flags = [flags, &["--seed", &seed]].concat();
            self.subscribe(&format!("replica-{number}"), self.address, &flags)
        };
        let all = (0..count).map(start).collect::<anyhow::Result<Vec<_>>>()?;
        settle(&all)?;
        Ok(all)
    }

    /// Ends the server, and says what it counted.
    pub(crate) fn end(&mut self) -> anyhow::Result<Counters> {
        self.stop.stop();
        let server = self.server.take().context("the server has ended")?;
        let report = server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
        Ok(report.counters)
    }

    /// Writes back what the server has changed so far, and waits for it.
    pub(crate) fn write_back(&self) -> anyhow::Result<()> {
        Ok(fs::File::open(self.folder.path().join("server"))?.sync_all()?)
    }

    /// Opens the file of the server, which has ended.
    pub(crate) fn open_server(&self) -> anyhow::Result<Tree> {
        open(&self.folder.path().join("server"), TreeRole::Server)
    }

    /// Opens the files of server and replicas, whose owners have ended: every checksum
    /// is verified by that. Then compares their digests.
    pub(crate) fn verify<'a>(
        &self,
        replicas: impl IntoIterator<Item = &'a Path>,
    ) -> anyhow::Result<()> {
        let server = self.open_server()?;
        for file in replicas {
            let replica = open(file, TreeRole::Replica)?;
            if replica.digest() != server.digest() {
                bail!("{} differs from the server's tree", file.display());
            }
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.stop();
        // A panic in the thread was printed by the thread.
        let _ = self.server.take().map(JoinHandle::join);
    }
}

/// This program with another task.
fn itself(task: &str, server: SocketAddr) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(task).arg("--server").arg(server.to_string());
    Ok(command)
}

/// A new tree of a server, as the options say.
pub(crate) fn create(common: &Common, tree: &Path) -> anyhow::Result<Tree> {
    let layout = Layout::plain(1, common.leaves, common.size)?;
    let tree_id = TreeId(machine::now_ns() | 1);
    let options = CreateOptions { role: TreeRole::Server, tree_id, life: Life(0), unix_s: 0 };
    Ok(Tree::create(tree, layout, options)?)
}

fn open(file: &Path, role: TreeRole) -> anyhow::Result<Tree> {
    let options = OpenOptions { role, damaged: Damaged::Refuse, unix_s: 0 };
    Ok(Tree::open(file, options).with_context(|| format!("{}", file.display()))?.0)
}

/// What a subscriber said at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    /// When, in nanoseconds.
    pub(crate) t: u64,
    pub(crate) in_sync: bool,
    /// When the newest change that it has applied was made.
    pub(crate) newest: u64,
}

/// All that a subscriber has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) started: Option<u64>,
    /// When all sessions of a process of sessions were open.
    pub(crate) opened: Option<u64>,
    pub(crate) at: Vec<At>,
    /// When it had applied how many leaves.
    applied: Vec<(u64, u64)>,
    pub(crate) end: Option<Value>,
}

impl Said {
    fn take(&mut self, line: &Value) {
        let number = |name: &str| line[name].as_u64().unwrap_or(0);
        match line["line"].as_str() {
            Some("start") => self.started = Some(number("t")),
            Some("opened") => self.opened = Some(number("t")),
            Some("at") => {
                let (t, newest) = (number("t"), number("newest"));
                self.at.push(At { t, in_sync: line["in_sync"] == true, newest });
                self.applied.extend(line["applied"].as_u64().map(|applied| (t, applied)));
            }
            Some("end") => self.end = Some(line.clone()),
            _ => {}
        }
    }

    /// Leaves applied up to a moment: between two lines it is taken to have gone evenly.
    pub(crate) fn applied_at(&self, t: u64) -> f64 {
        let told = &self.applied;
        let after = told.partition_point(|(told, _)| *told < t);
        match (after.checked_sub(1).and_then(|before| told.get(before)), told.get(after)) {
            (Some((begin, first)), Some((end, last))) => {
                let share = (t - begin) as f64 / (end - begin) as f64;
                *first as f64 + share * last.saturating_sub(*first) as f64
            }
            (_, Some((_, applied))) | (Some((_, applied)), None) => *applied as f64,
            (None, None) => 0.0,
        }
    }

    /// Datagrams that it lost on purpose, both ways, when it has ended.
    pub(crate) fn dropped(&self) -> u64 {
        self.end.as_ref().and_then(|end| end["dropped"].as_u64()).unwrap_or(0)
    }

    /// Milliseconds from before its first datagram to the first period whose digest is equal.
    pub(crate) fn until_equal_ms(&self) -> anyhow::Result<f64> {
        let started = self.started.context("a subscriber did not say when it began")?;
        let equal = self.at.iter().find(|at| at.in_sync);
        let equal = equal.context("a subscriber ended without being equal")?;
        Ok(equal.t.saturating_sub(started) as f64 / 1e6)
    }

    /// A counter of the mirror, when it has ended.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let end = self.end.as_ref();
        end.and_then(|end| end["counters"][name].as_u64()).unwrap_or(0)
    }

    /// The latencies of one round, when it has ended.
    pub(crate) fn round(&self, round: u32) -> Option<&Value> {
        let rounds = self.end.as_ref()?["rounds"].as_array()?;
        rounds.iter().find(|told| told["round"] == round)
    }
}

/// A subscriber's process. It is killed when this is dropped.
pub(crate) struct Subscriber {
    child: Child,
    said: Arc<Mutex<Said>>,
    reader: Option<JoinHandle<()>>,
    file: PathBuf,
}

impl Subscriber {
    fn start(mut command: Command, file: PathBuf) -> anyhow::Result<Subscriber> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.context("cannot start a subscriber")?;
        let out = child.stdout.take().context("a subscriber without stdout")?;
        let said = Arc::<Mutex<Said>>::default();
        let to = Arc::clone(&said);
        let reader = thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line) {
                    to.lock().unwrap_or_else(PoisonError::into_inner).take(&line);
                }
            }
        });
        Ok(Subscriber { child, said, reader: Some(reader), file })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// All that it has said so far.
    pub(crate) fn said(&self) -> Said {
        self.with_said(Said::clone)
    }

    pub(crate) fn with_said<T>(&self, look: impl FnOnce(&Said) -> T) -> T {
        look(&self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stops its process, or lets it go on.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(id.context("a process has an id")?, signal)?)
    }

    /// Lets it lose this share of the datagrams from now on, both ways.
    pub(crate) fn lose(&mut self, share: f64) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("a subscriber that has ended")?;
        writeln!(stdin, "{share}").context("a subscriber does not listen")
    }

    /// Fails if it has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) if !status.success() => bail!("a subscriber ended early: {status}"),
            _ => Ok(()),
        }
    }

    /// Lets it end, or waits until it has, and gives all that it said.
    pub(crate) fn end(&mut self) -> anyhow::Result<Said> {
        drop(self.child.stdin.take());
        self.wait()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> anyhow::Result<Said> {
        let child = &mut self.child;
        wait_for("a subscriber's end", PATIENCE, || Ok(child.try_wait()?.is_some()))?;
        self.check()?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(self.said())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // By its own id; one that has ended is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.reader.take().map(JoinHandle::join);
        // Large ones make room for those that follow.
        let _ = fs::remove_file(&self.file);
    }
}

/// Lets each of them lose this share of the datagrams from now on, both ways.
pub(crate) fn lose(all: &mut [Subscriber], share: f64) -> anyhow::Result<()> {
    all.iter_mut().try_for_each(|one| one.lose(share))
}

/// One that lost the last EVENT believes itself equal until the next heartbeat comes;
/// two of them are waited for.
const HEARTBEATS: u32 = 2;

/// Waits until all are equal to the server, and have been for two looks. Nothing may be
/// lost on purpose any more.
pub(crate) fn settle(subscribers: &[Subscriber]) -> anyhow::Result<()> {
    let heartbeats = HEARTBEATS * ReloadableConfig::default().heartbeat;
    let begun = machine::now_ns() + heartbeats.as_nanos() as u64;
    let still = |said: &Said| match said.applied.as_slice() {
        [.., (t, one), (_, two)] => {
            *t > begun && one == two && said.at.last().is_some_and(|at| at.in_sync)
        }
        _ => false,
    };
    wait_for("subscribers equal to the server", PATIENCE, || {
        Ok(subscribers.iter().all(|one| one.with_said(still)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn between_two_lines_it_goes_evenly() {
        let mut said = Said::default();
        assert_eq!(said.applied_at(5), 0.0);
        for (t, applied) in [(100, 10), (200, 30)] {
            said.take(&json!({"line": "at", "t": t, "applied": applied, "in_sync": true}));
        }
        assert_eq!([50, 100, 150, 200, 300].map(|t| said.applied_at(t)), [10., 10., 20., 30., 30.]);
    }

    #[test]
    fn the_end_has_counters_and_rounds() {
        let mut said = Said::default();
        said.take(&json!({"line": "start", "t": 7}));
        said.take(&json!({"line": "end", "counters": {"a.b": 5}, "rounds": [{"round": 2}]}));
        assert_eq!((said.started, said.counter("a.b"), said.counter("a.c")), (Some(7), 5, 0));
        assert!(said.round(2).is_some() && said.round(1).is_none());
    }
}
