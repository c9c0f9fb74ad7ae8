//! Aeron: a media driver, a dynamic multi-destination publication, a receiver a subscriber.

use std::ffi::CString;
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use rusteron_client::Aeron as Client;
use rusteron_client::AeronExclusivePublication;
use rusteron_client::AeronFragmentClosureAssembler;
use rusteron_client::AeronOfferError;
use rusteron_client::Handlers;
use rusteron_media_driver::AeronDriver;
use rusteron_media_driver::AeronDriverContext;

use crate::Seat;
use crate::job::Replica;
use crate::job::Sender;

const STREAM: i32 = 7;
const PATIENCE: Duration = Duration::from_secs(10);

/// Fragments of one poll: what a term of values gives before anything else is looked at.
const FRAGMENTS: usize = 256;

/// Runs the driver; all it is set to is in its environment.
pub fn driver(dir: &str) -> anyhow::Result<()> {
    let context = AeronDriverContext::new()?;
    context.set_dir(&CString::new(dir)?)?;
    let driver = AeronDriver::new(&context)?;
    // Its duty cycle runs on this thread.
    driver.start(true)?;
    loop {
        driver.main_idle_strategy(driver.main_do_work()?);
    }
}

fn connect(dir: &Path) -> anyhow::Result<Client> {
    Ok(Client::connect_dir(&dir.display().to_string())?)
}

struct Aeron {
    publication: AeronExclusivePublication,
    _client: Client,
}

/// Exclusive is the faster kind for one thread; `fc=min` goes with the slowest subscriber,
/// so that nothing is lost.
pub fn sender(seat: &Seat) -> anyhow::Result<Box<dyn Sender>> {
    let client = connect(&seat.driver())?;
    let channel =
        format!("aeron:udp?control={}:{}|control-mode=dynamic|fc=min", seat.near(), seat.port);
    let publication = client
        .async_add_exclusive_publication(&CString::new(channel)?, STREAM)?
        .poll_blocking(PATIENCE)?;
    Ok(Box::new(Aeron { publication, _client: client }))
}

impl Sender for Aeron {
    fn send(&mut self, _: u32, message: &[u8]) -> anyhow::Result<()> {
        loop {
            match self.publication.offer(message) {
                Ok(_) => return Ok(()),
                // The driver has to run before there is room: there are two cores.
                Err(error) if error.is_retryable() => match error {
                    AeronOfferError::NotConnected => std::thread::sleep(Duration::from_millis(1)),
                    _ => std::thread::yield_now(),
                },
                Err(error) => anyhow::bail!("aeron: {error}"),
            }
        }
    }
}

pub fn subscribe(seat: &Seat, mut replica: Replica) -> anyhow::Result<()> {
    replica.begin();
    let client = connect(&seat.far_driver())?;
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let control = format!("control={}:{}|control-mode=dynamic", seat.near(), seat.port);
    let channel = format!("aeron:udp?endpoint={}:{port}|{control}", seat.far());
    let subscription = client
        .async_add_subscription(&CString::new(channel)?, STREAM, Handlers::NONE, Handlers::NONE)?
        .poll_blocking(PATIENCE)?;
    let mut assembler = AeronFragmentClosureAssembler::new()?;
    replica.ready(1);
    let mut idle = 0_u32;
    loop {
        let taken = assembler.poll(
            &subscription,
            &mut replica,
            |replica, bytes, _| replica.take(bytes),
            FRAGMENTS,
        )?;
        idle = if taken > 0 { 0 } else { idle.saturating_add(1) };
        // Its clients always poll. To sleep is here the back-off of its own idle strategies:
        // it spins, yields, then sleeps for longer and longer, 1 ms at most.
        match idle {
            _ if seat.spin => std::hint::spin_loop(),
            0..=10 => std::hint::spin_loop(),
            11..=30 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(1 << (idle - 31).min(10))),
        }
    }
}
