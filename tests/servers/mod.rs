//! The database pair in the lab: two real servers, and clients that write through the VIP and keep what they were told is committed.

#![allow(dead_code)] // each test uses its part

pub mod deaths;
mod elsewhere;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dre::database::DatabaseStatus;
use dre::snapshot::Status;
use elsewhere::Elsewhere;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use crate::lab::database::Product;
use crate::lab::judge::Verdict;
use crate::lab::node::Node;
use crate::lab::{Lab, net};
use crate::product::{NODES, configuration, install, ms, run, state_of};

pub const GROUP: &str = "mysql";
pub const VIP: &str = "172.16.10.71";
pub const SOON: Duration = Duration::from_secs(60);
/// A write that is not answered in this time is given up by its client: its outcome is not known.
const PATIENCE: Duration = Duration::from_millis(500);
const WRITERS: u32 = 4;

pub const FAST: &str = "interval_ms = 200\nmissed_max = 5";
/// Four clients with this pause make about 200 commits a second.
pub const TWO_HUNDRED: Duration = Duration::from_millis(18);

/// And with this one some 500: there is always one on its way.
pub const MANY: Duration = Duration::from_millis(5);

/// Harm done to a node.
pub type Deed = fn(&Node) -> Result<()>;

pub fn group(timing: &str, election: &str, database: &str) -> String {
    format!(
        r#"
{NODES}[heartbeat]
{timing}
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "{VIP}/16"
interface = "eth2"
label = "eth2:0"
broadcast = "172.16.255.255"
[election]
{election}
[database]
{database}
"#
    )
}

#[derive(Clone, Copy)]
enum SetUp {
    /// By statements: the accounts and tables, and how to replicate from a server at this address.
    ByHand { accounts: fn() -> String, follow: fn(&str) -> String },
    /// `drectl db bootstrap`, and the tables once the pair works.
    Bootstrap,
}

/// What the servers are, and how they are brought to replicate from each other.
pub struct Kind {
    pub name: &'static str,
    pub unit: &'static str,
    /// As Debian has it there: suite, package.
    from: (&'static str, &'static str),
    /// Where that is not the nodes' suite.
    elsewhere: Option<Elsewhere>,
    set_up: SetUp,
    /// After a crash it has in its log what no standby had acknowledged.
    pub keeps_what_nobody_acknowledged: bool,
}

pub const MARIADB: Kind = Kind {
    name: "database",
    unit: "mariadb.service",
    from: ("trixie", "mariadb-server"),
    elsewhere: None,
    set_up: SetUp::ByHand { accounts: || format!("{ACCOUNTS}{TABLES}RESET MASTER;"), follow: follow_mariadb },
    keeps_what_nobody_acknowledged: false,
};

pub const OLD_MARIADB: Kind = Kind {
    name: "MariaDB 10.11",
    from: ("bookworm", "mariadb-server"),
    elsewhere: Some(Elsewhere { unit: "mariadb.service", client: "mariadb", file: None }),
    set_up: SetUp::Bootstrap,
    ..MARIADB
};

pub const MYSQL: Kind = Kind {
    name: "MySQL",
    unit: "mysql.service",
    from: ("sid", "mysql-server"),
    // mysqld.cnf binds it to the loopback.
    elsewhere: Some(Elsewhere {
        unit: "mysql.service",
        client: "mysql",
        file: Some(("etc/mysql/mysql.conf.d/zz-dre.cnf", elsewhere::mysql_settings)),
    }),
    set_up: SetUp::ByHand { accounts: || elsewhere::MYSQL_ACCOUNTS.to_owned(), follow: follow_mysql },
    keeps_what_nobody_acknowledged: true,
};

fn follow_mariadb(peer: &str) -> String {
    format!(
        "CHANGE MASTER TO MASTER_HOST='{peer}', MASTER_USER='dre_repl', MASTER_PASSWORD='of-the-lab', MASTER_SSL=1, \
         MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=1"
    )
}

fn follow_mysql(peer: &str) -> String {
    format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{peer}', SOURCE_USER='dre_repl', SOURCE_PASSWORD='of-the-lab', SOURCE_SSL=1, \
         SOURCE_AUTO_POSITION=1, SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=0, SOURCE_HEARTBEAT_PERIOD=1"
    )
}

