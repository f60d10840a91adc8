//! `drectl db bootstrap` on two nodes with servers that nobody has touched: what makes them a pair, and what it leaves alone. Root; see
//! tests/lab.

mod lab;
mod product;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dre::database::DatabaseStatus;
use dre::logic::db::secrets::password;
use dre::logic::db::server_file::{self, Own};
use lab::node::{Node, Output};
use lab::{Lab, net};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use product::{KEY_BYTES, NODES, configuration, install, ms, run, state_of};

const GROUP: &str = "mysql";
const VIP: &str = "172.16.10.71";
const FILE: &str = "/etc/mysql/mariadb.conf.d/60-dre.cnf";
const KEY: &str = "/etc/dre/key";
const SOON: Duration = Duration::from_secs(60);
/// A restart of the server is in it.
const LONG: Duration = Duration::from_secs(180);
const BOOTSTRAP: [&str; 5] = ["drectl", "-g", GROUP, "db", "bootstrap"];

fn group() -> String {
    format!(
        r#"
{NODES}[heartbeat]
port = 1695
interval_ms = 200
missed_max = 5
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "{VIP}/16"
interface = "eth2"
label = "eth2:0"
broadcast = "172.16.255.255"
[election]
startup_hold_ms = 2000
[database]
"#
    )
}

/// Both nodes with a server as its package leaves it, and dre, whose group of the database does not run.
fn fresh() -> Result<Lab> {
    let lay = |root: &Path| -> Result<()> {
        install(root, &configuration(100, 5, ""))?;
        std::fs::write(root.join("etc/dre/mysql.toml"), group())?;
        run(&["systemctl", &format!("--root={}", root.display()), "enable", "mariadb.service"])
    };
    let lab = Lab::builder().packages(lab::database::PACKAGES).install(lay).start()?;
    for node in lab.nodes() {
        node.wait_for("mariadb -e 'SELECT 1'", SOON)?;
    }
    Ok(lab)
}

fn sql(node: &Node, statement: &str) -> Result<String> {
    let out = node.run_for(&["mariadb", "-N", "-B", "-e", statement], SOON)?;
    ensure!(out.ok(), "{}: {statement}: {}", node.name, out.stderr);
    Ok(out.stdout.trim().to_owned())
}

/// One column of `SHOW SLAVE STATUS`.
fn replication(node: &Node, column: &str) -> Result<String> {
    let all = node.run(&["mariadb", "-e", "SHOW SLAVE STATUS\\G"])?;
    let start = format!("{column}: ");
    let found = all.lines().find_map(|line| line.trim().strip_prefix(&start).map(str::to_owned));
    Ok(found.unwrap_or_default())
}

fn bootstrap(node: &Node, more: &[&str]) -> Result<Output> {
    node.run_for(&[&BOOTSTRAP, more].concat(), LONG)
}

fn made(node: &Node) -> Result<String> {
    let out = bootstrap(node, &["--yes"])?;
    ensure!(out.ok(), "{}: {}{}", node.name, out.stdout, out.stderr);
    Ok(out.stdout)
}

/// Refused with these words, and the server goes on as it was.
fn refused(node: &Node, more: &[&str], words: &[&str]) -> Result<()> {
    let before = node.main_pid("mariadb.service")?;
    let out = bootstrap(node, more)?;
    ensure!(!out.ok(), "{}: not refused: {}", node.name, out.stdout);
    for word in words {
        ensure!(out.stderr.contains(word), "{}: {word:?} is not in {:?}", node.name, out.stderr);
    }
    ensure!(out.stderr.contains("nothing was changed"), "{}", out.stderr);
    ensure!(node.main_pid("mariadb.service")? == before, "{}: the server was restarted", node.name);
    Ok(())
}

fn database(node: &Node) -> Result<DatabaseStatus> {
    let json = node.run(&["drectl", "-g", GROUP, "db", "status", "--json"])?;
    serde_json::from_str(&json).with_context(|| format!("{}: {json}", node.name))
}

fn start(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        node.run_for(&["systemctl", "enable", "--now", "dre@mysql"], SOON)?;
    }
    Ok(())
}

