//! A node that is ready, and one thing wrong at a time.

use std::path::PathBuf;

use super::*;

const FILE: &str = r#"
[nodes.hadev1]
links = { primary = "172.16.11.54", secondary = "172.16.13.54" }
[nodes.hadev2]
links = { primary = "172.16.11.55", secondary = "172.16.13.55" }
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "172.16.9.61/24"
interface = "eth1"
[services]
active = ["diameter.service"]
both = ["memcached.service"]
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ready() -> Facts {
    let settings = dre::config::parse(&[(PathBuf::from("dre.toml"), FILE.into())], "dre", "hadev1", false);
    let interface =
        |address: &str| Interface { addresses: vec![ip(address)], carrier: true, manager: Manager::None };
    let enabled = |word: &str| word.to_owned();
    Facts {
        group: "dre".into(),
        host: "hadev1".into(),
        settings: Some(settings.expect("holds")),
        key: Some(Ok(())),
        clock_synchronised: Some(true),
        sysctl: [(ARP_FILTER, "1\n"), (PROMOTE, "1\n"), (PING_RANGE, "0\t2147483647\n")]
            .map(|(path, value)| (path, value.to_owned()))
            .into(),
        interfaces: [
            ("eth0", "172.16.8.50"),
            ("eth1", "172.16.9.54"),
            ("eth3", "172.16.11.54"),
            ("eth4", "172.16.13.54"),
        ]
        .map(|(name, address)| (name.to_owned(), interface(address)))
        .into(),
        arbitrator_source: [(ip("172.16.8.250"), Some(ip("172.16.8.50")))].into(),
        firewall: Firewall::Absent,
        kernel: "6.12.48+deb13-amd64".into(),
        gate: Some(Ok(())),
        enabled: [
            ("dre.service", "enabled"),
            ("dre.socket", "enabled"),
            ("dre-vip.service", "enabled"),
            ("diameter.service", "disabled"),
            ("memcached.service", "enabled"),
        ]
        .map(|(unit, word)| (unit.to_owned(), enabled(word)))
        .into(),
        bound: ["diameter.service".to_owned()].into(),
        systemd: true,
        bus: true,
        polkit: true,
        daemon: Some(Ok("standby".into())),
        ..Facts::default()
    }
}

/// After `change`, exactly one finding is not ok: this level, name, and a text and remedy that hold these words.
#[track_caller]
fn only(change: impl FnOnce(&mut Facts), level: Level, name: &str, what: &str, remedy: &str) {
    let mut facts = ready();
    change(&mut facts);
    let all = findings(&facts);
    let wrong: Vec<&Finding> = all.iter().filter(|finding| finding.level != Level::Ok).collect();
    let [finding] = wrong.as_slice() else { panic!("one finding expected, not {wrong:#?}") };
    assert_eq!((finding.level, finding.name), (level, name), "{finding:?}");
    assert!(finding.what.contains(what), "{finding:?}");
    assert!(finding.remedy.contains(remedy) && !finding.remedy.is_empty(), "{finding:?}");
    assert_eq!(is_ready(&all), level != Level::Bad);
}

#[test]
fn a_node_that_is_ready_has_nothing_to_mend() {
    for finding in findings(&ready()) {
        assert_eq!((finding.level, finding.remedy.as_str()), (Level::Ok, ""), "{finding:?}");
    }
}

