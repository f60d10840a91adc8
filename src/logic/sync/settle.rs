//! When a path that changed is looked at: at once if it was quiet, later if it goes on changing, never in the middle of a
//! write that is still going on.
//!
//! ```text
//!   event ──▶ waits ──(due)──▶ taken ── recent, for 500 ms: changing again then is no quiet path
//! ```
//!
//! | what was seen last | looked at after |
//! |---|---|
//! | whole: closed, moved here, attributes | 1 ms; 30 ms if it changed within the last 500 ms too |
//! | open: written to or made, not closed | 2 s after the first of it; at once when it is closed |
//! | found in a directory that came as a whole | 30 ms: nobody tells whether it is still written to |
//! | gone | 30 ms: editors move a file away before they write it anew |
//!
//! A path that was whole once waits no longer than 500 ms from then on, whatever goes on with it.
//!
//! Bounded by the number of paths, not of events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::logic::time::Moment;

/// The events of one edit come in a burst.
const QUIET: Duration = Duration::from_millis(1);
const BUSY: Duration = Duration::from_millis(30);
/// After its first write since the last look, a file that nobody closed: a log is never closed, and is not to wait for ever.
const OPEN: Duration = Duration::from_secs(2);
/// From the moment it was whole.
const HELD_MAX: Duration = Duration::from_millis(500);
/// Changing again within this is changing all the time.
const RECENT: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// As its writer wanted it: closed, moved here, made without being written to.
    Whole,
    /// Its attributes: what is open stays open.
    Attributes,
    /// Written to, or made to be written to.
    Open,
    /// In a directory that was not watched until now.
    Found,
    Gone,
    /// Somebody wants it looked at now.
    Asked,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    what: Event,
    last: Moment,
    /// When it was open for the first time.
    open: Option<Moment>,
    /// When it was not open for the first time.
    whole: Option<Moment>,
    busy: bool,
    due: Moment,
}

impl Wait {
    fn saw(&mut self, event: Event, now: Moment) {
        self.last = now;
        if event != Event::Attributes || self.what != Event::Open {
            self.what = if event == Event::Attributes { Event::Whole } else { event };
        }
        if self.what != Event::Open {
            self.whole.get_or_insert(now);
        }
        let settled = match self.what {
            Event::Asked => now,
            Event::Open => *self.open.get_or_insert(now) + OPEN,
            Event::Whole | Event::Attributes if !self.busy => now + QUIET,
            Event::Whole | Event::Attributes | Event::Found | Event::Gone => now + BUSY,
        };
        self.due = self.whole.map_or(settled, |whole| settled.min(whole + HELD_MAX));
    }
}

/// The paths of a set that changed and were not looked at since.
#[derive(Debug, Clone, Default)]
pub struct Settle {
    waits: BTreeMap<Arc<[u8]>, Wait>,
    order: BTreeSet<(Moment, Arc<[u8]>)>,
    /// When those that were taken had changed last.
    recent: BTreeMap<Arc<[u8]>, Moment>,
    fading: VecDeque<(Moment, Arc<[u8]>)>,
}

impl Settle {
    pub fn saw(&mut self, path: &[u8], event: Event, now: Moment) {
        let old = self.waits.get_key_value(path).map(|(path, wait)| (Arc::clone(path), *wait));
        let (path, mut wait) = match old {
            Some((path, wait)) => {
                self.order.remove(&(wait.due, Arc::clone(&path)));
                (path, wait)
            }
            None => {
                let busy = self.recent.get(path).is_some_and(|last| now.since(*last) < RECENT);
                (path.into(), Wait { what: event, last: now, open: None, whole: None, busy, due: now })
            }
        };
        wait.saw(event, now);
        self.order.insert((wait.due, Arc::clone(&path)));
        self.waits.insert(path, wait);
    }

    /// It could not be looked at: it was written to in that moment. What was seen since then counts more.
    pub fn again(&mut self, path: &[u8], now: Moment) {
        if !self.waits.contains_key(path) {
            self.saw(path, Event::Found, now);
        }
    }

    /// What was taken was no change, but our own: the next one is that of a quiet path.
    pub fn was_echo(&mut self, path: &[u8]) {
        self.recent.remove(path);
    }

