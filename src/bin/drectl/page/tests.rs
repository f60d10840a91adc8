//! Golden pages, one a situation. Colours are stripped; that there are some is tested on its own.

use dre::snapshot::{Arbitrator, Lease, Link, Peer, Rejected, Service, Takeover, Vips};

use super::*;

/// 2026-11-23T14:05:11Z: three minutes after the role began.
const NOW: i64 = 1_795_442_711;

fn active() -> Status {
    let link = |name: &str, rtt_us| Link {
        name: name.into(),
        up: true,
        state: "up".into(),
        rtt_us,
        loss_pct: 0.0,
        measured: "link".into(),
    };
    Status {
        group: "dre".into(),
        node: "hadev1".into(),
        role: "active".into(),
        term: 7,
        since: "2026-11-23T14:02:11Z".into(),
        rule: "PeerLost".into(),
        lease: Lease { held: true, left_ms: 412, by: "peer".into() },
        peer: Peer {
            node: "hadev2".into(),
            state: "heard".into(),
            role: "standby".into(),
            fit: true,
            heard_ms: 12,
        },
        links: vec![link("primary", 180), link("secondary", 1_190)],
        arbitrator: Some(Arbitrator { address: "172.16.8.250".into(), reachable: true, rtt_us: 310 }),
        vips: Vips { wanted: 2, held: 2, announced: 2, gate: "open".into() },
        services: vec![unit("diameter.service", "active", "active")],
        fit: true,
        last_takeover: Some(Takeover {
            here: true,
            gap_us: 523_400,
            at: "2026-11-23T14:02:11Z".into(),
            rule: "PeerLost".into(),
        }),
        version: "0.1.0".into(),
        ..Status::default()
    }
}

fn unit(name: &str, role: &str, state: &str) -> Service {
    Service { unit: name.into(), role: role.into(), state: state.into() }
}

fn standby() -> Status {
    let mut s = active();
    s.node = "hadev2".into();
    s.role = "standby".into();
    s.rule = "Switchover".into();
    s.lease = Lease { held: false, left_ms: 0, by: "none".into() };
    s.peer.node = "hadev1".into();
    s.peer.role = "active".into();
    s.vips = Vips { wanted: 2, held: 0, announced: 0, gate: "shut".into() };
    s.services = vec![];
    s.last_takeover = None;
    s
}

fn lost(mut s: Status) -> Status {
    s.peer.state = "lost".into();
    s.peer.heard_ms = 61_000;
    for link in &mut s.links {
        link.up = false;
        link.state = "down".into();
    }
    s
}

fn alarm(name: &str, text: &str) -> Alarm {
    Alarm {
        name: name.into(),
        subject: String::new(),
        text: text.into(),
        since: "2026-11-23T14:04:11Z".into(),
    }
}

fn plain(s: &Status) -> String {
    anstream::adapter::strip_str(&page(s, &[], NOW)).to_string()
}

#[track_caller]
fn shows(s: &Status, golden: &str) {
    let page = plain(s);
    assert_eq!(page, golden.strip_prefix('\n').unwrap_or(golden), "\n{page}");
}

