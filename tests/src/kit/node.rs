//! A CA and an agent as programs, with identities on disk, and the agent's socket: what a proxy of the node has.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use mintage_ca::Deps;
use mintage_identity::TrustDomain;
use mintage_proto::v1::{RevokeRequest, revocation_client::RevocationClient, revoke_request::Target};
use mintage_svid::{LeafInfo, pem};
use mintage_verifier::{AllowedIds, IdentitySource, RevocationCheck, Trust, TrustStore, client_config};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    agent::{AgentProcess, WAIT_MAX, config},
    bins::binary,
    ca::{CaProcess, apply, domain, make_of, token},
    client::{admin, provider, settings},
    federation::own_entry,
};

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// The programs, and where they are.
#[derive(Debug)]
pub struct Node {
    /// The CA.
    pub ca: CaProcess,
    /// The agent, which delivers into `<place>/<entry>`.
    pub agent: AgentProcess,
    /// The agent's folder.
    pub place: PathBuf,
    folder: TempDir,
}

/// A pair as it was delivered at one moment, and stays.
#[derive(Clone, Debug)]
pub struct Pair {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8.
    pub key: Vec<u8>,
    /// DER.
    pub roots: Vec<Vec<u8>>,
}

impl Node {
    /// Starts both, with one entry and one delivery for each name, and `more` in the agent's configuration.
    pub async fn start(entries: &[&str], more: &str) -> Self {
        Self::start_with(entries, more, "").await
    }

    /// The same, with this in the CA's configuration.
    pub async fn start_with(entries: &[&str], more: &str, of_ca: &str) -> Self {
        Self::start_of(&domain(), entries, more, of_ca).await
    }

    /// The same, of another trust domain.
    pub async fn start_of(trust_domain: &TrustDomain, entries: &[&str], more: &str, of_ca: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("ca");
        make_of(&data, trust_domain.clone(), &Deps::system());
        let configuration = folder.path().join("ca.toml");
        fs::write(
            &configuration,
            format!("data_dir = {data:?}\nlisten = \"127.0.0.1:0\"\n{of_ca}"),
        )
        .expect("written");
        let mut serve = Command::new(binary("mintage-ca"));
        serve.arg("serve").arg("--config").arg(configuration);
        let ca = CaProcess::launch(&data, serve);
        let wanted = entries.iter().map(|name| own_entry(trust_domain, name)).collect();
        apply(&ca.admin_socket(), wanted)
            .await
            .expect("the entries are applied");
        let place = folder.path().join("n1");
        fs::create_dir(&place).expect("a folder");
        let file = config(&place, entries);
        let text = fs::read_to_string(&file).expect("the configuration");
        let socket = format!("socket = {:?}", place.join("run/agent.sock"));
        let text = text.replace("socket = \"off\"", &socket);
        fs::write(&file, format!("{text}{more}")).expect("written");
        let token = token(&ca.admin_socket(), "n1").await;
        let mut agent = AgentProcess::start(&place, &file, Some(&token));
        for name in entries {
            let key = place.join(name).join("svid_key.pem");
            agent.wait_for("a delivery", || key.exists().then_some(()));
        }
        Self {
            ca,
            agent,
            place,
            folder,
        }
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.place.join("run/agent.sock")
    }

    /// A folder of its own, beside those of the programs.
    pub fn beside(&self, name: &str) -> PathBuf {
        let beside = self.folder.path().join(name);
        fs::create_dir(&beside).expect("a folder");
        beside
    }

    /// What is delivered for an entry now.
    pub fn pair(&self, entry: &str) -> Pair {
        Pair::read(&self.place.join(entry)).expect("a delivery")
    }

    /// The delivery that came after this one.
    pub fn after(&mut self, entry: &str, former: &Pair) -> Pair {
        let folder = self.place.join(entry);
        let old = former.serial();
        self.agent.wait_for("another certificate", || {
            let text = fs::read_to_string(folder.join("svid.pem")).ok()?;
            let leaf = pem::decode_certificates(&text).ok()?;
            let leaf = LeafInfo::parse(leaf.first()?).ok()?;
            (leaf.serial().to_string() != old).then_some(())
        });
        self.pair(entry)
    }

    /// Revokes; when the reply came.
    pub async fn revoke(&self, target: Target) -> Instant {
        let request = RevokeRequest {
            target: Some(target),
            reason: "superseded".to_owned(),
            ..RevokeRequest::default()
        };
        let channel = admin(&self.ca.admin_socket()).await.expect("the admin socket");
        let revoked = RevocationClient::new(channel).revoke(request).await;
        revoked.expect("it is revoked");
        Instant::now()
    }

    /// Stops both in order.
    pub fn stop(self) {
        assert_eq!(self.agent.stop(), Some(0));
        assert_eq!(self.ca.stop(), Some(0));
    }
}

