//! A witness as the configuration names it: where it is, and the key that its cosignatures verify under.

use mintage_ledger::CosignerKey;
use serde::Deserialize;
use toml::Spanned;

use crate::limits::WITNESS_NAME_BYTES_MAX;

/// One `[[witness]]` of the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawWitness {
    pub(crate) url: Spanned<String>,
    pub(crate) vkey: Spanned<String>,
}

/// A witness that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WitnessPeer {
    pub(crate) url: SubmissionPrefix,
    pub(crate) key: CosignerKey,
}

/// The submission prefix of a witness (C2SP tlog-witness, HTTP interface).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubmissionPrefix {
    /// Host and port as in the `Host` header.
    pub(crate) authority: String,
    /// Host as it is looked up.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The path, without a slash at its end.
    path: String,
}

impl SubmissionPrefix {
    /// Reads `http://host[:port][/path]`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let refuse = |problem: &str| format!("witness.url: {text:?} {problem}; write http://witness.example:9480");
        let url: http::Uri = text.parse().map_err(|_| refuse("is no URL"))?;
        if url.scheme_str() != Some("http") {
            return Err(refuse(
                "does not begin with http:// (what is sent is signed, and so is what is kept)",
            ));
        }
        let authority = url.authority().ok_or_else(|| refuse("names no host"))?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(refuse("names no host alone"));
        }
        if url.query().is_some() || text.contains('#') {
            return Err(refuse("has more than a path"));
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => 80,
            // A port that is no 16-bit number is none of the URL's parts, but stands there.
            _ => authority
                .port_u16()
                .filter(|port| *port > 0)
                .ok_or_else(|| refuse("has no port to connect to"))?,
        };
        Ok(Self {
            authority: authority.as_str().to_owned(),
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            path: url.path().trim_end_matches('/').to_owned(),
        })
    }

    /// The path of a call.
    pub(crate) fn call(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }
}

/// Reads a witness's verifier key, whose name becomes a label of metrics.
pub(crate) fn parse_key(text: &str) -> Result<CosignerKey, String> {
    let key: CosignerKey = text.parse().map_err(|error| format!("witness.vkey: {error}"))?;
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    match key.name().chars().all(plain) && key.name().len() <= WITNESS_NAME_BYTES_MAX {
        true => Ok(key),
        false => Err(format!(
            "witness.vkey: the name {:?} is not 1 to {WITNESS_NAME_BYTES_MAX} plain ASCII letters",
            key.name()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_http_with_host_and_perhaps_port_and_path() {
        for (text, host, port, call) in [
            ("http://w.example", "w.example", 80, "/add-checkpoint"),
            ("http://w.example:9480/", "w.example", 9480, "/add-checkpoint"),
            ("http://127.0.0.1:1/a/b", "127.0.0.1", 1, "/a/b/add-checkpoint"),
            ("http://[::1]:9480/a/", "::1", 9480, "/a/add-checkpoint"),
        ] {
            let prefix = SubmissionPrefix::parse(text).unwrap();
            assert_eq!((prefix.host.as_str(), prefix.port), (host, port), "{text}");
            assert_eq!(prefix.call("add-checkpoint"), call, "{text}");
        }
        for bad in [
            "",
            "w.example:9480",
            "https://w.example",
            "http://",
            "http:///a",
            "http://user@w.example",
            "http://w.example:0",
            "http://w.example:70000",
            "http://w.example/a?b",
            "http://w.example/#a",
            "http://w example",
            "http://w.example/\r\nx: y",
        ] {
            assert!(SubmissionPrefix::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_with_a_name_that_is_no_label_is_refused() {
        let key = |name: &str| CosignerKey::new(name, [7; 32]).unwrap().to_string();
        assert!(parse_key(&key("witness.example/w1")).is_ok());
        for bad in ["w\"1", "w\\1", "wähler"] {
            assert!(parse_key(&key(bad)).is_err(), "{bad}");
        }
        assert!(parse_key(&key(&"w".repeat(WITNESS_NAME_BYTES_MAX + 1))).is_err());
        let log = mintage_ledger::Vkey::new("w1", [7; 32]).unwrap().to_string();
        assert!(
            parse_key(&log).unwrap_err().contains("0x04"),
            "a log's key is none of a witness"
        );
    }
}
