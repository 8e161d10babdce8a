//! Key files of the CA: where they lie, how they are protected, and how they are read. Keys are encrypted at rest under a
//! passphrase; in clear they are accepted for `.test` trust domains alone.

use std::{env, path::Path};

use mintage_identity::TrustDomain;
use mintage_mint::{
    KeyProtection, decode_key_file, encode_key_file,
    limits::{PASSPHRASE_BYTES_MAX, PASSPHRASE_BYTES_MIN},
};
use mintage_sys::{dir::Dir, secret_file};
use zeroize::Zeroizing;

use crate::{desk::Random, error::CaError};

/// Longest key file in bytes: an encrypted P-256 key takes about 500.
pub(crate) const KEY_FILE_BYTES_MAX: usize = 16 * 1024;
/// Longest passphrase file in bytes: a passphrase of 1,024 and its line end.
const PASSPHRASE_FILE_BYTES_MAX: usize = 1026;
/// Name of the systemd credential (`LoadCredential=`) with the passphrase.
const CREDENTIAL: &str = "passphrase";

/// Which key a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyName {
    Root,
    Intermediate,
    Log,
    Revocation,
}

impl KeyName {
    pub(crate) const fn file(self) -> &'static str {
        match self {
            Self::Root => "root.key",
            Self::Intermediate => "intermediate.key",
            Self::Log => "log.key",
            Self::Revocation => "revocation.key",
        }
    }
}

/// Finds out how keys are protected: a passphrase file, else the systemd credential, else in clear for a `.test` trust
/// domain.
///
/// # Errors
/// Refuses a passphrase file that others can read, a passphrase that is too short or too long, and a trust domain outside
/// `.test` without any.
pub fn find_protection(file: Option<&Path>, domain: &TrustDomain) -> Result<KeyProtection, CaError> {
    if let Some(file) = file {
        let secret = secret_file::read(file, PASSPHRASE_FILE_BYTES_MAX).map_err(CaError::Sys)?;
        return passphrase(&file.display().to_string(), secret);
    }
    if let Some(directory) = env::var_os("CREDENTIALS_DIRECTORY") {
        let directory = Path::new(&directory);
        if directory.join(CREDENTIAL).exists() {
            let secret = secret_file::read_credential(directory, CREDENTIAL, PASSPHRASE_FILE_BYTES_MAX);
            return passphrase("the systemd credential \"passphrase\"", secret.map_err(CaError::Sys)?);
        }
    }
    match domain.is_test() {
        true => Ok(KeyProtection::ClearForTestDomainOnly),
        false => Err(CaError::NoPassphrase(domain.clone())),
    }
}

fn passphrase(origin: &str, mut secret: Zeroizing<Vec<u8>>) -> Result<KeyProtection, CaError> {
    secret_file::trim_line_end(&mut secret);
    if (PASSPHRASE_BYTES_MIN..=PASSPHRASE_BYTES_MAX).contains(&secret.len()) {
        return Ok(KeyProtection::Passphrase(secret));
    }
    Err(CaError::Passphrase {
        origin: origin.to_owned(),
        bytes: secret.len(),
    })
}

/// Writes a new key file; an existing one is never overwritten.
pub(crate) fn write(
    dir: &Dir,
    name: KeyName,
    pkcs8: &[u8],
    protection: &KeyProtection,
    domain: &TrustDomain,
    random: Random,
) -> Result<(), CaError> {
    let mut octets = [0; 32];
    random.fill(&mut octets).map_err(|_| CaError::NoRandom)?;
    let text = encode_key_file(pkcs8, protection, domain, &octets)?;
    secret_file::write_new(dir, name.file(), text.as_bytes()).map_err(CaError::Sys)
}

/// Reads a key file back into PKCS#8.
pub(crate) fn read(
    dir: &Dir,
    name: KeyName,
    protection: &KeyProtection,
    domain: &TrustDomain,
) -> Result<Zeroizing<Vec<u8>>, CaError> {
    let octets = secret_file::read_beneath(dir, name.file(), KEY_FILE_BYTES_MAX).map_err(CaError::Sys)?;
    let text = std::str::from_utf8(&octets).map_err(|_| CaError::KeyFile(name.file(), "it is no text".to_owned()))?;
    decode_key_file(text, protection, domain).map_err(|error| CaError::KeyFile(name.file(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_domain_outside_test_needs_a_passphrase() {
        let domain = TrustDomain::parse("example.org").unwrap();
        let told = find_protection(None, &domain).unwrap_err().to_string();
        assert!(told.contains("--passphrase-file"), "{told}");
        let test = TrustDomain::parse("dev.test").unwrap();
        assert!(matches!(
            find_protection(None, &test),
            Ok(KeyProtection::ClearForTestDomainOnly)
        ));
    }

    #[test]
    fn a_passphrase_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pass");
        std::fs::write(&file, "correct horse\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let domain = TrustDomain::parse("example.org").unwrap();
        assert!(find_protection(Some(&file), &domain).is_err());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        match find_protection(Some(&file), &domain).unwrap() {
            KeyProtection::Passphrase(secret) => assert_eq!(secret.as_slice(), b"correct horse"),
            other => panic!("{other:?}"),
        }
    }
}
