//! Raw values to settings that hold together. Every rule in one place, each with its sentence.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::error::{Error, Finding, Place};
use super::raw::{self, At, Raw};
use super::{Arbitrator, Database, Election, Heartbeat, Link, Services, Settings, Vip, tipc};
use crate::logic::group::{self as names_of, PLAIN};
use crate::logic::liveness::LINKS_MAX;
use crate::logic::wire::{GROUP_MAX, NAME_MAX};

/// Heartbeats faster than this cost more than they tell; keepalived's finest is 10 ms.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 5..=10_000;
const MISSED: std::ops::RangeInclusive<u64> = 2..=100;
/// A day is enough to know that a node stays.
const FAILBACK_HOLD: std::ops::RangeInclusive<u64> = 1..=86_400;
/// A pair that needs longer than a minute to notice is no pair.
const DEAD_AFTER_MAX_MS: u64 = 60_000;
/// A node that is back listens for three seconds, or for D, before it is ACTIVE alone.
const STARTUP_HOLD_MS: u64 = 3000;
/// Without a word, failback waits as long as a pair needs that has no data to catch up with.
pub const FAILBACK_HOLD_S: u64 = 10;
/// IFNAMSIZ − 1 of linux/if.h.
const INTERFACE_MAX: usize = 15;

/// Our own units, which nobody may list as services.
const OWN_UNITS: [&str; 7] = [
    "dre.service",
    "dre.socket",
    "dre-vip.service",
    "dre-tipc.service",
    "dre-lease.service",
    "dre-active.target",
    "dre-standby.target",
];

/// What does not hold.
#[derive(Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub fn add(
        &mut self,
        place: &Place,
        what: impl Into<String>,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let place = Some(place.clone());
        self.0.push(Finding { place, what: what.into(), why: why.into(), remedy: remedy.into() });
    }

    /// An error of all findings, if there are any.
    pub fn verdict(self, sources: &[(PathBuf, String)]) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::new(self.0, sources)) }
    }
}

