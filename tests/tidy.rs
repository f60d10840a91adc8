//! The house rules that no compiler knows: who may import whom, the field's words, texts that must agree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use dre::logic::election::Rule;
use dre::notice::{Notice, Priority};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sources(dir: &str) -> Vec<(String, String)> {
    let mut found = vec![];
    let mut todo = vec![root().join(dir)];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).expect("below").display().to_string();
                let text = fs::read_to_string(&path).expect("readable");
                found.push((name, text));
            }
        }
    }
    assert!(!found.is_empty(), "{dir} has no sources");
    found
}

/// Code without its tests and comments.
fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    product.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Whether code names a path; `std::os::unix::…` does not name `nix::`.
fn names(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Arrows point down only: bin → shell → config, notice, snapshot, stream → logic.
#[test]
fn arrows_point_down() {
    for (name, text) in sources("src/logic") {
        if name.ends_with("sim.rs") || name.contains("tests") {
            continue;
        }
        for banned in [
            "crate::shell",
            "crate::config",
            "tokio::",
            "std::net::Udp",
            "std::fs",
            "std::thread",
            "std::env",
            "nix::",
            "libc::",
        ] {
            assert!(!names(&code(&text), banned), "{name} reaches up to {banned}");
        }
    }
    for (name, text) in
        sources("src/config").into_iter().chain([("src/notice.rs".into(), read("src/notice.rs"))])
    {
        assert!(!code(&text).contains("crate::shell"), "{name} reaches up to the shell");
    }
    // Modules of the shell do not know each other, but for the tools, those on which the others wait, and the gate's parts.
    let may = ["ready", "clock", "realtime", "exchange", "varlink", "beneath", "bpf", "gate", "journal"];
    for (name, text) in sources("src/shell") {
        let own = name.strip_prefix("src/shell/").and_then(|rest| rest.split(['/', '.']).next());
        for line in code(&text).lines().map(str::trim_start) {
            let line = line.strip_prefix("pub ").unwrap_or(line);
            let Some(used) = ["use super::", "use crate::shell::"].iter().find_map(|p| line.strip_prefix(p))
            else {
                continue;
            };
            let module = used.split([':', ';']).next();
            let known = module == own || module.is_some_and(|module| may.contains(&module));
            // Inside a module of several files, `super` is that module.
            let inside = line.starts_with("use super::") && name.matches('/').count() > 2;
            assert!(known || inside, "{name}: {line}");
        }
    }
}

#[test]
fn the_fields_words_are_used() {
    // MariaDB's and MySQL's own names for their statements, columns and variables.
    let theirs = ["src/shell/sql", "src/logic/db/"];
    for (name, text) in sources("src") {
        if theirs.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for banned in ["master", "slave", "Master", "Slave"] {
            assert!(!text.contains(banned), "{name} says {banned}");
        }
    }
}

#[test]
fn no_unwrap_in_shell_and_bin() {
    for (name, text) in sources("src/shell").into_iter().chain(sources("src/bin")) {
        assert!(!code(&text).contains(".unwrap()"), "{name} unwraps");
    }
}

/// The first cells of the README's table under a heading, each once.
fn rows(heading: &str) -> BTreeSet<String> {
    let readme = read("README.md");
    let section = readme.split(&format!("\n## {heading}\n")).nth(1).expect(heading);
    let section = section.split("\n## ").next().unwrap_or_default();
    let table = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let mut names = BTreeSet::new();
    for line in table {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "README, {heading}: {line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "README, {heading}: an empty cell in {line}");
        assert!(names.insert(cells[0].to_owned()), "README, {heading}: {} has two rows", cells[0]);
    }
    names
}

#[test]
fn the_readme_explains_every_rule_and_no_other() {
    let rules: BTreeSet<String> = Rule::ALL.iter().map(|rule| rule.word().to_owned()).collect();
    assert_eq!(rows("The rules"), rules);
}

/// The names of all alarms in the code, wherever they are raised: `raise("Name", …)` of the election, `.alarm("Name", …)`
/// of dre-vip, `Event::Trouble { name: "Name", … }` of what stands outside,
/// `Alarm { name: "Name", … }` of dre-sync and drectl.
fn alarms() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, text) in sources("src") {
        let dense: String = code(&text).split_whitespace().collect();
        for raised in
            ["raise(\"", "raise_of(\"", ".alarm(\"", "all.insert(\"", "Trouble{name:\"", "Alarm{name:\""]
        {
            names.extend(
                dense.split(raised).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())),
            );
        }
    }
    for name in &names {
        assert!(name.chars().all(char::is_alphabetic), "{name:?} is no alarm's name");
    }
    assert!(names.len() > 20, "where are the alarms? {names:?}");
    names
}

