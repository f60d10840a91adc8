//! The wires: one switch namespace with a bridge for each network, everybody else a veth into it. No uplink.
//!
//! | network | hadev1 | hadev2 | others |
//! |---|---|---|---|
//! | eth0 172.16.8.0/24 | .50 | .51 | arbitrator .250 |
//! | eth1 172.16.9.0/24, 2001:db8:9::/64 | .54, ::54 | .55, ::55 | client .100, judge .250, stranger .200 |
//! | eth2 172.16.0.0/16 | 172.16.10.54 | 172.16.10.55 | client 172.16.10.100, judge 172.16.10.250 |
//! | eth3 172.16.11.0/24 | .54 | .55 | stranger .200 |
//! | eth4 172.16.13.0/24 | .54 | .55 | stranger .200 |
//!
//! The judge is not the client: answers to its probes would refresh the client's neighbour cache, and hide that
//! a gratuitous ARP was missing. The stranger is for attacks and for foreign holders of a VIP.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use super::sys;

/// Names of the five networks.
pub const NETS: [&str; 5] = ["eth0", "eth1", "eth2", "eth3", "eth4"];

/// A hardware address.
pub type Mac = [u8; 6];

/// A machine's plug: whose, which network, its addresses with their prefixes.
struct Plug {
    who: &'static str,
    net: usize,
    host: u8,
    addresses: &'static [&'static str],
}

const fn plug(who: &'static str, net: usize, host: u8, addresses: &'static [&'static str]) -> Plug {
    Plug { who, net, host, addresses }
}

const PLUGS: &[Plug] = &[
    plug("hadev1", 0, 0x54, &["172.16.8.50/24"]),
    plug("hadev1", 1, 0x54, &["172.16.9.54/24", "2001:db8:9::54/64"]),
    plug("hadev1", 2, 0x54, &["172.16.10.54/16"]),
    plug("hadev1", 3, 0x54, &["172.16.11.54/24"]),
    plug("hadev1", 4, 0x54, &["172.16.13.54/24"]),
    plug("hadev2", 0, 0x55, &["172.16.8.51/24"]),
    plug("hadev2", 1, 0x55, &["172.16.9.55/24", "2001:db8:9::55/64"]),
    plug("hadev2", 2, 0x55, &["172.16.10.55/16"]),
    plug("hadev2", 3, 0x55, &["172.16.11.55/24"]),
    plug("hadev2", 4, 0x55, &["172.16.13.55/24"]),
    plug("client", 1, 0x10, &["172.16.9.100/24", "2001:db8:9::100/64"]),
    plug("client", 2, 0x10, &["172.16.10.100/16"]),
    plug("judge", 1, 0x25, &["172.16.9.250/24", "2001:db8:9::250/64"]),
    plug("judge", 2, 0x25, &["172.16.10.250/16"]),
    plug("arbitrator", 0, 0x26, &["172.16.8.250/24"]),
    plug("stranger", 1, 0x20, &["172.16.9.200/24", "2001:db8:9::200/64"]),
    plug("stranger", 3, 0x20, &["172.16.11.200/24"]),
    plug("stranger", 4, 0x20, &["172.16.13.200/24"]),
];

/// Who stands outside the two nodes.
pub const OUTSIDE: [&str; 4] = ["client", "judge", "arbitrator", "stranger"];

/// The MAC of `who` on network number `net`.
pub fn mac(who: &str, net: usize) -> Mac {
    let host = PLUGS.iter().find(|p| p.who == who && p.net == net).map_or(0, |p| p.host);
    [0x02, 0x64, 0x72, 0x65, net as u8, host]
}

/// A MAC as it is written.
pub fn mac_text(m: Mac) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
}

/// The Internet checksum over all parts, each of even length but the last.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&b| u32::from(b));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The network a VIP is on, by its address.
pub fn net_of(vip: IpAddr) -> usize {
    match vip {
        IpAddr::V4(a) if a.octets()[2] != 9 => 2,
        _ => 1,
    }
}

