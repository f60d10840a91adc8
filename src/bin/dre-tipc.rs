//! dre-tipc (`dre-tipc.service`): brings TIPC up as `dre.toml` says: network id, address, bearers, tolerance.
//!
//! It asks iproute2's `tipc` and not the kernel's netlink itself: an operator can type the same lines, they are in the
//! journal as they were run, and nothing here is in a hurry. What is already so is left alone.
//!
//! | what is wrong | what follows |
//! |---|---|
//! | the kernel took another network id or address once, it has no TIPC, `tipc` is not installed | words, exit 78: no second try mends it |
//! | network id or address cannot be set | words, exit 1: systemd tries again |
//! | a bearer cannot be had | words in the unit's status; the others are set up, the unit is active: its stop undoes them. dre-elect has it run again when an interface appears |
//!
//! The unit's status begins with "trouble:" where something is wrong; dre-elect makes an alarm of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dre::config::{self, Tipc};
use dre::shell::tipc::tool::{self, Failure, State};
use dre::shell::tipc::{self, AGAIN};

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

/// A command line of `tipc`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    NetworkId(u32),
    Address(String),
    Disable(String),
    Enable(String),
    Tolerance(String, u64),
}

impl Step {
    fn words(&self) -> Vec<String> {
        let text = match self {
            Self::NetworkId(id) => format!("node set netid {id}"),
            Self::Address(address) => format!("node set address {address}"),
            Self::Disable(interface) => format!("bearer disable media eth device {interface}"),
            Self::Enable(interface) => format!("bearer enable media eth device {interface}"),
            Self::Tolerance(interface, ms) => {
                format!("bearer set tolerance {ms} media eth device {interface}")
            }
        };
        text.split(' ').map(str::to_owned).collect()
    }
}

/// What there is to do, and what cannot be done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Without these nothing else.
    node: Vec<Step>,
    /// What belongs together: a bearer each. One that fails does not keep the others down.
    bearers: Vec<Vec<Step>>,
    /// Bearers that cannot be had now.
    troubles: Vec<String>,
    /// What the kernel took once and keeps: nothing can be done.
    refusals: Vec<String>,
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
    let fresh = state.address.0 == 0;
    if state.network_id != wanted.network_id {
        if fresh {
            plan.node.push(Step::NetworkId(wanted.network_id));
        } else {
            plan.refusals.push(format!(
                "TIPC of this machine has joined network {}, and {} is asked for: the kernel takes a network id only before the \
                 address; {AGAIN}",
                state.network_id, wanted.network_id
            ));
        }
    }
    if fresh {
        plan.node.push(Step::Address(wanted.local.to_string()));
    } else if state.address != wanted.local {
        plan.refusals.push(format!(
            "TIPC of this machine has the address {}, and {} is asked for: the kernel takes an address once; {AGAIN}",
            state.address, wanted.local
        ));
    }
    // Bearers of another network or address would speak to the wrong ones.
    if !plan.refusals.is_empty() {
        plan.node.clear();
        return plan;
    }
    let is_enabled = |interface: &str| state.bearers.iter().find(|(enabled, _)| enabled == interface);
    for interface in ours.iter().filter(|i| !wanted.bearers.iter().any(|b| b.interface == **i)) {
        if is_enabled(interface).is_some() {
            plan.bearers.push(vec![Step::Disable(interface.clone())]);
        }
    }
    for bearer in &wanted.bearers {
        let interface = bearer.interface.as_str();
        let enabled = is_enabled(interface);
        if enabled.is_none() && !interfaces.contains(interface) {
            plan.troubles.push(format!(
                "link {}: this machine has no {interface}: its bearer is enabled when it appears; look at its driver, or mend \
                 bearers in [heartbeat.tipc]",
                bearer.name
            ));
            continue;
        }
        let mut steps = vec![];
        if enabled.is_none() {
            steps.push(Step::Enable(interface.to_owned()));
        }
        // A tolerance given with `enable` is taken and ignored by the kernel.
        if enabled.is_none_or(|(_, is)| *is != tolerance_ms) {
            steps.push(Step::Tolerance(interface.to_owned(), tolerance_ms));
        }
        if !steps.is_empty() {
            plan.bearers.push(steps);
        }
    }
    plan
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Everything is as it should be; what to say of it.
    Good(String),
    /// It stands, but for these.
    Troubled(Vec<String>),
    /// Another try may do it.
    Failed(Vec<String>),
    /// No other try will.
    Refused(Vec<String>),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Absent(text) => Self::Refused(vec![text]),
            Failure::Said(text) => Self::Failed(vec![text]),
        }
    }
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

