//! Rules files on two real nodes with the real rsync: whoever edits, whatever happens, both have the same and nothing is lost.
//! Root; see tests/lab and tests/product/rules.rs.
//!
//! Every case ends with both trees compared thing by thing: content, mode, owner's name, mtime to the nanosecond, links, ACLs
//! and other extended attributes.

mod lab;
mod product;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use lab::node::Node;
use lab::{Lab, sys};
use product::rules::{
    Dice, ERLBF, Files, RE, Set, UNIT, at, chmod, count, get, hash, lay, put, put_whole, table, tree, until,
    walk,
};
use product::{ms, role, runs};

/// For what takes milliseconds: a machine that is busy otherwise.
const SOON: Duration = Duration::from_secs(10);
/// For what waits for a connection to be given up, a restart, a second try.
const LATER: Duration = Duration::from_secs(30);
/// What dre-sync says when the peer's goes.
const AWAY: &str = "is away: ";
/// Of dre-sync and its rsync.
const PORTS: [u16; 2] = [1695, 8730];

/// One set, nothing said of it but where it is.
fn plain() -> Result<Files> {
    Files::start(&table(RE, ""), &[RE])
}

fn names(node: &Node, set: Set) -> Result<BTreeSet<Vec<u8>>> {
    Ok(tree(node, set.root)?.into_keys().collect())
}

/// What dre-sync said since.
fn since(node: &Node, cursor: &str) -> Result<String> {
    node.journal(&["-u", UNIT, "--after-cursor", cursor])
}

fn with_time(path: &Path, time: SystemTime) -> Result<()> {
    fs::File::options().write(true).open(path)?.set_modified(time)?;
    Ok(())
}

// ---- edits -------------------------------------------------------------------------------------------------

/// Create, update, chmod, chown, touch, rename, delete, on either node.
#[test]
fn every_edit_of_either_hand_arrives() -> Result<()> {
    let owners = "owners = { hadev2 = { rules = \"tomcat10\" } }";
    let files = Files::start(&(table(RE, "") + &table(ERLBF, owners)), &[RE, ERLBF])?;
    let [one, two] = files.lab.nodes();
    for (here, there) in [(one, two), (two, one)] {
        let name = here.name;
        let file = |path: &str| format!("{name}/{path}");
        put(here, RE, file("a.xml"), "first")?;
        put(here, RE, file("b.xml"), "second")?;
        put(here, RE, file("deep/er/c.xml"), "third")?;
        files.equal(RE, SOON)?;
        ensure!(get(there, RE, file("deep/er/c.xml"))? == b"third");

        put(here, RE, file("a.xml"), "changed")?;
        chmod(&at(here, RE, file("b.xml")), 0o4751)?;
        chmod(&at(here, RE, file("deep")), 0o2770)?;
        files.equal(RE, SOON)?;
        ensure!(get(there, RE, file("a.xml"))? == b"changed");
        ensure!(fs::metadata(at(there, RE, file("b.xml")))?.mode() & 0o7777 == 0o4751);

        // Same content, another time; a time of long ago.
        with_time(
            &at(here, RE, file("a.xml")),
            SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789),
        )?;
        files.equal(RE, SOON)?;

        // Owners by name: the numbers differ between the nodes.
        here.sh(&format!("cd {}/{name} && chown rules:rules a.xml && chown -h rules deep", RE.root))?;
        files.equal(RE, SOON)?;
        let uid =
            |node: &Node, name: &str| -> Result<u32> { Ok(node.run(&["id", "-u", name])?.trim().parse()?) };
        ensure!(uid(one, "rules")? != uid(two, "rules")?, "the lab gives them one number");
        ensure!(fs::metadata(at(there, RE, file("a.xml")))?.uid() == uid(there, "rules")?);
        // By another name, where the set says so, and back.
        put(here, ERLBF, file("o"), "owned")?;
        let called = |node: &Node| if node.name == "hadev2" { "tomcat10" } else { "rules" };
        here.run(&["chown", called(here), &format!("{}/{name}/o", ERLBF.root)])?;
        files.equal(ERLBF, SOON)?;
        ensure!(fs::metadata(at(there, ERLBF, file("o")))?.uid() == uid(there, called(there))?);

        here.sh(&format!(
            "cd {}/{name} && setfacl -m u:65534:r,m::rw a.xml && setfacl -d -m g:65534:rx deep",
            RE.root
        ))?;
        xattr::set(at(here, RE, file("b.xml")), "user.rule.author", b"somebody")?;
        files.equal(RE, SOON)?;
        ensure!(
            there.run(&["getfacl", "-n", &format!("{}/{name}/a.xml", RE.root)])?.contains("user:65534:r--")
        );
        ensure!(
            xattr::get(at(there, RE, file("b.xml")), "user.rule.author")?.as_deref()
                == Some(&b"somebody"[..])
        );
        here.sh(&format!("cd {}/{name} && setfacl -b a.xml && setfacl -k deep", RE.root))?;
        xattr::remove(at(here, RE, file("b.xml")), "user.rule.author")?;
        files.equal(RE, SOON)?;

        fs::rename(at(here, RE, file("a.xml")), at(here, RE, file("z.xml")))?;
        fs::rename(at(here, RE, file("deep")), at(here, RE, file("sea")))?;
        files.equal(RE, SOON)?;
        ensure!(get(there, RE, file("sea/er/c.xml"))? == b"third" && !at(there, RE, file("deep")).exists());

        fs::remove_file(at(here, RE, file("b.xml")))?;
        fs::remove_dir_all(at(here, RE, file("sea")))?;
        files.equal(RE, SOON)?;
        ensure!(names(there, RE)?.contains(file("z.xml").as_bytes()));
        ensure!(!at(there, RE, file("b.xml")).exists() && !at(there, RE, file("sea")).exists());
        // (All of a set at once would wait for a word.)
        put(here, RE, "stays", name)?;
        files.equal(RE, SOON)?;
        fs::remove_dir_all(at(here, RE, name))?;
        files.equal(RE, SOON)?;
    }
    // What was deleted here from there is in the trash, and comes back when asked for.
    let trash = files.kept_by_both("trash")?;
    let (node, kept) =
        trash.iter().find(|(_, k)| k.path == "hadev1/z.xml").context("z.xml is in no trash")?;
    ensure!(node.name == "hadev2", "in the trash of the node that deleted it by hand");
    node.run(&["drectl", "rules", "trash", "restore", "re", &kept.id])?;
    files.equal(RE, SOON)?;
    ensure!(get(one, RE, "hadev1/z.xml")? == b"changed");

    // Somebody whom the other node does not know: it says so, the file is there, and nobody takes that for an edit.
    one.run(&["useradd", "--no-create-home", "hermit"])?;
    put(one, RE, "hermits", "x")?;
    one.run(&["chown", "hermit", &format!("{}/hermits", RE.root)])?;
    let said = "there is no user hermit on this node";
    until("a word about hermit", SOON, ms(20), || Ok(two.journal(&["-u", UNIT])?.contains(said)))?;
    ensure!(get(two, RE, "hermits")? == b"x" && fs::metadata(at(two, RE, "hermits"))?.uid() == 0);
    let uid = fs::metadata(at(one, RE, "hermits"))?.uid();
    put(two, RE, "after", "x")?;
    until("an edit after it", SOON, ms(20), || Ok(get(one, RE, "after")? == b"x"))?;
    ensure!(fs::metadata(at(one, RE, "hermits"))?.uid() == uid, "its owner came back as root");
    files.audit()
}

/// What editors leave for a moment, anywhere below: [`walk`] passes over it.
fn temporary(directory: &Path) -> Result<Vec<String>> {
    let mut found = vec![];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if ["~", ".swp", ".swx"].iter().any(|end| name.ends_with(end))
            || name.starts_with(".#")
            || name == "4913"
        {
            found.push(entry.path().display().to_string());
        }
        if entry.file_type()?.is_dir() && name != ".dre-stage" {
            found.extend(temporary(&entry.path())?);
        }
    }
    Ok(found)
}

