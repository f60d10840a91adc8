//! `drectl config check` and `config show`: the daemons' own reading of the files.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use dre::config::sync::{self, Sync};
use dre::config::{self, Database, Durability, EXIT_CONFIG, Error, RelayLost, Settings};
use dre::logic::group::PLAIN;
use serde_json::{Value, json};

use crate::args::FileArgs;
use crate::exit::{Done, Fail};

/// The groups that `drectl` shows where none is named; a machine without any file has group dre to be set up.
pub fn all_groups() -> Vec<String> {
    let all = config::groups();
    if all.is_empty() { vec![PLAIN.into()] } else { all }
}

/// The group that is meant where none is named: the only one, else dre.
pub fn usual_group() -> String {
    match all_groups().as_slice() {
        [only] => only.clone(),
        _ => PLAIN.into(),
    }
}

/// The same for a file named by hand: a group's that is called like it, whatever follows (`mysql.toml.new`).
fn group_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let called = name.split('.').next().unwrap_or_default();
    config::groups().into_iter().find(|group| group == called).unwrap_or_else(usual_group)
}

/// Errors go out with colour; the stream strips it where it is not a terminal.
fn failed(args: &FileArgs, errors: &[Error]) -> Fail {
    if args.json {
        let all: Vec<_> = errors.iter().flat_map(Error::json).collect();
        anstream::println!("{}", json!({ "ok": false, "errors": all, "warnings": [] }));
    }
    let texts: Vec<String> = errors.iter().map(|error| error.render(true).trim_end().to_owned()).collect();
    Fail { code: EXIT_CONFIG, text: texts.join("\n") }
}

/// `here`: it must hold on this host as it is now, with its interfaces and addresses.
fn load(group: &str, file: Option<&Path>, here: bool) -> Result<(Settings, Vec<String>), Error> {
    let settings = config::load_of(group, file)?;
    let found = settings.check_host(&config::host_facts());
    if here { found.present() } else { found.lasting() }?;
    let all = settings.warnings.iter().cloned().chain(found.warnings).collect();
    Ok((settings, all))
}

/// The same of `sync.toml`, for this pair.
fn load_sync(file: &Path, pair: &Settings) -> Result<(Sync, Vec<String>), Error> {
    let sync = sync::load_file(file, pair)?;
    let (warnings, verdict) = sync.check_host();
    verdict?;
    let all = sync.warnings.iter().cloned().chain(warnings).collect();
    Ok((sync, all))
}

/// Which dre.toml and which sync.toml are meant: a file called `sync.toml…` is one, whatever else it is not.
fn meant(file: Option<&Path>) -> (Option<&Path>, std::path::PathBuf) {
    let is_sync =
        |file: &&Path| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sync.toml"));
    match file {
        Some(file) if is_sync(&file) => (None, file.to_owned()),
        Some(file) => (Some(file), sync::beside(file)),
        None => (None, sync::locate()),
    }
}

