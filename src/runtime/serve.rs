//! The server's loop: it owns a tree file and serves it.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use tracing::info;
use tracing::warn;

use crate::layout::TreeRole;
use crate::net::Offload;
use crate::runtime::adapter::TreeLeaves;
use crate::runtime::clock::Clock;
use crate::runtime::clock::Turn;
use crate::runtime::commits::Commits;
use crate::runtime::control::Control;
use crate::runtime::error::LoopError;
use crate::runtime::error::ServeError;
use crate::runtime::feed::Feeding;
use crate::runtime::growth::SchemaRefusal;
use crate::runtime::growth::extension;
use crate::runtime::journal::Journal;
use crate::runtime::lookout::Lookout;
use crate::runtime::metrics::Counters;
use crate::runtime::options::Durability;
use crate::runtime::options::OnReady;
use crate::runtime::options::ReloadableConfig;
use crate::runtime::options::SENDERS_MAX;
use crate::runtime::options::ServeOptions;
use crate::runtime::options::Waiting;
use crate::runtime::poll::Poller;
use crate::runtime::poll::Source;
use crate::runtime::server_loop::Listen;
use crate::runtime::server_loop::SERVER;
use crate::runtime::server_loop::ServingSide;
use crate::runtime::server_loop::check_capacities;
use crate::sync::Leaves;
use crate::sync::PeriodEnd;
use crate::sync::Reports;
use crate::sync::SourceState;
use crate::sync::Time;
use crate::tree::Ending;
use crate::tree::GrowError;
use crate::tree::OpenOptions;
use crate::tree::Recovery;
use crate::tree::Replay;
use crate::tree::Tree;

/// What a server did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeReport {
    /// The address that it listened on.
    pub address: SocketAddr,
    /// Everything that was counted.
    pub counters: Counters,
}

/// Serves a tree file until the control ends it: then every client is told, the
/// state is saved, and the file closed.
///
/// The file is locked for as long as this runs. A new life begins when the tree has
/// been verified and the address is bound; `on_ready` is called after that.
///
/// # Errors
/// The tree is not one that can be served, its leaves do not fit the datagrams, the
/// address is not to be had, or (later) the file could not be written back, or was cut
/// by somebody.
pub fn serve(options: ServeOptions, control: Control) -> Result<ServeReport, ServeError> {
    let (waiting, live) = (options.waiting, Arc::clone(&options.live));
    let listen = Listen {
        address: options.listen,
        datagram_size: options.datagram_size,
        transport: options.transport,
        ring_size: options.ring_size,
        burst: options.burst,
        receive_buffer: options.receive_buffer,
        multicast: options.multicast,
        // Threads that send copy: they share a socket, and the kernel numbers what a socket
        // lends, not what a thread does.
        zerocopy: if options.senders > 0 { Offload::Off } else { options.zerocopy },
    };
    // First, so that a port that is taken leaves the tree as its last owner did.
    let outlet = listen.bind(&live.load())?;
    let mut tree = open(&options)?;
    let schema = live.load().schema.clone();
    if let Some(schema) = schema {
        follow_schema(&options.tree, &schema, listen.datagram_size, &mut tree)?;
    }
    check_capacities(tree.layout(), listen.datagram_size)?;
    let life = tree.begin_life(unix_s());
    let life = life.map_err(|source| sync_error(&options.tree, source))?;
    let mut tree = TreeLeaves::served(tree);
    let kind = (SERVER, Reports::Accept);
    let clock = Clock::start();
    let (size, start) = (listen.datagram_size, end_of_period(&tree));
    let start = (start, &mut tree);
    let mut side = ServingSide::new(outlet, Arc::clone(&live), kind, size, clock, start)?;
    info!("{}: life {life}, {}", options.tree.display(), leaves(tree.leaf_count()));
    if options.senders > 0 {
        let count = options.senders.min(SENDERS_MAX);
        side.start_senders(count, options.ring_size, &control.stop_handle())?;
    }
    let durability = options.durability;
    let feeding = options.feed.map(Feeding::new);
    let mut serving =
        Serving { path: options.tree, live, clock, listen, side, tree, commits: None, feeding };
    if durability == Durability::Power {
        serving.begin_commits(&control)?;
    }
    serving.run(waiting, control, options.on_ready)
}

/// Seconds since 1970, by the clock of the machine.
pub(super) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn open(options: &ServeOptions) -> Result<Tree, ServeError> {
    let role = TreeRole::Server;
    let how = OpenOptions { role, damaged: options.damaged, unix_s: unix_s() };
    let (tree, recovery) = Tree::open(&options.tree, how)
        .map_err(Box::new)
        .map_err(|source| ServeError::Open { path: options.tree.clone(), source })?;
    log_recovery(&options.tree, &recovery);
    Ok(tree)
}

