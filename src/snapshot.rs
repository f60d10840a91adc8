//! What dre-elect publishes of itself, and the JSON contract that `drectl status --json` prints.
//!
//! The loop publishes a [`Status`] whenever something changed, with the moment at which it was true; whoever reads it adds
//! what has passed since, so ages and what is left of the lease are true when they are read.

use serde::{Deserialize, Serialize};
// The same structs describe themselves to varlinkctl: one contract, written once.
use zlink::introspect::CustomType;

/// `drectl status --json`. Fields may be added, never renamed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Status {
    pub group: String,
    pub node: String,
    /// `standby` | `claiming` | `active` | `releasing`
    pub role: String,
    pub term: u64,
    /// When this role began; RFC 3339, UTC.
    pub since: String,
    /// The rule that led here, as the README's table spells it.
    pub rule: String,
    pub lease: Lease,
    pub peer: Peer,
    pub links: Vec<Link>,
    /// The first configured arbitrator that answers, else the first; `None` without one.
    pub arbitrator: Option<Arbitrator>,
    pub vips: Vips,
    /// The role whose target systemd reached last, `active` | `standby`; empty while it has not let the last one go.
    pub reached: String,
    pub services: Vec<Service>,
    pub fit: bool,
    /// Why not, empty when fit.
    pub unfit_because: Vec<String>,
    pub maintenance: bool,
    pub standalone: bool,
    pub alarms: Vec<Alarm>,
    /// The last takeover this node took part in; `None` before the first.
    pub last_takeover: Option<Takeover>,
    /// Datagrams that did not verify, by reason, since the start.
    pub rejected: Vec<Rejected>,
    pub version: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Lease {
    pub held: bool,
    pub left_ms: u64,
    /// The vote beside its own: `peer` | `arbitrator` | `wire` (no arbitrator configured, the wire
    /// was silent) | `standalone` | `none`
    pub by: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Peer {
    pub node: String,
    /// `heard` | `suspect` | `one-way` (it is heard, but does not hear this node) | `lost` | `never` (not heard since the
    /// start)
    pub state: String,
    /// Its role as last heard.
    pub role: String,
    pub fit: bool,
    pub heard_ms: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Link {
    pub name: String,
    /// Both directions work.
    pub up: bool,
    /// `up` | `one-way` (we hear the peer, it does not hear us here, or we do not know) | `down`
    pub state: String,
    pub rtt_us: u64,
    pub loss_pct: f64,
    /// Of what: `link`, or `heartbeats` (all of them together: over TIPC the kernel chooses the link, and says of each only
    /// whether it is up)
    pub measured: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Arbitrator {
    pub address: String,
    pub reachable: bool,
    pub rtt_us: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Vips {
    pub wanted: u32,
    pub held: u32,
    pub announced: u32,
    /// `open` | `shut` | `lifetimes-open` | `lifetimes-shut` (the kernel refused BPF) | `unguarded-open` | `unguarded-shut` (an
    /// interface is without the gate's programs: alarm GateMissing) | `absent` (no dre-vip)
    pub gate: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Service {
    pub unit: String,
    /// Where it shall run: `active` | `standby` | `both`
    pub role: String,
    /// systemd's ActiveState; its LoadState where the unit cannot be loaded.
    pub state: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Alarm {
    /// Two words, as in the README's table: `PeerStillServes`.
    pub name: String,
    /// Which link, which unit; empty where there is but one.
    pub subject: String,
    pub text: String,
    /// RFC 3339, UTC.
    pub since: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Rejected {
    pub reason: String,
    pub count: u64,
}

/// How long nobody answered for the VIPs, as the nodes themselves measured it: from the gate that shut to the gate that
/// opened, including one way of a heartbeat; of a peer that was lost while it served, from its last word on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, CustomType)]
#[serde(default)]
pub struct Takeover {
    /// This node took the role; else the peer did.
    pub here: bool,
    pub gap_us: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// The rule by which it began.
    pub rule: String,
}
