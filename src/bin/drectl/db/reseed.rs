//! `drectl db reseed`: this node's server becomes a copy of the peer's.
//!
//! ```text
//!   asked ─▶ received ─▶ prepared ─▶ agent and server stopped ─▶ directories exchanged ─▶ server started ─▶ its history told ─▶ agent started ─▶ in step
//! ```
//!
//! Nothing of the old data is touched before the copy is whole and prepared; then two directories change their names in one step of the
//! kernel. Until the server is in step the old data is kept; where the new one does not start, it goes back. A run that is cut off
//! leaves either the one or the other, and a mark ([`Paths::mark`]) without which the agent could take a half told history for a whole.
//!
//! The copy is root's alone until nothing is to be done in it any more: in a directory of the server's user, whoever has taken over the
//! server could put a link to another place under root's hands.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dre::config::{self, Database, Settings};
use dre::database::talk::{Ended, GO, LINE_MAX, Offer, PART_MAX, SILENT, Said};
use dre::logic::db::facts::{Flavor, Gtids};
use dre::logic::db::gtids::Who;
use dre::shell::secure::{self, Pass, Pipe};
use dre::shell::sql::{self, Stands};
use indicatif::{ProgressBar, ProgressStyle};
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use nix::sys::statvfs::statvfs;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{connect, reseeding};
use crate::args::Reseed;
use crate::client::Place;
use crate::exit::{Done, Fail};
use crate::print;

const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// A copy that is started recovers nothing: its logs were applied. A large one reads its tables.
const START_WITHIN: Duration = Duration::from_secs(300);
const SQL_WITHIN: Duration = Duration::from_secs(30);
/// What is told to the agent, for `drectl db status`.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Beside the copy the server needs room to go on.
const SPARE: u64 = 64 << 20;
/// A file with a source and an account is small.
const CONNECTION_MAX: u64 = 1 << 20;
const PROGRAMS: [&str; 2] = ["/usr/bin/mariadb-backup", "/usr/bin/mariabackup"];
const UNPACK: &str = "/usr/bin/mbstream";
const WHOLE: &str = "completed OK!";
const BAR: &str = "{msg:12!} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";

/// Where things lie.
struct Paths {
    data: PathBuf,
    /// The copy on its way; after the exchange, what was the data.
    new: PathBuf,
    old: PathBuf,
    /// While it is there, the agent does not start.
    mark: PathBuf,
    /// It was there before this run: one before it was cut off, and of what is in `data` nobody knows whether its history is told.
    was_marked: bool,
    /// What the agent keeps of the server, and where it lies while that may come back.
    record: PathBuf,
    record_aside: PathBuf,
}

impl Paths {
    fn new(data: &Path, group: &str) -> Result<Self, Fail> {
        let beside = |what: &str| {
            let mut name = data.as_os_str().to_owned();
            name.push(what);
            PathBuf::from(name)
        };
        let about = |path: &Path| {
            fs::metadata(path).map_err(|error| Fail::refused(format!("{}: {error}", path.display())))
        };
        let above = data.parent().unwrap_or(Path::new("/"));
        if about(data)?.dev() != about(above)?.dev() {
            return Err(Fail::refused(format!(
                "{}: a file system of its own; the copy is made beside it and takes its name in one step, which goes within one \
                 file system only: mount it on {} and let datadir be a directory in it",
                data.display(),
                above.display()
            )));
        }
        let mark = reseeding(group);
        Ok(Self {
            new: beside(".dre-new"),
            old: beside(".dre-old"),
            was_marked: mark.exists(),
            record: mark.with_file_name("record"),
            record_aside: mark.with_file_name("record.before"),
            mark,
            data: data.to_path_buf(),
        })
    }

    /// What earlier runs left beside the data. Where the power went between two names, `.dre-new` may be the old data.
    fn clear(&self) -> Result<(), Fail> {
        let look = "look whether anything of it is needed, then remove it and run this again";
        if self.old.exists() {
            return Err(Fail::refused(format!(
                "{}: the data before an earlier reseed is still there; {look}",
                self.old.display()
            )));
        }
        if self.was_marked && self.new.exists() {
            fs::rename(&self.new, &self.old)
                .map_err(io_fail(&self.new, "left from a run that was cut off"))?;
            settled(&self.data);
            return Err(Fail::refused(format!(
                "a run before this one was cut off while the directories changed their names; what it left beside the data, which may be \
                 the old data, is {} now: {look}",
                self.old.display()
            )));
        }
        Ok(())
    }
}

