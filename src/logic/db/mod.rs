//! The agent of a database server, as a pure machine: what the server and the peer's agent say comes in, what to do comes out.
//!
//! Its rules are few: no server takes writes without the role; no replication starts before both histories were compared; nothing
//! that a client was told is committed is given up but by an operator's word; histories that forked are never merged.
//!
//! Absent on purpose: SQL, sockets, clocks, tasks; anything done *to the peer's* server.

pub mod adopt;
pub mod agent;
pub mod facts;
pub mod gtids;
pub mod lost;
pub mod secrets;
pub mod server_file;
pub mod wanted;

pub use facts::{Durability, RelayLost};
