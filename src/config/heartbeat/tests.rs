//! Small files in, remarks and the loader's own verdict out.

use std::fmt::Write;

use super::ha_cf::milliseconds;
use super::resources::{Vip, vip};
use super::*;
use crate::config::{Settings, clashes, parse};

const HA_CF: &str = "\
# the old guide's
logfile /var/log/ha-log
logfacility local0
keepalive 1
deadtime 15
udpport 694
bcast eth3 eth4 # heartbeats
auto_failback on
node hadev1 hadev2
ping 172.16.8.250
";
const RESOURCES: &str = "hadev1 IPaddr::172.16.10.71/16/eth2:0/172.16.255.255 mysql\n";
const HOSTS: &str = "\
127.0.0.1 localhost hadev1-eth3 # no way to it
172.16.8.54 hadev1
172.16.8.55 hadev2
172.16.10.54 hadev1-eth2
172.16.10.55 hadev2-eth2
172.16.11.54 hadev1-eth3
172.16.11.55 hadev2-eth3
172.16.12.54 hadev1-eth4
172.16.12.55 hadev2-eth4
";

fn source(file: &str, text: &str) -> Source {
    Source { file: file.into(), text: text.into() }
}

/// The old guide's files, read on a machine that is none of the nodes.
fn guide() -> Given {
    Given {
        group: "mysql".into(),
        ha_cf: source("ha.cf", HA_CF),
        haresources: source("haresources", RESOURCES),
        authkeys: Some(source("authkeys", "auth 1\n1 crc\n")),
        hosts: Some(source("hosts", HOSTS)),
        host: "desk".into(),
        arbitrator_interface: Some("eth0".into()),
        ..Given::default()
    }
}

/// The guide's with another `ha.cf`, `from` replaced.
fn with(from: &str, to: &str) -> Given {
    assert!(HA_CF.contains(from), "{from:?} is not in the file");
    Given { ha_cf: source("ha.cf", &HA_CF.replacen(from, to, 1)), ..guide() }
}

/// The same with a line more, the eleventh.
fn line(more: &str) -> Given {
    Given { ha_cf: source("ha.cf", &format!("{HA_CF}{more}\n")), ..guide() }
}

/// The guide's with another `haresources`.
fn resources(text: &str) -> Given {
    Given { haresources: source("haresources", text), ..guide() }
}

/// On a node, with its interfaces.
fn on(given: Given, host: &str, interfaces: &[(&str, &str)]) -> Given {
    let mut given = Given { host: host.into(), ..given };
    for (name, net) in interfaces {
        let nets = given.facts.interfaces.entry((*name).to_owned()).or_default();
        nets.push(net.parse().expect("a network"));
    }
    given
}

fn lines(import: &Import) -> String {
    import.remarks.iter().map(|remark| format!("{remark}\n")).collect()
}

/// The text, which must be whole: the loader takes it on both nodes, and finds the same in it.
#[track_caller]
fn holds(import: &Import) -> Settings {
    let said = lines(import);
    let text = import.toml.clone().unwrap_or_else(|| panic!("no text:\n{said}"));
    assert_eq!(import.of(Outcome::Open).count(), 0, "{said}");
    assert!(!text.contains(FILL_IN), "{text}");
    let read = |node: &str| {
        let sources = [("/etc/dre/mysql.toml".into(), text.clone())];
        parse(&sources, "mysql", node, false).unwrap_or_else(|error| panic!("{error}\n{text}"))
    };
    let (one, two) = (read("hadev1"), read("hadev2"));
    assert_eq!(one.digest, two.digest);
    one
}

/// The text, which must not be whole: it says so, and the loader does not take it.
#[track_caller]
fn open(import: &Import) -> &str {
    let text = import.toml.as_deref().unwrap_or_else(|| panic!("no text:\n{}", lines(import)));
    assert!(import.of(Outcome::Open).count() > 0, "{}", lines(import));
    assert!(text.contains("NOT COMPLETE"), "{text}");
    let sources = [("/etc/dre/mysql.toml".into(), text.to_owned())];
    parse(&sources, "mysql", "hadev1", false).expect_err(text);
    text
}

#[track_caller]
fn said(import: &Import, words: &str) {
    let all = lines(import);
    assert!(all.lines().any(|line| line.contains(words)), "{words:?} is not said in:\n{all}");
}

#[test]
fn the_old_guides_pair_is_a_group_that_holds() {
    let made = import(&guide());
    let settings = holds(&made);
    assert!(made.warnings.is_empty() && settings.warnings.is_empty(), "{:?}", settings.warnings);
    let links: Vec<(String, String, String)> = settings
        .links
        .iter()
        .map(|link| (link.name.clone(), link.local.to_string(), link.peer.to_string()))
        .collect();
    let link = |name: &str, net: &str| (name.to_owned(), format!("{net}.54"), format!("{net}.55"));
    assert_eq!(links, [link("primary", "172.16.11"), link("secondary", "172.16.12")]);
    assert_eq!((settings.heartbeat.interval.as_millis(), settings.heartbeat.missed_max), (1000, 15));
    assert_eq!(settings.heartbeat.port, 694);
    let arbitrator = settings.arbitrator.as_ref().expect("one");
    assert_eq!(
        (arbitrator.addresses[0].to_string().as_str(), arbitrator.interface.as_str()),
        ("172.16.8.250", "eth0")
    );
    let [vip] = settings.vips.as_slice() else { panic!("one VIP") };
    assert_eq!((vip.address.to_string().as_str(), vip.interface.as_str()), ("172.16.10.71/16", "eth2"));
    assert_eq!(vip.label.as_deref(), Some("eth2:0"));
    assert_eq!(vip.broadcast.map(|ip| ip.to_string()).as_deref(), Some("172.16.255.255"));
    assert_eq!(settings.election.preferred.as_deref(), Some("hadev1"));
    assert!(settings.election.failback && settings.is_first());
    assert_eq!(settings.election.failback_hold.as_secs(), 60);
    let database = settings.database.as_ref().expect("a server");
    assert_eq!(database.unit, "mariadb.service");
    assert!(settings.services.active.is_empty(), "the server runs on both nodes");
}

/// Beside the group dre of the same two machines.
#[test]
fn the_old_guides_pair_lives_beside_the_other_group() {
    let dre = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/dre.toml"))
        .expect("the example");
    let dre = parse(&[("dre.toml".into(), dre)], "dre", "hadev1", false).expect("holds");
    clashes(&[dre, holds(&import(&guide()))]).expect("both on one machine");
}

