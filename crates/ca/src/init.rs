//! `init`: the one act that makes an authority. Root, issuing intermediate, ledger and revocation key are made and
//! recorded; `serve` makes none of them ever again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mintage_identity::{CertHash, ReplicaName, Serial, SpiffeId, TrustDomain, UnixTime};
use mintage_ledger::{
    Actor, Body, EncodedRecord, FileJournal, Journal, LogKey, OpenOptions, Origin, Record,
    wire::{BundleChange, CaRole, LogOpen},
};
use mintage_mint::{CaDates, CaKey, Issuer, KeyProtection, encode_key_file, make_intermediate, make_root};
use mintage_revocation::{DelegationStatement, RevocationKey};
use mintage_svid::CertInfo;
use mintage_sys::dir::Dir;
use ring::digest;
use rustls::crypto::CryptoProvider;
use zeroize::Zeroizing;

use crate::{
    ca_events::{bare, certified, introduced},
    clock::{Clock, SystemClock},
    crls,
    data_dir::{Authority, DataDir, INTERMEDIATE, ROOT},
    desk::Random,
    error::CaError,
    keys::{self, KeyName},
};

/// How long a revocation key may sign: as long as the intermediate by default.
pub(crate) const REVOCATION_KEY_LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// The first epoch of revocation; a restore raises it.
const FIRST_EPOCH: u64 = 1;
/// Mark of the development root; a root that carries it is for this trust domain alone.
const DEVELOPMENT_MARK: &[u8] = b"dev.test only";
/// The trust domain of development certificates.
const DEVELOPMENT_DOMAIN: &str = "dev.test";

/// What the CA takes from outside: clock, randomness, cryptography.
#[derive(Clone)]
pub struct Deps {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The CSPRNG.
    pub random: Random,
    /// The TLS provider; never installed for the whole process.
    pub provider: Arc<CryptoProvider>,
}

impl Deps {
    /// The machine's clock and ring.
    pub fn system() -> Self {
        let provider = rustls::crypto::ring::default_provider();
        Self {
            clock: Arc::new(SystemClock),
            random: provider.secure_random,
            provider: Arc::new(provider),
        }
    }
}

/// What `init` is told.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The trust domain to speak for.
    pub trust_domain: TrustDomain,
    /// A directory that does not exist or is empty.
    pub data_dir: PathBuf,
    /// How keys lie on disk.
    pub protection: KeyProtection,
    /// Name of this replica.
    pub replica: ReplicaName,
}

impl InitOptions {
    /// How the keys lie on disk, in words.
    pub fn keys(&self) -> &'static str {
        match self.protection {
            KeyProtection::ClearForTestDomainOnly => "in clear (a .test trust domain)",
            _ => "encrypted under the passphrase",
        }
    }
}

/// What `init` made, for people.
#[derive(Debug, Clone)]
pub struct Made {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// SHA-256 of the root certificate: what join tokens pin.
    pub root_hash: CertHash,
    /// Origin line of the ledger.
    pub origin: String,
    /// Verifier key of the ledger: keep it where an auditor finds it, away from this machine.
    pub vkey: String,
}

/// Makes an authority in a new data directory.
///
/// # Errors
/// Refuses a directory that holds anything, and keys in clear outside `.test`. On failure the directory is empty again,
/// so that the next try needs no cleaning; whatever a killed `init` leaves has no `authority.toml`, and is refused.
pub fn init(options: &InitOptions, deps: &Deps) -> Result<Made, CaError> {
    let data = DataDir::create(&options.data_dir)?;
    let _lock = data.lock()?;
    // Looked at again under the lock: another `init` may have been faster, and its authority is not ours to clear away.
    data.check_unused()?;
    make(&data, options, deps).inspect_err(|_| data.clear())
}

/// Looks whether [`init`] would make an authority, and makes nothing: neither a file nor a lock. Somebody else may still
/// be faster.
///
/// # Errors
/// As [`init`], as far as that can be known without writing.
pub fn check_init(options: &InitOptions, deps: &Deps) -> Result<(), CaError> {
    DataDir::check_creatable(&options.data_dir)?;
    let maker = Maker {
        options,
        deps,
        now: deps.clock.now(),
    };
    // A key, encoded as it would lie on disk, tries the passphrase; the names try the trust domain.
    let (key, pkcs8) = CaKey::generate()?;
    let domain = &options.trust_domain;
    encode_key_file(&pkcs8, &options.protection, domain, &maker.random()?)?;
    make_root(domain, &key, maker.serial()?, CaDates::root(maker.now))?;
    maker.origin().map(|_| ())
}