/// All checks; all findings.
#[allow(clippy::too_many_lines)] // a list of rules reads best as a list
pub fn settings(
    raw: Raw,
    sources: &[(PathBuf, String)],
    group: &str,
    node: &str,
    standalone: bool,
) -> Result<Settings, Error> {
    let mut bad = Findings::default();
    let mut warnings = vec![];
    let file = raw::whole(sources);

    // ---- who -----------------------------------------------------------------------------------------
    let names: Vec<&String> = raw.nodes.keys().collect();
    if group.len() > GROUP_MAX || group.is_empty() {
        bad.add(
            &file,
            format!("group name {group:?} has {} characters", group.len()),
            format!("the heartbeat carries at most {GROUP_MAX}"),
            "rename the file",
        );
    } else if let Some(why) = names_of::fault(group) {
        bad.add(&file, format!("no group can be called {group:?}"), why, "rename the file");
    }
    match names.len() {
        2 => {}
        1 if standalone => {}
        n => bad.add(
            &file,
            format!("[nodes] names {n} nodes"),
            "a pair has two; one is enough only in standalone mode (DRE_STANDALONE=yes)",
            "write one [nodes.NAME] table for each of the two machines",
        ),
    }
    if !raw.nodes.contains_key(node) {
        let known: Vec<String> = names.iter().map(|n| format!("[nodes.{n}]")).collect();
        bad.add(
            &file,
            format!(
                "this host is called {node:?}, and there is no [nodes.{node}]; there is {}",
                known.join(", ")
            ),
            "a node finds its own addresses by its host name",
            "name the tables as the hosts are called (hostnamectl), or rename this host",
        );
    }
    for (name, n) in &raw.nodes {
        if name.len() > NAME_MAX || name.is_empty() {
            bad.add(
                &n.place,
                format!("node name of {} characters", name.len()),
                format!("a Linux host name has at most {NAME_MAX}"),
                "write the host's name",
            );
        }
    }
    let peer = names.iter().find(|n| n.as_str() != node).map(|n| (*n).clone());

    // ---- links ---------------------------------------------------------------------------------------
    let by_tipc = raw.transport.as_ref().is_some_and(|t| t.value == "tipc");
    let mut seen: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (name, n) in &raw.nodes {
        if n.links.is_empty() && !by_tipc && !(standalone && names.len() == 1) {
            bad.add(
                &n.place,
                format!("node {name} has no links"),
                "without a heartbeat path neither node can know the other",
                "write links = { primary = \"ADDRESS\", secondary = \"ADDRESS\" }",
            );
        }
        if n.links.len() > LINKS_MAX {
            bad.add(
                &n.place,
                format!("node {name} has {} links", n.links.len()),
                format!("a heartbeat can name {LINKS_MAX}"),
                "keep the independent ones",
            );
        }
        for (link, address) in &n.links {
            let here = format!("{name}'s link {link}");
            if let Some(there) = seen.insert(address.value, here.clone()) {
                bad.add(
                    &address.place,
                    format!("{} is the address of {there} and of {here}", address.value),
                    "two paths with one address are one path, or none",
                    "give each node its own address on each heartbeat network",
                );
            }
        }
    }
    let mut links = vec![];
    if let (Some(own), Some(other)) = (raw.nodes.get(node), peer.as_ref().and_then(|p| raw.nodes.get(p))) {
        for (name, address) in &own.links {
            match other.links.get(name) {
                None => bad.add(
                    &address.place,
                    format!("link {name} of {node} has no other end at {}", peer.as_deref().unwrap_or("")),
                    "a link is a pair of addresses",
                    format!("add {name} to the other node's links, or remove it here"),
                ),
                Some(end) if end.value.is_ipv4() != address.value.is_ipv4() => bad.add(
                    &end.place,
                    format!("link {name} joins {} with {}", address.value, end.value),
                    "both ends of a link speak one family",
                    "write two IPv4 or two IPv6 addresses",
                ),
                Some(end) => links.push(Link { name: name.clone(), local: address.value, peer: end.value }),
            }
        }
        for (name, address) in other.links.iter().filter(|(name, _)| !own.links.contains_key(*name)) {
            bad.add(
                &address.place,
                format!("link {name} of {} has no other end at {node}", peer.as_deref().unwrap_or("")),
                "a link is a pair of addresses",
                format!("add {name} to this node's links, or remove it there"),
            );
        }
        if links.len() == 1 && !by_tipc {
            warnings.push(format!(
                "only one link ({}): its loss leaves the arbitrator and the wire to decide; add a second heartbeat network",
                links[0].name
            ));
        }
    }

    // ---- time ----------------------------------------------------------------------------------------
    let number = |value: &Option<At<u64>>, default| value.as_ref().map_or(default, |at| at.value);
    let place = |value: &Option<At<u64>>| value.as_ref().map_or_else(|| file.clone(), |at| at.place.clone());
    let interval_ms = number(&raw.interval_ms, 100);
    let missed = number(&raw.missed_max, 5);
    let port = number(&raw.port, 1694);
    if !INTERVAL_MS.contains(&interval_ms) {
        bad.add(
            &place(&raw.interval_ms),
            format!("interval_ms = {interval_ms}"),
            "heartbeats closer than 5 ms cost more than they tell; further apart than 10 s they tell nothing",
            "write a number from 5 to 10000; 100 suits most pairs",
        );
    }
    if !MISSED.contains(&missed) {
        bad.add(
            &place(&raw.missed_max),
            format!("missed_max = {missed}"),
            "one lost datagram must not cost a takeover, and a hundred must",
            "write a number from 2 to 100; 3 to 5 suits most pairs",
        );
    }
    if port == 0 || port > 65_535 {
        bad.add(
            &place(&raw.port),
            format!("port = {port}"),
            "UDP ports go from 1 to 65535",
            "write 1694, or a free port; the same on both nodes",
        );
    }
    let heartbeat = Heartbeat {
        interval: Duration::from_millis(interval_ms.clamp(1, 10_000)),
        missed_max: u32::try_from(missed.clamp(1, 100)).unwrap_or(100),
        port: u16::try_from(port).unwrap_or(1694),
    };
    let dead_after = heartbeat.dead_after();
    let hold_ms = number(
        &raw.startup_hold_ms,
        STARTUP_HOLD_MS.max(u64::try_from(dead_after.as_millis()).unwrap_or(u64::MAX)),
    );
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    if INTERVAL_MS.contains(&interval_ms) && MISSED.contains(&missed) {
        if dead_after > Duration::from_millis(DEAD_AFTER_MAX_MS) {
            bad.add(
                &place(&raw.interval_ms),
                format!("interval_ms * missed_max = {interval_ms} * {missed} = {} ms", ms(dead_after)),
                format!("a lost peer would be noticed after more than {DEAD_AFTER_MAX_MS} ms"),
                "make one of the two smaller",
            );
        }
        let lease = dead_after.saturating_sub(heartbeat.guard());
        if lease < heartbeat.interval * 2 {
            let least = (heartbeat.guard() + heartbeat.interval * 2)
                .as_nanos()
                .div_ceil(heartbeat.interval.as_nanos());
            bad.add(
                &place(&raw.missed_max),
                format!(
                    "the lease would last {:.1} ms: D - guard = {interval_ms} * {missed} - {:.1} ms",
                    ms(lease),
                    ms(heartbeat.guard())
                ),
                format!("a lease shorter than two heartbeats (2 * {interval_ms} ms) is lost with a single datagram"),
                format!("write missed_max = {} or more", least.max(3)),
            );
        }
        if Duration::from_millis(hold_ms) < dead_after {
            bad.add(
                &place(&raw.startup_hold_ms),
                format!("startup_hold_ms = {hold_ms} is shorter than D = {} ms", ms(dead_after)),
                "a node that restarted has forgotten what it promised, and must listen at least as long as a promise lasts",
                format!("write {} or more", ms(dead_after).ceil()),
            );
        }
    }
    let addresses = links.clone();
    let tipc = match raw.transport.as_ref().map(|t| (t.value.as_str(), &t.place)) {
        None | Some(("udp", _)) => None,
        Some(("tipc", place)) => {
            if group != PLAIN {
                bad.add(
                    place,
                    format!("transport = \"tipc\" in group {group}"),
                    "a machine has one TIPC: one network id, one address, one set of bearers; they are group dre's",
                    "write transport = \"udp\", and links = { … } under each [nodes.NAME]",
                );
            }
            // Addresses of links may stand beside it: they carry no heartbeats then, but the rules files.
            links.clear();
            tipc::check(&raw, place, node, peer.as_deref(), &mut bad, &mut warnings)
        }
        Some((other, place)) => {
            bad.add(
                place,
                format!("transport = {other:?}"),
                "there is no such transport",
                "write \"udp\" or \"tipc\"",
            );
            None
        }
    };

    // ---- arbitrator ----------------------------------------------------------------------------------
    let arbitrator = match (&raw.arbitrators, &raw.arbitrator_interface) {
        (Some(all), Some(interface)) => {
            if all.value.is_empty() {
                bad.add(
                    &all.place,
                    "addresses = [] names no arbitrator",
                    "an [arbitrator] table without addresses decides nothing",
                    "write an address, or remove the table",
                );
            }
            interface_name(&mut bad, interface);
            for address in &all.value {
                if let Some(owner) = seen.get(&address.value) {
                    bad.add(
                        &address.place,
                        format!("the arbitrator {} is the address of {owner}", address.value),
                        "an arbitrator that is one of the nodes says nothing about the other",
                        "name a neutral device, best a single physical one",
                    );
                }
            }
            let addresses = all.value.iter().map(|at| at.value).collect();
            Some(Arbitrator { addresses, interface: interface.value.clone() })
        }
        _ => {
            warnings.push(
                "no [arbitrator]: with all links cut a node takes over when the wire is silent, and cannot tell whether it is \
                 itself the one that is cut off"
                    .into(),
            );
            None
        }
    };

    // ---- VIPs ----------------------------------------------------------------------------------------
    let mut vips: Vec<Vip> = vec![];
    let mut taken: BTreeMap<IpAddr, ()> = BTreeMap::new();
    for vip in &raw.vips {
        let text = &vip.address.value;
        let Some(address) = parse_vip(text) else {
            bad.add(
                &vip.address.place,
                format!("address = {text:?} is no address with a prefix"),
                "the prefix belongs to the VIP and must be the same on both nodes",
                "write it like \"172.16.9.61/24\" or \"2001:db8:9::61/64\"",
            );
            continue;
        };
        let ip = address.addr();
        if taken.insert(ip, ()).is_some() {
            bad.add(
                &vip.address.place,
                format!("the VIP {ip} stands here a second time"),
                "an address can be held once",
                "remove one of the two",
            );
        }
        if let Some(owner) = seen.get(&ip) {
            bad.add(
                &vip.address.place,
                format!("the VIP {ip} is the address of {owner}"),
                "a node's own address must not move",
                "choose a free address",
            );
        }
        if arbitrator.as_ref().is_some_and(|a| a.addresses.contains(&ip)) {
            bad.add(
                &vip.address.place,
                format!("the VIP {ip} is an arbitrator's address"),
                "the pair would arbitrate itself",
                "choose a free address",
            );
        }
        if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() {
            bad.add(
                &vip.address.place,
                format!("the VIP {ip} is no unicast address"),
                "nobody could reach it",
                "choose a unicast address",
            );
        }
        if let IpNet::V4(net) = address
            && net.prefix_len() < 31
            && (net.addr() == net.network() || net.addr() == net.broadcast())
        {
            bad.add(
                &vip.address.place,
                format!(
                    "the VIP {ip} is the {} address of {}",
                    if net.addr() == net.network() { "network" } else { "broadcast" },
                    net.trunc()
                ),
                "no host can have it",
                "choose a host address of the network",
            );
        }
        interface_name(&mut bad, &vip.interface);
        if arbitrator.as_ref().is_some_and(|a| a.interface == vip.interface.value) {
            bad.add(
                &vip.interface.place,
                format!("the VIP {ip} lies on {}, the arbitrator's interface", vip.interface.value),
                "the neutral path must not depend on what it judges",
                "earmark another interface for VIPs",
            );
        }
        if let Some(label) = &vip.label {
            if address.addr().is_ipv6() {
                bad.add(
                    &label.place,
                    "an IPv6 VIP with a label",
                    "labels exist for IPv4 only",
                    "remove the label",
                );
            } else if !label.value.starts_with(&vip.interface.value) || label.value.len() > INTERFACE_MAX {
                bad.add(
                    &label.place,
                    format!("label = {:?}", label.value),
                    format!("the kernel takes labels that begin with the interface's name, at most {INTERFACE_MAX} characters"),
                    format!("write {:?}", format!("{}:0", vip.interface.value)),
                );
            }
        }
        if let Some(broadcast) = &vip.broadcast {
            match address {
                IpNet::V4(net) if net.broadcast() == broadcast.value => {}
                IpNet::V4(net) => bad.add(
                    &broadcast.place,
                    format!("broadcast = {} does not belong to {}", broadcast.value, net.trunc()),
                    "hosts of the network would not hear it",
                    format!("write {:?}, or correct the prefix", net.broadcast().to_string()),
                ),
                IpNet::V6(_) => {
                    bad.add(&broadcast.place, "an IPv6 VIP with a broadcast", "IPv6 has none", "remove it");
                }
            }
        }
        match vip.style.as_ref().map(|s| (s.value.as_str(), &s.place)) {
            None | Some(("auto" | "address", _)) => {}
            Some(("route", place)) => bad.add(
                place,
                "style = \"route\"",
                "this release knows VIPs as addresses only",
                "write style = \"address\", or leave it out",
            ),
            Some((other, place)) => {
                bad.add(
                    place,
                    format!("style = {other:?}"),
                    "there is no such style",
                    "write \"auto\" or \"address\"",
                );
            }
        }
        vips.push(Vip {
            address,
            interface: vip.interface.value.clone(),
            label: vip.label.as_ref().map(|l| l.value.clone()),
            broadcast: vip.broadcast.as_ref().map(|b| b.value),
        });
    }
    if vips.is_empty() {
        warnings.push("no [[vip]]: the pair elects, but clients have nothing to reach it by".into());
    }

    // ---- services ------------------------------------------------------------------------------------
    let mut listed: BTreeMap<String, &str> = BTreeMap::new();
    let mut services =
        |list: &Option<Vec<At<String>>>, name: &'static str, bad: &mut Findings| -> Vec<String> {
            let mut out = vec![];
            for unit in list.iter().flatten() {
                service_name(bad, unit, "diameter.service");
                if let Some(other) = listed.insert(unit.value.clone(), name) {
                    bad.add(
                        &unit.place,
                        format!("{} stands in services.{name} and in services.{other}", unit.value),
                        "a service has one place",
                        "keep one of the two",
                    );
                }
                out.push(unit.value.clone());
            }
            out
        };
    let services = Services {
        active: services(&raw.active, "active", &mut bad),
        standby: services(&raw.standby, "standby", &mut bad),
        both: services(&raw.both, "both", &mut bad),
    };

    // ---- election ------------------------------------------------------------------------------------
    if let Some(preferred) = &raw.preferred
        && !raw.nodes.contains_key(&preferred.value)
    {
        bad.add(
            &preferred.place,
            format!("preferred = {:?} is no node of this pair", preferred.value),
            "the preference would silently not be there",
            format!("write one of {}", names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", ")),
        );
    }
    if let Some(failback) = raw.failback.as_ref().filter(|f| f.value && raw.preferred.is_none()) {
        bad.add(
            &failback.place,
            "failback = true without preferred",
            "there is nobody to give the role back to",
            "name the preferred node, or write failback = false",
        );
    }
    let failback_hold_s = number(&raw.failback_hold_s, FAILBACK_HOLD_S);
    if let Some(hold) = &raw.failback_hold_s {
        if !FAILBACK_HOLD.contains(&hold.value) {
            bad.add(
                &hold.place,
                format!("failback_hold_s = {}", hold.value),
                "a node that has just come back is not known to stay, and a day is enough to know it",
                "write a number from 1 to 86400; 10 suits most pairs, 60 a database's",
            );
        }
        if raw.failback.as_ref().is_none_or(|failback| !failback.value) {
            warnings.push(format!("failback_hold_s = {} does nothing without failback = true", hold.value));
        }
    }

    // ---- database ------------------------------------------------------------------------------------
    let reached = !addresses.is_empty() || peer.is_none();
    let database = raw.database.as_ref().map(|raw| Database::check(raw, &services, reached, &mut bad));

    bad.verdict(sources)?;
    let (digest, sections) = super::digest::of(
        &raw,
        group,
        (interval_ms, missed, port, hold_ms),
        failback_hold_s,
        database.as_ref(),
    );
    Ok(Settings {
        group: group.into(),
        node: node.into(),
        peer,
        standalone,
        links,
        addresses,
        tipc,
        heartbeat,
        arbitrator,
        vips,
        services,
        election: Election {
            preferred: raw.preferred.map(|p| p.value),
            failback: raw.failback.is_some_and(|f| f.value),
            failback_hold: Duration::from_secs(failback_hold_s),
            startup_hold: Duration::from_millis(hold_ms),
        },
        database,
        digest,
        sections,
        warnings,
    })
}

