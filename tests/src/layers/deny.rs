//! `deny.toml` read and held against the resolved graph, so that the bans hold where cargo-deny is not installed.

use std::collections::BTreeSet;

use semver::VersionReq;
use serde::Deserialize;

use super::house::{House, Package};
use super::license;

/// The part of `deny.toml` that is held here.
#[derive(Debug, Deserialize)]
pub struct Deny {
    bans: Bans,
    licenses: Licenses,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    /// `name`, or `name@requirement`.
    #[serde(rename = "crate")]
    spec: String,
    /// Direct dependents that are tolerated.
    #[serde(default)]
    wrappers: BTreeSet<String>,
    /// Every ban says why.
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: Vec<String>,
    exceptions: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
    allow_git: Vec<String>,
}

impl Deny {
    /// Reads the file's text.
    ///
    /// # Errors
    ///
    /// What is wrong with it, by line.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| format!("deny.toml: {error}"))
    }

    /// Banned packages in the graph, each with who brought it and the reason.
    pub fn bans(&self, house: &House) -> Vec<String> {
        let mut broken = Vec::new();
        for ban in &self.bans.deny {
            let (name, requirement) = match spec(&ban.spec) {
                Ok(spec) => spec,
                Err(fault) => {
                    broken.push(fault);
                    continue;
                }
            };
            for package in house
                .packages
                .iter()
                .filter(|found| found.name == name && requirement.matches(&found.version))
            {
                let through: Vec<&str> = package
                    .dependents
                    .difference(&ban.wrappers)
                    .map(String::as_str)
                    .collect();
                if ban.wrappers.is_empty() || !through.is_empty() {
                    let Package { name, version, .. } = package;
                    broken.push(format!("{} -> {name} {version}: {}", through.join(", "), ban.reason));
                }
            }
        }
        broken
    }

    /// Packages whose licence is not on the list.
    pub fn licenses(&self, house: &House) -> Vec<String> {
        let mut broken = Vec::new();
        for package in &house.packages {
            let extra = self
                .licenses
                .exceptions
                .iter()
                .filter(|exception| exception.name == package.name);
            let mut allow = self.licenses.allow.clone();
            allow.extend(extra.flat_map(|exception| exception.allow.iter().cloned()));
            let expression = package.license.as_deref().unwrap_or("no licence");
            if !license::allowed(expression, &allow) {
                broken.push(format!("{} {}: {expression}", package.name, package.version));
            }
        }
        broken
    }

    /// Packages from anywhere but the allowed registries and repositories.
    pub fn sources(&self, house: &House) -> Vec<String> {
        let known = |source: &str| match source.split_once('+') {
            Some(("registry", place)) => self.sources.allow_registry.iter().any(|allowed| allowed == place),
            Some(("git", place)) => self
                .sources
                .allow_git
                .iter()
                .any(|allowed| place.starts_with(allowed.as_str())),
            _ => false,
        };
        let foreign = |package: &&Package| package.source.as_deref().is_some_and(|source| !known(source));
        let name = |package: &Package| {
            format!(
                "{} from {}",
                package.name,
                package.source.as_deref().unwrap_or_default()
            )
        };
        house.packages.iter().filter(foreign).map(name).collect()
    }
}

fn spec(text: &str) -> Result<(&str, VersionReq), String> {
    match text.split_once('@') {
        None => Ok((text, VersionReq::STAR)),
        Some((name, requirement)) => {
            let requirement = VersionReq::parse(requirement).map_err(|error| format!("deny.toml: {text}: {error}"))?;
            Ok((name, requirement))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [bans]
        deny = [
            { crate = "rsa", reason = "timing" },
            { crate = "h2@<0.4.16", reason = "empty frames" },
            { crate = "instant", wrappers = ["parking_lot"], reason = "old" },
        ]
        [licenses]
        allow = ["MIT"]
        exceptions = [{ crate = "imbl", allow = ["MPL-2.0"] }]
        [sources]
        allow-registry = ["https://example.com/index"]
        allow-git = []
    "#;

    fn package(name: &str, version: &str, license: &str, source: Option<&str>, dependents: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            version: version.parse().unwrap(),
            license: Some(license.to_owned()),
            source: source.map(str::to_owned),
            dependents: dependents.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn house(package: Package) -> House {
        House {
            crates: Vec::new(),
            packages: vec![package],
        }
    }

    #[test]
    fn a_banned_crate_is_named_with_who_brought_it() {
        let deny = Deny::parse(TEXT).unwrap();
        let broken = deny.bans(&house(package("rsa", "0.9.0", "MIT", None, &["mintage-svid"])));
        assert_eq!(broken, ["mintage-svid -> rsa 0.9.0: timing"]);
    }

    #[test]
    fn a_version_below_the_floor_is_refused_and_one_above_is_not() {
        let deny = Deny::parse(TEXT).unwrap();
        assert_eq!(
            deny.bans(&house(package("h2", "0.4.15", "MIT", None, &["hyper"])))
                .len(),
            1
        );
        assert!(
            deny.bans(&house(package("h2", "0.4.16", "MIT", None, &["hyper"])))
                .is_empty()
        );
    }

    #[test]
    fn a_tolerated_crate_stays_in_its_place() {
        let deny = Deny::parse(TEXT).unwrap();
        assert!(
            deny.bans(&house(package("instant", "0.1.0", "MIT", None, &["parking_lot"])))
                .is_empty()
        );
        let broken = deny.bans(&house(package(
            "instant",
            "0.1.0",
            "MIT",
            None,
            &["parking_lot", "hyper"],
        )));
        assert_eq!(broken, ["hyper -> instant 0.1.0: old"]);
    }

    #[test]
    fn a_licence_off_the_list_is_refused_but_for_its_exception() {
        let deny = Deny::parse(TEXT).unwrap();
        assert_eq!(
            deny.licenses(&house(package("x", "1.0.0", "MPL-2.0", None, &[]))).len(),
            1
        );
        assert!(
            deny.licenses(&house(package("imbl", "1.0.0", "MPL-2.0+", None, &[])))
                .is_empty()
        );
        let mut silent = package("x", "1.0.0", "MIT", None, &[]);
        silent.license = None;
        assert_eq!(deny.licenses(&house(silent)), ["x 1.0.0: no licence"]);
    }

    #[test]
    fn a_foreign_source_is_refused() {
        let deny = Deny::parse(TEXT).unwrap();
        for foreign in [
            "registry+https://mirror.example/index",
            "git+https://example.com/index",
            "sparse+x",
        ] {
            assert_eq!(
                deny.sources(&house(package("x", "1.0.0", "MIT", Some(foreign), &[])))
                    .len(),
                1,
                "{foreign}"
            );
        }
        let known = package("x", "1.0.0", "MIT", Some("registry+https://example.com/index"), &[]);
        assert!(deny.sources(&house(known)).is_empty());
    }

    #[test]
    fn a_ban_without_a_reason_is_refused() {
        assert!(Deny::parse(&TEXT.replace(", reason = \"timing\"", "")).is_err());
    }

    #[test]
    fn a_requirement_that_cannot_be_read_is_a_fault_of_its_own() {
        let deny = Deny::parse(&TEXT.replace("h2@<0.4.16", "h2@latest")).unwrap();
        assert!(
            deny.bans(&House::default())
                .iter()
                .any(|fault| fault.contains("h2@latest"))
        );
    }
}
