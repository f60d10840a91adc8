//! `drectl db bootstrap`: makes an empty server one of a pair. Run on each node; nothing is carried between them, because both make the
//! same of the cluster key.
//!
//! Looks first, says what it will do, asks, and then does it step by step. What it did before it does again: a second run repairs
//! what is wrong, and renews certificate and password.
//!
//! Absent on purpose: starting to replicate, and taking writes. That is the agent's, who compares both histories first.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dre::config::{self, Database, EXIT_CONFIG, Key, Settings};
use dre::database::AGENT;
use dre::logic::db::facts::{Failure, Flavor};
use dre::logic::db::secrets::{self, Authority, Drawn, Identity};
use dre::logic::db::server_file::{self, Own, TLS};
use dre::shell::sql::setup::{Account, Source, Survey};
use dre::shell::sql::{self, Session};
use serde_json::json;
use zeroize::Zeroizing;

use super::{adopt, files};
use crate::args::BootstrapArgs;
use crate::client::{Client, Place};
use crate::exit::{Done, Fail, NOT_RUNNING};
use crate::print;

/// Who comes in by the local socket without a password.
const ROOT: &str = "root";
/// The account that the peer replicates by.
const REPLICATES: &str = "dre_repl";
/// One step in the server.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// It writes down what it holds in memory when it stops.
const RESTART_WITHIN: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a server may be that begins with no history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    Empty,
    /// It has data, and the peer's has been found to have the same.
    Sealed,
}

/// What is known before anything is done.
struct Plan<'a> {
    place: &'a Place,
    settings: &'a Settings,
    database: &'a Database,
    peer: &'a str,
    file: PathBuf,
    text: String,
    survey: Survey,
    begins: Begins,
    /// It was made one of a pair by this command before.
    again: bool,
    /// The server is started anew, because of this; without a reason it only reads its certificate again.
    restart: Option<String>,
}

fn load(place: &Place) -> Result<(Settings, Database, String), Fail> {
    let settings = config::load_of(&place.group, None)
        .map_err(|error| Fail { code: EXIT_CONFIG, text: error.lines() })?;
    match (settings.database.clone(), settings.peer.clone()) {
        (Some(database), Some(peer)) => Ok((settings, database, peer)),
        _ => Err(Fail::refused(format!(
            "{}: group {} has no database pair: the file needs [database] and both [nodes]",
            config::file_of(&place.group).display(),
            place.group
        ))),
    }
}

/// The server's own file: where, and what.
fn own_file(settings: &Settings, database: &Database, peer: &str) -> Result<(PathBuf, String), Fail> {
    let file = files::place(Path::new("/")).map_err(Fail::refused)?;
    let own = Own {
        // By the order of the names, so that each node finds the same.
        id: if *settings.node < *peer { 1 } else { 2 },
        port: database.port,
        six: settings.addresses.iter().any(|link| link.local.is_ipv6()),
    };
    Ok((file, server_file::text(&own)))
}

/// Whether [`take_over`] would begin, asked before anything is changed.
pub async fn may_take_over(place: &Place, session: &mut Session) -> Result<(), Fail> {
    let (settings, database, peer) = load(place)?;
    let survey = session.survey(ANSWER_WITHIN).await.map_err(|failure| unreached(&database, &failure))?;
    let files = own_file(&settings, &database, &peer)?;
    config::read_key(&config::key_path()).map_err(|error| Fail::config(&error))?;
    plan(place, (&settings, &database, &peer), files, survey, Begins::Sealed, true).map(drop)
}

/// A server with data that was found to be the same as the peer's becomes one of a pair, with no history before now. `still_so`: asked when
/// nothing but the history is left to be thrown away.
pub async fn take_over(
    place: &Place,
    session: &mut Session,
    steps: &mut Steps,
    still_so: impl AsyncFnOnce(&mut Session) -> Done,
) -> Done {
    let (settings, database, peer) = load(place)?;
    let survey = session.survey(ANSWER_WITHIN).await.map_err(|failure| unreached(&database, &failure))?;
    let files = own_file(&settings, &database, &peer)?;
    let key = config::read_key(&config::key_path()).map_err(|error| Fail::config(&error))?;
    let plan = plan(place, (&settings, &database, &peer), files, survey, Begins::Sealed, true)?;
    carry_out(&plan, &key, session, steps, still_so).await
}

