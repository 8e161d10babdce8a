//! Certificates for tests: a root, and leaves that differ from a good one in what a test changes.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};

pub(crate) const KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
pub(crate) const ALT_NAME: [u64; 4] = [2, 5, 29, 17];
pub(crate) const CONSTRAINTS: [u64; 4] = [2, 5, 29, 19];

pub(crate) struct Ca {
    pub(crate) der: Vec<u8>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn extension(oid: &[u64], critical: bool, content: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
    extension.set_criticality(critical);
    extension
}

pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(1u64));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri("spiffe://example.org")];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn root_of(params: CertificateParams) -> Ca {
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Ca {
        der,
        issuer: Issuer::new(params, key),
    }
}

pub(crate) fn root() -> Ca {
    root_of(ca_params("root"))
}

impl Ca {
    pub(crate) fn below(&self, params: CertificateParams) -> Ca {
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Ca {
            der,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn crl(&self, params: rcgen::CertificateRevocationListParams) -> Vec<u8> {
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    pub(crate) fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        self.leaf_for(&KeyPair::generate().unwrap(), change)
    }

    pub(crate) fn leaf_for(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&[0x41; 16]));
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri("spiffe://example.org/web")];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }
}

/// Replaces the only occurrence of `from`.
pub(crate) fn patch(der: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = der.windows(from.len()).position(|window| window == from).unwrap();
    let mut patched = der.to_vec();
    patched[at..at + to.len()].copy_from_slice(to);
    patched
}

/// Modulus of the key that signed the RSA samples of the tests (made with OpenSSL, private half thrown away).
pub(crate) const RSA_SAMPLE_N: &str = "\
    mix5H4xLwS7LbNUbZZlnqq70ykBAMOPWxN4fXj2SNoekExuaeQQshSA0ai-UXvcb32_mOOLWWa8noCjyBmA0bgMZ_WGjE-RAPT0x\
    Jfl6AhYzJfhqaVpgs19TFxcCEFEpK-OoaoDoJHB_BohQSK-IMNvPnrpzcLZDe9DdF4WB5wn-_eAheZ28D_m5-W5TUBvyJZKEqZ3j\
    fDOJg9YOP4L3iAudTiNkvNEh3W4--Sbn5az9b-JjBTdsRYJPhhmLw8G5iIBoveNybM4fJO7Idmmp1rZdGR_jVKX-yfeWSB1TbdQE\
    Ud-ad_E24Yoo0ZTrkl-CclnW8dZYxxRyVtWjWfAbIw";
