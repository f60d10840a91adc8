//! Two records of one path: the same answer on both nodes, whoever asks.

use std::cmp::Ordering;
use std::time::Duration;

use super::record::{Content, Entry, Record, State};
use super::version::{Side, Standing};

/// Clocks are not believed more exactly than this: a deletion this close to an edit does not win over it.
const CLOSE: Duration = Duration::from_secs(2);

/// What this node does with the peer's record of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merge {
    /// It has it already, or something newer that the peer will take.
    Nothing,
    /// Nothing on the disk changes, but the record, or only that the peer is to be told of it (again).
    Note(Record),
    /// The peer's replaces this node's, which the peer had seen.
    Take(Record),
    /// The peer's replaces this node's, which it had not seen: what is on the disk here is kept aside first.
    TakeKeeping(Record),
    /// This node's stays over the peer's, which is fetched and kept aside first: once the record says that it has seen the
    /// peer's, nobody else will keep it.
    KeepKeeping(Record),
    /// This node's stays over a deletion.
    Keep(Record),
}

/// What the two nodes know of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// This node's.
    pub side: Side,
    /// First contact, or one of the databases was lost: versions cannot be compared, and nothing is a deletion.
    pub union: bool,
    /// How far the wall clocks are apart, as measured.
    pub skew: Duration,
}

/// The peer's `theirs` beside `ours`, of which nothing may be known.
pub fn merge(ours: Option<&Record>, theirs: &Record, terms: Terms) -> Merge {
    let Some(ours) = ours else {
        return Merge::Take(theirs.clone());
    };
    let joined =
        |state: &State| Record { version: ours.version.joined(theirs.version), state: state.clone() };
    if ours.state == theirs.state {
        return if ours.version == theirs.version {
            Merge::Nothing
        } else {
            Merge::Note(joined(&ours.state))
        };
    }
    let standing = if terms.union { Standing::Apart } else { ours.version.standing(theirs.version) };
    // Over what the peer has: newer than that, or its next edit would pass for one that has seen ours. After a union of what clocks set
    // back have counted, ours may add nothing to the peer's version.
    let over = |state: &State| {
        let mut record = joined(state);
        if record.version == theirs.version {
            record.version = record.version.bumped(terms.side, 0);
        }
        record
    };
    // Equal versions of different states: each node has answered before it heard the other, and found the clocks otherwise apart; or
    // a database was restored from a copy. Then the clocks are not asked, or each would keep its answer for ever.
    let terms = if standing == Standing::Same { Terms { skew: Duration::MAX, ..terms } } else { terms };
    match standing {
        Standing::Newer => Merge::Nothing,
        Standing::Older => Merge::Take(theirs.clone()),
        Standing::Same | Standing::Apart => match prefer(&ours.state, &theirs.state, terms) {
            // The peer decides alike when it has ours, and keeps its own aside; both would keep it else. It is told again: it may have
            // had ours before it made this, when another of its own was the better one.
            Ordering::Greater if theirs.entry().is_some() && alike(&ours.state, terms) => {
                Merge::Note(ours.clone())
            }
            Ordering::Greater if theirs.entry().is_some() => Merge::KeepKeeping(over(&ours.state)),
            Ordering::Greater => Merge::Keep(over(&ours.state)),
            Ordering::Equal => Merge::Note(joined(&ours.state)),
            Ordering::Less if ours.entry().is_some() => Merge::TakeKeeping(joined(&theirs.state)),
            Ordering::Less => Merge::Take(joined(&theirs.state)),
        },
    }
}

/// Whether the peer is certain to come to the same answer. Of two edits always; whether a deletion is later than an edit hangs on the
/// skew where that is large, and each node measures its own. In a union never: it may be one on this side only, and the peer may
/// think that it has seen ours.
fn alike(ours: &State, terms: Terms) -> bool {
    !terms.union && (matches!(ours, State::Present(_)) || terms.skew <= CLOSE)
}

/// The order in which states that have not seen each other win. Total, and the same from both sides.
fn prefer(left: &State, right: &State, terms: Terms) -> Ordering {
    match (left, right) {
        (State::Present(a), State::Present(b)) => edits(a, b),
        (State::Deleted { at_ns: a }, State::Deleted { at_ns: b }) => a.cmp(b),
        (State::Present(edit), State::Deleted { at_ns }) => deletion_or_edit(edit, *at_ns, terms).reverse(),
        (State::Deleted { at_ns }, State::Present(edit)) => deletion_or_edit(edit, *at_ns, terms),
    }
}

