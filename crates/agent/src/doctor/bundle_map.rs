//! The bundle map as its readers find it: a whole file that gives this agent's trust domain the roots in force.

use std::path::Path;

use mintage_identity::TrustDomain;
use mintage_svid::TrustBundle;
use mintage_sys::text_file;
use serde_json::Value;

use super::{Kept, notes::Notes, own::RUN_IT};
use crate::{bundle_map::DOMAINS, limits::BUNDLE_MAP_BYTES_MAX};

const CHECK: &str = "bundle_map";

/// Looks at the file at `path`.
pub(super) fn examine(notes: &mut Notes, path: &Path, kept: &Kept) {
    let shown = path.display();
    if !path.exists() {
        return notes.warn(CHECK, format!("{shown} is not there yet"), RUN_IT);
    }
    let Some(domain) = kept.domain() else {
        return notes.warn(
            CHECK,
            format!("{shown} is there, and this agent has not joined"),
            RUN_IT,
        );
    };
    let text = text_file::read(path, BUNDLE_MAP_BYTES_MAX);
    match text.and_then(|text| listed(&text, domain)) {
        Err(problem) => notes.fail(
            CHECK,
            format!("{shown}: {problem}"),
            "readers of it trust nobody: remove it, and restart the agent, which makes it anew",
        ),
        Ok(listed) => {
            let held = kept.bundle.as_ref().map_or(0, |bundle| bundle.sequence());
            let told = format!("{shown} lists {domain} with {} roots", listed.roots().len());
            match listed.sequence() >= held {
                true => notes.ok(CHECK, format!("{told}, sequence {held}")),
                false => notes.warn(
                    CHECK,
                    format!("{told} of sequence {}, and {held} is in force", listed.sequence()),
                    "the agent does not run, or cannot write there: see its log",
                ),
            }
        }
    }
}

/// What the map gives this trust domain.
fn listed(text: &str, domain: &TrustDomain) -> Result<TrustBundle, String> {
    let map: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    let domains = map.get(DOMAINS).and_then(Value::as_object);
    let domains = domains.ok_or_else(|| format!("has no object {DOMAINS}"))?;
    let own = domains.get(domain.as_str());
    let own = own.ok_or_else(|| format!("does not list {domain}, but {} others", domains.len()))?;
    let bundle = TrustBundle::from_jwks_json(domain.clone(), &own.to_string());
    let bundle = bundle.map_err(|error| format!("what it gives for {domain} is no bundle: {error}"))?;
    match bundle.roots().is_empty() {
        true => Err(format!("gives no root for {domain}")),
        false => Ok(bundle),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_must_give_this_trust_domain_a_root() {
        let domain = TrustDomain::parse("dev.test").unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().to_vec();
        let document = TrustBundle::new(domain.clone(), vec![root], Vec::new(), 7, None).unwrap();
        let map = |of: &str, document: &str| format!("{{\"{DOMAINS}\": {{\"{of}\": {document}}}}}");
        let good = map("dev.test", &document.to_jwks_json());
        assert_eq!(listed(&good, &domain).unwrap().sequence(), 7);
        for (bad, why) in [
            (good[..good.len() / 2].to_owned(), "no JSON"),
            ("{}".to_owned(), "no object"),
            (map("other.test", &document.to_jwks_json()), "does not list dev.test"),
            (map("dev.test", "{}"), "is no bundle"),
            (map("dev.test", "{\"keys\": []}"), "dev.test"),
        ] {
            let told = listed(&bad, &domain).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
