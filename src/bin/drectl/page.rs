//! The status for a person, possibly one who was asleep a minute ago. Pure: a status in, text out.
//!
//! From the top: who am I and why; is the service given; what is wrong, remedy first; then the evidence; then what
//! could be typed next.

use std::borrow::Cow;
use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use dre::logic::group::{PLAIN, command, unit};
use dre::rules::SetStatus;
use dre::snapshot::{Alarm, Link, Service, Status};

use crate::{rules, when};

pub const GOOD: Style = AnsiColor::Green.on_default().bold();
pub const CARE: Style = AnsiColor::Yellow.on_default().bold();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const FAINT: Style = Style::new().dimmed();

pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Findings of `drectl check` are painted the same.
pub fn paint_level(level: crate::preflight::Level) -> String {
    use crate::preflight::Level;
    match level {
        Level::Ok => paint(GOOD, "ok     "),
        Level::Unknown => paint(FAINT, "unknown"),
        Level::Warn => paint(CARE, "warn   "),
        Level::Bad => paint(BAD, "bad    "),
    }
}

/// The whole page. `sets`: dre-sync's, where there is one; `now` is the wall clock, seconds since 1970.
pub fn page(s: &Status, sets: &[SetStatus], now: i64) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, s, sets, now);
    out
}

fn write(out: &mut String, s: &Status, sets: &[SetStatus], now: i64) -> std::fmt::Result {
    let role = s.role.to_uppercase();
    let style = match s.role.as_str() {
        "active" => GOOD,
        "standby" => Style::new().bold(),
        _ => CARE,
    };
    writeln!(
        out,
        "{} is {}{}, term {}, since {}: {}",
        s.node,
        paint(style, &role),
        if group(s) == PLAIN { String::new() } else { format!(" in group {}", s.group) },
        s.term,
        when::ago(&s.since, now),
        reason(s)
    )?;
    let (style, sentence) = service(s);
    writeln!(out, "{}", paint(style, &sentence))?;
    let mut alarms: Vec<&Alarm> = s.alarms.iter().collect();
    alarms.sort_by_key(|alarm| weight(&alarm.name));
    for alarm in alarms {
        write_alarm(out, group(s), alarm, now)?;
    }
    writeln!(out)?;
    for (name, text) in evidence(s, now).into_iter().chain(unsettled(sets)) {
        writeln!(out, "{} {text}", paint(FAINT, &format!("{name:<12}")))?;
    }
    let mut hints = hints(s);
    if sets.iter().any(|set| set.state != "IN_SYNC") {
        hints.push(("rules files", "drectl rules".into()));
    }
    if !hints.is_empty() {
        writeln!(out)?;
    }
    for (what, command) in hints {
        writeln!(out, "{what}: {command}")?;
    }
    Ok(())
}

/// The sets of rules files that are not the same on both nodes, a row each.
fn unsettled(sets: &[SetStatus]) -> Vec<(&'static str, String)> {
    let open = sets.iter().filter(|set| set.state != "IN_SYNC").enumerate();
    open.map(|(index, set)| {
        let state = paint(rules::page::style(&set.state), &rules::page::plain(&set.state));
        let why = if set.reason.is_empty() { String::new() } else { format!(": {}", set.reason) };
        let text = format!("{} {state}{}", rules::page::plain(&set.name), rules::page::plain(&why));
        (if index == 0 { "rules" } else { "" }, text)
    })
    .collect()
}

/// `group`: whose alarm it is.
pub fn write_alarm(out: &mut String, group: &str, alarm: &Alarm, now: i64) -> std::fmt::Result {
    writeln!(out)?;
    let since = if alarm.since.is_empty() { String::new() } else { format!(" {}", since(&alarm.since, now)) };
    writeln!(out, "{}{since}", paint(BAD, &format!("ALARM {}", alarm.name)))?;
    let text = rules::page::plain(&alarm.text);
    // The daemons' sentences end with what to do; here that comes first.
    let closer = look_closer(group, is_database(alarm));
    let (what, remedy) = match (remedy(&alarm.name), text.rsplit_once("; ")) {
        (Some(remedy), _) => (text.as_str(), remedy),
        (None, Some((what, remedy))) => (what, remedy),
        (None, None) => (text.as_str(), closer.as_str()),
    };
    writeln!(out, "  do:  {remedy}")?;
    writeln!(out, "  why: {what}")
}

/// Whose status it is; an old daemon does not say.
fn group(s: &Status) -> &str {
    if s.group.is_empty() { PLAIN } else { &s.group }
}

