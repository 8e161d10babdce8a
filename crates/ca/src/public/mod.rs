//! The revoked set and the CRLs as files over HTTP, for whoever cannot keep a stream open and for caches between: signed, so
//! that nobody need believe who served them, and in clear where that is configured. FORMAT.md of the revocation crate has
//! the paths.

mod answer;
mod asked;
mod editions;
mod server;
mod settings;

pub(crate) use self::{
    server::{Faces, Listener, start},
    settings::{PublicSettings, RawPublic},
};