impl Pair {
    /// What lies in a folder of deliveries now; `None` where it is not whole.
    pub fn read(folder: &Path) -> Option<Self> {
        // Entered once, so that a swap between two reads is none of ours.
        let generation = fs::canonicalize(folder.join("..data")).ok()?;
        let read = |name: &str| fs::read_to_string(generation.join(name)).ok();
        Some(Self {
            chain: pem::decode_certificates(&read("svid.pem")?).ok()?,
            key: pem::decode_private_key(&read("svid_key.pem")?).ok()?.to_vec(),
            roots: pem::decode_certificates(&read("svid_bundle.pem")?).ok()?,
        })
    }

    /// The leaf's serial in hexadecimal digits.
    pub fn serial(&self) -> String {
        self.leaf().serial().to_string()
    }

    /// What the leaf says.
    pub fn leaf(&self) -> LeafInfo {
        LeafInfo::parse(&self.chain[0]).expect("an X.509-SVID")
    }

    /// The leaf as nginx and Envoy put it into a header.
    pub fn escaped(&self) -> String {
        let text = pem::encode_certificates(&self.chain[..1]);
        let escape = |octet: u8| match octet {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' => char::from(octet).to_string(),
            other => format!("%{other:02X}"),
        };
        text.bytes().map(escape).collect()
    }

    /// Writes it as files that nothing changes any more.
    pub fn write(&self, folder: &Path) {
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("written");
        write("svid.pem", &pem::encode_certificates(&self.chain));
        write("svid_key.pem", &pem::encode_private_key(&self.key));
        write("svid_bundle.pem", &pem::encode_certificates(&self.roots));
    }

    /// What a proxy answers to a GET of this client on a new connection; an error when it ends the connection.
    pub async fn get(&self, port: u16) -> std::io::Result<String> {
        let stream = self.connect(port).await?;
        exchange(stream, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await
    }

    /// A new connection of this client. A server that refuses it may do so only when the client reads.
    pub async fn connect(&self, port: u16) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("mintage.invalid").expect("a valid name");
        TlsConnector::from(self.tls()).connect(name, stream).await
    }

    /// What a NATS server says to this client, which it asks for a connection and a PONG, and the serial that it showed.
    pub async fn nats(&self, port: u16) -> std::io::Result<(String, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        // One line in clear comes before TLS.
        while stream.read_u8().await? != b'\n' {}
        let name = ServerName::try_from("mintage.invalid").expect("a valid name");
        let mut stream = TlsConnector::from(self.tls()).connect(name, stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let shown = LeafInfo::parse(shown.expect("a certificate")).expect("an X.509-SVID");
        stream.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n").await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let octet = timeout(ANSWER_MAX, stream.read_u8()).await??;
            line.push(octet);
        }
        Ok((
            String::from_utf8_lossy(&line).trim().to_owned(),
            shown.serial().to_string(),
        ))
    }

    /// Revocation of the proxy's own certificate is not what these clients are about.
    fn tls(&self) -> Arc<ClientConfig> {
        let trust = Trust::builder(domain())
            .domain(domain(), self.roots.clone(), RevocationCheck::None)
            .expect("the roots are roots")
            .build();
        let chain = self.chain.iter().cloned().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let identity = IdentitySource::new(chain, key, &provider()).expect("key and chain match");
        let settings = settings().with_alpn([b"http/1.1".as_slice()]);
        client_config(
            TrustStore::new(trust),
            Some(identity),
            AllowedIds::OwnTrustDomain,
            &settings,
        )
        .expect("a TLS configuration")
    }
}

/// The whole answer to an HTTP/1.1 request on a socket; it must ask for the connection to be closed.
pub async fn ask(socket: &Path, request: &str) -> std::io::Result<String> {
    exchange(UnixStream::connect(socket).await?, request).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    match timeout(ANSWER_MAX, stream.read_to_end(&mut answer)).await {
        Ok(Ok(_)) => {}
        // Whoever has answered may end without saying so.
        Ok(Err(error)) if answer.is_empty() => return Err(error),
        Ok(Err(_)) => {}
        Err(_) => return Err(std::io::ErrorKind::TimedOut.into()),
    }
    match answer.is_empty() {
        true => Err(std::io::ErrorKind::UnexpectedEof.into()),
        false => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// Asks again and again until `done`; how long it took since `started`.
///
/// # Panics
/// When it does not come.
pub async fn until<F: Future<Output = bool>>(started: Instant, what: &str, mut done: impl FnMut() -> F) -> Duration {
    while !done().await {
        assert!(started.elapsed() < WAIT_MAX, "{what} did not come");
    }
    started.elapsed()
}
