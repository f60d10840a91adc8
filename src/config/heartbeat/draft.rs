//! The group's file, as a person would write it, and what became of each line.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::addresses::{End, Path, paths};
use super::ha_cf::{Failback, HaCf};
use super::resources::{Resources, Vip, is_label};
use super::{FILL_IN, Given, Outcome, Remarks, Spot, Told, Which, hosts, printable};
use crate::logic::group;
use crate::logic::liveness::LINKS_MAX;

/// Names of links, in the order of the file.
const LINKS: [&str; LINKS_MAX] =
    ["primary", "secondary", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];
/// What Heartbeat does where nothing is said.
const KEEPALIVE_MS: u64 = 1000;
const DEADTIME_MS: u64 = 30_000;
const PORT: u16 = 694;
/// The loader's bounds, and the least of `missed_max` that leaves a lease of two heartbeats.
const INTERVAL_MS: (u64, u64) = (5, 10_000);
const MISSED: (u64, u64) = (3, 100);
const DEAD_AFTER_MAX_MS: u64 = 60_000;
/// A day: who waits for longer than that for a peer wants an operator.
const STARTUP_HOLD_MAX_MS: u64 = 86_400_000;

/// The text, and the loader's warnings: it has read the text where nothing is open. Called with two nodes, and nothing wrong.
pub fn write(
    given: &Given,
    ha_cf: &HaCf,
    resources: &Resources,
    remarks: &mut Remarks,
) -> (String, Vec<String>) {
    let hosts = given.hosts.as_ref().map(|source| hosts::read(&source.text)).unwrap_or_default();
    let vips: Vec<(&Told<Vip>, Vip)> =
        resources.vips.iter().map(|vip| (vip, known_here(given, ha_cf, &vip.value))).collect();
    let mut out = Draft::default();
    let paths = usable(paths(given, ha_cf, resources, &hosts), &vips, remarks);
    nodes(&mut out, given, ha_cf, &paths, remarks);
    timing(&mut out, ha_cf, remarks);
    arbitrator(&mut out, given, ha_cf, &hosts, &vips, remarks);
    if let Some(node) = &resources.preferred {
        remarks.taken(node.spot, &node.text, &format!("[election] preferred = {}", quoted(&node.value)));
    }
    for (told, vip) in &vips {
        self::vip(&mut out, told, vip, remarks);
    }
    services(&mut out, resources, remarks);
    election(&mut out, ha_cf, resources, remarks);
    database(&mut out, resources, remarks);
    // The lines that the loader speaks of are those of this one.
    let incomplete = head(given, true) + &out.0;
    let warnings = match remarks.any(Outcome::Open) {
        true => vec![],
        false => reread(given, ha_cf, &incomplete, remarks),
    };
    match remarks.any(Outcome::Open) {
        true => (incomplete, warnings),
        false => (head(given, false) + &out.0, warnings),
    }
}

/// The loader's own verdict. Which of the two nodes reads it makes no difference to what holds.
fn reread(given: &Given, ha_cf: &HaCf, text: &str, remarks: &mut Remarks) -> Vec<String> {
    let sources = [(PathBuf::from(remarks.file(Which::Draft)), text.to_owned())];
    let node = ha_cf.nodes.first().map_or("", |node| node.value.as_str());
    match crate::config::parse(&sources, &given.group, node, false) {
        Ok(settings) => settings.warnings,
        Err(error) => {
            for found in error.json() {
                remarks.open(Spot(Which::Draft, found.line), &found.what, &found.why, &found.remedy);
            }
            vec![]
        }
    }
}

fn head(given: &Given, incomplete: bool) -> String {
    let (unit, file) = (group::unit("dre", &given.group), group::file(&given.group));
    let mut head = format!(
        "# {file}: from Linux Heartbeat's ha.cf and haresources, by \"drectl import heartbeat\". The SAME file on both nodes.\n\
         # Then: drectl config check, systemctl daemon-reload, systemctl enable --now {unit}. All settings: /usr/share/doc/dre\n"
    );
    if incomplete {
        head += "# NOT COMPLETE: what is left was said when it was made; while it says FILL IN, dre does not start with it.\n";
    }
    head
}

