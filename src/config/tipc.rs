//! `transport = "tipc"`: addresses, network id, bearers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::check::{Findings, interface_name};
use super::error::Place;
use super::raw::{At, Raw};

/// The kernel's bounds are 50 ms and 30 s (uapi/linux/tipc.h: TIPC_MIN_LINK_TOL, TIPC_MAX_LINK_TOL). The upper one here: the
/// kernel takes a link down within 1.7 times its tolerance, and a bearer's loss is to be seen within a second.
const TOLERANCE_MS: (u64, u64) = (50, 400);
/// The kernel sends over two links to a peer (net/tipc/node.c: `active_links[2]`), and has three bearers in all
/// (net/tipc/core.h: MAX_BEARERS), of which others may need one.
const BEARERS_MAX: usize = 2;
/// The default of tipc-config and of iproute2's manual.
const NETWORK_ID: u32 = 4711;

/// Z.C.N, as operators of TIPC write it; 8, 12 and 12 bits.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TipcAddress(pub u32);

impl fmt::Display for TipcAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0 >> 24, self.0 >> 12 & 0xfff, self.0 & 0xfff)
    }
}

impl FromStr for TipcAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('.').map(|part| part.parse::<u32>().ok().filter(|n| *n > 0));
        let mut part = |max| parts.next().flatten().filter(|n| *n <= max).ok_or(());
        let address = part(255)? << 24 | part(4095)? << 12 | part(4095)?;
        if parts.next().is_some() { Err(()) } else { Ok(Self(address)) }
    }
}

/// A heartbeat path over TIPC: a name for people and the interface that the kernel's bearer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    pub name: String,
    pub interface: String,
}

/// TIPC as the pair uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tipc {
    /// Nodes of different ids do not talk.
    pub network_id: u32,
    pub local: TipcAddress,
    /// `None` only in standalone mode.
    pub peer: Option<TipcAddress>,
    pub bearers: Vec<Bearer>,
}

impl Tipc {
    /// How long the kernel lets a link be silent before it takes it down and moves its stream to the other: half of D, so
    /// that this is over before the peer counts as lost; 400 ms at most, so that a silent bearer shows within a second; 50 ms at
    /// least, because the kernel takes no less: below D = 100 ms a silent bearer's stream may be away for longer than D,
    /// and the other stream alone keeps the peer heard.
    pub fn tolerance(dead_after: Duration) -> Duration {
        (dead_after / 2).clamp(Duration::from_millis(TOLERANCE_MS.0), Duration::from_millis(TOLERANCE_MS.1))
    }
}

