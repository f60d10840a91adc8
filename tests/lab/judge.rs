//! The judge: who answers for a VIP, and how long nobody does, seen from outside. It never asks a daemon.
//!
//! Each millisecond (a *tick*; 10 ms for IPv6) three echo requests leave:
//! - one from the **client**, by its kernel: neighbour cache, gratuitous ARP and all. `outage_client()`.
//! - one from the **judge** to *each node's own MAC*, as raw frames. Whichever kernel has the VIP answers, whatever
//!   any cache says; if both have it, both answer. `silence()` and `two_at_once()`.
//!
//! And every 5 ms an ARP request for the VIP (IPv4), which everybody on the network hears: so a holder that is
//! neither node is seen too, with its MAC.
//!
//! # Two at once
//!
//! An answer is (MAC, moment at which the judge's kernel received it). Two holders at once are, exactly:
//! 1. **Twin**: both echo requests of one tick, sent at most 200 µs apart, were answered by different MACs; or one
//!    broadcast ARP request was answered by two MACs within 1 ms. No handover between nodes fits in there.
//! 2. **Return**: X answered, then Y, then X again, all within 50 ms, with no order to switch back possible in
//!    that time. A clean handover is X X X Y Y Y.
//!
//! # Outage
//!
//! A gap runs from the sending of the last probe that was answered to the sending of the next one that was: so
//! it is never shorter than the truth, and at most two ticks longer. Only unanswered probes make a gap; time in
//! which the judge itself did not run makes none, and is told by `blind()`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dre::logic::time::Moment;

use super::net::{self, Mac};
use super::sys;

const TWIN_SENT: Duration = Duration::from_micros(200);
const TWIN_ARP: Duration = Duration::from_millis(1);
const RETURN: Duration = Duration::from_millis(50);
const ARP_EVERY: Duration = Duration::from_millis(5);
const MAGIC: u32 = 0x6472_656a;

/// One tick's probes.
#[derive(Clone, Copy, Default)]
struct Tick {
    client_sent: Moment,
    client_heard: Option<Moment>,
    /// To hadev1, to hadev2.
    sent: [Moment; 2],
    heard: [Option<(Mac, Moment)>; 2],
}

/// One ARP request and who answered it.
#[derive(Clone, Default)]
struct Ask {
    sent: Moment,
    heard: Vec<(Mac, Moment)>,
}

/// An announcement: a gratuitous ARP, or an unsolicited neighbour advertisement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    pub at: Moment,
    pub mac: Mac,
    /// An ARP request (or NA) rather than an ARP reply.
    pub request: bool,
}

/// A time without answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// When the last answered probe left.
    pub from: Moment,
    /// When the next answered one left.
    pub to: Moment,
    /// Probes unanswered between.
    pub lost: usize,
    /// It had not ended when the judge left.
    pub open: bool,
}

impl Gap {
    /// How long.
    pub fn length(&self) -> Duration {
        self.to.since(self.from)
    }
}

impl fmt::Debug for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = if self.open { ", open" } else { "" };
        write!(f, "{:.1?} ({} lost{open}, from {:?})", self.length(), self.lost, self.from)
    }
}

/// A time during which one MAC answered and no other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    pub mac: Mac,
    pub first: Moment,
    pub last: Moment,
    pub answers: usize,
}

impl Tenure {
    /// The node's name, or "stranger".
    pub fn who(&self) -> &'static str {
        who(self.mac)
    }
}

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}..{:?} ({})", self.who(), self.first, self.last, self.answers)
    }
}

/// A proof that two answered at once.
#[derive(Clone, PartialEq, Eq)]
pub struct Overlap {
    pub from: Moment,
    pub to: Moment,
    pub macs: Vec<Mac>,
    /// How many twins and returns in a row.
    pub proofs: usize,
}

