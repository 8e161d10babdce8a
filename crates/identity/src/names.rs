//! Names people give: agents, CA replicas and registration entries.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use crate::{
    NameError,
    id::check_segment,
    limits::{ENTRY_NAME_BYTES_MAX, NODE_NAME_BYTES_MAX},
};

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $field:literal, $limit:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Parses the name: one path segment that is also a safe file name.
            ///
            /// # Errors
            /// Refuses an empty or over-long name, a first character other than a letter or digit, and any character
            /// outside `[a-zA-Z0-9._-]`.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check_name($field, text, $limit)?;
                Ok(Self(text.into()))
            }

            /// The name as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// An agent's name: the last segment of `/mintage/agent/<name>`, 1 to 64 bytes.
    AgentName, "agent name", NODE_NAME_BYTES_MAX
);
name_type!(
    /// A CA replica's name: the last segment of `/mintage/ca/<name>`, 1 to 64 bytes.
    ReplicaName, "replica name", NODE_NAME_BYTES_MAX
);
name_type!(
    /// A registration entry's name, unique in a trust domain, 1 to 128 bytes.
    EntryName, "entry name", ENTRY_NAME_BYTES_MAX
);

fn check_name(field: &'static str, text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::new(field, text, "is empty; write a name such as web-1"));
    }
    if text.len() > limit {
        return Err(NameError::new(
            field,
            text,
            format!("is {} bytes long, the limit is {limit}", text.len()),
        ));
    }
    check_segment(field, text, text)?;
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(NameError::new(field, text, "must start with a letter or a digit"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_file_names() {
        for bad in ["", ".", "..", "-rf", "a/b", "a b", "_x", "a\n", "ä"] {
            assert!(AgentName::parse(bad).is_err(), "{bad:?}");
            assert!(EntryName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(AgentName::parse(&"a".repeat(65)).is_err());
        assert!(EntryName::parse(&"a".repeat(128)).is_ok());
        assert_eq!(AgentName::parse("node-1.eu").unwrap().as_str(), "node-1.eu");
    }
}
