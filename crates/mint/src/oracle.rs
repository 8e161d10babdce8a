//! Leaves as rcgen builds them: what our own encoding is held against, and how the lint is shown deviations.

use mintage_svid::{KeyKind, PublicKey};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SanType,
};

use crate::{Issuer, ProvenKey, dates::instant, lint::Expected, tbs::locate};

/// A requester's key as the subject.
struct Subject<'a>(&'a ProvenKey);

impl rcgen::PublicKeyData for Subject<'_> {
    fn subject_public_key_info(&self) -> Vec<u8> {
        self.0.spki_der().to_vec()
    }

    fn der_bytes(&self) -> &[u8] {
        PublicKey::from_spki(self.0.spki_der()).unwrap().bare()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.0.kind() {
            KeyKind::P384 => &PKCS_ECDSA_P384_SHA384,
            KeyKind::Ed25519 => &PKCS_ED25519,
            KeyKind::Rsa { .. } => &PKCS_RSA_SHA256,
            _ => &PKCS_ECDSA_P256_SHA256,
        }
    }
}

/// rcgen's description of the leaf.
pub(crate) fn params(leaf: &Expected<'_>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(name) = leaf.common_name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.not_before = instant(leaf.dates.not_before).unwrap();
    params.not_after = instant(leaf.dates.not_after).unwrap();
    params.serial_number = Some(rcgen::SerialNumber::from_slice(leaf.serial.octets()));
    params.subject_alt_names = vec![SanType::URI(leaf.spiffe_id.try_into().unwrap())];
    let dns_names = leaf.dns_names.iter().map(|name| name.as_str().try_into().unwrap());
    params.subject_alt_names.extend(dns_names.map(SanType::DnsName));
    // The only form in which rcgen writes a subject key identifier into a leaf.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::PreSpecified(leaf.subject_key_id.to_vec());
    params
}

/// The to-be-signed octets of what is described.
pub(crate) fn tbs(params: &CertificateParams, key: &ProvenKey, issuer: &Issuer) -> Vec<u8> {
    let unsigned = params.signed_by(&Subject(key), issuer.template()).unwrap();
    let place = locate(unsigned.der()).unwrap();
    unsigned.der()[place].to_vec()
}
