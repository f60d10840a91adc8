//! Configurations that do not hold: each says file, line, value, why it matters and what to write.

use std::path::PathBuf;
use std::time::Duration;

use dre::config::{Database, Durability, HostFacts, RelayLost, SECTIONS, Settings, locate, parse};

const GOOD: &str = r#"[nodes.hadev1]
links = { primary = "172.16.11.54", secondary = "172.16.13.54" }
[nodes.hadev2]
links = { primary = "172.16.11.55", secondary = "172.16.13.55" }
[heartbeat]
interval_ms = 100
missed_max = 5
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "172.16.9.61/24"
interface = "eth1"
[[vip]]
address = "172.16.10.71/16"
interface = "eth2"
label = "eth2:0"
broadcast = "172.16.255.255"
[services]
active = ["diameter.service"]
both = ["memcached.service"]
[election]
preferred = "hadev1"
startup_hold_ms = 3000
"#;

fn read(text: &str) -> Result<Settings, dre::config::Error> {
    parse(&[(PathBuf::from("/etc/dre/dre.toml"), text.to_owned())], "dre", "hadev1", false)
}

/// Replaces `from` by `to` in the good file; what must be said, and on which line.
fn refused(from: &str, to: &str, line: usize, words: &[&str]) {
    assert!(GOOD.contains(from), "{from:?} is not in the file");
    let error = read(&GOOD.replacen(from, to, 1)).expect_err(&format!("{to:?} was accepted"));
    let text = error.to_string();
    let lines = error.lines();
    for word in words {
        assert!(
            text.contains(word) && lines.contains(word),
            "{to:?}: {word:?} is not said in:\n{text}\n{lines}"
        );
    }
    assert!(text.contains("/etc/dre/dre.toml"), "{text}");
    let found: Vec<usize> = error.json().iter().map(|f| f.line).collect();
    assert!(found.contains(&line), "{to:?}: line {line} is not among {found:?}:\n{text}");
    for finding in error.findings() {
        assert!(!finding.why.is_empty() && !finding.remedy.is_empty(), "{finding:?}");
    }
}

/// Half of what another group's file needs is not in dre.toml.
#[test]
fn a_mistake_points_at_the_example_of_the_groups_own_kind() {
    for (group, example) in
        [("dre", "/usr/share/doc/dre/dre.toml"), ("mysql", "/usr/share/doc/dre/mysql.toml")]
    {
        let file = PathBuf::from(format!("/etc/dre/{group}.toml"));
        let error = parse(&[(file, "[databse]\n".into())], group, "hadev1", false).expect_err("a mistake");
        assert!(error.lines().contains(example), "{error}");
        let none = PathBuf::from(format!("/nonexistent/{group}.toml"));
        let error = dre::config::load_of(group, Some(&none)).expect_err("not there");
        assert!(error.lines().contains(example), "{error}");
    }
}

#[test]
fn the_example_of_the_requirements_holds() {
    let settings = read(GOOD).expect("holds");
    assert_eq!(settings.heartbeat.dead_after().as_millis(), 500);
    assert_eq!(settings.vips.len(), 2);
    assert_eq!(settings.peer.as_deref(), Some("hadev2"));
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
}

