//! The rules files as an operator meets them: drectl as a process, the real control socket of dre-sync with a stand-in
//! for dre-sync behind it. No lab, no root but for the one test that becomes somebody else.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dre::rules::{Answer, Ask, Kept, RulesStatus, SetStatus};
use dre::shell::rules_control::{self, Asked};
use dre::shell::{control, journal::Journal};
use dre::snapshot::{Alarm, Status};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

/// What the stand-in for dre-sync makes of a question.
type Answers = fn(&Ask, &mut RulesStatus) -> Answer;

/// A dre-sync on a socket of its own.
struct House {
    dir: PathBuf,
    status: Arc<Mutex<RulesStatus>>,
    asked: Arc<Mutex<Vec<Ask>>>,
    changed: Arc<Mutex<Option<watch::Sender<u64>>>>,
    threads: Vec<JoinHandle<()>>,
}

impl House {
    fn new(name: &str, answers: Answers) -> Self {
        let dir = directory(name);
        let listener = UnixListener::bind(dir.join("sync")).expect("a socket");
        let status = Arc::new(Mutex::new(held()));
        let asked = Arc::new(Mutex::new(vec![]));
        let (changed, watcher) = watch::channel(0);
        let (asks, mut inbox) = mpsc::channel::<Asked>(64);
        let shown = Arc::clone(&status);
        let render = move || shown.lock().expect("whole").clone();
        let server =
            rules_control::serve(listener.into(), render, watcher, asks, journal()).expect("it serves");
        let (kept, seen) = (Arc::clone(&status), Arc::clone(&asked));
        let worker = thread::spawn(move || {
            while let Some((ask, reply)) = inbox.blocking_recv() {
                let answer = answers(&ask, &mut kept.lock().expect("whole"));
                seen.lock().expect("whole").push(ask);
                let _ = reply.send(answer);
            }
        });
        let changed = Arc::new(Mutex::new(Some(changed)));
        Self { dir, status, asked, changed, threads: vec![server, worker] }
    }

    fn change(&self, change: impl FnOnce(&mut RulesStatus)) {
        change(&mut self.status.lock().expect("whole"));
        if let Some(bell) = &*self.changed.lock().expect("whole") {
            bell.send_modify(|count| *count += 1);
        }
    }

    fn drectl(&self, line: &[&str]) -> Output {
        drectl(&self.dir, line).output().expect("drectl runs")
    }

    fn asked(&self) -> Vec<Ask> {
        std::mem::take(&mut self.asked.lock().expect("whole"))
    }
}

