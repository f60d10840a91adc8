//! May two servers that replicate from each other become a pair of dre's? What speaks against it, and when both have the same.
//!
//! Positions alone do not tell: a pair that was made by hand may have differed for years. So nothing is taken over before both are
//! read-only, each has applied the other's last transaction, and their tables have the same sums; then both begin with no history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::facts::{Flavor, Gtids};

/// Where a server of a pair made by hand stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stance {
    pub node: String,
    pub version: String,
    pub is_mariadb: bool,
    pub server_id: u32,
    pub writes_log: bool,
    pub read_only: bool,
    /// `gtid_binlog_state`: MariaDB numbers its transactions whether or not it replicates by them.
    pub state: String,
    /// `gtid_slave_pos`.
    pub applied: String,
    pub source: Option<Source>,
    /// Databases that are somebody's.
    pub data: Vec<String>,
    /// Where its binary log is, without the number.
    pub log: String,
    /// Accounts that read_only does not stop.
    pub admins: Vec<String>,
    /// Its events run, each as whoever made it.
    pub runs_events: bool,
    /// What keeps transactions out of its log or its data, or errors unheard.
    pub filters: Vec<String>,
}

/// What a run has changed before the seal, and what is undone where it goes no further.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    pub writable: bool,
    pub replicates: bool,
    /// There was none of dre's files for the server.
    pub without_file: bool,
}

/// That both have the same, and are not written to any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// What each had, by node.
    pub states: BTreeMap<String, String>,
    /// [`Stance::log`] of this server.
    pub log: String,
    pub touched: Touched,
    /// Both were found to hold it once more, and this server's old history may be gone.
    pub begun: bool,
}

/// How far this server is; kept in a file, so that the next run knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    #[default]
    New,
    Touched(Touched),
    Sealed(Seal),
    Done(Seal),
}

/// What a run does, by how far both are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    FromTheStart,
    FromTheSeal,
    /// The peer has begun its new history already: it waits for nobody.
    Alone,
    /// This one is done, and the peer knows it now.
    Told,
    /// The seal is the own belief alone: the peer serves with its old history.
    Undo,
    /// The peer undoes its part.
    Again,
}

pub fn course(own: &Stage, peer: &Stage) -> Course {
    match (own, peer) {
        (Stage::Sealed(own), Stage::Sealed(peer)) if own.states == peer.states => Course::FromTheSeal,
        (Stage::Sealed(own), Stage::Done(peer)) if own.states == peer.states => Course::Alone,
        (Stage::Done(own), Stage::Sealed(peer)) if own.states == peer.states => Course::Told,
        (Stage::Sealed(_), _) => Course::Undo,
        (_, Stage::Sealed(_)) => Course::Again,
        (Stage::New | Stage::Touched(_) | Stage::Done(_), _) => Course::FromTheStart,
    }
}

/// The server has what it was sealed with. `left`: the state that the log of that time was closed with.
pub fn holds(seal: &Seal, now: &Stance, left: Option<&str>) -> bool {
    let Some(sealed) = seal.states.get(&now.node) else { return false };
    if same(&now.state, sealed) {
        return true;
    }
    // A log of another name begins empty, whatever was written to the old one.
    let renamed = now.log != seal.log && left.is_some_and(|left| same(left, sealed));
    now.state.is_empty() && (seal.begun || renamed)
}

/// The server lists them in any order.
pub fn same(one: &str, other: &str) -> bool {
    let read = |state: &str| Gtids::parse(Flavor::MariaDb, state);
    one == other || read(one).is_some_and(|one| Some(one) == read(other))
}

/// From whom it replicates, and how that goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub host: String,
    pub server_id: u32,
    pub receives: bool,
    pub applies: bool,
    pub error: String,
    /// Seconds; `None`: not known.
    pub behind: Option<u64>,
}

fn newest(state: &str, server: u32) -> Option<u64> {
    let Some(Gtids::MariaDb(all)) = Gtids::parse(Flavor::MariaDb, state) else { return None };
    all.iter().filter(|((_, id), _)| *id == server).map(|(_, sequence)| *sequence).max()
}

fn domains(state: &str) -> usize {
    let Some(Gtids::MariaDb(all)) = Gtids::parse(Flavor::MariaDb, state) else { return 0 };
    all.keys().map(|(domain, _)| *domain).collect::<std::collections::BTreeSet<_>>().len()
}

/// `reader` has applied the last that `writer` wrote itself. One that does not log what it applies says it by its position alone.
pub fn has_all_of(reader: &Stance, writer: &Stance) -> bool {
    let Some(last) = newest(&writer.state, writer.server_id) else { return true };
    let known = |state: &str| newest(state, writer.server_id).is_some_and(|known| known >= last);
    known(&reader.state) || known(&reader.applied)
}

/// Clients wrote to it between two looks.
fn was_written(then: &Stance, now: &Stance) -> bool {
    newest(&then.state, then.server_id) != newest(&now.state, now.server_id)
}

