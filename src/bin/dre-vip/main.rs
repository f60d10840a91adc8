//! dre-vip: holds the VIPs while dre-elect says so and the lease lasts, behind the kernel's gate.
//!
//! Armed in both roles. Decides nothing of the election; [`dre::logic::holder`] decides the rest. This file joins
//! the machine with netlink, the gate, the wire and the lease stream, in one loop in which nothing waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use dre::config::{self, Settings, Vip};
use dre::logic::group::unit;
use dre::logic::holder::{Act, Holder, Layout};
use dre::logic::time::Moment;
use dre::notice::Notice;
use dre::shell::clock::{self, Alarm};
use dre::shell::frames::Wire;
use dre::shell::gate::Gate;
use dre::shell::journal::Journal;
use dre::shell::netlink::{self, Heard, Hook, Interface, Kernel, Mark};
use dre::shell::notify::{self, Notify};
use dre::shell::realtime;
use dre::shell::stream::Stream;
use dre::stream::{GateKind, Order};

mod look;

use look::{Asked, Looker, Seen};
use tokio::signal::unix::{SignalKind, signal};

/// How long to wait before the stream is tried again.
const RECONNECT: Duration = Duration::from_millis(20);
/// Everything is looked at again this often, against an event that was lost.
const RESYNC: Duration = Duration::from_secs(5);
/// How long addresses may be worked on before orders are looked at again.
const WORK_A_TURN: Duration = Duration::from_millis(2);
/// A look that was overtaken by events is taken again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// What could not be put right is tried again this often.
const RETRY: Duration = Duration::from_millis(500);
/// Frames taken from one interface a turn.
const FRAMES_MAX: usize = 32;

fn main() -> ExitCode {
    let journal = match Journal::start("dre-vip", config::log_level()) {
        Ok(journal) => journal,
        Err(error) => {
            eprintln!("dre-vip: cannot start the journal's thread: {error}");
            return ExitCode::from(70);
        }
    };
    let settings = match config::load_here() {
        // What may surprise is said by dre-elect.
        Ok((settings, _)) => settings,
        Err(error) => {
            // Straight to stderr: the process ends, and the thread with it.
            eprintln!("{}", error.lines());
            return ExitCode::from(config::EXIT_CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dre-vip: cannot start: {error}");
            return ExitCode::from(70);
        }
    };
    match runtime.block_on(run(settings, &journal)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dre-vip: {error}");
            ExitCode::from(70)
        }
    }
}

/// Where dre-elect of this group listens.
fn stream_path(group: &str) -> PathBuf {
    std::env::var_os("DRE_LEASE_SOCKET")
        .map_or_else(|| config::runtime_directory(group).join("lease"), PathBuf::from)
}

/// Service interfaces by number, in the order in which the VIPs name them.
fn layout(settings: &Settings) -> Layout {
    let mut interfaces: Vec<String> = vec![];
    let vips = settings
        .vips
        .iter()
        .map(|vip| {
            let at = interfaces.iter().position(|name| *name == vip.interface).unwrap_or_else(|| {
                interfaces.push(vip.interface.clone());
                interfaces.len() - 1
            });
            (vip.address.addr(), u32::try_from(at).unwrap_or(0))
        })
        .collect();
    Layout { digest: settings.digest, interfaces, vips }
}

struct Service {
    settings: Settings,
    /// Read anew, and waiting for the holder to take it up.
    candidate: Option<Settings>,
    journal: Journal,
    holder: Holder,
    gate: Option<Gate>,
    /// VIPs that the gate could not take in, and why.
    unguarded: BTreeMap<IpAddr, String>,
    kernel: Kernel,
    /// Names of the service interfaces; the index is the holder's number.
    names: Vec<String>,
    interfaces: BTreeMap<String, Interface>,
    wires: BTreeMap<String, Wire>,
    /// Addresses we took away ourselves, by interface, and whose going the kernel has still to report.
    removing: BTreeMap<(IpAddr, u32), u32>,
    by_address: BTreeMap<IpAddr, u32>,
    stream: Option<Stream>,
    refreshed: Moment,
    /// Addresses to come and go, in order.
    slow: VecDeque<Act>,
    /// Counts what the kernel told and what was asked of it: a look that began before is out of date.
    happened: u64,
    /// When everything is looked at again.
    look_due: Moment,
    /// The next look clears away what an earlier run or configuration left.
    strays: bool,
    /// A host route could not be set.
    unrouted: bool,
    /// Why there is no stream, as it was last said.
    unreachable: Option<String>,
    acts: Vec<Act>,
}