/// Says what opening repaired.
pub(super) fn log_recovery(path: &Path, recovery: &Recovery) {
    let path = path.display();
    info!("{path}: opened; {}", told(recovery.ending, &recovery.redo));
    match recovery.redo {
        Replay::Done { batches, leaves: count } => {
            info!("{path}: {batches} commits of its redo log were taken over, {}", leaves(count));
        }
        Replay::Damaged => warn!("{path}: its redo log was damaged and is dropped"),
        _ => {}
    }
    if let Some(leaf) = recovery.undone {
        info!("{path}: leaf {leaf} was torn by a crash and has its former data again");
    }
    if recovery.damaged_count > 0 {
        let first = recovery.damaged.first().map_or(0, |leaf| leaf.0);
        let emptied = leaves(recovery.damaged_count);
        warn!("{path}: {emptied} found damaged and emptied, the first is leaf {first}");
    }
}

/// How the last owner ended, in words.
fn told(ending: Ending, redo: &Replay) -> &'static str {
    match (ending, redo) {
        (Ending::Clean, _) => "it was closed in good order",
        (Ending::ProcessDeath, _) => {
            "its last owner was killed or crashed, and nothing acknowledged is lost"
        }
        (Ending::PowerLoss, Replay::Done { .. }) => {
            "the machine went down with its last owner, and nothing acknowledged is lost"
        }
        (Ending::PowerLoss, _) => {
            "the machine went down with its last owner, or the file comes from another machine: \
             leaves may be older than what was acknowledged"
        }
    }
}

/// So many leaves.
fn leaves(count: u32) -> String {
    format!("{count} {}", if count == 1 { "leaf" } else { "leaves" })
}

fn sync_error(path: &Path, source: crate::tree::SyncError) -> LoopError {
    LoopError::Sync { path: path.to_owned(), source }
}

/// Lets a tree grow to what a schema file says, if it extends the tree. Says whether it
/// did; what does not fit is one warning.
fn follow_schema(
    path: &Path,
    schema: &Path,
    datagram_size: usize,
    tree: &mut Tree,
) -> Result<Grown, ServeError> {
    match grow(schema, datagram_size, tree) {
        Ok(Grown::No) => Ok(Grown::No),
        Ok(Grown::Yes) => {
            info!("{}: has grown to {}", path.display(), leaves(tree.leaf_count()));
            Ok(Grown::Yes)
        }
        Err(Refused::Schema(SchemaRefusal::Grow(source @ GrowError::Name(_)))) => {
            Err(ServeError::Grow { path: path.to_owned(), source })
        }
        Err(refused) => {
            warn!("{}: the tree stays as it is: {refused}", schema.display());
            Ok(Grown::No)
        }
    }
}

