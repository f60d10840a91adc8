//! A server of a pair that was made by hand, seen and made still by root: for `drectl db adopt`.

use std::time::Duration;

use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::{Outcome, Session, column, failure, pairs, run};
use crate::logic::db::adopt::{Source, Stance};
use crate::logic::db::facts::Flavor;
use crate::logic::db::wanted;

const LOOKED_AT: &str = "'version','server_id','log_bin','read_only','gtid_binlog_state','gtid_slave_pos'";
const SOMEBODYS: &str =
    "NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', '#mysql50#lost+found')";

impl Session {
    pub async fn stance(&mut self, node: &str, within: Duration) -> Outcome<Stance> {
        self.bounded(within, |mut conn, flavor| async move {
            let seen = async {
                let asked = format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({LOOKED_AT})");
                let variables = pairs(&mut conn, &asked).await?;
                let of = |name: &str| variables.get(name).map_or("", String::as_str);
                let is_mariadb = flavor == Flavor::MariaDb;
                let shows = if is_mariadb { "SHOW SLAVE STATUS" } else { "SHOW REPLICA STATUS" };
                let row: Option<Row> = conn.query_first(shows).await.map_err(|error| failure(&error))?;
                let data = format!(
                    "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME {SOMEBODYS}"
                );
                let data: Vec<String> = conn.query(data).await.map_err(|error| failure(&error))?;
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
                })
            }
            .await;
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
                "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' AND \
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
            let row: Result<Option<Row>, _> = conn.query_first(statement).await;
            let sum = row.map_err(|error| failure(&error));
            (conn, sum.map(|row| row.map_or_else(String::new, |row| column(&row, &["Checksum"]))))
        })
        .await
    }
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
