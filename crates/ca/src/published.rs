//! One published state of the revoked set, and what was signed of it: each object once, shared by all who read it. Signing
//! holds up only those who want the same object, never the next revocation.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use mintage_identity::UnixTime;
use mintage_revocation::{Exception, RevocationError, RevocationKey, RevocationKeyId, RevokedSet, Terms};

use crate::limits::{DELTAS_KEPT_MAX, NEWS_INLINE_BYTES_MAX, NEWS_LIFETIME};

/// Who signs, and in which epoch.
pub(crate) struct Signer {
    pub(crate) key: RevocationKey,
    pub(crate) epoch: u64,
}

/// A signed object; a clone shares its octets.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    pub(crate) bytes: Bytes,
    /// When it was signed.
    pub(crate) at: UnixTime,
    /// When it may no longer be taken up.
    pub(crate) until: UnixTime,
}

/// A state of the set, with the exceptions of its filter.
pub(crate) struct Published {
    signer: Arc<Signer>,
    set: RevokedSet,
    exceptions: Vec<Exception>,
    /// The sequence up to which no certificate is struck wrongly. Below that of the set, somebody may be by what came after.
    excepted_to: u64,
    snapshot: Mutex<Option<Signed>>,
    heartbeat: Mutex<Option<Signed>>,
    /// By the sequence that they continue; none where one would be too long for a message.
    deltas: Mutex<BTreeMap<u64, Option<Signed>>>,
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published")
            .field("epoch", &self.signer.epoch)
            .field("sequence", &self.sequence())
            .finish_non_exhaustive()
    }
}

impl Signed {
    fn is_of(&self, now: UnixTime, age_max: Duration) -> bool {
        // A clock that was set back makes it one of the future.
        self.at <= now && now.since(self.at) <= age_max
    }
}

impl Published {
    pub(crate) fn new(signer: Arc<Signer>, set: RevokedSet, exceptions: Vec<Exception>) -> Self {
        Self {
            signer,
            excepted_to: set.sequence(),
            set,
            exceptions,
            snapshot: Mutex::default(),
            heartbeat: Mutex::default(),
            deltas: Mutex::default(),
        }
    }

    /// The same, when its exceptions are known to be whole up to this sequence alone.
    pub(crate) fn excepted(self, excepted_to: u64) -> Self {
        Self { excepted_to, ..self }
    }

    /// The sequence up to which the exceptions are known to be whole.
    pub(crate) fn excepted_to(&self) -> u64 {
        self.excepted_to
    }

    /// Epoch of every signature.
    pub(crate) fn epoch(&self) -> u64 {
        self.signer.epoch
    }

    /// Ledger index of the last revocation in it.
    pub(crate) fn sequence(&self) -> u64 {
        self.set.sequence()
    }

    /// Number of revoked serials in it.
    pub(crate) fn serial_count(&self) -> usize {
        self.set.serial_count()
    }

    /// Hash of the set, which every object of this sequence carries.
    pub(crate) fn set_hash(&self) -> [u8; 32] {
        *self.set.hash().as_bytes()
    }

    /// Key id of the key that signs.
    pub(crate) fn key_id(&self) -> RevocationKeyId {
        self.signer.key.id()
    }

    /// The certificates that the filter would strike wrongly.
    pub(crate) fn exceptions(&self) -> &[Exception] {
        &self.exceptions
    }

    /// The whole set, signed no longer than `age_max` ago.
    ///
    /// # Errors
    /// A limit of the format is reached.
    pub(crate) fn snapshot(&self, now: UnixTime, age_max: Duration) -> Result<Signed, RevocationError> {
        kept(
            &self.snapshot,
            now,
            age_max,
            |terms| self.signer.key.sign_snapshot(&self.set, &self.exceptions, terms),
            self.signer.epoch,
        )
    }

    /// That nothing newer is known, signed no longer than `age_max` ago.
    ///
    /// # Errors
    /// None in practice.
    pub(crate) fn heartbeat(&self, now: UnixTime, age_max: Duration) -> Result<Signed, RevocationError> {
        kept(
            &self.heartbeat,
            now,
            age_max,
            |terms| self.signer.key.sign_heartbeat(&self.set, terms),
            self.signer.epoch,
        )
    }

    /// What came after `from`; none where the set does not remember it, or the delta is too long for a message.
    ///
    /// # Errors
    /// A limit of the format is reached.
    pub(crate) fn delta(&self, from: u64, now: UnixTime) -> Result<Option<Signed>, RevocationError> {
        let to = self.sequence();
        if from == 0 || from >= to || self.set.hash_at(from).is_none() {
            return Ok(None);
        }
        let mut deltas = locked(&self.deltas);
        match deltas.get(&from) {
            Some(None) => return Ok(None),
            Some(Some(delta)) if delta.is_of(now, NEWS_LIFETIME / 2) => return Ok(Some(delta.clone())),
            _ => {}
        }
        let terms = terms(self.signer.epoch, now);
        let delta = match self
            .signer
            .key
            .sign_delta(&self.set, from, to, &self.exceptions, &terms)
        {
            Ok(octets) => (octets.len() <= NEWS_INLINE_BYTES_MAX).then(|| signed(octets, &terms)),
            Err(RevocationError::NoDelta { .. }) => None,
            Err(error) => return Err(error),
        };
        if deltas.len() >= DELTAS_KEPT_MAX {
            // The one that reaches back farthest is the longest, and wanted least.
            deltas.pop_first();
        }
        deltas.insert(from, delta.clone());
        Ok(delta)
    }

