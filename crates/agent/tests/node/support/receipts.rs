//! The ledger of the test CA: every record is the only one of its log, which makes proofs short.

use base64::{Engine, engine::general_purpose::STANDARD};
use mintage_proto::v1;
use ring::digest::{Context, SHA256};

const ORIGIN: &str = "dev.test/mintage/test/2026-11";

fn record(leaf: &[u8]) -> Vec<u8> {
    [b"record of ", leaf].concat()
}

fn leaf_hash(leaf: &[u8]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    context.update(&[0]);
    context.update(&record(leaf));
    context.finish().as_ref().to_vec()
}

/// Where the record of this certificate stands.
pub fn of(leaf: &[u8]) -> v1::Receipt {
    v1::Receipt {
        origin: ORIGIN.to_owned(),
        index: 0,
        leaf_hash: leaf_hash(leaf),
    }
}

/// The proof of it.
pub fn proof(leaf: &[u8]) -> Vec<u8> {
    let text = format!(
        "c2sp.org/tlog-proof@v1\nextra {}\nindex 0\n\n{ORIGIN}\n1\n{}\n\n\u{2014} {ORIGIN} AAAA\n",
        STANDARD.encode(record(leaf)),
        STANDARD.encode(leaf_hash(leaf)),
    );
    text.into_bytes()
}
