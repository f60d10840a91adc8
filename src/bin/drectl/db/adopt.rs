//! `drectl db adopt`: a pair that was made by hand becomes dre's. Run on both nodes at the same time; the two commands speak to each other.
//!
//! ```text
//!   both look, twice ─▶ doubts? ─▶ both agree ─▶ read-only, clients ended ─▶ each has applied the other's last ─▶ threads stopped
//!        ─▶ the same sums? ─▶ sealed ─▶ each does its own part, as bootstrap does
//! ```
//!
//! Up to the seal everything is undone where anything speaks against it, on both nodes. From there on both servers have the same data
//! and begin with no history; a run that was cut off goes on from the seal.

use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dre::config::{self, Database, Settings};
use dre::logic::db::adopt::{Stance, differing, doubts, has_all_of};
use dre::logic::db::facts::{Failure, Op};
use dre::shell::secure::{self, Connection, Listener, Pass};
use dre::shell::sql::Session;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::bootstrap::{self, Steps};
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
    Stance(Box<Stance>),
    Agreed,
    Sums(Vec<(String, String)>),
    Sealed,
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
    let settings = config::load_of(&place.group, None).map_err(|error| Fail::refused(error.lines()))?;
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
    let mark = Path::new("/var/lib").join(format!("dre-mysql@{}", place.group)).join("adopting");
    runtime.block_on(Adopting { place, args, settings: &settings, database, peer, session, mark }.run())
}

