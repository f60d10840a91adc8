//! Is the peer there? Silence per link → heard, suspect, lost; which way each link works; replay.
//!
//! A datagram that verified is sorted into two grades. It is **fresh** when it echoes this process's own
//! session and a moment of sending no longer ago than D: the peer hears us, now. Only fresh ones may
//! enable anything. Any other is **unproven** (one-way, delayed, from before a restart): it may only hold
//! a claim back, and not for ever ([`UNPROVEN_MAX`]), because an attacker can replay what he recorded.
//!
//! Absent on purpose: what follows from it (`election`), who may hold (`lease`).

use std::time::Duration;

use super::time::Moment;
use super::wire::{Heartbeat, Reject};

/// How long unproven datagrams alone may hold a claim back. Source: RELIABILITY §4, R19 (10 s an episode).
pub const UNPROVEN_MAX: Duration = Duration::from_secs(10);
/// How many sequence numbers the loss figure looks back on.
const LOSS_WINDOW: u64 = 64;
/// Links a heartbeat can name (its bit mask is one byte).
pub const LINKS_MAX: usize = 8;

/// One heartbeat path as this node sees it.
#[derive(Debug, Clone, Default)]
pub struct Link {
    /// Newest sequence of the peer's session on this link.
    sequence: u64,
    /// Bit n: `sequence - n` came.
    window: u64,
    /// How many sequence numbers the window can speak of.
    seen: u64,
    /// Last verified datagram of any grade.
    any: Option<Moment>,
    /// Last datagram that proved both directions of this link.
    both_ways: Option<Moment>,
    /// To be echoed: the peer's session, its newest `sent` here, and when it came.
    newest: Option<(u64, u64, Moment)>,
    rtt: Duration,
}

/// How a link works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkState {
    Up,
    /// The peer is heard here, but does not hear us here.
    OneWay,
    Down,
}

/// Observation of the peer over all links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Heard {
    /// Fresh within D/2.
    Heard,
    /// Nothing fresh for D/2.
    Suspect,
    /// Nothing fresh for D, but something that verified: it may be there.
    Unproven,
    /// Nothing for D.
    Lost,
}

/// What a datagram was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// `newest`: nothing sent later by the peer was seen before on any link: its content counts.
    Fresh {
        newest: bool,
    },
    Unproven,
}

/// What the peer's silence means, all links together.
#[derive(Debug, Clone)]
pub struct Liveness {
    dead_after: Duration,
    session: u64,
    links: Vec<Link>,
    peer_session: u64,
    newest_sent: u64,
    fresh_at: Option<Moment>,
    unproven_at: Option<Moment>,
    /// When the present run of unproven datagrams without a fresh one began.
    unproven_since: Option<Moment>,
    started: Moment,
}

impl Liveness {
    /// `session`: this process's random number. Never 0: 0 in an echo means "heard nothing".
    pub fn new(now: Moment, dead_after: Duration, links: usize, session: u64) -> Self {
        assert!(session != 0 && links <= LINKS_MAX);
        Self {
            dead_after,
            session,
            links: vec![Link::default(); links],
            peer_session: 0,
            newest_sent: 0,
            fresh_at: None,
            unproven_at: None,
            unproven_since: None,
            started: now,
        }
    }

    /// Takes a verified datagram into account; `Err` if it was seen before, overtaken or names no link of ours.
    pub fn note(&mut self, now: Moment, hb: &Heartbeat) -> Result<Grade, Reject> {
        let own = hb.echo_session == self.session;
        let echo_age = now.since(Moment::from_nanos(hb.echo_sent));
        let fresh = own && hb.echo_sent <= now.as_nanos() && echo_age <= self.dead_after;
        let index = usize::from(hb.link);
        if index >= self.links.len() {
            return Err(Reject::Content);
        }
        if hb.session != self.peer_session {
            if !fresh && self.peer_session != 0 {
                // Possibly recorded before a restart: it must not displace the session that proved itself.
                // A peer that has just been restarted looks the same until it has heard us, so it is
                // echoed once the old session has gone quiet; while that one still speaks it is not, or
                // a replayer could keep the true peer from ever reading its own echo.
                if self.heard(now) != Heard::Heard {
                    let link = &mut self.links[index];
                    link.any = Some(now);
                    link.newest = Some((hb.session, hb.sent, now));
                }
                self.unproven(now);
                return Ok(Grade::Unproven);
            }
            self.peer_session = hb.session;
            self.newest_sent = 0;
            for l in &mut self.links {
                *l = Link::default();
            }
        }
        let link = &mut self.links[index];
        if hb.sequence <= link.sequence {
            return Err(Reject::Replay);
        }
        let step = hb.sequence - link.sequence;
        let first = link.sequence == 0;
        link.window = if step >= 64 || first { 1 } else { link.window << step | 1 };
        link.seen = if first { 1 } else { (link.seen + step).min(LOSS_WINDOW) };
        link.sequence = hb.sequence;
        link.any = Some(now);
        link.newest = Some((hb.session, hb.sent, now));
        if fresh {
            link.both_ways = Some(now);
            let hold = Duration::from_micros(u64::from(hb.echo_hold_us));
            link.rtt = echo_age.saturating_sub(hold);
            let newest = hb.sent > self.newest_sent;
            self.newest_sent = self.newest_sent.max(hb.sent);
            self.fresh_at = Some(now);
            self.unproven_since = None;
            self.unproven_at = None;
            Ok(Grade::Fresh { newest })
        } else {
            self.unproven(now);
            Ok(Grade::Unproven)
        }
    }

