//! May this node take over without the peer's word? What the wire and the arbitrator say.
//!
//! A pinged arbitrator answers everybody, so its answer alone proves nothing about the other node. The
//! wire does: whoever still answers for a VIP is not to be doubled, even with all its daemons dead, because
//! it is its kernel that answers. Evidence is gathered from D/2 on, so that it is complete at D.
//!
//! **Quiet** means: the last three probes went unanswered, and the third has had time for its answer.
//! No dre-vip, no probes; no probes, no quiet: absence of evidence is not taken for evidence.

use std::time::Duration;

use super::time::Moment;

/// Probes in a row that must go unanswered.
const PROBES: usize = 3;
/// So many periods without a probe, and the prober stood still.
const PAUSE: u32 = 8;

/// One gathering of evidence: a *round*. Answers to an earlier round count for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evidence {
    round: u64,
    running: Option<Moment>,
    period: Duration,
    /// Only looks whether somebody still answers.
    patient: bool,
    /// The last probes since the last foreign answer, newest last.
    probes: [Option<Moment>; PROBES],
    /// The first probe since the last foreign answer, at whatever pace.
    first: Option<Moment>,
    foreign: Option<(Moment, u32, [u8; 6])>,
    /// The newest ping of this round that was answered.
    answered: Option<Moment>,
}

impl Evidence {
    /// Begins a new round at `now`, probing every `period`. The round's number.
    pub fn begin(&mut self, now: Moment, period: Duration) -> u64 {
        let round = self.round + 1;
        *self = Self { round, running: Some(now), period, ..Self::default() };
        round
    }

    pub fn end(&mut self) {
        *self = Self { round: self.round, ..Self::default() };
    }

    /// Another pace. Faster: what was seen at the slower one is too old for a claim, the count begins again.
    pub fn pace(&mut self, period: Duration) {
        if period < self.period {
            self.probes = [None; PROBES];
        }
        self.period = period;
    }

    /// A pace that is no evidence: between two of these probes somebody may have come. From here [`Self::begin`] alone leads back.
    pub fn watch(&mut self, period: Duration) {
        (self.period, self.patient) = (period, true);
    }

    pub fn is_patient(&self) -> bool {
        self.patient
    }

    pub fn running(&self) -> Option<Moment> {
        self.running
    }

    pub fn period(&self) -> Duration {
        self.period
    }

    pub fn round(&self) -> u64 {
        self.round
    }

    /// A probe of every probed VIP went out.
    pub fn probed(&mut self, round: u64, at: Moment) {
        if round == self.round && self.running.is_some() {
            // What was seen before a pause of the prober says nothing of who came in it.
            if self.probes[PROBES - 1].is_some_and(|last| at.since(last) > self.period * PAUSE) {
                self.probes = [None; PROBES];
            }
            self.probes.rotate_left(1);
            self.probes[PROBES - 1] = Some(at);
            self.first.get_or_insert(at);
        }
    }

    /// Somebody else answers for a VIP.
    pub fn foreign(&mut self, round: u64, at: Moment, vip: u32, mac: [u8; 6]) {
        if round == self.round && self.running.is_some() {
            self.probes = [None; PROBES];
            self.first = None;
            self.foreign = Some((at, vip, mac));
        }
    }

    pub fn answered(&mut self, sent: Moment) {
        if self.running.is_some_and(|begun| sent >= begun) {
            self.answered = self.answered.max(Some(sent));
        }
    }

    /// From when on a probe is without its answer; `None` if none went out since somebody answered last.
    pub fn unanswered_at(&self) -> Option<Moment> {
        self.running?;
        self.first.map(|first| first + self.settle())
    }

    /// When the wire counts as quiet, if nobody answers until then.
    pub fn quiet_at(&self) -> Option<Moment> {
        self.running.filter(|_| !self.patient)?;
        self.probes[0]?;
        // The first gap between probes need not be waited for again: only the newest may be underway.
        self.probes[PROBES - 1].map(|newest| newest + self.settle())
    }

    /// How long an answer may take. A kernel answers ARP in its receive path: well under a millisecond on
    /// a LAN; the period is the natural measure, but more than 10 ms of waiting buys nothing.
    fn settle(&self) -> Duration {
        self.period.min(Duration::from_millis(10))
    }

