//! `mintage-ca`: makes a certificate authority once (`init`), runs it (`serve`), and checks a configuration (`validate`).

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use mintage_ca::{
    Ca, Config, Deps, InitOptions, LISTEN_DEFAULT, find_protection, init, logging, parse_metrics_address,
};
use mintage_identity::{ReplicaName, TrustDomain};

/// The workload-identity certificate authority.
#[derive(Parser)]
#[command(name = "mintage-ca", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Makes root, issuing intermediate, ledger and revocation key in a new data directory.
    Init(Init),
    /// Runs the CA.
    Serve(Serve),
    /// Checks a configuration and the data directory it names, without touching either.
    Validate(Validate),
}

#[derive(Args)]
struct Init {
    /// The trust domain to speak for, such as example.org.
    #[arg(long)]
    trust_domain: TrustDomain,
    /// A directory that does not exist yet or is empty.
    #[arg(long)]
    data_dir: PathBuf,
    /// File with the passphrase that encrypts every key; the systemd credential "passphrase" is used without it.
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
    /// Name of this replica.
    #[arg(long, default_value = "ca-1")]
    replica: ReplicaName,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// Configuration file (TOML).
    #[arg(long)]
    config: Option<PathBuf>,
    /// Data directory, with everything else at its default.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

#[derive(Args)]
struct Validate {
    #[command(flatten)]
    source: Source,
    /// File with the passphrase of the keys.
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    source: Source,
    #[arg(long, help = format!("Address for agents [default: {LISTEN_DEFAULT}]"))]
    listen: Option<SocketAddr>,
    /// File with the passphrase of the keys.
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
    /// Loopback address for /metrics, /live and /ready.
    #[arg(long, value_parser = parse_metrics_address)]
    metrics: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start();
    let outcome = match cli.verb {
        Verb::Init(options) => run_init(options),
        Verb::Serve(options) => run_serve(options),
        Verb::Validate(options) => run_validate(options),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mintage-ca: {}", reason(&*error));
            ExitCode::from(1)
        }
    }
}

/// An error and its causes on one line; a cause that the text before already tells is not told again.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut remedy = None;
    let mut source = error.source();
    while let Some(inner) = source {
        let cause = inner.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        remedy = inner.downcast_ref().and_then(remedy_for).or(remedy);
        source = inner.source();
    }
    match remedy {
        Some(remedy) => format!("{text}; {remedy}"),
        None => text,
    }
}

/// What to do about an answer of the system that says nothing about the file itself.
fn remedy_for(error: &std::io::Error) -> Option<&'static str> {
    match error.kind() {
        std::io::ErrorKind::ReadOnlyFilesystem => {
            Some("mount the data directory for writing: a CA that cannot record does not serve")
        }
        _ => None,
    }
}

type Failure = Box<dyn std::error::Error>;

fn run_init(options: Init) -> Result<ExitCode, Failure> {
    let protection = find_protection(options.passphrase_file.as_deref(), &options.trust_domain)?;
    let made = init(
        &InitOptions {
            trust_domain: options.trust_domain,
            data_dir: options.data_dir.clone(),
            protection,
            replica: options.replica,
        },
        &Deps::system(),
    )?;
    println!("trust domain   {}", made.trust_domain);
    println!("root           sha256:{}", made.root_hash);
    println!("ledger origin  {}", made.origin);
    println!("ledger vkey    {}", made.vkey);
    println!("keys           {}", made.keys);
    println!("next: mintage-ca serve --data-dir {}", options.data_dir.display());
    Ok(ExitCode::SUCCESS)
}

fn load(source: &Source) -> Result<Config, Failure> {
    match (&source.config, &source.data_dir) {
        (Some(file), _) => Ok(Config::load(file)?),
        (None, Some(dir)) => Ok(Config::for_data_dir(dir)),
        (None, None) => Err("either --config or --data-dir is needed".into()),
    }
}

fn run_serve(options: Serve) -> Result<ExitCode, Failure> {
    let mut config = load(&options.source)?
        .with_passphrase_file(options.passphrase_file)
        .with_metrics(options.metrics);
    if let Some(listen) = options.listen {
        config = config.listening_on(listen);
    }
    let file = options.source.config;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(async move {
        let ca = Ca::start(config, Deps::system()).await?;
        ca.run_until_signal(file.as_deref()).await
    })?;
    Ok(ExitCode::from(code))
}

fn run_validate(options: Validate) -> Result<ExitCode, Failure> {
    let config = load(&options.source)?.with_passphrase_file(options.passphrase_file);
    mintage_ca::check_data_dir(&config)?;
    println!("ok: {}", config.data_dir().display());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::other("no such thing");
        let listen = mintage_ca::CaError::Listen {
            address: ([127, 0, 0, 1], 1).into(),
            source: cause(),
        };
        assert_eq!(reason(&listen), "cannot listen on 127.0.0.1:1: no such thing");
        let ledger = mintage_ca::CaError::Ledger(mintage_ledger::LedgerError::Closed);
        assert_eq!(reason(&ledger), "ledger: the ledger is shut down");
        assert_eq!(reason(&std::io::Error::other(cause())), "no such thing");
    }

    #[test]
    fn a_read_only_disk_is_told_with_its_remedy() {
        let socket = mintage_ca::CaError::Socket {
            path: "/ca/admin.sock".into(),
            source: std::io::ErrorKind::ReadOnlyFilesystem.into(),
        };
        let text = reason(&socket);
        assert!(
            text.starts_with("cannot make the admin socket /ca/admin.sock: read-only"),
            "{text}"
        );
        assert!(text.ends_with("a CA that cannot record does not serve"), "{text}");
    }
}
