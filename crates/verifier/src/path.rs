//! One chain against one trust domain: limits first, then the leaf's rules, then RFC 5280 path validation by webpki,
//! then what webpki leaves out (key usage of issuers, the root's own dates).

use mintage_identity::{IssuerKeyId, SpkiHash, UnixTime};
use mintage_svid::{CertInfo, LeafInfo};
use ring::digest::{SHA256, digest};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::CertificateDer;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter};

use crate::{
    PathLink, VerifiedPeer, VerifyError,
    error::from_webpki,
    limits::{CERT_BYTES_MAX, CHAIN_BYTES_MAX, CHAIN_CERTS_MAX},
    trust::Domain,
};

/// Which side of a connection a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// By a client: `clientAuth` where an extended key usage is present.
    Client,
    /// By a server: `serverAuth` where an extended key usage is present.
    Server,
    /// By both, as a workload does: both where an extended key usage is present.
    Both,
}

/// Refuses what is over a limit before a byte is parsed.
pub(crate) fn check_size(presented: &[CertificateDer<'_>]) -> Result<(), VerifyError> {
    if presented.len() > CHAIN_CERTS_MAX {
        return Err(VerifyError::ChainTooLong { count: presented.len() });
    }
    let bytes: usize = presented.iter().map(|der| der.len()).sum();
    match presented.iter().map(|der| der.len()).find(|&len| len > CERT_BYTES_MAX) {
        Some(bytes) => Err(VerifyError::ChainTooLarge { bytes }),
        None if bytes > CHAIN_BYTES_MAX => Err(VerifyError::ChainTooLarge { bytes }),
        None => Ok(()),
    }
}

/// Size limits, then the leaf under the rules of X509-SVID.
pub(crate) fn parse_leaf(presented: &[CertificateDer<'_>]) -> Result<LeafInfo, VerifyError> {
    check_size(presented)?;
    let leaf = presented.first().ok_or(VerifyError::NoCertificate)?;
    LeafInfo::parse(leaf).map_err(VerifyError::Leaf)
}

/// Validates the path from the leaf to a root of `domain`; allowed ids and revocation are the caller's.
pub(crate) fn verify(
    domain: &Domain,
    leaf: &LeafInfo,
    presented: &[CertificateDer<'_>],
    usage: Usage,
    algorithms: &WebPkiSupportedAlgorithms,
    now: UnixTime,
) -> Result<VerifiedPeer, VerifyError> {
    let bad_path = |error| VerifyError::Path(from_webpki(error));
    let end_entity = EndEntityCert::try_from(&presented[0]).map_err(bad_path)?;
    let issuers = issuers_in_order(&presented[0], &presented[1..]).map_err(bad_path)?;
    let seconds = u64::try_from(now.seconds()).unwrap_or(0);
    let found = end_entity
        .verify_for_usage(
            algorithms.all,
            domain.anchors(),
            &issuers,
            rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)),
            usage,
            None,
            None,
        )
        .map_err(bad_path)?;

    let root_key = key_id(&webpki::spki_for_anchor(found.anchor()));
    domain.check_root(&root_key, now)?;

    // From the root downwards, so that each certificate finds its issuer's key above it.
    let mut issuer = root_key;
    let mut links = Vec::new();
    for cert in found.intermediate_certificates().rev() {
        let info = CertInfo::parse_signing(&cert.der()).map_err(VerifyError::Issuer)?;
        if let Some(id) = info.trust_domain_id().map_err(VerifyError::Issuer)?
            && !id.is_member_of(domain.name())
        {
            return Err(VerifyError::ForeignIssuer(id));
        }
        let own = info.key_id();
        links.push(PathLink {
            issuer,
            serial: *info.serial(),
            not_before: info.not_before(),
            not_after: info.not_after(),
            spki_sha256: SpkiHash::new(*own.as_bytes()),
        });
        issuer = own;
    }
    links.reverse();
    let leaf_link = PathLink {
        issuer,
        serial: *leaf.serial(),
        not_before: leaf.not_before(),
        not_after: leaf.not_after(),
        spki_sha256: leaf.spki_sha256(),
    };
    Ok(VerifiedPeer::new(
        leaf.id().clone(),
        domain.name().clone(),
        leaf_link,
        links,
    ))
}

/// The presented certificates that continue the path by name, in the order sent and each name once. A peer may send
/// more (RFC 8446, section 4.4.2); leaving the rest out keeps path building linear, so that hostile chains of a few
/// shared names cannot make webpki try their permutations.
fn issuers_in_order<'a>(
    leaf: &CertificateDer<'_>,
    rest: &'a [CertificateDer<'a>],
) -> Result<Vec<CertificateDer<'a>>, webpki::Error> {
    let mut wanted = EndEntityCert::try_from(leaf)?.issuer().to_vec();
    let mut names: Vec<Vec<u8>> = Vec::with_capacity(rest.len());
    let mut issuers = Vec::with_capacity(rest.len());
    for der in rest {
        // A name that comes again, a root's own first of all, leads no further up.
        if names.contains(&wanted) {
            break;
        }
        let cert = EndEntityCert::try_from(der)?;
        if cert.subject() == wanted {
            issuers.push(CertificateDer::from(der.as_ref()));
            names.push(std::mem::replace(&mut wanted, cert.issuer().to_vec()));
        }
    }
    Ok(issuers)
}

pub(crate) fn key_id(spki_der: &[u8]) -> IssuerKeyId {
    let mut octets = [0; 32];
    octets.copy_from_slice(digest(&SHA256, spki_der).as_ref());
    IssuerKeyId::new(octets)
}

impl ExtendedKeyUsageValidator for Usage {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // id-kp-serverAuth and id-kp-clientAuth (RFC 5280, section 4.2.1.12).
        const SERVER: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 1]);
        const CLIENT: KeyPurposeId<'static> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2]);
        let (mut any, mut server, mut client) = (false, false, false);
        for purpose in purposes {
            let purpose = purpose?;
            any = true;
            server |= purpose == SERVER;
            client |= purpose == CLIENT;
        }
        let missing = match self {
            _ if !any => return Ok(()),
            Self::Client | Self::Both if !client => webpki::KeyUsage::client_auth(),
            Self::Server | Self::Both if !server => webpki::KeyUsage::server_auth(),
            _ => return Ok(()),
        };
        Err(webpki::Error::RequiredEkuNotFoundContext(
            webpki::RequiredEkuNotFoundContext {
                required: missing,
                present: Vec::new(),
            },
        ))
    }
}
