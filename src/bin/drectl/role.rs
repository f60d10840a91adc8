//! Commands that move the role: ask, then wait until the status says that it is done.

use std::path::Path;
use std::time::{Duration, Instant};

use dre::snapshot::{Status, Takeover};
use serde_json::json;

use crate::args::{LeaseArgs, SwitchoverArgs, TakeArgs, Wait};
use crate::client::{Client, Place};
use crate::exit::{Done, Fail};
use crate::when;

/// How long the addresses may follow the role: ten thousand of them take seconds.
const VIPS_FOLLOW_WITHIN: Duration = Duration::from_secs(5);

/// How often the unit asks again while the role is being let go.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// dre-elect answers in a turn of its loop; one that is busy reads the words all the same.
const RELEASED_WITHIN: Duration = Duration::from_millis(200);
/// How long the measured gap may follow the role.
const GAP_FOLLOWS_WITHIN: Duration = Duration::from_secs(2);

/// Which start of dre-lease.service asks: systemd says. A person asks without.
fn invocation(lease: &LeaseArgs) -> Option<String> {
    std::env::var("INVOCATION_ID").ok().filter(|_| lease.unit)
}

pub fn take(place: &Place, args: &TakeArgs) -> Done {
    let wait = &args.lease.wait;
    let given_up = until(wait);
    loop {
        let mut client = Client::connect(place)?;
        let asked = client.call("LeaseTake", json!({ "unit": invocation(&args.lease), "force": args.force }));
        let Err(fail) = asked else { break };
        // While the role is let go here, systemd is about to stop this unit. If it does not, somebody wants it anew.
        let lets_go =
            args.lease.unit && client.status().is_ok_and(|s| s.role != "active" && s.reached.is_empty());
        if !lets_go || Instant::now() >= given_up {
            return Err(fail);
        }
        std::thread::sleep(ASK_AGAIN);
    }
    let last = wait_for(place, given_up, &mut |s| (s.role == "active" && s.lease.held).then_some(s.term))?;
    match last {
        Ok(term) => {
            if args.lease.unit {
                // What binds a VIP fails without it: the role's services wait for the addresses, which follow in milliseconds. Not
                // for ever: what they are worth without is for their own start to say.
                let _ = wait_for(place, Instant::now() + VIPS_FOLLOW_WITHIN, &mut |s| {
                    (s.role != "active" || s.vips.wanted == 0 || s.vips.gate.ends_with("open")).then_some(())
                })?;
            }
            if let Some(file) = &args.term_file {
                keep_term(file, term);
            }
            Ok(())
        }
        Err(last) => Err(late(place, "the lease was not granted", wait, last)),
    }
}

/// `DRE_TERM` for the services of the role, read by their drop-ins. They start without it rather than not at all.
fn keep_term(file: &Path, term: u64) {
    let new = file.with_extension("new");
    let text = format!("# written by dre-lease.service\nDRE_TERM={term}\n");
    if let Err(error) = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, file)) {
        anstream::eprintln!(
            "drectl: {}: {error}; the role's services start without DRE_TERM; systemd-tmpfiles --create makes the directory",
            file.display()
        );
    }
}

pub fn release(place: &Place, lease: &LeaseArgs) -> Done {
    let wait = &lease.wait;
    let mut client = Client::connect(place)?;
    let parameters = json!({ "unit": invocation(lease) });
    if lease.unit {
        // Done with the answer: the role is let go in that very turn, or this is the unit of an earlier term and
        // releases nothing. Without one dre-elect is dead: systemd listens in its place, and starts it again when this unit has
        // stopped, not before.
        return client.call_for("LeaseRelease", parameters, RELEASED_WITHIN).map(drop);
    }
    client.call("LeaseRelease", parameters)?;
    let last = wait_for(place, until(wait), &mut |s| (s.role == "standby").then_some(()))?;
    match last {
        Ok(()) => Ok(()),
        Err(last) => Err(late(place, "the role is not let go yet", wait, last)),
    }
}