#[test]
fn each_thing_that_is_wrong_is_found_with_its_remedy() {
    use Level::{Bad, Unknown, Warn};
    fn eth<'f>(f: &'f mut Facts, name: &str) -> &'f mut Interface {
        f.interfaces.get_mut(name).expect("it is there")
    }
    only(|f| f.key = Some(Err("mode 0644".into())), Bad, "key", "mode 0644", "drectl key new");
    only(|f| f.key = None, Unknown, "key", "cannot be read", "root");
    only(|f| f.clock_synchronised = Some(false), Warn, "clock", "not synchronised", "set-ntp");
    only(
        |f| f.sysctl.extend([(ARP_FILTER, "0\n".into())]),
        Bad,
        "sysctl",
        "arp_filter = 0",
        "sysctl --system",
    );
    only(|f| f.sysctl.extend([(PING_RANGE, "1\t0\n".into())]), Warn, "sysctl", "ping_group_range", "sysctl");
    only(|f| eth(f, "eth3").addresses.clear(), Bad, "links", "link primary: no interface", "[nodes]");
    only(|f| eth(f, "eth4").carrier = false, Bad, "links", "eth4 has no carrier", "cable");
    only(
        |f| {
            let secondary = std::mem::take(&mut eth(f, "eth4").addresses);
            eth(f, "eth3").addresses.extend(secondary);
        },
        Warn,
        "links",
        "one bearer, eth3",
        "own interface",
    );
    only(
        |f| f.arbitrator_source.extend([(ip("172.16.8.250"), Some(ip("172.16.9.54")))]),
        Warn,
        "arbitrator",
        "over eth1, not over the neutral eth0",
        "dre-vip",
    );
    only(|f| f.arbitrator_source.extend([(ip("172.16.8.250"), None)]), Bad, "arbitrator", "no route", "eth0");
    only(|f| eth(f, "eth1").carrier = false, Bad, "vips", "no carrier", "cable");
    only(|f| drop(f.interfaces.remove("eth1")), Bad, "vips", "does not exist", "name");
    only(
        |f| eth(f, "eth1").manager = Manager::NetworkManager,
        Warn,
        "vips",
        "NetworkManager",
        "reload NetworkManager",
    );
    only(|f| f.bus = false, Bad, "units", "no system bus", "apt install dbus");
    only(|f| f.polkit = false, Bad, "units", "polkit is not installed", "apt install polkitd");
    only(
        |f| f.stop_never = ["diameter.service".to_owned()].into(),
        Bad,
        "services",
        "stop for ever",
        "TimeoutStopSec=",
    );
    only(
        |f| eth(f, "eth1").manager = Manager::Networkd { keeps: false, file: "/etc/n/10.network".into() },
        Warn,
        "vips",
        "takes VIPs away",
        "KeepConfiguration",
    );
    only(|f| f.firewall = Firewall::Drops { names_port: false }, Warn, "firewall", "1694", "udp dport 1694");
    only(|f| f.firewall = Firewall::Unknown, Unknown, "firewall", "cannot be read", "1694");
    only(|f| f.gate = Some(Err("EPERM".into())), Warn, "gate", "EPERM", "lockdown");
    only(|f| f.kernel = "5.4.0-200-generic".into(), Warn, "gate", "older than 5.8", "newer");
    only(
        |f| drop(f.enabled.insert("dre.service".into(), "disabled".into())),
        Warn,
        "units",
        "after a reboot",
        "systemctl enable dre",
    );
    only(
        |f| drop(f.enabled.insert("diameter.service".into(), "enabled".into())),
        Bad,
        "services",
        "started at boot",
        "systemctl disable diameter.service",
    );
    only(|f| f.bound.clear(), Bad, "services", "no drop-in", "daemon-reload");
    only(|f| drop(f.enabled.remove("memcached.service")), Bad, "services", "does not know it", "install");
    only(|f| f.daemon = Some(Err("not running".into())), Warn, "units", "not running", "systemctl start dre");
    only(|f| f.host_error = Some("a VIP on eth3".into()), Bad, "config", "a VIP on eth3", "config check");
}

#[test]
fn without_a_configuration_the_rest_is_still_looked_at() {
    let mut facts = ready();
    facts.settings = None;
    facts.config_error = Some("/etc/dre/dre.toml: no such file".into());
    let all = findings(&facts);
    assert!(!is_ready(&all));
    let names: BTreeSet<&str> = all.iter().map(|finding| finding.name).collect();
    assert_eq!(names, ["clock", "config", "gate", "key", "sysctl", "units"].into());
}

#[test]
fn standalone_needs_no_key() {
    let mut facts = ready();
    facts.key = Some(Err("no such file".into()));
    if let Some(settings) = &mut facts.settings {
        settings.standalone = true;
    }
    assert!(is_ready(&findings(&facts)));
}

