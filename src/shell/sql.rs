//! The own database server, over its local socket: one look at it, and each thing that may be done to it.
//!
//! No password: the account is the user this process runs as (`unix_socket`, `auth_socket`). Each session has one connection; one that
//! did not answer in time is thrown away and its thread killed from another, because what would be read from it next is the answer
//! to the old question, and because a statement that nobody waits for must not take effect later.
//!
//! Absent on purpose: when something is done, and what its failure means ([`crate::logic::db`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, Value};
use tokio::time::{Instant, timeout, timeout_at};

use crate::logic::db::facts::{
    Answer, Failure, Flavor, Gtids, Op, Probe, Receiver, Replica, SemiSync, Wrong,
};
use crate::logic::db::gtids::target;
use crate::logic::db::wanted;

mod adopt;
mod copy;
mod filters;
pub mod logs;
pub mod setup;

pub use copy::{CONNECTION_FILE, PLACE_FILES, Stands, answers, begin_from, history, stands};

/// Connecting over a local socket, and killing a thread.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Between two looks at what must not move any more.
const SETTLE: Duration = Duration::from_millis(15);
/// Connections ended by one round trip.
const KILLS: usize = 200;
/// What was sent first is in line first after this.
const IN_LINE: Duration = Duration::from_millis(5);
/// It ended by itself.
const NO_SUCH_THREAD: u16 = 1094;
/// MySQL: of a SYSTEM_USER, whom only another may end; super_read_only stops what it writes.
const NOT_OWNER: u16 = 1095;
/// No table, no database.
const TABLE_MISSING: [u16; 2] = [1146, 1049];

/// One connection to the server, made when it is needed.
pub struct Session {
    socket: PathBuf,
    user: String,
    unit: String,
    open: Option<(Conn, Flavor)>,
    /// What its log leaves out, as long as this connection lives: only a new start of the server changes that.
    unlogged: Option<filters::Settings>,
    /// The thread whose answer is waited for; still there when the work was dropped in the middle.
    waits_for: Option<u32>,
}

type Outcome<T> = Result<T, Failure>;

impl Session {
    /// `user`: the account, named as the operating system's user. `unit`: what is killed by [`Op::KillServer`].
    pub fn new(socket: &Path, user: &str, unit: &str) -> Self {
        Self {
            socket: socket.into(),
            user: user.into(),
            unit: unit.into(),
            open: None,
            unlogged: None,
            waits_for: None,
        }
    }

    fn opts(&self) -> OptsBuilder {
        OptsBuilder::default()
            .socket(Some(self.socket.display().to_string()))
            .user(Some(&self.user))
            .prefer_socket(true)
            .stmt_cache_size(Some(0))
    }

    async fn connect(&self) -> Outcome<(Conn, Flavor)> {
        let greeted = async {
            let mut conn = Conn::new(self.opts()).await?;
            let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
            let maria = version.is_some_and(|version| version.contains("MariaDB"));
            Ok((conn, if maria { Flavor::MariaDb } else { Flavor::MySql }))
        };
        match timeout(AT_ONCE, greeted).await {
            Err(_) => Err(Failure::Timeout),
            Ok(greeted) => greeted.map_err(|error: mysql_async::Error| failure(&error)),
        }
    }

    /// One look. Bounded by `within`.
    pub async fn probe(&mut self, within: Duration) -> Outcome<Box<Probe>> {
        let known = self.unlogged.take().filter(|_| self.open.is_some());
        let (probe, unlogged) = self
            .bounded(within, |mut conn, flavor| async move {
                let seen = async {
                    let unlogged = match known {
                        Some(known) => known,
                        None => filters::of_the_log(&mut conn, flavor).await?,
                    };
                    Ok((look(&mut conn, flavor, &unlogged).await?, unlogged))
                };
                let seen = seen.await;
                (conn, seen)
            })
            .await?;
        self.unlogged = Some(unlogged);
        Ok(probe)
    }

    /// One thing. Bounded by `within`; `Ok` if it was done.
    pub async fn carry_out(&mut self, op: Op, within: Duration) -> Outcome<Answer> {
        if op == Op::KillServer {
            return self.kill_server(within).await;
        }
        let opts = self.opts();
        self.bounded(within, move |mut conn, flavor| async move {
            let answer = act(&mut conn, flavor, op, within, opts).await;
            (conn, answer)
        })
        .await
    }

    /// The operation that is not waited for any longer: see the module.
    pub async fn abandon(&mut self) {
        if let Some(id) = self.waits_for.take() {
            self.end(id).await;
        }
    }