// ---- TOML --------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Draft(String);

impl Draft {
    fn table(&mut self, name: &str, note: &str) {
        self.0.push('\n');
        self.line(&format!("[{name}]"), note);
    }

    fn set(&mut self, key: &str, value: &str, note: &str) {
        self.line(&format!("{key} = {value}"), note);
    }

    fn line(&mut self, text: &str, note: &str) {
        // Writing to a String cannot fail.
        let _ = match note {
            "" => writeln!(self.0, "{text}"),
            note => writeln!(self.0, "{text:<36} # {}", printable(note)),
        };
    }

    fn fill_in(&mut self, what: &str) {
        let _ = writeln!(self.0, "# {FILL_IN}: {}", printable(what));
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn list(items: &[String]) -> String {
    format!("[{}]", items.join(", "))
}

// ---- nodes and links ---------------------------------------------------------------------------------------

/// A path that may carry heartbeats, and why the file's addresses are not its, if they are not.
struct Usable<'a> {
    path: Path<'a>,
    /// A VIP lies on the only one there is.
    vip: Option<IpAddr>,
}

/// The loader's host check lets no VIP lie on an interface of heartbeats: another path goes on, and an only one is to be replaced.
fn usable<'a>(paths: Vec<Path<'a>>, vips: &[(&Told<Vip>, Vip)], remarks: &mut Remarks) -> Vec<Usable<'a>> {
    let vip_on = |path: &Path| {
        let on = vips.iter().find(|(_, vip)| vip.interface.as_deref() == Some(path.interface));
        on.map(|(_, vip)| vip.address)
    };
    let free = paths.iter().filter(|path| vip_on(path).is_none()).count();
    let mut left = vec![];
    for path in paths {
        match vip_on(&path) {
            Some(vip) if free > 0 || !left.is_empty() => {
                for medium in &path.media {
                    remarks.dropped(
                        medium.spot,
                        &medium.text,
                        &format!(
                            "the VIP {vip} lies on {}: clients must not be able to drown heartbeats",
                            path.interface
                        ),
                        "the other paths carry them; for one more use a network without VIPs",
                    );
                }
            }
            _ if left.len() >= LINKS_MAX => {
                for medium in &path.media {
                    remarks.dropped(
                        medium.spot,
                        &medium.text,
                        &format!("a heartbeat can name {LINKS_MAX} links"),
                        "",
                    );
                }
            }
            vip => left.push(Usable { path, vip }),
        }
    }
    left
}

fn nodes(out: &mut Draft, given: &Given, ha_cf: &HaCf, paths: &[Usable], remarks: &mut Remarks) {
    if paths.is_empty() {
        remarks.open(
            Spot(Which::HaCf, 0),
            "it has no heartbeat path over a network",
            "without one neither node can know the other",
            &format!("write two addresses of each node in place of {FILL_IN}, on networks that have nothing in common"),
        );
    }
    for (name, link) in LINKS.iter().zip(paths) {
        spoken(given, ha_cf, name, link, remarks);
    }
    for (n, node) in ha_cf.nodes.iter().enumerate() {
        out.table(&format!("nodes.{}", node.value), &node.text);
        let end = |link: &Usable| link.vip.is_none().then(|| link.path.ends[n].clone()).flatten();
        let mut links: Vec<String> = vec![];
        for (name, link) in LINKS.iter().zip(paths) {
            let interface = link.path.interface;
            match (end(link), link.vip) {
                (Some(End { address, .. }), _) => {
                    links.push(format!("{name} = {}", quoted(&address.to_string())))
                }
                (None, vip) => {
                    let but = vip.map(|vip| format!(", but not on {interface}, where the VIP {vip} lies"));
                    let but = but.unwrap_or_else(|| format!(" on {interface}"));
                    out.fill_in(&format!("{}'s address{but}", node.value));
                    links.push(format!("{name} = {}", quoted(FILL_IN)));
                }
            }
        }
        if links.is_empty() {
            out.fill_in(&format!("{}'s addresses on the heartbeats' networks", node.value));
            links.push(format!("primary = {}", quoted(FILL_IN)));
        }
        let interfaces: Vec<&str> = paths.iter().map(|link| link.path.interface).collect();
        out.set("links", &format!("{{ {} }}", links.join(", ")), &interfaces.join(", "));
    }
}

