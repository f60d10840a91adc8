//! Reads the machine for `drectl check`. Thin: what it means is decided in `preflight`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use dre::config::{self, Settings};
use dre::shell::tipc::{self, tool};
use serde_json::Value;

use crate::client::{Client, Place};
use crate::clock;
use crate::preflight::{
    ARP_FILTER, Facts, Firewall, Interface, Manager, PING_RANGE, PROMOTE, Tipc, own_units,
};

/// Where the bus finds what it can have started.
const SERVICES: [&str; 3] = [
    "/usr/local/share/dbus-1/system-services",
    "/usr/share/dbus-1/system-services",
    "/usr/lib/dbus-1/system-services",
];
const POLKIT: &str = "org.freedesktop.PolicyKit1.service";

pub fn gather(place: &Place) -> Facts {
    let mut facts = Facts {
        group: place.group.clone(),
        host: config::host_name(),
        clock_synchronised: clock::synchronised(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        systemd: Path::new("/run/systemd/system").is_dir(),
        bus: Path::new("/run/dbus/system_bus_socket").exists(),
        polkit: SERVICES.iter().any(|dir| Path::new(dir).join(POLKIT).exists()),
        interfaces: interfaces(),
        daemon: Some(Client::connect(place).and_then(|mut c| c.status()).map(|s| s.role).map_err(|f| f.text)),
        ..Facts::default()
    };
    for path in [ARP_FILTER, PROMOTE, PING_RANGE] {
        if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(path)) {
            facts.sysctl.insert(path, value);
        }
    }
    match config::load_of(&place.group, None) {
        Ok(settings) => {
            let found = settings.check_host(&config::host_facts());
            // What is absent, and the host's own warnings, are findings of their own here; what is left are the file's.
            facts.config_warnings.clone_from(&settings.warnings);
            let found = config::HostFindings { absent: vec![], ..found };
            facts.host_error = found.present().err().map(|error| error.lines());
            look_with(&mut facts, &settings);
            facts.settings = Some(settings);
        }
        Err(error) => facts.config_error = Some(error.lines()),
    }
    let path = config::key_path();
    facts.key = match fs::File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => None,
        _ => Some(config::read_key(&path).map(drop).map_err(|error| error.lines())),
    };
    let root = nix::unistd::geteuid().is_root();
    facts.gate = root.then(|| dre::shell::gate::available().map_err(|error| error.to_string()));
    if facts.systemd {
        let mut units: Vec<String> = own_units(&place.group).into();
        if let Some(s) = &facts.settings {
            units
                .extend(s.services.active.iter().chain(&s.services.standby).chain(&s.services.both).cloned());
        }
        facts.enabled = units.into_iter().map(|unit| (unit.clone(), enabled(&unit))).collect();
    }
    facts
}

