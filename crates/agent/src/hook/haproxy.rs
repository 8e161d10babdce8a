//! HAProxy's runtime API (management guide, section 9.3): the certificate that it has in memory is replaced without a reload, in
//! one transaction. Seen with 2.6.12, and guarded against here:
//!
//! - It prepares the replacement once for each DNS name in it. A certificate without any is served with no `verify`, `ca-file`
//!   or `crl-file`: anybody is answered. So such a certificate is refused.
//! - It ends by a fault of its own when `crl-file` or `ca-file` are replaced for the second time with a certificate in between.
//!   So only the certificate is, and a delivery with lists is refused this hook.

use std::path::Path;

use mintage_svid::LeafInfo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::Change;
use crate::{
    layout::{HAPROXY_CA_FILE, HAPROXY_FILE, haproxy_pem},
    limits::HOOK_OUTPUT_BYTES_MAX,
};

/// Replaces what is in memory under the name that the configuration gave.
pub(super) async fn update(change: &Change, socket: &Path, certificate: Option<&str>) -> Result<(), String> {
    let folder = change.delivery.directory();
    let name = match certificate {
        Some(name) => name.to_owned(),
        None => folder.join(HAPROXY_FILE).display().to_string(),
    };
    check_named(change.held.chain())?;
    let pem = haproxy_pem(change.held.chain(), change.held.key());
    replace(socket, "cert", &name, &pem).await?;
    check_holds_clients(socket, &folder.join(HAPROXY_CA_FILE)).await
}

fn check_named(chain: &[Vec<u8>]) -> Result<(), String> {
    let leaf = chain.first().ok_or("there is no certificate")?;
    let leaf = LeafInfo::parse(leaf).map_err(|error| error.to_string())?;
    match leaf.dns_names().is_empty() && leaf.common_name().is_none() {
        true => Err(
            "with a certificate without a DNS name in its memory it would no longer ask clients for theirs; give \
                     the entry dns_names, or use systemd = \"reload\""
                .to_owned(),
        ),
        false => Ok(()),
    }
}

/// Where it has the roots of this folder, they are still in use after the replacement.
async fn check_holds_clients(socket: &Path, roots: &Path) -> Result<(), String> {
    let roots = roots.display();
    let shown = ask(socket, format!("show ssl ca-file {roots}\n").as_bytes()).await?;
    match shown.contains("Status: Unused") {
        true => Err(format!("it no longer holds clients to {roots}: reload it at once")),
        false => Ok(()),
    }
}

async fn replace(socket: &Path, kind: &str, name: &str, content: &[u8]) -> Result<(), String> {
    let mut set = zeroize::Zeroizing::new(format!("set ssl {kind} {name} <<\n").into_bytes());
    set.reserve(content.len() + 1);
    set.extend_from_slice(content);
    // The content ends at the first empty line; PEM has none.
    set.extend_from_slice(b"\n");
    let answer = ask(socket, &set).await?;
    if !answer.contains("ransaction") {
        return Err(refused(kind, name, &answer));
    }
    let answer = ask(socket, format!("commit ssl {kind} {name}\n").as_bytes()).await?;
    if answer.contains("Success") {
        return Ok(());
    }
    // A transaction left open would refuse the next one.
    let _ = ask(socket, format!("abort ssl {kind} {name}\n").as_bytes()).await;
    Err(refused(kind, name, &answer))
}

fn refused(kind: &str, name: &str, answer: &str) -> String {
    let answer: String = answer
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(400)
        .collect();
    format!("it does not take {kind} {name}: {answer:?}; the name must be the one that its configuration loads")
}

/// One command, one connection: HAProxy closes it after the answer.
async fn ask(socket: &Path, command: &[u8]) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("its admin socket: {error}");
    let mut stream = UnixStream::connect(socket).await.map_err(failed)?;
    stream.write_all(command).await.map_err(failed)?;
    let mut answer = Vec::new();
    let most = HOOK_OUTPUT_BYTES_MAX as u64;
    stream.take(most).read_to_end(&mut answer).await.map_err(failed)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_without_a_name_is_refused() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let leaf = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = rcgen::CertificateParams::new(names).unwrap();
            let id = rcgen::string::Ia5String::try_from("spiffe://dev.test/web").unwrap();
            params.subject_alt_names.push(rcgen::SanType::URI(id));
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.is_ca = rcgen::IsCa::ExplicitNoCa;
            params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
            vec![params.self_signed(&key).unwrap().der().to_vec()]
        };
        assert!(check_named(&leaf(&[])).unwrap_err().contains("dns_names"));
        check_named(&leaf(&["web.example"])).unwrap();
    }
}
