//! How much of what is kept outside the live tree stays kept.
//!
//! Trash: for 30 days, and no more than 1 GiB a set. Losers of conflicts: the newest 20 of each path, however old they are, until an
//! operator drops them. Source: RULES.md, a month of holidays.

use std::collections::BTreeMap;
use std::time::Duration;

const TRASH_LASTS: Duration = Duration::from_secs(30 * 24 * 3600);
const TRASH_BYTES: u64 = 1 << 30;
const CONFLICTS_PER_PATH: usize = 20;

/// One thing in the trash.
#[derive(Debug, Clone, Copy)]
pub struct Trashed {
    /// Seconds since 1970, the wall clock's.
    pub at_s: u64,
    pub size: u64,
}

/// Which of these go; they come oldest first.
pub fn stale_trash(all: &[Trashed], now_s: u64) -> Vec<usize> {
    // Sizes are what a file system says, of sparse files too: their sum may be more than 64 bits.
    let mut bytes: u128 = all.iter().map(|one| u128::from(one.size)).sum();
    let mut stale = vec![];
    for (n, one) in all.iter().enumerate() {
        if now_s.saturating_sub(one.at_s) > TRASH_LASTS.as_secs() || bytes > u128::from(TRASH_BYTES) {
            bytes -= u128::from(one.size);
            stale.push(n);
        }
    }
    stale
}

/// Which losers go, by their paths; they come oldest first.
pub fn stale_conflicts(paths: &[&[u8]]) -> Vec<usize> {
    let mut newer: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut stale = vec![];
    for (n, path) in paths.iter().enumerate().rev() {
        let count = newer.entry(path).or_default();
        if *count >= CONFLICTS_PER_PATH {
            stale.push(n);
        }
        *count += 1;
    }
    stale.reverse();
    stale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trash_goes_by_age_and_the_oldest_of_too_much() {
        const DAY: u64 = 24 * 3600;
        let now = 100 * DAY;
        let one = |days: u64, size: u64| Trashed { at_s: now - days * DAY, size };
        assert_eq!(stale_trash(&[one(31, 1), one(30, 1), one(0, 1)], now), [0]);
        let half = TRASH_BYTES / 2;
        assert_eq!(stale_trash(&[one(3, half), one(2, half), one(1, 1)], now), [0], "a byte too much");
        assert_eq!(stale_trash(&[one(3, half), one(2, half)], now), [0_usize; 0]);
        assert_eq!(stale_trash(&[one(0, u64::MAX), one(0, u64::MAX)], now), [0, 1], "sizes do not overflow");
        assert_eq!(
            stale_trash(&[Trashed { at_s: now + DAY, size: 1 }], now),
            [0_usize; 0],
            "a clock set back"
        );
    }

    #[test]
    fn of_one_path_the_newest_twenty_losers_stay() {
        let mut paths: Vec<&[u8]> = vec![b"p"; 25];
        paths.insert(3, b"other");
        assert_eq!(stale_conflicts(&paths), [0, 1, 2, 4, 5]);
        assert_eq!(stale_conflicts(&[b"p".as_slice(); 20]), [0_usize; 0]);
    }
}
