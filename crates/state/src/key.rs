//! The name of each object of the view in the store; the order of the names is the order of the view's hash.

use mintage_identity::{AgentName, EntryName, IssuerKeyId, TrustDomain};

use crate::model::TokenId;

/// One object of the view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Entry(EntryName),
    Agent(AgentName),
    Token(TokenId),
    Ca(i32, IssuerKeyId),
    Bundle,
    /// The bundle of another trust domain.
    Federated(TrustDomain),
    /// Where the folds led that a snapshot left out.
    Base,
    /// What the record at this ledger index folded into the revoked set.
    Fold(u64),
}

/// First octet of every name of `meta`, which is no object of the view.
pub(crate) const META: u8 = b'm';

impl Key {
    /// The name in the store.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Entry(name) => tagged(b'e', name.as_str().as_bytes()),
            Self::Agent(name) => tagged(b'a', name.as_str().as_bytes()),
            Self::Token(id) => tagged(b't', id.as_bytes()),
            Self::Ca(role, id) => [&tagged(b'c', &role.to_be_bytes())[..], id.as_bytes()].concat(),
            Self::Bundle => vec![b'b'],
            // Before every fold.
            Self::Base => vec![b'd'],
            Self::Federated(domain) => tagged(b'g', domain.as_str().as_bytes()),
            Self::Fold(index) => tagged(b'f', &index.to_be_bytes()),
        }
    }

    /// Reads a name out of the store; `None` for one that this program does not know.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let text = || std::str::from_utf8(rest).ok();
        match tag {
            b'e' => EntryName::parse(text()?).ok().map(Self::Entry),
            b'a' => AgentName::parse(text()?).ok().map(Self::Agent),
            b't' => rest.try_into().ok().map(TokenId::new).map(Self::Token),
            b'c' => {
                let (role, id) = rest.split_at_checked(4)?;
                Some(Self::Ca(
                    i32::from_be_bytes(role.try_into().ok()?),
                    IssuerKeyId::from_slice(id).ok()?,
                ))
            }
            b'b' if rest.is_empty() => Some(Self::Bundle),
            b'g' => TrustDomain::parse(text()?).ok().map(Self::Federated),
            b'd' if rest.is_empty() => Some(Self::Base),
            b'f' => rest.try_into().ok().map(u64::from_be_bytes).map(Self::Fold),
            _ => None,
        }
    }
}

fn tagged(tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + rest.len());
    bytes.push(tag);
    bytes.extend_from_slice(rest);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_refused() {
        let keys = [
            Key::Entry(EntryName::parse("web").unwrap()),
            Key::Agent(AgentName::parse("n1").unwrap()),
            Key::Token(TokenId::new([7; 32])),
            Key::Ca(2, IssuerKeyId::new([8; 32])),
            Key::Bundle,
            Key::Federated(TrustDomain::parse("other.test").unwrap()),
            Key::Base,
            Key::Fold(u64::MAX),
        ];
        for key in keys {
            assert_eq!(Key::from_bytes(&key.to_bytes()), Some(key));
        }
        for bad in [
            &b""[..],
            b"e",
            b"e..",
            b"t1",
            b"c123",
            b"b1",
            b"d1",
            b"f1",
            b"g",
            b"gOther.test",
            b"zz",
            b"mapplied",
        ] {
            assert_eq!(Key::from_bytes(bad), None, "{bad:?}");
        }
    }
}
