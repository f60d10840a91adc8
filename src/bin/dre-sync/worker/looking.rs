//! What is there: paths that something happened to, or all of them; what changed goes to the peer.

use dre::logic::sync::record::Entry;

use super::*;

impl Worker {
    /// Looks at these paths and records what changed. Those that could not be looked at now (still written to) stay
    /// dirty and are returned, with those that are not there.
    pub(super) fn look(&mut self, paths: &[Vec<u8>], deep: bool) -> Result<Looked, Fatal> {
        let now = clock::now();
        while self.appeared.front().is_some_and(|(at, _)| now > *at + MOVED_WITHIN) {
            self.appeared.pop_front();
        }
        let mut looked = Looked::default();
        let mut named = HashMap::new();
        let (side, mut put, mut restat) = (self.around.side, vec![], vec![]);
        for path in paths {
            self.alive();
            let known = self.store.get(path)?;
            let compared = match (&known, deep) {
                // As one that is young: its content is read, and whose it was is still known.
                (Some(known), true) => {
                    let stat = known.stat.map(|stat| Stat { ctime_ns: 0, ..stat });
                    Some(Known { stat, ..known.clone() })
                }
                (known, _) => known.clone(),
            };
            match self.tree.look(path, compared.as_ref()) {
                Ok(Look::Same) => {
                    self.refused.remove(path);
                    self.guard.back(path);
                    self.dirty.was_echo(path);
                }
                Ok(Look::There { entry, stat }) => {
                    self.refused.remove(path);
                    self.guard.back(path);
                    if stat.is_young() {
                        self.dirty.again(path);
                    }
                    let same = |e: &Entry| {
                        (&e.content, e.mtime_ns, e.mode) == (&entry.content, entry.mtime_ns, entry.mode)
                    };
                    if let Some(record) = self.intents.get(path).filter(|r| r.entry().is_some_and(same)) {
                        put.push((path, record.clone(), Some(stat)));
                        continue;
                    }
                    if deep
                        && let Some(known) = &known
                        && known.stat.is_some_and(|known| known.shows_the_same(&stat))
                        && known.record.entry().is_some_and(|known| known.content != entry.content)
                    {
                        // Nobody wrote it: the peer's copy is the good one, or this one was changed behind the file system's back.
                        self.refused.insert(
                            path.clone(),
                            "its content changed though its times did not (a disk that fails?); touch it if this is the right one, \
                             or remove it and restore the peer's"
                                .into(),
                        );
                        continue;
                    }
                    match look(known.as_ref().map(|k| &k.record), Some(&entry), side, wall_ns()) {
                        Some(record) => {
                            if known.as_ref().is_none_or(|known| known.record.entry().is_none())
                                && let Content::File { hash, .. } = &entry.content
                            {
                                self.appeared.push_back((now, *hash));
                            }
                            put.push((path, record, Some(stat)));
                        }
                        None => restat.push((path, stat)),
                    }
                    // A directory's are its own `.` and those of what is in it.
                    if stat.names > 1 && entry.content != Content::Directory {
                        named.insert((stat.device, stat.inode), stat.ctime_ns);
                    }
                }
                Ok(Look::Absent) => {
                    self.refused.remove(path);
                    looked.absent.insert(path.clone());
                    if let Some(record) = self.intents.get(path).filter(|r| r.entry().is_none()) {
                        put.push((path, record.clone(), None));
                        continue;
                    }
                    if let Some(known) = &known
                        && let Some(entry) = known.record.entry()
                    {
                        self.guard.gone(now, path.clone());
                        if entry.content == Content::Directory {
                            for below in self.store.below(path)? {
                                let (path, known) = below?;
                                if known.record.entry().is_some() {
                                    self.guard.gone(now, path);
                                }
                            }
                        }
                    }
                }
                Ok(Look::Unsettled) => {
                    self.dirty.again(path);
                    looked.unsettled.insert(path.clone());
                }
                Ok(Look::Excluded) => {}
                Ok(Look::Refused(why)) => {
                    looked.unsettled.insert(path.clone());
                    self.refused.insert(path.clone(), format!("is not replicated: {why}"));
                }
                Err(error) => {
                    looked.unsettled.insert(path.clone());
                    self.refused.insert(path.clone(), format!("cannot be read: {error}"));
                }
            }
        }
        self.facts.refused = self.refused.first_key_value().map(|(path, why)| {
            let more = if self.refused.len() > 1 {
                format!(" (and {} more)", self.refused.len() - 1)
            } else {
                String::new()
            };
            format!("{} {why}{more}", shown(path))
        });
        looked.changed = put.len();
        if !put.is_empty() || !restat.is_empty() {
            self.store.write(false, |batch| {
                for (path, record, stat) in &put {
                    batch.put(path, record, *stat)?;
                }
                for (path, stat) in &restat {
                    batch.restat(path, Some(*stat))?;
                }
                Ok(())
            })?;
            self.flush_later();
        }
        if !named.is_empty() {
            self.look_at_other_names(&named)?;
        }
        Ok(looked)
    }

