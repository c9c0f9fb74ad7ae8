//! Where two columns of checksums differ.
//!
//! A REQUEST is a slice of such a column, and the answer to it is the list of
//! leaves that this returns. Columns are nearly equal nearly always, so what
//! counts is how fast equal blocks are passed over: at the speed of reading.

use crate::kernel::DiffKernel;

/// Appends `base + i` to `out` for each `i` with `ours[i] != theirs[i]`,
/// ascending, by the fastest version for this processor.
///
/// Compares as many items as both columns have.
///
/// # Panics
/// If `base` and the number of items add up to more than `u32::MAX`.
pub fn differing(ours: &[u32], theirs: &[u32], base: u32, out: &mut Vec<u32>) {
    DiffKernel::detect().differing(ours, theirs, base, out);
}

/// Like [`differing`], for a column that came as little-endian bytes of any
/// alignment. Bytes behind the last multiple of four are not looked at.
///
/// # Panics
/// If `base` and the number of items add up to more than `u32::MAX`.
pub fn differing_le(ours: &[u32], theirs: &[u8], base: u32, out: &mut Vec<u32>) {
    DiffKernel::detect().differing_le(ours, theirs, base, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(ours: &[u32], theirs: &[u32], base: u32) -> Vec<u32> {
        let differ = |i: &usize| ours[*i] != theirs[*i];
        (0..ours.len()).filter(differ).map(|i| base + i as u32).collect()
    }

    /// Runs every version, over numbers and over bytes of every alignment.
    fn check(ours: &[u32], theirs: &[u32]) {
        let expected = [vec![3], reference(ours, theirs, 1000)].concat();
        for kernel in DiffKernel::available() {
            let mut out = vec![3];
            kernel.differing(ours, theirs, 1000, &mut out);
            assert_eq!(out, expected, "{}", kernel.name());
            for skip in 0..8 {
                let mut bytes = vec![0xee; skip];
                bytes.extend(theirs.iter().flat_map(|item| item.to_le_bytes()));
                out.truncate(1);
                kernel.differing_le(ours, &bytes[skip..], 1000, &mut out);
                assert_eq!(out, expected, "{} at {skip}", kernel.name());
            }
        }
    }

    #[test]
    fn every_version_equals_the_reference_for_every_length() {
        let ours: Vec<u32> = (0..600).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
        for len in 0..=600 {
            let mut theirs = ours[..len].to_vec();
            check(&ours[..len], &theirs);
            for step in [1, 7, 64, 97] {
                // One bit each, so that every byte of an item is looked at.
                theirs.iter_mut().step_by(step).for_each(|item| *item ^= 1 << (*item % 32));
                check(&ours[..len], &theirs);
            }
        }
    }

    /// Stretches of all densities one behind the other, so that each way follows each.
    #[test]
    fn every_version_equals_the_reference_however_many_differ() {
        let ours: Vec<u32> = (0..20_000).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
        let mut state = 1_u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        for len in [1_023, 1_024, 1_025, 2_048, 5_003, 20_000] {
            for shares in [[100, 100, 100], [0, 50, 3], [20, 0, 100], [12, 13, 11]] {
                let change = |(i, item): (usize, &u32)| {
                    let differs = random(100) < shares[i / 1_024 % 3];
                    item ^ u32::from(differs) << (i % 32)
                };
                let theirs: Vec<u32> = ours[..len].iter().enumerate().map(change).collect();
                check(&ours[..len], &theirs);
            }
        }
    }

    /// A version may begin with items of its own until the others lie as it likes.
    #[test]
    fn every_version_equals_the_reference_wherever_the_column_begins() {
        let ours: Vec<u32> = (0..2_200).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
        let theirs: Vec<u32> = ours.iter().map(|item| item ^ u32::from(item % 11 == 0)).collect();
        for skip in 0..20 {
            check(&ours[skip..], &theirs[skip..]);
            check(&ours[skip..2 * skip], &theirs[skip..2 * skip]);
        }
    }

    #[test]
    fn a_single_difference_is_found_at_every_place() {
        let ours: Vec<u32> = (0..300).collect();
        for at in 0..300 {
            let mut theirs = ours.clone();
            theirs[at] ^= 1 << (at % 32);
            check(&ours, &theirs);
        }
    }

    #[test]
    fn items_that_only_one_column_has_are_not_compared() {
        let (long, short) = ([5; 200], [6; 130]);
        let expected: Vec<u32> = (0..130).collect();
        for kernel in DiffKernel::available() {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            kernel.differing(&long, &short, 0, &mut a);
            kernel.differing(&short, &long, 0, &mut b);
            assert_eq!((&a, &b), (&expected, &expected), "{}", kernel.name());
            a.clear();
            kernel.differing_le(&long, &[6; 130 * 4 + 3], 0, &mut a);
            assert_eq!(a, expected, "{} over bytes", kernel.name());
        }
    }
}
