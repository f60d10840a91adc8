//! `drectl rules setup`: the step that replaces `incrond_configuration.sh`. Asks for the directories, looks at them,
//! shows the `sync.toml` that would result, writes it, and says how the peer gets it.
//!
//! It adds sets and never rewrites what a person has written: an existing file is kept to the last comment, the new
//! tables go below it. What it would write is read by dre-sync's own reading before anything is touched.
//!
//! Absent on purpose: a question to somebody who is not there. Without a terminal the flags say everything.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dre::config::{self, EXIT_CONFIG, Link, Settings, sync};

use super::page;
use crate::args::SetupArgs;
use crate::exit::{Done, Fail};

/// What the old suite's users have in their environment, and what each becomes.
const PROPOSED: [(&str, &str); 2] = [("RE_CONFDIR", "re"), ("ERLBF_RE_CONFDIR", "erlbf")];

/// A tree is looked at for no longer than this: a person waits.
const LOOK_FOR: Duration = Duration::from_secs(5);

/// `ssh -o ConnectTimeout=`, seconds.
const SCP_PATIENCE: u8 = 5;

/// A directory and what it is to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub root: PathBuf,
}

/// `NAME=DIR`, as `--set` takes it.
pub fn wanted(text: &str) -> Result<Wanted, String> {
    match text.split_once('=') {
        Some((name, root)) if !name.is_empty() && !root.is_empty() => {
            Ok(Wanted { name: name.to_owned(), root: PathBuf::from(root) })
        }
        _ => Err("write NAME=DIR, e.g. re=/opt/dre/rules".into()),
    }
}

/// Somebody to talk to.
pub trait Voice {
    fn say(&mut self, text: &str) -> Done;
    /// The answer; an empty one is the default.
    fn ask(&mut self, question: &str, default: &str) -> Result<String, Fail>;
}

/// A person at a terminal.
struct Terminal;

impl Voice for Terminal {
    fn say(&mut self, text: &str) -> Done {
        crate::print(text)
    }

    fn ask(&mut self, question: &str, default: &str) -> Result<String, Fail> {
        let shown = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        crate::print(&format!("{question}{shown}: "))?;
        let mut line = String::new();
        match io::stdin().lock().read_line(&mut line) {
            Ok(0) => Err(Fail::usage("the input ended before the last question; nothing was written")),
            Ok(_) if line.trim().is_empty() => Ok(default.to_owned()),
            Ok(_) => Ok(line.trim().to_owned()),
            Err(error) => Err(Fail::usage(format!("cannot read the answer: {error}; nothing was written"))),
        }
    }
}

/// Says things, and is asked nothing.
struct Silence;

impl Voice for Silence {
    fn say(&mut self, text: &str) -> Done {
        crate::print(text)
    }

    fn ask(&mut self, question: &str, default: &str) -> Result<String, Fail> {
        if default.is_empty() {
            return Err(Fail::usage(format!(
                "not a terminal, so nobody answers {question:?}; see --help for the flags"
            )));
        }
        Ok(default.to_owned())
    }
}

pub fn run(args: &SetupArgs) -> Done {
    let pair = config::load().map_err(|error| Fail {
        code: EXIT_CONFIG,
        text: format!("dre.toml comes first, and does not hold:\n{}", error.render(true).trim_end()),
    })?;
    let located = sync::locate();
    let out = args.out.as_deref().unwrap_or(&located);
    let answers = io::stdin().is_terminal() && io::stdout().is_terminal() && !args.yes;
    if !answers && !args.yes {
        return Err(Fail::usage(
            "not a terminal, so nobody can be asked; add --yes, and name the directories: --set re=/opt/dre/rules",
        ));
    }
    let env = |name: &str| config::environment(name);
    if answers {
        set_up(args, &pair, (out, &located), env, &mut Terminal, true)
    } else {
        set_up(args, &pair, (out, &located), env, &mut Silence, false)
    }
}

