//! Servers that the nodes' suite does not have: the tree of one that has them is shown to the nodes, and the server's own unit runs in
//! there. What it keeps, its configuration and its users are the node's.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::product::run;

/// Where a node sees that tree.
pub const TREE: &str = "/opt/server";

/// Of the node with this number.
type Settings = fn(u32) -> String;

/// What one needs to be laid on a node.
pub struct Elsewhere {
    pub unit: &'static str,
    pub client: &'static str,
    /// One that is read after the package's own, and what is in it.
    pub file: Option<(&'static str, Settings)>,
}

/// To run in the tree and not beside it. Who comes over the socket is called as the node calls it.
const IN_THE_TREE: &str = "
[Service]
RootDirectory=/opt/server
MountAPIVFS=yes
PrivateTmp=yes
RuntimeDirectory=mysqld
TemporaryFileSystem=/run
BindPaths=/var/lib/mysql /var/log
BindReadOnlyPaths=/etc/mysql /etc/passwd /etc/group
";

/// Runs where the server does: another suite's program finds its libraries there.
fn client(server: &Elsewhere) -> String {
    let Elsewhere { unit, client, .. } = server;
    format!(
        "#!/bin/sh
server=$(systemctl show -P MainPID {unit})
[ \"$server\" != 0 ] || {{ echo '{unit} does not run' >&2; exit 1; }}
exec nsenter -t \"$server\" -r -m -- /usr/bin/{client} --no-defaults --socket=/run/mysqld/mysqld.sock \"$@\"
"
    )
}

/// The server's part: what `drectl db check` demands. Word for word in the README, but for the last two lines.
pub fn mysql_settings(id: u32) -> String {
    format!(
        "[mysqld]
server-id = {id}
bind-address = 0.0.0.0
plugin-load-add = semisync_source.so
plugin-load-add = semisync_replica.so
plugin-load-add = mysql_clone.so
log-bin = binlog
log_replica_updates = ON
gtid_mode = ON
enforce_gtid_consistency = ON
sync_binlog = 1
innodb_flush_log_at_trx_commit = 1
super_read_only = ON
skip_replica_start = ON
relay_log_recovery = ON
replica_parallel_workers = 4
replica_preserve_commit_order = ON
replica_net_timeout = 4
skip_name_resolve = ON
rpl_semi_sync_replica_enabled = ON
rpl_semi_sync_source_wait_point = AFTER_SYNC
auto_increment_increment = 2
auto_increment_offset = {id}
binlog_expire_logs_seconds = 1209600
innodb_buffer_pool_size = 32M
log_error = stderr
"
    )
}

/// As in the README, with the application's beside them.
pub const MYSQL_ACCOUNTS: &str = "
SET sql_log_bin = 0;
SET GLOBAL super_read_only = 0;
SET GLOBAL read_only = 0;
CREATE USER dre_repl@'172.16.%' IDENTIFIED BY 'of-the-lab' REQUIRE SSL;
GRANT REPLICATION SLAVE, BACKUP_ADMIN ON *.* TO dre_repl@'172.16.%';
CREATE USER dre_ctl@localhost IDENTIFIED WITH auth_socket;
GRANT REPLICATION_SLAVE_ADMIN, REPLICATION CLIENT, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, PROCESS, RELOAD ON *.* TO dre_ctl@localhost;
GRANT CREATE, SELECT, INSERT, DELETE ON dre.* TO dre_ctl@localhost;
CREATE USER app@'%' IDENTIFIED BY 'of-the-lab';
CREATE DATABASE app;
CREATE TABLE app.t (writer INT, n BIGINT, PRIMARY KEY (writer, n)) ENGINE = InnoDB;
CREATE TABLE app.last (writer INT PRIMARY KEY, n BIGINT) ENGINE = InnoDB;
INSERT INTO app.last VALUES (0, 0), (1, 0), (2, 0), (3, 0);
GRANT SELECT, INSERT, UPDATE ON app.* TO app@'%';
RESET BINARY LOGS AND GTIDS;
SET GLOBAL super_read_only = 1;
";

/// A MySQL server becomes a copy of the one at this address, and starts anew.
pub fn mysql_copy_from(peer: &str) -> String {
    format!(
        "SET GLOBAL super_read_only = 0; SET GLOBAL read_only = 0; SET GLOBAL clone_valid_donor_list = '{peer}:3306'; \
         CLONE INSTANCE FROM dre_repl@'{peer}':3306 IDENTIFIED BY 'of-the-lab' REQUIRE SSL"
    )
}

/// What the package would have laid down on the node, from `tree`.
pub fn lay(server: &Elsewhere, tree: &Path, root: &Path, id: u32) -> Result<()> {
    let at = |path: &str| root.join(path);
    let copy = |from: &str, to: &str| -> Result<()> {
        let (from, to) = (tree.join(from), at(to));
        run(&["cp", "-a", "--sparse=always", &from.display().to_string(), &to.display().to_string()])
    };
    fs::create_dir_all(at(TREE.trim_start_matches('/')))?;
    copy("etc/mysql", "etc/mysql")?;
    copy("var/lib/mysql", "var/lib/mysql")?;
    let unit = server.unit;
    copy(&format!("usr/lib/systemd/system/{unit}"), &format!("etc/systemd/system/{unit}"))?;
    fs::create_dir_all(at(&format!("etc/systemd/system/{unit}.d")))?;
    fs::write(at(&format!("etc/systemd/system/{unit}.d/90-lab.conf")), IN_THE_TREE)?;
    if let Some((file, settings)) = server.file {
        fs::write(at(file), settings(id))?;
    }
    let name = format!("usr/local/bin/{}", server.client);
    fs::write(at(&name), client(server))?;
    // Who the server is, and its keys: each makes its own at its first start.
    for entry in fs::read_dir(at("var/lib/mysql"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "pem") || path.ends_with("auto.cnf") {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    fs::write(at("usr/lib/sysusers.d/mysql.conf"), "u mysql - \"MySQL\" /var/lib/mysql -\n")?;
    run(&["systemd-sysusers", &format!("--root={}", root.display())])?;
    fs::create_dir_all(at("var/log/mysql"))?;
    let inside = root.display().to_string();
    run(&["chroot", &inside, "chmod", "755", &format!("/{name}")])?;
    run(&["chroot", &inside, "chown", "-R", "mysql:mysql", "/var/lib/mysql", "/var/log/mysql"])
}
