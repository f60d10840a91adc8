//! Two nodes, hands that edit on both, also between a word and the fetch of what it is about, and between that and its publishing;
//! a wire that is cut, crashes at every point of publishing, lost databases, clocks that differ, and by how much is known otherwise
//! on each. Then everything heals, and two things are demanded: both disks are the same, and every content that was ever written is
//! there, was overwritten or deleted by a hand that had it before its eyes, or is kept aside.
//!
//! Each path for itself, be it a file or a directory: what comes before what, directories and files in them, is `plan`'s.
//!
//! Other stories each time. `DRE_SIM_SEEDS=10000` for more, `DRE_SIM_SEED=7` for the one that failed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use super::merge::{Merge, Terms, merge};
use super::record::{Content, Entry, Record, look};
use super::version::Side;
use crate::logic::sim::Rng;

const PATHS: u64 = 6;
const STEPS: usize = 1_000;
const SECOND: i64 = 1_000_000_000;

type Path = u64;

#[derive(Default)]
struct Node {
    disk: BTreeMap<Path, Entry>,
    records: BTreeMap<Path, (Record, u64)>,
    changes: u64,
    /// Which database this is, and the peer's with which everything was compared once.
    id: u64,
    joined_with: Option<u64>,
    /// The peer's change up to which it was taken in.
    acked: u64,
    kept: BTreeSet<[u8; 32]>,
    /// What went because the peer deleted it.
    trash: BTreeSet<[u8; 32]>,
    clock_ns: i64,
    /// What it takes the clocks' difference for.
    skew: Duration,
}

struct World {
    rng: Rng,
    nodes: [Node; 2],
    now_ns: i64,
    written: u64,
    /// Contents that a hand saw when it replaced or deleted them.
    superseded: BTreeSet<[u8; 32]>,
    linked: bool,
    story: Vec<String>,
}

fn is_directory(entry: &Entry) -> bool {
    entry.content == Content::Directory
}

fn hash(entry: &Entry) -> [u8; 32] {
    match &entry.content {
        Content::File { hash, .. } => *hash,
        _ => [0; 32],
    }
}

const fn side(node: usize) -> Side {
    if node == 0 { Side::First } else { Side::Second }
}

impl Node {
    fn write(&mut self, path: Path, record: Record) {
        self.changes += 1;
        self.records.insert(path, (record, self.changes));
    }

    fn record(&self, path: Path) -> Option<&Record> {
        self.records.get(&path).map(|(record, _)| record)
    }

    fn scan(&mut self, node: usize, now_ns: i64) {
        for path in 0..PATHS {
            self.look(node, path, now_ns);
        }
    }

    fn look(&mut self, node: usize, path: Path, now_ns: i64) {
        if let Some(record) =
            look(self.record(path), self.disk.get(&path), side(node), now_ns + self.clock_ns)
        {
            self.write(path, record);
        }
    }

    /// A process that starts with this database; without one, nothing is known of anybody.
    fn lose_database(&mut self, id: u64) {
        self.records.clear();
        (self.changes, self.id, self.joined_with, self.acked) = (0, id, None, 0);
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let seconds = |rng: &mut Rng| [0, 1, 5, 10][usize::try_from(rng.below(4)).unwrap_or(0)];
        let node = |id, rng: &mut Rng| Node {
            id,
            clock_ns: seconds(rng) * SECOND,
            skew: Duration::from_secs(seconds(rng).unsigned_abs()),
            ..Node::default()
        };
        let nodes = [node(1, &mut rng), node(2, &mut rng)];
        Self {
            rng,
            nodes,
            now_ns: 1_000 * SECOND,
            written: 0,
            superseded: BTreeSet::new(),
            linked: true,
            story: vec![],
        }
    }

    fn pick(&mut self) -> (usize, Path) {
        (usize::try_from(self.rng.below(2)).unwrap_or(0), self.rng.below(PATHS))
    }

    /// A person or a program writes, with what is there before its eyes.
    fn edit(&mut self) {
        let (node, path) = self.pick();
        self.written += 1;
        let mut hash_of = [0; 32];
        hash_of[..8].copy_from_slice(&self.written.to_be_bytes());
        let entry = Entry {
            content: Content::File { size: self.written, hash: hash_of },
            mode: 0o644,
            owner: "dre".into(),
            group: "dre".into(),
            mtime_ns: self.now_ns + self.nodes[node].clock_ns,
            xattrs: vec![],
        };
        self.story.push(format!("node {node} writes {path}: {}", self.written));
        if let Some(old) = self.nodes[node].disk.insert(path, entry) {
            self.superseded.insert(hash(&old));
        }
    }

