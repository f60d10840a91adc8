//! What dre-sync knows of a set: one crash-safe file (redb), one writer beside several readers.
//!
//! ```text
//!   paths    path     → record, sequence, stat     what walk and below give, in the order of the paths' bytes
//!   order    sequence → path                       one entry a path: its newest change; what since gives
//!   numbers  name     → u64                        this database's id, the peer's, how far each has come, the mark
//!   notes    key      → bytes                      the worker's own
//! ```
//!
//! A commit that is not durable is seen by every reader at once and lost with the power; [`Store::flush`] makes all of
//! them durable. The peer may have been given what is then lost: so a sequence number is never used twice. The file
//! holds a *mark* that is durable before any number below it is given out, and whoever opens the file goes on above it.
//!
//! A file that is broken is moved aside, never repaired by guessing: a new database is a union with the peer's, in which
//! nothing is a deletion. Every page is verified when the file is opened, or redb might panic over it later.
//!
//! After a failed commit redb refuses everything until the file is opened again: the worker drops its store and opens
//! it anew.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{
    Database, Durability, Range, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};

use crate::logic::sync::record::{Content, Known, Record, Stat, State};
use crate::logic::sync::talk::{Given, WORD_MAX};

const PATHS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("paths");
const ORDER: TableDefinition<u64, &[u8]> = TableDefinition::new("order");
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const NOTES: TableDefinition<&str, &[u8]> = TableDefinition::new("notes");

/// Rises when a table changes its meaning: a file of another format is moved aside like a broken one.
const FORMAT: u64 = 1;
/// Pages kept in memory. A walk over 100,000 paths reads each page once, whatever is kept.
const CACHE_BYTES: usize = 4 << 20;
/// How far the mark is ahead of the numbers given out: one durable commit in so many changes.
const RESERVE: u64 = 1_000_000;
/// One answer of [`Store::since`] fits into a word between the nodes, with room for what is around it.
const SINCE_BYTES_MAX: usize = WORD_MAX / 2;

/// Why the database could not do what was asked.
#[derive(Debug)]
pub struct Error {
    path: PathBuf,
    doing: &'static str,
    /// Boxed: it is large, and this is carried by every answer.
    source: Box<redb::Error>,
}

impl Error {
    /// The file holds something that this program did not write: only opening it again helps, which moves it aside.
    pub fn is_broken(&self) -> bool {
        broken(&self.source).is_some()
    }

    /// What the kernel said, where it was the kernel.
    pub fn errno(&self) -> Option<i32> {
        match &*self.source {
            redb::Error::Io(error) => error.raw_os_error(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, doing, source) = (self.path.display(), self.doing, &self.source);
        let remedy = match (&*self.source, self.errno()) {
            (redb::Error::DatabaseAlreadyOpen, _) => "end the other dre-sync that has it open",
            (_, Some(libc::ENOSPC | libc::EDQUOT)) => "make room on its file system",
            (_, Some(libc::EACCES | libc::EPERM)) => "dre-sync must own the file and its directory",
            (_, Some(libc::EROFS)) => "remount its file system for writing",
            (_, Some(libc::ENOENT)) => "make its directory",
            _ if self.is_broken() => {
                "it is opened anew by itself, moved aside, and the set compared with the peer's as a whole"
            }
            _ => {
                "it is opened anew by itself; if that does not help, stop dre-sync, move the file away and start it: the set is then compared as a whole"
            }
        };
        write!(
            f,
            "{path}: cannot {doing} the set's database: {source}; until then the set is not synchronised; {remedy}"
        )
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// Why the file is not one of ours; `None`: the trouble is another.
fn broken(error: &redb::Error) -> Option<String> {
    match error {
        redb::Error::Corrupted(what) => Some(what.clone()),
        redb::Error::Io(e)
            if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Some(e.to_string())
        }
        redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_) => Some(error.to_string()),
        _ => None,
    }
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub files: u64,
    pub links: u64,
    pub directories: u64,
    /// Of the files.
    pub bytes: u64,
    pub tombstones: u64,
}

impl Totals {
    /// Paths that are there.
    pub fn present(&self) -> u64 {
        self.files + self.links + self.directories
    }

    fn count(&mut self, record: &Record, one: impl Fn(&mut u64, u64)) {
        match record.entry().map(|entry| &entry.content) {
            Some(Content::File { size, .. }) => {
                one(&mut self.files, 1);
                one(&mut self.bytes, *size);
            }
            Some(Content::Link { .. }) => one(&mut self.links, 1),
            Some(Content::Directory) => one(&mut self.directories, 1),
            None => one(&mut self.tombstones, 1),
        }
    }

