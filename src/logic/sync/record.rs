//! What is known of a path, and what a look at the disk does to it.

use serde::{Deserialize, Serialize};

use super::version::{Side, Version};

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Content {
    File {
        size: u64,
        /// BLAKE3.
        hash: [u8; 32],
    },
    /// Replicated as a link, never followed.
    Link {
        target: Vec<u8>,
    },
    Directory,
}

/// A path that is there. Owners by name, where they have one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    pub content: Content,
    pub mode: u32,
    pub owner: String,
    pub group: String,
    /// Since 1970. Directories: 0, their time says when their content changed and is nobody's edit.
    pub mtime_ns: i64,
    /// Extended attributes, ACLs among them (`system.posix_acl_access`), by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    Present(Entry),
    /// A tombstone, with the wall clock's time of the look that missed it.
    Deleted {
        at_ns: i64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    pub version: Version,
    pub state: State,
}

impl Record {
    pub fn entry(&self) -> Option<&Entry> {
        match &self.state {
            State::Present(entry) => Some(entry),
            State::Deleted { .. } => None,
        }
    }
}

/// What lstat(2) showed when a record was made: while it shows the same, the content is not read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stat {
    pub size: u64,
    pub mtime_ns: i64,
    /// Moves with every change, whatever a program sets the other time to: what tells apart two edits of one size in one
    /// second. 0: so young that another change could show the same; whoever looks again reads the content again.
    pub ctime_ns: i64,
    pub device: u64,
    pub inode: u64,
    /// With the kind of file.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Above one, an edit under another name changes this path without an event of its own.
    pub names: u64,
}

impl Stat {
    /// Whether the content need not be read again when this is known and `now` is there. Another name of the same file
    /// is no change by itself.
    pub fn shows_the_same(&self, now: &Self) -> bool {
        self.ctime_ns != 0 && Self { names: self.names, ..*now } == *self
    }

    /// Too young to be believed: [`Self::ctime_ns`].
    pub fn is_young(&self) -> bool {
        self.ctime_ns == 0
    }
}

/// A path in the store of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub record: Record,
    /// Number of the change in this node's history: the peer has everything up to the one it acknowledged.
    pub sequence: u64,
    /// `None`: deleted, or nothing is known of the disk (looked at again at the next chance).
    pub stat: Option<Stat>,
}

/// A look at a path on this node: the new record if what is there is not what was known. A path that is not there
/// and was never known is nothing: absence in a database is never a deletion.
pub fn look(known: Option<&Record>, there: Option<&Entry>, side: Side, now_ns: i64) -> Option<Record> {
    let state = match (known.map(|r| &r.state), there) {
        (None | Some(State::Deleted { .. }), None) => return None,
        (Some(State::Present(old)), Some(new)) if old == new => return None,
        (_, Some(new)) => State::Present(new.clone()),
        (Some(State::Present(_)), None) => State::Deleted { at_ns: now_ns },
    };
    let version = known.map(|r| r.version).unwrap_or_default().bumped(side, now_ns);
    Some(Record { version, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(hash: u8) -> Entry {
        Entry {
            content: Content::File { size: 1, hash: [hash; 32] },
            mode: 0o644,
            owner: "dre".into(),
            group: "dre".into(),
            mtime_ns: 1_000,
            xattrs: vec![],
        }
    }

    #[test]
    fn a_stat_that_is_young_shows_nothing() {
        let stat = Stat {
            size: 1,
            mtime_ns: 2,
            ctime_ns: 3,
            device: 4,
            inode: 5,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            names: 1,
        };
        assert!(stat.shows_the_same(&stat) && stat.shows_the_same(&Stat { names: 2, ..stat }));
        assert!(!stat.shows_the_same(&Stat { ctime_ns: 9, ..stat }), "a write that kept the other time");
        let young = Stat { ctime_ns: 0, ..stat };
        assert!(young.is_young() && !young.shows_the_same(&young) && !young.shows_the_same(&stat));
    }

    #[test]
    fn a_look_makes_a_change_only_of_a_difference() {
        let side = Side::First;
        assert_eq!(look(None, None, side, 5), None);
        let made = look(None, Some(&file(1)), side, 5).expect("a new file");
        assert_eq!(made.version, Version::default().bumped(side, 5));
        assert_eq!(look(Some(&made), Some(&file(1)), side, 6), None);
        let other_mode = Entry { mode: 0o600, ..file(1) };
        assert!(look(Some(&made), Some(&other_mode), side, 6).is_some(), "a mode is a change");
        let gone = look(Some(&made), None, side, 7).expect("a deletion");
        assert_eq!(gone.state, State::Deleted { at_ns: 7 });
        assert_eq!(look(Some(&gone), None, side, 8), None);
        let back = look(Some(&gone), Some(&file(1)), side, 9).expect("it is back");
        assert_eq!(back.version, made.version.bumped(side, 7).bumped(side, 9));
    }
}
