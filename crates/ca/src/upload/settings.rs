//! `[ledger.upload]` as the configuration has it: which store, and how it is reached and trusted.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::limits::UPLOAD_PREFIX_BYTES_MAX;

/// What a program answers that was built without the feature.
const UNSUPPORTED: &str = "[ledger.upload]: this program was built without upload; build it with `cargo build --features \
                           upload`, or leave the table out";

/// `[ledger.upload]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawUpload {
    pub(crate) url: Spanned<String>,
    region: Option<Spanned<String>>,
    endpoint: Option<Spanned<String>>,
    ca_file: Option<Spanned<PathBuf>>,
    credentials_file: Option<Spanned<PathBuf>>,
}

/// Where sealed segments go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UploadSettings {
    /// A folder that exists, perhaps of another machine.
    Folder(PathBuf),
    /// A bucket of S3, or of a store that speaks its protocol.
    Bucket(Bucket),
}

/// A bucket, and who speaks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    /// The part of each object's name before the ledger's own; empty for none.
    pub(crate) prefix: String,
    pub(crate) region: String,
    /// Where the store is, when that does not follow from the region.
    pub(crate) endpoint: Option<String>,
    /// PEM certificates of those who may speak for the store; none for plain HTTP on this machine.
    pub(crate) ca_file: Option<PathBuf>,
    /// An access key; without it the credentials of the instance are asked for.
    pub(crate) credentials_file: Option<PathBuf>,
}

/// What is wrong, and where in the file.
pub(crate) type Problem = (std::ops::Range<usize>, String);

impl RawUpload {
    /// Checks the table.
    ///
    /// # Errors
    /// The first thing that is wrong; every table in a program without the feature `upload`.
    pub(crate) fn check(self) -> Result<UploadSettings, Problem> {
        let at = self.url.span();
        let settings = match self.url.get_ref().split_once("://") {
            Some(("file", path)) => self.folder(path),
            Some(("s3", place)) => self.bucket(place),
            _ => Err((
                at.clone(),
                format!(
                    "ledger.upload.url: {:?} is neither s3://bucket/prefix nor file:///folder",
                    self.url.get_ref()
                ),
            )),
        }?;
        match cfg!(feature = "upload") {
            true => Ok(settings),
            false => Err((at, UNSUPPORTED.to_owned())),
        }
    }

    fn folder(&self, path: &str) -> Result<UploadSettings, Problem> {
        let more = [
            self.region.as_ref().map(|value| (value.span(), "region")),
            self.endpoint.as_ref().map(|value| (value.span(), "endpoint")),
            self.ca_file.as_ref().map(|value| (value.span(), "ca_file")),
            self.credentials_file
                .as_ref()
                .map(|value| (value.span(), "credentials_file")),
        ];
        if let Some((span, key)) = more.into_iter().flatten().next() {
            return Err((span, format!("ledger.upload.{key}: a folder has none; leave it out")));
        }
        match path.starts_with('/') {
            true => Ok(UploadSettings::Folder(PathBuf::from(path))),
            false => Err((
                self.url.span(),
                format!("ledger.upload.url: {path:?} does not begin with /; write file:///folder"),
            )),
        }
    }

    fn bucket(&self, place: &str) -> Result<UploadSettings, Problem> {
        let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
        let refuse = |problem: &str| Err((self.url.span(), format!("ledger.upload.url: {problem}")));
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if !(3..=63).contains(&name.len()) || !name.chars().all(label) {
            return refuse(&format!("{name:?} is no bucket's name; it has 3 to 63 of [a-z0-9.-]"));
        }
        let prefix = prefix.trim_end_matches('/');
        let plain = |part: &str| {
            let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !part.starts_with('.') && part.chars().all(letter)
        };
        if prefix.len() > UPLOAD_PREFIX_BYTES_MAX || !(prefix.is_empty() || prefix.split('/').all(plain)) {
            return refuse(&format!(
                "the prefix {prefix:?} has other parts than [A-Za-z0-9._-], or more than {UPLOAD_PREFIX_BYTES_MAX} bytes"
            ));
        }
        let Some(region) = &self.region else {
            return refuse("a bucket needs its region beside it, such as region = \"eu-central-1\"");
        };
        if region.get_ref().is_empty() || !region.get_ref().chars().all(label) {
            let told = format!("ledger.upload.region: {:?} is no region's name", region.get_ref());
            return Err((region.span(), told));
        }
        let is_local = match &self.endpoint {
            Some(endpoint) => is_local_http(endpoint.get_ref()).map_err(|problem| (endpoint.span(), problem))?,
            None => false,
        };
        if self.ca_file.is_none() && !is_local {
            return refuse(
                "an https endpoint needs ca_file beside it: the PEM certificates that may speak for the store, such as \
                 /etc/ssl/certs/ca-certificates.crt",
            );
        }
        Ok(UploadSettings::Bucket(Bucket {
            name: name.to_owned(),
            prefix: prefix.to_owned(),
            region: region.get_ref().clone(),
            endpoint: self.endpoint.as_ref().map(|endpoint| endpoint.get_ref().clone()),
            ca_file: self.ca_file.as_ref().map(|file| file.get_ref().clone()),
            credentials_file: self.credentials_file.as_ref().map(|file| file.get_ref().clone()),
        }))
    }
}