/// What became of a path's lines.
fn spoken(given: &Given, ha_cf: &HaCf, name: &str, link: &Usable, remarks: &mut Remarks) {
    let path = &link.path;
    let Some(first) = path.media.first() else { return };
    let mut known = vec![];
    let mut missing = vec![];
    for (node, end) in ha_cf.nodes.iter().zip(&path.ends) {
        match end {
            Some(End { address, from }) => known.push(format!("{} {address} ({from})", node.value)),
            None => missing.push(node.value.as_str()),
        }
    }
    for more in path.media.iter().skip(1) {
        remarks.taken(more.spot, &more.text, &format!("link {name} too, as {}", first.text));
    }
    if let Some(vip) = link.vip {
        remarks.open(
            first.spot,
            &first.text,
            &format!(
                "the VIP {vip} lies on {}, and clients must not be able to drown heartbeats",
                path.interface
            ),
            &format!("write addresses on another network in place of {FILL_IN}, best on two"),
        );
    } else if missing.is_empty() {
        remarks.taken(first.spot, &first.text, &format!("link {name}: {}", known.join(", ")));
    } else {
        let hosts = given.hosts.as_ref().map_or("a hosts file", |source| source.file.as_str());
        let named: Vec<String> = missing.iter().map(|node| format!("{node}-{}", path.interface)).collect();
        remarks.open(
            first.spot,
            &first.text,
            &format!(
                "dre speaks from address to address, and that of {} on {} is not known",
                missing.join(" and "),
                path.interface
            ),
            &format!(
                "write it in place of {FILL_IN}; or name it {} in {hosts} and import again",
                named.join(" and ")
            ),
        );
    }
}

// ---- timing ------------------------------------------------------------------------------------------------

fn timing(out: &mut Draft, ha_cf: &HaCf, remarks: &mut Remarks) {
    let keepalive = ha_cf.keepalive.as_ref().map_or(KEEPALIVE_MS, |told| told.value);
    let deadtime = ha_cf.deadtime.as_ref().map_or(DEADTIME_MS, |told| told.value);
    let (interval, missed) = beat(keepalive, deadtime);
    let dead_after = interval * missed;
    out.table("heartbeat", "");

    let (spot, what) = told(ha_cf.keepalive.as_ref(), "no keepalive: Heartbeat's own is 1 s");
    let became = format!("[heartbeat] interval_ms = {interval}");
    if interval == keepalive {
        remarks.taken(spot, what, &became);
    } else {
        let (least, most) = INTERVAL_MS;
        let why =
            format!("{least} to {most} ms, and no more than {} of them until the peer is lost", MISSED.1);
        remarks.changed(spot, what, &became, &why);
    }
    out.set("interval_ms", &interval.to_string(), what);

    let (spot, what) = told(ha_cf.deadtime.as_ref(), "no deadtime: Heartbeat's own is 30 s");
    let became = format!("[heartbeat] missed_max = {missed}, lost after {dead_after} ms");
    if dead_after == deadtime {
        remarks.taken(spot, what, &became);
    } else if dead_after > deadtime && missed > MISSED.0 {
        remarks.changed(spot, what, &became, "whole heartbeats, rounded up");
    } else {
        let why = format!("{} heartbeats at least, {DEAD_AFTER_MAX_MS} ms at most", MISSED.0);
        remarks.changed(spot, what, &became, &why);
    }
    out.set("missed_max", &missed.to_string(), what);

    let multicast = ha_cf.media.iter().find_map(|medium| Some((medium, medium.value.port?)));
    let (port, spot, what) = match (&ha_cf.port, multicast) {
        (Some(told), _) => (told.value, told.spot, told.text.as_str()),
        (None, Some((medium, port))) => (port, medium.spot, medium.text.as_str()),
        (None, None) => (PORT, Spot(Which::HaCf, 0), "no udpport: Heartbeat's own is 694"),
    };
    remarks.taken(spot, what, &format!("[heartbeat] port = {port}"));
    out.set("port", &port.to_string(), what);
}

