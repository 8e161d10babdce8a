//! Key files of the CA: where they lie, how they are protected, and how they are read. Keys are encrypted at rest under a
//! passphrase; in clear they are accepted for `.test` trust domains alone.

use std::{env, path::Path};

use mintage_identity::TrustDomain;
use mintage_ledger::Origin;
use mintage_mint::{
    KeyProtection, decode_key_file, encode_key_file,
    limits::{PASSPHRASE_BYTES_MAX, PASSPHRASE_BYTES_MIN},
};
use mintage_sys::{dir::Dir, secret_file};
use zeroize::Zeroizing;

use crate::{desk::Random, error::CaError};

/// Longest key file in bytes: an encrypted P-256 key takes about 500.
pub(crate) const KEY_FILE_BYTES_MAX: usize = 16 * 1024;
/// Files that the folder of keys may hold: one for each role, and what cut-short rolls of twenty years leave.
const KEY_FILES_MAX: usize = 512;
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
    match find_passphrase(file)? {
        Some(passphrase) => Ok(KeyProtection::Passphrase(passphrase)),
        None if domain.is_test() => Ok(KeyProtection::ClearForTestDomainOnly),
        None => Err(CaError::NoPassphrase(domain.clone())),
    }
}

/// The passphrase in a file, else in the systemd credential, where there is one.
pub(crate) fn find_passphrase(file: Option<&Path>) -> Result<Option<Zeroizing<Vec<u8>>>, CaError> {
    if let Some(file) = file {
        let secret = secret_file::read(file, PASSPHRASE_FILE_BYTES_MAX).map_err(CaError::Sys)?;
        return passphrase(&file.display().to_string(), secret).map(Some);
    }
    if let Some(directory) = env::var_os("CREDENTIALS_DIRECTORY") {
        let directory = Path::new(&directory);
        if directory.join(CREDENTIAL).exists() {
            let secret = secret_file::read_credential(directory, CREDENTIAL, PASSPHRASE_FILE_BYTES_MAX);
            return passphrase("the systemd credential \"passphrase\"", secret.map_err(CaError::Sys)?).map(Some);
        }
    }
    Ok(None)
}

