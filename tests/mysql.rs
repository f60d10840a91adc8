//! The database pair on two nodes: real servers, clients that write through the VIP, and what they were told is committed
//! recorded outside. Root; see tests/lab.

mod lab;
mod product;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dre::database::DatabaseStatus;
use lab::judge::Verdict;
use lab::node::Node;
use lab::{Lab, net};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use product::{NODES, configuration, install, median, ms, outage_ms, run, state_of};

const GROUP: &str = "mysql";
const VIP: &str = "172.16.10.71";
const SOON: Duration = Duration::from_secs(60);
/// A write that is not answered in this time is given up by its client: its outcome is not known.
const PATIENCE: Duration = Duration::from_millis(500);
const WRITERS: u32 = 4;

fn group(timing: &str, election: &str, database: &str) -> String {
    format!(
        r#"
{NODES}[heartbeat]
port = 1695
{timing}
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "{VIP}/16"
interface = "eth2"
label = "eth2:0"
broadcast = "172.16.255.255"
[election]
{election}
[database]
{database}
"#
    )
}

/// The server's part: what `drectl db check` demands.
fn settings(id: u32) -> String {
    format!(
        "[mysqld]\nbind-address = 0.0.0.0\nserver-id = {id}\nlog-bin = binlog\nlog_slave_updates = 1\nbinlog_format = ROW\n\
         gtid_strict_mode = 1\nsync_binlog = 1\ninnodb_flush_log_at_trx_commit = 1\nread_only = 1\nskip-slave-start = 1\n\
         relay_log_recovery = 1\nslave_parallel_threads = 4\nslave_net_timeout = 4\nskip-name-resolve = 1\n\
         rpl_semi_sync_slave_enabled = 1\nrpl_semi_sync_master_enabled = 0\nrpl_semi_sync_master_wait_point = AFTER_SYNC\n\
         rpl_semi_sync_master_wait_no_slave = OFF\nrpl_semi_sync_master_timeout = 2000\ninit-rpl-role = SLAVE\n\
         event_scheduler = OFF\ninnodb_buffer_pool_size = 32M\ninnodb_log_file_size = 16M\n"
    )
}

/// Made on both servers alike and written into no log: each begins with the same history, none.
const ACCOUNTS: &str = "
SET sql_log_bin = 0;
CREATE USER dre_repl@'172.16.%' IDENTIFIED BY 'of-the-lab' REQUIRE SSL;
GRANT REPLICATION SLAVE ON *.* TO dre_repl@'172.16.%';
CREATE USER dre_ctl@localhost IDENTIFIED VIA unix_socket;
GRANT REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, REPLICA MONITOR, BINLOG MONITOR, READ_ONLY ADMIN, CONNECTION ADMIN, PROCESS,
    RELOAD ON *.* TO dre_ctl@localhost;
GRANT CREATE, SELECT, INSERT, DELETE ON dre.* TO dre_ctl@localhost;
CREATE USER app@'%' IDENTIFIED BY 'of-the-lab';
CREATE DATABASE app;
CREATE TABLE app.t (writer INT, n BIGINT, PRIMARY KEY (writer, n)) ENGINE = InnoDB;
GRANT SELECT, INSERT ON app.* TO app@'%';
RESET MASTER;
";

fn sql(node: &Node, statement: &str) -> Result<String> {
    let out = node.run_for(&["mariadb", "-N", "-B", "-e", statement], SOON)?;
    ensure!(out.ok(), "{}: {statement}: {}", node.name, out.stderr);
    Ok(out.stdout.trim().to_owned())
}

fn database(node: &Node) -> Result<DatabaseStatus> {
    let json = node.run(&["drectl", "-g", GROUP, "db", "status", "--json"])?;
    serde_json::from_str(&json).with_context(|| format!("{}: {json}", node.name))
}

fn is_there(node: &Node) -> bool {
    node.is_on() && sql(node, "SELECT 1").is_ok()
}

struct Servers {
    lab: Lab,
}