    fn unproven(&mut self, now: Moment) {
        self.unproven_at = Some(now);
        if self.unproven_since.is_none() {
            self.unproven_since = Some(now);
        }
    }

    /// The peer as observed at `now`.
    pub fn heard(&self, now: Moment) -> Heard {
        let fresh = self.fresh_at.map(|at| now.since(at));
        match fresh {
            Some(age) if age < self.dead_after / 2 => return Heard::Heard,
            Some(age) if age < self.dead_after => return Heard::Suspect,
            _ => {}
        }
        match (self.unproven_at, self.unproven_since) {
            (Some(at), Some(since)) if now.since(at) < self.dead_after && now.since(since) < UNPROVEN_MAX => {
                Heard::Unproven
            }
            _ => Heard::Lost,
        }
    }

    /// Ever heard since the start of this process.
    pub fn ever(&self) -> bool {
        self.fresh_at.is_some()
    }

    /// When the last fresh datagram came; the start of this process if none did.
    pub fn fresh_at(&self) -> Moment {
        self.fresh_at.unwrap_or(self.started)
    }

    /// The peer's session that counts; 0 before the first.
    pub fn peer_session(&self) -> u64 {
        self.peer_session
    }

    /// (session, newest `sent`, held for) to echo on this link.
    pub fn echo(&self, now: Moment, link: usize) -> (u64, u64, Duration) {
        match self.links.get(link).and_then(|l| l.newest) {
            Some((session, sent, at)) => (session, sent, now.since(at)),
            None => (0, 0, Duration::ZERO),
        }
    }

    /// How one link works. A link is judged over twice D: a single datagram lost says nothing.
    pub fn link(&self, now: Moment, index: usize) -> (LinkState, Duration, f64) {
        let Some(link) = self.links.get(index) else {
            return (LinkState::Down, Duration::ZERO, 0.0);
        };
        let lately = |at: Option<Moment>| at.is_some_and(|at| now.since(at) < self.dead_after * 2);
        let state = match (lately(link.both_ways), lately(link.any)) {
            (true, _) => LinkState::Up,
            (false, true) => LinkState::OneWay,
            (false, false) => LinkState::Down,
        };
        let came = (link.window & mask(link.seen)).count_ones();
        let loss = if link.seen == 0 { 0.0 } else { 1.0 - f64::from(came) / link.seen as f64 };
        (state, link.rtt, loss * 100.0)
    }

    /// Bit n: the peer is heard on link n.
    pub fn links_heard(&self, now: Moment) -> u8 {
        let mut bits = 0;
        for (n, l) in self.links.iter().enumerate() {
            if l.any.is_some_and(|at| now.since(at) < self.dead_after * 2) {
                bits |= 1 << n;
            }
        }
        bits
    }

    /// The same history under new settings; links are laid anew when their number changed.
    #[must_use]
    pub fn carried_over(&self, fresh: Self) -> Self {
        let links = if fresh.links.len() == self.links.len() { self.links.clone() } else { fresh.links };
        Self { dead_after: fresh.dead_after, links, ..self.clone() }
    }

    /// The next moment at which [`Self::heard`] changes by itself.
    pub fn next_change(&self, now: Moment) -> Option<Moment> {
        let fresh = self.fresh_at.map(|at| [at + self.dead_after / 2, at + self.dead_after]);
        let unproven = match (self.unproven_at, self.unproven_since) {
            (Some(at), Some(since)) => Some([at + self.dead_after, since + UNPROVEN_MAX]),
            _ => None,
        };
        fresh.into_iter().chain(unproven).flatten().filter(|at| *at > now).min()
    }
}