/// Whether a tree has another layout now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grown {
    Yes,
    No,
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Schema(#[from] SchemaRefusal),
    #[error(transparent)]
    Size(#[from] LoopError),
}

fn grow(schema: &Path, datagram_size: usize, tree: &mut Tree) -> Result<Grown, Refused> {
    let Some(layout) = extension(schema, tree)? else { return Ok(Grown::No) };
    check_capacities(&layout, datagram_size)?;
    tree.grow(layout).map_err(SchemaRefusal::Grow)?;
    Ok(Grown::Yes)
}

/// A server that has everything.
struct Serving {
    path: PathBuf,
    live: Arc<ArcSwap<ReloadableConfig>>,
    clock: Clock,
    listen: Listen,
    side: ServingSide,
    tree: TreeLeaves,
    /// Where reports wait for the medium, if they are to survive power loss.
    commits: Option<Commits>,
    /// Where changes come from beside devices.
    feeding: Option<Feeding>,
}

impl Serving {
    fn run(
        mut self,
        waiting: Waiting,
        mut control: Control,
        on_ready: Option<OnReady>,
    ) -> Result<ServeReport, ServeError> {
        let address = self.side.address()?;
        let mut poller =
            Poller::new(waiting, &control).map_err(LoopError::system("make a poll"))?;
        let source = self.side.register(&mut poller)?;
        let mut journal = Journal::new(&control, self.clock.now());
        if let Some(on_ready) = on_ready {
            on_ready(address);
        }
        let outcome = self.turns(&mut poller, source, &mut control, &mut journal);
        let outcome = outcome.and_then(|()| self.settle());
        self.side.leave(&self.tree);
        let mut counters = Counters::default();
        self.count(&mut counters);
        journal.end(&counters);
        if let Some(commits) = self.commits.take() {
            commits.end(&mut self.tree);
        }
        let closed = self.tree.into_tree().close();
        outcome?;
        closed.map_err(|source| sync_error(&self.path, source))?;
        Ok(ServeReport { address, counters })
    }

    fn turns(
        &mut self,
        poller: &mut Poller,
        source: Source,
        control: &mut Control,
        journal: &mut Journal,
    ) -> Result<(), ServeError> {
        let mut lookout = Lookout::new(self.clock.now());
        while !control.is_stopped() {
            self.reload(control)?;
            let deadline = self.deadline().min(journal.deadline()).min(lookout.deadline());
            let turn = Turn::begin(self.clock, deadline);
            let waited = poller.wait(turn.timeout(), control);
            waited.map_err(LoopError::system("wait for datagrams"))?;
            self.feed(control);
            self.side.turn(poller, source, turn, end_of_period, &mut self.tree);
            if let Some(commits) = &mut self.commits {
                commits.turn(&mut self.side, &mut self.tree)?;
                self.side.tell_news(end_of_period(&self.tree), &mut self.tree);
            }
            self.side.check_senders()?;
            lookout.look(self.clock.now(), self.tree.tree())?;
            journal.keep(self.clock.now(), |counters| self.count(counters));
        }
        Ok(())
    }

    /// When the next turn is due though nothing comes.
    fn deadline(&self) -> Time {
        let feeding = self.feeding.as_ref();
        let feed = feeding.map(|feeding| feeding.deadline(self.clock, &self.tree));
        feed.into_iter().fold(self.side.deadline(), Time::min)
    }

    /// Takes what the feed has. The turn that follows takes datagrams, and ends the
    /// period if it is time.
    fn feed(&mut self, control: &Control) {
        let Some(feeding) = &mut self.feeding else { return };
        let written = feeding.turn(control, &mut self.tree);
        if self.commits.is_none() {
            self.side.note_writes(written);
        }
    }

    fn reload(&mut self, control: &mut Control) -> Result<(), ServeError> {
        let config = match control.take_reload() {
            None => return Ok(()),
            Some(Err(error)) => {
                warn!("the configuration stays as it is: {error}");
                return Ok(());
            }
            Some(Ok(config)) => config,
        };
        if let Err(error) = self.listen.admits(&config) {
            warn!("the configuration stays as it is: {error}");
            return Ok(());
        }
        let schema = config.schema.clone();
        self.live.store(Arc::new(config));
        self.side.reconfigure();
        info!("the configuration was read again");
        schema.map_or(Ok(()), |schema| self.follow(&schema, control))
    }

    fn begin_commits(&mut self, control: &Control) -> Result<(), ServeError> {
        self.commits = Some(Commits::start(&mut self.tree, control.stop_handle())?);
        Ok(())
    }

    /// Waits until all that was staged is durable, stored and acknowledged.
    fn settle(&mut self) -> Result<(), ServeError> {
        match &mut self.commits {
            None => Ok(()),
            Some(commits) => Ok(commits.settle(&mut self.side, &mut self.tree)?),
        }
    }

    fn follow(&mut self, schema: &Path, control: &Control) -> Result<(), ServeError> {
        self.settle()?;
        let (path, size) = (&self.path, self.listen.datagram_size);
        let grown = self.tree.grow(|tree| follow_schema(path, schema, size, tree))?;
        if grown == Grown::Yes {
            if let Some(commits) = self.commits.take() {
                // The log is one of the layout before.
                commits.end(&mut self.tree);
                self.begin_commits(control)?;
            }
            self.side.rejoin_all(end_of_period(&self.tree), &mut self.tree);
            self.feeding.iter_mut().for_each(Feeding::begin_anew);
        }
        Ok(())
    }

    fn count(&self, counters: &mut Counters) {
        self.side.count(counters);
        if let Some(commits) = &self.commits {
            commits.count(counters);
        }
        let help = "Leaves of the tree.";
        counters.add_level("tree", "leaves", help, u64::from(self.tree.leaf_count()));
    }
}

/// The origin holds everything up to its newest revision.
fn end_of_period(tree: &TreeLeaves) -> PeriodEnd {
    PeriodEnd { watermark: tree.newest_revision(), source: SourceState::InSync }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Life;
    use crate::layout::TreeId;
    use crate::tree::CreateOptions;
    use crate::tree::Damaged;
    use crate::tree::Ending;
    use crate::tree::Layout;
    use crate::tree::mishap::Call;
    use crate::tree::mishap::injected;

    /// Serves until a write-back fails, the one behind so many others.
    fn serve_failing(tree: &Path, behind: u32, errno: i32) -> Result<ServeReport, ServeError> {
        injected::fail(Call::WriteBack, behind, errno);
        let control = Control::new().unwrap();
        let stop = control.stop_handle();
        let mut options = ServeOptions::new(tree);
        options.on_ready = Some(Box::new(move |_| stop.stop()));
        serve(options, control)
    }

    #[test]
    fn a_write_back_that_fails_ends_a_server_and_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let (role, tree_id) = (TreeRole::Server, TreeId(1));
        let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
        let tree = Tree::create(&path, Layout::plain(1, 4, 16).unwrap(), options).unwrap();
        tree.close().unwrap();
        // One at the opening, one when the life begins, two when the tree is closed.
        for behind in 0..5 {
            let served = serve_failing(&path, behind, libc::EIO);
            let ended_well = injected::clear();
            assert_eq!(served.is_ok(), ended_well, "{behind}: it went on");
            let told = served.err().map(|error| (error.to_string(), error));
            if let Some((text, _)) = &told {
                assert!(text.contains("write the tree file back"), "{text}");
            }
            let how = OpenOptions { role, damaged: Damaged::Refuse, unix_s: 0 };
            let (tree, recovery) = Tree::open(&path, how).unwrap();
            // An opening that failed may have stored nothing, or that the tree is open.
            if !matches!(told, Some((_, ServeError::Open { .. }))) {
                assert_eq!(recovery.ending == Ending::Clean, ended_well, "{behind}");
            }
            tree.close().unwrap();
        }
    }
}
