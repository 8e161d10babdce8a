//! Audiences of JWT-SVIDs, and which of them an entry allows.

use std::collections::BTreeSet;

use crate::{
    NameError,
    limits::{JWT_AUDIENCE_BYTES_MAX, JWT_AUDIENCES_MAX},
};

const FIELD: &str = "audience";
/// Audiences named in a refusal, which has to fit into a header.
const SHOWN_MAX: usize = 4;

/// Checks one audience: 1 to 255 bytes without control characters (a StringOrURI of RFC 7519, section 2).
///
/// # Errors
/// Refuses every other text.
pub fn check_audience(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > JWT_AUDIENCE_BYTES_MAX {
        let problem = format!(
            "has {} bytes; 1 to {JWT_AUDIENCE_BYTES_MAX} are allowed, such as https://service.example.org",
            text.len()
        );
        return Err(NameError::new(FIELD, text, problem));
    }
    match text.chars().any(char::is_control) {
        true => Err(NameError::new(
            FIELD,
            text,
            "has a control character; write it in one plain line",
        )),
        false => Ok(()),
    }
}

/// The audiences one JWT-SVID is for: at least one, in one order whatever order they were named in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audiences(BTreeSet<String>);

impl Audiences {
    /// The audiences of a request. One that is named twice counts once.
    ///
    /// # Errors
    /// Refuses none, more than 16, and what [`check_audience`] refuses.
    pub fn parse(texts: &[String]) -> Result<Self, NameError> {
        if texts.is_empty() {
            let problem = "is missing; name the service that the token is for";
            return Err(NameError::new(FIELD, "", problem));
        }
        if texts.len() > JWT_AUDIENCES_MAX {
            let problem = format!(
                "is one of {}, the limit is {JWT_AUDIENCES_MAX}; ask for several tokens",
                texts.len()
            );
            return Err(NameError::new(FIELD, &texts[0], problem));
        }
        texts.iter().try_for_each(|text| check_audience(text))?;
        Ok(Self(texts.iter().cloned().collect()))
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The same as texts of their own.
    pub fn to_vec(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }
}

/// Which JWT-SVIDs an entry gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtRule {
    /// For whatever audience.
    Any,
    /// None.
    Forbidden,
    /// For these audiences.
    Only(BTreeSet<String>),
}

impl JwtRule {
    /// The rule as entries write it: `jwt_forbidden`, and `jwt_audiences`, where an empty list means any.
    pub fn of(forbidden: bool, audiences: &[String]) -> Self {
        match (forbidden, audiences) {
            (true, _) => Self::Forbidden,
            (false, []) => Self::Any,
            (false, only) => Self::Only(only.iter().cloned().collect()),
        }
    }

    /// Why there is no token for these audiences; `None` when there is. All of them must be allowed.
    pub fn why_not(&self, audiences: &Audiences) -> Option<String> {
        match self {
            Self::Any => None,
            Self::Forbidden => Some("it forbids JWT-SVIDs (jwt_forbidden)".to_owned()),
            Self::Only(only) => {
                let other = audiences.0.iter().find(|audience| !only.contains(*audience))?;
                let mut allowed: Vec<&str> = only.iter().map(String::as_str).take(SHOWN_MAX).collect();
                if only.len() > SHOWN_MAX {
                    allowed.push("and others");
                }
                let allowed = allowed.join(", ");
                Some(format!(
                    "it gives no JWT-SVID for the audience {other:?}, only for {allowed} (jwt_audiences)"
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_request_names_one_to_sixteen_plain_audiences() {
        let two = Audiences::parse(&texts(&["b", "a", "b"])).unwrap();
        assert_eq!(two.to_vec(), ["a", "b"]);
        assert_eq!(
            two,
            Audiences::parse(&texts(&["a", "b"])).unwrap(),
            "the order says nothing"
        );
        let long = "x".repeat(JWT_AUDIENCE_BYTES_MAX);
        assert!(Audiences::parse(&vec![long.clone(); JWT_AUDIENCES_MAX]).is_ok());
        for bad in [
            texts(&[]),
            texts(&[""]),
            texts(&["a", ""]),
            texts(&["a\nb"]),
            texts(&["\u{7f}"]),
            vec![format!("{long}x")],
            vec!["a".to_owned(); JWT_AUDIENCES_MAX + 1],
        ] {
            let told = Audiences::parse(&bad).unwrap_err().to_string();
            assert!(told.contains("audience") && !told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn every_audience_must_be_allowed() {
        let of = |forbidden, only: &[&str], asked: &[&str]| {
            JwtRule::of(forbidden, &texts(only)).why_not(&Audiences::parse(&texts(asked)).unwrap())
        };
        assert_eq!(of(false, &[], &["anything"]), None);
        assert_eq!(of(false, &["a", "b"], &["b", "a"]), None);
        let told = of(false, &["a"], &["a", "c"]).unwrap();
        assert!(told.contains("\"c\"") && told.contains("only for a"), "{told}");
        assert!(
            of(false, &["a"], &["A"]).is_some(),
            "audiences are compared octet for octet"
        );
        let many = of(false, &["a", "b", "c", "d", "e"], &["x"]).unwrap();
        assert!(many.contains("only for a, b, c, d, and others"), "{many}");
        assert!(of(true, &[], &["a"]).unwrap().contains("jwt_forbidden"));
        assert!(of(true, &["a"], &["a"]).is_some());
    }
}
