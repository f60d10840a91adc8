//! What the peer gave: fetched, verified, judged, published, and only then said to be taken.

use dre::logic::sync::record::Entry;

use super::*;

impl Worker {
    pub(super) fn terms(&self) -> Terms {
        let union = self.peer.as_ref().map(|peer| peer.offer.id) != self.store.joined();
        Terms { side: self.around.side, union, skew: self.facts.skew }
    }

    /// Takes in what waits, as far as it can.
    pub(super) fn take_in(&mut self) -> Result<(), Fatal> {
        if self.peer.is_none() || self.facts.root_gone.is_some() || self.facts.differs {
            return Ok(());
        }
        let paths: Vec<Vec<u8>> = self.waiting.keys().cloned().collect();
        let stalled = if paths.is_empty() { Stalled::default() } else { self.take_all(&paths)? };
        let (rejected, blocked) = (stalled.rejected, stalled.blocked.or(stalled.barred));
        for reason in self.tree.warnings() {
            if self.owners_told.insert(reason.clone()) {
                let set = self.set.name.clone();
                self.around.journal.log(Notice::RulesOwnerUnknown { set, reason });
            }
        }
        let first = || self.waiting.keys().next().map(|path| shown(path)).unwrap_or_default();
        if self.facts.rejected.is_none()
            && let Some(output) = rejected.clone()
        {
            lock(&self.shared.status).counters.rejects += 1;
            let (set, node, path) = (self.set.name.clone(), self.around.node.clone(), first());
            let files = self.waiting.len() as u64;
            self.around.journal.log(Notice::RulesRejected { set, node, files, path, output });
        }
        if self.facts.blocked.is_none()
            && let Some(reason) = blocked.clone()
        {
            let (set, path) = (self.set.name.clone(), first());
            self.around.journal.log(Notice::RulesBlocked { set, path, reason });
        }
        (self.facts.rejected, self.facts.blocked) = (rejected, blocked);
        if self.waiting.is_empty() {
            self.taken()?;
            self.again_after = AGAIN_FIRST;
        } else if self.again_at.is_none() && self.facts.rejected.is_none() {
            // Something was in the way. The next words of the peer come at once; else it is tried again.
            self.again_at = Some(clock::now() + self.again_after);
            self.again_after = (self.again_after * 2).min(AGAIN_MAX);
        }
        Ok(())
    }

    /// Everything that was given is here: durable, and said.
    pub(super) fn taken(&mut self) -> Result<(), Fatal> {
        let Some(peer) = &self.peer else { return Ok(()) };
        let (id, upto) = (peer.offer.id, self.waiting_upto);
        let joined = self.store.joined() == Some(id);
        if !joined && !self.whole || joined && self.store.taken() >= upto {
            return Ok(());
        }
        self.store.write(true, |batch| batch.set_joined(id, upto))?;
        self.flush_at = None;
        if !joined {
            let (set, peer) = (self.set.name.clone(), self.around.peer.clone());
            let reason = self
                .joined_because
                .take()
                .unwrap_or_else(|| "the first contact of these two databases".into());
            self.around.journal.log(Notice::RulesJoined { set, peer, reason });
        }
        self.show_cursor();
        let _ = peer.words.send(Take::Taken { set: self.set.name.clone(), upto });
        Ok(())
    }

    pub(super) fn show_cursor(&self) {
        let mut cursor = lock(&self.shared.cursor);
        (cursor.joined, cursor.taken) = (self.store.joined(), self.store.taken());
        let (set, digest) = (self.set.name.clone(), self.set.digest);
        *lock(&self.shared.offer) = Some(Offer { set, digest, id: self.store.id(), last: self.store.last() });
    }

