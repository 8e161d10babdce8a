//! An identity in hand: a key, the chain the CA gave for it, and what our own verifier found out about both.

use std::{fmt, sync::Arc};

use mintage_identity::{Serial, SpiffeId, UnixTime};
use mintage_svid::{
    key_matches,
    pem::{decode_certificates, decode_private_key, encode_certificates, encode_private_key},
};
use mintage_verifier::{AllowedIds, Trust, Usage, VerifiedPeer};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

/// A verified key and chain. Only [`Held::verify`] makes one.
pub(crate) struct Held {
    key: Zeroizing<Vec<u8>>,
    chain: Vec<Vec<u8>>,
    peer: VerifiedPeer,
}

/// A key and chain that nobody has verified yet, as read from disk or just minted.
pub(crate) struct Unverified {
    /// PKCS#8 DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// DER, leaf first, without the root.
    pub(crate) chain: Vec<Vec<u8>>,
}

impl Held {
    /// Verifies everything a peer would, and that the key is the leaf's: chain to the bundle, SPIFFE rules, dates,
    /// revocation, and exactly the identity that was wanted.
    pub(crate) fn verify(
        what: Unverified,
        id: &SpiffeId,
        trust: &Trust,
        provider: &CryptoProvider,
        now: UnixTime,
    ) -> Result<Arc<Self>, String> {
        let presented: Vec<CertificateDer<'_>> = what.chain.iter().map(|der| der.as_slice().into()).collect();
        let only = AllowedIds::exact([id.clone()]).map_err(|error| error.to_string())?;
        let algorithms = &provider.signature_verification_algorithms;
        let peer = trust
            .verify(&presented, Usage::Both, &only, algorithms, now)
            .map_err(|error| format!("the certificate does not verify: {error}"))?;
        match key_matches(&what.chain[0], &what.key) {
            Ok(true) => {}
            Ok(false) => return Err("the certificate is for another key".to_owned()),
            Err(error) => return Err(format!("key and certificate cannot be compared: {error}")),
        }
        Ok(Arc::new(Self {
            key: what.key,
            chain: what.chain,
            peer,
        }))
    }

    /// The private key, PKCS#8 DER.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// DER, leaf first, without the root.
    pub(crate) fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    pub(crate) fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }

    pub(crate) fn id(&self) -> &SpiffeId {
        self.peer.id()
    }

    pub(crate) fn serial(&self) -> &Serial {
        self.peer.serial()
    }

    pub(crate) fn not_before(&self) -> UnixTime {
        self.peer.not_before()
    }

    pub(crate) fn not_after(&self) -> UnixTime {
        self.peer.not_after()
    }

    /// One text with the key first and then the chain: a pair that cannot come apart.
    pub(crate) fn to_pem(&self) -> Zeroizing<Vec<u8>> {
        to_pem(&self.key, &self.chain)
    }
}

/// The key first, then the chain.
pub(crate) fn to_pem(key: &[u8], chain: &[Vec<u8>]) -> Zeroizing<Vec<u8>> {
    let key = encode_private_key(key);
    let chain = encode_certificates(chain);
    // Made at full size: growing would leave copies of the key behind.
    let mut text = Zeroizing::new(Vec::with_capacity(key.len() + chain.len()));
    text.extend_from_slice(key.as_bytes());
    text.extend_from_slice(chain.as_bytes());
    text
}

/// Reads what [`to_pem`] wrote.
pub(crate) fn from_pem(bytes: &[u8]) -> Result<Unverified, String> {
    const BOUNDARY: &str = "-----BEGIN CERTIFICATE-----";
    let text = std::str::from_utf8(bytes).map_err(|_| "is not text".to_owned())?;
    let at = text.find(BOUNDARY).unwrap_or(text.len());
    let key = decode_private_key(&text[..at]).map_err(|error| error.to_string())?;
    let chain = match &text[at..] {
        "" => Vec::new(),
        certificates => decode_certificates(certificates).map_err(|error| error.to_string())?,
    };
    Ok(Unverified { key, chain })
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("id", self.id())
            .field("serial", self.serial())
            .field("key", &"...")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber};

    use super::*;
    use crate::crls::tests::{Ca, NOW, bundle};

    /// A pair for `/web` with these DNS names, certified by this CA's root.
    pub(crate) fn held_by(ca: &Ca, serial: u64, dns_names: &[&str]) -> Arc<Held> {
        let id = SpiffeId::parse("spiffe://dev.test/web").unwrap();
        let names: Vec<String> = dns_names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(serial));
        params.use_authority_key_identifier_extension = true;
        params
            .subject_alt_names
            .push(SanType::URI(id.to_string().try_into().unwrap()));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let pair = Unverified {
            chain: vec![params.signed_by(&key, ca.issuer()).unwrap().der().to_vec()],
            key: key.serialize_der().into(),
        };
        let trust = bundle(&[ca]).roots_trust().unwrap();
        Held::verify(pair, &id, &trust, &rustls::crypto::ring::default_provider(), NOW).unwrap()
    }
}
