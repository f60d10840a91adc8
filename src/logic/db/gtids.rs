//! Transactions by their global ids: what one server has and another lacks.
//!
//! MariaDB: `domain-server-sequence`. The newest sequence number by domain and server says all, because within one domain the numbers
//! of all servers grow in the order of the binary log (`gtid_strict_mode`): a server that has `0-1-8495` and then wrote `0-2-8496`
//! itself has every event of domain 0 up to there. MySQL: `uuid:1-5:7`, any set.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::facts::{Flavor, Gtids};

/// One who wrote, in MariaDB's ids: domain and server.
type Writer = (u32, u32);

/// No server numbers its transactions beyond this (MySQL: `GNO_END`), and the ends of ranges can be counted with.
const NUMBER_MAX: u64 = i64::MAX as u64;
/// Letters of a tag of MySQL's.
const TAG_MAX: usize = 32;
/// Where the dashes of a uuid are.
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// Most writers and ranges that are taken from elsewhere: sets are compared pair by pair. A server whose commits stay in order has one
/// range a writer.
const RANGES_MAX: usize = 4096;

/// [`Gtids`] as they are on the wire and on the disk.
#[derive(Deserialize)]
pub enum Unchecked {
    MariaDb(BTreeMap<Writer, u64>),
    MySql(BTreeMap<String, Vec<(u64, u64)>>),
}

impl TryFrom<Unchecked> for Gtids {
    type Error = &'static str;

    fn try_from(unchecked: Unchecked) -> Result<Self, Self::Error> {
        let many = match &unchecked {
            Unchecked::MariaDb(newest) => newest.len(),
            Unchecked::MySql(sets) => sets.values().map(Vec::len).sum(),
        };
        if many > RANGES_MAX {
            return Err("more ranges of transactions than are compared");
        }
        let (flavor, gtids) = match unchecked {
            Unchecked::MariaDb(newest) => (Flavor::MariaDb, Self::MariaDb(newest)),
            Unchecked::MySql(sets) => (Flavor::MySql, Self::MySql(sets)),
        };
        let printed = Self::parse(flavor, &gtids.to_string());
        if printed.as_ref() == Some(&gtids) { Ok(gtids) } else { Err("no transactions that a server prints") }
    }
}

/// Some of what is missing, for an operator: how many, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub count: u64,
    /// As the product writes ranges: `0-1-8492..8495`, `uuid:15-21`.
    pub which: String,
}

/// Transactions of one writer, the ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(String, u64, u64)")]
pub struct Range {
    /// MariaDB: `domain-server`; MySQL: the uuid, with its tag.
    pub writer: String,
    pub low: u64,
    pub high: u64,
}

impl TryFrom<(String, u64, u64)> for Range {
    type Error = &'static str;

    fn try_from((writer, low, high): (String, u64, u64)) -> Result<Self, Self::Error> {
        let holds = 0 < low && low <= high && high <= NUMBER_MAX;
        if holds { Ok(Self { writer, low, high }) } else { Err("no range of transactions") }
    }
}

impl Range {
    pub fn count(&self) -> u64 {
        self.high - self.low + 1
    }

    /// As [`Missing::which`] has it.
    pub fn shown(&self, flavor: Flavor) -> String {
        let Self { writer, low, high } = self;
        match flavor {
            Flavor::MariaDb => format!("{writer}-{low}..{high}"),
            Flavor::MySql => format!("{writer}:{low}-{high}"),
        }
    }
}

impl Gtids {
    pub fn empty(flavor: Flavor) -> Self {
        match flavor {
            Flavor::MariaDb => Self::MariaDb(BTreeMap::new()),
            Flavor::MySql => Self::MySql(BTreeMap::new()),
        }
    }