    async fn bounded<T, F>(&mut self, within: Duration, work: impl FnOnce(Conn, Flavor) -> F) -> Outcome<T>
    where
        F: Future<Output = (Conn, Outcome<T>)>,
    {
        let by = Instant::now() + within;
        self.abandon().await;
        let (conn, flavor) = match self.open.take() {
            Some(open) => open,
            None => timeout_at(by, self.connect()).await.unwrap_or(Err(Failure::Timeout))?,
        };
        self.waits_for = Some(conn.id());
        let Ok((conn, result)) = timeout_at(by, work(conn, flavor)).await else {
            self.abandon().await;
            return Err(Failure::Timeout);
        };
        self.waits_for = None;
        // A connection that the server closed is no connection.
        if !matches!(result, Err(Failure::Gone { .. })) {
            self.open = Some((conn, flavor));
        }
        result
    }

    /// Ends a thread whose answer nobody waits for.
    async fn end(&self, id: u32) {
        let kill = async {
            let (mut conn, _) = self.connect().await?;
            conn.query_drop(format!("KILL CONNECTION {id}")).await.map_err(|error| failure(&error))?;
            let _ = conn.disconnect().await;
            Ok::<_, Failure>(())
        };
        let _ = timeout(AT_ONCE, kill).await;
    }

    /// By systemd, which may be asked for this one thing of this one unit (config/50-dre.rules).
    async fn kill_server(&mut self, within: Duration) -> Outcome<Answer> {
        self.open = None;
        let unit = self.unit.clone();
        let kill = tokio::task::spawn_blocking(move || {
            std::process::Command::new("systemctl").args(["kill", "--signal=SIGKILL", &unit]).output()
        });
        match timeout(within, kill).await {
            Err(_) => Err(Failure::Timeout),
            Ok(Ok(Ok(output))) if output.status.success() => Ok(Answer::Done),
            Ok(Ok(Ok(output))) => {
                Err(Failure::Gone { text: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
            }
            Ok(Ok(Err(error))) => Err(Failure::Gone { text: error.to_string() }),
            Ok(Err(error)) => Err(Failure::Gone { text: error.to_string() }),
        }
    }
}

fn failure(error: &mysql_async::Error) -> Failure {
    match error {
        mysql_async::Error::Server(refused) => {
            Failure::Sql { errno: refused.code.into(), text: refused.message.clone() }
        }
        other => Failure::Gone { text: other.to_string() },
    }
}

async fn run(conn: &mut Conn, statement: &str) -> Outcome<()> {
    conn.query_drop(statement).await.map_err(|error| failure(&error))
}

/// A table of names and values.
async fn pairs(conn: &mut Conn, statement: &str) -> Outcome<BTreeMap<String, String>> {
    let rows: Vec<(String, Option<String>)> = conn.query(statement).await.map_err(|error| failure(&error))?;
    Ok(rows.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value.unwrap_or_default())).collect())
}

async fn first(conn: &mut Conn, statement: &str) -> Outcome<String> {
    let value: Option<Option<String>> = conn.query_first(statement).await.map_err(|error| failure(&error))?;
    Ok(value.flatten().unwrap_or_default())
}

/// A column as text, by any of its names: MySQL and MariaDB do not call them the same.
fn column(row: &Row, names: &[&str]) -> String {
    names
        .iter()
        .find_map(|name| match row.get_opt::<Value, _>(*name) {
            Some(Ok(Value::Bytes(bytes))) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Some(Ok(Value::NULL)) => Some(String::new()),
            Some(Ok(other)) => Some(other.as_sql(true).trim_matches('\'').to_owned()),
            _ => None,
        })
        .unwrap_or_default()
}

fn strange(what: &str, text: &str) -> Failure {
    Failure::Sql { errno: 0, text: format!("{what} is {text:?}: not understood") }
}

fn gtids(flavor: Flavor, what: &str, text: &str) -> Outcome<Gtids> {
    Gtids::parse(flavor, text).ok_or_else(|| strange(what, text))
}

/// All but the own one. MySQL's super_read_only stops everybody.
const ADMINS_MARIADB: &str = "SELECT GROUP_CONCAT(GRANTEE SEPARATOR ' ') FROM information_schema.USER_PRIVILEGES \
                              WHERE PRIVILEGE_TYPE = 'READ_ONLY ADMIN' AND GRANTEE NOT LIKE '\\'dre\\_ctl\\'@%'";

/// Beside what is demanded: what a look needs.
const LOOKED_AT: [&str; 10] = [
    "version",
    "server_uuid",
    "read_only",
    "super_read_only",
    "gtid_binlog_state",
    "gtid_slave_pos",
    "gtid_executed",
    "gtid_purged",
    "rpl_semi_sync_master_enabled",
    "rpl_semi_sync_source_enabled",
];