impl Servers {
    fn start(timing: &str, election: &str, more: &str) -> Result<Self> {
        let text = group(timing, election, more);
        let lay = |root: &Path| -> Result<()> {
            install(root, &configuration(100, 5, ""))?;
            let name = std::fs::read_to_string(root.join("etc/hostname"))?;
            let id = if name.trim() == "hadev1" { 1 } else { 2 };
            std::fs::write(root.join("etc/mysql/mariadb.conf.d/60-dre.cnf"), settings(id))?;
            std::fs::write(root.join("etc/dre/mysql.toml"), &text)?;
            let root = format!("--root={}", root.display());
            run(&["systemctl", &root, "enable", "dre@mysql.service", "mariadb.service"])
        };
        let lab = Lab::builder().packages(lab::database::PACKAGES).install(lay).start()?;
        let servers = Self { lab };
        for node in servers.lab.nodes() {
            node.wait_for("mariadb -e 'SELECT 1'", SOON)?;
            sql(node, ACCOUNTS)?;
        }
        for (node, peer) in [(&servers.lab.hadev1, "172.16.11.55"), (&servers.lab.hadev2, "172.16.11.54")] {
            sql(
                node,
                &format!(
                    "CHANGE MASTER TO MASTER_HOST='{peer}', MASTER_USER='dre_repl', MASTER_PASSWORD='of-the-lab', MASTER_SSL=1, \
                     MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=1"
                ),
            )?;
        }
        servers.settled()?;
        Ok(servers)
    }

    /// Waits until one has the role and its server takes writes, the other replicates and could take over; who has it.
    fn settled(&self) -> Result<(&Node, &Node)> {
        let begun = Instant::now();
        loop {
            let roles = self.lab.nodes().map(|node| (state_of(node, GROUP), database(node)));
            if let [(Ok(one), Ok(first)), (Ok(two), Ok(second))] = &roles {
                let fine = |own: &dre::snapshot::Status, db: &DatabaseStatus, peer: &DatabaseStatus| {
                    own.role == "active"
                        && own.vips.held == 1
                        && own.vips.gate == "open"
                        && !db.read_only
                        && db.state == "OK"
                        && peer.read_only
                        && peer.state == "OK"
                        && peer.why_not.is_empty()
                };
                if fine(one, first, second) && two.role == "standby" && two.fit {
                    return Ok((&self.lab.hadev1, &self.lab.hadev2));
                }
                if fine(two, second, first) && one.role == "standby" && one.fit {
                    return Ok((&self.lab.hadev2, &self.lab.hadev1));
                }
            }
            if begun.elapsed() > SOON {
                bail!("no working pair within {SOON:?}: {roles:#?}\n{}", self.journals());
            }
            thread::sleep(ms(50));
        }
    }

    fn journals(&self) -> String {
        let of = |node: &Node| {
            let units = [
                "-n80",
                "-u",
                "dre@mysql",
                "-u",
                "dre-vip@mysql",
                "-u",
                "dre-mysql@mysql",
                "-u",
                "mariadb",
                "-u",
                "dre-donor@mysql",
            ];
            let page = node.run(&["drectl", "-g", GROUP, "db"]).unwrap_or_else(|error| format!("{error:#}"));
            page + &node.journal(&units).unwrap_or_else(|error| format!("{error:#}"))
        };
        self.lab.nodes().map(of).join("\n----\n")
    }

    /// Clients write through the VIP meanwhile. Two MACs at once fail the run, always.
    fn under_load(
        &self,
        each: Duration,
        rest: Duration,
        deed: impl FnOnce() -> Result<()>,
    ) -> Result<(Acked, Verdict)> {
        let judge = self.lab.judge(VIP)?;
        let clients = Clients::start(&self.lab, each);
        thread::sleep(Duration::from_secs(2));
        let done = deed();
        thread::sleep(rest);
        let acked = clients.stop();
        let seen = judge.stop()?;
        done?;
        ensure!(seen.two_at_once().is_empty(), "two at once: {}\n{}", seen.summary(), self.journals());
        Ok((acked, seen))
    }

    /// Every row that a client was told is committed is on this node's server.
    fn has_all(&self, node: &Node, acked: &Acked) -> Result<()> {
        let rows = sql(node, "SELECT writer, n FROM app.t")?;
        let has: BTreeSet<(u32, u64)> = rows
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter_map(|(writer, n)| Some((writer.parse().ok()?, n.parse().ok()?)))
            .collect();
        let missing: Vec<_> = acked.rows.iter().filter(|row| !has.contains(row)).collect();
        ensure!(
            missing.is_empty(),
            "{}: {} of {} acknowledged commits are missing: {:?}\n{}",
            node.name,
            missing.len(),
            acked.rows.len(),
            &missing[..missing.len().min(8)],
            self.journals()
        );
        Ok(())
    }