/// Each alarm has a row, what it says and what to do; a row whose alarm went fails too. (The lab's audit holds every alarm
/// it meets against the same table.)
#[test]
fn the_readme_explains_every_alarm_and_no_other() {
    let (raised, explained) = (alarms(), rows("The alarms"));
    let missing: Vec<_> = raised.difference(&explained).collect();
    let left: Vec<_> = explained.difference(&raised).collect();
    assert!(
        missing.is_empty(),
        "README.md, The alarms: add `| NAME | what it says | what to do |` for {missing:?}"
    );
    assert!(left.is_empty(), "README.md, The alarms: no code raises {left:?}");
}

/// `drectl` sorts some alarms before others and puts a remedy first: under names that exist.
#[test]
fn the_page_knows_no_alarm_that_is_not_raised() {
    let page = read("src/bin/drectl/page.rs");
    let alarms = alarms();
    for function in ["\nfn weight(", "\nfn remedy("] {
        let body = page.split(function).nth(1).and_then(|rest| rest.split("\n}\n").next()).expect(function);
        let named: Vec<&str> = body
            .split('"')
            .skip(1)
            .step_by(2)
            .filter(|word| word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphanumeric))
            .collect();
        assert!(!named.is_empty(), "{function} names none");
        for name in named {
            assert!(alarms.contains(name), "{function}: no code raises {name}");
        }
    }
}

/// All alarms share one entry of the catalogue: it says the alarm's own sentence and where the table is.
#[test]
fn the_catalogue_explains_alarms_by_the_readmes_table() {
    let catalogue = read("config/dre.catalog");
    let id = Notice::AlarmRaised { alarm: String::new(), subject: String::new(), text: String::new() }.id();
    let entry = catalogue.split(id).nth(1).and_then(|rest| rest.split("\n-- ").next()).expect("an entry");
    let installed = "/share/doc/dre/README.md";
    for needed in ["@DRE_ALARM@", "@DRE_TEXT@", "table of alarms", &format!("/usr{installed}")] {
        assert!(entry.contains(needed), "{needed} is not in: {entry}");
    }
    assert!(read("Makefile").contains(&format!("README.md $(DESTDIR)$(PREFIX){installed}\n")));
}