#[test]
fn a_kernels_release_is_read_whatever_the_distribution_adds() {
    assert_eq!(version("6.12.48+deb13-amd64"), Some((6, 12)));
    assert_eq!(version("5.14.0-570.el9.x86_64"), Some((5, 14)));
    assert_eq!(version("strange"), None);
}

/// Over TIPC: what the kernel has set up, not what the file says.
mod tipc {
    use super::*;
    use dre::config::TipcAddress;

    fn ready() -> Facts {
        let file = FILE
            .replace(
                "links = { primary = \"172.16.11.54\"",
                "tipc = \"1.1.23\"\nlinks = { primary = \"172.16.11.54\"",
            )
            .replace(
                "links = { primary = \"172.16.11.55\"",
                "tipc = \"1.1.29\"\nlinks = { primary = \"172.16.11.55\"",
            )
            .replace(
                "[arbitrator]",
                "[heartbeat]\ntransport = \"tipc\"\n[heartbeat.tipc]\nnetwork_id = 1983\n\
                 bearers = { primary = \"eth3\", secondary = \"eth4\" }\n[arbitrator]",
            );
        let settings = dre::config::parse(&[(PathBuf::from("dre.toml"), file)], "dre", "hadev1", false);
        let bearers = vec![("eth3".to_owned(), 250), ("eth4".to_owned(), 250)];
        let state = State { network_id: 1983, address: TipcAddress(0x0100_1017), bearers };
        Facts { settings: Some(settings.expect("holds")), tipc: Tipc::Is(state), ..super::ready() }
    }

    fn state(facts: &mut Facts) -> &mut State {
        match &mut facts.tipc {
            Tipc::Is(state) => state,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_kernel_has_is_told() {
        let all = findings(&ready());
        assert!(is_ready(&all));
        let links: Vec<&str> = all.iter().filter(|f| f.name == "links").map(|f| f.what.as_str()).collect();
        assert_eq!(
            links,
            [
                "TIPC: the kernel has address 1.1.23 in network 1983",
                "link primary: a TIPC bearer on eth3, carrier, 250 ms",
                "link secondary: a TIPC bearer on eth4, carrier, 250 ms",
            ]
        );
    }

    #[test]
    fn each_thing_that_is_otherwise_in_the_kernel_is_found() {
        let only = |change: &dyn Fn(&mut Facts), level, what: &str, remedy: &str| {
            let mut facts = ready();
            change(&mut facts);
            let all = findings(&facts);
            let wrong: Vec<&Finding> = all.iter().filter(|f| f.level != Level::Ok).collect();
            let [finding] = wrong.as_slice() else { panic!("one finding expected, not {wrong:#?}") };
            assert_eq!((finding.level, finding.name), (level, "links"), "{finding:?}");
            assert!(finding.what.contains(what) && finding.remedy.contains(remedy), "{finding:?}");
        };
        let again = "modprobe -r tipc";
        only(
            &|f| state(f).address = TipcAddress(0x0100_1018),
            Level::Bad,
            "the address 1.1.24, and 1.1.23",
            again,
        );
        only(&|f| state(f).network_id = 1984, Level::Bad, "joined network 1984, and 1983", again);
        only(&|f| state(f).address = TipcAddress(0), Level::Warn, "no address yet", "systemctl start dre");
        only(&|f| drop(state(f).bearers.pop()), Level::Bad, "no bearer on eth4", "systemctl reload dre-tipc");
        only(
            &|f| state(f).bearers[0].1 = 1500,
            Level::Warn,
            "tolerates 1500 ms",
            "systemctl reload dre-tipc",
        );
        only(&|f| f.tipc = Tipc::Unclear("no tool".into()), Level::Unknown, "no tool", "root");
        only(
            &|f| f.tipc = Tipc::Absent("the kernel has no TIPC; do this; or that".into()),
            Level::Bad,
            "the kernel has no TIPC",
            "do this; or that",
        );
        only(&|f| drop(f.interfaces.remove("eth4")), Level::Bad, "no eth4", "[heartbeat.tipc]");
        only(
            &|f| f.interfaces.get_mut("eth4").expect("eth4").carrier = false,
            Level::Bad,
            "eth4 has no carrier",
            "cable",
        );
    }
}