/// `named`: the group that was named; without one and without a file all of them.
pub fn check(args: &FileArgs, named: Option<&str>) -> Done {
    let (file, sync_file) = meant(args.file.as_deref());
    // Asked about a sync.toml, whether this host has the heartbeats' addresses now is another question.
    let only_sync = args.file.as_deref() == Some(sync_file.as_path());
    let groups = match (named, file) {
        (Some(group), _) => vec![group.to_owned()],
        (None, Some(file)) => vec![group_of(file)],
        (None, None) if only_sync => vec![PLAIN.to_owned()],
        (None, None) => all_groups(),
    };
    let (mut held, mut errors) = (vec![], vec![]);
    let mut warnings = if named.is_none() && args.file.is_none() { config::no_groups() } else { vec![] };
    for group in &groups {
        match load(group, file, !only_sync) {
            Ok((settings, more)) => {
                let of =
                    |text: String| if groups.len() > 1 { format!("group {group}: {text}") } else { text };
                warnings.extend(more.into_iter().map(of));
                held.push(settings);
            }
            Err(error) => errors.push(error),
        }
    }
    // What was asked about is there, beside all that is in force.
    let others = config::groups().into_iter().filter(|group| !groups.contains(group));
    let others = others.filter_map(|group| config::load_of(&group, None).ok());
    let all: Vec<Settings> = held.iter().cloned().chain(others).collect();
    errors.extend(config::clashes(&all).err());
    // No sync.toml is a pair without rules files; one that was named must be there.
    let pair = held.iter().find(|settings| settings.group == PLAIN);
    let sync = pair
        .filter(|_| only_sync || sync_file.exists())
        .and_then(|pair| load_sync(&sync_file, pair).map_err(|error| errors.push(error)).ok());
    if !errors.is_empty() {
        return Err(failed(args, &errors));
    }
    let sync = sync.map(|(sync, more)| {
        warnings.extend(more);
        sync
    });
    if args.json {
        anstream::println!("{}", json!({ "ok": true, "errors": [], "warnings": warnings }));
        return Ok(());
    }
    for warning in &warnings {
        anstream::println!("warning: {warning}");
    }
    for settings in &held {
        let of = if groups.len() > 1 { format!(" of group {}", settings.group) } else { String::new() };
        let peer = settings.peer.as_deref().map_or("no peer".into(), |peer| format!("peer {peer}"));
        anstream::println!(
            "the configuration{of} holds: node {}, {peer}, {} links, {} VIPs, lost after {} ms",
            settings.node,
            settings.link_names().len(),
            settings.vips.len(),
            ms(settings.heartbeat.dead_after())
        );
    }
    if let Some(sync) = sync {
        let names: Vec<&str> = sync.sets.iter().map(|set| set.name.as_str()).collect();
        anstream::println!(
            "the rules files' configuration holds: {}; {}",
            names.join(", "),
            if sync.encrypt { "content encrypted" } else { "content in the clear" }
        );
    }
    Ok(())
}

pub fn show(args: &FileArgs, named: Option<&str>) -> Done {
    let file = args.file.as_deref();
    let group = named.map_or_else(|| file.map_or_else(usual_group, group_of), str::to_owned);
    let (settings, _) = load(&group, file, false).map_err(|error| failed(args, &[error]))?;
    if args.json {
        anstream::println!("{}", as_json(&settings));
    } else {
        anstream::print!("{}", as_text(&settings));
    }
    Ok(())
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What follows from the settings, in milliseconds: name, value, meaning.
fn derived(s: &Settings) -> [(&'static str, f64, &'static str); 5] {
    let (d, guard) = (s.heartbeat.dead_after(), s.heartbeat.guard());
    [
        ("suspect_after_ms", ms(d / 2), "silence on every link: evidence is gathered"),
        ("dead_after_ms", ms(d), "D: silence on every link: the peer is lost, a standby may claim"),
        ("guard_ms", ms(guard), "what a lease ends before D"),
        ("lease_ms", ms(d.saturating_sub(guard)), "D - guard, from the sending of an acknowledged heartbeat"),
        ("ping_budget_ms", ms(d / 2), "an arbitrator must answer within D/2"),
    ]
}

fn as_json(s: &Settings) -> Value {
    let derived: serde_json::Map<String, Value> =
        derived(s).into_iter().map(|(name, value, _)| (name.to_owned(), json!(value))).collect();
    json!({
        "group": s.group, "node": s.node, "peer": s.peer, "standalone": s.standalone,
        "tipc": s.tipc.as_ref().map(|t| json!({
            "network_id": t.network_id, "local": t.local.to_string(), "peer": t.peer.map(|p| p.to_string()),
            "bearers": t.bearers.iter().map(|b| json!({ "name": b.name, "interface": b.interface })).collect::<Vec<_>>(),
        })),
        "links": s.links.iter().map(|l| json!({ "name": l.name, "local": l.local, "peer": l.peer })).collect::<Vec<_>>(),
        "heartbeat": {
            "interval_ms": ms(s.heartbeat.interval), "missed_max": s.heartbeat.missed_max, "port": s.heartbeat.port,
        },
        "arbitrator": s.arbitrator.as_ref().map(|a| json!({ "addresses": a.addresses, "interface": a.interface })),
        "vips": s.vips.iter().map(|v| json!({
            "address": v.address, "interface": v.interface, "label": v.label, "broadcast": v.broadcast,
        })).collect::<Vec<_>>(),
        "services": { "active": s.services.active, "standby": s.services.standby, "both": s.services.both },
        "election": {
            "preferred": s.election.preferred, "failback": s.election.failback,
            "failback_hold_s": s.election.failback_hold.as_secs(),
            "startup_hold_ms": ms(s.election.startup_hold), "first": s.is_first(),
        },
        "database": s.database.as_ref().map(|d| json!({
            "unit": d.unit, "socket": d.socket, "port": d.port, "agent_port": d.agent_port,
            "durability": durability(d), "max_lag_s": d.max_lag.as_secs(), "relay_wait_s": d.relay_wait.as_secs(),
            "on_relay_lost": on_relay_lost(d), "keep_users": d.keep_users,
        })),
        "digest": hex(&s.digest),
        "derived": derived,
    })
}

const fn durability(d: &Database) -> &'static str {
    match d.durability {
        Durability::Available => "available",
        Durability::Strict => "strict",
    }
}