/// Its agent's, or what waits for it: the election knows no more of it than the sentence.
fn is_database(alarm: &Alarm) -> bool {
    matches!(alarm.name.as_str(), "Database" | "DatabaseWaits")
}

/// Where there is more to be read.
fn look_closer(group: &str, database: bool) -> String {
    if database {
        return format!("{}; journalctl -u dre-mysql@{group} -e", command(group, "db"));
    }
    format!(
        "{}; journalctl -u {} -u {} -e",
        command(group, "check"),
        unit("dre", group),
        unit("dre-vip", group)
    )
}

/// Which alarm to read first: the cause before what follows from it, what was chosen last.
fn weight(alarm: &str) -> u8 {
    match alarm {
        "BothActive" => 0,
        "PeerStillServes" | "Isolated" | "StopOverdue" => 1,
        "Unfit" | "TipcSetup" | "TipcStrange" | "LinkClosed" | "LinkCrossed" | "TipcMiscabled"
        | "InterfaceMissing" | "ServiceUnbound" | "ServiceDown" => 2,
        "PeerLost" | "PeerGone" | "PeerOneWay" | "PeerStrange" => 3,
        // dre-sync's: the VIPs do not depend on them.
        "SyncSilent" => 7,
        "Standalone" => 9,
        _ => 5,
    }
}

fn since(text: &str, now: i64) -> String {
    format!("since {}", when::ago(text, now))
}

/// What to do first, where it is more than the end of the alarm's own sentence.
fn remedy(alarm: &str) -> Option<&'static str> {
    Some(match alarm {
        "PeerStillServes" => {
            "restore the heartbeat links; nothing is lost meanwhile. Do not start services by hand here"
        }
        "Isolated" => "look at this node's cables and switch first: it may be the one that is cut off",
        "BothActive" => {
            "nothing for a moment: it resolves itself. Then find why links and service network broke together"
        }
        "ArbitratorSilent" => {
            "look at the arbitrator and the way to it; drectl check names the interface. Another address goes under [arbitrator]"
        }
        "Unfit" => "mend what is named below; drectl check shows more",
        "GateWeak" => {
            "drectl check says what the kernel refuses; nothing is wrong as long as no node freezes"
        }
        "Standalone" => {
            "nothing, if that is meant; else take DRE_STANDALONE out of /etc/default/dre or /etc/sysconfig/dre"
        }
        _ => return None,
    })
}

/// The rule in words.
fn reason(s: &Status) -> String {
    match in_words(&s.rule) {
        Some(words) => {
            let words = words.replace("dre.service", &format!("{}.service", unit("dre", group(s))));
            format!("{words} [{}]", s.rule)
        }
        None => s.rule.clone(),
    }
}

/// Each rule of the election, as one would say it.
pub fn in_words(rule: &str) -> Option<&'static str> {
    Some(match rule {
        "Started" => "dre has just started",
        "PeerLost" => "the peer fell silent on every link and nobody answered for the VIPs",
        "PeerYields" => "the peer gave the role away",
        "NobodyActive" => "both nodes were free and this one takes the role then",
        "OperatorTakes" => "the operator asked for it here",
        "LeaseGranted" => "the lease was granted",
        "ClaimMoot" => "its claim went after the peer's",
        "ClaimLapsed" => "its claim got no lease in time",
        "Isolated" => "neither the peer nor an arbitrator renewed the lease",
        "OwnPause" => "this machine stood still for longer than its lease",
        "GateLapsed" => "the gate ran out while the peer was lost",
        "BothActive" => "two were active and this one yields",
        "Unfit" => "this node could not run the services and the peer could",
        "Switchover" => "the operator handed the role over",
        "OperatorReleases" => "the operator stopped the role here",
        "Stopped" => "dre.service was stopped",
        "ServicesDown" => "the role was let go and its services are down",
        _ => return None,
    })
}

fn alarmed(s: &Status, name: &str) -> bool {
    s.alarms.iter().any(|alarm| alarm.name == name)
}

