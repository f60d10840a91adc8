//! A database server as a process of the test: of the lab's own file system, by its own loader, so that nothing is installed on this
//! machine and no server of its own is touched. It listens in the network namespace of the thread that starts it.
//!
//! MariaDB and MySQL, as Debian has them in three of its suites. DRE_DATABASE_ROOT names a file system with another one: the same tests
//! then speak to that alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dre::logic::db::facts::Flavor;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use nix::sched::{CloneFlags, unshare};

use super::{rootfs, sys};

/// What a node with a MariaDB server has.
pub const PACKAGES: &[&str] = &["mariadb-server", "mariadb-backup"];

/// A suite of Debian's, and its server. The first is what the nodes have.
const PRODUCTS: &[(&str, &str)] =
    &[("trixie", "mariadb-server"), ("bookworm", "mariadb-server"), ("sid", "mysql-server")];

/// How a server of a pair must be set up, whatever the product; what a test wants otherwise comes after it and wins.
const SETTINGS: &[&str] = &[
    "--log-bin=binlog",
    "--binlog-format=ROW",
    "--sync-binlog=1",
    "--innodb-flush-log-at-trx-commit=1",
    "--relay-log=relay",
    "--relay-log-recovery=1",
    "--skip-name-resolve",
    "--auto-increment-increment=2",
];

const MARIADB: &[&str] = &[
    "--log-slave-updates=1",
    "--gtid-domain-id=0",
    "--gtid-strict-mode=1",
    "--read-only=1",
    "--skip-slave-start",
    "--slave-parallel-threads=4",
    "--slave-net-timeout=4",
    "--master-retry-count=0",
    "--rpl-semi-sync-slave-enabled=1",
    "--rpl-semi-sync-master-enabled=0",
    "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
    "--init-rpl-role=SLAVE",
    "--expire-logs-days=14",
];

const MYSQL: &[&str] = &[
    "--plugin-load-add=semisync_source.so",
    "--plugin-load-add=semisync_replica.so",
    "--log-replica-updates=ON",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--super-read-only=ON",
    "--skip-replica-start=ON",
    "--replica-parallel-workers=4",
    "--replica-preserve-commit-order=ON",
    "--replica-net-timeout=4",
    "--loose-rpl-semi-sync-replica-enabled=1",
    "--loose-rpl-semi-sync-source-enabled=0",
    "--loose-rpl-semi-sync-source-wait-point=AFTER_SYNC",
    "--mysqlx=OFF",
    "--secure-file-priv=NULL",
];

/// So that it is small, quick, and nobody's but this test's.
const SMALL: &[&str] =
    &["--user=root", "--innodb-buffer-pool-size=32M", "--performance-schema=OFF", "--port=3306"];

/// What the agent's account may do, and no more: as the README has it.
const MAY_MARIADB: &str = "REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, REPLICA MONITOR, BINLOG MONITOR, READ_ONLY ADMIN, \
                           CONNECTION ADMIN, PROCESS, RELOAD";
const MAY_MYSQL: &str =
    "REPLICATION_SLAVE_ADMIN, REPLICATION CLIENT, SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN, PROCESS, RELOAD";

/// Data that lives as long as a test does not need a disk.
const MEMORY: &str = "/dev/shm";
const MARK: &str = "dre-database.";

/// What tests have left that were killed.
fn sweep() {
    for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.strip_prefix(MARK)?.split('.').next());
        if of.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The calling thread has a network of its own from here on, with nothing but a loopback.
pub fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("no network namespace: these tests need root")?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip is missing")?;
    if !up.success() {
        bail!("the loopback does not come up");
    }
    Ok(())
}

/// A server's program and data, to be copied from.
#[derive(Clone)]
pub struct Product {
    /// As it is told in what failed, and in figures.
    pub name: String,
    pub flavor: Flavor,
    pub root: PathBuf,
}

impl Product {
    fn at(name: String, root: PathBuf) -> Self {
        let maria = root.join("usr/sbin/mariadbd").exists();
        Self { name, flavor: if maria { Flavor::MariaDb } else { Flavor::MySql }, root }
    }

