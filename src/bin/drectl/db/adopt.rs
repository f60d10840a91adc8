//! `drectl db adopt`: a pair that was made by hand becomes dre's. Run on both nodes at the same time; the two commands speak to each other.
//!
//! ```text
//!   both look, twice ─▶ doubts? ─▶ both agree ─▶ read-only, clients ended ─▶ each has applied the other's last ─▶ threads stopped
//!        ─▶ the same sums? still the same positions? ─▶ sealed ─▶ each sets its server up, as bootstrap does
//!        ─▶ both hold the seal after their restart? ─▶ no history before now
//! ```
//!
//! Up to the last question everything is undone where anything speaks against it, on both nodes. How far this server is is kept in a file
//! before each step is taken; a run that was cut off asks the peer how far that one is, and goes on, or undoes what is here.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dre::config::{self, Database, Settings};
use dre::logic::db::adopt::{
    Course, Seal, Stage, Stance, Touched, course, differing, doubts, has_all_of, holds, same,
};
use dre::logic::db::facts::{Failure, Op};
use dre::shell::secure::{self, Connection, Listener, Pass, Reader, Writer};
use dre::shell::sql::Session;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::bootstrap::{self, Steps};
use super::files;
use crate::args::AdoptArgs;
use crate::client::Place;
use crate::exit::{Done, Fail};
use crate::print;

const ROOT: &str = "root";
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Locks and running writes that do not end are ended with their clients.
const READ_ONLY_WITHIN: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(500);
/// For what was on its way when clients were ended.
const CATCH_UP: Duration = Duration::from_secs(60);
/// A large table takes its time.
const SUM_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// Until somebody at the other node has read the plan and said yes.
const PATIENCE: Duration = Duration::from_secs(3600);

/// One step's word; both say the same one, and then take the next step.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// How far it is, and how it was called.
    Here {
        stage: Stage,
        no_checksum: bool,
    },
    Stance(Box<Stance>),
    Agreed,
    /// One of many: each is a sign of life too.
    Sum(String, String),
    Summed,
    Sealed(BTreeMap<String, String>),
    /// Nothing is left but to throw the old history away.
    Ready,
    /// It goes no further, and why.
    No(String),
}

struct Adopting<'a> {
    place: &'a Place,
    args: &'a AdoptArgs,
    settings: &'a Settings,
    database: &'a Database,
    peer: &'a str,
    session: Session,
    mark: PathBuf,
}

pub fn run(place: &Place, args: &AdoptArgs) -> Done {
    let settings = config::load_of(&place.group, None).map_err(|error| Fail::config(&error))?;
    let (Some(database), Some(peer)) = (&settings.database, &settings.peer) else {
        return Err(super::no_database(place));
    };
    if !nix::unistd::geteuid().is_root() {
        return Err(Fail::refused("it writes the server's file and restarts the server: run it as root"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fail::silent(error.to_string()))?;
    let session = Session::new(&database.socket, ROOT, &database.unit);
    let mark = mark_of(place);
    runtime.block_on(Adopting { place, args, settings: &settings, database, peer, session, mark }.run())
}

/// Beside the agent's own files. There while a run is under way, or was cut off.
fn mark_of(place: &Place) -> PathBuf {
    Path::new("/var/lib").join(format!("dre-mysql@{}", place.group)).join("adopting")
}

/// Refuses what must not be done to a server that is halfway through.
pub fn none_under_way(place: &Place) -> Done {
    let mark = mark_of(place);
    if !mark.exists() {
        return Ok(());
    }
    Err(Fail::refused(format!(
        "{}: {} was cut off here: run that again on both nodes, it goes on or undoes what was done; nothing was changed",
        mark.display(),
        place.command("db adopt")
    )))
}

fn keep(mark: &Path, stage: &Stage) -> Done {
    let failed = |why: String| Fail::refused(format!("{}: {why}", mark.display()));
    let text = serde_json::to_vec(stage).map_err(|error| failed(error.to_string()))?;
    fs::create_dir_all(mark.parent().unwrap_or(Path::new("/"))).map_err(|error| failed(error.to_string()))?;
    files::put(mark, &text, 0o600, None).map_err(Fail::refused)
}

async fn stance(session: &mut Session, settings: &Settings, database: &Database) -> Result<Stance, Fail> {
    session.stance(&settings.node, ANSWER_WITHIN).await.map_err(|failure| {
        Fail::refused(format!(
            "{}: {}; does the server run, and may root in by this socket?",
            database.socket.display(),
            failure.words()
        ))
    })
}

/// The state that a log was closed with, which the server keeps beside it.
fn left(log: &str) -> Option<String> {
    let text = fs::read_to_string(format!("{log}.state")).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(","))
}

/// Whoever ends the command ends it as any error does: with what it changed undone.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self, Fail> {
        let of = |kind| signal(kind).map_err(|error| Fail::refused(format!("signals: {error}")));
        Ok(Self([of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?]))
    }

    async fn one(&mut self) -> Fail {
        let [interrupt, terminate, hangup] = &mut self.0;
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        };
        Fail::refused(format!("the command was ended by {name}"))
    }
}