pub fn switchover(place: &Place, args: &SwitchoverArgs) -> Done {
    let before = Client::connect(place)?.status()?;
    let plan = plan(&before, args.to.as_deref())?;
    anstream::println!("{}", plan.words);
    if plan.done {
        return Ok(());
    }
    Client::connect(place)?.call("Switchover", json!({ "to": plan.to, "force": args.force }))?;
    let mut left = false;
    let outcome = wait_for(place, until(&args.wait), &mut |s| progress(&before, s, &plan.to, &mut left))?;
    match outcome {
        Ok(Progress::Done) => {
            // Not by its time, which is told in whole seconds: the last one may have been in this very second.
            let one = |t: &Takeover| (t.here, t.gap_us);
            let old = before.last_takeover.as_ref().map(one);
            let gap = wait_for(place, Instant::now() + GAP_FOLLOWS_WITHIN, &mut |s| {
                s.last_takeover.as_ref().filter(|t| Some(one(t)) != old).map(|t| t.gap_us)
            });
            match gap {
                Ok(Ok(gap)) => {
                    anstream::println!("{} is active; nobody served for {}", plan.to, when::micros(gap))
                }
                _ => anstream::println!("{} is active; the gap was not measured", plan.to),
            }
            Ok(())
        }
        Ok(Progress::TakenBack) => Err(Fail::refused(format!(
            "{} did not take the role and {} took it back; look at {}: systemctl status {} {}",
            plan.to,
            before.node,
            plan.to,
            place.unit("dre"),
            place.unit("dre-vip")
        ))),
        Err(last) => Err(late(place, "the switchover is not done", &args.wait, last)),
    }
}

fn until(wait: &Wait) -> Instant {
    Instant::now() + Duration::from_secs_f64(wait.timeout)
}

/// What shall happen.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    to: String,
    words: String,
    /// Nothing is to be done.
    done: bool,
}

fn plan(s: &Status, to: Option<&str>) -> Result<Plan, Fail> {
    if s.peer.node.is_empty() {
        return Err(Fail::refused("there is no second node to switch over to (standalone)"));
    }
    let to = match to {
        Some(to) if to == s.node || to == s.peer.node => to.to_owned(),
        Some(to) => {
            return Err(Fail::usage(format!(
                "{to} is not a node of this pair; say {} or {}",
                s.node, s.peer.node
            )));
        }
        // From an active node to the peer; from any other, here.
        None if s.role == "active" => s.peer.node.clone(),
        None => s.node.clone(),
    };
    let here = to == s.node;
    let peer_active = s.peer.role == "active" && s.peer.state == "heard";
    if (here && s.role == "active") || (!here && peer_active && s.role != "active") {
        return Ok(Plan { words: format!("{to} is active already"), to, done: true });
    }
    let fitness = |fit: bool| if fit { "fit" } else { "UNFIT" };
    let own = format!("{} ({}, {})", s.node, s.role, fitness(s.fit));
    let peer = match s.peer.state.as_str() {
        "heard" => format!(
            "{} ({}, {}, heard {} ms ago)",
            s.peer.node,
            s.peer.role,
            fitness(s.peer.fit),
            s.peer.heard_ms
        ),
        state => format!("{} ({state})", s.peer.node),
    };
    let (from, target) = if here { (peer, own) } else { (own, peer) };
    Ok(Plan { words: format!("switchover, term {}: {from} -> {target}", s.term), to, done: false })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Done,
    TakenBack,
}

/// `left` remembers that the old active has let go, so that "active" means "again" from then on.
fn progress(before: &Status, s: &Status, to: &str, left: &mut bool) -> Option<Progress> {
    if s.node == to {
        return (s.role == "active" && s.lease.held).then_some(Progress::Done);
    }
    if s.role != "active" {
        *left = true;
    }
    // A higher term is a new claim, also when all between was too quick to be told.
    if before.role == "active" && s.role == "active" && (*left || s.term > before.term) {
        return Some(Progress::TakenBack);
    }
    (*left && s.peer.role == "active" && s.peer.state == "heard").then_some(Progress::Done)
}

/// Watches until `done` finds what it looks for; the inner error is the last status at the deadline. A connection that
/// ends on the way is made again: the daemon may close the one that was silent for longest.
fn wait_for<T>(
    place: &Place,
    until: Instant,
    done: &mut dyn FnMut(&Status) -> Option<T>,
) -> Result<Result<T, Option<Box<Status>>>, Fail> {
    let mut last = None;
    let mut client = Client::connect(place)?;
    client.watch()?;
    let mut again = true;
    loop {
        match client.next(until) {
            Ok(Some(status)) => {
                if let Some(found) = done(&status) {
                    return Ok(Ok(found));
                }
                last = Some(Box::new(status));
                again = true;
            }
            Ok(None) => return Ok(Err(last)),
            Err(_) if again => {
                again = false;
                client = Client::connect(place)?;
                client.watch()?;
            }
            Err(fail) => return Err(fail),
        }
    }
}