impl Service {
    fn new(settings: Settings, journal: Journal) -> io::Result<Self> {
        let gate = match Gate::load() {
            Ok(gate) => Some(gate),
            Err(error) => {
                journal.log(Notice::Trouble { text: no_gate(&error) });
                None
            }
        };
        let kind = if gate.is_some() { GateKind::Bpf } else { GateKind::Lifetimes };
        let layout = layout(&settings);
        let mark = Mark::of(&settings.group);
        let mut service = Self {
            names: layout.interfaces.clone(),
            holder: Holder::new(kind, layout),
            settings,
            candidate: None,
            journal,
            gate,
            unguarded: BTreeMap::new(),
            kernel: Kernel::new(mark)?,
            interfaces: BTreeMap::new(),
            wires: BTreeMap::new(),
            removing: BTreeMap::new(),
            by_address: BTreeMap::new(),
            stream: None,
            refreshed: Moment::ZERO,
            slow: VecDeque::new(),
            happened: 0,
            look_due: Moment::ZERO,
            strays: false,
            unrouted: false,
            unreachable: None,
            acts: vec![],
        };
        service.index_vips();
        Ok(service)
    }

    /// Said when it begins and when its reason changes.
    fn no_stream(&mut self, path: &Path, error: &io::Error) {
        let text =
            format!("{}: {error}; waiting for {}.service", path.display(), unit("dre", &self.settings.group));
        if self.unreachable.as_ref() != Some(&text) {
            self.journal.log(Notice::Trouble { text: text.clone() });
            self.unreachable = Some(text);
        }
    }

    fn index_vips(&mut self) {
        self.by_address.clear();
        self.unguarded.clear();
        for (n, vip) in self.settings.vips.iter().enumerate() {
            self.by_address.insert(vip.address.addr(), u32::try_from(n).unwrap_or(u32::MAX));
            self.unguarded.insert(vip.address.addr(), String::new());
        }
        self.guard();
    }

    /// Takes into the gate what is not in it yet.
    fn guard(&mut self) {
        match &self.gate {
            None => self.unguarded.clear(),
            Some(gate) => self.unguarded.retain(|ip, why| match gate.guard(*ip) {
                Ok(()) => false,
                Err(error) => {
                    *why = format!("it cannot take {ip} in: {error}");
                    true
                }
            }),
        }
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.names.iter().position(|n| n == name).and_then(|n| u32::try_from(n).ok())
    }

    /// What a look is to see, and put right.
    fn asked(&self) -> Asked {
        let arbitrator = self.settings.arbitrator.as_ref();
        Asked {
            serial: self.happened,
            names: self.names.clone(),
            programs: self.gate.as_ref().map(Gate::programs),
            routes: arbitrator.map(|a| (a.addresses.clone(), a.interface.clone())),
            strays: self.strays,
        }
    }

    /// At the start, when nothing is held yet: waits.
    fn look_now(&mut self, now: Moment) {
        // The first look takes addresses of an earlier run away, the second the gate that they were behind.
        for strays in [false, true] {
            self.strays = strays;
            let asked = self.asked();
            let seen = look::look(&mut self.kernel, &asked);
            // The kernel was built without clsact or bpf filters: no later look will find them.
            let lacks = |(_, _, found): &(String, u32, io::Result<Hook>)| {
                found.as_ref().err().is_some_and(|error| error.raw_os_error() == Some(libc::ENOENT))
            };
            if let Some((_, _, Err(error))) = seen.hooks.iter().find(|hook| lacks(hook)) {
                self.journal.log(Notice::Trouble { text: no_gate(error) });
                self.gate = None;
                self.guard();
                self.holder = Holder::new(GateKind::Lifetimes, layout(&self.settings));
            }
            self.seen(now, seen);
            self.act();
            while !self.slow.is_empty() {
                self.work();
            }
        }
        self.strays = false;
    }