    /// Reads what a server prints; `None` if it is no such list.
    pub fn parse(flavor: Flavor, text: &str) -> Option<Self> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        match flavor {
            Flavor::MariaDb => {
                let mut newest: BTreeMap<Writer, u64> = BTreeMap::new();
                for part in parts {
                    let mut numbers = part.split('-');
                    let domain = numbers.next()?.parse().ok()?;
                    let server = numbers.next()?.parse().ok()?;
                    let sequence: u64 = numbers.next()?.parse().ok()?;
                    if numbers.next().is_some() || sequence > NUMBER_MAX {
                        return None;
                    }
                    let known = newest.entry((domain, server)).or_default();
                    *known = sequence.max(*known);
                }
                Some(Self::MariaDb(newest))
            }
            Flavor::MySql => {
                let mut sets: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
                for part in parts {
                    let (uuid, ranges) = part.split_once(':')?;
                    let uuid = uuid.to_ascii_lowercase();
                    if !is_uuid(&uuid) {
                        return None;
                    }
                    let mut source = uuid.clone();
                    for piece in ranges.split(':') {
                        if piece.starts_with(|c: char| c.is_ascii_digit()) {
                            let (low, high) = piece.split_once('-').unwrap_or((piece, piece));
                            let range: (u64, u64) = (low.parse().ok()?, high.parse().ok()?);
                            if range.0 == 0 || range.0 > range.1 || range.1 > NUMBER_MAX {
                                return None;
                            }
                            sets.entry(source.clone()).or_default().push(range);
                        } else if is_tag(piece) {
                            // MySQL 8.4's tags: the ranges that follow belong to it.
                            source = format!("{uuid}:{}", piece.to_ascii_lowercase());
                        } else {
                            return None;
                        }
                    }
                }
                sets.values_mut().for_each(|ranges| *ranges = joined(std::mem::take(ranges)));
                Some(Self::MySql(sets))
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Self::MariaDb(newest) => newest.is_empty(),
            Self::MySql(sets) => sets.is_empty(),
        }
    }

    /// The newest of all in each domain: what a MariaDB server has applied when it is this far.
    fn tops(newest: &BTreeMap<Writer, u64>) -> BTreeMap<u32, u64> {
        let mut tops = BTreeMap::new();
        for ((domain, _), sequence) in newest {
            let top: &mut u64 = tops.entry(*domain).or_default();
            *top = (*top).max(*sequence);
        }
        tops
    }