/// Waits until one has the role and takes writes, the other replicates and could take over: that one, and this one.
fn settled(lab: &Lab) -> Result<(&Node, &Node)> {
    let begun = Instant::now();
    loop {
        let seen = lab.nodes().map(|node| (state_of(node, GROUP), database(node)));
        if let [(Ok(one), Ok(first)), (Ok(two), Ok(second))] = &seen {
            let serves = |node: &dre::snapshot::Status, db: &DatabaseStatus| {
                // The peer as it last said, a heartbeat ago: a switchover goes by that.
                node.role == "active"
                    && node.vips.held == 1
                    && node.peer.fit
                    && !db.read_only
                    && db.state == "OK"
            };
            let stands_by = |node: &dre::snapshot::Status, db: &DatabaseStatus| {
                node.role == "standby"
                    && node.fit
                    && db.read_only
                    && db.state == "OK"
                    && db.why_not.is_empty()
            };
            if serves(one, first) && stands_by(two, second) {
                return Ok((&lab.hadev1, &lab.hadev2));
            }
            if serves(two, second) && stands_by(one, first) {
                return Ok((&lab.hadev2, &lab.hadev1));
            }
        }
        if begun.elapsed() > SOON {
            bail!("no working pair within {SOON:?}: {seen:#?}\n{}", journals(lab));
        }
        thread::sleep(ms(50));
    }
}

fn journals(lab: &Lab) -> String {
    let of = |node: &Node| {
        let units = ["-n80", "-u", "dre@mysql", "-u", "dre-mysql@mysql", "-u", "mariadb"];
        node.journal(&units).unwrap_or_else(|error| format!("{error:#}"))
    };
    lab.nodes().map(of).join("\n----\n")
}

/// Waits until the statement answers that.
fn comes(node: &Node, statement: &str, answer: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let got = sql(node, statement);
        if got.as_ref().is_ok_and(|got| got == answer) {
            return Ok(());
        }
        ensure!(begun.elapsed() < SOON, "{}: {statement}: {got:?}, not {answer:?}", node.name);
        thread::sleep(ms(50));
    }
}

/// A client of the pair, through the VIP.
fn write_through_vip(lab: &Lab, n: u32) -> Result<()> {
    net::in_netns(&lab.net.ns("client"), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let opts = OptsBuilder::default()
                .ip_or_hostname(VIP)
                .user(Some("app"))
                .pass(Some("of-the-lab"))
                .prefer_socket(false);
            let mut conn = Conn::new(opts).await?;
            conn.query_drop(format!("INSERT INTO app.t VALUES ({n}, 'through the VIP')")).await?;
            conn.disconnect().await?;
            anyhow::Ok(())
        })
    })?
}

/// The replicating account as anybody with its password would come in from `node`.
fn come_in(node: &Node, to: &str, with: &[&str]) -> Result<Output> {
    let pass = format!("-p{}", *password(&KEY_BYTES, GROUP));
    let line =
        ["mariadb", "-h", to, "-u", "dre_repl", &pass, "-N", "-B", "-e", "SHOW STATUS LIKE 'Ssl_cipher'"];
    node.run_for(&[&line, with].concat(), SOON)
}

