//! One workload of the demo: it takes its identity from the delivered files, as any program would.

use std::{fs, path::Path, path::PathBuf, sync::Arc};

use mintage_identity::{Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime};
use mintage_svid::{LeafInfo, TrustBundle, pem};
use mintage_verifier::IdentitySource;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::report::{Svid, TRUST_DOMAIN};
use crate::failure::Failure;

/// The workload that calls.
pub(super) const WEB: &str = "web";
/// The workload that is called.
pub(super) const DB: &str = "db";

/// A workload and the identity it took last.
#[derive(Debug)]
pub(super) struct Party {
    directory: PathBuf,
    pub(super) source: Arc<IdentitySource>,
    pub(super) held: Held,
}

/// An identity out of a folder.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) id: SpiffeId,
    pub(super) serial: Serial,
    pub(super) not_after: UnixTime,
    pub(super) key: SpkiHash,
}

/// One generation as it lies on disk.
struct Files {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    held: Held,
    roots: Vec<Vec<u8>>,
}

impl Party {
    /// Takes the identity out of `directory`.
    pub(super) fn new(directory: PathBuf, provider: &CryptoProvider) -> Result<Self, Failure> {
        let source = IdentitySource::empty();
        let held = take(&directory, &source, provider)?;
        Ok(Self {
            directory,
            source,
            held,
        })
    }

    /// Takes what was delivered since. Connections made from now on show it.
    pub(super) fn take_again(&mut self, provider: &CryptoProvider) -> Result<(), Failure> {
        self.held = take(&self.directory, &self.source, provider)?;
        Ok(())
    }

    /// The same identity apart, as somebody would keep it who copied the files.
    pub(super) fn copied(&self, provider: &CryptoProvider) -> Result<Arc<IdentitySource>, Failure> {
        let source = IdentitySource::empty();
        take(&self.directory, &source, provider)?;
        Ok(source)
    }

    /// The roots that were delivered with it.
    pub(super) fn roots(&self) -> Result<Vec<Vec<u8>>, Failure> {
        Ok(read(&self.directory)?.roots)
    }

    pub(super) fn svid(&self) -> Svid {
        Svid::new(&self.held.id, &self.directory, &self.held.serial, self.held.not_after)
    }
}

fn take(directory: &Path, source: &IdentitySource, provider: &CryptoProvider) -> Result<Held, Failure> {
    let files = read(directory)?;
    let refused = |error| Failure::file(directory, format!("holds no usable identity: {error}"));
    source.replace(files.chain, files.key, provider).map_err(refused)?;
    Ok(files.held)
}

fn read(directory: &Path) -> Result<Files, Failure> {
    let text = |name: &str| {
        let path = directory.join(name);
        fs::read_to_string(&path).map_err(|error| Failure::file(&path, error))
    };
    let refused = |error: mintage_svid::SvidError| Failure::file(directory, error);
    let chain = pem::decode_certificates(&text("svid.pem")?).map_err(refused)?;
    let key = pem::decode_private_key(&text("svid_key.pem")?).map_err(refused)?;
    let domain = TrustDomain::parse(TRUST_DOMAIN).map_err(Failure::local)?;
    let bundle = TrustBundle::from_pem(domain, &text("svid_bundle.pem")?).map_err(refused)?;
    let leaf = chain
        .first()
        .ok_or_else(|| Failure::file(directory, "holds no certificate"))?;
    let leaf = LeafInfo::parse(leaf).map_err(refused)?;
    Ok(Files {
        held: Held {
            id: leaf.id().clone(),
            serial: *leaf.serial(),
            not_after: leaf.not_after(),
            key: leaf.spki_sha256(),
        },
        chain: chain.into_iter().map(CertificateDer::from).collect(),
        // rustls keeps its own copy; this one is wiped when it goes.
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec())),
        roots: bundle.roots().to_vec(),
    })
}