impl fmt::Debug for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.macs.iter().map(|&m| who(m)).collect();
        let length = self.to.since(self.from);
        write!(f, "{} for {length:.1?} from {:?} ({} proofs)", names.join(" and "), self.from, self.proofs)
    }
}

fn who(mac: Mac) -> &'static str {
    match mac[5] {
        0x54 => "hadev1",
        0x55 => "hadev2",
        _ => "stranger",
    }
}

/// A judge at work.
pub struct Judge {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Tape>>>,
}

impl Judge {
    /// Starts watching; returns when the first probes are about to leave.
    pub fn start(client_ns: &str, judge_ns: &str, vip: IpAddr) -> Result<Self> {
        let every = Duration::from_millis(if vip.is_ipv6() { 10 } else { 1 });
        Self::start_every(client_ns, judge_ns, vip, every)
    }

    /// With a tick of its own length: an emulated machine that answers three probes a millisecond does nothing else.
    pub fn start_every(client_ns: &str, judge_ns: &str, vip: IpAddr, every: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, client_ns, judge_ns) = (Arc::clone(&stop), client_ns.to_owned(), judge_ns.to_owned());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name("judge".into()).spawn(move || {
            let mut watch = Watch::open(&client_ns, &judge_ns, vip, every)?;
            let _ = ready.send(());
            watch.run(&stopped);
            Ok(watch.tape)
        })?;
        let _ = is_ready.recv(); // an error is told by stop()
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends watching and judges what was seen.
    pub fn stop(mut self) -> Result<Verdict> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().context("stopped twice")?;
        let tape = thread.join().map_err(|_| anyhow!("the judge panicked"))??;
        Ok(Verdict { tape })
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

#[derive(Clone)]
struct Tape {
    vip: IpAddr,
    ticks: Vec<Tick>,
    asks: Vec<Ask>,
    announces: Vec<Announce>,
    blind: Duration,
    end: Moment,
}

struct Watch {
    tape: Tape,
    net: usize,
    frames: OwnedFd,
    client: OwnedFd,
    id: u16,
    me: Mac,
    nodes: [Mac; 2],
    address: IpAddr,
    every: Duration,
}

impl Watch {
    fn open(client_ns: &str, judge_ns: &str, vip: IpAddr, every: Duration) -> Result<Self> {
        let net = net::net_of(vip);
        sys::enter_netns(client_ns).with_context(|| client_ns.to_owned())?;
        let client = sys::echo_socket(vip).context("the client's socket")?;
        sys::enter_netns(judge_ns).with_context(|| judge_ns.to_owned())?;
        let frames = sys::frame_socket(net::NETS[net]).context("the judge's socket")?;
        anyhow::ensure!(sys::punctual(30), "the judge has no real-time turn: it would miss two at once");
        Ok(Self {
            tape: Tape {
                vip,
                ticks: Vec::with_capacity(20_000),
                asks: Vec::with_capacity(4_000),
                announces: Vec::new(),
                blind: Duration::ZERO,
                end: sys::now(),
            },
            net,
            frames,
            client,
            id: sys::now().as_nanos() as u16,
            me: net::mac("judge", net),
            nodes: [net::mac("hadev1", net), net::mac("hadev2", net)],
            address: net::address("judge", net, vip.is_ipv6()).context("the judge has no such address")?,
            every,
        })
    }

    fn run(&mut self, stop: &AtomicBool) {
        let mut due = sys::now();
        let mut ask = due;
        let mut last = due;
        while !stop.load(Ordering::Relaxed) {
            let now = sys::now();
            if now >= due {
                self.tape.blind = self.tape.blind.max(now.since(last).saturating_sub(self.every));
                last = now;
                self.probe();
                if now >= ask && self.tape.vip.is_ipv4() {
                    self.ask();
                    ask = now + ARP_EVERY.max(self.every * 5);
                }
                // A late judge drops ticks: a burst would measure nothing.
                due += self.every;
                if sys::now() > due {
                    due = sys::now() + self.every;
                }
            }
            let both = [(self.frames.as_raw_fd(), libc::POLLIN), (self.client.as_raw_fd(), libc::POLLIN)];
            sys::wait(&both, sys::now().until(due));
            self.listen();
        }
        // Answers on their way.
        sys::wait(&[(self.frames.as_raw_fd(), libc::POLLIN)], Duration::from_millis(2));
        self.listen();
        self.tape.end = sys::now();
    }

