//! `haresources`: a line is a node and what it would like to run; a backslash at its end goes on.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::ha_cf::{HaCf, is_interface};
use super::{Given, Outcome, Remarks, Spot, Told, Which, numbered};
use crate::config::check::{Findings, service_name};
use crate::config::error::Place;
use crate::config::raw::At;

/// The kernel's labels, and interface names: IFNAMSIZ − 1 of linux/if.h.
const LABEL_MAX: usize = 15;
/// Until the preferred node of a database's group gets the role back; that of a pair without data is the loader's default.
const DATABASE_HOLD_S: u64 = 60;

#[derive(Default)]
pub struct Resources {
    pub preferred: Option<Told<String>>,
    pub vips: Vec<Told<Vip>>,
    pub database: Option<Told<()>>,
    /// In the order of the file.
    pub services: Vec<Told<Service>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub unit: String,
    /// The script had some, which are not shown: one may be a password.
    pub arguments: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    pub address: IpAddr,
    pub prefix: Option<u8>,
    pub interface: Option<String>,
    pub label: Option<String>,
    pub broadcast: Option<Ipv4Addr>,
}

impl Resources {
    /// `failback_hold_s`.
    pub fn failback_hold_s(&self) -> u64 {
        if self.database.is_some() { DATABASE_HOLD_S } else { crate::config::check::FAILBACK_HOLD_S }
    }
}

/// A line's words, each with the number of the line on which it really stands.
type Words<'a> = Vec<(usize, &'a str)>;

/// Logical lines: comments are gone, and what a backslash continues is joined.
fn logical(text: &str) -> Vec<Words<'_>> {
    let mut lines: Vec<Words> = vec![];
    let mut goes_on = false;
    for (line, text) in numbered(text) {
        let mut words: Words = text
            .split_whitespace()
            .take_while(|word| !word.starts_with('#'))
            .map(|word| (line, word))
            .collect();
        let mut continues = false;
        if let Some((_, last)) = words.last_mut()
            && let Some(before) = last.strip_suffix('\\')
        {
            continues = true;
            *last = before;
        }
        words.retain(|(_, word)| !word.is_empty());
        match lines.last_mut() {
            Some(before) if goes_on => before.extend(words),
            _ => lines.push(words),
        }
        goes_on = continues;
    }
    lines.retain(|words| !words.is_empty());
    lines
}

pub fn read(given: &Given, ha_cf: &HaCf, remarks: &mut Remarks) -> Resources {
    let mut found = Resources::default();
    let whole = Spot(Which::Resources, 0);
    let lines = logical(&given.haresources.text);
    if let Some(name) = &given.preferred {
        match ha_cf.node(name) {
            Some(node) => {
                let text = "as it was asked for".to_owned();
                found.preferred = Some(Told { value: node.to_owned(), text, spot: whole });
            }
            None => remarks.wrong(
                whole,
                &format!("{name} was said to be preferred"),
                "it is no node of ha.cf",
                "name one of the two nodes, or leave it out: the first line's is meant then",
            ),
        }
    }
    for words in lines {
        let Some(((line, name), resources)) = words.split_first().map(|(first, rest)| (*first, rest)) else {
            continue;
        };
        let spot = Spot(Which::Resources, line);
        let Some(node) = ha_cf.node(name) else {
            // With no nodes at all every line would be wrong for the one reason that is said already.
            if ha_cf.nodes.len() == 2 {
                remarks.wrong(
                    spot,
                    &format!("the line begins with {name}"),
                    "it is no node of ha.cf, and Heartbeat does not start with it",
                    "begin each line with the preferred node, and end it with a backslash where it goes on",
                );
            }
            continue;
        };
        let preferred = found.preferred.get_or_insert_with(|| {
            let text = format!("the line begins with {name}");
            Told { value: node.to_owned(), text, spot }
        });
        if preferred.value == node {
            for (line, resource) in resources {
                found.resource(Spot(Which::Resources, *line), resource, remarks);
            }
        } else {
            let preferred = preferred.value.clone();
            elsewhere(given, spot, node, &preferred, remarks);
        }
    }
    let none = found.vips.is_empty() && found.services.is_empty() && found.database.is_none();
    if none && !remarks.any(Outcome::Wrong) {
        remarks.open(
            whole,
            "nothing of it was taken over",
            "the pair elects, but has nothing to give to the node that is ACTIVE",
            "write [[vip]] tables and [services] as in /usr/share/doc/dre/mysql.toml",
        );
    }
    if found.services.len() > 1 {
        remarks.changed(
            whole,
            "resources start from left to right",
            "VIPs first, then the services at once",
            "what one service must wait for is in its unit: After= and Requires=",
        );
    }
    found
}