    /// The kernel as it was seen beside what is known of it; `false` if it was overtaken by events.
    fn seen(&mut self, now: Moment, seen: Seen) -> bool {
        let current = seen.serial == self.happened;
        self.unrouted = !seen.routes.is_empty();
        let routes: Vec<String> = seen.routes.iter().map(|(to, why)| format!("{to}: {why}")).collect();
        let text = self.unrouted.then(|| {
            format!("no host route to the arbitrator ({}); bring the neutral interface up", routes.join("; "))
        });
        self.holder.alarm("ArbitratorRoute", text, &mut self.acts);
        for text in seen.strays {
            self.trouble(text);
        }
        match seen.interfaces {
            Ok(all) if current => {
                for name in self.names.clone() {
                    match all.get(&name) {
                        Some(interface) => self.interface_is(now, interface),
                        None => self.interface_is_gone(&name),
                    }
                }
                self.interfaces = all;
            }
            Ok(_) => {}
            Err(error) => self.trouble(format!("cannot list interfaces: {error}")),
        }
        self.guard();
        for (name, index, found) in seen.hooks {
            self.hook_is(now, &name, index, found);
        }
        match seen.addresses {
            Ok(all) if current => {
                let mut present = BTreeSet::new();
                for address in all {
                    if self.vip_here(&address).is_some() {
                        present.insert(address.address);
                    }
                    self.address_is(now, &address);
                }
                for (ip, vip) in self.by_address.clone() {
                    if !present.contains(&ip) && self.holder.holds(now) {
                        self.holder.vanished(now, vip, &mut self.acts);
                    }
                }
            }
            Ok(_) => {}
            Err(error) => self.trouble(format!("cannot list addresses: {error}")),
        }
        current
    }

    /// The gate on an interface as a look found it, or left it.
    fn hook_is(&mut self, now: Moment, name: &str, index: u32, found: io::Result<Hook>) {
        // Another interface of that name by now: the next look is under way.
        if self.interfaces.get(name).is_none_or(|known| known.index != index) {
            return;
        }
        let Some(on) = self.number(name) else { return };
        let mut here = self.settings.vips.iter().filter(|vip| vip.interface == name);
        let unguarded = here.find_map(|vip| self.unguarded.get(&vip.address.addr()).cloned());
        let found = match (found, unguarded) {
            (Err(error), _) => Err(format!("it cannot be put there: {error}")),
            (Ok(_), Some(why)) => Err(why),
            (Ok(hook), None) => Ok(hook == Hook::PutBack),
        };
        if self.holder.gate(now, on, found, &mut self.acts) {
            self.journal.log(Notice::GateMended { interface: name.to_owned() });
        }
    }

    fn trouble(&self, text: String) {
        self.journal.log(Notice::Trouble { text });
    }

    fn interface_is(&mut self, now: Moment, interface: &Interface) {
        let Some(on) = self.number(&interface.name) else { return };
        let known = self.interfaces.get(&interface.name).cloned();
        let known = known.as_ref();
        let same = known.is_some_and(|k| k.index == interface.index && k.mac == interface.mac);
        if known.is_some_and(|k| k.index != interface.index) {
            self.holder.interface_gone(on, &mut self.acts);
        }
        let changed = known.is_none_or(|k| k.carrier != interface.carrier) || !same;
        self.interfaces.insert(interface.name.clone(), interface.clone());
        if changed {
            self.holder.interface(now, on, interface.carrier, &mut self.acts);
        }
        if !same || !self.wires.contains_key(&interface.name) {
            let deaf = match Wire::open(interface.index, interface.mac) {
                Ok(wire) => {
                    self.wires.insert(interface.name.clone(), wire);
                    None
                }
                Err(error) => {
                    self.wires.remove(&interface.name);
                    Some(error.to_string())
                }
            };
            self.holder.wire(now, on, deaf, &mut self.acts);
        }
    }