    /// Both servers have the same rows, within a while.
    fn are_the_same(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let sums = self.lab.nodes().map(|node| sql(node, "CHECKSUM TABLE app.t"));
            if let [Ok(one), Ok(two)] = &sums
                && one == two
            {
                return Ok(());
            }
            ensure!(begun.elapsed() < SOON, "the servers differ: {sums:?}\n{}", self.journals());
            thread::sleep(ms(200));
        }
    }
}

/// What was acknowledged, and how long nothing was.
#[derive(Default)]
struct Acked {
    rows: BTreeSet<(u32, u64)>,
    at: Vec<Instant>,
}

impl Acked {
    /// The longest time without an acknowledgement.
    fn gap(&self) -> Duration {
        let mut at = self.at.clone();
        at.sort_unstable();
        at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

/// The numbers of a writer go on from run to run: a row is written once.
static NEXT: Mutex<u64> = Mutex::new(0);

/// Clients in the client's namespace, a connection each, a row a transaction.
struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<Acked>>,
}

impl Clients {
    /// `each`: between two writes of a client.
    fn start(lab: &Lab, each: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let namespace = lab.net.ns("client");
        let mut next = NEXT.lock().expect("nobody panics");
        *next += 1_000_000;
        let first = *next;
        let threads = (0..WRITERS)
            .map(|writer| {
                let (stop, namespace) = (Arc::clone(&stop), namespace.clone());
                thread::spawn(move || {
                    net::in_netns(&namespace, || write(writer, first, each, &stop)).unwrap_or_default()
                })
            })
            .collect();
        Self { stop, threads }
    }

    fn stop(self) -> Acked {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Acked::default();
        for thread in self.threads {
            let one = thread.join().unwrap_or_default();
            all.rows.extend(one.rows);
            all.at.extend(one.at);
        }
        all
    }
}

fn write(writer: u32, first: u64, each: Duration, stop: &AtomicBool) -> Acked {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut acked = Acked::default();
        let mut conn: Option<Conn> = None;
        let mut n = first;
        while !stop.load(Ordering::Relaxed) {
            if conn.is_none() {
                let opts = OptsBuilder::default()
                    .ip_or_hostname(VIP)
                    .user(Some("app"))
                    .pass(Some("of-the-lab"))
                    .prefer_socket(false);
                conn = tokio::time::timeout(PATIENCE, Conn::new(opts)).await.ok().and_then(Result::ok);
                if conn.is_none() {
                    tokio::time::sleep(ms(5)).await;
                    continue;
                }
            }
            let Some(open) = &mut conn else { continue };
            n += 1;
            let insert = open.query_drop(format!("INSERT INTO app.t VALUES ({writer}, {n})"));
            match tokio::time::timeout(PATIENCE, insert).await {
                Ok(Ok(())) => {
                    acked.rows.insert((writer, n));
                    acked.at.push(Instant::now());
                }
                // Refused or not answered: a new connection, a new row.
                _ => conn = None,
            }
            tokio::time::sleep(each).await;
        }
        acked
    })
}

/// Harm done to a node.
type Deed = fn(&Node) -> Result<()>;

const FAST: &str = "interval_ms = 200\nmissed_max = 5";
/// Four clients with this pause make about 200 commits a second.
const TWO_HUNDRED: Duration = Duration::from_millis(18);

#[test]
fn a_planned_switchover_loses_nothing_and_is_short() -> Result<()> {
    let servers = Servers::start(FAST, "startup_hold_ms = 2000", "")?;
    let mut gaps = vec![];
    for turn in 0..5 {
        let (active, standby) = servers.settled()?;
        let (acked, seen) = servers.under_load(TWO_HUNDRED, Duration::from_secs(2), || {
            active.run(&["drectl", "-g", GROUP, "switchover"]).map(drop)
        })?;
        let (now, _) = servers.settled()?;
        ensure!(now.name == standby.name, "the role did not move");
        servers.has_all(now, &acked)?;
        servers.are_the_same()?;
        let gap = acked.gap().as_secs_f64() * 1e3;
        println!(
            "FIGURE database, switchover {turn}: {} commits acknowledged, none for {gap:.0} ms; the VIP away for {:.0} ms",
            acked.rows.len(),
            outage_ms(&seen)
        );
        gaps.push(gap);
    }
    let gap = median(&mut gaps);
    println!("FIGURE database, switchover: write gap {gap:.0} ms, median of {}", gaps.len());
    ensure!(gap < 3000.0, "{gaps:?}");
    Ok(())
}