impl Adopting<'_> {
    async fn run(&mut self) -> Done {
        let now = self.stance().await?;
        match fs::read_to_string(&self.mark) {
            Ok(sealed) if now.state.is_empty() || now.state == sealed => {
                print("both servers were found to have the same; going on from there\n")?;
            }
            Ok(sealed) => {
                return Err(Fail::refused(format!(
                    "this server was to be adopted with {sealed:?}, and has {:?} since: it was written to. Compare both servers, then \
                     remove {} and begin again; nothing was changed",
                    now.state,
                    self.mark.display()
                )));
            }
            Err(_) => {
                let mut connection = self.meet().await?;
                let mut touched = Touched::default();
                if let Err(fail) = self.up_to_the_seal(&mut connection, &mut touched).await {
                    let _ = connection.send(&Word::No(fail.text.clone())).await;
                    return Err(self.undo(&touched, fail).await);
                }
            }
        }
        let mut steps = Steps::shown();
        bootstrap::take_over(self.place, &mut self.session, &mut steps).await?;
        fs::remove_file(&self.mark).map_err(|error| {
            Fail::refused(format!("{}: {error}; remove it by hand: all is done", self.mark.display()))
        })?;
        print(&format!(
            "\nnext, when {} is as far: end what moved the address until now (systemctl disable --now heartbeat),\n      \
             then on both: systemctl enable --now dre@{}\n",
            self.peer, self.place.group
        ))
    }

    async fn stance(&mut self) -> Result<Stance, Fail> {
        let socket = self.database.socket.display().to_string();
        self.session.stance(&self.settings.node, ANSWER_WITHIN).await.map_err(|failure| {
            Fail::refused(format!(
                "{socket}: {}; does the server run, and may root in by this socket?",
                failure.words()
            ))
        })
    }

    /// The other command: over the first link that works. The one with the first name listens.
    async fn meet(&self) -> Result<Connection, Fail> {
        let key = config::read_key(&config::key_path()).map_err(|error| Fail::refused(error.lines()))?;
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

    async fn swap(&self, connection: &mut Connection, word: Word) -> Result<Word, Fail> {
        let lost =
            |error: secure::Error| Fail::silent(format!("the command on {} is gone: {error}", self.peer));
        connection.send(&word).await.map_err(lost)?;
        match timeout(PATIENCE, connection.receive::<Word>()).await {
            Ok(Ok(Word::No(why))) => Err(Fail::refused(format!("{} goes no further: {why}", self.peer))),
            Ok(Ok(word)) => Ok(word),
            Ok(Err(error)) => Err(lost(error)),
            Err(_) => Err(Fail::silent(format!("nobody answered on {} for an hour", self.peer))),
        }
    }

    async fn both(&mut self, connection: &mut Connection) -> Result<(Stance, Stance), Fail> {
        let own = self.stance().await?;
        match self.swap(connection, Word::Stance(Box::new(own.clone()))).await? {
            Word::Stance(peer) => Ok((own, *peer)),
            other => Err(self.out_of_step(&other)),
        }
    }

    fn out_of_step(&self, word: &Word) -> Fail {
        Fail::refused(format!(
            "{} is at another step ({word:?}): begin again on both, with the same options",
            self.peer
        ))
    }

    async fn up_to_the_seal(
        &mut self,
        connection: &mut Connection,
        touched: &mut Touched,
    ) -> Result<(), Fail> {
        bootstrap::may_take_over(self.place, &mut self.session).await?;
        let (then, peer_then) = self.both(connection).await?;
        print(&format!("looking at both servers for {:.0} s\n", self.args.watch))?;
        sleep(Duration::from_secs_f64(self.args.watch)).await;
        let (own, peer) = self.both(connection).await?;
        let against = doubts((&then, &own), (&peer_then, &peer));
        if !against.is_empty() {
            return Err(Fail::refused(format!("not adopted, because\n  {}", against.join("\n  "))));
        }
        print(&self.plan(&own, &peer))?;
        self.agreed()?;
        let Word::Agreed = self.swap(connection, Word::Agreed).await? else {
            return Err(Fail::refused(format!("{} did not agree", self.peer)));
        };
        *touched = Touched { writable: !own.read_only, replicates: true, sealed: false };
        self.read_only().await?;
        let state = self.still(connection).await?;
        self.session.stop_replicating(ANSWER_WITHIN).await.map_err(|failure| said("STOP SLAVE", &failure))?;
        if !self.args.no_checksum {
            self.compare(connection).await?;
        }
        let seal = || -> io::Result<()> {
            let above = self.mark.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(above)?;
            let mut file = File::create(&self.mark)?;
            file.write_all(state.as_bytes())?;
            file.sync_all()?;
            File::open(above)?.sync_all()
        };
        seal().map_err(|error| Fail::refused(format!("{}: {error}", self.mark.display())))?;
        // From the next word on the other one goes on, whether or not this one hears of it.
        touched.sealed = true;
        match self.swap(connection, Word::Sealed).await {
            Ok(Word::Sealed) => Ok(()),
            Ok(other) => Err(self.out_of_step(&other)),
            Err(fail) => Err(fail),
        }
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
            true => "tables are NOT compared: what differs already goes on differing",
            false => {
                "every table of both is summed up (CHECKSUM TABLE), and nothing goes on where one differs"
            }
        };
        format!(
            "a pair that works:\n{}{}on both nodes:\n  \
             read-only, clients are ended: nobody writes from here on until dre@{} runs\n  \
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

    /// Until nothing moves on either, and each has what the other wrote; this server's state then.
    async fn still(&mut self, connection: &mut Connection) -> Result<String, Fail> {
        let begun = Instant::now();
        let mut before: Option<(Stance, Stance)> = None;
        loop {
            let (own, peer) = self.both(connection).await?;
            let quiet =
                before.as_ref().is_some_and(|(o, p)| (&o.state, &p.state) == (&own.state, &peer.state));
            // Both see the same two, and leave in the same round.
            if quiet && has_all_of(&own, &peer) && has_all_of(&peer, &own) {
                return Ok(own.state);
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

    async fn compare(&mut self, connection: &mut Connection) -> Result<(), Fail> {
        let tables =
            self.session.tables(ANSWER_WITHIN).await.map_err(|failure| said("the tables", &failure))?;
        let bar = ProgressBar::new(tables.len() as u64);
        let style = ProgressStyle::with_template("comparing {bar:30} {pos} of {len} tables, {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        let mut sums = vec![];
        for table in &tables {
            let name = format!("{}.{}", table.0, table.1);
            bar.set_message(name.clone());
            let sum = self.session.sum(table, SUM_WITHIN).await.map_err(|failure| said(&name, &failure))?;
            sums.push((name, sum));
            bar.inc(1);
        }
        bar.finish_and_clear();
        let differs = match self.swap(connection, Word::Sums(sums.clone())).await? {
            Word::Sums(peer) => differing(&sums, &peer),
            other => return Err(self.out_of_step(&other)),
        };
        if differs.is_empty() {
            return print(&format!("ok  {} tables, the same on both\n", sums.len()));
        }
        Err(Fail::refused(format!(
            "{} tables are not the same on both: {}. Mend one server by the other (mariadb-backup, or a dump), and begin again",
            differs.len(),
            differs.join(", ")
        )))
    }

    async fn undo(&mut self, touched: &Touched, fail: Fail) -> Fail {
        if touched.sealed {
            let text = format!(
                "{}\nboth have the same, and whether {} knows that is not known here: look there. If it went on, or has {2} too, run this again on both; \
                 if it undid its part, rm {2} here, START SLAVE, and begin again on both",
                fail.text,
                self.peer,
                self.mark.display()
            );
            return Fail { text, ..fail };
        }
        let mut failed = vec![];
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
        let after = match (touched.replicates, failed.is_empty()) {
            (false, _) => "nothing was changed".to_owned(),
            (true, true) => "the server is as it was, its clients may come back".to_owned(),
            (true, false) => format!("NOT undone, do it by hand: {}", failed.join("; ")),
        };
        Fail { text: format!("{}\n{after}", fail.text), ..fail }
    }
}

/// What is undone where it goes no further.
#[derive(Default)]
struct Touched {
    writable: bool,
    replicates: bool,
    sealed: bool,
}

fn said(what: &str, failure: &Failure) -> Fail {
    Fail::refused(format!("{what}: {}", failure.words()))
}
