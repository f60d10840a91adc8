//! `drectl db …`: the database server that follows a group's role.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dre::config;
use dre::database::DatabaseStatus;
use dre::logic::db::secrets::valid_until;
use dre::logic::db::server_file::TLS;
use dre::shell::sql;
use serde_json::json;

use crate::args::{Db, StatusArgs};
use crate::client::{Client, Daemon, Place};
use crate::exit::{Done, Fail};
use crate::{keep_watching, print};

mod adopt;
mod bootstrap;
mod diverged;
mod files;
mod page;
mod reseed;

const ANSWER_WITHIN: Duration = Duration::from_secs(7);
/// A server that is asked without its agent.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

fn socket(group: &str) -> PathBuf {
    Path::new("/run").join(format!("dre-mysql@{group}")).join("control")
}

/// There while a server's data is being exchanged.
fn reseeding(group: &str) -> PathBuf {
    Path::new("/var/lib").join(format!("dre-mysql@{group}")).join("reseeding")
}

fn no_database(place: &Place) -> Fail {
    Fail::refused(format!(
        "group {} has no database: {} has no [database]; name the group that has one: drectl -g NAME db",
        place.group,
        config::file_of(&place.group).display()
    ))
}

/// To dre-mysql, as it is.
fn agent(place: &Place) -> Result<Client, Fail> {
    Client::to(Daemon::database(&place.group), &socket(&place.group), ANSWER_WITHIN)
}

/// To dre-mysql; where the group has no database, that is what is said.
fn connect(place: &Place) -> Result<Client, Fail> {
    agent(place).map_err(|fail| match config::load_of(&place.group, None) {
        Ok(settings) if settings.database.is_none() => Fail { text: no_database(place).text, ..fail },
        _ if reseeding(&place.group).exists() => Fail {
            text: format!(
                "a reseed of this server was begun and not ended, and its agent waits for that; {}",
                place.command("db reseed")
            ),
            ..fail
        },
        _ => fail,
    })
}

pub fn run(place: &Place, command: Option<&Db>) -> Done {
    match command.unwrap_or(&Db::Status(StatusArgs { json: false, watch: false })) {
        Db::Status(args) if args.watch => keep_watching(args.json, |drawn| {
            let mut client = connect(place)?;
            client.watch()?;
            loop {
                let Some(status) = client.next_database(Instant::now() + Duration::from_secs(3600))? else {
                    continue;
                };
                let page = shown(&status, args.json);
                if drawn { crate::draw(&page)? } else { print(&page)? }
            }
        }),
        Db::Status(args) => print(&shown(&connect(place)?.database()?, args.json)),
        Db::Check(args) => check(place, args.json),
        Db::Adopt(args) => adopt::run(place, args),
        Db::Bootstrap(args) => bootstrap::run(place, args),
        Db::Diverged(args) => diverged::run(place, args),
        Db::Promote { force: false } => Err(Fail::refused(format!(
            "the agent promotes by itself wherever nothing is lost by it; where it does not, {} says why, and --force takes what this \
             server has",
            place.command("db status")
        ))),
        Db::Promote { force: true } => done(place, "Promote", json!({ "force": true })),
        Db::AcceptErrant => done(place, "AcceptErrant", json!({})),
        Db::Reseed(args) => reseed::run(place, args),
        Db::Reseeded => done(place, "Reseeded", json!({})),
    }
}

fn shown(status: &DatabaseStatus, json: bool) -> String {
    if json { crate::json_line(status) } else { page::page(status) }
}

fn done(place: &Place, method: &str, parameters: serde_json::Value) -> Done {
    let reply = connect(place)?.call(method, parameters)?;
    let sentence = reply.get("done").and_then(serde_json::Value::as_str).unwrap_or("done");
    print(&format!("{sentence}\n"))
}

fn check(place: &Place, json: bool) -> Done {
    let settings = config::load_of(&place.group, None).map_err(|error| Fail::config(&error))?;
    let Some(database) = &settings.database else {
        return Err(no_database(place));
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fail::silent(error.to_string()))?;
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let user = user.map_or_else(|| "root".to_owned(), |user| user.name);
    let asked = runtime.block_on(sql::check(&database.socket, &user, CHECK_WITHIN));
    let (flavor, version, wrong) = asked.map_err(|failure| {
        Fail::refused(format!(
            "{}: {}; does the server run, and has {user} an account there (unix_socket)? Run it as root",
            database.socket.display(),
            failure.words()
        ))
    })?;
    // Of a server whose certificate is not of `drectl db bootstrap` nothing is said.
    let ends = std::fs::read_to_string(Path::new(TLS).join("cert.pem")).ok();
    let ends = ends.as_deref().and_then(valid_until);
    if json {
        print(&crate::json_line(
            &json!({ "version": version, "settings": wrong, "certificate_until": ends }),
        ))?;
    } else {
        print(
            &(page::check(flavor, &version, &wrong)
                + &page::certificate(ends.as_deref(), crate::now(), &place.group)),
        )?;
    }
    if wrong.iter().any(|wrong| wrong.fatal) { Err(Fail::refused(String::new())) } else { Ok(()) }
}
