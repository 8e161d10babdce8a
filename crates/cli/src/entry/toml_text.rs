//! Entries written as TOML files, in the form in which they are read again.

use mintage_identity::TrustDomain;
use mintage_policy::Entry;
use serde::Serialize;

use crate::failure::Failure;

#[derive(Serialize)]
struct File<'a> {
    entry: [Written<'a>; 1],
}

/// The keys of `[[entry]]`, in the order of the documentation; what is empty is left out.
#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    spiffe_id: &'a str,
    agents: Vec<String>,
    selectors: Vec<String>,
    ttl: String,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    dns_names: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    common_name: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    hint: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    owner: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    environment: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    purpose: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disabled: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    jwt_forbidden: bool,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    jwt_audiences: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    federates_with: Vec<&'a str>,
}

/// One entry as a `[[entry]]` table.
///
/// # Errors
/// Never for a valid entry; TOML can write every text.
pub(super) fn written(entry: &Entry) -> Result<String, Failure> {
    let written = Written {
        name: entry.name().as_str(),
        spiffe_id: entry.spiffe_id().as_str(),
        agents: entry.agents().iter().map(ToString::to_string).collect(),
        selectors: entry.selectors().iter().map(ToString::to_string).collect(),
        ttl: entry.ttl().to_string(),
        dns_names: entry.dns_names(),
        common_name: entry.common_name(),
        hint: entry.hint(),
        owner: entry.owner(),
        environment: entry.environment(),
        purpose: entry.purpose(),
        disabled: entry.is_disabled(),
        jwt_forbidden: entry.jwt_forbidden(),
        jwt_audiences: entry.jwt_audiences(),
        federates_with: entry.federates_with().iter().map(TrustDomain::as_str).collect(),
    };
    toml::to_string(&File { entry: [written] }).map_err(Failure::local)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mintage_policy::{RawEntry, parse_entries};

    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same_entry() {
        let domain = TrustDomain::parse("dev.test").unwrap();
        let plain = RawEntry {
            name: "web".into(),
            spiffe_id: "spiffe://dev.test/web".into(),
            agents: vec!["spiffe://dev.test/mintage/agent/*".into()],
            selectors: vec!["unix:uid:1000".into(), "unix:path:/bin/\"a\\b".into()],
            ..RawEntry::default()
        };
        let full = RawEntry {
            name: "db".into(),
            spiffe_id: "spiffe://dev.test/db".into(),
            ttl_seconds: 90,
            dns_names: vec!["db.dev.test".into()],
            common_name: "db".into(),
            hint: "internal".into(),
            owner: "team = \"x\"".into(),
            environment: "prod".into(),
            purpose: "stores # things".into(),
            disabled: true,
            jwt_audiences: vec!["https://a, b".into(), "c".into()],
            federates_with: vec!["other.test".into(), "third.test".into()],
            ..plain.clone()
        };
        let entries: Vec<_> = [plain, full].iter().map(|raw| raw.validate(&domain).unwrap()).collect();
        let text: String = entries.iter().map(|entry| written(entry).unwrap()).collect();
        let read = parse_entries(Path::new("e.toml"), &text, &domain).unwrap();
        assert!(read.iter().map(|located| &located.entry).eq(&entries), "{text}");
    }
}