#[test]
fn one_command_on_each_node_makes_a_pair_of_two_new_servers() -> Result<()> {
    let lab = fresh()?;
    // What is asked for before anything is done.
    let (one, two) = (&lab.hadev1, &lab.hadev2);
    for (node, id) in [(one, 1), (two, 2)] {
        let printed = node.run(&[&BOOTSTRAP[..], &["--print-config"]].concat())?;
        ensure!(printed == server_file::text(&Own { id, port: 3306, six: false }), "{printed}");
    }
    refused(one, &[], &["--yes"])?;
    let key = one.read(KEY)?;
    one.sh(&format!("mv {KEY} /root/key"))?;
    refused(one, &["--yes"], &["drectl key new"])?;
    one.sh(&format!("mv /root/key {KEY}"))?;
    ensure!(!one.place(FILE).exists() && !one.place("/etc/mysql/dre").exists(), "something was written");

    for node in lab.nodes() {
        let said = made(node)?;
        ensure!(
            said.contains("systemctl enable --now dre@mysql") && said.contains("valid until 20"),
            "{said}"
        );
        let secret = password(&KEY_BYTES, GROUP);
        ensure!(!said.contains(&*secret), "the password was shown");
        let mode = |path: &str| node.place(path).metadata().map(|meta| meta.permissions().mode() & 0o777);
        ensure!(mode(FILE)? == 0o644 && mode("/etc/mysql/dre/key.pem")? == 0o640, "modes");
        ensure!(node.sh("stat -c %U:%G /etc/mysql/dre/key.pem")?.trim() == "root:mysql", "owners");
        let journal = node.journal(&[])?;
        ensure!(
            !journal.contains(&*secret) && !journal.contains(key.trim()),
            "{}: a secret is in the journal",
            node.name
        );
    }
    ensure!(one.read("/etc/mysql/dre/ca.pem")? == two.read("/etc/mysql/dre/ca.pem")?, "two authorities");
    start(&lab)?;
    let (active, standby) = settled(&lab)?;
    for node in lab.nodes() {
        let said = node.run(&["drectl", "-g", GROUP, "db", "check"])?;
        ensure!(
            said.contains("every setting is as it must be") && said.contains("certificate is valid"),
            "{said}"
        );
    }
    sql(
        active,
        "CREATE DATABASE app; CREATE TABLE app.t (n INT PRIMARY KEY, word VARCHAR(40)); \
         CREATE USER app@'%' IDENTIFIED BY 'of-the-lab'; GRANT SELECT, INSERT ON app.* TO app@'%'",
    )?;
    write_through_vip(&lab, 1)?;
    comes(standby, "SELECT word FROM app.t WHERE n = 1", "through the VIP")?;

    // Replication goes over TLS because it cannot go otherwise, and the other end is who it says.
    ensure!(replication(standby, "Slave_IO_Running")? == "Yes", "{}", journals(&lab));
    for column in ["Master_SSL_Allowed", "Master_SSL_Verify_Server_Cert"] {
        ensure!(replication(standby, column)? == "Yes", "{column}");
    }
    let to = replication(standby, "Master_Host")?;
    let verified = ["--ssl-ca=/etc/mysql/dre/ca.pem", "--ssl-verify-server-cert"];
    let seen = come_in(standby, &to, &verified)?;
    let cipher = seen.stdout.split_whitespace().nth(1);
    ensure!(cipher.is_some_and(|cipher| cipher.starts_with("TLS_")), "{}{}", seen.stdout, seen.stderr);
    let plain = come_in(standby, &to, &["--skip-ssl"])?;
    ensure!(!plain.ok() && plain.stderr.contains("1045"), "{}{}", plain.stdout, plain.stderr);
    // The VIP's address is in the certificate too: a client may verify it.
    let vip = standby.run_for(
        &[&["mariadb", "-h", VIP, "-u", "app", "-pof-the-lab", "-N", "-B", "-e", "SELECT 1"], &verified[..]]
            .concat(),
        SOON,
    )?;
    ensure!(vip.ok(), "{}", vip.stderr);

    // Again: not where the role is, and elsewhere it repairs.
    refused(active, &["--yes"], &["systemctl stop dre@mysql", "switchover"])?;
    let certificate = standby.read("/etc/mysql/dre/cert.pem")?;
    let before = standby.main_pid("mariadb.service")?;
    made(standby)?;
    ensure!(standby.main_pid("mariadb.service")? == before, "restarted, and nothing was wrong");
    ensure!(standby.read("/etc/mysql/dre/cert.pem")? != certificate, "the certificate is the old one");
    settled(&lab)?;
    write_through_vip(&lab, 2)?;
    comes(standby, "SELECT COUNT(*) FROM app.t", "2")?;
    let cut = standby.read(FILE)?.replace("gtid_strict_mode = 1", "gtid_strict_mode = 0");
    standby.write(FILE, cut)?;
    sql(
        standby,
        "SET sql_log_bin = 0; DROP USER dre_repl@'172.16.11.54'; CREATE USER dre_repl@'10.9.9.9'; SET GLOBAL gtid_strict_mode = 0",
    )?;
    made(standby)?;
    comes(standby, "SELECT @@global.gtid_strict_mode", "1")?;
    // The agent has seen that the server was started anew: without it nobody replicates.
    comes_to(standby, "Slave_IO_Running", "Yes")?;
    let hosts = "SELECT GROUP_CONCAT(Host ORDER BY Host) FROM mysql.user WHERE User = 'dre_repl'";
    comes(standby, hosts, "172.16.11.54,172.16.11.55,172.16.13.54,172.16.13.55")?;
    let (active, standby) = settled(&lab)?;
    // What was repaired carries the other direction too.
    let out = active.run_for(&["drectl", "-g", GROUP, "switchover", "--timeout", "60"], SOON)?;
    ensure!(out.ok(), "{}{}\n{}", out.stdout, out.stderr, journals(&lab));
    let (now, then) = settled(&lab)?;
    ensure!(
        now.name == standby.name && then.name == active.name,
        "the role did not move\n{}",
        journals(&lab)
    );
    write_through_vip(&lab, 3)?;
    comes(then, "SELECT COUNT(*) FROM app.t", "3")?;

    // A server with another cluster key is none of the pair, in either direction.
    then.run_for(&["systemctl", "stop", "dre@mysql", "dre-mysql@mysql"], SOON)?;
    then.run(&["drectl", "key", "new", "--force"])?;
    made(then)?;
    sql(then, "START SLAVE")?;
    comes_to(then, "Last_IO_Errno", "2026")?;
    sql(then, "STOP SLAVE")?;
    then.run_for(&["systemctl", "restart", "mariadb"], SOON)?;
    let from = if then.name == "hadev1" { "172.16.11.54" } else { "172.16.11.55" };
    let strange = come_in(now, from, &verified)?;
    ensure!(!strange.ok() && strange.stderr.contains("2026"), "{}{}", strange.stdout, strange.stderr);
    then.write(KEY, key)?;
    then.sh(&format!("chmod 0600 {KEY}"))?;
    made(then)?;
    then.run_for(&["systemctl", "start", "dre@mysql"], SOON)?;
    settled(&lab)?;
    comes(then, "SELECT COUNT(*) FROM app.t", "3")
}