    fn interface_is_gone(&mut self, name: &str) {
        let Some(on) = self.number(name) else { return };
        self.interfaces.remove(name);
        self.wires.remove(name);
        self.holder.interface_gone(on, &mut self.acts);
    }

    /// The VIP that this is, if it is where that VIP belongs.
    fn vip_here(&self, address: &netlink::Address) -> Option<u32> {
        let vip = *self.by_address.get(&address.address)?;
        let wanted = self.settings.vips.get(vip as usize)?;
        let interface = self.interfaces.get(&wanted.interface)?;
        (interface.index == address.index).then_some(vip)
    }

    fn address_is(&mut self, now: Moment, address: &netlink::Address) {
        match self.vip_here(address) {
            Some(_) if address.tentative => {}
            Some(vip) => {
                if !self.holder.holds(now) {
                    let text = format!(
                        "{} was on {} without the lease and is taken away",
                        address.address, self.settings.vips[vip as usize].interface
                    );
                    self.journal.log(Notice::VipMended { text });
                }
                self.holder.appeared(now, vip, &mut self.acts);
            }
            // Ours by its tag, and not wanted here: left by a crash or by an earlier configuration.
            None if address.ours => self.remove_orphan(address),
            None => {}
        }
    }

    fn remove_orphan(&mut self, address: &netlink::Address) {
        let text = match self.kernel.remove_address(address.address, address.prefix, address.index) {
            // Gone already: the kernel's word of it is older than that.
            Ok(false) => return,
            Ok(true) => format!("{} was left by an earlier run and is taken away", address.address),
            Err(error) => {
                format!("{} was left by an earlier run and cannot be taken away: {error}", address.address)
            }
        };
        self.journal.log(Notice::VipMended { text });
    }

    fn heard(&mut self, now: Moment, heard: Heard) {
        // Hooks and routes are put right by the look itself: its own doing does not overtake it.
        if !matches!(heard, Heard::Hook { .. } | Heard::RouteGone) {
            self.happened += 1;
        }
        match heard {
            Heard::Interface(interface) => {
                let renamed =
                    self.interfaces.values().find(|k| k.index == interface.index && k.name != interface.name);
                if let Some(old) = renamed.map(|k| k.name.clone()) {
                    self.interface_is_gone(&old);
                }
                if self.number(&interface.name).is_some() {
                    self.interface_is(now, &interface);
                } else {
                    self.interfaces.insert(interface.name.clone(), interface);
                }
                self.look_due = now;
            }
            Heard::InterfaceGone { index } => {
                let name = self.interfaces.values().find(|i| i.index == index).map(|i| i.name.clone());
                if let Some(name) = name {
                    self.interfaces.remove(&name);
                    self.interface_is_gone(&name);
                }
            }
            Heard::Address(address) => self.address_is(now, &address),
            Heard::AddressGone(address) => {
                let place = (address.address, address.index);
                if let Some(expected) = self.removing.get_mut(&place) {
                    *expected -= 1;
                    if *expected == 0 {
                        self.removing.remove(&place);
                    }
                    return;
                }
                if let Some(vip) = self.vip_here(&address) {
                    if self.holder.holds(now) {
                        let text =
                            format!("{} was taken away by another hand and is brought back", address.address);
                        self.journal.log(Notice::VipMended { text });
                    }
                    self.holder.vanished(now, vip, &mut self.acts);
                }
            }
            // Whether it was ours that went, the look finds out, and puts it back.
            Heard::Hook { index } => {
                if self.names.iter().filter_map(|n| self.interfaces.get(n)).any(|i| i.index == index) {
                    self.look_due = now;
                }
            }
            Heard::RouteGone => self.look_due = now,
            Heard::Overrun => {
                self.removing.clear();
                self.look_due = now;
            }
        }
    }

