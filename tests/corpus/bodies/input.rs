//! Bytes of the fuzzer, read as numbers and texts from front to back.
//!
//! Behind the end everything is zero: a shorter input is a simpler one, and each
//! byte means the same wherever an input is cut.

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub(super) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A bit of its own byte.
    pub(super) fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// `len` bytes, or what is left.
    pub(super) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Up to 255 bytes, their number before them.
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let len = self.u8();
        self.take(usize::from(len))
    }

    /// A number near `right`, or any: what a peer that knows the protocol would
    /// say, and what it would say to do harm.
    pub(super) fn near(&mut self, right: u64) -> u64 {
        match self.u8() {
            0xff => self.u64(),
            0xfe => u64::MAX - u64::from(self.u8()),
            step => right.wrapping_add_signed(i64::from(step as i8)),
        }
    }
}