/// How people and programs really write: vim, nano, sed -i, shells, moved directories, races, swaps.
#[test]
fn editors_races_and_odd_names() -> Result<()> {
    let files = plain()?;
    let [one, two] = files.lab.nodes();
    for (here, there) in [(one, two), (two, one)] {
        let dir = format!("{}/{}", RE.root, here.name);
        let file = |path: &str| format!("{}/{path}", here.name);
        here.sh(&format!(
            "mkdir {dir} && cd {dir} && echo one > vim && echo one > nano && echo one > sed && echo one > cat"
        ))?;
        files.equal(RE, SOON)?;
        for backup in ["yes", "no", "auto"] {
            here.sh(&format!(
                "cd {dir} && vim.tiny -u NONE -es -c 'set backupcopy={backup} writebackup' -c '%s/$/ vim/' -c 'wq' vim </dev/null"
            ))?;
        }
        here.sh(&format!("cd {dir} && sed -i s/one/two/ sed && cat nano > cat && echo more >> cat"))?;
        // nano wants a terminal: typed when it runs and has drawn itself, left when it has saved.
        here.sh(&format!(
            "cd {dir} && rm -f /opt/screen && \
             await() {{ n=0; until eval \"$1\"; do n=$((n+1)); test $n -lt 400 || return 1; sleep 0.05; done; }} && \
             (await 'pgrep -x nano >/dev/null' && await 'grep -qs \"GNU nano\" /opt/screen' && printf 'typed \\023' \
              && await 'grep -q typed nano' && printf '\\030' && await '! pgrep -x nano >/dev/null') \
             | TERM=xterm script -qefc 'nano -I nano' /opt/screen >/dev/null"
        ))?;
        files.equal(RE, SOON)?;
        ensure!(get(there, RE, file("vim"))? == b"one vim vim vim\n", "{:?}", get(there, RE, file("vim")));
        ensure!(get(there, RE, file("nano"))? == b"typed one\n", "{:?}", get(there, RE, file("nano")));
        ensure!(get(there, RE, file("sed"))? == b"two\n");

        // A tree moved in, moved within, moved out; what is written to it outside is nobody's business.
        here.sh(&format!(
            "mkdir -p /opt/out/in/side && echo x > /opt/out/in/side/f && echo y > /opt/out/in/g && mv /opt/out/in {dir}/in"
        ))?;
        files.equal(RE, SOON)?;
        ensure!(get(there, RE, file("in/side/f"))? == b"x\n");
        here.sh(&format!("mv {dir}/in/side {dir}/side && echo z > {dir}/side/h"))?;
        files.equal(RE, SOON)?;
        ensure!(get(there, RE, file("side/h"))? == b"z\n");
        here.sh(&format!("mv {dir}/side /opt/out/side && echo after > /opt/out/side/f && rm -rf /opt/out"))?;
        files.equal(RE, SOON)?;
        ensure!(!at(there, RE, file("side")).exists());

        // Made and filled before any watch can be there.
        here.sh(&format!(
            "cd {dir} && for n in $(seq 60); do mkdir -p r$n/a/b && echo $n > r$n/a/b/f; done"
        ))?;
        files.equal(RE, SOON)?;
        ensure!(get(there, RE, file("r60/a/b/f"))? == b"60\n");

        // Directory, link, directory again; a link that leads nowhere; a file for a directory.
        here.sh(&format!(
            "cd {dir} && mkdir swap other && echo s > swap/s && echo o > other/o && ln -s nowhere dangling"
        ))?;
        files.equal(RE, SOON)?;
        here.sh(&format!("cd {dir} && mv swap old && ln -s other swap && rm -r old"))?;
        files.equal(RE, SOON)?;
        ensure!(fs::read_link(at(there, RE, file("swap")))?.as_os_str() == "other");
        ensure!(get(there, RE, file("other/o"))? == b"o\n", "what the link leads to was touched");
        here.sh(&format!(
            "cd {dir} && rm swap && mkdir swap && echo again > swap/s && rm -r other && echo file > other"
        ))?;
        files.equal(RE, SOON)?;

        // Names of one file: an edit through one is an edit of all, also through one outside of the set.
        here.sh(&format!("cd {dir} && echo 1 > name1 && ln name1 name2 && ln name1 /opt/name3"))?;
        files.equal(RE, SOON)?;
        here.sh(&format!("cd {dir} && echo 22 > name2"))?;
        files.equal(RE, SOON)?;
        ensure!(get(there, RE, file("name1"))? == b"22\n");
        here.sh("echo 333 > /opt/name3")?;
        here.run(&["drectl", "rules", "verify", "re"])?;
        files.equal(RE, SOON)?;
        ensure!(get(there, RE, file("name2"))? == b"333\n");

        // Names are bytes.
        for name in [
            &b"new\nline"[..],
            b"\xff\xfe\x80",
            b" lead",
            b"tail ",
            b"-rf",
            b"*?[a]",
            b"a\\b",
            b"#x",
            b"\t",
            b"\xc3\xa4",
        ] {
            put(here, RE, OsStr::from_bytes(&[file("odd/").as_bytes(), name].concat()), name)?;
        }
        put(here, RE, file("empty"), "")?;
        put(here, RE, file(&"n".repeat(255)), "long")?;
        files.equal(RE, SOON)?;
        ensure!(
            get(there, RE, OsStr::from_bytes(&[file("odd/").as_bytes(), b"\xff\xfe\x80"].concat()))?
                == b"\xff\xfe\x80"
        );
        ensure!(get(there, RE, file("empty"))?.is_empty());
        // Neither sockets nor pipes nor devices; and what they are beside goes on.
        here.sh(&format!("cd {dir} && mkfifo fifo && echo beside > beside"))?;
        until("beside", SOON, ms(20), || Ok(get(there, RE, file("beside"))? == b"beside\n"))?;
        ensure!(!at(there, RE, file("fifo")).exists());
        until("a word of the pipe", SOON, ms(100), || Ok(files.set(here, RE)?.reason.contains("fifo")))?;
        here.sh(&format!("cd {dir} && rm fifo /opt/name3"))?;
        files.equal(RE, SOON)?;
        // No editor's leavings arrived of what was edited above.
        let arrived = temporary(&at(there, RE, ""))?;
        ensure!(arrived.is_empty(), "{arrived:?}");
        // Some that stay: what is put after them arrives, the second when the first was there, and a third after every file was
        // looked at. They do not.
        let leavings = ["a.swp", "b~", ".#c", "4913", "d.swx", "below/e.swp"];
        for name in leavings {
            put(here, RE, file(name), "for a moment")?;
        }
        for name in ["after1", "below/after2", "after3"] {
            put(here, RE, file(name), name)?;
            until("an edit after them", SOON, ms(20), || Ok(get(there, RE, file(name))? == name.as_bytes()))?;
            if name == "below/after2" {
                here.run(&["drectl", "rules", "verify", "re"])?;
            }
        }
        files.equal(RE, SOON)?;
        for name in leavings {
            ensure!(at(here, RE, file(name)).exists(), "{name} is gone where it was made");
            ensure!(!at(there, RE, file(name)).exists(), "{name} came to {}", there.name);
        }
        let seen = temporary(&at(here, RE, ""))?;
        ensure!(seen.len() == leavings.len(), "{seen:?}");
        for name in leavings {
            fs::remove_file(at(here, RE, file(name)))?;
        }
    }
    ensure!(files.kept_by_both("conflicts")?.is_empty(), "{:?}", files.kept_by_both("conflicts"));
    files.audit()
}

