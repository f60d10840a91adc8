//! Version vectors for two nodes.
//!
//! A counter never falls behind the wall clock of the change it counts: so a node whose database was lost goes on above
//! what it counted before, and what it changes then is not taken for something long seen.

use serde::{Deserialize, Serialize};

/// One of the two nodes: the smaller name is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Side {
    First,
    Second,
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// How two versions stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Same,
    /// The left one has seen the right one, and more.
    Newer,
    Older,
    /// Neither has seen the other.
    Apart,
}

/// Up to which change of each node a record has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct Version {
    first: u64,
    second: u64,
}

impl Version {
    /// After one more change on this node, at `now_ns` of its wall clock.
    #[must_use]
    pub fn bumped(self, side: Side, now_ns: i64) -> Self {
        let next = |count: u64| (count + 1).max(u64::try_from(now_ns).unwrap_or(0));
        match side {
            Side::First => Self { first: next(self.first), ..self },
            Side::Second => Self { second: next(self.second), ..self },
        }
    }

    /// What has seen both.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self { first: self.first.max(other.first), second: self.second.max(other.second) }
    }

    pub fn standing(self, other: Self) -> Standing {
        match (self == other, self.joined(other) == self, self.joined(other) == other) {
            (true, ..) => Standing::Same,
            (_, true, _) => Standing::Newer,
            (_, _, true) => Standing::Older,
            _ => Standing::Apart,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Side::{First, Second};

    #[test]
    fn who_has_seen_whom() {
        let none = Version::default();
        let (a, b) = (none.bumped(First, 0), none.bumped(Second, 0));
        for (left, right, standing) in [
            (none, none, Standing::Same),
            (a, none, Standing::Newer),
            (none, b, Standing::Older),
            (a, b, Standing::Apart),
            (a.joined(b), b, Standing::Newer),
            (a.bumped(First, 0), a.joined(b), Standing::Apart),
            (a.joined(b).bumped(Second, 0), a.joined(b), Standing::Newer),
        ] {
            assert_eq!(left.standing(right), standing, "{left:?} {right:?}");
            let back = match standing {
                Standing::Newer => Standing::Older,
                Standing::Older => Standing::Newer,
                same => same,
            };
            assert_eq!(right.standing(left), back);
        }
    }

    #[test]
    fn a_counter_goes_on_above_the_clock_and_never_back() {
        let before = Version::default().bumped(First, 500).bumped(First, 400);
        assert_eq!(before, Version { first: 501, second: 0 });
        // The database was lost; the clock has gone on.
        assert_eq!(Version::default().bumped(First, 900).standing(before), Standing::Newer);
    }
}