#[test]
fn the_death_of_the_active_loses_nothing_that_was_acknowledged() -> Result<()> {
    let servers = Servers::start(FAST, "startup_hold_ms = 2000", "")?;
    let kinds: [(&str, Deed); 4] = [
        ("power loss", |node| {
            node.power_loss()?;
            node.wait_off(SOON).map(drop)
        }),
        ("SIGKILL of the server", |node| node.signal("mariadb", libc::SIGKILL).map(drop)),
        // It does not stop when it is told to, so it is killed: by systemd, at the agent's word.
        ("SIGSTOP of the server", |node| node.signal("mariadb", libc::SIGSTOP).map(drop)),
        ("SIGKILL of the agent", |node| node.signal("dre-mysql@mysql", libc::SIGKILL).map(drop)),
    ];
    for (what, deed) in kinds {
        let (active, standby) = servers.settled()?;
        let rest = Duration::from_secs(if what == "SIGSTOP of the server" { 12 } else { 6 });
        let (acked, seen) = servers.under_load(TWO_HUNDRED, rest, || deed(active))?;
        let holder = seen.holder().map(|tape| tape.who().to_owned()).context("nobody answers for the VIP")?;
        let survivor = servers.lab.node(&holder)?;
        servers.has_all(survivor, &acked)?;
        println!(
            "FIGURE database, {what}: {} commits acknowledged, none for {:.0} ms; the VIP away for {:.0} ms",
            acked.rows.len(),
            acked.gap().as_secs_f64() * 1e3,
            outage_ms(&seen)
        );
        if what == "SIGKILL of the agent" {
            // Its successor finds the server serving.
            ensure!(survivor.name == active.name, "{what}: the role moved\n{}", servers.journals());
        } else {
            ensure!(survivor.name == standby.name, "{what}: the role did not move\n{}", servers.journals());
        }
        if what == "SIGSTOP of the server" {
            let journal = active.journal(&["-u", "mariadb"])?;
            ensure!(journal.contains("status=9/KILL"), "it was not killed\n{}", servers.journals());
        }
        if !active.is_on() {
            active.boot()?;
        }
        servers.settled()?;
        servers.are_the_same()?;
        ensure!(servers.lab.nodes().into_iter().all(is_there), "{what}: a server is away");
    }
    Ok(())
}

/// A row that this server alone has, while the ACTIVE's server, which it does not hear, went on: somebody lifted read_only by hand.
fn goes_its_own_way(node: &Node, active: &Node) -> Result<()> {
    let cut = "nft add table inet own && nft 'add chain inet own in { type filter hook input priority 0; }' && \
               nft 'add chain inet own out { type filter hook output priority 0; }' && \
               nft add rule inet own in tcp sport 3306 drop && nft add rule inet own in tcp dport 3306 drop && \
               nft add rule inet own out tcp sport 3306 drop && nft add rule inet own out tcp dport 3306 drop";
    node.run(&["sh", "-c", cut])?;
    sql(active, "INSERT INTO app.t VALUES (98, 1); INSERT INTO app.t VALUES (98, 2)")?;
    sql(node, "SET GLOBAL read_only = 0; INSERT INTO app.t VALUES (99, 99); SET GLOBAL read_only = 1")?;
    node.run(&["systemctl", "restart", "mariadb"])?;
    node.run(&["nft", "delete", "table", "inet", "own"]).map(drop)
}

/// Puts another program in the place of one of the node's; what is there runs as `"$REAL"`.
fn instead(node: &Node, program: &str, script: &str) -> Result<()> {
    let text = format!("#!/bin/sh\nREAL={program}.real\n{script}\n");
    node.run(&["mv", program, &format!("{program}.real")])?;
    node.run(&["sh", "-c", &format!("cat > {program} <<'E'\n{text}E\nchmod 755 {program}")]).map(drop)
}

fn as_it_was(node: &Node, program: &str) -> Result<()> {
    node.run(&["mv", &format!("{program}.real"), program]).map(drop)
}

