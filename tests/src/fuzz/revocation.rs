//! Signed revocation data. Mutated bytes are read as they are, which no signature survives, and signed anew by the very key,
//! so that everything behind the signature is reached too.

use std::{cell::RefCell, fs, sync::LazyLock, time::Duration};

use mintage_identity::{IdPrefix, IssuerKeyId, RevocationReason, Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime};
use mintage_revocation::{
    Delegation, DelegationStatement, Exception, IssuerCoverage, MapOwner, MapReader, MapWriter, Query, Replica,
    Revocation, RevocationKey, RevokedSerial, RevokedSet, Rule, RuleTarget, SerialKind, Terms, Verdict,
    VerifiedDelegation,
};
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};

const START: UnixTime = UnixTime::from_seconds(1_900_000_000);
const P256_SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The header: its signed part, and where length and hash of the body stand in it (FORMAT.md, section 2).
const SIGNED: usize = 256;
const HEADER: usize = 320;
const BODY_LENGTH: std::ops::Range<usize> = 200..208;
const BODY_HASH: std::ops::Range<usize> = 208..240;
const CONTEXT: &[u8] = b"mintage-revocation-header-v1\0";

/// A publisher, made once.
struct World {
    pair: Ed25519KeyPair,
    delegation: VerifiedDelegation,
    delegated: Vec<u8>,
    snapshot: Vec<u8>,
    delta: Vec<u8>,
    /// Of the set that the snapshot holds.
    heartbeat: Vec<u8>,
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

fn domain() -> TrustDomain {
    TrustDomain::parse("dev.test").expect("a trust domain")
}

const NATIVE: IssuerKeyId = IssuerKeyId::new([0x11; 32]);
const FOREIGN: IssuerKeyId = IssuerKeyId::new([0x22; 32]);

/// Two serials, of two issuers and in buckets of two spans, and a rule, of another kind each time.
fn revocation(number: u8) -> Revocation {
    let serial = |issuer, seconds| RevokedSerial {
        issuer,
        serial: Serial::from_be_octets(&[0x40 | (number & 0x3f); 16]).expect("a serial"),
        not_after: START.plus(Duration::from_secs(seconds)),
    };
    let id = |name: &str| format!("spiffe://dev.test/{name}{number}");
    let target = match number % 4 {
        0 => RuleTarget::Identity(SpiffeId::parse(&id("web")).expect("an ID")),
        1 => RuleTarget::Prefix(IdPrefix::parse(&(id("below") + "/*")).expect("a prefix")),
        2 => RuleTarget::Key(SpkiHash::new([number; 32])),
        _ => RuleTarget::Issuer(IssuerKeyId::new([number; 32])),
    };
    Revocation {
        at: START,
        serials: vec![serial(NATIVE, 600), serial(FOREIGN, 40_000)],
        rules: vec![Rule {
            target,
            cut: number.is_multiple_of(2).then_some(START),
        }],
        reason: RevocationReason::KeyCompromise,
    }
}

/// A certificate that is issued and not revoked, as far as the list of exceptions goes.
fn exception() -> Exception {
    Exception {
        issuer: NATIVE,
        serial: Serial::from_be_octets(&[0x7f; 16]).expect("a serial"),
    }
}

impl World {
    fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let ca = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("a key");
        let spki = [&P256_SPKI_HEAD[..], ca.public_key().as_ref()].concat();
        let ca_id = IssuerKeyId::from_slice(digest(&SHA256, &spki).as_ref()).expect("32 octets");
        let (key, pkcs8) = RevocationKey::generate().expect("a key");
        let end = START.plus(Duration::from_secs(90 * 86_400));
        let statement = DelegationStatement::new(&domain(), key.public_key(), 1, end, ca_id);
        let signature = ca.sign(&random, &statement.to_be_signed()).expect("a signature");
        let delegation = statement.signed(signature.as_ref().to_vec());
        let delegated = delegation.encode();

        let mut set = RevokedSet::new(&domain());
        for (sequence, id, serials) in [(1, NATIVE, SerialKind::Native), (2, FOREIGN, SerialKind::Foreign)] {
            let coverage = IssuerCoverage {
                id,
                serials,
                until: None,
            };
            set.cover_issuer(sequence, &coverage).expect("an issuer");
        }
        set.apply_revocation(10, &revocation(1)).expect("a revocation");
        let terms = Terms {
            epoch: 1,
            this_update: START,
            next_update: START.plus(Duration::from_secs(3600)),
        };
        let snapshot = key.sign_snapshot(&set, &[exception()], &terms).expect("a snapshot");
        let heartbeat = key.sign_heartbeat(&set, &terms).expect("a heartbeat");
        (2..9).for_each(|number| {
            set.apply_revocation(10 * u64::from(number), &revocation(number))
                .expect("a revocation");
        });
        Self {
            pair: Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).expect("the same key"),
            delegation: delegation.verify(&domain(), &spki, START).expect("our own"),
            delegated,
            delta: key
                .sign_delta(&set, 10, set.sequence(), &[exception()], &terms)
                .expect("a delta"),
            snapshot,
            heartbeat,
        }
    }

    fn follower(&self) -> Replica {
        let mut replica = Replica::new(&domain());
        replica.trust(self.delegation.clone()).expect("a delegation");
        replica
    }

    /// The bytes with length, hash and signature of what they are now.
    fn signed(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let Some((header, body)) = bytes.split_at_mut_checked(HEADER) else {
            return bytes;
        };
        header[BODY_LENGTH].copy_from_slice(&(body.len() as u64).to_le_bytes());
        header[BODY_HASH].copy_from_slice(digest(&SHA256, body).as_ref());
        self.sign(header);
        bytes
    }

    fn sign(&self, header: &mut [u8]) {
        let signature = self.pair.sign(&[CONTEXT, &header[..SIGNED]].concat());
        header[SIGNED..].copy_from_slice(signature.as_ref());
    }
}

