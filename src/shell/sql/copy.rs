//! What a copy of a MariaDB server needs of the server itself, as root: where its files are, and where the copy's history begins.

use std::path::Path;
use std::time::Duration;

use super::{Outcome, Session, failure, gtids, pairs, run};
use crate::logic::db::facts::{Failure, Flavor};
use crate::logic::db::gtids::target;
use crate::logic::db::wanted;

/// Whose account it is done with.
const ROOT: &str = "root";
/// Where a replica keeps its source, account and password: the copy has the giver's accounts, and not this.
pub const CONNECTION_FILE: &str = "master.info";
/// Where `mariadb-backup` writes the place at which its copy ends: by its old name or its new one.
pub const PLACE_FILES: [&str; 2] = ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"];

/// A server as one that is to be copied, or replaced by a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stands {
    pub is_mariadb: bool,
    pub version: String,
    pub server_id: u32,
    pub read_only: bool,
    /// `gtid_binlog_state`.
    pub has: String,
    pub datadir: String,
    /// Paths without the number behind.
    pub binary_log: String,
    pub relay_log: String,
    /// Variables by which a part of the data lies outside of `datadir`, with their values.
    pub elsewhere: Vec<(String, String)>,
}

const LOOKED_AT: &str = "'version','server_id','read_only','gtid_binlog_state','datadir','log_bin_basename','relay_log_basename',\
                         'innodb_data_home_dir','innodb_log_group_home_dir','innodb_undo_directory','aria_log_dir_path'";
const PARTS: [&str; 4] =
    ["innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "aria_log_dir_path"];

/// Bounded by `within`.
pub async fn stands(socket: &Path, within: Duration) -> Outcome<Stands> {
    Session::new(socket, ROOT, "")
        .bounded(within, |mut conn, flavor| async move {
            let asked = format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({LOOKED_AT})");
            let found = pairs(&mut conn, &asked).await.map(|variables| {
                let of = |name: &str| variables.get(name).cloned().unwrap_or_default();
                let datadir = of("datadir");
                let outside = |value: &str| {
                    let path = Path::new(value.trim_end_matches('/'));
                    path.is_absolute() && path != Path::new(datadir.trim_end_matches('/'))
                };
                Stands {
                    is_mariadb: flavor == Flavor::MariaDb,
                    version: of("version"),
                    server_id: of("server_id").parse().unwrap_or_default(),
                    read_only: !wanted::is_off(&of("read_only")),
                    has: of("gtid_binlog_state"),
                    binary_log: of("log_bin_basename"),
                    relay_log: of("relay_log_basename"),
                    elsewhere: PARTS
                        .map(|name| (name.to_owned(), of(name)))
                        .into_iter()
                        .filter(|(_, value)| outside(value))
                        .collect(),
                    datadir,
                }
            });
            (conn, found)
        })
        .await
}

/// The copy's history: what the giver had when it began, and up to where the copy goes. Whoever wrote in between was the giver.
pub fn history(has: &str, place: &str) -> Option<(String, String)> {
    let position = position(place)?;
    let reached = super::Gtids::parse(Flavor::MariaDb, &position)?;
    let all = super::Gtids::parse(Flavor::MariaDb, has)?.union(&reached);
    Some((all.to_string(), target(&reached)))
}

/// The third word of a place file: `binlog.000002<TAB>1234<TAB>0-1-5`; none where nothing was ever written.
fn position(place: &str) -> Option<String> {
    let words: Vec<&str> = place.trim_end_matches(['\n', '\r']).split('\t').collect();
    match words.as_slice() {
        [_, _] => Some(String::new()),
        [_, _, rest @ ..] => Some(rest.concat()),
        _ => None,
    }
}

/// The copy's server begins with this history and no log of its own. Its threads are stopped, it takes no writes.
pub async fn begin_from(socket: &Path, has: &str, position: &str, within: Duration) -> Outcome<()> {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || b"-,".contains(&byte));
    if !plain(has) || !plain(position) {
        return Err(Failure::Sql { errno: 0, text: format!("{has:?}, {position:?}: no positions") });
    }
    let statements = [
        "RESET MASTER".to_owned(),
        format!("SET GLOBAL gtid_binlog_state = '{has}'"),
        format!("SET GLOBAL gtid_slave_pos = '{position}'"),
    ];
    let wanted = gtids(Flavor::MariaDb, "history", has)?;
    Session::new(socket, ROOT, "")
        .bounded(within, |mut conn, _| async move {
            for statement in &statements {
                if let Err(failure) = run(&mut conn, statement).await {
                    return (conn, Err(failure));
                }
            }
            let seen = pairs(&mut conn, "SHOW GLOBAL VARIABLES LIKE 'gtid_binlog_state'").await;
            let seen = seen.and_then(|seen| {
                gtids(Flavor::MariaDb, "gtid state", seen.values().next().map_or("", String::as_str))
            });
            let result = match seen {
                Ok(seen) if seen == wanted => Ok(()),
                Ok(seen) => Err(Failure::Sql { errno: 0, text: format!("gtid_binlog_state is {seen}") }),
                Err(failure) => Err(failure),
            };
            (conn, result)
        })
        .await
}

/// Whether the server answers root.
pub async fn answers(socket: &Path) -> Outcome<()> {
    let (conn, _) = Session::new(socket, ROOT, "").connect().await?;
    conn.disconnect().await.map_err(|error| failure(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copys_history_is_the_givers_up_to_where_the_copy_ends() {
        let place = "binlog.000003\t4711\t0-1-120\n";
        assert_eq!(history("0-1-100,0-2-90", place), Some(("0-1-120,0-2-90".into(), "0-1-120".into())));
        // The newest is the other server's: it had the role until the giver took it, and the giver wrote nothing yet.
        let place = "binlog.000003\t4711\t0-2-130\n";
        assert_eq!(history("0-1-100,0-2-130", place), Some(("0-1-100,0-2-130".into(), "0-2-130".into())));
        assert_eq!(history("", "binlog.000001\t328\t\n"), Some((String::new(), String::new())));
        assert_eq!(history("", "binlog.000001\t328"), Some((String::new(), String::new())));
        for strange in ["", "binlog.000001", "binlog.000001\t4\tnonsense"] {
            assert_eq!(history("0-1-1", strange), None, "{strange:?}");
        }
    }
}