/// The server without the file that [`take_over`] wrote, started anew.
pub async fn take_back(place: &Place, session: &mut Session) -> Done {
    let (settings, database, peer) = load(place)?;
    let (file, _) = own_file(&settings, &database, &peer)?;
    match std::fs::remove_file(&file) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Fail::refused(format!("{}: {error}", file.display()))),
    }
    restart(&database, &file)?;
    *session = Session::new(&database.socket, ROOT, &database.unit);
    is_back(session, &database).await.map(drop)
}

/// Whether the server has dre's file.
pub fn has_file(place: &Place) -> Result<bool, Fail> {
    let (settings, database, peer) = load(place)?;
    own_file(&settings, &database, &peer).map(|(file, _)| file.exists())
}

pub fn run(place: &Place, args: &BootstrapArgs) -> Done {
    let (settings, database, peer) = &load(place)?;
    let (file, text) = own_file(settings, database, peer)?;
    if args.print_config {
        let whole = json!({ "file": file, "text": text });
        return print(&if args.json { crate::json_line(&whole) } else { text });
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Fail::refused("it writes the server's file and restarts the server: run it as root"));
    }
    let key = config::read_key(&config::key_path()).map_err(|error| {
        let fail = Fail::config(&error);
        Fail { text: format!("{}; nothing was changed", fail.text.trim_end()), ..fail }
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fail::silent(error.to_string()))?;
    adopt::none_under_way(place)?;
    runtime.block_on(async {
        let mut session = Session::new(&database.socket, ROOT, &database.unit);
        let survey = session.survey(ANSWER_WITHIN).await.map_err(|failure| unreached(database, &failure))?;
        let wrong = match sql::check(&database.socket, ROOT, ANSWER_WITHIN).await {
            Ok((_, _, wrong)) => wrong,
            Err(failure) => return Err(unreached(database, &failure)),
        };
        let files = (file, text);
        let plan = plan(place, (settings, database, peer), files, survey, Begins::Empty, !wrong.is_empty())?;
        agreed(&plan, args)?;
        // The answer may have come long after the look.
        if holds_the_role(place)? {
            return Err(Fail::refused(format!("{}; nothing was changed", has_the_role(&place.group))));
        }
        let mut steps = Steps { shown: !args.json, done: vec![] };
        carry_out(&plan, &key, &mut session, &mut steps, async |_: &mut Session| Ok(())).await?;
        told(&plan, steps, args.json)
    })
}

fn unreached(database: &Database, failure: &Failure) -> Fail {
    Fail::refused(format!(
        "{}: {}; does {} run, and may root in by this socket (unix_socket)? Nothing was changed",
        database.socket.display(),
        failure.words(),
        database.unit
    ))
}

