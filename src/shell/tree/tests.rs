//! Real files in a directory of each test's own.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::logic::sync::record::{Record, State};
use crate::logic::sync::version::Version;
use crate::shell::tree::*;

/// Root, trash and what is outside, gone with the test.
struct Lab {
    dir: PathBuf,
    set: Set,
}

impl Lab {
    fn new(name: &str, publish: Publish) -> Self {
        let dir = std::env::temp_dir().join(format!("dre-tree-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for part in ["root", "outside", "trash"] {
            fs::create_dir_all(dir.join(part)).expect("a directory");
        }
        let set = Set {
            name: "re".into(),
            root: dir.join("root"),
            include: vec![],
            exclude: vec!["*.log".into()],
            owners: BTreeMap::new(),
            validate: None,
            validate_timeout: Duration::from_secs(10),
            apply: None,
            apply_every: Duration::from_secs(1),
            publish,
            links_outside: false,
            digest: [0; 32],
        };
        Self { dir, set }
    }

    fn files(name: &str) -> (Self, Tree) {
        let lab = Self::new(name, Publish::Files);
        let tree = lab.tree();
        (lab, tree)
    }

    fn tree(&self) -> Tree {
        Tree::open(&self.set).unwrap_or_else(|error| panic!("{error}"))
    }

    fn root(&self, path: &str) -> PathBuf {
        self.set.root.join(path)
    }

    fn write(&self, path: &str, text: &str) {
        if let Some(directory) = self.root(path).parent() {
            fs::create_dir_all(directory).expect("made");
        }
        fs::write(self.root(path), text).expect("written");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root(path)).unwrap_or_else(|error| format!("<{:?}>", error.kind()))
    }

    fn aside(&self, name: &str) -> PathBuf {
        self.dir.join("trash").join(name)
    }