/// Is the service given, and by whom?
fn service(s: &Status) -> (Style, String) {
    let v = &s.vips;
    let open = matches!(v.gate.as_str(), "open" | "lifetimes-open" | "unguarded-open");
    let peer_heard = s.peer.state == "heard" || s.peer.state == "suspect";
    match s.role.as_str() {
        "active" if !open => (BAD, format!("Service: NOT given: the gate is {}", gate(s))),
        "active" if v.wanted == 0 => (CARE, "Service: given here, without VIPs (none are configured)".into()),
        "active" if v.held < v.wanted => {
            (BAD, format!("Service: given in part: {} of {} VIPs are held", v.held, v.wanted))
        }
        "active" => match missing(s) {
            (_, words) if words.is_empty() => {
                (GOOD, format!("Service: given here, {} of {} VIPs answer", v.held, v.wanted))
            }
            (style, words) => (style, format!("Service: the VIPs answer here, but {words}")),
        },
        "claiming" => (CARE, "Service: being taken over by this node".into()),
        "releasing" => (CARE, "Service: being let go by this node".into()),
        _ if peer_heard && s.peer.role == "active" => {
            let ready = match (s.fit, missing(s)) {
                (false, _) => "this node could NOT take over".into(),
                (true, (_, words)) if words.is_empty() => "this node is ready to take over".into(),
                (true, (_, words)) => format!("this node would take over, but {words}"),
            };
            let style = if ready.ends_with("is ready to take over") { GOOD } else { CARE };
            (style, format!("Service: given by {}; {ready}", s.peer.node))
        }
        _ if peer_heard && s.peer.role != "standby" => {
            (CARE, format!("Service: in between: {} is {}", s.peer.node, s.peer.role))
        }
        _ if peer_heard => (BAD, "Service: NOT given: both nodes are standby".into()),
        _ if alarmed(s, "PeerStillServes") => (
            CARE,
            format!(
                "Service: still given by another machine, most likely {}, which is not heard",
                s.peer.node
            ),
        ),
        _ if alarmed(s, "Isolated") => {
            (BAD, "Service: not given here, and this node cannot know whether it is given elsewhere".into())
        }
        _ if s.peer.node.is_empty() => (BAD, "Service: NOT given".into()),
        _ => (BAD, format!("Service: NOT given here, and {} is not heard", s.peer.node)),
    }
}

/// Whether the unit shall run on this node as it is now. An older daemon does not say where.
fn wanted_here(s: &Status, unit: &Service) -> bool {
    unit.role == "both" || unit.role == s.role || unit.role.is_empty()
}

fn runs(unit: &Service) -> bool {
    // "" : systemd has not been asked yet.
    matches!(unit.state.as_str(), "active" | "reloading" | "refreshing" | "")
}

/// The units that shall run here and do not, in words; empty when there are none.
fn missing(s: &Status) -> (Style, String) {
    let all: Vec<&Service> = s.services.iter().filter(|unit| wanted_here(s, unit) && !runs(unit)).collect();
    let word = |unit: &&Service| match unit.state.as_str() {
        "failed" => format!("{} failed", unit.unit),
        state => format!("{} is {state}", unit.unit),
    };
    let words: Vec<String> = all.iter().map(word).collect();
    // What is on its way is not missing yet; the daemon raises an alarm when it takes too long.
    let on_the_way = all.iter().all(|unit| matches!(unit.state.as_str(), "activating" | "deactivating"));
    let alarm = s.alarms.iter().any(|a| matches!(a.name.as_str(), "ServiceDown" | "BothServiceDown"));
    (if on_the_way && !alarm { CARE } else { BAD }, words.join(", "))
}

fn gate(s: &Status) -> Cow<'_, str> {
    Cow::Borrowed(match s.vips.gate.as_str() {
        "absent" => return format!("absent ({}.service does not run)", unit("dre-vip", group(s))).into(),
        "lifetimes-open" => "open (by address lifetimes: the kernel refused BPF)",
        "lifetimes-shut" => "shut (by address lifetimes: the kernel refused BPF)",
        "unguarded-open" => "open, but NOT on every interface (alarm GateMissing)",
        "unguarded-shut" => "shut, but NOT on every interface (alarm GateMissing)",
        word => word,
    })
}

