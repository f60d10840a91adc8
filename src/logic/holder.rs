//! dre-vip as a pure machine: orders and facts in, what to do out.
//!
//! Invariants:
//! - the gate's deadline is exactly what the lease stream said, never later; no stream, no deadline;
//! - a gate that is shut or has lapsed opens only before the order's `open_by`;
//! - the gate is stored before anything else is done, shut before addresses go, and addresses go only after it is shut;
//! - "shut" is said when nothing answers any more: where the gate does not stand before every VIP, after the addresses went;
//! - what carries our tag and is not wanted is removed, what is wanted and missing comes back;
//! - nothing is brought up on an interface without the gate, and a probe counts only if it went out;
//! - nothing changes before [`Holder::next_deadline`] unless an order or a fact comes.
//!
//! Absent on purpose: netlink, sockets, the map; whether this node may hold (dre-elect says).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::announce::Announcer;
use super::time::Moment;
use crate::stream::{GateKind, Order, Report};

/// Most VIPs probed an interface and round; the sample rotates. A holder has all of them or none.
const SAMPLE: usize = 8;
/// RFC 5227 §2.4 (c): defend, but not more often than this.
const DEFEND_EVERY: Duration = Duration::from_secs(1);
/// An alarm of a foreign holder stands this long after the last sign of it.
const FOREIGN_LASTS: Duration = Duration::from_secs(10);
/// An alarm of a gate that was taken off and put back stands this long: whoever is called by it still finds it in `drectl`.
const MENDED_LASTS: Duration = Duration::from_secs(60);
/// A VIP that the kernel refuses is asked for again after this, then twice as long, up to the last.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_LAST: Duration = Duration::from_secs(5);
/// A VIP refused for longer than this makes its interface unfit: the peer may be able to hold it. Five tries fit in.
const REFUSED_MAX: Duration = Duration::from_secs(2);
/// How long an interface stays unfit after its node let go with such a VIP: nothing tells a standby that the cause is gone,
/// and two nodes that both cannot hold it must not pass the role to and fro.
const REFUSED_LASTS: Duration = Duration::from_secs(30);
/// The gate is put on an interface that came within a moment. Until then no VIP is brought up there, and nothing is said against it:
/// a new interface in the configuration is no reason to move the role.
const HOOK_WITHIN: Duration = Duration::from_secs(1);
/// dre-elect takes a new file up within moments of dre-vip, or refuses it.
const ADOPT_WITHIN: Duration = Duration::from_secs(1);
/// Longest text of an alarm, bytes: it must fit into a message of the stream.
const TEXT_MAX: usize = crate::stream::MESSAGE_MAX - 200;

/// What the machine must know of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub digest: [u8; 32],
    /// The service interfaces; the index is an interface's number.
    pub interfaces: Vec<String>,
    /// Each VIP's address and the number of its interface; the index is the VIP's number.
    pub vips: Vec<(IpAddr, u32)>,
}

/// What must be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Store this deadline; zero shuts.
    Gate(Moment),
    /// Bring the VIP up on its interface.
    Add(u32),
    /// Take it away; before what follows is done, unless [`Holder::guarded`].
    Remove(u32),
    /// Announce these; hand back what went out and what could not.
    Announce(Vec<u32>),
    /// Probe these; hand back what went out.
    Probe {
        round: u64,
        vips: Vec<u32>,
    },
    /// Take up the configuration that was [`Holder::offer`]ed.
    Adopt,
    Report(Report),
}

/// The gate's programs on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hooked {
    /// Not looked at since the interface is there; and by when it should be.
    Unknown(Option<Moment>),
    Yes,
    /// Or a VIP there that the gate does not know. Why.
    No(String),
}

/// A service interface as the machine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    there: bool,
    carrier: bool,
    gate: Hooked,
    /// Why nothing can be said and heard on it.
    deaf: Option<String>,
}

impl Interface {
    fn new(name: String, kind: GateKind) -> Self {
        let gate = if kind == GateKind::Lifetimes { Hooked::Yes } else { Hooked::Unknown(None) };
        Self { name, there: false, carrier: false, gate, deaf: None }
    }

    fn come(&mut self, now: Moment, carrier: bool) {
        (self.there, self.carrier) = (true, carrier);
        if self.gate == Hooked::Unknown(None) {
            self.gate = Hooked::Unknown(Some(now + HOOK_WITHIN));
        }
    }

    /// VIPs may be brought up here.
    fn ready(&self) -> bool {
        self.there && self.carrier && self.gate == Hooked::Yes
    }
}

/// A VIP that the kernel refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    why: String,
    since: Moment,
    /// When it is asked for again, if it was not asked for since.
    again: Moment,
    pause: Duration,
    /// For so long that the peer should have it.
    long: bool,
    /// The role went meanwhile: until when this is remembered.
    until: Option<Moment>,
}

/// A VIP as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    address: IpAddr,
    /// Its interface's number.
    on: u32,
    /// Asked for; not yet seen usable.
    asked: bool,
    usable: bool,
    announced: bool,
}

impl Held {
    const fn new(address: IpAddr, on: u32) -> Self {
        Self { address, on, asked: false, usable: false, announced: false }
    }

    /// As if it had never been here.
    fn reset(&mut self) {
        (self.asked, self.usable, self.announced) = (false, false, false);
    }
}

/// Probing of the wire, as ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Probing {
    every: Duration,
    round: u64,
    defer: bool,
    next: Moment,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    vips: Vec<Held>,
    /// By the VIP's number.
    refused: BTreeMap<u32, Refused>,
    interfaces: Vec<Interface>,
    kind: GateKind,
    digest: [u8; 32],
    stream: bool,
    until: Moment,
    term: u64,
    open_reported: bool,
    announcer: Announcer,
    probing: Option<Probing>,
    sample: usize,
    defended: Moment,
    /// Another holder: when last seen, which VIP, its MAC.
    foreign: Option<(Moment, IpAddr, [u8; 6])>,
    /// The gate was off this interface and is back: since when.
    mended: Option<(Moment, String)>,
    /// Interfaces on which no probe went out though one was due.
    unsent: Vec<String>,
    /// The configuration by which dre-elect runs.
    elect: Option<[u8; 32]>,
    /// A configuration that was read and waits for dre-elect to take it up: digest, until when that is no trouble.
    offered: Option<([u8; 32], Moment)>,
    late: bool,
    /// What is not seen from here: the shell's alarms, by name.
    alarms: BTreeMap<&'static str, String>,
    // What dre-elect was told last.
    counts: (u32, u32, u32),
    counts_told: Option<(u32, u32, u32)>,
    kind_told: GateKind,
    alarms_told: BTreeMap<&'static str, String>,
    interfaces_told: BTreeMap<String, Option<String>>,
}

impl Holder {
    pub fn new(kind: GateKind, layout: Layout) -> Self {
        let mut new = Self {
            vips: vec![],
            refused: BTreeMap::new(),
            interfaces: vec![],
            kind,
            digest: layout.digest,
            stream: false,
            until: Moment::ZERO,
            term: 0,
            open_reported: false,
            announcer: Announcer::default(),
            probing: None,
            sample: 0,
            defended: Moment::ZERO,
            foreign: None,
            mended: None,
            unsent: vec![],
            elect: None,
            offered: None,
            late: false,
            alarms: BTreeMap::new(),
            counts: (0, 0, 0),
            counts_told: None,
            kind_told: kind,
            alarms_told: BTreeMap::new(),
            interfaces_told: BTreeMap::new(),
        };
        new.vips = layout.vips.into_iter().map(|(address, on)| Held::new(address, on)).collect();
        new.interfaces = layout.interfaces.into_iter().map(|name| Interface::new(name, kind)).collect();
        new.count();
        new
    }