/// Everything that must hold before anything is changed.
fn plan<'a>(
    place: &'a Place,
    (settings, database, peer): (&'a Settings, &'a Database, &'a str),
    (file, text): (PathBuf, String),
    survey: Survey,
    begins: Begins,
    wrong: bool,
) -> Result<Plan<'a>, Fail> {
    let refuse = |why: String| Err(Fail::refused(format!("{why}; nothing was changed")));
    let group = &place.group;
    if survey.flavor == Flavor::MySql {
        return refuse(format!(
            "this server is MySQL {}: by hand, as the README's \"The database pair\" has it: its file, both accounts, from whom it \
             replicates; then drectl -g {group} db check",
            survey.version
        ));
    }
    if nix::unistd::User::from_name(AGENT).ok().flatten().is_none() {
        return refuse(format!(
            "this machine has no user {AGENT}, whom dre-mysql runs as: systemd-sysusers makes it"
        ));
    }
    let before = files::read(&file).map_err(Fail::refused)?;
    if before.as_deref().is_some_and(|text| !server_file::is_ours(text)) {
        return refuse(format!(
            "{} was not written by this command: move it away if nothing in it is needed (drectl -g {group} db bootstrap \
             --print-config shows what would be written)",
            file.display()
        ));
    }
    let again = before.is_some() && Path::new(TLS).join("ca.pem").exists();
    if begins == Begins::Empty
        && !again
        && let Some(why) = not_empty(&survey)
    {
        return refuse(format!(
            "this server is not empty: {why}. A pair that is there already becomes dre's by drectl -g {group} db adopt; a server whose \
             data nobody needs is emptied by hand first"
        ));
    }
    if holds_the_role(place)? {
        return refuse(has_the_role(group));
    }
    let restart = if before.as_deref() != Some(&text) {
        Some(format!("it reads {} then", file.display()))
    } else if wrong {
        Some("its settings are not those of the file".to_owned())
    } else if survey.authority != format!("{TLS}/ca.pem") || !survey.tls {
        Some("it runs without its certificate".to_owned())
    } else {
        None
    };
    Ok(Plan { place, settings, database, peer, file, text, survey, begins, again, restart })
}

/// Why a server is none that may begin anew.
fn not_empty(survey: &Survey) -> Option<String> {
    if !survey.data.is_empty() {
        return Some(format!("it has {}", survey.data.join(", ")));
    }
    survey.source.as_ref().map(|source| format!("it replicates from {source}"))
}

fn has_the_role(group: &str) -> String {
    format!(
        "this node has the role of group {group}, and its server would be restarted: give it away first \
         (drectl -g {group} switchover), or end it: systemctl stop dre@{group}"
    )
}

/// By the word of either daemon; one that does not run holds nothing. One that runs and does not answer may hold it.
pub fn holds_the_role(place: &Place) -> Result<bool, Fail> {
    let of = |asked: Result<bool, Fail>| match asked {
        Err(fail) if fail.code == NOT_RUNNING && fail.text.contains("is not running") => Ok(false),
        other => other,
    };
    let agent = of(super::agent(place).and_then(|mut agent| Ok(agent.database()?.duty == "active")))?;
    let elect = of(Client::connect(place).and_then(|mut elect| Ok(elect.status()?.role == "active")))?;
    Ok(agent || elect)
}

impl Plan<'_> {
    /// The addresses that the pair's servers are reached at.
    fn hosts(&self) -> Vec<IpAddr> {
        self.settings.addresses.iter().flat_map(|link| [link.local, link.peer]).collect()
    }

    /// What the own certificate is for: where the peer replicates from, and where clients come in.
    fn own_addresses(&self) -> Vec<IpAddr> {
        let links = self.settings.addresses.iter().map(|link| link.local);
        links.chain(self.settings.vips.iter().map(|vip| vip.address.addr())).collect()
    }

    /// Only what has never been anybody's may begin with no history.
    fn begins(&self) -> bool {
        self.begins == Begins::Sealed
            || (not_empty(&self.survey).is_none() && !(self.again && self.survey.used))
    }

    /// Why what was found empty is to be left alone by now.
    fn came_meanwhile(&self, now: &Survey) -> Option<String> {
        if self.begins == Begins::Sealed {
            return None;
        }
        let replicated = now.used && !self.survey.used;
        not_empty(now).or_else(|| replicated.then(|| "it became one of a pair".to_owned()))
    }

    fn lines(&self) -> String {
        let mut out = format!(
            "group {} on {}: {} becomes one of a pair with {}{}\n",
            self.place.group,
            self.settings.node,
            self.survey.version,
            self.peer,
            if self.again { ", again" } else { "" }
        );
        let mut line = |text: String| {
            let _ = writeln!(out, "  {text}");
        };
        line(format!("write {}", self.file.display()));
        line(format!(
            "write {TLS}/ca.pem, cert.pem, key.pem: a new certificate of this server, signed by the cluster key's authority"
        ));
        match &self.restart {
            Some(why) => line(format!("restart {}: {why}", self.database.unit)),
            None => line(format!("{} reads its certificate again", self.database.unit)),
        }
        line(format!("accounts: {AGENT}@localhost, and {REPLICATES} from {}", words(&self.hosts())));
        if self.begins() {
            line("throw away the server's binary log: it has no data, and begins with no history".into());
        }
        if let Some(link) = self.settings.addresses.first() {
            line(format!(
                "replicate from {}:{}, over TLS; the agent starts it",
                link.peer, self.database.port
            ));
        }
        out
    }
}

