//! `drectl rules …`: the rules files that are the same on both nodes.
//!
//! | file | what |
//! |---|---|
//! | `page` | the status and the lists for a person; pure |
//! | `bars` | progress of long work below the page, on a terminal |
//! | `setup` | the interactive step that writes `sync.toml` |
//! | `check` | a set's `validate`, before anything is saved |
//! | `log` | what journalctl is asked |

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use dre::config::sync;
use dre::rules::Kept;
use serde_json::{Value, json};

use crate::args::{ListArgs, Loser, One, Rules, StatusArgs, Trashed};
use crate::client::Client;
use crate::exit::{Done, Fail, NOT_RUNNING};
use crate::{now, print};

mod bars;
mod check;
mod log;
pub mod page;
pub mod setup;

/// Looking at every byte takes as long as it takes; dre-sync gives up after a day.
const VERIFY_WITHIN: Duration = Duration::from_secs(25 * 3600);

/// dre-sync answers a command within its own minute.
const DONE_WITHIN: Duration = Duration::from_secs(65);

pub fn run(socket: &Path, command: Option<&Rules>) -> Done {
    match command.unwrap_or(&Rules::Status(StatusArgs { json: false, watch: false })) {
        Rules::Status(args) if args.watch => watch(socket, args.json),
        Rules::Status(args) => {
            let status = connect(socket)?.rules()?;
            print(&if args.json { crate::json_line(&status) } else { page::page(&status, now()) })
        }
        Rules::Setup(args) => setup::run(args),
        Rules::Verify { set, deep } => {
            if *deep && std::io::stderr().is_terminal() {
                anstream::eprintln!("every byte is read; how far it is: drectl rules status --watch");
            }
            done(socket, "Verify", json!({ "set": set, "deep": deep }), VERIFY_WITHIN)
        }
        Rules::Conflicts(args) => match &args.command {
            Some(Loser::Restore(one)) => done_with(socket, "Restore", one),
            Some(Loser::Drop(one)) => done_with(socket, "DropConflict", one),
            None => kept(socket, "conflicts", &args.list),
        },
        Rules::Trash(args) => match &args.command {
            Some(Trashed::Restore(one)) => done_with(socket, "Restore", one),
            None => kept(socket, "trash", &args.list),
        },
        Rules::AcceptDeletes { set } => done(socket, "AcceptDeletes", json!({ "set": set }), DONE_WITHIN),
        Rules::Force { set } => done(socket, "Force", json!({ "set": set }), DONE_WITHIN),
        Rules::Check(args) => check::run(args),
        Rules::Log(args) => log::run(args),
    }
}

/// To dre-sync; where none runs and no sets are configured, that is what is said.
fn connect(socket: &Path) -> Result<Client, Fail> {
    Client::sync(socket).map_err(|fail| {
        let file = sync::locate();
        if fail.code == NOT_RUNNING && !file.exists() {
            let text = format!(
                "no rules files are replicated: there is no {}; do: drectl rules setup",
                file.display()
            );
            return Fail { text, ..fail };
        }
        fail
    })
}

/// Asks for something to be done and prints the sentence that comes of it.
fn done(socket: &Path, method: &str, parameters: Value, within: Duration) -> Done {
    let reply = connect(socket)?.call_within(method, parameters, within)?;
    let sentence = reply.get("done").and_then(Value::as_str).unwrap_or("done");
    print(&format!("{sentence}\n"))
}

fn done_with(socket: &Path, method: &str, One { set, id }: &One) -> Done {
    done(socket, method, json!({ "set": set, "id": id }), DONE_WITHIN)
}

fn kept(socket: &Path, what: &str, args: &ListArgs) -> Done {
    let method = if what == "conflicts" { "Conflicts" } else { "Trash" };
    let reply = connect(socket)?.call_within(method, json!({ "set": args.set }), DONE_WITHIN)?;
    let list = reply.get("kept").cloned().unwrap_or_default();
    if args.json {
        return print(&format!("{list}\n"));
    }
    let list: Vec<Kept> = serde_json::from_value(list).map_err(|error| {
        Fail::silent(format!(
            "the running dre-sync.service answers what drectl {} cannot read ({error}); restart it with: systemctl \
             restart dre-sync",
            env!("CARGO_PKG_VERSION")
        ))
    })?;
    print(&page::kept(&list, what, args.set.as_deref(), now()))
}

/// Until interrupted; on a terminal drawn over itself, with bars for long work below.
fn watch(socket: &Path, json: bool) -> Done {
    crate::keep_watching(json, |drawn| {
        let mut client = connect(socket)?;
        client.watch()?;
        let mut bars = bars::Bars::new();
        loop {
            let Some(status) = client.next_rules(Instant::now() + Duration::from_secs(3600))? else {
                continue;
            };
            if json {
                print(&crate::json_line(&status))?;
            } else if drawn {
                bars.follow(&status.sets, Instant::now());
                bars.around(|| crate::draw(&page::page(&status, now())))?;
            } else {
                print(&format!("{}\n", page::page(&status, now())))?;
            }
        }
    })
}