    /// A directory that was moved away: no event tells what was in it.
    pub(super) fn look_below(&mut self, directory: &[u8]) -> Result<(), Fatal> {
        let mut paths = vec![directory.to_vec()];
        for below in self.store.below(directory)? {
            let (path, known) = below?;
            if known.record.entry().is_some() {
                paths.push(path);
            }
        }
        for piece in paths.chunks(LOOKED_AT_ONCE) {
            self.look(piece, false)?;
        }
        Ok(())
    }

    /// Files with several names were changed through one of them: only that one had an event.
    pub(super) fn look_at_other_names(&mut self, changed: &HashMap<(u64, u64), i64>) -> Result<(), Fatal> {
        for other in self.store.walk()? {
            let (other, known) = other?;
            let Some(stat) = known.stat else { continue };
            if changed.get(&(stat.device, stat.inode)).is_some_and(|ctime_ns| stat.ctime_ns != *ctime_ns) {
                self.dirty.mark(&other);
            }
        }
        Ok(())
    }

    /// Looks at everything. How many paths had changed.
    pub(super) fn scan(&mut self, deep: bool) -> Result<usize, Fatal> {
        let now = clock::now();
        self.rescan = false;
        if self.dirty.watch_limit() {
            // It may have been raised, or others' watches have gone.
            self.watcher.rewatch(&self.tree.live())?;
        }
        self.scan_at = now + SCAN_EVERY;
        if deep {
            self.deep_at = now + DEEP_EVERY;
        }
        self.facts.scanning = Some((0, self.store.totals().present()));
        self.show();
        let mut there: BTreeMap<Vec<u8>, Stat> = BTreeMap::new();
        let unread = self.tree.walk(b"", &mut |path, stat| {
            there.insert(path, stat);
        })?;
        if let Some(unread) = unread.first() {
            self.refused.insert(vec![], unread.error.to_string());
        } else {
            self.refused.remove(&b""[..]);
        }
        let mut differ = vec![];
        for known in self.store.walk()? {
            let (path, known) = known?;
            match there.remove(&path) {
                Some(stat) if !deep && known.stat.is_some_and(|s| s.shows_the_same(&stat)) => {}
                Some(_) => differ.push(path),
                None if known.record.entry().is_some() => differ.push(path),
                None => {}
            }
        }
        differ.extend(there.into_keys());
        let all = differ.len();
        let mut changed = 0;
        for (n, piece) in differ.chunks(LOOKED_AT_ONCE).enumerate() {
            self.facts.scanning = Some(((n * LOOKED_AT_ONCE) as u64, all as u64));
            self.show();
            let looked = self.look(piece, deep)?;
            changed += looked.changed + looked.absent.len();
            self.give()?;
        }
        if !std::mem::take(&mut self.intents).is_empty() {
            // What was found of them has its record by now, and what was not is given again.
            self.store.write(false, |batch| batch.set_note(PUBLISHING, None))?;
            self.flush_later();
        }
        lock(&self.shared.status).counters.scans += 1;
        self.facts.scanning = None;
        Ok(changed)
    }

    pub(super) fn give(&mut self) -> Result<(), Fatal> {
        self.give_at = None;
        let Some(taker) = &mut self.taker else { return Ok(()) };
        loop {
            if taker.given >= self.store.last() && !taker.fresh {
                return Ok(());
            }
            let since = self.store.since(taker.given, ENTRIES_MAX)?;
            // What the peer itself gave it has.
            let echo = &self.echo;
            let entries: Vec<Given> = since
                .entries
                .into_iter()
                .filter(|given| echo.get(&given.path) != Some(&given.record.version))
                .collect();
            let files = entries.len() as u64;
            let words = Give::Changes {
                set: self.set.name.clone(),
                id: self.store.id(),
                wall_ns: wall_ns(),
                entries,
                upto: since.upto,
                more: since.more,
            };
            match taker.say.try_send(words) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    // The peer reads more slowly than this disk: a turn later.
                    self.give_at = Some(clock::now() + GIVE_AGAIN);
                    return Ok(());
                }
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    self.taker = None;
                    return Ok(());
                }
            }
            (taker.given, taker.fresh) = (since.upto, false);
            lock(&self.shared.status).counters.files_out += files;
            if !since.more {
                self.echo.clear();
                return Ok(());
            }
        }
    }
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) changed: usize,
    pub(super) absent: BTreeSet<Vec<u8>>,
    pub(super) unsettled: BTreeSet<Vec<u8>>,
}

impl Looked {
    pub(super) fn add(&mut self, other: Self) {
        self.changed += other.changed;
        self.absent.extend(other.absent);
        self.unsettled.extend(other.unsettled);
    }
}
