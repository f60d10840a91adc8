//! `drectl rules check`: a set's `validate` before anything is saved, run as dre-sync would run it.
//!
//! On what is live, `{staging}` is the set's root itself; on files that are named, a private directory with copies of
//! them at their paths in the set. The command's verdict is the exit status: 0 or 75.

use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use dre::config::EXIT_CONFIG;
use dre::config::sync::{self, Set, Sync};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

use crate::args::CheckArgs;
use crate::exit::{Done, Fail, REFUSED};
use crate::print;

/// Of what the command says, this much is shown.
const OUTPUT_MAX: u64 = 64 * 1024;

/// How often the command is looked at: a person does not notice, and a quick one is not slowed down much.
const LOOK_EVERY: Duration = Duration::from_millis(2);

pub fn run(args: &CheckArgs) -> Done {
    let sync = sync::load()
        .map_err(|error| Fail { code: EXIT_CONFIG, text: error.render(true).trim_end().to_owned() })?;
    let set = find(&sync, &args.set)?;
    if set.validate.is_none() {
        return tell(
            args,
            &Verdict { status: None, late: false, output: String::new(), took: Duration::ZERO },
            0,
        );
    }
    let desk = Desk::new().map_err(|error| unfit(&std::env::temp_dir(), &error))?;
    let (staging, paths) = if args.files.is_empty() {
        (set.root.clone(), live(set)?)
    } else {
        let staging = desk.0.join("staging");
        let mut paths = vec![];
        for text in &args.files {
            let (path, file) = place(set, text)?;
            let copy = staging.join(&path);
            copy.parent().map_or(Ok(()), fs::create_dir_all).map_err(|error| unfit(&staging, &error))?;
            fs::copy(&file, &copy).map_err(|error| unfit(&file, &error))?;
            paths.push(path.as_os_str().as_bytes().to_vec());
        }
        (staging, paths)
    };
    let list = desk.0.join("list");
    fs::write(&list, sync::list(paths.iter().map(Vec::as_slice))).map_err(|error| unfit(&list, &error))?;
    let verdict = judge(set, &staging, &list, &desk.0.join("output"))?;
    tell(args, &verdict, paths.len())
}

fn find<'a>(sync: &'a Sync, name: &str) -> Result<&'a Set, Fail> {
    sync.set(name).ok_or_else(|| {
        let names: Vec<&str> = sync.sets.iter().map(|set| set.name.as_str()).collect();
        Fail::usage(format!("there is no set {name}; there is {}", names.join(", ")))
    })
}

fn unfit(path: &Path, error: &std::io::Error) -> Fail {
    Fail::refused(format!("{}: {error}; nothing was checked", path.display()))
}

/// A private directory that is gone afterwards.
struct Desk(PathBuf);

impl Desk {
    fn new() -> std::io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| std::io::Error::other(error.to_string()))?;
        let name = format!("drectl-check-{:016x}", u64::from_ne_bytes(random));
        let dir = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where a named file would be in the set, and where it is now.
fn place(set: &Set, text: &str) -> Result<(PathBuf, PathBuf), Fail> {
    let plain = |path: &Path| {
        path.components().next().is_some()
            && path.components().all(|part| matches!(part, Component::Normal(_)))
    };
    // A file that is called so comes before PATH=FILE.
    if let Some((path, file)) = text.split_once('=').filter(|_| !Path::new(text).exists()) {
        if !plain(Path::new(path)) {
            return Err(Fail::usage(format!(
                "{path:?} is no path in the set; write it from the root on, like de/a.xml"
            )));
        }
        return Ok((path.into(), file.into()));
    }
    let file = Path::new(text);
    // Through links on both sides: with publish = "tree" the root is one. The file itself may be one that is replicated.
    let name = file.file_name().ok_or_else(|| Fail::usage(format!("{text:?} names no file")))?;
    let beside = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let whole = fs::canonicalize(beside).map_err(|error| unfit(file, &error))?.join(name);
    let root = fs::canonicalize(&set.root).map_err(|error| unfit(&set.root, &error))?;
    match whole.strip_prefix(&root) {
        Ok(path) if plain(path) => Ok((path.to_path_buf(), file.to_path_buf())),
        // Judged under another name it would tell nothing of the place it is meant for.
        _ => Err(Fail::usage(format!(
            "{text} does not lie below {}: where in the set it is meant to be is not known; write PATH={text}",
            set.root.display()
        ))),
    }
}

