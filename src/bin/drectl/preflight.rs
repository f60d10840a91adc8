//! What `drectl check` finds: facts in, findings out, each with its remedy. Pure; `facts` reads the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dre::config::{self, Settings};
use dre::logic::group;
use dre::shell::tipc::AGAIN;
use dre::shell::tipc::tool::State;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Could not be looked at; the remedy says how it can.
    Unknown,
    Warn,
    Bad,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// What was looked at, one word: stable, for scripts.
    pub name: &'static str,
    pub what: String,
    /// Empty when nothing is to be done.
    pub remedy: String,
}

/// What the machine said. `None` is "could not be read", which is not "no".
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub group: String,
    pub host: String,
    /// Problems of the configuration are one finding; everything that needs the settings is left out then.
    pub settings: Option<Settings>,
    pub config_error: Option<String>,
    /// The daemon's own warnings about configuration and host, and what it would refuse.
    pub config_warnings: Vec<String>,
    pub host_error: Option<String>,
    pub key: Option<Result<(), String>>,
    pub clock_synchronised: Option<bool>,
    /// `/proc/sys`, by the path below it.
    pub sysctl: BTreeMap<&'static str, String>,
    pub interfaces: BTreeMap<String, Interface>,
    /// The address the kernel would send from to each arbitrator.
    pub arbitrator_source: BTreeMap<IpAddr, Option<IpAddr>>,
    pub firewall: Firewall,
    pub kernel: String,
    /// A real attempt to load the gate's program; `None` where we may not even try.
    pub gate: Option<Result<(), String>>,
    /// systemd's word for each unit; `None` where systemd cannot be asked.
    pub enabled: BTreeMap<String, String>,
    /// Managed services that have dre's generated drop-in.
    pub bound: BTreeSet<String>,
    /// Managed services whose stop has no limit.
    pub stop_never: BTreeSet<String>,
    pub systemd: bool,
    /// The system bus is there.
    pub bus: bool,
    /// The bus can have polkit started.
    pub polkit: bool,
    /// Role of the running daemon, or why it is not to be had.
    pub daemon: Option<Result<String, String>>,
    /// Looked at where it is configured.
    pub tipc: Tipc,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    pub addresses: Vec<IpAddr>,
    pub carrier: bool,
    pub manager: Manager,
}

/// Who configures an interface beside dre.
#[allow(clippy::enum_variant_names)] // that is what it is called
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Manager {
    #[default]
    None,
    /// systemd-networkd, and whether it leaves foreign addresses alone.
    Networkd {
        keeps: bool,
        file: String,
    },
    NetworkManager,
}

/// The kernel's TIPC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Tipc {
    #[default]
    NotAsked,
    /// It has none, and what to do about it.
    Absent(String),
    /// It has, but how it is set up is not to be known.
    Unclear(String),
    Is(State),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Firewall {
    #[default]
    Unknown,
    Absent,
    /// Input is dropped unless allowed; whether some rule names this UDP port.
    Drops {
        names_port: bool,
    },
    /// There are rules, but input is accepted unless refused.
    Accepts,
}

/// The findings, in the order in which they would be mended.
pub fn findings(f: &Facts) -> Vec<Finding> {
    let mut all = vec![];
    configuration(f, &mut all);
    key(f, &mut all);
    if let Some(settings) = &f.settings {
        links(f, settings, &mut all);
        arbitrator(f, settings, &mut all);
        vips(f, settings, &mut all);
        firewall(f, settings, &mut all);
        services(f, settings, &mut all);
    }
    clock(f, &mut all);
    sysctl(f, &mut all);
    gate(f, &mut all);
    units(f, &mut all);
    all
}

/// Some finding is bad: this node is not ready.
pub fn is_ready(all: &[Finding]) -> bool {
    all.iter().all(|finding| finding.level != Level::Bad)
}

struct Out<'a>(&'a mut Vec<Finding>, &'static str);

impl Out<'_> {
    fn ok(&mut self, what: impl Into<String>) {
        self.add(Level::Ok, what, "");
    }
    fn unknown(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Unknown, what, remedy);
    }
    fn warn(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Warn, what, remedy);
    }
    fn bad(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Bad, what, remedy);
    }
    fn add(&mut self, level: Level, what: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Finding { level, name: self.1, what: what.into(), remedy: remedy.into() });
    }
}