    /// A directory where nothing was, or in place of a file.
    fn make_directory(&mut self) {
        let (node, path) = self.pick();
        let entry = Entry {
            content: Content::Directory,
            mode: 0o755,
            owner: "dre".into(),
            group: "dre".into(),
            mtime_ns: 0,
            xattrs: vec![],
        };
        self.story.push(format!("node {node} makes directory {path}"));
        if let Some(old) = self.nodes[node].disk.insert(path, entry) {
            self.superseded.insert(hash(&old));
        }
    }

    /// What a hand does while something is taken in.
    fn meddle(&mut self) {
        match self.rng.below(5) {
            0 => self.delete(),
            1 => self.rename(),
            2 => self.make_directory(),
            _ => self.edit(),
        }
    }

    fn delete(&mut self) {
        let (node, path) = self.pick();
        if let Some(old) = self.nodes[node].disk.remove(&path) {
            self.story.push(format!("node {node} deletes {path}"));
            self.superseded.insert(hash(&old));
        }
    }

    fn rename(&mut self) {
        let (node, from) = self.pick();
        let to = self.rng.below(PATHS);
        if from != to
            && let Some(entry) = self.nodes[node].disk.remove(&from)
        {
            self.story.push(format!("node {node} renames {from} to {to}"));
            if let Some(old) = self.nodes[node].disk.insert(to, entry) {
                self.superseded.insert(hash(&old));
            }
        }
    }

    /// `node` takes in what the peer announces; false if it was cut short, by a crash or because a content has changed
    /// meanwhile.
    fn take_in(&mut self, node: usize, crash: bool, busy: bool) -> bool {
        let peer = 1 - node;
        let now_ns = self.now_ns;
        // The sender looks at its disk before it speaks of it.
        self.nodes[peer].scan(peer, now_ns);
        let union = self.nodes[node].joined_with != Some(self.nodes[peer].id);
        if union {
            self.nodes[node].acked = 0;
        }
        let terms = Terms { side: side(node), union, skew: self.nodes[node].skew };
        let mut batch: Vec<(u64, Path, Record)> = self.nodes[peer]
            .records
            .iter()
            .filter(|(_, (_, change))| *change > self.nodes[node].acked)
            .map(|(path, (record, change))| (*change, *path, record.clone()))
            .collect();
        batch.sort_by_key(|(change, ..)| *change);
        let crash_at = if crash { self.rng.below(1 + batch.len() as u64 * 4) } else { u64::MAX };
        let mut step = 0;
        let mut dies = || {
            step += 1;
            step > crash_at
        };
        for (change, path, theirs) in batch {
            if busy && self.rng.chance(10) {
                self.meddle();
            }
            // What is on the disk here may be newer than the last look.
            self.nodes[node].look(node, path, now_ns);
            let (record, keep) = match merge(self.nodes[node].record(path), &theirs, terms) {
                Merge::Nothing => (None, false),
                Merge::Note(record) | Merge::Keep(record) => {
                    self.nodes[node].write(path, record);
                    (None, false)
                }
                // Nothing to keep of a directory.
                Merge::KeepKeeping(record) if theirs.entry().is_some_and(is_directory) => {
                    self.nodes[node].write(path, record);
                    (None, false)
                }
                Merge::KeepKeeping(record) => {
                    // The loser is fetched; it may be another by now.
                    let loser = self.nodes[peer]
                        .disk
                        .get(&path)
                        .filter(|entry| Some(*entry) == theirs.entry())
                        .map(hash);
                    let Some(loser) = loser else { return false };
                    self.nodes[node].kept.insert(loser);
                    if dies() {
                        return false;
                    }
                    self.nodes[node].write(path, record);
                    (None, false)
                }
                Merge::Take(record) => (Some(record), false),
                Merge::TakeKeeping(record) => (Some(record), true),
            };
            if let Some(record) = record {
                // The content is fetched from the peer's disk; it may be another by now.
                if let Some(entry) = record.entry()
                    && !is_directory(entry)
                    && self.nodes[peer].disk.get(&path) != Some(entry)
                {
                    return false;
                }
                if dies() {
                    return false;
                }
                if busy && self.rng.chance(20) {
                    self.meddle();
                }
                let me = &mut self.nodes[node];
                // What is there is no longer what was looked at: nobody decided about it.
                if me.disk.get(&path) != me.record(path).and_then(Record::entry) {
                    return false;
                }
                if keep && let Some(old) = me.disk.get(&path).filter(|old| !is_directory(old)) {
                    me.kept.insert(hash(old));
                }
                if dies() {
                    return false;
                }
                match record.entry() {
                    Some(entry) => drop(me.disk.insert(path, entry.clone())),
                    None => me
                        .trash
                        .extend(me.disk.remove(&path).filter(|old| !is_directory(old)).as_ref().map(hash)),
                }
                if dies() {
                    return false;
                }
                me.write(path, record);
            }
            if !union {
                self.nodes[node].acked = change;
            }
        }
        if dies() {
            return false;
        }
        let (id, changes) = (self.nodes[peer].id, self.nodes[peer].changes);
        self.nodes[node].joined_with = Some(id);
        self.nodes[node].acked = changes;
        true
    }