/// What is known when the copy is whole.
struct Copied {
    has: String,
    position: String,
    giver: u32,
    /// The server here before anybody was asked; none where it did not answer.
    before: Option<Stands>,
}

/// How far it is, for those who look at the status. A thread of its own tells the agent: nothing depends on it, and one that hangs
/// holds up nothing.
#[derive(Default)]
struct Telling {
    done: AtomicU64,
    total: AtomicU64,
    over: AtomicBool,
}

impl Telling {
    fn start(place: &Place) -> Arc<Self> {
        let telling = Arc::new(Self::default());
        let (shared, place) = (Arc::clone(&telling), place.clone());
        std::thread::spawn(move || {
            while !shared.over.load(Ordering::Relaxed) {
                let (done, total) =
                    (shared.done.load(Ordering::Relaxed), shared.total.load(Ordering::Relaxed));
                if done > 0
                    && let Ok(mut client) = connect(&place)
                {
                    let _ = client.call("Reseeding", json!({ "done": done, "total": total }));
                }
                std::thread::sleep(TELL_EVERY);
            }
        });
        telling
    }

    fn reached(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }
}

/// One line a step.
struct Teller {
    quiet: bool,
}

impl Teller {
    fn say(&self, text: &str) -> Done {
        if self.quiet { Ok(()) } else { print(&format!("{text}\n")) }
    }
}

fn io_fail<'a>(path: &'a Path, what: &'a str) -> impl Fn(io::Error) -> Fail + 'a {
    move |error| Fail::refused(format!("{}: {what}: {error}", path.display()))
}

fn systemctl(verb: &str, unit: &str) -> Result<(), Fail> {
    let done = Command::new("systemctl").args([verb, "--", unit]).output();
    let why = match done {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Fail::refused(format!("systemctl {verb} {unit}: {why}; look at: journalctl -u {unit} -e")))
}

