//! Deletions are believed late, and many of them only on an operator's word.
//!
//! ```text
//!   gone ──▶ pending ──(few, and quiet)──────────────────────────▶ believed
//!                    ──(many: quiet for longer) ── mass? ── no ──▶ believed
//!                                                       └── yes ─▶ held ── accept ──▶ believed
//! ```
//!
//! `rm -rf` deletes one path after the other: what is a mass deletion is seen only when it has come to rest, and what slipped
//! through just before counts too. A path that comes back is not deleted.
//!
//! Absent on purpose: whether the root is there at all (the tree says), what a deletion does (`merge`, `publish`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::publish::{DELETES_FREE, Held, held};
use crate::logic::time::Moment;

/// A few deletions are believed when nothing more went for this long; it costs the peer nothing but this delay.
const QUIET_FEW: Duration = Duration::from_millis(20);
/// Many: `rm -rf` of a large tree pauses between directories.
const QUIET_MANY: Duration = Duration::from_millis(300);
/// Deletions that never come to rest are judged after this long.
const RESTLESS: Duration = Duration::from_secs(5);
/// What was believed this long ago still counts for a mass deletion.
const REMEMBERED: Duration = Duration::from_secs(10);

/// What becomes of the pending deletions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Nothing,
    /// These are gone for good.
    Believe(Vec<Vec<u8>>),
    /// They wait for a word.
    Held(Held),
}

#[derive(Debug, Clone, Default)]
pub struct Guard {
    pending: BTreeSet<Vec<u8>>,
    first: Moment,
    last: Moment,
    /// What was lost lately, and when; what came back is not in it.
    believed: BTreeMap<Vec<u8>, Moment>,
    held: Option<Held>,
}

impl Guard {
    /// A path that was known is not there.
    pub fn gone(&mut self, now: Moment, path: Vec<u8>) {
        if self.pending.is_empty() {
            self.first = now;
        }
        if self.pending.insert(path) {
            self.last = now;
        }
    }

    /// It is there (again), or the peer's version came. True if it was pending.
    pub fn back(&mut self, path: &[u8]) -> bool {
        self.believed.remove(path);
        self.pending.remove(path)
    }

    pub fn is_pending(&self, path: &[u8]) -> bool {
        self.pending.contains(path)
    }

