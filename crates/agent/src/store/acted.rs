//! What the servers of a delivery were told of last, so that a start of the agent is no change for them.

use base64::{Engine, engine::general_purpose::STANDARD};
use mintage_sys::{SysError, secret_file};
use serde::{Deserialize, Serialize};

use super::{PEM_BYTES_MAX, Store, VERSION, check_version, json, named, read};
use crate::{
    Delivery,
    hook::{Content, Served},
};

#[derive(Serialize, Deserialize)]
struct ActedFile {
    version: u32,
    content_sha256: String,
    lists_sha256: String,
    /// DER in Base64, leaf first.
    chain: Vec<String>,
}

pub(super) fn file(delivery: &Delivery) -> String {
    named(delivery, "acted")
}

impl Store {
    /// What the servers of a delivery read when their hooks last succeeded. A file that cannot be read costs one more run of
    /// the hooks.
    pub(crate) fn served(&self, delivery: &Delivery) -> Option<Served> {
        let name = file(delivery);
        let read = || -> Result<Option<Served>, String> {
            let bytes = read(&self.deliveries, &name, PEM_BYTES_MAX).map_err(|error| error.to_string())?;
            let Some(bytes) = bytes else { return Ok(None) };
            let file: ActedFile = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
            check_version(file.version)?;
            let content = Content {
                all: octets("content_sha256", &file.content_sha256)?,
                lists: octets("lists_sha256", &file.lists_sha256)?,
            };
            let chain: Result<Vec<_>, _> = file.chain.iter().map(|text| STANDARD.decode(text)).collect();
            Served::kept(chain.map_err(|error| error.to_string())?, content).map(Some)
        };
        read().unwrap_or_else(|problem| {
            tracing::warn!(
                file = name,
                problem,
                "what servers were told of last cannot be read; they are told again"
            );
            None
        })
    }

    /// Keeps what the servers of a delivery were told of.
    pub(crate) fn save_served(&self, delivery: &Delivery, served: &Served) -> Result<(), SysError> {
        let of = ActedFile {
            version: VERSION,
            content_sha256: hex::encode(served.content.all),
            lists_sha256: hex::encode(served.content.lists),
            chain: served.chain.iter().map(|der| STANDARD.encode(der)).collect(),
        };
        secret_file::replace(&self.deliveries, &file(delivery), &json(&of))
    }
}

fn octets(field: &str, text: &str) -> Result<[u8; 32], String> {
    let octets = hex::decode(text).map_err(|error| format!("{field}: {error}"))?;
    octets.try_into().map_err(|_| format!("{field}: has not 32 octets"))
}
