//! How long this node may hold: three votes, each a lease with its own end.
//!
//! SELF (promised to nobody else), PEER (the other node acknowledged), THIRD (an arbitrator answered). Two of
//! three make the lease; it ends with the second longest. Every vote that comes from outside counts **from the
//! moment its question was sent** for D less the guard, while the one who gave it counts D from the moment
//! it answered: so, whatever the delay, loss or reordering, the holder stops before the giver is free.
//!
//! ```text
//!  holder  s─────────── D − guard ──────────┤ gate shut
//!            ╲  question      answer ╱
//!  giver      r──────────────── D ──────────────┤ free to claim
//! ```
//!
//! Absent on purpose: whether to claim (`election`), what a pinged arbitrator's answer is worth when the
//! peer is silent (`evidence`: it answers everybody).

use std::time::Duration;

use super::time::Moment;

/// The vote beside SELF that the lease stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    None,
    Peer,
    Arbitrator,
    /// No arbitrator is configured: the wire was silent, and that had to do.
    Wire,
    Standalone,
}

impl By {
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Peer => "peer",
            Self::Arbitrator => "arbitrator",
            Self::Wire => "wire",
            Self::Standalone => "standalone",
        }
    }
}

/// The votes this node has, and the one it gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Votes {
    span: Duration,
    /// What was asked before this moment counts for this long at most: who answers may have answered, and promised, to
    /// earlier settings.
    before: (Moment, Duration),
    peer: Moment,
    third: Moment,
    promised: Moment,
}

impl Votes {
    /// `span` = D − guard.
    pub const fn new(span: Duration) -> Self {
        Self {
            span,
            before: (Moment::ZERO, span),
            peer: Moment::ZERO,
            third: Moment::ZERO,
            promised: Moment::ZERO,
        }
    }

    /// Settings that hold from `now` on.
    pub fn set_span(&mut self, now: Moment, span: Duration) {
        if span != self.span {
            // The shortest so far: several reloads may lie within one round trip.
            self.before = (now, self.before.1.min(self.span));
            self.span = span;
        }
    }

    /// How long the answer to what was sent then counts.
    fn span_of(&self, sent: Moment) -> Duration {
        let (until, shorter) = self.before;
        if sent < until { self.span.min(shorter) } else { self.span }
    }

    /// The peer acknowledged a heartbeat of this claim that went out at `sent`.
    pub fn acknowledged(&mut self, sent: Moment) {
        self.peer = self.peer.max(sent + self.span_of(sent));
    }

    /// An arbitrator answered the ping that went out at `sent`.
    pub fn answered(&mut self, sent: Moment) {
        self.third = self.third.max(sent + self.span_of(sent));
    }

    /// This node acknowledged a heartbeat: it promises not to claim for the longer of the two nodes' D.
    /// Theirs counts because the nodes may be in the middle of a reload, with different ones.
    pub fn promise(&mut self, now: Moment, dead_after: Duration) {
        self.promised = self.promised.max(now + dead_after);
    }

    /// The peer gave the promise back: it said itself, just now, that it holds nothing.
    pub fn absolve(&mut self) {
        self.promised = Moment::ZERO;
    }

    /// Forgets what was collected, so that a new claim starts from nothing.
    pub fn drop_collected(&mut self) {
        self.peer = Moment::ZERO;
        self.third = Moment::ZERO;
    }

    /// The peer's vote alone, for claims made with the peer there.
    pub fn peer_until(&self) -> Moment {
        self.peer
    }

    pub fn third_until(&self) -> Moment {
        self.third
    }

    pub fn promised_until(&self) -> Moment {
        self.promised
    }

    pub fn span(&self) -> Duration {
        self.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }
    const SPAN: Duration = Duration::from_millis(28);

    #[test]
    fn a_vote_counts_from_the_sending_and_never_shrinks() {
        let mut v = Votes::new(SPAN);
        v.acknowledged(at(100));
        assert_eq!(v.peer_until(), at(128));
        v.acknowledged(at(90));
        assert_eq!(v.peer_until(), at(128));
        v.answered(at(101));
        assert_eq!(v.third_until(), at(129));
        v.drop_collected();
        assert_eq!((v.peer_until(), v.third_until()), (Moment::ZERO, Moment::ZERO));
    }

    /// The peer promised to what it was asked, not to what was configured since.
    #[test]
    fn a_longer_span_counts_only_for_what_is_asked_from_then_on() {
        let long = Duration::from_millis(300);
        let mut v = Votes::new(SPAN);
        v.set_span(at(100), long);
        v.acknowledged(at(99));
        v.answered(at(99));
        assert_eq!((v.peer_until(), v.third_until()), (at(127), at(127)));
        v.acknowledged(at(100));
        assert_eq!(v.peer_until(), at(400));
        // And again within the round trip: the shortest of them.
        v.set_span(at(101), Duration::from_millis(200));
        v.drop_collected();
        v.acknowledged(at(99));
        assert_eq!(v.peer_until(), at(127));
    }

    #[test]
    fn a_promise_counts_from_the_answer() {
        let mut v = Votes::new(SPAN);
        v.promise(at(100), Duration::from_millis(30));
        v.promise(at(101), Duration::from_millis(20));
        assert_eq!(v.promised_until(), at(130));
        v.absolve();
        assert_eq!(v.promised_until(), Moment::ZERO);
    }
}
