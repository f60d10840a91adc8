//! What a node does with a batch that the peer gave: which contents it must fetch, what is kept aside, what becomes visible,
//! which records change.

use super::merge::{Merge, Terms, merge};
use super::publish::{Step, ordered};
use super::record::{Content, Entry, Record};
use super::talk::Given;

/// One path's part of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    pub step: Step,
    /// What is on the disk here loses, unseen by the winner: kept aside first.
    pub keep_ours: bool,
    /// The content must come from the peer; else only owner, mode, times differ, or there is none.
    pub fetch: bool,
}

/// A batch, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Records that change without anything on the disk.
    pub notes: Vec<Step>,
    /// The peer's version loses: fetched and kept aside, then the record says that it was seen.
    pub losers: Vec<(Given, Record)>,
    /// In the order of publishing.
    pub moves: Vec<Move>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.losers.is_empty() && self.moves.is_empty()
    }

    /// Contents to fetch, by path.
    pub fn fetches(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        let moved = self
            .moves
            .iter()
            .filter(|m| m.fetch)
            .filter_map(|m| m.step.record.entry().map(|entry| (m.step.path.as_slice(), entry)));
        let lost = self
            .losers
            .iter()
            .filter_map(|(given, _)| given.record.entry().map(|entry| (given.path.as_slice(), entry)))
            .filter(|(_, entry)| matches!(entry.content, Content::File { .. }));
        moved.chain(lost)
    }
}

/// Takes a batch apart. `ours`: what is known of a path after a look at the disk.
pub fn plan(batch: &[Given], ours: impl Fn(&[u8]) -> Option<Record>, terms: Terms) -> Plan {
    let mut plan = Plan::default();
    let mut moves = vec![];
    for given in batch {
        let known = ours(&given.path);
        let mut take = |record: Record, keep_ours: bool| {
            let fetch = needs_content(known.as_ref().and_then(Record::entry), record.entry());
            moves.push((Step { path: given.path.clone(), record }, keep_ours, fetch));
        };
        match merge(known.as_ref(), &given.record, terms) {
            Merge::Nothing => {}
            Merge::Note(record) | Merge::Keep(record) => {
                plan.notes.push(Step { path: given.path.clone(), record });
            }
            Merge::Take(record)
                if record.entry().is_none() && known.as_ref().and_then(Record::entry).is_none() =>
            {
                // A tombstone of something that was never here, or is gone here too.
                plan.notes.push(Step { path: given.path.clone(), record });
            }
            Merge::Take(record) => take(record, false),
            // A directory's loss is no content: nothing to keep but its name.
            Merge::TakeKeeping(record) => {
                let directory = known
                    .as_ref()
                    .and_then(Record::entry)
                    .is_some_and(|entry| entry.content == Content::Directory);
                take(record, !directory);
            }
            Merge::KeepKeeping(record) => match given.record.entry().map(|entry| &entry.content) {
                Some(Content::Directory) | None => {
                    plan.notes.push(Step { path: given.path.clone(), record });
                }
                Some(_) => plan.losers.push((given.clone(), record)),
            },
        }
    }
    let mut aside: std::collections::BTreeMap<Vec<u8>, (bool, bool)> =
        moves.iter().map(|(step, keep, fetch)| (step.path.clone(), (*keep, *fetch))).collect();
    plan.moves = ordered(moves.into_iter().map(|(step, ..)| step).collect())
        .into_iter()
        .map(|step| {
            let (keep_ours, fetch) = aside.remove(&step.path).unwrap_or_default();
            Move { step, keep_ours, fetch }
        })
        .collect();
    plan
}

fn needs_content(ours: Option<&Entry>, theirs: Option<&Entry>) -> bool {
    match theirs.map(|entry| &entry.content) {
        Some(content @ Content::File { .. }) => ours.is_none_or(|entry| entry.content != *content),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::record::State;
    use super::super::version::{Side, Version};
    use super::*;

    const TERMS: Terms = Terms { side: Side::First, union: false, skew: std::time::Duration::ZERO };

    fn file(hash: u8, mode: u32) -> State {
        State::Present(Entry {
            content: Content::File { size: 1, hash: [hash; 32] },
            mode,
            owner: "dre".into(),
            group: "dre".into(),
            mtime_ns: i64::from(hash),
            xattrs: vec![],
        })
    }

    fn given(path: &str, record: &Record) -> Given {
        Given { sequence: 1, path: path.into(), record: record.clone() }
    }

    fn first(state: State) -> Record {
        Record { version: Version::default().bumped(Side::First, 0), state }
    }

    #[test]
    fn a_batch_is_taken_apart() {
        let base = first(file(1, 0o644));
        let newer = |state| Record { version: base.version.bumped(Side::First, 0), state };
        let apart = |state| Record { version: base.version.bumped(Side::Second, 0), state };
        let known: BTreeMap<&str, Record> = [
            ("mode", base.clone()),
            ("edit", base.clone()),
            ("same", base.clone()),
            ("gone", base.clone()),
            ("they win", apart(file(2, 0o644))),
            ("we win", apart(file(9, 0o644))),
        ]
        .into_iter()
        .collect();
        let batch = [
            given("gone", &newer(State::Deleted { at_ns: 5 })),
            given("never here", &newer(State::Deleted { at_ns: 5 })),
            given("mode", &newer(file(1, 0o600))),
            given("edit", &newer(file(3, 0o644))),
            given("same", &base),
            given("new", &base),
            given("they win", &newer(file(5, 0o644))),
            given("we win", &newer(file(5, 0o644))),
        ];
        let plan = plan(&batch, |path| known.get(std::str::from_utf8(path).ok()?).cloned(), TERMS);
        let moves: Vec<_> = plan
            .moves
            .iter()
            .map(|m| (String::from_utf8_lossy(&m.step.path).into_owned(), m.keep_ours, m.fetch))
            .collect();
        let row = |path: &str, keep, fetch| (path.to_owned(), keep, fetch);
        assert_eq!(
            moves,
            [
                row("edit", false, true),
                row("mode", false, false),
                row("new", false, true),
                row("they win", true, true),
                row("gone", false, false),
            ]
        );
        let notes: Vec<_> = plan.notes.iter().map(|s| s.path.clone()).collect();
        assert_eq!(notes, [b"never here".to_vec(), b"we win".to_vec()]);
        assert_eq!(plan.losers, []);
        let fetched: Vec<_> = plan.fetches().map(|(path, _)| path.to_vec()).collect();
        assert_eq!(fetched, [b"edit".to_vec(), b"new".to_vec(), b"they win".to_vec()]);
    }

    /// Clocks far apart: the peer may think otherwise of which was first, so the loser is fetched before it is forgotten.
    #[test]
    fn an_edit_that_loses_to_a_deletion_is_fetched_where_the_peer_may_not_keep_it() {
        let base = first(file(1, 0o644));
        let version = base.version.bumped(Side::Second, 0);
        let deleted = Record { version, state: State::Deleted { at_ns: 60_000_000_000 } };
        let edit = Record { version: base.version.bumped(Side::First, 0), state: file(5, 0o644) };
        let terms = Terms { skew: std::time::Duration::from_secs(5), ..TERMS };
        let plan = plan(&[given("lost", &edit)], |_| Some(deleted.clone()), terms);
        assert_eq!(plan.losers.len(), 1);
        assert_eq!(plan.fetches().map(|(path, _)| path.to_vec()).collect::<Vec<_>>(), [b"lost".to_vec()]);
    }
}