    /// As rsync and `prepare` leave it.
    fn stage(&self, tree: &Tree, path: &str, text: &str, entry: &Entry) {
        let staged = tree.staged(path.as_bytes());
        fs::create_dir_all(staged.parent().expect("a parent")).expect("made");
        fs::write(&staged, text).expect("staged");
        assert!(tree.verify(path.as_bytes(), blake3::hash(text.as_bytes()).as_bytes(), text.len() as u64));
        tree.prepare(path.as_bytes(), entry, true).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Stages and places over what is there.
    fn place(&self, tree: &Tree, path: &str, text: &str, entry: &Entry) -> Result<Stat, Place> {
        self.stage(tree, path, text, entry);
        tree.place(path.as_bytes(), entry, true, now(tree, path).as_ref())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn own() -> (String, String) {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("asked").expect("a name").name;
    let group = nix::unistd::Group::from_gid(nix::unistd::getegid()).expect("asked").expect("a name").name;
    (user, group)
}

fn entry(content: Content, mode: u32) -> Entry {
    let (owner, group) = own();
    let mtime_ns = if content == Content::Directory { 0 } else { 1_600_000_000_123_456_789 };
    Entry { content, mode, owner, group, mtime_ns, xattrs: vec![] }
}

fn file(text: &str, mode: u32) -> Entry {
    let hash = *blake3::hash(text.as_bytes()).as_bytes();
    entry(Content::File { size: text.len() as u64, hash }, mode)
}

fn link(target: &str) -> Entry {
    entry(Content::Link { target: target.into() }, 0o777)
}

fn directory(mode: u32) -> Entry {
    entry(Content::Directory, mode)
}

fn known(entry: &Entry, stat: Stat) -> Known {
    let record = Record { version: Version::default(), state: State::Present(entry.clone()) };
    Known { record, sequence: 1, stat: Some(stat) }
}

#[track_caller]
fn there(tree: &Tree, path: &str) -> (Entry, Stat) {
    match tree.look(path.as_bytes(), None) {
        Ok(Look::There { entry, stat }) => (entry, stat),
        other => panic!("{path}: {other:?}"),
    }
}

fn now(tree: &Tree, path: &str) -> Option<Stat> {
    tree.acting().lstat(path.as_bytes()).expect("lstat")
}

fn walked(tree: &Tree) -> Vec<String> {
    let mut all = vec![];
    let unread = tree.walk(b"", &mut |path, _| all.push(String::from_utf8_lossy(&path).into_owned()));
    assert!(unread.expect("walked").is_empty());
    all
}

/// Set when it is dropped: a thread that waits for it ends when the test fails too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_look_reads_what_is_there_and_nothing_that_is_known() {
    let (lab, tree) = Lab::files("look");
    lab.write("a", "one");
    fs::set_permissions(lab.root("a"), fs::Permissions::from_mode(0o4640)).expect("chmod");
    let (entry, stat) = there(&tree, "a");
    assert_eq!(entry, Entry { mtime_ns: stat.mtime_ns, ..file("one", 0o4640) });
    assert_eq!(tree.look(b"a", Some(&known(&entry, stat))).expect("look"), Look::Same);
    assert_eq!(tree.look(b"nothing", None).expect("look"), Look::Absent);
    assert_eq!(tree.look(b"a/below-a-file", None).expect("look"), Look::Absent);
    assert_eq!(tree.look(b"x.log", None).expect("look"), Look::Excluded);
    assert_eq!(tree.look(b".dre-stage", None).expect("look"), Look::Excluded);
    // The same size, and the time set back: only the time of change tells.
    let before = fs::metadata(lab.root("a")).expect("stat").modified().expect("mtime");
    lab.write("a", "two");
    File::options().append(true).open(lab.root("a")).and_then(|f| f.set_modified(before)).expect("set back");
    match tree.look(b"a", Some(&known(&entry, stat))).expect("look") {
        Look::There { entry, .. } => assert_eq!(entry.content, file("two", 0).content),
        other => panic!("{other:?}"),
    }
    // A second name moves the time of change: read again, and the same.
    fs::hard_link(lab.root("a"), lab.root("b")).expect("linked");
    let (again, _) = there(&tree, "a");
    assert_eq!((again.content, again.mtime_ns), (file("two", 0).content, stat.mtime_ns));
}

#[test]
fn directories_links_and_names_of_any_bytes_are_seen() {
    let (lab, tree) = Lab::files("kinds");
    lab.write("d/e/x", "x");
    let odd = OsStr::from_bytes(b"\xff\n");
    fs::write(lab.root("d").join(odd), "odd").expect("written");
    symlink("../d/e/x", lab.root("d/inside")).expect("linked");
    symlink("/etc/passwd", lab.root("d/outside")).expect("linked");
    symlink("../../up", lab.root("d/up")).expect("linked");
    let (seen, _) = there(&tree, "d");
    assert_eq!((seen.content, seen.mtime_ns), (Content::Directory, 0));
    let (seen, stat) = there(&tree, "d/inside");
    assert_eq!(seen.content, Content::Link { target: b"../d/e/x".to_vec() });
    assert_eq!(seen.mtime_ns, stat.mtime_ns);
    for (path, word) in [("d/outside", "links_outside"), ("d/up", "outside the root")] {
        match tree.look(path.as_bytes(), None).expect("look") {
            Look::Refused(why) => assert!(why.contains(word), "{why}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    nix::unistd::mkfifo(&lab.root("fifo"), Mode::S_IRWXU).expect("mkfifo");
    match tree.look(b"fifo", None).expect("look") {
        Look::Refused(why) => assert!(why.starts_with("it is a fifo"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(tree.look(b"d/\xff\n", None), Ok(Look::There { .. })));
    let mut set = lab.set.clone();
    set.links_outside = true;
    there(&Tree::open(&set).expect("opened"), "d/outside");
}

#[test]
fn a_link_leaves_by_its_words() {
    for (path, target, out) in [
        ("a", "b", false),
        ("a", "..", true),
        ("d/a", "..", false),
        ("d/a", "../..", true),
        ("d/a", "x/../../b", false),
        ("d/a", "./.././../b", true),
        ("a", "/a", true),
    ] {
        assert_eq!(leaves(path.as_bytes(), target.as_bytes()), out, "{path} -> {target}");
    }
}

#[test]
fn a_walk_goes_in_the_order_of_the_store_and_follows_no_link() {
    let (lab, tree) = Lab::files("walk");
    for path in ["a/x", "a/b/y", "a-b", "a0", "z.log", "z~", "c/.x.swp", ".dre-x"] {
        lab.write(path, "x");
    }
    symlink("a", lab.root("link")).expect("linked");
    let all = walked(&tree);
    assert_eq!(all, ["a", "a-b", "a/b", "a/b/y", "a/x", "a0", "c", "link"]);
    let mut sorted = all.clone();
    sorted.sort();
    assert_eq!(all, sorted);
    let mut below = vec![];
    tree.walk(b"a", &mut |path, _| below.push(path)).expect("walked");
    assert_eq!(below, [b"a/b".to_vec(), b"a/b/y".to_vec(), b"a/x".to_vec()]);
    tree.walk(b"gone", &mut |_, _| panic!("nothing is there")).expect("walked");
    assert!(!tree.is_empty().expect("read"));
}

/// Whoever may write in the tree puts a link where a directory was, again and again.
#[test]
fn nothing_outside_is_touched_through_a_link_in_the_way() {
    let (lab, tree) = Lab::files("tricks");
    let outside = lab.dir.join("outside");
    fs::write(outside.join("passwd"), "root").expect("written");
    lab.write("d/passwd", "rules");
    let (_, stat) = there(&tree, "d/passwd");
    fs::rename(lab.root("d"), lab.root("moved")).expect("moved");
    symlink(&outside, lab.root("d")).expect("linked");
    assert_eq!(tree.look(b"d/passwd", None).expect("look"), Look::Absent);
    let bad = file("bad", 0o666);
    lab.stage(&tree, "d/passwd", "bad", &bad);
    let refused = tree.place(b"d/passwd", &bad, true, Some(&stat));
    assert!(
        matches!(&refused, Err(Place::Failed(error)) if error.to_string().contains("move it away")),
        "{refused:?}"
    );
    assert!(matches!(tree.place(b"d/new/deep", &bad, true, None), Err(Place::Failed(_))));
    tree.remove(b"d/passwd", Some(&stat), &lab.aside("1")).expect("nothing is there");
    assert!(matches!(tree.keep_aside(b"d/passwd", &lab.aside("2")), Err(Place::Changed)));
    // The last name is not followed either.
    symlink(outside.join("passwd"), lab.root("passwd")).expect("linked");
    let (stage, placed) = (file("new", 0o644), now(&tree, "passwd"));
    lab.stage(&tree, "passwd", "new", &stage);
    tree.place(b"passwd", &stage, true, placed.as_ref()).expect("placed");
    assert_eq!(lab.read("passwd"), "new");
    assert_eq!(fs::read_to_string(outside.join("passwd")).expect("read"), "root");
    assert_eq!(fs::read_dir(&outside).expect("read").count(), 1);
    assert!(fs::read_dir(lab.dir.join("trash")).expect("read").next().is_none());
    // Staging itself.
    let (dir, aside) = (tree.staging(), lab.root("elsewhere"));
    fs::rename(&dir, aside).expect("moved");
    symlink(&outside, &dir).expect("linked");
    assert!(!tree.verify(b"passwd", blake3::hash(b"root").as_bytes(), 4));
    let tree = lab.tree();
    assert!(fs::symlink_metadata(tree.staging()).expect("there").is_dir());
    assert_eq!(fs::read_to_string(outside.join("passwd")).expect("read"), "root");
}

/// One thread swaps a directory for a link to the outside all the time, the other places and removes in it.
#[test]
fn a_race_for_a_directory_is_never_won() {
    let (lab, tree) = Lab::files("race");
    let outside = lab.dir.join("outside");
    fs::write(outside.join("x"), "precious").expect("written");
    fs::create_dir(lab.root("d")).expect("made");
    let (d, twin) = (lab.root("d"), lab.root("twin"));
    symlink(&outside, &twin).expect("linked");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = renameat2(AT_FDCWD, &d, AT_FDCWD, &twin, RenameFlags::RENAME_EXCHANGE);
            }
        });
        let x = file("x", 0o600);
        let mut placed = 0;
        for n in 0..3_000 {
            fs::create_dir_all(tree.staged(b"d")).expect("made");
            fs::write(tree.staged(b"d/x"), "x").expect("staged");
            let expect = tree.live.lstat(b"d/x").ok().flatten();
            if tree.prepare(b"d/x", &x, false).is_ok() {
                placed += usize::from(tree.place(b"d/x", &x, true, expect.as_ref()).is_ok());
            }
            let expect = tree.live.lstat(b"d/x").ok().flatten();
            let _ = tree.remove(b"d/x", expect.as_ref(), &lab.aside(&n.to_string()));
            let _ = tree.look(b"d/x", None);
        }
        drop(done);
        println!("{placed} of 3,000 were placed");
        assert!(placed > 0, "the other hand won every time: nothing was tried");
    });
    assert_eq!(fs::read_to_string(outside.join("x")).expect("read"), "precious");
    assert_eq!(fs::read_dir(&outside).expect("read").count(), 1);
}

#[test]
fn a_file_is_placed_with_all_it_has_and_is_then_the_same() {
    let (lab, tree) = Lab::files("place");
    let mut new = file("one", 0o2750);
    if xattr::set(lab.dir.join("outside"), "user.probe", b"x").is_ok() {
        new.xattrs = vec![(b"user.rule".to_vec(), b"\x00\xff".to_vec())];
    }
    let stat = lab.place(&tree, "made/by/the/way", "one", &new).expect("placed");
    let (seen, shown) = there(&tree, "made/by/the/way");
    assert_eq!((seen, shown), (new.clone(), stat));
    assert_eq!(tree.look(b"made/by/the/way", Some(&known(&new, stat))).expect("look"), Look::Same, "an echo");
    assert!(!tree.staged(b"made/by/the/way").exists());
    // Another content over it; then other attributes only.
    let two = Entry { mtime_ns: -1, ..file("two!", 0o600) };
    let stat = lab.place(&tree, "made/by/the/way", "two!", &two).expect("placed");
    assert_eq!(there(&tree, "made/by/the/way"), (two.clone(), stat));
    let three = Entry { mode: 0o444, mtime_ns: 1_700_000_000_000_000_001, ..two.clone() };
    let inode = stat.inode;
    let stat = tree.place(b"made/by/the/way", &three, false, Some(&stat)).expect("placed");
    assert_eq!(there(&tree, "made/by/the/way"), (three, stat));
    assert_eq!(stat.inode, inode);
    tree.sync_directories().expect("synced");
    // A content that is not there is not made up.
    assert!(matches!(tree.place(b"nowhere", &two, false, None), Err(Place::Changed)));
    assert!(matches!(tree.place(b"nowhere", &two, true, None), Err(Place::Failed(_))));
}

#[test]
fn an_edit_that_was_not_seen_is_not_overwritten() {
    let (lab, tree) = Lab::files("unseen");
    lab.write("a", "seen");
    let (_, seen) = there(&tree, "a");
    let new = file("from the peer", 0o644);
    lab.stage(&tree, "a", "from the peer", &new);
    lab.write("a", "edit");
    for expect in [Some(&seen), None] {
        assert!(matches!(tree.place(b"a", &new, true, expect), Err(Place::Changed)));
        assert!(matches!(tree.remove(b"a", expect, &lab.aside("a")), Err(Place::Changed)));
    }
    assert!(matches!(tree.place(b"a", &directory(0o755), false, Some(&seen)), Err(Place::Changed)));
    assert!(matches!(tree.place(b"gone", &new, true, Some(&seen)), Err(Place::Changed)));
    assert_eq!(lab.read("a"), "edit");
    assert!(tree.staged(b"a").exists() && !lab.aside("a").exists());
    // A stat that is young is believed but for its time of change.
    let (_, young) = there(&tree, "a");
    let young = Stat { ctime_ns: 0, ..young };
    tree.place(b"a", &new, true, Some(&young)).expect("placed");
    assert_eq!(lab.read("a"), "from the peer");
}

#[test]
fn a_path_becomes_anything_else() {
    let (lab, tree) = Lab::files("types");
    let states = [file("text", 0o640), directory(0o750), link("target"), file("other", 0o600), link("d/x")];
    for (from, to) in states.iter().flat_map(|from| states.iter().map(move |to| (from, to))) {
        let put = |wanted: &Entry| -> Stat {
            let fetched = matches!(wanted.content, Content::File { .. });
            if fetched {
                let text = if *wanted == states[0] { "text" } else { "other" };
                lab.stage(&tree, "p", text, wanted);
            }
            let expect = now(&tree, "p");
            tree.place(b"p", wanted, fetched, expect.as_ref())
                .unwrap_or_else(|e| panic!("{from:?} {to:?}: {e}"))
        };
        put(from);
        let stat = put(to);
        let (seen, shown) = there(&tree, "p");
        assert_eq!((&seen, shown), (to, stat), "{from:?}");
        assert_eq!(walked(&tree), ["p"]);
        assert_eq!(fs::read_dir(tree.staging()).expect("read").count(), 0, "{from:?} {to:?}");
        let aside = lab.aside("p");
        tree.remove(b"p", Some(&stat), &aside).expect("removed");
        if let Ok(kept) = fs::symlink_metadata(&aside) {
            assert!(!kept.is_dir());
            fs::remove_file(aside).expect("removed");
        }
    }
}

#[test]
fn a_directory_with_something_in_it_stays() {
    let (lab, tree) = Lab::files("full");
    lab.write("d/keep.log", "not of the set");
    let stat = now(&tree, "d");
    let new = file("x", 0o644);
    lab.stage(&tree, "d", "x", &new);
    assert!(matches!(tree.place(b"d", &new, true, stat.as_ref()), Err(Place::NotEmpty)));
    assert!(matches!(tree.place(b"d", &link("x"), false, stat.as_ref()), Err(Place::NotEmpty)));
    assert!(matches!(tree.remove(b"d", stat.as_ref(), &lab.aside("d")), Err(Place::NotEmpty)));
    assert_eq!(lab.read("d/keep.log"), "not of the set");
    // Its own attributes change all the same, whatever its times are by now.
    lab.write("d/another.log", "x");
    tree.place(b"d", &directory(0o700), false, stat.as_ref()).expect("placed");
    assert_eq!(there(&tree, "d").0, directory(0o700));
}

#[test]
fn a_program_of_a_stranger_is_not_made_one_of_root() {
    let (_lab, tree) = Lab::files("lent");
    let owned = |mode, owner: &str, group: &str| {
        let own = file("x", mode);
        Entry {
            owner: if owner.is_empty() { own.owner.clone() } else { owner.into() },
            group: if group.is_empty() { own.group.clone() } else { group.into() },
            ..own
        }
    };
    for (mode, owner, group, what) in [
        (0o4755, "nobody-here", "", "set-user-ID bit (4000)"),
        (0o2755, "", "nobody-here", "set-group-ID bit (2000)"),
        (0o6755, "nobody-here", "nobody-here", "nobody-here"),
    ] {
        let why = tree.bars(b"x", &owned(mode, owner, group)).expect("asked").expect("barred");
        assert!(why.contains(what) && why.contains("nobody-here"), "{why}");
    }
    for (mode, owner, group) in
        [(0o6755, "", ""), (0o755, "nobody-here", "nobody-here"), (0o4755, "", "nobody-here")]
    {
        assert_eq!(
            tree.bars(b"x", &owned(mode, owner, group)).expect("asked"),
            None,
            "{mode:o} {owner} {group}"
        );
    }
    let shared = Entry { mode: 0o2775, owner: "nobody-here".into(), ..directory(0o775) };
    assert_eq!(tree.bars(b"d", &shared).expect("asked"), None, "a directory runs nothing");
}

#[test]
fn what_is_removed_is_in_the_trash_on_this_or_another_file_system() {
    let (lab, tree) = Lab::files("trash");
    let shm = PathBuf::from(format!("/dev/shm/dre-tree-{}", std::process::id()));
    let mut places = vec![lab.dir.join("trash")];
    if fs::metadata("/dev/shm").is_ok_and(|m| m.dev() != fs::metadata(&lab.dir).expect("stat").dev()) {
        fs::create_dir_all(&shm).expect("made");
        places.push(shm.clone());
    }
    println!("{} file systems", places.len());
    for trash in places {
        lab.write("d/a", "text");
        fs::set_permissions(lab.root("d/a"), fs::Permissions::from_mode(0o604)).expect("chmod");
        symlink("a", lab.root("d/l")).expect("linked");
        for path in ["d/a", "d/l", "d"] {
            let (_, stat) = there(&tree, path);
            tree.remove(path.as_bytes(), Some(&stat), &trash.join(path.replace('/', "-"))).expect("removed");
            assert_eq!(tree.look(path.as_bytes(), None).expect("look"), Look::Absent);
            // Again: done already.
            tree.remove(path.as_bytes(), Some(&stat), &trash.join("again")).expect("removed");
        }
        let kept = fs::metadata(trash.join("d-a")).expect("kept");
        assert_eq!((kept.mode() & 0o7777, kept.len()), (0o604, 4));
        assert_eq!(fs::read_link(trash.join("d-l")).expect("kept"), Path::new("a"));
        assert_eq!(fs::read_dir(&trash).expect("read").count(), 2);
        assert_eq!(fs::read_dir(tree.staging()).expect("read").count(), 0);
        // And back, as an edit of now.
        tree.put_back(&trash.join("d-a"), b"d/a").expect("back");
        tree.put_back(&trash.join("d-l"), b"d/l").expect("back");
        let (back, _) = there(&tree, "d/a");
        assert_eq!((back.content, back.mode), (file("text", 0).content, 0o604));
        assert!(back.mtime_ns > 1_700_000_000_000_000_000);
        assert_eq!(there(&tree, "d/l").0.content, link("a").content);
        assert!(
            matches!(tree.put_back(&trash.join("d-a"), b"d/a"), Err(Place::Changed)),
            "something is there"
        );
        fs::remove_dir_all(lab.root("d")).expect("removed");
    }
    let _ = fs::remove_dir_all(shm);
}

#[test]
fn a_copy_is_kept_with_all_it_has() {
    let (lab, tree) = Lab::files("keep");
    let one = file("mine", 0o751);
    lab.place(&tree, "a", "mine", &one).expect("placed");
    tree.keep_aside(b"a", &lab.aside("a")).expect("kept");
    let kept = fs::metadata(lab.aside("a")).expect("kept");
    assert_eq!((kept.mode() & 0o7777, kept.mtime(), kept.mtime_nsec()), (0o751, 1_600_000_000, 123_456_789));
    assert_eq!(fs::read_to_string(lab.aside("a")).expect("read"), "mine");
    assert_ne!(kept.ino(), fs::metadata(lab.root("a")).expect("there").ino());
    assert!(
        matches!(tree.keep_aside(b"a", &lab.aside("a")), Err(Place::Failed(_))),
        "nothing is overwritten"
    );
    assert!(matches!(tree.keep_aside(b"nothing", &lab.aside("n")), Err(Place::Changed)));
    // The peer's version, which loses.
    let theirs = file("theirs", 0o600);
    lab.stage(&tree, "a", "theirs", &theirs);
    tree.keep_staged(b"a", &theirs, &lab.aside("theirs")).expect("kept");
    assert_eq!(fs::read_to_string(lab.aside("theirs")).expect("read"), "theirs");
    tree.keep_staged(b"a", &link("x"), &lab.aside("link")).expect("kept");
    assert_eq!(fs::read_link(lab.aside("link")).expect("kept"), Path::new("x"));
    assert_eq!(lab.read("a"), "mine");
}

#[test]
fn what_did_not_arrive_as_announced_does_not_verify() {
    let (lab, tree) = Lab::files("verify");
    fs::create_dir_all(tree.staged(b"d")).expect("made");
    fs::write(tree.staged(b"d/a"), "text").expect("staged");
    let hash = *blake3::hash(b"text").as_bytes();
    assert!(tree.verify(b"d/a", &hash, 4));
    assert!(
        !tree.verify(b"d/a", &hash, 5) && !tree.verify(b"d/a", &[0; 32], 4) && !tree.verify(b"d/b", &hash, 4)
    );
    symlink("a", tree.staged(b"d/l")).expect("linked");
    assert!(!tree.verify(b"d/l", &hash, 4), "a link is no content");
    assert_eq!(fs::metadata(tree.staging()).expect("there").mode() & 0o7777, 0o700);
    let held = tree.staging_held().expect("held");
    fs::rename(tree.staging(), lab.root("elsewhere")).expect("moved");
    let by_descriptor =
        fs::read(format!("/proc/self/fd/{}/d/a", held.as_raw_fd())).expect("the same directory");
    assert_eq!(by_descriptor, b"text", "whatever stands under the name");
    fs::rename(lab.root("elsewhere"), tree.staging()).expect("moved back");
    tree.sweep().expect("swept");
    assert_eq!(fs::read_dir(tree.staging()).expect("read").count(), 0);
    fs::write(tree.staged(b"left"), "by a crash").expect("staged");
    drop(tree);
    let tree = lab.tree();
    assert_eq!(fs::read_dir(tree.staging()).expect("read").count(), 0);
}

#[test]
fn paths_that_do_not_belong_to_the_set_are_never_touched() {
    let (lab, tree) = Lab::files("foreign");
    lab.write("x.log", "log");
    let new = file("x", 0o644);
    for path in ["x.log", ".dre-stage/x", "../x", "/etc/x", "a//b", "d/../x", "a.swp", ""] {
        assert!(matches!(tree.place(path.as_bytes(), &new, true, None), Err(Place::Failed(_))), "{path}");
        assert!(tree.put_back(&lab.root("x.log"), path.as_bytes()).is_err(), "{path}");
    }
    let stat = now(&tree, "x.log");
    assert!(tree.remove(b"x.log", stat.as_ref(), &lab.aside("x")).is_err());
    assert_eq!(lab.read("x.log"), "log");
    assert!(matches!(tree.place(b"out", &link("/etc/passwd"), false, None), Err(Place::Failed(_))));
}

#[test]
fn a_root_that_is_another_is_noticed() {
    let (lab, tree) = Lab::files("root");
    assert!(tree.root_state().is_ok());
    fs::rename(&lab.set.root, lab.dir.join("away")).expect("moved");
    assert!(tree.root_state().expect_err("gone").contains("is not there"));
    fs::create_dir(&lab.set.root).expect("made");
    assert!(tree.root_state().expect_err("another").contains("another directory"));
    drop(tree);
    assert!(lab.tree().is_empty().expect("read"));
    fs::remove_dir_all(&lab.set.root).expect("removed");
    let error = Tree::open(&lab.set).err().expect("nothing there");
    assert_eq!(error.errno(), Some(libc::ENOENT));
}

#[test]
fn owners_go_by_name_and_an_unknown_one_is_no_edit() {
    if !is_root() {
        return;
    }
    let mut lab = Lab::new("owners", Publish::Files);
    lab.set.owners = [("rules".to_owned(), "daemon".to_owned())].into();
    let tree = lab.tree();
    let daemon = nix::unistd::User::from_name("daemon").expect("asked").expect("on every machine");
    lab.write("a", "x");
    std::os::unix::fs::chown(lab.root("a"), Some(daemon.uid.as_raw()), Some(54_321)).expect("chown");
    let (seen, _) = there(&tree, "a");
    assert_eq!((seen.owner.as_str(), seen.group.as_str()), ("rules", "#54321"));
    // Back the same way.
    let placed = lab.place(&tree, "b", "x", &Entry { mode: 0o4755, ..seen.clone() }).expect("placed");
    assert_eq!((placed.uid, placed.gid, placed.mode & 0o7777), (daemon.uid.as_raw(), 54_321, 0o4755));
    assert!(tree.warnings().is_empty());
    // A name that this node does not have.
    let stranger = Entry { owner: "nobody-knows".into(), group: "no-group".into(), ..file("y", 0o600) };
    let stat = lab.place(&tree, "c", "y", &stranger).expect("placed");
    assert_eq!((stat.uid, stat.gid), (0, 0));
    let warnings = tree.warnings();
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().all(|text| text.contains("belongs to root here")), "{warnings:?}");
    assert!(tree.warnings().is_empty(), "said once");
    // Its content is edited: the owner stays what the record says.
    lab.write("c", "edited");
    match tree.look(b"c", Some(&known(&stranger, stat))).expect("look") {
        Look::There { entry, .. } => {
            assert_eq!((entry.owner.as_str(), entry.group.as_str()), ("nobody-knows", "no-group"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(there(&tree, "c").0.owner, "root");
}

/// Where times stand still for a tick, what is younger than it is read again; a moment later it is believed.
#[test]
fn what_is_too_young_is_looked_at_again() {
    let (lab, tree) = Lab::files("young");
    println!("times of change are {}", if tree.coarse.get() { "coarse" } else { "fine" });
    tree.coarse.set(true);
    lab.write("a", "one");
    let (entry, stat) = there(&tree, "a");
    let young = Stat { ctime_ns: 0, ..stat };
    let begun = Instant::now();
    let mut settled = None;
    while settled.is_none() && begun.elapsed() < Duration::from_secs(5) {
        match tree.look(b"a", Some(&known(&entry, young))).expect("look") {
            Look::There { entry: again, stat } => {
                assert_eq!(again, entry);
                settled = (!stat.is_young()).then_some(stat);
            }
            other => panic!("{other:?}"),
        }
    }
    let settled = settled.expect("no clock stands still for seconds");
    assert_eq!(tree.look(b"a", Some(&known(&entry, settled))).expect("look"), Look::Same);
    // What is placed has a time of its own, which an edit would move.
    let stat = lab.place(&tree, "b", "two", &file("two", 0o644)).expect("placed");
    assert!(!stat.is_young());
    let now = Entry { mtime_ns: coarse_now() + 60_000_000_000, ..file("three", 0o644) };
    assert!(lab.place(&tree, "b", "three", &now).expect("placed").is_young());
}

#[test]
fn a_file_that_is_written_to_meanwhile_is_not_settled() {
    let (lab, tree) = Lab::files("unsettled");
    lab.write("a", &"x".repeat(4 << 20));
    let stop = AtomicBool::new(false);
    let unsettled = std::thread::scope(|scope| {
        let done = Stop(&stop);
        scope.spawn(|| {
            let mut file = File::options().append(true).open(lab.root("a")).expect("opened");
            while !stop.load(Ordering::Relaxed) {
                io::Write::write_all(&mut file, b"y").expect("written");
            }
        });
        let begun = Instant::now();
        let mut seen = false;
        while !seen && begun.elapsed() < Duration::from_secs(20) {
            seen = tree.look(b"a", None).expect("look") == Look::Unsettled;
        }
        drop(done);
        seen
    });
    assert!(unsettled);
    assert!(matches!(tree.look(b"a", None).expect("look"), Look::There { .. }));
}

// ---- publish = tree ------------------------------------------------------------------------------------

fn generations(lab: &Lab) -> Vec<String> {
    let name =
        |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name().to_string_lossy().into_owned();
    let mut all: Vec<_> =
        fs::read_dir(&lab.dir).expect("read").map(name).filter(|n| n.starts_with("root")).collect();
    all.sort();
    all
}

#[test]
fn a_directory_becomes_a_link_to_its_first_generation() {
    let lab = Lab::new("first", Publish::Tree);
    lab.write("d/a", "one");
    // What a crash may have left of an earlier try.
    symlink("root.gen-1", lab.dir.join("root.gen-1")).expect("linked");
    let before = fs::metadata(&lab.set.root).expect("there").ino();
    let tree = lab.tree();
    assert_eq!(fs::read_link(&lab.set.root).expect("a link"), Path::new("root.gen-1"));
    assert_eq!(fs::metadata(&lab.set.root).expect("there").ino(), before);
    assert_eq!(generations(&lab), ["root", "root.gen-1"]);
    assert_eq!(walked(&tree), ["d", "d/a"]);
    assert!(tree.root_state().is_ok());
    drop(tree);
    let tree = lab.tree();
    assert_eq!(generations(&lab), ["root", "root.gen-1"]);
    fs::remove_file(&lab.set.root).expect("removed");
    assert!(tree.root_state().is_err());
    symlink("outside", &lab.set.root).expect("linked");
    assert!(tree.root_state().expect_err("another").contains("dre-sync did not make"));
    let error = Tree::open(&lab.set).err().expect("somebody else's link");
    assert!(error.to_string().contains("write where it leads as the root"), "{error}");
}

#[test]
fn a_batch_is_visible_as_a_whole() {
    let lab = Lab::new("whole", Publish::Tree);
    for path in ["a", "d/b", "d/c", "x.log"] {
        lab.write(path, "0");
    }
    let mut tree = lab.tree();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = Stop(&stop);
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                // One look at the root, as a program does that loads all its rules.
                let root = Ground::open(&lab.set.root).expect("always there");
                let read = |path: &str| {
                    let (parent, name) = root.parent(path.as_bytes())?;
                    let mut text = String::new();
                    open_file(&parent, OsStr::new(name))
                        .and_then(|mut f| f.read_to_string(&mut text).map_err(|_| Errno::EIO))?;
                    Ok::<_, Errno>(text)
                };
                // The generation may be discarded meanwhile; what is read is of one batch.
                if let (Ok(a), Ok(b)) = (read("a"), read("d/b")) {
                    assert_eq!(a, b);
                    reads += 1;
                }
            }
            reads
        });
        let mut known_c = there(&tree, "d/c").1;
        for n in 1..=50 {
            let text = n.to_string();
            tree.begin().expect("begun");
            for path in ["a", "d/b"] {
                lab.place(&tree, path, &text, &file(&text, 0o644)).expect("placed");
            }
            let mut old = tree.finish().expect("finished").expect("an old one");
            assert!(old.carried.is_empty() && old.clashes.is_empty());
            for relinked in tree.discard(&mut old).expect("discarded").expect("nothing late") {
                if relinked.path == b"d/c" {
                    assert_eq!(relinked.before, known_c);
                    known_c = relinked.after;
                }
            }
            assert_eq!(lab.read("d/b"), text);
            assert_eq!(now(&tree, "d/c"), Some(known_c), "what is known stays known");
        }
        drop(done);
        println!("{} looks in 50 switches", reader.join().expect("no torn batch"));
    });
    assert_eq!(generations(&lab), ["root", "root.gen-51"]);
    assert_eq!(lab.read("x.log"), "0", "what is not of the set is there too");
}

