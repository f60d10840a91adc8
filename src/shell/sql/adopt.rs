//! A server of a pair that was made by hand, seen and made still by root: for `drectl db adopt`.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::{Outcome, Session, column, failure, pairs, run};
use crate::logic::db::adopt::{Source, Stance};
use crate::logic::db::facts::{Failure, Flavor};
use crate::logic::db::wanted;

const LOOKED_AT: &str = "'version','server_id','log_bin','log_bin_basename','read_only','gtid_binlog_state','gtid_slave_pos',\
                         'event_scheduler','slave_exec_mode','slave_skip_errors'";
const SOMEBODYS: &str =
    "NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', '#mysql50#lost+found')";
/// The product's own, which come in by the local socket; dre's own is made to.
const OWN_ACCOUNTS: &str = "'\\'root\\'@\\'localhost\\'', '\\'mysql\\'@\\'localhost\\'', '\\'mariadb.sys\\'@\\'localhost\\'', \
                            '\\'dre_ctl\\'@\\'localhost\\''";
/// REPLICATION SLAVE, in `mysql.global_priv`; and with it BINLOG MONITOR (REPLICATION CLIENT), REPLICA MONITOR.
const REPLICATES: u64 = 1 << 19;
const MAY_LOOK: u64 = REPLICATES | 1 << 20 | 1 << 37;
/// Of a role, which no other table tells of.
const READ_ONLY_ADMIN: u64 = 1 << 33;
/// Since this version SUPER does not contain READ ONLY ADMIN.
const SUPER_IS_LESS: (u32, u32) = (10, 11);

/// What a database, or a server, has beside rows: a name, and all that it is made of. What differs between two servers that replicate
/// is left out: when an event ran, and on which of them it is enabled.
const DEFINED: [&str; 4] = [
    "SELECT CONCAT('view ', TABLE_SCHEMA, '.', TABLE_NAME), \
     CONCAT_WS('\n', VIEW_DEFINITION, CHECK_OPTION, DEFINER, SECURITY_TYPE) FROM information_schema.VIEWS WHERE TABLE_SCHEMA",
    "SELECT CONCAT('trigger ', TRIGGER_SCHEMA, '.', TRIGGER_NAME), \
     CONCAT_WS('\n', EVENT_OBJECT_TABLE, ACTION_TIMING, EVENT_MANIPULATION, ACTION_ORDER, ACTION_STATEMENT, SQL_MODE, DEFINER) \
     FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA",
    "SELECT CONCAT('event ', EVENT_SCHEMA, '.', EVENT_NAME), \
     CONCAT_WS('\n', EVENT_TYPE, EXECUTE_AT, INTERVAL_VALUE, INTERVAL_FIELD, EVENT_DEFINITION, SQL_MODE, TIME_ZONE, DEFINER) \
     FROM information_schema.EVENTS WHERE EVENT_SCHEMA",
    "SELECT CONCAT(LOWER(type), ' ', db, '.', name), \
     CONCAT_WS('\n', param_list, returns, body, is_deterministic, sql_data_access, security_type, sql_mode, definer) \
     FROM mysql.proc WHERE db",
];

impl Session {
    pub async fn stance(&mut self, node: &str, within: Duration) -> Outcome<Stance> {
        self.bounded(within, |mut conn, flavor| async move {
            let seen = seen(&mut conn, flavor, node).await;
            (conn, seen)
        })
        .await
    }

    /// What clients cannot stop any more: both threads of replication end.
    pub async fn stop_replicating(&mut self, within: Duration) -> Outcome<()> {
        self.one("STOP SLAVE", within).await
    }

    pub async fn start_replicating(&mut self, within: Duration) -> Outcome<()> {
        self.one("START SLAVE", within).await
    }

    async fn one(&mut self, statement: &'static str, within: Duration) -> Outcome<()> {
        self.bounded(within, move |mut conn, _| async move {
            let done = run(&mut conn, statement).await;
            (conn, done)
        })
        .await
    }