    fn probe(&mut self) {
        let number = self.tape.ticks.len() as u64;
        let mut tick = Tick { client_sent: sys::now(), ..Tick::default() };
        sys::send(&self.client, &self.echo(2, number));
        // Who is asked first alternates, so that neither node is always the earlier one.
        for i in if number.is_multiple_of(2) { [0, 1] } else { [1, 0] } {
            let frame = self.frame(self.nodes[i], i as u8, number);
            tick.sent[i] = sys::now();
            sys::send(&self.frames, &frame);
        }
        self.tape.ticks.push(tick);
    }

    /// An echo request; `stream` is the node asked (0, 1) or 2 for the client's.
    fn echo(&self, stream: u8, number: u64) -> Vec<u8> {
        let v6 = self.tape.vip.is_ipv6();
        let mut p = vec![if v6 { 128 } else { 8 }, 0, 0, 0];
        p.extend(self.id.to_be_bytes());
        p.extend((number as u16).to_be_bytes());
        p.extend(MAGIC.to_be_bytes());
        p.push(stream);
        p.extend([0; 3]);
        p.extend(number.to_be_bytes());
        let sum = match (self.address, self.tape.vip) {
            (IpAddr::V6(from), IpAddr::V6(to)) => net::checksum(&[&pseudo(from, to, p.len()), &p]),
            _ => net::checksum(&[&p]),
        };
        p[2..4].copy_from_slice(&sum.to_be_bytes());
        p
    }

    /// The same in a whole frame from the judge to one node's own MAC.
    fn frame(&self, to: Mac, stream: u8, number: u64) -> Vec<u8> {
        let echo = self.echo(stream, number);
        let mut f = Vec::with_capacity(64);
        f.extend(to);
        f.extend(self.me);
        match (self.address, self.tape.vip) {
            (IpAddr::V4(from), IpAddr::V4(vip)) => {
                f.extend([8, 0]);
                let mut h = vec![0x45, 0];
                h.extend((20 + echo.len() as u16).to_be_bytes());
                h.extend([0, 0, 0x40, 0, 64, 1, 0, 0]);
                h.extend(from.octets());
                h.extend(vip.octets());
                let sum = net::checksum(&[&h]);
                h[10..12].copy_from_slice(&sum.to_be_bytes());
                f.extend(h);
            }
            (IpAddr::V6(from), IpAddr::V6(vip)) => {
                f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                f.extend((echo.len() as u16).to_be_bytes());
                f.extend([58, 64]);
                f.extend(from.octets());
                f.extend(vip.octets());
            }
            _ => {}
        }
        f.extend(echo);
        f
    }

    fn ask(&mut self) {
        let (IpAddr::V4(from), IpAddr::V4(vip)) = (self.address, self.tape.vip) else { return };
        let mut f = vec![0xff; 6];
        f.extend(self.me);
        f.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        f.extend(self.me);
        f.extend(from.octets());
        f.extend([0; 6]);
        f.extend(vip.octets());
        f.resize(60, 0);
        self.tape.asks.push(Ask { sent: sys::now(), heard: Vec::new() });
        sys::send(&self.frames, &f);
    }

    fn listen(&mut self) {
        let mut buffer = [0u8; 2048];
        let stamps = sys::Stamps::compare();
        while let Some((n, at)) = sys::receive(&self.frames, &mut buffer, stamps) {
            self.heard_frame(&buffer[..n], at);
        }
        while let Some((n, at)) = sys::receive(&self.client, &mut buffer, stamps) {
            // A raw IPv4 socket gives the IP header too, a raw IPv6 one does not.
            let skip = if self.tape.vip.is_ipv4() { 20 } else { 0 };
            if let Some((2, number)) = buffer.get(skip..n).and_then(|p| self.answer(p))
                && let Some(tick) = self.tape.ticks.get_mut(number)
            {
                tick.client_heard.get_or_insert(at);
            }
        }
    }

