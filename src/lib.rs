//! dre: a pair of Linux servers, one ACTIVE, one STANDBY, and never two that answer for one address.
//!
//! The house, room by room. Arrows point down only: `bin → shell → stream, snapshot → config,
//! notice, logic`; `tests/tidy.rs` enforces it.
//!
//! | room | what it is | touches the world |
//! |---|---|---|
//! | [`logic`] | decides: events in, actions and the next deadline out | never |
//! | [`config`] | `dre.toml`, `sync.toml` → settings that hold together | reads files |
//! | [`notice`] | every log event: id, priority, sentence, fields | never |
//! | [`snapshot`] | what the loop publishes, and the JSON that `drectl status` prints | never |
//! | [`stream`] | the words between dre-elect and dre-vip ("hold until T") | never |
//! | [`database`] | the words between dre-elect and dre-mysql (promote, demote) | never |
//! | [`rules`] | the same of dre-sync: `drectl rules status --json` | never |
//! | [`shell`] | sockets, clocks, D-Bus, netlink, BPF: thin, sequential, no decisions | always |
//!
//! Absent on purpose: a decision in `shell/`, a clock in `logic/`, a script anywhere.

pub mod config;
pub mod database;
pub mod logic;
pub mod notice;
pub mod rules;
pub mod shell;
pub mod snapshot;
pub mod stream;
