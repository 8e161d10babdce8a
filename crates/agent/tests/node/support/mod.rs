//! A small CA for tests: real TLS, real certificates, real revocation news, and a script of what goes wrong.

#![allow(unreachable_pub, reason = "a module of a test program")]

pub mod agent;
pub mod jwt;
pub mod lists;
pub mod pki;
pub mod receipts;
pub mod socket;
pub mod wire;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use mintage_attest::join_token::JoinToken;
use mintage_identity::{CertHash, IssuerKeyId, RevocationReason, Serial, TrustDomain, UnixTime};
use mintage_proto::v1::{self, ca_message::Message};
use mintage_revocation::{
    DelegationStatement, IssuerCoverage, Revocation, RevocationKey, RevokedSerial, RevokedSet, SerialKind, Terms,
};
use mintage_svid::{LeafInfo, cert_sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use zeroize::Zeroizing;

use pki::Pki;

pub const DOMAIN: &str = "dev.test";
pub const SECRET: [u8; 32] = [7; 32];

/// What the CA does wrong, and what it offers.
#[derive(Default)]
pub struct Script {
    pub entries: Vec<v1::Entry>,
    pub svid_ttl: Duration,
    pub agent_ttl: Duration,
    /// Answers to Attest that are recorded and then lost.
    pub lose_attest: u32,
    /// Streams that break right after the next Mint was recorded.
    pub break_at_mint: u32,
    /// Mint messages that are recorded and never answered.
    pub silent_mints: u32,
    /// Refuse every ask for an entry, or for these alone.
    pub refuse: Option<v1::Refusal>,
    pub refuse_only: Vec<String>,
    /// Refuse this agent on every RPC.
    pub no_agents: bool,
    /// Certify this identity instead of the entry's.
    pub wrong_id: Option<String>,
    /// Answer with a certificate for another key.
    pub wrong_key: bool,
    /// Leave the intermediate out.
    pub no_chain: bool,
    /// Send the snapshot by reference.
    pub snapshot_by_reference: bool,
    /// What the next calls for a proof are answered with; afterwards with the right one.
    pub proofs: VecDeque<Result<Vec<u8>, Status>>,
}

/// One ask as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenAsk {
    pub request_id: Vec<u8>,
    pub entry: String,
    pub spki: Vec<u8>,
}

#[derive(Default)]
pub struct Seen {
    pub attests: Vec<SeenAsk>,
    pub rejoins: Vec<SeenAsk>,
    pub asks: Vec<SeenAsk>,
    pub hellos: Vec<v1::Hello>,
    pub acks: Vec<v1::Ack>,
    pub receipts: Vec<v1::Receipt>,
    pub uses: Vec<v1::SeenUse>,
    pub snapshots: u32,
    /// Largest number of asks in one message.
    pub largest_batch: usize,
}

pub struct Revoking {
    pub key: RevocationKey,
    pub delegation: Vec<u8>,
    pub set: RevokedSet,
}

pub struct State {
    pub pki: Pki,
    pub script: Mutex<Script>,
    pub seen: Mutex<Seen>,
    pub revoking: Mutex<Revoking>,
    pub bundle_sequence: Mutex<u64>,
    /// None is a CA from before JWT-SVIDs.
    pub jwt: Mutex<Option<jwt::Minter>>,
    /// Request id to the leaf that was made for it.
    pub issued: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    /// Where agents follow the lists.
    pub lists: lists::Lists,
    pub streams: Mutex<Vec<mpsc::Sender<Result<v1::CaMessage, Status>>>>,
    /// The agent's certificates so far, newest last.
    pub agent_leaves: Mutex<Vec<Vec<u8>>>,
}

pub struct FakeCa {
    pub state: Arc<State>,
    pub address: SocketAddr,
    stop: Mutex<CancellationToken>,
}

pub fn domain() -> TrustDomain {
    TrustDomain::parse(DOMAIN).unwrap()
}

pub fn wall() -> UnixTime {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    UnixTime::from_millis(i64::try_from(since.as_millis()).unwrap())
}

/// An entry for the folder owner of these tests: our own user.
pub fn entry(name: &str, path: &str) -> v1::Entry {
    let uid = mintage_sys::process::effective_uid();
    v1::Entry {
        name: name.to_owned(),
        spiffe_id: format!("spiffe://{DOMAIN}{path}"),
        selectors: vec![format!("unix:uid:{uid}")],
        ttl_seconds: 60,
        ..v1::Entry::default()
    }
}

impl FakeCa {
    pub async fn start(entries: Vec<v1::Entry>) -> Self {
        let pki = Pki::new();
        let (key, _) = RevocationKey::generate().unwrap();
        let until = wall().plus(Duration::from_secs(86_400));
        let statement = DelegationStatement::new(&domain(), key.public_key(), 1, until, pki.issuer_id);
        let signature = pki.sign_as_issuer(&statement.to_be_signed());
        let mut set = RevokedSet::new(&domain());
        for (sequence, id) in [(1, pki.root_id), (2, pki.issuer_id)] {
            let coverage = IssuerCoverage {
                id,
                serials: SerialKind::Native,
                until: None,
            };
            set.cover_issuer(sequence, &coverage).unwrap();
        }
        let state = Arc::new(State {
            script: Mutex::new(Script {
                entries,
                svid_ttl: Duration::from_secs(60),
                agent_ttl: Duration::from_secs(3600),
                ..Script::default()
            }),
            seen: Mutex::default(),
            revoking: Mutex::new(Revoking {
                key,
                delegation: statement.signed(signature).encode(),
                set,
            }),
            bundle_sequence: Mutex::new(1),
            jwt: Mutex::default(),
            issued: Mutex::default(),
            lists: lists::Lists::default(),
            streams: Mutex::default(),
            agent_leaves: Mutex::default(),
            pki,
        });
        let stop = CancellationToken::new();
        let any = "127.0.0.1:0".parse().unwrap();
        let address = wire::serve(state.clone(), any, stop.clone()).await;
        Self {
            state,
            address,
            stop: Mutex::new(stop),
        }
    }

