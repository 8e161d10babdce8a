//! The command line: one noun a file, global options, and which verb needs what.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use mintage_attest::join_token::TOKEN_PREFIX;
use serde::Serialize;

use crate::{
    agent, audit, bundle, ca, cert,
    client::Ca,
    dev, entry, exec, explain,
    failure::Failure,
    output::{Format, Output, write},
    revocation, revoke, svid, token, witness,
};

/// Where a CA keeps everything unless told otherwise.
const DATA_DIR_DEFAULT: &str = "/var/lib/mintage-ca";
/// The variable that names the usual admin socket.
const SOCKET_VARIABLE: &str = "MINTAGE_ADMIN_SOCKET";
/// The admin socket in a data directory.
const SOCKET_NAME: &str = "admin.sock";

/// Runs and audits a Mintage workload-identity CA.
#[derive(Parser, Debug)]
#[command(
    name = "mintage",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
#[command(after_help = "Exit codes: 0 done, 1 wrong usage or something on this machine, 2 the CA, 3 the answer is no.")]
pub(crate) struct Cli {
    /// The CA's admin socket [env: MINTAGE_ADMIN_SOCKET] [default: admin.sock in the data directory]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Global options")]
    socket: Option<PathBuf>,
    /// The CA's data directory [default: /var/lib/mintage-ca]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    data_dir: Option<PathBuf>,
    /// How data is printed: table, json or jsonl [default: table]
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        env = "MINTAGE_FORMAT",
        value_enum,
        default_value = "table"
    )]
    #[arg(
        hide_possible_values = true,
        hide_default_value = true,
        help_heading = "Global options"
    )]
    output: Format,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand, Debug)]
enum Noun {
    /// Join tokens: how a node becomes an agent
    #[command(subcommand)]
    Token(token::Verb),
    /// Registration entries: which workload may hold which identity
    #[command(subcommand)]
    Entry(entry::Verb),
    /// Agents: the nodes that have joined
    #[command(subcommand)]
    Agent(agent::Verb),
    /// Certificates that are valid now
    #[command(subcommand)]
    Cert(cert::Verb),
    /// Revokes certificates by serial, identity, agent, entry or key
    Revoke(revoke::Revoke),
    /// Revocations that stand, and how far they have come
    #[command(subcommand)]
    Revocation(revocation::Verb),
    /// The ledger: search, single records, proofs, offline verification
    #[command(subcommand)]
    Audit(audit::Verb),
    /// The trust bundle
    #[command(subcommand)]
    Bundle(bundle::Verb),
    /// The CA itself
    #[command(subcommand)]
    Ca(ca::Verb),
    /// A workload's own SVIDs, from the agent of this node; --socket is the agent's here
    #[command(subcommand)]
    Svid(svid::Verb),
    /// Runs a program with an identity of its user in files, which it follows; --socket is the agent's here
    Exec(exec::Exec),
    /// What a process of this node shows to the agent, and why it gets which identity or none; --socket is the agent's here
    Explain(explain::Explain),
    /// A witness, which cosigns checkpoints of other machines' logs
    #[command(subcommand)]
    Witness(witness::Verb),
    /// A CA and an agent in one process on this machine, with a tour of what they do
    Dev(dev::Dev),
    /// Prints the version
    Version,
    /// Prints a completion script for a shell, whatever -o says
    Completions {
        /// The shell.
        shell: Shells,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shells {
    Bash,
    Zsh,
    Fish,
}

/// What every verb works with.
#[derive(Debug)]
pub(crate) struct Context {
    /// How to print.
    pub(crate) output: Output,
    socket: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    /// The socket out of the environment.
    usual_socket: Option<PathBuf>,
}

impl Context {
    /// A connection to the CA.
    ///
    /// # Errors
    /// Why nobody answers.
    pub(crate) async fn ca(&self) -> Result<Ca, Failure> {
        Ca::connect(&self.socket()).await
    }

    /// The admin socket: what stands on the command line counts more than the environment.
    fn socket(&self) -> PathBuf {
        match (&self.socket, &self.data_dir, &self.usual_socket) {
            (Some(socket), _, _) | (None, None, Some(socket)) => socket.clone(),
            _ => self.data_dir().join(SOCKET_NAME),
        }
    }

    /// The socket that the command line names.
    pub(crate) fn given_socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// The CA's data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| PathBuf::from(DATA_DIR_DEFAULT))
    }
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

impl Cli {
    /// Whether another program is run, which is to find umask and limits as they were given to this one.
    pub(crate) fn runs_another(&self) -> bool {
        matches!(self.noun, Noun::Exec(_))
    }

    /// Does what was asked; the exit code.
    ///
    /// # Errors
    /// Why it could not be done, or that the answer is no.
    pub(crate) fn run(self) -> Result<u8, Failure> {
        let output = Output::new(self.output);
        if !matches!(self.noun, Noun::Bundle(_)) {
            output.general()?;
        }
        let usual_socket = std::env::var_os(SOCKET_VARIABLE)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let context = Context {
            output,
            socket: self.socket,
            data_dir: self.data_dir,
            usual_socket,
        };
        let done = match self.noun {
            Noun::Exec(exec) => return one_thread()?.block_on(exec::run(&context, &exec)),
            Noun::Dev(dev) => several_threads()?.block_on(dev::run(&context, dev)),
            Noun::Version => {
                let version = Version {
                    version: env!("CARGO_PKG_VERSION"),
                };
                output.object(&version, || format!("mintage {}\n", version.version))
            }
            Noun::Completions { shell } => complete(shell),
            noun => one_thread()?.block_on(noun.call(&context)),
        };
        done.map(|()| 0)
    }
}

impl Noun {
    async fn call(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Token(verb) => token::run(context, verb).await,
            Self::Entry(verb) => entry::run(context, verb).await,
            Self::Agent(verb) => agent::run(context, verb).await,
            Self::Cert(verb) => cert::run(context, verb).await,
            Self::Revoke(revoke) => revoke::run(context, &revoke).await,
            Self::Revocation(verb) => revocation::run(context, verb).await,
            Self::Audit(verb) => audit::run(context, verb).await,
            Self::Bundle(verb) => bundle::run(context, verb).await,
            Self::Ca(verb) => ca::run(context, verb).await,
            Self::Svid(verb) => svid::run(context, verb).await,
            Self::Explain(explain) => explain::run(context, &explain).await,
            Self::Witness(verb) => witness::run(context, verb).await,
            // These were done before.
            Self::Dev(_) | Self::Exec(_) | Self::Version | Self::Completions { .. } => Ok(()),
        }
    }
}

fn one_thread() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::local(format!("the system gives no event queue: {error}")))
}