/// The same size in the same second, with the same mtime; appended to without end; large; both nodes at once.
#[test]
fn fast_large_and_simultaneous_edits() -> Result<()> {
    let files = plain()?;
    let [one, two] = files.lab.nodes();
    // 50 edits of one size within a second, in place and by rename.
    for n in 0..50 {
        put(one, RE, "same", format!("{n:08}"))?;
        put_whole(one, RE, "renamed", format!("{n:08}"))?;
        thread::sleep(ms(15));
    }
    files.equal(RE, SOON)?;
    ensure!(get(two, RE, "same")? == b"00000049" && get(two, RE, "renamed")? == b"00000049");
    // 50 files, each edited with its old size and its old time put back: what `rsync -a` skips.
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for round in 0..2 {
        for n in 0..50 {
            put(one, RE, format!("quick/{n}"), format!("{round}{n:07}"))?;
            with_time(&at(one, RE, format!("quick/{n}")), time)?;
        }
        files.equal(RE, SOON)?;
        ensure!(get(two, RE, "quick/49")? == format!("{round}{:07}", 49).as_bytes());
    }

    // 100 and 100 created at once: 200 on both.
    thread::scope(|s| -> Result<()> {
        let hands: Vec<_> = [one, two]
            .into_iter()
            .map(|node| {
                s.spawn(move || -> Result<()> {
                    for n in 0..100 {
                        put(node, RE, format!("both/{}-{n}", node.name), format!("{n} of {}", node.name))?;
                    }
                    Ok(())
                })
            })
            .collect();
        hands.into_iter().try_for_each(|h| h.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
    })?;
    files.equal(RE, SOON)?;
    ensure!(count(one, &format!("{}/both", RE.root))? == 200);

    // A writer that appends every 100 ms: the peer is never far behind. Closed each time, and held open.
    for open in [false, true] {
        let path = at(one, RE, "log");
        let mut held = fs::File::options().create(true).append(true).open(&path)?;
        let begun = Instant::now();
        let length = || fs::metadata(at(two, RE, "log")).map_or(0, |m| m.len());
        let (mut last, mut changed, mut gap) = (length(), Instant::now(), Duration::ZERO);
        let (mut lines, mut arrivals) = (0, 0);
        while begun.elapsed() < Duration::from_secs(10) {
            if begun.elapsed() > ms(100) * lines {
                lines += 1;
                let line = format!("line {lines} of a log\n");
                match open {
                    true => held.write_all(line.as_bytes())?,
                    false => fs::File::options().append(true).open(&path)?.write_all(line.as_bytes())?,
                }
            }
            let size = length();
            if size != last {
                gap = gap.max(changed.elapsed());
                (last, changed) = (size, Instant::now());
                arrivals += 1;
            }
            thread::sleep(ms(2));
        }
        gap = gap.max(changed.elapsed());
        drop(held);
        println!(
            "FIGURE appended to every 100 ms for 10 s, {}: {arrivals} of {lines} lengths seen on the peer, longest wait {gap:.0?}",
            if open { "held open" } else { "closed" }
        );
        // Counted, for one wait is the machine's too: closed, each is due at once; held open, every 2 s.
        let least = if open { 3 } else { 10 };
        ensure!(arrivals >= least, "the peer saw {arrivals} of {lines} lengths of a file that grew for 10 s");
        files.equal(RE, SOON)?;
        let end = format!("line {lines} of a log\n");
        ensure!(get(two, RE, "log")?.ends_with(end.as_bytes()), "the last line did not arrive");
    }

    // Large, and then a byte in the middle: what is there already is not sent again.
    let mega: usize = if runs() >= 10 { 1024 } else { 200 };
    let piece = Dice::new().bytes(1 << 20);
    let mut large = fs::File::create(at(one, RE, "large"))?;
    let begun = Instant::now();
    for n in 0..mega {
        large.write_all(&n.to_le_bytes())?;
        large.write_all(&piece[8..])?;
    }
    large.flush()?;
    drop(large);
    let written = begun.elapsed();
    files.equal(RE, Duration::from_secs(120))?;
    println!(
        "FIGURE a file of {mega} MiB: written in {written:.1?}, the same on the peer {:.1?} after it was begun",
        begun.elapsed()
    );
    files.lab.net.count(&PORTS)?;
    let mut large = fs::File::options().write(true).open(at(one, RE, "large"))?;
    large.write_at(b"changed", mega as u64 / 2 * (1 << 20) + 77)?;
    large.seek(std::io::SeekFrom::End(0))?;
    large.write_all(b"and longer")?;
    drop(large);
    files.equal(RE, Duration::from_secs(120))?;
    let bytes = files.lab.net.traffic()?.bytes;
    println!("FIGURE two places of it changed: {:.2} MiB sent", bytes as f64 / f64::from(1 << 20));
    ensure!(bytes < (mega as u64) << 20 >> 2, "{bytes} bytes sent for an edit of a {mega} MiB file");

    // The role moves, and nobody here cares.
    let roles = || files.lab.nodes().map(|n| role(n).unwrap_or_default());
    let cursors = [one.cursor()?, two.cursor()?];
    let mut seen = vec![roles()];
    let writing = AtomicBool::new(true);
    thread::scope(|s| -> Result<()> {
        let hands: Vec<_> = [one, two]
            .into_iter()
            .map(|node| {
                let writing = &writing;
                s.spawn(move || -> Result<usize> {
                    let mut n = 0;
                    while writing.load(Ordering::Relaxed) {
                        put(node, RE, format!("role/{}-{}", node.name, n % 40), format!("{n}"))?;
                        n += 1;
                        thread::sleep(ms(10));
                    }
                    Ok(n)
                })
            })
            .collect();
        let moved = (0..2).try_for_each(|_| -> Result<()> {
            let before = roles();
            let active = before.iter().position(|r| r == "ACTIVE").context("no node is ACTIVE")?;
            files.lab.nodes()[active].run(&["drectl", "switchover"])?;
            until("the role on the other node", LATER, ms(20), || {
                let now = roles();
                Ok(now[1 - active] == "ACTIVE" && now[active] == "STANDBY")
            })?;
            seen.push(roles());
            // An edit of each hand while the new roles stand.
            for (here, there) in [(one, two), (two, one)] {
                let path = format!("role/{}-in-{}", here.name, seen.len());
                put(here, RE, &path, "x")?;
                until("an edit in the new roles", SOON, ms(10), || Ok(get(there, RE, &path)? == b"x"))?;
            }
            Ok(())
        });
        writing.store(false, Ordering::Relaxed);
        for hand in hands {
            let n = hand.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
            ensure!(n > 0, "nobody edited while the role moved");
            println!("{n} edits of a hand while the role moved");
        }
        moved
    })?;
    println!("roles of hadev1 and hadev2: {seen:?}");
    ensure!(seen.len() == 3 && seen[0] != seen[1] && seen[0] == seen[2], "the role did not move: {seen:?}");
    files.equal(RE, SOON)?;
    // (That it is said where it happens, `apart` demands.)
    for (node, from) in files.lab.nodes().into_iter().zip(&cursors) {
        let said = since(node, from)?;
        ensure!(!said.contains(AWAY), "{}: the switchover was felt: {said}", node.name);
        ensure!(
            node.journal(&["-u", "dre", "--after-cursor", from])?.contains("Switchover"),
            "another journal"
        );
    }
    ensure!(files.kept_by_both("conflicts")?.is_empty());
    files.audit()
}

// ---- apart -------------------------------------------------------------------------------------------------

fn connected(files: &Files, wanted: bool) -> Result<()> {
    let all = || files.lab.nodes().into_iter().all(|n| files.status(n).is_ok_and(|s| s.connected == wanted));
    until(&format!("connected: {wanted}"), LATER, ms(50), || Ok(all())).map(drop)
}

/// Both heartbeat networks silently cut while `harm` is done, and healed again.
fn apart(files: &Files, harm: impl FnOnce(&Node, &Node) -> Result<()>) -> Result<()> {
    let [one, two] = files.lab.nodes();
    let cursors = [one.cursor()?, two.cursor()?];
    files.lab.cut_links(one, true)?;
    connected(files, false)?;
    for (node, from) in files.lab.nodes().into_iter().zip(&cursors) {
        until("a word that the peer is away", SOON, ms(50), || Ok(since(node, from)?.contains(AWAY)))?;
    }
    let done = harm(one, two);
    files.lab.cut_links(one, false)?;
    done?;
    connected(files, true)
}

#[test]
fn edited_on_both_nodes_while_apart() -> Result<()> {
    let files = plain()?;
    let [one, two] = files.lab.nodes();
    for name in ["conflict", "same", "older", "deleted1", "deleted2", "deleted3", "deleted-both", "dir/below"]
    {
        put(one, RE, name, "before")?;
    }
    files.equal(RE, SOON)?;
    apart(&files, |one, two| {
        files.state(one, RE, "PEER_AWAY", SOON)?;
        put(one, RE, "conflict", "older of hadev1")?;
        put(one, RE, "same", "both alike")?;
        fs::remove_file(at(one, RE, "deleted1"))?;
        put(two, RE, "deleted2", "edited first, then deleted there")?;
        put(one, RE, "deleted-both", "x")?;
        fs::remove_file(at(one, RE, "deleted-both"))?;
        thread::sleep(ms(3500));
        put(two, RE, "conflict", "newer of hadev2")?;
        put(two, RE, "same", "both alike")?;
        // The other order: here the newer one is on hadev1.
        put(two, RE, "older", "older of hadev2")?;
        put(two, RE, "deleted1", "edited long after the deletion")?;
        fs::remove_file(at(one, RE, "deleted2"))?;
        fs::remove_file(at(two, RE, "deleted-both"))?;
        // Deletion and edit within two seconds: the edit stays, though it was before.
        let just_before = SystemTime::now() - ms(1);
        fs::remove_file(at(one, RE, "deleted3"))?;
        put(two, RE, "deleted3", "edited just before")?;
        with_time(&at(two, RE, "deleted3"), just_before)?;
        put(one, RE, "older", "newer of hadev1")?;
        until("changes that wait", SOON, ms(20), || Ok(files.set(one, RE)?.pending >= 5)).map(drop)
    })?;
    files.equal(RE, SOON)?;
    for (name, wanted) in [
        ("conflict", Some("newer of hadev2")),
        ("older", Some("newer of hadev1")),
        ("deleted1", Some("edited long after the deletion")),
        ("deleted2", None),
        ("deleted3", Some("edited just before")),
        ("deleted-both", None),
        ("dir/below", Some("before")),
    ] {
        let now = get(one, RE, name).ok();
        ensure!(now.as_deref() == wanted.map(str::as_bytes), "{name}: {now:?}, wanted {wanted:?}");
    }
    // Each loser once, on one of the nodes, and not in the live directory.
    let kept = files.kept_by_both("conflicts")?;
    let of = |path: &str| kept.iter().filter(|(_, k)| k.path == path).collect::<Vec<_>>();
    for (path, loser) in [("conflict", "hadev1"), ("older", "hadev2"), ("deleted2", "hadev2")] {
        ensure!(of(path).len() == 1 && of(path)[0].1.node == loser, "{path}: {:?}", of(path));
        ensure!(!of(path)[0].1.uncertain, "{path}: the clocks are one");
    }
    // Of equal content there is no loser worth a word: at most the two times differed.
    ensure!(of("same").len() <= 1 && kept.len() <= 4, "{kept:?}");
    for node in files.lab.nodes() {
        let listed = node.run(&["drectl", "rules", "conflicts"])?;
        println!("{}: {listed}", node.name);
    }
    let states: Vec<String> =
        files.lab.nodes().into_iter().map(|n| Ok(files.set(n, RE)?.state)).collect::<Result<_>>()?;
    ensure!(states.contains(&"CONFLICTS".to_owned()), "{states:?}");
    // The loser comes back when somebody wants it, on both nodes; the former winner is in the trash.
    let (node, loser) = of("conflict")[0];
    node.run(&["drectl", "rules", "conflicts", "restore", "re", &loser.id])?;
    files.equal(RE, SOON)?;
    ensure!(
        get(two, RE, "conflict")? == b"older of hadev1" && get(one, RE, "conflict")? == b"older of hadev1"
    );
    ensure!(
        files.kept(node, "trash")?.iter().any(|k| k.path == "conflict"),
        "the winner that was replaced is in no trash"
    );

    // The same again, the other way round in time and place, with directories.
    apart(&files, |one, two| {
        put(two, RE, "dir/below", "of hadev2")?;
        fs::remove_dir_all(at(one, RE, "dir"))?;
        put(one, RE, "new/file", "new on hadev1")?;
        put(two, RE, "new", "a file on hadev2, a directory on the other")?;
        Ok(())
    })?;
    files.equal(RE, SOON)?;
    ensure!(get(one, RE, "dir/below")? == b"of hadev2", "an edit lost against a deletion of its directory");
    let kept = files.kept_by_both("conflicts")?;
    let content = |wanted: &[u8]| -> Result<bool> {
        let mut found = false;
        for node in files.lab.nodes() {
            walk(&node.place("/var/lib/dre-rules"), &mut |_, at, meta| {
                found |= meta.is_file() && fs::read(at)? == wanted;
                Ok(())
            })?;
            walk(&node.place(RE.root), &mut |_, at, meta| {
                found |= meta.is_file() && fs::read(at)? == wanted;
                Ok(())
            })?;
        }
        Ok(found)
    };
    ensure!(content(b"new on hadev1")?, "lost: {kept:?}");
    ensure!(content(b"a file on hadev2, a directory on the other")?, "lost: {kept:?}");
    files.audit()
}

/// One network is enough; without any, and without power, changes wait, and are there soon after.
#[test]
fn away_and_back_again() -> Result<()> {
    let files = plain()?;
    let [one, two] = files.lab.nodes();
    for n in 0..2000 {
        put(one, RE, format!("d{}/f{n}", n % 20), format!("file {n}\n"))?;
    }
    files.equal(RE, LATER)?;

    // A cut of the link that carries it: the other one takes over.
    for _ in 0..2 {
        let link = files.status(two)?.link;
        let net = if link == "primary" { "eth3" } else { "eth4" };
        files.lab.net.silent("hadev1", net, true)?;
        let cut = Instant::now();
        put(one, RE, "over the other", format!("{link} is cut"))?;
        until("an edit over the other link", LATER, ms(5), || {
            Ok(get(two, RE, "over the other")? == format!("{link} is cut").as_bytes())
        })?;
        println!("FIGURE {link} link silently cut: an edit arrives by the other after {:.1?}", cut.elapsed());
        ensure!(cut.elapsed() < SOON, "the second link took over after {:?}", cut.elapsed());
        until("the other link's name", SOON, ms(50), || Ok(files.status(two)?.link != link))?;
        put(two, RE, "and back", format!("{link} is cut"))?;
        files.equal(RE, LATER)?;
        files.lab.net.silent("hadev1", net, false)?;
    }

    // dre-sync of the peer is stopped; 1,000 changes of all kinds; it comes back.
    let away = |what: &str,
                leave: &dyn Fn() -> Result<()>,
                back: &dyn Fn() -> Result<Instant>,
                round: usize|
     -> Result<()> {
        leave()?;
        until("PEER_AWAY", LATER, ms(50), || Ok(files.set(one, RE)?.state == "PEER_AWAY"))?;
        for n in 0..1000 {
            let path = format!("d{}/f{n}", n % 20);
            match (n + round) % 10 {
                0 => {
                    fs::remove_file(at(one, RE, &path)).or_else(|_| fs::write(at(one, RE, &path), "back"))?
                }
                1 => put(one, RE, format!("new{round}/{n}"), "new")?,
                2 => chmod(&at(one, RE, &path), 0o600).or_else(|_| put(one, RE, &path, "x"))?,
                _ => put(one, RE, &path, format!("changed {n} in round {round}"))?,
            }
        }
        until("changes seen", SOON, ms(50), || Ok(files.set(one, RE)?.pending >= 1000))?;
        let begun = back()?;
        files.equal(RE, LATER)?;
        println!("FIGURE {what}: 1,000 changes caught up {:.2?} after its start", begun.elapsed());
        Ok(())
    };
    let stop = || two.run(&["systemctl", "stop", UNIT]).map(drop);
    let start = || {
        let begun = Instant::now();
        two.run(&["systemctl", "start", UNIT])?;
        Ok(begun)
    };
    away("dre-sync stopped", &stop, &start, 1)?;
    let lose = || two.power_loss().map(drop);
    let boot = || {
        two.boot()?;
        Ok(Instant::now())
    };
    away("power lost", &lose, &boot, 2)?;

    // Deleted while the peer was away: it stays deleted, though the peer had it.
    two.run(&["systemctl", "stop", UNIT])?;
    fs::remove_file(at(one, RE, "d1/f1001"))?;
    until("the deletion seen", SOON, ms(20), || Ok(files.set(one, RE)?.pending >= 1))?;
    two.run(&["systemctl", "start", UNIT])?;
    files.equal(RE, LATER)?;
    ensure!(!at(two, RE, "d1/f1001").exists());

    // The database is lost: nothing is a deletion, both sides are put together, and that is said.
    for node in [two, one] {
        let other = files.lab.other(node);
        node.run(&["systemctl", "stop", UNIT])?;
        fs::remove_file(at(other, RE, "d1/f1021"))?;
        put(node, RE, "only here", node.name)?;
        put(other, RE, "differs", "older")?;
        thread::sleep(ms(50));
        put(node, RE, "differs", "newer")?;
        until("the deletion seen", SOON, ms(20), || Ok(files.set(other, RE)?.pending >= 1))?;
        node.sh("rm -f /var/lib/dre-rules/*.redb*")?;
        let cursor = node.cursor()?;
        node.run(&["systemctl", "start", UNIT])?;
        files.equal(RE, LATER)?;
        for node in files.lab.nodes() {
            ensure!(get(node, RE, "d1/f1021").is_ok(), "a lost database deleted a file on {}", node.name);
            ensure!(get(node, RE, "differs")? == b"newer");
            ensure!(get(node, RE, "only here").is_ok());
        }
        until(
            "a word of the union",
            SOON,
            ms(50),
            || Ok(since(node, &cursor)?.contains("put together with")),
        )
        .with_context(|| since(node, &cursor).unwrap_or_default())?;
        fs::remove_file(at(other, RE, "only here"))?;
        files.equal(RE, SOON)?;
    }
    ensure!(files.lab.nodes().into_iter().all(|n| n.failed_units().is_ok_and(|f| f.is_empty())));
    Ok(())
}

/// One node's clock is five seconds ahead: that is an alarm, orders are uncertain, and nothing is lost.
#[test]
fn clocks_apart() -> Result<()> {
    let files = Files::start_with(&table(RE, ""), &[RE], |root| {
        if fs::read_to_string(root.join("etc/hostname"))?.starts_with("hadev2") {
            let drop_in = "[Service]\nEnvironment=LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME=+5s \
                           FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1\n";
            fs::create_dir_all(root.join("etc/systemd/system/dre-sync.service.d"))?;
            fs::write(root.join("etc/systemd/system/dre-sync.service.d/90-clock.conf"), drop_in)?;
        }
        Ok(())
    })?;
    let [one, two] = files.lab.nodes();
    let seen = files.state(one, RE, "CLOCK_SKEW", SOON)?;
    println!("{}: {} → {}", seen.state, seen.reason, seen.remedy);
    files.state(two, RE, "CLOCK_SKEW", SOON)?;
    let skew = files.status(one)?.skew_ms;
    println!("FIGURE a clock 5 s ahead: measured as {skew} ms");
    ensure!((4500..5500).contains(&skew), "hadev2 is ahead by {skew} ms");
    put(one, RE, "edited", "before")?;
    put(one, RE, "deleted", "before")?;
    files.equal(RE, SOON)?;
    apart(&files, |one, two| {
        // hadev2's hand is the earlier one, and its clock says the opposite.
        put(two, RE, "edited", "of hadev2")?;
        with_time(&at(two, RE, "edited"), SystemTime::now() + Duration::from_secs(5))?;
        put(two, RE, "deleted", "of hadev2")?;
        with_time(&at(two, RE, "deleted"), SystemTime::now() + Duration::from_secs(5))?;
        thread::sleep(ms(1000));
        put(one, RE, "edited", "of hadev1")?;
        fs::remove_file(at(one, RE, "deleted"))?;
        thread::sleep(ms(500));
        Ok(())
    })?;
    files.equal(RE, SOON)?;
    ensure!(get(one, RE, "edited")? == b"of hadev2");
    ensure!(
        get(one, RE, "deleted")? == b"of hadev2",
        "a deletion won over an edit though nobody knows the order"
    );
    let kept = files.kept_by_both("conflicts")?;
    let loser = kept.iter().find(|(_, k)| k.path == "edited").context("the loser is not kept")?;
    ensure!(loser.1.uncertain && loser.1.node == "hadev1", "{loser:?}");
    loser.0.run(&["drectl", "rules", "conflicts", "restore", "re", &loser.1.id])?;
    files.equal(RE, SOON)?;
    ensure!(get(two, RE, "edited")? == b"of hadev1");
    files.audit()
}

// ---- held, blocked, refused --------------------------------------------------------------------------------

/// A set whose root is a file system of its own on both nodes.
const SMALL: Set = Set { name: "small", root: "/srv/small" };

/// tmpfs on the root of [`SMALL`], before dre-sync starts.
fn small(root: &Path, options: &str) -> Result<()> {
    let unit = format!(
        "[Unit]\nBefore=dre-sync.service local-fs.target\n[Mount]\nWhat=tmpfs\nWhere={}\nType=tmpfs\nOptions=mode=755,{options}\n\
         [Install]\nWantedBy=local-fs.target\n",
        SMALL.root
    );
    fs::write(root.join("etc/systemd/system/srv-small.mount"), unit)?;
    product::run(&["systemctl", &format!("--root={}", root.display()), "enable", "srv-small.mount"])
}

#[test]
fn many_deletions_and_an_empty_root_wait_for_a_word() -> Result<()> {
    let sync = table(RE, "") + &table(SMALL, "");
    let files = Files::start_with(&sync, &[RE, SMALL], |root| small(root, "size=20m"))?;
    let [one, two] = files.lab.nodes();
    for set in [RE, SMALL] {
        for n in 0..100 {
            put(one, set, format!("d{}/f{n}", n % 4), format!("{n}"))?;
        }
        files.equal(set, SOON)?;
    }
    // Twenty are twenty; more than that and a third of the set is no slip that spreads by itself.
    for n in 0..20 {
        fs::remove_file(at(one, RE, format!("d{}/f{n}", n % 4)))?;
    }
    files.equal(RE, SOON)?;
    ensure!(count(two, RE.root)? == 80, "{} files left on hadev2", count(two, RE.root)?);
    // What was believed counts for ten seconds more.
    thread::sleep(Duration::from_secs(11));
    one.sh(&format!("rm -rf {}/d1 {}/d2", RE.root, RE.root))?;
    let held = files.state(one, RE, "HELD", SOON)?;
    println!("{} → {}", held.reason, held.remedy);
    ensure!(held.remedy.contains("accept-deletes"), "{held:?}");
    thread::sleep(ms(500));
    // What was seen of it before it was more than twenty has gone already.
    let left = count(two, RE.root)?;
    ensure!((60..=80).contains(&left), "{left} files left on hadev2");
    // Other edits go on meanwhile, both ways.
    put(one, RE, "meanwhile1", "x")?;
    put(two, RE, "meanwhile2", "y")?;
    until("edits while held", SOON, ms(20), || {
        Ok(get(two, RE, "meanwhile1")? == b"x" && get(one, RE, "meanwhile2")? == b"y")
    })?;
    // A restart does not make it less of a question.
    one.run(&["systemctl", "restart", UNIT])?;
    files.state(one, RE, "HELD", SOON)?;
    ensure!(count(two, RE.root)? == left + 2);
    one.run(&["drectl", "rules", "accept-deletes", "re"])?;
    files.equal(RE, SOON)?;
    ensure!(count(two, RE.root)? == 42, "{}", count(two, RE.root)?);
    ensure!(files.kept(two, "trash")?.len() >= 60, "{} things in the trash", files.kept(two, "trash")?.len());
    let nothing = one.run_for(&["drectl", "rules", "accept-deletes", "re"], SOON)?;
    ensure!(!nothing.ok(), "nothing was held: {nothing:?}");

    // All of it, by hand: held, and put back by hand. The peer has not lost anything.
    one.sh(&format!(
        "cp -a {} /opt/copy && find {} -mindepth 1 -not -name '.dre-*' -delete",
        RE.root, RE.root
    ))?;
    files.state(one, RE, "HELD", SOON)?;
    let left = count(two, RE.root)?;
    ensure!((22..=42).contains(&left), "{left} files left on hadev2");
    one.sh(&format!("cp -a /opt/copy/. {}/ && rm -rf /opt/copy", RE.root))?;
    files.equal(RE, SOON)?;
    ensure!(count(one, RE.root)? == 42 && count(two, RE.root)? == 42);

    // Moved about is not deleted, however much it is.
    one.sh(&format!("mkdir {}/moved && mv {}/d? {}/moved/", RE.root, RE.root, RE.root))?;
    files.equal(RE, SOON)?;
    files.state(one, RE, "IN_SYNC", SOON)?;
    ensure!(count(two, &format!("{}/moved", RE.root))? == 40);

    // The root is gone, another one, or unmounted.
    one.sh(&format!("mv {} /opt/gone", RE.root))?;
    files.state(one, RE, "ROOT_GONE", SOON)?;
    thread::sleep(ms(500));
    ensure!(count(two, RE.root)? == 42);
    one.sh(&format!("mv /opt/gone {}", RE.root))?;
    files.equal(RE, LATER)?;
    put(one, RE, "after", "the root is back")?;
    files.equal(RE, SOON)?;

    // Lazily: the daemons hold the directory open, in a mount namespace of their own.
    one.sh(&format!("umount -l {}", SMALL.root))?;
    let gone = files.state(one, SMALL, "ROOT_GONE", SOON)?;
    println!("{} → {}", gone.reason, gone.remedy);
    put(two, SMALL, "meanwhile", "while it was not mounted")?;
    thread::sleep(ms(500));
    ensure!(count(two, SMALL.root)? == 101);
    ensure!(!at(one, SMALL, "meanwhile").exists(), "written below the mount point");
    // Empty after it is mounted anew: another file system, and as good as a lost one.
    one.sh(&format!("mount -t tmpfs -o size=20m,mode=755 tmpfs {}", SMALL.root))?;
    thread::sleep(ms(1500));
    files.state(one, SMALL, "ROOT_GONE", SOON)?;
    ensure!(count(two, SMALL.root)? == 101 && count(one, SMALL.root)? == 0);
    // Nor does a restart take it for a set that was emptied, before somebody says so; and then it is a question.
    let restart = || one.run(&["systemctl", "restart", UNIT]);
    restart()?;
    let bare = files.state(one, SMALL, "ROOT_GONE", SOON)?;
    println!("{} → {}", bare.reason, bare.remedy);
    ensure!(bare.reason.contains("mkdir /srv/small/.dre-stage"), "{bare:?}");
    one.sh("mkdir /srv/small/.dre-stage")?;
    restart()?;
    files.state(one, SMALL, "HELD", SOON)?;
    ensure!(count(two, SMALL.root)? == 101, "files of hadev2 went");
    // Put back by hand.
    let (from, to) = (at(two, SMALL, "."), at(one, SMALL, ""));
    product::run(&["cp", "-a", &from.display().to_string(), &to.display().to_string()])?;
    files.equal(SMALL, LATER)?;
    ensure!(count(two, SMALL.root)? == 101);

    // Started while it is not mounted: the directory below is not taken for the set, nor is anything written into it.
    one.run(&["systemctl", "stop", UNIT])?;
    one.sh(&format!("umount -l {0}; rm -rf {0}/.dre-stage", SMALL.root))?;
    one.run(&["systemctl", "start", UNIT])?;
    files.state(one, SMALL, "ROOT_GONE", SOON)?;
    // For a peer that comes meanwhile the set is away; the configuration does not differ.
    two.run(&["systemctl", "restart", UNIT])?;
    connected(&files, true)?;
    let away = files.state(two, SMALL, "PEER_AWAY", SOON)?;
    println!("{} → {}", away.reason, away.remedy);
    thread::sleep(ms(500));
    files.state(two, RE, "IN_SYNC", SOON)?;
    ensure!(files.set(two, SMALL)?.state == "PEER_AWAY", "{:?}", files.set(two, SMALL));
    put(two, SMALL, "meanwhile2", "while it was not mounted")?;
    thread::sleep(ms(500));
    ensure!(one.sh(&format!("ls -A {}", SMALL.root))?.is_empty(), "written below the mount point");
    ensure!(count(two, SMALL.root)? == 102);
    // The set beside it lives.
    put(one, RE, "beside", "lives")?;
    files.equal(RE, SOON)?;
    Ok(())
}

/// Disk full, immutable, read-only: shown on both nodes, kept, tried again, never half done.
#[test]
fn what_cannot_be_written_waits() -> Result<()> {
    let sync = table(SMALL, "");
    let files = Files::start_with(&sync, &[SMALL], |root| {
        let second = fs::read_to_string(root.join("etc/hostname"))?.starts_with("hadev2");
        small(root, if second { "size=10m" } else { "size=100m" })
    })?;
    let [one, two] = files.lab.nodes();
    let mut dice = Dice::new();
    put(one, SMALL, "old", "as it was")?;
    files.equal(SMALL, SOON)?;
    let blocked = |word: &str, what: &str| -> Result<()> {
        for node in [two, one] {
            let state = files.state(node, SMALL, "BLOCKED", SOON)?;
            println!("{what}, {}: {} → {}", node.name, state.reason, state.remedy);
            ensure!(state.reason.contains(word), "{state:?}");
        }
        Ok(())
    };

    let contents: Vec<Vec<u8>> = (0..30).map(|_| dice.bytes(500_000)).collect();
    for (n, content) in contents.iter().enumerate() {
        put(one, SMALL, format!("big/{n}"), content)?;
    }
    blocked("No space", "disk full")?;
    // Whatever is there is whole.
    let wanted: HashSet<u64> = contents.iter().map(|c| hash(c)).collect();
    walk(&two.place(&format!("{}/big", SMALL.root)), &mut |path, at, _| {
        let found = hash(&fs::read(at)?);
        if !wanted.contains(&found) {
            return Err(std::io::Error::other(format!("{} is torn", String::from_utf8_lossy(path))));
        }
        Ok(())
    })
    .or_else(|error| if at(two, SMALL, "big").exists() { Err(error) } else { Ok(()) })?;
    ensure!(get(two, SMALL, "old")? == b"as it was");
    two.sh(&format!("mount -o remount,size=100m {}", SMALL.root))?;
    let room = files.equal(SMALL, LATER * 2)?;
    println!("FIGURE room was made: the same after {room:.1?}");

    // A directory in which nothing may be written, root or not.
    let immutable = |on: bool| {
        product::run(&["chattr", if on { "+i" } else { "-i" }, &at(two, SMALL, "big").to_string_lossy()])
    };
    immutable(true)?;
    put(one, SMALL, "big/3", "not allowed there")?;
    let said = blocked("not permitted", "immutable");
    let before = get(two, SMALL, "big/3");
    immutable(false)?;
    said?;
    ensure!(before? == contents[3]);
    files.equal(SMALL, LATER * 2)?;
    ensure!(get(two, SMALL, "big/3")? == b"not allowed there");

    two.sh(&format!("mount -o remount,ro {}", SMALL.root))?;
    put(one, SMALL, "old", "while read-only")?;
    blocked("Read-only", "read-only")?;
    ensure!(get(two, SMALL, "old")? == b"as it was");
    two.sh(&format!("mount -o remount,rw {}", SMALL.root))?;
    files.equal(SMALL, LATER * 2)?;

    // And in the other direction.
    put(two, SMALL, "fine", "fine")?;
    files.equal(SMALL, SOON)?;

    // What nobody may read or write, in a directory that is closed to others, is nothing of this: both ends may.
    put(one, SMALL, "closed/file", "of somebody")?;
    one.sh(&format!(
        "cd {} && chown -R rules:rules closed && chmod 000 closed/file && chmod 700 closed",
        SMALL.root
    ))?;
    files.equal(SMALL, SOON)?;
    // Anew, so that its content is fetched with that mode.
    one.sh(&format!("echo more >> {}/closed/file", SMALL.root))?;
    files.equal(SMALL, SOON)?;
    let there = fs::metadata(at(two, SMALL, "closed/file"))?;
    ensure!(get(two, SMALL, "closed/file")? == b"of somebodymore\n" && there.mode() & 0o7777 == 0);
    files.audit()
}

const CHECK: &str = "#!/bin/sh\nif grep -rqs BAD \"$1\"; then echo 'rule 7: BAD is no operator' >&2; exit 3; fi\n\
                     if grep -rqs SLOW \"$1\"; then sleep 60; fi\ntest -s \"$2\"\n";
const APPLIED: &str = "#!/bin/sh\ndate +%s.%N >> /var/log/applied-$1\n";

fn commands(root: &Path) -> Result<()> {
    for (name, text) in [("check", CHECK), ("applied", APPLIED)] {
        let at = root.join("usr/local/bin").join(name);
        fs::write(&at, text)?;
        chmod(&at, 0o755)?;
    }
    Ok(())
}

#[test]
fn a_batch_is_judged_published_and_applied() -> Result<()> {
    let check = "validate = [\"/usr/local/bin/check\", \"{staging}\", \"{list}\"]\nvalidate_timeout_ms = 5000\n\
                 apply = [\"/usr/local/bin/applied\", \"re\"]";
    let whole = "publish = \"tree\"\napply = [\"/usr/local/bin/applied\", \"erlbf\"]";
    let files = Files::start_with(&(table(RE, check) + &table(ERLBF, whole)), &[RE, ERLBF], commands)?;
    let [one, two] = files.lab.nodes();
    let applied = |node: &Node, set: Set| -> usize {
        node.read(&format!("/var/log/applied-{}", set.name)).map_or(0, |text| text.lines().count())
    };

    for (here, there) in [(one, two), (two, one)] {
        let name = here.name;
        put(here, RE, name, "good")?;
        files.equal(RE, SOON)?;
        until("it is applied", SOON, ms(50), || Ok(applied(there, RE) >= 1))
            .with_context(|| files.journals())?;
        // Nothing more than that is to come.
        thread::sleep(ms(1500));
        let before = applied(there, RE);
        // One edit, one batch, one reload there; none here, where it was made.
        let own = applied(here, RE);
        put(here, RE, name, "better")?;
        files.equal(RE, SOON)?;
        until("it is applied", SOON, ms(50), || Ok(applied(there, RE) > before))?;
        thread::sleep(ms(1500));
        ensure!(
            applied(there, RE) == before + 1 && applied(here, RE) == own,
            "{} → {}",
            before,
            applied(there, RE)
        );
        // Fifty at once are reloaded for at most twice: rate limited, and never left out.
        let before = applied(there, RE);
        let begun = Instant::now();
        for n in 0..50 {
            put(here, RE, format!("fifty/{n}"), format!("{name} {n}"))?;
        }
        files.equal(RE, SOON)?;
        until("they are applied", SOON, ms(50), || Ok(applied(there, RE) > before))?;
        thread::sleep(ms(1500));
        let times = applied(there, RE) - before;
        let most = 1 + begun.elapsed().as_secs() as usize;
        ensure!(times >= 1 && times <= most, "applied {times} times for fifty files");
        println!("fifty files: applied {times} times");

        // Refused: on neither node a secret, and nothing of the batch is live there.
        let rejects = files.set(there, RE)?.counters.rejects;
        put(here, RE, name, "BAD rule")?;
        for node in [there, here] {
            let state = files.state(node, RE, "REJECTED", SOON)?;
            println!("{}: {} → {}", node.name, state.reason, state.remedy);
            ensure!(state.reason.contains("BAD is no operator"), "{state:?}");
        }
        ensure!(get(there, RE, name)? == b"better" && files.set(there, RE)?.counters.rejects > rejects);
        // Mended where it was made.
        put(here, RE, name, "mended")?;
        files.equal(RE, SOON)?;
        // A check that does not end is a check that refuses.
        put(here, RE, name, "SLOW rule")?;
        let state = files.state(there, RE, "REJECTED", LATER)?;
        ensure!(state.reason.contains("5000 ms"), "{state:?}");
        files.state(here, RE, "REJECTED", SOON)?;
        ensure!(get(there, RE, name)? == b"mended");
        let done = there.run_for(&["drectl", "rules", "force", "re"], LATER)?;
        ensure!(done.ok(), "{done:?}");
        files.equal(RE, SOON)?;
        ensure!(get(there, RE, name)? == b"SLOW rule");
        put(here, RE, name, "done")?;
        files.equal(RE, SOON)?;
        // Asked before it is saved.
        here.write("/tmp/draft", "BAD draft")?;
        let checked =
            here.run_for(&["drectl", "rules", "check", "re", &format!("{name}=/tmp/draft")], SOON)?;
        ensure!(checked.status.and_then(|s| s.code()) == Some(75), "{checked:?}");
    }

    // publish = tree: who reads while a batch comes in sees all of the old files or all of the new.
    for n in 0..50 {
        put(one, ERLBF, format!("f{n}"), "round 0")?;
    }
    files.equal(ERLBF, SOON)?;
    ensure!(fs::symlink_metadata(two.place(ERLBF.root))?.is_symlink(), "the root is no link to a generation");
    let reading = AtomicBool::new(true);
    let mixed = thread::scope(|s| -> Result<(usize, Vec<String>)> {
        let reader = s.spawn(|| -> Result<(usize, Vec<String>)> {
            let (mut rounds, mut mixed) = (0, vec![]);
            while reading.load(Ordering::Relaxed) {
                // As an engine loads: the directory is opened once.
                let root = fs::read_link(two.place(ERLBF.root))?;
                let root = two.place(ERLBF.root).with_file_name(root);
                let seen: std::io::Result<BTreeSet<Vec<u8>>> =
                    (0..50).map(|n| fs::read(root.join(format!("f{n}")))).collect();
                // The old generation may go while it is read; then it is read again.
                if let Ok(seen) = seen {
                    rounds += 1;
                    if seen.len() != 1 {
                        mixed.push(format!(
                            "{:?}",
                            seen.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect::<Vec<_>>()
                        ));
                    }
                }
            }
            Ok((rounds, mixed))
        });
        let done = (1..=5).try_for_each(|round| -> Result<()> {
            apart(&files, |one, _| {
                (0..50).try_for_each(|n| put(one, ERLBF, format!("f{n}"), format!("round {round}")))
            })?;
            files.equal(ERLBF, LATER).map(drop)
        });
        reading.store(false, Ordering::Relaxed);
        let seen = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        done?;
        Ok(seen)
    })?;
    println!("a tree read {} times while five batches came in", mixed.0);
    ensure!(mixed.1.is_empty() && mixed.0 > 0, "mixed generations: {:?}", mixed.1);
    // The other hand, deletions, directories; and what was deleted is in the trash.
    put(two, ERLBF, "sub/dir/file", "x")?;
    fs::remove_file(at(two, ERLBF, "f0"))?;
    files.equal(ERLBF, SOON)?;
    ensure!(!at(one, ERLBF, "f0").exists() && get(one, ERLBF, "sub/dir/file")? == b"x");
    until("both are applied", SOON, ms(50), || Ok(applied(one, ERLBF) >= 1 && applied(two, ERLBF) >= 1))?;
    ensure!(files.kept(one, "trash")?.iter().any(|k| k.path == "f0"));
    files.audit()
}

// ---- silence and noise -------------------------------------------------------------------------------------

/// What a unit used: seconds of CPU of all its processes, kB resident of the main one.
fn used(node: &Node) -> Result<(f64, u64)> {
    let ns: f64 = node.run(&["systemctl", "show", "-P", "CPUUsageNSec", UNIT])?.trim().parse()?;
    let status = fs::read_to_string(format!("/proc/{}/status", node.main_pid(UNIT)?))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
    Ok((ns / 1e9, line.split_whitespace().nth(1).context("a number")?.parse()?))
}

#[test]
fn silence_in_peace_and_a_scan_after_noise() -> Result<()> {
    let files = plain()?;
    let [one, two] = files.lab.nodes();
    for n in 0..1000 {
        put(one, RE, format!("d{}/f{n}", n % 10), format!("{n}"))?;
    }
    files.equal(RE, SOON)?;
    // What is counted is counted: an edit.
    files.lab.net.count(&PORTS)?;
    put(one, RE, "edit", "x")?;
    files.equal(RE, SOON)?;
    ensure!(files.lab.net.traffic()?.loaded > 0, "the switch counts nothing");
    until("three seconds without a word", LATER, Duration::ZERO, || {
        let before = files.lab.net.traffic()?.loaded;
        thread::sleep(Duration::from_secs(3));
        Ok(files.lab.net.traffic()?.loaded == before)
    })?;

    let before: Vec<_> = files
        .lab
        .nodes()
        .into_iter()
        .map(|n| Ok((files.set(n, RE)?.counters, used(n)?)))
        .collect::<Result<_>>()?;
    files.lab.net.count(&PORTS)?;
    thread::sleep(Duration::from_secs(60));
    let traffic = files.lab.net.traffic()?;
    for (node, (counters, (cpu, _))) in files.lab.nodes().into_iter().zip(before) {
        let now = files.set(node, RE)?.counters;
        let (cpu_now, kb) = used(node)?;
        println!(
            "FIGURE an idle minute on {}: {:.3} s of CPU, {kb} kB resident, {traffic:?}",
            node.name,
            cpu_now - cpu
        );
        ensure!(now == counters, "{}: {counters:?} became {now:?} in an idle minute", node.name);
        // Far beyond what is seen, and far below what a loop would use.
        ensure!(cpu_now - cpu < 0.6, "{}: {:.2} s of CPU in an idle minute", node.name, cpu_now - cpu);
    }
    ensure!(traffic.loaded == 0, "an idle minute: {traffic:?}");

    // The kernel's queue overflows while the daemon stands still: it knows that it does not know.
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")?.trim().parse()?;
    let files_n = 30_000.max(limit + limit / 2);
    for n in 0..50 {
        put(one, RE, format!("flood/{n}/watched"), "")?;
    }
    files.equal(RE, SOON)?;
    let pids = one.pids(UNIT)?;
    for pid in &pids {
        sys::kill(*pid, libc::SIGSTOP);
    }
    let begun = Instant::now();
    for n in 0..files_n {
        put(one, RE, format!("flood/{}/f{n}", n % 50), format!("{n}"))?;
    }
    let wrote = begun.elapsed();
    for pid in &pids {
        sys::kill(*pid, libc::SIGCONT);
    }
    let begun = Instant::now();
    files.equal(RE, Duration::from_secs(120))?;
    let counters = files.set(one, RE)?.counters;
    println!(
        "FIGURE {files_n} writes unseen (made in {wrote:.1?}): the same after {:.1?}, {counters:?}",
        begun.elapsed()
    );
    ensure!(counters.overflows >= 1, "{counters:?}");
    ensure!(count(two, RE.root)? == files_n + 1051);
    let failed = files.lab.nodes().map(|n| n.failed_units().unwrap_or_default()).concat();
    ensure!(failed.is_empty(), "{failed}");
    Ok(())
}

// ---- kills -------------------------------------------------------------------------------------------------

/// Everything a path has been on the giving node, in order; `None`: not there.
#[derive(Default)]
struct History(BTreeMap<String, Vec<Option<u64>>>);

impl History {
    /// Noted before it is done: nobody can have it earlier.
    fn note(&mut self, path: &str, content: Option<&[u8]>) {
        self.0.entry(path.to_owned()).or_insert_with(|| vec![None]).push(content.map(hash));
    }
}

/// Where the receiver is with each path: the earliest place in its history that fits what was seen.
#[derive(Default)]
struct Progress(BTreeMap<String, usize>);

impl Progress {
    /// A look at the receiver: every path is something it has been on the giver, and no earlier one than last time.
    /// How many went on.
    fn check(&mut self, node: &Node, history: &Mutex<History>) -> Result<usize> {
        let mut there: BTreeMap<String, u64> = BTreeMap::new();
        for entry in
            fs::read_dir(node.place(RE.root))?.chain(fs::read_dir(node.place(&format!("{}/sub", RE.root)))?)
        {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() {
                ensure!(name == "sub" || name == ".dre-stage", "left in the live directory: {name}");
                continue;
            }
            let path = if entry.path().parent().is_some_and(|p| p.ends_with("sub")) {
                format!("sub/{name}")
            } else {
                name
            };
            match fs::read(entry.path()) {
                Ok(content) => there.insert(path, hash(&content)),
                // Replaced or removed in this moment.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
        }
        let history = history.lock().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        for path in there.keys() {
            ensure!(history.0.contains_key(path), "{path} is on the receiver and was never on the giver");
        }
        let mut moved = 0;
        for (path, states) in &history.0 {
            let now = there.get(path).copied();
            let from = self.0.get(path).copied().unwrap_or(0);
            let found = states[from..].iter().position(|state| *state == now).map(|n| n + from);
            let Some(found) = found else {
                let earlier = states[..from].contains(&now);
                anyhow::bail!(
                    "{path}: {} (content {now:?}, of {} states, last seen at {from})",
                    if earlier { "went back to an earlier content" } else { "is neither old nor new: torn" },
                    states.len()
                );
            };
            moved += usize::from(found != from);
            self.0.insert(path.clone(), found);
        }
        Ok(moved)
    }
}

/// dre-sync's main process, another than `but`; not a child that was forked while its parent was killed.
fn settled(node: &Node, but: i32) -> Result<i32> {
    let mut main = but;
    until("dre-sync runs", SOON, ms(2), || {
        let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        main = node.main_pid(UNIT).unwrap_or(but);
        Ok(main != but && name(main).trim() == "dre-sync")
    })?;
    Ok(main)
}

/// Files that have arrived, whole or not, and are not in the live tree.
fn staged(node: &Node) -> Result<usize> {
    let mut files = 0;
    let mut directories = vec![node.place(&format!("{}/.dre-stage", RE.root))];
    while let Some(directory) = directories.pop() {
        // What is worked on comes and goes.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(_) => files += 1,
                Err(_) => {}
            }
        }
    }
    Ok(files)
}

