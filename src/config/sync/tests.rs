//! Sets that do not hold: each mistake says file, line, value, why it matters and what to write.

use super::*;
use crate::config;

const PAIR: &str = r#"[nodes.hadev1]
links = { primary = "172.16.11.54", secondary = "172.16.13.54" }
[nodes.hadev2]
links = { primary = "172.16.11.55", secondary = "172.16.13.55" }
"#;

const GOOD: &str = r#"[transfer]
port = 1695
rsync_port = 8730
encrypt = false
[set.re]
root = "/opt/dre/rules"
include = ["**/*.xml"]
exclude = ["*.bak"]
owners = { hadev2 = { rules = "tomcat10" } }
validate = ["/usr/bin/re-check", "{staging}", "{list}"]
validate_timeout_ms = 10000
apply = ["systemctl", "reload", "diameter.service"]
apply_every_ms = 1000
publish = "files"
links_outside = false
[set.erlbf]
root = "/opt/dre/erlbf"
"#;

fn pair_of(text: &str, node: &str) -> Result<Settings, Error> {
    config::parse(&[(PathBuf::from("/etc/dre/dre.toml"), text.to_owned())], "dre", node, true)
}

fn pair(node: &str) -> Settings {
    pair_of(PAIR, node).expect("the pair holds")
}

fn source(text: &str) -> (PathBuf, String) {
    (PathBuf::from("/etc/dre/sync.toml"), text.to_owned())
}

fn read(text: &str) -> Result<Sync, Error> {
    parse(&[source(text)], &pair("hadev1"))
}

/// Replaces `from` by `to` in the good file; what must be said, and on which line.
#[track_caller]
fn refused(from: &str, to: &str, line: usize, words: &[&str]) {
    assert!(GOOD.contains(from), "{from:?} is not in the file");
    let error = read(&GOOD.replacen(from, to, 1)).expect_err(&format!("{to:?} was accepted"));
    let (text, lines) = (error.to_string(), error.lines());
    for word in words {
        assert!(
            text.contains(word) && lines.contains(word),
            "{to:?}: {word:?} is not said in:\n{text}\n{lines}"
        );
    }
    assert!(text.contains("/etc/dre/sync.toml"), "{text}");
    let found: Vec<usize> = error.json().iter().map(|f| f.line).collect();
    assert!(found.contains(&line), "{to:?}: line {line} is not among {found:?}:\n{text}");
    for finding in error.findings() {
        assert!(!finding.why.is_empty() && !finding.remedy.is_empty(), "{finding:?}");
    }
}

#[test]
fn the_example_of_the_requirements_holds() {
    let sync = read(GOOD).expect("holds");
    assert_eq!((sync.port, sync.rsync_port, sync.encrypt), (1695, 8730, false));
    assert_eq!((sync.node.as_str(), sync.peer.as_str(), sync.links.len()), ("hadev1", "hadev2", 2));
    assert!(sync.warnings.is_empty(), "{:?}", sync.warnings);
    let re = sync.set("re").expect("there");
    assert_eq!(re.root, Path::new("/opt/dre/rules"));
    assert_eq!(re.validate_timeout, Duration::from_secs(10));
    assert_eq!(re.apply_every, Duration::from_secs(1));
    assert!(re.owners.is_empty(), "the name is hadev2's");
    let there = parse(&[source(GOOD)], &pair("hadev2")).expect("holds there too");
    assert_eq!(there.sets[1].owners.get("rules").map(String::as_str), Some("tomcat10"));
    let erlbf = sync.set("erlbf").expect("there");
    assert_eq!((&erlbf.validate, &erlbf.apply, erlbf.publish), (&None, &None, Publish::Files));
    assert!(erlbf.filter().expect("globs").takes(b"anything"));
    assert!(!re.filter().expect("globs").takes(b"a/b.xml.bak"));
}