pub(super) fn snapshots() -> Vec<Vec<u8>> {
    vec![WORLD.snapshot.clone()]
}

pub(super) fn snapshot(bytes: &[u8]) -> bool {
    let world = &*WORLD;
    let taken = world.follower().apply_snapshot(bytes, START);
    assert_eq!(
        taken.is_ok(),
        bytes == world.snapshot,
        "only what was signed is taken: {taken:?}"
    );
    let signed = world.signed(bytes);
    let mut follower = world.follower();
    if follower.apply_snapshot(&signed, START).is_err() {
        assert_eq!(follower.position(), None, "what is refused leaves nothing behind");
        return false;
    }
    let held = follower.position();
    assert!(held.is_some() && follower.apply_snapshot(&signed, START).is_ok());
    assert_eq!(follower.position(), held, "the same again changes nothing");
    true
}

pub(super) fn deltas() -> Vec<Vec<u8>> {
    vec![WORLD.delta.clone()]
}

pub(super) fn delta(bytes: &[u8]) -> bool {
    let world = &*WORLD;
    let follower = || {
        let mut follower = world.follower();
        follower.apply_snapshot(&world.snapshot, START).expect("our own");
        follower
    };
    let taken = follower().apply_delta(bytes, START);
    assert_eq!(
        taken.is_ok(),
        bytes == world.delta,
        "only what was signed is taken: {taken:?}"
    );
    let mut tried = follower();
    let signed = tried.apply_delta(&world.signed(bytes), START);
    assert!(
        signed.is_ok() || tried.position() == follower().position(),
        "what is refused leaves the follower where it was"
    );
    signed.is_ok()
}

pub(super) fn heartbeats() -> Vec<Vec<u8>> {
    vec![WORLD.heartbeat.clone()]
}

pub(super) fn heartbeat(bytes: &[u8]) -> bool {
    let world = &*WORLD;
    let mut follower = world.follower();
    follower.apply_snapshot(&world.snapshot, START).expect("our own");
    let held = follower.position();
    let taken = follower.heartbeat(bytes, START);
    assert_eq!(
        taken.is_ok(),
        bytes == world.heartbeat,
        "only what was signed is taken: {taken:?}"
    );
    let mut signed = bytes.to_vec();
    if let Some(header) = signed.get_mut(..HEADER) {
        world.sign(header);
    }
    let is_taken = follower.heartbeat(&signed, START).is_ok();
    assert_eq!(follower.position(), held, "a heartbeat brings no revocation");
    is_taken
}

pub(super) fn delegations() -> Vec<Vec<u8>> {
    vec![WORLD.delegated.clone()]
}

pub(super) fn delegation(bytes: &[u8]) -> bool {
    let Ok(found) = Delegation::decode(bytes) else {
        return false;
    };
    assert_eq!(found.encode(), bytes, "a delegation has one encoding");
    true
}

/// The node's map, as the agent writes it (FORMAT.md, section 7): words in this machine's order.
pub(super) fn maps() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("map");
    let mut follower = WORLD.follower();
    follower.apply_snapshot(&WORLD.snapshot, START).expect("our own");
    let mut writer = MapWriter::create(&path, &domain()).expect("a writer");
    writer.publish(&follower.view(), START).expect("a map");
    vec![fs::read(&path).expect("the map")]
}

thread_local! {
    /// Where this thread's maps lie.
    static FOLDER: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

/// The map that these bytes are, if a reader takes them; never with a revoked certificate made good by what nobody damaged.
fn opened(bytes: &[u8]) -> Option<MapReader> {
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| tempfile::tempdir().expect("a folder"));
        let path = folder.path().join("map");
        fs::write(&path, bytes).expect("room for a map");
        MapReader::open(&path, &domain(), MapOwner::AnyByCopy).ok()
    })
}

/// The bytes with the length and the hash of what they are now (words 2 and 5 to 8).
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let words = (bytes.len() / 8) as u64;
    let number = |bytes: &[u8], word: usize| {
        let octets = bytes.get(8 * word..8 * word + 8)?.try_into().ok()?;
        usize::try_from(u64::from_ne_bytes(octets)).ok()
    };
    let place = number(&bytes, 3).zip(number(&bytes, 4));
    let place = place.and_then(|(at, len)| Some((at.checked_mul(8)?, at.checked_mul(8)?.checked_add(len)?)));
    let directory = place.and_then(|(from, to)| bytes.get(from..to));
    let hash = directory.map(|directory| digest(&SHA256, directory));
    if let Some(length) = bytes.get_mut(16..24) {
        length.copy_from_slice(&words.to_ne_bytes());
    }
    if let Some((hash, to)) = hash.zip(bytes.get_mut(40..72)) {
        to.copy_from_slice(hash.as_ref());
    }
    bytes
}

pub(super) fn map(bytes: &[u8]) -> bool {
    let taken = opened(bytes);
    let mended = opened(&mended(bytes));
    for reader in taken.iter().chain(&mended) {
        for revoked in revocation(1).serials {
            let query = Query {
                issuer: revoked.issuer,
                serial: &revoked.serial,
                not_before: START,
                not_after: revoked.not_after,
                spiffe_id: None,
                spki_sha256: SpkiHash::new([1; 32]),
            };
            let mut verdicts = [Verdict::Good; 2];
            let view = reader.view(START);
            view.check_batch(&[query, query], START, &mut verdicts);
            // What is in the words is the agent's to answer for; how it is asked makes no difference.
            assert_eq!(verdicts, [reader.check(&query, START); 2]);
        }
    }
    taken.is_some() || mended.is_some()
}