    fn step(&mut self) {
        self.now_ns += i64::try_from(self.rng.below(3_000)).unwrap_or(0) * 1_000_000;
        match self.rng.below(100) {
            0..27 => self.edit(),
            27..30 => self.make_directory(),
            30..38 => self.delete(),
            38..44 => self.rename(),
            44..80 if self.linked => {
                let node = usize::try_from(self.rng.below(2)).unwrap_or(0);
                let (crash, busy) = (self.rng.chance(30), self.rng.chance(30));
                let whole = self.take_in(node, crash, busy);
                self.story
                    .push(format!("node {node} takes in ({})", if whole { "all" } else { "cut short" }));
            }
            44..92 => {
                let (node, now_ns) = (usize::try_from(self.rng.below(2)).unwrap_or(0), self.now_ns);
                self.nodes[node].scan(node, now_ns);
            }
            92..98 => self.linked = !self.linked,
            98 => {
                let node = usize::try_from(self.rng.below(2)).unwrap_or(0);
                let id = 10 + self.rng.below(u64::MAX / 2);
                self.story.push(format!("node {node} loses its database"));
                self.nodes[node].lose_database(id);
            }
            _ => {
                let node = usize::try_from(self.rng.below(2)).unwrap_or(0);
                self.nodes[node].clock_ns = i64::try_from(self.rng.below(20)).unwrap_or(0) * SECOND;
                self.nodes[node].skew = Duration::from_secs(self.rng.below(12));
            }
        }
    }

    /// How many contents are nowhere but in a trash though no hand deleted them.
    fn judge(&mut self, seed: u64) -> usize {
        for _ in 0..8 {
            for node in 0..2 {
                assert!(
                    self.take_in(node, false, false),
                    "seed {seed}: not taken in though nothing disturbs"
                );
            }
        }
        let story = || self.story.join("\n");
        let [a, b] = &self.nodes;
        assert_eq!(a.disk, b.disk, "seed {seed}: the disks differ\n{}", story());
        for path in 0..PATHS {
            assert_eq!(
                a.record(path).map(|r| &r.state),
                b.record(path).map(|r| &r.state),
                "seed {seed}: path {path}"
            );
        }
        let there: BTreeSet<[u8; 32]> = a.disk.values().map(hash).collect();
        let mut trashed = 0;
        for n in 1..=self.written {
            let mut content = [0; 32];
            content[..8].copy_from_slice(&n.to_be_bytes());
            let safe = there.contains(&content)
                || self.superseded.contains(&content)
                || self.nodes.iter().any(|node| node.kept.contains(&content));
            trashed += usize::from(!safe);
            let trash = self.nodes.iter().any(|node| node.trash.contains(&content));
            assert!(safe || trash, "seed {seed}: content {n} is lost\n{}", story());
        }
        // Nothing more to say to each other.
        let before = [self.nodes[0].changes, self.nodes[1].changes];
        for node in 0..2 {
            self.take_in(node, false, false);
        }
        assert_eq!(
            before,
            [self.nodes[0].changes, self.nodes[1].changes],
            "seed {seed}: they never come to rest"
        );
        trashed
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A thousand stories of a thousand steps.
#[test]
fn they_converge_and_nothing_is_lost() {
    let seeds = match number("DRE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = std::collections::hash_map::RandomState::new().build_hasher().finish() >> 1;
            first..first + number("DRE_SIM_SEEDS").unwrap_or(1_000)
        }
    };
    println!("seeds from {} on", seeds.start);
    let (mut conflicts, mut written, mut trashed) = (0, 0, 0);
    for seed in seeds.clone() {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        trashed += world.judge(seed);
        conflicts += world.nodes.iter().map(|n| n.kept.len()).sum::<usize>();
        written += world.written;
    }
    println!(
        "{} stories of {STEPS} steps, {written} contents written, {conflicts} kept aside, {trashed} in the trash alone",
        seeds.clone().count()
    );
    // Rare by nature: a hand puts the very same file, with its time, back where a deletion of the peer's was done and a crash came
    // before that was recorded. It is not told from the file of before, goes again, and is in the trash.
    assert!(
        trashed as u64 <= 3 + (seeds.end - seeds.start) / 200,
        "{trashed} contents were saved by the trash alone"
    );
    assert!(conflicts > 0, "no story had a conflict: they test nothing");
}
