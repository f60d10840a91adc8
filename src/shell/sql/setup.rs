//! A server that is to be one of a pair, before there is an agent: what is in it, and each thing that `drectl db bootstrap` does to it.
//!
//! As root, who comes in by the local socket. What is done goes into no log, neither the binary one nor the general one; the
//! password is in the statement alone.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use zeroize::Zeroizing;

use super::{Outcome, Session, column, failure, first, pairs, run};
use crate::logic::db::facts::{Failure, Flavor};

/// The agent is told in the same moment to replicate: its threads are stopped again so often.
const TRIES: u32 = 5;
/// MariaDB: replication runs.
const RUNNING: u32 = 1198;

/// What is in a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub flavor: Flavor,
    pub version: String,
    /// What is somebody's data: databases, and tables where only the product's or dre's own should be.
    pub data: Vec<String>,
    /// It takes part in a pair, or did: dre's own database is there, or a position that it replicated up to.
    pub used: bool,
    /// host:port that it replicates from.
    pub source: Option<String>,
    pub directory: PathBuf,
    /// The authority's certificate that it runs with; empty: none.
    pub authority: String,
    /// TLS can be had.
    pub tls: bool,
}

/// The account that the peer replicates by.
pub struct Account {
    pub name: &'static str,
    /// From where it comes in.
    pub hosts: Vec<IpAddr>,
    pub password: Zeroizing<String>,
}

/// From whom to replicate.
pub struct Source<'a> {
    pub host: IpAddr,
    pub port: u16,
    pub account: &'a Account,
    /// What its certificate must be signed by.
    pub authority: &'a Path,
}

/// What the agent may do, and no more.
const AGENT_MAY: &str = "REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, REPLICA MONITOR, BINLOG MONITOR, READ_ONLY ADMIN, \
                         CONNECTION ADMIN, PROCESS, RELOAD";

/// `lost+found` is there where the data have a file system of their own.
const DATABASES: &str = "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME NOT IN \
                         ('mysql', 'sys', 'information_schema', 'performance_schema', 'test', 'dre', '#mysql50#lost+found')";
const TABLES: &str = "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'test' \
                      OR (TABLE_SCHEMA = 'dre' AND TABLE_NAME <> 'heartbeat') LIMIT 8";

impl Session {
    /// What is in it. Changes nothing.
    pub async fn survey(&mut self, within: Duration) -> Outcome<Survey> {
        self.bounded(within, |mut conn, flavor| async move {
            let survey = survey(&mut conn, flavor).await;
            (conn, survey)
        })
        .await
    }

    /// The agent's account, without a password, and that of the peer; what is left of earlier hosts of it is dropped.
    pub async fn make_accounts(&mut self, agent: &str, peer: &Account, within: Duration) -> Outcome<()> {
        let mut statements = vec![
            format!("CREATE USER IF NOT EXISTS {agent}@localhost IDENTIFIED VIA unix_socket"),
            format!("ALTER USER {agent}@localhost IDENTIFIED VIA unix_socket"),
            format!("GRANT {AGENT_MAY} ON *.* TO {agent}@localhost"),
            format!("GRANT CREATE, SELECT, INSERT, DELETE ON dre.* TO {agent}@localhost"),
        ];
        let (name, password) = (peer.name, peer.password.as_str());
        let mut secret = vec![];
        for host in &peer.hosts {
            statements.push(format!("CREATE USER IF NOT EXISTS {name}@'{host}' REQUIRE SSL"));
            secret.push(Zeroizing::new(format!(
                "ALTER USER {name}@'{host}' IDENTIFIED BY '{password}' REQUIRE SSL"
            )));
            secret.push(Zeroizing::new(format!("GRANT REPLICATION SLAVE ON *.* TO {name}@'{host}'")));
        }
        let hosts: Vec<String> = peer.hosts.iter().map(ToString::to_string).collect();
        self.bounded(within, |mut conn, _| async move {
            let done = async {
                unlogged(&mut conn).await?;
                for statement in &statements {
                    run(&mut conn, statement).await?;
                }
                for statement in &secret {
                    run(&mut conn, statement).await.map_err(|failure| without(failure, password))?;
                }
                let found: Vec<String> = conn
                    .query(format!("SELECT Host FROM mysql.user WHERE User = '{name}'"))
                    .await
                    .map_err(|error| failure(&error))?;
                for host in found.iter().filter(|host| !hosts.contains(host)) {
                    run(&mut conn, &format!("DROP USER {name}@'{}'", host.replace('\'', "''"))).await?;
                }
                Ok(())
            }
            .await;
            (conn, done)
        })
        .await
    }

