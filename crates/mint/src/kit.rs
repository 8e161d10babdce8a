//! What the tests share: a CA, Grants through the policy's own door, a journal in memory, and OpenSSL as a peer.

use std::{
    path::Path,
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use mintage_attest::{
    Attested,
    channel::{AgentCertificate, AgentSession, AgentStanding, verify_session},
};
use mintage_identity::{
    AgentInstance, AgentName, Audiences, EntryName, IssuerKeyId, Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime,
};
use mintage_ledger::{
    AppendError, Batch, Journal, LedgerError, Log, LogKey, NoteSignature, Origin, SignedCheckpoint, Stored,
};
use mintage_policy::{
    AgentState, AgentStatus, Entry, EntryView, Floor, Grant, IssuancePolicy, JwtGrant, RawEntry, Want, decide,
    decide_jwt,
};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{CaDates, CaKey, Issuer, ProvenKey, make_intermediate, make_root};

/// 2026-11-23T21:00:00Z, and half a second.
pub(crate) const NOW: UnixTime = UnixTime::from_millis(1_795_467_600_500);

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("dev.test").unwrap()
}

pub(crate) fn serial(fill: u8) -> Serial {
    Serial::from_random([fill; 16])
}

pub(crate) struct Ca {
    pub(crate) root: Issuer,
    pub(crate) issuing: Issuer,
}

pub(crate) fn ca() -> Ca {
    ca_with(CaDates::root(NOW), CaDates::intermediate(NOW))
}

pub(crate) fn ca_with(root_dates: CaDates, dates: CaDates) -> Ca {
    let root_key = CaKey::generate().unwrap().0;
    let root_der = make_root(&domain(), &root_key, serial(1), root_dates).unwrap();
    let root = Issuer::load(&domain(), root_key, vec![root_der.clone()]).unwrap();
    let key = CaKey::generate().unwrap().0;
    let der = make_intermediate(&root, &key, serial(2), dates).unwrap();
    let issuing = Issuer::load(&domain(), key, vec![der, root_der]).unwrap();
    Ca { root, issuing }
}

/// A workload's key: the private half in PKCS#8, and the proof.
pub(crate) fn workload_key() -> (Zeroizing<Vec<u8>>, ProvenKey) {
    let pkcs8 = CaKey::generate().unwrap().1;
    let proven = ProvenKey::of_private_key(&pkcs8).unwrap();
    (pkcs8, proven)
}

pub(crate) fn entry() -> RawEntry {
    RawEntry {
        name: "web".into(),
        spiffe_id: "spiffe://dev.test/demo/web".into(),
        agents: vec!["spiffe://dev.test/mintage/agent/*".into()],
        selectors: vec!["unix:uid:1000".into()],
        ..RawEntry::default()
    }
}

/// A Grant for the plain entry.
pub(crate) fn grant() -> Grant {
    grant_for(&entry(), None, NOW)
}

pub(crate) fn grant_for(raw: &RawEntry, floor: Option<UnixTime>, now: UnixTime) -> Grant {
    let entry = raw
        .validate(&TrustDomain::parse(raw.spiffe_id.split('/').nth(2).unwrap()).unwrap())
        .unwrap();
    let want = Want::Entry(EntryName::parse(&raw.name).unwrap());
    let view = OneEntry { entry, floor };
    decide(&attested(now), &want, &view, now, &IssuancePolicy::default()).unwrap()
}

/// A Grant for a token of the entry.
pub(crate) fn jwt_grant_for(raw: &RawEntry, floor: Option<UnixTime>, audiences: &Audiences) -> JwtGrant {
    let entry = raw.validate(&domain()).unwrap();
    let name = EntryName::parse(&raw.name).unwrap();
    let view = OneEntry { entry, floor };
    let policy = IssuancePolicy::default();
    decide_jwt(&attested(NOW), &name, audiences.clone(), &view, NOW, &policy).unwrap()
}

fn attested(now: UnixTime) -> Attested {
    let name = AgentName::parse("n1").unwrap();
    let id = SpiffeId::agent(&domain(), &name);
    let current = AgentCertificate {
        serial: serial(9),
        spki: SpkiHash::new([9; 32]),
    };
    let session = AgentSession {
        id: id.clone(),
        issuer: IssuerKeyId::new([8; 32]),
        serial: current.serial,
        not_before: now,
        not_after: now,
        spki: current.spki,
    };
    let standing = AgentStanding {
        id,
        instance: AgentInstance(4),
        banned: false,
        evicted: false,
        current,
        earlier: Vec::new(),
    };
    verify_session(&session, Some(&standing), now).unwrap()
}

