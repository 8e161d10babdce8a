//! The `mintage-agent` program: arguments, signals and exit codes around the library.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use mintage_agent::{
    Accounts, Agent, AgentError, AgentHandle, Config, Deps,
    doctor::{self, Report},
    logs,
};
use mintage_attest::join_token::{JoinToken, TOKEN_PREFIX};
use mintage_sys::{process, secret_file};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// Whatever is under way at SIGTERM ends within this time, or is cut off.
const DRAIN: Duration = Duration::from_secs(10);
/// Threads for the network. An agent waits more than it works, and what goes from thread to thread costs it more than what
/// it does; whatever takes long or waits for a disk has threads of its own.
const WORKERS: usize = 1;
/// Threads that wait for disks, look at processes and check what proxies are shown: 20 at most look and 4 check, and what is
/// written to disk has the others to itself.
const BLOCKING: usize = 40;
/// Stack of each: nothing here recurses.
const STACK_BYTES: usize = 512 * 1024;
const USAGE: u8 = 1;
/// Everything was looked at, and something is not right.
const NO: u8 = 3;
/// The systemd credential that stands in for `--join-token-file`.
const CREDENTIAL: &str = "join-token";

/// Joins this node to a Mintage CA and keeps its workloads' identities fresh.
#[derive(Parser)]
#[command(name = "mintage-agent", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the agent. The first start needs a join token, later ones do not.
    Run(Run),
    /// Check a configuration file without starting anything.
    Validate(Validate),
    /// Look at everything this node's agent needs, running or not, and say what to do: exit code 3 when something fails.
    Doctor(Doctor),
    /// Print the version.
    Version {
        /// How to print it.
        #[arg(short, long, env = "MINTAGE_FORMAT", value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shells,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Shells {
    Bash,
    Zsh,
    Fish,
}

#[derive(Args)]
struct Run {
    /// Directory of the agent's own key and state; stands in for data_dir of the configuration.
    #[arg(long, env = "MINTAGE_AGENT_DATA_DIR", required_unless_present = "config")]
    data_dir: Option<PathBuf>,
    /// Configuration file.
    #[arg(long, env = "MINTAGE_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// File with the join token, or - for standard input; the systemd credential "join-token" is used without it. The
    /// token itself is never an argument.
    #[arg(long, env = "MINTAGE_AGENT_JOIN_TOKEN_FILE")]
    join_token_file: Option<PathBuf>,
}

