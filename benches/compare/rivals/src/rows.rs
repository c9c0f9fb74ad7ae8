//! The rows of the table: what is done in each, and what comes out.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::bail;
use mapleaf_compare_table::middle;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::Seat;
use crate::board::Mode;
use crate::board::Sub;
use crate::board::Word;
use crate::board::now_ns;
use crate::board::quantile;
use crate::duel::Duel;
use crate::duel::PATIENCE;
use crate::duel::pause;
use crate::job::VALUE;
use crate::link::Link;
use crate::rival::Rival;

/// Leaves of one message where a publisher tells all of them: some 200 kB, which every
/// rival takes, and larger ones are no faster.
const RECORDS_TOLD: u32 = 1_000;

struct Options {
    rival: Rival,
    rows: Vec<String>,
    seconds: Duration,
    repetitions: u32,
    warm_up: Duration,
    dir: PathBuf,
}

impl Options {
    fn parse(args: &[String]) -> anyhow::Result<Options> {
        let (rival, rest) = args.split_first().context("which rival?")?;
        let mut options = Options {
            rival: Rival::named(rival).with_context(|| format!("there is no rival {rival}"))?,
            rows: vec!["throughput".to_owned()],
            seconds: Duration::from_secs(3),
            repetitions: 3,
            warm_up: Duration::from_secs(1),
            dir: "/dev/shm".into(),
        };
        for pair in rest.chunks(2) {
            let [name, value] = pair else { bail!("{} needs a value", pair[0]) };
            match name.as_str() {
                "--rows" => options.rows = value.split(',').map(str::to_owned).collect(),
                "--seconds" => options.seconds = Duration::from_secs_f64(value.parse()?),
                "--repetitions" => options.repetitions = value.parse()?,
                "--warm-up" => options.warm_up = Duration::from_secs_f64(value.parse()?),
                "--dir" => options.dir = value.into(),
                _ => bail!("there is no option {name}"),
            }
        }
        Ok(options)
    }

    /// 10,000 leaves, one record a publish, nobody spins.
    fn seat(&self) -> Seat {
        let rival = self.rival;
        let records = rival.records(1);
        Seat {
            rival,
            dir: PathBuf::new(),
            port: 0,
            number: 0,
            leaves: 10_000,
            records,
            window: rival.window(records),
            keyed: rival.always_keyed(),
            hurry: false,
            spin: false,
            lossy: false,
        }
    }

    fn start(&self, seat: Seat) -> anyhow::Result<Duel> {
        Duel::start(seat, &self.dir)
    }
}

/// Every value of every figure, by name.
#[derive(Default)]
struct Figures {
    all: Map<String, Value>,
    notes: Vec<String>,
}

impl Figures {
    fn add(&mut self, name: &str, value: f64) {
        let values = self.all.entry(name.to_owned()).or_insert_with(|| json!([]));
        if let Some(values) = values.as_array_mut() {
            values.push(json!(value));
        }
    }
}

/// Measures one rival, and prints one JSON object.
pub fn measure(args: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(args)?;
    let name = options.rival.name();
    let mut told = json!({"rival": name, "settings": options.rival.settings()});
    match options.rival.version() {
        Ok(version) => {
            told["version"] = json!(version);
            let figures = run(&options);
            told["figures"] = Value::Object(figures.all);
            told["notes"] = json!(figures.notes);
        }
        Err(error) => told["missing"] = json!(format!("{error:#}")),
    }
    told["seconds"] = json!(options.seconds.as_secs_f64());
    told["repetitions"] = json!(options.repetitions);
    println!("{told}");
    Ok(())
}

/// A row that fails says so, and the others are measured all the same.
fn run(options: &Options) -> Figures {
    let mut figures = Figures::default();
    for row in &options.rows {
        let done = match row.as_str() {
            "throughput" => throughput(options, &mut figures),
            "latency" => latency(options, &mut figures),
            "join" => join(options, &mut figures),
            "memory" => memory(options, &mut figures),
            "repair" => repair(options, &mut figures),
            "loss" => loss(options, &mut figures),
            _ => Err(anyhow::anyhow!("there is no such row")),
        };
        if let Err(error) = done {
            figures.notes.push(format!("{row}: {error:#}"));
        }
    }
    figures
}

fn throughput(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    for subscribers in [1, 8, 64] {
        for asked in [1, 64] {
            let name = format!("throughput/{subscribers}/{asked}");
            if let Err(error) = throughput_of(options, figures, &name, (subscribers, asked)) {
                figures.notes.push(format!("{name}: {error:#}"));
            }
        }
    }
    Ok(())
}

