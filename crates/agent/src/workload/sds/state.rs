//! What both kinds of SDS stream share: what a caller can be given, by name, and what a request comes to.

/// What a caller can be given now, by the names that it can ask for.
pub(super) trait Catalogue {
    /// The version of what this name stands for; none when the caller has no such thing.
    fn version(&self, name: &str) -> Option<String>;
    /// The names of each thing once.
    fn everything(&self) -> Vec<String>;
}

/// The name that stands for everything.
pub(super) const EVERYTHING: &str = "*";

/// What a request was, beside what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// An acknowledgement, or the first request.
    Taken,
    /// It answers a response that is not the last one, and changes nothing.
    Stale,
    /// The client could not use the last response, and why.
    Refused(String),
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) nonce: String,
    pub(super) version: String,
    /// Names whose secrets go out.
    pub(super) send: Vec<String>,
    /// Names that stand for nothing, or for nothing any more.
    pub(super) removed: Vec<String>,
}

/// What a stream owes its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owed {
    /// It has everything.
    Nothing,
    /// Nothing that it asks for is to be had; the names.
    Unknown(Vec<String>),
    Reply(Reply),
}

/// Numbers the responses of one stream.
#[derive(Debug, Default)]
pub(super) struct Nonces(u64);

impl Nonces {
    pub(super) fn next(&mut self) -> String {
        self.0 += 1;
        self.0.to_string()
    }

    /// Whether this is the last one given.
    pub(super) fn is_last(&self, nonce: &str) -> bool {
        self.0 > 0 && nonce == self.0.to_string()
    }

    /// Whether this is one that was given.
    pub(super) fn is_ours(&self, nonce: &str) -> bool {
        let number = nonce.parse().ok().filter(|number: &u64| number.to_string() == nonce);
        number.is_some_and(|number| (1..=self.0).contains(&number))
    }

    pub(super) fn none_yet(&self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_known_by_its_one_spelling() {
        let mut nonces = Nonces::default();
        assert!(nonces.none_yet() && !nonces.is_last("0") && !nonces.is_ours("0"));
        let (one, two) = (nonces.next(), nonces.next());
        assert!(nonces.is_ours(&one) && !nonces.is_last(&one));
        assert!(nonces.is_ours(&two) && nonces.is_last(&two));
        for foreign in ["", "3", "+1", "01", " 1", "18446744073709551616"] {
            assert!(!nonces.is_ours(foreign), "{foreign:?}");
        }
    }
}