    /// Carries out what the machine said, in its order.
    fn act(&mut self) {
        while !self.acts.is_empty() {
            for act in std::mem::take(&mut self.acts) {
                match act {
                    // Without a gate the address itself is what answers: it is gone before the loop says so.
                    Act::Remove(_) if !self.holder.guarded() => self.one(act),
                    Act::Add(_) | Act::Remove(_) if self.gate.is_some() => self.slow.push_back(act),
                    act => self.one(act),
                }
            }
        }
    }

    /// Addresses come and go one by one, each with the kernel's answer, and thousands take longer than a lease lasts: a
    /// few of them a turn, so that orders and renewals are never behind them.
    fn work(&mut self) {
        let begun = clock::now();
        while clock::now().since(begun) < WORK_A_TURN {
            let Some(act) = self.slow.pop_front() else { return };
            // The role went while its addresses were still being set.
            if matches!(act, Act::Add(_)) && !self.holder.holds(clock::now()) {
                continue;
            }
            self.one(act);
            self.act();
        }
    }

    fn one(&mut self, act: Act) {
        let now = clock::now();
        match act {
            Act::Gate(until) => match &self.gate {
                Some(gate) => gate.until(until),
                None => self.refresh_lifetimes(now, until),
            },
            Act::Add(n) => {
                self.happened += 1;
                let vip = &self.settings.vips[n as usize];
                let Some(interface) = self.interfaces.get(&vip.interface) else { return };
                if let Some(why) = self.unguarded.get(&vip.address.addr()) {
                    // The gate does not stand before it: it would answer without a lease.
                    let text = format!("{} is not brought up without the gate: {why}", vip.address.addr());
                    self.holder.failed(now, n, &text, &mut self.acts);
                    return;
                }
                let lifetime = self.gate.is_none().then(|| lifetime(now, self.holder.until()));
                match self.kernel.add_vip(vip, interface.index, lifetime) {
                    // IPv4 is usable with the answer; IPv6 when the kernel says so.
                    Ok(()) if vip.address.addr().is_ipv4() => self.holder.appeared(now, n, &mut self.acts),
                    Ok(()) => {}
                    Err(error) => {
                        let text =
                            format!("{} cannot be set on {}: {error}", vip.address.addr(), vip.interface);
                        self.holder.failed(now, n, &text, &mut self.acts);
                    }
                }
            }
            Act::Remove(n) => {
                self.happened += 1;
                let vip = self.settings.vips[n as usize].clone();
                let own = netlink::vip_prefix(&vip);
                self.remove(&vip, own);
                if vip.address.prefix_len() != own {
                    // Somebody may have set it with the network's prefix.
                    self.remove(&vip, vip.address.prefix_len());
                }
            }
            Act::Announce(vips) => {
                let (sent, unsent): (Vec<u32>, Vec<u32>) =
                    vips.into_iter().partition(|n| self.on_wire(*n, Wire::announce));
                self.holder.announced(now, &sent, unsent, &mut self.acts);
            }
            Act::Probe { round, vips } => {
                let sent: Vec<u32> = vips.into_iter().filter(|n| self.on_wire(*n, Wire::probe)).collect();
                self.holder.probed(clock::now(), round, &sent, &mut self.acts);
            }
            Act::Adopt => {
                if let Some(settings) = self.candidate.take() {
                    self.reload(now, settings);
                    self.journal.log(Notice::ConfigReloaded { text: "configuration reloaded".into() });
                }
            }
            Act::Report(report) => {
                if let Some(stream) = &mut self.stream
                    && stream.send(&report).is_err()
                {
                    // dre-elect does not read: it is gone or hangs, and with it the lease.
                    self.stream = None;
                    self.holder.stream_closed(now, &mut self.acts);
                }
            }
        }
    }