/// dre-sync and its rsync are killed at random moments while batches come in. `DRE_KILLS` says how often.
#[test]
fn killed_at_random_points() -> Result<()> {
    let kills: usize = std::env::var("DRE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    // Restarted sooner than in a product, for the sake of so many kills.
    let files = Files::start_with(&table(RE, ""), &[RE], |root| {
        fs::create_dir_all(root.join("etc/systemd/system/dre-sync.service.d"))?;
        let sooner = root.join("etc/systemd/system/dre-sync.service.d/sooner.conf");
        Ok(fs::write(sooner, "[Service]\nRestartSec=20ms\n")?)
    })?;
    let [one, two] = files.lab.nodes();
    let mut dice = Dice::new();
    let mut hand = Dice::new();
    put(one, RE, "sub/first", "x")?;
    files.equal(RE, SOON)?;
    let history = Mutex::new(History::default());
    history.lock().expect("new").note("sub/first", Some(b"x"));
    let writing = AtomicBool::new(true);
    let begun = Instant::now();
    let (mut done, mut hit, mut moved, mut slowest) = ([0_usize; 4], 0, 0, Duration::ZERO);
    let written = thread::scope(|s| -> Result<usize> {
        let writer = s.spawn(|| -> Result<usize> {
            let mut changes = 0;
            while writing.load(Ordering::Relaxed) {
                // One batch: some files, mostly small; some go; names are reused.
                for _ in 0..=hand.below(12) {
                    let n = hand.below(200);
                    let path = if n.is_multiple_of(3) { format!("sub/{n}") } else { format!("f{n}") };
                    let goes = hand.below(10) == 0 && at(one, RE, &path).exists();
                    let size = if hand.below(20) == 0 { 300_000 } else { hand.below(3000) as usize };
                    let content = hand.bytes(size);
                    let note = if goes { None } else { Some(content.as_slice()) };
                    history.lock().map_err(|_| anyhow::anyhow!("the checker panicked"))?.note(&path, note);
                    match goes {
                        true => fs::remove_file(at(one, RE, &path))?,
                        false => put_whole(one, RE, &path, &content)?,
                    }
                    changes += 1;
                }
                thread::sleep(ms(hand.below(30)));
            }
            Ok(changes)
        });
        let result = (|| -> Result<()> {
            let mut progress = Progress::default();
            for n in 0..kills {
                thread::sleep(Duration::from_micros(dice.below(200_000)));
                // Mostly the receiver with all its children; the daemon alone; its rsync alone; the giver.
                let kind = match dice.below(20) {
                    0..14 => 0,
                    14..16 => 1,
                    16..18 => 2,
                    _ => 3,
                };
                let node = if kind == 3 { one } else { two };
                let main = settled(node, 0)?;
                let pids: Vec<i32> = match kind {
                    1 => vec![main],
                    2 => node.pids(UNIT)?.into_iter().filter(|pid| *pid != main).collect(),
                    _ => node.pids(UNIT)?,
                };
                let staged = staged(two)?;
                let killed = pids.iter().filter(|pid| sys::kill(**pid, libc::SIGKILL)).count();
                // (rsync may not have run.)
                done[kind] += usize::from(killed > 0);
                hit += usize::from(killed > 0 && staged > 0);
                moved +=
                    progress.check(two, &history).with_context(|| format!("after kill {n}, kind {kind}"))?;
                if kind != 2 {
                    // systemd starts it again.
                    let killed = Instant::now();
                    settled(node, main)?;
                    slowest = slowest.max(killed.elapsed());
                }
            }
            Ok(())
        })();
        writing.store(false, Ordering::Relaxed);
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        result.map_err(|error| error.context(files.journals()))?;
        Ok(written)
    })?;
    let passed = begun.elapsed();
    let calm = files.equal(RE, LATER)?;
    println!(
        "FIGURE {kills} kills in {passed:.0?} ({} of the receiver with its rsync, {} of it alone, {} of rsync, {} of the giver; {hit} with \
         something staged), {written} changes, {moved} seen to arrive meanwhile, slowest restart (RestartSec=20ms) {slowest:.0?}; the same {calm:.1?} after the last",
        done[0], done[1], done[2], done[3]
    );
    // It was killed at work, each of them, or nothing is shown by this.
    ensure!(kills < 100 || done.iter().all(|n| *n > 0), "not everybody was killed: {done:?}");
    ensure!(hit * 20 > kills, "something was staged at {hit} of {kills} kills");
    ensure!(moved > kills, "{moved} changes arrived between {kills} kills");
    for node in files.lab.nodes() {
        node.run(&["systemctl", "restart", UNIT])?;
    }
    files.equal(RE, LATER)?;
    for node in files.lab.nodes() {
        until("an empty staging", SOON, ms(50), || Ok(staged(node)? == 0))?;
        let mut left = vec![];
        for entry in fs::read_dir(node.place(RE.root))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && name != ".dre-stage" {
                left.push(name);
            }
        }
        ensure!(left.is_empty(), "{}: left in the live directory: {left:?}", node.name);
        let conflicts = files.kept(node, "conflicts")?;
        ensure!(conflicts.is_empty(), "{}: one hand alone makes no conflicts: {conflicts:?}", node.name);
    }
    Ok(())
}