#[test]
fn a_generation_is_made_beside_and_changes_nothing_before() {
    let lab = Lab::new("beside", Publish::Tree);
    for path in ["keep", "mode", "gone", "dir/x"] {
        lab.write(path, "old");
    }
    let mut tree = lab.tree();
    let before: Vec<_> = ["keep", "mode", "gone", "dir"].iter().map(|p| there(&tree, p).1).collect();
    tree.begin().expect("begun");
    assert_eq!(tree.next(), None, "nothing is done in it yet");
    let mode = Entry { mode: 0o400, ..there(&tree, "mode").0 };
    // What the store knows is of the time before the clone's links.
    tree.place(b"mode", &mode, false, Some(&before[1])).expect("placed");
    tree.remove(b"gone", Some(&before[2]), &lab.aside("gone")).expect("removed");
    tree.place(b"dir", &directory(0o700), false, Some(&before[3])).expect("placed");
    assert!(tree.next().expect("one").ends_with("root.gen-2"));
    assert_eq!(lab.read("gone"), "old");
    assert_ne!(fs::metadata(lab.root("mode")).expect("there").mode() & 0o7777, 0o400);
    let mut old = tree.finish().expect("finished").expect("an old one");
    assert!(old.carried.is_empty() && old.clashes.is_empty(), "{:?} {:?}", old.carried, old.clashes);
    assert_eq!(lab.read("gone"), "<NotFound>");
    assert_eq!(fs::read_to_string(lab.aside("gone")).expect("in the trash"), "old");
    assert_eq!(there(&tree, "mode").0, mode);
    assert_eq!(there(&tree, "dir").0.mode, 0o700);
    let relinked = tree.discard(&mut old).expect("discarded").expect("nothing late");
    let keep = relinked.iter().find(|r| r.path == b"keep").expect("relinked");
    assert_eq!((keep.before, Some(keep.after)), (before[0], now(&tree, "keep")));
    assert!(relinked.iter().all(|r| r.path != b"mode" && r.path != b"gone"));
    // A batch in which nothing could be done leaves nothing.
    tree.begin().expect("begun");
    assert_eq!(tree.next(), None, "the live one stays and stays watched");
    assert!(tree.finish().expect("finished").is_none());
    assert_eq!(generations(&lab), ["root", "root.gen-2"]);
}

