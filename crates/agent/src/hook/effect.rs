//! The proof of effect: a handshake with the server shows the certificate it really serves. Some servers keep the old one
//! and say so in their own log alone (PostgreSQL, when the mode of the key file is not to its liking).

use std::sync::{Arc, Mutex, PoisonError};

use mintage_svid::LeafInfo;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::TlsConnector;

use crate::{
    config::{Effect, EffectProtocol},
    held::Held,
    limits::{EFFECT_LOOK_FIRST, EFFECT_LOOK_MAX},
};

/// PostgreSQL's SSLRequest: its length and its code (protocol, section "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Looks until the new certificate is served or the time is over.
pub(super) async fn prove(effect: &Effect, held: &Held, provider: &Arc<CryptoProvider>) -> Result<(), String> {
    let new = held.chain().first().ok_or("there is no certificate")?;
    let until = Instant::now() + effect.within;
    let mut wait = EFFECT_LOOK_FIRST;
    loop {
        let seen = match timeout_at(until, look(effect, provider)).await {
            Ok(Ok(served)) if served == *new => return Ok(()),
            Ok(Ok(served)) => still_serves(effect, &served, held),
            Ok(Err(problem)) => format!("{}: {problem}", effect.address),
            Err(_) => format!("{}: no handshake within {} s", effect.address, effect.within.as_secs()),
        };
        if Instant::now() + wait >= until {
            return Err(seen);
        }
        sleep(wait).await;
        wait = (wait * 2).min(EFFECT_LOOK_MAX);
    }
}

fn still_serves(effect: &Effect, served: &[u8], held: &Held) -> String {
    let served = match LeafInfo::parse(served) {
        Ok(leaf) => format!("serial {}", leaf.serial()),
        Err(_) => "a certificate that is no SVID".to_owned(),
    };
    let hint = match effect.protocol {
        EffectProtocol::Postgres => {
            "; PostgreSQL keeps the old one silently when its key is not 0600 and its own, or 0640 and root's: see its log"
        }
        EffectProtocol::Tls => "; did the hook reach it, and does it read this folder?",
    };
    format!(
        "{} serves {served} instead of the new serial {}{hint}",
        effect.address,
        held.serial()
    )
}

/// One handshake; the first certificate the server shows, whether or not it goes on with us.
async fn look(effect: &Effect, provider: &Arc<CryptoProvider>) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(&effect.address)
        .await
        .map_err(|error| error.to_string())?;
    if effect.protocol == EffectProtocol::Postgres {
        stream
            .write_all(&SSL_REQUEST)
            .await
            .map_err(|error| error.to_string())?;
        if stream.read_u8().await.map_err(|error| error.to_string())? != b'S' {
            return Err(
                "PostgreSQL answers that it has no TLS; is ssl = on, and did it load a certificate?".to_owned(),
            );
        }
    }
    let shown = Arc::new(Shown {
        provider: Arc::clone(provider),
        leaf: Mutex::default(),
    });
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&shown) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let name = server_name(effect)?;
    let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    // A server that wants our certificate ends the handshake, after it has shown its own.
    let leaf = shown.leaf.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (leaf, shaken) {
        (Some(leaf), _) => Ok(leaf),
        (None, Err(error)) => Err(error.to_string()),
        (None, Ok(_)) => Err("it showed no certificate".to_owned()),
    }
}

fn server_name(effect: &Effect) -> Result<ServerName<'static>, String> {
    let host = || effect.address.rsplit_once(':').map_or("", |(host, _)| host);
    let name = effect.server_name.as_deref().unwrap_or_else(host);
    let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(bare).map_err(|_| format!("{name:?} is no server name; give server_name"))
}

/// Takes note of what is shown once its key is proven. It trusts nothing: no byte is ever sent over these connections.
#[derive(Debug)]
struct Shown {
    provider: Arc<CryptoProvider>,
    leaf: Mutex<Option<Vec<u8>>>,
}

impl Shown {
    fn proven(&self, leaf: &CertificateDer<'_>) {
        *self.leaf.lock().unwrap_or_else(PoisonError::into_inner) = Some(leaf.to_vec());
    }
}

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms).inspect(|_| self.proven(cert))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms).inspect(|_| self.proven(cert))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
