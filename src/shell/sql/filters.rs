//! What a server leaves out of its log, or of what it applies: transactions that were acknowledged are missing on the other one then, while
//! the positions of both say that all is well.

use std::collections::BTreeMap;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::{Outcome, Session, column, failure, named, pairs};
use crate::logic::db::facts::{Flavor, Wrong};
use crate::logic::db::wanted;

/// MySQL before 8.2 does not know the statement.
const NOT_UNDERSTOOD: u16 = 1064;

/// Names in small letters, and values.
pub(super) type Settings = BTreeMap<String, String>;

impl Session {
    /// What it filters, each with what must be instead; none: nothing is left out. Of MySQL, what it would not apply is known only once it
    /// was told whom to follow.
    pub async fn filters(&mut self, within: Duration) -> Outcome<Vec<Wrong>> {
        self.bounded(within, |mut conn, flavor| async move {
            let seen = async {
                let variables = pairs(&mut conn, &named(wanted::names_of_filters())).await?;
                let row = replication(&mut conn, flavor).await?;
                let unlogged = of_the_log(&mut conn, flavor).await?;
                Ok(found(&variables, row.as_ref(), &unlogged))
            };
            let seen = seen.await;
            (conn, seen)
        })
        .await
    }
}

pub(super) async fn replication(conn: &mut Conn, flavor: Flavor) -> Outcome<Option<Row>> {
    let shows = match flavor {
        Flavor::MariaDb => "SHOW SLAVE STATUS",
        Flavor::MySql => "SHOW REPLICA STATUS",
    };
    conn.query_first(shows).await.map_err(|error| failure(&error))
}

/// Nothing, of a server without a log.
pub(super) async fn of_the_log(conn: &mut Conn, flavor: Flavor) -> Outcome<Settings> {
    const BEFORE: &str = "SHOW MASTER STATUS";
    let row: Option<Row> = match flavor {
        Flavor::MariaDb => conn.query_first(BEFORE).await,
        Flavor::MySql => match conn.query_first("SHOW BINARY LOG STATUS").await {
            Err(mysql_async::Error::Server(refused)) if refused.code == NOT_UNDERSTOOD => {
                conn.query_first(BEFORE).await
            }
            answer => answer,
        },
    }
    .map_err(|error| failure(&error))?;
    Ok(row.as_ref().map(of).unwrap_or_default())
}

/// The columns that say what is filtered.
fn of(row: &Row) -> Settings {
    let known: Vec<&str> = wanted::names_of_filters().collect();
    row.columns_ref()
        .iter()
        .map(|shown| shown.name_str().into_owned())
        .filter(|name| known.contains(&name.to_ascii_lowercase().as_str()))
        .map(|name| (name.to_ascii_lowercase(), column(row, &[&name])))
        .collect()
}

/// A row says of replication as it is what a variable says of replication as it would be set up.
pub(super) fn found(variables: &Settings, replication: Option<&Row>, unlogged: &Settings) -> Vec<Wrong> {
    let mut settings = variables.clone();
    settings.extend(replication.map(of).unwrap_or_default());
    settings.extend(unlogged.clone());
    wanted::filters(&settings)
}