/// One statement for all of them.
fn variables() -> String {
    named(wanted::names().chain(LOOKED_AT).chain(wanted::names_of_filters()))
}

fn named(names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<String> = names.map(|name| format!("'{name}'")).collect();
    format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({})", names.join(","))
}

async fn look(conn: &mut Conn, flavor: Flavor, unlogged: &filters::Settings) -> Outcome<Box<Probe>> {
    let variables = pairs(conn, &variables()).await?;
    let of = |name: &str| variables.get(name).map_or("", String::as_str);
    let on = |name: &str| wanted::is_on(of(name));
    let status = pairs(conn, "SHOW GLOBAL STATUS WHERE Variable_name LIKE 'Rpl\\_semi\\_sync\\_%'").await?;
    let counted =
        |names: [&str; 2]| names.iter().find_map(|name| status.get(*name)).cloned().unwrap_or_default();
    let maria = flavor == Flavor::MariaDb;
    let row = filters::replication(conn, flavor).await?;
    let filtered = filters::found(&variables, row.as_ref(), unlogged);
    let replica = row.map(|row| replica(flavor, &row)).transpose()?;
    let has = gtids(flavor, "gtid state", of(if maria { "gtid_binlog_state" } else { "gtid_executed" }))?;
    let applied = gtids(flavor, "gtid position", of(if maria { "gtid_slave_pos" } else { "gtid_executed" }))?;
    // The accounts' table may be closed to this one: then nothing is known of them.
    let admins = if maria { first(conn, ADMINS_MARIADB).await.unwrap_or_default() } else { String::new() };
    Ok(Box::new(Probe {
        flavor,
        version: of("version").to_owned(),
        server_id: of("server_id").parse().unwrap_or(0),
        server_uuid: of("server_uuid").to_owned(),
        // Newer ones of MariaDB have degrees of it.
        read_only: if maria { !wanted::is_off(of("read_only")) } else { on("super_read_only") },
        has,
        applied,
        purged: gtids(flavor, "gtid_purged", if maria { "" } else { of("gtid_purged") })?,
        semi_sync: SemiSync {
            enabled: on("rpl_semi_sync_master_enabled") || on("rpl_semi_sync_source_enabled"),
            on: wanted::is_on(&counted(["rpl_semi_sync_master_status", "rpl_semi_sync_source_status"])),
            replicas: counted(["rpl_semi_sync_master_clients", "rpl_semi_sync_source_clients"])
                .parse()
                .unwrap_or(0),
        },
        waiters: counted(["rpl_semi_sync_master_wait_sessions", "rpl_semi_sync_source_wait_sessions"])
            .parse()
            .unwrap_or(0),
        replica,
        wrong: wanted::wrong(flavor, &variables).into_iter().chain(filtered).collect(),
        admins: admins.split_whitespace().map(str::to_owned).collect(),
    }))
}

fn replica(flavor: Flavor, row: &Row) -> Outcome<Replica> {
    let text = |names: &[&str]| column(row, names);
    let number = |names: &[&str]| text(names).parse::<u64>().unwrap_or(0);
    let small = |names: &[&str]| u32::try_from(number(names)).unwrap_or(0);
    let received = match flavor {
        Flavor::MariaDb => gtids(flavor, "Gtid_IO_Pos", &text(&["Gtid_IO_Pos"]))?,
        Flavor::MySql => gtids(flavor, "Retrieved_Gtid_Set", &text(&["Retrieved_Gtid_Set"]))?,
    };
    let using = text(&["Using_Gtid", "Auto_Position"]);
    Ok(Replica {
        host: text(&["Master_Host", "Source_Host"]),
        port: u16::try_from(number(&["Master_Port", "Source_Port"])).unwrap_or(0),
        source_id: small(&["Master_Server_Id", "Source_Server_Id"]),
        receiver: match text(&["Slave_IO_Running", "Replica_IO_Running"]).as_str() {
            "Yes" => Receiver::Connected,
            // MariaDB says "Preparing" too.
            "No" => Receiver::Stopped,
            _ => Receiver::Connecting,
        },
        applier: text(&["Slave_SQL_Running", "Replica_SQL_Running"]) == "Yes",
        receiver_errno: small(&["Last_IO_Errno"]),
        receiver_error: text(&["Last_IO_Error"]),
        applier_errno: small(&["Last_SQL_Errno"]),
        applier_error: text(&["Last_SQL_Error"]),
        received,
        read: (
            text(&["Master_Log_File", "Source_Log_File"]),
            number(&["Read_Master_Log_Pos", "Read_Source_Log_Pos"]),
        ),
        using_gtid: !matches!(using.as_str(), "" | "No" | "0"),
    })
}

