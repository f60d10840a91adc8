//! `dre.toml` → settings that hold together.
//!
//! Raw structs are the TOML; [`Settings`] is what the daemons run with: typed, valid by construction,
//! made in one function that `drectl config check` and the daemons share.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// Exit status of every binary for a configuration that does not hold (EX_CONFIG of sysexits.h);
/// the units refer to it in `RestartPreventExitStatus=`.
pub const EXIT_CONFIG: u8 = 78;

/// Everything the daemons run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `dre`, or the name of a template group.
    pub group: String,
    /// This machine's key under `[nodes]`.
    pub node: String,
    /// The other one; `None` only in standalone mode with a single node in the file.
    pub peer: Option<String>,
    /// `DRE_STANDALONE=yes`: the peer's vote counts as given until a peer is heard.
    pub standalone: bool,
    pub links: Vec<Link>,
    pub heartbeat: Heartbeat,
    pub arbitrator: Option<Arbitrator>,
    /// In the order of the file; the index is the VIP's number on the lease stream.
    pub vips: Vec<Vip>,
    pub services: Services,
    pub election: Election,
    /// SHA-256 of what must be the same on both nodes, in canonical form.
    pub digest: [u8; 32],
}

/// One heartbeat path: the same name on both nodes, one address each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub local: IpAddr,
    pub peer: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    pub interval: Duration,
    pub missed_max: u32,
    /// UDP port on both nodes.
    pub port: u16,
}

impl Heartbeat {
    /// D: silence on every link for this long = the peer is lost.
    pub fn dead_after(&self) -> Duration {
        self.interval * self.missed_max
    }

    /// What a lease ends before D: the gate's resolution and a late store (2 ms), and the drift of two
    /// clocks over D (0.5 % each way, far beyond any crystal).
    pub fn guard(&self) -> Duration {
        Duration::from_millis(2) + self.dead_after() / 100
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arbitrator {
    pub addresses: Vec<IpAddr>,
    /// The neutral path; host routes to the addresses are installed on it.
    pub interface: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    pub address: IpNet,
    pub interface: String,
    /// As `ip addr` shows it: `eth2:0`. IPv4 only.
    pub label: Option<String>,
    /// IPv4 only.
    pub broadcast: Option<std::net::Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Services {
    /// Run where ACTIVE.
    pub active: Vec<String>,
    /// Run where STANDBY.
    pub standby: Vec<String>,
    /// Ready on both, restarted, not managed.
    pub both: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// Takes the role when both are free.
    pub preferred: Option<String>,
    /// Give the role back to the preferred node by itself.
    pub failback: bool,
    /// Listen this long before being ACTIVE alone.
    pub startup_hold: Duration,
}
