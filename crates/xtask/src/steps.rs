//! `cargo xtask test`: everything a change must pass, as timed steps that all run, so one run names every fault.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::Failure;
use crate::peers::{self, Peer};
use crate::tally::Tally;

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Randomised campaigns run whole instead of a seeded tenth.
    full: bool,
    /// Outside programs that are missing are installed.
    install: bool,
    /// The seed of every randomised campaign; a failing run is repeated with it.
    seed: u64,
    /// Only tests whose name contains one of these run, and no other step.
    filters: Vec<String>,
}

/// One seed for all ordinary runs, so that they are comparable; `--seed` tries another.
const SEED: u64 = 20_251_123;
/// What is off by default.
const FEATURES: &str = "parquet,simd,upload";
/// Those of them that bring code of their own, and with it other crates.
const FEATURES_LARGE: &str = "parquet,upload";
/// Cases per property of a whole campaign; an ordinary run makes a tenth, which is also what plain `cargo test` makes.
const CASES_WHOLE: u32 = 2560;

/// Reads the words after `test`.
pub(crate) fn wish(words: &[&str]) -> Option<Wish> {
    let mut wish = Wish {
        seed: SEED,
        ..Wish::default()
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--full" => wish.full = true,
            "--install" => wish.install = true,
            "--seed" => wish.seed = words.next()?.parse().ok()?,
            option if option.starts_with('-') => return None,
            filter => wish.filters.push(filter.to_owned()),
        }
    }
    Some(wish)
}

/// The steps done so far.
struct Run<'a> {
    root: &'a Path,
    wish: &'a Wish,
    failed: Vec<&'static str>,
    times: Vec<(&'static str, f64)>,
}

/// Runs the steps; the last line printed is `N passed, N failed` over all test programs.
///
/// Returns whether every step passed; the report has then said everything that there is to say.
pub(crate) fn test(root: &Path, wish: &Wish) -> Result<bool, Failure> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut run = Run {
        root,
        wish,
        failed: Vec::new(),
        times: Vec::new(),
    };
    run.step("peers", |_| {
        if wish.install || peers::strict() {
            peers::install(&peers::missing()?)
        } else {
            Ok(())
        }
    });
    if wish.filters.is_empty() {
        run.step("fmt", |run| run.cargo(&["fmt", "--all", "--check"]));
        run.step("clippy", |run| {
            run.cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ])
        });
        run.step("bans", bans);
    }
    run.step("binaries", |run| {
        run.cargo(&["build", "--workspace", "--bins", "--locked"])
    });
    run.step("tests", |run| tests(run, &mut tally));
    if wish.filters.is_empty() {
        run.step("docs", |run| {
            let mut command = run.command("cargo", &["doc", "--no-deps", "--workspace", "--locked"]);
            command.env("RUSTDOCFLAGS", "-D warnings");
            succeed(command)
        });
    }
    if wish.filters.is_empty() {
        run.step("features", |run| features(run, &mut tally));
    }
    let missing = peers::missing()?;
    report(&mut run, &missing);
    for told in peers::done_without(&without(root))? {
        println!("done without: {told}");
    }
    println!("{:>8.1} s  all", start.elapsed().as_secs_f64());
    let failed = run.failed.join(", ");
    if !failed.is_empty() {
        println!("failed steps: {failed}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(failed.is_empty())
}

/// The table of times, and the peers that no test could use.
fn report(run: &mut Run<'_>, missing: &[Peer]) {
    println!();
    for (name, seconds) in &run.times {
        let mark = if run.failed.contains(name) { "  FAILED" } else { "" };
        println!("{seconds:>8.1} s  {name}{mark}");
    }
    for Peer { command, apt, why } in missing {
        println!("missing peer: {command} (apt package {apt}): {why}");
    }
    if peers::strict() && !missing.is_empty() && !run.failed.contains(&"peers") {
        run.failed.push("peers");
    }
}

impl Run<'_> {
    fn step(&mut self, name: &'static str, work: impl FnOnce(&Self) -> Result<(), Failure>) {
        println!("\n== {name}");
        let start = Instant::now();
        let done = work(self);
        let seconds = start.elapsed().as_secs_f64();
        match done {
            Ok(()) => println!("== {name}: ok, {seconds:.1} s"),
            Err(Failure(text)) => {
                println!("== {name}: FAILED, {seconds:.1} s: {text}");
                self.failed.push(name);
            }
        }
        self.times.push((name, seconds));
    }

    fn cargo(&self, arguments: &[&str]) -> Result<(), Failure> {
        succeed(self.command("cargo", arguments))
    }

    /// A command in the workspace's root, without what `cargo run` has told this program about itself: build scripts
    /// watch some of those variables and would compile their crates anew for each way of being started.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.root);
        for (name, _) in std::env::vars_os() {
            let own = name.to_string_lossy();
            if own.starts_with("CARGO_PKG_") || own.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        command
    }
}

