//! The store: objects that are made once and never again, and the few small ones that may be replaced by newer ones.

use std::{collections::HashMap, fs::File, io::Read, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use mintage_ledger::ArchiveFile;
use object_store::{
    BackoffConfig, Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig, UpdateVersion,
    aws::{AmazonS3Builder, Checksum, S3ConditionalPut, S3CopyIfNotExists},
    local::LocalFileSystem,
    path::Path,
};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::{
    connector::Connector,
    credentials::KeyFile,
    settings::{Bucket, UploadSettings},
};
use crate::limits::{
    UPLOAD_BYTES_PER_SECOND_MIN, UPLOAD_LISTED_MAX, UPLOAD_PART_BYTES, UPLOAD_REQUEST_RETRIES, UPLOAD_REQUEST_TIMEOUT,
    UPLOAD_WHOLE_BYTES_MAX,
};

/// The ending of an object that is being put in parts.
const PART: &str = ".part";

/// Why an object is not in the store as it should be.
#[derive(Debug)]
pub(super) enum Failed {
    /// It may pass: no answer, no room, no permission yet.
    Later(String),
    /// The store holds something else under this name. It is never overwritten.
    Conflict(String),
}

/// How an object that may be replaced stands in the store.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) bytes: Vec<u8>,
    version: UpdateVersion,
}

/// An open store.
#[derive(Debug)]
pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: String,
    /// It replaces an object only if it is still the one that was read; a folder cannot, and has one writer.
    swaps: bool,
    /// How long it may take to answer something small.
    pub(super) patience: Duration,
}

