//! The command line. Man pages and completions are made from these structs.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};

/// See and steer this pair of servers.
///
/// Without a command it shows the status.
#[derive(Debug, Parser)]
#[command(name = "drectl", version, after_help = EXAMPLES, after_long_help = LONG, max_term_width = 100)]
pub struct Cli {
    /// The control socket of dre.service
    #[arg(long, global = true, env = "DRE_CONTROL", value_name = "PATH", value_hint = ValueHint::FilePath)]
    #[arg(default_value = "/run/dre/control", hide_env_values = true)]
    pub socket: PathBuf,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  drectl                        who is active, is the service given, what is wrong
  drectl status --watch         the same, live
  drectl switchover             hand the role to the other node, print the gap
  drectl check                  is this node ready for its part?
  drectl config check           would the daemon accept /etc/dre/dre.toml?";

const LONG: &str = "\
Examples:
  drectl                        who is active, is the service given, what is wrong
  drectl status --watch         the same, live
  drectl switchover             hand the role to the other node, print the gap
  drectl check                  is this node ready for its part?
  drectl config check           would the daemon accept /etc/dre/dre.toml?

Exit status:
  0   done
  64  usage
  69  dre.service is not running or does not answer
  75  refused for now; the message says why and what to do
  78  the configuration does not hold";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Who is active, is the service given, what is wrong
    #[command(
        after_help = "Examples:\n  drectl status\n  drectl status --watch\n  drectl status --json | jq .role"
    )]
    Status(StatusArgs),
    /// Hand the role over, wait for it, print the gap the nodes measured
    ///
    /// Refused, with the reason, when the other node is not ready; nothing is changed then.
    #[command(
        after_help = "Examples:\n  drectl switchover\n  drectl switchover --to hadev2\n  drectl switchover --force"
    )]
    Switchover(SwitchoverArgs),
    /// The right to be active, by hand (dre-lease.service runs these)
    #[command(subcommand)]
    Lease(Lease),
    /// The configuration as the daemon would read it
    #[command(subcommand)]
    Config(Config),
    /// The key that authenticates heartbeats
    #[command(subcommand)]
    Key(Key),
    /// Is this node ready for its part? Findings, each with its remedy
    #[command(
        after_help = "Run it as root: the key, the firewall and BPF cannot be looked at otherwise.\n\n\
                            Examples:\n  drectl check\n  drectl check --json | jq '.[] | select(.level != \"ok\")'"
    )]
    Check(Json),
    /// The versions of drectl and of the running daemon
    Version(Json),
    /// Print the completions for a shell
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man {
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

#[derive(Debug, Default, Args)]
pub struct StatusArgs {
    /// One line of JSON; its fields are stable
    #[arg(long)]
    pub json: bool,
    /// Again after every change, until interrupted
    #[arg(long, short)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// The node that shall be active; default: the one that is not
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    /// Also when the configurations of the nodes differ, and what else is safe to override
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Args)]
pub struct Wait {
    /// How long to wait for it to be done
    #[arg(long, value_name = "SECONDS", default_value_t = 15.0, value_parser = seconds)]
    pub timeout: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err("a number of seconds between 0 and 86400, e.g. 15 or 2.5".into()),
    }
}

#[derive(Debug, Args)]
pub struct TakeArgs {
    /// Also when the configurations of the nodes differ
    #[arg(long)]
    pub force: bool,
    /// Where the unit leaves the term for the role's services
    #[arg(long, hide = true, value_name = "FILE")]
    pub term_file: Option<PathBuf>,
    #[command(flatten)]
    pub lease: LeaseArgs,
}

#[derive(Debug, Args)]
pub struct LeaseArgs {
    /// Asked by dre-lease.service
    #[arg(long, hide = true)]
    pub unit: bool,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Subcommand)]
pub enum Lease {
    /// Ask for the lease; done when this node is active
    #[command(after_help = "Examples:\n  drectl lease take\n  drectl lease take --timeout 60")]
    Take(TakeArgs),
    /// Give the lease back and stay out of it; done when this node is standby
    #[command(after_help = "This node is then held back until somebody says \"drectl lease take\" here.")]
    Release(LeaseArgs),
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Exactly the daemon's own validation, and what this host says to it
    #[command(after_help = "Examples:\n  drectl config check\n  drectl config check ./dre.toml.new")]
    Check(FileArgs),
    /// The effective settings, with what is derived from them
    #[command(after_help = "Examples:\n  drectl config show\n  drectl config show --json | jq .derived")]
    Show(FileArgs),
}

#[derive(Debug, Args)]
pub struct FileArgs {
    /// The file; default: the one the daemon reads
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key from 32 random bytes, readable by its owner alone; it is never shown
    #[command(after_help = "Examples:\n  drectl key new\n  drectl key new --out ./key")]
    New {
        /// Where to write it
        #[arg(long, value_name = "FILE", default_value = "/etc/dre/key", value_hint = ValueHint::FilePath)]
        out: PathBuf,
        /// Replace the key that is there; the nodes do not hear each other until both have the new one
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub struct Json {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_socket_may_be_named_before_and_after_the_command() {
        for line in [["drectl", "--socket", "/x", "status"], ["drectl", "status", "--socket", "/x"]] {
            let cli = Cli::try_parse_from(line).expect("parses");
            assert_eq!(cli.socket, PathBuf::from("/x"));
        }
    }

    #[test]
    fn a_wait_is_a_positive_number_of_seconds() {
        for bad in ["0", "-1", "x", "nan", "inf"] {
            assert!(Cli::try_parse_from(["drectl", "lease", "take", "--timeout", bad]).is_err(), "{bad}");
        }
    }
}
