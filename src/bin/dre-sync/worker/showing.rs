//! What others see: the set's state, its figures, what the peer is told of it.

use super::*;

impl Worker {
    pub(super) fn tell_verdict(&mut self) {
        let verdict = match (&self.facts.rejected, &self.facts.blocked, self.guard.held()) {
            (Some(why), ..) => Verdict::Rejected(why.clone()),
            (_, Some(why), _) => Verdict::Blocked(why.clone()),
            (.., Some(held)) => {
                let (deleted, known) = counts(held);
                Verdict::Held(format!("{deleted} of {known} files were deleted there"))
            }
            _ => Verdict::Fine,
        };
        if verdict != self.verdict
            && let Some(peer) = &self.peer
        {
            let set = self.set.name.clone();
            if peer.words.send(Take::Verdict { set, verdict: verdict.clone() }).is_ok() {
                self.verdict = verdict;
            }
        }
    }

    /// Makes the status, or notes that it is due.
    pub(super) fn show(&mut self) {
        let now = clock::now();
        if now < self.shown + SHOW_EVERY {
            self.show_at = Some(self.shown + SHOW_EVERY);
            return;
        }
        (self.shown, self.show_at) = (now, None);
        self.facts.held = self.guard.held().map(counts);
        self.facts.taking = self.waiting.len();
        self.facts.pending = self.store.pending(self.store.peer_acked()).unwrap_or(0);
        self.facts.dirty = self.dirty.len() + if self.guard.held().is_some() { 0 } else { self.guard.len() };
        self.facts.conflicts = self.drawers.count(Kind::Conflicts);
        let state = state::state(&self.set.name, &self.facts);
        if self.state.as_ref().is_none_or(|old| old.word != state.word) {
            self.state_since = clock::rfc3339(clock::now());
        }
        let totals = self.store.totals();
        let trash = self.drawers.count(Kind::Trash);
        let mut status = lock(&self.shared.status);
        let before = status.clone();
        status.state = state.word.into();
        status.reason.clone_from(&state.reason);
        status.remedy.clone_from(&state.remedy);
        status.since.clone_from(&self.state_since);
        (status.files, status.bytes) = (totals.files, totals.bytes);
        (status.pending, status.conflicts, status.trash) = (self.facts.pending, self.facts.conflicts, trash);
        if self.facts.taking == 0 {
            (status.files_done, status.files_todo, status.bytes_done, status.bytes_todo) = (0, 0, 0, 0);
        }
        if let Some((done, all)) = self.facts.scanning {
            (status.files_done, status.files_todo) = (done, all);
        }
        let changed = *status != before;
        drop(status);
        if self.state.as_ref() != Some(&state) {
            *lock(&self.shared.alarm) = state.alarm.then(|| alarm(&self.set, &state, &self.state_since));
            self.state = Some(state);
        }
        if changed {
            self.around.changed.send_modify(|n| *n += 1);
        }
    }
}
