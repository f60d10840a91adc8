//! Which VIPs are announced when, and how fast.
//!
//! First round at once, further rounds later: a frame can be lost, and a switch may learn a moment after the
//! port changed. Paced, because switches police ARP and a full queue loses frames silently; a frame that could not go
//! out is due again. Never in the way: the caller takes a batch a turn.

use std::collections::VecDeque;
use std::time::Duration;

use super::time::Moment;

/// When the rounds begin, after the first. RFC 5227 §2.3 asks for two announcements two seconds apart; the early
/// ones are for equipment that drops frames while it learns.
const ROUNDS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_millis(1_000),
    Duration::from_millis(3_000),
];
/// Rounds closer than this are one.
const TOGETHER: Duration = Duration::from_millis(2);
/// VIPs per batch and the time between batches: 1,000 in 10 ms were taken without loss by a veth; a hundred
/// thousand a second is what a switch's control plane will not see as an attack for one burst.
const BATCH: usize = 1_000;
const BETWEEN: Duration = Duration::from_millis(10);

/// The planner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announcer {
    /// (when its next batch is due, VIPs still to come).
    rounds: VecDeque<(Moment, VecDeque<u32>)>,
}

impl Announcer {
    /// These VIPs from the first round on.
    pub fn begin(&mut self, now: Moment, vips: impl Iterator<Item = u32> + Clone) {
        if vips.clone().next().is_none() {
            return;
        }
        for after in ROUNDS {
            let due = now + after;
            let place = self.rounds.partition_point(|(at, _)| *at <= due);
            match place.checked_sub(1).and_then(|before| self.rounds.get_mut(before)) {
                // VIPs that come up one after the other share a round.
                Some((at, round)) if due.since(*at) < TOGETHER => round.extend(vips.clone()),
                _ => self.rounds.insert(place, (due, vips.clone().collect())),
            }
        }
    }

    /// Nothing more is announced.
    pub fn end(&mut self) {
        self.rounds.clear();
    }

    /// A VIP that left is not announced any more.
    pub fn forget(&mut self, vip: u32) {
        for (_, round) in &mut self.rounds {
            round.retain(|v| *v != vip);
        }
        self.rounds.retain(|(_, round)| !round.is_empty());
    }

    pub fn next_due(&self) -> Option<Moment> {
        self.rounds.front().map(|(due, _)| *due)
    }

    /// The VIPs to announce now. What `again` gets back could not go out.
    pub fn take(&mut self, now: Moment) -> Vec<u32> {
        let Some((due, round)) = self.rounds.front_mut() else { return vec![] };
        if *due > now {
            return vec![];
        }
        let batch: Vec<u32> = round.drain(..BATCH.min(round.len())).collect();
        *due = now + BETWEEN;
        if round.is_empty() {
            self.rounds.pop_front();
        }
        self.rounds.make_contiguous().sort_by_key(|(due, _)| *due);
        batch
    }

    /// The interface could not take these.
    pub fn again(&mut self, now: Moment, vips: Vec<u32>) {
        if !vips.is_empty() {
            let due = now + BETWEEN;
            let place = self.rounds.partition_point(|(at, _)| *at <= due);
            self.rounds.insert(place, (due, vips.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn two_vips_are_announced_five_times_over_three_seconds() {
        let mut a = Announcer::default();
        a.begin(at(0), 0..2);
        let mut when = vec![];
        while let Some(due) = a.next_due() {
            assert_eq!(a.take(due), [0, 1]);
            when.push(due);
        }
        assert_eq!(when, [at(0), at(50), at(250), at(1000), at(3000)]);
    }

    #[test]
    fn ten_thousand_are_paced() {
        let mut a = Announcer::default();
        a.begin(at(0), 0..10_000);
        assert_eq!(a.take(at(0)).len(), 1000);
        assert_eq!(a.take(at(0)).len(), 0);
        assert_eq!(a.next_due(), Some(at(10)));
        assert_eq!(a.take(at(10)).len(), 1000);
    }

    #[test]
    fn what_could_not_go_out_goes_out_later_and_what_left_does_not() {
        let mut a = Announcer::default();
        a.begin(at(0), 0..2);
        let batch = a.take(at(0));
        a.again(at(0), batch);
        assert_eq!(a.take(at(10)), [0, 1]);
        a.forget(0);
        // Neither the round that was due before it was held back by it.
        assert_eq!(a.next_due(), Some(at(50)));
        assert_eq!(a.take(at(50)), [1]);
        a.again(at(245), vec![1]);
        assert_eq!(a.next_due(), Some(at(250)));
        a.end();
        assert_eq!(a.next_due(), None);
    }
}
