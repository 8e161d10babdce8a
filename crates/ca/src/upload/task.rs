//! When passes are made: when something was sealed or a shard closed, each minute for the newest checkpoint, and again after a
//! growing pause when one failed.

use std::{sync::Arc, time::Duration};

use mintage_sys::text_file;
use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    credentials::KeyFile,
    settings::UploadSettings,
    store::{Failed, Store},
    uploader::{Passed, Uploader},
};
use crate::{
    clock::TlsTime,
    desk::Desk,
    error::CaError,
    init::Deps,
    limits::{
        UPLOAD_CA_FILE_BYTES_MAX, UPLOAD_CHECKPOINT_INTERVAL, UPLOAD_LOOK_INTERVAL, UPLOAD_PAUSE_MAX, UPLOAD_PAUSE_MIN,
    },
};

/// An upload that is about to begin.
#[derive(Debug)]
pub(crate) struct Upload {
    settings: UploadSettings,
    tls: Option<Arc<ClientConfig>>,
}

impl Upload {
    /// Checks what can be checked without the store, which may be away.
    ///
    /// # Errors
    /// Files that the settings name and that cannot be used.
    pub(crate) fn new(settings: UploadSettings, deps: &Deps) -> Result<Self, CaError> {
        let mut tls = None;
        if let UploadSettings::Bucket(bucket) = &settings {
            let file = bucket.ca_file.as_deref();
            let time = TlsTime(deps.clock.clone());
            let config = file.map(|file| tls_of(file, &deps.provider, time)).transpose();
            tls = config.map_err(CaError::Upload)?.map(Arc::new);
            let key = bucket
                .credentials_file
                .clone()
                .map(|file| KeyFile(file).read())
                .transpose();
            key.map_err(CaError::Upload)?;
            Store::open(&settings, tls.clone()).map_err(CaError::Upload)?;
        }
        Ok(Self { settings, tls })
    }

    /// Follows the ledger until told to stop, on a thread and runtime of its own: it hashes and reads whole segments.
    pub(crate) async fn run(self, desk: Arc<Desk>, stop: CancellationToken) {
        let following = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(self.follow(&desk, &stop)),
                Err(problem) => error!(%problem, "nothing is uploaded: there is no thread for it"),
            }
        });
        if following.await.is_err() {
            error!("nothing is uploaded any more: its thread ended with a panic");
        }
    }

    async fn follow(self, desk: &Arc<Desk>, stop: &CancellationToken) {
        let mut uploader = Uploader::new(desk.clone(), desk.uploaded.clone().unwrap_or_default());
        let mut told = String::new();
        let mut pause = UPLOAD_PAUSE_MIN;
        loop {
            let extent = uploader.extent();
            uploader.measure();
            let passed = tokio::select! {
                () = stop.cancelled() => return,
                passed = self.pass(&mut uploader) => passed,
            };
            uploader.measure();
            let problem = tell(desk, passed, &mut told);
            let next = async {
                match problem {
                    true => tokio::time::sleep(jittered(desk, pause)).await,
                    false => news(&uploader, extent).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = next => {}
            }
            pause = match problem {
                true => (pause * 2).min(UPLOAD_PAUSE_MAX),
                false => UPLOAD_PAUSE_MIN,
            };
        }
    }

    async fn pass(&self, uploader: &mut Uploader) -> Result<Passed, Failed> {
        // A folder is opened anew each time: what it is mounted from may have come back.
        uploader.pass(&self.store().map_err(Failed::Later)?).await
    }

    pub(super) fn store(&self) -> Result<Store, String> {
        Store::open(&self.settings, self.tls.clone())
    }
}

/// Tells what a pass came to, once for as long as it stays the same; true when it is to be tried again soon.
fn tell(desk: &Desk, passed: Result<Passed, Failed>, told: &mut String) -> bool {
    let (conflicts, outage) = match passed {
        Ok(passed) => (passed.conflicts, None),
        Err(Failed::Conflict(problem)) => (vec![problem], None),
        Err(Failed::Later(problem)) => (Vec::new(), Some(problem)),
    };
    for _ in &conflicts {
        desk.metrics.alarm("upload-conflict");
        desk.metrics.uploaded("conflict");
    }
    if outage.is_some() {
        desk.metrics.uploaded("failed");
    }
    let now = conflicts.iter().chain(&outage).cloned().collect::<Vec<_>>().join("; ");
    if now != *told {
        match (&outage, conflicts.is_empty()) {
            (_, false) => error!(
                problem = %now,
                "the store holds something else than this ledger; nothing there is overwritten: find out who put it, and \
                 move it away when this ledger is right"
            ),
            (Some(_), _) => warn!(problem = %now, "the upload waits for the store; nothing else does"),
            (None, true) => info!("the upload goes on"),
        }
        *told = now;
    }
    !told.is_empty()
}

/// Returns when there may be something to upload.
async fn news(uploader: &Uploader, extent: (u64, usize)) {
    let sealed = async {
        let mut look = tokio::time::interval(UPLOAD_LOOK_INTERVAL);
        while uploader.extent() == extent {
            look.tick().await;
        }
    };
    // The newest checkpoint goes up even when nothing is sealed.
    let _ = tokio::time::timeout(UPLOAD_CHECKPOINT_INTERVAL, sealed).await;
}

/// Half of a pause to all of it, so that many CAs do not come back to a store together.
fn jittered(desk: &Desk, pause: Duration) -> Duration {
    let part = desk.random::<1>().map_or(u8::MAX, |[part]| part);
    pause / 2 + pause.mul_f64(f64::from(part) / 510.0)
}

fn tls_of(file: &std::path::Path, provider: &Arc<CryptoProvider>, time: TlsTime) -> Result<ClientConfig, String> {
    let refuse = |problem: String| format!("ledger.upload.ca_file: {}: {problem}", file.display());
    let text = text_file::read(file, UPLOAD_CA_FILE_BYTES_MAX).map_err(|problem| refuse(problem.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refuse("holds no certificate; it is PEM".to_owned()));
    }
    let config = ClientConfig::builder_with_details(provider.clone(), Arc::new(time))
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(error.to_string()))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}
