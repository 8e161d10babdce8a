//! The CA's keys and bundle, whole, as the records leave them: what the snapshot of a shard must say of them.

use std::collections::BTreeMap;

use mintage_identity::{IssuerKeyId, UnixTime};
use mintage_ledger::wire::{BundleChange, CaEvent, CaEventKind, CaRole};
use mintage_revocation::limits::DROP_GRACE;
use mintage_state::{BundleRecord, CaKeyRecord, View};

/// The end of what has none.
const NEVER: UnixTime = UnixTime::from_millis(i64::MAX);

/// Keys by role and name, and the bundle.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    keys: BTreeMap<(i32, IssuerKeyId), CaKeyRecord>,
    bundle: Option<BundleRecord>,
}

fn signs(key: &CaKeyRecord) -> bool {
    matches!(key.role, CaRole::Root | CaRole::Intermediate | CaRole::Replica)
}

impl Recorded {
    /// An event of a key. What it leaves out stays as it was said before; one that goes back changes nothing.
    pub(super) fn event(
        &mut self,
        index: u64,
        event: &CaEvent,
        (stage, role, key_id): (CaEventKind, CaRole, IssuerKeyId),
    ) {
        let standing = self.keys.entry((event.role, key_id)).or_insert_with(|| CaKeyRecord {
            role,
            key_id,
            stage,
            certificate_der: Vec::new(),
            public_key: Vec::new(),
            statement: Vec::new(),
            not_after: None,
            changed: index,
        });
        if standing.stage as i32 > stage as i32 {
            return;
        }
        let said = [
            (&mut standing.certificate_der, &event.certificate_der),
            (&mut standing.public_key, &event.public_key),
            (&mut standing.statement, &event.statement),
        ];
        for (before, new) in said {
            if !new.is_empty() {
                before.clone_from(new);
            }
        }
        if event.not_after_s != 0 {
            standing.not_after = Some(UnixTime::from_seconds(event.not_after_s));
        }
        (standing.stage, standing.changed) = (stage, index);
    }

    /// A change of the bundle. One of no higher sequence changes nothing.
    pub(super) fn bundle(&mut self, index: u64, time: UnixTime, change: &BundleChange) {
        if self
            .bundle
            .as_ref()
            .is_some_and(|bundle| bundle.sequence >= change.sequence)
        {
            return;
        }
        let jwt_keys = change.jwt_keys.iter();
        self.bundle = Some(BundleRecord {
            sequence: change.sequence,
            roots_der: change.roots_der.clone(),
            jwt_keys: jwt_keys.map(|key| (key.kid.clone(), key.spki_der.clone())).collect(),
            index,
            changed_at: time,
        });
    }

    /// Takes up what a snapshot holds.
    pub(super) fn take_up(&mut self, view: &View) {
        let keys = view.ca_keys();
        self.keys = keys.map(|key| ((key.role as i32, key.key_id), key.clone())).collect();
        self.bundle = view.bundle().cloned();
    }

    /// That a snapshot holds the same keys, covers those that sign for as long, and holds the same bundle; `last` is the time of
    /// the last record before it.
    ///
    /// # Errors
    /// The first that differs.
    pub(super) fn agrees(&self, view: &View, last: UnixTime) -> Result<(), String> {
        for key in view.ca_keys() {
            if self.keys.get(&(key.role as i32, key.key_id)) != Some(key) {
                return Err(format!("the snapshot has another key {} than the records", key.key_id));
            }
        }
        let mut made = self.keys.values();
        if let Some(key) = made.find(|key| view.ca_key(key.role, &key.key_id).is_none()) {
            return Err(format!(
                "the snapshot lacks the key {} that the records make",
                key.key_id
            ));
        }
        self.coverage_agrees(view, last)?;
        match view.bundle() == self.bundle.as_ref() {
            true => Ok(()),
            false => Err("the snapshot has another trust bundle than the records".into()),
        }
    }

    /// Of an issuing key that is not covered until its end, revocations are forgotten before it.
    fn coverage_agrees(&self, view: &View, last: UnixTime) -> Result<(), String> {
        let mut ends = BTreeMap::new();
        for key in self.keys.values().filter(|key| signs(key)) {
            ends.insert(key.key_id, key.not_after.unwrap_or(NEVER));
        }
        let mut covered = view.revoked().covered_issuers();
        if let Some(stranger) = covered.find(|id| !ends.contains_key(id)) {
            return Err(format!(
                "the snapshot covers the issuing key {stranger}, which no record made"
            ));
        }
        // A set that is full has forgotten the keys that ended.
        let may_lack = |end: UnixTime| end < last.minus(DROP_GRACE);
        let differs = ends.iter().find(|(id, end)| match view.revoked().covered_until(id) {
            Some(until) => until != **end,
            None => !may_lack(**end),
        });
        match differs {
            Some((id, _)) => Err(format!(
                "the snapshot does not cover the issuing key {id} until its end"
            )),
            None => Ok(()),
        }
    }
}
