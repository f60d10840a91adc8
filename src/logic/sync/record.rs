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
        }
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
