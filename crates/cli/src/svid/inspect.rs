//! `mintage svid inspect`: what a file with a certificate says, and whether it obeys the rules of an X509-SVID.

use std::path::PathBuf;

use clap::Args;
use mintage_svid::{
    PublicKey, X509Svid, cert_sha256, key_matches,
    pem::{decode_certificates, decode_private_key},
};
use mintage_sys::text_file;
use serde::Serialize;

use crate::{
    cli::Context,
    failure::Failure,
    limits::SVID_FILE_BYTES_MAX,
    text::{rfc3339, utc},
};

/// `svid inspect`.
#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// A PEM file with the chain, leaf first; the private key may stand in it too.
    file: PathBuf,
}

#[derive(Serialize)]
struct Shown {
    spiffe_id: String,
    serial: String,
    not_before: Option<String>,
    not_after: Option<String>,
    lifetime_s: u64,
    key: String,
    spki_sha256: String,
    sha256: String,
    dns_names: Vec<String>,
    common_name: Option<String>,
    issuer_key: Option<String>,
    certificates: usize,
    /// Whether the file has the private key of the leaf; none when it has no key.
    key_matches: Option<bool>,
    #[serde(skip)]
    ends: i64,
}

/// Runs the verb.
pub(super) fn run(context: &Context, inspect: &Inspect) -> Result<(), Failure> {
    let text =
        text_file::read(&inspect.file, SVID_FILE_BYTES_MAX).map_err(|problem| Failure::file(&inspect.file, problem))?;
    let shown = read(&text).map_err(|why| Failure::No(format!("{}: {why}", inspect.file.display())))?;
    context.output.object(&shown, || told(&shown))?;
    match shown.key_matches {
        Some(false) => Err(Failure::No(
            "the private key in the file is not the certificate's".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn read(text: &str) -> Result<Shown, String> {
    // The key apart, so that each reader gets what it is strict about.
    let (key, certificates) = split_key(text);
    let chain = decode_certificates(&certificates).map_err(|error| error.to_string())?;
    let svid = X509Svid::parse(chain).map_err(|error| error.to_string())?;
    let leaf = svid.leaf();
    let der = &svid.chain_der()[0];
    let key_matches = key
        .map(|pem| decode_private_key(&pem).and_then(|key| key_matches(der, &key)))
        .transpose()
        .map_err(|error| error.to_string())?;
    let ends = leaf.not_after().millis();
    Ok(Shown {
        spiffe_id: svid.id().to_string(),
        serial: leaf.serial().to_string(),
        not_before: rfc3339(leaf.not_before().millis()),
        not_after: rfc3339(ends),
        lifetime_s: leaf.not_after().since(leaf.not_before()).as_secs(),
        key: PublicKey::from_spki(leaf.spki_der())
            .map_or_else(|error| error.to_string(), |key| format!("{:?}", key.kind())),
        spki_sha256: leaf.spki_sha256().to_string(),
        sha256: cert_sha256(der).to_string(),
        dns_names: leaf.dns_names().to_vec(),
        common_name: leaf.common_name().map(str::to_owned),
        issuer_key: leaf.authority_key_id().map(hex::encode),
        certificates: svid.chain_der().len(),
        key_matches,
        ends,
    })
}

/// The block of the private key, where there is one, and everything else.
fn split_key(text: &str) -> (Option<zeroize::Zeroizing<String>>, String) {
    const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
    const END: &str = "-----END PRIVATE KEY-----";
    let Some(from) = text.find(BEGIN) else {
        return (None, text.to_owned());
    };
    let to = text[from..].find(END).map_or(text.len(), |at| from + at + END.len());
    let key = zeroize::Zeroizing::new(text[from..to].to_owned());
    // The rest of its line, whatever ends it, belongs to nobody.
    let rest = text[to..].trim_start();
    (Some(key), format!("{}{rest}", &text[..from]))
}

fn told(shown: &Shown) -> String {
    let mut lines = vec![
        ("SPIFFE ID", shown.spiffe_id.clone()),
        ("serial", shown.serial.clone()),
        ("valid until", utc(shown.ends)),
        ("lifetime", crate::text::lasting(shown.lifetime_s)),
        ("key", format!("{}, SHA-256 {}", shown.key, shown.spki_sha256)),
        ("certificate", format!("SHA-256 {}", shown.sha256)),
        ("chain", format!("{} certificates", shown.certificates)),
    ];
    if !shown.dns_names.is_empty() {
        lines.push(("DNS names", shown.dns_names.join(", ")));
    }
    if let Some(name) = &shown.common_name {
        lines.push(("common name", name.clone()));
    }
    if let Some(issuer) = &shown.issuer_key {
        lines.push(("issuer key", issuer.clone()));
    }
    if let Some(matches) = shown.key_matches {
        lines.push((
            "private key",
            if matches {
                "in the file, and fits"
            } else {
                "in the file, of another"
            }
            .to_owned(),
        ));
    }
    lines
        .iter()
        .map(|(name, value)| format!("{name:<12} {value}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_taken_out_wherever_it_stands() {
        let key = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n";
        let cert = "-----BEGIN CERTIFICATE-----\ny\n-----END CERTIFICATE-----\n";
        for text in [
            format!("{key}{cert}"),
            format!("{cert}{key}"),
            format!("{cert}{}", key.trim_end()),
        ] {
            for (text, cert) in [
                (text.clone(), cert.to_owned()),
                (text.replace('\n', "\r\n"), cert.replace('\n', "\r\n")),
            ] {
                let (found, rest) = split_key(&text);
                let key = found.unwrap();
                assert!(
                    key.starts_with("-----BEGIN PRIVATE KEY") && key.ends_with("END PRIVATE KEY-----"),
                    "{text:?}"
                );
                assert_eq!(rest, cert, "{text:?}");
            }
        }
        assert!(split_key(cert).0.is_none());
    }

    #[test]
    fn what_is_no_svid_is_said_with_the_rule() {
        assert!(read("").is_err());
        assert!(read("-----BEGIN PRIVATE KEY-----\n").is_err());
    }
}
