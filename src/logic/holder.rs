//! dre-vip as a pure machine: orders and facts in, what to do out.
//!
//! Invariants:
//! - the gate's deadline is exactly what the lease stream said, never later; no stream, no deadline;
//! - a gate that is shut or has lapsed opens only before the order's `open_by`;
//! - the gate is stored before anything else is done, shut before addresses go, and addresses go only after it is shut;
//! - what carries our tag and is not wanted is removed, what is wanted and missing comes back.
//!
//! Absent on purpose: netlink, sockets, the map; whether this node may hold (dre-elect says).

use std::collections::BTreeMap;
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

/// What must be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Store this deadline; zero shuts.
    Gate(Moment),
    /// Bring the VIP up on its interface.
    Add(u32),
    Remove(u32),
    /// Announce these; hand back what could not go out.
    Announce(Vec<u32>),
    /// Probe these.
    Probe(Vec<u32>),
    Report(Report),
}

/// A VIP as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Held {
    /// Its interface is there with carrier.
    fit: bool,
    /// Asked for; not yet seen usable.
    asked: bool,
    usable: bool,
    announced: bool,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Holder {
    vips: Vec<Held>,
    /// Interface of each VIP, by number.
    on: Vec<u32>,
    kind: GateKind,
    digest: [u8; 32],
    stream: bool,
    until: Moment,
    term: u64,
    open_reported: bool,
    announcer: Announcer,
    probing: Option<(Duration, u64, bool)>,
    next_probe: Moment,
    sample: usize,
    counts: (u32, u32, u32),
    defended: Moment,
    foreign: Option<(Moment, u32, [u8; 6])>,
    alarms: BTreeMap<String, String>,
    raised: BTreeMap<String, String>,
}

impl Holder {
    /// `on`: for each VIP the number of its interface (any numbering; same number, same interface).
    pub fn new(kind: GateKind, digest: [u8; 32], on: Vec<u32>) -> Self {
        Self {
            vips: vec![Held::default(); on.len()],
            on,
            kind,
            digest,
            stream: false,
            until: Moment::ZERO,
            term: 0,
            open_reported: false,
            announcer: Announcer::default(),
            probing: None,
            next_probe: Moment::ZERO,
            sample: 0,
            counts: (0, 0, 0),
            defended: Moment::ZERO,
            foreign: None,
            alarms: BTreeMap::new(),
            raised: BTreeMap::new(),
        }
    }

    /// The gate is open (as far as the last store says).
    pub fn holds(&self, now: Moment) -> bool {
        now < self.until
    }

    pub fn until(&self) -> Moment {
        self.until
    }

    pub fn counts(&self) -> (u32, u32, u32) {
        self.counts
    }

    /// The stream to dre-elect opened: nothing is held, and that is said first.
    pub fn stream_opened(&mut self, now: Moment, out: &mut Vec<Act>) {
        self.stream_closed(now, out);
        self.stream = true;
        out.push(Act::Report(Report::Armed { gate: self.kind, digest: self.digest }));
        self.counts = (u32::MAX, 0, 0);
        self.raised.clear();
        self.tell(out);
    }

    /// No stream, no lease.
    pub fn stream_closed(&mut self, now: Moment, out: &mut Vec<Act>) {
        self.stream = false;
        self.probing = None;
        self.shut(now, out);
    }

    pub fn order(&mut self, now: Moment, order: &Order, out: &mut Vec<Act>) {
        match *order {
            Order::Hold { until, term, open_by } => self.hold(now, until, term, open_by, out),
            Order::Drop { serial } => {
                self.close(out);
                out.push(Act::Report(Report::Shut { serial }));
                self.clear(out);
                self.tell(out);
            }
            Order::Probe { every_us: 0, .. } => self.probing = None,
            Order::Probe { every_us, round, defer } => {
                if self.probing.is_none_or(|(_, running, _)| running != round) {
                    self.next_probe = now;
                }
                self.probing = Some((Duration::from_micros(every_us.into()), round, defer));
            }
            Order::Announce => {
                if self.holds(now) {
                    self.announce_usable(now);
                }
            }
        }
        self.due(now, out);
    }