    /// The gate is open (as far as the last store says).
    pub fn holds(&self, now: Moment) -> bool {
        now < self.until
    }

    pub fn until(&self) -> Moment {
        self.until
    }

    /// Wanted, held, announced.
    pub fn counts(&self) -> (u32, u32, u32) {
        self.counts
    }

    /// The gate stands before every VIP: when it is shut, nothing answers, whatever addresses are there.
    pub fn guarded(&self) -> bool {
        self.kind == GateKind::Bpf && self.interfaces.iter().all(|i| !i.there || i.gate == Hooked::Yes)
    }

    /// How the VIPs are bound to the lease now.
    pub fn gate_kind(&self) -> GateKind {
        let off = self.interfaces.iter().any(|i| i.there && matches!(i.gate, Hooked::No(_)));
        if self.kind == GateKind::Bpf && off { GateKind::Unguarded } else { self.kind }
    }

    /// An interface is not as it should be, and a new look may mend it.
    pub fn troubled(&self) -> bool {
        self.interfaces.iter().any(|i| i.there && (i.gate != Hooked::Yes || i.deaf.is_some()))
    }

    /// The stream to dre-elect opened: nothing is held, and that is said first.
    pub fn stream_opened(&mut self, now: Moment, out: &mut Vec<Act>) {
        self.stream_closed(now, out);
        self.stream = true;
        self.kind_told = self.gate_kind();
        out.push(Act::Report(Report::Armed { gate: self.kind_told, digest: self.digest }));
        self.counts_told = None;
        self.alarms_told.clear();
        self.interfaces_told.clear();
        self.tell(out);
    }

    /// No stream, no lease.
    pub fn stream_closed(&mut self, now: Moment, out: &mut Vec<Act>) {
        self.stream = false;
        self.elect = None;
        self.end_probing();
        self.close(out);
        self.clear(now, out);
        self.count();
    }

    pub fn order(&mut self, now: Moment, order: &Order, out: &mut Vec<Act>) {
        match *order {
            Order::Hold { until, term, open_by } => self.hold(now, until, term, open_by, out),
            Order::Drop { serial } => self.let_go(now, serial, out),
            Order::Probe { every_us: 0, .. } => {
                self.end_probing();
                self.tell(out);
            }
            Order::Probe { every_us, round, defer } => {
                let next = self.probing.filter(|running| running.round == round).map_or(now, |p| p.next);
                let every = Duration::from_micros(every_us.into());
                self.probing = Some(Probing { every, round, defer, next });
            }
            Order::Announce => {
                if self.holds(now) {
                    self.announce_usable(now);
                }
            }
            Order::Adopt { digest } => {
                self.elect = Some(digest);
                // Numbers may mean other VIPs after it: nothing else is asked for in this turn.
                return self.adopt(out);
            }
        }
        self.due(now, out);
    }

    fn hold(&mut self, now: Moment, until: Moment, term: u64, open_by: Moment, out: &mut Vec<Act>) {
        if now >= self.until && now >= open_by {
            // Lapsed, or an order that lay in a queue: another may have found the wire quiet.
            return self.let_go(now, 0, out);
        }
        self.until = until;
        out.push(Act::Gate(until));
        out.push(Act::Report(Report::Stored { until }));
        if term != self.term {
            self.term = term;
            self.open_reported = false;
            for refused in self.refused.values_mut() {
                (refused.until, refused.again) = (None, now);
            }
        }
        for vip in 0..self.vips.len() {
            self.want(now, vip, out);
        }
        self.opened(now, out);
    }

    /// A VIP that is missing while we hold comes (back).
    fn want(&mut self, now: Moment, vip: usize, out: &mut Vec<Act>) {
        let held = &mut self.vips[vip];
        let ready = self.interfaces.get(held.on as usize).is_some_and(Interface::ready);
        let waits = self.refused.get(&number(vip)).is_some_and(|refused| now < refused.again);
        if ready && !held.asked && !waits {
            held.asked = true;
            out.push(Act::Add(number(vip)));
        }
    }

    /// Said once a term: when every VIP that can be here is usable.
    fn opened(&mut self, now: Moment, out: &mut Vec<Act>) {
        if self.open_reported || !self.stream || !self.holds(now) {
            return;
        }
        let can = |n: usize, held: &Held| {
            let ready = self.interfaces.get(held.on as usize).is_some_and(Interface::ready);
            ready && !self.refused.contains_key(&number(n))
        };
        if self.vips.iter().enumerate().all(|(n, held)| held.usable || !can(n, held)) {
            self.open_reported = true;
            out.push(Act::Report(Report::Open { term: self.term, at: now }));
        }
    }

    fn close(&mut self, out: &mut Vec<Act>) {
        self.until = Moment::ZERO;
        out.push(Act::Gate(Moment::ZERO));
        self.announcer.end();
        self.open_reported = false;
        self.term = 0;
    }

    fn clear(&mut self, now: Moment, out: &mut Vec<Act>) {
        for (n, held) in self.vips.iter_mut().enumerate() {
            if held.asked || held.usable {
                out.push(Act::Remove(number(n)));
            }
            held.reset();
        }
        self.refused.retain(|_, refused| refused.long);
        for refused in self.refused.values_mut() {
            refused.until.get_or_insert(now + REFUSED_LASTS);
        }
    }

    /// Shuts the gate, says so, takes the addresses away. Without a gate before each VIP the address itself is what answers:
    /// it goes before anything is said.
    fn let_go(&mut self, now: Moment, serial: u64, out: &mut Vec<Act>) {
        self.close(out);
        let shut = Act::Report(Report::Shut { serial });
        if self.guarded() {
            out.push(shut);
            self.clear(now, out);
        } else {
            self.clear(now, out);
            out.push(shut);
        }
        self.tell(out);
    }

    // ---- facts ---------------------------------------------------------------------------------------

    /// The kernel shows the VIP usable (IPv6: no longer tentative).
    pub fn appeared(&mut self, now: Moment, vip: u32, out: &mut Vec<Act>) {
        let holds = self.holds(now);
        let Some(held) = self.vips.get_mut(vip as usize) else { return };
        if !holds {
            // Added by hand on a standby, or an orphan.
            held.reset();
            out.push(Act::Remove(vip));
            return;
        }
        if !held.usable {
            held.asked = true;
            held.usable = true;
            self.refused.remove(&vip);
            self.announcer.begin(now, std::iter::once(vip));
        }
        self.opened(now, out);
        self.due(now, out);
        self.tell(out);
    }

    /// The kernel lost the VIP. Ours to bring back while we hold.
    pub fn vanished(&mut self, now: Moment, vip: u32, out: &mut Vec<Act>) {
        let holds = self.holds(now);
        let Some(held) = self.vips.get_mut(vip as usize) else { return };
        held.reset();
        if holds {
            self.want(now, vip as usize, out);
        }
        self.tell(out);
    }

