//! The default timing: what peace costs, and what load may not do. Root; see tests/lab.

mod lab;
mod product;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::node::Node;
use product::{Pair, beside, configuration, cpu, demanded, outage_ms};

fn resident_kb(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

#[test]
fn peace_is_cheap() -> Result<()> {
    let pair = Pair::start(&configuration(100, 5, ""))?;
    std::thread::sleep(Duration::from_secs(2));
    let daemons: Vec<(&Node, &str, i32)> = pair
        .lab
        .nodes()
        .into_iter()
        .flat_map(|n| ["dre", "dre-vip"].map(|unit| (n, unit)))
        .map(|(n, unit)| Ok((n, unit, n.main_pid(unit)?)))
        .collect::<Result<_>>()?;
    let before: Vec<Duration> = daemons.iter().map(|(_, _, pid)| cpu(*pid)).collect::<Result<_>>()?;
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(20));
    let passed = begun.elapsed();
    for ((node, unit, pid), before) in daemons.iter().zip(before) {
        let share = (cpu(*pid)? - before).as_secs_f64() / passed.as_secs_f64() * 100.0;
        let kb = resident_kb(*pid)?;
        println!(
            "FIGURE {unit} on {}: {share:.2} % of a core, {}; {kb} kB resident, {}",
            node.name,
            beside(share, demanded::CPU_PERCENT, "%"),
            beside(kb as f64, demanded::RESIDENT_KB, "kB")
        );
        ensure!(kb < 20_000 && share < 5.0, "{unit} on {}: {share:.2} %, {kb} kB", node.name);
    }
    Ok(())
}

/// Every core busy, memory in motion: no role change. `DRE_LOAD_SECONDS=600` for the ten minutes of the figures.
#[test]
fn a_loaded_machine_changes_no_role() -> Result<()> {
    let seconds: u64 = std::env::var("DRE_LOAD_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let pair = Pair::start(&configuration(100, 5, ""))?;
    let before = pair.active()?.name;
    let terms: Vec<String> = pair
        .lab
        .nodes()
        .into_iter()
        .map(|n| n.run(&["drectl", "status", "--json"]))
        .collect::<Result<_>>()?;
    let seen = pair.judged(Duration::ZERO, || {
        for node in pair.lab.nodes() {
            let hogs = "for n in 1 2 3 4; do timeout SECS sh -c 'while :; do :; done' & done; timeout SECS sh -c 'while :; do head -c 200M /dev/zero | tail -c 1 > /dev/null; done' & wait";
            node.run_for(&["systemd-run", "-q", "--unit=hog", "sh", "-c", &hogs.replace("SECS", &seconds.to_string())], Duration::from_secs(10))?;
        }
        std::thread::sleep(Duration::from_secs(seconds));
        Ok(())
    })?;
    println!(
        "FIGURE {seconds} s of load: outage {:.1} ms, judge blind {:.1?}",
        outage_ms(&seen),
        seen.blind()
    );
    for node in pair.lab.nodes() {
        // The hogs were there.
        ensure!(
            node.sh("systemctl show -P CPUUsageNSec hog.service")?.trim() != "0",
            "no load on {}",
            node.name
        );
    }
    ensure!(pair.active()?.name == before, "the role moved under load");
    let term = |json: &str| {
        json.split("\"term\":").nth(1).and_then(|t| t.split(',').next()).unwrap_or("?").to_owned()
    };
    for (node, was) in pair.lab.nodes().into_iter().zip(terms) {
        let is = node.run(&["drectl", "status", "--json"])?;
        ensure!(
            term(&is) == term(&was),
            "{}: term {} became {}\n{}",
            node.name,
            term(&was),
            term(&is),
            pair.journals()
        );
    }
    Ok(())
}