// ---- settings ----------------------------------------------------------------------------------------------

/// Not a byte of a content on the wire that could be read; no port of rsync's.
#[test]
fn everything_encrypted() -> Result<()> {
    let sync = format!("[transfer]\nencrypt = true\n{}", table(RE, ""));
    let files = Files::start(&sync, &[RE])?;
    let [one, two] = files.lab.nodes();
    for node in files.lab.nodes() {
        let listening = node.run(&["ss", "-Hltn"])?;
        ensure!(listening.contains(":1695 ") && !listening.contains(":8730 "), "{}: {listening}", node.name);
    }
    let dump = "/tmp/dump";
    let wire = "tcp and (net 172.16.11.0/24 or net 172.16.13.0/24)";
    // A large buffer: what the kernel drops meanwhile would not be looked at.
    let tcpdump = ["tcpdump", "-Z", "root", "-B", "262144", "-i", "any", "-U", "-w", dump, wire];
    one.run(&[&["systemd-run", "-q", "-u", "dump"][..], &tcpdump].concat())?;
    until("tcpdump", SOON, ms(20), || Ok(one.place(dump).exists()))?;
    let word = b"a-sentence-that-nobody-on-the-wire-may-read".repeat(50);
    for n in 0..200 {
        put(one, RE, format!("d/{n}"), &word)?;
        put(two, RE, format!("e/{n}"), &word)?;
    }
    files.equal(RE, SOON)?;
    put(one, RE, "large", Dice::new().bytes(20 << 20))?;
    let begun = Instant::now();
    files.equal(RE, LATER)?;
    println!("FIGURE 20 MiB encrypted: {:.2?}", begun.elapsed());
    one.run(&["systemctl", "stop", "dump"])?;
    let seen = fs::read(one.place(dump))?;
    ensure!(seen.len() > 20 << 20, "{} bytes captured", seen.len());
    ensure!(!seen.windows(30).any(|w| w == &word[..30]), "a content was readable on the wire");
    // The first link is cut: contents too go by the other.
    files.lab.net.silent("hadev1", "eth3", true)?;
    put(one, RE, "by the other", "x")?;
    until("an edit by the other link", LATER, ms(10), || Ok(get(two, RE, "by the other")? == b"x"))?;
    files.equal(RE, LATER)?;
    files.audit()
}

