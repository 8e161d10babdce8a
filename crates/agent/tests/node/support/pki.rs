//! Root, intermediate, a replica's certificate, and leaves from CSRs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mintage_identity::{IssuerKeyId, Serial};
use mintage_verifier::IdentitySource;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{DOMAIN, issuer_id};

pub struct Pki {
    pub root_der: Vec<u8>,
    pub root_id: IssuerKeyId,
    pub issuer_der: Vec<u8>,
    pub issuer_id: IssuerKeyId,
    issuer: Issuer<'static, KeyPair>,
    issuer_pkcs8: Vec<u8>,
    pub replica: Arc<IdentitySource>,
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

fn serial() -> SerialNumber {
    let mut octets = [0; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut octets).unwrap();
    SerialNumber::from_slice(Serial::from_random(octets).octets())
}

fn params(not_before: Duration, ttl: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial());
    params.not_before = (SystemTime::now() - not_before).into();
    params.not_after = (SystemTime::now() + ttl).into();
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(Duration::from_secs(3600), Duration::from_secs(86_400));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(id: &str, ttl: Duration) -> CertificateParams {
    let mut params = params(Duration::from_secs(30), ttl);
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

impl Pki {
    pub fn new() -> Self {
        let (root_key, issuer_key, replica_key) = (key(), key(), key());
        let root_params = ca_params("Test root");
        let root_der = root_params.self_signed(&root_key).unwrap().der().to_vec();
        let root_id = issuer_id(&root_key.subject_public_key_info());
        let root = Issuer::new(root_params, root_key);
        let issuer_params = ca_params("Test intermediate");
        let issuer_der = issuer_params.signed_by(&issuer_key, &root).unwrap().der().to_vec();
        let issuer_id = issuer_id(&issuer_key.subject_public_key_info());
        let issuer_pkcs8 = issuer_key.serialize_der();
        let issuer = Issuer::new(issuer_params, issuer_key);
        let id = format!("spiffe://{DOMAIN}/mintage/ca/r1");
        let leaf = leaf_params(&id, Duration::from_secs(86_000))
            .signed_by(&replica_key, &issuer)
            .unwrap();
        // The root travels along for agents that join.
        let chain = [leaf.der().to_vec(), issuer_der.clone(), root_der.clone()];
        let replica = IdentitySource::new(
            chain.into_iter().map(CertificateDer::from).collect(),
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(replica_key.serialize_der())),
            &rustls::crypto::ring::default_provider(),
        )
        .unwrap();
        Self {
            root_der,
            root_id,
            issuer_der,
            issuer_id,
            issuer,
            issuer_pkcs8,
            replica,
        }
    }

    /// A leaf for the public key of a CSR.
    pub fn leaf(&self, csr: &[u8], id: &str, ttl: Duration) -> Vec<u8> {
        let csr = CertificateSigningRequestDer::from(csr.to_vec());
        let mut request = CertificateSigningRequestParams::from_der(&csr).unwrap();
        request.params = leaf_params(id, ttl);
        request.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    /// A leaf for a key of nobody's.
    pub fn leaf_for_another_key(&self, id: &str) -> Vec<u8> {
        leaf_params(id, Duration::from_secs(60))
            .signed_by(&key(), &self.issuer)
            .unwrap()
            .der()
            .to_vec()
    }

    /// A list of the issuing key.
    pub fn sign_list(&self, params: rcgen::CertificateRevocationListParams) -> Vec<u8> {
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    pub fn sign_as_issuer(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.issuer_pkcs8, &random).unwrap();
        pair.sign(&random, message).unwrap().as_ref().to_vec()
    }
}

/// The public key of a CSR.
pub fn spki_of(csr: &[u8]) -> Vec<u8> {
    let csr = CertificateSigningRequestDer::from(csr.to_vec());
    CertificateSigningRequestParams::from_der(&csr)
        .unwrap()
        .public_key
        .subject_public_key_info()
}
