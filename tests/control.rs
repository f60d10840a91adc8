//! The control socket as its clients meet it: the real server on a real socket, drectl as a process, garbage.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dre::logic::node::Command;
use dre::shell::control::{self, CONNECTIONS_MAX, REQUEST_MAX, Request};
use dre::snapshot::{Lease, Peer, Status, Takeover};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

/// Tests that open or count many descriptors take turns: the table is the process's.
static DESCRIPTORS: Mutex<()> = Mutex::new(());

/// What the stand-in for the election does with a command: changes the status, or refuses.
type Election = fn(&Command, &mut Status) -> Result<(), String>;

/// A server on a socket of its own, with a stand-in for the election behind it.
struct House {
    dir: PathBuf,
    status: Arc<Mutex<Status>>,
    changed: Arc<Mutex<Option<watch::Sender<u64>>>>,
    threads: Vec<JoinHandle<()>>,
}

impl House {
    fn new(name: &str, election: Election) -> Self {
        let dir = std::env::temp_dir().join(format!("dre-control-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory");
        let listener = UnixListener::bind(dir.join("control")).expect("a socket");
        let status = Arc::new(Mutex::new(standby()));
        let (changed, watcher) = watch::channel(0);
        let (requests, mut inbox) = mpsc::channel::<Request>(64);
        let shown = Arc::clone(&status);
        let render = move || shown.lock().expect("whole").clone();
        let server =
            control::serve("dre", listener.into(), render, watcher, requests, journal()).expect("it serves");
        let changed = Arc::new(Mutex::new(Some(changed)));
        let (kept, bell) = (Arc::clone(&status), Arc::clone(&changed));
        let elector = thread::spawn(move || {
            while let Some(request) = inbox.blocking_recv() {
                let answer = election(&request.command, &mut kept.lock().expect("whole"));
                let _ = request.reply.send(answer);
                ring(&bell);
            }
        });
        Self { dir, status, changed, threads: vec![server, elector] }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("control")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        stream
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().expect("whole"));
        ring(&self.changed);
    }

    /// One call on a connection of its own, and how long it took.
    fn call(&self, method: &str) -> (Value, Duration) {
        let begun = Instant::now();
        let reply = ask(&mut self.connect(), &json!({ "method": method }));
        (reply, begun.elapsed())
    }

    fn drectl(&self, line: &[&str]) -> Output {
        drectl(&self.socket(), line).output().expect("drectl runs")
    }
}

fn ring(bell: &Mutex<Option<watch::Sender<u64>>>) {
    if let Some(bell) = &*bell.lock().expect("whole") {
        bell.send_modify(|count| *count += 1);
    }
}

