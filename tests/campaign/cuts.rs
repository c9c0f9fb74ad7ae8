//! Files that somebody cuts while they are in use.

use std::fs;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use mapleaf::layout::DataLocId;
use mapleaf::runtime::Reporter;
use mapleaf::runtime::ReporterOptions;

use crate::count;
use crate::figure;
use crate::pause;
use crate::seed;
use crate::support::process::Ended;
use crate::support::process::Program;
use crate::support::process::Serving;
use crate::support::process::mapleaf;
use crate::support::process::mapleaf_tree;
use crate::support::process::mirror;
use crate::support::process::run;
use crate::support::proxy::SplitMix;
use crate::support::trees::Site;
use crate::support::trees::wait_equal;
use crate::support::wait_until;

const LEAVES: u32 = 400;

/// Long enough for a program that was just started to be in mid-work.
const LATEST: Duration = Duration::from_millis(60);

/// Reports to a server that may go away at any moment.
struct Load {
    end: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Load {
    fn on(server: SocketAddr) -> Load {
        let end = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let wait = Duration::from_millis(50);
            let options = ReporterOptions {
                connect_timeout: wait,
                report_timeout: wait,
                ..ReporterOptions::new(server)
            };
            let mut random = SplitMix(7);
            // A server that is gone lets nobody in and takes nothing.
            let Ok(mut reporter) = Reporter::connect(options) else { return };
            while !until.load(Ordering::Relaxed) {
                let leaf = DataLocId(random.below(LEAVES));
                let reported = reporter.report(leaf, &random.next_u64().to_le_bytes());
                if reported.and_then(|()| reporter.poll(Duration::ZERO)).is_err() {
                    return;
                }
            }
        });
        Load { end, thread }
    }

    fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Who has the file open that is cut.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Server,
    Mirror,
    Relay,
}

/// How long the file is afterwards: nothing, less than a header, the end of a page,
/// or anything.
fn cut_len(random: &mut SplitMix, len: u64) -> u64 {
    let below = |random: &mut SplitMix, end: u64| u64::from(random.below(end as u32));
    match random.below(4) {
        0 => 0,
        1 => below(random, 4_096),
        2 => below(random, len / 4_096) * 4_096,
        _ => below(random, len),
    }
}

struct Cutting {
    site: Site,
    random: SplitMix,
    whole: PathBuf,
    /// A server that is left alone, for mirrors and relays.
    upstream: Serving,
    load: Load,
    deaths: u32,
    /// Files that were found out by a lost page, the rest by their length.
    pages: u32,
}

impl Cutting {
    fn new(seed: u64) -> Cutting {
        let site = Site::new();
        let whole = site.create_plain("whole", [3, LEAVES, 200]);
        let served = site.path("served");
        fs::copy(&whole, &served).unwrap();
        let upstream = Serving::server(&served, &["--period", "2ms"]);
        let load = Load::on(upstream.address);
        Cutting { site, random: SplitMix(seed), whole, upstream, load, deaths: 0, pages: 0 }
    }

    fn cut_once(&mut self) {
        let owner = [Owner::Server, Owner::Mirror, Owner::Relay][self.random.below(3) as usize];
        let file = self.site.path("cut");
        let (program, load) = self.start(owner, &file);
        wait_until("the file is there", || file.exists());
        thread::sleep(pause(&mut self.random, LATEST));
        let cut = OpenOptions::new().write(true).open(&file).unwrap();
        let len = cut.metadata().unwrap().len();
        let left = cut_len(&mut self.random, len);
        cut.set_len(left).unwrap();
        let again = self.random.below(4) == 0;
        if again {
            // It may never be found out by who has it open, but by who opens it next.
            thread::sleep(pause(&mut self.random, Duration::from_millis(5)));
            cut.set_len(len).unwrap();
            thread::sleep(pause(&mut self.random, Duration::from_millis(5)));
        }
        let ended = if again { program.terminate() } else { program.ended() };
        if let Some(load) = load {
            load.end();
        }
        self.judge(owner, &file, (left, again), &ended);
        fs::remove_file(&file).unwrap();
    }

    fn start(&self, owner: Owner, file: &Path) -> (Program, Option<Load>) {
        let upstream = self.upstream.address;
        match owner {
            Owner::Server => {
                fs::copy(&self.whole, file).unwrap();
                let serving = Serving::server(file, &["--period", "2ms"]);
                (serving.program, Some(Load::on(serving.address)))
            }
            Owner::Mirror => (mirror(upstream, file, &[]), None),
            Owner::Relay => {
                let mut command = mapleaf(["mirror", &upstream.to_string()]);
                command.arg(file).args(["--serve", "127.0.0.1:0", "--period", "2ms"]);
                (Program::start(command), None)
            }
        }
    }

    fn judge(&mut self, owner: Owner, file: &Path, (left, again): (u64, bool), ended: &Ended) {
        let told = format!("{owner:?}, cut to {left}, longer again: {again}: {ended}");
        let Some(code) = ended.status.code() else {
            self.deaths += 1;
            return println!("{told}");
        };
        let words: Vec<&String> =
            ended.stderr.iter().filter(|line| line.starts_with("mapleaf: ")).collect();
        if again && code == 0 {
            return assert!(words.is_empty(), "{told}");
        }
        assert_eq!((code, words.len()), (2, 1), "{told}");
        assert!(words[0].contains(&*file.to_string_lossy()), "{told}");
        self.pages += u32::from(words[0].contains("the page at"));
        if !again {
            let verified = run(mapleaf_tree([Path::new("verify"), file]));
            assert_ne!(verified.code(), 0, "{told}\n{verified}");
        }
    }

    /// The server next door noticed nothing, and serves.
    fn end(self) {
        self.load.end();
        let copy = self.site.path("copy");
        let copied = mirror(self.upstream.address, &copy, &["--until-synced", "--timeout", "60s"]);
        copied.ended().well();
        wait_equal(&self.site.path("served"), &copy);
        self.upstream.program.terminate().well();
    }
}

#[test]
fn a_file_that_is_cut_ends_its_owner_with_a_word() {
    let (cuts, seed) = (count("MAPLEAF_CUTS", 20), seed());
    let mut cutting = Cutting::new(seed);
    (0..cuts).for_each(|_| cutting.cut_once());
    let (deaths, pages) = (cutting.deaths, cutting.pages);
    cutting.end();
    figure("cuts", seed, format_args!("{cuts} files cut, {deaths} deaths by signal"));
    println!("{pages} were cut and made longer again, and found out by a page");
    assert_eq!(deaths, 0);
}
