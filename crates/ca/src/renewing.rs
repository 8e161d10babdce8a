//! `mintage-ca renew-root-crl` on the command line.

use mintage_ca::{Deps, RenewOptions, renew_root_crl};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    Failure,
    cli::RenewRootCrl,
    printed::{notice, object},
};

#[derive(Serialize)]
struct Told {
    dry_run: bool,
    data_dir: String,
    number: u64,
    certificates: usize,
    next_update: String,
}

pub(crate) fn run(options: RenewRootCrl) -> Result<u8, Failure> {
    let wanted = RenewOptions {
        data_dir: options.data_dir,
        passphrase_file: options.passphrase_file,
        root_key: options.root_key,
        revoke: options.revoke,
    };
    let renewed = renew_root_crl(&wanted, &Deps::system(), options.dry_run)?;
    let until = OffsetDateTime::from_unix_timestamp(renewed.until.seconds())?.format(&Rfc3339)?;
    let told = Told {
        dry_run: options.dry_run,
        data_dir: wanted.data_dir.display().to_string(),
        number: renewed.number,
        certificates: renewed.entries,
        next_update: until.clone(),
    };
    let lines = [
        ("list of the root", format!("number {}", renewed.number)),
        ("certificates", renewed.entries.to_string()),
        ("next update", until),
    ];
    object(options.printing.output, &told, &lines)?;
    notice(match options.dry_run {
        true => "nothing was changed; the same command without --dry-run signs it",
        false => "next: send SIGHUP to the CA that serves this directory, or start it",
    });
    Ok(0)
}