/// All of it. `located` is the file that dre-sync reads; `asks`: there is somebody to answer.
fn set_up(
    args: &SetupArgs,
    pair: &Settings,
    (out, located): (&Path, &Path),
    env: impl Fn(&str) -> Option<String>,
    voice: &mut dyn Voice,
    asks: bool,
) -> Done {
    let in_force = is_same(out, located);
    if args.copy && !in_force {
        return Err(Fail::usage(format!(
            "--copy brings {} to the other node and nothing else, and {} is to be written; leave one of --copy and --out away",
            located.display(),
            out.display()
        )));
    }
    let before = existing(out, pair)?;
    let known: Vec<String> =
        before.iter().flat_map(|(_, sync)| &sync.sets).map(|set| set.name.clone()).collect();
    if !known.is_empty() {
        voice.say(&format!(
            "{} has {} already; what is added goes below.\n",
            out.display(),
            known.join(", ")
        ))?;
    }

    let mut sets = vec![];
    for (wanted, seen) in choose(args, &known, &env, voice, asks)? {
        if known.contains(&wanted.name) || sets.iter().any(|(w, ..): &(Wanted, _, _)| w.name == wanted.name) {
            return Err(Fail::usage(format!(
                "there is a set {} already; setup only adds: change it in {}, or choose another name",
                wanted.name,
                out.display()
            )));
        }
        voice.say(&seen.text(&wanted))?;
        let mut command = |given: &Option<String>, question: &str| -> Result<Option<Vec<String>>, Fail> {
            loop {
                let text = match given {
                    Some(text) => text.clone(),
                    None if asks => voice.ask(question, "none")?,
                    None => "none".into(),
                };
                match words(&text) {
                    _ if is_none(&text) => return Ok(None),
                    Ok(words) => return Ok(Some(words)),
                    Err(error) if asks && given.is_none() => voice.say(&format!("  {text:?}: {error}\n"))?,
                    Err(error) => return Err(Fail::usage(format!("{text:?}: {error}"))),
                }
            }
        };
        let validate = command(
            &args.validate,
            "  a command that may refuse changes before they go live here, with {staging} and {list}",
        )?;
        let apply = command(
            &args.apply,
            "  a command to run after changes went live here, e.g. systemctl reload diameter.service",
        )?;
        sets.push((wanted, validate, apply));
    }
    if sets.is_empty() {
        return Err(Fail::usage("no directory was named; nothing was written"));
    }

    let text = text(before.as_ref().map(|(text, _)| text.as_str()), out, &sets);
    let planned = planned(out, &text)?;
    let sync = sync::parse(&planned, pair).and_then(|sync| {
        let (warnings, verdict) = sync.check_host();
        verdict.map(|()| (sync, warnings))
    });
    let (sync, warnings) = sync.map_err(|error| Fail {
        code: EXIT_CONFIG,
        text: format!("that would not hold; nothing was written:\n{}", error.render(true).trim_end()),
    })?;
    voice.say(&format!("\n{}:\n\n{}\n", out.display(), indented(&text)))?;
    for warning in sync.warnings.iter().chain(&warnings) {
        voice.say(&format!("warning: {warning}\n"))?;
    }
    if asks && !yes(voice, "write it?", true)? {
        return Err(Fail::refused("nothing was written"));
    }
    write(out, text.as_bytes()).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::PermissionDenied => "run it as root",
            ErrorKind::NotFound => "mkdir -p -m 0755 its directory first",
            _ => "is the disk full?",
        };
        Fail::refused(format!("{}: {error}; nothing was written; {remedy}", out.display()))
    })?;
    voice.say(&format!("{} is written.\n", out.display()))?;

    if in_force {
        hand_over(args, pair, out, voice, asks)?;
    } else {
        voice.say(&format!("dre-sync reads {}, on both nodes: bring it there.\n", located.display()))?;
    }
    // Nothing is to be enabled: dre-generator makes the units wanted where the file is there.
    voice.say(
        "then, on both nodes:\n  systemctl daemon-reload\n  systemctl restart dre-sync-rsync.socket   # only after a change of \
         encrypt, rsync_port or the links\n  systemctl restart dre-sync\n  drectl rules\n",
    )
}

/// The answer of who wants none of what is asked for.
fn is_none(answer: &str) -> bool {
    matches!(answer, "-" | "none")
}

fn is_same(one: &Path, other: &Path) -> bool {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    whole(one) == whole(other)
}

