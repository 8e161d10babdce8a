//! Selectors: one attested property of a workload, written `kind:value`, such as `unix:uid:1000`.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{NameError, limits::SELECTOR_BYTES_MAX};

const FIELD: &str = "selector";

/// A selector. The kind is what stands before the last structural colon that the attestor owns: for `unix:uid:1000`
/// the kind is `unix:uid` and the value `1000`; paths and digests may hold further colons in the value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    text: Arc<str>,
    value_at: u16,
}

impl Selector {
    /// Parses `attestor:property:value`.
    ///
    /// # Errors
    /// Refuses missing parts, control characters, over-long text, and attestor or property names outside `[a-z0-9_-]`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > SELECTOR_BYTES_MAX {
            let problem = format!("is {} bytes long, the limit is {SELECTOR_BYTES_MAX}", text.len());
            return Err(NameError::new(FIELD, text, problem));
        }
        if text.chars().any(char::is_control) {
            return Err(NameError::new(FIELD, text, "has a control character"));
        }
        let mut parts = text.splitn(3, ':');
        let (attestor, property, value) = (parts.next(), parts.next(), parts.next());
        let named = |part: Option<&str>| {
            part.is_some_and(|p| {
                !p.is_empty() && p.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
            })
        };
        match value {
            Some(value) if named(attestor) && named(property) && !value.is_empty() => Ok(Self {
                value_at: (text.len() - value.len()) as u16,
                text: text.into(),
            }),
            _ => Err(NameError::new(
                FIELD,
                text,
                "is not of the form attestor:property:value, such as unix:uid:1000",
            )),
        }
    }

    /// The selector as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Attestor and property, such as `unix:uid`.
    pub fn kind(&self) -> &str {
        &self.text[..usize::from(self.value_at) - 1]
    }

    /// What must hold for the property, such as `1000`.
    pub fn value(&self) -> &str {
        &self.text[usize::from(self.value_at)..]
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({})", self.text)
    }
}

impl FromStr for Selector {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_kind_and_value() {
        let uid = Selector::parse("unix:uid:1000").unwrap();
        assert_eq!((uid.kind(), uid.value()), ("unix:uid", "1000"));
        let image = Selector::parse("docker:image:repo/a:1.2@sha256:ff").unwrap();
        assert_eq!((image.kind(), image.value()), ("docker:image", "repo/a:1.2@sha256:ff"));
    }

    #[test]
    fn refuses_other_shapes() {
        for bad in [
            "",
            "unix",
            "unix:uid",
            "unix:uid:",
            ":uid:1",
            "Unix:uid:1",
            "unix:u d:1",
            "unix:path:/a\nb",
        ] {
            assert!(Selector::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Selector::parse(&format!("unix:path:/{}", "a".repeat(1024))).is_err());
    }
}
