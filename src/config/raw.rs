//! The TOML as it is written; nothing is believed yet. Every value that may be found wrong later knows its place.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::error::{Error, Finding, Place};

/// A value and where it stands: the source's number and the bytes.
#[derive(Debug, Clone)]
pub struct At<T> {
    pub value: T,
    pub place: Place,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    nodes: BTreeMap<Spanned<String>, NodeToml>,
    heartbeat: HeartbeatToml,
    arbitrator: Option<ArbitratorToml>,
    vip: Vec<VipToml>,
    services: ServicesToml,
    election: ElectionToml,
    database: Option<Spanned<DatabaseToml>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeToml {
    tipc: Option<Spanned<String>>,
    #[serde(default)]
    links: BTreeMap<String, Spanned<IpAddr>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HeartbeatToml {
    transport: Option<Spanned<String>>,
    interval_ms: Option<Spanned<u64>>,
    missed_max: Option<Spanned<u64>>,
    port: Option<Spanned<u64>>,
    tipc: Option<Spanned<TipcToml>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TipcToml {
    network_id: Option<Spanned<u32>>,
    #[serde(default)]
    bearers: BTreeMap<String, Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArbitratorToml {
    addresses: Spanned<Vec<Spanned<IpAddr>>>,
    interface: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VipToml {
    address: Spanned<String>,
    interface: Spanned<String>,
    label: Option<Spanned<String>>,
    broadcast: Option<Spanned<Ipv4Addr>>,
    style: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ServicesToml {
    active: Option<Vec<Spanned<String>>>,
    standby: Option<Vec<Spanned<String>>>,
    both: Option<Vec<Spanned<String>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ElectionToml {
    preferred: Option<Spanned<String>>,
    failback: Option<Spanned<bool>>,
    startup_hold_ms: Option<Spanned<u64>>,
    failback_hold_s: Option<Spanned<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DatabaseToml {
    unit: Option<Spanned<String>>,
    socket: Option<Spanned<String>>,
    port: Option<Spanned<u64>>,
    agent_port: Option<Spanned<u64>>,
    durability: Option<Spanned<String>>,
    max_lag_s: Option<Spanned<u64>>,
    relay_wait_s: Option<Spanned<u64>>,
    on_relay_lost: Option<Spanned<String>>,
    keep_users: Option<Vec<Spanned<String>>>,
}

/// `[heartbeat.tipc]`.
#[derive(Debug, Clone)]
pub struct Tipc {
    pub network_id: Option<At<u32>>,
    pub bearers: BTreeMap<String, At<String>>,
}

/// All sources laid over each other.
#[derive(Debug, Default)]
pub struct Raw {
    pub nodes: BTreeMap<String, Node>,
    pub transport: Option<At<String>>,
    pub interval_ms: Option<At<u64>>,
    pub missed_max: Option<At<u64>>,
    pub port: Option<At<u64>>,
    pub tipc: Option<At<Tipc>>,
    pub arbitrators: Option<At<Vec<At<IpAddr>>>>,
    pub arbitrator_interface: Option<At<String>>,
    pub vips: Vec<Vip>,
    pub active: Option<Vec<At<String>>>,
    pub standby: Option<Vec<At<String>>>,
    pub both: Option<Vec<At<String>>>,
    pub preferred: Option<At<String>>,
    pub failback: Option<At<bool>>,
    pub startup_hold_ms: Option<At<u64>>,
    pub failback_hold_s: Option<At<u64>>,
    pub database: Option<Database>,
}

/// `[database]`, and where it begins.
#[derive(Debug, Clone)]
pub struct Database {
    pub place: Place,
    pub unit: Option<At<String>>,
    pub socket: Option<At<String>>,
    pub port: Option<At<u64>>,
    pub agent_port: Option<At<u64>>,
    pub durability: Option<At<String>>,
    pub max_lag_s: Option<At<u64>>,
    pub relay_wait_s: Option<At<u64>>,
    pub on_relay_lost: Option<At<String>>,
    pub keep_users: Option<Vec<At<String>>>,
}

#[derive(Debug, Clone)]
pub struct Node {
    pub place: Place,
    pub tipc: Option<At<String>>,
    pub links: BTreeMap<String, At<IpAddr>>,
}

#[derive(Debug, Clone)]
pub struct Vip {
    pub address: At<String>,
    pub interface: At<String>,
    pub label: Option<At<String>>,
    pub broadcast: Option<At<Ipv4Addr>>,
    pub style: Option<At<String>>,
}

pub fn at<T>(path: &Path, spanned: Spanned<T>) -> At<T> {
    let span = spanned.span();
    At { value: spanned.into_inner(), place: Place { path: path.to_path_buf(), span } }
}

/// A source as its structs. A text that is no TOML, or has a key that does not exist, is refused with its place.
/// `example`: the shipped file that shows how.
pub fn read_toml<T: serde::de::DeserializeOwned>(path: &Path, text: &str, example: &str) -> Result<T, Error> {
    toml::from_str(text).map_err(|error| {
        let finding = Finding {
            place: Some(Place { path: path.to_path_buf(), span: error.span().unwrap_or(0..0) }),
            what: error.message().to_owned(),
            why: "an unknown or misspelt setting would silently not be what you meant".into(),
            remedy: format!("write it as the example in /usr/share/doc/dre/{example} does"),
        };
        Error::new(vec![finding], &[(path.to_path_buf(), text.to_owned())])
    })
}

/// One source. `example`: as in [`read_toml`].
pub fn read(path: &Path, text: &str, example: &str) -> Result<Raw, Error> {
    let file: File = read_toml(path, text, example)?;
    let place = |spanned: Option<Spanned<u64>>| spanned.map(|s| at(path, s));
    let word = |spanned: Option<Spanned<String>>| spanned.map(|s| at(path, s));
    let list =
        |names: Option<Vec<Spanned<String>>>| names.map(|l| l.into_iter().map(|s| at(path, s)).collect());
    let (arbitrators, arbitrator_interface) = match file.arbitrator {
        None => (None, None),
        Some(a) => {
            let all = at(path, a.addresses);
            let addresses = all.value.into_iter().map(|s| at(path, s)).collect();
            (Some(At { value: addresses, place: all.place }), Some(at(path, a.interface)))
        }
    };
    Ok(Raw {
        nodes: file
            .nodes
            .into_iter()
            .map(|(name, node)| {
                let name = at(path, name);
                let links = node.links.into_iter().map(|(link, address)| (link, at(path, address))).collect();
                (name.value, Node { place: name.place, tipc: word(node.tipc), links })
            })
            .collect(),
        transport: word(file.heartbeat.transport),
        interval_ms: place(file.heartbeat.interval_ms),
        missed_max: place(file.heartbeat.missed_max),
        port: place(file.heartbeat.port),
        tipc: file.heartbeat.tipc.map(|t| {
            let t = at(path, t);
            let bearers =
                t.value.bearers.into_iter().map(|(link, interface)| (link, at(path, interface))).collect();
            At {
                value: Tipc { network_id: t.value.network_id.map(|id| at(path, id)), bearers },
                place: t.place,
            }
        }),
        arbitrators,
        arbitrator_interface,
        vips: file
            .vip
            .into_iter()
            .map(|v| Vip {
                address: at(path, v.address),
                interface: at(path, v.interface),
                label: word(v.label),
                broadcast: v.broadcast.map(|b| at(path, b)),
                style: word(v.style),
            })
            .collect(),
        active: list(file.services.active),
        standby: list(file.services.standby),
        both: list(file.services.both),
        preferred: word(file.election.preferred),
        failback: file.election.failback.map(|s| at(path, s)),
        startup_hold_ms: place(file.election.startup_hold_ms),
        failback_hold_s: place(file.election.failback_hold_s),
        database: file.database.map(|table| {
            let At { value: d, place: table } = at(path, table);
            Database {
                place: table,
                unit: word(d.unit),
                socket: word(d.socket),
                port: place(d.port),
                agent_port: place(d.agent_port),
                durability: word(d.durability),
                max_lag_s: place(d.max_lag_s),
                relay_wait_s: place(d.relay_wait_s),
                on_relay_lost: word(d.on_relay_lost),
                keep_users: list(d.keep_users),
            }
        }),
    })
}

impl Raw {
    /// A drop-in over what came before: single values and lists of services are replaced, nodes and VIPs are added.
    pub fn overlay(&mut self, other: Self) {
        fn over<T>(mine: &mut Option<T>, theirs: Option<T>) {
            if theirs.is_some() {
                *mine = theirs;
            }
        }
        self.nodes.extend(other.nodes);
        self.vips.extend(other.vips);
        over(&mut self.transport, other.transport);
        over(&mut self.interval_ms, other.interval_ms);
        over(&mut self.missed_max, other.missed_max);
        over(&mut self.port, other.port);
        over(&mut self.tipc, other.tipc);
        over(&mut self.arbitrators, other.arbitrators);
        over(&mut self.arbitrator_interface, other.arbitrator_interface);
        over(&mut self.active, other.active);
        over(&mut self.standby, other.standby);
        over(&mut self.both, other.both);
        over(&mut self.preferred, other.preferred);
        over(&mut self.failback, other.failback);
        over(&mut self.startup_hold_ms, other.startup_hold_ms);
        over(&mut self.failback_hold_s, other.failback_hold_s);
        match (&mut self.database, other.database) {
            (Some(mine), Some(theirs)) => {
                over(&mut mine.unit, theirs.unit);
                over(&mut mine.socket, theirs.socket);
                over(&mut mine.port, theirs.port);
                over(&mut mine.agent_port, theirs.agent_port);
                over(&mut mine.durability, theirs.durability);
                over(&mut mine.max_lag_s, theirs.max_lag_s);
                over(&mut mine.relay_wait_s, theirs.relay_wait_s);
                over(&mut mine.on_relay_lost, theirs.on_relay_lost);
                over(&mut mine.keep_users, theirs.keep_users);
            }
            (mine, theirs) => over(mine, theirs),
        }
    }
}

/// Used where a finding concerns a file as a whole.
pub fn whole(sources: &[(PathBuf, String)]) -> Place {
    let path = sources.first().map(|(path, _)| path.clone()).unwrap_or_default();
    Place { path, span: 0..0 }
}
