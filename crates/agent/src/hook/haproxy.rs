//! HAProxy's runtime API (management guide, section 9.3): the certificate that it has in memory is replaced without a reload, in
//! one transaction. HAProxy 2.6 no longer holds clients to its `crl-file` once a certificate was replaced so; a delivery with
//! lists is refused this hook.

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
