//! What dre-mysql publishes of itself: the JSON contract of `drectl db status --json`. Fields may be added, never renamed.

use serde::{Deserialize, Serialize};
use zlink::introspect::CustomType;

/// The state of a server that is about to be replaced by a copy of the peer's: the operator's command says it, not the agent.
pub const RESEEDING: &str = "RESEEDING";

/// What [`DatabaseStatus::state`] may be, as the README's table explains it.
pub const STATES: [&str; 22] = [
    "STARTING",
    "OK",
    "PROMOTING",
    "PROMOTE_BLOCKED",
    "FAILED",
    "WRITE_FAILED",
    "CONFIG",
    "SAME_SERVER_ID",
    "COMPARING",
    "DIVERGED",
    "OWN_LOST",
    "PURGED",
    "NOT_REPLICATING",
    "IO_CONNECTING",
    "SQL_STOPPED",
    "WRONG_SOURCE",
    "LEFT_BEHIND",
    "LAGGING",
    RESEEDING,
    "BOTH_WRITABLE",
    "RELAY_LOST",
    "SEMISYNC_OFF",
];

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct DatabaseStatus {
    pub group: String,
    pub node: String,
    /// "active", "standby"; "unknown" until the election was heard.
    pub duty: String,
    /// Of an active one.
    pub term: u64,
    /// One of [`STATES`].
    pub state: String,
    /// A sentence; empty when all is well.
    pub reason: String,
    /// What to do; empty when nothing is.
    pub remedy: String,
    /// How long this state has lasted, milliseconds.
    pub since_ms: u64,
    /// Why it could not be ACTIVE; empty = it could.
    pub why_not: String,
    pub version: String,
    pub server_id: u32,
    pub read_only: bool,
    /// Its transactions, as the product writes them.
    pub has: String,
    pub peer: Option<DatabasePeer>,
    pub replication: Option<DatabaseReplication>,
    /// A sentence.
    pub semi_sync: String,
    /// "available" or "strict".
    pub durability: String,
    /// What that costs.
    pub cost: String,
    /// Settings of the server that are not as they must be.
    pub settings: Vec<DatabaseSetting>,
    /// Accounts that write through read_only.
    pub admins: Vec<String>,
    /// Transactions that are on this server alone and were accepted (`accept-errant`): so many.
    pub accepted: u64,
    /// Which, as the product writes them.
    pub accepted_which: String,
    /// For so many milliseconds more the next promotion takes what is here, whatever is missing (`promote --force`); 0 = it does not.
    pub forced_ms: u64,
    pub dre_version: String,
}

/// The peer's server, by its agent's word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct DatabasePeer {
    pub node: String,
    pub server_id: u32,
    pub has: String,
    pub active: bool,
    pub term: u64,
    pub fit: bool,
    pub state: String,
    pub heard_ms: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct DatabaseReplication {
    /// host:port.
    pub source: String,
    /// "connected", "connecting", "stopped".
    pub receiver: String,
    pub applier: bool,
    pub received: String,
    /// Transactions that were received and are not applied yet.
    pub to_apply: u64,
    /// Transactions that the ACTIVE has and this server does not.
    pub behind: u64,
    pub error: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct DatabaseSetting {
    pub variable: String,
    pub have: String,
    pub want: String,
    /// With this one wrong the server is never made ACTIVE.
    pub fatal: bool,
}