/// What the crates ask for is what Cargo.toml says, no more and no less. (clippy holds our own code to it:
/// `incompatible_msrv`.)
#[test]
fn the_stated_rust_version_is_that_of_the_crates() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let out = std::process::Command::new(cargo)
        .args([
            "metadata",
            "--locked",
            "--offline",
            "--format-version=1",
            "--filter-platform=x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let version = |text: &str| -> (u32, u32) {
        let mut parts = text.split('.').map(|part| part.parse().expect("a number"));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    let (mut own, mut asked) = (None, ((0, 0), ""));
    for package in metadata["packages"].as_array().expect("packages") {
        let Some(stated) = package["rust_version"].as_str() else { continue };
        let name = package["name"].as_str().unwrap_or_default();
        if name == "dre" {
            own = Some(version(stated));
        } else {
            asked = asked.max((version(stated), name));
        }
    }
    assert_eq!(own, Some(asked.0), "{} asks for Rust {:?}", asked.1, asked.0);
    assert!(
        read("README.md").contains(&format!("Rust {}.{}", asked.0.0, asked.0.1)),
        "the README says another"
    );
}

/// `make bench` filters what it shows; its status is still that of the tests.
#[test]
fn a_failed_benchmark_fails() {
    let dir = std::env::temp_dir().join(format!("dre-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    for (status, words) in
        [(0, "FIGURE power loss: outage median 25.0 ms"), (101, "Error: two answered at once")]
    {
        let cargo = dir.join("cargo");
        fs::write(&cargo, format!("#!/bin/sh\necho '{words}'\nexit {status}\n")).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&cargo, mode).expect("executable");
        let out = std::process::Command::new("make")
            .args(["-s", "-o", "prepare", "-o", "build", "bench"])
            .arg(format!("CARGO={}", cargo.display()))
            .arg(format!("TARGET_DIR={}", dir.display()))
            .current_dir(root())
            .env_remove("MAKEFLAGS")
            .output()
            .expect("make");
        let said = String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.success(), status == 0, "cargo ended with {status}: {out:?}");
        assert!(said.contains(words), "{out:?}");
    }
    fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn the_readme_explains_every_state_of_a_set() {
    let readme = read("README.md");
    for state in dre::rules::STATES {
        assert!(readme.contains(&format!("\n| {state} |")), "README has no row for {state}");
    }
}

#[test]
fn the_readme_explains_every_state_of_a_database_and_no_other() {
    let states: BTreeSet<String> = dre::database::STATES.iter().map(|state| (*state).to_owned()).collect();
    assert_eq!(rows("The database pair"), states);
    let text = read("src/logic/db/agent/state.rs");
    let body = text
        .split("pub const fn word(")
        .nth(1)
        .and_then(|rest| rest.split("\n    }\n").next())
        .expect("word");
    // What the agent says, and the one that stands above it while a copy comes.
    let said = body.split('"').skip(1).step_by(2).chain([dre::database::RESEEDING]).map(str::to_owned);
    assert_eq!(said.collect::<BTreeSet<String>>(), states);
}

#[test]
fn the_catalogue_explains_every_notice_and_no_other() {
    let text = || String::new();
    let all = [
        Notice::RoleChanged { from: "", to: "", rule: "", term: 0, evidence: text() },
        Notice::Suspected { withdrawn: true, silent_us: 0, at_us: 0 },
        Notice::AlarmRaised { alarm: text(), subject: text(), text: text() },
        Notice::AlarmCleared { alarm: text(), subject: text() },
        Notice::TakenOver { here: true, gap_us: 0, rule: text() },
        Notice::Refused { asked: text(), reason: text() },
        Notice::Started { what: "", text: text() },
        Notice::Stopping { text: text() },
        Notice::ConfigReloaded { text: text() },
        Notice::ConfigRejected { text: text() },
        Notice::TargetFailed { target: text(), result: text() },
        Notice::VipMended { text: text() },
        Notice::GateMended { interface: text() },
        Notice::Trouble { text: text() },
        Notice::Lost { count: 0 },
        Notice::RulesPublished {
            set: text(),
            peer: text(),
            files: 0,
            deleted: 0,
            bytes: 0,
            path: text(),
            latency_us: 0,
        },
        Notice::RulesConflict {
            set: text(),
            path: text(),
            winner: text(),
            loser: text(),
            kept: text(),
            uncertain: false,
        },
        Notice::RulesHeld { set: text(), deleted: 0, known: 0 },
        Notice::RulesRootGone { set: text(), root: text(), reason: text() },
        Notice::RulesRejected { set: text(), node: text(), files: 0, path: text(), output: text() },
        Notice::RulesBlocked { set: text(), path: text(), reason: text() },
        Notice::RulesRescanned { set: text(), reason: text() },
        Notice::RulesOwnerUnknown { set: text(), reason: text() },
        Notice::RulesJoined { set: text(), peer: text(), reason: text() },
        Notice::RulesPeerConnected { peer: text(), link: text() },
        Notice::RulesPeerAway { peer: text(), reason: text() },
        Notice::RulesClockSkew { peer: text(), skew_ms: 0 },
        Notice::Database { priority: Priority::Info, text: text() },
    ];
    for notice in &all {
        assert!(notice.id().len() == 32 && notice.id().bytes().all(|b| b.is_ascii_hexdigit()), "{notice:?}");
    }
    let ids: BTreeSet<&str> = all.iter().map(Notice::id).collect();
    assert_eq!(ids.len(), all.len(), "an id is used twice");
    let catalogue = read("config/dre.catalog");
    let explained: BTreeSet<&str> = catalogue.lines().filter_map(|l| l.strip_prefix("-- ")).collect();
    assert_eq!(ids, explained);
    let fields: BTreeSet<&str> = all.iter().flat_map(Notice::fields).map(|(name, _)| name).collect();
    for word in catalogue.split('@').skip(1).step_by(2) {
        assert!(fields.contains(word), "the catalogue names @{word}@, which no notice has");
    }
}

#[test]
fn the_two_hardening_files_are_one() {
    let settings = |path: &str| -> Vec<String> {
        read(path).lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect()
    };
    for copy in ["units/dre.service.d/50-hardening.conf", "units/dre@.service.d/50-hardening.conf"] {
        assert_eq!(settings(copy), settings("units/dre-.service.d/50-hardening.conf"), "{copy}");
    }
}

/// A template unit is the plain one, but for the group's names and what is listed here.
#[test]
fn a_group_has_the_units_that_dre_has() {
    let lines = |path: &str| -> Vec<String> {
        read(path).lines().filter(|l| !l.starts_with('#') && !l.is_empty()).map(str::to_owned).collect()
    };
    let names = |line: &str| {
        let mut line = line.to_owned();
        for (plain, template) in [
            ("dre-mysql@dre.service", "dre-mysql@%i.service"),
            ("dre.service", "dre@%i.service"),
            ("dre.socket", "dre@%i.socket"),
            ("dre-vip.service", "dre-vip@%i.service"),
            ("dre-lease.service", "dre-lease@%i.service"),
            ("dre-active.target", "dre-active@%i.target"),
            ("dre-standby.target", "dre-standby@%i.target"),
            // A machine has one TIPC, and it is group dre's.
            (" dre-tipc.service", ""),
            (" AF_TIPC AF_PACKET", ""),
            ("/run/dre/", "/run/dre-%i/"),
            ("/term.env", "/term@%i.env"),
            ("StateDirectory=dre", "StateDirectory=dre-%i"),
            ("RuntimeDirectory=dre", "RuntimeDirectory=dre-%i"),
            ("BusName=org.dre.Elect", "BusName=org.dre.Elect.%i"),
        ] {
            line = line.replace(plain, template);
        }
        line
    };
    let added: &[(&str, &[&str])] = &[
        (
            "dre@.service",
            &[
                "Environment=DRE_GROUP=%i",
                "Slice=system.slice",
                "EnvironmentFile=-/etc/sysconfig/dre@%i",
                "EnvironmentFile=-/etc/default/dre@%i",
            ],
        ),
        ("dre@.socket", &["ExecStartPre=/usr/bin/install -d -m 0755 -o dre -g dre /run/dre-%i"]),
        (
            "dre-vip@.service",
            &[
                "Environment=DRE_GROUP=%i",
                "Slice=system.slice",
                "EnvironmentFile=-/etc/sysconfig/dre@%i",
                "EnvironmentFile=-/etc/default/dre@%i",
            ],
        ),
        ("dre-lease@.service", &["Environment=DRE_GROUP=%i"]),
        ("dre-active@.target", &[]),
        ("dre-standby@.target", &[]),
    ];
    for (template, added) in added {
        let plain = lines(&format!("units/{}", template.replace('@', "")));
        let found = lines(&format!("units/{template}"));
        let of_it: Vec<&String> = found.iter().filter(|line| !added.contains(&line.as_str())).collect();
        assert_eq!(found.len() - of_it.len(), added.len(), "{template}");
        assert_eq!(of_it.len(), plain.len(), "{template}");
        for (line, plain) in of_it.into_iter().zip(&plain) {
            match plain.strip_prefix("Description=") {
                Some(_) => {
                    assert!(line.starts_with("Description=dre") && line.contains("group %i"), "{line}")
                }
                None => assert_eq!(*line, names(plain), "{template}"),
            }
        }
    }
}

/// What `drectl db bootstrap` writes is what the README shows.
#[test]
fn the_readme_shows_the_servers_file_as_it_is_written() {
    use dre::logic::db::server_file::{Own, text};
    let readme = read("README.md");
    let shown = readme.split("    # /etc/mysql/mariadb.conf.d/60-dre.cnf\n").nth(1).expect("a block");
    let shown: String = shown
        .lines()
        .map_while(|line| line.strip_prefix("    "))
        .map(|line| line.to_owned() + "\n")
        .collect();
    assert_eq!(shown, text(&Own { id: 1, port: 3306, six: false }));
}

/// The example that is shipped is a configuration that holds, on either node.
#[test]
fn the_example_holds() {
    let text = read("config/dre.toml");
    let sources = [("config/dre.toml".into(), text)];
    let one = dre::config::parse(&sources, "dre", "hadev1", false).expect("holds on hadev1");
    let two = dre::config::parse(&sources, "dre", "hadev2", false).expect("holds on hadev2");
    assert_eq!(one.digest, two.digest);
    assert!(one.is_first() && !two.is_first());
}

/// The same of the second group's, beside the first one's.
#[test]
fn the_example_of_a_group_holds() {
    let of = |group: &str, node: &str| {
        let file = format!("config/{group}.toml");
        dre::config::parse(&[(file.clone().into(), read(&file))], group, node, false).expect("holds")
    };
    let (one, two) = (of("mysql", "hadev1"), of("mysql", "hadev2"));
    assert_eq!(one.digest, two.digest);
    assert!(one.is_first() && one.database.is_some() && one.warnings.is_empty(), "{:?}", one.warnings);
    assert_eq!((one.heartbeat.dead_after().as_secs(), one.election.startup_hold.as_secs()), (15, 15));
    dre::config::clashes(&[of("dre", "hadev1"), one]).expect("both groups on one machine");
}

/// The same of the rules files' example, as it stands and with every setting that is shown in a comment.
#[test]
fn the_example_of_the_rules_files_holds() {
    use dre::config::{parse, sync};
    let dre = [("config/dre.toml".into(), read("config/dre.toml"))];
    let text = read("config/sync.toml");
    let shown = |line: &str| {
        let inner =
            line.strip_prefix("# ").filter(|l| l.split_once(" = ").is_some_and(|(k, _)| !k.contains(' ')));
        inner.unwrap_or(line).to_owned() + "\n"
    };
    let all: String = text.lines().map(shown).collect();
    assert!(all.contains("\nvalidate = ") && all.contains("\nlinks_outside = "), "{all}");
    for text in [text, all] {
        let sources = [("config/sync.toml".into(), text)];
        let read = |node| {
            let pair = parse(&dre, "dre", node, false).expect("dre.toml holds");
            sync::parse(&sources, &pair).expect("sync.toml holds")
        };
        let (one, two) = (read("hadev1"), read("hadev2"));
        let digests = |sync: &sync::Sync| sync.sets.iter().map(|set| set.digest).collect::<Vec<_>>();
        assert_eq!(digests(&one), digests(&two));
        assert!(one.sets.len() == 2 && one.warnings.is_empty());
    }
}