#[test]
fn edits_made_meanwhile_are_carried_over_and_clashes_are_told() {
    let lab = Lab::new("carried", Publish::Tree);
    for path in ["in-place", "renamed", "deleted", "both", "d/moved", "d/deleted", "x.log", "to-dir"] {
        lab.write(path, "old");
    }
    let mut tree = lab.tree();
    tree.begin().expect("begun");
    lab.place(&tree, "both", "from the peer", &file("from the peer", 0o644)).expect("placed");
    lab.place(&tree, "added", "new", &file("new", 0o644)).expect("placed");
    // Hands at work in the live generation.
    let root = fs::canonicalize(&lab.set.root).expect("a generation");
    fs::write(root.join("in-place"), "edited").expect("written");
    for path in ["renamed", "both", "x.log"] {
        fs::write(root.join("tmp"), "edited").expect("written");
        fs::rename(root.join("tmp"), root.join(path)).expect("renamed");
    }
    fs::remove_file(root.join("deleted")).expect("removed");
    fs::rename(root.join("d"), root.join("e")).expect("moved");
    fs::remove_file(root.join("e/deleted")).expect("removed");
    fs::write(root.join("e/new"), "new").expect("written");
    fs::remove_file(root.join("to-dir")).expect("removed");
    fs::DirBuilder::new().mode(0o711).create(root.join("to-dir")).expect("made");
    fs::write(root.join("to-dir/x"), "x").expect("written");
    let mut old = tree.finish().expect("finished").expect("an old one");
    let mut carried: Vec<_> = old.carried.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect();
    carried.sort();
    let all = [
        "d",
        "d/deleted",
        "d/moved",
        "deleted",
        "e",
        "e/moved",
        "e/new",
        "in-place",
        "renamed",
        "to-dir",
        "to-dir/x",
        "x.log",
    ];
    assert_eq!(carried, all);
    assert_eq!(old.clashes, [b"both".to_vec()]);
    assert_eq!(
        walked(&tree),
        ["added", "both", "e", "e/moved", "e/new", "in-place", "renamed", "to-dir", "to-dir/x"]
    );
    for path in ["in-place", "renamed", "x.log"] {
        assert_eq!(lab.read(path), "edited", "{path}");
    }
    assert_eq!(fs::metadata(lab.root("to-dir")).expect("there").mode() & 0o7777, 0o711);
    // The clash: both versions are there for whoever decides.
    assert_eq!(lab.read("both"), "from the peer");
    tree.keep_old(&old, b"both", &lab.aside("both")).expect("kept");
    assert_eq!(fs::read_to_string(lab.aside("both")).expect("kept"), "edited");
    // Nothing goes while there is something to be dealt with.
    assert!(tree.discard(&mut old).expect("looked").is_none());
    assert_eq!(generations(&lab), ["root", "root.gen-1", "root.gen-2"]);
    old.clashes.clear();
    old.carried.clear();
    // A program that has stood in the old generation since before the switch goes on writing.
    fs::write(root.join("e/late"), "late").expect("written");
    assert!(tree.discard(&mut old).expect("looked").is_none());
    assert!(old.clashes.is_empty());
    assert!(old.carried.contains(&b"e/late".to_vec()), "{:?}", old.carried);
    assert_eq!(lab.read("e/late"), "late");
    assert_eq!(lab.read("e/new"), "new", "what was carried is of the new generation");
    old.carried.clear();
    assert!(tree.discard(&mut old).expect("discarded").is_some());
    assert_eq!(generations(&lab), ["root", "root.gen-2"]);
}