/// Does it. `run` runs a step; `keep` writes down which bearers are ours: before one is enabled (what is enabled and not
/// written down would never be undone), and corrected after each step (what was not enabled here is not ours).
fn carry_out(
    plan: Plan,
    ours: &mut BTreeSet<String>,
    mut run: impl FnMut(&Step) -> Result<(), Failure>,
    mut keep: impl FnMut(&BTreeSet<String>) -> Result<(), String>,
) -> Result<Vec<String>, Failure> {
    plan.node.iter().try_for_each(&mut run)?;
    let mut troubles = plan.troubles;
    for steps in plan.bearers {
        for step in steps {
            if let Step::Enable(interface) = &step {
                ours.insert(interface.clone());
                keep(ours).map_err(Failure::Said)?;
            }
            let done = run(&step);
            match (&step, &done) {
                (Step::Enable(interface), Err(_)) | (Step::Disable(interface), Ok(())) => {
                    ours.remove(interface);
                    keep(ours).map_err(Failure::Said)?;
                }
                _ => {}
            }
            match done {
                Ok(()) => {}
                Err(failure @ Failure::Absent(_)) => return Err(failure),
                Err(Failure::Said(text)) => {
                    troubles.push(format!("{text}; journalctl -k says more of the interface"));
                    break;
                }
            }
        }
    }
    Ok(troubles)
}

fn execute(step: &Step) -> Result<(), Failure> {
    let words = step.words();
    println!("tipc {}", words.join(" "));
    tool::run(&words).map(drop)
}

fn up(wanted: &Tipc, tolerance_ms: u64) -> End {
    let file = memory();
    let state = match tool::observe() {
        Ok(state) => state,
        Err(failure) => return failure.into(),
    };
    // A bearer that went with its interface, or by another hand, is not ours any more.
    let mut ours = remembered(&file);
    ours.retain(|interface| state.bearers.iter().any(|(enabled, _)| enabled == interface));
    let plan = plan(&state, wanted, tolerance_ms, &interfaces(), &ours);
    if !plan.refusals.is_empty() {
        return End::Refused(plan.refusals);
    }
    match carry_out(plan, &mut ours, execute, |ours| remember(&file, ours)) {
        Err(failure) => failure.into(),
        Ok(troubles) if !troubles.is_empty() => End::Troubled(troubles),
        Ok(_) => {
            let names: Vec<&str> = wanted.bearers.iter().map(|b| b.interface.as_str()).collect();
            End::Good(format!(
                "network {}, address {}, bearers {}, tolerance {tolerance_ms} ms",
                wanted.network_id,
                wanted.local,
                names.join(" ")
            ))
        }
    }
}