fn passphrase(origin: &str, mut secret: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, CaError> {
    secret_file::trim_line_end(&mut secret);
    if (PASSPHRASE_BYTES_MIN..=PASSPHRASE_BYTES_MAX).contains(&secret.len()) {
        return Ok(secret);
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
    let text = encoded(pkcs8, protection, domain, random)?;
    secret_file::write_new(dir, name.file(), text.as_bytes()).map_err(CaError::Sys)
}

fn encoded(
    pkcs8: &[u8],
    protection: &KeyProtection,
    domain: &TrustDomain,
    random: Random,
) -> Result<Zeroizing<String>, CaError> {
    let mut octets = [0; 32];
    random.fill(&mut octets).map_err(|_| CaError::NoRandom)?;
    Ok(encode_key_file(pkcs8, protection, domain, &octets)?)
}

/// Writes the key of a log that begins, in the place of one that a roll which was cut short has left: that one signed nothing.
pub(crate) fn replace_log_key(
    dir: &Dir,
    log: &Origin,
    pkcs8: &[u8],
    protection: &KeyProtection,
    domain: &TrustDomain,
    random: Random,
) -> Result<(), CaError> {
    let text = encoded(pkcs8, protection, domain, random)?;
    secret_file::replace(dir, &log_key_file(log), text.as_bytes()).map_err(CaError::Sys)
}

/// Each log but the first, whose key `init` makes, has a key file under its shard's name.
fn log_key_file(log: &Origin) -> String {
    format!("log-{}.key", log.shard())
}

/// Removes the keys of all logs but this one, which must have one of its own.
pub(crate) fn remove_other_log_keys(dir: &Dir, log: &Origin) -> Result<(), CaError> {
    let own = log_key_file(log);
    for name in dir.names(KEY_FILES_MAX).map_err(folder(dir))? {
        let name = String::from_utf8_lossy(&name).into_owned();
        let is_log_key = name == KeyName::Log.file() || (name.starts_with("log-") && name.ends_with(".key"));
        if is_log_key && name != own {
            dir.remove_file(&name).map_err(folder(dir))?;
        }
    }
    dir.fsync().map_err(folder(dir))
}

/// Each key of JWT-SVIDs has a file under its key id.
fn jwt_key_file(kid: &str) -> String {
    format!("jwt-{kid}.key")
}

/// Writes the key of JWT-SVIDs with this key id.
pub(crate) fn write_jwt_key(
    dir: &Dir,
    kid: &str,
    pkcs8: &[u8],
    protection: &KeyProtection,
    domain: &TrustDomain,
    random: Random,
) -> Result<(), CaError> {
    let text = encoded(pkcs8, protection, domain, random)?;
    // A file of this name has the same key: its name is the key's hash.
    secret_file::replace(dir, &jwt_key_file(kid), text.as_bytes()).map_err(CaError::Sys)
}

/// Reads a key that an operator made, protected as the CA's own are, back into PKCS#8.
pub(crate) fn read_made_elsewhere(
    file: &Path,
    protection: &KeyProtection,
    domain: &TrustDomain,
) -> Result<Zeroizing<Vec<u8>>, CaError> {
    let octets = secret_file::read(file, KEY_FILE_BYTES_MAX).map_err(CaError::Sys)?;
    decoded(&file.display().to_string(), &octets, protection, domain)
}

/// Reads the key of JWT-SVIDs with this key id back into PKCS#8.
pub(crate) fn read_jwt_key(
    dir: &Dir,
    kid: &str,
    protection: &KeyProtection,
    domain: &TrustDomain,
) -> Result<Zeroizing<Vec<u8>>, CaError> {
    read_file(dir, &jwt_key_file(kid), protection, domain)
}

/// Removes the keys of JWT-SVIDs but those with these key ids.
pub(crate) fn remove_other_jwt_keys(dir: &Dir, kids: &[String]) -> Result<(), CaError> {
    let kept: Vec<String> = kids.iter().map(|kid| jwt_key_file(kid)).collect();
    for name in dir.names(KEY_FILES_MAX).map_err(folder(dir))? {
        let name = String::from_utf8_lossy(&name).into_owned();
        if name.starts_with("jwt-") && name.ends_with(".key") && !kept.contains(&name) {
            dir.remove_file(&name).map_err(folder(dir))?;
        }
    }
    dir.fsync().map_err(folder(dir))
}

fn folder(dir: &Dir) -> impl FnOnce(std::io::Error) -> CaError + '_ {
    move |error| CaError::KeyFile(dir.path().display().to_string(), error.to_string())
}

/// Reads the key of a log back into PKCS#8.
pub(crate) fn read_log_key(
    dir: &Dir,
    log: &Origin,
    protection: &KeyProtection,
    domain: &TrustDomain,
) -> Result<Zeroizing<Vec<u8>>, CaError> {
    read_file(dir, &log_key_name(dir, log)?, protection, domain)
}

/// The file of a log's key: its own, or that of the first log.
pub(crate) fn log_key_name(dir: &Dir, log: &Origin) -> Result<String, CaError> {
    let own = log_key_file(log);
    Ok(match dir.entry(&own).map_err(folder(dir))? {
        Some(_) => own,
        None => KeyName::Log.file().to_owned(),
    })
}

/// Reads a key file back into PKCS#8.
pub(crate) fn read(
    dir: &Dir,
    name: KeyName,
    protection: &KeyProtection,
    domain: &TrustDomain,
) -> Result<Zeroizing<Vec<u8>>, CaError> {
    read_file(dir, name.file(), protection, domain)
}

fn read_file(
    dir: &Dir,
    file: &str,
    protection: &KeyProtection,
    domain: &TrustDomain,
) -> Result<Zeroizing<Vec<u8>>, CaError> {
    let octets = secret_file::read_beneath(dir, file, KEY_FILE_BYTES_MAX).map_err(CaError::Sys)?;
    decoded(file, &octets, protection, domain)
}

fn decoded(
    file: &str,
    octets: &[u8],
    protection: &KeyProtection,
    domain: &TrustDomain,
) -> Result<Zeroizing<Vec<u8>>, CaError> {
    let refused = |why: String| CaError::KeyFile(file.to_owned(), why);
    let text = std::str::from_utf8(octets).map_err(|_| refused("it is no text".to_owned()))?;
    decode_key_file(text, protection, domain).map_err(|error| refused(error.to_string()))
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
