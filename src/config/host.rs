//! The checks that need the machine: pure over facts, which [`gather`] reads from the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Settings;
use super::error::{Error, Finding};

/// Interfaces and their addresses, with the networks these are in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    pub interfaces: BTreeMap<String, Vec<IpNet>>,
}

/// Reads the facts of this machine.
pub fn gather() -> HostFacts {
    let mut facts = HostFacts::default();
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return facts };
    let ip = |storage: Option<nix::sys::socket::SockaddrStorage>| {
        let storage = storage?;
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or(storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    for entry in all {
        let addresses = facts.interfaces.entry(entry.interface_name).or_default();
        let Some(address) = ip(entry.address) else { continue };
        let net = ip(entry.netmask).and_then(|mask| IpNet::with_netmask(address, mask).ok());
        addresses.push(net.unwrap_or(IpNet::from(address)));
    }
    facts
}

/// What a machine says to a configuration.
#[derive(Debug, Clone, Default)]
pub struct HostFindings {
    /// What holds but may surprise.
    pub warnings: Vec<String>,
    /// What the machine does not have now: an interface, an address. It may come later (a driver, a cable, the network's own
    /// units at boot), so a daemon that starts goes on with an alarm; a person who has just written the file is refused.
    pub absent: Vec<Finding>,
    /// The same for an arbitrator that none of the neutral interface's networks contains.
    pub outside: Vec<Finding>,
    /// What no later event can mend.
    pub bad: Vec<Finding>,
}

impl HostFindings {
    /// For a daemon that starts.
    pub fn lasting(&self) -> Result<(), Error> {
        if self.bad.is_empty() { Ok(()) } else { Err(Error::of_host(self.bad.clone())) }
    }

    /// For a person, and for a reload: all of it.
    pub fn present(&self) -> Result<(), Error> {
        let all: Vec<Finding> = self.bad.iter().chain(&self.outside).chain(&self.absent).cloned().collect();
        if all.is_empty() { Ok(()) } else { Err(Error::of_host(all)) }
    }

    /// What is not there yet, as one sentence for the alarm; `None`: everything is.
    pub fn missing(&self) -> Option<String> {
        let all: Vec<String> = self
            .absent
            .iter()
            .chain(&self.outside)
            .map(|f| format!("{} ({}); {}", f.what, f.why, f.remedy))
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Less what `old` says too: a reload is not refused for what was missing before it.
    #[must_use]
    pub fn new_against(mut self, old: &Self) -> Self {
        self.absent.retain(|finding| !old.absent.contains(finding));
        self.outside.retain(|finding| !old.outside.contains(finding));
        self
    }
}

fn finding(what: String, why: &str, remedy: String) -> Finding {
    Finding { place: None, what, why: why.into(), remedy }
}

impl Settings {
    /// What of this configuration does not hold on this machine.
    pub fn check_host(&self, facts: &HostFacts) -> HostFindings {
        let mut found = HostFindings::default();
        let bearer_of = |address: IpAddr| {
            let carries = |own: &Vec<IpNet>| own.iter().any(|net| net.addr() == address);
            facts.interfaces.iter().find(|(_, own)| carries(own)).map(|(name, _)| name.as_str())
        };
        let mut bearers: BTreeMap<&str, &str> = BTreeMap::new();
        for link in &self.links {
            match bearer_of(link.local) {
                None => found.absent.push(finding(
                    format!("link {}: no interface of this host carries {}", link.name, link.local),
                    "the link is down until one does",
                    format!(
                        "give the address to the heartbeat interface, or correct [nodes.{}] links",
                        self.node
                    ),
                )),
                Some(bearer) => {
                    if let Some(other) = bearers.insert(bearer, &link.name) {
                        found.warnings.push(format!(
                            "links {other} and {} both ride on {bearer}: one cable pulled cuts both",
                            link.name
                        ));
                    }
                }
            }
        }
        for bearer in self.tipc.iter().flat_map(|tipc| &tipc.bearers) {
            if !facts.interfaces.contains_key(&bearer.interface) {
                found.absent.push(finding(
                    format!("link {}: this host has no interface {}", bearer.name, bearer.interface),
                    "the bearer is down until it comes",
                    "correct [heartbeat.tipc] bearers, or look at the interface's driver: its bearer is enabled when it appears".into(),
                ));
            }
        }
        let mut told: Vec<&str> = vec![];
        for vip in &self.vips {
            let ip = vip.address.addr();
            if let Some(link) = bearers.get(vip.interface.as_str()) {
                found.bad.push(finding(
                    format!("the VIP {ip} lies on {}, which carries heartbeat link {link}", vip.interface),
                    "client traffic must not be able to drown heartbeats, nor a heartbeat's bearer serve",
                    "earmark another interface for VIPs, or move the link".into(),
                ));
            }
            if !facts.interfaces.contains_key(&vip.interface) && !told.contains(&vip.interface.as_str()) {
                told.push(&vip.interface);
                found.absent.push(finding(
                    format!("the VIP {ip} lies on {}, which this host does not have", vip.interface),
                    "the node is unfit until it comes",
                    "correct the interface of the [[vip]] as \"ip link\" shows it".into(),
                ));
            }
        }
        if let Some(arbitrator) = &self.arbitrator {
            let interface = arbitrator.interface.as_str();
            match facts.interfaces.get(interface) {
                None => found.absent.push(finding(
                    format!("the arbitrator's interface {interface} does not exist on this host"),
                    "without the neutral path this node cannot take over alone",
                    "correct [arbitrator] interface as \"ip link\" shows it".into(),
                )),
                Some(networks) => {
                    for address in &arbitrator.addresses {
                        let family: Vec<&IpNet> =
                            networks.iter().filter(|net| net.addr().is_ipv4() == address.is_ipv4()).collect();
                        if family.iter().any(|net| net.contains(address)) {
                            continue;
                        }
                        let has = match family.as_slice() {
                            [] => format!(
                                "which has no {} address",
                                if address.is_ipv4() { "IPv4" } else { "IPv6" }
                            ),
                            nets => format!(
                                "which is in {}",
                                nets.iter().map(|net| net.trunc().to_string()).collect::<Vec<_>>().join(", ")
                            ),
                        };
                        found.outside.push(finding(
                            format!("the arbitrator {address} is in no network of {interface}, {has}"),
                            "it is asked over that interface directly, and would never answer",
                            format!(
                                "write a neighbour on {interface} (best its near-hop gateway), correct the prefix of {interface}, or \
                                 name the interface that {address} is on"
                            ),
                        ));
                    }
                }
            }
            if let Some(link) = bearers.get(interface) {
                found.warnings.push(format!(
                    "the way to the arbitrator ({interface}) also carries heartbeat link {link}: it is not neutral"
                ));
            }
        }
        found
    }
}
