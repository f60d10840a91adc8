//! What the parts of a group are called. Group `dre` has the plain names, every other one those of the template units.
//!
//! | | `dre` | `mysql` |
//! |---|---|---|
//! | units | `dre.service`, `dre-active.target` | `dre@mysql.service`, `dre-active@mysql.target` |
//! | configuration | `/etc/dre/dre.toml` | `/etc/dre/mysql.toml` |
//! | sockets, state | `/run/dre`, `/var/lib/dre` | `/run/dre-mysql`, `/var/lib/dre-mysql` |

/// The group with the plain names.
pub const PLAIN: &str = "dre";

/// Words that stand behind `dre-` already, in names of directories, units or files: a group of that name would share them.
pub const TAKEN: [&str; 13] = [
    "active",
    "demo",
    "donor",
    "elect",
    "generator",
    "key",
    "lease",
    "rules",
    "standby",
    "sync",
    "sync-rsync",
    "tipc",
    "vip",
];

/// A unit without its suffix: `unit("dre-vip", "mysql")` is `dre-vip@mysql`.
pub fn unit(base: &str, group: &str) -> String {
    if group == PLAIN { base.to_owned() } else { format!("{base}@{group}") }
}

/// The group's directory below `/run` and `/var/lib`.
pub fn directory(group: &str) -> String {
    if group == PLAIN { group.to_owned() } else { format!("dre-{group}") }
}

/// Where the configuration is, as a person is told it.
pub fn file(group: &str) -> String {
    format!("/etc/dre/{group}.toml")
}

/// The shipped file that shows how its own is written.
pub fn example(group: &str) -> &'static str {
    if group == PLAIN { "dre.toml" } else { "mysql.toml" }
}

/// A command line of drectl for a group. Without -g it would go to group dre where several are configured; an old daemon does not
/// say which it is.
pub fn command(group: &str, words: &str) -> String {
    match group {
        "" | PLAIN => format!("drectl {words}"),
        other => format!("drectl -g {other} {words}"),
    }
}

/// Why no group can be called that; `None`: one can.
pub fn fault(name: &str) -> Option<&'static str> {
    let mut letters = name.chars();
    let begins = letters.next().is_some_and(|c| c.is_ascii_lowercase());
    if !begins || !letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_') {
        return Some(
            "it is part of units' and directories' names: a to z, 0 to 9, - and _, beginning with a letter",
        );
    }
    TAKEN.contains(&name).then_some("parts of dre itself are called that")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_group_has_the_plain_names() {
        assert_eq!([unit("dre", "dre"), unit("dre-vip", "dre"), directory("dre")], ["dre", "dre-vip", "dre"]);
        assert_eq!(
            [unit("dre", "mysql"), unit("dre-vip", "mysql"), directory("mysql"), file("mysql")],
            ["dre@mysql", "dre-vip@mysql", "dre-mysql", "/etc/dre/mysql.toml"]
        );
    }

    #[test]
    fn the_names_that_are_taken_stand_in_the_readme() {
        let names: Vec<String> = TAKEN.iter().map(|name| format!("`{name}`")).collect();
        let (last, all) = names.split_last().expect("some");
        let listed = format!("{} and {last}", all.join(", "));
        let readme = include_str!("../../README.md").replace('\n', " ");
        assert!(readme.contains(&listed), "{listed}");
    }

    #[test]
    fn a_command_goes_to_the_group_that_it_is_told_of() {
        for (group, line) in
            [("dre", "drectl lease take"), ("", "drectl lease take"), ("mysql", "drectl -g mysql lease take")]
        {
            assert_eq!(command(group, "lease take"), line);
        }
    }

    #[test]
    fn a_name_that_is_taken_or_no_part_of_a_units_name_is_no_groups() {
        for good in ["dre", "mysql", "db-2", "a_b"] {
            assert_eq!(fault(good), None, "{good}");
        }
        for bad in [
            "", "2db", "-x", "MySQL", "my sql", "my.sql", "my/sql", "my@sql", "sync", "vip", "lease",
            "rules", "donor",
        ] {
            assert!(fault(bad).is_some(), "{bad}");
        }
    }
}
