//! What a restore makes and records: the keys that take over, and the end of all that came before.

use std::time::Duration;

use mintage_identity::{IssuerKeyId, RevocationReason, Serial, UnixTime};
use mintage_ledger::{
    Actor, Body, EncodedRecord, FileJournal, Journal, Record,
    wire::{AdminEvent, BundleChange, BundleJwtKey, CaEvent, CaEventKind, CaRole},
};
use mintage_mint::{CaDates, CaKey, make_intermediate};
use mintage_revocation::{DelegationStatement, RevocationKey, Rule, RuleTarget};
use mintage_state::command::{RevokeRequest, Scope, revoke};
use mintage_svid::CertInfo;

use super::{
    RestorePlan,
    backup::{Backup, beyond},
    utc,
};
use crate::{
    ca_events::{bare, certified, introduced},
    data_dir::{DataDir, INTERMEDIATE},
    error::CaError,
    init::{Deps, REVOCATION_KEY_LIFETIME},
    keys::{self, KeyName},
};

/// The keys that take over.
pub(super) struct Keys {
    issuer: CertInfo,
    issuer_der: Vec<u8>,
    revocation: RevocationKey,
    delegation: Vec<u8>,
    delegated_until: UnixTime,
}

impl Keys {
    /// Makes both, below the root of the backup, and stores them in the new directory.
    pub(super) fn make(
        backup: &Backup,
        data: &DataDir,
        plan: &RestorePlan,
        (now, deps): (UnixTime, &Deps),
    ) -> Result<Self, CaError> {
        let (domain, root) = (&plan.trust_domain, backup.root());
        let dir = data.keys()?;
        let store =
            |name: KeyName, pkcs8: &[u8]| keys::write(&dir, name, pkcs8, backup.protection(), domain, deps.random);
        let (key, pkcs8) = CaKey::generate()?;
        store(KeyName::Intermediate, &pkcs8)?;
        let dates = CaDates {
            // Not backdated: it must begin above the cut.
            not_before: now.floor_to_second(),
            not_after: CaDates::intermediate(now).not_after.min(root.not_after()),
        };
        let issuer_der = make_intermediate(root, &key, Serial::from_random(random(deps)?), dates)?;
        let issuer = CertInfo::parse_signing(&issuer_der).map_err(|error| data.problem(error.to_string()))?;
        data.write_certificate(INTERMEDIATE, &issuer_der)?;
        let replaced = backup.keys_of(CaRole::Intermediate, now);
        let replaced = replaced.filter_map(|key| CertInfo::parse(&key.certificate_der).ok());
        let replaced: Vec<Serial> = replaced.map(|info| *info.serial()).collect();
        data.write_root_list(&backup.next_root_list(&replaced, now)?)?;
        let (revocation, pkcs8) = RevocationKey::generate()?;
        store(KeyName::Revocation, &pkcs8)?;
        let delegated_until = now.plus(REVOCATION_KEY_LIFETIME);
        let statement = DelegationStatement::new(
            domain,
            revocation.public_key(),
            plan.epoch,
            delegated_until,
            root.key_id(),
        );
        let signature = root.sign_delegation(&statement.to_be_signed())?;
        Ok(Self {
            issuer,
            issuer_der,
            revocation,
            delegation: statement.signed(signature).encode(),
            delegated_until,
        })
    }

    /// The new issuing key.
    pub(super) fn issuer(&self) -> IssuerKeyId {
        self.issuer.key_id()
    }
}

/// Everything that makes the directory safe to serve, to be appended as one group.
pub(super) fn bodies(backup: &Backup, plan: &RestorePlan, keys: &Keys, now: UnixTime) -> Result<Vec<Body>, CaError> {
    let told = AdminEvent {
        action: "restore".to_owned(),
        detail: format!(
            "from a backup of {} records, the last of {}; revocation epoch {}",
            plan.records,
            utc(plan.until),
            plan.epoch
        ),
    };
    let until = keys.delegated_until.seconds();
    let new = [
        certified(CaRole::Intermediate, &keys.issuer, &keys.issuer_der),
        bare(
            CaRole::Revocation,
            keys.revocation.public_key(),
            keys.delegation.clone(),
            until,
        ),
    ];
    let mut bodies = vec![Body::AdminEvent(told)];
    bodies.extend(new.into_iter().flat_map(introduced));
    bodies.extend(tainted(backup, now));
    bodies.extend(revocations(backup, plan, now)?);
    bodies.extend(bundle(backup, now));
    Ok(bodies)
}

