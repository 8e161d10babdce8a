//! `mintage-fuzz TARGET [FILE...]`: feeds files, or standard input, to one fuzz target. A panic is a finding. Any fuzzer that
//! drives a program can drive it; without arguments it names the targets, and `--seeds TARGET DIR` writes inputs to begin with.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::ExitCode,
};

use mintage_tests::fuzz::{TARGETS, Target, target_of};

/// Largest input: no parser here takes a larger one.
const INPUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [] => names(),
        ["--seeds", name, dir] => chosen(name).and_then(|target| seeds(target, Path::new(dir))),
        [name, files @ ..] => chosen(name).and_then(|target| feed(target, files)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "mintage-fuzz: {problem}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), String>;

fn chosen(name: &str) -> Result<&'static Target, String> {
    target_of(name).ok_or_else(|| format!("there is no target {name:?}; without arguments all are named"))
}

fn names() -> Outcome {
    let mut out = std::io::stdout();
    TARGETS
        .iter()
        .try_for_each(|target| writeln!(out, "{}", target.name))
        .map_err(|error| error.to_string())
}

fn seeds(target: &Target, dir: &Path) -> Outcome {
    let told = |error: std::io::Error| format!("{}: {error}", dir.display());
    fs::create_dir_all(dir).map_err(told)?;
    for (at, seed) in (target.seeds)().iter().enumerate() {
        fs::write(dir.join(format!("{}-{at}", target.name)), seed).map_err(told)?;
    }
    Ok(())
}

fn feed(target: &Target, files: &[&str]) -> Outcome {
    if files.is_empty() {
        let _ = (target.run)(&input("standard input", std::io::stdin())?);
    }
    for file in files {
        let opened = fs::File::open(file).map_err(|error| format!("{file}: {error}"))?;
        let _ = (target.run)(&input(file, opened)?);
    }
    Ok(())
}

fn input(name: &str, from: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = from.take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes);
    match read {
        Ok(count) if count as u64 > INPUT_BYTES_MAX => Err(format!("{name}: has more than {INPUT_BYTES_MAX} bytes")),
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("{name}: {error}")),
    }
}
