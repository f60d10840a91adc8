//! Where the server's binary log is, for a tool that reads it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::{Outcome, Session, column, failure, first};
use crate::logic::db::facts::{Flavor, Gtids};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logs {
    pub flavor: Flavor,
    /// Oldest first.
    pub files: Vec<PathBuf>,
    /// MariaDB: what had been written before the first of them, by its own head; none where it does not say.
    pub before: Option<Gtids>,
    /// Whom it replicates from, in MySQL's words; empty: not known.
    pub source_uuid: String,
}

impl Session {
    pub async fn binary_logs(&mut self, within: Duration) -> Outcome<Logs> {
        self.bounded(within, |mut conn, flavor| async move {
            let logs = async {
                let base = first(&mut conn, "SELECT @@global.log_bin_basename").await?;
                let directory = Path::new(&base).parent().unwrap_or(Path::new("/")).to_path_buf();
                let rows: Vec<Row> = conn.query("SHOW BINARY LOGS").await.map_err(|error| failure(&error))?;
                let names: Vec<String> = rows.iter().map(|row| column(row, &["Log_name"])).collect();
                let before = match (flavor, names.first()) {
                    (Flavor::MariaDb, Some(oldest)) => before(&mut conn, oldest).await?,
                    _ => None,
                };
                let files = names.iter().map(|name| directory.join(name)).collect();
                let source_uuid = match flavor {
                    Flavor::MariaDb => String::new(),
                    Flavor::MySql => {
                        let row: Option<Row> =
                            conn.query_first("SHOW REPLICA STATUS").await.map_err(|error| failure(&error))?;
                        row.map(|row| column(&row, &["Source_UUID"])).unwrap_or_default()
                    }
                };
                Ok(Logs { flavor, files, before, source_uuid })
            }
            .await;
            (conn, logs)
        })
        .await
    }
}

/// Events at the head of a log, of which one is the list: the format, how it is encrypted, the list, where a recovery begins.
const HEAD: u32 = 6;

/// The list at the head of a MariaDB log: the newest of each writer that older logs had.
async fn before(conn: &mut Conn, log: &str) -> Outcome<Option<Gtids>> {
    let asked = format!("SHOW BINLOG EVENTS IN '{}' LIMIT {HEAD}", log.replace('\'', "''"));
    let rows: Vec<Row> = conn.query(asked).await.map_err(|error| failure(&error))?;
    let list = rows.iter().find(|row| column(row, &["Event_type"]) == "Gtid_list");
    Ok(list.and_then(|row| {
        let info = column(row, &["Info"]);
        Gtids::parse(Flavor::MariaDb, info.trim().strip_prefix('[')?.strip_suffix(']')?)
    }))
}
