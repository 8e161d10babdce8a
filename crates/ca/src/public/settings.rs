//! The public files as the configuration has them: where they are served.

use std::net::SocketAddr;

use serde::Deserialize;
use toml::Spanned;

/// The `[public]` of the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPublic {
    pub(crate) https: Option<Spanned<String>>,
    pub(crate) http: Option<Spanned<String>>,
}

/// Listeners for everybody; none unless it is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PublicSettings {
    /// With the CA's own certificate.
    pub(crate) https: Option<SocketAddr>,
    /// In clear: what is served is signed.
    pub(crate) http: Option<SocketAddr>,
}
