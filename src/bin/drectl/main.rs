//! drectl: see and steer this pair of servers.
//!
//! It speaks Varlink with dre-elect and dre-sync (`client`), and reads file and machine itself where the daemon may not
//! run (`settings`, `facts`). What is printed is made by pure functions (`page`, `preflight`).

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{CommandFactory, Parser};
use serde_json::json;

use serde::Serialize;

use crate::args::{Cli, Command, Config, Key, Lease, StatusArgs};
use crate::beside::Beside;
use crate::client::Client;
use crate::exit::{Done, Fail};

mod args;
mod beside;
mod client;
mod clock;
mod exit;
mod facts;
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
    let socket = cli.socket.as_path();
    match cli.command.as_ref().unwrap_or(&Command::Status(StatusArgs { json: false, watch: false })) {
        Command::Status(args) if args.watch => {
            keep_watching(args.json, |drawn| follow(socket, &cli.sync_socket, args.json, drawn))
        }
        Command::Status(args) => {
            let status = Client::connect(socket)?.status()?;
            let whole = Beside::new(&cli.sync_socket).with(status);
            print(&if args.json { json_line(&whole) } else { page::page(&whole.status, whole.sets(), now()) })
        }
        Command::Rules { command } => rules::run(&cli.sync_socket, command.as_ref()),
        Command::Switchover(args) => role::switchover(socket, args),
        Command::Lease(Lease::Take(lease)) => role::take(socket, lease),
        Command::Lease(Lease::Release(lease)) => role::release(socket, lease),
        Command::Config(Config::Check(args)) => settings::check(args),
        Command::Config(Config::Show(args)) => settings::show(args),
        Command::Key(Key::New { out, force }) => print(&(key::new(out, *force)? + "\n")),
        Command::Check(args) => check(socket, args.json),
        Command::Version(args) => version(socket, args.json),
        Command::Completions { shell } => {
            let mut text = vec![];
            clap_complete::generate(*shell, &mut Cli::command(), "drectl", &mut text);
            print(&String::from_utf8_lossy(&text))
        }
        Command::Man { dir } => clap_mangen::generate_to(Cli::command(), dir)
            .map_err(|error| Fail::refused(format!("{}: {error}; make the directory first", dir.display()))),
    }
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

fn follow(socket: &Path, sync_socket: &Path, json: bool, drawn: bool) -> Done {
    let mut client = Client::connect(socket)?;
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

fn check(socket: &Path, json: bool) -> Done {
    let findings = preflight::findings(&facts::gather(socket));
    let ready = preflight::is_ready(&findings);
    if json {
        print(&(serde_json::to_string(&findings).unwrap_or_default() + "\n"))?;
    } else {
        for finding in &findings {
            let mut text =
                format!("{} {:<10} {}\n", page::paint_level(finding.level), finding.name, finding.what);
            if !finding.remedy.is_empty() {
                text += &format!("{:18} do: {}\n", "", finding.remedy);
            }
            print(&text)?;
        }
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        let (bad, warn) = (count(preflight::Level::Bad), count(preflight::Level::Warn));
        let verdict = if ready { "ready" } else { "NOT ready" };
        print(&format!(
            "\nthis node is {verdict}: {bad} bad, {warn} to look at. Run it on the other node too.\n"
        ))?;
    }
    if ready { Ok(()) } else { Err(Fail { code: exit::REFUSED, text: String::new() }) }
}

fn version(socket: &Path, json: bool) -> Done {
    let own = env!("CARGO_PKG_VERSION");
    let daemon =
        Client::connect(socket).and_then(|mut client| client.status()).map(|status| status.version).ok();
    if json {
        return print(&format!("{}\n", json!({ "drectl": own, "dre": daemon })));
    }
    match daemon {
        Some(daemon) if daemon == own => print(&format!("drectl {own}, dre.service {daemon}\n")),
        Some(daemon) => print(&format!(
            "drectl {own}, dre.service {daemon}: restart it to run what is installed: systemctl restart dre\n"
        )),
        None => print(&format!("drectl {own}, dre.service is not running\n")),
    }
}