    /// Closes the port and every connection.
    pub fn down(&self) {
        self.stop.lock().unwrap().cancel();
        self.state.streams.lock().unwrap().clear();
    }

    pub async fn up(&self) {
        let stop = CancellationToken::new();
        wire::serve(self.state.clone(), self.address, stop.clone()).await;
        *self.stop.lock().unwrap() = stop;
    }

    pub fn token(&self) -> JoinToken {
        self.token_pinning(cert_sha256(&self.state.pki.root_der))
    }

    pub fn token_pinning(&self, root: CertHash) -> JoinToken {
        let addresses = vec![self.address.to_string()];
        JoinToken::new(addresses, vec![root], domain(), Zeroizing::new(SECRET)).unwrap()
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.state.script.lock().unwrap()
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.state.seen.lock().unwrap()
    }

    /// Asks for an entry so far.
    pub fn asks_for(&self, entry: &str) -> Vec<SeenAsk> {
        self.seen()
            .asks
            .iter()
            .filter(|ask| ask.entry == entry)
            .cloned()
            .collect()
    }

    /// Sends a message on every open stream; how many took it.
    pub fn push(&self, message: Message) -> usize {
        let message = v1::CaMessage { message: Some(message) };
        let streams = self.state.streams.lock().unwrap();
        streams
            .iter()
            .filter(|stream| stream.try_send(Ok(message.clone())).is_ok())
            .count()
    }

    /// Asks the agent to renew the identities of these entries, or of all when none is named; it has one stream, which takes it.
    pub fn renew(&self, entries: &[&str]) {
        let renew = v1::Renew {
            entries: entries.iter().map(|entry| (*entry).to_owned()).collect(),
            agent: false,
            why: "test".to_owned(),
        };
        assert_eq!(self.push(Message::Renew(renew)), 1);
    }

    /// Changes the entries and pushes the difference.
    pub fn set_entries(&self, entries: Vec<v1::Entry>) {
        let old = std::mem::replace(&mut self.script().entries, entries.clone());
        let gone = old.iter().filter(|old| !entries.iter().any(|new| new.name == old.name));
        let removed = gone.map(|old| old.name.clone()).collect();
        let delta = v1::Entries {
            full: false,
            put: entries,
            removed,
            index: 9,
            last: true,
        };
        self.push(Message::Entries(delta));
    }

    /// Revokes a serial and pushes the signed delta; its sequence.
    pub fn revoke(&self, serial: Serial, not_after: UnixTime) -> u64 {
        let mut revoking = self.state.revoking.lock().unwrap();
        let from = revoking.set.sequence();
        let sequence = from + 10;
        let revocation = Revocation {
            at: wall(),
            serials: vec![RevokedSerial {
                issuer: self.state.pki.issuer_id,
                serial,
                not_after,
            }],
            rules: Vec::new(),
            reason: RevocationReason::KeyCompromise,
        };
        revoking.set.apply_revocation(sequence, &revocation).unwrap();
        let delta = revoking
            .key
            .sign_delta(&revoking.set, from, sequence, &[], &terms())
            .unwrap();
        drop(revoking);
        self.push(Message::Revoked(v1::Revoked {
            news: Some(v1::revoked::News::Delta(delta.into())),
        }));
        sequence
    }

    pub fn bundle(&self) -> v1::TrustBundle {
        self.state.bundle()
    }
}

impl Drop for FakeCa {
    fn drop(&mut self) {
        self.down();
    }
}

pub fn terms() -> Terms {
    Terms {
        epoch: 1,
        this_update: wall(),
        next_update: wall().plus(Duration::from_secs(3600)),
    }
}

impl State {
    pub fn bundle(&self) -> v1::TrustBundle {
        v1::TrustBundle {
            trust_domain: DOMAIN.to_owned(),
            sequence: *self.bundle_sequence.lock().unwrap(),
            roots: vec![self.pki.root_der.clone()],
            refresh_hint_seconds: 300,
            revocation_delegations: vec![self.revoking.lock().unwrap().delegation.clone()],
            issuers: vec![self.pki.issuer_der.clone()],
            jwt_keys: self.jwt.lock().unwrap().iter().map(jwt::Minter::public).collect(),
        }
    }

    pub fn snapshot(&self) -> Vec<u8> {
        let revoking = self.revoking.lock().unwrap();
        revoking.key.sign_snapshot(&revoking.set, &[], &terms()).unwrap()
    }

    pub fn heartbeat(&self) -> Vec<u8> {
        let revoking = self.revoking.lock().unwrap();
        revoking.key.sign_heartbeat(&revoking.set, &terms()).unwrap()
    }

    /// The agent's newest certificate.
    pub fn agent_leaf(&self) -> Option<LeafInfo> {
        self.agent_leaves
            .lock()
            .unwrap()
            .last()
            .map(|der| LeafInfo::parse(der).unwrap())
    }
}

pub fn issuer_id(spki: &[u8]) -> IssuerKeyId {
    IssuerKeyId::new(*mintage_svid::spki_sha256(spki).as_bytes())
}