/// A line of the other node: a group has one role, and one node that is preferred for it.
fn elsewhere(given: &Given, spot: Spot, node: &str, preferred: &str, remarks: &mut Remarks) {
    let what = format!("a line of {node}, and the group's preferred node is {preferred}");
    let why = "a group has one role, and all that follows it goes together";
    let remedy =
        format!("make a second group of it: drectl -g OTHER import heartbeat --preferred {node} DIR");
    if given.preferred.is_some() {
        remarks.dropped(spot, &what, why, &remedy);
    } else {
        remarks.open(spot, &what, why, &format!("{remedy}, and this one with --preferred {preferred}"));
    }
}

/// Scripts of Heartbeat's own, why nothing corresponds, what to do instead.
const DROPPED: [(&[&str], &str, &str); 8] = [
    (
        &["drbddisk", "drbdupper", "Filesystem", "LVM", "Raid1", "LinuxSCSI", "ServeRAID", "ICP", "OCF"],
        "dre has no disk that goes from node to node: where two nodes wrote to one, its file system would be lost",
        "keep the data on each node, as [database] does by replication; or let a service's unit require its mount (systemd.mount(5)), \
         and guard the disk yourself",
    ),
    (&["SendArp"], "dre announces a VIP by itself when it is taken, and again after it", ""),
    (
        &["IPsrcaddr"],
        "dre does not change which address a node sends from",
        "let the service bind to its VIP, or write the route's src in a unit",
    ),
    (
        &["MailTo", "WinPopup", "AudibleAlarm"],
        "dre tells what happens by the journal, by alarms and by drectl status",
        "let a monitoring watch \"drectl status --json\"; a service in [services] active may tell of a takeover",
    ),
    (&["portblock"], "the kernel's gate lets traffic of the VIPs pass only where the role is", ""),
    (&["Delay"], "nothing is waited for by the clock", "what a service must wait for is in its unit"),
    (&["Xinetd"], "services are systemd's", "write a socket unit, and list its service"),
    (
        &["LVSSyncDaemonSwap", "hto-mapfuncs", "ids", "WAS", "db2"],
        "it is a script of Heartbeat's, and nothing of dre's corresponds",
        "write a systemd service that does the same, and list it in [services] active",
    ),
];

