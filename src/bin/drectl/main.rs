//! drectl: see and steer this pair of servers.
//!
//! It speaks Varlink with dre-elect and dre-sync (`client`), and reads file and machine itself where the daemon may not
//! run (`settings`, `facts`). Several groups of one machine side by side are in `groups`. What is printed is made by pure functions (`page`, `preflight`).

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{CommandFactory, Parser};
use serde_json::json;

use serde::Serialize;

use crate::args::{Cli, Command, Config, Import, Key, Lease, StatusArgs};
use crate::beside::Beside;
use crate::client::{Client, Place};
use crate::exit::{Done, Fail};
use crate::preflight::Finding;

mod args;
mod beside;
mod client;
mod clock;
mod db;
mod exit;
mod facts;
mod groups;
mod import;
mod key;
mod page;
mod preflight;
mod role;
mod rules;
mod settings;
mod when;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own status for a wrong line is 2; help and version come this way too, and are no error.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => {
            if !fail.text.is_empty() {
                anstream::eprintln!("drectl: {}", fail.text);
            }
            ExitCode::from(fail.code)
        }
    }
}

fn run(cli: &Cli) -> Done {
    let named = cli.group.as_deref();
    let place = || Place::of(named.unwrap_or(&settings::usual_group()), cli.socket.as_deref());
    match cli.command.as_ref().unwrap_or(&Command::Status(StatusArgs { json: false, watch: false })) {
        Command::Status(args) => match (places(cli).as_slice(), args.watch) {
            ([place], true) => {
                keep_watching(args.json, |drawn| follow(place, &cli.sync_socket, args.json, drawn))
            }
            ([place], false) => {
                let status = Client::connect(place)?.status()?;
                let whole = Beside::new(&cli.sync_socket).with(status);
                let page = || page::page(&whole.status, whole.sets(), now());
                print(&if args.json { json_line(&whole) } else { page() })
            }
            (all, true) => groups::watch(all, &cli.sync_socket, args.json),
            (all, false) => groups::status(all, &cli.sync_socket, args.json),
        },
        Command::Db { command } => db::run(&place(), command.as_ref()),
        Command::Rules { command } => rules::run(&cli.sync_socket, command.as_ref()),
        Command::Switchover(args) => role::switchover(&place(), args),
        Command::Lease(Lease::Take(lease)) => role::take(&place(), lease),
        Command::Lease(Lease::Release(lease)) => role::release(&place(), lease),
        Command::Config(Config::Check(args)) => settings::check(args, named),
        Command::Config(Config::Show(args)) => settings::show(args, named),
        Command::Key(Key::New { out, force }) => print(&(key::new(out, *force)? + "\n")),
        Command::Import(Import::Heartbeat(args)) => import::heartbeat(args, named),
        Command::Check(args) => check(&places(cli), args.json),
        Command::Version(args) => version(&place(), args.json),
        Command::Completions { shell } => {
            let mut text = vec![];
            clap_complete::generate(*shell, &mut Cli::command(), "drectl", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
        Command::Man { dir } => clap_mangen::generate_to(Cli::command(), dir)
            .map_err(|error| Fail::refused(format!("{}: {error}; make the directory first", dir.display()))),
    }
}

/// The group that was named, or all that are configured; one whose socket was named is one.
fn places(cli: &Cli) -> Vec<Place> {
    let groups = match (&cli.group, &cli.socket) {
        (Some(group), _) => vec![group.clone()],
        (None, Some(_)) => vec![settings::usual_group()],
        (None, None) => settings::all_groups(),
    };
    groups.iter().map(|group| Place::of(group, cli.socket.as_deref())).collect()
}

/// Seconds since 1970, for ages; nothing is decided by it.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// To standard output, in colour where that is a terminal. A reader that has gone (`| head`) is no failure.
fn print(text: &str) -> Done {
    written(anstream::stdout().lock(), text)
}

fn written(mut out: impl Write, text: &str) -> Done {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fail::refused(format!("cannot write to standard output: {error}; is the disk full?")))
        }
        Err(_) => Err(Fail { code: 0, text: String::new() }),
        Ok(()) => Ok(()),
    }
}

fn json_line(status: &impl Serialize) -> String {
    // Plain strings and numbers: it always serialises.
    serde_json::to_string(status).unwrap_or_default() + "\n"
}