/// The server's part: what `drectl db check` demands.
fn settings(id: u32) -> String {
    format!(
        "[mysqld]\nbind-address = 0.0.0.0\nserver-id = {id}\nlog-bin = binlog\nlog_slave_updates = 1\nbinlog_format = ROW\n\
         gtid_strict_mode = 1\nsync_binlog = 1\ninnodb_flush_log_at_trx_commit = 1\nread_only = 1\nskip-slave-start = 1\n\
         relay_log_recovery = 1\nslave_parallel_threads = 4\nslave_net_timeout = 4\nskip-name-resolve = 1\n\
         rpl_semi_sync_slave_enabled = 1\nrpl_semi_sync_master_enabled = 0\nrpl_semi_sync_master_wait_point = AFTER_SYNC\n\
         rpl_semi_sync_master_wait_no_slave = OFF\nrpl_semi_sync_master_timeout = 2000\ninit-rpl-role = SLAVE\n\
         event_scheduler = OFF\ninnodb_buffer_pool_size = 32M\ninnodb_log_file_size = 16M\n"
    )
}

/// Made on both servers alike and written into no log: each begins with the same history, none.
const ACCOUNTS: &str = "
SET sql_log_bin = 0;
CREATE USER dre_repl@'172.16.%' IDENTIFIED BY 'of-the-lab' REQUIRE SSL;
GRANT REPLICATION SLAVE ON *.* TO dre_repl@'172.16.%';
CREATE USER dre_ctl@localhost IDENTIFIED VIA unix_socket;
GRANT REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, REPLICA MONITOR, BINLOG MONITOR, READ_ONLY ADMIN, CONNECTION ADMIN, PROCESS,
    RELOAD ON *.* TO dre_ctl@localhost;
GRANT CREATE, SELECT, INSERT, DELETE ON dre.* TO dre_ctl@localhost;
";

/// What clients write into.
pub const TABLES: &str = "
CREATE USER app@'%' IDENTIFIED BY 'of-the-lab';
CREATE DATABASE app;
CREATE TABLE app.t (writer INT, n BIGINT, PRIMARY KEY (writer, n)) ENGINE = InnoDB;
CREATE TABLE app.last (writer INT PRIMARY KEY, n BIGINT) ENGINE = InnoDB;
INSERT INTO app.last VALUES (0, 0), (1, 0), (2, 0), (3, 0);
GRANT SELECT, INSERT, UPDATE ON app.* TO app@'%';
";

pub fn sql(node: &Node, statement: &str) -> Result<String> {
    // Both products have a client of that name; MariaDB's own complains when it is called by it.
    let client = "exec $(command -v mariadb || command -v mysql) -N -B -e \"$1\"";
    let out = node.run_for(&["sh", "-c", client, "sql", statement], SOON)?;
    ensure!(out.ok(), "{}: {statement}: {}", node.name, out.stderr);
    Ok(out.stdout.trim().to_owned())
}

pub fn database(node: &Node) -> Result<DatabaseStatus> {
    let json = node.run(&["drectl", "-g", GROUP, "db", "status", "--json"])?;
    serde_json::from_str(&json).with_context(|| format!("{}: {json}", node.name))
}

/// Waits until the database of this node is as `fine` says.
pub fn database_is(
    node: &Node,
    what: &str,
    fine: impl Fn(&DatabaseStatus) -> bool,
) -> Result<DatabaseStatus> {
    let begun = Instant::now();
    loop {
        let seen = database(node);
        if let Ok(seen) = &seen
            && fine(seen)
        {
            return Ok(seen.clone());
        }
        ensure!(begun.elapsed() < SOON, "{}: not {what} within {SOON:?}: {seen:#?}", node.name);
        thread::sleep(ms(50));
    }
}

pub fn is_there(node: &Node) -> bool {
    node.is_on() && sql(node, "SELECT 1").is_ok()
}

/// This server replicates from the other node's.
pub fn replicates(node: &Node) -> Result<()> {
    follows(&MARIADB, node)
}

fn peer_of(node: &Node) -> &'static str {
    if node.name == "hadev1" { "172.16.11.55" } else { "172.16.11.54" }
}

fn follows(kind: &Kind, node: &Node) -> Result<()> {
    let SetUp::ByHand { follow, .. } = kind.set_up else { bail!("{} follows nobody by hand", kind.name) };
    sql(node, &follow(peer_of(node))).map(drop)
}

/// How a node came back whose database was away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// By itself, with the same rows.
    Back,
    /// It stands still until an operator decides, and says why.
    Stands { state: String, reason: String },
}