    fn add(&mut self, record: &Record) {
        self.count(record, |sum, n| *sum = sum.saturating_add(n));
    }

    fn subtract(&mut self, record: &Record) {
        self.count(record, |sum, n| *sum = sum.saturating_sub(n));
    }
}

/// What is asked often, of the newest commit.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    /// Newest number that a reader can find, and newest that was given out (to a batch that may have failed).
    last: u64,
    given: u64,
    mark: u64,
    joined: Option<u64>,
    taken: u64,
    acked: u64,
    totals: Totals,
    dirty: bool,
}

/// The database of one set.
pub struct Store {
    database: Database,
    path: PathBuf,
    id: u64,
    lost: Option<String>,
    facts: Mutex<Facts>,
    /// Held from before a transaction begins until its facts are written: redb's own lock ends with the commit.
    writer: Mutex<()>,
}

/// Changes after a number, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Since {
    pub entries: Vec<Given>,
    /// Everything up to here is in `entries`.
    pub upto: u64,
    pub more: bool,
}

impl Store {
    /// Opens the file or makes a new one. A broken one is moved aside: see [`Self::was_lost`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let error = match Self::try_open(path) {
            Err(error) if error.is_broken() => error,
            result => return result,
        };
        let why = broken(&error.source).unwrap_or_default();
        let mut aside = path.to_owned().into_os_string();
        aside.push(format!(".broken-{}", super::clock::wall_ms() / 1000));
        std::fs::rename(path, &aside).map_err(|e| Error {
            path: path.to_owned(),
            doing: "move aside",
            source: Box::new(redb::Error::Io(e)),
        })?;
        let mut store = Self::try_open(path)?;
        store.lost = Some(format!(
            "{} was not a database any more ({why}) and is now {}; the set is compared with the peer's as a whole, and \
             what was deleted on one node while it was lost may come back",
            path.display(),
            Path::new(&aside).display()
        ));
        Ok(store)
    }

    fn try_open(path: &Path) -> Result<Self, Error> {
        let failed =
            |source: redb::Error| Error { path: path.to_owned(), doing: "open", source: Box::new(source) };
        let (database, id, mut facts) = Self::begin(path).map_err(failed)?;
        let store = Self {
            database,
            path: path.to_owned(),
            id,
            lost: None,
            facts: Mutex::default(),
            writer: Mutex::default(),
        };
        // Read once as a whole: what cannot be read is found now, not in the middle of a batch.
        for known in store.walk()? {
            facts.totals.add(&known?.1.record);
        }
        *store.facts() = facts;
        Ok(store)
    }

    fn begin(path: &Path) -> Result<(Database, u64, Facts), redb::Error> {
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(path)?;
        let transaction = database.begin_write()?;
        let (id, facts) = {
            transaction.open_table(PATHS)?;
            transaction.open_table(ORDER)?;
            transaction.open_table(NOTES)?;
            let mut numbers = transaction.open_table(NUMBERS)?;
            let number = |numbers: &Table<'_, &str, u64>, name: &str| -> Result<Option<u64>, redb::Error> {
                Ok(numbers.get(name)?.map(|value| value.value()))
            };
            match number(&numbers, "format")? {
                Some(FORMAT) => {}
                Some(other) => {
                    return Err(redb::Error::Corrupted(format!("format {other}, and this is {FORMAT}")));
                }
                None => drop(numbers.insert("format", FORMAT)?),
            }
            let id = match number(&numbers, "id")? {
                Some(id) => id,
                None => {
                    let id = random()?;
                    numbers.insert("id", id)?;
                    id
                }
            };
            let last = number(&numbers, "mark")?.unwrap_or(0);
            numbers.insert("mark", last + RESERVE)?;
            let facts = Facts {
                last,
                given: last,
                mark: last + RESERVE,
                joined: number(&numbers, "joined")?,
                taken: number(&numbers, "taken")?.unwrap_or(0),
                acked: number(&numbers, "acked")?.unwrap_or(0),
                ..Facts::default()
            };
            (id, facts)
        };
        transaction.commit()?;
        Ok((database, id, facts))
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // Nothing panics while it is held; a copy of plain numbers is whole in any case.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed<E: Into<redb::Error>>(&self, doing: &'static str) -> impl Fn(E) -> Error + '_ {
        move |source| Error { path: self.path.clone(), doing, source: Box::new(source.into()) }
    }

    /// Which database this is: another number, another history.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Why the history that was here is not, as a sentence.
    pub fn was_lost(&self) -> Option<String> {
        self.lost.clone()
    }

    /// Number of the newest change. After an opening that is the mark: numbers before it may have been given out.
    pub fn last(&self) -> u64 {
        self.facts().last
    }

    /// The peer's database with which everything was compared once.
    pub fn joined(&self) -> Option<u64> {
        self.facts().joined
    }

    /// The peer's change up to which it was taken in.
    pub fn taken(&self) -> u64 {
        self.facts().taken
    }

    /// This node's change up to which the peer has taken it in.
    pub fn peer_acked(&self) -> u64 {
        self.facts().acked
    }

    pub fn totals(&self) -> Totals {
        self.facts().totals
    }

    /// Whether something would be lost with the power.
    pub fn dirty(&self) -> bool {
        self.facts().dirty
    }

    pub fn get(&self, path: &[u8]) -> Result<Option<Known>, Error> {
        self.find(path).map_err(self.failed("read"))
    }

    fn find(&self, path: &[u8]) -> Result<Option<Known>, redb::Error> {
        let table = self.database.begin_read()?.open_table(PATHS)?;
        table.get(path)?.map(|value| decode(value.value())).transpose()
    }

    /// Everything, in the order of the paths' bytes, as it is now: later commits are not seen.
    pub fn walk(&self) -> Result<Walk<'_>, Error> {
        self.below(b"")
    }

    /// What lies in a directory and in those below it, without the directory itself.
    pub fn below(&self, directory: &[u8]) -> Result<Walk<'_>, Error> {
        let range = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(PATHS)?;
            if directory.is_empty() {
                return Ok(table.range::<&[u8]>(..)?);
            }
            // All that begins with the directory and a slash lies before the byte that follows the slash.
            let (from, to) = ([directory, b"/"].concat(), [directory, b"0"].concat());
            Ok(table.range(from.as_slice()..to.as_slice())?)
        };
        Ok(Walk { range: range().map_err(self.failed("read"))?, store: self })
    }

    /// At most `limit` changes after `after`, or what fits into one word between the nodes.
    pub fn since(&self, after: u64, limit: usize) -> Result<Since, Error> {
        // Before the snapshot is taken: what is committed in between is given the next time.
        let last = self.last();
        self.changes(after, last, limit).map_err(self.failed("read"))
    }

    fn changes(&self, after: u64, last: u64, limit: usize) -> Result<Since, redb::Error> {
        let mut since = Since { upto: last.max(after), ..Since::default() };
        if after >= last {
            return Ok(since);
        }
        let snapshot = self.database.begin_read()?;
        let (order, paths) = (snapshot.open_table(ORDER)?, snapshot.open_table(PATHS)?);
        let mut bytes = 0;
        for change in order.range(after + 1..=last)? {
            let (sequence, path) = change?;
            let (sequence, path) = (sequence.value(), path.value());
            let Some(value) = paths.get(path)? else {
                return Err(redb::Error::Corrupted(format!(
                    "change {sequence} is of a path without a record"
                )));
            };
            bytes += path.len() + value.value().len();
            if since.entries.len() >= limit || (bytes > SINCE_BYTES_MAX && !since.entries.is_empty()) {
                since.upto = since.entries.last().map_or(after, |given| given.sequence);
                since.more = true;
                break;
            }
            let record = decode(value.value())?.record;
            since.entries.push(Given { sequence, path: path.to_vec(), record });
        }
        Ok(since)
    }

    /// How many paths changed after `after`.
    pub fn pending(&self, after: u64) -> Result<u64, Error> {
        if after >= self.last() {
            return Ok(0);
        }
        let count = || -> Result<u64, redb::Error> {
            let mut count = 0;
            for change in self.database.begin_read()?.open_table(ORDER)?.range(after + 1..)? {
                change?;
                count += 1;
            }
            Ok(count)
        };
        count().map_err(self.failed("read"))
    }

    /// The worker's own words, kept with the set.
    pub fn note(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let note = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(NOTES)?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        };
        note().map_err(self.failed("read"))
    }

    /// Everything in one transaction: all of it or, when `work` or the disk fails, nothing. Waits for another writer.
    pub fn write<T>(
        &self,
        durable: bool,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let failed = self.failed::<redb::Error>("write");
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = self.database.begin_write().map_err(self.failed("write"))?;
        let before = *self.facts();
        let mut batch = Batch::begin(&self.path, &transaction, before).map_err(&failed)?;
        let result = work(&mut batch);
        let mut after = batch.facts;
        let durable = durable || after.mark != before.mark;
        drop(batch);
        // Numbers of a batch that failed are not given out again: no reader could have seen them, but nobody
        // needs to know that.
        self.facts().given = after.given;
        let done = match result {
            Ok(done) => done,
            Err(error) => {
                transaction.abort().map_err(self.failed("write"))?;
                return Err(error);
            }
        };
        self.commit(transaction, durable).map_err(&failed)?;
        after.last = after.given;
        after.dirty = !durable;
        *self.facts() = after;
        Ok(done)
    }

    fn commit(&self, mut transaction: WriteTransaction, durable: bool) -> Result<(), redb::Error> {
        let durability = if durable { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability)?;
        Ok(transaction.commit()?)
    }

    /// Makes everything durable that is not.
    pub fn flush(&self) -> Result<(), Error> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.dirty() {
            return Ok(());
        }
        let transaction = self.database.begin_write().map_err(self.failed("write"))?;
        self.commit(transaction, true).map_err(self.failed("write"))?;
        self.facts().dirty = false;
        Ok(())
    }

    /// Forgets deletions that are older than this and that the peer has taken in; how many there were.
    pub fn drop_tombstones(&self, older_than_ns: i64) -> Result<u64, Error> {
        let acked = self.peer_acked();
        let mut old = vec![];
        for known in self.walk()? {
            let (path, known) = known?;
            if let State::Deleted { at_ns } = known.record.state
                && at_ns < older_than_ns
                && known.sequence <= acked
            {
                old.push(path);
            }
        }
        let count = u64::try_from(old.len()).unwrap_or(u64::MAX);
        if count > 0 {
            self.write(false, |batch| old.iter().try_for_each(|path| batch.forget(path)))?;
        }
        Ok(count)
    }
}

