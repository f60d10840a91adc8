//! `drectl db reseed`: this node's server becomes a copy of the peer's.
//!
//! ```text
//!   received ─▶ prepared ─▶ agent and server stopped ─▶ directories exchanged ─▶ server started ─▶ its history told ─▶ agent started ─▶ in step
//! ```
//!
//! Nothing of the old data is touched before the copy is whole and prepared; then two directories change their names in one step of the
//! kernel. Until the server is in step the old data is kept; where the new one does not start, it goes back. A run that is cut off
//! leaves either the one or the other, and a mark ([`Paths::mark`]) without which the agent could take a half told history for a whole.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use dre::config::{self, Database, Settings};
use dre::database::talk::{Ended, LINE_MAX, Offer, PART_MAX, Said};
use dre::shell::secure::{self, Pass, Pipe};
use dre::shell::sql;
use indicatif::{ProgressBar, ProgressStyle};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::statvfs::statvfs;
use serde_json::json;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{connect, reseeding};
use crate::args::Reseed;
use crate::client::Place;
use crate::exit::{Done, Fail};
use crate::print;

const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// Nothing came for so long: a giver that starts reading its files is silent for a moment.
const SILENT: Duration = Duration::from_secs(60);
/// A copy that is started recovers nothing: its logs were applied. A large one reads its tables.
const START_WITHIN: Duration = Duration::from_secs(300);
const SQL_WITHIN: Duration = Duration::from_secs(30);
/// What is told to the agent, for `drectl db status`.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Beside the copy the server needs room to go on.
const SPARE: u64 = 64 << 20;
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
        Ok(Self {
            new: beside(".dre-new"),
            old: beside(".dre-old"),
            mark: reseeding(group),
            data: data.to_path_buf(),
        })
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
    let settings = config::load_of(&place.group, None).map_err(|error| Fail::refused(error.lines()))?;
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
        let data = self.datadir()?;
        let paths = Paths::new(&data, &self.place.group)?;
        let (offer, pipe) = self.ask()?;
        self.room(&paths, &offer)?;
        self.confirm(&paths, &offer)?;
        self.receive(&paths, &offer, pipe)?;
        self.prepare(&paths, program)?;
        let place = place_of(&paths.new)?;
        let Some((has, position)) = sql::history(&offer.has, &place) else {
            return Err(Fail::refused(format!(
                "the copy does not say where it ends: {place:?}; nothing was changed"
            )));
        };
        self.alike(&paths)?;
        self.not_active()?;
        self.exchange(&paths)?;
        if let Err(fail) = self.begin(&has, &position) {
            return Err(self.back(&paths, &fail));
        }
        self.start_agent(&paths)?;
        self.in_step(&paths)?;
        if self.args.keep_old {
            self.teller.say(&format!("the old data is kept in {}", paths.old.display()))?;
        } else {
            fs::remove_dir_all(&paths.old).map_err(io_fail(&paths.old, "the old data stays"))?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        if self.args.json {
            return print(&crate::json_line(&json!({
                "from": offer.node, "bytes": offer.bytes, "has": has, "seconds": seconds,
                "old": self.args.keep_old.then(|| paths.old.display().to_string()),
            })));
        }
        self.teller.say(&format!(
            "this server is a copy of {}'s, and in step with it, after {seconds:.0} s",
            offer.node
        ))
    }

    /// Only a server without the role is replaced.
    fn not_active(&self) -> Result<(), Fail> {
        let Ok(status) = connect(self.place).and_then(|mut client| client.database()) else { return Ok(()) };
        if status.duty == "active" {
            return Err(Fail::refused(format!(
                "this node is ACTIVE: its server's data is what the others are compared with; give the role away first: {}",
                self.place.command("switchover")
            )));
        }
        Ok(())
    }

    /// The server's word where it answers; of one that is broken, what its files say.
    fn datadir(&self) -> Result<PathBuf, Fail> {
        let named = match self.runtime.block_on(sql::stands(&self.database.socket, LOOK_WITHIN)) {
            Ok(stands) if !stands.is_mariadb => {
                return Err(Fail::refused(
                    "MySQL copies by its own means (CLONE INSTANCE FROM …; the README says how), then: drectl db reseeded",
                ));
            }
            Ok(stands) if !stands.elsewhere.is_empty() => {
                let parts: Vec<String> =
                    stands.elsewhere.iter().map(|(name, value)| format!("{name} = {value}")).collect();
                return Err(Fail::refused(format!(
                    "a part of the data lies outside of datadir ({}), and would not go with it; copy by hand with mariadb-backup, then: \
                     drectl db reseeded",
                    parts.join(", ")
                )));
            }
            Ok(stands) => stands.datadir,
            Err(_) => by_files(),
        };
        let named = PathBuf::from(named);
        named.canonicalize().map_err(io_fail(&named, "the server's datadir"))
    }

    /// The first link that works.
    fn ask(&self) -> Result<(Offer, BufReader<Pipe>), Fail> {
        let key = config::read_key(&config::key_path()).map_err(|error| Fail::refused(error.lines()))?;
        let peer = self.settings.peer.clone().unwrap_or_default();
        let pass = Pass::of_database(key.bytes(), &self.settings.group, &self.settings.node, &peer);
        let mut why = vec![];
        for link in &self.settings.addresses {
            let door = SocketAddr::new(link.peer, self.database.agent_port);
            let asked = self.runtime.block_on(async {
                let mut connection = secure::connect(link.local, door, &pass).await?;
                connection.send(&Said::Copy).await?;
                let mut pipe = BufReader::with_capacity(PART_MAX, connection.into_pipe());
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
        if paths.old.exists() {
            return Err(Fail::refused(format!(
                "{}: the data before an earlier reseed is still there; look whether anything of it is needed, then remove it",
                paths.old.display()
            )));
        }
        if self.args.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Fail::refused("nobody is there to confirm it; say so: --yes"));
        }
        print("What is on this server alone is lost by it (drectl db diverged saves it). Go on? [y/N] ")?;
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
        fs::DirBuilder::new().create(&paths.new).map_err(io_fail(&paths.new, "cannot make it"))?;
        own(&paths.new, &paths.data)?;
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
        let received = self.runtime.block_on(self.take(&mut pipe, unpack.stdin.take(), offer.bytes, &bar));
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

    /// All parts and the end; how many bytes.
    async fn take(
        &self,
        pipe: &mut BufReader<Pipe>,
        into: Option<ChildStdin>,
        total: u64,
        bar: &ProgressBar,
    ) -> io::Result<u64> {
        let mut into = into.ok_or_else(|| io::Error::other("no pipe to the unpacking program"))?;
        let (mut all, mut told) = (0_u64, Instant::now());
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
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                self.tell(all, total.max(all));
            }
        }
        let end: Ended = line(pipe).await?;
        if end.whole { Ok(all) } else { Err(io::Error::other(format!("the giver says: {}", end.last))) }
    }

    /// For those who look at the status; nothing depends on it.
    fn tell(&self, done: u64, total: u64) {
        if let Ok(mut client) = connect(self.place) {
            let _ = client.call("Reseeding", json!({ "done": done, "total": total }));
        }
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

    /// Owners and modes as the old data has them, and all of it on the disk.
    fn alike(&self, paths: &Paths) -> Result<(), Fail> {
        let mut todo = vec![paths.new.clone()];
        while let Some(next) = todo.pop() {
            own(&next, &paths.data)?;
            for entry in fs::read_dir(&next).map_err(io_fail(&next, "cannot be read"))? {
                let path = entry.map_err(io_fail(&next, "cannot be read"))?.path();
                if path.is_dir() && !path.is_symlink() {
                    todo.push(path);
                } else {
                    own(&path, &paths.data)?;
                }
            }
        }
        let mode = fs::metadata(&paths.data).map_err(io_fail(&paths.data, "cannot be read"))?.permissions();
        fs::set_permissions(&paths.new, mode).map_err(io_fail(&paths.new, "its mode"))?;
        let directory = File::open(&paths.new).map_err(io_fail(&paths.new, "cannot be opened"))?;
        nix::unistd::syncfs(&directory)
            .map_err(|error| Fail::refused(format!("{}: {error}", paths.new.display())))
    }

    fn agent(&self) -> String {
        format!("dre-mysql@{}.service", self.place.group)
    }

    /// From here on the agent is away, and the mark stands.
    fn exchange(&self, paths: &Paths) -> Result<(), Fail> {
        let marked = File::create(&paths.mark).and_then(|file| file.sync_all());
        marked.map_err(io_fail(&paths.mark, "cannot be written"))?;
        systemctl("stop", &self.agent())?;
        systemctl("stop", &self.database.unit)?;
        self.teller.say(&format!("  stopped    {}", self.database.unit))?;
        let undone = |fail: Fail| {
            let _ = fs::remove_file(&paths.mark);
            let _ = systemctl("start", &self.database.unit);
            let _ = systemctl("start", &self.agent());
            Fail { text: format!("{}; the old data is in its place", fail.text), ..fail }
        };
        let connection = paths.data.join(sql::CONNECTION_FILE);
        if connection.exists() {
            let to = paths.new.join(sql::CONNECTION_FILE);
            let copied = fs::copy(&connection, &to).map(drop).map_err(io_fail(&to, "cannot be written"));
            copied.and_then(|()| own(&to, &paths.data)).map_err(undone)?;
        }
        swap(&paths.new, &paths.data).map_err(|error| {
            undone(Fail::refused(format!("{}: cannot take the copy's place: {error}", paths.data.display())))
        })?;
        fs::rename(&paths.new, &paths.old).map_err(io_fail(&paths.new, "the old data keeps this name"))?;
        // What the agent kept is the old server's.
        let _ = fs::remove_file(paths.mark.with_file_name("record"));
        if let Some(above) = paths.data.parent() {
            let _ = File::open(above).and_then(|directory| directory.sync_all());
        }
        self.teller.say(&format!("  exchanged  the old data is in {}", paths.old.display()))
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
        self.teller.say(&format!("  started    {}, which has {shown}", self.database.unit))
    }

    /// The copy does not do it: what was there comes back.
    fn back(&self, paths: &Paths, fail: &Fail) -> Fail {
        let undo = || -> Result<(), Fail> {
            let _ = systemctl("stop", &self.database.unit);
            swap(&paths.old, &paths.data).map_err(|error| Fail::refused(error.to_string()))?;
            fs::remove_dir_all(&paths.old).map_err(io_fail(&paths.old, "the copy stays"))?;
            systemctl("start", &self.database.unit)?;
            let _ = fs::remove_file(&paths.mark);
            systemctl("start", &self.agent())
        };
        let after = match undo() {
            Ok(()) => "the old data is in its place again".to_owned(),
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
        self.teller.say(&format!("  started    {}", self.agent()))
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
        match fs::read_to_string(copy.join(name)) {
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

fn own(path: &Path, as_is: &Path) -> Result<(), Fail> {
    let about = fs::metadata(as_is).map_err(io_fail(as_is, "cannot be read"))?;
    std::os::unix::fs::lchown(path, Some(about.uid()), Some(about.gid())).map_err(io_fail(path, "its owner"))
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
