//! A PostgreSQL server of one test's own, under an account that is not root's.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use tempfile::TempDir;

use super::{
    agent::WAIT_MAX,
    peers::{missing, peer},
    proxies::serial_of,
};

/// Where Debian has the server's programs.
const SERVER: &str = "/usr/lib/postgresql/15/bin/postgres";
/// An account without rights that every system has.
const NOBODY: u32 = 65_534;

/// Who the server runs as: nobody, where this process may choose, and otherwise ourselves.
pub fn account() -> (u32, u32) {
    match rustix::process::geteuid() {
        uid if uid.is_root() => (NOBODY, NOBODY),
        uid => (uid.as_raw(), rustix::process::getegid().as_raw()),
    }
}

/// The server, which dies with its value.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    bin: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Postgres {
    /// Makes an empty cluster; none where PostgreSQL is not installed.
    ///
    /// # Panics
    /// Under `CI=true` instead, and when the cluster cannot be made.
    pub fn make(port: u16) -> Option<Self> {
        let bin = peer(SERVER)?.parent()?.to_owned();
        if !Path::new("/usr/bin/psql").is_file() {
            return missing("psql", "it is not installed");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (uid, gid) = account();
        chown(folder.path(), Some(uid), Some(gid)).expect("the folder is given away");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        let made = Self {
            folder,
            bin,
            port,
            child: None,
        };
        let mut initdb = made.command("initdb");
        initdb.args(["-U", "mintage", "--auth=trust", "--no-sync", "-D"]);
        let output = initdb.arg(made.data()).output().expect("initdb starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Over TCP nobody is let in but with a certificate whose common name is the user's (pg_hba.conf, method cert).
        let hba = "local all all trust\nhostssl all all 127.0.0.1/32 cert\n";
        fs::write(made.data().join("pg_hba.conf"), hba).expect("written");
        Some(made)
    }

    fn command(&self, program: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir(self.folder.path())
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where its socket is.
    pub fn sockets(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// A path beside the cluster.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it on a delivered folder of the layout `split`.
    ///
    /// # Panics
    /// When it ends or does not begin to serve TLS.
    pub fn start(&mut self, delivered: &Path) {
        let settings = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port.to_string()),
            ("unix_socket_directories", self.folder.path().display().to_string()),
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", delivered.join("svid.pem").display().to_string()),
            ("ssl_key_file", delivered.join("svid_key.pem").display().to_string()),
            ("ssl_ca_file", delivered.join("svid_bundle.pem").display().to_string()),
            ("fsync", "off".to_owned()),
        ];
        let log = fs::File::create(self.beside("log")).expect("a log file");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let child = command
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres starts");
        let child = self.child.insert(child);
        let started = Instant::now();
        while serial_of(self.port, &["-starttls", "postgres"]).is_none() {
            let ended = child.try_wait().expect("a status");
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(
                ended.is_none() && started.elapsed() < WAIT_MAX,
                "PostgreSQL does not serve:\n{log}"
            );
        }
    }

    /// Runs this SQL as the superuser, over its socket.
    ///
    /// # Panics
    /// When it is refused.
    pub fn run(&self, sql: &str) {
        let output = self
            .psql(&format!("host='{}' user=mintage", self.folder.path().display()), sql)
            .output()
            .expect("psql starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What psql, as it comes, is answered when it logs in as this user with the files of a delivered folder.
    ///
    /// # Errors
    /// What it says instead.
    pub fn log_in(&self, user: &str, delivered: &Path) -> Result<String, String> {
        let file = |name: &str| delivered.join(name).display().to_string();
        let connection = format!(
            "host=127.0.0.1 user={user} sslmode=verify-ca sslrootcert='{}' sslcert='{}' sslkey='{}'",
            file("svid_bundle.pem"),
            file("svid.pem"),
            file("svid_key.pem")
        );
        let output = self
            .psql(&connection, "SELECT current_user")
            .output()
            .expect("psql starts");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn psql(&self, connection: &str, sql: &str) -> Command {
        let mut command = Command::new("/usr/bin/psql");
        command
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .args(["--no-psqlrc", "--no-password", "-At", "-c", sql])
            .arg(format!(
                "{connection} port={} dbname=postgres connect_timeout=30",
                self.port
            ));
        command
    }

    /// The serial that it serves.
    pub fn served(&self) -> String {
        serial_of(self.port, &["-starttls", "postgres"]).expect("it serves a certificate")
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.beside("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // SIGQUIT to the server alone: it ends its own processes at once.
            let pid = rustix::process::Pid::from_child(child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            let _ = child.wait();
        }
    }
}
