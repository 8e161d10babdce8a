//! Verifiers of exported ledgers that nobody here wrote: `tests/interop` has a small program around each, whose modules
//! come from the usual registries through the usual tools.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use super::peers::{missing, peer};

/// Longest time that a module is fetched and built; a cold cache on a loaded machine is slow.
const READY_MAX: Duration = Duration::from_secs(900);
/// Longest verification of a small ledger.
const VERIFY_MAX: Duration = Duration::from_secs(60);

/// One of them, ready to run.
#[derive(Debug)]
pub struct Verifier {
    /// Whose it is.
    pub name: &'static str,
    command: Vec<OsString>,
}

impl Verifier {
    /// The Go one, on golang.org/x/mod; none where Go or the module is not to be had.
    ///
    /// # Panics
    /// Under `CI=true` instead.
    pub fn go(scratch: &Path) -> Option<Self> {
        let program = build_go(scratch, "go", "golang.org/x/mod")?;
        Some(Self {
            name: "golang.org/x/mod",
            command: vec![program.into()],
        })
    }

    /// The Python one, on tlog-scales in an environment of its own; none where it is not to be had.
    ///
    /// # Panics
    /// Under `CI=true` instead.
    pub fn python(scratch: &Path) -> Option<Self> {
        let Interpreter(interpreter) = Interpreter::python(scratch)?;
        Some(Self {
            name: "tlog-scales",
            command: vec![interpreter.into(), sources("python").join("verify.py").into()],
        })
    }

    /// The number of records of the log in a folder, when it accepts it under these keys; else what it says.
    ///
    /// # Errors
    /// Its refusal.
    pub fn verify(&self, log: &Path, keys: &[String]) -> Result<u64, String> {
        let mut words = self.command.iter();
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).arg(log).args(keys);
        let output = finished(command, VERIFY_MAX)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => {
                let size = String::from_utf8_lossy(&output.stdout).trim().parse();
                Ok(size.unwrap_or_else(|error| panic!("{}: {error}: {output:?}", self.name)))
            }
            Some(1) => Err(said),
            _ => panic!("{}: {output:?}", self.name),
        }
    }
}

/// Python with the modules that `tests/interop/python` needs, in an environment of its own.
#[derive(Debug)]
pub struct Interpreter(PathBuf);

impl Interpreter {
    /// Makes the environment in `scratch`; none where it is not to be had.
    ///
    /// # Panics
    /// Under `CI=true` instead.
    pub fn python(scratch: &Path) -> Option<Self> {
        Some(Self(environment(scratch, "python", "tlog-scales")?.join("bin/python")))
    }

    /// What the program `script` of `tests/interop/python` makes of `input`.
    ///
    /// # Panics
    /// When it ends with an error, or not at all.
    pub fn run(&self, script: &str, input: &[u8]) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let (told, answer) = (folder.path().join("told"), folder.path().join("answer"));
        fs::write(&told, input).expect("the input");
        let mut command = Command::new(&self.0);
        command.arg(sources("python").join(script)).arg(told).arg(&answer);
        let output = finished(command, VERIFY_MAX).expect("it ends");
        assert!(output.status.success(), "{script}: {output:?}");
        fs::read(answer).expect("its answer")
    }
}

/// The Go program of `tests/interop/<of>`, built in `scratch`; none where Go or a module of it is not to be had.
///
/// # Panics
/// Under `CI=true` instead.
pub fn build_go(scratch: &Path, of: &str, what: &str) -> Option<PathBuf> {
    let program = scratch.join(format!("{of}-program"));
    let mut build = Command::new(peer("go")?);
    build
        .args(["build", "-trimpath", "-buildvcs=false", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(sources(of))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .env("GOCACHE", scratch.join("go-build"));
    ready(build, what)?;
    Some(program)
}

/// An environment of Python's in `scratch` with what `tests/interop/<of>/requirements.txt` lists; none where it is not to be
/// had.
///
/// # Panics
/// Under `CI=true` instead.
pub fn environment(scratch: &Path, of: &str, what: &str) -> Option<PathBuf> {
    let (python, pip) = (peer("python3")?, peer("pip3")?);
    let folder = scratch.join(of);
    let wanted = fs::read_to_string(sources(of).join("requirements.txt")).expect("requirements");
    let installed = folder.join("installed.txt");
    // The list is written last, so an environment that was never finished, or is of another list, is made again.
    if fs::read_to_string(&installed).ok().as_ref() != Some(&wanted) {
        let _ = fs::remove_dir_all(&folder);
        let mut make = Command::new(python);
        make.args(["-m", "venv", "--without-pip"]).arg(&folder);
        ready(make, "python3's venv")?;
        let mut install = Command::new(pip);
        install
            .arg("--python")
            .arg(folder.join("bin/python"))
            .args(["install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(sources(of).join("requirements.txt"));
        ready(install, what)?;
        fs::write(&installed, wanted).expect("the list of what is installed");
    }
    Some(folder)
}

/// The C2SP tlog-proof of a record that the Python one makes out of the log's folder, without extra data.
///
/// # Panics
/// When it makes none.
pub fn proof_by(python: &Verifier, log: &Path, index: u64) -> String {
    let mut command = Command::new(python.command.first().expect("an interpreter"));
    command
        .args(["-m", "tlog_scales.cli", "gen-proof"])
        .arg(log)
        .arg(index.to_string());
    let output = finished(command, VERIFY_MAX).expect("it ends");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A folder of `tests/interop`.
pub fn sources(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(name)
}

/// Runs a step that fetches; what cannot be fetched is missing like a program.
pub(super) fn ready(command: Command, what: &str) -> Option<()> {
    match finished(command, READY_MAX) {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => missing(what, &String::from_utf8_lossy(&output.stderr)),
        Err(error) => missing(what, &error),
    }
}

/// Runs a command to its end, at most so long.
fn finished(mut command: Command, limit: Duration) -> Result<Output, String> {
    let started = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    // What it prints fits into a pipe, so it never waits for us.
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if started.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("no end after {} s", limit.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().map_err(|error| error.to_string())
}
