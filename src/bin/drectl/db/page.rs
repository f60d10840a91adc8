//! The database's page for a person; pure.

use std::fmt::Write;

use dre::database::DatabaseStatus;
use dre::logic::db::facts::{Flavor, Wrong};
use dre::logic::group;

use crate::when;

fn age(ms: u64) -> String {
    match ms / 1000 {
        0 => format!("{ms} ms"),
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

pub fn page(s: &DatabaseStatus) -> String {
    let mut out = String::new();
    let duty = match s.duty.as_str() {
        "active" => format!("ACTIVE, term {}", s.term),
        "standby" => "STANDBY".into(),
        _ => "waits for dre-elect".into(),
    };
    let _ = writeln!(
        out,
        "database of group {} on {}: {duty}, {} for {}",
        s.group,
        s.node,
        s.state,
        age(s.since_ms)
    );
    if !s.reason.is_empty() {
        let _ = writeln!(out, "  why: {}", s.reason);
    }
    if !s.remedy.is_empty() {
        let _ = writeln!(out, "  do:  {}", s.remedy);
    }
    if !s.why_not.is_empty() && s.duty != "active" {
        let _ = writeln!(out, "  it could not be ACTIVE now: {}", s.why_not);
    }
    out.push('\n');
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<12} {text}");
    };
    let mode = if s.read_only { "read-only" } else { "takes writes" };
    line("server", format!("{} id {}, {mode}; has {}", s.version, s.server_id, shown(&s.has)));
    if let Some(r) = &s.replication {
        let applier = if r.applier { "applier runs" } else { "applier STOPPED" };
        let mut text = format!("from {}: receiver {}, {applier}", r.source, r.receiver);
        if r.to_apply > 0 {
            let _ = write!(text, ", {} to apply", r.to_apply);
        }
        if r.behind > 0 {
            let _ = write!(text, ", {} behind", r.behind);
        }
        if !r.error.is_empty() {
            let _ = write!(text, "; {}", r.error);
        }
        line("replication", text);
    }
    match &s.peer {
        Some(p) => {
            let role = if p.active { format!("ACTIVE, term {}", p.term) } else { "standby".into() };
            let fit = if p.fit { "could be ACTIVE" } else { "could NOT be ACTIVE" };
            line(
                "peer",
                format!(
                    "{} id {}: {role}, {}, {fit}; has {}; heard {} ago",
                    p.node,
                    p.server_id,
                    p.state,
                    shown(&p.has),
                    age(p.heard_ms)
                ),
            );
        }
        None => line("peer", "its agent is not heard".into()),
    }
    if s.accepted > 0 {
        line(
            "accepted",
            format!(
                "{} transactions that are on this server alone, and no later ones: {}",
                s.accepted, s.accepted_which
            ),
        );
    }
    if s.forced_ms > 0 {
        line(
            "forced",
            format!(
                "the next promotion takes what this server has, whatever is missing; for {} more",
                age(s.forced_ms)
            ),
        );
    }
    line("semi-sync", s.semi_sync.clone());
    line("durability", format!("{}: {}", s.durability, s.cost));
    for setting in &s.settings {
        let weight = if setting.fatal { "MUST be" } else { "should be" };
        line("setting", format!("{} is {}, {weight} {}", setting.variable, setting.have, setting.want));
    }
    if !s.admins.is_empty() {
        line("accounts", format!("write through read_only: {}", s.admins.join(", ")));
    }
    out
}

fn shown(gtids: &str) -> &str {
    if gtids.is_empty() { "nothing" } else { gtids }
}

pub fn check(flavor: Flavor, version: &str, wrong: &[Wrong]) -> String {
    if wrong.is_empty() {
        return format!("ok  {version}: every setting is as it must be\n");
    }
    let mut out = String::new();
    for w in wrong {
        let word = if w.fatal { "BAD " } else { "warn" };
        let _ = writeln!(out, "{word} {} is {}, must be {}", w.variable, w.have, w.want);
    }
    // Where Debian's packages read last: MySQL's own file there is called mysqld.cnf.
    let file = match flavor {
        Flavor::MariaDb => "/etc/mysql/mariadb.conf.d/60-dre.cnf",
        Flavor::MySql => "/etc/mysql/mysql.conf.d/zz-dre.cnf",
    };
    let _ = writeln!(
        out,
        "\ndo:  write them under [mysqld] in a file that is read last, as {file}, on both nodes, and restart the server; what is BAD keeps \
         it from being ACTIVE"
    );
    out
}

