//! The rivals of mapleaf doing its job: N leaves of 200 bytes, one publisher, every
//! subscriber a process with a replica. One program, started by itself for each part.

#[cfg(feature = "aeron")]
mod aeron;
mod bare;
mod board;
#[cfg(feature = "cyclone")]
mod cyclone;
mod duel;
mod job;
mod link;
mod mapleaf;
mod mqtt;
mod nats;
mod redis;
mod rival;
mod rows;
mod stream;
mod table;
#[cfg(feature = "zenoh")]
mod zenoh;

use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::bail;

use crate::board::Board;
use crate::job::Publisher;
use crate::job::Replica;
use crate::job::Sender;
use crate::job::Terms;
use crate::rival::Rival;

/// Where a process of a measurement sits: told by its arguments.
#[derive(Clone, Debug)]
pub struct Seat {
    pub rival: Rival,
    pub dir: PathBuf,
    pub port: u16,
    pub number: usize,
    pub leaves: u32,
    pub records: u32,
    pub window: u64,
    /// A key or a topic for each leaf, and the rival keeps the last value of each.
    pub keyed: bool,
    /// Each value has to leave at once.
    pub hurry: bool,
    pub spin: bool,
    /// Subscribers are behind the link that loses packets.
    pub lossy: bool,
}

impl Seat {
    /// The arguments that tell another process the same.
    fn args(&self) -> Vec<String> {
        let Seat { rival, dir, port, number, leaves, records, window, keyed, hurry, spin, lossy } =
            self;
        let flags = [keyed, hurry, spin, lossy].map(|flag| u8::from(*flag).to_string());
        let mut args = vec![rival.name().to_owned(), dir.display().to_string(), port.to_string()];
        args.extend([
            number.to_string(),
            leaves.to_string(),
            records.to_string(),
            window.to_string(),
        ]);
        args.extend(flags);
        args
    }

    fn parse(args: &[String]) -> anyhow::Result<Seat> {
        let [rival, dir, port, number, leaves, records, window, keyed, hurry, spin, lossy] = args
        else {
            bail!("a seat has eleven arguments, found {}", args.len());
        };
        Ok(Seat {
            rival: Rival::named(rival).context("no such rival")?,
            dir: dir.into(),
            port: port.parse()?,
            number: number.parse()?,
            leaves: leaves.parse()?,
            records: records.parse()?,
            window: window.parse()?,
            keyed: keyed == "1",
            hurry: hurry == "1",
            spin: spin == "1",
            lossy: lossy == "1",
        })
    }

    /// Where broker and publisher are.
    pub fn near(&self) -> &'static str {
        if self.lossy { link::NEAR } else { "127.0.0.1" }
    }

    /// Where subscribers are.
    pub fn far(&self) -> &'static str {
        if self.lossy { link::FAR } else { "127.0.0.1" }
    }

    /// The folder of Aeron's media driver.
    pub fn driver(&self) -> PathBuf {
        self.dir.join("aeron")
    }

    /// That of the subscribers' driver: behind the link they are on another machine.
    pub fn far_driver(&self) -> PathBuf {
        if self.lossy { self.dir.join("aeron-far") } else { self.driver() }
    }

    fn terms(&self) -> Terms {
        let Seat { leaves, records, window, spin, .. } = *self;
        Terms { leaves, records, window, spin }
    }

    fn board(&self) -> anyhow::Result<Board> {
        Board::open(&self.dir.join("board"))
    }
}

const USAGE: &str = "usage: mapleaf-compare measure RIVAL [--rows LIST] [--seconds N] \
    [--repetitions N] [--warm-up N] [--dir FOLDER]\n       mapleaf-compare table FOLDER\n       \
    mapleaf-compare rivals";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((task, rest)) = args.split_first() else { bail!(USAGE) };
    match task.as_str() {
        "measure" => rows::measure(rest),
        "table" => table::print(rest.first().context(USAGE)?.as_ref()),
        "rivals" => {
            Rival::ALL.iter().for_each(|rival| println!("{}", rival.name()));
            Ok(())
        }
        "publisher" => publish(&Seat::parse(rest)?),
        "subscriber" => subscribe(&Seat::parse(rest)?),
        #[cfg(feature = "aeron")]
        "aeron-driver" => aeron::driver(rest.first().context(USAGE)?),
        _ => bail!(USAGE),
    }
}

fn publish(seat: &Seat) -> anyhow::Result<()> {
    let board = seat.board()?;
    let sender: Box<dyn Sender> = match seat.rival {
        Rival::Mapleaf => return mapleaf::publish(seat),
        Rival::Bare | Rival::Bare60k => bare::sender(seat)?,
        Rival::Redis => redis::sender(seat)?,
        Rival::Nats | Rival::Jetstream => nats::sender(seat)?,
        Rival::Mosquitto => mqtt::sender(seat)?,
        #[cfg(feature = "zenoh")]
        Rival::Zenoh => zenoh::sender(seat)?,
        #[cfg(feature = "aeron")]
        Rival::Aeron => aeron::sender(seat)?,
        #[cfg(feature = "cyclone")]
        Rival::Cyclone => cyclone::sender(seat)?,
        #[allow(unreachable_patterns)]
        _ => bail!("built without {}", seat.rival.name()),
    };
    Publisher::new(&board, seat.terms(), sender).run()
}

fn subscribe(seat: &Seat) -> anyhow::Result<()> {
    let replica = Replica::new(seat.board()?, seat.number, seat.leaves as usize);
    match seat.rival {
        Rival::Mapleaf => mapleaf::subscribe(seat),
        Rival::Bare | Rival::Bare60k => bare::subscribe(seat, replica),
        Rival::Redis => redis::subscribe(seat, replica),
        Rival::Nats | Rival::Jetstream => nats::subscribe(seat, replica),
        Rival::Mosquitto => mqtt::subscribe(seat, replica),
        #[cfg(feature = "zenoh")]
        Rival::Zenoh => zenoh::subscribe(seat, replica),
        #[cfg(feature = "aeron")]
        Rival::Aeron => aeron::subscribe(seat, replica),
        #[cfg(feature = "cyclone")]
        Rival::Cyclone => cyclone::subscribe(seat, replica),
        #[allow(unreachable_patterns)]
        _ => bail!("built without {}", seat.rival.name()),
    }
}
