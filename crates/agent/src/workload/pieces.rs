//! Messages that many streams send, as pieces of shared memory: encoded once for all of them, and never copied into a
//! buffer of each stream's own.
//!
//! The generated services encode what a stream yields, once for each stream. A handler therefore answers with an empty
//! stream and puts what it really sends beside it; [`InsteadLayer`] makes that the body.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    vec,
};

use bytes::{BufMut, Bytes};
use http::{HeaderMap, Request, Response};
use hyper::body::Frame;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use tokio::sync::mpsc;
use tokio_stream::Empty;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use zeroize::Zeroizing;

/// Bytes of what stands before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A message's octets in their order, without its prefix.
#[derive(Clone, Default)]
pub(super) struct Pieces(Vec<Bytes>);

impl Pieces {
    /// One message, which may hold a key: the octets are wiped when the last stream lets go of them.
    pub(super) fn of(message: &impl Message) -> Self {
        let mut octets = Zeroizing::new(Vec::with_capacity(message.encoded_len()));
        // A vector has room for whatever is put.
        let _ = message.encode(&mut *octets);
        Self(vec![Bytes::from_owner(octets)])
    }

    /// More of the same message: fields may stand in any order (Protocol Buffers, "Encoding").
    pub(super) fn and(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self
    }

    /// These pieces as the field `tag` of an outer message.
    pub(super) fn within(self, tag: u32) -> Self {
        let mut head = Vec::new();
        encode_key(tag, WireType::LengthDelimited, &mut head);
        encode_varint(self.len() as u64, &mut head);
        Self(vec![Bytes::from(head)]).and(self)
    }

    fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// As gRPC sends it.
    pub(super) fn framed(self) -> Framed {
        let mut prefix = Vec::with_capacity(PREFIX_BYTES);
        prefix.put_u8(0);
        prefix.put_u32(u32::try_from(self.len()).unwrap_or(u32::MAX));
        Framed(Self(vec![Bytes::from(prefix)]).and(self))
    }
}

impl From<Bytes> for Pieces {
    fn from(octets: Bytes) -> Self {
        Self(vec![octets])
    }
}

/// A message with its prefix.
#[derive(Clone)]
pub(super) struct Framed(Pieces);

type Messages = mpsc::Receiver<Result<Framed, Status>>;

/// What is sent instead of an empty stream.
#[derive(Clone)]
struct Instead(Arc<Mutex<Option<Messages>>>);

/// The response whose body these messages are, with a status at the end.
pub(super) fn response<T>(messages: Messages) -> tonic::Response<Empty<Result<T, Status>>> {
    let mut response = tonic::Response::new(tokio_stream::empty());
    let instead = Instead(Arc::new(Mutex::new(Some(messages))));
    response.extensions_mut().insert(instead);
    response
}

/// A body of such messages.
struct Messaging {
    messages: Messages,
    pieces: vec::IntoIter<Bytes>,
    over: bool,
}

impl Messaging {
    fn end(&mut self, status: &Status) -> Result<Frame<Bytes>, Status> {
        self.over = true;
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }
}

impl hyper::body::Body for Messaging {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        loop {
            if let Some(piece) = self.pieces.next() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let end = match std::task::ready!(self.messages.poll_recv(cx)) {
                Some(Ok(Framed(message))) => {
                    self.pieces = message.0.into_iter();
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            return Poll::Ready(Some(self.end(&end)));
        }
    }
}

/// Puts an [`InsteadService`] around a service.
#[derive(Clone)]
pub(super) struct InsteadLayer;

/// Sends what a handler put beside its empty stream.
#[derive(Clone)]
pub(super) struct InsteadService<S>(S);

impl<S> Layer<S> for InsteadLayer {
    type Service = InsteadService<S>;
    fn layer(&self, inner: S) -> InsteadService<S> {
        InsteadService(inner)
    }
}

impl<S> Service<Request<Body>> for InsteadService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answered = self.0.call(request);
        Box::pin(async move {
            let mut response = answered.await?;
            let instead = response.extensions_mut().remove::<Instead>();
            let messages = instead.and_then(|instead| instead.0.lock().unwrap_or_else(PoisonError::into_inner).take());
            if let Some(messages) = messages {
                *response.body_mut() = Body::new(Messaging {
                    messages,
                    pieces: Vec::new().into_iter(),
                    over: false,
                });
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
impl Pieces {
    /// All octets as one.
    pub(super) fn joined(&self) -> Vec<u8> {
        self.0.concat()
    }

    /// Where each piece lies in memory.
    pub(super) fn places(&self) -> Vec<*const u8> {
        self.0.iter().map(|piece| piece.as_ptr()).collect()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use mintage_proto::workload::{X509svid, X509svidResponse};
    use tonic::Code;

    use super::*;

    fn svid(id: &str) -> X509svid {
        X509svid {
            spiffe_id: id.to_owned(),
            x509_svid_key: vec![7; 300],
            ..X509svid::default()
        }
    }

    #[test]
    fn pieces_make_the_message_that_they_are_parts_of() {
        let whole = X509svidResponse {
            svids: vec![svid("a"), svid("b")],
            crl: vec![vec![1; 5_000], vec![2; 3]],
            ..X509svidResponse::default()
        };
        let crl = X509svidResponse {
            crl: whole.crl.clone(),
            ..X509svidResponse::default()
        };
        let shared = Pieces::of(&crl);
        let one = Pieces::of(&svid("a"))
            .within(1)
            .and(Pieces::of(&svid("b")).within(1))
            .and(shared.clone());
        assert_eq!(X509svidResponse::decode(&one.joined()[..]).unwrap(), whole);
        assert_eq!(one.places().last(), shared.places().last(), "the same memory");
        let framed = one.clone().framed().0.joined();
        assert_eq!(
            framed[..PREFIX_BYTES],
            [&[0][..], &(one.len() as u32).to_be_bytes()].concat()
        );
        assert_eq!(framed[PREFIX_BYTES..], one.joined());
    }

    #[tokio::test]
    async fn a_body_is_every_message_and_the_status_at_its_end() {
        for end in [None, Some(Status::permission_denied("why"))] {
            let (sender, messages) = mpsc::channel(4);
            let message = Pieces::of(&svid("a"));
            for _ in 0..2 {
                sender.try_send(Ok(message.clone().framed())).unwrap();
            }
            let wanted = end.as_ref().map_or(Code::Ok, Status::code);
            if let Some(status) = end {
                sender.try_send(Err(status)).unwrap();
            }
            drop(sender);
            let pieces = Vec::new().into_iter();
            let body = Messaging {
                messages,
                pieces,
                over: false,
            };
            let all = body.collect().await.unwrap();
            let trailers = all.trailers().unwrap().clone();
            assert_eq!(Status::from_header_map(&trailers).unwrap().code(), wanted);
            assert_eq!(all.to_bytes().len(), 2 * (PREFIX_BYTES + message.len()));
        }
    }
}
