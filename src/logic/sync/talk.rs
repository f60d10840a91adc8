//! The words between two dre-sync, and which of them are believed.
//!
//! The node that *takes* connects; the one that *gives* answers. Each node does both, on connections of their own, so a set
//! has one cursor a direction and no word needs an order among the two.
//!
//! ```text
//!   taker ── Hello { sets, cursors } ──▶ giver
//!         ◀── Welcome { sets } ─────────
//!         ◀── Changes { set, entries, upto } ── … whenever something changed
//!         ── Taken { set, upto } ──────▶        durable on the taker's disk
//!         ── Verdict { set, … } ───────▶        why not, for the giver's status
//!         ── Look { set, paths } ──────▶        what came is not what was said: it changed since
//! ```
//!
//! Silence is the rule: without a change nothing is said (the kernel's keepalive tells whether the other is there).

use serde::{Deserialize, Serialize};

use super::record::{Content, Record};

/// Rises when a word changes its meaning; both sides must have the same.
pub const VERSION: u16 = 1;
/// Longest word, bytes: [`ENTRIES_MAX`] records of the usual size fit many times over.
pub const WORD_MAX: usize = 16 << 20;
/// Most records in one [`Give::Changes`].
pub const ENTRIES_MAX: usize = 20_000;
/// Most paths in one [`Take::Look`].
pub const LOOKS_MAX: usize = 1_000;
/// PATH_MAX of linux/limits.h, less the root's.
const PATH_MAX: usize = 3_800;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u16,
    pub node: String,
    /// This node's wall clock, for the skew alarm and for how closely times are believed.
    pub wall_ns: i64,
    pub sets: Vec<Cursor>,
}

/// Where the taker is with one set of the giver's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    pub set: String,
    /// Of the set's settings: differing ones are not synchronised, and that is said.
    pub digest: [u8; 32],
    /// The giver's database with which everything was compared once.
    pub joined: Option<u64>,
    /// The giver's change up to which it was taken in.
    pub taken: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Take {
    Hello(Hello),
    Taken {
        set: String,
        upto: u64,
    },
    Verdict {
        set: String,
        verdict: Verdict,
    },
    /// What was fetched of these is not what the giver said they are: they are written to, and it is to look at them now
    /// instead of when they are quiet. At most [`LOOKS_MAX`], of those that it gave.
    Look {
        set: String,
        paths: Vec<Vec<u8>>,
    },
    /// The connection becomes a pipe to rsync: the giver's `rsync --daemon` for this one connection.
    Pipe,
}

/// How the taker fares with what it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Fine,
    /// `validate` refused the batch: its first lines.
    Rejected(String),
    /// Not now (disk full, permission): what the kernel said.
    Blocked(String),
    /// A mass deletion waits for an operator's word there.
    Held(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Give {
    Welcome {
        version: u16,
        node: String,
        wall_ns: i64,
        sets: Vec<Offer>,
    },
    Changes {
        set: String,
        /// The database they come from: a cursor of another one counts for nothing.
        id: u64,
        /// The giver's wall clock, so that a clock that was set meanwhile is noticed.
        wall_ns: i64,
        /// In the order of their sequence numbers.
        entries: Vec<Given>,
        /// Everything up to here has been given.
        upto: u64,
        /// More follow at once: do not take this for the end of a whole comparison.
        more: bool,
    },
    /// Said instead of a welcome or later: why nothing can be given.
    Refused {
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub set: String,
    pub digest: [u8; 32],
    /// The store's; 0 while the set cannot be used, see [`Self::out_of_use`].
    pub id: u64,
    /// Newest change.
    pub last: u64,
}

impl Offer {
    /// Of a set that is configured and cannot be worked on now: nothing comes of it until the next conversation.
    pub fn out_of_use(set: &str, digest: [u8; 32]) -> Self {
        Self { set: set.to_owned(), digest, id: 0, last: 0 }
    }

    pub fn is_out_of_use(&self) -> bool {
        self.id == 0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    pub sequence: u64,
    pub path: Vec<u8>,
    pub record: Record,
}

/// Whether a path from outside may be touched below a root: relative, plain names only, nothing of dre's own.
pub fn path_is_sound(path: &[u8]) -> bool {
    !path.is_empty()
        && path.len() <= PATH_MAX
        && !path.contains(&0)
        && path.split(|byte| *byte == b'/').all(|name| {
            !name.is_empty()
                && name != b"."
                && name != b".."
                && name.len() <= 255
                && !name.starts_with(b".dre-")
        })
}

impl Given {
    /// Checked before anything of it is believed.
    pub fn is_sound(&self) -> bool {
        let link = match self.record.entry().map(|entry| &entry.content) {
            Some(Content::Link { target }) => {
                !target.is_empty() && target.len() <= 4_095 && !target.contains(&0)
            }
            _ => true,
        };
        let names = self.record.entry().is_none_or(|e| {
            e.owner.len() <= 256
                && e.group.len() <= 256
                && e.mode & !0o7777 == 0
                && e.xattrs.len() <= 64
                && e.xattrs
                    .iter()
                    .all(|(name, value)| name.len() <= 255 && value.len() <= 65_536 && !name.contains(&0))
        });
        path_is_sound(&self.path) && link && names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_touched() {
        for sound in ["a", "a/b", ".hidden", "a b/\n", "..a/b.."] {
            assert!(path_is_sound(sound.as_bytes()), "{sound:?}");
        }
        for bad in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b", ".dre-stage/x", "a/.dre-x"] {
            assert!(!path_is_sound(bad.as_bytes()), "{bad:?}");
        }
        assert!(path_is_sound(b"\xff\xfe"), "names are bytes");
        assert!(!path_is_sound(&[b'a'; 256]));
    }
}