    /// Bringing it up was refused.
    pub fn failed(&mut self, now: Moment, vip: u32, why: &str, out: &mut Vec<Act>) {
        let holds = self.holds(now);
        let Some(held) = self.vips.get_mut(vip as usize).filter(|_| holds) else { return };
        held.asked = false;
        let new = || Refused {
            why: String::new(),
            since: now,
            again: now,
            pause: AGAIN_FIRST / 2,
            long: false,
            until: None,
        };
        let refused = self.refused.entry(vip).or_insert_with(new);
        refused.pause = (refused.pause * 2).min(AGAIN_LAST);
        refused.again = now + refused.pause;
        why.clone_into(&mut refused.why);
        self.opened(now, out);
        self.tell(out);
    }

    /// An interface is there, with or without carrier.
    pub fn interface(&mut self, now: Moment, on: u32, carrier: bool, out: &mut Vec<Act>) {
        self.port(now, on, out, |interface| interface.come(now, carrier));
    }

    /// What the kernel has of the gate on an interface: the programs are there, for each VIP that it may carry; `put_back`: they
    /// were not, and are now. True if somebody else took them off.
    pub fn gate(&mut self, now: Moment, on: u32, found: Result<bool, String>, out: &mut Vec<Act>) -> bool {
        let Some(interface) = self.interfaces.get(on as usize) else { return false };
        let mended = interface.gate == Hooked::Yes && found == Ok(true);
        if mended {
            self.mended = Some((now, interface.name.clone()));
        }
        let gate = found.map_or_else(Hooked::No, |_| Hooked::Yes);
        self.port(now, on, out, |interface| interface.gate = gate);
        mended
    }

    /// Whether frames can be sent and heard on an interface; why not.
    pub fn wire(&mut self, now: Moment, on: u32, deaf: Option<String>, out: &mut Vec<Act>) {
        self.port(now, on, out, |interface| interface.deaf = deaf);
    }

    /// An interface changes; what follows where VIPs can be brought up on it from now on.
    fn port(&mut self, now: Moment, on: u32, out: &mut Vec<Act>, change: impl FnOnce(&mut Interface)) {
        let Some(interface) = self.interfaces.get_mut(on as usize) else { return };
        let before = interface.ready();
        change(interface);
        if interface.ready() && !before {
            if self.holds(now) {
                for vip in (0..self.vips.len()).filter(|n| self.vips[*n].on == on).collect::<Vec<_>>() {
                    self.want(now, vip, out);
                }
            }
            // A port that came back: caches and switches must learn again. (For a bond that switched its port the kernel's
            // bonding driver announces every address on it.)
            let usable = self.numbers(|held| held.on == on && held.usable);
            self.announcer.begin(now, usable.into_iter());
        }
        self.opened(now, out);
        self.due(now, out);
        self.tell(out);
    }

    /// The interface went, or is another one now (re-created): nothing on it is ours any more.
    pub fn interface_gone(&mut self, on: u32, out: &mut Vec<Act>) {
        let Some(interface) = self.interfaces.get_mut(on as usize) else { return };
        *interface = Interface::new(std::mem::take(&mut interface.name), self.kind);
        for (n, held) in self.vips.iter_mut().enumerate().filter(|(_, held)| held.on == on) {
            held.reset();
            self.refused.remove(&number(n));
        }
        self.tell(out);
    }

    /// Another MAC speaks of a VIP: holds it, or (`probe`) asks for it as one who wants it.
    pub fn said(&mut self, now: Moment, vip: u32, mac: [u8; 6], probe: bool, out: &mut Vec<Act>) {
        if let Some(Probing { round, defer, .. }) = self.probing
            && (!probe || defer)
        {
            out.push(Act::Report(Report::Foreign { round, at: now, vip, mac }));
        }
        let Some(held) = self.vips.get(vip as usize) else { return };
        if !probe && self.holds(now) {
            self.foreign = Some((now, held.address, mac));
            if now >= self.defended + DEFEND_EVERY {
                self.defended = now;
                out.push(Act::Announce(vec![vip]));
            }
            self.tell(out);
        }
    }

    /// What of a [`Act::Probe`] went out. A probe counts when every interface with VIPs sent one: a holder has all VIPs or none,
    /// but where nothing was asked, silence says nothing.
    pub fn probed(&mut self, now: Moment, round: u64, sent: &[u32], out: &mut Vec<Act>) {
        if self.probing.is_none_or(|running| running.round != round) {
            return;
        }
        let went: Vec<u32> =
            sent.iter().filter_map(|n| self.vips.get(*n as usize)).map(|held| held.on).collect();
        let asked = |on: u32| went.contains(&on) || self.vips.iter().all(|held| held.on != on);
        let unsent = self.interfaces.iter().enumerate().filter(|(on, _)| !asked(number(*on)));
        self.unsent = unsent.map(|(_, interface)| interface.name.clone()).collect();
        if self.unsent.is_empty() {
            out.push(Act::Report(Report::Probed { round, at: now }));
        }
        self.tell(out);
    }

    fn end_probing(&mut self) {
        self.probing = None;
        self.unsent.clear();
    }

    /// What of an [`Act::Announce`] went out, and what is due again because it could not.
    pub fn announced(&mut self, now: Moment, sent: &[u32], unsent: Vec<u32>, out: &mut Vec<Act>) {
        for vip in sent {
            if let Some(held) = self.vips.get_mut(*vip as usize) {
                held.announced = held.usable;
            }
        }
        if self.holds(now) {
            self.announcer.again(now, unsent);
        }
        self.tell(out);
    }

    /// Raises or clears an alarm that dre-elect shows.
    pub fn alarm(&mut self, name: &'static str, text: Option<String>, out: &mut Vec<Act>) {
        match text {
            Some(text) => self.alarms.insert(name, text),
            None => self.alarms.remove(name),
        };
        self.tell(out);
    }

    // ---- configuration -------------------------------------------------------------------------------

    /// A new configuration was read and holds on this machine. It is taken up when dre-elect runs by it: neither daemon goes on
    /// alone with what the other refuses.
    pub fn offer(&mut self, now: Moment, digest: [u8; 32], out: &mut Vec<Act>) {
        self.offered = Some((digest, now + ADOPT_WITHIN));
        self.late = false;
        self.adopt(out);
    }

    fn adopt(&mut self, out: &mut Vec<Act>) {
        // Without a stream nothing is held, and dre-elect reads the same file when it comes.
        if let Some((digest, _)) = self.offered
            && (!self.stream || self.elect == Some(digest))
        {
            out.push(Act::Adopt);
        }
    }

    /// A new configuration was refused; the old one stays.
    pub fn refused(&mut self, why: &str, out: &mut Vec<Act>) {
        self.offered = None;
        self.late = false;
        let text = format!("the new configuration is refused, the old one stays in force: {why}");
        self.alarm("ConfigRejected", Some(text), out);
    }

