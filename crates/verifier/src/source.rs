//! The local identity: a certificate chain and its key behind one pointer, so that rotation is one swap and no
//! configuration is built again. Handshakes under way finish with the identity they started with.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use mintage_svid::LeafInfo;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::{IdentityError, path};

/// A swappable certified key for either side of a handshake.
pub struct IdentitySource {
    current: ArcSwapOption<CertifiedKey>,
}

impl IdentitySource {
    /// A source without an identity yet: a client then sends no certificate, and a server ends the handshake.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwapOption::const_empty(),
        })
    }

    /// A source that starts with this identity; see [`IdentitySource::replace`].
    ///
    /// # Errors
    /// As [`IdentitySource::replace`].
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<Arc<Self>, IdentityError> {
        let source = Self::empty();
        source.replace(chain, key, provider)?;
        Ok(source)
    }

    /// Puts a new identity in place; later handshakes use it. `chain` is DER, leaf first.
    ///
    /// # Errors
    /// Refuses a chain over the limits a peer would apply, a leaf that is no X.509-SVID, a key the provider cannot
    /// load, and a key that is not provably the leaf's. The old identity then stays.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<(), IdentityError> {
        path::check_size(&chain).map_err(IdentityError::Chain)?;
        let leaf = chain
            .first()
            .ok_or(IdentityError::Chain(crate::VerifyError::NoCertificate))?;
        LeafInfo::parse(leaf).map_err(IdentityError::Leaf)?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(IdentityError::Key)?;
        let certified = CertifiedKey::new(chain, key);
        // Unlike rustls' own constructor this also refuses a key that cannot be compared.
        certified.keys_match().map_err(|_| IdentityError::Mismatch)?;
        self.current.store(Some(Arc::new(certified)));
        Ok(())
    }

    /// Takes the identity away, as when it was withdrawn; handshakes then go without one.
    pub fn clear(&self) {
        self.current.store(None);
    }

    /// The identity in use now.
    pub fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl ResolvesServerCert for IdentitySource {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for IdentitySource {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _sigschemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.current.load().is_some()
    }
}

impl fmt::Debug for IdentitySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certs = self.current.load().as_ref().map(|certified| certified.cert.len());
        f.debug_struct("IdentitySource")
            .field("chain_certs", &certs)
            .field("key", &"...")
            .finish()
    }
}