fn configuration(f: &Facts, all: &mut Vec<Finding>) {
    let mut out = Out(all, "config");
    match (&f.settings, &f.config_error) {
        (Some(s), _) => {
            let pair = match &s.peer {
                Some(peer) => format!("{} and {peer}", s.node),
                None => format!("{} alone", s.node),
            };
            out.ok(format!("the configuration holds: {pair}, this host is {}", f.host));
        }
        (None, error) => out.bad(
            error.clone().unwrap_or_else(|| "the configuration was not read".into()),
            "drectl config check points at the lines",
        ),
    }
    if let Some(error) = &f.host_error {
        out.bad(error.clone(), "drectl config check says what to write");
    }
    for warning in &f.config_warnings {
        out.warn(warning.clone(), "drectl config check");
    }
}

fn key(f: &Facts, all: &mut Vec<Finding>) {
    let mut out = Out(all, "key");
    let alone = f.settings.as_ref().is_some_and(|s| s.peer.is_none() || s.standalone);
    match &f.key {
        None => out.unknown("the key cannot be read by this user", "run it as root"),
        Some(Ok(())) => {
            out.ok("the key is 32 bytes and private; that both nodes have the same shows in the status")
        }
        Some(Err(_)) if alone => out.ok("no key, and standalone mode needs none"),
        Some(Err(error)) => out.bad(
            error.clone(),
            "drectl key new on one node, then copy it: scp -p /etc/dre/key PEER:/etc/dre/key",
        ),
    }
}

fn interface_of(f: &Facts, address: IpAddr) -> Option<(&str, &Interface)> {
    let found = f.interfaces.iter().find(|(_, interface)| interface.addresses.contains(&address));
    found.map(|(name, interface)| (name.as_str(), interface))
}

fn links(f: &Facts, s: &Settings, all: &mut Vec<Finding>) {
    let mut out = Out(all, "links");
    let mut bearers: BTreeMap<&str, &str> = BTreeMap::new();
    for link in &s.links {
        let Some((bearer, interface)) = interface_of(f, link.local) else {
            out.bad(
                format!("link {}: no interface of this host has {}", link.name, link.local),
                "give the address to the heartbeat interface, or mend [nodes] in the configuration",
            );
            continue;
        };
        if let Some(other) = bearers.insert(bearer, &link.name) {
            out.warn(
                format!("links {other} and {} ride on one bearer, {bearer}: they fail together", link.name),
                "give each link its own interface, cable and switch",
            );
        }
        if interface.carrier {
            out.ok(format!("link {}: {} on {bearer}, carrier", link.name, link.local));
        } else {
            out.bad(
                format!("link {}: {bearer} has no carrier", link.name),
                "look at the cable and the switch",
            );
        }
    }
    if let Some(tipc) = &s.tipc {
        let tolerance = config::Tipc::tolerance(s.heartbeat.dead_after());
        tipc_bearers(f, tipc, u64::try_from(tolerance.as_millis()).unwrap_or(u64::MAX), &mut out);
    }
    if s.link_names().len() == 1 {
        out.warn(
            "there is one heartbeat link: when it fails, the arbitrator and the wire must decide",
            "add a second, on an interface, cable and switch of its own",
        );
    }
}