    /// What is to be done for these of what waits, in pieces; and which of them are not there now.
    fn planned(&mut self, paths: &[Vec<u8>]) -> Result<(VecDeque<Plan>, BTreeSet<Vec<u8>>), Fatal> {
        let mut looked = Looked::default();
        for piece in paths.chunks(LOOKED_AT_ONCE) {
            looked.add(self.look(piece, false)?);
        }
        // A deletion here that was seen and waits only for quiet is believed now; one that is held gives way to an edit.
        if self.guard.held().is_none() {
            let believed: Vec<Vec<u8>> =
                paths.iter().filter(|path| self.guard.is_pending(path)).cloned().collect();
            for path in &believed {
                self.guard.back(path);
            }
            if !believed.is_empty() {
                self.bury(&believed)?;
            }
        }
        let waits = paths.iter().filter_map(|path| self.waiting.get(path));
        let batch: Vec<Given> = waits.filter(|g| !looked.unsettled.contains(&g.path)).cloned().collect();
        let fault = std::cell::RefCell::new(None);
        let store = &self.store;
        let plan = plan(
            &batch,
            |path| match store.get(path) {
                Ok(known) => known.map(|known| known.record),
                Err(error) => {
                    fault.borrow_mut().get_or_insert(error);
                    None
                }
            },
            self.terms(),
        );
        if let Some(error) = fault.into_inner() {
            return Err(error.into());
        }
        let touched: BTreeSet<&[u8]> = plan
            .moves
            .iter()
            .map(|m| m.step.path.as_slice())
            .chain(plan.losers.iter().map(|(given, _)| given.path.as_slice()))
            .chain(plan.notes.iter().map(|step| step.path.as_slice()))
            .collect();
        // Nothing to do for these: done.
        for given in &batch {
            if !touched.contains(given.path.as_slice()) {
                self.waiting.remove(&given.path);
            }
        }
        drop(touched);
        Ok((pieces(plan, if self.takes_whole() { usize::MAX } else { TAKEN_AT_ONCE }), looked.absent))
    }

    /// A batch that is published as a whole, or judged as a whole, is complete or not at all.
    fn takes_whole(&self) -> bool {
        self.set.validate.is_some() || self.set.publish == dre::config::sync::Publish::Tree
    }

    /// What the peer gives while its changes are taken in joins them, as long as nobody wants anything else. Paths of these, less
    /// those that wait already: theirs are in `later`, for they may be on their way to the disk in the version that was given first.
    fn hear(&mut self, later: &mut Vec<Given>) -> Result<Vec<Vec<u8>>, Fatal> {
        let mut fresh = BTreeSet::new();
        while self.heard.is_none() {
            match self.inbox.try_recv() {
                Ok(Job::Given { id, .. }) if self.peer.as_ref().is_none_or(|peer| peer.offer.id != id) => {}
                Ok(Job::Given { id, entries, upto, more }) => {
                    let known = |given: &Given| {
                        self.waiting.contains_key(&given.path) && !fresh.contains(&given.path)
                    };
                    let (again, new): (Vec<Given>, Vec<Given>) = entries.into_iter().partition(known);
                    // In the order in which they came.
                    later.extend(again.into_iter().filter(Given::is_sound));
                    fresh.extend(new.iter().filter(|given| given.is_sound()).map(|given| given.path.clone()));
                    self.job(Job::Given { id, entries: new, upto, more })?;
                }
                Ok(job @ (Job::Stir | Job::Acked(_) | Job::Verdict(_) | Job::Skew(_))) => {
                    self.job(job)?;
                }
                Ok(job) => self.heard = Some(job),
                Err(_) => break,
            }
        }
        Ok(fresh.into_iter().filter(|path| self.waiting.contains_key(path)).collect())
    }

    /// One piece after the other, and what comes meanwhile; while one is published, the next is fetched. Ends at the first that stalls.
    fn take_all(&mut self, paths: &[Vec<u8>]) -> Result<Stalled, Fatal> {
        let mut later = vec![];
        let stalled = self.take_pieces(paths, &mut later);
        if !later.is_empty() {
            self.again_at = Some(Moment::ZERO);
            self.waiting.extend(later.into_iter().map(|given| (given.path.clone(), given)));
        }
        stalled
    }