/// Known paths in the order of their bytes.
pub struct Walk<'s> {
    range: Range<'static, &'static [u8], &'static [u8]>,
    store: &'s Store,
}

impl Iterator for Walk<'_> {
    type Item = Result<(Vec<u8>, Known), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = |item: Result<_, redb::StorageError>| -> Result<_, redb::Error> {
            let (path, value): (redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>) = item?;
            Ok((path.value().to_vec(), decode(value.value())?))
        };
        let item = self.range.next()?;
        Some(read(item).map_err(self.store.failed("read")))
    }
}

/// One write transaction.
pub struct Batch<'t> {
    file: &'t Path,
    paths: Table<'t, &'static [u8], &'static [u8]>,
    order: Table<'t, u64, &'static [u8]>,
    numbers: Table<'t, &'static str, u64>,
    notes: Table<'t, &'static str, &'static [u8]>,
    facts: Facts,
}

impl<'t> Batch<'t> {
    fn begin(file: &'t Path, transaction: &'t WriteTransaction, facts: Facts) -> Result<Self, redb::Error> {
        Ok(Self {
            file,
            paths: transaction.open_table(PATHS)?,
            order: transaction.open_table(ORDER)?,
            numbers: transaction.open_table(NUMBERS)?,
            notes: transaction.open_table(NOTES)?,
            facts,
        })
    }

