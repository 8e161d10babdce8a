//! Lists of revoked certificates as the test CA sends them: chunk by chunk, as a test wants.

use std::sync::{Arc, Mutex};

use mintage_proto::v1::{CrlChunk, WatchCrlsRequest, crls_server::Crls};
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::pki::Pki;

/// Longest piece of a list in one message: what an agent takes.
const PIECE_BYTES_MAX: usize = 1024 * 1024;

/// One stream's end at the CA.
pub type Chunks = mpsc::Sender<Result<CrlChunk, Status>>;

/// The streams that agents have opened.
#[derive(Clone)]
pub struct Lists {
    opened: Arc<Mutex<Vec<Chunks>>>,
    waiting: Arc<Semaphore>,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            opened: Arc::default(),
            waiting: Arc::new(Semaphore::new(0)),
        }
    }
}

impl Lists {
    /// The next stream that an agent opens; dropping it ends it.
    pub async fn stream(&self) -> Chunks {
        self.waiting.acquire().await.unwrap().forget();
        self.opened.lock().unwrap().remove(0)
    }
}

#[tonic::async_trait]
impl Crls for Lists {
    type WatchStream = ReceiverStream<Result<CrlChunk, Status>>;

    async fn watch(&self, _: Request<WatchCrlsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, stream) = mpsc::channel(64);
        self.opened.lock().unwrap().push(sender);
        self.waiting.add_permits(1);
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A list of the issuing key with this number and so many entries, in three chunks, or more where it is long.
pub fn chunks(pki: &Pki, number: u64, entries: u64) -> Vec<CrlChunk> {
    // As long as the CA's.
    let serial = |serial: u64| [(1_u64 << 62).to_be_bytes(), serial.to_be_bytes()].concat();
    let revoked = |entry: u64| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&serial(entry)),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None::<RevocationReason>,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2126, 1, 1),
        crl_number: number.into(),
        issuing_distribution_point: None,
        revoked_certs: (0..entries).map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let der = pki.sign_list(params);
    let size = der.len().div_ceil(3).min(PIECE_BYTES_MAX);
    let last = der.len().div_ceil(size) - 1;
    let chunk = |(at, data): (usize, &[u8])| CrlChunk {
        issuer_key_id: pki.issuer_id.as_bytes().to_vec(),
        number,
        offset: (at * size) as u64,
        total: der.len() as u64,
        data: data.to_vec(),
        is_last: at == last,
    };
    der.chunks(size).enumerate().map(chunk).collect()
}