/// A service that is managed must be one, and none of dre's own. `like`: how one is written.
pub fn service_name(bad: &mut Findings, unit: &At<String>, like: &str) {
    let name = unit.value.as_str();
    let ok = name.ends_with(".service")
        // A template without an instance is no unit.
        && !name.ends_with("@.service")
        && name.len() > 8
        && name.len() < 256
        && name.chars().all(|c| c.is_ascii_alphanumeric() || ":_.-@\\".contains(c));
    if !ok {
        bad.add(
            &unit.place,
            format!("{name:?} is no service's name"),
            "dre manages systemd services",
            format!("write the unit's full name, like {like:?}"),
        );
    }
    if OWN_UNITS.contains(&name) {
        bad.add(&unit.place, format!("{name} is dre's own"), "it would wait for itself", "remove it");
    }
    if name.starts_with("dre-") || name.starts_with("dre@") {
        bad.add(
            &unit.place,
            format!("{name} begins with \"dre-\""),
            "units of that name get dre's own sandbox (dre-.service.d), in which a service cannot write",
            "give the unit another name, or an alias",
        );
    }
}

fn parse_vip(text: &str) -> Option<IpNet> {
    text.contains('/').then(|| IpNet::from_str(text).ok()).flatten()
}

pub fn interface_name(bad: &mut Findings, name: &At<String>) {
    let n = &name.value;
    if n.is_empty() || n.len() > INTERFACE_MAX || n.contains(['/', ' ', ':']) {
        bad.add(
            &name.place,
            format!("interface = {n:?}"),
            format!("the kernel's interface names have 1 to {INTERFACE_MAX} characters, without slash, colon or space"),
            "write the name as \"ip link\" shows it",
        );
    }
}
