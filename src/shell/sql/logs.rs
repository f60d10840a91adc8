//! Where the server's binary log is, for a tool that reads it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::{Outcome, Session, column, failure, first};
use crate::logic::db::facts::Flavor;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logs {
    pub flavor: Flavor,
    /// Oldest first.
    pub files: Vec<PathBuf>,
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
                let files = rows.iter().map(|row| directory.join(column(row, &["Log_name"]))).collect();
                let source_uuid = match flavor {
                    Flavor::MariaDb => String::new(),
                    Flavor::MySql => {
                        let row: Option<Row> =
                            conn.query_first("SHOW REPLICA STATUS").await.map_err(|error| failure(&error))?;
                        row.map(|row| column(&row, &["Source_UUID"])).unwrap_or_default()
                    }
                };
                Ok(Logs { flavor, files, source_uuid })
            }
            .await;
            (conn, logs)
        })
        .await
    }
}
