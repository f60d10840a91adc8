//! `drectl config check` and `config show`: the daemon's own reading of the file.

use std::fmt::Write;
use std::time::Duration;

use dre::config::{self, EXIT_CONFIG, Settings};
use serde_json::{Value, json};

use crate::args::FileArgs;
use crate::exit::{Done, Fail};

/// Errors go out with colour; the stream strips it where it is not a terminal. `here`: it must hold on this host as it is
/// now, with its interfaces and addresses.
fn load(args: &FileArgs, here: bool) -> Result<(Settings, Vec<String>), Fail> {
    let loaded = config::load_file(args.file.as_deref()).and_then(|settings| {
        let found = settings.check_host(&config::host_facts());
        if here { found.present() } else { found.lasting() }?;
        let all = settings.warnings.iter().cloned().chain(found.warnings).collect();
        Ok((settings, all))
    });
    loaded.map_err(|error| {
        if args.json {
            anstream::println!("{}", json!({ "ok": false, "errors": error.json(), "warnings": [] }));
        }
        Fail { code: EXIT_CONFIG, text: error.render(true).trim_end().to_owned() }
    })
}

pub fn check(args: &FileArgs) -> Done {
    let (settings, warnings) = load(args, true)?;
    if args.json {
        anstream::println!("{}", json!({ "ok": true, "errors": [], "warnings": warnings }));
        return Ok(());
    }
    for warning in &warnings {
        anstream::println!("warning: {warning}");
    }
    let peer = settings.peer.as_deref().map_or("no peer".into(), |peer| format!("peer {peer}"));
    anstream::println!(
        "the configuration holds: node {}, {peer}, {} links, {} VIPs, lost after {} ms",
        settings.node,
        settings.link_names().len(),
        settings.vips.len(),
        ms(settings.heartbeat.dead_after())
    );
    Ok(())
}

pub fn show(args: &FileArgs) -> Done {
    let (settings, _) = load(args, false)?;
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
            "startup_hold_ms": ms(s.election.startup_hold), "first": s.is_first(),
        },
        "digest": hex(&s.digest),
        "derived": derived,
    })
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
    writeln!(out, "failback = {}\nstartup_hold_ms = {}", s.election.failback, ms(s.election.startup_hold))?;
    let first = if s.is_first() { "this one" } else { "the peer" };
    writeln!(out, "# when both nodes are free, the role goes to {first}")?;
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
    fn the_json_carries_the_same() {
        let value = as_json(&settings());
        assert_eq!(value["derived"]["lease_ms"], json!(493.0));
        assert_eq!(value["vips"][0]["address"], json!("172.16.9.61/24"));
        assert_eq!(value["election"]["first"], json!(false));
        assert_eq!(value["digest"].as_str().map(str::len), Some(64));
    }
}
