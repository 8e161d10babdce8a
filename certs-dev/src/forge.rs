//! The certificates. Each is read back through the product's own parsers before it is handed out, so that this
//! generator cannot drift away from what the CA and the verifier take.

use std::time::Duration;

use mintage_identity::{Serial, TrustDomain, UnixTime};
use mintage_mint::{CaKey, Issuer, KeyProtection, encode_key_file};
use mintage_svid::{X509Svid, key_matches, pem};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use ring::digest::{SHA256, digest};
use time::OffsetDateTime;

use crate::{
    args::{Wanted, WantedLeaf},
    failure::Failure,
};

/// The root says in its name what it is for; whoever meets it in a list of trusted roots must not have to guess.
pub(crate) const ROOT_NAME: &str = "Mintage development root (dev.test only)";
const INTERMEDIATE_NAME: &str = "Mintage development intermediate (dev.test only)";

const DAY: Duration = Duration::from_secs(86_400);
/// Ten years and the leap days in them. Certificates of a development checkout must not expire under it; real ones live
/// for minutes.
const ROOT_LIFETIME: Duration = Duration::from_secs(3_652 * 86_400);

/// A file to write. No `Debug`: it may be a private key.
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) is_secret: bool,
}

/// A CA under construction.
struct Ca {
    issuer: rcgen::Issuer<'static, KeyPair>,
    /// Its certificate, and those above it up to the root.
    path: Vec<Vec<u8>>,
}

/// Every file of one run.
pub(crate) fn all(wanted: &Wanted) -> Result<Vec<File>, Failure> {
    let mut files = Vec::new();
    let root = root(wanted, &mut files)?;
    files.push(certificate_file("bundle", &root.path));
    let intermediate = intermediate(wanted, &root, &mut files)?;
    for leaf in &wanted.leaves {
        make_leaf(wanted, leaf, &intermediate, &mut files)?;
    }
    Ok(files)
}

fn root(wanted: &Wanted, files: &mut Vec<File>) -> Result<Ca, Failure> {
    let key = KeyPair::generate()?;
    let mut params = ca_params(wanted, ROOT_NAME, ROOT_LIFETIME)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let der = params.self_signed(&key)?.der().to_vec();
    finish_ca("root", wanted, params, key, vec![der], files)
}

fn intermediate(wanted: &Wanted, root: &Ca, files: &mut Vec<File>) -> Result<Ca, Failure> {
    let key = KeyPair::generate()?;
    let mut params = ca_params(wanted, INTERMEDIATE_NAME, ROOT_LIFETIME - DAY)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let der = params.signed_by(&key, &root.issuer)?.der().to_vec();
    let path = vec![der, root.path[0].clone()];
    finish_ca("intermediate", wanted, params, key, path, files)
}

/// Loads the CA as the product would, then writes its files.
fn finish_ca(
    stem: &str,
    wanted: &Wanted,
    params: CertificateParams,
    key: KeyPair,
    path: Vec<Vec<u8>>,
    files: &mut Vec<File>,
) -> Result<Ca, Failure> {
    Issuer::load(&wanted.domain, CaKey::from_pkcs8(key.serialized_der())?, path.clone())?;
    files.push(certificate_file(stem, &path[..1]));
    files.push(key_file(stem, &key, &wanted.domain)?);
    Ok(Ca {
        issuer: rcgen::Issuer::new(params, key),
        path,
    })
}

fn make_leaf(wanted: &Wanted, leaf: &WantedLeaf, issuer: &Ca, files: &mut Vec<File>) -> Result<(), Failure> {
    let key = KeyPair::generate()?;
    let mut params = params(wanted, leaf.id.as_str(), ROOT_LIFETIME - 2 * DAY)?;
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(leaf.id.as_str().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let der = params.signed_by(&key, &issuer.issuer)?.der().to_vec();
    let chain = vec![der, issuer.path[0].clone()];
    // What a workload would check before it used this: the rules of the standard, and that the key fits.
    let svid = X509Svid::parse(chain.clone())?;
    if svid.id() != &leaf.id || !key_matches(&chain[0], key.serialized_der())? {
        return Err(Failure::DoesNotHold(leaf.id.clone()));
    }
    files.push(certificate_file(&leaf.stem, &chain));
    files.push(key_file(&leaf.stem, &key, &wanted.domain)?);
    Ok(())
}

fn ca_params(wanted: &Wanted, name: &str, lifetime: Duration) -> Result<CertificateParams, Failure> {
    let mut params = params(wanted, name, lifetime)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(wanted.domain.id().as_str().try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Dates and serial: functions of the start date and of what the certificate is for.
fn params(wanted: &Wanted, purpose: &str, lifetime: Duration) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::default();
    params.not_before = instant(wanted.not_before)?;
    params.not_after = instant(wanted.not_before.plus(lifetime))?;
    params.serial_number = Some(rcgen::SerialNumber::from_slice(serial_of(purpose).octets()));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The serial is a hash of what the certificate is for: the same on every run, and of the shape of real ones.
fn serial_of(purpose: &str) -> Serial {
    let hash = digest(&SHA256, format!("mintage-certs-dev\0{purpose}").as_bytes());
    let mut octets = [0; 16];
    octets.copy_from_slice(&hash.as_ref()[..16]);
    Serial::from_random(octets)
}

fn instant(at: UnixTime) -> Result<OffsetDateTime, Failure> {
    OffsetDateTime::from_unix_timestamp(at.seconds()).map_err(|_| Failure::Date {
        text: at.seconds().to_string(),
    })
}

fn certificate_file(stem: &str, ders: &[Vec<u8>]) -> File {
    File {
        name: format!("{stem}.pem"),
        text: pem::encode_certificates(ders),
        is_secret: false,
    }
}

fn key_file(stem: &str, key: &KeyPair, domain: &TrustDomain) -> Result<File, Failure> {
    // The random octets are for encryption; a key in clear, which only a test domain may have, uses none.
    let text = encode_key_file(
        key.serialized_der(),
        &KeyProtection::ClearForTestDomainOnly,
        domain,
        &[0; 32],
    )?;
    Ok(File {
        name: format!("{stem}.key"),
        text: text.as_str().to_owned(),
        is_secret: true,
    })
}
