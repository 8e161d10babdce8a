//! Certificates made with a copy of a CA's issuing key, beside the CA: what a thief of the key could make.

use std::{fs, path::Path, time::Duration};

use mintage_identity::Serial;
use mintage_svid::pem;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

/// A chain for `id`, of ten minutes, that the issuing key in this data directory signed and no ledger knows.
pub fn forged(data_dir: &Path, id: &str, serial: &Serial) -> Vec<Vec<u8>> {
    let text = |name: &str| fs::read_to_string(data_dir.join(name)).expect("the CA's file");
    let key = KeyPair::from_pem(&text("keys/intermediate.key")).expect("a key in clear");
    let issuer = pem::decode_certificates(&text("intermediate.pem")).expect("a certificate");
    let issuer = issuer.into_iter().next().expect("one");
    let signer = Issuer::from_ca_cert_der(&CertificateDer::from(issuer.clone()), key).expect("an issuer");
    let now = OffsetDateTime::now_utc();
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name = DistinguishedName::new();
    leaf.serial_number = Some(SerialNumber::from_slice(serial.octets()));
    leaf.not_before = now - Duration::from_secs(30);
    leaf.not_after = now + Duration::from_secs(600);
    leaf.subject_alt_names = vec![SanType::URI(id.try_into().expect("an id"))];
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.use_authority_key_identifier_extension = true;
    let own = KeyPair::generate().expect("a key");
    vec![leaf.signed_by(&own, &signer).expect("signed").der().to_vec(), issuer]
}