/// The own connections and the replication's are never killed.
const CLIENTS: &str = "SELECT ID, USER FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() \
                       AND USER NOT IN ('system user', 'event_scheduler', SUBSTRING_INDEX(CURRENT_USER(), '@', 1)) \
                       AND COMMAND NOT LIKE 'Binlog Dump%' AND COMMAND <> 'Daemon'";

const REPLICAS: &str = "SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'";

/// The clients' connections, but those of the accounts to keep; `and`: which of them.
async fn clients(conn: &mut Conn, and: &str, keep: &[String]) -> Outcome<Vec<u64>> {
    let found: Vec<(u64, String)> =
        conn.query(format!("{CLIENTS} {and}")).await.map_err(|error| failure(&error))?;
    Ok(found.into_iter().filter(|(_, user)| !keep.contains(user)).map(|(id, _)| id).collect())
}

/// Ends connections, many a round trip. One that has ended by itself is as good.
async fn kill(conn: &mut Conn, flavor: Flavor, ids: &[u64]) -> Outcome<()> {
    let mut rest = ids;
    while !rest.is_empty() {
        let some = &rest[..rest.len().min(KILLS)];
        let text: Vec<String> = some.iter().map(|id| format!("KILL CONNECTION {id}")).collect();
        match in_turn(conn, &text).await {
            Ok(()) => rest = &rest[some.len()..],
            Err((at, mysql_async::Error::Server(refused)))
                if refused.code == NO_SUCH_THREAD
                    || (refused.code == NOT_OWNER && flavor == Flavor::MySql) =>
            {
                rest = &rest[at + 1..];
            }
            Err((_, error)) => return Err(failure(&error)),
        }
    }
    Ok(())
}

/// Several statements without results; if one is refused, its place. Those after it were not done.
async fn in_turn(conn: &mut Conn, statements: &[String]) -> Result<(), (usize, mysql_async::Error)> {
    let mut results = conn.query_iter(statements.join(";")).await.map_err(|error| (0, error))?;
    for n in 0..statements.len() {
        results.next().await.map_err(|error| (n, error))?;
    }
    Ok(())
}

/// MySQL's commits that wait for an acknowledgement go on waiting when their connections are killed, whatever the timeout is set to
/// meanwhile. So first every client loses its connection, and who comes anew stands in line behind super_read_only, which stands in line
/// behind the commits; then these are let go, and there is nobody whom they could tell that all is well. Letting them go takes no time,
/// but both statements return up to a second later, when the thread that reads acknowledgements has stopped.
async fn free_mysql(conn: &mut Conn, opts: OptsBuilder) -> Outcome<()> {
    let mut other = Conn::new(opts).await.map_err(|error| failure(&error))?;
    run(&mut other, "SET SESSION lock_wait_timeout=2").await?;
    let stop = run(&mut other, "SET GLOBAL super_read_only=1");
    let free = async {
        tokio::time::sleep(IN_LINE).await;
        let all = clients(conn, "", &[]).await?;
        kill(conn, Flavor::MySql, &all).await?;
        run(conn, "SET GLOBAL rpl_semi_sync_source_enabled=0").await
    };
    let (stopped, freed) = tokio::join!(stop, free);
    freed.and(stopped)
}