/// The first address of `who` on a network, of the family asked for.
pub fn address(who: &str, net: usize, v6: bool) -> Option<IpAddr> {
    let plug = PLUGS.iter().find(|p| p.who == who && p.net == net)?;
    plug.addresses
        .iter()
        .filter_map(|a| a.split('/').next()?.parse::<IpAddr>().ok())
        .find(|a| a.is_ipv6() == v6)
}

/// Which way frames go, seen from the machine on the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// What it sends.
    From,
    /// What it would receive.
    To,
}

/// What the switch does to some frames of one port.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Harm {
    port: String,
    way: Way,
    /// An nftables match that narrows it, or nothing.
    only: String,
    /// "drop", or "dup to …".
    verdict: String,
    percent: u8,
}

/// What the nodes sent on some TCP ports over both heartbeat networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    pub packets: u64,
    /// Those that carry something: neither an acknowledgement nor a keepalive's probe.
    pub loaded: u64,
    pub bytes: u64,
}

/// An IP packet of TCP that is longer carries something: 20 + 20 and at most 20 of options that come without a load here (a SYN).
const LOADED_ABOVE: u16 = 60;

/// The switch of one lab.
pub struct Net {
    prefix: String,
    harm: Mutex<Vec<Harm>>,
}

impl Net {
    /// Builds the switch and everybody outside; the nodes plug in when they boot.
    pub fn build(prefix: &str) -> Result<Self> {
        let net = Self { prefix: prefix.to_owned(), harm: Mutex::new(Vec::new()) };
        net.namespace("switch")?;
        in_netns(&net.ns("switch"), || fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"))??;
        let mut script = String::new();
        for n in NETS {
            script += &format!(
                "link add br-{n} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br-{n} up\n"
            );
        }
        net.switch(&script)?;
        for who in OUTSIDE {
            net.plug_in(who, &net.ns(who))?;
        }
        Ok(net)
    }

    /// The namespace's name of somebody outside, or of the switch.
    pub fn ns(&self, who: &str) -> String {
        format!("{}.{who}", self.prefix)
    }

    fn namespace(&self, who: &str) -> Result<()> {
        ip(&["netns", "add", &self.ns(who)], "")
    }

    /// A new namespace with all the plugs of `who`, addresses on them, ports up.
    pub fn plug_in(&self, who: &str, ns: &str) -> Result<()> {
        ip(&["netns", "add", ns], "")?;
        in_netns(ns, || -> std::io::Result<()> {
            // No duplicate address detection: an address must be there when it is set, and not 1 s later.
            for (path, value) in [
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/dad_transmits", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv6/conf/default/router_solicitations", "0"),
                ("ipv4/ip_forward", "0"),
            ] {
                fs::write(format!("/proc/sys/net/{path}"), value)?;
            }
            Ok(())
        })??;
        let mut at_switch = String::new();
        let mut inside = String::from("link set lo up\n");
        for p in PLUGS.iter().filter(|p| p.who == who) {
            let (name, port) = (NETS[p.net], port(who, p.net));
            let mac = mac_text(mac(who, p.net));
            at_switch += &format!(
                "link add {port} type veth peer name {name} address {mac} netns {ns}\n\
                 link set {port} master br-{name} up\n"
            );
            for a in p.addresses {
                let extra = if a.contains(':') { " nodad" } else { " brd +" };
                inside += &format!("addr add {a}{extra} dev {name}\n");
            }
            inside += &format!("link set {name} up\n");
        }
        self.switch(&at_switch)?;
        ip(&["-n", ns, "-batch", "-"], &inside)?;
        self.apply()
    }

    /// Takes the plugs of `who` out and its namespace away.
    pub fn unplug(&self, who: &str, ns: &str) -> Result<()> {
        let script: String = PLUGS
            .iter()
            .filter(|p| p.who == who)
            .map(|p| format!("link del {}\n", port(who, p.net)))
            .collect();
        self.switch(&script)?;
        ip(&["netns", "del", ns], "")
    }

