//! What a scanner found, as fingerprints: PEM certificates and keys in findings of gitleaks and trufflehog, or a plain list.
//! Of a secret only the fingerprint of its public key leaves this file.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use mintage_svid::{cert_sha256, spki_sha256, spki_sha256_of_pkcs1, spki_sha256_of_pkcs8, spki_sha256_of_sec1};
use serde_json::Value;

use crate::limits::{FINDINGS_MAX, FINGERPRINTS_MAX};

/// SHA-256 of a certificate, or of a SubjectPublicKeyInfo.
pub(crate) type Fingerprint = [u8; 32];

/// What a file of findings comes to.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Findings {
    /// Findings, or lines of a list.
    pub(crate) count: usize,
    /// Each fingerprint with the place it was found at first.
    pub(crate) fingerprints: BTreeMap<Fingerprint, String>,
    /// Places of findings without a certificate or key that can be read.
    pub(crate) others: Vec<String>,
}

/// Fields that hold what was found: gitleaks, then trufflehog.
const TEXTS: [&str; 4] = ["Secret", "Match", "Raw", "RawV2"];

/// Reads a file of findings.
///
/// # Errors
/// Says the line or the number of the finding that cannot be read, never what stands there.
pub(crate) fn read(text: &str) -> Result<Findings, String> {
    let mut findings = Findings::default();
    match text.trim_start().starts_with(['[', '{']) {
        true => of_json(text, &mut findings)?,
        false => of_list(text, &mut findings)?,
    }
    let found = findings.fingerprints.len();
    if found > FINGERPRINTS_MAX {
        return Err(format!(
            "{found} fingerprints, the limit is {FINGERPRINTS_MAX}; split the file"
        ));
    }
    Ok(findings)
}

fn of_list(text: &str, findings: &mut Findings) -> Result<(), String> {
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        // As `openssl x509 -fingerprint -sha256` writes it.
        let digits = line.rsplit('=').next().unwrap_or(line).replace(':', "");
        let mut fingerprint = [0; 32];
        hex::decode_to_slice(digits.trim(), &mut fingerprint)
            .map_err(|_| format!("line {number}: no SHA-256 fingerprint of 64 hexadecimal digits"))?;
        findings.counted()?;
        findings
            .fingerprints
            .entry(fingerprint)
            .or_insert_with(|| format!("line {number}"));
    }
    Ok(())
}

fn of_json(text: &str, findings: &mut Findings) -> Result<(), String> {
    // One array of gitleaks, or objects of trufflehog one after another.
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let value = value.map_err(|error| format!("no JSON at line {} column {}", error.line(), error.column()))?;
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| findings.take(value))?,
            value => findings.take(&value)?,
        }
    }
    Ok(())
}

impl Findings {
    fn counted(&mut self) -> Result<(), String> {
        self.count += 1;
        match self.count > FINDINGS_MAX {
            true => Err(format!("more than {FINDINGS_MAX} findings; split the file")),
            false => Ok(()),
        }
    }

    fn take(&mut self, finding: &Value) -> Result<(), String> {
        self.counted()?;
        let texts: Vec<&str> = TEXTS.iter().filter_map(|field| finding.get(field)?.as_str()).collect();
        if texts.is_empty() {
            return Err(format!(
                "finding {}: it has neither Secret nor Raw; findings of gitleaks and trufflehog are read",
                self.count
            ));
        }
        let place = place(finding).unwrap_or_else(|| format!("finding {}", self.count));
        let found: Vec<Fingerprint> = texts.iter().flat_map(|text| blocks(text)).collect();
        if found.is_empty() {
            self.others.push(place);
            return Ok(());
        }
        for fingerprint in found {
            self.fingerprints.entry(fingerprint).or_insert_with(|| place.clone());
        }
        Ok(())
    }
}

/// Where it was found: gitleaks, then trufflehog's source.
fn place(finding: &Value) -> Option<String> {
    let at = |source: &Value, file: &str, line: &str| {
        let file = source.get(file)?.as_str()?.to_owned();
        let line = source.get(line).and_then(Value::as_u64);
        Some(line.map_or(file.clone(), |line| format!("{file}:{line}")))
    };
    at(finding, "File", "StartLine").or_else(|| {
        let data = finding.pointer("/SourceMetadata/Data")?.as_object()?;
        data.values().find_map(|source| at(source, "file", "line"))
    })
}

/// The fingerprints of the PEM blocks in a text. Source code has its line ends written out.
fn blocks(text: &str) -> Vec<Fingerprint> {
    let text = text.replace("\\r", "").replace("\\n", "\n");
    let begins = text.split("-----BEGIN ").skip(1);
    begins.filter_map(block).collect()
}