fn words(hosts: &[IpAddr]) -> String {
    hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn agreed(plan: &Plan, args: &BootstrapArgs) -> Done {
    if !args.json {
        print(&plan.lines())?;
    }
    if args.yes {
        return Ok(());
    }
    if args.json || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Fail::usage("nobody can be asked here: add --yes if that is meant; nothing was changed"));
    }
    print("do it? [no]: ")?;
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Fail::refused("nothing was changed"))
}

/// What was done, a line each.
pub struct Steps {
    shown: bool,
    done: Vec<String>,
}

impl Steps {
    pub fn shown() -> Self {
        Self { shown: true, done: vec![] }
    }

    fn add(&mut self, what: String) -> Done {
        if self.shown {
            print(&format!("ok  {what}\n"))?;
        }
        self.done.push(what);
        Ok(())
    }
}

async fn carry_out(
    plan: &Plan<'_>,
    key: &Key,
    session: &mut Session,
    steps: &mut Steps,
    still_so: impl AsyncFnOnce(&mut Session) -> Done,
) -> Done {
    let group = &plan.place.group;
    let halted = |what: &str, failure: &Failure| {
        Fail::refused(format!(
            "{what}: {}; what stands above was done, and a second run goes on from there",
            failure.words()
        ))
    };
    let until = certify(plan, key, group)?;
    steps.add(format!("{TLS}: a certificate for {}, valid until {until}", words(&plan.own_addresses())))?;
    files::put(&plan.file, plan.text.as_bytes(), 0o644, None).map_err(Fail::refused)?;
    steps.add(plan.file.display().to_string())?;
    let seen = if plan.restart.is_some() {
        restart(plan.database, &plan.file)?;
        *session = Session::new(&plan.database.socket, ROOT, &plan.database.unit);
        let seen = is_back(session, plan.database).await?;
        if !seen.tls || seen.authority != format!("{TLS}/ca.pem") {
            return Err(Fail::refused(format!(
                "{} runs without the certificate in {TLS}: a file that is read after {} says otherwise, or journalctl -u {} says why",
                plan.database.unit,
                plan.file.display(),
                plan.database.unit
            )));
        }
        steps.add(format!("{} was restarted", plan.database.unit))?;
        seen
    } else {
        let loaded = session.load_certificates(ANSWER_WITHIN).await;
        loaded.map_err(|failure| halted("the certificate was not read again", &failure))?;
        steps.add(format!("{} read its certificate again", plan.database.unit))?;
        let seen = session.survey(ANSWER_WITHIN).await;
        seen.map_err(|failure| halted("what is in the server could not be looked at again", &failure))?
    };
    if plan.begins()
        && let Some(why) = plan.came_meanwhile(&seen)
    {
        return Err(Fail::refused(format!(
            "this server was empty when it was looked at, and is not any more: {why}. It keeps its history; what stands above was done"
        )));
    }
    let account =
        Account { name: REPLICATES, hosts: plan.hosts(), password: secrets::password(key.bytes(), group) };
    let made = session.make_accounts(AGENT, &account, ANSWER_WITHIN).await;
    made.map_err(|failure| halted("the accounts were not made", &failure))?;
    steps.add(format!("accounts {AGENT}@localhost, {REPLICATES}@{}", words(&account.hosts)))?;
    if plan.begins() {
        still_so(session).await?;
        let begun = session.begin_history(ANSWER_WITHIN).await;
        begun.map_err(|failure| halted("the binary log is still there", &failure))?;
        steps.add("the server begins with no history".into())?;
    }
    let Some(link) = plan.settings.addresses.first() else { return Ok(()) };
    let authority = Path::new(TLS).join("ca.pem");
    let source =
        Source { host: link.peer, port: plan.database.port, account: &account, authority: &authority };
    let told = session.replicate_from(&source, ANSWER_WITHIN).await;
    told.map_err(|failure| halted("the server was not told from whom to replicate", &failure))?;
    steps.add(format!("it replicates from {}:{} when the agent says so", link.peer, plan.database.port))
}