/// The kernel against the file: what dre-tipc.service has set up, and what it could not.
fn tipc_bearers(f: &Facts, wanted: &config::Tipc, tolerance_ms: u64, out: &mut Out<'_>) {
    let state = match &f.tipc {
        Tipc::Absent(error) => {
            let (what, remedy) = error.split_once("; ").unwrap_or((error, "install it"));
            out.bad(what, remedy);
            None
        }
        Tipc::Unclear(error) => {
            out.unknown(format!("how TIPC is set up cannot be read: {error}"), "run it as root");
            None
        }
        Tipc::NotAsked => None,
        Tipc::Is(state) if state.address.0 == 0 => {
            out.warn(
                "TIPC of this machine has no address yet: dre-tipc.service gives it one",
                "systemctl start dre; if it runs: systemctl restart dre-tipc",
            );
            None
        }
        Tipc::Is(state) if state.address != wanted.local => {
            out.bad(
                format!(
                    "TIPC of this machine has the address {}, and {} is asked for",
                    state.address, wanted.local
                ),
                AGAIN,
            );
            None
        }
        Tipc::Is(state) if state.network_id != wanted.network_id => {
            out.bad(
                format!(
                    "TIPC of this machine has joined network {}, and {} is asked for",
                    state.network_id, wanted.network_id
                ),
                AGAIN,
            );
            None
        }
        Tipc::Is(state) => {
            out.ok(format!("TIPC: the kernel has address {} in network {}", state.address, state.network_id));
            Some(state)
        }
    };
    for bearer in &wanted.bearers {
        let (name, interface) = (&bearer.name, &bearer.interface);
        let enabled = state.map(|state| state.bearers.iter().find(|(enabled, _)| enabled == interface));
        match (f.interfaces.get(interface), enabled) {
            (None, _) => out.bad(
                format!("link {name}: this host has no {interface}"),
                "mend bearers in [heartbeat.tipc]; when the interface appears its bearer is enabled by itself",
            ),
            (Some(found), _) if !found.carrier => {
                out.bad(format!("link {name}: {interface} has no carrier"), "look at the cable and the switch");
            }
            (Some(_), Some(None)) => out.bad(
                format!("link {name}: TIPC has no bearer on {interface}"),
                "systemctl reload dre-tipc; systemctl status dre-tipc says why if it stays so",
            ),
            (Some(_), Some(Some((_, is)))) if *is != tolerance_ms => out.warn(
                format!(
                    "link {name}: the bearer on {interface} tolerates {is} ms of silence, {tolerance_ms} are asked for"
                ),
                "systemctl reload dre-tipc",
            ),
            (Some(_), Some(Some(_))) => {
                out.ok(format!("link {name}: a TIPC bearer on {interface}, carrier, {tolerance_ms} ms"));
            }
            (Some(_), None) => out.ok(format!("link {name}: {interface} has carrier")),
        }
    }
}

fn arbitrator(f: &Facts, s: &Settings, all: &mut Vec<Finding>) {
    let mut out = Out(all, "arbitrator");
    let Some(arbitrator) = &s.arbitrator else {
        if s.peer.is_some() {
            out.warn(
                "no arbitrator: with all links cut, only the VIPs on the wire tell whether the peer serves",
                "name one device on a neutral network under [arbitrator]",
            );
        }
        return;
    };
    for address in &arbitrator.addresses {
        let source = f.arbitrator_source.get(address).copied().flatten();
        match source.and_then(|source| interface_of(f, source)) {
            Some((name, _)) if name == arbitrator.interface => {
                out.ok(format!("{address} is reached over {name}"));
            }
            Some((name, _)) => out.warn(
                format!("{address} is reached over {name}, not over the neutral {}", arbitrator.interface),
                format!(
                    "dre-vip installs a host route while it runs: systemctl status {}",
                    group::unit("dre-vip", &f.group)
                ),
            ),
            None => out.bad(
                format!("there is no route to {address}"),
                format!("look at the addresses and routes of {}", arbitrator.interface),
            ),
        }
    }
}

fn count_of(count: usize) -> String {
    if count == 1 { "a VIP".into() } else { format!("{count} VIPs") }
}

fn vips(f: &Facts, s: &Settings, all: &mut Vec<Finding>) {
    let mut out = Out(all, "vips");
    let names: BTreeSet<&str> = s.vips.iter().map(|vip| vip.interface.as_str()).collect();
    for name in names {
        let count = count_of(s.vips.iter().filter(|vip| vip.interface == name).count());
        let Some(interface) = f.interfaces.get(name) else {
            out.bad(
                format!("{name}, which carries {count}, does not exist"),
                "mend the interface's name here or in the configuration; the node is unfit until then",
            );
            continue;
        };
        if interface.carrier {
            out.ok(format!("{name} carries {count} and has carrier"));
        } else {
            out.bad(
                format!("{name}, which carries {count}, has no carrier"),
                "look at the cable and the switch; the node is unfit until then",
            );
        }
        match &interface.manager {
            Manager::None => {}
            Manager::Networkd { keeps: true, .. } => {
                out.ok(format!("systemd-networkd manages {name} and leaves foreign addresses alone"));
            }
            Manager::Networkd { keeps: false, file } => out.warn(
                format!(
                    "systemd-networkd manages {name} ({file}) and takes VIPs away when it reconfigures it"
                ),
                format!("KeepConfiguration=yes under [Network] in {file}.d/, then: networkctl reload"),
            ),
            Manager::NetworkManager => out.warn(
                format!("NetworkManager manages {name} and may take VIPs away"),
                format!(
                    "if a connection of its own gives {name} its address, give it elsewhere and delete the connection; then: \
                     systemctl daemon-reload && systemctl reload NetworkManager"
                ),
            ),
        }
    }
}