/// Waits until a column of `SHOW SLAVE STATUS` has that.
fn comes_to(node: &Node, column: &str, value: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let got = replication(node, column)?;
        if got == value {
            return Ok(());
        }
        ensure!(begun.elapsed() < SOON, "{}: {column} is {got:?}, not {value:?}", node.name);
        thread::sleep(ms(50));
    }
}

#[test]
fn a_server_with_data_and_a_file_of_somebody_else_are_left_as_they_are() -> Result<()> {
    let lab = fresh()?;
    let node = &lab.hadev1;
    sql(node, "CREATE DATABASE shop; CREATE TABLE shop.t (n INT)")?;
    refused(node, &["--yes"], &["it has shop", "drectl -g mysql db adopt"])?;
    sql(node, "DROP DATABASE shop; CHANGE MASTER TO MASTER_HOST='10.9.9.9', MASTER_USER='x'")?;
    refused(node, &["--yes"], &["it replicates from 10.9.9.9:3306"])?;
    sql(node, "RESET SLAVE ALL")?;
    node.write(FILE, "[mysqld]\nmax_connections = 50\n")?;
    refused(node, &["--yes"], &[FILE, "not written by this command"])?;
    ensure!(node.read(FILE)? == "[mysqld]\nmax_connections = 50\n", "it was written over");
    ensure!(!node.place("/etc/mysql/dre").exists(), "something was written");
    ensure!(
        sql(node, "SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'dre%'")? == "0",
        "accounts were made"
    );
    // A server that does not come back is told with what says why.
    node.sh(&format!("rm {FILE}"))?;
    node.sh("printf '[Service]\\nExecStartPre=/bin/sh -c \"! test -e /etc/mysql/dre\"\\n' | SYSTEMD_EDITOR=tee systemctl edit --stdin mariadb.service")?;
    let out = bootstrap(node, &["--yes"])?;
    ensure!(
        !out.ok() && out.stderr.contains("journalctl -u mariadb.service"),
        "{}{}",
        out.stdout,
        out.stderr
    );
    Ok(())
}

