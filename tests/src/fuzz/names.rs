//! What callers and operators write: signing requests, SPIFFE IDs and files of entries.

use std::path::Path;

use mintage_identity::{IdPrefix, Selector, SpiffeId, TrustDomain};
use mintage_mint::{KeyPolicy, prove_possession};
use mintage_policy::parse_entries;
use mintage_svid::Crl;

pub(super) fn csrs() -> Vec<Vec<u8>> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let plain = rcgen::CertificateParams::default();
    let named = rcgen::CertificateParams::new(vec!["web.example".to_owned()]).expect("a name");
    [plain, named]
        .map(|params| params.serialize_request(&key).expect("a request").der().to_vec())
        .into()
}

/// A key that was taken is one that stands in the request.
pub(super) fn csr(bytes: &[u8]) -> bool {
    let mut taken = false;
    for strict_csr in [true, false] {
        let policy = KeyPolicy {
            allow_rsa: true,
            strict_csr,
        };
        let proven = prove_possession(bytes, &policy);
        taken = proven.is_ok();
        if let Ok(key) = proven {
            let spki = key.spki_der();
            assert!(bytes.windows(spki.len()).any(|part| part == spki), "another key");
        }
    }
    taken
}

pub(super) fn crls() -> Vec<Vec<u8>> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut issuer = rcgen::CertificateParams::default();
    issuer.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    let issuer = rcgen::Issuer::new(issuer, key);
    let list = |serials: u64| rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2026, 1, 2),
        crl_number: 7u64.into(),
        issuing_distribution_point: None,
        revoked_certs: (1..=serials)
            .map(|serial| rcgen::RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: rcgen::date_time_ymd(2026, 1, 1),
                reason_code: Some(rcgen::RevocationReason::KeyCompromise),
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let signed = |serials| list(serials).signed_by(&issuer).expect("a list").der().to_vec();
    vec![signed(0), signed(3)]
}

/// A list that was taken is the bytes themselves, and names no more than they can hold.
pub(super) fn crl(bytes: &[u8]) -> bool {
    let list = Crl::parse(bytes);
    if let Ok(list) = &list {
        assert_eq!(list.der(), bytes);
        assert!(list.entries() < bytes.len() && list.this_update() <= list.next_update());
    }
    list.is_ok()
}

pub(super) fn spiffe_ids() -> Vec<Vec<u8>> {
    [
        "spiffe://dev.test/web",
        "spiffe://dev.test/mintage/agent/n1",
        "spiffe://dev.test",
        "spiffe://dev.test/team/*",
        "unix:uid:1000",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

pub(super) fn spiffe_id(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let id = SpiffeId::parse(text);
    if let Ok(id) = &id {
        assert_eq!(id.as_str(), text, "an id has one spelling");
        assert!(text.len() <= 2048 && text.is_ascii());
        assert!(
            id.segments().all(|segment| !["", ".", ".."].contains(&segment)),
            "{text}"
        );
        let rebuilt = SpiffeId::parse(&format!("{}{}", id.trust_domain().id(), id.path()));
        assert_eq!(rebuilt.as_ref(), Ok(id));
    }
    let _ = SpiffeId::parse_workload(text);
    let _ = TrustDomain::parse(text);
    let selector = Selector::parse(text);
    if let Ok(selector) = &selector {
        assert_eq!(selector.as_str(), text);
    }
    id.is_ok() || IdPrefix::parse(text).is_ok() || selector.is_ok()
}

pub(super) fn entries_files() -> Vec<Vec<u8>> {
    let file = "[[entry]]\nname = \"web\"\nspiffe_id = \"spiffe://dev.test/web\"\nagents = \
                [\"spiffe://dev.test/mintage/agent/*\"]\nselectors = [\"unix:uid:1000\"]\nttl = \"10m\"\n";
    vec![
        file.as_bytes().to_vec(),
        format!("{file}{}", file.replace("web", "db")).into_bytes(),
    ]
}

pub(super) fn entries_file(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let domain = TrustDomain::parse("dev.test").expect("a trust domain");
    match parse_entries(Path::new("entries.toml"), text, &domain) {
        Ok(entries) => {
            assert!(entries.len() <= text.len());
            !entries.is_empty()
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal without a reason");
            false
        }
    }
}