/// In these a server waits for an operator.
const STANDS: [&str; 4] = ["DIVERGED", "OWN_LOST", "PURGED", "SQL_STOPPED"];

pub struct Servers {
    pub lab: Lab,
}

impl Servers {
    pub fn start(timing: &str, election: &str, database: &str) -> Result<Self> {
        Self::start_with(&group(&format!("port = 1695\n{timing}"), election, database), |_| Ok(()))
    }

    /// Of this configuration, and with this done to each node's root before it boots.
    pub fn start_with(text: &str, more: impl Fn(&Path) -> Result<()>) -> Result<Self> {
        Self::of(&MARIADB, text, more)
    }

    /// The same with servers of that kind. The agent comes when its account is there.
    pub fn of(kind: &Kind, text: &str, more: impl Fn(&Path) -> Result<()>) -> Result<Self> {
        let product = Product::of(kind.from.0, kind.from.1)?;
        let lay = |root: &Path| -> Result<()> {
            install(root, &configuration(100, 5, ""))?;
            let name = std::fs::read_to_string(root.join("etc/hostname"))?;
            let id = if name.trim() == "hadev1" { 1 } else { 2 };
            match &kind.elsewhere {
                None => std::fs::write(root.join("etc/mysql/mariadb.conf.d/60-dre.cnf"), settings(id))?,
                Some(server) => elsewhere::lay(server, &product.root, root, id)?,
            }
            std::fs::write(root.join("etc/dre/mysql.toml"), text)?;
            more(root)?;
            let root = format!("--root={}", root.display());
            run(&["systemctl", &root, "enable", kind.unit])
        };
        let lab = Lab::builder().install(lay);
        let lab = match kind.elsewhere {
            None => lab.packages(crate::lab::database::PACKAGES),
            Some(_) => lab.show(&product.root, elsewhere::TREE),
        };
        let servers = Self { lab: lab.start()? };
        for node in servers.lab.nodes() {
            let begun = Instant::now();
            while let Err(error) = sql(node, "SELECT 1") {
                ensure!(begun.elapsed() < SOON, "{error:#}\n{}", servers.journals());
                thread::sleep(ms(100));
            }
            match kind.set_up {
                SetUp::ByHand { accounts, .. } => {
                    sql(node, &accounts())?;
                    follows(kind, node)?;
                }
                SetUp::Bootstrap => {
                    let out = node.run_for(&["drectl", "-g", GROUP, "db", "bootstrap", "--yes"], SOON)?;
                    ensure!(out.ok(), "{}: {}{}", node.name, out.stdout, out.stderr);
                }
            }
        }
        for node in servers.lab.nodes() {
            node.run(&["systemctl", "enable", "--now", "dre@mysql.service"])?;
        }
        let (active, _) = servers.settled()?;
        if matches!(kind.set_up, SetUp::Bootstrap) {
            sql(active, TABLES)?;
            servers.are_the_same()?;
        }
        Ok(servers)
    }

    /// One has the role and its server takes writes, the other replicates and could take over: who has it, and the other.
    fn works(&self) -> Result<(&Node, &Node)> {
        let [one, two] = self.lab.nodes();
        let (first, second) = (state_of(one, GROUP)?, state_of(two, GROUP)?);
        let (first_db, second_db) = (database(one)?, database(two)?);
        let fine = |own: &Status, other: &Status, db: &DatabaseStatus, peer: &DatabaseStatus| {
            own.role == "active"
                && own.vips.held == 1
                && own.vips.gate == "open"
                && !db.read_only
                && db.state == "OK"
                && peer.read_only
                && peer.state == "OK"
                && peer.why_not.is_empty()
                && other.role == "standby"
                && other.fit
                // As the other one last said, a heartbeat ago.
                && own.peer.fit
        };
        if fine(&first, &second, &first_db, &second_db) {
            return Ok((one, two));
        }
        if fine(&second, &first, &second_db, &first_db) {
            return Ok((two, one));
        }
        bail!("{first:#?}\n{first_db:#?}\n{second:#?}\n{second_db:#?}")
    }

    /// Waits until it works.
    pub fn settled(&self) -> Result<(&Node, &Node)> {
        self.settled_within(SOON)
    }

    pub fn settled_within(&self, limit: Duration) -> Result<(&Node, &Node)> {
        let begun = Instant::now();
        loop {
            match self.works() {
                Ok(pair) => return Ok(pair),
                Err(error) if begun.elapsed() > limit => {
                    bail!("no working pair within {limit:?}: {error:#}\n{}", self.journals());
                }
                Err(_) => thread::sleep(ms(50)),
            }
        }
    }