impl Store {
    /// Opens it. Nothing is asked of a bucket yet.
    ///
    /// # Errors
    /// A folder that is not there, and what the library refuses.
    pub(super) fn open(settings: &UploadSettings, tls: Option<Arc<ClientConfig>>) -> Result<Self, String> {
        match settings {
            UploadSettings::Folder(folder) => {
                let objects = LocalFileSystem::new_with_prefix(folder)
                    .map_err(|error| format!("{}: {error}; the folder must exist", folder.display()))?;
                Ok(Self {
                    objects: Arc::new(objects.with_fsync(true)),
                    prefix: String::new(),
                    swaps: false,
                    patience: UPLOAD_REQUEST_TIMEOUT,
                })
            }
            UploadSettings::Bucket(bucket) => Ok(Self {
                objects: Arc::new(s3(bucket, tls).map_err(|error| error.to_string())?),
                prefix: match bucket.prefix.as_str() {
                    "" => String::new(),
                    prefix => format!("{prefix}/"),
                },
                swaps: true,
                patience: UPLOAD_REQUEST_TIMEOUT,
            }),
        }
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.prefix))
    }

    /// Waits no longer than a slow but usable store needs for so many bytes.
    async fn within<T>(&self, bytes: u64, work: impl Future<Output = T>) -> Result<T, Failed> {
        let most = self.patience + Duration::from_secs(bytes / UPLOAD_BYTES_PER_SECOND_MIN);
        timeout(most, work)
            .await
            .map_err(|_| Failed::Later(format!("no answer within {most:?}")))
    }

    /// Names and lengths of the objects below a folder. What an earlier process left half made in it is removed.
    pub(super) async fn list(&self, folder: &str) -> Result<HashMap<String, u64>, Failed> {
        let below = self.path(folder);
        let mut found = HashMap::new();
        let mut left = Vec::new();
        let mut listed = self.objects.list(Some(&below));
        while let Some(object) = self.within(0, listed.try_next()).await?.map_err(later)? {
            if found.len() >= UPLOAD_LISTED_MAX {
                return Err(Failed::Later(format!(
                    "{below} holds more than {UPLOAD_LISTED_MAX} objects"
                )));
            }
            let name = object.location.as_ref();
            if name.ends_with(PART) {
                left.push(object.location.clone());
            }
            if let Some(name) = name.strip_prefix(&self.prefix) {
                found.insert(name.to_owned(), object.size);
            }
        }
        for path in left {
            // A store that forbids it keeps it: nothing reads it.
            if let Ok(Err(error)) = self.within(0, self.objects.delete(&path)).await {
                tracing::debug!(%path, %error, "a part was not removed");
            }
        }
        Ok(found)
    }

    /// Puts an object that was never there, or finds the very same one. `unique` names what is half made.
    pub(super) async fn put_new(&self, file: &ArchiveFile, unique: u64) -> Result<(), Failed> {
        let put = async {
            match file.bytes <= UPLOAD_WHOLE_BYTES_MAX {
                true => self.put_whole(file).await,
                false => self.put_in_parts(file, unique).await,
            }
        };
        match self.within(file.bytes, put).await? {
            Ok(()) => Ok(()),
            Err(Error::AlreadyExists { .. }) => self.compare(file).await,
            Err(error) => Err(later(error)),
        }
    }

    async fn put_whole(&self, file: &ArchiveFile) -> object_store::Result<()> {
        let bytes = std::fs::read(&file.path).map_err(|error| local(file, &error))?;
        let create = PutOptions::from(PutMode::Create);
        let payload = PutPayload::from(bytes);
        self.objects
            .put_opts(&self.path(&file.name), payload, create)
            .await
            .map(drop)
    }

    /// In parts under another name, and then under its own at once: a name that exists is whole.
    async fn put_in_parts(&self, file: &ArchiveFile, unique: u64) -> object_store::Result<()> {
        let half = self.path(&format!("{}.{unique:016x}{PART}", file.name));
        let mut upload = self.objects.put_multipart(&half).await?;
        let whole = async {
            let mut from = File::open(&file.path).map_err(|error| local(file, &error))?;
            loop {
                let mut part = Vec::new();
                let read = (&mut from).take(UPLOAD_PART_BYTES).read_to_end(&mut part);
                read.map_err(|error| local(file, &error))?;
                if part.is_empty() {
                    break;
                }
                upload.put_part(PutPayload::from(part)).await?;
            }
            upload.complete().await
        };
        if let Err(error) = whole.await {
            let _ = upload.abort().await;
            return Err(error);
        }
        let named = self.objects.copy_if_not_exists(&half, &self.path(&file.name)).await;
        if let Err(error) = self.objects.delete(&half).await {
            tracing::debug!(path = %half, %error, "a part was not removed");
        }
        named
    }

    /// Reads an object back and compares every octet.
    pub(super) async fn compare(&self, file: &ArchiveFile) -> Result<(), Failed> {
        self.within(file.bytes, self.compared(file)).await?
    }

    async fn compared(&self, file: &ArchiveFile) -> Result<(), Failed> {
        let conflict = |problem: &str| Failed::Conflict(format!("{}: {problem}", file.name));
        let object = self.objects.get(&self.path(&file.name)).await.map_err(later)?;
        if object.meta.size != file.bytes {
            return Err(conflict("it has another length"));
        }
        let ours = |error| later(local(file, &error));
        let mut from = File::open(&file.path).map_err(ours)?;
        let (mut chunks, mut expected, mut read) = (object.into_stream(), Vec::new(), 0);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(later)?;
            read += chunk.len() as u64;
            if read > file.bytes {
                return Err(conflict("it has another length"));
            }
            expected.resize(chunk.len(), 0);
            from.read_exact(&mut expected).map_err(ours)?;
            if chunk != expected {
                return Err(conflict("it has other contents"));
            }
        }
        match read == file.bytes {
            true => Ok(()),
            false => Err(Failed::Later(format!("{}: the answer ended early", file.name))),
        }
    }

    /// An object of at most `most` bytes; `None` when there is none.
    pub(super) async fn read(&self, name: &str, most: usize) -> Result<Option<Found>, Failed> {
        let reading = async {
            let object = match self.objects.get(&self.path(name)).await {
                Ok(object) => object,
                Err(Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(later(error)),
            };
            let conflict = || Failed::Conflict(format!("{name}: it has more than {most} bytes"));
            let version = UpdateVersion {
                e_tag: object.meta.e_tag.clone(),
                version: object.meta.version.clone(),
            };
            let (mut chunks, mut bytes) = (object.into_stream(), Vec::new());
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(later)?;
                if bytes.len() + chunk.len() > most {
                    return Err(conflict());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(Some(Found { bytes, version }))
        };
        self.within(most as u64, reading).await?
    }

    /// Puts a small object in the place of the one that was read, if it is still that one, or of none.
    pub(super) async fn replace(&self, name: &str, bytes: Vec<u8>, found: Option<Found>) -> Result<(), Failed> {
        let mode = match found {
            None => PutMode::Create,
            Some(found) if self.swaps => PutMode::Update(found.version),
            Some(_) => PutMode::Overwrite,
        };
        let length = bytes.len() as u64;
        let path = self.path(name);
        let put = self
            .objects
            .put_opts(&path, PutPayload::from(bytes), PutOptions::from(mode));
        match self.within(length, put).await? {
            Ok(_) => Ok(()),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                Err(Failed::Later(format!("{name} was changed by somebody else meanwhile")))
            }
            Err(error) => Err(later(error)),
        }
    }
}

fn s3(bucket: &Bucket, tls: Option<Arc<ClientConfig>>) -> object_store::Result<object_store::aws::AmazonS3> {
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: UPLOAD_REQUEST_RETRIES,
        retry_timeout: UPLOAD_REQUEST_TIMEOUT,
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&bucket.name)
        .with_region(&bucket.region)
        .with_http_connector(Connector::new(tls))
        .with_retry(retry)
        .with_checksum_algorithm(Checksum::SHA256)
        .with_disable_bulk_delete(true)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart);
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder
            .with_endpoint(endpoint)
            .with_allow_http(endpoint.starts_with("http://"));
    }
    if let Some(file) = &bucket.credentials_file {
        builder = builder.with_credentials(Arc::new(KeyFile(file.clone())));
    }
    builder.build()
}

fn later(error: Error) -> Failed {
    Failed::Later(error.to_string())
}

fn local(file: &ArchiveFile, error: &std::io::Error) -> Error {
    Error::Generic {
        store: "ledger",
        source: format!("{}: {error}", file.path.display()).into(),
    }
}