    /// Everything that `other` has is here too. Histories that forked are another matter: [`Self::errant`].
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MariaDb(mine), Self::MariaDb(theirs)) => {
                let mine = Self::tops(mine);
                Self::tops(theirs).iter().all(|(domain, top)| mine.get(domain).is_some_and(|has| has >= top))
            }
            (Self::MySql(mine), Self::MySql(theirs)) => theirs.iter().all(|(source, ranges)| {
                let has = mine.get(source).map_or(&[][..], Vec::as_slice);
                ranges.iter().all(|(low, high)| has.iter().any(|(from, to)| from <= low && to >= high))
            }),
            _ => false,
        }
    }

    /// What either has. MySQL's `Retrieved_Gtid_Set` begins where the relay log does: it is no superset of what was there before.
    pub fn union(self, other: &Self) -> Self {
        match (self, other) {
            (Self::MariaDb(mut mine), Self::MariaDb(theirs)) => {
                for (writer, sequence) in theirs {
                    let known = mine.entry(*writer).or_default();
                    *known = (*known).max(*sequence);
                }
                Self::MariaDb(mine)
            }
            (Self::MySql(mut mine), Self::MySql(theirs)) => {
                for (source, ranges) in theirs {
                    let known = mine.entry(source.clone()).or_default();
                    known.extend(ranges);
                    *known = joined(std::mem::take(known));
                }
                Self::MySql(mine)
            }
            (mine, _) => mine,
        }
    }

    /// How many transactions `other` has beyond this.
    pub fn behind(&self, other: &Self) -> u64 {
        match (self, other) {
            (Self::MariaDb(mine), Self::MariaDb(theirs)) => {
                let mine = Self::tops(mine);
                Self::tops(theirs)
                    .iter()
                    .map(|(domain, top)| top.saturating_sub(mine.get(domain).copied().unwrap_or(0)))
                    .fold(0, u64::saturating_add)
            }
            (Self::MySql(mine), Self::MySql(theirs)) => theirs
                .iter()
                .flat_map(|(source, ranges)| without(ranges, mine.get(source).map_or(&[][..], Vec::as_slice)))
                .map(|(low, high)| high - low + 1)
                .fold(0, u64::saturating_add),
            _ => 0,
        }
    }

    /// What this server alone wrote, or what everybody else did.
    fn part(&self, by: Who, its: bool) -> Self {
        match self {
            Self::MariaDb(newest) => Self::MariaDb(
                newest
                    .iter()
                    .filter(|((_, server), _)| (*server == by.id) == its)
                    .map(|(w, n)| (*w, *n))
                    .collect(),
            ),
            Self::MySql(sets) => {
                let uuid = by.uuid.to_ascii_lowercase();
                let of_it = |source: &str| source.split(':').next() == Some(&uuid);
                Self::MySql(
                    sets.iter()
                        .filter(|(source, _)| of_it(source) == its)
                        .map(|(s, r)| (s.clone(), r.clone()))
                        .collect(),
                )
            }
        }
    }

    pub fn written_by(&self, who: Who) -> Self {
        self.part(who, true)
    }

    pub fn not_written_by(&self, who: Who) -> Self {
        self.part(who, false)
    }

    /// What is in this state and not in `other`'s, writer by writer.
    pub fn ranges_beyond(&self, other: &Self) -> Vec<Range> {
        match (self, other) {
            (Self::MariaDb(mine), Self::MariaDb(theirs)) => mine
                .iter()
                .map(|(by, high)| (by, theirs.get(by).copied().unwrap_or(0), *high))
                .filter(|(_, seen, high)| high > seen)
                .map(|((domain, server), seen, high)| Range {
                    writer: format!("{domain}-{server}"),
                    low: seen + 1,
                    high,
                })
                .collect(),
            (Self::MySql(mine), Self::MySql(theirs)) => mine
                .iter()
                .flat_map(|(source, ranges)| {
                    let has = theirs.get(source).map_or(&[][..], Vec::as_slice);
                    let rest = without(ranges, has).into_iter();
                    rest.map(|(low, high)| Range { writer: source.clone(), low, high })
                })
                .collect(),
            _ => vec![],
        }
    }

    /// The same in words. Of MariaDB the count is an upper bound: the numbers between two of one server may be another's.
    pub fn beyond(&self, other: &Self) -> Option<Missing> {
        Missing::of(self.flavor(), &self.ranges_beyond(other))
    }

    pub const fn flavor(&self) -> Flavor {
        match self {
            Self::MariaDb(_) => Flavor::MariaDb,
            Self::MySql(_) => Flavor::MySql,
        }
    }

    /// What is here, was not written by the peer's server, and is not there: histories have forked if that one has gone on.
    /// Verified on real servers: MariaDB by the entries of `gtid_binlog_state` (0-1-8495 here, 0-1-8491 there), MySQL by
    /// the sets. What the peer wrote itself does not count: its word is older than the look at this server.
    pub fn errant(&self, peer: &Self, who: Who) -> Option<Missing> {
        self.not_written_by(who).beyond(peer)
    }

    /// What the peer has of this server's own and this one does not: it was restored, or lost the end of its log.
    pub fn own_lost(&self, peer: &Self, own: Who) -> Option<Missing> {
        peer.written_by(own).beyond(self)
    }
}

/// A server as a writer: MariaDB counts by the id, MySQL by the uuid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who<'a> {
    pub id: u32,
    pub uuid: &'a str,
}

/// Longest list of what is missing, bytes: it goes into one message of a stream.
const WHICH_MAX: usize = 200;

impl Missing {
    /// Nothing, if there are no ranges.
    pub fn of(flavor: Flavor, ranges: &[Range]) -> Option<Self> {
        let mut missing = Self { count: 0, which: String::new() };
        for range in ranges {
            missing.add(range.count(), &range.shown(flavor));
        }
        missing.found()
    }

    fn add(&mut self, count: u64, which: &str) {
        self.count = self.count.saturating_add(count);
        if self.which.ends_with('…') {
            return;
        }
        if !self.which.is_empty() {
            self.which.push(',');
        }
        self.which.push_str(if self.which.len() + which.len() > WHICH_MAX { "…" } else { which });
    }

    fn found(self) -> Option<Self> {
        (self.count > 0).then_some(self)
    }
}

