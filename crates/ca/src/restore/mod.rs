//! `restore`: makes a data directory out of a backup, and makes it safe to serve.
//!
//! What was issued and revoked after the backup was taken is not in it. So everything that any issuing key has signed until
//! now is revoked by rule, whatever its serial; a new issuing key and a new revocation key take over, in an epoch that
//! no follower has seen; and all of it is recorded before anything is served.
//!
//! The backup is only read. The new directory carries a mark from the first file to the last, and is not served while it
//! does: whatever ends a restore, running it again begins anew and loses nothing.

mod backup;
mod history;
mod records;
mod target;

use std::path::PathBuf;

use mintage_identity::{IssuerKeyId, TrustDomain, UnixTime};
use mintage_ledger::Journal;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(crate) use self::backup::root as root_issuer;
use self::{backup::Backup, records::Keys, target::Target};
use crate::{error::CaError, init::Deps};

/// What `restore` is told.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The copy of a data directory, taken while no CA served it.
    pub backup: PathBuf,
    /// A directory that does not exist, is empty, or holds a restore that did not come to its end.
    pub data_dir: PathBuf,
    /// File with the passphrase of the backup's keys; the new keys get the same one.
    pub passphrase_file: Option<PathBuf>,
    /// The root's key, when it is not in the backup.
    pub root_key: Option<PathBuf>,
}

/// What a restore does, for people.
#[derive(Debug, Clone)]
pub struct RestorePlan {
    /// The trust domain of the backup.
    pub trust_domain: TrustDomain,
    /// Records in the backup.
    pub records: u64,
    /// When the last of them was made: what came later is lost.
    pub until: UnixTime,
    /// Issuing keys whose certificates all die, the roots among them.
    pub issuers: Vec<IssuerKeyId>,
    /// The new epoch of revocation.
    pub epoch: u64,
}

impl RestorePlan {
    /// [`RestorePlan::until`] as people write it, in UTC (RFC 3339).
    pub fn until_utc(&self) -> String {
        utc(self.until)
    }
}

fn utc(time: UnixTime) -> String {
    let date = OffsetDateTime::from_unix_timestamp(time.seconds()).ok();
    let shown = date.and_then(|date| date.format(&Rfc3339).ok());
    shown.unwrap_or_else(|| format!("{} s after 1970", time.seconds()))
}

/// What a restore has made.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What was done.
    pub plan: RestorePlan,
    /// The new issuing key.
    pub issuer: IssuerKeyId,
    /// Records in the ledger now.
    pub records: u64,
    /// Verifier key of the ledger.
    pub vkey: String,
}

/// Checks backup and target as far as that is possible without writing, and says what [`restore`] would do.
///
/// # Errors
/// As [`restore`].
pub fn check_restore(options: &RestoreOptions, deps: &Deps) -> Result<RestorePlan, CaError> {
    let backup = Backup::open(options)?;
    Target::check(&options.data_dir)?;
    backup.plan(deps.clock.now())
}

/// Makes a data directory out of a backup, ready to be served.
///
/// # Errors
/// Refuses a backup that a CA serves, that does not verify or whose parts do not fit together, keys that do not open, a
/// clock behind the backup's last record, and a target that holds anything. On failure the target is empty again; what a
/// killed restore leaves is refused by `serve`, and taken away by the next restore.
pub fn restore(options: &RestoreOptions, deps: &Deps) -> Result<Restored, CaError> {
    let backup = Backup::open(options)?;
    backup.plan(deps.clock.now())?;
    let target = Target::claim(&options.data_dir)?;
    fill(&backup, &target, deps).inspect_err(|_| target.give_back())
}

/// Everything between the mark and its end, in this order: the old files, the new keys, the records that make them count,
/// and last what makes the directory an authority.
fn fill(backup: &Backup, target: &Target, deps: &Deps) -> Result<Restored, CaError> {
    let data = target.data();
    backup.copy_to(data)?;
    // Only now: what is recorded as of this time was all made before it.
    let now = deps.clock.now();
    let plan = backup.plan(now)?;
    let keys = Keys::make(backup, data, &plan, (now, deps))?;
    let bodies = records::bodies(backup, &plan, &keys, now)?;
    let journal = history::enter_log(data, backup, (now, deps))?;
    records::append(&journal, backup, bodies, (now, deps)).map_err(|problem| data.problem(problem))?;
    let records = journal.size();
    let vkey = journal.log().vkey().to_string();
    drop(journal);
    data.write_authority(backup.authority())?;
    data.end_restore()?;
    Ok(Restored {
        issuer: keys.issuer(),
        plan,
        records,
        vkey,
    })
}

#[cfg(test)]
mod tests {
    use mintage_identity::{ReplicaName, Serial};
    use mintage_mint::KeyProtection;

    use super::*;
    use crate::{
        crls::{RenewOptions, renew_root_crl},
        data_dir::DataDir,
        init::{InitOptions, init},
    };

    #[test]
    fn what_the_list_of_the_root_names_stays_named() {
        let folder = tempfile::tempdir().unwrap();
        let [backup, data_dir] = ["backup", "ca"].map(|name| folder.path().join(name));
        let deps = Deps::system();
        let options = InitOptions {
            trust_domain: TrustDomain::parse("dev.test").unwrap(),
            data_dir: backup.clone(),
            protection: KeyProtection::ClearForTestDomainOnly,
            replica: ReplicaName::parse("ca-1").unwrap(),
        };
        init(&options, &deps).unwrap();
        let renew = RenewOptions {
            data_dir: backup.clone(),
            passphrase_file: None,
            root_key: None,
            revoke: vec![Serial::from_random([7; 16])],
        };
        let former = renew_root_crl(&renew, &deps, false).unwrap();
        let options = RestoreOptions {
            backup,
            data_dir: data_dir.clone(),
            passphrase_file: None,
            root_key: None,
        };
        restore(&options, &deps).unwrap();
        let list = DataDir::open(&data_dir).unwrap().root_list().unwrap().unwrap();
        assert!(list.number() > former.number);
        assert_eq!((former.entries, list.entries()), (1, 2), "the replaced issuer too");
    }
}