/// Of another group the page says which, and every command that it names is that group's.
#[test]
fn a_groups_page_names_its_group_and_its_units() {
    let mut s = active();
    s.group = "mysql".into();
    s.rule = "Stopped".into();
    s.vips.gate = "absent".into();
    s.alarms = vec![alarm("Strange", "something is strange")];
    let text = plain(&s);
    for words in [
        "is ACTIVE in group mysql, term",
        "dre@mysql.service was stopped [Stopped]",
        "absent (dre-vip@mysql.service does not run)",
        "do:  drectl -g mysql check; journalctl -u dre@mysql -u dre-vip@mysql -e",
        "hand over: drectl -g mysql switchover",
        "look closer: drectl -g mysql check; journalctl -u dre@mysql -u dre-vip@mysql -e",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
}

/// Half of what is to be done is no help, and a command for the wrong group is harm.
#[test]
fn an_alarm_of_the_database_names_all_that_is_to_be_done_and_where_to_look() {
    use dre::logic::db::agent::Health;
    use dre::logic::db::gtids::Missing;
    let mut s = active();
    s.group = "mysql".into();
    let (words, hint) = Health::Diverged(Missing { count: 4, which: "0-1-8492..8495".into() }).words("mysql");
    s.alarms = vec![alarm("Database", &format!("DIVERGED: {words}; {hint}"))];
    let text = plain(&s);
    for words in [
        "do:  nothing is replicated until you decide: first drectl -g mysql db diverged",
        "drectl -g mysql db reseed (this server becomes a copy of the peer's again) or drectl -g mysql db accept-errant",
        "why: DIVERGED: 4 transactions are on this server alone: 0-1-8492..8495\n",
        "its database: drectl -g mysql db; journalctl -u dre-mysql@mysql -e",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
}

#[test]
fn active_and_all_is_well() {
    shows(
        &active(),
        "
hadev1 is ACTIVE, term 7, since 2026-11-23 14:02:11 UTC (3 min ago): the peer fell silent on every link and nobody answered for the VIPs [PeerLost]
Service: given here, 2 of 2 VIPs answer

lease        held, 412 ms left, by the peer's acknowledgements
peer         hadev2 heard 12 ms ago, standby, fit
links        primary    up, rtt 180 µs, 0.0 % lost
             secondary  up, rtt 1.19 ms, 0.0 % lost
arbitrator   172.16.8.250 answers, rtt 310 µs
VIPs         2 wanted, 2 held, 2 announced; gate open
services     diameter.service active
last change  to hadev1 by PeerLost, 2026-11-23 14:02:11 UTC (3 min ago), gap 523.4 ms

hand over: drectl switchover
",
    );
}

/// Green only where everything that shall run here runs.
#[test]
fn a_service_that_does_not_run_is_seen() {
    let second = |s: &Status| plain(s).lines().nth(1).unwrap_or_default().to_owned();
    let mut s = active();
    s.services.push(unit("report.service", "standby", "inactive"));
    s.services.push(unit("memcached.service", "both", "active"));
    assert_eq!(second(&s), "Service: given here, 2 of 2 VIPs answer");
    for (index, state, words) in [
        (0, "inactive", "diameter.service is inactive"),
        (0, "not-found", "diameter.service is not-found"),
        (2, "failed", "memcached.service failed"),
    ] {
        let mut s = s.clone();
        s.services[index].state = state.into();
        assert_eq!(second(&s), format!("Service: the VIPs answer here, but {words}"));
        assert_eq!(service(&s).0, BAD);
    }
    s.services[0].state = "activating".into();
    assert_eq!(service(&s).0, CARE, "it is on its way");
    s.alarms =
        vec![alarm("ServiceDown", "diameter.service is still starting; systemctl status diameter.service")];
    assert_eq!(service(&s).0, BAD);

    let mut s = standby();
    s.services =
        vec![unit("diameter.service", "active", "inactive"), unit("tomcat10.service", "both", "inactive")];
    assert_eq!(
        second(&s),
        "Service: given by hadev1; this node would take over, but tomcat10.service is inactive"
    );
    assert_eq!(service(&s).0, CARE);
}

#[test]
fn standby_beside_an_active_peer() {
    shows(
        &standby(),
        "
hadev2 is STANDBY, term 7, since 2026-11-23 14:02:11 UTC (3 min ago): the operator handed the role over [Switchover]
Service: given by hadev1; this node is ready to take over

peer         hadev1 heard 12 ms ago, active, fit
links        primary    up, rtt 180 µs, 0.0 % lost
             secondary  up, rtt 1.19 ms, 0.0 % lost
arbitrator   172.16.8.250 answers, rtt 310 µs
VIPs         2 wanted, 0 held, 0 announced; gate shut

take over: drectl switchover --to hadev2
",
    );
}

#[test]
fn links_cut_and_the_peer_still_serves() {
    let mut s = lost(standby());
    s.alarms = vec![
        alarm("PeerLost", "hadev1 is not heard on any link; look at its power, dre.service and the links"),
        alarm(
            "PeerStillServes",
            "hadev1 is lost on all links, but 02:00:00:00:00:01 answers for 172.16.9.61: not doubled; restore the links",
        ),
    ];
    shows(
        &s,
        "
hadev2 is STANDBY, term 7, since 2026-11-23 14:02:11 UTC (3 min ago): the operator handed the role over [Switchover]
Service: still given by another machine, most likely hadev1, which is not heard

ALARM PeerStillServes since 2026-11-23 14:04:11 UTC (60 s ago)
  do:  restore the heartbeat links; nothing is lost meanwhile. Do not start services by hand here
  why: hadev1 is lost on all links, but 02:00:00:00:00:01 answers for 172.16.9.61: not doubled; restore the links

ALARM PeerLost since 2026-11-23 14:04:11 UTC (60 s ago)
  do:  look at its power, dre.service and the links
  why: hadev1 is not heard on any link

peer         hadev1 LOST: silent for 61 s, was active then
links        primary    DOWN
             secondary  DOWN
arbitrator   172.16.8.250 answers, rtt 310 µs
VIPs         2 wanted, 0 held, 0 announced; gate shut

look closer: drectl check; journalctl -u dre -u dre-vip -e
",
    );
}

#[test]
fn isolated() {
    let mut s = lost(standby());
    s.rule = "Isolated".into();
    s.arbitrator = Some(Arbitrator { address: "172.16.8.250".into(), reachable: false, rtt_us: 0 });
    s.alarms = vec![alarm("Isolated", "neither the peer nor an arbitrator answers")];
    shows(
        &s,
        "
hadev2 is STANDBY, term 7, since 2026-11-23 14:02:11 UTC (3 min ago): neither the peer nor an arbitrator renewed the lease [Isolated]
Service: not given here, and this node cannot know whether it is given elsewhere

ALARM Isolated since 2026-11-23 14:04:11 UTC (60 s ago)
  do:  look at this node's cables and switch first: it may be the one that is cut off
  why: neither the peer nor an arbitrator answers

peer         hadev1 LOST: silent for 61 s, was active then
links        primary    DOWN
             secondary  DOWN
arbitrator   172.16.8.250 SILENT
VIPs         2 wanted, 0 held, 0 announced; gate shut

look closer: drectl check; journalctl -u dre -u dre-vip -e
",
    );
}

#[test]
fn unfit_standby() {
    let mut s = standby();
    s.fit = false;
    s.unfit_because = vec!["eth1 has no carrier".into()];
    s.vips.gate = "absent".into();
    s.rejected =
        vec![Rejected { reason: "mac".into(), count: 12 }, Rejected { reason: "replay".into(), count: 0 }];
    s.alarms = vec![alarm("Unfit", "this node could not run the services: eth1 has no carrier")];
    shows(
        &s,
        "
hadev2 is STANDBY, term 7, since 2026-11-23 14:02:11 UTC (3 min ago): the operator handed the role over [Switchover]
Service: given by hadev1; this node could NOT take over

ALARM Unfit since 2026-11-23 14:04:11 UTC (60 s ago)
  do:  mend what is named below; drectl check shows more
  why: this node could not run the services: eth1 has no carrier

peer         hadev1 heard 12 ms ago, active, fit
links        primary    up, rtt 180 µs, 0.0 % lost
             secondary  up, rtt 1.19 ms, 0.0 % lost
arbitrator   172.16.8.250 answers, rtt 310 µs
VIPs         2 wanted, 0 held, 0 announced; gate absent (dre-vip.service does not run)
fitness      UNFIT: eth1 has no carrier
rejected     datagrams: 12 mac

look closer: drectl check; journalctl -u dre -u dre-vip -e
",
    );
}

#[test]
fn standalone_without_peer_and_arbitrator() {
    let mut s = active();
    s.peer = Peer::default();
    s.links = vec![];
    s.arbitrator = None;
    s.standalone = true;
    s.last_takeover = None;
    s.lease.by = "standalone".into();
    shows(
        &s,
        "
hadev1 is ACTIVE, term 7, since 2026-11-23 14:02:11 UTC (3 min ago): the peer fell silent on every link and nobody answered for the VIPs [PeerLost]
Service: given here, 2 of 2 VIPs answer

lease        held, 412 ms left, by standalone mode
peer         none: standalone mode
VIPs         2 wanted, 2 held, 2 announced; gate open
services     diameter.service active
",
    );
}

#[test]
fn the_second_line_tells_whether_the_service_is_given() {
    let line = |s: &Status| plain(s).lines().nth(1).unwrap_or_default().to_owned();
    let with = |mut s: Status, change: fn(&mut Status)| {
        change(&mut s);
        line(&s)
    };
    assert_eq!(with(active(), |s| s.vips.gate = "shut".into()), "Service: NOT given: the gate is shut");
    assert_eq!(with(active(), |s| s.vips.held = 1), "Service: given in part: 1 of 2 VIPs are held");
    assert_eq!(
        with(active(), |s| s.services[0].state = "failed".into()),
        "Service: the VIPs answer here, but diameter.service failed"
    );
    assert_eq!(with(active(), |s| s.role = "claiming".into()), "Service: being taken over by this node");
    assert_eq!(with(active(), |s| s.role = "releasing".into()), "Service: being let go by this node");
    assert_eq!(
        with(standby(), |s| s.peer.role = "claiming".into()),
        "Service: in between: hadev1 is claiming"
    );
    assert_eq!(
        with(standby(), |s| s.peer.role = "standby".into()),
        "Service: NOT given: both nodes are standby"
    );
    assert_eq!(line(&lost(standby())), "Service: NOT given here, and hadev1 is not heard");
}

#[test]
fn every_rule_of_the_election_has_its_words() {
    for rule in dre::logic::election::Rule::ALL {
        assert!(in_words(rule.word()).is_some(), "{rule:?}");
    }
}

#[test]
fn an_alarm_is_red() {
    let mut s = standby();
    s.alarms = vec![alarm("X", "y; z")];
    assert!(
        page(&s, &[], NOW).contains("\u{1b}[31mALARM X")
            || page(&s, &[], NOW).contains("\u{1b}[1m\u{1b}[31mALARM X")
    );
}

#[test]
fn rules_files_that_are_not_in_sync_have_a_row() {
    let set = |name: &str, state: &str, reason: &str| SetStatus {
        name: name.into(),
        state: state.into(),
        reason: reason.into(),
        ..SetStatus::default()
    };
    let sets = [
        set("re", "HELD", "9000 of 10000 files are gone at once"),
        set("x", "IN_SYNC", ""),
        set("erlbf", "SYNCING", ""),
    ];
    let text = anstream::adapter::strip_str(&page(&Status::default(), &sets, NOW)).to_string();
    assert!(
        text.contains(
            "rules        re HELD: 9000 of 10000 files are gone at once\n             erlbf SYNCING\n"
        ),
        "{text}"
    );
    assert!(text.ends_with("rules files: drectl rules\n"), "{text}");
    let quiet = page(&Status::default(), &sets[1..2], NOW);
    assert!(!quiet.contains("rules"), "{quiet}");
}

/// Over TIPC the kernel says of a link whether it is up; round trip and loss are those of the heartbeats.
#[test]
fn links_over_tipc_have_no_figures_of_their_own() {
    let mut s = active();
    for link in &mut s.links {
        (link.measured, link.rtt_us, link.loss_pct) = ("heartbeats".into(), 700, 1.5);
    }
    (s.links[1].up, s.links[1].state) = (false, "down".into());
    let page = plain(&s);
    for line in [
        "links        primary    up, says the kernel",
        "             secondary  DOWN",
        "heartbeats   rtt 700 µs, 1.5 % lost, over all links",
    ] {
        assert!(page.lines().any(|l| l == line), "{line:?} in\n{page}");
    }
}