impl Drop for House {
    /// Nobody is left who could tell of changes: the server ends, and with its last sender the election's stand-in.
    fn drop(&mut self) {
        drop(self.changed.lock().expect("whole").take());
        for thread in self.threads.drain(..) {
            if !thread::panicking() {
                thread.join().expect("it ended well");
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn drectl(socket: &Path, line: &[&str]) -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_drectl"));
    process.arg("--socket").arg(socket).args(line);
    process
}

fn ask(stream: &mut UnixStream, call: &Value) -> Value {
    stream.write_all(format!("{call}\0").as_bytes()).expect("written");
    reply(stream)
}

fn reply(stream: &mut UnixStream) -> Value {
    let mut text = vec![];
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer within 5 s");
        if byte == [0] {
            return serde_json::from_slice(&text).expect("JSON");
        }
        text.push(byte[0]);
    }
}

fn standby() -> Status {
    Status {
        group: "dre".into(),
        node: "hadev2".into(),
        role: "standby".into(),
        term: 7,
        since: "2026-11-23T14:02:11Z".into(),
        rule: "ServicesDown".into(),
        fit: true,
        peer: Peer {
            node: "hadev1".into(),
            state: "heard".into(),
            role: "active".into(),
            fit: true,
            heard_ms: 12,
        },
        version: env!("CARGO_PKG_VERSION").into(),
        ..Status::default()
    }
}

/// Does at once what is asked.
fn obliging(command: &Command, status: &mut Status) -> Result<(), String> {
    match command {
        Command::LeaseRelease { .. } => status.role = "standby".into(),
        Command::LeaseTake { .. } | Command::Switchover { .. } => {
            status.role = "active".into();
            status.lease = Lease { held: true, left_ms: 400, by: "peer".into() };
            status.peer.role = "standby".into();
            let at = "2026-11-23T15:00:00Z".into();
            status.last_takeover =
                Some(Takeover { here: true, gap_us: 4_210, at, rule: "PeerYields".into() });
        }
    }
    Ok(())
}

fn refusing(_: &Command, _: &mut Status) -> Result<(), String> {
    Err("switchover refused: hadev1 is unfit (eth1 has no carrier); mend that first".into())
}

/// Leaves a mark, so that a test knows that it was asked.
fn accepting_and_doing_nothing(_: &Command, status: &mut Status) -> Result<(), String> {
    status.maintenance = true;
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn ended(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
}

// ---- reading -----------------------------------------------------------------------------------------------

#[test]
fn status_is_what_holds_at_the_moment_of_the_call() {
    let house = House::new("status", obliging);
    let (reply, _) = house.call("io.dre.Control.Status");
    assert_eq!(reply["parameters"]["status"]["role"], "standby");
    house.status.lock().expect("whole").term = 8;
    let (reply, _) = house.call("io.dre.Control.Status");
    assert_eq!(reply["parameters"]["status"]["term"], 8);
}

#[test]
fn varlinkctl_is_told_what_there_is() {
    let house = House::new("introspect", obliging);
    let call = json!({
        "method": "org.varlink.service.GetInterfaceDescription", "parameters": { "interface": "io.dre.Control" },
    });
    let reply = ask(&mut house.connect(), &call);
    let idl = reply["parameters"]["description"].as_str().expect("a text").to_owned();
    for part in [
        "interface io.dre.Control",
        "method Status() -> (",
        "# [Supports 'more' flag]\nmethod Watch() -> (",
        "method Switchover(",
        "method LeaseTake(",
        "method LeaseRelease(",
        "error Refused (reason: string)",
        "error NotPermitted (reason: string)",
        "last_takeover: ?Takeover",
        "#  The vote beside its own",
    ] {
        assert!(idl.contains(part), "{part} is missing in\n{idl}");
    }
}

#[test]
fn a_watch_says_what_changed_and_coalesces() {
    let house = House::new("watch", obliging);
    let mut stream = house.connect();
    let first = ask(&mut stream, &json!({ "method": "io.dre.Control.Watch", "more": true }));
    assert_eq!((&first["parameters"]["status"]["term"], &first["continues"]), (&json!(7), &json!(true)));
    let begun = Instant::now();
    // Changes without a pause, for long enough that several statuses are due.
    let replies = thread::scope(|scope| {
        scope.spawn(|| {
            while begun.elapsed() < Duration::from_millis(500) {
                house.change(|status| status.term += 1);
            }
            house.change(|status| status.term = 0);
        });
        let mut replies = 1;
        while reply(&mut stream)["parameters"]["status"]["term"] != 0 {
            replies += 1;
        }
        replies
    });
    let most = 2 + begun.elapsed().as_millis() / 50;
    assert!(replies <= most, "{replies} statuses in {:?}", begun.elapsed());
    // Nothing changes: still a status a second, so that ages move.
    let begun = Instant::now();
    reply(&mut stream);
    reply(&mut stream);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn a_watch_without_more_is_one_status() {
    let house = House::new("once", obliging);
    let (reply, _) = house.call("io.dre.Control.Watch");
    assert_eq!((&reply["parameters"]["status"]["term"], &reply["continues"]), (&json!(7), &json!(false)));
}

// ---- changing ----------------------------------------------------------------------------------------------

#[test]
fn lease_take_waits_until_it_is_held() {
    let house = House::new("take", obliging);
    ended(&house.drectl(&["lease", "take"]), 0);
    assert_eq!(house.status.lock().expect("whole").role, "active");
    ended(&house.drectl(&["lease", "release"]), 0);
    assert_eq!(house.status.lock().expect("whole").role, "standby");
}

#[test]
fn lease_take_sees_the_grant_when_it_comes() {
    let house = House::new("later", accepting_and_doing_nothing);
    let child = drectl(&house.socket(), &["lease", "take"]).stderr(std::process::Stdio::piped()).spawn();
    let child = child.expect("drectl runs");
    // Its call has come, and so has the watch that follows it, at the latest with the change.
    let begun = Instant::now();
    while !house.status.lock().expect("whole").maintenance {
        assert!(begun.elapsed() < Duration::from_secs(10), "drectl never asked");
        thread::yield_now();
    }
    let begun = Instant::now();
    house.change(|status| drop(obliging(&Command::LeaseTake { unit: None, force: false }, status)));
    ended(&child.wait_with_output().expect("it ends"), 0);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn a_take_is_forced_by_saying_so() {
    let house = House::new("force", |command, status| match command {
        Command::LeaseTake { force: false, .. } => {
            Err("refused: the configuration differs; or say --force".into())
        }
        _ => obliging(command, status),
    });
    ended(&house.drectl(&["lease", "take"]), 75);
    ended(&house.drectl(&["lease", "take", "--force"]), 0);
}

/// The role's services start when dre-lease.service has: a service that binds a VIP needs it to be there, and all of them may want
/// to know the term.
#[test]
fn the_unit_has_the_lease_when_the_vips_are_there() {
    let house = House::new("vips", |command, status| {
        status.vips.wanted = 2;
        status.vips.gate = "shut".into();
        obliging(command, status)
    });
    let file = house.dir.join("term.env");
    let path = file.display().to_string();
    let line = ["lease", "take", "--unit", "--term-file", &path];
    let mut child = drectl(&house.socket(), &line).spawn().expect("drectl runs");
    let begun = Instant::now();
    while house.status.lock().expect("whole").role != "active" {
        assert!(begun.elapsed() < Duration::from_secs(10), "drectl never asked");
        thread::yield_now();
    }
    for _ in 0..20 {
        house.change(|status| status.vips.held = 1);
        assert!(child.try_wait().expect("asked").is_none() && !file.exists(), "before the gate was open");
    }
    house.change(|status| status.vips.gate = "open".into());
    assert!(child.wait().expect("it ends").success());
    let text = std::fs::read_to_string(&file).expect("the term");
    assert!(text.lines().any(|line| line == "DRE_TERM=7"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn a_refusal_is_printed_with_its_reason_and_is_status_75() {
    let house = House::new("refused", refusing);
    for line in [&["lease", "take"][..], &["lease", "release"], &["switchover", "--force"]] {
        let output = house.drectl(line);
        ended(&output, 75);
        let said = text(&output.stderr);
        assert_eq!(
            said,
            "drectl: switchover refused: hadev1 is unfit (eth1 has no carrier); mend that first\n"
        );
    }
}

#[test]
fn a_lease_that_is_never_granted_is_given_up_in_time() {
    let house = House::new("never", accepting_and_doing_nothing);
    let begun = Instant::now();
    let output = house.drectl(&["lease", "take", "--timeout", "0.3"]);
    ended(&output, 75);
    assert!(
        text(&output.stderr).contains("not granted within 0.3 s: hadev2 is standby, hadev1 is active"),
        "{output:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_switchover_prints_plan_and_gap() {
    let house = House::new("switchover", obliging);
    let output = house.drectl(&["switchover"]);
    ended(&output, 0);
    let said = text(&output.stdout);
    assert_eq!(
        said,
        "switchover, term 7: hadev1 (active, fit, heard 12 ms ago) -> hadev2 (standby, fit)\n\
         hadev2 is active; nobody served for 4.21 ms\n"
    );
    // A second time there is nothing to do.
    ended(&house.drectl(&["switchover", "--to", "hadev2"]), 0);
    ended(&house.drectl(&["switchover", "--to", "hadev3"]), 64);
}

#[test]
fn a_stranger_may_read_and_change_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let house = House::new("stranger", obliging);
    let open =
        |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("opened");
    open(&house.dir);
    open(&house.socket());
    // Where nobody may run it: the build's directory can be closed to others.
    let copy = house.dir.join("drectl");
    std::fs::copy(env!("CARGO_BIN_EXE_drectl"), &copy).expect("copied");
    let as_nobody = |line: &[&str]| {
        let mut process = Process::new(&copy);
        process.arg("--socket").arg(house.socket()).args(line).uid(65_534).gid(65_534);
        process.output().expect("drectl runs as nobody")
    };
    ended(&as_nobody(&["status", "--json"]), 0);
    let output = as_nobody(&["lease", "take"]);
    ended(&output, 75);
    assert_eq!(
        text(&output.stderr),
        "drectl: uid 65534 may read the status but change nothing; run it as root or join group dre\n"
    );
    assert_eq!(house.status.lock().expect("whole").role, "standby", "nothing was changed");
}

// ---- drectl without a daemon -------------------------------------------------------------------------------

#[test]
fn without_a_daemon_every_command_that_needs_it_says_so() {
    let nowhere = Path::new("/nonexistent/control");
    for line in [
        &["status"][..],
        &[],
        &["status", "--watch"],
        &["switchover"],
        &["lease", "take"],
        &["lease", "release"],
    ] {
        let output = drectl(nowhere, line).output().expect("drectl runs");
        ended(&output, 69);
        assert_eq!(
            text(&output.stderr),
            "drectl: dre.service is not running; start it with: systemctl start dre\n"
        );
    }
}

#[test]
fn a_daemon_that_accepts_and_says_nothing_is_given_up() {
    let dir = std::env::temp_dir().join(format!("dre-control-mute-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let _listener = UnixListener::bind(dir.join("control")).expect("a socket");
    let output = drectl(&dir.join("control"), &["status"]).output().expect("drectl runs");
    std::fs::remove_dir_all(&dir).expect("removed");
    ended(&output, 69);
    assert!(text(&output.stderr).contains("does not answer within 7 s"), "{output:?}");
}

#[test]
fn wrong_lines_are_status_64_and_help_is_0() {
    let run = |line: &[&str]| drectl(Path::new("/nonexistent"), line).output().expect("drectl runs");
    for line in [&["frobnicate"][..], &["lease"], &["status", "--jsn"], &["lease", "take", "--timeout", "-3"]]
    {
        ended(&run(line), 64);
    }
    for line in
        [&["--help"][..], &["switchover", "--help"], &["--version"], &["version"], &["help", "key", "new"]]
    {
        let output = run(line);
        ended(&output, 0);
        assert!(!text(&output.stdout).contains('\u{1b}'), "colour is for terminals");
    }
    assert!(text(&run(&["switchover", "--help"]).stdout).contains("Examples:"));
}

#[test]
fn a_configuration_that_does_not_hold_is_status_78_and_points_at_the_line() {
    let path = std::env::temp_dir().join(format!("dre-control-{}.toml", std::process::id()));
    std::fs::write(&path, "[nodes.a]\nlinks = { l = \"10.0.0.1\" }\n[heartbeat]\ninterval = 5\n")
        .expect("written");
    let file = path.to_str().expect("a name");
    let run = |line: &[&str]| drectl(Path::new("/nonexistent"), line).output().expect("drectl runs");
    let output = run(&["config", "check", file]);
    ended(&output, 78);
    let said = text(&output.stderr);
    assert!(said.contains(":4") && said.contains("interval"), "{said}");
    let output = run(&["config", "check", "--json", file]);
    ended(&output, 78);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&value["ok"], &value["errors"][0]["line"]), (&json!(false), &json!(4)));
    std::fs::remove_file(&path).expect("removed");
}

#[test]
fn man_pages_and_completions_are_made() {
    let dir = std::env::temp_dir().join(format!("dre-man-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let run = |line: &[&str]| drectl(Path::new("/nonexistent"), line).output().expect("drectl runs");
    ended(&run(&["man", dir.to_str().expect("a name")]), 0);
    for page in ["drectl.1", "drectl-switchover.1", "drectl-key-new.1"] {
        assert!(dir.join(page).exists(), "{page}");
    }
    std::fs::remove_dir_all(&dir).expect("removed");
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        ended(&output, 0);
        assert!(text(&output.stdout).contains("switchover"));
    }
}

// ---- what must not disturb others --------------------------------------------------------------------------

/// Others are served as if nothing were.
#[track_caller]
fn undisturbed(house: &House) {
    for _ in 0..20 {
        let (reply, took) = house.call("io.dre.Control.Status");
        assert_eq!(reply["parameters"]["status"]["node"], "hadev2");
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

/// The server closed it: reading ends, by end of file or reset.
#[track_caller]
fn closed(stream: &mut UnixStream) {
    let mut rest = vec![];
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_thousand_idle_connections_disturb_nobody() {
    let _turn = DESCRIPTORS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let house = House::new("idle", obliging);
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
    let before = descriptors();
    let idle: Vec<UnixStream> = (0..1_000).map(|_| house.connect()).collect();
    undisturbed(&house);
    ended(&house.drectl(&["lease", "take"]), 0);
    let held = descriptors() - before - idle.len();
    assert!(held <= CONNECTIONS_MAX + 64, "the server holds {held} descriptors");
}

#[test]
fn a_watch_survives_a_thousand_idle_connections() {
    let _turn = DESCRIPTORS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let house = House::new("survives", obliging);
    let mut watching = house.connect();
    ask(&mut watching, &json!({ "method": "io.dre.Control.Watch", "more": true }));
    let mut idle = vec![];
    for _ in 0..10 {
        idle.extend((0..100).map(|_| house.connect()));
        house.change(|status| status.term += 1);
        reply(&mut watching);
    }
    undisturbed(&house);
    house.change(|status| status.term = 99);
    while reply(&mut watching)["parameters"]["status"]["term"] != 99 {}
}

#[test]
fn garbage_closes_its_own_connection_only() {
    let house = House::new("garbage", obliging);
    let noise: Vec<u8> = (0..64_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let deep = "[".repeat(8_000) + "\0";
    let binary = [0_u8; 512];
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n\0"[..],
        b"{}\0",
        b"null\0",
        b"{\"method\":7}\0",
        &noise,
        deep.as_bytes(),
        &binary,
    ] {
        let mut stream = house.connect();
        // It may be closed before all of it is written.
        let _ = stream.write_all(garbage);
        closed(&mut stream);
        undisturbed(&house);
    }
}

#[test]
fn a_call_that_is_wrong_is_answered_or_closed() {
    let house = House::new("wrong", obliging);
    for call in [
        json!({ "method": "io.dre.Control.Explode" }),
        json!({ "method": "org.example.Nothing" }),
        json!({ "method": "io.dre.Control.Switchover", "parameters": { "to": 7 } }),
    ] {
        let mut stream = house.connect();
        stream.write_all(format!("{call}\0").as_bytes()).expect("written");
        let mut answer = [0; 4096];
        let count = stream.read(&mut answer).unwrap_or(0);
        let answer = text(&answer[..count]);
        assert!(count == 0 || answer.contains("\"error\""), "{call} -> {answer}");
        assert_eq!(house.status.lock().expect("whole").role, "standby", "{call} did something");
        undisturbed(&house);
    }
}

#[test]
fn half_a_request_waits_and_an_endless_one_is_cut_off() {
    let house = House::new("half", obliging);
    let mut half = house.connect();
    half.write_all(b"{\"method\":\"io.dre.Con").expect("written");
    undisturbed(&house);
    // The other half, later: served like any other.
    half.write_all(b"trol.Status\"}\0").expect("written");
    assert_eq!(reply(&mut half)["parameters"]["status"]["node"], "hadev2");

    let mut endless = house.connect();
    let chunk = vec![b' '; 4096];
    let mut sent = 0;
    while endless.write_all(&chunk).is_ok() {
        sent += chunk.len();
        assert!(sent < 64 * REQUEST_MAX, "still taken after {sent} bytes");
    }
    closed(&mut endless);
    undisturbed(&house);
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody() {
    let house = House::new("stuck", obliging);
    // Statuses so long that the socket's buffer is full after a few.
    house.change(|status| status.unfit_because = vec!["x".repeat(60_000)]);
    let mut stuck = house.connect();
    stuck.write_all(b"{\"method\":\"io.dre.Control.Watch\",\"more\":true}\0").expect("written");
    // A reader that reads sets the pace: what it has seen was also said to the one that does not.
    let mut reading = house.connect();
    ask(&mut reading, &json!({ "method": "io.dre.Control.Watch", "more": true }));
    for term in 100..120 {
        house.change(|status| status.term = term);
        while reply(&mut reading)["parameters"]["status"]["term"] != term {}
    }
    undisturbed(&house);
    ended(&house.drectl(&["lease", "take"]), 0);
}

#[test]
fn passed_descriptors_are_not_kept() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let _turn = DESCRIPTORS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let house = House::new("descriptors", obliging);
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
    let mut stream = house.connect();
    ask(&mut stream, &json!({ "method": "io.dre.Control.Status" }));
    let before = descriptors();
    let passed = [stream.as_raw_fd(); 200];
    let data = [std::io::IoSlice::new(b" ")];
    for _ in 0..10 {
        let rights = [ControlMessage::ScmRights(&passed)];
        sendmsg::<()>(stream.as_raw_fd(), &data, &rights, MsgFlags::empty(), None).expect("sent");
    }
    // The answer to what follows them: by then they were read.
    ask(&mut stream, &json!({ "method": "io.dre.Control.Status" }));
    let after = descriptors();
    assert!(after <= before + 64, "{} descriptors were taken in", after.saturating_sub(before));
    undisturbed(&house);
}

fn journal() -> dre::shell::journal::Journal {
    dre::shell::journal::Journal::start("control-test", dre::notice::Priority::Error).expect("a thread")
}