impl Drop for House {
    /// Nobody is left who could tell of changes: the server ends, and with its last sender the stand-in.
    fn drop(&mut self) {
        drop(self.changed.lock().expect("whole").take());
        for thread in self.threads.drain(..) {
            if !thread::panicking() {
                thread.join().expect("it ended well");
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A directory in which sets may lie: not below /tmp, which is the system's.
fn directory(name: &str) -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_drectl")).parent().map(Path::to_path_buf);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let base = [built, home].into_iter().flatten().find(|dir| !dir.starts_with("/tmp")).expect("a place");
    let dir = base.join(format!("dre-rules-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a directory");
    dir
}

/// drectl with the sockets `control` and `sync` and the configuration of a directory.
fn drectl(dir: &Path, line: &[&str]) -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_drectl"));
    process.env("DRE_CONTROL", dir.join("control")).env("DRE_SYNC_CONTROL", dir.join("sync"));
    process.env("DRE_CONFDIR", dir).env("TMPDIR", dir);
    for name in ["DRE_GROUP", "AVAMGR_CONFDIR", "DRE_STANDALONE", "RE_CONFDIR", "ERLBF_RE_CONFDIR"] {
        process.env_remove(name);
    }
    process.args(line).stdin(Stdio::null());
    process
}

fn journal() -> Journal {
    Journal::start("rules-test", dre::notice::Priority::Error).expect("a thread")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn ended(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn held() -> RulesStatus {
    RulesStatus {
        node: "hadev1".into(),
        peer: "hadev2".into(),
        connected: true,
        link: "primary".into(),
        sets: vec![
            SetStatus { name: "erlbf".into(), state: "IN_SYNC".into(), ..SetStatus::default() },
            SetStatus {
                name: "re".into(),
                state: "HELD".into(),
                reason: "9000 of 10000 files are gone at once".into(),
                remedy: "drectl rules accept-deletes re".into(),
                ..SetStatus::default()
            },
        ],
        alarms: vec![Alarm {
            name: "MassDeletion".into(),
            subject: "re".into(),
            text: "set re waits; accept it".into(),
            since: String::new(),
        }],
        version: env!("CARGO_PKG_VERSION").into(),
        ..RulesStatus::default()
    }
}

fn kept(id: &str) -> Kept {
    Kept {
        set: "re".into(),
        id: id.into(),
        path: "de/a.xml".into(),
        node: "hadev2".into(),
        size: 5,
        ..Kept::default()
    }
}

fn obliging(ask: &Ask, status: &mut RulesStatus) -> Answer {
    match ask {
        Ask::Verify { deep, .. } => Answer::Done(format!("looked at everything, deep {deep}")),
        Ask::Conflicts { set: Some(_) } => Answer::Kept(vec![]),
        Ask::Conflicts { .. } | Ask::Trash { .. } => {
            Answer::Kept(vec![kept("20261125T140211Z-000017"), kept("b")])
        }
        Ask::AcceptDeletes { .. } => {
            status.sets[1].state = "IN_SYNC".into();
            Answer::Done("9000 files are deleted on hadev2".into())
        }
        Ask::Drop { id, .. } => Answer::Done(format!("{id} is thrown away")),
        Ask::Restore { .. } | Ask::Force { .. } => {
            Answer::Refused("there is nothing to be done; look again".into())
        }
    }
}

// ---- dre-sync's commands -----------------------------------------------------------------------------------

#[test]
fn rules_alone_is_the_status_and_json_is_one_line_of_it() {
    let house = House::new("status", obliging);
    for line in [&["rules"][..], &["rules", "status"]] {
        let output = house.drectl(line);
        ended(&output, 0);
        let page = text(&output.stdout);
        for words in
            ["connected to hadev2 over primary", "re     HELD", "do:      drectl rules accept-deletes re"]
        {
            assert!(page.contains(words), "{words:?} is missing in\n{page}");
        }
        assert!(!page.contains('\x1b'), "colour is for terminals");
    }
    let output = house.drectl(&["rules", "status", "--json"]);
    ended(&output, 0);
    assert_eq!(serde_json::from_slice::<RulesStatus>(&output.stdout).expect("JSON"), held());
    assert_eq!(text(&output.stdout).lines().count(), 1);
    assert!(house.asked().is_empty(), "reading asks dre-sync for nothing");
}

#[test]
fn each_command_asks_for_what_it_says() {
    let house = House::new("commands", obliging);
    let set = || Some("re".to_owned());
    for (line, code, asked, said) in [
        (&["verify"][..], 0, Ask::Verify { set: None, deep: false }, "deep false\n"),
        (&["verify", "re", "--deep"], 0, Ask::Verify { set: set(), deep: true }, "deep true\n"),
        (
            &["conflicts"],
            0,
            Ask::Conflicts { set: None },
            "rules conflicts restore re 20261125T140211Z-000017\n",
        ),
        (&["conflicts", "re"], 0, Ask::Conflicts { set: set() }, "no conflicts of set re"),
        (&["trash"], 0, Ask::Trash { set: None }, "rules trash restore re 20261125T140211Z-000017\n"),
        (
            &["accept-deletes", "re"],
            0,
            Ask::AcceptDeletes { set: "re".into() },
            "9000 files are deleted on hadev2\n",
        ),
        (
            &["conflicts", "restore", "re", "a"],
            75,
            Ask::Restore { set: "re".into(), id: "a".into() },
            "look again",
        ),
        (
            &["conflicts", "drop", "re", "a"],
            0,
            Ask::Drop { set: "re".into(), id: "a".into() },
            "a is thrown away\n",
        ),
        (
            &["trash", "restore", "re", "b"],
            75,
            Ask::Restore { set: "re".into(), id: "b".into() },
            "look again",
        ),
        (
            &["force", "re"],
            75,
            Ask::Force { set: "re".into() },
            "drectl: there is nothing to be done; look again\n",
        ),
    ] {
        let output = house.drectl(&[&["rules"], line].concat());
        ended(&output, code);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(out.contains(said) || err.contains(said), "{line:?}: {said:?} is missing in\n{out}\n{err}");
        assert_eq!(house.asked(), [asked], "{line:?}");
    }
    assert_eq!(house.status.lock().expect("whole").sets[1].state, "IN_SYNC");
    let output = house.drectl(&["rules", "trash", "--json"]);
    let list: Vec<Kept> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(list, [kept("20261125T140211Z-000017"), kept("b")]);
    assert_eq!(house.asked(), [Ask::Trash { set: None }]);
    for line in [
        &["rules", "force"][..],
        &["rules", "nothing"],
        &["rules", "conflicts", "restore", "re"],
        &["rules", "conflicts", "drop", "re"],
        &["rules", "trash", "drop", "re", "b"],
    ] {
        ended(&house.drectl(line), 64);
    }
    assert!(house.asked().is_empty());
}

#[test]
fn a_watch_prints_each_change() {
    let house = House::new("watch", obliging);
    let mut process = drectl(&house.dir, &["rules", "status", "--watch", "--json"]);
    let mut child = process.stdout(Stdio::piped()).spawn().expect("drectl runs");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("a pipe")));
    let mut next = || {
        let line = lines.next().expect("goes on").expect("read");
        serde_json::from_str::<RulesStatus>(&line).expect("JSON").sets[1].pending
    };
    assert_eq!(next(), 0);
    house.change(|status| status.sets[1].pending = 7);
    while next() != 7 {}
    child.kill().expect("killed");
    child.wait().expect("ended");
}

#[test]
fn a_stranger_may_read_and_change_nothing() {
    let house = House::new("stranger", obliging);
    let open =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("opened");
    // A stranger does not get through to where it was built.
    let dir = std::env::temp_dir().join(format!("dre-rules-stranger-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a directory");
    open(&dir, 0o755);
    let copy = dir.join("drectl");
    fs::copy(env!("CARGO_BIN_EXE_drectl"), &copy).expect("copied");
    let socket = dir.join("sync");
    fs::hard_link(house.dir.join("sync"), &socket)
        .or_else(|_| fs::rename(house.dir.join("sync"), &socket))
        .expect("moved");
    open(&socket, 0o777);
    let as_nobody = |line: &[&str]| {
        let mut process = Process::new(&copy);
        process.arg("--sync-socket").arg(&socket).args(line).uid(65_534).gid(65_534);
        process.output().expect("drectl runs as nobody")
    };
    ended(&as_nobody(&["rules", "status", "--json"]), 0);
    ended(&as_nobody(&["rules", "conflicts"]), 0);
    house.asked();
    for line in [
        &["rules", "verify"][..],
        &["rules", "accept-deletes", "re"],
        &["rules", "force", "re"],
        &["rules", "trash", "restore", "re", "x"],
        &["rules", "conflicts", "drop", "re", "x"],
    ] {
        let output = as_nobody(line);
        ended(&output, 75);
        assert!(
            text(&output.stderr).contains("uid 65534 may read the status but change nothing"),
            "{output:?}"
        );
    }
    assert!(house.asked().is_empty(), "nothing came through");
    fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn varlinkctl_is_told_what_there_is() {
    let house = House::new("introspect", obliging);
    let mut stream = UnixStream::connect(house.dir.join("sync")).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    let call = json!({
        "method": "org.varlink.service.GetInterfaceDescription", "parameters": { "interface": "io.dre.Rules" },
    });
    stream.write_all(format!("{call}\0").as_bytes()).expect("written");
    let mut reply = vec![];
    while reply.last() != Some(&0) {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer within 5 s");
        reply.push(byte[0]);
    }
    let reply: Value = serde_json::from_slice(&reply[..reply.len() - 1]).expect("JSON");
    let idl = reply["parameters"]["description"].as_str().expect("a text").to_owned();
    for part in [
        "interface io.dre.Rules",
        "method Status() -> (",
        "# [Supports 'more' flag]\nmethod Watch() -> (",
        "method Verify(",
        "method Conflicts(",
        "method Trash(",
        "method Restore(",
        "method DropConflict(",
        "method AcceptDeletes(",
        "method Force(",
        "error Refused (reason: string)",
        "error NotPermitted (reason: string)",
        "type SetStatus",
        "type Kept",
    ] {
        assert!(idl.contains(part), "{part} is missing in\n{idl}");
    }
}

#[test]
fn without_dre_sync_the_remedy_depends_on_whether_there_are_sets() {
    let dir = directory("nobody");
    for line in [&["rules"][..], &["rules", "status", "--watch"], &["rules", "verify"], &["rules", "trash"]] {
        let output = drectl(&dir, line).output().expect("drectl runs");
        ended(&output, 69);
        let said = text(&output.stderr);
        assert!(
            said.contains("no rules files are replicated") && said.contains("drectl rules setup"),
            "{said}"
        );
    }
    fs::write(dir.join("sync.toml"), "").expect("written");
    let output = drectl(&dir, &["rules"]).output().expect("drectl runs");
    ended(&output, 69);
    assert_eq!(
        text(&output.stderr),
        "drectl: dre-sync.service is not running; start it with: systemctl start dre-sync\n"
    );
    fs::remove_dir_all(&dir).expect("removed");
}

// ---- beside the election -----------------------------------------------------------------------------------

/// A dre-elect on the socket `control` of a directory, until the sender goes.
fn election(dir: &Path) -> (watch::Sender<u64>, JoinHandle<()>) {
    let listener = UnixListener::bind(dir.join("control")).expect("a socket");
    let (changed, watcher) = watch::channel(0);
    let alarms = vec![Alarm { name: "PeerLost".into(), ..Alarm::default() }];
    let status = move || Status {
        node: "hadev1".into(),
        role: "active".into(),
        alarms: alarms.clone(),
        ..Status::default()
    };
    let server = control::serve("dre", listener.into(), status, watcher, mpsc::channel(1).0, journal())
        .expect("it serves");
    (changed, server)
}

#[test]
fn drectl_status_shows_the_rules_files_too() {
    let house = House::new("beside", obliging);
    let (bell, server) = election(&house.dir);
    let output = house.drectl(&["status", "--json"]);
    ended(&output, 0);
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let names: Vec<_> =
        status["alarms"].as_array().expect("a list").iter().map(|alarm| alarm["name"].clone()).collect();
    assert_eq!(names, ["PeerLost", "MassDeletion"]);
    assert_eq!((&status["rules"][1]["name"], &status["rules"][1]["state"]), (&json!("re"), &json!("HELD")));
    assert_eq!(status["role"], "active");
    let page = text(&house.drectl(&["status"]).stdout);
    assert!(page.contains("rules        re HELD: 9000 of 10000"), "{page}");
    assert!(page.contains("ALARM MassDeletion\n  do:  accept it\n"), "{page}");
    assert!(!page.contains("erlbf"), "what is in sync is not shown:\n{page}");
    drop(bell);
    server.join().expect("it ended well");
}

#[test]
fn drectl_status_is_neither_slow_nor_failing_when_dre_sync_hangs() {
    let dir = directory("hangs");
    let (bell, server) = election(&dir);
    // As if no dre-sync were installed.
    let output = drectl(&dir, &["status", "--json"]).output().expect("drectl runs");
    assert!(!text(&output.stdout).contains("\"rules\""), "{output:?}");
    // One that is set up and does not run, and its socket neither.
    fs::write(dir.join("sync.toml"), "").expect("written");
    let output = drectl(&dir, &["status", "--json"]).output().expect("drectl runs");
    ended(&output, 0);
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&status["alarms"][1]["name"], &status["rules"]), (&json!("SyncSilent"), &json!([])));
    let page = text(&drectl(&dir, &["status"]).output().expect("drectl runs").stdout);
    assert!(page.contains("ALARM SyncSilent\n  do:  start it with: systemctl start dre-sync\n"), "{page}");
    fs::remove_file(dir.join("sync.toml")).expect("removed");
    // One that hangs: its queue takes connections, and nobody accepts them, until it is full.
    let listener = UnixListener::bind(dir.join("sync")).expect("a socket");
    let mut full = vec![];
    for crowd in [0, 5_000] {
        while full.len() < crowd {
            let Ok(socket) = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None) else {
                break;
            };
            socket.set_nonblocking(true).expect("set");
            if socket.connect(&socket2::SockAddr::unix(dir.join("sync")).expect("a name")).is_err() {
                break;
            }
            full.push(socket);
        }
        let begun = Instant::now();
        let output = drectl(&dir, &["status", "--json"]).output().expect("drectl runs");
        ended(&output, 0);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&status["alarms"][1]["name"], &status["rules"]), (&json!("SyncSilent"), &json!([])));
    }
    assert!(!full.is_empty());
    drop((listener, bell));
    server.join().expect("it ended well");
    fs::remove_dir_all(&dir).expect("removed");
}