    /// True if the frames really went out.
    fn on_wire(&self, vip: u32, send: fn(&Wire, IpAddr) -> bool) -> bool {
        let vip = self.settings.vips.get(vip as usize);
        let way = vip.and_then(|vip| Some((vip, self.wires.get(&vip.interface)?)));
        way.is_some_and(|(vip, wire)| send(wire, vip.address.addr()))
    }

    /// Without a gate the addresses themselves carry the deadline.
    fn refresh_lifetimes(&mut self, now: Moment, until: Moment) {
        if until == Moment::ZERO || now.since(self.refreshed) < Duration::from_millis(400) {
            return;
        }
        self.refreshed = now;
        for vip in &self.settings.vips {
            if let Some(interface) = self.interfaces.get(&vip.interface) {
                let _ = self.kernel.add_vip(vip, interface.index, Some(lifetime(now, until)));
            }
        }
    }

    /// What stays is not touched, not even its sockets: closing a packet socket waits for the kernel (RCU), for longer
    /// than a short lease lasts.
    fn reload(&mut self, now: Moment, settings: Settings) {
        let layout = layout(&settings);
        let names = layout.interfaces.clone();
        let from: Vec<Option<u32>> = settings
            .vips
            .iter()
            .map(|vip| {
                self.settings.vips.iter().position(|old| old == vip).and_then(|n| u32::try_from(n).ok())
            })
            .collect();
        // What left the configuration, or stands in it differently, leaves this node: address first, guard after.
        for vip in self.settings.vips.clone().iter().filter(|vip| !settings.vips.contains(vip)) {
            self.remove(vip, netlink::vip_prefix(vip));
            let stays = settings.vips.iter().any(|new| new.address.addr() == vip.address.addr());
            if let Some(gate) = self.gate.as_ref().filter(|_| !stays) {
                let _ = gate.release(vip.address.addr());
            }
        }
        // What is still to be done was said in the old numbers.
        let renumber = |old: u32| {
            from.iter().position(|from| *from == Some(old)).and_then(|new| u32::try_from(new).ok())
        };
        self.slow = std::mem::take(&mut self.slow)
            .into_iter()
            .filter_map(|act| match act {
                Act::Add(n) => renumber(n).map(Act::Add),
                Act::Remove(n) => renumber(n).map(Act::Remove),
                act => Some(act),
            })
            .collect();
        self.wires.retain(|name, _| names.contains(name));
        let fresh: Vec<String> = names.iter().filter(|name| !self.names.contains(name)).cloned().collect();
        self.settings = settings;
        self.names = names;
        self.index_vips();
        let carrier = |name: &str| self.interfaces.get(name).map(|interface| interface.carrier);
        self.holder.reload(now, layout, &from, carrier, &mut self.acts);
        for name in fresh {
            // Known as an interface, not as one of ours.
            if let Some(interface) = self.interfaces.remove(&name) {
                self.interface_is(now, &interface);
            }
        }
        // The gate goes onto new interfaces and off others by the look; VIPs that it could not take in are known now.
        for (ip, why) in self.unguarded.clone() {
            let vip = self.by_address.get(&ip).and_then(|n| self.settings.vips.get(*n as usize));
            if let Some(on) = vip.and_then(|vip| self.number(&vip.interface)) {
                self.holder.gate(now, on, Err(why), &mut self.acts);
            }
        }
        self.strays = true;
        self.look_due = now;
    }

    /// Takes an address away; the kernel's word of it is expected and nobody else's doing.
    fn remove(&mut self, vip: &Vip, prefix: u8) {
        let Some(interface) = self.interfaces.get(&vip.interface) else { return };
        let ip = vip.address.addr();
        match self.kernel.remove_address(ip, prefix, interface.index) {
            Ok(true) => *self.removing.entry((ip, interface.index)).or_default() += 1,
            Ok(false) => {}
            Err(error) => self.trouble(format!("cannot take {ip} away: {error}")),
        }
    }