/// Name and text, a row each.
fn evidence(s: &Status, now: i64) -> Vec<(&'static str, String)> {
    let mut rows = vec![];
    if s.lease.held {
        let by = match s.lease.by.as_str() {
            "peer" => "the peer's acknowledgements",
            "arbitrator" => "the arbitrator's answers: this node goes on alone",
            "wire" => "silence on the wire (no arbitrator is configured): this node goes on alone",
            "standalone" => "standalone mode",
            other => other,
        };
        rows.push(("lease", format!("held, {} ms left, by {by}", s.lease.left_ms)));
    } else if s.role != "standby" {
        rows.push(("lease", "not held".into()));
    }
    if !s.peer.node.is_empty() {
        rows.push(("peer", peer(s)));
    } else if s.standalone {
        rows.push(("peer", "none: standalone mode".into()));
    }
    let width = s.links.iter().map(|link| link.name.len()).max().unwrap_or(0);
    for (index, link) in s.links.iter().enumerate() {
        let text = match link.state.as_str() {
            "up" if is_shared(link) => "up, says the kernel".into(),
            "up" => format!("up, rtt {}, {:.1} % lost", when::micros(link.rtt_us), link.loss_pct),
            "one-way" => "ONE-WAY: the peer is heard here, but does not hear this node".into(),
            _ => paint(BAD, "DOWN"),
        };
        rows.push((if index == 0 { "links" } else { "" }, format!("{:<width$}  {text}", link.name)));
    }
    // Over TIPC the kernel chooses the link for each heartbeat: round trip and loss are those of all links together.
    if let Some(link) = s.links.iter().find(|link| is_shared(link)) {
        let text = format!("rtt {}, {:.1} % lost, over all links", when::micros(link.rtt_us), link.loss_pct);
        rows.push(("heartbeats", text));
    }
    match &s.arbitrator {
        Some(a) if a.reachable => {
            rows.push(("arbitrator", format!("{} answers, rtt {}", a.address, when::micros(a.rtt_us))));
        }
        Some(a) => rows.push(("arbitrator", format!("{} {}", a.address, paint(BAD, "SILENT")))),
        None if !s.peer.node.is_empty() => rows.push(("arbitrator", "none configured".into())),
        None => {}
    }
    let v = &s.vips;
    rows.push((
        "VIPs",
        format!("{} wanted, {} held, {} announced; gate {}", v.wanted, v.held, v.announced, gate(s)),
    ));
    for (index, unit) in s.services.iter().enumerate() {
        let state = match unit.state.as_str() {
            "failed" => paint(BAD, "FAILED"),
            "" => "not asked yet".into(),
            state if wanted_here(s, unit) && !runs(unit) => paint(CARE, state),
            state => state.into(),
        };
        rows.push((if index == 0 { "services" } else { "" }, format!("{} {state}", unit.unit)));
    }
    if !s.fit {
        let because =
            if s.unfit_because.is_empty() { "no reason told".into() } else { s.unfit_because.join(", ") };
        rows.push(("fitness", paint(BAD, &format!("UNFIT: {because}"))));
    }
    if s.maintenance {
        rows.push(("maintenance", paint(CARE, "on: roles are frozen")));
    }
    if let Some(t) = &s.last_takeover {
        let who = if t.here { s.node.as_str() } else { s.peer.node.as_str() };
        rows.push((
            "last change",
            format!("to {who} by {}, {}, gap {}", t.rule, when::ago(&t.at, now), when::micros(t.gap_us)),
        ));
    }
    let rejected: Vec<String> =
        s.rejected.iter().filter(|r| r.count > 0).map(|r| format!("{} {}", r.count, r.reason)).collect();
    if !rejected.is_empty() {
        rows.push(("rejected", format!("datagrams: {}", rejected.join(", "))));
    }
    rows
}

fn is_shared(link: &Link) -> bool {
    link.measured == "heartbeats"
}

fn peer(s: &Status) -> String {
    let p = &s.peer;
    let fit = if p.fit { "fit" } else { "UNFIT" };
    match p.state.as_str() {
        "heard" => format!("{} heard {} ms ago, {}, {fit}", p.node, p.heard_ms, p.role),
        "suspect" => {
            format!("{} {}: heard {} ms ago, {}, {fit}", p.node, paint(CARE, "SUSPECT"), p.heard_ms, p.role)
        }
        "one-way" => {
            format!("{} {}: it is heard but does not hear this node", p.node, paint(CARE, "ONE-WAY"))
        }
        "never" => format!("{} {}: not heard since dre started", p.node, paint(BAD, "NEVER HEARD")),
        _ => format!(
            "{} {}: silent for {}, was {} then",
            p.node,
            paint(BAD, "LOST"),
            when::span(i64::try_from(p.heard_ms / 1_000).unwrap_or(i64::MAX)),
            p.role
        ),
    }
}

/// What could be typed next.
fn hints(s: &Status) -> Vec<(&'static str, String)> {
    let mut hints = vec![];
    let peer_heard = s.peer.state == "heard";
    match s.role.as_str() {
        "active" if peer_heard && s.peer.role == "standby" && s.peer.fit => {
            hints.push(("hand over", command(&s.group, "switchover")));
        }
        "standby" if peer_heard && s.peer.role == "active" && s.fit => {
            hints.push(("take over", command(&s.group, &format!("switchover --to {}", s.node))));
        }
        _ => {}
    }
    if !s.alarms.is_empty() || !s.fit {
        hints.push(("look closer", look_closer(group(s), false)));
    }
    if s.alarms.iter().any(is_database) {
        hints.push(("its database", look_closer(group(s), true)));
    }
    hints
}

#[cfg(test)]
mod tests;
