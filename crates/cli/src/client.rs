//! The way to the CA: gRPC over its admin socket, for root and the CA's own user alone.

use std::{
    io,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use mintage_identity::TrustDomain;
use mintage_proto::v1::{
    CaStatusRequest, crls_client::CrlsClient, ledger_client::LedgerClient, registry_client::RegistryClient,
    revocation_client::RevocationClient, trust_domain_client::TrustDomainClient,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::{
    failure::Failure,
    limits::{ANSWER_BYTES_MAX, CALL_WAIT},
};

/// A connection to the CA.
#[derive(Clone, Debug)]
pub(crate) struct Ca {
    channel: Channel,
}

impl Ca {
    /// Connects to the admin socket at `path`.
    ///
    /// # Errors
    /// Why nobody answers there, and what to do.
    pub(crate) async fn connect(path: &Path) -> Result<Self, Failure> {
        // Asked first by hand: a transport's error says less.
        UnixStream::connect(path)
            .await
            .map_err(|error| unreachable_at(path, &error))?;
        let socket: PathBuf = path.to_owned();
        // The name is never looked up: the connector knows the socket.
        let endpoint = Endpoint::from_static("http://admin.sock").timeout(CALL_WAIT);
        let connector = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connector).await;
        let refused = |error| Failure::Remote(format!("no CA answers on {}: {error}", path.display()));
        Ok(Self {
            channel: channel.map_err(refused)?,
        })
    }

    /// Entries, agents, tokens and the CA's state.
    pub(crate) fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Revocations.
    pub(crate) fn revocation(&self) -> RevocationClient<Channel> {
        RevocationClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Lists of revoked certificates.
    pub(crate) fn crls(&self) -> CrlsClient<Channel> {
        CrlsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The ledger.
    pub(crate) fn ledger(&self) -> LedgerClient<Channel> {
        LedgerClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The trust bundle.
    pub(crate) fn trust(&self) -> TrustDomainClient<Channel> {
        TrustDomainClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The trust domain the CA speaks for.
    ///
    /// # Errors
    /// When the CA does not answer or names none.
    pub(crate) async fn trust_domain(&self) -> Result<TrustDomain, Failure> {
        let status = self.registry().ca_status(CaStatusRequest {}).await?.into_inner();
        TrustDomain::parse(&status.trust_domain)
            .map_err(|error| Failure::Remote(format!("the CA names no trust domain: {error}")))
    }
}

fn unreachable_at(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Failure::Remote(match error.kind() {
        io::ErrorKind::NotFound => format!(
            "no CA listens at {path}: start mintage-ca, or name its socket by --socket or its directory by --data-dir"
        ),
        io::ErrorKind::ConnectionRefused => {
            format!("nobody listens at {path} any more: the CA that made it has ended; start mintage-ca")
        }
        io::ErrorKind::PermissionDenied => {
            format!("you may not connect to {path}: run as root or as the CA's own user")
        }
        _ => format!("cannot connect to {path}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_nobody_answers_on_is_told_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let missing = Ca::connect(&path).await.unwrap_err();
        assert!(
            missing.to_string().contains("--socket") && missing.code() == 2,
            "{missing}"
        );
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let dead = Ca::connect(&path).await.unwrap_err();
        assert!(dead.to_string().contains("has ended"), "{dead}");
    }
}
