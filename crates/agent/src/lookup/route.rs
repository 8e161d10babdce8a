//! What an HTTP request on the socket asks for, read out of its path. Everything that is wrong names its part and the remedy.

use mintage_identity::{IssuerKeyId, Serial, SpiffeId, SpkiHash, UnixTime};
use mintage_revocation::Shown;

use super::escaped::unescape;
use crate::limits::HTTP_TARGET_BYTES_MAX;

const ROOT: &str = "/v1/revocation/";
const AUTH: &str = "auth";

/// One of the two things that may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v1/revocation/auth`: about the certificate in a header, for a proxy that asks before each request.
    Auth,
    /// `/v1/revocation/{issuer}/{serial}`: about what a certificate shows.
    Ask(Box<Particulars>),
}

/// What a certificate shows, as far as the caller says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Particulars {
    /// The key that issued it, and its serial.
    pub name: Option<(IssuerKeyId, Serial)>,
    /// Its SPIFFE ID.
    pub spiffe_id: Option<SpiffeId>,
    /// SHA-256 of its public key.
    pub spki_sha256: Option<SpkiHash>,
    /// Start of its validity.
    pub not_before: Option<UnixTime>,
    /// End of its validity.
    pub not_after: Option<UnixTime>,
}

impl Particulars {
    pub(crate) fn shown(&self) -> Shown<'_> {
        Shown {
            name: self.name.as_ref().map(|(issuer, serial)| (*issuer, serial)),
            spiffe_id: self.spiffe_id.as_ref(),
            spki_sha256: self.spki_sha256,
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteProblem {
    /// Nothing is there: 404.
    NotFound,
    /// Something is, but not in this form: 400.
    Wrong(String),
    /// The path and query are longer than the limit: 414.
    TooLong,
}

impl Route {
    /// Reads path and query of a request target (RFC 9112, section 3.2.1).
    ///
    /// # Errors
    /// What is wrong with it, for the caller.
    pub fn parse(target: &str) -> Result<Self, RouteProblem> {
        if target.len() > HTTP_TARGET_BYTES_MAX {
            return Err(RouteProblem::TooLong);
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let below = path.strip_prefix(ROOT).ok_or(RouteProblem::NotFound)?;
        if below == AUTH {
            return Ok(Self::Auth);
        }
        let (issuer, serial) = below.split_once('/').ok_or(RouteProblem::NotFound)?;
        let issuer = octets_32("issuer", issuer)?;
        let serial = Serial::parse(serial).map_err(|error| RouteProblem::Wrong(error.to_string()))?;
        let mut asked = Particulars {
            name: Some((IssuerKeyId::new(issuer), serial)),
            ..Particulars::default()
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            asked.take(key, value)?;
        }
        Ok(Self::Ask(Box::new(asked)))
    }
}

impl Particulars {
    fn take(&mut self, key: &str, value: &str) -> Result<(), RouteProblem> {
        let twice = match key {
            "spiffe_id" => {
                let text = unescape(key, value.as_bytes()).map_err(RouteProblem::Wrong)?;
                let id = SpiffeId::parse(&text).map_err(|error| RouteProblem::Wrong(error.to_string()))?;
                self.spiffe_id.replace(id).is_some()
            }
            "public_key_sha256" => {
                let hash = SpkiHash::new(octets_32("public_key_sha256", value)?);
                self.spki_sha256.replace(hash).is_some()
            }
            "not_before_ms" => self.not_before.replace(moment(key, value)?).is_some(),
            "not_after_ms" => self.not_after.replace(moment(key, value)?).is_some(),
            _ => {
                return Err(RouteProblem::Wrong(
                    "query: only spiffe_id, public_key_sha256, not_before_ms and not_after_ms are known".to_owned(),
                ));
            }
        };
        match twice {
            true => Err(RouteProblem::Wrong(format!("{key}: is given twice; give it once"))),
            false => Ok(()),
        }
    }
}

fn octets_32(field: &str, text: &str) -> Result<[u8; 32], RouteProblem> {
    let mut octets = [0; 32];
    match hex::decode_to_slice(text, &mut octets) {
        Ok(()) => Ok(octets),
        Err(_) => Err(RouteProblem::Wrong(format!("{field}: must be 64 hexadecimal digits"))),
    }
}

fn moment(field: &str, text: &str) -> Result<UnixTime, RouteProblem> {
    let problem = || RouteProblem::Wrong(format!("{field}: must be milliseconds since 1970, in digits"));
    let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    let millis = text.parse().ok().filter(|_| digits).ok_or_else(problem)?;
    Ok(UnixTime::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "1111111111111111111111111111111111111111111111111111111111111111";

    fn wrong(target: &str) -> String {
        match Route::parse(target) {
            Err(RouteProblem::Wrong(told)) => told,
            other => panic!("{target}: {other:?}"),
        }
    }

    #[test]
    fn the_two_routes_are_found_and_nothing_else() {
        assert_eq!(Route::parse("/v1/revocation/auth"), Ok(Route::Auth));
        assert_eq!(
            Route::parse("/v1/revocation/auth?x=y"),
            Ok(Route::Auth),
            "nginx may pass a query on"
        );
        let Ok(Route::Ask(asked)) = Route::parse(&format!("/v1/revocation/{ISSUER}/4a0b")) else {
            panic!("is a question");
        };
        let name = (IssuerKeyId::new([0x11; 32]), Serial::parse("4a0b").unwrap());
        assert_eq!(
            *asked,
            Particulars {
                name: Some(name),
                ..Particulars::default()
            }
        );
        for nowhere in [
            "",
            "/",
            "/v1/revocation",
            "/v1/revocation/",
            "/v1/revocation/x",
            "/v2/revocation/auth",
            "*",
        ] {
            assert_eq!(Route::parse(nowhere), Err(RouteProblem::NotFound), "{nowhere}");
        }
        let long = format!("/v1/revocation/auth?{}", "a".repeat(HTTP_TARGET_BYTES_MAX));
        assert_eq!(Route::parse(&long), Err(RouteProblem::TooLong));
    }

    #[test]
    fn a_query_says_more_of_the_certificate() {
        let query = format!(
            "spiffe_id=spiffe%3A//dev.test/web&public_key_sha256={}&not_before_ms=5&not_after_ms=9",
            "ab".repeat(32)
        );
        let Ok(Route::Ask(asked)) = Route::parse(&format!("/v1/revocation/{ISSUER}/01?{query}")) else {
            panic!("is a question");
        };
        assert_eq!(asked.spiffe_id, Some(SpiffeId::parse("spiffe://dev.test/web").unwrap()));
        assert_eq!(asked.spki_sha256, Some(SpkiHash::new([0xab; 32])));
        let ends = (asked.not_before, asked.not_after);
        assert_eq!(ends, (Some(UnixTime::from_millis(5)), Some(UnixTime::from_millis(9))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let base = format!("/v1/revocation/{ISSUER}/01");
        for (target, names) in [
            (format!("/v1/revocation/{}/01", &ISSUER[1..]), "issuer: "),
            (format!("/v1/revocation/{}zz/01", &ISSUER[2..]), "issuer: "),
            (format!("/v1/revocation/{ISSUER}/"), "serial"),
            (format!("/v1/revocation/{ISSUER}/00"), "serial"),
            (format!("/v1/revocation/{ISSUER}/01/02"), "serial"),
            (format!("{base}?not_before_ms=-1"), "not_before_ms: "),
            (format!("{base}?not_after_ms=99999999999999999999"), "not_after_ms: "),
            (
                format!("{base}?not_after_ms=1&not_after_ms=1"),
                "not_after_ms: is given twice",
            ),
            (format!("{base}?spiffe_id=%2"), "spiffe_id: "),
            (format!("{base}?spiffe_id=x"), "SPIFFE ID"),
            (format!("{base}?public_key_sha256=ab"), "public_key_sha256: "),
            (format!("{base}?serial=1"), "query: only"),
        ] {
            let told = wrong(&target);
            assert!(told.contains(names), "{target}: {told}");
        }
    }
}