    /// Each table that is somebody's.
    pub async fn tables(&mut self, within: Duration) -> Outcome<Vec<(String, String)>> {
        self.bounded(within, |mut conn, _| async move {
            let asked = format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') AND \
                 TABLE_SCHEMA {SOMEBODYS} ORDER BY 1, 2"
            );
            let found = conn.query(asked).await.map_err(|error| failure(&error));
            (conn, found)
        })
        .await
    }

    /// Of all its rows. As long as it takes, which `within` must allow for.
    pub async fn sum(&mut self, (schema, table): &(String, String), within: Duration) -> Outcome<String> {
        let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
        let statement = format!("CHECKSUM TABLE {}.{}", quoted(schema), quoted(table));
        self.bounded(within, |mut conn, _| async move {
            let sum = async {
                let row: Option<Row> = conn.query_first(statement).await.map_err(|error| failure(&error))?;
                let sum = row.map_or_else(String::new, |row| column(&row, &["Checksum"]));
                if sum.is_empty() {
                    return Err(unsummed(&mut conn).await);
                }
                Ok(sum)
            }
            .await;
            (conn, sum)
        })
        .await
    }

    /// Views, triggers, events, routines and accounts with their rights: each one's name, and the hash of what it is.
    pub async fn definitions(&mut self, within: Duration) -> Outcome<Vec<(String, String)>> {
        self.bounded(within, |mut conn, _| async move {
            let found = definitions(&mut conn).await;
            (conn, found)
        })
        .await
    }
}

/// A table that cannot be opened has no sum, and only a warning says so.
async fn unsummed(conn: &mut Conn) -> Failure {
    let warned: Result<Option<Row>, _> = conn.query_first("SHOW WARNINGS").await;
    let why = warned.ok().flatten().map(|row| column(&row, &["Message"])).unwrap_or_default();
    Failure::Sql { errno: 0, text: format!("it has no sum: {why}") }
}

async fn seen(conn: &mut Conn, flavor: Flavor, node: &str) -> Outcome<Stance> {
    let asked = format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({LOOKED_AT})");
    let variables = pairs(conn, &asked).await?;
    let of = |name: &str| variables.get(name).map_or("", String::as_str);
    let is_mariadb = flavor == Flavor::MariaDb;
    let shows = if is_mariadb { "SHOW SLAVE STATUS" } else { "SHOW REPLICA STATUS" };
    let row: Option<Row> = conn.query_first(shows).await.map_err(|error| failure(&error))?;
    let data = format!("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME {SOMEBODYS}");
    let data: Vec<String> = conn.query(data).await.map_err(|error| failure(&error))?;
    let mut filters = row.as_ref().map_or_else(Vec::new, |row| set(row, "Replicate_"));
    let mut admins = vec![];
    if is_mariadb {
        let log: Option<Row> =
            conn.query_first("SHOW MASTER STATUS").await.map_err(|error| failure(&error))?;
        filters.extend(log.as_ref().map_or_else(Vec::new, |row| set(row, "Binlog_")));
        admins = conn.query(admins_of(of("version"))).await.map_err(|error| failure(&error))?;
    }
    for (name, harmless) in [("slave_exec_mode", "STRICT"), ("slave_skip_errors", "OFF")] {
        if !matches!(of(name), "") && !of(name).eq_ignore_ascii_case(harmless) {
            filters.push(format!("{name} = {}", of(name)));
        }
    }
    Ok(Stance {
        node: node.to_owned(),
        version: of("version").to_owned(),
        is_mariadb,
        server_id: of("server_id").parse().unwrap_or(0),
        writes_log: wanted::is_on(of("log_bin")),
        read_only: !wanted::is_off(of("read_only")),
        state: of("gtid_binlog_state").to_owned(),
        applied: of("gtid_slave_pos").to_owned(),
        source: row.as_ref().map(source),
        data,
        log: of("log_bin_basename").to_owned(),
        admins,
        runs_events: wanted::is_on(of("event_scheduler")),
        filters,
    })
}