    /// A new configuration; VIPs that stay keep what they are. `from[n]` = the old number of new VIP n; `carrier`: whether an
    /// interface that is new here is there, and has one.
    pub fn reload(
        &mut self,
        now: Moment,
        layout: Layout,
        from: &[Option<u32>],
        carrier: impl Fn(&str) -> Option<bool>,
        out: &mut Vec<Act>,
    ) {
        self.digest = layout.digest;
        self.offered = None;
        self.late = false;
        self.alarms.remove("ConfigRejected");
        let old = std::mem::take(&mut self.interfaces);
        let known = |name: &String| old.iter().find(|i| i.name == *name).cloned();
        let kind = self.kind;
        let interfaces = layout.interfaces.into_iter();
        let new = |name: String| {
            let mut new = Interface::new(name, kind);
            if let Some(carrier) = carrier(&new.name) {
                new.come(now, carrier);
            }
            new
        };
        self.interfaces = interfaces.map(|name| known(&name).unwrap_or_else(|| new(name))).collect();
        let old = std::mem::take(&mut self.vips);
        let before = |n: usize| from.get(n).copied().flatten().and_then(|n| old.get(n as usize));
        let vips = layout.vips.into_iter().enumerate();
        self.vips = vips
            .map(|(n, (address, on))| match before(n) {
                Some(held) => Held { on, ..*held },
                None => Held::new(address, on),
            })
            .collect();
        let mut refused = std::mem::take(&mut self.refused);
        let numbers = from.iter().enumerate().filter_map(|(new, old)| Some((number(new), (*old)?)));
        self.refused = numbers.filter_map(|(new, old)| Some((new, refused.remove(&old)?))).collect();
        self.announcer.end();
        if self.stream {
            out.push(Act::Report(Report::Armed { gate: self.gate_kind(), digest: self.digest }));
            self.kind_told = self.gate_kind();
        }
        if self.holds(now) {
            for vip in 0..self.vips.len() {
                self.want(now, vip, out);
            }
            self.announce_usable(now);
        }
        self.due(now, out);
        self.tell(out);
    }

    // ---- time ----------------------------------------------------------------------------------------

    /// What is due at `now`.
    pub fn due(&mut self, now: Moment, out: &mut Vec<Act>) {
        if self.until != Moment::ZERO && now >= self.until {
            // Not renewed: the kernel has shut the gate already; the rest follows.
            self.let_go(now, 0, out);
        }
        let batch = self.announcer.take(now);
        if !batch.is_empty() {
            out.push(Act::Announce(batch));
        }
        if let Some(Probing { every, round, next, .. }) = self.probing
            && now >= next
        {
            // No catching up after a stall: a burst of probes is not three unanswered ones.
            self.probing = self.probing.map(|running| Probing { next: now + every, ..running });
            out.push(Act::Probe { round, vips: self.choose_sample() });
        }
        if self.slow_due().is_some_and(|at| now >= at) {
            self.slow(now, out);
            self.tell(out);
        }
    }

    /// What nobody waits for: alarms that end, VIPs that are asked for again.
    fn slow(&mut self, now: Moment, out: &mut Vec<Act>) {
        if self.foreign.is_some_and(|(at, ..)| now >= at + FOREIGN_LASTS) {
            self.foreign = None;
        }
        if self.mended.as_ref().is_some_and(|(at, _)| now >= *at + MENDED_LASTS) {
            self.mended = None;
        }
        self.late |= self.offered.is_some_and(|(_, by)| now >= by);
        for interface in &mut self.interfaces {
            if matches!(interface.gate, Hooked::Unknown(Some(by)) if now >= by) {
                interface.gate = Hooked::No("the kernel does not answer".into());
            }
        }
        self.refused.retain(|_, refused| refused.until.is_none_or(|until| now < until));
        for refused in self.refused.values_mut() {
            refused.long |= now >= refused.since + REFUSED_MAX;
        }
        if self.holds(now) {
            for vip in self.refused.keys().copied().collect::<Vec<_>>() {
                self.want(now, vip as usize, out);
            }
        }
    }

    fn slow_due(&self) -> Option<Moment> {
        let foreign = self.foreign.map(|(at, ..)| at + FOREIGN_LASTS);
        let mended = self.mended.as_ref().map(|(at, _)| *at + MENDED_LASTS);
        let offered = self.offered.filter(|_| !self.late).map(|(_, by)| by);
        let holds = self.until != Moment::ZERO;
        let refused = self.refused.iter().filter_map(|(n, refused)| {
            let held = self.vips.get(*n as usize)?;
            let ready = self.interfaces.get(held.on as usize).is_some_and(Interface::ready);
            let again = (holds && ready && !held.asked).then_some(refused.again);
            let long = (!refused.long).then(|| refused.since + REFUSED_MAX);
            [again, long, refused.until].into_iter().flatten().min()
        });
        let hooks = self.interfaces.iter().filter_map(|interface| match interface.gate {
            Hooked::Unknown(by) => by,
            _ => None,
        });
        [foreign, mended, offered].into_iter().flatten().chain(hooks).chain(refused).min()
    }

    fn choose_sample(&mut self) -> Vec<u32> {
        let mut by_interface: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (n, held) in self.vips.iter().enumerate() {
            by_interface.entry(held.on).or_default().push(number(n));
        }
        self.sample = self.sample.wrapping_add(SAMPLE);
        let turn = self.sample;
        by_interface
            .into_values()
            .flat_map(|all| {
                let len = all.len();
                (0..SAMPLE.min(len)).map(move |k| all[(turn + k) % len]).collect::<Vec<_>>()
            })
            .collect()
    }

    /// When [`Self::due`] has something to do if nothing comes before.
    pub fn next_deadline(&self) -> Option<Moment> {
        let until = (self.until != Moment::ZERO).then_some(self.until);
        let probe = self.probing.map(|running| running.next);
        [until, probe, self.announcer.next_due(), self.slow_due()].into_iter().flatten().min()
    }

    fn numbers(&self, which: impl Fn(&Held) -> bool) -> Vec<u32> {
        self.vips.iter().enumerate().filter(|(_, held)| which(held)).map(|(n, _)| number(n)).collect()
    }

    fn announce_usable(&mut self, now: Moment) {
        let usable = self.numbers(|held| held.usable);
        self.announcer.begin(now, usable.into_iter());
    }

    // ---- telling dre-elect ---------------------------------------------------------------------------

    fn count(&mut self) {
        let (mut held, mut announced) = (0, 0);
        for vip in &self.vips {
            held += u32::from(vip.usable);
            announced += u32::from(vip.announced);
        }
        self.counts = (number(self.vips.len()), held, announced);
    }

    /// Why VIPs cannot be served on an interface; `None`: they can.
    fn unfit(&self, on: usize) -> Option<String> {
        let interface = self.interfaces.get(on)?;
        let name = &interface.name;
        if !interface.there {
            return Some(format!("{name} is gone"));
        }
        if !interface.carrier {
            return Some(format!("{name} has no carrier"));
        }
        if matches!(interface.gate, Hooked::No(_)) {
            return Some(format!("the gate is not on {name}"));
        }
        if interface.deaf.is_some() {
            return Some(format!("{name} cannot be listened to"));
        }
        let long = self.refused.iter().filter(|(_, refused)| refused.long);
        let mut here =
            long.filter_map(|(n, _)| self.vips.get(*n as usize)).filter(|held| held.on == number(on));
        here.next().map(|held| format!("{} cannot be held on {name}", held.address))
    }