fn throughput_of(
    options: &Options,
    figures: &mut Figures,
    name: &str,
    (subscribers, asked): (usize, u32),
) -> anyhow::Result<()> {
    let rival = options.rival;
    if asked > 1 && !rival.takes_batches() {
        bail!("a message is one key: there is no such mode");
    }
    let records = rival.records(asked);
    let seat = Seat { records, window: rival.window(records), ..options.seat() };
    let mut duel = options.start(seat)?;
    duel.subscribe_all(subscribers)?;
    duel.board.order(Mode::Fast, 0);
    pause(options.warm_up);
    for _ in 0..options.repetitions {
        let (t, applied, cpu, missed) =
            (now_ns(), duel.applied(), duel.cpu(), duel.each(Sub::Missed));
        pause(options.seconds);
        duel.check()?;
        let seconds = (now_ns() - t) as f64 / 1e9;
        let each = risen(&applied, &duel.applied());
        let total: f64 = each.iter().sum();
        anyhow::ensure!(total > 0.0, "nothing was applied in {seconds:.1} s");
        let lost: f64 = risen(&missed, &duel.each(Sub::Missed)).iter().sum();
        figures.add(&format!("{name}/applied"), middle(&each) / seconds);
        figures.add(
            &format!("{name}/slowest"),
            each.iter().copied().fold(f64::MAX, f64::min) / seconds,
        );
        figures.add(&format!("{name}/cpu"), (duel.cpu() - cpu) / (total / 1e6));
        figures.add(&format!("{name}/lost"), lost / (total + lost));
    }
    Ok(())
}

/// The bare harness in this row sends one value a datagram: nothing else is as soon there.
fn latency(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    for spin in [false, true] {
        if spin && !options.rival.spins() {
            figures.notes.push("latency/spinning: it has no such mode".to_owned());
            continue;
        }
        let name = if spin { "latency/spinning" } else { "latency/sleeping" };
        let seat = Seat { records: 1, window: 0, hurry: true, spin, ..options.seat() };
        time(options, figures, name, seat)?;
    }
    Ok(())
}

fn time(options: &Options, figures: &mut Figures, name: &str, seat: Seat) -> anyhow::Result<()> {
    let mut duel = options.start(seat)?;
    duel.subscribe_all(1)?;
    duel.board.order(Mode::Paced, 10_000);
    pause(options.warm_up);
    duel.board.set(Word::Timed, 1);
    for _ in 0..options.repetitions {
        let before = duel.board.histogram(0);
        let missed = duel.each(Sub::Missed);
        pause(options.seconds);
        duel.check()?;
        let after = duel.board.histogram(0);
        let timed = after.iter().zip(&before).map(|(after, before)| after - before);
        let timed: Vec<u64> = timed.collect();
        for (share, told) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")] {
            figures.add(&format!("{name}/{told}"), quantile(&timed, share));
        }
        figures.add(&format!("{name}/timed"), timed.iter().sum::<u64>() as f64);
        figures.add(&format!("{name}/lost"), risen(&missed, &duel.each(Sub::Missed))[0]);
    }
    Ok(())
}

/// Latency over a link with packets of 1,500 bytes that loses some of them, both ways.
fn loss(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    let link = Link::open()?;
    for (share, name) in [(0.0, "loss/0"), (0.001, "loss/0.1"), (0.01, "loss/1")] {
        link.lose(share);
        let seat = Seat { records: 1, window: 0, hurry: true, lossy: true, ..options.seat() };
        let (before, mut timed) = (link.carried(), Figures::default());
        if let Err(error) = time(options, &mut timed, name, seat) {
            figures.notes.push(format!("{name}: {error:#}"));
        }
        // One that finds a way round the link says nothing about loss.
        let values: f64 = timed.all.get(&format!("{name}/timed")).map_or(0.0, sum);
        let crossed = (link.carried() - before) as f64 / VALUE as f64;
        if crossed < values {
            figures.notes.push(format!("{name}: its values did not cross the link: not measured"));
        } else {
            figures.all.append(&mut timed.all);
        }
    }
    Ok(())
}

/// How long one takes that begins with nothing, while nothing is changed.
fn join(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    for (leaves, name) in [(10_000, "join/10k"), (1_000_000, "join/1M")] {
        if let Err(error) = join_of(options, figures, leaves, name) {
            figures.notes.push(format!("{name}: {error:#}"));
        }
    }
    Ok(())
}

/// A rival that keeps state is filled once; others tell all leaves when they are asked to.
fn state_seat(options: &Options, leaves: u32) -> Seat {
    let keyed = options.rival.keeps_state();
    let records = if keyed { 1 } else { options.rival.records(RECORDS_TOLD) };
    let window = if keyed { 0 } else { options.rival.window(records) };
    Seat { leaves, records, window, keyed, ..options.seat() }
}

