//! The command line of `mintage-ca`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use mintage_ca::{LISTEN_DEFAULT, parse_metrics_address};
use mintage_identity::{ReplicaName, Serial, TrustDomain};

use crate::printed::Format;

/// The workload-identity certificate authority.
#[derive(Parser)]
#[command(
    name = "mintage-ca",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
#[command(after_help = "Exit codes: 0 done, 1 wrong usage or something on this machine, 75 start it again.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Makes root, issuing intermediate, ledger and revocation key in a new data directory.
    Init(Init),
    /// Runs the CA.
    Serve(Serve),
    /// Makes a data directory out of a backup: everything signed until now is revoked, and new keys take over.
    Restore(Restore),
    /// Signs the next list of certificates that the root has revoked; a CA that serves it takes it up at SIGHUP.
    RenewRootCrl(RenewRootCrl),
    /// Checks a configuration and the data directory it names, without touching either.
    Validate(Validate),
    /// Prints the version.
    Version(Printing),
    /// Prints a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shells,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Shells {
    Bash,
    Zsh,
    Fish,
}

#[derive(Args)]
pub(crate) struct Printing {
    /// How data is printed.
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        env = "MINTAGE_FORMAT",
        value_enum,
        default_value = "table"
    )]
    pub(crate) output: Format,
}

#[derive(Args)]
pub(crate) struct Init {
    /// The trust domain to speak for, such as example.org.
    #[arg(long)]
    pub(crate) trust_domain: TrustDomain,
    /// A directory that does not exist yet or is empty.
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    /// File with the passphrase that encrypts every key; the systemd credential "passphrase" is used without it.
    #[arg(long)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Name of this replica.
    #[arg(long, default_value = "ca-1")]
    pub(crate) replica: ReplicaName,
    /// Checks everything and says what would be made, but makes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Args)]
pub(crate) struct Restore {
    /// The copy of a data directory, taken while no CA served it; it is only read.
    #[arg(long, value_name = "BACKUP")]
    pub(crate) from: PathBuf,
    /// A directory that does not exist, is empty, or holds a restore that did not come to its end.
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    /// File with the passphrase of the keys; the systemd credential "passphrase" is used without it.
    #[arg(long)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The root's key file, when the backup does not hold it.
    #[arg(long, value_name = "FILE")]
    pub(crate) root_key: Option<PathBuf>,
    /// Checks everything and says what would be done, but makes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Args)]
pub(crate) struct RenewRootCrl {
    /// The data directory; a CA may be serving it.
    #[arg(long)]
    pub(crate) data_dir: PathBuf,
    /// File with the passphrase of the keys; the systemd credential "passphrase" is used without it.
    #[arg(long)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The root's key file, when the data directory does not hold it.
    #[arg(long, value_name = "FILE")]
    pub(crate) root_key: Option<PathBuf>,
    /// Serial of an intermediate's certificate that the root revokes, as `mintage ca status -o json` has it; may be repeated.
    #[arg(long, value_name = "SERIAL")]
    pub(crate) revoke: Vec<Serial>,
    /// Checks everything and says what would be signed, but changes nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Source {
    /// Configuration file (TOML).
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// Data directory, with everything else at its default.
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Validate {
    #[command(flatten)]
    pub(crate) source: Source,
    /// File with the passphrase of the keys.
    #[arg(long)]
    pub(crate) passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) printing: Printing,
}

#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) source: Source,
    #[arg(long, help = format!("Address for agents [default: {LISTEN_DEFAULT}]"))]
    pub(crate) listen: Option<SocketAddr>,
    /// File with the passphrase of the keys.
    #[arg(long)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Loopback address for /metrics, /live and /ready.
    #[arg(long, value_parser = parse_metrics_address)]
    pub(crate) metrics: Option<SocketAddr>,
}

/// The completion script for a shell.
pub(crate) fn completions(shell: Shells) -> String {
    use clap_complete::Shell;
    let shell = match shell {
        Shells::Bash => Shell::Bash,
        Shells::Zsh => Shell::Zsh,
        Shells::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mintage-ca", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_explained() {
        fn look(command: &clap::Command) {
            let path = command.get_name();
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} {}", argument.get_id());
            }
            for verb in command.get_subcommands() {
                assert!(verb.get_about().is_some(), "{}", verb.get_name());
                look(verb);
            }
        }
        Cli::command().debug_assert();
        look(&Cli::command());
    }
}
