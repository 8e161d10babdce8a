//! HAProxy's runtime API (management guide, section 9.3): certificate, roots and revocation lists that it has in memory
//! are replaced without a reload, each in a transaction of its own.

use std::path::Path;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::Change;
use crate::{
    layout::{HAPROXY_FILE, haproxy_pem},
    limits::HOOK_OUTPUT_BYTES_MAX,
};

/// Replaces what is in memory under the names that the configuration gave.
pub(super) async fn update(change: &Change, socket: &Path, certificate: Option<&str>) -> Result<(), String> {
    let folder = change.delivery.directory();
    let name = match certificate {
        Some(name) => name.to_owned(),
        None => folder.join(HAPROXY_FILE).display().to_string(),
    };
    // The lists first: HAProxy 2.6 makes the certificate's contexts anew with the lists it holds then, and afterwards no longer
    // knows that they use them.
    if let Some(crls) = &change.crls {
        let lists = folder.join(change.delivery.layout().crl_file()).display().to_string();
        replace(socket, "crl-file", &lists, crls.as_bytes()).await?;
    }
    let pem = haproxy_pem(change.held.chain(), change.held.key());
    replace(socket, "cert", &name, &pem).await
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
