//! The rules files' truth: what a file's record is, what a scan makes of it, what two nodes make of two records.
//!
//! | file | what |
//! |---|---|
//! | `version` | who has seen whose changes: two counters, one a node |
//! | `record` | a path's record; what a look at the disk does to it |
//! | `filter` | which paths belong to a set |
//! | `settle` | when a path that changed is looked at |
//! | `merge` | two records of one path: whose counts, and what becomes of the other |
//! | `publish` | in which order a batch becomes visible, and which batch is held |
//! | `guard` | which deletions are believed, and when |
//! | `plan` | a batch of the peer's, taken apart |
//! | `retain` | how much of what is kept aside stays |
//! | `state` | what a set's state is called, why, and what to do |
//! | `talk` | the words between the two nodes |
//! | `sim` | two nodes with hands that edit, delete and cut the wire: converged, and nothing lost |
//!
//! A change belongs to the node on which it was seen. A record that has seen the other's replaces it silently; two that
//! have not seen each other are a *conflict*: both nodes choose the same winner without asking, and the node that has
//! the loser on its disk keeps a copy of it. Nothing is ever deleted on the word of a database that was lost.
//!
//! Absent on purpose: disks, rsync, the wire between the nodes.

pub mod filter;
pub mod guard;
pub mod merge;
pub mod plan;
pub mod publish;
pub mod record;
pub mod retain;
pub mod settle;
pub mod state;
pub mod talk;
pub mod version;

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod sim;