/// The columns of that beginning that say something.
fn set(row: &Row, beginning: &str) -> Vec<String> {
    let names = row.columns_ref().iter().map(|column| column.name_str().into_owned());
    names
        .filter(|name| name.starts_with(beginning))
        .map(|name| (column(row, &[&name]), name))
        .filter(|(value, _)| !value.is_empty())
        .map(|(value, name)| format!("{name} = {value}"))
        .collect()
}

/// Who writes through read_only, and is not locked.
fn admins_of(version: &str) -> String {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let more = if version < SUPER_IS_LESS { ", 'SUPER'" } else { "" };
    format!(
        "SELECT GRANTEE FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE IN ('READ_ONLY ADMIN'{more}) \
         AND GRANTEE NOT IN ({OWN_ACCOUNTS}) AND GRANTEE NOT IN (SELECT CONCAT('\\'', User, '\\'@\\'', Host, '\\'') FROM mysql.global_priv \
         WHERE JSON_VALUE(Priv, '$.account_locked') IN ('1', 'true')) \
         UNION SELECT CONCAT('role \\'', User, '\\'') FROM mysql.global_priv \
         WHERE JSON_VALUE(Priv, '$.is_role') IN ('1', 'true') AND JSON_VALUE(Priv, '$.access') & {READ_ONLY_ADMIN} <> 0 \
         AND (User = 'PUBLIC' OR User IN (SELECT Role FROM mysql.roles_mapping WHERE User <> 'root')) ORDER BY 1"
    )
}

async fn definitions(conn: &mut Conn) -> Outcome<Vec<(String, String)>> {
    let mut all = vec![];
    for asked in DEFINED {
        let found: Vec<(String, Option<String>)> =
            conn.query(format!("{asked} {SOMEBODYS} ORDER BY 1")).await.map_err(|error| failure(&error))?;
        all.extend(found.into_iter().map(|(name, text)| (name, hash(&text.unwrap_or_default()))));
    }
    // Those that only replicate are each server's own: they may name the peer's address.
    let accounts = format!(
        "SELECT IF(Host = '', CONCAT('\\'', User, '\\''), CONCAT('\\'', User, '\\'@\\'', Host, '\\'')) AS account FROM mysql.global_priv \
         WHERE CONCAT('\\'', User, '\\'@\\'', Host, '\\'') NOT IN ({OWN_ACCOUNTS}) AND User NOT IN ('PUBLIC', 'dre_repl', 'debian-sys-maint') \
         AND NOT (JSON_VALUE(Priv, '$.access') & {REPLICATES} <> 0 AND JSON_VALUE(Priv, '$.access') & ~{MAY_LOOK} = 0) ORDER BY 1"
    );
    let accounts: Vec<String> = conn.query(accounts).await.map_err(|error| failure(&error))?;
    for account in accounts {
        let mut rights: Vec<String> =
            conn.query(format!("SHOW GRANTS FOR {account}")).await.map_err(|error| failure(&error))?;
        // In the order of the server's memory.
        rights.sort_unstable();
        all.push((format!("account {account}"), hash(&rights.join("\n"))));
    }
    Ok(all)
}

fn hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn source(row: &Row) -> Source {
    let text = |names: &[&str]| column(row, names);
    let errors = ["Last_IO_Error", "Last_SQL_Error"].map(|name| text(&[name]));
    Source {
        host: text(&["Master_Host", "Source_Host"]),
        server_id: text(&["Master_Server_Id", "Source_Server_Id"]).parse().unwrap_or(0),
        receives: text(&["Slave_IO_Running", "Replica_IO_Running"]) == "Yes",
        applies: text(&["Slave_SQL_Running", "Replica_SQL_Running"]) == "Yes",
        error: errors.into_iter().filter(|error| !error.is_empty()).collect::<Vec<_>>().join("; "),
        behind: text(&["Seconds_Behind_Master", "Seconds_Behind_Source"]).parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn super_writes_through_read_only_before_10_11_alone() {
        for (version, is_less) in
            [("10.6.21-MariaDB", false), ("10.11.14-MariaDB-log", true), ("11.8.9-MariaDB", true)]
        {
            assert_eq!(admins_of(version).contains("'SUPER'"), !is_less, "{version}");
        }
    }
}