    /// At most `max` paths that are due, the longest due first.
    pub fn take(&mut self, now: Moment, max: usize) -> Vec<Vec<u8>> {
        while self.fading.front().is_some_and(|(last, _)| now.since(*last) >= RECENT) {
            if let Some((last, path)) = self.fading.pop_front()
                && self.recent.get(&path) == Some(&last)
            {
                self.recent.remove(&path);
            }
        }
        let mut taken = vec![];
        while taken.len() < max
            && self.order.first().is_some_and(|(due, _)| *due <= now)
            && let Some((_, path)) = self.order.pop_first()
        {
            if let Some(wait) = self.waits.remove(&path) {
                self.recent.insert(Arc::clone(&path), wait.last);
                self.fading.push_back((wait.last, Arc::clone(&path)));
            }
            taken.push(path.to_vec());
        }
        taken
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Moment> {
        self.order.first().map(|(due, _)| *due)
    }

    pub fn len(&self) -> usize {
        self.waits.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Everything will be looked at: nothing needs to be remembered.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::Event::*;
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::ZERO + Duration::from_millis(ms)
    }

    /// Events of one path at their milliseconds, and when it is taken by whoever takes what is due.
    #[track_caller]
    fn check(events: &[(u64, Event)], taken: &[u64]) {
        let mut settle = Settle::default();
        let mut events = events.iter().peekable();
        let mut times = vec![];
        for ms in 0..20_000 {
            while let Some((_, event)) = events.next_if(|(time, _)| *time == ms) {
                settle.saw(b"p", *event, at(ms));
            }
            let due = settle.next();
            for _ in settle.take(at(ms), 10) {
                assert!(due.is_some_and(|due| due <= at(ms)), "taken before it was due");
                times.push(ms);
            }
        }
        assert_eq!(times, taken);
        assert!(settle.is_empty() && settle.next().is_none());
        assert!(settle.recent.is_empty() && settle.fading.len() <= 1, "remembered for ever");
    }

    #[test]
    fn a_quiet_path_is_looked_at_at_once() {
        check(&[(5, Whole)], &[6]);
        check(&[(5, Attributes)], &[6]);
        // One edit is a burst.
        check(&[(5, Open), (5, Open), (5, Whole), (5, Attributes)], &[6]);
        // Two edits with rest in between.
        check(&[(5, Whole), (600, Whole)], &[6, 601]);
    }

    #[test]
    fn a_path_that_goes_on_changing_settles_first() {
        check(&[(0, Whole), (100, Whole), (120, Whole)], &[1, 150]);
        check(&[(0, Whole), (100, Whole), (200, Whole), (300, Whole)], &[1, 130, 230, 330]);
        // Without rest, and closed each time: not longer than half a second.
        let every: Vec<_> = (0..150).map(|n| (n * 10, Whole)).collect();
        check(&every, &[1, 510, 1_020, 1_520]);
    }

    #[test]
    fn what_is_open_waits_until_it_is_closed_or_rests() {
        check(&[(0, Open), (100, Open), (1_500, Open)], &[2_000]);
        // A log: seen every two seconds.
        let every: Vec<_> = (0..50).map(|n| (n * 100, Open)).collect();
        check(&every, &[2_000, 4_100, 6_200]);
        check(&[(0, Open), (1_000, Open), (1_200, Whole)], &[1_201]);
        check(&[(0, Open), (10, Attributes), (1_200, Whole)], &[1_201]);
        // Written to again after it was closed: half a second after the close.
        check(&[(0, Open), (1_000, Whole), (1_000, Open), (1_400, Open)], &[1_500]);
    }

    #[test]
    fn what_is_gone_may_come_back() {
        check(&[(0, Gone)], &[30]);
        // An editor that keeps a copy of the old file.
        check(&[(0, Gone), (3, Open), (9, Whole)], &[10]);
        check(&[(0, Found), (20, Open), (40, Whole)], &[41]);
        check(&[(0, Found)], &[30]);
        check(&[(0, Whole), (0, Gone)], &[30]);
    }

    #[test]
    fn who_asks_is_not_kept_waiting_and_an_echo_is_no_change() {
        check(&[(5, Open), (6, Asked)], &[6]);
        let mut settle = Settle::default();
        settle.saw(b"p", Whole, at(0));
        assert_eq!(settle.take(at(1), 10), [b"p".to_vec()]);
        settle.was_echo(b"p");
        settle.saw(b"p", Whole, at(50));
        assert_eq!(settle.next(), Some(at(51)));
        // Looked at in the middle of a write, it comes again; but what was seen since then is not made later or earlier.
        settle.take(at(51), 10);
        settle.again(b"p", at(60));
        assert_eq!(settle.next(), Some(at(90)));
        settle.again(b"p", at(80));
        assert_eq!(settle.next(), Some(at(90)));
    }

    #[test]
    fn many_are_taken_in_their_turn() {
        let mut settle = Settle::default();
        for n in (0..100).rev() {
            settle.saw(format!("{n:03}").as_bytes(), Whole, at(n));
        }
        settle.saw(b"open", Open, at(0));
        assert_eq!(settle.len(), 101);
        assert_eq!(settle.take(at(200), 3), [b"000".to_vec(), b"001".to_vec(), b"002".to_vec()]);
        assert_eq!(settle.take(at(90), 1_000).len(), 87);
        assert_eq!(settle.next(), Some(at(91)));
        settle.clear();
        assert!(settle.is_empty() && settle.next().is_none());
    }
}
