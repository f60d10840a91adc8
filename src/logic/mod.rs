//! What decides. Pure: no socket, file, clock, task, environment or log; time is an argument.
//!
//! Enforced twice: the lints below (their lists are in `.clippy.toml`) and `tests/tidy.rs`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod announce;
pub mod db;
pub mod election;
pub mod evidence;
pub mod group;
pub mod holder;
pub mod lease;
pub mod liveness;
pub mod node;
#[cfg(test)]
mod planted;
// The simulation is a test: it may read its seed from the environment.
#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod sim;
pub mod sync;
pub mod time;
pub mod wire;
