//! Private keys at rest: PKCS#8 in PEM, encrypted under a passphrase (RFC 5958, RFC 8018 PBES2 with scrypt and
//! AES-256-CBC), so that standard tools can read them. In clear only for test domains.

use std::fmt;

use mintage_identity::TrustDomain;
use mintage_svid::pem::{self, Label};
use pkcs8::{
    EncryptedPrivateKeyInfo,
    der::{Decode, Encode},
    pkcs5::{
        EncryptionScheme,
        pbes2::{Kdf, Parameters},
        scrypt,
    },
};
use zeroize::Zeroizing;

use crate::{
    MintError,
    limits::{PASSPHRASE_BYTES_MAX, PASSPHRASE_BYTES_MIN},
};

/// scrypt cost: 16 MB of memory, five passes, about 0.2 s. OpenSSL refuses to use more than 32 MB, so more passes and
/// not more memory make guessing dear.
const SCRYPT_LOG_N: u8 = 14;
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 5;
/// Octets of the derived AES-256 key.
const AES_KEY_OCTETS: usize = 32;
/// What a key file may ask of us when it is read: eight times the above.
const SCRYPT_MEMORY_MAX: u64 = 128 * 1024 * 1024;
const SCRYPT_P_MAX: u16 = 40;
const PBKDF2_ROUNDS_MAX: u32 = 10_000_000;

/// How a key file is protected.
#[derive(Clone)]
#[non_exhaustive]
pub enum KeyProtection {
    /// Encrypted under this passphrase of 8 to 1,024 bytes.
    Passphrase(Zeroizing<Vec<u8>>),
    /// In clear. Refused for every trust domain but those below `.test` (RFC 6761, section 6.2).
    ClearForTestDomainOnly,
}

impl fmt::Debug for KeyProtection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(...)",
            Self::ClearForTestDomainOnly => "ClearForTestDomainOnly",
        })
    }
}

/// Writes a PKCS#8 private key as the text of a key file. `random` are 32 octets from a CSPRNG, never used twice.
///
/// # Errors
/// Refuses a key in clear outside a test domain, and passphrases of fewer than 8 or more than 1,024 bytes.
pub fn encode_key_file(
    pkcs8_der: &[u8],
    protection: &KeyProtection,
    trust_domain: &TrustDomain,
    random: &[u8; 32],
) -> Result<Zeroizing<String>, MintError> {
    match protection {
        KeyProtection::Passphrase(passphrase) => encrypt_key_file(pkcs8_der, passphrase, random),
        KeyProtection::ClearForTestDomainOnly => {
            check_test_domain(trust_domain)?;
            Ok(pem::encode(Label::PrivateKey, pkcs8_der))
        }
    }
}

/// Writes a PKCS#8 private key, of no trust domain's CA, as the text of an encrypted key file. `random` as above.
///
/// # Errors
/// Refuses passphrases of fewer than 8 or more than 1,024 bytes.
pub fn encrypt_key_file(
    pkcs8_der: &[u8],
    passphrase: &Zeroizing<Vec<u8>>,
    random: &[u8; 32],
) -> Result<Zeroizing<String>, MintError> {
    let passphrase = check_passphrase(passphrase)?;
    let failed = |_| MintError::KeyFile("it cannot be encrypted");
    let (salt, iv) = random.split_at(16);
    let iv = <&[u8; 16]>::try_from(iv).map_err(|_| MintError::KeyFile("it cannot be encrypted"))?;
    let cost = scrypt::Params::new(SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P, AES_KEY_OCTETS)
        .map_err(|_| MintError::KeyFile("it cannot be encrypted"))?;
    let scheme = Parameters::scrypt_aes256cbc(cost, salt, iv).map_err(failed)?;
    let encrypted_data = scheme.encrypt(passphrase, pkcs8_der).map_err(failed)?;
    let file = EncryptedPrivateKeyInfo {
        encryption_algorithm: scheme.into(),
        encrypted_data: &encrypted_data,
    };
    let der = file.to_der().map_err(|_| MintError::KeyFile("it cannot be encoded"))?;
    Ok(pem::encode(Label::EncryptedPrivateKey, &der))
}

