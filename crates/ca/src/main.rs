//! `mintage-ca`: makes a certificate authority once (`init`), runs it (`serve`), makes it safe again out of a backup
//! (`restore`), renews the list of what its root revoked (`renew-root-crl`), and checks a configuration (`validate`).

mod cli;
mod printed;
mod renewing;
mod restoring;

use std::{path::Path, process::ExitCode};

use clap::Parser;
use mintage_ca::{Ca, Config, Deps, Hangups, InitOptions, check_init, find_protection, init, logging};
use serde::Serialize;

use crate::{
    cli::{Cli, Init, Printing, Serve, Source, Validate, Verb},
    printed::{notice, object, shell_word},
};

/// Batches of small values are made on one thread and dropped on another, which the system's allocator is slow at: see
/// the load bench.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code of wrong usage and of whatever fails on this machine.
const LOCAL: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is a mistake of the caller.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { LOCAL } else { 0 });
        }
    };
    logging::start();
    let outcome = match cli.verb {
        Verb::Init(options) => run_init(options),
        Verb::Serve(options) => run_serve(options),
        Verb::Restore(options) => restoring::run(options),
        Verb::RenewRootCrl(options) => renewing::run(options),
        Verb::Validate(options) => run_validate(options),
        Verb::Version(printing) => run_version(&printing),
        Verb::Completions { shell } => printed::write(&cli::completions(shell)).map_err(Into::into).map(|()| 0),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            notice(&format!("mintage-ca: {}", reason(&*error)));
            ExitCode::from(LOCAL)
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

#[derive(Serialize)]
struct Initialised {
    dry_run: bool,
    trust_domain: String,
    replica: String,
    data_dir: String,
    keys: &'static str,
    #[serde(flatten)]
    made: Option<New>,
}

/// What nobody can know before it is made.
#[derive(Serialize)]
struct New {
    root_sha256: String,
    ledger_origin: String,
    ledger_vkey: String,
}

impl Initialised {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("trust domain", self.trust_domain.clone())];
        match &self.made {
            Some(new) => lines.extend([
                ("root", format!("sha256:{}", new.root_sha256)),
                ("ledger origin", new.ledger_origin.clone()),
                ("ledger vkey", new.ledger_vkey.clone()),
            ]),
            None => lines.extend([
                (
                    "would make",
                    "root, issuing intermediate, ledger and revocation key".to_owned(),
                ),
                ("in", self.data_dir.clone()),
                ("replica", self.replica.clone()),
            ]),
        }
        lines.push(("keys", self.keys.to_owned()));
        lines
    }
}

fn run_init(options: Init) -> Result<u8, Failure> {
    let wanted = InitOptions {
        protection: find_protection(options.passphrase_file.as_deref(), &options.trust_domain)?,
        trust_domain: options.trust_domain,
        data_dir: options.data_dir,
        replica: options.replica,
    };
    let made = match options.dry_run {
        true => check_init(&wanted, &Deps::system()).map(|()| None)?,
        false => Some(init(&wanted, &Deps::system())?),
    };
    let told = Initialised {
        dry_run: options.dry_run,
        trust_domain: wanted.trust_domain.to_string(),
        replica: wanted.replica.to_string(),
        data_dir: wanted.data_dir.display().to_string(),
        keys: wanted.keys(),
        made: made.map(|made| New {
            root_sha256: made.root_hash.to_string(),
            ledger_origin: made.origin,
            ledger_vkey: made.vkey,
        }),
    };
    object(options.printing.output, &told, &told.lines())?;
    match options.dry_run {
        true => notice("nothing was made; the same command without --dry-run makes it"),
        false => notice(&format!(
            "next: {}",
            serve_command(&wanted.data_dir, options.passphrase_file.as_deref())
        )),
    }
    Ok(0)
}

/// The command that serves what was made, as a shell takes it.
fn serve_command(data_dir: &Path, passphrase_file: Option<&Path>) -> String {
    let word = |path: &Path| shell_word(&path.display().to_string());
    let serve = format!("mintage-ca serve --data-dir {}", word(data_dir));
    match passphrase_file {
        Some(file) => format!("{serve} --passphrase-file {}", word(file)),
        None => serve,
    }
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

fn run_version(printing: &Printing) -> Result<u8, Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
    };
    object(
        printing.output,
        &version,
        &[("", format!("mintage-ca {}", version.version))],
    )?;
    Ok(0)
}

fn load(source: &Source) -> Result<Config, Failure> {
    match (&source.config, &source.data_dir) {
        (Some(file), _) => Ok(Config::load(file)?),
        (None, Some(dir)) => Ok(Config::for_data_dir(dir)),
        (None, None) => Err("either --config or --data-dir is needed".into()),
    }
}

fn run_serve(options: Serve) -> Result<u8, Failure> {
    let read = load(&options.source)?;
    let mut config = read
        .clone()
        .with_passphrase_file(options.passphrase_file)
        .with_metrics(options.metrics);
    if let Some(listen) = options.listen {
        config = config.listening_on(listen);
    }
    let file = options.source.config;
    // The ledger keeps two descriptors for each sealed segment: the hard limit is for those, and for more connections.
    let _ = mintage_sys::process::raise_file_descriptors();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(async move {
        let hangups = Hangups::receive()?;
        let ca = Ca::start(config, Deps::system()).await?;
        ca.run_until_signal(hangups, file.as_deref().map(|file| (file, read)))
            .await
    })?;
    Ok(code)
}

#[derive(Serialize)]
struct Valid {
    valid: bool,
    data_dir: String,
}

fn run_validate(options: Validate) -> Result<u8, Failure> {
    let config = load(&options.source)?.with_passphrase_file(options.passphrase_file);
    mintage_ca::check_data_dir(&config)?;
    let valid = Valid {
        valid: true,
        data_dir: config.data_dir().display().to_string(),
    };
    object(
        options.printing.output,
        &valid,
        &[("", format!("ok: {}", valid.data_dir))],
    )?;
    Ok(0)
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