    /// Runs an `ip -batch` in the switch.
    fn switch(&self, script: &str) -> Result<()> {
        ip(&["-n", &self.ns("switch"), "-batch", "-"], script)
    }

    /// All ports of `who` up or down, in one batch.
    pub fn ports(&self, who: &str, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        let script: String = PLUGS
            .iter()
            .filter(|p| p.who == who)
            .map(|p| format!("link set {} {state}\n", port(who, p.net)))
            .collect();
        self.switch(&script)
    }

    /// One port up or down: the machine on it sees its carrier come and go, as with a cable.
    pub fn carrier(&self, who: &str, net: &str, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.switch(&format!("link set {} {state}\n", port(who, number(net)?)))
    }

    /// Silent cut: nothing passes, in either direction, and the carrier stays.
    pub fn silent(&self, who: &str, net: &str, cut: bool) -> Result<()> {
        let state = if cut { "0" } else { "3" };
        let out = Command::new("bridge")
            .args(["-n", &self.ns("switch"), "link", "set", "dev", &port(who, number(net)?), "state", state])
            .output()
            .context("bridge")?;
        if !out.status.success() {
            bail!("bridge link set: {}", String::from_utf8_lossy(&out.stderr));
        }
        Ok(())
    }

    /// Drops `percent` of the frames going that way; `only` narrows it by an nftables match ("" = all of them).
    pub fn lose(&self, who: &str, net: &str, way: Way, only: &str, percent: u8) -> Result<()> {
        self.add(who, net, way, only, "drop".into(), percent)
    }

    /// Delivers `percent` of the frames `who` sends twice to `twin`.
    pub fn duplicate(&self, who: &str, net: &str, twin: &str, percent: u8) -> Result<()> {
        let to = format!("dup to \"{}\"", port(twin, number(net)?));
        self.add(
            who,
            net,
            Way::From,
            &format!("ether daddr {}", mac_text(mac(twin, number(net)?))),
            to,
            percent,
        )
    }

    /// The two nodes no longer hear each other on this network; everybody else hears both.
    pub fn part(&self, net: &str) -> Result<()> {
        for (me, other) in [("hadev1", "hadev2"), ("hadev2", "hadev1")] {
            let from = format!("ether saddr {}", mac_text(mac(other, number(net)?)));
            self.add(me, net, Way::To, &from, "drop".into(), 100)?;
        }
        Ok(())
    }

    /// Takes back every loss, duplication and parting on one network (not cuts and carriers).
    pub fn mend_one(&self, net: &str) -> Result<()> {
        number(net)?;
        self.harms().retain(|harm| !harm.port.ends_with(&format!("-{net}")));
        self.apply()
    }

    /// Takes back every loss, duplication and parting (not cuts and carriers).
    pub fn mend(&self) -> Result<()> {
        self.harms().clear();
        self.apply()
    }

    /// Begins to count what the nodes send on these TCP ports, from nothing.
    pub fn count(&self, ports: &[u16]) -> Result<()> {
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let ports = ports.join(", ");
        let mut text =
            String::from("add table netdev traffic\ndelete table netdev traffic\ntable netdev traffic {\n");
        text += " counter frames { }\n counter loaded { }\n";
        for (i, who) in ["hadev1", "hadev2"].iter().enumerate() {
            for net in [3, 4] {
                text += &format!(
                    " chain c{i}{net} {{\n  type filter hook ingress device \"{}\" priority 1\n",
                    port(who, net)
                );
                for way in ["sport", "dport"] {
                    let of = format!("tcp {way} {{ {ports} }}");
                    text += &format!("  {of} counter name frames\n");
                    text += &format!("  {of} ip length > {LOADED_ABOVE} counter name loaded\n");
                }
                text += " }\n";
            }
        }
        pipe(&["ip", "netns", "exec", &self.ns("switch"), "nft", "-f", "-"], &(text + "}\n"))
    }

