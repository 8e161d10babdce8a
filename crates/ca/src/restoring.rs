//! The verb `restore`: what it prints, and what is left for the operator to do.

use mintage_ca::{Deps, RestoreOptions, RestorePlan, Restored, check_restore, restore};
use serde::Serialize;

use crate::{
    Failure,
    cli::Restore,
    printed::{notice, object},
    serve_command,
};

#[derive(Serialize)]
struct Told {
    dry_run: bool,
    trust_domain: String,
    data_dir: String,
    backup_records: u64,
    backup_until: String,
    issuers_revoked: Vec<String>,
    revocation_epoch: u64,
    #[serde(flatten)]
    made: Option<Made>,
}

/// What nobody can know before it is made.
#[derive(Serialize)]
struct Made {
    issuer: String,
    ledger_records: u64,
    ledger_vkey: String,
}

impl Told {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let backup = format!(
            "{} records, verified; the last is of {}",
            self.backup_records, self.backup_until
        );
        let mut lines = vec![("trust domain", self.trust_domain.clone()), ("backup", backup)];
        if self.made.is_none() {
            lines.push((
                "would make",
                "issuing intermediate and revocation key, below the same root".to_owned(),
            ));
        }
        lines.push(("in", self.data_dir.clone()));
        let revoked = self.issuers_revoked.iter();
        lines.extend(revoked.map(|id| ("issuer revoked", id.clone())));
        lines.push(("revocation epoch", self.revocation_epoch.to_string()));
        if let Some(made) = &self.made {
            lines.push(("new issuer", made.issuer.clone()));
            lines.push(("ledger vkey", made.ledger_vkey.clone()));
        }
        lines
    }
}

pub(crate) fn run(options: Restore) -> Result<u8, Failure> {
    let wanted = RestoreOptions {
        backup: options.from,
        data_dir: options.data_dir,
        passphrase_file: options.passphrase_file,
        root_key: options.root_key,
    };
    let (plan, made) = match options.dry_run {
        true => (check_restore(&wanted, &Deps::system())?, None),
        false => {
            let Restored {
                plan,
                issuer,
                records,
                vkey,
            } = restore(&wanted, &Deps::system())?;
            let made = Made {
                issuer: issuer.to_string(),
                ledger_records: records,
                ledger_vkey: vkey,
            };
            (plan, Some(made))
        }
    };
    let told = told(options.dry_run, &wanted, &plan, made);
    object(options.printing.output, &told, &told.lines())?;
    if options.dry_run {
        notice("nothing was made; the same command without --dry-run makes it");
        return Ok(0);
    }
    notice(&format!(
        "lost with what came after {}: entries, tokens, bans, evictions and blocked keys, which have to be made again. Until that is done \
         let no agent in: add --listen 127.0.0.1:8443 to the next command",
        plan.until_utc()
    ));
    notice(
        "an agent whose certificate has not changed since the backup comes back by itself; every other one needs a new join \
         token: mintage token create --agent NAME",
    );
    notice(&format!(
        "next: {}",
        serve_command(&wanted.data_dir, wanted.passphrase_file.as_deref())
    ));
    Ok(0)
}

fn told(dry_run: bool, wanted: &RestoreOptions, plan: &RestorePlan, made: Option<Made>) -> Told {
    Told {
        dry_run,
        trust_domain: plan.trust_domain.to_string(),
        data_dir: wanted.data_dir.display().to_string(),
        backup_records: plan.records,
        backup_until: plan.until_utc(),
        issuers_revoked: plan.issuers.iter().map(ToString::to_string).collect(),
        revocation_epoch: plan.epoch,
        made,
    }
}