/// The conversation with the command on the peer.
struct Talk {
    reader: Reader,
    writer: Writer,
    peer: String,
    /// One of both has said that it goes no further.
    ended: bool,
}

impl Talk {
    /// Says a word while it hears one: two that speak first would wait for each other.
    async fn swap(&mut self, word: Word) -> Result<Word, Fail> {
        let Self { reader, writer, peer, ended } = self;
        let (said, heard) = tokio::join!(writer.send(&word), hear(reader, peer, ended, PATIENCE));
        // Why the peer goes no further says more than that it is gone.
        let heard = heard?;
        said.map_err(|error| gone(peer, &error))?;
        Ok(heard)
    }

    async fn no(&mut self, fail: &Fail) {
        self.ended = true;
        let _ = self.writer.send(&Word::No(fail.text.clone())).await;
    }

    fn out_of_step(&self, word: &Word) -> Fail {
        Fail::refused(format!("{} is at another step ({word:?}): begin again on both", self.peer))
    }
}

fn gone(peer: &str, error: &secure::Error) -> Fail {
    Fail::silent(format!("the command on {peer} is gone: {error}"))
}

async fn hear(reader: &mut Reader, peer: &str, ended: &mut bool, within: Duration) -> Result<Word, Fail> {
    match timeout(within, reader.receive::<Word>()).await {
        Ok(Ok(Word::No(why))) => {
            *ended = true;
            Err(Fail::refused(format!("{peer} goes no further: {why}")))
        }
        Ok(Ok(word)) => Ok(word),
        Ok(Err(error)) => Err(gone(peer, &error)),
        Err(_) => Err(Fail::silent(format!("nobody answered on {peer} for {} s", within.as_secs()))),
    }
}

