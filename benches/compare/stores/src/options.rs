//! What is measured, and where.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;
use serde_json::Value;
use serde_json::json;

#[derive(Clone, Debug)]
pub struct Options {
    pub only: Vec<String>,
    pub rows: Vec<String>,
    /// Leaves of the tables.
    pub leaves: Vec<u32>,
    pub seconds: Duration,
    pub repetitions: u32,
    /// A folder on a medium that keeps what is written back.
    pub disk: PathBuf,
    /// A folder in memory.
    pub memory: PathBuf,
    /// Where a file for each who was measured goes.
    pub out: PathBuf,
}

impl Options {
    pub fn parse(args: &[String]) -> anyhow::Result<Options> {
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let mut options = Options {
            only: list("mapleaf,lmdb,redb,redb-unsynced,rsync,riblt"),
            rows: list("update,durable,scan,changed,read,size,delta"),
            leaves: vec![10_000, 1_000_000],
            seconds: Duration::from_secs(2),
            repetitions: 3,
            disk: std::env::temp_dir(),
            memory: "/dev/shm".into(),
            out: PathBuf::from("."),
        };
        for pair in args.chunks(2) {
            let [name, value] = pair else { bail!("{} needs a value", pair[0]) };
            match name.as_str() {
                "--only" => options.only = list(value),
                "--rows" => options.rows = list(value),
                "--leaves" => {
                    let leaves = value.split(',').map(str::parse).collect::<Result<_, _>>();
                    options.leaves = leaves.context("--leaves wants numbers")?;
                }
                "--seconds" => options.seconds = Duration::from_secs_f64(value.parse()?),
                "--repetitions" => options.repetitions = value.parse()?,
                "--disk" => options.disk = value.into(),
                "--memory" => options.memory = value.into(),
                "--out" => options.out = value.into(),
                _ => bail!("there is no option {name}"),
            }
        }
        Ok(options)
    }

    pub fn wants(&self, name: &str) -> bool {
        self.only.iter().any(|wanted| wanted == name)
    }

    /// What is said of the run in each file.
    pub fn told(&self) -> Value {
        json!({"seconds": self.seconds.as_secs_f64(), "repetitions": self.repetitions})
    }
}