fn firewall(f: &Facts, s: &Settings, all: &mut Vec<Finding>) {
    let mut out = Out(all, "firewall");
    let port = s.heartbeat.port;
    if s.links.is_empty() {
        return;
    }
    match &f.firewall {
        Firewall::Unknown => out.unknown(
            "the firewall's rules cannot be read",
            format!("run it as root with nft installed; UDP port {port} must be open on the link interfaces"),
        ),
        Firewall::Absent => out.ok("no firewall rules: heartbeats pass"),
        Firewall::Accepts => {
            out.ok(format!("the firewall accepts what no rule drops; keep UDP port {port} out of those"))
        }
        Firewall::Drops { names_port: true } => out.ok(format!("the firewall names UDP port {port}")),
        Firewall::Drops { names_port: false } => out.warn(
            format!("the firewall drops what it does not know, and no rule names UDP port {port}"),
            format!("open it on the link interfaces, both ways: udp dport {port} accept"),
        ),
    }
}

fn services(f: &Facts, s: &Settings, all: &mut Vec<Finding>) {
    let mut out = Out(all, "services");
    if !f.systemd {
        return;
    }
    for unit in s.services.active.iter().chain(&s.services.standby) {
        match f.enabled.get(unit).map(String::as_str) {
            Some("not-found") | None => out.bad(
                format!("{unit} is managed by role, but systemd does not know it"),
                "install it, or take it out of [services]",
            ),
            Some("enabled") => out.bad(
                format!("{unit} is managed by role, but is also started at boot, on both nodes"),
                format!("systemctl disable {unit}"),
            ),
            Some("masked") => out.bad(format!("{unit} is masked"), format!("systemctl unmask {unit}")),
            Some(_) if !f.bound.contains(unit) => out.bad(
                format!("{unit} has no drop-in of dre: nothing stops it when the role goes"),
                "systemctl daemon-reload",
            ),
            Some(_) if f.stop_never.contains(unit) => out.bad(
                format!("{unit} may stop for ever (TimeoutStopSec=infinity): until it has, the role is not free for the peer"),
                format!("give it a limit: systemctl edit {unit}, [Service] TimeoutStopSec=10s"),
            ),
            Some(_) => out.ok(format!("{unit} starts and stops with the role")),
        }
    }
    for unit in &s.services.both {
        match f.enabled.get(unit).map(String::as_str) {
            Some("not-found") | None => {
                out.bad(
                    format!("{unit} shall run on both nodes, but systemd does not know it"),
                    "install it",
                );
            }
            Some(_) => out.ok(format!("{unit} runs on both nodes")),
        }
    }
}

fn clock(f: &Facts, all: &mut Vec<Finding>) {
    let mut out = Out(all, "clock");
    match f.clock_synchronised {
        Some(true) => out.ok("the wall clock is synchronised"),
        Some(false) => out.warn(
            "the wall clock is not synchronised: no decision rests on it, but logs and rules files of the nodes do not compare",
            "timedatectl set-ntp true, or install chrony",
        ),
        None => out.unknown("the kernel does not say whether the clock is synchronised", "timedatectl"),
    }
}

fn sysctl(f: &Facts, all: &mut Vec<Finding>) {
    let mut out = Out(all, "sysctl");
    let shipped = "sysctl --system applies /usr/lib/sysctl.d/50-dre.conf";
    let mut expect = |level: Level, path: &'static str, good: fn(&str) -> bool, why: &str| {
        let name = path.replace('/', ".");
        match f.sysctl.get(path).map(|value| value.trim()) {
            None => out.unknown(format!("{name} cannot be read"), shipped),
            Some(value) if good(value) => out.ok(format!("{name} = {value}")),
            Some(value) => out.add(level, format!("{name} = {value}: {why}"), shipped),
        }
    };
    // Bad, not only to look at: an answer from another interface is one that no gate sees.
    expect(
        Level::Bad,
        ARP_FILTER,
        |v| v == "1",
        "another interface may answer ARP for a VIP, past the gate, while the other node holds it",
    );
    expect(
        Level::Warn,
        PROMOTE,
        |v| v == "1",
        "when a primary address goes, the kernel takes the VIPs of its network along",
    );
    expect(
        Level::Warn,
        PING_RANGE,
        |v| {
            let mut ends = v.split_whitespace().map(|end| end.parse::<u64>().ok());
            matches!((ends.next(), ends.next()), (Some(Some(low)), Some(Some(high))) if low <= high)
        },
        "the arbitrator can be pinged only with CAP_NET_RAW",
    );
}