#[test]
fn every_line_that_says_something_is_spoken_of() {
    let made = import(&guide());
    for (file, text) in [("ha.cf", HA_CF), ("haresources", RESOURCES), ("authkeys", "auth 1\n1 crc\n")] {
        for (n, line) in numbered(text).filter(|(_, line)| !line.starts_with('#')) {
            assert!(
                made.remarks.iter().any(|remark| remark.file == file && remark.line == n),
                "{file}:{n}: {line}\n{}",
                lines(&made)
            );
        }
    }
    let order: Vec<(&str, usize)> =
        made.remarks.iter().map(|remark| (remark.file.as_str(), remark.line)).collect();
    let mut sorted = order.clone();
    sorted.sort_by_key(|(file, line)| {
        (["ha.cf", "haresources", "authkeys"].iter().position(|f| f == file), *line)
    });
    assert_eq!(order, sorted);
}

// ---- ha.cf -------------------------------------------------------------------------------------------------

#[test]
fn times_are_heartbeats() {
    for (text, ms) in [
        ("1", Some(1000)),
        ("1000ms", Some(1000)),
        ("1000MS", Some(1000)),
        ("1000msec", Some(1000)),
        ("1000000us", Some(1000)),
        ("1000000usec", Some(1000)),
        ("0.1", Some(100)),
        (".5", Some(500)),
        ("1.", Some(1000)),
        ("0.001", Some(1)),
        ("499us", Some(0)),
        ("501us", Some(1)),
        ("2s", Some(2000)),
        ("2m", Some(120_000)),
        ("1h", Some(3_600_000)),
        ("0", Some(0)),
        ("", None),
        (".", None),
        ("1.2.3", None),
        ("ms", None),
        ("-1", None),
        ("1e3", None),
        ("1 ms", None),
        ("inf", None),
        ("nan", None),
        ("1d", None),
    ] {
        assert_eq!(milliseconds(text), ms, "{text:?}");
    }
}

#[test]
fn keepalive_and_deadtime_become_interval_and_missed() {
    for (keepalive, deadtime, interval, missed, outcome) in [
        ("1", "15", 1000, 15, Outcome::Taken),
        ("500ms", "10", 500, 20, Outcome::Taken),
        ("2", "30", 2000, 15, Outcome::Taken),
        // Rounded up.
        ("2", "15", 2000, 8, Outcome::Changed),
        // More than a hundred heartbeats are further apart instead.
        ("100ms", "30", 300, 100, Outcome::Taken),
        ("10ms", "2", 20, 100, Outcome::Taken),
        // What dre does not take.
        ("1ms", "1", 10, 100, Outcome::Taken),
        ("1", "2", 1000, 3, Outcome::Changed),
        ("2", "120", 2000, 30, Outcome::Changed),
        ("20", "60", 10_000, 6, Outcome::Taken),
        ("7", "60", 7000, 8, Outcome::Changed),
    ] {
        let given = with("keepalive 1\ndeadtime 15", &format!("keepalive {keepalive}\ndeadtime {deadtime}"));
        let made = import(&given);
        let heartbeat = holds(&made).heartbeat;
        let found = (heartbeat.interval.as_millis(), heartbeat.missed_max);
        assert_eq!(found, (interval, missed), "keepalive {keepalive}, deadtime {deadtime}");
        let remark = made.remarks.iter().find(|r| r.what.starts_with("deadtime")).expect("spoken of");
        assert_eq!((remark.line, remark.outcome), (5, outcome), "{remark}");
    }
    let made = import(&with("keepalive 1\ndeadtime 15\n", ""));
    let heartbeat = holds(&made).heartbeat;
    assert_eq!((heartbeat.interval.as_millis(), heartbeat.missed_max), (1000, 30), "Heartbeat's own");
    said(&made, "ha.cf: taken: no keepalive");
    said(&made, "ha.cf: taken: no deadtime");
}

/// Whatever the times are: the loader takes them, and a peer is not lost earlier than before where it need not be.
#[test]
fn no_times_make_a_file_that_does_not_hold() {
    let times = [
        1, 2, 3, 4, 5, 6, 7, 10, 33, 99, 100, 101, 500, 999, 1000, 2000, 3333, 7000, 9999, 10_000, 10_001,
        29_999, 60_000, 60_001, 3_600_000,
    ];
    for keepalive in times {
        for deadtime in times {
            let (interval, missed) = super::draft::beat(keepalive, deadtime);
            assert!(
                (3..=100).contains(&missed) && (5..=10_000).contains(&interval),
                "{keepalive} {deadtime}"
            );
            let dead_after = interval * missed;
            assert!(dead_after <= 60_000, "{keepalive} {deadtime}: {dead_after}");
            if dead_after < deadtime {
                assert!(
                    deadtime > 60_000 || dead_after + interval > 60_000,
                    "{keepalive} {deadtime}: {dead_after}"
                );
            }
            let to = format!("keepalive {keepalive}ms\ndeadtime {deadtime}ms");
            holds(&import(&with("keepalive 1\ndeadtime 15", &to)));
        }
    }
}

#[test]
fn the_role_goes_back_as_the_old_resources_did() {
    for (line, failback, words) in [
        ("auto_failback on", true, "auto_failback on -> [election] failback = true, failback_hold_s = 60"),
        ("auto_failback YES", true, "failback = true"),
        ("auto_failback legacy", true, "failback = true"),
        ("auto_failback off", false, "taken: auto_failback off -> [election] failback = false"),
        ("auto_failback 0", false, "failback = false"),
        ("nice_failback on", false, "failback = false"),
        ("nice_failback off", true, "failback = true"),
        ("# nothing", true, "ha.cf: changed: no auto_failback: Heartbeat's own is legacy"),
    ] {
        let made = import(&with("auto_failback on", line));
        assert_eq!(holds(&made).election.failback, failback, "{line}");
        said(&made, words);
    }
    let given = Given { haresources: source("haresources", "hadev1 172.16.10.71/16/eth2\n"), ..guide() };
    assert_eq!(holds(&import(&given)).election.failback_hold.as_secs(), 10, "no data to catch up with");
}

#[test]
fn initdead_is_how_long_a_start_listens() {
    for (line, ms, words) in [
        ("initdead 120", 120_000, "taken: initdead 120 -> [election] startup_hold_ms = 120000"),
        ("initdead 15", 15_000, "taken: initdead 15"),
        ("initdead 5", 15_000, "changed: initdead 5 -> [election] startup_hold_ms = 15000"),
        ("initdead 100h", 86_400_000, "not for longer than a day"),
        ("initdead 99999999999999999999", 86_400_000, "changed"),
    ] {
        let made = import(&self::line(line));
        assert_eq!(holds(&made).election.startup_hold.as_millis(), ms, "{line}");
        said(&made, words);
    }
}

