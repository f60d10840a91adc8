//! What readers of the status see: made when somebody looks, and now and then for systemd's line.
//!
//! To make it takes longer than a heartbeat does, and mostly nobody looks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use dre::logic::time::Moment;
use dre::shell::clock;
use dre::snapshot::Status;
use tokio::sync::Notify;

/// What readers see is not older than this, while the loop turns.
const FRESH: Duration = Duration::from_millis(100);
/// How often it is made while nobody looks.
const RARELY: Duration = Duration::from_secs(1);
/// Who watches looks again within this, and it is kept fresh meanwhile.
const LOOKED_AT: Duration = Duration::from_secs(2);
/// After one that was lost. Long enough for the reader to go on: the loop has the real-time turn, and a reader that it interrupted gets
/// none on a machine with one processor while the loop is at it again and again.
const AGAIN: Duration = Duration::from_millis(20);
/// A reader waits no longer for a loop that hangs.
const PATIENCE: Duration = Duration::from_millis(50);

/// Between the loop and the control socket's thread.
pub struct Shown {
    /// Locked for no longer than it takes to count a reader.
    current: Mutex<Arc<(Status, Moment)>>,
    renewed: Condvar,
    wanted: Notify,
    /// When somebody looked last, on the boot clock.
    looked_at: AtomicU64,
}

impl Shown {
    pub fn new(status: Status, now: Moment) -> Self {
        let (renewed, wanted) = (Condvar::new(), Notify::new());
        Self { current: Mutex::new(Arc::new((status, now))), renewed, wanted, looked_at: AtomicU64::new(0) }
    }

    fn due(&self, now: Moment) -> Moment {
        let looked = Moment::from_nanos(self.looked_at.load(Ordering::Relaxed));
        let is_looked_at = looked != Moment::ZERO && now.since(looked) < LOOKED_AT;
        now + if is_looked_at { FRESH } else { RARELY }
    }

    /// Somebody looks, or will want to.
    pub fn looked(&self, now: Moment) {
        self.looked_at.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// A new one, made at `now`; when the next is due. The loop waits for no reader: this one is lost then.
    pub fn put(&self, status: Status, now: Moment) -> Moment {
        let Ok(mut current) = self.current.try_lock() else { return now + AGAIN };
        *current = Arc::new((status, now));
        drop(current);
        self.renewed.notify_all();
        self.due(now)
    }

    /// Until somebody looks for whom it is too old.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// As it stands when it is read. Waits for the loop to make it, but not for one that hangs: then ages grow and the lease runs
    /// down, for what was said of it is not true any more.
    pub fn look(&self) -> Status {
        let asked = clock::now();
        self.looked(asked);
        let lost = "nobody panics while holding it: panics abort";
        let mut current = self.current.lock().expect(lost);
        if asked.since(current.1) > FRESH {
            self.wanted.notify_one();
            let old = |current: &mut Arc<(Status, Moment)>| asked.since(current.1) > FRESH;
            current = self.renewed.wait_timeout_while(current, PATIENCE, old).expect(lost).0;
        }
        let read = Arc::clone(&current);
        drop(current);
        let (mut status, at) = (read.0.clone(), read.1);
        let passed = clock::now().since(at);
        if passed > FRESH * 2 {
            let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
            status.lease.left_ms = status.lease.left_ms.saturating_sub(passed);
            status.peer.heard_ms = status.peer.heard_ms.saturating_add(passed);
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn status(term: u64) -> Status {
        let mut status = Status { term, ..Status::default() };
        (status.lease.left_ms, status.peer.heard_ms) = (400, 10);
        status
    }

    #[test]
    fn who_looks_gets_what_holds_now() {
        let old = Moment::from_nanos(clock::now().as_nanos().saturating_sub(900_000_000));
        let shown = Arc::new(Shown::new(status(1), old));
        assert_eq!(shown.due(old), old + RARELY, "nobody has looked");
        let reader = thread::spawn({
            let shown = Arc::clone(&shown);
            move || shown.look()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(shown.wanted());
        let now = clock::now();
        // As the loop does: what a reader's lock was in the way of is put again.
        let mut due = shown.put(status(2), now);
        while due == now + AGAIN {
            thread::sleep(AGAIN);
            due = shown.put(status(2), now);
        }
        assert_eq!(due, now + FRESH, "it may watch");
        assert_eq!(reader.join().expect("it reads").term, 2);
        let later = now + LOOKED_AT + FRESH;
        assert_eq!(shown.due(later), later + RARELY);
        // What is fresh is read as it is, and nobody is asked for more.
        let seen = shown.look();
        assert_eq!((seen.term, seen.lease.left_ms, seen.peer.heard_ms), (2, 400, 10));
    }

    #[test]
    fn the_loop_waits_for_no_reader() {
        let now = clock::now();
        let shown = Shown::new(status(1), now);
        let reads = shown.current.lock().expect("nobody else");
        assert_eq!(shown.put(status(2), now), now + AGAIN);
        assert_eq!(reads.0.term, 1);
        drop(reads);
        shown.put(status(3), now);
        assert_eq!(shown.look().term, 3);
    }

    #[test]
    fn a_loop_that_hangs_holds_no_reader_and_its_lease_runs_down() {
        let old = Moment::from_nanos(clock::now().as_nanos().saturating_sub(300_000_000));
        let shown = Shown::new(status(1), old);
        let begun = clock::now();
        let seen = shown.look();
        assert!(clock::now().since(begun) >= PATIENCE, "it was waited for");
        assert_eq!(seen.term, 1);
        assert!(seen.lease.left_ms <= 50 && seen.peer.heard_ms >= 360, "{seen:?}");
    }
}
