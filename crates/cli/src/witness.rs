//! `mintage witness`: a witness for the logs of others, made once and run apart from any CA.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use mintage_ca::{
    Deps, Witness, WitnessOptions, logging, parse_metrics_address,
    witness::{check_init, init},
};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    cli::Context,
    failure::Failure,
    interrupt::Interrupt,
    output::{fields, notice},
};

/// What to do with a witness.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Makes a witness with a new key in a new directory, and prints the key that verifies it
    Init(Make),
    /// Cosigns checkpoints of the policy's logs (C2SP tlog-witness), until it is stopped
    Serve(Serve),
}

#[derive(Args, Debug)]
pub(crate) struct Make {
    /// A directory that does not exist yet or is empty.
    #[arg(long)]
    dir: PathBuf,
    /// Its name in every cosignature: where it is known by, without https://, such as witness.example/w1.
    #[arg(long)]
    name: String,
    /// File with the passphrase that encrypts the key; the systemd credential "passphrase" is used without it.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Checks everything and says what would be made, but makes nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// The directory that `witness init` made.
    #[arg(long)]
    dir: PathBuf,
    /// File with the logs that are cosigned (C2SP tlog-policy), read again on SIGHUP; the CA's own is `policy` in its `ledger`
    /// folder. A log that one of them names as the one after it is cosigned too.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Address for requests, by plain HTTP.
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// File with the passphrase that encrypts the key; the systemd credential "passphrase" is used without it.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Loopback address for Prometheus metrics.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_metrics_address)]
    metrics: Option<SocketAddr>,
}

#[derive(Serialize)]
struct Made {
    dry_run: bool,
    name: String,
    dir: String,
    vkey: Option<String>,
}

/// Makes or runs a witness.
///
/// # Errors
/// What is wrong with the directory, the policy or the address.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Init(options) => make(context, options),
        Verb::Serve(options) => serve(options).await,
    }
}

fn make(context: &Context, options: Make) -> Result<(), Failure> {
    let passphrase_file = options.passphrase_file.as_deref();
    let vkey = match options.dry_run {
        true => check_init(&options.dir, &options.name, passphrase_file).map(|()| None),
        false => {
            let made = init(&options.dir, &options.name, passphrase_file, &Deps::system());
            made.map(|key| Some(key.to_string()))
        }
    };
    let made = Made {
        dry_run: options.dry_run,
        name: options.name,
        dir: options.dir.display().to_string(),
        vkey: vkey.map_err(Failure::local)?,
    };
    context.output.object(&made, || {
        let label = if made.dry_run { "would make" } else { "made" };
        fields(&[
            (label, made.dir.clone()),
            ("name", made.name.clone()),
            ("vkey", made.vkey.clone().unwrap_or_default()),
        ])
    })?;
    if made.dry_run {
        notice("nothing was made; the same command without --dry-run makes it");
    }
    Ok(())
}

async fn serve(options: Serve) -> Result<(), Failure> {
    logging::start();
    let mut interrupt = Interrupt::listen()?;
    // Before the start: the signal's default ends a process.
    let unheard = |error| Failure::local(format!("signals cannot be heard: {error}"));
    let mut hangup = signal(SignalKind::hangup()).map_err(unheard)?;
    let options = WitnessOptions {
        dir: options.dir,
        policy: options.policy,
        listen: options.listen,
        metrics: options.metrics,
        passphrase_file: options.passphrase_file,
    };
    let witness = Witness::start(options, &Deps::system()).await.map_err(Failure::local)?;
    loop {
        tokio::select! {
            () = interrupt.came() => break,
            _ = hangup.recv() => witness.reload().await,
        }
    }
    witness.stop().await;
    Ok(())
}
