//! The next list of the root, made where the root's key is: what the former one names stays named, and more may be added.

use std::{fmt, path::PathBuf};

use mintage_identity::{RevocationReason, Serial, UnixTime};
use mintage_mint::{CrlEntry, Issuer, limits::BACKDATE, sign_crl};
use mintage_svid::Crl;
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use super::root::number_at;
use crate::{
    data_dir::{DataDir, ROOT_CRL},
    error::CaError,
    init::Deps,
    keys::find_protection,
    limits::ROOT_CRL_VALIDITY,
    restore::root_issuer,
};

/// What `renew-root-crl` is told.
#[derive(Clone, Debug)]
pub struct RenewOptions {
    /// The data directory, which a CA may be serving.
    pub data_dir: PathBuf,
    /// File with the passphrase of the root's key.
    pub passphrase_file: Option<PathBuf>,
    /// The root's key, when it is not in the directory.
    pub root_key: Option<PathBuf>,
    /// Serials of intermediates' certificates that the root revokes from now on.
    pub revoke: Vec<Serial>,
}

/// A list of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// Its number.
    pub number: u64,
    /// Certificates that it names.
    pub entries: usize,
    /// When it ends.
    pub until: UnixTime,
}

/// Signs the root's next list, and puts it in the place of the former one unless this is a `dry_run`. A CA that serves the
/// directory takes it up at its next SIGHUP.
///
/// # Errors
/// Refuses a directory without an authority, a key that does not open or is not the root's, and a former list that is not the
/// root's.
pub fn renew_root_crl(options: &RenewOptions, deps: &Deps, dry_run: bool) -> Result<Renewed, CaError> {
    let data = DataDir::open(&options.data_dir)?;
    let authority = data.authority()?;
    let protection = find_protection(options.passphrase_file.as_deref(), &authority.trust_domain)?;
    let root = root_issuer(&data, &authority, &protection, options.root_key.as_deref())?;
    let former = data.root_list()?;
    if let Some(list) = &former {
        let refused =
            |error: mintage_svid::SvidError| data.problem(format!("{ROOT_CRL} is not the list of its root ({error})"));
        list.verify(root.info()).map_err(refused)?;
    }
    let now = deps.clock.now();
    let der = next_root_list(&data, &root, former.as_ref(), &options.revoke, now)?;
    let list = Crl::parse(&der).map_err(|error| data.problem(error.to_string()))?;
    if !dry_run {
        data.replace_root_list(&der)?;
    }
    Ok(Renewed {
        number: list.number(),
        entries: list.entries(),
        until: list.next_update(),
    })
}

/// The list of `root` that comes after the `former` one, which lies in `data`: it names what that one names and `revoke`, and has
/// a higher number.
///
/// # Errors
/// An entry of the former list that cannot be read, and more than a list holds.
pub(crate) fn next_root_list(
    data: &DataDir,
    root: &Issuer,
    former: Option<&Crl>,
    revoke: &[Serial],
    now: UnixTime,
) -> Result<Vec<u8>, CaError> {
    next_list(root, former, revoke, now).map_err(|told| match told {
        Problem::Former => data.problem(format!("{ROOT_CRL}: an entry of it cannot be read")),
        Problem::Mint(error) => error.into(),
    })
}

enum Problem {
    Former,
    Mint(mintage_mint::MintError),
}

fn next_list(root: &Issuer, former: Option<&Crl>, revoke: &[Serial], now: UnixTime) -> Result<Vec<u8>, Problem> {
    let mut entries = match former {
        Some(list) => entries_of(list).ok_or(Problem::Former)?,
        None => Vec::new(),
    };
    for serial in revoke {
        if entries.iter().all(|entry| entry.serial != *serial) {
            entries.push(CrlEntry {
                serial: *serial,
                revoked_at: now,
                reason: None,
            });
        }
    }
    // A clock that was wrong when the former one was made holds nobody back.
    let number = number_at(now).max(former.map_or(0, |list| list.number().saturating_add(1)));
    let end = now.plus(ROOT_CRL_VALIDITY);
    sign_crl(root, number, now.minus(BACKDATE), end, &entries).map_err(Problem::Mint)
}

fn entries_of(list: &Crl) -> Option<Vec<CrlEntry>> {
    let (_, parsed) = CertificateRevocationList::from_der(list.der()).ok()?;
    let entry = |revoked: &x509_parser::revocation_list::RevokedCertificate<'_>| {
        Some(CrlEntry {
            serial: Serial::from_be_octets(revoked.raw_serial()).ok()?,
            revoked_at: UnixTime::from_seconds(revoked.revocation_date.timestamp()),
            reason: revoked
                .reason_code()
                .and_then(|(_, code)| RevocationReason::from_code(code.0)),
        })
    };
    parsed.iter_revoked_certificates().map(entry).collect()
}

impl fmt::Display for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "list {} of {} certificates", self.number, self.entries)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mintage_identity::TrustDomain;
    use mintage_mint::{CaDates, CaKey, make_root};

    use super::*;

    const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

    #[test]
    fn what_was_named_stays_named_and_the_number_rises_whatever_the_clock_says() {
        let domain = TrustDomain::parse("dev.test").unwrap();
        let (key, _) = CaKey::generate().unwrap();
        let der = make_root(&domain, &key, Serial::from_random([1; 16]), CaDates::root(NOW)).unwrap();
        let root = Issuer::load(&domain, key, vec![der]).unwrap();
        let [one, two] = [7, 8].map(|octet| Serial::from_random([octet; 16]));
        let next = |former: Option<&Crl>, revoke: &[Serial], now| {
            let made = next_list(&root, former, revoke, now).unwrap_or_else(|_| panic!("no list"));
            Crl::parse(&made).unwrap()
        };
        let first = next(None, &[one], NOW);
        let second = next(Some(&first), &[two, one], NOW.plus(Duration::from_secs(86_400)));
        assert!(second.number() > first.number() && second.next_update() > first.next_update());
        let entries = entries_of(&second).unwrap();
        let dated = |serial| entries.iter().find(|entry| entry.serial == serial).unwrap().revoked_at;
        assert_eq!((entries.len(), dated(one)), (2, NOW), "named once, since when it was");
        let third = next(Some(&second), &[], NOW);
        assert_eq!(third.number(), second.number() + 1, "the clock was set back");
    }
}