#[test]
fn what_a_crash_leaves_is_found_at_the_next_start() {
    let lab = Lab::new("crash", Publish::Tree);
    lab.write("a", "old");
    lab.write("b", "old");
    let mut tree = lab.tree();
    // In the middle of a batch.
    tree.begin().expect("begun");
    lab.place(&tree, "a", "new", &file("new", 0o644)).expect("placed");
    drop(tree);
    let mut tree = lab.tree();
    assert_eq!(generations(&lab), ["root", "root.gen-1"]);
    assert_eq!(lab.read("a"), "old");
    assert!(tree.leftovers().expect("read").is_empty());
    // After the switch, before the old one was looked through.
    tree.begin().expect("begun");
    lab.place(&tree, "a", "new", &file("new", 0o644)).expect("placed");
    drop(tree.finish().expect("finished"));
    drop(tree);
    let tree = lab.tree();
    assert_eq!(lab.read("a"), "new");
    let mut left = tree.leftovers().expect("read");
    let mut old = left.pop().expect("one");
    assert_eq!(old.clashes, [b"a".to_vec()]);
    tree.keep_old(&old, b"a", &lab.aside("a")).expect("kept");
    assert_eq!(fs::read_to_string(lab.aside("a")).expect("kept"), "old");
    old.clashes.clear();
    assert!(tree.discard(&mut old).expect("discarded").is_some());
    assert_eq!(generations(&lab), ["root", "root.gen-2"]);
}

