//! What callers and operators write: signing requests, SPIFFE IDs and files of entries.

use std::path::Path;

use mintage_identity::{IdPrefix, Selector, SpiffeId, TrustDomain};
use mintage_mint::{KeyPolicy, prove_possession};
use mintage_policy::parse_entries;

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