/// The later one wins; the edit, where the clocks cannot say, and always in a union.
fn deletion_or_edit(edit: &Entry, at_ns: i64, terms: Terms) -> Ordering {
    let close = i64::try_from(CLOSE.max(terms.skew).as_nanos()).unwrap_or(i64::MAX);
    // A directory has no time of its own; what is in it has.
    let dated = edit.content != Content::Directory;
    if dated && !terms.union && at_ns > edit.mtime_ns.saturating_add(close) {
        Ordering::Greater
    } else {
        Ordering::Less
    }
}

/// A directory over what is none: what is in it could not stay else, and none of that may be lost. Then the newer one, then an order of
/// no meaning but the same on both nodes.
fn edits(a: &Entry, b: &Entry) -> Ordering {
    let directory = |e: &Entry| e.content == Content::Directory;
    if directory(a) != directory(b) {
        return directory(a).cmp(&directory(b));
    }
    let rank = |e: &Entry| match &e.content {
        Content::Directory => (0, vec![]),
        Content::Link { target } => (1, target.clone()),
        Content::File { hash, .. } => (2, hash.to_vec()),
    };
    (a.mtime_ns, rank(a), a.mode, &a.owner, &a.group, &a.xattrs).cmp(&(
        b.mtime_ns,
        rank(b),
        b.mode,
        &b.owner,
        &b.group,
        &b.xattrs,
    ))
}

#[cfg(test)]
mod tests {
    use super::super::version::Version;
    use super::*;

    const TERMS: Terms = Terms { side: Side::First, union: false, skew: Duration::ZERO };

    fn file(hash: u8, mtime_s: i64) -> State {
        State::Present(Entry {
            content: Content::File { size: 1, hash: [hash; 32] },
            mode: 0o644,
            owner: "dre".into(),
            group: "dre".into(),
            mtime_ns: mtime_s * 1_000_000_000,
            xattrs: vec![],
        })
    }

    fn gone(at_s: i64) -> State {
        State::Deleted { at_ns: at_s * 1_000_000_000 }
    }

    fn record(first: u64, second: u64, state: State) -> Record {
        let mut version = Version::default();
        (0..first).for_each(|_| version = version.bumped(Side::First, 0));
        (0..second).for_each(|_| version = version.bumped(Side::Second, 0));
        Record { version, state }
    }

    fn settle(ours: &Record, theirs: &Record, terms: Terms) -> (Record, usize) {
        match merge(Some(ours), theirs, terms) {
            Merge::Nothing => (ours.clone(), 0),
            Merge::Note(r) | Merge::Take(r) | Merge::Keep(r) => (r, 0),
            Merge::TakeKeeping(r) | Merge::KeepKeeping(r) => (r, 1),
        }
    }

    /// One node merges the other's record and the other then what came of it, in both orders, and both at once: the same
    /// state each time; how often the loser is kept. Nothing is left to say then.
    #[track_caller]
    fn both(a: &Record, b: &Record, terms: Terms) -> (State, usize) {
        let terms_there = Terms { side: Side::Second, ..terms };
        let rest = |one: &Record, other: &Record| {
            let ((one, more), (other, still_more)) =
                (settle(one, other, terms), settle(other, one, terms_there));
            assert_eq!(one, other, "{a:?} and {b:?} do not agree");
            assert_eq!((more, still_more), (0, 0), "{a:?} and {b:?}: kept again");
        };
        let ((one, _), (other, _)) = (settle(a, b, terms), settle(b, a, terms_there));
        assert_eq!(one.state, other.state, "{a:?} and {b:?} do not agree");
        rest(&one, &other);
        let in_turn = |first: &Record, second: &Record| {
            let (one, kept) = settle(first, second, terms);
            let (other, kept_then) = settle(second, &one, terms_there);
            assert_eq!(one.state, other.state, "{a:?} and {b:?} in turn");
            rest(&one, &other);
            // In a union, who keeps it cannot know whether the other will.
            let most = if terms.union { 1 } else { usize::MAX };
            (other.state, (kept + kept_then).min(most))
        };
        let (in_this, in_that) = (in_turn(a, b), in_turn(b, a));
        assert_eq!(in_this, in_that, "{a:?} and {b:?}: the order matters");
        in_this
    }

    #[test]
    fn what_has_seen_the_other_wins_without_a_word() {
        let (old, new) = (record(1, 0, file(1, 10)), record(1, 1, file(2, 5)));
        assert_eq!(both(&old, &new, TERMS), (file(2, 5), 0));
        let deleted = record(2, 0, gone(20));
        assert_eq!(both(&old, &deleted, TERMS), (gone(20), 0));
        assert_eq!(merge(None, &deleted, TERMS), Merge::Take(deleted));
    }

