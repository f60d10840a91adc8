//! The checks that need the machine: pure over facts, which [`gather`] reads from the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Settings;
use super::error::{Error, Finding};

/// Interfaces and their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    pub interfaces: BTreeMap<String, Vec<IpAddr>>,
}

/// Reads the facts of this machine.
pub fn gather() -> HostFacts {
    let mut facts = HostFacts::default();
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return facts };
    for entry in all {
        let addresses = facts.interfaces.entry(entry.interface_name).or_default();
        let Some(storage) = entry.address else { continue };
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        addresses.extend(v4.or(v6));
    }
    facts
}

impl Settings {
    /// What of this configuration cannot hold on this machine. A missing interface may come later (a driver, a
    /// cable), so only what no later event can mend is an error; the rest are the strings.
    pub fn check_host(&self, facts: &HostFacts) -> (Vec<String>, Result<(), Error>) {
        let (mut warnings, mut bad) = (vec![], vec![]);
        let bearer_of = |address: IpAddr| {
            facts.interfaces.iter().find(|(_, own)| own.contains(&address)).map(|(name, _)| name.as_str())
        };
        let mut bearers: BTreeMap<&str, &str> = BTreeMap::new();
        for link in &self.links {
            match bearer_of(link.local) {
                None => warnings.push(format!(
                    "link {}: no interface of this host carries {}; the link stays down until one does",
                    link.name, link.local
                )),
                Some(bearer) => {
                    if let Some(other) = bearers.insert(bearer, &link.name) {
                        warnings.push(format!(
                            "links {other} and {} both ride on {bearer}: one cable pulled cuts both",
                            link.name
                        ));
                    }
                }
            }
        }
        for bearer in self.tipc.iter().flat_map(|tipc| &tipc.bearers) {
            if !facts.interfaces.contains_key(&bearer.interface) {
                warnings.push(format!(
                    "link {}: this host has no {} (now); when it comes: systemctl reload dre-tipc",
                    bearer.name, bearer.interface
                ));
            }
        }
        for vip in &self.vips {
            let ip = vip.address.addr();
            if let Some(link) = bearers.get(vip.interface.as_str()) {
                bad.push(Finding {
                    place: None,
                    what: format!(
                        "the VIP {ip} lies on {}, which carries heartbeat link {link}",
                        vip.interface
                    ),
                    why:
                        "client traffic must not be able to drown heartbeats, nor a heartbeat's bearer serve"
                            .into(),
                    remedy: "earmark another interface for VIPs, or move the link".into(),
                });
            }
            if !facts.interfaces.contains_key(&vip.interface) {
                warnings.push(format!(
                    "the VIP {ip} lies on {}, which this host does not have (now): the node is unfit until it comes",
                    vip.interface
                ));
            }
        }
        if let Some(arbitrator) = &self.arbitrator {
            if !facts.interfaces.contains_key(&arbitrator.interface) {
                warnings.push(format!(
                    "the arbitrator's interface {} does not exist on this host (now)",
                    arbitrator.interface
                ));
            }
            if let Some(link) = bearers.get(arbitrator.interface.as_str()) {
                warnings.push(format!(
                    "the way to the arbitrator ({}) also carries heartbeat link {link}: it is not neutral",
                    arbitrator.interface
                ));
            }
        }
        (warnings, if bad.is_empty() { Ok(()) } else { Err(Error::of_host(bad)) })
    }
}
