//! Our repair: a server and a mirror, each in a thread, with sockets of loopback.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context as _;
use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::runtime::Control;
use mapleaf::runtime::FeedWriter;
use mapleaf::runtime::MirrorObserver;
use mapleaf::runtime::MirrorOptions;
use mapleaf::runtime::MirrorReport;
use mapleaf::runtime::MirrorUntil;
use mapleaf::runtime::Next;
use mapleaf::runtime::ReloadableConfig;
use mapleaf::runtime::ServeOptions;
use mapleaf::runtime::mirror;
use mapleaf::runtime::serve;
use mapleaf::sync::Joined;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Damaged;
use mapleaf::tree::Layout;
use mapleaf::tree::OpenOptions;
use mapleaf::tree::Tree;

use crate::deltas::Copies;
use crate::deltas::Table;
use crate::deltas::Took;
use crate::store::VALUE;

/// As in the tools that measure.
const PERIOD: Duration = Duration::from_millis(1);

/// After this the last change's period has ended: it is repaired, and not an EVENT.
const SETTLED: Duration = Duration::from_millis(50);

/// What takes longer will not happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Leaves of one call of the feed.
const FED_AT_ONCE: usize = 256;

pub struct Linked {
    server: PathBuf,
    replica: PathBuf,
    table: Table,
    changed: Vec<u32>,
    /// The replica is to know nothing of what it misses.
    forgets: bool,
}

impl Linked {
    pub fn start(folder: &Path, table: Table, forgets: bool) -> anyhow::Result<Linked> {
        let (server, replica) = (folder.join("server"), folder.join("replica"));
        let layout = Layout::plain(1, table.leaves(), VALUE as u32)?;
        let (role, tree_id) = (TreeRole::Server, TreeId(1));
        let options = CreateOptions { role, tree_id, life: Life(0), unix_s: unix_s() };
        let mut tree = Tree::create(&server, layout, options)?;
        tree.begin_life(unix_s())?;
        for leaf in 0..table.leaves() {
            tree.write(DataLocId(leaf), table.value(leaf))?;
        }
        tree.close()?;
        let mut linked = Linked { server, replica, table, changed: Vec::new(), forgets };
        linked.serve_once()?;
        Ok(linked)
    }

    /// Serves the tree, lets the changes be made, and then a mirror be equal.
    fn serve_once(&mut self) -> anyhow::Result<(MirrorReport, Moments)> {
        let (tell_address, address) = channel();
        let (tell_fed, fed) = channel();
        let mut options = ServeOptions::new(&self.server);
        options.live.store(Arc::new(ReloadableConfig { period: PERIOD, ..Default::default() }));
        options.feed = Some(Box::new(self.feed(tell_fed)));
        options.on_ready = Some(Box::new(move |address| {
            let _ = tell_address.send(address);
        }));
        let control = Control::new()?;
        let stop = control.stop_handle();
        let server = thread::Builder::new().name("server".to_owned());
        let server = server.spawn(move || serve(options, control))?;
        let mirrored = address.recv().context("the server did not start").and_then(|address| {
            fed.recv_timeout(PATIENCE).context("the changes were not made")?;
            thread::sleep(SETTLED);
            let mut options = MirrorOptions::new(address);
            options.file = Some(self.replica.clone());
            options.until = MirrorUntil::InSync;
            options.run_for = Some(PATIENCE);
            let mut moments = Moments { begun: Instant::now(), joined: None, equal: None };
            let report = mirror(options, Control::new()?, &mut moments)?;
            Ok((report, moments))
        });
        stop.stop();
        let ended = server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?;
        ended?;
        mirrored
    }

    /// Writes the changed leaves, and says when it has.
    fn feed(&mut self, tell: Sender<()>) -> impl FnMut(&mut FeedWriter<'_>) -> Next + use<> {
        let changed = std::mem::take(&mut self.changed);
        let values = changed.into_iter().map(|leaf| (leaf, self.table.value(leaf).to_vec()));
        let mut values = values.collect::<Vec<_>>().into_iter();
        move |writer: &mut FeedWriter<'_>| {
            for (leaf, value) in values.by_ref().take(FED_AT_ONCE) {
                if let Err(error) = writer.write(DataLocId(leaf), &value) {
                    panic!("the server's tree does not take a leaf: {error}");
                }
            }
            if values.len() > 0 {
                return Next::Now;
            }
            let _ = tell.send(());
            Next::Woken
        }
    }
}

impl Copies for Linked {
    fn change(&mut self, leaves: &[u32]) -> anyhow::Result<()> {
        if self.forgets {
            // A life that the replica never hears of: at its start history may have been
            // lost, so the replica's revisions prove nothing to the next.
            let mut tree = open(&self.server, TreeRole::Server)?;
            tree.begin_life(unix_s())?;
            tree.close()?;
        }
        leaves.iter().for_each(|leaf| self.table.change(*leaf));
        self.changed.extend_from_slice(leaves);
        Ok(())
    }

    fn repair(&mut self) -> anyhow::Result<Took> {
        let (report, moments) = self.serve_once()?;
        let counted = |part, name| report.counters.value(part, name).unwrap_or(0);
        let by_checksums = counted("client", "requests_with_checksums");
        // A table whose checksums fit one REQUEST is compared by them in any case.
        let wanted = self.forgets || self.table.leaves() <= 280;
        anyhow::ensure!(wanted == (by_checksums > 0), "{by_checksums} REQUESTs with checksums");
        let joined = moments.joined.context("there was no session")?;
        let equal = moments.equal.context("it was never equal")?;
        Ok(Took {
            whole: equal - moments.begun,
            linked: Some(equal - joined),
            up: counted("socket", "bytes_sent"),
            down: counted("socket", "bytes_received"),
        })
    }

    /// Opening verifies every checksum.
    fn verify(&mut self) -> anyhow::Result<()> {
        let server = open(&self.server, TreeRole::Server)?;
        let replica = open(&self.replica, TreeRole::Replica)?;
        anyhow::ensure!(server.digest() == replica.digest(), "digests differ");
        let mut data = Vec::new();
        for leaf in 0..self.table.leaves() {
            replica.read(DataLocId(leaf), &mut data).context("there is no such leaf")?;
            anyhow::ensure!(data == self.table.value(leaf), "leaf {leaf} is another");
        }
        server.close()?;
        Ok(replica.close()?)
    }
}

fn open(file: &Path, role: TreeRole) -> anyhow::Result<Tree> {
    let options = OpenOptions { role, damaged: Damaged::Refuse, unix_s: unix_s() };
    Ok(Tree::open(file, options).with_context(|| format!("{}", file.display()))?.0)
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// When what happened to a mirror.
struct Moments {
    begun: Instant,
    joined: Option<Instant>,
    equal: Option<Instant>,
}

impl MirrorObserver for Moments {
    fn joined(&mut self, _: &Joined) {
        self.joined.get_or_insert_with(Instant::now);
    }

    fn in_sync(&mut self, _: &Tree) {
        self.equal.get_or_insert_with(Instant::now);
    }
}
