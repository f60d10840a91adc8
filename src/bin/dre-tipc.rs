//! dre-tipc (`dre-tipc.service`): brings TIPC up as `dre.toml` says: network id, address, bearers, tolerance.
//!
//! It asks iproute2's `tipc` and not the kernel's netlink itself: an operator can type the same lines, they are in the
//! journal as they were run, and nothing here is in a hurry. What is already so is left alone; what this machine's
//! kernel took once (network id, address) and is otherwise is an error that says how to get out of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use dre::config::{self, Tipc, TipcAddress};
use dre::shell::tipc;

/// TIPC for dre: what dre-tipc.service runs.
#[derive(Parser)]
#[command(
    name = "dre-tipc",
    version,
    after_help = "Examples:\n  dre-tipc show\n  systemctl reload dre-tipc   # after a change of [heartbeat.tipc]"
)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Sets what dre.toml asks for and is not so yet.
    Up,
    /// Disables the bearers that `up` enabled, and no others.
    Down,
    /// What is, and what `up` would do.
    Show,
}

/// TIPC on this machine.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct State {
    network_id: u32,
    /// 0: none yet.
    address: u32,
    /// Interfaces of enabled Ethernet bearers, with their tolerance in ms.
    bearers: Vec<(String, u64)>,
}

/// What there is to do: command lines of `tipc`, and what cannot be done (now).
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    steps: Vec<Vec<String>>,
    /// Interfaces whose bearer a step enables.
    enables: Vec<String>,
    troubles: Vec<String>,
}

fn line(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// `ours`: interfaces that an earlier run enabled.
fn plan(
    state: &State,
    wanted: &Tipc,
    tolerance_ms: u64,
    interfaces: &BTreeSet<String>,
    ours: &BTreeSet<String>,
) -> Plan {
    let mut plan = Plan::default();
    let fresh = state.address == 0;
    if state.network_id != wanted.network_id {
        if fresh {
            plan.steps.push(line(&["node", "set", "netid", &wanted.network_id.to_string()]));
        } else {
            plan.troubles.push(format!(
                "TIPC of this machine has joined network {}, and {} is asked for: the kernel takes a network id only before the \
                 address; stop what uses TIPC, then: modprobe -r tipc && systemctl restart dre-tipc dre; or reboot",
                state.network_id, wanted.network_id
            ));
        }
    }
    if fresh {
        plan.steps.push(line(&["node", "set", "address", &wanted.local.to_string()]));
    } else if state.address != wanted.local.0 {
        plan.troubles.push(format!(
            "TIPC of this machine has the address {}, and {} is asked for: the kernel takes an address once; stop what uses \
             TIPC, then: modprobe -r tipc && systemctl restart dre-tipc dre; or reboot",
            TipcAddress(state.address),
            wanted.local
        ));
    }
    // Bearers of another network or address would speak to the wrong ones.
    if !plan.troubles.is_empty() {
        plan.steps.clear();
        return plan;
    }
    for interface in ours.iter().filter(|i| !wanted.bearers.iter().any(|b| b.interface == **i)) {
        if state.bearers.iter().any(|(enabled, _)| enabled == interface) {
            plan.steps.push(line(&["bearer", "disable", "media", "eth", "device", interface]));
        }
    }
    let tolerance = tolerance_ms.to_string();
    for bearer in &wanted.bearers {
        let interface = bearer.interface.as_str();
        let enabled = state.bearers.iter().find(|(enabled, _)| enabled == interface);
        if enabled.is_none() && !interfaces.contains(interface) {
            plan.troubles.push(format!(
                "link {}: this machine has no {interface} (now); it is tried again every few seconds",
                bearer.name
            ));
            continue;
        }
        if enabled.is_none() {
            plan.steps.push(line(&["bearer", "enable", "media", "eth", "device", interface]));
            plan.enables.push(interface.to_owned());
        }
        // A tolerance given with `enable` is taken and ignored by the kernel.
        if enabled.is_none_or(|(_, is)| *is != tolerance_ms) {
            plan.steps.push(line(&[
                "bearer",
                "set",
                "tolerance",
                &tolerance,
                "media",
                "eth",
                "device",
                interface,
            ]));
        }
    }
    plan
}

/// Runs iproute2's `tipc`; its output, or what it said.
fn run(words: &[String]) -> Result<String, String> {
    let spoken = format!("tipc {}", words.join(" "));
    let out = Command::new("tipc").args(words).output().map_err(|error| {
        format!("cannot run {spoken:?}: {error}; the command comes with the package iproute2")
    })?;
    let words = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(format!("{spoken:?} failed: {}", if words.is_empty() { out.status.to_string() } else { words }))
}

fn ask(words: &[&str]) -> Result<String, String> {
    run(&line(words))
}

/// "1001017" as `tipc node get address` prints it: hexadecimal, without a prefix.
fn address(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim(), 16).ok()
}

