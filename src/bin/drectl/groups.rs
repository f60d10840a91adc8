//! Several groups of one machine, one below the other: `drectl status` where nobody says which.
//!
//! A group that does not answer keeps none of the others from being shown; the exit status tells of it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anstyle::Style;
use dre::snapshot::Status;

use crate::beside::Beside;
use crate::client::{Client, Place};
use crate::exit::{Done, Fail};
use crate::{draw, json_line, now, page, print};

/// A group that is not there is looked for again this often.
const AGAIN: Duration = Duration::from_secs(1);

pub fn heading(group: &str) -> String {
    format!("{}\n", page::paint(Style::new().bold().underline(), &format!("Group {group}")))
}

pub fn status(places: &[Place], sync_socket: &Path, json: bool) -> Done {
    let mut beside = Beside::new(sync_socket);
    let mut worst = Ok(());
    for (n, place) in places.iter().enumerate() {
        let status = Client::connect(place).and_then(|mut client| client.status());
        if !json {
            print(&format!("{}{}", if n == 0 { "" } else { "\n" }, heading(&place.group)))?;
        }
        match status {
            Ok(status) => {
                let whole = beside.with(status);
                print(&if json {
                    json_line(&whole)
                } else {
                    page::page(&whole.status, whole.sets(), now())
                })?;
            }
            Err(fail) => {
                // A line of JSON is a status, and there is none.
                if json {
                    anstream::eprintln!("drectl: {}", fail.text);
                } else {
                    print(&format!("{}\n", fail.text))?;
                }
                worst = Err(Fail { text: String::new(), ..fail });
            }
        }
    }
    worst
}

/// What a group's thread has heard: the number of the group, and its status or why there is none.
type Word = (usize, Result<Status, Fail>);

/// Until interrupted; a thread listens to each group. On a terminal what is not there is looked for again, elsewhere it is the end.
pub fn watch(places: &[Place], sync_socket: &Path, json: bool) -> Done {
    let drawn = !json && std::io::stdout().is_terminal();
    let (tell, told) = channel();
    for (n, place) in places.iter().cloned().enumerate() {
        let tell = tell.clone();
        std::thread::spawn(move || {
            while let Err(fail) = listen(n, &place, &tell) {
                if tell.send((n, Err(fail))).is_err() || !drawn {
                    return;
                }
                std::thread::sleep(AGAIN);
            }
        });
    }
    drop(tell);
    let sync_socket: PathBuf = sync_socket.into();
    let mut beside = Beside::new(&sync_socket);
    let mut pages = vec![String::new(); places.len()];
    for (n, word) in told {
        let text = match word {
            Ok(status) => {
                let whole = beside.with(status);
                if json { json_line(&whole) } else { page::page(&whole.status, whole.sets(), now()) }
            }
            Err(fail) if drawn => format!("{}\n", fail.text),
            Err(fail) => return Err(fail),
        };
        let shown = match places.get(n) {
            Some(place) if !json => heading(&place.group) + &text + "\n",
            _ => text,
        };
        let written = if drawn {
            pages[n] = shown;
            draw(&pages.concat())
        } else {
            print(&shown)
        };
        match written {
            // The reader of our output has gone.
            Err(fail) if fail.code == 0 => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

/// Every status of a group, until it ends; done when nobody listens any more.
fn listen(n: usize, place: &Place, tell: &Sender<Word>) -> Done {
    let mut client = Client::connect(place)?;
    client.watch()?;
    loop {
        let Some(status) = client.next(Instant::now() + Duration::from_secs(3600))? else { continue };
        if tell.send((n, Ok(status))).is_err() {
            return Ok(());
        }
    }
}