fn interfaces() -> BTreeSet<String> {
    let all = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn down() -> End {
    let file = memory();
    let mut ours = remembered(&file);
    let enabled = match (ours.is_empty(), tool::enabled()) {
        // Without the module there are no bearers; asking must not load it again.
        (true, _) => vec![],
        (false, Err(_)) if !Path::new("/sys/module/tipc").exists() => vec![],
        (false, Err(failure)) => return failure.into(),
        (false, Ok(enabled)) => enabled,
    };
    ours.retain(|interface| enabled.contains(interface));
    let bearers = ours.iter().map(|interface| vec![Step::Disable(interface.clone())]).collect();
    let plan = Plan { bearers, ..Plan::default() };
    let kept = remember(&file, &ours).map_err(Failure::Said);
    match kept.and_then(|()| carry_out(plan, &mut ours, execute, |ours| remember(&file, ours))) {
        Ok(troubles) if troubles.is_empty() => End::Good("nothing of dre is set up in TIPC".into()),
        Ok(troubles) => End::Failed(troubles),
        Err(failure) => failure.into(),
    }
}

fn show(wanted: &Tipc, tolerance_ms: u64) -> Result<String, Failure> {
    let state = tool::observe()?;
    let plan = plan(&state, wanted, tolerance_ms, &interfaces(), &remembered(&memory()));
    let mut text = format!("network id {}, address {}\n", state.network_id, state.address);
    for (interface, tolerance) in &state.bearers {
        let _ = writeln!(text, "bearer {interface}, tolerance {tolerance} ms");
    }
    for step in plan.node.iter().chain(plan.bearers.iter().flatten()) {
        let _ = writeln!(text, "to do: tipc {}", step.words().join(" "));
    }
    for trouble in plan.troubles.iter().chain(&plan.refusals) {
        let _ = writeln!(text, "trouble: {trouble}");
    }
    Ok(text)
}

fn main() -> ExitCode {
    let args = Args::parse();
    if matches!(args.action, Action::Down) {
        // Whatever the configuration says by now.
        return match down() {
            // ExecStopPost= after a failure: what failed is still what there is to say.
            End::Good(_) if std::env::var("SERVICE_RESULT").is_ok_and(|result| result != "success") => {
                ExitCode::SUCCESS
            }
            end => finish(end),
        };
    }
    let settings = match config::load() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{}", error.lines());
            return ExitCode::from(config::EXIT_CONFIG);
        }
    };
    let Some(wanted) = &settings.tipc else {
        println!("dre-tipc: the heartbeats' transport is not TIPC");
        // After a reload that took TIPC away: what was set up for it would lie open for nothing.
        return if matches!(args.action, Action::Up) { finish(down()) } else { ExitCode::SUCCESS };
    };
    if let Err(error) = tipc::available() {
        return finish(End::Refused(vec![error.to_string()]));
    }
    let dead_after = settings.heartbeat.dead_after();
    let tolerance = Tipc::tolerance(dead_after);
    if tolerance > dead_after / 2 {
        println!(
            "dre-tipc: a link's tolerance would be D/2, and the kernel takes no less than {} ms: with D = {} ms a single link's loss \
             is seen later than that, the peer's loss after D all the same",
            tolerance.as_millis(),
            dead_after.as_millis()
        );
    }
    let tolerance_ms = u64::try_from(tolerance.as_millis()).unwrap_or(u64::MAX);
    match args.action {
        Action::Up => finish(up(wanted, tolerance_ms)),
        Action::Show | Action::Down => match show(wanted, tolerance_ms) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(failure) => finish(failure.into()),
        },
    }
}