/// What is in the file now: its text and what it means. `None` where there is none.
fn existing(out: &Path, pair: &Settings) -> Result<Option<(String, sync::Sync)>, Fail> {
    match fs::read_to_string(out) {
        Ok(text) => {
            let holds = sync::load_file(out, pair).map_err(|error| Fail {
                code: EXIT_CONFIG,
                text: format!(
                    "what is there does not hold; mend it or move it away first:\n{}",
                    error.render(true).trim_end()
                ),
            })?;
            Ok(Some((text, holds)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fail::refused(format!("{}: {error}; run it as root", out.display()))),
    }
}

/// The file as it would be, with the drop-ins that are there.
fn planned(out: &Path, text: &str) -> Result<Vec<(PathBuf, String)>, Fail> {
    let mut sources = match out.exists() {
        true => sync::sources(out)
            .map_err(|error| Fail { code: EXIT_CONFIG, text: error.render(true).trim_end().to_owned() })?,
        false => vec![(out.to_path_buf(), String::new())],
    };
    if let Some((_, first)) = sources.first_mut() {
        text.clone_into(first);
    }
    Ok(sources)
}

/// Which directories, and what is in them: from the flags, else asked, else what the environment proposes.
fn choose(
    args: &SetupArgs,
    known: &[String],
    env: &impl Fn(&str) -> Option<String>,
    voice: &mut dyn Voice,
    asks: bool,
) -> Result<Vec<(Wanted, Seen)>, Fail> {
    let mut looked = |sets: Vec<Wanted>| -> Result<Vec<(Wanted, Seen)>, Fail> {
        let each = sets.into_iter().map(|wanted| {
            let seen = look_or_make(&wanted, args.mkdir, voice, asks)?;
            Ok((wanted, seen))
        });
        each.collect()
    };
    if !args.sets.is_empty() {
        return looked(args.sets.clone());
    }
    let proposed: Vec<(&str, &str, Option<String>)> = PROPOSED
        .iter()
        .filter(|(_, name)| !known.iter().any(|known| known == name))
        .map(|(variable, name)| (*variable, *name, env(variable)))
        .collect();
    if !asks {
        let sets: Vec<Wanted> = proposed
            .into_iter()
            .filter_map(|(_, name, root)| Some(Wanted { name: name.into(), root: root?.into() }))
            .collect();
        return if sets.is_empty() {
            Err(Fail::usage(
                "neither RE_CONFDIR nor ERLBF_RE_CONFDIR names a directory that is not a set yet; name it: \
                 --set re=/opt/dre/rules",
            ))
        } else {
            looked(sets)
        };
    }
    let mut sets = vec![];
    for (variable, name, root) in proposed {
        let question = format!("directory of the set {name} ({variable}), - for none");
        let default = root.as_deref().unwrap_or("-");
        sets.extend(ask_for(
            &question,
            default,
            &|root| wanted(&format!("{name}={root}")),
            args.mkdir,
            voice,
        )?);
    }
    while let Some(one) = ask_for("another one, as NAME=DIR, - for none", "-", &wanted, args.mkdir, voice)? {
        sets.push(one);
    }
    Ok(sets)
}

/// Asks until the answer is a directory that is there, or none.
fn ask_for(
    question: &str,
    default: &str,
    means: &dyn Fn(&str) -> Result<Wanted, String>,
    mkdir: bool,
    voice: &mut dyn Voice,
) -> Result<Option<(Wanted, Seen)>, Fail> {
    loop {
        let answer = voice.ask(question, default)?;
        if is_none(&answer) {
            return Ok(None);
        }
        let wanted = means(&answer).map_err(Fail::usage);
        match wanted.and_then(|wanted| Ok((look_or_make(&wanted, mkdir, voice, true)?, wanted))) {
            Ok((seen, wanted)) => return Ok(Some((wanted, seen))),
            Err(fail) => voice.say(&format!("  {}\n", fail.text))?,
        }
    }
}

fn yes(voice: &mut dyn Voice, question: &str, default: bool) -> Result<bool, Fail> {
    let answer = voice.ask(question, if default { "yes" } else { "no" })?;
    Ok(matches!(answer.to_lowercase().as_str(), "y" | "yes"))
}

// ---- the directories ---------------------------------------------------------------------------------------

/// What a directory holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    files: u64,
    bytes: u64,
    /// Not everything was looked at.
    more: bool,
    /// Could not be read.
    unreadable: Vec<PathBuf>,
    /// Another file system is mounted here: a rename cannot reach into it.
    mounted: Vec<PathBuf>,
    /// Devices, sockets, pipes: not replicated.
    special: u64,
    read_only: bool,
}

impl Seen {
    fn text(&self, wanted: &Wanted) -> String {
        let mut text = format!(
            "{}: {}{}\n",
            wanted.root.display(),
            if self.more { "more than " } else { "" },
            page::files_and_bytes(self.files, self.bytes)
        );
        let mut warn = |what: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  warning: {what}");
        };
        if self.read_only {
            warn("it is mounted read-only: changes of the other node cannot be taken in".into());
        }
        if let Some(path) = self.mounted.first() {
            warn(format!(
                "another file system is mounted at {}: what lies there cannot be replaced by a rename; make it a set of its own, \
                 and exclude it here",
                path.display()
            ));
        }
        if let Some(path) = self.unreadable.first() {
            let count = self.unreadable.len();
            warn(format!(
                "{count} of it cannot be read by you, the first {}; dre-sync reads as root",
                path.display()
            ));
        }
        if self.special > 0 {
            warn(format!("{} devices, sockets or pipes in it are not replicated", self.special));
        }
        text
    }
}