/// Reads the text of a key file and gives the PKCS#8 private key in it.
///
/// # Errors
/// Refuses a file in clear where a passphrase is configured and the reverse, a key in clear outside a test domain, a
/// wrong passphrase, and files that ask for absurd amounts of work.
pub fn decode_key_file(
    text: &str,
    protection: &KeyProtection,
    trust_domain: &TrustDomain,
) -> Result<Zeroizing<Vec<u8>>, MintError> {
    match (Label::of(text), protection) {
        (Some(Label::PrivateKey), KeyProtection::ClearForTestDomainOnly) => {
            check_test_domain(trust_domain)?;
            Ok(pem::decode(Label::PrivateKey, text)?)
        }
        (Some(Label::EncryptedPrivateKey), KeyProtection::ClearForTestDomainOnly) => {
            Err(MintError::KeyFile("it is encrypted, give its passphrase"))
        }
        (_, KeyProtection::Passphrase(passphrase)) => decrypt_key_file(text, passphrase),
        _ => Err(MintError::KeyFile("it is no PKCS#8 private key in PEM")),
    }
}

/// Reads the text of an encrypted key file and gives the PKCS#8 private key in it.
///
/// # Errors
/// Refuses a file in clear, a wrong passphrase, and files that ask for absurd amounts of work.
pub fn decrypt_key_file(text: &str, passphrase: &Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, MintError> {
    match Label::of(text) {
        Some(Label::EncryptedPrivateKey) => {}
        Some(Label::PrivateKey) => {
            return Err(MintError::KeyFile("it is in clear although a passphrase is configured"));
        }
        _ => return Err(MintError::KeyFile("it is no PKCS#8 private key in PEM")),
    }
    let passphrase = check_passphrase(passphrase)?;
    let der = pem::decode(Label::EncryptedPrivateKey, text)?;
    let malformed = |_| MintError::KeyFile("it is malformed");
    let file = EncryptedPrivateKeyInfo::from_der(&der).map_err(malformed)?;
    check_cost(&file.encryption_algorithm)?;
    let opened = file.encryption_algorithm.decrypt(passphrase, file.encrypted_data);
    let pkcs8_der = opened
        .map(Zeroizing::new)
        .map_err(|_| MintError::KeyFile("the passphrase is wrong"))?;
    // CBC has no checksum: one wrong passphrase in 256 leaves a plausible padding behind.
    if pkcs8::PrivateKeyInfo::try_from(pkcs8_der.as_slice()).is_err() {
        return Err(MintError::KeyFile("the passphrase is wrong"));
    }
    Ok(pkcs8_der)
}

fn check_passphrase(passphrase: &Zeroizing<Vec<u8>>) -> Result<&[u8], MintError> {
    if (PASSPHRASE_BYTES_MIN..=PASSPHRASE_BYTES_MAX).contains(&passphrase.len()) {
        Ok(passphrase)
    } else {
        Err(MintError::KeyFile("its passphrase must have 8 to 1024 bytes"))
    }
}

fn check_test_domain(trust_domain: &TrustDomain) -> Result<(), MintError> {
    if trust_domain.is_test() {
        Ok(())
    } else {
        Err(MintError::KeyFile(
            "keys in clear are only for trust domains below .test: give a passphrase",
        ))
    }
}

/// The file says how much work to do; nobody who may write it must be able to exhaust this machine with it.
fn check_cost(scheme: &EncryptionScheme<'_>) -> Result<(), MintError> {
    let affordable = match scheme.pbes2().map(|scheme| &scheme.kdf) {
        Some(Kdf::Scrypt(cost)) => {
            let memory = cost
                .cost_parameter
                .saturating_mul(u64::from(cost.block_size))
                .saturating_mul(128);
            memory <= SCRYPT_MEMORY_MAX && cost.parallelization <= SCRYPT_P_MAX
        }
        Some(Kdf::Pbkdf2(cost)) => cost.iteration_count <= PBKDF2_ROUNDS_MAX,
        _ => false,
    };
    if affordable {
        Ok(())
    } else {
        Err(MintError::KeyFile(
            "its key derivation is not used here or costs too much",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        CaKey,
        kit::{domain, openssl_ok},
    };

    const RANDOM: [u8; 32] = [7; 32];

    fn passphrase(text: &str) -> KeyProtection {
        KeyProtection::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
    }

    fn outside() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    #[test]
    fn keys_of_both_kinds_survive_encryption_under_their_passphrase_alone() {
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .unwrap()
            .serialize_der();
        for pkcs8 in [CaKey::generate().unwrap().1, Zeroizing::new(ed25519)] {
            let text = encode_key_file(&pkcs8, &passphrase("correct horse"), &outside(), &RANDOM).unwrap();
            assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
            assert_eq!(
                decode_key_file(&text, &passphrase("correct horse"), &outside()).unwrap(),
                pkcs8
            );
            let refused = decode_key_file(&text, &passphrase("incorrect horse"), &outside()).unwrap_err();
            assert!(refused.to_string().contains("passphrase is wrong"), "{refused}");
        }
    }

    #[test]
    fn openssl_reads_an_encrypted_key_file_and_we_read_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (key, pkcs8) = CaKey::generate().unwrap();
        let text = encode_key_file(&pkcs8, &passphrase("correct horse"), &outside(), &RANDOM).unwrap();
        std::fs::write(dir.path().join("ca.key"), text.as_bytes()).unwrap();
        std::fs::write(dir.path().join("pass"), "correct horse").unwrap();
        // OpenSSL reads a second line of the same file for the second passphrase, so it gets a second file.
        std::fs::write(dir.path().join("again"), "correct horse").unwrap();
        let pass = "-passin file:pass";
        if openssl_ok(
            dir.path(),
            &format!("pkey -in ca.key {pass} -pubout -outform DER -out pub.der"),
        )
        .is_none()
        {
            return;
        }
        assert_eq!(std::fs::read(dir.path().join("pub.der")).unwrap(), key.spki_der());
        for kdf in [
            "-scrypt -scrypt_N 16384 -scrypt_r 8 -scrypt_p 1",
            "-v2 aes-256-cbc -iter 2048",
        ] {
            let convert = format!("pkcs8 -topk8 -in ca.key {pass} -passout file:again {kdf} -out theirs.key");
            openssl_ok(dir.path(), &convert);
            let theirs = std::fs::read_to_string(dir.path().join("theirs.key")).unwrap();
            let opened = decode_key_file(&theirs, &passphrase("correct horse"), &outside()).unwrap();
            assert!(
                mintage_svid::key_matches_spki(key.spki_der(), &opened).unwrap(),
                "{kdf}"
            );
        }
    }

    #[test]
    fn keys_in_clear_are_for_test_domains_alone() {
        let (_, pkcs8) = CaKey::generate().unwrap();
        let clear = KeyProtection::ClearForTestDomainOnly;
        let text = encode_key_file(&pkcs8, &clear, &domain(), &RANDOM).unwrap();
        assert_eq!(decode_key_file(&text, &clear, &domain()).unwrap(), pkcs8);
        assert!(encode_key_file(&pkcs8, &clear, &outside(), &RANDOM).is_err());
        assert!(decode_key_file(&text, &clear, &outside()).is_err());
        assert!(decode_key_file(&text, &passphrase("correct horse"), &domain()).is_err());
        let locked = encode_key_file(&pkcs8, &passphrase("correct horse"), &domain(), &RANDOM).unwrap();
        assert!(decode_key_file(&locked, &clear, &domain()).is_err());
    }

    #[test]
    fn weak_passphrases_and_other_text_are_refused() {
        let (_, pkcs8) = CaKey::generate().unwrap();
        for bad in ["", "1234567", &"x".repeat(1025)] {
            assert!(encode_key_file(&pkcs8, &passphrase(bad), &outside(), &RANDOM).is_err());
        }
        let text = encode_key_file(&pkcs8, &passphrase("correct horse"), &outside(), &RANDOM).unwrap();
        for bad in [
            "",
            "junk",
            &text[..text.len() / 2],
            &text.replace("ENCRYPTED PRIVATE", "EC PRIVATE"),
        ] {
            assert!(decode_key_file(bad, &passphrase("correct horse"), &outside()).is_err());
        }
    }

    #[test]
    fn a_file_that_asks_for_absurd_work_is_refused_at_once() {
        let salt = [1; 16];
        for (log_n, r, p) in [(20, 8, 1), (14, 8, 1000), (14, 1000, 1)] {
            let cost = scrypt::Params::new(log_n, r, p, 32).unwrap();
            let scheme = Parameters::scrypt_aes256cbc(cost, &salt, &salt).unwrap();
            let file = EncryptedPrivateKeyInfo {
                encryption_algorithm: scheme.into(),
                encrypted_data: &[0; 32],
            };
            let text = pem::encode(Label::EncryptedPrivateKey, &file.to_der().unwrap());
            let refused = decode_key_file(&text, &passphrase("correct horse"), &outside()).unwrap_err();
            assert!(refused.to_string().contains("costs too much"), "{refused}");
        }
    }

    #[test]
    fn no_passphrase_is_printed() {
        assert_eq!(format!("{:?}", passphrase("correct horse")), "Passphrase(...)");
    }
}