/// Where and how it was said, or what is said where it was not.
fn told<'a, T>(told: Option<&'a Told<T>>, otherwise: &'a str) -> (Spot, &'a str) {
    told.map_or((Spot(Which::HaCf, 0), otherwise), |told| (told.spot, told.text.as_str()))
}

/// `interval_ms` and `missed_max`: the keepalive, and as many as the deadtime has, within what the loader takes.
pub fn beat(keepalive: u64, deadtime: u64) -> (u64, u64) {
    let deadtime = deadtime.min(DEAD_AFTER_MAX_MS);
    let mut interval = keepalive.clamp(INTERVAL_MS.0, INTERVAL_MS.1);
    if deadtime.div_ceil(interval) > MISSED.1 {
        interval = deadtime.div_ceil(MISSED.1);
    }
    let missed = deadtime.div_ceil(interval).min(DEAD_AFTER_MAX_MS / interval);
    (interval, missed.max(MISSED.0))
}

// ---- arbitrator --------------------------------------------------------------------------------------------

fn arbitrator(
    out: &mut Draft,
    given: &Given,
    ha_cf: &HaCf,
    hosts: &[hosts::Line],
    vips: &[(&Told<Vip>, Vip)],
    remarks: &mut Remarks,
) {
    let Some(first) = ha_cf.pings.first() else { return };
    let by_name = |name: &str| hosts.iter().find(|line| line.is(name)).map(|line| line.address);
    let address = |ping: &Told<String>| ping.value.parse().ok().or_else(|| by_name(&ping.value));
    let known: Vec<IpAddr> = ha_cf.pings.iter().filter_map(address).collect();
    let interface = given.arbitrator_interface.clone().or_else(|| way_to(given, ha_cf, &known));
    let vip = vips.iter().find(|(_, vip)| interface.is_some() && vip.interface == interface);
    let over = interface.as_deref().filter(|_| vip.is_none());

    let (mut addresses, mut items): (Vec<IpAddr>, Vec<String>) = (vec![], vec![]);
    let mut unknown = vec![];
    for ping in &ha_cf.pings {
        match address(ping) {
            Some(address) if addresses.contains(&address) => {
                remarks.dropped(ping.spot, &ping.text, "the address is asked already", "");
            }
            Some(address) => {
                let over = over.map(|name| format!(", asked over {name}")).unwrap_or_default();
                remarks.taken(ping.spot, &ping.text, &format!("[arbitrator] {address}{over}"));
                addresses.push(address);
                items.push(quoted(&address.to_string()));
            }
            None => {
                remarks.open(
                    ping.spot,
                    &ping.text,
                    "an arbitrator is asked by its address, and what this name means is not known",
                    &format!("write the address in place of {FILL_IN}"),
                );
                unknown.push(ping.value.as_str());
                items.push(quoted(FILL_IN));
            }
        }
    }
    out.table("arbitrator", "");
    for name in unknown {
        out.fill_in(&format!("the address of {name}"));
    }
    out.set("addresses", &list(&items), "ping");
    match (over, interface.as_deref(), vip) {
        (Some(interface), ..) => out.set("interface", &quoted(interface), "the neutral path"),
        (None, Some(interface), Some((told, vip))) => {
            remarks.open(
                first.spot,
                &first.text,
                &format!(
                    "it would be asked over {interface}, where the VIP {} lies, and the neutral path must not depend on what it judges",
                    vip.address
                ),
                &format!("name an arbitrator on another interface in place of {FILL_IN}, move the VIP, or remove the table"),
            );
            out.fill_in(&format!("an interface without VIPs; on {interface} lies {}", told.text));
            out.set("interface", &quoted(FILL_IN), "");
        }
        _ => {
            remarks.open(
                first.spot,
                &first.text,
                "dre asks over one interface, which carries no VIP and no heartbeats, and ha.cf does not say which",
                &format!(
                    "write its name in place of {FILL_IN}; or import again on a node, or with --arbitrator-interface NAME"
                ),
            );
            out.fill_in("the interface on whose network they are; it carries no VIP and no heartbeats");
            out.set("interface", &quoted(FILL_IN), "");
        }
    }
}