const fn on_relay_lost(d: &Database) -> &'static str {
    match d.on_relay_lost {
        RelayLost::Promote => "promote",
        RelayLost::Block => "block",
    }
}

fn as_text(s: &Settings) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, s);
    out
}

fn write_text(out: &mut String, s: &Settings) -> std::fmt::Result {
    writeln!(out, "# The effective settings of group {}, as this node reads them", s.group)?;
    writeln!(out, "node = {:?}", s.node)?;
    if let Some(peer) = &s.peer {
        writeln!(out, "peer = {peer:?}")?;
    }
    if s.standalone {
        writeln!(out, "standalone = true")?;
    }
    for link in &s.links {
        writeln!(out, "\n[links.{}]\nlocal = \"{}\"\npeer = \"{}\"", link.name, link.local, link.peer)?;
    }
    if let Some(tipc) = &s.tipc {
        let peer = tipc.peer.map(|peer| format!("\npeer = \"{peer}\"")).unwrap_or_default();
        let bearers: Vec<_> =
            tipc.bearers.iter().map(|b| format!("{} = {:?}", b.name, b.interface)).collect();
        writeln!(
            out,
            "\n[heartbeat.tipc]\nnetwork_id = {}\nlocal = \"{}\"{peer}\nbearers = {{ {} }}",
            tipc.network_id,
            tipc.local,
            bearers.join(", ")
        )?;
    }
    let h = &s.heartbeat;
    writeln!(
        out,
        "\n[heartbeat]\ninterval_ms = {}\nmissed_max = {}\nport = {}",
        ms(h.interval),
        h.missed_max,
        h.port
    )?;
    if let Some(a) = &s.arbitrator {
        let list: Vec<String> = a.addresses.iter().map(|a| format!("\"{a}\"")).collect();
        writeln!(out, "\n[arbitrator]\naddresses = [{}]\ninterface = {:?}", list.join(", "), a.interface)?;
    }
    for vip in &s.vips {
        writeln!(out, "\n[[vip]]\naddress = \"{}\"\ninterface = {:?}", vip.address, vip.interface)?;
        if let Some(label) = &vip.label {
            writeln!(out, "label = {label:?}")?;
        }
        if let Some(broadcast) = &vip.broadcast {
            writeln!(out, "broadcast = \"{broadcast}\"")?;
        }
    }
    let v = &s.services;
    writeln!(out, "\n[services]\nactive = {:?}\nstandby = {:?}\nboth = {:?}", v.active, v.standby, v.both)?;
    writeln!(out, "\n[election]")?;
    if let Some(preferred) = &s.election.preferred {
        writeln!(out, "preferred = {preferred:?}")?;
    }
    writeln!(
        out,
        "failback = {}\nfailback_hold_s = {}\nstartup_hold_ms = {}",
        s.election.failback,
        s.election.failback_hold.as_secs(),
        ms(s.election.startup_hold)
    )?;
    let first = if s.is_first() { "this one" } else { "the peer" };
    writeln!(out, "# when both nodes are free, the role goes to {first}")?;
    if let Some(d) = &s.database {
        writeln!(
            out,
            "\n[database]\nunit = {:?}\nsocket = {:?}\nport = {}\nagent_port = {}",
            d.unit, d.socket, d.port, d.agent_port
        )?;
        writeln!(
            out,
            "durability = {:?}\nmax_lag_s = {}\nrelay_wait_s = {}\non_relay_lost = {:?}\nkeep_users = {:?}",
            durability(d),
            d.max_lag.as_secs(),
            d.relay_wait.as_secs(),
            on_relay_lost(d),
            d.keep_users
        )?;
    }
    writeln!(out, "\n# Derived; nothing of it can be set")?;
    for (name, value, meaning) in derived(s) {
        writeln!(out, "# {name:<17} {value:>7}  {meaning}")?;
    }
    writeln!(out, "# digest {}: the same on both nodes, or an alarm names the section", &hex(&s.digest)[..16])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const FILE: &str = r#"
[nodes.hadev1]
links = { primary = "172.16.11.54" }
[nodes.hadev2]
links = { primary = "172.16.11.55" }
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "172.16.9.61/24"
interface = "eth1"
[election]
preferred = "hadev1"
"#;

    fn settings() -> Settings {
        config::parse(&[(PathBuf::from("dre.toml"), FILE.into())], "dre", "hadev2", false).expect("holds")
    }

    #[test]
    fn what_is_shown_is_toml_and_names_what_is_derived() {
        let text = as_text(&settings());
        assert!(text.parse::<toml::Table>().is_ok(), "{text}");
        for line in [
            "node = \"hadev2\"",
            "interval_ms = 100",
            "# dead_after_ms         500  D:",
            "# guard_ms                7  what",
            "# lease_ms              493  D - guard",
            "# when both nodes are free, the role goes to the peer",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_database_is_shown_as_it_is_written() {
        let text = format!(
            "{FILE}failback = true\nfailback_hold_s = 60\n[database]\ndurability = \"strict\"\nkeep_users = [\"mon\"]\n"
        );
        let sources = [(PathBuf::from("mysql.toml"), text)];
        let settings = config::parse(&sources, "mysql", "hadev2", false).expect("holds");
        let shown = as_text(&settings);
        let table: toml::Table = shown.parse().expect("TOML");
        assert_eq!(table["database"]["durability"].as_str(), Some("strict"), "{shown}");
        assert_eq!(table["database"]["socket"].as_str(), Some("/run/mysqld/mysqld.sock"), "{shown}");
        assert_eq!(table["election"]["failback_hold_s"].as_integer(), Some(60), "{shown}");
        let value = as_json(&settings);
        assert_eq!((&value["group"], &value["database"]["keep_users"]), (&json!("mysql"), &json!(["mon"])));
        assert_eq!(value["database"]["relay_wait_s"], json!(60));
    }

    #[test]
    fn a_file_is_taken_for_what_it_is_called() {
        for (file, dre, sync) in [
            ("/x/dre.toml.new", Some("/x/dre.toml.new"), "/x/sync.toml"),
            ("/x/sync.toml.new", None, "/x/sync.toml.new"),
            ("avamgr.cfg", Some("avamgr.cfg"), "sync.toml"),
        ] {
            assert_eq!(meant(Some(Path::new(file))), (dre.map(Path::new), PathBuf::from(sync)), "{file}");
        }
    }

    #[test]
    fn the_json_carries_the_same() {
        let value = as_json(&settings());
        assert_eq!(value["derived"]["lease_ms"], json!(493.0));
        assert_eq!(value["vips"][0]["address"], json!("172.16.9.61/24"));
        assert_eq!(value["election"]["first"], json!(false));
        assert_eq!(value["digest"].as_str().map(str::len), Some(64));
    }
}