/// Looks at the directory; makes it where that was asked for.
fn look_or_make(wanted: &Wanted, mkdir: bool, voice: &mut dyn Voice, asks: bool) -> Result<Seen, Fail> {
    let root = &wanted.root;
    let shown = root.display();
    if !root.is_absolute() {
        return Err(Fail::usage(format!(
            "{shown} is no absolute path; both nodes must mean the same directory"
        )));
    }
    match fs::metadata(root) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => {
            return Err(Fail::usage(format!("{shown} is no directory; name the one the file is in")));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let make =
                mkdir || asks && yes(voice, &format!("{shown} is not there; make it (mode 0755)?"), false)?;
            if !make {
                return Err(Fail::refused(format!(
                    "{shown} is not there; mkdir -p it on both nodes, or add --mkdir; nothing was written"
                )));
            }
            fs::DirBuilder::new().recursive(true).mode(0o755).create(root).map_err(|error| {
                Fail::refused(format!("{shown}: {error}; nothing was written; run it as root"))
            })?;
        }
        Err(error) => return Err(Fail::refused(format!("{shown}: {error}; run it as root"))),
    }
    Ok(look(root, Instant::now() + LOOK_FOR))
}

fn look(root: &Path, until: Instant) -> Seen {
    let mut seen = Seen::default();
    let device = fs::metadata(root).map(|meta| meta.dev()).unwrap_or_default();
    seen.read_only = nix::sys::statvfs::statvfs(root)
        .is_ok_and(|fs| fs.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        if Instant::now() > until {
            seen.more = true;
            break;
        }
        let Ok(entries) = fs::read_dir(&dir) else {
            seen.unreadable.push(dir);
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            // Not followed: a link is replicated as a link.
            let Ok(meta) = entry.metadata() else { continue };
            if entry.file_name().to_string_lossy().starts_with(".dre-") {
                continue;
            }
            if meta.is_dir() && meta.dev() != device {
                seen.mounted.push(path);
            } else if meta.is_dir() {
                todo.push(path);
            } else if meta.is_file() || meta.is_symlink() {
                seen.files += 1;
                seen.bytes += if meta.is_file() { meta.len() } else { 0 };
            } else {
                seen.special += 1;
            }
        }
    }
    seen
}

// ---- the file ----------------------------------------------------------------------------------------------

/// A command line as a person types it: words, quotes, backslashes.
fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = vec![];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                let next = chars.next().ok_or("it ends in a backslash")?;
                word.get_or_insert_default().push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    if words.is_empty() { Err("it names no command") } else { Ok(words) }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

type Chosen = (Wanted, Option<Vec<String>>, Option<Vec<String>>);

