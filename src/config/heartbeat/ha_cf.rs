//! `ha.cf`: directives as Heartbeat's own parser takes them. A `#` begins a comment anywhere; commas separate as blanks do;
//! of what is said twice the last counts.

use std::net::IpAddr;

use super::{Remarks, Spot, Told, Which, numbered};
use crate::config::check::Findings;
use crate::config::check::interface_name;
use crate::config::error::Place;
use crate::config::raw::At;
use crate::logic::wire::NAME_MAX;

#[derive(Default)]
pub struct HaCf {
    /// As written, without a domain; not two of one name.
    pub nodes: Vec<Told<String>>,
    /// Milliseconds.
    pub keepalive: Option<Told<u64>>,
    pub deadtime: Option<Told<u64>>,
    pub initdead: Option<Told<u64>>,
    pub port: Option<Told<u16>>,
    pub failback: Option<Told<Failback>>,
    /// Addresses or names.
    pub pings: Vec<Told<String>>,
    pub media: Vec<Told<Medium>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failback {
    On,
    Off,
    /// Of the releases before 1.1.
    Legacy,
}

/// A heartbeat path over a network.
#[derive(Debug, Clone)]
pub struct Medium {
    pub interface: String,
    /// `ucast` says where it sends to.
    pub to: Option<IpAddr>,
    /// `mcast` has a port of its own.
    pub port: Option<u16>,
}

impl HaCf {
    /// A node by a name with or without a domain, as Heartbeat compares them: the case does not matter.
    pub fn node(&self, name: &str) -> Option<&str> {
        let short = short(name);
        self.nodes.iter().map(|node| node.value.as_str()).find(|node| node.eq_ignore_ascii_case(short))
    }
}

/// A host's name without its domain.
fn short(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

pub fn read(text: &str, remarks: &mut Remarks) -> HaCf {
    let mut found = HaCf::default();
    let mut lines = 0;
    for (line, text) in numbered(text) {
        let text = text.split('#').next().unwrap_or_default().trim();
        let (directive, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if directive.is_empty() {
            continue;
        }
        lines += 1;
        // The name it had before release 0.4.9.
        let directive = if directive == "udp" { "bcast" } else { directive };
        let values: Vec<&str> =
            rest.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty()).collect();
        found.directive(Spot(Which::HaCf, line), directive, &values, remarks);
    }
    match found.nodes.as_slice() {
        [_, _] => {}
        _ if lines == 0 => remarks.wrong(
            Spot(Which::HaCf, 0),
            "there is no directive in it",
            "nothing says which two nodes they are, and how they reach each other",
            "name the directory in which the ha.cf lies that Heartbeat runs with",
        ),
        nodes => {
            let names: Vec<&str> = nodes.iter().map(|node| node.value.as_str()).collect();
            remarks.wrong(
                Spot(Which::HaCf, 0),
                &format!("it names {} nodes: {}", names.len(), names.join(", ")),
                "a pair has two",
                "write \"node NAME1 NAME2\", the names as \"uname -n\" says them on the two machines",
            );
        }
    }
    found
}

impl HaCf {
    fn directive(&mut self, spot: Spot, directive: &str, values: &[&str], remarks: &mut Remarks) {
        let what = format!("{directive} {}", values.join(" "));
        match directive {
            "node" => self.node_names(spot, values, remarks),
            "keepalive" => set(&mut self.keepalive, time(spot, &what, values, remarks), remarks),
            "deadtime" => set(&mut self.deadtime, time(spot, &what, values, remarks), remarks),
            "initdead" => set(&mut self.initdead, time(spot, &what, values, remarks), remarks),
            "udpport" => {
                let port = match values {
                    [port] => self::port(port),
                    _ => None,
                };
                if port.is_none() {
                    remarks.wrong(
                        spot,
                        &what,
                        "UDP ports go from 1 to 65535",
                        "write the port that Heartbeat uses, usually \"udpport 694\"",
                    );
                }
                set(&mut self.port, port.map(|value| Told { value, text: what, spot }), remarks);
            }
            "auto_failback" | "nice_failback" => {
                let value = match values {
                    [word] => failback(word),
                    _ => None,
                };
                // What was called nice was not to go back.
                let value = match (directive, value) {
                    ("nice_failback", Some(Failback::On)) => Some(Failback::Off),
                    ("nice_failback", Some(Failback::Off)) => Some(Failback::Legacy),
                    ("nice_failback", _) => None,
                    (_, value) => value,
                };
                if value.is_none() {
                    remarks.wrong(
                        spot,
                        &what,
                        "it says whether the resources go back to the preferred node when that is repaired",
                        "write \"auto_failback on\" or \"auto_failback off\"",
                    );
                }
                set(&mut self.failback, value.map(|value| Told { value, text: what, spot }), remarks);
            }
            "ping" if !values.is_empty() => self.ping(spot, directive, values),
            "ping_group" if values.len() > 1 => self.ping(spot, directive, &values[1..]),
            "ping" | "ping_group" => remarks.wrong(
                spot,
                &what,
                "it names nobody to be asked",
                "write \"ping ADDRESS …\" or \"ping_group NAME ADDRESS …\", or remove the line",
            ),
            "bcast" | "ucast" | "mcast" | "mcast6" => self.medium(spot, directive, values, remarks),
            "crm" if !matches!(failback(values.first().unwrap_or(&"")), Some(Failback::Off)) => remarks.wrong(
                spot,
                &what,
                "Heartbeat does not read haresources then: what runs is in the cluster resource manager's cib.xml, which is \
                 not understood here",
                "write the resources as a haresources file and \"crm off\", or the group's file by hand (example: \
                 /usr/share/doc/dre/mysql.toml)",
            ),
            _ => without_counterpart(spot, directive, values, remarks),
        }
    }

    fn node_names(&mut self, spot: Spot, values: &[&str], remarks: &mut Remarks) {
        if values.is_empty() {
            remarks.wrong(spot, "node", "it names nobody", "write \"node NAME1 NAME2\"");
        }
        for value in values {
            let name = short(value);
            let what = format!("node {value}");
            let fits = !name.is_empty()
                && name.len() <= NAME_MAX
                && !name.starts_with('-')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
            if !fits {
                remarks.wrong(
                    spot,
                    &what,
                    &format!("a host's name has 1 to {NAME_MAX} letters, digits, - and _"),
                    "write it as \"uname -n\" says it on that machine",
                );
            } else if self.node(name).is_some() {
                remarks.dropped(spot, &what, "it stands here a second time", "");
            } else {
                let became = format!("[nodes.{name}]");
                if name == *value {
                    remarks.taken(spot, &what, &became);
                } else {
                    remarks.changed(spot, &what, &became, "dre knows a host by its name without the domain");
                }
                self.nodes.push(Told { value: name.to_owned(), text: what, spot });
            }
        }
    }

    fn ping(&mut self, spot: Spot, directive: &str, values: &[&str]) {
        for value in values {
            let text = format!("{directive} {value}");
            self.pings.push(Told { value: (*value).to_owned(), text, spot });
        }
    }

    fn medium(&mut self, spot: Spot, directive: &str, values: &[&str], remarks: &mut Remarks) {
        let what = format!("{directive} {}", values.join(" "));
        let medium = |interface: &str, to, port| Medium { interface: interface.to_owned(), to, port };
        let found: Vec<Medium> = match (directive, values) {
            ("bcast", [_, ..]) => values.iter().map(|name| medium(name, None, None)).collect(),
            ("ucast", [name, to]) => match to.parse() {
                Ok(to) => vec![medium(name, Some(to), None)],
                Err(_) => vec![],
            },
            ("mcast" | "mcast6", [name, _group, port, ..]) => match self::port(port) {
                Some(port) => vec![medium(name, None, Some(port))],
                None => vec![],
            },
            _ => vec![],
        };
        if found.is_empty() || found.iter().any(|medium| !is_interface(&medium.interface)) {
            let like = match directive {
                "bcast" => "bcast eth3 eth4",
                "ucast" => "ucast eth3 172.16.11.55",
                _ => "mcast eth3 225.0.0.1 694 1 0",
            };
            remarks.wrong(
                spot,
                &what,
                "a heartbeat path that is not understood would silently be missing",
                &format!("write it like \"{like}\""),
            );
            return;
        }
        let one = found.len() == 1;
        for medium in found {
            let text = if one { what.clone() } else { format!("{directive} {}", medium.interface) };
            self.media.push(Told { value: medium, text, spot });
        }
    }
}

/// What is said again counts; what was said before is spoken of.
fn set<T>(slot: &mut Option<Told<T>>, new: Option<Told<T>>, remarks: &mut Remarks) {
    let Some(new) = new else { return };
    let line = new.spot.1;
    if let Some(old) = slot.replace(new) {
        remarks.dropped(
            old.spot,
            &old.text,
            &format!("line {line} says it again, and the last one counts"),
            "",
        );
    }
}

pub fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// The words that Heartbeat takes for yes and no.
fn failback(word: &str) -> Option<Failback> {
    match word.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "y" | "1" => Some(Failback::On),
        "off" | "false" | "no" | "n" | "0" => Some(Failback::Off),
        "legacy" => Some(Failback::Legacy),
        _ => None,
    }
}

/// The loader's own rule.
pub fn is_interface(name: &str) -> bool {
    let mut bad = Findings::default();
    let place = Place { path: "".into(), span: 0..0 };
    interface_name(&mut bad, &At { value: name.to_owned(), place });
    bad.verdict(&[]).is_ok() && name.chars().all(|c| c.is_ascii_graphic())
}

fn time(spot: Spot, what: &str, values: &[&str], remarks: &mut Remarks) -> Option<Told<u64>> {
    let value = match values {
        [one] => milliseconds(one),
        _ => None,
    };
    let Some(value) = value.filter(|ms| *ms > 0) else {
        remarks.wrong(
            spot,
            what,
            "a time is a number of seconds, or a number with us, ms, s, m or h right behind it, and 1 ms at least",
            "write it like \"2\", \"0.5\" or \"500ms\"",
        );
        return None;
    };
    Some(Told { value, text: what.to_owned(), spot })
}

/// Heartbeat's times: seconds, or with a unit; rounded to milliseconds as it does.
pub fn milliseconds(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let ms = match unit.to_ascii_lowercase().as_str() {
        "" | "s" | "sec" => number * 1e3,
        "ms" | "msec" => number,
        "us" | "usec" => number / 1e3,
        "m" | "min" => number * 60e3,
        "h" | "hr" => number * 3600e3,
        _ => return None,
    };
    // Saturates: a year is as far beyond what dre takes as an age.
    Some(ms.round() as u64)
}

// ---- what dre has nothing for ------------------------------------------------------------------------------

/// Directive, why nothing corresponds, what to do instead.
const DROPPED: [(&str, &str, &str); 37] = [
    (
        "warntime",
        "a peer is suspect after half of the time after which it is lost, and the journal says so",
        "",
    ),
    ("deadping", "arbitrators are asked when all links are lost, with a patience of dre's own", ""),
    (
        "watchdog",
        "systemd watches the daemons, and the kernel's gate closes when a lease ends",
        "for a machine that hangs as a whole: RuntimeWatchdogSec= in systemd-system.conf(5)",
    ),
    ("serial", "heartbeats are UDP datagrams", "give the pair a second network for them"),
    ("baud", "heartbeats are UDP datagrams", ""),
    ("hbaping", "arbitrators are asked by ICMP", "name an address by ping"),
    ("rtprio", "the daemons' priorities are in their units", ""),
    ("realtime", "the daemons' priorities are in their units", ""),
    ("logfile", "dre writes to the journal", "it is read with journalctl -u dre@GROUP"),
    ("debugfile", "dre writes to the journal", "it is read with journalctl -u dre@GROUP"),
    ("logfacility", "dre writes to the journal, which any syslog daemon reads", ""),
    ("use_logd", "dre writes to the journal", ""),
    ("conn_logd_time", "dre writes to the journal", ""),
    ("log_badpack", "heartbeats that are rejected are counted: drectl status", ""),
    ("record_config_changes", "it belongs to the cluster resource manager", ""),
    ("record_pengine_inputs", "it belongs to the cluster resource manager", ""),
    ("enable_config_writes", "it belongs to the cluster resource manager", ""),
    ("debug", "words are a matter of the running daemon", "systemctl service-log-level dre@GROUP debug"),
    ("apiauth", "who may ask and order is a matter of the control socket's and polkit's rules", ""),
    ("hopfudge", "a heartbeat goes from node to node, and is passed on by nobody", ""),
    ("compression", "a heartbeat is one small datagram", ""),
    ("compression_threshold", "a heartbeat is one small datagram", ""),
    ("traditional_compression", "a heartbeat is one small datagram", ""),
    ("max_rexmit_delay", "a heartbeat that was lost is not sent again", ""),
    ("msgfmt", "the heartbeats are dre's own", ""),
    ("hbgenmethod", "each start has a number from the kernel's generator", ""),
    ("uuidfrom", "a node is known by its name", ""),
    ("memreserve", "the daemons lock what they have", ""),
    ("use_apphbd", "systemd watches the daemons", ""),
    ("coredumps", "systemd-coredump(8) takes them", ""),
    ("coreroot", "systemd-coredump(8) takes them", ""),
    ("normalpoll", "dre has a loop of its own", ""),
    ("autojoin", "the nodes of a pair are those of its file", ""),
    ("crm", "it is off", ""),
    ("cluster", "each group has a name, and heartbeats of another are not heard", ""),
    ("quorum_server", "a pair asks its arbitrators", "name an address by ping"),
    ("syslogmsgfmt", "dre writes to the journal", ""),
];

fn without_counterpart(spot: Spot, directive: &str, values: &[&str], remarks: &mut Remarks) {
    let shown = |count: usize| {
        let words: Vec<&str> = values.iter().copied().take(count).collect();
        format!("{directive} {}", words.join(" ")).trim_end().to_owned()
    };
    match directive {
        // Their arguments have passwords among them.
        "stonith" | "stonith_host" => remarks.dropped(
            spot,
            directive,
            "no node switches the other one off: the kernel of a node whose lease has ended lets no traffic of its VIPs pass any more",
            "what a service does beside the VIPs (a shared disk) needs a guard of its own",
        ),
        "env" => remarks.dropped(
            spot,
            shown(1).split('=').next().unwrap_or_default(),
            "services get their environment from their units",
            "write Environment= into the unit that needs it",
        ),
        "respawn" if values.get(1).is_some_and(|path| path.ends_with("/ipfail")) => remarks.dropped(
            spot,
            &shown(2),
            "dre asks its arbitrators by itself, when all links are lost; it gives no role away because an arbitrator alone is silent",
            "",
        ),
        "respawn" => remarks.dropped(
            spot,
            &shown(2),
            "programs are run by systemd",
            "write a unit for it; [services] both = [\"NAME.service\"] wants it on both nodes",
        ),
        _ => match DROPPED.iter().find(|(name, ..)| *name == directive) {
            Some((_, why, remedy)) => {
                let remedy = remedy.replace("dre@GROUP", &unit(remarks));
                remarks.dropped(spot, &shown(usize::MAX), why, &remedy);
            }
            None => remarks.wrong(
                spot,
                directive,
                "Heartbeat knows no such directive, and does not start with it",
                "correct it, or remove the line",
            ),
        },
    }
}

/// What the group's unit is called, from the file that is written.
fn unit(remarks: &Remarks) -> String {
    let file = remarks.file(Which::Draft);
    crate::logic::group::unit("dre", file.strip_suffix(".toml").unwrap_or(file))
}