/// A standby that somebody wrote to by hand while its agent was away.
#[test]
fn what_is_on_one_server_alone_is_saved_in_words_and_rows() -> Result<()> {
    let lab = fresh()?;
    for node in lab.nodes() {
        made(node)?;
    }
    start(&lab)?;
    let (active, standby) = settled(&lab)?;
    sql(
        active,
        "CREATE DATABASE app; CREATE TABLE app.t (n INT PRIMARY KEY, word VARCHAR(40)); INSERT INTO app.t VALUES (1, 'of both')",
    )?;
    comes(standby, "SELECT word FROM app.t WHERE n = 1", "of both")?;
    let diverged = |node: &Node, more: &[&str]| {
        node.run_for(&[&["drectl", "-g", GROUP, "db", "diverged"], more].concat(), SOON)
    };
    let none = diverged(standby, &[])?;
    ensure!(none.ok() && none.stdout.contains("nothing is on"), "{}{}", none.stdout, none.stderr);

    standby.run_for(&["systemctl", "stop", "dre@mysql", "dre-mysql@mysql"], SOON)?;
    // The ACTIVE's server, which receives from here, would take it in and have it too.
    let cut = "nft add table inet own && nft 'add chain inet own in { type filter hook input priority 0; }' && \
               nft 'add chain inet own out { type filter hook output priority 0; }' && \
               nft add rule inet own in tcp dport 3306 drop && nft add rule inet own out tcp sport 3306 drop";
    standby.sh(cut)?;
    sql(
        standby,
        "STOP SLAVE; SET GLOBAL read_only = 0; INSERT INTO app.t VALUES (7, 'a lost word'), (8, 'another'); \
         FLUSH BINARY LOGS; UPDATE app.t SET word = 'changed' WHERE n = 7; SET GLOBAL read_only = 1",
    )?;
    sql(active, "INSERT INTO app.t VALUES (2, 'of the active')")?;
    standby.sh("nft delete table inet own")?;
    standby.run_for(&["systemctl", "start", "dre@mysql"], SOON)?;
    let begun = Instant::now();
    while database(standby).map_or(true, |status| status.state != "DIVERGED") {
        ensure!(begun.elapsed() < SOON, "it is not DIVERGED: {:#?}\n{}", database(standby), journals(&lab));
        thread::sleep(ms(50));
    }
    let listed = diverged(standby, &["--no-dump"])?;
    let directory = standby.place("/var/lib/dre-mysql@mysql");
    let saved = || -> Result<Vec<String>> {
        let names =
            std::fs::read_dir(&directory)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| name.starts_with("lost-")).collect())
    };
    ensure!(listed.ok() && listed.stdout.contains("alone: 0-"), "{}{}", listed.stdout, listed.stderr);
    ensure!(saved()?.is_empty(), "it wrote what it was not to");
    let said = diverged(standby, &[])?;
    ensure!(said.ok() && said.stdout.contains("2 transactions, 3 rows"), "{}{}", said.stdout, said.stderr);
    ensure!(said.stdout.contains("db reseed") && said.stdout.contains("db accept-errant"), "{}", said.stdout);
    let names = saved()?;
    ensure!(names.len() == 1, "{names:?}");
    let path = format!("/var/lib/dre-mysql@mysql/{}", names[0]);
    ensure!(standby.sh(&format!("stat -c '%a %U' {path}"))?.trim() == "600 root", "its mode");
    let text = standby.read(&path)?;
    for words in [
        "-- On hadev",
        "a lost word",
        "another",
        "changed",
        "### INSERT INTO `app`.`t`",
        "### UPDATE `app`.`t`",
    ] {
        ensure!(text.contains(words), "{words:?} is not in\n{text}");
    }
    ensure!(!text.contains("of both") && !text.contains("CREATE TABLE"), "what both have is in\n{text}");
    // What the tool is asked for is what it knows: it did not read the whole log out.
    let asked = standby.sh("mariadb-binlog --no-defaults --stop-position=0-1-1 /var/lib/mysql/binlog.000001 >/dev/null && echo yes")?;
    ensure!(asked.trim() == "yes", "this tool knows no transactions' ids");
    let refused = diverged(standby, &["--dump", &path])?;
    ensure!(!refused.ok() && refused.stderr.contains("--dump FILE"), "{}{}", refused.stdout, refused.stderr);
    ensure!(standby.read(&path)? == text, "it was written over");
    let json = diverged(standby, &["--json", "--dump", "/root/lost.sql"])?;
    ensure!(
        json.ok() && json.stdout.contains("\"transactions\":2}") && json.stdout.contains("\"missing\":[]"),
        "{}{}",
        json.stdout,
        json.stderr
    );
    // The oldest logs go first, and with them the first of the two: that is no "all of it".
    let newest = sql(standby, "SHOW MASTER STATUS")?;
    let newest = newest.split_whitespace().next().unwrap_or_default().to_owned();
    sql(standby, &format!("PURGE BINARY LOGS TO '{newest}'"))?;
    let part = diverged(standby, &["--dump", "/root/part.sql"])?;
    ensure!(
        part.status.and_then(|status| status.code()) == Some(75)
            && part.stdout.contains("1 transactions, 1 rows")
            && part.stdout.contains("not saved: 0-"),
        "{}{}",
        part.stdout,
        part.stderr
    );
    let json = diverged(standby, &["--json", "--dump", "/root/part.json.sql"])?;
    ensure!(
        json.status.and_then(|status| status.code()) == Some(75)
            && json.stdout.contains("\"missing\":[{\"from\":"),
        "{}{}",
        json.stdout,
        json.stderr
    );
    Ok(())
}