#[test]
fn each_mistake_says_where_what_why_and_what_to_write() {
    refused("interval_ms = 100", "interval_sec = 1", 6, &["interval_sec", "unknown field"]);
    refused("interval_ms = 100", "interval_ms = \"fast\"", 6, &["invalid type"]);
    refused("interval_ms = 100", "interval_ms = 1", 6, &["interval_ms = 1", "5 to 10000"]);
    refused("missed_max = 5", "missed_max = 1", 7, &["missed_max = 1", "2 to 100"]);
    refused("missed_max = 5", "missed_max = 2", 7, &["the lease would last", "write missed_max = 3"]);
    refused("interval_ms = 100\nmissed_max = 5", "interval_ms = 1000\nmissed_max = 100", 6, &["100000 ms"]);
    refused("startup_hold_ms = 3000", "startup_hold_ms = 400", 24, &["startup_hold_ms = 400", "500"]);
    refused("interval_ms = 100", "transport = \"tipc\"", 6, &["[heartbeat.tipc]", "transport = \"udp\""]);
    refused("interval_ms = 100", "transport = \"carrier pigeon\"", 6, &["carrier pigeon"]);
    refused("interval_ms = 100", "port = 0", 6, &["port = 0", "1694"]);
    refused("addresses = [\"172.16.8.250\"]", "addresses = []", 9, &["no arbitrator"]);
    refused(
        "addresses = [\"172.16.8.250\"]",
        "addresses = [\"172.16.11.55\"]",
        9,
        &["hadev2's link primary"],
    );
    refused("addresses = [\"172.16.8.250\"]", "addresses = [\"gateway\"]", 9, &["invalid IP address"]);
    refused(
        "interface = \"eth1\"",
        "interface = \"eth0\"",
        13,
        &["arbitrator's interface", "earmark another"],
    );
    refused("interface = \"eth1\"", "interface = \"an-interface-of-too-long-a-name\"", 13, &["15"]);
    refused("172.16.9.61/24", "172.16.9.61", 12, &["172.16.9.61", "prefix"]);
    refused("172.16.9.61/24", "172.16.9.61/33", 12, &["172.16.9.61/33"]);
    refused("172.16.9.61/24", "172.16.9.0/24", 12, &["network address"]);
    refused("172.16.9.61/24", "172.16.9.255/24", 12, &["broadcast address"]);
    refused("172.16.9.61/24", "172.16.10.71/24", 15, &["a second time"]);
    refused("172.16.9.61/24", "172.16.13.55/24", 12, &["hadev2's link secondary"]);
    refused("172.16.9.61/24", "172.16.8.250/24", 12, &["arbitrate itself"]);
    refused("label = \"eth2:0\"", "label = \"eth9:0\"", 17, &["eth9:0", "eth2:0"]);
    refused("broadcast = \"172.16.255.255\"", "broadcast = \"172.16.10.255\"", 18, &["172.16.255.255"]);
    refused("label = \"eth2:0\"", "style = \"route\"", 17, &["route", "address"]);
    refused("label = \"eth2:0\"", "style = \"fancy\"", 17, &["fancy"]);
    refused("diameter.service", "diameter", 20, &["\"diameter\"", "full name"]);
    refused("diameter.service", "dre-vip.service", 20, &["dre's own"]);
    refused("diameter.service", "dre-web.service", 20, &["dre-web.service", "sandbox"]);
    refused("diameter.service", "memcached.service", 21, &["services.both", "services.active"]);
    refused("preferred = \"hadev1\"", "preferred = \"hadev3\"", 23, &["hadev3", "hadev2"]);
    refused("preferred = \"hadev1\"", "failback = true", 23, &["failback"]);
    let holds = |seconds| format!("preferred = \"hadev1\"\nfailback = true\nfailback_hold_s = {seconds}");
    refused("preferred = \"hadev1\"", &holds(0), 25, &["failback_hold_s = 0", "1 to 86400"]);
    refused("preferred = \"hadev1\"", &holds(100_000), 25, &["failback_hold_s = 100000", "1 to 86400"]);
    refused("[nodes.hadev1]", "[nodes.hadev9]", 1, &["hadev1", "[nodes.hadev9]"]);
    refused("secondary = \"172.16.13.55\"", "third = \"172.16.13.55\"", 2, &["secondary", "other end"]);
    refused("172.16.11.55", "172.16.11.54", 4, &["hadev1's link primary"]);
    refused("172.16.11.55", "2001:db8::1", 4, &["one family"]);
    refused(
        "links = { primary = \"172.16.11.55\", secondary = \"172.16.13.55\" }",
        "links = {}",
        3,
        &["no links"],
    );
    refused("[arbitrator]", "[arbitrator", 8, &[]);
}