// ---- figures -------------------------------------------------------------------------------------------

/// `DRE_TREE_FILES=100000` for the figures; the time is the processor's, for other tests run beside.
#[test]
fn figures_of_many_files() {
    let (lab, mut tree) = Lab::files("many");
    let count = std::env::var("DRE_TREE_FILES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let clock = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |now| now.num_microseconds());
    let took = |what: &str, since: (Instant, i64)| {
        let wall = since.0.elapsed().as_secs_f64() * 1e3;
        println!("{what}: {wall:.1} ms, of the processor {:.1} ms", (clock() - since.1) as f64 / 1e3);
    };
    let start = || (Instant::now(), clock());
    for n in 0..count {
        lab.write(&format!("{:03}/rule-{n:06}.conf", n / 100), &"x".repeat(200));
    }
    let since = start();
    let mut all = vec![];
    tree.walk(b"", &mut |path, stat| all.push((path, stat))).expect("walked");
    took(&format!("{count} files walked"), since);
    assert_eq!(all.len(), count + count / 100);
    let since = start();
    let mut looked = vec![];
    for (path, _) in &all {
        if let Ok(Look::There { entry, stat }) = tree.look(path, None) {
            looked.push((path, known(&entry, stat)));
        }
    }
    took("looked at and hashed", since);
    let since = start();
    for (path, known) in &looked {
        assert_eq!(tree.look(path, Some(known)).expect("look"), Look::Same);
    }
    took("looked at, the same", since);
    let text = "y".repeat(200);
    let new = file(&text, 0o644);
    fs::create_dir_all(tree.staged(b"000")).expect("made");
    for n in 0..1_000 {
        fs::write(tree.staged(format!("000/new-{n}").as_bytes()), &text).expect("staged");
    }
    let since = start();
    for n in 0..1_000 {
        let path = format!("000/new-{n}");
        assert!(tree.verify(path.as_bytes(), blake3::hash(text.as_bytes()).as_bytes(), 200));
        tree.prepare(path.as_bytes(), &new, false).expect("prepared");
    }
    took("1,000 verified and prepared", since);
    let since = start();
    tree.sync_staging().expect("synced");
    took("one sync of all", since);
    let since = start();
    for n in 0..1_000 {
        tree.place(format!("000/new-{n}").as_bytes(), &new, true, None).expect("placed");
    }
    tree.finish().expect("finished");
    took("1,000 placed", since);
}