/// Says it to systemd (`systemctl status`, dre-elect) and to the journal.
fn finish(end: End) -> ExitCode {
    let (troubles, code) = match end {
        End::Good(text) => {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&text)]);
            println!("dre-tipc: {text}");
            return ExitCode::SUCCESS;
        }
        End::Troubled(troubles) => (troubles, ExitCode::SUCCESS),
        End::Failed(troubles) => (troubles, ExitCode::FAILURE),
        End::Refused(troubles) => (troubles, ExitCode::from(config::EXIT_CONFIG)),
    };
    let all = format!("trouble: {}", troubles.join(" / "));
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&all)]);
    for trouble in troubles {
        eprintln!("<3>dre-tipc: {trouble}");
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use dre::config::{Bearer, TipcAddress};

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

    fn state(network_id: u32, address: u32, bearers: &[(&str, u64)]) -> State {
        let bearers = bearers.iter().map(|(i, t)| ((*i).to_owned(), *t)).collect();
        State { network_id, address: TipcAddress(address), bearers }
    }

    fn steps(plan: &Plan) -> Vec<String> {
        plan.node.iter().chain(plan.bearers.iter().flatten()).map(|s| s.words().join(" ")).collect()
    }

    #[test]
    fn a_fresh_machine_gets_all_of_it_and_then_nothing_more() {
        let fresh = state(4711, 0, &[]);
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
        let done = state(1983, 0x0100_1017, &[("eth3", 50), ("eth4", 50)]);
        assert_eq!(plan(&done, &wanted(), 50, &set(&["eth3", "eth4"]), &set(&["eth3"])), Plan::default());
    }

    #[test]
    fn what_the_kernel_took_once_is_refused_and_nothing_is_done() {
        for (network_id, address, words) in
            [(4711, 0x0100_1017, "joined network 4711"), (1983, 0x0100_1018, "the address 1.1.24")]
        {
            let other = state(network_id, address, &[]);
            let plan = plan(&other, &wanted(), 50, &set(&["eth3", "eth4"]), &set(&[]));
            assert!(steps(&plan).is_empty() && plan.refusals.len() == 1, "{plan:?}");
            let text = &plan.refusals[0];
            let remedy =
                "; systemctl stop dre dre-tipc && modprobe -r tipc && systemctl start dre (or reboot)";
            assert!(text.contains(words) && text.ends_with(remedy), "{text}");
        }
    }

    #[test]
    fn a_missing_interface_does_not_keep_the_other_down_and_only_ours_is_taken_off() {
        let state = state(1983, 0x0100_1017, &[("eth5", 1500), ("eth6", 1500), ("eth3", 1500)]);
        let plan = plan(&state, &wanted(), 300, &set(&["eth3"]), &set(&["eth5"]));
        assert_eq!(
            steps(&plan),
            ["bearer disable media eth device eth5", "bearer set tolerance 300 media eth device eth3"]
        );
        assert!(plan.troubles[0].contains("link secondary: this machine has no eth4"), "{:?}", plan.troubles);
    }

    /// What was run, which bearers are ours at each moment and at the end, what was said.
    type Carried = (Vec<String>, Vec<BTreeSet<String>>, BTreeSet<String>, Result<Vec<String>, Failure>);

    /// Runs a plan of which some steps fail.
    fn carried(plan: Plan, ours: &[&str], fails: &str) -> Carried {
        let (mut ran, mut written, mut ours) = (vec![], vec![], set(ours));
        let run = |step: &Step| {
            let words = step.words().join(" ");
            ran.push(words.clone());
            if !fails.is_empty() && words.starts_with(fails) {
                return Err(Failure::Said(format!("{words}: no")));
            }
            Ok(())
        };
        let keep = |ours: &BTreeSet<String>| {
            written.push(ours.clone());
            Ok(())
        };
        let said = carry_out(plan, &mut ours, run, keep);
        (ran, written, ours, said)
    }

    #[test]
    fn a_bearer_that_fails_does_not_keep_the_others_down_and_is_not_ours() {
        let plan = || plan(&state(4711, 0, &[]), &wanted(), 50, &set(&["eth3", "eth4"]), &set(&[]));
        let (ran, written, ours, said) = carried(plan(), &[], "bearer enable media eth device eth3");
        assert_eq!(
            ran[2..],
            [
                "bearer enable media eth device eth3",
                "bearer enable media eth device eth4",
                "bearer set tolerance 50 media eth device eth4",
            ]
        );
        // Written before the deed, taken back after it failed.
        assert_eq!(written, [set(&["eth3"]), set(&[]), set(&["eth4"])]);
        assert_eq!(ours, set(&["eth4"]));
        let troubles = said.expect("the rest stands");
        assert!(troubles.len() == 1 && troubles[0].contains("device eth3: no"), "{troubles:?}");
        // Without an address there is nothing to enable.
        let (ran, written, _, said) = carried(plan(), &[], "node set address");
        assert_eq!((ran.len(), written.len()), (2, 0));
        assert!(said.is_err());
        // Enabled, and the tolerance refused: it stays ours.
        let (_, _, ours, said) = carried(plan(), &[], "bearer set tolerance 50 media eth device eth4");
        assert_eq!((ours, said.map(|t| t.len())), (set(&["eth3", "eth4"]), Ok(1)));
    }

    #[test]
    fn what_could_not_be_disabled_stays_ours() {
        let plan = || Plan {
            bearers: ["eth3", "eth4"].map(|i| vec![Step::Disable(i.to_owned())]).into(),
            ..Plan::default()
        };
        let (ran, _, ours, said) = carried(plan(), &["eth3", "eth4"], "bearer disable media eth device eth3");
        assert_eq!((ran.len(), ours, said.map(|t| t.len())), (2, set(&["eth3"]), Ok(1)));
        let (_, written, ours, _) = carried(plan(), &["eth3", "eth4"], "");
        assert_eq!((written.last(), ours), (Some(&set(&[])), set(&[])));
    }

    /// What a second try cannot mend must not be tried every few seconds.
    #[test]
    fn what_is_missing_for_good_ends_with_78() {
        assert_eq!(finish(End::Refused(vec!["no TIPC".into()])), ExitCode::from(78));
        assert_eq!(finish(Failure::Absent("no tool".into()).into()), ExitCode::from(78));
        assert_eq!(finish(Failure::Said("busy".into()).into()), ExitCode::FAILURE);
        assert_eq!(finish(End::Troubled(vec!["no eth4".into()])), ExitCode::SUCCESS);
    }
}