// ---- sync.toml, without a daemon ---------------------------------------------------------------------------

/// A directory with a dre.toml for this host and two trees of rules.
fn configured(name: &str) -> PathBuf {
    let dir = directory(name);
    let host = dre::config::host_name();
    fs::write(
        dir.join("dre.toml"),
        format!(
            "[nodes.\"{host}\"]\nlinks = {{ primary = \"192.0.2.1\", secondary = \"192.0.2.3\" }}\n\
             [nodes.\"x-{host}\"]\nlinks = {{ primary = \"192.0.2.2\", secondary = \"192.0.2.4\" }}\n"
        ),
    )
    .expect("written");
    fs::create_dir_all(dir.join("re/de")).expect("made");
    fs::create_dir_all(dir.join("erlbf")).expect("made");
    fs::write(dir.join("re/de/a.xml"), "<rule/>").expect("written");
    dir
}

/// A program on the path of its own: what it was called with goes to `calls`.
fn program(dir: &Path, name: &str, body: &str) -> String {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).expect("made");
    let calls = dir.join("calls");
    fs::write(bin.join(name), format!("#!/bin/sh\necho {name} \"$@\" >> '{}'\n{body}\n", calls.display()))
        .expect("written");
    fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("mode");
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default())
}

#[test]
fn setup_makes_a_file_that_config_check_accepts_and_offers_it_to_the_peer() {
    let dir = configured("setup");
    let (re, erlbf) = (dir.join("re"), dir.join("erlbf"));
    // The first link is down.
    let path = program(&dir, "scp", "case \"$*\" in *192.0.2.2:*) exit 255;; esac");
    let mut process =
        drectl(&dir, &["rules", "setup", "--yes", "--copy", "--apply", "true", "--validate", "true {list}"]);
    process.env("RE_CONFDIR", &re).env("ERLBF_RE_CONFDIR", &erlbf).env("PATH", &path);
    let output = process.output().expect("drectl runs");
    ended(&output, 0);
    let said = text(&output.stdout);
    for words in [": 1 file, 7 B", "not copied over link primary", "has it.\n", "systemctl daemon-reload"] {
        assert!(said.contains(words), "{words:?} is missing in\n{said}");
    }
    let calls = fs::read_to_string(dir.join("calls")).expect("called");
    let file = dir.join("sync.toml").display().to_string();
    assert_eq!(calls.lines().count(), 2, "{calls}");
    assert!(calls.lines().all(|call| call.contains("BatchMode=yes")), "{calls}");
    assert!(calls.ends_with(&format!("{file} root@192.0.2.4:{file}\n")), "{calls}");

    let output = drectl(&dir, &["config", "check", &file]).output().expect("drectl runs");
    ended(&output, 0);
    assert!(
        text(&output.stdout).contains("configuration holds: erlbf, re; content in the clear\n"),
        "{output:?}"
    );

    // A mistake in it is config check's too, with its place.
    let good = fs::read_to_string(dir.join("sync.toml")).expect("there");
    fs::write(dir.join("sync.toml"), good.replace("[set.re]", "[set.re]\npublish = \"x\"")).expect("written");
    let output = drectl(&dir, &["config", "check", &file, "--json"]).output().expect("drectl runs");
    ended(&output, 78);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["errors"][0]["file"], file.as_str());
    assert!(value["errors"][0]["line"].as_u64().expect("a number") > 1, "{value}");
    // A copy is checked by its name, before it is put in place; and dre.toml goes without.
    let copy = dir.join("sync.toml.new");
    fs::write(&copy, &good).expect("written");
    let copy = copy.display().to_string();
    ended(&drectl(&dir, &["config", "check", &copy]).output().expect("drectl runs"), 0);
    fs::remove_file(dir.join("sync.toml")).expect("removed");
    // Without a set nothing is said of rules files; all that is found is that this host has no heartbeat addresses.
    let output = drectl(&dir, &["config", "check"]).output().expect("drectl runs");
    ended(&output, 78);
    let found = text(&output.stdout) + &text(&output.stderr);
    assert!(found.contains("carries 192.0.2.1") && !found.contains("rules files"), "{output:?}");
    fs::remove_file(&copy).expect("removed");
    ended(&drectl(&dir, &["config", "check", &copy]).output().expect("drectl runs"), 78);
    fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn setup_asks_nobody_who_is_not_there_and_needs_a_pair() {
    let dir = configured("alone");
    let output = drectl(&dir, &["rules", "setup"]).output().expect("drectl runs");
    ended(&output, 64);
    assert!(text(&output.stderr).contains("--yes"), "{output:?}");
    ended(&drectl(&dir, &["rules", "setup", "--yes"]).output().expect("drectl runs"), 64);
    ended(&drectl(&dir, &["rules", "setup", "--set", "re"]).output().expect("drectl runs"), 64);
    fs::remove_file(dir.join("dre.toml")).expect("removed");
    let output =
        drectl(&dir, &["rules", "setup", "--yes", "--set", "re=/opt/re"]).output().expect("drectl runs");
    ended(&output, 78);
    assert!(text(&output.stderr).contains("dre.toml comes first"), "{output:?}");
    assert!(!dir.join("sync.toml").exists());
    fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn check_is_the_verdict_of_the_sets_own_command() {
    let dir = configured("check");
    let re = dir.join("re");
    program(&dir, "re-check", "cd \"$1\" && test \"$(cat \"$2\")\" != evil.xml && xargs cat < \"$2\"");
    let run =
        |line: &[&str]| drectl(&dir, &[&["rules", "check"], line].concat()).output().expect("drectl runs");
    ended(&run(&["re"]), 78);
    fs::write(
        dir.join("sync.toml"),
        format!(
            "[set.re]\nroot = \"{}\"\nvalidate = [\"{}/bin/re-check\", \"{{staging}}\", \"{{list}}\"]\n\
             [set.erlbf]\nroot = \"{}\"\n",
            re.display(),
            dir.display(),
            dir.join("erlbf").display()
        ),
    )
    .expect("written");
    let output = run(&["re"]);
    ended(&output, 0);
    assert!(text(&output.stdout).starts_with("<rule/>\nset re: accepted: a file in "), "{output:?}");
    // A draft from elsewhere, at its place in the set.
    fs::write(dir.join("draft"), "<draft/>").expect("written");
    let draft = format!("de/new.xml={}", dir.join("draft").display());
    let output = run(&["re", &draft, "--json"]);
    ended(&output, 0);
    let verdict: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&verdict["accepted"], &verdict["output"]), (&json!(true), &json!("<draft/>")));
    assert!(!re.join("de/new.xml").exists(), "nothing goes live by being checked");
    let output = run(&["re", &format!("evil.xml={}", dir.join("draft").display())]);
    ended(&output, 75);
    assert_eq!(text(&output.stderr), "drectl: set re: refused: a file: exit status 1\n");
    let output = run(&["erlbf"]);
    ended(&output, 0);
    assert!(text(&output.stdout).contains("it has no validate"), "{output:?}");
    let output = run(&["nothing"]);
    ended(&output, 64);
    assert!(text(&output.stderr).contains("there is erlbf, re"), "{output:?}");
    ended(&run(&["re", "/nonexistent/a.xml"]), 75);
    let left = fs::read_dir(&dir).expect("a directory").filter_map(Result::ok);
    assert!(
        left.into_iter().all(|entry| !text(entry.file_name().as_encoded_bytes()).starts_with("drectl-check"))
    );
    fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn log_is_journalctls() {
    let dir = directory("log");
    let path = program(&dir, "journalctl", "exit 3");
    let mut process = drectl(&dir, &["rules", "log", "re", "--since", "-1h"]);
    ended(&process.env("PATH", &path).output().expect("drectl runs"), 3);
    let calls = fs::read_to_string(dir.join("calls")).expect("called");
    assert_eq!(calls, "journalctl --unit=dre-sync.service --since=-1h DRE_SET=re\n");
    let output = drectl(&dir, &["rules", "log"]).env("PATH", "/nonexistent").output().expect("drectl runs");
    ended(&output, 69);
    fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn every_command_has_help_with_an_example_and_a_man_page() {
    let dir = directory("help");
    for command in
        ["status", "setup", "verify", "conflicts", "trash", "accept-deletes", "force", "check", "log"]
    {
        let output = drectl(&dir, &["rules", command, "--help"]).output().expect("drectl runs");
        ended(&output, 0);
        let example = format!("  drectl rules {command}");
        assert!(text(&output.stdout).contains(&example), "{command}:\n{}", text(&output.stdout));
    }
    let drop = drectl(&dir, &["rules", "conflicts", "drop", "--help"]).output().expect("drectl runs");
    assert!(text(&drop.stdout).contains("  drectl rules conflicts drop re 2026"), "{drop:?}");
    ended(&drectl(&dir, &["man", dir.to_str().expect("a name")]).output().expect("drectl runs"), 0);
    for page in [
        "drectl-rules.1",
        "drectl-rules-setup.1",
        "drectl-rules-conflicts-restore.1",
        "drectl-rules-conflicts-drop.1",
    ] {
        assert!(dir.join(page).exists(), "{page}");
    }
    fs::remove_dir_all(&dir).expect("removed");
}