/// The file with the new sets below what is there.
fn text(before: Option<&str>, out: &Path, sets: &[Chosen]) -> String {
    let mut text = match before {
        Some(text) => text.trim_end().to_owned() + "\n",
        None => format!(
            "# {}: the SAME file on both nodes. All settings: /usr/share/doc/dre/sync.toml\n\
             # After a change on both: drectl config check, systemctl daemon-reload, systemctl restart dre-sync; and before that one,\n\
             # after a change of encrypt, rsync_port or the links: systemctl restart dre-sync-rsync.socket\n",
            out.display()
        ),
    };
    for (wanted, validate, apply) in sets {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[set.{}]\nroot = {}\n",
            key(&wanted.name),
            quoted(&wanted.root.to_string_lossy())
        );
        for (name, command) in [("validate", validate), ("apply", apply)] {
            if let Some(words) = command {
                let list: Vec<String> = words.iter().map(|word| quoted(word)).collect();
                let _ = writeln!(text, "{name} = [{}]", list.join(", "));
            }
        }
    }
    text
}

/// A name that is no bare key is quoted, so that its own mistake is found and not another.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if bare { name.to_owned() } else { quoted(name) }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".into() } else { format!("  {line}\n") }).collect()
}

/// Beside the old one and moved over it: whoever reads finds the old file or the new one, never half of one.
fn write(out: &Path, text: &[u8]) -> io::Result<()> {
    let mode = fs::metadata(out).map_or(0o644, |meta| meta.permissions().mode() & 0o777);
    let dir = match out.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut beside = out.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let beside = Path::new(&beside);
    let written =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(beside).and_then(|mut file| {
            file.write_all(text)?;
            // Whatever the umask took away: dre-sync's file is for everybody to read.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()
        });
    written.and_then(|()| fs::rename(beside, out)).inspect_err(|_| {
        let _ = fs::remove_file(beside);
    })?;
    File::open(dir)?.sync_all()
}

// ---- the peer ----------------------------------------------------------------------------------------------

/// The command that brings the file to the peer over one link.
fn scp(out: &Path, link: &Link, asks: bool) -> Vec<String> {
    let host = if link.peer.is_ipv6() { format!("[{}]", link.peer) } else { link.peer.to_string() };
    let path = out.display();
    let mut line: Vec<String> = ["scp", "-p", "-o"].map(str::to_owned).into();
    line.push(format!("ConnectTimeout={SCP_PATIENCE}"));
    if !asks {
        line.extend(["-o".to_owned(), "BatchMode=yes".to_owned()]);
    }
    line.extend([path.to_string(), format!("root@{host}:{path}")]);
    line
}

/// Tells how the peer gets the file, and brings it there where that is wanted. Never a failure: the file is written.
fn hand_over(args: &SetupArgs, pair: &Settings, out: &Path, voice: &mut dyn Voice, asks: bool) -> Done {
    let Some(first) = pair.addresses.first() else { return Ok(()) };
    let peer = pair.peer.as_deref().unwrap_or("the peer");
    let by_hand =
        format!("scp -p {} {}", out.display(), scp(out, first, true).last().map_or("", String::as_str));
    let drop_ins: Vec<String> = sync::sources(out)
        .map(|all| all.iter().skip(1).map(|(path, _)| path.display().to_string()).collect())
        .unwrap_or_default();
    if !drop_ins.is_empty() {
        voice.say(&format!(
            "its drop-ins must be the same on {peer} too, and are not copied: {}\n",
            drop_ins.join(", ")
        ))?;
    }
    let wants = args.copy || asks && yes(voice, &format!("copy it to {peer} by scp now?"), false)?;
    if !wants {
        return voice.say(&format!("{peer} needs the same file:\n  {by_hand}\n"));
    }
    for link in &pair.addresses {
        let line = scp(out, link, asks);
        voice.say(&format!("  {}\n", line.join(" ")))?;
        let mut process = Command::new(&line[0]);
        process.args(&line[1..]);
        if !asks {
            process.stdin(Stdio::null());
        }
        let why = match process.status() {
            Ok(status) if status.success() => {
                return voice.say(&format!("{peer} has it.\n"));
            }
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        voice.say(&format!("warning: not copied over link {} ({why})\n", link.name))?;
    }
    voice.say(&format!("{peer} does not have it yet; by hand:\n  {by_hand}\n"))
}

#[cfg(test)]
mod tests;