/// The former keys sign no more, and what they signed is not trusted.
fn tainted(backup: &Backup, now: UnixTime) -> impl Iterator<Item = Body> {
    let roles = [CaRole::Intermediate, CaRole::Replica, CaRole::Revocation];
    let former = roles.into_iter().flat_map(move |role| backup.keys_of(role, now));
    let standing = former.filter(|key| (key.stage as i32) < CaEventKind::Taint as i32);
    standing.map(|key| {
        Body::CaEvent(CaEvent {
            event: CaEventKind::Taint.into(),
            role: key.role.into(),
            key_id: key.key_id.as_bytes().to_vec(),
            note: "restore".to_owned(),
            ..CaEvent::default()
        })
    })
}

/// A rule for each issuing key that is known kills what it signed. The cut on the roots kills the certificates of those
/// that are not known, made after the backup, and whatever a root signed itself; the new issuing key begins above it.
fn revocations(backup: &Backup, plan: &RestorePlan, now: UnixTime) -> Result<Vec<Body>, CaError> {
    let cut = now.floor_to_second().minus(Duration::from_secs(1));
    let is_root = |id: &IssuerKeyId| backup.view().ca_key(CaRole::Root, id).is_some();
    let rules: Vec<Rule> = plan
        .issuers
        .iter()
        .map(|id| Rule {
            target: RuleTarget::Issuer(*id),
            cut: is_root(id).then_some(cut),
        })
        .collect();
    let request = RevokeRequest {
        serials: &[],
        rules: &rules,
        reason: RevocationReason::Superseded,
        note: "restore: what was issued and revoked after the backup is not known",
        scope: &Scope::Issuer(backup.root().key_id()),
    };
    let drafted = revoke(backup.view(), &request);
    drafted.map_err(|refusal| CaError::Restore(refusal.to_string()))
}

/// The same roots under a sequence that no agent has seen. The keys of JWT-SVIDs go: nothing else ends what they signed.
fn bundle(backup: &Backup, now: UnixTime) -> Option<Body> {
    let before = backup.view().bundle()?;
    Some(Body::BundleChange(BundleChange {
        sequence: beyond(before.sequence, now),
        roots_der: before.roots_der.clone(),
        jwt_keys: Vec::<BundleJwtKey>::new(),
    }))
}

/// Appends the records: all of them durably, or none.
pub(super) fn append(
    journal: &FileJournal,
    backup: &Backup,
    bodies: Vec<Body>,
    (now, deps): (UnixTime, &Deps),
) -> Result<(), String> {
    let seen = journal.control_head();
    let encoded = bodies.into_iter().map(|body| encode(backup, body, seen, (now, deps)));
    let group = encoded
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    let appended = journal.append(&group, seen);
    appended
        .map(drop)
        .map_err(|error| format!("the records of the restore were not written: {error}"))
}

pub(super) fn encode(
    backup: &Backup,
    body: Body,
    control_seen: u64,
    (now, deps): (UnixTime, &Deps),
) -> Result<EncodedRecord, CaError> {
    let record = Record {
        time: now,
        salt: random(deps)?,
        actor: Actor::Admin {
            uid: rustix::process::geteuid().as_raw(),
            pid: std::process::id(),
            name: String::new(),
            address: "mintage-ca restore".to_owned(),
        },
        attestation: None,
        request_id: None,
        replica: backup.authority().replica.as_str().to_owned(),
        control_seen,
        body,
    };
    Ok(record.encode()?)
}

pub(super) fn random<const N: usize>(deps: &Deps) -> Result<[u8; N], CaError> {
    let mut octets = [0; N];
    deps.random.fill(&mut octets).map_err(|_| CaError::NoRandom)?;
    Ok(octets)
}
