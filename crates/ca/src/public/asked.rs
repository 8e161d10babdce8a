//! The paths of the public files.

use mintage_identity::IssuerKeyId;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The newest heartbeat, which names epoch and sequence of everything else.
    Latest,
    /// The whole set at a sequence.
    Snapshot { epoch: u64, sequence: u64 },
    /// What came after one sequence, up to another.
    Delta { epoch: u64, from: u64, to: u64 },
    /// The list of a CA key.
    Crl(IssuerKeyId),
}

impl Asked {
    /// Reads the path of a request, as it was sent: nothing in it is decoded or made shorter.
    pub(super) fn parse(path: &str) -> Option<Self> {
        if let Some(name) = path.strip_prefix("/crl/") {
            let name = name.strip_suffix(".crl")?;
            // One name for one file: caches compare octets.
            let issuer = name.parse::<IssuerKeyId>().ok()?;
            return (issuer.to_string() == name).then_some(Self::Crl(issuer));
        }
        let below = path.strip_prefix("/revocation/v1/")?;
        if below == "latest" {
            return Some(Self::Latest);
        }
        let (kind, name) = below.split_once('/')?;
        let mut numbers = name.split('-').map(number);
        let asked = match kind {
            "snapshot" => Self::Snapshot {
                epoch: numbers.next()??,
                sequence: numbers.next()??,
            },
            "delta" => Self::Delta {
                epoch: numbers.next()??,
                from: numbers.next()??,
                to: numbers.next()??,
            },
            _ => return None,
        };
        numbers.next().is_none().then_some(asked)
    }

    /// What was asked for, as a label.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Snapshot { .. } => "snapshot",
            Self::Delta { .. } => "delta",
            Self::Crl(_) => "crl",
        }
    }
}

/// A decimal number without sign or leading zeros.
fn number(text: &str) -> Option<u64> {
    let value: u64 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_one_name_and_nothing_else_is_one() {
        assert_eq!(Asked::parse("/revocation/v1/latest"), Some(Asked::Latest));
        assert_eq!(
            Asked::parse("/revocation/v1/snapshot/1-20"),
            Some(Asked::Snapshot { epoch: 1, sequence: 20 })
        );
        assert_eq!(
            Asked::parse("/revocation/v1/delta/1-7-20"),
            Some(Asked::Delta {
                epoch: 1,
                from: 7,
                to: 20
            })
        );
        let key = "ab".repeat(32);
        let crl = Asked::parse(&format!("/crl/{key}.crl"));
        assert_eq!(crl, Some(Asked::Crl(key.parse().unwrap())));
        for path in [
            "",
            "/",
            "/latest",
            "/revocation/v1/",
            "/revocation/v1/latest/",
            "/revocation/v2/latest",
            "/revocation/v1/snapshot/1",
            "/revocation/v1/snapshot/1-20-21",
            "/revocation/v1/snapshot/1-020",
            "/revocation/v1/snapshot/+1-20",
            "/revocation/v1/snapshot/1-18446744073709551616",
            "/revocation/v1/delta/1-7",
            "/revocation/v1/delta/1-7-",
            "/revocation/v1/delta/1-7-20-30",
            "/revocation/v1/other/1-7",
            "/revocation/v1/../v1/latest",
            "/crl/ab.crl",
            "/crl/",
            &format!("/crl/{}.crl", key.to_uppercase()),
            &format!("/crl/{key}"),
        ] {
            assert_eq!(Asked::parse(path), None, "{path}");
        }
    }
}