/// This machine is one of the nodes.
fn is_here(given: &Given, ha_cf: &HaCf) -> bool {
    ha_cf.node(&given.host).is_some()
}

/// The interface of this machine in whose networks all of them are, if it is a node.
fn way_to(given: &Given, ha_cf: &HaCf, addresses: &[IpAddr]) -> Option<String> {
    if addresses.is_empty() || !is_here(given, ha_cf) {
        return None;
    }
    let all = |nets: &[IpNet]| addresses.iter().all(|ip| nets.iter().any(|net| net.contains(ip)));
    given.facts.interfaces.iter().find(|(_, nets)| all(nets)).map(|(name, _)| name.clone())
}

// ---- VIPs --------------------------------------------------------------------------------------------------

/// What is not said of a VIP is that of the network it is in: Heartbeat looked at its machine's routes.
fn known_here(given: &Given, ha_cf: &HaCf, vip: &Vip) -> Vip {
    let mut known = vip.clone();
    if !is_here(given, ha_cf) {
        return known;
    }
    let mut here = given
        .facts
        .interfaces
        .iter()
        .filter(|(name, _)| vip.interface.as_ref().is_none_or(|own| own == *name));
    let found = here.find_map(|(name, nets)| {
        // The VIP itself, brought by a takeover, is no network.
        let net = nets.iter().find(|net| net.contains(&vip.address) && net.addr() != vip.address)?;
        Some((name, net.prefix_len()))
    });
    if let Some((name, prefix)) = found {
        known.interface.get_or_insert_with(|| name.clone());
        known.prefix.get_or_insert(prefix);
    }
    known
}

fn vip(out: &mut Draft, told: &Told<Vip>, vip: &Vip, remarks: &mut Remarks) {
    out.0.push('\n');
    out.line("[[vip]]", &told.text);
    let net = vip.prefix.and_then(|prefix| IpNet::new(vip.address, prefix).ok());
    let mut missing = vec![];
    let address = match net {
        Some(net) => net.to_string(),
        None => {
            out.fill_in("the prefix of the VIP's network, like /24");
            missing.push("prefix");
            format!("{}/{FILL_IN}", vip.address)
        }
    };
    out.set("address", &quoted(&address), "");
    match &vip.interface {
        Some(interface) => out.set("interface", &quoted(interface), ""),
        None => {
            out.fill_in("the interface that is earmarked for VIPs");
            missing.push("interface");
            out.set("interface", &quoted(FILL_IN), "");
        }
    }
    let mut lost = vec![];
    match &vip.label {
        Some(label) if is_label(label) => out.set("label", &quoted(label), ""),
        Some(label) => lost.push(format!("the kernel takes no label {label}")),
        None => {}
    }
    match (vip.broadcast, net) {
        (Some(broadcast), Some(IpNet::V4(net))) if net.broadcast() != broadcast => {
            lost.push(format!(
                "{broadcast} is not the broadcast address of {}, {} is",
                net.trunc(),
                net.broadcast()
            ));
        }
        (Some(broadcast), _) => out.set("broadcast", &quoted(&broadcast.to_string()), ""),
        (None, _) => {}
    }
    let became = format!("[[vip]] {address} on {}", vip.interface.as_deref().unwrap_or(FILL_IN));
    if !missing.is_empty() {
        remarks.open(
            told.spot,
            &told.text,
            &format!(
                "its {} is not said; Heartbeat took it from the routes of the machine",
                missing.join(" and its ")
            ),
            &format!("write it in place of {FILL_IN}, or import again on a node"),
        );
    } else if !lost.is_empty() {
        remarks.changed(told.spot, &told.text, &became, &lost.join("; "));
    } else if *vip != told.value {
        remarks.changed(told.spot, &told.text, &became, "what is not said is as this machine has it now");
    } else {
        remarks.taken(told.spot, &told.text, &became);
    }
}

