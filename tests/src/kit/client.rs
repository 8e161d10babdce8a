//! A bare client of the CA's wire, without an agent behind it: for hostile requests, races and load.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use hyper_util::rt::TokioIo;
use mintage_attest::{JoinToken, rejoin::EXPORTER_LABEL};
use mintage_identity::TrustDomain;
use mintage_proto::v1::{AttestRequest, AttestResponse, node_client::NodeClient, registry_client::RegistryClient};
use mintage_verifier::{
    AllowedIds, IdentitySource, JoinVerifier, RevocationCheck, TlsSettings, Trust, TrustStore, client_config,
    join_config,
};
use rustls::{
    ClientConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    time_provider::DefaultTimeProvider,
};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// The exporter of the last connection that a channel made.
pub type Exporter = Arc<Mutex<[u8; 32]>>;

/// ring, passed in everywhere.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// TLS 1.3, HTTP/2, the machine's clock.
pub fn settings() -> TlsSettings {
    TlsSettings::new(provider(), Arc::new(DefaultTimeProvider)).with_alpn([b"h2".as_slice()])
}

/// Octets from the CSPRNG.
pub fn random<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    provider()
        .secure_random
        .fill(&mut octets)
        .expect("the system gives randomness");
    octets
}

/// A P-256 key (PKCS#8) and a signing request for it.
pub fn key_and_csr() -> (Vec<u8>, Vec<u8>) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::default();
    let csr = params.serialize_request(&key).expect("a signing request");
    (key.serialize_der(), csr.der().to_vec())
}

/// A channel over TLS to `address`, with whatever configuration.
pub async fn channel(address: &str, tls: Arc<ClientConfig>) -> Result<(Channel, Exporter), tonic::transport::Error> {
    let exporter = Exporter::default();
    let (kept, target) = (exporter.clone(), address.to_owned());
    let connect = tower::service_fn(move |_| {
        let (tls, target, kept) = (tls.clone(), target.clone(), kept.clone());
        async move {
            let stream = TcpStream::connect(&target).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("mintage.invalid").expect("a valid name");
            let stream = TlsConnector::from(tls).connect(name, stream).await?;
            let octets = stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None);
            *kept.lock().expect("no panic under the lock") = octets.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://mintage.invalid")
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024)
        .max_frame_size(64 * 1024);
    Ok((endpoint.connect_with_connector(connect).await?, exporter))
}

/// An anonymous channel that trusts the token's roots.
pub async fn anonymous(token: &JoinToken) -> Result<(Channel, Exporter), tonic::transport::Error> {
    let pins = token.root_hashes().iter().copied();
    let verifier = JoinVerifier::new(token.trust_domain().clone(), pins, &provider()).expect("the token has pins");
    let tls = join_config(verifier, &settings()).expect("a TLS configuration");
    channel(&token.addresses()[0], tls).await
}

/// A channel to the admin socket.
pub async fn admin(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_path_buf();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://mintage.invalid")
        .connect_with_connector(connect)
        .await
}

/// The registry over the admin socket.
pub async fn registry(socket: &Path) -> RegistryClient<Channel> {
    RegistryClient::new(admin(socket).await.expect("the admin socket answers"))
}

/// What an agent holds after joining.
#[derive(Clone, Debug)]
pub struct Joined {
    /// PKCS#8.
    pub key: Vec<u8>,
    /// Leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// The trust domain's roots.
    pub roots: Vec<Vec<u8>>,
    /// The trust domain.
    pub domain: TrustDomain,
    /// The agent instance.
    pub instance: u64,
}

/// Joins with a token and a key of one's own.
pub async fn join_with(token: &JoinToken, csr: Vec<u8>) -> Result<AttestResponse, tonic::Status> {
    let (channel, _) = anonymous(token)
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let request = AttestRequest {
        secret: token.secret().to_vec(),
        csr,
        request_id: random::<16>().to_vec(),
        agent_version: "kit".to_owned(),
    };
    Ok(NodeClient::new(channel).attest(request).await?.into_inner())
}

/// Joins with a token and a new key.
pub async fn join(token: &JoinToken) -> Result<Joined, tonic::Status> {
    let (key, csr) = key_and_csr();
    let answer = join_with(token, csr).await?;
    let bundle = answer.bundle.ok_or_else(|| tonic::Status::internal("no bundle"))?;
    let domain = token.trust_domain().clone();
    Ok(Joined {
        key,
        chain: answer.chain,
        roots: bundle.roots,
        domain,
        instance: answer.instance,
    })
}

impl Joined {
    /// The TLS configuration of this agent; revocation is not what these clients are about.
    pub fn tls(&self) -> Arc<ClientConfig> {
        self.tls_with(&settings())
    }

    /// The same with other protocols or another clock.
    pub fn tls_with(&self, settings: &TlsSettings) -> Arc<ClientConfig> {
        let trust = Trust::builder(self.domain.clone())
            .domain(self.domain.clone(), self.roots.clone(), RevocationCheck::None)
            .expect("the CA's roots are roots")
            .build();
        let chain = self.chain.iter().cloned().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let identity = IdentitySource::new(chain, key, &provider()).expect("key and chain match");
        let allowed = AllowedIds::replicas_of(&self.domain).expect("a prefix");
        client_config(TrustStore::new(trust), Some(identity), allowed, settings).expect("a TLS configuration")
    }

    /// A channel as this agent.
    pub async fn channel(&self, address: &str) -> Result<(Channel, Exporter), tonic::transport::Error> {
        channel(address, self.tls()).await
    }
}