/// A root in somebody's home, which systemd hides from services; and contents that go encrypted from now on, and openly again.
#[test]
fn at_home_and_by_another_way() -> Result<()> {
    const HOME: Set = Set { name: "home", root: "/home/rules/live" };
    let open = table(HOME, "");
    let files = Files::start(&open, &[HOME])?;
    let [one, two] = files.lab.nodes();
    let both_hands = |word: &str| -> Result<()> {
        for node in [one, two] {
            put(node, HOME, format!("{word} of {}", node.name), "x")?;
        }
        files.equal(HOME, LATER)?;
        ensure!(count(two, HOME.root)? == count(one, HOME.root)?);
        get(two, HOME, format!("{word} of hadev1"))?;
        get(one, HOME, format!("{word} of hadev2")).map(drop)
    };
    both_hands("first")?;
    let listens = |node: &Node| -> Result<bool> { Ok(node.run(&["ss", "-Hltn"])?.contains(":8730 ")) };
    for (word, sync, listening) in
        [("encrypted", format!("[transfer]\nencrypt = true\n{open}"), false), ("open", open.clone(), true)]
    {
        for node in [one, two] {
            ensure!(listens(node)? != listening, "{}, before it is {word}", node.name);
            node.write("/etc/dre/sync.toml", &sync)?;
        }
        // As the README says it.
        for node in [one, two] {
            node.run(&["systemctl", "daemon-reload"])?;
            node.run(&["systemctl", "restart", "dre-sync-rsync.socket"])?;
            node.run(&["systemctl", "restart", UNIT])?;
        }
        both_hands(word)?;
        for node in [one, two] {
            ensure!(listens(node)? == listening, "{}, {word}", node.name);
        }
    }
    files.audit()
}