/// "eth:eth3" lines of `tipc bearer list`.
fn bearers(text: &str) -> Vec<String> {
    text.lines().filter_map(|l| l.trim().strip_prefix("eth:")).map(str::to_owned).collect()
}

fn observe() -> Result<State, String> {
    let number = |text: String, what: &str| {
        let unclear = || format!("{what} is not understood: {:?}", text.trim());
        text.trim().parse::<u64>().map_err(|_| unclear())
    };
    let network_id = u32::try_from(number(ask(&["node", "get", "netid"])?, "the network id")?).unwrap_or(0);
    let shown = ask(&["node", "get", "address"])?;
    let address =
        address(&shown).ok_or_else(|| format!("the address is not understood: {:?}", shown.trim()))?;
    let mut state = State { network_id, address, bearers: vec![] };
    for interface in bearers(&ask(&["bearer", "list"])?) {
        let tolerance = ask(&["bearer", "get", "tolerance", "media", "eth", "device", &interface])?;
        state.bearers.push((interface, number(tolerance, "the tolerance")?));
    }
    Ok(state)
}

fn interfaces() -> BTreeSet<String> {
    let all = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What this service enabled since boot: one interface a line.
fn memory() -> PathBuf {
    let directory =
        std::env::var_os("RUNTIME_DIRECTORY").map_or_else(|| "/run/dre-tipc".into(), PathBuf::from);
    directory.join("bearers")
}

fn remembered(file: &Path) -> BTreeSet<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn remember(file: &Path, ours: &BTreeSet<String>) -> Result<(), String> {
    let text: String = ours.iter().map(|i| format!("{i}\n")).collect();
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

fn up(wanted: &Tipc, tolerance_ms: u64) -> Result<(), String> {
    let file = memory();
    let mut ours = remembered(&file);
    let plan = plan(&observe()?, wanted, tolerance_ms, &interfaces(), &ours);
    ours.retain(|interface| wanted.bearers.iter().any(|b| b.interface == *interface));
    ours.extend(plan.enables.iter().cloned());
    // Before the deed: what is enabled and then not written down would never be undone.
    remember(&file, &ours)?;
    for step in &plan.steps {
        println!("tipc {}", step.join(" "));
        run(step)?;
    }
    if plan.troubles.is_empty() { Ok(()) } else { Err(plan.troubles.join("\n")) }
}

fn down() -> Result<(), String> {
    let file = memory();
    let ours = remembered(&file);
    let enabled = bearers(&ask(&["bearer", "list"])?);
    for interface in ours.iter().filter(|i| enabled.contains(i)) {
        println!("tipc bearer disable media eth device {interface}");
        ask(&["bearer", "disable", "media", "eth", "device", interface])?;
    }
    remember(&file, &BTreeSet::new())
}

fn show(wanted: &Tipc, tolerance_ms: u64) -> Result<(), String> {
    let state = observe()?;
    let plan = plan(&state, wanted, tolerance_ms, &interfaces(), &remembered(&memory()));
    let mut text = format!("network id {}, address {}\n", state.network_id, TipcAddress(state.address));
    for (interface, tolerance) in &state.bearers {
        let _ = writeln!(text, "bearer {interface}, tolerance {tolerance} ms");
    }
    for step in &plan.steps {
        let _ = writeln!(text, "to do: tipc {}", step.join(" "));
    }
    for trouble in &plan.troubles {
        let _ = writeln!(text, "trouble: {trouble}");
    }
    print!("{text}");
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse();
    if matches!(args.action, Action::Down) {
        // Whatever the configuration says by now.
        return finish(down());
    }
    let settings = match config::load() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{}", error.lines());
            return ExitCode::from(config::EXIT_CONFIG);
        }
    };
    let Some(wanted) = &settings.tipc else {
        println!("dre-tipc: the heartbeats' transport is not TIPC: nothing to do");
        return ExitCode::SUCCESS;
    };
    if let Err(error) = tipc::available() {
        eprintln!("<3>dre-tipc: {error}");
        return ExitCode::FAILURE;
    }
    let dead_after = settings.heartbeat.dead_after();
    let tolerance = Tipc::tolerance(dead_after);
    if tolerance != dead_after / 2 {
        println!(
            "dre-tipc: a link's tolerance would be D/2, and the kernel takes 50 ms to 30 s: {} ms for D = {} ms; a single link's loss \
             is seen after that, the peer's loss after D all the same",
            tolerance.as_millis(),
            dead_after.as_millis()
        );
    }
    let tolerance_ms = u64::try_from(tolerance.as_millis()).unwrap_or(u64::MAX);
    match args.action {
        Action::Up => finish(up(wanted, tolerance_ms)),
        Action::Show | Action::Down => finish(show(wanted, tolerance_ms)),
    }
}