/// A pair as the old guide makes it: server-id 1 and 2, a log, CHANGE MASTER both ways by position, both writable.
fn by_the_old_guide() -> Result<Lab> {
    let lab = fresh()?;
    for (node, id) in [(&lab.hadev1, 1), (&lab.hadev2, 2)] {
        let text = format!(
            "[mysqld]\nserver-id = {id}\nlog-bin = mysqlha\nmax_binlog_size = 10M\nbind-address = 0.0.0.0\n"
        );
        node.write("/etc/mysql/mariadb.conf.d/55-old.cnf", text)?;
        node.run_for(&["systemctl", "restart", "mariadb"], SOON)?;
        sql(
            node,
            "SET sql_log_bin = 0; CREATE USER repl@'%' IDENTIFIED BY 'of-old'; GRANT REPLICATION SLAVE ON *.* TO repl@'%'; RESET MASTER",
        )?;
    }
    for (node, peer) in [(&lab.hadev1, "172.16.10.55"), (&lab.hadev2, "172.16.10.54")] {
        sql(
            node,
            &format!(
                "CHANGE MASTER TO MASTER_HOST='{peer}', MASTER_USER='repl', MASTER_PASSWORD='of-old', MASTER_SSL=0, \
                 MASTER_SSL_VERIFY_SERVER_CERT=0, MASTER_LOG_FILE='mysqlha.000001', MASTER_LOG_POS=4, MASTER_CONNECT_RETRY=1; START SLAVE"
            ),
        )?;
    }
    let (one, two) = (&lab.hadev1, &lab.hadev2);
    sql(
        one,
        "CREATE DATABASE app; CREATE TABLE app.t (n INT PRIMARY KEY, word VARCHAR(40)); CREATE TABLE app.s (n INT PRIMARY KEY); \
         CREATE TABLE app.old (n INT PRIMARY KEY) WITH SYSTEM VERSIONING; INSERT INTO app.old VALUES (1), (2); DELETE FROM app.old WHERE n = 1; \
         INSERT INTO app.t VALUES (101, 'of one'); CREATE USER app@'%' IDENTIFIED BY 'of-the-lab'; GRANT SELECT, INSERT ON app.* TO app@'%'",
    )?;
    comes(two, "SELECT COUNT(*) FROM app.t", "1")?;
    sql(two, "INSERT INTO app.t VALUES (102, 'of two')")?;
    comes(one, "SELECT COUNT(*) FROM app.t", "2")?;
    sql(one, "INSERT INTO app.t VALUES (103, 'of one')")?;
    comes(two, "SELECT COUNT(*) FROM app.t", "3")?;
    Ok(lab)
}

/// How far an adoption is on that node.
const MARK: &str = "/var/lib/dre-mysql@mysql/adopting";

/// The same command on both nodes at once; what came of it on each.
fn adopt(lab: &Lab) -> Result<[Output; 2]> {
    adopt_with(lab, [&[], &[]])
}

fn adopt_with(lab: &Lab, more: [&[&str]; 2]) -> Result<[Output; 2]> {
    const ADOPT: [&str; 8] = ["drectl", "-g", GROUP, "db", "adopt", "--yes", "--watch", "1"];
    thread::scope(|scope| {
        let [first, second] = lab.nodes();
        let [one, two] = [(first, more[0]), (second, more[1])]
            .map(|(node, more)| scope.spawn(move || node.run_for(&[&ADOPT, more].concat(), LONG)));
        let of = |joined: thread::Result<Result<Output>>| joined.expect("nobody panics");
        Ok([of(one.join())?, of(two.join())?])
    })
}