#[test]
fn the_port_is_the_old_one() {
    assert_eq!(holds(&import(&with("udpport 694", "udpport 1234"))).heartbeat.port, 1234);
    let made = import(&with("udpport 694\n", ""));
    assert_eq!(holds(&made).heartbeat.port, 694);
    said(&made, "no udpport");
    let made = import(&with("udpport 694\nbcast eth3 eth4", "mcast eth3 225.0.0.1 700 1 0\nbcast eth4"));
    assert_eq!(holds(&made).heartbeat.port, 700, "a multicast says its own");
}

#[test]
fn what_is_said_twice_counts_the_last_time() {
    let made = import(&line("keepalive 2"));
    assert_eq!(holds(&made).heartbeat.interval.as_millis(), 2000);
    said(&made, "ha.cf:4: dropped: keepalive 1 (line 11 says it again");
    said(&made, "ha.cf:11: taken: keepalive 2");
    let made = import(&line("node hadev2"));
    holds(&made);
    said(&made, "ha.cf:11: dropped: node hadev2");
}

#[test]
fn nodes_are_named_as_dre_names_hosts() {
    for (to, words) in [
        ("node hadev1\nnode hadev2", "ha.cf:10: taken: node hadev2 -> [nodes.hadev2]"),
        ("node hadev1,hadev2", "node hadev1 -> [nodes.hadev1]"),
        ("node hadev1.example.com hadev2.example.com", "changed: node hadev1.example.com -> [nodes.hadev1]"),
    ] {
        let made = import(&with("node hadev1 hadev2", to));
        holds(&made);
        said(&made, words);
    }
    let given = Given {
        haresources: source("haresources", &RESOURCES.replace("hadev1", "HADEV1.example.com")),
        ..guide()
    };
    assert_eq!(
        holds(&import(&given)).election.preferred.as_deref(),
        Some("hadev1"),
        "the case does not matter"
    );
}

/// Every directive that Heartbeat's own parser knows and dre has nothing for.
#[test]
fn every_other_directive_says_why_it_is_dropped() {
    let without = import(&guide()).toml;
    for directive in [
        "warntime 10",
        "deadping 30",
        "watchdog /dev/watchdog",
        "serial /dev/ttyS0",
        "baud 19200",
        "hbaping fc-card-name",
        "rtprio 5",
        "realtime on",
        "logfile /var/log/ha-log",
        "debugfile /var/log/ha-debug",
        "logfacility local0",
        "use_logd yes",
        "conn_logd_time 60",
        "log_badpack true",
        "record_config_changes on",
        "record_pengine_inputs on",
        "enable_config_writes on",
        "debug 1",
        "apiauth ipfail gid=haclient uid=hacluster",
        "hopfudge 1",
        "compression bz2",
        "compression_threshold 2",
        "traditional_compression off",
        "max_rexmit_delay 250",
        "msgfmt netstring",
        "hbgenmethod time",
        "uuidfrom file",
        "memreserve 6500",
        "quorum_server qs",
        "use_apphbd on",
        "coredumps true",
        "coreroot /var/cores",
        "normalpoll true",
        "autojoin none",
        "crm off",
        "crm no",
        "stonith baytech /etc/ha.d/conf/stonith.baytech",
        "stonith_host * baytech 10.0.0.3 mylogin mysecret",
        "env A=mysecret",
        "respawn hacluster /usr/lib/heartbeat/ipfail",
        "respawn root /usr/sbin/watcher --password mysecret",
    ] {
        let made = import(&line(directive));
        holds(&made);
        assert_eq!(made.toml, without, "{directive}");
        let remark = made.remarks.iter().find(|remark| remark.file == "ha.cf" && remark.line == 11);
        let remark = remark.unwrap_or_else(|| panic!("nothing is said of {directive}"));
        assert_eq!(remark.outcome, Outcome::Dropped, "{remark}");
        let word = directive.split_whitespace().next().unwrap_or_default();
        assert!(remark.what.starts_with(word) && !remark.why.is_empty(), "{remark}");
        assert!(!lines(&made).contains("mysecret"), "{remark}");
        assert!(!lines(&made).contains("GROUP"), "{remark}");
    }
    said(&import(&line("debug 1")), "systemctl service-log-level dre@mysql debug");
}