fn look_with(facts: &mut Facts, s: &Settings) {
    if s.tipc.is_some() {
        facts.tipc = match tipc::available() {
            Err(error) => Tipc::Absent(error.to_string()),
            Ok(()) => match tool::observe() {
                Ok(state) => Tipc::Is(state),
                Err(failure) => Tipc::Unclear(failure.text().to_owned()),
            },
        };
    }
    if let Some(arbitrator) = &s.arbitrator {
        facts.arbitrator_source = arbitrator.addresses.iter().map(|a| (*a, source_towards(*a))).collect();
    }
    facts.firewall = firewall(s.heartbeat.port);
    facts.stop_never = s.services.active.iter().filter(|unit| stops_never(unit)).cloned().collect();
    facts.bound =
        s.services.active.iter().chain(&s.services.standby).filter(|unit| bound(unit)).cloned().collect();
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The address the kernel would send from; a connected UDP socket asks the routing table and sends nothing.
fn source_towards(address: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((address, 9)).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

fn interfaces() -> BTreeMap<String, Interface> {
    let all = config::host_facts().interfaces;
    all.into_iter()
        .map(|(name, networks)| {
            let addresses = networks.iter().map(ipnet::IpNet::addr).collect();
            let sys = Path::new("/sys/class/net").join(&name);
            let carrier = read(sys.join("carrier")).trim() == "1";
            let index = read(sys.join("ifindex")).trim().to_owned();
            (name, Interface { addresses, carrier, manager: manager(&index) })
        })
        .collect()
}

/// Who else configures the interface with this index, by the state files of both managers.
fn manager(index: &str) -> Manager {
    let device = read(format!("/run/NetworkManager/devices/{index}"));
    if device.lines().any(|line| line == "managed=true" || line == "managed=1") {
        return Manager::NetworkManager;
    }
    let link = read(format!("/run/systemd/netif/links/{index}"));
    let value = |key: &str| link.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    match (value("ADMIN_STATE"), value("NETWORK_FILE")) {
        (Some("configured" | "configuring" | "pending"), Some(file)) => {
            Manager::Networkd { keeps: keeps(file), file: file.to_owned() }
        }
        _ => Manager::None,
    }
}

/// Whether the network file or one of its drop-ins says to keep what is there.
fn keeps(file: &str) -> bool {
    let name = Path::new(file).file_name().unwrap_or_default();
    let mut texts = vec![read(file)];
    for dir in [
        "/usr/lib/systemd/network",
        "/usr/local/lib/systemd/network",
        "/run/systemd/network",
        "/etc/systemd/network",
    ] {
        let mut dropins = Path::new(dir).join(name).into_os_string();
        dropins.push(".d");
        let Ok(entries) = fs::read_dir(dropins) else { continue };
        texts.extend(entries.filter_map(Result::ok).map(|entry| read(entry.path())));
    }
    texts.iter().any(|text| keeps_configuration(text))
}

fn keeps_configuration(text: &str) -> bool {
    let value = text.lines().rev().find_map(|line| line.trim().strip_prefix("KeepConfiguration="));
    matches!(value, Some("yes" | "true" | "1" | "on" | "static"))
}

fn firewall(port: u16) -> Firewall {
    let output = Command::new("nft").args(["-j", "list", "ruleset"]).stderr(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => match serde_json::from_slice(&output.stdout) {
            Ok(rules) => judge(&rules, port),
            Err(_) => Firewall::Unknown,
        },
        _ => Firewall::Unknown,
    }
}

/// What a ruleset, as nft prints it in JSON, does with what no rule names.
fn judge(rules: &Value, port: u16) -> Firewall {
    let all = rules.get("nftables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let input = |chain: &Value| chain.get("hook").and_then(Value::as_str) == Some("input");
    let chains: Vec<&Value> = all.iter().filter_map(|item| item.get("chain")).filter(|c| input(c)).collect();
    if chains.is_empty() {
        return Firewall::Absent;
    }
    if !chains.iter().any(|chain| chain.get("policy").and_then(Value::as_str) == Some("drop")) {
        return Firewall::Accepts;
    }
    let names_port = all.iter().filter_map(|item| item.get("rule")).any(|rule| names(rule, port));
    Firewall::Drops { names_port }
}

/// Whether the number stands anywhere in a rule: alone, in a set, or as an end of a range.
fn names(value: &Value, port: u16) -> bool {
    match value {
        Value::Number(number) => number.as_u64() == Some(port.into()),
        Value::Array(items) => items.iter().any(|item| names(item, port)),
        // A rule's own handle is a number too.
        Value::Object(fields) => fields.iter().any(|(key, item)| key != "handle" && names(item, port)),
        _ => false,
    }
}

fn enabled(unit: &str) -> String {
    let output = Command::new("systemctl").args(["is-enabled", "--", unit]).stderr(Stdio::null()).output();
    match output {
        Ok(output) => match String::from_utf8_lossy(&output.stdout).trim() {
            "" => "not-found".into(),
            word => word.to_owned(),
        },
        Err(_) => "not-found".into(),
    }
}

/// systemd waits for the unit's stop without a limit.
fn stops_never(unit: &str) -> bool {
    let output = Command::new("systemctl")
        .args(["show", "-P", "TimeoutStopUSec", "--", unit])
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == "infinity")
}

/// Whether dre's drop-in for the unit is there, wherever the generator was told to write.
fn bound(unit: &str) -> bool {
    let mut dirs: BTreeSet<&str> = ["/etc/systemd/system", "/run/systemd/system"].into();
    dirs.extend(["/run/systemd/generator", "/run/systemd/generator.early", "/run/systemd/generator.late"]);
    dirs.iter().any(|dir| Path::new(dir).join(format!("{unit}.d/50-dre.conf")).exists())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_ruleset_is_judged_by_its_input_chains() {
        let chain = |policy: &str| json!({ "chain": { "hook": "input", "policy": policy, "handle": 1694 } });
        let rule = |expr: Value| json!({ "rule": { "handle": 1694, "expr": expr } });
        let ruleset = |items: Vec<Value>| json!({ "nftables": items });
        assert_eq!(judge(&ruleset(vec![]), 1694), Firewall::Absent);
        assert_eq!(judge(&ruleset(vec![chain("accept")]), 1694), Firewall::Accepts);
        let other = rule(json!([{ "match": { "right": 22 } }]));
        assert_eq!(judge(&ruleset(vec![chain("drop"), other]), 1694), Firewall::Drops { names_port: false });
        let set = rule(json!([{ "match": { "right": { "set": [22, 1694] } } }]));
        assert_eq!(judge(&ruleset(vec![chain("drop"), set]), 1694), Firewall::Drops { names_port: true });
    }

    #[test]
    fn networkd_keeps_foreign_addresses_when_it_is_told_to() {
        assert!(keeps_configuration("[Network]\nKeepConfiguration=yes\n"));
        assert!(keeps_configuration("KeepConfiguration=static"));
        assert!(!keeps_configuration("[Network]\nDHCP=yes\n"));
        assert!(!keeps_configuration("KeepConfiguration=yes\nKeepConfiguration=no\n"), "the last one holds");
    }

    #[test]
    fn the_way_to_an_own_address_begins_at_it() {
        assert_eq!(source_towards([127, 0, 0, 1].into()), Some([127, 0, 0, 1].into()));
    }
}