    /// Waits until the node is back in the pair, or stands still and says why. What it is not, ever: there with other rows.
    pub fn came(&self, node: &Node) -> Result<Came> {
        let begun = Instant::now();
        loop {
            if self.works().is_ok() {
                self.are_the_same()?;
                return Ok(Came::Back);
            }
            if let Ok(seen) = database(node)
                && STANDS.contains(&seen.state.as_str())
                && seen.since_ms > 5_000
            {
                ensure!(
                    !seen.reason.is_empty() && !seen.remedy.is_empty() && !seen.why_not.is_empty(),
                    "{}: it stands still and does not say why, or could still take over: {seen:#?}",
                    node.name
                );
                ensure!(seen.read_only, "{}: it stands still and takes writes: {seen:#?}", node.name);
                return Ok(Came::Stands { state: seen.state, reason: seen.reason });
            }
            ensure!(
                begun.elapsed() < SOON,
                "{}: neither back nor standing still with a reason: {:#?}\n{}",
                node.name,
                database(node),
                self.journals()
            );
            thread::sleep(ms(100));
        }
    }

    /// This MySQL server is made a copy of the peer's, as the README says it.
    pub fn made_a_copy(&self, kind: &Kind, node: &Node) -> Result<()> {
        node.run(&["systemctl", "stop", "dre-mysql@mysql"])?;
        sql(node, &elsewhere::mysql_copy_from(peer_of(node)))?;
        // It starts itself anew, and says then how it went.
        let begun = Instant::now();
        loop {
            let state = sql(node, "SELECT STATE FROM performance_schema.clone_status");
            if state.as_deref().is_ok_and(|state| state == "Completed") {
                break;
            }
            ensure!(begun.elapsed() < SOON, "the copy does not come up: {state:?}\n{}", self.journals());
            thread::sleep(ms(100));
        }
        follows(kind, node)?;
        node.run(&["systemctl", "start", "dre-mysql@mysql"])?;
        node.run(&["drectl", "-g", GROUP, "db", "reseeded"]).map(drop)
    }

    pub fn journals(&self) -> String {
        let of = |node: &Node| {
            let said = |argv: &[&str]| node.journal(argv).unwrap_or_else(|error| format!("{error:#}"));
            let page = node.run(&["drectl", "-g", GROUP, "db"]).unwrap_or_else(|error| format!("{error:#}"));
            let threads = sql(node, "SHOW FULL PROCESSLIST; SHOW SLAVE STATUS\\G");
            let threads = threads.unwrap_or_else(|error| format!("{error:#}"));
            let dre = said(&["-n80", "-u", "dre@mysql", "-u", "dre-vip@mysql", "-u", "dre-mysql@mysql"]);
            // (A server with a full disk says so many times a second.)
            let server = said(&["-n30", "-u", "mariadb", "-u", "mysql"]);
            [page, threads, dre, server].join("\n")
        };
        self.lab.nodes().map(of).join("\n----\n")
    }

    /// Clients write through the VIP meanwhile. Two MACs at once fail the run, always.
    pub fn under_load(
        &self,
        each: Duration,
        rest: Duration,
        deed: impl FnOnce() -> Result<()>,
    ) -> Result<(Acked, Verdict)> {
        let judge = self.lab.judge(VIP)?;
        let clients = Clients::start(&self.lab, each);
        thread::sleep(Duration::from_secs(2));
        let done = deed();
        thread::sleep(rest);
        let acked = clients.stop();
        let seen = judge.stop()?;
        done?;
        ensure!(seen.two_at_once().is_empty(), "two at once: {}\n{}", seen.summary(), self.journals());
        Ok((acked, seen))
    }

    /// The rows that a client was told are committed and that this node's server does not have.
    pub fn missing(node: &Node, acked: &Acked) -> Result<Vec<(u32, u64)>> {
        let rows = sql(node, &format!("SELECT writer, n FROM app.t WHERE n > {}", acked.first))?;
        let has: BTreeSet<(u32, u64)> = rows
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter_map(|(writer, n)| Some((writer.parse().ok()?, n.parse().ok()?)))
            .collect();
        Ok(acked.rows.difference(&has).copied().collect())
    }