    pub fn len(&self) -> usize {
        self.pending.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// They wait for a word: how many of how many.
    pub fn held(&self) -> Option<Held> {
        self.held
    }

    /// When [`judge`](Self::judge) has something to say.
    pub fn due(&self) -> Option<Moment> {
        if self.pending.is_empty() {
            // All of what was held is back: that is to be said at once.
            return self.held.map(|_| Moment::ZERO);
        }
        // What is held is looked at again too: the files may come back.
        let quiet = if self.pending.len() <= DELETES_FREE { QUIET_FEW } else { QUIET_MANY };
        Some((self.last + quiet).min(self.first + RESTLESS).max(if self.held.is_some() {
            self.last + RESTLESS
        } else {
            Moment::ZERO
        }))
    }

    /// `known`: paths that are recorded as present, the pending ones among them. `moved`: how many of the pending ones have
    /// their content under another name, and so are no loss.
    pub fn judge(
        &mut self,
        now: Moment,
        known: usize,
        moved: impl FnOnce(&BTreeSet<Vec<u8>>) -> usize,
    ) -> Verdict {
        if self.pending.is_empty() {
            self.held = None;
            return Verdict::Nothing;
        }
        if self.held.is_none() && self.due().is_some_and(|at| now < at) {
            return Verdict::Nothing;
        }
        self.believed.retain(|_, at| now <= *at + REMEMBERED);
        let before = self.believed.len();
        let count =
            |lost: usize| held(before + lost, known + before, known.saturating_sub(self.pending.len()));
        // The look for moved contents costs a walk: only where it matters.
        let mut lost = self.pending.len();
        let verdict = count(lost).and_then(|_| {
            lost -= moved(&self.pending);
            count(lost)
        });
        self.held = verdict;
        match verdict {
            Some(held) => {
                // Looked at again after a while, not at once.
                self.last = now;
                Verdict::Held(held)
            }
            None => Verdict::Believe(self.believe(now, lost)),
        }
    }

    /// The operator means it.
    pub fn accept(&mut self, now: Moment) -> Vec<Vec<u8>> {
        self.held = None;
        let all = self.believe(now, 0);
        // Accepted once is no part of the next one.
        self.believed.clear();
        all
    }

    /// `lost` of them are lost: the others have only moved.
    fn believe(&mut self, now: Moment, lost: usize) -> Vec<Vec<u8>> {
        let all: Vec<Vec<u8>> = std::mem::take(&mut self.pending).into_iter().collect();
        self.believed.extend(all.iter().take(lost).map(|path| (path.clone(), now)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Moment {
        Moment::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    fn path(n: usize) -> Vec<u8> {
        n.to_string().into_bytes()
    }

    fn many(guard: &mut Guard, from: usize, count: usize, ms: u64) {
        (from..from + count).for_each(|n| guard.gone(at(ms), path(n)));
    }

    #[test]
    fn a_few_are_believed_when_it_is_quiet() {
        let mut guard = Guard::default();
        many(&mut guard, 0, 3, 0);
        assert_eq!(guard.judge(at(19), 100, |_| 0), Verdict::Nothing);
        assert_eq!(guard.due(), Some(at(20)));
        assert_eq!(guard.judge(at(20), 100, |_| 0), Verdict::Believe(vec![path(0), path(1), path(2)]));
        assert!(guard.is_empty());
    }

    #[test]
    fn many_are_held_until_somebody_says_so_or_they_come_back() {
        let mut guard = Guard::default();
        many(&mut guard, 0, 40, 0);
        assert_eq!(guard.judge(at(200), 100, |_| 0), Verdict::Nothing);
        assert_eq!(guard.judge(at(300), 100, |_| 0), Verdict::Held(Held::MassDeletion(40, 100)));
        assert_eq!(guard.held(), Some(Held::MassDeletion(40, 100)));
        assert_eq!(guard.due(), Some(at(300) + RESTLESS), "held, and asked again and again");
        (0..30).for_each(|n| assert!(guard.back(&path(n))));
        assert!(matches!(guard.judge(at(6_000), 100, |_| 0), Verdict::Believe(all) if all.len() == 10));
        many(&mut guard, 0, 40, 60_000);
        assert!(matches!(guard.judge(at(60_300), 100, |_| 0), Verdict::Held(_)));
        assert_eq!(guard.accept(at(61_000)).len(), 40);
        assert_eq!(guard.held(), None);
    }

    #[test]
    fn what_is_held_and_comes_back_is_held_no_more() {
        let mut guard = Guard::default();
        many(&mut guard, 0, 40, 0);
        assert!(matches!(guard.judge(at(300), 100, |_| 0), Verdict::Held(_)));
        (0..40).for_each(|n| assert!(guard.back(&path(n))));
        assert!(guard.due().is_some_and(|due| due <= at(301)));
        assert_eq!(guard.judge(at(301), 100, |_| 0), Verdict::Nothing);
        assert_eq!((guard.held(), guard.due()), (None, None));
    }

    /// A generator that deletes and writes anew.
    #[test]
    fn what_came_back_after_it_was_believed_is_not_counted() {
        let mut guard = Guard::default();
        for round in 0..10 {
            many(&mut guard, 0, 10, round * 100);
            assert!(matches!(guard.judge(at(round * 100 + 20), 30, |_| 0), Verdict::Believe(_)), "{round}");
            (0..10).for_each(|n| assert!(!guard.back(&path(n))));
        }
    }

    #[test]
    fn what_slipped_through_before_counts_too() {
        let mut guard = Guard::default();
        many(&mut guard, 0, 20, 0);
        assert!(matches!(guard.judge(at(20), 60, |_| 0), Verdict::Believe(_)));
        many(&mut guard, 20, 1, 100);
        assert_eq!(guard.judge(at(120), 40, |_| 0), Verdict::Held(Held::MassDeletion(21, 60)));
        // Long after, it is one deletion like any other.
        assert!(matches!(guard.judge(at(60_000), 40, |_| 0), Verdict::Believe(all) if all.len() == 1));
    }

    #[test]
    fn a_moved_tree_is_no_mass_deletion() {
        let mut guard = Guard::default();
        many(&mut guard, 0, 500, 0);
        assert!(
            matches!(guard.judge(at(300), 1_000, |all| all.len()), Verdict::Believe(all) if all.len() == 500)
        );
    }

    #[test]
    fn deletions_without_rest_are_judged_all_the_same() {
        let mut guard = Guard::default();
        for n in 0..100 {
            guard.gone(at(n as u64 * 100), path(n));
            if n < 50 {
                assert_eq!(guard.judge(at(n as u64 * 100 + 1), 10_000, |_| 0), Verdict::Nothing, "{n}");
            }
        }
        assert!(matches!(guard.judge(at(10_000), 10_000, |_| 0), Verdict::Believe(_)));
    }
}