    fn failed<E: Into<redb::Error>>(&self) -> impl Fn(E) -> Error + use<'t, E> {
        let file = self.file;
        move |source| Error { path: file.to_owned(), doing: "write", source: Box::new(source.into()) }
    }

    /// With what this transaction wrote.
    pub fn get(&self, path: &[u8]) -> Result<Option<Known>, Error> {
        let known = || -> Result<_, redb::Error> {
            self.paths.get(path)?.map(|value| decode(value.value())).transpose()
        };
        known().map_err(self.failed())
    }

    /// A change: the record takes the place of the path's earlier one and gets the next number, which is returned.
    pub fn put(&mut self, path: &[u8], record: &Record, stat: Option<Stat>) -> Result<u64, Error> {
        self.change(path, record, stat).map_err(self.failed())
    }

    fn change(&mut self, path: &[u8], record: &Record, stat: Option<Stat>) -> Result<u64, redb::Error> {
        let sequence = self.facts.given + 1;
        self.facts.given = sequence;
        if sequence + RESERVE / 2 > self.facts.mark {
            self.facts.mark = sequence + RESERVE;
            self.numbers.insert("mark", self.facts.mark)?;
        }
        let known = Known { record: record.clone(), sequence, stat };
        let old = self.paths.insert(path, encode(&known)?.as_slice())?.map(|old| decode(old.value()));
        if let Some(old) = old.transpose()? {
            self.order.remove(old.sequence)?;
            self.facts.totals.subtract(&old.record);
        }
        self.order.insert(sequence, path)?;
        self.facts.totals.add(record);
        Ok(sequence)
    }

    /// The disk shows something else, and it means the same: no change, no number. `false`: nothing is known of the path.
    pub fn restat(&mut self, path: &[u8], stat: Option<Stat>) -> Result<bool, Error> {
        let Some(mut known) = self.get(path)? else { return Ok(false) };
        if known.stat != stat {
            known.stat = stat;
            let failed = self.failed();
            let value = encode(&known).map_err(self.failed())?;
            self.paths.insert(path, value.as_slice()).map(drop).map_err(failed)?;
        }
        Ok(true)
    }

    /// As if the path had never been known: not a deletion, and nothing the peer is told.
    pub fn forget(&mut self, path: &[u8]) -> Result<(), Error> {
        let failed = self.failed();
        self.remove(path).map_err(failed)
    }

    fn remove(&mut self, path: &[u8]) -> Result<(), redb::Error> {
        let old = self.paths.remove(path)?.map(|old| decode(old.value()));
        if let Some(old) = old.transpose()? {
            self.order.remove(old.sequence)?;
            self.facts.totals.subtract(&old.record);
        }
        Ok(())
    }

    /// Everything of the peer's database up to `taken` is here.
    pub fn set_joined(&mut self, peer: u64, taken: u64) -> Result<(), Error> {
        self.number("joined", peer)?;
        self.number("taken", taken)?;
        (self.facts.joined, self.facts.taken) = (Some(peer), taken);
        Ok(())
    }

    /// The peer has everything up to here.
    pub fn set_peer_acked(&mut self, sequence: u64) -> Result<(), Error> {
        self.number("acked", sequence)?;
        self.facts.acked = sequence;
        Ok(())
    }

    fn number(&mut self, name: &'static str, value: u64) -> Result<(), Error> {
        let failed = self.failed();
        self.numbers.insert(name, value).map(drop).map_err(failed)
    }

    /// `None` removes it.
    pub fn set_note(&mut self, key: &str, note: Option<&[u8]>) -> Result<(), Error> {
        let failed = self.failed();
        match note {
            Some(note) => self.notes.insert(key, note).map(drop).map_err(failed),
            None => self.notes.remove(key).map(drop).map_err(failed),
        }
    }
}