struct OneEntry {
    entry: Entry,
    floor: Option<UnixTime>,
}

impl EntryView for OneEntry {
    fn entry(&self, _: &EntryName) -> Option<(&Entry, u64)> {
        Some((&self.entry, 17))
    }

    fn agent(&self, _: &AgentName) -> Option<AgentState> {
        Some(AgentState {
            instance: AgentInstance(4),
            status: AgentStatus::Active,
        })
    }

    fn floor(&self, _: &SpiffeId) -> Floor {
        self.floor.map_or(Floor::Open, Floor::Above)
    }

    fn control_index(&self) -> u64 {
        18
    }
}

/// A journal that forgets, and that can be full.
#[derive(Debug)]
pub(crate) struct MemoryJournal {
    log: Arc<Log>,
    size: Mutex<u64>,
    pub(crate) full: AtomicBool,
}

impl MemoryJournal {
    pub(crate) fn new() -> Arc<Self> {
        let origin = Origin::new(&domain(), "test", NOW).unwrap();
        let (key, _) = LogKey::generate(&Zeroizing::new([1; 32])).unwrap();
        Arc::new(Self {
            log: Arc::new(Log::new(key.vkey(&origin), 0).unwrap()),
            size: Mutex::new(0),
            full: AtomicBool::new(false),
        })
    }
}

impl Journal for MemoryJournal {
    fn log(&self) -> Arc<Log> {
        self.log.clone()
    }

    fn log_of(&self, _: u64) -> Option<Arc<Log>> {
        Some(self.log())
    }

    fn checkpoint_of(&self, _: &Log) -> Result<SignedCheckpoint, LedgerError> {
        Err(LedgerError::Closed)
    }

    fn append_batches(&self, group: &[Batch], _: u64) -> Result<u64, AppendError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(AppendError::NoSpace);
        }
        let mut size = self.size.lock().unwrap();
        let first = *size;
        *size += group.iter().map(Batch::len).sum::<usize>() as u64;
        Ok(first)
    }

    fn read_from(&self, _: u64, _: usize) -> Result<Vec<Stored>, LedgerError> {
        Ok(Vec::new())
    }

    fn size(&self) -> u64 {
        *self.size.lock().unwrap()
    }

    fn control_head(&self) -> u64 {
        0
    }

    fn watch(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn checkpoint(&self) -> Result<SignedCheckpoint, LedgerError> {
        Err(LedgerError::Closed)
    }

    fn cas_checkpoint(&self, _: u64, _: &SignedCheckpoint) -> Result<(), LedgerError> {
        Err(LedgerError::Closed)
    }

    fn add_cosignatures(&self, _: &str, _: &[NoteSignature]) -> Result<(), LedgerError> {
        Err(LedgerError::Closed)
    }

    fn poisoned(&self) -> Option<String> {
        None
    }
}

/// Runs OpenSSL in `dir`, or says that it is missing. With `CI=true` a missing peer fails the test.
pub(crate) fn openssl(dir: &Path, arguments: &str) -> Option<Output> {
    match Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(dir)
        .output()
    {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "openssl is missing: {error}"
            );
            eprintln!("SKIPPED: openssl is missing");
            None
        }
    }
}

/// As [`openssl`], and it must succeed.
pub(crate) fn openssl_ok(dir: &Path, arguments: &str) -> Option<String> {
    let output = openssl(dir, arguments)?;
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "openssl {arguments}: {text}");
    Some(text)
}

/// A new RSA key of this size in PKCS#8, made by openssl: nothing here makes one.
pub(crate) fn rsa_pkcs8(bits: usize) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let made = format!("genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:{bits} -out rsa.pem");
    openssl_ok(dir.path(), &made)?;
    // As DER `genpkey` would write PKCS#1.
    openssl_ok(
        dir.path(),
        "pkcs8 -topk8 -nocrypt -in rsa.pem -outform DER -out rsa.der",
    )?;
    Some(std::fs::read(dir.path().join("rsa.der")).unwrap())
}