fn late(place: &Place, what: &str, wait: &Wait, last: Option<Box<Status>>) -> Fail {
    let why = match last {
        Some(s) => {
            let alarms: Vec<&str> = s.alarms.iter().map(|alarm| alarm.text.as_str()).collect();
            let alarms = if alarms.is_empty() { String::new() } else { format!("; {}", alarms.join("; ")) };
            let peer = match s.peer.node.as_str() {
                "" => String::new(),
                peer => format!(", {peer} is {} ({})", s.peer.role, s.peer.state),
            };
            format!("{} is {}{peer}{alarms}", s.node, s.role)
        }
        None => "no status came".into(),
    };
    Fail::refused(format!(
        "{what} within {} s: {why}; look at: {}",
        wait.timeout,
        place.command("status --watch")
    ))
}

#[cfg(test)]
mod tests {
    use dre::snapshot::{Lease, Peer};

    use super::*;

    fn status(role: &str, peer_role: &str) -> Status {
        Status {
            node: "hadev1".into(),
            role: role.into(),
            term: 7,
            fit: true,
            lease: Lease { held: role == "active", left_ms: 400, by: "peer".into() },
            peer: Peer {
                node: "hadev2".into(),
                state: "heard".into(),
                role: peer_role.into(),
                fit: true,
                heard_ms: 12,
            },
            ..Status::default()
        }
    }

    #[test]
    fn the_plan_goes_to_the_other_node_unless_told() {
        let words = |s: &Status, to| plan(s, to).map(|p| (p.to, p.words, p.done));
        assert_eq!(
            words(&status("active", "standby"), None),
            Ok((
                "hadev2".into(),
                "switchover, term 7: hadev1 (active, fit) -> hadev2 (standby, fit, heard 12 ms ago)".into(),
                false
            ))
        );
        assert_eq!(
            words(&status("standby", "active"), None),
            Ok((
                "hadev1".into(),
                "switchover, term 7: hadev2 (active, fit, heard 12 ms ago) -> hadev1 (standby, fit)".into(),
                false
            ))
        );
        let done = |name: &str| Ok((name.to_owned(), format!("{name} is active already"), true));
        assert_eq!(words(&status("standby", "active"), Some("hadev2")), done("hadev2"));
        assert_eq!(words(&status("active", "standby"), Some("hadev1")), done("hadev1"));
        assert_eq!(
            words(&status("active", "standby"), Some("x")).map_err(|f| f.code),
            Err(crate::exit::USAGE)
        );
        let alone = Status { node: "hadev1".into(), ..Status::default() };
        assert_eq!(words(&alone, None).map_err(|f| f.code), Err(crate::exit::REFUSED));
    }

    #[test]
    fn a_switchover_away_is_done_when_the_peer_is_active() {
        let before = status("active", "standby");
        let mut left = false;
        let mut step = |role, peer| progress(&before, &status(role, peer), "hadev2", &mut left);
        assert_eq!(step("active", "standby"), None, "not begun");
        assert_eq!(step("releasing", "standby"), None);
        assert_eq!(step("standby", "claiming"), None);
        assert_eq!(step("standby", "active"), Some(Progress::Done));
    }

    #[test]
    fn a_role_that_comes_back_was_taken_back() {
        let before = status("active", "standby");
        let mut left = false;
        let mut step = |role, peer| progress(&before, &status(role, peer), "hadev2", &mut left);
        assert_eq!(step("releasing", "standby"), None);
        assert_eq!(step("claiming", "standby"), None);
        assert_eq!(step("active", "standby"), Some(Progress::TakenBack));
        let quick = Status { term: 8, ..status("active", "standby") };
        assert_eq!(progress(&before, &quick, "hadev2", &mut false), Some(Progress::TakenBack));
    }

    #[test]
    fn a_switchover_to_here_is_done_when_the_lease_is_held() {
        let before = status("standby", "active");
        let mut left = false;
        let mut step = |role, peer| progress(&before, &status(role, peer), "hadev1", &mut left);
        assert_eq!(step("standby", "releasing"), None);
        assert_eq!(step("claiming", "standby"), None);
        assert_eq!(step("active", "standby"), Some(Progress::Done));
    }
}
