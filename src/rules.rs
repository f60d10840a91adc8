//! What dre-sync publishes of itself: the JSON contract of `drectl rules status --json`, and what may be asked of it.

use serde::{Deserialize, Serialize};
use zlink::introspect::CustomType;

use crate::snapshot::Alarm;

/// What [`SetStatus::state`] may be, as the README's table explains it.
pub const STATES: [&str; 13] = [
    "IN_SYNC",
    "SYNCING",
    "SCANNING",
    "PENDING",
    "PEER_AWAY",
    "CONFLICTS",
    "CLOCK_SKEW",
    "HELD",
    "REJECTED",
    "BLOCKED",
    "ROOT_GONE",
    "WATCH_LIMIT",
    "DIFFERS",
];

/// `drectl rules status --json`. Fields may be added, never renamed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct RulesStatus {
    pub node: String,
    pub peer: String,
    /// The peer's dre-sync is connected, each way.
    pub connected: bool,
    /// The link that carries it: `primary`, `secondary`; empty when not connected.
    pub link: String,
    /// How far the wall clocks are apart, as measured over the link; milliseconds, the peer's less ours.
    pub skew_ms: i64,
    pub sets: Vec<SetStatus>,
    pub alarms: Vec<Alarm>,
    pub version: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct SetStatus {
    pub name: String,
    pub root: String,
    /// One of [`STATES`].
    pub state: String,
    /// A sentence; empty when in sync.
    pub reason: String,
    /// What to do; empty when nothing is.
    pub remedy: String,
    /// RFC 3339, UTC: since when this state.
    pub since: String,
    pub files: u64,
    pub bytes: u64,
    /// Of the work under way: done and all there is; 0 of 0 when idle.
    pub files_done: u64,
    pub files_todo: u64,
    pub bytes_done: u64,
    pub bytes_todo: u64,
    /// Changes the peer has not acknowledged.
    pub pending: u64,
    pub conflicts: u64,
    pub trash: u64,
    pub counters: Counters,
}

/// Since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Counters {
    pub files_in: u64,
    pub files_out: u64,
    pub bytes_in: u64,
    pub rsync_runs: u64,
    pub scans: u64,
    pub overflows: u64,
    pub conflicts: u64,
    pub rejects: u64,
    /// From a file's mtime to its visibility here, of the newest one taken in; microseconds, 0 = none yet. The clocks' skew
    /// is in it.
    pub last_latency_us: u64,
}

/// Something kept outside the live tree: the loser of a conflict, or, in the trash, what was deleted at the peer's word or gave way to
/// what was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Kept {
    pub set: String,
    /// What names it in `restore` and `drop`: `20261125T140211Z-000017`.
    pub id: String,
    /// Path in the set; bytes that are not UTF-8 as `\xNN`.
    pub path: String,
    /// The node whose version it is, where that is known.
    pub node: String,
    /// RFC 3339, UTC.
    pub at: String,
    pub size: u64,
    /// The clocks were apart when it was decided: the order of the two edits is not certain.
    pub uncertain: bool,
}

/// What an operator may ask of dre-sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Look at everything again: stat, or (`deep`) every byte. Answers when done with a sentence.
    Verify {
        set: Option<String>,
        deep: bool,
    },
    Conflicts {
        set: Option<String>,
    },
    Trash {
        set: Option<String>,
    },
    /// Puts a kept thing back into the live tree (as an edit of now); what is there goes to the trash.
    Restore {
        set: String,
        id: String,
    },
    /// Throws a kept loser of a conflict away.
    Drop {
        set: String,
        id: String,
    },
    AcceptDeletes {
        set: String,
    },
    /// Publish what `validate` refused.
    Force {
        set: String,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done(String),
    Kept(Vec<Kept>),
    /// The sentence says why not and what to do.
    Refused(String),
}
