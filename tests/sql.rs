//! The database's own statements, against real servers: two processes of the test in a network of their own, of each product that
//! Debian has (`lab::database`), or of what DRE_DATABASE_ROOT has. Needs root.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use dre::logic::db::facts::{Answer, Failure, Flavor, Gtids, Op, Probe, Receiver};
use dre::shell::sql::{self, Session};
use mysql_async::prelude::Queryable;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

mod lab;

use lab::database::{Product, Server, own_network};

/// What an agent gives one statement that is not expected to wait.
const SOON: Duration = Duration::from_secs(2);

/// With every product, one after the other, each in a thread that is called like it: what fails, and what panics, says with which.
fn run(test: impl AsyncFn(&Product) -> Result<()> + Copy + Send + 'static) -> Result<()> {
    let mut failed = vec![];
    for product in Product::all()? {
        let name = product.name.clone();
        let alone = thread::Builder::new().name(name.clone()).spawn(move || {
            own_network()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, test(&product))
        })?;
        match alone.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{name}: {error:?}")),
            Err(_) => failed.push(format!("{name}: it panicked")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

fn agent(server: &Server) -> Session {
    Session::new(&server.socket(), "dre_ctl", "mariadb.service")
}

fn maria(server: &Server) -> bool {
    server.flavor == Flavor::MariaDb
}

/// Failures are facts, and have no trait of errors.
fn good<T>(result: Result<T, Failure>) -> Result<T> {
    result.map_err(|failure| anyhow!("{failure:?}"))
}

async fn look(session: &mut Session) -> Result<Box<Probe>> {
    good(session.probe(SOON).await)
}

async fn done(session: &mut Session, op: Op) -> Result<()> {
    ensure!(good(session.carry_out(op, SOON).await)? == Answer::Done);
    Ok(())
}

async fn settled(session: &mut Session) -> Result<Gtids> {
    match good(session.carry_out(Op::Settled, SOON).await)? {
        Answer::Has(gtids) => Ok(gtids),
        Answer::Done => Err(anyhow!("it did not say what it has")),
    }
}

/// Until it holds, or the test fails with what was seen last.
async fn until(session: &mut Session, what: &str, holds: impl Fn(&Probe) -> bool) -> Result<Box<Probe>> {
    let begun = Instant::now();
    loop {
        let probe = look(session).await?;
        if holds(&probe) {
            return Ok(probe);
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "not {what}: {probe:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn replicates(probe: &Probe) -> bool {
    probe.replica.as_ref().is_some_and(|replica| replica.receiver == Receiver::Connected && replica.applier)
}

/// The first takes writes and the second follows it, with semi-synchronous replication; the first does not follow yet.
async fn pair(product: &Product) -> Result<(Server, Server)> {
    let (one, two) = (product.start(1, &[]).await?, product.start(2, &[]).await?);
    one.follow(&two).await?;
    two.follow(&one).await?;
    let (mut first, mut second) = (agent(&one), agent(&two));
    done(&mut second, Op::StartReplication).await?;
    until(&mut second, "replicating", replicates).await?;
    done(&mut first, Op::SemiSync { source: true, timeout_ms: 60_000, wait_without_replica: false }).await?;
    done(&mut first, Op::Writable).await?;
    until(&mut first, "acknowledged", |probe| probe.semi_sync.on && probe.semi_sync.replicas == 1).await?;
    Ok((one, two))
}

/// Inserts until it cannot; what it was told is committed.
fn writer(server: &Server) -> JoinHandle<Vec<u64>> {
    let socket = server.socket();
    spawn_local(async move {
        let options = mysql_async::OptsBuilder::default()
            .socket(Some(socket.display().to_string()))
            .user(Some("app"))
            .db_name(Some("test"));
        let mut conn = mysql_async::Conn::new(options).await.expect("app comes in");
        let mut acknowledged = vec![];
        while conn.query_drop("INSERT INTO t (word) VALUES ('x')").await.is_ok() {
            acknowledged.push(conn.last_insert_id().expect("a number"));
        }
        acknowledged
    })
}

#[test]
fn a_look_sees_the_server_as_it_is() -> Result<()> {
    run(async |product| {
        let (one, two) = pair(product).await?;
        one.run(&["INSERT INTO test.t (word) VALUES ('a')"]).await?;
        let mut first = agent(&one);
        done(&mut first, Op::WriteTest).await?;
        let seen = look(&mut first).await?;
        assert_eq!((seen.flavor, seen.server_id, seen.read_only), (one.flavor, 1, false));
        assert_eq!(seen.version.contains("MariaDB"), maria(&one), "{seen:?}");
        assert_eq!(seen.server_uuid.is_empty(), maria(&one), "{seen:?}");
        assert_eq!(seen.wrong, [], "the lab's settings are what is demanded");
        assert!(seen.semi_sync.enabled && seen.semi_sync.on && seen.waiters == 0, "{seen:?}");
        let beat = one.ask("SELECT ts FROM dre.heartbeat WHERE ts > NOW() - INTERVAL 1 MINUTE").await?;
        assert!(!beat.is_empty(), "no heartbeat");
        let replica = seen.replica.ok_or_else(|| anyhow!("it was told whom to follow"))?;
        assert_eq!((replica.receiver, replica.applier, replica.source_id), (Receiver::Stopped, false, 0));

        let mut second = agent(&two);
        done(&mut second, Op::WaitApplied { target: seen.has.clone() }).await?;
        let seen_there = look(&mut second).await?;
        assert!(seen_there.read_only && !seen_there.semi_sync.enabled);
        assert!(seen_there.has.covers(&seen.has) && seen_there.applied.covers(&seen.has), "{seen_there:?}");
        assert_eq!(two.ask("SELECT ts FROM dre.heartbeat").await?, beat, "the row came over");
        let replica = seen_there.replica.ok_or_else(|| anyhow!("it follows"))?;
        assert_eq!((replica.host.as_str(), replica.port, replica.source_id), ("127.0.0.1", 3306, 1));
        assert!(replica.using_gtid && replica.received.covers(&seen.has), "{replica:?}");
        assert!(replica.read.0.starts_with("binlog.") && replica.read.1 > 0, "{replica:?}");
        assert_eq!((replica.receiver_errno, replica.applier_errno), (0, 0));
        Ok(())
    })
}

#[test]
fn what_is_set_up_wrong_is_named_with_what_it_must_be() -> Result<()> {
    run(async |product| {
        let server = product
            .start(
                1,
                &[
                    "--binlog-format=MIXED",
                    "--sync-binlog=0",
                    "--loose-log-slave-updates=0",
                    "--loose-log-replica-updates=0",
                    "--loose-slave-net-timeout=60",
                    "--loose-replica-net-timeout=60",
                    "--loose-rpl-semi-sync-slave-enabled=0",
                    "--loose-rpl-semi-sync-replica-enabled=0",
                    "--loose-gtid-domain-id=3",
                    "--loose-gtid-strict-mode=0",
                    "--loose-expire-logs-days=1",
                    "--loose-skip-replica-start=0",
                ],
            )
            .await?;
        // As root, which is how drectl asks without the agent: the account that needs no password.
        let (flavor, version, wrong) = good(sql::check(&server.socket(), "root", SOON).await)?;
        assert_eq!((flavor, version.contains("MariaDB")), (server.flavor, maria(&server)));
        let found: Vec<(&str, &str, bool)> =
            wrong.iter().map(|w| (w.variable.as_str(), w.have.as_str(), w.fatal)).collect();
        let mariadb = [
            ("log_slave_updates", "OFF", true),
            ("gtid_strict_mode", "OFF", true),
            ("gtid_domain_id", "3", true),
            ("binlog_format", "MIXED", true),
            ("sync_binlog", "0", false),
            ("slave_net_timeout", "60", false),
            ("rpl_semi_sync_slave_enabled", "OFF", false),
            ("expire_logs_days", "1.000000", false),
        ];
        let mysql = [
            ("log_replica_updates", "OFF", true),
            ("binlog_format", "MIXED", true),
            ("sync_binlog", "0", false),
            ("skip_replica_start", "OFF", true),
            ("replica_net_timeout", "60", false),
            ("rpl_semi_sync_replica_enabled", "OFF", false),
        ];
        assert_eq!(found, if maria(&server) { &mariadb[..] } else { &mysql[..] });
        Ok(())
    })
}

/// Acknowledged on one and missing on the other, with the same positions: the agent sees it with its own rights, and so does who sets a
/// pair up.
#[test]
fn what_keeps_transactions_from_the_standby_is_named() -> Result<()> {
    run(async |product| {
        let filters = [
            "--replicate-do-db=app",
            "--replicate-wild-ignore-table=app.tmp%",
            "--replicate-rewrite-db=from->to",
            "--binlog-ignore-db=logs",
            "--loose-slave-exec-mode=IDEMPOTENT",
            "--loose-replica-exec-mode=IDEMPOTENT",
            "--loose-slave-skip-errors=1062",
            "--loose-replica-skip-errors=1062",
        ];
        let (one, two) = (product.start(1, &filters).await?, product.start(2, &[]).await?);
        one.follow(&two).await?;
        if maria(&one) {
            one.run(&["CHANGE MASTER TO IGNORE_SERVER_IDS=(7), IGNORE_DOMAIN_IDS=(5)"]).await?;
        }
        let mut session = agent(&one);
        let wrong = look(&mut session).await?.wrong;
        let mut found: Vec<(&str, &str)> =
            wrong.iter().map(|w| (w.variable.as_str(), w.have.as_str())).collect();
        found.sort_unstable();
        let mariadb = [
            ("binlog_ignore_db", "logs"),
            ("replicate_do_db", "app"),
            ("replicate_ignore_domain_ids", "5"),
            ("replicate_ignore_server_ids", "7"),
            ("replicate_rewrite_db", "from->to"),
            ("replicate_wild_ignore_table", "app.tmp%"),
            ("slave_exec_mode", "IDEMPOTENT"),
            ("slave_skip_errors", "1062"),
        ];
        let mysql = [
            ("binlog_ignore_db", "logs"),
            ("replica_exec_mode", "IDEMPOTENT"),
            ("replica_skip_errors", "1062"),
            ("replicate_do_db", "app"),
            ("replicate_rewrite_db", "(from,to)"),
            ("replicate_wild_ignore_table", "app.tmp%"),
        ];
        assert_eq!(found, if maria(&one) { &mariadb[..] } else { &mysql[..] });
        assert!(wrong.iter().all(|w| w.fatal), "{wrong:?}");
        // What the log leaves out is asked once a connection: it is in the next look too.
        assert_eq!(look(&mut session).await?.wrong, wrong);
        let mut root = Session::new(&one.socket(), "root", "mariadb.service");
        assert_eq!(good(root.filters(SOON).await)?, wrong);
        // And where there are none, none is named.
        let mut other = Session::new(&two.socket(), "root", "mariadb.service");
        assert_eq!(good(other.filters(SOON).await)?, []);
        Ok(())
    })
}

#[test]
fn accounts_that_write_through_read_only_are_named_to_who_may_look() -> Result<()> {
    run(async |product| {
        let server = product.start(1, &[]).await?;
        let mut all = Session::new(&server.socket(), "root", "mariadb.service");
        if !maria(&server) {
            // super_read_only stops everybody.
            assert_eq!(look(&mut all).await?.admins, Vec::<String>::new());
            return Ok(());
        }
        server.run(&["CREATE USER boss@localhost", "GRANT READ_ONLY ADMIN ON *.* TO boss@localhost"]).await?;
        let admins = look(&mut all).await?.admins;
        assert!(admins.contains(&"'boss'@'localhost'".to_owned()), "{admins:?}");
        // The agent's own has it too, and that is meant.
        assert!(!admins.contains(&"'dre_ctl'@'localhost'".to_owned()), "{admins:?}");
        Ok(())
    })
}

#[test]
fn a_server_that_is_not_there_is_gone_and_one_that_stands_still_is_late() -> Result<()> {
    run(async |product| {
        let mut server = product.start(1, &[]).await?;
        let mut session = agent(&server);
        look(&mut session).await?;
        server.freeze();
        let begun = Instant::now();
        let late = session.probe(Duration::from_millis(200)).await;
        assert_eq!(late.map(|_| ()), Err(Failure::Timeout));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        // A connection is made by the kernel; the greeting does not come.
        assert_eq!(session.probe(Duration::from_millis(200)).await.map(|_| ()), Err(Failure::Timeout));
        server.thaw();
        look(&mut session).await?;
        server.kill();
        let gone = session.probe(SOON).await.map(|_| ());
        assert!(matches!(gone, Err(Failure::Gone { .. })), "{gone:?}");
        let gone = session.probe(SOON).await.map(|_| ());
        assert!(matches!(gone, Err(Failure::Gone { .. })), "{gone:?}");
        let gone = sql::check(Path::new("/run/no/such.sock"), "root", SOON).await.map(|_| ());
        assert!(matches!(gone, Err(Failure::Gone { .. })), "{gone:?}");
        Ok(())
    })
}

#[test]
fn read_only_is_bounded_behind_a_table_lock_and_ending_the_clients_frees_it() -> Result<()> {
    run(async |product| {
        let server = product.start(1, &[]).await?;
        let mut session = agent(&server);
        done(&mut session, Op::Writable).await?;
        let mut monitor = server.connect("root").await?;
        let mut locker = server.connect("app").await?;
        locker.query_drop("LOCK TABLES test.t WRITE").await?;
        let begun = Instant::now();
        let blocked = session.carry_out(Op::ReadOnly, Duration::from_millis(300)).await;
        let took = begun.elapsed();
        assert!(matches!(blocked, Err(Failure::Sql { .. } | Failure::Timeout)), "{blocked:?}");
        assert!(took < Duration::from_millis(900), "{took:?}");
        assert!(!look(&mut session).await?.read_only, "it stays off");
        // Nothing of the attempt is left that would take effect later, or hold others up.
        let writes =
            timeout(SOON, async { locker.query_drop("INSERT INTO test.t (word) VALUES ('still')").await });
        writes.await??;

        done(&mut session, Op::KillClients { keep: vec!["root".into()] }).await?;
        done(&mut session, Op::ReadOnly).await?;
        assert!(look(&mut session).await?.read_only);
        assert!(locker.query_drop("SELECT 1").await.is_err(), "the client is gone");
        monitor.query_drop("SELECT 1").await?;
        // Twice is as good as once.
        done(&mut session, Op::ReadOnly).await?;
        done(&mut session, Op::KillClients { keep: vec![] }).await?;
        // root is a client like others unless it is kept; MySQL's takes another of its kind to be ended, but super_read_only binds it.
        let ended = monitor.query_drop("SELECT 1").await.is_err();
        let bound = monitor.query_drop("INSERT INTO test.t (word) VALUES ('root')").await.is_err();
        assert!(ended == maria(&server) && bound, "ended: {ended}");
        Ok(())
    })
}

#[test]
fn many_clients_are_ended_at_once() -> Result<()> {
    run(async |product| {
        let server = product.start(1, &["--max-connections=400"]).await?;
        let mut session = agent(&server);
        let mut clients = vec![];
        for _ in 0..300 {
            clients.push(server.connect("app").await?);
        }
        let begun = Instant::now();
        done(&mut session, Op::KillClients { keep: vec![] }).await?;
        let took = begun.elapsed();
        println!("FIGURE {}, 300 clients ended: {:.1} ms", product.name, took.as_secs_f64() * 1e3);
        for client in &mut clients {
            assert!(client.query_drop("SELECT 1").await.is_err());
        }
        assert!(took < SOON, "{took:?}");
        Ok(())
    })
}

/// Some come and go all the time, so that in every look there are some who are gone when it is their turn.
#[test]
fn clients_that_end_by_themselves_meanwhile_leave_none_of_the_others() -> Result<()> {
    run(async |product| {
        let server = product.start(1, &["--max-connections=400"]).await?;
        let mut session = agent(&server);
        let socket = server.socket();
        let passers: Vec<_> = (0..8)
            .map(|_| {
                let socket = socket.display().to_string();
                spawn_local(async move {
                    loop {
                        let options =
                            mysql_async::OptsBuilder::default().socket(Some(&socket)).user(Some("app"));
                        if let Ok(conn) = mysql_async::Conn::new(options).await {
                            let _ = conn.disconnect().await;
                        }
                    }
                })
            })
            .collect();
        for _ in 0..100 {
            let mut stays = [server.connect("app").await?, server.connect("app").await?];
            done(&mut session, Op::KillClients { keep: vec![] }).await?;
            for client in &mut stays {
                assert!(client.query_drop("SELECT 1").await.is_err(), "left");
            }
            settled(&mut session).await?;
        }
        passers.iter().for_each(JoinHandle::abort);
        Ok(())
    })
}

#[test]
fn commits_that_wait_for_a_standby_that_stands_still_are_ended_and_free_the_server() -> Result<()> {
    run(async |product| {
        let (one, two) = pair(product).await?;
        two.freeze();
        let waiting = writer(&one);
        let mut bystander = one.connect("app").await?;
        let mut session = agent(&one);
        until(&mut session, "waiting", |probe| probe.waiters > 0).await?;
        let blocked = session.carry_out(Op::ReadOnly, Duration::from_millis(300)).await;
        assert!(blocked.is_err(), "read_only waits behind the commit");
        let begun = Instant::now();
        done(&mut session, Op::KillWaiters).await?;
        done(&mut session, Op::ReadOnly).await?;
        let took = begun.elapsed();
        println!("FIGURE {}, waiters ended and read-only: {:.1} ms", product.name, took.as_secs_f64() * 1e3);
        assert!(took < SOON, "{took:?}");
        waiting.await?;
        // MySQL's go on waiting unless everybody goes.
        assert_eq!(bystander.query_drop("SELECT 1").await.is_ok(), maria(&one));
        assert!(look(&mut session).await?.read_only);
        two.thaw();
        Ok(())
    })
}

/// A standby whose machine died holds its connection for as long as the kernel does; who takes over does not wait for it.
#[test]
fn a_replica_that_is_dead_is_not_waited_for_once_its_connection_is_ended() -> Result<()> {
    run(async |product| {
        let (one, two) = pair(product).await?;
        two.freeze();
        let mut session = agent(&one);
        done(&mut session, Op::EndReplicas).await?;
        until(&mut session, "rid of it", |probe| probe.semi_sync.replicas == 0).await?;
        let begun = Instant::now();
        done(&mut session, Op::WriteTest).await?;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        two.thaw();
        // It lives after all, and comes again.
        until(&mut session, "acknowledged", |probe| probe.semi_sync.on && probe.semi_sync.replicas == 1)
            .await?;
        Ok(())
    })
}

#[test]
fn a_query_that_nobody_waits_for_any_more_does_no_harm() -> Result<()> {
    run(async |product| {
        let server = product.start(1, &[]).await?;
        let mut session = agent(&server);
        let never =
            if maria(&server) { "0-9-1000000" } else { "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-1000000" };
        let never = Gtids::parse(server.flavor, never).ok_or_else(|| anyhow!("no such position"))?;
        let running = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() \
                       AND (INFO LIKE '%GTID_WAIT%' OR INFO LIKE '%WAIT_FOR_EXECUTED%')";
        // Dropped in the middle, as by a select!.
        {
            let work = session.carry_out(Op::WaitApplied { target: never.clone() }, Duration::from_secs(30));
            assert!(timeout(Duration::from_millis(200), work).await.is_err());
        }
        assert_eq!(server.ask(running).await?, "1", "it waits on the server");
        session.abandon().await;
        assert_eq!(settled(&mut session).await?.to_string(), "", "the answer is that of this question");
        let begun = Instant::now();
        while server.ask(running).await? != "0" {
            ensure!(begun.elapsed() < SOON, "its thread goes on");
            sleep(Duration::from_millis(10)).await;
        }
        // Dropped, and not even abandoned: the next statement sees to it first.
        {
            let work = session.carry_out(Op::WaitApplied { target: never.clone() }, Duration::from_secs(30));
            assert!(timeout(Duration::from_millis(200), work).await.is_err());
        }
        assert_eq!(settled(&mut session).await?.to_string(), "");
        let begun = Instant::now();
        while server.ask(running).await? != "0" {
            ensure!(begun.elapsed() < SOON, "its thread goes on");
            sleep(Duration::from_millis(10)).await;
        }
        // The time that was given is over.
        let late = session.carry_out(Op::WaitApplied { target: never }, Duration::from_millis(100)).await;
        assert_eq!(late, Err(Failure::Timeout));
        assert_eq!(settled(&mut session).await?.to_string(), "");
        Ok(())
    })
}

#[test]
fn a_position_that_moves_is_not_settled() -> Result<()> {
    run(async |product| {
        let server = product.start(1, &[]).await?;
        let mut session = agent(&server);
        done(&mut session, Op::Writable).await?;
        let writing = writer(&server);
        let begun = Instant::now();
        loop {
            match session.carry_out(Op::Settled, SOON).await {
                Err(Failure::Moving) => break,
                // The writer has not begun.
                Ok(_) => ensure!(begun.elapsed() < SOON, "nobody sees it move"),
                Err(other) => return Err(anyhow!("{other:?}")),
            }
        }
        done(&mut session, Op::ReadOnly).await?;
        done(&mut session, Op::KillClients { keep: vec![] }).await?;
        writing.await?;
        let has = settled(&mut session).await?;
        assert_eq!(has, look(&mut session).await?.has);
        Ok(())
    })
}

#[test]
fn a_write_test_makes_its_table_and_finds_a_write_that_hangs() -> Result<()> {
    run(async |product| {
        let server = product.start(1, &[]).await?;
        let mut session = agent(&server);
        assert_eq!(
            server.ask("SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'dre'").await?,
            "0"
        );
        done(&mut session, Op::Writable).await?;
        done(&mut session, Op::WriteTest).await?;
        done(&mut session, Op::WriteTest).await?;
        assert_eq!(server.ask("SELECT COUNT(*) FROM dre.heartbeat").await?, "1");
        let mut locker = server.connect("root").await?;
        locker.query_drop("LOCK TABLES dre.heartbeat WRITE").await?;
        let late = session.carry_out(Op::WriteTest, Duration::from_millis(200)).await;
        assert_eq!(late, Err(Failure::Timeout));
        locker.query_drop("UNLOCK TABLES").await?;
        done(&mut session, Op::WriteTest).await?;
        Ok(())
    })
}

/// What the promotion of a standby does after the ACTIVE died, in its order: nothing that was received is lost.
#[test]
fn what_was_received_is_applied_before_the_receiver_stops() -> Result<()> {
    run(async |product| {
        let (mut one, two) = pair(product).await?;
        let mut second = agent(&two);
        two.stop_applier().await?;
        let writing = writer(&one);
        sleep(Duration::from_millis(300)).await;
        one.kill();
        let acknowledged = writing.await?;
        ensure!(!acknowledged.is_empty(), "nothing was written");
        let seen = until(&mut second, "at the end", |probe| {
            probe.replica.as_ref().is_some_and(|replica| replica.receiver != Receiver::Connected)
        })
        .await?;
        let received = seen.replica.ok_or_else(|| anyhow!("it follows"))?.received;
        assert!(!seen.has.covers(&received), "there is something to apply");
        done(&mut second, Op::StartApplier).await?;
        done(&mut second, Op::StopReceiver).await?;
        let wait = Op::WaitApplied { target: received.clone() };
        good(second.carry_out(wait, Duration::from_secs(20)).await)?;
        done(&mut second, Op::EndReplicas).await?;
        done(&mut second, Op::StopReplication).await?;
        done(&mut second, Op::SemiSync { source: true, timeout_ms: 2000, wait_without_replica: false })
            .await?;
        done(&mut second, Op::Writable).await?;
        // With nobody to wait for, a commit does not.
        let begun = Instant::now();
        done(&mut second, Op::WriteTest).await?;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let there = rows(&two).await?;
        let lost: Vec<&u64> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        Ok(())
    })
}

async fn rows(server: &Server) -> Result<Vec<u64>> {
    let mut conn = server.connect("root").await?;
    let rows = conn.query("SELECT id FROM test.t ORDER BY id").await?;
    conn.disconnect().await?;
    Ok(rows)
}

/// The statements of a planned hand-over, one after the other as the agents do them, under writers: there and back.
#[test]
fn a_hand_over_loses_nothing_and_takes_moments() -> Result<()> {
    run(async |product| {
        let (one, two) = pair(product).await?;
        let (mut first, mut second) = (agent(&one), agent(&two));
        done(&mut first, Op::StartReplication).await?;
        let mut gaps = vec![];
        for n in 0..6 {
            let ((old, from), (new, to)) = if n % 2 == 0 {
                ((&one, &mut first), (&two, &mut second))
            } else {
                ((&two, &mut second), (&one, &mut first))
            };
            until(from, "replicated by the other", |probe| probe.semi_sync.on).await?;
            let writers: Vec<_> = (0..2).map(|_| writer(old)).collect();
            sleep(Duration::from_millis(150)).await;
            let begun = Instant::now();
            let mut marks = vec![];
            let mut mark = |what| marks.push((what, begun.elapsed()));
            done(from, Op::ReadOnly).await?;
            mark("read-only");
            done(from, Op::KillClients { keep: vec![] }).await?;
            mark("clients ended");
            let has = settled(from).await?;
            mark("settled");
            done(to, Op::WaitApplied { target: has.clone() }).await?;
            mark("applied");
            done(to, Op::SemiSync { source: true, timeout_ms: 2000, wait_without_replica: false }).await?;
            mark("source on");
            done(to, Op::Writable).await?;
            mark("writable");
            let steps: Vec<String> =
                marks.iter().map(|(what, at)| format!("{what} {:.1}", at.as_secs_f64() * 1e3)).collect();
            println!("hand-over, ms: {}", steps.join(", "));
            gaps.push(begun.elapsed());
            // Not on the way: MySQL's takes up to a second.
            done(from, Op::SemiSync { source: false, timeout_ms: 2000, wait_without_replica: false }).await?;
            let mut acknowledged = vec![];
            for writer in writers {
                acknowledged.extend(writer.await?);
            }
            ensure!(!acknowledged.is_empty(), "nothing was written");
            let there = rows(new).await?;
            let lost: Vec<&u64> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
            assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
            new.run(&["INSERT INTO test.t (word) VALUES ('back')"]).await?;
            let has = settled(to).await?;
            done(from, Op::WaitApplied { target: has }).await?;
            assert_eq!(rows(&one).await?, rows(&two).await?);
            let seen = look(from).await?;
            assert!(replicates(&seen) && seen.read_only, "{seen:?}");
        }
        gaps.sort_unstable();
        println!(
            "FIGURE {}, hand-over of the server: median {:.1} ms, most {:.1} ms",
            product.name,
            gaps[3].as_secs_f64() * 1e3,
            gaps[5].as_secs_f64() * 1e3
        );
        assert!(gaps[5] < Duration::from_secs(2), "{gaps:?}");
        Ok(())
    })
}