#[test]
fn a_pair_made_by_hand_is_adopted_if_both_have_the_same_and_left_alone_if_not() -> Result<()> {
    let lab = by_the_old_guide()?;
    let (one, two) = (&lab.hadev1, &lab.hadev2);
    let both_refuse = |words: &[&str]| -> Result<()> {
        for out in adopt(&lab)? {
            let all = format!("{}{}", out.stdout, out.stderr);
            ensure!(!out.ok(), "{all}");
            for word in words {
                ensure!(all.contains(word), "{word:?} is not said in\n{all}");
            }
        }
        for node in lab.nodes() {
            ensure!(!node.place(FILE).exists(), "{}: something was written", node.name);
            ensure!(sql(node, "SELECT @@global.read_only")? == "0", "{} stayed read-only", node.name);
        }
        Ok(())
    };
    sql(two, "STOP SLAVE")?;
    both_refuse(&["not adopted", "hadev2 does not replicate", "nothing was changed"])?;
    sql(two, "START SLAVE")?;
    for node in lab.nodes() {
        comes_to(node, "Slave_IO_Running", "Yes")?;
        comes_to(node, "Slave_SQL_Running", "Yes")?;
    }

    // They have differed for long, and no thread has said so.
    sql(two, "SET sql_log_bin = 0; INSERT INTO app.s VALUES (7)")?;
    both_refuse(&["1 are not the same on both: app.s", "the server is as it was"])?;
    sql(one, "INSERT INTO app.t VALUES (104, 'after it was undone')")?;
    comes(two, "SELECT COUNT(*) FROM app.t", "4")?;
    sql(
        two,
        "SET sql_log_bin = 0; DELETE FROM app.s; CREATE VIEW app.v AS SELECT n FROM app.s; GRANT DELETE ON app.* TO app@'%'",
    )?;
    both_refuse(&["2 are not the same on both: account 'app'@'%', view app.v", "the server is as it was"])?;
    sql(two, "SET sql_log_bin = 0; DROP VIEW app.v; REVOKE DELETE ON app.* FROM app@'%'")?;

    for out in adopt(&lab)? {
        ensure!(out.ok(), "{}{}\n{}", out.stdout, out.stderr, journals(&lab));
        print!("{}", out.stdout);
        ensure!(
            out.stdout.contains("the same on both") && out.stdout.contains("heartbeat"),
            "{}",
            out.stdout
        );
    }
    for node in lab.nodes() {
        ensure!(!node.place(MARK).exists(), "{}: as if it were under way", node.name);
    }
    start(&lab)?;
    let (active, standby) = settled(&lab)?;
    ensure!(
        sql(active, "SELECT @@global.gtid_strict_mode, @@global.server_id")?.starts_with('1'),
        "not strict"
    );
    write_through_vip(&lab, 1)?;
    comes(standby, "SELECT GROUP_CONCAT(n ORDER BY n) FROM app.t", "1,101,102,103,104")?;
    ensure!(
        replication(standby, "Using_Gtid")? == "Slave_Pos"
            && replication(standby, "Master_User")? == "dre_repl"
    );
    let check = standby.run(&["drectl", "-g", GROUP, "db", "check"])?;
    ensure!(check.contains("every setting is as it must be"), "{check}");
    active.run_for(&["drectl", "-g", GROUP, "switchover", "--timeout", "60"], SOON)?;
    let (now, then) = settled(&lab)?;
    ensure!(now.name == standby.name, "the role did not move");
    write_through_vip(&lab, 2)?;
    comes(then, "SELECT COUNT(*) FROM app.t", "6")
}

/// What another file of the pair, or an account, may do to data that were compared.
#[test]
fn what_an_adoption_could_not_rely_on_is_said_before_anything_is_changed() -> Result<()> {
    let lab = by_the_old_guide()?;
    let (one, two) = (&lab.hadev1, &lab.hadev2);
    let refused = |more: [&[&str]; 2], words: &[&str]| -> Result<()> {
        for out in adopt_with(&lab, more)? {
            let all = format!("{}{}", out.stdout, out.stderr);
            ensure!(!out.ok() && all.contains("nothing was changed"), "{all}");
            for word in words {
                ensure!(all.contains(word), "{word:?} is not said in\n{all}");
            }
        }
        for node in lab.nodes() {
            ensure!(sql(node, "SELECT @@global.read_only")? == "0", "{}: read-only", node.name);
            ensure!(!node.place(MARK).exists(), "{}: marked", node.name);
        }
        Ok(())
    };
    refused([&["--no-checksum"], &[]], &["--no-checksum was given on one node alone"])?;
    sql(
        two,
        "SET sql_log_bin = 0; CREATE USER boss@'%' IDENTIFIED BY 'x'; CREATE USER away@'%' IDENTIFIED BY 'x' ACCOUNT LOCK; \
         CREATE ROLE chiefs; GRANT READ_ONLY ADMIN ON *.* TO chiefs; GRANT chiefs TO app@'%'; \
         GRANT ALL ON *.* TO boss@'%'; GRANT ALL ON *.* TO away@'%'; SET GLOBAL event_scheduler = ON; SET GLOBAL slave_exec_mode = 'IDEMPOTENT'; \
         STOP SLAVE; SET GLOBAL replicate_do_db = 'app'; START SLAVE",
    )?;
    comes_to(two, "Slave_IO_Running", "Yes")?;
    refused(
        [&[], &[]],
        &[
            "write through read_only: 'boss'@'%', role 'chiefs';",
            "hadev2 runs events",
            "Replicate_Do_DB = app, slave_exec_mode = IDEMPOTENT",
        ],
    )?;
    sql(
        two,
        "SET sql_log_bin = 0; DROP USER boss@'%', away@'%'; DROP ROLE chiefs; SET GLOBAL event_scheduler = OFF; SET GLOBAL slave_exec_mode = 'STRICT'; \
         STOP SLAVE; SET GLOBAL replicate_do_db = ''; START SLAVE",
    )?;
    comes_to(two, "Slave_IO_Running", "Yes")?;

    // A table whose rows nobody can read has no sum, on both alike.
    sql(one, "CREATE TABLE app.m (n INT) ENGINE = MyISAM")?;
    comes(two, "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_NAME = 'm'", "1")?;
    for node in lab.nodes() {
        sql(node, "FLUSH TABLES")?;
        node.sh("rm /var/lib/mysql/app/m.MYD")?;
    }
    for out in adopt(&lab)? {
        let all = format!("{}{}", out.stdout, out.stderr);
        ensure!(!out.ok() && all.contains("app.m: ") && all.contains("as it was"), "{all}");
    }
    Ok(())
}