const fn mask(bits: u64) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::wire::{Flags, Role, Wish};

    const D: Duration = Duration::from_millis(500);
    const OWN: u64 = 11;
    const PEER: u64 = 22;

    const fn at(ms: u64) -> Moment {
        Moment::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    fn hb(session: u64, sequence: u64, sent_ms: u64, echo: Option<u64>) -> Heartbeat {
        Heartbeat {
            link: 0,
            role: Role::Standby,
            wish: Wish::None,
            flags: Flags::default(),
            links_heard: 0,
            session,
            sequence,
            sent: at(sent_ms).as_nanos(),
            echo_session: echo.map_or(0, |_| OWN),
            echo_sent: echo.map_or(0, |ms| at(ms).as_nanos()),
            echo_hold_us: 0,
            dead_after_us: 500_000,
            lease_left_us: 0,
            shut_ago_us: 0,
            term: 0,
            vote: 0,
            wall_ms: 0,
            digest: [0; 32],
            sections: [0; 8],
        }
    }

    fn fresh_at(ms: u64, sequence: u64) -> (Moment, Heartbeat) {
        (at(ms), hb(PEER, sequence, ms, Some(ms - 1)))
    }

    #[test]
    fn silence_makes_a_peer_suspect_then_lost() {
        let mut l = Liveness::new(at(0), D, 2, OWN);
        assert_eq!(l.heard(at(0)), Heard::Lost);
        let (now, hb) = fresh_at(10, 1);
        assert_eq!(l.note(now, &hb), Ok(Grade::Fresh { newest: true }));
        assert_eq!(l.heard(at(259)), Heard::Heard);
        assert_eq!(l.heard(at(260)), Heard::Suspect);
        assert_eq!(l.heard(at(509)), Heard::Suspect);
        assert_eq!(l.heard(at(510)), Heard::Lost);
        assert_eq!(l.next_change(at(10)), Some(at(260)));
        assert_eq!(l.next_change(at(260)), Some(at(510)));
        assert_eq!(l.next_change(at(510)), None);
    }

    #[test]
    fn a_peer_that_does_not_hear_us_is_unproven_and_not_for_ever() {
        let mut l = Liveness::new(at(0), D, 1, OWN);
        for n in 1..=110 {
            assert_eq!(l.note(at(n * 100), &hb(PEER, n, n * 100, None)), Ok(Grade::Unproven));
            let expected = if n <= 100 { Heard::Unproven } else { Heard::Lost };
            assert_eq!(l.heard(at(n * 100)), expected, "{n}");
        }
        assert_eq!(l.link(at(11_000), 0).0, LinkState::OneWay);
    }

    #[test]
    fn an_echo_older_than_d_proves_nothing() {
        let mut l = Liveness::new(at(0), D, 1, OWN);
        assert_eq!(l.note(at(1000), &hb(PEER, 1, 1000, Some(499))), Ok(Grade::Unproven));
        assert_eq!(l.note(at(1001), &hb(PEER, 2, 1001, Some(501))), Ok(Grade::Fresh { newest: true }));
    }

    #[test]
    fn an_echo_from_the_future_proves_nothing() {
        let mut l = Liveness::new(at(0), D, 1, OWN);
        assert_eq!(l.note(at(1000), &hb(PEER, 1, 1000, Some(1001))), Ok(Grade::Unproven));
    }

    #[test]
    fn duplicates_and_overtaken_ones_are_replays() {
        let mut l = Liveness::new(at(0), D, 1, OWN);
        let (now, first) = fresh_at(10, 5);
        l.note(now, &first).expect("new");
        assert_eq!(l.note(at(11), &first), Err(Reject::Replay));
        assert_eq!(l.note(at(11), &hb(PEER, 4, 9, Some(8))), Err(Reject::Replay));
    }

    #[test]
    fn a_datagram_from_an_earlier_session_does_not_displace_the_one_that_proved_itself() {
        let mut l = Liveness::new(at(0), D, 1, OWN);
        let (now, good) = fresh_at(10, 5);
        l.note(now, &good).expect("new");
        assert_eq!(l.note(at(20), &hb(99, 1000, 19, None)), Ok(Grade::Unproven));
        assert_eq!(l.peer_session(), PEER);
        // Restarted for good: it has heard us and echoes us.
        assert_eq!(l.note(at(30), &hb(33, 1, 30, Some(29))), Ok(Grade::Fresh { newest: true }));
        assert_eq!(l.peer_session(), 33);
    }

    /// It is echoed only when the old session has gone quiet: then it can prove itself.
    #[test]
    fn a_restarted_peer_is_echoed_once_the_old_session_is_quiet() {
        let mut l = Liveness::new(at(0), D, 1, OWN);
        let (now, good) = fresh_at(10, 5);
        l.note(now, &good).expect("new");
        l.note(at(100), &hb(33, 1, 99, None)).expect("noted");
        assert_eq!(l.echo(at(100), 0).0, PEER);
        l.note(at(260), &hb(33, 2, 259, None)).expect("noted");
        assert_eq!(l.echo(at(261), 0), (33, at(259).as_nanos(), Duration::from_millis(1)));
    }

    #[test]
    fn loss_is_counted_by_gaps() {
        let mut l = Liveness::new(at(0), D, 1, OWN);
        for n in 1..=60 {
            if n % 3 != 0 {
                l.note(at(n * 10), &hb(PEER, n, n * 10, Some(n * 10 - 1))).expect("new");
            }
        }
        let (state, rtt, loss) = l.link(at(600), 0);
        assert_eq!((state, rtt), (LinkState::Up, Duration::from_millis(1)));
        assert!((30.0..36.0).contains(&loss), "{loss}");
    }

    #[test]
    fn the_copy_on_the_second_link_proves_the_link_but_is_not_newer() {
        let mut l = Liveness::new(at(0), D, 2, OWN);
        let (now, first) = fresh_at(10, 5);
        l.note(now, &first).expect("new");
        let second = Heartbeat { link: 1, ..first };
        assert_eq!(l.note(at(10), &second), Ok(Grade::Fresh { newest: false }));
        assert_eq!(l.links_heard(at(11)), 3);
    }
}