#[test]
fn each_mistake_says_where_what_why_and_what_to_write() {
    refused("port = 1695", "prot = 1695", 2, &["prot", "unknown field", "sync.toml"]);
    refused("port = 1695", "port = 0", 2, &["port = 0", "65535", "1695"]);
    refused("port = 1695", "port = 70000", 2, &["port = 70000"]);
    refused("port = 1695", "port = -1", 2, &["invalid value"]);
    refused("port = 1695", "port = 1694", 2, &["1694", "heartbeat"]);
    refused("rsync_port = 8730", "rsync_port = 1694", 3, &["rsync_port = 1694", "heartbeat"]);
    refused("rsync_port = 8730", "rsync_port = 1695", 3, &["both 1695", "8730"]);
    refused("port = 1695\nrsync_port = 8730", "port = 8730", 2, &["both 8730"]);
    refused("encrypt = false", "encrypt = \"no\"", 4, &["invalid type"]);
    refused("[set.re]", "[set.Re]", 5, &["\"Re\"", "a-z"]);
    refused("[set.re]", "[set.\"\"]", 5, &["no set's name"]);
    refused("[set.re]", "[set.\"a/b\"]", 5, &["\"a/b\""]);
    refused("[set.re]", "[set.-re]", 5, &["\"-re\""]);
    refused("[set.re]", "[set.restore]", 5, &["restore", "something else"]);
    refused("[set.re]", "[set.global]", 5, &["global"]);
    refused("[set.re]", "[sets.re]", 5, &["sets", "unknown field"]);
    refused("root = \"/opt/dre/rules\"\n", "", 5, &["set re has no root", "/opt/dre/rules"]);
    refused("/opt/dre/rules", "opt/dre/rules", 6, &["\"opt/dre/rules\"", "absolute"]);
    refused("/opt/dre/rules", "/opt/dre/../rules", 6, &["\"..\""]);
    refused("/opt/dre/rules", "/opt/dre\\nrules", 6, &["absolute"]);
    refused("/opt/dre/rules", "/opt/dre/erlbf", 6, &["same root", "erlbf"]);
    refused("/opt/dre/rules", "/opt/dre/erlbf/rules", 6, &["root of set re lies in that of set erlbf"]);
    refused("/opt/dre/erlbf", "/opt/dre/rules/erlbf/", 6, &["root of set erlbf lies in that of set re"]);
    refused("**/*.xml", "[a", 7, &["\"[a\"", "no pattern"]);
    refused("**/*.xml", "/opt/*", 7, &["below its root"]);
    refused("*.bak", "../*.bak", 8, &["no \".\" and no \"..\""]);
    refused("*.bak", "", 8, &["matches nothing"]);
    refused("hadev2 = {", "hadev3 = {", 9, &["hadev3", "no node", "hadev2"]);
    refused("\"tomcat10\"", "\"\"", 9, &["no user's"]);
    refused("\"tomcat10\"", "\"tom cat\"", 9, &["\"tom cat\""]);
    refused("rules = \"tomcat10\"", "\"a:b\" = \"tomcat10\"", 9, &["\"a:b\""]);
    refused(
        "rules = \"tomcat10\"",
        "rules = \"x\", engine = \"x\"",
        9,
        &["engine and rules", "both called x"],
    );
    refused(
        "\"/usr/bin/re-check\", \"{staging}\", \"{list}\"",
        "",
        10,
        &["validate = []", "names no command"],
    );
    refused("/usr/bin/re-check", "bin/re-check", 10, &["\"bin/re-check\"", "from / on"]);
    refused("/usr/bin/re-check", "", 10, &["validate runs \"\""]);
    refused("{staging}", "{stage}", 10, &["{stage}", "{staging}, {list}"]);
    refused("\"reload\"", "\"{list}\"", 12, &["{list}", "once for a whole batch"]);
    refused("\"systemctl\", \"reload\", \"diameter.service\"", "", 12, &["apply = []"]);
    refused("10000", "99", 11, &["validate_timeout_ms = 99", "100 to 600000"]);
    refused("apply_every_ms = 1000", "apply_every_ms = 3600001", 13, &["3600001"]);
    refused("\"files\"", "\"gently\"", 14, &["gently", "\"tree\""]);
    refused("links_outside = false", "links_outside = 0", 15, &["invalid type"]);
    refused("[transfer]", "[transfer", 1, &[]);
}