#[test]
fn an_adoption_that_was_cut_off_leaves_no_server_read_only() -> Result<()> {
    let lab = by_the_old_guide()?;
    let (one, two) = (&lab.hadev1, &lab.hadev2);
    // In the middle: one waits until the other has applied what it wrote last.
    sql(two, "STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 30; START SLAVE")?;
    comes_to(two, "Slave_IO_Running", "Yes")?;
    let cut_off_by = |signal: &str, n: u32| -> Result<[Output; 2]> {
        sql(one, &format!("INSERT INTO app.t VALUES ({n}, 'not there yet')"))?;
        thread::scope(|scope| {
            let both = scope.spawn(|| adopt(&lab));
            for node in lab.nodes() {
                comes(node, "SELECT @@global.read_only", "1")?;
                ensure!(node.place(MARK).exists(), "{}: no mark", node.name);
            }
            one.sh(&format!("kill -{signal} $(pidof drectl)"))?;
            both.join().expect("nobody panics")
        })
    };
    let works = |node: &Node| -> Result<()> {
        comes(node, "SELECT @@global.read_only", "0")?;
        comes_to(node, "Slave_SQL_Running", "Yes")?;
        ensure!(!node.place(MARK).exists(), "{}: still marked", node.name);
        Ok(())
    };
    let [first, second] = cut_off_by("INT", 201)?;
    ensure!(
        !first.ok() && first.stderr.contains("SIGINT") && first.stderr.contains("as it was"),
        "{}",
        first.stderr
    );
    ensure!(
        !second.ok()
            && second.stderr.contains("hadev1 goes no further")
            && second.stderr.contains("as it was"),
        "{}",
        second.stderr
    );
    works(one)?;
    works(two)?;

    // Nothing can be done by what is killed: the next run does it.
    let [_, second] = cut_off_by("KILL", 202)?;
    ensure!(!second.ok() && second.stderr.contains("as it was"), "{}", second.stderr);
    works(two)?;
    ensure!(sql(one, "SELECT @@global.read_only")? == "1", "who made it writable?");
    refused(one, &["--yes"], &["db adopt was cut off here"])?;
    sql(two, "STOP SLAVE")?;
    let [first, second] = adopt(&lab)?;
    ensure!(first.stdout.contains("an earlier run was cut off"), "{}{}", first.stdout, first.stderr);
    ensure!(second.stderr.contains("hadev2 does not replicate"), "{}{}", second.stdout, second.stderr);
    works(one)?;

    // A seal of which the peer knows nothing is no seal: that one has served since.
    sql(two, "CHANGE MASTER TO MASTER_DELAY = 0; START SLAVE")?;
    let state = sql(one, "SELECT @@global.gtid_binlog_state")?;
    let touched = r#"{"writable":true,"replicates":true,"without_file":true}"#;
    let seal = format!(
        r#"{{"Sealed":{{"states":{{"hadev1":"{state}","hadev2":""}},"log":"/var/lib/mysql/mysqlha","touched":{touched},"begun":false}}}}"#
    );
    one.write(MARK, seal)?;
    sql(one, "SET GLOBAL read_only = 1; STOP SLAVE")?;
    let [first, second] = adopt(&lab)?;
    ensure!(
        !first.ok()
            && first.stderr.contains("hadev2 does not know of it")
            && first.stderr.contains("as it was"),
        "{}{}",
        first.stdout,
        first.stderr
    );
    ensure!(!second.ok() && second.stderr.contains("nothing was changed here"), "{}", second.stderr);
    works(one)?;
    ensure!(sql(one, "SELECT @@global.gtid_binlog_state")? == state, "its history is gone");
    Ok(())
}