/// What speaks against it, in words; the same on both nodes. Each server at the first look and at the last.
pub fn doubts(one: (&Stance, &Stance), other: (&Stance, &Stance)) -> Vec<String> {
    let mut found = vec![];
    let (mut first, mut second) = (one, other);
    if second.1.node < first.1.node {
        (first, second) = (second, first);
    }
    for (then, now) in [first, second] {
        let node = &now.node;
        if !now.is_mariadb {
            found.push(format!("{node}'s server is MySQL {}, which is set up by hand (README)", now.version));
        }
        if !now.writes_log {
            found.push(format!("{node}'s server writes no binary log, so nobody can tell what it wrote"));
        }
        if domains(&now.state) > 1 || domains(&then.state) > 1 {
            found.push(format!(
                "{node} has transactions of several gtid_domain_id ({}): their order is not known",
                now.state
            ));
        }
        if !now.admins.is_empty() {
            found.push(format!(
                "{node} has accounts that write through read_only: {}; REVOKE READ_ONLY ADMIN ON *.* (before 10.11: SUPER) from each, or \
                 ALTER USER … ACCOUNT LOCK until it is done",
                now.admins.join(", ")
            ));
        }
        if now.runs_events {
            found.push(format!(
                "{node} runs events, which may write through read_only: SET GLOBAL event_scheduler = OFF there"
            ));
        }
        if !now.filters.is_empty() {
            found.push(format!(
                "{node} leaves something out, or goes on past errors: {}; take it out of the server's file",
                now.filters.join(", ")
            ));
        }
    }
    for (reader, writer) in [(first.1, second.1), (second.1, first.1)] {
        let (node, peer) = (&reader.node, &writer.node);
        let Some(source) = &reader.source else {
            found.push(format!("{node} replicates from nobody"));
            continue;
        };
        if !source.error.is_empty() {
            found.push(format!("{node}'s replication stands still: {}", source.error));
        } else if !(source.receives && source.applies) {
            found.push(format!("{node} does not replicate: START SLAVE there, and see how it goes"));
        }
        if source.server_id != writer.server_id && source.receives {
            found.push(format!(
                "{node} replicates from {} (server-id {}), which is not {peer}'s server ({})",
                source.host, source.server_id, writer.server_id
            ));
        }
    }
    if first.1.server_id == second.1.server_id {
        found.push(format!("both servers have server-id {}", first.1.server_id));
    }
    if was_written(first.0, first.1) && was_written(second.0, second.1) {
        found.push("clients write to both servers now: let them write to one".to_owned());
    }
    found
}