/// As the product prints it.
impl fmt::Display for Gtids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = match self {
            Self::MariaDb(newest) => newest.iter().map(|((d, s), n)| format!("{d}-{s}-{n}")).collect(),
            Self::MySql(sets) => sets
                .iter()
                .map(|(source, ranges)| {
                    let ranges = ranges.iter().map(|(low, high)| {
                        if low == high { format!(":{low}") } else { format!(":{low}-{high}") }
                    });
                    source.clone() + &ranges.collect::<String>()
                })
                .collect(),
        };
        f.write_str(&parts.join(","))
    }
}

/// A position to wait for: MariaDB's `MASTER_GTID_WAIT` takes one id per domain, the newest.
pub fn target(gtids: &Gtids) -> String {
    let Gtids::MariaDb(newest) = gtids else { return gtids.to_string() };
    let mut tops: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
    for ((domain, server), sequence) in newest {
        let top = tops.entry(*domain).or_default();
        if *sequence >= top.1 {
            *top = (*server, *sequence);
        }
    }
    let parts: Vec<String> = tops.iter().map(|(d, (s, n))| format!("{d}-{s}-{n}")).collect();
    parts.join(",")
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match DASHES.contains(&at) {
            true => byte == b'-',
            false => byte.is_ascii_hexdigit(),
        })
}