fn block(text: &str) -> Option<Fingerprint> {
    let (label, rest) = text.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let letters: String = body
        .chars()
        .filter(|letter| letter.is_ascii_graphic() && *letter != '"')
        .collect();
    let der = STANDARD.decode(letters).ok()?;
    match label {
        "CERTIFICATE" => Some(*cert_sha256(&der).as_bytes()),
        "PUBLIC KEY" => Some(*spki_sha256(&der).as_bytes()),
        "PRIVATE KEY" => Some(*spki_sha256_of_pkcs8(&der).ok()?.as_bytes()),
        "EC PRIVATE KEY" => Some(*spki_sha256_of_sec1(&der).ok()?.as_bytes()),
        "RSA PRIVATE KEY" => Some(*spki_sha256_of_pkcs1(&der).ok()?.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A private key as PEM, and the fingerprint of its public key.
    fn key() -> (String, Fingerprint) {
        let key = rcgen::KeyPair::generate().unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        (key.serialize_pem(), *spki_sha256(&spki).as_bytes())
    }

    #[test]
    fn a_list_is_read_in_the_forms_that_people_have() {
        let colons = vec!["AB"; 32].join(":");
        let text = format!(
            "# leaked\n\n{}  # web\nsha256 Fingerprint={colons}\n{}\n",
            "01".repeat(32),
            "ab".repeat(32)
        );
        let findings = read(&text).unwrap();
        assert_eq!((findings.count, findings.fingerprints.len()), (3, 2));
        assert_eq!(findings.fingerprints[&[0xab; 32]], "line 4");
        for bad in ["zz", "abcd", &"a".repeat(63), "hunter2-is-a-password"] {
            let problem = read(&format!("{}\n{bad}\n", "01".repeat(32))).unwrap_err();
            assert!(problem.starts_with("line 2:") && !problem.contains(bad), "{problem}");
        }
        assert_eq!(read("").unwrap(), Findings::default());
    }

    #[test]
    fn keys_in_findings_become_fingerprints_and_nothing_else_is_kept() {
        let ((one, first), (two, second)) = (key(), key());
        let gitleaks = serde_json::json!([
            {"RuleID": "private-key", "File": "src/tls.rs", "StartLine": 7, "Secret": one, "Match": one},
            {"RuleID": "generic", "File": "env", "StartLine": 1, "Secret": "hunter2", "Match": "p=hunter2"},
        ]);
        let findings = read(&gitleaks.to_string()).unwrap();
        assert_eq!(
            findings.fingerprints,
            BTreeMap::from([(first, "src/tls.rs:7".to_owned())])
        );
        assert_eq!(findings.others, ["env:1"]);
        assert!(!format!("{findings:?}").contains("hunter2"));

        let git = serde_json::json!({"Data": {"Git": {"file": "a.go", "line": 3}}});
        let written_out = two.replace('\n', "\\n");
        let lines = [
            serde_json::json!({"SourceMetadata": git, "DetectorName": "PrivateKey", "Raw": written_out, "RawV2": ""}),
            serde_json::json!({"DetectorName": "PrivateKey", "Raw": one}),
        ];
        let findings = read(&lines.map(|line| line.to_string()).join("\n")).unwrap();
        let expected = [(second, "a.go:3".to_owned()), (first, "finding 2".to_owned())];
        assert_eq!(findings.fingerprints, BTreeMap::from(expected));
    }

    #[test]
    fn what_is_no_finding_is_refused_without_repeating_it() {
        for (text, told) in [
            ("[{\"Secret\": \"hunter2\"", "no JSON at line 1"),
            ("{\"password\": \"hunter2\"}", "finding 1"),
            ("[1]", "finding 1"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(told) && !problem.contains("hunter2"), "{problem}");
        }
        let broken = "[{\"Secret\": \"-----BEGIN PRIVATE KEY-----\\nAAAA\\n-----END PRIVATE KEY-----\"}]";
        assert_eq!(read(broken).unwrap().others, ["finding 1"]);
    }

    #[test]
    fn what_gitleaks_and_trufflehog_write_is_read_with_keys_in_the_forms_of_openssl() {
        // Keys made for this test alone, and their fingerprints by `openssl pkey -pubout -outform DER | sha256sum`.
        let places = [
            (
                "9f2cc278c0efebdfbd498599e9ef5a9cdd37d676599c6110aa4e5a8e670b4c46",
                "deploy/web/tls.key:1",
            ),
            (
                "e46be442735bb97f2db7a377ae4c2e1be266bbe9afe22ede439e47bec0d3b811",
                "legacy/batch.pem:3",
            ),
        ];
        let expected: BTreeMap<String, String> = places.map(|(key, at)| (key.to_owned(), at.to_owned())).into();
        for (text, others) in [
            (include_str!("tests/findings/gitleaks.json"), &["config/app.env:12"][..]),
            (include_str!("tests/findings/trufflehog.jsonl"), &[]),
        ] {
            let findings = read(text).unwrap();
            let found = findings.fingerprints.iter();
            let found: BTreeMap<String, String> = found.map(|(key, at)| (hex::encode(key), at.clone())).collect();
            assert_eq!(found, expected);
            assert_eq!(findings.others, others);
        }
    }

    #[test]
    fn a_file_has_limits() {
        let many: String = (0..=FINGERPRINTS_MAX).map(|n| format!("{n:064x}\n")).collect();
        assert!(read(&many).unwrap_err().contains("the limit is"));
        let same = format!("{}\n", "01".repeat(32)).repeat(FINDINGS_MAX + 1);
        assert!(read(&same).unwrap_err().contains("findings"));
    }
}