    /// What was sent since [`Self::count`].
    pub fn traffic(&self) -> Result<Traffic> {
        let list = [
            "netns",
            "exec",
            &self.ns("switch"),
            "nft",
            "-j",
            "list",
            "counters",
            "table",
            "netdev",
            "traffic",
        ];
        let text = super::run("ip", &list)?;
        let all: serde_json::Value = serde_json::from_str(&text)?;
        let of = |name: &str, what: &str| -> Result<u64> {
            let counters = all["nftables"].as_array().into_iter().flatten();
            let mut counters = counters.map(|entry| &entry["counter"]);
            let found = counters.find(|counter| counter["name"] == name);
            found
                .and_then(|counter| counter[what].as_u64())
                .with_context(|| format!("no counter {name}: {text}"))
        };
        Ok(Traffic {
            packets: of("frames", "packets")?,
            loaded: of("loaded", "packets")?,
            bytes: of("frames", "bytes")?,
        })
    }

    fn harms(&self) -> std::sync::MutexGuard<'_, Vec<Harm>> {
        self.harm.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn add(&self, who: &str, net: &str, way: Way, only: &str, verdict: String, percent: u8) -> Result<()> {
        let port = port(who, number(net)?);
        self.harms().push(Harm { port, way, only: only.to_owned(), verdict, percent });
        self.apply()
    }

    /// Writes all harm as one nftables transaction.
    fn apply(&self) -> Result<()> {
        let harms = self.harms().clone();
        let mut text = String::from("add table netdev lab\ndelete table netdev lab\n");
        let mut chains: Vec<(&str, Way)> = Vec::new();
        for h in &harms {
            if !chains.contains(&(&h.port, h.way)) {
                chains.push((&h.port, h.way));
            }
        }
        if !chains.is_empty() {
            text += "table netdev lab {\n";
        }
        for (i, (port, way)) in chains.iter().enumerate() {
            let hook = if *way == Way::From { "ingress" } else { "egress" };
            text += &format!(" chain c{i} {{\n  type filter hook {hook} device \"{port}\" priority 0\n");
            for h in harms.iter().filter(|h| h.port == **port && h.way == *way) {
                let chance = match h.percent {
                    100.. => String::new(),
                    p => format!("numgen random mod 100 < {p} "),
                };
                text += &format!("  {} {chance}{}\n", h.only, h.verdict);
            }
            text += " }\n";
        }
        if !chains.is_empty() {
            text += "}\n";
        }
        if harms.is_empty() && !self.has_table()? {
            return Ok(());
        }
        pipe(&["ip", "netns", "exec", &self.ns("switch"), "nft", "-f", "-"], &text)
    }

    fn has_table(&self) -> Result<bool> {
        let out = Command::new("ip")
            .args(["netns", "exec", &self.ns("switch"), "nft", "list", "tables"])
            .output()
            .context("nft")?;
        Ok(!out.stdout.is_empty())
    }
}

fn port(who: &str, net: usize) -> String {
    let short = if who == "arbitrator" { "arb" } else { who };
    format!("{short}-{}", NETS[net])
}

fn number(net: &str) -> Result<usize> {
    NETS.iter().position(|n| *n == net).with_context(|| format!("no network {net}: eth0 to eth4"))
}

/// Runs `f` on a thread inside the namespace.
pub fn in_netns<T: Send>(ns: &str, f: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|s| {
        s.spawn(|| sys::enter_netns(ns).map(|()| f()))
            .join()
            .map_err(|_| anyhow::anyhow!("a thread in {ns} panicked"))?
            .with_context(|| format!("cannot enter the namespace {ns}"))
    })
}

/// Runs `ip` with a script on its standard input.
pub fn ip(args: &[&str], script: &str) -> Result<()> {
    let all: Vec<&str> = std::iter::once("ip").chain(args.iter().copied()).collect();
    pipe(&all, script)
}

fn pipe(argv: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} is missing: run tests/prepare", argv[0]))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!("{}: {}\n{input}", argv.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