fn make(data: &DataDir, options: &InitOptions, deps: &Deps) -> Result<Made, CaError> {
    let maker = Maker {
        options,
        deps,
        now: deps.clock.now(),
    };
    let keys = data.create_keys()?;
    let chain = maker.chain(data, &keys)?;
    let (revocation, delegation) = maker.revocation_key(&chain.root, &keys)?;
    let (log, origin) = maker.log_key(&keys)?;
    let vkey = log.vkey(&origin).to_string();
    let opening = Body::LogOpen(LogOpen {
        origin: origin.to_string(),
        vkey: vkey.clone(),
        ..LogOpen::default()
    });
    let opening = maker.record(opening)?;
    let journal = FileJournal::create(&data.ledger(), &origin, &log, opening, OpenOptions::default())?;
    let bodies = maker.first_records(&chain, &log, &revocation, delegation);
    let group = bodies
        .into_iter()
        .map(|body| maker.record(body))
        .collect::<Result<Vec<_>, _>>()?;
    let appended = journal.append(&group, journal.control_head());
    appended.map_err(|error| data.problem(format!("the first records were not written: {error}")))?;
    drop(journal);
    let trust_domain = options.trust_domain.clone();
    data.write_authority(&Authority {
        trust_domain: trust_domain.clone(),
        replica: options.replica.clone(),
    })?;
    let root_hash = cert_hash(chain.root.certificate_der());
    Ok(Made {
        trust_domain,
        root_hash,
        origin: origin.to_string(),
        vkey,
    })
}

/// SHA-256 of a certificate.
pub(crate) fn cert_hash(der: &[u8]) -> CertHash {
    let mut octets = [0; 32];
    octets.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    CertHash::new(octets)
}

/// Refuses a development root outside its trust domain.
pub(crate) fn check_not_development(root: &CertInfo, domain: &TrustDomain, data: &DataDir) -> Result<(), CaError> {
    let marked = root
        .subject_raw()
        .windows(DEVELOPMENT_MARK.len())
        .any(|window| window == DEVELOPMENT_MARK);
    match marked && domain.as_str() != DEVELOPMENT_DOMAIN {
        true => Err(data.problem(format!(
            "its root is a development root, which is for {DEVELOPMENT_DOMAIN} alone"
        ))),
        false => Ok(()),
    }
}

struct Maker<'a> {
    options: &'a InitOptions,
    deps: &'a Deps,
    now: UnixTime,
}

struct Chain {
    root: Issuer,
    intermediate: CertInfo,
    intermediate_der: Vec<u8>,
}