fn encode(known: &Known) -> Result<Vec<u8>, redb::Error> {
    // Only a type that postcard cannot write at all fails here: no value of ours does.
    postcard::to_stdvec(known).map_err(|e| redb::Error::Io(io::Error::other(e)))
}

fn decode(value: &[u8]) -> Result<Known, redb::Error> {
    postcard::from_bytes(value)
        .map_err(|e| redb::Error::Corrupted(format!("a record of {} bytes: {e}", value.len())))
}

/// Not zero: that is nobody's.
fn random() -> io::Result<u64> {
    loop {
        let id = getrandom::u64()
            .map_err(|e| io::Error::other(format!("the kernel gives no random bytes: {e}")))?;
        if id != 0 {
            return Ok(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;
    use crate::logic::sync::record::Entry;
    use crate::logic::sync::version::{Side, Version};

    /// A directory of its own, gone with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("dre-store-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).expect("a directory");
            Self(dir)
        }

        fn file(&self) -> PathBuf {
            self.0.join("set.db")
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn file(n: u64) -> Record {
        let mut hash = [7; 32];
        hash[..8].copy_from_slice(&n.to_le_bytes());
        let entry = Entry {
            content: Content::File { size: n, hash },
            mode: 0o644,
            owner: "dre".into(),
            group: "dre".into(),
            mtime_ns: 1_700_000_000_123_456_789,
            xattrs: vec![],
        };
        Record {
            version: Version::default().bumped(Side::First, 1_700_000_000_000_000_000),
            state: State::Present(entry),
        }
    }

    fn gone(at_ns: i64) -> Record {
        Record { version: Version::default(), state: State::Deleted { at_ns } }
    }

    fn stat(n: u64) -> Stat {
        Stat {
            size: n,
            mtime_ns: 1_700_000_000_123_456_789,
            ctime_ns: 1_700_000_000_223_456_789,
            device: 65_024,
            inode: 1_000_000 + n,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            names: 1,
        }
    }

    fn put(store: &Store, path: &str, record: &Record, durable: bool) -> u64 {
        store.write(durable, |batch| batch.put(path.as_bytes(), record, None)).expect("written")
    }

    fn paths(walk: Walk<'_>) -> Vec<String> {
        walk.map(|known| String::from_utf8_lossy(&known.expect("read").0).into_owned()).collect()
    }

    #[test]
    fn a_record_is_found_by_path_in_order_and_by_number() {
        let dir = Dir::new("find");
        let store = Store::open(&dir.file()).expect("opened");
        assert!(store.was_lost().is_none() && store.id() != 0);
        let begun = store.last();
        for path in ["d/b", "d", "d-x", "d/a/c", "e", "d0"] {
            put(&store, path, &file(3), false);
        }
        assert_eq!(paths(store.walk().expect("walk")), ["d", "d-x", "d/a/c", "d/b", "d0", "e"]);
        assert_eq!(paths(store.below(b"d").expect("below")), ["d/a/c", "d/b"]);
        assert_eq!(store.last(), begun + 6);
        // The newest change of a path is the only one.
        assert_eq!(put(&store, "d", &gone(5), false), begun + 7);
        let since = store.since(begun, 3).expect("since");
        let given = |since: &Since| -> Vec<(u64, String)> {
            let path = |given: &Given| String::from_utf8_lossy(&given.path).into_owned();
            since.entries.iter().map(|given| (given.sequence - begun, path(given))).collect()
        };
        assert_eq!(given(&since), [(1, "d/b".into()), (3, "d-x".into()), (4, "d/a/c".into())]);
        assert_eq!((since.upto, since.more), (begun + 4, true));
        let rest = store.since(since.upto, 100).expect("since");
        assert_eq!(given(&rest), [(5, "e".into()), (6, "d0".into()), (7, "d".into())]);
        assert_eq!((rest.upto, rest.more), (begun + 7, false));
        assert_eq!(store.pending(begun).expect("pending"), 6);
        assert_eq!(store.pending(begun + 4).expect("pending"), 3);
        assert_eq!(store.pending(store.last()).expect("pending"), 0);
        assert_eq!(store.get(b"d").expect("get").expect("known").record, gone(5));
        assert_eq!(store.get(b"nobody").expect("get"), None);
        assert_eq!(store.totals(), Totals { files: 5, bytes: 15, tombstones: 1, ..Totals::default() });
        assert_eq!(store.totals().present(), 5);
    }

    #[test]
    fn another_stat_is_no_change_and_forgetting_is_no_deletion() {
        let dir = Dir::new("restat");
        let store = Store::open(&dir.file()).expect("opened");
        let number = put(&store, "a", &file(1), false);
        let (known, unknown) = store
            .write(false, |batch| {
                Ok((batch.restat(b"a", Some(stat(9)))?, batch.restat(b"b", Some(stat(9)))?))
            })
            .expect("written");
        assert!(known && !unknown);
        let known = store.get(b"a").expect("get").expect("known");
        assert_eq!((known.sequence, known.stat), (number, Some(stat(9))));
        assert_eq!(store.last(), number);
        store.write(false, |batch| batch.forget(b"a")).expect("written");
        assert_eq!(store.get(b"a").expect("get"), None);
        assert_eq!(store.since(0, 10).expect("since").entries, []);
        assert_eq!(store.totals(), Totals::default());
    }

    #[test]
    fn a_batch_that_fails_leaves_nothing_and_its_numbers_are_not_used_again() {
        let dir = Dir::new("abort");
        let store = Store::open(&dir.file()).expect("opened");
        let before = (store.last(), store.totals());
        let refused = store.write(true, |batch| -> Result<(), Error> {
            batch.put(b"a", &file(1), None)?;
            batch.set_joined(7, 8)?;
            assert!(batch.get(b"a")?.is_some(), "a batch sees itself");
            Err(Error { path: dir.file(), doing: "write", source: Box::new(redb::Error::PreviousIo) })
        });
        assert!(refused.is_err());
        assert_eq!((store.last(), store.totals()), before);
        assert_eq!((store.get(b"a").expect("get"), store.joined()), (None, None));
        assert_eq!(put(&store, "b", &file(1), false), before.0 + 2);
    }

    #[test]
    fn what_was_agreed_with_the_peer_survives_and_so_do_notes() {
        let dir = Dir::new("agreed");
        let store = Store::open(&dir.file()).expect("opened");
        let id = store.id();
        store
            .write(true, |batch| {
                batch.set_joined(42, 17)?;
                batch.set_peer_acked(9)?;
                batch.set_note("held", Some(b"20 of 25"))?;
                batch.set_note("gone", Some(b"x"))?;
                batch.set_note("gone", None)
            })
            .expect("written");
        put(&store, "a", &file(5), true);
        drop(store);
        let store = Store::open(&dir.file()).expect("opened");
        assert_eq!((store.id(), store.joined(), store.taken(), store.peer_acked()), (id, Some(42), 17, 9));
        assert_eq!(store.note("held").expect("note").as_deref(), Some(&b"20 of 25"[..]));
        assert_eq!(store.note("gone").expect("note"), None);
        assert_eq!(store.totals(), Totals { files: 1, bytes: 5, ..Totals::default() });
    }

    #[test]
    fn deletions_are_forgotten_when_old_and_taken_in_by_the_peer() {
        let dir = Dir::new("tombstones");
        let store = Store::open(&dir.file()).expect("opened");
        put(&store, "old", &gone(10), false);
        let acked = put(&store, "young", &gone(99), false);
        put(&store, "old-not-acked", &gone(10), false);
        store.write(false, |batch| batch.set_peer_acked(acked)).expect("written");
        assert_eq!(store.drop_tombstones(50).expect("dropped"), 1);
        assert_eq!(paths(store.walk().expect("walk")), ["old-not-acked", "young"]);
        assert_eq!(store.drop_tombstones(50).expect("dropped"), 0);
    }

    /// What a power loss leaves: the file as the durable commits made it. Copied while it is open, for redb writes a
    /// commit that is not durable into its memory or into pages that the durable state does not know.
    #[test]
    fn numbers_lost_with_the_power_are_not_given_out_again() {
        let dir = Dir::new("power");
        let store = Store::open(&dir.file()).expect("opened");
        let kept = put(&store, "a", &file(1), true);
        assert!(!store.dirty());
        let lost = put(&store, "b", &file(2), false);
        assert!(store.dirty());
        let copy = dir.0.join("copy.db");
        fs::copy(dir.file(), &copy).expect("copied");
        let after = Store::open(&copy).expect("opened");
        assert!(after.was_lost().is_none());
        assert_eq!((after.id(), paths(after.walk().expect("walk"))), (store.id(), vec!["a".to_owned()]));
        assert!(kept < lost && after.last() >= lost, "{} would be given out again", after.last() + 1);
        let next = put(&after, "c", &file(3), false);
        assert!(next > lost);
        // The peer was given up to `lost`: what it has to be told from now on comes after that.
        let since = after.since(lost, 10).expect("since");
        assert_eq!(since.entries.iter().map(|given| given.sequence).collect::<Vec<_>>(), [next]);
        // Flushed, it is there.
        store.flush().expect("flushed");
        assert!(!store.dirty());
        let copy = dir.0.join("flushed.db");
        fs::copy(dir.file(), &copy).expect("copied");
        assert_eq!(paths(Store::open(&copy).expect("opened").walk().expect("walk")), ["a", "b"]);
    }

    #[test]
    fn the_mark_moves_on_before_its_numbers_are_used_up() {
        let dir = Dir::new("mark");
        let store = Store::open(&dir.file()).expect("opened");
        store.facts().given = RESERVE - 3;
        let number = put(&store, "a", &file(1), false);
        assert!(!store.dirty(), "a new mark is durable at once");
        let copy = dir.0.join("copy.db");
        fs::copy(dir.file(), &copy).expect("copied");
        assert!(Store::open(&copy).expect("opened").last() >= number + RESERVE);
    }

    #[test]
    fn a_broken_file_is_moved_aside_and_said() {
        let dir = Dir::new("broken");
        let store = Store::open(&dir.file()).expect("opened");
        put(&store, "a", &file(1), true);
        let id = store.id();
        drop(store);
        let whole = fs::read(dir.file()).expect("read");
        let ruined: [(&str, Vec<u8>); 4] = [
            ("rubbish", b"no database at all".repeat(1000)),
            ("cut short", whole[..whole.len() / 2].to_vec()),
            ("zeroed", vec![0; whole.len()]),
            ("header only", whole[..100].to_vec()),
        ];
        for (how, bytes) in ruined {
            fs::write(dir.file(), bytes).expect("written");
            let store = Store::open(&dir.file()).unwrap_or_else(|error| panic!("{how}: {error}"));
            let lost = store.was_lost().unwrap_or_else(|| panic!("{how}: taken for a database"));
            assert!(lost.contains(".broken-") && lost.contains("may come back"), "{how}: {lost}");
            assert_ne!(store.id(), id, "{how}");
            assert_eq!(store.totals().present(), 0, "{how}");
            drop(store);
            for entry in fs::read_dir(&dir.0).expect("read") {
                let path = entry.expect("an entry").path();
                if path.display().to_string().contains(".broken-") {
                    fs::remove_file(path).expect("removed");
                }
            }
        }
        // A file of somebody else's is not touched because it is in use.
        fs::remove_file(dir.file()).expect("removed");
        let first = Store::open(&dir.file()).expect("opened");
        let second = Store::open(&dir.file()).err().expect("there is one already");
        assert!(!second.is_broken() && second.to_string().contains("other dre-sync"), "{second}");
        drop(first);
    }

    /// Bytes turned at random places, as a bad disk does: every one is noticed at the opening or does not matter; none is a
    /// panic, which would end the daemon again and again.
    #[test]
    fn a_turned_byte_anywhere_is_no_panic() {
        let dir = Dir::new("turned");
        let store = Store::open(&dir.file()).expect("opened");
        store
            .write(true, |batch| {
                (0..500).try_for_each(|n| batch.put(format!("d/{n}").as_bytes(), &file(n), None).map(drop))
            })
            .expect("written");
        drop(store);
        let whole = fs::read(dir.file()).expect("read");
        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut noticed = 0;
        for _ in 0..100 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut bytes = whole.clone();
            // In what is in use: the file has room ahead.
            let at = usize::try_from((seed >> 20) % 200_000).expect("small") % bytes.len();
            bytes[at] ^= 1 << (seed >> 61);
            let path = dir.0.join("turned.db");
            fs::write(&path, bytes).expect("written");
            let store = Store::open(&path).unwrap_or_else(|error| panic!("byte {at}: {error}"));
            noticed += usize::from(store.was_lost().is_some());
            for known in store.walk().expect("walk") {
                known.expect("readable");
            }
            put(&store, "new", &file(1), true);
        }
        println!("{noticed} of 100 turned bytes were noticed");
        assert!(noticed > 10);
    }

    #[test]
    fn a_hundred_thousand_records() {
        let dir = Dir::new("many");
        let store = Store::open(&dir.file()).expect("opened");
        let begun = store.last();
        let took =
            |what: &str, since: Instant| println!("{what}: {:.1} ms", since.elapsed().as_secs_f64() * 1e3);
        let clock = Instant::now();
        store
            .write(true, |batch| {
                for n in 0..100_000 {
                    let path = format!("rules/{:03}/rule-{n:06}.conf", n % 1_000);
                    batch.put(path.as_bytes(), &file(n), Some(stat(n)))?;
                }
                Ok(())
            })
            .expect("written");
        took("100,000 put", clock);
        let clock = Instant::now();
        assert_eq!(store.walk().expect("walk").filter(Result::is_ok).count(), 100_000);
        took("walked", clock);
        let clock = Instant::now();
        let since = store.since(begun, 20_000).expect("since");
        assert_eq!((since.entries.len(), since.more), (20_000, true));
        took("20,000 since", clock);
        let clock = Instant::now();
        assert_eq!(store.pending(begun).expect("pending"), 100_000);
        took("100,000 pending", clock);
        let clock = Instant::now();
        for n in 0..1_000 {
            put(&store, "rules/000/rule-000000.conf", &file(n), false);
        }
        took("1,000 commits, not durable", clock);
        let clock = Instant::now();
        store.flush().expect("flushed");
        took("flush", clock);
        let clock = Instant::now();
        for n in 0..20 {
            put(&store, "rules/000/rule-000000.conf", &file(n), true);
        }
        took("20 commits, durable", clock);
        drop(store);
        println!("{} bytes in the file", fs::metadata(dir.file()).expect("there").len());
        let clock = Instant::now();
        let store = Store::open(&dir.file()).expect("opened");
        took("opened after a clean end", clock);
        assert_eq!(store.totals().present(), 100_000);
        let copy = dir.0.join("copy.db");
        fs::copy(dir.file(), &copy).expect("copied");
        let clock = Instant::now();
        assert_eq!(Store::open(&copy).expect("opened").totals().present(), 100_000);
        took("opened after a power loss", clock);
    }
}
