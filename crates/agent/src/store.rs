//! What survives a restart, in the agent's data directory. Trusted: whoever can write here is this agent. Every file is
//! written whole, made durable and renamed into place; keys are mode 0600 in a directory of mode 0700.
//!
//! ```text
//! lock                    one process at a time
//! state.json              trust domain, CA addresses, instance
//! agent.pem               own key, then chain
//! joining.pem             the key a join is under way with: the same key may ask again after a lost reply
//! bundle.json             the trust bundle in force
//! federated.json          the bundles of other trust domains, and which of them each delivery is given
//! deliveries/<name>.pem   key and chain of one delivery, so that a folder that was lost can be filled without the CA
//! deliveries/<name>.receipt   where its record stands in the CA's ledger, and the proof, for deliveries that want it
//! deliveries/<name>.acted   what its servers were told of when their hooks last succeeded, for deliveries with hooks
//! revocation/             last good revocation set
//! crls/<key id>.crl       newest list of revoked certificates of a CA key, DER
//! workloads/              what callers of the socket are served; see kept.rs
//! ```

use std::{path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use mintage_identity::{IssuerKeyId, Serial, SpiffeId, TrustDomain, UnixTime};
use mintage_svid::{LeafInfo, limits::CRL_BYTES_MAX};
use mintage_sys::{
    SysError,
    dir::{Dir, create_owned, open_owned},
    lock::Lock,
    secret_file,
};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    AgentError, Delivery,
    bundle::Bundle,
    config::check_address,
    federation::{self, Federation, Remembered},
    held::{Unverified, from_pem, to_pem},
    limits::{CRL_FILES_MAX, FEDERATED_FILE_BYTES_MAX},
};

mod acted;
mod receipts;

pub(crate) use receipts::KeptReceipt;

const STATE: &str = "state.json";
const AGENT: &str = "agent.pem";
const JOINING: &str = "joining.pem";
const BUNDLE: &str = "bundle.json";
const FEDERATED: &str = "federated.json";
const DELIVERIES: &str = "deliveries";
const REVOCATION: &str = "revocation";
const CRLS: &str = "crls";
const CRL_SUFFIX: &str = ".crl";
/// Version of the files here; a newer one is refused, so that an old program never half-reads a new state.
const VERSION: u32 = 1;
/// Bytes of a key and chain: a chain is at most 48 KiB, in PEM a third more.
const PEM_BYTES_MAX: usize = 80 * 1024;
/// Bytes of a stored bundle: 64 roots and as many issuers of 16 KiB would be 3 MiB in Base64.
const BUNDLE_BYTES_MAX: usize = 4 * 1024 * 1024;
const STATE_BYTES_MAX: usize = 64 * 1024;
/// Names looked through for deliveries that are no longer configured.
const STALE_NAMES_MAX: usize = 65_536;

/// The data directory, locked for as long as the value lives.
#[derive(Debug)]
pub(crate) struct Store {
    dir: Dir,
    deliveries: Dir,
    revocation: Dir,
    crls: Dir,
    /// None for a look at a directory that an agent may be running in.
    _lock: Option<Lock>,
}

/// Who this agent is and where its CA is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) addresses: Vec<String>,
    pub(crate) instance: u64,
}

#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    trust_domain: String,
    spiffe_id: String,
    addresses: Vec<String>,
    instance: u64,
}

#[derive(Serialize, Deserialize)]
struct BundleFile {
    version: u32,
    trust_domain: String,
    sequence: u64,
    refresh_hint_seconds: u32,
    roots: Vec<String>,
    issuers: Vec<String>,
    revocation_delegations: Vec<String>,
    /// Key id and SubjectPublicKeyInfo; absent in files of agents that did not know of them.
    #[serde(default)]
    jwt_keys: Vec<(String, String)>,
}