/// A stranger in the heartbeat networks, and a node with another key, get nothing and change nothing.
#[test]
fn strangers_get_nothing() -> Result<()> {
    let files = plain()?;
    let [one, two] = files.lab.nodes();
    put(one, RE, "secret", "of the pair")?;
    files.equal(RE, SOON)?;
    // One program, one disk; from the peer's network namespace or from elsewhere, with the secret of the pair, another or none.
    let peers = two.netns()?;
    let peers = peers.strip_prefix(&format!("{}.", files.lab.id())).context("its namespace's name")?;
    let secret = dre::shell::rsync::secret(&product::KEY_BYTES, "dre");
    let ask = |from: &str, password: &str, to: &str| {
        let password = format!("RSYNC_PASSWORD={password}");
        let at = format!("rsync://dre@{to}:8730/re/");
        files.lab.outside(from, &["env", &password, "timeout", "20", "rsync", "--list-only", &at])
    };
    let other = dre::shell::rsync::secret(&[7; 32], "dre");
    // To who is not let in, rsync with list = no says that there is no such module.
    for (from, password, to, why) in [
        ("stranger", secret.as_str(), "172.16.11.54", "Unknown module"),
        ("stranger", secret.as_str(), "172.16.13.55", "Unknown module"),
        ("stranger", "", "172.16.11.54", "Unknown module"),
        (peers, other.as_str(), "172.16.11.54", "auth failed"),
        (peers, "", "172.16.11.54", "auth failed"),
    ] {
        let refused =
            ask(from, password, to).err().with_context(|| format!("{from} lists the set of {to}"))?;
        ensure!(refused.to_string().contains(why), "{from} at {to}: {refused:#}");
    }
    for to in ["172.16.11.54", "172.16.13.54"] {
        let list = ask(peers, secret.as_str(), to).context("the peer, with the secret")?;
        ensure!(list.contains("secret"), "the peer, with the secret: {list}");
    }
    // Nothing listens anywhere else.
    let listening = one.run(&["ss", "-Hltn"])?;
    for line in listening.lines().filter(|l| l.contains(":1695 ") || l.contains(":8730 ")) {
        ensure!(line.contains("172.16.11.54:") || line.contains("172.16.13.54:"), "{line}");
    }
    // Garbage.
    for _ in 0..20 {
        let script = "exec 3<>/dev/tcp/172.16.11.54/1695 && { head -c 100000 /dev/urandom >&3 2>/dev/null; echo let in; }";
        let said = two.run_for(&["bash", "-c", script], SOON)?;
        ensure!(said.stdout.contains("let in"), "the peer's address was not let in: {said:?}");
    }
    put(two, RE, "after", "garbage")?;
    files.equal(RE, SOON)?;
    // Those who say nothing are let go, and hinder nobody: more than shake hands at once, from the peer's own address, while its
    // dre-sync gives, and comes anew. From elsewhere they are let go at once.
    let silent = "exec 3<>/dev/tcp/172.16.11.54/1695 && timeout 60 cat <&3 && echo let go";
    let many = format!("for n in $(seq 12); do ({silent}) & done; wait");
    let begun = Instant::now();
    let waiting =
        two.spawn(&["bash", "-c", &many], Stdio::null(), Stdio::piped(), Stdio::piped()).context("bash")?;
    let edits = (0..5).try_for_each(|n| -> Result<()> {
        for (here, there) in [(one, two), (two, one)] {
            let path = format!("beside/{}-{n}", here.name);
            put(here, RE, &path, "somebody silent")?;
            until("an edit beside them", SOON, ms(10), || Ok(get(there, RE, &path)? == b"somebody silent"))?;
        }
        if n == 2 {
            two.run(&["systemctl", "restart", UNIT])?;
        }
        Ok(())
    });
    let passed = begun.elapsed();
    let ended = waiting.wait_with_output()?;
    edits?;
    let gone = String::from_utf8_lossy(&ended.stdout).matches("let go").count();
    println!(
        "FIGURE ten edits and a restart beside 12 who say nothing: {passed:.1?}; all let go after {:.1?}",
        begun.elapsed()
    );
    ensure!(gone == 12, "{gone} of 12 were let go: {ended:?}");
    let begun = Instant::now();
    let elsewhere = files.lab.outside("stranger", &["bash", "-c", silent])?;
    println!("FIGURE who says nothing, from elsewhere, is let go after {:.1?}", begun.elapsed());
    ensure!(elsewhere.contains("let go"), "{elsewhere}");
    files.equal(RE, SOON)?;
    // Another key: nobody speaks with it, and both say why. With the right one, set in the same way, they do before and after.
    let right = two.read("/etc/dre/key")?;
    let with = |key: &str| -> Result<()> {
        two.write("/etc/dre/key", key)?;
        chmod(&two.place("/etc/dre/key"), 0o600)?;
        two.run(&["systemctl", "restart", UNIT]).map(drop)
    };
    for (n, key) in
        [right.as_str(), "S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=\n", &right].into_iter().enumerate()
    {
        ensure!((key == right) == (n != 1), "the other key is the right one");
        with(key)?;
        let path = format!("for you {n}");
        if key == right {
            connected(&files, true)?;
            put(one, RE, &path, "x")?;
            files.equal(RE, LATER)?;
            continue;
        }
        for node in [one, two] {
            files.state(node, RE, "PEER_AWAY", SOON)?;
            let says = || node.run(&["systemctl", "show", "-P", "StatusText", UNIT]);
            until("a word about the key", SOON, ms(50), || {
                Ok(says()?.contains("does not prove the cluster key"))
            })
            .with_context(|| says().unwrap_or_default())?;
            println!("another key, {}: {}", node.name, says()?);
        }
        put(one, RE, &path, "x")?;
        thread::sleep(ms(1500));
        ensure!(!at(two, RE, &path).exists(), "given to a node with another key");
    }
    ensure!(get(two, RE, "for you 1")? == b"x");
    Ok(())
}

