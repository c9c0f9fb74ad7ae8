//! A link that loses packets: a TUN device that turns each packet round.
//!
//! What is sent to the far address comes back with both addresses exchanged, so that it
//! arrives at the near one as if it came from afar; no checksum changes by that. Both ends
//! are then on this machine, and all that is between them crosses the device: TCP as well
//! as UDP, in packets of 1,500 bytes, without offloads. It takes root and /dev/net/tun.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::Context as _;

pub const NAME: &str = "lossy0";
pub const NEAR: &str = "10.9.0.1";
pub const FAR: &str = "10.9.0.2";

/// Losses are counted in packets of so many.
const MANY: u32 = 1_000_000;

/// It lives as long as the process.
pub struct Link {
    lost: Arc<AtomicU32>,
    turned: Arc<AtomicU64>,
}

impl Link {
    pub fn open() -> anyhow::Result<Link> {
        // Addresses and devices of the machine itself are not this program's to change.
        let own = std::env::var_os("COMPARE_NAMESPACE").is_some();
        anyhow::ensure!(own, "needs a network namespace of its own, which takes root");
        let device = open_tun().context("needs /dev/net/tun")?;
        ip(&["addr", "add", NEAR, "peer", FAR, "dev", NAME])?;
        ip(&["link", "set", NAME, "mtu", "1500", "txqueuelen", "10000", "up"])?;
        let lost = Arc::<AtomicU32>::default();
        let turned = Arc::<AtomicU64>::default();
        let (share, count) = (Arc::clone(&lost), Arc::clone(&turned));
        thread::spawn(move || turn_round(device, &share, &count));
        Ok(Link { lost, turned })
    }

    /// Bytes that have come to the link.
    pub fn turned(&self) -> u64 {
        self.turned.load(Ordering::Relaxed)
    }

    /// From now on so many are lost, each way.
    pub fn lose(&self, share: f64) {
        self.lost.store((share * f64::from(MANY)) as u32, Ordering::Relaxed);
    }
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
    anyhow::ensure!(done == 0, "{}", std::io::Error::last_os_error());
    Ok(file)
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("ip").args(args).status().context("ip is not installed")?;
    anyhow::ensure!(status.success(), "ip {} failed", args.join(" "));
    Ok(())
}

fn turn_round(mut device: File, lost: &AtomicU32, turned: &AtomicU64) {
    let mut packet = [0; 2_048];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    while let Ok(size) = device.read(&mut packet) {
        turned.fetch_add(size as u64, Ordering::Relaxed);
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        let drawn = (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32 % MANY;
        if size < 20 || packet[0] >> 4 != 4 || drawn < lost.load(Ordering::Relaxed) {
            continue;
        }
        let (from, to) = packet[12..20].split_at_mut(4);
        from.swap_with_slice(to);
        // A full queue of the other side drops it, as a network would.
        let _ = device.write(&packet[..size]);
    }
}
