//! `drectl import heartbeat` as a process: what it prints, what it writes, how it ends. No root, no daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output, Stdio};

use dre::config::{Settings, parse};
use serde_json::Value;

const HA_CF: &str = "\
# from the old guide
logfacility local0
keepalive 1
deadtime 15
udpport 694
bcast eth3 eth4
auto_failback on
node hadev1 hadev2
ping 172.16.8.250
stonith_host * baytech 10.0.0.3 mylogin s3cret
";
const RESOURCES: &str = "hadev1 IPaddr::172.16.10.71/16/eth2:0/172.16.255.255 \\\n       mysql\n";
const KEYS: &str = "auth 2\n1 crc\n2 sha1 s3cret\n";
const HOSTS: &str = "\
172.16.8.54 hadev1
172.16.8.55 hadev2
172.16.11.54 hadev1-eth3
172.16.11.55 hadev2-eth3
172.16.12.54 hadev1-eth4
172.16.12.55 hadev2-eth4
";

/// A directory like /etc/ha.d, removed in the end.
struct Old(PathBuf);

impl Old {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("dre-import-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory");
        let old = Self(dir);
        for (file, text) in
            [("ha.cf", HA_CF), ("haresources", RESOURCES), ("authkeys", KEYS), ("hosts", HOSTS)]
        {
            old.write(file, text);
        }
        old
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    /// `drectl LINE`, DIR being the directory.
    fn drectl(&self, line: &[&str]) -> Output {
        let line: Vec<String> =
            line.iter().map(|word| word.replace("DIR", &self.0.display().to_string())).collect();
        let mut process = drectl();
        process.args(&line).current_dir(&self.0);
        process.output().expect("it runs")
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn drectl() -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_drectl"));
    for name in ["DRE_GROUP", "DRE_CONFDIR", "AVAMGR_CONFDIR"] {
        process.env_remove(name);
    }
    process.stdin(Stdio::null());
    process
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output and standard error of one that ended so.
#[track_caller]
fn ended(output: &Output, code: i32) -> (String, String) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    assert!(!out.contains("s3cret") && !err.contains("s3cret"), "{out}\n{err}");
    (out, err)
}

/// What the daemons would run with, on either node.
#[track_caller]
fn holds(toml: &str, group: &str) -> Settings {
    let read = |node| {
        let sources = [(PathBuf::from(format!("/etc/dre/{group}.toml")), toml.to_owned())];
        parse(&sources, group, node, false).unwrap_or_else(|error| panic!("{error}\n{toml}"))
    };
    let (one, two) = (read("hadev1"), read("hadev2"));
    assert_eq!(one.digest, two.digest);
    one
}

fn left(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_old_guides_directory_becomes_a_groups_file() {
    let old = Old::new("whole");
    let output = old.drectl(&["import", "heartbeat", "DIR", "--arbitrator-interface", "eth0"]);
    let (toml, said) = ended(&output, 0);
    let settings = holds(&toml, "mysql");
    assert_eq!(settings.heartbeat.dead_after().as_secs(), 15);
    assert_eq!((settings.links.len(), settings.vips.len(), settings.database.is_some()), (2, 1, true));
    let file = |name: &str| old.path(name).display().to_string();
    for words in [
        format!("{}:3: taken: keepalive 1 -> [heartbeat] interval_ms = 1000", file("ha.cf")),
        format!("{}:2: dropped: logfacility local0 (", file("ha.cf")),
        format!("{}:10: dropped: stonith_host (", file("ha.cf")),
        format!("{}:1: taken: IPaddr::172.16.10.71/16/eth2:0/172.16.255.255 -> [[vip]]", file("haresources")),
        format!("{}:2: changed: mysql -> [database]", file("haresources")),
        format!("{}:3: dropped: key 2 (sha1)", file("authkeys")),
        format!("hadev2 172.16.12.55 ({}:6)", file("hosts")),
    ] {
        assert!(said.lines().any(|line| line.contains(&words)), "{words:?} is not said in:\n{said}");
    }
}

#[test]
fn what_is_left_open_is_said_last_and_by_the_exit_status() {
    let old = Old::new("open");
    let (toml, said) = ended(&old.drectl(&["import", "heartbeat", "."]), 78);
    assert!(toml.contains("# NOT COMPLETE") && toml.contains("interface = \"FILL IN\""), "{toml}");
    let last: Vec<&str> = said.lines().rev().take(2).collect();
    assert!(last[1].starts_with("drectl: it is not complete: 1 to be filled in"), "{said}");
    assert!(last[0].contains("ha.cf:9: ping 172.16.8.250; write its name"), "{said}");
    let filled = toml.replace("\"FILL IN\"", "\"eth0\"");
    holds(&filled, "mysql");

    // Written all the same: it is to be filled in there.
    let (out, _) = ended(&old.drectl(&["import", "heartbeat", ".", "--output", "mysql.toml"]), 78);
    assert!(out.contains("mysql.toml is written"), "{out}");
    assert_eq!(fs::read_to_string(old.path("mysql.toml")).expect("there"), toml);
}

#[test]
fn a_file_is_written_whole_for_everybody_and_over_none() {
    let old = Old::new("write");
    let line = ["import", "heartbeat", "DIR", "--arbitrator-interface", "eth0", "--output", "db2.toml"];
    // However root's umask is.
    let mut process = Process::new("sh");
    process.args(["-c", "umask 077; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_drectl")]);
    let dir = old.0.display().to_string();
    process.args(line.map(|word| word.replace("DIR", &dir))).current_dir(&old.0).env_remove("DRE_GROUP");
    ended(&process.output().expect("it runs"), 0);
    let path = old.path("db2.toml");
    let toml = fs::read_to_string(&path).expect("written");
    assert!(
        toml.starts_with("# /etc/dre/db2.toml:") && toml.contains("dre@db2"),
        "the group is called like it: {toml}"
    );
    holds(&toml, "db2");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o644);

