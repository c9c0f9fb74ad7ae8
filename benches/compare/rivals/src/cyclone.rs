//! Cyclone DDS, by a few lines of C: `shim.c`.

use std::ffi::c_int;
use std::ffi::c_void;

use crate::Seat;
use crate::job::Replica;
use crate::job::Sender;

type Take = extern "C" fn(*mut c_void, *const u8, u32);

// SAFETY: these are the functions of shim.c, with the same types.
unsafe extern "C" {
    fn compare_open_writer(keyed: c_int, batching: c_int) -> c_int;
    fn compare_write(id: u32, bytes: *const u8, size: u32) -> c_int;
    fn compare_flush() -> c_int;
    fn compare_open_reader(keyed: c_int, take: Take, context: *mut c_void) -> c_int;
}

struct Cyclone;

fn check(what: &str, code: c_int) -> anyhow::Result<()> {
    anyhow::ensure!(code >= 0, "cyclone: {what} failed with {code}");
    Ok(())
}

pub fn sender(seat: &Seat) -> anyhow::Result<Box<dyn Sender>> {
    // SAFETY: called once in this process, before any other of them.
    let code = unsafe { compare_open_writer(seat.keyed.into(), (!seat.hurry).into()) };
    check("the writer", code)?;
    Ok(Box::new(Cyclone))
}

impl Sender for Cyclone {
    fn send(&mut self, leaf: u32, message: &[u8]) -> anyhow::Result<()> {
        // SAFETY: the writer is open, and the bytes are copied before it returns.
        let code = unsafe { compare_write(leaf, message.as_ptr(), message.len() as u32) };
        check("a write", code)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        // SAFETY: the writer is open.
        check("a flush", unsafe { compare_flush() })
    }
}

extern "C" fn take(context: *mut c_void, bytes: *const u8, size: u32) {
    // SAFETY: the context is the replica below, which is never freed, and the library
    // calls a reader's listener from one thread at a time.
    let replica = unsafe { &mut *context.cast::<Replica>() };
    // SAFETY: the shim hands over so many bytes, on loan until this returns.
    replica.take(unsafe { std::slice::from_raw_parts(bytes, size as usize) });
}

pub fn subscribe(seat: &Seat, replica: Replica) -> anyhow::Result<()> {
    replica.begin();
    // The listener has the replica from now on: being ready is told by another board.
    let board = seat.board()?;
    let replica = Box::into_raw(Box::new(replica));
    // SAFETY: called once in this process; the replica is never freed.
    let code = unsafe { compare_open_reader(seat.keyed.into(), take, replica.cast()) };
    check("the reader", code)?;
    board.set_sub(seat.number, crate::board::Sub::Ready, 1);
    loop {
        std::thread::park();
    }
}
