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
use dre::logic::holder::{Act, Holder};
use dre::logic::time::Moment;
use dre::notice::{Notice, Priority};
use dre::shell::clock::{self, Alarm};
use dre::shell::frames::Wire;
use dre::shell::gate::{Gate, Way};
use dre::shell::journal::Journal;
use dre::shell::netlink::{self, Heard, Interface, Kernel};
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
/// Frames taken from one interface a turn.
const FRAMES_MAX: usize = 32;

fn main() -> ExitCode {
    let level =
        std::env::var("DRE_LOG_LEVEL").ok().and_then(|w| Priority::from_word(&w)).unwrap_or(Priority::Info);
    let journal = match Journal::start("dre-vip", level) {
        Ok(journal) => journal,
        Err(error) => {
            eprintln!("dre-vip: cannot start the journal's thread: {error}");
            return ExitCode::from(70);
        }
    };
    let settings = match config::load() {
        Ok(settings) => settings,
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

/// Where dre-elect listens.
fn stream_path() -> PathBuf {
    std::env::var_os("DRE_LEASE_SOCKET").map_or_else(|| Path::new("/run/dre/lease").into(), PathBuf::from)
}

/// Service interfaces by number, in the order in which the VIPs name them.
fn numbered(settings: &Settings) -> (Vec<String>, Vec<u32>) {
    let mut names: Vec<String> = vec![];
    let on = settings
        .vips
        .iter()
        .map(|vip| {
            let at = names.iter().position(|name| *name == vip.interface).unwrap_or_else(|| {
                names.push(vip.interface.clone());
                names.len() - 1
            });
            u32::try_from(at).unwrap_or(0)
        })
        .collect();
    (names, on)
}

struct Service {
    settings: Settings,
    journal: Journal,
    holder: Holder,
    gate: Option<Gate>,
    kernel: Kernel,
    /// Names of the service interfaces; the index is the holder's number.
    names: Vec<String>,
    interfaces: BTreeMap<String, Interface>,
    wires: BTreeMap<String, Wire>,
    /// Addresses we took away ourselves and whose going the kernel has still to report.
    removing: BTreeMap<IpAddr, u32>,
    by_address: BTreeMap<IpAddr, u32>,
    stream: Option<Stream>,
    refreshed: Moment,
    /// Addresses to come and go, in order.
    slow: VecDeque<Act>,
    /// Counts what the kernel told and what was asked of it: a look that began before is out of date.
    happened: u64,
    /// When everything is looked at again.
    look_due: Moment,
    /// Why there is no stream, as it was last said.
    unreachable: Option<String>,
    acts: Vec<Act>,
}

impl Service {
    fn new(settings: Settings, journal: Journal) -> io::Result<Self> {
        let gate = match Gate::load() {
            Ok(gate) => Some(gate),
            Err(error) => {
                let text = format!(
                    "the kernel refuses the gate ({error}): VIPs are bound to the lease by address lifetimes of whole \
                     seconds; Linux 5.8 or later and CAP_BPF are needed"
                );
                journal.log(Notice::Trouble { text });
                None
            }
        };
        let kind = if gate.is_some() { GateKind::Bpf } else { GateKind::Lifetimes };
        let (names, on) = numbered(&settings);
        let mut service = Self {
            holder: Holder::new(kind, settings.digest, on),
            settings,
            journal,
            gate,
            kernel: Kernel::new()?,
            names,
            interfaces: BTreeMap::new(),
            wires: BTreeMap::new(),
            removing: BTreeMap::new(),
            by_address: BTreeMap::new(),
            stream: None,
            refreshed: Moment::ZERO,
            slow: VecDeque::new(),
            happened: 0,
            look_due: Moment::ZERO,
            unreachable: None,
            acts: vec![],
        };
        service.index_vips();
        Ok(service)
    }

    /// Said when it begins and when its reason changes.
    fn no_stream(&mut self, path: &Path, error: &io::Error) {
        let text = format!("{}: {error}; waiting for dre.service", path.display());
        if self.unreachable.as_ref() != Some(&text) {
            self.journal.log(Notice::Trouble { text: text.clone() });
            self.unreachable = Some(text);
        }
    }

    fn index_vips(&mut self) {
        self.by_address.clear();
        for (n, vip) in self.settings.vips.iter().enumerate() {
            let ip = vip.address.addr();
            self.by_address.insert(ip, u32::try_from(n).unwrap_or(u32::MAX));
            if let Some(gate) = &self.gate
                && let Err(error) = gate.guard(ip)
            {
                self.journal.log(Notice::Trouble { text: format!("the gate cannot guard {ip}: {error}") });
            }
        }
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.names.iter().position(|n| n == name).and_then(|n| u32::try_from(n).ok())
    }

    /// Everything as the kernel has it now.
    /// What a look is to see, and put right.
    fn asked(&self) -> Asked {
        let arbitrator = self.settings.arbitrator.as_ref();
        let index = arbitrator.and_then(|a| self.interfaces.get(&a.interface)).map(|i| i.index);
        let addresses = arbitrator.into_iter().flat_map(|a| a.addresses.iter().copied());
        let routes = index.map_or_else(Vec::new, |index| addresses.map(|to| (to, index)).collect());
        Asked { serial: self.happened, routes }
    }

    /// At the start, when nothing is held yet: waits.
    fn look_now(&mut self, now: Moment) {
        // The first look finds the interfaces, the second sets the routes over them.
        for _ in 0..2 {
            let asked = self.asked();
            let seen = look::look(&mut self.kernel, &asked);
            self.seen(now, seen);
        }
    }

    /// The kernel as it was seen beside what is known of it; `false` if it was overtaken by events.
    fn seen(&mut self, now: Moment, seen: Seen) -> bool {
        for (to, set) in seen.routes {
            let text = set.err().map(|error| {
                format!("no host route to the arbitrator {to}: {error}; bring the neutral interface up")
            });
            self.holder.alarm("ArbitratorRoute", text, &mut self.acts);
        }
        if seen.serial != self.happened {
            return false;
        }
        match seen.interfaces {
            Ok(all) => {
                for name in self.names.clone() {
                    match all.get(&name) {
                        Some(interface) => self.interface_is(now, interface),
                        None => self.interface_is_gone(&name),
                    }
                }
                self.interfaces = all;
            }
            Err(error) => self.trouble(format!("cannot list interfaces: {error}")),
        }
        match seen.addresses {
            Ok(all) => {
                let mut present = BTreeSet::new();
                for address in all {
                    present.insert(address.address);
                    self.address_is(now, &address);
                }
                for (ip, vip) in self.by_address.clone() {
                    if !present.contains(&ip) && self.holder.holds(now) {
                        self.holder.vanished(now, vip, &mut self.acts);
                    }
                }
            }
            Err(error) => self.trouble(format!("cannot list addresses: {error}")),
        }
        true
    }

    fn trouble(&self, text: String) {
        self.journal.log(Notice::Trouble { text });
    }

    fn interface_is(&mut self, now: Moment, interface: &Interface) {
        let Some(on) = self.number(&interface.name) else { return };
        let known = self.interfaces.get(&interface.name).cloned();
        let known = known.as_ref();
        let same = known.is_some_and(|k| k.index == interface.index && k.mac == interface.mac);
        if !same || !self.wires.contains_key(&interface.name) {
            if known.is_some_and(|k| k.index != interface.index) {
                self.holder.interface_gone(on, &interface.name, &mut self.acts);
            }
            self.attach(interface.index);
            match Wire::open(interface.index, interface.mac) {
                Ok(wire) => drop(self.wires.insert(interface.name.clone(), wire)),
                Err(error) => self.trouble(format!("cannot listen on {}: {error}", interface.name)),
            }
        }
        let changed = known.is_none_or(|k| k.carrier != interface.carrier) || !same;
        self.interfaces.insert(interface.name.clone(), interface.clone());
        if changed {
            self.holder.interface(now, on, &interface.name, interface.carrier, &mut self.acts);
        }
    }

    fn interface_is_gone(&mut self, name: &str) {
        let Some(on) = self.number(name) else { return };
        self.interfaces.remove(name);
        self.wires.remove(name);
        self.holder.interface_gone(on, name, &mut self.acts);
    }

    fn attach(&mut self, index: u32) {
        let Some(gate) = &self.gate else { return };
        for way in [Way::In, Way::Out] {
            if let Err(error) = self.kernel.attach(index, way, gate.program(way)) {
                let text =
                    format!("cannot attach the gate to interface {index}: {error}; is CAP_NET_ADMIN there?");
                self.journal.log(Notice::Trouble { text });
            }
        }
    }

    fn address_is(&mut self, now: Moment, address: &netlink::Address) {
        match self.by_address.get(&address.address) {
            Some(vip) => {
                let vip = *vip;
                let wanted = &self.settings.vips[vip as usize];
                let here = self.interfaces.get(&wanted.interface).is_some_and(|i| i.index == address.index);
                if here && !address.tentative {
                    if !self.holder.holds(now) {
                        let text = format!(
                            "{} was on {} without the lease and is taken away",
                            address.address, wanted.interface
                        );
                        self.journal.log(Notice::VipMended { text });
                    }
                    self.holder.appeared(now, vip, &mut self.acts);
                }
            }
            // Ours by its tag, and not wanted: left by a crash or by an earlier configuration.
            None if address.ours => self.remove_orphan(address),
            None => {}
        }
    }

    fn remove_orphan(&mut self, address: &netlink::Address) {
        let text = match self.kernel.remove_address(address.address, address.prefix, address.index) {
            Ok(_) => format!("{} was left by an earlier run and is taken away", address.address),
            Err(error) => {
                format!("{} was left by an earlier run and cannot be taken away: {error}", address.address)
            }
        };
        self.journal.log(Notice::VipMended { text });
    }

    fn heard(&mut self, now: Moment, heard: Heard) {
        self.happened += 1;
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
                if let Some(expected) = self.removing.get_mut(&address.address) {
                    *expected -= 1;
                    if *expected == 0 {
                        self.removing.remove(&address.address);
                    }
                    return;
                }
                if let Some(vip) = self.by_address.get(&address.address).copied() {
                    if self.holder.holds(now) {
                        let text =
                            format!("{} was taken away by another hand and is brought back", address.address);
                        self.journal.log(Notice::VipMended { text });
                    }
                    self.holder.vanished(now, vip, &mut self.acts);
                }
            }
            Heard::Hook { index } => {
                let Some(gate) = &self.gate else { return };
                let ours =
                    self.names.iter().filter_map(|n| self.interfaces.get(n)).find(|i| i.index == index);
                let Some(interface) = ours.cloned() else { return };
                // Put back at once; whether it was ours that went is not worth finding out first.
                for way in [Way::In, Way::Out] {
                    let _ = self.kernel.attach(index, way, gate.program(way));
                }
                self.journal.log(Notice::GateMended { interface: interface.name });
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
                let lifetime = self.gate.is_none().then(|| lifetime(now, self.holder.until()));
                match self.kernel.add_vip(vip, interface.index, lifetime) {
                    // IPv4 is usable with the answer; IPv6 when the kernel says so.
                    Ok(()) if vip.address.addr().is_ipv4() => self.holder.appeared(now, n, &mut self.acts),
                    Ok(()) => {}
                    Err(error) => {
                        let text =
                            format!("{} cannot be set on {}: {error}", vip.address.addr(), vip.interface);
                        self.holder.failed(n, &text, &mut self.acts);
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
                let failed = vips.into_iter().filter(|n| !self.on_wire(*n, Wire::announce)).collect();
                self.holder.unannounced(now, failed);
            }
            Act::Probe(vips) => {
                for n in vips {
                    self.on_wire(n, Wire::probe);
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

    /// True unless there was a frame to send and it could not go out.
    fn on_wire(&self, vip: u32, send: fn(&Wire, IpAddr) -> bool) -> bool {
        let Some(vip) = self.settings.vips.get(vip as usize) else { return true };
        let wire = self.wires.get(&vip.interface);
        wire.is_none_or(|wire| send(wire, vip.address.addr()))
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
        let (names, on) = numbered(&settings);
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
        for name in self.names.iter().filter(|name| !names.contains(name)) {
            self.wires.remove(name);
            if let Some(interface) = self.interfaces.get(name) {
                let _ = self.kernel.detach(interface.index);
            }
        }
        let fresh: Vec<String> = names.iter().filter(|name| !self.names.contains(name)).cloned().collect();
        let digest = settings.digest;
        self.settings = settings;
        self.names = names;
        self.index_vips();
        self.holder.reload(now, digest, on, &from, &mut self.acts);
        for name in fresh {
            // Known as an interface, not as one of ours.
            if let Some(interface) = self.interfaces.remove(&name) {
                self.interface_is(now, &interface);
            }
        }
        self.tell_interfaces(now);
        self.look_due = now;
        self.act();
    }

    /// Every service interface as it stands, for a machine that has just begun to listen.
    fn tell_interfaces(&mut self, now: Moment) {
        for name in self.names.clone() {
            let fit = self.interfaces.get(&name).is_some_and(|i| i.carrier);
            if let Some(on) = self.number(&name) {
                self.holder.interface(now, on, &name, fit, &mut self.acts);
            }
        }
    }

    /// Takes an address away; the kernel's word of it is expected and nobody else's doing.
    fn remove(&mut self, vip: &Vip, prefix: u8) {
        let Some(interface) = self.interfaces.get(&vip.interface) else { return };
        let ip = vip.address.addr();
        match self.kernel.remove_address(ip, prefix, interface.index) {
            Ok(true) => *self.removing.entry(ip).or_default() += 1,
            Ok(false) => {}
            Err(error) => self.trouble(format!("cannot take {ip} away: {error}")),
        }
    }

    fn status(&self, now: Moment) -> String {
        let (wanted, held, announced) = self.holder.counts();
        let wanted = if wanted == u32::MAX { self.settings.vips.len() } else { wanted as usize };
        let gate = match (&self.gate, self.holder.holds(now)) {
            (Some(_), true) => "gate open",
            (Some(_), false) => "gate shut",
            (None, true) => "no gate (lifetimes), held",
            (None, false) => "no gate (lifetimes)",
        };
        let lease = if self.stream.is_some() { "" } else { " · no word from dre-elect" };
        format!("{gate} · VIPs {held}/{wanted}, announced {announced}{lease}")
    }
}

/// Whole seconds that cover what is left of the lease; the kernel knows no finer.
fn lifetime(now: Moment, until: Moment) -> u32 {
    u32::try_from(now.until(until).as_secs()).unwrap_or(0).saturating_add(1)
}

async fn run(settings: Settings, journal: &Journal) -> io::Result<()> {
    let notify = Notify::start()?;
    for refused in realtime::take() {
        journal.log(Notice::Trouble { text: refused });
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut listener = netlink::Listener::new()?;
    let mut alarm = Alarm::new()?;
    let mut service = Service::new(settings, journal.clone())?;
    let path = stream_path();

    service.look_now(clock::now());
    let (looker, mut looks) = Looker::start()?;
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
                service.tell_interfaces(now);
            }
        }
        if now >= service.look_due {
            // Under way already: its answer comes, and may ask for another.
            service.look_due = now + if looker.ask(service.asked()) { RESYNC } else { LOOK_AGAIN };
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
                if !service.seen(now, seen) {
                    service.look_due = now + LOOK_AGAIN;
                }
            }
            _ = hangup.recv() => {
                notify.reloading();
                let read = read.clone();
                // Files may hang: read and checked on a thread of its own, taken over by the loop.
                std::thread::Builder::new()
                    .name("reload".into())
                    .spawn(move || drop(read.blocking_send(config::load())))?;
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
        let _ = service.kernel.detach(interface.index);
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
            service.reload(clock::now(), settings);
            service.journal.log(Notice::ConfigReloaded { text: "configuration reloaded".into() });
        }
        Err(error) => service.journal.log(Notice::ConfigRejected {
            text: format!("the new configuration is refused, the old one stays in force: {}", error.lines()),
        }),
    }
    notify.ready();
}
