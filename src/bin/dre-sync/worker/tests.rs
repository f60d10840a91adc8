use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::channel;

use dre::config::sync::Publish;
use dre::notice::Priority;
use dre::shell::tree;
use nix::errno::Errno;

use super::*;

/// A root, a directory for the state, one for what runs; gone with the test.
struct House(PathBuf);

impl House {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("dre-worker-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for part in ["root", "state", "other", "run"] {
            fs::create_dir_all(dir.join(part)).expect("a directory");
        }
        Self(dir)
    }

    fn set(&self, root: &str, publish: Publish) -> Set {
        Set {
            name: "re".into(),
            root: self.0.join(root),
            include: vec![],
            exclude: vec![],
            owners: [].into(),
            validate: None,
            validate_timeout: Duration::from_secs(10),
            apply: None,
            apply_every: Duration::ZERO,
            publish,
            links_outside: false,
            digest: [0; 32],
        }
    }

    fn around(&self, state: &str) -> Around {
        Around {
            node: "hadev1".into(),
            peer: "hadev2".into(),
            side: Side::First,
            state: self.0.join(state),
            runtime: self.0.join("run"),
            journal: Journal::start("dre-sync-test", Priority::Error).expect("a thread"),
            changed: watch::Sender::new(0),
            secret: String::from("secret").into(),
            through: None,
        }
    }

    fn open(&self, set: &Set, state: &str) -> Result<Worker, Fatal> {
        let (stir, inbox) = channel();
        let shared = Arc::new(Shared::new(set));
        Worker::open(set, &self.around(state), shared, inbox, stir).map_err(|(fatal, _)| fatal)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a set that is down for this shows, and its alarm.
fn shown_of(set: &Set, fatal: &Fatal) -> (SetStatus, dre::snapshot::Alarm) {
    let shared = Shared::new(set);
    shared.is_down(set, fatal, &watch::Sender::new(0));
    (shared.status(), shared.alarm().expect("an alarm"))
}

#[test]
fn a_root_that_is_gone_and_a_database_that_cannot_be_opened_are_two_things() {
    let house = House::new("down");
    let nowhere = house.set("nowhere", Publish::Files);
    let gone = house.open(&nowhere, "state").err().expect("no root");
    assert!(matches!(gone, Fatal::Root(_)), "{gone:?}");
    let (status, alarm) = shown_of(&nowhere, &gone);
    assert_eq!((status.state.as_str(), alarm.name.as_str()), ("ROOT_GONE", "RulesRootGone"));

    // A directory where the database should be: as wrong as a disk that fails, and the root is as it was.
    let set = house.set("root", Publish::Files);
    fs::create_dir(house.0.join("other/re.redb")).expect("made");
    let fault = house.open(&set, "other").err().expect("no database");
    assert!(matches!(fault, Fatal::Fault(_)), "{fault:?}");
    let (status, alarm) = shown_of(&set, &fault);
    assert_eq!((status.state.as_str(), alarm.name.as_str()), ("BLOCKED", "RulesBlocked"));
    assert!(status.reason.starts_with("the set cannot be worked on: "), "{status:?}");
    assert!(
        status.reason.contains("re.redb") && status.remedy.contains("tried again by itself"),
        "{status:?}"
    );
    assert!(alarm.text.ends_with(&format!("; {}", status.remedy)), "{alarm:?}");
    fs::remove_dir(house.0.join("other/re.redb")).expect("removed");
    house.open(&set, "other").map(drop).expect("it was the database alone");
}

#[test]
fn what_is_wrong_with_a_tree_is_the_roots_or_the_machines() {
    let house = House::new("kinds");
    let of = |publish, errno| {
        let set = house.set("root", publish);
        Fatal::unopened(&set, &tree::Error::new(set.root.clone(), "open the root of the set", errno))
    };
    for errno in [Errno::ENOENT, Errno::ENOTDIR, Errno::ESTALE] {
        assert!(matches!(of(Publish::Files, errno), Fatal::Root(_)), "{errno}");
    }
    for errno in [Errno::ENOSPC, Errno::EIO, Errno::EROFS, Errno::EACCES, Errno::EMFILE] {
        assert!(matches!(of(Publish::Files, errno), Fatal::Fault(_)), "{errno}");
    }
    // A mount of its own under the name that is to be a link.
    for errno in [Errno::EXDEV, Errno::EBUSY] {
        let Fatal::Root(why) = of(Publish::Tree, errno) else { panic!("{errno} is the root's") };
        assert!(why.contains("mount one level higher") && why.contains("publish = \"files\""), "{why}");
    }
}

#[test]
fn the_loser_of_a_conflict_is_dropped_and_nothing_else() {
    let house = House::new("drop");
    let set = house.set("root", Publish::Files);
    let mut worker = house.open(&set, "state").expect("opened");
    let keep = |worker: &Worker, kind| {
        let put =
            |at: &Path| fs::write(at, "lost").map_err(|e| tree::Error::new(at.into(), "write", e).into());
        let kept = worker.keep(kind, b"de/a.xml", ("hadev2", false), put).expect("kept").expect("a place");
        let id = kept.parent().and_then(Path::file_name).expect("a name").to_string_lossy().into_owned();
        (kept, id)
    };
    let (loser, id) = keep(&worker, Kind::Conflicts);
    let (deleted, trashed) = keep(&worker, Kind::Trash);
    let mut dropped = |id: &str| worker.asked(Ask::Drop { set: "re".into(), id: id.into() }).expect("alive");
    for other in [trashed.as_str(), "nothing", "../conflicts"] {
        let Answer::Refused(why) = dropped(other) else { panic!("{other} was dropped") };
        assert!(why.contains("drectl rules conflicts re"), "{why}");
    }
    assert!(loser.exists() && deleted.exists());
    let said = "de/a.xml of hadev2 is thrown away; conflicts of re still kept: 0";
    assert_eq!(dropped(&id), Answer::Done(said.into()));
    assert!(!loser.exists() && deleted.exists());
    assert_eq!(worker.drawers.count(Kind::Conflicts), 0, "the state CONFLICTS has ended");
}

/// What is known of the one file after everything was looked at, and what is said of it.
fn verified(worker: &mut Worker, deep: bool) -> (Known, Option<String>) {
    let Answer::Done(_) = worker.asked(Ask::Verify { set: None, deep }).expect("alive") else {
        panic!("refused")
    };
    (worker.store.get(b"a.xml").expect("read").expect("known"), worker.facts.refused.clone())
}

/// Bytes that nobody wrote: the times say nothing, so only reading everything tells.
#[test]
fn what_a_disk_changed_is_found_by_a_deep_look_alone() {
    let house = House::new("deep");
    let set = house.set("root", Publish::Files);
    let mut worker = house.open(&set, "state").expect("opened");
    let write = |text: &str| {
        fs::write(set.root.join("a.xml"), text).expect("written");
        // Older than the clock's tick.
        std::thread::sleep(Duration::from_millis(20));
    };
    write("as it was");
    verified(&mut worker, false);
    let (known, refused) = verified(&mut worker, true);
    assert_eq!(refused, None);
    // As if what is on the disk now had the times of what was known.
    write("as it is");
    let Look::There { stat, .. } = worker.tree.look(b"a.xml", None).expect("looked") else { panic!("gone") };
    worker.store.write(false, |batch| batch.restat(b"a.xml", Some(stat))).expect("written");
    assert_eq!(verified(&mut worker, false).1, None);
    let (now, refused) = verified(&mut worker, true);
    let why = refused.expect("found");
    assert!(why.starts_with("a.xml its content changed though its times did not"), "{why}");
    assert_eq!(now.record, known.record, "it is nobody's edit, and does not go to the peer");
}

/// The daily deep look is no edit of who owns what: a name that this node does not know is root's here, and the set's own there.
#[test]
fn an_owner_that_is_not_known_here_stays_what_the_peer_called_it() {
    let house = House::new("owner");
    let set = house.set("root", Publish::Files);
    let mut worker = house.open(&set, "state").expect("opened");
    fs::write(set.root.join("a.xml"), "x").expect("written");
    let (mut known, _) = verified(&mut worker, false);
    let dre::logic::sync::record::State::Present(entry) = &mut known.record.state else { panic!("gone") };
    entry.owner = "nobody-of-this-name".into();
    let put = |batch: &mut store::Batch<'_>| batch.put(b"a.xml", &known.record, known.stat).map(drop);
    worker.store.write(false, put).expect("written");
    assert_eq!(verified(&mut worker, true).0.record, known.record);
}

/// The other node, which tells of directories: they need no rsync. Owned by whoever runs the test.
#[derive(Clone)]
struct Other {
    id: u64,
    owner: String,
    group: String,
}

impl Other {
    fn words(&self, sequence: u64, directories: &[(&str, u32)]) -> Job {
        let given = |(n, (path, mode)): (usize, &(&str, u32))| {
            let sequence = sequence + n as u64;
            let entry = dre::logic::sync::record::Entry {
                content: Content::Directory,
                mode: *mode,
                owner: self.owner.clone(),
                group: self.group.clone(),
                mtime_ns: 0,
                xattrs: vec![],
            };
            let version = Version::default().bumped(Side::Second, i64::try_from(sequence).expect("small"));
            let record = Record { version, state: dre::logic::sync::record::State::Present(entry) };
            Given { sequence, path: path.as_bytes().to_vec(), record }
        };
        let entries: Vec<Given> = directories.iter().enumerate().map(given).collect();
        Job::Given { id: self.id, upto: sequence + entries.len() as u64 - 1, entries, more: false }
    }
}

#[test]
fn what_the_peer_gives_while_its_changes_are_taken_in_joins_them_and_nothing_overtakes() {
    let house = House::new("heard");
    let set = house.set("root", Publish::Files);
    let (tell, inbox) = channel();
    let shared = Arc::new(Shared::new(&set));
    let opened = Worker::open(&set, &house.around("state"), shared, inbox, tell.clone());
    let mut worker = opened.map_err(|(fatal, _)| fatal).expect("opened");
    let uid = nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("asked").expect("a name");
    let gid = nix::unistd::Group::from_gid(nix::unistd::getegid()).expect("asked").expect("a name");
    let peer = Other { id: 7, owner: uid.name, group: gid.name };
    let (words, mut said) = mpsc::unbounded_channel();
    let offer = Offer { set: "re".into(), digest: set.digest, id: peer.id, last: 0 };
    assert!(worker.job(Job::Peer(Some(Peer { offer, words, ways: vec![] }))).expect("alive"));
    let mode = |path: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(set.root.join(path)).map(|meta| meta.permissions().mode() & 0o7777).ok()
    };

    // The two databases know each other.
    worker.job(peer.words(1, &[("joined", 0o755)])).expect("alive");
    worker.take_in().expect("alive");
    assert!(matches!(said.try_recv(), Ok(Take::Taken { upto: 1, .. })));

    worker.job(peer.words(2, &[("a", 0o750)])).expect("alive");
    // Comes while a is taken in: a once more, b twice, something of another session, c behind what somebody else wants.
    tell.send(peer.words(3, &[("a", 0o700), ("b", 0o755)])).expect("sent");
    tell.send(Job::Stir).expect("sent");
    tell.send(Other { id: 8, ..peer.clone() }.words(9, &[("x", 0o755)])).expect("sent");
    tell.send(peer.words(5, &[("b", 0o711)])).expect("sent");
    let (reply, _answer) = oneshot::channel();
    tell.send(Job::Ask(Ask::Conflicts { set: None }, reply)).expect("sent");
    tell.send(peer.words(6, &[("c", 0o755)])).expect("sent");

    worker.take_in().expect("alive");
    assert_eq!(mode("a"), Some(0o750), "the version that was on its way to the disk");
    assert_eq!(mode("b"), Some(0o711), "the newest of what came");
    assert_eq!((mode("x"), mode("c")), (None, None));
    assert!(matches!(worker.heard, Some(Job::Ask(..))), "what somebody wants is done next");
    assert_eq!(worker.waiting.keys().collect::<Vec<_>>(), [b"a"], "given anew: still to be done");
    assert!(said.try_recv().is_err(), "not all that was given is here");
    assert!(worker.again_at.is_some_and(|at| at <= clock::now()));

    // What is as young as the clock's tick is looked at again before it is replaced.
    for _ in 0..100 {
        worker.take_in().expect("alive");
        if worker.waiting.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(mode("a"), Some(0o700));
    let Ok(Take::Taken { upto, .. }) = said.try_recv() else { panic!("not said to be taken") };
    assert_eq!(upto, 5, "c was not heard yet");
}