    fn status(&self, now: Moment) -> String {
        let (wanted, held, announced) = self.holder.counts();
        let gate = match (self.holder.gate_kind(), self.holder.holds(now)) {
            (GateKind::Bpf, true) => "gate open",
            (GateKind::Bpf, false) => "gate shut",
            (GateKind::Unguarded, true) => "gate NOT everywhere, open",
            (GateKind::Unguarded, false) => "gate NOT everywhere, shut",
            (GateKind::Lifetimes, true) => "no gate (lifetimes), held",
            (GateKind::Lifetimes, false) => "no gate (lifetimes)",
        };
        let lease = if self.stream.is_some() { "" } else { " · no word from dre-elect" };
        format!("{gate} · VIPs {held}/{wanted}, announced {announced}{lease}")
    }
}

fn no_gate(error: &io::Error) -> String {
    format!(
        "the kernel refuses the gate ({error}): VIPs are bound to the lease by address lifetimes of whole seconds; Linux 5.8 or \
         later with cls_bpf and sch_ingress, and CAP_BPF, are needed"
    )
}

/// Whole seconds that cover what is left of the lease; the kernel knows no finer.
fn lifetime(now: Moment, until: Moment) -> u32 {
    u32::try_from(now.until(until).as_secs()).unwrap_or(0).saturating_add(1)
}