    /// Gives back the memory of what was signed; it is signed again when somebody asks. What is being signed stays, for this
    /// waits for nobody.
    pub(crate) fn forget(&self) {
        if let Ok(mut snapshot) = self.snapshot.try_lock() {
            *snapshot = None;
        }
        if let Ok(mut deltas) = self.deltas.try_lock() {
            deltas.clear();
        }
    }
}

/// What is in the place, unless it is too old: then it is signed anew.
fn kept(
    place: &Mutex<Option<Signed>>,
    now: UnixTime,
    age_max: Duration,
    sign: impl FnOnce(&Terms) -> Result<Vec<u8>, RevocationError>,
    epoch: u64,
) -> Result<Signed, RevocationError> {
    let mut place = locked(place);
    if let Some(found) = place.as_ref().filter(|found| found.is_of(now, age_max)) {
        return Ok(found.clone());
    }
    let terms = terms(epoch, now);
    let new = signed(sign(&terms)?, &terms);
    *place = Some(new.clone());
    Ok(new)
}

fn terms(epoch: u64, now: UnixTime) -> Terms {
    Terms {
        epoch,
        this_update: now,
        next_update: now.plus(NEWS_LIFETIME),
    }
}

fn signed(octets: Vec<u8>, terms: &Terms) -> Signed {
    Signed {
        bytes: octets.into(),
        at: terms.this_update,
        until: terms.next_update,
    }
}

fn locked<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each is replaced whole.
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use mintage_identity::{IssuerKeyId, RevocationReason, Serial, TrustDomain};
    use mintage_revocation::{IssuerCoverage, Revocation, RevokedSerial, SerialKind};

    use super::*;

    pub(crate) const NOW: UnixTime = UnixTime::from_seconds(1_900_000_000);
    pub(crate) const ISSUER: IssuerKeyId = IssuerKeyId::new([7; 32]);

    /// A set that covers one issuer.
    pub(crate) fn covering() -> RevokedSet {
        let mut set = RevokedSet::new(&TrustDomain::parse("dev.test").unwrap());
        let (serials, until) = (SerialKind::Native, None);
        set.cover_issuer(
            1,
            &IssuerCoverage {
                id: ISSUER,
                serials,
                until,
            },
        )
        .unwrap();
        set
    }

    /// Adds one record with so many serials, each another than all `before`.
    pub(crate) fn revoke(set: &mut RevokedSet, before: u128, count: u128) {
        let serials = (before..before + count).map(|number| {
            // An odd factor makes a row of numbers as strewn as serials are.
            let strewn = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            RevokedSerial {
                issuer: ISSUER,
                serial: Serial::from_random(strewn.to_be_bytes()),
                not_after: NOW.plus(Duration::from_secs(600)),
            }
        });
        let revocation = Revocation {
            at: NOW,
            serials: serials.collect(),
            rules: Vec::new(),
            reason: RevocationReason::Unspecified,
        };
        set.apply_revocation(set.sequence() + 1, &revocation).unwrap();
    }

    fn published(records: u128) -> Published {
        let mut set = covering();
        for record in 0..records {
            revoke(&mut set, record, 1);
        }
        let (key, _) = RevocationKey::generate().unwrap();
        Published::new(Arc::new(Signer { key, epoch: 1 }), set, Vec::new())
    }

    fn is_same(one: &Signed, other: &Signed) -> bool {
        one.bytes.as_ptr() == other.bytes.as_ptr()
    }

    #[test]
    fn what_is_signed_once_is_shared_until_it_is_too_old() {
        let published = published(2);
        let minute = Duration::from_secs(60);
        let first = published.snapshot(NOW, minute).unwrap();
        assert!(is_same(&first, &published.snapshot(NOW.plus(minute), minute).unwrap()));
        let later = NOW.plus(minute * 2);
        let second = published.snapshot(later, minute).unwrap();
        assert!(!is_same(&first, &second) && second.at == later && second.until == later.plus(NEWS_LIFETIME));
        let back = published.snapshot(NOW, minute).unwrap();
        assert_eq!(back.at, NOW, "the clock was set back");
        let beat = published.heartbeat(NOW, minute).unwrap();
        assert!(is_same(&beat, &published.heartbeat(NOW, minute).unwrap()));
        let delta = published.delta(1, NOW).unwrap().unwrap();
        assert!(is_same(&delta, &published.delta(1, NOW).unwrap().unwrap()));
        published.forget();
        assert!(!is_same(&delta, &published.delta(1, NOW).unwrap().unwrap()));
    }

    #[test]
    fn deltas_continue_what_is_remembered_and_as_many_are_kept_as_may_be() {
        let published = published(DELTAS_KEPT_MAX as u128 + 8);
        let to = published.sequence();
        for from in [0, to, to + 1] {
            assert!(published.delta(from, NOW).unwrap().is_none(), "{from}");
        }
        for from in 1..to {
            assert!(published.delta(from, NOW).unwrap().is_some(), "{from}");
        }
        assert_eq!(locked(&published.deltas).len(), DELTAS_KEPT_MAX);
    }
}