    #[test]
    fn of_two_edits_apart_the_newer_wins_and_one_copy_is_kept() {
        let (a, b) = (record(2, 0, file(1, 10)), record(1, 1, file(2, 11)));
        assert_eq!(both(&a, &b, TERMS), (file(2, 11), 1));
        // The same time: the higher hash, on both.
        let (a, b) = (record(2, 0, file(9, 10)), record(1, 1, file(2, 10)));
        assert_eq!(both(&a, &b, TERMS), (file(9, 10), 1));
        // The same edit on both is no conflict.
        let (a, b) = (record(2, 0, file(9, 10)), record(1, 1, file(9, 10)));
        assert_eq!(both(&a, &b, TERMS), (file(9, 10), 0));
    }

    #[test]
    fn a_deletion_wins_over_an_edit_it_has_not_seen_only_if_it_is_clearly_later() {
        let edit = record(1, 1, file(1, 100));
        for (at, skew, state, kept) in [
            (103, 0, gone(103), 1),
            (101, 0, file(1, 100), 0),
            (99, 0, file(1, 100), 0),
            (103, 5, file(1, 100), 0),
            (106, 5, gone(106), 1),
        ] {
            let terms = Terms { skew: Duration::from_secs(skew), ..TERMS };
            let deletion = record(2, 0, gone(at));
            assert_eq!(both(&edit, &deletion, terms), (state, kept), "deleted at {at} s, skew {skew} s");
        }
    }

    /// Each found the clocks apart by another time, and both had answered before they heard each other.
    #[test]
    fn two_answers_to_one_question_do_not_stand_for_ever() {
        let (edit, deletion) = (record(1, 1, file(1, 100)), record(2, 0, gone(104)));
        let unsure = Terms { side: Side::Second, skew: Duration::from_secs(5), ..TERMS };
        let (one, two) = (settle(&deletion, &edit, TERMS).0, settle(&edit, &deletion, unsure).0);
        assert_eq!((&one.state, &two.state), (&gone(104), &file(1, 100)));
        assert_eq!(settle(&one, &two, TERMS).0.state, file(1, 100), "the edit, where nobody can say");
        let two = settle(&two, &one, unsure).0;
        assert_eq!(settle(&one, &two, TERMS).0, two);
    }

    /// A database was lost and the clock set back: what is written then counts less than what the peer remembers of this node.
    #[test]
    fn what_is_kept_over_the_peers_has_not_been_seen_by_its_next_edit() {
        let (ours, theirs) = (record(0, 1, file(5, 100)), record(2, 3, file(2, 50)));
        let union = Terms { side: Side::Second, union: true, ..TERMS };
        let Merge::KeepKeeping(kept) = merge(Some(&ours), &theirs, union) else { panic!("kept") };
        let next = Record { version: theirs.version.bumped(Side::First, 0), state: file(3, 200) };
        let joined = Terms { union: false, ..union };
        assert!(matches!(merge(Some(&kept), &next, joined), Merge::TakeKeeping(_)), "ours is lost");
    }

    #[test]
    fn a_union_deletes_nothing() {
        let terms = Terms { union: true, ..TERMS };
        // Even a tombstone that has seen the file: one of the two databases is not to be believed.
        let (file_there, deleted) = (record(1, 0, file(1, 100)), record(7, 7, gone(1000)));
        assert_eq!(both(&file_there, &deleted, terms), (file(1, 100), 0));
        let (a, b) = (record(1, 0, file(1, 100)), record(7, 7, file(2, 50)));
        assert_eq!(both(&a, &b, terms), (file(1, 100), 1));
    }

    /// Every pair of a small world of records: both nodes agree, and what loses to something it was not seen by is kept.
    #[test]
    fn every_pair_of_records_settles_alike_on_both_nodes() {
        let states = [file(1, 10), file(2, 10), file(1, 14), gone(9), gone(11), gone(20)];
        let mut pairs = 0;
        for union in [false, true] {
            for (a, b) in states.iter().flat_map(|a| states.iter().map(move |b| (a, b))) {
                for (a1, a2, b1, b2) in (0..81).map(|n: u64| (n / 27, n / 9 % 3, n / 3 % 3, n % 3)) {
                    let (left, right) = (record(a1, a2, a.clone()), record(b1, b2, b.clone()));
                    let terms = Terms { union, ..TERMS };
                    let (state, kept) = both(&left, &right, terms);
                    let apart = union
                        || matches!(left.version.standing(right.version), Standing::Apart | Standing::Same);
                    let loser = if state == left.state { &right } else { &left };
                    let lost = loser.state != state && loser.entry().is_some();
                    assert_eq!(kept, usize::from(apart && lost), "{left:?} {right:?}");
                    assert!(!union || state == *a || state == *b);
                    pairs += 1;
                }
            }
        }
        assert_eq!(pairs, 2 * 36 * 81);
    }
}
