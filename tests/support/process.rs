//! Programs of this crate as processes: their lines, their signals, their ends.
//!
//! A program that is dropped is killed by its own id. If the test failed, what it said
//! on stderr is shown.

use std::fmt;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::thread::JoinHandle;

use super::wait_for;
use super::wait_until;

/// Signals by the names that `kill` takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    Term,
    Hup,
    Stop,
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Term => "-TERM",
            Signal::Hup => "-HUP",
            Signal::Stop => "-STOP",
            Signal::Cont => "-CONT",
        }
    }
}

/// A command of `mapleaf`, with nothing of this shell's settings.
pub(crate) fn mapleaf<A: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    command(env!("CARGO_BIN_EXE_mapleaf"), args)
}

/// A command of `mapleaf-tree`.
pub(crate) fn mapleaf_tree<A: AsRef<std::ffi::OsStr>>(
    args: impl IntoIterator<Item = A>,
) -> Command {
    command(env!("CARGO_BIN_EXE_mapleaf-tree"), args)
}

fn command<A: AsRef<std::ffi::OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"MAPLEAF_") {
            command.env_remove(name);
        }
    }
    command
}

/// Lines that a thread of its own reads, so that no pipe ever fills.
struct Lines {
    read: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    fn of(from: impl Read + Send + 'static) -> Lines {
        let read = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&read);
        let thread = thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                to.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Lines { read, thread: Some(thread) }
    }

    fn so_far(&self) -> Vec<String> {
        self.read.lock().unwrap().clone()
    }

    /// All of them: the program has ended.
    fn all(&mut self) -> Vec<String> {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.so_far()
    }
}

/// A running program.
pub(crate) struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
}

/// How a program ended, and all that it said.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
    name: String,
}

impl Program {
    /// Starts it with all three pipes.
    pub(crate) fn start(command: Command) -> Program {
        Program::try_start(command).unwrap()
    }

    /// The same for a program that may not be there.
    pub(crate) fn try_start(mut command: Command) -> io::Result<Program> {
        let name = format!("{:?}", command.get_args().collect::<Vec<_>>());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        Ok(Program { name, stdin: child.stdin.take(), child, stdout, stderr })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its stdin.
    pub(crate) fn write_line(&mut self, line: impl fmt::Display) {
        writeln!(self.stdin.as_mut().expect("stdin is open"), "{line}").unwrap();
    }

    /// Ends its stdin.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for a line on stdout that begins so, and gives the rest of it. Nothing if
    /// the program ends without.
    pub(crate) fn wait_stdout(&mut self, beginning: &str) -> Option<String> {
        wait_for(&format!("{beginning:?} from {}", self.name), || {
            // Looked at first: lines may come until the end.
            let ended = self.child.try_wait().unwrap().is_some();
            let lines = if ended { self.stdout.all() } else { self.stdout.so_far() };
            let found = lines.iter().find_map(|line| line.strip_prefix(beginning));
            match (found, ended) {
                (Some(rest), _) => Some(Some(rest.to_owned())),
                (None, true) => Some(None),
                (None, false) => None,
            }
        })
    }

    /// Waits until a line on stderr holds this text.
    pub(crate) fn wait_stderr(&self, text: &str) {
        wait_until(&format!("{text:?} from {}", self.name), || {
            self.stderr.so_far().iter().any(|line| line.contains(text))
        });
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args([signal.name(), &id]).status().unwrap().success());
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.ended()
    }

    /// Asks it to end.
    pub(crate) fn terminate(self) -> Ended {
        self.signal(Signal::Term);
        self.ended()
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(mut self) -> Ended {
        let child = &mut self.child;
        let what = format!("the end of {}", self.name);
        let status = wait_for(&what, || child.try_wait().unwrap());
        let (stdout, stderr) = (self.stdout.all(), self.stderr.all());
        Ended { status, stdout, stderr, name: self.name.clone() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{} said:\n{}", self.name, self.stderr.all().join("\n"));
        }
    }
}

impl Ended {
    /// The exit status; a death by signal is none.
    pub(crate) fn code(&self) -> i32 {
        let told = || panic!("{self} was ended by signal {:?}", self.status.signal());
        self.status.code().unwrap_or_else(told)
    }

    /// It ended with 0.
    #[track_caller]
    pub(crate) fn well(self) -> Ended {
        assert_eq!(self.code(), 0, "{self}");
        self
    }

    /// What a counter such as `client.events_lost` came to, by its log.
    #[track_caller]
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let lines = self.stderr.iter().filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            line["fields"]["message"].as_str()?.strip_prefix("in all: ").map(str::to_owned)
        });
        let lines: Vec<String> = lines.collect();
        assert!(!lines.is_empty(), "no counters: {self}");
        let words = lines.iter().flat_map(|line| line.split(' '));
        let values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        values.map(|value| value.parse::<u64>().unwrap()).sum()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ended with {}:\n{}", self.name, self.status, self.stderr.join("\n"))
    }
}

/// Runs a command to its end, with nothing on its stdin.
pub(crate) fn run(command: Command) -> Ended {
    let mut program = Program::start(command);
    program.close_stdin();
    program.ended()
}

/// A program that serves: a server, or a relay.
pub(crate) struct Serving {
    pub(crate) program: Program,
    pub(crate) address: SocketAddr,
}

/// Logs with the counters at the end, in a form that [`Ended::counter`] reads.
const LOGS: [&str; 3] = ["--log", "info", "--log-json"];

impl Serving {
    /// A server of `tree` on a port of its own.
    pub(crate) fn server(tree: &Path, options: &[&str]) -> Serving {
        Serving::server_at("127.0.0.1:0".parse().unwrap(), tree, options)
    }

    /// A server of `tree` at this address. Other programs may hold its port for a
    /// moment while nobody serves there.
    pub(crate) fn server_at(address: SocketAddr, tree: &Path, options: &[&str]) -> Serving {
        wait_for("a server", || {
            let mut command = mapleaf(["serve"]);
            command.arg(tree).args(["--listen", &address.to_string()]).args(LOGS).args(options);
            match Serving::started(command) {
                Ok(serving) => Some(serving),
                Err(ended) if ended.stderr.iter().any(|line| line.contains("port is taken")) => {
                    None
                }
                Err(ended) => panic!("{ended}"),
            }
        })
    }

    /// A relay of `upstream` that keeps its copy in `file`.
    pub(crate) fn relay(upstream: SocketAddr, file: &Path, options: &[&str]) -> Serving {
        let mut command = mapleaf(["mirror", &upstream.to_string()]);
        command.arg(file).args(["--serve", "127.0.0.1:0"]).args(LOGS).args(options);
        Serving::started(command).unwrap_or_else(|ended| panic!("{ended}"))
    }

    fn started(command: Command) -> Result<Serving, Ended> {
        let mut program = Program::start(command);
        match program.wait_stdout("listening on ") {
            Some(address) => Ok(Serving { program, address: address.parse().unwrap() }),
            None => Err(program.ended()),
        }
    }
}

/// A mirror of `server` that keeps its copy in `file`.
pub(crate) fn mirror(server: SocketAddr, file: &Path, options: &[&str]) -> Program {
    let mut command = mapleaf(["mirror", &server.to_string()]);
    command.arg(file).args(LOGS).args(options);
    Program::start(command)
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: u64 = line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
    kibibytes << 10
}