async fn act(
    conn: &mut Conn,
    flavor: Flavor,
    op: Op,
    within: Duration,
    opts: OptsBuilder,
) -> Outcome<Answer> {
    let maria = flavor == Flavor::MariaDb;
    let either = |first: &'static str, second: &'static str| if maria { first } else { second };
    match op {
        Op::ReadOnly if maria => {
            let bound = within.as_secs_f64() * 0.8;
            run(conn, &format!("SET STATEMENT max_statement_time={bound:.3} FOR SET GLOBAL read_only=1"))
                .await?;
        }
        Op::ReadOnly => {
            run(conn, "SET SESSION lock_wait_timeout=1").await?;
            run(conn, "SET GLOBAL super_read_only=1").await?;
        }
        Op::Writable if maria => run(conn, "SET GLOBAL read_only=0").await?,
        Op::Writable => {
            run(conn, "SET GLOBAL super_read_only=0").await?;
            run(conn, "SET GLOBAL read_only=0").await?;
        }
        Op::KillClients { keep } => {
            let ids = clients(conn, "", &keep).await?;
            kill(conn, flavor, &ids).await?;
        }
        Op::KillWaiters if maria => {
            let ids = clients(conn, "AND STATE LIKE '%semi-sync ACK%'", &[]).await?;
            kill(conn, flavor, &ids).await?;
        }
        Op::KillWaiters => free_mysql(conn, opts).await?,
        Op::EndReplicas => {
            let found = conn.query(REPLICAS).await.map_err(|error| failure(&error))?;
            kill(conn, flavor, &found).await?;
        }
        Op::StartApplier => run(conn, either("START SLAVE SQL_THREAD", "START REPLICA SQL_THREAD")).await?,
        Op::StopReceiver => run(conn, either("STOP SLAVE IO_THREAD", "STOP REPLICA IO_THREAD")).await?,
        Op::StartReplication => run(conn, either("START SLAVE", "START REPLICA")).await?,
        Op::StopReplication => run(conn, either("STOP SLAVE", "STOP REPLICA")).await?,
        Op::Position { at } if maria => {
            run(conn, &format!("SET GLOBAL gtid_slave_pos = '{}'", target(&at))).await?;
        }
        // MySQL's own set of transactions is its position.
        Op::Position { .. } => {}
        Op::WaitApplied { target } => wait_applied(conn, flavor, &target, within).await?,
        Op::SemiSync { source, timeout_ms, wait_without_replica } => {
            let (name, alone) = (either("master", "source"), either("no_slave", "no_replica"));
            let (on, waits) = (u8::from(source), u8::from(wait_without_replica));
            run(
                conn,
                &format!(
                    "SET GLOBAL rpl_semi_sync_{name}_timeout={timeout_ms}, GLOBAL rpl_semi_sync_{name}_wait_{alone}={waits}, \
                     GLOBAL rpl_semi_sync_{name}_enabled={on}"
                ),
            )
            .await?;
        }
        Op::WriteTest => write_test(conn).await?,
        Op::Settled => {
            let what = either("SELECT @@global.gtid_binlog_state", "SELECT @@global.gtid_executed");
            let before = first(conn, what).await?;
            tokio::time::sleep(SETTLE).await;
            let after = first(conn, what).await?;
            if before != after {
                return Err(Failure::Moving);
            }
            return Ok(Answer::Has(gtids(flavor, "gtid state", &after)?));
        }
        Op::KillServer => unreachable!("is no statement"),
    }
    Ok(Answer::Done)
}

async fn wait_applied(conn: &mut Conn, flavor: Flavor, wanted: &Gtids, within: Duration) -> Outcome<()> {
    let maria = flavor == Flavor::MariaDb;
    let state = if maria { "SELECT @@global.gtid_binlog_state" } else { "SELECT @@global.gtid_executed" };
    // What is here already is not waited for: MariaDB's wait looks at what came by replication alone, not at the server's own.
    if gtids(flavor, "gtid state", &first(conn, state).await?)?.covers(wanted) {
        return Ok(());
    }
    // Less than the caller's own bound: its end must be the server's word, not a connection thrown away.
    let seconds = (within.as_secs_f64() * 0.9).max(0.05);
    let text = target(wanted);
    let wait = match flavor {
        Flavor::MariaDb => format!("SELECT MASTER_GTID_WAIT('{text}', {seconds:.3})"),
        Flavor::MySql => format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{text}', {seconds:.3})"),
    };
    if first(conn, &wait).await? == "0" { Ok(()) } else { Err(Failure::Timeout) }
}

async fn write_test(conn: &mut Conn) -> Outcome<()> {
    const WRITE: &str = "REPLACE INTO dre.heartbeat (server_id, ts) VALUES (@@server_id, NOW(6))";
    match run(conn, WRITE).await {
        Err(Failure::Sql { errno, .. })
            if TABLE_MISSING.iter().any(|missing| u32::from(*missing) == errno) =>
        {
            run(conn, "CREATE DATABASE IF NOT EXISTS dre").await?;
            run(
                conn,
                "CREATE TABLE IF NOT EXISTS dre.heartbeat (server_id INT UNSIGNED PRIMARY KEY, ts TIMESTAMP(6) NOT NULL) ENGINE=InnoDB",
            )
            .await?;
            run(conn, WRITE).await
        }
        other => other,
    }
}

/// What `drectl db check` says of a server that it asks itself, without the agent.
pub async fn check(socket: &Path, user: &str, within: Duration) -> Outcome<(Flavor, String, Vec<Wrong>)> {
    let probe = Session::new(socket, user, "").probe(within).await?;
    Ok((probe.flavor, probe.version, probe.wrong))
}