    /// Both servers begin with the same data, none, and with the same history, none.
    pub async fn begin_history(&mut self, within: Duration) -> Outcome<()> {
        self.statements(within, &["RESET MASTER", "SET GLOBAL gtid_slave_pos = ''"]).await
    }

    /// From whom it replicates when the agent says so; it does not begin to.
    pub async fn replicate_from(&mut self, source: &Source<'_>, within: Duration) -> Outcome<()> {
        let password = source.account.password.as_str();
        let change = Zeroizing::new(format!(
            "CHANGE MASTER TO MASTER_HOST='{}', MASTER_PORT={}, MASTER_USER='{}', MASTER_PASSWORD='{password}', MASTER_SSL=1, \
             MASTER_SSL_CA='{}', MASTER_SSL_VERIFY_SERVER_CERT=1, MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, \
             MASTER_HEARTBEAT_PERIOD=1",
            source.host,
            source.port,
            source.account.name,
            source.authority.display()
        ));
        self.bounded(within, |mut conn, _| async move {
            let done = async {
                unlogged(&mut conn).await?;
                for left in (0..TRIES).rev() {
                    run(&mut conn, "STOP SLAVE").await?;
                    match run(&mut conn, &change).await {
                        Err(Failure::Sql { errno: RUNNING, .. }) if left > 0 => {}
                        other => return other.map_err(|failure| without(failure, password)),
                    }
                }
                Ok(())
            }
            .await;
            (conn, done)
        })
        .await
    }

    /// What it shows to those that connect from now on is what the files have.
    pub async fn load_certificates(&mut self, within: Duration) -> Outcome<()> {
        self.statements(within, &["FLUSH SSL"]).await
    }

    async fn statements(&mut self, within: Duration, statements: &'static [&str]) -> Outcome<()> {
        self.bounded(within, move |mut conn, _| async move {
            let done = async {
                unlogged(&mut conn).await?;
                for statement in statements {
                    run(&mut conn, statement).await?;
                }
                Ok(())
            }
            .await;
            (conn, done)
        })
        .await
    }
}

/// For the rest of the connection.
async fn unlogged(conn: &mut Conn) -> Outcome<()> {
    run(conn, "SET SESSION sql_log_bin=0, SESSION sql_log_off=1, SESSION slow_query_log=0").await
}

/// A server that does not understand a statement quotes it.
fn without(failure: Failure, secret: &str) -> Failure {
    match failure {
        Failure::Sql { errno, text } => Failure::Sql { errno, text: text.replace(secret, "…") },
        Failure::Gone { text } => Failure::Gone { text: text.replace(secret, "…") },
        other => other,
    }
}

async fn survey(conn: &mut Conn, flavor: Flavor) -> Outcome<Survey> {
    let maria = flavor == Flavor::MariaDb;
    let mut data: Vec<String> = conn.query(DATABASES).await.map_err(|error| failure(&error))?;
    let tables: Vec<String> = conn.query(TABLES).await.map_err(|error| failure(&error))?;
    data.extend(tables);
    let own =
        first(conn, "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'dre'").await?;
    let shows = if maria { "SHOW SLAVE STATUS" } else { "SHOW REPLICA STATUS" };
    let row: Option<Row> = conn.query_first(shows).await.map_err(|error| failure(&error))?;
    let variables = pairs(
        conn,
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'datadir', 'gtid_slave_pos', 'gtid_executed', 'ssl_ca', 'have_ssl')",
    )
    .await?;
    let of = |name: &str| variables.get(name).map_or("", String::as_str);
    Ok(Survey {
        flavor,
        version: of("version").to_owned(),
        data,
        used: own != "0" || !of("gtid_slave_pos").is_empty(),
        source: row.map(|row| {
            let text = |names: &[&str]| column(&row, names);
            format!("{}:{}", text(&["Master_Host", "Source_Host"]), text(&["Master_Port", "Source_Port"]))
        }),
        directory: PathBuf::from(of("datadir")),
        authority: of("ssl_ca").to_owned(),
        tls: of("have_ssl") == "YES",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_does_not_quote_the_password() {
        let failure = Failure::Sql { errno: 1064, text: "near 's3cret' REQUIRE SSL".into() };
        assert_eq!(
            without(failure, "s3cret"),
            Failure::Sql { errno: 1064, text: "near '…' REQUIRE SSL".into() }
        );
        let gone = without(Failure::Gone { text: "after s3cret".into() }, "s3cret");
        assert_eq!(gone, Failure::Gone { text: "after …".into() });
    }
}
