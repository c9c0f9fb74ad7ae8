//! mapleaf's own file.

use std::path::Path;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::tree::Checkpoint;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Freed;
use mapleaf::tree::Layout;
use mapleaf::tree::RedoBatch;
use mapleaf::tree::RedoLog;
use mapleaf::tree::Scanned;
use mapleaf::tree::SyncError;
use mapleaf::tree::Tree;
use mapleaf::tree::TreeFile;

use crate::reader::rate;
use crate::store::Mode;
use crate::store::Random;
use crate::store::Store;
use crate::store::VALUE;
use crate::store::Values;
use crate::store::sum;

/// Flags are taken as a server takes them at the end of a period: at 1 M updates a second
/// some 4,000 lie in one of 4 ms.
const TAKEN_AT: u32 = 4_096;

/// Bytes of a batch, and of half a log at most: those of `serve --durability power`.
const BATCH_LEN: usize = 1 << 20;
const HALF_LEN_MAX: u64 = 16 << 20;

pub struct Ours {
    tree: Tree,
    durable: Option<Durable>,
    changes: Vec<DataLocId>,
    data: Vec<u8>,
}

impl Ours {
    pub fn fill(
        folder: &Path,
        leaves: u32,
        mode: Mode,
        values: &mut Values,
    ) -> anyhow::Result<Ours> {
        let layout = Layout::plain(1, leaves, VALUE as u32)?;
        let (role, tree_id) = (TreeRole::Server, TreeId(1));
        let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
        let mut tree = Tree::create(&file(folder), layout, options)?;
        tree.begin_life(0)?;
        for leaf in 0..leaves {
            tree.write(DataLocId(leaf), values.next(leaf))?;
        }
        let durable = match mode {
            Mode::Durable => Some(Durable::begin(&mut tree)?),
            Mode::Fast | Mode::Shared => None,
        };
        Ok(Ours { tree, durable, changes: Vec::new(), data: Vec::new() })
    }

    fn take(&mut self) -> usize {
        self.changes.clear();
        self.tree.take_changes(&mut self.changes);
        self.changes.len()
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("tree")
}

impl Store for Ours {
    fn update(&mut self, leaves: &[u32], values: &mut Values) -> anyhow::Result<()> {
        match &mut self.durable {
            Some(durable) => durable.commit(&mut self.tree, leaves, values)?,
            None => {
                for leaf in leaves {
                    self.tree.write(DataLocId(*leaf), values.next(*leaf))?;
                }
            }
        }
        if self.tree.change_count() >= TAKEN_AT {
            self.take();
        }
        Ok(())
    }

    fn sync(&mut self) -> anyhow::Result<()> {
        Ok(self.tree.sync()?)
    }

    fn scan(&mut self) -> anyhow::Result<u64> {
        let mut all = 0_u64;
        for leaf in 0..self.tree.leaf_count() {
            self.tree.read(DataLocId(leaf), &mut self.data).context("there is no such leaf")?;
            all = all.wrapping_add(sum(&self.data));
        }
        Ok(all)
    }

    fn changed(&mut self, _: u64) -> anyhow::Result<usize> {
        Ok(self.take())
    }
}

/// The redo log, with a thread that makes checkpoints.
struct Durable {
    log: RedoLog,
    batch: RedoBatch,
    checkpoints: Sender<Checkpoint>,
    freed: Receiver<Result<Freed, SyncError>>,
}

impl Durable {
    fn begin(tree: &mut Tree) -> anyhow::Result<Durable> {
        let pages = tree.layout().file_len().next_multiple_of(4096);
        let log = RedoLog::create(tree, pages.clamp(BATCH_LEN as u64, HALF_LEN_MAX))?;
        let batch = RedoBatch::with_capacity(BATCH_LEN - 4096);
        let (checkpoints, due) = channel::<Checkpoint>();
        let (tell, freed) = channel();
        // It ends when the log has gone.
        thread::Builder::new().name("checkpoints".to_owned()).spawn(move || {
            for checkpoint in due {
                let _ = tell.send(checkpoint.run());
            }
        })?;
        Ok(Durable { log, batch, checkpoints, freed })
    }

    fn commit(
        &mut self,
        tree: &mut Tree,
        leaves: &[u32],
        values: &mut Values,
    ) -> anyhow::Result<()> {
        for leaf in leaves {
            tree.stage(DataLocId(*leaf), values.next(*leaf), &mut self.batch)?;
        }
        while let Ok(freed) = self.freed.try_recv() {
            self.log.mark_free(freed?);
        }
        while !self.log.room(&self.batch) {
            self.log.mark_free(self.freed.recv()??);
        }
        let appended = self.log.append(&mut self.batch)?;
        tree.store_batch(&self.batch)?;
        self.batch.clear();
        if let Some(left) = appended.left {
            let checkpoint = tree.checkpoint(left).context("all of the half is stored")?;
            self.checkpoints.send(checkpoint)?;
        }
        Ok(())
    }
}

/// Reads random leaves of a file that another process has open, and verifies each.
pub fn read(folder: &Path, leaves: u32, time: Duration) -> anyhow::Result<f64> {
    let file = TreeFile::open(&file(folder))?;
    let mut random = Random(11);
    rate(time, || {
        let leaf = file.read_leaf(DataLocId(random.below(leaves)))?;
        let leaf = leaf.context("there is no such leaf")?.ok().context("a leaf is damaged")?;
        Ok(sum(&leaf.data))
    })
}

/// Reads all leaves of a file that another process has open, and verifies each.
pub fn scan(folder: &Path) -> anyhow::Result<u64> {
    let file = TreeFile::open(&file(folder))?;
    let (mut leaves, mut all) = (file.leaves(), 0_u64);
    while let Some(scanned) = leaves.next_leaf()? {
        let Scanned::Leaf(leaf) = scanned else { anyhow::bail!("a leaf is damaged") };
        all = all.wrapping_add(sum(leaf.data));
    }
    Ok(all)
}