    fn take_pieces(&mut self, paths: &[Vec<u8>], later: &mut Vec<Given>) -> Result<Stalled, Fatal> {
        let begun = clock::now();
        let (mut pieces, mut absent) = self.planned(paths)?;
        if self.set.validate.is_some() {
            // What was refused lies there still, and would be judged again with what comes now.
            self.tree.sweep()?;
        }
        let fetcher = Fetcher {
            puller: Arc::clone(&self.puller),
            shared: Arc::clone(&self.shared),
            changed: self.around.changed.clone(),
        };
        let (mut stalled, mut done, mut ahead) = (Stalled::default(), Amount::default(), None);
        self.show_todo(done, &pieces);
        while let Some(plan) = pieces.pop_front() {
            self.waits();
            let brought = ahead.take().unwrap_or_else(|| fetcher.fetch(&plan, done));
            self.alive();
            done = done.and(Amount::of(&plan));
            if pieces.is_empty() && !self.takes_whole() && clock::now() < begun + TAKING_MAX {
                let fresh = self.hear(later)?;
                if !fresh.is_empty() {
                    let (more, not_there) = self.planned(&fresh)?;
                    self.show_todo(done, &more);
                    pieces = more;
                    // What was not there when it was looked at first may have been published since.
                    for path in &fresh {
                        absent.remove(path);
                    }
                    absent.extend(not_there);
                }
            }
            let next = pieces.front();
            let taken = std::thread::scope(|scope| {
                let fetch = next.map(|next| || fetcher.fetch(next, done));
                let thread = || std::thread::Builder::new().name("fetch".into());
                // Without a thread it is fetched when this one is done.
                let coming = fetch.and_then(|fetch| thread().spawn_scoped(scope, fetch).ok());
                let taken = self.take_piece(plan, brought, &absent);
                if taken.is_err() {
                    // This worker ends: nobody will want what comes.
                    fetcher.puller.stop();
                }
                self.waits();
                ahead = coming
                    .map(|coming| coming.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
                self.alive();
                taken
            })?;
            stalled.barred = stalled.barred.or(taken.barred);
            (stalled.rejected, stalled.blocked) = (taken.rejected, taken.blocked);
            if stalled.rejected.is_some() || stalled.blocked.is_some() {
                break;
            }
        }
        Ok(stalled)
    }

    /// Of what is taken in, so much is done and these are left.
    fn show_todo(&self, done: Amount, left: &VecDeque<Plan>) {
        let all = left.iter().map(Amount::of).fold(done, Amount::and);
        let mut status = lock(&self.shared.status);
        (status.files_done, status.files_todo) = (done.files, all.files);
        (status.bytes_done, status.bytes_todo) = (done.bytes, all.bytes);
    }

    fn take_piece(
        &mut self,
        plan: Plan,
        brought: Brought,
        absent: &BTreeSet<Vec<u8>>,
    ) -> Result<Stalled, Fatal> {
        let mut stalled = Stalled::default();
        if plan.moves.is_empty() && plan.losers.is_empty() {
            // Nothing to be seen: no generation is made for it.
            self.note(plan)?;
            return Ok(stalled);
        }
        if let Err(error) = brought.result {
            if let rsync::Error::Blocked(_) = &error {
                stalled.blocked = Some(error.to_string());
                return Ok(stalled);
            }
            // A connection that broke, a file that changed meanwhile: what arrived and verifies counts.
            self.around.journal.log(Notice::Detail { text: format!("{}: {error}", self.set.name) });
        }
        let begun = clock::now();
        let (mut missing, mut barred) = (BTreeSet::new(), BTreeSet::new());
        for (path, entry) in plan.fetches() {
            self.alive();
            if let Content::File { size, hash } = &entry.content
                && !self.tree.verify(path, hash, *size)
            {
                missing.insert(path.to_vec());
            }
        }
        for Move { step, .. } in &plan.moves {
            if let Some(entry) = step.record.entry()
                && let Some(why) = self.tree.bars(&step.path, entry)?
            {
                // What comes with it is published all the same, unless it is one batch.
                stalled.barred.get_or_insert(format!("{}: {why}", shown(&step.path)));
                barred.insert(step.path.clone());
            }
        }
        if !missing.is_empty() {
            self.changed_meanwhile(&missing, brought.took + clock::now().since(begun));
        }
        missing.append(&mut barred);
        if self.takes_whole() && !missing.is_empty() {
            return Ok(stalled);
        }
        if !self.forced
            && let Some(why) = self.validate(&plan)
        {
            stalled.rejected = Some(why);
            return Ok(stalled);
        }
        let judged = clock::now();
        let moves = plan.moves.len();
        self.publish(plan, &missing, absent, &mut stalled)?;
        self.around.journal.log(Notice::Detail {
            text: format!(
                "{}: {moves} paths, {} missing: fetched in {:?}, verified and judged in {:?}, published in {:?}",
                self.set.name,
                missing.len(),
                brought.took,
                judged.since(begun),
                clock::now().since(judged)
            ),
        });
        Ok(stalled)
    }

    /// What was fetched is not what was given. A file that is written to all the time would be missed again and again by what
    /// the giver says of it every two seconds: it is asked to look now.
    fn changed_meanwhile(&mut self, missing: &BTreeSet<Vec<u8>>, took: Duration) {
        let now = clock::now();
        if now < self.look_at {
            self.again_at = Some(self.look_at);
            return;
        }
        self.look_at = now + LOOK_EVERY.max(took * LOOK_SHARE);
        if let Some(peer) = &self.peer {
            let paths = missing.iter().take(LOOKS_MAX).cloned().collect();
            let _ = peer.words.send(Take::Look { set: self.set.name.clone(), paths });
        }
    }

    /// The set's `validate` over what would become visible. Why not.
    pub(super) fn validate(&self, plan: &Plan) -> Option<String> {
        let brought = plan.moves.iter().filter(|m| m.step.record.entry().is_some());
        let list = dre::config::sync::list(brought.map(|m| m.step.path.as_slice()));
        if list.is_empty() {
            return None;
        }
        let file = self.around.runtime.join(format!("{}.list", self.set.name));
        if let Err(error) = std::fs::write(&file, list) {
            return Some(format!("{}: {error}", file.display()));
        }
        let words = self.set.validate_command(&self.tree.staging(), &file)?;
        self.waits();
        let verdict = crate::command::judge(&words, self.set.validate_timeout);
        self.alive();
        verdict.err()
    }

    pub(super) fn publish(
        &mut self,
        plan: Plan,
        missing: &BTreeSet<Vec<u8>>,
        absent: &BTreeSet<Vec<u8>>,
        stalled: &mut Stalled,
    ) -> Result<(), Fatal> {
        let uncertain = self.facts.skew > SKEW_MAX;
        let peer_node = self.around.peer.clone();
        let mut written: Vec<(Vec<u8>, Record, Option<Stat>)> = vec![];
        let mut kept = 0_u64;
        // Before anything is seen: killed in the middle, this node must not take for its own edit what the peer made.
        let intents: Vec<(&Vec<u8>, &Record)> =
            plan.moves.iter().map(|m| (&m.step.path, &m.step.record)).collect();
        let intents = postcard::to_stdvec(&intents).map_err(|error| Fatal::Fault(error.to_string()))?;
        self.store.write(true, |batch| batch.set_note(PUBLISHING, Some(&intents)))?;
        for (given, record) in &plan.losers {
            let Some(entry) = given.record.entry() else { continue };
            if missing.contains(&given.path) {
                continue;
            }
            let version = (given.path.clone(), given.record.version);
            if !self.kept.contains(&version) {
                let put = |aside: &Path| self.tree.keep_staged(&given.path, entry, aside);
                match self.keep(Kind::Conflicts, &given.path, (&peer_node, uncertain), put) {
                    Ok(aside) => {
                        self.kept.insert(version);
                        kept += 1;
                        if let Some(aside) = aside {
                            self.conflict(&given.path, (&self.around.node, &peer_node), &aside, uncertain);
                        }
                    }
                    Err(error) => {
                        stalled.blocked = Some(format!("{}: {error}", shown(&given.path)));
                        return self.write(written);
                    }
                }
            }
            let stat = self.store.get(&given.path)?.and_then(|known| known.stat);
            written.push((given.path.clone(), record.clone(), stat));
        }
        let many = plan.moves.iter().filter(|m| m.fetch).count() > 8;
        if many {
            // The attributes first, then one sync for all of them.
            for Move { step, .. } in plan.moves.iter().filter(|m| m.fetch && !missing.contains(&m.step.path))
            {
                self.alive();
                if let Some(entry) = step.record.entry()
                    && let Err(error) = self.tree.prepare(&step.path, entry, false)
                {
                    stalled.blocked = Some(format!("{}: {error}", shown(&step.path)));
                    return self.write(written);
                }
            }
            if let Err(error) = self.tree.sync_staging() {
                stalled.blocked = Some(error.to_string());
                return self.write(written);
            }
        }
        if let Err(error) = self.tree.begin() {
            stalled.blocked = Some(error.to_string());
            return self.write(written);
        }
        let (mut files, mut bytes, mut latency) = (0, 0, 0);
        // A directory goes before the file that takes its place; but what is in it may be among what follows.
        let mut moves: VecDeque<(&Move, bool)> = plan.moves.iter().map(|one| (one, true)).collect();
        while let Some((one, first_try)) = moves.pop_front() {
            let Move { step, keep_ours, fetch } = one;
            self.alive();
            if missing.contains(&step.path) {
                continue;
            }
            let known = self.store.get(&step.path)?;
            let ours = known.as_ref().map(|known| (step.path.clone(), known.record.version));
            let here = known.as_ref().and_then(|known| known.record.entry()).is_some();
            let expect = known.and_then(|known| known.stat).filter(|_| here && !absent.contains(&step.path));
            if *keep_ours
                && expect.is_some()
                && let Some(ours) = ours
                && !self.kept.contains(&ours)
            {
                let put = |aside: &Path| self.tree.keep_aside(&step.path, aside);
                match self.keep(Kind::Conflicts, &step.path, (&self.around.node, uncertain), put) {
                    Ok(aside) => {
                        // Of this version: should the next edit lose too, it is another one.
                        self.kept.insert(ours);
                        kept += 1;
                        if let Some(aside) = aside {
                            self.conflict(&step.path, (&peer_node, &self.around.node), &aside, uncertain);
                        }
                    }
                    Err(Place::Failed(error)) => {
                        stalled.blocked = Some(format!("{}: {error}", shown(&step.path)));
                        break;
                    }
                    Err(Place::Changed | Place::NotEmpty) => {
                        self.dirty.mark(&step.path);
                        self.again_at = Some(clock::now());
                        continue;
                    }
                }
            }
            let done = match step.record.entry() {
                Some(entry) => {
                    let prepared =
                        if *fetch && !many { self.tree.prepare(&step.path, entry, true) } else { Ok(()) };
                    match prepared {
                        Ok(()) => self.tree.place(&step.path, entry, *fetch, expect.as_ref()).map(Some),
                        Err(error) => Err(Place::Failed(error)),
                    }
                }
                None if expect.is_none() => Ok(None),
                None => {
                    kept += 1;
                    let put = |aside: &Path| self.tree.remove(&step.path, expect.as_ref(), aside);
                    self.keep(Kind::Trash, &step.path, ("", false), put).map(|_| None)
                }
            };
            match done {
                Ok(stat) => {
                    if let Some(entry) = step.record.entry() {
                        files += 1;
                        if let Content::File { size, .. } = &entry.content {
                            bytes += if *fetch { *size } else { 0 };
                            latency = wall_ns().saturating_sub(entry.mtime_ns);
                        }
                    }
                    self.guard.back(&step.path);
                    written.push((step.path.clone(), step.record.clone(), stat));
                }
                Err(Place::Changed) => {
                    // An edit that was not seen yet: it is looked at, and the two are compared again.
                    self.dirty.mark(&step.path);
                    self.again_at = Some(clock::now());
                }
                Err(Place::NotEmpty) if first_try => moves.push_back((one, false)),
                Err(Place::NotEmpty) => {
                    self.rescan = true;
                    stalled.barred.get_or_insert(format!(
                        "{} is a directory with something in it that is not replicated; move that away",
                        shown(&step.path)
                    ));
                }
                Err(Place::Failed(error)) => {
                    stalled.blocked = Some(format!("{}: {error}", shown(&step.path)));
                    break;
                }
            }
        }
        self.finish(uncertain)?;
        if kept > 0 {
            self.drawers.settle()?;
        }
        {
            let mut status = lock(&self.shared.status);
            status.counters.files_in += files;
            status.counters.bytes_in += bytes;
            if latency > 0 {
                status.counters.last_latency_us = u64::try_from(latency / 1_000).unwrap_or(0);
            }
        }
        if let Some((path, ..)) = written.first() {
            let (set, peer, path) = (self.set.name.clone(), self.around.peer.clone(), shown(path));
            let deleted = written.iter().filter(|(_, record, _)| record.entry().is_none()).count() as u64;
            let latency_us = u64::try_from(latency / 1_000).unwrap_or(0);
            self.around.journal.log(Notice::RulesPublished {
                set,
                peer,
                files,
                deleted,
                bytes,
                path,
                latency_us,
            });
            self.apply_at.get_or_insert(clock::now().max(self.applied + self.set.apply_every));
        }
        self.noted(plan, &mut written)?;
        self.write(written)
    }

    /// Records that change though nothing on the disk does.
    fn note(&mut self, plan: Plan) -> Result<(), Fatal> {
        let mut written = vec![];
        self.noted(plan, &mut written)?;
        self.write(written)
    }

    fn noted(&self, plan: Plan, written: &mut Vec<(Vec<u8>, Record, Option<Stat>)>) -> Result<(), Fatal> {
        for step in plan.notes {
            let stat = self.store.get(&step.path)?.and_then(|known| known.stat);
            written.push((step.path, step.record, stat));
        }
        Ok(())
    }

    /// The batch is durable and visible. What was edited meanwhile in the generation before is carried over, or kept.
    pub(super) fn finish(&mut self, uncertain: bool) -> Result<(), Fatal> {
        let next = self.tree.next();
        if let Some(next) = &next {
            // Watched before it is live: no edit in it goes unseen.
            self.watcher.rewatch(next)?;
        }
        let Some(old) = self.tree.finish()? else { return Ok(()) };
        self.puller.discard();
        self.retire(old, uncertain)
    }

    /// The records of what is visible now; the peer has them already.
    pub(super) fn write(&mut self, written: Vec<(Vec<u8>, Record, Option<Stat>)>) -> Result<(), Fatal> {
        self.store.write(false, |batch| {
            for (path, record, stat) in &written {
                batch.put(path, record, *stat)?;
            }
            batch.set_note(PUBLISHING, None)?;
            Ok(())
        })?;
        self.flush_later();
        for (path, record, _) in written {
            if !self.kept.is_empty() {
                self.kept.retain(|(kept, _)| *kept != path);
            }
            if let Some(given) = self.waiting.remove(&path)
                && given.record.version == record.version
            {
                self.echo.insert(path, record.version);
            }
        }
        Ok(())
    }

    pub(super) fn conflict(&self, path: &[u8], (winner, loser): (&str, &str), aside: &Path, uncertain: bool) {
        lock(&self.shared.status).counters.conflicts += 1;
        let (set, path, kept) = (self.set.name.clone(), shown(path), aside.display().to_string());
        let (winner, loser) = (winner.to_owned(), loser.to_owned());
        self.around.journal.log(Notice::RulesConflict { set, path, winner, loser, kept, uncertain });
    }

    pub(super) fn apply(&mut self) {
        let Some(command) = self.set.apply.clone() else { return };
        self.applied = clock::now();
        let (journal, set) = (self.around.journal.clone(), self.set.name.clone());
        let run = move || {
            if let Err(why) = crate::command::apply(&command, APPLY_TIMEOUT) {
                journal.log(Notice::Trouble {
                    text: format!("{set}: apply failed: {why}; the files are in place"),
                });
            }
        };
        // A reload that hangs must not hold up the next change.
        if std::thread::Builder::new().name("apply".into()).spawn(run).is_err() {
            self.apply_at = Some(self.applied + self.set.apply_every);
        }
    }
}

/// Files and bytes, of a plan or a part of one.
#[derive(Debug, Clone, Copy, Default)]
struct Amount {
    files: u64,
    bytes: u64,
}

impl Amount {
    fn of(plan: &Plan) -> Self {
        let size = |entry: &Entry| if let Content::File { size, .. } = &entry.content { *size } else { 0 };
        Self { files: plan.moves.len() as u64, bytes: plan.fetches().map(|(_, entry)| size(entry)).sum() }
    }