    /// Every row that a client was told is committed is on this node's server.
    pub fn has_all(&self, node: &Node, acked: &Acked) -> Result<()> {
        let missing = Self::missing(node, acked)?;
        ensure!(
            missing.is_empty(),
            "{}: {} of {} acknowledged commits are missing: {:?}\n{}",
            node.name,
            missing.len(),
            acked.rows.len(),
            &missing[..missing.len().min(8)],
            self.journals()
        );
        Ok(())
    }

    /// Both servers have the same rows, within a while.
    pub fn are_the_same(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let sums = self.lab.nodes().map(|node| sql(node, "CHECKSUM TABLE app.t, app.last"));
            if let [Ok(one), Ok(two)] = &sums
                && one == two
            {
                return Ok(());
            }
            ensure!(begun.elapsed() < SOON, "the servers differ: {sums:?}\n{}", self.journals());
            thread::sleep(ms(200));
        }
    }

    /// The role goes to that node, if it has not got it.
    pub fn move_to(&self, node: &Node) -> Result<()> {
        let (active, _) = self.settled()?;
        if active.name != node.name {
            let told = active.run(&["drectl", "-g", GROUP, "switchover"]);
            told.with_context(|| self.journals())?;
            let (active, _) = self.settled()?;
            ensure!(active.name == node.name, "the role did not move to {}\n{}", node.name, self.journals());
        }
        Ok(())
    }
}

/// What was acknowledged, and how long nothing was.
#[derive(Default)]
pub struct Acked {
    /// All of its rows have higher numbers.
    pub first: u64,
    pub rows: BTreeSet<(u32, u64)>,
    pub at: Vec<Instant>,
    /// Writes that were refused, or not answered in time.
    pub broken: usize,
}

impl Acked {
    /// The longest time without an acknowledgement.
    pub fn gap(&self) -> Duration {
        let mut at = self.at.clone();
        at.sort_unstable();
        at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    pub fn gap_ms(&self) -> f64 {
        self.gap().as_secs_f64() * 1e3
    }
}

/// The numbers of a writer go on from run to run: a row is written once.
static NEXT: Mutex<u64> = Mutex::new(0);

/// Clients in the client's namespace, a connection each. A transaction has a new row and changes an old one: two histories that are
/// merged differ in it.
pub struct Clients {
    first: u64,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<Acked>>,
}

impl Clients {
    /// `each`: between two writes of a client.
    pub fn start(lab: &Lab, each: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let namespace = lab.net.ns("client");
        let mut next = NEXT.lock().expect("nobody panics");
        *next += 1_000_000;
        let first = *next;
        let threads = (0..WRITERS)
            .map(|writer| {
                let (stop, namespace) = (Arc::clone(&stop), namespace.clone());
                thread::spawn(move || {
                    net::in_netns(&namespace, || write(writer, first, each, &stop)).unwrap_or_default()
                })
            })
            .collect();
        Self { first, stop, threads }
    }

    pub fn stop(self) -> Acked {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Acked { first: self.first, ..Acked::default() };
        for thread in self.threads {
            let one = thread.join().unwrap_or_default();
            all.rows.extend(one.rows);
            all.at.extend(one.at);
            all.broken += one.broken;
        }
        all
    }
}

fn write(writer: u32, first: u64, each: Duration, stop: &AtomicBool) -> Acked {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut acked = Acked::default();
        let mut conn: Option<Conn> = None;
        let mut n = first;
        while !stop.load(Ordering::Relaxed) {
            if conn.is_none() {
                let opts = OptsBuilder::default()
                    .ip_or_hostname(VIP)
                    .user(Some("app"))
                    .pass(Some("of-the-lab"))
                    .prefer_socket(false);
                conn = tokio::time::timeout(PATIENCE, Conn::new(opts)).await.ok().and_then(Result::ok);
                if conn.is_none() {
                    tokio::time::sleep(ms(5)).await;
                    continue;
                }
            }
            let Some(open) = &mut conn else { continue };
            n += 1;
            let commit = open.query_drop(format!(
                "BEGIN; INSERT INTO app.t VALUES ({writer}, {n}); UPDATE app.last SET n = {n} WHERE writer = {writer}; COMMIT"
            ));
            match tokio::time::timeout(PATIENCE, commit).await {
                Ok(Ok(())) => {
                    acked.rows.insert((writer, n));
                    acked.at.push(Instant::now());
                }
                // Refused or not answered: a new connection, a new row.
                _ => {
                    acked.broken += 1;
                    conn = None;
                }
            }
            tokio::time::sleep(each).await;
        }
        acked
    })
}