#[test]
fn what_cannot_be_understood_is_said_with_its_place_and_its_remedy() {
    for (given, place, words) in [
        (with("keepalive 1", "keepalive soon"), "ha.cf:4", "keepalive soon"),
        (with("keepalive 1", "keepalive"), "ha.cf:4", "number of seconds"),
        (with("keepalive 1", "keepalive 0"), "ha.cf:4", "keepalive 0"),
        (with("keepalive 1", "keepalive 499us"), "ha.cf:4", "1 ms at least"),
        (with("keepalive 1", "keepalive 500 ms"), "ha.cf:4", "right behind it"),
        (with("deadtime 15", "deadtime -15"), "ha.cf:5", "deadtime -15"),
        (line("initdead x"), "ha.cf:11", "initdead x"),
        (with("udpport 694", "udpport 0"), "ha.cf:6", "1 to 65535"),
        (with("udpport 694", "udpport 70000"), "ha.cf:6", "70000"),
        (with("udpport 694", "udpport 694 695"), "ha.cf:6", "694 695"),
        (with("bcast eth3 eth4", "bcast"), "ha.cf:7", "bcast eth3 eth4"),
        (with("bcast eth3 eth4", "bcast eth3 eth4/0"), "ha.cf:7", "eth4/0"),
        (with("bcast eth3 eth4", "ucast eth3"), "ha.cf:7", "ucast eth3 172.16.11.55"),
        (with("bcast eth3 eth4", "ucast eth3 peer"), "ha.cf:7", "ucast eth3 peer"),
        (with("bcast eth3 eth4", "mcast eth3 225.0.0.1"), "ha.cf:7", "694 1 0"),
        (with("bcast eth3 eth4", "mcast eth3 225.0.0.1 x 1 0"), "ha.cf:7", "694 1 0"),
        (with("auto_failback on", "auto_failback maybe"), "ha.cf:8", "auto_failback on"),
        (with("auto_failback on", "auto_failback"), "ha.cf:8", "auto_failback off"),
        (with("auto_failback on", "nice_failback legacy"), "ha.cf:8", "legacy"),
        (with("node hadev1 hadev2", "node"), "ha.cf:9", "names nobody"),
        (with("node hadev1 hadev2", "node hadev1"), "ha.cf", "names 1 nodes: hadev1"),
        (with("node hadev1 hadev2", "node hadev1 hadev2 hadev3"), "ha.cf", "a pair has two"),
        (with("node hadev1 hadev2", "node hadev1 hadev2!"), "ha.cf:9", "hadev2!"),
        (with("node hadev1 hadev2", "node hadev1 -x"), "ha.cf:9", "-x"),
        (with("node hadev1 hadev2", "node hadev1.a HADEV1.b"), "ha.cf", "names 1 nodes"),
        (with("ping 172.16.8.250", "ping"), "ha.cf:10", "names nobody"),
        (with("ping 172.16.8.250", "ping_group gateways"), "ha.cf:10", "names nobody"),
        (line("crm yes"), "ha.cf:11", "cib.xml"),
        (line("crm respawn"), "ha.cf:11", "cib.xml"),
        (line("crm"), "ha.cf:11", "cib.xml"),
        (line("keepalife 2"), "ha.cf:11", "no such directive"),
        (line("Keepalive 2"), "ha.cf:11", "no such directive"),
        (Given { ha_cf: source("ha.cf", "# nothing\n"), ..guide() }, "ha.cf", "there is no directive"),
        (resources("hadev3 mysql\n"), "haresources:1", "hadev3"),
        (resources("\n\nmysql hadev1\n"), "haresources:3", "begins with mysql"),
        (resources("hadev1 IPaddr\n"), "haresources:1", "names no address"),
        (resources("hadev1 IPaddr::gateway/16/eth2\n"), "haresources:1", "\"gateway\" is no address"),
        (resources("hadev1 172.16.10.371/16\n"), "haresources:1", "172.16.10.371"),
        (resources("hadev1 172.16.10.71/33\n"), "haresources:1", "33 bits"),
        (resources("hadev1 172.16.10.71/16/eth2/eth3\n"), "haresources:1", "\"eth3\" is one part too many"),
        (resources("hadev1 /usr/sbin/httpd\n"), "haresources:1", "/usr/sbin/httpd"),
        (resources("hadev1 dre-vip\n"), "haresources:1", "dre-vip"),
        (resources("hadev1 mysql \\\n  172.16.10.999\n"), "haresources:2", "172.16.10.999"),
        (Given { preferred: Some("hadev9".into()), ..guide() }, "haresources", "hadev9"),
    ] {
        let made = import(&given);
        let all = lines(&made);
        assert!(made.toml.is_none() && made.warnings.is_empty(), "{words}: {all}");
        let wrong: Vec<&Remark> = made.of(Outcome::Wrong).collect();
        assert!(
            wrong.iter().any(|remark| remark.place() == place && remark.to_string().contains(words)),
            "{place}: {words:?} is not said in:\n{all}"
        );
        for remark in wrong {
            assert!(
                !remark.what.is_empty() && !remark.why.is_empty() && !remark.remedy.is_empty(),
                "{remark}"
            );
        }
    }
}

// ---- links -------------------------------------------------------------------------------------------------

/// What hadev1 and hadev2 have on the links; `?`: to be filled in.
#[track_caller]
fn ends(given: &Given) -> String {
    let made = import(given);
    let text = made.toml.as_deref().unwrap_or_else(|| panic!("no text:\n{}", lines(&made)));
    let mut all = vec![];
    for line in text.lines().filter_map(|line| line.strip_prefix("links = { ")) {
        let links = line.split(" }").next().unwrap_or_default();
        let values = links.split(", ").map(|link| link.split('"').nth(1).unwrap_or_default());
        all.push(values.collect::<Vec<_>>().join(" ").replace(FILL_IN, "?"));
    }
    assert_eq!(all.len(), 2, "{text}");
    let (open, marked) =
        (text.contains("links") && all.concat().contains('?'), text.contains("# FILL IN: hadev"));
    assert_eq!(open, marked, "each is said in a comment: {text}");
    all.join(" | ")
}

#[test]
fn links_are_where_the_files_or_this_machine_know_the_addresses() {
    let media = |lines: &str, hosts: &str| Given {
        hosts: Some(source("hosts", hosts)),
        ..with("bcast eth3 eth4", lines)
    };
    let eth3 = [("eth3", "172.16.11.54/24"), ("lo", "127.0.0.1/8")];
    for (given, found) in [
        // By names.
        (media("bcast eth3", HOSTS), "172.16.11.54 | 172.16.11.55"),
        (media("udp eth3", HOSTS), "172.16.11.54 | 172.16.11.55"),
        (media("mcast eth3 225.0.0.1 694 1 0", HOSTS), "172.16.11.54 | 172.16.11.55"),
        (media("bcast eth3", "10.0.0.1 x eth3-hadev1\n10.0.0.2 hadev2_eth3.site\n"), "10.0.0.1 | 10.0.0.2"),
        (media("bcast eth3", "10.0.0.1 eth3.hadev1\n10.0.0.2 HADEV2-ETH3\n"), "10.0.0.1 | 10.0.0.2"),
        (media("bcast eth3", "fd00::1 hadev1-eth3\nfd00::2 hadev2-eth3\n"), "fd00::1 | fd00::2"),
        (media("bcast eth4 eth3", HOSTS), "172.16.12.54 172.16.11.54 | 172.16.12.55 172.16.11.55"),
        // One interface is one link, however many lines speak of it.
        (media("bcast eth3\nucast eth3 172.16.11.55", HOSTS), "172.16.11.54 | 172.16.11.55"),
        // Not by names that only look so.
        (media("bcast eth3", "10.0.0.1 hadev1-eth33\n10.0.0.2 hadev22-eth3\n"), "? | ?"),
        (media("bcast eth3", "172.16.11.54 hadev1-eth3\n127.0.1.1 hadev2-eth3\n"), "172.16.11.54 | ?"),
        (media("bcast eth3", ""), "? | ?"),
        (media("bcast eth3", "not.an.address hadev1-eth3\n"), "? | ?"),
        // ucast: whose address it is says the hosts file, or this machine.
        (media("ucast eth3 10.0.0.1\nucast eth3 10.0.0.2", "10.0.0.1 hadev1-hb\n"), "10.0.0.1 | 10.0.0.2"),
        (media("ucast eth3 10.0.0.1\nucast eth3 10.0.0.2", "10.0.0.1 hadev2\n"), "10.0.0.2 | 10.0.0.1"),
        (media("ucast eth3 10.0.0.1\nucast eth3 10.0.0.2", ""), "? | ?"),
        (media("ucast eth3 10.0.0.1", "10.0.0.1 hadev1\n"), "10.0.0.1 | ?"),
        (media("ucast eth3 10.0.0.1", "10.0.0.1 hadev1 hadev2\n"), "? | ?"),
        (on(media("ucast eth3 172.16.11.55", ""), "hadev1", &eth3), "172.16.11.54 | 172.16.11.55"),
        (on(media("ucast eth3 172.16.11.54", ""), "hadev1", &eth3), "172.16.11.54 | ?"),
        (on(media("ucast eth3 172.16.11.53", ""), "hadev2", &eth3), "172.16.11.53 | 172.16.11.54"),
        // A peer that is in no network of the interface is not believed to be there.
        (on(media("ucast eth3 192.168.1.2", ""), "hadev1", &eth3), "172.16.11.54 | ?"),
        // bcast, on a node: its own, and the peer's if only one address of it is in that network.
        (on(media("bcast eth3", ""), "hadev1", &eth3), "172.16.11.54 | ?"),
        (on(media("bcast eth3", ""), "HADEV2", &eth3), "? | 172.16.11.54"),
        (on(media("bcast eth3", ""), "desk", &eth3), "? | ?"),
        (
            on(media("bcast eth3", "172.16.8.55 hadev2\n172.16.11.55 hadev2-hb\n"), "hadev1", &eth3),
            "172.16.11.54 | 172.16.11.55",
        ),
        (
            on(media("bcast eth3", "172.16.11.56 hadev2\n172.16.11.55 hadev2-hb\n"), "hadev1", &eth3),
            "172.16.11.54 | ?",
        ),
        (on(media("bcast eth3", "172.16.11.55 hadev22\n"), "hadev1", &eth3), "172.16.11.54 | ?"),
    ] {
        let hosts = given.hosts.as_ref().map(|hosts| hosts.text.clone());
        assert_eq!(ends(&given), found, "{}\n{hosts:?} on {}", given.ha_cf.text, given.host);
    }
}