#[test]
fn a_server_that_went_its_own_way_becomes_a_copy_and_keeps_what_it_had_until_then() -> Result<()> {
    const BACKUP: &str = "/usr/bin/mariadb-backup";
    let reseed = |node: &Node, more: &[&str]| {
        let words = [&["drectl", "-g", GROUP, "db", "reseed", "--yes"], more].concat();
        node.run_for(&words, Duration::from_secs(120))
    };
    let servers = Servers::start(FAST, "startup_hold_ms = 2000", "")?;
    let (active, standby) = servers.settled()?;
    let state =
        |node: &Node| database(node).map(|status| status.state).unwrap_or_else(|error| format!("{error:#}"));
    let becomes = |wanted: &str| -> Result<()> {
        let begun = Instant::now();
        while state(standby) != wanted {
            ensure!(begun.elapsed() < SOON, "not {wanted}: {}\n{}", state(standby), servers.journals());
            thread::sleep(ms(100));
        }
        Ok(())
    };
    let out = reseed(active, &[])?;
    ensure!(!out.ok() && out.stderr.contains("this node is ACTIVE"), "{}", out.stderr);

    // The nodes' file systems are overlays, and a directory of the lower layer cannot change its place in one step.
    let own = "systemctl stop mariadb && cp -a /var/lib/mysql /var/lib/mysql.own && rm -rf /var/lib/mysql && \
               mv /var/lib/mysql.own /var/lib/mysql && systemctl start mariadb";
    standby.run(&["sh", "-c", own])?;
    servers.settled()?;

    // What went wrong on the way leaves the old server as it was.
    goes_its_own_way(standby, active)?;
    becomes("DIVERGED")?;
    instead(active, BACKUP, "\"$REAL\" \"$@\" | head -c 300000; echo 'the disk is gone' >&2; exit 3")?;
    let out = reseed(standby, &[])?;
    ensure!(
        !out.ok() && out.stderr.contains("the disk is gone") && out.stderr.contains("nothing was changed"),
        "{}\n{}",
        out.stderr,
        servers.journals()
    );
    as_it_was(active, BACKUP)?;
    instead(
        standby,
        BACKUP,
        "\"$REAL\" \"$@\" || exit; for a; do case $a in --target-dir=*) rm -f \"${a#*=}/ibdata1\"; echo no > \"${a#*=}/ibdata1\";; esac; done",
    )?;
    let out = reseed(standby, &[])?;
    ensure!(
        !out.ok() && out.stderr.contains("the old data is in its place again"),
        "{}{}\n{}",
        out.stdout,
        out.stderr,
        servers.journals()
    );
    as_it_was(standby, BACKUP)?;
    becomes("DIVERGED")?;
    ensure!(
        sql(standby, "SELECT COUNT(*) FROM app.t WHERE writer = 99")? == "1",
        "the old data is not what it was"
    );

    // And now it is done, while clients write.
    let mut took = Duration::ZERO;
    let (acked, _) = servers.under_load(TWO_HUNDRED, Duration::from_secs(1), || {
        let begun = Instant::now();
        let out = reseed(standby, &[])?;
        took = begun.elapsed();
        print!("{}", out.stdout);
        ensure!(out.ok(), "{}{}\n{}", out.stdout, out.stderr, servers.journals());
        Ok(())
    })?;
    println!(
        "FIGURE database, reseed under load: {:.1} s; {} commits acknowledged meanwhile, none for {:.0} ms",
        took.as_secs_f64(),
        acked.rows.len(),
        acked.gap().as_secs_f64() * 1e3
    );
    servers.settled()?;
    servers.has_all(standby, &acked)?;
    servers.are_the_same()?;
    ensure!(
        sql(standby, "SELECT COUNT(*) FROM app.t WHERE writer = 99")? == "0",
        "what was here alone is still here"
    );
    let left = standby.run(&[
        "sh",
        "-c",
        "ls -d /var/lib/mysql.dre-* /var/lib/dre-mysql@mysql/reseeding 2>/dev/null; true",
    ])?;
    ensure!(left.trim().is_empty(), "left behind: {left}");

    // A copy is a server like any: it takes the role, and the other one follows it.
    let (acked, _) = servers.under_load(TWO_HUNDRED, Duration::from_secs(2), || {
        active.run(&["drectl", "-g", GROUP, "switchover"]).map(drop)
    })?;
    let (now, _) = servers.settled()?;
    ensure!(now.name == standby.name, "the role did not move");
    servers.has_all(now, &acked)?;
    servers.are_the_same()
}
