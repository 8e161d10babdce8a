//! Certificate revocation lists (RFC 5280, section 5) for software that speaks only X.509. Always full, never delta.

use mintage_identity::{RevocationReason, Serial, UnixTime};
use mintage_svid::der;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use crate::{
    Issuer, MintError,
    dates::instant,
    limits::CRL_ENTRIES_MAX,
    tbs::{locate, sign},
};

/// One revoked certificate of the list's issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrlEntry {
    /// Its serial.
    pub serial: Serial,
    /// When it was revoked.
    pub revoked_at: UnixTime,
    /// Why, where the list is to say so: a reason takes 14 octets of each entry's 53.
    pub reason: Option<RevocationReason>,
}

/// Signs the list of every revoked certificate of this issuer. `number` only ever rises (RFC 5280, section 5.2.3).
///
/// # Errors
/// Refuses dates out of order, an issuer that may not sign lists, and more than 250,000 entries.
pub fn sign_crl(
    issuer: &Issuer,
    number: u64,
    this_update: UnixTime,
    next_update: UnixTime,
    entries: &[CrlEntry],
) -> Result<Vec<u8>, MintError> {
    if entries.len() > CRL_ENTRIES_MAX {
        return Err(MintError::CrlTooLarge(entries.len()));
    }
    if !issuer.info().may_sign_crls() {
        return Err(MintError::Unusable(
            "its key usage does not allow signing revocation lists",
        ));
    }
    let revoked_certs = entries.iter().map(revoked).collect::<Result<Vec<_>, _>>()?;
    let params = CertificateRevocationListParams {
        this_update: instant(this_update)?,
        next_update: instant(next_update)?,
        crl_number: number.into(),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::PreSpecified(issuer.subject_key_id().to_vec()),
    };
    let unsigned = params.signed_by(issuer.template())?;
    let tbs = locate(unsigned.der())?;
    let signed = sign(&unsigned.der()[tbs], issuer.key())?;
    check(&signed, issuer, number, this_update, next_update, entries)?;
    Ok(signed)
}

fn revoked(entry: &CrlEntry) -> Result<RevokedCertParams, MintError> {
    Ok(RevokedCertParams {
        serial_number: rcgen::SerialNumber::from_slice(entry.serial.octets()),
        revocation_time: instant(entry.revoked_at)?,
        // rcgen leaves `unspecified` out, as RFC 5280, section 5.3.1 asks.
        reason_code: entry.reason.map(reason),
        invalidity_date: None,
    })
}

fn reason(reason: RevocationReason) -> rcgen::RevocationReason {
    match reason {
        RevocationReason::KeyCompromise => rcgen::RevocationReason::KeyCompromise,
        RevocationReason::CaCompromise => rcgen::RevocationReason::CaCompromise,
        RevocationReason::AffiliationChanged => rcgen::RevocationReason::AffiliationChanged,
        RevocationReason::Superseded => rcgen::RevocationReason::Superseded,
        RevocationReason::CessationOfOperation => rcgen::RevocationReason::CessationOfOperation,
        RevocationReason::PrivilegeWithdrawn => rcgen::RevocationReason::PrivilegeWithdrawn,
        _ => rcgen::RevocationReason::Unspecified,
    }
}

