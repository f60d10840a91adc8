//! In which order a batch becomes visible, and which batch does not without an operator's word.

use super::record::{Content, Record};

/// A batch that deletes more than this many files *and* more than this share of the set is held.
pub const DELETES_FREE: usize = 20;
const DELETES_PERCENT: usize = 30;

/// What a batch does to one path; paths are bytes, as the kernel has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub path: Vec<u8>,
    pub record: Record,
}

impl Step {
    fn depth(&self) -> usize {
        self.path.iter().filter(|byte| **byte == b'/').count()
    }

    /// Directories from the top, then what lies in them, then deletions from the bottom: nothing is published into a directory
    /// that is not there, none is deleted that is not empty, and a file that was renamed is there twice for a moment, never
    /// not at all.
    fn turn(&self) -> (u8, isize) {
        let depth = isize::try_from(self.depth()).unwrap_or(isize::MAX);
        match self.record.entry().map(|entry| &entry.content) {
            Some(Content::Directory) => (0, depth),
            Some(Content::File { .. } | Content::Link { .. }) => (1, depth),
            None => (2, -depth),
        }
    }
}

/// The batch in the order in which it is published.
pub fn ordered(mut steps: Vec<Step>) -> Vec<Step> {
    steps.sort_by(|a, b| a.turn().cmp(&b.turn()).then_with(|| a.path.cmp(&b.path)));
    steps
}

/// Why a batch waits for `accept-deletes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// (deleted, of so many).
    MassDeletion(usize, usize),
    /// The set's root has nothing in it, and had: unmounted, or emptied by mistake.
    RootEmptied(usize),
}

/// Whether a look at the disk that found `deleted` of `known` paths gone, and `there` still there, is believed.
pub fn held(deleted: usize, known: usize, there: usize) -> Option<Held> {
    // What was only moved is no loss, but then something is still there.
    if there == 0 && known > 1 && deleted > 0 {
        return Some(Held::RootEmptied(known));
    }
    let many = deleted > DELETES_FREE && deleted * 100 > known * DELETES_PERCENT;
    many.then_some(Held::MassDeletion(deleted, known))
}

#[cfg(test)]
mod tests {
    use super::super::record::{Entry, State};
    use super::super::version::Version;
    use super::*;

    fn step(path: &str, content: Option<Content>) -> Step {
        let present = |content| Entry {
            content,
            mode: 0o644,
            owner: String::new(),
            group: String::new(),
            mtime_ns: 0,
            xattrs: vec![],
        };
        let state = content.map_or(State::Deleted { at_ns: 0 }, |content| State::Present(present(content)));
        Step { path: path.into(), record: Record { version: Version::default(), state } }
    }

    #[test]
    fn directories_first_then_files_then_deletions_from_the_bottom() {
        let file = || Some(Content::File { size: 0, hash: [0; 32] });
        let directory = || Some(Content::Directory);
        let batch = vec![
            step("old", None),
            step("new/deep/rule", file()),
            step("old/rule", None),
            step("new/deep", directory()),
            step("a", file()),
            step("new", directory()),
        ];
        let order: Vec<_> =
            ordered(batch).into_iter().map(|s| String::from_utf8_lossy(&s.path).into_owned()).collect();
        assert_eq!(order, ["new", "new/deep", "a", "new/deep/rule", "old/rule", "old"]);
    }

    #[test]
    fn a_mass_deletion_and_an_emptied_root_wait_for_a_word() {
        for (deleted, known, there, expected) in [
            (1, 100, 99, None),
            (20, 25, 5, None),
            (21, 25, 4, Some(Held::MassDeletion(21, 25))),
            (30, 100, 70, None),
            (31, 100, 69, Some(Held::MassDeletion(31, 100))),
            (3, 3, 0, Some(Held::RootEmptied(3))),
            // The last file of a set of one is a deletion like any other.
            (1, 1, 0, None),
            (0, 0, 0, None),
        ] {
            assert_eq!(held(deleted, known, there), expected, "{deleted} of {known}");
        }
    }
}