/// True for plain HTTP on this machine, false for HTTPS anywhere.
fn is_local_http(text: &str) -> Result<bool, String> {
    let refuse = |problem: &str| format!("ledger.upload.endpoint: {text:?} {problem}; write https://s3.example.org");
    let url: http::Uri = text.parse().map_err(|_| refuse("is no URL"))?;
    let host = url
        .host()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| refuse("names no host"))?;
    let has_more = url.query().is_some() || !matches!(url.path(), "" | "/");
    if has_more
        || url
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(refuse("has more than a host and a port"));
    }
    match url.scheme_str() {
        Some("https") => Ok(false),
        Some("http") if matches!(host, "127.0.0.1" | "[::1]" | "localhost") => Ok(true),
        Some("http") => Err(refuse(
            "is plain HTTP to another machine, which would read every record",
        )),
        _ => Err(refuse("does not begin with https://")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    const S3: &str = "url = \"s3://b-1/p\"\nregion = \"eu-1\"\nca_file = \"/ca.pem\"\n";

    fn parsed(table: &str) -> Result<Config, String> {
        let text = format!("data_dir = \"/x\"\n[ledger.upload]\n{table}");
        Config::parse(Path::new("ca.toml"), &text).map_err(|error| error.to_string())
    }

    #[cfg(not(feature = "upload"))]
    #[test]
    fn a_program_without_the_feature_refuses_the_table_and_names_the_feature() {
        for table in [S3, "url = \"file:///mnt/copy\"\n"] {
            let told = parsed(table).unwrap_err();
            assert!(
                told.contains("ca.toml:3") && told.contains("--features upload"),
                "{told}"
            );
        }
    }

    #[cfg(feature = "upload")]
    #[test]
    fn stores_are_read() {
        use super::UploadSettings;

        let folder = parsed("url = \"file:///mnt/copy\"\n").unwrap();
        assert_eq!(folder.upload, Some(UploadSettings::Folder("/mnt/copy".into())));
        let one = parsed(S3).unwrap();
        let Some(UploadSettings::Bucket(bucket)) = &one.upload else {
            panic!("{:?}", one.upload)
        };
        assert_eq!((bucket.name.as_str(), bucket.prefix.as_str()), ("b-1", "p"));
        let local = "url = \"s3://b-1\"\nregion = \"x\"\nendpoint = \"http://127.0.0.1:9000\"\n";
        let local = parsed(local).unwrap();
        assert_eq!(one.differences_that_need_a_restart(&local), ["ledger.upload"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let with = |line: &str| format!("{S3}{line}\n");
        for (table, line, word) in [
            ("url = \"/mnt/copy\"\n".to_owned(), 3, "s3://"),
            ("url = \"https://b.example\"\n".to_owned(), 3, "s3://"),
            ("url = \"file://mnt/copy\"\n".to_owned(), 3, "file:///"),
            ("url = \"file:///c\"\nregion = \"x\"\n".to_owned(), 4, "leave it out"),
            ("region = \"x\"\n".to_owned(), 2, "url"),
            ("url = \"s3://b-1/p\"\n".to_owned(), 3, "region"),
            ("url = \"s3://b-1\"\nregion = \"x\"\n".to_owned(), 3, "ca_file"),
            (S3.replace("b-1", "B_1"), 3, "bucket"),
            (S3.replace("/p", "/../p"), 3, "prefix"),
            (S3.replace("/p", "//p"), 3, "prefix"),
            (S3.replace("eu-1", "eu 1"), 4, "region"),
            (with("endpoint = \"http://s3.example\""), 6, "every record"),
            (with("endpoint = \"ftp://s3.example\""), 6, "https://"),
            (with("endpoint = \"https://a@s3.example\""), 6, "more than"),
            (with("endpoint = \"https://s3.example/x\""), 6, "more than"),
            (with("secret_access_key = \"x\""), 6, "unknown"),
        ] {
            let told = parsed(&table).unwrap_err();
            assert!(
                told.contains(&format!("ca.toml:{line}")) && told.contains(word),
                "{table:?} -> {told}"
            );
        }
    }
}