/// Reads the list back: whoever relies on it must find every entry under the right issuer and dates.
fn check(
    signed: &[u8],
    issuer: &Issuer,
    number: u64,
    this_update: UnixTime,
    next_update: UnixTime,
    entries: &[CrlEntry],
) -> Result<(), MintError> {
    let lint = |good: bool, field| if good { Ok(()) } else { Err(MintError::Lint(field)) };
    lint(der::check(signed).is_ok(), "encoding")?;
    let (rest, list) = CertificateRevocationList::from_der(signed).map_err(|_| MintError::Lint("encoding"))?;
    lint(rest.is_empty(), "encoding")?;
    lint(list.issuer().as_raw() == issuer.info().subject_raw(), "issuer")?;
    lint(list.last_update().timestamp() == this_update.seconds(), "thisUpdate")?;
    lint(
        list.next_update()
            .is_some_and(|date| date.timestamp() == next_update.seconds()),
        "nextUpdate",
    )?;
    lint(
        list.crl_number().is_some_and(|found| *found == number.into()),
        "CRL number",
    )?;
    let listed = list
        .iter_revoked_certificates()
        .map(|revoked| Serial::from_be_octets(revoked.raw_serial()).ok());
    lint(
        listed.eq(entries.iter().map(|entry| Some(entry.serial))),
        "revoked certificates",
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kit::{NOW, ca, openssl_ok, serial};

    fn entries() -> Vec<CrlEntry> {
        let entry = |(fill, reason): (u8, RevocationReason)| CrlEntry {
            serial: serial(fill),
            revoked_at: NOW,
            reason: Some(reason),
        };
        (1u8..).zip(RevocationReason::ALL).map(entry).collect()
    }

    #[test]
    fn a_list_holds_every_entry_and_openssl_accepts_it() {
        let ca = ca();
        let day = NOW.plus(Duration::from_secs(86_400));
        for (issuer, number) in [(&ca.root, 0), (&ca.issuing, u64::MAX)] {
            let list = sign_crl(issuer, number, NOW, day, &entries()).unwrap();
            let (_, parsed) = CertificateRevocationList::from_der(&list).unwrap();
            let codes: Vec<_> = parsed
                .iter_revoked_certificates()
                .map(|revoked| revoked.reason_code().map_or(0, |(_, code)| code.0))
                .collect();
            assert_eq!(codes, RevocationReason::ALL.map(RevocationReason::code));
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("list.der"), &list).unwrap();
            std::fs::write(dir.path().join("ca.der"), issuer.certificate_der()).unwrap();
            if openssl_ok(dir.path(), "x509 -inform DER -in ca.der -out ca.pem").is_none() {
                return;
            }
            let shown = openssl_ok(dir.path(), "crl -inform DER -in list.der -CAfile ca.pem -noout").unwrap();
            assert!(shown.contains("verify OK"), "{shown}");
        }
    }

    #[test]
    fn an_empty_list_is_a_list() {
        let ca = ca();
        let list = sign_crl(&ca.issuing, 1, NOW, NOW.plus(Duration::from_secs(60)), &[]).unwrap();
        let (_, parsed) = CertificateRevocationList::from_der(&list).unwrap();
        assert_eq!(parsed.iter_revoked_certificates().count(), 0);
        let text = mintage_svid::pem::encode(mintage_svid::pem::Label::Crl, &list);
        assert_eq!(
            *mintage_svid::pem::decode(mintage_svid::pem::Label::Crl, &text).unwrap(),
            list
        );
    }

    #[test]
    fn a_reason_is_written_only_where_it_is_asked_for() {
        let ca = ca();
        let day = NOW.plus(Duration::from_secs(86_400));
        let silent: Vec<_> = entries()
            .into_iter()
            .map(|entry| CrlEntry { reason: None, ..entry })
            .collect();
        let list = sign_crl(&ca.issuing, 1, NOW, day, &silent).unwrap();
        let (_, parsed) = CertificateRevocationList::from_der(&list).unwrap();
        let revoked: Vec<_> = parsed.iter_revoked_certificates().collect();
        assert_eq!(revoked.len(), silent.len());
        assert!(revoked.iter().all(|revoked| revoked.reason_code().is_none()));
        assert!(list.len() < sign_crl(&ca.issuing, 1, NOW, day, &entries()).unwrap().len());
    }

    #[test]
    fn large_lists_are_signed_and_larger_ones_refused() {
        let ca = ca();
        let mut entries: Vec<_> = (0..5000u32)
            .map(|n| CrlEntry {
                serial: Serial::from_be_octets(&(n + 1).to_be_bytes()).unwrap(),
                revoked_at: NOW,
                reason: Some(RevocationReason::Unspecified),
            })
            .collect();
        let next = NOW.plus(Duration::from_secs(60));
        assert!(sign_crl(&ca.issuing, 1, NOW, next, &entries).unwrap().len() > 0xffff);
        entries.resize(CRL_ENTRIES_MAX + 1, entries[0]);
        assert!(matches!(
            sign_crl(&ca.issuing, 1, NOW, next, &entries),
            Err(MintError::CrlTooLarge(_))
        ));
    }

    #[test]
    fn dates_out_of_order_are_refused() {
        let ca = ca();
        assert!(sign_crl(&ca.issuing, 1, NOW, NOW, &[]).is_err());
        assert!(sign_crl(&ca.issuing, 1, NOW, UnixTime::from_seconds(0), &[]).is_err());
    }
}