/// Whose sums differ, or what one has alone.
pub fn differing(own: &BTreeMap<String, String>, peer: &BTreeMap<String, String>) -> Vec<String> {
    let all: std::collections::BTreeSet<&String> = own.keys().chain(peer.keys()).collect();
    all.into_iter().filter(|name| own.get(*name) != peer.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stance(node: &str, server_id: u32, state: &str, applied: &str) -> Stance {
        Stance {
            node: node.into(),
            version: "11.8.9-MariaDB".into(),
            is_mariadb: true,
            server_id,
            writes_log: true,
            read_only: false,
            state: state.into(),
            applied: applied.into(),
            source: Some(Source {
                host: "peer".into(),
                server_id: 3 - server_id,
                receives: true,
                applies: true,
                error: String::new(),
                behind: Some(0),
            }),
            data: vec!["app".into()],
            log: "/var/lib/mysql/mysqlha".into(),
            ..Stance::default()
        }
    }

    #[test]
    fn each_doubt_is_said_and_a_pair_that_works_has_none() {
        let (one, two) = (stance("hadev1", 1, "0-1-9", "0-2-4"), stance("hadev2", 2, "0-2-4", "0-1-9"));
        let later = Stance { state: "0-1-12".into(), ..one.clone() };
        assert_eq!(doubts((&one, &later), (&two, &two)), Vec::<String>::new(), "one is written to");
        assert_eq!(doubts((&two, &two), (&one, &later)), Vec::<String>::new());

        let says = |one: &Stance, two: &Stance, words: &str| {
            let found = doubts((one, one), (two, two));
            assert_eq!(found, doubts((two, two), (one, one)), "both nodes say the same");
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        };
        says(&Stance { is_mariadb: false, ..one.clone() }, &two, "MySQL");
        says(&Stance { writes_log: false, ..one.clone() }, &two, "no binary log");
        says(&Stance { state: "0-1-9,7-1-2".into(), ..one.clone() }, &two, "several gtid_domain_id");
        says(&Stance { admins: vec!["'boss'@'%'".into()], ..one.clone() }, &two, "read_only: 'boss'@'%'");
        says(&one, &Stance { runs_events: true, ..two.clone() }, "hadev2 runs events");
        let filters = vec!["Replicate_Do_DB = app".to_owned()];
        says(&Stance { filters, ..one.clone() }, &two, "Replicate_Do_DB = app");
        says(&Stance { source: None, ..one.clone() }, &two, "hadev1 replicates from nobody");
        let source = |change: fn(&mut Source)| {
            let mut two = two.clone();
            change(two.source.as_mut().expect("one"));
            two
        };
        says(&one, &source(|source| source.error = "1062: Duplicate entry".into()), "1062");
        says(&one, &source(|source| source.applies = false), "hadev2 does not replicate");
        says(&one, &source(|source| source.server_id = 5), "which is not hadev1's server (1)");
        let written = Stance { state: "0-2-5".into(), ..two.clone() };
        let found = doubts((&one, &later), (&two, &written));
        assert!(found.len() == 1 && found[0].contains("to both"), "{found:?}");
        let mut same = two.clone();
        same.server_id = 1;
        let found = doubts((&one, &one), (&same, &same));
        assert!(found.iter().any(|doubt| doubt.contains("server-id 1")), "{found:?}");
    }

    #[test]
    fn a_server_that_does_not_log_what_it_applies_says_it_by_its_position() {
        let writer = stance("hadev1", 1, "0-1-9", "");
        assert!(has_all_of(&stance("hadev2", 2, "0-2-4", "0-1-9"), &writer));
        assert!(has_all_of(&stance("hadev2", 2, "0-1-9,0-2-11", "0-2-11"), &writer), "it logs it");
        assert!(!has_all_of(&stance("hadev2", 2, "0-2-4", "0-1-8"), &writer));
        assert!(!has_all_of(&stance("hadev2", 2, "", ""), &writer));
        assert!(
            has_all_of(&stance("hadev2", 2, "", ""), &stance("hadev1", 1, "0-2-3", "")),
            "it never wrote"
        );
    }

    #[test]
    fn a_seal_counts_only_if_the_peer_has_the_same() {
        let seal = |state: &str, log: &str| Seal {
            states: [("hadev1".to_owned(), "0-1-9".to_owned()), ("hadev2".to_owned(), state.to_owned())]
                .into(),
            log: log.into(),
            ..Seal::default()
        };
        let (own, peer, other) = (seal("0-2-4", "a"), seal("0-2-4", "b"), seal("0-2-5", "a"));
        let touched = Stage::Touched(Touched::default());
        assert_eq!(course(&Stage::Sealed(own.clone()), &Stage::Sealed(peer.clone())), Course::FromTheSeal);
        assert_eq!(course(&Stage::Sealed(own.clone()), &Stage::Done(peer.clone())), Course::Alone);
        assert_eq!(course(&Stage::Done(own.clone()), &Stage::Sealed(peer.clone())), Course::Told);
        for not_the_same in [Stage::New, touched, Stage::Sealed(other.clone()), Stage::Done(other)] {
            assert_eq!(course(&Stage::Sealed(own.clone()), &not_the_same), Course::Undo);
        }
        assert_eq!(course(&Stage::New, &Stage::Sealed(peer.clone())), Course::Again);
        assert_eq!(course(&Stage::New, &Stage::Done(peer.clone())), Course::FromTheStart);
        assert_eq!(course(&Stage::Done(own), &Stage::Done(peer)), Course::FromTheStart);
    }

    #[test]
    fn a_server_that_was_written_to_since_the_seal_does_not_hold_it() {
        let then = stance("hadev1", 1, "0-2-4,0-1-9", "");
        let seal = Seal {
            states: [("hadev1".into(), then.state.clone())].into(),
            log: then.log.clone(),
            ..Seal::default()
        };
        assert!(holds(&seal, &then, None));
        assert!(
            holds(&seal, &Stance { state: "0-1-9,0-2-4".into(), ..then.clone() }, None),
            "in another order"
        );
        assert!(!holds(&seal, &Stance { state: "0-2-4,0-1-10".into(), ..then.clone() }, None));
        // Its new history has begun.
        let reset = Stance { state: String::new(), ..then.clone() };
        assert!(holds(&Seal { begun: true, ..seal.clone() }, &reset, None));
        assert!(!holds(&seal, &reset, Some("0-1-9,0-2-4")), "by somebody else");
        // Its log has got another name: what tells is how the old one was left.
        let renamed = Stance { log: "/var/lib/mysql/binlog".into(), ..reset };
        assert!(holds(&seal, &renamed, Some("0-1-9,0-2-4")));
        assert!(!holds(&seal, &renamed, Some("0-1-10,0-2-4")), "written to before it was restarted");
        assert!(!holds(&seal, &renamed, None));
        assert!(
            !holds(&seal, &Stance { state: "0-1-1".into(), ..renamed }, Some("0-1-9,0-2-4")),
            "and after it"
        );
        assert!(!holds(&seal, &stance("hadev3", 1, "0-2-4,0-1-9", ""), None), "of nobody in it");
    }

    #[test]
    fn a_table_that_differs_or_that_one_has_alone_is_named() {
        let sums = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
            all.iter().map(|(table, sum)| ((*table).to_owned(), (*sum).to_owned())).collect()
        };
        let own = sums(&[("app.a", "1"), ("app.b", "2"), ("app.c", "3")]);
        assert_eq!(differing(&own, &own), Vec::<String>::new());
        assert_eq!(
            differing(&own, &sums(&[("app.a", "1"), ("app.b", "7"), ("app.d", "3")])),
            ["app.b", "app.c", "app.d"]
        );
    }
}
