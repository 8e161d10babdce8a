//! Any RPC, called with nothing in it: for tests of who may call what, which look at the status alone.

use std::time::Duration;

use prost::bytes::Buf;
use tokio::time::timeout;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

/// Longest wait for an answer; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);

/// Sends an empty message and ignores what comes.
struct Blank;

impl Codec for Blank {
    type Encode = ();
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Blank {
    type Item = ();
    type Error = Status;
    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Blank {
    type Item = ();
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

/// Calls the RPC at `path` with an empty message and the metadata of `request`; `Ok` once the server has begun to answer.
///
/// # Errors
/// The server's status, or `Unavailable` where the channel is gone.
///
/// # Panics
/// When no answer comes, or `path` is none.
pub async fn call(channel: &Channel, path: &str, request: Request<()>) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(path.to_owned()).expect("a path");
    let answer = timeout(SOON, grpc.server_streaming(request, path, Blank)).await;
    answer.expect("an answer in time").map(|_| ())
}