fn succeed(mut command: Command) -> Result<(), Failure> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let doing = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let status = command.status().map_err(|error| Failure::new(&doing, error))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::new(doing, status))
    }
}

/// cargo-deny where it is installed; the layers test holds the same `deny.toml` against the resolved graph everywhere.
fn bans(run: &Run<'_>) -> Result<(), Failure> {
    let installed = Command::new("cargo-deny")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !installed.is_ok_and(|status| status.success()) {
        println!("cargo-deny is not installed: deny.toml is held by the layers test alone");
        return Ok(());
    }
    run.cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"])
}

/// Where the tests of one run write what they had to do without.
fn without(root: &Path) -> PathBuf {
    root.join("target/done-without.txt")
}

/// All tests of the workspace.
fn tests(run: &Run<'_>, tally: &mut Tally) -> Result<(), Failure> {
    peers::begin_done_without(&without(run.root))?;
    let mut arguments = vec!["test", "--workspace", "--locked", "--no-fail-fast"];
    if !run.wish.filters.is_empty() {
        arguments.push("--");
        arguments.extend(run.wish.filters.iter().map(String::as_str));
    }
    let mut command = run.command("cargo", &arguments);
    let cases = if run.wish.full { CASES_WHOLE } else { CASES_WHOLE / 10 };
    println!(
        "seed {} ({})",
        run.wish.seed,
        if run.wish.full {
            "whole campaigns"
        } else {
            "a tenth of each campaign"
        }
    );
    command
        .env("MINTAGE_SEED", run.wish.seed.to_string())
        .env("PROPTEST_RNG_SEED", run.wish.seed.to_string())
        .env("PROPTEST_CASES", cases.to_string())
        .env("MINTAGE_BIN_DIR", bin_dir()?)
        .env(peers::DONE_WITHOUT, without(run.root))
        .stdout(Stdio::piped());
    if run.wish.full {
        command.env("MINTAGE_FULL", "1");
    }
    counted(command, tally)
}

/// The features that are off by default: their code linted, and their tests with programs that have them. Features change what
/// other crates are built with, so that much of the build is made a second time; but for a whole run only what the two
/// programs and their tests need, always with the whole workspace, so that what is built alike is built once.
fn features(run: &Run<'_>, tally: &mut Tally) -> Result<(), Failure> {
    let features = if run.wish.full { FEATURES } else { FEATURES_LARGE };
    let with = ["--workspace", "--locked", "--features", features];
    let (programs, tests): (&[&str], &[&str]) = match run.wish.full {
        true => (&["--bins"], &["--lib", "--bins", "--test", "upload"]),
        false => (
            &["--bin", "mintage", "--bin", "mintage-ca"],
            &["--bin", "mintage", "--test", "upload"],
        ),
    };
    run.cargo(&[&["clippy", "--all-targets"], &with[..], &["--", "-D", "warnings"]].concat())?;
    run.cargo(&[&["build"], programs, &with[..]].concat())?;
    let mut command = run.command("cargo", &[&["test", "--no-fail-fast"], tests, &with[..]].concat());
    command.env("MINTAGE_BIN_DIR", bin_dir()?).stdout(Stdio::piped());
    counted(command, tally)
}

/// Runs tests, their output passed through as it comes and their closing lines counted.
fn counted(mut command: Command, tally: &mut Tally) -> Result<(), Failure> {
    let before = tally.passed;
    let mut child = command.spawn().map_err(|error| Failure::new("cargo test", error))?;
    let output = child
        .stdout
        .take()
        .ok_or_else(|| Failure::new("cargo test", "no output"))?;
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    // Bytes, not text: a test may print what is not UTF-8, and the run must not stop over it.
    while lines
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::new("cargo test", error))?
        > 0
    {
        tally.add_line(&String::from_utf8_lossy(&line));
        // A reader that went away changes nothing about the verdict.
        let _ = std::io::stdout().write_all(&line);
        line.clear();
    }
    let status = child.wait().map_err(|error| Failure::new("cargo test", error))?;
    if !status.success() {
        return Err(Failure::new("cargo test", status));
    }
    if tally.passed == before {
        return Err(Failure::new("cargo test", "no test ran"));
    }
    Ok(())
}

/// Where the binaries of this profile are: beside this program, which is one of them.
fn bin_dir() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|error| Failure::new("own path", error))?;
    own.parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| Failure::new("own path", own.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        let plain = Wish {
            seed: SEED,
            ..Wish::default()
        };
        assert_eq!(wish(&[]), Some(plain));
        let whole = Wish {
            full: true,
            install: true,
            seed: 7,
            filters: vec!["race".into()],
        };
        assert_eq!(wish(&["--full", "race", "--seed", "7", "--install"]), Some(whole));
    }

    #[test]
    fn an_unknown_option_is_refused() {
        assert_eq!(wish(&["--ful"]), None);
        assert_eq!(wish(&["--seed"]), None);
        assert_eq!(wish(&["--seed", "x"]), None);
    }
}