    fn and(self, other: Self) -> Self {
        Self { files: self.files + other.files, bytes: self.bytes + other.bytes }
    }
}

/// Brings the contents of a plan into staging; for a thread beside the worker's too.
struct Fetcher {
    puller: Arc<Puller>,
    shared: Arc<Shared>,
    changed: watch::Sender<u64>,
}

/// How a fetch ended.
struct Brought {
    took: Duration,
    result: Result<(), rsync::Error>,
}

impl Fetcher {
    /// `before` is done of what the status shows.
    fn fetch(&self, plan: &Plan, before: Amount) -> Brought {
        let begun = clock::now();
        let fetches: Vec<&[u8]> = plan.fetches().map(|(path, _)| path).collect();
        if fetches.is_empty() {
            return Brought { took: Duration::ZERO, result: Ok(()) };
        }
        let mut told = begun;
        let fetched = self.puller.fetch(&fetches, |files, bytes| {
            if clock::now().since(told) < PROGRESS_EVERY {
                return;
            }
            told = clock::now();
            let mut status = lock(&self.shared.status);
            (status.files_done, status.bytes_done) = (before.files + files, before.bytes + bytes);
            drop(status);
            self.changed.send_modify(|n| *n += 1);
        });
        lock(&self.shared.status).counters.rsync_runs += fetched.as_ref().map_or(1, |f| u64::from(f.runs));
        Brought { took: clock::now().since(begun), result: fetched.map(drop) }
    }
}

/// A plan in pieces of so many moves, in their order; losers and notes go with the first.
fn pieces(mut plan: Plan, most: usize) -> VecDeque<Plan> {
    let mut all = VecDeque::new();
    while plan.moves.len() > most {
        let rest = plan.moves.split_off(most);
        let notes = std::mem::take(&mut plan.notes);
        let losers = std::mem::take(&mut plan.losers);
        all.push_back(Plan { notes, losers, moves: std::mem::replace(&mut plan.moves, rest) });
    }
    all.push_back(plan);
    all
}
