//! `mintage`: operator verbs over the CA's admin socket, offline audit and policy checks, and `mintage dev`.

mod agent;
mod audit;
mod bundle;
mod ca;
mod cert;
mod cli;
mod client;
mod crl;
mod dev;
mod endpoint;
mod entry;
mod exec;
mod explain;
mod failure;
mod federation;
mod findings;
mod held;
mod holder;
mod interrupt;
mod ledger_row;
mod limits;
mod lines;
mod meaning;
mod output;
mod paging;
mod revocation;
mod revocation_export;
mod revoke;
mod revoke_from;
mod svid;
#[cfg(test)]
mod tests;
mod text;
mod token;
mod witness;

use std::process::ExitCode;

use clap::Parser;
use mintage_sys::process;

use crate::{cli::Cli, failure::Failure, output::notice};

fn main() -> ExitCode {
    // Before anything secret is made or read. Where the system refuses, this program is no worse off than without.
    let _ = process::set_not_dumpable();
    if let Some(failure) = cli::secret_in_arguments(std::env::args_os().skip(1)) {
        return ended(&failure);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is a mistake of the caller.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    if !cli.runs_another() {
        let _ = process::no_core_dumps();
        mintage_sys::dir::private_umask();
    }
    match cli.run() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => ended(&failure),
    }
}

fn ended(failure: &Failure) -> ExitCode {
    failure.report().lines().for_each(notice);
    ExitCode::from(failure.code())
}
