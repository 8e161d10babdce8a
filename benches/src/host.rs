//! A real CA in a process of its own: this program runs itself again with `--host DIR`, so that a bench needs no other
//! binary and the CA's memory is the CA's alone.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
};

use mintage_ca::{Ca, Config, Deps};
use mintage_tests::kit::ca::make;
use tokio::runtime::{Builder, Runtime};

use crate::load::Failure;

/// Ticks of a second in `/proc` (proc(5)); 100 on every architecture this runs on.
const USER_HZ: f64 = 100.0;
/// The hidden argument.
const HOST: &str = "--host";

/// The whole of a bench's `main`: with a folder it is the child, without it does the work and tells how it went.
pub fn main(child: Option<&Path>, work: impl FnOnce(&Runtime) -> Result<(), Failure>) -> ExitCode {
    // The CA has the runtime it has as a program; the load takes as little as it can of the cores it shares with the CA.
    let mut builder = match child {
        Some(_) => Builder::new_multi_thread(),
        None => Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build();
    let outcome = runtime.map_err(Failure::from).and_then(|runtime| match child {
        Some(dir) => runtime.block_on(serve(dir)).map_err(|error| error.to_string().into()),
        None => work(&runtime),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let role = child.map_or("", |_| " (the CA)");
            eprintln!("bench{role}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A CA in another process; it dies with this value.
#[derive(Debug)]
pub struct Host {
    child: Child,
    /// Where agents connect.
    pub address: String,
    /// Where metrics are.
    pub metrics: String,
    data_dir: PathBuf,
}

/// Serves the authority in `dir` until standard input closes. This is the child's whole life.
///
/// # Errors
/// When the CA does not start.
async fn serve(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    let config = Config::for_data_dir(dir).listening_on(any).with_metrics(Some(any));
    let ca = Ca::start(config, Deps::system()).await?;
    println!("{} {}", ca.address(), ca.metrics_address().ok_or("no metrics")?);
    std::io::stdout().flush()?;
    tokio::task::spawn_blocking(|| std::io::stdin().lines().for_each(drop)).await?;
    ca.stop().await;
    Ok(())
}

impl Host {
    /// Makes an authority in `dir` and serves it from a child process.
    ///
    /// # Errors
    /// When the child does not start.
    pub fn start(dir: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        make(dir);
        let mut child = Command::new(std::env::current_exe()?)
            .arg(HOST)
            .arg(dir)
            .env("MINTAGE_LOG", "warn")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let (address, metrics) = line.trim().split_once(' ').ok_or("the CA did not start")?;
        let (address, metrics) = (address.to_owned(), metrics.to_owned());
        Ok(Self {
            child,
            address,
            metrics,
            data_dir: dir.to_path_buf(),
        })
    }

    /// The admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }

    /// Resident memory of the CA in megabytes (10^6 bytes).
    pub fn rss_mb(&self) -> f64 {
        rss_mb(self.child.id())
    }

    /// CPU time that the CA has used so far, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }

    /// Groups made durable so far: one flush each.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub fn flushes(&self) -> std::io::Result<u64> {
        use std::io::Read;
        let mut stream = std::net::TcpStream::connect(&self.metrics)?;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix("mintage_log_groups_total "));
        Ok(value.and_then(|value| value.trim().parse().ok()).unwrap_or(0))
    }
}

/// Resident memory of a process in megabytes (10^6 bytes).
pub fn rss_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kb = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = kb
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|n| n.parse::<f64>().ok());
    kb.unwrap_or(f64::NAN) * 1024.0 / 1e6
}

/// CPU time that a process has used so far, in seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name in parentheses, which may hold anything: fields 14 and 15 are user and system time in ticks.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum::<u64>();
    ticks as f64 / USER_HZ
}

impl Drop for Host {
    fn drop(&mut self) {
        // Closing its input ends the child in order.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
