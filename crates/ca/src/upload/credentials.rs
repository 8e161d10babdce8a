//! An access key in a file, read again for every request: a key that is rotated is used from the next one on.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use mintage_sys::secret_file;
use object_store::{aws::AwsCredential, client::CredentialProvider};

use crate::limits::UPLOAD_CREDENTIALS_BYTES_MAX;

/// The form that is read, for those who have to write it.
const FORM: &str = "write `aws_access_key_id = ...` and `aws_secret_access_key = ...`, one a line, and \
                    `aws_session_token = ...` where there is one";

/// The file.
#[derive(Debug)]
pub(super) struct KeyFile(pub(super) PathBuf);

impl KeyFile {
    /// Reads it; under the rules of every secret file.
    ///
    /// # Errors
    /// What is wrong with it, never with what it holds.
    pub(super) fn read(&self) -> Result<AwsCredential, String> {
        let secret = secret_file::read(&self.0, UPLOAD_CREDENTIALS_BYTES_MAX).map_err(|error| error.to_string())?;
        let refuse = |problem: String| format!("{}: {problem}; {FORM}", self.0.display());
        let text = std::str::from_utf8(&secret).map_err(|_| refuse("is no text".to_owned()))?;
        let (mut id, mut key, mut token) = (None, None, None);
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            // One profile: with a second one nobody could tell which is meant.
            if line.starts_with('[') && id.is_none() && key.is_none() {
                continue;
            }
            let known = line.split_once('=').and_then(|(name, value)| {
                let place = match name.trim() {
                    "aws_access_key_id" => &mut id,
                    "aws_secret_access_key" => &mut key,
                    "aws_session_token" => &mut token,
                    _ => return None,
                };
                place.is_none().then(|| *place = Some(value.trim().to_owned()))
            });
            known.ok_or_else(|| refuse(format!("line {} is none that belongs there, or is there twice", at + 1)))?;
        }
        let plain = |value: &String| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
        match (id.filter(plain), key.filter(plain)) {
            (Some(key_id), Some(secret_key)) => Ok(AwsCredential {
                key_id,
                secret_key,
                token: token.filter(plain),
            }),
            _ => Err(refuse("holds no access key".to_owned())),
        }
    }
}

#[async_trait]
impl CredentialProvider for KeyFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.read()
            .map(Arc::new)
            .map_err(|problem| object_store::Error::Generic {
                store: "S3",
                source: problem.into(),
            })
    }
}