#[test]
fn set_up_and_wrong_settings() -> Result<()> {
    // As after an installation: no sync.toml yet.
    let lab = Lab::builder()
        .install(|root| {
            lay(root, "", &[])?;
            fs::write(root.join("etc/default/dre"), "RE_CONFDIR=/opt/dre/rules\n")?;
            Ok(())
        })
        .start()?;
    let files = Files { lab };
    let [one, two] = files.lab.nodes();
    for node in files.lab.nodes() {
        let state = node.sh(&format!("systemctl is-active {UNIT} || true"))?;
        ensure!(state.trim() == "inactive", "{}: without a sync.toml dre-sync is {state}", node.name);
    }
    // The nodes know each other, as the old suite wanted it too.
    one.sh("mkdir -p -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 \
            && echo 'StrictHostKeyChecking accept-new' > /root/.ssh/config")?;
    two.sh("mkdir -p -m 700 /root/.ssh && mkdir -p /opt/dre/rules /opt/dre/erlbf")?;
    two.write("/root/.ssh/authorized_keys", one.read("/root/.ssh/id_ed25519.pub")?)?;
    let said = one.run(&[
        "drectl",
        "rules",
        "setup",
        "--set",
        "re=/opt/dre/rules",
        "--set",
        "erlbf=/opt/dre/erlbf",
        "--mkdir",
        "--yes",
        "--copy",
    ])?;
    println!("{said}");
    ensure!(one.read("/etc/dre/sync.toml")? == two.read("/etc/dre/sync.toml")?, "the peer has another file");
    for node in files.lab.nodes() {
        node.run(&["drectl", "config", "check"])?;
        node.run(&["systemctl", "daemon-reload"])?;
        node.run(&["systemctl", "restart", UNIT])?;
    }
    files.equal(RE, SOON)?;
    put(one, RE, "first", "by setup")?;
    put(two, ERLBF, "second", "by setup")?;
    files.equal(RE, SOON)?;
    files.equal(ERLBF, SOON)?;
    println!("{}", one.run(&["drectl", "rules"])?);
    // Everything is in the journal and explained.
    let explained = one.run(&["drectl", "rules", "log", "--explain"])?;
    ensure!(!explained.trim().is_empty());
    // A second setup only adds, and refuses what is there.
    let again =
        one.run_for(&["drectl", "rules", "setup", "--set", "re=/opt/other", "--mkdir", "--yes"], SOON)?;
    ensure!(!again.ok(), "{again:?}");

    // A wrong file: 78, the place and the remedy; and the old one goes on after a reload.
    let good = one.read("/etc/dre/sync.toml")?;
    let bad = good.replace("[set.re]", "[set.re]\npublish = \"maybe\"");
    ensure!(bad != good, "{good}");
    one.write("/etc/dre/sync.toml", &bad)?;
    let line = bad.lines().position(|l| l.contains("maybe")).context("the line")? + 1;
    let checked = one.run_for(&["drectl", "config", "check"], SOON)?;
    ensure!(checked.status.and_then(|s| s.code()) == Some(78), "{checked:?}");
    let reloaded = one.run_for(&["systemctl", "reload", UNIT], SOON)?;
    put(one, RE, "third", "with the old settings")?;
    files.equal(RE, SOON)?;
    println!("reload of a wrong file: {reloaded:?}");
    let restarted = one.run_for(&["systemctl", "restart", UNIT], SOON)?;
    ensure!(!restarted.ok(), "a wrong sync.toml started");
    let status = one.run(&["systemctl", "show", "-P", "ExecMainStatus", UNIT])?;
    let journal = one.journal(&["-u", UNIT, "-n", "20"])?;
    ensure!(status.trim() == "78", "{status} {journal}");
    ensure!(
        journal.contains(&format!("sync.toml:{line}")) && journal.contains("maybe"),
        "line {line}: {journal}"
    );
    println!("{journal}");

    // Another file than the peer's: nothing is synchronised, and both say so.
    let other = good.replace("[set.re]", "[set.re]\nexclude = [\"*.bak\"]");
    one.write("/etc/dre/sync.toml", &other)?;
    one.sh(&format!("systemctl reset-failed {UNIT}; systemctl start {UNIT}"))?;
    for node in files.lab.nodes() {
        let state = files.state(node, RE, "DIFFERS", SOON)?;
        println!("{} → {}", state.reason, state.remedy);
    }
    put(one, RE, "fourth", "while they differ")?;
    put(one, ERLBF, "fourth", "the other set does not")?;
    files.equal(ERLBF, SOON)?;
    thread::sleep(ms(500));
    ensure!(!at(two, RE, "fourth").exists());
    // A reload is enough to mend it.
    two.write("/etc/dre/sync.toml", &other)?;
    two.run(&["systemctl", "reload", UNIT])?;
    files.equal(RE, LATER)?;
    put(two, RE, "not.bak", "excluded")?;
    put(two, RE, "fifth", "x")?;
    until("fifth", SOON, ms(20), || Ok(get(one, RE, "fifth")? == b"x"))?;
    ensure!(!at(one, RE, "not.bak").exists());
    // A root that is not there: said, not died of.
    let gone = other.replace("/opt/dre/erlbf", "/opt/dre/nowhere");
    for node in files.lab.nodes() {
        node.write("/etc/dre/sync.toml", &gone)?;
        node.run(&["systemctl", "daemon-reload"])?;
        node.sh(&format!("systemctl restart {UNIT} || true"))?;
    }
    let state = files.state(one, ERLBF, "ROOT_GONE", SOON)?;
    println!("{} → {}", state.reason, state.remedy);
    put(one, RE, "sixth", "x")?;
    until("sixth", SOON, ms(20), || Ok(get(two, RE, "sixth")? == b"x"))?;
    // The units are what systemd has nothing to say about.
    let units = one.sh("systemd-analyze verify --man=no /usr/lib/systemd/system/dre-sync*.service /usr/lib/systemd/system/dre-sync*.socket 2>&1 || true")?;
    ensure!(units.trim().is_empty(), "systemd-analyze verify: {units}");
    for unit in [UNIT, "dre-sync-rsync@x"] {
        println!(
            "FIGURE exposure {}",
            one.sh(&format!("systemd-analyze security {unit} --no-pager | tail -1"))?.trim()
        );
    }
    Ok(())
}