    /// Every alarm that holds, by name.
    fn alarms_now(&self) -> BTreeMap<&'static str, String> {
        let mut all = self.alarms.clone();
        let off = self.interfaces.iter().filter_map(|i| match &i.gate {
            Hooked::No(why) if i.there => Some(format!("{}: {why}", i.name)),
            _ => None,
        });
        let off: Vec<String> = off.collect();
        if !off.is_empty() {
            let text = format!(
                "the gate does not stand before every VIP ({}); none is brought up there, and the peer takes over if it can; \
                 tried again all the time",
                off.join("; ")
            );
            all.insert("GateMissing", text);
        }
        let deaf = self.interfaces.iter().filter(|i| i.there);
        let deaf: Vec<String> =
            deaf.filter_map(|i| Some(format!("{}: {}", i.name, i.deaf.as_ref()?))).collect();
        if !deaf.is_empty() {
            let text = format!(
                "frames can be neither sent nor heard ({}): another holder would not be seen, so nothing is claimed; tried \
                 again all the time",
                deaf.join("; ")
            );
            all.insert("WireClosed", text);
        }
        if !self.unsent.is_empty() {
            let name = self.unsent.join(", ");
            let text = format!(
                "no probe of the wire goes out on {name}: whether another holds the VIPs is not known, so nothing is claimed; \
                 see the interface and its queue (ip -s link, tc -s qdisc)"
            );
            all.insert("ProbesUnsent", text);
        }
        let mut refused = self.refused.values();
        if let Some(first) = refused.next() {
            let more = match refused.count() {
                0 => String::new(),
                n => format!(", and {n} more"),
            };
            all.insert(
                "VipFailed",
                format!("{}{more}; tried again every {} s", first.why, AGAIN_LAST.as_secs()),
            );
        }
        if let Some((_, address, mac)) = self.foreign {
            let mac: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
            let text = format!(
                "{} answers for {address} too, while this node holds it; find that device and take the address from it",
                mac.join(":")
            );
            all.insert("ForeignHolder", text);
        }
        if let Some((_, name)) = &self.mended {
            let text = format!(
                "somebody took the gate's program off {name}; it is back, but meanwhile a frozen node would not have fallen silent; \
                 find out who did that (tc monitor)"
            );
            all.insert("GateMended", text);
        }
        if self.late {
            let text = "the new configuration holds, but dre-elect has not taken it up, and the old one stays in force; journalctl \
                        -u dre says why, or: systemctl reload dre";
            all.insert("ConfigRejected", text.into());
        }
        for text in all.values_mut() {
            clip(text);
        }
        all
    }

    /// What changed of all that dre-elect knows.
    fn tell(&mut self, out: &mut Vec<Act>) {
        self.count();
        if !self.stream {
            return;
        }
        if self.gate_kind() != self.kind_told {
            self.kind_told = self.gate_kind();
            out.push(Act::Report(Report::Armed { gate: self.kind_told, digest: self.digest }));
        }
        if self.counts_told != Some(self.counts) {
            self.counts_told = Some(self.counts);
            let (wanted, held, announced) = self.counts;
            out.push(Act::Report(Report::Vips { wanted, held, announced }));
        }
        let mut interfaces: BTreeMap<String, Option<String>> = BTreeMap::new();
        for (on, interface) in self.interfaces.iter().enumerate() {
            interfaces.insert(interface.name.clone(), self.unfit(on));
        }
        if interfaces != self.interfaces_told {
            // One that left the configuration speaks against nothing any more.
            for name in self.interfaces_told.keys().filter(|name| !interfaces.contains_key(*name)) {
                out.push(Act::Report(Report::Interface { name: name.clone(), unfit: None }));
            }
            for (name, unfit) in &interfaces {
                if self.interfaces_told.get(name) != Some(unfit) {
                    out.push(Act::Report(Report::Interface { name: name.clone(), unfit: unfit.clone() }));
                }
            }
            self.interfaces_told = interfaces;
        }
        let alarms = self.alarms_now();
        if alarms != self.alarms_told {
            for name in self.alarms_told.keys().filter(|name| !alarms.contains_key(*name)) {
                out.push(Act::Report(Report::Alarm { name: (*name).to_owned(), text: None }));
            }
            for (name, text) in &alarms {
                if self.alarms_told.get(name) != Some(text) {
                    let text = Some(text.clone());
                    out.push(Act::Report(Report::Alarm { name: (*name).to_owned(), text }));
                }
            }
            self.alarms_told = alarms;
        }
    }
}

