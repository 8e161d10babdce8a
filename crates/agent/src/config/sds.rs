//! How Envoy's SDS is answered: the names that stand for an identity or a bundle, and the validator that is fed.

use crate::AgentError;

/// Characters of a name; Envoy's own configuration has shorter ones.
const NAME_CHARS_MAX: usize = 128;

/// Which of Envoy's certificate validators gets the roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Validator {
    /// Envoy's own, with the CA's lists of revoked certificates. It looks at chain, dates and lists; which identities may
    /// call is for the matchers of Envoy's configuration.
    #[default]
    Plain,
    /// `envoy.tls.cert_validator.spiffe`, which holds each trust domain to its own roots and looks at no list that comes
    /// this way.
    Spiffe,
}

impl Validator {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Plain, Self::Spiffe];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Spiffe => "spiffe",
        }
    }

    /// The validator of this name.
    ///
    /// # Errors
    /// The names there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|validator| validator.name() == text)
            .ok_or_else(|| format!("validator {text:?} is unknown; use {:?}", Self::ALL.map(Self::name)))
    }
}

/// The settings of SDS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sds {
    svid_name: String,
    bundle_name: String,
    all_bundles_name: String,
    validator: Validator,
}

impl Default for Sds {
    /// The names that Envoy is configured with for other SPIFFE agents, and Envoy's own validator.
    fn default() -> Self {
        Self {
            svid_name: "default".to_owned(),
            bundle_name: "ROOTCA".to_owned(),
            all_bundles_name: "ALL".to_owned(),
            validator: Validator::default(),
        }
    }
}

impl Sds {
    /// These names: of the caller's first identity, of its trust domain's bundle, and of all bundles.
    ///
    /// # Errors
    /// Refuses a name that is empty, too long, a SPIFFE ID, `*` or given twice.
    pub fn named(svid: &str, bundle: &str, all_bundles: &str) -> Result<Self, AgentError> {
        for name in [svid, bundle, all_bundles] {
            check_name(name).map_err(AgentError::Config)?;
        }
        let sds = Self {
            svid_name: svid.to_owned(),
            bundle_name: bundle.to_owned(),
            all_bundles_name: all_bundles.to_owned(),
            validator: Validator::default(),
        };
        sds.check_distinct().map_err(AgentError::Config)?;
        Ok(sds)
    }

    /// The same with another validator for Envoys that name none in their node's metadata.
    #[must_use]
    pub fn with_validator(mut self, validator: Validator) -> Self {
        self.validator = validator;
        self
    }

    /// What names the caller's first identity.
    pub fn svid_name(&self) -> &str {
        &self.svid_name
    }

    /// What names the bundle of the caller's trust domain.
    pub fn bundle_name(&self) -> &str {
        &self.bundle_name
    }

    /// What names the bundles of all trust domains.
    pub fn all_bundles_name(&self) -> &str {
        &self.all_bundles_name
    }

    /// The validator of Envoys that name none.
    pub fn validator(&self) -> Validator {
        self.validator
    }

    pub(super) fn set(&mut self, which: Name, text: &str) -> Result<(), String> {
        check_name(text)?;
        let name = match which {
            Name::Svid => &mut self.svid_name,
            Name::Bundle => &mut self.bundle_name,
            Name::AllBundles => &mut self.all_bundles_name,
        };
        text.clone_into(name);
        Ok(())
    }

    pub(super) fn check_distinct(&self) -> Result<(), String> {
        let names = [&self.svid_name, &self.bundle_name, &self.all_bundles_name];
        let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(*name));
        match twice {
            Some((_, name)) => Err(format!("the SDS name {name:?} stands for two things; use another")),
            None => Ok(()),
        }
    }
}

/// One of the three names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name {
    Svid,
    Bundle,
    AllBundles,
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.chars().all(|c| c.is_ascii_graphic());
    match plain && name != "*" && !name.starts_with("spiffe://") {
        true => Ok(()),
        false => Err(format!(
            "SDS name {name:?} is not of 1 to {NAME_CHARS_MAX} printable ASCII characters, or is \"*\" or a SPIFFE ID, which \
             stand for themselves"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_distinct() {
        assert_eq!(Sds::named("default", "ROOTCA", "ALL").unwrap(), Sds::default());
        let long = "x".repeat(NAME_CHARS_MAX + 1);
        for bad in ["", "a b", "*", "spiffe://dev.test/x", "\u{e4}", &long] {
            assert!(Sds::named(bad, "ROOTCA", "ALL").is_err(), "{bad:?}");
        }
        let told = Sds::named("a", "b", "a").unwrap_err().to_string();
        assert!(told.contains("\"a\" stands for two things"), "{told}");
    }

    #[test]
    fn a_validator_has_its_name() {
        for validator in Validator::ALL {
            assert_eq!(Validator::parse(validator.name()), Ok(validator));
        }
        assert!(Validator::parse("Plain").unwrap_err().contains("\"plain\", \"spiffe\""));
    }
}