#[test]
fn a_link_that_is_not_known_is_said_and_holds_when_it_is_filled_in() {
    let given = Given { hosts: Some(source("hosts", &HOSTS.replace("hadev2-eth4", "other"))), ..guide() };
    let made = import(&given);
    let text = open(&made);
    said(
        &made,
        "ha.cf:7: LEFT OPEN: bcast eth4 (dre speaks from address to address, and that of hadev2 on eth4 is not known)",
    );
    said(&made, "name it hadev2-eth4 in hosts and import again");
    said(
        &made,
        "ha.cf:7: taken: bcast eth3 -> link primary: hadev1 172.16.11.54 (hosts:6), hadev2 172.16.11.55 (hosts:7)",
    );
    assert!(text.contains("\n# FILL IN: hadev2's address on eth4\n"), "{text}");
    let filled = text.replacen("secondary = \"FILL IN\"", "secondary = \"172.16.12.55\"", 1);
    let whole = parse(&[("mysql.toml".into(), filled)], "mysql", "hadev2", false).expect("holds");
    assert_eq!(whole.digest, holds(&import(&guide())).digest);
}

#[test]
fn without_a_path_over_a_network_the_links_are_to_be_filled_in() {
    for lines in ["serial /dev/ttyS0", "# none"] {
        let made = import(&with("bcast eth3 eth4", lines));
        open(&made);
        said(&made, "ha.cf: LEFT OPEN: it has no heartbeat path over a network");
    }
}

/// The loader's host check refuses a VIP on a heartbeat's interface.
#[test]
fn no_heartbeat_goes_where_a_vip_lies() {
    let made = import(&with("bcast eth3 eth4", "bcast eth2 eth3 eth4"));
    let links = holds(&made).links;
    assert_eq!(links.len(), 2);
    assert_eq!(links[0].local.to_string(), "172.16.11.54", "the first that is left is the primary");
    said(&made, "ha.cf:7: dropped: bcast eth2 (the VIP 172.16.10.71 lies on eth2");

    let made = import(&with("bcast eth3 eth4", "bcast eth2"));
    let text = open(&made);
    assert!(
        text.contains("# FILL IN: hadev1's address, but not on eth2, where the VIP 172.16.10.71 lies"),
        "{text}"
    );
    assert!(!text.contains("172.16.10.54"), "{text}");
    said(&made, "ha.cf:7: LEFT OPEN: bcast eth2");
}

#[test]
fn a_heartbeat_names_eight_links_and_no_more() {
    let (mut media, mut hosts) = ("bcast".to_owned(), String::new());
    for n in 10..19 {
        let _ = write!(media, " eth{n}");
        let _ = write!(hosts, "10.0.{n}.1 hadev1-eth{n}\n10.0.{n}.2 hadev2-eth{n}\n");
    }
    let given = Given { hosts: Some(source("hosts", &hosts)), ..with("bcast eth3 eth4", &media) };
    let made = import(&given);
    assert_eq!(holds(&made).links.len(), 8);
    said(&made, "ha.cf:7: dropped: bcast eth18 (a heartbeat can name 8 links)");
}

// ---- arbitrators -------------------------------------------------------------------------------------------