impl Adopting<'_> {
    async fn run(&mut self) -> Done {
        let mut own = self.stage()?;
        if let Stage::Touched(touched) = own {
            let after = self.restore(touched).await?;
            print(&format!("an earlier run was cut off before the seal: {after}\n"))?;
            own = Stage::New;
        }
        self.stance().await?;
        let connection = self.meet().await?;
        let (reader, writer) = connection.split();
        let mut talk = Talk { reader, writer, peer: self.peer.to_owned(), ended: false };
        let no_checksum = self.args.no_checksum;
        let peer = match talk.swap(Word::Here { stage: own.clone(), no_checksum }).await? {
            Word::Here { stage, no_checksum: theirs } => (stage, theirs),
            other => return Err(talk.out_of_step(&other)),
        };
        let course = course(&own, &peer.0);
        let seal = match own {
            Stage::Sealed(seal) | Stage::Done(seal) => seal,
            Stage::New | Stage::Touched(_) => Seal::default(),
        };
        match course {
            Course::FromTheStart if no_checksum != peer.1 => Err(Fail::refused(
                "--no-checksum was given on one node alone: give both the same options; nothing was changed",
            )),
            Course::FromTheStart => {
                let seal = self.seal_or_undo(&mut talk).await?;
                self.over(seal, &mut talk, false).await
            }
            Course::FromTheSeal | Course::Alone => {
                print("both servers were found to have the same by an earlier run; going on from there\n")?;
                self.over(seal, &mut talk, course == Course::Alone).await
            }
            Course::Told => {
                print(&format!("this server is adopted; {} knows it now and goes on\n", self.peer))
            }
            Course::Undo => {
                let fail = Fail::refused(format!(
                    "this server was sealed, and {} does not know of it: it undid its part and may have been written to since",
                    self.peer
                ));
                if seal.begun {
                    return Err(self.too_late(fail));
                }
                Err(self.undone(seal.touched, fail).await)
            }
            Course::Again => Err(Fail::refused(format!(
                "{} was sealed by an earlier run, of which nothing is known here, and undoes it now: run this again on both when it is done; \
                 nothing was changed here",
                self.peer
            ))),
        }
    }

    /// What an earlier run has left.
    fn stage(&self) -> Result<Stage, Fail> {
        for file in [&self.mark, &self.done()] {
            match fs::read(file) {
                Ok(text) => {
                    return serde_json::from_slice(&text).map_err(|error| {
                        Fail::refused(format!(
                            "{}: {error}; nobody knows how far an earlier run came: see that both servers have the same, then remove it",
                            file.display()
                        ))
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Fail::refused(format!("{}: {error}", file.display()))),
            }
        }
        Ok(Stage::New)
    }

    /// Stays, so that a peer that was cut off later can be told.
    fn done(&self) -> PathBuf {
        self.mark.with_file_name("adopted")
    }

    async fn stance(&mut self) -> Result<Stance, Fail> {
        stance(&mut self.session, self.settings, self.database).await
    }

    /// The other command: over the first link that works. The one with the first name listens.
    async fn meet(&self) -> Result<Connection, Fail> {
        let key = config::read_key(&config::key_path()).map_err(|error| Fail::config(&error))?;
        let pass =
            Arc::new(Pass::of_adoption(key.bytes(), &self.settings.group, &self.settings.node, self.peer));
        print(&format!("waiting for {}: {} there too\n", self.peer, self.place.command("db adopt")))?;
        let port = self.database.agent_port;
        if *self.settings.node < *self.peer {
            let doors: Vec<(SocketAddr, IpAddr)> = self
                .settings
                .addresses
                .iter()
                .map(|link| (SocketAddr::new(link.local, port), link.peer))
                .collect();
            let mut listener = Listener::bind(&doors, pass).map_err(|error| {
                Fail::refused(format!(
                    "cannot listen for the other command: {error}; if dre-mysql runs, on both nodes: systemctl stop dre@{0} dre-mysql@{0}",
                    self.place.group
                ))
            })?;
            let come = async {
                loop {
                    match listener.accept().await {
                        Ok(came) => match came.result {
                            Ok(connection) => return connection,
                            Err(error) => eprintln!("{}: {error}", came.from),
                        },
                        Err(error) => eprintln!("{error}"),
                    }
                }
            };
            return timeout(PATIENCE, come).await.map_err(|_| Fail::silent("nobody came for an hour"));
        }
        let begun = Instant::now();
        loop {
            let mut why = String::new();
            for link in &self.settings.addresses {
                match secure::connect(link.local, SocketAddr::new(link.peer, port), &pass).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => why = format!("{}: {error}", link.name),
                }
            }
            if begun.elapsed() > PATIENCE {
                return Err(Fail::silent(format!("{} was not reached for an hour: {why}", self.peer)));
            }
            sleep(AGAIN).await;
        }
    }

    async fn both(&mut self, talk: &mut Talk) -> Result<(Stance, Stance), Fail> {
        let own = self.stance().await?;
        match talk.swap(Word::Stance(Box::new(own.clone()))).await? {
            Word::Stance(peer) => Ok((own, *peer)),
            other => Err(talk.out_of_step(&other)),
        }
    }

    /// Changes nothing where it fails.
    async fn seal_or_undo(&mut self, talk: &mut Talk) -> Result<Seal, Fail> {
        let touched = match self.look(talk).await {
            Ok(touched) => touched,
            Err(fail) => {
                talk.no(&fail).await;
                return Err(Fail { text: format!("{}\nnothing was changed", fail.text), ..fail });
            }
        };
        // Only now: at the question they end the command as ever.
        let mut signals = Signals::new()?;
        let sealed = tokio::select! {
            sealed = self.up_to_the_seal(talk, touched) => sealed,
            fail = signals.one() => Err(fail),
        };
        let fail = match sealed {
            Ok(seal) => return Ok(seal),
            Err(fail) => fail,
        };
        if matches!(self.stage(), Ok(Stage::Sealed(_))) && !talk.ended {
            return Err(self.unknown(fail));
        }
        talk.no(&fail).await;
        Err(self.undone(touched, fail).await)
    }

    /// What speaks against it, the plan, and yes; what there will be to undo.
    async fn look(&mut self, talk: &mut Talk) -> Result<Touched, Fail> {
        bootstrap::may_take_over(self.place, &mut self.session).await?;
        let without_file = !bootstrap::has_file(self.place)?;
        let (then, peer_then) = self.both(talk).await?;
        print(&format!("looking at both servers for {:.0} s\n", self.args.watch))?;
        sleep(Duration::from_secs_f64(self.args.watch)).await;
        let (own, peer) = self.both(talk).await?;
        let against = doubts((&then, &own), (&peer_then, &peer));
        if !against.is_empty() {
            return Err(Fail::refused(format!("not adopted, because\n  {}", against.join("\n  "))));
        }
        print(&self.plan(&own, &peer))?;
        self.agreed()?;
        let Word::Agreed = talk.swap(Word::Agreed).await? else {
            return Err(Fail::refused(format!("{} did not agree", self.peer)));
        };
        Ok(Touched { writable: !own.read_only, replicates: true, without_file })
    }

    async fn up_to_the_seal(&mut self, talk: &mut Talk, touched: Touched) -> Result<Seal, Fail> {
        keep(&self.mark, &Stage::Touched(touched))?;
        self.read_only().await?;
        let (own, peer) = self.still(talk).await?;
        self.session.stop_replicating(ANSWER_WITHIN).await.map_err(|failure| said("STOP SLAVE", &failure))?;
        if !self.args.no_checksum {
            self.compare(talk).await?;
        }
        // What somebody wrote while it was summed up would be on one server alone.
        let now = self.both(talk).await?;
        for (then, now) in [(&own, &now.0), (&peer, &now.1)] {
            if !same(&then.state, &now.state) {
                return Err(Fail::refused(format!(
                    "{} was written to although it is read-only: it had {} and has {}; was it root?",
                    now.node, then.state, now.state
                )));
            }
        }
        let states: BTreeMap<String, String> =
            [&now.0, &now.1].map(|stance| (stance.node.clone(), stance.state.clone())).into();
        let seal = Seal { states, log: now.0.log, touched, begun: false };
        keep(&self.mark, &Stage::Sealed(seal.clone()))?;
        // From the next word on the other one goes on, whether or not this one hears of it.
        match talk.swap(Word::Sealed(seal.states.clone())).await? {
            Word::Sealed(states) if states == seal.states => Ok(seal),
            other => Err(talk.out_of_step(&other)),
        }
    }

    /// From the seal to the end. `alone`: the peer is there already.
    async fn over(&mut self, mut seal: Seal, talk: &mut Talk, alone: bool) -> Done {
        let mut signals = Signals::new()?;
        let mut steps = Steps::shown();
        let was_begun = seal.begun;
        let Self { place, settings, database, session, mark, .. } = self;
        let still_so = async |session: &mut Session| -> Done {
            let now = stance(session, settings, database).await?;
            if !holds(&seal, &now, left(&seal.log).as_deref()) {
                let sealed = seal.states.get(&now.node).map_or("nothing", String::as_str);
                let fail = Fail::refused(format!(
                    "{} was written to since both were found to have the same: it was sealed with {sealed}, and has {:?}",
                    now.node, now.state
                ));
                talk.no(&fail).await;
                return Err(fail);
            }
            if !alone {
                let heard = tokio::select! {
                    heard = talk.swap(Word::Ready) => heard?,
                    fail = signals.one() => return Err(fail),
                };
                if !matches!(heard, Word::Ready) {
                    return Err(talk.out_of_step(&heard));
                }
            }
            seal.begun = true;
            keep(mark, &Stage::Sealed(seal.clone()))
        };
        if let Err(fail) = bootstrap::take_over(place, session, &mut steps, still_so).await {
            return Err(match (talk.ended, alone || was_begun) {
                (true, true) => self.too_late(fail),
                (true, false) => self.undone(seal.touched, fail).await,
                (false, _) => self.unknown(fail),
            });
        }
        keep(&self.done(), &Stage::Done(seal))?;
        fs::remove_file(&self.mark).map_err(|error| {
            Fail::refused(format!("{}: {error}; remove it by hand: all is done", self.mark.display()))
        })?;
        print(&format!(
            "\nnext, when {} is as far: end what moved the address until now (systemctl disable --now heartbeat),\n      \
             then on both: systemctl enable --now dre@{}\n",
            self.peer, self.place.group
        ))
    }

    fn plan(&self, own: &Stance, peer: &Stance) -> String {
        let line = |stance: &Stance| {
            format!(
                "  {}: MariaDB {}, server-id {}, {}, has {}; databases: {}\n",
                stance.node,
                stance.version,
                stance.server_id,
                if stance.read_only { "read-only" } else { "takes writes" },
                if stance.state.is_empty() { "no transactions" } else { &stance.state },
                stance.data.join(", ")
            )
        };
        let compare = match self.args.no_checksum {
            true => "nothing is compared: what differs already goes on differing",
            false => {
                "every table of both is summed up (CHECKSUM TABLE), views, triggers, events, routines, accounts and rights are compared, and \
                 nothing goes on where one differs"
            }
        };
        format!(
            "a pair that works:\n{}{}on both nodes:\n  \
             read-only, clients are ended: nobody writes from here on until dre@{} runs (root by the local socket still could: leave it alone)\n  \
             {compare}\n  \
             the server's file, certificate and accounts, a restart, and no history before now (the old binary logs go): as bootstrap does\n",
            line(own),
            line(peer),
            self.place.group
        )
    }

    fn agreed(&self) -> Done {
        if self.args.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Fail::usage(
                "nobody can be asked here: add --yes if that is meant; nothing was changed",
            ));
        }
        print("do it? [no]: ")?;
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        match read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            true => Ok(()),
            false => Err(Fail::refused("nothing was changed")),
        }
    }

    async fn read_only(&mut self) -> Result<(), Fail> {
        let clients = Op::KillClients { keep: vec![] };
        let mut last = None;
        for _ in 0..3 {
            match self.session.carry_out(Op::ReadOnly, READ_ONLY_WITHIN).await {
                Ok(_) => {
                    let ended = self.session.carry_out(clients, ANSWER_WITHIN).await;
                    return ended.map(drop).map_err(|failure| said("clients could not be ended", &failure));
                }
                Err(failure) => last = Some(failure),
            }
            let _ = self.session.carry_out(clients.clone(), ANSWER_WITHIN).await;
        }
        Err(said("the server does not become read-only", &last.unwrap_or(Failure::Timeout)))
    }

    /// Until nothing moves on either, and each has what the other wrote; both then.
    async fn still(&mut self, talk: &mut Talk) -> Result<(Stance, Stance), Fail> {
        let begun = Instant::now();
        let mut before: Option<(Stance, Stance)> = None;
        loop {
            let (own, peer) = self.both(talk).await?;
            let quiet =
                before.as_ref().is_some_and(|(o, p)| (&o.state, &p.state) == (&own.state, &peer.state));
            // Both see the same two, and leave in the same round.
            if quiet && has_all_of(&own, &peer) && has_all_of(&peer, &own) {
                return Ok((own, peer));
            }
            if begun.elapsed() > CATCH_UP {
                return Err(Fail::refused(format!(
                    "after {} s they are not in step: {} has {} and applied {}, {} has {} and applied {}; does an account with READ_ONLY ADMIN \
                     write?",
                    CATCH_UP.as_secs(),
                    own.node,
                    own.state,
                    own.applied,
                    peer.node,
                    peer.state,
                    peer.applied
                )));
            }
            before = Some((own, peer));
            sleep(AGAIN).await;
        }
    }

    /// Each tells what it finds while it hears what the other finds.
    async fn compare(&mut self, talk: &mut Talk) -> Done {
        let defined = self.session.definitions(SUM_WITHIN).await;
        let defined = defined.map_err(|failure| said("views, routines, accounts", &failure))?;
        let tables =
            self.session.tables(ANSWER_WITHIN).await.map_err(|failure| said("the tables", &failure))?;
        let bar = ProgressBar::new(tables.len() as u64);
        let style = ProgressStyle::with_template("comparing {bar:30} {pos} of {len} tables, {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        let Talk { reader, writer, peer, ended } = talk;
        let session = &mut self.session;
        let (here, to, of_tables) = (&mut *writer, &*peer, &bar);
        let own = async move {
            let mut sums = BTreeMap::new();
            let mut say = async |name: String, sum: String| -> Done {
                let word = Word::Sum(name.clone(), sum.clone());
                sums.insert(name, sum);
                here.send(&word).await.map_err(|error| gone(to, &error))
            };
            for (name, sum) in defined {
                say(name, sum).await?;
            }
            for table in &tables {
                let name = format!("{}.{}", table.0, table.1);
                of_tables.set_message(name.clone());
                let sum = session.sum(table, SUM_WITHIN).await.map_err(|failure| said(&name, &failure))?;
                say(name, sum).await?;
                of_tables.inc(1);
            }
            here.send(&Word::Summed).await.map_err(|error| gone(to, &error))?;
            Ok::<_, Fail>(sums)
        };
        let theirs = async {
            let mut sums = BTreeMap::new();
            loop {
                match hear(reader, to, ended, SUM_WITHIN).await? {
                    Word::Sum(name, sum) => sums.insert(name, sum),
                    Word::Summed => return Ok(sums),
                    other => return Err(Fail::refused(format!("{to} is at another step ({other:?})"))),
                };
            }
        };
        let summed = tokio::try_join!(own, theirs);
        bar.finish_and_clear();
        let (own, theirs) = summed?;
        let differs = differing(&own, &theirs);
        if differs.is_empty() {
            return print(&format!("ok  {} tables and definitions, the same on both\n", own.len()));
        }
        Err(Fail::refused(format!(
            "{} are not the same on both: {}. Mend one server by the other (mariadb-backup, or a dump), and begin again",
            differs.len(),
            differs.join(", ")
        )))
    }

    fn unknown(&self, fail: Fail) -> Fail {
        let text = format!(
            "{}\nboth were found to have the same, and whether {} goes on is not known here: this server stays read-only, and replicates from \
             nobody. Run this again on both: it asks there, and goes on or undoes it",
            fail.text, self.peer
        );
        Fail { text, ..fail }
    }

    fn too_late(&self, fail: Fail) -> Fail {
        let text = format!(
            "{}\nNOT undone: the new history of the pair has begun. This server stays read-only; compare both, and where the peer's data is the one \
             to keep, here: rm {}, {}, and when the agents run: {}",
            fail.text,
            self.mark.display(),
            self.place.command("db bootstrap"),
            self.place.command("db reseed")
        );
        Fail { text, ..fail }
    }

    async fn undone(&mut self, touched: Touched, fail: Fail) -> Fail {
        let after = match self.restore(touched).await {
            Ok(after) => after.to_owned(),
            Err(not) => not.text,
        };
        Fail { text: format!("{}\n{after}", fail.text), ..fail }
    }

    /// The server as it was before the command.
    async fn restore(&mut self, touched: Touched) -> Result<&'static str, Fail> {
        let mut failed = vec![];
        if touched.without_file
            && let Err(fail) = bootstrap::take_back(self.place, &mut self.session).await
        {
            failed.push(fail.text);
        }
        if touched.replicates
            && let Err(failure) = self.session.start_replicating(ANSWER_WITHIN).await
        {
            failed.push(format!("START SLAVE: {}", failure.words()));
        }
        if touched.writable
            && let Err(failure) = self.session.carry_out(Op::Writable, ANSWER_WITHIN).await
        {
            failed.push(format!("SET GLOBAL read_only = 0: {}", failure.words()));
        }
        if failed.is_empty()
            && let Err(error) = fs::remove_file(&self.mark)
            && error.kind() != io::ErrorKind::NotFound
        {
            failed.push(format!("rm {}: {error}", self.mark.display()));
        }
        match failed.is_empty() {
            true => Ok("the server is as it was, its clients may come back"),
            false => Err(Fail::refused(format!(
                "NOT undone, do it by hand, or run this again: {}",
                failed.join("; ")
            ))),
        }
    }
}

fn said(what: &str, failure: &Failure) -> Fail {
    Fail::refused(format!("{what}: {}", failure.words()))
}
