//! What must be the same on both nodes, as numbers to compare.

use sha2::{Digest, Sha256};

use super::Database;
use super::check::FAILBACK_HOLD_S;
use super::raw::{At, Raw, Tipc};

fn tipc(tipc: &At<Tipc>) -> String {
    let bearers: Vec<_> =
        tipc.value.bearers.iter().map(|(link, interface)| format!("{link}={}", interface.value)).collect();
    format!("{:?}:{}", tipc.value.network_id.as_ref().map(|id| id.value), bearers.join(","))
}

/// (whole, per section of [`super::SECTIONS`]). Comments, order of keys and of VIPs do not matter; every value does.
pub fn of(
    raw: &Raw,
    group: &str,
    timing: (u64, u64, u64, u64),
    failback_hold_s: u64,
    database: Option<&Database>,
) -> ([u8; 32], [u32; 8]) {
    let mut nodes: Vec<String> = vec![];
    for (name, node) in &raw.nodes {
        let links: Vec<_> = node.links.iter().map(|(link, at)| format!("{link}={}", at.value)).collect();
        nodes.push(format!("{name}:{:?}:{}", node.tipc.as_ref().map(|t| &t.value), links.join(",")));
    }
    let (interval, missed, port, hold) = timing;
    let transport = raw.transport.as_ref().map_or("udp", |t| t.value.as_str());
    let mut arbitrators: Vec<String> =
        raw.arbitrators.iter().flat_map(|a| a.value.iter().map(|x| x.value.to_string())).collect();
    arbitrators.sort();
    let mut vips: Vec<String> = raw
        .vips
        .iter()
        .map(|v| {
            let label = v.label.as_ref().map(|l| &l.value);
            let broadcast = v.broadcast.as_ref().map(|b| b.value);
            let style = v.style.as_ref().map_or("auto", |s| s.value.as_str());
            format!("{}@{}:{label:?}:{broadcast:?}:{style}", v.address.value, v.interface.value)
        })
        .collect();
    vips.sort();
    let names = |list: &Option<Vec<super::raw::At<String>>>| {
        let mut names: Vec<_> = list.iter().flatten().map(|at| at.value.clone()).collect();
        names.sort();
        names.join(",")
    };
    let sections: [String; 8] = [
        nodes.join(";"),
        format!("{transport}:{interval}:{missed}:{port}"),
        raw.tipc.as_ref().map(tipc).unwrap_or_default(),
        format!("{}@{:?}", arbitrators.join(","), raw.arbitrator_interface.as_ref().map(|i| &i.value)),
        vips.join(";"),
        // What is not there, or is as it is without a word, adds nothing: a node of a release that does not know it agrees.
        format!(
            "{}|{}|{}{}",
            names(&raw.active),
            names(&raw.standby),
            names(&raw.both),
            database.map(|database| format!("|{}", database.canonical())).unwrap_or_default()
        ),
        format!(
            "{:?}:{}:{hold}{}",
            raw.preferred.as_ref().map(|p| &p.value),
            raw.failback.as_ref().is_some_and(|f| f.value),
            if failback_hold_s == FAILBACK_HOLD_S { String::new() } else { format!(":{failback_hold_s}") }
        ),
        group.to_owned(),
    ];
    let mut whole = Sha256::new();
    whole.update(b"dre configuration v1\n");
    let mut short = [0; 8];
    for (n, section) in sections.iter().enumerate() {
        let digest = Sha256::digest(section.as_bytes());
        short[n] = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        whole.update(digest);
    }
    (whole.finalize().into(), short)
}