/// The checks of `transport = "tipc"`, written at `place`.
pub fn check(
    raw: &Raw,
    place: &Place,
    node: &str,
    peer: Option<&str>,
    bad: &mut Findings,
    warnings: &mut Vec<String>,
) -> Option<Tipc> {
    let mut addresses: BTreeMap<&str, TipcAddress> = BTreeMap::new();
    for (name, n) in &raw.nodes {
        match &n.tipc {
            None => bad.add(
                &n.place,
                format!("node {name} has no TIPC address"),
                "with transport = \"tipc\" each node is known by its address Z.C.N",
                format!("write tipc = \"1.1.23\" (each node its own) under [nodes.{name}]"),
            ),
            Some(text) => match text.value.parse::<TipcAddress>() {
                Err(()) => bad.add(
                    &text.place,
                    format!("tipc = {:?} is no TIPC address", text.value),
                    "an address is zone.cluster.node: 1 to 255, 1 to 4095, 1 to 4095",
                    "write it like \"1.1.23\"",
                ),
                Ok(address) => {
                    if let Some((other, _)) = addresses.iter().find(|(_, taken)| **taken == address) {
                        bad.add(
                            &text.place,
                            format!("{address} is the TIPC address of {other} and of {name}"),
                            "two nodes of one address throw each other out of the network",
                            "give each node its own",
                        );
                    }
                    addresses.insert(name, address);
                }
            },
        }
    }
    let Some(At { value: tipc, place: table }) = &raw.tipc else {
        bad.add(
            place,
            "transport = \"tipc\" without [heartbeat.tipc]",
            "TIPC needs to know which interfaces carry it",
            "write [heartbeat.tipc] with network_id = 1983 and bearers = { primary = \"eth3\", secondary = \"eth4\" }; or \
             transport = \"udp\"",
        );
        return None;
    };
    if let Some(id) = tipc.network_id.as_ref().filter(|id| !(1..=9999).contains(&id.value)) {
        bad.add(
            &id.place,
            format!("network_id = {}", id.value),
            "TIPC networks are numbered 1 to 9999",
            "write the number of this network, the same on both nodes",
        );
    }
    if tipc.bearers.is_empty() || tipc.bearers.len() > BEARERS_MAX {
        bad.add(
            table,
            format!("[heartbeat.tipc] names {} bearers", tipc.bearers.len()),
            if tipc.bearers.is_empty() {
                "heartbeats need a path".to_owned()
            } else {
                format!("the kernel's TIPC uses {BEARERS_MAX} links to a peer and no more: a further one would carry nothing")
            },
            "write bearers = { primary = \"eth3\", secondary = \"eth4\" }",
        );
    }
    let mut bearers: Vec<Bearer> = vec![];
    for (name, interface) in &tipc.bearers {
        interface_name(bad, interface);
        if let Some(other) = bearers.iter().find(|b| b.interface == interface.value) {
            bad.add(
                &interface.place,
                format!("bearers {} and {name} are both {}", other.name, interface.value),
                "one cable pulled would cut both",
                "give each bearer an interface of its own",
            );
        }
        if raw.arbitrator_interface.as_ref().is_some_and(|a| a.value == interface.value) {
            bad.add(
                &interface.place,
                format!("bearer {name} is {}, the arbitrator's interface", interface.value),
                "the neutral path must not depend on what it judges",
                "move the bearer or the arbitrator to another interface",
            );
        }
        if let Some(vip) = raw.vips.iter().find(|v| v.interface.value == interface.value) {
            bad.add(
                &vip.interface.place,
                format!("the VIP {} lies on {}, which is bearer {name}", vip.address.value, interface.value),
                "client traffic must not be able to drown heartbeats, nor a heartbeat's bearer serve",
                "earmark another interface for VIPs, or move the bearer",
            );
        }
        bearers.push(Bearer { name: name.clone(), interface: interface.value.clone() });
    }
    if bearers.len() == 1 {
        warnings.push(format!(
            "only one bearer ({}): its loss leaves the arbitrator and the wire to decide; add a second heartbeat network",
            bearers[0].name
        ));
    }
    Some(Tipc {
        network_id: tipc.network_id.as_ref().map_or(NETWORK_ID, |id| id.value),
        local: addresses.get(node).copied()?,
        peer: peer.and_then(|peer| addresses.get(peer)).copied(),
        bearers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_the_kernel_makes_of_them() {
        let address: TipcAddress = "1.1.23".parse().expect("an address");
        // linux/tipc.h, tipc_addr(): zone << 24 | cluster << 12 | node.
        assert_eq!(address, TipcAddress(0x0100_1017));
        assert_eq!(address.to_string(), "1.1.23");
        for wrong in ["", "1.1", "1.1.0", "0.1.1", "1.1.4096", "256.1.1", "1.1.1.1", "a.b.c", "-1.1.1"] {
            assert!(wrong.parse::<TipcAddress>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_tolerance_is_half_of_d_but_no_more_than_shows_within_a_second() {
        for (d, tolerance) in [(30, 50), (100, 50), (500, 250), (800, 400), (1_000, 400), (70_000, 400)] {
            assert_eq!(Tipc::tolerance(Duration::from_millis(d)), Duration::from_millis(tolerance));
        }
    }
}
