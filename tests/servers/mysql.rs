//! MySQL on the lab's nodes, which are of a suite that does not have it: the tree of one that has is shown to them, and its own unit runs
//! in there. What it keeps, its configuration and its users are the node's.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::product::run;

/// Where a node sees that tree.
pub const TREE: &str = "/opt/mysql";

/// To run in the tree and not beside it. Who comes over the socket is called as the node calls it.
const IN_THE_TREE: &str = "
[Service]
RootDirectory=/opt/mysql
MountAPIVFS=yes
PrivateTmp=yes
TemporaryFileSystem=/run
BindPaths=/var/lib/mysql /var/log/mysql
BindReadOnlyPaths=/etc/mysql /etc/passwd /etc/group
";

const CLIENT: &str = "#!/bin/sh
tree=/opt/mysql
exec $tree/lib64/ld-linux-x86-64.so.2 --library-path $tree/usr/lib/x86_64-linux-gnu $tree/usr/bin/mysql --no-defaults \\
    --socket=/run/mysqld/mysqld.sock \"$@\"
";

/// The server's part: what `drectl db check` demands. Word for word in the README, but for the last two lines.
fn settings(id: u32) -> String {
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
pub const ACCOUNTS: &str = "
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

/// The server becomes a copy of the one at this address, and starts anew.
pub fn copy_from(peer: &str) -> String {
    format!(
        "SET GLOBAL super_read_only = 0; SET GLOBAL read_only = 0; SET GLOBAL clone_valid_donor_list = '{peer}:3306'; \
         CLONE INSTANCE FROM dre_repl@'{peer}':3306 IDENTIFIED BY 'of-the-lab' REQUIRE SSL"
    )
}

/// What the package would have laid down on the node, from `tree`.
pub fn lay(tree: &Path, root: &Path, id: u32) -> Result<()> {
    let at = |path: &str| root.join(path);
    let copy = |from: &str, to: &str| -> Result<()> {
        run(&[
            "cp",
            "-a",
            "--sparse=always",
            &tree.join(from).display().to_string(),
            &at(to).display().to_string(),
        ])
    };
    fs::create_dir_all(at(TREE.trim_start_matches('/')))?;
    copy("etc/mysql", "etc/mysql")?;
    copy("var/lib/mysql", "var/lib/mysql")?;
    copy("usr/lib/systemd/system/mysql.service", "etc/systemd/system/mysql.service")?;
    fs::create_dir_all(at("etc/systemd/system/mysql.service.d"))?;
    fs::write(at("etc/systemd/system/mysql.service.d/90-lab.conf"), IN_THE_TREE)?;
    // Read after mysqld.cnf, which binds it to the loopback.
    fs::write(at("etc/mysql/mysql.conf.d/zz-dre.cnf"), settings(id))?;
    fs::write(at("usr/local/bin/mysql"), CLIENT)?;
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
    run(&["chroot", &inside, "chmod", "755", "/usr/local/bin/mysql"])?;
    run(&["chroot", &inside, "chown", "-R", "mysql:mysql", "/var/lib/mysql", "/var/log/mysql"])
}