/// A server's certificate is renewed in good time by a person: this many days.
const RENEW: i64 = 60;

/// How long the certificate of the pair is good for; nothing, where there is none.
pub fn certificate(until: Option<&str>, now: i64, group: &str) -> String {
    let Some((text, end)) = until.and_then(|text| Some((text, when::seconds(text)?))) else {
        return String::new();
    };
    let date = text.split('T').next().unwrap_or_default();
    match (end - now) / 86_400 {
        RENEW.. => format!("ok  the server's certificate is valid until {date}\n"),
        days => format!(
            "warn the server's certificate is valid until {date} ({days} days): renew it on the standby, {}\n",
            group::command(group, "db bootstrap")
        ),
    }
}

#[cfg(test)]
mod tests {
    use dre::database::{DatabasePeer, DatabaseReplication};

    use super::*;

    #[test]
    fn a_standby_that_could_not_be_active_says_why_and_what_to_do() {
        let status = DatabaseStatus {
            group: "mysql".into(),
            node: "hadev1".into(),
            duty: "standby".into(),
            state: "DIVERGED".into(),
            reason: "4 transactions are on this server alone: 0-1-8492..8495".into(),
            remedy: "nothing is replicated until you decide".into(),
            since_ms: 65_000,
            why_not: "database DIVERGED".into(),
            version: "11.8.3-MariaDB".into(),
            server_id: 1,
            read_only: true,
            has: "0-1-8495".into(),
            peer: Some(DatabasePeer {
                node: "hadev2".into(),
                server_id: 2,
                active: true,
                term: 7,
                ..DatabasePeer::default()
            }),
            replication: Some(DatabaseReplication {
                source: "172.16.11.55:3306".into(),
                receiver: "stopped".into(),
                ..DatabaseReplication::default()
            }),
            semi_sync: "off (this server is no source)".into(),
            durability: "available".into(),
            cost: "a commit waits 2 s".into(),
            accepted: 3,
            accepted_which: "0-1-8490..8492".into(),
            forced_ms: 65_000,
            ..DatabaseStatus::default()
        };
        let text = page(&status);
        for words in [
            "database of group mysql on hadev1: STANDBY, DIVERGED for 65 s",
            "why: 4 transactions are on this server alone",
            "do:  nothing is replicated",
            "from 172.16.11.55:3306: receiver stopped, applier STOPPED",
            "hadev2 id 2: ACTIVE, term 7",
            "3 transactions that are on this server alone, and no later ones: 0-1-8490..8492",
            "whatever is missing; for 65 s more",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_check_says_what_keeps_the_server_from_being_active() {
        let wrong =
            Wrong { variable: "gtid_strict_mode".into(), have: "OFF".into(), want: "ON".into(), fatal: true };
        for (flavor, file) in [
            (Flavor::MariaDb, "/etc/mysql/mariadb.conf.d/60-dre.cnf"),
            (Flavor::MySql, "/etc/mysql/mysql.conf.d/zz-dre.cnf"),
        ] {
            let text = check(flavor, "11.8", std::slice::from_ref(&wrong));
            assert!(
                text.contains("BAD  gtid_strict_mode is OFF, must be ON") && text.contains(file),
                "{text}"
            );
        }
        assert!(check(Flavor::MariaDb, "11.8", &[]).starts_with("ok "));
    }

    #[test]
    fn a_certificate_that_ends_soon_is_named_with_what_renews_it() {
        let until = Some("2036-11-24T04:10:21Z");
        let end = when::seconds("2036-11-24T04:10:21Z").expect("a moment");
        assert_eq!(
            certificate(until, end - 86_400 * 61, "mysql"),
            "ok  the server's certificate is valid until 2036-11-24\n"
        );
        let soon = certificate(until, end - 86_400 * 9, "mysql");
        assert!(soon.starts_with("warn") && soon.contains("(9 days)"), "{soon}");
        assert!(soon.contains("drectl -g mysql db bootstrap"), "{soon}");
        assert_eq!(certificate(None, end, "mysql"), "");
    }
}