fn join_of(
    options: &Options,
    figures: &mut Figures,
    leaves: u32,
    name: &str,
) -> anyhow::Result<()> {
    let seat = state_seat(options, leaves);
    let keyed = seat.keyed;
    let mut duel = options.start(seat)?;
    if keyed {
        fill(&mut duel)?;
    }
    for repetition in 0..=options.repetitions {
        let number = duel.subscribe()?;
        if !keyed {
            duel.wait_for("a subscriber", |duel| duel.board.sub(number, Sub::Ready) > 0)?;
            // What discovers or connects first does so now: it is asked in time only then.
            pause(Duration::from_millis(if options.rival == Rival::Zenoh { 50 } else { 2 }));
            duel.board.set_sub(number, Sub::Begun, now_ns());
            duel.board.raise(Word::Asked);
        }
        duel.wait_for("all leaves", |duel| duel.board.sub(number, Sub::Whole) > 0)?;
        let time = duel.board.sub(number, Sub::Whole) - duel.board.sub(number, Sub::Begun);
        // The first finds everything cold.
        if repetition > 0 {
            figures.add(name, time as f64 / 1e6);
        }
        duel.signal(number, libc::SIGSTOP)?;
        if !keyed {
            // It would be told all leaves of the next one too.
            duel = options.start(state_seat(options, leaves))?;
        }
    }
    Ok(())
}

fn fill(duel: &mut Duel) -> anyhow::Result<()> {
    let order = duel.board.order(Mode::Fill, 0);
    duel.wait_for("the filling", |duel| duel.board.get(Word::Filled) == order)?;
    // The broker may have taken in less than was sent.
    let mut last = 0;
    loop {
        pause(Duration::from_millis(500));
        duel.check()?;
        let now = duel.cpu();
        if (now * 100.0) as u64 <= last + 1 {
            return Ok(());
        }
        last = (now * 100.0) as u64;
    }
}

/// What the server grows to that keeps 1 M leaves.
fn memory(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    if !options.rival.keeps_state() {
        bail!("it keeps no state");
    }
    let mut duel = options.start(state_seat(options, 1_000_000))?;
    fill(&mut duel)?;
    figures.add("memory/1M", duel.server_memory() as f64);
    Ok(())
}

fn repair(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    for (rate, name) in [(10_000, "repair/10k"), (100_000, "repair/100k")] {
        for _ in 0..options.repetitions {
            if let Err(error) = repair_once(options, figures, rate, name) {
                figures.notes.push(format!("{name}: {error:#}"));
                break;
            }
        }
    }
    Ok(())
}

/// Stops one of two subscribers for two seconds under load. Without gaps it is equal when
/// it has applied a change that was made after it went on: those before it came first.
/// With gaps its user has to ask for all leaves, and it is equal when they have come.
/// mapleaf has no gaps, and says that such a change is there when it knows that all is.
fn repair_once(
    options: &Options,
    figures: &mut Figures,
    rate: u64,
    name: &str,
) -> anyhow::Result<()> {
    let seat = options.seat();
    let leaves = u64::from(seat.leaves);
    let mut duel = options.start(Seat { window: 0, hurry: true, ..seat })?;
    duel.subscribe_all(2)?;
    duel.board.order(Mode::Paced, rate);
    pause(Duration::from_secs(1));
    let (memory, missed) = (duel.server_memory(), duel.each(Sub::Missed));
    let (t, made, other) = (now_ns(), duel.board.get(Word::Made), duel.board.sub(1, Sub::Applied));
    duel.signal(0, libc::SIGSTOP)?;
    pause(Duration::from_secs(2));
    let seconds = (now_ns() - t) as f64 / 1e9;
    let queued = duel.server_memory().saturating_sub(memory);
    let published = (duel.board.get(Word::Made) - made) as f64 / seconds;
    let beside = (duel.board.sub(1, Sub::Applied) - other) as f64 / seconds;
    let bytes = loopback_bytes()?;
    let resumed = now_ns();
    duel.signal(0, libc::SIGCONT)?;
    let fresh = |duel: &Duel| duel.board.sub(0, Sub::Newest) >= resumed;
    duel.wait_for("a fresh change", fresh)?;
    let lost = duel.board.sub(0, Sub::Missed) - missed[0];
    if lost > 0 {
        let told = duel.board.sub(0, Sub::Told);
        duel.board.raise(Word::Asked);
        duel.wait_for("all leaves", |duel| duel.board.sub(0, Sub::Told) >= told + leaves)?;
    }
    let time = now_ns() - resumed;
    figures.add(&format!("{name}/ms"), time as f64 / 1e6);
    figures.add(&format!("{name}/bytes"), (loopback_bytes()? - bytes) as f64);
    figures.add(&format!("{name}/queued"), queued as f64);
    figures.add(&format!("{name}/lost"), lost as f64);
    figures.add(&format!("{name}/published"), published);
    figures.add(&format!("{name}/beside"), beside);
    anyhow::ensure!(time < PATIENCE.as_nanos() as u64, "it was not equal in a minute");
    Ok(())
}

/// Bytes that went over loopback in this network namespace.
fn loopback_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    let bytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    bytes.context("there is no loopback device")
}

fn risen(before: &[u64], after: &[u64]) -> Vec<f64> {
    after.iter().zip(before).map(|(after, before)| (after - before) as f64).collect()
}

fn sum(values: &Value) -> f64 {
    values.as_array().into_iter().flatten().filter_map(Value::as_f64).sum()
}