    fn hold(&mut self, now: Moment, until: Moment, term: u64, open_by: Moment, out: &mut Vec<Act>) {
        if now >= self.until && now >= open_by {
            // Lapsed, or an order that lay in a queue: another may have found the wire quiet.
            self.close(out);
            out.push(Act::Report(Report::Shut { serial: 0 }));
            self.clear(out);
            self.tell(out);
            return;
        }
        self.until = until;
        out.push(Act::Gate(until));
        out.push(Act::Report(Report::Stored { until }));
        if term != self.term {
            self.term = term;
            self.open_reported = false;
        }
        for vip in 0..self.vips.len() {
            self.want(vip, out);
        }
        self.opened(now, out);
    }

    /// A VIP that is missing while we hold comes (back).
    fn want(&mut self, vip: usize, out: &mut Vec<Act>) {
        let held = &mut self.vips[vip];
        if held.fit && !held.asked {
            held.asked = true;
            out.push(Act::Add(number(vip)));
        }
    }

    /// Said once a term: when every VIP that can be here is usable.
    fn opened(&mut self, now: Moment, out: &mut Vec<Act>) {
        let complete = self.vips.iter().all(|v| v.usable || !v.fit);
        if !self.open_reported && self.stream && self.holds(now) && complete {
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

    fn clear(&mut self, out: &mut Vec<Act>) {
        for (n, held) in self.vips.iter_mut().enumerate() {
            if held.asked || held.usable {
                out.push(Act::Remove(number(n)));
            }
            *held = Held { fit: held.fit, ..Held::default() };
        }
    }

    fn shut(&mut self, _now: Moment, out: &mut Vec<Act>) {
        self.close(out);
        self.clear(out);
    }

    // ---- facts ---------------------------------------------------------------------------------------

    /// The kernel shows the VIP usable (IPv6: no longer tentative).
    pub fn appeared(&mut self, now: Moment, vip: u32, out: &mut Vec<Act>) {
        let holds = self.holds(now);
        let Some(held) = self.vips.get_mut(vip as usize) else { return };
        if !holds {
            // Added by hand on a standby, or an orphan.
            held.asked = false;
            held.usable = false;
            out.push(Act::Remove(vip));
            return;
        }
        if !held.usable {
            held.asked = true;
            held.usable = true;
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
        *held = Held { fit: held.fit, ..Held::default() };
        if holds {
            self.want(vip as usize, out);
        }
        self.tell(out);
    }

    /// Bringing it up was refused.
    pub fn failed(&mut self, vip: u32, why: &str, out: &mut Vec<Act>) {
        if let Some(held) = self.vips.get_mut(vip as usize) {
            held.asked = false;
        }
        self.alarm("VipFailed", Some(why.to_owned()), out);
    }

    /// An interface came, went, or its carrier did.
    pub fn interface(&mut self, now: Moment, on: u32, name: &str, fit: bool, out: &mut Vec<Act>) {
        let mut returned = vec![];
        let mut changed = false;
        for n in 0..self.vips.len() {
            if self.on[n] == on {
                changed |= self.vips[n].fit != fit;
                self.vips[n].fit = fit;
                if fit && self.holds(now) {
                    self.want(n, out);
                    returned.push(number(n));
                }
            }
        }
        out.push(Act::Report(Report::Interface { name: name.to_owned(), fit }));
        if changed && fit {
            // A port that came back: caches and switches must learn again. (For a bond that switched its port the kernel's
            // bonding driver announces every address on it.)
            let usable: Vec<u32> = returned.into_iter().filter(|n| self.vips[*n as usize].usable).collect();
            self.announcer.begin(now, usable.into_iter());
        }
        self.opened(now, out);
        self.due(now, out);
        self.tell(out);
    }

    /// The interface is another one now (re-created): nothing on it is ours any more.
    pub fn interface_gone(&mut self, on: u32, name: &str, out: &mut Vec<Act>) {
        for n in 0..self.vips.len() {
            if self.on[n] == on {
                self.vips[n] = Held::default();
            }
        }
        out.push(Act::Report(Report::Interface { name: name.to_owned(), fit: false }));
        self.tell(out);
    }

    /// Another MAC speaks of a VIP: holds it, or (`probe`) asks for it as one who wants it.
    pub fn said(&mut self, now: Moment, vip: u32, mac: [u8; 6], probe: bool, out: &mut Vec<Act>) {
        if let Some((_, round, defer)) = self.probing
            && (!probe || defer)
        {
            out.push(Act::Report(Report::Foreign { round, at: now, vip, mac }));
        }
        if probe {
            return;
        }
        if self.holds(now) {
            self.foreign = Some((now, vip, mac));
            let mac: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
            let text = format!(
                "{} answers for VIP number {} too, while this node holds it; find that device and take the address from it",
                mac.join(":"),
                vip + 1
            );
            self.alarm("ForeignHolder", Some(text), out);
            if now >= self.defended + DEFEND_EVERY {
                self.defended = now;
                out.push(Act::Announce(vec![vip]));
            }
        }
    }

    /// Raises or clears an alarm that dre-elect shows.
    pub fn alarm(&mut self, name: &str, text: Option<String>, out: &mut Vec<Act>) {
        match text {
            Some(text) => self.alarms.insert(name.to_owned(), text),
            None => self.alarms.remove(name),
        };
        self.tell(out);
    }

    /// A new configuration; VIPs that stay keep what they are. `from[n]` = the old number of new VIP n.
    pub fn reload(
        &mut self,
        now: Moment,
        digest: [u8; 32],
        on: Vec<u32>,
        from: &[Option<u32>],
        out: &mut Vec<Act>,
    ) {
        let old = std::mem::take(&mut self.vips);
        self.digest = digest;
        self.vips = from
            .iter()
            .map(|from| from.and_then(|n| old.get(n as usize).copied()).unwrap_or_default())
            .collect();
        self.on = on;
        self.announcer.end();
        if self.stream {
            out.push(Act::Report(Report::Armed { gate: self.kind, digest }));
        }
        if self.holds(now) {
            for vip in 0..self.vips.len() {
                self.want(vip, out);
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
            self.close(out);
            out.push(Act::Report(Report::Shut { serial: 0 }));
            self.clear(out);
            self.tell(out);
        }
        let batch = self.announcer.take(now);
        if !batch.is_empty() {
            for vip in &batch {
                if let Some(held) = self.vips.get_mut(*vip as usize) {
                    held.announced = true;
                }
            }
            out.push(Act::Announce(batch));
            self.tell(out);
        }
        if let Some((every, round, _)) = self.probing
            && now >= self.next_probe
        {
            // No catching up after a stall: a burst of probes is not three unanswered ones.
            self.next_probe = now + every;
            out.push(Act::Probe(self.choose_sample()));
            out.push(Act::Report(Report::Probed { round, at: now }));
        }
        if let Some((at, ..)) = self.foreign
            && now >= at + FOREIGN_LASTS
        {
            self.foreign = None;
            self.alarm("ForeignHolder", None, out);
        }
    }

    /// Could not go out; due again.
    pub fn unannounced(&mut self, now: Moment, vips: Vec<u32>) {
        self.announcer.again(now, vips);
    }

    fn choose_sample(&mut self) -> Vec<u32> {
        let mut by_interface: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (n, on) in self.on.iter().enumerate() {
            by_interface.entry(*on).or_default().push(number(n));
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

    pub fn next_deadline(&self) -> Option<Moment> {
        let until = (self.until != Moment::ZERO).then_some(self.until);
        let probe = self.probing.map(|_| self.next_probe);
        let foreign = self.foreign.map(|(at, ..)| at + FOREIGN_LASTS);
        [until, probe, foreign, self.announcer.next_due()].into_iter().flatten().min()
    }

    fn announce_usable(&mut self, now: Moment) {
        let usable: Vec<u32> = (0..self.vips.len()).filter(|n| self.vips[*n].usable).map(number).collect();
        self.announcer.begin(now, usable.into_iter());
    }

    /// Counts and alarms, when they changed.
    fn tell(&mut self, out: &mut Vec<Act>) {
        let count =
            |f: fn(&Held) -> bool| u32::try_from(self.vips.iter().filter(|v| f(v)).count()).unwrap_or(0);
        let counts = (number(self.vips.len()), count(|v| v.usable), count(|v| v.announced));
        if counts != self.counts {
            self.counts = counts;
            let (wanted, held, announced) = counts;
            out.push(Act::Report(Report::Vips { wanted, held, announced }));
        }
        if self.raised != self.alarms {
            for name in self.raised.keys().filter(|name| !self.alarms.contains_key(*name)) {
                out.push(Act::Report(Report::Alarm { name: name.clone(), text: None }));
            }
            for (name, text) in self.alarms.iter().filter(|(name, text)| self.raised.get(*name) != Some(text))
            {
                out.push(Act::Report(Report::Alarm { name: name.clone(), text: Some(text.clone()) }));
            }
            self.raised = self.alarms.clone();
        }
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Moment {
        Moment::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    fn armed() -> Holder {
        let mut h = Holder::new(GateKind::Bpf, [1; 32], vec![0, 0]);
        let mut out = vec![];
        h.interface(at(0), 0, "eth1", true, &mut out);
        h.stream_opened(at(0), &mut out);
        assert!(out.contains(&Act::Gate(Moment::ZERO)), "a stream begins shut");
        h
    }

    fn hold(h: &mut Holder, now: Moment, until: Moment, open_by: Moment) -> Vec<Act> {
        let mut out = vec![];
        h.order(now, &Order::Hold { until, term: 3, open_by }, &mut out);
        out
    }

    fn holding() -> Holder {
        let mut h = armed();
        hold(&mut h, at(1), at(30), at(30));
        for vip in 0..2 {
            h.appeared(at(1), vip, &mut vec![]);
        }
        h
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
        h.appeared(at(2), 1, &mut out);
        assert!(out.contains(&Act::Report(Report::Open { term: 3, at: at(2) })));
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
        assert!(out.contains(&Act::Report(Report::Probed { round: 5, at: at(1) })));
        out.clear();
        h.said(at(2), 1, [9; 6], false, &mut out);
        assert_eq!(out, [Act::Report(Report::Foreign { round: 5, at: at(2), vip: 1, mac: [9; 6] })]);
        out.clear();
        h.said(at(2), 1, [9; 6], true, &mut out);
        assert_eq!(out, [], "another's probe counts only for the one who defers");
        let mut h = holding();
        h.said(at(3), 1, [9; 6], false, &mut out);
        assert!(out.contains(&Act::Announce(vec![1])));
        out.clear();
        h.said(at(4), 1, [9; 6], false, &mut out);
        assert!(!out.contains(&Act::Announce(vec![1])), "defended more than once a second");
    }

    #[test]
    fn a_reload_keeps_what_stays() {
        let mut h = holding();
        let mut out = vec![];
        // The first VIP left, a third came.
        h.reload(at(5), [2; 32], vec![0, 0], &[Some(1), None], &mut out);
        assert!(!out.iter().any(|a| matches!(a, Act::Gate(_))), "a reload touched the gate: {out:?}");
        h.interface(at(5), 0, "eth1", true, &mut out);
        assert!(out.contains(&Act::Add(1)) && !out.contains(&Act::Add(0)), "{out:?}");
    }

    #[test]
    fn nothing_is_brought_up_without_carrier() {
        let mut h = Holder::new(GateKind::Bpf, [1; 32], vec![0]);
        let mut out = vec![];
        h.stream_opened(at(0), &mut out);
        let out = hold(&mut h, at(1), at(30), at(30));
        assert!(!out.contains(&Act::Add(0)));
        let mut out = vec![];
        h.interface(at(2), 0, "eth1", true, &mut out);
        assert!(out.contains(&Act::Add(0)));
    }
}