    /// Until when quiet may be believed: a prober that stopped says nothing about now.
    pub fn stale_at(&self) -> Option<Moment> {
        self.quiet_at().map(|at| at + self.period * PAUSE)
    }

    pub fn quiet(&self, now: Moment) -> bool {
        self.quiet_at().is_some_and(|at| now >= at) && self.stale_at().is_some_and(|at| now < at)
    }

    /// Who answered last in this round.
    pub fn foreign_holder(&self) -> Option<(Moment, u32, [u8; 6])> {
        self.foreign
    }

    pub fn arbitrator_answered(&self) -> Option<Moment> {
        self.answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Moment {
        Moment::from_nanos(1_000_000_000 + ms * 1_000_000)
    }
    const PERIOD: Duration = Duration::from_millis(3);

    #[test]
    fn three_unanswered_probes_and_time_for_the_third_make_quiet() {
        let mut e = Evidence::default();
        let round = e.begin(at(0), PERIOD);
        e.probed(round, at(0));
        e.probed(round, at(3));
        assert_eq!(e.quiet_at(), None);
        e.probed(round, at(6));
        assert_eq!(e.quiet_at(), Some(at(9)));
        assert!(!e.quiet(at(8)) && e.quiet(at(9)));
    }

    #[test]
    fn an_answer_starts_the_count_again() {
        let mut e = Evidence::default();
        let round = e.begin(at(0), PERIOD);
        for ms in [0, 3, 6] {
            e.probed(round, at(ms));
        }
        e.foreign(round, at(7), 0, [2; 6]);
        assert!(!e.quiet(at(100)));
        for ms in [9, 12, 15] {
            e.probed(round, at(ms));
        }
        assert!(e.quiet(at(18)));
        assert!(e.quiet(at(41)) && !e.quiet(at(42)), "a prober that stopped proves nothing");
    }

    #[test]
    fn answers_to_an_earlier_round_count_for_nothing() {
        let mut e = Evidence::default();
        let old = e.begin(at(0), PERIOD);
        let new = e.begin(at(10), PERIOD);
        for ms in [11, 12, 13] {
            e.probed(old, at(ms));
        }
        assert_eq!(e.quiet_at(), None);
        for ms in [11, 12, 13] {
            e.probed(new, at(ms));
        }
        e.foreign(old, at(14), 0, [2; 6]);
        assert!(e.quiet(at(16)));
        e.answered(at(9));
        assert_eq!(e.arbitrator_answered(), None);
    }

    #[test]
    fn what_slow_probes_saw_is_no_evidence_for_fast_ones() {
        let mut e = Evidence::default();
        let round = e.begin(at(0), PERIOD * 5);
        for ms in [0, 15, 30] {
            e.probed(round, at(ms));
        }
        assert!(e.quiet(at(50)));
        e.pace(PERIOD);
        assert!(!e.quiet(at(50)));
        for ms in [51, 54, 57] {
            e.probed(round, at(ms));
        }
        assert!(!e.quiet(at(59)) && e.quiet(at(60)));
    }

    #[test]
    fn a_probe_is_unanswered_until_somebody_answers_again() {
        let mut e = Evidence::default();
        let round = e.begin(at(0), PERIOD);
        assert_eq!(e.unanswered_at(), None);
        e.probed(round, at(0));
        e.foreign(round, at(1), 0, [2; 6]);
        assert_eq!(e.unanswered_at(), None);
        e.watch(PERIOD * 20);
        for ms in [60, 120, 180, 240] {
            e.probed(round, at(ms));
        }
        assert_eq!(e.unanswered_at(), Some(at(70)));
        assert!(!e.quiet(at(260)), "somebody may have come in between");
        e.foreign(round, at(262), 0, [2; 6]);
        assert_eq!(e.unanswered_at(), None);
    }

    #[test]
    fn a_prober_that_stood_still_begins_again() {
        let mut e = Evidence::default();
        let round = e.begin(at(0), PERIOD);
        e.probed(round, at(0));
        e.probed(round, at(3));
        e.probed(round, at(100));
        assert!(!e.quiet(at(104)));
        e.probed(round, at(103));
        e.probed(round, at(106));
        assert!(e.quiet(at(110)));
    }

    #[test]
    fn no_probes_no_quiet() {
        let mut e = Evidence::default();
        e.begin(at(0), PERIOD);
        assert!(!e.quiet(at(100_000)));
        e.end();
        assert!(!e.quiet(at(100_000)));
    }
}