#[test]
fn failback_waits_for_ten_seconds_or_for_what_is_written() {
    let settings = read(GOOD).expect("holds");
    assert_eq!(
        (settings.election.failback_hold.as_secs(), settings.setup().failback_hold.as_secs()),
        (10, 10)
    );
    let with = |more: &str| {
        read(&GOOD.replace("preferred = \"hadev1\"", &format!("preferred = \"hadev1\"\n{more}")))
    };
    let settings = with("failback = true\nfailback_hold_s = 60").expect("holds");
    assert_eq!(settings.setup().failback_hold.as_secs(), 60);
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    let idle = with("failback_hold_s = 60").expect("holds");
    assert!(
        idle.warnings[0].contains("failback_hold_s = 60") && idle.warnings[0].contains("failback = true")
    );
}

/// Linux Heartbeat's timing: a node that nobody told otherwise listens for D, not for less.
#[test]
fn a_slow_pair_listens_as_long_as_its_promises_last() {
    let slow = GOOD
        .replace("interval_ms = 100\nmissed_max = 5", "interval_ms = 1000\nmissed_max = 15\nport = 694")
        .replace("startup_hold_ms = 3000\n", "");
    let settings = read(&slow).expect("holds");
    assert_eq!((settings.heartbeat.dead_after().as_secs(), settings.heartbeat.port), (15, 694));
    assert_eq!(settings.election.startup_hold.as_secs(), 15);
    assert_eq!(
        read(&GOOD.replace("startup_hold_ms = 3000\n", "")).expect("holds").election.startup_hold.as_secs(),
        3
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = GOOD.replace("interval_ms = 100", "interval_ms = 1").replace("hadev1\"\nst", "nobody\"\nst");
    assert_eq!(read(&text).expect_err("two mistakes").findings().len(), 2);
}

#[test]
fn three_nodes_are_no_pair_and_one_is_enough_only_alone() {
    let third = format!(
        "{GOOD}\n[nodes.hadev3]\nlinks = {{ primary = \"172.16.11.56\", secondary = \"172.16.13.56\" }}\n"
    );
    assert!(read(&third).expect_err("three").to_string().contains("names 3 nodes"));
    let one = "[nodes.hadev1]\n[[vip]]\naddress = \"172.16.9.61/24\"\ninterface = \"eth1\"\n";
    assert!(read(one).is_err());
    let sources = [(PathBuf::from("x"), one.to_owned())];
    let alone = parse(&sources, "dre", "hadev1", true).expect("standalone");
    assert_eq!(alone.peer, None);
    assert!(alone.warnings.iter().any(|w| w.contains("no [arbitrator]")));
}

#[test]
fn both_nodes_see_one_digest_and_every_value_changes_it() {
    let of = |text: &str, node: &str| {
        parse(&[(PathBuf::from("x"), text.to_owned())], "dre", node, false).expect("holds").digest
    };
    assert_eq!(of(GOOD, "hadev1"), of(GOOD, "hadev2"));
    assert_eq!(of(GOOD, "hadev1"), of(&format!("# a comment\n{GOOD}"), "hadev1"));
    for (from, to) in [
        ("interval_ms = 100", "interval_ms = 101"),
        ("missed_max = 5", "missed_max = 6"),
        ("172.16.9.61/24", "172.16.9.61/25"),
        ("172.16.9.61/24", "172.16.9.62/24"),
        ("label = \"eth2:0\"", "label = \"eth2:1\""),
        ("172.16.8.250", "172.16.8.251"),
        ("diameter.service", "dia.service"),
        ("preferred = \"hadev1\"", "preferred = \"hadev2\""),
        ("172.16.11.55", "172.16.11.56"),
        ("startup_hold_ms = 3000", "startup_hold_ms = 3001"),
        ("startup_hold_ms = 3000", "startup_hold_ms = 3000\nfailback_hold_s = 60"),
        ("startup_hold_ms = 3000", "startup_hold_ms = 3000\n[database]"),
    ] {
        assert_ne!(of(GOOD, "hadev1"), of(&GOOD.replace(from, to), "hadev1"), "{to}");
    }
}

#[test]
fn a_drop_in_overrides_and_adds() {
    let drop_in =
        "[heartbeat]\ninterval_ms = 200\n[[vip]]\naddress = \"2001:db8:9::61/64\"\ninterface = \"eth1\"\n";
    let sources =
        [(PathBuf::from("dre.toml"), GOOD.to_owned()), (PathBuf::from("10-more.toml"), drop_in.to_owned())];
    let settings = parse(&sources, "dre", "hadev1", false).expect("holds");
    assert_eq!(settings.heartbeat.interval.as_millis(), 200);
    assert_eq!(settings.heartbeat.missed_max, 5);
    assert_eq!(settings.vips.len(), 3);
    // A mistake in the drop-in is told with the drop-in's name.
    let wrong = [sources[0].clone(), (PathBuf::from("10-more.toml"), drop_in.replace("61/64", "61"))];
    let error = parse(&wrong, "dre", "hadev1", false).expect_err("no prefix");
    assert!(error.lines().contains("10-more.toml:4"), "{}", error.lines());
}

const TIPC: &str = r#"[nodes.hadev1]
tipc = "1.1.23"
[nodes.hadev2]
tipc = "1.1.29"
[heartbeat]
transport = "tipc"
[heartbeat.tipc]
network_id = 1983
bearers = { primary = "eth3", secondary = "eth4" }
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "172.16.9.61/24"
interface = "eth1"
"#;

#[test]
fn tipc_as_the_requirements_have_it() {
    let settings = read(TIPC).expect("holds");
    let tipc = settings.tipc.clone().expect("TIPC");
    assert_eq!(
        (tipc.network_id, tipc.local.0, tipc.peer.map(|p| p.0)),
        (1983, 0x0100_1017, Some(0x0100_101d))
    );
    assert_eq!(settings.link_names(), ["primary", "secondary"]);
    assert!(settings.links.is_empty() && settings.warnings.is_empty(), "{:?}", settings.warnings);
    for (from, to, line, words) in [
        ("tipc = \"1.1.29\"", "tipc = \"1.1.23\"", 4, ["1.1.23", "hadev1 and of hadev2"]),
        ("tipc = \"1.1.29\"", "tipc = \"1.1.5000\"", 4, ["1.1.5000", "1 to 4095"]),
        ("tipc = \"1.1.29\"", "links = {}", 3, ["hadev2 has no TIPC address", "tipc = \"1.1.23\""]),
        ("1983", "10000", 8, ["network_id = 10000", "1 to 9999"]),
        ("bearers = { primary = \"eth3\", secondary = \"eth4\" }", "", 7, ["names 0 bearers", "eth3"]),
        (
            "secondary = \"eth4\"",
            "secondary = \"eth4\", third = \"eth5\"",
            7,
            ["names 3 bearers", "uses 2 links to a peer"],
        ),
        ("secondary = \"eth4\"", "secondary = \"eth3\"", 9, ["primary and secondary", "eth3"]),
        ("secondary = \"eth4\"", "secondary = \"eth0\"", 9, ["bearer secondary", "arbitrator's interface"]),
        ("secondary = \"eth4\"", "secondary = \"eth1\"", 15, ["172.16.9.61/24", "bearer secondary"]),
    ] {
        let error = read(&TIPC.replacen(from, to, 1)).expect_err(&format!("{to:?} was accepted"));
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{to:?}: {words:?} in\n{text}");
        assert!(error.json().iter().any(|f| f.line == line), "{to:?}: line {line} in\n{text}");
    }
}

#[test]
fn the_old_suites_environment_is_understood() {
    let with = |pairs: &'static [(&str, &str)]| {
        locate("dre", |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    };
    assert_eq!(with(&[]), PathBuf::from("/etc/dre/dre.toml"));
    assert_eq!(with(&[("AVAMGR_CONFDIR", "/opt/am")]), PathBuf::from("/opt/am/avamgr.cfg"));
    assert_eq!(
        with(&[("DRE_CONFDIR", "/opt/dre"), ("AVAMGR_CONFDIR", "/opt/am")]),
        PathBuf::from("/opt/dre/dre.toml")
    );
}

#[test]
fn what_only_the_machine_knows() {
    let settings = read(GOOD).expect("holds");
    let facts = |text: &[(&str, &str)]| {
        let mut facts = HostFacts::default();
        for (name, address) in text {
            let all = facts.interfaces.entry((*name).to_owned()).or_default();
            all.extend(address.parse::<ipnet::IpNet>().ok());
        }
        facts
    };
    let good = [
        ("eth0", "172.16.8.50/24"),
        ("eth1", ""),
        ("eth2", ""),
        ("eth3", "172.16.11.54/24"),
        ("eth4", "172.16.13.54/24"),
    ];
    let found = settings.check_host(&facts(&good));
    assert!(found.present().is_ok() && found.warnings.is_empty() && found.missing().is_none(), "{found:?}");
    // A VIP on a heartbeat's interface is refused, by the daemon too.
    let found = settings.check_host(&facts(&[("eth1", "172.16.11.54/24")]));
    let text = found.lasting().expect_err("refused").to_string();
    assert!(text.contains("172.16.9.61") && text.contains("eth1") && text.contains("primary"), "{text}");
    // Two links on one bearer: said, not refused.
    let mut one_bearer = good;
    one_bearer[4] = ("eth3", "172.16.13.54/24");
    let found = settings.check_host(&facts(&one_bearer));
    assert!(found.present().is_ok());
    assert!(found.warnings.iter().any(|w| w.contains("both ride on eth3")), "{found:?}");
}

/// What the machine does not have is refused when somebody has just written it. A daemon that starts goes on: it may come.
#[test]
fn what_is_missing_is_refused_but_keeps_no_daemon_down() {
    let settings = read(GOOD).expect("holds");
    let facts = |text: &[(&str, &str)]| {
        let mut facts = HostFacts::default();
        for (name, address) in text {
            let all = facts.interfaces.entry((*name).to_owned()).or_default();
            all.extend(address.parse::<ipnet::IpNet>().ok());
        }
        facts
    };
    let others = [("eth1", ""), ("eth2", ""), ("eth3", "172.16.11.54/24"), ("eth4", "172.16.13.54/24")];
    let with = |eth0: &[(&'static str, &'static str)]| {
        let all: Vec<_> = others.iter().chain(eth0).copied().collect();
        settings.check_host(&facts(&all))
    };
    assert!(with(&[("eth0", "172.16.8.50/24")]).present().is_ok());
    assert!(with(&[("eth0", "10.0.0.1/8"), ("eth0", "172.16.8.50/24")]).present().is_ok());
    for (eth0, words) in [
        (&[][..], vec!["the arbitrator's interface eth0 does not exist", "ip link"]),
        (&[("eth0", "")], vec!["172.16.8.250 is in no network of eth0", "has no IPv4 address"]),
        (&[("eth0", "fe80::1/64")], vec!["has no IPv4 address"]),
        // A prefix that does not contain its gateway.
        (
            &[("eth0", "172.16.8.50/25")],
            vec![
                "172.16.8.250 is in no network of eth0, which is in 172.16.8.0/25",
                "correct the prefix of eth0",
            ],
        ),
    ] {
        let found = with(eth0);
        let text = found.present().expect_err("refused").lines();
        let alarm = found.missing().expect("an alarm");
        for word in words {
            assert!(text.contains(word) && alarm.contains(word), "{word} is not in {text}\n{alarm}");
        }
        assert!(found.lasting().is_ok(), "the daemon starts");
        // A reload is refused for what is new, not for what was missing before.
        assert!(found.clone().new_against(&found).present().is_ok());
        assert!(found.new_against(&with(&[("eth0", "172.16.8.50/24")])).present().is_err());
    }
    let found = settings.check_host(&facts(&[("eth0", "172.16.8.50/24")]));
    let text = found.present().expect_err("refused").lines();
    for word in ["eth1, which this host does not have", "no interface of this host carries 172.16.11.54"] {
        assert!(text.contains(word), "{text}");
    }
    assert!(found.lasting().is_ok());
}

/// Whatever is cut off or changed: an error or settings, never a panic.
#[test]
fn rubbish_is_refused_in_words() {
    for len in 0..GOOD.len() {
        let _ = read(&GOOD[..len]).map_err(|e| e.to_string());
    }
    let mut seed: u64 = 1;
    for _ in 0..3000 {
        let mut bytes = GOOD.as_bytes().to_vec();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(seed >> 33).expect("fits") % bytes.len();
            bytes[at] = b"[]\"{}=\n#aZ09./:-"[usize::try_from(seed >> 7 & 15).expect("fits")];
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = read(&text).map_err(|e| e.to_string() + &e.lines());
    }
}

const GROUP: &str = r#"[nodes.hadev1]
links = { primary = "172.16.11.54", secondary = "172.16.13.54" }
[nodes.hadev2]
links = { primary = "172.16.11.55", secondary = "172.16.13.55" }
[heartbeat]
interval_ms = 1000
missed_max = 15
port = 694
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "172.16.10.71/16"
interface = "eth2"
label = "eth2:0"
broadcast = "172.16.255.255"
[services]
both = ["mariadb.service"]
[database]
"#;

fn group(name: &str, text: &str) -> Result<Settings, dre::config::Error> {
    parse(&[(PathBuf::from(format!("/etc/dre/{name}.toml")), text.to_owned())], name, "hadev1", false)
}

#[test]
fn a_group_is_called_as_units_can_be() {
    assert_eq!(group("mysql", GROUP).expect("holds").group, "mysql");
    for (name, words) in [
        ("sync", "parts of dre itself"),
        ("MySQL", "a to z"),
        ("my sql", "a to z"),
        ("2nd", "beginning with a letter"),
    ] {
        let text = group(name, GROUP).expect_err(name).lines();
        assert!(text.contains(words) && text.contains("rename the file"), "{text}");
    }
    let tipc =
        GROUP.replace("port = 694", "transport = \"tipc\"\n[heartbeat.tipc]\nbearers = { a = \"eth3\" }");
    let tipc = tipc.replace("links =", "tipc = \"1.1.23\"\nlinks =").replacen("1.1.23", "1.1.29", 1);
    let error = group("mysql", &tipc).expect_err("TIPC is group dre's");
    assert!(
        error.lines().contains("one TIPC") && error.lines().contains("transport = \"udp\""),
        "{}",
        error.lines()
    );
    group("dre", &tipc).expect("there it holds");
}

#[test]
fn a_database_is_as_it_is_without_a_word() {
    let of =
        |more: &str| group("mysql", &format!("{GROUP}{more}")).expect("holds").database.expect("a database");
    let usual = of("");
    assert_eq!(
        usual,
        Database {
            unit: "mariadb.service".into(),
            socket: "/run/mysqld/mysqld.sock".into(),
            port: 3306,
            agent_port: 1696,
            durability: Durability::Available,
            max_lag: Duration::from_secs(10),
            relay_wait: Duration::from_secs(60),
            on_relay_lost: RelayLost::Promote,
            keep_users: vec![],
        }
    );
    let other = of("unit = \"mysql.service\"\nsocket = \"/tmp/my.sock\"\nport = 3307\nagent_port = 1700\n\
                    durability = \"strict\"\nmax_lag_s = 2\nrelay_wait_s = 5\non_relay_lost = \"block\"\n\
                    keep_users = [\"mon\", \"backup\", \"mon\"]\n");
    assert_eq!((other.durability, other.on_relay_lost), (Durability::Strict, RelayLost::Block));
    assert_eq!((other.max_lag.as_secs(), other.relay_wait.as_secs()), (2, 5));
    assert_eq!(other.keep_users, ["backup", "mon"]);
    assert!(read(GOOD).expect("holds").database.is_none());
}

#[test]
fn each_mistake_of_a_database_says_what_to_write() {
    let line = GROUP.lines().count() + 1;
    for (more, words) in [
        ("kind = \"mariadb\"", ["kind", "unknown field"]),
        ("unit = \"mariadb\"", ["\"mariadb\"", "full name"]),
        ("unit = \"dre-vip.service\"", ["dre-vip.service", "dre's own"]),
        ("unit = \"percona.service\"", ["percona.service", "/etc/systemd/system/mysqld.service"]),
        ("socket = \"mysqld.sock\"", ["mysqld.sock", "absolute path"]),
        ("port = 0", ["port = 0", "write 3306"]),
        ("agent_port = 70000", ["agent_port = 70000", "write 1696"]),
        ("agent_port = 3306", ["both 3306", "1696"]),
        ("durability = \"some\"", ["\"some\"", "\"strict\""]),
        ("max_lag_s = 0", ["max_lag_s = 0", "default is 10"]),
        ("relay_wait_s = 1000000", ["relay_wait_s = 1000000", "default is 60"]),
        ("on_relay_lost = \"panic\"", ["\"panic\"", "\"block\""]),
        ("keep_users = [\"root@localhost\"]", ["root@localhost", "no host"]),
    ] {
        let error = group("mysql", &format!("{GROUP}{more}\n")).expect_err(more);
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{more}: {words:?} in\n{text}");
        assert!(error.json().iter().any(|f| f.line == line), "{more}: line {line} in\n{text}");
        assert!(error.findings().iter().all(|f| !f.why.is_empty() && !f.remedy.is_empty()));
    }
    let error = group("mysql", &GROUP.replace("both =", "active =")).expect_err("it runs on both nodes");
    assert!(error.lines().contains("[services] both may name it"), "{}", error.lines());
    let alone = "[nodes.hadev1]\ntipc = \"1.1.23\"\n[nodes.hadev2]\ntipc = \"1.1.29\"\n[heartbeat]\ntransport = \"tipc\"\n\
                 [heartbeat.tipc]\nbearers = { a = \"eth3\", b = \"eth4\" }\n[database]\n";
    let error = group("dre", alone).expect_err("the agents reach nobody");
    assert!(error.lines().contains("[database] without links"), "{}", error.lines());
}

/// The digest names the section; what is written out as it is anyway changes nothing.
#[test]
fn a_database_that_differs_is_told_by_its_section() {
    let of = |text: &str| group("mysql", text).expect("holds");
    let (none, plain) = (of(&GROUP.replace("[database]\n", "")), of(GROUP));
    let written = of(&format!("{GROUP}port = 3306\nmax_lag_s = 10\n"));
    assert_eq!(plain.digest, written.digest);
    for (other, differs) in [(none, true), (of(&format!("{GROUP}max_lag_s = 11\n")), true), (written, false)]
    {
        let named: Vec<&str> =
            (0..8).filter(|n| plain.sections[*n] != other.sections[*n]).map(|n| SECTIONS[n]).collect();
        assert_eq!(named, if differs { vec!["[services], [database]"] } else { vec![] });
        assert_eq!(plain.digest != other.digest, differs);
    }
    let drop_in =
        [("mysql.toml".into(), GROUP.to_owned()), ("10.toml".into(), "[database]\nport = 3307\n".to_owned())];
    let database = parse(&drop_in, "mysql", "hadev1", false).expect("holds").database.expect("a database");
    assert_eq!((database.port, database.agent_port), (3307, 1696), "a drop-in replaces single values");
}