    /// Stream and number, if this is an answer to one of ours.
    fn answer(&self, p: &[u8]) -> Option<(u8, usize)> {
        let kind = if self.tape.vip.is_ipv6() { 129 } else { 0 };
        let ours = p.len() >= 24
            && p[0] == kind
            && p[4..6] == self.id.to_be_bytes()
            && p[8..12] == MAGIC.to_be_bytes();
        if !ours {
            return None;
        }
        Some((p[12], u64::from_be_bytes(p[16..24].try_into().ok()?) as usize))
    }

    fn heard_frame(&mut self, f: &[u8], at: Moment) {
        if f.len() < 42 {
            return;
        }
        let mut mac = [0; 6];
        mac.copy_from_slice(&f[6..12]);
        let to_me = f[..6] == self.me;
        match (&f[12..14], self.tape.vip) {
            ([8, 6], IpAddr::V4(vip)) => {
                // The sender's protocol address is the claim to hold it.
                if f[28..32] != vip.octets() {
                    return;
                }
                let request = f[21] == 1;
                if !to_me {
                    if f[0] & 1 == 1 {
                        self.tape.announces.push(Announce { at, mac, request });
                    }
                } else if !request && let Some(ask) = self.tape.asks.last_mut() {
                    ask.heard.push((mac, at));
                }
            }
            ([8, 0], IpAddr::V4(vip)) if to_me && f[26..30] == vip.octets() => {
                self.heard_echo(&f[34..], mac, at)
            }
            ([0x86, 0xdd], IpAddr::V6(vip)) if f.len() >= 62 => {
                if to_me && f[22..38] == vip.octets() {
                    self.heard_echo(&f[54..], mac, at);
                } else if f[0] == 0x33
                    && f[20] == 58
                    && f[54] == 136
                    && f.len() >= 78
                    && f[62..78] == vip.octets()
                {
                    self.tape.announces.push(Announce { at, mac, request: true });
                }
            }
            _ => {}
        }
        debug_assert!(self.net == 1 || self.net == 2);
    }

    fn heard_echo(&mut self, p: &[u8], mac: Mac, at: Moment) {
        if let Some((stream @ 0..=1, number)) = self.answer(p)
            && let Some(tick) = self.tape.ticks.get_mut(number)
        {
            tick.heard[usize::from(stream)].get_or_insert((mac, at));
        }
    }
}

fn pseudo(from: Ipv6Addr, to: Ipv6Addr, len: usize) -> Vec<u8> {
    let mut h = from.octets().to_vec();
    h.extend(to.octets());
    h.extend((len as u32).to_be_bytes());
    h.extend([0, 0, 0, 58]);
    h
}

/// What a judge saw.
#[derive(Clone)]
pub struct Verdict {
    tape: Tape,
}

impl Verdict {
    /// The longest outage as a client sees it: through its kernel's neighbour cache.
    pub fn outage_client(&self) -> Option<Gap> {
        longest(self.gaps_client())
    }

    /// The longest time in which no kernel answered, asked at its own MAC.
    pub fn silence(&self) -> Option<Gap> {
        longest(self.gaps())
    }

    /// All gaps as a client sees them, in order.
    pub fn gaps_client(&self) -> Vec<Gap> {
        gaps(self.tape.ticks.iter().map(|t| (t.client_sent, t.client_heard.is_some())), self.tape.end)
    }

    /// All times in which no kernel answered, in order.
    pub fn gaps(&self) -> Vec<Gap> {
        let probes = self.tape.ticks.iter().map(|t| {
            let first = t.sent[0].min(t.sent[1]);
            (first, t.heard.iter().any(Option::is_some))
        });
        gaps(probes, self.tape.end)
    }