    /// Of that suite; made if it is not there.
    pub fn of(suite: &str, package: &str) -> Result<Self> {
        let root = match suite {
            "trixie" => rootfs::provide(&PACKAGES.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?,
            _ => rootfs::provide_server(suite, package)?,
        };
        Ok(Self::at(format!("{package} of {suite}"), root))
    }

    /// Every one that tests speak to. What is fetched for them is fetched here: not by a thread that has left the network.
    pub fn all() -> Result<Vec<Self>> {
        if let Some(root) = std::env::var_os("DRE_DATABASE_ROOT") {
            let root = PathBuf::from(root);
            return Ok(vec![Self::at(root.display().to_string(), root)]);
        }
        PRODUCTS.iter().map(|(suite, package)| Self::of(suite, package)).collect()
    }

    /// A program of it on this machine: by its own loader, with its own libraries.
    fn program(&self, path: &str) -> Command {
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        let private = self.root.join("usr/lib/mysql/private");
        // Ends with the thread that started it, however that ends.
        let mut command = Command::new("setpriv");
        command
            .arg("--pdeathsig=KILL")
            .arg(self.root.join("lib64/ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(format!("{0}:{0}/systemd:{1}", libraries.display(), private.display()))
            .arg(self.root.join(path))
            .env_remove("LD_LIBRARY_PATH");
        command
    }

    /// Server `id` at 127.0.0.`id`, with the accounts dre_ctl, repl and app and a table test.t; of all that nothing is in its binary log.
    pub async fn start(&self, id: u32, otherwise: &[&str]) -> Result<Server> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = Path::new(MEMORY).join(format!("{MARK}{}.{number}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let data = directory.join("data");
        let copied = Command::new("cp")
            .args(["-a", "--sparse=always"])
            .arg(self.root.join("var/lib/mysql"))
            .arg(&data)
            .status()?;
        if !copied.success() {
            bail!("{}: its data cannot be copied to {}", self.root.display(), data.display());
        }
        // Who it is, in MySQL's words: another one is made up at the start.
        let _ = fs::remove_file(data.join("auto.cnf"));
        let child = self.spawn(&directory, id, otherwise)?;
        let server = Server { id, flavor: self.flavor, child, directory };
        server.set_up().await.with_context(|| server.log())?;
        Ok(server)
    }

    fn spawn(&self, directory: &Path, id: u32, otherwise: &[&str]) -> Result<Child> {
        let (program, own) = match self.flavor {
            Flavor::MariaDb => ("usr/sbin/mariadbd", MARIADB),
            Flavor::MySql => ("usr/sbin/mysqld", MYSQL),
        };
        let path = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let log = fs::File::create(directory.join("log"))?;
        self.program(program)
            .arg("--no-defaults")
            .arg(path("basedir", &self.root.join("usr")))
            .arg(path("lc-messages-dir", &self.root.join("usr/share/mysql")))
            .arg(path("character-sets-dir", &self.root.join("usr/share/mysql/charsets")))
            .arg(path("plugin-dir", &self.root.join("usr/lib/mysql/plugin")))
            .arg(path("datadir", &directory.join("data")))
            .arg(path("tmpdir", directory))
            .arg(path("socket", &directory.join("sock")))
            .arg(path("pid-file", &directory.join("pid")))
            .arg(format!("--bind-address=127.0.0.{id}"))
            .arg(format!("--server-id={id}"))
            .arg(format!("--auto-increment-offset={id}"))
            .args(SETTINGS)
            .args(own)
            .args(SMALL)
            .args(otherwise)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("setpriv is missing")
    }
}

pub struct Server {
    pub id: u32,
    pub flavor: Flavor,
    child: Child,
    directory: PathBuf,
}

impl Server {
    pub fn socket(&self) -> PathBuf {
        self.directory.join("sock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// A connection as that account; the test's own user is root, who needs no password.
    pub async fn connect(&self, user: &str) -> Result<Conn> {
        let options =
            OptsBuilder::default().socket(Some(self.socket().display().to_string())).user(Some(user));
        Ok(Conn::new(options).await?)
    }

    /// Statements, one after the other, as root.
    pub async fn run(&self, statements: &[&str]) -> Result<()> {
        let mut conn = self.connect("root").await?;
        for statement in statements {
            conn.query_drop(*statement).await.with_context(|| (*statement).to_owned())?;
        }
        conn.disconnect().await?;
        Ok(())
    }

    /// The first value as text.
    pub async fn ask(&self, question: &str) -> Result<String> {
        let mut conn = self.connect("root").await?;
        let answer: Option<Option<String>> =
            conn.query_first(question).await.with_context(|| question.to_owned())?;
        conn.disconnect().await?;
        Ok(answer.flatten().unwrap_or_default())
    }

    async fn set_up(&self) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.connect("root").await {
            if begun.elapsed() > Duration::from_secs(30) {
                return Err(error.context("the server does not come up"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let maria = self.flavor == Flavor::MariaDb;
        let may = if maria { MAY_MARIADB } else { MAY_MYSQL };
        self.run(&[
            "SET GLOBAL read_only=0",
            "SET sql_log_bin=0",
            "CREATE USER dre_ctl@localhost",
            &format!("GRANT {may} ON *.* TO dre_ctl@localhost"),
            "GRANT CREATE, SELECT, INSERT, DELETE ON dre.* TO dre_ctl@localhost",
            "CREATE USER repl@'127.0.0.%' IDENTIFIED BY 'repl'",
            "GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.%'",
            "CREATE DATABASE test",
            "CREATE TABLE test.t (id INT AUTO_INCREMENT PRIMARY KEY, word VARCHAR(20)) ENGINE=InnoDB",
            "CREATE USER app@localhost",
            "GRANT ALL ON test.* TO app@localhost",
        ])
        .await?;
        // Of MySQL's two words for it each version knows one.
        if self.run(&["RESET MASTER"]).await.is_err() {
            self.run(&["RESET BINARY LOGS AND GTIDS"]).await?;
        }
        self.run(&[if maria { "SET GLOBAL read_only=1" } else { "SET GLOBAL super_read_only=1" }]).await
    }

    /// Replicates from `source`, but does not begin to.
    pub async fn follow(&self, source: &Self) -> Result<()> {
        let change = match self.flavor {
            Flavor::MariaDb => format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.{}', MASTER_USER='repl', MASTER_PASSWORD='repl', MASTER_SSL=0, \
                 MASTER_SSL_VERIFY_SERVER_CERT=0, MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=1",
                source.id
            ),
            Flavor::MySql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.{}', SOURCE_USER='repl', SOURCE_PASSWORD='repl', \
                 GET_SOURCE_PUBLIC_KEY=1, SOURCE_AUTO_POSITION=1, SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=0, \
                 SOURCE_HEARTBEAT_PERIOD=1",
                source.id
            ),
        };
        self.run(&[&change]).await
    }

    pub async fn stop_applier(&self) -> Result<()> {
        let replica = if self.flavor == Flavor::MariaDb { "SLAVE" } else { "REPLICA" };
        self.run(&[&format!("STOP {replica} SQL_THREAD")]).await
    }

    fn signal(&self, signal: i32) {
        sys::kill(i32::try_from(self.child.id()).expect("a process id"), signal);
    }

    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