/// Until interrupted. On a terminal the page is drawn over itself and survives restarts of the daemon; elsewhere
/// each status is printed after the other, and the daemon's end is the end. `follow` is told which.
fn keep_watching(json: bool, follow: impl Fn(bool) -> Done) -> Done {
    let drawn = !json && std::io::stdout().is_terminal();
    loop {
        let fail = match follow(drawn) {
            Ok(()) => return Ok(()),
            // The reader of our output has gone.
            Err(fail) if fail.code == 0 => return Ok(()),
            Err(fail) => fail,
        };
        if !drawn || fail.code != exit::NOT_RUNNING {
            return Err(fail);
        }
        draw(&format!("{}\n", fail.text))?;
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn follow(place: &Place, sync_socket: &Path, json: bool, drawn: bool) -> Done {
    let mut client = Client::connect(place)?;
    client.watch()?;
    let mut beside = Beside::new(sync_socket);
    loop {
        let Some(status) = client.next(Instant::now() + Duration::from_secs(3600))? else { continue };
        let whole = beside.with(status);
        let page = || page::page(&whole.status, whole.sets(), now());
        if json {
            print(&json_line(&whole))?;
        } else if drawn {
            draw(&page())?;
        } else {
            print(&format!("{}\n", page()))?;
        }
    }
}

/// Over what is there, line by line, then clears the rest: no flicker. Moving about is not colour, so `NO_COLOR`
/// takes only the colour away.
fn draw(text: &str) -> Done {
    let plain = anstream::AutoStream::choice(&std::io::stdout()) == anstream::ColorChoice::Never;
    let text = if plain { anstream::adapter::strip_str(text).to_string() } else { text.to_owned() };
    written(std::io::stdout().lock(), &format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\r\n")))
}

/// A finding, and of which group: for scripts.
#[derive(Serialize)]
struct OfGroup<'a> {
    #[serde(flatten)]
    finding: &'a Finding,
    group: &'a str,
}

fn check(places: &[Place], json: bool) -> Done {
    let facts: Vec<_> = places.iter().map(facts::gather).collect();
    let mut all: Vec<Vec<Finding>> = facts.iter().map(preflight::findings).collect();
    let broken = facts.iter().any(|facts| facts.config_error.is_some());
    let settings: Vec<_> = facts.into_iter().filter_map(|facts| facts.settings).collect();
    if let Some(last) = all.last_mut() {
        last.extend(preflight::among(&settings));
    }
    let ready = all.iter().all(|findings| preflight::is_ready(findings));
    let every = || places.iter().zip(&all).flat_map(|(place, all)| all.iter().map(move |f| (place, f)));
    if json {
        let all: Vec<_> = every().map(|(place, finding)| OfGroup { finding, group: &place.group }).collect();
        print(&(serde_json::to_string(&all).unwrap_or_default() + "\n"))?;
    } else {
        for (place, findings) in places.iter().zip(&all) {
            if places.len() > 1 {
                print(&groups::heading(&place.group))?;
            }
            for finding in findings {
                let mut text =
                    format!("{} {:<10} {}\n", page::paint_level(finding.level), finding.name, finding.what);
                if !finding.remedy.is_empty() {
                    text += &format!("{:18} do: {}\n", "", finding.remedy);
                }
                print(&text)?;
            }
        }
        let count = |level| every().filter(|(_, finding)| finding.level == level).count();
        let (bad, warn) = (count(preflight::Level::Bad), count(preflight::Level::Warn));
        let verdict = if ready { "ready" } else { "NOT ready" };
        print(&format!(
            "\nthis node is {verdict}: {bad} bad, {warn} to look at. Run it on the other node too.\n"
        ))?;
    }
    match (ready, broken) {
        (true, _) => Ok(()),
        (false, true) => Err(Fail { code: dre::config::EXIT_CONFIG, text: String::new() }),
        (false, false) => Err(Fail::refused("")),
    }
}

fn version(place: &Place, json: bool) -> Done {
    let own = env!("CARGO_PKG_VERSION");
    let daemon =
        Client::connect(place).and_then(|mut client| client.status()).map(|status| status.version).ok();
    let unit = place.unit("dre");
    if json {
        return print(&format!("{}\n", json!({ "drectl": own, "dre": daemon })));
    }
    match daemon {
        Some(daemon) if daemon == own => print(&format!("drectl {own}, {unit}.service {daemon}\n")),
        Some(daemon) => print(&format!(
            "drectl {own}, {unit}.service {daemon}: restart it to run what is installed: systemctl restart {unit}\n"
        )),
        None => print(&format!("drectl {own}, {unit}.service is not running\n")),
    }
}
