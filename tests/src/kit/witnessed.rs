//! A CA whose log is witnessed: its folder, its configuration, and the witness beside it.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use mintage_ledger::{Policy, SignedNote};
use ring::digest::{SHA256, digest};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    bins::binary,
    ca::{self, CaProcess},
    witness::{WitnessHome, WitnessProcess},
};

/// Longest wait for what should take seconds; the machine may be busy.
pub const SOON: Duration = Duration::from_secs(60);

/// A CA's folder with its configuration, and a witness of its log.
#[derive(Debug)]
pub struct Scene {
    /// Where everything lies.
    pub folder: TempDir,
    /// The witness.
    pub witness: WitnessHome,
    /// The CA's metrics.
    pub face: SocketAddr,
}

impl Scene {
    /// Makes both; the witness runs, and the CA asks it.
    pub fn new(max_unwitnessed: &str) -> (Self, WitnessProcess) {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        ca::make(&dir);
        // The CA's own policy names its log; a copy, as a witness would be given one.
        let policy = folder.path().join("logs");
        fs::copy(dir.join("ledger/policy"), &policy).unwrap();
        let mut witness = WitnessHome::make(folder.path(), "w1", &policy);
        let running = witness.start();
        let face = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "data_dir = {:?}\nlisten = \"127.0.0.1:0\"\nmetrics = \"{face}\"\n[ledger]\ncheckpoint_interval = \
             \"100ms\"\nmax_unwitnessed = \"{max_unwitnessed}\"\n[[witness]]\nurl = \"http://{}\"\nvkey = \"{}\"\n",
            dir.display().to_string(),
            witness.address,
            witness.vkey
        );
        fs::write(folder.path().join("ca.toml"), config).unwrap();
        let scene = Self { folder, witness, face };
        (scene, running)
    }

    /// The CA's data directory.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    /// The CA's command, with its configuration.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary("mintage-ca"));
        command
            .arg("serve")
            .arg("--config")
            .arg(self.folder.path().join("ca.toml"));
        command
    }

    /// Starts the CA.
    pub fn serve(&self) -> CaProcess {
        CaProcess::launch(&self.dir(), self.command())
    }

    /// The log's lines of the policy, with this witness as the quorum.
    pub fn policy(&self) -> Policy {
        let logs = fs::read_to_string(self.dir().join("ledger/policy")).unwrap();
        let logs = logs.replace("quorum none", &format!("witness w1 {}\nquorum w1", self.witness.vkey));
        Policy::parse(logs.as_bytes()).unwrap()
    }

    /// Name of the log that is written.
    pub fn log_name(&self) -> String {
        let policy = self.policy();
        let current = policy.logs().last().expect("a policy names its log");
        current.vkey.name().to_owned()
    }

    /// The stored checkpoint of that log.
    pub fn checkpoint(&self) -> SignedNote {
        let shard: Vec<String> = self.log_name().split('/').map(str::to_owned).collect();
        let file = self
            .dir()
            .join("ledger")
            .join(&shard[2])
            .join(&shard[3])
            .join("checkpoint");
        SignedNote::parse(&fs::read(file).unwrap()).unwrap()
    }

    /// Waits until the stored checkpoint has a valid cosignature and at least this size.
    pub fn cosigned(&self, least: u64) -> SignedNote {
        let policy = self.policy();
        until("a cosigned checkpoint", || {
            let note = self.checkpoint();
            let checked = policy.check(&note).unwrap();
            (checked.quorum && checked.checkpoint.size() >= least).then_some(note)
        })
    }

    /// Its size.
    pub fn size(&self) -> u64 {
        self.policy().check(&self.checkpoint()).unwrap().checkpoint.size()
    }

    /// What the witness holds, out of its own store.
    pub fn held(&self) -> Option<SignedNote> {
        let hash = hex::encode(digest(&SHA256, self.log_name().as_bytes()));
        let octets = fs::read(self.witness.logs().join(hash)).ok()?;
        Some(SignedNote::parse(&octets).expect("what is there is whole"))
    }

    /// The events about witnesses that the log holds, oldest last.
    pub fn events(&self) -> Vec<String> {
        let output = Command::new(binary("mintage"))
            .arg("--data-dir")
            .arg(self.dir())
            .args(["audit", "search", "--kind", "witness.event", "-o", "json"])
            .output()
            .unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let records = found["records"].as_array().unwrap();
        records
            .iter()
            .map(|row| row["text"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// Waits for an answer; looks often, for what is looked for may pass.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < SOON, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}