/// The three files; until when the certificate is valid.
fn certify(plan: &Plan, key: &Key, group: &str) -> Result<String, Fail> {
    let authority = Authority::of(key.bytes(), group);
    let bug = |error: &dyn std::fmt::Display| Fail::refused(format!("no certificate could be made: {error}"));
    let ca = authority.certificate().map_err(|error| bug(&error))?;
    let identity = issue(plan, &authority)?;
    let until = secrets::valid_until(&identity.certificate).unwrap_or_default();
    let group_of_server = files::group_of(&plan.survey.directory).map_err(Fail::refused)?;
    let at = |name: &str| Path::new(TLS).join(name);
    files::directory(Path::new(TLS)).map_err(Fail::refused)?;
    for (name, text, mode, group) in [
        ("ca.pem", ca.as_str(), 0o644, None),
        ("key.pem", identity.key.as_str(), 0o640, Some(group_of_server)),
        ("cert.pem", identity.certificate.as_str(), 0o644, None),
    ] {
        files::put(&at(name), text.as_bytes(), mode, group).map_err(Fail::refused)?;
    }
    Ok(until)
}

fn issue(plan: &Plan, authority: &Authority) -> Result<Identity, Fail> {
    let now = u64::try_from(crate::now()).unwrap_or(0);
    loop {
        let mut drawn = Drawn { secret: Zeroizing::new([0; 32]), serial: [0; 16] };
        getrandom::fill(&mut *drawn.secret).and_then(|()| getrandom::fill(&mut drawn.serial)).map_err(
            |error| Fail::refused(format!("the kernel's generator gives no bytes: {error}; try again")),
        )?;
        let issued = authority.issue(&plan.settings.node, &plan.own_addresses(), &drawn, now);
        match issued {
            Ok(Some(identity)) => return Ok(identity),
            Ok(None) => {}
            Err(error) => return Err(Fail::refused(format!("no certificate could be made: {error}"))),
        }
    }
}

/// By systemd, and no longer than a server may take to write down what it has in memory.
fn restart(database: &Database, file: &Path) -> Done {
    let unit = &database.unit;
    let failed = |why: &str| {
        Fail::refused(format!(
            "{unit} does not come back: {why}; journalctl -u {unit} -n 50 says what it does not like. Without {} it is as it was",
            file.display()
        ))
    };
    let mut child = Command::new("systemctl")
        .args(["restart", "--", unit])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| failed(&format!("systemctl: {error}")))?;
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(failed(&format!("systemctl restart ended with {status}"))),
            Ok(None) if begun.elapsed() < RESTART_WITHIN => std::thread::sleep(LOOK_AGAIN),
            Ok(None) => {
                // The job goes on; only the wait for it ends.
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(&format!(
                    "systemd is not done with it after {} s",
                    RESTART_WITHIN.as_secs()
                )));
            }
            Err(error) => return Err(failed(&error.to_string())),
        }
    }
}

