//! A link that loses packets, between two network namespaces.
//!
//! Broker and publisher stay where this process is; subscribers are started in a namespace
//! behind the link. On each side lies a TUN device, and what is sent into one comes out of
//! the other, unless it is drawn to be lost: TCP as well as UDP, in packets of 1,500 bytes,
//! without offloads. To both sides it is a network with another machine behind it. It takes
//! root and /dev/net/tun.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::RawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::Context as _;

/// The device, on either side.
pub const NAME: &str = "lossy0";
pub const NEAR: &str = "10.9.0.1";
pub const FAR: &str = "10.9.0.2";

/// Losses are counted in packets of so many.
const MANY: u32 = 1_000_000;

/// Where subscribers are.
static FAR_NAMESPACE: OnceLock<File> = OnceLock::new();

/// It lives as long as the process.
pub struct Link {
    lost: Arc<AtomicU32>,
    carried: Arc<AtomicU64>,
}

impl Link {
    /// Makes it. A process has one.
    pub fn open() -> anyhow::Result<Link> {
        // Addresses and devices of the machine itself are not this program's to change.
        let own = std::env::var_os("COMPARE_NAMESPACE").is_some();
        anyhow::ensure!(own, "needs a network namespace of its own, which takes root");
        let near = end(NEAR, FAR)?;
        // A namespace is a thread's; that of this one stays when it ends, as it is held open.
        let (far, namespace) = thread::spawn(far_end).join().expect("it does not panic")?;
        let is_first = FAR_NAMESPACE.set(namespace).is_ok();
        anyhow::ensure!(is_first, "there is a link already");
        let lost = Arc::<AtomicU32>::default();
        let carried = Arc::<AtomicU64>::default();
        let ways = [(near.try_clone()?, far.try_clone()?, 1), (far, near, 2)];
        for (from, to, seed) in ways {
            let (share, count) = (Arc::clone(&lost), Arc::clone(&carried));
            thread::spawn(move || carry(from, to, seed, &share, &count));
        }
        Ok(Link { lost, carried })
    }

    /// Bytes that have come to the link.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// From now on so many are lost, each way.
    pub fn lose(&self, share: f64) {
        self.lost.store((share * f64::from(MANY)) as u32, Ordering::Relaxed);
    }
}

/// The namespace of subscribers, for [`enter`].
pub fn far_namespace() -> Option<RawFd> {
    FAR_NAMESPACE.get().map(File::as_raw_fd)
}

/// Moves the calling thread there. May be called between fork and exec.
pub fn enter(namespace: RawFd) -> io::Result<()> {
    // SAFETY: setns touches no memory.
    match unsafe { libc::setns(namespace, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Moves this thread to a new namespace, and makes the far end of the link there.
fn far_end() -> anyhow::Result<(File, File)> {
    // SAFETY: unshare touches no memory.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    anyhow::ensure!(done == 0, "no second namespace: {}", io::Error::last_os_error());
    ip(&["link", "set", "lo", "up"])?;
    let device = end(FAR, NEAR)?;
    Ok((device, File::open("/proc/thread-self/ns/net")?))
}

/// One end of the link, in this thread's namespace.
fn end(here: &str, there: &str) -> anyhow::Result<File> {
    let device = open_tun().context("needs /dev/net/tun")?;
    ip(&["addr", "add", here, "peer", there, "dev", NAME])?;
    ip(&["link", "set", NAME, "mtu", "1500", "txqueuelen", "10000", "up"])?;
    Ok(device)
}

fn open_tun() -> anyhow::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: a request of all zeros is valid, and what the kernel reads is set below.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes one request, and there is one.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    anyhow::ensure!(done == 0, "{}", io::Error::last_os_error());
    Ok(file)
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("ip").args(args).status().context("ip is not installed")?;
    anyhow::ensure!(status.success(), "ip {} failed", args.join(" "));
    Ok(())
}

/// One way of the link.
fn carry(mut from: File, mut to: File, seed: u64, lost: &AtomicU32, carried: &AtomicU64) {
    let mut packet = [0; 2_048];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
    while let Ok(size) = from.read(&mut packet) {
        carried.fetch_add(size as u64, Ordering::Relaxed);
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        let drawn = (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32 % MANY;
        if drawn >= lost.load(Ordering::Relaxed) {
            // A full queue of the other side drops it, as a network would.
            let _ = to.write(&packet[..size]);
        }
    }
}