async fn run(settings: Settings, journal: &Journal) -> io::Result<()> {
    let notify = Notify::start()?;
    for refused in realtime::take(realtime::VIP) {
        journal.log(Notice::Trouble { text: refused });
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mark = Mark::of(&settings.group);
    let mut listener = netlink::Listener::new(mark.clone())?;
    let mut alarm = Alarm::new()?;
    let mut service = Service::new(settings, journal.clone())?;
    let path = stream_path(&service.settings.group);

    service.look_now(clock::now());
    let (looker, mut looks) = Looker::start(mark)?;
    service.look_due = clock::now() + RESYNC;
    service.act();
    journal
        .log(Notice::Started { what: "dre-vip", text: format!("armed: {}", service.status(clock::now())) });
    notify.ready();
    let (read, mut reread) = tokio::sync::mpsc::channel::<Result<Settings, config::Error>>(1);
    let watchdog = notify::watchdog_period();
    let (mut next_ping, mut next_connect) = (Moment::ZERO, Moment::ZERO);
    let mut said = String::new();

    loop {
        let now = clock::now();
        if service.stream.is_none() && now >= next_connect {
            next_connect = now + RECONNECT;
            let connected = Stream::connect(&path);
            if let Err(error) = &connected {
                service.no_stream(&path, error);
            }
            if let Ok(stream) = connected {
                service.unreachable = None;
                service.stream = Some(stream);
                service.holder.stream_opened(now, &mut service.acts);
            }
        }
        if now >= service.look_due {
            let troubled = service.unrouted || service.holder.troubled();
            if looker.ask(service.asked()) {
                service.strays = false;
                service.look_due = now + if troubled { RETRY } else { RESYNC };
            } else {
                // One is waiting already, and will see what this one would; what it was asked for may have changed since.
                service.look_due = now + LOOK_AGAIN;
            }
        }
        service.holder.due(now, &mut service.acts);
        service.act();
        service.work();
        if let Some(period) = watchdog
            && now >= next_ping
        {
            next_ping = now + period;
            notify.watchdog();
        }
        let status = service.status(now);
        if status != said {
            notify.status(&status);
            said = status;
        }

        let mut deadline = if service.slow.is_empty() { service.look_due } else { now };
        deadline = service.holder.next_deadline().map_or(deadline, |at| at.min(deadline));
        if watchdog.is_some() {
            deadline = deadline.min(next_ping);
        }
        if service.stream.is_none() {
            deadline = deadline.min(next_connect);
        }
        // The lease stream first: what it says is why this process exists.
        tokio::select! {
            biased;
            () = orders(service.stream.as_ref()) => take_orders(&mut service),
            () = alarm.until(deadline) => {}
            () = frames(&service.wires) => take_frames(&mut service),
            () = listener.readable() => {
                let now = clock::now();
                for heard in listener.drain() {
                    service.heard(now, heard);
                }
            }
            Some(seen) = looks.recv() => {
                let now = clock::now();
                let again = match (service.seen(now, seen), service.unrouted || service.holder.troubled()) {
                    (false, _) => LOOK_AGAIN,
                    (true, true) => RETRY,
                    (true, false) => RESYNC,
                };
                service.look_due = service.look_due.min(now + again);
            }
            _ = hangup.recv() => {
                notify.reloading();
                let read = read.clone();
                // Files may hang: read and checked on a thread of its own, taken over by the loop.
                std::thread::Builder::new()
                    .name("reload".into())
                    .spawn(move || drop(read.blocking_send(config::load_here().map(|(settings, _)| settings))))?;
            }
            Some(loaded) = reread.recv() => reload(&mut service, &notify, loaded),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        service.act();
    }

    notify.stopping();
    let now = clock::now();
    service.holder.stream_closed(now, &mut service.acts);
    service.act();
    while !service.slow.is_empty() {
        service.work();
    }
    // A clean stop leaves nothing behind; after a kill the programs stay, shut.
    for interface in service.interfaces.values().filter(|i| service.names.contains(&i.name)) {
        let _ = service.kernel.unhook(interface.index);
    }
    if let Some(arbitrator) = &service.settings.arbitrator
        && let Some(interface) = service.interfaces.get(&arbitrator.interface)
    {
        for address in &arbitrator.addresses {
            let _ = service.kernel.host_route(*address, interface.index, false);
        }
    }
    journal.log(Notice::Stopping { text: "dre-vip stops: gate shut, VIPs taken away".into() });
    Ok(())
}

async fn orders(stream: Option<&Stream>) {
    match stream {
        Some(stream) => drop(stream.readable().await),
        None => std::future::pending().await,
    }
}

fn take_orders(service: &mut Service) {
    loop {
        let Some(stream) = &mut service.stream else { return };
        let got = stream.try_recv::<Order>();
        let now = clock::now();
        match got {
            Ok(None) => return,
            Ok(Some(order)) => service.holder.order(now, &order, &mut service.acts),
            Err(_) => {
                service.stream = None;
                service.holder.stream_closed(now, &mut service.acts);
            }
        }
        service.act();
    }
}

async fn frames(wires: &BTreeMap<String, Wire>) {
    let mut waits: Vec<_> = wires.values().map(|wire| Box::pin(wire.readable())).collect();
    if waits.is_empty() {
        return std::future::pending().await;
    }
    std::future::poll_fn(|cx| {
        let any = waits.iter_mut().any(|wait| wait.as_mut().poll(cx).is_ready());
        if any { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

fn take_frames(service: &mut Service) {
    let now = clock::now();
    let own: BTreeSet<[u8; 6]> = service.wires.values().map(Wire::mac).collect();
    let mut said = vec![];
    for wire in service.wires.values() {
        wire.drain(FRAMES_MAX, |word| said.push(word));
    }
    for word in said {
        if let Some(vip) = service.by_address.get(&word.address)
            && !own.contains(&word.mac)
        {
            service.holder.said(now, *vip, word.mac, word.probe, &mut service.acts);
        }
    }
}

fn reload(service: &mut Service, notify: &Notify, loaded: Result<Settings, config::Error>) {
    match loaded {
        Ok(settings) => {
            let digest = settings.digest;
            service.candidate = Some(settings);
            service.holder.offer(clock::now(), digest, &mut service.acts);
        }
        Err(error) => {
            service.candidate = None;
            service.holder.refused(&error.lines(), &mut service.acts);
            service.journal.log(Notice::ConfigRejected {
                text: format!(
                    "the new configuration is refused, the old one stays in force: {}",
                    error.lines()
                ),
            });
        }
    }
    notify.ready();
}