/// Below `/proc/sys`.
pub const ARP_FILTER: &str = "net/ipv4/conf/all/arp_filter";
pub const PROMOTE: &str = "net/ipv4/conf/all/promote_secondaries";
pub const PING_RANGE: &str = "net/ipv4/ping_group_range";

/// The oldest kernel with all that the gate's program needs.
const KERNEL_LEAST: (u32, u32) = (5, 8);

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

fn gate(f: &Facts, all: &mut Vec<Finding>) {
    let mut out = Out(all, "gate");
    let weak = "VIPs are then bound to the lease by address lifetimes of whole seconds";
    if version(&f.kernel).is_some_and(|version| version < KERNEL_LEAST) {
        let (major, minor) = KERNEL_LEAST;
        out.warn(format!("kernel {} is older than {major}.{minor}; {weak}", f.kernel), "take a newer kernel");
        return;
    }
    match &f.gate {
        Some(Ok(())) => out.ok(format!("kernel {} takes the gate's program", f.kernel)),
        Some(Err(error)) => out.warn(
            format!("the kernel refuses the gate's program ({error}); {weak}"),
            "allow BPF: kernel lockdown, seccomp filters and container limits are the usual causes",
        ),
        None => out.unknown("whether the kernel takes the gate's program was not tried", "run it as root"),
    }
}

fn units(f: &Facts, all: &mut Vec<Finding>) {
    let mut out = Out(all, "units");
    if !f.systemd {
        out.bad("this machine does not run systemd", "dre needs systemd as PID 1");
        return;
    }
    allowed(f, &mut out);
    let dre = group::unit("dre", &f.group);
    for unit in own_units(&f.group) {
        match f.enabled.get(&unit).map(String::as_str) {
            Some("enabled" | "static" | "enabled-runtime" | "indirect") => {
                out.ok(format!("{unit} is enabled"))
            }
            Some("not-found") | None => {
                out.bad(format!("{unit} is not installed"), "install the package dre")
            }
            Some("masked") => out.bad(format!("{unit} is masked"), format!("systemctl unmask {unit}")),
            Some(word) => out.warn(
                format!("{unit} is {word}: after a reboot this node does not come back by itself"),
                format!("systemctl enable {dre}"),
            ),
        }
    }
    match &f.daemon {
        Some(Ok(role)) => out.ok(format!("{dre}.service runs, this node is {role}")),
        Some(Err(error)) => out.warn(error.clone(), format!("systemctl start {dre}")),
        None => {}
    }
}

/// Whether systemd does what dre asks of it: over the bus, and because polkit says that it may.
fn allowed(f: &Facts, out: &mut Out<'_>) {
    let without = "the VIPs move, but no service follows them, and no database server that hangs is ended";
    match (f.bus, f.polkit) {
        (false, _) => {
            out.bad(
                format!("there is no system bus: {without}"),
                "apt install dbus polkitd, or systemctl start dbus.socket",
            );
        }
        (true, false) => out.bad(format!("polkit is not installed: {without}"), "apt install polkitd"),
        (true, true) => out.ok("systemd does what dre asks for: the bus is there, and polkit is installed"),
    }
}

/// What must come back after a reboot.
pub fn own_units(group: &str) -> [String; 3] {
    [("dre", "service"), ("dre", "socket"), ("dre-vip", "service")]
        .map(|(base, suffix)| format!("{}.{suffix}", group::unit(base, group)))
}

/// What the groups of this machine cannot have in common.
pub fn among(groups: &[Settings]) -> Vec<Finding> {
    let error = config::clashes(groups).err();
    let findings = error.iter().flat_map(config::Error::findings);
    let of = |f: &config::Finding| Finding {
        level: Level::Bad,
        name: "groups",
        what: format!("{}: {}", f.what, f.why),
        remedy: f.remedy.clone(),
    };
    findings.map(of).collect()
}

#[cfg(test)]
mod tests;
