//! Workloads around client libraries that nobody here wrote, which know nothing but the agent's socket: `tests/interop` has
//! the program of each, and each prints one line an event.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

use super::{
    agent::WAIT_MAX,
    fetched::{build_cargo, class_path, node_modules},
    peers::peer,
    verifiers::{build_go, environment, sources},
};

/// Lines that wait to be read; a program says a handful of them for each change.
const LINES_MAX: usize = 1_024;

/// A running one, which dies with its value.
#[derive(Debug)]
pub struct Workload {
    child: Child,
    words: ChildStdin,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Workload {
    /// The one around `spiffe` of PyPI; none where it is not to be had.
    ///
    /// # Panics
    /// Under `CI=true` instead.
    pub fn python(scratch: &Path, socket: &Path) -> Option<Self> {
        let installed = environment(scratch, "py-spiffe", "spiffe")?;
        let mut command = Command::new(installed.join("bin/python"));
        command
            .arg(sources("py-spiffe").join("client.py"))
            .arg(format!("unix://{}", socket.display()));
        Some(Self::launch(command))
    }

    /// The command that the ones around go-spiffe begin with; none where it is not to be had.
    ///
    /// # Panics
    /// Under `CI=true` instead.
    pub fn go(scratch: &Path) -> Option<impl Fn(&[&str]) -> Self + use<>> {
        let program = build_go(scratch, "go-spiffe", "github.com/spiffe/go-spiffe/v2")?;
        Some(move |words: &[&str]| {
            let mut command = Command::new(&program);
            command.args(words);
            Self::launch(command)
        })
    }

    /// The one around `@grpc/grpc-js` of npm, which has the API's description and no client library; none where it is not to
    /// be had.
    ///
    /// # Panics
    /// Under `CI=true` instead.
    pub fn node(scratch: &Path, socket: &Path) -> Option<Self> {
        let modules = node_modules(scratch, "grpc-js", "@grpc/grpc-js")?;
        let mut command = Command::new(peer("node")?);
        command
            .env("NODE_PATH", modules)
            .arg(sources("grpc-js").join("client.js"))
            .arg(description())
            .arg(socket);
        Some(Self::launch(command))
    }

    /// The one around java-spiffe; none where it is not to be had.
    ///
    /// # Panics
    /// Under `CI=true` instead.
    pub fn java(scratch: &Path, socket: &Path) -> Option<Self> {
        let java = peer("java")?;
        let classes = class_path(scratch, "java", "io.spiffe:java-spiffe-core")?;
        let mut command = Command::new(java);
        command
            .args(["-XX:TieredStopAtLevel=1", "-cp"])
            .arg(classes)
            .arg(sources("java").join("Client.java"))
            .arg(socket);
        Some(Self::launch(command))
    }

    /// The command that the ones around `spiffe` and `spiffe-rustls` of Rust begin with; none where they are not to be had.
    ///
    /// # Panics
    /// Under `CI=true` instead.
    pub fn rust(scratch: &Path) -> Option<impl Fn(&[&str]) -> Self + use<>> {
        let program = build_cargo(scratch, "rust", "mintage-interop-spiffe")?;
        Some(move |words: &[&str]| {
            let mut command = Command::new(&program);
            command.args(words);
            Self::launch(command)
        })
    }

    fn launch(mut command: Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("the program starts");
        let words = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let (saying, lines) = sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            let _ = output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| saying.send(line));
        });
        Self {
            child,
            words,
            lines,
            said: Vec::new(),
        }
    }

    /// Tells it a word.
    ///
    /// # Panics
    /// When it has ended.
    pub fn tell(&mut self, word: &str) {
        let told = writeln!(self.words, "{word}").and_then(|()| self.words.flush());
        told.unwrap_or_else(|error| panic!("{word}: {error}: {:#?}", self.said));
    }

    /// Whether it has begun a line that was heard with this word.
    pub fn has_said(&self, word: &str) -> bool {
        self.said.iter().any(|line| line.split(' ').next() == Some(word))
    }

    /// What comes of the first of its coming lines that is wanted, and how long that took.
    ///
    /// # Panics
    /// When there is none in time.
    pub fn hear<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> (T, Duration) {
        let started = Instant::now();
        loop {
            match self.lines.recv_timeout(WAIT_MAX.saturating_sub(started.elapsed())) {
                Ok(line) => {
                    let found = wanted(&line);
                    self.said.push(line);
                    if let Some(found) = found {
                        return (found, started.elapsed());
                    }
                }
                Err(error @ (RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) => {
                    panic!("{what} did not come: {error}: {:#?}", self.said)
                }
            }
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Workload API as the standard describes it.
fn description() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/spiffe/workload.proto")
}

/// The serial that a line of this kind gives for an identity; none when it is of another kind, or has no such identity.
pub fn serial_in(line: &str, kind: &str, id: &str) -> Option<String> {
    let mut words = line.split(' ');
    (words.next() == Some(kind)).then_some(())?;
    let mut pairs = words.filter_map(|word| word.split_once('='));
    pairs.find_map(|(name, serial)| (name == id).then(|| serial.to_owned()))
}
