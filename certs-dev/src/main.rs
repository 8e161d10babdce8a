//! Generates a development root, an intermediate and leaves under `dev.test`. Names, dates and serials are the same on
//! every run; keys are fresh. See README.md.

mod args;
mod failure;
mod folder;
mod forge;

use std::process::ExitCode;

use clap::Parser;

use crate::{args::Args, failure::Failure};

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let wanted = args.checked()?;
    let files = forge::all(&wanted)?;
    folder::put(&wanted.out, &files, wanted.force)?;
    println!("{}", wanted.out.display());
    for file in &files {
        println!("  {}", file.name);
    }
    eprintln!("for trust domain dev.test only; the private keys lie in clear");
    Ok(())
}