pub fn run(place: &Place, args: &Reseed) -> Done {
    let settings = config::load_of(&place.group, None).map_err(|error| Fail::config(&error))?;
    let Some(database) = &settings.database else { return Err(super::no_database(place)) };
    if !nix::unistd::geteuid().is_root() {
        return Err(Fail::refused("a server's files are exchanged by root alone; run it as root"));
    }
    if settings.peer.is_none() {
        return Err(Fail::refused("no peer is configured: there is nobody to copy from"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fail::silent(error.to_string()))?;
    Reseeding { place, args, settings: &settings, database, runtime, teller: Teller { quiet: args.json } }
        .run()
}

struct Reseeding<'a> {
    place: &'a Place,
    args: &'a Reseed,
    settings: &'a Settings,
    database: &'a Database,
    runtime: Runtime,
    teller: Teller,
}

impl Reseeding<'_> {
    fn run(&self) -> Done {
        let begun = Instant::now();
        let program = PROGRAMS
            .into_iter()
            .find(|path| Path::new(path).exists())
            .filter(|_| Path::new(UNPACK).exists())
            .ok_or_else(|| {
                Fail::refused("mariadb-backup is not installed; on both nodes: apt install mariadb-backup")
            })?;
        self.not_active()?;
        let before = self.runtime.block_on(sql::stands(&self.database.socket, LOOK_WITHIN)).ok();
        let data = self.datadir(before.as_ref())?;
        let paths = Paths::new(&data, &self.place.group)?;
        paths.clear()?;
        let (offer, pipe) = self.ask()?;
        self.room(&paths, &offer)?;
        self.confirm(&paths, &offer)?;
        let copied = self.copied(&paths, &offer, pipe, program, before).inspect_err(|_| {
            let _ = fs::remove_dir_all(&paths.new);
        })?;
        self.exchange(&paths, &copied)?;
        if let Err(fail) = self.begin(&copied.has, &copied.position) {
            return Err(self.back(&paths, &fail));
        }
        self.start_agent(&paths)?;
        self.in_step(&paths)?;
        let _ = fs::remove_file(&paths.record_aside);
        if self.args.keep_old {
            self.teller.say(&format!("the old data is kept in {}", paths.old.display()))?;
        } else {
            fs::remove_dir_all(&paths.old).map_err(io_fail(&paths.old, "the old data stays"))?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        if self.args.json {
            return print(&crate::json_line(&json!({
                "from": offer.node, "bytes": offer.bytes, "has": copied.has, "seconds": seconds,
                "old": self.args.keep_old.then(|| paths.old.display().to_string()),
            })));
        }
        self.teller.say(&format!(
            "this server is a copy of {}'s, and in step with it, after {seconds:.0} s",
            offer.node
        ))
    }

    /// Everything that touches nothing of what is there.
    fn copied(
        &self,
        paths: &Paths,
        offer: &Offer,
        pipe: BufReader<Pipe>,
        program: &str,
        before: Option<Stands>,
    ) -> Result<Copied, Fail> {
        self.receive(paths, offer, pipe)?;
        self.prepare(paths, program)?;
        let place = place_of(&paths.new)?;
        let Some((has, position)) = sql::history(&offer.has, &place) else {
            return Err(Fail::refused(format!(
                "the copy does not say where it ends: {place:?}; nothing was changed"
            )));
        };
        alike(&paths.new, &paths.data)?;
        self.not_active()?;
        Ok(Copied { has, position, giver: offer.server_id, before })
    }

    /// Only a server without the role is replaced. A daemon that hangs may have it.
    fn not_active(&self) -> Result<(), Fail> {
        let holds = super::bootstrap::holds_the_role(self.place).map_err(|fail| Fail {
            text: format!(
                "whether this node is ACTIVE is not known: {}; nothing was changed. An agent that does not come back: systemctl stop {}",
                fail.text,
                self.agent()
            ),
            ..fail
        })?;
        if holds {
            return Err(Fail::refused(format!(
                "this node is ACTIVE: its server's data is what the others are compared with; give the role away first: {}",
                self.place.command("switchover")
            )));
        }
        Ok(())
    }

    /// The server's word where it answers; of one that is broken, what its files say.
    fn datadir(&self, stands: Option<&Stands>) -> Result<PathBuf, Fail> {
        let named = match stands {
            Some(stands) if !stands.is_mariadb => {
                return Err(Fail::refused(format!(
                    "MySQL copies by its own means (CLONE INSTANCE FROM …; the README says how), then: {}",
                    self.place.command("db reseeded")
                )));
            }
            Some(stands) if !stands.elsewhere.is_empty() => {
                let parts: Vec<String> =
                    stands.elsewhere.iter().map(|(name, value)| format!("{name} = {value}")).collect();
                return Err(Fail::refused(format!(
                    "a part of the data lies outside of datadir ({}), and would not go with it; copy by hand with mariadb-backup, then: {}",
                    parts.join(", "),
                    self.place.command("db reseeded")
                )));
            }
            Some(stands) if !stands.read_only => {
                return Err(Fail::refused(format!(
                    "the server here takes writes, and what is written would be lost; {} says why it does, and: SET GLOBAL read_only = 1",
                    self.place.command("db")
                )));
            }
            Some(stands) => stands.datadir.clone(),
            None => by_files(),
        };
        let named = PathBuf::from(named);
        named.canonicalize().map_err(io_fail(&named, "the server's datadir"))
    }

    /// The first link that works.
    fn ask(&self) -> Result<(Offer, BufReader<Pipe>), Fail> {
        let key = config::read_key(&config::key_path()).map_err(|error| Fail::config(&error))?;
        let peer = self.settings.peer.clone().unwrap_or_default();
        let pass = Pass::of_database(key.bytes(), &self.settings.group, &self.settings.node, &peer);
        let mut why = vec![];
        for link in &self.settings.addresses {
            let door = SocketAddr::new(link.peer, self.database.agent_port);
            let asked = self.runtime.block_on(async {
                let mut connection = secure::connect(link.local, door, &pass).await?;
                connection.send(&Said::Copy).await?;
                let mut pipe = BufReader::with_capacity(PART_MAX, connection.into_pipe().patient(SILENT)?);
                let offer: Offer = line(&mut pipe).await?;
                Ok::<_, io::Error>((offer, pipe))
            });
            match asked {
                Ok((offer, _)) if !offer.refused.is_empty() => {
                    return Err(Fail::refused(format!("{peer} gives no copy: {}", offer.refused)));
                }
                Ok((offer, _)) if offer.read_only && !self.args.from_standby => {
                    return Err(Fail::refused(format!(
                        "{peer}'s server takes no writes: it is not the ACTIVE one, and which history counts is not known; see {} \
                         there. If its data is what shall be: --from-standby",
                        self.place.command("db")
                    )));
                }
                Ok(asked) => return Ok(asked),
                Err(error) => why.push(format!("{}: {error}", link.name)),
            }
        }
        Err(Fail::silent(format!(
            "{peer} gives no copy over any link ({}); do its agent and its dre-donor@{}.socket run? systemctl status there",
            why.join("; "),
            self.place.group
        )))
    }

    fn room(&self, paths: &Paths, offer: &Offer) -> Result<(), Fail> {
        let above = paths.data.parent().unwrap_or(Path::new("/"));
        let left = if paths.new.exists() { size(&paths.new) } else { 0 };
        let about = statvfs(above).map_err(|error| Fail::refused(format!("{}: {error}", above.display())))?;
        let free = about.blocks_available().saturating_mul(about.fragment_size()).saturating_add(left);
        // A copy's log of what was written meanwhile comes on top, and what is applied from it.
        let need = offer.bytes.saturating_add(offer.bytes / 10).saturating_add(SPARE);
        if free < need {
            return Err(Fail::refused(format!(
                "{}: {} free, and the copy needs {} beside the old data; make room",
                above.display(),
                bytes(free),
                bytes(need)
            )));
        }
        Ok(())
    }

    fn confirm(&self, paths: &Paths, offer: &Offer) -> Result<(), Fail> {
        self.teller.say(&format!(
            "{}: the server's data here ({}) is replaced by a copy of {}'s (MariaDB {}, {})",
            self.settings.node,
            paths.data.display(),
            offer.node,
            offer.version,
            bytes(offer.bytes)
        ))?;
        if self.args.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Fail::refused("nobody is there to confirm it; say so: --yes"));
        }
        let save = self.place.command("db diverged");
        print(&format!("What is on this server alone is lost by it ({save} saves it). Go on? [y/N] "))?;
        let mut answer = String::new();
        let _ = io::stdin().read_line(&mut answer);
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            Err(Fail::refused("nothing was changed"))
        }
    }

    fn receive(&self, paths: &Paths, offer: &Offer, mut pipe: BufReader<Pipe>) -> Result<(), Fail> {
        if paths.new.exists() {
            fs::remove_dir_all(&paths.new).map_err(io_fail(&paths.new, "left from an earlier run"))?;
        }
        let made = fs::DirBuilder::new().mode(0o700).create(&paths.new);
        made.map_err(io_fail(&paths.new, "cannot make it"))?;
        let mut unpack = Command::new(UNPACK)
            .arg("-x")
            .arg("-C")
            .arg(&paths.new)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io_fail(Path::new(UNPACK), "cannot start"))?;
        let bar = self.bar(offer.bytes);
        let telling = Telling::start(self.place);
        let received =
            self.runtime.block_on(take(&mut pipe, unpack.stdin.take(), offer.bytes, &bar, &telling));
        telling.over.store(true, Ordering::Relaxed);
        bar.finish_and_clear();
        let unpacked = ended(unpack);
        let cleared = |fail: Fail| {
            let _ = fs::remove_dir_all(&paths.new);
            Fail { text: format!("{}; nothing was changed", fail.text), ..fail }
        };
        let received = match (received, unpacked) {
            (Ok(received), Ok(())) => received,
            // It takes nothing any more: it has said why.
            (Err(error), Err(why)) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Err(cleared(Fail::refused(format!("{UNPACK}: {why}"))));
            }
            (Err(error), _) => {
                return Err(cleared(Fail::silent(format!(
                    "the copy from {} broke off: {error}",
                    offer.node
                ))));
            }
            (Ok(_), Err(why)) => return Err(cleared(Fail::refused(format!("{UNPACK}: {why}")))),
        };
        self.teller.say(&format!("  received   {}", bytes(received)))
    }

    fn bar(&self, length: u64) -> ProgressBar {
        if self.args.json {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(length).with_style(style.progress_chars("=> ")).with_message("receiving")
    }

    fn prepare(&self, paths: &Paths, program: &str) -> Result<(), Fail> {
        let output = Command::new(program)
            .arg("--prepare")
            .arg(format!("--target-dir={}", paths.new.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .map_err(io_fail(Path::new(program), "cannot start"))?;
        let words = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !words.contains(WHOLE) {
            let _ = fs::remove_dir_all(&paths.new);
            return Err(Fail::refused(format!(
                "{program} --prepare: {}: {}; nothing was changed",
                output.status,
                last_lines(&words)
            )));
        }
        self.teller.say("  prepared")
    }

    fn agent(&self) -> String {
        format!("dre-mysql@{}.service", self.place.group)
    }

    /// From here on the agent is away, and the mark stands.
    fn exchange(&self, paths: &Paths, copied: &Copied) -> Result<(), Fail> {
        // Left where an earlier copy did not come in step. After a run that was cut off it may be what belongs to the old data.
        if paths.record.exists() || !paths.was_marked {
            let _ = fs::remove_file(&paths.record_aside);
        }
        let marked = File::create(&paths.mark).and_then(|file| file.sync_all());
        marked.map_err(io_fail(&paths.mark, "cannot be written")).map_err(|fail| self.undone(paths, fail))?;
        settled(&paths.mark);
        let aside = || -> Result<(), Fail> {
            systemctl("stop", &self.agent())?;
            self.as_decided(copied)?;
            systemctl("stop", &self.database.unit)?;
            self.goes_on(&format!("  stopped    {}", self.database.unit));
            connection(&paths.data, &paths.new)?;
            hand_over(&paths.new, &paths.data)?;
            // What the agent kept is the old server's.
            match fs::rename(&paths.record, &paths.record_aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_fail(&paths.record, "cannot be moved aside")(error));
                }
                _ => {}
            }
            swap(&paths.new, &paths.data).map_err(|error| {
                Fail::refused(format!("{}: cannot take the copy's place: {error}", paths.data.display()))
            })
        };
        aside().map_err(|fail| self.undone(paths, fail))?;
        if let Err(error) = fs::rename(&paths.new, &paths.old) {
            let fail = io_fail(&paths.new, "the old data keeps this name")(error);
            return Err(match swap(&paths.new, &paths.data) {
                Ok(()) => self.undone(paths, fail),
                Err(_) => fail,
            });
        }
        settled(&paths.data);
        self.goes_on(&format!("  exchanged  the old data is in {}", paths.old.display()));
        Ok(())
    }

    /// Where a reader that went away is no reason to stop.
    fn goes_on(&self, text: &str) {
        let _ = self.teller.say(text);
    }

    /// The copy has not taken its place, and will not.
    fn undone(&self, paths: &Paths, fail: Fail) -> Fail {
        let _ = fs::remove_dir_all(&paths.new);
        let _ = fs::rename(&paths.record_aside, &paths.record);
        let started = self.as_before(paths);
        let but = started.err().map(|other| format!(", but {}", other.text)).unwrap_or_default();
        Fail { text: format!("{}; the old data is in its place{but}", fail.text), ..fail }
    }

    /// Server and agent run; not the agent, where a run that was cut off left a history that nobody knows to be told. One that does
    /// not start does not keep the other away.
    fn as_before(&self, paths: &Paths) -> Result<(), Fail> {
        let server = systemctl("start", &self.database.unit);
        if paths.was_marked {
            return server;
        }
        match fs::remove_file(&paths.mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_fail(&paths.mark, "cannot be removed: the agent does not start")(error));
            }
            _ => {}
        }
        let agent = systemctl("start", &self.agent());
        server.and(agent)
    }

    /// The server is what it was when the operator gave it up: nobody wrote to it but the giver, by replication. The agent is away,
    /// and makes no server writable any more.
    fn as_decided(&self, copied: &Copied) -> Result<(), Fail> {
        let now = self.runtime.block_on(sql::stands(&self.database.socket, LOOK_WITHIN));
        let why = match (&copied.before, now) {
            (None, Err(_)) => return Ok(()),
            (None, Ok(_)) => {
                "the server answers by now, which it did not when the copy was decided on".to_owned()
            }
            (Some(_), Err(failure)) => format!(
                "the server, which answered when the copy was decided on, does not any more: {}",
                failure.words()
            ),
            (Some(_), Ok(now)) if !now.read_only => "the server takes writes by now".to_owned(),
            (Some(before), Ok(now)) => {
                match written_since(&before.has, &now.has, &copied.has, copied.giver) {
                    None => return Ok(()),
                    Some(which) => format!("written here since the copy was decided on: {which}"),
                }
            }
        };
        Err(Fail::refused(format!("{why}; see {}, and run it again", self.place.command("db diverged"))))
    }

    /// The new server answers, and its history is told to it.
    fn begin(&self, has: &str, position: &str) -> Result<(), Fail> {
        systemctl("start", &self.database.unit)?;
        let begun = Instant::now();
        self.runtime.block_on(async {
            while let Err(failure) = sql::answers(&self.database.socket).await {
                if begun.elapsed() > START_WITHIN {
                    let text = format!("{}: {}", self.database.socket.display(), failure.words());
                    return Err(Fail::silent(text));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            sql::begin_from(&self.database.socket, has, position, SQL_WITHIN).await.map_err(|failure| {
                Fail::refused(format!("{}: {}", self.database.socket.display(), failure.words()))
            })
        })?;
        let shown = if has.is_empty() { "no transactions yet" } else { has };
        self.goes_on(&format!("  started    {}, which has {shown}", self.database.unit));
        Ok(())
    }

    /// The copy does not do it: what was there comes back.
    fn back(&self, paths: &Paths, fail: &Fail) -> Fail {
        let exchanged = || -> Result<(), Fail> {
            // Never under a server that runs.
            systemctl("stop", &self.database.unit)?;
            swap(&paths.old, &paths.data).map_err(|error| Fail::refused(error.to_string()))
        };
        let after = match exchanged() {
            Ok(()) => {
                let _ = fs::remove_dir_all(&paths.old);
                let _ = fs::rename(&paths.record_aside, &paths.record);
                settled(&paths.data);
                let started = self.as_before(paths);
                let but = started.err().map(|other| format!(", but {}", other.text)).unwrap_or_default();
                format!("the old data is in its place again{but}")
            }
            Err(other) => {
                format!("and the old data ({}) could not be put back: {}", paths.old.display(), other.text)
            }
        };
        Fail {
            code: fail.code,
            text: format!(
                "the copy does not start: {}; {after}; journalctl -u {} -e",
                fail.text, self.database.unit
            ),
        }
    }

    fn start_agent(&self, paths: &Paths) -> Result<(), Fail> {
        fs::remove_file(&paths.mark)
            .map_err(io_fail(&paths.mark, "cannot be removed: the agent does not start"))?;
        systemctl("start", &self.agent())?;
        self.goes_on(&format!("  started    {}", self.agent()));
        Ok(())
    }

    fn in_step(&self, paths: &Paths) -> Result<(), Fail> {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed().as_secs_f64() < self.args.timeout {
            if let Ok(status) = connect(self.place).and_then(|mut client| client.database()) {
                if status.why_not.is_empty() && status.state == "OK" {
                    return self.teller.say("  in step");
                }
                last = format!("{} {}", status.state, status.why_not);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(Fail::refused(format!(
            "the copy is in its place, and not in step after {} s: {last}; {} shows how it goes on. The old data is in {}: remove it then",
            self.args.timeout,
            self.place.command("db"),
            paths.old.display()
        )))
    }
}

/// Says that it may begin, and takes all parts and the end; how many bytes.
async fn take(
    pipe: &mut BufReader<Pipe>,
    into: Option<ChildStdin>,
    total: u64,
    bar: &ProgressBar,
    telling: &Telling,
) -> io::Result<u64> {
    let mut into = into.ok_or_else(|| io::Error::other("no pipe to the unpacking program"))?;
    pipe.write_all(GO).await?;
    pipe.flush().await?;
    let mut all = 0_u64;
    let mut buffer = vec![0; PART_MAX];
    loop {
        let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "nothing came for a minute");
        let length = timeout(SILENT, pipe.read_u32()).await.map_err(silent)?? as usize;
        if length == 0 {
            break;
        }
        let room = buffer.get_mut(..length).ok_or_else(|| io::Error::other("a part that is too long"))?;
        timeout(SILENT, pipe.read_exact(room)).await.map_err(silent)??;
        into.write_all(room)?;
        all += length as u64;
        bar.set_length(total.max(all));
        bar.set_position(all);
        telling.reached(all, total.max(all));
    }
    let end: Ended = line(pipe).await?;
    if end.whole { Ok(all) } else { Err(io::Error::other(format!("the giver says: {}", end.last))) }
}

/// One line of JSON.
async fn line<T: serde::de::DeserializeOwned>(pipe: &mut BufReader<Pipe>) -> io::Result<T> {
    let mut text = vec![];
    loop {
        let byte = timeout(SILENT, pipe.read_u8()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if byte == b'\n' {
            break;
        }
        text.push(byte);
        if text.len() > LINE_MAX {
            return Err(io::Error::other("a line that is too long"));
        }
    }
    serde_json::from_slice(&text).map_err(io::Error::other)
}

/// What a server that does not answer would use, by its files.
fn by_files() -> String {
    let output = Command::new("my_print_defaults").args(["mysqld", "server", "mariadb", "mariadbd"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let named = text.lines().rev().find_map(|line| line.strip_prefix("--datadir="));
    named.unwrap_or("/var/lib/mysql").to_owned()
}

fn place_of(copy: &Path) -> Result<String, Fail> {
    for name in sql::PLACE_FILES {
        let read = plain(&copy.join(name)).and_then(|file| io::read_to_string(file.take(CONNECTION_MAX)));
        match read {
            Ok(text) => return Ok(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_fail(&copy.join(name), "cannot be read")(error)),
        }
    }
    Err(Fail::refused(format!(
        "{}: the copy has none of {}: does the giver write a binary log? Nothing was changed",
        copy.display(),
        sql::PLACE_FILES.join(", ")
    )))
}

/// One step of the kernel's: whoever looks finds the one or the other.
fn swap(one: &Path, other: &Path) -> nix::Result<()> {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)
}

/// The names in the directory above are on the disk.
fn settled(path: &Path) {
    if let Some(above) = path.parent() {
        let _ = File::open(above).and_then(|directory| directory.sync_all());
    }
}

/// What was written since `before` by others than the giver, and is not in the copy either.
fn written_since(before: &str, now: &str, copy: &str, giver: u32) -> Option<String> {
    let read = |text: &str| Gtids::parse(Flavor::MariaDb, text);
    let (Some(before), Some(seen), Some(copy)) = (read(before), read(now), read(copy)) else {
        return Some(now.to_owned());
    };
    let others = seen.not_written_by(Who { id: giver, uuid: "" });
    others.beyond(&before.union(&copy)).map(|missing| missing.which)
}

/// A file and nothing else: no link, no pipe that is waited for.
fn plain(path: &Path) -> io::Result<File> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a plain file")) }
}

/// Owners as the old data's, of everything in the copy and not of itself, and all of it on the disk.
fn alike(new: &Path, data: &Path) -> Result<(), Fail> {
    let about = fs::metadata(data).map_err(io_fail(data, "cannot be read"))?;
    given(new, about.uid(), about.gid())?;
    let directory = File::open(new).map_err(io_fail(new, "cannot be opened"))?;
    nix::unistd::syncfs(&directory).map_err(|error| Fail::refused(format!("{}: {error}", new.display())))
}

/// What is in it before itself: nobody else comes in as long as a directory above is root's.
fn given(directory: &Path, uid: u32, gid: u32) -> Result<(), Fail> {
    for entry in fs::read_dir(directory).map_err(io_fail(directory, "cannot be read"))? {
        let entry = entry.map_err(io_fail(directory, "cannot be read"))?;
        let path = entry.path();
        if entry.file_type().map_err(io_fail(&path, "cannot be read"))?.is_dir() {
            given(&path, uid, gid)?;
        }
        lchown(&path, Some(uid), Some(gid)).map_err(io_fail(&path, "its owner"))?;
    }
    Ok(())
}

/// From whom the old server replicates; what the copy brought of the giver's goes.
fn connection(data: &Path, new: &Path) -> Result<(), Fail> {
    let (from, to) = (data.join(sql::CONNECTION_FILE), new.join(sql::CONNECTION_FILE));
    let old = match plain(&from) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_fail(&from, "cannot be read")(error)),
    };
    let written = || -> io::Result<()> {
        let about = old.metadata()?;
        match fs::remove_file(&to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(about.mode() & 0o777).open(&to)?;
        io::copy(&mut (&old).take(CONNECTION_MAX), &mut file)?;
        fchown(&file, Some(about.uid()), Some(about.gid()))?;
        file.sync_all()
    };
    written().map_err(io_fail(&to, "cannot be written"))
}

/// The copy itself becomes the server's: from here on root does nothing in it.
fn hand_over(new: &Path, data: &Path) -> Result<(), Fail> {
    let given = || -> io::Result<()> {
        let about = fs::metadata(data)?;
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits();
        let directory = File::options().read(true).custom_flags(flags).open(new)?;
        directory.set_permissions(fs::Permissions::from_mode(about.mode() & 0o7777))?;
        fchown(&directory, Some(about.uid()), Some(about.gid()))?;
        directory.sync_all()
    };
    given().map_err(io_fail(new, "its owner"))
}

fn ended(mut child: Child) -> Result<(), String> {
    let mut words = String::new();
    if let Some(from) = &mut child.stderr {
        let _ = from.read_to_string(&mut words);
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{status}: {}", last_lines(&words))),
        Err(error) => Err(error.to_string()),
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => size(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}

fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("drectl-reseed-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    #[test]
    fn two_directories_change_places_in_one_step() {
        let dir = directory("swap");
        for name in ["data", "new"] {
            fs::create_dir(dir.join(name)).expect("made");
            fs::write(dir.join(name).join("which"), name).expect("written");
        }
        swap(&dir.join("new"), &dir.join("data")).expect("exchanged");
        let which = |name: &str| fs::read_to_string(dir.join(name).join("which")).expect("there");
        assert_eq!((which("data"), which("new")), ("new".into(), "data".into()));
        assert_eq!(size(&dir), 7);
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn a_data_directory_that_is_a_file_system_of_its_own_is_refused_with_the_remedy() {
        let fail = Paths::new(Path::new("/proc"), "mysql").err().expect("refused");
        assert!(
            fail.text.contains("file system of its own") && fail.text.contains("mount it on /"),
            "{}",
            fail.text
        );
    }

    fn beside(dir: &Path, was_marked: bool) -> Paths {
        let at = |name: &str| dir.join(name);
        Paths {
            data: at("data"),
            new: at("data.dre-new"),
            old: at("data.dre-old"),
            mark: at("reseeding"),
            was_marked,
            record: at("record"),
            record_aside: at("record.before"),
        }
    }

    /// The power went between the exchange and the name: what is called new is the old data.
    #[test]
    fn what_a_run_that_was_cut_off_left_may_be_the_old_data_and_is_kept() {
        let dir = directory("cut");
        let paths = beside(&dir, false);
        fs::create_dir(&paths.new).expect("made");
        paths.clear().expect("a copy that was not whole, and goes");
        assert!(paths.new.exists(), "it goes when the next one comes");
        let paths = beside(&dir, true);
        let fail = paths.clear().expect_err("somebody must look");
        assert!(fail.text.contains("data.dre-old now"), "{}", fail.text);
        assert!(paths.old.exists() && !paths.new.exists());
        assert!(paths.clear().expect_err("still there").text.contains("is still there"));
        fs::remove_dir(&paths.old).expect("removed");
        paths.clear().expect("nothing is left");
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn only_the_giver_may_have_written_since_and_what_the_copy_has_is_not_lost() {
        let since = |now: &str| written_since("0-1-99,0-2-50", now, "0-1-60,0-2-80,0-7-3", 2);
        assert_eq!(since("0-1-99,0-2-50"), None);
        assert_eq!(since("0-1-99,0-2-200"), None, "it replicates");
        assert_eq!(since("0-1-99,0-2-50,0-7-3"), None, "the copy has it");
        assert_eq!(since("0-1-101,0-2-50").as_deref(), Some("0-1-100..101"));
        assert_eq!(since("0-1-99,0-7-4").as_deref(), Some("0-7-4..4"));
        assert_eq!(since("what?").as_deref(), Some("what?"));
        assert_eq!(written_since("", "", "", 0), None);
    }

    #[test]
    fn the_connection_is_taken_from_a_plain_file_and_nothing_is_written_through_a_link() {
        let dir = directory("connection");
        let (data, new, victim) = (dir.join("data"), dir.join("new"), dir.join("victim"));
        for made in [&data, &new] {
            fs::create_dir(made).expect("made");
        }
        fs::write(&victim, "root's").expect("written");
        connection(&data, &new).expect("it replicates from nobody");
        let (from, to) = (data.join(sql::CONNECTION_FILE), new.join(sql::CONNECTION_FILE));
        std::os::unix::fs::symlink(&victim, &from).expect("a link");
        connection(&data, &new).expect_err("a link is no connection");
        assert!(!to.exists());
        fs::remove_file(&from).expect("removed");
        fs::write(&from, "33\nbinlog.000001\n").expect("written");
        std::os::unix::fs::symlink(&victim, &to).expect("a link");
        connection(&data, &new).expect("taken");
        assert_eq!(fs::read_to_string(&victim).expect("there"), "root's");
        assert_eq!(fs::read_to_string(&to).expect("there"), "33\nbinlog.000001\n");
        assert!(!to.is_symlink());
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn a_copy_is_roots_alone_until_it_is_handed_over() {
        let dir = directory("over");
        let (data, new) = (dir.join("data"), dir.join("new"));
        fs::create_dir(&data).expect("made");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).expect("set");
        fs::DirBuilder::new().mode(0o700).create(&new).expect("made");
        fs::create_dir(new.join("app")).expect("made");
        fs::write(new.join("app/t.ibd"), "rows").expect("written");
        std::os::unix::fs::symlink("/etc/passwd", new.join("app/link")).expect("a link");
        let mode = || fs::metadata(&new).expect("there").mode() & 0o777;
        alike(&new, &data).expect("given");
        assert_eq!(mode(), 0o700);
        hand_over(&new, &data).expect("handed over");
        assert_eq!(mode(), 0o750);
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn a_copy_that_does_not_say_where_it_ends_is_none() {
        let dir = directory("place");
        assert!(place_of(&dir).expect_err("refused").text.contains("Nothing was changed"));
        fs::write(dir.join("xtrabackup_binlog_info"), "binlog.000001\t5\t0-1-2\n").expect("written");
        assert_eq!(place_of(&dir).expect("read"), "binlog.000001\t5\t0-1-2\n");
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn the_last_words_of_a_program_are_what_is_told() {
        assert_eq!(last_lines("one\ntwo\n\nthree\nfour\n"), "two | three | four");
        assert_eq!(last_lines(""), "");
    }
}