    /// All times in which this node's own kernel did not answer, in order: one side of a network that is parted.
    pub fn gaps_of(&self, node: &str) -> Vec<Gap> {
        let side = usize::from(node != "hadev1");
        gaps(self.tape.ticks.iter().map(|t| (t.sent[side], t.heard[side].is_some())), self.tape.end)
    }

    /// Every answer, in the order of arrival.
    fn answers(&self) -> Vec<(Moment, Mac)> {
        let echoes = self.tape.ticks.iter().flat_map(|t| t.heard.into_iter().flatten());
        let arps = self.tape.asks.iter().flat_map(|a| a.heard.iter().copied());
        let mut all: Vec<_> = echoes.chain(arps).map(|(mac, at)| (at, mac)).collect();
        all.sort_unstable();
        all
    }

    /// Who answered when: one entry for each unbroken row of one MAC's answers.
    pub fn holders(&self) -> Vec<Tenure> {
        let mut rows: Vec<Tenure> = Vec::new();
        for (at, mac) in self.answers() {
            match rows.last_mut() {
                Some(row) if row.mac == mac => {
                    row.last = at;
                    row.answers += 1;
                }
                _ => rows.push(Tenure { mac, first: at, last: at, answers: 1 }),
            }
        }
        rows
    }

    /// Who answered last.
    pub fn holder(&self) -> Option<Tenure> {
        self.holders().pop()
    }

    /// Every proof that two answered at once, neighbouring ones joined. Empty is what must be.
    pub fn two_at_once(&self) -> Vec<Overlap> {
        let mut proofs: Vec<(Moment, Moment, Vec<Mac>)> = Vec::new();
        for t in &self.tape.ticks {
            let apart = t.sent[0].max(t.sent[1]).since(t.sent[0].min(t.sent[1]));
            if let [Some((a, at_a)), Some((b, at_b))] = t.heard
                && a != b
                && apart <= TWIN_SENT
            {
                proofs.push((at_a.min(at_b), at_a.max(at_b), vec![a, b]));
            }
        }
        for ask in &self.tape.asks {
            let prompt: BTreeMap<Mac, Moment> =
                ask.heard.iter().filter(|(_, at)| at.since(ask.sent) <= TWIN_ARP).copied().collect();
            if prompt.len() > 1 {
                let last = prompt.values().copied().max().unwrap_or(ask.sent);
                proofs.push((ask.sent, last, prompt.into_keys().collect()));
            }
        }
        let rows = self.holders();
        for three in rows.windows(3) {
            let [x, y, again] = three else { continue };
            if x.mac == again.mac && again.first.since(x.last) <= RETURN {
                proofs.push((y.first, again.first, vec![x.mac, y.mac]));
            }
        }
        proofs.sort();
        let mut joined: Vec<Overlap> = Vec::new();
        for (from, to, macs) in proofs {
            match joined.last_mut() {
                Some(o) if from <= o.to + RETURN => {
                    o.to = o.to.max(to);
                    o.proofs += 1;
                    o.macs.extend(macs);
                    o.macs.sort_unstable();
                    o.macs.dedup();
                }
                _ => joined.push(Overlap { from, to, macs, proofs: 1 }),
            }
        }
        joined
    }

    /// Gratuitous ARPs and unsolicited neighbour advertisements for the VIP.
    pub fn announces(&self) -> &[Announce] {
        &self.tape.announces
    }

    /// The longest of some gaps in milliseconds; 0 if there is none.
    pub fn longest_ms(gaps: Vec<Gap>) -> f64 {
        longest(gaps).map_or(0.0, |gap| gap.length().as_secs_f64() * 1e3)
    }