#[test]
fn a_directory_of_the_system_is_no_set() {
    for root in [
        "/",
        "//",
        "/etc",
        "/usr",
        "/usr/",
        "/var/lib",
        "/opt",
        "/home",
        "/run",
        "/run/x",
        "/var/run/x",
        "/proc/1",
        "/sys",
        "/dev/shm",
        "/tmp",
        "/tmp/rules",
        "/var/tmp/x",
        "/var/lib/dre",
        "/var/lib/dre/rules",
        "/var/lib/dre-mysql",
        "/var/lib/dre-rules/x",
        "/etc/dre",
        "/etc/systemd/system",
        "/usr/bin",
        "/boot",
    ] {
        refused("/opt/dre/rules", root, 6, &["of the system"]);
    }
    for root in
        ["/etc/re", "/opt/re", "/srv/rules", "/home/re/rules", "/var/lib/drex", "/var/lib/tomcat10/rules"]
    {
        assert!(read(&GOOD.replace("/opt/dre/rules", root)).is_ok(), "{root}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_and_slashes_do_not_matter() {
    let text = GOOD.replace("port = 1695", "port = 0").replace("\"files\"", "\"x\"");
    assert_eq!(read(&text).expect_err("two mistakes").findings().len(), 2);
    let sync = read(&GOOD.replace("/opt/dre/rules", "//opt//dre/./rules/")).expect("holds");
    assert_eq!(sync.set("re").map(|set| set.root.as_path()), Some(Path::new("/opt/dre/rules")));
    assert!(read("").expect_err("no set").to_string().contains("drectl rules setup"));
    let many: String = (0..33).map(|n| format!("[set.s{n}]\nroot = \"/srv/{n}\"\n")).collect();
    assert!(read(&many).expect_err("too many").to_string().contains("33 sets"));
}

#[test]
fn without_a_pair_or_its_addresses_nothing_can_be_replicated() {
    let with = |text: &str| parse(&[source(GOOD)], &pair_of(text, "hadev1").expect("a configuration"));
    let one = "[nodes.hadev1]\nlinks = { primary = \"172.16.11.54\" }\n";
    assert!(with(one).expect_err("alone").lines().contains("no second node"));
    let tipc = "[nodes.hadev1]\ntipc = \"1.1.23\"\n[nodes.hadev2]\ntipc = \"1.1.29\"\n[heartbeat]\ntransport = \"tipc\"\n\
                [heartbeat.tipc]\nbearers = { primary = \"eth3\", secondary = \"eth4\" }\n";
    let text = with(tipc).expect_err("no addresses").to_string();
    assert!(text.contains("no links between hadev1 and hadev2") && text.contains("TIPC"), "{text}");
    let addressed = tipc
        .replace("\"1.1.23\"\n", "\"1.1.23\"\nlinks = { primary = \"172.16.11.54\" }\n")
        .replace("\"1.1.29\"\n", "\"1.1.29\"\nlinks = { primary = \"172.16.11.55\" }\n");
    let sync = with(&addressed).expect("TIPC for the heartbeats, addresses for the files");
    assert_eq!(sync.links[0].peer.to_string(), "172.16.11.55");
    assert!(sync.warnings[0].contains("one link only (primary)"), "{:?}", sync.warnings);
}

#[test]
fn both_nodes_see_one_digest_and_what_matters_changes_it() {
    let of = |text: &str, node: &str, name: &str| {
        parse(&[source(text)], &pair(node)).expect("holds").set(name).expect("there").digest
    };
    let good = of(GOOD, "hadev1", "re");
    assert_eq!(good, of(GOOD, "hadev2", "re"));
    assert_ne!(good, of(GOOD, "hadev1", "erlbf"));
    let two = GOOD.replace("[\"*.bak\"]", "[\"*.old\", \"*.bak\"]");
    let turned = GOOD.replace("[\"*.bak\"]", "[ \"*.bak\", # a comment\n \"*.old\", \"*.bak\" ]");
    assert_eq!(of(&two, "hadev1", "re"), of(&turned, "hadev2", "re"), "order and repetition do not matter");
    for (from, to) in [
        ("**/*.xml", "**/*.xsl"),
        ("include = [\"**/*.xml\"]", "include = [\"**/*.xml\", \"*.bak\"]\nexclude = []#"),
        ("exclude = [\"*.bak\"]", ""),
        ("tomcat10", "tomcat9"),
        ("links_outside = false", "links_outside = true"),
        ("encrypt = false", "encrypt = true"),
        ("rsync_port = 8730", "rsync_port = 8731"),
    ] {
        let text =
            if to.ends_with('#') { GOOD.replace("exclude = [\"*.bak\"]\n", "") } else { GOOD.to_owned() };
        assert_ne!(good, of(&text.replace(from, to.trim_end_matches('#')), "hadev1", "re"), "{to}");
    }
    // Each node's own affair.
    for (from, to) in [
        ("/opt/dre/rules", "/srv/rules"),
        ("/usr/bin/re-check", "/usr/bin/other"),
        ("\"reload\"", "\"restart\""),
        ("\"files\"", "\"tree\""),
        ("port = 1695", "port = 1696"),
    ] {
        assert_eq!(good, of(&GOOD.replacen(from, to, 1), "hadev1", "re"), "{to}");
    }
}

/// A digest that changes from one release to the next would part the nodes during an upgrade.
#[test]
fn the_digest_is_the_one_of_the_first_release() {
    let digest = read(GOOD).expect("holds").set("re").expect("there").digest;
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "e9a4565291e5d827394c0911010ef733cd674456814a67f5a393df72858997ef");
}

#[test]
fn a_drop_in_overrides_value_by_value_and_adds_sets() {
    let drop_in =
        "[transfer]\nencrypt = true\n[set.re]\napply = [\"/bin/true\"]\n[set.more]\nroot = \"/srv/more\"\n";
    let sources = [source(GOOD), (PathBuf::from("10-more.toml"), drop_in.to_owned())];
    let sync = parse(&sources, &pair("hadev1")).expect("holds");
    let names: Vec<_> = sync.sets.iter().map(|set| set.name.as_str()).collect();
    assert_eq!((names, sync.encrypt, sync.port), (vec!["erlbf", "more", "re"], true, 1695));
    let re = sync.set("re").expect("there");
    assert_eq!(re.apply, Some(vec!["/bin/true".to_owned()]));
    assert_eq!(re.root, Path::new("/opt/dre/rules"));
    let wrong =
        [source(GOOD), (PathBuf::from("10-more.toml"), drop_in.replace("/srv/more", "/opt/dre/rules/x"))];
    let error = parse(&wrong, &pair("hadev1")).expect_err("nested");
    assert!(error.lines().contains("set more lies in that of set re"), "{}", error.lines());
}

#[test]
fn the_words_of_validate_are_filled_in_once() {
    let set = Set {
        validate: Some(vec!["/x".into(), "--in={staging}/a".into(), "{list}".into(), "{print $1}{".into()]),
        ..read(GOOD).expect("holds").sets[1].clone()
    };
    let words = set.validate_command(Path::new("/s/{list}"), Path::new("/l")).expect("a command");
    assert_eq!(words, ["/x", "--in=/s/{list}/a", "/l", "{print $1}{"]);
    assert_eq!(Set { validate: None, ..set }.validate_command(Path::new("/s"), Path::new("/l")), None);
    assert_eq!(list([b"a/b".as_slice(), b"c\nd\\"]), b"a/b\nc\\nd\\\\\n");
}

#[test]
fn what_only_this_machine_knows_is_said_and_a_link_hides_no_nesting() {
    let dir = std::env::temp_dir().join(format!("dre-sync-host-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(dir.join("re/inner")).expect("made");
    std::fs::write(dir.join("file"), "").expect("written");
    std::os::unix::fs::symlink(dir.join("re/inner"), dir.join("link")).expect("linked");
    let sync = read(GOOD).expect("holds");
    let with = |roots: [&str; 2]| {
        let mut sync = sync.clone();
        for (set, root) in sync.sets.iter_mut().zip(roots) {
            set.root = dir.join(root);
            set.validate = Some(vec!["/nonexistent/check".into()]);
            set.apply = Some(vec!["true".into()]);
            set.owners = [("rules".to_owned(), "nobody-of-that-name".to_owned())].into();
        }
        sync.check_host()
    };
    let (warnings, verdict) = with(["re", "gone"]);
    assert!(verdict.is_ok());
    let said = |word: &str| warnings.iter().filter(|warning| warning.contains(word)).count();
    assert_eq!((said("ROOT_GONE"), said("/nonexistent/check"), said("runs true")), (1, 2, 0), "{warnings:?}");
    assert_eq!(said("nobody-of-that-name"), 2);
    let (_, verdict) = with(["re", "link"]);
    assert!(verdict.expect_err("nested").to_string().contains("by way of a link"));
    let (_, verdict) = with(["re", "file"]);
    assert!(verdict.expect_err("a file").to_string().contains("is no directory"));
    std::fs::remove_dir_all(&dir).expect("removed");
}

/// Whatever is cut off or changed: an error or sets, never a panic.
#[test]
fn rubbish_is_refused_in_words() {
    let pair = pair("hadev1");
    let read = |text: &str| parse(&[source(text)], &pair).map_err(|error| error.to_string() + &error.lines());
    for len in 0..GOOD.len() {
        let _ = read(&GOOD[..len]);
    }
    let mut seed: u64 = 1;
    for _ in 0..1500 {
        let mut bytes = GOOD.as_bytes().to_vec();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(seed >> 33).expect("fits") % bytes.len();
            bytes[at] = b"[]\"{}=\n#aZ09./:-"[usize::try_from(seed >> 7 & 15).expect("fits")];
        }
        let _ = read(&String::from_utf8_lossy(&bytes));
    }
}
