use std::collections::VecDeque;

use super::*;

/// A person who answers from a list, and remembers what was said and asked.
#[derive(Default)]
struct Script {
    answers: VecDeque<&'static str>,
    said: String,
}

impl Script {
    fn of(answers: &[&'static str]) -> Self {
        Self { answers: answers.iter().copied().collect(), said: String::new() }
    }
}

impl Voice for Script {
    fn say(&mut self, text: &str) -> Done {
        self.said.push_str(text);
        Ok(())
    }

    fn ask(&mut self, question: &str, default: &str) -> Result<String, Fail> {
        self.said.push_str(&format!("{question} [{default}]? "));
        let answer = self
            .answers
            .pop_front()
            .unwrap_or_else(|| panic!("{question:?} was not expected:\n{}", self.said));
        self.said.push_str(&format!("{answer}\n"));
        Ok(if answer.is_empty() { default.to_owned() } else { answer.to_owned() })
    }
}

/// A directory of its own, with two trees of rules.
struct House(PathBuf);

impl House {
    fn new(name: &str) -> Self {
        // Not below /tmp: that is a directory of the system, which no set may be.
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let base = [Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target")), home];
        let base = base.into_iter().flatten().find(|dir| !dir.starts_with("/tmp")).expect("a place for sets");
        let dir = base.join(format!("dre-setup-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("re/de")).expect("made");
        fs::create_dir_all(dir.join("erlbf")).expect("made");
        fs::write(dir.join("re/a.xml"), "12345").expect("written");
        fs::write(dir.join("re/de/b.xml"), "12345").expect("written");
        Self(dir)
    }

    fn out(&self) -> PathBuf {
        self.0.join("sync.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.out()).expect("written")
    }

    fn set_up(&self, args: &SetupArgs, script: &mut Script, asks: bool) -> Done {
        let env = |name: &str| match name {
            "RE_CONFDIR" => Some(self.0.join("re").display().to_string()),
            _ => None,
        };
        let out = self.out();
        let located = if args.out.is_some() { PathBuf::from("/etc/dre/sync.toml") } else { out.clone() };
        set_up(args, &pair(), (&out, &located), env, script, asks)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pair() -> Settings {
    let text = "[nodes.hadev1]\nlinks = { primary = \"172.16.11.54\", second = \"2001:db8::1\" }\n\
                [nodes.hadev2]\nlinks = { primary = \"172.16.11.55\", second = \"2001:db8::2\" }\n";
    config::parse(&[(PathBuf::from("dre.toml"), text.into())], "dre", "hadev1", false).expect("holds")
}

fn flags() -> SetupArgs {
    SetupArgs { sets: vec![], validate: None, apply: None, yes: true, mkdir: false, copy: false, out: None }
}

#[test]
fn a_person_is_led_from_the_environment_to_a_file_that_holds() {
    let house = House::new("person");
    let mut person = Script::of(&[
        "/nonexistent/re", // a slip,
        "no",              // which is not what was meant
        "",                // RE_CONFDIR as proposed
        "none",            // no ERLBF_RE_CONFDIR
        "wrong",
        "-",
        "'/bin/true",
        "/bin/true {staging} '{list}'",
        "-", // no apply
        "y",
        "n",
    ]);
    house.set_up(&flags(), &mut person, true).expect("written");
    let said = &person.said;
    for words in [
        "directory of the set re (RE_CONFDIR), - for none [",
        "directory of the set erlbf (ERLBF_RE_CONFDIR), - for none [-]?",
        "write NAME=DIR",
        "/nonexistent/re is not there; make it (mode 0755)? [no]",
        "\"'/bin/true\": a quote is not closed",
        "re: 2 files, 10 B\n",
        "  [set.re]\n",
        "write it? [yes]",
        "scp -p ",
        "root@172.16.11.55:",
        "systemctl daemon-reload",
        "systemctl restart dre-sync-rsync.socket",
    ] {
        assert!(said.contains(words), "{words:?} is not said in:\n{said}");
    }
    assert!(!said.contains("enable"), "the generator makes the units wanted:\n{said}");
    let text = house.text();
    assert!(text.ends_with("validate = [\"/bin/true\", \"{staging}\", \"{list}\"]\n"), "{text}");
    assert_eq!(fs::metadata(house.out()).expect("there").permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(&house.0).expect("a directory").count(), 3, "nothing is left beside it");
    let sync = sync::load_file(&house.out(), &pair()).expect("holds");
    assert_eq!(sync.sets[0].root, house.0.join("re"));
}

#[test]
fn flags_say_everything_and_nobody_is_asked() {
    let house = House::new("flags");
    let args = SetupArgs {
        sets: vec![
            wanted(&format!("re={}", house.0.join("re").display())).expect("a set"),
            wanted(&format!("new={}", house.0.join("not/there").display())).expect("a set"),
        ],
        apply: Some("systemctl reload \"a b.service\"".into()),
        mkdir: true,
        ..flags()
    };
    let mut nobody = Script::default();
    house.set_up(&args, &mut nobody, false).expect("written");
    assert!(house.0.join("not/there").is_dir());
    let text = house.text();
    assert_eq!(text.matches("apply = [\"systemctl\", \"reload\", \"a b.service\"]").count(), 2, "{text}");
    assert!(nobody.said.contains("hadev2 needs the same file"), "{}", nobody.said);
    // From the environment, when no set is named.
    let house = House::new("proposed");
    house.set_up(&flags(), &mut nobody, false).expect("written");
    assert!(house.text().contains("[set.re]") && !house.text().contains("erlbf"));
    // And again: what is there is not proposed a second time.
    assert_eq!(
        house.set_up(&flags(), &mut nobody, false).expect_err("nothing left").code,
        crate::exit::USAGE
    );
}

/// What is written elsewhere is a draft: the peer does not get it, under whatever name.
#[test]
fn only_the_file_that_is_read_is_copied() {
    let house = House::new("elsewhere");
    let elsewhere = SetupArgs { out: Some("./draft.toml".into()), ..flags() };
    let copied = SetupArgs { copy: true, out: elsewhere.out.clone(), ..flags() };
    let fail = house.set_up(&copied, &mut Script::default(), false).expect_err("another file");
    assert!(fail.code == crate::exit::USAGE && fail.text.contains("/etc/dre/sync.toml"), "{fail:?}");
    assert!(!house.out().exists());
    // Nor is a person asked whether it shall be.
    let mut person = Script::of(&["", "-", "-", "none", "-", "y"]);
    house.set_up(&elsewhere, &mut person, true).expect("written");
    let said = &person.said;
    assert!(said.contains("reads /etc/dre/sync.toml, on both nodes") && !said.contains("scp"), "{said}");
    // A drop-in goes by hand.
    fs::create_dir(house.0.join("sync.toml.d")).expect("made");
    fs::write(house.0.join("sync.toml.d/10.toml"), "").expect("written");
    let erlbf = wanted(&format!("erlbf={}", house.0.join("erlbf").display())).expect("a set");
    let more = SetupArgs { sets: vec![erlbf], ..flags() };
    let mut nobody = Script::default();
    house.set_up(&more, &mut nobody, false).expect("written");
    assert!(
        nobody.said.contains("are not copied: ") && nobody.said.contains("sync.toml.d/10.toml"),
        "{}",
        nobody.said
    );
}

#[test]
fn what_a_person_wrote_is_kept_and_added_to() {
    let house = House::new("added");
    let own = format!(
        "# mine\n[transfer]\nencrypt = true # yes\n[set.own]\nroot = \"{}\"",
        house.0.join("re").display()
    );
    fs::write(house.out(), &own).expect("written");
    fs::set_permissions(house.out(), fs::Permissions::from_mode(0o640)).expect("mode");
    let erlbf = format!("erlbf={}", house.0.join("erlbf").display());
    let args = SetupArgs { sets: vec![wanted(&erlbf).expect("a set")], ..flags() };
    house.set_up(&args, &mut Script::default(), false).expect("added");
    assert!(house.text().starts_with(&format!("{own}\n\n[set.erlbf]\nroot = ")), "{}", house.text());
    assert_eq!(fs::metadata(house.out()).expect("there").permissions().mode() & 0o777, 0o640);
    // The same name again is not replaced.
    let refused = house.set_up(&args, &mut Script::default(), false).expect_err("there already");
    assert!(refused.code == crate::exit::USAGE && refused.text.contains("set erlbf already"), "{refused:?}");
}

#[test]
fn what_would_not_hold_is_not_written() {
    let house = House::new("refused");
    let named = |sets: &[String], apply: &str| SetupArgs {
        sets: sets.iter().map(|set| wanted(set).expect("a set")).collect(),
        apply: Some(apply.into()),
        ..flags()
    };
    let re = format!("re={}", house.0.join("re").display());
    let inner = format!("de={}", house.0.join("re/de").display());
    let gone = format!("re={}", house.0.join("gone").display());
    let file = format!("re={}", house.0.join("re/a.xml").display());
    for (args, code, words) in [
        (named(&["re=/etc".into()], "true"), EXIT_CONFIG, "directory of the system"),
        (named(&[re.clone(), inner], "true"), EXIT_CONFIG, "lies in that of set re"),
        (named(std::slice::from_ref(&re), "./reload"), EXIT_CONFIG, "\"./reload\""),
        (named(&["Re \"x=/opt".into()], "true"), EXIT_CONFIG, "no set's name"),
        (named(&[re.clone(), re.clone()], "true"), crate::exit::USAGE, "a set re already"),
        (named(std::slice::from_ref(&re), "'open"), crate::exit::USAGE, "a quote is not closed"),
        (named(&[gone], "true"), crate::exit::REFUSED, "--mkdir"),
        (named(&[file], "true"), crate::exit::USAGE, "no directory"),
        (named(&["re=rules".into()], "true"), crate::exit::USAGE, "no absolute path"),
    ] {
        let fail = house.set_up(&args, &mut Script::default(), false).expect_err(words);
        assert!(fail.code == code && fail.text.contains(words), "{words:?}: {fail:?}");
        assert!(!house.out().exists(), "{words}");
    }
    // A person who says no has nothing written; one whose file does not hold is told before any question.
    let mut person = Script::of(&["", "n"]);
    let fail = house.set_up(&named(&[re], "true"), &mut person, true).expect_err("no");
    assert!(!house.out().exists() && fail.text == "nothing was written", "{fail:?}");
    fs::write(house.out(), "[set.x]\n").expect("written");
    let fail = house.set_up(&flags(), &mut Script::default(), true).expect_err("does not hold");
    assert!(fail.code == EXIT_CONFIG && fail.text.contains("set x has no root"), "{fail:?}");
}

#[test]
fn a_command_line_is_split_as_a_shell_would() {
    let owned = |list: &[&str]| Ok(list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
    assert_eq!(words(" a  b "), owned(&["a", "b"]));
    assert_eq!(words("a 'b c' \"d \\\" e\" f\\ g ''"), owned(&["a", "b c", "d \" e", "f g", ""]));
    assert_eq!(words("x='1 2'"), owned(&["x=1 2"]));
    for bad in ["", " ", "'a", "\"a", "a\\"] {
        assert!(words(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn any_string_is_written_as_toml_reads_it() {
    for text in ["plain", "a\"b\\c", "tab\there\u{1b}", "ünï", ""] {
        let table: toml::Table = format!("x = {}", quoted(text)).parse().expect("TOML");
        assert_eq!(table["x"].as_str(), Some(text));
    }
}

#[test]
fn the_peer_is_reached_over_its_link_address() {
    let pair = pair();
    let line = |n: usize, asks| scp(Path::new("/etc/dre/sync.toml"), &pair.addresses[n], asks).join(" ");
    assert_eq!(
        line(0, true),
        "scp -p -o ConnectTimeout=5 /etc/dre/sync.toml root@172.16.11.55:/etc/dre/sync.toml"
    );
    assert!(
        line(1, false).ends_with("-o BatchMode=yes /etc/dre/sync.toml root@[2001:db8::2]:/etc/dre/sync.toml")
    );
}

#[test]
fn a_tree_is_looked_at_without_following_links() {
    let house = House::new("look");
    let root = house.0.join("re");
    std::os::unix::fs::symlink("/", root.join("everything")).expect("linked");
    fs::create_dir(root.join(".dre-stage")).expect("made");
    fs::write(root.join(".dre-stage/x"), "x").expect("written");
    let _socket = std::os::unix::net::UnixListener::bind(root.join("s")).expect("a socket");
    let seen = look(&root, Instant::now() + LOOK_FOR);
    assert_eq!((seen.files, seen.bytes, seen.special, seen.more), (3, 10, 1, false));
    assert!(seen.mounted.is_empty() && !seen.read_only);
    assert!(look(Path::new("/"), Instant::now()).more, "nobody waits for all of it");
    let said = Seen { read_only: true, mounted: vec!["/opt/re/x".into()], ..Seen::default() }
        .text(&wanted("re=/opt/re").expect("a set"));
    assert!(said.contains("read-only") && said.contains("/opt/re/x"), "{said}");
}