/// Everything of the set that is there: files and links, sorted.
fn live(set: &Set) -> Result<Vec<Vec<u8>>, Fail> {
    let filter = set.filter().map_err(Fail::refused)?;
    let mut found = vec![];
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        let whole = set.root.join(&dir);
        let entries = fs::read_dir(&whole).map_err(|error| unfit(&whole, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| unfit(&whole, &error))?;
            let path = dir.join(entry.file_name());
            let kind = entry.file_type().map_err(|error| unfit(&whole, &error))?;
            let bytes = path.as_os_str().as_bytes();
            if kind.is_dir() && filter.enters(bytes) {
                todo.push(path);
            } else if (kind.is_file() || kind.is_symlink()) && filter.takes(bytes) {
                found.push(bytes.to_vec());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What the command made of it. `status`: `None` where the set has none.
struct Verdict {
    status: Option<ExitStatus>,
    late: bool,
    output: String,
    took: Duration,
}

impl Verdict {
    fn accepts(&self) -> bool {
        !self.late && self.status.is_none_or(|status| status.success())
    }
}

/// Runs `validate` in a process group of its own, so that what it started ends with it when it takes too long.
fn judge(set: &Set, staging: &Path, list: &Path, output: &Path) -> Result<Verdict, Fail> {
    let words = set.validate_command(staging, list).unwrap_or_default();
    let program = words.first().and_then(|word| word.to_str()).unwrap_or_default();
    let found = sync::find(program).ok_or_else(|| {
        Fail::refused(format!("validate of set {}: {program} is not there or cannot be executed", set.name))
    })?;
    // Into a file and not through a pipe: nobody has to read while it runs.
    let said = File::create(output).map_err(|error| unfit(output, &error))?;
    let both = said.try_clone().map_err(|error| unfit(output, &error))?;
    let begun = Instant::now();
    let mut child = Command::new(&found)
        .args(words.get(1..).unwrap_or_default())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(said)
        .stderr(both)
        .process_group(0)
        .spawn()
        .map_err(|error| unfit(&found, &error))?;
    let mut late = false;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| unfit(&found, &error))? {
            break status;
        }
        if begun.elapsed() > set.validate_timeout {
            late = true;
            let group = i32::try_from(child.id()).map(Pid::from_raw);
            // It has not been waited for yet, so the number is still its own.
            let _ = group.map(|group| killpg(group, Signal::SIGKILL));
            break child.wait().map_err(|error| unfit(&found, &error))?;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let took = begun.elapsed();
    let mut bytes = vec![];
    let _ = File::open(output).and_then(|file| file.take(OUTPUT_MAX).read_to_end(&mut bytes));
    Ok(Verdict { status: Some(status), late, output: String::from_utf8_lossy(&bytes).into_owned(), took })
}

/// Prints the verdict; its status is drectl's.
fn tell(args: &CheckArgs, verdict: &Verdict, files: usize) -> Done {
    let accepted = verdict.accepts();
    let code = verdict.status.and_then(|status| status.code());
    let signal = verdict.status.and_then(|status| status.signal());
    if args.json {
        let line = json!({
            "set": args.set, "accepted": accepted, "files": files, "status": code, "late": verdict.late,
            "ms": u64::try_from(verdict.took.as_millis()).unwrap_or(u64::MAX), "output": verdict.output,
        });
        print(&format!("{line}\n"))?;
        return if accepted { Ok(()) } else { Err(Fail { code: REFUSED, text: String::new() }) };
    }
    if !verdict.output.is_empty() {
        print(&format!("{}\n", verdict.output.trim_end()))?;
    }
    let of = match files {
        1 => "a file".to_owned(),
        n => format!("{n} files"),
    };
    if verdict.status.is_none() {
        return print(&format!(
            "set {}: accepted: it has no validate, so whatever is saved goes live\n",
            args.set
        ));
    }
    let ms = verdict.took.as_millis();
    if accepted {
        return print(&format!("set {}: accepted: {of} in {ms} ms\n", args.set));
    }
    let why = match (verdict.late, code, signal) {
        (true, ..) => format!("it was not done after {ms} ms (validate_timeout_ms)"),
        (_, Some(code), _) => format!("exit status {code}"),
        (_, None, Some(signal)) => format!("ended by signal {signal}"),
        (_, None, None) => "it ended without a status".into(),
    };
    Err(Fail { code: REFUSED, text: format!("set {}: refused: {of}: {why}", args.set) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn set(dir: &Path, validate: Option<Vec<&str>>) -> Set {
        let validate = validate.map(|words| words.into_iter().map(str::to_owned).collect());
        Set {
            name: "re".into(),
            root: dir.join("re"),
            include: vec!["*.xml".into()],
            exclude: vec!["drafts".into()],
            owners: [].into(),
            validate,
            validate_timeout: Duration::from_secs(10),
            apply: None,
            apply_every: Duration::ZERO,
            publish: sync::Publish::Files,
            links_outside: false,
            digest: [0; 32],
        }
    }

    fn tree(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("drectl-check-test-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for path in ["re/de/b.xml", "re/a.xml", "re/a.txt", "re/drafts/c.xml", "re/.dre-stage/d.xml"] {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, "x").expect("written");
        }
        dir
    }

    #[test]
    fn what_is_live_is_what_the_set_replicates() {
        let dir = tree("live");
        assert_eq!(live(&set(&dir, None)).expect("read"), [b"a.xml".to_vec(), b"de/b.xml".to_vec()]);
        fs::remove_dir_all(&dir).expect("removed");
        assert_eq!(live(&set(&dir, None)).expect_err("gone").code, REFUSED);
    }

    #[test]
    fn a_named_file_has_its_place_in_the_set() {
        let dir = tree("place");
        let set = set(&dir, None);
        let at = |text: &str| place(&set, text).map(|(path, _)| path.display().to_string());
        let inside = dir.join("re/de/b.xml").display().to_string();
        assert_eq!(at(&inside), Ok("de/b.xml".into()));
        let up = dir.join("re/de/../a.xml").display().to_string();
        assert_eq!(at(&up), Ok("a.xml".into()));
        let link = dir.join("link");
        std::os::unix::fs::symlink(dir.join("re"), &link).expect("linked");
        assert_eq!(at(&link.join("de/b.xml").display().to_string()), Ok("de/b.xml".into()));
        let draft = dir.join("draft.xml").display().to_string();
        assert_eq!(at(&draft).expect_err("elsewhere").code, crate::exit::USAGE);
        assert_eq!(at("de/new.xml=/tmp/draft"), Ok("de/new.xml".into()));
        assert_eq!(place(&set, "de/new.xml=/tmp/draft").map(|(_, file)| file), Ok("/tmp/draft".into()));
        for bad in ["/etc/x=/tmp/draft", "../x=/tmp/draft", "=/tmp/draft", "/"] {
            assert_eq!(at(bad).expect_err(bad).code, crate::exit::USAGE, "{bad}");
        }
        let odd = dir.join("re/x=y.xml");
        fs::write(&odd, "x").expect("written");
        assert_eq!(at(&odd.display().to_string()), Ok("x=y.xml".into()), "a file that is called so");
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn the_commands_own_verdict_counts() {
        let dir = tree("judge");
        let list = dir.join("list");
        fs::write(&list, "a.xml\n").expect("written");
        let script = "cat \"$1\"; test -e \"$0/a.xml\"; exit $(($? + ${2:-0}))";
        let judged = |words: Vec<&str>, timeout| {
            let set = Set { validate_timeout: timeout, ..set(&dir, Some(words)) };
            judge(&set, &set.root, &list, &dir.join("output"))
        };
        let patient = Duration::from_secs(60);
        let good = judged(vec!["sh", "-c", script, "{staging}", "{list}"], patient).expect("run");
        assert!(good.accepts() && good.output == "a.xml\n", "{}", good.output);
        let bad = judged(vec!["sh", "-c", script, "{staging}", "{list}", "3"], patient).expect("run");
        assert_eq!((bad.accepts(), bad.status.and_then(|s| s.code())), (false, Some(3)));
        // The sleep is the shell's child: it must not outlive the verdict, or hold it up.
        let slow = judged(vec!["sh", "-c", "sleep 600; true"], Duration::from_millis(50)).expect("run");
        assert!(slow.late && !slow.accepts() && slow.took < patient);
        let missing = judged(vec!["/nonexistent/re-check"], patient).map(|_| ()).expect_err("not there");
        assert!(missing.code == REFUSED && missing.text.contains("/nonexistent/re-check"), "{missing:?}");
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn drafts_are_private_and_gone_afterwards() {
        let desk = Desk::new().expect("made");
        let dir = desk.0.clone();
        assert_eq!(fs::metadata(&dir).expect("there").permissions().mode() & 0o777, 0o700);
        fs::write(dir.join("x"), "x").expect("written");
        drop(desk);
        assert!(!dir.exists());
    }
}
