//! `cargo xtask test` and its kin: the project's own build steps, in Rust, so that a machine needs nothing else.

mod failure;
mod peers;
mod proto;
mod steps;
mod tally;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use failure::Failure;

const USAGE: &str = "\
cargo xtask <command>

  test [--full] [--install] [--seed N] [filter...]
        everything a change must pass: fmt, clippy, bans, binaries, all tests, docs; with filters only the tests whose
        names contain one. Randomised campaigns run a seeded tenth, or whole with --full, which also builds and
        tests the features that are off by default. --install installs missing outside programs (as root, through
        apt-get); CI=true in the environment does so too and fails when one stays missing. What tests had to do
        without, and so proved nothing, is named at the end.
  proto [--check]
        generate the checked-in code from proto/ (no protoc needed); --check only compares

Exit codes: 0 done, 1 a step failed or generated code drifted, 2 wrong usage.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["proto"] => proto::write(&workspace_root()),
        ["test", rest @ ..] => match steps::wish(rest) {
            None => return usage(),
            Some(wish) => match steps::test(&workspace_root(), &wish) {
                Ok(true) => Ok(()),
                Ok(false) => return ExitCode::FAILURE,
                Err(failure) => Err(failure),
            },
        },
        ["proto", "--check"] => proto::check(&workspace_root()),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprint!("{USAGE}");
    ExitCode::from(2)
}

/// The folder that holds the workspace's `Cargo.toml`.
///
/// `cargo run` names this crate's folder in the environment, so that a copied or moved tree works on itself; a binary
/// started by hand falls back to the folder it was built from.
fn workspace_root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let own = PathBuf::from(own);
    own.ancestors().nth(2).map_or_else(|| own.clone(), Path::to_path_buf)
}