/// A message that does not fit would end the stream, and with it the lease.
fn clip(text: &mut String) {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::sim::Rng;

    const fn at(ms: u64) -> Moment {
        Moment::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    /// VIPs 172.16.9.1 and on; `on[n]` = the interface of VIP n, `eth1` and on.
    fn layout(digest: u8, on: &[u32]) -> Layout {
        let vips = (1..).zip(on).map(|(host, on)| (IpAddr::from([172, 16, 9, host]), *on)).collect();
        let interfaces =
            (0..=on.iter().copied().max().unwrap_or(0)).map(|n| format!("eth{}", n + 1)).collect();
        Layout { digest: [digest; 32], interfaces, vips }
    }

    fn armed_on(on: &[u32]) -> Holder {
        let mut h = Holder::new(GateKind::Bpf, layout(1, on));
        let mut out = vec![];
        for interface in 0..=on.iter().copied().max().unwrap_or(0) {
            h.interface(at(0), interface, true, &mut out);
            h.gate(at(0), interface, Ok(true), &mut out);
        }
        h.stream_opened(at(0), &mut out);
        assert!(out.contains(&Act::Gate(Moment::ZERO)), "a stream begins shut");
        h
    }

    fn armed() -> Holder {
        armed_on(&[0, 0])
    }

    fn hold(h: &mut Holder, now: Moment, until: Moment, open_by: Moment) -> Vec<Act> {
        let mut out = vec![];
        h.order(now, &Order::Hold { until, term: 3, open_by }, &mut out);
        out
    }

    fn holding_until(until: Moment) -> Holder {
        let mut h = armed();
        hold(&mut h, at(1), until, until);
        for vip in 0..2 {
            h.appeared(at(1), vip, &mut vec![]);
        }
        h.announced(at(1), &[0, 1], vec![], &mut vec![]);
        h
    }

    fn holding() -> Holder {
        holding_until(at(30))
    }

    fn alarms(out: &[Act]) -> BTreeMap<String, Option<String>> {
        out.iter()
            .filter_map(|act| match act {
                Act::Report(Report::Alarm { name, text }) => Some((name.clone(), text.clone())),
                _ => None,
            })
            .collect()
    }

    /// What dre-elect is told of an interface: `None` nothing, else why it is unfit.
    fn told(out: &[Act], name: &str) -> Option<Option<String>> {
        out.iter().rev().find_map(|act| match act {
            Act::Report(Report::Interface { name: told, unfit }) if told == name => Some(unfit.clone()),
            _ => None,
        })
    }

    #[test]
    fn the_gate_is_stored_before_anything_else_and_exactly_as_said() {
        let mut h = armed();
        let out = hold(&mut h, at(1), at(30), at(30));
        assert_eq!(
            out,
            [Act::Gate(at(30)), Act::Report(Report::Stored { until: at(30) }), Act::Add(0), Act::Add(1)]
        );
        let mut out = vec![];
        h.appeared(at(2), 0, &mut out);
        assert!(out.contains(&Act::Announce(vec![0])), "{out:?}");
        assert!(
            !out.iter().any(|a| matches!(a, Act::Report(Report::Open { .. }))),
            "open before all are usable"
        );
        h.announced(at(2), &[0], vec![], &mut out);
        h.appeared(at(2), 1, &mut out);
        assert!(out.contains(&Act::Report(Report::Open { term: 3, at: at(2) })));
        h.announced(at(2), &[1], vec![], &mut out);
        assert!(out.contains(&Act::Report(Report::Vips { wanted: 2, held: 2, announced: 2 })));
    }

    #[test]
    fn an_order_to_drop_shuts_reports_and_then_removes() {
        let mut h = holding();
        let mut out = vec![];
        h.order(at(10), &Order::Drop { serial: 9 }, &mut out);
        assert_eq!(
            out[..4],
            [
                Act::Gate(Moment::ZERO),
                Act::Report(Report::Shut { serial: 9 }),
                Act::Remove(0),
                Act::Remove(1)
            ]
        );
        assert!(!h.holds(at(10)));
    }

    /// Without a gate before each VIP the addresses are what answers: the role is not free before they went.
    #[test]
    fn without_the_gate_shut_is_said_after_the_addresses_went() {
        let removes_first = [
            Act::Gate(Moment::ZERO),
            Act::Remove(0),
            Act::Remove(1),
            Act::Report(Report::Shut { serial: 9 }),
        ];
        let mut h = holding();
        h.gate(at(2), 0, Err("no".into()), &mut vec![]);
        let mut out = vec![];
        h.order(at(10), &Order::Drop { serial: 9 }, &mut out);
        assert_eq!(out[..4], removes_first);

        let mut h = Holder::new(GateKind::Lifetimes, layout(1, &[0, 0]));
        h.interface(at(0), 0, true, &mut vec![]);
        h.stream_opened(at(0), &mut vec![]);
        hold(&mut h, at(1), at(30), at(30));
        let mut out = vec![];
        h.order(at(10), &Order::Drop { serial: 9 }, &mut out);
        assert_eq!(out[..4], removes_first);
    }

    #[test]
    fn what_is_not_renewed_is_dropped_and_a_late_order_does_not_open_again() {
        let mut h = holding();
        let mut out = vec![];
        h.due(at(30), &mut out);
        assert_eq!(out[..2], [Act::Gate(Moment::ZERO), Act::Report(Report::Shut { serial: 0 })]);
        let out = hold(&mut h, at(40), at(60), at(35));
        assert_eq!(out[0], Act::Gate(Moment::ZERO));
        assert!(!out.iter().any(|a| matches!(a, Act::Report(Report::Stored { .. }))));
        // With the peer's word behind it, it opens.
        assert_eq!(hold(&mut h, at(41), at(60), at(60))[0], Act::Gate(at(60)));
    }

    #[test]
    fn the_end_of_the_stream_is_the_end_of_the_lease() {
        let mut h = holding();
        let mut out = vec![];
        h.stream_closed(at(5), &mut out);
        assert_eq!(out, [Act::Gate(Moment::ZERO), Act::Remove(0), Act::Remove(1)]);
    }

    #[test]
    fn a_vip_removed_by_hand_comes_back_and_one_added_by_hand_goes() {
        let mut h = holding();
        let mut out = vec![];
        h.vanished(at(5), 1, &mut out);
        assert_eq!(out[0], Act::Add(1));
        let mut h = armed();
        let mut out = vec![];
        h.appeared(at(5), 0, &mut out);
        assert_eq!(out[0], Act::Remove(0));
    }

    #[test]
    fn a_foreign_holder_is_reported_while_probing_and_answered_while_holding() {
        let mut h = armed();
        let mut out = vec![];
        h.order(at(1), &Order::Probe { every_us: 3000, round: 5, defer: false }, &mut out);
        assert!(out.contains(&Act::Probe { round: 5, vips: vec![0, 1] }), "{out:?}");
        out.clear();
        h.said(at(2), 1, [9; 6], false, &mut out);
        assert_eq!(out, [Act::Report(Report::Foreign { round: 5, at: at(2), vip: 1, mac: [9; 6] })]);
        out.clear();
        h.said(at(2), 1, [9; 6], true, &mut out);
        assert_eq!(out, [], "another's probe counts only for the one who defers");
        let mut h = holding();
        h.said(at(3), 1, [9; 6], false, &mut out);
        assert!(out.contains(&Act::Announce(vec![1])));
        let text = alarms(&out)["ForeignHolder"].clone().expect("raised");
        assert!(text.contains("09:09:09:09:09:09") && text.contains("172.16.9.2"), "{text}");
        out.clear();
        h.said(at(4), 1, [9; 6], false, &mut out);
        assert!(!out.contains(&Act::Announce(vec![1])), "defended more than once a second");
    }

    /// Silence says something only where something was asked.
    #[test]
    fn a_probe_counts_only_if_every_interface_sent_one() {
        let mut h = armed_on(&[0, 0, 1]);
        let mut out = vec![];
        h.order(at(1), &Order::Probe { every_us: 3000, round: 5, defer: false }, &mut out);
        let probed = Act::Report(Report::Probed { round: 5, at: at(2) });
        let mut answer = |sent: &[u32], round| {
            let mut out = vec![];
            h.probed(at(2), round, sent, &mut out);
            out
        };
        for (sent, silent) in [(&[][..], "eth1, eth2"), (&[0, 1], "eth2"), (&[2], "eth1")] {
            let out = answer(sent, 5);
            assert!(!out.contains(&probed), "{sent:?} went out, and that was taken for a probe");
            let text = alarms(&out)["ProbesUnsent"].clone().expect("raised");
            assert!(text.contains(&format!("on {silent}:")), "{text}");
        }
        assert!(!answer(&[0, 2], 4).contains(&probed), "of an earlier round");
        let out = answer(&[1, 2], 5);
        assert!(out.contains(&probed) && alarms(&out)["ProbesUnsent"].is_none(), "{out:?}");
        // A pair without VIPs has nothing to ask for.
        let mut h = armed_on(&[]);
        let mut out = vec![];
        h.order(at(1), &Order::Probe { every_us: 3000, round: 5, defer: false }, &mut out);
        h.probed(at(2), 5, &[], &mut out);
        assert!(out.contains(&probed), "{out:?}");
    }

    #[test]
    fn nothing_is_brought_up_where_the_gate_is_not() {
        let mut h = armed_on(&[0, 1]);
        let mut out = vec![];
        assert!(!h.gate(at(1), 1, Err("EPERM".into()), &mut out));
        assert_eq!(told(&out, "eth2"), Some(Some("the gate is not on eth2".into())));
        assert!(alarms(&out)["GateMissing"].clone().expect("raised").contains("eth2: EPERM"));
        let armed = |gate| Act::Report(Report::Armed { gate, digest: [1; 32] });
        assert!(out.contains(&armed(GateKind::Unguarded)), "{out:?}");
        let out = hold(&mut h, at(1), at(30), at(30));
        assert!(out.contains(&Act::Add(0)) && !out.contains(&Act::Add(1)), "{out:?}");
        let mut out = vec![];
        assert!(!h.gate(at(2), 1, Ok(true), &mut out), "it was not there before: nobody took it off");
        assert!(out.contains(&Act::Add(1)) && out.contains(&armed(GateKind::Bpf)), "{out:?}");
        assert_eq!(told(&out, "eth2"), Some(None));
        assert_eq!(alarms(&out), [("GateMissing".into(), None)].into());
    }

    /// A reload that names another interface moves no role; a kernel that does not answer does, in the end.
    #[test]
    fn an_interface_that_is_new_is_not_unfit_before_the_gate_could_be_put_on() {
        let mut h = holding_until(at(100_000));
        let mut out = vec![];
        h.reload(at(2), layout(2, &[0, 0, 1]), &[Some(0), Some(1), None], |_| Some(true), &mut out);
        h.interface(at(2), 1, true, &mut out);
        assert!(!out.contains(&Act::Add(2)), "before the gate: {out:?}");
        let unfit = |act: &&Act| matches!(act, Act::Report(Report::Interface { unfit: Some(_), .. }));
        assert_eq!((told(&out, "eth2"), out.iter().find(unfit)), (Some(None), None));
        let mut late = h.clone();
        h.gate(at(3), 1, Ok(true), &mut out);
        assert!(out.contains(&Act::Add(2)));
        out.clear();
        late.due(at(2) + HOOK_WITHIN, &mut out);
        assert_eq!(told(&out, "eth2"), Some(Some("the gate is not on eth2".into())));
        assert!(alarms(&out)["GateMissing"].is_some());
    }

    #[test]
    fn a_gate_taken_off_by_another_hand_is_an_alarm_for_a_while() {
        let mut h = holding_until(at(200_000));
        let mut out = vec![];
        // Another's filter went, ours is there.
        assert!(!h.gate(at(2), 0, Ok(false), &mut out));
        assert_eq!(alarms(&out), [].into());
        assert!(h.gate(at(3), 0, Ok(true), &mut out));
        assert!(alarms(&out)["GateMended"].clone().expect("raised").contains("eth1"));
        out.clear();
        h.due(at(3) + MENDED_LASTS, &mut out);
        assert_eq!(alarms(&out), [("GateMended".into(), None)].into());
    }

    #[test]
    fn an_interface_that_cannot_be_listened_to_is_unfit() {
        let mut h = armed();
        let mut out = vec![];
        h.wire(at(1), 0, Some("Address family not supported".into()), &mut out);
        assert_eq!(told(&out, "eth1"), Some(Some("eth1 cannot be listened to".into())));
        assert!(alarms(&out)["WireClosed"].clone().expect("raised").contains("not supported"));
        assert!(h.troubled());
        out.clear();
        h.wire(at(2), 0, None, &mut out);
        assert_eq!((told(&out, "eth1"), h.troubled()), (Some(None), false));
        assert_eq!(alarms(&out), [("WireClosed".into(), None)].into());
    }

    /// When each VIP is asked for again, what is said meanwhile, and what ends it.
    #[test]
    fn a_vip_that_the_kernel_refuses_is_asked_for_again_ever_more_slowly() {
        let mut h = armed_on(&[0, 1]);
        hold(&mut h, at(0), at(100_000), at(100_000));
        h.appeared(at(0), 0, &mut vec![]);
        let mut out = vec![];
        h.failed(at(0), 1, "172.16.9.2 cannot be set on eth2: EPERM", &mut out);
        assert!(alarms(&out)["VipFailed"].clone().expect("raised").contains("172.16.9.2"));
        assert!(out.contains(&Act::Report(Report::Open { term: 3, at: at(0) })), "the others serve: {out:?}");
        assert_eq!(told(&out, "eth2"), None, "unfit at the first refusal");
        let (mut now, mut asked, mut unfit) = (at(0), vec![], None);
        while now < at(30_000) {
            // An order in between asks for nothing.
            assert!(!hold(&mut h, now, at(100_000), at(100_000)).contains(&Act::Add(1)));
            now = h.next_deadline().expect("asked for again").min(at(30_000));
            let mut out = vec![];
            h.due(now, &mut out);
            if told(&out, "eth2").is_some() {
                unfit.get_or_insert((now, told(&out, "eth2")));
            }
            if out.contains(&Act::Add(1)) {
                asked.push(now.since(at(0)).as_millis());
                h.failed(now, 1, "172.16.9.2 cannot be set on eth2: EPERM", &mut out);
                assert_eq!(alarms(&out), [].into(), "the same again");
            }
        }
        assert_eq!(asked, [100, 300, 700, 1500, 3100, 6300, 11_300, 16_300, 21_300, 26_300]);
        assert_eq!(unfit, Some((at(2000), Some(Some("172.16.9.2 cannot be held on eth2".into())))));
        let mut out = vec![];
        h.appeared(now, 1, &mut out);
        assert_eq!(told(&out, "eth2"), Some(None));
        assert_eq!(alarms(&out), [("VipFailed".into(), None)].into());
    }

    #[test]
    fn one_refused_vip_does_not_hide_another() {
        let mut h = armed();
        hold(&mut h, at(0), at(100_000), at(100_000));
        let mut out = vec![];
        h.failed(at(0), 0, "172.16.9.1: EPERM", &mut out);
        h.failed(at(0), 1, "172.16.9.2: EPERM", &mut out);
        let text = alarms(&out)["VipFailed"].clone().expect("raised");
        assert!(text.contains("172.16.9.1") && text.contains("1 more"), "{text}");
        out.clear();
        h.appeared(at(1), 0, &mut out);
        assert!(alarms(&out)["VipFailed"].clone().expect("stays").contains("172.16.9.2"));
    }

    /// Two nodes that both cannot hold a VIP do not pass the role to and fro: it is remembered for a while.
    #[test]
    fn a_node_that_could_not_hold_a_vip_does_not_offer_itself_at_once() {
        let mut h = armed();
        hold(&mut h, at(0), at(100_000), at(100_000));
        h.failed(at(0), 1, "EPERM", &mut vec![]);
        let mut out = vec![];
        h.due(at(2000), &mut out);
        assert!(told(&out, "eth1").is_some_and(|unfit| unfit.is_some()));
        out.clear();
        h.order(at(2100), &Order::Drop { serial: 1 }, &mut out);
        assert_eq!(told(&out, "eth1"), None, "fit at once");
        h.due(at(2100) + REFUSED_LASTS, &mut out);
        assert_eq!(told(&out, "eth1"), Some(None));
        // A first refusal is forgotten with the role.
        hold(&mut h, at(40_000), at(50_000), at(50_000));
        h.failed(at(40_000), 1, "EPERM", &mut vec![]);
        out.clear();
        h.order(at(40_001), &Order::Drop { serial: 2 }, &mut out);
        assert_eq!(alarms(&out), [("VipFailed".into(), None)].into());
    }

    #[test]
    fn a_reload_keeps_what_stays() {
        let mut h = holding();
        let mut out = vec![];
        // The first VIP left, a third came.
        let mut new = layout(2, &[0, 0]);
        new.vips = vec![new.vips[1], (IpAddr::from([172, 16, 9, 3]), 0)];
        h.reload(at(5), new, &[Some(1), None], |_| None, &mut out);
        assert!(!out.iter().any(|a| matches!(a, Act::Gate(_))), "a reload touched the gate: {out:?}");
        assert!(out.contains(&Act::Add(1)) && !out.contains(&Act::Add(0)), "{out:?}");
    }

    #[test]
    fn an_interface_that_left_the_configuration_speaks_against_nothing() {
        let mut h = armed_on(&[0, 1]);
        let mut out = vec![];
        h.interface(at(1), 1, false, &mut out);
        assert_eq!(told(&out, "eth2"), Some(Some("eth2 has no carrier".into())));
        out.clear();
        h.reload(at(2), layout(2, &[0]), &[Some(0)], |_| None, &mut out);
        assert_eq!(told(&out, "eth2"), Some(None));
    }

    #[test]
    fn a_configuration_is_taken_up_when_dre_elect_runs_by_it() {
        let adopts = |out: &[Act]| out.contains(&Act::Adopt);
        let mut h = holding_until(at(100_000));
        let mut out = vec![];
        h.order(at(2), &Order::Adopt { digest: [1; 32] }, &mut out);
        h.offer(at(3), [2; 32], &mut out);
        assert!(!adopts(&out), "alone");
        // dre-elect refuses it.
        h.due(at(3) + ADOPT_WITHIN, &mut out);
        assert!(!adopts(&out) && alarms(&out)["ConfigRejected"].is_some(), "{out:?}");
        // … or is only slow.
        h.order(at(5000), &Order::Adopt { digest: [2; 32] }, &mut out);
        assert!(adopts(&out));
        out.clear();
        h.reload(at(5000), layout(2, &[0, 0]), &[Some(0), Some(1)], |_| None, &mut out);
        assert!(alarms(&out)["ConfigRejected"].is_none());
        // dre-elect was first.
        h.order(at(6000), &Order::Adopt { digest: [3; 32] }, &mut out);
        assert!(!adopts(&out), "what was never read");
        h.offer(at(6001), [3; 32], &mut out);
        assert!(adopts(&out));
        // Nobody to wait for.
        let mut h = armed();
        out.clear();
        h.stream_closed(at(1), &mut out);
        h.offer(at(2), [2; 32], &mut out);
        assert!(adopts(&out));
    }

    #[test]
    fn a_refused_configuration_is_an_alarm_until_a_good_one() {
        let mut h = armed();
        let mut out = vec![];
        h.order(at(1), &Order::Adopt { digest: [1; 32] }, &mut out);
        h.offer(at(1), [2; 32], &mut out);
        h.refused(&"a long story; ".repeat(100), &mut out);
        let text = alarms(&out)["ConfigRejected"].clone().expect("raised");
        let mut buffer = [0; crate::stream::MESSAGE_MAX];
        let report = Report::Alarm { name: "ConfigRejected".into(), text: Some(text) };
        assert!(crate::stream::encode(&report, &mut buffer).is_some(), "it would end the stream");
        out.clear();
        h.order(at(2), &Order::Adopt { digest: [2; 32] }, &mut out);
        assert_eq!(out, [], "what was refused was taken up");
        // The file is as it was, for both.
        h.offer(at(3), [1; 32], &mut out);
        h.order(at(3), &Order::Adopt { digest: [1; 32] }, &mut out);
        assert_eq!(out, [Act::Adopt]);
        h.reload(at(3), layout(1, &[0, 0]), &[Some(0), Some(1)], |_| None, &mut out);
        assert_eq!(alarms(&out), [("ConfigRejected".into(), None)].into());
    }

    #[test]
    fn nothing_is_brought_up_without_carrier() {
        let mut h = Holder::new(GateKind::Bpf, layout(1, &[0]));
        let mut out = vec![];
        h.gate(at(0), 0, Ok(true), &mut out);
        h.stream_opened(at(0), &mut out);
        let out = hold(&mut h, at(1), at(30), at(30));
        assert!(!out.contains(&Act::Add(0)));
        let mut out = vec![];
        h.interface(at(2), 0, true, &mut out);
        assert!(out.contains(&Act::Add(0)));
    }

    /// What could not go out is not counted, goes out later, and not after the role went.
    #[test]
    fn an_announcement_counts_only_if_it_went_out() {
        let mut h = armed();
        hold(&mut h, at(1), at(10_000), at(10_000));
        h.appeared(at(1), 0, &mut vec![]);
        let mut out = vec![];
        h.announced(at(1), &[], vec![0], &mut out);
        assert_eq!(h.counts(), (2, 1, 0));
        h.due(at(11), &mut out);
        assert!(out.contains(&Act::Announce(vec![0])), "{out:?}");
        h.order(at(12), &Order::Drop { serial: 1 }, &mut out);
        out.clear();
        h.announced(at(12), &[], vec![0], &mut out);
        h.due(at(5000), &mut out);
        assert_eq!(out, [], "announced without the lease");
    }

    /// Nothing is due, and nothing changes by itself, before [`Holder::next_deadline`]; what is due then is not due again at
    /// once. In thousands of states that a random walk reaches.
    #[test]
    fn the_deadline_contract() {
        for seed in 0..100 {
            let mut rng = Rng::new(seed);
            let mut h = armed_on(&[0, 0, 1]);
            let mut now = at(0);
            for step in 0..200 {
                let mut out = vec![];
                let (vip, on) = (
                    u32::try_from(rng.below(3)).expect("small"),
                    u32::try_from(rng.below(2)).expect("small"),
                );
                let until = now + Duration::from_millis(rng.below(8000));
                match rng.below(22) {
                    0..=3 => {
                        h.order(now, &Order::Hold { until, term: rng.below(3), open_by: until }, &mut out)
                    }
                    4 => h.order(now, &Order::Drop { serial: 1 }, &mut out),
                    5 => {
                        let every_us = u32::try_from(rng.below(3)).expect("small") * 3000;
                        h.order(now, &Order::Probe { every_us, round: rng.below(3), defer: true }, &mut out);
                    }
                    6 => h.order(now, &Order::Announce, &mut out),
                    7 => h.order(now, &Order::Adopt { digest: [1; 32] }, &mut out),
                    8..=9 => h.appeared(now, vip, &mut out),
                    10 => h.vanished(now, vip, &mut out),
                    11..=13 => h.failed(now, vip, "no", &mut out),
                    14 => h.said(now, vip, [9; 6], rng.chance(50), &mut out),
                    15 => h.interface(now, on, rng.chance(70), &mut out),
                    16 => h.interface_gone(on, &mut out),
                    17 => {
                        let found = if rng.chance(80) { Ok(rng.chance(50)) } else { Err("no".into()) };
                        h.gate(now, on, found, &mut out);
                    }
                    18 => h.announced(now, &[], vec![vip], &mut out),
                    19 => h.probed(now, rng.below(3), &[vip], &mut out),
                    20 => h.offer(now, [u8::try_from(rng.below(3)).expect("small"); 32], &mut out),
                    _ if rng.chance(30) => h.stream_closed(now, &mut out),
                    _ => h.stream_opened(now, &mut out),
                }
                // As the loop does it: what is due now, now; a round of announcements a turn.
                let settle = |h: &mut Holder, now: Moment| {
                    for _ in 0..20 {
                        h.due(now, &mut vec![]);
                    }
                };
                settle(&mut h, now);
                let long = rng.chance(10) && h.probing.is_none();
                let next = now + Duration::from_millis(1 + rng.below(if long { 40_000 } else { 100 }));
                loop {
                    let deadline = h.next_deadline();
                    assert!(
                        deadline.is_none_or(|at| at > now),
                        "seed {seed}, step {step}: a busy loop at {h:?}"
                    );
                    let quiet = deadline.unwrap_or(next).min(next).since(now);
                    for part in 1..4_u32 {
                        let (mut later, mut out) = (h.clone(), vec![]);
                        later.due(now + quiet * part / 4, &mut out);
                        assert_eq!(out, [], "seed {seed}, step {step}: due before the deadline {deadline:?}");
                        assert_eq!(later, h, "seed {seed}, step {step}: changed before the deadline");
                    }
                    match deadline {
                        Some(at) if at <= next => {
                            now = at;
                            let before = h.clone();
                            settle(&mut h, now);
                            assert_ne!(
                                before, h,
                                "seed {seed}, step {step}: nothing was due at the deadline"
                            );
                        }
                        _ => break,
                    }
                }
                now = next;
                settle(&mut h, now);
            }
        }
    }
}