impl Maker<'_> {
    fn random<const N: usize>(&self) -> Result<[u8; N], CaError> {
        let mut octets = [0; N];
        self.deps.random.fill(&mut octets).map_err(|_| CaError::NoRandom)?;
        Ok(octets)
    }

    fn store(&self, keys: &Dir, name: KeyName, pkcs8: &[u8]) -> Result<(), CaError> {
        keys::write(
            keys,
            name,
            pkcs8,
            &self.options.protection,
            &self.options.trust_domain,
            self.deps.random,
        )
    }

    fn serial(&self) -> Result<Serial, CaError> {
        Ok(Serial::from_random(self.random()?))
    }

    fn chain(&self, data: &DataDir, keys: &Dir) -> Result<Chain, CaError> {
        let domain = &self.options.trust_domain;
        let (root_key, root_pkcs8) = CaKey::generate()?;
        let root_der = make_root(domain, &root_key, self.serial()?, CaDates::root(self.now))?;
        let root = Issuer::load(domain, root_key, vec![root_der.clone()])?;
        check_not_development(root.info(), domain, data)?;
        let (key, pkcs8) = CaKey::generate()?;
        let intermediate_der = make_intermediate(&root, &key, self.serial()?, CaDates::intermediate(self.now))?;
        self.store(keys, KeyName::Root, &root_pkcs8)?;
        self.store(keys, KeyName::Intermediate, &pkcs8)?;
        data.write_certificate(ROOT, &root_der)?;
        data.write_certificate(INTERMEDIATE, &intermediate_der)?;
        data.write_root_list(&crls::next_root_list(data, &root, None, &[], self.now)?)?;
        let intermediate =
            CertInfo::parse_signing(&intermediate_der).map_err(|error| data.problem(error.to_string()))?;
        Ok(Chain {
            root,
            intermediate,
            intermediate_der,
        })
    }

    fn revocation_key(&self, root: &Issuer, keys: &Dir) -> Result<(RevocationKey, Vec<u8>), CaError> {
        let (key, pkcs8) = RevocationKey::generate()?;
        self.store(keys, KeyName::Revocation, &pkcs8)?;
        let until = self.now.plus(REVOCATION_KEY_LIFETIME);
        let statement = DelegationStatement::new(
            &self.options.trust_domain,
            key.public_key(),
            FIRST_EPOCH,
            until,
            root.key_id(),
        );
        let signature = root.sign_delegation(&statement.to_be_signed())?;
        Ok((key, statement.signed(signature).encode()))
    }

    fn log_key(&self, keys: &Dir) -> Result<(LogKey, Origin), CaError> {
        let (key, pkcs8) = LogKey::generate(&Zeroizing::new(self.random()?))?;
        self.store(keys, KeyName::Log, &pkcs8)?;
        Ok((key, self.origin()?))
    }

    fn origin(&self) -> Result<Origin, CaError> {
        // The id tells two authorities of one trust domain apart, such as after a new start from nothing.
        let id: String = self.random::<8>()?.iter().map(|octet| format!("{octet:02x}")).collect();
        Ok(Origin::new(&self.options.trust_domain, &id, self.now)?)
    }

    fn first_records(&self, chain: &Chain, log: &LogKey, revocation: &RevocationKey, delegation: Vec<u8>) -> Vec<Body> {
        let until = self.now.plus(REVOCATION_KEY_LIFETIME).seconds();
        let root = chain.root.info();
        let events = [
            certified(CaRole::Root, root, chain.root.certificate_der()),
            certified(CaRole::Intermediate, &chain.intermediate, &chain.intermediate_der),
            bare(CaRole::Log, &log.public_key(), Vec::new(), 0),
            bare(CaRole::Revocation, revocation.public_key(), delegation, until),
        ];
        let both = events.into_iter().flat_map(introduced);
        let bundle = BundleChange {
            sequence: 1,
            roots_der: vec![chain.root.certificate_der().to_vec()],
            jwt_keys: vec![],
        };
        both.chain([Body::BundleChange(bundle)]).collect()
    }

    fn record(&self, body: Body) -> Result<EncodedRecord, CaError> {
        let record = Record {
            time: self.now,
            salt: self.random()?,
            actor: Actor::Replica {
                id: SpiffeId::replica(&self.options.trust_domain, &self.options.replica),
            },
            attestation: None,
            request_id: None,
            replica: self.options.replica.as_str().to_owned(),
            control_seen: 0,
            body,
        };
        Ok(record.encode()?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn options(dir: &std::path::Path, protection: KeyProtection) -> InitOptions {
        InitOptions {
            trust_domain: TrustDomain::parse("example.org").expect("a trust domain"),
            data_dir: dir.join("ca"),
            protection,
            replica: ReplicaName::parse("ca-1").expect("a name"),
        }
    }

    #[test]
    fn a_mistake_leaves_nothing_behind_and_the_next_try_succeeds() {
        let folder = tempfile::tempdir().expect("a folder");
        let short = options(folder.path(), KeyProtection::Passphrase(b"short".to_vec().into()));
        init(&short, &Deps::system()).expect_err("the passphrase is too short");
        assert_eq!(fs::read_dir(&short.data_dir).expect("the folder").count(), 0);
        let good = options(
            folder.path(),
            KeyProtection::Passphrase(b"correct horse".to_vec().into()),
        );
        init(&good, &Deps::system()).expect("nothing is in the way");
        let again = init(&good, &Deps::system()).expect_err("an authority is never made twice");
        assert!(again.to_string().contains("never touches what is there"), "{again}");
        assert!(good.data_dir.join("authority.toml").exists(), "what was there stays");
    }

    #[test]
    fn a_rehearsal_finds_what_init_would_refuse_and_makes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let passphrase = |text: &[u8]| KeyProtection::Passphrase(text.to_vec().into());
        let good = options(folder.path(), passphrase(b"correct horse"));
        let told = |options: &InitOptions| check_init(options, &Deps::system()).map_err(|error| error.to_string());
        assert_eq!(told(&good), Ok(()));
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
        assert!(told(&options(folder.path(), passphrase(b"short"))).is_err());
        assert!(told(&options(folder.path(), KeyProtection::ClearForTestDomainOnly)).is_err());
        assert!(told(&options(&folder.path().join("none"), passphrase(b"correct horse"))).is_err());
        fs::write(folder.path().join("file"), "").expect("a file");
        assert!(told(&options(&folder.path().join("file"), passphrase(b"correct horse"))).is_err());
        fs::create_dir(folder.path().join("ca")).expect("an empty folder");
        assert_eq!(told(&good), Ok(()));
        fs::write(folder.path().join("ca/kept"), "").expect("a file");
        let refused = told(&good).expect_err("it is not empty");
        assert!(refused.contains("is not empty"), "{refused}");
    }

    #[test]
    fn what_a_killed_init_leaves_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = options(
            folder.path(),
            KeyProtection::Passphrase(b"correct horse".to_vec().into()),
        );
        let data = DataDir::create(&options.data_dir).expect("a directory");
        drop(data.lock().expect("the lock"));
        data.create_keys().expect("a folder of keys");
        let refused = init(&options, &Deps::system()).expect_err("it is not empty");
        assert!(refused.to_string().contains("interrupted `init`"), "{refused}");
    }
}