    /// The longest silence of this node's own kernel, ms, that touches the time from `from` to `to`: counted whole, where
    /// [`Self::between`] would cut it.
    pub fn silent_ms(&self, node: &str, from: Moment, to: Moment) -> f64 {
        Self::longest_ms(self.gaps_of(node).into_iter().filter(|g| g.to > from && g.from < to).collect())
    }

    /// The longest time the judge itself did not run.
    pub fn blind(&self) -> Duration {
        self.tape.blind
    }

    /// How many ticks were probed.
    pub fn ticks(&self) -> usize {
        self.tape.ticks.len()
    }

    /// The last moment at which this node answered.
    pub fn last_answer(&self, node: &str) -> Option<Moment> {
        self.answers().into_iter().rev().find(|&(_, m)| who(m) == node).map(|(at, _)| at)
    }

    /// The first moment at or after `from` at which this node answered.
    pub fn first_answer(&self, node: &str, from: Moment) -> Option<Moment> {
        self.answers().into_iter().find(|&(at, m)| at >= from && who(m) == node).map(|(at, _)| at)
    }

    /// Only what was sent in that time.
    pub fn between(&self, from: Moment, to: Moment) -> Self {
        let mut tape = self.tape.clone();
        tape.ticks.retain(|t| t.client_sent >= from && t.client_sent < to);
        tape.asks.retain(|a| a.sent >= from && a.sent < to);
        tape.announces.retain(|a| a.at >= from && a.at < to);
        tape.end = tape.end.min(to);
        Self { tape }
    }

    /// One paragraph for people.
    pub fn summary(&self) -> String {
        format!(
            "{}: client outage {:?}, silence {:?}, holders {:?}, two at once {:?}{}, blind {:.1?}",
            self.tape.vip,
            self.outage_client(),
            self.silence(),
            self.holders().iter().take(12).collect::<Vec<_>>(),
            self.two_at_once(),
            self.around(&self.two_at_once()),
            self.blind()
        )
    }

    /// Who answered around these overlaps, when, and how long after it was asked: whether a kernel answered that should not, or a frame
    /// was long on its way.
    fn around(&self, overlaps: &[Overlap]) -> String {
        const ANSWERS: usize = 40;
        let near = |at: Moment| overlaps.iter().any(|o| at + RETURN >= o.from && at <= o.to + RETURN);
        let mut answers: Vec<(Moment, Mac, Moment)> = vec![];
        for tick in &self.tape.ticks {
            for (sent, heard) in tick.sent.iter().zip(tick.heard) {
                answers.extend(heard.filter(|(_, at)| near(*at)).map(|(mac, at)| (at, mac, *sent)));
            }
        }
        answers.sort();
        let words = answers.iter().take(ANSWERS).map(|(at, mac, sent)| {
            format!("{} at {at:?} to a request of {:.1?} before", who(*mac), at.since(*sent))
        });
        let words: Vec<String> = words.collect();
        if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
    }
}

/// The longest gap. One that was there when the judge came and ended is not counted; one that was still there when it
/// left is, even if nothing was ever answered.
fn longest(gaps: Vec<Gap>) -> Option<Gap> {
    gaps.into_iter().filter(|g| g.lost > 0).max_by_key(Gap::length)
}

fn gaps(probes: impl Iterator<Item = (Moment, bool)>, end: Moment) -> Vec<Gap> {
    let mut found = Vec::new();
    let mut begin: Option<Moment> = None;
    let mut last: Option<Moment> = None;
    let mut lost = 0;
    for (sent, answered) in probes {
        begin.get_or_insert(sent);
        if !answered {
            lost += 1;
            continue;
        }
        if let Some(from) = last
            && lost > 0
        {
            found.push(Gap { from, to: sent, lost, open: false });
        }
        last = Some(sent);
        lost = 0;
    }
    // The probes of the last milliseconds may not have had their answers yet: two lost ticks are no gap.
    if let Some(from) = last.or(begin)
        && lost > 2
    {
        found.push(Gap { from, to: end, lost, open: true });
    }
    found
}
