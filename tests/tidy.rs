//! The house rules that no compiler knows: who may import whom, the field's words, texts that must agree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use dre::logic::election::Rule;
use dre::notice::Notice;

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
            assert!(!code(&text).contains(banned), "{name} reaches up to {banned}");
        }
    }
    for (name, text) in
        sources("src/config").into_iter().chain([("src/notice.rs".into(), read("src/notice.rs"))])
    {
        assert!(!code(&text).contains("crate::shell"), "{name} reaches up to the shell");
    }
    // Modules of the shell do not know each other, but for the two on which the others wait and the gate's parts.
    let may = ["super::ready", "super::clock", "super::bpf", "super::gate", "super::journal"];
    for (name, text) in sources("src/shell") {
        for line in code(&text).lines().filter(|l| l.trim_start().starts_with("use super::")) {
            assert!(may.iter().any(|m| line.contains(m)), "{name}: {line}");
        }
    }
}

#[test]
fn the_fields_words_are_used() {
    for (name, text) in sources("src") {
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

#[test]
fn the_readme_explains_every_rule_and_no_other() {
    let readme = read("README.md");
    for rule in Rule::ALL {
        assert!(readme.contains(&format!("\n| {} |", rule.word())), "README has no row for {}", rule.word());
    }
}

#[test]
fn the_catalogue_explains_every_notice_and_no_other() {
    let text = || String::new();
    let all = [
        Notice::RoleChanged { from: "", to: "", rule: "", term: 0, evidence: text() },
        Notice::Suspected { withdrawn: true, silent_us: 0, at_us: 0 },
        Notice::AlarmRaised { alarm: text(), text: text() },
        Notice::AlarmCleared { alarm: text() },
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
    ];
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
    assert_eq!(
        settings("units/dre.service.d/50-hardening.conf"),
        settings("units/dre-.service.d/50-hardening.conf")
    );
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