#[derive(Args)]
struct Validate {
    /// Configuration file.
    #[arg(long)]
    config: PathBuf,
    /// How to print the result.
    #[arg(short, long, env = "MINTAGE_FORMAT", value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Args)]
struct Doctor {
    /// Directory of the agent's own key and state; stands in for data_dir of the configuration.
    #[arg(long, env = "MINTAGE_AGENT_DATA_DIR", required_unless_present = "config")]
    data_dir: Option<PathBuf>,
    /// Configuration file.
    #[arg(long, env = "MINTAGE_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// How to print the findings.
    #[arg(short, long, env = "MINTAGE_FORMAT", value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Text for people.
    Table,
    /// One JSON object.
    Json,
    /// One JSON object on one line.
    Jsonl,
}

fn main() -> ExitCode {
    // Before anything secret is read. Where the system refuses, the agent is no worse off than without the call.
    let _ = process::set_not_dumpable().and_then(|()| process::no_core_dumps());
    mintage_sys::dir::private_umask();
    if let Some(at) = secret_in_arguments() {
        let _ = writeln!(
            std::io::stderr(),
            "mintage-agent: argument {at} looks like a join token. Arguments are seen by every user of this machine: \
             take the token for lost (mintage token delete), make a new one, and give it by --join-token-file FILE \
             or on standard input by --join-token-file -"
        );
        return ExitCode::from(USAGE);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is a mistake.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let done = match cli.verb {
        Verb::Run(run) => start(&run),
        Verb::Validate(validate) => check(&validate),
        Verb::Doctor(doctor) => return look(&doctor),
        Verb::Version { output } => {
            say(
                output,
                &format!("mintage-agent {}", env!("CARGO_PKG_VERSION")),
                json!({"version": env!("CARGO_PKG_VERSION")}),
            );
            Ok(())
        }
        Verb::Completions { shell } => {
            complete(shell);
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "mintage-agent: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// The position of an argument that carries what looks like a secret; it is never repeated.
fn secret_in_arguments() -> Option<usize> {
    /// Shortest run of token characters that no word or path would be.
    const SECRET_CHARS_MIN: usize = 64;
    let looks_secret = |argument: &str| {
        let value = argument.rsplit_once('=').map_or(argument, |(_, value)| value);
        let token_like = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+');
        argument.contains(TOKEN_PREFIX)
            || value.len() >= SECRET_CHARS_MIN && value.chars().all(token_like) && !Path::new(value).exists()
    };
    std::env::args_os()
        .skip(1)
        .position(|argument| looks_secret(&argument.to_string_lossy()))
        .map(|at| at + 1)
}

fn say(output: Output, text: &str, mut value: serde_json::Value) {
    value["schema_version"] = json!(1);
    let line = match output {
        Output::Table => text.to_owned(),
        Output::Json => serde_json::to_string_pretty(&value).unwrap_or_default(),
        Output::Jsonl => value.to_string(),
    };
    // A closed pipe is the reader's choice.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn complete(shell: Shells) {
    let shell = match shell {
        Shells::Bash => Shell::Bash,
        Shells::Zsh => Shell::Zsh,
        Shells::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mintage-agent", &mut script);
    // A closed pipe is the reader's choice.
    let _ = std::io::stdout().write_all(&script);
}

fn check(validate: &Validate) -> Result<(), AgentError> {
    // A file that leaves data_dir to the command line is as good.
    let accounts = Accounts::of_system();
    let config = Config::load(&validate.config, None, &accounts).or_else(|first| {
        Config::load(&validate.config, Some(Path::new("/nonexistent")), &accounts).map_err(|_| first)
    })?;
    let deliveries = config.deliveries().len();
    let text = format!("{}: valid, {deliveries} deliveries", validate.config.display());
    say(validate.output, &text, json!({"valid": true, "deliveries": deliveries}));
    Ok(())
}

fn look(doctor: &Doctor) -> ExitCode {
    let report = match load(doctor.config.as_deref(), doctor.data_dir.as_deref()) {
        Ok(config) => examined(&config),
        Err(error) => Report::failure(
            "config",
            error.to_string(),
            "mend it; mintage-agent validate --config FILE",
        ),
    };
    say(doctor.output, report.text().trim_end(), report.json());
    ExitCode::from(if report.failed() { NO } else { 0 })
}

fn examined(config: &Config) -> Report {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(doctor::examine(config, &Deps::system())),
        Err(error) => Report::failure("system", format!("gives no event queue: {error}"), "see its limits"),
    }
}

fn load(config: Option<&Path>, data_dir: Option<&Path>) -> Result<Config, AgentError> {
    match (config, data_dir) {
        (Some(file), data_dir) => Config::load(file, data_dir, &Accounts::of_system()),
        (None, Some(data_dir)) => Ok(Config::new(data_dir)),
        (None, None) => Err(AgentError::Config("give --config FILE or --data-dir DIR".to_owned())),
    }
}

impl Run {
    fn load(&self) -> Result<Config, AgentError> {
        load(self.config.as_deref(), self.data_dir.as_deref())
    }

    /// The named file, or what systemd handed over.
    fn secret(&self) -> Result<Option<(PathBuf, secret_file::Secret)>, AgentError> {
        let bytes_max = mintage_agent::limits::TOKEN_FILE_BYTES_MAX;
        if let Some(file) = &self.join_token_file {
            return Ok(Some((file.clone(), secret_file::read(file, bytes_max)?)));
        }
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        match directory.filter(|directory| directory.join(CREDENTIAL).exists()) {
            None => Ok(None),
            Some(directory) => {
                let bytes = secret_file::read_credential(&directory, CREDENTIAL, bytes_max)?;
                Ok(Some((directory.join(CREDENTIAL), bytes)))
            }
        }
    }

    fn token(&self) -> Result<Option<JoinToken>, AgentError> {
        let Some((file, bytes)) = self.secret()? else {
            return Ok(None);
        };
        let broken = |problem: String| AgentError::Config(format!("{}: {problem}", file.display()));
        let text = std::str::from_utf8(&bytes).map_err(|_| broken("is not text".to_owned()))?;
        JoinToken::parse(text)
            .map(Some)
            .map_err(|error| broken(error.to_string()))
    }
}

fn start(run: &Run) -> Result<(), AgentError> {
    logs::init();
    let config = run.load()?;
    let token = run.token()?;
    // More connections than the soft limit allows is what the hard limit is for; without it fewer callers fit.
    let _ = process::raise_file_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|error| AgentError::Config(format!("the runtime cannot be started: {error}")))?;
    let done = runtime.block_on(serve(run, config, token));
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn serve(run: &Run, config: Config, token: Option<JoinToken>) -> Result<(), AgentError> {
    let fail = |error: std::io::Error| AgentError::Config(format!("signals cannot be received: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(fail)?;
    let running = config.clone();
    let handle = Agent::start(config, token, Deps::system())?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), data_dir = %running.data_dir().display(), "started");
    loop {
        tokio::select! {
            ended = handle.stopped() => return ended.map_err(unshared),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(run, &running, &handle).await,
        }
    }
    tracing::info!("stopping");
    if !handle.shutdown(DRAIN).await {
        tracing::warn!(seconds = DRAIN.as_secs(), "not everything ended in time");
    }
    Ok(())
}

fn unshared(error: Arc<AgentError>) -> AgentError {
    Arc::try_unwrap(error).unwrap_or_else(|shared| AgentError::Stopped(shared.to_string(), shared.exit_code()))
}

/// Deliveries are taken from the file anew; what cannot be is named, each time until there was a restart.
async fn reload(run: &Run, running: &Config, handle: &AgentHandle) {
    if run.config.is_none() {
        return tracing::warn!("SIGHUP: there is no configuration file to read again");
    }
    let config = match run.load() {
        Ok(config) => config,
        Err(error) => return tracing::error!(%error, "not reloaded; the configuration in force stays"),
    };
    for key in config.fixed_changes(running) {
        tracing::warn!(key, "this key changed but is only read at the start; restart the agent");
    }
    if let Some(done) = handle.reload(config.deliveries().to_vec()).await {
        tracing::info!(
            added = done.added,
            changed = done.changed,
            removed = done.removed,
            "deliveries reloaded"
        );
    }
}