/// A unit may count as started before its socket is there.
async fn is_back(session: &mut Session, database: &Database) -> Result<Survey, Fail> {
    let begun = Instant::now();
    loop {
        match session.survey(ANSWER_WITHIN).await {
            Ok(survey) => return Ok(survey),
            Err(failure) if begun.elapsed() > ANSWER_WITHIN => {
                return Err(Fail::refused(format!(
                    "{} was restarted and does not answer on {}: {}; journalctl -u {} -n 50",
                    database.unit,
                    database.socket.display(),
                    failure.words(),
                    database.unit
                )));
            }
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

fn told(plan: &Plan, steps: Steps, json: bool) -> Done {
    let group = &plan.place.group;
    let next = [
        format!("on {}: drectl -g {group} db bootstrap", plan.peer),
        format!("then on both: systemctl enable --now dre@{group}"),
    ];
    if json {
        return print(&crate::json_line(&json!({ "done": steps.done, "next": next })));
    }
    let first = if plan.again {
        format!("{}, if its cluster key or addresses changed too", next[0])
    } else {
        next[0].clone()
    };
    print(&format!("\nnext: {first}\n      {}\n", next[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey() -> Survey {
        Survey {
            flavor: Flavor::MariaDb,
            version: "11.8.3-MariaDB".into(),
            data: vec![],
            used: false,
            source: None,
            directory: "/var/lib/mysql".into(),
            authority: String::new(),
            tls: true,
        }
    }

    #[test]
    fn what_came_into_an_empty_server_meanwhile_keeps_its_history() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/mysql.toml"))
            .expect("there");
        let settings =
            config::parse(&[("mysql.toml".into(), text)], "mysql", "hadev2", false).expect("holds");
        let (database, place) = (settings.database.clone().expect("has one"), Place::of("mysql", None));
        let came = |before: Survey, begins: Begins, now: Survey| {
            let plan = Plan {
                place: &place,
                settings: &settings,
                database: &database,
                peer: "hadev1",
                file: "/etc/mysql/mariadb.conf.d/60-dre.cnf".into(),
                text: String::new(),
                survey: before,
                begins,
                again: false,
                restart: None,
            };
            plan.came_meanwhile(&now).is_some()
        };
        let used = || Survey { used: true, ..survey() };
        let data = || Survey { data: vec!["shop".into()], ..survey() };
        assert!(!came(survey(), Begins::Empty, survey()));
        assert!(came(survey(), Begins::Empty, data()) && came(survey(), Begins::Empty, used()));
        assert!(!came(used(), Begins::Empty, used()), "it was of a pair that is no more");
        assert!(!came(data(), Begins::Sealed, data()), "both have the same, and nobody writes");
    }

    #[test]
    fn a_server_with_data_or_a_source_is_not_empty() {
        assert_eq!(not_empty(&survey()), None);
        let data = Survey { data: vec!["shop".into(), "test.t".into()], ..survey() };
        assert_eq!(not_empty(&data).as_deref(), Some("it has shop, test.t"));
        let replica = Survey { source: Some("10.0.0.2:3306".into()), ..survey() };
        assert_eq!(not_empty(&replica).as_deref(), Some("it replicates from 10.0.0.2:3306"));
    }

    /// The second server of a pair that has written already must not lose its history, and one that has none loses nothing.
    #[test]
    fn only_a_server_that_was_nobodys_begins_anew() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/mysql.toml"))
            .expect("there");
        let settings =
            config::parse(&[("mysql.toml".into(), text)], "mysql", "hadev2", false).expect("holds");
        let (database, place) = (settings.database.clone().expect("has one"), Place::of("mysql", None));
        let begins = |survey: Survey, again: bool| {
            let plan = Plan {
                place: &place,
                settings: &settings,
                database: &database,
                peer: "hadev1",
                file: "/etc/mysql/mariadb.conf.d/60-dre.cnf".into(),
                text: String::new(),
                survey,
                begins: Begins::Empty,
                again,
                restart: None,
            };
            assert_eq!(plan.lines().contains("throw away"), plan.begins());
            assert!(plan.lines().contains("replicate from 172.16.11.54:3306"), "{}", plan.lines());
            plan.begins()
        };
        let used = || Survey { used: true, ..survey() };
        assert!(begins(survey(), false) && begins(survey(), true));
        assert!(begins(used(), false), "of a pair that is no more");
        assert!(!begins(used(), true), "of this pair");
        assert!(!begins(Survey { source: Some("x:1".into()), ..survey() }, true));
        assert!(!begins(Survey { data: vec!["shop".into()], ..survey() }, true));
    }
}
