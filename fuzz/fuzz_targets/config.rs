#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mapleaf_fuzz::run("config", input));