impl Store {
    /// Opens the data directory, making it when it is missing, and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, AgentError> {
        let dir = create_owned(path)?;
        let lock = Lock::exclusive(&dir, "lock")?;
        let below = |name: &str| {
            let path = dir.path().join(name);
            match dir.create_dir_beneath(name, 0o700) {
                Ok(made) => dir.fsync().map(|()| made),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => dir.open_dir_beneath(name),
                Err(error) => Err(error),
            }
            .map_err(|error| AgentError::State {
                file: path.display().to_string(),
                problem: format!("cannot be opened: {error}"),
            })
        };
        Ok(Arc::new(Self {
            deliveries: below(DELIVERIES)?,
            revocation: below(REVOCATION)?,
            crls: below(CRLS)?,
            dir,
            _lock: Some(lock),
        }))
    }

    /// Opens a directory that an agent has made, for looking alone: nothing is made and no lock is taken.
    pub(crate) fn look(path: &Path) -> Result<Self, AgentError> {
        let dir = open_owned(path)?;
        let below = |name: &str| {
            dir.open_dir_beneath(name).map_err(|error| AgentError::State {
                file: dir.path().join(name).display().to_string(),
                problem: format!("cannot be opened: {error}"),
            })
        };
        Ok(Self {
            deliveries: below(DELIVERIES)?,
            revocation: below(REVOCATION)?,
            crls: below(CRLS)?,
            dir,
            _lock: None,
        })
    }

    /// The directory itself.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The directory of the last good revocation set.
    pub(crate) fn revocation_dir(&self) -> &Dir {
        &self.revocation
    }

    /// What is kept of other trust domains. A file that cannot be read costs what it holds until the CA is heard: less is trusted.
    pub(crate) fn federated(&self, own: &TrustDomain) -> Option<(Federation, Remembered)> {
        let read = self.read(FEDERATED, FEDERATED_FILE_BYTES_MAX);
        let read = read.map_err(|error| error.to_string());
        let found = read.and_then(|bytes| bytes.map(|bytes| federation::from_file(&bytes, own)).transpose());
        found.unwrap_or_else(|problem| {
            tracing::warn!(
                file = FEDERATED,
                problem,
                "the saved bundles of other trust domains cannot be read"
            );
            None
        })
    }

    pub(crate) fn save_federated(&self, bytes: &[u8]) -> Result<(), SysError> {
        secret_file::replace(&self.dir, FEDERATED, bytes)
    }

    /// Keeps the newest list of a CA key (DER).
    pub(crate) fn save_crl(&self, signer: &IssuerKeyId, der: &[u8]) -> Result<(), SysError> {
        secret_file::replace(&self.crls, &format!("{signer}{CRL_SUFFIX}"), der)
    }

    /// The lists kept, whatever they hold; they are verified like those that come. One that cannot be read comes again.
    pub(crate) fn crls(&self) -> Vec<Vec<u8>> {
        let names = self.crls.names(CRL_FILES_MAX).unwrap_or_default();
        let names = names.into_iter().filter_map(|name| String::from_utf8(name).ok());
        let lists = names.filter(|name| name.ends_with(CRL_SUFFIX));
        lists
            .filter_map(|name| read(&self.crls, &name, CRL_BYTES_MAX).ok().flatten())
            .map(|der| der.to_vec())
            .collect()
    }

    /// Removes the lists of keys that are no longer trusted.
    pub(crate) fn forget_other_crls(&self, held: &[IssuerKeyId]) {
        let known: Vec<Vec<u8>> = held
            .iter()
            .map(|key| format!("{key}{CRL_SUFFIX}").into_bytes())
            .collect();
        for name in self.crls.names(CRL_FILES_MAX).unwrap_or_default() {
            if let Ok(text) = std::str::from_utf8(&name)
                && !known.contains(&name)
                && let Err(error) = remove(&self.crls, text)
            {
                tracing::warn!(file = text, %error, "a list of a key that is no longer trusted stays");
            }
        }
    }

    /// Who this agent is; `None` before it joined.
    pub(crate) fn membership(&self) -> Result<Option<Membership>, AgentError> {
        let Some(bytes) = self.read(STATE, STATE_BYTES_MAX)? else {
            return Ok(None);
        };
        let broken = |problem: String| self.broken(STATE, problem);
        let file: StateFile = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        check_version(file.version).map_err(broken)?;
        let spiffe_id = SpiffeId::parse(&file.spiffe_id).map_err(|error| broken(error.to_string()))?;
        let trust_domain = TrustDomain::parse(&file.trust_domain).map_err(|error| broken(error.to_string()))?;
        file.addresses
            .iter()
            .try_for_each(|address| check_address(address))
            .map_err(broken)?;
        if file.addresses.is_empty() || !spiffe_id.is_member_of(&trust_domain) {
            return Err(broken("contradicts itself".to_owned()));
        }
        Ok(Some(Membership {
            trust_domain,
            spiffe_id,
            addresses: file.addresses,
            instance: file.instance,
        }))
    }

    pub(crate) fn save_membership(&self, of: &Membership) -> Result<(), SysError> {
        let file = StateFile {
            version: VERSION,
            trust_domain: of.trust_domain.to_string(),
            spiffe_id: of.spiffe_id.to_string(),
            addresses: of.addresses.clone(),
            instance: of.instance,
        };
        secret_file::replace(&self.dir, STATE, &json(&file))
    }

    /// The agent's own key and chain.
    pub(crate) fn agent(&self) -> Result<Option<Unverified>, AgentError> {
        self.read_pem(&self.dir, AGENT)
    }

    pub(crate) fn save_agent(&self, key: &[u8], chain: &[Vec<u8>]) -> Result<(), SysError> {
        secret_file::replace(&self.dir, AGENT, &to_pem(key, chain))
    }

    /// The key a join was begun with.
    pub(crate) fn joining_key(&self) -> Result<Option<Zeroizing<Vec<u8>>>, AgentError> {
        Ok(self.read_pem(&self.dir, JOINING)?.map(|pem| pem.key))
    }

    pub(crate) fn save_joining_key(&self, key: &[u8]) -> Result<(), SysError> {
        secret_file::replace(&self.dir, JOINING, &to_pem(key, &[]))
    }

    pub(crate) fn forget_joining_key(&self) {
        // It is the same key as in agent.pem by now; a left-over is used again at the next join, or replaced.
        let _ = self.dir.remove_file(JOINING);
    }

    /// The trust bundle in force.
    pub(crate) fn bundle(&self) -> Result<Option<Bundle>, AgentError> {
        let Some(bytes) = self.read(BUNDLE, BUNDLE_BYTES_MAX)? else {
            return Ok(None);
        };
        let broken = |problem: String| self.broken(BUNDLE, problem);
        let file: BundleFile = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        check_version(file.version).map_err(broken)?;
        let decode = |list: &[String]| -> Result<Vec<Vec<u8>>, AgentError> {
            let decoded: Result<_, _> = list.iter().map(|text| STANDARD.decode(text)).collect();
            decoded.map_err(|error| broken(error.to_string()))
        };
        let keys = file.jwt_keys.iter().map(|(kid, spki)| {
            Ok(mintage_proto::v1::JwtKey {
                kid: kid.clone(),
                spki: STANDARD.decode(spki).map_err(|error| broken(error.to_string()))?,
            })
        });
        Bundle::from_wire(&mintage_proto::v1::TrustBundle {
            trust_domain: file.trust_domain.clone(),
            sequence: file.sequence,
            roots: decode(&file.roots)?,
            refresh_hint_seconds: file.refresh_hint_seconds,
            revocation_delegations: decode(&file.revocation_delegations)?,
            issuers: decode(&file.issuers)?,
            jwt_keys: keys.collect::<Result<_, AgentError>>()?,
        })
        .map(Some)
        .map_err(broken)
    }

    pub(crate) fn save_bundle(&self, bundle: &Bundle) -> Result<(), SysError> {
        let encode = |list: &[Vec<u8>]| list.iter().map(|der| STANDARD.encode(der)).collect();
        let wire = bundle.to_wire();
        let file = BundleFile {
            version: VERSION,
            trust_domain: wire.trust_domain,
            sequence: wire.sequence,
            refresh_hint_seconds: wire.refresh_hint_seconds,
            roots: encode(&wire.roots),
            issuers: encode(&wire.issuers),
            revocation_delegations: encode(&wire.revocation_delegations),
            jwt_keys: wire
                .jwt_keys
                .iter()
                .map(|key| (key.kid.clone(), STANDARD.encode(&key.spki)))
                .collect(),
        };
        secret_file::replace(&self.dir, BUNDLE, &json(&file))
    }

    /// The last key and chain of a delivery. A file that cannot be read is no reason to stop: a new one is asked for.
    pub(crate) fn delivery(&self, delivery: &Delivery) -> Option<Unverified> {
        let name = delivery_file(delivery);
        match self.read_pem(&self.deliveries, &name) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(file = name, %error, "the saved identity of a delivery cannot be read");
                None
            }
        }
    }

    pub(crate) fn save_delivery(&self, delivery: &Delivery, pem: &[u8]) -> Result<(), SysError> {
        secret_file::replace(&self.deliveries, &delivery_file(delivery), pem)
    }

    pub(crate) fn forget_delivery(&self, delivery: &Delivery) -> Result<(), String> {
        remove(&self.deliveries, &delivery_file(delivery))?;
        remove(&self.deliveries, &receipts::file(delivery))?;
        remove(&self.deliveries, &acted::file(delivery))
    }

    /// Removes the saved keys of deliveries that are no longer configured; their certificates, each with its end.
    pub(crate) fn forget_other_deliveries(&self, configured: &[Delivery]) -> Vec<(Serial, UnixTime)> {
        let known: std::collections::HashSet<Vec<u8>> = configured
            .iter()
            .flat_map(|delivery| {
                let receipt = delivery.receipt().then(|| receipts::file(delivery));
                let acted = delivery.acts().then(|| acted::file(delivery));
                std::iter::once(delivery_file(delivery)).chain(receipt).chain(acted)
            })
            .map(String::into_bytes)
            .collect();
        let mut forgotten = Vec::new();
        for name in self.deliveries.names(STALE_NAMES_MAX).unwrap_or_default() {
            if !known.contains(&name)
                && let Ok(name) = String::from_utf8(name)
            {
                forgotten.extend(self.saved_certificate(&name));
                if let Err(error) = remove(&self.deliveries, &name) {
                    tracing::warn!(file = name, %error, "a saved identity that is no longer configured stays");
                }
            }
        }
        forgotten
    }

    /// The certificate of a saved pair; none where the file holds something else.
    fn saved_certificate(&self, name: &str) -> Option<(Serial, UnixTime)> {
        let pair = self.read_pem(&self.deliveries, name).ok()??;
        let leaf = LeafInfo::parse(pair.chain.first()?).ok()?;
        Some((*leaf.serial(), leaf.not_after()))
    }

    /// Forgets every key: the CA retired this agent.
    pub(crate) fn forget_agent(&self) -> Result<(), String> {
        let mut failed = Vec::new();
        for name in [AGENT, JOINING, STATE] {
            failed.extend(remove(&self.dir, name).err());
        }
        self.forget_other_deliveries(&[]);
        match self.dir.fsync() {
            Ok(()) if failed.is_empty() => Ok(()),
            Ok(()) => Err(failed.join("; ")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn read(&self, name: &str, bytes_max: usize) -> Result<Option<Zeroizing<Vec<u8>>>, AgentError> {
        read(&self.dir, name, bytes_max)
    }

    fn read_pem(&self, dir: &Dir, name: &str) -> Result<Option<Unverified>, AgentError> {
        let Some(bytes) = read(dir, name, PEM_BYTES_MAX)? else {
            return Ok(None);
        };
        from_pem(&bytes).map(Some).map_err(|problem| AgentError::State {
            file: dir.path().join(name).display().to_string(),
            problem,
        })
    }

    fn broken(&self, name: &str, problem: String) -> AgentError {
        AgentError::State {
            file: self.dir.path().join(name).display().to_string(),
            problem: format!("{problem}; restore it, or remove it and join again with a new token"),
        }
    }
}

fn read(dir: &Dir, name: &str, bytes_max: usize) -> Result<Option<Zeroizing<Vec<u8>>>, AgentError> {
    match secret_file::read_beneath(dir, name, bytes_max) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.io_kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn remove(dir: &Dir, name: &str) -> Result<(), String> {
    match dir.remove_file(name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{name}: {error}")),
        _ => Ok(()),
    }
}

fn check_version(version: u32) -> Result<(), String> {
    if version == VERSION {
        return Ok(());
    }
    Err(format!("has version {version}, this program knows version {VERSION}"))
}

fn json(file: &impl Serialize) -> Vec<u8> {
    // Only strings and numbers: there is nothing that could fail to be written.
    serde_json::to_vec_pretty(file).unwrap_or_default()
}

/// One file name per folder: the entry for people, and a hash of the folder so that two of one entry differ.
fn delivery_file(delivery: &Delivery) -> String {
    named(delivery, "pem")
}

fn named(delivery: &Delivery, end: &str) -> String {
    let folder = digest(&SHA256, delivery.directory().as_os_str().as_encoded_bytes());
    format!("{}.{}.{end}", delivery.entry(), hex::encode(&folder.as_ref()[..8]))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::PathBuf};

    use mintage_identity::EntryName;

    use super::*;

    fn membership() -> Membership {
        Membership {
            trust_domain: TrustDomain::parse("dev.test").unwrap(),
            spiffe_id: SpiffeId::parse("spiffe://dev.test/mintage/agent/n1").unwrap(),
            addresses: vec!["127.0.0.1:1".to_owned()],
            instance: 7,
        }
    }

    fn store() -> (tempfile::TempDir, PathBuf, Arc<Store>) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        let store = Store::open(&path).unwrap();
        (temp, path, store)
    }

    #[test]
    fn everything_is_private_and_comes_back() {
        let (_temp, path, store) = store();
        assert!(store.membership().unwrap().is_none() && store.agent().unwrap().is_none());
        store.save_membership(&membership()).unwrap();
        store.save_agent(b"key", &[b"leaf".to_vec(), b"ca".to_vec()]).unwrap();
        store.save_joining_key(b"joining").unwrap();
        assert_eq!(store.membership().unwrap(), Some(membership()));
        let agent = store.agent().unwrap().unwrap();
        assert_eq!((agent.key.as_slice(), agent.chain.len()), (b"key".as_slice(), 2));
        assert_eq!(store.joining_key().unwrap().unwrap().as_slice(), b"joining");
        let mode = |at: &Path| std::fs::metadata(at).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o700);
        for name in [AGENT, JOINING, STATE] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
        store.forget_agent().unwrap();
        assert!(store.membership().unwrap().is_none() && store.agent().unwrap().is_none());
    }

    #[test]
    fn a_second_agent_on_the_same_data_directory_is_refused() {
        let (_temp, path, _store) = store();
        let said = Store::open(&path).unwrap_err().to_string();
        assert!(said.contains("another process"), "{said}");
    }

    #[test]
    fn deliveries_of_one_entry_in_two_folders_are_two_files_and_stale_ones_go() {
        let (_temp, path, store) = store();
        let of = |dir: &str| Delivery::new(EntryName::parse("web").unwrap(), dir).unwrap();
        let (a, b) = (of("/run/a"), of("/run/b"));
        store.save_delivery(&a, &to_pem(b"ka", &[b"ca".to_vec()])).unwrap();
        store.save_delivery(&b, &to_pem(b"kb", &[b"cb".to_vec()])).unwrap();
        assert_eq!(store.delivery(&a).unwrap().key.as_slice(), b"ka");
        store.forget_other_deliveries(std::slice::from_ref(&b));
        assert!(store.delivery(&a).is_none());
        assert_eq!(store.delivery(&b).unwrap().key.as_slice(), b"kb");
        assert_eq!(std::fs::read_dir(path.join(DELIVERIES)).unwrap().count(), 1);
    }

    #[test]
    fn truncated_and_foreign_state_is_refused_with_the_file_and_the_remedy() {
        let (_temp, path, store) = store();
        store.save_membership(&membership()).unwrap();
        let whole = std::fs::read(path.join(STATE)).unwrap();
        for end in (1..whole.len() - 1).step_by(7) {
            std::fs::write(path.join(STATE), &whole[..end]).unwrap();
            let said = store.membership().unwrap_err().to_string();
            assert!(said.contains("state.json") && said.contains("new token"), "{said}");
        }
        let newer = String::from_utf8(whole)
            .unwrap()
            .replace("\"version\": 1", "\"version\": 2");
        std::fs::write(path.join(STATE), newer).unwrap();
        assert!(store.membership().unwrap_err().to_string().contains("version 2"));
        std::fs::set_permissions(path.join(STATE), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(store.membership().unwrap_err().to_string().contains("chmod 600"));
    }
}