    fs::write(&path, "somebody's").expect("written");
    let (out, said) = ended(&old.drectl(&line), 75);
    assert!(out.is_empty() && said.contains("exists and was not touched; add --force"), "{said}");
    assert_eq!(fs::read_to_string(&path).expect("there"), "somebody's");

    let forced: Vec<&str> = line.into_iter().chain(["--force"]).collect();
    ended(&old.drectl(&forced), 0);
    assert_eq!(fs::read_to_string(&path).expect("there"), toml);
    assert_eq!(left(&old.0), ["authkeys", "db2.toml", "ha.cf", "haresources", "hosts"]);

    let (_, said) = ended(&old.drectl(&["import", "heartbeat", "DIR", "--output", "no/mysql.toml"]), 75);
    assert!(said.contains("no/mysql.toml: No such file or directory"), "{said}");
}

#[test]
fn what_is_not_understood_makes_no_file() {
    let old = Old::new("wrong");
    old.write("ha.cf", &HA_CF.replace("deadtime 15", "deadtime soon"));
    let line = ["import", "heartbeat", "DIR", "--output", "mysql.toml"];
    let (out, said) = ended(&old.drectl(&line), 65);
    assert!(out.is_empty() && !old.path("mysql.toml").exists(), "{out}");
    assert!(said.contains("ha.cf:4: WRONG: deadtime soon ("), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("ha.cf:4: deadtime soon; write it like \"2\""), "{said}");
}

#[test]
fn json_has_the_file_and_every_line() {
    let old = Old::new("json");
    let line = ["import", "heartbeat", "DIR", "--json", "--arbitrator-interface", "eth0"];
    let (out, said) = ended(&old.drectl(&line), 0);
    assert!(said.is_empty(), "{said}");
    let json: Value = serde_json::from_str(&out).expect("JSON");
    holds(json["toml"].as_str().expect("a text"), "mysql");
    let findings = json["findings"].as_array().expect("a list");
    let keepalive = findings.iter().find(|finding| finding["what"] == "keepalive 1").expect("spoken of");
    assert_eq!((&keepalive["line"], &keepalive["outcome"]), (&Value::from(3), &Value::from("taken")));
    assert!(keepalive["file"].as_str().is_some_and(|file| file.ends_with("/ha.cf")));
    for finding in findings {
        let fields: Vec<&str> = finding.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(fields, ["became", "file", "line", "outcome", "remedy", "what", "why"]);
    }
    assert_eq!(json["warnings"], Value::from(Vec::<Value>::new()));

    let (out, said) = ended(&old.drectl(&line[..4]), 78);
    assert!(said.contains("not complete"), "{said}");
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert!(json["findings"].as_array().expect("a list").iter().any(|finding| finding["outcome"] == "open"));

    old.write("haresources", "hadev3 mysql\n");
    let (out, _) = ended(&old.drectl(&line), 65);
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert!(json["toml"].is_null());
    assert!(json["findings"].as_array().expect("a list").iter().any(|finding| finding["outcome"] == "wrong"));
}

#[test]
fn files_that_are_not_there_are_named_with_what_to_do() {
    let old = Old::new("absent");
    let line = ["import", "heartbeat", "DIR", "--arbitrator-interface", "eth0"];
    // Another hosts file, and none beside.
    fs::rename(old.path("hosts"), old.path("names")).expect("renamed");
    let (toml, _) = ended(&old.drectl(&line), 78);
    assert!(toml.contains("# FILL IN: hadev2's address on eth4"), "/etc/hosts knows none of it: {toml}");
    let with: Vec<&str> = line.into_iter().chain(["--hosts", "names"]).collect();
    let (toml, said) = ended(&old.drectl(&with), 0);
    holds(&toml, "mysql");
    assert!(said.contains("hadev2 172.16.12.55 (names:6)"), "{said}");
    let without: Vec<&str> = line.into_iter().chain(["--hosts", "nowhere"]).collect();
    assert!(ended(&old.drectl(&without), 75).1.contains("nowhere: No such file or directory"));

    // Only root may read the keys, and nothing of them is needed.
    fs::remove_file(old.path("authkeys")).expect("removed");
    ended(&old.drectl(&with), 0);
    for name in ["haresources", "ha.cf"] {
        fs::remove_file(old.path(name)).expect("removed");
        let (out, said) = ended(&old.drectl(&with), 75);
        assert!(
            out.is_empty() && said.contains(&format!("{name}: No such file")) && said.contains("/etc/ha.d"),
            "{said}"
        );
    }
    for bad in [&["import"][..], &["import", "heartbeat"], &["import", "heartbeat", "DIR", "--force"]] {
        ended(&old.drectl(bad), 64);
    }
}

#[test]
fn a_group_that_is_named_has_its_own_file() {
    let old = Old::new("group");
    let line = ["-g", "db3", "import", "heartbeat", "DIR", "--arbitrator-interface", "eth0", "-o", "x.toml"];
    ended(&old.drectl(&line), 0);
    let toml = fs::read_to_string(old.path("x.toml")).expect("written");
    assert!(toml.starts_with("# /etc/dre/db3.toml:"), "{toml}");
    holds(&toml, "db3");
}
