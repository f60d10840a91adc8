//! `make bench-mysql`: the database pair beside the same two servers as they were set up before, under Linux Heartbeat.
//!
//! The old guide's settings: keepalive 1 s, deadtime 15 s, UDP port 694, auto_failback on, one IPaddr in haresources; both servers
//! writable, each replicating from the other by position, asynchronously. dre is measured with the same timing too, and with its own.
//!
//! The same nodes, clients and death for all: what a client was told is committed is kept outside, and looked for on the server that
//! went on before the dead one is back, and on both after that. Reported, never judged; two MACs at once and a commit that dre loses end
//! it. A power loss here takes no more than what a node has not written yet: its kernel's cache stays, which is kind to the old settings
//! (`sync_binlog` is off there).

mod lab;
mod product;
mod servers;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::node::Node;
use product::{median, ms, run};
use servers::deaths::{self, Tally, deaths, has_address, runs};
use servers::{Clients, FAST, GROUP, MANY, SOON, Servers, TWO_HUNDRED, VIP, sql};

/// Linux Heartbeat's.
const OLD_TIMING: &str = "interval_ms = 1000\nmissed_max = 15";
const OLD_DEAD_AFTER: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        None => dre().and_then(|()| heartbeat()),
        Some("dre") => dre(),
        Some("heartbeat") => heartbeat(),
        Some(other) => Err(anyhow::anyhow!("{other}: dre, heartbeat, or nothing for both")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-mysql: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dre() -> Result<()> {
    let times = runs(20);
    let mut servers = Some(Servers::start(FAST, "startup_hold_ms = 2000", "")?);
    if let Some(pair) = &servers {
        switchovers(pair, times)?;
    }
    for cause in [deaths::POWER_LOSS, deaths::KILLED] {
        let mut tally = deaths(FAST, Duration::from_secs(1), cause, times, &mut servers)?;
        tally.report(&format!("dre, 200 ms x 5, {} of the ACTIVE", cause.0));
    }
    drop(servers);
    let mut tally = deaths(OLD_TIMING, OLD_DEAD_AFTER, deaths::POWER_LOSS, times, &mut None)?;
    tally.report("dre, 1 s x 15, power loss of the ACTIVE");
    Ok(())
}

fn switchovers(pair: &Servers, times: usize) -> Result<()> {
    for (each, rate) in
        [(TWO_HUNDRED, "about 200 commits a second"), (Duration::ZERO, "four writers at full speed")]
    {
        let (mut gaps, mut commits) = (vec![], 0);
        for _ in 0..times {
            let (active, standby) = pair.settled()?;
            let (acked, _) = pair.under_load(each, Duration::from_secs(1), || {
                active.run(&["drectl", "-g", GROUP, "switchover"]).map(drop)
            })?;
            pair.settled()?;
            pair.has_all(standby, &acked)?;
            pair.are_the_same()?;
            commits += acked.rows.len();
            gaps.push(acked.gap_ms());
        }
        let mid = median(&mut gaps);
        println!(
            "FIGURE dre, switchover, {rate}, {times} times: {commits} commits acknowledged, 0 missing; none acknowledged for {mid:.0} ms \
             (median), {:.0} ms (longest)",
            gaps.last().copied().unwrap_or_default()
        );
    }
    Ok(())
}

// ---- Linux Heartbeat and asynchronous replication both ways ----------------------------------------------

const HA_CF: &str = "
use_logd no
debugfile /var/log/ha-debug
logfile /var/log/ha-log
logfacility local0
keepalive 1
deadtime 15
initdead 15
udpport 694
ucast eth3 172.16.11.54
ucast eth3 172.16.11.55
ucast eth4 172.16.13.54
ucast eth4 172.16.13.55
auto_failback on
crm no
node hadev1
node hadev2
";

const SERVER: &str = "bind-address = 0.0.0.0\nlog-bin = mysqlha\nmax_binlog_size = 10M\nskip-name-resolve = 1\n\
                      innodb_buffer_pool_size = 32M\ninnodb_log_file_size = 16M\n";

const ACCOUNTS: &str = "
SET sql_log_bin = 0;
CREATE USER repl@'172.16.%' IDENTIFIED BY 'of-the-lab';
GRANT REPLICATION SLAVE ON *.* TO repl@'172.16.%';
";

struct Old {
    lab: Lab,
}

impl Old {
    fn start() -> Result<Self> {
        let lay = |root: &Path| -> Result<()> {
            let name = fs::read_to_string(root.join("etc/hostname"))?;
            let id = if name.trim() == "hadev1" { 1 } else { 2 };
            let server = format!("[mysqld]\nserver-id = {id}\n{SERVER}");
            fs::write(root.join("etc/mysql/mariadb.conf.d/60-old.cnf"), server)?;
            let at = |file: &str| root.join("etc/ha.d").join(file);
            fs::create_dir_all(at(""))?;
            fs::write(at("ha.cf"), HA_CF)?;
            fs::write(at("haresources"), format!("hadev1 IPaddr::{VIP}/16/eth2/172.16.255.255\n"))?;
            fs::write(at("authkeys"), "auth 1\n1 sha1 of-the-lab\n")?;
            run(&["chmod", "600", &at("authkeys").display().to_string()])?;
            // Two clones of one file system would be one machine to it.
            for file in ["hb_uuid", "hb_generation"] {
                let _ = fs::remove_file(root.join("var/lib/heartbeat").join(file));
            }
            let root = format!("--root={}", root.display());
            run(&["systemctl", &root, "enable", "mariadb.service"])?;
            run(&["systemctl", &root, "disable", "heartbeat.service"])
        };
        let lab =
            Lab::builder().packages(&["mariadb-server", "heartbeat", "net-tools"]).install(lay).start()?;
        let old = Self { lab };
        for node in old.lab.nodes() {
            node.wait_for("mariadb -e 'SELECT 1'", SOON)?;
            sql(node, &format!("{ACCOUNTS}{}RESET MASTER;", servers::TABLES))?;
        }
        for (node, peer, address) in [
            (&old.lab.hadev1, &old.lab.hadev2, "172.16.11.55"),
            (&old.lab.hadev2, &old.lab.hadev1, "172.16.11.54"),
        ] {
            let at = sql(peer, "SHOW MASTER STATUS")?;
            let mut words = at.split('\t');
            let (file, position) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            sql(
                node,
                &format!(
                    "CHANGE MASTER TO MASTER_HOST='{address}', MASTER_USER='repl', MASTER_PASSWORD='of-the-lab', MASTER_SSL=0, \
                     MASTER_USE_GTID=no, MASTER_LOG_FILE='{file}', MASTER_LOG_POS={position}, MASTER_CONNECT_RETRY=1; START SLAVE"
                ),
            )?;
        }
        // From now on, and at every boot.
        for node in old.lab.nodes() {
            node.run(&["systemctl", "enable", "--now", "heartbeat.service"])?;
        }
        has_address(&old.lab.hadev1, VIP, SOON).with_context(|| old.words())?;
        Ok(old)
    }

    fn words(&self) -> String {
        self.lab
            .nodes()
            .map(|node| node.sh("tail -n 40 /var/log/ha-log; systemctl status heartbeat").unwrap_or_default())
            .join("\n----\n")
    }

    /// Whether both threads of both run: what an operator looks at.
    fn replicates(&self) -> Result<bool> {
        let mut all = true;
        for node in self.lab.nodes() {
            let seen = sql(node, "SHOW SLAVE STATUS\\G")?;
            let yes = |what: &str| seen.lines().any(|line| line.trim() == format!("{what}: Yes"));
            all &= yes("Slave_IO_Running") && yes("Slave_SQL_Running");
        }
        Ok(all)
    }

    fn are_the_same(&self) -> Result<bool> {
        let [one, two] = self.lab.nodes().map(|node| sql(node, "CHECKSUM TABLE app.t, app.last"));
        Ok(one? == two?)
    }

    /// What stopped where.
    fn errors(&self) -> Result<String> {
        let mut all = vec![];
        for node in self.lab.nodes() {
            let seen = sql(node, "SHOW SLAVE STATUS\\G")?;
            let last = seen.lines().map(str::trim).filter(|line| {
                (line.starts_with("Last_IO_Err") || line.starts_with("Last_SQL_Err")) && !line.ends_with(':')
            });
            let last: Vec<&str> = last.filter(|line| !line.ends_with(": 0")).collect();
            all.push(format!("{}: {}", node.name, last.join(", ")));
        }
        Ok(all.join("; "))
    }
}

fn heartbeat() -> Result<()> {
    let mut tally = Tally::default();
    let (mut two, mut failback) = (0, vec![]);
    let mut pair: Option<Old> = None;
    for turn in 0..runs(20) {
        let old = match pair.take() {
            Some(old) => old,
            None => Old::start()?,
        };
        let (active, survivor): (&Node, &Node) = (&old.lab.hadev1, &old.lab.hadev2);
        let judge = old.lab.judge(VIP)?;
        let clients = Clients::start(&old.lab, MANY);
        thread::sleep(Duration::from_secs(2));
        active.power_loss()?;
        has_address(survivor, VIP, SOON).with_context(|| old.words())?;
        thread::sleep(Duration::from_secs(2));
        let acked = clients.stop();
        let seen = judge.stop()?;
        let missing = Servers::missing(survivor, &acked)?;
        tally.add(acked.rows.len(), missing.len(), acked.gap_ms(), &seen);
        two += usize::from(!seen.two_at_once().is_empty());

        // It comes back, and takes the address back.
        let judge = old.lab.judge(VIP)?;
        let clients = Clients::start(&old.lab, MANY);
        active.boot()?;
        has_address(active, VIP, SOON).with_context(|| old.words())?;
        thread::sleep(Duration::from_secs(3));
        let back = clients.stop();
        let seen = judge.stop()?;
        two += usize::from(!seen.two_at_once().is_empty());
        failback.push(back.gap_ms());
        let begun = Instant::now();
        while !(old.replicates()? && old.are_the_same()?) && begun.elapsed() < Duration::from_secs(20) {
            thread::sleep(ms(200));
        }
        let end = match (old.replicates()?, old.are_the_same()?) {
            (true, true) => {
                tally.back += 1;
                pair = Some(old);
                "the same rows"
            }
            (true, false) => {
                tally.silent += 1;
                "other rows, and no word of it"
            }
            (false, _) => {
                tally.stands.push(old.errors()?);
                "replication stopped"
            }
        };
        println!(
            "Heartbeat, power loss {turn}: {} commits acknowledged, {} missing on the survivor; none for {:.0} ms, at the failback for \
             {:.0} ms; then {end}",
            acked.rows.len(),
            missing.len(),
            acked.gap_ms(),
            back.gap_ms()
        );
    }
    ensure!(tally.times > 0, "nothing was run");
    tally.report("Linux Heartbeat, 1 s x 15, asynchronous replication both ways, power loss of the ACTIVE");
    println!(
        "FIGURE Linux Heartbeat, failback: none acknowledged for {:.0} ms (median); two machines answered for the VIP in {two} of {} \
         deaths and returns",
        median(&mut failback),
        tally.times * 2
    );
    Ok(())
}
