//! The `mapleaf` command.
fn main() {}