// ---- services and election ---------------------------------------------------------------------------------

fn services(out: &mut Draft, resources: &Resources, remarks: &mut Remarks) {
    if resources.services.is_empty() {
        return;
    }
    let mut units = vec![];
    for service in &resources.services {
        let unit = service.value.unit.as_str();
        let became = format!("[services] active = [{}]", quoted(unit));
        let remedy = format!(
            "see that the unit is there on both nodes (systemctl cat {unit}) and is not started at boot (systemctl disable {unit})"
        );
        let (outcome, what, why) = match service.value.arguments {
            false => (Outcome::Taken, service.text.clone(), ""),
            true => (
                Outcome::Changed,
                format!("{}::…", service.text),
                "a unit takes no arguments from outside, and these are lost",
            ),
        };
        remarks.add(service.spot, outcome, &what, &became, why, &remedy);
        units.push(quoted(unit));
    }
    out.table("services", "");
    out.set("active", &list(&units), "where the node is ACTIVE");
}

fn database(out: &mut Draft, resources: &Resources, remarks: &mut Remarks) {
    let Some(server) = &resources.database else { return };
    let unit = quoted("mariadb.service");
    remarks.add(
        server.spot,
        Outcome::Changed,
        &server.text,
        &format!("[database] unit = {unit}"),
        "the server runs on both nodes and replicates; its writes follow the role, instead of the server itself",
        "set the two servers up as the README's \"The database pair\" says, and write the unit's own name where it is another \
         (mysql.service)",
    );
    out.table("database", &format!("haresources: {}", server.text));
    out.set("unit", &unit, "the server's unit, which runs on both nodes");
}

fn election(out: &mut Draft, ha_cf: &HaCf, resources: &Resources, remarks: &mut Remarks) {
    out.table("election", "");
    let preferred = resources.preferred.as_ref();
    if let Some(preferred) = preferred {
        out.set("preferred", &quoted(&preferred.value), "haresources");
    }
    let failback = ha_cf.failback.as_ref().map_or(Failback::Legacy, |told| told.value);
    let (spot, what) = told(ha_cf.failback.as_ref(), "no auto_failback: Heartbeat's own is legacy");
    if failback == Failback::Off {
        remarks.taken(spot, what, "[election] failback = false");
        out.set("failback", "false", what);
    } else if preferred.is_none() {
        let why = "no node is preferred, so there is nobody to give the role back to";
        remarks.changed(spot, what, "[election] failback = false", why);
        out.set("failback", "false", "no node is preferred");
    } else {
        let hold = resources.failback_hold_s();
        let became = format!("[election] failback = true, failback_hold_s = {hold}");
        let why =
            format!("at once before, now when the preferred node has been fit and in touch for {hold} s");
        remarks.changed(spot, what, &became, &why);
        out.set("failback", "true", what);
        out.set("failback_hold_s", &hold.to_string(), "");
    }
    if let Some(told) = &ha_cf.initdead {
        let keepalive = ha_cf.keepalive.as_ref().map_or(KEEPALIVE_MS, |told| told.value);
        let deadtime = ha_cf.deadtime.as_ref().map_or(DEADTIME_MS, |told| told.value);
        let (interval, missed) = beat(keepalive, deadtime);
        let hold = told.value.clamp(interval * missed, STARTUP_HOLD_MAX_MS);
        let became = format!("[election] startup_hold_ms = {hold}");
        if hold == told.value {
            remarks.taken(told.spot, &told.text, &became);
        } else {
            let why = "a node that restarted listens at least until a peer would be lost, and not for longer than a day";
            remarks.changed(told.spot, &told.text, &became, why);
        }
        out.set("startup_hold_ms", &hold.to_string(), &told.text);
    }
}
