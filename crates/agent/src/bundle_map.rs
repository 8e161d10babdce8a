//! The SPIFFE bundle map: one file that holds the roots of each trust domain by its name, for programs that read and watch
//! such a file, as Envoy does for `trust_bundles`. It is written beside its place and renamed into it, so that a reader
//! sees a whole one; it holds no secret.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use mintage_svid::TrustBundle;
use mintage_sys::{dir::Dir, text_file};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

use crate::{
    AgentError, AgentEvent,
    bundle::Bundle,
    federation::Federation,
    limits::{BUNDLE_MAP_BYTES_MAX, PLACE_AGAIN_AFTER},
    public_dir,
    shared::Shared,
};

/// Everyone on the node may read it.
const MODE: u32 = 0o644;
/// What its failures are counted as.
const STAGE: &str = "bundle_map";
/// The one member of the file.
pub(crate) const DOMAINS: &str = "trust_domains";

/// The file's place.
pub(crate) struct BundleMap {
    path: PathBuf,
    name: String,
}

impl BundleMap {
    /// The file at `path`; its directory is made when only its last part is missing.
    ///
    /// # Errors
    /// When others may write the directory, or something else than a bundle map lies there.
    pub(crate) fn at(path: &Path) -> Result<Self, AgentError> {
        let fail = |problem: String| AgentError::Bind {
            what: format!("bundle map {}", path.display()),
            problem,
        };
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(fail("is no path of a file".to_owned()));
        };
        let map = Self {
            path: path.to_owned(),
            name: name.to_owned(),
        };
        let dir = map.dir().map_err(fail)?;
        let here = dir.entry(name).map_err(|error| fail(error.to_string()))?;
        if here.is_some() && !is_map(path) {
            return Err(fail(
                "something that is no bundle map lies there; remove it or name another path".to_owned(),
            ));
        }
        Ok(map)
    }

    /// Opened for each write: below /run it may have been made anew.
    fn dir(&self) -> Result<Dir, String> {
        public_dir::open(self.path.parent().unwrap_or(&self.path))
    }

    /// Keeps the file as the bundle in force is, until `stop`.
    pub(crate) fn keep(self, shared: Arc<Shared>, stop: CancellationToken) {
        tokio::spawn(Arc::new(self).follow(shared.events(), shared, stop));
    }

    async fn follow(self: Arc<Self>, mut events: Receiver<AgentEvent>, shared: Arc<Shared>, stop: CancellationToken) {
        let (mut written, mut failed) = (None, None);
        loop {
            let bundle = shared.bundle.load_full();
            let text = bundle
                .and_then(|bundle| text(&bundle, &shared.federation.load()))
                .filter(|text| written.as_ref() != Some(text));
            if let Some(text) = text {
                let (map, bytes) = (self.clone(), text.clone());
                let done = tokio::task::spawn_blocking(move || map.write(bytes.as_bytes())).await;
                match done.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
                    Ok(()) => (written, failed) = (Some(text), None),
                    Err(error) => {
                        let told = error.to_string();
                        // The same again is counted, but told once.
                        match failed.as_ref() == Some(&told) {
                            true => shared.metrics.failure(STAGE),
                            false => shared.problem(STAGE, &self.path.display().to_string(), &told),
                        }
                        failed = Some(told);
                    }
                }
            }
            let again = async {
                match failed {
                    Some(_) => tokio::time::sleep(PLACE_AGAIN_AFTER).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next_bundle(&mut events) => {}
                () = again => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn write(&self, text: &[u8]) -> std::io::Result<()> {
        let dir = self.dir().map_err(std::io::Error::other)?;
        let new = format!(".{}.new", self.name);
        // What a process that was killed left.
        let _ = dir.remove_file(&new);
        let mut file = dir.create_file_beneath(&new, MODE)?;
        let written = file.write_all(text).and_then(|()| file.sync_all());
        let placed = written.and_then(|()| dir.rename(&new, &self.name));
        if placed.is_err() {
            let _ = dir.remove_file(&new);
        }
        placed?;
        dir.fsync()
    }
}

/// Completes when another bundle may be in force.
async fn next_bundle(events: &mut Receiver<AgentEvent>) {
    loop {
        match events.recv().await {
            Ok(AgentEvent::TrustApplied { .. } | AgentEvent::FederationApplied { .. } | AgentEvent::Joined { .. })
            | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            // The agent stops.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn is_map(path: &Path) -> bool {
    let text = text_file::read(path, BUNDLE_MAP_BYTES_MAX).unwrap_or_default();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    value.get(DOMAINS).is_some_and(Value::is_object)
}

fn text(bundle: &Bundle, federation: &Federation) -> Option<String> {
    let foreign = federation.iter().map(|foreign| foreign.document());
    // Envoy refuses the whole file for one trust domain without a key.
    let foreign = foreign.filter(|document| !document.roots().is_empty());
    let all = std::iter::once(bundle.document()).chain(foreign);
    let domains = all.map(|document| Some((document.trust_domain().to_string(), roots_of(document)?)));
    let domains: Map<String, Value> = domains.collect::<Option<_>>()?;
    Some(format!("{}\n", json!({ DOMAINS: domains })))
}

/// Roots alone: Envoy refuses the whole file for one key of another use.
fn roots_of(document: &TrustBundle) -> Option<Value> {
    let (domain, roots) = (document.trust_domain().clone(), document.roots().to_vec());
    let (sequence, hint) = (document.sequence(), document.refresh_hint_seconds());
    let roots = TrustBundle::new(domain, roots, Vec::new(), sequence, hint).ok()?;
    serde_json::from_str(&roots.to_jwks_json()).ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use mintage_proto::v1;

    use super::*;
    use crate::federation::tests::{federation, root, wire};

    fn bundle() -> Bundle {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap();
        Bundle::from_wire(&v1::TrustBundle {
            trust_domain: "dev.test".to_owned(),
            sequence: 7,
            roots: vec![root.der().to_vec()],
            refresh_hint_seconds: 300,
            ..v1::TrustBundle::default()
        })
        .unwrap()
    }

    #[test]
    fn each_trust_domain_has_its_roots_and_nothing_else() {
        let foreign = federation(&[wire("other.test", &[root()], false)]);
        let value: Value = serde_json::from_str(&text(&bundle(), &foreign).unwrap()).unwrap();
        assert_eq!(value["trust_domains"].as_object().unwrap().len(), 2);
        let other = &value["trust_domains"]["other.test"];
        assert!(other["spiffe_sequence"] == 3 && other["keys"][0]["x5c"][0].is_string());
        let domain = &value["trust_domains"]["dev.test"];
        assert_eq!(domain["spiffe_sequence"], 7);
        assert_eq!(domain["spiffe_refresh_hint"], 300);
        let keys = domain["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 1);
        assert!(keys[0]["use"] == "x509-svid" && keys[0]["x5c"][0].is_string());
    }

    #[test]
    fn it_is_replaced_whole_and_nothing_is_left_beside_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run/bundles.json");
        let map = BundleMap::at(&path).unwrap();
        fs::write(path.with_file_name(".bundles.json.new"), "of a process that was killed").unwrap();
        let alone = |bundle: Bundle| text(&bundle, &Federation::default()).unwrap();
        for text in [alone(bundle()), alone(bundle())] {
            map.write(text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(BundleMap::at(&path).is_ok(), "its own file is no stranger's");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        map.write(b"again").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"again", "its folder was made anew");
    }

    #[test]
    fn a_strangers_file_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("bundles.json");
        for strange in ["precious", "{}", "{\"trust_domains\": 1}"] {
            fs::write(&path, strange).unwrap();
            let told = BundleMap::at(&path).err().unwrap().to_string();
            assert!(told.contains("no bundle map"), "{told}");
            assert_eq!(fs::read_to_string(&path).unwrap(), strange);
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nonexistent", &path).unwrap();
        assert!(BundleMap::at(&path).is_err(), "a link to nowhere");
    }
}