#[test]
fn arbitrators_are_those_that_were_pinged() {
    let asked = |to: &str| {
        let made = import(&with("ping 172.16.8.250", to));
        let arbitrator = holds(&made).arbitrator.expect("one");
        arbitrator.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(asked("ping 172.16.8.250 172.16.8.251"), "172.16.8.250 172.16.8.251");
    assert_eq!(asked("ping_group gateways 172.16.8.250 172.16.8.251"), "172.16.8.250 172.16.8.251");
    assert_eq!(asked("ping 172.16.8.250\nping 172.16.8.251,172.16.8.250"), "172.16.8.250 172.16.8.251");
    let hosts = format!("{HOSTS}172.16.8.1 gateway.example.com\n");
    let given = Given { hosts: Some(source("hosts", &hosts)), ..with("ping 172.16.8.250", "ping gateway") };
    assert_eq!(holds(&import(&given)).arbitrator.expect("one").addresses[0].to_string(), "172.16.8.1");

    let made = import(&with("ping 172.16.8.250", "ping gateway"));
    let text = open(&made);
    assert!(text.contains("# FILL IN: the address of gateway\naddresses = [\"FILL IN\"]"), "{text}");
    said(&made, "ha.cf:10: LEFT OPEN: ping gateway");

    let made = import(&with("ping 172.16.8.250\n", ""));
    assert!(holds(&made).arbitrator.is_none());
    assert!(made.warnings.iter().any(|warning| warning.contains("no [arbitrator]")), "{:?}", made.warnings);

    // The loader's own objections are those of the new text.
    let made = import(&with("ping 172.16.8.250", "ping 172.16.11.55"));
    open(&made);
    let remark = made.of(Outcome::Open).next().expect("one");
    assert!(remark.what.contains("172.16.11.55 is the address of hadev2's link primary"), "{remark}");
    let line = made.toml.as_deref().and_then(|text| text.lines().nth(remark.line - 1));
    assert_eq!(
        (remark.file.as_str(), line),
        ("mysql.toml", Some("addresses = [\"172.16.11.55\"]         # ping"))
    );
}

#[test]
fn the_way_to_the_arbitrator_is_said_or_this_machines() {
    let silent = || Given { arbitrator_interface: None, ..guide() };
    let eth0 = [("eth0", "172.16.8.54/24"), ("eth3", "172.16.11.54/24")];
    let text = open(&import(&silent())).to_owned();
    assert!(text.contains("# FILL IN: the interface on whose network"), "{text}");
    let filled = text.replacen("interface = \"FILL IN\"", "interface = \"eth0\"", 1);
    parse(&[("mysql.toml".into(), filled)], "mysql", "hadev1", false).expect("holds");

    let made = import(&on(silent(), "hadev1", &eth0));
    assert_eq!(holds(&made).arbitrator.expect("one").interface, "eth0");
    said(&made, "taken: ping 172.16.8.250 -> [arbitrator] 172.16.8.250, asked over eth0");
    // No node: what it is connected to says nothing.
    open(&import(&on(silent(), "desk", &eth0)));
    // A node, but not in that network.
    open(&import(&on(silent(), "hadev1", &eth0[1..])));

    // Not where the VIP lies.
    let eth2 = Given { arbitrator_interface: Some("eth2".into()), ..guide() };
    let made = import(&eth2);
    open(&made);
    said(&made, "it would be asked over eth2, where the VIP 172.16.10.71 lies");
    // Said nonsense is the loader's to refuse.
    let made = import(&Given { arbitrator_interface: Some("eth 0\"".into()), ..guide() });
    assert!(made.of(Outcome::Open).any(|remark| remark.what.contains("interface = ")), "{}", lines(&made));
}

// ---- haresources -------------------------------------------------------------------------------------------

#[test]
fn a_vip_is_read_as_findif_reads_it() {
    let v4 = |prefix: Option<u8>, interface: Option<&str>, label: Option<&str>, broadcast: Option<&str>| {
        let address = "10.0.0.9".parse().expect("an address");
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let broadcast = broadcast.map(|ip| ip.parse().expect("an address"));
        Some(Vip { address, prefix, interface: owned(interface), label: owned(label), broadcast })
    };
    for (text, found) in [
        ("10.0.0.9", v4(None, None, None, None)),
        ("10.0.0.9/24", v4(Some(24), None, None, None)),
        ("10.0.0.9/32", v4(Some(32), None, None, None)),
        ("10.0.0.9/24/eth0", v4(Some(24), Some("eth0"), None, None)),
        ("10.0.0.9/24/eth0:1", v4(Some(24), Some("eth0"), Some("eth0:1"), None)),
        ("10.0.0.9/24/10.0.0.255", v4(Some(24), None, None, Some("10.0.0.255"))),
        ("10.0.0.9/24/eth0/10.0.0.255", v4(Some(24), Some("eth0"), None, Some("10.0.0.255"))),
        ("10.0.0.9/24/eth0:1/10.0.0.255", v4(Some(24), Some("eth0"), Some("eth0:1"), Some("10.0.0.255"))),
        ("10.0.0.9/255.255.255.0", v4(Some(24), None, None, None)),
        ("10.0.0.9/255.255.255.0/eth0", v4(Some(24), Some("eth0"), None, None)),
        ("10.0.0.9/eth0", v4(None, Some("eth0"), None, None)),
        ("10.0.0.9//eth0/", v4(None, Some("eth0"), None, None)),
        ("", None),
        ("gateway", None),
        ("10.0.0", None),
        ("10.0.0.9/33", None),
        ("10.0.0.9/999", None),
        ("10.0.0.9/24/25", None),
        ("10.0.0.9/24/eth0/eth1", None),
        ("10.0.0.9/24/10.0.0.255/10.0.0.255", None),
        ("10.0.0.9/24/an-interface-of-too-long-a-name", None),
    ] {
        assert_eq!(vip(text).ok(), found, "{text:?}");
    }
    let v6 = vip("2001:db8::9/64/eth1:0").expect("a VIP");
    assert_eq!((v6.address.to_string().as_str(), v6.prefix), ("2001:db8::9", Some(64)));
    assert_eq!((v6.interface.as_deref(), v6.label), (Some("eth1"), None), "labels are IPv4's");
    assert!(vip("2001:db8::9/129").is_err() && vip("2001:db8::9/64/10.0.0.255").is_err());
}

#[test]
fn every_kind_of_resource_has_its_place() {
    let vips = |settings: &Settings| {
        settings.vips.iter().map(|v| v.address.to_string()).collect::<Vec<_>>().join(" ")
    };
    let active = |settings: &Settings| settings.services.active.join(" ");
    for (text, found, words) in [
        ("IPaddr::10.0.0.9/24/eth1", ("10.0.0.9/24", "", false), "[[vip]] 10.0.0.9/24 on eth1"),
        ("IPaddr2::10.0.0.9/24/eth1", ("10.0.0.9/24", "", false), "taken: IPaddr2::10.0.0.9/24/eth1"),
        ("10.0.0.9/24/eth1", ("10.0.0.9/24", "", false), "taken: 10.0.0.9/24/eth1"),
        ("IPv6addr::2001:db8::9/64/eth1", ("2001:db8::9/64", "", false), "[[vip]] 2001:db8::9/64 on eth1"),
        ("2001:db8::9/64/eth1", ("2001:db8::9/64", "", false), "[[vip]] 2001:db8::9/64 on eth1"),
        (
            "10.0.0.9/24/eth1 IPaddr::10.0.0.9/24/eth1",
            ("10.0.0.9/24", "", false),
            "dropped: IPaddr::10.0.0.9",
        ),
        ("10.0.0.9/24/eth1 10.0.0.8/24/eth1", ("10.0.0.9/24 10.0.0.8/24", "", false), "10.0.0.8/24 on eth1"),
        (
            "10.0.0.9/24/eth1/10.0.0.12",
            ("10.0.0.9/24", "", false),
            "10.0.0.12 is not the broadcast address of 10.0.0.0/24, 10.0.0.255 is",
        ),
        (
            "10.0.0.9/24/enp130s0f1:mysql/10.0.0.255",
            ("10.0.0.9/24", "", false),
            "the kernel takes no label enp130s0f1:mysql",
        ),
        ("mysql", ("", "", true), "changed: mysql -> [database] unit = \"mariadb.service\""),
        ("mysqld", ("", "", true), "[database]"),
        ("mariadb", ("", "", true), "[database]"),
        ("mysql mysqld", ("", "", true), "dropped: mysqld"),
        (
            "httpd",
            ("", "httpd.service", false),
            "taken: httpd -> [services] active = [\"httpd.service\"]; see that the unit is there",
        ),
        ("httpd.service", ("", "httpd.service", false), "[services]"),
        ("httpd httpd", ("", "httpd.service", false), "dropped: httpd"),
        (
            "httpd named",
            ("", "httpd.service named.service", false),
            "haresources: changed: resources start from left to right",
        ),
        (
            "apache::/etc/mysecret.conf",
            ("", "apache.service", false),
            "changed: apache::… -> [services] active",
        ),
        ("httpd drbddisk::mysecret", ("", "httpd.service", false), "dropped: drbddisk (dre has no disk"),
        (
            "httpd Filesystem::/dev/drbd0::/data::ext3::mysecret",
            ("", "httpd.service", false),
            "dropped: Filesystem (dre has no disk",
        ),
        ("httpd LVM::vg0", ("", "httpd.service", false), "dropped: LVM"),
        ("httpd MailTo::root@x::mysecret", ("", "httpd.service", false), "dropped: MailTo"),
        ("httpd SendArp::10.0.0.9/eth1", ("", "httpd.service", false), "dropped: SendArp"),
        ("httpd IPsrcaddr::10.0.0.9", ("", "httpd.service", false), "dropped: IPsrcaddr"),
        ("httpd portblock::tcp::80::block", ("", "httpd.service", false), "dropped: portblock"),
        ("httpd Delay::3", ("", "httpd.service", false), "dropped: Delay"),
        ("httpd Xinetd::ftp", ("", "httpd.service", false), "dropped: Xinetd"),
        ("httpd db2::db2inst1", ("", "httpd.service", false), "dropped: db2"),
    ] {
        let made = import(&resources(&format!("hadev1 {text}\n")));
        let settings = holds(&made);
        let all = (vips(&settings), active(&settings), settings.database.is_some());
        assert_eq!((all.0.as_str(), all.1.as_str(), all.2), found, "{text}");
        said(&made, words);
        assert!(!lines(&made).contains("mysecret"), "{}", lines(&made));
    }
}

#[test]
fn a_line_goes_on_behind_a_backslash_and_a_hash_ends_it() {
    for text in [
        "# hadev2 named\n\n  hadev1 \\\n\t10.0.0.9/24/eth1 \\\n  httpd # named \\\n",
        "hadev1 10.0.0.9/24/eth1\\\nhttpd\\\n\n",
        "hadev1 10.0.0.9/24/eth1 httpd \\",
        "hadev1 10.0.0.9/24/eth1\r\nhadev1 httpd\r\n",
    ] {
        let made = import(&resources(text));
        let settings = holds(&made);
        assert_eq!(
            (settings.vips.len(), settings.services.active.join(" ").as_str()),
            (1, "httpd.service"),
            "{text:?}"
        );
    }
    let made = import(&resources("hadev1 \\\n\n10.0.0.9/24/eth1 httpd\n"));
    said(&made, "haresources:3: WRONG: the line begins with 10.0.0.9/24/eth1");
    let made = import(&resources("hadev1 \\\n 10.0.0.9/24/eth1 \\\n httpd\n"));
    said(&made, "haresources:2: taken: 10.0.0.9/24/eth1");
    said(&made, "haresources:3: taken: httpd");
}

#[test]
fn what_a_vip_does_not_say_is_this_machines_or_left_open() {
    let eth2 = [("eth2", "172.16.10.54/16"), ("eth3", "172.16.11.54/24")];
    for (text, missing) in [
        ("hadev1 172.16.10.71\n", "its prefix and its interface is not said"),
        ("hadev1 172.16.10.71/16\n", "its interface is not said"),
        ("hadev1 172.16.10.71//eth2\n", "its prefix is not said"),
    ] {
        let made = import(&resources(text));
        let open = open(&made).to_owned();
        said(&made, missing);
        let filled =
            open.replace("/FILL IN", "/16").replace("interface = \"FILL IN\"", "interface = \"eth2\"");
        let settings = parse(&[("mysql.toml".into(), filled)], "mysql", "hadev1", false).expect("holds");
        assert_eq!(settings.vips[0].address.to_string(), "172.16.10.71/16");

        let made = import(&on(resources(text), "hadev1", &eth2));
        let vip = holds(&made).vips.remove(0);
        assert_eq!((vip.address.to_string().as_str(), vip.interface.as_str()), ("172.16.10.71/16", "eth2"));
        said(&made, "what is not said is as this machine has it now");
    }
    // The VIP itself, where the node is active just now, is no network; nor is it the node's address of a link.
    let active = [("eth2", "172.16.10.71/32"), ("eth2", "172.16.10.54/16")];
    let vip = holds(&import(&on(resources("hadev1 172.16.10.71\n"), "hadev1", &active))).vips.remove(0);
    assert_eq!(vip.address.to_string(), "172.16.10.71/16");
    let eth3 = [("eth3", "172.16.11.71/32"), ("eth3", "172.16.11.54/24")];
    let given = Given { hosts: None, ..resources("hadev1 172.16.11.71/24/eth1\n") };
    assert_eq!(ends(&on(given, "hadev1", &eth3)), "172.16.11.54 ? | ? ?");
}

#[test]
fn lines_of_two_nodes_are_two_groups() {
    let text = "hadev1 10.0.0.9/24/eth1 httpd\nhadev2 10.0.0.8/24/eth1 named\nhadev1 ntpd\n";
    let made = import(&resources(text));
    let open: Vec<&Remark> = made.of(Outcome::Open).collect();
    assert_eq!(open.len(), 1, "{}", lines(&made));
    said(&made, "haresources:2: LEFT OPEN: a line of hadev2, and the group's preferred node is hadev1");
    for (preferred, vip, active) in
        [("hadev1", "10.0.0.9/24", "httpd.service ntpd.service"), ("HADEV2", "10.0.0.8/24", "named.service")]
    {
        let made = import(&Given { preferred: Some(preferred.into()), ..resources(text) });
        let settings = holds(&made);
        assert_eq!(settings.election.preferred, Some(preferred.to_lowercase()));
        assert_eq!(
            (settings.vips[0].address.to_string().as_str(), settings.services.active.join(" ").as_str()),
            (vip, active)
        );
        said(&made, "dropped: a line of hadev");
    }
}

#[test]
fn without_resources_nothing_is_given_to_the_active_node() {
    for text in ["", "# none\n", "hadev1\n", "hadev1 MailTo::root\n"] {
        let made = import(&resources(text));
        said(&made, "haresources: LEFT OPEN: nothing of it was taken over");
        let text = made.toml.expect("a text");
        assert!(text.contains("NOT COMPLETE") && !text.contains("[[vip]]"), "{text}");
    }
}

// ---- what is never shown -----------------------------------------------------------------------------------

#[test]
fn keys_are_counted_and_never_shown() {
    let keys = "# comment\nauth 2\n\n1 crc\n2 sha1 s3cret one\n3 md5 s3cret\ns3cret\n4 s3cret\nauth s3cret\n5 sha1\n";
    let given = Given { authkeys: Some(source("authkeys", keys)), ..guide() };
    let made = import(&given);
    holds(&made);
    let json = serde_json::to_string(&made.remarks).expect("JSON");
    for shown in [lines(&made), json, made.toml.clone().unwrap_or_default()] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    let of: Vec<String> = made
        .remarks
        .iter()
        .filter(|r| r.file == "authkeys")
        .map(|r| format!("{} {}", r.line, r.what))
        .collect();
    assert_eq!(
        of,
        [
            "2 auth 2",
            "4 key 1 (crc)",
            "5 key 2 (sha1)",
            "6 key 3 (md5)",
            "7 a line that is not shown",
            "8 a line that is not shown",
            "9 auth",
            "10 key 5 (sha1)"
        ]
    );
    said(&made, "drectl key new");
    assert!(made.remarks.iter().all(|remark| remark.outcome != Outcome::Wrong));
}

// ---- anything ----------------------------------------------------------------------------------------------

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % below
    }

    fn soup(&mut self) -> String {
        let length = self.roll(200);
        let bytes: Vec<u8> = (0..length).map(|_| u8::try_from(self.roll(256)).unwrap_or(0)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn words(&mut self, words: &[&str]) -> String {
        let mut text = String::new();
        for _ in 0..self.roll(40) {
            text += words[self.roll(words.len())];
            text += [" ", " ", " ", "\n", "\n", "", "/", "::", ",", "\t", "\\\n"][self.roll(11)];
        }
        text
    }

    fn mutated(&mut self, text: &str) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        for _ in 0..self.roll(6) {
            if chars.is_empty() {
                break;
            }
            let at = self.roll(chars.len());
            match self.roll(3) {
                0 => drop(chars.remove(at)),
                1 => chars.insert(
                    at,
                    ['"', '\u{1b}', '0', '/', '\\', 'é', '\n', '#', '\u{7f}', '\0'][self.roll(10)],
                ),
                _ => chars.truncate(chars.len() - self.roll(20).min(chars.len() - 1)),
            }
        }
        chars.into_iter().collect()
    }
}