fn finish(done: Result<(), String>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            for line in text.lines() {
                eprintln!("<3>dre-tipc: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dre::config::Bearer;

    fn wanted() -> Tipc {
        let bearer = |name: &str, interface: &str| Bearer { name: name.into(), interface: interface.into() };
        Tipc {
            network_id: 1983,
            local: TipcAddress(0x0100_1017),
            peer: Some(TipcAddress(0x0100_101d)),
            bearers: vec![bearer("primary", "eth3"), bearer("secondary", "eth4")],
        }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn steps(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(|s| s.join(" ")).collect()
    }

    #[test]
    fn a_fresh_machine_gets_all_of_it_and_then_nothing_more() {
        let fresh = State { network_id: 4711, address: 0, bearers: vec![] };
        let first = plan(&fresh, &wanted(), 50, &set(&["eth3", "eth4"]), &set(&[]));
        assert_eq!(
            steps(&first),
            [
                "node set netid 1983",
                "node set address 1.1.23",
                "bearer enable media eth device eth3",
                "bearer set tolerance 50 media eth device eth3",
                "bearer enable media eth device eth4",
                "bearer set tolerance 50 media eth device eth4",
            ]
        );
        assert_eq!(first.enables, ["eth3", "eth4"]);
        let bearers = vec![("eth3".to_owned(), 50), ("eth4".to_owned(), 50)];
        let done = State { network_id: 1983, address: 0x0100_1017, bearers };
        assert_eq!(plan(&done, &wanted(), 50, &set(&["eth3", "eth4"]), &set(&["eth3"])), Plan::default());
    }

    #[test]
    fn what_the_kernel_took_once_is_an_error_and_nothing_is_done() {
        for (network_id, address, words) in
            [(4711, 0x0100_1017, "joined network 4711"), (1983, 0x0100_1018, "the address 1.1.24")]
        {
            let other = State { network_id, address, bearers: vec![] };
            let plan = plan(&other, &wanted(), 50, &set(&["eth3", "eth4"]), &set(&[]));
            assert!(plan.steps.is_empty() && plan.troubles.len() == 1, "{plan:?}");
            assert!(plan.troubles[0].contains(words) && plan.troubles[0].contains("modprobe -r tipc"));
        }
    }

    #[test]
    fn a_missing_interface_does_not_keep_the_other_down_and_only_ours_is_taken_off() {
        let bearers = vec![("eth5".to_owned(), 1500), ("eth6".to_owned(), 1500), ("eth3".to_owned(), 1500)];
        let state = State { network_id: 1983, address: 0x0100_1017, bearers };
        let plan = plan(&state, &wanted(), 300, &set(&["eth3"]), &set(&["eth5"]));
        assert_eq!(
            steps(&plan),
            ["bearer disable media eth device eth5", "bearer set tolerance 300 media eth device eth3"]
        );
        assert!(plan.troubles[0].contains("link secondary: this machine has no eth4"), "{:?}", plan.troubles);
    }

    #[test]
    fn the_tools_output_is_understood() {
        assert_eq!(address("1001017\n"), Some(0x0100_1017));
        assert_eq!(address("0\n"), Some(0));
        assert_eq!(bearers("eth:eth3\nudp:x\neth:eth4\n"), ["eth3", "eth4"]);
        assert_eq!(bearers("No bearers\n"), Vec::<String>::new());
    }
}
