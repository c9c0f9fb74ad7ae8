//! End-to-end stories: real processes, real sockets, real files.
//!
//! Servers, relays, mirrors and devices are the programs that people run. They listen
//! on ports of their own on loopback, a watchdog bounds each wait, and nothing is said
//! about how fast they are.

#![cfg(feature = "cli")]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod crash;
mod group;
mod growth;
mod outage;
mod power;
mod refusals;
mod transport;
mod weather;