fn is_tag(text: &str) -> bool {
    text.len() <= TAG_MAX
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Of these what is not among those, writer by writer.
pub fn except(ranges: &[Range], those: &[Range]) -> Vec<Range> {
    let of = |range: &Range| {
        let taken = those.iter().filter(|taken| taken.writer == range.writer);
        let taken = joined(taken.map(|taken| (taken.low, taken.high)).collect());
        let rest = without(&[(range.low, range.high)], &taken).into_iter();
        rest.map(|(low, high)| Range { writer: range.writer.clone(), low, high }).collect::<Vec<_>>()
    };
    ranges.iter().flat_map(of).collect()
}

/// Sorted, and what touches made one.
pub(super) fn joined(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = vec![];
    for (low, high) in ranges {
        match out.last_mut() {
            Some((_, end)) if low <= end.saturating_add(1) => *end = high.max(*end),
            _ => out.push((low, high)),
        }
    }
    out
}

/// What is in `all` and not in `taken`; both sorted.
pub(super) fn without(all: &[(u64, u64)], taken: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut out = vec![];
    for &(mut low, high) in all {
        for &(from, to) in taken {
            if to < low || from > high {
                continue;
            }
            if from > low {
                out.push((low, from - 1));
            }
            low = to.saturating_add(1);
        }
        if low <= high {
            out.push((low, high));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::sim::Rng;

    fn maria(text: &str) -> Gtids {
        Gtids::parse(Flavor::MariaDb, text).expect("a list")
    }
    fn my(text: &str) -> Gtids {
        Gtids::parse(Flavor::MySql, text).expect("a set")
    }

    #[test]
    fn what_a_server_prints_is_read_and_printed_again() {
        for text in ["", "0-1-8495", "0-1-8495,0-2-8500,3-9-1"] {
            assert_eq!(maria(text).to_string(), text);
        }
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        for text in ["", &format!("{uuid}:1-5:7:9-11"), &format!("{uuid}:1-5,{uuid}:audit:1-3")] {
            assert_eq!(my(text).to_string(), text);
        }
        assert_eq!(
            my(&format!("{uuid}:7:1-3:4,\n{uuid}:audit:2")).to_string(),
            format!("{uuid}:1-4:7,{uuid}:audit:2")
        );
        assert_eq!(my(&format!("{uuid}:1-3:audit:2-4")).to_string(), format!("{uuid}:1-3,{uuid}:audit:2-4"));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for text in ["x", "0-1", "0-1-2-3", "0-1-x", "-1-1"] {
            assert_eq!(Gtids::parse(Flavor::MariaDb, text), None, "{text}");
        }
        for text in ["x", "x:3-1", "x:0", "x:1-y"] {
            assert_eq!(Gtids::parse(Flavor::MySql, text), None, "{text}");
        }
        for rest in ["3-1", "0", "1-y", "1-9223372036854775808", "1-18446744073709551615", "t'ag:1", ""] {
            assert_eq!(Gtids::parse(Flavor::MySql, &format!("{A}:{rest}")), None, "{rest}");
        }
        for uuid in [&A[1..], &A.replace('-', "0"), &A.replace('a', "g"), &format!("{A}0")] {
            assert_eq!(Gtids::parse(Flavor::MySql, &format!("{uuid}:1")), None, "{uuid}");
        }
        assert_eq!(Gtids::parse(Flavor::MySql, &format!("{A}:{}:1", "t".repeat(33))), None);
    }

    /// What a peer that went mad, or a damaged disk, could say: none of it gets as far as a statement or a sum.
    #[test]
    fn what_no_server_prints_is_refused_wherever_it_comes_from() {
        #[derive(Serialize)]
        enum Wire {
            MariaDb(BTreeMap<Writer, u64>),
            MySql(BTreeMap<String, Vec<(u64, u64)>>),
        }
        let read = |wire: &Wire| {
            let bytes = postcard::to_stdvec(wire).expect("bytes");
            postcard::from_bytes::<Gtids>(&bytes).ok()
        };
        let sets =
            |source: &str, ranges: &[(u64, u64)]| Wire::MySql([(source.to_owned(), ranges.to_vec())].into());
        let tagged = format!("{A}:tag");
        for (source, ranges) in [
            ("'); SHUTDOWN; SELECT ('", &[(1, 5)][..]),
            (&format!("{A}:1,{B}"), &[(1, 5)]),
            (&format!("{A}:1"), &[(1, 5)]),
            (&format!("{A}:"), &[(1, 5)]),
            (&format!("{A}:t'ag"), &[(1, 5)]),
            (&format!("{A}:Tag"), &[(1, 5)]),
            (&format!("{A}:one:two"), &[(1, 5)]),
            (&A.to_uppercase(), &[(1, 5)]),
            (&format!(" {A}"), &[(1, 5)]),
            ("", &[(1, 5)]),
            (A, &[]),
            (&tagged, &[]),
            (A, &[(0, 5)]),
            (A, &[(0, u64::MAX)]),
            (A, &[(1, u64::MAX)]),
            (A, &[(5, 4)]),
            // Not as a server prints them: in order, and apart.
            (A, &[(7, 9), (1, 3)]),
            (A, &[(1, 5), (3, 9)]),
            (A, &[(1, 5), (6, 9)]),
        ] {
            assert_eq!(read(&sets(source, ranges)), None, "{source} {ranges:?}");
        }
        assert_eq!(read(&Wire::MariaDb([((0, 1), u64::MAX)].into())), None);
        let many = |count: u64| (1..=count).map(|n| (n * 2, n * 2)).collect::<Vec<_>>();
        assert!(read(&sets(A, &many(4096))).is_some() && read(&sets(A, &many(4097))).is_none());
        // And what one prints comes through as it is.
        for gtids in
            [my(&format!("{A}:1-5:7,{tagged}:2,{B}:1-9223372036854775807")), my(""), maria("0-1-5,0-2-9")]
        {
            let bytes = postcard::to_stdvec(&gtids).expect("bytes");
            assert_eq!(postcard::from_bytes::<Gtids>(&bytes).ok(), Some(gtids));
        }
    }

    /// The largest numbers there may be, of many writers.
    #[test]
    fn counts_end_at_the_largest_number_and_nothing_breaks() {
        let most = NUMBER_MAX;
        let all = my(&format!("{A}:1-{most},{A}:tag:1-{most},{B}:1-{most}"));
        assert_eq!(my("").behind(&all), u64::MAX);
        assert_eq!(all.beyond(&my("")).map(|missing| missing.count), Some(u64::MAX));
        assert_eq!(
            all.beyond(&my(&format!("{A}:1-{most}:tag:2-{most}"))).map(|missing| missing.count),
            Some(most + 1)
        );
        assert!(all.covers(&all.clone().union(&my(&format!("{B}:{most}")))));
        let domains = maria(&format!("0-1-{most},1-1-{most},2-1-{most}"));
        assert_eq!(maria("").behind(&domains), u64::MAX);
        assert_eq!(domains.beyond(&maria("")).map(|missing| missing.count), Some(u64::MAX));
    }

    #[test]
    fn ranges_but_those_are_taken_away_writer_by_writer() {
        let range = |writer: &str, low, high| Range { writer: writer.into(), low, high };
        let all = [range(A, 1, 9), range(B, 4, 6)];
        assert_eq!(except(&all, &[]), all);
        assert_eq!(except(&all, &[range(A, 8, 9), range(A, 1, 3), range(B, 1, 9)]), [range(A, 4, 7)]);
        assert_eq!(except(&all, &[range("other", 1, 9), range(B, 5, 5)]).len(), 3);
        assert_eq!(except(&all, &all), []);
        // As they are kept.
        for (low, high, holds) in [(1, 1, true), (0, 4, false), (5, 4, false), (1, u64::MAX, false)] {
            let bytes = postcard::to_stdvec(&range(A, low, high)).expect("bytes");
            assert_eq!(postcard::from_bytes::<Range>(&bytes).is_ok(), holds, "{low}-{high}");
        }
    }

    fn who(id: u32, uuid: &str) -> Who<'_> {
        Who { id, uuid }
    }
    const A: &str = "aaaaaaaa-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "bbbbbbbb-71ca-11e1-9e33-c80aa9429562";

    /// The example of the real servers: n1 wrote 8492 to 8495 and nobody got them; n2 went on.
    #[test]
    fn what_only_the_old_active_has_is_errant_and_what_it_lacks_is_not() {
        let (old, new) = (maria("0-1-8495,0-2-12"), maria("0-1-8491,0-2-9000"));
        let found = old.errant(&new, who(2, "")).expect("errant");
        assert_eq!((found.count, found.which.as_str()), (4, "0-1-8492..8495"));
        assert_eq!(new.errant(&old, who(1, "")).expect("what the new one wrote").which, "0-2-13..9000");
        assert_eq!(maria("0-1-10").errant(&maria("0-1-10,0-2-14"), who(2, "")), None);
        assert_eq!(maria("0-1-10").errant(&maria(""), who(2, "")).map(|m| m.count), Some(10));
        // Of a server that was replaced long ago: it is nobody's now, and missing all the same.
        assert_eq!(
            maria("0-1-10,0-7-3").errant(&maria("0-1-10"), who(2, "")).map(|m| m.which),
            Some("0-7-1..3".into())
        );
        // The peer writes on while this server was looked at later than it told of itself.
        assert_eq!(maria("0-2-20").errant(&maria("0-2-14"), who(2, "")), None);
        let (old, new) = (my(&format!("{A}:1-21,{B}:1-3")), my(&format!("{A}:1-14,{B}:1-9")));
        assert_eq!(old.errant(&new, who(0, B)).map(|m| m.which), Some(format!("{A}:15-21")));
        assert_eq!(my(&format!("{A}:1-14,{B}:1-3")).errant(&new, who(0, B)), None);
    }

    #[test]
    fn what_the_peer_has_of_the_own_server_and_it_does_not_was_lost() {
        assert_eq!(
            maria("0-1-5").own_lost(&maria("0-1-9,0-2-30"), who(1, "")).map(|m| m.which),
            Some("0-1-6..9".into())
        );
        assert_eq!(maria("0-1-9").own_lost(&maria("0-1-9,0-2-30"), who(1, "")), None);
        let (own, peer) = (my(&format!("{A}:1-14")), my(&format!("{A}:1-21,{A}:tag:1-2,{B}:1-5")));
        assert_eq!(own.own_lost(&peer, who(0, A)).map(|m| m.count), Some(9));
        assert_eq!(own.own_lost(&peer, who(0, &A.to_uppercase())).map(|m| m.count), Some(9));
    }

    #[test]
    fn a_long_list_of_what_is_missing_ends_in_dots() {
        let many: Vec<String> = (0..200).map(|n| (n * 3 + 1).to_string()).collect();
        let missing = my(&format!("{A}:{}", many.join(":"))).beyond(&my("")).expect("missing");
        assert_eq!(missing.count, 200);
        assert!(missing.which.len() < WHICH_MAX + 10 && missing.which.ends_with(",…"), "{}", missing.which);
    }

    #[test]
    fn along_one_history_more_covers_less() {
        assert!(maria("0-1-5,0-2-9").covers(&maria("0-1-7")));
        assert!(!maria("0-1-5").covers(&maria("0-1-6")) && !maria("0-1-5").covers(&maria("1-1-1")));
        assert_eq!(maria("0-1-5").behind(&maria("0-1-5,0-2-9")), 4);
        assert_eq!(target(&maria("0-1-5,0-2-9,1-1-3")), "0-2-9,1-1-3");
        assert_eq!(maria("0-1-5").union(&maria("0-2-9")), maria("0-1-5,0-2-9"));
        // What was received starts in the middle, what was applied ends there: together they are all.
        assert_eq!(my(&format!("{A}:1-100")).union(&my(&format!("{A}:50-120"))), my(&format!("{A}:1-120")));
    }

    /// Lists of a few writers, thousands of times, against the sets of what was written.
    #[test]
    fn states_compare_as_what_was_written_does() {
        let mut rng = Rng::new(11);
        for _ in 0..3000 {
            // One history by turns; two servers have some of its beginning, and one has gone on alone.
            let history: Vec<(u32, u64)> =
                (1..=20).map(|n| (1 + u32::try_from(rng.below(3)).unwrap_or(0), n)).collect();
            let upto = |n: u64| -> Gtids {
                let mut newest = BTreeMap::new();
                for (server, sequence) in &history[..usize::try_from(n).unwrap_or(0)] {
                    newest.insert((0, *server), *sequence);
                }
                Gtids::MariaDb(newest)
            };
            let (a, b) = (rng.below(21), rng.below(21));
            let (one, two) = (upto(a), upto(b));
            assert_eq!(one.covers(&two), a >= b);
            assert_eq!(one.behind(&two), b.saturating_sub(a));
            assert_eq!(one.beyond(&two).is_some(), a > b, "{one} beyond {two}");
            let tail = Gtids::MariaDb([((0, 9), a + 3)].into());
            let alone = one.clone().union(&tail);
            assert!(alone.errant(&two, who(1, "")).is_some_and(|m| m.which.contains("0-9-")));
            assert_eq!(Gtids::parse(Flavor::MariaDb, &alone.to_string()), Some(alone.clone()));
            assert!(alone.covers(&one) && alone.beyond(&one).is_some() && one.beyond(&alone).is_none());
        }
    }

    /// Against sets of single numbers, thousands of times.
    #[test]
    fn ranges_are_what_their_numbers_are() {
        let mut rng = Rng::new(7);
        for _ in 0..3000 {
            let mut draw = || -> Vec<(u64, u64)> {
                let one = |rng: &mut Rng| {
                    let low = 1 + rng.below(30);
                    (low, low + rng.below(6))
                };
                (0..rng.below(5)).map(|_| one(&mut rng)).collect()
            };
            let (a, b) = (joined(draw()), joined(draw()));
            let has = |set: &[(u64, u64)], n: u64| set.iter().any(|(low, high)| *low <= n && n <= *high);
            let rest = without(&a, &b);
            for n in 0..50 {
                assert_eq!(has(&rest, n), has(&a, n) && !has(&b, n), "{a:?} without {b:?} at {n}");
            }
            let set = |ranges: &[(u64, u64)]| Gtids::MySql([("u".to_owned(), ranges.to_vec())].into());
            assert_eq!(set(&a).covers(&set(&b)), without(&b, &a).is_empty());
            let count = (0..50).filter(|n| has(&rest, *n)).count() as u64;
            assert_eq!(set(&b).behind(&set(&a)), count);
            assert_eq!(set(&a).beyond(&set(&b)).map_or(0, |missing| missing.count), count);
            let Gtids::MySql(both) = set(&a).union(&set(&b)) else { panic!("another product") };
            for n in 0..50 {
                assert_eq!(has(&both["u"], n), has(&a, n) || has(&b, n), "{a:?} and {b:?} at {n}");
            }
        }
    }
}