impl Resources {
    fn resource(&mut self, spot: Spot, text: &str, remarks: &mut Remarks) {
        let (script, arguments) = match text.split_once("::") {
            // "::" of an IPv6 address that stands alone.
            Some(_) if text.split('/').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok()) => {
                ("", Some(text))
            }
            Some((script, arguments)) => (script, Some(arguments)),
            None if looks_like_address(text) => ("", Some(text)),
            None => (text, None),
        };
        match (script, arguments) {
            ("" | "IPaddr" | "IPaddr2" | "IPv6addr", Some(argument)) => {
                self.vip(spot, text, argument, remarks)
            }
            ("IPaddr" | "IPaddr2" | "IPv6addr", None) => remarks.wrong(
                spot,
                text,
                "it names no address",
                "write it like IPaddr::172.16.10.71/16/eth2:0",
            ),
            ("mysql" | "mysqld" | "mariadb" | "mysql-server", _) => self.server(spot, script, remarks),
            _ => match DROPPED.iter().find(|(names, ..)| names.contains(&script)) {
                // Of the arguments one may be a password: a mount's options, for instance.
                Some((_, why, remedy)) => remarks.dropped(spot, script, why, remedy),
                None => self.service(spot, script, arguments.is_some(), remarks),
            },
        }
    }

    fn vip(&mut self, spot: Spot, text: &str, argument: &str, remarks: &mut Remarks) {
        // A second argument of IPaddr2 (a cluster address of many nodes) is none of an address that one node has.
        let v6 =
            argument.split('/').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()));
        let argument = if v6 { argument } else { argument.split("::").next().unwrap_or_default() };
        match vip(argument) {
            Err(why) => remarks.wrong(
                spot,
                text,
                &why,
                "write it as ADDRESS/PREFIX/INTERFACE:LABEL/BROADCAST, like 172.16.10.71/16/eth2:0/172.16.255.255",
            ),
            Ok(vip) if self.vips.iter().any(|other| other.value.address == vip.address) => {
                remarks.dropped(spot, text, "the address stands here a second time", "");
            }
            Ok(value) => self.vips.push(Told { value, text: text.to_owned(), spot }),
        }
    }

    fn server(&mut self, spot: Spot, script: &str, remarks: &mut Remarks) {
        if self.database.is_some() {
            remarks.dropped(spot, script, "a group has one database server, and it stands here already", "");
            return;
        }
        self.database = Some(Told { value: (), text: script.to_owned(), spot });
    }

    fn service(&mut self, spot: Spot, script: &str, arguments: bool, remarks: &mut Remarks) {
        let unit = if script.ends_with(".service") { script.to_owned() } else { format!("{script}.service") };
        let mut bad = Findings::default();
        let place = Place { path: "".into(), span: 0..0 };
        service_name(&mut bad, &At { value: unit.clone(), place }, "httpd.service");
        if let Err(error) = bad.verdict(&[]) {
            let why = error.findings().first().map(|finding| finding.why.clone()).unwrap_or_default();
            remarks.wrong(spot, script, &why, "name a script whose systemd service is called like it");
            return;
        }
        if self.services.iter().any(|other| other.value.unit == unit) {
            remarks.dropped(spot, script, "it stands here a second time", "");
            return;
        }
        self.services.push(Told { value: Service { unit, arguments }, text: script.to_owned(), spot });
    }
}

/// Heartbeat takes what begins so for IPaddr's; what is no address after all must not become a service.
fn looks_like_address(text: &str) -> bool {
    let first = text.split('/').next().unwrap_or_default();
    first.parse::<IpAddr>().is_ok()
        || first.contains('.') && first.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// `address[/prefix][/interface[:label]][/broadcast]`, or why not.
pub fn vip(text: &str) -> Result<Vip, String> {
    let mut parts = text.split('/');
    let first = parts.next().unwrap_or_default();
    let address: IpAddr = first.parse().map_err(|_| format!("{first:?} is no address"))?;
    let mut vip = Vip { address, prefix: None, interface: None, label: None, broadcast: None };
    for (n, part) in parts.enumerate() {
        if part.is_empty() {
            continue;
        }
        let is_first = n == 0;
        let mask = part.parse::<Ipv4Addr>().ok();
        if part.bytes().all(|b| b.is_ascii_digit()) {
            let prefix = part.parse().ok().filter(|bits| IpNet::new(address, *bits).is_ok());
            match (prefix, is_first) {
                (Some(bits), true) => vip.prefix = Some(bits),
                (_, true) => return Err(format!("an address of this kind has no prefix of {part} bits")),
                (_, false) => {
                    return Err(format!("{part:?} stands where an interface or a broadcast address does"));
                }
            }
        } else if let Some(mask) = mask {
            let bits = ipnet::ipv4_mask_to_prefix(mask).ok().filter(|bits| is_first && *bits > 0);
            match (bits, address) {
                (Some(bits), IpAddr::V4(_)) => vip.prefix = Some(bits),
                (None, IpAddr::V4(_)) if vip.broadcast.is_none() => vip.broadcast = Some(mask),
                _ => return Err(format!("{part} is one address too many")),
            }
        } else if vip.interface.is_none() {
            let name = part.split(':').next().unwrap_or_default();
            if !is_interface(name) {
                return Err(format!("{part:?} is no interface"));
            }
            vip.interface = Some(name.to_owned());
            vip.label = (part.len() > name.len() && address.is_ipv4()).then(|| part.to_owned());
        } else {
            return Err(format!("{part:?} is one part too many"));
        }
    }
    Ok(vip)
}

/// What the kernel takes for a label.
pub fn is_label(label: &str) -> bool {
    label.len() <= LABEL_MAX && label.chars().all(|c| c.is_ascii_graphic())
}