/// Whatever stands in the files: no panic, no control character in what is said, and a text that is called whole is one.
#[test]
fn nothing_that_a_file_may_hold_is_too_much() {
    const WORDS: [&str; 44] = [
        "node",
        "hadev1",
        "hadev2",
        "keepalive",
        "deadtime",
        "initdead",
        "udpport",
        "bcast",
        "ucast",
        "mcast",
        "udp",
        "eth3",
        "eth2",
        "ping",
        "ping_group",
        "172.16.8.250",
        "172.16.11.55",
        "auto_failback",
        "on",
        "crm",
        "stonith",
        "respawn",
        "env",
        "serial",
        "1",
        "0.5",
        "99999999999999999999999",
        "ms",
        "IPaddr",
        "IPaddr2",
        "IPv6addr",
        "mysql",
        "httpd",
        "Filesystem",
        "24",
        "255.255.255.0",
        "2001:db8::1",
        "fe80::1",
        "#",
        "é",
        "\u{1b}[2J",
        "\"",
        "'''",
        "hadev1-eth3",
    ];
    let mut dice = Dice(1983);
    let (mut made_whole, mut left_open, mut refused) = (0, 0, 0);
    for n in 0..6000 {
        let mut text = |good: &str| match n % 3 {
            0 => dice.soup(),
            1 => dice.words(&WORDS),
            _ => dice.mutated(good),
        };
        let (ha_cf, haresources, hosts, keys) =
            (text(HA_CF), text(RESOURCES), text(HOSTS), text("auth 1\n1 crc\n"));
        let ha_cf = if n % 2 == 0 { ha_cf } else { format!("{HA_CF}{ha_cf}") };
        let haresources = if n % 5 == 0 { haresources } else { format!("hadev1 {haresources}") };
        let given = Given {
            ha_cf: source("ha.cf", &ha_cf),
            haresources: source("haresources", &haresources),
            hosts: Some(source("hosts", &hosts)),
            authkeys: Some(source("authkeys", &keys)),
            ..guide()
        };
        let given = if n % 7 == 0 {
            on(given, "hadev1", &[("eth2", "172.16.10.54/16"), ("eth3", "fe80::1/64")])
        } else {
            given
        };
        let made = import(&given);
        for remark in &made.remarks {
            assert!(
                !remark.what.is_empty() && !remark.to_string().chars().any(char::is_control),
                "{remark:?}"
            );
        }
        let open = made.of(Outcome::Open).count();
        match &made.toml {
            None => {
                assert!(made.of(Outcome::Wrong).count() > 0);
                refused += 1;
            }
            Some(text) if open == 0 => {
                let sources = [("mysql.toml".into(), text.clone())];
                let nodes =
                    made.remarks.iter().filter_map(|r| r.became.strip_prefix("[nodes.")?.strip_suffix(']'));
                let nodes: Vec<&str> = nodes.collect();
                assert_eq!(nodes.len(), 2, "{text}");
                for node in nodes {
                    if let Err(error) = parse(&sources, "mysql", node, false) {
                        panic!("{error}\n{ha_cf}\n{haresources}\n{text}");
                    }
                }
                made_whole += 1;
            }
            Some(text) => {
                assert!(toml::from_str::<toml::Table>(text).is_ok(), "{text}");
                left_open += 1;
            }
        }
    }
    assert!(made_whole > 50 && left_open > 50 && refused > 50, "{made_whole} {left_open} {refused}");
}