fn several_threads() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Failure::local(format!("the system gives no threads: {error}")))
}

fn complete(shell: Shells) -> Result<(), Failure> {
    let shell = match shell {
        Shells::Bash => Shell::Bash,
        Shells::Zsh => Shell::Zsh,
        Shells::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mintage", &mut script);
    write(&String::from_utf8_lossy(&script))
}

/// Finds a join token among the arguments, where every user of the machine could read it. It is never repeated.
pub(crate) fn secret_in_arguments(mut arguments: impl Iterator<Item = OsString>) -> Option<Failure> {
    let found = arguments.any(|argument| argument.to_string_lossy().contains(TOKEN_PREFIX));
    found.then(|| {
        Failure::local(
            "a join token stands among the arguments, which every user of this machine can read: take it for lost \
             (mintage token list, then mintage token delete ID) and make a new one",
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, ErrorKind> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|error| error.kind())
    }

    fn context(line: &str) -> Context {
        let cli = parse(line).unwrap();
        let usual_socket = Some(PathBuf::from("/usual"));
        Context {
            output: Output::new(cli.output),
            socket: cli.socket,
            data_dir: cli.data_dir,
            usual_socket,
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_and_argument_has_help() {
        fn look(command: &clap::Command, path: &str) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} {}", argument.get_id());
            }
            for verb in command.get_subcommands() {
                let path = format!("{path} {}", verb.get_name());
                assert!(verb.get_about().is_some(), "{path}");
                look(verb, &path);
            }
        }
        look(&Cli::command(), "mintage");
    }

    #[test]
    fn global_options_stand_before_or_after_the_verb() {
        for line in [
            "mintage -o json agent list --data-dir /d",
            "mintage --data-dir /d agent list -o json",
        ] {
            let context = context(line);
            assert_eq!(context.output.format(), Format::Json);
            assert_eq!(context.socket(), PathBuf::from("/d/admin.sock"));
        }
        assert_eq!(context("mintage agent list --socket /s").socket(), PathBuf::from("/s"));
        assert_eq!(
            context("mintage --socket /s --data-dir /d agent list").socket(),
            PathBuf::from("/s")
        );
        assert_eq!(context("mintage agent list").socket(), PathBuf::from("/usual"));
    }

    #[test]
    fn wrong_usage_is_told_apart_from_help() {
        assert_eq!(parse("mintage --version").unwrap_err(), ErrorKind::DisplayVersion);
        for wrong in [
            "mintage agent list -o yaml",
            "mintage revoke",
            "mintage revoke --serial 4f --agent n1",
            "mintage revoke --serial xyz",
            "mintage revoke --agent n1 --reason because",
            "mintage entry create web",
            "mintage token create",
            "mintage token create --agent ../n1",
            "mintage bundle federate FILE",
            "mintage bundle federate --trust-domain Other.test FILE",
            "mintage bundle federate --trust-domain o.test --revocation maybe FILE",
            "mintage bundle federated remove",
            "mintage audit",
            "mintage unknown",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_join_token_among_the_arguments_is_refused_and_not_repeated() {
        let arguments = ["token", "delete", "mint1_c2VjcmV0"].map(OsString::from);
        let told = secret_in_arguments(arguments.into_iter()).unwrap().report();
        assert!(
            told.contains("take it for lost") && !told.contains("c2VjcmV0"),
            "{told}"
        );
        assert!(secret_in_arguments(["token", "list"].map(OsString::from).into_iter()).is_none());
    }
}
