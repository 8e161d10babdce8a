//! HAProxy's runtime API (management guide, section 9.3): what it has in memory is replaced without a reload, each file in one
//! transaction. Seen with 2.6.12 and 2.8.25, and guarded against here:
//!
//! - It prepares the replacement once for each DNS name in it. A certificate without any is served with no `verify`, `ca-file`
//!   or `crl-file`: anybody is answered. So such a certificate is refused.
//! - 2.6 ends by a fault of its own when `crl-file` or `ca-file` are replaced for the second time with a certificate in between;
//!   2.8 does not. So before 2.8 only the certificate is, and a delivery with lists is refused.
//! - A file longer than `tune.bufsize` ends the connection to the socket without a word.

use std::{fmt, path::Path};

use mintage_svid::LeafInfo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::Change;
use crate::{
    layout::{HAPROXY_CA_FILE, HAPROXY_FILE, haproxy_pem},
    limits::{CRLS_PEM_BYTES_MAX, HOOK_OUTPUT_BYTES_MAX},
};

/// The first version whose lists and roots can be replaced again and again.
const REPLACES_LISTS: Version = Version(2, 8);

/// Major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    /// The number that an answer such as `2.6.12-1+deb12u4` begins with.
    fn parse(answer: &str) -> Option<Self> {
        let mut numbers = answer.trim().split(['.', '-']);
        let mut next = || numbers.next()?.parse().ok();
        Some(Self(next()?, next()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Replaces what is in memory under the names that the configuration gave: lists, roots, certificate, so that what was revoked
/// is refused first. Lists that it does not take hold nothing back, and are told at the end: those that it has stay in force.
pub(super) async fn update(change: &Change, socket: &Path, certificate: Option<&str>) -> Result<(), String> {
    let delivery = &change.delivery;
    let folder = delivery.directory();
    check_named(change.held.chain())?;
    let version = ask(socket, b"show version\n").await?;
    let replaces_lists = Version::parse(&version).is_some_and(|version| version >= REPLACES_LISTS);
    let lists = folder.join(delivery.layout().crl_file());
    let mut listed = Ok(());
    if delivery.crl() {
        check_takes_lists(replaces_lists, &version)?;
        listed = replace_file(socket, "crl-file", &lists).await;
    }
    let roots = folder.join(HAPROXY_CA_FILE);
    if replaces_lists && holds(socket, "ca-file", &roots).await? {
        replace_file(socket, "ca-file", &roots).await?;
    }
    let name = match certificate {
        Some(name) => name.to_owned(),
        None => folder.join(HAPROXY_FILE).display().to_string(),
    };
    let pem = haproxy_pem(change.held.chain(), change.held.key());
    replace(socket, "cert", &name, &pem).await?;
    check_in_use(socket, "ca-file", &roots).await?;
    match delivery.crl() {
        true => check_in_use(socket, "crl-file", &lists).await.and(listed),
        false => Ok(()),
    }
}

fn check_takes_lists(replaces_lists: bool, version: &str) -> Result<(), String> {
    match replaces_lists {
        true => Ok(()),
        false => Err(format!(
            "version {:?} would end by a fault when its lists are replaced; use {REPLACES_LISTS} or later, or systemd = \
             \"reload\", or crl = false",
            plain(version)
        )),
    }
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

/// Whether its configuration loads this file.
async fn holds(socket: &Path, kind: &str, file: &Path) -> Result<bool, String> {
    let shown = ask(socket, format!("show ssl {kind} {}\n", file.display()).as_bytes()).await?;
    Ok(shown.contains("Status:"))
}

/// Where it has this file, it is still in use after the replacement.
async fn check_in_use(socket: &Path, kind: &str, file: &Path) -> Result<(), String> {
    let file = file.display();
    let shown = ask(socket, format!("show ssl {kind} {file}\n").as_bytes()).await?;
    match shown.contains("Status: Unused") {
        true => Err(format!("it no longer holds clients to {file}: reload it at once")),
        false => Ok(()),
    }
}

/// Replaces one of its files by what lies in the folder.
async fn replace_file(socket: &Path, kind: &str, file: &Path) -> Result<(), String> {
    let failed = |problem: String| format!("{}: {problem}", file.display());
    let opened = tokio::fs::File::open(file).await;
    let mut content = Vec::new();
    let most = CRLS_PEM_BYTES_MAX as u64;
    let read = opened
        .map_err(|error| failed(error.to_string()))?
        .take(most + 1)
        .read_to_end(&mut content)
        .await;
    read.map_err(|error| failed(error.to_string()))?;
    if content.len() > CRLS_PEM_BYTES_MAX {
        return Err(failed(format!("it has more than {most} bytes")));
    }
    replace(socket, kind, &file.display().to_string(), &content).await
}

async fn replace(socket: &Path, kind: &str, name: &str, content: &[u8]) -> Result<(), String> {
    let mut set = zeroize::Zeroizing::new(format!("set ssl {kind} {name} <<\n").into_bytes());
    set.reserve(content.len() + 1);
    set.extend_from_slice(content);
    // The content ends at the first empty line; PEM has none.
    set.extend_from_slice(b"\n");
    let answer = ask(socket, &set).await.map_err(|problem| {
        let bytes = content.len();
        format!("{problem}, at the {bytes} bytes of {kind} {name}; tune.bufsize must be larger than that")
    })?;
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
    let answer = plain(answer);
    format!("it does not take {kind} {name}: {answer:?}; the name must be the one that its configuration loads")
}

/// The beginning of an answer, without what a terminal would act on.
fn plain(answer: &str) -> String {
    let visible = answer.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    visible.take(400).collect()
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
    use std::sync::Arc;

    use super::*;
    use crate::{config::Delivery, crls::tests::ca, held::tests::held_by, hook::Round};

    /// An admin socket that ends the connection at what is longer than this; what it was told, without content.
    async fn narrow(bufsize: usize, listener: tokio::net::UnixListener, told: tokio::sync::mpsc::Sender<String>) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut command = vec![0; bufsize];
            let read = stream.read(&mut command).await.unwrap();
            let command = String::from_utf8_lossy(&command[..read]).into_owned();
            let first = command.lines().next().unwrap_or_default().to_owned();
            let words: Vec<&str> = first.split(' ').take(3).collect();
            let answer = match words[..] {
                ["show", "version"] => "2.8.25\n",
                ["show", ..] => "Status: Used\n",
                ["set", "ssl", "crl-file"] => "",
                ["set", ..] => "Transaction created\n",
                _ => "Success!\n",
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            told.send(words.join(" ")).await.unwrap();
        }
    }

    #[tokio::test]
    async fn lists_that_it_does_not_take_hold_no_certificate_back_and_are_told_at_the_end() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("web");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("ca.pem"), "-----BEGIN\n").unwrap();
        std::fs::write(folder.join("crl.pem"), "-----BEGIN\n".repeat(100_000)).unwrap();
        let socket = temp.path().join("admin.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let (sender, mut told) = tokio::sync::mpsc::channel(64);
        let server = tokio::spawn(narrow(16 * 1024, listener, sender));
        let delivery = Delivery::new("web".parse().unwrap(), &folder).unwrap();
        let change = Change {
            delivery: delivery.with_layout(crate::Layout::Haproxy).with_crl(true),
            held: held_by(&ca("root"), 1, &["web.example"]),
            pinned: Arc::default(),
            round: Round::From(0),
            provider: Arc::new(rustls::crypto::ring::default_provider()),
        };
        let problem = update(&change, &socket, None).await.unwrap_err();
        assert!(
            problem.contains("crl.pem") && problem.contains("tune.bufsize"),
            "{problem}"
        );
        server.abort();
        let mut commands = Vec::new();
        while let Some(command) = told.recv().await {
            commands.push(command);
        }
        let at = |command: &str| commands.iter().position(|told| told == command);
        assert!(at("set ssl crl-file") < at("set ssl cert"), "{commands:?}");
        assert!(
            at("commit ssl cert").is_some() && at("commit ssl crl-file").is_none(),
            "{commands:?}"
        );
    }

    #[test]
    fn only_versions_from_2_8_on_are_given_lists() {
        let takes = |answer: &str| Version::parse(answer).is_some_and(|version| version >= REPLACES_LISTS);
        for answer in ["2.8.25-5cf5d0683\n", "2.10.1", "3.0.11-1+deb13u1", "3.2-dev1"] {
            assert!(takes(answer), "{answer}");
        }
        for answer in [
            "2.6.12-1+deb12u4\n",
            "2.7",
            "1.9.3",
            "",
            "Unknown command: show version",
            "3",
            "x.8",
        ] {
            assert!(!takes(answer), "{answer}");
        }
        let told = check_takes_lists(false, "2.6.12\n\u{1b}[31m").unwrap_err();
        assert!(
            told.contains("2.6.12") && told.contains("use 2.8") && !told.contains('\u{1b}'),
            "{told}"
        );
    }

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
