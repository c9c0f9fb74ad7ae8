//! A race that ThreadSanitizer has to find: `tools/tsan.sh` runs it first, because a
//! sanitizer that sees nothing would pass everything.

use std::cell::UnsafeCell;
use std::thread;

struct Shared(UnsafeCell<u64>);

// SAFETY: none. Two threads write it at once, which is the point.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared(UnsafeCell::new(0));

fn write() {
    for n in 0..1000 {
        // SAFETY: the pointer is that of a static; the race is what is planted.
        unsafe { SHARED.0.get().write_volatile(n) };
    }
}

fn main() {
    let other = thread::spawn(write);
    write();
    let _ = other.join();
}
